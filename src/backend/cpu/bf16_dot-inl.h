// Products of bf16 queries, keys, weights and values with the bf16 dot product of AVX-512
// (VDPBF16PS): two multiply-adds a lane. For kernel sources only (see simd-inl.h).
//
// Scores of bf16 queries and keys always go this way, on K as it lies in the cache, unpacked
// nowhere: products of two bf16 numbers are exact in f32 and their sums are f32, so that scores are
// as accurate as those of unpacked f32 keys. bf16 numbers below 2^-126 count as zero.
//
// Values meet rounded weights (2^-9 of each) only where AttentionParams::bf16_weights asks for it.
// The sum of weights takes them as they were, so that the LSE stays exact.
//
// NOTE: weights cut into two bf16 numbers take as many instructions as f32 multiply-adds. f32
// queries would be three bf16 numbers: slower than unpacking K.
#pragma once

#include "backend/cpu/attention_jobs.h"
#include "backend/cpu/simd-inl.h"

namespace radixattn {
namespace RADIX_CPU_TARGET_NS {

// True when the launch's scores take this way.
RADIX_INLINE bool has_bf16_scores(const AttentionParams& p) {
#if defined(__AVX512BF16__)
  return p.q.dtype == RADIX_BF16 && p.k.dtype == RADIX_BF16;
#else
  (void)p;
  return false;
#endif
}

// True when its values do.
RADIX_INLINE bool has_bf16_values(const AttentionParams& p) {
  return p.bf16_weights && has_bf16_scores(p) && p.v.dtype == RADIX_BF16;
}

// Two vectors of floats, rounded to nearest even, as pairs of bf16: `low` in the low halves.
RADIX_INLINE VF bf16_pairs(VF low, VF high) {
#if defined(__AVX512BF16__)
  alignas(64) static constexpr uint16_t kInterleave[32] = {
      0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(high.raw, low.raw);
  const __m512i order = _mm512_load_si512(kInterleave);
  return VF{_mm512_castsi512_ps(_mm512_permutexvar_epi16(order, both))};
#else
  (void)high;
  return low;
#endif
}

// c[r][row] = init + sum_i dot(a[r * kRowStep + i * kSumStep], b[i][row]) for R r and a panel of NV
// vectors. Each uint32_t of a and b holds two bf16 numbers; b and c are dense panels. alpha: init
// is alpha[row] * c[r][row], else 0, and sums are multiplied by `scale`.
template <uint32_t R, uint32_t NV, uint32_t kRowStep, uint32_t kSumStep>
RADIX_INLINE void multiply_bf16(const uint32_t* a, const uint32_t* b, uint32_t num_pairs,
                                const float* alpha, float scale, float* c) {
#if defined(__AVX512BF16__)
  const DF d;
  constexpr uint32_t kWidth = NV * kLanes;
  VF acc[R][NV];
#pragma GCC unroll 16
  for (uint32_t r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (uint32_t v = 0; v < NV; ++v) {
      acc[r][v] = alpha == nullptr ? hn::Zero(d)
                                   : hn::Mul(hn::LoadU(d, alpha + v * kLanes),
                                             hn::LoadU(d, c + r * kWidth + v * kLanes));
    }
  }
  const uint32_t* end = b + size_t{num_pairs} * kWidth;
  for (; b != end; b += kWidth, a += kSumStep) {
    __m512i row[NV];
#pragma GCC unroll 8
    for (uint32_t v = 0; v < NV; ++v) row[v] = _mm512_loadu_si512(b + v * kLanes);
#pragma GCC unroll 16
    for (uint32_t r = 0; r < R; ++r) {
      const __m512i x = _mm512_set1_epi32(static_cast<int>(a[r * kRowStep]));
#pragma GCC unroll 8
      for (uint32_t v = 0; v < NV; ++v) {
        acc[r][v].raw = _mm512_dpbf16_ps(acc[r][v].raw, (__m512bh)x, (__m512bh)row[v]);
      }
    }
  }
  const VF factor = hn::Set(d, scale);
#pragma GCC unroll 16
  for (uint32_t r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (uint32_t v = 0; v < NV; ++v) {
      const VF sum = alpha == nullptr ? hn::Mul(factor, acc[r][v]) : acc[r][v];
      hn::StoreU(sum, d, c + r * kWidth + v * kLanes);
    }
  }
#else
  (void)a, (void)b, (void)num_pairs, (void)alpha, (void)scale, (void)c;
#endif
}

}  // namespace RADIX_CPU_TARGET_NS
}  // namespace radixattn
