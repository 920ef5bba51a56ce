// ExtentAllocator: runs, hints, merging, room to grow, and a random run against a plain bitmap.
#include "cache/extent_allocator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <utility>
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
  uint32_t take_to_grow(uint32_t want, uint32_t hint = kNone, uint32_t spare = UINT32_MAX) {
    got_ = extents_.take_to_grow(want, hint, spare, &first_);
    return got_;
  }
  // All units taken, then these given back.
  void leave_free(uint32_t n, const std::vector<std::pair<uint32_t, uint32_t>>& runs) {
    init(n);
    take(n);
    for (const auto& [first, count] : runs) extents_.give(first, count);
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

TEST_F(Extents, TakersThatGrowShareTheRoom) {
  init(16);
  EXPECT_EQ(take_to_grow(2), 2u);
  EXPECT_EQ(first_, 0u);
  EXPECT_EQ(take_to_grow(1), 1u);
  EXPECT_EQ(first_, 9u) << "half of [2, 16) is for the first";
  EXPECT_EQ(take_to_grow(3, 2), 3u);
  EXPECT_EQ(first_, 2u);
  EXPECT_EQ(take_to_grow(1), 1u);
  EXPECT_EQ(first_, 13u) << "[10, 16) is longer than [5, 9)";
  EXPECT_EQ(take_to_grow(1, 10), 1u);
  EXPECT_EQ(first_, 10u);
  expect_sound();
}

TEST_F(Extents, EachTakerInTurnGoesOnBehindItsLastUnit) {
  constexpr uint32_t kTakers = 16, kUnits = 1024;
  init(kUnits);
  std::vector<uint32_t> hints(kTakers, kNone);
  uint32_t runs = 0;
  for (uint32_t round = 0; round < kUnits / kTakers / 2; ++round) {
    for (uint32_t& hint : hints) {
      ASSERT_EQ(take_to_grow(1, hint), 1u);
      runs += first_ != hint ? 1 : 0;
      hint = first_ + 1;
    }
  }
  EXPECT_EQ(runs, kTakers) << "half of the units are free: nobody is in the way";
}

TEST_F(Extents, AnExtentThatNobodyClaimsGoesBeforeHalfOfAClaimedOne) {
  leave_free(32, {{0, 12}, {20, 7}});
  take_to_grow(1, 0);  // claims [1, 12)
  EXPECT_EQ(take_to_grow(1), 1u);
  EXPECT_EQ(first_, 20u);
  EXPECT_EQ(take_to_grow(1), 1u);
  EXPECT_EQ(first_, 6u) << "now all is claimed: half of the longest";
}

TEST_F(Extents, RoomComesBeforeATightFit) {
  leave_free(64, {{0, 1}, {10, 8}, {30, 30}});
  EXPECT_EQ(take_to_grow(1, kNone, 20), 1u);
  EXPECT_EQ(first_, 10u) << "a third of 20 is the room";
}

TEST_F(Extents, ATightFitComesFirstWhenThereIsNoRoomBehindALongKnownPart) {
  leave_free(64, {{0, 4}, {10, 3}, {30, 4}});
  EXPECT_EQ(take_to_grow(3, kNone, 8), 3u);
  EXPECT_EQ(first_, 10u);
}

TEST_F(Extents, WithoutSpareUnitsTheFitIsAllThatCounts) {
  leave_free(64, {{0, 1}, {10, 8}, {30, 30}});
  EXPECT_EQ(take_to_grow(1, kNone, 0), 1u);
  EXPECT_EQ(first_, 0u);
  EXPECT_EQ(take_to_grow(7, kNone, 0), 7u);
  EXPECT_EQ(first_, 10u);
}

TEST_F(Extents, ALongWantTakesWhatWasClaimed) {
  init(16);
  take_to_grow(2);
  EXPECT_EQ(take_to_grow(20), 14u);
  EXPECT_EQ(first_, 2u);
  EXPECT_EQ(take_to_grow(1), 0u);
}

TEST_F(Extents, TheLastUnitIsTakenThoughItIsClaimed) {
  init(2);
  take_to_grow(1);
  EXPECT_EQ(take_to_grow(1), 1u);
  EXPECT_EQ(first_, 1u);
}

TEST_F(Extents, BestFitTakesWhatNobodyClaimsFirst) {
  leave_free(32, {{0, 5}, {20, 9}});
  take_to_grow(1, 0);  // claims [1, 5)
  EXPECT_EQ(take(4), 4u);
  EXPECT_EQ(first_, 20u);
  EXPECT_EQ(take(9), 5u);
  EXPECT_EQ(take(9), 4u) << "and then what is claimed";
  EXPECT_EQ(first_, 1u);
}

TEST_F(Extents, AClaimEndsWithItsTaker) {
  init(16);
  take_to_grow(2);
  extents_.end_growth(2);
  EXPECT_EQ(take_to_grow(1), 1u);
  EXPECT_EQ(first_, 2u);
  extents_.end_growth(16);  // the end of the units, and a taken one: nothing to end
  extents_.end_growth(1);
  expect_sound();
}

TEST_F(Extents, WhoGivesItsTailKeepsItsPlace) {
  init(16);
  take_to_grow(4);
  extents_.give(2, 2);
  EXPECT_EQ(take_to_grow(1), 1u);
  EXPECT_GT(first_, 4u);
  EXPECT_EQ(take_to_grow(1, 2), 1u);
  EXPECT_EQ(first_, 2u);
}

TEST_F(Extents, EverythingFreeCanBeTaken) {
  for (uint32_t units = 1; units < 70; ++units) {
    for (uint32_t want = 1; want < 9; ++want) {
      ExtentAllocator extents;
      extents.bind(&memory_);
      ASSERT_TRUE(extents.init(units));
      uint32_t taken = 0, first = 0;
      while (const uint32_t n = extents.take_to_grow(want, kNone, units, &first)) taken += n;
      ASSERT_EQ(taken, units) << "by " << want;
      ASSERT_EQ(extents.num_free(), 0u);
    }
  }
}

struct Script {
  std::vector<uint32_t> firsts;  // of all takes, in order
  bool merged;                   // one extent in the end
};

// Random calls checked against a bitmap; then everything is given back, in random order.
Script run_script(ExtentAllocator* extents, uint32_t num_units, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<bool> taken(num_units);
  std::vector<std::pair<uint32_t, uint32_t>> runs;
  Script script = {};
  const auto give_tail = [&](size_t at, uint32_t part) {
    auto& run = runs[at];
    extents->give(run.first + run.second - part, part);
    for (uint32_t i = run.second - part; i < run.second; ++i) taken[run.first + i] = false;
    run.second -= part;
    if (run.second == 0) {
      run = runs.back();
      runs.pop_back();
    }
  };
  for (int step = 0; step < 20000; ++step) {
    if (random() % 2 == 0) {
      const uint32_t want = 1 + static_cast<uint32_t>(random() % 12);
      const bool hinted = random() % 3 == 0 && !runs.empty();
      const uint32_t hint = hinted ? runs.back().first + runs.back().second : kNone;
      const bool goes_on = hint < num_units && !taken[hint];
      uint32_t first = kNone;
      const uint32_t kind = static_cast<uint32_t>(random() % 3);
      const uint32_t spare = kind == 2 ? extents->num_free() / 2 : extents->num_free();
      const uint32_t n = kind == 0 ? extents->take(want, hint, &first)
                                   : extents->take_to_grow(want, hint, spare, &first);
      EXPECT_LE(n, want);
      EXPECT_EQ(n == 0, std::count(taken.begin(), taken.end(), false) == 0);
      if (n == 0) continue;
      EXPECT_TRUE(!goes_on || first == hint);
      for (uint32_t i = 0; i < n; ++i) {
        EXPECT_FALSE(taken[first + i]) << step;
        taken[first + i] = true;
      }
      EXPECT_TRUE(n == want || first + n == num_units || taken[first + n]) << "cut short";
      runs.emplace_back(first, n);
      script.firsts.push_back(first);
    } else if (!runs.empty()) {
      const size_t at = random() % runs.size();
      if (random() % 2 == 0) extents->end_growth(runs[at].first + runs[at].second);
      give_tail(at, 1 + static_cast<uint32_t>(random() % runs[at].second));
    }
    EXPECT_EQ(extents->num_free(),
              static_cast<uint32_t>(std::count(taken.begin(), taken.end(), false)));
    uint64_t walked = 0;
    EXPECT_TRUE(step % 64 != 0 || extents->check(&walked));
    if (::testing::Test::HasFailure()) return script;
  }
  while (!runs.empty()) {
    const size_t at = random() % runs.size();
    give_tail(at, runs[at].second);
  }
  uint32_t first = kNone;
  script.merged = extents->take(num_units, kNone, &first) == num_units;
  return script;
}

TEST_F(Extents, RandomRunsAgainstABitmapMergeIntoOneInTheEnd) {
  constexpr uint32_t kUnits = 97;
  init(kUnits);
  EXPECT_TRUE(run_script(&extents_, kUnits, 20).merged);
}

TEST_F(Extents, TheSameCallsGiveTheSameUnits) {
  constexpr uint32_t kUnits = 300;
  init(kUnits);
  const Script once = run_script(&extents_, kUnits, 21);
  ExtentAllocator other;
  other.bind(&memory_);
  ASSERT_TRUE(other.init(kUnits));
  EXPECT_EQ(run_script(&other, kUnits, 21).firsts, once.firsts);
}

}  // namespace
}  // namespace radixattn
