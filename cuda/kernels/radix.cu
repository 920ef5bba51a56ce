// Radix attention: items, each a run of keys and the stacked rows of everybody who sees them, from
// one sequence or from many, so that shared K/V is read once (backend/radix_list.h). Without a list
// the items are rows of one sequence, for batch-invariant launches.
//
// Work split. Blocks of four warps take the items of one KV head in turn, 64 rows of them at a time
// (32 where heads are longer than 128). Few rows or many, the arithmetic is that of decode_tile.h:
//
//   up to 16 rows: warps take keys in turn, each         more: 16 rows a warp, tiles of keys for
//   all with a ring of its own; states meet at the end       of them; dim > 128: half of o's
//   columns each
//
//   keys  |0  |1  |2  |3  |0  |1  ...                    keys  | tile | tile | ...
//   warp   0   1   2   3   0   1                         rows  0..15 of warp 0, 16..31 of warp 1
//   ...
//
// Batch-invariant. A row's arithmetic must not depend on how many rows stand beside it, nor on
// where items end. So for every row, on either path, tiles are 16 tokens from a multiple of 16 on;
// segments of kSegmentTokens begin with an empty state; and states of segments are folded from left
// to right by folded() (radix_rows.h), here or by radix_merge.cu. On the first path the warps then
// take segments in turn, not tiles:
//
//   keys   | segment 0 | segment 1 | segment 2 | segment 3 | segment 4 ...
//   warp        0           1           2           3           0
//              fold -->    fold -->    fold -->    fold -->
//
// Tiles or segments that a row does not see leave its state as it was, bit for bit: weights are 0,
// o and l are multiplied by 1. They are skipped where all rows of a warp agree.
//
// The list's contents are claims: keys end at the sequence's, rows at the launch's, states at the
// room for them.
//
// Shared memory: Front; queries [16][D], o of the rows so far [16][D] in f32, rings; or queries
// [64][D], then two or three stages of K and V.
#include "cuda/kernels.h"
#include "cuda/kernels/decode_tile.h"
#include "cuda/kernels/radix_rows.h"

namespace radixattn::cuda {
namespace {

constexpr int kThreads = 32 * kMaxWarps;
constexpr int kMaxStages = 3;  // of the second path
constexpr uint32_t kAllSeen = (1u << kTile) - 1;

// The second path's shapes.
template <class T, int D>
struct Wide {
  // Longer heads have no first path: its rings, and o in registers twice, would be too large. Here
  // two warps share 16 rows then.
  static constexpr bool kHasFew = D <= 128;
  static constexpr int kColumnWarps = D > 128 ? 2 : 1;
  static constexpr int kRowWarps = kMaxWarps / kColumnWarps;
  static constexpr int kBlockRows = kRowWarps * kRows;
  static constexpr int kColumns = D / kColumnWarps;
  static constexpr int kTiles = D > 128 ? 1 : 2;  // of a stage
  static constexpr int kTokens = kTiles * kTile;
  static constexpr int kStageBytes = kTiles * 2 * Geometry<T, D>::kTileBytes;
  static constexpr int kQueryBytes = kBlockRows * D * 2;
  static_assert(kSegmentTokens % kTokens == 0);
};

struct Launch {
  KeyAccess access;
  int32_t stages;      // of the second path
  int32_t ring_warps;  // of the first path: those whose rings fit
  // Without a list.
  uint32_t row_tiles;  // of the longest sequence
  int64_t num_items;
};

// Keys [low, high) that a row sees, but for a tree mask.
struct Span {
  int32_t low, high;
};

// A row of the block; query < 0: it has none.
struct BlockRowEntry {
  int32_t query, position;
  uint32_t head;
  int32_t sorted;
  Span span;
  float slope;
};

// Keys and rows of one block: the same for all threads, so in shared memory. The state of sorted
// row r and of segment k of the item is state + r * row_states + k * segment_states.
struct Item {
  KeyRange range;
  uint32_t walk_begin, walk_end;  // range, or more: segments that nobody sees have states, too
  uint32_t group;
  int32_t shift;  // position of the sequence's first query token
  int32_t first_segment;
  int64_t first_row, end_row;  // stacked; no row: no item
  int32_t first_query;         // no list: of the sequence
  int64_t state, row_states, segment_states;
  bool direct;  // results, no states
};

struct Front {
  BlockRowEntry rows[kMaxWarps * kRows];
  float m[kRows], l[kRows];                                       // first path: of the rows so far
  float of_first[kMaxWarps][kRows], of_second[kMaxWarps][kRows];  // folds of the warps' states
  float factor[kRows];                                            // first path: of the results
  Item whole, item;  // as it was found; its keys that the block's rows may see
};
constexpr int kFrontBytes = (static_cast<int>(sizeof(Front)) + 127) / 128 * 128;

// ---- finding work -------------------------------------------------------------------------------

RADIX_DEVICE Item find_listed(const AttentionParams& p, int64_t index) {
  Item item = {};
  const RadixItem it = p.radix.items[index];
  if (it.seq < 0 || static_cast<uint32_t>(it.seq) >= p.num_seqs) return item;
  const auto seq = static_cast<uint32_t>(it.seq);
  const BlockRow table = block_row(p, seq);
  const int32_t context = context_of(p, seq, table);
  const auto begin = static_cast<uint32_t>(clamped(it.token_begin, 0, context));
  const auto end = static_cast<uint32_t>(clamped(it.token_end, begin, context));
  item.group = p.num_q_heads / p.num_kv_heads;
  const int64_t rows = int64_t{num_sorted_rows(p)} * item.group;
  item.range = {table.ids, begin, end, blockIdx.y};
  item.shift = context - queries_of(p, seq).num;
  item.first_row = clamped(it.row_begin, 0, rows);
  item.end_row = clamped(it.row_end, item.first_row, rows);
  item.direct = it.state == RadixItem::kDirect;
  item.state = it.state;
  item.row_states = 1;
  item.segment_states = item.direct ? 0 : it.state_stride;
  return item;
}

// Item `index` of a launch without a list: a range of segments, of some rows, of a sequence.
RADIX_DEVICE Item find_unlisted(const AttentionParams& p, const RadixSplit& split,
                                const Launch& launch, int64_t index, int32_t block_rows) {
  Item item = {};
  const int64_t range = index % split.num_ranges, rest = index / split.num_ranges;
  const auto seq = static_cast<uint32_t>(rest / launch.row_tiles);
  const Queries queries = queries_of(p, seq);
  const int64_t tile = launch.row_tiles - 1 - rest % launch.row_tiles;  // the longest rows first
  item.group = p.num_q_heads / p.num_kv_heads;
  const int64_t all_rows = queries.num > 0 ? int64_t{queries.num} * item.group : 0;
  const int64_t first_row = tile * block_rows;
  if (first_row >= all_rows) return item;
  const int64_t end_row = clamped(first_row + block_rows, 0, all_rows);
  const BlockRow table = block_row(p, seq);
  const int32_t context = context_of(p, seq, table);
  item.shift = context - queries.num;
  item.first_query = queries.first;
  const int64_t low = item.shift + first_row / item.group;
  const int64_t high = item.shift + (end_row - 1) / item.group;
  int64_t end = p.tree_mask != nullptr ? context : clamped(high + 1, 0, context);
  int64_t begin = p.window == 0 ? 0 : clamped(low - p.window + 1, 0, end);
  item.direct = split.num_ranges == 1;
  if (!item.direct) {
    const int64_t tokens = int64_t{split.range_segments} * kSegmentTokens;
    begin = clamped(range * tokens, begin, end);
    end = clamped((range + 1) * tokens, begin, end);
    if (begin == end) return item;
  }
  item.range = {table.ids, static_cast<uint32_t>(begin), static_cast<uint32_t>(end), blockIdx.y};
  item.first_row = first_row, item.end_row = end_row;
  item.row_states = split.num_segments;
  item.segment_states = item.direct ? 0 : 1;
  item.state = seq * queries_at_most(p) * split.num_segments + begin / kSegmentTokens;
  return item;
}

RADIX_DEVICE Span span_of(const AttentionParams& p, const Item& item, const RowPlace& place) {
  if (place.query < 0) return {INT32_MAX, 0};
  const int64_t low = p.window == 0 ? 0 : int64_t{place.position} - p.window + 1;
  return {low < 0 ? 0 : static_cast<int32_t>(low),
          p.tree_mask != nullptr ? static_cast<int32_t>(item.range.end) : place.position + 1};
}

// Rows [first, first + kBlockRows) of the item to `front`.
template <int kBlockRows>
RADIX_DEVICE void place_rows(const AttentionParams& p, const Item& item, int64_t first,
                             Front* front) {
  if (threadIdx.x >= kBlockRows) return;
  const int64_t stacked = first + threadIdx.x, sorted = stacked / item.group;
  RowPlace place = {-1, -1};
  if (stacked < item.end_row) {
    place = p.radix.sizes != nullptr ? sorted_row(p, sorted)
                                     : row_place(p, item.first_query + sorted, item.shift + sorted);
  }
  const uint32_t head =
      item.range.kv_head * item.group + static_cast<uint32_t>(stacked % item.group);
  front->rows[threadIdx.x] = {place.query,
                              place.position,
                              head,
                              static_cast<int32_t>(sorted),
                              span_of(p, item, place),
                              place.query < 0 ? 0.f : slope_of(p, head)};
}

// ---- what rows see ------------------------------------------------------------------------------

// Of some rows together, of which each lane has looked at some.
RADIX_DEVICE Span span_of_lanes(Span span) {
  RADIX_UNROLL
  for (int o = 16; o > 0; o /= 2) {
    const int32_t low = __shfl_xor_sync(kFullWarp, span.low, o);
    const int32_t high = __shfl_xor_sync(kFullWarp, span.high, o);
    span.low = low < span.low ? low : span.low;
    span.high = high > span.high ? high : span.high;
  }
  return span;
}
template <int kNum>
RADIX_DEVICE Span span_of_rows(const BlockRowEntry* rows) {
  const int lane = threadIdx.x % 32;
  Span span = rows[lane % kNum].span;
  if constexpr (kNum > 32) {
    const Span other = rows[lane + 32].span;
    span = {other.low < span.low ? other.low : span.low,
            other.high > span.high ? other.high : span.high};
  }
  return span_of_lanes(span);
}

// A thread's rows, lane / 4 and 8 further, of the 16 at `entries`.
struct Rows {
  const BlockRowEntry* entries;
  ScoreRule rule;
};

RADIX_DEVICE Rows rows_of(const AttentionParams& p, const Item& item,
                          const BlockRowEntry* entries) {
  return {entries + threadIdx.x % 32 / 4, score_rule(p, item.range.kv_head)};
}

RADIX_DEVICE bool sees(const AttentionParams& p, const Item& item, const Rows& rows, int r,
                       int32_t key) {
  if (key < rows.entries[8 * r].span.low || key >= rows.entries[8 * r].span.high) return false;
  if (p.tree_mask == nullptr || key < item.shift) return true;
  const int32_t fresh = key - item.shift;
  if (fresh / 8 >= p.tree_mask_stride) return false;
  const int64_t row = rows.entries[8 * r].query;
  return (p.tree_mask[row * p.tree_mask_stride + fresh / 8] >> (fresh % 8) & 1) != 0;
}

// ---- one tile -----------------------------------------------------------------------------------

// Dot products of the tile at position `first` to weights of the running maximum; o and l follow
// it.
template <int kColumns>
RADIX_DEVICE void weigh(const AttentionParams& p, const Item& item, const Rows& rows, int32_t first,
                        uint32_t seen, float (&s)[2][4], State<kColumns>* state) {
  const int mine = static_cast<int>(threadIdx.x) % 4 * 2;
  bool moved = false;
  float alpha[2];
  RADIX_UNROLL
  for (int r = 0; r < 2; ++r) {
    const BlockRowEntry& row = rows.entries[8 * r];
    const bool whole = seen == kAllSeen && first >= row.span.low &&
                       first + kTile <= row.span.high &&
                       (p.tree_mask == nullptr || first + kTile <= item.shift);
    float top = state->m[r];
    RADIX_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int token = i / 2 * 8 + mine + i % 2;
      float& x = s[i / 2][2 * r + i % 2];
      x = mul_rn(x, rows.rule.scale);
      if (rows.rule.cap > 0.f) x = mul_rn(rows.rule.cap, tanhf(x));
      if (p.alibi_slopes != nullptr) {
        const int32_t distance = first + token - row.position;
        x = fmaf(row.slope, static_cast<float>(distance), x);
      }
      if (!whole && ((seen >> token & 1) == 0 || !sees(p, item, rows, r, first + token)))
        x = -INFINITY;
      top = fmaxf(top, x);
    }
    top = warp_max<4>(top);
    alpha[r] = shrink(state->m[r], top);
    moved |= alpha[r] != 1.f;
    state->m[r] = top;
    const float shift = top == -INFINITY ? 0.f : top;  // nothing seen yet: 2^-inf is 0, no NaN
    float sum = 0.f;
    RADIX_UNROLL
    for (int i = 0; i < 4; ++i) {
      float& x = s[i / 2][2 * r + i % 2];
      x = exp2_approx(x - shift);
      sum += x;
    }
    state->l[r] = fmaf(state->l[r], alpha[r], sum);
  }
  if (__any_sync(kFullWarp, moved)) rescale(alpha, state);
}

// The sums of a row over its four threads.
template <int kColumns>
RADIX_DEVICE void complete(State<kColumns>* state) {
  RADIX_UNROLL
  for (int r = 0; r < 2; ++r) state->l[r] = warp_sum<4>(state->l[r]);
}

template <int kColumns>
RADIX_DEVICE void fold(const State<kColumns>& segment, State<kColumns>* total) {
  RADIX_UNROLL
  for (int r = 0; r < 2; ++r) {
    const Fold f = fold_of(total->m[r], segment.m[r]);
    total->m[r] = f.m;
    total->l[r] = folded(f, total->l[r], segment.l[r]);
    RADIX_UNROLL
    for (int n = 0; n < kColumns / 8; ++n) {
      RADIX_UNROLL
      for (int i = 0; i < 2; ++i) {
        float& o = total->o[n][2 * r + i];
        o = folded(f, o, segment.o[n][2 * r + i]);
      }
    }
  }
}

// ---- the end of rows ----------------------------------------------------------------------------

RADIX_DEVICE int64_t out_place(const AttentionParams& p, const BlockRowEntry& row) {
  return row.query * p.out.row_stride + row.head * p.out.head_stride;
}
RADIX_DEVICE void write_lse(const AttentionParams& p, const BlockRowEntry& row, float lse) {
  if (p.lse != nullptr) p.lse[row.query * p.lse_row_stride + row.head * p.lse_head_stride] = lse;
}
RADIX_DEVICE int64_t place_of(const AttentionParams& p, const RadixSplit& split, const Item& item,
                              const BlockRowEntry& row, int64_t segment) {
  const int64_t index = item.state + row.sorted * item.row_states + segment * item.segment_states;
  return state_place(p, split, index, row.head);
}

// Complete states of the thread's rows, columns from first_column on, of the item's `segment`.
template <class T, int kColumns>
RADIX_DEVICE void store_states(const AttentionParams& p, const RadixSplit& split, const Item& item,
                               const Rows& rows, int64_t segment, int first_column,
                               const State<kColumns>& state) {
  RADIX_UNROLL
  for (int r = 0; r < 2; ++r) {
    const BlockRowEntry& row = rows.entries[8 * r];
    const int64_t at = row.query < 0 ? -1 : place_of(p, split, item, row, segment);
    if (at < 0) continue;
    const int mine = first_column + first_column_of<T>();
    float* to = split.o + at * p.head_dim_v + mine;
    const int room = static_cast<int>(p.head_dim_v) - mine;
    RADIX_UNROLL
    for (int n = 0; n < kColumns / 8; ++n) {
      if (column_from_first<T>(n, 0) >= room) continue;
      RADIX_UNROLL
      for (int i = 0; i < 2; ++i) to[column_from_first<T>(n, i)] = state.o[n][2 * r + i];
    }
    if (threadIdx.x % 4 != 0 || first_column != 0) continue;
    split.ml[2 * at] = state.m[r];
    split.ml[2 * at + 1] = state.l[r];
  }
}

template <class T, int kColumns>
RADIX_DEVICE void write_results(const AttentionParams& p, const Item& item, const Rows& rows,
                                int first_column, const State<kColumns>& state) {
  const float v_scale = scale_of(p.v_scale, p, item.range.kv_head);
  RADIX_UNROLL
  for (int r = 0; r < 2; ++r) {
    const BlockRowEntry& row = rows.entries[8 * r];
    if (row.query < 0) continue;
    const RowEnd end = end_of_row(p, row.head, state.m[r], state.l[r]);
    RADIX_UNROLL
    for (int n = 0; n < kColumns / 8; ++n) {
      RADIX_UNROLL
      for (int i = 0; i < 2; ++i) {
        const int e = first_column + column_of<T>(n, i);
        if (static_cast<uint32_t>(e) < p.head_dim_v)
          store_number(p.out.data, p.out.dtype, out_place(p, row) + e,
                       result_of(state.o[n][2 * r + i], end.factor, v_scale));
      }
    }
    if (threadIdx.x % 4 == 0 && first_column == 0) write_lse(p, row, end.lse);
  }
}

// ---- up to 16 rows ------------------------------------------------------------------------------

// Folds the warps' states into `total` [16][D], in the order of the warps. Loops stay rolled: what
// they would keep in registers, the tiles need.
template <int D>
RADIX_DEVICE void fold_warps(const Together& states, int warps, Front* front, float* total) {
  if (threadIdx.x < kRows) {
    const auto r = static_cast<int>(threadIdx.x);
    for (int w = 0; w < warps; ++w) {
      const Fold f = fold_of(front->m[r], states.m[w * kRows + r]);
      front->m[r] = f.m;
      front->l[r] = folded(f, front->l[r], states.l[w * kRows + r]);
      front->of_first[w][r] = f.of_first;
      front->of_second[w][r] = f.of_second;
    }
  }
  __syncthreads();  // everybody needs the factors
  RADIX_ROLLED
  for (int i = static_cast<int>(threadIdx.x); i < kRows * D; i += kThreads) {
    float o = total[i];
    for (int w = 0; w < warps; ++w) {
      const Fold f = {0.f, front->of_first[w][i / D], front->of_second[w][i / D]};
      o = folded(f, o, states.o[w * kRows * D + i]);
    }
    total[i] = o;
  }
}

template <int D>
RADIX_DEVICE void write_total(const AttentionParams& p, const RadixSplit& split, const Item& item,
                              const float* total, Front* front) {
  if (threadIdx.x < kRows) {
    const auto r = static_cast<int>(threadIdx.x);
    const BlockRowEntry& row = front->rows[r];
    if (row.query >= 0 && item.direct) {
      const RowEnd end = end_of_row(p, row.head, front->m[r], front->l[r]);
      front->factor[r] = end.factor;
      write_lse(p, row, end.lse);
    } else if (row.query >= 0) {
      const int64_t at = place_of(p, split, item, row, 0);
      if (at >= 0) split.ml[2 * at] = front->m[r], split.ml[2 * at + 1] = front->l[r];
    }
  }
  __syncthreads();  // everybody needs the factors
  const float v_scale = scale_of(p.v_scale, p, item.range.kv_head);
  RADIX_ROLLED
  for (int i = static_cast<int>(threadIdx.x); i < kRows * D; i += kThreads) {
    const int r = i / D, e = i % D;
    const BlockRowEntry& row = front->rows[r];
    if (row.query < 0 || static_cast<uint32_t>(e) >= p.head_dim_v) continue;
    if (item.direct) {
      store_number(p.out.data, p.out.dtype, out_place(p, row) + e,
                   result_of(total[i], front->factor[r], v_scale));
      continue;
    }
    const int64_t at = place_of(p, split, item, row, 0);
    if (at >= 0) split.o[at * p.head_dim_v + e] = total[i];
  }
}

template <class T, int D, bool kInvariant>
RADIX_DEVICE void run_few_rows(const AttentionParams& p, const RadixSplit& split,
                               const Launch& launch, const Item& item, Front* front,
                               unsigned char* q) {
  using G = Geometry<T, D>;
  constexpr uint32_t kSegmentTiles = kSegmentTokens / kTile;
  const auto warp = static_cast<int>(threadIdx.x) / 32;
  auto* total = reinterpret_cast<float*>(q + G::kQueryBytes);
  unsigned char* rings = q + G::kQueryBytes + kRows * D * 4;
  const Rows rows = rows_of(p, item, front->rows);
  const uint32_t first_tile = item.walk_begin / kTile;
  const uint32_t end_tile =
      item.walk_begin < item.walk_end ? (item.walk_end - 1) / kTile + 1 : first_tile;
  const auto parts = static_cast<uint32_t>(launch.ring_warps);
  // Of every part of the keys, a round has one for each warp: of all tiles, or of segments.
  const uint32_t first_part = kInvariant ? first_tile / kSegmentTiles : 0;
  const uint32_t end_part = !kInvariant ? parts : (end_tile + kSegmentTiles - 1) / kSegmentTiles;
  for (int i = static_cast<int>(threadIdx.x); i < kRows * D; i += kThreads) total[i] = 0.f;
  if (threadIdx.x < kRows) front->m[threadIdx.x] = -INFINITY, front->l[threadIdx.x] = 0.f;

  for (uint32_t part = first_part + warp;; part += parts) {
    State<D> state;
    clear(&state);
    uint32_t begin = first_tile + part, end = end_tile, step = parts;
    if constexpr (kInvariant) {
      begin = part * kSegmentTiles, end = begin + kSegmentTiles, step = 1;
      if (begin < first_tile) begin = first_tile;
      if (end > end_tile) end = end_tile;
    }
    if (warp < launch.ring_warps) {
      walk_tiles<T, D>(p, launch.access, item.range, begin, end, step, rings + warp * G::kRingBytes,
                       [&](uint32_t first, uint32_t seen, const unsigned char* k) {
                         float s[1][2][4];
                         scores<T, D, 1>(p, q, k, s);
                         weigh(p, item, rows, static_cast<int32_t>(first), seen, s[0], &state);
                         values<T, D>(p, k + G::kTileBytes, 0, s[0], &state);
                       });
    }
    const bool last = part - warp + parts >= end_part;  // of the rounds
    if (kInvariant && item.segment_states != 0) {
      complete(&state);
      if (warp < launch.ring_warps && part < end_part)
        store_states<T>(p, split, item, rows, int64_t{part} - item.first_segment, 0, state);
      __syncwarp();  // every lane is done with the ring
      if (last) return;
      continue;
    }
    __syncthreads();  // all warps are done with their rings
    const Together all = together<D>(rings, parts);
    if (warp < launch.ring_warps) put_state<T, D>(state, all);
    __syncthreads();
    fold_warps<D>(all, launch.ring_warps, front, total);
    if (!kInvariant || last) break;
    __syncthreads();  // the next round's tiles go where these states are
  }
  write_total<D>(p, split, item, total, front);
}

// ---- more rows ----------------------------------------------------------------------------------

// A warp's rows, and its columns of o.
struct WarpRows {
  Rows rows;
  Span span;
  const unsigned char* queries;
  int first_column;
};

template <class T, int D>
RADIX_DEVICE WarpRows rows_of_warp(const AttentionParams& p, const Item& item, const Front& front,
                                   const unsigned char* q) {
  using W = Wide<T, D>;
  const auto warp = static_cast<int>(threadIdx.x) / 32;
  const int first_entry = warp % W::kRowWarps * kRows;
  return {rows_of(p, item, front.rows + first_entry), span_of_rows<kRows>(front.rows + first_entry),
          q + first_entry * D * 2, warp / W::kRowWarps * W::kColumns};
}

// Begins to load a stage; returns which of its tokens have memory.
template <class T, int D>
RADIX_DEVICE uint32_t load_stage(const AttentionParams& p, const Launch& launch, const Item& item,
                                 uint32_t step, unsigned char* stages) {
  using W = Wide<T, D>;
  constexpr int kShare = W::kTokens / kMaxWarps;
  const auto warp = static_cast<int>(threadIdx.x) / 32;
  unsigned char* to = stages + step % launch.stages * W::kStageBytes;
  return load_tokens<T, D, W::kTokens, kShare>(p, launch.access, item.range, step * W::kTokens,
                                               warp * kShare, to);
}

// The keys of a stage, `first` the first of them, kAtOnce tiles at a time.
template <class T, int D, int kAtOnce>
RADIX_DEVICE void add_stage(const AttentionParams& p, const Item& item, const WarpRows& warp,
                            const unsigned char* k, int32_t first, uint32_t seen_now,
                            State<Wide<T, D>::kColumns>* state) {
  using G = Geometry<T, D>;
  using W = Wide<T, D>;
  const Span& span = warp.span;
  if (first >= span.high || first + W::kTokens <= span.low) return;
  RADIX_UNROLL
  for (int part = 0; part < W::kTiles; part += kAtOnce) {
    float s[kAtOnce][2][4];
    scores<T, D, kAtOnce>(p, warp.queries, k + part * G::kTileBytes, s);
    RADIX_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      const int t = part + i;
      const int32_t at = first + t * kTile;
      if (at >= span.high || at + kTile <= span.low) continue;
      weigh(p, item, warp.rows, at, seen_now >> (t * kTile) & kAllSeen, s[i], state);
      values<T, D>(p, k + (W::kTiles + t) * G::kTileBytes, warp.first_column, s[i], state);
    }
  }
}

// The segment with key `first` is over: a state of its own, or part of the total.
template <class T, int kColumns>
RADIX_DEVICE void end_segment(const AttentionParams& p, const RadixSplit& split, const Item& item,
                              const WarpRows& warp, int32_t first, State<kColumns>* state,
                              State<kColumns>* total) {
  complete(state);
  if (item.segment_states != 0) {
    store_states<T>(p, split, item, warp.rows, first / kSegmentTokens - item.first_segment,
                    warp.first_column, *state);
  } else {
    fold(*state, total);
  }
  clear(state);
}

template <class T, int kColumns>
RADIX_DEVICE void write_rows(const AttentionParams& p, const RadixSplit& split, const Item& item,
                             const WarpRows& warp, const State<kColumns>& state) {
  if (item.direct) {
    write_results<T>(p, item, warp.rows, warp.first_column, state);
  } else {
    store_states<T>(p, split, item, warp.rows, 0, warp.first_column, state);
  }
}

template <class T, int D, bool kInvariant>
RADIX_DEVICE void run_many_rows(const AttentionParams& p, const RadixSplit& split,
                                const Launch& launch, const Item& item, Front* front,
                                unsigned char* q) {
  using W = Wide<T, D>;
  constexpr int kAtOnce = kInvariant && D > 64 ? 1 : W::kTiles;  // tiles: two states of o are held
  unsigned char* stages = q + W::kQueryBytes;
  const WarpRows warp = rows_of_warp<T, D>(p, item, *front, q);
  const uint32_t first_step = item.walk_begin / W::kTokens;
  const uint32_t end_step =
      item.walk_begin < item.walk_end ? (item.walk_end - 1) / W::kTokens + 1 : first_step;
  State<W::kColumns> state, total;  // of the segment; of the segments before
  clear(&state);
  if constexpr (kInvariant) clear(&total);
  const uint32_t ahead = launch.stages - 1;
  uint32_t seen[kMaxStages - 1] = {};  // of the steps on their way, the next one first
  RADIX_UNROLL
  for (uint32_t i = 0; i < kMaxStages - 1; ++i) {
    if (i >= ahead) continue;
    if (first_step + i < end_step)
      seen[i] = load_stage<T, D>(p, launch, item, first_step + i, stages);
    cp_async_commit();
  }
  for (uint32_t step = first_step; step < end_step; ++step) {
    if (ahead == 1) {
      cp_async_wait<0>();
    } else {
      cp_async_wait<kMaxStages - 2>();
    }
    __syncthreads();  // the step is there, for everybody, and everybody is done with the one before
    const uint32_t seen_now = seen[0], later = step + ahead;
    const uint32_t next = later < end_step ? load_stage<T, D>(p, launch, item, later, stages) : 0;
    seen[0] = ahead == 1 ? next : seen[1];
    if (ahead > 1) seen[1] = next;
    cp_async_commit();
    const unsigned char* k = stages + step % launch.stages * W::kStageBytes;
    const auto first = static_cast<int32_t>(step * W::kTokens);
    add_stage<T, D, kAtOnce>(p, item, warp, k, first, seen_now, &state);
    if constexpr (kInvariant) {
      if ((first + W::kTokens) % kSegmentTokens != 0 && step + 1 != end_step) continue;
      end_segment<T>(p, split, item, warp, first, &state, &total);
    }
  }
  cp_async_wait<0>();
  if constexpr (kInvariant) {
    if (item.segment_states == 0) write_rows<T>(p, split, item, warp, total);
  } else {
    complete(&state);
    write_rows<T>(p, split, item, warp, state);
  }
}

// ---- the kernel ---------------------------------------------------------------------------------

// Stacked rows [first, first + kBlockRows) of the item in shared memory, on one of the paths.
template <class T, int D, bool kInvariant, bool kFew>
RADIX_DEVICE void run_rows(const AttentionParams& p, const RadixSplit& split, const Launch& launch,
                           int64_t first, unsigned char* smem) {
  using W = Wide<T, D>;
  auto* front = reinterpret_cast<Front*>(smem);
  unsigned char* q = smem + kFrontBytes;
  place_rows<W::kBlockRows>(p, front->whole, first, front);
  __syncthreads();
  if (threadIdx.x < 32) {
    Item item = front->whole;
    item.first_segment = static_cast<int32_t>(item.range.begin) / kSegmentTokens;
    const Span span = span_of_rows<W::kBlockRows>(front->rows);
    const bool every_segment = kInvariant && item.segment_states != 0;
    item.walk_begin = item.range.begin, item.walk_end = item.range.end;
    item.range.begin = static_cast<uint32_t>(clamped(span.low, item.range.begin, item.range.end));
    item.range.end = static_cast<uint32_t>(clamped(span.high, item.range.begin, item.range.end));
    if (!every_segment) item.walk_begin = item.range.begin, item.walk_end = item.range.end;
    if (threadIdx.x == 0) front->item = item;
  }
  load_queries<T, D>(p, kFew ? kRows : W::kBlockRows, q, [&](int r) {
    const BlockRowEntry& row = front->rows[r];
    return row.query < 0 ? int64_t{-1} : row.query * p.q.row_stride + row.head * p.q.head_stride;
  });
  __syncthreads();
  if constexpr (kFew) {
    run_few_rows<T, D, kInvariant>(p, split, launch, front->item, front, q);
  } else {
    run_many_rows<T, D, kInvariant>(p, split, launch, front->item, front, q);
  }
  __syncthreads();  // the next rows go where these are
}

// The block's items, as far as one of the paths takes their rows.
//
// NOTE: two walks, not one that chooses: in one loop the compiler keeps what both paths compute
// from the thread's index in registers all the time, and spills.
template <class T, int D, bool kInvariant, bool kFew>
RADIX_DEVICE void walk_items(const AttentionParams& p, const RadixSplit& split,
                             const Launch& launch, unsigned char* smem) {
  constexpr int kBlockRows = Wide<T, D>::kBlockRows;
  auto* front = reinterpret_cast<Front*>(smem);
  const bool listed = p.radix.sizes != nullptr;
  const int64_t num_items =
      listed ? clamped(p.radix.sizes->num_items, 0, p.radix.max_items) : launch.num_items;
  for (int64_t i = blockIdx.x; i < num_items; i += gridDim.x) {
    if (threadIdx.x == 0)
      front->whole = listed ? find_listed(p, i) : find_unlisted(p, split, launch, i, kBlockRows);
    __syncthreads();
    const int64_t end = front->whole.end_row;
    for (int64_t first = front->whole.first_row; first < end; first += kBlockRows) {
      const bool few = Wide<T, D>::kHasFew && end - first <= kRows;
      if (few == kFew) run_rows<T, D, kInvariant, kFew>(p, split, launch, first, smem);
    }
    __syncthreads();  // everybody knows that there is nothing more
  }
}

// grid (blocks that walk the list, or items without one, num_kv_heads)
template <class T, int D, bool kInvariant>
__global__ void __launch_bounds__(kThreads, D <= 64 && !kInvariant ? 3 : 2)
    radix_kernel(const __grid_constant__ AttentionParams p,
                 const __grid_constant__ RadixSplit split, const __grid_constant__ Launch launch) {
  RADIX_DYN_SMEM(smem);
  walk_items<T, D, kInvariant, false>(p, split, launch, smem);
  if constexpr (Wide<T, D>::kHasFew) walk_items<T, D, kInvariant, true>(p, split, launch, smem);
}

// ---- the launch ---------------------------------------------------------------------------------

template <class T, int D>
Error launch(const AttentionParams& p, const RadixSplit& split, const DeviceLimits& device,
             Stream stream) {
  using G = Geometry<T, D>;
  using W = Wide<T, D>;
  static_assert(G::kRingBytes >= kRows * (D + 2) * 4, "a warp's state fits over its ring");
  const auto few = [](int warps) {
    return W::kHasFew ? G::kQueryBytes + kRows * D * 4 + warps * G::kRingBytes : 0;
  };
  const auto many = [](int stages) { return W::kQueryBytes + stages * W::kStageBytes; };
  const int room = static_cast<int>(device.smem_per_block) - kFrontBytes;
  const uint64_t stacked =
      uint64_t{p.cu_q_lens != nullptr ? p.max_query_len : 1} * (p.num_q_heads / p.num_kv_heads);
  Launch launch = {};
  launch.access = key_access<T>(p);
  launch.ring_warps = kMaxWarps;
  while (launch.ring_warps > 1 && few(launch.ring_warps) > room) --launch.ring_warps;
  launch.stages = many(kMaxStages) <= room ? kMaxStages : 2;
  launch.row_tiles = static_cast<uint32_t>((stacked + W::kBlockRows - 1) / W::kBlockRows);
  launch.num_items = int64_t{p.num_seqs} * launch.row_tiles * split.num_ranges;
  const int64_t blocks = p.radix.sizes != nullptr ? split.walkers : launch.num_items;
  const dim3 grid(static_cast<unsigned>(blocks < INT32_MAX ? blocks : INT32_MAX), p.num_kv_heads);
  const int bytes =
      few(launch.ring_warps) > many(launch.stages) ? few(launch.ring_warps) : many(launch.stages);
  const auto smem = static_cast<size_t>(kFrontBytes + bytes);
  if (p.batch_invariant)
    return RADIX_LAUNCH((radix_kernel<T, D, true>), grid, dim3(kThreads), smem, stream, p, split,
                        launch);
  return RADIX_LAUNCH((radix_kernel<T, D, false>), grid, dim3(kThreads), smem, stream, p, split,
                      launch);
}

template <class T>
Error launch_dim(const AttentionParams& p, const RadixSplit& split, const DeviceLimits& device,
                 Stream stream) {
  const uint32_t dim = p.head_dim > p.head_dim_v ? p.head_dim : p.head_dim_v;
  if (dim <= 64) return launch<T, 64>(p, split, device, stream);
  if (dim <= 128) return launch<T, 128>(p, split, device, stream);
  return launch<T, 256>(p, split, device, stream);
}

}  // namespace

uint32_t radix_item_rows(uint32_t head_dim, uint32_t head_dim_v) {
  return head_dim > 128 || head_dim_v > 128 ? Wide<Half, 256>::kBlockRows
                                            : Wide<Half, 128>::kBlockRows;
}

Error launch_radix(const AttentionParams& p, const RadixSplit& split, const DeviceLimits& device,
                   Stream stream) {
  if (p.num_seqs == 0 || (p.cu_q_lens != nullptr && p.max_query_len == 0)) return 0;
  switch (p.k.dtype) {
    case RADIX_F16:
      return launch_dim<Half>(p, split, device, stream);
    case RADIX_BF16:
      return launch_dim<Bf16>(p, split, device, stream);
    case RADIX_F8_E4M3:
      return launch_dim<E4m3>(p, split, device, stream);
    default:
      return launch_dim<E5m2>(p, split, device, stream);
  }
}

}  // namespace radixattn::cuda
