#include "attention.h"

#include <algorithm>

#include "error.h"

namespace npc {

namespace {

radix_tensor view(const float* data, std::initializer_list<uint64_t> shape) {
  radix_tensor t = {};
  t.data = const_cast<float*>(data);  // weights are only read
  t.dtype = RADIX_F32;
  for (const uint64_t n : shape) t.shape[t.ndim++] = static_cast<int64_t>(n);
  return t;
}

// A weight that may be missing.
radix_tensor optional_view(const float* data, std::initializer_list<uint64_t> shape) {
  return data == nullptr ? radix_tensor{} : view(data, shape);
}

}  // namespace

Attention::Attention(Cache* cache, DeviceMemory* device, const ModelConfig& config,
                     const std::vector<const AttentionWeights*>& weights, const StepBounds& bounds,
                     const ReadOptions& options)
    : cache_(cache),
      device_(device),
      config_(config),
      bounds_(bounds),
      options_(options),
      decode_plan_(make_plan(bounds.seqs)),
      prefill_plan_(make_plan(bounds.rows)),
      x_(device, bounds.rows * size_t{config.hidden_size}),
      workspace_(device, largest_workspace(), HostSide::none) {
  send_all(weights);
}

// ---- weights: in place on the CPU, sent once to a device

Attention::Weight Attention::send(const std::vector<float>& weight, DeviceArray<float>* staging) {
  if (weight.empty()) return {};
  if (device_->kind() == RADIX_DEV_CPU) return {weight.data(), nullptr};
  Weight w;
  w.own = std::make_unique<DeviceArray<float>>(device_, weight.size(), HostSide::none);
  w.data = w.own->device();
  std::copy(weight.begin(), weight.end(), staging->host());
  device_->upload({w.own->device(), staging->host()}, weight.size() * sizeof(float));
  device_->wait();  // the next one is staged in the same place
  return w;
}

void Attention::send_all(const std::vector<const AttentionWeights*>& weights) {
  size_t largest = 1;
  for (const AttentionWeights* w : weights)
    largest = std::max({largest, w->qkv.size(), w->output.size()});
  DeviceArray<float> staging(device_, device_->kind() == RADIX_DEV_CPU ? 1 : largest);
  for (const AttentionWeights* w : weights) {
    LayerWeights& l = weights_.emplace_back();
    l.norm = send(w->norm, &staging);
    l.qkv = send(w->qkv, &staging);
    l.qkv_bias = send(w->qkv_bias, &staging);
    l.q_norm = send(w->q_norm, &staging);
    l.k_norm = send(w->k_norm, &staging);
    l.output = send(w->output, &staging);
    l.output_bias = send(w->output_bias, &staging);
  }
}

// ---- a step's plans

Attention::Plan Attention::make_plan(uint32_t query_tokens) const {
  radix_plan_config config = {};
  config.struct_size = sizeof config;
  config.max_seqs = bounds_.seqs;
  config.max_query_tokens = query_tokens;
  config.max_context_len = bounds_.context_len;
  config.num_q_heads = config_.num_q_heads;
  if (options_.batch_invariant) config.flags |= RADIX_PLAN_BATCH_INVARIANT;
  if (!options_.shared) config.flags |= RADIX_PLAN_UNSHARED;
  radix_plan* plan = nullptr;
  check(radix_plan_create(cache_->ctx(), &config, &plan), "radix_plan_create");
  return Plan(plan);
}

void Attention::begin_step(const StepBatch& batch) {
  rows_ = batch.rows();
  decodes_ = batch.num_decode > 0;
  prefills_ = batch.num_decode < batch.chunks.size();
  if (decodes_) plan_decode(batch);
  if (prefills_) plan_prefill(batch);
}

void Attention::update(radix_plan* plan, const radix_plan_desc& d) {
  check(radix_plan_update(plan, &d, device_->stream()), "radix_plan_update");
  radix_plan_info info = {};
  info.struct_size = sizeof info;
  check(radix_plan_get_info(plan, &info), "radix_plan_get_info");
  reads_.seen += info.tokens_seen;
  reads_.read += info.tokens_read;
}

void Attention::plan_decode(const StepBatch& batch) {
  std::vector<radix_req> reqs;
  for (uint32_t i = 0; i < batch.num_decode; ++i) reqs.push_back(batch.chunks[i].req);
  radix_plan_desc d = {};
  d.struct_size = sizeof d;
  d.num_seqs = batch.num_decode;
  d.reqs = reqs.data();
  update(decode_plan_.get(), d);
}

// A prompt has all its slots before all of it is computed: lengths are those of this step, not the
// requests' own, so the plan gets tables.
void Attention::plan_prefill(const StepBatch& batch) {
  std::vector<radix_req> reqs;
  std::vector<int32_t> context_lens, q_lens;
  uint64_t longest = 0;
  for (size_t i = batch.num_decode; i < batch.chunks.size(); ++i) {
    const Chunk& c = batch.chunks[i];
    reqs.push_back(c.req);
    context_lens.push_back(static_cast<int32_t>(c.end));
    q_lens.push_back(static_cast<int32_t>(c.rows()));
    longest = std::max<uint64_t>(longest, cache_->info(c.req).num_blocks);
  }
  const auto n = static_cast<uint32_t>(reqs.size());
  std::vector<int32_t> tables(n * longest);
  check(radix_get_block_tables(cache_->ctx(), reqs.data(), n, tables.data(),
                               static_cast<int64_t>(longest), nullptr, nullptr),
        "radix_get_block_tables");
  radix_plan_desc d = {};
  d.struct_size = sizeof d;
  d.num_seqs = n;
  d.q_lens = q_lens.data();
  d.block_tables = tables.data();
  d.block_table_stride = static_cast<int64_t>(longest);
  d.context_lens = context_lens.data();
  update(prefill_plan_.get(), d);
}

// ---- a layer

radix_rope_append Attention::rope(uint32_t layer) const {
  const RopeConfig& r = config_.rope;
  radix_rope_append d = {};
  d.struct_size = sizeof d;
  d.layer = layer;
  d.rotary_dim = config_.head_dim;
  d.style = RADIX_ROPE_NEOX;
  d.scaling = r.scaling;
  d.theta = r.theta;
  d.scale = r.factor;
  d.low_freq_factor = r.low_freq_factor;
  d.high_freq_factor = r.high_freq_factor;
  d.beta_fast = r.beta_fast;
  d.beta_slow = r.beta_slow;
  d.attention_factor = r.attention_factor;
  d.original_max_position = r.original_max_position;
  return d;
}

radix_layer Attention::describe(uint32_t layer, uint32_t rows) const {
  const ModelConfig& c = config_;
  radix_layer d = {};
  d.struct_size = sizeof d;
  d.flags = RADIX_LAYER_ADD;
  d.num_q_heads = c.num_q_heads;
  d.norm_eps = c.rms_norm_eps;
  d.x = d.y = view(x_.device(), {rows, c.hidden_size});
  const uint64_t qkv = uint64_t{c.q_size()} + 2 * uint64_t{c.kv_size()};
  static const LayerWeights none;
  const LayerWeights& w = layer < weights_.size() ? weights_[layer] : none;
  d.norm = view(w.norm.data, {c.hidden_size});
  d.w_qkv = view(w.qkv.data, {qkv, c.hidden_size});
  d.b_qkv = optional_view(w.qkv_bias.data, {qkv});
  d.q_norm = optional_view(w.q_norm.data, {c.head_dim});
  d.k_norm = optional_view(w.k_norm.data, {c.head_dim});
  d.w_o = view(w.output.data, {c.hidden_size, c.q_size()});
  d.b_o = optional_view(w.output_bias.data, {c.hidden_size});
  return d;
}

// Sizes alone: both parts as large as they may be.
uint64_t Attention::largest_workspace() const {
  radix_layer d = describe(0, bounds_.seqs + bounds_.rows);
  radix_rope_append decode_rope = rope(0), prefill_rope = rope(0);
  decode_rope.num_tokens = bounds_.seqs;
  prefill_rope.num_tokens = bounds_.rows;
  radix_attn decode = {}, prefill = {};
  const int32_t no_lens[2] = {};
  decode.struct_size = prefill.struct_size = sizeof decode;
  if (options_.batch_invariant) decode.flags = prefill.flags = RADIX_ATTN_BATCH_INVARIANT;
  decode.num_seqs = prefill.num_seqs = bounds_.seqs;
  decode.max_context_len = prefill.max_context_len = bounds_.context_len;
  decode.max_query_len = 1;
  prefill.max_query_len = bounds_.rows;
  prefill.cu_q_lens = no_lens;
  decode.plan = decode_plan_.get();
  prefill.plan = prefill_plan_.get();
  d.decode = &decode;
  d.decode_rope = &decode_rope;
  d.prefill = &prefill;
  d.prefill_rope = &prefill_rope;
  uint64_t bytes = 0;
  check(radix_layer_workspace(cache_->ctx(), &d, &bytes), "radix_layer_workspace");
  return std::max<uint64_t>(1, bytes);
}

void Attention::run(uint32_t layer) {
  radix_layer d = describe(layer, rows_);
  radix_rope_append decode_rope = rope(layer), prefill_rope = rope(layer);
  radix_attn decode = {}, prefill = {};
  decode.struct_size = prefill.struct_size = sizeof decode;
  decode.layer = prefill.layer = layer;
  decode.window = prefill.window = config_.windows[layer];
  if (decodes_) {
    check(radix_plan_attn(decode_plan_.get(), &decode), "radix_plan_attn");
    check(radix_plan_rope(decode_plan_.get(), &decode_rope), "radix_plan_rope");
    d.decode = &decode;
    d.decode_rope = &decode_rope;
  }
  if (prefills_) {
    check(radix_plan_attn(prefill_plan_.get(), &prefill), "radix_plan_attn");
    check(radix_plan_rope(prefill_plan_.get(), &prefill_rope), "radix_plan_rope");
    d.prefill = &prefill;
    d.prefill_rope = &prefill_rope;
  }
  d.workspace = workspace_.device();
  d.workspace_size = workspace_.capacity();
  x_.upload(rows_ * size_t{config_.hidden_size});
  check(radix_layer_launch(cache_->ctx(), &d, device_->stream()), "radix_layer_launch");
  x_.download(rows_ * size_t{config_.hidden_size});
  device_->wait();  // the host's MLP comes next
}

}  // namespace npc
