// What the prefill kernels share: the stacked rows that four warps work on, which keys they see,
// the online softmax over tiles of scores, and how rows end.
//
// Stacked row i of a KV head of a sequence is query head kv_head*group + i % group of its query
// token i / group. Four warps (128 threads) have 64 rows; of a warp's 16 rows a thread has rows
// lane/4 and lane/4 + 8, and of each 8 columns the two that begin at lane%4 * 2: the accumulators
// of mma.sync and of wgmma alike.
//
// Device code only; no state, no barriers.
#pragma once

#include "cuda/kernels/attention_tile.h"

namespace radixattn::cuda {

constexpr int kGroupThreads = 128;
constexpr int kGroupRows = 64;

// Stacked rows of one KV head of one sequence, and the keys they need.
struct Work {
  const int32_t* blocks;
  uint32_t seq, kv_head, group;
  int32_t first_query;  // row of q and out of the sequence's first query token
  int32_t context;
  int32_t shift;       // position of the first query token: context - q_len
  uint32_t first_row;  // stacked
  uint32_t num_rows;   // 0: begin = end = 0
  int32_t low, high;   // positions of the first and the last row
  int32_t begin, end;  // keys that some row may see
};

RADIX_DEVICE void set_rows(const AttentionParams& p, uint32_t first, uint32_t num, Work* w) {
  w->first_row = first;
  w->num_rows = num;
  w->low = w->high = w->begin = w->end = 0;
  if (num == 0) return;
  w->low = w->shift + static_cast<int32_t>(first / w->group);
  w->high = w->shift + static_cast<int32_t>((first + num - 1) / w->group);
  w->end = p.tree_mask != nullptr || w->high >= w->context ? w->context : w->high + 1;
  if (w->end < 0) w->end = 0;
  const int64_t oldest = p.window == 0 ? 0 : int64_t{w->low} - p.window + 1;
  w->begin = oldest < 0 ? 0 : static_cast<int32_t>(oldest);
}

// The block's rows for a grid of (rows of the longest sequence / kBlockRows, num_kv_heads,
// num_seqs); false when it has none.
template <int kBlockRows>
RADIX_DEVICE bool find_work(const AttentionParams& p, Work* w) {
  w->seq = blockIdx.z;
  w->kv_head = blockIdx.y;
  w->group = p.num_q_heads / p.num_kv_heads;
  const Queries queries = queries_of(p, w->seq);
  w->first_query = queries.first;
  const int32_t q_len = queries.num;
  if (q_len == 0) return false;
  const int64_t all_rows = int64_t{q_len} * w->group;
  const int64_t first = int64_t{gridDim.x - 1 - blockIdx.x} * kBlockRows;  // the longest rows first
  if (first >= all_rows) return false;
  const BlockRow row = block_row(p, w->seq);
  w->context = context_of(p, w->seq, row);
  w->blocks = row.ids;
  w->shift = w->context - q_len;
  const int64_t num = all_rows - first < kBlockRows ? all_rows - first : kBlockRows;
  set_rows(p, static_cast<uint32_t>(first), static_cast<uint32_t>(num), w);
  return true;
}

// The rows of a thread, and how their scores come about.
struct Rows {
  int32_t position[2];  // below every key for rows that do not exist
  uint32_t head[2];
  bool real[2];
  float slope[2];
  ScoreRule rule;
};

RADIX_DEVICE Rows rows_of(const AttentionParams& p, const Work& w) {
  Rows rows;
  rows.rule = score_rule(p, w.kv_head);
  RADIX_UNROLL
  for (int r = 0; r < 2; ++r) {
    const uint32_t i = threadIdx.x % kGroupThreads / 32 * 16 + threadIdx.x % 32 / 4 + r * 8;
    const uint32_t stacked = w.first_row + i, token = stacked / w.group;
    rows.real[r] = i < w.num_rows;
    rows.position[r] = rows.real[r] ? w.shift + static_cast<int32_t>(token) : -1;
    rows.head[r] = w.kv_head * w.group + stacked % w.group;
    rows.slope[r] = rows.real[r] ? slope_of(p, rows.head[r]) : 0.f;
  }
  return rows;
}

// The rows' queries in the compute type C, piece c (8 numbers) of row r to place(r, c); zeros for
// rows that do not exist and past head_dim. Aligned ones (and of type C) come asynchronously.
template <class C, class Place>
RADIX_DEVICE void load_queries(const AttentionParams& p, const Work& w, bool aligned, Place place) {
  const int pieces = (static_cast<int>(p.head_dim) + 15) / 16 * 2;
  for (int i = static_cast<int>(threadIdx.x % kGroupThreads); i < kGroupRows * pieces;
       i += kGroupThreads) {
    const int r = i / pieces, c = i % pieces;
    const uint32_t stacked = w.first_row + r;
    const bool real = static_cast<uint32_t>(r) < w.num_rows;
    const int64_t at = (int64_t{w.first_query} + stacked / w.group) * p.q.row_stride +
                       (w.kv_head * w.group + stacked % w.group) * p.q.head_stride;
    if (aligned) {
      load_piece(place(r, c), static_cast<const C*>(p.q.data) + (real ? at : 0), c, p.head_dim,
                 real, true);
      continue;
    }
    float x[8];
    RADIX_UNROLL
    for (int j = 0; j < 8; ++j) {
      const bool inside = real && static_cast<uint32_t>(c * 8 + j) < p.head_dim;
      x[j] = inside ? clamp_query<C>(load_number(p.q.data, p.q.dtype, at + c * 8 + j)) : 0.f;
    }
    uint32_t words[4];
    RADIX_UNROLL
    for (int j = 0; j < 4; ++j) words[j] = Pair<C>::pack(x[2 * j], x[2 * j + 1]);
    store_piece(place(r, c), words);
  }
}

// ---- scores to weights --------------------------------------------------------------------------

// Row r of the thread in q and out, if it exists.
RADIX_DEVICE int64_t query_of(const Work& w, const Rows& rows, int r) {
  return int64_t{w.first_query} + (rows.position[r] - w.shift);
}

// Does query row r of the thread see the key at `position`, which exists?
RADIX_DEVICE bool sees(const AttentionParams& p, const Work& w, const Rows& rows, int r,
                       int32_t position) {
  if (!rows.real[r]) return false;
  const int64_t distance = int64_t{rows.position[r]} - position;
  if (p.window != 0 && distance >= int64_t{p.window}) return false;
  if (p.tree_mask == nullptr) return distance >= 0;
  const int32_t fresh = position - w.shift;
  if (fresh < 0) return true;
  return (p.tree_mask[query_of(w, rows, r) * p.tree_mask_stride + fresh / 8] >> (fresh % 8) & 1) !=
         0;
}

// Some row does not see some of the N tokens from `first`; do all of those exist?
template <int N>
RADIX_DEVICE bool is_edge(const AttentionParams& p, const Work& w, int32_t first, bool all_exist) {
  bool whole = w.num_rows == kGroupRows && first >= w.begin && first + N <= w.end && all_exist;
  if (p.tree_mask != nullptr) whole = whole && first + N <= w.shift;
  whole = whole && first + N - 1 <= w.low;
  if (p.window != 0) whole = whole && int64_t{first} > int64_t{w.high} - p.window;
  return !whole;
}

// Running maximum and sum of a thread's rows (the sum over its own columns), and what o must be
// multiplied with since the last tile.
struct RowSums {
  float m[2] = {-INFINITY, -INFINITY}, l[2] = {};
  float alpha[2] = {1.f, 1.f};
};

// Calls visit(r, n, i, s[n][2 r + i]) for each score of a thread.
template <int kTiles, class Visit>
RADIX_DEVICE void for_scores(float (&s)[kTiles][4], Visit visit) {
  RADIX_UNROLL
  for (int n = 0; n < kTiles; ++n) {
    RADIX_UNROLL
    for (int i = 0; i < 4; ++i) visit(i / 2, n, i % 2, s[n][i]);
  }
}

// Dot products to scores; -inf where a row does not see the token.
template <int N, class Tokens>
RADIX_DEVICE void score(const AttentionParams& p, const Work& w, const Rows& rows,
                        const Tokens& tokens, float (&s)[N / 8][4]) {
  if (rows.rule.cap > 0.f) {
    for_scores(s, [&](int, int, int, float& x) { x = rows.rule.score(x); });
  } else {
    for_scores(s, [&](int, int, int, float& x) { x *= rows.rule.scale; });
  }
  const int32_t first = tokens.first + static_cast<int>(threadIdx.x) % 4 * 2;
  if (p.alibi_slopes != nullptr) {
    for_scores(s, [&](int r, int n, int i, float& x) {
      x += rows.slope[r] * static_cast<float>(first + n * 8 + i - rows.position[r]);
    });
  }
  if (!is_edge<N>(p, w, tokens.first, tokens.all_exist())) return;
  for_scores(s, [&](int r, int n, int i, float& x) {
    if (!tokens.exists(n, i) || !sees(p, w, rows, r, first + n * 8 + i)) x = -INFINITY;
  });
}

// Dot products to weights of the running maximum. Tokens knows the tile's first position, whether
// all its tokens exist, and whether the one in s[n][i] (or s[n][i + 2]) does.
template <int N, class Tokens>
RADIX_DEVICE void weigh(const AttentionParams& p, const Work& w, const Rows& rows,
                        const Tokens& tokens, float (&s)[N / 8][4], RowSums* sums) {
  score<N>(p, w, rows, tokens, s);
  float top[2] = {sums->m[0], sums->m[1]};
  for_scores(s, [&](int r, int, int, float& x) { top[r] = fmaxf(top[r], x); });
  RADIX_UNROLL
  for (int r = 0; r < 2; ++r) {
    top[r] = warp_max<4>(top[r]);
    sums->alpha[r] = shrink(sums->m[r], top[r]);
    sums->m[r] = top[r];
    sums->l[r] *= sums->alpha[r];
    if (top[r] == -INFINITY) top[r] = 0.f;  // nothing seen yet: 2^-inf is 0, no NaN
  }
  float sum[2] = {0.f, 0.f};
  for_scores(s, [&](int r, int, int, float& x) {
    x = exp2_approx(x - top[r]);
    sum[r] += x;
  });
  RADIX_UNROLL
  for (int r = 0; r < 2; ++r) sums->l[r] += sum[r];
}

template <int D>
RADIX_DEVICE void rescale(const RowSums& sums, float (&o)[D / 8][4]) {
  RADIX_UNROLL
  for (int n = 0; n < D / 8; ++n) {
    RADIX_UNROLL
    for (int i = 0; i < 4; ++i) o[n][i] *= sums.alpha[i / 2];
  }
}

// The weights of 16 tokens, from s[2 * step], as the left operand of a product.
template <class C, int kTiles>
RADIX_DEVICE void weights_operand(const float (&s)[kTiles][4], int step, uint32_t (&a)[4]) {
  RADIX_UNROLL
  for (int i = 0; i < 4; ++i) {
    const float(&x)[4] = s[2 * step + i / 2];
    a[i] = Pair<C>::pack(x[i % 2 * 2], x[i % 2 * 2 + 1]);
  }
}

// ---- the end ------------------------------------------------------------------------------------

template <int D>
RADIX_DEVICE void write_rows(const AttentionParams& p, const Work& w, const Rows& rows,
                             const RowSums& sums, const float (&o)[D / 8][4]) {
  const float v_scale = scale_of(p.v_scale, p, w.kv_head);
  RADIX_UNROLL
  for (int r = 0; r < 2; ++r) {
    const float l = warp_sum<4>(sums.l[r]);
    if (!rows.real[r]) continue;
    const RowEnd end = end_of_row(p, rows.head[r], sums.m[r], l);
    const int64_t query = query_of(w, rows, r);
    const int64_t at = query * p.out.row_stride + rows.head[r] * p.out.head_stride;
    RADIX_UNROLL
    for (int n = 0; n < D / 8; ++n) {
      RADIX_UNROLL
      for (int i = 0; i < 2; ++i) {
        const int e = n * 8 + static_cast<int>(threadIdx.x) % 4 * 2 + i;
        if (static_cast<uint32_t>(e) < p.head_dim_v)
          store_number(p.out.data, p.out.dtype, at + e, o[n][2 * r + i] * end.factor * v_scale);
      }
    }
    if (p.lse != nullptr && threadIdx.x % 4 == 0)
      p.lse[query * p.lse_row_stride + rows.head[r] * p.lse_head_stride] = end.lse;
  }
}

}  // namespace radixattn::cuda
