// radixattn's part of a layer: q and k are turned, K/V of every row goes to its slot, and attention
// reads it through the block tables.
//
// The dense layers before and after it run on the host. What passes between the two lies in buffers
// that are allocated once, for the largest step, and travels on one stream:
//
//   host     x W -> qkv |                                                       | out W -> x
//   stream              | upload, rope + K/V write, decode, prefill, download   |
//
// On the CPU both sides are the same memory and the copies are nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "device_memory.h"
#include "model_config.h"
#include "radixattn.h"

namespace npc {

// The rows of one step. Rows [0, num_decode) are decoding sequences, one each; the rest are
// prefill, in the order of the remaining sequences.
struct StepBatch {
  uint32_t num_decode = 0;
  std::vector<int32_t> tokens;     // [rows]
  std::vector<int32_t> positions;  // [rows]
  std::vector<int64_t> slots;      // [rows]
  // By sequence, decoding ones first:
  std::vector<int32_t> tables;  // [seqs, table_stride]
  int64_t table_stride = 0;
  std::vector<int32_t> context_lens;  // [seqs] tokens with K/V after this step
  std::vector<int32_t> cu_q_lens;     // [prefill seqs + 1] from 0, counted after the decode rows
  std::vector<uint32_t> logit_rows;   // rows whose logits are wanted

  uint32_t rows() const { return static_cast<uint32_t>(tokens.size()); }
  uint32_t seqs() const { return static_cast<uint32_t>(context_lens.size()); }
};

// What no step passes.
struct StepBounds {
  uint32_t rows = 0;
  uint32_t seqs = 0;
  uint32_t context_len = 0;  // tokens of one sequence
  uint32_t table_width = 0;  // blocks of one sequence
};

class Attention {
 public:
  // Everything outlives it.
  Attention(radix_ctx* ctx, DeviceMemory* device, const ModelConfig& config,
            const StepBounds& bounds);

  // Sends what the layers of a step share: slots, positions, tables, lengths.
  void begin_step(const StepBatch& batch);

  // A layer: the host fills qkv [rows, q_size + 2 * kv_size], run() returns the heads' output
  // [rows, q_size], which stays until the next run().
  float* qkv() { return qkv_.host(); }
  const float* run(const StepBatch& batch, uint32_t layer);

 private:
  radix_attn describe(uint32_t rows, uint32_t first_row) const;
  uint64_t largest_workspace(const StepBounds& bounds) const;
  void rope_append(const StepBatch& batch, uint32_t layer);
  void attend(const StepBatch& batch, uint32_t layer, bool prefill);

  radix_ctx* ctx_;
  DeviceMemory* device_;
  const ModelConfig& config_;
  size_t qkv_width_;  // of a row
  DeviceArray<float> qkv_, out_;
  DeviceArray<int64_t> slots_;
  DeviceArray<int32_t> positions_, tables_, context_lens_, cu_q_lens_;
  DeviceArray<std::byte> workspace_;
};

}  // namespace npc
