// Radix attention on the CPU: random work lists over random trees.
#include <gtest/gtest.h>

#include "support/radix_case.h"
#include "support/rng.h"

namespace radixattn::test {
namespace {

constexpr uint64_t kBudget = 3'000'000;

// The lists of these tests are what backend/radix_list.h says: else nothing below means anything.
TEST(RadixCase, RandomListsAreValid) {
  uint64_t shared = 0, states = 0, narrow = 0, direct = 0, empty = 0, shared_segments = 0;
  for_random_cases("radix lists", 200, [&](uint64_t seed) {
    SCOPED_TRACE(::testing::Message() << "replay with RADIX_TEST_ONLY=" << seed);
    Rng rng(seed);
    const bool prefill = rng.one_in(2);
    AttentionCase c(random_radix_shape(rng, prefill, kBudget), rng.next());
    ListRules rules;
    rules.batch_invariant = rng.one_in(2);
    rules.share = !rng.one_in(4);
    rules.cut = !rng.one_in(4);
    rules.wide_rows = rng.between(1, 300);
    const RadixArrays list = random_radix_list(c, rules, rng);
    expect_valid_list(c, list, rules.batch_invariant);
    const uint32_t group = c.shape().q_heads / c.shape().kv_heads;
    for (const RadixItem& item : list.items) {
      states += item.state_stride != 0;
      narrow += static_cast<uint64_t>(item.narrow);
      direct += item.state == RadixItem::kDirect;
      shared_segments += rules.batch_invariant &&
                         item.row_end - item.row_begin > static_cast<int32_t>(group) && !prefill;
      shared += item.row_end - item.row_begin > static_cast<int32_t>(group) && !prefill;
    }
    for (const RadixMerge& m : list.merges) empty += m.first_row < 0;
  });
  if (environment("RADIX_TEST_ONLY", 0) != 0) return;
  EXPECT_GT(shared, 100u);
  EXPECT_GT(shared_segments, 5u);
  EXPECT_GT(states, 20u);
  EXPECT_GT(narrow, 50u);
  EXPECT_GT(direct, 50u);
  EXPECT_GT(empty, 20u);
}

}  // namespace
}  // namespace radixattn::test
