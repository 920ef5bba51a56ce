// The work list of decode: every visible position once, within the bounds, and balanced.
#include "plan/decode_schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>
#include <vector>

namespace radixattn {
namespace {

struct Made {
  DecodeSchedule schedule;
  std::vector<int32_t> items, partial_begin;
};

Made make(const std::vector<int32_t>& lens, uint32_t window, uint32_t blocks, uint32_t max_items,
          uint32_t fixed = 0) {
  DecodeScheduleInput in;
  in.context_lens = lens.data();
  in.num_seqs = static_cast<uint32_t>(lens.size());
  in.window = window;
  in.num_blocks = blocks;
  in.max_items = max_items;
  in.fixed_split = fixed;
  Made m;
  m.items.assign(size_t{2} * max_items, -7);
  m.partial_begin.assign(lens.size(), -7);
  m.schedule = schedule_decode(in, m.items.data(), m.partial_begin.data());
  return m;
}

// Each sequence's items are exactly the ranges that hold visible positions, and states of different
// ranges have different rows below num_partial_rows.
void expect_complete(const std::vector<int32_t>& lens, uint32_t window, const Made& m) {
  const int64_t split = m.schedule.split_tokens;
  ASSERT_EQ(split % 64, 0);
  std::set<std::pair<int64_t, int64_t>> items;
  for (uint32_t i = 0; i < m.schedule.num_items; ++i)
    items.insert({m.items[2 * i], m.items[2 * i + 1]});
  ASSERT_EQ(items.size(), m.schedule.num_items) << "an item twice";
  std::set<int64_t> rows;
  size_t expected = 0;
  for (size_t s = 0; s < lens.size(); ++s) {
    const int64_t end = std::max(lens[s], 0);
    const int64_t begin = window != 0 && end > int64_t{window} ? end - window : 0;
    const int64_t first = end == 0 ? 0 : begin / split, last = end == 0 ? 0 : (end - 1) / split;
    for (int64_t r = first; r <= last; ++r, ++expected) {
      EXPECT_EQ(items.count({static_cast<int64_t>(s), r}), 1u) << s << " " << r;
      if (first == last) continue;
      const int64_t row = m.partial_begin[s] + r;
      EXPECT_TRUE(rows.insert(row).second);
      EXPECT_GE(row, 0);
      EXPECT_LT(row, m.schedule.num_partial_rows);
    }
  }
  EXPECT_EQ(items.size(), expected);
}

TEST(DecodeSchedule, CoversEveryVisibleRangeOnce) {
  std::mt19937 generator(5);
  const auto random = [&] { return static_cast<uint32_t>(generator()); };
  for (int i = 0; i < 500; ++i) {
    std::vector<int32_t> lens(random() % 40);
    const int32_t longest = 1 << (random() % 18);
    for (int32_t& n : lens) n = static_cast<int32_t>(random() % static_cast<uint32_t>(longest + 1));
    if (!lens.empty() && random() % 4 == 0) lens[0] = random() % 2 == 0 ? 0 : -5;
    const uint32_t window = random() % 3 == 0 ? random() % 5000 + 1 : 0;
    const auto n = static_cast<uint32_t>(lens.size());
    const Made m = make(lens, window, random() % 300 + 1, 2 * n + random() % 600);
    SCOPED_TRACE(::testing::Message() << "case " << i);
    ASSERT_LE(m.schedule.num_items, 2 * n + 600);
    expect_complete(lens, window, m);
  }
}

TEST(DecodeSchedule, FillsTheBlocksWithOneLongSequence) {
  const Made m = make({32768}, 0, 33, 1000);
  EXPECT_GE(m.schedule.num_items, 30u);
  EXPECT_LE(m.schedule.num_items, 4 * 33u);
}

TEST(DecodeSchedule, LeavesAFullBatchInOnePiece) {
  const Made m = make(std::vector<int32_t>(512, 1000), 0, 66, 4000);
  EXPECT_EQ(m.schedule.num_items, 512u);
  EXPECT_EQ(m.schedule.num_partial_rows, 0u);
}

TEST(DecodeSchedule, DoesNotCutWhereThatCostsMoreThanItSaves) {
  EXPECT_EQ(make({256}, 0, 66, 100).schedule.num_items, 1u) << "items of 64 are mostly overhead";
  EXPECT_EQ(make({259}, 0, 2, 100).schedule.num_items, 1u)
      << "two states to merge for three tokens";
}

TEST(DecodeSchedule, CutsTheOneLongSequenceOfARaggedBatch) {
  std::vector<int32_t> lens(32, 300);
  lens[7] = 60000;
  const Made m = make(lens, 0, 66, 1000);
  // Work of the longest item stays near what each block must do anyway.
  EXPECT_LE(m.schedule.split_tokens, 2 * (60000u + 31 * 300) / 66 + 128);
  expect_complete(lens, 0, m);
}

TEST(DecodeSchedule, FullRangesComeFirst) {
  const Made m = make({1000, 5000, 300, 2048}, 0, 16, 400, 512);
  ASSERT_EQ(m.schedule.split_tokens, 512u);
  bool partial = false;
  const int32_t lens[] = {1000, 5000, 300, 2048};
  for (uint32_t i = 0; i < m.schedule.num_items; ++i) {
    const bool full = (m.items[2 * i + 1] + 1) * 512 <= lens[m.items[2 * i]];
    EXPECT_FALSE(partial && full);
    partial |= !full;
  }
}

TEST(DecodeSchedule, AFixedLengthThatDoesNotFitWritesNothing) {
  const Made m = make({5000, 5000}, 0, 16, 10, 256);
  EXPECT_EQ(m.schedule.num_items, 40u);
  EXPECT_EQ(m.items[0], -7);
  EXPECT_EQ(m.partial_begin[0], -7);
}

TEST(DecodeSchedule, NothingToDo) {
  EXPECT_EQ(make({}, 0, 8, 0).schedule.num_items, 0u);
  EXPECT_EQ(make({0, 0}, 0, 8, 2).schedule.num_items, 2u);
}

}  // namespace
}  // namespace radixattn
