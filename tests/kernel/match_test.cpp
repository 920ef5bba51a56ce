// Lookups of prompt batches in a tree of arrays, on the CPU: against the definition, on every
// executor, at the edges, and on arrays that are no tree.
#include "backend/cpu/match.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "base/error.h"
#include "support/match_case.h"
#include "support/runners.h"

namespace radixattn::test {
namespace {

MatchResult on_cpu(const MatchCase& c, int64_t stride = -1) {
  Executor inline_executor;
  return c.run([&](const MatchParams& p) { return cpu_match_batch(p, inline_executor); }, stride);
}

// [1 1 | 2 2 | 3 3] -+- [4 4]
//                    +- [5 6]
MatchCase small_tree() {
  MatchCase c;
  c.block_size = 2;
  c.parent = {-1, 0, 0};
  c.depth_blocks = {0, 3, 3};
  c.child_begin = {0, 1, 3, 3, 3};
  c.block_begin = {0, 3, 4, 5};
  c.block_ids = {10, 11, 12, 13, 14};
  c.tokens = {1, 1, 2, 2, 3, 3, 4, 4, 5, 6};
  return c;
}

TEST(CpuMatch, EndsWhereThePromptOrTheTreeDoes) {
  struct {
    std::vector<int32_t> prompt;
    int32_t node, tokens;
    std::vector<int32_t> row;
  } const cases[] = {
      {{}, -1, 0, {-1, -1, -1, -1, -1}},
      {{1}, -1, 0, {-1, -1, -1, -1, -1}},
      {{1, 2}, -1, 0, {-1, -1, -1, -1, -1}},
      {{1, 1}, 0, 2, {10, -1, -1, -1, -1}},
      {{1, 1, 2}, 0, 2, {10, -1, -1, -1, -1}},
      {{1, 1, 2, 2, 3, 3}, 0, 6, {10, 11, 12, -1, -1}},
      {{1, 1, 2, 2, 3, 3, 5, 5}, 0, 6, {10, 11, 12, -1, -1}},
      {{1, 1, 2, 2, 3, 3, 5, 6}, 2, 8, {10, 11, 12, 14, -1}},
      {{1, 1, 2, 2, 3, 3, 4, 4, 9, 9}, 1, 8, {10, 11, 12, 13, -1}},
  };
  MatchCase c = small_tree();
  for (const auto& k : cases) c.add_prompt(k.prompt);
  const MatchResult got = on_cpu(c, 5);
  ASSERT_EQ(got.status, RADIX_OK);
  for (size_t i = 0; i < std::size(cases); ++i) {
    EXPECT_EQ(got.nodes[i], cases[i].node) << i;
    EXPECT_EQ(got.tokens[i], cases[i].tokens) << i;
    const auto row = got.tables.begin() + static_cast<int64_t>(i) * 5;
    EXPECT_EQ(std::vector<int32_t>(row, row + 5), cases[i].row) << i;
  }
  EXPECT_EQ(got, c.expected(5)) << "the definition says the same";
  EXPECT_EQ(on_cpu(c, 2), c.expected(2)) << "rows that are too short get what they hold";
  EXPECT_EQ(on_cpu(c, 0), c.expected(0));
  EXPECT_EQ(on_cpu(c), c.expected());
}

TEST(CpuMatch, AnEmptyTreeAndAnEmptyBatch) {
  MatchCase c;
  EXPECT_EQ(on_cpu(c, 3), c.expected(3));
  c.add_prompt({1, 2, 3});
  c.add_prompt({});
  EXPECT_EQ(on_cpu(c, 3), c.expected(3));
  EXPECT_EQ(on_cpu(c).nodes, (std::vector<int32_t>{-1, -1}));
}

TEST(CpuMatch, RandomTreesOnEveryExecutor) {
  const auto executors = all_executors();
  uint32_t inside = 0, deep = 0;
  for_random_cases("match", 200, [&](uint64_t seed) {
    SCOPED_TRACE(::testing::Message() << "replay with RADIX_TEST_ONLY=" << seed);
    Rng rng(seed);
    TreeShape shape;
    shape.block_size = rng.between(1, 9);
    shape.max_nodes = rng.between(1, 60);
    shape.max_children = rng.between(1, 20);
    shape.alphabet = rng.between(1, 9);
    const MatchCase c(rng, shape, rng.below(40));
    const int64_t stride = static_cast<int64_t>(rng.below(12)) - 1;
    for (const NamedExecutor& e : executors) {
      Executor executor = e.executor;
      const MatchResult got =
          c.run([&](const MatchParams& p) { return cpu_match_batch(p, executor); }, stride);
      ASSERT_EQ(got, c.expected(stride)) << e.name;
    }
    const MatchResult found = c.expected();
    for (size_t i = 0; i < found.nodes.size(); ++i) {
      if (found.nodes[i] < 0) continue;
      const auto node = static_cast<size_t>(found.nodes[i]);
      const int32_t end = c.depth_blocks[node] + c.block_begin[node + 1] - c.block_begin[node];
      inside += found.tokens[i] < end * static_cast<int32_t>(c.block_size) ? 1 : 0;
      deep += c.parent[node] >= 0 ? 1 : 0;
    }
  });
  if (environment("RADIX_TEST_ONLY", 0) != 0) return;
  EXPECT_GT(inside, 200u) << "matches that end inside a node";
  EXPECT_GT(deep, 200u) << "and below another one";
}

// Enough tokens that several workers take part.
TEST(CpuMatch, LargeBatchesAreSharedOut) {
  Rng rng(4);
  TreeShape shape;
  shape.block_size = 16;
  shape.max_run = 40;
  shape.max_nodes = 30;
  const MatchCase c(rng, shape, 300);
  ASSERT_GT(c.prompts.size(), 100'000u);
  for (const NamedExecutor& e : all_executors()) {
    Executor executor = e.executor;
    const MatchResult got =
        c.run([&](const MatchParams& p) { return cpu_match_batch(p, executor); }, 100);
    EXPECT_TRUE(got == c.expected(100)) << e.name;
  }
  uint32_t tasks = 0;
  radix_executor counting = {sizeof counting, 3, &tasks, nullptr};
  counting.parallel_for = [](void* user, uint32_t n, radix_task_fn task, void* arg) {
    *static_cast<uint32_t*>(user) = n;
    for (uint32_t i = n; i > 0; --i) task(arg, i - 1);
  };
  Executor executor(counting);
  const auto launch = [&](const MatchParams& p) { return cpu_match_batch(p, executor); };
  EXPECT_TRUE(c.run(launch, 100) == c.expected(100));
  EXPECT_EQ(tasks, 3u);
}

TEST(CpuMatch, PromptsThatFallOrPassTheEndAreNamed) {
  MatchCase c = small_tree();
  c.add_prompt({1, 1, 2});
  c.add_prompt({1, 1});
  const struct {
    std::vector<int64_t> begin;
    const char* word;
  } cases[] = {{{-1, 3, 5}, "prompt_begin[0] is -1: expected 0..5"},
               {{0, 4, 3}, "prompt_begin[2] is 3: expected 4..5"},
               {{0, 3, 6}, "prompt_begin[2] is 6: expected 3..5"},
               {{0, INT64_MIN, 5}, "prompt_begin[1] is"}};
  for (const auto& k : cases) {
    c.prompt_begin = k.begin;
    const MatchResult got = on_cpu(c, 4);
    EXPECT_EQ(got.status, RADIX_E_INVALID);
    EXPECT_NE(std::string(last_message()).find(k.word), std::string::npos) << last_message();
    EXPECT_EQ(got.nodes, std::vector<int32_t>(2, MatchCase::kPoison)) << "nothing is written";
  }
  c.prompt_begin = {1, 1, 5};  // gaps before the first prompt are no fault
  EXPECT_EQ(on_cpu(c, 4), c.expected(4));
}

// Children that stand before their parent are none.
TEST(CpuMatch, NobodyGoesBackUp) {
  MatchCase c = small_tree();
  c.add_prompt({1, 1, 2, 2, 3, 3, 4, 4, 1, 1, 2, 2});
  c.child_begin = {0, 1, 3, 3, 3};
  EXPECT_EQ(on_cpu(c).tokens, std::vector<int32_t>{8});
  c.child_begin[2] = 0;  // children of node 1: [0, 3)
  EXPECT_EQ(on_cpu(c).tokens, std::vector<int32_t>{6}) << "node 0 has none now";
  c.child_begin = {0, 1, 3, 1, 3};  // of node 1: [3, 1); of node 2: [1, 3)
  c.add_prompt({1, 1, 2, 2, 3, 3, 5, 6, 4, 4});
  EXPECT_EQ(on_cpu(c).tokens, (std::vector<int32_t>{8, 8}));
}

TEST(CpuMatch, ArraysThatAreNoTreeEndAndGiveNoOtherBlocks) {
  uint32_t changed = 0;
  for_random_cases("match corrupt", 300, [&](uint64_t seed) {
    SCOPED_TRACE(::testing::Message() << "replay with RADIX_TEST_ONLY=" << seed);
    Rng rng(seed);
    TreeShape shape;
    shape.block_size = rng.between(1, 4);
    MatchCase c(rng, shape, 20);
    const MatchResult before = on_cpu(c, 12);
    for (uint32_t i = rng.between(1, 8); i > 0; --i) {
      auto& array = rng.one_in(2) ? c.child_begin : c.block_begin;
      constexpr int32_t kEdges[] = {INT32_MIN, INT32_MAX, -1, 0};
      array[rng.below(static_cast<uint32_t>(array.size()))] =
          rng.one_in(3) ? rng.pick(kEdges) : static_cast<int32_t>(rng.below(50));
    }
    const MatchResult got = on_cpu(c, 12);
    ASSERT_EQ(got.status, RADIX_OK);
    changed += got == before ? 0 : 1;
    for (size_t i = 0; i < got.nodes.size(); ++i) {
      EXPECT_LT(got.nodes[i], c.num_nodes());
      EXPECT_LE(got.tokens[i], c.prompt_begin[i + 1] - c.prompt_begin[i]);
    }
  });
  if (environment("RADIX_TEST_ONLY", 0) == 0) {
    EXPECT_GT(changed, 50u) << "cases that the damage changed";
  }
}

}  // namespace
}  // namespace radixattn::test
