// Decode: attention of one query row per sequence over paged K/V. Memory-bound, so all is about
// reading each K/V byte once, in an order that the memory system likes, and about computing fast
// enough beside it.
//
// Work split: an item is (sequence, range of positions, some KV heads), for one query row, or for a
// few that share these keys (backend/radix_list.h): each then finds a head's keys in the first
// cache but the first row, which waits for them. It walks its range in tiles of kTileTokens; a tile
// is a list of row offsets, so block size, layout and contiguity make no difference to the kernels.
// A quad is up to 4 query heads of one KV head. Per tile, each for all quads before the next:
//   scores   decode_tile-inl.h
//   softmax  online, base 2: m' = max(m, max S), p = 2^(S - m'), l = l*2^(m - m') + sum p,
//            alpha = 2^(m - m'), lanes over 4 tokens x 4 heads
//   values   decode_tile-inl.h
// q is packed once per item: as f32, scaled by scale*log2(e), or, where bf16 dot products make the
// scores, as it is. Accumulation is f32 throughout.
//
// NOTE: what decides about memory stands in kv_stream-inl.h, and this: a walk through a tile with a
// constant stride sets the hardware's stride prefetcher off, which then reads past the end of a
// block: lost when the next block lies elsewhere. kStepOrder has no constant stride.
#include "backend/cpu/attention_jobs.h"
#include "backend/cpu/decode_tile-inl.h"
#include "backend/cpu/kernel_set-inl.h"
#include "backend/cpu/kv_stream-inl.h"
#include "backend/cpu/rows-inl.h"

namespace radixattn {
namespace RADIX_CPU_TARGET_NS {
namespace {

// What an item's walk needs to know of the launch.
struct Shape {
  uint32_t group = 0;     // query heads of a KV head
  uint32_t quads = 0;     // of a KV head
  uint32_t packs = 0;     // of a KV head
  uint32_t q_stride = 0;  // words of a head's q, of its o
  uint32_t o_stride = 0;
  bool dot = false;  // bf16 queries and keys
  ScoreShape score;
};

RADIX_INLINE Shape shape_of(const AttentionParams& p) {
  Shape s;
  s.group = p.num_q_heads / p.num_kv_heads;
  s.quads = div_up(s.group, kQuadHeads);
  for (uint32_t g = 0; g < s.group; ++s.packs)
    g += pack_heads(smaller(s.group - g, kQuadHeads - g % kQuadHeads));
  s.dot = has_bf16_scores(p);
  s.q_stride = padded(s.dot ? p.head_dim / 2 : p.head_dim);
  s.o_stride = padded(p.head_dim_v);
  s.score = {p.head_dim, query_scale(p)};
  return s;
}

// What is computed while a tile is prefetched: so many tokens of another for so many rows.
struct Meanwhile {
  uint32_t tokens, rows;
};

// Asks for a tile: half of its lines with the scores of what is computed meanwhile and half with
// the values, which take as long; a third where the scores are dot products.
RADIX_INLINE void prefetch_tile(const AttentionParams& p, const Shape& shape,
                                const DecodeItem& item, const Tile& tile, Meanwhile beside,
                                Prefetcher& f) {
  begin_prefetch(p, {tile.k, tile.v, tile.n, item.head_begin, item.head_end}, f);
  const uint64_t k_lines = stream_lines(f.k), v_lines = stream_lines(f.v);
  const uint64_t due = kDue * ((k_lines > v_lines ? k_lines : v_lines) + kAgainAfter);
  const uint64_t heads = uint64_t{beside.rows} * (item.head_end - item.head_begin);
  const uint64_t value_steps =
      heads * shape.packs * value_chunks(p.head_dim_v) * (beside.tokens / kTokens);
  const uint64_t with_scores = value_steps == 0 ? due : due / (shape.dot ? 3 : 2);
  f.score_due = due_with(with_scores, heads * shape.quads * div_up(beside.tokens, kTokens));
  f.value_due = due_with(due - with_scores, value_steps);
}

// ---- softmax

// The state of an item's query row. A quad is up to kQuadHeads query heads of one KV head; [kStep]
// arrays hold 4 lanes for each of its heads, and the scores of a tile are [steps of kTokens
// tokens][kStep].
struct State {
  float* q;           // [num_q_heads, q_stride] in packs: scaled, or pairs of bf16
  float* o;           // [num_q_heads, o_stride] in packs
  float* m;           // [quads, kStep] running maximum, base 2, four times
  float* l;           // [quads, kStep] four parts of the running sum
  float* alpha;       // [quads, kStep] 2^(m - m') of the current tile, four times
  float* s;           // [quads, kTileTokens*kQuadHeads] scores, then weights, of the current tile
  uint64_t next_row;  // floats from each array to the next row's
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
void fill_tile(const AttentionParams& p, const DecodeItem& item, uint32_t position, Tile* tile) {
  const int32_t* blocks = block_row(p.blocks, item.seq);
  const uint32_t end = item.token_end;
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

// One quad of query heads of one row, and the state that belongs to it.
struct Quad {
  uint32_t row = 0;  // of the item
  uint32_t head = 0, heads = 0;
  float* q = nullptr;
  float* o = nullptr;
  float* s = nullptr;
  float *m = nullptr, *l = nullptr, *alpha = nullptr;
};

RADIX_INLINE Quad quad_of(const Shape& shape, const State& state, uint32_t row, uint32_t kv_head,
                          uint32_t index) {
  const uint64_t at = row * state.next_row, i = uint64_t{kv_head} * shape.quads + index;
  const uint32_t left = shape.group - index * kQuadHeads;
  Quad quad;
  quad.row = row;
  quad.head = kv_head * shape.group + index * kQuadHeads;
  quad.heads = left < kQuadHeads ? left : kQuadHeads;
  quad.q = state.q + at + uint64_t{quad.head} * shape.q_stride;
  quad.o = state.o + at + uint64_t{quad.head} * shape.o_stride;
  quad.s = state.s + at + i * kTileTokens * kQuadHeads;
  quad.m = state.m + at + i * kStep;
  quad.l = state.l + at + i * kStep;
  quad.alpha = state.alpha + at + i * kStep;
  return quad;
}

// Rows of an item. NOTE: a loop over rows costs items of one row 2 to 4% of their speed; without
// kMore there is none.
template <bool kMore>
RADIX_INLINE uint32_t rows_of(const DecodeItem& item) {
  return kMore ? item.num_more + 1 : 1;
}

// Query row i of an item.
RADIX_INLINE int64_t query_of(const DecodeItem& item, uint32_t i) {
  return i == 0 ? item.query : item.more[i - 1].query;
}

RADIX_INLINE int32_t position_of(const DecodeItem& item, uint32_t i) {
  return i == 0 ? item.position : item.more[i - 1].position;
}

template <class T, bool kDot>
RADIX_INLINE void quad_scores(const Shape& shape, const Quad& quad, const T* base, const Tile& tile,
                              Prefetcher& next) {
  const float* q = quad.q;
  float* s = quad.s;
  uint32_t due = next.score_due;  // once a step
  for (uint32_t g = 0; g < quad.heads;) {
    const uint32_t n = pack_heads(quad.heads - g);
    if constexpr (kPackHeads == 4) {
      if (n == 4) score_pack<T, 4, kDot>(shape.score, q, base, tile, s, due, next);
    }
    if (n == 2) score_pack<T, 2, kDot>(shape.score, q, base, tile, s, due, next);
    if (n == 1) score_pack<T, 1, kDot>(shape.score, q, base, tile, s, due, next);
    q += n * shape.q_stride;
    s += n * kTokens;
    g += n;
    due = 0;
  }
}

template <class T>
RADIX_INLINE void quad_values(const Shape& shape, uint32_t head_dim_v, const Quad& quad,
                              const T* base, const Tile& tile, Prefetcher& next) {
  const uint32_t due = next.value_due;
  const float *s = quad.s, *alpha = quad.alpha;
  float* o = quad.o;
  for (uint32_t g = 0; g < quad.heads;) {
    const uint32_t n = pack_heads(quad.heads - g);
    if constexpr (kPackHeads == 4) {
      if (n == 4) value_pack<T, 4>(s, alpha, head_dim_v, base, tile, o, due, next);
    }
    if (n == 2) value_pack<T, 2>(s, alpha, head_dim_v, base, tile, o, due, next);
    if (n == 1) value_pack<T, 1>(s, alpha, head_dim_v, base, tile, o, due, next);
    s += n * kTokens;
    alpha += n * kTokens;
    o += n * shape.o_stride;
    g += n;
  }
}

template <class T, bool kDot, bool kMore>
void tile_scores(const AttentionParams& p, const Shape& shape, const DecodeItem& item,
                 const Tile& tile, const State& state, Prefetcher& next) {
  const T* base = static_cast<const T*>(p.k.data) + int64_t{item.head_begin} * p.k.head_stride;
  for (uint32_t h = item.head_begin; h < item.head_end; ++h, base += p.k.head_stride) {
    for (uint32_t r = 0; r < rows_of<kMore>(item); ++r) {
      for (uint32_t i = 0; i < shape.quads; ++i)
        quad_scores<T, kDot>(shape, quad_of(shape, state, r, h, i), base, tile, next);
    }
  }
}

template <class T, bool kMore>
void tile_values(const AttentionParams& p, const Shape& shape, const DecodeItem& item,
                 const Tile& tile, const State& state, Prefetcher& next) {
  const T* base = static_cast<const T*>(p.v.data) + int64_t{item.head_begin} * p.v.head_stride;
  for (uint32_t h = item.head_begin; h < item.head_end; ++h, base += p.v.head_stride) {
    for (uint32_t r = 0; r < rows_of<kMore>(item); ++r) {
      for (uint32_t i = 0; i < shape.quads; ++i)
        quad_values(shape, p.head_dim_v, quad_of(shape, state, r, h, i), base, tile, next);
    }
  }
}

template <bool kMore>
void tile_softmax(const AttentionParams& p, const Shape& shape, const DecodeItem& item,
                  const Tile& tile, const State& state) {
  for (uint32_t h = item.head_begin; h < item.head_end; ++h) {
    for (uint32_t r = 0; r < rows_of<kMore>(item); ++r) {
      for (uint32_t i = 0; i < shape.quads; ++i) {
        const Quad quad = quad_of(shape, state, r, h, i);
        if (p.softcap > 0.f || p.alibi_slopes != nullptr) {
          const int32_t position = position_of(item, r);
          for (uint32_t g = 0; g < quad.heads; ++g)
            bias_scores(p, quad.head + g, tile, position, quad.s + g * kTokens);
        }
        softmax_quad(quad.heads, tile.n, quad.s, quad.m, quad.l, quad.alpha);
      }
    }
  }
}

using TileFn = void (*)(const AttentionParams&, const Shape&, const DecodeItem&, const Tile&,
                        const State&, Prefetcher&);

template <bool kMore>
TileFn scores_fn(int32_t dtype, bool dot) {
#if defined(__AVX512BF16__)
  if (dot) return tile_scores<BF16, true, kMore>;
#else
  (void)dot;
#endif
  return dtype == RADIX_F32   ? tile_scores<F32, false, kMore>
         : dtype == RADIX_F16 ? tile_scores<F16, false, kMore>
                              : tile_scores<BF16, false, kMore>;
}

template <bool kMore>
TileFn values_fn(int32_t dtype) {
  return dtype == RADIX_F32   ? tile_values<F32, kMore>
         : dtype == RADIX_F16 ? tile_values<F16, kMore>
                              : tile_values<BF16, kMore>;
}

// Asks for the first tile of the item after this one.
bool prefetch_next(const AttentionParams& p, const Shape& shape, const DecodeAhead& ahead,
                   Meanwhile beside, Tile* tile, Prefetcher& f) {
  DecodeItem next;
  if (!ahead.draw(ahead.arg, &next)) return false;
  if (next.token_begin >= next.token_end) return false;
  fill_tile(p, next, next.token_begin, tile);
  prefetch_tile(p, shape, next, *tile, beside, f);
  return true;
}

template <bool kMore>
void walk_range(const AttentionParams& p, const Shape& shape, const DecodeItem& item,
                const State& state, DecodeAhead& ahead) {
  const TileFn run_scores = scores_fn<kMore>(p.k.dtype, shape.dot);
  const TileFn run_values = values_fn<kMore>(p.v.dtype);
  Tile tiles[2];
  Prefetcher prefetcher;
  fill_tile(p, item, item.token_begin, &tiles[0]);
  if (!ahead.asked) {
    prefetch_tile(p, shape, item, tiles[0], {0, 0}, prefetcher);
    load_tile(prefetcher);
  }
  for (uint32_t i = 0;; i ^= 1) {
    const Tile& tile = tiles[i];
    const uint32_t end = tile.position + tile.n;
    const bool more = end < item.token_end;
    const Meanwhile beside = {tile.n, rows_of<kMore>(item)};
    if (more) {
      fill_tile(p, item, end, &tiles[i ^ 1]);
      prefetch_tile(p, shape, item, tiles[i ^ 1], beside, prefetcher);
    } else {
      prefetcher = Prefetcher();
      ahead.asked = prefetch_next(p, shape, ahead, beside, &tiles[i ^ 1], prefetcher);
    }
    run_scores(p, shape, item, tile, state, prefetcher);
    tile_softmax<kMore>(p, shape, item, tile, state);
    run_values(p, shape, item, tile, state, prefetcher);
    if (!more) return;
  }
}

// ---- the item

State carve(const AttentionParams& p, const Shape& shape, void* scratch) {
  const uint64_t quads = uint64_t{p.num_kv_heads} * shape.quads;
  State s;
  s.q = static_cast<float*>(scratch);
  s.o = s.q + uint64_t{p.num_q_heads} * shape.q_stride;
  s.m = s.o + uint64_t{p.num_q_heads} * shape.o_stride;
  s.l = s.m + quads * kStep;
  s.alpha = s.l + quads * kStep;
  s.s = s.alpha + quads * kStep;
  s.next_row = decode_scratch_floats(p);
  return s;
}

// A row of queries as the scores take it: floats, scaled, or pairs of bf16.
RADIX_INLINE void load_row_of(const AttentionParams& p, const Shape& shape, int64_t query,
                              uint32_t head, float* row) {
  const uint32_t words = shape.dot ? p.head_dim / 2 : p.head_dim;
  for (uint32_t i = words; i < shape.q_stride; ++i) row[i] = 0.f;
  if (shape.dot) {
    const int64_t at = query * p.q.row_stride + head * p.q.head_stride;
    copy_words(static_cast<const BF16*>(p.q.data) + at, row, words);
  } else {
    load_query(p, query, head, query_scale(p), row);
    if (kInPairs<BF16> && p.k.dtype == RADIX_BF16) order_to_pairs(row, p.head_dim);
  }
}

RADIX_INLINE void begin_quad(const AttentionParams& p, const Shape& shape, const DecodeItem& item,
                             const Quad& quad) {
  alignas(64) float row[256];
  for (uint32_t g = 0; g < quad.heads; ++g) {
    load_row_of(p, shape, query_of(item, quad.row), quad.head + g, row);
    pack_row(row, shape.q_stride, packed_row(quad.q, quad.heads, shape.q_stride, g));
  }
  for (uint32_t i = 0; i < quad.heads * shape.o_stride; ++i) quad.o[i] = 0.f;
  // The softmax has whole quads: zeros stand for heads that a group's last quad lacks.
  for (uint32_t i = 0; i < kStep; ++i) {
    quad.m[i] = i < quad.heads * kTokens ? kMinusInf : 0.f;
    quad.l[i] = 0.f;
  }
  if (quad.heads < kQuadHeads) {
    for (uint32_t i = 0; i < kTileTokens * kQuadHeads; ++i) quad.s[i] = 0.f;
  }
}

RADIX_INLINE float sum_parts(const float* l) { return (l[0] + l[1]) + (l[2] + l[3]); }

// The result of the quad's rows, or their partial states.
RADIX_INLINE void finish_quad(const DecodeJob& job, const Shape& shape, const DecodeItem& item,
                              const Quad& quad) {
  const AttentionParams& p = *job.params;
  const bool pairs = kInPairs<BF16> && p.v.dtype == RADIX_BF16;
  const uint32_t in_pairs = pairs ? values_in_pairs(p.head_dim_v) : 0;
  alignas(64) float row[256];
  for (uint32_t g = 0; g < quad.heads; ++g) {
    const uint32_t head = quad.head + g;
    const PackedRow o = packed_row(quad.o, quad.heads, shape.o_stride, g);
    const float m = quad.m[g * kTokens];
    const float l = sum_parts(quad.l + g * kTokens);
    if (item.state == kNoState) {
      unpack_row(o, shape.o_stride, row);
      pairs_to_order(row, in_pairs);
      finish_row(p, query_of(item, quad.row), head, row, m, l);
      continue;
    }
    const uint64_t at = (static_cast<uint64_t>(item.state) + quad.row) * p.num_q_heads + head;
    float* partial = job.partial.o + at * shape.o_stride;
    unpack_row(o, shape.o_stride, partial);
    pairs_to_order(partial, in_pairs);
    job.partial.m[at] = m;
    job.partial.l[at] = l;
  }
}

template <class Visit>
RADIX_INLINE void each_quad(const Shape& shape, const State& state, const DecodeItem& item,
                            const Visit& visit) {
  for (uint32_t h = item.head_begin; h < item.head_end; ++h) {
    for (uint32_t r = 0; r < rows_of<true>(item); ++r) {
      for (uint32_t i = 0; i < shape.quads; ++i) visit(quad_of(shape, state, r, h, i));
    }
  }
}

}  // namespace

void decode_item(const DecodeJob& job, const DecodeItem& item, DecodeAhead& ahead, void* scratch) {
  const AttentionParams& p = *job.params;
  const Shape shape = shape_of(p);
  const State state = carve(p, shape, scratch);
  each_quad(shape, state, item, [&](const Quad& quad) { begin_quad(p, shape, item, quad); });
  if (item.token_begin >= item.token_end) {
    ahead.asked = false;
  } else if (item.num_more == 0) {
    walk_range<false>(p, shape, item, state, ahead);
  } else {
    walk_range<true>(p, shape, item, state, ahead);
  }
  each_quad(shape, state, item, [&](const Quad& quad) { finish_quad(job, shape, item, quad); });
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
