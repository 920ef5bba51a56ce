// Prefill: causal attention of variable-length query rows over paged K/V (cached prefix and new
// tokens alike), on tensor cores. FlashAttention-2's loop (Dao 2023) with the paging and the
// packing of grouped heads that a KV cache wants.
//
// Work split. A block has kBlockRows stacked rows of one KV head of one sequence: stacked row i is
// query head kv_head*group + i % group of query token i / group, so that all query heads of a KV
// head share the K/V tiles, and short prompts fill the tile, too. Four warps of 16 rows each; tiles
// of N tokens, two in shared memory: one is computed with while the next one arrives.
//
//            tokens 0..N        N..2N       2N..3N
//   rows   +-----------+-----------+-----------+
//   warp 0 |           |        \  |   skipped |     S = Q K^T, m' = max(m, max S), P = 2^(S - m')
//   warp 1 |   whole   |    edge  \|           |     l = l 2^(m - m') + sum P
//   warp 2 |           |           |\          |     O = O 2^(m - m') + P V
//   warp 3 |           |           |   \       |     (P stays in registers: the sums of the first
//          +-----------+-----------+-----------+      product are the operands of the second)
//
// Only edge tiles are masked: those that the diagonal, the window, a tree mask, or a block id that
// names no block crosses. fp8 K and V become f16 on the way into shared memory, where both products
// find 16-bit numbers.
//
// Shared memory: q [64][D], then for each stage (two; one where two are too many) K [N][D] and V
// [N][D], all 16-bit and swizzled, then which tokens of the stage exist.
#include "cuda/kernels.h"
#include "cuda/kernels/attention_tile.h"

namespace radixattn::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kBlockRows = 16 * kWarps;

struct Launch {
  BlockMath math;
  bool aligned;    // K and V rows
  bool q_aligned;  // and of the compute type
};

template <class T, int D, int N>
struct Geometry {
  using Compute = typename ComputeOf<T>::Type;
  static constexpr int kPieces = D / 8;  // of a row in shared memory
  static constexpr int kQueryBytes = kBlockRows * D * 2;
  static constexpr int kTileBytes = N * D * 2;  // of K, or of V
  static constexpr int kWarpRows = N / kWarps;  // tokens that a warp brings in
  static constexpr int kStages = N > 16 ? 2 : 1;
  static constexpr int kSeenBytes = kStages * kWarps * 4;
  static constexpr int kBytes = kQueryBytes + kStages * 2 * kTileBytes + kSeenBytes;
};

// What a block works on.
struct Work {
  const int32_t* blocks;
  uint32_t seq, kv_head, group;
  int64_t first_query;  // row of q and out of the sequence's first query token
  uint32_t first_row;   // stacked, of the block
  uint32_t num_rows;    // of the block, at least 1
  int32_t shift;        // position of the first query token: context - q_len
  int32_t low, high;    // positions of the block's first and last row
  int32_t begin, end;   // keys that some row may see
};

// The rows of a thread: g and g + 8 of its warp's 16, g = lane / 4.
struct Rows {
  int32_t position[2];  // below every key for rows that do not exist
  uint32_t head[2];
  int64_t query[2];
  bool real[2];
};

RADIX_DEVICE Rows rows_of(const Work& w) {
  Rows rows;
  RADIX_UNROLL
  for (int r = 0; r < 2; ++r) {
    const uint32_t i = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + r * 8;
    const uint32_t stacked = w.first_row + i, token = stacked / w.group;
    rows.real[r] = i < w.num_rows;
    rows.position[r] = rows.real[r] ? w.shift + static_cast<int32_t>(token) : -1;
    rows.head[r] = w.kv_head * w.group + stacked % w.group;
    rows.query[r] = w.first_query + token;
  }
  return rows;
}

// ---- bringing tiles in --------------------------------------------------------------------------

// Piece c (8 numbers) of a row, in 16 bits, to `to`.
template <class T>
RADIX_DEVICE void load_compute_piece(void* to, const T* row, int c, uint32_t dim, bool valid,
                                     bool aligned) {
  if constexpr (sizeof(T) == 2) {
    load_piece(to, row, c, dim, valid, aligned);
  } else {
    uint8_t bytes[8] = {};
    if (valid && static_cast<uint32_t>(c * 8) < dim) {  // dims are multiples of 8
      if (aligned) {
        memcpy(bytes, __builtin_assume_aligned(row + c * 8, 8), 8);
      } else {
        RADIX_UNROLL
        for (int i = 0; i < 8; ++i) bytes[i] = row[c * 8 + i].bits;
      }
    }
    uint32_t words[4];
    RADIX_UNROLL
    for (int i = 0; i < 4; ++i) {
      words[i] = fp8x2_to_half2(static_cast<uint16_t>(bytes[2 * i] | bytes[2 * i + 1] << 8), T{});
    }
    store_piece(to, words);
  }
}

// Tokens [first, first + N) to K at `k` and V behind it, each warp its share; zeros for tokens that
// do not exist. A warp's word of `seen` says which of its tokens do.
template <class T, int D, int N>
RADIX_DEVICE void load_tile(const AttentionParams& p, const Launch& launch, const Work& w,
                            int32_t first, unsigned char* k, uint32_t* seen) {
  using G = Geometry<T, D, N>;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int32_t position = first + warp * G::kWarpRows + lane;
  RowOffsets offsets = {-1, -1};
  if (lane < G::kWarpRows && position >= w.begin && position < w.end)
    offsets = row_offsets(p, launch.math, w.blocks, static_cast<uint32_t>(position), w.kv_head);
  const uint32_t exist = __ballot_sync(kFullWarp, offsets.k >= 0);
  if (lane == 0) seen[warp] = exist;
  unsigned char* v = k + G::kTileBytes;
  const int k_pieces = (static_cast<int>(p.head_dim) + 15) / 16 * 2;  // products take 16 at a time
  const int v_pieces = (static_cast<int>(p.head_dim_v) + 15) / 16 * 2;
  constexpr int kLanesPerRow = G::kPieces < 32 ? G::kPieces : 32;
  const int c = lane % kLanesPerRow;
  const auto bring = [&](int i, bool aligned) {
    const int r = i + lane / kLanesPerRow;
    const int64_t at_k = __shfl_sync(kFullWarp, static_cast<long long>(offsets.k), r);
    const int64_t at_v = __shfl_sync(kFullWarp, static_cast<long long>(offsets.v), r);
    const bool valid = at_k >= 0;
    const int place = swizzled<G::kPieces>(warp * G::kWarpRows + r, c) * 16;
    if (c < k_pieces)
      load_compute_piece(k + place, static_cast<const T*>(p.k.data) + (valid ? at_k : 0), c,
                         p.head_dim, valid, aligned);
    if (c < v_pieces)
      load_compute_piece(v + place, static_cast<const T*>(p.v.data) + (valid ? at_v : 0), c,
                         p.head_dim_v, valid, aligned);
  };
  if (launch.aligned) {
    RADIX_UNROLL
    for (int i = 0; i < G::kWarpRows; i += 32 / kLanesPerRow) bring(i, true);
  } else {
    RADIX_ROLLED
    for (int i = 0; i < G::kWarpRows; i += 32 / kLanesPerRow) bring(i, false);
  }
}

// The block's query rows in the compute type; zeros for rows that do not exist and past head_dim.
template <class T, int D, int N>
RADIX_DEVICE void load_queries(const AttentionParams& p, const Launch& launch, const Work& w,
                               unsigned char* q) {
  using G = Geometry<T, D, N>;
  using C = typename G::Compute;
  const int pieces = (static_cast<int>(p.head_dim) + 15) / 16 * 2;
  for (int i = static_cast<int>(threadIdx.x); i < kBlockRows * pieces; i += kThreads) {
    const int r = i / pieces, c = i % pieces;
    const uint32_t stacked = w.first_row + r;
    const bool real = static_cast<uint32_t>(r) < w.num_rows;
    const int64_t at = (w.first_query + stacked / w.group) * p.q.row_stride +
                       (w.kv_head * w.group + stacked % w.group) * p.q.head_stride;
    unsigned char* to = q + swizzled<G::kPieces>(r, c) * 16;
    if (launch.q_aligned) {
      load_piece(to, static_cast<const C*>(p.q.data) + (real ? at : 0), c, p.head_dim, real, true);
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
    store_piece(to, words);
  }
}

// ---- one tile -----------------------------------------------------------------------------------

template <int D>
struct State {
  float o[D / 8][4];
  float m[2], l[2];
};

template <class T, int D, int N>
RADIX_DEVICE void scores(const AttentionParams& p, const unsigned char* q, const unsigned char* k,
                         float (&s)[N / 8][4]) {
  using G = Geometry<T, D, N>;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  RADIX_UNROLL
  for (int n = 0; n < N / 8; ++n) {
    RADIX_UNROLL
    for (int i = 0; i < 4; ++i) s[n][i] = 0.f;
  }
  RADIX_UNROLL
  for (int step = 0; step < D / 16; ++step) {
    if (static_cast<uint32_t>(step * 16) >= p.head_dim) break;
    uint32_t a[4];
    ldmatrix_x4(a, q + swizzled<G::kPieces>(warp * 16 + lane % 16, step * 2 + lane / 16) * 16);
    RADIX_UNROLL
    for (int n = 0; n < N / 16; ++n) {
      uint32_t b[4];
      ldmatrix_x4(
          b, k + swizzled<G::kPieces>(n * 16 + lane % 8 + lane / 16 * 8, step * 2 + lane / 8 % 2) *
                     16);
      mma_m16n8k16<typename G::Compute>(s[2 * n], a, b[0], b[1]);
      mma_m16n8k16<typename G::Compute>(s[2 * n + 1], a, b[2], b[3]);
    }
  }
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
  return (p.tree_mask[rows.query[r] * p.tree_mask_stride + fresh / 8] >> (fresh % 8) & 1) != 0;
}

// Some row does not see some token of the tile.
template <int N>
RADIX_DEVICE bool is_edge(const AttentionParams& p, const Work& w, int32_t first,
                          const uint32_t* seen) {
  constexpr uint32_t kAll = (1u << (N / kWarps)) - 1;
  bool whole = w.num_rows == kBlockRows && first >= w.begin && first + N <= w.end;
  RADIX_UNROLL
  for (int i = 0; i < kWarps; ++i) whole = whole && seen[i] == kAll;
  if (p.tree_mask != nullptr) whole = whole && first + N <= w.shift;
  whole = whole && first + N - 1 <= w.low;
  if (p.window != 0) whole = whole && int64_t{first} > int64_t{w.high} - p.window;
  return !whole;
}

// Dot products to weights of the running maximum; o and l follow it.
template <int D, int N>
RADIX_DEVICE void softmax(const AttentionParams& p, const Work& w, const Rows& rows,
                          const ScoreRule& rule, const float (&slope)[2], int32_t first,
                          const uint32_t* seen, float (&s)[N / 8][4], State<D>* state) {
  const bool edge = is_edge<N>(p, w, first, seen);
  RADIX_UNROLL
  for (int r = 0; r < 2; ++r) {
    float top = state->m[r];
    RADIX_UNROLL
    for (int n = 0; n < N / 8; ++n) {
      RADIX_UNROLL
      for (int i = 0; i < 2; ++i) {
        const int token = n * 8 + static_cast<int>(threadIdx.x) % 4 * 2 + i;
        float& x = s[n][2 * r + i];
        x = rule.score(x) + slope[r] * static_cast<float>(first + token - rows.position[r]);
        if (edge) {
          const bool exists = (seen[token / (N / kWarps)] >> (token % (N / kWarps)) & 1) != 0;
          if (!exists || !sees(p, w, rows, r, first + token)) x = -INFINITY;
        }
        top = fmaxf(top, x);
      }
    }
    top = warp_max<4>(top);
    const float alpha = shrink(state->m[r], top);
    float sum = 0.f;
    RADIX_UNROLL
    for (int n = 0; n < N / 8; ++n) {
      RADIX_UNROLL
      for (int i = 0; i < 2; ++i) {
        s[n][2 * r + i] = shrink(s[n][2 * r + i], top);
        sum += s[n][2 * r + i];
      }
    }
    state->l[r] = state->l[r] * alpha + sum;
    state->m[r] = top;
    RADIX_UNROLL
    for (int n = 0; n < D / 8; ++n) {
      state->o[n][2 * r] *= alpha;
      state->o[n][2 * r + 1] *= alpha;
    }
  }
}

template <class T, int D, int N>
RADIX_DEVICE void values(const AttentionParams& p, const unsigned char* v,
                         const float (&s)[N / 8][4], State<D>* state) {
  using G = Geometry<T, D, N>;
  using C = typename G::Compute;
  const int lane = threadIdx.x % 32;
  RADIX_UNROLL
  for (int n = 0; n < N / 16; ++n) {
    const uint32_t a[4] = {Pair<C>::pack(s[2 * n][0], s[2 * n][1]),
                           Pair<C>::pack(s[2 * n][2], s[2 * n][3]),
                           Pair<C>::pack(s[2 * n + 1][0], s[2 * n + 1][1]),
                           Pair<C>::pack(s[2 * n + 1][2], s[2 * n + 1][3])};
    RADIX_UNROLL
    for (int step = 0; step < D / 16; ++step) {
      if (static_cast<uint32_t>(step * 16) >= p.head_dim_v) break;
      uint32_t b[4];
      ldmatrix_x4_trans(b, v + swizzled<G::kPieces>(n * 16 + lane % 16, step * 2 + lane / 16) * 16);
      mma_m16n8k16<C>(state->o[2 * step], a, b[0], b[1]);
      mma_m16n8k16<C>(state->o[2 * step + 1], a, b[2], b[3]);
    }
  }
}

// ---- the end ------------------------------------------------------------------------------------

template <int D>
RADIX_DEVICE void write_rows(const AttentionParams& p, const Rows& rows, float v_scale,
                             const State<D>& state) {
  RADIX_UNROLL
  for (int r = 0; r < 2; ++r) {
    const float l = warp_sum<4>(state.l[r]);
    if (!rows.real[r]) continue;
    const RowEnd end = end_of_row(p, rows.head[r], state.m[r], l);
    const int64_t at = rows.query[r] * p.out.row_stride + rows.head[r] * p.out.head_stride;
    RADIX_UNROLL
    for (int n = 0; n < D / 8; ++n) {
      RADIX_UNROLL
      for (int i = 0; i < 2; ++i) {
        const int e = n * 8 + static_cast<int>(threadIdx.x) % 4 * 2 + i;
        if (static_cast<uint32_t>(e) < p.head_dim_v)
          store_number(p.out.data, p.out.dtype, at + e,
                       state.o[n][2 * r + i] * end.factor * v_scale);
      }
    }
    if (p.lse != nullptr && threadIdx.x % 4 == 0)
      p.lse[rows.query[r] * p.lse_row_stride + rows.head[r] * p.lse_head_stride] = end.lse;
  }
}

// ---- the kernel ---------------------------------------------------------------------------------

// False when the block has no rows.
RADIX_DEVICE bool find_work(const AttentionParams& p, Work* w) {
  w->seq = blockIdx.z;
  w->kv_head = blockIdx.y;
  w->group = p.num_q_heads / p.num_kv_heads;
  w->first_query = p.cu_q_lens[w->seq];
  const int32_t q_len = p.cu_q_lens[w->seq + 1] - p.cu_q_lens[w->seq];
  if (q_len <= 0) return false;
  const int64_t all_rows = int64_t{q_len} * w->group;
  const int64_t first = int64_t{gridDim.x - 1 - blockIdx.x} * kBlockRows;  // the longest rows first
  if (first >= all_rows) return false;
  w->first_row = static_cast<uint32_t>(first);
  w->num_rows =
      static_cast<uint32_t>(all_rows - first < kBlockRows ? all_rows - first : kBlockRows);
  const BlockRow row = block_row(p, w->seq);
  const int32_t context = context_of(p, w->seq, row);
  w->blocks = row.ids;
  w->shift = context - q_len;
  w->low = w->shift + static_cast<int32_t>(w->first_row / w->group);
  w->high = w->shift + static_cast<int32_t>((w->first_row + w->num_rows - 1) / w->group);
  w->end = p.tree_mask != nullptr || w->high >= context ? context : w->high + 1;
  if (w->end < 0) w->end = 0;
  const int64_t oldest = p.window == 0 ? 0 : int64_t{w->low} - p.window + 1;
  w->begin = oldest < 0 ? 0 : static_cast<int32_t>(oldest);
  return true;
}

// grid (rows of the longest sequence / kBlockRows, num_kv_heads, num_seqs)
template <class T, int D, int N>
__global__ void __launch_bounds__(kThreads)
    prefill_kernel(const __grid_constant__ AttentionParams p,
                   const __grid_constant__ Launch launch) {
  using G = Geometry<T, D, N>;
  RADIX_DYN_SMEM(smem);
  unsigned char* q = smem;
  unsigned char* tiles = smem + G::kQueryBytes;
  auto* seen = reinterpret_cast<uint32_t*>(tiles + G::kStages * 2 * G::kTileBytes);
  Work w;
  if (!find_work(p, &w)) return;
  const int32_t first_tile = w.begin / N;
  const int32_t end_tile = w.end > w.begin ? (w.end - 1) / N + 1 : first_tile;

  load_queries<T, D, N>(p, launch, w, q);
  if (first_tile < end_tile) load_tile<T, D, N>(p, launch, w, first_tile * N, tiles, seen);
  cp_async_commit();
  const Rows rows = rows_of(w);
  const ScoreRule rule = score_rule(p, w.kv_head);
  float slope[2];
  State<D> state;
  RADIX_UNROLL
  for (int r = 0; r < 2; ++r) {
    slope[r] = rows.real[r] ? slope_of(p, rows.head[r]) : 0.f;
    state.m[r] = -INFINITY, state.l[r] = 0.f;
  }
  RADIX_UNROLL
  for (int n = 0; n < D / 8; ++n) {
    RADIX_UNROLL
    for (int i = 0; i < 4; ++i) state.o[n][i] = 0.f;
  }

  for (int32_t tile = first_tile; tile < end_tile; ++tile) {
    const int stage = (tile - first_tile) % G::kStages;
    unsigned char* k = tiles + stage * 2 * G::kTileBytes;
    const bool more = tile + 1 < end_tile;
    if constexpr (G::kStages == 2) {
      if (more)
        load_tile<T, D, N>(p, launch, w, (tile + 1) * N, tiles + (1 - stage) * 2 * G::kTileBytes,
                           seen + (1 - stage) * kWarps);
      cp_async_commit();
    }
    cp_async_wait<G::kStages - 1>();
    __syncthreads();  // the tile is there, for everybody
    float s[N / 8][4];
    scores<T, D, N>(p, q, k, s);
    softmax<D, N>(p, w, rows, rule, slope, tile * N, seen + stage * kWarps, s, &state);
    values<T, D, N>(p, k + G::kTileBytes, s, &state);
    __syncthreads();  // everybody is done with it
    if constexpr (G::kStages == 1) {
      if (more) load_tile<T, D, N>(p, launch, w, (tile + 1) * N, tiles, seen);
      cp_async_commit();
    }
  }
  cp_async_wait<0>();
  write_rows<D>(p, rows, scale_of(p.v_scale, p, w.kv_head), state);
}

// ---- the launch ---------------------------------------------------------------------------------

template <class T, int D, int N>
Error launch(const AttentionParams& p, Stream stream) {
  using G = Geometry<T, D, N>;
  constexpr int32_t kComputeDtype =
      std::is_same_v<typename G::Compute, Bf16> ? RADIX_BF16 : RADIX_F16;
  Launch launch = {};
  launch.math = {p.block_size, block_shift(p.block_size)};
  launch.aligned = sizeof(T) == 2 ? rows_are_aligned(p.k, p.head_dim, 2) &&
                                        rows_are_aligned(p.v, p.head_dim_v, 2)
                                  : rows_are_aligned(p.k, 16, 1) && rows_are_aligned(p.v, 16, 1);
  const PagedTensor rows = {p.q.data, p.q.dtype, 0, p.q.row_stride, p.q.head_stride};
  launch.q_aligned = p.q.dtype == kComputeDtype && rows_are_aligned(rows, p.head_dim, 2);
  const uint64_t stacked = uint64_t{p.max_query_len} * (p.num_q_heads / p.num_kv_heads);
  const dim3 grid(static_cast<unsigned>((stacked + kBlockRows - 1) / kBlockRows), p.num_kv_heads,
                  p.num_seqs);
  return RADIX_LAUNCH((prefill_kernel<T, D, N>), grid, dim3(kThreads),
                      static_cast<size_t>(G::kBytes), stream, p, launch);
}

// The longest tile that the device's shared memory holds twice, or the shortest one once.
template <class T>
Error launch_dim(const AttentionParams& p, const DeviceLimits& device, Stream stream) {
  const uint32_t dim = p.head_dim > p.head_dim_v ? p.head_dim : p.head_dim_v;
  const auto fits = [&](int bytes) {
    return static_cast<uint32_t>(bytes) <= device.smem_per_block;
  };
  if (dim <= 64) return launch<T, 64, 64>(p, stream);
  if (dim <= 128) {
    if (fits(Geometry<T, 128, 64>::kBytes)) return launch<T, 128, 64>(p, stream);
    return launch<T, 128, 32>(p, stream);
  }
  if (fits(Geometry<T, 256, 32>::kBytes)) return launch<T, 256, 32>(p, stream);
  return launch<T, 256, 16>(p, stream);
}

}  // namespace

Error launch_prefill(const AttentionParams& p, const DeviceLimits& device, Stream stream) {
  if (p.num_seqs == 0 || p.max_query_len == 0) return 0;
  switch (p.k.dtype) {
    case RADIX_F32:
      return launch_attention_f32(p, stream);
    case RADIX_F16:
      return launch_dim<Half>(p, device, stream);
    case RADIX_BF16:
      return launch_dim<Bf16>(p, device, stream);
    case RADIX_F8_E4M3:
      return launch_dim<E4m3>(p, device, stream);
    default:
      return launch_dim<E5m2>(p, device, stream);
  }
}

}  // namespace radixattn::cuda
