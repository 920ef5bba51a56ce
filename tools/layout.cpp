#include "layout.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace tool {

namespace {

// Roots and nodes as one forest, in depth-first order.
struct Item {
  BoxKind kind;
  uint32_t index;
  uint32_t parent;                 // an item
  double weight = 0;               // of the subtree
  uint64_t nodes = 0, tokens = 0;  // of the subtree
};

const std::vector<uint32_t>& children_of(const Graph& graph, BoxKind kind, uint32_t index) {
  return kind == BoxKind::kRoot ? graph.roots[index].children : graph.nodes[index].children;
}

std::vector<Item> items_of(const Graph& graph) {
  std::vector<Item> items;
  std::vector<Item> todo;
  for (size_t i = graph.roots.size(); i-- > 0;)
    todo.push_back({BoxKind::kRoot, static_cast<uint32_t>(i), kNoIndex});
  while (!todo.empty()) {
    const Item item = todo.back();
    todo.pop_back();
    const auto self = static_cast<uint32_t>(items.size());
    items.push_back(item);
    const std::vector<uint32_t>& children = children_of(graph, item.kind, item.index);
    for (size_t i = children.size(); i-- > 0;) todo.push_back({BoxKind::kNode, children[i], self});
  }
  for (size_t i = items.size(); i-- > 0;) {
    Item& item = items[i];
    if (item.kind == BoxKind::kNode) {
      const Node& n = graph.nodes[item.index];
      item.weight += static_cast<double>(n.num_tokens) * (1.0 + static_cast<double>(n.requests));
      item.nodes += 1;
      item.tokens += n.num_tokens;
    }
    if (item.parent == kNoIndex) continue;
    Item& parent = items[item.parent];
    parent.weight += item.weight;
    parent.nodes += item.nodes;
    parent.tokens += item.tokens;
  }
  return items;
}

// A subtree weighs at least as much as each of its parts, and of equals the first is chosen: so
// ancestors are chosen with their nodes.
std::vector<bool> heaviest(const std::vector<Item>& items, uint64_t most) {
  std::vector<bool> chosen(items.size(), items.size() <= most);
  if (items.size() <= most) return chosen;
  std::vector<uint32_t> order(items.size());
  std::iota(order.begin(), order.end(), 0u);
  const auto end = order.begin() + static_cast<std::ptrdiff_t>(most);
  std::nth_element(order.begin(), end, order.end(), [&](uint32_t a, uint32_t b) {
    return items[a].weight != items[b].weight ? items[a].weight > items[b].weight : a < b;
  });
  std::for_each(order.begin(), end, [&](uint32_t i) { chosen[i] = true; });
  return chosen;
}

// The boxes of the chosen items without those of kind kMore; box_of[item] says where they are.
std::vector<Box> boxes_of(const Graph& graph, const std::vector<Item>& items,
                          const std::vector<bool>& chosen, std::vector<uint32_t>* box_of) {
  std::vector<Box> boxes;
  for (size_t i = 0; i < items.size(); ++i) {
    if (!chosen[i]) continue;
    Box box;
    box.kind = items[i].kind;
    box.index = items[i].index;
    if (items[i].parent != kNoIndex) {
      box.parent = (*box_of)[items[i].parent];
      box.depth = boxes[box.parent].depth + 1;
    }
    if (box.kind == BoxKind::kNode) box.requests = graph.nodes[box.index].requests;
    (*box_of)[i] = static_cast<uint32_t>(boxes.size());
    boxes.push_back(box);
  }
  return boxes;
}

void count_requests_of_roots(const Graph& graph, std::vector<Box>* boxes) {
  std::vector<uint64_t> live(graph.roots.size());
  for (const Request& r : graph.requests) ++live[r.root];
  for (Box& box : *boxes) {
    if (box.kind == BoxKind::kRoot) box.requests = live[box.index];
  }
}

void set_levels(std::vector<Box>* boxes) {
  uint64_t most = 0;
  for (const Box& box : *boxes) most = std::max(most, box.requests);
  const double scale = most > 1 ? (kLevels - 1) / std::log(static_cast<double>(most)) : 0;
  for (Box& box : *boxes) {
    if (box.requests == 0) continue;
    const double above = std::log(static_cast<double>(box.requests)) * scale;
    box.level = std::min(kLevels, 1 + static_cast<uint32_t>(above + 1e-9));
  }
}

// What is hidden right below each box; the last element is for roots.
std::vector<Box> hidden_below(const std::vector<Item>& items, const std::vector<bool>& chosen,
                              const std::vector<uint32_t>& box_of, size_t num_boxes) {
  std::vector<Box> more(num_boxes + 1);
  for (size_t i = 0; i < items.size(); ++i) {
    const uint32_t parent = items[i].parent;
    if (chosen[i] || (parent != kNoIndex && !chosen[parent])) continue;
    Box& box = more[parent == kNoIndex ? num_boxes : box_of[parent]];
    box.kind = BoxKind::kMore;
    box.hidden_nodes += items[i].nodes;
    box.hidden_tokens += items[i].tokens;
  }
  return more;
}

// Puts the boxes of what is hidden behind their siblings.
std::vector<Box> with_more(const std::vector<Box>& boxes, const std::vector<Box>& more) {
  std::vector<Box> out;
  std::vector<uint32_t> moved(boxes.size());
  std::vector<uint32_t> open;  // boxes whose subtrees are not ended
  const auto close_to = [&](uint32_t depth) {
    for (; open.size() > depth; open.pop_back()) {
      Box hidden = more[open.back()];
      if (hidden.kind != BoxKind::kMore) continue;
      hidden.parent = moved[open.back()];
      hidden.depth = boxes[open.back()].depth + 1;
      out.push_back(hidden);
    }
  };
  for (uint32_t i = 0; i < boxes.size(); ++i) {
    close_to(boxes[i].depth);
    open.push_back(i);
    moved[i] = static_cast<uint32_t>(out.size());
    out.push_back(boxes[i]);
    if (boxes[i].parent != kNoIndex) out.back().parent = moved[boxes[i].parent];
  }
  close_to(0);
  if (more.back().kind == BoxKind::kMore) out.push_back(more.back());
  return out;
}

// ---- places, in pixels: the smallest box has room for its text

constexpr int64_t kMargin = 16, kGapX = 40, kGapY = 8;
constexpr int64_t kTextWidth = 150, kTextHeight = 38;
constexpr int64_t kMoreWidth = 320, kMoreHeight = 40;  // of the longest node, of the most requests

int64_t part_of(uint64_t value, uint64_t most, int64_t size) {
  if (most == 0) return 0;
  const double share = static_cast<double>(value) / static_cast<double>(most);
  return static_cast<int64_t>(std::lround(std::min(1.0, share) * static_cast<double>(size)));
}

void set_sizes(const Graph& graph, std::vector<Box>* boxes) {
  uint64_t most_tokens = 0, most_requests = 0;
  for (const Box& box : *boxes) {
    if (box.kind != BoxKind::kNode) continue;
    most_tokens = std::max(most_tokens, graph.nodes[box.index].num_tokens);
    most_requests = std::max(most_requests, box.requests);
  }
  for (Box& box : *boxes) {
    box.width = kTextWidth;
    box.height = kTextHeight;
    if (box.kind != BoxKind::kNode) continue;
    box.width += part_of(graph.nodes[box.index].num_tokens, most_tokens, kMoreWidth);
    box.height += part_of(box.requests, most_requests, kMoreHeight);
  }
}

}  // namespace

std::vector<Box> choose_boxes(const Graph& graph, uint64_t max_boxes) {
  const std::vector<Item> items = items_of(graph);
  const std::vector<bool> chosen = heaviest(items, max_boxes);
  std::vector<uint32_t> box_of(items.size(), kNoIndex);
  std::vector<Box> boxes = boxes_of(graph, items, chosen, &box_of);
  count_requests_of_roots(graph, &boxes);
  set_levels(&boxes);
  return with_more(boxes, hidden_below(items, chosen, box_of, boxes.size()));
}

Size place_boxes(const Graph& graph, std::vector<Box>* boxes) {
  set_sizes(graph, boxes);
  std::vector<Box>& all = *boxes;
  // Bottom up: the rows that the children take together, and the band of the whole subtree.
  std::vector<int64_t> below(all.size()), band(all.size());
  for (size_t i = all.size(); i-- > 0;) {
    if (below[i] > 0) below[i] -= kGapY;
    band[i] = std::max(all[i].height, below[i]);
    if (all[i].parent != kNoIndex) below[all[i].parent] += band[i] + kGapY;
  }
  // Top down: next[i] is where the band of the next child begins.
  Size size{0, kMargin};
  std::vector<int64_t> next(all.size());
  for (size_t i = 0; i < all.size(); ++i) {
    Box& box = all[i];
    const bool below_box = box.parent != kNoIndex;
    int64_t& top = below_box ? next[box.parent] : size.height;
    box.x = below_box ? all[box.parent].x + all[box.parent].width + kGapX : kMargin;
    box.y = top + (band[i] - box.height) / 2;
    next[i] = top + (band[i] - below[i]) / 2;
    top += band[i] + kGapY;
    size.width = std::max(size.width, box.x + box.width);
  }
  size.width += kMargin;
  size.height += kMargin;
  return size;
}

}  // namespace tool
