// ExtentAllocator: runs, hints, merging, and a random run against a plain bitmap.
#include "cache/extent_allocator.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace radixattn {
namespace {

class Extents : public ::testing::Test {
 protected:
  void init(uint32_t n) {
    extents_.bind(&memory_);
    ASSERT_TRUE(extents_.init(n));
  }
  uint32_t take(uint32_t want, uint32_t hint = kNone) {
    got_ = extents_.take(want, hint, &first_);
    return got_;
  }
  void expect_sound() {
    uint64_t walked = 0;
    EXPECT_TRUE(extents_.check(&walked));
    EXPECT_EQ(walked, extents_.num_free());
  }
  HostAllocator memory_;
  ExtentAllocator extents_;
  uint32_t got_ = 0, first_ = kNone;
};

TEST_F(Extents, GivesTheWholeRunWhenOneFits) {
  init(10);
  EXPECT_EQ(take(4), 4u);
  EXPECT_EQ(first_, 0u);
  EXPECT_EQ(extents_.num_free(), 6u);
  expect_sound();
}

TEST_F(Extents, GivesNothingOnlyWhenNothingIsFree) {
  init(3);
  EXPECT_EQ(take(5), 3u);
  EXPECT_EQ(take(1), 0u);
  expect_sound();
}

TEST_F(Extents, GoesOnAtTheHint) {
  init(10);
  take(2);
  take(2);
  extents_.give(0, 2);
  EXPECT_EQ(take(3, 4), 3u);
  EXPECT_EQ(first_, 4u);
  EXPECT_EQ(take(1, 10), 1u) << "a hint behind the last unit is no hint";
  EXPECT_EQ(take(1, 3), 1u) << "a taken hint is no hint";
  expect_sound();
}

TEST_F(Extents, MergesWithFreeNeighboursOnBothSides) {
  init(9);
  take(3);
  take(3);
  take(3);
  extents_.give(0, 3);
  extents_.give(6, 3);
  EXPECT_EQ(take(9), 3u);
  extents_.give(first_, 3);
  extents_.give(3, 3);
  EXPECT_EQ(take(9), 9u);
  EXPECT_EQ(first_, 0u);
}

TEST_F(Extents, RandomRunsAgainstABitmap) {
  constexpr uint32_t kUnits = 97;
  init(kUnits);
  std::mt19937 random(20);
  std::vector<bool> taken(kUnits);
  std::vector<std::pair<uint32_t, uint32_t>> runs;
  for (int step = 0; step < 20000; ++step) {
    if (random() % 2 == 0) {
      const uint32_t want = 1 + static_cast<uint32_t>(random() % 12);
      const uint32_t n =
          take(want,
               random() % 3 == 0 && !runs.empty() ? runs.back().first + runs.back().second : kNone);
      ASSERT_LE(n, want);
      for (uint32_t i = 0; i < n; ++i) {
        ASSERT_FALSE(taken[first_ + i]) << step;
        taken[first_ + i] = true;
      }
      if (n > 0) runs.emplace_back(first_, n);
    } else if (!runs.empty()) {
      auto& run = runs[random() % runs.size()];
      const uint32_t part =
          1 + static_cast<uint32_t>(random() % run.second);  // the tail of the run
      extents_.give(run.first + run.second - part, part);
      for (uint32_t i = run.second - part; i < run.second; ++i) taken[run.first + i] = false;
      run.second -= part;
      if (run.second == 0) {
        run = runs.back();
        runs.pop_back();
      }
    }
    ASSERT_EQ(extents_.num_free(),
              static_cast<uint32_t>(std::count(taken.begin(), taken.end(), false)));
    if (step % 64 == 0) expect_sound();
  }
}

}  // namespace
}  // namespace radixattn
