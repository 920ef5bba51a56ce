// Attention over paged K/V in f32, decode and prefill alike, on plain multiply-adds: tensor cores
// would round. Correct for every shape; for speed, keep K/V in 16 bits.
//
// Work split. A block has kRows stacked rows (see prefill.cu) of one KV head of one sequence and
// walks their keys in tiles of kTile tokens. A warp has four rows: for the scores its lanes are 16
// tokens of two rows each, for the values they are the elements of o.
//
// Shared memory: q [kRows][dim + 1], K and V [kTile][dim + 1] (the odd stride spares bank
// conflicts), weights [kRows][kTile].
#include "cuda/kernels.h"
#include "cuda/kernels/attention_tile.h"

namespace radixattn::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kRows = 16;
constexpr int kWarpRows = kRows / kWarps;
constexpr int kTile = 16;
constexpr int kMaxPerLane = 8;  // elements of o: head dims up to 256

// One row of a warp; every lane of the warp holds the same but for o.
struct Row {
  bool real;
  int32_t position;
  uint32_t head;
  int64_t query;
  float slope, m, l;
  float o[kMaxPerLane];
};

struct Work {
  BlockMath math;
  const int32_t* blocks;
  uint32_t kv_head;
  int32_t shift;       // position of the sequence's first query row
  int32_t begin, end;  // keys that some row may see
};

RADIX_DEVICE bool sees(const AttentionParams& p, const Work& w, const Row& row, int32_t key) {
  if (!row.real || key >= w.end) return false;
  const int64_t distance = int64_t{row.position} - key;
  if (p.window != 0 && distance >= int64_t{p.window}) return false;
  if (p.tree_mask == nullptr) return distance >= 0;
  const int32_t fresh = key - w.shift;
  if (fresh < 0) return true;
  return (p.tree_mask[row.query * p.tree_mask_stride + fresh / 8] >> (fresh % 8) & 1) != 0;
}

// Tokens [first, first + kTile) of K and V to shared memory; zeros for those that do not exist.
RADIX_DEVICE void load_tile(const AttentionParams& p, const Work& w, int32_t first, float* k,
                            float* v, int* exists) {
  for (int r = static_cast<int>(threadIdx.x) / 32; r < kTile; r += kWarps) {
    const int32_t position = first + r;
    RowOffsets offsets = {-1, -1};
    if (position >= w.begin && position < w.end)
      offsets = row_offsets(p, w.math, w.blocks, static_cast<uint32_t>(position), w.kv_head);
    const bool valid = offsets.k >= 0;
    if (threadIdx.x % 32 == 0) exists[r] = valid ? 1 : 0;
    for (uint32_t e = threadIdx.x % 32; e < p.head_dim; e += 32)
      k[r * (p.head_dim + 1) + e] =
          valid ? static_cast<const float*>(p.k.data)[offsets.k + e] : 0.f;
    for (uint32_t e = threadIdx.x % 32; e < p.head_dim_v; e += 32)
      v[r * (p.head_dim_v + 1) + e] =
          valid ? static_cast<const float*>(p.v.data)[offsets.v + e] : 0.f;
  }
}

// Scores of the warp's rows and the tile, then their weights, to `weights` [kWarpRows][kTile].
RADIX_DEVICE void tile_weights(const AttentionParams& p, const Work& w, const ScoreRule& rule,
                               int32_t first, const float* q, const float* k, const int* exists,
                               Row (&rows)[kWarpRows], float* weights) {
  const int lane = threadIdx.x % 32, token = lane % kTile;
  RADIX_UNROLL
  for (int pass = 0; pass < kWarpRows / 2; ++pass) {
    const int mine = pass * 2 + lane / kTile;  // row of this half of the warp
    float dot = 0.f;
    for (uint32_t e = 0; e < p.head_dim; ++e)
      dot += q[mine * (p.head_dim + 1) + e] * k[token * (p.head_dim + 1) + e];
    float x = rule.score(dot);
    RADIX_UNROLL
    for (int r = 0; r < kWarpRows; ++r) {  // the row is known at compile time in here
      if (r / 2 != pass) continue;
      const bool visible = exists[token] != 0 && sees(p, w, rows[r], first + token);
      const float biased =
          visible ? x + rows[r].slope * static_cast<float>(first + token - rows[r].position)
                  : -INFINITY;
      float top = r % 2 == lane / kTile ? biased : -INFINITY;
      top = fmaxf(warp_max<32>(top), rows[r].m);
      const float weight = r % 2 == lane / kTile ? shrink(biased, top) : 0.f;
      const float alpha = shrink(rows[r].m, top);
      rows[r].l = rows[r].l * alpha + warp_sum<32>(weight);
      rows[r].m = top;
      RADIX_UNROLL
      for (int i = 0; i < kMaxPerLane; ++i) rows[r].o[i] *= alpha;
      if (r % 2 == lane / kTile) weights[r * kTile + token] = weight;
    }
  }
}

RADIX_DEVICE void add_values(const AttentionParams& p, const float* v, const float* weights,
                             Row (&rows)[kWarpRows]) {
  for (int t = 0; t < kTile; ++t) {
    RADIX_UNROLL
    for (int i = 0; i < kMaxPerLane; ++i) {
      const uint32_t e = threadIdx.x % 32 + i * 32;
      if (e >= p.head_dim_v) continue;
      const float x = v[t * (p.head_dim_v + 1) + e];
      RADIX_UNROLL
      for (int r = 0; r < kWarpRows; ++r) rows[r].o[i] += weights[r * kTile + t] * x;
    }
  }
}

// NOTE: -0 does not show, which tiles that only other rows of the block see may turn to 0.
RADIX_DEVICE void write_row(const AttentionParams& p, float v_scale, const Row& row) {
  if (!row.real) return;
  const RowEnd end = end_of_row(p, row.head, row.m, row.l);
  RADIX_UNROLL
  for (int i = 0; i < kMaxPerLane; ++i) {
    const uint32_t e = threadIdx.x % 32 + i * 32;
    if (e < p.head_dim_v)
      store_number(p.out.data, p.out.dtype,
                   row.query * p.out.row_stride + row.head * p.out.head_stride + e,
                   add_rn(row.o[i] * end.factor * v_scale, 0.f));
  }
  if (p.lse != nullptr && threadIdx.x % 32 == 0)
    p.lse[row.query * p.lse_row_stride + row.head * p.lse_head_stride] = end.lse;
}

// grid (stacked rows of the longest sequence / kRows, num_kv_heads, num_seqs)
__global__ void __launch_bounds__(kThreads)
    attention_f32_kernel(const __grid_constant__ AttentionParams p,
                         const __grid_constant__ BlockMath math) {
  RADIX_DYN_SMEM(smem);
  auto* q = reinterpret_cast<float*>(smem);
  float* k = q + kRows * (p.head_dim + 1);
  float* v = k + kTile * (p.head_dim + 1);
  float* weights = v + kTile * (p.head_dim_v + 1);
  auto* exists = reinterpret_cast<int*>(weights + kRows * kTile);

  const uint32_t seq = blockIdx.z, group = p.num_q_heads / p.num_kv_heads;
  const Queries queries = queries_of(p, seq);
  const int64_t first_query = queries.first;
  const int32_t q_len = queries.num;
  const int64_t all_rows = int64_t{q_len} * group, first_row = int64_t{blockIdx.x} * kRows;
  if (first_row >= all_rows) return;
  const int32_t num_rows =
      static_cast<int32_t>(all_rows - first_row < kRows ? all_rows - first_row : kRows);
  const BlockRow table = block_row(p, seq);
  const int32_t context = context_of(p, seq, table);
  Work w = {math, table.ids, blockIdx.y, context - q_len, 0, context};
  const int32_t low = w.shift + static_cast<int32_t>(first_row / group);
  const int32_t high = w.shift + static_cast<int32_t>((first_row + num_rows - 1) / group);
  if (p.tree_mask == nullptr && high + 1 < w.end) w.end = high + 1;
  if (p.window != 0 && int64_t{low} - p.window + 1 > 0)
    w.begin = static_cast<int32_t>(int64_t{low} - p.window + 1);

  const int warp = threadIdx.x / 32;
  Row rows[kWarpRows];
  RADIX_UNROLL
  for (int r = 0; r < kWarpRows; ++r) {
    const int i = warp * kWarpRows + r;
    const auto stacked = static_cast<uint32_t>(first_row + i);
    Row& row = rows[r];
    row.real = i < num_rows;
    row.position = w.shift + static_cast<int32_t>(stacked / group);
    row.head = w.kv_head * group + stacked % group;
    row.query = first_query + stacked / group;
    row.slope = row.real ? slope_of(p, row.head) : 0.f;
    row.m = -INFINITY, row.l = 0.f;
    RADIX_UNROLL
    for (int e = 0; e < kMaxPerLane; ++e) row.o[e] = 0.f;
    for (uint32_t e = threadIdx.x % 32; e < p.head_dim; e += 32) {
      const int64_t at = row.query * p.q.row_stride + row.head * p.q.head_stride + e;
      q[i * (p.head_dim + 1) + e] = row.real ? load_number(p.q.data, p.q.dtype, at) : 0.f;
    }
  }
  const ScoreRule rule = score_rule(p, w.kv_head);
  float* mine = weights + warp * kWarpRows * kTile;
  for (int32_t first = w.begin / kTile * kTile; first < w.end; first += kTile) {
    load_tile(p, w, first, k, v, exists);
    __syncthreads();
    tile_weights(p, w, rule, first, q + warp * kWarpRows * (p.head_dim + 1), k, exists, rows, mine);
    __syncwarp();  // the warp's weights
    add_values(p, v, mine, rows);
    __syncthreads();  // everybody is done with the tile
  }
  RADIX_UNROLL
  for (int r = 0; r < kWarpRows; ++r) write_row(p, scale_of(p.v_scale, p, w.kv_head), rows[r]);
}

}  // namespace

Error launch_attention_f32(const AttentionParams& p, Stream stream) {
  const uint32_t q_len = p.cu_q_lens != nullptr ? p.max_query_len : 1;
  if (p.num_seqs == 0 || q_len == 0) return 0;
  const uint64_t stacked = uint64_t{q_len} * (p.num_q_heads / p.num_kv_heads);
  const size_t floats = size_t{kRows + kTile} * (p.head_dim + 1) +
                        size_t{kTile} * (p.head_dim_v + 1) + kRows * kTile + kTile;
  const dim3 grid(static_cast<unsigned>((stacked + kRows - 1) / kRows), p.num_kv_heads, p.num_seqs);
  const BlockMath math = {p.block_size, block_shift(p.block_size)};
  return RADIX_LAUNCH(attention_f32_kernel, grid, dim3(kThreads), floats * 4, stream, p, math);
}

}  // namespace radixattn::cuda
