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
// zero and cost nothing that a memory-bound kernel would notice. fp8 K and V become f16 in
// registers, each in the order in which the product wants it:
//
//   K  a thread of the product holds d = 2t, 2t+1, 2t+8, 2t+9 of 16; a sum does not care for order,
//   so
//      the queries stand in shared memory in the order 4t .. 4t+3 -> those places, and one 4-byte
//      load of K fills both registers
//   V  four bytes of one token are four columns; zipped with the next token's they are the pairs
//      (token, token + 1) of four products whose columns stand 4 apart: column c of product j is
//      element 4c + j of 32
//
// At the end the warps' states (o, m, l) are put together in shared memory, and the block writes
// results, or a partial state when the sequence has several ranges (merge.cu).
//
// Shared memory: q [16][D] of the compute type, then a ring for each warp [kStages][K, V][16][D].
#include "cuda/kernels.h"
#include "cuda/kernels/attention_tile.h"

namespace radixattn::cuda {
namespace {

constexpr int kRows = 16;   // query heads of a block
constexpr int kTile = 16;   // tokens of a tile
constexpr int kStages = 3;  // tiles of a ring
constexpr int kMaxWarps = 4;

struct Launch {
  BlockMath math;
  uint32_t head_chunks;  // blocks that share a KV head's query heads
  bool aligned;
};

// One warp's view of its block's work.
struct Range {
  const int32_t* blocks;
  uint32_t begin, end;  // positions that the query sees, in this block's range
  uint32_t first_tile, num_tiles;
  uint32_t kv_head;
};

template <class T, int D>
struct Geometry {
  using Compute = typename ComputeOf<T>::Type;
  static constexpr bool kFp8 = sizeof(T) == 1;
  static constexpr int kPieces = D * static_cast<int>(sizeof(T)) / 16;  // of a row
  static constexpr int kQueryPieces = D / 8;
  static constexpr int kTileBytes = kTile * D * static_cast<int>(sizeof(T));  // of K, or of V
  static constexpr int kQueryBytes = kRows * D * 2;
  static constexpr int kRingBytes = kStages * 2 * kTileBytes;
};

// ---- bringing K and V in ------------------------------------------------------------------------

// Starts the copy of tile `tile` to K at `k` and V behind it. Returns the tokens (bit i: token i of
// the tile) that the query sees.
template <class T, int D>
RADIX_DEVICE uint32_t load_tile(const AttentionParams& p, const Launch& launch, const Range& range,
                                uint32_t tile, unsigned char* k) {
  using G = Geometry<T, D>;
  const int lane = threadIdx.x % 32;
  const uint32_t position = (range.first_tile + tile) * kTile + lane % kTile;
  RowOffsets offsets = {-1, -1};
  if (position >= range.begin && position < range.end)
    offsets = row_offsets(p, launch.math, range.blocks, position, range.kv_head);
  const uint32_t seen = __ballot_sync(kFullWarp, offsets.k >= 0) & 0xffffu;

  // As far as the products look: whole steps of 16 (fp8 V: 32) elements, zeros behind the last.
  constexpr int kPiece = 16 / static_cast<int>(sizeof(T));  // elements of a piece
  constexpr int kValueStep = G::kFp8 ? 32 : 16;
  const int k_pieces = (static_cast<int>(p.head_dim) + 15) / 16 * (16 / kPiece);
  const int v_pieces =
      (static_cast<int>(p.head_dim_v) + kValueStep - 1) / kValueStep * (kValueStep / kPiece);
  unsigned char* v = k + G::kTileBytes;
  constexpr int kLanesPerRow = G::kPieces < 32 ? G::kPieces : 32;
  constexpr int kRowsPerStep = 32 / kLanesPerRow;
  const int c = lane % kLanesPerRow;
  const auto bring = [&](int i, bool aligned) {
    const int r = i + lane / kLanesPerRow;
    const int64_t at_k = __shfl_sync(kFullWarp, static_cast<long long>(offsets.k), r);
    const int64_t at_v = __shfl_sync(kFullWarp, static_cast<long long>(offsets.v), r);
    const bool valid = at_k >= 0;
    const int place = swizzled<G::kPieces>(r, c) * 16;
    if (c < k_pieces)
      load_piece(k + place, static_cast<const T*>(p.k.data) + (valid ? at_k : 0), c, p.head_dim,
                 valid, aligned);
    if (c < v_pieces)
      load_piece(v + place, static_cast<const T*>(p.v.data) + (valid ? at_v : 0), c, p.head_dim_v,
                 valid, aligned);
  };
  if (launch.aligned) {
    RADIX_UNROLL
    for (int i = 0; i < kTile; i += kRowsPerStep) bring(i, true);
  } else {
    RADIX_ROLLED
    for (int i = 0; i < kTile; i += kRowsPerStep) bring(i, false);
  }
  return seen;
}

// Queries of the block's heads to shared memory, in the compute type; rows without a head and
// elements past head_dim are zero.
template <class T, int D>
RADIX_DEVICE void load_queries(const AttentionParams& p, uint32_t seq, uint32_t first_head,
                               uint32_t num_rows, unsigned char* smem) {
  using G = Geometry<T, D>;
  using C = typename G::Compute;
  auto* q = reinterpret_cast<uint32_t*>(smem);
  for (int i = static_cast<int>(threadIdx.x); i < kRows * D / 2;
       i += static_cast<int>(blockDim.x)) {
    const int r = i / (D / 2), pair = i % (D / 2);  // stored columns 2 * pair and the next
    int e = 2 * pair;
    if constexpr (G::kFp8) {  // element 4t + i stands at column 2t + i % 2 + 8 * (i / 2) of its 16
      const int column = e % 16;
      e += column % 8 / 2 * 4 + column / 8 * 2 - column;
    }
    float x[2] = {0.f, 0.f};
    for (int j = 0; j < 2; ++j) {
      if (static_cast<uint32_t>(r) < num_rows && static_cast<uint32_t>(e + j) < p.head_dim) {
        const int64_t at = seq * p.q.row_stride + (first_head + r) * p.q.head_stride + e + j;
        x[j] = clamp_query<C>(load_number(p.q.data, p.q.dtype, at));
      }
    }
    q[swizzled<G::kQueryPieces>(r, pair / 4) * 4 + pair % 4] = Pair<C>::pack(x[0], x[1]);
  }
}

// ---- one tile -----------------------------------------------------------------------------------

// A warp's state: rows g and g + 8 of the tile, g = lane / 4.
template <int D>
struct State {
  float o[D / 8][4];
  float m[2], l[2];
};

template <class T, int D>
RADIX_DEVICE void scores(const AttentionParams& p, const unsigned char* q, const unsigned char* k,
                         float (&s)[2][4]) {
  using G = Geometry<T, D>;
  using C = typename G::Compute;
  const int lane = threadIdx.x % 32;
  RADIX_UNROLL
  for (int n = 0; n < 2; ++n) {
    RADIX_UNROLL
    for (int i = 0; i < 4; ++i) s[n][i] = 0.f;
  }
  RADIX_UNROLL
  for (int step = 0; step < D / 16; ++step) {
    if (static_cast<uint32_t>(step * 16) >= p.head_dim) break;
    uint32_t a[4], b[4];
    ldmatrix_x4(a, q + swizzled<G::kQueryPieces>(lane % 16, step * 2 + lane / 16) * 16);
    if constexpr (G::kFp8) {
      RADIX_UNROLL
      for (int n = 0; n < 2; ++n) {
        const uint32_t word =
            load_word(k + swizzled<G::kPieces>(n * 8 + lane / 4, step) * 16 + lane % 4 * 4);
        b[2 * n] = fp8x2_to_half2(static_cast<uint16_t>(word), T{});
        b[2 * n + 1] = fp8x2_to_half2(static_cast<uint16_t>(word >> 16), T{});
      }
    } else {
      ldmatrix_x4(b,
                  k + swizzled<G::kPieces>(lane % 8 + lane / 16 * 8, step * 2 + lane / 8 % 2) * 16);
    }
    mma_m16n8k16<C>(s[0], a, b[0], b[1]);
    mma_m16n8k16<C>(s[1], a, b[2], b[3]);
  }
}

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
  if (!__any_sync(kFullWarp, moved)) return;
  RADIX_UNROLL
  for (int n = 0; n < D / 8; ++n) {
    RADIX_UNROLL
    for (int i = 0; i < 4; ++i) state->o[n][i] *= alpha[i / 2];
  }
}

template <class T, int D>
RADIX_DEVICE void values(const AttentionParams& p, const unsigned char* v, const float (&s)[2][4],
                         State<D>* state) {
  using G = Geometry<T, D>;
  using C = typename G::Compute;
  const int lane = threadIdx.x % 32;
  const uint32_t a[4] = {Pair<C>::pack(s[0][0], s[0][1]), Pair<C>::pack(s[0][2], s[0][3]),
                         Pair<C>::pack(s[1][0], s[1][1]), Pair<C>::pack(s[1][2], s[1][3])};
  if constexpr (G::kFp8) {
    RADIX_UNROLL
    for (int step = 0; step < D / 32; ++step) {
      if (static_cast<uint32_t>(step * 32) >= p.head_dim_v) break;
      uint32_t word[4];  // tokens 2t, 2t + 1, 2t + 8, 2t + 9; elements 4g .. 4g + 3 of 32
      RADIX_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int token = lane % 4 * 2 + i % 2 + i / 2 * 8;
        const int piece = swizzled<G::kPieces>(token, step * 2 + lane / 16);
        word[i] = load_word(v + piece * 16 + lane / 4 % 4 * 4);
      }
      RADIX_UNROLL
      for (int j = 0; j < 4; j += 2) {
        const uint32_t low = zip_bytes(word[0], word[1], j), high = zip_bytes(word[2], word[3], j);
        mma_m16n8k16<C>(state->o[step * 4 + j], a, fp8x2_to_half2(static_cast<uint16_t>(low), T{}),
                        fp8x2_to_half2(static_cast<uint16_t>(high), T{}));
        mma_m16n8k16<C>(state->o[step * 4 + j + 1], a,
                        fp8x2_to_half2(static_cast<uint16_t>(low >> 16), T{}),
                        fp8x2_to_half2(static_cast<uint16_t>(high >> 16), T{}));
      }
    }
  } else {
    RADIX_UNROLL
    for (int step = 0; step < D / 16; ++step) {
      if (static_cast<uint32_t>(step * 16) >= p.head_dim_v) continue;
      uint32_t b[4];
      ldmatrix_x4_trans(b, v + swizzled<G::kPieces>(lane % 16, step * 2 + lane / 16) * 16);
      mma_m16n8k16<C>(state->o[2 * step], a, b[0], b[1]);
      mma_m16n8k16<C>(state->o[2 * step + 1], a, b[2], b[3]);
    }
  }
}

// Element of the row that register i of product n holds (see the top for fp8).
template <class T>
RADIX_DEVICE int column_of(int n, int i) {
  const int column = static_cast<int>(threadIdx.x) % 4 * 2 + i % 2;
  return sizeof(T) == 1 ? n / 4 * 32 + column * 4 + n % 4 : n * 8 + column;
}

// ---- the range ----------------------------------------------------------------------------------

template <class T, int D>
RADIX_DEVICE void walk_range(const AttentionParams& p, const Launch& launch, const Range& range,
                             int32_t query_position, const float (&slope)[2],
                             const unsigned char* q, unsigned char* ring, State<D>* state) {
  using G = Geometry<T, D>;
  const uint32_t warp = threadIdx.x / 32, num_warps = blockDim.x / 32;
  const ScoreRule rule = score_rule(p, range.kv_head);
  uint32_t seen[kStages - 1];  // of the tiles on their way, the next one first
  RADIX_UNROLL
  for (int i = 0; i < kStages - 1; ++i) {
    const uint32_t tile = warp + i * num_warps;
    seen[i] = 0;
    if (tile < range.num_tiles)
      seen[i] = load_tile<T, D>(p, launch, range, tile, ring + i * 2 * G::kTileBytes);
    cp_async_commit();
  }
  int stage = 0;
  for (uint32_t tile = warp; tile < range.num_tiles; tile += num_warps) {
    cp_async_wait<kStages - 2>();
    __syncwarp();  // every lane's copies have arrived, and every lane is done with the tile before
    const uint32_t seen_now = seen[0];
    const uint32_t ahead = tile + (kStages - 1) * num_warps;
    const int ahead_stage = stage == 0 ? kStages - 1 : stage - 1;
    RADIX_UNROLL
    for (int i = 0; i + 1 < kStages - 1; ++i) seen[i] = seen[i + 1];
    if (ahead < range.num_tiles)
      seen[kStages - 2] =
          load_tile<T, D>(p, launch, range, ahead, ring + ahead_stage * 2 * G::kTileBytes);
    cp_async_commit();

    const unsigned char* k = ring + stage * 2 * G::kTileBytes;
    float s[2][4];
    scores<T, D>(p, q, k, s);
    const auto first = static_cast<int32_t>((range.first_tile + tile) * kTile);
    softmax<D>(rule, slope, first - query_position, seen_now, s, state);
    values<T, D>(p, k + G::kTileBytes, s, state);
    stage = stage + 1 == kStages ? 0 : stage + 1;
  }
  cp_async_wait<0>();
}

// ---- the end ------------------------------------------------------------------------------------

// The warps' states in shared memory, over their rings: o [warps][16][D], then m and l [warps][16].
struct Together {
  float *o, *m, *l;
};

template <int D>
RADIX_DEVICE Together together(unsigned char* rings) {
  const uint32_t num_warps = blockDim.x / 32;
  auto* o = reinterpret_cast<float*>(rings);
  float* m = o + num_warps * kRows * D;
  return {o, m, m + num_warps * kRows};
}

template <class T, int D>
RADIX_DEVICE void put_state(const State<D>& state, const Together& to) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  RADIX_UNROLL
  for (int r = 0; r < 2; ++r) {
    const int row = warp * kRows + lane / 4 + r * 8;
    const float l = warp_sum<4>(state.l[r]);
    if (lane % 4 == 0) to.m[row] = state.m[r], to.l[row] = l;
    RADIX_UNROLL
    for (int n = 0; n < D / 8; ++n) {
      RADIX_UNROLL
      for (int i = 0; i < 2; ++i) to.o[row * D + column_of<T>(n, i)] = state.o[n][2 * r + i];
    }
  }
}

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

template <int D>
RADIX_DEVICE void clear(State<D>* state) {
  RADIX_UNROLL
  for (int n = 0; n < D / 8; ++n) {
    RADIX_UNROLL
    for (int i = 0; i < 4; ++i) state->o[n][i] = 0.f;
  }
  RADIX_UNROLL
  for (int r = 0; r < 2; ++r) state->m[r] = -INFINITY, state->l[r] = 0.f;
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
  Range range = {row.ids, range_index * split_tokens, context, 0, 0, heads.kv_head};
  if (split.max_splits > 1 && context - range.begin > split_tokens)
    range.end = range.begin + split_tokens;
  if (range.begin < visible.first) range.begin = visible.first;
  range.first_tile = range.begin / kTile;
  if (range.begin < range.end) range.num_tiles = (range.end - 1) / kTile + 1 - range.first_tile;

  float slope[2];
  RADIX_UNROLL
  for (int r = 0; r < 2; ++r) {
    const uint32_t i = threadIdx.x % 32 / 4 + r * 8;
    slope[r] = i < heads.num ? slope_of(p, heads.first + i) : 0.f;
  }
  State<D> state;
  clear(&state);
  load_queries<T, D>(p, seq, heads.first, heads.num, smem);
  __syncthreads();
  unsigned char* rings = smem + G::kQueryBytes;
  walk_range<T, D>(p, launch, range, static_cast<int32_t>(context) - 1, slope, smem,
                   rings + threadIdx.x / 32 * G::kRingBytes, &state);
  __syncthreads();  // all warps are done with their rings
  const Together all = together<D>(rings);
  put_state<T, D>(state, all);
  __syncthreads();
  write_rows<D>(p, split, seq, range_index, visible.end - visible.begin > 1, heads.first, heads.num,
                scale_of(p.v_scale, p, heads.kv_head), all);
  __syncthreads();  // the next range's queries and tiles go where these states are
}

// grid (num_seqs * max_splits, num_kv_heads * head_chunks), or (num_blocks, ...) with a work list
template <class T, int D>
__global__ void __launch_bounds__(32 * kMaxWarps)
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
  launch.math = {p.block_size, block_shift(p.block_size)};
  launch.head_chunks = (group + kRows - 1) / kRows;
  launch.aligned = rows_are_aligned(p.k, p.head_dim, sizeof(T)) &&
                   rows_are_aligned(p.v, p.head_dim_v, sizeof(T));
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
