// How radix attention is cut on a device: ranges that fill it, workspaces that bound them, and what
// plans are told of lists.
#include "cuda/radix_space.h"

#include <gtest/gtest.h>

#include "attention_launchers.h"
#include "support/rng.h"

namespace radixattn::test {
namespace {

AttentionParams bounds_of(uint32_t seqs, uint32_t context, uint32_t queries = 1) {
  AttentionParams p;
  p.num_seqs = seqs;
  p.num_q_heads = 32;
  p.num_kv_heads = 8;
  p.head_dim = p.head_dim_v = 128;
  p.max_context_len = context;
  p.max_query_len = queries;
  p.k.dtype = p.v.dtype = RADIX_BF16;
  return p;
}

TEST(RadixSpace, OneLongSequenceFillsTheDevice) {
  const cuda::RadixSplit split = cuda::choose_ranges(bounds_of(1, 32768), device_like(90), false);
  EXPECT_GE(split.num_ranges * 8, 200u);
  EXPECT_LE(split.num_ranges * 8, 264u);
  EXPECT_GE(split.num_ranges * split.range_segments, split.num_segments);
  EXPECT_EQ(split.max_states, 128u);
}

TEST(RadixSpace, FullBatchesAndShortContextsAreNotCut) {
  for (const auto& [seqs, context] : {std::pair(64u, 100000u), {1u, 256u}, {1u, 0u}}) {
    const cuda::RadixSplit split =
        cuda::choose_ranges(bounds_of(seqs, context), device_like(90), false);
    EXPECT_EQ(split.num_ranges, 1u);
    EXPECT_EQ(split.max_states, 0u);
  }
  // Many long prompts would leave more states than anybody should hold.
  EXPECT_EQ(cuda::choose_ranges(bounds_of(1, 1 << 20, 64), device_like(90), true).num_ranges, 1u);
}

TEST(RadixSpace, WorkspacesBoundTheStatesOfSmallerLaunches) {
  Rng rng(3);
  for (int i = 0; i < 5000; ++i) {
    AttentionParams p =
        bounds_of(rng.between(1, 300), rng.below(200000), rng.one_in(2) ? 1 : rng.between(1, 64));
    const bool prefill = p.max_query_len > 1;
    p.num_kv_heads = 1u << rng.below(6);
    const cuda::DeviceLimits device = device_like(rng.one_in(2) ? 75 : 90);
    const uint64_t bytes = cuda::ranges_workspace(p, device, prefill);
    EXPECT_LE(bytes, cuda::kMaxStateBytes);
    p.num_seqs = rng.between(1, p.num_seqs);
    p.max_context_len = rng.below(p.max_context_len + 1);
    const cuda::RadixSplit split = cuda::choose_ranges(p, device, prefill);
    EXPECT_LE(cuda::radix_state_bytes(p, split.max_states), bytes) << p.num_seqs;
  }
}

TEST(RadixSpace, ListsHaveRoomAndCostsThatMakeSense) {
  for (const int32_t dtype : {RADIX_BF16, RADIX_F8_E4M3}) {
    for (const bool invariant : {false, true}) {
      AttentionParams p = bounds_of(256, 32768, 2);
      p.k.dtype = p.v.dtype = dtype;
      p.batch_invariant = invariant;
      const RadixLimits limits = cuda::radix_limits_of(p, device_like(90));
      EXPECT_GE(limits.max_items, 512u);
      EXPECT_GE(limits.max_states, 512u);
      EXPECT_EQ(limits.workspace_bytes, cuda::radix_state_bytes(p, limits.max_states));
      EXPECT_LE(limits.workspace_bytes, cuda::kMaxStateBytes);
      EXPECT_EQ(limits.workers, 264u);
      EXPECT_EQ(limits.parts, 8u);
      EXPECT_EQ(limits.wide_rows, 64u);
      // Sixteen sequences that share a key pay less together than each by itself.
      const float together = limits.costs.wide_token + 4 * limits.costs.panel_token;
      EXPECT_LT(together, 16 * limits.costs.narrow_token);
      EXPECT_GT(limits.costs.state, 0.f);
      EXPECT_GT(limits.costs.item, 1.f);
    }
  }
  cuda::DeviceLimits hopper = device_like(90);
  AttentionParams p = bounds_of(256, 32768);
  EXPECT_EQ(cuda::radix_limits_of(p, hopper).costs.plain, 1.f);
  hopper.wgmma = true;
  EXPECT_LT(cuda::radix_limits_of(p, hopper).costs.plain, 1.f);
  p.k.dtype = p.v.dtype = RADIX_F8_E4M3;
  EXPECT_EQ(cuda::radix_limits_of(p, hopper).costs.plain, 1.f) << "no such kernel";
  p.k.dtype = p.v.dtype = RADIX_F32;
  EXPECT_EQ(cuda::radix_limits_of(p, device_like(90)).max_items, 0u);
}

}  // namespace
}  // namespace radixattn::test
