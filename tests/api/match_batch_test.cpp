// The exported tree and lookups of prompt batches in it: what radix_peek_prefix says, for any tree.
#include <random>

#include "tree_support.h"

namespace api_test {
namespace {

void expect_batch_as_peek(radix_ctx* ctx, const std::vector<Tokens>& prompts, int64_t stride = 8,
                          radix_ns ns = 0, uint64_t extra_key = 0) {
  const Tree tree = export_tree(ctx, ns, extra_key);
  Batch batch(prompts, stride);
  const radix_match_batch d = batch.desc(stride);
  ASSERT_OK(radix_match_batch_launch(ctx, &tree.view, &d, nullptr));
  expect_as_peek(ctx, tree, prompts, batch, stride, ns, extra_key);
}

void remember(Ctx& ctx, const Tokens& t, radix_ns ns = 0) {
  const radix_req r = ctx.start(t, 0, ns);
  ctx.commit(r);
  ctx.free(r);
}

TEST(MatchBatch, TheEdgesOfATree) {
  Ctx ctx(small_config(32, 4));
  expect_batch_as_peek(ctx, {{}, {1}, range(0, 9)});  // an empty tree
  expect_batch_as_peek(ctx, {});
  remember(ctx, range(0, 12));
  const std::vector<Tokens> prompts = {{},           {0},          range(0, 3),  range(0, 4),
                                       range(0, 5),  range(0, 11), range(0, 12), range(0, 13),
                                       range(1, 13), range(0, 40)};
  expect_batch_as_peek(ctx, prompts);
  Tokens fork = range(0, 8);  // splits the node of three blocks
  for (int32_t i = 0; i < 4; ++i) fork.push_back(50 + i);
  remember(ctx, fork);
  EXPECT_EQ(ctx.stats().tree_nodes, 3u);
  expect_batch_as_peek(ctx, prompts);
  fork.back() = 99;
  expect_batch_as_peek(ctx, {fork, range(0, 8), range(0, 4)});
}

TEST(MatchBatch, ThousandsOfChildrenOfTheRoot) {
  Ctx ctx(small_config(4096, 1));
  std::vector<Tokens> prompts;
  for (int32_t i = 0; i < 3000; ++i) {
    const int32_t id = i * 7919 % 3001 - 1500;
    remember(ctx, {id});
    if (i % 10 == 0) prompts.push_back({id, 5});
    if (i % 100 == 0) prompts.push_back({id + 3001});
  }
  expect_batch_as_peek(ctx, prompts, 1);
}

TEST(MatchBatch, NamespacesAndKeysHaveTreesOfTheirOwn) {
  Ctx ctx(small_config(32, 2));
  radix_ns ns = 0;
  ASSERT_OK(radix_ns_create(ctx, "other", 5, 0, &ns));
  remember(ctx, range(0, 6));
  remember(ctx, range(2, 8), ns);
  for (const radix_ns where : {radix_ns{0}, ns})
    expect_batch_as_peek(ctx, {range(0, 6), range(2, 8)}, 4, where);
  expect_batch_as_peek(ctx, {range(0, 6)}, 4, 0, 12);
}

// Requests come, grow, commit, fork and go, and blocks are evicted under them.
TEST(MatchBatch, RandomTreesAgainstPeek) {
  uint64_t partly = 0, below = 0, evicted = 0;
  for (uint32_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 rng(seed);
    const auto pick = [&](uint64_t n) { return static_cast<uint32_t>(rng() % n); };
    const auto draw = [&](uint32_t n) { return static_cast<int32_t>(pick(n)); };
    radix_config c = small_config(24 + pick(40), 1 + pick(5));
    c.num_threads = seed % 2 == 0 ? 3 : 0;
    Ctx ctx(c);
    std::vector<Tokens> prompts;
    for (int i = 0; i < 60; ++i) {
      Tokens t;
      if (!prompts.empty() && draw(4) != 0) t = prompts[rng() % prompts.size()];
      t.resize(rng() % (t.size() + 1));
      for (int n = draw(9); n > 0 && t.size() < 20; --n) t.push_back(draw(3) - 1);
      remember(ctx, t);
      prompts.push_back(t);
    }
    evicted += ctx.stats().blocks_evicted;
    expect_batch_as_peek(ctx, prompts, 1 + draw(2) * 24);
    const Tree tree = export_tree(ctx);
    for (size_t i = 0; i < tree.parent.size(); ++i) below += tree.parent[i] >= 0 ? 1 : 0;
    Batch batch(prompts);
    const radix_match_batch d = batch.desc();
    ASSERT_OK(radix_match_batch_launch(ctx, &tree.view, &d, nullptr));
    for (size_t i = 0; i < prompts.size(); ++i) {
      if (batch.nodes[i] < 0) continue;
      const auto node = static_cast<size_t>(batch.nodes[i]);
      const int32_t end =
          tree.depth_blocks[node] + tree.block_begin[node + 1] - tree.block_begin[node];
      partly += batch.tokens[i] < end * static_cast<int32_t>(c.block_size) ? 1 : 0;
    }
  }
  EXPECT_GT(partly, 100u) << "matches that end inside a node";
  EXPECT_GT(below, 200u) << "nodes below nodes";
  EXPECT_GT(evicted, 100u);
}

TEST(MatchBatch, AContextOfMetadataHasATreeToo) {
  radix_config c = small_config(16, 4);
  c.flags = RADIX_CTX_METADATA_ONLY;
  c.num_layers = c.num_kv_heads = c.head_dim = 0;
  Ctx ctx(c);
  remember(ctx, range(0, 8));
  expect_batch_as_peek(ctx, {range(0, 7), range(0, 9)});
}

// ---- misuse -------------------------------------------------------------------------------------

class MatchMisuse : public ::testing::Test {
 protected:
  MatchMisuse() : ctx_(small_config(16, 4)), batch_({range(0, 8), range(0, 3)}, 4) {
    remember(ctx_, range(0, 8));
    tree_ = export_tree(ctx_);
    d_ = batch_.desc(4);
  }
  radix_status launch(radix_stream s = nullptr) {
    return radix_match_batch_launch(ctx_, &tree_.view, &d_, s);
  }
  Ctx ctx_;
  Batch batch_;
  Tree tree_;
  radix_match_batch d_;
};

template <class T>
T* odd(T* array) {  // off its alignment
  return reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(array) + 1);
}

TEST_F(MatchMisuse, EveryBadArgumentIsNamed) {
  const radix_tree_view tree = tree_.view;
  const radix_match_batch d = d_;
  const struct {
    const char* word;
    void (*change)(radix_tree_view*, radix_match_batch*);
  } cases[] = {
      {"t->block_size is 0", [](auto* t, auto*) { t->block_size = 0; }},
      {"t->block_size is 257", [](auto* t, auto*) { t->block_size = 257; }},
      {"t->num_nodes is 2147483648", [](auto* t, auto*) { t->num_nodes = 1u << 31; }},
      {"t->num_blocks is 4294967295", [](auto* t, auto*) { t->num_blocks = UINT32_MAX; }},
      {"t->child_begin is NULL", [](auto* t, auto*) { t->child_begin = nullptr; }},
      {"t->block_begin is NULL", [](auto* t, auto*) { t->block_begin = nullptr; }},
      {"t->block_ids is NULL", [](auto* t, auto*) { t->block_ids = nullptr; }},
      {"t->tokens is NULL", [](auto* t, auto*) { t->tokens = nullptr; }},
      {"d->num_prompts is 2147483648", [](auto*, auto* b) { b->num_prompts = 1u << 31; }},
      {"d->num_tokens is", [](auto*, auto* b) { b->num_tokens = UINT64_MAX; }},
      {"d->prompts is NULL", [](auto*, auto* b) { b->prompts = nullptr; }},
      {"d->prompt_begin is NULL", [](auto*, auto* b) { b->prompt_begin = nullptr; }},
      {"d->out_nodes is NULL", [](auto*, auto* b) { b->out_nodes = nullptr; }},
      {"d->out_tokens is NULL", [](auto*, auto* b) { b->out_tokens = nullptr; }},
      {"d->table_stride is -1", [](auto*, auto* b) { b->table_stride = -1; }},
      {"d->table_stride is 2147483648", [](auto*, auto* b) { b->table_stride = 1ll << 31; }},
      {"d->out_tables is 0x", [](auto*, auto* b) { b->out_tables = odd(b->out_tables); }},
      {"d->prompts is 0x", [](auto*, auto* b) { b->prompts = odd(b->prompts); }},
      {"t->tokens is 0x", [](auto* t, auto*) { t->tokens = odd(t->tokens); }},
      {"prompt_begin[2] is 11: expected 8..10", [](auto*, auto* b) { b->num_tokens = 10; }},
  };
  for (const auto& bad : cases) {
    tree_.view = tree;
    d_ = d;
    bad.change(&tree_.view, &d_);
    EXPECT_FAILS(RADIX_E_INVALID, bad.word, launch());
    EXPECT_EQ(batch_.nodes, (std::vector<int32_t>{-7, -7})) << bad.word;
    EXPECT_EQ(batch_.tables, std::vector<int32_t>(8, -7)) << bad.word;
  }
  tree_.view = tree;
  d_ = d;
  EXPECT_FAILS(RADIX_E_INVALID, "t is NULL", radix_match_batch_launch(ctx_, nullptr, &d_, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "d is NULL",
               radix_match_batch_launch(ctx_, &tree_.view, nullptr, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "ctx is NULL",
               radix_match_batch_launch(nullptr, &tree_.view, &d_, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "s is", launch(this));
  EXPECT_FAILS(RADIX_E_INVALID, "io is NULL", radix_tree_export(ctx_, 0, 0, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "ctx is NULL", radix_tree_export(nullptr, 0, 0, &tree_.view));
}

TEST_F(MatchMisuse, WhatIsNotReadMayBeNull) {
  tree_.view.parent = tree_.view.depth_blocks = tree_.view.block_ids = nullptr;
  d_.out_tables = nullptr;
  d_.table_stride = -5;
  ASSERT_OK(launch());
  EXPECT_EQ(batch_.tokens, (std::vector<int32_t>{8, 0}));
  EXPECT_EQ(batch_.nodes, (std::vector<int32_t>{0, -1}));
  radix_tree_view none = sized<radix_tree_view>();
  none.block_size = 4;
  radix_match_batch nothing = sized<radix_match_batch>();
  EXPECT_OK(radix_match_batch_launch(ctx_, &none, &nothing, nullptr));
  EXPECT_OK(radix_match_batch_launch(ctx_, &none, &d_, nullptr));
  EXPECT_EQ(batch_.nodes, (std::vector<int32_t>{-1, -1}));
}

TEST_F(MatchMisuse, ExportsThatDoNotFitOrAreStale) {
  tree_.view.blocks_cap = 1;
  tree_.view.num_nodes = tree_.view.num_blocks = 77;
  EXPECT_FAILS(RADIX_E_BUFFER, "room for 1 nodes and 1 blocks: expected 1 and 2",
               radix_tree_export(ctx_, 0, 0, &tree_.view));
  EXPECT_EQ(tree_.view.num_nodes, 1u);
  EXPECT_EQ(tree_.view.num_blocks, 2u);
  tree_.view.blocks_cap = 2;
  tree_.view.tokens = nullptr;
  EXPECT_FAILS(RADIX_E_INVALID, "io->tokens is NULL", radix_tree_export(ctx_, 0, 0, &tree_.view));
  EXPECT_FAILS(RADIX_E_STALE, "ns is 0x5", radix_tree_export(ctx_, 5, 0, &tree_.view));
  const auto refused = [&](const char* word, auto* field) {
    auto* const array = *field;
    *field = odd(array);
    EXPECT_FAILS(RADIX_E_INVALID, word, radix_tree_export(ctx_, 0, 0, &tree_.view));
    *field = array;
  };
  radix_tree_view& t = tree_.view;
  refused("io->parent is 0x", &t.parent);
  refused("io->depth_blocks is 0x", &t.depth_blocks);
  refused("io->child_begin is 0x", &t.child_begin);
  refused("io->block_begin is 0x", &t.block_begin);
  refused("io->block_ids is 0x", &t.block_ids);
  refused("io->tokens is 0x", &t.tokens);
}

TEST_F(MatchMisuse, StructsOfOtherSizes) {
  for (const uint32_t size : {0u, 3u, 5000u}) {
    radix_tree_view view = tree_.view;
    view.struct_size = size;
    EXPECT_FAILS(RADIX_E_VERSION, "struct_size", radix_tree_export(ctx_, 0, 0, &view));
    EXPECT_FAILS(RADIX_E_VERSION, "t->struct_size",
                 radix_match_batch_launch(ctx_, &view, &d_, nullptr));
    radix_match_batch d = d_;
    d.struct_size = size;
    EXPECT_FAILS(RADIX_E_VERSION, "d->struct_size",
                 radix_match_batch_launch(ctx_, &tree_.view, &d, nullptr));
  }
  // Cut behind out_tokens: no table is seen, so none is written.
  d_.struct_size = offsetof(radix_match_batch, out_tables);
  ASSERT_OK(launch());
  EXPECT_EQ(batch_.tokens[0], 8);
  EXPECT_EQ(batch_.tables, std::vector<int32_t>(8, -7));
  // Cut behind the counts: the query works without the arrays.
  radix_tree_view counts = sized<radix_tree_view>();
  counts.struct_size = offsetof(radix_tree_view, parent);
  EXPECT_FAILS(RADIX_E_BUFFER, "expected 1 and 2", radix_tree_export(ctx_, 0, 0, &counts));
  EXPECT_EQ(counts.num_blocks, 2u);
}

// The allocator gives nothing more, and nobody asks.
TEST(MatchBatch, NothingIsAllocated) {
  CountingAllocator memory;
  radix_config c = small_config(32, 2);
  c.host_alloc = memory.callbacks();
  Ctx ctx(c);
  for (int32_t i = 0; i < 8; ++i) remember(ctx, range(i, i + 4));
  memory.fail_from = memory.calls;
  memory.for_ever = true;
  expect_batch_as_peek(ctx, {range(0, 4), range(5, 9), range(9, 12)}, 3);
  EXPECT_EQ(memory.injected, 0u);
}

}  // namespace
}  // namespace api_test
