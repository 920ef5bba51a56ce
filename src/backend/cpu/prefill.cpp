// Prefill: causal attention of many query rows over a cached prefix and the new tokens, as two
// blocked matrix products per K/V tile with an online softmax between them. Sums are f32
// throughout.
//
// Work split: an item is up to kPrefillRows stacked rows of one KV head of one sequence: all query
// heads of the group, token after token, so that a tile of K and V is unpacked once for all of
// them. Rows are cut into panels of kVectors vectors. Everything is computed transposed, with query
// rows along the lanes:
//
//        S^T [token][row]  = K [token][d]    * Q^T [d][row]       scores of a tile and a panel
//        O^T [dv][row]    += V^T [dv][token] * P^T [token][row]
//
//   - softmax, masks, ALiBi and the rescaling of O are vertical: no reduction across lanes
//   anywhere;
//   - K and V are used as they lie (unpacked to f32): their elements are the broadcast operands,
//   and nothing
//     is transposed but Q on the way in and O on the way out, once an item.
//
// Both products run in one micro-kernel (bf16 queries and keys have another one for the scores
// where the machine has a bf16 dot product: bf16_dot-inl.h): kBroadcasts x kVectors accumulators (8
// x 3 of 32 registers, 4 x 3 of 16). Tiles outside of a panel's causal range or window are skipped;
// only tiles that its edge crosses are masked. With a tree mask (speculative tokens) every row may
// see any new token: tiles with such are masked bit by bit.
#include "backend/cpu/attention_jobs.h"
#include "backend/cpu/bf16_dot-inl.h"
#include "backend/cpu/kernel_set-inl.h"
#include "backend/cpu/rows-inl.h"

namespace radixattn {
namespace RADIX_CPU_TARGET_NS {
namespace {

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr uint32_t kBroadcasts = 8;
#else
constexpr uint32_t kBroadcasts = 4;
#endif
constexpr uint32_t kVectors = 3;
static_assert(kVectors * kLanes <= kPrefillMaxPanel, "scratch is sized by kPrefillMaxPanel");
static_assert(kPrefillRows % (kVectors * kLanes) == 0, "an item is a whole number of panels");

// ---- the micro-kernel

// c[r][row] = (alpha ? alpha[row]*c[r][row] : 0) + sum_k a[r*kRowStep + k*kSumStep] * b[k][row]
// for kBroadcasts r and a panel of NV vectors; b and c are dense panels.
template <uint32_t NV, uint32_t kRowStep, uint32_t kSumStep>
RADIX_INLINE void multiply(const float* a, const float* b, uint32_t n, const float* alpha,
                           float* c) {
  const DF d;
  constexpr uint32_t kWidth = NV * kLanes;
  VF acc[kBroadcasts][NV];
#pragma GCC unroll 8
  for (uint32_t r = 0; r < kBroadcasts; ++r) {
#pragma GCC unroll 8
    for (uint32_t v = 0; v < NV; ++v) {
      acc[r][v] = alpha == nullptr ? hn::Zero(d)
                                   : hn::Mul(hn::LoadU(d, alpha + v * kLanes),
                                             hn::LoadU(d, c + r * kWidth + v * kLanes));
    }
  }
  for (uint32_t k = 0; k < n; ++k) {
    VF row[NV];
#pragma GCC unroll 8
    for (uint32_t v = 0; v < NV; ++v) row[v] = hn::LoadU(d, b + k * kWidth + v * kLanes);
#pragma GCC unroll 8
    for (uint32_t r = 0; r < kBroadcasts; ++r) {
      const VF x = hn::Set(d, a[r * kRowStep + k * kSumStep]);
#pragma GCC unroll 8
      for (uint32_t v = 0; v < NV; ++v) acc[r][v] = hn::MulAdd(x, row[v], acc[r][v]);
    }
  }
#pragma GCC unroll 8
  for (uint32_t r = 0; r < kBroadcasts; ++r) {
#pragma GCC unroll 8
    for (uint32_t v = 0; v < NV; ++v) hn::StoreU(acc[r][v], d, c + r * kWidth + v * kLanes);
  }
}

// ---- the scratch of a worker

struct Scratch {
  float* q;      // panels of [head_dim][width]; bf16 scores: [head_dim / 2][width] pairs
  float* o;      // panels of [head_dim_v][width]
  float* m;      // [rows] running maximum, base 2
  float* l;      // [rows] running sum
  float* alpha;  // [rows] rescaling of the current tile
  int32_t* at;   // [rows] position; negative: the row sees nothing
  float* k;      // [kPrefillTile][kTileStride] unpacked; bf16 scores: rows as they lie
  float* v;      // [kPrefillTile][kTileStride]
  float* s;      // [kPrefillTile][width] scores, then weights
};

Scratch carve(const AttentionParams& p, void* base) {
  constexpr uint64_t kRows = kPrefillRows + kPrefillMaxPanel;
  Scratch s;
  s.k = static_cast<float*>(base);
  s.v = s.k + uint64_t{kPrefillTile} * kTileStride;
  s.s = s.v + uint64_t{kPrefillTile} * kTileStride;
  s.q = s.s + uint64_t{kPrefillTile} * kPrefillMaxPanel;
  s.o = s.q + kRows * p.head_dim;
  s.m = s.o + kRows * p.head_dim_v;
  s.l = s.m + kRows;
  s.alpha = s.l + kRows;
  s.at = reinterpret_cast<int32_t*>(s.alpha + kRows);
  return s;
}

// A panel: rows [first, first + width) of the item, the last ones perhaps padding.
struct Panel {
  uint32_t first = 0, vectors = 0;
  int32_t min_position = 0, max_position = -1;  // of its real rows
  int32_t sees_to = -1;                         // keys after it some row does not see
  int32_t last_key = -1;                        // keys after it no row sees
};

// Tokens [position, position + n) of K and V, unpacked; rows up to a multiple of 8 are zero.
struct KvTile {
  uint32_t position = 0, n = 0;
};

// Visible tokens of a row; positions stay below 2^31, so that this is "no limit" too.
RADIX_INLINE int64_t window_of(const AttentionParams& p) {
  return p.window == 0 || p.window > 0x7fffffffu ? 0x7fffffff : int64_t{p.window};
}

// ---- the new tokens of a speculative tree

// Rows of a vector as their tree mask has them.
struct TreeRows {
  int32_t first_new = 0x7fffffff;    // position of the sequence's first new token
  const uint8_t* bits[kLanes] = {};  // null: no row
};

TreeRows tree_rows(const AttentionParams& p, const PrefillItem& item, uint32_t row) {
  TreeRows rows;
  if (p.tree_mask == nullptr) return rows;
  const uint32_t group = p.num_q_heads / p.num_kv_heads;
  const int32_t first_row = p.cu_q_lens[item.seq];
  rows.first_new = p.context_lens[item.seq] - (p.cu_q_lens[item.seq + 1] - first_row);
  for (uint32_t i = 0; i < kLanes && row + i < item.row_end; ++i)
    rows.bits[i] = p.tree_mask + (first_row + int64_t{(row + i) / group}) * p.tree_mask_stride;
  return rows;
}

// 1 for each row that sees key j, which is a new token, else 0.
RADIX_INLINE VF tree_sees(const TreeRows& rows, int32_t j) {
  alignas(64) float sees[kLanes];
  const int32_t fresh = j - rows.first_new;
  for (uint32_t i = 0; i < kLanes; ++i)
    sees[i] = rows.bits[i] != nullptr && (rows.bits[i][fresh / 8] >> (fresh % 8) & 1) != 0;
  return hn::LoadU(DF(), sees);
}

// ---- softmax of a panel

// One vector of rows: s holds n tokens' scores, `width` apart; they become weights.
template <uint32_t NV>
RADIX_INLINE void softmax_lanes(const AttentionParams& p, const KvTile& tile, uint32_t n, bool edge,
                                VF slope, const TreeRows& tree, const int32_t* at, float* s,
                                float* m, float* l, float* alpha) {
  const DF d;
  const DI di;
  constexpr uint32_t kWidth = NV * kLanes;
  const auto position = hn::LoadU(di, at);
  VF top = hn::LoadU(d, m);
  const VF m_old = top;
  if (edge || p.softcap > 0.f || p.alibi_slopes != nullptr) {
    const VF cap = hn::Set(d, p.softcap * kLog2e);
    const auto window = hn::Set(di, static_cast<int32_t>(window_of(p)));
    for (uint32_t t = 0; t < n; ++t) {
      const auto j = hn::Set(di, static_cast<int32_t>(tile.position + t));
      const auto distance = hn::Sub(position, j);
      VF x = hn::LoadU(d, s + t * kWidth);
      if (p.softcap > 0.f) x = hn::Mul(cap, tanh_f32(x));
      x = hn::NegMulAdd(slope, hn::ConvertTo(d, distance), x);
      const auto token = static_cast<int32_t>(tile.position + t);
      const auto ahead = token >= tree.first_new
                             ? hn::Gt(tree_sees(tree, token), hn::Zero(d))
                             : hn::RebindMask(d, hn::Gt(distance, hn::Set(di, -1)));
      const auto seen = hn::And(ahead, hn::RebindMask(d, hn::Lt(distance, window)));
      x = hn::IfThenElse(seen, x, hn::Set(d, kMinusInf));
      hn::StoreU(x, d, s + t * kWidth);
      top = hn::Max(top, x);
    }
  } else {
    for (uint32_t t = 0; t < n; ++t) top = hn::Max(top, hn::LoadU(d, s + t * kWidth));
  }
  // A row that has seen nothing keeps m = -inf; 0 stands in for it, because inf - inf is NaN.
  const VF shift = hn::IfThenElse(hn::Eq(top, hn::Set(d, kMinusInf)), hn::Zero(d), top);
  const VF shrink = exp2_f32(hn::Sub(m_old, shift));
  VF sum = hn::Mul(shrink, hn::LoadU(d, l));
  for (uint32_t t = 0; t < n; ++t) {
    const VF e = exp2_f32(hn::Sub(hn::LoadU(d, s + t * kWidth), shift));
    hn::StoreU(e, d, s + t * kWidth);
    sum = hn::Add(sum, e);
  }
  hn::StoreU(top, d, m);
  hn::StoreU(sum, d, l);
  hn::StoreU(shrink, d, alpha);
}

// ALiBi slopes (base 2) of kLanes rows from stacked row `row`; zeros without ALiBi.
RADIX_INLINE VF slopes(const AttentionParams& p, const PrefillItem& item, uint32_t row) {
  alignas(64) float x[kLanes];
  const uint32_t group = p.num_q_heads / p.num_kv_heads;
  for (uint32_t i = 0; i < kLanes; ++i) {
    x[i] = p.alibi_slopes == nullptr
               ? 0.f
               : p.alibi_slopes[item.kv_head * group + (row + i) % group] * kLog2e;
  }
  return hn::LoadU(DF(), x);
}

// ---- one tile and one panel

// Scores of the tile's first n tokens (rounded up to kBroadcasts), in units of log 2.
template <uint32_t NV>
RADIX_INLINE void panel_scores(const AttentionParams& p, const float* q, uint32_t n,
                               const Scratch& s) {
  constexpr uint32_t kWidth = NV * kLanes;
  if (has_bf16_scores(p)) {
    const auto* k = reinterpret_cast<const uint32_t*>(s.k);
    const auto* pairs = reinterpret_cast<const uint32_t*>(q);
    for (uint32_t t = 0; t < n; t += kBroadcasts) {
      multiply_bf16<kBroadcasts, NV>(k + t * kTileStride, kTileStride, pairs, p.head_dim / 2,
                                     query_scale(p), s.s + t * kWidth);
    }
    return;
  }
  for (uint32_t t = 0; t < n; t += kBroadcasts) {
    multiply<NV, kTileStride, 1>(s.k + t * kTileStride, q, p.head_dim, nullptr, s.s + t * kWidth);
  }
}

template <uint32_t NV>
void panel_tile(const AttentionParams& p, const PrefillItem& item, const Panel& panel,
                const KvTile& tile, const Scratch& s) {
  constexpr uint32_t kWidth = NV * kLanes;
  const int32_t last = panel.last_key - static_cast<int32_t>(tile.position);
  if (last < 0) return;
  const uint32_t n =
      static_cast<uint32_t>(last) + 1 < tile.n ? static_cast<uint32_t>(last) + 1 : tile.n;
  const int64_t end = int64_t{tile.position} + tile.n;
  const int64_t window = window_of(p);
  if (end <= int64_t{panel.min_position} - window + 1) return;
  const bool edge = int64_t{tile.position} + n - 1 > panel.sees_to ||
                    int64_t{tile.position} <= int64_t{panel.max_position} - window ||
                    panel.first + kWidth > item.row_end - item.row_begin;

  const float* q = s.q + uint64_t{panel.first} * p.head_dim;
  float* o = s.o + uint64_t{panel.first} * p.head_dim_v;
  panel_scores<NV>(p, q, n, s);
  for (uint32_t v = 0; v < NV; ++v) {
    const uint32_t row = panel.first + v * static_cast<uint32_t>(kLanes);
    softmax_lanes<NV>(p, tile, n, edge, slopes(p, item, item.row_begin + row),
                      tree_rows(p, item, item.row_begin + row), s.at + row, s.s + v * kLanes,
                      s.m + row, s.l + row, s.alpha + row);
  }
  for (uint32_t i = 0; i < p.head_dim_v; i += kBroadcasts) {
    multiply<NV, 1, kTileStride>(s.v + i, s.s, n, s.alpha + panel.first, o + i * kWidth);
  }
}

// ---- unpacking

// One row of `dim` elements: to floats, or (kRaw, 16-bit elements) as it lies.
template <class T, bool kRaw>
RADIX_INLINE void unpack_row(const T* from, uint32_t dim, float* to) {
  if constexpr (kRaw) {
    __builtin_memcpy(to, from, dim * sizeof(T));
  } else {
    row_to_f32(from, to, dim);
  }
}

template <class T, bool kRaw = false>
void unpack_rows(const AttentionParams& p, const PagedTensor& from, uint32_t dim,
                 const PrefillItem& item, const KvTile& tile, float* to) {
  const int32_t* blocks = block_row(p.blocks, item.seq);
  const T* base = static_cast<const T*>(from.data) + int64_t{item.kv_head} * from.head_stride;
  uint32_t t = 0;
  for (; t < tile.n; ++t) {
    const uint32_t j = tile.position + t;
    const int64_t at =
        blocks[j / p.block_size] * from.block_stride + (j % p.block_size) * from.token_stride;
    unpack_row<T, kRaw>(base + at, dim, to + t * kTileStride);
  }
  for (; t % 8 != 0; ++t) {
    for (uint32_t i = 0; i < dim; ++i) to[t * kTileStride + i] = 0.f;
  }
}

void unpack(const AttentionParams& p, const PagedTensor& from, uint32_t dim,
            const PrefillItem& item, const KvTile& tile, float* to) {
  if (from.dtype == RADIX_F32) unpack_rows<F32>(p, from, dim, item, tile, to);
  if (from.dtype == RADIX_F16) unpack_rows<F16>(p, from, dim, item, tile, to);
  if (from.dtype == RADIX_BF16) unpack_rows<BF16>(p, from, dim, item, tile, to);
}

// ---- the item

// Where stacked row `row` of the sequence stands.
RADIX_INLINE int32_t row_position(const AttentionParams& p, const PrefillItem& item, uint32_t row) {
  const int32_t q_len = p.cu_q_lens[item.seq + 1] - p.cu_q_lens[item.seq];
  return p.context_lens[item.seq] - q_len +
         static_cast<int32_t>(row / (p.num_q_heads / p.num_kv_heads));
}

// Cuts the panel that begins at row `first` of the item: narrow when few rows are left.
Panel make_panel(const AttentionParams& p, const PrefillItem& item, uint32_t first) {
  const uint32_t left = item.row_end - item.row_begin - first;
  Panel panel;
  panel.first = first;
  panel.vectors = left <= kLanes ? 1 : left <= 2 * kLanes ? 2 : kVectors;
  const auto width = panel.vectors * static_cast<uint32_t>(kLanes);
  panel.min_position = row_position(p, item, item.row_begin + first);
  panel.max_position =
      row_position(p, item, item.row_begin + first + (left < width ? left : width) - 1);
  panel.sees_to = panel.min_position;
  panel.last_key = panel.max_position;
  if (p.tree_mask != nullptr) {
    panel.sees_to = row_position(p, item, 0) - 1;
    panel.last_key = p.context_lens[item.seq] - 1;
  }
  return panel;
}

// One query row into column `i` of a panel of `width` rows: scaled floats, or raw pairs of bf16.
void place_query(const AttentionParams& p, int64_t query, uint32_t head, uint32_t width, float* q,
                 uint32_t i) {
  alignas(64) float row[256];
  uint32_t n = p.head_dim;
  if (has_bf16_scores(p)) {
    const auto* from = static_cast<const BF16*>(p.q.data) + query * p.q.row_stride +
                       int64_t{head} * p.q.head_stride;
    __builtin_memcpy(row, from, p.head_dim * sizeof(BF16));
    n /= 2;
  } else {
    load_query(p, query, head, query_scale(p), row);
  }
  for (uint32_t e = 0; e < n; ++e) q[e * width + i] = row[e];
}

// Transposes the panel's queries and clears its state.
void begin_panel(const AttentionParams& p, const PrefillItem& item, const Panel& panel,
                 const Scratch& s) {
  const uint32_t group = p.num_q_heads / p.num_kv_heads;
  const auto width = panel.vectors * static_cast<uint32_t>(kLanes);
  float* q = s.q + uint64_t{panel.first} * p.head_dim;
  float* o = s.o + uint64_t{panel.first} * p.head_dim_v;
  for (uint32_t i = 0; i < p.head_dim * width; ++i) q[i] = 0.f;
  for (uint32_t i = 0; i < width; ++i) {
    const uint32_t stacked = item.row_begin + panel.first + i;
    const bool real = stacked < item.row_end;
    s.at[panel.first + i] = real ? row_position(p, item, stacked) : -1;
    s.m[panel.first + i] = kMinusInf;
    s.l[panel.first + i] = 0.f;
    if (real) {
      const int64_t query = int64_t{p.cu_q_lens[item.seq]} + stacked / group;
      place_query(p, query, item.kv_head * group + stacked % group, width, q, i);
    }
  }
  for (uint32_t i = 0; i < p.head_dim_v * width; ++i) o[i] = 0.f;
}

void finish_panel(const AttentionParams& p, const PrefillItem& item, const Panel& panel,
                  const Scratch& s) {
  const uint32_t group = p.num_q_heads / p.num_kv_heads;
  const auto width = panel.vectors * static_cast<uint32_t>(kLanes);
  const float* o = s.o + uint64_t{panel.first} * p.head_dim_v;
  alignas(64) float row[256];
  for (uint32_t e = p.head_dim_v; e < padded(p.head_dim_v); ++e) row[e] = 0.f;
  for (uint32_t i = 0; i < width && item.row_begin + panel.first + i < item.row_end; ++i) {
    const uint32_t stacked = item.row_begin + panel.first + i;
    for (uint32_t e = 0; e < p.head_dim_v; ++e) row[e] = o[e * width + i];
    const int64_t query = int64_t{p.cu_q_lens[item.seq]} + stacked / group;
    finish_row(p, query, item.kv_head * group + stacked % group, row, s.m[panel.first + i],
               s.l[panel.first + i]);
  }
}

void run_panel(const AttentionParams& p, const PrefillItem& item, const Panel& panel,
               const KvTile& tile, const Scratch& s) {
  if (panel.vectors == 1) return panel_tile<1>(p, item, panel, tile, s);
  if (panel.vectors == 2) return panel_tile<2>(p, item, panel, tile, s);
  panel_tile<kVectors>(p, item, panel, tile, s);
}

}  // namespace

void prefill_item(const PrefillJob& job, const PrefillItem& item, void* scratch) {
  const AttentionParams& p = *job.params;
  const Scratch s = carve(p, scratch);
  const uint32_t rows = item.row_end - item.row_begin;
  const auto step = kVectors * static_cast<uint32_t>(kLanes);
  for (uint32_t r = 0; r < rows; r += step) begin_panel(p, item, make_panel(p, item, r), s);

  const int32_t first_row = row_position(p, item, item.row_begin);
  const int32_t end = p.tree_mask != nullptr
                          ? p.context_lens[item.seq]
                          : row_position(p, item, item.row_end - 1) + 1;  // keys [begin, end)
  const int64_t begin = p.window == 0 ? 0 : int64_t{first_row} - p.window + 1;
  KvTile tile;
  for (int64_t j = begin < 0 ? 0 : begin; j < end; j = int64_t{tile.position} + tile.n) {
    tile.position = static_cast<uint32_t>(j);
    const uint32_t stop = (tile.position / kPrefillTile + 1) * kPrefillTile;
    tile.n =
        (stop < static_cast<uint32_t>(end) ? stop : static_cast<uint32_t>(end)) - tile.position;
    if (has_bf16_scores(p)) {
      unpack_rows<BF16, true>(p, p.k, p.head_dim, item, tile, s.k);
    } else {
      unpack(p, p.k, p.head_dim, item, tile, s.k);
    }
    unpack(p, p.v, p.head_dim_v, item, tile, s.v);
    for (uint32_t r = 0; r < rows; r += step) run_panel(p, item, make_panel(p, item, r), tile, s);
  }
  for (uint32_t r = 0; r < rows; r += step) finish_panel(p, item, make_panel(p, item, r), s);
}

}  // namespace RADIX_CPU_TARGET_NS
}  // namespace radixattn
