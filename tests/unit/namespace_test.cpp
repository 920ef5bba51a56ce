// Namespaces: isolation, quotas, clearing, names.
#include "cache_fixture.h"

namespace radixattn {
namespace {

radix_ns create(Cache& cache, const std::string& name, uint32_t quota = 0) {
  radix_ns ns = 0;
  EXPECT_EQ(cache->ns_create(name.data(), name.size(), quota, &ns), RADIX_OK) << last_message();
  return ns;
}

TEST(Namespace, NeverSeesAnothersBlocks) {
  Cache cache;
  const radix_ns a = create(cache, "a"), b = create(cache, "b");
  cache.remember(range(0, 6), a);
  EXPECT_EQ(cache.peek(range(0, 6), a), 6u);
  EXPECT_EQ(cache.peek(range(0, 6), b), 0u);
  EXPECT_EQ(cache.peek(range(0, 6)), 0u);
  cache.remember(range(0, 6), a, 7);
  EXPECT_EQ(cache.stats().blocks_cached, 6u) << "another extra_key shares nothing";
}

TEST(Namespace, NamesAreBytesWithALength) {
  Cache cache;
  create(cache, std::string("a\0b", 3));
  create(cache, std::string("a\0c", 3));
  radix_ns ns = 0;
  EXPECT_EQ(cache->ns_create("a\0b", 3, 0, &ns), RADIX_E_STATE);
  EXPECT_EQ(cache->ns_create("", 0, 0, &ns), RADIX_E_INVALID);
  const std::string longest(128, 'x'), longer(129, 'x');
  create(cache, longest);
  EXPECT_EQ(cache->ns_create(longer.data(), 129, 0, &ns), RADIX_E_INVALID);
}

TEST(Namespace, AQuotaBoundsItAndSaysTheShortfall) {
  Cache cache(16, 2);
  const radix_ns ns = create(cache, "small", 3);
  const radix_req r = cache.begin({}, 0, ns);
  const Appended a = cache.append(r, range(0, 10));
  EXPECT_EQ(a.status, RADIX_E_QUOTA);
  EXPECT_EQ(a.out.short_blocks, 2u);
  EXPECT_EQ(cache.append(r, range(0, 6)).status, RADIX_OK);
}

TEST(Namespace, AFullQuotaEvictsItsOwnBlocksOnly) {
  Cache cache(16, 2);
  const radix_ns ns = create(cache, "small", 3);
  cache.remember(range(0, 4));
  cache.remember(range(0, 6), ns);
  const radix_req r = cache.begin({}, 0, ns);
  const Appended a = cache.append(r, {9, 9, 9});
  EXPECT_EQ(a.status, RADIX_OK);
  EXPECT_EQ(a.out.evicted_blocks, 2u);
  EXPECT_EQ(cache.peek(range(0, 4)), 4u);
  EXPECT_EQ(cache.peek(range(0, 6), ns), 2u);
  radix_ns_info info = {};
  ASSERT_EQ(cache->ns_info(ns, &info), RADIX_OK);
  EXPECT_EQ(info.quota_blocks, 3u);
  EXPECT_EQ(info.blocks_used, 3u);
  EXPECT_EQ(info.blocks_cached, 1u);
  EXPECT_EQ(info.requests_live, 1u);
}

TEST(Namespace, ClearIsBusyWhileRequestsOrPinsLive) {
  Cache cache(16, 2);
  const radix_ns ns = create(cache, "a");
  cache.remember(range(0, 6), ns);
  const radix_req r = cache.begin(range(0, 4), 0, ns);
  EXPECT_EQ(cache->clear(ns), RADIX_E_BUSY);
  EXPECT_EQ(cache->ns_destroy(ns), RADIX_E_BUSY);
  EXPECT_EQ(cache->clear(0), RADIX_OK) << "another namespace";
  cache.free(r);
  radix_pin p = 0;
  const Tokens t = range(0, 4);
  ASSERT_EQ(cache->pin(Cache::desc(t, 0, ns), &p, nullptr), RADIX_OK);
  EXPECT_EQ(cache->clear(RADIX_NS_ALL), RADIX_E_BUSY);
  ASSERT_EQ(cache->unpin(p), RADIX_OK);
  EXPECT_EQ(cache->clear(ns), RADIX_OK);
  EXPECT_EQ(cache.peek(range(0, 6), ns), 0u);
  EXPECT_EQ(cache.stats().blocks_free, 16u);
}

TEST(Namespace, ClearTakesADeepAndBushyTree) {
  Cache cache(64, 1);
  for (int32_t i = 0; i < 20; ++i) cache.remember(range(0, i) + Tokens{100 + i});
  EXPECT_EQ(cache->clear(RADIX_NS_ALL), RADIX_OK);
  EXPECT_EQ(cache.stats().tree_nodes, 0u);
  EXPECT_EQ(cache.stats().blocks_free, 64u);
}

TEST(Namespace, ADestroyedOneIsStaleAndItsNameFree) {
  Cache cache;
  const radix_ns ns = create(cache, "a");
  cache.remember(range(0, 4), ns);
  EXPECT_EQ(cache->ns_destroy(ns), RADIX_OK);
  radix_req r = 0;
  const Tokens t = range(0, 4);
  EXPECT_EQ(cache->begin(Cache::desc(t, 0, ns), &r, nullptr), RADIX_E_STALE);
  EXPECT_EQ(cache->ns_destroy(ns), RADIX_E_STALE);
  const radix_ns again = create(cache, "a");
  EXPECT_NE(again, ns);
  EXPECT_EQ(cache.peek(range(0, 4), again), 0u);
  EXPECT_EQ(cache->ns_destroy(0), RADIX_E_INVALID);
}

TEST(Namespace, AFixedTableIsFull) {
  CacheConfig config = Cache::config_of(8, 2);
  config.max_namespaces = 1;
  config.preallocate = true;
  Cache cache(config);
  create(cache, "a");
  radix_ns ns = 0;
  EXPECT_EQ(cache->ns_create("b", 1, 0, &ns), RADIX_E_FULL);
}

TEST(Namespace, EvictionFromEverywhereTakesTheOldestOfAllNamespaces) {
  Cache cache(32, 2);
  const radix_ns a = create(cache, "a"), b = create(cache, "b");
  cache.remember(range(0, 4), a);
  cache.remember(range(0, 2), b);
  cache.remember(range(0, 2), 0);
  cache.remember(range(10, 12), a);
  EXPECT_EQ(cache.evict(1), 1u);
  EXPECT_EQ(cache.peek(range(0, 4), a), 2u);
  EXPECT_EQ(cache.evict(2), 2u);
  EXPECT_EQ(cache.peek(range(0, 4), a), 0u);
  EXPECT_EQ(cache.peek(range(0, 2), b), 0u);
  EXPECT_EQ(cache.peek(range(0, 2), 0), 2u);
  EXPECT_EQ(cache.peek(range(10, 12), a), 2u);
  EXPECT_EQ(cache->ns_destroy(a), RADIX_OK);
  EXPECT_EQ(cache.evict(9), 1u);
  EXPECT_EQ(cache->check(), RADIX_OK) << last_message();
}

}  // namespace
}  // namespace radixattn
