// The CUDA backend through the public API, on the simulated device: what it enqueues is right
// whenever and in whatever order the device gets to it.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstring>
#include <optional>
#include <vector>

#include "device_fixture.h"
#include "tree_support.h"

namespace radixattn::test {
namespace {

// K/V of every block of a context: bytes by (layer, k or v).
std::vector<std::vector<uint8_t>> kv_of(radix_ctx* ctx) {
  std::vector<std::vector<uint8_t>> all;
  radix_config c = sized<radix_config>();
  EXPECT_OK(radix_ctx_get_config(ctx, &c));
  for (uint32_t layer = 0; layer < c.num_layers; ++layer) {
    radix_tensor t[2];
    EXPECT_OK(radix_ctx_kv_tensor(ctx, layer, &t[0], &t[1]));
    for (const radix_tensor& x : t) {
      const uint64_t element = x.dtype == RADIX_F32 ? 4 : x.dtype == RADIX_F16 ? 2 : 1;
      all.emplace_back(static_cast<size_t>(x.shape[0] * x.stride[0]) * element);
      if (c.device == RADIX_DEV_CUDA) {
        device::read(all.back().data(), x.data, all.back().size());
      } else {
        std::memcpy(all.back().data(), x.data, all.back().size());
      }
    }
  }
  return all;
}

void fill_kv(radix_ctx* ctx, uint32_t seed) {
  radix_config c = sized<radix_config>();
  EXPECT_OK(radix_ctx_get_config(ctx, &c));
  for (uint32_t layer = 0; layer < c.num_layers; ++layer) {
    radix_tensor t[2];
    EXPECT_OK(radix_ctx_kv_tensor(ctx, layer, &t[0], &t[1]));
    for (const radix_tensor& x : t) {
      std::vector<uint16_t> data(static_cast<size_t>(x.shape[0] * x.stride[0]));
      for (size_t i = 0; i < data.size(); ++i)  // f16 numbers around 1
        data[i] = static_cast<uint16_t>(0x3800 + (seed * 977 + layer * 131 + i * 7919) % 0x800);
      ++seed;
      if (c.device == RADIX_DEV_CUDA) {
        device::write(x.data, data.data(), data.size() * 2);
      } else {
        std::memcpy(x.data, data.data(), data.size() * 2);
      }
    }
  }
}

// ---- devices and contexts -----------------------------------------------------------------------

// Refused before anything is enqueued: what a grid has no room for.
TEST_F(Device, LaunchesLargerThanAGridAreRefused) {
  Ctx ctx(cuda_config());
  std::vector<char> room(1 << 12);
  char* memory = up(room);
  radix_attn d = sized<radix_attn>();
  d.num_seqs = 65536;
  d.max_context_len = 1;
  d.q = tensor(memory, RADIX_F32, {65536, 2, 32}, {0, 32, 1});
  d.out = tensor(memory + 256, RADIX_F32, {65536, 2, 32});
  d.k_cache = d.v_cache = tensor(memory, RADIX_F32, {1, 4, 2, 32}, {0, 64, 32, 1});
  d.out.data = reinterpret_cast<void*>(uintptr_t{1} << 60);  // nobody goes there
  d.block_tables = d.context_lens = reinterpret_cast<const int32_t*>(memory);
  d.block_table_stride = 0;
  EXPECT_FAILS(RADIX_E_UNSUPPORTED, "num_seqs is 65536: expected at most 65535 with f32",
               radix_paged_attention_launch(ctx, &d, nullptr));
  const radix_tensor out = tensor(memory, RADIX_F16, {0, 262141, 32});
  const radix_tensor lse = tensor(memory, RADIX_F32, {0, 262141});
  EXPECT_FAILS(RADIX_E_UNSUPPORTED, "out has 262141 heads: expected at most 262140",
               radix_merge_states_launch(ctx, &out, &lse, 1, &out, nullptr, nullptr));
}

#ifndef RADIX_REAL_DEVICE

TEST_F(Device, AnyErrorOfTheCountMeansNoDevice) {
  int32_t count = -1;
  EXPECT_OK(radix_device_count(RADIX_DEV_CUDA, &count));
  EXPECT_EQ(count, 2);
  for (const int32_t error : {int32_t{cudaErrorInsufficientDriver}, int32_t{cudaErrorNoDevice},
                              int32_t{cudaErrorUnknown}}) {
    device::settings.count_error = error;
    count = -1;
    EXPECT_OK(radix_device_count(RADIX_DEV_CUDA, &count));
    EXPECT_EQ(count, 0);
    const radix_config c = cuda_config();
    radix_ctx* ctx = nullptr;
    EXPECT_FAILS(RADIX_E_NO_DEVICE, "no device", radix_ctx_create(&c, &ctx));
    EXPECT_EQ(ctx, nullptr);
  }
}

TEST_F(Device, ConfigurationsAreChecked) {
  radix_ctx* ctx = nullptr;
  radix_config c = cuda_config();
  c.device_index = 2;
  EXPECT_FAILS(RADIX_E_NO_DEVICE, "device_index is 2", radix_ctx_create(&c, &ctx));
  c.device_index = -1;
  EXPECT_FAILS(RADIX_E_NO_DEVICE, "device_index is -1", radix_ctx_create(&c, &ctx));
  c = cuda_config();
  c.num_threads = 4;
  EXPECT_FAILS(RADIX_E_INVALID, "num_threads", radix_ctx_create(&c, &ctx));
  c = cuda_config(RADIX_I8);
  EXPECT_FAILS(RADIX_E_UNSUPPORTED, "kv_dtype is 6", radix_ctx_create(&c, &ctx));
  device::settings.capability = 70;
  c = cuda_config();
  EXPECT_FAILS(RADIX_E_UNSUPPORTED, "compute capability 7.0", radix_ctx_create(&c, &ctx));
  device::settings.capability = 90;
  device::settings.failing_malloc = device::counters.allocations;
  EXPECT_FAILS(RADIX_E_NOMEM, "on device 0", radix_ctx_create(&c, &ctx));
  EXPECT_EQ(radix_error_detail(), int32_t{cudaErrorMemoryAllocation});
  EXPECT_EQ(ctx, nullptr);
}

TEST_F(Device, ContextsOfTwoDevicesLiveSideBySideAndTheCallersDeviceStays) {
  ASSERT_EQ(cudaSetDevice(1), cudaSuccess);
  radix_config a = cuda_config(), b = cuda_config(RADIX_F8_E4M3);
  b.device_index = 1;
  {
    const Ctx first(a), second(b);
    radix_tensor k = {};
    ASSERT_OK(radix_ctx_kv_tensor(second, 1, &k, nullptr));
    EXPECT_EQ(k.device, RADIX_DEV_CUDA);
    EXPECT_EQ(k.device_index, 1);
    EXPECT_EQ(k.dtype, RADIX_F8_E4M3);
    const radix_block pair[] = {0, 1};
    ASSERT_OK(radix_copy_blocks(first, pair, 1, nullptr));
    EXPECT_EQ(device::counters.launched_on, 0);
    EXPECT_EQ(device::current(), 1);
    ASSERT_OK(radix_copy_blocks(second, pair, 1, nullptr));
    EXPECT_EQ(device::counters.launched_on, 1);
    device::finish();
  }
  EXPECT_EQ(device::current(), 1);
  EXPECT_EQ(device::counters.frees, 2);
}

#endif  // RADIX_REAL_DEVICE

struct DeviceMemory {
  int64_t blocks = 0;
  radix_allocator callbacks() {
    radix_allocator a = sized<radix_allocator>();
    a.user = this;
    a.alloc = [](void* user, size_t size, size_t) {
      ++static_cast<DeviceMemory*>(user)->blocks;
      return device::allocate(size);
    };
    a.free = [](void* user, void* p, size_t, size_t) {
      --static_cast<DeviceMemory*>(user)->blocks;
      device::release(p);
    };
    return a;
  }
};

TEST_F(Device, MemoryOfTheCallerAndOfHisAllocator) {
  DeviceMemory memory;
  const radix_allocator callbacks = memory.callbacks();
  radix_config c = cuda_config();
  c.device_alloc = &callbacks;
  {
    const Ctx ctx(c);
    EXPECT_EQ(memory.blocks, 1);
    EXPECT_EQ(device::counters.allocations, 0);
  }
  EXPECT_EQ(memory.blocks, 0);
  c.device_alloc = nullptr;
  uint64_t bytes = 0;
  ASSERT_OK(radix_ctx_kv_bytes(&c, &bytes));
  c.kv_memory = device::allocate(bytes);
  c.kv_memory_size = bytes;
  {
    const Ctx ctx(c);
    radix_tensor k = {};
    ASSERT_OK(radix_ctx_kv_tensor(ctx, 0, &k, nullptr));
    EXPECT_EQ(k.data, c.kv_memory);
  }
  EXPECT_EQ(device::counters.allocations, 0);
  device::release(c.kv_memory);
}

// ---- copies and swaps ---------------------------------------------------------------------------

// The same contents and calls on both; host arrays are spoilt before the device gets to them.
class DeviceCopies : public Device {
 protected:
  void SetUp() override {
    Device::SetUp();
    radix_config c = cuda_config();
    gpu_.emplace(c);
    c.device = RADIX_DEV_CPU;
    cpu_.emplace(c);
    fill_kv(*gpu_, 1);
    fill_kv(*cpu_, 1);
  }
  void TearDown() override {
    gpu_.reset();
    cpu_.reset();
    Device::TearDown();
  }
  void expect_same() {
    device::finish();
    EXPECT_TRUE(kv_of(*gpu_) == kv_of(*cpu_));
  }
  std::optional<Ctx> gpu_, cpu_;
};

TEST_F(DeviceCopies, ListsOfBlocksInTheirOrder) {
  std::vector<radix_block> pairs = {0, 1, 1, 2, 2, 3, 9, 0, 4, 4, 5, 6, 7, 5};
  ASSERT_OK(radix_copy_blocks(*cpu_, pairs.data(), 7, nullptr));
  ASSERT_OK(radix_copy_blocks(*gpu_, pairs.data(), 7, nullptr));
  std::fill(pairs.begin(), pairs.end(), 15);
  if (device::kSimulated) {
    EXPECT_TRUE(device::has_work()) << "nothing may wait";
  }
  expect_same();
}

TEST_F(DeviceCopies, Operations) {
  std::vector<radix_op> ops = {{RADIX_OP_COPY, 0, 8, 3},
                               {RADIX_OP_COPY, 8, 9, 2},
                               {RADIX_OP_COPY, 5, 6, 0},
                               {RADIX_OP_COPY, 1, 2, 4}};
  ASSERT_OK(radix_run_ops(*cpu_, ops.data(), 4, nullptr));
  ASSERT_OK(radix_run_ops(*gpu_, ops.data(), 4, nullptr));
  std::fill(ops.begin(), ops.end(), radix_op{});
  expect_same();
}

TEST_F(DeviceCopies, SwapsToTheHostAndBack) {
  const std::vector<radix_block> blocks = {3, 4, 5, 1, 15, 14};
  uint64_t bytes = 0;
  ASSERT_OK(radix_swap_bytes(*gpu_, 6, &bytes));
  std::vector<uint8_t> of_gpu(bytes), of_cpu(bytes);
  ASSERT_OK(radix_swap_out(*cpu_, blocks.data(), 6, of_cpu.data(), bytes, nullptr));
  std::vector<radix_block> list = blocks;
  ASSERT_OK(radix_swap_out(*gpu_, list.data(), 6, of_gpu.data(), bytes, nullptr));
  std::fill(list.begin(), list.end(), 0);
  if (device::kSimulated) {
    EXPECT_EQ(device::counters.copies, 2 * 2 * 4) << "a run of neighbours is one copy";
  }
  device::finish();
  EXPECT_TRUE(of_gpu == of_cpu);
  const std::vector<radix_block> elsewhere = {0, 2, 6, 7, 8, 9};
  ASSERT_OK(radix_swap_in(*cpu_, elsewhere.data(), 6, of_cpu.data(), bytes, nullptr));
  ASSERT_OK(radix_swap_in(*gpu_, elsewhere.data(), 6, of_gpu.data(), bytes, nullptr));
  expect_same();
}

TEST_F(DeviceCopies, BadBlocksEnqueueNothing) {
  const radix_block pairs[] = {0, 1, 2, 16};
  EXPECT_FAILS(RADIX_E_INVALID, "pair 1", radix_copy_blocks(*gpu_, pairs, 2, nullptr));
  const radix_op op = {RADIX_OP_COPY, 0, 1, 5};
  EXPECT_FAILS(RADIX_E_INVALID, "num_tokens is 5", radix_run_ops(*gpu_, &op, 1, nullptr));
  uint8_t host[1];
  EXPECT_FAILS(RADIX_E_BUFFER, "cap is 1", radix_swap_out(*gpu_, pairs, 1, host, 1, nullptr));
  EXPECT_FALSE(device::has_work());
}

// ---- lookups in the tree ------------------------------------------------------------------------

TEST_F(Device, LooksUpBatchesOfPromptsAsPeekDoes) {
  constexpr int64_t kStride = 6;
  Ctx ctx(cuda_config());
  for (const api_test::Tokens& t :
       {range(0, 12), range(0, 7), range(5, 20), range(40, 48), range(0, 4)}) {
    const radix_req r = ctx.start(t);
    ctx.commit(r);
    ctx.free(r);
  }
  std::vector<api_test::Tokens> prompts = {{}, {1, 2}, range(40, 49), range(5, 15)};
  for (int32_t n = 1; n < 14; ++n) prompts.push_back(range(0, n));
  const api_test::Tree tree = api_test::export_tree(ctx);
  api_test::Batch batch(prompts, kStride);
  radix_tree_view t = tree.view;
  t.parent = t.depth_blocks = nullptr;
  t.child_begin = up(tree.child_begin);
  t.block_begin = up(tree.block_begin);
  t.block_ids = up(tree.block_ids);
  t.tokens = up(tree.tokens);
  radix_match_batch d = batch.desc(kStride);
  d.prompts = up(batch.prompts);
  d.prompt_begin = up(batch.begin);
  d.out_nodes = up(batch.nodes);
  d.out_tokens = up(batch.tokens);
  d.out_tables = up(batch.tables);
  ASSERT_OK(radix_match_batch_launch(ctx, &t, &d, device::make_stream()));
  EXPECT_TRUE(device::has_work()) << "nothing may wait";
  EXPECT_EQ(device::counters.waits, 0);
  device::finish();
  batch.nodes = down(d.out_nodes, batch.nodes.size());
  batch.tokens = down(d.out_tokens, batch.tokens.size());
  batch.tables = down(d.out_tables, batch.tables.size());
  api_test::expect_as_peek(ctx, tree, prompts, batch, kStride);
  d.num_prompts = 0;
  ASSERT_OK(radix_match_batch_launch(ctx, &t, &d, nullptr));
  EXPECT_FALSE(device::has_work());
}

// ---- a whole step -------------------------------------------------------------------------------

// Rotary embedding and K/V write, prefill, then decode of one sequence, on the context of `device`.
// Returns the outputs of prefill and decode.
struct Step {
  std::vector<uint16_t> prefill, decode;
};

constexpr uint32_t kTokens = 40, kHeads = 4, kKvHeads = 2, kDim = 32;

std::vector<uint16_t> numbers(size_t n, uint32_t seed) {  // f16 in (-2, 2)
  std::vector<uint16_t> x(n);
  for (size_t i = 0; i < n; ++i) {
    const uint32_t bits = (static_cast<uint32_t>(i) * 2654435761u + seed * 40503u) >> 7;
    x[i] = static_cast<uint16_t>((bits & 0x8000u) | (0x3000u + bits % 0x1000u));
  }
  return x;
}

class DeviceSteps : public Device {
 protected:
  // Where the context lives: arrays go there, streams are its streams.
  template <class T>
  T* place(radix_ctx* ctx, std::vector<T>* host) {
    return on_cuda(ctx) ? up(*host) : host->data();
  }
  static bool on_cuda(radix_ctx* ctx) {
    radix_config c = sized<radix_config>();
    EXPECT_OK(radix_ctx_get_config(ctx, &c));
    return c.device == RADIX_DEV_CUDA;
  }

  static uint32_t head_dim(radix_ctx* ctx) {
    radix_config c = sized<radix_config>();
    EXPECT_OK(radix_ctx_get_config(ctx, &c));
    return c.head_dim;
  }

  Step run(Ctx& ctx, void* stream) {
    Step step;
    const uint32_t dim = head_dim(ctx);
    const radix_req r = ctx.begin(range(0, kTokens));
    const Ctx::Appended appended = ctx.append(r, range(0, kTokens));
    EXPECT_EQ(appended.status, RADIX_OK);
    std::vector<int64_t> slots = appended.slots;
    std::vector<int32_t> positions(kTokens), table = ctx.row(r), lens = {kTokens},
                                             cu = {0, kTokens};
    for (uint32_t i = 0; i < kTokens; ++i) positions[i] = static_cast<int32_t>(i);
    std::vector<uint16_t> q = numbers(kTokens * kHeads * dim, 1);
    std::vector<uint16_t> k = numbers(kTokens * kKvHeads * dim, 2);
    std::vector<uint16_t> v = numbers(kTokens * kKvHeads * dim, 3);
    step.prefill.resize(q.size());
    step.decode.resize(kHeads * dim);

    radix_rope_append w = sized<radix_rope_append>();
    w.rotary_dim = dim;
    uint16_t* placed_q = place(ctx, &q);
    w.q = tensor(placed_q, RADIX_F16, {kTokens, kHeads, dim});
    w.k = tensor(place(ctx, &k), RADIX_F16, {kTokens, kKvHeads, dim});
    w.v = tensor(place(ctx, &v), RADIX_F16, {kTokens, kKvHeads, dim});
    w.slots = place(ctx, &slots);
    w.positions = place(ctx, &positions);
    w.num_tokens = kTokens;
    EXPECT_OK(radix_rope_append_launch(ctx, &w, stream));

    radix_attn a = sized<radix_attn>();
    a.num_seqs = 1;
    a.max_context_len = 1024;  // so that decode is cut into ranges
    a.max_query_len = kTokens;
    a.flags = attention_flags_;
    uint16_t* out = place(ctx, &step.prefill);
    a.q = w.q;
    a.out = tensor(out, RADIX_F16, {kTokens, kHeads, dim});
    table.resize(256, -1);
    a.block_tables = place(ctx, &table);
    a.block_table_stride = 256;
    a.context_lens = place(ctx, &lens);
    a.cu_q_lens = place(ctx, &cu);
    launch(ctx, &a, true, stream);

    uint16_t* out_decode = place(ctx, &step.decode);
    a.q = tensor(placed_q + (kTokens - 1) * kHeads * dim, RADIX_F16, {1, kHeads, dim});
    a.out = tensor(out_decode, RADIX_F16, {1, kHeads, dim});
    a.cu_q_lens = nullptr;
    a.max_query_len = 1;
    launch(ctx, &a, false, stream);
    ctx.free(r);
    if (on_cuda(ctx)) {
      device::finish();
      step.prefill = down(out, step.prefill.size());
      step.decode = down(out_decode, step.decode.size());
    }
    return step;
  }

  void launch(radix_ctx* ctx, radix_attn* a, bool prefill, void* stream) {
    uint64_t bytes = 0;
    EXPECT_OK(radix_attn_workspace(ctx, a, &bytes));
    std::vector<uint8_t>& memory = workspaces_.emplace_back(bytes + 64);
    void* base = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64;
    a->workspace = on_cuda(ctx) ? up(memory) : base;
    a->workspace_size = bytes;
    if (without_workspace_) a->workspace = nullptr, a->workspace_size = 0;
    EXPECT_OK(prefill ? radix_prefill_launch(ctx, a, stream)
                      : radix_paged_attention_launch(ctx, a, stream));
  }

  uint32_t attention_flags_ = 0;
  bool without_workspace_ = false;

 private:
  std::vector<std::vector<uint8_t>> workspaces_;
};

float half(uint16_t bits) {
  const float m = static_cast<float>(bits & 0x3ff) / 1024.f;
  const int e = bits >> 10 & 31;
  const float x = e == 0 ? std::ldexp(m, -14) : std::ldexp(1.f + m, e - 15);
  return (bits & 0x8000) != 0 ? -x : x;
}

void expect_near(const std::vector<uint16_t>& a, const std::vector<uint16_t>& b) {
  ASSERT_EQ(a.size(), b.size());
  float worst = 0.f;
  for (size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::fabs(half(a[i]) - half(b[i])));
  EXPECT_LE(worst, 4e-3f);
  EXPECT_GT(std::fabs(half(a[0])), 0.f);
}

TEST_F(DeviceSteps, GiveWhatTheCpuGives) {
  radix_config c = cuda_config();
  Step gpu, cpu;
  {
    Ctx ctx(c);
    void* stream = device::make_stream();
    const int64_t before = device::counters.allocations;
    gpu = run(ctx, stream);
    EXPECT_EQ(device::counters.allocations, before) << "launches allocate nothing";
    EXPECT_EQ(device::counters.waits, 0);
  }
  c.device = RADIX_DEV_CPU;
  Ctx ctx(c);
  cpu = run(ctx, nullptr);
  expect_near(gpu.prefill, cpu.prefill);
  expect_near(gpu.decode, cpu.decode);
  EXPECT_TRUE(
      std::equal(gpu.decode.begin(), gpu.decode.end(),
                 gpu.prefill.end() - static_cast<int64_t>(gpu.decode.size()),
                 [](uint16_t a, uint16_t b) { return std::fabs(half(a) - half(b)) < 4e-3f; }))
      << "the last row of prefill is decode's";
}

TEST_F(DeviceSteps, BatchInvariantDecodeHasTheBitsOfPrefillsLastRow) {
  for (const int32_t dtype : {RADIX_F16, RADIX_F8_E4M3}) {
    radix_config c = cuda_config();
    c.head_dim = c.head_dim_v = 64;
    c.kv_dtype = dtype;
    Ctx ctx(c);
    attention_flags_ = 0;
    without_workspace_ = false;
    const Step ordinary = run(ctx, nullptr);
    attention_flags_ = RADIX_ATTN_BATCH_INVARIANT;
    device::counters.kernels.clear();
    const Step step = run(ctx, device::make_stream());
    expect_near(step.prefill, ordinary.prefill);
    const std::vector<uint16_t> last(step.prefill.end() - static_cast<int64_t>(step.decode.size()),
                                     step.prefill.end());
    EXPECT_EQ(step.decode, last);
    const auto launches = [](const char* name) {
      int n = 0;
      for (const std::string& kernel : device::counters.kernels)
        n += kernel.find(name) != std::string::npos ? 1 : 0;
      return n;
    };
    if (device::kSimulated) {
      EXPECT_EQ(launches("radix_kernel"), 2);
      EXPECT_EQ(launches("radix_merge_kernel"), 2) << "one sequence is cut into ranges";
      EXPECT_EQ(launches("prefill"), 0);
      device::counters.kernels.clear();
    }
    without_workspace_ = true;
    const Step uncut = run(ctx, nullptr);
    EXPECT_EQ(uncut.prefill, step.prefill);
    EXPECT_EQ(uncut.decode, step.decode);
    if (device::kSimulated) {
      EXPECT_EQ(launches("radix_merge_kernel"), 0);
    }
  }
}

#ifndef RADIX_REAL_DEVICE

TEST_F(DeviceSteps, PrefillTakesTheKernelOfItsDeviceAndShape) {
  for (const int32_t capability : {80, 90}) {
    for (const uint32_t dim : {32u, 64u}) {
      radix_config c = cuda_config();
      c.head_dim = c.head_dim_v = dim;
      device::settings.capability = capability;
      device::counters.kernels.clear();
      Step gpu, cpu;
      {
        Ctx ctx(c);
        gpu = run(ctx, nullptr);
      }
      c.device = RADIX_DEV_CPU;
      Ctx ctx(c);
      cpu = run(ctx, nullptr);
      expect_near(gpu.prefill, cpu.prefill);
      const auto launched = [](const char* name) {
        for (const std::string& kernel : device::counters.kernels)
          if (kernel.find(name) != std::string::npos) return true;
        return false;
      };
      const bool wgmma = capability == 90 && dim == 64;
      EXPECT_EQ(launched("prefill_wgmma_kernel"), wgmma) << capability << ", " << dim;
      EXPECT_EQ(launched("prefill_kernel"), !wgmma) << capability << ", " << dim;
    }
  }
}

#endif  // RADIX_REAL_DEVICE

TEST_F(DeviceSteps, StreamsOfTwoContextsDoNotWaitForEachOther) {
  const radix_config c = cuda_config();
  Ctx a(c), b(c);
  const Step alone = run(a, nullptr);
  for (uint64_t seed = 2; seed < 6; ++seed) {
    device::settings.seed = seed * 100;
    const radix_block pair[] = {12, 13};
    ASSERT_OK(radix_copy_blocks(b, pair, 1, device::make_stream()));
    const Step again = run(a, device::make_stream());
    EXPECT_TRUE(again.prefill == alone.prefill && again.decode == alone.decode);
  }
}

TEST_F(DeviceSteps, WorkspacesAreCheckedAndBoundSmallerLaunches) {
  Ctx ctx(cuda_config());
  radix_attn a = sized<radix_attn>();
  a.max_context_len = 4096;
  a.q = tensor(nullptr, RADIX_F16, {9, kHeads, kDim});
  a.num_seqs = 9;
  uint64_t of_nine = 0, of_fewer = 0;
  ASSERT_OK(radix_attn_workspace(ctx, &a, &of_nine));
  for (uint32_t n = 1; n < 9; ++n) {
    a.num_seqs = n;
    a.q.shape[0] = n;
    ASSERT_OK(radix_attn_workspace(ctx, &a, &of_fewer));
    EXPECT_LE(of_fewer, of_nine);
  }
  std::vector<uint16_t> q = numbers(kHeads * kDim, 1);
  std::vector<int32_t> table(1024, 0), lens = {10};
  a.num_seqs = 1;
  a.q = tensor(up(q), RADIX_F16, {1, kHeads, kDim});
  a.out = tensor(up(q), RADIX_F16, {1, kHeads, kDim});
  a.block_tables = up(table);
  a.block_table_stride = 1024;
  a.context_lens = up(lens);
  EXPECT_FAILS(RADIX_E_BUFFER, "workspace_size is 0",
               radix_paged_attention_launch(ctx, &a, nullptr));
  EXPECT_FALSE(device::has_work());
  a.q.device = RADIX_DEV_CPU;
  EXPECT_FAILS(RADIX_E_INVALID, "q is on device 1:0",
               radix_paged_attention_launch(ctx, &a, nullptr));
}

// ---- failures -----------------------------------------------------------------------------------

#ifndef RADIX_REAL_DEVICE

TEST_F(Device, ARefusedLaunchIsNotRemembered) {
  Ctx ctx(cuda_config());
  const radix_block pair[] = {0, 1};
  device::settings.failing_launch = cudaErrorLaunchOutOfResources;
  EXPECT_FAILS(RADIX_E_DEVICE, "copy_blocks", radix_copy_blocks(ctx, pair, 1, nullptr));
  EXPECT_EQ(radix_error_detail(), int32_t{cudaErrorLaunchOutOfResources});
  EXPECT_OK(radix_copy_blocks(ctx, pair, 1, nullptr));
  device::finish();
}

TEST_F(Device, ALostDeviceStaysLostAndTheControlPlaneLives) {
  Ctx ctx(cuda_config());
  const radix_req r = ctx.start(range(0, 10));
  const radix_block pair[] = {0, 1};
  device::settings.failing_launch = cudaErrorIllegalAddress;
  EXPECT_FAILS(RADIX_E_DEVICE_LOST, "illegal memory access",
               radix_copy_blocks(ctx, pair, 1, nullptr));
  const int64_t launches = device::counters.launches;
  EXPECT_FAILS(RADIX_E_DEVICE_LOST, "lost by an earlier kernel",
               radix_copy_blocks(ctx, pair, 1, nullptr));
  uint64_t bytes = 0;
  ASSERT_OK(radix_swap_bytes(ctx, 1, &bytes));
  std::vector<uint8_t> host(bytes);
  EXPECT_FAILS(RADIX_E_DEVICE_LOST, "lost",
               radix_swap_out(ctx, pair, 1, host.data(), bytes, nullptr));
  EXPECT_EQ(device::counters.launches, launches) << "a lost device gets no more work";
  EXPECT_EQ(ctx.stats().requests_live, 1u);
  ctx.free(r);
  EXPECT_EQ(ctx.stats().blocks_free, 16u);
}

#endif  // RADIX_REAL_DEVICE

}  // namespace
}  // namespace radixattn::test
