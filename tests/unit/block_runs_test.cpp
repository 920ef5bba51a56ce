// Where blocks lie: requests that grow in turn keep contiguous runs.
#include <gtest/gtest.h>

#include "cache_fixture.h"

namespace radixattn {
namespace {

// Contiguous runs among entries [from, end) of a row.
uint32_t num_runs(const std::vector<int32_t>& row, size_t from = 0) {
  uint32_t runs = 0;
  for (size_t i = from; i < row.size(); ++i) runs += i == from || row[i] != row[i - 1] + 1 ? 1 : 0;
  return runs;
}

class BlockRuns : public ::testing::Test {
 protected:
  // One token for each request, as a step of decode does.
  void decode(Cache* cache, const std::vector<radix_req>& reqs, uint32_t steps) {
    const int32_t token = 7;
    std::vector<radix_append> items;
    for (const radix_req r : reqs) items.push_back({r, &token, 1, 0});
    for (uint32_t step = 0; step < steps; ++step) {
      ASSERT_EQ(cache->append(items).status, RADIX_OK) << last_message();
    }
  }
  static Tokens prompt(int32_t seed, int32_t length) {
    return range(1000 * seed, 1000 * seed + length);
  }
};

TEST_F(BlockRuns, RequestsThatDecodeInTurnHaveOneRunEach) {
  constexpr uint32_t kNum = 16, kSteps = 64;
  Cache cache(2 * kNum * (kSteps + 8) / 4, 4);
  std::vector<radix_req> reqs;
  for (uint32_t i = 0; i < kNum; ++i) {
    reqs.push_back(cache.start(prompt(static_cast<int32_t>(i), 1 + static_cast<int32_t>(i) % 8)));
  }
  decode(&cache, reqs, kSteps);
  for (const radix_req r : reqs) EXPECT_EQ(num_runs(cache.row(r)), 1u);
}

TEST_F(BlockRuns, RequestsThatDecodeUntilThePoolIsFullHaveLongRuns) {
  constexpr uint32_t kNum = 16, kBlocks = 32;
  Cache cache(kNum * kBlocks, 2);
  std::vector<radix_req> reqs;
  for (uint32_t i = 0; i < kNum; ++i) {
    reqs.push_back(cache.start(prompt(static_cast<int32_t>(i), 2)));
  }
  decode(&cache, reqs, 2 * (kBlocks - 1));
  uint32_t runs = 0;
  for (const radix_req r : reqs) runs += num_runs(cache.row(r));
  EXPECT_EQ(cache.stats().blocks_free, 0u);
  EXPECT_LE(runs, 2 * kNum);
}

TEST_F(BlockRuns, ALongPromptFindsALongRunWhenTheOthersHaveEnded) {
  Cache cache(256, 2);
  std::vector<radix_req> reqs;
  for (int32_t i = 0; i < 16; ++i) reqs.push_back(cache.start(prompt(i, 3)));
  decode(&cache, reqs, 9);
  for (const radix_req r : reqs) cache.free(r);
  const radix_req r = cache.start(range(0, 512));
  EXPECT_EQ(num_runs(cache.row(r)), 1u);
}

TEST_F(BlockRuns, RequestsBelowOneSharedPrefixHaveOneRunEach) {
  Cache cache(256, 4);
  const Tokens prefix = range(0, 64);
  cache.remember(prefix);
  std::vector<radix_req> reqs;
  for (int32_t i = 0; i < 8; ++i) reqs.push_back(cache.start(prefix + prompt(i + 1, 1)));
  decode(&cache, reqs, 40);
  for (const radix_req r : reqs) EXPECT_EQ(num_runs(cache.row(r), 64 / 4), 1u);
}

TEST_F(BlockRuns, ACopyOnWriteDoesNotBreakTheParentsRun) {
  Cache cache(256, 4);
  const radix_req parent = cache.start(range(0, 10));
  std::vector<radix_req> all = cache.fork(parent, 3);
  decode(&cache, all, 40);
  all.push_back(parent);
  decode(&cache, all, 40);
  EXPECT_EQ(num_runs(cache.row(parent)), 1u);
  for (const radix_req r : all) {
    EXPECT_LE(num_runs(cache.row(r)), 2u) << "what is shared, then its own";
  }
}

TEST_F(BlockRuns, DraftsThatAreCutKeepTheirPlace) {
  Cache cache(64, 2);
  const radix_req a = cache.start(range(0, 4));
  cache.append(a, range(50, 56));
  cache.truncate(a, 5);
  const radix_req b = cache.start(prompt(1, 4));
  decode(&cache, {a, b}, 20);
  EXPECT_EQ(num_runs(cache.row(a)), 1u);
  EXPECT_EQ(num_runs(cache.row(b)), 1u);
}

TEST_F(BlockRuns, NoRoomIsLeftToARequestThatHasEnded) {
  Cache cache(64, 2);
  const radix_req r = cache.start(range(0, 8));
  const int32_t last = cache.row(r).back();
  cache.commit(r);
  cache.free(r);
  EXPECT_EQ(cache.row(cache.start(prompt(1, 8))).front(), last + 1);
}

TEST_F(BlockRuns, ARequestGoesOnBehindItsCachedPrefix) {
  Cache cache(64, 2);
  cache.remember(range(0, 8));
  const radix_req r = cache.start(range(0, 10));
  const radix_req other = cache.start(prompt(1, 2));
  decode(&cache, {r, other}, 20);
  EXPECT_EQ(num_runs(cache.row(r)), 1u);
  EXPECT_EQ(num_runs(cache.row(other)), 1u);
}

TEST_F(BlockRuns, WhatTheSameStepWillTakeIsNoRoomToGrow) {
  Cache cache(16, 2);
  const radix_req all = cache.start(range(0, 32));
  cache.commit(all);
  cache.free(all);
  const radix_req small = cache.begin(prompt(1, 1));
  const radix_req large = cache.begin(prompt(2, 10));
  const Tokens one = prompt(1, 1), ten = prompt(2, 10);
  const Appended a = cache.append({{small, one.data(), 1, 0}, {large, ten.data(), 10, 0}});
  ASSERT_EQ(a.status, RADIX_OK);
  EXPECT_EQ(a.out.evicted_blocks, 6u);
  EXPECT_EQ(num_runs(cache.row(large)), 1u) << "the small one is not in its middle";
}

}  // namespace
}  // namespace radixattn
