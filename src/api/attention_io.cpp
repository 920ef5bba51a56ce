#include "api/attention_io.h"

#include <cinttypes>
#include <cmath>

#include "api/context.h"
#include "api/plan.h"
#include "base/error.h"

namespace radixattn {
namespace {

constexpr float kMostScale = 1e30f;  // times log2(e) it is finite, by a soft cap divided, too
constexpr float kLeastSoftcap = 1e-6f;
constexpr uint32_t kAttnFlags =
    RADIX_ATTN_SCALE_PER_HEAD | RADIX_ATTN_BATCH_INVARIANT | RADIX_ATTN_BF16_WEIGHTS;

radix_status check_flags(uint32_t flags, uint32_t known, const char* names) {
  if ((flags & ~known) == 0) return RADIX_OK;
  return fail(RADIX_E_INVALID, "d->flags is 0x%x: expected %s", flags, names);
}

// What only CUDA kernels know.
radix_status check_scales(const radix_ctx& ctx, const float* k_scale, const float* v_scale) {
  radix_status st = check_optional_array(k_scale, "d->k_scale");
  if (st == RADIX_OK) st = check_optional_array(v_scale, "d->v_scale");
  if (st != RADIX_OK) return st;
  if (ctx.on_cuda() || (k_scale == nullptr && v_scale == nullptr)) return RADIX_OK;
  return fail(RADIX_E_UNSUPPORTED, "d->%s is given: expected NULL on the CPU, which has no fp8 K/V",
              k_scale != nullptr ? "k_scale" : "v_scale");
}

// ---- K/V of a launch: the context's own, or the caller's tensors

radix_status own_kv(const radix_ctx& ctx, uint32_t layer, bool need_data, KvView* out) {
  const radix_config& c = ctx.config;
  if (ctx.kv.base == nullptr && need_data) return check_memory(&ctx);
  if (c.head_dim == 0 || c.num_kv_heads == 0) {
    return fail(RADIX_E_STATE, "the context has no shape: give k_cache and v_cache");
  }
  if (layer >= c.num_layers) {
    return fail(RADIX_E_INVALID, "layer is %u: expected less than %u", layer, c.num_layers);
  }
  *out = {{}, {}, c.num_blocks, c.block_size, c.num_kv_heads, c.head_dim, c.head_dim_v};
  if (ctx.kv.base == nullptr) return RADIX_OK;
  radix_tensor k, v;
  radix_status st = radix_ctx_kv_tensor(&ctx, layer, &k, &v);
  PagedShape shape;
  if (st == RADIX_OK)
    st = read_paged(k, "k_cache", place_of(ctx), c.kv_layout, need_data, &out->k, &shape);
  if (st == RADIX_OK)
    st = read_paged(v, "v_cache", place_of(ctx), c.kv_layout, need_data, &out->v, &shape);
  return st;
}

radix_status given_kv(const radix_ctx& ctx, const radix_tensor& k, const radix_tensor& v,
                      int32_t layout, bool need_data, KvView* out) {
  PagedShape ks, vs;
  radix_status st = read_paged(k, "k_cache", place_of(ctx), layout, need_data, &out->k, &ks);
  if (st == RADIX_OK) st = read_paged(v, "v_cache", place_of(ctx), layout, need_data, &out->v, &vs);
  if (st != RADIX_OK) return st;
  if (ks.num_blocks != vs.num_blocks || ks.block_size != vs.block_size ||
      ks.num_kv_heads != vs.num_kv_heads) {
    return fail(RADIX_E_INVALID,
                "k_cache has %" PRId64 " blocks of %" PRId64 " tokens and %" PRId64
                " heads, v_cache %" PRId64 ", %" PRId64 ", %" PRId64 ": expected the same",
                ks.num_blocks, ks.block_size, ks.num_kv_heads, vs.num_blocks, vs.block_size,
                vs.num_kv_heads);
  }
  out->num_blocks = static_cast<uint32_t>(ks.num_blocks);
  out->block_size = static_cast<uint32_t>(ks.block_size);
  out->num_kv_heads = static_cast<uint32_t>(ks.num_kv_heads);
  out->head_dim = static_cast<uint32_t>(ks.head_dim);
  out->head_dim_v = static_cast<uint32_t>(vs.head_dim);
  return RADIX_OK;
}

// What is written, and K/V, the context's own and the caller's: apart, as far as share_memory sees.
radix_status check_outside_kv(const radix_ctx& ctx, const radix_tensor& k_cache,
                              const radix_tensor& v_cache, const radix_tensor& t,
                              const char* name) {
  radix_tensor own = {};  // as bytes
  own.data = ctx.kv.base;
  own.dtype = RADIX_F8_E4M3;
  own.ndim = 1;
  own.shape[0] = static_cast<int64_t>(ctx.layout.total_bytes);
  if (!share_memory(t, own) && !share_memory(t, k_cache) && !share_memory(t, v_cache))
    return RADIX_OK;
  return fail(RADIX_E_INVALID, "%s.data is %p, in one memory with K/V: expected memory of its own",
              name, t.data);
}

// ---- attention

radix_status check_attn_words(const radix_attn& d) {
  if (d.next != nullptr) return fail(RADIX_E_INVALID, "d->next is %p: expected NULL", d.next);
  if (!std::isfinite(d.scale))
    return fail(RADIX_E_INVALID, "d->scale is %g: expected a finite number", d.scale);
  if (!std::isfinite(d.softcap) || d.softcap < 0.f) {
    return fail(RADIX_E_INVALID, "d->softcap is %g: expected 0 or more", d.softcap);
  }
  if (std::fabs(d.scale) > kMostScale)
    return fail(RADIX_E_INVALID, "d->scale is %g: expected -1e30 to 1e30", d.scale);
  if (d.softcap != 0.f && (d.softcap < kLeastSoftcap || d.softcap > kMostScale)) {
    return fail(RADIX_E_INVALID, "d->softcap is %g: expected 0, or 1e-6 to 1e30", d.softcap);
  }
  if (d.max_context_len > kMaxContext) {
    return fail(RADIX_E_INVALID, "d->max_context_len is %u: expected at most 2^30",
                d.max_context_len);
  }
  return RADIX_OK;
}

// Shapes of q, out and lse.
radix_status read_attn_rows(const radix_ctx& ctx, const radix_attn& d, const KvView& kv,
                            bool prefill, bool need_data, AttentionParams* p) {
  const int64_t rows = prefill ? d.q.shape[0] : d.num_seqs;
  radix_status st =
      read_rows(d.q, "q", place_of(ctx), {rows, 0, kv.head_dim}, false, need_data, &p->q);
  if (st != RADIX_OK) return st;
  const int64_t heads = d.q.shape[1];
  if (heads == 0 || heads % kv.num_kv_heads != 0) {
    return fail(RADIX_E_INVALID,
                "q.shape[1] is %" PRId64 ": expected a multiple of the %u KV heads", heads,
                kv.num_kv_heads);
  }
  if (heads > kMaxHeads) {
    return fail(RADIX_E_INVALID, "q.shape[1] is %" PRId64 ": expected at most %u heads", heads,
                kMaxHeads);
  }
  const int64_t group = heads / kv.num_kv_heads;
  if (rows * group > INT32_MAX || d.max_query_len * group > INT32_MAX) {
    return fail(RADIX_E_INVALID,
                "q has %" PRId64 " rows, d->max_query_len is %u, and a KV head has %" PRId64
                " query heads: expected at most 2^31-1 of their products",
                rows, d.max_query_len, group);
  }
  p->num_q_heads = static_cast<uint32_t>(heads);
  p->num_q_rows = static_cast<uint32_t>(rows);
  if (!need_data) return RADIX_OK;
  st = read_rows(d.out, "out", place_of(ctx), {rows, heads, kv.head_dim_v}, true, true, &p->out);
  if (st != RADIX_OK) return st;
  if (share_memory(d.out, d.q)) {
    return fail(RADIX_E_INVALID, "out.data is %p, inside q (from %p): expected memory of its own",
                d.out.data, d.q.data);
  }
  st = check_outside_kv(ctx, d.k_cache, d.v_cache, d.out, "out");
  if (st != RADIX_OK || d.lse.data == nullptr) return st;
  st = check_tensor(d.lse, "lse", place_of(ctx), 2, true);
  if (st != RADIX_OK) return st;
  if (d.lse.dtype != RADIX_F32 || d.lse.shape[0] != rows || d.lse.shape[1] != heads) {
    return fail(RADIX_E_INVALID,
                "lse is [%" PRId64 ", %" PRId64 "] of dtype %d: expected [%" PRId64 ", %" PRId64
                "] of RADIX_F32",
                d.lse.shape[0], d.lse.shape[1], d.lse.dtype, rows, heads);
  }
  if (overlaps_itself(d.lse)) {
    return fail(RADIX_E_INVALID, "lse has strides %" PRId64 ", %" PRId64 ": its elements overlap",
                d.lse.stride[0], d.lse.stride[1]);
  }
  if (share_memory(d.lse, d.out) || share_memory(d.lse, d.q)) {
    return fail(RADIX_E_INVALID, "lse.data is %p, inside out or q: expected memory of its own",
                d.lse.data);
  }
  st = check_outside_kv(ctx, d.k_cache, d.v_cache, d.lse, "lse");
  if (st != RADIX_OK) return st;
  p->lse = static_cast<float*>(d.lse.data);
  p->lse_row_stride = stride_of(d.lse, 0);
  p->lse_head_stride = 1;
  return RADIX_OK;
}

radix_status read_attn_arrays(const radix_ctx& ctx, const radix_attn& d, AttentionParams* p) {
  if (d.num_seqs == 0) return RADIX_OK;
  if (d.context_lens == nullptr) return fail(RADIX_E_INVALID, "d->context_lens is NULL");
  if (d.block_tables == nullptr && (d.block_begin == nullptr || d.block_ids == nullptr)) {
    return fail(RADIX_E_INVALID,
                "d->block_tables is NULL: expected it, or block_begin and block_ids");
  }
  radix_status st = RADIX_OK;
  if (d.block_tables != nullptr)
    st = check_row_stride(d.block_table_stride, d.num_seqs, "d->block_table_stride");
  if (st == RADIX_OK) st = check_optional_array(d.block_tables, "d->block_tables");
  if (st == RADIX_OK) st = check_optional_array(d.block_begin, "d->block_begin");
  if (st == RADIX_OK) st = check_optional_array(d.block_ids, "d->block_ids");
  if (st == RADIX_OK) st = check_optional_array(d.context_lens, "d->context_lens");
  if (st == RADIX_OK) st = check_optional_array(d.cu_q_lens, "d->cu_q_lens");
  if (st == RADIX_OK) st = check_optional_array(d.alibi_slopes, "d->alibi_slopes");
  if (st == RADIX_OK) st = check_optional_array(d.sinks, "d->sinks");
  if (st != RADIX_OK) return st;
  p->blocks = {d.block_tables, d.block_table_stride, d.block_begin, d.block_ids};
  p->context_lens = d.context_lens;
  p->cu_q_lens = d.cu_q_lens;
  if (d.cu_q_lens == nullptr || ctx.on_cuda()) return RADIX_OK;
  if (d.cu_q_lens[0] != 0) {
    return fail(RADIX_E_INVALID, "d->cu_q_lens[0] is %d: expected 0", d.cu_q_lens[0]);
  }
  if (d.cu_q_lens[d.num_seqs] > d.q.shape[0]) {
    return fail(RADIX_E_INVALID, "d->cu_q_lens[%u] is %d: q has %" PRId64 " rows", d.num_seqs,
                d.cu_q_lens[d.num_seqs], d.q.shape[0]);
  }
  return RADIX_OK;
}

radix_status check_tree_mask(const radix_attn& d, bool prefill) {
  if (d.tree_mask == nullptr) return RADIX_OK;
  if (!prefill) return fail(RADIX_E_INVALID, "d->tree_mask is given: expected NULL for decode");
  if (d.tree_mask_stride < (int64_t{d.max_query_len} + 7) / 8) {
    return fail(RADIX_E_INVALID,
                "d->tree_mask_stride is %" PRId64 ": %u new tokens need that many bits",
                d.tree_mask_stride, d.max_query_len);
  }
  const uint64_t rows = d.q.shape[0] > 0 ? static_cast<uint64_t>(d.q.shape[0]) : 0;
  return check_row_stride(d.tree_mask_stride, rows, "d->tree_mask_stride");
}

// ---- rotary embedding and K/V write

// A theta or factor below 1 would turn faster than a radian a position, past what angles are
// computed for; no model has one.
radix_status one_or_more(const char* name, float value) {
  if (std::isfinite(value) && value >= 1.f) return RADIX_OK;
  return fail(RADIX_E_INVALID, "d->%s is %g: expected 1 or more, or 0 for the default", name,
              value);
}

radix_status positive(const char* name, float value) {
  if (std::isfinite(value) && value > 0.f) return RADIX_OK;
  return fail(RADIX_E_INVALID, "d->%s is %g: expected a positive number, or 0 for the default",
              name, value);
}

float or_default(float value, float fallback) { return value != 0.f ? value : fallback; }

radix_status read_rope_scaling(const radix_rope_append& d, RopeAppendParams* p) {
  if (d.style != RADIX_ROPE_NEOX && d.style != RADIX_ROPE_INTERLEAVED) {
    return fail(RADIX_E_INVALID, "d->style is %d: expected RADIX_ROPE_NEOX or _INTERLEAVED",
                d.style);
  }
  if (d.scaling < RADIX_ROPE_SCALE_NONE || d.scaling > RADIX_ROPE_SCALE_YARN) {
    return fail(RADIX_E_INVALID, "d->scaling is %d: expected RADIX_ROPE_SCALE_*", d.scaling);
  }
  p->style = d.style;
  p->scaling = d.scaling;
  p->theta = or_default(d.theta, 10000.f);
  p->scale = or_default(d.scale, 1.f);
  p->low_freq_factor = or_default(d.low_freq_factor, 1.f);
  p->high_freq_factor = or_default(d.high_freq_factor, 4.f);
  p->beta_fast = or_default(d.beta_fast, 32.f);
  p->beta_slow = or_default(d.beta_slow, 1.f);
  p->attention_factor = d.attention_factor;
  p->original_max_position = d.original_max_position;
  radix_status st = one_or_more("theta", p->theta);
  if (st == RADIX_OK) st = one_or_more("scale", p->scale);
  if (st == RADIX_OK) st = positive("low_freq_factor", p->low_freq_factor);
  if (st == RADIX_OK) st = positive("high_freq_factor", p->high_freq_factor);
  if (st == RADIX_OK) st = positive("beta_fast", p->beta_fast);
  if (st == RADIX_OK) st = positive("beta_slow", p->beta_slow);
  if (st == RADIX_OK && d.attention_factor != 0.f)
    st = positive("attention_factor", d.attention_factor);
  if (st != RADIX_OK) return st;
  if (d.scaling == RADIX_ROPE_SCALE_LLAMA3 && p->high_freq_factor <= p->low_freq_factor) {
    return fail(RADIX_E_INVALID,
                "d->high_freq_factor is %g: expected more than low_freq_factor (%g)",
                p->high_freq_factor, p->low_freq_factor);
  }
  if (d.scaling >= RADIX_ROPE_SCALE_LLAMA3 && d.original_max_position == 0) {
    return fail(RADIX_E_INVALID, "d->original_max_position is 0: expected it with this scaling");
  }
  return RADIX_OK;
}

radix_status check_rope_words(const radix_rope_append& d) {
  if (const radix_status st = check_reserved("d", "reserved0", d.reserved0); st != RADIX_OK)
    return st;
  if (d.next != nullptr) return fail(RADIX_E_INVALID, "d->next is %p: expected NULL", d.next);
  if (d.num_tokens > INT32_MAX) {
    return fail(RADIX_E_INVALID, "d->num_tokens is %" PRIu64 ": expected at most 2^31-1",
                d.num_tokens);
  }
  return RADIX_OK;
}

radix_status read_rope_rows(const radix_ctx& ctx, const radix_rope_append& d, const KvView& kv,
                            RopeAppendParams* p) {
  const Place place = place_of(ctx);
  const auto rows = static_cast<int64_t>(d.num_tokens);
  radix_status st =
      read_rows(d.k, "k", place, {rows, kv.num_kv_heads, kv.head_dim}, false, true, &p->k);
  if (st == RADIX_OK)
    st = read_rows(d.v, "v", place, {rows, kv.num_kv_heads, kv.head_dim_v}, false, true, &p->v);
  if (st != RADIX_OK || d.q.data == nullptr) return st;
  p->num_q_heads = static_cast<uint32_t>(d.q.shape[1]);
  st = read_rows(d.q, "q", place, {rows, 0, kv.head_dim}, true, true, &p->q);
  if (st != RADIX_OK || d.rotary_dim == 0) return st;  // q stays as it is
  if (share_memory(d.q, d.k) || share_memory(d.q, d.v)) {
    return fail(RADIX_E_INVALID, "q.data is %p, in one memory with k or v: expected its own",
                d.q.data);
  }
  return check_outside_kv(ctx, d.k_cache, d.v_cache, d.q, "q");
}

// K/V are written, by several threads.
radix_status check_written(const radix_tensor& t, const char* name) {
  if (t.data == nullptr || !overlaps_itself(t)) return RADIX_OK;
  return fail(RADIX_E_INVALID,
              "%s has strides %" PRId64 ", %" PRId64 ", %" PRId64 ": its tokens overlap", name,
              t.stride[0], t.stride[1], t.stride[2]);
}

}  // namespace

Place place_of(const radix_ctx& ctx) { return {ctx.config.device, ctx.config.device_index}; }

radix_status check_memory(const radix_ctx* ctx) {
  const radix_status st = check_ctx(ctx);
  if (st != RADIX_OK) return st;
  if (ctx->kv.base != nullptr) return RADIX_OK;
  return fail(RADIX_E_STATE, "the context is RADIX_CTX_METADATA_ONLY: it has no KV memory");
}

radix_status read_kv(const radix_ctx& ctx, const radix_tensor& k, const radix_tensor& v,
                     int32_t layout, uint32_t layer, bool need_data, KvView* out) {
  const bool given_k = k.data != nullptr || (!need_data && k.ndim != 0);
  const bool given_v = v.data != nullptr || (!need_data && v.ndim != 0);
  if (given_k != given_v) {
    return fail(RADIX_E_INVALID, "%s is given and %s is not: expected both or none",
                given_k ? "k_cache" : "v_cache", given_k ? "v_cache" : "k_cache");
  }
  return given_k ? given_kv(ctx, k, v, layout, need_data, out) : own_kv(ctx, layer, need_data, out);
}

radix_status read_attn(const radix_ctx& ctx, const radix_attn& d, bool prefill, bool need_data,
                       AttentionParams* p) {
  KvView kv;
  radix_status st = check_attn_words(d);
  if (st == RADIX_OK) st = check_flags(d.flags, kAttnFlags, "RADIX_ATTN_*");
  if (st == RADIX_OK) st = check_scales(ctx, d.k_scale, d.v_scale);
  if (st == RADIX_OK) st = check_tree_mask(d, prefill);
  if (st == RADIX_OK) st = read_kv(ctx, d.k_cache, d.v_cache, d.kv_layout, d.layer, need_data, &kv);
  if (st == RADIX_OK) st = read_attn_rows(ctx, d, kv, prefill, need_data, p);
  if (st == RADIX_OK && need_data) st = read_attn_arrays(ctx, d, p);
  if (st != RADIX_OK) return st;
  if (!prefill && d.max_query_len > 1) {
    return fail(RADIX_E_INVALID, "d->max_query_len is %u: expected 0 or 1 for decode",
                d.max_query_len);
  }
  p->num_seqs = d.num_seqs;
  p->num_kv_heads = kv.num_kv_heads;
  p->head_dim = kv.head_dim;
  p->head_dim_v = kv.head_dim_v;
  p->block_size = kv.block_size;
  p->num_blocks = kv.num_blocks;
  p->max_context_len = d.max_context_len;
  p->max_query_len = prefill ? d.max_query_len : 1;
  p->window = d.window;
  p->scale = d.scale != 0.f ? d.scale : 1.f / std::sqrt(static_cast<float>(kv.head_dim));
  p->softcap = d.softcap;
  p->k = kv.k;
  p->v = kv.v;
  p->k_scale = d.k_scale;
  p->v_scale = d.v_scale;
  p->kv_scale_per_head = (d.flags & RADIX_ATTN_SCALE_PER_HEAD) != 0;
  p->batch_invariant = (d.flags & RADIX_ATTN_BATCH_INVARIANT) != 0;
  p->bf16_weights = (d.flags & RADIX_ATTN_BF16_WEIGHTS) != 0;
  p->tree_mask = d.tree_mask;
  p->tree_mask_stride = d.tree_mask_stride;
  p->alibi_slopes = d.alibi_slopes;
  p->sinks = d.sinks;
  p->workspace = d.workspace;
  p->workspace_bytes = d.workspace_size;
  return RADIX_OK;
}

radix_status read_attn_launch(const radix_ctx& ctx, const radix_attn& d, bool prefill,
                              AttentionParams* p) {
  if (prefill && d.cu_q_lens == nullptr && d.num_seqs > 0) {
    return fail(RADIX_E_INVALID,
                "d->cu_q_lens is NULL: expected row offsets (decode has a call of its own)");
  }
  if (!prefill && d.cu_q_lens != nullptr) {
    return fail(RADIX_E_INVALID, "d->cu_q_lens is given: expected NULL for decode");
  }
  const radix_status st = read_attn(ctx, d, prefill, true, p);
  if (st != RADIX_OK || d.plan == nullptr) return st;
  return read_plan(ctx, d, prefill, p);
}

radix_status attention_workspace(const radix_ctx& ctx, const radix_attn& d, bool prefill,
                                 uint64_t* bytes) {
  AttentionParams p;
  radix_status st = read_attn(ctx, d, prefill, false, &p);
  if (st == RADIX_OK) st = ctx.backend->attention_workspace(p, prefill, bytes);
  if (st != RADIX_OK || d.plan == nullptr) return st;
  const uint64_t listed = prefill ? 0 : d.plan->list.workspace_bytes;
  const uint64_t radix = d.plan->radix.limits.workspace_bytes;
  if (listed > *bytes) *bytes = listed;
  if (radix > *bytes) *bytes = radix;
  return RADIX_OK;
}

radix_status read_rope(const radix_ctx& ctx, const radix_rope_append& d, RopeAppendParams* p) {
  KvView kv;
  radix_status st = check_rope_words(d);
  if (st == RADIX_OK)
    st = check_flags(d.flags, RADIX_ATTN_SCALE_PER_HEAD, "RADIX_ATTN_SCALE_PER_HEAD or 0");
  if (st == RADIX_OK) st = check_scales(ctx, d.k_scale, d.v_scale);
  if (st == RADIX_OK) st = read_rope_scaling(d, p);
  if (st == RADIX_OK) st = read_kv(ctx, d.k_cache, d.v_cache, d.kv_layout, d.layer, true, &kv);
  if (st == RADIX_OK) st = check_written(d.k_cache, "k_cache");
  if (st == RADIX_OK) st = check_written(d.v_cache, "v_cache");
  if (st == RADIX_OK) st = read_rope_rows(ctx, d, kv, p);
  if (st == RADIX_OK) st = check_array(d.slots, d.num_tokens, "d->slots");
  if (st == RADIX_OK && d.rotary_dim != 0)
    st = check_array(d.positions, d.num_tokens, "d->positions");
  if (st != RADIX_OK) return st;
  if (d.rotary_dim % 2 != 0 || d.rotary_dim > kv.head_dim) {
    return fail(RADIX_E_INVALID, "d->rotary_dim is %u: expected an even number up to %u",
                d.rotary_dim, kv.head_dim);
  }
  p->num_tokens = d.num_tokens;
  p->num_kv_heads = kv.num_kv_heads;
  p->head_dim = kv.head_dim;
  p->head_dim_v = kv.head_dim_v;
  p->block_size = kv.block_size;
  p->num_blocks = kv.num_blocks;
  p->rotary_dim = d.rotary_dim;
  p->k_scale = d.k_scale;
  p->v_scale = d.v_scale;
  p->kv_scale_per_head = (d.flags & RADIX_ATTN_SCALE_PER_HEAD) != 0;
  p->k_cache = kv.k;
  p->v_cache = kv.v;
  p->slots = d.slots;
  p->positions = d.positions;
  return RADIX_OK;
}

}  // namespace radixattn
