// Text for Graphviz: dot -Tsvg.
#include "draw.h"
#include "text.h"

namespace tool {

namespace {

// Light to dark, as the pictures of draw_svg.cpp.
constexpr const char* kFill[] = {"#eceff1", "#deebf7", "#c6dbef", "#9ecae1", "#6baed6", "#4292c6"};

std::string label(const Graph& graph, const Box& box) {
  if (box.kind == BoxKind::kRoot) return "namespace " + root_name(graph.roots[box.index]);
  if (box.kind == BoxKind::kMore) return "+ " + more_label(box);
  const Node& n = graph.nodes[box.index];
  std::string text = counted(n.num_tokens, "token") + "\n" + counted(n.requests, "request");
  if (n.saved_blocks > 0) text += ", saves " + counted(n.saved_blocks, "block");
  return text;
}

std::string style(const Box& box) {
  if (box.kind == BoxKind::kRoot) return "shape=ellipse";
  if (box.kind == BoxKind::kMore) return "style=dashed";
  return std::string("style=filled, fillcolor=\"") + kFill[box.level] + "\"";
}

}  // namespace

std::string draw_dot(const Graph& graph, const DrawOptions& options) {
  const std::vector<Box> boxes = choose_boxes(graph, options.max_nodes);
  std::string out = "digraph sharing {\n  label=\"" + dot_text(options.title) +
                    "\";\n  rankdir=LR;\n  node [shape=box, fontname=\"sans-serif\"];\n";
  for (size_t i = 0; i < boxes.size(); ++i) {
    std::string name = "b";
    name += std::to_string(i);
    out += "  " + name + " [label=\"" + dot_text(label(graph, boxes[i])) + "\", " +
           style(boxes[i]) + "];\n";
    if (boxes[i].parent != kNoIndex)
      out += "  b" + std::to_string(boxes[i].parent) + " -> " + name + ";\n";
  }
  return out + "}\n";
}

}  // namespace tool
