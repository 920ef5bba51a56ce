// Which cached blocks go first, through the cache manager.
#include "cache_fixture.h"

namespace radixattn {
namespace {

CacheConfig with_policy(int32_t policy) {
  CacheConfig c = Cache::config_of(32, 2);
  c.policy = policy;
  return c;
}
void use(Cache& cache, const Tokens& t) {
  radix_match m = {};
  ASSERT_EQ(cache->match(Cache::desc(t), true, &m), RADIX_OK);
}

TEST(EvictionOrder, LeastRecentlyUsedTailFirst) {
  Cache cache(with_policy(RADIX_EVICT_LRU));
  cache.remember(range(0, 4));
  cache.remember(range(10, 14));
  use(cache, range(0, 4));
  EXPECT_EQ(cache.evict(1), 1u);
  EXPECT_EQ(cache.peek(range(10, 14)), 2u);
  EXPECT_EQ(cache.peek(range(0, 4)), 4u);
  EXPECT_EQ(cache.evict(2), 2u);
  EXPECT_EQ(cache.peek(range(0, 4)), 2u);
}

TEST(EvictionOrder, LeastFrequentlyUsedFirst) {
  Cache cache(with_policy(RADIX_EVICT_LFU));
  cache.remember(range(0, 2));
  cache.remember(range(10, 12));
  use(cache, range(0, 2));
  use(cache, range(0, 2));
  use(cache, range(10, 12));
  cache.evict(1);
  EXPECT_EQ(cache.peek(range(0, 2)), 2u);
  EXPECT_EQ(cache.peek(range(10, 12)), 0u);
}

TEST(EvictionOrder, FirstInFirstOutWhateverIsUsed) {
  Cache cache(with_policy(RADIX_EVICT_FIFO));
  cache.remember(range(0, 2));
  cache.remember(range(10, 12));
  use(cache, range(0, 2));
  cache.evict(1);
  EXPECT_EQ(cache.peek(range(0, 2)), 0u);
}

TEST(EvictionOrder, APartialHitRefreshesThePath) {
  Cache cache(with_policy(RADIX_EVICT_LRU));
  cache.remember(range(0, 8));
  cache.remember(range(20, 28));
  use(cache, range(0, 4) + Tokens{99});
  cache.evict(4);
  EXPECT_EQ(cache.peek(range(0, 8)), 8u);
  EXPECT_EQ(cache.peek(range(20, 28)), 0u);
}

TEST(EvictionOrder, ASplitKeepsUsageOnBothHalves) {
  Cache cache(with_policy(RADIX_EVICT_LFU));
  cache.remember(range(0, 4));
  for (int i = 0; i < 5; ++i) use(cache, range(0, 4));
  cache.remember(range(50, 54));
  use(cache, range(50, 54));
  cache.remember(range(0, 2) + range(90, 92));  // splits the first
  use(cache, range(0, 2) + range(90, 92));
  cache.evict(3);
  EXPECT_EQ(cache.peek(range(0, 4)), 4u);
}

TEST(EvictionOrder, ParentsFollowTheirLastChild) {
  Cache cache(with_policy(RADIX_EVICT_LRU));
  cache.remember(range(0, 2) + range(10, 12));
  cache.remember(range(0, 2) + range(20, 22));
  EXPECT_EQ(cache.evict(100), 3u);
  EXPECT_EQ(cache.stats().tree_nodes, 0u);
  EXPECT_EQ(cache.stats().blocks_free, 32u);
}

TEST(Evict, FewerThanWantedIsNoError) {
  Cache cache(with_policy(RADIX_EVICT_LRU));
  EXPECT_EQ(cache.evict(5), 0u);
  EXPECT_EQ(cache->evict(0, 1, nullptr), RADIX_OK);
  EXPECT_EQ(cache->evict(1234, 1, nullptr), RADIX_E_STALE);
}

}  // namespace
}  // namespace radixattn
