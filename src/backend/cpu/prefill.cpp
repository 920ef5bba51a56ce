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
#include "backend/cpu/prefill_item-inl.h"

namespace radixattn {
namespace RADIX_CPU_TARGET_NS {
namespace {

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
