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
  l.attention_norm = weights.floats(prefix + "input_layernorm.weight", {c.hidden_size});
  l.mlp_norm = weights.floats(prefix + "post_attention_layernorm.weight", {c.hidden_size});
  if (c.qk_norm) {
    l.q_norm = weights.floats(attn + "q_norm.weight", {c.head_dim});
    l.k_norm = weights.floats(attn + "k_norm.weight", {c.head_dim});
  }
  l.qkv = load_linear(weights, c.hidden_size,
                      {{attn + "q_proj", c.q_size(), c.qkv_bias},
                       {attn + "k_proj", c.kv_size(), c.qkv_bias},
                       {attn + "v_proj", c.kv_size(), c.qkv_bias}});
  l.output = load_linear(weights, c.q_size(), {{attn + "o_proj", c.hidden_size, c.output_bias}});
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

void Model::forward(Attention* attention, const StepBatch& batch, std::vector<float>* logits) {
  const ModelConfig& c = config_;
  const size_t rows = batch.rows();
  scratch_.normed.resize(rows * c.hidden_size);
  scratch_.gate_up.resize(rows * 2 * c.intermediate_size);
  scratch_.activated.resize(rows * c.intermediate_size);
  embed(batch);
  attention->begin_step(batch);
  for (uint32_t layer = 0; layer < c.num_layers; ++layer) {
    attention_block(attention, batch, layer);
    mlp_block(batch, layer);
  }
  const size_t wanted = batch.logit_rows.size();
  for (size_t i = 0; i < wanted; ++i) {
    rms_norm(scratch_.x.data() + batch.logit_rows[i] * size_t{c.hidden_size}, final_norm_.data(),
             c.hidden_size, c.rms_norm_eps, scratch_.normed.data() + i * c.hidden_size);
  }
  logits->resize(wanted * c.vocab_size);
  head_.apply(scratch_.normed.data(), wanted, logits->data());
}

void Model::embed(const StepBatch& batch) {
  const size_t hidden = config_.hidden_size;
  scratch_.x.resize(batch.rows() * hidden);
  for (size_t i = 0; i < batch.rows(); ++i) {
    const int32_t token = batch.tokens[i];
    if (token < 0 || static_cast<uint32_t>(token) >= config_.vocab_size) {
      throw Error("token " + std::to_string(token) + " is outside the vocabulary");
    }
    std::copy_n(embedding_.data() + static_cast<size_t>(token) * hidden, hidden,
                scratch_.x.data() + i * hidden);
  }
}

void Model::attention_block(Attention* attention, const StepBatch& batch, uint32_t layer) {
  const ModelConfig& c = config_;
  const Layer& l = layers_[layer];
  const size_t rows = batch.rows();
  float* qkv = attention->qkv();
  for (size_t i = 0; i < rows; ++i) {
    rms_norm(scratch_.x.data() + i * c.hidden_size, l.attention_norm.data(), c.hidden_size,
             c.rms_norm_eps, scratch_.normed.data() + i * c.hidden_size);
  }
  l.qkv.apply(scratch_.normed.data(), rows, qkv);
  if (c.qk_norm) {
    for (size_t i = 0; i < rows; ++i) {
      float* head = qkv + i * l.qkv.out();
      for (uint32_t h = 0; h < c.num_q_heads + c.num_kv_heads; ++h, head += c.head_dim) {
        const std::vector<float>& weight = h < c.num_q_heads ? l.q_norm : l.k_norm;
        rms_norm(head, weight.data(), c.head_dim, c.rms_norm_eps, head);
      }
    }
  }
  l.output.apply(attention->run(batch, layer), rows, scratch_.x.data(), true);
}

void Model::mlp_block(const StepBatch& batch, uint32_t layer) {
  const ModelConfig& c = config_;
  const Layer& l = layers_[layer];
  const size_t rows = batch.rows();
  for (size_t i = 0; i < rows; ++i) {
    rms_norm(scratch_.x.data() + i * c.hidden_size, l.mlp_norm.data(), c.hidden_size,
             c.rms_norm_eps, scratch_.normed.data() + i * c.hidden_size);
  }
  l.gate_up.apply(scratch_.normed.data(), rows, scratch_.gate_up.data());
  for (size_t i = 0; i < rows; ++i) {
    swiglu(scratch_.gate_up.data() + i * 2 * c.intermediate_size, c.intermediate_size,
           scratch_.activated.data() + i * c.intermediate_size);
  }
  l.down.apply(scratch_.activated.data(), rows, scratch_.x.data(), true);
}

}  // namespace npc
