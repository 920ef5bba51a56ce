// Plans on the CPU: what they hold after any history, launches through them, and what they refuse.
#include "plan_support.h"

namespace api_test {
namespace {

void read_host(void* host, const void* from, size_t bytes) { std::memcpy(host, from, bytes); }

TEST(Plan, HoldsTheStepAfterAnyHistory) {
  for (uint32_t flags : {0u, uint32_t{RADIX_PLAN_BOUNDS}}) {
    for (uint64_t seed = 1; seed <= 20; ++seed) {
      SCOPED_TRACE("seed " + std::to_string(seed) + " flags " + std::to_string(flags));
      radix_config c = small_config(48, 4);
      c.max_blocks_per_request = 24;
      Ctx ctx(c);
      Engine engine(&ctx, seed);
      Plan plan(ctx, plan_config(6, 20, flags));
      for (int step = 0; step < 60; ++step) {
        for (uint32_t moves = engine.below(4); moves > 0; --moves) engine.move();
        const Choice choice = choose(&ctx, &engine, 6, 20);
        ASSERT_OK(plan.update(choice.reqs, choice.queries()));
        expect_step(&ctx, plan, choice.reqs, choice.queries(), 6, 20, flags != 0, read_host);
        ASSERT_FALSE(testing::Test::HasFatalFailure()) << "step " << step;
      }
    }
  }
}

TEST(Plan, RowsThatDidNotChangeAreNotWritten) {
  Ctx ctx;
  const radix_req a = ctx.start(range(0, 9)), b = ctx.start(range(100, 107));
  Plan plan(ctx, plan_config(4));
  ASSERT_OK(plan.update({a, b}, nullptr));
  EXPECT_EQ(plan.info().changed_rows, 2u);
  EXPECT_EQ(plan.info().changed_entries, 5u);
  ASSERT_EQ(ctx.append(b, {1}).status, RADIX_OK);  // fills the block
  ASSERT_OK(plan.update({a, b}, nullptr));
  EXPECT_EQ(plan.info().changed_rows, 0u);
  ASSERT_EQ(ctx.append(b, {2}).status, RADIX_OK);
  ASSERT_OK(plan.update({a, b}, nullptr));
  EXPECT_EQ(plan.info().changed_rows, 1u);
  EXPECT_EQ(plan.info().changed_entries, 1u);
  EXPECT_EQ(plan.info().max_context_len, 9u);
  EXPECT_EQ(plan.info().upload_bytes, 0u);
}

// ---- launches -----------------------------------------------------------------------------------

struct Rows {
  std::vector<float> q, out, lse;
  explicit Rows(uint32_t n) : q(n * 4 * 32), out(n * 4 * 32, 7.f), lse(n * 4, 7.f) {
    for (uint32_t i = 0; i < q.size(); ++i) q[i] = value(5, i);
  }
  void put(radix_attn* a) {
    const auto n = static_cast<int64_t>(lse.size() / 4);
    a->q = tensor(q.data(), RADIX_F32, {n, 4, 32});
    a->out = tensor(out.data(), RADIX_F32, {n, 4, 32});
    a->lse = tensor(lse.data(), RADIX_F32, {n, 4});
  }
};

void fill_kv(radix_ctx* ctx) {
  radix_tensor k = {}, v = {};
  for (uint32_t layer = 0; layer < 2; ++layer) {
    ASSERT_OK(radix_ctx_kv_tensor(ctx, layer, &k, &v));
    for (uint32_t i = 0; i < 16 * 4 * 2 * 32; ++i) {
      static_cast<float*>(k.data)[i] = value(layer, i);
      static_cast<float*>(v.data)[i] = value(layer + 9, i);
    }
  }
}

// The same launch with the caller's own arrays.
void run_plainly(Ctx* ctx, const std::vector<radix_req>& reqs, const std::vector<int32_t>* cu,
                 Rows* rows) {
  std::vector<int32_t> table(reqs.size() * 16), lens(reqs.size());
  ASSERT_OK(radix_get_block_tables(*ctx, reqs.data(), static_cast<uint32_t>(reqs.size()),
                                   table.data(), 16, lens.data(), nullptr));
  radix_attn a = sized<radix_attn>();
  rows->put(&a);
  a.layer = 1;
  a.num_seqs = static_cast<uint32_t>(reqs.size());
  a.max_context_len = 64;
  a.block_tables = table.data();
  a.block_table_stride = 16;
  a.context_lens = lens.data();
  if (cu != nullptr) a.cu_q_lens = cu->data(), a.max_query_len = 8;
  uint64_t bytes = 0;
  ASSERT_OK(radix_attn_workspace(*ctx, &a, &bytes));
  std::vector<char> space(bytes + 64);
  a.workspace = space.data() + (64 - reinterpret_cast<uintptr_t>(space.data()) % 64) % 64;
  a.workspace_size = bytes;
  ASSERT_OK(cu != nullptr ? radix_prefill_launch(*ctx, &a, nullptr)
                          : radix_paged_attention_launch(*ctx, &a, nullptr));
}

TEST(Plan, LaunchesGiveTheBitsOfLaunchesWithoutIt) {
  Ctx ctx;
  fill_kv(ctx);
  const std::vector<radix_req> reqs = {ctx.start(range(0, 13)), ctx.start(range(50, 55)),
                                       ctx.begin({})};
  Plan plan(ctx, plan_config(5, 16));
  {
    Rows planned(3), plain(3);
    ASSERT_OK(plan.update(reqs, nullptr));
    radix_attn a = plan.attn();
    planned.put(&a);
    a.layer = 1;
    ASSERT_OK(radix_paged_attention_launch(ctx, &a, nullptr));
    run_plainly(&ctx, reqs, nullptr, &plain);
    EXPECT_EQ(planned.out, plain.out);
    EXPECT_EQ(planned.lse, plain.lse);
    EXPECT_EQ(planned.lse[8], -INFINITY) << "the empty sequence";
  }
  const std::vector<int32_t> q_lens = {8, 2, 0}, cu = {0, 8, 10, 10};
  Rows planned(10), plain(10);
  ASSERT_OK(plan.update(reqs, &q_lens));
  radix_attn a = plan.attn();
  planned.put(&a);
  a.layer = 1;
  ASSERT_OK(radix_prefill_launch(ctx, &a, nullptr));
  run_plainly(&ctx, reqs, &cu, &plain);
  EXPECT_EQ(planned.out, plain.out);
  EXPECT_EQ(planned.lse, plain.lse);
}

// What a captured graph does: the arguments of the first step, the arrays of every later one.
TEST(Plan, BoundsServeEveryStep) {
  Ctx ctx;
  fill_kv(ctx);
  const radix_req a = ctx.start(range(0, 13)), b = ctx.start(range(50, 55));
  Plan plan(ctx, plan_config(3, 6, RADIX_PLAN_BOUNDS));
  ASSERT_OK(plan.update({a}, nullptr));
  Rows padded(3);
  radix_attn launch = plan.attn();
  padded.put(&launch);
  launch.layer = 1;
  for (const std::vector<radix_req>& reqs : {std::vector<radix_req>{a, b}, {b}, {}}) {
    const auto n = static_cast<uint32_t>(reqs.size());
    ASSERT_OK(plan.update(reqs, nullptr));
    ASSERT_OK(radix_paged_attention_launch(ctx, &launch, nullptr));
    Rows exact(n);
    if (n > 0) run_plainly(&ctx, reqs, nullptr, &exact);
    for (uint32_t i = 0; i < 3 * 128; ++i)
      ASSERT_EQ(padded.out[i], i < n * 128 ? exact.out[i] : 0.f) << n << " " << i;
    for (uint32_t i = 0; i < 12; ++i)
      ASSERT_EQ(padded.lse[i], i < n * 4 ? exact.lse[i] : -INFINITY);
  }
}

TEST(Plan, RopeWritesWhereTheStepIs) {
  Ctx ctx;
  const radix_req r = ctx.start(range(0, 6));
  Plan plan(ctx, plan_config(2, 8, RADIX_PLAN_BOUNDS));
  const std::vector<int32_t> q_lens = {3};
  ASSERT_OK(plan.update({r}, &q_lens));
  std::vector<float> k(8 * 2 * 32, 1.f), v(8 * 2 * 32, 2.f);
  radix_rope_append w = plan.rope();
  ASSERT_EQ(w.num_tokens, 8u);
  w.k = tensor(k.data(), RADIX_F32, {8, 2, 32});
  w.v = tensor(v.data(), RADIX_F32, {8, 2, 32});
  ASSERT_OK(radix_rope_append_launch(ctx, &w, nullptr));
  radix_tensor kt = {};
  ASSERT_OK(radix_ctx_kv_tensor(ctx, 0, &kt, nullptr));
  const std::vector<int32_t> row = ctx.row(r);
  std::vector<bool> written(16 * 4);
  for (int t = 3; t < 6; ++t)
    written[static_cast<size_t>(row[static_cast<size_t>(t / 4)] * 4 + t % 4)] = true;
  for (size_t slot = 0; slot < written.size(); ++slot) {
    EXPECT_EQ(static_cast<float*>(kt.data)[slot * 64] == 1.f, written[slot]) << slot;
  }
}

// ---- somebody else's cache ----------------------------------------------------------------------

radix_plan_desc foreign(const std::vector<int32_t>& table, int64_t stride,
                        const std::vector<int32_t>& lens) {
  radix_plan_desc d = sized<radix_plan_desc>();
  d.num_seqs = static_cast<uint32_t>(lens.size());
  d.block_tables = table.data();
  d.block_table_stride = stride;
  d.context_lens = lens.data();
  return d;
}

TEST(Plan, TablesOfAnotherCache) {
  Ctx ctx;
  Plan plan(ctx, plan_config(3));
  std::vector<int32_t> table = {5, 6, -1, 9, -1, -1};
  const std::vector<int32_t> lens = {7, 1};
  const radix_plan_desc d = foreign(table, 3, lens);
  ASSERT_OK(radix_plan_update(plan, &d, nullptr));
  const radix_attn a = plan.attn();
  EXPECT_EQ(a.block_tables[0], 5);
  EXPECT_EQ(a.block_tables[1], 6);
  EXPECT_EQ(a.block_tables[a.block_table_stride], 9);
  EXPECT_EQ(plan.rope().slots[0], 6 * 4 + 2);
  ASSERT_OK(radix_plan_update(plan, &d, nullptr));
  EXPECT_EQ(plan.info().changed_rows, 0u);
  table[1] = 3;  // nobody said so: rows are compared
  ASSERT_OK(radix_plan_update(plan, &d, nullptr));
  EXPECT_EQ(plan.info().changed_entries, 1u);
  EXPECT_EQ(plan.rope().slots[0], 3 * 4 + 2);
  table[0] = -1;
  EXPECT_FAILS(RADIX_E_INVALID, "block_tables[0, 0] is -1", radix_plan_update(plan, &d, nullptr));
  EXPECT_EQ(plan.attn().block_tables[0], 5) << "a failed update changes nothing";
  const radix_plan_desc narrow = foreign(table, 1, lens);
  EXPECT_FAILS(RADIX_E_INVALID, "block_table_stride (1)",
               radix_plan_update(plan, &narrow, nullptr));
  const std::vector<int32_t> empty = {0, 0, 0};
  const radix_plan_desc far = foreign(table, INT64_MAX, empty);
  EXPECT_FAILS(RADIX_E_INVALID, "block_table_stride is 9223372036854775807",
               radix_plan_update(plan, &far, nullptr));
  radix_plan_desc odd = foreign(table, 3, lens);
  odd.context_lens =
      reinterpret_cast<const int32_t*>(reinterpret_cast<const char*>(odd.context_lens) + 2);
  EXPECT_FAILS(RADIX_E_INVALID, "context_lens is 0x", radix_plan_update(plan, &odd, nullptr));
  const std::vector<int32_t> negative = {-2};
  const radix_plan_desc bad = foreign(table, 3, negative);
  EXPECT_FAILS(RADIX_E_INVALID, "context_lens[0] is -2", radix_plan_update(plan, &bad, nullptr));
  const std::vector<int32_t> long_one = {65};
  const radix_plan_desc too_long = foreign(table, 3, long_one);
  EXPECT_EQ(radix_plan_update(plan, &too_long, nullptr), RADIX_E_INVALID);
}

// ---- what is refused ----------------------------------------------------------------------------

TEST(Plan, ConfigurationsAreChecked) {
  Ctx ctx;
  radix_plan* plan = nullptr;
  const auto refused = [&](radix_plan_config c, radix_status status, const char* word) {
    plan = reinterpret_cast<radix_plan*>(1);
    EXPECT_FAILS(status, word, radix_plan_create(ctx, &c, &plan));
    EXPECT_EQ(plan, nullptr);
    uint64_t bytes = 0;
    if (status != RADIX_E_BUFFER) EXPECT_FAILS(status, word, radix_plan_bytes(ctx, &c, &bytes));
  };
  radix_plan_config c = plan_config(0);
  refused(c, RADIX_E_INVALID, "max_seqs is 0");
  c = plan_config(4, 3);
  refused(c, RADIX_E_INVALID, "max_query_tokens is 3");
  c = plan_config(4, 8);
  c.max_query_len = 9;
  refused(c, RADIX_E_INVALID, "max_query_len is 9");
  c = plan_config(4);
  c.num_q_heads = 3;
  refused(c, RADIX_E_INVALID, "num_q_heads is 3");
  c = plan_config(4, 0, 10);
  refused(c, RADIX_E_INVALID, "flags is 0xa");
  c = plan_config(1u << 29);
  refused(c, RADIX_E_INVALID, "table entries");
  c = plan_config(4);
  c.max_context_len = (1u << 30) + 1;
  refused(c, RADIX_E_INVALID, "max_context_len is 1073741825");
  c = plan_config(4);
  c.num_q_heads = 65536;
  refused(c, RADIX_E_INVALID, "num_q_heads is 65536");
  c = plan_config(4, 1u << 27);
  c.num_q_heads = 32;  // 16 of a KV head
  refused(c, RADIX_E_INVALID, "max_query_tokens is 134217728");
  c.max_query_tokens -= 1;
  uint64_t most = 0;
  EXPECT_OK(radix_plan_bytes(ctx, &c, &most));
  c = plan_config(4);
  c.block_size = 257;
  refused(c, RADIX_E_INVALID, "block_size is 257");
  c = plan_config(4);
  c.reserved0 = 1;
  refused(c, RADIX_E_INVALID, "reserved0 is 1");
  alignas(64) static char memory[256];
  c = plan_config(4);
  c.memory = memory;
  c.memory_size = sizeof memory;
  refused(c, RADIX_E_BUFFER, "memory_size is 256");
  c.memory = memory + 8;
  refused(c, RADIX_E_INVALID, "multiple of 64");
  c.memory = nullptr;
  refused(c, RADIX_E_INVALID, "memory is NULL");
  EXPECT_FAILS(RADIX_E_INVALID, "cfg", radix_plan_create(ctx, nullptr, &plan));
  c = plan_config(1);
  EXPECT_FAILS(RADIX_E_INVALID, "out", radix_plan_create(ctx, &c, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "ctx", radix_plan_create(nullptr, &c, &plan));
  radix_plan_destroy(nullptr);
  radix_plan_destroy(&plan);
  radix_config shapeless = small_config();
  shapeless.flags = RADIX_CTX_METADATA_ONLY;
  shapeless.num_kv_heads = shapeless.head_dim = shapeless.num_layers = 0;
  const Ctx metadata(shapeless);
  EXPECT_FAILS(RADIX_E_STATE, "no shape", radix_plan_create(metadata, &c, &plan));
}

TEST(Plan, StepsThatDoNotFitChangeNothing) {
  Ctx ctx;
  const radix_req a = ctx.start(range(0, 13)), b = ctx.start(range(50, 55));
  radix_plan_config c = plan_config(2, 6);
  c.max_query_len = 5;
  c.max_context_len = 13;
  Plan plan(ctx, c);
  ASSERT_OK(plan.update({b}, nullptr));
  const std::vector<int32_t> before = {plan.attn().context_lens[0], plan.attn().block_tables[0]};
  EXPECT_FAILS(RADIX_E_BUFFER, "num_seqs is 3", plan.update({a, b, a}, nullptr));
  std::vector<int32_t> q = {4, 3};
  EXPECT_FAILS(RADIX_E_BUFFER, "7 tokens", plan.update({a, b}, &q));
  q = {6, 0};
  EXPECT_FAILS(RADIX_E_BUFFER, "q_lens[0] is 6", plan.update({a, b}, &q));
  q = {0, -1};
  EXPECT_FAILS(RADIX_E_INVALID, "q_lens[1] is -1", plan.update({a, b}, &q));
  q = {0, 6};
  EXPECT_FAILS(RADIX_E_INVALID, "q_lens[1] is 6", plan.update({a, b}, &q));
  EXPECT_FAILS(RADIX_E_STALE, "reqs", plan.update({a, b + (uint64_t{1} << 32)}, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "flags is 0x8", plan.update({a}, nullptr, nullptr, 8));
  EXPECT_FAILS(RADIX_E_INVALID, "NULL on the CPU",
               plan.update({a}, nullptr, reinterpret_cast<void*>(64)));
  ASSERT_EQ(ctx.append(a, {1}).status, RADIX_OK);
  EXPECT_FAILS(RADIX_E_BUFFER, "14 tokens", plan.update({a}, nullptr));
  EXPECT_EQ(plan.attn().context_lens[0], before[0]);
  EXPECT_EQ(plan.attn().block_tables[0], before[1]);
  EXPECT_EQ(plan.info().num_seqs, 1u);
  radix_plan_desc d = sized<radix_plan_desc>();
  d.num_seqs = 1;
  EXPECT_FAILS(RADIX_E_INVALID, "reqs", radix_plan_update(plan, &d, nullptr));
  d.reqs = &b;
  d.block_tables = before.data();
  EXPECT_FAILS(RADIX_E_INVALID, "one of them", radix_plan_update(plan, &d, nullptr));
  d = sized<radix_plan_desc>();
  ASSERT_OK(radix_plan_update(plan, &d, nullptr));
  EXPECT_EQ(plan.info().num_seqs, 0u);
}

TEST(Plan, BeforeTheFirstUpdate) {
  Ctx ctx;
  Plan plan(ctx, plan_config(2));
  radix_attn a = sized<radix_attn>();
  radix_rope_append w = sized<radix_rope_append>();
  EXPECT_FAILS(RADIX_E_STATE, "no step", radix_plan_attn(plan, &a));
  EXPECT_FAILS(RADIX_E_STATE, "no step", radix_plan_rope(plan, &w));
  EXPECT_EQ(plan.info().num_seqs, 0u);
  EXPECT_GT(plan.info().device_bytes, 0u);
}

TEST(Plan, LaunchesMustBeThePlans) {
  Ctx ctx, other;
  fill_kv(ctx);
  const radix_req r = ctx.start(range(0, 5));
  radix_plan_config c = plan_config(2, 4);
  c.window = 3;
  Plan plan(ctx, c);
  ASSERT_OK(plan.update({r}, nullptr));
  Rows rows(1);
  radix_attn a = plan.attn();
  rows.put(&a);
  a.window = 3;
  ASSERT_OK(radix_paged_attention_launch(ctx, &a, nullptr));
  a.window = 2;
  ASSERT_OK(radix_paged_attention_launch(ctx, &a, nullptr));
  a.window = 4;
  EXPECT_FAILS(RADIX_E_INVALID, "window is 4", radix_paged_attention_launch(ctx, &a, nullptr));
  a.window = 0;
  EXPECT_FAILS(RADIX_E_INVALID, "window is 0", radix_paged_attention_launch(ctx, &a, nullptr));
  a.window = 3;
  EXPECT_FAILS(RADIX_E_INVALID, "plan of this context",
               radix_paged_attention_launch(other, &a, nullptr));
  const radix_attn right = a;
  const int32_t lens[] = {5};
  a.context_lens = lens;
  EXPECT_FAILS(RADIX_E_INVALID, "radix_plan_attn gave",
               radix_paged_attention_launch(ctx, &a, nullptr));
  a = right;
  a.max_context_len = 4;
  EXPECT_FAILS(RADIX_E_INVALID, "max_context_len 4",
               radix_paged_attention_launch(ctx, &a, nullptr));
  a = right;
  a.block_tables = lens;
  EXPECT_FAILS(RADIX_E_INVALID, "radix_plan_attn gave",
               radix_paged_attention_launch(ctx, &a, nullptr));
  const std::vector<int32_t> q_lens = {1};
  ASSERT_OK(plan.update({r}, &q_lens));
  EXPECT_FAILS(RADIX_E_STATE, "no decode step", radix_paged_attention_launch(ctx, &right, nullptr));
}

TEST(Plan, PrefillsMustBeThePlansToo) {
  Ctx ctx, other;
  fill_kv(ctx);
  const radix_req r = ctx.start(range(0, 5));
  Plan plan(ctx, plan_config(2, 4));
  const std::vector<int32_t> q_lens = {2};
  ASSERT_OK(plan.update({r}, &q_lens));
  Rows rows(2);
  radix_attn a = plan.attn();
  rows.put(&a);
  ASSERT_OK(radix_prefill_launch(ctx, &a, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "plan of this context", radix_prefill_launch(other, &a, nullptr));
  const int32_t cu[] = {0, 2};
  const int32_t* kept = a.cu_q_lens;
  a.cu_q_lens = cu;
  EXPECT_FAILS(RADIX_E_INVALID, "radix_plan_attn gave", radix_prefill_launch(ctx, &a, nullptr));
  a.cu_q_lens = kept;
  ASSERT_OK(plan.update({r}, nullptr));
  EXPECT_FAILS(RADIX_E_STATE, "no prefill step", radix_prefill_launch(ctx, &a, nullptr));
}

// Else the rows that q lacks would have no results, and nobody would know.
TEST(Plan, PrefillsNeedARowForEachQueryToken) {
  Ctx ctx;
  fill_kv(ctx);
  const radix_req r = ctx.start(range(0, 5));
  const std::vector<int32_t> q_lens = {2};
  for (const uint32_t flags : {0u, uint32_t{RADIX_PLAN_BOUNDS}}) {
    Plan plan(ctx, plan_config(2, 4, flags));
    ASSERT_OK(plan.update({r}, &q_lens));
    const uint32_t needed = flags == 0 ? 2 : 4;
    for (uint32_t n = 1; n <= needed + 1; ++n) {
      Rows rows(n);
      radix_attn a = plan.attn();
      rows.put(&a);
      if (n >= needed) {
        EXPECT_OK(radix_prefill_launch(ctx, &a, nullptr));
      } else if (n < 2) {  // fewer than the step's own
        EXPECT_FAILS(RADIX_E_INVALID, "q has 1 rows", radix_prefill_launch(ctx, &a, nullptr));
      } else {
        EXPECT_FAILS(RADIX_E_INVALID, "rows: expected at least 4, the plan's bounds",
                     radix_prefill_launch(ctx, &a, nullptr));
      }
    }
  }
}

// Whether a step has a list over what is shared depends on the step, what a launch may be does not.
TEST(Plan, LaunchesHaveThePlansHeadsAndKv) {
  for (const uint32_t flags : {0u, uint32_t{RADIX_PLAN_UNSHARED}, uint32_t{RADIX_PLAN_BOUNDS},
                               uint32_t{RADIX_PLAN_BATCH_INVARIANT}}) {
    Ctx ctx;
    fill_kv(ctx);
    const radix_req r = ctx.start(range(0, 5));
    Plan plan(ctx, plan_config(1, 0, flags));
    ASSERT_OK(plan.update({r}, nullptr));
    std::vector<float> q(8 * 64), out(q.size()), k(16 * 4 * 4 * 64), v(k.size());
    radix_attn a = plan.attn();
    const auto launch = [&](int64_t heads, int64_t kv_heads, int64_t dim, int32_t dtype) {
      a.q = tensor(q.data(), RADIX_F32, {1, heads, dim});
      a.out = tensor(out.data(), RADIX_F32, {1, heads, dim});
      a.k_cache = tensor(k.data(), dtype, {16, 4, kv_heads, dim});
      a.v_cache = tensor(v.data(), dtype, {16, 4, kv_heads, dim});
      return radix_paged_attention_launch(ctx, &a, nullptr);
    };
    EXPECT_OK(launch(4, 2, 32, RADIX_F32));
    EXPECT_FAILS(RADIX_E_INVALID, "q.shape[1] is 8: d->plan is for 4 (cfg->num_q_heads)",
                 launch(8, 2, 32, RADIX_F32));
    EXPECT_FAILS(RADIX_E_INVALID,
                 "number of heads of k_cache is 4: d->plan is for 2 (num_kv_heads)",
                 launch(4, 4, 32, RADIX_F32));
    EXPECT_FAILS(RADIX_E_INVALID, "head dim of k_cache is 64: d->plan is for 32 (head_dim)",
                 launch(4, 2, 64, RADIX_F32));
    EXPECT_FAILS(RADIX_E_INVALID, "k_cache.dtype is 3: d->plan is for 1 (kv_dtype)",
                 launch(4, 2, 32, RADIX_BF16));
    // Without its list the plan's arrays serve launches of any heads.
    a.plan = nullptr;
    std::vector<char> space(1 << 22);
    a.workspace = space.data() + (64 - reinterpret_cast<uintptr_t>(space.data()) % 64) % 64;
    a.workspace_size = space.size() - 64;
    EXPECT_OK(launch(8, 2, 32, RADIX_F32));
    EXPECT_OK(launch(4, 2, 32, RADIX_BF16));
  }
}

TEST(Plan, BlocksOfAnotherSize) {
  Ctx ctx;  // blocks of 4
  std::vector<float> k(8 * 2 * 2 * 32), v(k.size());
  for (uint32_t i = 0; i < k.size(); ++i) k[i] = value(1, i), v[i] = value(2, i);
  const std::vector<int32_t> table = {7, 6, 5}, lens = {5};
  radix_plan_config c = plan_config(1);
  Plan of_four(ctx, c);
  c.block_size = 2;
  Plan of_two(ctx, c);
  const auto launch = [&](const Plan& plan) {
    radix_plan_desc d = foreign(table, 3, lens);
    EXPECT_OK(radix_plan_update(plan, &d, nullptr));
    radix_attn a = plan.attn();
    Rows rows(1);
    rows.put(&a);
    a.k_cache = tensor(k.data(), RADIX_F32, {8, 2, 2, 32});
    a.v_cache = tensor(v.data(), RADIX_F32, {8, 2, 2, 32});
    return radix_paged_attention_launch(ctx, &a, nullptr);
  };
  EXPECT_FAILS(RADIX_E_INVALID, "blocks of 2 tokens: the plan has tables for 4", launch(of_four));
  EXPECT_OK(launch(of_two));
  EXPECT_EQ(of_two.attn().block_tables[2], 5);
  EXPECT_EQ(of_two.rope().slots[0], 5 * 2);
  // The context's requests have other blocks; what was planned stays.
  const radix_req req = ctx.start(range(0, 13));
  EXPECT_FAILS(RADIX_E_INVALID, "blocks of 2 tokens", of_two.update({req}, nullptr));
  EXPECT_EQ(of_two.rope().slots[0], 5 * 2);
  ASSERT_OK(of_four.update({req}, nullptr));
}

TEST(Plan, TheWorkspaceCallKnowsIt) {
  Ctx ctx;
  const radix_req r = ctx.start(range(0, 5));
  Plan plan(ctx, plan_config(2));
  ASSERT_OK(plan.update({r}, nullptr));
  Rows rows(1);
  radix_attn a = plan.attn();
  rows.put(&a);
  uint64_t bytes = 0;
  ASSERT_OK(radix_attn_workspace(ctx, &a, &bytes));
  EXPECT_LE(bytes, a.workspace_size);
}

TEST(Plan, AnOlderCallersStructsAreLeftAlone) {
  Ctx ctx;
  const radix_req r = ctx.start(range(0, 5));
  Plan plan(ctx, plan_config(2));
  ASSERT_OK(plan.update({r}, nullptr));
  radix_attn a;
  std::memset(&a, 0, sizeof a);
  a.struct_size = offsetof(radix_attn, plan);
  a.plan = reinterpret_cast<const radix_plan*>(8);
  ASSERT_OK(radix_plan_attn(plan, &a));
  EXPECT_EQ(a.struct_size, offsetof(radix_attn, plan));
  EXPECT_EQ(a.plan, reinterpret_cast<const radix_plan*>(8));
  EXPECT_EQ(a.num_seqs, 1u);
  EXPECT_FAILS(RADIX_E_INVALID, "io", radix_plan_attn(plan, nullptr));
}

// ---- memory -------------------------------------------------------------------------------------

TEST(Plan, MemoryOfTheCaller) {
  Ctx ctx;
  const radix_req r = ctx.start(range(0, 5));
  radix_plan_config c = plan_config(2, 4);
  uint64_t bytes = 0;
  ASSERT_OK(radix_plan_bytes(ctx, &c, &bytes));
  std::vector<char> memory(bytes + 128, 0x55);
  char* begin = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64;
  c.memory = begin;
  c.memory_size = bytes;
  {
    Plan plan(ctx, c);
    ASSERT_OK(plan.update({r}, nullptr));
    const auto* at = reinterpret_cast<const char*>(plan.attn().context_lens);
    EXPECT_TRUE(at >= begin && at < begin + bytes);
  }
  for (const char* p = begin + bytes; p < memory.data() + memory.size(); ++p) EXPECT_EQ(*p, 0x55);
}

TEST(Plan, EveryAllocationMayFail) {
  CountingAllocator memory;
  radix_config config = small_config();
  config.host_alloc = memory.callbacks();
  Ctx ctx(config);
  const auto blocks = memory.blocks;
  const radix_plan_config c = plan_config(4);
  for (uint64_t n = 0;; ++n) {
    memory.fail_from = memory.calls + n;
    radix_plan* plan = nullptr;
    const radix_status st = radix_plan_create(ctx, &c, &plan);
    memory.fail_from = UINT64_MAX;
    if (st == RADIX_OK) {
      EXPECT_GT(n, 1u);
      radix_plan_destroy(&plan);
      EXPECT_EQ(plan, nullptr);
      EXPECT_EQ(memory.blocks, blocks);
      break;
    }
    ASSERT_EQ(st, RADIX_E_NOMEM);
    ASSERT_EQ(plan, nullptr);
    ASSERT_EQ(memory.blocks, blocks);
  }
}

}  // namespace
}  // namespace api_test
