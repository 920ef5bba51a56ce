// Deferred frees: nothing that a launch may still read is used again before its epoch is retired.
#include "cache_fixture.h"

namespace radixattn {
namespace {

CacheConfig deferring(uint32_t num_blocks) {
  CacheConfig c = Cache::config_of(num_blocks, 2);
  c.defer_free = true;
  return c;
}

TEST(Epoch, NeedsTheFlag) {
  Cache cache;
  radix_epoch e = 0;
  EXPECT_EQ(cache->epoch_begin(&e), RADIX_E_STATE);
  EXPECT_EQ(cache->epoch_retire(0), RADIX_E_STATE);
}

TEST(Epoch, PrivateBlocksWait) {
  Cache cache(deferring(4));
  radix_epoch e = 0;
  ASSERT_EQ(cache->epoch_begin(&e), RADIX_OK);
  EXPECT_EQ(e, 1u);
  const radix_req r = cache.start(range(0, 8));
  cache.free(r);
  EXPECT_EQ(cache.stats().blocks_free, 0u);
  EXPECT_EQ(cache.stats().blocks_deferred, 4u);
  const radix_req next = cache.begin({});
  EXPECT_EQ(cache.append(next, {1}).status, RADIX_E_NO_BLOCKS);
  ASSERT_EQ(cache->epoch_retire(1), RADIX_OK);
  EXPECT_EQ(cache.append(next, {1}).status, RADIX_OK);
}

TEST(Epoch, CachedBlocksStayVisibleButAreNotEvicted) {
  Cache cache(deferring(4));
  radix_epoch e = 0;
  ASSERT_EQ(cache->epoch_begin(&e), RADIX_OK);
  cache.remember(range(0, 8));
  EXPECT_EQ(cache.stats().blocks_deferred, 4u);
  EXPECT_EQ(cache.evict(4), 0u);
  EXPECT_EQ(cache.peek(range(0, 8)), 8u);
  ASSERT_EQ(cache->epoch_begin(&e), RADIX_OK);
  ASSERT_EQ(cache->epoch_retire(1), RADIX_OK);
  EXPECT_EQ(cache.stats().blocks_cached, 4u);
  EXPECT_EQ(cache.evict(4), 4u);
  EXPECT_EQ(cache.stats().blocks_free, 4u) << "nobody read them in epoch 2";
}

TEST(Epoch, AnotherUseInALaterEpochWaitsForThatOne) {
  Cache cache(deferring(8));
  radix_epoch e = 0;
  ASSERT_EQ(cache->epoch_begin(&e), RADIX_OK);
  cache.remember(range(0, 4));
  ASSERT_EQ(cache->epoch_begin(&e), RADIX_OK);
  cache.free(cache.begin(range(0, 5)));
  ASSERT_EQ(cache->epoch_retire(1), RADIX_OK);
  EXPECT_EQ(cache.evict(4), 0u);
  ASSERT_EQ(cache->epoch_retire(2), RADIX_OK);
  EXPECT_EQ(cache.evict(4), 2u);
}

TEST(Epoch, DiscardAndClearWaitToo) {
  Cache cache(deferring(8));
  radix_epoch e = 0;
  ASSERT_EQ(cache->epoch_begin(&e), RADIX_OK);
  const radix_req r = cache.start(range(0, 4));
  cache.commit(r);
  cache.free(r, RADIX_FREE_DISCARD);
  cache.remember(range(20, 24));
  EXPECT_EQ(cache->clear(RADIX_NS_ALL), RADIX_OK);
  EXPECT_EQ(cache.stats().blocks_free, 4u);
  EXPECT_EQ(cache.stats().blocks_deferred, 4u);
  ASSERT_EQ(cache->epoch_retire(1), RADIX_OK);
  EXPECT_EQ(cache.stats().blocks_free, 8u);
}

TEST(Epoch, RetiresWhatHasBegunOnly) {
  Cache cache(deferring(4));
  radix_epoch e = 0;
  ASSERT_EQ(cache->epoch_begin(&e), RADIX_OK);
  EXPECT_EQ(cache->epoch_retire(2), RADIX_E_INVALID);
  EXPECT_EQ(cache->epoch_retire(1), RADIX_OK);
  EXPECT_EQ(cache->epoch_retire(0), RADIX_OK) << "an older one again";
  const radix_req r = cache.start(range(0, 2));
  cache.free(r);
  EXPECT_EQ(cache.stats().blocks_free, 4u) << "no launch is under way";
}

}  // namespace
}  // namespace radixattn
