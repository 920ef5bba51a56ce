// Scores of bf16 queries and bf16 keys with the bf16 dot product of AVX-512 (VDPBF16PS): two
// multiply-adds a lane, on K as it lies in the cache, unpacked nowhere. For prefill.cpp only.
//
// Products of two bf16 numbers are exact in f32 and their sums are f32, so that scores are as
// accurate as those of unpacked f32 keys. bf16 numbers below 2^-126 count as zero.
//
// NOTE: only for scores. Weights rounded to bf16 would cost the result 2^-9 of the largest value,
// and weights cut into two bf16 numbers take as many instructions as f32 multiply-adds. f32 queries
// would be three bf16 numbers: slower than unpacking K. Decode reads K from memory, which is
// slower than either.
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

// c[r][row] = scale * sum_i dot(a[r * row_step + i], b[i][row]) for R r and a panel of NV vectors.
// Each uint32_t of a and b holds elements 2i (low half) and 2i + 1 of a row; b and c are dense
// panels.
template <uint32_t R, uint32_t NV>
RADIX_INLINE void multiply_bf16(const uint32_t* a, uint32_t row_step, const uint32_t* b,
                                uint32_t num_pairs, float scale, float* c) {
#if defined(__AVX512BF16__)
  const DF d;
  constexpr uint32_t kWidth = NV * kLanes;
  VF acc[R][NV];
#pragma GCC unroll 8
  for (uint32_t r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (uint32_t v = 0; v < NV; ++v) acc[r][v] = hn::Zero(d);
  }
  for (uint32_t i = 0; i < num_pairs; ++i) {
    __m512i row[NV];
#pragma GCC unroll 8
    for (uint32_t v = 0; v < NV; ++v) row[v] = _mm512_loadu_si512(b + i * kWidth + v * kLanes);
#pragma GCC unroll 8
    for (uint32_t r = 0; r < R; ++r) {
      const __m512i x = _mm512_set1_epi32(static_cast<int>(a[r * row_step + i]));
#pragma GCC unroll 8
      for (uint32_t v = 0; v < NV; ++v) {
        acc[r][v].raw = _mm512_dpbf16_ps(acc[r][v].raw, (__m512bh)x, (__m512bh)row[v]);
      }
    }
  }
  const VF factor = hn::Set(d, scale);
#pragma GCC unroll 8
  for (uint32_t r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (uint32_t v = 0; v < NV; ++v) {
      hn::StoreU(hn::Mul(factor, acc[r][v]), d, c + r * kWidth + v * kLanes);
    }
  }
#else
  (void)a, (void)row_step, (void)b, (void)num_pairs, (void)scale, (void)c;
#endif
}

}  // namespace RADIX_CPU_TARGET_NS
}  // namespace radixattn
