// The CUDA kernel of a plan's step, against the same on the host; and with contents that no plan
// writes.
#include <gtest/gtest.h>

#include <vector>

#include "attention_launchers.h"
#include "plan/step.h"
#include "support/rng.h"

namespace radixattn::test {
namespace {

constexpr int64_t kGuard = 77;

// A plan's memory as the device has it: what the host sends, then tables, slots and positions, and
// a guard behind each of these.
struct StepCase {
  std::vector<int32_t> context_lens, cu_q_lens = {0}, patch_begin = {0}, patch_first, patch_ids;
  std::vector<int32_t> tables, positions;
  std::vector<int64_t> slots;
  int64_t row_stride = 6;
  uint32_t block_size = 4;

  StepParams params(uint32_t num_slots) {
    StepParams p;
    p.num_seqs = static_cast<uint32_t>(context_lens.size());
    p.block_size = block_size;
    p.num_slots = num_slots;
    p.context_lens = context_lens.data();
    p.cu_q_lens = cu_q_lens.data();
    p.patch_begin = patch_begin.data();
    p.patch_first = patch_first.data();
    p.patch_ids = patch_ids.data();
    tables.resize(context_lens.size() * static_cast<size_t>(row_stride), -1);
    tables.push_back(kGuard);
    slots.assign(num_slots + 1, kGuard);
    positions.assign(num_slots + 1, kGuard);
    p.tables = tables.data();
    p.row_stride = row_stride;
    p.slots = slots.data();
    p.positions = positions.data();
    return p;
  }
  void add(int32_t context, int32_t query, int32_t first, const std::vector<int32_t>& ids) {
    context_lens.push_back(context);
    cu_q_lens.push_back(cu_q_lens.back() + query);
    patch_first.push_back(first);
    patch_ids.insert(patch_ids.end(), ids.begin(), ids.end());
    patch_begin.push_back(static_cast<int32_t>(patch_ids.size()));
  }
  void expect_guards() {
    EXPECT_EQ(tables.back(), kGuard);
    EXPECT_EQ(slots.back(), kGuard);
    EXPECT_EQ(positions.back(), kGuard);
  }
};

StepCase random_case(Rng* rng) {
  StepCase c;
  c.block_size = rng->pick({1u, 3u, 4u, 16u});
  c.row_stride = rng->between(1, 40);
  const auto longest = static_cast<uint32_t>(c.row_stride) * c.block_size;
  for (uint32_t n = rng->below(6); n > 0; --n) {
    const uint32_t context = rng->below(longest + 1);
    std::vector<int32_t> ids;
    for (uint32_t b = 0; b < (context + c.block_size - 1) / c.block_size; ++b)
      ids.push_back(static_cast<int32_t>(rng->below(1000)));
    // Some rows are on the device already.
    const bool known = rng->one_in(3);
    if (known) {
      c.tables.resize(c.context_lens.size() * static_cast<size_t>(c.row_stride), -1);
      c.tables.insert(c.tables.end(), ids.begin(), ids.end());
      ids.clear();
    }
    const uint32_t query = context == 0 ? rng->below(2) : rng->below(context + 1);
    c.add(static_cast<int32_t>(context), static_cast<int32_t>(query), 0, ids);
    c.tables.resize(c.context_lens.size() * static_cast<size_t>(c.row_stride), -1);
  }
  return c;
}

TEST(CudaStep, IsThatOfTheHost) {
  for_random_cases("cuda step", 100, [](uint64_t seed) {
    SCOPED_TRACE(::testing::Message() << "replay with RADIX_TEST_ONLY=" << seed);
    Rng rng(seed);
    StepCase device = random_case(&rng);
    StepCase host = device;
    const uint32_t num_slots = static_cast<uint32_t>(device.cu_q_lens.back()) + rng.below(40);
    const StepParams p = device.params(num_slots), q = host.params(num_slots);
    for (uint32_t s = 0; s < p.num_seqs; ++s) {
      for (int32_t i = q.patch_begin[s]; i < q.patch_begin[s + 1]; ++i)
        q.tables[s * q.row_stride + q.patch_first[s] + i - q.patch_begin[s]] = q.patch_ids[i];
    }
    build_step_on_host(q);
    set_schedule(static_cast<int>(rng.below(static_cast<uint32_t>(num_schedules()))));
    ASSERT_EQ(build_step_on_device(p), RADIX_OK) << last_message();
    set_schedule(0);
    EXPECT_EQ(device.tables, host.tables);
    EXPECT_EQ(device.slots, host.slots);
    EXPECT_EQ(device.positions, host.positions);
  });
}

TEST(CudaStep, ContentsThatLieTouchNothingElse) {
  StepCase c;
  c.add(20, 20, 0, {1, 2, 3, 4, 5});
  c.add(1 << 30, 5, 5, {7, 8, 9});  // past the row's end, and so are its positions
  c.add(-3, 2, -2, {1, 2, 3});      // before its begin
  c.add(8, 1 << 20, 0, {-1, -1});   // more rows than there are slots
  c.add(4, 0, 5, {4, 5, 6});        // past the last row's end
  const StepParams p = c.params(30);
  ASSERT_EQ(build_step_on_device(p), RADIX_OK) << last_message();
  c.expect_guards();
  const std::vector<int32_t> tables = {
      1,  2,  3,  4,  5,  -1,  //
      -1, -1, -1, -1, -1, 7,   // what of a patch lies in the row is written
      3,  -1, -1, -1, -1, -1,  //
      -1, -1, -1, -1, -1, -1,  //
      -1, -1, -1, -1, -1, 4,  kGuard};
  EXPECT_EQ(c.tables, tables);
  for (int i = 20; i < 30; ++i) EXPECT_EQ(c.slots[static_cast<size_t>(i)], -1) << i;
  EXPECT_EQ(c.positions[25], 0);
}

TEST(CudaStep, BlocksThatAreNoneHaveNoSlots) {
  StepCase c;
  c.add(12, 12, 0, {3, -1, INT32_MIN});
  const StepParams p = c.params(12);
  ASSERT_EQ(build_step_on_device(p), RADIX_OK) << last_message();
  for (size_t i = 0; i < 12; ++i) EXPECT_EQ(c.slots[i], i < 4 ? 12 + static_cast<int64_t>(i) : -1);
}

// Row bounds that lie write neither before the slots nor behind them.
TEST(CudaStep, RowsOutsideOfTheSlotsAreNotWritten) {
  StepCase c;
  c.add(8, 4, 0, {1, 2});
  c.add(8, 4, 0, {3, 4});
  c.cu_q_lens = {-6, -2, 40};
  const StepParams p = c.params(10);
  ASSERT_EQ(build_step_on_device(p), RADIX_OK) << last_message();
  c.expect_guards();
}

// Patches in the middle of rows, longer than a block of threads; slots beyond 32 bits.
TEST(CudaStep, PatchesLongerThanTheBlockAndLargeIds) {
  StepCase c;
  c.row_stride = 400;
  c.block_size = 16;
  std::vector<int32_t> ids(300);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = INT32_MAX - static_cast<int32_t>(i);
  c.add(0, 0, 0, {});
  c.add(400 * 16, 300 * 16, 100, ids);
  const StepParams p = c.params(300 * 16);
  ASSERT_EQ(build_step_on_device(p), RADIX_OK) << last_message();
  c.expect_guards();
  for (size_t i = 0; i < 300; ++i) EXPECT_EQ(c.tables[400 + 100 + i], ids[i]) << i;
  for (size_t t = 0; t < 300 * 16; ++t) {
    ASSERT_EQ(c.positions[t], static_cast<int32_t>(100 * 16 + t));
    ASSERT_EQ(c.slots[t], int64_t{ids[t / 16]} * 16 + static_cast<int64_t>(t % 16));
  }
}

TEST(CudaStep, NoSequencesAreAllPadding) {
  StepCase c;
  const StepParams p = c.params(300);
  ASSERT_EQ(build_step_on_device(p), RADIX_OK) << last_message();
  for (size_t i = 0; i < 300; ++i) ASSERT_EQ(c.slots[i], -1);
  c.expect_guards();
}

}  // namespace
}  // namespace radixattn::test
