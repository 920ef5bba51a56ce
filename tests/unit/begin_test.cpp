// begin, match, pin: what is found, what is capped, what counts as use.
#include "cache_fixture.h"

namespace radixattn {
namespace {

TEST(Begin, FindsNothingInAnEmptyCache) {
  Cache cache;
  const radix_req r = cache.begin(range(0, 8));
  EXPECT_EQ(cache.last_match().cached_tokens, 0u);
  EXPECT_EQ(cache.info(r).num_tokens, 0u);
  EXPECT_EQ(cache.info(r).num_blocks, 0u);
}

TEST(Begin, TakesTheLongestCachedPrefixInWholeBlocks) {
  Cache cache(16, 2);
  cache.remember(range(0, 8));
  const radix_req r = cache.begin(range(0, 5) + Tokens{77, 78, 79});
  EXPECT_EQ(cache.info(r).cached_tokens, 4u);
  EXPECT_EQ(cache.info(r).committed_tokens, 4u);
  EXPECT_EQ(cache.info(r).ready_tokens, 4u);
}

TEST(Begin, AFullHitLeavesTheLastTokenToCompute) {
  Cache cache(16, 4);
  cache.remember(range(0, 8));
  const radix_req r = cache.begin(range(0, 8));
  EXPECT_EQ(cache.info(r).num_tokens, 7u);
  EXPECT_EQ(cache.info(r).cached_tokens, 7u);
  EXPECT_EQ(cache.info(r).committed_tokens, 4u);
  EXPECT_EQ(cache.info(r).num_blocks, 2u);
  const std::vector<int32_t> before = cache.row(r);
  const Appended a = cache.append(r, {7});
  ASSERT_EQ(a.ops.size(), 1u) << "the cached block is not written: it is copied";
  EXPECT_EQ(a.ops[0].src, before[1]);
  EXPECT_EQ(a.ops[0].num_tokens, 3u);
  EXPECT_EQ(a.slots[0], cache.row(r)[1] * 4 + 3);
}

TEST(Begin, MatchAllMayTakeTheLastTokenToo) {
  Cache cache(16, 4);
  cache.remember(range(0, 8));
  const radix_req r = cache.begin(range(0, 8), RADIX_BEGIN_MATCH_ALL);
  EXPECT_EQ(cache.info(r).num_tokens, 8u);
  EXPECT_TRUE(cache.append(r, {8}).ops.empty());
}

TEST(Begin, APrefixOfExactlyOneBlock) {
  Cache cache(16, 4);
  cache.remember(range(0, 4));
  EXPECT_EQ(cache.info(cache.begin(range(0, 4))).cached_tokens, 3u);
  EXPECT_EQ(cache.info(cache.begin(range(0, 5))).cached_tokens, 4u);
  EXPECT_EQ(cache.info(cache.begin(range(0, 3))).cached_tokens, 0u);
}

TEST(Begin, NoMatchStartsEmpty) {
  Cache cache;
  cache.remember(range(0, 8));
  EXPECT_EQ(cache.info(cache.begin(range(0, 8), RADIX_BEGIN_NO_MATCH)).num_tokens, 0u);
}

TEST(Begin, ALongerHitThanARowHoldsIsCut) {
  CacheConfig config = Cache::config_of(16, 2);
  config.max_blocks_per_request = 4;
  Cache cache(config);
  const radix_req first = cache.start(range(0, 8));
  cache.commit(first);
  cache.free(first);
  const radix_req r = cache.begin(range(0, 20));
  EXPECT_EQ(cache.info(r).num_blocks, 4u);
}

TEST(Begin, WritesTheBlocksThatFit) {
  Cache cache(16, 2);
  cache.remember(range(0, 8));
  int32_t blocks[2] = {-7, -7};
  radix_match m = {};
  m.blocks = blocks;
  m.blocks_cap = 2;
  radix_req r = 0;
  const Tokens t = range(0, 9);
  ASSERT_EQ(cache->begin(Cache::desc(t), &r, &m), RADIX_OK);
  EXPECT_EQ(m.num_blocks, 4u);
  EXPECT_EQ(blocks[0], cache.row(r)[0]);
  EXPECT_EQ(blocks[1], cache.row(r)[1]);
}

TEST(Begin, AnEmptyPromptIsARequest) {
  Cache cache;
  const radix_req r = cache.begin({});
  EXPECT_EQ(cache.append(r, {1, 2, 3}).slots.size(), 3u);
}

TEST(Begin, RefusesMoreRequestsThanAFixedTableHolds) {
  CacheConfig config = Cache::config_of(8, 2);
  config.max_requests = 2;
  config.preallocate = true;
  Cache cache(config);
  cache.begin({1});
  const radix_req second = cache.begin({1});
  radix_req r = 0;
  const Tokens t = {1};
  EXPECT_EQ(cache->begin(Cache::desc(t), &r, nullptr), RADIX_E_FULL);
  cache.free(second);
  EXPECT_EQ(cache->begin(Cache::desc(t), &r, nullptr), RADIX_OK);
}

TEST(Begin, GrowsBeyondMaxRequestsWithoutPreallocate) {
  CacheConfig config = Cache::config_of(8, 2);
  config.max_requests = 2;
  Cache cache(config);
  for (int i = 0; i < 50; ++i) cache.begin({1});
  EXPECT_EQ(cache.stats().requests_live, 50u);
}

TEST(Match, PeekCountsNoUseAndMatchDoes) {
  Cache cache(16, 2);
  cache.remember({1, 2});
  cache.remember({3, 4});
  const uint64_t clock = cache.stats().clock;
  cache.peek({1, 2});
  EXPECT_EQ(cache.stats().clock, clock);
  radix_match m = {};
  const Tokens t = {1, 2};
  ASSERT_EQ(cache->match(Cache::desc(t), true, &m), RADIX_OK);
  EXPECT_EQ(m.cached_tokens, 2u) << "not capped";
  cache.evict(1);
  EXPECT_EQ(cache.peek({1, 2}), 2u);
  EXPECT_EQ(cache.peek({3, 4}), 0u);
}

TEST(Pin, KeepsAPrefixThroughEvictionUntilUnpinned) {
  Cache cache(16, 2);
  cache.remember(range(0, 8));
  radix_pin p = 0;
  radix_match m = {};
  const Tokens head = range(0, 4);
  ASSERT_EQ(cache->pin(Cache::desc(head), &p, &m), RADIX_OK);
  EXPECT_EQ(m.cached_tokens, 4u);
  EXPECT_EQ(cache.stats().blocks_pinned, 2u);
  EXPECT_EQ(cache.evict(100), 2u);
  EXPECT_EQ(cache.peek(range(0, 8)), 4u);
  ASSERT_EQ(cache->unpin(p), RADIX_OK);
  EXPECT_EQ(cache->unpin(p), RADIX_E_STALE);
  EXPECT_EQ(cache.evict(100), 2u);
}

TEST(Pin, OfNothingIsValidAndHoldsNothing) {
  Cache cache;
  radix_pin p = 0;
  const Tokens t = range(0, 4);
  ASSERT_EQ(cache->pin(Cache::desc(t), &p, nullptr), RADIX_OK);
  EXPECT_EQ(cache.stats().blocks_pinned, 0u);
  EXPECT_EQ(cache.stats().pins_live, 1u);
  EXPECT_EQ(cache->unpin(p), RADIX_OK);
}

TEST(Ids, AreStaleAfterTheirEndAndNotMixedUp) {
  Cache cache;
  const radix_req r = cache.begin({1});
  radix_pin p = 0;
  const Tokens t = {1};
  ASSERT_EQ(cache->pin(Cache::desc(t), &p, nullptr), RADIX_OK);
  EXPECT_EQ(cache->free_request(p, 0), RADIX_E_STALE);
  EXPECT_EQ(cache->unpin(r), RADIX_E_STALE);
  cache.free(r);
  EXPECT_EQ(cache->free_request(r, 0), RADIX_E_STALE);
  EXPECT_NE(cache.begin({1}), r);
  EXPECT_EQ(cache->free_request(0, 0), RADIX_E_STALE);
  EXPECT_EQ(cache->unpin(p), RADIX_OK);
}

}  // namespace
}  // namespace radixattn
