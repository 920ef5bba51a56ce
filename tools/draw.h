// A sharing graph as a picture, a page, or text. `max_nodes` bounds what is drawn (layout.h); what
// is left out is counted.
#pragma once

#include <cstdint>
#include <string>

#include "graph.h"
#include "layout.h"

namespace tool {

struct DrawOptions {
  std::string title = "Sharing graph";
  uint64_t max_nodes = 400;
};

std::string draw_svg(const Graph& graph, const DrawOptions& options);   // a document of its own
std::string draw_html(const Graph& graph, const DrawOptions& options);  // with everything it needs
std::string draw_dot(const Graph& graph, const DrawOptions& options);   // for Graphviz
std::string draw_text(const Graph& graph, const DrawOptions& options);  // for terminals

// ---- what the four say alike

// The default namespace is "default"; with the extra key where there is one.
std::string root_name(const Root& root);
// "24 nodes, 384 tokens not shown"
std::string more_label(const Box& more);
// "1, 2, 3, .. (40 in all)"
std::string list_numbers(const std::vector<int64_t>& numbers, size_t most);
std::string list_requests(const Graph& graph, const std::vector<uint32_t>& requests, size_t most);

struct Fact {
  std::string name, value;
};
std::vector<Fact> facts(const Graph& graph, const std::vector<Box>& boxes);
// The <svg> element; `alone`: with its namespace, for a file of its own.
std::string svg_element(const Graph& graph, const DrawOptions& options, bool alone);

}  // namespace tool
