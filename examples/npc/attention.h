// radixattn's part of a layer: norm, q/k/v, rotary embedding, K/V write, attention over the block
// tables and the output product, in one radix_layer_launch.
//
// What a step's layers share (tables, lengths, slots, positions) is planned once a step: one plan
// for the sequences that decode, one for those that read their prompt. The residual stream x is the
// host's between two launches:
//
//   host     MLP(x) |                                     | MLP(x)
//   stream          | upload x, radix_layer, download x   |
//
// On the CPU both sides are the same memory and the copies are nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "cache.h"
#include "device_memory.h"
#include "model_config.h"
#include "radixattn.h"

namespace npc {

// Tokens [begin, end) of a sequence, to be computed in this step.
struct Chunk {
  radix_req req = 0;
  const int32_t* tokens = nullptr;  // of the whole sequence
  uint64_t begin = 0, end = 0;

  uint32_t rows() const { return static_cast<uint32_t>(end - begin); }
};

// The rows of one step. Chunks [0, num_decode) are decoding sequences: the last token of their
// request, one row each; the rest are prefill.
struct StepBatch {
  uint32_t num_decode = 0;
  std::vector<Chunk> chunks;
  std::vector<uint32_t> logit_rows;  // rows whose logits are wanted, any number of times

  uint32_t rows() const {
    uint32_t n = 0;
    for (const Chunk& c : chunks) n += c.rows();
    return n;
  }
};

// How K/V is read.
struct ReadOptions {
  bool batch_invariant = true;  // the same bits in every batch, cached or not
  bool shared = true;           // blocks that several sequences begin with are read once for all
};

// Positions of K/V over all steps, in one layer.
struct Reads {
  uint64_t seen = 0;  // that sequences had in sight, all together
  uint64_t read = 0;  // of these, from memory
};

// What no step passes.
struct StepBounds {
  uint32_t rows = 0;
  uint32_t seqs = 0;
  uint32_t context_len = 0;  // tokens of one sequence
  uint32_t logit_rows = 0;
};

// One layer's weights, in Hugging Face's [out, in] order; empty = the layer has none.
struct AttentionWeights {
  std::vector<float> norm;                 // [hidden]
  std::vector<float> qkv, qkv_bias;        // [q_size + 2 * kv_size, hidden]
  std::vector<float> q_norm, k_norm;       // [head_dim]
  std::vector<float> output, output_bias;  // [hidden, q_size]
};

class Attention {
 public:
  // Everything outlives it: on the CPU the weights are used where they lie.
  Attention(Cache* cache, DeviceMemory* device, const ModelConfig& config,
            const std::vector<const AttentionWeights*>& weights, const StepBounds& bounds,
            const ReadOptions& options);

  // Plans a step; its requests stay as they are until the last layer has run.
  void begin_step(const StepBatch& batch);
  float* x() { return x_.host(); }  // [rows, hidden] the residual stream
  void run(uint32_t layer);         // x += the layer's attention block
  const Reads& reads() const { return reads_; }

 private:
  struct DestroyPlan {
    void operator()(radix_plan* plan) const { radix_plan_destroy(&plan); }
  };
  using Plan = std::unique_ptr<radix_plan, DestroyPlan>;
  // A weight on the device.
  struct Weight {
    const float* data = nullptr;  // null: none
    std::unique_ptr<DeviceArray<float>> own;
  };
  struct LayerWeights {
    Weight norm, qkv, qkv_bias, q_norm, k_norm, output, output_bias;
  };

  Plan make_plan(uint32_t query_tokens) const;
  Weight send(const std::vector<float>& weight, DeviceArray<float>* staging);
  void send_all(const std::vector<const AttentionWeights*>& weights);
  void update(radix_plan* plan, const radix_plan_desc& d);
  void plan_decode(const StepBatch& batch);
  void plan_prefill(const StepBatch& batch);
  radix_rope_append rope(uint32_t layer) const;
  radix_layer describe(uint32_t layer, uint32_t rows) const;
  uint64_t largest_workspace() const;

  Cache* cache_;
  DeviceMemory* device_;
  const ModelConfig& config_;
  StepBounds bounds_;
  ReadOptions options_;
  Reads reads_;
  Plan decode_plan_, prefill_plan_;
  std::vector<LayerWeights> weights_;
  DeviceArray<float> x_;
  DeviceArray<std::byte> workspace_;
  uint32_t rows_ = 0;  // of this step
  bool decodes_ = false, prefills_ = false;
};

}  // namespace npc
