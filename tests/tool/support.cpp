#include "support.h"

#include <algorithm>
#include <set>
#include <vector>

namespace tool::test {

std::string small_graph_json() {
  return R"({"block_size": 4, "cached_blocks": 7, "saved_blocks": 3, "saved_tokens": 12,
"nodes": [
{"id": 5, "parent": null, "namespace": "", "extra_key": "0x0", "begin_token": 0, "num_tokens": 12,
 "first_tokens": [1, 2, 3, 4], "blocks": [10, 11, 12], "requests": 2, "saved_blocks": 3, "hits": 9},
{"id": 8, "parent": 5, "namespace": "", "extra_key": "0x0", "begin_token": 12, "num_tokens": 4,
 "first_tokens": [7, 7, 7, 7], "blocks": [13], "requests": 1, "saved_blocks": 0, "hits": 0},
{"id": 6, "parent": 5, "namespace": "", "extra_key": "0x0", "begin_token": 12, "num_tokens": 8,
 "first_tokens": [-3, 2147483647, -2147483648, 0], "blocks": [14, 15], "requests": 0,
 "saved_blocks": 0, "hits": 1},
{"id": 9, "parent": null, "namespace": "caf\u00c3\u00a9", "extra_key": "0x2a", "begin_token": 0,
 "num_tokens": 4, "first_tokens": [9], "blocks": [16], "requests": 1, "saved_blocks": 0, "hits": 0}],
"requests": [
{"id": "0x100000001", "node": 5, "num_tokens": 13, "cached_tokens": 0, "num_blocks": 4,
 "own_blocks": 1, "namespace": "", "extra_key": "0x0"},
{"id": "0x100000002", "node": 8, "num_tokens": 16, "cached_tokens": 12, "num_blocks": 4,
 "own_blocks": 0, "namespace": "", "extra_key": "0x0"},
{"id": "0x100000003", "node": 9, "num_tokens": 4, "cached_tokens": 0, "num_blocks": 1,
 "own_blocks": 0, "namespace": "caf\u00c3\u00a9", "extra_key": "0x2a"},
{"id": "0x100000004", "node": null, "num_tokens": 3, "cached_tokens": 0, "num_blocks": 1,
 "own_blocks": 1, "namespace": "", "extra_key": "0x0"}]}
)";
}

Graph small_graph() { return parse_graph(small_graph_json(), "small"); }

uint32_t below(uint32_t n, std::mt19937* random) { return static_cast<uint32_t>((*random)() % n); }

Graph random_graph(uint32_t num_nodes, std::mt19937* random) {
  Graph g;
  g.block_size = 16;
  g.roots.resize(1 + below(3, random));
  for (Root& root : g.roots) root.extra_key = "0x0";
  for (uint32_t i = 0; i < num_nodes; ++i) {
    Node n;
    n.id = i;
    const bool below_root = i == 0 || below(8, random) == 0;
    n.parent = below_root ? kNoIndex : below(i, random);
    n.root = below(static_cast<uint32_t>(g.roots.size()), random);
    if (!below_root) {
      n.root = g.nodes[n.parent].root;
      n.begin_token = g.nodes[n.parent].begin_token + g.nodes[n.parent].num_tokens;
    }
    n.blocks.resize(1 + below(9, random), static_cast<int64_t>(i));
    n.num_tokens = n.blocks.size() * g.block_size;
    n.requests = below(5, random);
    (below_root ? g.roots[n.root].children : g.nodes[n.parent].children).push_back(i);
    g.nodes.push_back(n);
  }
  return g;
}

namespace {

constexpr std::string_view kBlank = " \n\t\r";
constexpr std::string_view kNameEnd = " \n\t\r=/><\"'&";

// Reads forward; each step says whether it went well.
class XmlCheck {
 public:
  explicit XmlCheck(std::string_view text) : text_(text) {}

  bool whole() {
    bool any = false;
    while (at_ < text_.size()) {
      const bool markup = text_[at_] == '<';
      if (!(markup ? tag() : character(!open_.empty()))) return false;
      any = any || markup;
    }
    return any && open_.empty();
  }

 private:
  bool take(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }
  bool skip_to(std::string_view end) {
    at_ = text_.find(end, at_);
    return at_ != std::string_view::npos && take(end);
  }
  void blanks() {
    while (at_ < text_.size() && kBlank.find(text_[at_]) != std::string_view::npos) ++at_;
  }
  std::string name() {
    const size_t begin = at_;
    at_ = std::min(text_.find_first_of(kNameEnd, at_), text_.size());
    return std::string(text_.substr(begin, at_ - begin));
  }
  // One character of text or of an attribute's value; outside of elements only blanks may stand.
  bool character(bool inside) {
    const char c = text_[at_];
    if (c == '&') {
      for (const char* entity : {"&amp;", "&lt;", "&gt;", "&quot;", "&#39;", "&#10;"}) {
        if (inside && take(entity)) return true;
      }
      return false;
    }
    ++at_;
    const bool blank = kBlank.find(c) != std::string_view::npos;
    return blank || (inside && static_cast<unsigned char>(c) >= 0x20 && c != '<');
  }
  bool tag() {
    if (take("<?") || take("<!DOCTYPE ")) return open_.empty() && skip_to(">");
    if (take("</")) {
      if (open_.empty() || name() != open_.back()) return false;
      open_.pop_back();
      return take(">");
    }
    ++at_;  // '<'
    const std::string element = name();
    if (element.empty() || !attributes()) return false;
    if (take("/>")) return true;
    open_.push_back(element);
    return take(">");
  }
  bool attributes() {
    std::set<std::string> seen;
    for (blanks(); at_ < text_.size() && text_[at_] != '>' && text_[at_] != '/'; blanks()) {
      const std::string attribute = name();
      if (attribute.empty() || !seen.insert(attribute).second || !take("=\"")) return false;
      while (at_ < text_.size() && text_[at_] != '"') {
        if (!character(true)) return false;
      }
      if (!take("\"")) return false;
    }
    return true;
  }

  std::string_view text_;
  size_t at_ = 0;
  std::vector<std::string> open_;
};

}  // namespace

bool is_well_formed(std::string_view xml) { return XmlCheck(xml).whole(); }

}  // namespace tool::test
