// A sharing graph as radix_sharing_graph writes it (RADIX_GRAPH_JSON), read and checked.
//
// The file is untrusted. After parse_graph:
//   1. Every node hangs below a root: no cycles, no missing parents, ids are unique.
//   2. A node begins where its parent ends, and has block_size tokens for each of its blocks.
//   3. Counts are at most kMaxCount and there are at most kMaxItems nodes and requests, so that no
//      sum over the graph overflows 64 bits.
//   4. Names are UTF-8; what they contain is the author's business (text.h).
// Keys that are not known are ignored: later versions append some.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tool {

constexpr uint32_t kNoIndex = UINT32_MAX;
constexpr uint64_t kMaxCount = uint64_t{1} << 40;
constexpr uint64_t kMaxItems = uint64_t{1} << 22;

struct Request {
  std::string id;            // "0x..."
  uint32_t node = kNoIndex;  // index in Graph::nodes; kNoIndex: nothing of it is in the tree
  uint32_t root = 0;
  uint64_t num_tokens = 0;
  uint64_t cached_tokens = 0;  // found cached when it began
  uint64_t num_blocks = 0;
  uint64_t own_blocks = 0;  // of these, not in the tree
};

struct Node {
  uint64_t id = 0;
  uint32_t parent = kNoIndex;  // index in Graph::nodes; kNoIndex: the root
  uint32_t root = 0;
  uint64_t begin_token = 0;
  uint64_t num_tokens = 0;
  std::vector<int64_t> first_tokens;
  std::vector<int64_t> blocks;
  uint64_t requests = 0;      // live, here or below
  uint64_t saved_blocks = 0;  // what these would hold more without sharing
  uint64_t hits = 0;
  std::vector<uint32_t> children;
  std::vector<uint32_t> ending;  // requests whose path ends here
};

// What may share: one namespace and extra key.
struct Root {
  std::string name;       // "" is the default namespace
  std::string extra_key;  // "0x..."
  std::vector<uint32_t> children;
  std::vector<uint32_t> ending;
};

struct Graph {
  uint64_t block_size = 0;
  uint64_t saved_blocks = 0;  // those of forks and borrowers, too
  std::vector<Root> roots;
  std::vector<Node> nodes;  // in the file's order
  std::vector<Request> requests;
};

// Throws Error, whose message begins with `what`, the name of the file.
Graph parse_graph(std::string_view text, const std::string& what);

// The figures above the picture.
struct Summary {
  uint64_t requests = 0, nodes = 0, roots = 0;
  uint64_t levels = 0;         // nodes on the longest way down
  uint64_t longest_path = 0;   // tokens
  uint64_t stored_tokens = 0;  // in the tree
  uint64_t idle_tokens = 0;    // of these, of no live request
  uint64_t seen_tokens = 0;    // by the requests, each counted alone
  uint64_t held_blocks = 0;    // by the requests, each counted alone
  uint64_t saved_blocks = 0;   // of these, the same block once more
};
Summary summarize(const Graph& graph);

}  // namespace tool
