// Decode: attention of one query row per sequence over paged K/V. Memory-bound, so all is about
// reading each K/V byte once, in an order that the memory system likes, and about computing fast
// enough beside it.
//
// Work split: an item is (sequence, range of positions, some KV heads). It walks its range in tiles
// of kTileTokens; a tile is a list of row offsets, so block size, layout and contiguity make no
// difference to the kernels. A quad is up to 4 query heads of one KV head. Per tile, quad by quad:
//   scores   S[h][t] = q[h] . k[t]      4 tokens x kGroup heads of accumulators, lanes over
//   head_dim softmax  online, base 2: m' = max(m, max S), p = 2^(S - m'), l = l*2^(m - m') + sum p,
//            lanes over 4 tokens x 4 heads
//   values   o[h] = o[h]*2^(m - m') + sum_t p[h][t] v[t], o in registers for the whole tile
// q is packed to f32 once per item, scaled by scale*log2(e). Accumulation is f32 throughout.
//
// NOTE: what decides about memory stands in kv_stream-inl.h, and this: a walk through a tile with a
// constant stride sets the hardware's stride prefetcher off, which then reads past the end of a
// block: lost when the next block lies elsewhere. kStepOrder has no constant stride.
#include "backend/cpu/attention_jobs.h"
#include "backend/cpu/kernel_set-inl.h"
#include "backend/cpu/kv_stream-inl.h"
#include "backend/cpu/rows-inl.h"

namespace radixattn {
namespace RADIX_CPU_TARGET_NS {
namespace {

// Query heads that share one pass over K/V rows: 4 x 4 accumulators need 32 registers, 2 x 4
// fit 16.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr uint32_t kGroup = 4;
#else
constexpr uint32_t kGroup = 2;
#endif
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
// The order in which a tile's steps are taken: no constant stride, see above.
constexpr uint8_t kStepOrder[kTileSteps] = {0, 2, 3, 1};

RADIX_INLINE uint32_t group_of(const AttentionParams& p) { return p.num_q_heads / p.num_kv_heads; }
RADIX_INLINE uint32_t quads_of(uint32_t group) { return div_up(group, kQuadHeads); }

// ---- prefetch

RADIX_INLINE void prefetch_tile(const AttentionParams& p, const DecodeItem& item, const Tile& tile,
                                Prefetcher& f) {
  begin_prefetch(p, {tile.k, tile.v, tile.n, item.head_begin, item.head_end}, f);
  // Half of a step's lines go with its scores, half with the steps of its values.
  const uint32_t bytes =
      kTokens * (p.head_dim * element_bytes(p.k.dtype) + p.head_dim_v * element_bytes(p.v.dtype));
  const uint32_t group = group_of(p);
  const uint32_t passes = div_up(group < kQuadHeads ? group : kQuadHeads, kGroup) *
                          div_up(p.head_dim_v, kValueVecs * kLanes);
  const uint32_t due = kDue * div_up(bytes, 4 * kBurst * kCacheLine);
  f.score_due = div_up(due, quads_of(group));
  f.value_due = div_up(due, quads_of(group) * passes);
}

// ---- scores

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

template <bool kHalf, class T>
RADIX_INLINE VF load_row(const T* p) {
  if constexpr (kHalf) {
    return load_f32_half(p);
  } else {
    return load_f32(p);
  }
}

// One vector of head_dim for kTokens rows and NG heads.
template <uint32_t NG, bool kHalf, class T>
RADIX_INLINE void score_step(const float* q, uint32_t q_stride, const T* const rows[kTokens],
                             uint32_t i, VF acc[NG][kTokens]) {
  VF k[kTokens];
#pragma GCC unroll 8
  for (uint32_t t = 0; t < kTokens; ++t) k[t] = load_row<kHalf>(rows[t] + i);
#pragma GCC unroll 8
  for (uint32_t g = 0; g < NG; ++g) {
    const VF qv = hn::LoadU(DF(), q + g * q_stride + i);
#pragma GCC unroll 8
    for (uint32_t t = 0; t < kTokens; ++t) acc[g][t] = hn::MulAdd(k[t], qv, acc[g][t]);
  }
}

#if HWY_MAX_BYTES == 64
// The sums of 16 vectors: fewer shuffles than four times sum_lanes4, and one store.
RADIX_INLINE void sum_lanes16(VF acc[4][kTokens], float* out) {
  const DF d;
  VF a = sum_in_blocks(acc[0]), b = sum_in_blocks(acc[1]);
  VF c = sum_in_blocks(acc[2]), e = sum_in_blocks(acc[3]);
  // Blocks 0 and 1 hold the first head, 2 and 3 the second.
  const VF ac = hn::Add(hn::ConcatLowerLower(d, c, a), hn::ConcatUpperUpper(d, c, a));
  const VF be = hn::Add(hn::ConcatLowerLower(d, e, b), hn::ConcatUpperUpper(d, e, b));
  const VF own = hn::OddEvenBlocks(be, ac);    // a b c e, one half of each sum
  const VF other = hn::OddEvenBlocks(ac, be);  // b a e c, the other
  hn::StoreU(hn::Add(own, hn::SwapAdjacentBlocks(other)), d, out);
}
#endif

// s[g][t] for kTokens tokens.
template <class T, uint32_t NG>
RADIX_INLINE void scores(const float* q, uint32_t head_dim, const T* base, const int64_t* offsets,
                         float* s) {
  const uint32_t q_stride = padded(head_dim);
  const T* const rows[kTokens] = {base + offsets[0], base + offsets[1], base + offsets[2],
                                  base + offsets[3]};
  VF acc[NG][kTokens];
#pragma GCC unroll 8
  for (uint32_t g = 0; g < NG; ++g) {
#pragma GCC unroll 8
    for (uint32_t t = 0; t < kTokens; ++t) acc[g][t] = hn::Zero(DF());
  }
  uint32_t i = 0;
  for (; i + kLanes <= head_dim; i += kLanes) score_step<NG, false>(q, q_stride, rows, i, acc);
  if (i < head_dim) score_step<NG, true>(q, q_stride, rows, i, acc);
#if HWY_MAX_BYTES == 64
  if constexpr (NG == 4) {
    sum_lanes16(acc, s);
    return;
  }
#endif
#pragma GCC unroll 8
  for (uint32_t g = 0; g < NG; ++g) sum_lanes4(acc[g], s + g * kTokens);
}

// ---- values

// acc[g][i] += p[g]*row[i] for NV vectors.
template <uint32_t NG, uint32_t NV, bool kHalf, class T>
RADIX_INLINE void add_row(const float* p, const T* row, VF acc[NG][NV]) {
  VF v[NV];
#pragma GCC unroll 8
  for (uint32_t i = 0; i < NV; ++i) v[i] = load_row<kHalf>(row + i * kLanes);
#pragma GCC unroll 8
  for (uint32_t g = 0; g < NG; ++g) {
    const VF w = hn::Set(DF(), p[g * kTokens]);
#pragma GCC unroll 8
    for (uint32_t i = 0; i < NV; ++i) acc[g][i] = hn::MulAdd(v[i], w, acc[g][i]);
  }
}

// o[g][i ..] = alpha[g]*o[g][i ..] + sum_t p[g][t]*v[t][i ..] for NV vectors and the tile's tokens.
template <uint32_t NG, uint32_t NV, bool kHalf, class T>
RADIX_INLINE void value_step(const float* p, const float* alpha, const T* base,
                             const int64_t* offsets, uint32_t n, float* o, uint32_t o_stride,
                             Prefetcher& next) {
  const DF d;
  VF acc[NG][NV];
#pragma GCC unroll 8
  for (uint32_t g = 0; g < NG; ++g) {
    const VF a = hn::Set(d, alpha[g * kTokens]);
#pragma GCC unroll 8
    for (uint32_t i = 0; i < NV; ++i)
      acc[g][i] = hn::Mul(a, hn::LoadU(d, o + g * o_stride + i * kLanes));
  }
  for (const uint8_t step : kStepOrder) {
    const uint32_t t = step * kTokens;
    if (t + kTokens > n) continue;
    prefetch_step(next, next.value_due);
#pragma GCC unroll 8
    for (uint32_t j = 0; j < kTokens; ++j)
      add_row<NG, NV, kHalf>(p + step * kStep + j, base + offsets[t + j], acc);
  }
  const uint32_t whole = n / kTokens * kTokens;
  for (uint32_t t = whole; t < n; ++t)
    add_row<NG, NV, kHalf>(p + whole * kQuadHeads + t % kTokens, base + offsets[t], acc);
#pragma GCC unroll 8
  for (uint32_t g = 0; g < NG; ++g) {
#pragma GCC unroll 8
    for (uint32_t i = 0; i < NV; ++i) hn::StoreU(acc[g][i], d, o + g * o_stride + i * kLanes);
  }
}

template <class T, uint32_t NG>
RADIX_INLINE void values(const float* p, const float* alpha, uint32_t head_dim_v, const T* base,
                         const int64_t* offsets, uint32_t n, float* o, Prefetcher& next) {
  const uint32_t o_stride = padded(head_dim_v);
  constexpr uint32_t kWide = kValueVecs * kLanes;
  uint32_t i = 0;
  for (; i + kWide <= head_dim_v; i += kWide) {
    value_step<NG, kValueVecs, false>(p, alpha, base + i, offsets, n, o + i, o_stride, next);
  }
  for (; i + kLanes <= head_dim_v; i += kLanes) {
    value_step<NG, 1, false>(p, alpha, base + i, offsets, n, o + i, o_stride, next);
  }
  if (i < head_dim_v) {
    value_step<NG, 1, true>(p, alpha, base + i, offsets, n, o + i, o_stride, next);
  }
}

// ---- softmax

// The state of an item. A quad is up to kQuadHeads query heads of one KV head; [kStep] arrays hold
// 4 lanes for each of its heads, and the scores of a tile are [steps of kTokens tokens][kStep].
struct State {
  float* q;      // [num_q_heads, padded(head_dim)] scaled
  float* o;      // [num_q_heads, padded(head_dim_v)]
  float* m;      // [quads, kStep] running maximum, base 2, four times
  float* l;      // [quads, kStep] four parts of the running sum
  float* alpha;  // [quads, kStep] 2^(m - m') of the current tile, four times
  float* s;      // [quads, kTileTokens*kQuadHeads] scores, then weights, of the current tile
};

// Soft cap and ALiBi on the scores of one head, which come out in units of log 2.
RADIX_INLINE void bias_scores(const AttentionParams& p, uint32_t head, const Tile& tile,
                              int32_t query_position, float* s) {
  const DF d;
  const VF cap = hn::Set(d, p.softcap * kLog2e);
  const float slope = p.alibi_slopes != nullptr ? p.alibi_slopes[head] * kLog2e : 0.f;
  const auto first = static_cast<float>(static_cast<int32_t>(tile.position) - query_position);
  alignas(64) float x[kTileTokens];
  for (uint32_t t = 0; t < kTileTokens; ++t) {
    x[t] = t < tile.n ? s[t / kTokens * kStep + t % kTokens] : 0.f;
  }
  for (uint32_t t = 0; t < kTileTokens; t += kLanes) {
    VF v = hn::LoadU(d, x + t);
    if (p.softcap > 0.f) v = hn::Mul(cap, tanh_f32(v));
    if (p.alibi_slopes != nullptr) {
      v = hn::MulAdd(hn::Set(d, slope), hn::Iota(d, first + static_cast<float>(t)), v);
    }
    hn::StoreU(v, d, x + t);
  }
  for (uint32_t t = 0; t < tile.n; ++t) s[t / kTokens * kStep + t % kTokens] = x[t];
}

#if HWY_TARGET == HWY_SCALAR

constexpr uint32_t kSoftmaxLanes = kTokens;

RADIX_INLINE void softmax_lanes(uint32_t steps, float* s, float* m, float* l, float* alpha) {
  float peak = m[0];
  for (uint32_t i = 0; i < steps * kTokens; ++i) {
    const float x = s[i / kTokens * kStep + i % kTokens];
    peak = x > peak ? x : peak;
  }
  const float base = peak == kMinusInf ? 0.f : peak;
  const float shrink = exp2_one(m[0] - base);
  for (uint32_t j = 0; j < kTokens; ++j) {
    float sum = 0.f;
    for (uint32_t i = 0; i < steps; ++i) {
      float* x = s + i * kStep + j;
      *x = exp2_one(*x - base);
      sum += *x;
    }
    l[j] = l[j] * shrink + sum;
    alpha[j] = shrink;
    m[j] = peak;
  }
}

#else

constexpr uint32_t kSoftmaxLanes = kLanes;

// Turns scores into weights p = 2^(s - m'), updates m and l, and writes alpha = 2^(m - m'), for the
// heads that share a vector.
RADIX_INLINE void softmax_lanes(uint32_t steps, float* s, float* m, float* l, float* alpha) {
  const DF d;
  const VF old = hn::LoadU(d, m);
  VF peak = old;
  for (uint32_t i = 0; i < steps; ++i) peak = hn::Max(peak, hn::LoadU(d, s + i * kStep));
  peak = hn::Max(peak, hn::Shuffle1032(peak));
  peak = hn::Max(peak, hn::Shuffle2301(peak));
  // Scores of -inf only: nothing is visible yet, and inf - inf would be NaN.
  const VF base = hn::IfThenElse(hn::Eq(peak, hn::Set(d, kMinusInf)), hn::Zero(d), peak);
  const VF shrink = exp2_f32(hn::Sub(old, base));
  VF sum = hn::Zero(d);
  for (uint32_t i = 0; i < steps; ++i) {
    const VF e = exp2_f32(hn::Sub(hn::LoadU(d, s + i * kStep), base));
    sum = hn::Add(sum, e);
    hn::StoreU(e, d, s + i * kStep);
  }
  hn::StoreU(hn::MulAdd(shrink, hn::LoadU(d, l), sum), d, l);
  hn::StoreU(peak, d, m);
  hn::StoreU(shrink, d, alpha);
}

#endif

// Softmax of the first `heads` heads of a quad.
RADIX_INLINE void softmax_quad(uint32_t heads, uint32_t n, float* s, float* m, float* l,
                               float* alpha) {
  for (uint32_t t = n; t < div_up(n, kTokens) * kTokens; ++t) {
    for (uint32_t g = 0; g < heads; ++g)
      s[t / kTokens * kStep + g * kTokens + t % kTokens] = kMinusInf;
  }
  for (uint32_t i = 0; i < heads * kTokens; i += kSoftmaxLanes) {
    softmax_lanes(div_up(n, kTokens), s + i, m + i, l + i, alpha + i);
  }
}

// ---- walking the range

// Positions are cut at multiples of kTileTokens, whatever the item's bounds: the same tiles for
// everybody.
void fill_tile(const AttentionParams& p, const int32_t* blocks, uint32_t position, uint32_t end,
               Tile* tile) {
  const uint32_t stop = (position / kTileTokens + 1) * kTileTokens;
  tile->position = position;
  tile->n = (stop < end ? stop : end) - position;
  uint32_t index = position / p.block_size;
  uint32_t slot = position % p.block_size;
  uint32_t t = 0;
  while (t < tile->n) {
    const int64_t k = blocks[index] * p.k.block_stride;
    const int64_t v = blocks[index] * p.v.block_stride;
    for (; slot < p.block_size && t < tile->n; ++slot, ++t) {
      tile->k[t] = k + slot * p.k.token_stride;
      tile->v[t] = v + slot * p.v.token_stride;
    }
    slot = 0;
    ++index;
  }
  for (; t < kTileTokens; ++t) {
    tile->k[t] = tile->k[tile->n - 1];
    tile->v[t] = tile->v[tile->n - 1];
  }
}

// One quad of query heads: q, o and the state that belongs to it.
struct Quad {
  uint32_t head = 0, heads = 0;
  float* s = nullptr;
  float* alpha = nullptr;
};

RADIX_INLINE Quad quad_of(const AttentionParams& p, const State& state, uint32_t kv_head,
                          uint32_t index) {
  const uint32_t group = group_of(p);
  const uint64_t row = uint64_t{kv_head} * quads_of(group) + index;
  Quad quad;
  quad.head = kv_head * group + index * kQuadHeads;
  const uint32_t left = group - index * kQuadHeads;
  quad.heads = left < kQuadHeads ? left : kQuadHeads;
  quad.s = state.s + row * kTileTokens * kQuadHeads;
  quad.alpha = state.alpha + row * kStep;
  return quad;
}

// Scores of one quad and one step.
template <class T>
RADIX_INLINE void quad_scores(const AttentionParams& p, const State& state, const Quad& quad,
                              const T* base, const int64_t* offsets, float* s) {
  const uint32_t q_stride = padded(p.head_dim);
  const float* q = state.q + uint64_t{quad.head} * q_stride;
  uint32_t g = 0;
  if constexpr (kGroup >= 4) {
    if (quad.heads == 4) {
      scores<T, 4>(q, p.head_dim, base, offsets, s);
      return;
    }
  }
  for (; g + 2 <= quad.heads; g += 2)
    scores<T, 2>(q + g * q_stride, p.head_dim, base, offsets, s + g * kTokens);
  if (g < quad.heads) scores<T, 1>(q + g * q_stride, p.head_dim, base, offsets, s + g * kTokens);
}

template <class T>
RADIX_INLINE void quad_values(const AttentionParams& p, const State& state, const Quad& quad,
                              const T* base, const Tile& tile, Prefetcher& next) {
  const uint32_t dv = p.head_dim_v;
  const uint32_t o_stride = padded(dv);
  float* o = state.o + uint64_t{quad.head} * o_stride;
  uint32_t g = 0;
  if constexpr (kGroup >= 4) {
    if (quad.heads == 4) {
      values<T, 4>(quad.s, quad.alpha, dv, base, tile.v, tile.n, o, next);
      return;
    }
  }
  for (; g + 2 <= quad.heads; g += 2) {
    values<T, 2>(quad.s + g * kTokens, quad.alpha + g * kTokens, dv, base, tile.v, tile.n,
                 o + g * o_stride, next);
  }
  if (g < quad.heads) {
    values<T, 1>(quad.s + g * kTokens, quad.alpha + g * kTokens, dv, base, tile.v, tile.n,
                 o + g * o_stride, next);
  }
}

template <class T>
void tile_scores(const AttentionParams& p, const DecodeItem& item, const Tile& tile,
                 const State& state, Prefetcher& next) {
  const uint32_t quads = quads_of(group_of(p));
  for (uint32_t h = item.head_begin; h < item.head_end; ++h) {
    const T* base = static_cast<const T*>(p.k.data) + int64_t{h} * p.k.head_stride;
    for (uint32_t i = 0; i < quads; ++i) {
      const Quad quad = quad_of(p, state, h, i);
      for (const uint8_t step : kStepOrder) {
        const uint32_t t = step * kTokens;
        if (t >= tile.n) continue;
        prefetch_step(next, next.score_due);
        quad_scores(p, state, quad, base, tile.k + t, quad.s + t * kQuadHeads);
      }
    }
  }
}

template <class T>
void tile_values(const AttentionParams& p, const DecodeItem& item, const Tile& tile,
                 const State& state, Prefetcher& next) {
  const uint32_t quads = quads_of(group_of(p));
  for (uint32_t h = item.head_begin; h < item.head_end; ++h) {
    const T* base = static_cast<const T*>(p.v.data) + int64_t{h} * p.v.head_stride;
    for (uint32_t i = 0; i < quads; ++i)
      quad_values(p, state, quad_of(p, state, h, i), base, tile, next);
  }
}

void tile_softmax(const AttentionParams& p, const DecodeItem& item, const Tile& tile,
                  const State& state) {
  const uint32_t quads = quads_of(group_of(p));
  const int32_t query_position = item.position;
  for (uint32_t h = item.head_begin; h < item.head_end; ++h) {
    for (uint32_t i = 0; i < quads; ++i) {
      const Quad quad = quad_of(p, state, h, i);
      if (p.softcap > 0.f || p.alibi_slopes != nullptr) {
        for (uint32_t g = 0; g < quad.heads; ++g)
          bias_scores(p, quad.head + g, tile, query_position, quad.s + g * kTokens);
      }
      const uint64_t at = (uint64_t{h} * quads + i) * kStep;
      softmax_quad(quad.heads, tile.n, quad.s, state.m + at, state.l + at, quad.alpha);
    }
  }
}

using TileFn = void (*)(const AttentionParams&, const DecodeItem&, const Tile&, const State&,
                        Prefetcher&);

TileFn scores_fn(int32_t dtype) {
  return dtype == RADIX_F32   ? tile_scores<F32>
         : dtype == RADIX_F16 ? tile_scores<F16>
                              : tile_scores<BF16>;
}

TileFn values_fn(int32_t dtype) {
  return dtype == RADIX_F32   ? tile_values<F32>
         : dtype == RADIX_F16 ? tile_values<F16>
                              : tile_values<BF16>;
}

void walk_range(const AttentionParams& p, const DecodeItem& item, const State& state) {
  const TileFn run_scores = scores_fn(p.k.dtype);
  const TileFn run_values = values_fn(p.v.dtype);
  const int32_t* blocks = block_row(p.blocks, item.seq);
  Tile tiles[2];
  Prefetcher prefetcher;
  fill_tile(p, blocks, item.token_begin, item.token_end, &tiles[0]);
  prefetch_tile(p, item, tiles[0], prefetcher);
  load_tile(prefetcher);
  for (uint32_t i = 0;; i ^= 1) {
    const Tile& tile = tiles[i];
    const uint32_t end = tile.position + tile.n;
    const bool more = end < item.token_end;
    if (more) {
      fill_tile(p, blocks, end, item.token_end, &tiles[i ^ 1]);
      prefetch_tile(p, item, tiles[i ^ 1], prefetcher);
    }
    run_scores(p, item, tile, state, prefetcher);
    tile_softmax(p, item, tile, state);
    run_values(p, item, tile, state, prefetcher);
    if (!more) return;
  }
}

// ---- the item

State carve(const AttentionParams& p, void* scratch) {
  const uint64_t quads = uint64_t{p.num_kv_heads} * quads_of(group_of(p));
  State s;
  s.q = static_cast<float*>(scratch);
  s.o = s.q + uint64_t{p.num_q_heads} * padded(p.head_dim);
  s.m = s.o + uint64_t{p.num_q_heads} * padded(p.head_dim_v);
  s.l = s.m + quads * kStep;
  s.alpha = s.l + quads * kStep;
  s.s = s.alpha + quads * kStep;
  return s;
}

// Where the state of query head h begins in m, l and alpha.
RADIX_INLINE uint64_t lane_of(const AttentionParams& p, uint32_t head) {
  const uint32_t group = group_of(p);
  const uint32_t in_group = head % group;
  return (uint64_t{head / group} * quads_of(group) + in_group / kQuadHeads) * kStep +
         in_group % kQuadHeads * kTokens;
}

// The softmax has whole quads: what stands for heads that a group's last quad lacks.
void clear_last_quads(const AttentionParams& p, const DecodeItem& item, const State& s) {
  const uint32_t quads = quads_of(group_of(p));
  if (group_of(p) % kQuadHeads == 0) return;
  for (uint32_t h = item.head_begin; h < item.head_end; ++h) {
    const uint64_t quad = uint64_t{h} * quads + quads - 1;
    for (uint32_t i = 0; i < kStep; ++i) s.m[quad * kStep + i] = s.l[quad * kStep + i] = 0.f;
    float* scores = s.s + quad * kTileTokens * kQuadHeads;
    for (uint32_t i = 0; i < kTileTokens * kQuadHeads; ++i) scores[i] = 0.f;
  }
}

void begin_state(const AttentionParams& p, const DecodeItem& item, uint32_t head_begin,
                 uint32_t head_end, const State& s) {
  clear_last_quads(p, item, s);
  const uint32_t o_stride = padded(p.head_dim_v);
  for (uint32_t h = head_begin; h < head_end; ++h) {
    float* q = s.q + uint64_t{h} * padded(p.head_dim);
    for (uint32_t i = p.head_dim; i < padded(p.head_dim); ++i) q[i] = 0.f;
    load_query(p, item.query, h, query_scale(p), q);
    for (uint32_t i = 0; i < o_stride; ++i) s.o[uint64_t{h} * o_stride + i] = 0.f;
    const uint64_t at = lane_of(p, h);
    for (uint32_t i = 0; i < kTokens; ++i) {
      s.m[at + i] = kMinusInf;
      s.l[at + i] = 0.f;
    }
  }
}

RADIX_INLINE float sum_parts(const float* l) { return (l[0] + l[1]) + (l[2] + l[3]); }

void copy_row(const float* from, float* to, uint32_t n) {
  for (uint32_t i = 0; i < n; i += kLanes) hn::StoreU(hn::LoadU(DF(), from + i), DF(), to + i);
}

}  // namespace

void decode_item(const DecodeJob& job, const DecodeItem& item, void* scratch) {
  const AttentionParams& p = *job.params;
  const State s = carve(p, scratch);
  const uint32_t group = p.num_q_heads / p.num_kv_heads;
  const uint32_t head_begin = item.head_begin * group;
  const uint32_t head_end = item.head_end * group;
  const uint32_t o_stride = padded(p.head_dim_v);
  begin_state(p, item, head_begin, head_end, s);
  if (item.token_begin < item.token_end) walk_range(p, item, s);
  for (uint32_t h = head_begin; h < head_end; ++h) {
    float* o = s.o + uint64_t{h} * o_stride;
    const float m = s.m[lane_of(p, h)];
    const float l = sum_parts(s.l + lane_of(p, h));
    if (item.state == kNoState) {
      finish_row(p, item.query, h, o, m, l);
      continue;
    }
    const uint64_t row = static_cast<uint64_t>(item.state) * p.num_q_heads + h;
    copy_row(o, job.partial.o + row * o_stride, o_stride);
    job.partial.m[row] = m;
    job.partial.l[row] = l;
  }
}

// In order of position: the sum does not depend on who computed what when.
void decode_merge(const DecodeJob& job, uint32_t seq, uint32_t head_begin, uint32_t head_end) {
  const DF d;
  const AttentionParams& p = *job.params;
  const uint32_t group = p.num_q_heads / p.num_kv_heads;
  const uint32_t o_stride = padded(p.head_dim_v);
  const uint32_t ranges = decode_num_ranges(job, seq);
  for (uint32_t h = head_begin * group; h < head_end * group; ++h) {
    const uint64_t first = static_cast<uint64_t>(range_state(job, seq, 0)) * p.num_q_heads + h;
    float m = kMinusInf;
    for (uint32_t r = 0; r < ranges; ++r) {
      const float mr = job.partial.m[first + uint64_t{r} * p.num_q_heads];
      m = mr > m ? mr : m;
    }
    alignas(64) float o[256];
    for (uint32_t i = 0; i < o_stride; i += kLanes) hn::StoreU(hn::Zero(d), d, o + i);
    float l = 0.f;
    for (uint32_t r = 0; r < ranges && m != kMinusInf; ++r) {
      const uint64_t row = first + uint64_t{r} * p.num_q_heads;
      const float w = exp2_one(job.partial.m[row] - m);
      const float* part = job.partial.o + row * o_stride;
      l += w * job.partial.l[row];
      for (uint32_t i = 0; i < o_stride; i += kLanes) {
        hn::StoreU(hn::MulAdd(hn::Set(d, w), hn::LoadU(d, part + i), hn::LoadU(d, o + i)), d,
                   o + i);
      }
    }
    finish_row(p, seq, h, o, m, l);
  }
}

}  // namespace RADIX_CPU_TARGET_NS
}  // namespace radixattn
