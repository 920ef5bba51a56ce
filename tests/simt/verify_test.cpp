// The CUDA kernels of verification: the reference's tokens and nodes bit for bit, for trees and for
// arrays that are none.
#include <gtest/gtest.h>

#include "attention_launchers.h"
#include "support/sample_case.h"

namespace radixattn::test {
namespace {

Verified check(VerifyCase& c, int schedules = 1) {
  const Verified want = reference_verify(c);
  for (int i = 0; i < std::min(schedules, num_schedules()); ++i) {
    SCOPED_TRACE(::testing::Message() << "schedule " << i);
    set_schedule(i);
    Verified out(c);
    VerifyParams p = c.params();
    out.attach(&p);
    EXPECT_EQ(verify_on_device(p), RADIX_OK) << last_message();
    expect_verified(out, want);
  }
  set_schedule(0);
  return want;
}

TEST(CudaVerify, RandomTrees) {
  int stood = 0, failed = 0;
  for_random_cases("cuda verify", 120, [&](uint64_t seed) {
    SCOPED_TRACE(::testing::Message() << "replay with RADIX_TEST_ONLY=" << seed);
    Rng rng(seed);
    VerifyCase c = random_verify_case(&rng);
    const Verified want = check(c, seed % 16 == 1 ? 4 : 1);
    for (const int32_t n : want.num_tokens) stood += n > 1 ? 1 : 0, failed += n == 0 ? 1 : 0;
  });
  if (environment("RADIX_TEST_ONLY", 0) != 0) return;
  EXPECT_GT(stood, 5) << "hardly a draft stood: the cases test little";
  EXPECT_GT(failed, 2);
}

// Nodes of one sequence: the root, and `n` children of it with these tokens.
VerifyCase siblings(uint32_t vocab, const std::vector<int32_t>& tokens, uint64_t seed) {
  Rng rng(seed);
  VerifyCase c;
  c.target.rows = static_cast<uint32_t>(tokens.size()) + 1;
  c.target.vocab = vocab;
  fill_logits(&c.target, RADIX_F32, 1.f, 0, &rng);
  c.target.temperature.assign(c.target.rows, 1.f);
  for (uint32_t i = 0; i < c.target.rows; ++i) c.target.seeds.push_back(rng.next());
  c.node_begin = {0, static_cast<int32_t>(c.target.rows)};
  c.draft_tokens = {0};
  c.draft_tokens.insert(c.draft_tokens.end(), tokens.begin(), tokens.end());
  c.parents.assign(c.target.rows, 0);
  add_draft_probs(&c, &rng);
  return c;
}

// Rejected one after the other: residuals of residuals, with and without replacement.
TEST(CudaVerify, ManySiblings) {
  uint32_t first = 0, later = 0, last = 0;
  for (uint64_t seed = 0; seed < 150; ++seed) {
    const std::vector<int32_t> many = {3, 3, 99, 1, 0, -1, 5, 7, 3, 11}, few = {3, 99, 1};
    VerifyCase c = siblings(12, seed % 3 == 0 ? many : few, seed);
    c.flags = seed % 2 == 0 ? RADIX_VERIFY_NO_REPLACEMENT : 0;
    Rng rng(seed);
    for (float& q : c.draft_probs) q = rng.one_in(2) ? 0.02f : 0.3f;
    const Verified want = check(c);
    const bool stood = want.num_tokens[0] == 2;
    (!stood ? last : want.nodes[1] == 1 ? first : later) += 1;
  }
  EXPECT_GT(first, 10u);
  EXPECT_GT(later, 10u) << "of children that stood";
  EXPECT_GT(last, 10u) << "all children were rejected";
}

// p and q are one token: nothing is left of p - q, and p stays.
TEST(CudaVerify, ADraftThatIsTheTarget) {
  VerifyCase c = siblings(8, {5, 2, 3}, 1);
  c.target.temperature.clear();
  c.target.set(0, 2, 9.);
  std::fill(c.draft_probs.begin(), c.draft_probs.end(), 0.f);
  c.draft_probs[2] = 1.f;
  EXPECT_EQ(check(c).nodes[1], 2) << "the second child";
  c.draft_tokens[2] = 4;
  EXPECT_EQ(check(c).tokens[0], 2) << "drawn in the place of all children";
}

// A draft of one token that the target hardly has: without replacement nothing of q is left.
TEST(CudaVerify, ADraftThatLosesAllItsTokens) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    VerifyCase c = siblings(8, {2, 2, 3}, seed);
    c.flags = RADIX_VERIFY_NO_REPLACEMENT;
    c.target.set(0, 2, -3.);
    std::fill(c.draft_probs.begin(), c.draft_probs.end(), 0.f);
    for (uint32_t row = 0; row < c.target.rows; ++row) c.draft_probs[row * 8 + 2] = 1.f;
    check(c);
  }
}

TEST(CudaVerify, LongVocabulariesAndManyNodes) {
  for (const bool replaces : {false, true}) {
    VerifyCase c = siblings(5000, {}, 77);
    Rng rng(5);
    c.target.rows = 700;
    c.target.vocab = 40;
    fill_logits(&c.target, RADIX_BF16, 1.f, 0, &rng);
    c.target.temperature.assign(700, 1.f);
    c.target.seeds.assign(700, 4);
    for (uint64_t i = 0; i < 700; ++i) c.target.positions.push_back(i);
    c.node_begin = {0, 650, 700};
    c.draft_tokens.clear();
    c.parents.clear();
    for (int32_t i = 0; i < 700; ++i) {
      c.draft_tokens.push_back(i < 560 ? -1 : i % 40);
      c.parents.push_back(i < 600 ? 0 : 599);  // children beyond the first threads
    }
    c.max_tokens = 6;
    c.flags = replaces ? 0 : RADIX_VERIFY_NO_REPLACEMENT;
    c.draft_probs.clear();
    check(c);
    add_draft_probs(&c, &rng);
    check(c);
  }
  VerifyCase c = siblings(9000, {1, 2, 3, 4}, 78);
  check(c, 4);
}

TEST(CudaVerify, OutputsThatAreLeftOutAndNoSequence) {
  VerifyCase c = siblings(8, {1, 2}, 3);
  c.nodes = c.status = false;
  check(c);
  c.node_begin = {0};
  check(c);
}

}  // namespace
}  // namespace radixattn::test
