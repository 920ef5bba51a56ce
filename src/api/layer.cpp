// radix_layer_*: the attention block of a model's layer, as calls of the backend.
//
//   read      descriptor -> shape, tensors, weights; no look at array contents
//   size      the most scratch that any step asks for -> workspace
//   launch    norm, products, head norms, rotary embedding, attention, product, each on the stream
//
// Nothing here knows whether a pointer is the host's or a device's: none is followed but those of
// descriptors. Decode and prefill are two parts with the same steps; index 0 is decode.
#include "layer/layer.h"

#include <cinttypes>
#include <cmath>
#include <cstring>

#include "api/attention_io.h"
#include "api/context.h"
#include "api/struct_io.h"
#include "base/error.h"

namespace radixattn {
namespace {

using ll = long long;

constexpr uint32_t kParts = 2;
constexpr int64_t kMaxHidden = 1 << 24;
constexpr uintptr_t kWorkspaceAlign = 64;
constexpr const char* kPartNames[kParts] = {"d->decode", "d->prefill"};
constexpr const char* kRopeNames[kParts] = {"d->decode_rope", "d->prefill_rope"};

// A weight and its bias as the backend and a callback see them.
struct Weight {
  const char* name = nullptr;
  radix_tensor tensor = {};
  radix_tensor bias = {};  // data null: none
};

struct Part {
  bool given = false;
  bool has_rope = false;
  radix_attn attn = {};
  radix_rope_append rope = {};
};

struct Layer {
  radix_layer d = {};
  Part parts[kParts];
  LayerShape shape;
  int32_t inner_dtype = RADIX_F32;  // of what lies in the workspace
  bool fused = false;
  Weight weights[kNumLayerWeights];
  LayerLayout layout;
  uint64_t scratch_bytes = 0;
  char* workspace = nullptr;  // once it is known to hold the layout
};

// In a query of sizes a tensor may be described without data.
bool is_given(const radix_tensor& t, bool need_data) {
  return t.data != nullptr || (!need_data && t.ndim != 0);
}

// A failure inside a part says which.
radix_status of_part(const char* name, radix_status st) {
  if (st == RADIX_OK) return st;
  char message[512];
  std::strncpy(message, last_message(), sizeof message - 1);
  message[sizeof message - 1] = '\0';
  return fail_native(st, last_native(), "%s: %s", name, message);
}

// ---- tensors

struct Reader {
  const radix_ctx& ctx;
  bool need_data;
  int32_t weight_dtype;  // that all must have; 0 = any
};

radix_status check_dtype(const Reader& r, const radix_tensor& t, const char* name) {
  if (r.weight_dtype == 0 || t.dtype == r.weight_dtype) return RADIX_OK;
  return fail(RADIX_E_UNSUPPORTED, "%s.dtype is %d: expected that of x on CUDA, %d", name, t.dtype,
              r.weight_dtype);
}

radix_status read_vector(const Reader& r, const radix_tensor& t, const char* name, int64_t size) {
  if (!is_given(t, r.need_data)) return RADIX_OK;
  const radix_status st = check_tensor(t, name, place_of(r.ctx), 1, r.need_data);
  if (st != RADIX_OK) return st;
  if (t.shape[0] != size) {
    return fail(RADIX_E_INVALID, "%s.shape[0] is %lld: expected %lld", name,
                static_cast<ll>(t.shape[0]), static_cast<ll>(size));
  }
  return check_dtype(r, t, name);
}

radix_status read_matrix(const Reader& r, const radix_tensor& t, const char* name, int64_t rows,
                         int64_t columns) {
  if (!is_given(t, r.need_data)) return fail(RADIX_E_INVALID, "%s.data is NULL", name);
  const radix_status st = check_tensor(t, name, place_of(r.ctx), 2, r.need_data);
  if (st != RADIX_OK) return st;
  if (t.shape[0] != rows || t.shape[1] != columns) {
    return fail(RADIX_E_INVALID, "%s is [%lld, %lld]: expected [%lld, %lld]", name,
                static_cast<ll>(t.shape[0]), static_cast<ll>(t.shape[1]), static_cast<ll>(rows),
                static_cast<ll>(columns));
  }
  return RADIX_OK;
}

bool same_rows(const radix_tensor& a, const radix_tensor& b) {
  return a.data == b.data && (a.shape[0] <= 1 || stride_of(a, 0) == stride_of(b, 0));
}

radix_status read_x_and_y(const Reader& r, const radix_layer& d) {
  const radix_tensor &x = d.x, &y = d.y;
  radix_status st = check_tensor(x, "x", place_of(r.ctx), 2, r.need_data);
  if (st != RADIX_OK) return st;
  if (x.shape[1] < 1 || x.shape[1] > kMaxHidden) {
    return fail(RADIX_E_INVALID, "x.shape[1] is %lld: expected a hidden size of 1..%lld",
                static_cast<ll>(x.shape[1]), static_cast<ll>(kMaxHidden));
  }
  if (!r.need_data && y.ndim == 0) return RADIX_OK;
  st = read_matrix(r, y, "y", x.shape[0], x.shape[1]);
  if (st != RADIX_OK) return st;
  if (y.dtype != x.dtype)
    return fail(RADIX_E_INVALID, "y.dtype is %d: expected that of x, %d", y.dtype, x.dtype);
  if (y.shape[0] > 1 && stride_of(y, 0) < y.shape[1]) {
    return fail(RADIX_E_INVALID, "y.stride[0] is %lld: its rows of %lld overlap",
                static_cast<ll>(stride_of(y, 0)), static_cast<ll>(y.shape[1]));
  }
  if (share_memory(x, y) && !same_rows(x, y)) {
    return fail(RADIX_E_INVALID,
                "y.data is %p, inside x (from %p): expected x itself, or memory of its own", y.data,
                x.data);
  }
  return RADIX_OK;
}

// ---- the descriptor

radix_status check_words(const radix_layer& d) {
  if (d.next != nullptr) return fail(RADIX_E_INVALID, "d->next is %p: expected NULL", d.next);
  if ((d.flags & ~uint32_t{RADIX_LAYER_ADD | RADIX_LAYER_NORM_PLUS_ONE}) != 0)
    return fail(RADIX_E_INVALID, "d->flags is 0x%x: expected RADIX_LAYER_*", d.flags);
  if (!std::isfinite(d.norm_eps) || d.norm_eps < 0.f) {
    return fail(RADIX_E_INVALID, "d->norm_eps is %g: expected a positive number, or 0 for 1e-6",
                d.norm_eps);
  }
  if (d.num_q_heads == 0 || d.num_q_heads > kMaxHeads) {
    return fail(RADIX_E_INVALID, "d->num_q_heads is %u: expected 1..%u", d.num_q_heads, kMaxHeads);
  }
  return RADIX_OK;
}

radix_status read_part(uint32_t i, const radix_attn* attn, const radix_rope_append* rope,
                       bool need_data, Part* part) {
  part->given = attn != nullptr;
  part->has_rope = rope != nullptr;
  if (need_data && part->given != part->has_rope) {
    return fail(RADIX_E_INVALID, "%s is NULL and %s is given: expected both or none",
                part->given ? kRopeNames[i] : kPartNames[i],
                part->given ? kPartNames[i] : kRopeNames[i]);
  }
  radix_status st = RADIX_OK;
  if (part->given) st = read_struct(attn, kPartNames[i], &part->attn);
  if (st == RADIX_OK && part->has_rope) st = read_struct(rope, kRopeNames[i], &part->rope);
  return st;
}

// Heads and head dims, the same in every K/V that a part names.
radix_status read_heads(const Reader& r, Layer* layer) {
  LayerShape* s = &layer->shape;
  const char* first = nullptr;
  for (uint32_t i = 0; i < 2 * kParts; ++i) {
    const Part& part = layer->parts[i / 2];
    const bool rope = i % 2 == 1;
    if (rope ? !part.has_rope : !part.given) continue;
    const char* name = rope ? kRopeNames[i / 2] : kPartNames[i / 2];
    const radix_attn& a = part.attn;
    const radix_rope_append& e = part.rope;
    KvView kv;
    const radix_status st = of_part(
        name, rope ? read_kv(r.ctx, e.k_cache, e.v_cache, e.kv_layout, e.layer, r.need_data, &kv)
                   : read_kv(r.ctx, a.k_cache, a.v_cache, a.kv_layout, a.layer, r.need_data, &kv));
    if (st != RADIX_OK) return st;
    if (first == nullptr) {
      first = name;
      s->num_kv_heads = kv.num_kv_heads;
      s->head_dim = kv.head_dim;
      s->head_dim_v = kv.head_dim_v;
    }
    if (kv.num_kv_heads != s->num_kv_heads || kv.head_dim != s->head_dim ||
        kv.head_dim_v != s->head_dim_v) {
      return fail(RADIX_E_INVALID,
                  "%s has K/V of %u heads, head dims %u and %u, %s of %u, %u and %u: expected the "
                  "same",
                  name, kv.num_kv_heads, kv.head_dim, kv.head_dim_v, first, s->num_kv_heads,
                  s->head_dim, s->head_dim_v);
    }
  }
  if (first == nullptr)
    return fail(RADIX_E_INVALID, "d->decode and d->prefill are NULL: expected one or both");
  if (s->num_kv_heads <= kMaxHeads && layer->d.num_q_heads % s->num_kv_heads == 0) return RADIX_OK;
  return fail(RADIX_E_INVALID, "d->num_q_heads is %u: expected a multiple of the %u KV heads",
              layer->d.num_q_heads, s->num_kv_heads);
}

// Which rows are whose.
radix_status read_part_rows(Layer* layer) {
  const Part &decode = layer->parts[0], &prefill = layer->parts[1];
  const uint32_t rows = layer->shape.num_rows, d = decode.given ? decode.attn.num_seqs : 0;
  if (d > rows || (!prefill.given && d != rows)) {
    return fail(RADIX_E_INVALID, "d->decode->num_seqs is %u: x has %u rows", d, rows);
  }
  layer->shape.decode_rows = d;
  for (uint32_t i = 0; i < kParts; ++i) {
    const uint64_t expected = i == 0 ? d : rows - d;
    if (!layer->parts[i].has_rope || layer->parts[i].rope.num_tokens == expected) continue;
    return fail(RADIX_E_INVALID, "%s->num_tokens is %" PRIu64 ": its rows of x are %" PRIu64,
                kRopeNames[i], layer->parts[i].rope.num_tokens, expected);
  }
  return RADIX_OK;
}

radix_status read_weight(const Reader& r, const LayerProduct& product, const radix_tensor& tensor,
                         const char* name, const radix_tensor& bias, const char* bias_name,
                         Layer* layer) {
  radix_status st = read_matrix(r, tensor, name, product.out, product.in);
  if (st == RADIX_OK) st = check_dtype(r, tensor, name);
  if (st == RADIX_OK) st = read_vector(r, bias, bias_name, product.out);
  layer->weights[product.weight] = {name, tensor, bias};
  return st;
}

// Of the fused weights, or of their parts, whichever are not used.
radix_status check_unused(const Reader& r, const radix_layer& d, bool fused) {
  const radix_tensor* parts[] = {&d.w_q, &d.w_k, &d.w_v, &d.b_q, &d.b_k, &d.b_v};
  const char* names[] = {"w_q", "w_k", "w_v", "b_q", "b_k", "b_v"};
  if (!fused && is_given(d.b_qkv, r.need_data))
    return fail(RADIX_E_INVALID, "b_qkv is given without w_qkv: expected b_q, b_k and b_v");
  for (uint32_t i = 0; fused && i < 6; ++i) {
    if (is_given(*parts[i], r.need_data))
      return fail(RADIX_E_INVALID, "%s is given beside w_qkv: expected one or the other", names[i]);
  }
  return RADIX_OK;
}

radix_status read_weights(const Reader& r, Layer* layer) {
  const radix_layer& d = layer->d;
  const LayerShape& s = layer->shape;
  layer->fused = is_given(d.w_qkv, r.need_data);
  LayerProduct p[3];
  layer_projections(s, layer->fused, p);
  radix_status st = check_unused(r, d, layer->fused);
  if (layer->fused) {
    if (st == RADIX_OK) st = read_weight(r, p[0], d.w_qkv, "w_qkv", d.b_qkv, "b_qkv", layer);
  } else {
    if (st == RADIX_OK) st = read_weight(r, p[0], d.w_q, "w_q", d.b_q, "b_q", layer);
    if (st == RADIX_OK) st = read_weight(r, p[1], d.w_k, "w_k", d.b_k, "b_k", layer);
    if (st == RADIX_OK) st = read_weight(r, p[2], d.w_v, "w_v", d.b_v, "b_v", layer);
  }
  if (st == RADIX_OK) st = read_weight(r, layer_output(s), d.w_o, "w_o", d.b_o, "b_o", layer);
  if (st == RADIX_OK) st = read_vector(r, d.norm, "norm", s.hidden);
  if (st == RADIX_OK) st = read_vector(r, d.q_norm, "q_norm", s.head_dim);
  if (st == RADIX_OK) st = read_vector(r, d.k_norm, "k_norm", s.head_dim);
  return st;
}

// ---- views of the workspace

char* at(const Layer& layer, uint64_t offset) {
  return layer.workspace == nullptr ? nullptr : layer.workspace + offset;
}

MatrixTensor qkv_columns(const Layer& layer, uint32_t column) {
  const LayerShape& s = layer.shape;
  return {at(layer, layer.layout.qkv + uint64_t{column} * s.element_bytes), layer.inner_dtype,
          layer_qkv_columns(s)};
}

// Rows [first, first + rows) of a matrix as [rows, heads, dim].
radix_tensor heads_of(const Layer& layer, const MatrixTensor& m, uint32_t part, uint32_t heads,
                      uint32_t dim) {
  const LayerShape& s = layer.shape;
  const uint32_t first = part == 0 ? 0 : s.decode_rows;
  radix_tensor t = {};
  if (m.data != nullptr)
    t.data = static_cast<char*>(m.data) + int64_t{first} * m.row_stride * s.element_bytes;
  t.dtype = m.dtype;
  t.ndim = 3;
  t.shape[0] = part == 0 ? s.decode_rows : s.num_rows - s.decode_rows;
  t.shape[1] = heads;
  t.shape[2] = dim;
  t.stride[0] = m.row_stride;
  t.stride[1] = dim;
  t.stride[2] = 1;
  return t;
}

MatrixTensor heads_matrix(const Layer& layer) {
  const LayerShape& s = layer.shape;
  return {at(layer, layer.layout.heads), layer.inner_dtype, int64_t{s.num_q_heads} * s.head_dim_v};
}

// Gives each part its rows of q, k, v and heads.
void connect_parts(Layer* layer) {
  const LayerShape& s = layer->shape;
  for (uint32_t i = 0; i < kParts; ++i) {
    Part& part = layer->parts[i];
    const radix_tensor q = heads_of(*layer, qkv_columns(*layer, 0), i, s.num_q_heads, s.head_dim);
    part.attn.q = part.rope.q = q;
    part.rope.k =
        heads_of(*layer, qkv_columns(*layer, layer_k_column(s)), i, s.num_kv_heads, s.head_dim);
    part.rope.v =
        heads_of(*layer, qkv_columns(*layer, layer_v_column(s)), i, s.num_kv_heads, s.head_dim_v);
    part.attn.out = heads_of(*layer, heads_matrix(*layer), i, s.num_q_heads, s.head_dim_v);
    part.attn.workspace = at(*layer, layer->layout.scratch);
    part.attn.workspace_size = layer->scratch_bytes;
  }
}

// ---- products

MatrixTensor matrix_of(const radix_tensor& t) { return {t.data, t.dtype, stride_of(t, 0)}; }

// x of the products before attention: normed, or the caller's.
MatrixTensor projection_input(const Layer& layer) {
  if (!layer.shape.norm) return matrix_of(layer.d.x);
  return {at(layer, layer.layout.normed), layer.inner_dtype, layer.shape.hidden};
}

GemmParams gemm_params(const Layer& layer, const LayerProduct& product) {
  const Weight& w = layer.weights[product.weight];
  const bool last = product.weight == kLayerO;
  GemmParams p;
  p.num_rows = layer.shape.num_rows;
  p.in = product.in;
  p.out = product.out;
  p.x = last ? heads_matrix(layer) : projection_input(layer);
  p.weight = matrix_of(w.tensor);
  p.bias = w.bias.data;
  p.bias_dtype = w.bias.dtype;
  p.y = last ? matrix_of(layer.d.y) : qkv_columns(layer, product.column);
  p.add = last && (layer.d.flags & RADIX_LAYER_ADD) != 0;
  p.workspace = at(layer, layer.layout.scratch);
  p.workspace_bytes = layer.scratch_bytes;
  return p;
}

radix_tensor public_matrix(const radix_ctx& ctx, const MatrixTensor& m, uint32_t rows,
                           uint32_t columns) {
  radix_tensor t = {};
  t.data = m.data;
  t.dtype = m.dtype;
  t.device = ctx.config.device;
  t.device_index = ctx.config.device_index;
  t.ndim = 2;
  t.shape[0] = rows;
  t.shape[1] = columns;
  t.stride[0] = m.row_stride;
  t.stride[1] = 1;
  return t;
}

radix_status call_gemm(const radix_ctx& ctx, const Layer& layer, const LayerProduct& product,
                       const GemmParams& p, radix_stream s) {
  radix_gemm g = {};
  g.struct_size = sizeof g;
  g.flags = p.add ? uint32_t{RADIX_GEMM_ADD} : 0;
  g.x = public_matrix(ctx, p.x, p.num_rows, p.in);
  g.weight = public_matrix(ctx, p.weight, p.out, p.in);
  if (p.bias != nullptr) {
    g.bias = layer.weights[product.weight].bias;
    g.bias.device = ctx.config.device;
    g.bias.device_index = ctx.config.device_index;
    g.bias.stride[0] = 1;
  }
  g.y = public_matrix(ctx, p.y, p.num_rows, p.out);
  const radix_status st = layer.d.gemm(layer.d.gemm_user, &g, s);
  if (st == RADIX_OK) return RADIX_OK;
  return fail(RADIX_E_CALLBACK, "d->gemm returned %d for the product with %s", st,
              layer.weights[product.weight].name);
}

radix_status multiply(radix_ctx* ctx, const Layer& layer, const LayerProduct& product,
                      radix_stream s) {
  const GemmParams p = gemm_params(layer, product);
  return layer.d.gemm != nullptr ? call_gemm(*ctx, layer, product, p, s) : ctx->backend->gemm(p, s);
}

// ---- sizes

// The most scratch that any step asks for, and the layout with it.
radix_status size_layer(const radix_ctx& ctx, Layer* layer) {
  LayerProduct p[4];
  uint32_t n = layer_projections(layer->shape, layer->fused, p);
  p[n++] = layer_output(layer->shape);
  uint64_t most = 0;
  for (uint32_t i = 0; i < n && layer->d.gemm == nullptr; ++i) {
    const uint64_t bytes = ctx.backend->gemm_workspace(gemm_params(*layer, p[i]));
    if (bytes > most) most = bytes;
  }
  for (uint32_t i = 0; i < kParts; ++i) {
    if (!layer->parts[i].given) continue;
    uint64_t bytes = 0;
    const radix_status st =
        of_part(kPartNames[i], attention_workspace(ctx, layer->parts[i].attn, i == 1, &bytes));
    if (st != RADIX_OK) return st;
    if (bytes > most) most = bytes;
  }
  layer->scratch_bytes = most;
  if (layer_layout(layer->shape, most, &layer->layout)) return RADIX_OK;
  return fail(RADIX_E_INVALID, "x has %u rows of %u: the layer's workspace passes 2^63 bytes",
              layer->shape.num_rows, layer->shape.hidden);
}

radix_status read_layer(const radix_ctx& ctx, const radix_layer* given, bool need_data,
                        Layer* layer) {
  radix_layer& d = layer->d;
  radix_status st = read_struct(given, "d", &d);
  if (st == RADIX_OK) st = check_words(d);
  if (st == RADIX_OK) st = read_part(0, d.decode, d.decode_rope, need_data, &layer->parts[0]);
  if (st == RADIX_OK) st = read_part(1, d.prefill, d.prefill_rope, need_data, &layer->parts[1]);
  if (st != RADIX_OK) return st;
  const Reader r = {ctx, need_data, ctx.on_cuda() ? d.x.dtype : 0};
  st = read_x_and_y(r, d);
  if (st == RADIX_OK) st = read_heads(r, layer);
  if (st != RADIX_OK) return st;
  layer->inner_dtype = ctx.on_cuda() ? d.x.dtype : int32_t{RADIX_F32};
  layer->shape.num_rows = static_cast<uint32_t>(d.x.shape[0]);
  layer->shape.hidden = static_cast<uint32_t>(d.x.shape[1]);
  layer->shape.num_q_heads = d.num_q_heads;
  layer->shape.norm = is_given(d.norm, need_data);
  layer->shape.element_bytes = static_cast<uint32_t>(element_bytes(layer->inner_dtype));
  st = read_part_rows(layer);
  if (st == RADIX_OK) st = read_weights(r, layer);
  if (st != RADIX_OK) return st;
  connect_parts(layer);  // shapes; addresses come with the workspace
  return size_layer(ctx, layer);
}

// Lays the layer's parts out in the caller's workspace.
radix_status take_workspace(Layer* to) {
  const Layer& layer = *to;
  if (layer.d.workspace_size < layer.layout.total_bytes) {
    return fail(RADIX_E_BUFFER,
                "d->workspace_size is %" PRIu64 ": this layer needs %" PRIu64 " bytes",
                layer.d.workspace_size, layer.layout.total_bytes);
  }
  if (layer.d.workspace == nullptr ||
      reinterpret_cast<uintptr_t>(layer.d.workspace) % kWorkspaceAlign != 0) {
    return fail(RADIX_E_INVALID, "d->workspace is %p: expected a multiple of %u bytes, not null",
                layer.d.workspace, static_cast<unsigned>(kWorkspaceAlign));
  }
  to->workspace = static_cast<char*>(layer.d.workspace);
  connect_parts(to);
  return RADIX_OK;
}

// ---- steps

NormParams norm_params(const Layer& layer, const radix_tensor& weight) {
  NormParams p;
  p.num_rows = layer.shape.num_rows;
  p.weight = weight.data;
  p.weight_dtype = weight.dtype;
  p.eps = layer.d.norm_eps != 0.f ? layer.d.norm_eps : 1e-6f;
  p.plus_one = (layer.d.flags & RADIX_LAYER_NORM_PLUS_ONE) != 0;
  return p;
}

radix_status norm_input(radix_ctx* ctx, const Layer& layer, radix_stream s) {
  if (!layer.shape.norm) return RADIX_OK;
  const MatrixTensor x = matrix_of(layer.d.x), y = projection_input(layer);
  NormParams p = norm_params(layer, layer.d.norm);
  p.dim = layer.shape.hidden;
  p.x = {x.data, x.dtype, x.row_stride, 0};
  p.y = {y.data, y.dtype, y.row_stride, 0};
  return ctx->backend->rms_norm(p, s);
}

radix_status norm_heads(radix_ctx* ctx, const Layer& layer, const radix_tensor& weight,
                        uint32_t column, uint32_t heads, radix_stream s) {
  if (weight.data == nullptr) return RADIX_OK;
  const MatrixTensor m = qkv_columns(layer, column);
  NormParams p = norm_params(layer, weight);
  p.num_heads = heads;
  p.dim = layer.shape.head_dim;
  p.x = p.y = {m.data, m.dtype, m.row_stride, layer.shape.head_dim};
  return ctx->backend->rms_norm(p, s);
}

// The parts' parameters, checked before the first step runs.
struct Params {
  AttentionParams attn[kParts];
  RopeAppendParams rope[kParts];
};

radix_status read_params(const radix_ctx& ctx, const Layer& layer, Params* p) {
  for (uint32_t i = 0; i < kParts; ++i) {
    const Part& part = layer.parts[i];
    if (!part.given) continue;
    radix_status st = of_part(kPartNames[i], read_attn_launch(ctx, part.attn, i == 1, &p->attn[i]));
    if (st == RADIX_OK) st = of_part(kRopeNames[i], read_rope(ctx, part.rope, &p->rope[i]));
    if (st != RADIX_OK) return st;
  }
  return RADIX_OK;
}

radix_status project(radix_ctx* ctx, const Layer& layer, radix_stream s) {
  const LayerShape& shape = layer.shape;
  LayerProduct products[3];
  const uint32_t n = layer_projections(shape, layer.fused, products);
  radix_status st = norm_input(ctx, layer, s);
  for (uint32_t i = 0; i < n && st == RADIX_OK; ++i) st = multiply(ctx, layer, products[i], s);
  if (st == RADIX_OK) st = norm_heads(ctx, layer, layer.d.q_norm, 0, shape.num_q_heads, s);
  if (st == RADIX_OK) {
    st = norm_heads(ctx, layer, layer.d.k_norm, layer_k_column(shape), shape.num_kv_heads, s);
  }
  return st;
}

// All K and V first: a prompt may share blocks that another sequence of the step writes.
radix_status attend(radix_ctx* ctx, const Layer& layer, const Params& p, radix_stream s) {
  Backend& backend = *ctx->backend;
  radix_status st = RADIX_OK;
  for (uint32_t i = 0; i < kParts && st == RADIX_OK; ++i) {
    if (layer.parts[i].given) st = of_part(kRopeNames[i], backend.rope_append(p.rope[i], s));
  }
  if (st == RADIX_OK && layer.parts[0].given)
    st = of_part(kPartNames[0], backend.decode(p.attn[0], s));
  if (st == RADIX_OK && layer.parts[1].given)
    st = of_part(kPartNames[1], backend.prefill(p.attn[1], s));
  return st;
}

}  // namespace
}  // namespace radixattn

using namespace radixattn;

extern "C" {

radix_status radix_layer_workspace(const radix_ctx* ctx, const radix_layer* d,
                                   uint64_t* out_bytes) RADIX_NOEXCEPT {
  Layer layer;
  radix_status st = check_ctx(ctx);
  if (st == RADIX_OK) st = not_null(out_bytes, "out_bytes");
  if (st == RADIX_OK) st = read_layer(*ctx, d, false, &layer);
  if (st == RADIX_OK) *out_bytes = layer.layout.total_bytes;
  return st;
}

radix_status radix_layer_launch(radix_ctx* ctx, const radix_layer* d,
                                radix_stream s) RADIX_NOEXCEPT {
  Layer layer;
  Params params;
  radix_status st = check_ctx(ctx);
  if (st == RADIX_OK) st = check_stream(*ctx, s);
  if (st == RADIX_OK) st = read_layer(*ctx, d, true, &layer);
  if (st != RADIX_OK || layer.shape.num_rows == 0) return st;
  st = take_workspace(&layer);
  if (st == RADIX_OK) st = read_params(*ctx, layer, &params);
  if (st == RADIX_OK) st = project(ctx, layer, s);
  if (st == RADIX_OK) st = attend(ctx, layer, params, s);
  return st == RADIX_OK ? multiply(ctx, layer, layer_output(layer.shape), s) : st;
}

}  // extern "C"
