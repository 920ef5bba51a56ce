// Continuous batching over a radixattn context: many sequences advance together, one step at a
// time.
//
// A step: reserve slots for running sequences, admit waiting ones, build one batch (decode rows,
// then chunks of prompts up to a budget), run the model, commit, sample greedily.
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
// Thread rule: one thread. The context's own threads work inside the attention launches.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <vector>

#include "attention.h"
#include "device_memory.h"
#include "model.h"

namespace npc {

struct EngineOptions {
  bool cache = true;
  int32_t device = RADIX_DEV_CPU;  // or RADIX_DEV_CUDA: where K/V lives and attention runs
  uint32_t block_size = 16;
  uint32_t num_blocks = 1024;
  uint32_t max_running = 16;
  uint32_t step_tokens = 512;                    // rows a step computes at most
  uint32_t threads = 1;                          // of attention on the CPU
  int32_t kv_dtype = 2;                          // RADIX_F16
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

  uint32_t submit(std::vector<int32_t> prompt, uint32_t max_new_tokens);
  bool step();                            // false: nothing was left to do
  std::vector<uint32_t> take_finished();  // ids since the last call, in order of finishing
  const Generation& generation(uint32_t id) const { return generations_.at(id); }

  std::string device_name() const { return device_->name(); }
  uint64_t peak_kv_bytes() const {
    return peak_kv_bytes_;
  }  // blocks not free, with what the cache keeps for later
  uint64_t steps() const { return steps_; }
  uint64_t preemptions() const { return preemptions_; }
  radix_stats stats() const;
  void check_cache() const;  // the library's own check of every invariant

 private:
  using Clock = std::chrono::steady_clock;
  struct Sequence {
    Generation* generation = nullptr;
    std::vector<int32_t> tokens;  // prompt and output so far
    uint32_t max_new_tokens = 0;
    Clock::time_point submitted;
    bool begun = false;     // admitted at least once
    radix_req req = 0;      // 0 while waiting
    uint64_t reserved = 0;  // tokens with a slot
    uint64_t computed = 0;  // leading tokens whose K/V is written, or comes from a lender in time
    bool borrows = false;   // some of `computed` is still pending

    bool decoding() const { return computed >= generation->prompt.size(); }
  };
  struct Chunk {
    Sequence* sequence;
    uint32_t num_tokens;
  };

  struct DestroyContext {
    void operator()(radix_ctx* ctx) const { radix_ctx_destroy(&ctx); }
  };

  void make_context();
  StepBounds bounds() const;
  void reserve_running();
  void admit_waiting();
  bool try_admit(Sequence* s);
  radix_status append(const std::vector<Sequence*>& sequences);
  void preempt_last();
  void refresh_borrowers();
  std::vector<Chunk> plan_step();
  void build_batch(const std::vector<Chunk>& chunks);
  void add_rows(const Chunk& chunk, const int32_t* table);
  void commit(const std::vector<Chunk>& chunks);
  void accept_tokens(const std::vector<Chunk>& chunks);
  void accept(Sequence* s, const float* logits);
  void finish(Sequence* s);
  void track_memory();

  Model* model_;
  EngineOptions options_;
  // In this order: the buffers go first and wait for the device, the device goes last.
  std::unique_ptr<DeviceMemory> device_;
  std::unique_ptr<radix_ctx, DestroyContext> ctx_;
  std::unique_ptr<Attention> attention_;
  uint64_t block_bytes_ = 0;
  std::deque<Generation> generations_;  // by id
  std::list<Sequence> sequences_;
  std::deque<Sequence*> waiting_;
  std::vector<Sequence*> running_;  // invariant 1
  std::vector<uint32_t> finished_;
  bool admission_closed_ = false;  // this step had to preempt
  StepBatch batch_;
  std::vector<float> logits_;
  uint64_t kept_logit_bytes_ = 0;
  uint64_t peak_kv_bytes_ = 0;
  uint64_t steps_ = 0;
  uint64_t preemptions_ = 0;
};

}  // namespace npc
