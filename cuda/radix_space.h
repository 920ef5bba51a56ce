// How radix attention is cut on a device: room and costs of plans' lists, ranges of batch-invariant
// launches without one, and the workspace of both. From bounds alone.
#pragma once

#include "cuda/kernels.h"
#include "plan/prefill_choice.h"

namespace radixattn::cuda {

constexpr uint32_t kRadixBlocksPerSm = 2;
constexpr uint64_t kMaxStateBytes = uint64_t{128} << 20;  // of partial states

inline uint64_t radix_state_bytes(const AttentionParams& p, uint64_t states) {
  return states * p.num_q_heads * (uint64_t{p.head_dim_v} + 2) * sizeof(float);
}

// The room for `states` partial states, from `base` on.
inline void cut_states(const AttentionParams& p, uint64_t states, void* base, RadixSplit* out) {
  out->max_states = states;
  out->o = static_cast<float*>(base);
  out->ml = out->o + states * p.num_q_heads * p.head_dim_v;
}

// Blocks that walk a list at the same time, for each KV head.
inline uint32_t radix_walkers(const AttentionParams& p, const DeviceLimits& device) {
  const uint32_t blocks = device.num_sms * kRadixBlocksPerSm / p.num_kv_heads;
  return blocks > 0 ? blocks : 1;
}

inline uint64_t radix_row_tiles(const AttentionParams& p, bool prefill) {
  const uint64_t rows = uint64_t{prefill ? p.max_query_len : 1} * (p.num_q_heads / p.num_kv_heads);
  const uint32_t tile = radix_item_rows(p.head_dim, p.head_dim_v);
  return (rows + tile - 1) / tile;
}

// ---- launches without a list --------------------------------------------------------------------

// Sequences that leave at least half of the device without work are cut into ranges, as many as
// fill it. Nothing of this changes a bit.
inline RadixSplit choose_ranges(const AttentionParams& p, const DeviceLimits& device,
                                bool prefill) {
  RadixSplit split;
  const uint64_t at_once = uint64_t{device.num_sms} * kRadixBlocksPerSm;
  const uint64_t blocks = p.num_seqs * radix_row_tiles(p, prefill) * p.num_kv_heads;
  const uint64_t wanted = blocks > 0 ? at_once / blocks : 0;
  split.num_segments =
      static_cast<uint32_t>((uint64_t{p.max_context_len} + kSegmentTokens - 1) / kSegmentTokens);
  if (wanted < 2 || split.num_segments < 2) return split;
  const uint64_t states =
      uint64_t{p.num_seqs} * (prefill ? p.max_query_len : 1) * split.num_segments;
  if (radix_state_bytes(p, states) > kMaxStateBytes) return split;
  const uint64_t ranges = wanted < split.num_segments ? wanted : split.num_segments;
  split.range_segments = static_cast<uint32_t>((split.num_segments + ranges - 1) / ranges);
  split.num_ranges = (split.num_segments + split.range_segments - 1) / split.range_segments;
  split.max_states = states;
  return split;
}

// What launches within these bounds can use: with fewer sequences more of them are cut. One that
// gets less is cut less.
inline uint64_t ranges_workspace(const AttentionParams& bounds, const DeviceLimits& device,
                                 bool prefill) {
  AttentionParams p = bounds;
  const uint64_t at_once = uint64_t{device.num_sms} * kRadixBlocksPerSm;
  const uint64_t most = at_once / 2 / p.num_kv_heads;  // that are cut, of a row tile each
  if (most < p.num_seqs) p.num_seqs = static_cast<uint32_t>(most);
  const uint64_t segments = (uint64_t{p.max_context_len} + kSegmentTokens - 1) / kSegmentTokens;
  const uint64_t bytes =
      radix_state_bytes(p, uint64_t{p.num_seqs} * (prefill ? p.max_query_len : 1) * segments);
  return segments < 2 ? 0 : bytes < kMaxStateBytes ? bytes : kMaxStateBytes;
}

// ---- lists --------------------------------------------------------------------------------------

// Modelled, not measured. The unit is the time that a worker's share of the memory takes for one
// token's K and V of one KV head. Keys of few rows cost that. Products of 16 rows with a key are
// 32 (head_dim + head_dim_v) operations: devices do 150 to 200 of them (mma.sync, 16 bits) while a
// byte comes in, and attention gets about half of that. An item's start and end are as long as
// bringing in 32 KiB: three waits for memory (table, first keys, rows written) and a pipeline that
// fills. A state is written, read again and merged in f32.
inline RadixCosts radix_costs(const AttentionParams& p, uint32_t element_bytes) {
  constexpr float kItemBytes = 32 * 1024, kOperationsPerByte = 80, kRowsOfPanel = 16;
  const uint32_t dims = p.head_dim + p.head_dim_v;
  const float token_bytes = static_cast<float>(dims) * static_cast<float>(element_bytes);
  const float group = static_cast<float>(p.num_q_heads / p.num_kv_heads);
  RadixCosts costs;
  costs.item = kItemBytes / token_bytes;
  costs.narrow_token = 1;
  costs.narrow_keys = costs.narrow_more = 0;  // narrow items have one token
  costs.wide_token = 1;
  costs.panel_token = 2 * kRowsOfPanel / kOperationsPerByte / static_cast<float>(element_bytes);
  costs.state = 2 * group * static_cast<float>(p.head_dim_v + 2) * 4 / token_bytes;
  return costs;
}

inline RadixLimits radix_limits_of(const AttentionParams& bounds, const DeviceLimits& device) {
  RadixLimits limits;
  if (bounds.k.dtype == RADIX_F32) return limits;  // attention_f32.cu takes no list
  const bool fp8 = bounds.k.dtype == RADIX_F8_E4M3 || bounds.k.dtype == RADIX_F8_E5M2;
  const uint32_t group = bounds.num_q_heads / bounds.num_kv_heads;
  const uint64_t walkers = radix_walkers(bounds, device);
  const uint64_t rows = most_rows(bounds);
  limits.wide_rows = radix_item_rows(bounds.head_dim, bounds.head_dim_v);
  limits.panel_rows = 16;
  limits.parts = bounds.num_kv_heads;
  limits.workers = static_cast<uint32_t>(walkers * limits.parts);
  limits.narrow_tokens = group <= limits.panel_rows ? 1 : 0;
  limits.strided = true;
  limits.costs = radix_costs(bounds, fp8 ? 1 : 2);
  // Products of warpgroups, which lists have not: modelled, not measured.
  if (device.wgmma && prefill_runs_on_wgmma(bounds)) limits.costs.plain = 0.6f;
  // A tree has fewer than two nodes a sequence; beyond its nodes, what balances the walkers.
  const uint64_t tiles = bounds.num_seqs + rows * group / limits.wide_rows;
  const uint64_t items = 2 * tiles + 8 * walkers;
  limits.max_items = static_cast<uint32_t>(items < (1u << 16) ? items : 1u << 16);
  // Four states a row; a few rounds of items that are cut; in segments, some of those.
  const uint64_t item_states = (limits.wide_rows + group - 1) / group;
  const uint64_t segments =
      (uint64_t{bounds.max_context_len} + kSegmentTokens - 1) / kSegmentTokens;
  uint64_t states = 4 * rows + 4 * walkers * item_states;
  if (bounds.batch_invariant) states += rows * (segments < 32 ? segments : 32);
  const uint64_t room = kMaxStateBytes / radix_state_bytes(bounds, 1);
  limits.max_states = static_cast<uint32_t>(states < room ? states : room);
  limits.max_terms = limits.max_states;  // a term names a state at least
  limits.workspace_bytes = radix_state_bytes(bounds, limits.max_states);
  return limits;
}

}  // namespace radixattn::cuda
