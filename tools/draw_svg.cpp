// The picture.
//
// Everything that it needs stands in the element: colours for light and dark pages, no fonts, no
// scripts. Coordinates are whole pixels.
#include <algorithm>

#include "draw.h"
#include "text.h"

namespace tool {

namespace {

constexpr int64_t kLegendHeight = 46;
constexpr size_t kShownBlocks = 24, kShownIds = 12;

// NOTE: no CSS variables, which some programs that draw SVG do not know.
constexpr const char* kStyle = R"(
.sg text { font: 12px system-ui, sans-serif; fill: #14181d; }
.sg .paper { fill: #ffffff; }
.sg .edge { fill: none; stroke: #90a4ae; }
.sg rect { stroke: #607d8b; }
.sg .root rect { fill: #ffffff; stroke-width: 2; }
.sg .more rect { fill: none; stroke-dasharray: 4 3; }
.sg .small { font-size: 11px; }
.sg .l0 rect { fill: #eceff1; }
.sg .l1 rect { fill: #deebf7; }
.sg .l2 rect { fill: #c6dbef; }
.sg .l3 rect { fill: #9ecae1; }
.sg .l4 rect { fill: #6baed6; }
.sg .l5 rect { fill: #4fa0d0; }
@media (prefers-color-scheme: dark) {
.sg text { fill: #f1f4f7; }
.sg .paper { fill: #14181d; }
.sg .edge { stroke: #5b6b75; }
.sg rect { stroke: #78909c; }
.sg .root rect { fill: #14181d; }
.sg .l0 rect { fill: #2a3036; }
.sg .l1 rect { fill: #1c3448; }
.sg .l2 rect { fill: #1c4160; }
.sg .l3 rect { fill: #1d4f79; }
.sg .l4 rect { fill: #1e5d93; }
.sg .l5 rect { fill: #206cad; }
}
)";

std::string number(const char* name, int64_t value) {
  return std::string(" ") + name + "=\"" + std::to_string(value) + "\"";
}

std::string text_at(int64_t x, int64_t y, const char* kind, const std::string& text) {
  return "<text" + number("x", x) + number("y", y) + kind + ">" + xml_text(text) + "</text>";
}

// What the pointer shows.
std::string tooltip(const Graph& graph, const Node& n) {
  std::string tip = "node " + std::to_string(n.id) + ": tokens " + with_commas(n.begin_token) +
                    " to " + with_commas(n.begin_token + n.num_tokens - 1) + "\nbegins with " +
                    list_numbers(n.first_tokens, 8) + "\n" + counted(n.requests, "live request") +
                    " at or below, saving " + counted(n.saved_blocks, "block") + "; " +
                    counted(n.hits, "hit");
  if (!n.ending.empty()) tip += "\nending here: " + list_requests(graph, n.ending, kShownIds);
  return tip + "\nblocks " + list_numbers(n.blocks, kShownBlocks);
}

struct Labels {
  const char* kind;
  std::string tip, first, second;
};

// As much of a name as a box has room for, in whole characters.
std::string cut(const std::string& text, size_t most) {
  if (text.size() <= most) return text;
  size_t end = most;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return text.substr(0, end) + "..";
}

Labels labels_of(const Graph& graph, const Box& box) {
  if (box.kind == BoxKind::kMore) {
    return {"more", more_label(box) + " not shown: --max-nodes draws more",
            "+ " + counted(box.hidden_nodes, "node"), counted(box.hidden_tokens, "token")};
  }
  if (box.kind == BoxKind::kRoot) {
    const Root& root = graph.roots[box.index];
    std::string tip = "namespace " + root_name(root);
    if (!root.ending.empty())
      tip += "\nnothing in the tree: " + list_requests(graph, root.ending, kShownIds);
    return {"root", tip, cut(plain_text(root_name(root)), 18), counted(box.requests, "request")};
  }
  const Node& n = graph.nodes[box.index];
  std::string second = counted(n.requests, "request");
  if (n.saved_blocks > 0) second += ", -" + counted(n.saved_blocks, "block");
  return {"node", tooltip(graph, n), counted(n.num_tokens, "token"), second};
}

std::string draw_box(const Graph& graph, const Box& box) {
  const Labels l = labels_of(graph, box);
  const int64_t middle = box.y + box.height / 2;
  return std::string("<g class=\"") + l.kind +
         (box.kind == BoxKind::kNode ? " l" + std::to_string(box.level) : "") + "\"><title>" +
         xml_text(l.tip) + "</title><rect" + number("x", box.x) + number("y", box.y) +
         number("width", box.width) + number("height", box.height) + " rx=\"4\"/>" +
         text_at(box.x + 8, middle - 3, "", l.first) +
         text_at(box.x + 8, middle + 12, " class=\"small\"", l.second) + "</g>\n";
}

std::string draw_edge(const Box& from, const Box& to) {
  const int64_t x0 = from.x + from.width, y0 = from.y + from.height / 2;
  const int64_t x1 = to.x, y1 = to.y + to.height / 2, bend = (x0 + x1) / 2;
  const auto pair = [](int64_t x, int64_t y) {
    return std::to_string(x) + " " + std::to_string(y);
  };
  return "<path class=\"edge\"" + number("stroke-width", 1 + to.level) + " d=\"M" + pair(x0, y0) +
         " C" + pair(bend, y0) + " " + pair(bend, y1) + " " + pair(x1, y1) + "\"/>\n";
}

std::string draw_legend(int64_t top) {
  std::string out;
  int64_t x = 16;
  for (uint32_t level = 0; level <= kLevels; ++level, x += 18) {
    out += "<g class=\"l" + std::to_string(level) + "\"><rect" + number("x", x) + number("y", top) +
           " width=\"16\" height=\"12\" rx=\"2\"/></g>\n";
  }
  out += text_at(x + 4, top + 11, " class=\"small\"", "none to most live requests at or below");
  return out +
         text_at(16, top + 30, " class=\"small\"",
                 "longer: more tokens; higher: more requests; "
                 "-N blocks: what sharing saves there") +
         "\n";
}

}  // namespace

std::string svg_element(const Graph& graph, const DrawOptions& options, bool alone) {
  std::vector<Box> boxes = choose_boxes(graph, options.max_nodes);
  Size size = place_boxes(graph, &boxes);
  const int64_t legend = size.height;
  size.height += kLegendHeight;
  size.width = std::max<int64_t>(size.width, 460);  // the legend's text
  const std::string box = std::to_string(size.width) + " " + std::to_string(size.height);
  std::string out = std::string("<svg") + (alone ? " xmlns=\"http://www.w3.org/2000/svg\"" : "") +
                    " class=\"sg\" role=\"img\" aria-label=\"" + xml_text(options.title) + "\"" +
                    number("width", size.width) + number("height", size.height) +
                    " viewBox=\"0 0 " + box + "\">\n<title>" + xml_text(options.title) +
                    "</title>\n<style>" + kStyle + "</style>\n<rect class=\"paper\"" +
                    number("width", size.width) + number("height", size.height) +
                    " style=\"stroke: none\"/>\n";
  for (const Box& b : boxes) {
    if (b.parent != kNoIndex) out += draw_edge(boxes[b.parent], b);
  }
  for (const Box& b : boxes) out += draw_box(graph, b);
  return out + draw_legend(legend) + "</svg>\n";
}

std::string draw_svg(const Graph& graph, const DrawOptions& options) {
  return "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n" + svg_element(graph, options, true);
}

}  // namespace tool
