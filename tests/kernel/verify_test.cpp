// The CPU's verification of drafted trees: bit for bit the reference's, and the target's
// distribution.
#include <gtest/gtest.h>

#include "support/runners.h"
#include "support/sample_case.h"

namespace radixattn::test {
namespace {

Verified run(const CpuKernels& kernels, Executor& executor, VerifyCase& c) {
  Verified out(c);
  VerifyParams p = c.params();
  out.attach(&p);
  GuardedWorkspace workspace(verify_workspace_bytes(p, executor.workers()));
  p.workspace = workspace.data();
  EXPECT_EQ(cpu_verify(kernels, p, executor), RADIX_OK);
  EXPECT_TRUE(workspace.guards_hold());
  return out;
}

TEST(Verify, RandomTreesAreTheReferencesBitForBit) {
  int stood = 0, failed = 0;
  for_random_cases("verify", 1500, [&](uint64_t seed) {
    SCOPED_TRACE(::testing::Message() << "RADIX_TEST_ONLY=" << seed);
    Rng rng(seed);
    VerifyCase c = random_verify_case(&rng);
    const Verified want = reference_verify(c);
    for (const int32_t n : want.num_tokens) stood += n > 1 ? 1 : 0, failed += n == 0 ? 1 : 0;
    Executor executor;
    for (const CpuKernels* kernels : runnable_targets()) {
      SCOPED_TRACE(kernels->name);
      expect_verified(run(*kernels, executor, c), want);
    }
  });
  if (environment("RADIX_TEST_ONLY", 0) != 0) return;
  EXPECT_GT(stood, 100) << "hardly a draft stood: the cases test little";
  EXPECT_GT(failed, 20);
}

Verified check(VerifyCase& c) {
  const Verified want = reference_verify(c);
  for (const CpuKernels* kernels : runnable_targets()) {
    SCOPED_TRACE(kernels->name);
    for (NamedExecutor& e : all_executors()) {
      SCOPED_TRACE(e.name);
      expect_verified(run(*kernels, e.executor, c), want);
    }
  }
  return want;
}

using Ints = std::vector<int32_t>;

// Greedy targets: node i's logits have their highest at best[i].
VerifyCase tree_of(const Ints& best, const Ints& parents, const Ints& drafts, uint32_t vocab = 10) {
  VerifyCase c;
  c.target.rows = static_cast<uint32_t>(best.size());
  c.target.vocab = vocab;
  c.target.make_logits(RADIX_F32);
  for (uint32_t row = 0; row < c.target.rows; ++row) {
    for (uint32_t t = 0; t < vocab; ++t) c.target.set(row, t, 0.);
    c.target.set(row, static_cast<uint32_t>(best[row]), 1.);
  }
  c.node_begin = {0, static_cast<int32_t>(best.size())};
  c.parents = parents;
  c.draft_tokens = drafts;
  return c;
}

//        root (best 3)
//   1: 5      2: 3 (best 7)
//             3: 7 (best 2)   4: 7
VerifyCase small_tree() { return tree_of({3, 0, 7, 2, 9}, {-1, 0, 0, 2, 2}, {99, 5, 3, 7, 7}); }

TEST(Verify, TheWalkGoesDownWhereTokensAgree) {
  VerifyCase c = small_tree();
  const Verified out = check(c);
  EXPECT_EQ(out.status, Ints{RADIX_ROW_OK});
  EXPECT_EQ(out.num_tokens, Ints{3});
  EXPECT_EQ(out.tokens, (Ints{3, 7, 2, -1}));
  EXPECT_EQ(out.nodes, (Ints{0, 2, 3, -1})) << "of equal siblings the first stands";
}

TEST(Verify, NodesAndStatusMayBeLeftOut) {
  VerifyCase c = small_tree();
  c.nodes = c.status = false;
  EXPECT_EQ(check(c).tokens, (Ints{3, 7, 2, -1}));
}

TEST(Verify, NothingIsWrittenBeyondMaxTokens) {
  VerifyCase c = small_tree();
  c.max_tokens = 2;
  EXPECT_EQ(check(c).tokens, (Ints{3, 7}));
  c.max_tokens = 1;
  const Verified out = check(c);
  EXPECT_EQ(out.tokens, Ints{3});
  EXPECT_EQ(out.num_tokens, Ints{1});
}

TEST(Verify, ARootAloneIsPlainDecoding) {
  VerifyCase c = tree_of({4}, {}, {-1});
  c.draft_probs.assign(10, 0.1f);
  const Verified out = check(c);
  EXPECT_EQ(out.tokens, (Ints{4, -1, -1, -1}));
  EXPECT_EQ(out.nodes, (Ints{0, -1, -1, -1}));
}

TEST(Verify, ChainsNeedNoParents) {
  VerifyCase c = tree_of({1, 2, 3, 4}, {}, {0, 1, 2, 8});
  EXPECT_EQ(check(c).tokens, (Ints{1, 2, 3, -1}));
}

TEST(Verify, GreedyTargetsAreExactWithAnyDraft) {
  for_random_cases("greedy drafts", 40, [](uint64_t seed) {
    Rng rng(seed);
    VerifyCase c = small_tree();
    c.flags = rng.one_in(2) ? RADIX_VERIFY_NO_REPLACEMENT : 0;
    add_draft_probs(&c, &rng);
    const Verified out = check(c);
    // A draft that gives a token no probability, though it was drafted, stands where p allows.
    const Ints path = {3, 7, 2};
    for (int32_t i = 0; i < out.num_tokens[0]; ++i) {
      EXPECT_EQ(out.tokens[static_cast<size_t>(i)], path[static_cast<size_t>(i)]);
    }
  });
}

// Tokens of decoding one after the other at these positions, and drafts that guess some of them.
TEST(Verify, DraftsWithoutProbabilitiesGiveTheTokensOfPlainSampling) {
  int stood = 0;
  for_random_cases("one-hot", 100, [&](uint64_t seed) {
    Rng rng(seed);
    VerifyCase c;
    SampleCase& t = c.target;
    t.rows = 5;
    t.vocab = 5;
    fill_logits(&t, RADIX_F32, 1.f, 0, &rng);
    t.temperature.assign(5, 1.f);
    t.top_p.assign(5, 0.95f);
    t.seeds.assign(5, seed);
    t.positions = {30, 31, 32, 33, 34};
    Executor executor;
    Sampled plain(t);
    SampleParams p = t.params();
    plain.attach(&p);
    GuardedWorkspace workspace(sample_workspace_bytes(p, 1));
    p.workspace = workspace.data();
    ASSERT_EQ(cpu_sample(*select_kernels(RADIX_CPU_AUTO), p, executor), RADIX_OK);
    c.max_tokens = 6;
    c.node_begin = {0, 5};
    c.draft_tokens = {-1};
    for (uint32_t i = 0; i < 4; ++i) {
      c.draft_tokens.push_back(rng.one_in(4) ? static_cast<int32_t>(rng.below(5))
                                             : plain.tokens[i]);
    }
    const Verified out = check(c);
    for (int32_t i = 0; i < out.num_tokens[0]; ++i) {
      const auto at = static_cast<size_t>(i);
      EXPECT_EQ(out.tokens[at], plain.tokens[at]);
      stood += i > 0 ? 1 : 0;
    }
  });
  EXPECT_GT(stood, 50);
}

TEST(Verify, TreesThatAreNoneEnd) {
  VerifyCase c = small_tree();
  for (const Ints& parents : {Ints{9, 9, 9, 9, 9}, Ints{-1, 1, 2, 3, 4},
                              Ints{0, -7, INT32_MIN, 3, 2}, Ints{4, 3, 2, 1, 0}}) {
    c.parents = parents;
    EXPECT_EQ(check(c).num_tokens, Ints{1});
  }
  c.parents = {-1, 0, 0, 2, 2};
  for (const int32_t token : {-1, 10, INT32_MAX, INT32_MIN}) {
    c.draft_tokens = {0, token, token, 1, 1};
    EXPECT_EQ(check(c).tokens, (Ints{3, -1, -1, -1}));
    c.draft_probs.assign(50, 0.1f);
    EXPECT_EQ(check(c).tokens, (Ints{3, -1, -1, -1}));
    c.draft_probs.clear();
  }
}

TEST(Verify, SequencesAreCutToTheRowsThatThereAre) {
  VerifyCase c = small_tree();
  c.node_begin = {0, 99};
  EXPECT_EQ(check(c).num_tokens, Ints{3});
  c.node_begin = {-4, 3};
  EXPECT_EQ(check(c).num_tokens, Ints{2}) << "node 2 has lost its children";
  for (const Ints& none : {Ints{2, 2}, Ints{3, 1}, Ints{7, 9}, Ints{INT32_MAX, INT32_MIN}}) {
    c.node_begin = none;
    const Verified out = check(c);
    EXPECT_EQ(out.status, Ints{RADIX_ROW_PARAMETER});
    EXPECT_EQ(out.num_tokens, Ints{0});
    EXPECT_EQ(out.tokens, (Ints{-1, -1, -1, -1}));
  }
}

TEST(Verify, ABadNodeOnTheWayFailsItsSequenceAlone) {
  VerifyCase c = small_tree();
  c.target.set(1, 0, NAN);  // not on the way
  EXPECT_EQ(check(c).status, Ints{RADIX_ROW_OK});
  c.target.set(3, 0, NAN);
  const Verified out = check(c);
  EXPECT_EQ(out.status, Ints{RADIX_ROW_NAN});
  EXPECT_EQ(out.num_tokens, Ints{0});
  EXPECT_EQ(out.tokens, (Ints{-1, -1, -1, -1}));
  EXPECT_EQ(out.nodes, (Ints{-1, -1, -1, -1}));
  VerifyCase two = tree_of({3, 1, 2}, {}, {0, 3, 0});
  two.node_begin = {0, 2, 3};
  two.target.set(0, 0, INFINITY);
  const Verified both = check(two);
  EXPECT_EQ(both.status, (Ints{RADIX_ROW_NAN, RADIX_ROW_OK}));
  EXPECT_EQ(both.num_tokens, (Ints{0, 1}));
}

TEST(Verify, WithoutStatusABadSequenceFailsTheCallAndTheOthersAreDone) {
  VerifyCase c = tree_of({3, 1, 2}, {}, {0, 3, 0});
  c.node_begin = {0, 2, 3};
  c.target.set(1, 0, NAN);
  c.status = false;
  Verified out(c);
  VerifyParams p = c.params();
  out.attach(&p);
  Executor executor;
  GuardedWorkspace workspace(verify_workspace_bytes(p, 1));
  p.workspace = workspace.data();
  EXPECT_EQ(cpu_verify(*select_kernels(RADIX_CPU_AUTO), p, executor), RADIX_E_INVALID);
  EXPECT_EQ(out.num_tokens, (Ints{0, 1}));
  EXPECT_EQ(out.tokens, (Ints{-1, -1, -1, -1, 2, -1, -1, -1}));
}

TEST(Verify, ATokenDraftedTwiceLeavesTheDraftOnce) {
  VerifyCase c;
  c.flags = RADIX_VERIFY_NO_REPLACEMENT;
  c.target.rows = 5 * 100;
  c.target.vocab = 4;
  c.target.make_logits(RADIX_F32);
  c.target.temperature.assign(c.target.rows, 1.f);
  c.node_begin = {0};
  for (uint32_t row = 0; row < c.target.rows; ++row) {
    for (uint32_t t = 0; t < 4; ++t) {
      c.target.set(row, t, 0.);
      c.draft_probs.push_back(t == 0 ? 0.4f : 0.2f);
    }
    c.target.seeds.push_back(row / 5);
    const Ints tokens = {-1, 0, 0, 1, 2};
    c.draft_tokens.push_back(tokens[row % 5]);
    c.parents.push_back(0);
    if (row % 5 == 4) c.node_begin.push_back(static_cast<int32_t>(row + 1));
  }
  const Verified out = check(c);
  EXPECT_GT(std::count(out.nodes.begin(), out.nodes.end(), 3), 0);
}

TEST(Verify, ADraftWithoutProbabilitiesLeftRejectsItsChildren) {
  VerifyCase c = small_tree();
  c.draft_probs.assign(50, 0.f);
  EXPECT_EQ(check(c).tokens, (Ints{3, -1, -1, -1}));
}

}  // namespace
}  // namespace radixattn::test
