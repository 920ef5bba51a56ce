// What radix attention's kernels share: items and rows of a list, whatever its arrays say, where
// partial states lie, and the one way in which two states of a row become one.
//
// A partial state is (o, m, l) of a row over some keys: the sum of values weighted by 2^(x - m),
// the largest score m in units of log 2 and the sum l of the weights; m = -inf: no key, o is not
// looked at. Products and sums are written out as single roundings and fused multiply-adds: left to
// the compiler, two places could fuse differently, and batch-invariant bits would depend on where a
// state was folded.
//
// Device code only; no state, no barriers.
#pragma once

#include "cuda/kernels/attention_tile.h"

namespace radixattn::cuda {

// ---- rows ---------------------------------------------------------------------------------------

RADIX_DEVICE int64_t clamped(int64_t x, int64_t low, int64_t high) {
  return x < low ? low : x > high ? high : x;
}

// Query rows of the launch, of which q has that many.
RADIX_DEVICE int32_t num_queries(const AttentionParams& p) {
  if (p.cu_q_lens == nullptr) return static_cast<int32_t>(p.num_seqs);
  return static_cast<int32_t>(clamped(p.cu_q_lens[p.num_seqs], 0, p.num_q_rows));
}
RADIX_DEVICE int64_t queries_at_most(const AttentionParams& p) {  // of a sequence
  return p.cu_q_lens != nullptr ? p.max_query_len : 1;
}

// A query row and the position it stands at; query < 0: no row. Positions are cut to where sums
// with them cannot overflow.
struct RowPlace {
  int32_t query, position;
};
RADIX_DEVICE RowPlace row_place(const AttentionParams& p, int64_t query, int64_t position) {
  if (query < 0 || query >= num_queries(p)) return {-1, -1};
  return {static_cast<int32_t>(query),
          static_cast<int32_t>(clamped(position, -1, INT32_MAX - kSegmentTokens))};
}

// Sorted rows of the list: there are never more than queries.
RADIX_DEVICE int32_t num_sorted_rows(const AttentionParams& p) {
  return static_cast<int32_t>(clamped(p.radix.sizes->num_rows, 0, num_queries(p)));
}
RADIX_DEVICE RowPlace sorted_row(const AttentionParams& p, int64_t sorted) {
  if (sorted < 0 || sorted >= num_sorted_rows(p)) return {-1, -1};
  const RadixRow row = p.radix.rows[sorted];
  return row_place(p, row.query, row.position);
}

// ---- states -------------------------------------------------------------------------------------

// Where the state `index` of a head lies; -1 when there is none.
RADIX_DEVICE int64_t state_place(const AttentionParams& p, const RadixSplit& split, int64_t index,
                                 uint32_t head) {
  return index < 0 || index >= static_cast<int64_t>(split.max_states)
             ? -1
             : index * p.num_q_heads + head;
}

// How a state m1 and one over later keys, m2, go together: o = o1 * of_first + o2 * of_second, l
// likewise. An empty one changes no bit of the other.
struct Fold {
  float m, of_first, of_second;
};
RADIX_DEVICE Fold fold_of(float m1, float m2) {
  const float m = fmaxf(m1, m2);
  return {m, shrink(m1, m), shrink(m2, m)};
}
RADIX_DEVICE float folded(const Fold& fold, float first, float second) {
  return fmaf(first, fold.of_first, mul_rn(second, fold.of_second));
}

// An element of a row's result; -0 does not show, which a sum over other tiles might leave.
RADIX_DEVICE float result_of(float o, float factor, float v_scale) {
  return add_rn(mul_rn(o, mul_rn(factor, v_scale)), 0.f);
}

}  // namespace radixattn::cuda
