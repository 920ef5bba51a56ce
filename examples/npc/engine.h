// Continuous batching over a radixattn context: many sequences advance together, one step at a
// time.
//
// A step: draft, reserve slots for running sequences, admit waiting ones, build one batch (decode
// rows, then drafts and chunks of prompts up to a budget), run the model, choose tokens, cut off
// drafts that do not stand, commit.
//
// Invariants
//   1. Running sequences stand in order of admission, and prompts are computed in that order. A
//   sequence borrows pending
//      blocks only from earlier ones, so a lender's rows are never in a later step than its
//      borrower's.
//   2. When blocks run out the last admitted sequence gives its own back and waits; the first
//   always finishes or the
//      engine throws because the pool is too small for one sequence.
//   3. With the cache off nothing is matched, published or kept: the baseline to compare with.
//   4. Tokens are those of one sequence alone, without cache and without drafts: with
//   batch-invariant reads on the CPU from the same bits, else but for the rounding of logits.
// Thread rule: one thread. The context's own threads work inside the attention launches.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "attention.h"
#include "beam.h"
#include "cache.h"
#include "device_memory.h"
#include "model.h"
#include "sampler.h"

namespace npc {

struct EngineOptions {
  bool cache = true;
  int32_t device = RADIX_DEV_CPU;  // or RADIX_DEV_CUDA: where K/V lives and attention runs
  uint32_t block_size = 16;
  uint32_t num_blocks = 1024;
  uint32_t max_running = 16;
  uint32_t step_tokens = 512;  // rows a step computes at most
  uint32_t threads = 1;        // of attention on the CPU
  int32_t kv_dtype = 2;        // RADIX_F16
  ReadOptions reads;
  uint32_t draft_tokens = 0;  // guessed by prompt lookup for each sequence and step
  uint32_t draft_ngram = 3;   // tokens that a guess goes by, at most
  bool keep_graph = false;    // what the requests share, as sharing_graph() tells
  uint64_t max_logit_bytes = uint64_t{1} << 29;  // logits kept for comparison, over all sequences
};

// What became of one prompt.
struct Generation {
  uint32_t id = 0;
  bool done = false;
  std::vector<int32_t> prompt;
  std::vector<int32_t> output;  // the ending token included
  std::vector<float> logits;    // [rows kept, vocab]: of the first tokens of `output`
  uint64_t cached_tokens =
      0;  // prompt tokens not computed for this request: cached, or borrowed from another
  uint64_t computed_tokens = 0;  // prompt tokens computed, again after each preemption
  uint32_t preemptions = 0;
  uint64_t drafted_tokens = 0, accepted_drafts = 0;
  double first_token_s = 0;  // from submit to the first token
  double total_s = 0;        // from submit to the last token

  double tokens_per_s() const {
    return total_s > 0 ? static_cast<double>(output.size()) / total_s : 0;
  }
};

class Engine {
 public:
  Engine(Model* model, const EngineOptions& options);  // model outlives the engine
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // n generations of one prompt: it is computed once, then forked. They have the ids from the
  // returned one on, and seeds from params.seed on.
  uint32_t submit(std::vector<int32_t> prompt, uint32_t max_new_tokens,
                  const SamplingParams& params = {}, uint32_t n = 1);
  bool step();                            // false: nothing was left to do
  std::vector<uint32_t> take_finished();  // ids since the last call, in order of finishing
  const Generation& generation(uint32_t id) const { return generations_.at(id); }

  // While nothing else is submitted or running.
  std::vector<Hypothesis> beam_search(const std::vector<int32_t>& prompt,
                                      const BeamOptions& options);

  std::string device_name() const { return device_->name(); }
  uint64_t peak_kv_bytes() const {
    return peak_kv_bytes_;
  }  // blocks not free, with what the cache keeps for later
  uint64_t steps() const { return steps_; }
  const Reads& reads() const { return attention_->reads(); }
  uint64_t preemptions() const { return preemptions_; }
  radix_stats stats() const { return cache_->stats(); }
  void check_cache() const { cache_->check(); }
  // With keep_graph: JSON of the tree after the step with the most requests, of these the one with
  // the most blocks in use, of these the last. Empty before the first step.
  const std::string& sharing_graph() const { return graph_; }

 private:
  using Clock = std::chrono::steady_clock;
  struct Sequence {
    Generation* generation = nullptr;
    SamplingParams params;
    std::vector<int32_t> tokens;  // prompt and output so far, then drafts
    uint32_t num_drafts = 0;
    uint32_t forks = 0;  // siblings that begin when the prompt is computed
    uint32_t max_new_tokens = 0;
    Clock::time_point submitted;
    bool begun = false;     // admitted at least once
    radix_req req = 0;      // 0 while waiting
    uint64_t reserved = 0;  // tokens with a slot
    uint64_t computed = 0;  // leading tokens whose K/V is written, or comes from a lender in time
    bool borrows = false;   // some of `computed` is still pending

    size_t length() const { return tokens.size() - num_drafts; }
    bool decoding() const {
      return length() - computed == 1 && computed >= generation->prompt.size();
    }
  };
  // A sequence's part of a step.
  struct Part {
    Sequence* sequence;
    uint32_t num_tokens;
    uint32_t num_logits;  // rows, the last ones of the part
  };

  void make_cache();
  StepBounds bounds() const;
  void draft();
  void drop_drafts(Sequence* s);
  void reserve_running();
  void admit_waiting();
  bool try_admit(Sequence* s);
  bool append(const std::vector<Sequence*>& sequences);
  void give_back(Sequence* s);
  void preempt_last();
  void refresh_borrowers();
  std::vector<Part> plan_step();
  void build_batch(const std::vector<Part>& parts);
  void choose_tokens(const std::vector<Part>& parts);
  void commit(const std::vector<Part>& parts, bool drafted);
  std::vector<Part> fork_finished_prompts(const std::vector<Part>& parts);
  Sequence* fork(Sequence* parent, uint32_t index);
  void settle(const Part& part, const std::vector<int32_t>& chosen, const float* logits);
  bool accept(Sequence* s, int32_t token, const float* logits);
  void finish(Sequence* s);
  void track_memory();
  void track_graph();

  Model* model_;
  EngineOptions options_;
  // In this order: the buffers go first and wait for the device, the device goes last.
  std::unique_ptr<DeviceMemory> device_;
  std::unique_ptr<Cache> cache_;
  std::unique_ptr<Attention> attention_;
  std::unique_ptr<Sampler> sampler_;
  uint64_t block_bytes_ = 0;
  std::deque<Generation> generations_;  // by id
  std::list<Sequence> sequences_;
  std::deque<Sequence*> waiting_;
  std::vector<Sequence*> running_;  // invariant 1
  std::vector<uint32_t> finished_;
  bool admission_closed_ = false;  // this step had to preempt
  StepBatch batch_;
  uint64_t kept_logit_bytes_ = 0;
  uint64_t peak_kv_bytes_ = 0;
  std::string graph_;
  std::pair<uint64_t, uint64_t> graph_size_;  // its requests, and blocks in use
  uint64_t steps_ = 0;
  uint64_t preemptions_ = 0;
};

}  // namespace npc
