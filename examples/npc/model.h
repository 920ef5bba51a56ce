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

#include "attention.h"
#include "gemm.h"
#include "model_config.h"
#include "radixattn.h"
#include "safetensors.h"

namespace npc {

class Model {
 public:
  Model(ModelConfig config, const Checkpoint& weights);
  static Model load(const std::filesystem::path& dir);

  const ModelConfig& config() const { return config_; }
  // Sets the shapes of the KV cache that forward() needs.
  void describe_cache(radix_config* cache) const;

  // Logits [logit_rows, vocab_size] of the step.
  void forward(Attention* attention, const StepBatch& batch, std::vector<float>* logits);

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
    std::vector<float> gate_up;    // [rows, 2 * intermediate]
    std::vector<float> activated;  // [rows, intermediate]
  };

  Layer load_layer(const Checkpoint& weights, uint32_t index) const;
  void embed(const StepBatch& batch);
  void attention_block(Attention* attention, const StepBatch& batch, uint32_t layer);
  void mlp_block(const StepBatch& batch, uint32_t layer);

  ModelConfig config_;
  std::vector<float> embedding_;  // [vocab, hidden]
  std::vector<Layer> layers_;
  std::vector<float> final_norm_;
  Linear head_;
  Scratch scratch_;
};

}  // namespace npc
