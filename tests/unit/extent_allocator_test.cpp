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

TEST_F(Extents, WithoutSpareUnitsClaimsDoNotCountEither) {
  leave_free(32, {{0, 4}, {10, 9}});
  take_to_grow(1, 0);
  take_to_grow(1, 10);  // claimed: [1, 4) and [11, 19)
  EXPECT_EQ(take_to_grow(3, kNone, 0), 3u);
  EXPECT_EQ(first_, 1u);
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

TEST_F(Extents, BestFitChoosesAmongClaimedExtents) {
  leave_free(32, {{0, 5}, {20, 9}});
  take_to_grow(1, 0);
  take_to_grow(1, 20);  // claimed: [1, 5) and [21, 29)
  EXPECT_EQ(take(3), 3u);
  EXPECT_EQ(first_, 1u);
}

TEST_F(Extents, WhatIsGivenBackBehindClaimedUnitsIsClaimedWithThem) {
  init(16);
  take_to_grow(2);
  take_to_grow(1);
  EXPECT_EQ(first_, 9u);
  extents_.end_growth(10);
  extents_.give(9, 1);
  take_to_grow(1);
  EXPECT_EQ(first_, 9u) << "[2, 16) is still the first taker's to grow in";
}

TEST_F(Extents, AClaimEndsWhenItsTakersRunHasMergedIntoOthers) {
  leave_free(16, {{0, 4}, {5, 11}});
  take_to_grow(1, 5);  // claims [6, 16)
  extents_.give(4, 1);
  extents_.give(5, 1);
  EXPECT_EQ(take_to_grow(1), 1u);
  EXPECT_EQ(first_, 0u);
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

// Random calls, checked against a bitmap.
class RandomCalls {
 public:
  RandomCalls(ExtentAllocator* extents, uint32_t seed)
      : extents_(extents), random_(seed), taken_(extents->num_units()) {}

  void run(int steps) {
    for (int step = 0; step < steps && !::testing::Test::HasFailure(); ++step) {
      if (random_() % 2 == 0) {
        take();
      } else if (!runs_.empty()) {
        const size_t at = random_() % runs_.size();
        if (random_() % 2 == 0) extents_->end_growth(runs_[at].first + runs_[at].second);
        give_tail(at, 1 + below(runs_[at].second));
      }
      EXPECT_EQ(extents_->num_free(), num_free()) << step;
      uint64_t walked = 0;
      EXPECT_TRUE(step % 64 != 0 || extents_->check(&walked)) << step;
    }
  }
  void give_all() {
    while (!runs_.empty()) {
      const size_t at = random_() % runs_.size();
      give_tail(at, runs_[at].second);
    }
  }
  const std::vector<uint32_t>& firsts() const { return firsts_; }  // of all runs taken, in order

 private:
  uint32_t below(uint32_t n) { return static_cast<uint32_t>(random_() % n); }
  uint32_t num_free() const {
    return static_cast<uint32_t>(std::count(taken_.begin(), taken_.end(), false));
  }

  void take() {
    const uint32_t want = 1 + below(12);
    const bool hinted = below(3) == 0 && !runs_.empty();
    const uint32_t hint = hinted ? runs_.back().first + runs_.back().second : kNone;
    const bool goes_on = hint < taken_.size() && !taken_[hint];
    const uint32_t kind = below(3);
    const uint32_t spare = kind == 2 ? below(extents_->num_free() + 1) : extents_->num_free();
    uint32_t first = kNone;
    const uint32_t n = kind == 0 ? extents_->take(want, hint, &first)
                                 : extents_->take_to_grow(want, hint, spare, &first);
    EXPECT_LE(n, want);
    EXPECT_EQ(n == 0, num_free() == 0);
    if (n == 0) return;
    EXPECT_TRUE(!goes_on || first == hint);
    for (uint32_t unit = first; unit < first + n; ++unit) {
      EXPECT_FALSE(taken_[unit]);
      taken_[unit] = true;
    }
    const bool to_the_end = first + n == taken_.size() || taken_[first + n];
    EXPECT_TRUE(n == want || to_the_end) << "cut short";
    runs_.emplace_back(first, n);
    firsts_.push_back(first);
  }

  void give_tail(size_t at, uint32_t part) {
    auto& [first, count] = runs_[at];
    count -= part;
    extents_->give(first + count, part);
    for (uint32_t i = 0; i < part; ++i) taken_[first + count + i] = false;
    if (count > 0) return;
    runs_[at] = runs_.back();
    runs_.pop_back();
  }

  ExtentAllocator* extents_;
  std::mt19937 random_;
  std::vector<bool> taken_;
  std::vector<std::pair<uint32_t, uint32_t>> runs_;
  std::vector<uint32_t> firsts_;
};

TEST_F(Extents, RandomRunsAgainstABitmapMergeIntoOneInTheEnd) {
  init(97);
  RandomCalls calls(&extents_, 20);
  calls.run(20000);
  calls.give_all();
  EXPECT_EQ(take(97), 97u);
  expect_sound();
}

TEST_F(Extents, TheSameCallsGiveTheSameUnits) {
  init(300);
  RandomCalls calls(&extents_, 21);
  calls.run(20000);
  ExtentAllocator other;
  other.bind(&memory_);
  ASSERT_TRUE(other.init(300));
  RandomCalls again(&other, 21);
  again.run(20000);
  EXPECT_EQ(again.firsts(), calls.firsts());
}

}  // namespace
}  // namespace radixattn
