// What the kernels that read K/V for few rows share: 16 query rows of a warp against tiles of 16
// tokens, which lie in shared memory as the cache has them, on tensor cores.
//
// fp8 K and V become f16 in registers, each in the order in which the product wants it:
//
//   K  a thread of the product holds d = 2t, 2t+1, 2t+8, 2t+9 of 16; a sum does not care for order,
//   so
//      the queries stand in shared memory in the order 4t .. 4t+3 -> those places, and one 4-byte
//      load of K fills both registers
//   V  four bytes of one token are four columns; zipped with the next token's they are the pairs
//      (token, token + 1) of four products whose columns stand 4 apart: column c of product j is
//      element 4c + j of 32
//
// A tile's K and V are [tokens][D] each, V behind K, swizzled; 16 tokens of a longer tile stand as
// they would alone. Device code only; no state, no barriers of a block.
#pragma once

#include "cuda/kernels/attention_tile.h"

namespace radixattn::cuda {

constexpr int kRows = 16;   // of a warp
constexpr int kTile = 16;   // tokens of a tile
constexpr int kStages = 3;  // tiles of a ring
constexpr int kMaxWarps = 4;

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

// Keys of one KV head of one sequence.
struct KeyRange {
  const int32_t* blocks;
  uint32_t begin, end;  // positions
  uint32_t kv_head;
};

// How K and V are brought in.
struct KeyAccess {
  BlockMath math;
  bool aligned;
};

template <class T>
KeyAccess key_access(const AttentionParams& p) {
  return {{p.block_size, block_shift(p.block_size)},
          rows_are_aligned(p.k, p.head_dim, sizeof(T)) &&
              rows_are_aligned(p.v, p.head_dim_v, sizeof(T))};
}

// ---- bringing K, V and queries in ---------------------------------------------------------------

// Starts the copy of tokens [first, first + kTokens) to K at `k` and V behind it: those of them
// from `share` on, kShare, are this warp's. Returns which tokens are in the range and exist (bit i:
// token first + i), all kTokens of them.
template <class T, int D, int kTokens, int kShare>
RADIX_DEVICE uint32_t load_tokens(const AttentionParams& p, const KeyAccess& access,
                                  const KeyRange& range, uint32_t first, int share,
                                  unsigned char* k) {
  using G = Geometry<T, D>;
  const int lane = threadIdx.x % 32;
  const uint32_t position = first + lane % kTokens;
  RowOffsets offsets = {-1, -1};
  if (position >= range.begin && position < range.end)
    offsets = row_offsets(p, access.math, range.blocks, position, range.kv_head);
  const uint32_t seen = __ballot_sync(kFullWarp, offsets.k >= 0) & (0xffffffffu >> (32 - kTokens));

  // As far as the products look: whole steps of 16 (fp8 V: 32) elements, zeros behind the last.
  constexpr int kPiece = 16 / static_cast<int>(sizeof(T));  // elements of a piece
  constexpr int kValueStep = G::kFp8 ? 32 : 16;
  const int k_pieces = (static_cast<int>(p.head_dim) + 15) / 16 * (16 / kPiece);
  const int v_pieces =
      (static_cast<int>(p.head_dim_v) + kValueStep - 1) / kValueStep * (kValueStep / kPiece);
  unsigned char* v = k + kTokens / kTile * G::kTileBytes;
  constexpr int kLanesPerRow = G::kPieces < 32 ? G::kPieces : 32;
  constexpr int kRowsPerStep = 32 / kLanesPerRow;
  static_assert(kShare % kRowsPerStep == 0);
  const int c = lane % kLanesPerRow;
  const auto bring = [&](int i, bool aligned) {
    const int r = share + i + lane / kLanesPerRow;
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
  if (access.aligned) {
    RADIX_UNROLL
    for (int i = 0; i < kShare; i += kRowsPerStep) bring(i, true);
  } else {
    RADIX_ROLLED
    for (int i = 0; i < kShare; i += kRowsPerStep) bring(i, false);
  }
  return seen;
}

// Queries of num_rows rows to shared memory, in the compute type: row r's begin at element at(r)
// of p.q, or it has none (negative). Those and elements past head_dim are zero.
template <class T, int D, class At>
RADIX_DEVICE void load_queries(const AttentionParams& p, int num_rows, unsigned char* smem, At at) {
  using G = Geometry<T, D>;
  using C = typename G::Compute;
  auto* q = reinterpret_cast<uint32_t*>(smem);
  for (int i = static_cast<int>(threadIdx.x); i < num_rows * D / 2;
       i += static_cast<int>(blockDim.x)) {
    const int r = i / (D / 2), pair = i % (D / 2);  // stored columns 2 * pair and the next
    int e = 2 * pair;
    if constexpr (G::kFp8) {  // element 4t + i stands at column 2t + i % 2 + 8 * (i / 2) of its 16
      const int column = e % 16;
      e += column % 8 / 2 * 4 + column / 8 * 2 - column;
    }
    float x[2] = {0.f, 0.f};
    const int64_t row = at(r);
    for (int j = 0; j < 2; ++j) {
      if (row >= 0 && static_cast<uint32_t>(e + j) < p.head_dim)
        x[j] = clamp_query<C>(load_number(p.q.data, p.q.dtype, row + e + j));
    }
    q[swizzled<G::kQueryPieces>(r, pair / 4) * 4 + pair % 4] = Pair<C>::pack(x[0], x[1]);
  }
}

// ---- one tile -----------------------------------------------------------------------------------

// A warp's state: rows g and g + 8 of its 16, g = lane / 4.
template <int kColumns>
struct State {
  float o[kColumns / 8][4];
  float m[2], l[2];
};

template <int kColumns>
RADIX_DEVICE void clear(State<kColumns>* state) {
  RADIX_UNROLL
  for (int n = 0; n < kColumns / 8; ++n) {
    RADIX_UNROLL
    for (int i = 0; i < 4; ++i) state->o[n][i] = 0.f;
  }
  RADIX_UNROLL
  for (int r = 0; r < 2; ++r) state->m[r] = -INFINITY, state->l[r] = 0.f;
}

// Dot products of the 16 rows at `q` and kTiles tiles from `k` on.
template <class T, int D, int kTiles>
RADIX_DEVICE void scores(const AttentionParams& p, const unsigned char* q, const unsigned char* k,
                         float (&s)[kTiles][2][4]) {
  using G = Geometry<T, D>;
  using C = typename G::Compute;
  const int lane = threadIdx.x % 32;
  RADIX_UNROLL
  for (int t = 0; t < kTiles; ++t) {
    RADIX_UNROLL
    for (int i = 0; i < 8; ++i) s[t][i / 4][i % 4] = 0.f;
  }
  RADIX_UNROLL
  for (int step = 0; step < D / 16; ++step) {
    if (static_cast<uint32_t>(step * 16) >= p.head_dim) break;
    uint32_t a[4], b[4];
    ldmatrix_x4(a, q + swizzled<G::kQueryPieces>(lane % 16, step * 2 + lane / 16) * 16);
    RADIX_UNROLL
    for (int t = 0; t < kTiles; ++t) {
      const unsigned char* tile = k + t * G::kTileBytes;
      if constexpr (G::kFp8) {
        RADIX_UNROLL
        for (int n = 0; n < 2; ++n) {
          const uint32_t word =
              load_word(tile + swizzled<G::kPieces>(n * 8 + lane / 4, step) * 16 + lane % 4 * 4);
          b[2 * n] = fp8x2_to_half2(static_cast<uint16_t>(word), T{});
          b[2 * n + 1] = fp8x2_to_half2(static_cast<uint16_t>(word >> 16), T{});
        }
      } else {
        ldmatrix_x4(
            b, tile + swizzled<G::kPieces>(lane % 8 + lane / 16 * 8, step * 2 + lane / 8 % 2) * 16);
      }
      mma_m16n8k16<C>(s[t][0], a, b[0], b[1]);
      mma_m16n8k16<C>(s[t][1], a, b[2], b[3]);
    }
  }
}

template <int kColumns>
RADIX_DEVICE void rescale(const float (&alpha)[2], State<kColumns>* state) {
  RADIX_UNROLL
  for (int n = 0; n < kColumns / 8; ++n) {
    RADIX_UNROLL
    for (int i = 0; i < 4; ++i) state->o[n][i] *= alpha[i / 2];
  }
}

// Adds the weighted values of a tile: columns [first_column, first_column + kColumns), a multiple
// of 32 each.
template <class T, int D, int kColumns>
RADIX_DEVICE void values(const AttentionParams& p, const unsigned char* v, int first_column,
                         const float (&s)[2][4], State<kColumns>* state) {
  using G = Geometry<T, D>;
  using C = typename G::Compute;
  const int lane = threadIdx.x % 32;
  const uint32_t a[4] = {Pair<C>::pack(s[0][0], s[0][1]), Pair<C>::pack(s[0][2], s[0][3]),
                         Pair<C>::pack(s[1][0], s[1][1]), Pair<C>::pack(s[1][2], s[1][3])};
  if constexpr (G::kFp8) {
    RADIX_UNROLL
    for (int step = 0; step < kColumns / 32; ++step) {
      if (static_cast<uint32_t>(first_column + step * 32) >= p.head_dim_v) break;
      uint32_t word[4];  // tokens 2t, 2t + 1, 2t + 8, 2t + 9; elements 4g .. 4g + 3 of 32
      RADIX_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int token = lane % 4 * 2 + i % 2 + i / 2 * 8;
        const int piece = swizzled<G::kPieces>(token, first_column / 16 + step * 2 + lane / 16);
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
    for (int step = 0; step < kColumns / 16; ++step) {
      if (static_cast<uint32_t>(first_column + step * 16) >= p.head_dim_v) continue;
      uint32_t b[4];
      ldmatrix_x4_trans(
          b, v + swizzled<G::kPieces>(lane % 16, first_column / 8 + step * 2 + lane / 16) * 16);
      mma_m16n8k16<C>(state->o[2 * step], a, b[0], b[1]);
      mma_m16n8k16<C>(state->o[2 * step + 1], a, b[2], b[3]);
    }
  }
}

// Element of the row that register i of product n holds (see the top for fp8): a thread's first one
// and, from there, one that all threads know. Elements of a product and a thread are all below a
// head dim, a multiple of 8, or none of them.
template <class T>
RADIX_DEVICE int first_column_of() {
  return static_cast<int>(threadIdx.x) % 4 * (sizeof(T) == 1 ? 8 : 2);
}
template <class T>
RADIX_DEVICE constexpr int column_from_first(int n, int i) {
  return sizeof(T) == 1 ? n / 4 * 32 + i % 2 * 4 + n % 4 : n * 8 + i % 2;
}
template <class T>
RADIX_DEVICE int column_of(int n, int i) {
  return first_column_of<T>() + column_from_first<T>(n, i);
}

// ---- a warp's tiles -----------------------------------------------------------------------------

// Tiles begin, begin + step, ... below end of the range go through a warp's ring of kStages, two of
// them on their way; visit(position of the first token, which tokens are there, K, with V behind).
template <class T, int D, class Visit>
RADIX_DEVICE void walk_tiles(const AttentionParams& p, const KeyAccess& access,
                             const KeyRange& range, uint32_t begin, uint32_t end, uint32_t step,
                             unsigned char* ring, Visit visit) {
  using G = Geometry<T, D>;
  const auto load_tile = [&](uint32_t tile, int stage) {
    return load_tokens<T, D, kTile, kTile>(p, access, range, tile * kTile, 0,
                                           ring + stage * 2 * G::kTileBytes);
  };
  uint32_t seen[kStages - 1];  // of the tiles on their way, the next one first
  RADIX_UNROLL
  for (int i = 0; i < kStages - 1; ++i) {
    const uint32_t tile = begin + i * step;
    seen[i] = 0;
    if (tile < end) seen[i] = load_tile(tile, i);
    cp_async_commit();
  }
  int stage = 0;
  for (uint32_t tile = begin; tile < end; tile += step) {
    cp_async_wait<kStages - 2>();
    __syncwarp();  // every lane's copies have arrived, and every lane is done with the tile before
    const uint32_t seen_now = seen[0];
    const uint32_t ahead = tile + (kStages - 1) * step;
    const int ahead_stage = stage == 0 ? kStages - 1 : stage - 1;
    RADIX_UNROLL
    for (int i = 0; i + 1 < kStages - 1; ++i) seen[i] = seen[i + 1];
    if (ahead < end) seen[kStages - 2] = load_tile(ahead, ahead_stage);
    cp_async_commit();
    visit(tile * kTile, seen_now, ring + stage * 2 * G::kTileBytes);
    stage = stage + 1 == kStages ? 0 : stage + 1;
  }
  cp_async_wait<0>();
}

// ---- warps' states ------------------------------------------------------------------------------

// The states of `warps` warps in shared memory, over their rings: o [warps][16][D], then m and l
// [warps][16].
struct Together {
  float *o, *m, *l;
};

template <int D>
RADIX_DEVICE Together together(unsigned char* rings, uint32_t warps) {
  auto* o = reinterpret_cast<float*>(rings);
  float* m = o + warps * kRows * D;
  return {o, m, m + warps * kRows};
}

template <class T, int D>
RADIX_DEVICE void put_state(const State<D>& state, const Together& to) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  RADIX_UNROLL
  for (int r = 0; r < 2; ++r) {
    const int row = warp * kRows + lane / 4 + r * 8;
    const float l = warp_sum<4>(state.l[r]);
    if (lane % 4 == 0) to.m[row] = state.m[r], to.l[row] = l;
    float* o = to.o + row * D + first_column_of<T>();
    RADIX_UNROLL
    for (int n = 0; n < D / 8; ++n) {
      RADIX_UNROLL
      for (int i = 0; i < 2; ++i) o[column_from_first<T>(n, i)] = state.o[n][2 * r + i];
    }
  }
}

}  // namespace radixattn::cuda
