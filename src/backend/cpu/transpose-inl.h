// Rows of floats into the columns of a panel (kernels' [element][row] order) and back. For kernel
// sources only (see simd-inl.h).
#pragma once

#include "backend/cpu/simd-inl.h"

namespace radixattn {
namespace RADIX_CPU_TARGET_NS {

// to[i * to_stride + j] = from[j * from_stride + i] for i < kLanes, j < 4.
RADIX_INLINE void transpose_four(const float* from, size_t from_stride, float* to,
                                 size_t to_stride) {
#if HWY_TARGET == HWY_SCALAR
  for (size_t j = 0; j < 4; ++j) to[j] = from[j * from_stride];
  (void)to_stride;
#else
  const DF d;
  const hn::Repartition<uint64_t, DF> pairs;
  const VF a = hn::LoadU(d, from), b = hn::LoadU(d, from + from_stride);
  const VF c = hn::LoadU(d, from + 2 * from_stride), e = hn::LoadU(d, from + 3 * from_stride);
  // In each block of four lanes: a0 b0 a1 b1, a2 b2 a3 b3; then a0 b0 c0 e0, a1 b1 c1 e1, ...
  const auto ab_low = hn::BitCast(pairs, hn::InterleaveLower(d, a, b));
  const auto ab_high = hn::BitCast(pairs, hn::InterleaveUpper(d, a, b));
  const auto ce_low = hn::BitCast(pairs, hn::InterleaveLower(d, c, e));
  const auto ce_high = hn::BitCast(pairs, hn::InterleaveUpper(d, c, e));
  alignas(64) float column[4][kLanes];
  hn::Store(hn::BitCast(d, hn::InterleaveLower(pairs, ab_low, ce_low)), d, column[0]);
  hn::Store(hn::BitCast(d, hn::InterleaveUpper(pairs, ab_low, ce_low)), d, column[1]);
  hn::Store(hn::BitCast(d, hn::InterleaveLower(pairs, ab_high, ce_high)), d, column[2]);
  hn::Store(hn::BitCast(d, hn::InterleaveUpper(pairs, ab_high, ce_high)), d, column[3]);
  for (size_t i = 0; i < kLanes; ++i)
    __builtin_memcpy(to + i * to_stride, &column[i % 4][i / 4 * 4], 4 * sizeof(float));
#endif
}

// to[e * width + j] = rows[j * row_stride + e] for e < n, j < 4.
RADIX_INLINE void rows_to_columns(const float* rows, size_t row_stride, size_t n, float* to,
                                  size_t width) {
  size_t e = 0;
  for (; e + kLanes <= n; e += kLanes) transpose_four(rows + e, row_stride, to + e * width, width);
  for (; e < n; ++e) {
    for (size_t j = 0; j < 4; ++j) to[e * width + j] = rows[j * row_stride + e];
  }
}

// rows[i * row_stride + e] = from[e * width + i] for i < kLanes, e < n, a multiple of 4.
RADIX_INLINE void columns_to_rows(const float* from, size_t width, size_t n, float* rows,
                                  size_t row_stride) {
  for (size_t e = 0; e < n; e += 4) transpose_four(from + e * width, width, rows + e, row_stride);
}

}  // namespace RADIX_CPU_TARGET_NS
}  // namespace radixattn
