// The forward pass of a Llama-, Mistral-, Qwen2- or Qwen3-style decoder over radixattn's paged KV
// cache.
//
// A step is a batch of rows: first one row for each decoding sequence, then the rows of each
// prefilling sequence. K/V of every row goes to its slot, attention reads through the block tables:
// a row never knows whether the blocks before it were computed by itself, by another request, or
// minutes ago. Weights are kept in f32. Everything but attention gives a row the same bits whatever
// else is in the batch.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "gemm.h"
#include "model_config.h"
#include "radixattn.h"
#include "safetensors.h"

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

class Model {
 public:
  Model(ModelConfig config, const Checkpoint& weights);
  static Model load(const std::filesystem::path& dir);

  const ModelConfig& config() const { return config_; }
  // Sets the shapes of the KV cache that forward() needs.
  void describe_cache(radix_config* cache) const;

  // Logits [logit_rows, vocab_size] of the step.
  void forward(radix_ctx* ctx, const StepBatch& batch, std::vector<float>* logits);

 private:
  struct Layer {
    std::vector<float> attention_norm, mlp_norm;  // [hidden]
    std::vector<float> q_norm, k_norm;            // [head_dim] or empty
    Linear qkv;                                   // hidden -> q_size + 2 * kv_size
    Linear output;                                // q_size -> hidden
    Linear gate_up;                               // hidden -> 2 * intermediate
    Linear down;                                  // intermediate -> hidden
  };
  struct Scratch {
    std::vector<float> x;          // [rows, hidden] the residual stream
    std::vector<float> normed;     // [rows, hidden]
    std::vector<float> qkv;        // [rows, q_size + 2 * kv_size]
    std::vector<float> attention;  // [rows, q_size]
    std::vector<float> gate_up;    // [rows, 2 * intermediate]
    std::vector<float> activated;  // [rows, intermediate]
    std::vector<std::byte> workspace;
  };

  Layer load_layer(const Checkpoint& weights, uint32_t index) const;
  void embed(const StepBatch& batch);
  void attention_block(radix_ctx* ctx, const StepBatch& batch, uint32_t layer);
  void rope_append(radix_ctx* ctx, const StepBatch& batch, uint32_t layer);
  void attend(radix_ctx* ctx, const StepBatch& batch, uint32_t layer, bool prefill);
  void mlp_block(const StepBatch& batch, uint32_t layer);

  ModelConfig config_;
  std::vector<float> embedding_;  // [vocab, hidden]
  std::vector<Layer> layers_;
  std::vector<float> final_norm_;
  Linear head_;
  Scratch scratch_;
};

}  // namespace npc
