// What the launch of a matrix product hands to its kernels: plain structs and the sizes that both
// sides must agree on, shared by code of every target.
#pragma once

#include <cstdint>

#include "backend/backend.h"

namespace radixattn {

constexpr uint32_t kGemmPanel = 4;      // rows of W (columns of y) that a kernel walks together
constexpr uint32_t kGemmMaxGroup = 6;   // rows of x that it walks with them, at most
constexpr uint32_t kGemmFewGroups = 2;  // groups for which W is not widened first
constexpr uint32_t kGemmChunk = 1024;  // elements of `in` summed at a time: part of the sums' order
constexpr uint32_t kGemmRowBlock = 192;  // rows of an item: a multiple of every group in use
constexpr uint32_t kGemmOutBlock = 128;  // columns of an item when there are many rows

static inline __attribute__((always_inline)) constexpr uint64_t gemm_padded(uint64_t n) {
  return (n + 15) / 16 * 16;  // whole vectors of every target
}

// Rows [row_begin, row_end) and columns [out_begin, out_end) of y; out_begin is a multiple of
// kGemmPanel.
struct GemmItem {
  uint32_t row_begin = 0, row_end = 0;
  uint32_t out_begin = 0, out_end = 0;
};

// Worker scratch in floats, for items of at most `rows` rows (layout: gemm.cpp).
static inline __attribute__((always_inline)) uint64_t gemm_scratch_floats(uint32_t rows,
                                                                          uint32_t in) {
  const uint32_t most = kGemmFewGroups * kGemmMaxGroup;
  const uint32_t full = rows + kGemmFewGroups;  // the rows of groups that are not full
  const uint64_t few = (full < most ? full : most) * gemm_padded(in);
  const uint64_t block = (rows < kGemmRowBlock ? rows : kGemmRowBlock) + kGemmMaxGroup;
  const uint64_t chunk = gemm_padded(in < kGemmChunk ? in : kGemmChunk);
  const uint64_t many = (block + kGemmPanel) * chunk + block * kGemmOutBlock;
  return few > many ? few : many;
}

}  // namespace radixattn
