// The tree part of plans through the C API: what a step's sequences share, steps given by a tree,
// and what of both is refused.
#include <algorithm>

#include "plan_support.h"

namespace api_test {
namespace {

// radix_plan_tree with exactly the room it asks for.
struct Tree {
  std::vector<int32_t> parent, depth, children, blocks, ids, indices;
  radix_tree_view view = sized<radix_tree_view>();

  Tree(const radix_plan* plan, uint32_t num_seqs) : indices(num_seqs, 77) {
    radix_status st = radix_plan_tree(plan, &view, indices.data());
    EXPECT_EQ(st, view.num_nodes == 0 ? RADIX_OK : RADIX_E_BUFFER);
    parent.assign(view.num_nodes, 77);
    depth.assign(view.num_nodes, 77);
    children.assign(view.num_nodes + 2, 77);
    blocks.assign(view.num_nodes + 1, 77);
    ids.assign(view.num_blocks, 77);
    point();
    EXPECT_OK(radix_plan_tree(plan, &view, indices.data()));
  }
  void point() {
    view.nodes_cap = static_cast<uint32_t>(parent.size());
    view.blocks_cap = static_cast<uint32_t>(ids.size());
    view.parent = parent.data();
    view.depth_blocks = depth.data();
    view.child_begin = children.data();
    view.block_begin = blocks.data();
    view.block_ids = ids.data();
  }
  std::vector<int32_t> path(int32_t node) const {
    std::vector<int32_t> out;
    for (; node >= 0; node = parent[static_cast<size_t>(node)]) {
      const auto n = static_cast<size_t>(node);
      out.insert(out.begin(), ids.begin() + blocks[n], ids.begin() + blocks[n + 1]);
    }
    return out;
  }
};

TEST(PlanTree, WhatForksAndPrefixesShare) {
  Ctx ctx(small_config(64, 4));
  const radix_req a = ctx.start(range(0, 18));
  ctx.commit(a);
  const radix_req b = ctx.start(range(0, 18));  // the first four blocks are cached
  radix_req c = 0;
  EXPECT_OK(radix_fork(ctx, b, 1, &c));
  ASSERT_EQ(ctx.append(b, range(100, 110)).status, RADIX_OK);
  ASSERT_EQ(ctx.append(c, range(200, 210)).status, RADIX_OK);
  const radix_req alone = ctx.start(range(300, 309));
  Plan plan(ctx, plan_config(6));
  ASSERT_OK(plan.update({b, alone, a, c}, nullptr));
  const Tree tree(plan, 4);
  ASSERT_EQ(tree.view.num_nodes, 1u) << "the last block of a, and of b, is each one's own";
  EXPECT_EQ(tree.parent, (std::vector<int32_t>{-1}));
  EXPECT_EQ(tree.depth, (std::vector<int32_t>{0}));
  EXPECT_EQ(tree.blocks, (std::vector<int32_t>{0, 4}));
  EXPECT_EQ(tree.children, (std::vector<int32_t>{0, 1, 1}));
  EXPECT_EQ(tree.indices, (std::vector<int32_t>{0, -1, 0, 0}));
  std::vector<int32_t> row = ctx.row(a);
  row.resize(4);
  EXPECT_EQ(tree.ids, row);
  EXPECT_EQ(tree.view.block_size, 4u);
  EXPECT_EQ(plan.info().num_nodes, 1u);
  EXPECT_EQ(plan.info().tokens_seen, 28u + 9 + 18 + 28);
  EXPECT_LE(plan.info().tokens_read, plan.info().tokens_seen);
}

TEST(PlanTree, PrefillSharesNoBlockOfAQuery) {
  Ctx ctx(small_config(64, 4));
  const radix_req a = ctx.start(range(0, 16));
  radix_req b = 0;
  ASSERT_OK(radix_fork(ctx, a, 1, &b));
  Plan plan(ctx, plan_config(2, 20));
  std::vector<int32_t> q = {1, 5};
  ASSERT_OK(plan.update({a, b}, &q));
  EXPECT_EQ(Tree(plan, 2).ids.size(), 2u) << "11 tokens of b are before its queries";
  q = {3, 0};
  ASSERT_OK(plan.update({a, b}, &q));
  EXPECT_EQ(Tree(plan, 2).view.num_nodes, 0u) << "b has no row";
  EXPECT_EQ(plan.info().tokens_seen, 16u);
}

TEST(PlanTree, UnsharedPlansHaveNone) {
  Ctx ctx(small_config(64, 4));
  const radix_req a = ctx.start(range(0, 16));
  radix_req b = 0;
  ASSERT_OK(radix_fork(ctx, a, 1, &b));
  Plan plan(ctx, plan_config(2, 0, RADIX_PLAN_UNSHARED));
  ASSERT_OK(plan.update({a, b}, nullptr));
  const Tree tree(plan, 2);
  EXPECT_EQ(tree.view.num_nodes, 0u);
  EXPECT_EQ(tree.indices, (std::vector<int32_t>{-1, -1}));
  EXPECT_EQ(plan.info().num_nodes, 0u);
  EXPECT_EQ(plan.info().tokens_seen, 32u);
  EXPECT_EQ(plan.info().tokens_read, 32u);
}

uint32_t common(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  uint32_t n = 0;
  while (n < a.size() && n < b.size() && a[n] == b[n]) ++n;
  return n;
}

// Nodes breadth first with their children side by side; every sequence's path is what it has in
// common with the one that is most like it.
void expect_tree(const Tree& tree, const std::vector<std::vector<int32_t>>& rows) {
  const uint32_t num = tree.view.num_nodes;
  ASSERT_EQ(tree.children[0], 0);
  std::vector<uint32_t> below(num);
  for (uint32_t i = 0; i < num; ++i) {
    const int32_t parent = tree.parent[i];
    ASSERT_LT(parent, static_cast<int32_t>(i));
    const auto p = static_cast<size_t>(parent + 1);
    ASSERT_GE(static_cast<int32_t>(i), tree.children[p]);
    ASSERT_LT(static_cast<int32_t>(i), tree.children[p + 1]);
    ASSERT_LT(tree.blocks[i], tree.blocks[i + 1]);
    const auto above = parent < 0 ? 0 : tree.path(parent).size();
    ASSERT_EQ(static_cast<size_t>(tree.depth[i]), above);
  }
  ASSERT_EQ(tree.children[num + 1], static_cast<int32_t>(num));
  for (size_t s = 0; s < rows.size(); ++s) {
    uint32_t longest = 0;
    for (size_t o = 0; o < rows.size(); ++o)
      if (o != s) longest = std::max(longest, common(rows[s], rows[o]));
    std::vector<int32_t> expected = rows[s];
    expected.resize(longest);
    ASSERT_EQ(tree.path(tree.indices[s]), expected) << "sequence " << s;
    for (int32_t n = tree.indices[s]; n >= 0; n = tree.parent[static_cast<size_t>(n)])
      ++below[static_cast<size_t>(n)];
  }
  for (uint32_t i = 0; i < num; ++i) ASSERT_GE(below[i], 2u);
}

TEST(PlanTree, IsThatOfTheRowsAfterAnyHistory) {
  uint32_t nodes = 0;
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    radix_config c = small_config(96, 2);
    c.max_blocks_per_request = 40;
    Ctx ctx(c);
    Engine engine(&ctx, seed);
    Plan plan(ctx, plan_config(8, 20)), from_tree(ctx, plan_config(8, 20));
    for (int step = 0; step < 60; ++step) {
      for (uint32_t moves = engine.below(4); moves > 0; --moves) engine.move();
      const Choice choice = choose(&ctx, &engine, 8, 20);
      ASSERT_OK(plan.update(choice.reqs, choice.queries()));
      std::vector<std::vector<int32_t>> rows;
      uint64_t seen = 0;
      for (size_t s = 0; s < choice.reqs.size(); ++s) {
        const auto length = static_cast<uint32_t>(ctx.info(choice.reqs[s]).num_tokens);
        const auto queries = choice.prefill ? static_cast<uint32_t>(choice.q_lens[s]) : 0;
        const bool has_rows = !choice.prefill || queries > 0;
        rows.push_back(ctx.row(choice.reqs[s]));
        rows.back().resize(has_rows ? (length - queries) / 2 : 0);
        seen += has_rows ? length : 0;
      }
      const Tree tree(plan, static_cast<uint32_t>(rows.size()));
      expect_tree(tree, rows);
      ASSERT_FALSE(testing::Test::HasFatalFailure()) << "step " << step;
      ASSERT_EQ(plan.info().num_nodes, tree.view.num_nodes);
      ASSERT_EQ(plan.info().tokens_seen, seen);
      nodes += tree.view.num_nodes;
      // The same sequences, as far as the tree goes, given by it.
      std::vector<int32_t> lens;
      for (const int32_t node : tree.indices)
        lens.push_back(static_cast<int32_t>(tree.path(node).size() * 2));
      radix_plan_desc d = sized<radix_plan_desc>();
      d.num_seqs = static_cast<uint32_t>(rows.size());
      d.tree = &tree.view;
      d.radix_indices = tree.indices.data();
      d.context_lens = lens.data();
      ASSERT_OK(radix_plan_update(from_tree, &d, nullptr));
      const radix_attn a = from_tree.attn();
      for (size_t s = 0; s < rows.size(); ++s) {
        const std::vector<int32_t> path = tree.path(tree.indices[s]);
        const int32_t* row = a.block_tables + s * static_cast<size_t>(a.block_table_stride);
        ASSERT_EQ(std::vector<int32_t>(row, row + path.size()), path);
      }
      ASSERT_EQ(from_tree.info().num_nodes,
                choice.prefill ? from_tree.info().num_nodes : tree.view.num_nodes);
    }
  }
  EXPECT_GT(nodes, 1000u);
}

// ---- steps given by a tree ----------------------------------------------------------------------

//   root -+- 1: [5 6] -+- 0: [7]
//         |            '- 3: [8 9]      (a node may stand before its parent)
//         '- 2: [4]
struct Given {
  std::vector<int32_t> parent = {1, -1, -1, 1}, begin = {0, 1, 3, 4, 6}, ids = {7, 5, 6, 4, 8, 9};
  std::vector<int32_t> indices = {0, 3, 1, -1, 2}, lens = {10, 14, 3, 0, 4};
  radix_tree_view view = sized<radix_tree_view>();
  radix_plan_desc d = sized<radix_plan_desc>();

  radix_plan_desc* desc() {
    view.block_size = 4;
    view.num_nodes = static_cast<uint32_t>(parent.size());
    view.num_blocks = static_cast<uint32_t>(ids.size());
    view.parent = parent.data();
    view.block_begin = begin.data();
    view.block_ids = ids.data();
    d.num_seqs = static_cast<uint32_t>(indices.size());
    d.tree = &view;
    d.radix_indices = indices.data();
    d.context_lens = lens.data();
    return &d;
  }
};

TEST(PlanTree, GivesAStepItsRows) {
  Ctx ctx;
  Plan plan(ctx, plan_config(5));
  Given g;
  ASSERT_OK(radix_plan_update(plan, g.desc(), nullptr));
  const radix_attn a = plan.attn();
  const auto row = [&a](int64_t s, int n) {
    const int32_t* from = a.block_tables + s * a.block_table_stride;
    return std::vector<int32_t>(from, from + n);
  };
  EXPECT_EQ(row(0, 3), (std::vector<int32_t>{5, 6, 7}));
  EXPECT_EQ(row(1, 4), (std::vector<int32_t>{5, 6, 8, 9}));
  EXPECT_EQ(row(2, 1), (std::vector<int32_t>{5})) << "as many as its tokens need";
  EXPECT_EQ(row(4, 1), (std::vector<int32_t>{4}));
  EXPECT_EQ(plan.rope().slots[0], 7 * 4 + 1);
  EXPECT_EQ(plan.rope().slots[3], -1) << "the empty sequence";
  EXPECT_EQ(plan.info().num_nodes, 1u);
  ASSERT_OK(radix_plan_update(plan, g.desc(), nullptr));
  EXPECT_EQ(plan.info().changed_rows, 0u);
}

TEST(PlanTree, BrokenTreesAreRefused) {
  Ctx ctx;
  Plan plan(ctx, plan_config(5));
  const auto refused = [&plan](const char* word, auto&& change) {
    Given g;
    g.desc();
    change(&g);
    EXPECT_FAILS(RADIX_E_INVALID, word, radix_plan_update(plan, &g.d, nullptr));
  };
  refused("parent[2] is 4", [](Given* g) { g->parent[2] = 4; });
  refused("parent[0] is -2", [](Given* g) { g->parent[0] = -2; });
  refused("radix_indices[0] is 0: its parents go round in circles",
          [](Given* g) { g->parent[1] = 3; });
  refused("go round in circles", [](Given* g) { g->parent[1] = 1; });
  refused("block_begin[1] is 1 and the next 0", [](Given* g) { g->begin[2] = 0; });
  refused("block_begin[3] is 4 and the next 7", [](Given* g) { g->begin[4] = 7; });
  refused("block_begin[0] is -1", [](Given* g) { g->begin[0] = -1; });
  refused("block_ids[2] is -5", [](Given* g) { g->ids[2] = -5; });
  refused("radix_indices[4] is 4", [](Given* g) { g->indices[4] = 4; });
  refused("radix_indices[4] is -2", [](Given* g) { g->indices[4] = -2; });
  refused("context_lens[0] is 13: the 3 blocks above node 0 hold 12",
          [](Given* g) { g->lens[0] = 13; });
  refused("context_lens[3] is 1: the 0 blocks above node -1", [](Given* g) { g->lens[3] = 1; });
  refused("context_lens[3] is -1", [](Given* g) { g->lens[3] = -1; });
  refused("block_size is 8", [](Given* g) { g->view.block_size = 8; });
  refused("d->tree->parent is NULL", [](Given* g) { g->view.parent = nullptr; });
  refused("d->tree->block_ids is NULL", [](Given* g) { g->view.block_ids = nullptr; });
  refused("d->radix_indices is NULL", [](Given* g) { g->d.radix_indices = nullptr; });
  refused("d->context_lens is NULL", [](Given* g) { g->d.context_lens = nullptr; });
  refused("d->block_tables and d->tree are given",
          [](Given* g) { g->d.block_tables = g->ids.data(); });
  const radix_req r = ctx.start(range(0, 5));
  refused("d->reqs and d->tree are given", [&r](Given* g) { g->d.reqs = &r; });
  Given g;
  g.desc();
  g.view.struct_size = 2;
  EXPECT_FAILS(RADIX_E_VERSION, "d->tree", radix_plan_update(plan, &g.d, nullptr));
  EXPECT_EQ(plan.info().num_seqs, 0u) << "none of them was planned";
}

TEST(PlanTree, LengthsAreHeldToThePlansRoom) {
  Ctx ctx;
  radix_plan_config c = plan_config(5);
  c.max_context_len = 13;
  Plan plan(ctx, c);
  Given g;
  EXPECT_FAILS(RADIX_E_BUFFER, "context_lens[1] is 14", radix_plan_update(plan, g.desc(), nullptr));
  g.lens[1] = 13;
  EXPECT_OK(radix_plan_update(plan, g.desc(), nullptr));
}

// ---- the call -----------------------------------------------------------------------------------

TEST(PlanTree, TheCallIsChecked) {
  Ctx ctx(small_config(64, 4));
  Plan plan(ctx, plan_config(2));
  radix_tree_view view = sized<radix_tree_view>();
  int32_t indices[2] = {5, 5};
  EXPECT_FAILS(RADIX_E_STATE, "no step", radix_plan_tree(plan, &view, indices));
  EXPECT_FAILS(RADIX_E_INVALID, "plan", radix_plan_tree(nullptr, &view, indices));
  const radix_req a = ctx.start(range(0, 10));
  radix_req b = 0;
  ASSERT_OK(radix_fork(ctx, a, 1, &b));
  ASSERT_OK(plan.update({a, b}, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "io", radix_plan_tree(plan, nullptr, indices));
  EXPECT_FAILS(RADIX_E_BUFFER, "expected 1 and 2", radix_plan_tree(plan, &view, nullptr));
  EXPECT_EQ(view.num_nodes, 1u);
  EXPECT_EQ(view.num_blocks, 2u);
  Tree tree(plan, 2);
  EXPECT_FAILS(RADIX_E_INVALID, "radix_indices", radix_plan_tree(plan, &tree.view, nullptr));
  for (int32_t** array : {&tree.view.parent, &tree.view.depth_blocks, &tree.view.child_begin,
                          &tree.view.block_begin, &tree.view.block_ids}) {
    *array = nullptr;
    EXPECT_FAILS(RADIX_E_INVALID, "is NULL", radix_plan_tree(plan, &tree.view, indices));
    tree.point();
  }
  EXPECT_EQ(indices[0], 5) << "a refused call writes nothing";
}

TEST(PlanTree, LaunchesHaveThePlansArithmetic) {
  Ctx ctx;
  const radix_req r = ctx.start(range(0, 5));
  for (const uint32_t flags : {0u, uint32_t{RADIX_PLAN_BATCH_INVARIANT}}) {
    Plan plan(ctx, plan_config(1, 0, flags));
    ASSERT_OK(plan.update({r}, nullptr));
    radix_attn a = plan.attn();
    EXPECT_EQ(a.flags, flags == 0 ? 0u : uint32_t{RADIX_ATTN_BATCH_INVARIANT});
    std::vector<float> q(4 * 32, 1.f), out(4 * 32);
    a.q = tensor(q.data(), RADIX_F32, {1, 4, 32});
    a.out = tensor(out.data(), RADIX_F32, {1, 4, 32});
    EXPECT_OK(radix_paged_attention_launch(ctx, &a, nullptr));
    a.flags ^= RADIX_ATTN_BATCH_INVARIANT;
    EXPECT_FAILS(RADIX_E_INVALID, flags == 0 ? "without RADIX_ATTN_BATCH" : "with RADIX_ATTN_BATCH",
                 radix_paged_attention_launch(ctx, &a, nullptr));
  }
}

}  // namespace
}  // namespace api_test
