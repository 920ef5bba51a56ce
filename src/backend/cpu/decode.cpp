// Decode: attention of one query row per sequence over paged K/V. Memory-bound, so all is about reading each K/V
// byte once, in an order that the memory system likes.
//
// Work split: an item is (sequence, range of positions, some KV heads). It walks its range in tiles of 32 tokens; a
// tile is finished for all KV heads before the next tile is touched (NHD reads one head after the other at 21 GB/s,
// token rows whole at 35), and while a head is computed, its rows of the next tile are prefetched through the block
// table. A tile is a list of row offsets, so block size, layout and contiguity make no difference to the kernels.
//
// Per tile and KV head, for up to kGroup query heads at a time:
//   scores   S[g][t] = q[g] . k[t]      4 tokens x kGroup heads of accumulators, lanes over head_dim
//   softmax  online, base 2: m' = max(m, max S), p = 2^(S - m'), l = l*2^(m - m') + sum p
//   values   o[g] = o[g]*2^(m - m') + sum_t p[g][t] v[t]
// q is packed to f32 once per item, scaled by scale*log2(e). Accumulation is f32 throughout.
//
// Numbers below are measured by bench/cpu_attention.cpp.
#include "backend/cpu/attention_jobs.h"
#include "backend/cpu/kernel_set-inl.h"
#include "backend/cpu/math-inl.h"

namespace radixattn {
namespace RADIX_CPU_TARGET_NS {
namespace {

// Query heads that share one pass over K/V rows: 4 x 4 accumulators need 32 registers, 2 x 4 fit 16.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr uint32_t kGroup = 4;
#else
constexpr uint32_t kGroup = 2;
#endif
constexpr uint32_t kTokens = 4;       // tokens of one score step
constexpr uint32_t kValueVecs = 4;    // vectors of head_dim_v of one value step
constexpr size_t kCacheLine = 64;

// A tile: element offsets of its K and V rows (head 0); entries past n repeat the last row.
struct Tile {
  uint32_t position = 0;  // of its first token
  uint32_t n = 0;
  int64_t k[kTileTokens];
  int64_t v[kTileTokens];
};

// ---- scores ------------------------------------------------------------------------------------------------------

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
RADIX_INLINE void score_step(const float* q, uint32_t q_stride, const T* const rows[kTokens], uint32_t i,
                             VF acc[NG][kTokens]) {
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

// s[g][t] for the n tokens of a tile, rounded up to kTokens.
template <class T, uint32_t NG>
void scores(const float* q, uint32_t head_dim, const T* base, const int64_t* offsets, uint32_t n, float* s) {
  const uint32_t q_stride = padded(head_dim);
  for (uint32_t t0 = 0; t0 < n; t0 += kTokens) {
    const T* const rows[kTokens] = {base + offsets[t0], base + offsets[t0 + 1], base + offsets[t0 + 2],
                                    base + offsets[t0 + 3]};
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
      sum_lanes4(acc[g][0], acc[g][1], acc[g][2], acc[g][3], s + g * kTileTokens + t0);
    }
  }
}

// ---- values ------------------------------------------------------------------------------------------------------

// o[g][i ..] = alpha[g]*o[g][i ..] + sum_t p[g][t]*v[t][i ..] for NV vectors.
template <uint32_t NG, uint32_t NV, bool kHalf, class T>
RADIX_INLINE void value_step(const float* p, const float* alpha, const T* base, const int64_t* offsets, uint32_t n,
                             float* o, uint32_t o_stride) {
  const DF d;
  VF acc[NG][NV];
#pragma GCC unroll 8
  for (uint32_t g = 0; g < NG; ++g) {
    const VF a = hn::Set(d, alpha[g]);
#pragma GCC unroll 8
    for (uint32_t i = 0; i < NV; ++i) acc[g][i] = hn::Mul(a, hn::LoadU(d, o + g * o_stride + i * kLanes));
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
void values(const float* p, const float* alpha, uint32_t head_dim_v, const T* base, const int64_t* offsets, uint32_t n,
            float* o) {
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

// ---- softmax -----------------------------------------------------------------------------------------------------

// The state of an item: one row of each for every query head.
struct State {
  float* q;  // [num_q_heads, padded(head_dim)] scaled
  float* o;  // [num_q_heads, padded(head_dim_v)]
  float* m;  // [num_q_heads] running maximum, base 2
  float* l;  // [num_q_heads, kRowPad] lanes of the running sum
};

// Soft cap and ALiBi on the scores of one head, which come out in units of log 2.
RADIX_INLINE void bias_scores(const AttentionParams& p, uint32_t head, const Tile& tile, int32_t query_position,
                              float* s) {
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

// ---- one tile of one KV head -------------------------------------------------------------------------------------

template <class TK, class TV, uint32_t NG>
void tile_heads(const AttentionParams& p, const Tile& tile, uint32_t kv_head, uint32_t head, int32_t query_position,
                const State& state) {
  alignas(64) float s[NG * kTileTokens];
  float alpha[NG];
  const uint32_t q_stride = padded(p.head_dim);
  const uint32_t o_stride = padded(p.head_dim_v);
  const TK* k = static_cast<const TK*>(p.k.data) + int64_t{kv_head} * p.k.head_stride;
  const TV* v = static_cast<const TV*>(p.v.data) + int64_t{kv_head} * p.v.head_stride;

  scores<TK, NG>(state.q + uint64_t{head} * q_stride, p.head_dim, k, tile.k, tile.n, s);
  for (uint32_t g = 0; g < NG; ++g) {
    float* row = s + g * kTileTokens;
    if (p.softcap > 0.f || p.alibi_slopes != nullptr) {
      for (uint32_t t = tile.n; t < kTileTokens; ++t) row[t] = 0.f;
      bias_scores(p, head + g, tile, query_position, row);
    }
    alpha[g] = softmax_row(tile.n, row, state.m + head + g, state.l + uint64_t{head + g} * kRowPad);
  }
  values<TV, NG>(s, alpha, p.head_dim_v, v, tile.v, tile.n, state.o + uint64_t{head} * o_stride);
}

template <class TK, class TV>
void tile_group(const AttentionParams& p, const Tile& tile, uint32_t kv_head, int32_t query_position,
                const State& state) {
  const uint32_t group = p.num_q_heads / p.num_kv_heads;
  const uint32_t head = kv_head * group;
  uint32_t g = 0;
  if constexpr (kGroup >= 4) {
    for (; g + 4 <= group; g += 4) tile_heads<TK, TV, 4>(p, tile, kv_head, head + g, query_position, state);
  }
  for (; g + 2 <= group; g += 2) tile_heads<TK, TV, 2>(p, tile, kv_head, head + g, query_position, state);
  if (g < group) tile_heads<TK, TV, 1>(p, tile, kv_head, head + g, query_position, state);
}

// ---- walking the range -------------------------------------------------------------------------------------------

// Positions are cut at multiples of kTileTokens, whatever the item's bounds: the same tiles for everybody.
void fill_tile(const AttentionParams& p, const int32_t* blocks, uint32_t position, uint32_t end, Tile* tile) {
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

// To the second-level cache: a tile of all heads is larger than the first.
RADIX_INLINE void prefetch_rows(const char* base, const int64_t* offsets, uint32_t n, size_t element, size_t row_bytes) {
  for (uint32_t t = 0; t < n; ++t) {
    const char* row = base + offsets[t] * static_cast<int64_t>(element);
    for (size_t b = 0; b < row_bytes; b += kCacheLine) __builtin_prefetch(row + b, 0, 2);
  }
}

RADIX_INLINE size_t element_bytes(int32_t dtype) { return dtype == RADIX_F32 ? 4 : 2; }

void prefetch_head(const AttentionParams& p, const Tile& tile, uint32_t kv_head) {
  const size_t ek = element_bytes(p.k.dtype);
  const size_t ev = element_bytes(p.v.dtype);
  const char* k = static_cast<const char*>(p.k.data) + int64_t{kv_head} * p.k.head_stride * static_cast<int64_t>(ek);
  const char* v = static_cast<const char*>(p.v.data) + int64_t{kv_head} * p.v.head_stride * static_cast<int64_t>(ev);
  prefetch_rows(k, tile.k, tile.n, ek, p.head_dim * ek);
  prefetch_rows(v, tile.v, tile.n, ev, p.head_dim_v * ev);
}

using TileFn = void (*)(const AttentionParams&, const Tile&, uint32_t kv_head, int32_t query_position, const State&);

template <class TK>
TileFn tile_fn_v(int32_t v_dtype) {
  return v_dtype == RADIX_F32   ? tile_group<TK, F32>
         : v_dtype == RADIX_F16 ? tile_group<TK, F16>
                                : tile_group<TK, BF16>;
}

TileFn tile_fn(int32_t k_dtype, int32_t v_dtype) {
  return k_dtype == RADIX_F32   ? tile_fn_v<F32>(v_dtype)
         : k_dtype == RADIX_F16 ? tile_fn_v<F16>(v_dtype)
                                : tile_fn_v<BF16>(v_dtype);
}

void walk_range(const AttentionParams& p, const DecodeItem& item, const State& state) {
  const TileFn run = tile_fn(p.k.dtype, p.v.dtype);
  const int32_t* blocks = block_row(p.blocks, item.seq);
  const int32_t query_position = p.context_lens[item.seq] - 1;
  Tile tiles[2];
  fill_tile(p, blocks, item.token_begin, item.token_end, &tiles[0]);
  for (uint32_t h = item.head_begin; h < item.head_end; ++h) prefetch_head(p, tiles[0], h);
  for (uint32_t i = 0;; i ^= 1) {
    const Tile& tile = tiles[i];
    Tile& next = tiles[i ^ 1];
    const uint32_t end = tile.position + tile.n;
    const bool more = end < item.token_end;
    if (more) fill_tile(p, blocks, end, item.token_end, &next);
    for (uint32_t h = item.head_begin; h < item.head_end; ++h) {
      if (more) prefetch_head(p, next, h);
      run(p, tile, h, query_position, state);
    }
    if (!more) return;
  }
}

// ---- the item ----------------------------------------------------------------------------------------------------

State carve(const AttentionParams& p, void* scratch) {
  State s;
  s.q = static_cast<float*>(scratch);
  s.o = s.q + uint64_t{p.num_q_heads} * padded(p.head_dim);
  s.l = s.o + uint64_t{p.num_q_heads} * padded(p.head_dim_v);
  s.m = s.l + uint64_t{p.num_q_heads} * kRowPad;
  return s;
}

// Scores leave the dot product in units of log 2; under a soft cap, in units of the cap.
float query_scale(const AttentionParams& p) { return p.softcap > 0.f ? p.scale / p.softcap : p.scale * kLog2e; }

template <class T>
void pack_query(const RowTensor& q, uint32_t row, uint32_t head, uint32_t head_dim, float scale, float* out) {
  const T* from = static_cast<const T*>(q.data) + row * q.row_stride + head * q.head_stride;
  for (uint32_t i = 0; i < padded(head_dim); i += kRowPad) {
    for (uint32_t j = 0; j < kRowPad; j += 8) {  // 8 at a time: a row ends at a multiple of 8
      for (uint32_t e = i + j; e < i + j + 8; ++e) out[e] = e < head_dim ? scale * to_f32(from[e]) : 0.f;
    }
  }
}

void pack_head(const AttentionParams& p, uint32_t seq, uint32_t head, float* out) {
  const float scale = query_scale(p);
  if (p.q.dtype == RADIX_F32) return pack_query<F32>(p.q, seq, head, p.head_dim, scale, out);
  if (p.q.dtype == RADIX_F16) return pack_query<F16>(p.q, seq, head, p.head_dim, scale, out);
  return pack_query<BF16>(p.q, seq, head, p.head_dim, scale, out);
}

void begin_state(const AttentionParams& p, const DecodeItem& item, uint32_t head_begin, uint32_t head_end,
                 const State& s) {
  const uint32_t o_stride = padded(p.head_dim_v);
  for (uint32_t h = head_begin; h < head_end; ++h) {
    pack_head(p, item.seq, h, s.q + uint64_t{h} * padded(p.head_dim));
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

// Writes the row of one query head from its unnormalised state; scales `o` in place.
void finish_head(const AttentionParams& p, uint32_t row, uint32_t head, float* o, float m, float l) {
  const DF d;
  const uint32_t n = padded(p.head_dim_v);
  if (p.sinks != nullptr && m != kMinusInf) {
    // The sink is one more key without a value: once, here, after all ranges are together.
    const float sink = p.sinks[head] * kLog2e;
    const float top = m > sink ? m : sink;
    const float shrink = exp2_one(m - top);
    l = l * shrink + exp2_one(sink - top);
    for (uint32_t i = 0; i < n; i += kLanes) hn::StoreU(hn::Mul(hn::Set(d, shrink), hn::LoadU(d, o + i)), d, o + i);
    m = top;
  }
  const float inverse = m == kMinusInf ? 0.f : 1.f / l;
  for (uint32_t i = 0; i < n; i += kLanes) hn::StoreU(hn::Mul(hn::Set(d, inverse), hn::LoadU(d, o + i)), d, o + i);
  const int64_t at = row * p.out.row_stride + head * p.out.head_stride;
  if (p.out.dtype == RADIX_F32) row_from_f32(o, static_cast<F32*>(p.out.data) + at, p.head_dim_v);
  if (p.out.dtype == RADIX_F16) row_from_f32(o, static_cast<F16*>(p.out.data) + at, p.head_dim_v);
  if (p.out.dtype == RADIX_BF16) row_from_f32(o, static_cast<BF16*>(p.out.data) + at, p.head_dim_v);
  if (p.lse != nullptr) {
    p.lse[row * p.lse_row_stride + head * p.lse_head_stride] =
        m == kMinusInf ? kMinusInf : (m + log2_one(l)) * kLn2;
  }
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
    if (item.range < 0) {
      finish_head(p, item.seq, h, o, s.m[h], l);
      continue;
    }
    const uint64_t row = partial_row(job, item.seq, static_cast<uint32_t>(item.range)) + h;
    copy_row(o, job.partial_o + row * o_stride, o_stride);
    job.partial_m[row] = s.m[h];
    job.partial_l[row] = l;
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
    const uint64_t first = partial_row(job, seq, 0) + h;
    float m = kMinusInf;
    for (uint32_t r = 0; r < ranges; ++r) {
      const float mr = job.partial_m[first + uint64_t{r} * p.num_q_heads];
      m = mr > m ? mr : m;
    }
    alignas(64) float o[256];
    for (uint32_t i = 0; i < o_stride; i += kLanes) hn::StoreU(hn::Zero(d), d, o + i);
    float l = 0.f;
    for (uint32_t r = 0; r < ranges && m != kMinusInf; ++r) {
      const uint64_t row = first + uint64_t{r} * p.num_q_heads;
      const float w = exp2_one(job.partial_m[row] - m);
      const float* part = job.partial_o + row * o_stride;
      l += w * job.partial_l[row];
      for (uint32_t i = 0; i < o_stride; i += kLanes) {
        hn::StoreU(hn::MulAdd(hn::Set(d, w), hn::LoadU(d, part + i), hn::LoadU(d, o + i)), d, o + i);
      }
    }
    finish_head(p, seq, h, o, m, l);
  }
}

}  // namespace RADIX_CPU_TARGET_NS
}  // namespace radixattn
