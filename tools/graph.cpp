#include "graph.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "error.h"
#include "text.h"

namespace tool {

namespace {

using nlohmann::json;

constexpr int kMaxNesting = 16;  // the format needs four
constexpr uint64_t kMaxBlockSize = 1u << 20;
constexpr size_t kMaxValue = 60, kMaxMessage = 240;  // of the file's own bytes in a message

// ---- JSON

std::string beginning(const std::string& text, size_t most) {
  return text.size() > most ? text.substr(0, most) + "..." : text;
}

// The parser's own messages name the place; nesting is bounded before it runs.
void check_nesting(std::string_view text, const std::string& what) {
  int depth = 0;
  uint64_t line = 1, column = 0;
  bool in_string = false, escaped = false;
  for (const char c : text) {
    column = c == '\n' ? 0 : column + 1;
    line += c == '\n' ? 1 : 0;
    if (in_string) {
      in_string = escaped || c != '"';
      escaped = !escaped && c == '\\';
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kMaxNesting) {
        throw Error(what + ": line " + std::to_string(line) + ", column " + std::to_string(column) +
                    ": nested deeper than " + std::to_string(kMaxNesting) + " levels");
      }
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
}

json parse_json(std::string_view text, const std::string& what) {
  check_nesting(text, what);
  try {
    return json::parse(text);
  } catch (const json::exception& e) {
    std::string message = e.what();
    const size_t name_end = message.find("] ");  // "[json.exception.parse_error.101] "
    if (name_end != std::string::npos) message.erase(0, name_end + 2);
    throw Error(what + ": not JSON: " + plain_text(beginning(message, kMaxMessage)));
  }
}

// A value as it may stand in a message.
std::string shown(const json& value) {
  if (value.is_structured()) return std::string("an ") + value.type_name();
  return beginning(value.dump(-1, ' ', true), kMaxValue);
}

// One object of the file and the way to it, for messages.
class Object {
 public:
  Object(const json& value, std::string where) : value_(value), where_(std::move(where)) {
    if (!value_.is_object()) throw Error(where_ + " is " + shown(value_) + ": expected an object");
  }
  const std::string& where() const { return where_; }
  [[noreturn]] void reject(const char* key, const std::string& expected) const {
    throw Error(where_ + "." + key + " is " + shown(at(key)) + ": expected " + expected);
  }
  const json& at(const char* key) const {
    const auto it = value_.find(key);
    if (it == value_.end()) {
      throw Error(where_ + " has no \"" + key +
                  "\": expected what radix_sharing_graph writes as RADIX_GRAPH_JSON");
    }
    return *it;
  }
  uint64_t count(const char* key, uint64_t low = 0, uint64_t high = kMaxCount) const {
    const json& v = at(key);
    const bool whole = v.is_number_unsigned() || (v.is_number_integer() && v.get<int64_t>() >= 0);
    if (!whole || v.get<uint64_t>() < low || v.get<uint64_t>() > high) {
      reject(key, "a whole number of " + std::to_string(low) + ".." + std::to_string(high));
    }
    return v.get<uint64_t>();
  }
  std::string text(const char* key) const {
    const json& v = at(key);
    if (!v.is_string()) reject(key, "a string");
    return v.get<std::string>();
  }
  const json& array(const char* key) const {
    const json& v = at(key);
    if (!v.is_array()) reject(key, "an array");
    if (v.size() > kMaxItems) {
      throw Error(where_ + "." + key + " has " + std::to_string(v.size()) +
                  " elements: expected at most " + std::to_string(kMaxItems));
    }
    return v;
  }
  std::vector<int64_t> numbers(const char* key, int64_t low) const {
    std::vector<int64_t> out;
    for (const json& v : array(key)) {
      const bool fits = v.is_number_integer() && (!v.is_number_unsigned() || v <= INT32_MAX);
      if (!fits || v.get<int64_t>() < low || v.get<int64_t>() > INT32_MAX) {
        throw Error(where_ + "." + key + "[" + std::to_string(out.size()) + "] is " + shown(v) +
                    ": expected a whole number of " + std::to_string(low) + ".." +
                    std::to_string(INT32_MAX));
      }
      out.push_back(v.get<int64_t>());
    }
    return out;
  }

 private:
  const json& value_;
  std::string where_;
};

// ---- the graph

class Reader {
 public:
  Reader(const json& doc, const std::string& what) : top_(doc, what + ": graph") {}

  Graph read() {
    graph_.block_size = top_.count("block_size", 1, kMaxBlockSize);
    graph_.saved_blocks = top_.count("saved_blocks");
    read_nodes();
    connect();
    check_reachable();
    check_places();
    read_requests();
    return std::move(graph_);
  }

 private:
  // "FILE: graph.nodes[3]"
  Object object(const char* array, size_t i, const json& value) const {
    return {value, top_.where() + "." + array + "[" + std::to_string(i) + "]"};
  }

  uint32_t root_of(const Object& o) {
    const std::string name = restore_utf8(o.text("namespace"));
    const auto key = std::pair(name, o.text("extra_key"));
    const auto [it, is_new] = roots_.try_emplace(key, static_cast<uint32_t>(graph_.roots.size()));
    if (is_new) graph_.roots.push_back({key.first, key.second, {}, {}});
    return it->second;
  }

  void read_nodes() {
    const json& nodes = top_.array("nodes");
    for (size_t i = 0; i < nodes.size(); ++i) {
      const Object o = object("nodes", i, nodes[i]);
      Node n;
      n.id = o.count("id");
      if (!index_.try_emplace(n.id, static_cast<uint32_t>(i)).second)
        o.reject("id", "an id that no other node has");
      n.root = root_of(o);
      n.begin_token = o.count("begin_token");
      n.num_tokens = o.count("num_tokens", 1);
      n.first_tokens = o.numbers("first_tokens", INT32_MIN);
      n.blocks = o.numbers("blocks", 0);
      n.requests = o.count("requests");
      n.saved_blocks = o.count("saved_blocks");
      n.hits = o.count("hits");
      if (n.num_tokens != n.blocks.size() * graph_.block_size) {
        o.reject("num_tokens", std::to_string(n.blocks.size() * graph_.block_size) + ", " +
                                   counted(n.blocks.size(), "block") + " of " +
                                   std::to_string(graph_.block_size));
      }
      graph_.nodes.push_back(std::move(n));
    }
  }

  // The node that `key` names; kNoIndex for null.
  uint32_t node_index(const Object& o, const char* key) const {
    if (o.at(key).is_null()) return kNoIndex;
    const auto it = index_.find(o.count(key));
    if (it == index_.end()) o.reject(key, "the id of a node of this file, or null");
    return it->second;
  }

  void connect() {
    const json& nodes = top_.array("nodes");
    for (uint32_t i = 0; i < graph_.nodes.size(); ++i) {
      Node& n = graph_.nodes[i];
      const Object o = object("nodes", i, nodes[i]);
      n.parent = node_index(o, "parent");
      if (n.parent == kNoIndex) {
        graph_.roots[n.root].children.push_back(i);
        continue;
      }
      if (graph_.nodes[n.parent].root != n.root)
        o.reject("parent", "a node of the same namespace and extra_key");
      graph_.nodes[n.parent].children.push_back(i);
    }
  }

  void check_reachable() const {
    std::vector<uint32_t> todo;
    std::vector<bool> reached(graph_.nodes.size());
    for (const Root& root : graph_.roots)
      todo.insert(todo.end(), root.children.begin(), root.children.end());
    while (!todo.empty()) {
      const Node& n = graph_.nodes[todo.back()];
      reached[todo.back()] = true;
      todo.pop_back();
      todo.insert(todo.end(), n.children.begin(), n.children.end());
    }
    const auto lost = std::find(reached.begin(), reached.end(), false);
    if (lost == reached.end()) return;
    const auto i = static_cast<size_t>(lost - reached.begin());
    object("nodes", i, top_.array("nodes")[i])
        .reject("parent", "a way up to a root: these parents go round in a circle");
  }

  void check_places() const {
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      const Node& n = graph_.nodes[i];
      const bool below_root = n.parent == kNoIndex;
      const uint64_t expected =
          below_root ? 0 : graph_.nodes[n.parent].begin_token + graph_.nodes[n.parent].num_tokens;
      if (n.begin_token == expected) continue;
      object("nodes", i, top_.array("nodes")[i])
          .reject("begin_token",
                  std::to_string(expected) +
                      (below_root ? ": its parent is a root" : ", where its parent ends"));
    }
  }

  void read_requests() {
    const json& requests = top_.array("requests");
    uint64_t held = 0;
    for (size_t i = 0; i < requests.size(); ++i) {
      const Object o = object("requests", i, requests[i]);
      Request r;
      r.id = o.text("id");
      r.node = node_index(o, "node");
      r.root = root_of(o);
      if (r.node != kNoIndex && graph_.nodes[r.node].root != r.root)
        o.reject("node", "a node of the same namespace and extra_key");
      r.num_tokens = o.count("num_tokens");
      r.cached_tokens = o.count("cached_tokens");
      r.num_blocks = o.count("num_blocks");
      r.own_blocks = o.count("own_blocks", 0, r.num_blocks);
      held += r.num_blocks;
      auto& ending = r.node == kNoIndex ? graph_.roots[r.root].ending : graph_.nodes[r.node].ending;
      ending.push_back(static_cast<uint32_t>(i));
      graph_.requests.push_back(std::move(r));
    }
    if (graph_.saved_blocks > held)
      top_.reject("saved_blocks",
                  "at most " + std::to_string(held) + ", the blocks of all requests");
  }

  Object top_;
  Graph graph_;
  std::unordered_map<uint64_t, uint32_t> index_;                   // id -> index in nodes
  std::map<std::pair<std::string, std::string>, uint32_t> roots_;  // -> index in roots
};

}  // namespace

Graph parse_graph(std::string_view text, const std::string& what) {
  return Reader(parse_json(text, what), what).read();
}

Summary summarize(const Graph& graph) {
  Summary s;
  s.requests = graph.requests.size();
  s.nodes = graph.nodes.size();
  s.roots = graph.roots.size();
  s.saved_blocks = graph.saved_blocks;
  for (const Node& n : graph.nodes) {
    s.stored_tokens += n.num_tokens;
    s.idle_tokens += n.requests == 0 ? n.num_tokens : 0;
    s.longest_path = std::max(s.longest_path, n.begin_token + n.num_tokens);
  }
  for (const Request& r : graph.requests) {
    s.seen_tokens += r.num_tokens;
    s.held_blocks += r.num_blocks;
  }
  // Level by level: as deep as the tree, never deeper than the stack.
  std::vector<uint32_t> level, below;
  for (const Root& root : graph.roots)
    level.insert(level.end(), root.children.begin(), root.children.end());
  for (; !level.empty(); ++s.levels) {
    below.clear();
    for (const uint32_t i : level) {
      const std::vector<uint32_t>& children = graph.nodes[i].children;
      below.insert(below.end(), children.begin(), children.end());
    }
    std::swap(level, below);
  }
  return s;
}

}  // namespace tool
