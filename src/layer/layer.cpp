#include "layer/layer.h"

namespace radixattn {
namespace {

constexpr uint64_t kAlign = 64;

// Adds a piece of count * bytes; false when the sum passes 2^63.
bool take(uint64_t* used, uint64_t count, uint64_t bytes) {
  uint64_t size = 0;
  if (__builtin_mul_overflow(count, bytes, &size) ||
      __builtin_add_overflow(size, kAlign - 1, &size) ||
      __builtin_add_overflow(*used, size / kAlign * kAlign, used)) {
    return false;
  }
  return *used <= uint64_t{1} << 63;
}

}  // namespace

uint32_t layer_k_column(const LayerShape& s) { return s.num_q_heads * s.head_dim; }

uint32_t layer_v_column(const LayerShape& s) {
  return layer_k_column(s) + s.num_kv_heads * s.head_dim;
}

uint32_t layer_qkv_columns(const LayerShape& s) {
  return layer_v_column(s) + s.num_kv_heads * s.head_dim_v;
}

uint32_t layer_projections(const LayerShape& s, bool fused, LayerProduct out[3]) {
  const uint32_t k = layer_k_column(s), v = layer_v_column(s), end = layer_qkv_columns(s);
  if (fused) {
    out[0] = {kLayerQkv, s.hidden, end, 0};
    return 1;
  }
  out[0] = {kLayerQ, s.hidden, k, 0};
  out[1] = {kLayerK, s.hidden, v - k, k};
  out[2] = {kLayerV, s.hidden, end - v, v};
  return 3;
}

LayerProduct layer_output(const LayerShape& s) {
  return {kLayerO, s.num_q_heads * s.head_dim_v, s.hidden, 0};
}

bool layer_layout(const LayerShape& s, uint64_t scratch_bytes, LayerLayout* out) {
  const uint64_t row_bytes = s.element_bytes;
  uint64_t used = 0;
  out->normed = used;
  if (s.norm && !take(&used, s.num_rows, row_bytes * s.hidden)) return false;
  out->qkv = used;
  if (!take(&used, s.num_rows, row_bytes * layer_qkv_columns(s))) return false;
  out->heads = used;
  if (!take(&used, s.num_rows, row_bytes * s.num_q_heads * s.head_dim_v)) return false;
  out->scratch = used;
  if (!take(&used, 1, scratch_bytes)) return false;
  out->total_bytes = used;
  return true;
}

}  // namespace radixattn
