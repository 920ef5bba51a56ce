// The tree as flat arrays: order, ranges, and what the caller's arrays must have room for.
#include <algorithm>
#include <set>

#include "cache_fixture.h"

namespace radixattn {
namespace {

struct Arrays {
  std::vector<int32_t> parent, depth_blocks, child_begin, block_begin, block_ids, tokens;
  radix_tree_view view = {};

  Arrays(uint32_t nodes, uint32_t blocks, uint32_t block_size)
      : parent(nodes, -9),
        depth_blocks(nodes, -9),
        child_begin(nodes + 2, -9),
        block_begin(nodes + 1, -9),
        block_ids(blocks, -9),
        tokens(size_t{blocks} * block_size, -9) {
    view.struct_size = sizeof view;
    view.nodes_cap = nodes;
    view.blocks_cap = blocks;
    view.parent = parent.data();
    view.depth_blocks = depth_blocks.data();
    view.child_begin = child_begin.data();
    view.block_begin = block_begin.data();
    view.block_ids = block_ids.data();
    view.tokens = tokens.data();
  }
};

// A size query, then the export; the invariants of the arrays hold.
Arrays exported(Cache& cache, radix_ns ns = 0, uint64_t extra_key = 0) {
  radix_tree_view sizes = {};
  const radix_status st = cache->export_tree(ns, extra_key, &sizes);
  EXPECT_EQ(st, sizes.num_nodes == 0 ? RADIX_OK : RADIX_E_BUFFER);
  Arrays a(sizes.num_nodes, sizes.num_blocks, cache.block_size());
  EXPECT_EQ(cache->export_tree(ns, extra_key, &a.view), RADIX_OK) << last_message();
  EXPECT_EQ(a.view.num_nodes, sizes.num_nodes);
  EXPECT_EQ(a.view.num_blocks, sizes.num_blocks);
  EXPECT_EQ(a.view.block_size, cache.block_size());
  const auto n = static_cast<int32_t>(a.view.num_nodes);
  EXPECT_EQ(a.child_begin[0], 0);
  EXPECT_EQ(a.child_begin.back(), n);
  EXPECT_EQ(a.block_begin[0], 0);
  EXPECT_EQ(a.block_begin.back(), static_cast<int32_t>(a.view.num_blocks));
  for (int32_t node = -1; node < n; ++node) {
    const auto i = static_cast<size_t>(node + 1);
    EXPECT_LE(a.child_begin[i], a.child_begin[i + 1]);
    const int32_t end =
        node < 0 ? 0 : a.depth_blocks[i - 1] + a.block_begin[i] - a.block_begin[i - 1];
    std::vector<int32_t> last;
    for (int32_t c = a.child_begin[i]; c < a.child_begin[i + 1]; ++c) {
      const auto k = static_cast<size_t>(c);
      EXPECT_GT(c, node);
      EXPECT_EQ(a.parent[k], node);
      EXPECT_EQ(a.depth_blocks[k], end);
      EXPECT_LT(a.block_begin[k], a.block_begin[k + 1]);
      const int32_t* first = a.tokens.data() + int64_t{a.block_begin[k]} * cache.block_size();
      const std::vector<int32_t> block(first, first + cache.block_size());
      if (c > a.child_begin[i]) {
        EXPECT_LT(last, block) << "siblings are sorted";
      }
      last = block;
    }
  }
  return a;
}

TEST(TreeExport, AnEmptyTreeHasNoNodes) {
  Cache cache;
  const Arrays a = exported(cache);
  EXPECT_EQ(a.view.num_nodes, 0u);
  EXPECT_EQ(a.child_begin, (std::vector<int32_t>{0, 0}));
  EXPECT_EQ(a.block_begin, std::vector<int32_t>{0});
  cache.begin({1, 2, 3});  // a root without nodes
  EXPECT_EQ(exported(cache).view.num_nodes, 0u);
}

TEST(TreeExport, NodesStandBreadthFirstAndSorted) {
  Cache cache(16, 2);
  cache.remember({7, 7, 8, 8, 5, 6});
  cache.remember({9, 9});
  cache.remember({7, 7, 8, 8, 1, 1});
  const Arrays a = exported(cache);
  EXPECT_EQ(a.parent, (std::vector<int32_t>{-1, -1, 0, 0}));
  EXPECT_EQ(a.depth_blocks, (std::vector<int32_t>{0, 0, 2, 2}));
  EXPECT_EQ(a.child_begin, (std::vector<int32_t>{0, 2, 4, 4, 4, 4}));
  EXPECT_EQ(a.block_begin, (std::vector<int32_t>{0, 2, 3, 4, 5}));
  EXPECT_EQ(a.tokens, (std::vector<int32_t>{7, 7, 8, 8, 9, 9, 1, 1, 5, 6}));
  const std::vector<int32_t> row = cache.row(cache.begin({7, 7, 8, 8, 1, 1, 0}));
  EXPECT_EQ(row, (std::vector<int32_t>{a.block_ids[0], a.block_ids[1], a.block_ids[3]}));
}

TEST(TreeExport, SiblingsAreOrderedAsSignedNumbers) {
  Cache cache(16, 1);
  for (const int32_t t : {5, INT32_MIN, -1, INT32_MAX, 0}) cache.remember({t});
  EXPECT_EQ(exported(cache).tokens, (std::vector<int32_t>{INT32_MIN, -1, 0, 5, INT32_MAX}));
  Cache pairs(16, 2);  // the first token is the same, the second one decides
  for (const int32_t t : {5, -3, 9, 0}) pairs.remember({7, t});
  EXPECT_EQ(exported(pairs).tokens, (std::vector<int32_t>{7, -3, 7, 0, 7, 5, 7, 9}));
}

TEST(TreeExport, OnlyWhatIsBelowThisNamespaceAndKey) {
  Cache cache(32, 1);
  radix_ns ns = 0;
  ASSERT_EQ(cache->ns_create("a", 1, 0, &ns), RADIX_OK);
  cache.remember({1, 2});
  cache.remember({3}, ns);
  cache.remember({4}, 0, 7);
  EXPECT_EQ(exported(cache).tokens, (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(exported(cache, ns).tokens, std::vector<int32_t>{3});
  EXPECT_EQ(exported(cache, 0, 7).tokens, std::vector<int32_t>{4});
  EXPECT_EQ(exported(cache, ns, 7).view.num_nodes, 0u);
  ASSERT_EQ(cache->ns_destroy(ns), RADIX_OK);
  radix_tree_view view = {};
  EXPECT_EQ(cache->export_tree(ns, 0, &view), RADIX_E_STALE);
}

TEST(TreeExport, ReservedBlocksAreNotThereCommittedOnesAre) {
  Cache cache(16, 2);
  const radix_req r = cache.start(range(0, 7));
  EXPECT_EQ(exported(cache).view.num_blocks, 0u);
  cache.commit(r, 5);
  EXPECT_EQ(exported(cache).tokens, range(0, 4));
  cache.commit(r);
  EXPECT_EQ(exported(cache).tokens, range(0, 6));
}

TEST(TreeExport, TooLittleRoomWritesNothingButWhatIsNeeded) {
  Cache cache(16, 1);
  cache.remember({1, 2, 3});
  cache.remember({1, 5});
  for (const uint32_t nodes : {0u, 2u, 3u}) {
    for (const uint32_t blocks : {0u, 3u, 4u}) {
      if (nodes == 3 && blocks == 4) continue;
      Arrays a(3, 4, 1);
      a.view.nodes_cap = nodes;
      a.view.blocks_cap = blocks;
      EXPECT_EQ(cache->export_tree(0, 0, &a.view), RADIX_E_BUFFER) << nodes << " " << blocks;
      EXPECT_EQ(a.view.num_nodes, 3u);
      EXPECT_EQ(a.view.num_blocks, 4u);
      for (const auto* array :
           {&a.parent, &a.depth_blocks, &a.child_begin, &a.block_begin, &a.block_ids, &a.tokens})
        EXPECT_EQ(std::count(array->begin(), array->end(), -9),
                  static_cast<int64_t>(array->size()));
    }
  }
  Arrays a(5, 9, 1);  // more room than needed is not touched
  ASSERT_EQ(cache->export_tree(0, 0, &a.view), RADIX_OK);
  EXPECT_EQ(a.parent[3], -9);
  EXPECT_EQ(a.child_begin[4], 3);
  EXPECT_EQ(a.child_begin[5], -9);
  EXPECT_EQ(a.block_begin[4], -9);
  EXPECT_EQ(a.block_ids[4], -9);
  EXPECT_EQ(a.tokens[4], -9);
}

TEST(TreeExport, NullArraysAreNamed) {
  Cache cache(16, 1);
  cache.remember({1, 2});
  int32_t* radix_tree_view::*const arrays[] = {
      &radix_tree_view::parent,      &radix_tree_view::depth_blocks, &radix_tree_view::child_begin,
      &radix_tree_view::block_begin, &radix_tree_view::block_ids,    &radix_tree_view::tokens};
  const char* names[] = {"parent",      "depth_blocks", "child_begin",
                         "block_begin", "block_ids",    "tokens"};
  for (size_t i = 0; i < std::size(arrays); ++i) {
    Arrays a(2, 2, 1);
    a.view.*arrays[i] = nullptr;
    EXPECT_EQ(cache->export_tree(0, 0, &a.view), RADIX_E_INVALID);
    EXPECT_NE(std::string(last_message()).find(std::string("io->") + names[i] + " is NULL"),
              std::string::npos)
        << last_message();
  }
}

TEST(TreeExport, ChangesNothing) {
  Cache cache(16, 1);
  cache.remember({1, 2, 3});
  const uint64_t bytes = cache.host_bytes();
  const radix_stats before = cache.stats();
  exported(cache);
  const radix_stats after = cache.stats();
  EXPECT_EQ(std::memcmp(&before, &after, sizeof after), 0);
  EXPECT_EQ(cache.host_bytes(), bytes);
}

// Thousands of children, and a path of thousands of nodes.
TEST(TreeExport, WideAndDeepTrees) {
  Cache wide(4096, 1);
  for (int32_t i = 0; i < 3000; ++i) wide.remember({(i * 1237) % 3001 - 1500});
  const Arrays a = exported(wide);
  EXPECT_EQ(a.view.num_nodes, 3000u);
  EXPECT_EQ(a.child_begin[1], 3000);
  Cache deep(4096, 1);
  Tokens t;
  for (int32_t i = 0; i < 1000; ++i) {  // a branch behind every token keeps the nodes apart
    t.push_back(i);
    deep.remember(t + Tokens{-1});
  }
  const Arrays b = exported(deep);
  EXPECT_GT(b.view.num_nodes, 1900u);
  EXPECT_EQ(*std::max_element(b.depth_blocks.begin(), b.depth_blocks.end()), 999);
}

}  // namespace
}  // namespace radixattn
