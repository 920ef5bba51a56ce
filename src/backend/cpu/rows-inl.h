// Query rows in, result rows out: what decode and prefill share. For kernel sources only (see
// simd-inl.h).
#pragma once

#include "backend/cpu/attention_jobs.h"
#include "backend/cpu/math-inl.h"

namespace radixattn {
namespace RADIX_CPU_TARGET_NS {

// Scores leave the dot product in units of log 2; under a soft cap, in units of the cap.
RADIX_INLINE float query_scale(const AttentionParams& p) {
  return p.softcap > 0.f ? p.scale / p.softcap : p.scale * kLog2e;
}

template <class T>
RADIX_INLINE void scaled_row(const T* from, uint32_t n, float scale, float* out) {
  row_to_f32(from, out, n);
  for (uint32_t i = 0; i < n; ++i) out[i] *= scale;
}

// out[0 .. head_dim) = scale * the query of one row and head.
RADIX_INLINE void load_query(const AttentionParams& p, int64_t row, uint32_t head, float scale,
                             float* out) {
  const int64_t at = row * p.q.row_stride + head * p.q.head_stride;
  if (p.q.dtype == RADIX_F32)
    scaled_row(static_cast<const F32*>(p.q.data) + at, p.head_dim, scale, out);
  if (p.q.dtype == RADIX_F16)
    scaled_row(static_cast<const F16*>(p.q.data) + at, p.head_dim, scale, out);
  if (p.q.dtype == RADIX_BF16)
    scaled_row(static_cast<const BF16*>(p.q.data) + at, p.head_dim, scale, out);
}

// Writes the result of one row and head from its unnormalised state: `o` has padded(head_dim_v)
// floats and is scaled in place, m is base 2, m = -inf means that the row saw nothing.
RADIX_INLINE void finish_row(const AttentionParams& p, int64_t row, uint32_t head, float* o,
                             float m, float l) {
  const DF d;
  float factor = m == kMinusInf ? 0.f : 1.f / l;
  if (p.sinks != nullptr && m != kMinusInf) {
    // The sink is one more key without a value: once, here, after everything else is together.
    const float sink = p.sinks[head] * kLog2e;
    const float top = m > sink ? m : sink;
    const float shrink = exp2_one(m - top);
    l = l * shrink + exp2_one(sink - top);
    factor = shrink / l;
    m = top;
  }
  for (uint32_t i = 0; i < padded(p.head_dim_v); i += kLanes) {
    // Sums of nothing but zeros may end as -0, depending on how many there were.
    const VF sum = hn::Add(hn::LoadU(d, o + i), hn::Zero(d));
    hn::StoreU(hn::Mul(hn::Set(d, factor), sum), d, o + i);
  }
  const int64_t at = row * p.out.row_stride + head * p.out.head_stride;
  if (p.out.dtype == RADIX_F32) row_from_f32(o, static_cast<F32*>(p.out.data) + at, p.head_dim_v);
  if (p.out.dtype == RADIX_F16) row_from_f32(o, static_cast<F16*>(p.out.data) + at, p.head_dim_v);
  if (p.out.dtype == RADIX_BF16) row_from_f32(o, static_cast<BF16*>(p.out.data) + at, p.head_dim_v);
  if (p.lse != nullptr) {
    p.lse[row * p.lse_row_stride + head * p.lse_head_stride] =
        m == kMinusInf ? kMinusInf : (m + log2_one(l)) * kLn2;
  }
}

// What two states of a row are multiplied by to become one, a lane a row: 2^(m_i - m), and m, the
// larger maximum. With a fold of o and l as in fold(), this is the only way in which states of
// lists and segments meet, wherever they lie.
struct FoldFactors {
  VF m, total, part;
};

RADIX_INLINE FoldFactors fold_factors(VF m_total, VF m_part) {
  const DF d;
  FoldFactors f;
  f.m = hn::Max(m_total, m_part);
  const VF shift = hn::IfThenElse(hn::Eq(f.m, hn::Set(d, kMinusInf)), hn::Zero(d), f.m);
  f.total = exp2_f32(hn::Sub(m_total, shift));
  f.part = exp2_f32(hn::Sub(m_part, shift));
  return f;
}

RADIX_INLINE VF fold(const FoldFactors& f, VF total, VF part) {
  return hn::MulAdd(part, f.part, hn::Mul(total, f.total));
}

}  // namespace RADIX_CPU_TARGET_NS
}  // namespace radixattn
