#include "model.h"

#include <algorithm>
#include <string>

#include "error.h"
#include "ops.h"

namespace npc {

namespace {

radix_tensor heads_view(float* data, uint32_t rows, uint32_t heads, uint32_t head_dim,
                        size_t row_stride) {
  radix_tensor t = {};
  t.data = data;
  t.dtype = RADIX_F32;
  t.ndim = 3;
  t.shape[0] = rows;
  t.shape[1] = heads;
  t.shape[2] = head_dim;
  t.stride[0] = static_cast<int64_t>(row_stride);
  t.stride[1] = head_dim;
  t.stride[2] = 1;
  return t;
}

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

uint32_t max_of(const int32_t* values, size_t n) {
  return n == 0 ? 0 : static_cast<uint32_t>(*std::max_element(values, values + n));
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

void Model::forward(radix_ctx* ctx, const StepBatch& batch, std::vector<float>* logits) {
  const ModelConfig& c = config_;
  const size_t rows = batch.rows();
  scratch_.normed.resize(rows * c.hidden_size);
  scratch_.qkv.resize(rows * (c.q_size() + 2 * size_t{c.kv_size()}));
  scratch_.attention.resize(rows * c.q_size());
  scratch_.gate_up.resize(rows * 2 * c.intermediate_size);
  scratch_.activated.resize(rows * c.intermediate_size);
  embed(batch);
  for (uint32_t layer = 0; layer < c.num_layers; ++layer) {
    attention_block(ctx, batch, layer);
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

void Model::attention_block(radix_ctx* ctx, const StepBatch& batch, uint32_t layer) {
  const ModelConfig& c = config_;
  const Layer& l = layers_[layer];
  const size_t rows = batch.rows();
  for (size_t i = 0; i < rows; ++i) {
    rms_norm(scratch_.x.data() + i * c.hidden_size, l.attention_norm.data(), c.hidden_size,
             c.rms_norm_eps, scratch_.normed.data() + i * c.hidden_size);
  }
  l.qkv.apply(scratch_.normed.data(), rows, scratch_.qkv.data());
  if (c.qk_norm) {
    for (size_t i = 0; i < rows; ++i) {
      float* head = scratch_.qkv.data() + i * l.qkv.out();
      for (uint32_t h = 0; h < c.num_q_heads + c.num_kv_heads; ++h, head += c.head_dim) {
        const std::vector<float>& weight = h < c.num_q_heads ? l.q_norm : l.k_norm;
        rms_norm(head, weight.data(), c.head_dim, c.rms_norm_eps, head);
      }
    }
  }
  rope_append(ctx, batch, layer);
  if (batch.num_decode > 0) attend(ctx, batch, layer, false);
  if (batch.num_decode < batch.seqs()) attend(ctx, batch, layer, true);
  l.output.apply(scratch_.attention.data(), rows, scratch_.x.data(), true);
}

void Model::rope_append(radix_ctx* ctx, const StepBatch& batch, uint32_t layer) {
  const ModelConfig& c = config_;
  const size_t stride = layers_[layer].qkv.out();
  float* qkv = scratch_.qkv.data();
  radix_rope_append d = {};
  d.struct_size = sizeof d;
  d.layer = layer;
  d.rotary_dim = c.head_dim;
  d.style = RADIX_ROPE_NEOX;
  d.scaling = c.rope.scaling;
  d.theta = c.rope.theta;
  d.scale = c.rope.factor;
  d.low_freq_factor = c.rope.low_freq_factor;
  d.high_freq_factor = c.rope.high_freq_factor;
  d.beta_fast = c.rope.beta_fast;
  d.beta_slow = c.rope.beta_slow;
  d.attention_factor = c.rope.attention_factor;
  d.original_max_position = c.rope.original_max_position;
  d.q = heads_view(qkv, batch.rows(), c.num_q_heads, c.head_dim, stride);
  d.k = heads_view(qkv + c.q_size(), batch.rows(), c.num_kv_heads, c.head_dim, stride);
  d.v =
      heads_view(qkv + c.q_size() + c.kv_size(), batch.rows(), c.num_kv_heads, c.head_dim, stride);
  d.slots = batch.slots.data();
  d.positions = batch.positions.data();
  d.num_tokens = batch.rows();
  check(radix_rope_append_launch(ctx, &d, nullptr), "radix_rope_append_launch");
}

// One launch: the decode rows, or the prefill rows, of one layer.
void Model::attend(radix_ctx* ctx, const StepBatch& batch, uint32_t layer, bool prefill) {
  const ModelConfig& c = config_;
  const uint32_t first_row = prefill ? batch.num_decode : 0;
  const uint32_t rows = prefill ? batch.rows() - batch.num_decode : batch.num_decode;
  const uint32_t first_seq = first_row;  // a decoding sequence is one row
  const size_t stride = layers_[layer].qkv.out();
  radix_attn d = {};
  d.struct_size = sizeof d;
  d.layer = layer;
  d.num_seqs = prefill ? batch.seqs() - batch.num_decode : batch.num_decode;
  d.max_context_len = max_of(batch.context_lens.data() + first_seq, d.num_seqs);
  d.window = c.windows[layer];
  d.q =
      heads_view(scratch_.qkv.data() + first_row * stride, rows, c.num_q_heads, c.head_dim, stride);
  d.out = heads_view(scratch_.attention.data() + first_row * size_t{c.q_size()}, rows,
                     c.num_q_heads, c.head_dim, c.q_size());
  d.block_tables = batch.tables.data() + first_seq * batch.table_stride;
  d.block_table_stride = batch.table_stride;
  d.context_lens = batch.context_lens.data() + first_seq;
  d.max_query_len = 1;
  if (prefill) {
    d.cu_q_lens = batch.cu_q_lens.data();
    for (size_t s = 0; s < d.num_seqs; ++s) {
      d.max_query_len =
          std::max(d.max_query_len, static_cast<uint32_t>(d.cu_q_lens[s + 1] - d.cu_q_lens[s]));
    }
  }
  check(radix_attn_workspace(ctx, &d, &d.workspace_size), "radix_attn_workspace");
  constexpr size_t kAlign = 64;
  scratch_.workspace.resize(d.workspace_size + kAlign);
  const auto address = reinterpret_cast<uintptr_t>(scratch_.workspace.data());
  d.workspace = reinterpret_cast<void*>((address + kAlign - 1) / kAlign * kAlign);
  if (prefill) {
    check(radix_prefill_launch(ctx, &d, nullptr), "radix_prefill_launch");
  } else {
    check(radix_paged_attention_launch(ctx, &d, nullptr), "radix_paged_attention_launch");
  }
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
