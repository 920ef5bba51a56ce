// The attention layer's shape: what is multiplied by what, and where it lies in the workspace.
//
//   x [rows, hidden] --norm--> normed --W_qkv--> qkv [rows, q | k | v]
//                                                 --> heads [rows, q_heads * head_dim_v] --W_o--> y
//
// Rows [0, decode_rows) are decode's, the others prefill's; both parts are slices of the same
// matrices. q, k and v of a row lie side by side whether the weights are fused or apart, so that
// nothing after the products can tell. Pure functions of sizes: no pointer, no device.
// Thread rule: none needed.
#pragma once

#include <cstdint>

namespace radixattn {

struct LayerShape {
  uint32_t num_rows = 0;
  uint32_t decode_rows = 0;  // at most num_rows
  uint32_t hidden = 0;
  uint32_t num_q_heads = 0, num_kv_heads = 0;  // at most 65535
  uint32_t head_dim = 0, head_dim_v = 0;
  bool norm = false;           // x is normalised into a matrix of its own
  uint32_t element_bytes = 4;  // of what lies in the workspace
};

enum LayerWeight { kLayerQkv, kLayerQ, kLayerK, kLayerV, kLayerO, kNumLayerWeights };

// One product: weight [out, in]; its result is columns [column, column + out) of qkv, or y.
struct LayerProduct {
  LayerWeight weight;
  uint32_t in, out;
  uint32_t column;
};

// The products before attention, in order: one, or three apart. Returns how many.
uint32_t layer_projections(const LayerShape& s, bool fused, LayerProduct out[3]);
LayerProduct layer_output(const LayerShape& s);

// Columns of a row of qkv.
uint32_t layer_k_column(const LayerShape& s);
uint32_t layer_v_column(const LayerShape& s);
uint32_t layer_qkv_columns(const LayerShape& s);

// Byte offsets in the workspace, each a multiple of 64. Rows of a matrix follow each other without
// a gap.
struct LayerLayout {
  uint64_t normed = 0;   // [num_rows, hidden], when the shape has a norm
  uint64_t qkv = 0;      // [num_rows, qkv_columns]
  uint64_t heads = 0;    // [num_rows, num_q_heads, head_dim_v]
  uint64_t scratch = 0;  // of one product or attention at a time
  uint64_t total_bytes = 0;
};
// scratch_bytes: the most that any step asks for. False: the sum passes 2^63.
bool layer_layout(const LayerShape& s, uint64_t scratch_bytes, LayerLayout* out);

}  // namespace radixattn
