// The forward pass of a Llama-, Mistral-, Qwen2- or Qwen3-style decoder over radixattn's paged KV
// cache.
//
// A step is a batch of rows: first one row for each decoding sequence, then the rows of each
// prefilling sequence. Attention blocks are the library's (attention.h), the rest is the host's.
// K/V of every row goes to its slot, attention reads through the block tables: a row never knows
// whether the blocks before it were computed by itself, by another request, or minutes ago. Weights
// are kept in f32. Everything but attention gives a row the same bits whatever else is in the
// batch.
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

  // By layer; valid as long as the model.
  std::vector<const AttentionWeights*> attention_weights() const;

  // Logits [batch.logit_rows, vocab_size] of the step.
  void forward(Attention* attention, const StepBatch& batch, float* logits);

 private:
  struct Layer {
    AttentionWeights attention;
    std::vector<float> mlp_norm;  // [hidden]
    Linear gate_up;               // hidden -> 2 * intermediate
    Linear down;                  // intermediate -> hidden
  };
  struct Scratch {
    std::vector<float> normed;     // [rows, hidden]
    std::vector<float> gate_up;    // [rows, 2 * intermediate]
    std::vector<float> activated;  // [rows, intermediate]
  };

  Layer load_layer(const Checkpoint& weights, uint32_t index) const;
  void embed(const StepBatch& batch, float* x) const;
  void mlp_block(size_t rows, const Layer& layer, float* x);

  ModelConfig config_;
  std::vector<float> embedding_;  // [vocab, hidden]
  std::vector<Layer> layers_;
  std::vector<float> final_norm_;
  Linear head_;
  Scratch scratch_;
};

}  // namespace npc
