// The tree of what rows share: shapes by hand, and random ones against a plain look at all pairs.
#include "plan/shared_tree.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace radixattn {
namespace {

using Row = std::vector<int32_t>;

class Tree {
 public:
  explicit Tree(const std::vector<Row>& rows, std::vector<uint32_t> counts = {})
      : memory_(SharedTree::bytes(static_cast<uint32_t>(rows.size())) + 64) {
    char* at = memory_.data() + (64 - reinterpret_cast<uintptr_t>(memory_.data()) % 64) % 64;
    size_t stride = 1;
    for (const Row& row : rows) stride = std::max(stride, row.size());
    Row tables(rows.size() * stride, -7);
    for (size_t s = 0; s < rows.size(); ++s) {
      std::copy(rows[s].begin(), rows[s].end(), tables.begin() + static_cast<long>(s * stride));
      if (counts.size() <= s) counts.push_back(static_cast<uint32_t>(rows[s].size()));
    }
    tree.bind(static_cast<uint32_t>(rows.size()), at);
    for (int i = 0; i < 2; ++i)  // the second time with the first one's leavings
      tree.build({tables.data(), stride, counts.data(), static_cast<uint32_t>(rows.size())});
    nodes.assign(tree.nodes(), tree.nodes() + tree.num_nodes());
    seqs.assign(tree.seqs(), tree.seqs() + rows.size());
    slot_nodes.assign(tree.slot_nodes(), tree.slot_nodes() + rows.size());
  }
  SharedTree tree;
  std::vector<TreeNode> nodes;
  std::vector<uint32_t> seqs;
  std::vector<int32_t> slot_nodes;

 private:
  std::vector<char> memory_;
};

void expect_node(const TreeNode& n, const TreeNode& want) {
  EXPECT_EQ(n.parent, want.parent);
  EXPECT_EQ(n.first_slot, want.first_slot);
  EXPECT_EQ(n.end_slot, want.end_slot);
  EXPECT_EQ(n.first_block, want.first_block);
  EXPECT_EQ(n.end_block, want.end_block);
}

TEST(SharedTree, ASharedPrefixAndANodeBelow) {
  const Tree t({{3, 4, 5, 6, 9}, {3, 4, 5, 6, 2, 7}, {3, 4, 5, 6, 2, 8}});
  ASSERT_EQ(t.nodes.size(), 2u);
  expect_node(t.nodes[0], {-1, 0, 3, 0, 4});
  expect_node(t.nodes[1], {0, 1, 3, 4, 5});
  EXPECT_EQ(t.seqs, (std::vector<uint32_t>{0, 1, 2}));
  EXPECT_EQ(t.slot_nodes, (std::vector<int32_t>{0, 1, 1}));
}

TEST(SharedTree, SequencesOfANodeStandSideBySide) {
  const Tree t({{1, 2}, {5, 6}, {1, 3}, {5, 7}, {8}});
  ASSERT_EQ(t.nodes.size(), 2u);
  EXPECT_EQ(t.seqs, (std::vector<uint32_t>{0, 2, 1, 3, 4}));
  EXPECT_EQ(t.slot_nodes, (std::vector<int32_t>{0, 0, 1, 1, -1}));
}

TEST(SharedTree, NothingShared) {
  EXPECT_TRUE(Tree({{1, 2}, {2, 1}, {}, {3}}).nodes.empty());
  EXPECT_TRUE(Tree(std::vector<Row>{{1, 2, 3}}).nodes.empty());
  EXPECT_TRUE(Tree(std::vector<Row>(2)).nodes.empty()) << "what has no blocks shares none";
}

TEST(SharedTree, EqualRowsAndOnesThatEndInside) {
  const Tree t({{1, 2, 3, 4}, {1, 2}, {1, 2, 3, 4}, {1, 2}});
  ASSERT_EQ(t.nodes.size(), 2u);
  expect_node(t.nodes[0], {-1, 0, 4, 0, 2});
  expect_node(t.nodes[1], {0, 2, 4, 2, 4});
  EXPECT_EQ(t.seqs, (std::vector<uint32_t>{1, 3, 0, 2}));
}

TEST(SharedTree, OnlySharableBlocksCount) {
  const Tree t({{1, 2, 3}, {1, 2, 3}}, {1, 3});
  ASSERT_EQ(t.nodes.size(), 1u);
  expect_node(t.nodes[0], {-1, 0, 2, 0, 1});
}

TEST(SharedTree, EqualBlocksBehindDifferentOnesAreNotShared) {
  EXPECT_TRUE(Tree({{1, 9, 9}, {2, 9, 9}}).nodes.empty());
}

TEST(SharedTree, LongRowsDifferAnywhere) {
  for (const size_t at : {0u, 1u, 62u, 63u, 64u, 65u, 127u, 128u, 199u}) {
    Row a(200, 4), b(200, 4);
    b[at] = 5;
    const Tree t({a, b});
    ASSERT_EQ(t.nodes.size(), at == 0 ? 0u : 1u);
    if (at > 0) {
      EXPECT_EQ(t.nodes[0].end_block, at);
    }
  }
}

uint32_t common(const Row& a, const Row& b) {
  uint32_t n = 0;
  while (n < a.size() && n < b.size() && a[n] == b[n]) ++n;
  return n;
}

// A node for every length at which some two rows part and more than one begins alike.
void expect_tree_of(const std::vector<Row>& rows) {
  const Tree t(rows);
  const auto n = static_cast<uint32_t>(rows.size());
  std::vector<uint32_t> sorted = t.seqs;
  std::sort(sorted.begin(), sorted.end());
  for (uint32_t s = 0; s < n; ++s) ASSERT_EQ(sorted[s], s);
  ASSERT_LE(t.nodes.size(), 2 * rows.size());
  for (size_t i = 0; i < t.nodes.size(); ++i) {
    const TreeNode& node = t.nodes[i];
    ASSERT_LT(node.parent, static_cast<int32_t>(i));
    ASSERT_GE(node.end_slot - node.first_slot, 2u);
    ASSERT_LT(node.first_block, node.end_block);
    ASSERT_EQ(node.first_block,
              node.parent < 0 ? 0 : t.nodes[static_cast<size_t>(node.parent)].end_block);
    const Row& first = rows[t.seqs[node.first_slot]];
    uint32_t shortest = UINT32_MAX;
    for (uint32_t slot = 0; slot < n; ++slot) {
      const uint32_t same = common(first, rows[t.seqs[slot]]);
      const bool below = slot >= node.first_slot && slot < node.end_slot;
      ASSERT_EQ(same > node.first_block, below) << "node " << i << " slot " << slot;
      if (below) shortest = std::min(shortest, same);
    }
    ASSERT_EQ(node.end_block, shortest) << "node " << i;
  }
  for (uint32_t slot = 0; slot < n; ++slot) {
    uint32_t longest = 0;  // what the row has in common with another one
    for (uint32_t other = 0; other < n; ++other)
      if (other != slot)
        longest = std::max(longest, common(rows[t.seqs[slot]], rows[t.seqs[other]]));
    const int32_t node = t.slot_nodes[slot];
    ASSERT_EQ(node < 0 ? 0 : t.nodes[static_cast<size_t>(node)].end_block, longest);
    if (node < 0) continue;
    ASSERT_GE(slot, t.nodes[static_cast<size_t>(node)].first_slot);
    ASSERT_LT(slot, t.nodes[static_cast<size_t>(node)].end_slot);
  }
}

TEST(SharedTree, RandomRows) {
  for (uint64_t seed = 1; seed <= 400; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 rng(seed);
    const auto below = [&rng](uint32_t n) { return static_cast<uint32_t>(rng() % n); };
    std::vector<Row> rows(1 + below(20));
    for (size_t s = 0; s < rows.size(); ++s) {
      if (s > 0 && below(2) == 0) rows[s] = rows[below(static_cast<uint32_t>(s))];
      rows[s].resize(below(static_cast<uint32_t>(rows[s].size()) + 1));
      const uint32_t more = below(seed % 3 == 0 ? 150 : 6), ids = 1 + below(3);
      for (uint32_t i = 0; i < more; ++i) rows[s].push_back(static_cast<int32_t>(below(ids)));
    }
    expect_tree_of(rows);
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace radixattn
