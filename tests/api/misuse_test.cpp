// Bad input: a clear error that names the argument, and nothing has changed.
#include "api_support.h"

namespace api_test {
namespace {

class Misuse : public ::testing::Test {
 protected:
  Misuse() {
    ctx_.commit(ctx_.start(range(100, 109)));
    request_ = ctx_.start(range(0, 9));
    before_ = ctx_.stats();
  }
  ~Misuse() override {
    const radix_stats after = ctx_.stats();
    EXPECT_EQ(std::memcmp(&before_, &after, sizeof after), 0) << "a failed call changed something";
  }
  Ctx ctx_;
  radix_req request_ = 0;
  radix_stats before_;
  Tokens tokens_ = range(0, 5);
};

int64_t take_all(void*, const void*, uint64_t len) { return static_cast<int64_t>(len); }

TEST_F(Misuse, ANullContextIsNamed) {
  const radix_request_desc d = desc_of(tokens_);
  radix_match m = sized<radix_match>();
  radix_append_out a = sized<radix_append_out>();
  radix_stats s = sized<radix_stats>();
  radix_ns_info i = sized<radix_ns_info>();
  radix_request_info q = sized<radix_request_info>();
  radix_config c = sized<radix_config>();
  radix_attn attn = sized<radix_attn>();
  radix_rope_append rope = sized<radix_rope_append>();
  uint64_t n = 0;
  uint32_t k = 0;
  radix_req r = 0;
  int32_t table[4];
  const radix_status all[] = {radix_begin_request(nullptr, &d, &r, nullptr),
                              radix_match_prefix(nullptr, &d, &m),
                              radix_peek_prefix(nullptr, &d, &m),
                              radix_append_slot(nullptr, nullptr, 0, &a),
                              radix_set_tokens(nullptr, 1, 0, nullptr, 0),
                              radix_commit(nullptr, nullptr, 0, nullptr),
                              radix_get_block_tables(nullptr, &r, 1, table, 4, nullptr, nullptr),
                              radix_get_request(nullptr, r, &q),
                              radix_get_tokens(nullptr, r, nullptr, 0, &n),
                              radix_fork(nullptr, r, 1, &r),
                              radix_truncate(nullptr, r, 0),
                              radix_free_request(nullptr, r, 0),
                              radix_evict(nullptr, 0, 1, nullptr),
                              radix_pin_prefix(nullptr, &d, &r, nullptr),
                              radix_unpin(nullptr, 1),
                              radix_clear(nullptr, 0),
                              radix_ns_create(nullptr, "a", 1, 0, &r),
                              radix_ns_destroy(nullptr, 1),
                              radix_ns_get_info(nullptr, 0, &i),
                              radix_epoch_begin(nullptr, &n),
                              radix_epoch_retire(nullptr, 0),
                              radix_get_stats(nullptr, &s),
                              radix_check(nullptr),
                              radix_find_shared(nullptr, &d, nullptr, 0, &k, &n),
                              radix_sharing_graph(nullptr, take_all, nullptr, 0),
                              radix_run_ops(nullptr, nullptr, 0, nullptr),
                              radix_copy_blocks(nullptr, nullptr, 0, nullptr),
                              radix_swap_bytes(nullptr, 0, &n),
                              radix_swap_out(nullptr, nullptr, 0, nullptr, 0, nullptr),
                              radix_swap_in(nullptr, nullptr, 0, nullptr, 0, nullptr),
                              radix_rope_append_launch(nullptr, &rope, nullptr),
                              radix_attn_workspace(nullptr, &attn, &n),
                              radix_paged_attention_launch(nullptr, &attn, nullptr),
                              radix_prefill_launch(nullptr, &attn, nullptr),
                              radix_ctx_get_config(nullptr, &c),
                              radix_ctx_kv_tensor(nullptr, 0, nullptr, nullptr)};
  for (size_t call = 0; call < std::size(all); ++call)
    EXPECT_EQ(all[call], RADIX_E_INVALID) << call;
  EXPECT_EQ(last_error(), "ctx is NULL");
  radix_ctx* none = nullptr;
  radix_ctx_destroy(&none);
  radix_ctx_destroy(nullptr);
}

TEST_F(Misuse, ANullArgumentIsNamed) {
  const radix_request_desc d = desc_of(tokens_);
  radix_match m = sized<radix_match>();
  uint64_t n = 0;
  uint32_t k = 0;
  radix_req r = 0;
  int32_t table[4];
  EXPECT_FAILS(RADIX_E_INVALID, "d is NULL", radix_begin_request(ctx_, nullptr, &r, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "out is NULL", radix_begin_request(ctx_, &d, nullptr, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "m is NULL", radix_match_prefix(ctx_, &d, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "d is NULL", radix_peek_prefix(ctx_, nullptr, &m));
  EXPECT_FAILS(RADIX_E_INVALID, "out is NULL", radix_append_slot(ctx_, nullptr, 0, nullptr));
  radix_append_out a = sized<radix_append_out>();
  EXPECT_FAILS(RADIX_E_INVALID, "items is NULL", radix_append_slot(ctx_, nullptr, 2, &a));
  EXPECT_FAILS(RADIX_E_INVALID, "t is NULL", radix_set_tokens(ctx_, request_, 0, nullptr, 1));
  EXPECT_FAILS(RADIX_E_INVALID, "items is NULL", radix_commit(ctx_, nullptr, 1, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "reqs is NULL",
               radix_get_block_tables(ctx_, nullptr, 1, table, 4, nullptr, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "tables is NULL",
               radix_get_block_tables(ctx_, &request_, 1, nullptr, 4, nullptr, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "out is NULL", radix_get_request(ctx_, request_, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "n is NULL", radix_get_tokens(ctx_, request_, nullptr, 0, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "out is NULL", radix_get_tokens(ctx_, request_, nullptr, 9, &n));
  EXPECT_FAILS(RADIX_E_INVALID, "out is NULL", radix_fork(ctx_, request_, 1, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "out is NULL", radix_pin_prefix(ctx_, &d, nullptr, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "name is NULL", radix_ns_create(ctx_, nullptr, 1, 0, &r));
  EXPECT_FAILS(RADIX_E_INVALID, "out is NULL", radix_ns_create(ctx_, "a", 1, 0, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "out is NULL", radix_epoch_begin(ctx_, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "out is NULL", radix_get_stats(ctx_, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "n is NULL", radix_find_shared(ctx_, &d, nullptr, 0, nullptr, &n));
  EXPECT_FAILS(RADIX_E_INVALID, "shared_tokens is NULL",
               radix_find_shared(ctx_, &d, nullptr, 0, &k, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "fn is NULL", radix_sharing_graph(ctx_, nullptr, nullptr, 0));
  EXPECT_FAILS(RADIX_E_INVALID, "ops is NULL", radix_run_ops(ctx_, nullptr, 1, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "src_dst_pairs is NULL",
               radix_copy_blocks(ctx_, nullptr, 1, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "out is NULL", radix_swap_bytes(ctx_, 1, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "blocks is NULL",
               radix_swap_out(ctx_, nullptr, 1, table, 16, nullptr));
  const radix_block block = 0;
  EXPECT_FAILS(RADIX_E_INVALID, "host is NULL",
               radix_swap_in(ctx_, &block, 1, nullptr, 16, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "d is NULL", radix_prefill_launch(ctx_, nullptr, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "d is NULL", radix_rope_append_launch(ctx_, nullptr, nullptr));
  radix_request_desc no_tokens = d;
  no_tokens.tokens = nullptr;
  EXPECT_FAILS(RADIX_E_INVALID, "tokens is NULL with num_tokens 5",
               radix_begin_request(ctx_, &no_tokens, &r, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "out_count is NULL", radix_device_count(0, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "out is NULL", radix_ctx_create(nullptr, nullptr));
  EXPECT_EQ(radix_struct_size(nullptr), 0u);
}

TEST_F(Misuse, UnknownFlagsAreNamed) {
  radix_request_desc d = desc_of(tokens_);
  radix_match m = sized<radix_match>();
  radix_req r = 0;
  d.flags = 0x10;
  EXPECT_FAILS(RADIX_E_INVALID, "d->flags has unknown bits 0x10",
               radix_begin_request(ctx_, &d, &r, nullptr));
  d.flags = RADIX_BEGIN_MATCH_ALL;
  EXPECT_FAILS(RADIX_E_INVALID, "d->flags", radix_match_prefix(ctx_, &d, &m));
  EXPECT_FAILS(RADIX_E_INVALID, "d->flags", radix_pin_prefix(ctx_, &d, &r, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "flags has unknown bits 0x2",
               radix_free_request(ctx_, request_, 2));
  radix_append_out out = sized<radix_append_out>();
  out.flags = 4;
  EXPECT_FAILS(RADIX_E_INVALID, "out->flags", radix_append_slot(ctx_, nullptr, 0, &out));
  EXPECT_FAILS(RADIX_E_INVALID, "format is 9", radix_sharing_graph(ctx_, take_all, nullptr, 9));
  int32_t count = 0;
  EXPECT_FAILS(RADIX_E_INVALID, "device is 9", radix_device_count(9, &count));
}

TEST_F(Misuse, ReservedFieldsMustBeZero) {
  const radix_append item = {request_, tokens_.data(), 1, 77};
  radix_append_out out = sized<radix_append_out>();
  EXPECT_FAILS(RADIX_E_INVALID, "items[0].reserved0 is 77",
               radix_append_slot(ctx_, &item, 1, &out));
  out.reserved0 = 5;
  EXPECT_FAILS(RADIX_E_INVALID, "out->reserved0 is 5", radix_append_slot(ctx_, nullptr, 0, &out));
  radix_commit_out published = sized<radix_commit_out>();
  published.reserved0 = 6;
  EXPECT_FAILS(RADIX_E_INVALID, "out->reserved0 is 6", radix_commit(ctx_, nullptr, 0, &published));
}

TEST_F(Misuse, StaleForgedAndMixedUpIds) {
  uint64_t n = 0;
  radix_request_info i = sized<radix_request_info>();
  const radix_req forged[] = {
      0,         1, request_ + (uint64_t{1} << 32), request_ ^ (uint64_t{1} << 30), request_ + 1,
      UINT64_MAX};
  for (const radix_req r : forged) {
    EXPECT_FAILS(RADIX_E_STALE, "0x", radix_get_request(ctx_, r, &i));
    EXPECT_EQ(radix_free_request(ctx_, r, 0), RADIX_E_STALE);
    EXPECT_EQ(radix_truncate(ctx_, r, 0), RADIX_E_STALE);
    EXPECT_EQ(radix_get_tokens(ctx_, r, nullptr, 0, &n), RADIX_E_STALE);
    EXPECT_EQ(radix_unpin(ctx_, r), RADIX_E_STALE);
    const radix_append item = {r, tokens_.data(), 1, 0};
    radix_append_out out = sized<radix_append_out>();
    EXPECT_EQ(radix_append_slot(ctx_, &item, 1, &out), RADIX_E_STALE);
    const radix_commit_item commit = {r, 0};
    EXPECT_EQ(radix_commit(ctx_, &commit, 1, nullptr), RADIX_E_STALE);
    if (r == 0) continue;  // the default namespace
    EXPECT_EQ(radix_clear(ctx_, r), r == RADIX_NS_ALL ? RADIX_E_BUSY : RADIX_E_STALE);
    EXPECT_EQ(radix_ns_destroy(ctx_, r), RADIX_E_STALE);
    radix_request_desc d = desc_of(tokens_);
    d.ns = r;
    radix_req out_id = 77;
    EXPECT_FAILS(RADIX_E_STALE, "ns is 0x", radix_begin_request(ctx_, &d, &out_id, nullptr));
    EXPECT_EQ(out_id, 77u);
  }
}

TEST_F(Misuse, ValuesOutOfRange) {
  int32_t table[4];
  EXPECT_FAILS(RADIX_E_INVALID, "row_stride is -1",
               radix_get_block_tables(ctx_, &request_, 1, table, -1, nullptr, nullptr));
  EXPECT_FAILS(RADIX_E_BUFFER, "row_stride is 2",
               radix_get_block_tables(ctx_, &request_, 1, table, 2, nullptr, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "row_stride is 9223372036854775807",
               radix_get_block_tables(ctx_, &request_, 1, table, INT64_MAX, nullptr, nullptr));
  const radix_req twice[] = {request_, request_};
  EXPECT_FAILS(RADIX_E_INVALID, "expected at most 2^52 elements in all 2 rows",
               radix_get_block_tables(ctx_, twice, 2, table, int64_t{1} << 52, nullptr, nullptr));
  alignas(8) char odd[64];
  EXPECT_FAILS(RADIX_E_INVALID, "tables is 0x",
               radix_get_block_tables(ctx_, &request_, 1, reinterpret_cast<int32_t*>(odd + 2), 4,
                                      nullptr, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "expected a multiple of 8",
               radix_get_block_tables(ctx_, &request_, 1, table, 4, nullptr,
                                      reinterpret_cast<uint64_t*>(odd + 4)));
  EXPECT_FAILS(RADIX_E_INVALID, "new_len is 10", radix_truncate(ctx_, request_, 10));
  EXPECT_FAILS(RADIX_E_INVALID, "pos 10", radix_set_tokens(ctx_, request_, 10, tokens_.data(), 1));
  EXPECT_FAILS(RADIX_E_INVALID, "",
               radix_set_tokens(ctx_, request_, 0, tokens_.data(), UINT64_MAX));
  EXPECT_FAILS(RADIX_E_STATE, "DEFER_FREE", radix_epoch_retire(ctx_, 0));
  EXPECT_FAILS(RADIX_E_BUSY, "requests", radix_clear(ctx_, 0));
  EXPECT_FAILS(RADIX_E_INVALID, "name_len is 0", radix_ns_create(ctx_, "a", 0, 0, &request_));
}

// One byte off, or two: refused before anything is read or written there.
TEST_F(Misuse, ArraysOffTheirAlignment) {
  alignas(8) char memory[256] = {};
  const auto odd = [&](auto** array) {
    *array = reinterpret_cast<std::remove_pointer_t<decltype(array)>>(memory + 2);
  };
  radix_request_desc d = sized<radix_request_desc>();
  radix_match m = sized<radix_match>();
  radix_req out = 77;
  odd(&d.tokens);
  d.num_tokens = 5;
  EXPECT_FAILS(RADIX_E_INVALID, "d->tokens is 0x", radix_begin_request(ctx_, &d, &out, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "d->tokens is 0x", radix_peek_prefix(ctx_, &d, &m));
  d.tokens = tokens_.data();
  odd(&m.blocks);
  EXPECT_FAILS(RADIX_E_INVALID, "m->blocks is 0x", radix_begin_request(ctx_, &d, &out, &m));
  EXPECT_FAILS(RADIX_E_INVALID, "m->blocks is 0x", radix_match_prefix(ctx_, &d, &m));
  EXPECT_EQ(out, 77u);
  radix_append item = {request_, nullptr, 1, 0};
  radix_append_out appended = sized<radix_append_out>();
  odd(&item.tokens);
  EXPECT_FAILS(RADIX_E_INVALID, "items[0].tokens is 0x",
               radix_append_slot(ctx_, &item, 1, &appended));
  item.tokens = tokens_.data();
  odd(&appended.slots);
  EXPECT_FAILS(RADIX_E_INVALID, "out->slots is 0x", radix_append_slot(ctx_, &item, 1, &appended));
  appended.slots = nullptr;
  odd(&appended.ops);
  EXPECT_FAILS(RADIX_E_INVALID, "out->ops is 0x", radix_append_slot(ctx_, &item, 1, &appended));
  const radix_commit_item commit = {request_, 4};
  radix_commit_out committed = sized<radix_commit_out>();
  odd(&committed.remaps);
  EXPECT_FAILS(RADIX_E_INVALID, "out->remaps is 0x", radix_commit(ctx_, &commit, 1, &committed));
  radix_token* tokens = nullptr;
  odd(&tokens);
  EXPECT_FAILS(RADIX_E_INVALID, "t is 0x", radix_set_tokens(ctx_, request_, 0, tokens, 1));
}

struct BadConfig {
  const char* word;
  radix_status status;
  void (*change)(radix_config*);
};

TEST(MisuseConfig, EveryFieldIsChecked) {
  static char kv[64];
  const BadConfig cases[] = {
      {"flags", RADIX_E_INVALID, [](radix_config* c) { c->flags = 0x100; }},
      {"device is 7", RADIX_E_INVALID, [](radix_config* c) { c->device = 7; }},
      {"RADIX_DEV_CUDA", RADIX_E_NO_DEVICE, [](radix_config* c) { c->device = RADIX_DEV_CUDA; }},
      {"RADIX_DEV_HIP", RADIX_E_UNSUPPORTED, [](radix_config* c) { c->device = RADIX_DEV_HIP; }},
      {"device_alloc", RADIX_E_INVALID,
       [](radix_config* c) {
         static const radix_allocator device = sized<radix_allocator>();
         c->device_alloc = &device;
       }},
      {"kv_dtype is 4", RADIX_E_UNSUPPORTED, [](radix_config* c) { c->kv_dtype = RADIX_F8_E4M3; }},
      {"device_index", RADIX_E_INVALID, [](radix_config* c) { c->device_index = 1; }},
      {"kv_dtype is 6", RADIX_E_UNSUPPORTED, [](radix_config* c) { c->kv_dtype = RADIX_I8; }},
      {"kv_dtype is 99", RADIX_E_INVALID, [](radix_config* c) { c->kv_dtype = 99; }},
      {"num_blocks is 0", RADIX_E_INVALID, [](radix_config* c) { c->num_blocks = 0; }},
      {"num_blocks", RADIX_E_INVALID, [](radix_config* c) { c->num_blocks = UINT32_MAX; }},
      {"memory_budget is 100", RADIX_E_INVALID,
       [](radix_config* c) { c->num_blocks = 0, c->memory_budget = 100; }},
      {"block_size is 257", RADIX_E_INVALID, [](radix_config* c) { c->block_size = 257; }},
      {"num_layers is 0", RADIX_E_INVALID, [](radix_config* c) { c->num_layers = 0; }},
      {"num_kv_heads is 0", RADIX_E_INVALID, [](radix_config* c) { c->num_kv_heads = 0; }},
      {"head_dim is 36", RADIX_E_INVALID, [](radix_config* c) { c->head_dim = 36; }},
      {"head_dim is 264", RADIX_E_INVALID, [](radix_config* c) { c->head_dim = 264; }},
      {"head_dim_v is 24", RADIX_E_INVALID, [](radix_config* c) { c->head_dim_v = 24; }},
      {"max_requests", RADIX_E_INVALID, [](radix_config* c) { c->max_requests = UINT32_MAX; }},
      {"max_pins", RADIX_E_INVALID, [](radix_config* c) { c->max_pins = UINT32_MAX; }},
      {"max_namespaces", RADIX_E_INVALID, [](radix_config* c) { c->max_namespaces = UINT32_MAX; }},
      {"max_blocks_per_request", RADIX_E_INVALID,
       [](radix_config* c) { c->max_blocks_per_request = UINT32_MAX; }},
      {"kv_layout is 2", RADIX_E_INVALID, [](radix_config* c) { c->kv_layout = 2; }},
      {"evict_policy is -1", RADIX_E_INVALID, [](radix_config* c) { c->evict_policy = -1; }},
      {"cpu_target is 6", RADIX_E_INVALID, [](radix_config* c) { c->cpu_target = 6; }},
      {"num_threads is 257", RADIX_E_INVALID, [](radix_config* c) { c->num_threads = 257; }},
      {"log_level", RADIX_E_INVALID, [](radix_config* c) { c->log_level = 5; }},
      {"reserved0", RADIX_E_INVALID, [](radix_config* c) { c->reserved0 = 1; }},
      {"next", RADIX_E_INVALID, [](radix_config* c) { c->next = c; }},
      {"kv_memory_size", RADIX_E_INVALID, [](radix_config* c) { c->kv_memory_size = 4096; }},
      {"kv_memory_size is 64", RADIX_E_INVALID,
       [](radix_config* c) {
         c->kv_memory = reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(kv) + 63) / 64 * 64);
         c->kv_memory_size = 64;
       }},
      {"multiple of 64", RADIX_E_INVALID,
       [](radix_config* c) {
         c->kv_memory = reinterpret_cast<void*>(uintptr_t{4100});
         c->kv_memory_size = 1u << 30;
       }},
      {"METADATA_ONLY", RADIX_E_INVALID,
       [](radix_config* c) {
         c->flags = RADIX_CTX_METADATA_ONLY;
         c->kv_memory = reinterpret_cast<void*>(uintptr_t{4096});
         c->kv_memory_size = 1u << 30;
       }},
      {"2^63", RADIX_E_INVALID,
       [](radix_config* c) {
         c->num_blocks = 1u << 30, c->block_size = 256, c->num_kv_heads = 65535, c->head_dim = 256;
         c->num_layers = 65535;
       }},
      {"num_kv_heads is 65536", RADIX_E_INVALID, [](radix_config* c) { c->num_kv_heads = 65536; }},
      {"num_layers is 65536", RADIX_E_INVALID, [](radix_config* c) { c->num_layers = 65536; }},
      {"pass the end of memory", RADIX_E_INVALID,
       [](radix_config* c) {
         c->kv_memory = reinterpret_cast<void*>(UINTPTR_MAX - 63);
         c->kv_memory_size = UINT64_MAX;
       }},
  };
  for (const BadConfig& bad : cases) {
    radix_config c = small_config();
    bad.change(&c);
    radix_ctx* ctx = reinterpret_cast<radix_ctx*>(uintptr_t{8});
    EXPECT_FAILS(bad.status, bad.word, radix_ctx_create(&c, &ctx));
    EXPECT_EQ(ctx, nullptr) << bad.word;
  }
}

TEST(MisuseConfig, HalfAnAllocatorOrExecutorIsRefused) {
  radix_config c = small_config();
  radix_ctx* ctx = nullptr;
  CountingAllocator memory;
  radix_allocator half = *memory.callbacks();
  half.reserved0 = 3;
  c.host_alloc = &half;
  EXPECT_FAILS(RADIX_E_INVALID, "host_alloc->reserved0 is 3", radix_ctx_create(&c, &ctx));
  half.reserved0 = 0;
  half.free = nullptr;
  EXPECT_FAILS(RADIX_E_INVALID, "host_alloc->free", radix_ctx_create(&c, &ctx));
  c.host_alloc = nullptr;
  radix_executor executor = sized<radix_executor>();
  c.executor = &executor;
  EXPECT_FAILS(RADIX_E_INVALID, "parallel_for", radix_ctx_create(&c, &ctx));
  executor.parallel_for = [](void*, uint32_t n, radix_task_fn task, void* arg) {
    for (uint32_t i = 0; i < n; ++i) task(arg, i);
  };
  c.num_threads = 2;
  EXPECT_FAILS(RADIX_E_INVALID, "num_threads is 2 with an executor", radix_ctx_create(&c, &ctx));
}

}  // namespace
}  // namespace api_test
