// Which boxes are drawn, and where: rules that hold for every graph.
#include "layout.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

#include "support.h"

namespace tool::test {
namespace {

bool overlap(const Box& a, const Box& b) {
  return a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;
}

void expect_parents_first(const std::vector<Box>& boxes) {
  for (size_t i = 0; i < boxes.size(); ++i) {
    const Box& box = boxes[i];
    if (box.parent == kNoIndex) {
      EXPECT_EQ(box.depth, 0u);
      EXPECT_NE(box.kind, BoxKind::kNode);
      continue;
    }
    ASSERT_LT(box.parent, i);
    EXPECT_EQ(box.depth, boxes[box.parent].depth + 1);
    EXPECT_NE(boxes[box.parent].kind, BoxKind::kMore);
  }
}

// The drawn nodes and the hidden ones are all, once.
void expect_everything_counted(const Graph& graph, const std::vector<Box>& boxes) {
  std::set<uint32_t> drawn;
  uint64_t hidden_nodes = 0, tokens = 0, all_tokens = 0;
  for (const Box& box : boxes) {
    hidden_nodes += box.hidden_nodes;
    tokens += box.hidden_tokens;
    if (box.kind != BoxKind::kNode) continue;
    EXPECT_TRUE(drawn.insert(box.index).second);
    tokens += graph.nodes[box.index].num_tokens;
    const Box& parent = boxes[box.parent];
    const uint32_t node = graph.nodes[box.index].parent;
    EXPECT_EQ(parent.index, node == kNoIndex ? graph.nodes[box.index].root : node);
  }
  for (const Node& n : graph.nodes) all_tokens += n.num_tokens;
  EXPECT_EQ(drawn.size() + hidden_nodes, graph.nodes.size());
  EXPECT_EQ(tokens, all_tokens);
}

int64_t middle(const Box& box) { return box.y + box.height / 2; }

// A box stands in the middle of its children: at the height of an only child.
void expect_in_the_middle(const std::vector<Box>& boxes) {
  std::vector<uint32_t> children(boxes.size());
  for (const Box& box : boxes) {
    if (box.parent != kNoIndex) ++children[box.parent];
  }
  for (const Box& box : boxes) {
    if (box.parent == kNoIndex || children[box.parent] != 1) continue;
    EXPECT_NEAR(static_cast<double>(middle(box)), static_cast<double>(middle(boxes[box.parent])),
                1.0);
  }
}

void expect_places(std::vector<Box> boxes, const Graph& graph) {
  const Size size = place_boxes(graph, &boxes);
  expect_in_the_middle(boxes);
  for (size_t i = 0; i < boxes.size(); ++i) {
    const Box& box = boxes[i];
    EXPECT_TRUE(box.x > 0 && box.y > 0 && box.width > 0 && box.height > 0);
    EXPECT_TRUE(box.x + box.width < size.width && box.y + box.height < size.height);
    if (box.parent != kNoIndex) {
      EXPECT_GT(box.x, boxes[box.parent].x + boxes[box.parent].width);
    }
    for (size_t j = 0; j < i; ++j) EXPECT_FALSE(overlap(box, boxes[j])) << i << " and " << j;
  }
}

TEST(Layout, RandomGraphsOfEverySize) {
  uint64_t cut = 0;
  for (uint32_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    const Graph graph = random_graph(1 + below(120, &random), &random);
    const uint64_t most = 1 + below(140, &random);
    const std::vector<Box> boxes = choose_boxes(graph, most);
    uint64_t drawn = 0;
    for (const Box& box : boxes) drawn += box.kind != BoxKind::kMore;
    EXPECT_EQ(drawn, std::min<uint64_t>(most, graph.nodes.size() + graph.roots.size()));
    cut += drawn < graph.nodes.size();
    expect_parents_first(boxes);
    expect_everything_counted(graph, boxes);
    expect_places(boxes, graph);
    if (testing::Test::HasFailure()) return;
  }
  EXPECT_GT(cut, 10u);
}

TEST(Layout, TheHeaviestAreDrawn) {
  const Graph graph = small_graph();
  const std::vector<Box> boxes = choose_boxes(graph, 3);
  std::set<uint64_t> ids;
  for (const Box& box : boxes) {
    if (box.kind == BoxKind::kNode) ids.insert(graph.nodes[box.index].id);
  }
  // A root, its node of 12 tokens, and of the rest, 8 tokens of no request as heavy as 4 of one,
  // the first of the file.
  EXPECT_EQ(ids, (std::set<uint64_t>{5, 8}));
}

TEST(Layout, LevelsGrowWithRequests) {
  Graph graph = small_graph();
  for (size_t i = 0; i < graph.nodes.size(); ++i) graph.nodes[i].requests = i * i * 100;
  uint32_t level_of[4] = {};
  for (const Box& box : choose_boxes(graph, 100)) {
    if (box.kind == BoxKind::kNode) level_of[box.index] = box.level;
  }
  EXPECT_EQ(level_of[0], 0u);
  EXPECT_GT(level_of[1], 0u);
  EXPECT_LT(level_of[1], level_of[3]);
  EXPECT_EQ(level_of[3], kLevels);
}

TEST(Layout, BoxesGrowWithTokensAndRequests) {
  const Graph graph = small_graph();
  std::vector<Box> boxes = choose_boxes(graph, 100);
  place_boxes(graph, &boxes);
  const auto box_of = [&](uint32_t node) {
    for (const Box& box : boxes) {
      if (box.kind == BoxKind::kNode && box.index == node) return box;
    }
    return Box();
  };
  EXPECT_GT(box_of(0).width, box_of(2).width);    // 12 tokens, 8
  EXPECT_GT(box_of(2).width, box_of(1).width);    // 8, 4
  EXPECT_GT(box_of(0).height, box_of(1).height);  // 2 requests, 1
  EXPECT_GT(box_of(1).height, box_of(2).height);  // 1, none
}

TEST(Layout, AnEmptyGraphHasNoBoxes) {
  Graph graph;
  std::vector<Box> boxes = choose_boxes(graph, 10);
  EXPECT_TRUE(boxes.empty());
  const Size size = place_boxes(graph, &boxes);
  EXPECT_TRUE(size.width > 0 && size.height > 0);
}

TEST(Layout, DeepTreesNeedNoStack) {
  constexpr uint32_t kDepth = 300000;
  Graph graph;
  graph.block_size = 1;
  graph.roots.push_back({"", "0x0", {0}, {}});
  graph.nodes.resize(kDepth);
  for (uint32_t i = 0; i < kDepth; ++i) {
    Node& n = graph.nodes[i];
    n.begin_token = i;
    n.num_tokens = 1;
    n.parent = i == 0 ? kNoIndex : i - 1;
    if (i + 1 < kDepth) n.children = {i + 1};
  }
  std::vector<Box> boxes = choose_boxes(graph, kMaxItems);
  EXPECT_EQ(boxes.size(), kDepth + 1);
  place_boxes(graph, &boxes);
  EXPECT_GT(boxes.back().x, int64_t{kDepth} * 100);
  EXPECT_EQ(summarize(graph).levels, kDepth);
}

}  // namespace
}  // namespace tool::test
