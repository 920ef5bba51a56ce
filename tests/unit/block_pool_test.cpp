// BlockPool: references, the free list, fences.
#include "cache/block_pool.h"

#include <gtest/gtest.h>

#include <vector>

namespace radixattn {
namespace {

class Pool : public ::testing::Test {
 protected:
  void init(uint32_t n, bool defer_free = false) {
    pool_.bind(&memory_);
    ASSERT_TRUE(pool_.init(n, defer_free));
  }
  HostAllocator memory_;
  BlockPool pool_;
};

TEST_F(Pool, AllBlocksTakenMeansAnEmptyFreeListAndFreedOnesAreFreeAgain) {
  init(4);
  uint32_t a = 0, b = 0, none = 0;
  ASSERT_EQ(pool_.take(2, kNone, &a), 2u);
  ASSERT_EQ(pool_.take(2, kNone, &b), 2u);
  EXPECT_EQ(pool_.num_free(), 0u);
  EXPECT_EQ(pool_.take(1, kNone, &none), 0u);
  for (uint32_t i = 0; i < 2; ++i) pool_.drop_ref(a + i);
  EXPECT_EQ(pool_.num_free(), 2u);
  for (uint32_t i = 0; i < 2; ++i) pool_.drop_ref(b + i);
  EXPECT_EQ(pool_.num_free(), 4u);
}

TEST_F(Pool, BlocksThatArePlannedAreNoRoomToGrow) {
  init(8);
  uint32_t a = 0, b = 0;
  pool_.take(8, kNone, &a);
  for (const uint32_t block : {1u, 4u, 5u, 6u}) pool_.drop_ref(block);
  pool_.plan(4);
  ASSERT_EQ(pool_.take(1, kNone, &a), 1u);
  ASSERT_EQ(pool_.take(3, kNone, &b), 3u);
  EXPECT_EQ(a, 1u);
  EXPECT_EQ(b, 4u);
  for (const uint32_t block : {1u, 4u, 5u, 6u}) pool_.drop_ref(block);
  ASSERT_EQ(pool_.take(1, kNone, &a), 1u);
  EXPECT_EQ(a, 4u) << "nothing is planned any more: there is room behind block 4";
}

TEST_F(Pool, ABlockIsFreeWhenItsLastReferenceGoes) {
  init(2);
  uint32_t b = 0;
  pool_.take(1, kNone, &b);
  pool_.add_ref(b);
  pool_.drop_ref(b);
  EXPECT_EQ(pool_.num_free(), 1u);
  pool_.drop_ref(b);
  EXPECT_EQ(pool_.num_free(), 2u);
}

TEST_F(Pool, WaitsForTheEpochInWhichABlockWasGivenUp) {
  init(4, true);
  uint32_t first = 0;
  pool_.take(3, kNone, &first);
  pool_.drop_ref(first);
  EXPECT_EQ(pool_.num_free(), 2u) << "no epoch has begun: nobody reads";
  pool_.set_epochs(1, 0);
  pool_.drop_ref(first + 1);
  pool_.set_epochs(2, 0);
  pool_.drop_ref(first + 2);
  EXPECT_EQ(pool_.num_deferred(), 2u);
  EXPECT_EQ(pool_.num_free(), 2u);
  pool_.set_epochs(2, 1);
  EXPECT_EQ(pool_.num_free(), 3u);
  std::vector<uint32_t> waiting;
  pool_.for_each_deferred([&](uint32_t block) { waiting.push_back(block); });
  EXPECT_EQ(waiting, std::vector<uint32_t>{first + 2});
  pool_.set_epochs(2, 2);
  EXPECT_EQ(pool_.num_free(), 4u);
}

TEST_F(Pool, CachedBlocksGoAtOnceUnlessFenced) {
  init(2, true);
  uint32_t b = 0;
  pool_.take(2, kNone, &b);
  pool_.hand_to_tree(b);
  pool_.hand_to_tree(b + 1);
  pool_.set_epochs(1, 0);
  pool_.give_cached(b, false);
  EXPECT_EQ(pool_.num_free(), 1u);
  pool_.give_cached(b + 1, true);
  EXPECT_EQ(pool_.num_free(), 1u);
  EXPECT_EQ(pool_.num_deferred(), 1u);
}

}  // namespace
}  // namespace radixattn
