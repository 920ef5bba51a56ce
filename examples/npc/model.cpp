#include "model.h"

#include <algorithm>
#include <string>

#include "error.h"
#include "ops.h"

namespace npc {

namespace {

// Several weights with one input, as one product.
struct WeightRows {
  std::string name;
  uint32_t rows;
  bool bias;
};

Linear load_linear(const Checkpoint& weights, uint32_t in, const std::vector<WeightRows>& parts) {
  uint32_t out = 0;
  for (const WeightRows& p : parts) out += p.rows;
  Linear linear(in, out);
  uint32_t first = 0;
  for (const WeightRows& p : parts) {
    linear.set_rows(first, weights.floats(p.name + ".weight", {p.rows, in}));
    if (p.bias) linear.set_bias(first, weights.floats(p.name + ".bias", {p.rows}));
    first += p.rows;
  }
  return linear;
}

void append(std::vector<float>* to, const std::vector<float>& values) {
  to->insert(to->end(), values.begin(), values.end());
}

}  // namespace

Model::Model(ModelConfig config, const Checkpoint& weights) : config_(std::move(config)) {
  const ModelConfig& c = config_;
  embedding_ = weights.floats("model.embed_tokens.weight", {c.vocab_size, c.hidden_size});
  for (uint32_t i = 0; i < c.num_layers; ++i) layers_.push_back(load_layer(weights, i));
  final_norm_ = weights.floats("model.norm.weight", {c.hidden_size});
  if (c.tied_head) {
    head_ = Linear(c.hidden_size, c.vocab_size);
    head_.set_rows(0, embedding_);
  } else {
    head_ = load_linear(weights, c.hidden_size, {{"lm_head", c.vocab_size, false}});
  }
}

Model Model::load(const std::filesystem::path& dir) {
  return Model(load_model_config(dir / "config.json"), Checkpoint::open(dir));
}

Model::Layer Model::load_layer(const Checkpoint& weights, uint32_t index) const {
  const ModelConfig& c = config_;
  const std::string prefix = "model.layers." + std::to_string(index) + ".";
  const std::string attn = prefix + "self_attn.", mlp = prefix + "mlp.";
  Layer l;
  l.mlp_norm = weights.floats(prefix + "post_attention_layernorm.weight", {c.hidden_size});
  l.attention.norm = weights.floats(prefix + "input_layernorm.weight", {c.hidden_size});
  if (c.qk_norm) {
    l.attention.q_norm = weights.floats(attn + "q_norm.weight", {c.head_dim});
    l.attention.k_norm = weights.floats(attn + "k_norm.weight", {c.head_dim});
  }
  for (const auto& [name, rows] :
       {std::pair{"q_proj", c.q_size()}, std::pair{"k_proj", c.kv_size()},
        std::pair{"v_proj", c.kv_size()}}) {
    append(&l.attention.qkv, weights.floats(attn + name + ".weight", {rows, c.hidden_size}));
    if (c.qkv_bias) append(&l.attention.qkv_bias, weights.floats(attn + name + ".bias", {rows}));
  }
  l.attention.output = weights.floats(attn + "o_proj.weight", {c.hidden_size, c.q_size()});
  if (c.output_bias)
    l.attention.output_bias = weights.floats(attn + "o_proj.bias", {c.hidden_size});
  l.gate_up = load_linear(weights, c.hidden_size,
                          {{mlp + "gate_proj", c.intermediate_size, c.mlp_bias},
                           {mlp + "up_proj", c.intermediate_size, c.mlp_bias}});
  l.down =
      load_linear(weights, c.intermediate_size, {{mlp + "down_proj", c.hidden_size, c.mlp_bias}});
  return l;
}

void Model::describe_cache(radix_config* cache) const {
  cache->num_layers = config_.num_layers;
  cache->num_kv_heads = config_.num_kv_heads;
  cache->head_dim = config_.head_dim;
}

std::vector<const AttentionWeights*> Model::attention_weights() const {
  std::vector<const AttentionWeights*> weights;
  for (const Layer& l : layers_) weights.push_back(&l.attention);
  return weights;
}

void Model::forward(Attention* attention, const StepBatch& batch, float* logits) {
  const ModelConfig& c = config_;
  const size_t rows = batch.rows(), wanted = batch.logit_rows.size();
  scratch_.normed.resize(std::max(rows, wanted) * c.hidden_size);
  scratch_.gate_up.resize(rows * 2 * c.intermediate_size);
  scratch_.activated.resize(rows * c.intermediate_size);
  float* x = attention->x();
  embed(batch, x);
  attention->begin_step(batch);
  for (uint32_t layer = 0; layer < c.num_layers; ++layer) {
    attention->run(layer);
    mlp_block(rows, layers_[layer], x);
  }
  for (size_t i = 0; i < wanted; ++i) {
    rms_norm(x + batch.logit_rows[i] * size_t{c.hidden_size}, final_norm_.data(), c.hidden_size,
             c.rms_norm_eps, scratch_.normed.data() + i * c.hidden_size);
  }
  head_.apply(scratch_.normed.data(), wanted, logits);
}

void Model::embed(const StepBatch& batch, float* x) const {
  const size_t hidden = config_.hidden_size;
  for (const Chunk& c : batch.chunks) {
    for (uint64_t i = c.begin; i < c.end; ++i, x += hidden) {
      const int32_t token = c.tokens[i];
      if (token < 0 || static_cast<uint32_t>(token) >= config_.vocab_size) {
        throw Error("token " + std::to_string(token) + " is outside the vocabulary");
      }
      std::copy_n(embedding_.data() + static_cast<size_t>(token) * hidden, hidden, x);
    }
  }
}

void Model::mlp_block(size_t rows, const Layer& layer, float* x) {
  const ModelConfig& c = config_;
  for (size_t i = 0; i < rows; ++i) {
    rms_norm(x + i * c.hidden_size, layer.mlp_norm.data(), c.hidden_size, c.rms_norm_eps,
             scratch_.normed.data() + i * c.hidden_size);
  }
  layer.gate_up.apply(scratch_.normed.data(), rows, scratch_.gate_up.data());
  for (size_t i = 0; i < rows; ++i) {
    swiglu(scratch_.gate_up.data() + i * 2 * c.intermediate_size, c.intermediate_size,
           scratch_.activated.data() + i * c.intermediate_size);
  }
  layer.down.apply(scratch_.activated.data(), rows, x, true);
}

}  // namespace npc
