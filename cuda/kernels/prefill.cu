// Prefill: causal attention of variable-length query rows over paged K/V (cached prefix and new
// tokens alike), on tensor cores. FlashAttention-2's loop (Dao 2023) with the paging and the
// packing of grouped heads that a KV cache wants.
//
// Work split. A block has 64 stacked rows of one KV head of one sequence: stacked row i is
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
#include "cuda/kernels/prefill_rows.h"

namespace radixattn::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
static_assert(kThreads == kGroupThreads);

struct Launch {
  BlockMath math;
  bool aligned;    // K and V rows
  bool q_aligned;  // and of the compute type
};

template <class T, int D, int N>
struct Geometry {
  using Compute = typename ComputeOf<T>::Type;
  static constexpr int kPieces = D / 8;  // of a row in shared memory
  static constexpr int kQueryBytes = kGroupRows * D * 2;
  static constexpr int kTileBytes = N * D * 2;  // of K, or of V
  static constexpr int kWarpRows = N / kWarps;  // tokens that a warp brings in
  static constexpr int kStages = N > 16 ? 2 : 1;
  static constexpr int kSeenBytes = kStages * kWarps * 4;
  static constexpr int kBytes = kQueryBytes + kStages * 2 * kTileBytes + kSeenBytes;
};

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

// ---- one tile -----------------------------------------------------------------------------------

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

template <class T, int D, int N>
RADIX_DEVICE void values(const AttentionParams& p, const unsigned char* v,
                         const float (&s)[N / 8][4], float (&o)[D / 8][4]) {
  using G = Geometry<T, D, N>;
  using C = typename G::Compute;
  const int lane = threadIdx.x % 32;
  RADIX_UNROLL
  for (int n = 0; n < N / 16; ++n) {
    uint32_t a[4];
    weights_operand<C>(s, n, a);
    RADIX_UNROLL
    for (int step = 0; step < D / 16; ++step) {
      if (static_cast<uint32_t>(step * 16) >= p.head_dim_v) break;
      uint32_t b[4];
      ldmatrix_x4_trans(b, v + swizzled<G::kPieces>(n * 16 + lane % 16, step * 2 + lane / 16) * 16);
      mma_m16n8k16<C>(o[2 * step], a, b[0], b[1]);
      mma_m16n8k16<C>(o[2 * step + 1], a, b[2], b[3]);
    }
  }
}

// Which tokens of a tile exist: a word for each warp that brought them in.
template <int N>
struct TileTokens {
  static constexpr int kWordTokens = N / kWarps;
  int32_t first;
  const uint32_t* seen;
  RADIX_DEVICE bool all_exist() const {
    bool all = true;
    RADIX_UNROLL
    for (int i = 0; i < kWarps; ++i) all = all && seen[i] == (1u << kWordTokens) - 1;
    return all;
  }
  RADIX_DEVICE bool exists(int n, int i) const {
    const int token = n * 8 + static_cast<int>(threadIdx.x) % 4 * 2 + i;
    return (seen[token / kWordTokens] >> (token % kWordTokens) & 1) != 0;
  }
};

// ---- the kernel ---------------------------------------------------------------------------------

// grid (rows of the longest sequence / 64, num_kv_heads, num_seqs)
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
  if (!find_work<kGroupRows>(p, &w)) return;
  const int32_t first_tile = w.begin / N;
  const int32_t end_tile = w.end > w.begin ? (w.end - 1) / N + 1 : first_tile;

  load_queries<typename G::Compute>(
      p, w, launch.q_aligned, [q](int r, int c) { return q + swizzled<G::kPieces>(r, c) * 16; });
  if (first_tile < end_tile) load_tile<T, D, N>(p, launch, w, first_tile * N, tiles, seen);
  cp_async_commit();
  const Rows rows = rows_of(p, w);
  RowSums sums;
  float o[D / 8][4];
  RADIX_UNROLL
  for (int n = 0; n < D / 8; ++n) {
    RADIX_UNROLL
    for (int i = 0; i < 4; ++i) o[n][i] = 0.f;
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
    weigh<N>(p, w, rows, TileTokens<N>{tile * N, seen + stage * kWarps}, s, &sums);
    rescale<D>(sums, o);
    values<T, D, N>(p, k + G::kTileBytes, s, o);
    __syncthreads();  // everybody is done with it
    if constexpr (G::kStages == 1) {
      if (more) load_tile<T, D, N>(p, launch, w, (tile + 1) * N, tiles, seen);
      cp_async_commit();
    }
  }
  cp_async_wait<0>();
  write_rows<D>(p, w, rows, sums, o);
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
  const dim3 grid(static_cast<unsigned>((stacked + kGroupRows - 1) / kGroupRows), p.num_kv_heads,
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
