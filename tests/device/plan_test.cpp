// Plans on the simulated device: what the device has when it gets to it, whatever the host did
// meanwhile.
#include <cuda_runtime_api.h>

#include <cstring>
#include <optional>

#include "device_fixture.h"
#include "plan_support.h"

namespace radixattn::test {
namespace {

using api_test::Choice;
using api_test::Engine;
using api_test::Plan;
using api_test::plan_config;

void read_device(void* host, const void* from, size_t bytes) { device::read(host, from, bytes); }

class DevicePlans : public Device {};

TEST_F(DevicePlans, HoldTheStepAfterAnyHistory) {
  for (uint32_t flags : {0u, uint32_t{RADIX_PLAN_BOUNDS}}) {
    for (uint64_t seed = 1; seed <= 8; ++seed) {
      SCOPED_TRACE("seed " + std::to_string(seed) + " flags " + std::to_string(flags));
      radix_config c = cuda_config();
      c.num_blocks = 48;
      c.max_blocks_per_request = 24;
      Ctx ctx(c);
      Engine engine(&ctx, seed);
      Plan plan(ctx, plan_config(6, 20, flags));
      void* stream = device::make_stream();
      for (int step = 0; step < 40; ++step) {
        for (uint32_t moves = engine.below(4); moves > 0; --moves) engine.move();
        const Choice choice = api_test::choose(&ctx, &engine, 6, 20);
        ASSERT_OK(plan.update(choice.reqs, choice.queries(), stream));
        if (engine.below(2) == 0) continue;  // the device gets to several steps at once
        device::finish();
        api_test::expect_step(&ctx, plan, choice.reqs, choice.queries(), 6, 20, flags != 0,
                              read_device);
        ASSERT_FALSE(HasFatalFailure()) << "step " << step;
      }
      device::finish();
    }
  }
}

TEST_F(DevicePlans, SendOnlyWhatChanged) {
  radix_config c = cuda_config();
  c.num_blocks = 600;
  Ctx ctx(c);
  const radix_req r = ctx.start(range(0, 2000));
  Plan plan(ctx, plan_config(1));
  ASSERT_OK(plan.update({r}, nullptr));
  const uint64_t whole = plan.info().upload_bytes;
  EXPECT_EQ(plan.info().changed_entries, 500u);
  EXPECT_GT(whole, 2000u);
  ASSERT_OK(plan.update({r}, nullptr));
  EXPECT_EQ(plan.info().changed_entries, 0u);
  EXPECT_LE(plan.info().upload_bytes, whole - 2000)
      << "room for patches behind a list, and no list";
  ASSERT_EQ(ctx.append(r, {1}).status, RADIX_OK);
  ASSERT_OK(plan.update({r}, nullptr));
  EXPECT_EQ(plan.info().changed_entries, 1u);
  device::finish();
}

// A plan for prompts, too, has room for many rows, states and items, of which decode uses few.
TEST_F(DevicePlans, BoundsSendNoRoomThatAStepDoesNotUse) {
  radix_config c = cuda_config();
  c.num_blocks = 600;
  Ctx ctx(c);
  const radix_req r = ctx.start(range(0, 2000));
  Plan plan(ctx, plan_config(4, 8192, RADIX_PLAN_BOUNDS));
  ASSERT_OK(plan.update({r}, nullptr));
  const int64_t copies = device::counters.copies, bytes = device::counters.copied_bytes;
  ASSERT_OK(plan.update({r}, nullptr));
  EXPECT_GT(plan.info().num_items, 0u);
  EXPECT_LT(plan.info().upload_bytes, 48u << 10) << "of rows alone there is room for 64 KiB";
  if (device::kSimulated) {
    EXPECT_EQ(static_cast<uint64_t>(device::counters.copied_bytes - bytes),
              plan.info().upload_bytes);
    EXPECT_LE(device::counters.copies - copies, 4);
  }
  device::finish();
  api_test::expect_step(&ctx, plan, {r}, nullptr, 4, 8192, true, read_device);
}

#ifndef RADIX_REAL_DEVICE

TEST_F(DevicePlans, StagingIsNotRefilledBeforeItsCopyIsDone) {
  Ctx ctx(cuda_config());
  const radix_req a = ctx.start(range(0, 9)), b = ctx.start(range(50, 53));
  Plan plan(ctx, plan_config(2));
  void* stream = device::make_stream();
  ASSERT_OK(plan.update({a}, nullptr, stream));
  ASSERT_OK(plan.update({b}, nullptr, stream));
  EXPECT_EQ(device::counters.waits, 0);
  EXPECT_FAILS(RADIX_E_BUSY, "upload",
               plan.update({a, b}, nullptr, stream, RADIX_PLAN_UPDATE_NO_WAIT));
  EXPECT_EQ(plan.info().num_seqs, 1u);
  EXPECT_EQ(device::counters.waits, 0);
  ASSERT_OK(plan.update({a, b}, nullptr, stream));
  EXPECT_EQ(device::counters.waits, 1) << "the device was two uploads behind";
  device::finish();
  api_test::expect_step(&ctx, plan, {a, b}, nullptr, 2, 2, false, read_device);
  ASSERT_OK(plan.update({b}, nullptr, stream, RADIX_PLAN_UPDATE_NO_WAIT));
  device::finish();
}

TEST_F(DevicePlans, AFailedUploadIsMadeGood) {
  Ctx ctx(cuda_config());
  const radix_req r = ctx.start(range(0, 9));
  Plan plan(ctx, plan_config(2));
  const radix_plan_info none = plan.info();
  ASSERT_OK(plan.update({r}, nullptr));
  EXPECT_EQ(plan.info().tokens_seen, 9u);
  device::finish();
  ASSERT_EQ(ctx.append(r, range(20, 30)).status, RADIX_OK);
  for (const bool copy : {true, false}) {
    (copy ? device::settings.failing_copy : device::settings.failing_launch) =
        cudaErrorLaunchOutOfResources;
    EXPECT_FAILS(RADIX_E_DEVICE, "plan_update", plan.update({r}, nullptr));
    radix_attn a = sized<radix_attn>();
    EXPECT_FAILS(RADIX_E_STATE, "no step", radix_plan_attn(plan, &a));
    const radix_plan_info info = plan.info();
    EXPECT_EQ(std::memcmp(&info, &none, sizeof(info)), 0) << "neither this step nor the last";
    ASSERT_OK(plan.update({r}, nullptr));
    EXPECT_EQ(plan.info().changed_entries, 5u) << "all of the row";
    device::finish();
    api_test::expect_step(&ctx, plan, {r}, nullptr, 2, 2, false, read_device);
  }
}

TEST_F(DevicePlans, AreNotUpdatedInsideOfAGraph) {
  Ctx ctx(cuda_config());
  const radix_req r = ctx.start(range(0, 9));
  Plan plan(ctx, plan_config(2));
  void* stream = device::make_stream();
  device::settings.capturing = stream;
  EXPECT_FAILS(RADIX_E_STATE, "captured", plan.update({r}, nullptr, stream));
  EXPECT_FALSE(device::has_work());
  for (int i = 0; i < 3; ++i) ASSERT_OK(plan.update({r}, nullptr, device::make_stream()));
  device::settings.capturing = nullptr;
  device::finish();
}

TEST_F(DevicePlans, ACopyWhoseEndNobodySeesIsWaitedFor) {
  Ctx ctx(cuda_config());
  const radix_req r = ctx.start(range(0, 9));
  Plan plan(ctx, plan_config(2));
  device::settings.failing_record = cudaErrorInvalidResourceHandle;
  EXPECT_FAILS(RADIX_E_DEVICE, "plan_update", plan.update({r}, nullptr));
  EXPECT_FALSE(device::has_work()) << "its buffer is filled again by the next update";
  ASSERT_OK(plan.update({r}, nullptr));
  device::finish();
  api_test::expect_step(&ctx, plan, {r}, nullptr, 2, 2, false, read_device);
}

TEST_F(DevicePlans, EveryAllocationMayFail) {
  Ctx ctx(cuda_config());
  const radix_plan_config c = plan_config(2);
  for (int64_t n = 0;; ++n) {
    device::settings.failing_malloc = device::counters.allocations + n;
    radix_plan* plan = nullptr;
    const radix_status st = radix_plan_create(ctx, &c, &plan);
    device::settings.failing_malloc = -1;
    if (st == RADIX_OK) {
      EXPECT_EQ(n, 5) << "the device's memory, and twice pinned memory and an event";
      radix_plan_destroy(&plan);
      break;
    }
    ASSERT_EQ(st, RADIX_E_NOMEM);
    ASSERT_EQ(plan, nullptr);
    ASSERT_EQ(device::counters.pinned_live, 0);
    ASSERT_EQ(device::counters.events_live, 0);
  }
}

#endif  // RADIX_REAL_DEVICE

TEST_F(DevicePlans, MemoryOfTheCaller) {
  Ctx ctx(cuda_config());
  const radix_req r = ctx.start(range(0, 9));
  radix_plan_config c = plan_config(2);
  ASSERT_OK(radix_plan_bytes(ctx, &c, &c.memory_size));
  c.memory = device::allocate(c.memory_size);
  {
    Plan plan(ctx, c);
    ASSERT_OK(plan.update({r}, nullptr));
    device::finish();
    api_test::expect_step(&ctx, plan, {r}, nullptr, 2, 2, false, read_device);
  }
  device::release(c.memory);
}

// ---- decode along the plan's list ---------------------------------------------------------------

constexpr uint32_t kHeads = 4, kDim = 32;

// Contexts on both sides with the same contents and requests.
class DevicePlanDecode : public Device {
 protected:
  void SetUp() override {
    Device::SetUp();
    radix_config c = cuda_config();
    c.num_blocks = 700;
    gpu_.emplace(c);
    c.device = RADIX_DEV_CPU;
    cpu_.emplace(c);
    for (uint32_t layer = 0; layer < 2; ++layer) fill(layer);
  }
  void TearDown() override {
    gpu_.reset();
    cpu_.reset();
    Device::TearDown();
  }
  void fill(uint32_t layer) {
    radix_tensor g[2], c[2];
    ASSERT_OK(radix_ctx_kv_tensor(*gpu_, layer, &g[0], &g[1]));
    ASSERT_OK(radix_ctx_kv_tensor(*cpu_, layer, &c[0], &c[1]));
    for (int i = 0; i < 2; ++i) {
      std::vector<uint16_t> numbers(700 * 4 * 2 * kDim);  // f16 around 1, both signs
      for (size_t j = 0; j < numbers.size(); ++j)
        numbers[j] = static_cast<uint16_t>((j % 3 == 0 ? 0x8000 : 0) + 0x3800 + j * 7919 % 0x800);
      device::write(g[i].data, numbers.data(), numbers.size() * 2);
      std::memcpy(c[i].data, numbers.data(), numbers.size() * 2);
    }
  }
  radix_req start(int32_t begin, int32_t end) {
    const radix_req of_cpu = cpu_->start(range(begin, end));
    EXPECT_EQ(gpu_->start(range(begin, end)), of_cpu);
    return of_cpu;
  }
  std::vector<float> queries(uint32_t n) {
    std::vector<float> q(n * kHeads * kDim);
    for (uint32_t i = 0; i < q.size(); ++i) q[i] = api_test::value(3, i);
    return q;
  }
  // Decode on the CPU: out, then lse.
  std::vector<float> expected(const std::vector<radix_req>& reqs, uint32_t window) {
    const auto n = static_cast<uint32_t>(reqs.size());
    if (n == 0) return {};
    Plan plan(*cpu_, plan_config(n));
    EXPECT_OK(plan.update(reqs, nullptr));
    radix_attn a = plan.attn();
    std::vector<float> q = queries(n), result(n * kHeads * (kDim + 1));
    a.window = window;
    a.q = tensor(q.data(), RADIX_F32, {n, kHeads, kDim});
    a.out = tensor(result.data(), RADIX_F32, {n, kHeads, kDim});
    a.lse = tensor(result.data() + n * kHeads * kDim, RADIX_F32, {n, kHeads});
    EXPECT_OK(radix_paged_attention_launch(*cpu_, &a, nullptr));
    return result;
  }
  struct Launch {
    radix_attn attn;
    float* result;
    uint32_t rows;
  };
  Launch launch_of(const Plan& plan, uint32_t window) {
    Launch l = {plan.attn(), nullptr, 0};
    l.rows = l.attn.num_seqs;
    l.result = up(std::vector<float>(l.rows * kHeads * (kDim + 1), 7.f));
    l.attn.window = window;
    l.attn.q = tensor(up(queries(l.rows)), RADIX_F32, {l.rows, kHeads, kDim});
    l.attn.out = tensor(l.result, RADIX_F32, {l.rows, kHeads, kDim});
    l.attn.lse = tensor(l.result + l.rows * kHeads * kDim, RADIX_F32, {l.rows, kHeads});
    return l;
  }
  // The device's result is the CPU's for the first rows, and empty behind them.
  void expect_result(const Launch& l, const std::vector<radix_req>& reqs) {
    device::finish();
    const std::vector<float> got = down(l.result, l.rows * kHeads * (kDim + 1));
    const std::vector<float> want = expected(reqs, l.attn.window);
    const auto n = static_cast<uint32_t>(reqs.size());
    for (uint32_t i = 0; i < l.rows * kHeads * kDim; ++i)
      ASSERT_NEAR(got[i], i < n * kHeads * kDim ? want[i] : 0.f, 4e-3f) << i;
    const float* lse = got.data() + l.rows * kHeads * kDim;
    for (uint32_t i = 0; i < l.rows * kHeads; ++i) {
      const float w = i < n * kHeads ? want[n * kHeads * kDim + i] : -INFINITY;
      if (w == -INFINITY) {
        ASSERT_EQ(lse[i], w) << i;
      } else {
        ASSERT_NEAR(lse[i], w, 4e-3f) << i;
      }
    }
  }

  std::optional<Ctx> gpu_, cpu_;
};

TEST_F(DevicePlanDecode, GivesWhatTheCpuGives) {
  const std::vector<radix_req> reqs = {start(0, 1500), start(2000, 2010), start(3000, 3700),
                                       start(0, 0)};
  for (const uint32_t window : {0u, 300u}) {
    for (const uint32_t planned_window : {0u, window}) {
      radix_plan_config c = plan_config(5);
      c.window = planned_window;
      Plan plan(*gpu_, c);
      void* stream = device::make_stream();
      ASSERT_OK(plan.update(reqs, nullptr, stream));
      const radix_plan_info info = plan.info();
      EXPECT_GT(info.num_items, 4u);
      EXPECT_GT(info.num_states, 0u);
      const Launch l = launch_of(plan, window);
      const int64_t allocations = device::counters.allocations;
      ASSERT_OK(radix_paged_attention_launch(*gpu_, &l.attn, stream));
      EXPECT_EQ(device::counters.allocations, allocations) << "launches allocate nothing";
      expect_result(l, reqs);
    }
  }
}

TEST_F(DevicePlanDecode, NothingIsMergedWhenNothingIsCut) {
  const std::vector<radix_req> reqs = {start(0, 100), start(2000, 2010)};
  Plan plan(*gpu_, plan_config(2));
  ASSERT_OK(plan.update(reqs, nullptr));
  EXPECT_EQ(plan.info().num_states, 0u);
  const Launch l = launch_of(plan, 0);
  const int64_t before = device::counters.launches;
  ASSERT_OK(radix_paged_attention_launch(*gpu_, &l.attn, nullptr));
  if (device::kSimulated) {
    EXPECT_EQ(device::counters.launches, before + 1);
  }
  expect_result(l, reqs);
}

// What a captured graph does: one launch's arguments, the arrays of every later step.
TEST_F(DevicePlanDecode, BoundsServeEveryStep) {
  const radix_req a = start(0, 1500), b = start(2000, 2010), c = start(3000, 3900);
  Plan plan(*gpu_, plan_config(4, 0, RADIX_PLAN_BOUNDS));
  void* stream = device::make_stream();
  ASSERT_OK(plan.update({b}, nullptr, stream));
  const Launch l = launch_of(plan, 0);
  for (const std::vector<radix_req>& reqs :
       {std::vector<radix_req>{b}, {a, b, c}, {c, a}, {}, {b, c, a, b}}) {
    ASSERT_OK(plan.update(reqs, nullptr, stream));
    ASSERT_OK(device::run_as_graph(
        stream, [&] { return radix_paged_attention_launch(*gpu_, &l.attn, stream); }));
    expect_result(l, reqs);
    ASSERT_FALSE(HasFatalFailure()) << reqs.size() << " sequences";
  }
}

// Replayed on the wrong kind of step a graph's decode walks nothing and merges nothing.
TEST_F(DevicePlanDecode, APrefillStepHasNoWorkList) {
  const radix_req a = start(0, 1500);
  Plan plan(*gpu_, plan_config(2, 8, RADIX_PLAN_BOUNDS));
  const std::vector<int32_t> q_lens = {3};
  ASSERT_OK(plan.update({a}, nullptr));
  const radix_attn decode = plan.attn();
  ASSERT_OK(plan.update({a}, &q_lens));
  device::finish();
  // What the list begins with stands 64 bytes before the lengths.
  const std::vector<int32_t> schedule = down(decode.context_lens - 16, 2);
  EXPECT_EQ(schedule, (std::vector<int32_t>{0, 1 << 30}));
}

// Else the rows that q lacks would have no results, and nobody would know.
TEST_F(DevicePlanDecode, APrefillNeedsARowForEachQueryToken) {
  const std::vector<radix_req> reqs = {start(0, 100), start(2000, 2010)};
  const std::vector<int32_t> q_lens = {8, 8};
  for (const uint32_t flags : {0u, static_cast<uint32_t>(RADIX_PLAN_BOUNDS)}) {
    Plan plan(*gpu_, plan_config(2, 32, flags));
    ASSERT_OK(plan.update(reqs, &q_lens));
    const uint32_t needed = flags == 0 ? 16 : 32;
    for (const uint32_t rows : {needed - 1, needed}) {
      Launch l = {plan.attn(), up(std::vector<float>(rows * kHeads * kDim, 7.f)), rows};
      l.attn.q = tensor(up(queries(rows)), RADIX_F32, {rows, kHeads, kDim});
      l.attn.out = tensor(l.result, RADIX_F32, {rows, kHeads, kDim});
      if (rows < needed) {
        EXPECT_FAILS(RADIX_E_INVALID, "q has", radix_prefill_launch(*gpu_, &l.attn, nullptr));
      } else {
        ASSERT_OK(radix_prefill_launch(*gpu_, &l.attn, nullptr));
      }
      device::finish();
    }
  }
}

TEST_F(DevicePlanDecode, TheWorkspaceCallKnowsTheList) {
  const radix_req a = start(0, 1500);
  Plan plan(*gpu_, plan_config(1));
  ASSERT_OK(plan.update({a}, nullptr));
  Launch l = launch_of(plan, 0);
  ASSERT_OK(radix_attn_workspace(*gpu_, &l.attn, &l.attn.workspace_size));
  ASSERT_OK(radix_paged_attention_launch(*gpu_, &l.attn, nullptr));
  expect_result(l, {a});
}

TEST_F(DevicePlanDecode, AWorkspaceOfTheCallersMustHoldTheList) {
  const radix_req a = start(0, 1500);
  Plan plan(*gpu_, plan_config(1));
  ASSERT_OK(plan.update({a}, nullptr));
  Launch l = launch_of(plan, 0);
  l.attn.workspace_size = 64;
  EXPECT_FAILS(RADIX_E_BUFFER, "workspace_size",
               radix_paged_attention_launch(*gpu_, &l.attn, nullptr));
  device::finish();
}

// ---- states and zeroes --------------------------------------------------------------------------

TEST_F(DevicePlanDecode, StatesOfTwoHalvesMakeTheWhole) {
  const radix_req r = start(0, 64);
  const std::vector<float> whole = expected({r}, 0);
  std::vector<int32_t> row = gpu_->row(r), lens = {32};
  std::vector<radix_tensor> outs, lses;
  for (int half = 0; half < 2; ++half) {
    radix_attn a = sized<radix_attn>();
    a.num_seqs = 1;
    a.max_context_len = 32;
    a.q = tensor(up(queries(1)), RADIX_F32, {1, kHeads, kDim});
    a.out = tensor(up(std::vector<float>(kHeads * kDim)), RADIX_F32, {1, kHeads, kDim});
    a.lse = tensor(up(std::vector<float>(kHeads)), RADIX_F32, {1, kHeads});
    a.block_tables = up(std::vector<int32_t>(row.begin() + half * 8, row.begin() + half * 8 + 8));
    a.block_table_stride = 8;
    a.context_lens = up(lens);
    uint64_t bytes = 0;
    ASSERT_OK(radix_attn_workspace(*gpu_, &a, &bytes));
    a.workspace = up(std::vector<char>(bytes + 64));
    a.workspace_size = bytes;
    ASSERT_OK(radix_paged_attention_launch(*gpu_, &a, nullptr));
    outs.push_back(a.out);
    lses.push_back(a.lse);
  }
  ASSERT_OK(
      radix_merge_states_launch(*gpu_, outs.data(), lses.data(), 2, &outs[0], &lses[0], nullptr));
  device::finish();
  const auto got = down(static_cast<float*>(outs[0].data), kHeads * kDim);
  for (uint32_t i = 0; i < kHeads * kDim; ++i) EXPECT_NEAR(got[i], whole[i], 4e-3f);
  const auto lse = down(static_cast<float*>(lses[0].data), kHeads);
  for (uint32_t h = 0; h < kHeads; ++h) EXPECT_NEAR(lse[h], whole[kHeads * kDim + h], 4e-3f);
}

TEST_F(DevicePlanDecode, ZeroesOfBlocks) {
  std::vector<radix_block> blocks;
  for (int32_t i = 0; i < 699; ++i) blocks.push_back(i);
  ASSERT_OK(radix_zero_blocks(*gpu_, blocks.data(), 699, nullptr));
  std::fill(blocks.begin(), blocks.end(), 699);
  device::finish();
  radix_tensor k = {};
  ASSERT_OK(radix_ctx_kv_tensor(*gpu_, 1, &k, nullptr));
  const auto numbers = down(static_cast<uint16_t*>(k.data), 700 * 4 * 2 * kDim);
  for (size_t i = 0; i < numbers.size(); ++i)
    ASSERT_EQ(numbers[i] == 0, i < size_t{699} * 4 * 2 * kDim) << i;
  blocks[3] = 700;
  EXPECT_FAILS(RADIX_E_INVALID, "700", radix_zero_blocks(*gpu_, blocks.data(), 5, nullptr));
  EXPECT_FALSE(device::has_work());
}

}  // namespace
}  // namespace radixattn::test
