// Making contexts: memory of whom, threads of whom, what is logged, what is taken when.
#include <atomic>
#include <thread>

#include "api_support.h"

namespace api_test {
namespace {

void serve_one(Ctx& ctx) {
  const radix_req r = ctx.start(range(0, 9));
  ctx.commit(r);
  ctx.free(r);
  EXPECT_EQ(ctx.info(ctx.begin(range(0, 9))).cached_tokens, 8u);
}

TEST(Context, ResolvesEveryDefault) {
  radix_config c = sized<radix_config>();
  c.abi = RADIXATTN_ABI;
  c.num_blocks = 8;
  c.num_layers = 1;
  c.num_kv_heads = 1;
  c.head_dim = 64;
  Ctx ctx(c);
  radix_config r = sized<radix_config>();
  ASSERT_OK(radix_ctx_get_config(ctx, &r));
  EXPECT_EQ(r.device, RADIX_DEV_CPU);
  EXPECT_EQ(r.kv_dtype, RADIX_F16);
  EXPECT_EQ(r.block_size, 16u);
  EXPECT_EQ(r.head_dim_v, 64u);
  EXPECT_EQ(r.max_requests, 1024u);
  EXPECT_EQ(r.max_blocks_per_request, 8u);
  EXPECT_EQ(r.max_pins, 64u);
  EXPECT_EQ(r.max_namespaces, 64u);
  EXPECT_EQ(r.num_threads, 1u);
  EXPECT_NE(r.cpu_target, RADIX_CPU_AUTO);
}

TEST(Context, DerivesBlocksFromABudget) {
  radix_config c = small_config(0, 4);
  c.memory_budget = 1 << 20;
  Ctx ctx(c);
  const radix_stats s = ctx.stats();
  EXPECT_LE(s.kv_bytes, c.memory_budget);
  EXPECT_GT(s.kv_bytes + 2 * 2 * 4 * 2 * 32 * 4, c.memory_budget) << "one block more would not fit";
}

TEST(Context, ViewsOfItsMemoryFollowTheLayout) {
  for (const int32_t layout : {RADIX_LAYOUT_NHD, RADIX_LAYOUT_HND}) {
    radix_config c = small_config(6, 4);
    c.kv_layout = layout;
    c.head_dim_v = 64;
    Ctx ctx(c);
    radix_tensor k0, v0, k1;
    ASSERT_OK(radix_ctx_kv_tensor(ctx, 0, &k0, &v0));
    ASSERT_OK(radix_ctx_kv_tensor(ctx, 1, &k1, nullptr));
    const bool nhd = layout == RADIX_LAYOUT_NHD;
    EXPECT_EQ(k0.shape[0], 6);
    EXPECT_EQ(k0.shape[1], nhd ? 4 : 2);
    EXPECT_EQ(k0.shape[2], nhd ? 2 : 4);
    EXPECT_EQ(k0.shape[3], 32);
    EXPECT_EQ(v0.shape[3], 64);
    EXPECT_EQ(k0.stride[0], 4 * 2 * 32);
    for (const radix_tensor* t : {&k0, &v0, &k1}) {
      EXPECT_EQ(reinterpret_cast<uintptr_t>(t->data) % 64, 0u);
    }
    EXPECT_GE(static_cast<char*>(v0.data) - static_cast<char*>(k0.data), 6 * 4 * 2 * 32 * 4);
    EXPECT_FAILS(RADIX_E_INVALID, "layer is 2", radix_ctx_kv_tensor(ctx, 2, &k0, nullptr));
  }
}

TEST(Context, UsesTheCallersMemory) {
  radix_config c = small_config();
  uint64_t bytes = 0;
  ASSERT_OK(radix_ctx_kv_bytes(&c, &bytes));
  void* memory = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
  c.kv_memory = memory;
  c.kv_memory_size = bytes;
  {
    Ctx ctx(c);
    radix_tensor k;
    ASSERT_OK(radix_ctx_kv_tensor(ctx, 0, &k, nullptr));
    EXPECT_EQ(k.data, memory);
    EXPECT_EQ(ctx.stats().kv_bytes, bytes);
    serve_one(ctx);
  }
  std::free(memory);
  c.kv_memory_size = bytes - 1;
  radix_ctx* none = nullptr;
  c.kv_memory = reinterpret_cast<void*>(uintptr_t{64});
  EXPECT_FAILS(RADIX_E_INVALID, "kv_memory_size", radix_ctx_create(&c, &none));
}

TEST(Context, MetadataOnlyNeedsNoShapeAndHasNoMemory) {
  radix_config c = sized<radix_config>();
  c.abi = RADIXATTN_ABI;
  c.flags = RADIX_CTX_METADATA_ONLY;
  c.num_blocks = 16;
  c.block_size = 4;
  Ctx ctx(c);
  serve_one(ctx);
  EXPECT_EQ(ctx.stats().kv_bytes, 0u);
  uint64_t bytes = 7;
  ASSERT_OK(radix_ctx_kv_bytes(&c, &bytes));
  EXPECT_EQ(bytes, 0u);
  radix_tensor k;
  EXPECT_FAILS(RADIX_E_STATE, "METADATA_ONLY", radix_ctx_kv_tensor(ctx, 0, &k, nullptr));
  const radix_op op = {RADIX_OP_COPY, 0, 1, 1};
  EXPECT_FAILS(RADIX_E_STATE, "METADATA_ONLY", radix_run_ops(ctx, &op, 1, nullptr));
  ASSERT_OK(radix_run_ops(ctx, nullptr, 0, nullptr));  // what most steps have
  radix_rope_append rope = sized<radix_rope_append>();
  EXPECT_EQ(radix_rope_append_launch(ctx, &rope, nullptr), RADIX_E_STATE);
}

TEST(Context, MetadataOnlyWithAShapeStillHasNothingToAttendOver) {
  radix_config c = small_config();
  c.flags = RADIX_CTX_METADATA_ONLY;
  Ctx ctx(c);
  float q[4 * 32] = {}, out[4 * 32];
  const int32_t len = 1, table = 0;
  radix_attn a = sized<radix_attn>();
  a.num_seqs = 1;
  a.max_context_len = 1;
  a.q = tensor(q, RADIX_F32, {1, 4, 32});
  a.out = tensor(out, RADIX_F32, {1, 4, 32});
  a.block_tables = &table;
  a.block_table_stride = 1;
  a.context_lens = &len;
  uint64_t bytes = 0;
  EXPECT_OK(radix_attn_workspace(ctx, &a, &bytes));
  EXPECT_FAILS(RADIX_E_STATE, "METADATA_ONLY", radix_paged_attention_launch(ctx, &a, nullptr));
}

TEST(Context, GivesEverythingBackToItsAllocator) {
  CountingAllocator memory;
  radix_config c = small_config();
  c.host_alloc = memory.callbacks();
  {
    Ctx ctx(c);
    for (int i = 0; i < 40; ++i) ctx.begin(range(0, 3));
    serve_one(ctx);
    const radix_stats s = ctx.stats();
    EXPECT_GT(s.kv_bytes, 0u);
    EXPECT_EQ(s.host_bytes + s.kv_bytes, static_cast<uint64_t>(memory.bytes));
  }
  EXPECT_GT(memory.calls, 5u);
  EXPECT_EQ(memory.bytes, 0);
  EXPECT_EQ(memory.blocks, 0);
}

TEST(Context, PreallocateTakesNothingAfterCreate) {
  CountingAllocator memory;
  radix_config c = small_config(64, 2);
  c.flags = RADIX_CTX_PREALLOCATE | RADIX_CTX_DEFER_FREE;
  c.max_requests = 20;
  c.max_pins = 3;
  c.max_namespaces = 2;
  c.host_alloc = memory.callbacks();
  Ctx ctx(c);
  const uint64_t calls = memory.calls;
  std::vector<radix_req> all;
  for (int32_t i = 0; i < 20; ++i) all.push_back(ctx.start(range(i, i + 6)));
  radix_req none = 0;
  const Tokens t = range(0, 6);
  const radix_request_desc d = desc_of(t);
  EXPECT_FAILS(RADIX_E_FULL, "max_requests is 20", radix_begin_request(ctx, &d, &none, nullptr));
  for (const radix_req r : all) ctx.commit(r);
  radix_pin pins[4];
  for (int i = 0; i < 3; ++i) EXPECT_OK(radix_pin_prefix(ctx, &d, &pins[i], nullptr));
  EXPECT_FAILS(RADIX_E_FULL, "max_pins is 3", radix_pin_prefix(ctx, &d, &pins[3], nullptr));
  radix_ns ns[3];
  for (int round = 0; round < 3; ++round) {
    EXPECT_OK(radix_ns_create(ctx, "a", 1, 0, &ns[0]));
    EXPECT_OK(radix_ns_create(ctx, "b", 1, 0, &ns[1]));
    EXPECT_FAILS(RADIX_E_FULL, "max_namespaces is 2", radix_ns_create(ctx, "c", 1, 0, &ns[2]));
    EXPECT_OK(radix_ns_destroy(ctx, ns[0]));
    EXPECT_OK(radix_ns_destroy(ctx, ns[1]));
  }
  for (const radix_req r : all) ctx.free(r);
  EXPECT_OK(radix_evict(ctx, RADIX_NS_ALL, 100, nullptr));
  EXPECT_EQ(memory.calls, calls);
}

TEST(Context, RunsItsTasksOnTheHostsExecutor) {
  struct Host {
    std::atomic<int> calls{0};
  } host;
  radix_executor executor = sized<radix_executor>();
  executor.user = &host;
  executor.max_workers = 4;
  executor.parallel_for = [](void* user, uint32_t n, radix_task_fn task, void* arg) {
    ++static_cast<Host*>(user)->calls;
    std::vector<std::thread> threads;
    for (uint32_t i = 0; i < n; ++i) threads.emplace_back(task, arg, i);
    for (std::thread& t : threads) t.join();
  };
  radix_config c = small_config(64, 16);
  c.executor = &executor;
  Ctx ctx(c);
  std::vector<float> k(64 * 2 * 32, 1.f), v = k;
  std::vector<int64_t> slots(64);
  for (int64_t i = 0; i < 64; ++i) slots[static_cast<size_t>(i)] = i;
  radix_rope_append p = sized<radix_rope_append>();
  p.num_tokens = 64;
  p.k = tensor(k.data(), RADIX_F32, {64, 2, 32});
  p.v = tensor(v.data(), RADIX_F32, {64, 2, 32});
  p.slots = slots.data();
  EXPECT_OK(radix_rope_append_launch(ctx, &p, nullptr));
  EXPECT_EQ(host.calls, 1);
}

struct Line {
  int32_t level;
  std::string text;
};

TEST(Context, LogsAtTheLevelAskedForAndOtherwiseNothing) {
  std::vector<Line> lines;
  radix_config c = small_config();
  c.log = [](void* user, int32_t level, const char* text, size_t len) {
    static_cast<std::vector<Line>*>(user)->push_back({level, std::string(text, len)});
  };
  c.log_user = &lines;
  { Ctx quiet(c); }
  EXPECT_TRUE(lines.empty()) << "log_level 0 is off";
  c.log_level = RADIX_LOG_DEBUG;
  Ctx ctx(c);
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0].level, RADIX_LOG_INFO);
  EXPECT_NE(lines[0].text.find("16 blocks of 4 tokens"), std::string::npos) << lines[0].text;
  EXPECT_EQ(radix_unpin(ctx, 99), RADIX_E_STALE);
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[1].level, RADIX_LOG_DEBUG);
  EXPECT_EQ(lines[1].text.find("unpin: STALE: p is 0x63"), 0u) << lines[1].text;
}

TEST(Context, EveryTargetOfThisMachineCanBeForced) {
  int made = 0;
  for (int32_t target = RADIX_CPU_BASELINE; target <= RADIX_CPU_NEON; ++target) {
    radix_config c = small_config();
    c.cpu_target = target;
    radix_ctx* ctx = nullptr;
    const radix_status st = radix_ctx_create(&c, &ctx);
    if (st != RADIX_OK) {
      EXPECT_FAILS(RADIX_E_UNSUPPORTED, "cpu_target", st);
      continue;
    }
    ++made;
    radix_config r = sized<radix_config>();
    EXPECT_OK(radix_ctx_get_config(ctx, &r));
    EXPECT_EQ(r.cpu_target, target);
    radix_ctx_destroy(&ctx);
  }
  EXPECT_GE(made, 1) << "the baseline runs everywhere";
}

TEST(Context, ContextsAreSeparate) {
  Ctx a, b;
  a.commit(a.start(range(0, 9)));
  EXPECT_EQ(a.info(a.begin(range(0, 9))).cached_tokens, 8u);
  EXPECT_EQ(b.info(b.begin(range(0, 9))).cached_tokens, 0u);
}

TEST(Context, WorksWithoutItsLockWhenTheCallerSerialises) {
  radix_config c = small_config();
  c.flags = RADIX_CTX_EXTERNAL_SYNC;
  Ctx ctx(c);
  serve_one(ctx);
}

TEST(Library, NamesItself) {
  EXPECT_EQ(radix_version(), RADIXATTN_VERSION);
  EXPECT_NE(std::string(radix_build_info()).find(radix_version_string()), std::string::npos);
  EXPECT_STREQ(radix_status_name(RADIX_E_NO_BLOCKS), "NO_BLOCKS");
  EXPECT_STREQ(radix_status_name(-1234), "unknown status");
  int32_t count = -1;
  EXPECT_OK(radix_device_count(RADIX_DEV_CPU, &count));
  EXPECT_EQ(count, 1);
  EXPECT_OK(radix_device_count(RADIX_DEV_CUDA, &count));
  EXPECT_EQ(count, 0);
}

TEST(Library, CutsAMessageToTheBuffer) {
  EXPECT_EQ(radix_unpin(nullptr, 1), RADIX_E_INVALID);
  char text[5] = "zzzz";
  EXPECT_EQ(radix_last_error(text, sizeof text), std::strlen("ctx is NULL"));
  EXPECT_STREQ(text, "ctx ");
  EXPECT_EQ(radix_last_error(nullptr, 0), std::strlen("ctx is NULL"));
}

}  // namespace
}  // namespace api_test
