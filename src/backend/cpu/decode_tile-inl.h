// The two products of decode, a tile of K/V against a pack of query heads. For decode.cpp only (see
// simd-inl.h).
//
// A pack is the 4, 2 or 1 query heads of one KV head that share one pass over K/V rows. Its q and o
// lie [vector][head][lane], so that a pack is one address and constant offsets.
//   scores   S[h][t] = q[h] . k[t]      4 tokens x 4 heads of accumulators, lanes over head_dim
//   values   o[h] = o[h]*alpha[h] + sum_t p[h][t] v[t]   o in registers for the whole tile
// bf16 queries and keys meet in the bf16 dot product where there is one (bf16_dot-inl.h).
//
// NOTE: these loops keep the multipliers as busy as memory allows, and what stands between them
// counts. Functions that are not inlined have the registers to themselves: g++ spills addresses
// into vector registers elsewhere, and such an address waits behind all multiplications before it.
#pragma once

#include "backend/cpu/bf16_dot-inl.h"
#include "backend/cpu/kv_stream-inl.h"
#include "backend/cpu/math-inl.h"

namespace radixattn {
namespace RADIX_CPU_TARGET_NS {

// Heads of the widest pack: 4 x 4 accumulators need 32 registers, 2 x 4 fit 16.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr uint32_t kPackHeads = 4;
#else
constexpr uint32_t kPackHeads = 2;
#endif
constexpr uint32_t kTurn = 16;                        // elements of head_dim between prefetches
constexpr uint32_t kTokens = 4;                       // tokens of one step
constexpr uint32_t kValueVecs = kLanes == 1 ? 8 : 4;  // vectors of head_dim_v of a value step
constexpr uint32_t kStep = kQuadHeads * kTokens;      // scores of one step of a quad: [head][token]

// A tile: element offsets of its K and V rows (head 0); entries past n repeat the last row.
struct Tile {
  uint32_t position = 0;  // of its first token
  uint32_t n = 0;
  int64_t k[kTileTokens];
  int64_t v[kTileTokens];
};

constexpr uint32_t kTileSteps = kTileTokens / kTokens;
// The order in which a tile's steps are taken: no constant stride (decode.cpp says why).
constexpr uint8_t kStepOrder[kTileSteps] = {0, 2, 3, 1};

// ---- packs

// Heads of the next pack, of `left` heads of a quad.
RADIX_INLINE constexpr uint32_t pack_heads(uint32_t left) {
  return left >= kPackHeads ? kPackHeads : left >= 2 ? 2 : 1;
}

// Where the row of head i of a quad of `heads` has its first vector, and how far away the next is.
struct PackedRow {
  float* at;
  size_t step;
};

RADIX_INLINE PackedRow packed_row(float* quad, uint32_t heads, uint32_t stride, uint32_t i) {
  uint32_t begin = 0, n = pack_heads(heads);
  while (i >= begin + n) {
    begin += n;
    n = pack_heads(heads - begin);
  }
  return {quad + size_t{begin} * stride + (i - begin) * kLanes, n * kLanes};
}

RADIX_INLINE void pack_row(const float* row, uint32_t stride, PackedRow to) {
  for (uint32_t i = 0; i < stride; i += kLanes, to.at += to.step)
    hn::StoreU(hn::LoadU(DF(), row + i), DF(), to.at);
}

RADIX_INLINE void unpack_row(PackedRow from, uint32_t stride, float* row) {
  for (uint32_t i = 0; i < stride; i += kLanes, from.at += from.step)
    hn::StoreU(hn::LoadU(DF(), from.at), DF(), row + i);
}

// ---- sums over lanes

#if HWY_TARGET != HWY_SCALAR
// Block j of the result holds the sums of block j of the four vectors.
RADIX_INLINE VF sum_in_blocks(const VF v[kTokens]) {
  const DF d;
  const hn::Repartition<uint64_t, DF> d64;
  // ab = (a0+a2, b0+b2, a1+a3, b1+b3), then (a, b, c, e).
  const VF ab = hn::Add(hn::InterleaveLower(d, v[0], v[1]), hn::InterleaveUpper(d, v[0], v[1]));
  const VF ce = hn::Add(hn::InterleaveLower(d, v[2], v[3]), hn::InterleaveUpper(d, v[2], v[3]));
  const auto ab64 = hn::BitCast(d64, ab);
  const auto ce64 = hn::BitCast(d64, ce);
  return hn::Add(hn::BitCast(d, hn::InterleaveLower(d64, ab64, ce64)),
                 hn::BitCast(d, hn::InterleaveUpper(d64, ab64, ce64)));
}
#endif

// out[i] = sum of the lanes of vector i.
RADIX_INLINE void sum_lanes4(const VF v[kTokens], float* out) {
#if HWY_TARGET == HWY_SCALAR
  for (uint32_t i = 0; i < kTokens; ++i) out[i] = hn::GetLane(v[i]);
#else
  const VF sums = sum_in_blocks(v);
#if HWY_MAX_BYTES == 64
  const hn::Half<DF> d8;
  const hn::Half<decltype(d8)> d4;
  const auto s8 = hn::Add(hn::LowerHalf(d8, sums), hn::UpperHalf(d8, sums));
  hn::StoreU(hn::Add(hn::LowerHalf(d4, s8), hn::UpperHalf(d4, s8)), d4, out);
#elif HWY_MAX_BYTES == 32
  const hn::Half<DF> d4;
  hn::StoreU(hn::Add(hn::LowerHalf(d4, sums), hn::UpperHalf(d4, sums)), d4, out);
#else
  hn::StoreU(sums, DF(), out);
#endif
#endif
}

#if HWY_MAX_BYTES == 64
// The sums of 16 vectors: fewer shuffles than four times sum_lanes4.
RADIX_INLINE VF sum_lanes16(VF acc[4][kTokens]) {
  const DF d;
  VF a = sum_in_blocks(acc[0]), b = sum_in_blocks(acc[1]);
  VF c = sum_in_blocks(acc[2]), e = sum_in_blocks(acc[3]);
  // Blocks 0 and 1 hold the first head, 2 and 3 the second.
  const VF ac = hn::Add(hn::ConcatLowerLower(d, c, a), hn::ConcatUpperUpper(d, c, a));
  const VF be = hn::Add(hn::ConcatLowerLower(d, e, b), hn::ConcatUpperUpper(d, e, b));
  const VF own = hn::OddEvenBlocks(be, ac);    // a b c e, one half of each sum
  const VF other = hn::OddEvenBlocks(ac, be);  // b a e c, the other
  return hn::Add(own, hn::SwapAdjacentBlocks(other));
}
#endif

// ---- bf16 in pairs

// bf16 rows are loaded two vectors at a time and cut into their even and their odd elements, which
// takes half of the instructions of widening them in order. So q and o have such vectors in the
// place of each two in order: q in whole chunks of kPairChunk elements from the row's beginning on,
// o in those that value_pack takes kValueVecs at a time.
constexpr size_t kPairChunk = 2 * kLanes;
template <class T>
constexpr bool kInPairs = false;
template <>
constexpr bool kInPairs<BF16> = kLanes > 1;

#if HWY_TARGET != HWY_SCALAR
RADIX_INLINE void load_pair(const BF16* p, VF& even, VF& odd) {
  const DU d;
  const hn::Repartition<uint16_t, DU> d16;
  const auto both = hn::BitCast(d, hn::LoadU(d16, &p->bits));
  even = hn::BitCast(DF(), hn::ShiftLeft<16>(both));
  odd = hn::BitCast(DF(), hn::And(both, hn::Set(d, 0xffff0000u)));
}

// A row of floats from order to pairs and back.
RADIX_INLINE void order_to_pairs(float* row, size_t n) {
  for (size_t i = 0; i + kPairChunk <= n; i += kPairChunk) {
    VF even, odd;
    hn::LoadInterleaved2(DF(), row + i, even, odd);
    hn::StoreU(even, DF(), row + i);
    hn::StoreU(odd, DF(), row + i + kLanes);
  }
}

RADIX_INLINE void pairs_to_order(float* row, size_t n) {
  for (size_t i = 0; i + kPairChunk <= n; i += kPairChunk) {
    const VF even = hn::LoadU(DF(), row + i), odd = hn::LoadU(DF(), row + i + kLanes);
    hn::StoreInterleaved2(even, odd, DF(), row + i);
  }
}
#else  // a lane is an element: nothing is in pairs
RADIX_INLINE void load_pair(const BF16*, VF&, VF&) {}
RADIX_INLINE void order_to_pairs(float*, size_t) {}
RADIX_INLINE void pairs_to_order(float*, size_t) {}
#endif

// ---- scores

template <bool kHalf, class T>
RADIX_INLINE VF load_row(const T* p) {
  if constexpr (kHalf) {
    return load_f32_half(p);
  } else {
    return load_f32(p);
  }
}

// One vector of head_dim for kTokens rows and the NG heads of a pack.
template <uint32_t NG, bool kHalf, class T>
RADIX_INLINE void score_step(const float* q, const T* const rows[kTokens], size_t i,
                             VF acc[NG][kTokens]) {
  VF k[kTokens];
#pragma GCC unroll 8
  for (uint32_t t = 0; t < kTokens; ++t) k[t] = load_row<kHalf>(rows[t] + i);
#pragma GCC unroll 8
  for (uint32_t g = 0; g < NG; ++g) {
    const VF qv = hn::LoadU(DF(), q + i * NG + g * kLanes);
#pragma GCC unroll 8
    for (uint32_t t = 0; t < kTokens; ++t) acc[g][t] = hn::MulAdd(k[t], qv, acc[g][t]);
  }
}

// Two vectors of head_dim, in pairs.
template <uint32_t NG>
RADIX_INLINE void score_pair(const float* q, const BF16* const rows[kTokens], size_t i,
                             VF acc[NG][kTokens]) {
  VF even[kTokens], odd[kTokens];
#pragma GCC unroll 8
  for (uint32_t t = 0; t < kTokens; ++t) load_pair(rows[t] + i, even[t], odd[t]);
#pragma GCC unroll 8
  for (uint32_t g = 0; g < NG; ++g) {
    const VF qv = hn::LoadU(DF(), q + i * NG + g * kLanes);
#pragma GCC unroll 8
    for (uint32_t t = 0; t < kTokens; ++t) acc[g][t] = hn::MulAdd(even[t], qv, acc[g][t]);
  }
#pragma GCC unroll 8
  for (uint32_t g = 0; g < NG; ++g) {
    const VF qv = hn::LoadU(DF(), q + (i + kLanes) * NG + g * kLanes);
#pragma GCC unroll 8
    for (uint32_t t = 0; t < kTokens; ++t) acc[g][t] = hn::MulAdd(odd[t], qv, acc[g][t]);
  }
}

// A turn: 16 elements of head_dim, and a line of each stream for the next tile.
template <class T, uint32_t NG>
RADIX_INLINE void score_turn(const float* q, const T* const rows[kTokens], size_t i,
                             const Lines& lines, VF acc[NG][kTokens]) {
#pragma GCC unroll 16
  for (size_t j = 0; j < kTurn; j += kLanes) score_step<NG, false>(q, rows, i + j, acc);
  prefetch_turn(lines, i / kTurn);
}

// The products of one step, all of head_dim.
template <class T, uint32_t NG>
RADIX_INLINE void multiply_rows(const float* q, size_t head_dim, const T* const rows[kTokens],
                                const Lines& lines, VF acc[NG][kTokens]) {
  size_t i = 0;
  if constexpr (kInPairs<T>) {
    constexpr size_t kChunk = kPairChunk > kTurn ? kPairChunk : kTurn;
    const auto chunk = [&](size_t at) __attribute__((always_inline)) {
#pragma GCC unroll 8
      for (size_t j = 0; j < kChunk; j += kPairChunk) score_pair<NG>(q, rows, at + j, acc);
#pragma GCC unroll 8
      for (size_t j = 0; j < kChunk; j += kTurn) prefetch_turn(lines, (at + j) / kTurn);
    };
    if (head_dim == 128) {
#pragma GCC unroll 8
      for (; i < 128; i += kChunk) chunk(i);
      return;
    }
    for (; i + kChunk <= head_dim; i += kChunk) chunk(i);
    for (; i + kPairChunk <= head_dim; i += kPairChunk) score_pair<NG>(q, rows, i, acc);
  }
  if (head_dim == 128) {
#pragma GCC unroll 8
    for (; i < 128; i += kTurn) score_turn<T, NG>(q, rows, i, lines, acc);
    return;
  }
  for (; i + kTurn <= head_dim; i += kTurn) score_turn<T, NG>(q, rows, i, lines, acc);
  if constexpr (kLanes == kTurn) {
    if (i < head_dim) score_step<NG, true>(q, rows, i, acc);
  } else {
    for (; i < head_dim; i += kLanes) score_step<NG, false>(q, rows, i, acc);
  }
}

#if defined(__AVX512BF16__)
// Two vectors of head_dim (less in the last, of `words` pairs) with the bf16 dot product.
template <uint32_t NG, bool kWhole>
RADIX_INLINE void dot_step(const float* q, const BF16* const rows[kTokens], size_t i,
                           uint32_t words, VF acc[NG][kTokens]) {
  __m512i k[kTokens];
#pragma GCC unroll 8
  for (uint32_t t = 0; t < kTokens; ++t) {
    k[t] = kWhole
               ? _mm512_loadu_si512(rows[t] + i)
               : _mm512_maskz_loadu_epi32(static_cast<__mmask16>((1u << words) - 1), rows[t] + i);
  }
#pragma GCC unroll 8
  for (uint32_t g = 0; g < NG; ++g) {
    const __m512i qv = _mm512_loadu_si512(q + i / 2 * NG + g * kLanes);
#pragma GCC unroll 8
    for (uint32_t t = 0; t < kTokens; ++t)
      acc[g][t].raw = _mm512_dpbf16_ps(acc[g][t].raw, (__m512bh)k[t], (__m512bh)qv);
  }
}

template <uint32_t NG>
RADIX_INLINE void dot_rows(const float* q, size_t head_dim, const BF16* const rows[kTokens],
                           const Lines& lines, VF acc[NG][kTokens]) {
  constexpr size_t kPairs = 2 * kLanes;
  size_t i = 0;
  for (; i + kPairs <= head_dim; i += kPairs) {
    dot_step<NG, true>(q, rows, i, kLanes, acc);
    prefetch_turn(lines, i / kTurn);
    prefetch_turn(lines, i / kTurn + 1);
  }
  if (i < head_dim) dot_step<NG, false>(q, rows, i, static_cast<uint32_t>(head_dim - i) / 2, acc);
  if (head_dim - i >= kTurn) prefetch_turn(lines, i / kTurn);
}
#endif

// s[g][t] of one step. NOTE: so many parameters because they come in registers: a struct comes
// through memory, and the first loads wait for it (7% of the kernel's speed). kDot: q holds pairs
// of bf16, and sums are multiplied by `scale`.
template <class T, uint32_t NG, bool kDot>
RADIX_NOINLINE void scores(const float* q, size_t head_dim, const T* row0, const T* row1,
                           const T* row2, const T* row3, float scale, float* s,
                           const Lines& lines) {
  const Lines turn = lines;
  const T* const rows[kTokens] = {row0, row1, row2, row3};
  VF acc[NG][kTokens];
#pragma GCC unroll 8
  for (uint32_t g = 0; g < NG; ++g) {
#pragma GCC unroll 8
    for (uint32_t t = 0; t < kTokens; ++t) acc[g][t] = hn::Zero(DF());
  }
  if constexpr (kDot) {
    dot_rows<NG>(q, head_dim, rows, turn, acc);
  } else {
    multiply_rows<T, NG>(q, head_dim, rows, turn, acc);
  }
#if HWY_MAX_BYTES == 64
  if constexpr (NG == 4) {
    VF sums = sum_lanes16(acc);
    if constexpr (kDot) sums = hn::Mul(sums, hn::Set(DF(), scale));
    hn::StoreU(sums, DF(), s);
    return;
  }
#endif
#pragma GCC unroll 8
  for (uint32_t g = 0; g < NG; ++g) sum_lanes4(acc[g], s + g * kTokens);
  if constexpr (kDot) {
    for (uint32_t i = 0; i < NG * kTokens; ++i) s[i] *= scale;
  }
}

// What a pack's scores need to know of the launch.
struct ScoreShape {
  uint32_t head_dim = 0;
  float scale = 1.f;  // of dot products
};

// The scores of a pack and a tile, [step][kStep].
template <class T, uint32_t NG, bool kDot>
RADIX_INLINE void score_pack(const ScoreShape& shape, const float* q, const T* base,
                             const Tile& tile, float* s, uint32_t due, Prefetcher& next) {
  const uint32_t turns = shape.head_dim / kTurn;
  for (const uint8_t step : kStepOrder) {
    const uint32_t t = step * kTokens;
    if (t >= tile.n) continue;
    const Lines lines = next_lines(next, due, turns, q);
    const int64_t* at = tile.k + t;
    scores<T, NG, kDot>(q, shape.head_dim, base + at[0], base + at[1], base + at[2], base + at[3],
                        shape.scale, s + step * kStep, lines);
  }
}

// ---- values

// acc[g][i] += p[g]*row[i] for NV vectors.
template <uint32_t NG, uint32_t NV, bool kHalf, class T>
RADIX_INLINE void add_row(const float* p, const T* row, VF acc[NG][NV]) {
  VF v[NV];
  if constexpr (kInPairs<T> && NV % 2 == 0) {
#pragma GCC unroll 8
    for (uint32_t i = 0; i < NV; i += 2) load_pair(row + i * kLanes, v[i], v[i + 1]);
  } else {
#pragma GCC unroll 8
    for (uint32_t i = 0; i < NV; ++i) v[i] = load_row<kHalf>(row + i * kLanes);
  }
#pragma GCC unroll 8
  for (uint32_t g = 0; g < NG; ++g) {
    const VF w = hn::Set(DF(), p[g * kTokens]);
#pragma GCC unroll 8
    for (uint32_t i = 0; i < NV; ++i) acc[g][i] = hn::MulAdd(v[i], w, acc[g][i]);
  }
}

// o[g] = alpha[g]*o[g] + sum_t p[g][t]*v[t] for NV vectors and the tile's tokens.
template <uint32_t NG, uint32_t NV, bool kHalf, class T>
RADIX_INLINE void value_chunk(const float* p, const float* alpha, const T* base, const Tile& tile,
                              float* o, uint32_t due, Prefetcher& next) {
  const DF d;
  VF acc[NG][NV];
#pragma GCC unroll 8
  for (uint32_t g = 0; g < NG; ++g) {
    const VF a = hn::Set(d, alpha[g * kTokens]);
#pragma GCC unroll 8
    for (uint32_t i = 0; i < NV; ++i)
      acc[g][i] = hn::Mul(a, hn::LoadU(d, o + (i * NG + g) * kLanes));
  }
  for (const uint8_t step : kStepOrder) {
    const uint32_t t = step * kTokens;
    if (t + kTokens > tile.n) continue;
    const Lines lines = next_lines(next, due, kTokens, o);
#pragma GCC unroll 8
    for (uint32_t j = 0; j < kTokens; ++j) {
      add_row<NG, NV, kHalf>(p + step * kStep + j, base + tile.v[t + j], acc);
      prefetch_turn(lines, j);
    }
  }
  const uint32_t whole = tile.n / kTokens * kTokens;
  for (uint32_t t = whole; t < tile.n; ++t)
    add_row<NG, NV, kHalf>(p + whole * kQuadHeads + t % kTokens, base + tile.v[t], acc);
#pragma GCC unroll 8
  for (uint32_t g = 0; g < NG; ++g) {
#pragma GCC unroll 8
    for (uint32_t i = 0; i < NV; ++i) hn::StoreU(acc[g][i], d, o + (i * NG + g) * kLanes);
  }
}

// The values of a pack and a tile.
template <class T, uint32_t NG>
RADIX_NOINLINE void value_pack(const float* p, const float* alpha, uint32_t head_dim_v,
                               const T* base, const Tile& tile, float* o, uint32_t due,
                               Prefetcher& next) {
  constexpr uint32_t kWide = kValueVecs * kLanes;
  uint32_t i = 0;
  for (; i + kWide <= head_dim_v; i += kWide)
    value_chunk<NG, kValueVecs, false>(p, alpha, base + i, tile, o + i * NG, due, next);
  for (; i + kLanes <= head_dim_v; i += kLanes)
    value_chunk<NG, 1, false>(p, alpha, base + i, tile, o + i * NG, due, next);
  if (i < head_dim_v) value_chunk<NG, 1, true>(p, alpha, base + i, tile, o + i * NG, due, next);
}

// Elements of a row of values that are in pairs.
RADIX_INLINE uint32_t values_in_pairs(uint32_t head_dim_v) {
  constexpr uint32_t kWide = kValueVecs * kLanes;
  return head_dim_v / kWide * kWide;
}

// How many chunks a row of values has.
RADIX_INLINE uint32_t value_chunks(uint32_t head_dim_v) {
  constexpr uint32_t kWide = kValueVecs * kLanes;
  return head_dim_v / kWide + div_up(head_dim_v % kWide, kLanes);
}

}  // namespace RADIX_CPU_TARGET_NS
}  // namespace radixattn
