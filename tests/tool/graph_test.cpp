// Reading a sharing graph: what the library writes, and files that are none.
#include "graph.h"

#include <gtest/gtest.h>
#include <radixattn.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "error.h"
#include "support.h"

namespace tool::test {
namespace {

using nlohmann::json;

// The message of what parse_graph throws; "" when it reads the text.
std::string error_of(const std::string& text) {
  try {
    parse_graph(text, "FILE");
    return "";
  } catch (const Error& e) {
    return e.what();
  }
}

// ---- what the library writes

struct DestroyContext {
  void operator()(radix_ctx* ctx) const { radix_ctx_destroy(&ctx); }
};
using Context = std::unique_ptr<radix_ctx, DestroyContext>;

Context make_context() {
  radix_config c = {};
  c.struct_size = sizeof c;
  c.abi = RADIXATTN_ABI;
  c.flags = RADIX_CTX_METADATA_ONLY;
  c.block_size = 4;
  c.num_blocks = 64;
  c.num_layers = c.num_kv_heads = 1;
  c.head_dim = 64;
  radix_ctx* ctx = nullptr;
  EXPECT_EQ(radix_ctx_create(&c, &ctx), RADIX_OK);
  return Context(ctx);
}

radix_ns make_namespace(radix_ctx* ctx, const std::string& name) {
  radix_ns ns = 0;
  EXPECT_EQ(radix_ns_create(ctx, name.data(), name.size(), 0, &ns), RADIX_OK);
  return ns;
}

// A request for these tokens, all of them written and committed.
void add_request(radix_ctx* ctx, radix_ns ns, const std::vector<int32_t>& tokens) {
  radix_request_desc d = {};
  d.struct_size = sizeof d;
  d.ns = ns;
  d.tokens = tokens.data();
  d.num_tokens = tokens.size();
  radix_req req;
  radix_match match = {};
  match.struct_size = sizeof match;
  ASSERT_EQ(radix_begin_request(ctx, &d, &req, &match), RADIX_OK);
  std::vector<int64_t> slots(tokens.size());
  std::vector<radix_op> ops(4);
  radix_append item = {};
  item.req = req;
  item.tokens = tokens.data() + match.cached_tokens;
  item.num_tokens = static_cast<uint32_t>(d.num_tokens - match.cached_tokens);
  radix_append_out out = {};
  out.struct_size = sizeof out;
  out.slots = slots.data();
  out.slots_cap = slots.size();
  out.ops = ops.data();
  out.ops_cap = static_cast<uint32_t>(ops.size());
  ASSERT_EQ(radix_append_slot(ctx, &item, 1, &out), RADIX_OK);
  const radix_commit_item commit = {req, d.num_tokens};
  ASSERT_EQ(radix_commit(ctx, &commit, 1, nullptr), RADIX_OK);
}

int64_t append_to(void* user, const void* piece, uint64_t size) {
  static_cast<std::string*>(user)->append(static_cast<const char*>(piece), size);
  return static_cast<int64_t>(size);
}

std::string graph_of(radix_ctx* ctx) {
  std::string text;
  EXPECT_EQ(radix_sharing_graph(ctx, append_to, &text, RADIX_GRAPH_JSON), RADIX_OK);
  return text;
}

TEST(Graph, ReadsWhatTheLibraryWrites) {
  const Context ctx = make_context();
  const std::string name = "caf\xc3\xa9 <\"&\\";
  add_request(ctx.get(), 0, {1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 9});
  add_request(ctx.get(), 0, {1, 2, 3, 4, 5, 6, 7, 8, 7, 7, 7, 7, 1});
  add_request(ctx.get(), 0, {3});
  add_request(ctx.get(), make_namespace(ctx.get(), name), {1, 2, 3, 4});
  const Graph g = parse_graph(graph_of(ctx.get()), "FILE");
  EXPECT_EQ(g.block_size, 4u);
  EXPECT_EQ(g.saved_blocks, 2u);
  ASSERT_EQ(g.nodes.size(), 4u);
  ASSERT_EQ(g.requests.size(), 4u);
  ASSERT_EQ(g.roots.size(), 2u);
  EXPECT_EQ(g.roots[1].name, name);
  const Node& shared = g.nodes[g.roots[0].children.at(0)];
  EXPECT_EQ(shared.num_tokens, 8u);
  EXPECT_EQ(shared.requests, 2u);
  EXPECT_EQ(shared.saved_blocks, 2u);
  EXPECT_EQ(shared.first_tokens, (std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7, 8}));
  EXPECT_EQ(shared.children.size(), 2u);
  EXPECT_EQ(g.requests[1].cached_tokens, 8u);
  EXPECT_EQ(g.requests[1].own_blocks, 1u);
  EXPECT_EQ(g.requests[2].node, kNoIndex);
  EXPECT_EQ(g.roots[0].ending, std::vector<uint32_t>{2});
}

TEST(Graph, ReadsAnEmptyCache) {
  const Context ctx = make_context();
  const Graph g = parse_graph(graph_of(ctx.get()), "FILE");
  EXPECT_TRUE(g.nodes.empty() && g.requests.empty() && g.roots.empty());
}

TEST(Graph, SummarySaysWhatIsShared) {
  const Summary s = summarize(small_graph());
  EXPECT_EQ(s.requests, 4u);
  EXPECT_EQ(s.nodes, 4u);
  EXPECT_EQ(s.roots, 2u);
  EXPECT_EQ(s.levels, 2u);
  EXPECT_EQ(s.longest_path, 20u);
  EXPECT_EQ(s.stored_tokens, 28u);
  EXPECT_EQ(s.idle_tokens, 8u);
  EXPECT_EQ(s.seen_tokens, 36u);
  EXPECT_EQ(s.held_blocks, 10u);
  EXPECT_EQ(s.saved_blocks, 3u);
}

TEST(Graph, UnknownKeysAreIgnored) {
  json doc = json::parse(small_graph_json());
  doc["new"] = {{"deep", {1, 2}}};
  doc["nodes"][0]["new"] = nullptr;
  EXPECT_EQ(error_of(doc.dump()), "");
}

// ---- files that are none

TEST(Graph, WhatIsNotJsonIsRefused) {
  const std::string good = small_graph_json();
  const std::string bads[] = {"",
                              " ",
                              "{",
                              good.substr(0, good.size() / 2),
                              good + "x",
                              "{\"block_size\": 1e999}",
                              "{\"a\xff\": 1}",
                              "{\"a\": \"\xed\xa0\x80\"}",
                              std::string("\0", 1),
                              "\"" + std::string(1 << 20, 'x')};
  for (const std::string& bad : bads) {
    const std::string message = error_of(bad);
    EXPECT_EQ(message.rfind("FILE: not JSON: ", 0), 0u) << message;
    EXPECT_LT(message.size(), 400u);
  }
}

TEST(Graph, DeepNestingIsRefused) {
  EXPECT_EQ(error_of("\n" + std::string(1 << 20, '[')),
            "FILE: line 2, column 17: nested deeper than 16 levels");
  std::string objects;
  for (int i = 0; i < 100000; ++i) objects += "{\"a\":";
  EXPECT_EQ(error_of(objects), "FILE: line 1, column 81: nested deeper than 16 levels");
  // Brackets in strings are none.
  json doc = json::parse(small_graph_json());
  doc["new"] = "\\\"" + std::string(100, '[');
  EXPECT_EQ(error_of(doc.dump()), "");
}

struct BadValue {
  const char* place;  // a JSON pointer
  json value;
  const char* message;
};

TEST(Graph, MessagesNameThePlaceAndWhatWasExpected) {
  const std::string circle = ": expected a way up to a root: these parents go round in a circle";
  const BadValue cases[] = {
      {"", json::array(), "graph is an array: expected an object"},
      {"", "text", "graph is \"text\": expected an object"},
      {"/block_size", 0, "graph.block_size is 0: expected a whole number of 1..1048576"},
      {"/block_size", -4, "graph.block_size is -4: expected a whole number of 1..1048576"},
      {"/block_size", 4.0, "graph.block_size is 4.0: expected a whole number of 1..1048576"},
      {"/block_size", "4", "graph.block_size is \"4\": expected a whole number of 1..1048576"},
      {"/block_size", true, "graph.block_size is true: expected a whole number of 1..1048576"},
      {"/saved_blocks", 11,
       "graph.saved_blocks is 11: expected at most 10, the blocks of all requests"},
      {"/saved_blocks", UINT64_MAX,
       "graph.saved_blocks is 18446744073709551615: expected a whole number of "
       "0..1099511627776"},
      {"/nodes", json::object(), "graph.nodes is an object: expected an array"},
      {"/nodes/1", 7, "graph.nodes[1] is 7: expected an object"},
      {"/nodes/1/id", 5, "graph.nodes[1].id is 5: expected an id that no other node has"},
      {"/nodes/1/parent", 77,
       "graph.nodes[1].parent is 77: expected the id of a node of this file, or null"},
      {"/nodes/1/parent", "5",
       "graph.nodes[1].parent is \"5\": expected a whole number of 0..1099511627776"},
      {"/nodes/1/parent", 9,
       "graph.nodes[1].parent is 9: expected a node of the same namespace and extra_key"},
      {"/nodes/1/parent", 8, "graph.nodes[1].parent is 8: expected a way up to a root"},
      {"/nodes/0/parent", 8, "graph.nodes[0].parent is 8: expected a way up to a root"},
      {"/nodes/1/parent", nullptr,
       "graph.nodes[1].begin_token is 12: expected 0: its parent is a root"},
      {"/nodes/1/begin_token", 13,
       "graph.nodes[1].begin_token is 13: expected 12, where its parent ends"},
      {"/nodes/1/num_tokens", 5, "graph.nodes[1].num_tokens is 5: expected 4, 1 block of 4"},
      {"/nodes/0/blocks", json::array(),
       "graph.nodes[0].num_tokens is 12: expected 0, 0 blocks of 4"},
      {"/nodes/0/blocks/2", -1,
       "graph.nodes[0].blocks[2] is -1: expected a whole number of 0..2147483647"},
      {"/nodes/0/first_tokens/1", 2147483648u,
       "graph.nodes[0].first_tokens[1] is 2147483648: expected a whole number of "
       "-2147483648..2147483647"},
      {"/nodes/0/first_tokens/1", "x",
       "graph.nodes[0].first_tokens[1] is \"x\": expected a whole number of "
       "-2147483648..2147483647"},
      {"/nodes/0/namespace", 3, "graph.nodes[0].namespace is 3: expected a string"},
      {"/nodes/0/extra_key", std::string(100, 'k'),
       "graph.nodes[1].parent is 5: expected a node of the same namespace and extra_key"},
      {"/requests/0", json::array(), "graph.requests[0] is an array: expected an object"},
      {"/requests/0/id", 1, "graph.requests[0].id is 1: expected a string"},
      {"/requests/0/node", 4,
       "graph.requests[0].node is 4: expected the id of a node of this file, or null"},
      {"/requests/0/node", 9,
       "graph.requests[0].node is 9: expected a node of the same namespace and extra_key"},
      {"/requests/0/own_blocks", 5,
       "graph.requests[0].own_blocks is 5: expected a whole number of 0..4"},
      {"/requests/0/num_tokens", -1,
       "graph.requests[0].num_tokens is -1: expected a whole number of 0..1099511627776"},
  };
  for (const BadValue& c : cases) {
    json doc = json::parse(small_graph_json());
    doc[json::json_pointer(c.place)] = c.value;
    const std::string message = error_of(doc.dump());
    EXPECT_EQ(message.rfind(std::string("FILE: ") + c.message, 0), 0u)
        << c.place << " = " << c.value << ": " << message;
  }
  json doc = json::parse(small_graph_json());
  doc["nodes"][0]["parent"] = 8;  // whose parent it is
  EXPECT_EQ(error_of(doc.dump()), "FILE: graph.nodes[0].parent is 8" + circle);
}

TEST(Graph, EachKeyMustBeThere) {
  const json good = json::parse(small_graph_json());
  const auto expect_missed = [](const json& doc, const std::string& where, const std::string& key) {
    EXPECT_EQ(error_of(doc.dump()), "FILE: " + where + " has no \"" + key +
                                        "\": expected what radix_sharing_graph writes as "
                                        "RADIX_GRAPH_JSON");
  };
  for (const char* key : {"block_size", "saved_blocks", "nodes", "requests"}) {
    json doc = good;
    doc.erase(key);
    expect_missed(doc, "graph", key);
  }
  for (const char* array : {"nodes", "requests"}) {
    for (const auto& [key, value] : good[array][1].items()) {
      json doc = good;
      doc[array][1].erase(key);
      expect_missed(doc, std::string("graph.") + array + "[1]", key);
    }
  }
}

TEST(Graph, LongValuesDoNotFillMessages) {
  json doc = json::parse(small_graph_json());
  doc["block_size"] = std::string(100000, '\x7f');
  const std::string message = error_of(doc.dump());
  EXPECT_NE(message.find("...: expected a whole number"), std::string::npos) << message;
  EXPECT_LT(message.size(), 200u);
}

}  // namespace
}  // namespace tool::test
