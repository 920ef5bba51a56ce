// The CUDA lookups of prompt batches: the CPU's results, on trees and on arrays that are none.
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "attention_launchers.h"
#include "backend/cpu/match.h"
#include "base/executor.h"
#include "support/match_case.h"

namespace radixattn::test {
namespace {

MatchResult on_cpu(const MatchCase& c, int64_t stride) {
  Executor inline_executor;
  return c.run([&](const MatchParams& p) { return cpu_match_batch(p, inline_executor); }, stride);
}

void expect_as_on_the_cpu(const MatchCase& c, int64_t stride) {
  const MatchResult expected = on_cpu(c, stride);
  for (int i = 0; i < num_schedules(); ++i) {
    set_schedule(i);
    const MatchResult got = c.run(match_on_device, stride);
    ASSERT_EQ(got.status, RADIX_OK) << last_message();
    EXPECT_EQ(got, expected) << "schedule " << i;
  }
  set_schedule(0);
}

TEST(CudaMatch, RandomTrees) {
  for_random_cases("cuda match", 60, [](uint64_t seed) {
    SCOPED_TRACE(::testing::Message() << "replay with RADIX_TEST_ONLY=" << seed);
    Rng rng(seed);
    TreeShape shape;
    shape.block_size = rng.between(1, 9);
    shape.max_nodes = rng.between(1, 60);
    shape.max_children = rng.between(1, 20);
    shape.alphabet = rng.between(1, 9);
    const MatchCase c(rng, shape, rng.below(20));
    const int64_t stride = static_cast<int64_t>(rng.below(12)) - 1;
    expect_as_on_the_cpu(c, stride);
    EXPECT_EQ(c.run(match_on_device, stride), c.expected(stride)) << "and as the definition says";
  });
}

// First blocks longer than a warp, runs longer than what is in flight, tables wider than a warp.
TEST(CudaMatch, BlocksOfEverySizeAndLongRuns) {
  for (const uint32_t block_size : {1u, 16u, 31u, 32u, 33u, 64u, 256u}) {
    SCOPED_TRACE(block_size);
    Rng rng(block_size);
    TreeShape shape;
    shape.block_size = block_size;
    shape.max_run = 600 / block_size + 70 / (block_size + 1) + 1;
    shape.max_nodes = 12;
    expect_as_on_the_cpu(MatchCase(rng, shape, 12), 150);
  }
}

TEST(CudaMatch, EveryPlaceOfTheFirstDifference) {
  Rng rng(7);
  TreeShape shape;
  shape.block_size = 8;
  shape.max_nodes = 1;
  shape.max_run = 1;
  MatchCase c(rng, shape, 0);
  for (int i = 0; i < 69; ++i) {  // one node of 70 blocks, 560 tokens
    c.block_ids.push_back(1000 + i);
    for (int k = 0; k < 8; ++k) c.tokens.push_back(static_cast<int32_t>(rng.below(5)));
  }
  c.block_begin = {0, static_cast<int32_t>(c.block_ids.size())};
  for (size_t at = 0; at < c.tokens.size(); ++at) {
    std::vector<int32_t> prompt = c.tokens;
    prompt[at] += 9;
    c.add_prompt(prompt);
  }
  for (size_t n = 0; n <= c.tokens.size(); n += 5)
    c.add_prompt(
        std::vector<int32_t>(c.tokens.begin(), c.tokens.begin() + static_cast<int64_t>(n)));
  expect_as_on_the_cpu(c, 70);
  EXPECT_EQ(c.run(match_on_device, 70), c.expected(70));
}

TEST(CudaMatch, AnEmptyTreeAndAnEmptyBatch) {
  MatchCase c;
  expect_as_on_the_cpu(c, 3);
  c.add_prompt({1, 2, 3});
  c.add_prompt({});
  expect_as_on_the_cpu(c, 3);
}

// Thousands of children: every one is found, none of those between.
TEST(CudaMatch, ManyChildrenOfTheRoot) {
  MatchCase c;
  constexpr int32_t kChildren = 2000;
  c.child_begin.assign(kChildren + 2, kChildren);
  c.child_begin[0] = 0;
  for (int32_t i = 0; i < kChildren; ++i) {
    c.parent.push_back(-1);
    c.depth_blocks.push_back(0);
    c.block_begin.push_back(i + 1);
    c.block_ids.push_back(i);
    c.tokens.push_back(2 * i - kChildren);
    if (i % 17 == 0) c.add_prompt({2 * i - kChildren, 5});
    if (i % 23 == 0) c.add_prompt({2 * i - kChildren + 1});
  }
  c.add_prompt({INT32_MIN});
  c.add_prompt({INT32_MAX});
  expect_as_on_the_cpu(c, 2);
  EXPECT_EQ(c.run(match_on_device, 2).nodes[0], 0);
}

void spoil(Rng& rng, std::vector<int32_t>* array) {
  constexpr int32_t kEdges[] = {INT32_MIN, INT32_MAX, -1, 0};
  (*array)[rng.below(static_cast<uint32_t>(array->size()))] =
      rng.one_in(3) ? rng.pick(kEdges) : static_cast<int32_t>(rng.below(50));
}

TEST(CudaMatch, ArraysThatAreNoTree) {
  uint32_t changed = 0;
  for_random_cases("cuda match corrupt", 120, [&](uint64_t seed) {
    SCOPED_TRACE(::testing::Message() << "replay with RADIX_TEST_ONLY=" << seed);
    Rng rng(seed);
    TreeShape shape;
    shape.block_size = rng.between(1, 4);
    MatchCase c(rng, shape, 12);
    const MatchResult before = on_cpu(c, 12);
    for (uint32_t i = rng.between(1, 8); i > 0; --i)
      spoil(rng, rng.one_in(2) ? &c.child_begin : &c.block_begin);
    expect_as_on_the_cpu(c, 12);
    changed += on_cpu(c, 12) == before ? 0 : 1;
  });
  if (environment("RADIX_TEST_ONLY", 0) == 0) {
    EXPECT_GT(changed, 20u) << "cases that the damage changed";
  }
}

// The CPU refuses such a batch; the device cuts prompts to what there is.
TEST(CudaMatch, PromptsOutsideOfTheirArray) {
  Rng rng(11);
  for (int round = 0; round < 60; ++round) {
    MatchCase c(rng, TreeShape(), 10);
    MatchCase cut = c;
    const auto n = static_cast<int64_t>(c.prompts.size());
    for (int64_t& begin : c.prompt_begin) {
      constexpr int64_t kEdges[] = {INT64_MIN, INT64_MAX, -1, int64_t{1} << 32};
      if (rng.one_in(3)) begin = rng.pick(kEdges);
    }
    const MatchResult got = c.run(match_on_device, 10);
    ASSERT_EQ(got.status, RADIX_OK) << last_message();
    for (size_t i = 0; i < got.nodes.size(); ++i) {  // prompt by prompt: the cut ones may overlap
      const int64_t begin = std::clamp<int64_t>(c.prompt_begin[i], 0, n);
      cut.prompt_begin = {begin, std::clamp<int64_t>(c.prompt_begin[i + 1], begin, n)};
      const MatchResult one = cut.expected(10);
      EXPECT_EQ(got.nodes[i], one.nodes[0]) << i;
      EXPECT_EQ(got.tokens[i], one.tokens[0]) << i;
    }
  }
}

}  // namespace
}  // namespace radixattn::test
