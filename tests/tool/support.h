// Graphs for the tests, and whether a text is well-formed XML.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <string_view>

#include "graph.h"

namespace tool::test {

// A graph with everything that the format has: two namespaces, one of them with an extra key, a
// prefix of two requests, a request of its own blocks alone, a node of no live request.
std::string small_graph_json();
Graph small_graph();

uint32_t below(uint32_t n, std::mt19937* random);  // 0..n-1

// A forest of that many nodes; which of them are heavy is drawn, too.
Graph random_graph(uint32_t num_nodes, std::mt19937* random);

// Elements closed in order, attributes quoted, none twice, entities known, no control characters:
// enough for what the tool writes. (What Python's parser says of the same is asked in
// check_command.py.)
bool is_well_formed(std::string_view xml);

}  // namespace tool::test
