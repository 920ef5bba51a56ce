// commit: what becomes visible, duplicates in both modes, families.
#include "cache_fixture.h"

namespace radixattn {
namespace {

TEST(Commit, PublishesFullBlocksOnly) {
  Cache cache(8, 2);
  const radix_req r = cache.start(range(0, 5));
  const radix_commit_out out = cache.commit(r);
  EXPECT_EQ(out.published_blocks, 2u);
  EXPECT_EQ(cache.info(r).committed_tokens, 4u);
  EXPECT_EQ(cache.peek(range(0, 5)), 4u);
  EXPECT_EQ(cache.commit(r).published_blocks, 0u);
}

TEST(Commit, NotBeyondWhatIsWritten) {
  Cache cache(8, 2);
  const radix_req r = cache.start(range(0, 6));
  cache.commit(r, 3);
  EXPECT_EQ(cache.peek(range(0, 6)), 2u);
  const radix_commit_item item = {r, 7};
  EXPECT_EQ(cache->commit(&item, 1, nullptr), RADIX_E_INVALID);
  cache.commit(r, 0);
  EXPECT_EQ(cache.info(r).committed_tokens, 2u);
}

TEST(Commit, KeepsADuplicateUntilTheRequestEnds) {
  Cache cache(8, 2);
  const radix_req a = cache.start(range(0, 4)), b = cache.start(range(0, 4));
  cache.commit(a);
  const std::vector<int32_t> before = cache.row(b);
  const radix_commit_out out = cache.commit(b);
  EXPECT_EQ(out.num_duplicates, 2u);
  EXPECT_EQ(out.published_blocks, 0u);
  EXPECT_EQ(cache.row(b), before);
  EXPECT_EQ(cache.stats().blocks_free, 4u);
  cache.free(b);
  EXPECT_EQ(cache.stats().blocks_free, 6u);
}

TEST(Commit, RemapsADuplicateWhenAsked) {
  Cache cache(8, 2);
  const radix_req a = cache.start(range(0, 4)),
                  b = cache.start(range(0, 6), RADIX_BEGIN_REMAP_DUPLICATES);
  cache.commit(a);
  const std::vector<int32_t> before = cache.row(b);
  const uint64_t version = cache.info(b).table_version;
  const radix_commit_out out = cache.commit(b);
  EXPECT_EQ(out.num_duplicates, 2u);
  EXPECT_EQ(out.published_blocks, 1u);
  ASSERT_EQ(cache.remaps().size(), 2u);
  EXPECT_EQ(cache.remaps()[1].req, b);
  EXPECT_EQ(cache.remaps()[1].index, 1u);
  EXPECT_EQ(cache.remaps()[1].old_block, before[1]);
  EXPECT_EQ(cache.remaps()[1].new_block, cache.row(a)[1]);
  EXPECT_EQ(cache.row(b)[0], cache.row(a)[0]);
  EXPECT_NE(cache.info(b).table_version, version);
  EXPECT_EQ(cache.stats().blocks_free, 5u);
}

TEST(Commit, NeedsRoomForTheWorstCaseOfRemaps) {
  Cache cache(8, 2);
  const radix_req r = cache.start(range(0, 6), RADIX_BEGIN_REMAP_DUPLICATES);
  radix_remap remaps[2];
  radix_commit_out out = {};
  out.remaps = remaps;
  out.remaps_cap = 2;
  const radix_commit_item item = {r, 6};
  EXPECT_EQ(cache->commit(&item, 1, &out), RADIX_E_BUFFER);
  EXPECT_EQ(out.num_remaps, 3u);
  EXPECT_EQ(cache.info(r).committed_tokens, 0u);
  EXPECT_EQ(cache->commit(&item, 1, nullptr), RADIX_E_BUFFER);
}

TEST(Commit, AllItemsOrNone) {
  Cache cache(8, 2);
  const radix_req a = cache.start(range(0, 4)), b = cache.start(range(10, 14));
  const radix_commit_item items[2] = {{a, 4}, {b, 9}};
  EXPECT_EQ(cache->commit(items, 2, nullptr), RADIX_E_INVALID);
  EXPECT_EQ(cache.peek(range(0, 4)), 0u);
}

TEST(Commit, ForksAreCommittedAlong) {
  Cache cache(8, 2);
  const radix_req parent = cache.start(range(0, 5));
  const std::vector<radix_req> children = cache.fork(parent, 2);
  cache.append(children[0], {77});  // copies the shared, partly filled block
  cache.commit(children[1]);
  EXPECT_EQ(cache.info(parent).committed_tokens, 4u);
  EXPECT_EQ(cache.info(children[0]).committed_tokens, 4u);
  EXPECT_EQ(cache.commit(children[0]).published_blocks, 1u);
  EXPECT_EQ(cache.info(parent).committed_tokens, 4u);
}

TEST(Commit, AForkThatWantsRemapsGetsItsOwn) {
  Cache cache(8, 2);
  const radix_req parent = cache.start(range(0, 4), RADIX_BEGIN_REMAP_DUPLICATES);
  const radix_req child = cache.fork(parent, 1)[0];
  cache.remember(range(0, 2));  // the first block exists twice now
  EXPECT_EQ(cache.commit(parent).num_remaps, 1u);
  EXPECT_EQ(cache.info(child).committed_tokens, 4u);
  EXPECT_EQ(cache.stats().blocks_free, 5u) << "the child keeps the duplicate";
  EXPECT_EQ(cache.commit(child).num_remaps, 1u) << "until its own commit";
  EXPECT_EQ(cache.row(child), cache.row(parent));
  EXPECT_EQ(cache.stats().blocks_free, 6u);
}

TEST(Commit, AFamilyInOneCallStaysWithinTheRoomThatWasAskedFor) {
  Cache cache(8, 2);
  const radix_req parent = cache.start(range(0, 4), RADIX_BEGIN_REMAP_DUPLICATES);
  const radix_req child = cache.fork(parent, 1)[0];
  cache.remember(range(0, 4));  // both blocks exist twice
  radix_remap remaps[3] = {};
  remaps[2].index = 77;
  radix_commit_out out = {};
  out.remaps = remaps;
  out.remaps_cap = 2;
  const radix_commit_item items[2] = {{parent, 4}, {child, 0}};  // the child asks for nothing
  ASSERT_EQ(cache->commit(items, 2, &out), RADIX_OK) << last_message();
  cache.check();
  EXPECT_EQ(out.num_remaps, 2u);
  EXPECT_EQ(remaps[2].index, 77u);
  EXPECT_EQ(cache.commit(child, 0).num_remaps, 2u) << "the next call does the rest";

  const radix_req a = cache.start(range(20, 24), RADIX_BEGIN_REMAP_DUPLICATES);
  const radix_req b = cache.fork(a, 1)[0];
  cache.remember(range(20, 24));
  radix_remap room[4];
  out.remaps = room;
  out.remaps_cap = 4;
  const radix_commit_item both[2] = {{a, 4}, {b, 4}};
  ASSERT_EQ(cache->commit(both, 2, &out), RADIX_OK) << last_message();
  cache.check();
  EXPECT_EQ(out.num_remaps, 4u) << "both are named, both are remapped";
}

TEST(Commit, ATruncatedForkKeepsItsPartOfAPublishedBlock) {
  Cache cache(8, 4);
  const radix_req parent = cache.start(range(0, 8));
  const radix_req child = cache.fork(parent, 1)[0];
  cache.truncate(child, 6);
  cache.commit(parent);
  EXPECT_EQ(cache.info(child).committed_tokens, 4u);
  cache.free(parent);
  EXPECT_EQ(cache.evict(100), 0u) << "the child still reads both blocks";
  const Appended a = cache.append(child, {99});
  ASSERT_EQ(a.ops.size(), 1u);
  EXPECT_EQ(a.ops[0].num_tokens, 2u);
  EXPECT_EQ(cache.peek(range(0, 8)), 8u) << "the published block is untouched";
}

TEST(Commit, OneUsersTailGrowsInOneNode) {
  Cache cache(32, 2);
  const radix_req r = cache.start(range(0, 6));
  cache.commit(r);
  for (int32_t i = 6; i < 30; ++i) {
    cache.append(r, {i});
    cache.commit(r);
  }
  EXPECT_EQ(cache.stats().tree_nodes, 1u);
  EXPECT_EQ(cache.peek(range(0, 30)), 30u);
}

TEST(Commit, ATailBehindWhatOthersMatchedIsANodeOfItsOwn) {
  Cache cache(32, 2);
  const radix_req r = cache.start(range(0, 6));
  cache.commit(r);
  cache.begin(range(0, 6));
  cache.append(r, range(6, 8));
  cache.commit(r);
  EXPECT_EQ(cache.stats().tree_nodes, 2u);
  cache.free(r, RADIX_FREE_DISCARD);
  EXPECT_EQ(cache.peek(range(0, 8)), 6u);
}

TEST(Commit, ATailBehindADuplicateIsANodeOfItsOwn) {
  Cache cache(32, 2);
  const radix_req a = cache.start({1, 2}), b = cache.start({1, 2, 3, 4});
  cache.commit(a);
  cache.commit(b);
  EXPECT_EQ(cache.stats().tree_nodes, 2u) << "the head is a's leaf, and stays as long as a made it";
}

TEST(Commit, ATailBehindASharedPromptIsANodeOfItsOwn) {
  Cache cache(32, 2);
  cache.remember(range(0, 6));
  const radix_req r = cache.start(range(0, 6) + range(50, 54));
  cache.commit(r);
  EXPECT_EQ(cache.stats().tree_nodes, 2u);
}

TEST(Commit, InAFragmentedPoolARunBecomesAChain) {
  Cache cache(8, 1);
  std::vector<radix_req> singles;
  for (int32_t i = 0; i < 8; ++i) singles.push_back(cache.start({100 + i}));
  for (const radix_req r : singles) cache.commit(r);
  for (const radix_req r : singles) cache.free(r);
  for (int32_t i = 0; i < 8; i += 2) EXPECT_EQ(cache.evict(1), 1u);
  const radix_req r = cache.start({1, 2, 3, 4});
  cache.commit(r);
  EXPECT_EQ(cache.peek({1, 2, 3, 4}), 4u);
}

}  // namespace
}  // namespace radixattn
