// The page: figures, the picture, and the prefixes that save most. One file that loads nothing, and
// is XML, too.
#include <algorithm>

#include "draw.h"
#include "text.h"

namespace tool {

namespace {

constexpr size_t kListed = 20;

// NOTE: the policy forbids what the page does not need; a name that got past the escapes could not
// run or load anything.
constexpr const char* kHead =
    "<meta charset=\"UTF-8\"/>\n"
    "<meta http-equiv=\"Content-Security-Policy\" "
    "content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\n"
    "<meta name=\"viewport\" content=\"width=device-width\"/>\n"
    "<meta name=\"color-scheme\" content=\"light dark\"/>\n";

constexpr const char* kStyle = R"(
body { font: 15px/1.45 system-ui, sans-serif; margin: 24px; color: #14181d; background: #ffffff; }
h1 { font-size: 22px; }
h2 { font-size: 17px; margin-top: 28px; }
table { border-collapse: collapse; }
th, td { padding: 3px 14px 3px 0; text-align: left; border-bottom: 1px solid #cfd8dc; }
th { font-weight: 600; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.picture { overflow: auto; max-height: 85vh; border: 1px solid #cfd8dc; }
@media (prefers-color-scheme: dark) {
body { color: #f1f4f7; background: #14181d; }
th, td, .picture { border-color: #3a464e; }
}
)";

std::string facts_table(const Graph& graph, const DrawOptions& options) {
  std::string out = "<table>\n";
  for (const Fact& f : facts(graph, choose_boxes(graph, options.max_nodes))) {
    out += "<tr><th scope=\"row\">" + xml_text(f.name) + "</th><td class=\"number\">" +
           xml_text(f.value) + "</td></tr>\n";
  }
  return out + "</table>\n";
}

// By what they save; of equals the first of the file.
std::vector<const Node*> best_nodes(const Graph& graph) {
  std::vector<const Node*> nodes;
  for (const Node& n : graph.nodes) {
    if (n.saved_blocks > 0) nodes.push_back(&n);
  }
  std::stable_sort(nodes.begin(), nodes.end(),
                   [](const Node* a, const Node* b) { return a->saved_blocks > b->saved_blocks; });
  if (nodes.size() > kListed) nodes.resize(kListed);
  return nodes;
}

std::string best_table(const Graph& graph) {
  const std::vector<const Node*> nodes = best_nodes(graph);
  if (nodes.empty()) return "<p>No block is shared by live requests.</p>\n";
  std::string out =
      "<table>\n<tr><th>node</th><th>namespace</th><th>from token</th><th>tokens</th>"
      "<th>requests</th><th>blocks saved</th><th>hits</th><th>begins with</th></tr>\n";
  const auto number = [](uint64_t value) {
    return "<td class=\"number\">" + with_commas(value) + "</td>";
  };
  for (const Node* n : nodes) {
    out += "<tr><td>" + std::to_string(n->id) + "</td><td>" +
           xml_text(root_name(graph.roots[n->root])) + "</td>" + number(n->begin_token) +
           number(n->num_tokens) + number(n->requests) + number(n->saved_blocks) + number(n->hits) +
           "<td>" + list_numbers(n->first_tokens, 8) + "</td></tr>\n";
  }
  return out + "</table>\n";
}

}  // namespace

std::string draw_html(const Graph& graph, const DrawOptions& options) {
  const std::string title = xml_text(options.title);
  return "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n" + std::string(kHead) + "<title>" + title +
         "</title>\n<style>" + kStyle + "</style>\n</head>\n<body>\n<h1>" + title + "</h1>\n" +
         facts_table(graph, options) +
         "<h2>The tree</h2>\n<p>Requests that begin with the same tokens go the same way from the "
         "left. Point at a box for its blocks and requests.</p>\n<div class=\"picture\">\n" +
         svg_element(graph, options, false) + "</div>\n<h2>Prefixes that save most</h2>\n" +
         best_table(graph) + "</body>\n</html>\n";
}

}  // namespace tool
