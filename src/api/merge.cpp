// radix_merge_states_launch: tensors of states become the backend's.
#include <cinttypes>
#include <cstdio>

#include "api/context.h"
#include "api/tensors.h"
#include "base/error.h"

namespace radixattn {
namespace {

struct States {
  Place place;
  int64_t rows, heads, dim;
};

// A dense [rows, heads] array of f32.
radix_status read_lse(const States& states, const radix_tensor& t, const char* name, float** out) {
  const radix_status st = check_tensor(t, name, states.place, 2, true);
  if (st != RADIX_OK) return st;
  if (t.dtype != RADIX_F32 || t.shape[0] != states.rows || t.shape[1] != states.heads) {
    return fail(RADIX_E_INVALID,
                "%s is [%" PRId64 ", %" PRId64 "] of dtype %d: expected [%" PRId64 ", %" PRId64
                "] of RADIX_F32",
                name, t.shape[0], t.shape[1], t.dtype, states.rows, states.heads);
  }
  if (t.shape[0] > 1 && stride_of(t, 0) != t.shape[1]) {
    return fail(RADIX_E_INVALID, "%s.stride[0] is %" PRId64 ": expected %" PRId64 ", dense", name,
                stride_of(t, 0), t.shape[1]);
  }
  *out = static_cast<float*>(t.data);
  return RADIX_OK;
}

// From the first element to behind the last, in bytes.
uint64_t span_of(const radix_tensor& t) {
  for (int32_t i = 0; i < t.ndim; ++i) {
    if (t.shape[i] == 0) return 0;  // and strides may be anything
  }
  int64_t last = 0;
  for (int32_t i = 0; i < t.ndim; ++i) last += (t.shape[i] - 1) * stride_of(t, i);
  return static_cast<uint64_t>(last + 1) * element_bytes(t.dtype);
}

// Whoever lies between the other's rows counts, too.
bool spans_meet(const radix_tensor& a, const radix_tensor& b) {
  if (span_of(a) == 0 || span_of(b) == 0) return false;
  const auto at_a = reinterpret_cast<uintptr_t>(a.data), at_b = reinterpret_cast<uintptr_t>(b.data);
  return at_a < at_b ? at_b - at_a < span_of(a) : at_a - at_b < span_of(b);
}

bool same_memory(const radix_tensor& a, const radix_tensor& b) {
  return a.data == b.data && a.dtype == b.dtype && stride_of(a, 0) == stride_of(b, 0) &&
         (a.ndim < 3 || stride_of(a, 1) == stride_of(b, 1));
}

// An output lies on the input of its kind or apart from it.
radix_status check_apart(const radix_tensor& out, const char* name, const radix_tensor& in,
                         const char* kind, uint32_t i) {
  if (!spans_meet(out, in) || same_memory(out, in)) return RADIX_OK;
  return fail(RADIX_E_INVALID,
              "%s.data is %p, inside %s[%u]: expected that very tensor, or memory "
              "of its own",
              name, out.data, kind, i);
}

radix_status read_states(const States& states, const radix_tensor* outs, const radix_tensor* lses,
                         MergeParams* p) {
  for (uint32_t i = 0; i < p->num_states; ++i) {
    char out_name[24], lse_name[24];
    std::snprintf(out_name, sizeof out_name, "outs[%u]", i);
    std::snprintf(lse_name, sizeof lse_name, "lses[%u]", i);
    radix_status st = read_rows(outs[i], out_name, states.place,
                                {states.rows, states.heads, states.dim}, false, true, &p->in[i]);
    float* lse = nullptr;
    if (st == RADIX_OK) st = read_lse(states, lses[i], lse_name, &lse);
    if (st != RADIX_OK) return st;
    p->in_lse[i] = lse;
  }
  return RADIX_OK;
}

radix_status check_overlap(const radix_tensor* outs, const radix_tensor* lses, uint32_t n,
                           const radix_tensor& out, const radix_tensor* lse) {
  for (uint32_t i = 0; i < n; ++i) {
    radix_status st = check_apart(out, "out", outs[i], "outs", i);
    if (st == RADIX_OK && lse != nullptr) st = check_apart(*lse, "lse", lses[i], "lses", i);
    if (st != RADIX_OK) return st;
    if (spans_meet(out, lses[i]) || (lse != nullptr && spans_meet(*lse, outs[i]))) {
      return fail(RADIX_E_INVALID,
                  "out or lse lies inside lses[%u] or outs[%u]: expected memory "
                  "of its own",
                  i, i);
    }
  }
  if (lse == nullptr || !spans_meet(out, *lse)) return RADIX_OK;
  return fail(RADIX_E_INVALID, "lse.data is %p, inside out: expected memory of its own", lse->data);
}

radix_status read_merge(const radix_ctx& ctx, const radix_tensor* outs, const radix_tensor* lses,
                        const radix_tensor& out, const radix_tensor* lse, MergeParams* p) {
  const Place place = {ctx.config.device, ctx.config.device_index};
  const bool wants_lse = lse != nullptr && lse->data != nullptr;
  radix_status st = check_tensor(out, "out", place, 3, true);
  if (st == RADIX_OK) st = check_head_dim("out", out.shape[2]);
  if (st != RADIX_OK) return st;
  const States states = {place, out.shape[0], out.shape[1], out.shape[2]};
  st = read_rows(out, "out", place, {states.rows, states.heads, states.dim}, true, true, &p->out);
  if (st == RADIX_OK && wants_lse) st = read_lse(states, *lse, "lse", &p->out_lse);
  if (st == RADIX_OK) st = read_states(states, outs, lses, p);
  if (st == RADIX_OK) st = check_overlap(outs, lses, p->num_states, out, wants_lse ? lse : nullptr);
  p->num_rows = static_cast<uint32_t>(states.rows);
  p->num_heads = static_cast<uint32_t>(states.heads);
  p->head_dim = static_cast<uint32_t>(states.dim);
  return st;
}

}  // namespace
}  // namespace radixattn

using namespace radixattn;

extern "C" radix_status radix_merge_states_launch(radix_ctx* ctx, const radix_tensor* outs,
                                                  const radix_tensor* lses, uint32_t n,
                                                  const radix_tensor* out, const radix_tensor* lse,
                                                  radix_stream s) RADIX_NOEXCEPT {
  radix_status st = check_ctx(ctx);
  if (st == RADIX_OK) st = not_null(out, "out");
  if (st != RADIX_OK) return st;
  if (n == 0 || n > MergeParams::kMaxStates)
    return fail(RADIX_E_INVALID, "n is %u: expected 1..%u", n, MergeParams::kMaxStates);
  MergeParams p;
  p.num_states = n;
  st = check_array(outs, n, "outs");
  if (st == RADIX_OK) st = check_array(lses, n, "lses");
  if (st == RADIX_OK) st = check_stream(*ctx, s);
  if (st == RADIX_OK) st = read_merge(*ctx, outs, lses, *out, lse, &p);
  return st == RADIX_OK ? ctx->backend->merge_states(p, s) : st;
}
