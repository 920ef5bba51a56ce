// One step's arrays: that a device which gets the staged bytes has every row, that nothing is sent
// that it has, and what lies in the padding.
#include "plan/step.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

namespace radixattn {
namespace {

constexpr int32_t kDirty = 0x5a5a5a5a;

StepShape shape_of(uint32_t seqs, bool copies, bool pads) {
  StepShape s;
  s.max_seqs = seqs;
  s.max_query_tokens = 40;
  s.block_size = 4;
  s.row_stride = 9;
  s.max_items = 64;
  s.workspace_bytes = 100;
  s.copies = copies;
  s.pads = pads;
  return s;
}

// A plan: the writer, its mirror, what is staged, and a device that gets of it what end() says.
class Plan {
 public:
  explicit Plan(const StepShape& shape)
      : shape_(shape),
        layout_(step_layout(shape)),
        mirror_(size_t{shape.max_seqs} * shape.row_stride, kDirty),
        versions_(shape.max_seqs, 99),
        staging_(layout_.total_bytes / 4, kDirty),
        device_(layout_.total_bytes / 4, kDirty) {
    writer.bind(shape, mirror_.data(), versions_.data());
  }

  void begin() {
    std::fill(staging_.begin(), staging_.end(), kDirty);
    writer.begin(reinterpret_cast<char*>(staging_.data()));
  }
  void add(const std::vector<uint32_t>& row, int32_t context, int32_t query, uint64_t version = 0) {
    writer.add({row.data(), static_cast<uint32_t>(row.size()), context, query, version});
  }
  // Ends the step: the device gets its bytes and patches its rows.
  StepParams end() {
    sent = writer.end();
    uint64_t before = 0;
    for (uint32_t i = 0; i < sent.num; ++i) {
      const CopyRanges::Range& range = sent.ranges[i];
      EXPECT_LT(range.begin, range.end);
      EXPECT_LE(range.end, layout_.staged_bytes);
      EXPECT_LE(before, range.begin);
      before = range.end;
      std::copy(staging_.begin() + static_cast<int64_t>(range.begin / 4),
                staging_.begin() + static_cast<int64_t>(range.end / 4),
                device_.begin() + static_cast<int64_t>(range.begin / 4));
    }
    const StepParams p = step_params(shape_, writer.sizes(), device_.data());
    for (uint32_t s = 0; s < p.num_seqs; ++s) {
      const int32_t begin = p.patch_begin[s], num = p.patch_begin[s + 1] - begin;
      EXPECT_GE(num, 0);
      EXPECT_LE(p.patch_first[s] + num, static_cast<int32_t>(p.row_stride));
      std::copy_n(p.patch_ids + begin, num, p.tables + s * p.row_stride + p.patch_first[s]);
    }
    return p;
  }
  void lose_device() { std::fill(device_.begin(), device_.end(), kDirty); }
  const int32_t* staged(uint64_t offset) const { return staging_.data() + offset / 4; }
  const StepLayout& layout() const { return layout_; }

  CopyRanges sent;  // of the last step
  StepWriter writer;

 private:
  StepShape shape_;
  StepLayout layout_;
  std::vector<int32_t> mirror_;
  std::vector<uint64_t> versions_;
  std::vector<int32_t> staging_, device_;
};

std::vector<int32_t> row_on_device(const StepParams& p, uint32_t seq, size_t n) {
  const int32_t* row = p.tables + seq * p.row_stride;
  return {row, row + n};
}

TEST(StepLayout, ArraysDoNotOverlapAndHaveTheirRoom) {
  for (const uint32_t seqs : {1u, 15u, 16u, 17u}) {
    for (const bool copies : {false, true}) {
      StepShape s = shape_of(seqs, copies, true);
      const uint64_t lists = seqs % 2;
      if (lists != 0) s.max_radix_items = 11, s.max_radix_terms = 7;
      const StepLayout l = step_layout(s);
      const uint64_t copied = copies ? 1 : 0, entries = uint64_t{seqs} * s.row_stride;
      const std::vector<std::pair<uint64_t, uint64_t>> arrays = {
          {l.schedule, 8},
          {l.context_lens, seqs * 4},
          {l.cu_q_lens, seqs * 4 + 4},
          {l.partial_begin, seqs * 4},
          {l.patch_begin, copied * (seqs * 4 + 4)},
          {l.patch_first, copied * seqs * 4},
          {l.items, s.max_items * 8},
          {l.radix_sizes, lists * sizeof(RadixListSizes)},
          {l.radix_merges, lists * seqs * sizeof(RadixMerge)},
          {l.radix_rows, lists * s.max_query_tokens * sizeof(RadixRow)},
          {l.radix_terms, s.max_radix_terms * 4},
          {l.radix_items, s.max_radix_items * sizeof(RadixItem)},
          {l.patch_ids, copied * entries * 4},
          {l.tables, entries * 4},
          {l.slots, s.max_query_tokens * 8},
          {l.positions, s.max_query_tokens * 4},
          {l.workspace, s.workspace_bytes},
          {l.total_bytes, 0}};
      EXPECT_EQ(arrays[0].first, 0u);
      for (size_t i = 0; i + 1 < arrays.size(); ++i) {
        EXPECT_EQ(arrays[i].first % 64, 0u) << "array " << i;
        EXPECT_GE(arrays[i + 1].first, arrays[i].first + arrays[i].second) << "array " << i;
        EXPECT_LT(arrays[i + 1].first, arrays[i].first + arrays[i].second + 64) << "array " << i;
      }
      EXPECT_EQ(l.staged_bytes, l.tables);
    }
  }
}

TEST(StepWriter, TheDeviceHasEveryRowAfterEveryStep) {
  std::mt19937 rng(3);
  const auto below = [&rng](uint32_t n) { return static_cast<uint32_t>(rng() % n); };
  for (const bool pads : {false, true}) {
    Plan plan(shape_of(5, true, pads));
    std::vector<std::vector<uint32_t>> rows(5);
    for (int step = 0; step < 300; ++step) {
      plan.begin();
      const uint32_t num = below(6);
      for (uint32_t s = 0; s < num; ++s) {
        if (below(4) == 0) rows[s].resize(below(10));
        for (uint32_t& id : rows[s])
          if (below(5) == 0) id = below(1000) | below(2) << 31;
        const auto context = static_cast<int32_t>(rows[s].size() * 4);
        plan.add(rows[s], context, static_cast<int32_t>(below(8)));
      }
      const StepParams p = plan.end();
      ASSERT_EQ(p.num_seqs, pads ? 5 : num);
      int32_t tokens = 0;
      for (uint32_t s = 0; s < p.num_seqs; ++s) {
        std::vector<int32_t> expected;
        if (s < num)
          for (const uint32_t id : rows[s])
            expected.push_back(static_cast<int32_t>(id & 0x7fffffff));
        ASSERT_EQ(row_on_device(p, s, expected.size()), expected)
            << "step " << step << " row " << s;
        ASSERT_EQ(p.context_lens[s], static_cast<int32_t>(expected.size() * 4));
        ASSERT_GE(p.cu_q_lens[s + 1], p.cu_q_lens[s]);
        if (s >= num) {
          ASSERT_EQ(p.cu_q_lens[s + 1], p.cu_q_lens[s]);
        }
        tokens = p.cu_q_lens[s + 1];
      }
      ASSERT_EQ(tokens, static_cast<int32_t>(plan.writer.sizes().num_query_tokens));
      ASSERT_EQ(p.num_slots, pads ? 40 : plan.writer.sizes().num_query_tokens);
    }
  }
}

TEST(StepWriter, SendsWhatChangedOnly) {
  Plan plan(shape_of(3, true, false));
  const auto step = [&plan](const std::vector<std::vector<uint32_t>>& rows) {
    plan.begin();
    for (const auto& row : rows) plan.add(row, 4, 1);
    plan.end();
    return std::pair(plan.writer.sizes().changed_rows, plan.writer.sizes().changed_entries);
  };
  using Counts = std::pair<uint32_t, uint32_t>;
  EXPECT_EQ(step({{1, 2, 3, 4, 5}, {6}, {}}), Counts(2, 6));
  EXPECT_EQ(step({{1, 2, 3, 4, 5}, {6}, {}}), Counts(0, 0));
  EXPECT_EQ(step({{1, 2, 3, 4, 5, 7}, {6}, {}}), Counts(1, 1)) << "a new block at the end";
  EXPECT_EQ(step({{1, 9, 3, 8, 5, 7}, {6}, {}}), Counts(1, 3)) << "from the first to the last";
  EXPECT_EQ(step({{1, 9}, {4}, {5, 5}}), Counts(2, 3)) << "a shorter row is there already";
}

TEST(StepWriter, SizesAreThoseOfTheStep) {
  Plan plan(shape_of(3, true, true));
  for (const int32_t longest : {30, 8}) {
    plan.begin();
    plan.add({1, 2}, 8, 3);
    plan.add({1, 2, 3, 4, 5, 6, 7, 8}, longest, 2);
    plan.end();
    const StepSizes& sizes = plan.writer.sizes();
    EXPECT_EQ(sizes.num_seqs, 2u);
    EXPECT_EQ(sizes.num_query_tokens, 5u);
    EXPECT_EQ(sizes.max_context_len, static_cast<uint32_t>(longest));
    EXPECT_EQ(sizes.max_query_len, 3u);
  }
}

TEST(StepWriter, AKnownVersionIsNotRead) {
  Plan plan(shape_of(2, true, false));
  plan.begin();
  plan.add({1, 2}, 8, 1, 7);
  plan.end();
  plan.begin();
  plan.add({3, 4}, 8, 1, 7);  // a lie: equal versions have equal entries
  EXPECT_EQ(row_on_device(plan.end(), 0, 2), (std::vector<int32_t>{1, 2}));
  plan.begin();
  plan.add({3, 4}, 8, 1, 8);
  EXPECT_EQ(row_on_device(plan.end(), 0, 2), (std::vector<int32_t>{3, 4}));
}

TEST(StepWriter, AVersionOfZeroIsRead) {
  Plan plan(shape_of(2, true, false));
  plan.begin();
  plan.add({1, 2}, 8, 1, 0);
  EXPECT_EQ(row_on_device(plan.end(), 0, 2), (std::vector<int32_t>{1, 2}));
  plan.begin();
  plan.add({3, 2}, 8, 1, 0);
  EXPECT_EQ(row_on_device(plan.end(), 0, 2), (std::vector<int32_t>{3, 2}));
}

TEST(StepWriter, ForgetSendsAllAgain) {
  for (const uint64_t version : {0u, 5u}) {
    Plan plan(shape_of(2, true, false));
    plan.begin();
    plan.add({1, 2, 3}, 12, 1, version);
    plan.add({4}, 4, 1, version);
    plan.end();
    plan.lose_device();
    plan.writer.forget();
    plan.begin();
    plan.add({1, 2, 3}, 12, 1, version);
    plan.add({4}, 4, 1, version);
    const StepParams p = plan.end();
    EXPECT_EQ(row_on_device(p, 0, 3), (std::vector<int32_t>{1, 2, 3}));
    EXPECT_EQ(row_on_device(p, 1, 1), (std::vector<int32_t>{4}));
    EXPECT_EQ(plan.writer.sizes().changed_entries, 4u);
  }
}

TEST(StepWriter, ScheduleOfPaddedSequencesHasAnItemEach) {
  Plan plan(shape_of(4, true, true));
  plan.begin();
  plan.add({1}, 4, 1);
  plan.writer.schedule(2, 0);
  const int32_t* schedule = plan.staged(plan.layout().schedule);
  const int32_t* items = plan.staged(plan.layout().items);
  EXPECT_EQ(schedule[0], 4);
  EXPECT_EQ(schedule[1], static_cast<int32_t>(plan.writer.sizes().split_tokens));
  EXPECT_EQ(plan.writer.sizes().num_items, 4u);
  EXPECT_EQ(plan.writer.sizes().num_states, 0u);
  std::vector<int32_t> seqs;
  for (int i = 0; i < 4; ++i) {
    seqs.push_back(items[2 * i]);
    EXPECT_EQ(items[2 * i + 1], 0) << "nothing is known to be in the padding";
  }
  std::sort(seqs.begin(), seqs.end());
  EXPECT_EQ(seqs, (std::vector<int32_t>{0, 1, 2, 3}));
}

TEST(StepWriter, TheDeviceHasDecodesItemsWhetherRowsChangedOrNot) {
  StepShape shape = shape_of(4, true, false);
  shape.max_items = 10000;  // more room than is sent for nothing
  Plan plan(shape);
  for (const uint32_t id : {7u, 7u, 8u}) {
    plan.lose_device();
    plan.begin();
    plan.add({id}, 4, 1);
    plan.writer.schedule(2, 0);
    const StepParams p = plan.end();
    const auto* items =
        reinterpret_cast<const int32_t*>(static_cast<char*>(p.device) + plan.layout().items);
    ASSERT_EQ(plan.writer.sizes().num_items, 1u);
    EXPECT_EQ(items[0], 0);
    EXPECT_EQ(items[1], 0);
    EXPECT_LT(plan.sent.bytes(), 1024u);
  }
}

TEST(StepWriter, ScheduleOfAWindowLeavesOutWhatItHides) {
  StepShape shape = shape_of(1, true, false);
  shape.block_size = 1024;
  for (const uint32_t window : {0u, 64u}) {
    Plan plan(shape);
    plan.begin();
    plan.add({1, 2, 3, 4, 5, 6, 7, 8}, 8192, 1);
    plan.writer.schedule(8, window);
    const StepSizes& sizes = plan.writer.sizes();
    EXPECT_EQ(sizes.num_items > 1, window == 0);
    EXPECT_EQ(sizes.num_states, window == 0 ? sizes.num_items : 0);
  }
}

TEST(StepWriter, ARadixListIsSentWholeAndNothingBehindIt) {
  StepShape shape = shape_of(3, true, true);
  shape.max_radix_items = 10;
  shape.max_radix_terms = 10;
  Plan plan(shape);
  RadixListSizes sizes = {2, 3};
  RadixItem items[2] = {{1, 2, 3, 4, 5, 6, 7, 0}, {8, 9, 10, 11, 12, 13, 14, 1}};
  RadixRow rows[3] = {{20, 21}, {22, 23}, {24, 25}};
  RadixMerge merges[3] = {{30, 31, 32}, {33, 34, 35}, {-1, 0, 0}};
  int32_t terms[4] = {40, 41, 42, 43};
  RadixScheduleSizes made;
  made.num_items = 2;
  made.num_rows = 3;
  made.num_states = 9;
  made.num_terms = 4;
  const auto step = [&](const std::vector<uint32_t>& row, bool list) {
    plan.begin();
    plan.add(row, 4, 1);
    if (list) plan.writer.put_radix({&sizes, items, rows, merges, terms}, made, 3);
    return plan.end();
  };
  for (const uint32_t id : {7u, 7u, 8u}) {  // with its patch, without one, with one again
    plan.lose_device();
    const StepParams p = step({id}, true);
    char* base = static_cast<char*>(p.device);
    const RadixArrays on_device = step_radix(shape, plan.writer.sizes(), base);
    EXPECT_EQ(std::memcmp(on_device.sizes, &sizes, sizeof sizes), 0);
    EXPECT_EQ(std::memcmp(on_device.items, items, sizeof items), 0);
    EXPECT_EQ(std::memcmp(on_device.rows, rows, sizeof rows), 0);
    EXPECT_EQ(std::memcmp(on_device.merges, merges, sizeof merges), 0);
    EXPECT_EQ(std::memcmp(on_device.terms, terms, sizeof terms), 0);
    EXPECT_EQ(plan.writer.sizes().num_items, 2u);
    EXPECT_EQ(plan.writer.sizes().num_states, 9u);
    plan.begin();
    plan.add({id}, 4, 1);
    EXPECT_LE(plan.writer.end().bytes(), plan.layout().radix_sizes) << "no list, nothing changed";
  }
}

// One entry changes: the list's room is not sent for it.
TEST(StepWriter, WhatIsSentEndsWithWhatTheStepUses) {
  for (const bool pads : {false, true}) {
    StepShape shape = shape_of(3, true, pads);
    shape.max_query_tokens = 4096;
    shape.max_radix_items = 10000;
    shape.max_radix_terms = 5000;
    Plan plan(shape);
    const StepLayout& l = plan.layout();
    RadixListSizes sizes = {1, 1};
    RadixItem item = {0, 0, 4, 0, 1, RadixItem::kDirect, 0, 1};
    RadixRow row = {0, 3};
    RadixMerge merges[3] = {{0, 0, 0}, {-1, 0, 0}, {-1, 0, 0}};
    int32_t term = 0;
    RadixScheduleSizes made;
    made.num_items = made.num_rows = 1;
    for (const uint32_t id : {7u, 8u, 9u}) {
      const bool list = id != 8;
      plan.begin();
      plan.add({5, id}, 4, 1);
      if (list) plan.writer.put_radix({&sizes, &item, &row, merges, &term}, made, 3);
      const StepParams p = plan.end();
      EXPECT_EQ(row_on_device(p, 0, 2), (std::vector<int32_t>{5, static_cast<int32_t>(id)}));
      const uint64_t front = list ? l.radix_rows + 64 + sizeof item : l.radix_sizes;
      EXPECT_LE(plan.sent.bytes(), (front + 63) / 64 * 64 + 2 * 4) << id << pads;
      EXPECT_EQ(plan.sent.num, pads && list ? 2u : 1u) << "to the rows; items";
      if (!list) continue;
      const RadixArrays on_device =
          step_radix(shape, plan.writer.sizes(), static_cast<char*>(p.device));
      EXPECT_EQ(std::memcmp(on_device.items, &item, sizeof item), 0);
      EXPECT_EQ(std::memcmp(on_device.rows, &row, sizeof row), 0);
    }
  }
}

TEST(StepWriter, SaysWhereRowsBeginToDiffer) {
  StepShape shape = shape_of(3, false, false);
  const StepLayout layout = step_layout(shape);
  std::vector<int32_t> memory(layout.total_bytes / 4), tables(3 * 9);
  std::vector<uint64_t> versions(3);
  std::vector<uint32_t> first(3, 55);
  StepWriter writer;
  writer.bind(shape, tables.data(), versions.data(), first.data());
  const auto step = [&](const std::vector<std::vector<uint32_t>>& rows) {
    writer.begin(reinterpret_cast<char*>(memory.data()));
    for (const auto& row : rows)
      writer.add({row.data(), static_cast<uint32_t>(row.size()), 4, 1, 0});
    return first;
  };
  constexpr uint32_t kSame = UINT32_MAX;
  EXPECT_EQ(step({{1, 2, 3}, {4}, {}}), (std::vector<uint32_t>{0, 0, kSame}));
  EXPECT_EQ(step({{1, 2, 3}, {4, 5}, {6}}), (std::vector<uint32_t>{kSame, 1, 0}));
  EXPECT_EQ(step({{1, 7, 3}, {4}, {6}}), (std::vector<uint32_t>{1, kSame, kSame}));
}

TEST(StepWriter, NoScheduleIsNothingToWalkNorToMerge) {
  Plan plan(shape_of(2, true, false));
  plan.begin();
  plan.add({1}, 4, 1);
  plan.writer.no_schedule();
  const int32_t* schedule = plan.staged(plan.layout().schedule);
  EXPECT_EQ(schedule[0], 0);
  EXPECT_GE(schedule[1], 1 << 30) << "every sequence is one range";
}

TEST(BuildStepOnHost, PositionsAndSlots) {
  const int32_t context_lens[] = {10, 1, 7}, cu_q_lens[] = {0, 3, 5, 6};
  std::vector<int32_t> tables = {5, 6, 0x7fffffff, 7, -1, -1, 8, 9, -1}, positions(8, kDirty);
  std::vector<int64_t> slots(8, kDirty);
  StepParams p;
  p.num_seqs = 3;
  p.block_size = 4;
  p.num_slots = 7;
  p.context_lens = context_lens;
  p.cu_q_lens = cu_q_lens;
  p.tables = tables.data();
  p.row_stride = 3;
  p.slots = slots.data();
  p.positions = positions.data();
  build_step_on_host(p);
  const int64_t far = int64_t{0x7fffffff} * 4;
  EXPECT_EQ(positions, (std::vector<int32_t>{7, 8, 9, 0, 0, 6, 0, kDirty}));
  EXPECT_EQ(slots,
            (std::vector<int64_t>{6 * 4 + 3, far, far + 1, -1, 7 * 4, 9 * 4 + 2, -1, kDirty}))
      << "before the first position there is no slot, nor behind the last row";
}

}  // namespace
}  // namespace radixattn
