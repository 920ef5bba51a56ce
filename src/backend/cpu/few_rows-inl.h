// The products of panel-inl.h for items of few query rows, which would leave most lanes of a panel
// idle: here tokens, then elements of V lie along the lanes. For prefill.cpp only (see simd-inl.h).
//
//        S [row][token]  = Q [row][d]     * K^T [d][token]    K transposed in scratch, as stored
//        O [row][dv]    += P [row][token] * V   [token][dv]   V as it lies in the cache
//
// Invariant: the bits of panel-inl.h. Every score and every element of O is the same chain of
// multiply-adds in the same order, whichever way its lanes lie; and the softmax between the
// products is the very same code. For its sake several KV heads share a panel of kLanes rows: each
// has few_lanes() lanes of the scores [token][kLanes], of m, l and alpha. O is [lane][padded(dv)].
//
// Keys are transposed kFewTokens at a time into [d][kFewTokens], 16-bit ones as such: they are
// widened when they are multiplied.
#pragma once

#include "backend/cpu/kv_stream-inl.h"
#include "backend/cpu/kv_tile-inl.h"
#include "backend/cpu/rows-inl.h"

namespace radixattn {
namespace RADIX_CPU_TARGET_NS {

// Rows of an item that goes this way: at most so many. More fill their panels well enough. On one
// Zen 5 core batch-invariant decode, head dim 128, of 1 to 8 rows a KV head takes 0.39 to 0.6 of
// what it takes in panels with AVX-512, of 4 rows 0.37 to 0.51 with AVX2.
constexpr uint32_t kFewRows = kLanes / 2;

// Lanes of a panel that a KV head of so many rows takes: a divisor of kLanes.
RADIX_INLINE uint32_t few_lanes(uint32_t rows) { return rows <= 2 ? rows : rows <= 4 ? 4 : 8; }

// One tile of a panel of few rows.
struct FewTile {
  const AttentionParams& p;
  const KvTile& tile;
  const TileRows& rows;
  uint32_t n;  // tokens that some row sees: the first n of the tile
  float* k;    // scratch
  Prefetcher& next;
};

#if HWY_TARGET != HWY_SCALAR

constexpr uint32_t kFewTokens = 2 * kLanes;
constexpr uint32_t kFewSums = kLanes == 8 ? 8 : 16;  // vectors of O that are kept in registers
static_assert(kPrefillTile % kFewTokens == 0, "a tile is a whole number of transpositions");
static_assert(kFewTokens * 256 <= kPrefillTile * kTileStride,
              "transposed keys have room in scratch");

// Between two prefetches: so many terms of each score, or tokens of each pass over values. What a
// transposed vector of words and a step of values take, in steps of scores.
constexpr uint32_t kFewStep = 4;
constexpr uint32_t kTransposeSteps = 2, kValueSteps = 2;

using VU = hn::Vec<DU>;

// What transposed keys are: F32, F16, BF16 or, for VDPBF16PS, pairs of bf16 in a uint32_t.
template <class T>
constexpr bool kIsPairs = false;
template <>
constexpr bool kIsPairs<uint32_t> = true;

// The K or V vectors of a tile's tokens; zeros where the tile must not look.
struct FewVectors {
  const char* row[kPrefillTile];
};

RADIX_INLINE void find_vectors(const PagedTensor& t, uint32_t head, const int64_t* offsets,
                               const KvTile& tile, FewVectors* to) {
  alignas(64) static constexpr float kZeros[256] = {};
  const int64_t element = element_bytes(t.dtype);
  const char* base = static_cast<const char*>(t.data) + head * t.head_stride * element;
  for (uint32_t i = 0; i < kPrefillTile; ++i) {
    to->row[i] = i < tile.unseen || i >= tile.n ? reinterpret_cast<const char*>(kZeros)
                                                : base + offsets[i] * element;
  }
}

// Begins to prefetch `rows`, at a pace by which all of them are there when the tile before is done.
RADIX_INLINE void begin_few_prefetch(const AttentionParams& p, const StreamRows& rows,
                                     uint32_t lanes, Prefetcher& next) {
  begin_prefetch(p, rows, next);
  const uint32_t words = p.head_dim * element_bytes(p.k.dtype) / 4;
  const uint32_t terms = has_bf16_scores(p) ? words : p.head_dim;
  const uint32_t scores = kTransposeSteps * div_up(words, kLanes) * 2 + div_up(terms, kFewStep);
  const uint32_t vectors = kFewSums / lanes < 8 ? kFewSums / lanes : 8;
  const uint32_t values = div_up(p.head_dim_v, vectors * kLanes) * (kPrefillTile / kFewStep);
  const uint32_t steps = scores * (kPrefillTile / kFewTokens) + kValueSteps * values;
  const uint32_t k_lines = div_up(p.head_dim * element_bytes(p.k.dtype), kCacheLine);
  const uint32_t v_lines = div_up(p.head_dim_v * element_bytes(p.v.dtype), kCacheLine);
  const uint32_t lines = kPrefillTile * larger(k_lines, v_lines) + kAgainAfter;
  next.score_due = div_up(kDue * lines, steps);
  next.value_due = kValueSteps * next.score_due;
}

// ---- transposition

// Word j of m[i] becomes word i of m[j].
RADIX_INLINE void transpose_words(VU m[kLanes]) {
  const DU d;
  const hn::Repartition<uint64_t, DU> d64;
#pragma GCC unroll 4
  for (uint32_t i = 0; i < kLanes; i += 4) {  // words 4b + j of block b, four rows
    const auto a = hn::BitCast(d64, hn::InterleaveLower(d, m[i], m[i + 1]));
    const auto b = hn::BitCast(d64, hn::InterleaveUpper(d, m[i], m[i + 1]));
    const auto c = hn::BitCast(d64, hn::InterleaveLower(d, m[i + 2], m[i + 3]));
    const auto e = hn::BitCast(d64, hn::InterleaveUpper(d, m[i + 2], m[i + 3]));
    m[i] = hn::BitCast(d, hn::InterleaveLower(d64, a, c));
    m[i + 1] = hn::BitCast(d, hn::InterleaveUpper(d64, a, c));
    m[i + 2] = hn::BitCast(d, hn::InterleaveLower(d64, b, e));
    m[i + 3] = hn::BitCast(d, hn::InterleaveUpper(d64, b, e));
  }
#if HWY_MAX_BYTES == 32
#pragma GCC unroll 4
  for (uint32_t j = 0; j < 4; ++j) {
    const VU a = m[j], b = m[4 + j];
    m[j] = hn::ConcatLowerLower(d, b, a);
    m[4 + j] = hn::ConcatUpperUpper(d, b, a);
  }
#elif HWY_MAX_BYTES == 64
#pragma GCC unroll 4
  for (uint32_t j = 0; j < 4; ++j) {
    const VU a = m[j], b = m[4 + j], c = m[8 + j], e = m[12 + j];
    const VU ab_even = hn::OddEvenBlocks(hn::SwapAdjacentBlocks(b), a);
    const VU ab_odd = hn::OddEvenBlocks(b, hn::SwapAdjacentBlocks(a));
    const VU ce_even = hn::OddEvenBlocks(hn::SwapAdjacentBlocks(e), c);
    const VU ce_odd = hn::OddEvenBlocks(e, hn::SwapAdjacentBlocks(c));
    m[j] = hn::ConcatLowerLower(d, ce_even, ab_even);
    m[4 + j] = hn::ConcatLowerLower(d, ce_odd, ab_odd);
    m[8 + j] = hn::ConcatUpperUpper(d, ce_even, ab_even);
    m[12 + j] = hn::ConcatUpperUpper(d, ce_odd, ab_odd);
  }
#endif
}

// Words [w, w + kLanes) of a row, zeros for those past its end.
RADIX_INLINE VU load_words(const char* row, uint32_t w, uint32_t words) {
  const DU d;
  const auto* at = reinterpret_cast<const uint32_t*>(row + 4 * w);
  if (w + kLanes <= words) return hn::LoadU(d, at);
  return hn::MaskedLoad(hn::FirstN(d, words - w), d, at);
}

// kFewTokens keys of `words` words each to [word][kFewTokens].
RADIX_NOINLINE void transpose_as_words(const char* const* rows, uint32_t words, uint32_t* to,
                                       Prefetcher& next) {
#pragma GCC unroll 2
  for (uint32_t first = 0; first < kFewTokens; first += kLanes) {
    for (uint32_t w = 0; w < words; w += kLanes) {
      prefetch_step(next, kTransposeSteps * next.score_due);
      VU m[kLanes];
#pragma GCC unroll 16
      for (uint32_t i = 0; i < kLanes; ++i) m[i] = load_words(rows[first + i], w, words);
      transpose_words(m);
#pragma GCC unroll 16
      for (uint32_t i = 0; i < kLanes; ++i)
        hn::StoreU(m[i], DU(), to + (w + i) * kFewTokens + first);
    }
  }
}

// 16-bit element j of block b of m[i] becomes element i of block b of m[j].
RADIX_INLINE void transpose_halves(VU m[8]) {
  const DU d;
  const hn::Repartition<uint16_t, DU> d16;
  const hn::Repartition<uint64_t, DU> d64;
  VU a[8], b[8];
#pragma GCC unroll 4
  for (uint32_t i = 0; i < 4; ++i) {  // words of two rows
    const auto x = hn::BitCast(d16, m[2 * i]), y = hn::BitCast(d16, m[2 * i + 1]);
    a[i] = hn::BitCast(d, hn::InterleaveLower(d16, x, y));
    a[4 + i] = hn::BitCast(d, hn::InterleaveUpper(d16, x, y));
  }
#pragma GCC unroll 4
  for (uint32_t i = 0; i < 4; ++i) {  // of four
    b[i] = hn::InterleaveLower(d, a[2 * i], a[2 * i + 1]);
    b[4 + i] = hn::InterleaveUpper(d, a[2 * i], a[2 * i + 1]);
  }
#pragma GCC unroll 2
  for (uint32_t i = 0; i < 2; ++i) {
#pragma GCC unroll 2
    for (uint32_t k = 0; k < 2; ++k) {
      const auto x = hn::BitCast(d64, b[2 * i + 4 * k]), y = hn::BitCast(d64, b[2 * i + 4 * k + 1]);
      m[4 * i + 2 * k] = hn::BitCast(d, hn::InterleaveLower(d64, x, y));
      m[4 * i + 2 * k + 1] = hn::BitCast(d, hn::InterleaveUpper(d64, x, y));
    }
  }
}

#if HWY_MAX_BYTES == 64
// Two blocks of each, the first or the last: 16 tokens of an element lie side by side then.
RADIX_INLINE VU zip_blocks(VU a, VU b, bool last) {
  alignas(64) static constexpr uint64_t kFirst[8] = {0, 1, 8, 9, 2, 3, 10, 11};
  alignas(64) static constexpr uint64_t kLast[8] = {4, 5, 12, 13, 6, 7, 14, 15};
  const __m512i order = _mm512_load_si512(last ? kLast : kFirst);
  return VU{_mm512_permutex2var_epi64(a.raw, order, b.raw)};
}

// Elements [2w, 2w + 32) of 16 tokens to [element][kFewTokens].
RADIX_INLINE void transpose_half_block(const char* const* rows, uint32_t w, uint32_t words,
                                       uint16_t* to) {
  const hn::Repartition<uint16_t, DU> d16;
  const hn::Half<decltype(d16)> half;
#pragma GCC unroll 2
  for (uint32_t last = 0; last < 2; ++last) {
    VU m[8];
#pragma GCC unroll 8
    for (uint32_t i = 0; i < 8; ++i) {
      m[i] =
          zip_blocks(load_words(rows[i], w, words), load_words(rows[8 + i], w, words), last != 0);
    }
    transpose_halves(m);
#pragma GCC unroll 8
    for (uint32_t i = 0; i < 8; ++i) {
      const auto x = hn::BitCast(d16, m[i]);
      uint16_t* at = to + (2 * w + 16 * last + i) * kFewTokens;
      hn::StoreU(hn::LowerHalf(half, x), half, at);
      hn::StoreU(hn::UpperHalf(half, x), half, at + 8 * kFewTokens);
    }
  }
}
constexpr uint32_t kHalfTokens = 16;
#else
// Elements [2w, 2w + 2*kLanes) of 8 tokens to [element][kFewTokens].
RADIX_INLINE void transpose_half_block(const char* const* rows, uint32_t w, uint32_t words,
                                       uint16_t* to) {
  VU m[8];
#pragma GCC unroll 8
  for (uint32_t i = 0; i < 8; ++i) m[i] = load_words(rows[i], w, words);
  transpose_halves(m);
  alignas(64) uint16_t x[2 * kLanes];
#pragma GCC unroll 8
  for (uint32_t i = 0; i < 8; ++i) {
    hn::StoreU(m[i], DU(), reinterpret_cast<uint32_t*>(x));
    for (uint32_t b = 0; b < kLanes / 4; ++b)
      __builtin_memcpy(to + (2 * w + 8 * b + i) * kFewTokens, x + 8 * b, 16);
  }
}
constexpr uint32_t kHalfTokens = 8;
#endif

// The same of keys of 16-bit elements, to [element][kFewTokens].
RADIX_NOINLINE void transpose_as_halves(const char* const* rows, uint32_t dim, uint16_t* to,
                                        Prefetcher& next) {
  constexpr auto kSteps = static_cast<uint32_t>(kTransposeSteps * kHalfTokens / kLanes);
#pragma GCC unroll 2
  for (uint32_t first = 0; first < kFewTokens; first += kHalfTokens) {
    for (uint32_t w = 0; w < dim / 2; w += kLanes) {
      prefetch_step(next, kSteps * next.score_due);
      transpose_half_block(rows + first, w, dim / 2, to + first);
    }
  }
}

// ---- scores

// acc += n products of R rows' queries, kLanes apart, and transposed keys.
template <uint32_t R, class T>
RADIX_INLINE void add_scores(const T* k, const float* q, uint32_t n, VF acc[R][2]) {
  for (const float* end = q + n * kLanes; q != end; q += kLanes, k += kFewTokens) {
    VF keys[2];
#pragma GCC unroll 2
    for (uint32_t i = 0; i < 2; ++i) keys[i] = load_f32(k + i * kLanes);
#pragma GCC unroll 8
    for (uint32_t r = 0; r < R; ++r) {
      const VF x = hn::Set(DF(), q[r]);
#pragma GCC unroll 2
      for (uint32_t i = 0; i < 2; ++i) acc[r][i] = hn::MulAdd(keys[i], x, acc[r][i]);
    }
  }
}

// The same of pairs of bf16.
template <uint32_t R>
RADIX_INLINE void add_pair_scores(const uint32_t* k, const float* q, uint32_t n, VF acc[R][2]) {
#if defined(__AVX512BF16__)
  for (const float* end = q + n * kLanes; q != end; q += kLanes, k += kFewTokens) {
    __m512bh keys[2];
#pragma GCC unroll 2
    for (uint32_t i = 0; i < 2; ++i) keys[i] = (__m512bh)_mm512_loadu_si512(k + i * kLanes);
#pragma GCC unroll 8
    for (uint32_t r = 0; r < R; ++r) {
      const auto x = (__m512bh)_mm512_set1_epi32(static_cast<int>(float_bits(q[r])));
#pragma GCC unroll 2
      for (uint32_t i = 0; i < 2; ++i) acc[r][i].raw = _mm512_dpbf16_ps(acc[r][i].raw, keys[i], x);
    }
  }
#else
  (void)k, (void)q, (void)n, (void)acc;
#endif
}

// Scores of R rows and kFewTokens tokens to [token][kLanes].
template <uint32_t R>
RADIX_INLINE void put_scores(const VF acc[R][2], float* s) {
  const DF d;
  alignas(64) float x[4 * kLanes];
#pragma GCC unroll 2
  for (uint32_t v = 0; v < 2; ++v) {
    float* to = s + v * kLanes * kLanes;
    if constexpr (R % 4 == 0) {
#pragma GCC unroll 2
      for (uint32_t r = 0; r < R; r += 4) {
        hn::StoreInterleaved4(acc[r][v], acc[r + 1][v], acc[r + 2][v], acc[r + 3][v], d, x);
        for (uint32_t t = 0; t < kLanes; ++t)
          __builtin_memcpy(to + t * kLanes + r, x + 4 * t, 4 * sizeof(float));
      }
    } else {
#pragma GCC unroll 2
      for (uint32_t r = 0; r < R; ++r) hn::StoreU(acc[r][v], d, x + r * kLanes);
      for (uint32_t t = 0; t < kLanes; ++t) {
#pragma GCC unroll 2
        for (uint32_t r = 0; r < R; ++r) to[t * kLanes + r] = x[r * kLanes + t];
      }
    }
  }
}

// Scores of kFewTokens tokens.
template <uint32_t R, class T>
RADIX_INLINE void score_tokens(const AttentionParams& p, const T* k, uint32_t terms, const float* q,
                               float* s, Prefetcher& next) {
  const DF d;
  VF acc[R][2];
#pragma GCC unroll 8
  for (uint32_t r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (uint32_t i = 0; i < 2; ++i) acc[r][i] = hn::Zero(d);
  }
  for (uint32_t i = 0; i < terms; i += kFewStep) {
    prefetch_step(next, next.score_due);
    const uint32_t n = terms - i < kFewStep ? terms - i : kFewStep;
    const T* at = k + i * kFewTokens;
    if constexpr (kIsPairs<T>) {
      add_pair_scores<R>(at, q + i * kLanes, n, acc);
    } else {
      add_scores<R>(at, q + i * kLanes, n, acc);
    }
  }
  if constexpr (kIsPairs<T>) {
    const VF factor = hn::Set(d, query_scale(p));
#pragma GCC unroll 8
    for (uint32_t r = 0; r < R; ++r) {
#pragma GCC unroll 2
      for (uint32_t i = 0; i < 2; ++i) acc[r][i] = hn::Mul(factor, acc[r][i]);
    }
  }
  put_scores<R>(acc, s);
}

// q and s: of the head's first lane.
template <uint32_t R, class T>
static void few_scores_as(const FewTile& f, uint32_t head, const float* q, float* s) {
  FewVectors keys;
  find_vectors(f.p.k, head, f.rows.k, f.tile, &keys);
  const uint32_t terms = kIsPairs<T> ? f.p.head_dim / 2 : f.p.head_dim;
  T* k = reinterpret_cast<T*>(f.k);
  for (uint32_t t = 0; t < f.n; t += kFewTokens) {
    if constexpr (sizeof(T) == 4) {
      transpose_as_words(keys.row + t, terms, reinterpret_cast<uint32_t*>(k), f.next);
    } else {
      transpose_as_halves(keys.row + t, terms, reinterpret_cast<uint16_t*>(k), f.next);
    }
    score_tokens<R>(f.p, k, terms, q, s + t * kLanes, f.next);
  }
}

template <uint32_t R>
RADIX_INLINE void few_scores(const FewTile& f, uint32_t head, const float* q, float* s) {
#if defined(__AVX512BF16__)
  if (has_bf16_scores(f.p)) return few_scores_as<R, uint32_t>(f, head, q, s);
#endif
  if (f.p.k.dtype == RADIX_F32) few_scores_as<R, F32>(f, head, q, s);
  if (f.p.k.dtype == RADIX_F16) few_scores_as<R, F16>(f, head, q, s);
  if (f.p.k.dtype == RADIX_BF16) few_scores_as<R, BF16>(f, head, q, s);
}

// ---- values

template <bool kHalf, class T>
RADIX_INLINE VF load_values(const T* v) {
  if constexpr (kHalf) {
    return load_f32_half(v);
  } else {
    return load_f32(v);
  }
}

// acc += weights of tokens [begin, end), kLanes apart, times NV vectors of their values from
// element `at` on.
template <uint32_t R, uint32_t NV, bool kHalf, class T>
RADIX_INLINE void add_values(const char* const* rows, uint32_t at, uint32_t begin, uint32_t end,
                             const float* weights, VF acc[R][NV]) {
  for (uint32_t t = begin; t < end; ++t) {
    VF v[NV];
#pragma GCC unroll 8
    for (uint32_t i = 0; i < NV; ++i)
      v[i] = load_values<kHalf>(reinterpret_cast<const T*>(rows[t]) + at + i * kLanes);
#pragma GCC unroll 8
    for (uint32_t r = 0; r < R; ++r) {
      const VF x = hn::Set(DF(), weights[t * kLanes + r]);
#pragma GCC unroll 8
      for (uint32_t i = 0; i < NV; ++i) acc[r][i] = hn::MulAdd(v[i], x, acc[r][i]);
    }
  }
}

#if defined(__AVX512BF16__)
template <bool kHalf>
RADIX_INLINE __m512bh load_value_pairs(const BF16* low, const BF16* high) {
  const DU d;
  if constexpr (kHalf) {
    const hn::Half<DU> d8;
    const hn::Half<DH> half;
    const auto a = hn::PromoteTo(d8, hn::LoadU(half, &low->bits));
    const auto b = hn::PromoteTo(d8, hn::LoadU(half, &high->bits));
    return (__m512bh)hn::ZeroExtendVector(d, hn::Or(a, hn::ShiftLeft<16>(b))).raw;
  } else {
    const auto a = hn::PromoteTo(d, hn::LoadU(DH(), &low->bits));
    const auto b = hn::PromoteTo(d, hn::LoadU(DH(), &high->bits));
    return (__m512bh)hn::Or(a, hn::ShiftLeft<16>(b)).raw;
  }
}

// The same with weights in pairs of bf16, a row for two tokens.
template <uint32_t R, uint32_t NV, bool kHalf>
RADIX_INLINE void add_value_pairs(const char* const* rows, uint32_t at, uint32_t begin,
                                  uint32_t end, const float* weights, VF acc[R][NV]) {
  for (uint32_t t = begin; t < end; t += 2) {
    __m512bh v[NV];
#pragma GCC unroll 8
    for (uint32_t i = 0; i < NV; ++i) {
      v[i] = load_value_pairs<kHalf>(reinterpret_cast<const BF16*>(rows[t]) + at + i * kLanes,
                                     reinterpret_cast<const BF16*>(rows[t + 1]) + at + i * kLanes);
    }
#pragma GCC unroll 8
    for (uint32_t r = 0; r < R; ++r) {
      const float pair = weights[t / 2 * kLanes + r];
      const auto x = (__m512bh)_mm512_set1_epi32(static_cast<int>(float_bits(pair)));
#pragma GCC unroll 8
      for (uint32_t i = 0; i < NV; ++i) acc[r][i].raw = _mm512_dpbf16_ps(acc[r][i].raw, v[i], x);
    }
  }
}
#endif

// What the values of a head's tile are multiplied into: its first lane's.
struct FewValues {
  const float* weights;  // [token][kLanes]
  const float* alpha;
  float* o;  // [lane][stride]
  uint32_t stride;
};

// NV vectors of every row's O from element `at` on. T: what values are, uint32_t for pairs of bf16
// weights and values.
template <uint32_t R, uint32_t NV, bool kHalf, class T>
RADIX_INLINE void value_pass(const FewTile& f, const FewVectors& values, uint32_t at,
                             const FewValues& head) {
  const DF d;
  float* o = head.o + at;
  VF acc[R][NV];
#pragma GCC unroll 8
  for (uint32_t r = 0; r < R; ++r) {
    const VF alpha = hn::Set(d, head.alpha[r]);
#pragma GCC unroll 8
    for (uint32_t i = 0; i < NV; ++i)
      acc[r][i] = hn::Mul(alpha, hn::LoadU(d, o + r * head.stride + i * kLanes));
  }
  for (uint32_t t = 0; t < f.n; t += kFewStep) {
    prefetch_step(f.next, f.next.value_due);
    const uint32_t end = f.n - t < kFewStep ? f.n : t + kFewStep;
    if constexpr (kIsPairs<T>) {
      add_value_pairs<R, NV, kHalf>(values.row, at, t, end, head.weights, acc);
    } else {
      add_values<R, NV, kHalf, T>(values.row, at, t, end, head.weights, acc);
    }
  }
#pragma GCC unroll 8
  for (uint32_t r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (uint32_t i = 0; i < NV; ++i) hn::StoreU(acc[r][i], d, o + r * head.stride + i * kLanes);
  }
}

template <uint32_t R, class T>
static void few_values_as(const FewTile& f, uint32_t head, const FewValues& to) {
  constexpr uint32_t kMost = kFewSums / R < 8 ? kFewSums / R : 8;
  FewVectors values;
  find_vectors(f.p.v, head, f.rows.v, f.tile, &values);
  const uint32_t dim = f.p.head_dim_v;
  uint32_t i = 0;
  for (; i + kMost * kLanes <= dim; i += kMost * kLanes)
    value_pass<R, kMost, false, T>(f, values, i, to);
  for (; i + 2 * kLanes <= dim; i += 2 * kLanes) value_pass<R, 2, false, T>(f, values, i, to);
  for (; i + kLanes <= dim; i += kLanes) value_pass<R, 1, false, T>(f, values, i, to);
  if (i < dim) value_pass<R, 1, true, T>(f, values, i, to);
}

template <uint32_t R>
RADIX_INLINE void few_values(const FewTile& f, uint32_t head, const FewValues& to) {
#if defined(__AVX512BF16__)
  if (has_bf16_values(f.p)) return few_values_as<R, uint32_t>(f, head, to);
#endif
  if (f.p.v.dtype == RADIX_F32) few_values_as<R, F32>(f, head, to);
  if (f.p.v.dtype == RADIX_F16) few_values_as<R, F16>(f, head, to);
  if (f.p.v.dtype == RADIX_BF16) few_values_as<R, BF16>(f, head, to);
}

#endif

}  // namespace RADIX_CPU_TARGET_NS
}  // namespace radixattn
