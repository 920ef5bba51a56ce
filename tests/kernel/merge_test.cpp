// The CPU's merge of attention states on every target and executor, against the definition in
// double.
#include "support/merge_case.h"

#include <gtest/gtest.h>

#include "support/runners.h"

namespace radixattn::test {
namespace {

void check(const MergeShape& shape, uint64_t seed) {
  for (const CpuKernels* kernels : runnable_targets()) {
    SCOPED_TRACE(kernels->name);
    Elements first;
    bool any = false;
    for (NamedExecutor& e : all_executors()) {
      SCOPED_TRACE(e.name);
      States m = make_states(shape, seed);
      ASSERT_EQ(cpu_merge_states(*kernels, m.p, e.executor), RADIX_OK);
      expect_merged(m);
      if (!any) first = m.out;
      any = true;
      EXPECT_TRUE(m.out == first) << "other bits on another executor";
    }
  }
}

TEST(Merge, EveryDtypeNumberOfStatesAndDim) {
  for (const int32_t dtype : kMergeDtypes) {
    for (const uint32_t n : {1u, 2u, 5u, MergeParams::kMaxStates}) {
      for (const uint32_t dim : {32u, 40u, 128u, 256u}) {
        MergeShape s = merge_of_dtype(dtype);
        s.states = n;
        s.dim = dim;
        s.gap = n == 2 ? 3 : 0;
        check(s, 9);
      }
    }
  }
}

TEST(Merge, LargeLsesLoseNothing) {
  for (const float amplitude : {0.f, 1000.f, 1e5f, 1e30f}) {
    MergeShape s = merge_of_dtype(RADIX_F32);
    s.states = 3;
    s.amplitude = amplitude;
    check(s, 11);
  }
}

TEST(Merge, TheLseMayBeLeftOut) {
  MergeShape s = merge_of_dtype(RADIX_F32);
  s.lse = false;
  check(s, 12);
}

TEST(Merge, EnoughRowsForEveryWorker) {
  MergeShape s = merge_of_dtype(RADIX_F16);
  s.rows = 101;
  s.heads = 8;
  s.dim = 128;
  s.states = 4;
  check(s, 14);
}

TEST(Merge, OntoOneOfItsStates) {
  MergeShape s = merge_of_dtype(RADIX_F32);
  s.states = 3;
  for (const CpuKernels* kernels : runnable_targets()) {
    for (uint32_t onto = 0; onto < 3; ++onto) {
      Executor inline_executor;
      States apart = make_states(s, 13), aliased = make_states(s, 13);
      alias_state(&aliased, onto);
      ASSERT_EQ(cpu_merge_states(*kernels, apart.p, inline_executor), RADIX_OK);
      ASSERT_EQ(cpu_merge_states(*kernels, aliased.p, inline_executor), RADIX_OK);
      EXPECT_TRUE(same_elements(aliased.o[onto], apart.out));
      EXPECT_EQ(aliased.lse[onto], apart.out_lse);
    }
  }
}

TEST(Merge, RandomCases) {
  for_random_cases("merge", 40, [](uint64_t seed) {
    SCOPED_TRACE(::testing::Message() << "replay with RADIX_TEST_ONLY=" << seed);
    Rng rng(seed);
    check(random_merge(&rng), seed);
  });
}

}  // namespace
}  // namespace radixattn::test
