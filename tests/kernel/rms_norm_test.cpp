// RMSNorm of the CPU on every target and executor, against the definition in double.
#include <gtest/gtest.h>

#include <cstring>

#include "support/layer_case.h"
#include "support/runners.h"

namespace radixattn::test {
namespace {

void check(const NormShape& shape, uint64_t seed) {
  SCOPED_TRACE(shape);
  for (const CpuKernels* kernels : runnable_targets()) {
    SCOPED_TRACE(kernels->name);
    Elements first;
    bool any = false;
    for (NamedExecutor& e : all_executors()) {
      SCOPED_TRACE(e.name);
      NormCase c(shape, seed);
      ASSERT_EQ(cpu_rms_norm(*kernels, c.p, e.executor), RADIX_OK);
      if (!any) c.expect_correct();
      if (!any) first = c.result();
      any = true;
      ASSERT_TRUE(c.result() == first) << "other bits on another executor";
      if (::testing::Test::HasFatalFailure()) return;
    }
  }
}

TEST(RmsNorm, EveryDim) {
  for (uint32_t dim = 1; dim <= 70; ++dim) {
    NormShape s;
    s.dim = dim;
    check(s, dim);
  }
  NormShape s;
  s.dim = 5120;
  check(s, 5);
}

TEST(RmsNorm, EveryDtypeInPlaceAndApart) {
  for (const int32_t x : kFloatDtypes) {
    for (const int32_t weight : kFloatDtypes) {
      for (const int32_t y : kFloatDtypes) {
        NormShape s;
        s.x = x;
        s.weight = weight;
        s.y = y;
        s.dim = 83;
        s.in_place = x == y;
        s.plus_one = weight == RADIX_BF16;
        check(s, 7);
      }
    }
  }
}

TEST(RmsNorm, HeadsOfRowsWithGapsBetweenThem) {
  for (const bool in_place : {false, true}) {
    NormShape s;
    s.rows = 5;
    s.heads = 3;
    s.dim = 128;
    s.gap = 4;
    s.in_place = in_place;
    check(s, 8);
  }
}

TEST(RmsNorm, LargeAndSmallVectors) {
  for (const float amplitude : {0.f, 1e-12f, 1e-3f, 1e4f, 1e15f}) {
    NormShape s;
    s.amplitude = amplitude;
    s.eps = amplitude < 1e-6f ? 1e-5f : 1e-6f;
    check(s, 9);
  }
}

TEST(RmsNorm, EnoughRowsForEveryWorker) {
  NormShape s;
  s.rows = 301;
  s.dim = 1024;
  check(s, 10);
}

TEST(RmsNorm, ARowHasTheSameBitsHoweverManyRowsThereAre) {
  for (const CpuKernels* kernels : runnable_targets()) {
    NormShape s;
    s.rows = 90;
    s.dim = 1031;
    Executor inline_executor;
    NormCase all(s, 11), one(s, 11);
    ASSERT_EQ(cpu_rms_norm(*kernels, all.p, inline_executor), RADIX_OK);
    one.p.num_rows = 1;
    ASSERT_EQ(cpu_rms_norm(*kernels, one.p, inline_executor), RADIX_OK);
    EXPECT_EQ(std::memcmp(all.y.data(), one.y.data(), s.dim * sizeof(float)), 0) << kernels->name;
  }
}

TEST(RmsNorm, NoRowsIsNoWork) {
  NormCase c(NormShape{}, 12);
  const Elements before = c.y;
  Executor inline_executor;
  c.p.num_rows = 0;
  EXPECT_EQ(cpu_rms_norm(*runnable_targets().front(), c.p, inline_executor), RADIX_OK);
  EXPECT_TRUE(c.y == before);
}

TEST(RmsNorm, RandomCases) {
  for_random_cases("rms_norm", 60, [](uint64_t seed) {
    SCOPED_TRACE(::testing::Message() << "replay with RADIX_TEST_ONLY=" << seed);
    Rng rng(seed);
    NormShape s;
    s.rows = rng.between(1, 20);
    s.heads = rng.between(1, 6);
    s.dim = rng.between(1, 300);
    s.gap = rng.below(7);
    s.x = rng.pick(kFloatDtypes);
    s.weight = rng.pick(kFloatDtypes);
    s.y = rng.pick(kFloatDtypes);
    s.plus_one = rng.one_in(2);
    s.in_place = s.x == s.y && rng.one_in(2);
    check(s, seed);
  });
}

}  // namespace
}  // namespace radixattn::test
