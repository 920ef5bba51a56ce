// Decode: attention of one query row a sequence over paged K/V, memory-bound, so all is about
// having enough bytes of K/V in flight and reading each of them once.
//
// Work split. A block has one KV head of one sequence, up to 16 of its query heads, and one range
// of positions (DecodeSplit). Its warps take the range's tiles of 16 tokens in turn, and each warp
// is on its own: a ring of kStages tiles in shared memory, filled by cp.async through the block
// table two tiles ahead, no barrier with the others until the end.
//
//        ring of a warp             S [16 rows, 16 tokens] = Q K^T     2 products of 8 tokens a 16
//        of d
//   K|V  K|V  K|V   ...             m' = max(m, max S),  P = 2^(S - m'),  l = l 2^(m - m') + sum P
//   used next next                  O [16 rows, d]         = O 2^(m - m') + P V
//
// The query heads of a KV head are the 16 rows of the tensor cores' tile; rows without a head are
// zero and cost nothing that a memory-bound kernel would notice. How tiles are brought in and
// computed with stands in decode_tile.h.
//
// At the end the warps' states (o, m, l) are put together in shared memory, and the block writes
// results, or a partial state when the sequence has several ranges (merge.cu).
//
// Shared memory: q [16][D] of the compute type, then a ring for each warp [kStages][K, V][16][D].
#include "cuda/kernels.h"
#include "cuda/kernels/decode_tile.h"

namespace radixattn::cuda {
namespace {

struct Launch {
  KeyAccess access;
  uint32_t head_chunks;  // blocks that share a KV head's query heads
};

// ---- one tile -----------------------------------------------------------------------------------

// Dot products to weights of the running maximum; o and l follow it.
template <int D>
RADIX_DEVICE void softmax(const ScoreRule& rule, const float (&slope)[2], int32_t distance,
                          uint32_t seen, float (&s)[2][4], State<D>* state) {
  const int lane = threadIdx.x % 32;
  bool moved = false;
  float alpha[2];
  RADIX_UNROLL
  for (int r = 0; r < 2; ++r) {
    float top = state->m[r];
    RADIX_UNROLL
    for (int n = 0; n < 2; ++n) {
      RADIX_UNROLL
      for (int i = 0; i < 2; ++i) {
        const int token = n * 8 + lane % 4 * 2 + i;
        float& x = s[n][2 * r + i];
        x = rule.score(x) + slope[r] * static_cast<float>(token + distance);
        if ((seen >> token & 1) == 0) x = -INFINITY;
        top = fmaxf(top, x);
      }
    }
    top = warp_max<4>(top);
    alpha[r] = shrink(state->m[r], top);
    moved |= alpha[r] != 1.f;
    float sum = 0.f;
    RADIX_UNROLL
    for (int n = 0; n < 2; ++n) {
      RADIX_UNROLL
      for (int i = 0; i < 2; ++i) {
        s[n][2 * r + i] = shrink(s[n][2 * r + i], top);
        sum += s[n][2 * r + i];
      }
    }
    state->l[r] = state->l[r] * alpha[r] + sum;
    state->m[r] = top;
  }
  if (__any_sync(kFullWarp, moved)) rescale(alpha, state);
}

// ---- the end ------------------------------------------------------------------------------------

// Row r of the block from the warps' states: its maximum and sum, and what warp w counts.
struct RowState {
  float m, l;
  float weight[kMaxWarps];
};

RADIX_DEVICE RowState row_state(const Together& from, int r) {
  const int num_warps = blockDim.x / 32;
  RowState row = {-INFINITY, 0.f, {}};
  for (int w = 0; w < num_warps; ++w) row.m = fmaxf(row.m, from.m[w * kRows + r]);
  RADIX_UNROLL
  for (int w = 0; w < kMaxWarps; ++w) {
    row.weight[w] = w < num_warps ? shrink(from.m[w * kRows + r], row.m) : 0.f;
    if (w < num_warps) row.l += row.weight[w] * from.l[w * kRows + r];
  }
  return row;
}

template <int D>
RADIX_DEVICE void write_rows(const AttentionParams& p, const DecodeSplit& split, uint32_t seq,
                             uint32_t range_index, bool partial, uint32_t first_head,
                             uint32_t num_rows, float v_scale, const Together& from) {
  const int num_warps = blockDim.x / 32;
  for (uint32_t i = threadIdx.x; i < num_rows * p.head_dim_v; i += blockDim.x) {
    const uint32_t r = i / p.head_dim_v, e = i % p.head_dim_v, head = first_head + r;
    const RowState row = row_state(from, static_cast<int>(r));
    float o = 0.f;
    RADIX_UNROLL
    for (int w = 0; w < kMaxWarps; ++w) {
      if (w < num_warps) o += row.weight[w] * from.o[(w * kRows + r) * D + e];
    }
    o *= v_scale;
    if (partial) {
      const int64_t at = partial_row(split, seq, range_index) * p.num_q_heads + head;
      split.partial_o[at * p.head_dim_v + e] = row.l > 0.f ? o / row.l : 0.f;
      if (e == 0) split.partial_lse[at] = row.m == -INFINITY ? -INFINITY : row.m + log2f(row.l);
      continue;
    }
    const RowEnd end = end_of_row(p, head, row.m, row.l);
    store_number(p.out.data, p.out.dtype, seq * p.out.row_stride + head * p.out.head_stride + e,
                 o * end.factor);
    if (e == 0 && p.lse != nullptr)
      p.lse[seq * p.lse_row_stride + head * p.lse_head_stride] = end.lse;
  }
}

// ---- the kernel ---------------------------------------------------------------------------------

// The query heads of a block: rows of the tile.
struct Heads {
  uint32_t kv_head, first, num;
};

RADIX_DEVICE Heads heads_of(const AttentionParams& p, const Launch& launch) {
  const uint32_t group = p.num_q_heads / p.num_kv_heads;
  const uint32_t kv_head = blockIdx.y / launch.head_chunks;
  const uint32_t row = blockIdx.y % launch.head_chunks * kRows;
  return {kv_head, kv_head * group + row, group - row < kRows ? group - row : kRows};
}

// One range of one sequence. Blocks whose range has no visible position return at once; of a
// sequence without any, range 0 writes the empty result.
template <class T, int D>
RADIX_DEVICE void run_range(const AttentionParams& p, const DecodeSplit& split,
                            const Launch& launch, const Heads& heads, uint32_t seq,
                            uint32_t range_index, unsigned char* smem) {
  using G = Geometry<T, D>;
  const BlockRow row = block_row(p, seq);
  const auto context = static_cast<uint32_t>(context_of(p, seq, row));
  const VisibleRanges visible = visible_ranges(p, split, context);
  if (range_index < visible.begin || range_index >= visible.end) return;
  const uint32_t split_tokens = split_tokens_of(split);
  KeyRange range = {row.ids, range_index * split_tokens, context, heads.kv_head};
  if (split.max_splits > 1 && context - range.begin > split_tokens)
    range.end = range.begin + split_tokens;
  if (range.begin < visible.first) range.begin = visible.first;
  const uint32_t first_tile = range.begin / kTile;
  const uint32_t end_tile = range.begin < range.end ? (range.end - 1) / kTile + 1 : first_tile;

  float slope[2];
  RADIX_UNROLL
  for (int r = 0; r < 2; ++r) {
    const uint32_t i = threadIdx.x % 32 / 4 + r * 8;
    slope[r] = i < heads.num ? slope_of(p, heads.first + i) : 0.f;
  }
  State<D> state;
  clear(&state);
  load_queries<T, D>(p, kRows, smem, [&](int r) {
    return static_cast<uint32_t>(r) < heads.num
               ? seq * p.q.row_stride + (heads.first + r) * p.q.head_stride
               : int64_t{-1};
  });
  __syncthreads();
  unsigned char* rings = smem + G::kQueryBytes;
  const ScoreRule rule = score_rule(p, heads.kv_head);
  const uint32_t warp = threadIdx.x / 32, num_warps = blockDim.x / 32;
  walk_tiles<T, D>(
      p, launch.access, range, first_tile + warp, end_tile, num_warps, rings + warp * G::kRingBytes,
      [&](uint32_t first, uint32_t seen, const unsigned char* k) {
        float s[1][2][4];
        scores<T, D, 1>(p, smem, k, s);
        softmax<D>(rule, slope, static_cast<int32_t>(first - (context - 1)), seen, s[0], &state);
        values<T, D>(p, k + G::kTileBytes, 0, s[0], &state);
      });
  __syncthreads();  // all warps are done with their rings
  const Together all = together<D>(rings, num_warps);
  put_state<T, D>(state, all);
  __syncthreads();
  write_rows<D>(p, split, seq, range_index, visible.end - visible.begin > 1, heads.first, heads.num,
                scale_of(p.v_scale, p, heads.kv_head), all);
  __syncthreads();  // the next range's queries and tiles go where these states are
}

// What ptxas is told; 0: nothing. Left alone with fp8 of 64 it wants five, and spills on sm_89.
template <class T, int D>
[[maybe_unused]] constexpr int kBlocksPerSm = sizeof(T) == 1 && D == 64 ? 4 : 0;

// grid (num_seqs * max_splits, num_kv_heads * head_chunks), or (num_blocks, ...) with a work list
template <class T, int D>
__global__ void __launch_bounds__(32 * kMaxWarps, kBlocksPerSm<T, D>)
    decode_kernel(const __grid_constant__ AttentionParams p,
                  const __grid_constant__ DecodeSplit split,
                  const __grid_constant__ Launch launch) {
  RADIX_DYN_SMEM(smem);
  const Heads heads = heads_of(p, launch);
  // Without a list the grid is the list: each block has the item of its number.
  const bool listed = split.items != nullptr;
  uint32_t num_items = gridDim.x;
  if (listed) {
    num_items = static_cast<uint32_t>(split.schedule[0]);
    if (num_items > split.max_items) num_items = split.max_items;
  }
  for (uint32_t i = blockIdx.x; i < num_items; i += gridDim.x) {
    const uint32_t seq = listed ? static_cast<uint32_t>(split.items[2 * i]) : i / split.max_splits;
    const uint32_t range =
        listed ? static_cast<uint32_t>(split.items[2 * i + 1]) : i % split.max_splits;
    if (seq < p.num_seqs) run_range<T, D>(p, split, launch, heads, seq, range, smem);
  }
}

// ---- the launch ---------------------------------------------------------------------------------

template <class T, int D>
Error launch(const AttentionParams& p, const DecodeSplit& split, const DeviceLimits& device,
             Stream stream) {
  using G = Geometry<T, D>;
  static_assert(G::kRingBytes >= kRows * (D + 2) * 4, "a warp's state fits over its ring");
  int warps = kMaxWarps;
  while (warps > 1 &&
         G::kQueryBytes + warps * G::kRingBytes > static_cast<int>(device.smem_per_block))
    warps /= 2;
  const uint32_t group = p.num_q_heads / p.num_kv_heads;
  Launch launch = {};
  launch.access = key_access<T>(p);
  launch.head_chunks = (group + kRows - 1) / kRows;
  const dim3 grid(split.items != nullptr ? split.num_blocks : p.num_seqs * split.max_splits,
                  p.num_kv_heads * launch.head_chunks);
  return RADIX_LAUNCH((decode_kernel<T, D>), grid, dim3(32 * warps),
                      static_cast<size_t>(G::kQueryBytes + warps * G::kRingBytes), stream, p, split,
                      launch);
}

template <class T>
Error launch_dim(const AttentionParams& p, const DecodeSplit& split, const DeviceLimits& device,
                 Stream stream) {
  const uint32_t dim = p.head_dim > p.head_dim_v ? p.head_dim : p.head_dim_v;
  if (dim <= 64) return launch<T, 64>(p, split, device, stream);
  if (dim <= 128) return launch<T, 128>(p, split, device, stream);
  return launch<T, 256>(p, split, device, stream);
}

}  // namespace

Error launch_decode(const AttentionParams& p, const DecodeSplit& split, const DeviceLimits& device,
                    Stream stream) {
  if (p.num_seqs == 0) return 0;
  switch (p.k.dtype) {
    case RADIX_F32:  // in one range whatever its length: max_splits is 1
      return launch_attention_f32(p, stream);
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
