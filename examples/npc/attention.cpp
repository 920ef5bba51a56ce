#include "attention.h"

#include <algorithm>

#include "error.h"

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

uint32_t max_of(const int32_t* values, size_t n) {
  return n == 0 ? 0 : static_cast<uint32_t>(*std::max_element(values, values + n));
}

uint32_t longest_query(const std::vector<int32_t>& cu_q_lens) {
  int32_t longest = 1;
  for (size_t s = 1; s < cu_q_lens.size(); ++s)
    longest = std::max(longest, cu_q_lens[s] - cu_q_lens[s - 1]);
  return static_cast<uint32_t>(longest);
}

}  // namespace

Attention::Attention(radix_ctx* ctx, DeviceMemory* device, const ModelConfig& config,
                     const StepBounds& bounds)
    : ctx_(ctx),
      device_(device),
      config_(config),
      qkv_width_(config.q_size() + 2 * size_t{config.kv_size()}),
      qkv_(device, bounds.rows * qkv_width_),
      out_(device, bounds.rows * size_t{config.q_size()}),
      slots_(device, bounds.rows),
      positions_(device, bounds.rows),
      tables_(device, bounds.seqs * size_t{bounds.table_width}),
      context_lens_(device, bounds.seqs),
      cu_q_lens_(device, bounds.seqs + size_t{1}),
      workspace_(device, largest_workspace(bounds), HostSide::none) {}

void Attention::begin_step(const StepBatch& batch) {
  slots_.upload(batch.slots);
  positions_.upload(batch.positions);
  tables_.upload(batch.tables);
  context_lens_.upload(batch.context_lens);
  cu_q_lens_.upload(batch.cu_q_lens);
}

const float* Attention::run(const StepBatch& batch, uint32_t layer) {
  qkv_.upload(batch.rows() * qkv_width_);
  rope_append(batch, layer);
  if (batch.num_decode > 0) attend(batch, layer, false);
  if (batch.num_decode < batch.seqs()) attend(batch, layer, true);
  out_.download(batch.rows() * size_t{config_.q_size()});
  // The host multiplies by weights next, so it waits for every layer. After it all buffers are the
  // host's again, those of begin_step() too.
  device_->wait();
  return out_.host();
}

void Attention::rope_append(const StepBatch& batch, uint32_t layer) {
  const ModelConfig& c = config_;
  float* q = qkv_.device();
  float* k = q + c.q_size();
  float* v = k + c.kv_size();
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
  d.q = heads_view(q, batch.rows(), c.num_q_heads, c.head_dim, qkv_width_);
  d.k = heads_view(k, batch.rows(), c.num_kv_heads, c.head_dim, qkv_width_);
  d.v = heads_view(v, batch.rows(), c.num_kv_heads, c.head_dim, qkv_width_);
  d.slots = slots_.device();
  d.positions = positions_.device();
  d.num_tokens = batch.rows();
  check(radix_rope_append_launch(ctx_, &d, device_->stream()), "radix_rope_append_launch");
}

// The parts of an attention launch that are the same in every step.
radix_attn Attention::describe(uint32_t rows, uint32_t first_row) const {
  const ModelConfig& c = config_;
  radix_attn d = {};
  d.struct_size = sizeof d;
  d.max_query_len = 1;
  d.q = heads_view(qkv_.device() + first_row * qkv_width_, rows, c.num_q_heads, c.head_dim,
                   qkv_width_);
  d.out = heads_view(out_.device() + first_row * size_t{c.q_size()}, rows, c.num_q_heads,
                     c.head_dim, c.q_size());
  return d;
}

// A launch's workspace grows with these bounds and nothing else: what the largest needs is enough.
uint64_t Attention::largest_workspace(const StepBounds& bounds) const {
  radix_attn d = describe(bounds.seqs, 0);
  d.num_seqs = bounds.seqs;
  d.max_context_len = bounds.context_len;
  uint64_t decode = 0, prefill = 0;
  check(radix_attn_workspace(ctx_, &d, &decode), "radix_attn_workspace");
  d = describe(bounds.rows, 0);
  d.num_seqs = bounds.seqs;
  d.max_context_len = bounds.context_len;
  d.max_query_len = bounds.rows;
  d.cu_q_lens = cu_q_lens_.device();
  check(radix_attn_workspace(ctx_, &d, &prefill), "radix_attn_workspace");
  return std::max<uint64_t>(1, std::max(decode, prefill));
}

// One launch: the decode rows, or the prefill rows, of one layer.
void Attention::attend(const StepBatch& batch, uint32_t layer, bool prefill) {
  const uint32_t first_row = prefill ? batch.num_decode : 0;
  const uint32_t first_seq = first_row;  // a decoding sequence is one row
  const uint32_t rows = prefill ? batch.rows() - batch.num_decode : batch.num_decode;
  radix_attn d = describe(rows, first_row);
  d.layer = layer;
  d.num_seqs = prefill ? batch.seqs() - batch.num_decode : batch.num_decode;
  d.max_context_len = max_of(batch.context_lens.data() + first_seq, d.num_seqs);
  d.window = config_.windows[layer];
  d.block_tables = tables_.device() + first_seq * batch.table_stride;
  d.block_table_stride = batch.table_stride;
  d.context_lens = context_lens_.device() + first_seq;
  d.workspace = workspace_.device();
  d.workspace_size = workspace_.capacity();
  if (prefill) {
    d.cu_q_lens = cu_q_lens_.device();
    d.max_query_len = longest_query(batch.cu_q_lens);
    check(radix_prefill_launch(ctx_, &d, device_->stream()), "radix_prefill_launch");
  } else {
    check(radix_paged_attention_launch(ctx_, &d, device_->stream()),
          "radix_paged_attention_launch");
  }
}

}  // namespace npc
