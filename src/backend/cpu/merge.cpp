// Merging attention states (compiled once for every target).
//
//   w_i = exp(lse_i - top),  top = max lse_i;   out = sum w_i o_i / sum w_i;   lse = top + ln sum
//   w_i
//
// A state with LSE -inf counts for nothing, whatever its o holds. States are added in the order in
// which they stand. Source: Rabe & Staats 2021, section 3.
#include "backend/cpu/attention_jobs.h"
#include "backend/cpu/kernel_set-inl.h"
#include "backend/cpu/math-inl.h"

namespace radixattn {
namespace RADIX_CPU_TARGET_NS {
namespace {

constexpr uint32_t kMaxDim = 256;

void load(const RowTensor& t, int64_t at, uint32_t dim, float* out) {
  if (t.dtype == RADIX_F32) row_to_f32(static_cast<const F32*>(t.data) + at, out, dim);
  if (t.dtype == RADIX_F16) row_to_f32(static_cast<const F16*>(t.data) + at, out, dim);
  if (t.dtype == RADIX_BF16) row_to_f32(static_cast<const BF16*>(t.data) + at, out, dim);
}

void store(const RowTensor& t, int64_t at, uint32_t dim, const float* from) {
  if (t.dtype == RADIX_F32) row_from_f32(from, static_cast<F32*>(t.data) + at, dim);
  if (t.dtype == RADIX_F16) row_from_f32(from, static_cast<F16*>(t.data) + at, dim);
  if (t.dtype == RADIX_BF16) row_from_f32(from, static_cast<BF16*>(t.data) + at, dim);
}

int64_t offset(const RowTensor& t, uint32_t row, uint32_t head) {
  return row * t.row_stride + head * t.head_stride;
}

void merge_head(const MergeParams& p, uint32_t row, uint32_t head) {
  const DF d;
  const int64_t at = int64_t{row} * p.num_heads + head;
  alignas(64) float sum[kMaxDim] = {}, o[kMaxDim] = {};
  float top = kMinusInf, total = 0.f;
  for (uint32_t i = 0; i < p.num_states; ++i) top = p.in_lse[i][at] > top ? p.in_lse[i][at] : top;
  for (uint32_t i = 0; i < p.num_states; ++i) {
    // The difference first: it is exact where it matters, the products of large ones are not.
    const float lse = p.in_lse[i][at];
    const float weight = lse == kMinusInf ? 0.f : exp2_one((lse - top) * kLog2e);
    if (weight == 0.f) continue;
    total += weight;
    load(p.in[i], offset(p.in[i], row, head), p.head_dim, o);
    for (uint32_t e = 0; e < padded(p.head_dim); e += kLanes)
      hn::StoreU(hn::MulAdd(hn::Set(d, weight), hn::LoadU(d, o + e), hn::LoadU(d, sum + e)), d,
                 sum + e);
  }
  const float factor = top == kMinusInf ? 0.f : 1.f / total;
  for (uint32_t e = 0; e < p.head_dim; ++e) sum[e] *= factor;
  store(p.out, offset(p.out, row, head), p.head_dim, sum);
  if (p.out_lse != nullptr)
    p.out_lse[at] = top == kMinusInf ? kMinusInf : top + log2_one(total) * kLn2;
}

}  // namespace

void merge_states(const MergeParams& p, uint32_t row_begin, uint32_t row_end) {
  for (uint32_t row = row_begin; row < row_end; ++row) {
    for (uint32_t head = 0; head < p.num_heads; ++head) merge_head(p, row, head);
  }
}

}  // namespace RADIX_CPU_TARGET_NS
}  // namespace radixattn
