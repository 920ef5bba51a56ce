// Blocked products of a tile of K or V with a panel of query rows, rows along the lanes, and the
// softmax between them: what prefill.cpp does with one tile and one panel. For kernel sources only
// (see simd-inl.h).
//
//        S^T [token][row]  = K [token][d]    * Q^T [d][row]       scores of a tile and a panel
//        O^T [dv][row]    += V^T [dv][token] * P^T [token][row]
//
// Invariant: what a row gets depends on its query, its position and the tile alone. Lanes and
// panels, their widths and the rows beside it change no bit; nor do tokens that it does not see.
#pragma once

#include "backend/cpu/attention_jobs.h"
#include "backend/cpu/bf16_dot-inl.h"
#include "backend/cpu/math-inl.h"

namespace radixattn {
namespace RADIX_CPU_TARGET_NS {

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr uint32_t kBroadcasts = 8;
#else
constexpr uint32_t kBroadcasts = 4;
#endif
constexpr uint32_t kVectors = 3;
static_assert(kVectors * kLanes <= kPrefillMaxPanel, "scratch is sized by kPrefillMaxPanel");
static_assert(kPrefillRows % (kVectors * kLanes) == 0, "an item is a whole number of panels");
static_assert(kPrefillFewRows % (kVectors * kLanes) == 0, "an item is a whole number of panels");

// Rows of the left operand that meet NV vectors at a time: enough sums to hide their latency.
template <uint32_t NV>
constexpr uint32_t broadcasts() {
  return NV == 1 ? 2 * kBroadcasts : kBroadcasts;
}

// Tokens [position, position + n) of K and V, unpacked, of which the first `unseen` are zeros; rows
// up to a multiple of 16 are zeros, too.
struct KvTile {
  uint32_t position = 0, n = 0, unseen = 0;
};

// ---- the micro-kernel

// c[r][row] = (alpha ? alpha[row]*c[r][row] : 0) + sum_k a[r*kRowStep + k*kSumStep] * b[k][row]
// for R r and a panel of NV vectors; b and c are dense panels.
template <uint32_t R, uint32_t NV, uint32_t kRowStep, uint32_t kSumStep>
RADIX_INLINE void multiply(const float* a, const float* b, uint32_t n, const float* alpha,
                           float* c) {
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
  for (const float* end = b + size_t{n} * kWidth; b != end; b += kWidth, a += kSumStep) {
    VF row[NV];
#pragma GCC unroll 8
    for (uint32_t v = 0; v < NV; ++v) row[v] = hn::LoadU(d, b + v * kLanes);
#pragma GCC unroll 16
    for (uint32_t r = 0; r < R; ++r) {
      const VF x = hn::Set(d, a[r * kRowStep]);
#pragma GCC unroll 8
      for (uint32_t v = 0; v < NV; ++v) acc[r][v] = hn::MulAdd(x, row[v], acc[r][v]);
    }
  }
#pragma GCC unroll 16
  for (uint32_t r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (uint32_t v = 0; v < NV; ++v) hn::StoreU(acc[r][v], d, c + r * kWidth + v * kLanes);
  }
}

// ---- the new tokens of a speculative tree

// Rows of a vector as their tree mask has them.
struct TreeRows {
  int32_t first_new = 0x7fffffff;    // position of the sequence's first new token
  const uint8_t* bits[kLanes] = {};  // null: no row
};

// 1 for each row that sees key j, which is a new token, else 0.
RADIX_INLINE VF tree_sees(const TreeRows& rows, int32_t j) {
  alignas(64) float sees[kLanes];
  const int32_t fresh = j - rows.first_new;
  for (uint32_t i = 0; i < kLanes; ++i)
    sees[i] = rows.bits[i] != nullptr && (rows.bits[i][fresh / 8] >> (fresh % 8) & 1) != 0;
  return hn::LoadU(DF(), sees);
}

// ---- softmax of a panel

// Visible tokens of a row; positions stay below 2^31, so that this is "no limit" too.
RADIX_INLINE int64_t window_of(const AttentionParams& p) {
  return p.window == 0 || p.window > 0x7fffffffu ? 0x7fffffff : int64_t{p.window};
}

// The state of a panel's rows, and where they stand.
struct LaneState {
  const int32_t* at;
  float* m;
  float* l;
  float* alpha;
};

// Caps, biases and masks n tokens' scores, `width` apart; returns the maximum with `top`.
template <uint32_t kWidth>
RADIX_INLINE VF mask_scores(const AttentionParams& p, const KvTile& tile, uint32_t n, VF slope,
                            const TreeRows& tree, const int32_t* at, float* s, VF top) {
  const DF d;
  const DI di;
  const auto position = hn::LoadU(di, at);
  const VF cap = hn::Set(d, p.softcap * kLog2e);
  const auto window = hn::Set(di, static_cast<int32_t>(window_of(p)));
  for (uint32_t t = 0; t < n; ++t) {
    const auto token = static_cast<int32_t>(tile.position + t);
    const auto distance = hn::Sub(position, hn::Set(di, token));
    VF x = hn::LoadU(d, s + t * kWidth);
    if (p.softcap > 0.f) x = hn::Mul(cap, tanh_f32(x));
    x = hn::NegMulAdd(slope, hn::ConvertTo(d, distance), x);
    const auto ahead = token >= tree.first_new
                           ? hn::Gt(tree_sees(tree, token), hn::Zero(d))
                           : hn::RebindMask(d, hn::Gt(distance, hn::Set(di, -1)));
    const auto seen = hn::And(ahead, hn::RebindMask(d, hn::Lt(distance, window)));
    x = hn::IfThenElse(seen, x, hn::Set(d, kMinusInf));
    hn::StoreU(x, d, s + t * kWidth);
    top = hn::Max(top, x);
  }
  return top;
}

// The maximum of n tokens' scores with `top`, for NV vectors of rows.
template <uint32_t NV>
RADIX_INLINE void max_scores(uint32_t n, const float* s, VF* top) {
  const DF d;
  constexpr uint32_t kWidth = NV * kLanes;
  for (const float* end = s + size_t{n} * kWidth; s != end; s += kWidth) {
#pragma GCC unroll 8
    for (uint32_t v = 0; v < NV; ++v) top[v] = hn::Max(top[v], hn::LoadU(d, s + v * kLanes));
  }
}

// NV vectors of rows: s holds n tokens' scores, of which `top` is the maximum (with the m before);
// they become weights. kPairs: as pairs of bf16, token 2i in the low half of row i. The vectors are
// independent chains of instructions, side by side.
template <uint32_t NV, bool kPairs>
RADIX_INLINE void weigh_scores(uint32_t n, const VF* top, const LaneState& lane, float* s) {
  const DF d;
  constexpr uint32_t kWidth = NV * kLanes;
  VF shift[NV], sum[NV];
#pragma GCC unroll 8
  for (uint32_t v = 0; v < NV; ++v) {
    const uint32_t at = v * kLanes;
    // A row that has seen nothing keeps m = -inf; 0 stands in for it, because inf - inf is NaN.
    shift[v] = hn::IfThenElse(hn::Eq(top[v], hn::Set(d, kMinusInf)), hn::Zero(d), top[v]);
    const VF shrink = exp2_f32(hn::Sub(hn::LoadU(d, lane.m + at), shift[v]));
    sum[v] = hn::Mul(shrink, hn::LoadU(d, lane.l + at));
    hn::StoreU(shrink, d, lane.alpha + at);
    hn::StoreU(top[v], d, lane.m + at);
  }
  const auto weight = [&](uint32_t t, uint32_t v) __attribute__((always_inline)) {
    return exp2_f32(hn::Sub(hn::LoadU(d, s + t * kWidth + v * kLanes), shift[v]));
  };
  if constexpr (kPairs) {
    for (uint32_t t = 0; t < n; t += 2) {
#pragma GCC unroll 8
      for (uint32_t v = 0; v < NV; ++v) {
        const VF even = weight(t, v);
        const VF odd = t + 1 < n ? weight(t + 1, v) : hn::Zero(d);
        hn::StoreU(bf16_pairs(even, odd), d, s + t / 2 * kWidth + v * kLanes);
        sum[v] = hn::Add(hn::Add(sum[v], even), odd);
      }
    }
  } else {
    for (uint32_t t = 0; t < n; ++t) {
#pragma GCC unroll 8
      for (uint32_t v = 0; v < NV; ++v) {
        const VF e = weight(t, v);
        hn::StoreU(e, d, s + t * kWidth + v * kLanes);
        sum[v] = hn::Add(sum[v], e);
      }
    }
  }
#pragma GCC unroll 8
  for (uint32_t v = 0; v < NV; ++v) hn::StoreU(sum[v], d, lane.l + v * kLanes);
}

}  // namespace RADIX_CPU_TARGET_NS
}  // namespace radixattn
