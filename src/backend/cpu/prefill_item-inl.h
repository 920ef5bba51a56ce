// An item of prefill on its way: the scratch of a worker, the item's rows cut into panels, their
// queries in and their states out. For prefill.cpp only (see simd-inl.h).
//
// Stacked rows are all query heads of a group, token after token. Queries and O stand transposed in
// the scratch, rows along the lanes (panel-inl.h); few rows have O row after row (few_rows-inl.h).
#pragma once

#include "backend/cpu/attention_jobs.h"
#include "backend/cpu/few_rows-inl.h"
#include "backend/cpu/kv_tile-inl.h"
#include "backend/cpu/panel-inl.h"
#include "backend/cpu/rows-inl.h"
#include "backend/cpu/transpose-inl.h"

namespace radixattn {
namespace RADIX_CPU_TARGET_NS {

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

static Scratch carve(const AttentionParams& p, void* base) {
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

static TreeRows tree_rows(const Work& w, const Panel& panel, uint32_t first_lane) {
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

// ---- panels

// The words of a query in a panel: scaled floats, or raw pairs of bf16.
RADIX_INLINE uint32_t query_words(const AttentionParams& p) {
  return has_bf16_scores(p) ? p.head_dim / 2 : p.head_dim;
}

static void take_query(const AttentionParams& p, int64_t query, uint32_t head, float* to) {
  if (!has_bf16_scores(p)) return load_query(p, query, head, query_scale(p), to);
  const auto* from =
      static_cast<const BF16*>(p.q.data) + query * p.q.row_stride + int64_t{head} * p.q.head_stride;
  __builtin_memcpy(to, from, p.head_dim * sizeof(BF16));
}

RADIX_INLINE uint32_t width_of(const Panel& panel) {
  return panel.vectors * static_cast<uint32_t>(kLanes);
}

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
static void begin_panel(const Work& w, Panel* panel) {
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
  constexpr auto kWidth = static_cast<uint32_t>(kLanes);
  const uint32_t vectors = (rows + kWidth - 1) / kWidth;
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
static void begin_work(Work& w) {
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
static void clear_states(const Work& w, const RowStates& states) {
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
static void fold_states(const Work& w) {
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
static void put_row(const Work& w, const LaneRow& lane, float m, float l, int32_t segment,
                    float* o) {
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
static void put_states(const Work& w, const RowStates& states, int32_t segment) {
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

}  // namespace RADIX_CPU_TARGET_NS
}  // namespace radixattn
