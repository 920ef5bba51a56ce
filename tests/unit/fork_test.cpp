// fork, truncate, free: copy-on-write, exact lengths, discarding.
#include "cache_fixture.h"

namespace radixattn {
namespace {

TEST(Fork, SharesEveryBlockWithoutCopying) {
  Cache cache(8, 4);
  const radix_req parent = cache.start(range(0, 6));
  const std::vector<radix_req> children = cache.fork(parent, 3);
  for (const radix_req c : children) EXPECT_EQ(cache.row(c), cache.row(parent));
  EXPECT_EQ(cache.stats().blocks_free, 6u);
}

TEST(Fork, TheLastWriterWritesInPlace) {
  Cache cache(8, 4);
  const radix_req parent = cache.start(range(0, 6));
  const radix_req child = cache.fork(parent, 1)[0];
  const Tokens t = {7};
  const Appended a = cache.append({{parent, t.data(), 1, 0}, {child, t.data(), 1, 0}});
  EXPECT_EQ(a.ops.size(), 1u) << "the first copies, then the second is alone";
  EXPECT_NE(cache.row(parent)[1], cache.row(child)[1]);
  EXPECT_EQ(cache.row(parent)[0], cache.row(child)[0]);
}

TEST(Fork, AFullLastBlockNeedsNoCopy) {
  Cache cache(8, 4);
  const radix_req parent = cache.start(range(0, 8));
  const radix_req child = cache.fork(parent, 1)[0];
  EXPECT_TRUE(cache.append(child, {9}).ops.empty());
  EXPECT_TRUE(cache.append(parent, {9}).ops.empty());
  EXPECT_NE(cache.row(parent)[2], cache.row(child)[2]);
}

TEST(Fork, OutlivesItsParent) {
  Cache cache(8, 4);
  const radix_req parent = cache.start(range(0, 6));
  const radix_req child = cache.fork(parent, 1)[0];
  cache.free(parent);
  EXPECT_EQ(cache.stats().blocks_free, 6u);
  EXPECT_TRUE(cache.append(child, {9}).ops.empty());
  Tokens t(7);
  uint64_t n = 0;
  ASSERT_EQ(cache->tokens(child, t.data(), 7, &n), RADIX_OK);
  EXPECT_EQ(t, range(0, 6) + Tokens{9});
}

TEST(Fork, AllChildrenOrNone) {
  CacheConfig config = Cache::config_of(8, 2);
  config.max_requests = 3;
  config.preallocate = true;
  Cache cache(config);
  const radix_req parent = cache.start({1});
  radix_req out[3] = {7, 7, 7};
  EXPECT_EQ(cache->fork(parent, 3, out), RADIX_E_FULL);
  EXPECT_EQ(cache.stats().requests_live, 1u);
  EXPECT_EQ(cache->fork(parent, 2, out), RADIX_OK);
}

TEST(Fork, OfUnknownTokensIsRefused) {
  Cache cache;
  const radix_req parent = cache.begin({});
  cache.append({{parent, nullptr, 2, 0}});
  radix_req out[1];
  EXPECT_EQ(cache->fork(parent, 1, out), RADIX_E_STATE);
}

TEST(Truncate, GivesBlocksBackAndIsExact) {
  Cache cache(8, 4);
  const radix_req r = cache.start(range(0, 15));
  const uint64_t version = cache.info(r).table_version;
  cache.truncate(r, 13);
  EXPECT_EQ(cache.info(r).table_version, version) << "the row is the same";
  cache.truncate(r, 5);
  EXPECT_NE(cache.info(r).table_version, version);
  EXPECT_EQ(cache.info(r).num_blocks, 2u);
  EXPECT_EQ(cache.stats().blocks_free, 6u);
  const Appended a = cache.append(r, {99});
  EXPECT_TRUE(a.ops.empty());
  EXPECT_EQ(a.slots[0] % 4, 1);
}

TEST(Truncate, IntoPublishedBlocksCopiesOnTheNextAppend) {
  Cache cache(8, 4);
  const radix_req r = cache.start(range(0, 8));
  cache.commit(r);
  cache.truncate(r, 6);
  EXPECT_EQ(cache.info(r).committed_tokens, 4u);
  const int32_t published = cache.row(r)[1];
  const Appended a = cache.append(r, {99});
  ASSERT_EQ(a.ops.size(), 1u);
  EXPECT_EQ(a.ops[0].src, published);
  EXPECT_EQ(a.ops[0].num_tokens, 2u);
  EXPECT_EQ(cache.peek(range(0, 8)), 8u);
  cache.append(r, {98});
  cache.commit(r);
  EXPECT_EQ(cache.peek(range(0, 6) + Tokens{99, 98}), 8u);
}

TEST(Truncate, ToNothingAndBeyond) {
  Cache cache(8, 4);
  const radix_req r = cache.start(range(0, 8));
  cache.commit(r);
  EXPECT_EQ(cache->truncate(r, 9), RADIX_E_INVALID);
  cache.truncate(r, 0);
  EXPECT_EQ(cache.info(r).num_blocks, 0u);
  EXPECT_EQ(cache.evict(10), 2u) << "nothing is leased any more";
}

TEST(Free, CommittedBlocksStayCached) {
  Cache cache(8, 2);
  cache.remember(range(0, 5));
  EXPECT_EQ(cache.stats().blocks_cached, 2u);
  EXPECT_EQ(cache.stats().blocks_free, 6u);
}

TEST(Free, DiscardTakesWhatOnlyThisRequestUsed) {
  Cache cache(16, 2);
  cache.remember(range(0, 4));
  const radix_req r = cache.start(range(0, 4) + range(50, 55));
  cache.commit(r);
  cache.free(r, RADIX_FREE_DISCARD);
  EXPECT_EQ(cache.peek(range(0, 4) + range(50, 55)), 4u);
  EXPECT_EQ(cache.stats().blocks_free, 14u);
}

TEST(Free, DiscardSparesWhatOthersMatchedPublishedOrLease) {
  Cache cache(16, 2);
  const radix_req a = cache.start(range(0, 6));
  cache.commit(a);
  const radix_req reader = cache.begin(range(0, 5));
  cache.free(a, RADIX_FREE_DISCARD);
  EXPECT_EQ(cache.peek(range(0, 6)), 6u) << "one node, matched by another";
  cache.free(reader);

  const radix_req b = cache.start(range(20, 24)), c = cache.start(range(20, 24));
  cache.commit(b);
  cache.commit(c);  // a duplicate: b published it
  cache.free(b);
  cache.free(c, RADIX_FREE_DISCARD);
  EXPECT_EQ(cache.peek(range(20, 24)), 4u);
}

}  // namespace
}  // namespace radixattn
