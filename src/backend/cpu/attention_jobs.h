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
constexpr uint32_t kTileTokens = 16;  // decode: tokens whose scores stand before one softmax update
constexpr uint32_t kQuadHeads = 4;    // decode: query heads whose softmax is computed side by side
constexpr uint32_t kPrefillTile = 64;  // prefill: tokens of K and V unpacked at a time
// Query rows of an item, multiples of the widest panels: what is unpacked for 480 rows costs
// half as much a row as for 240, which prefill takes when 480 would leave workers without items.
constexpr uint32_t kPrefillRows = 480;
constexpr uint32_t kPrefillFewRows = 240;
constexpr uint32_t kPrefillMaxPanel = 48;  // rows of the widest panel
// Kernel sources inline all of these, always: an inline function that one object emits for AVX-512
// and another for the baseline would be merged by the linker into either.
#define RADIX_JOB_INLINE static inline __attribute__((always_inline))

RADIX_JOB_INLINE constexpr uint32_t padded(uint32_t n) {
  return (n + kRowPad - 1) / kRowPad * kRowPad;
}

// Where launches keep partial states: of all query heads, row after row.
struct PartialStates {
  float* o = nullptr;  // [states, num_q_heads, padded(head_dim_v)]  unnormalised
  float* m = nullptr;  // [states, num_q_heads]  running maximum, base 2
  float* l = nullptr;  // [states, num_q_heads]  sum of 2^(x - m)
};

constexpr int64_t kNoState = -1;  // an item writes the result

// ---- decode

// One launch. Range r of sequence s, when it has more than one, is state s * max_ranges + r.
struct DecodeJob {
  const AttentionParams* params = nullptr;
  uint32_t range_tokens =
      0;  // positions [i*range_tokens, (i+1)*range_tokens) are range i of any sequence
  uint32_t max_ranges = 0;  // ranges a sequence can have
  PartialStates partial;
};

RADIX_JOB_INLINE int64_t range_state(const DecodeJob& job, uint32_t seq, uint32_t range) {
  return static_cast<int64_t>(uint64_t{seq} * job.max_ranges + range);
}

// Query rows of an item of decode at most.
constexpr uint32_t kDecodeRows = 8;

// Tokens [token_begin, token_end) of sequence seq for KV heads [head_begin, head_end) of query row
// `query`, and of `num_more` others, all of which see all of them.
struct DecodeItem {
  uint32_t seq = 0;
  uint32_t token_begin = 0, token_end = 0;
  uint32_t head_begin = 0, head_end = 0;
  int64_t query = 0;
  int32_t position = 0;      // of the query
  int64_t state = kNoState;  // partial state; the other rows' are the next ones
  uint32_t num_more = 0;     // less than kDecodeRows
  const RadixRow* more = nullptr;
};

// Lets a worker take its next item a little early, when the last tile of its item begins: that
// one's first tile is prefetched, and the memory is busy from one item to the next.
struct DecodeAhead {
  // Takes the next item; false: there is none for the kernel. The kernel calls it at most once an
  // item, and not for an item without tokens.
  bool (*draw)(void* arg, DecodeItem* next);
  void* arg;
  // In: the first tile of this item has been asked for. Out: that of the one drawn has.
  bool asked = false;
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

// Worker scratch of decode, in floats for each query row of an item: q and o of every query head;
// m, l, alpha and the scores of every quad of heads, of which a KV head has at most one that is not
// full.
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

// rows: the sorted rows of a list; null: items have their own sequence's rows, in their order.
struct PrefillJob {
  const AttentionParams* params = nullptr;
  const RadixRow* rows = nullptr;
  PartialStates partial;
};

// Stacked rows [row_begin, row_end) over keys [token_begin, token_end) of sequence seq, for KV
// heads [head_begin, head_end); stacked row i is query head kv_head*group + i % group of query row
// i / group. Rows see the keys up to their own position and within the window. Several heads only
// when prefill_item_heads says so.
struct PrefillItem {
  uint32_t seq = 0;
  uint32_t head_begin = 0, head_end = 0;
  uint32_t row_begin = 0, row_end = 0;  // at most kPrefillRows
  uint32_t token_begin = 0, token_end = 0;
  // Of query row r and segment k: state + r + k * state_stride, as in RadixItem.
  int32_t state = RadixItem::kDirect;
  int32_t state_stride = 0;
};

// KV heads that an item of so few rows may have: reading token after token, all heads of each, is
// what memory likes best (docs/kernels.md has figures), and few rows do not keep a processor busy.
constexpr uint32_t kPrefillMultiRows = 48;
RADIX_JOB_INLINE constexpr uint32_t prefill_item_heads(uint32_t rows) {
  return rows > kPrefillMultiRows ? 1 : kPrefillRows / kPrefillMaxPanel;
}

constexpr uint32_t kTileStride = 256 + kRowPad;  // floats from one unpacked K or V row to the next

// Worker scratch of prefill, in floats (layout: prefill_item-inl.h).
RADIX_JOB_INLINE uint64_t prefill_scratch_floats(const AttentionParams& p) {
  const uint64_t rows = kPrefillRows + kPrefillMaxPanel;
  const uint64_t totals = p.batch_invariant ? uint64_t{p.head_dim_v} + 2 : 0;
  return rows * (uint64_t{p.head_dim} + p.head_dim_v + totals + 4) +
         2 * uint64_t{kPrefillTile} * kTileStride + uint64_t{kPrefillTile} * kPrefillMaxPanel + 64;
}

// ---- merges

// The rows of a list that have states: terms are as in RadixMerge.
struct RadixMergeJob {
  const AttentionParams* params = nullptr;
  const RadixMerge* merges = nullptr;
  const int32_t* terms = nullptr;
  PartialStates partial;
};

}  // namespace radixattn
