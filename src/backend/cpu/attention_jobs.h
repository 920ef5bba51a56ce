// What the attention launches hand to their kernels: plain structs, shared by code of every target.
//
// A launch cuts its work into items and gives each worker a scratch area of its own; all of it lies
// in the caller's workspace. Rows of state are padded to kRowPad floats, so that kernels store
// whole vectors.
#pragma once

#include <cstdint>

#include "backend/backend.h"

namespace radixattn {

constexpr uint32_t kRowPad = 16;      // floats: the widest vector
constexpr uint32_t kTileTokens = 32;  // decode: tokens whose scores stand before one softmax update
constexpr uint32_t kQuadHeads = 4;    // decode: query heads whose softmax is computed side by side
constexpr uint32_t kPrefillTile = 64;  // prefill: tokens of K and V unpacked at a time
constexpr uint32_t kPrefillRows =
    240;  // prefill: query rows of an item, a multiple of every panel width in use
constexpr uint32_t kPrefillMaxPanel = 48;  // rows of the widest panel

// Kernel sources inline all of these, always: an inline function that one object emits for AVX-512
// and another for the baseline would be merged by the linker into either.
#define RADIX_JOB_INLINE static inline __attribute__((always_inline))

RADIX_JOB_INLINE constexpr uint32_t padded(uint32_t n) {
  return (n + kRowPad - 1) / kRowPad * kRowPad;
}

// ---- decode

// One launch. Partial states, when a sequence has more than one range:
//   o  // [num_seqs, max_ranges, num_q_heads, padded(head_dim_v)]  unnormalised
//   m  // [num_seqs, max_ranges, num_q_heads]  running maximum, base 2
//   l  // [num_seqs, max_ranges, num_q_heads]  sum of 2^(x - m)
struct DecodeJob {
  const AttentionParams* params = nullptr;
  uint32_t range_tokens =
      0;  // positions [i*range_tokens, (i+1)*range_tokens) are range i of any sequence
  uint32_t max_ranges = 0;  // ranges a sequence can have
  float* partial_o = nullptr;
  float* partial_m = nullptr;
  float* partial_l = nullptr;
};

RADIX_JOB_INLINE uint64_t partial_row(const DecodeJob& job, uint32_t seq, uint32_t range) {
  return (uint64_t{seq} * job.max_ranges + range) * job.params->num_q_heads;
}

// Tokens [token_begin, token_end) of sequence seq for KV heads [head_begin, head_end). `range` is
// the index of the partial state, counted from the first visible range; -1: the only one, write the
// result.
struct DecodeItem {
  uint32_t seq = 0;
  uint32_t token_begin = 0, token_end = 0;
  uint32_t head_begin = 0, head_end = 0;
  int32_t range = -1;
};

// First token that the query of sequence `seq` sees, and how many ranges it has from there.
RADIX_JOB_INLINE uint32_t decode_first_token(const AttentionParams& p, uint32_t seq) {
  const auto context = static_cast<uint32_t>(p.context_lens[seq]);
  return p.window != 0 && context > p.window ? context - p.window : 0;
}

RADIX_JOB_INLINE uint32_t decode_num_ranges(const DecodeJob& job, uint32_t seq) {
  const auto context = static_cast<uint32_t>(job.params->context_lens[seq]);
  if (context == 0) return 0;
  return (context - 1) / job.range_tokens -
         decode_first_token(*job.params, seq) / job.range_tokens + 1;
}

// Worker scratch of decode, in floats: q and o of every query head; m, l, alpha and the scores of
// every quad of heads, of which a KV head has at most one that is not full.
RADIX_JOB_INLINE uint64_t decode_scratch_floats(const AttentionParams& p) {
  const uint64_t quads = uint64_t{p.num_kv_heads} + p.num_q_heads / kQuadHeads;
  return (uint64_t{padded(p.head_dim)} + padded(p.head_dim_v)) * p.num_q_heads +
         (3 * kRowPad + kTileTokens * kQuadHeads) * quads;
}

// The block table of a sequence.
RADIX_JOB_INLINE const int32_t* block_row(const BlockTables& b, uint32_t seq) {
  return b.tables != nullptr ? b.tables + int64_t{seq} * b.row_stride
                             : b.block_ids + b.block_begin[seq];
}

// ---- prefill

struct PrefillJob {
  const AttentionParams* params = nullptr;
};

// Stacked rows [row_begin, row_end) of one KV head of one sequence; stacked row i is query head
// kv_head*group + i % group of the sequence's query row i / group.
struct PrefillItem {
  uint32_t seq = 0;
  uint32_t kv_head = 0;
  uint32_t row_begin = 0, row_end = 0;
};

constexpr uint32_t kTileStride = 256 + kRowPad;  // floats from one unpacked K or V row to the next

// Worker scratch of prefill, in floats (layout: prefill.cpp).
RADIX_JOB_INLINE uint64_t prefill_scratch_floats(const AttentionParams& p) {
  const uint64_t rows = kPrefillRows + kPrefillMaxPanel;
  return rows * (uint64_t{p.head_dim} + p.head_dim_v + 4) +
         2 * uint64_t{kPrefillTile} * kTileStride + uint64_t{kPrefillTile} * kPrefillMaxPanel + 64;
}

}  // namespace radixattn
