// Prefill, and whatever else has many query rows for the same keys: two blocked matrix products per
// K/V tile with an online softmax between them. Sums are f32 throughout.
//
// Work split: an item is some stacked rows (all query heads of a group, token after token) and a
// run of keys of one KV head, so that a tile of K and V is unpacked once for all of the rows:
// prefill's rows of one sequence and all their keys; or rows of many sequences and keys that they
// share (backend/radix_list.h). Rows are cut into panels of kVectors vectors. Everything is
// computed transposed, with query rows along the lanes (panel-inl.h):
//
//   - softmax, masks, ALiBi and the rescaling of O are vertical, without reductions across lanes;
//   - K and V are used as they lie (unpacked to f32): their elements are the broadcast operands.
//     Nothing is transposed but Q on the way in and O on the way out, once an item.
//
// Both products run in one micro-kernel (bf16 queries and keys have another one for the scores
// where the machine has a bf16 dot product: bf16_dot-inl.h): kBroadcasts x kVectors accumulators (8
// x 3 of 32 registers, 4 x 3 of 16). Tiles outside of a panel's causal range or window are skipped;
// only tiles that its edge crosses are masked. With a tree mask (speculative tokens) every row may
// see any new token: tiles with such are masked bit by bit.
//
// Items of few rows, at most kFewRows a KV head, fill no panel: there several KV heads share one,
// and the two products run the other way round, with the same bits (few_rows-inl.h).
//
// Batch-invariant items begin afresh at every segment (kSegmentTokens) and fold its state into the
// row's total, or leave it as it is. Tiles stand at multiples of kPrefillTile, so a segment's state
// is the same whoever computes it.
#include "backend/cpu/attention_jobs.h"
#include "backend/cpu/few_rows-inl.h"
#include "backend/cpu/kernel_set-inl.h"
#include "backend/cpu/kv_tile-inl.h"
#include "backend/cpu/panel-inl.h"
#include "backend/cpu/rows-inl.h"
#include "backend/cpu/transpose-inl.h"

namespace radixattn {
namespace RADIX_CPU_TARGET_NS {
namespace {

constexpr auto kStep = kVectors * static_cast<uint32_t>(kLanes);
constexpr uint32_t kMaxPanels = kPrefillRows / kStep;
constexpr uint32_t kMaxHeadDim = 256;

// ---- the scratch of a worker

// State of an item's rows.
struct RowStates {
  float* o;  // panels of [head_dim_v][width]; few rows: [row][padded(head_dim_v)]
  float* m;  // [rows] running maximum, base 2
  float* l;  // [rows] running sum
};

struct Scratch {
  float* q;  // panels of [head_dim][width]; bf16 scores: [head_dim / 2][width] pairs
  RowStates run;
  RowStates total;  // batch-invariant: of the segments before
  float* alpha;     // [rows] rescaling of the current tile
  int32_t* at;      // [rows] position
  float* k;         // [kPrefillTile][kTileStride] as kv_tile-inl.h says
  float* v;         // [kPrefillTile][kTileStride]
  float* s;         // [kPrefillTile][width] scores, then weights
};

Scratch carve(const AttentionParams& p, void* base) {
  constexpr uint64_t rows = kPrefillRows + kPrefillMaxPanel;
  Scratch s;
  s.k = static_cast<float*>(base);
  s.v = s.k + uint64_t{kPrefillTile} * kTileStride;
  s.s = s.v + uint64_t{kPrefillTile} * kTileStride;
  s.q = s.s + uint64_t{kPrefillTile} * kPrefillMaxPanel;
  s.run.o = s.q + rows * p.head_dim;
  s.run.m = s.run.o + rows * p.head_dim_v;
  s.run.l = s.run.m + rows;
  s.alpha = s.run.l + rows;
  s.at = reinterpret_cast<int32_t*>(s.alpha + rows);
  s.total = s.run;
  if (p.batch_invariant) {
    s.total.o = s.alpha + 2 * rows;
    s.total.m = s.total.o + rows * p.head_dim_v;
    s.total.l = s.total.m + rows;
  }
  return s;
}

// A panel: rows [row, row + width) of the item and one KV head, the last ones perhaps padding; or
// all rows of `head` and the KV heads after it, few_lanes lanes for each. `first` is where they
// stand in the scratch.
struct Panel {
  uint32_t head = 0, row = 0;
  uint32_t first = 0, vectors = 0;
  int32_t min_position = 0, max_position = -1;  // of its real rows
  int32_t sees_to = -1;                         // keys after it some row does not see
  int32_t last_key = -1;                        // keys after it no row sees
};

// An item on its way.
struct Work {
  const PrefillJob* job = nullptr;
  const PrefillItem* item = nullptr;
  uint32_t group = 1;
  uint32_t num_rows = 0;
  uint32_t few_lanes = 0;                    // of each KV head of a panel; 0: panels have one
  uint32_t num_panels = 0, head_panels = 0;  // of all KV heads, of each
  int32_t min_position = 0, max_position = 0;
  Scratch s;
  Panel panels[kMaxPanels];
  uint32_t ahead_pace = 0;  // Ahead::pace of its tiles
  Prefetcher next;          // of few rows' keys
  int64_t asked_for = -1;   // the first token that it is to bring, or has brought
};

// ---- rows

// The row of q and out of stacked row `row`, and where it stands.
RADIX_INLINE RadixRow row_of(const Work& w, uint32_t row) {
  const AttentionParams& p = *w.job->params;
  const uint32_t token = row / w.group;
  if (w.job->rows != nullptr) return w.job->rows[token];
  const uint32_t seq = w.item->seq;
  const auto i = static_cast<int32_t>(token);
  if (p.cu_q_lens == nullptr) return {static_cast<int32_t>(seq), p.context_lens[seq] - 1};
  const int32_t first = p.cu_q_lens[seq];
  return {first + i, p.context_lens[seq] - (p.cu_q_lens[seq + 1] - first) + i};
}

// Position of the sequence's first new token.
RADIX_INLINE int32_t first_new_token(const AttentionParams& p, uint32_t seq) {
  return p.context_lens[seq] - (p.cu_q_lens[seq + 1] - p.cu_q_lens[seq]);
}

// What stands in a lane of a panel: a stacked row and its query head, or nothing.
struct LaneRow {
  uint32_t stacked, q_head;
  bool real;
};

RADIX_INLINE LaneRow lane_row(const Work& w, const Panel& panel, uint32_t lane) {
  const uint32_t head = w.few_lanes == 0 ? panel.head : panel.head + lane / w.few_lanes;
  const uint32_t row = w.few_lanes == 0 ? panel.row + lane : lane % w.few_lanes;
  const uint32_t stacked = w.item->row_begin + row;
  return {stacked, head * w.group + stacked % w.group, row < w.num_rows && head < w.item->head_end};
}

TreeRows tree_rows(const Work& w, const Panel& panel, uint32_t first_lane) {
  TreeRows rows;
  const AttentionParams& p = *w.job->params;
  if (p.tree_mask == nullptr) return rows;
  rows.first_new = first_new_token(p, w.item->seq);
  for (uint32_t i = 0; i < kLanes; ++i) {
    const LaneRow lane = lane_row(w, panel, first_lane + i);
    if (!lane.real) continue;
    rows.bits[i] = p.tree_mask + row_of(w, lane.stacked).query * p.tree_mask_stride;
  }
  return rows;
}

// ALiBi slopes (base 2) of kLanes rows; zeros without ALiBi.
RADIX_INLINE VF slopes(const Work& w, const Panel& panel, uint32_t first_lane) {
  const AttentionParams& p = *w.job->params;
  if (p.alibi_slopes == nullptr) return hn::Zero(DF());
  alignas(64) float x[kLanes];
  for (uint32_t i = 0; i < kLanes; ++i) {
    const LaneRow lane = lane_row(w, panel, first_lane + i);
    x[i] = lane.real ? p.alibi_slopes[lane.q_head] * kLog2e : 0.f;
  }
  return hn::LoadU(DF(), x);
}

// ---- one tile and one panel

// Scores of the tile's first n tokens, rounded up to whole steps, in units of log 2.
template <uint32_t NV>
RADIX_INLINE void panel_scores(const AttentionParams& p, const float* q, uint32_t n,
                               const Scratch& s, Ahead* ahead) {
  constexpr uint32_t kWidth = NV * kLanes, kRows = broadcasts<NV>();
  if (has_bf16_scores(p)) {
    const auto* k = reinterpret_cast<const uint32_t*>(s.k);
    const auto* pairs = reinterpret_cast<const uint32_t*>(q);
    for (uint32_t t = 0; t < n; t += kRows) {
      prefetch_ahead(p, ahead);
      multiply_bf16<kRows, NV, kTileStride, 1>(k + t * kTileStride, pairs, p.head_dim / 2, nullptr,
                                               query_scale(p), s.s + t * kWidth);
    }
    return;
  }
  for (uint32_t t = 0; t < n; t += kRows) {
    prefetch_ahead(p, ahead);
    multiply<kRows, NV, kTileStride, 1>(s.k + t * kTileStride, q, p.head_dim, nullptr,
                                        s.s + t * kWidth);
  }
}

// R elements of the values of n tokens.
template <uint32_t R, uint32_t NV>
RADIX_INLINE void value_step(const AttentionParams& p, const float* v, const float* weights,
                             uint32_t n, const float* alpha, float* o) {
  if (has_bf16_values(p)) {
    multiply_bf16<R, NV, 1, kTileStride>(reinterpret_cast<const uint32_t*>(v),
                                         reinterpret_cast<const uint32_t*>(weights), (n + 1) / 2,
                                         alpha, 1.f, o);
  } else {
    multiply<R, NV, 1, kTileStride>(v, weights, n, alpha, o);
  }
}

template <uint32_t NV>
RADIX_INLINE void panel_values(const AttentionParams& p, uint32_t n, const Scratch& s,
                               const float* alpha, float* o, Ahead* ahead) {
  constexpr uint32_t kWidth = NV * kLanes, kRows = broadcasts<NV>();
  uint32_t i = 0;
  for (; i + kRows <= p.head_dim_v; i += kRows) {
    prefetch_ahead(p, ahead);
    value_step<kRows, NV>(p, s.v + i, s.s, n, alpha, o + i * kWidth);
  }
  for (; i < p.head_dim_v; i += kBroadcasts)
    value_step<kBroadcasts, NV>(p, s.v + i, s.s, n, alpha, o + i * kWidth);
}

template <uint32_t NV>
RADIX_INLINE void panel_softmax(const Work& w, const Panel& panel, const KvTile& tile, uint32_t n,
                                bool masked) {
  const AttentionParams& p = *w.job->params;
  const uint32_t first = panel.first;
  const LaneState lane = {w.s.at + first, w.s.run.m + first, w.s.run.l + first, w.s.alpha + first};
  VF top[NV];
  for (uint32_t v = 0; v < NV; ++v) top[v] = hn::LoadU(DF(), lane.m + v * kLanes);
  if (masked || p.softcap > 0.f || p.alibi_slopes != nullptr) {
    for (uint32_t v = 0; v < NV; ++v) {
      const uint32_t row = v * static_cast<uint32_t>(kLanes);
      top[v] = mask_scores<NV * kLanes>(p, tile, n, slopes(w, panel, row), tree_rows(w, panel, row),
                                        lane.at + row, w.s.s + row, top[v]);
    }
  } else {
    max_scores<NV>(n, w.s.s, top);
  }
  if (has_bf16_values(p)) {
    weigh_scores<NV, true>(n, top, lane, w.s.s);
  } else {
    weigh_scores<NV, false>(n, top, lane, w.s.s);
  }
}

// What a panel sees of a tile: none of it, or its first n tokens, which it masks or not.
struct Seen {
  uint32_t n = 0;
  bool masked = false;
};

RADIX_INLINE Seen seen_of(const AttentionParams& p, const Panel& panel, const KvTile& tile) {
  Seen seen;
  const int64_t window = window_of(p);
  const int32_t last = panel.last_key - static_cast<int32_t>(tile.position);
  const int64_t end = int64_t{tile.position} + tile.n;
  if (last < 0 || end <= int64_t{panel.min_position} - window + 1) return seen;
  seen.n = static_cast<uint32_t>(last) + 1 < tile.n ? static_cast<uint32_t>(last) + 1 : tile.n;
  seen.masked = int64_t{tile.position} + seen.n - 1 > panel.sees_to ||
                int64_t{tile.position} <= int64_t{panel.max_position} - window;
  return seen;
}

template <uint32_t NV>
void panel_tile(const Work& w, const Panel& panel, const KvTile& tile, Ahead* ahead) {
  const AttentionParams& p = *w.job->params;
  const Seen seen = seen_of(p, panel, tile);
  if (seen.n == 0) return;
  panel_scores<NV>(p, w.s.q + uint64_t{panel.first} * p.head_dim, seen.n, w.s, ahead);
  panel_softmax<NV>(w, panel, tile, seen.n, seen.masked);
  panel_values<NV>(p, seen.n, w.s, w.s.alpha + panel.first,
                   w.s.run.o + uint64_t{panel.first} * p.head_dim_v, ahead);
}

#if HWY_TARGET != HWY_SCALAR

// KV heads of a panel of few rows that have `lanes` lanes each.
RADIX_INLINE uint32_t few_heads(const Work& w, const Panel& panel, uint32_t lanes) {
  const uint32_t left = w.item->head_end - panel.head;
  const uint32_t most = static_cast<uint32_t>(kLanes) / lanes;
  return left < most ? left : most;
}

// A panel of few rows of some KV heads, R lanes for each.
template <uint32_t R>
void few_rows_tile(const Work& w, const Panel& panel, const KvTile& tile, const TileRows& rows,
                   Prefetcher& next) {
  const AttentionParams& p = *w.job->params;
  const Seen seen = seen_of(p, panel, tile);
  if (seen.n == 0) return;
  const FewTile f = {p, tile, rows, seen.n, w.s.k, next};
  const uint32_t heads = few_heads(w, panel, R);
  const float* q = w.s.q + uint64_t{panel.first} * p.head_dim;
  for (uint32_t h = 0; h < heads; ++h) few_scores<R>(f, panel.head + h, q + h * R, w.s.s + h * R);
  panel_softmax<1>(w, panel, tile, seen.n, seen.masked);
  const uint32_t stride = padded(p.head_dim_v);
  for (uint32_t h = 0; h < heads; ++h) {
    const uint32_t row = panel.first + h * R;
    few_values<R>(f, panel.head + h,
                  {w.s.s + h * R, w.s.alpha + row, w.s.run.o + uint64_t{row} * stride, stride});
  }
}

template <uint32_t R>
void run_if_few(const Work& w, const Panel& panel, const KvTile& tile, const TileRows& rows,
                Prefetcher& next) {
  if constexpr (R <= kFewRows) {
    if (w.few_lanes == R) few_rows_tile<R>(w, panel, tile, rows, next);
  }
}

void run_few_rows(const Work& w, const Panel& panel, const KvTile& tile, const TileRows& rows,
                  Prefetcher& next) {
  run_if_few<1>(w, panel, tile, rows, next);
  run_if_few<2>(w, panel, tile, rows, next);
  run_if_few<4>(w, panel, tile, rows, next);
  run_if_few<8>(w, panel, tile, rows, next);
}

#else

// A lane is a row: no panel has one to spare.
void run_few_rows(const Work&, const Panel&, const KvTile&, const TileRows&, Prefetcher&) {}

#endif

void run_panel(const Work& w, const Panel& panel, const KvTile& tile, Ahead* ahead) {
  if (panel.vectors == 1) return panel_tile<1>(w, panel, tile, ahead);
  if (panel.vectors == 2) return panel_tile<2>(w, panel, tile, ahead);
  panel_tile<kVectors>(w, panel, tile, ahead);
}

// ---- panels

// The words of a query in a panel: scaled floats, or raw pairs of bf16.
RADIX_INLINE uint32_t query_words(const AttentionParams& p) {
  return has_bf16_scores(p) ? p.head_dim / 2 : p.head_dim;
}

void take_query(const AttentionParams& p, int64_t query, uint32_t head, float* to) {
  if (!has_bf16_scores(p)) return load_query(p, query, head, query_scale(p), to);
  const auto* from =
      static_cast<const BF16*>(p.q.data) + query * p.q.row_stride + int64_t{head} * p.q.head_stride;
  __builtin_memcpy(to, from, p.head_dim * sizeof(BF16));
}

uint32_t width_of(const Panel& panel) { return panel.vectors * static_cast<uint32_t>(kLanes); }

// Lane i of a panel: where its row stands, and its query; a lane of no row has a query of zeros and
// sees every key.
RADIX_INLINE void begin_lane(const Work& w, uint32_t i, Panel* panel, float* query) {
  const AttentionParams& p = *w.job->params;
  const LaneRow lane = lane_row(w, *panel, i);
  if (!lane.real) {
    w.s.at[panel->first + i] = 0x3fffffff;
    zero_row(query, query_words(p));
    return;
  }
  const RadixRow row = row_of(w, lane.stacked);
  w.s.at[panel->first + i] = row.position;
  if (row.position < panel->min_position) panel->min_position = row.position;
  if (row.position > panel->max_position) panel->max_position = row.position;
  take_query(p, row.query, lane.q_head, query);
}

// Transposes the queries of a panel whose place is set.
void begin_panel(const Work& w, Panel* panel) {
  const AttentionParams& p = *w.job->params;
  panel->min_position = 0x7fffffff;
  panel->max_position = -0x7fffffff;
  const uint32_t width = width_of(*panel), words = query_words(p);
  float* q = w.s.q + uint64_t{panel->first} * p.head_dim;
  alignas(64) float rows[4 * kMaxHeadDim];
  if constexpr (kLanes < 4) {
    for (uint32_t i = 0; i < width; ++i) {
      begin_lane(w, i, panel, rows);
      for (uint32_t e = 0; e < words; ++e) q[e * width + i] = rows[e];
    }
  } else {
    for (uint32_t i = 0; i < width; i += 4) {
      for (uint32_t j = 0; j < 4; ++j) begin_lane(w, i + j, panel, rows + j * kMaxHeadDim);
      rows_to_columns(rows, kMaxHeadDim, words, q + i, width);
    }
  }
  panel->sees_to = panel->min_position;
  panel->last_key = panel->max_position;
  if (p.tree_mask != nullptr) {
    panel->sees_to = first_new_token(p, w.item->seq) - 1;
    panel->last_key = p.context_lens[w.item->seq] - 1;
  }
}

// Of the first panel of `rows` rows. A panel of one vector is the slow one: four vectors are two
// and two.
RADIX_INLINE uint32_t panel_vectors(uint32_t rows) {
  static_assert(kVectors == 3);
  const uint32_t vectors = (rows + static_cast<uint32_t>(kLanes) - 1) / kLanes;
  if (vectors == kVectors + 1) return 2;
  return vectors < kVectors ? vectors : kVectors;
}

// Vectors of K, and as many of V, that are prefetched with each step of a tile's products: evenly,
// because bursts overrun the processor's line buffers (docs/kernels.md), but where that takes few,
// at twice the pace that brings the next tile in time, because causal panels skip steps.
RADIX_INLINE uint32_t ahead_pace(const Work& w, uint32_t num_heads) {
  constexpr uint32_t kFew = 6;
  uint32_t steps = 0;
  for (uint32_t i = 0; i < w.num_panels; ++i) {
    const uint32_t rows = w.panels[i].vectors == 1 ? broadcasts<1>() : kBroadcasts;
    steps += (kPrefillTile + w.job->params->head_dim_v) / rows;
  }
  const uint32_t pace = kPrefillTile * num_heads / steps + 1;
  if (pace >= kFew) return pace;
  return 2 * pace < kFew ? 2 * pace : kFew;
}

// Cuts every head's rows into panels, narrow ones when few rows are left; or puts some heads' few
// rows into one.
void begin_work(Work& w) {
  w.group = w.job->params->num_q_heads / w.job->params->num_kv_heads;
  w.num_rows = w.item->row_end - w.item->row_begin;
  w.few_lanes = w.num_rows <= kFewRows ? few_lanes(w.num_rows) : 0;
  w.min_position = 0x7fffffff;
  w.max_position = -0x7fffffff;
  const uint32_t heads = w.few_lanes == 0 ? 1 : static_cast<uint32_t>(kLanes) / w.few_lanes;
  uint32_t first = 0;
  for (uint32_t head = w.item->head_begin; head < w.item->head_end; head += heads) {
    for (uint32_t r = 0; r < w.num_rows;) {
      Panel& panel = w.panels[w.num_panels++];
      panel.head = head;
      panel.row = r;
      panel.first = first;
      panel.vectors = panel_vectors(w.num_rows - r);
      first += width_of(panel);
      r += width_of(panel);
      begin_panel(w, &panel);
      if (panel.min_position < w.min_position) w.min_position = panel.min_position;
      if (panel.max_position > w.max_position) w.max_position = panel.max_position;
    }
  }
  const uint32_t num_heads = w.item->head_end - w.item->head_begin;
  w.head_panels = w.num_panels / num_heads;
  w.ahead_pace = ahead_pace(w, num_heads);
  // The softmax has whole vectors, whether or not a panel's heads fill one.
  if (w.few_lanes != 0) zero_row(w.s.s, kPrefillTile * static_cast<uint32_t>(kLanes));
}

// Where the first lane of a panel has its O, and how far it is to the next element and lane.
struct PanelO {
  uint64_t at;
  uint32_t element, lane;
};

RADIX_INLINE PanelO panel_o(const Work& w, const Panel& panel) {
  const uint32_t dim = w.job->params->head_dim_v;
  if (w.few_lanes != 0) return {uint64_t{panel.first} * padded(dim), 1, padded(dim)};
  return {uint64_t{panel.first} * dim, width_of(panel), 1};
}

// Empty states of all rows.
void clear_states(const Work& w, const RowStates& states) {
  const Panel& last = w.panels[w.num_panels - 1];
  const uint32_t rows = last.first + width_of(last);
  const uint32_t dim = w.job->params->head_dim_v;
  const uint64_t elements = uint64_t{rows} * (w.few_lanes != 0 ? padded(dim) : dim);
  for (uint64_t i = 0; i < elements; ++i) states.o[i] = 0.f;
  for (uint32_t i = 0; i < rows; ++i) states.m[i] = kMinusInf;
  for (uint32_t i = 0; i < rows; ++i) states.l[i] = 0.f;
}

// O of kLanes rows of a panel into their totals: with rows along the lanes ...
RADIX_INLINE void fold_panel(const FoldFactors& f, const float* part, uint32_t width, uint32_t dim,
                             float* total) {
  const DF d;
  for (uint32_t e = 0; e < dim; ++e) {
    hn::StoreU(fold(f, hn::LoadU(d, total + e * width), hn::LoadU(d, part + e * width)), d,
               total + e * width);
  }
}

// ... and row after row.
RADIX_INLINE void fold_few_rows(const FoldFactors& f, const float* part, uint32_t stride,
                                float* total) {
  const DF d;
  alignas(64) float of_total[kLanes], of_part[kLanes];
  hn::StoreU(f.total, d, of_total);
  hn::StoreU(f.part, d, of_part);
  for (uint32_t i = 0; i < kLanes; ++i, part += stride, total += stride) {
    const FoldFactors g = {f.m, hn::Set(d, of_total[i]), hn::Set(d, of_part[i])};
    for (uint32_t e = 0; e < stride; e += kLanes)
      hn::StoreU(fold(g, hn::LoadU(d, total + e), hn::LoadU(d, part + e)), d, total + e);
  }
}

// The run's states into the totals.
void fold_states(const Work& w) {
  const DF d;
  const uint32_t dim = w.job->params->head_dim_v;
  for (uint32_t n = 0; n < w.num_panels; ++n) {
    const Panel& panel = w.panels[n];
    const uint32_t width = width_of(panel);
    for (uint32_t v = 0; v < width; v += static_cast<uint32_t>(kLanes)) {
      const uint32_t row = panel.first + v;
      const FoldFactors f =
          fold_factors(hn::LoadU(d, w.s.total.m + row), hn::LoadU(d, w.s.run.m + row));
      hn::StoreU(f.m, d, w.s.total.m + row);
      hn::StoreU(fold(f, hn::LoadU(d, w.s.total.l + row), hn::LoadU(d, w.s.run.l + row)), d,
                 w.s.total.l + row);
      const PanelO o = panel_o(w, panel);
      float* total = w.s.total.o + o.at + v;
      const float* part = w.s.run.o + o.at + v;
      if (w.few_lanes != 0) {
        fold_few_rows(f, part, o.lane, total);
      } else {
        fold_panel(f, part, width, dim, total);
      }
    }
  }
}

// ---- the way out

// A row of a panel as a row of its own, padded with zeros: its result, or its partial state of
// segment `segment`.
void put_row(const Work& w, const LaneRow& lane, float m, float l, int32_t segment, float* o) {
  const AttentionParams& p = *w.job->params;
  const PrefillItem& item = *w.item;
  const PartialStates& partial = w.job->partial;
  if (item.state == RadixItem::kDirect)
    return finish_row(p, row_of(w, lane.stacked).query, lane.q_head, o, m, l);
  const int64_t state =
      int64_t{item.state} + lane.stacked / w.group + int64_t{segment} * item.state_stride;
  const int64_t at = state * p.num_q_heads + lane.q_head;
  __builtin_memcpy(partial.o + at * padded(p.head_dim_v), o, padded(p.head_dim_v) * sizeof(float));
  partial.m[at] = m;
  partial.l[at] = l;
}

// Writes results, or partial states of segment `segment`.
void put_states(const Work& w, const RowStates& states, int32_t segment) {
  const uint32_t dim = w.job->params->head_dim_v;
  alignas(64) float rows[kLanes * kMaxHeadDim];
  for (uint32_t i = 0; i < kLanes; ++i) zero_row(rows + i * padded(dim) + dim, padded(dim) - dim);
  for (uint32_t n = 0; n < w.num_panels; ++n) {
    const Panel& panel = w.panels[n];
    const float* o = states.o + panel_o(w, panel).at;
    for (uint32_t i = 0; i < width_of(panel); i += static_cast<uint32_t>(kLanes)) {
      if (!lane_row(w, panel, i).real) break;
      if (w.few_lanes != 0) {
        __builtin_memcpy(rows, o, kLanes * padded(dim) * sizeof(float));
      } else {
        columns_to_rows(o + i, width_of(panel), dim, rows, padded(dim));
      }
      for (uint32_t j = 0; j < kLanes; ++j) {
        const LaneRow lane = lane_row(w, panel, i + j);
        const uint32_t at = panel.first + i + j;
        if (lane.real)
          put_row(w, lane, states.m[at], states.l[at], segment, rows + j * padded(dim));
      }
    }
  }
}

// ---- walking the keys

// The tile at position `begin` of keys that end at `end`. Batch-invariant tiles begin at a multiple
// of 8: so a pair of tokens is the same pair in every item.
RADIX_INLINE KvTile make_tile(const AttentionParams& p, uint32_t begin, uint32_t end) {
  KvTile tile;
  tile.position = p.batch_invariant ? begin / 8 * 8 : begin;
  tile.unseen = begin - tile.position;
  const uint32_t stop = (begin / kPrefillTile + 1) * kPrefillTile;
  tile.n = (stop < end ? stop : end) - tile.position;
  return tile;
}

// What is prefetched while a tile is computed: the one at `next`, if the item reads that far.
Ahead ahead_of(const Work& w, const TileRows* rows, uint32_t num_tokens) {
  const PagedTensor& k = w.job->params->k;
  Ahead a;
  a.rows = rows;
  a.pace = w.ahead_pace;
  a.num_tokens = num_tokens;
  a.head = a.head_begin = w.item->head_begin;
  a.head_end = w.item->head_end;
  a.by_token = k.head_stride < k.token_stride;
  return a;
}

// Few rows: asks for the tile that they will need next, all its KV heads; an empty one is none.
void ask_for(Work& w, const TileRows& rows, const KvTile& tile) {
#if HWY_TARGET != HWY_SCALAR
  w.next = Prefetcher();  // forgets the rows of the tile before
  if (tile.n == 0) return;
  const StreamRows tokens = {rows.k + tile.unseen, rows.v + tile.unseen, tile.n - tile.unseen,
                             w.item->head_begin, w.item->head_end};
  begin_few_prefetch(*w.job->params, tokens, w.few_lanes, w.next);
  w.asked_for = tile.position + tile.unseen;
#else
  (void)w, (void)rows, (void)tile;
#endif
}

// Keys [begin, end), some of which every row may see; the item's last is before `limit`.
void walk_keys(Work& w, uint32_t begin, uint32_t end, uint32_t limit) {
  const AttentionParams& p = *w.job->params;
  const int32_t* blocks = block_row(p.blocks, w.item->seq);
  TileRows rows[2];
  KvTile tile = make_tile(p, begin, end);
  locate_rows(p, blocks, tile, &rows[0]);
  if (w.few_lanes != 0 && w.asked_for != begin) {
    ask_for(w, rows[0], tile);
    load_tile(w.next);
  }
  for (uint32_t turn = 0;; turn ^= 1) {
    const uint32_t next = tile.position + tile.n;
    KvTile after;
    if (next < limit) {
      after = make_tile(p, next, next < end ? end : limit);
      locate_rows(p, blocks, after, &rows[turn ^ 1]);
    }
    Ahead ahead = ahead_of(w, &rows[turn ^ 1], after.n);
    if (w.few_lanes != 0) ask_for(w, rows[turn ^ 1], after);
    for (uint32_t i = 0; i < w.num_panels; ++i) {
      if (w.few_lanes != 0) {
        run_few_rows(w, w.panels[i], tile, rows[turn], w.next);
        continue;
      }
      if (i % w.head_panels == 0) gather_tile(p, rows[turn], w.panels[i].head, tile, w.s.k, w.s.v);
      run_panel(w, w.panels[i], tile, &ahead);
    }
    if (next >= end) return;
    tile = after;
  }
}

// Segments of [token_begin, token_end), of which some row sees [begin, end).
void walk_segments(Work& w, int64_t begin, int64_t end) {
  const PrefillItem& item = *w.item;
  const bool separate = item.state != RadixItem::kDirect && item.state_stride != 0;
  constexpr auto kSegment = static_cast<uint32_t>(kSegmentTokens);
  bool any = false;
  int32_t segment = 0;
  for (uint32_t from = item.token_begin; from < item.token_end; ++segment) {
    const uint32_t next = (from / kSegment + 1) * kSegment;
    const uint32_t to = next < item.token_end ? next : item.token_end;
    const auto first = static_cast<uint32_t>(begin > from ? begin : from);
    const auto last = static_cast<uint32_t>(end < to ? (end > 0 ? end : 0) : to);
    from = to;
    if (first >= last && !separate) continue;
    clear_states(w, w.s.run);
    if (first < last) walk_keys(w, first, last, static_cast<uint32_t>(end));
    if (separate) {
      put_states(w, w.s.run, segment);
    } else if (any) {
      fold_states(w);
    } else {  // nothing to fold it into yet
      const RowStates run = w.s.run;
      w.s.run = w.s.total;
      w.s.total = run;
      any = true;
    }
  }
  if (separate) return;
  if (!any) clear_states(w, w.s.total);
  put_states(w, w.s.total, 0);
}

}  // namespace

void prefill_item(const PrefillJob& job, const PrefillItem& item, void* scratch) {
  const AttentionParams& p = *job.params;
  Work w;
  w.job = &job;
  w.item = &item;
  w.s = carve(p, scratch);
  begin_work(w);
  const int64_t window_begin = int64_t{w.min_position} - window_of(p) + 1;
  const int64_t begin = window_begin > item.token_begin ? window_begin : item.token_begin;
  const int64_t seen =
      p.tree_mask != nullptr ? int64_t{item.token_end} : int64_t{w.max_position} + 1;
  const int64_t end = seen < item.token_end ? seen : item.token_end;
  if (p.batch_invariant) return walk_segments(w, begin, end);
  clear_states(w, w.s.run);
  if (begin < end) {
    const auto last = static_cast<uint32_t>(end);
    walk_keys(w, static_cast<uint32_t>(begin), last, last);
  }
  put_states(w, w.s.run, 0);
}

}  // namespace RADIX_CPU_TARGET_NS
}  // namespace radixattn
