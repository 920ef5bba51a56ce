// Which boxes a picture has, and where they stand. Pure functions of the graph.
//
//   root | node -- node        Left to right: a box begins where its parent ends, with a gap. A
//        |      \- node        subtree has a band of rows to itself; a box stands in its middle.
//        | node -- + 12 nodes
//
// A box's width grows with its tokens, its height and level with the live requests at or below it.
// Of a large graph the heaviest nodes are chosen, by the tokens that the requests of their subtree
// see: with a node come its ancestors. What is left out below a box is counted in one box of kind
// kMore.
#pragma once

#include <cstdint>
#include <vector>

#include "graph.h"

namespace tool {

enum class BoxKind { kRoot, kNode, kMore };

struct Box {
  BoxKind kind = BoxKind::kNode;
  uint32_t index = kNoIndex;   // in Graph::roots or Graph::nodes
  uint32_t parent = kNoIndex;  // a box; boxes stand behind their parents
  uint32_t depth = 0;          // boxes above
  uint32_t level = 0;          // 0: no live request; 1..kLevels, the most
  uint64_t requests = 0;
  uint64_t hidden_nodes = 0, hidden_tokens = 0;  // kMore
  int64_t x = 0, y = 0, width = 0, height = 0;
};
constexpr uint32_t kLevels = 5;

// In depth-first order, each parent before its children. At most max_boxes roots and nodes.
std::vector<Box> choose_boxes(const Graph& graph, uint64_t max_boxes);

struct Size {
  int64_t width = 0, height = 0;
};
// Fills in x, y, width and height; returns the room that all of them take, with a margin.
Size place_boxes(const Graph& graph, std::vector<Box>* boxes);

}  // namespace tool
