// Prefill for sm_90a: what prefill.cu computes, for K/V in f16 or bf16 and head dims 64 and 128, on
// products of warpgroups (wgmma) that a warpgroup of its own feeds. The division of labour is
// FlashAttention-3's (Shah et al. 2024), with K and V gathered through the block table.
//
// Work split. A block has 128 stacked rows (prefill_rows.h) of one KV head of one sequence and
// three warpgroups. The first one brings tiles of 128 tokens in and computes nothing, its warps 0
// and 1 those of K, its warps 2 and 3 those of V; the other two have 64 rows each and load nothing
// but their queries.
//
//   block table -> offsets                    +----------+  full   +------------------------------+
//   warps 0, 1   cp.async 16 bytes a lane --> | K0 | K1  | ------> | warpgroup 1: rows   0 .. 63  |
//   (look one tile ahead)                     +----------+ <------ | S = Q K^T, P = 2^(S - m')    |
//   warps 2, 3   the same for V           --> | V0 | V1  |  empty  | O = O 2^(m - m') + P V       |
//                                             +----------+         | warpgroup 2: rows 64 .. 127  |
//                                              two stages          +------------------------------+
//
// K and V have a ring each: full[stage] ends a phase when all 64 threads that write the stage have
// waited for their copies and fenced them for the async proxy, empty[stage] when all warps that
// read it (8; 4 when the second warpgroup has no rows) are done. A stage of K is free as soon as
// its scores exist, one of V a tile later:
//
//   tile        K ring            V ring            a warpgroup that computes
//    t          S(t) = Q K(t)                       issued first, waited for first
//    t - 1                        O += P V(t - 1)   runs under the softmax of S(t)
//
// The weights P stay in registers: the sums of the first product are, rounded, the left operand of
// the second. V is the right operand as it comes, tokens in rows: its descriptor says "transposed".
//
// Shared memory: q [2][64][D], K [2][128][D], V [2][128][D], each of them in chunks of 64 columns
// with the 128-byte swizzle (cuda/simt/sm90.h), then which tokens of a stage exist, then barriers.
//
// Not here: fp8, other head dims, rows that are no multiples of 16 bytes, tree masks; those take
// prefill.cu (src/plan/prefill_choice.h).
#include "cuda/kernels.h"
#include "cuda/kernels/prefill_rows.h"
#include "cuda/simt/sm90.h"

namespace radixattn::cuda {
namespace {

constexpr int kConsumers = 2;  // warpgroups that compute
constexpr int kThreads = kWarpgroup * (1 + kConsumers);
constexpr int kBlockRows = kGroupRows * kConsumers;
constexpr int kTile = 128;              // tokens
constexpr int kLoaders = 64;            // threads that bring K in, or V
constexpr int kWarpTokens = kTile / 2;  // of one of their warps
constexpr int kStages = 2;
static_assert(kGroupRows <= kTile && kConsumers == 2);  // attend and consume count on it
// Registers a thread: what the producers do not need, the others have for S, P and O.
constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;
static_assert(kProducerRegisters + kConsumers * kConsumerRegisters <=
              65536 / kThreads / 8 * 8 * (1 + kConsumers));  // what a block begins with

struct Launch {
  BlockMath math;
  bool q_aligned;  // and of K's type
};

template <int D>
struct Geometry {
  static constexpr int kQueryBytes = kGroupRows * D * 2;  // of a warpgroup
  static constexpr int kTileBytes = kTile * D * 2;        // of K, or of V
  static constexpr int kQueryChunk = kGroupRows * 128, kTileChunk = kTile * 128;
  static constexpr int kPieces = D / 8;  // of a row
};

// Who may use a stage of a ring. Use i of the ring is of stage i % kStages.
struct Ring {
  uint64_t full[kStages], empty[kStages];
};
RADIX_DEVICE int stage_of(int use) { return use % kStages; }
RADIX_DEVICE unsigned parity_of(int use) { return static_cast<unsigned>(use / kStages % 2); }

template <int D>
struct alignas(1024) Shared {
  unsigned char q[kConsumers][Geometry<D>::kQueryBytes];
  unsigned char k[kStages][Geometry<D>::kTileBytes];
  unsigned char v[kStages][Geometry<D>::kTileBytes];
  uint32_t seen[kStages][kTile / 32];  // which tokens exist
  Ring k_ring, v_ring;
};

// The tiles that somebody needs: use i of a ring is tile first + i.
struct Tiles {
  int32_t first;
  int num;
};
RADIX_DEVICE Tiles tiles_of(const Work& w) {
  const int32_t first = w.begin / kTile;
  return {first, w.end > w.begin ? (w.end - 1) / kTile + 1 - first : 0};
}

// ---- the warpgroup that brings tiles in ---------------------------------------------------------

// Elements from the tensor's start to the rows of the lane's tokens, lane and lane + 32 of the
// warp's 64; -1 where there is none.
template <bool kOfV>
RADIX_DEVICE void look_up(const AttentionParams& p, const Launch& launch, const Work& w,
                          int32_t first, int64_t (&at)[2]) {
  RADIX_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int32_t position = first + half * 32 + static_cast<int32_t>(threadIdx.x % 32);
    at[half] = -1;
    if (position < w.begin || position >= w.end) continue;
    const RowOffsets row =
        row_offsets(p, launch.math, w.blocks, static_cast<uint32_t>(position), w.kv_head);
    at[half] = kOfV ? row.v : row.k;
  }
}

// The warp's tokens to their place in a stage, which begins at `to`; zeros for those that do not
// exist.
template <class T, int D>
RADIX_DEVICE void gather(const T* from, const int64_t (&at)[2], int first_row, unsigned char* to) {
  using G = Geometry<D>;
  constexpr int kRowsAtOnce = 32 / G::kPieces;
  const int lane = threadIdx.x % 32, c = lane % G::kPieces;
  to += c / 8 * G::kTileChunk;
  RADIX_UNROLL
  for (int half = 0; half < 2; ++half) {
    RADIX_UNROLL_TWICE  // more would take more registers than producers have
        for (int i = 0; i < 32; i += kRowsAtOnce) {
      const int r = i + lane / G::kPieces;
      const int64_t row = __shfl_sync(kFullWarp, static_cast<long long>(at[half]), r);
      cp_async16(to + operand_piece(first_row + half * 32 + r, c % 8),
                 from + (row >= 0 ? row + c * 8 : 0), row >= 0);
    }
  }
}

template <class T, int D, bool kOfV>
RADIX_DEVICE void produce(const AttentionParams& p, const Launch& launch, const Work& w,
                          Shared<D>* shared) {
  const Tiles tiles = tiles_of(w);
  Ring& ring = kOfV ? shared->v_ring : shared->k_ring;
  const T* from = static_cast<const T*>(kOfV ? p.v.data : p.k.data);
  const int first_row = static_cast<int>(threadIdx.x) / 32 % 2 * kWarpTokens;
  int64_t at[2] = {-1, -1};
  if (tiles.num > 0) look_up<kOfV>(p, launch, w, tiles.first * kTile + first_row, at);
  for (int i = 0; i < tiles.num; ++i) {
    const int stage = stage_of(i);
    mbarrier_wait(&ring.empty[stage], parity_of(i) ^ 1);
    if constexpr (!kOfV) {
      RADIX_UNROLL
      for (int half = 0; half < 2; ++half) {
        const uint32_t exist = __ballot_sync(kFullWarp, at[half] >= 0);
        if (threadIdx.x % 32 == 0) shared->seen[stage][first_row / 32 + half] = exist;
      }
    }
    gather<T, D>(from, at, first_row, kOfV ? shared->v[stage] : shared->k[stage]);
    cp_async_commit();
    if (i + 1 < tiles.num)  // while this tile is on its way
      look_up<kOfV>(p, launch, w, (tiles.first + i + 1) * kTile + first_row, at);
    cp_async_wait<0>();
    fence_proxy_async();
    mbarrier_arrive(&ring.full[stage]);
  }
}

// ---- the warpgroups that compute ----------------------------------------------------------------

// Which tokens of a tile exist, as far as this thread's columns go (two of each 8), read before the
// tile goes back.
struct TileTokens {
  int32_t first;
  bool all;
  uint32_t mine;  // token n * 8 + lane % 4 * 2 + i: bit n % 4 * 8 + n / 4 * 2 + i
  RADIX_DEVICE bool all_exist() const { return all; }
  RADIX_DEVICE bool exists(int n, int i) const {
    return (mine >> (n % 4 * 8 + n / 4 * 2 + i) & 1) != 0;
  }
};
static_assert(kTile == 128);

template <int D>
RADIX_DEVICE TileTokens read_tokens(const Shared<D>& shared, int32_t tile, int stage) {
  TileTokens tokens = {tile * kTile, true, 0};
  RADIX_UNROLL
  for (int i = 0; i < kTile / 32; ++i) {
    const uint32_t seen = shared.seen[stage][i];
    tokens.all = tokens.all && seen == 0xffffffffu;
    tokens.mine |= (seen >> (threadIdx.x % 4 * 2) & 0x03030303u) << (2 * i);
  }
  return tokens;
}

// S = Q K^T, issued.
template <class T, int D>
RADIX_DEVICE void issue_scores(const unsigned char* q, const unsigned char* k,
                               float (&s)[kTile / 8][4]) {
  const uint64_t a = k_major_operand(q), b = k_major_operand(k);
  RADIX_UNROLL
  for (int step = 0; step < D / 16; ++step) {
    const int at = step % 4 * 32;
    wgmma_m64n128k16<T>(s, advance(a, step / 4 * Geometry<D>::kQueryChunk + at),
                        advance(b, step / 4 * Geometry<D>::kTileChunk + at), step != 0);
  }
  wgmma_commit();
}

// O += P V, issued.
template <class T, int D>
RADIX_DEVICE void issue_values(const uint32_t (&weights)[kTile / 16][4], const unsigned char* v,
                               float (&o)[D / 8][4]) {
  const uint64_t b = n_major_operand(v, Geometry<D>::kTileChunk);
  RADIX_UNROLL
  for (int step = 0; step < kTile / 16; ++step)
    wgmma_m64k16<T>(o, weights[step], advance(b, step * 16 * 128));
  wgmma_commit();
}

template <class T>
RADIX_DEVICE void pack_weights(const float (&s)[kTile / 8][4], uint32_t (&weights)[kTile / 16][4]) {
  RADIX_UNROLL
  for (int step = 0; step < kTile / 16; ++step) weights_operand<T>(s, step, weights[step]);
}

// This warp is done with a stage, ordinary reads included.
RADIX_DEVICE void release(uint64_t* empty RADIX_LOC) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) mbarrier_arrive(empty RADIX_PASS);
}

// Uses [begin, end) of the rings, which this warpgroup's rows see.
template <class T, int D>
RADIX_DEVICE void attend(const AttentionParams& p, const Work& w, const Rows& rows,
                         int32_t first_tile, int begin, int end, const unsigned char* q,
                         Shared<D>* shared, RowSums* sums, float (&o)[D / 8][4]) {
  Ring &k_ring = shared->k_ring, &v_ring = shared->v_ring;
  float s[kTile / 8][4];
  uint32_t weights[kTile / 16][4];
  int stage = stage_of(begin);
  mbarrier_wait(&k_ring.full[stage], parity_of(begin));
  TileTokens tokens = read_tokens(*shared, first_tile + begin, stage);
  wgmma_fence();
  issue_scores<T, D>(q, shared->k[stage], s);
  wgmma_wait<0>();
  pin(s);
  release(&k_ring.empty[stage]);
  weigh<kTile>(p, w, rows, tokens, s, sums);
  pack_weights<T>(s, weights);
  for (int i = begin + 1; i < end; ++i) {
    const int before = stage;
    stage = stage_of(i);
    mbarrier_wait(&k_ring.full[stage], parity_of(i));
    tokens = read_tokens(*shared, first_tile + i, stage);
    mbarrier_wait(&v_ring.full[before], parity_of(i - 1));
    pin(o);
    pin(weights);
    wgmma_fence();
    issue_scores<T, D>(q, shared->k[stage], s);
    issue_values<T, D>(weights, shared->v[before], o);
    wgmma_wait<1>();
    pin(s);
    release(&k_ring.empty[stage]);
    weigh<kTile>(p, w, rows, tokens, s, sums);  // under the product with V
    wgmma_wait<0>();
    pin(o);
    release(&v_ring.empty[before]);
    rescale<D>(*sums, o);
    pack_weights<T>(s, weights);
  }
  mbarrier_wait(&v_ring.full[stage], parity_of(end - 1));
  pin(o);
  pin(weights);
  wgmma_fence();
  issue_values<T, D>(weights, shared->v[stage], o);
  wgmma_wait<0>();
  pin(o);
  // NOTE: nobody waits for this stage again: kGroupRows <= kTile, so the block ends at most one
  // tile after a warpgroup's own end.
}

template <class T, int D>
RADIX_DEVICE void consume(const AttentionParams& p, const Launch& launch, const Work& block,
                          Shared<D>* shared) {
  const int group = static_cast<int>(threadIdx.x) / kWarpgroup - 1;
  unsigned char* q = shared->q[group];
  Work w = block;
  const auto before = static_cast<uint32_t>(group * kGroupRows);
  const uint32_t left = block.num_rows > before ? block.num_rows - before : 0;
  if (left == 0) return;
  set_rows(p, block.first_row + before, left < kGroupRows ? left : kGroupRows, &w);
  load_queries<T>(p, w, launch.q_aligned, [q](int r, int c) {
    return q + c / 8 * Geometry<D>::kQueryChunk + operand_piece(r, c % 8);
  });
  cp_async_commit();
  cp_async_wait<0>();
  fence_proxy_async();
  named_barrier(1 + group, kWarpgroup);

  const Rows rows = rows_of(p, w);
  RowSums sums;
  float o[D / 8][4];
  RADIX_UNROLL
  for (int n = 0; n < D / 8; ++n) {
    RADIX_UNROLL
    for (int i = 0; i < 4; ++i) o[n][i] = 0.f;
  }
  const Tiles all = tiles_of(block), mine = tiles_of(w);
  const int begin = mine.num > 0 ? mine.first - all.first : 0, end = begin + mine.num;
  if (begin > 0) {  // for the same reason 1: the first tile goes back unseen
    release(&shared->k_ring.empty[0]);
    release(&shared->v_ring.empty[0]);
  }
  if (begin < end) attend<T, D>(p, w, rows, all.first, begin, end, q, shared, &sums, o);
  write_rows<D>(p, w, rows, sums, o);
}

// ---- the kernel ---------------------------------------------------------------------------------

// grid (rows of the longest sequence / 128, num_kv_heads, num_seqs)
template <class T, int D>
__global__ void __launch_bounds__(kThreads, 1)
    prefill_wgmma_kernel(const __grid_constant__ AttentionParams p,
                         const __grid_constant__ Launch launch) {
  if (kHasWgmma) {
    RADIX_DYN_SMEM(smem);
    auto* shared = reinterpret_cast<Shared<D>*>(smem);
    Work w;
    if (!find_work<kBlockRows>(p, &w)) return;
    if (threadIdx.x < kStages) {
      const unsigned consumers = w.num_rows > kGroupRows ? kConsumers : 1;  // that have rows
      for (Ring* ring : {&shared->k_ring, &shared->v_ring}) {
        mbarrier_init(&ring->full[threadIdx.x], kLoaders);
        mbarrier_init(&ring->empty[threadIdx.x], consumers * kWarpgroup / 32);
      }
    }
    __syncthreads();
    if (threadIdx.x < kWarpgroup) {
      shrink_registers<kProducerRegisters>();
      if (threadIdx.x < kLoaders) {
        produce<T, D, false>(p, launch, w, shared);
      } else {
        produce<T, D, true>(p, launch, w, shared);
      }
    } else {
      grow_registers<kConsumerRegisters>();
      consume<T, D>(p, launch, w, shared);
    }
  } else {
    trap();  // code for another architecture than the launch was made for
  }
}

// ---- the launch ---------------------------------------------------------------------------------

template <class T, int D>
Error launch(const AttentionParams& p, Stream stream) {
  Launch launch = {};
  launch.math = {p.block_size, block_shift(p.block_size)};
  const PagedTensor rows = {p.q.data, p.q.dtype, 0, p.q.row_stride, p.q.head_stride};
  launch.q_aligned = p.q.dtype == p.k.dtype && rows_are_aligned(rows, p.head_dim, 2);
  const uint64_t stacked = uint64_t{p.max_query_len} * (p.num_q_heads / p.num_kv_heads);
  const dim3 grid(static_cast<unsigned>((stacked + kBlockRows - 1) / kBlockRows), p.num_kv_heads,
                  p.num_seqs);
  return RADIX_LAUNCH((prefill_wgmma_kernel<T, D>), grid, dim3(kThreads), sizeof(Shared<D>), stream,
                      p, launch);
}

}  // namespace

Error launch_prefill_wgmma(const AttentionParams& p, Stream stream) {
  if (p.num_seqs == 0 || p.max_query_len == 0) return 0;
  if (p.k.dtype == RADIX_BF16)
    return p.head_dim == 64 ? launch<Bf16, 64>(p, stream) : launch<Bf16, 128>(p, stream);
  return p.head_dim == 64 ? launch<Half, 64>(p, stream) : launch<Half, 128>(p, stream);
}

}  // namespace radixattn::cuda
