// What the attention kernels share: where rows of paged K/V lie, how they stand in shared memory,
// how a dot product becomes a score, and how a row of results ends.
//
// Device code only; no state, no barriers.
#pragma once

#include "cuda/kernels.h"
#include "cuda/simt/simt.h"

namespace radixattn::cuda {

using namespace simt;

constexpr float kLog2e = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

// How K/V of a type are computed with on tensor cores: 16-bit numbers as they are, fp8 as f16, of
// which both fp8 formats are subsets.
template <class T>
struct ComputeOf {
  using Type = T;
};
template <>
struct ComputeOf<E4m3> {
  using Type = Half;
};
template <>
struct ComputeOf<E5m2> {
  using Type = Half;
};

// ---- one element, its dtype known at run time
// ----------------------------------------------------

RADIX_DEVICE float load_number(const void* data, int32_t dtype, int64_t at) {
  if (dtype == RADIX_F32) return static_cast<const float*>(data)[at];
  if (dtype == RADIX_F16) return __half2float(static_cast<const Half*>(data)[at]);
  return __bfloat162float(static_cast<const Bf16*>(data)[at]);
}

RADIX_DEVICE void store_number(void* data, int32_t dtype, int64_t at, float x) {
  if (dtype == RADIX_F32) {
    static_cast<float*>(data)[at] = x;
  } else if (dtype == RADIX_F16) {
    static_cast<Half*>(data)[at] = __float2half_rn(x);
  } else {
    static_cast<Bf16*>(data)[at] = __float2bfloat16_rn(x);
  }
}

// N neighbours, 1 or 8; 8 stand on a multiple of 16 bytes.
template <int N>
RADIX_DEVICE void load_elements(const void* data, int32_t dtype, int64_t at, float* x) {
  static_assert(N == 1 || N == 8);
  if constexpr (N == 1) {
    x[0] = load_number(data, dtype, at);
  } else if (dtype == RADIX_F32) {
    RADIX_UNROLL
    for (int i = 0; i < N; i += 4) {
      const float4 four =
          *reinterpret_cast<const float4*>(static_cast<const float*>(data) + at + i);
      x[i] = four.x, x[i + 1] = four.y, x[i + 2] = four.z, x[i + 3] = four.w;
    }
  } else {
    const uint4 piece = *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(data) + at);
    const uint32_t words[4] = {piece.x, piece.y, piece.z, piece.w};
    RADIX_UNROLL
    for (int i = 0; i < 4; ++i) {
      const float2 two =
          dtype == RADIX_F16 ? Pair<Half>::unpack(words[i]) : Pair<Bf16>::unpack(words[i]);
      x[2 * i] = two.x, x[2 * i + 1] = two.y;
    }
  }
}

// The other way, 8 of f32, f16 or bf16.
RADIX_DEVICE void store_piece_of(void* data, int32_t dtype, int64_t at, const float* x) {
  if (dtype == RADIX_F32) {
    RADIX_UNROLL
    for (int i = 0; i < 8; i += 4) {
      *reinterpret_cast<float4*>(static_cast<float*>(data) + at + i) =
          make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]);
    }
    return;
  }
  uint32_t words[4];
  RADIX_UNROLL
  for (int i = 0; i < 4; ++i) {
    words[i] = dtype == RADIX_F16 ? Pair<Half>::pack(x[2 * i], x[2 * i + 1])
                                  : Pair<Bf16>::pack(x[2 * i], x[2 * i + 1]);
  }
  store_piece(static_cast<uint16_t*>(data) + at, words);
}

// A query element in the compute type's range: f16 has none above 65504.
template <class C>
RADIX_DEVICE float clamp_query(float x) {
  if constexpr (std::is_same_v<C, Half>) return fminf(fmaxf(x, -65504.f), 65504.f);
  return x;
}

// ---- paged rows ---------------------------------------------------------------------------------

// The blocks of a sequence, and how many of its positions they can hold.
struct BlockRow {
  const int32_t* ids;
  int64_t max_positions;
};

RADIX_DEVICE BlockRow block_row(const AttentionParams& p, uint32_t seq) {
  if (p.blocks.tables != nullptr) {
    return {p.blocks.tables + seq * p.blocks.row_stride, p.blocks.row_stride * p.block_size};
  }
  const int32_t begin = p.blocks.block_begin[seq];
  return {p.blocks.block_ids + begin,
          (int64_t{p.blocks.block_begin[seq + 1]} - begin) * p.block_size};
}

// The sequence's length, whatever the array says: inside the launch's bound and the table.
RADIX_DEVICE int32_t context_of(const AttentionParams& p, uint32_t seq, const BlockRow& row) {
  int64_t context = p.context_lens[seq];
  if (context > p.max_context_len) context = p.max_context_len;
  if (context > row.max_positions) context = row.max_positions;
  return context < 0 ? 0 : static_cast<int32_t>(context);
}

// The query rows of a sequence, whatever the array says: none unless all of them are q's.
struct Queries {
  int32_t first, num;
};
RADIX_DEVICE Queries queries_of(const AttentionParams& p, uint32_t seq) {
  if (p.cu_q_lens == nullptr) return {static_cast<int32_t>(seq), 1};
  const int32_t first = p.cu_q_lens[seq], end = p.cu_q_lens[seq + 1];
  if (first < 0 || end < first || static_cast<uint32_t>(end) > p.num_q_rows) return {0, 0};
  return {first, end - first};
}

// Block and offset inside it of a position; block sizes that are powers of two (the host looks)
// divide by a shift.
struct BlockMath {
  uint32_t block_size;
  int32_t shift;  // -1: no power of two
  RADIX_DEVICE uint32_t index(uint32_t position) const {
    return shift >= 0 ? position >> shift : position / block_size;
  }
};

inline int32_t block_shift(uint32_t block_size) {
  int32_t shift = 0;
  while ((1u << shift) < block_size) ++shift;
  return (1u << shift) == block_size ? shift : -1;
}

// Elements from the tensor's start to the row of (position, head); -1 when the table names no block
// of the pool.
struct RowOffsets {
  int64_t k, v;
};
RADIX_DEVICE RowOffsets row_offsets(const AttentionParams& p, const BlockMath& math,
                                    const int32_t* blocks, uint32_t position, uint32_t kv_head) {
  const uint32_t index = math.index(position);
  const int64_t slot = position - index * math.block_size;
  const int64_t block = blocks[index];
  if (block < 0 || block >= p.num_blocks) return {-1, -1};
  return {block * p.k.block_stride + slot * p.k.token_stride + kv_head * p.k.head_stride,
          block * p.v.block_stride + slot * p.v.token_stride + kv_head * p.v.head_stride};
}

// True when rows can be copied in pieces of 16 bytes.
inline bool rows_are_aligned(const PagedTensor& t, uint32_t dim, uint32_t element_bytes) {
  const auto multiple = [&](int64_t elements) { return elements * element_bytes % 16 == 0; };
  return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && multiple(t.block_stride) &&
         multiple(t.token_stride) && multiple(t.head_stride) && multiple(dim);
}

// ---- decode's ranges ----------------------------------------------------------------------------

// The ranges that hold positions which the query of a sequence sees; one, range 0, of an empty one.
struct VisibleRanges {
  uint32_t first;  // visible position
  uint32_t begin, end;
};

RADIX_DEVICE uint32_t split_tokens_of(const DecodeSplit& split) {
  if (split.schedule == nullptr) return split.split_tokens;
  const int32_t tokens = split.schedule[1];
  return tokens > 0 ? static_cast<uint32_t>(tokens) : 1;
}

RADIX_DEVICE VisibleRanges visible_ranges(const AttentionParams& p, const DecodeSplit& split,
                                          uint32_t context) {
  const uint32_t first = p.window != 0 && context > p.window ? context - p.window : 0;
  if (split.max_splits == 1 || context == 0) return {first, 0, 1};
  const uint32_t tokens = split_tokens_of(split);
  return {first, first / tokens, (context - 1) / tokens + 1};
}

// Wherever the list's arrays say, inside the workspace.
RADIX_DEVICE int64_t partial_row(const DecodeSplit& split, uint32_t seq, uint32_t range) {
  if (split.partial_begin == nullptr) return int64_t{seq} * split.max_splits + range;
  const int64_t row = int64_t{split.partial_begin[seq]} + range,
                last = int64_t{split.max_items} - 1;
  return row < 0 ? 0 : row < last ? row : last;
}

// ---- tiles in shared memory: rows of kChunks pieces of 16 bytes
// ----------------------------------

// Where piece c of row r stands, in pieces: eight rows of one column lie in eight different places
// of the 128 bytes that shared memory serves at once, so that ldmatrix has no bank conflict.
//
//   row 0: 0 1 2 3 4 5 6 7      row 1: 1 0 3 2 5 4 7 6      row 2: 2 3 0 1 6 7 4 5   ...
template <int kChunks>
RADIX_DEVICE int swizzled(int r, int c) {
  if constexpr (kChunks >= 8) return r * kChunks + (c ^ (r & 7));
  return r * kChunks + (c ^ ((r >> 1) & (kChunks - 1)));
}

// One access: places in shared memory are aligned, which a char pointer does not say.
RADIX_DEVICE uint32_t load_word(const unsigned char* from) {
  return *reinterpret_cast<const uint32_t*>(from);
}

// Copies piece c (16 bytes) of a row of `dim` elements that begins at `row`; zeros past its end and
// when !valid. Aligned rows come asynchronously.
template <class T>
RADIX_DEVICE void load_piece(void* to, const T* row, int c, uint32_t dim, bool valid,
                             bool aligned) {
  constexpr int kElements = 16 / static_cast<int>(sizeof(T));
  const bool inside = valid && static_cast<uint32_t>(c * kElements) < dim;
  if (aligned) {
    cp_async16(to, inside ? row + c * kElements : row, inside);
    return;
  }
  T piece[kElements];
  memset(static_cast<void*>(piece), 0, sizeof piece);
  if (inside) {
    for (int i = 0; i < kElements; ++i) {
      if (static_cast<uint32_t>(c * kElements + i) < dim) piece[i] = row[c * kElements + i];
    }
  }
  uint32_t words[4];
  memcpy(words, piece, sizeof words);
  store_piece(to, words);
}

// ---- scores and results -------------------------------------------------------------------------

// Turns dot products into scores in units of log 2.
struct ScoreRule {
  float scale;  // of the dot product: log 2 units, or units of the cap
  float cap;    // in units of log 2; 0 = none

  RADIX_DEVICE float score(float dot) const {
    const float x = dot * scale;
    return cap > 0.f ? cap * tanhf(x) : x;
  }
};

RADIX_DEVICE float scale_of(const float* scales, const AttentionParams& p, uint32_t kv_head) {
  return scales == nullptr ? 1.f : scales[p.kv_scale_per_head ? kv_head : 0];
}

RADIX_DEVICE ScoreRule score_rule(const AttentionParams& p, uint32_t kv_head) {
  const float scale = p.scale * scale_of(p.k_scale, p, kv_head);
  if (p.softcap > 0.f) return {scale / p.softcap, p.softcap * kLog2e};
  return {scale * kLog2e, 0.f};
}

// ALiBi's slope of a head in units of log 2; 0 without.
RADIX_DEVICE float slope_of(const AttentionParams& p, uint32_t head) {
  return p.alibi_slopes == nullptr ? 0.f : p.alibi_slopes[head] * kLog2e;
}

// 2^(m - shift), where a row that has seen nothing (m = -inf) gives 0, not NaN.
RADIX_DEVICE float shrink(float m, float shift) {
  return m == -INFINITY ? 0.f : exp2_approx(m - shift);
}

// What an unnormalised row (maximum m in units of log 2, sum l of 2^(x - m)) is multiplied by, and
// its LSE (natural). The sink is one more key without a value.
struct RowEnd {
  float factor, lse;
};
RADIX_DEVICE RowEnd end_of_row(const AttentionParams& p, uint32_t head, float m, float l) {
  if (m == -INFINITY) return {0.f, -INFINITY};
  if (p.sinks == nullptr) return {1.f / l, (m + log2f(l)) * kLn2};
  const float sink = p.sinks[head] * kLog2e;
  const float top = fmaxf(m, sink);
  const float of_row = exp2_approx(m - top);
  const float sum = fmaf(l, of_row, exp2_approx(sink - top));
  return {of_row / sum, (top + log2f(sum)) * kLn2};
}

}  // namespace radixattn::cuda
