// A tile of K or V of one KV head, gathered from its blocks for the products of panel-inl.h. For
// prefill.cpp only (see simd-inl.h).
//
//   floats      [token][dim]           f16, bf16 widened
//   raw bf16    [token][dim / 2]       K for scores of bf16 queries: pairs along the row, as stored
//   bf16 pairs  [token / 2][dim]       V for bf16 weights: tokens 2i and 2i + 1 side by side
//
// Rows are kTileStride words apart. Tokens that the tile must not look at, and rows up to a
// multiple of 16, are zeros.
#pragma once

#include "backend/cpu/panel-inl.h"

namespace radixattn {
namespace RADIX_CPU_TARGET_NS {

enum class Unpacked { kFloats, kRaw, kPairs };

// Element offsets of the tile's rows of KV head 0.
struct TileRows {
  int64_t k[kPrefillTile];
  int64_t v[kPrefillTile];
};

RADIX_INLINE void locate_rows(const AttentionParams& p, const int32_t* blocks, const KvTile& tile,
                              TileRows* rows) {
  uint32_t t = tile.unseen;
  uint32_t index = (tile.position + t) / p.block_size;
  uint32_t slot = (tile.position + t) % p.block_size;
  for (; t < tile.n; slot = 0, ++index) {
    const int64_t k = blocks[index] * p.k.block_stride;
    const int64_t v = blocks[index] * p.v.block_stride;
    for (; slot < p.block_size && t < tile.n; ++slot, ++t) {
      rows->k[t] = k + slot * p.k.token_stride;
      rows->v[t] = v + slot * p.v.token_stride;
    }
  }
}

RADIX_INLINE void zero_row(float* to, uint32_t words) {
  for (uint32_t i = 0; i < words; ++i) to[i] = 0.f;
}

// Element i of `low` and of `high` to the halves of word i.
RADIX_INLINE void pair_rows(const BF16* low, const BF16* high, uint32_t dim, float* to) {
  const DU d;
  const DH half;
  uint32_t i = 0;
  for (; i + kLanes <= dim; i += kLanes) {
    const auto a = hn::PromoteTo(d, hn::LoadU(half, &low[i].bits));
    const auto b = hn::PromoteTo(d, hn::LoadU(half, &high[i].bits));
    hn::StoreU(hn::BitCast(DF(), hn::Or(a, hn::ShiftLeft<16>(b))), DF(), to + i);
  }
  for (; i < dim; ++i) to[i] = bits_float(low[i].bits | uint32_t{high[i].bits} << 16);
}

template <class T, Unpacked kForm>
static void gather_rows(const T* base, const int64_t* offsets, uint32_t dim, const KvTile& tile,
                        float* to) {
  static constexpr T kZeros[256] = {};
  const uint32_t rows = (tile.n + 15) / 16 * 16;
  if constexpr (kForm == Unpacked::kPairs) {
    const auto row = [&](uint32_t t) {
      return t < tile.unseen || t >= tile.n ? kZeros : base + offsets[t];
    };
    for (uint32_t t = 0; t < rows; t += 2) {
      pair_rows(row(t), row(t + 1), dim, to + t / 2 * kTileStride);
    }
  } else {
    const uint32_t words = kForm == Unpacked::kRaw ? dim / 2 : dim;
    uint32_t t = 0;
    for (; t < tile.unseen; ++t) zero_row(to + t * kTileStride, words);
    for (; t < tile.n; ++t) {
      if constexpr (kForm == Unpacked::kRaw) {
        copy_words(base + offsets[t], to + t * kTileStride, words);
      } else {
        row_to_f32(base + offsets[t], to + t * kTileStride, dim);
      }
    }
    for (; t < rows; ++t) zero_row(to + t * kTileStride, words);
  }
}

// One KV head of K or V: where its vectors are, their dim and the tile's offsets.
struct HeadRows {
  const PagedTensor& from;
  int64_t head;
  const int64_t* offsets;
  uint32_t dim;
};

template <class T, Unpacked kForm>
RADIX_INLINE void gather_as(const HeadRows& h, const KvTile& tile, float* to) {
  const T* base = static_cast<const T*>(h.from.data) + h.head * h.from.head_stride;
  gather_rows<T, kForm>(base, h.offsets, h.dim, tile, to);
}

RADIX_INLINE void gather_floats(const HeadRows& h, const KvTile& tile, float* to) {
  constexpr auto kForm = Unpacked::kFloats;
  if (h.from.dtype == RADIX_F32) gather_as<F32, kForm>(h, tile, to);
  if (h.from.dtype == RADIX_F16) gather_as<F16, kForm>(h, tile, to);
  if (h.from.dtype == RADIX_BF16) gather_as<BF16, kForm>(h, tile, to);
}

RADIX_INLINE void gather_tile(const AttentionParams& p, const TileRows& rows, uint32_t kv_head,
                              const KvTile& tile, float* k, float* v) {
  const HeadRows of_k = {p.k, kv_head, rows.k, p.head_dim};
  const HeadRows of_v = {p.v, kv_head, rows.v, p.head_dim_v};
  if (has_bf16_scores(p)) {
    gather_as<BF16, Unpacked::kRaw>(of_k, tile, k);
  } else {
    gather_floats(of_k, tile, k);
  }
  if (has_bf16_values(p)) {
    gather_as<BF16, Unpacked::kPairs>(of_v, tile, v);
  } else {
    gather_floats(of_v, tile, v);
  }
}

// ---- the tile after this one

// What is still to be prefetched of it, one token and KV head at a time, K and V, in the order of
// addresses: the processor does not guess the next block.
struct Ahead {
  const TileRows* rows = nullptr;
  uint32_t token = 0, num_tokens = 0;
  uint32_t head = 0, head_begin = 0, head_end = 0;
  bool by_token = true;  // a token's heads lie closer together than a head's tokens
  uint32_t pace = 0;     // vectors of K, and as many of V, at a time
};

// Into the first cache and, when that needs the room, the second.
RADIX_INLINE void prefetch_vector(const PagedTensor& t, int64_t at, uint32_t dim) {
  const int64_t element = t.dtype == RADIX_F32 ? 4 : 2;
  const char* from = static_cast<const char*>(t.data) + at * element;
  const char* end = from + dim * element;
  for (; from < end; from += 64) __builtin_prefetch(from, 0, 3);
}

// NOTE: always inlined: g++ 12 drops calls of functions that only prefetch.
RADIX_INLINE void prefetch_ahead(const AttentionParams& p, Ahead* a) {
  for (uint32_t vectors = a->pace;
       vectors != 0 && a->token < a->num_tokens && a->head < a->head_end; --vectors) {
    prefetch_vector(p.k, a->rows->k[a->token] + a->head * p.k.head_stride, p.head_dim);
    prefetch_vector(p.v, a->rows->v[a->token] + a->head * p.v.head_stride, p.head_dim_v);
    if (a->by_token) {
      if (++a->head == a->head_end) a->head = a->head_begin, ++a->token;
    } else {
      if (++a->token == a->num_tokens) a->token = 0, ++a->head;
    }
  }
}

}  // namespace RADIX_CPU_TARGET_NS
}  // namespace radixattn
