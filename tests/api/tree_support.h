// The tree of a context as arrays, and a batch of prompts to look up in it, with memory of their
// own.
#pragma once

#include "api_support.h"

namespace api_test {

struct Tree {
  std::vector<int32_t> parent, depth_blocks, child_begin, block_begin, block_ids, tokens;
  radix_tree_view view = sized<radix_tree_view>();
};

// A size query, then the export.
inline Tree export_tree(radix_ctx* ctx, radix_ns ns = 0, uint64_t extra_key = 0) {
  Tree t;
  const radix_status st = radix_tree_export(ctx, ns, extra_key, &t.view);
  EXPECT_EQ(st, t.view.num_nodes == 0 ? RADIX_OK : RADIX_E_BUFFER) << last_error();
  const uint32_t nodes = t.view.nodes_cap = t.view.num_nodes;
  const uint32_t blocks = t.view.blocks_cap = t.view.num_blocks;
  t.parent.resize(nodes);
  t.depth_blocks.resize(nodes);
  t.child_begin.resize(nodes + 2);
  t.block_begin.resize(nodes + 1);
  t.block_ids.resize(blocks);
  t.tokens.resize(size_t{blocks} * t.view.block_size);
  t.view.parent = t.parent.data();
  t.view.depth_blocks = t.depth_blocks.data();
  t.view.child_begin = t.child_begin.data();
  t.view.block_begin = t.block_begin.data();
  t.view.block_ids = t.block_ids.data();
  t.view.tokens = t.tokens.data();
  EXPECT_OK(radix_tree_export(ctx, ns, extra_key, &t.view));
  return t;
}

struct Batch {
  Tokens prompts;
  std::vector<int64_t> begin = {0};
  std::vector<int32_t> nodes, tokens, tables;

  explicit Batch(const std::vector<Tokens>& all, int64_t stride = 0) {
    for (const Tokens& t : all) {
      prompts.insert(prompts.end(), t.begin(), t.end());
      begin.push_back(static_cast<int64_t>(prompts.size()));
    }
    nodes.assign(all.size(), -7);
    tokens.assign(all.size(), -7);
    tables.assign(all.size() * static_cast<size_t>(stride), -7);
  }
  radix_match_batch desc(int64_t stride = 0) {
    radix_match_batch d = sized<radix_match_batch>();
    d.num_prompts = static_cast<uint32_t>(nodes.size());
    d.prompts = prompts.data();
    d.num_tokens = prompts.size();
    d.prompt_begin = begin.data();
    d.out_nodes = nodes.data();
    d.out_tokens = tokens.data();
    d.out_tables = tables.empty() ? nullptr : tables.data();
    d.table_stride = stride;
    return d;
  }
};

// Every result equals radix_peek_prefix's, and the node is where the match ends.
inline void expect_as_peek(radix_ctx* ctx, const Tree& tree, const std::vector<Tokens>& prompts,
                           const Batch& got, int64_t stride, radix_ns ns = 0,
                           uint64_t extra_key = 0) {
  const auto block_size = static_cast<int32_t>(tree.view.block_size);
  for (size_t i = 0; i < prompts.size(); ++i) {
    radix_request_desc d = desc_of(prompts[i], 0, ns);
    d.extra_key = extra_key;
    std::vector<radix_block> blocks(prompts[i].size() + 1);
    radix_match m = sized<radix_match>();
    m.blocks = blocks.data();
    m.blocks_cap = static_cast<uint32_t>(blocks.size());
    ASSERT_OK(radix_peek_prefix(ctx, &d, &m));
    ASSERT_EQ(got.tokens[i], static_cast<int32_t>(m.cached_tokens)) << "prompt " << i;
    const int32_t matched = got.tokens[i] / block_size;
    ASSERT_EQ(got.nodes[i] < 0, matched == 0) << "prompt " << i;
    if (matched > 0) {
      const auto node = static_cast<size_t>(got.nodes[i]);
      const int32_t in = matched - tree.depth_blocks[node];
      EXPECT_GE(in, 1) << "prompt " << i;
      EXPECT_LE(in, tree.block_begin[node + 1] - tree.block_begin[node]) << "prompt " << i;
    }
    blocks.resize(static_cast<size_t>(matched));
    blocks.resize(static_cast<size_t>(stride), -1);
    const auto row = got.tables.begin() + static_cast<int64_t>(i) * stride;
    EXPECT_EQ(std::vector<int32_t>(row, row + stride), blocks) << "prompt " << i;
  }
}

}  // namespace api_test
