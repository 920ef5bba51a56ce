// EvictionIndex: order against std::set, several queues over one array; keys of the policies.
#include "cache/eviction.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <vector>

namespace radixattn {
namespace {

TEST(EvictionIndex, KeepsSeveralQueuesInOrderOfKeyThenId) {
  constexpr uint32_t kNodes = 300;
  HostAllocator memory;
  EvictionIndex index;
  index.bind(&memory);
  ASSERT_TRUE(index.reserve(kNodes));
  EvictionQueue queues[2] = {kEmptyQueue, kEmptyQueue};
  std::set<std::pair<uint64_t, uint32_t>> expected[2];
  std::mt19937 random(3);
  for (int step = 0; step < 20000; ++step) {
    const auto node = static_cast<uint32_t>(random() % kNodes);
    const uint32_t q = node % 2;
    if (index.contains(node)) {
      expected[q].erase({index.key(node), node});
      index.erase(&queues[q], node);
    } else {
      const uint64_t key = random() % 50;
      expected[q].insert({key, node});
      index.insert(&queues[q], node, key);
    }
    ASSERT_EQ(queues[q].count, expected[q].size());
    ASSERT_EQ(queues[q].first, expected[q].empty() ? kNone : expected[q].begin()->second);
    if (step % 200 != 0) continue;
    uint32_t at = queues[q].first;
    for (const auto& [key, id] : expected[q]) {
      ASSERT_EQ(at, id);
      ASSERT_EQ(index.key(at), key);
      at = index.next(at);
    }
    ASSERT_EQ(at, kNone);
  }
}

TEST(EvictionKey, OrdersByWhatThePolicyLooksAt) {
  const Usage old_often = {10, 1, 9};
  const Usage new_once = {20, 15, 1};
  EXPECT_LT(eviction_key(RADIX_EVICT_LRU, old_often), eviction_key(RADIX_EVICT_LRU, new_once));
  EXPECT_GT(eviction_key(RADIX_EVICT_LFU, old_often), eviction_key(RADIX_EVICT_LFU, new_once));
  EXPECT_LT(eviction_key(RADIX_EVICT_FIFO, old_often), eviction_key(RADIX_EVICT_FIFO, new_once));
  EXPECT_LT(eviction_key(RADIX_EVICT_NONE, old_often), eviction_key(RADIX_EVICT_NONE, new_once));
  const Usage used_later = {30, 1, 9};
  EXPECT_LT(eviction_key(RADIX_EVICT_LFU, old_often), eviction_key(RADIX_EVICT_LFU, used_later))
      << "ties by last use";
}

}  // namespace
}  // namespace radixattn
