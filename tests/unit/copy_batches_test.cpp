// Batches of copies that may run at the same time do what the list in its order does.
#include "plan/copy_batches.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace radixattn {
namespace {

std::vector<uint32_t> batches(const std::vector<int32_t>& pairs, uint32_t max) {
  std::vector<uint32_t> sizes;
  const auto n = static_cast<uint32_t>(pairs.size() / 2);
  for (uint32_t first = 0; first < n; first += sizes.back()) {
    sizes.push_back(next_copy_batch(pairs.data(), n, first, max));
    if (sizes.back() == 0) break;
  }
  return sizes;
}

TEST(CopyBatches, IndependentCopiesAreOneBatch) {
  EXPECT_EQ(batches({0, 1, 2, 3, 0, 4, 2, 5}, 100), (std::vector<uint32_t>{4}));
}

TEST(CopyBatches, AChainIsCutAtEveryLink) {
  EXPECT_EQ(batches({0, 1, 1, 2, 2, 3}, 100), (std::vector<uint32_t>{1, 1, 1}));
}

TEST(CopyBatches, NobodyWritesWhatAnotherReadsOrWrites) {
  EXPECT_EQ(batches({0, 1, 2, 0}, 100), (std::vector<uint32_t>{1, 1})) << "write after read";
  EXPECT_EQ(batches({0, 1, 2, 1}, 100), (std::vector<uint32_t>{1, 1})) << "write after write";
}

TEST(CopyBatches, ABatchIsNoLongerThanAsked) {
  std::vector<int32_t> pairs;
  for (int32_t i = 0; i < 2000; ++i) pairs.insert(pairs.end(), {2 * i, 2 * i + 1});
  EXPECT_EQ(batches(pairs, 448), (std::vector<uint32_t>{448, 448, 448, 448, 208}));
  EXPECT_EQ(batches(pairs, 100000).front(), 512u);
  EXPECT_EQ(next_copy_batch(pairs.data(), 2000, 2000, 10), 0u);
}

TEST(CopyBatches, ABlockOntoItselfIsAPairLikeOthers) {
  EXPECT_EQ(batches({1, 1}, 100), (std::vector<uint32_t>{1}));
  EXPECT_EQ(batches({1, 1, 1, 2}, 100), (std::vector<uint32_t>{1, 1}));
  EXPECT_EQ(batches({2, 1, 1, 1}, 100), (std::vector<uint32_t>{1, 1}));
}

// Says the same as the header, in n^2: no dst is a src or a dst of another pair.
bool independent(const std::vector<int32_t>& pairs, size_t first, size_t n) {
  for (size_t i = first; i < first + n; ++i) {
    for (size_t j = first; j < first + n; ++j) {
      if (i == j) continue;
      if (pairs[2 * i + 1] == pairs[2 * j] || pairs[2 * i + 1] == pairs[2 * j + 1]) return false;
    }
  }
  return true;
}

// So none shorter would do, and batches cut greedily are the fewest.
TEST(CopyBatches, AreIndependentAndAsLongAsTheyCanBe) {
  std::mt19937 random(11);
  for (int round = 0; round < 200; ++round) {
    const auto blocks = static_cast<uint32_t>(random() % 400 + 2);
    const uint32_t stride = random() % 2 == 0 ? 1 : 1u << 20;
    std::vector<int32_t> pairs(2 * (random() % 300));
    for (int32_t& b : pairs) b = static_cast<int32_t>(random() % blocks * stride);
    const auto n = static_cast<uint32_t>(pairs.size() / 2);
    const auto max = static_cast<uint32_t>(random() % 40 + 1);
    size_t first = 0;
    for (const uint32_t size : batches(pairs, max)) {
      ASSERT_TRUE(size > 0 && size <= max);
      EXPECT_TRUE(independent(pairs, first, size));
      EXPECT_TRUE(size == max || first + size == n || !independent(pairs, first, size + 1));
      first += size;
    }
    EXPECT_EQ(first, n);
  }
}

TEST(CopyBatches, GiveWhatTheOrderGives) {
  std::mt19937 random(7);
  for (int round = 0; round < 300; ++round) {
    const int blocks = static_cast<int>(random() % 60 + 2), n = static_cast<int>(random() % 700);
    std::vector<int32_t> pairs;
    for (int i = 0; i < 2 * n; ++i)
      pairs.push_back(static_cast<int32_t>(random() % static_cast<uint32_t>(blocks)));
    std::vector<int> in_order(static_cast<size_t>(blocks)), at_once;
    for (size_t i = 0; i < in_order.size(); ++i) in_order[i] = static_cast<int>(i);
    at_once = in_order;
    for (size_t i = 0; i < pairs.size(); i += 2)
      in_order[static_cast<size_t>(pairs[i + 1])] = in_order[static_cast<size_t>(pairs[i])];
    size_t first = 0;
    for (const uint32_t size : batches(pairs, 448)) {
      ASSERT_GT(size, 0u);
      const std::vector<int> before = at_once;  // all read before any writes
      for (size_t i = first; i < first + size; ++i)
        at_once[static_cast<size_t>(pairs[2 * i + 1])] = before[static_cast<size_t>(pairs[2 * i])];
      first += size;
    }
    EXPECT_EQ(first * 2, pairs.size());
    EXPECT_EQ(at_once, in_order);
  }
}

}  // namespace
}  // namespace radixattn
