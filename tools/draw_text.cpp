// Text for terminals, and what the other forms say alike.
#include <algorithm>

#include "draw.h"
#include "text.h"

namespace tool {

namespace {

constexpr uint32_t kShownLevels = 40;  // deeper ones are not indented further
constexpr size_t kShownTokens = 8, kShownRequests = 4;

// "+- 656 tokens from 0 on, ..." of a node.
std::string node_line(const Graph& graph, const Node& n) {
  std::string line =
      "node " + std::to_string(n.id) + ": " + counted(n.num_tokens, "token") + " from " +
      with_commas(n.begin_token) + " [" + list_numbers(n.first_tokens, kShownTokens) +
      (n.num_tokens > n.first_tokens.size() ? ", .." : "") + "], " + counted(n.requests, "request");
  if (n.saved_blocks > 0) line += ", saves " + counted(n.saved_blocks, "block");
  if (!n.ending.empty()) {
    line += "; " + std::to_string(n.ending.size()) +
            " here: " + list_requests(graph, n.ending, kShownRequests);
  }
  return line;
}

std::string root_line(const Graph& graph, const Root& root) {
  std::string line = "namespace " + root_name(root);
  if (!root.ending.empty()) {
    line += "; " + counted(root.ending.size(), "request") +
            " with nothing in the tree: " + list_requests(graph, root.ending, kShownRequests);
  }
  return line;
}

template <class Show>
std::string join(size_t n, size_t most, Show show) {
  std::string out;
  for (size_t i = 0; i < n && i < most; ++i) out += (i == 0 ? "" : ", ") + show(i);
  if (n > most) out += ", .. (" + with_commas(n) + " in all)";
  return out;
}

}  // namespace

std::string root_name(const Root& root) {
  std::string name = root.name.empty() ? "default" : '"' + root.name + '"';
  if (root.extra_key != "0x0") name += ", extra key " + root.extra_key;
  return name;
}

std::string more_label(const Box& more) {
  return counted(more.hidden_nodes, "node") + ", " + counted(more.hidden_tokens, "token");
}

std::string list_numbers(const std::vector<int64_t>& numbers, size_t most) {
  return join(numbers.size(), most, [&](size_t i) { return std::to_string(numbers[i]); });
}

std::string list_requests(const Graph& graph, const std::vector<uint32_t>& requests, size_t most) {
  return join(requests.size(), most, [&](size_t i) { return graph.requests[requests[i]].id; });
}

std::vector<Fact> facts(const Graph& graph, const std::vector<Box>& boxes) {
  const Summary s = summarize(graph);
  const uint64_t block = graph.block_size;
  std::vector<Fact> out = {
      {"live requests", with_commas(s.requests)},
      {"tokens they see, each alone", with_commas(s.seen_tokens)},
      {"blocks they hold, each alone", with_commas(s.held_blocks)},
      {"of these, not stored twice",
       with_commas(s.saved_blocks) + " (" + percent(s.saved_blocks, s.held_blocks) + ")"},
      {"K/V bytes not read when a shared prefix is read once",
       percent(s.saved_blocks, s.held_blocks)},
      {"tokens stored in the tree", with_commas(s.stored_tokens)},
      {"of these, of no live request",
       with_commas(s.idle_tokens) + " (" + percent(s.idle_tokens, s.stored_tokens) + ")"},
      {"nodes", with_commas(s.nodes)},
      {"depth", counted(s.levels, "node") + ", " + counted(s.longest_path, "token")},
      {"namespaces and extra keys", with_commas(s.roots)},
      {"block size", counted(block, "token")},
  };
  uint64_t hidden = 0, tokens = 0;
  for (const Box& box : boxes) {
    hidden += box.hidden_nodes;
    tokens += box.hidden_tokens;
  }
  if (hidden > 0) {
    out.push_back({"left out of the picture",
                   counted(hidden, "node") + ", " + counted(tokens, "token") + " (--max-nodes)"});
  }
  return out;
}

std::string draw_text(const Graph& graph, const DrawOptions& options) {
  const std::vector<Box> boxes = choose_boxes(graph, options.max_nodes);
  std::string out = plain_text(options.title) + "\n\n";
  size_t width = 0;
  const std::vector<Fact> all = facts(graph, boxes);
  for (const Fact& f : all) width = std::max(width, f.name.size());
  for (const Fact& f : all)
    out += f.name + std::string(width + 2 - f.name.size(), ' ') + f.value + "\n";
  out += "\n";
  for (const Box& box : boxes) {
    out.append(2 * std::min(box.depth, kShownLevels), ' ');
    if (box.depth > kShownLevels) out += "(" + std::to_string(box.depth) + ") ";
    if (box.kind == BoxKind::kRoot) out += plain_text(root_line(graph, graph.roots[box.index]));
    if (box.kind == BoxKind::kNode) out += plain_text(node_line(graph, graph.nodes[box.index]));
    if (box.kind == BoxKind::kMore) out += "+ " + more_label(box) + " not shown";
    out += "\n";
  }
  return out;
}

}  // namespace tool
