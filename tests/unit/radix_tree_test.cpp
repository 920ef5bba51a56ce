// RadixTree alone: shape, matching, splits, leases, tails, fences.
#include "cache/radix_tree.h"

#include <gtest/gtest.h>

#include <vector>

namespace radixattn {
namespace {

class Tree : public ::testing::Test {
 protected:
  void init(uint32_t num_blocks, uint32_t block_size) {
    block_size_ = block_size;
    scratch_.resize(num_blocks);
    tree_.bind(&memory_);
    ASSERT_TRUE(tree_.init(num_blocks, block_size, RADIX_EVICT_LRU));
    ASSERT_TRUE(tree_.reserve_nodes(num_blocks, 8) && tree_.reserve_namespaces(2) &&
                tree_.reserve_leases(16));
    tree_.reset_namespace(0);
    tree_.reset_namespace(1);
  }
  ~Tree() override { EXPECT_EQ(tree_.check(scratch_.data()), RADIX_OK); }

  uint32_t root(uint32_t ns = 0, uint64_t key = 0) {
    const uint32_t id = tree_.find_root(ns, key);
    return id != kNone ? id : tree_.make_root(ns, key);
  }
  Position walk(const std::vector<int32_t>& t) const {
    const uint32_t id = tree_.find_root(0, 0);
    return id == kNone ? Position{} : tree_.walk({id, 0, 0}, t.data(), t.size(), nullptr, 0);
  }
  // Publishes t; block ids count up from `first_block`.
  Position insert(const std::vector<int32_t>& t, int32_t first_block, uint64_t now = 1) {
    Position at = tree_.walk({root(), 0, 0}, t.data(), t.size(), nullptr, 0);
    at = tree_.split(at);
    const uint32_t end = static_cast<uint32_t>(t.size() / block_size_);
    while (at.blocks < end) {
      uint32_t unit = 0;
      const Position next = tree_.add_run(at, end - at.blocks, now, false, &unit);
      for (uint32_t j = at.blocks; j < next.blocks; ++j, ++unit) {
        std::copy_n(t.data() + j * block_size_, block_size_, tree_.unit_tokens(unit));
        *tree_.unit_blocks(unit) = first_block++;
      }
      tree_.index_child(next.node);
      at = next;
    }
    EXPECT_EQ(tree_.check(scratch_.data()), RADIX_OK);
    return at;
  }

  HostAllocator memory_;
  RadixTree tree_;
  uint32_t block_size_ = 1;
  std::vector<uint32_t> scratch_;
};

TEST_F(Tree, MatchesTheSharedHeadOfThreePrompts) {
  init(16, 1);
  insert({1, 2, 3}, 0);
  insert({1, 2, 4}, 3);
  insert({5, 6, 7}, 4);
  EXPECT_EQ(walk({1, 2, 5}).blocks, 2u);
  EXPECT_EQ(walk({1, 2, 4, 9}).blocks, 3u);
  EXPECT_EQ(walk({5}).blocks, 1u);
  EXPECT_EQ(walk({6}).blocks, 0u);
  EXPECT_EQ(tree_.num_nodes(), 4u) << "[1 2], [3], [4], [5 6 7]";
  EXPECT_EQ(tree_.num_cached(), 7u);
}

TEST_F(Tree, AWalkNeverChangesTheShape) {
  init(8, 2);
  insert({1, 2, 3, 4, 5, 6}, 0);
  EXPECT_EQ(walk({1, 2, 3, 4, 9, 9}).blocks, 2u);
  EXPECT_EQ(walk({1, 2, 3, 9}).blocks, 1u) << "whole blocks only";
  EXPECT_EQ(tree_.num_nodes(), 1u);
}

TEST_F(Tree, ASplitKeepsIdsTokensAndTheLowerHalfsId) {
  init(8, 1);
  const Position end = insert({1, 2, 3, 4}, 10);
  insert({1, 2, 9}, 20);
  const Position at = walk({1, 2, 3, 4});
  EXPECT_EQ(at.node, end.node);
  uint32_t path[4];
  tree_.path_blocks(at, path);
  EXPECT_EQ(std::vector<uint32_t>(path, path + 4), (std::vector<uint32_t>{10, 11, 12, 13}));
  EXPECT_EQ(tree_.ascend(at, 3).blocks, 1u);
  EXPECT_EQ(tree_.ascend(at, 4).node, root());
}

TEST_F(Tree, ASplitKeepsUsageOnBothHalves) {
  init(8, 1);
  const Position end = insert({1, 2, 3, 4}, 0);
  tree_.use_path(end, 5, true);
  insert({1, 2, 9}, 4, 7);
  for (const uint32_t id : {end.node, tree_.node(end.node).parent}) {
    EXPECT_EQ(tree_.node(id).usage.hits, 1u);
    EXPECT_EQ(tree_.node(id).usage.last_use, 5u);
    EXPECT_EQ(tree_.node(id).usage.created, 1u);
  }
}

TEST_F(Tree, ALeaseProtectsItsPathAndNothingBelow) {
  init(16, 1);
  insert({1, 2, 3, 4}, 0);
  insert({1, 2, 8, 9}, 4);
  EXPECT_EQ(tree_.evictable(), 6u);
  const Position third = walk({1, 2, 3});
  tree_.take_lease(0, third);
  EXPECT_EQ(tree_.evictable(), 3u) << "[4] and [8 9]";
  tree_.take_lease(1, walk({1}));
  EXPECT_EQ(tree_.evictable(), 3u);
  tree_.release_lease(0);
  EXPECT_EQ(tree_.evictable(), 5u);
  tree_.move_lease(1, walk({1, 2, 8, 9}));
  EXPECT_EQ(tree_.evictable(), 2u);
  tree_.release_lease(1);
  EXPECT_EQ(tree_.evictable(), 6u);
}

TEST_F(Tree, ASplitBelowALeaseKeepsItOnItsTokens) {
  init(16, 1);
  insert({1, 2, 3, 4}, 0);
  tree_.take_lease(0, walk({1}));
  tree_.take_lease(1, walk({1, 2, 3, 4}));
  insert({1, 2, 9}, 4);
  EXPECT_EQ(tree_.lease_position(0).blocks, 1u);
  EXPECT_EQ(tree_.lease_position(1).blocks, 4u);
  tree_.release_lease(1);
  EXPECT_EQ(tree_.evictable(), 4u);
  tree_.release_lease(0);
}

TEST_F(Tree, TrimsTheTailBlockByBlockAndDropsEmptyNodesAndRoots) {
  init(8, 1);
  insert({1, 2, 3}, 10);
  insert({1, 7}, 13);
  const Position leaf = walk({1, 2, 3});
  EXPECT_EQ(tree_.trim_tail(leaf.node), 12u);
  EXPECT_EQ(walk({1, 2, 3}).blocks, 2u);
  EXPECT_EQ(tree_.trim_tail(leaf.node), 11u);
  EXPECT_EQ(tree_.trim_tail(walk({1, 7}).node), 13u);
  EXPECT_EQ(tree_.trim_tail(walk({1}).node), 10u);
  EXPECT_EQ(tree_.num_nodes(), 0u);
  EXPECT_EQ(tree_.find_root(0, 0), kNone);
}

TEST_F(Tree, TheLeafUsedLongestAgoGoesFirst) {
  init(8, 1);
  const Position a = insert({1, 2}, 0, 1);
  const Position b = insert({3, 4}, 2, 2);
  EXPECT_EQ(tree_.victim(0), a.node);
  tree_.use_path(a, 3, true);
  EXPECT_EQ(tree_.victim(0), b.node);
  EXPECT_EQ(tree_.node(a.node).usage.hits, 1u);
}

TEST_F(Tree, AFencedNodeWaitsForItsEpoch) {
  init(8, 1);
  insert({1, 2}, 0);
  tree_.set_epochs(1, 0);
  tree_.take_lease(0, walk({1, 2}));
  tree_.release_lease(0);
  EXPECT_EQ(tree_.evictable(), 0u);
  EXPECT_EQ(tree_.fenced(), 2u);
  EXPECT_EQ(tree_.victim(0), kNone);
  insert({1, 9}, 2);  // splits a fenced node: both halves wait
  EXPECT_EQ(tree_.fenced(), 2u);
  tree_.set_epochs(2, 1);
  EXPECT_EQ(tree_.fenced(), 0u);
  EXPECT_EQ(tree_.evictable(), 3u);
}

TEST_F(Tree, ALeafGrowsInPlaceWhenTheUnitsBehindItAreFree) {
  init(8, 1);
  const Position end = insert({1, 2}, 0);
  uint32_t unit = 0;
  const Position longer = tree_.add_run(end, 2, 2, true, &unit);
  EXPECT_EQ(longer.node, end.node);
  EXPECT_EQ(longer.blocks, 4u);
  for (int32_t i = 0; i < 2; ++i) {
    *tree_.unit_tokens(unit + static_cast<uint32_t>(i)) = 3 + i;
    *tree_.unit_blocks(unit + static_cast<uint32_t>(i)) = 2 + i;
  }
  EXPECT_EQ(walk({1, 2, 3, 4}).blocks, 4u);
  EXPECT_EQ(tree_.num_nodes(), 1u);
}

TEST_F(Tree, CountsBlocksUnderSeveralPathsOnce) {
  init(16, 1);
  insert({1, 2, 3, 4}, 0);
  insert({1, 2, 8, 9}, 4);
  EXPECT_EQ(tree_.cover(walk({1, 2, 3}), 1), 3u);
  EXPECT_EQ(tree_.cover(walk({1, 2, 3, 4}), 1), 1u);
  EXPECT_EQ(tree_.cover(walk({1, 2, 8}), 1), 1u);
  EXPECT_EQ(tree_.cover(walk({1}), 1), 0u);
  EXPECT_EQ(tree_.cover(walk({1}), 2), 1u);
  EXPECT_EQ(tree_.cover(walk({1, 2, 8}), 2), 2u);
}

TEST_F(Tree, RootsOfOtherNamespacesAndKeysAreOtherTrees) {
  init(8, 1);
  insert({1, 2}, 0);
  EXPECT_EQ(tree_.find_root(1, 0), kNone);
  EXPECT_EQ(tree_.find_root(0, 1), kNone);
  const uint32_t other = root(1, 7);
  EXPECT_EQ(tree_.find_root(1, 7), other);
  tree_.drop_root_if_unused(other);
  EXPECT_EQ(tree_.find_root(1, 7), kNone);
}

}  // namespace
}  // namespace radixattn
