// Decode: attention of one query row per sequence over paged K/V. Memory-bound, so all is about
// reading each K/V byte once, in an order that the memory system likes.
//
// Work split: an item is (sequence, range of positions, some KV heads). It walks its range in tiles
// of kTileTokens; a tile is a list of row offsets, so block size, layout and contiguity make no
// difference to the kernels. Per tile:
//   scores   S[h][t] = q[h] . k[t]      4 tokens x kGroup heads of accumulators, lanes over
//   head_dim softmax  online, base 2: m' = max(m, max S), p = 2^(S - m'), l = l*2^(m - m') + sum p
//   values   o[h] = o[h]*2^(m - m') + sum_t p[h][t] v[t]
//
// NOTE: the order of reading decides (GB/s on one Zen 5 core, blocks in random order, a linear read
// being 38): one KV head after the other through a block 17-20; a few token rows side by side, with
// everything that comes next prefetched in the order of addresses, 29. So each phase walks all KV
// heads for a few tokens, the score phase prefetches the tile's V, and the value phase prefetches
// the next tile's K. When heads are the outer dimension of a block (HND), the loops turn round. q
// is packed to f32 once per item, scaled by scale*log2(e). Accumulation is f32 throughout.
//
// Numbers below are measured by bench/cpu_attention.cpp.
#include "backend/cpu/attention_jobs.h"
#include "backend/cpu/kernel_set-inl.h"
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
constexpr uint32_t kTokens = 4;       // tokens of one score step
constexpr uint32_t kValueVecs = 4;    // vectors of head_dim_v of one value step
constexpr uint32_t kValueTokens = 4;  // tokens of one value step when heads lie inside tokens
constexpr uint32_t kCacheLine = 64;

// A tile: element offsets of its K and V rows (head 0); entries past n repeat the last row.
struct Tile {
  uint32_t position = 0;  // of its first token
  uint32_t n = 0;
  int64_t k[kTileTokens];
  int64_t v[kTileTokens];
};

// ---- scores

// out[i] = sum of the lanes of vector i.
RADIX_INLINE void sum_lanes4(VF a, VF b, VF c, VF e, float* out) {
#if HWY_TARGET == HWY_SCALAR
  out[0] = hn::GetLane(a);
  out[1] = hn::GetLane(b);
  out[2] = hn::GetLane(c);
  out[3] = hn::GetLane(e);
#else
  const DF d;
  const hn::Repartition<uint64_t, DF> d64;
  // Within each 128-bit block: ab = (a0+a2, b0+b2, a1+a3, b1+b3), then (a, b, c, e).
  const VF ab = hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b));
  const VF ce = hn::Add(hn::InterleaveLower(d, c, e), hn::InterleaveUpper(d, c, e));
  const auto ab64 = hn::BitCast(d64, ab);
  const auto ce64 = hn::BitCast(d64, ce);
  const VF sums = hn::Add(hn::BitCast(d, hn::InterleaveLower(d64, ab64, ce64)),
                          hn::BitCast(d, hn::InterleaveUpper(d64, ab64, ce64)));
#if HWY_MAX_BYTES == 64
  const hn::Half<DF> d8;
  const hn::Half<decltype(d8)> d4;
  const auto s8 = hn::Add(hn::LowerHalf(d8, sums), hn::UpperHalf(d8, sums));
  hn::StoreU(hn::Add(hn::LowerHalf(d4, s8), hn::UpperHalf(d4, s8)), d4, out);
#elif HWY_MAX_BYTES == 32
  const hn::Half<DF> d4;
  hn::StoreU(hn::Add(hn::LowerHalf(d4, sums), hn::UpperHalf(d4, sums)), d4, out);
#else
  hn::StoreU(sums, d, out);
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
#pragma GCC unroll 8
  for (uint32_t g = 0; g < NG; ++g) {
    sum_lanes4(acc[g][0], acc[g][1], acc[g][2], acc[g][3], s + g * kTileTokens);
  }
}

// ---- values

// o[g][i ..] = alpha[g]*o[g][i ..] + sum_t p[g][t]*v[t][i ..] for NV vectors; alpha null: 1.
template <uint32_t NG, uint32_t NV, bool kHalf, class T>
RADIX_INLINE void value_step(const float* p, const float* alpha, const T* base,
                             const int64_t* offsets, uint32_t n, float* o, uint32_t o_stride) {
  const DF d;
  VF acc[NG][NV];
#pragma GCC unroll 8
  for (uint32_t g = 0; g < NG; ++g) {
#pragma GCC unroll 8
    for (uint32_t i = 0; i < NV; ++i) acc[g][i] = hn::LoadU(d, o + g * o_stride + i * kLanes);
  }
  if (alpha != nullptr) {
#pragma GCC unroll 8
    for (uint32_t g = 0; g < NG; ++g) {
#pragma GCC unroll 8
      for (uint32_t i = 0; i < NV; ++i) acc[g][i] = hn::Mul(hn::Set(d, alpha[g]), acc[g][i]);
    }
  }
  for (uint32_t t = 0; t < n; ++t) {
    const T* row = base + offsets[t];
    VF v[NV];
#pragma GCC unroll 8
    for (uint32_t i = 0; i < NV; ++i) v[i] = load_row<kHalf>(row + i * kLanes);
#pragma GCC unroll 8
    for (uint32_t g = 0; g < NG; ++g) {
      const VF w = hn::Set(d, p[g * kTileTokens + t]);
#pragma GCC unroll 8
      for (uint32_t i = 0; i < NV; ++i) acc[g][i] = hn::MulAdd(v[i], w, acc[g][i]);
    }
  }
#pragma GCC unroll 8
  for (uint32_t g = 0; g < NG; ++g) {
#pragma GCC unroll 8
    for (uint32_t i = 0; i < NV; ++i) hn::StoreU(acc[g][i], d, o + g * o_stride + i * kLanes);
  }
}

template <class T, uint32_t NG>
RADIX_INLINE void values(const float* p, const float* alpha, uint32_t head_dim_v, const T* base,
                         const int64_t* offsets, uint32_t n, float* o) {
  const uint32_t o_stride = padded(head_dim_v);
  constexpr uint32_t kWide = kValueVecs * kLanes;
  uint32_t i = 0;
  for (; i + kWide <= head_dim_v; i += kWide) {
    value_step<NG, kValueVecs, false>(p, alpha, base + i, offsets, n, o + i, o_stride);
  }
  for (; i + kLanes <= head_dim_v; i += kLanes) {
    value_step<NG, 1, false>(p, alpha, base + i, offsets, n, o + i, o_stride);
  }
  if (i < head_dim_v) value_step<NG, 1, true>(p, alpha, base + i, offsets, n, o + i, o_stride);
}

// ---- softmax

// The state of an item: one row of each for every query head.
struct State {
  float* q;      // [num_q_heads, padded(head_dim)] scaled
  float* o;      // [num_q_heads, padded(head_dim_v)]
  float* m;      // [num_q_heads] running maximum, base 2
  float* l;      // [num_q_heads, kRowPad] lanes of the running sum
  float* s;      // [num_q_heads, kTileTokens] scores, then weights, of the current tile
  float* alpha;  // [num_q_heads] 2^(m - m') of the current tile
};

// Soft cap and ALiBi on the scores of one head, which come out in units of log 2.
RADIX_INLINE void bias_scores(const AttentionParams& p, uint32_t head, const Tile& tile,
                              int32_t query_position, float* s) {
  const DF d;
  const VF cap = hn::Set(d, p.softcap * kLog2e);
  const VF slope = hn::Set(d, p.alibi_slopes != nullptr ? p.alibi_slopes[head] * kLog2e : 0.f);
  const float first = static_cast<float>(static_cast<int32_t>(tile.position) - query_position);
  for (uint32_t t = 0; t < kTileTokens; t += kLanes) {
    VF x = hn::LoadU(d, s + t);
    if (p.softcap > 0.f) x = hn::Mul(cap, tanh_f32(x));
    if (p.alibi_slopes != nullptr) {
      x = hn::MulAdd(slope, hn::Iota(d, first + static_cast<float>(t)), x);
    }
    hn::StoreU(x, d, s + t);
  }
}

// Turns scores into weights p = 2^(s - m'), updates m and l, and returns 2^(m - m').
RADIX_INLINE float softmax_row(uint32_t n, float* s, float* m, float* l) {
  const DF d;
  for (uint32_t t = n; t < kTileTokens; ++t) s[t] = kMinusInf;
  VF top = hn::LoadU(d, s);
#pragma GCC unroll 8
  for (uint32_t t = kLanes; t < kTileTokens; t += kLanes) top = hn::Max(top, hn::LoadU(d, s + t));
  const VF peak = hn::Max(hn::MaxOfLanes(d, top), hn::Set(d, *m));
  const float m_new = hn::GetLane(peak);
  if (m_new == kMinusInf) {  // scores of -inf only: nothing is visible yet, and inf - inf is NaN
    for (uint32_t t = 0; t < kTileTokens; ++t) s[t] = 0.f;
    return 1.f;
  }
  const VF alpha = exp2_f32(hn::Set(d, *m - m_new));
  VF sum = hn::Mul(alpha, hn::LoadU(d, l));
#pragma GCC unroll 8
  for (uint32_t t = 0; t < kTileTokens; t += kLanes) {
    const VF e = exp2_f32(hn::Sub(hn::LoadU(d, s + t), peak));
    sum = hn::Add(sum, e);
    hn::StoreU(e, d, s + t);
  }
  hn::StoreU(sum, d, l);
  *m = m_new;
  return hn::GetLane(alpha);
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

RADIX_INLINE uint32_t element_bytes(int32_t dtype) { return dtype == RADIX_F32 ? 4 : 2; }

// True when a token's heads lie closer together than a head's tokens (NHD).
RADIX_INLINE bool token_major(const PagedTensor& t) { return t.head_stride < t.token_stride; }

// What is still to be prefetched of a tile, in the order of addresses: spans of cache lines, one
// for each token when its heads are contiguous, else one for each row (token, KV head).
struct Prefetcher {
  const char* line = nullptr;  // the next line of the span
  uint32_t left = 0;           // lines left in the span; 0: all done
  uint32_t row_lines = 0, span_lines = 0;
  uint32_t token = 0, head = 0, num_tokens = 0, num_spans_of_token = 0;
  bool by_token = true;
  const char* base = nullptr;  // token offset 0, first head of the item
  const int64_t* offsets = nullptr;
  int64_t element = 0, head_bytes = 0;
};

RADIX_INLINE void start_span(Prefetcher& f) {
  f.line = f.base + f.offsets[f.token] * f.element + f.head * f.head_bytes;
  f.left = f.span_lines;
}

RADIX_INLINE Prefetcher prefetch_of(const PagedTensor& t, uint32_t row_elements,
                                    const int64_t* offsets, uint32_t n, const DecodeItem& item) {
  Prefetcher f;
  f.element = element_bytes(t.dtype);
  f.head_bytes = t.head_stride * f.element;
  f.base = static_cast<const char*>(t.data) + item.head_begin * f.head_bytes;
  f.offsets = offsets;
  f.num_tokens = n;
  f.by_token = token_major(t);
  const uint32_t row_bytes = row_elements * element_bytes(t.dtype);
  const uint32_t heads = item.head_end - item.head_begin;
  const bool dense = f.by_token && f.head_bytes == int64_t{row_bytes};
  f.num_spans_of_token = dense ? 1 : heads;
  f.row_lines = (row_bytes + kCacheLine - 1) / kCacheLine;
  f.span_lines = ((dense ? heads : 1) * row_bytes + kCacheLine - 1) / kCacheLine;
  start_span(f);
  return f;
}

RADIX_INLINE void next_span(Prefetcher& f) {
  if (f.by_token) {
    if (++f.head == f.num_spans_of_token) f.head = 0, ++f.token;
  } else {
    if (++f.token == f.num_tokens) f.token = 0, ++f.head;
  }
  if (f.token < f.num_tokens && f.head < f.num_spans_of_token) start_span(f);
}

// NOTE: always inlined. g++ 12 takes a function that only prefetches for one without effects and
// drops the call.
RADIX_INLINE void prefetch_rows(Prefetcher& f, uint32_t rows) {
  uint32_t lines = rows * f.row_lines;
  while (lines != 0 && f.left != 0) {
    const uint32_t n = lines < f.left ? lines : f.left;
    for (uint32_t i = 0; i < n; ++i) __builtin_prefetch(f.line + i * kCacheLine, 0, 3);
    f.line += n * kCacheLine;
    f.left -= n;
    lines -= n;
    if (f.left == 0) next_span(f);
  }
}

template <class T>
RADIX_INLINE void head_scores(const AttentionParams& p, const State& state, const int64_t* offsets,
                              uint32_t kv_head, uint32_t t0) {
  const uint32_t group = p.num_q_heads / p.num_kv_heads;
  const uint32_t q_stride = padded(p.head_dim);
  const T* base = static_cast<const T*>(p.k.data) + int64_t{kv_head} * p.k.head_stride;
  uint32_t head = kv_head * group;
  const uint32_t end = head + group;
  const auto q = [&](uint32_t h) { return state.q + uint64_t{h} * q_stride; };
  const auto s = [&](uint32_t h) { return state.s + uint64_t{h} * kTileTokens + t0; };
  if constexpr (kGroup >= 4) {
    for (; head + 4 <= end; head += 4)
      scores<T, 4>(q(head), p.head_dim, base, offsets + t0, s(head));
  }
  for (; head + 2 <= end; head += 2) scores<T, 2>(q(head), p.head_dim, base, offsets + t0, s(head));
  if (head < end) scores<T, 1>(q(head), p.head_dim, base, offsets + t0, s(head));
}

template <class T>
RADIX_INLINE void head_values(const AttentionParams& p, const State& state, const int64_t* offsets,
                              uint32_t kv_head, uint32_t t0, uint32_t n) {
  const uint32_t group = p.num_q_heads / p.num_kv_heads;
  const uint32_t dv = p.head_dim_v;
  const T* base = static_cast<const T*>(p.v.data) + int64_t{kv_head} * p.v.head_stride;
  uint32_t head = kv_head * group;
  const uint32_t end = head + group;
  const auto w = [&](uint32_t h) { return state.s + uint64_t{h} * kTileTokens + t0; };
  const auto o = [&](uint32_t h) { return state.o + uint64_t{h} * padded(dv); };
  const auto alpha = [&](uint32_t h) {
    return t0 == 0 ? state.alpha + h : nullptr;
  };  // once a tile
  if constexpr (kGroup >= 4) {
    for (; head + 4 <= end; head += 4)
      values<T, 4>(w(head), alpha(head), dv, base, offsets + t0, n, o(head));
  }
  for (; head + 2 <= end; head += 2)
    values<T, 2>(w(head), alpha(head), dv, base, offsets + t0, n, o(head));
  if (head < end) values<T, 1>(w(head), alpha(head), dv, base, offsets + t0, n, o(head));
}

template <class T>
void tile_scores(const AttentionParams& p, const DecodeItem& item, const Tile& tile,
                 const State& state, Prefetcher next) {
  if (token_major(p.k)) {
    for (uint32_t t = 0; t < tile.n; t += kTokens) {
      for (uint32_t h = item.head_begin; h < item.head_end; ++h) {
        prefetch_rows(next, kTokens);
        head_scores<T>(p, state, tile.k, h, t);
      }
    }
  } else {
    for (uint32_t h = item.head_begin; h < item.head_end; ++h) {
      for (uint32_t t = 0; t < tile.n; t += kTokens) {
        prefetch_rows(next, kTokens);
        head_scores<T>(p, state, tile.k, h, t);
      }
    }
  }
}

template <class T>
void tile_values(const AttentionParams& p, const DecodeItem& item, const Tile& tile,
                 const State& state, Prefetcher next) {
  const uint32_t step = token_major(p.v) ? kValueTokens : kTileTokens;
  for (uint32_t t = 0; t < tile.n; t += step) {
    const uint32_t n = tile.n - t < step ? tile.n - t : step;
    for (uint32_t h = item.head_begin; h < item.head_end; ++h) {
      prefetch_rows(next, step);
      head_values<T>(p, state, tile.v, h, t, n);
    }
  }
}

void tile_softmax(const AttentionParams& p, const DecodeItem& item, const Tile& tile,
                  const State& state) {
  const uint32_t group = p.num_q_heads / p.num_kv_heads;
  const int32_t query_position = item.position;
  for (uint32_t h = item.head_begin * group; h < item.head_end * group; ++h) {
    float* row = state.s + uint64_t{h} * kTileTokens;
    if (p.softcap > 0.f || p.alibi_slopes != nullptr) {
      for (uint32_t t = tile.n; t < kTileTokens; ++t) row[t] = 0.f;
      bias_scores(p, h, tile, query_position, row);
    }
    state.alpha[h] = softmax_row(tile.n, row, state.m + h, state.l + uint64_t{h} * kRowPad);
  }
}

using TileFn = void (*)(const AttentionParams&, const DecodeItem&, const Tile&, const State&,
                        Prefetcher);

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
  fill_tile(p, blocks, item.token_begin, item.token_end, &tiles[0]);
  Prefetcher first = prefetch_of(p.k, p.head_dim, tiles[0].k, tiles[0].n, item);
  prefetch_rows(first, kTileTokens * (item.head_end - item.head_begin));
  for (uint32_t i = 0;; i ^= 1) {
    const Tile& tile = tiles[i];
    Tile& next = tiles[i ^ 1];
    const uint32_t end = tile.position + tile.n;
    const bool more = end < item.token_end;
    if (more) fill_tile(p, blocks, end, item.token_end, &next);
    run_scores(p, item, tile, state, prefetch_of(p.v, p.head_dim_v, tile.v, tile.n, item));
    tile_softmax(p, item, tile, state);
    run_values(p, item, tile, state,
               more ? prefetch_of(p.k, p.head_dim, next.k, next.n, item) : Prefetcher());
    if (!more) return;
  }
}

// ---- the item

State carve(const AttentionParams& p, void* scratch) {
  State s;
  s.q = static_cast<float*>(scratch);
  s.o = s.q + uint64_t{p.num_q_heads} * padded(p.head_dim);
  s.l = s.o + uint64_t{p.num_q_heads} * padded(p.head_dim_v);
  s.s = s.l + uint64_t{p.num_q_heads} * kRowPad;
  s.m = s.s + uint64_t{p.num_q_heads} * kTileTokens;
  s.alpha = s.m + p.num_q_heads;
  return s;
}

void begin_state(const AttentionParams& p, const DecodeItem& item, uint32_t head_begin,
                 uint32_t head_end, const State& s) {
  const uint32_t o_stride = padded(p.head_dim_v);
  for (uint32_t h = head_begin; h < head_end; ++h) {
    float* q = s.q + uint64_t{h} * padded(p.head_dim);
    for (uint32_t i = p.head_dim; i < padded(p.head_dim); ++i) q[i] = 0.f;
    load_query(p, item.query, h, query_scale(p), q);
    for (uint32_t i = 0; i < o_stride; ++i) s.o[uint64_t{h} * o_stride + i] = 0.f;
    for (uint32_t i = 0; i < kRowPad; ++i) s.l[uint64_t{h} * kRowPad + i] = 0.f;
    s.m[h] = kMinusInf;
  }
}

RADIX_INLINE float sum_row(const float* l) {
  float sum = 0.f;
  for (uint32_t i = 0; i < kLanes; ++i) sum += l[i];
  return sum;
}

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
    const float l = sum_row(s.l + uint64_t{h} * kRowPad);
    if (item.state == kNoState) {
      finish_row(p, item.query, h, o, s.m[h], l);
      continue;
    }
    const uint64_t row = static_cast<uint64_t>(item.state) * p.num_q_heads + h;
    copy_row(o, job.partial.o + row * o_stride, o_stride);
    job.partial.m[row] = s.m[h];
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
