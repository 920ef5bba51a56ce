// The size rule: callers that were compiled with a smaller or a larger struct.
#include "api_support.h"

namespace api_test {
namespace {

// A struct in a buffer with a tail behind it.
template <class T>
class Tailed {
 public:
  explicit Tailed(const T& t, uint32_t size) {
    std::memset(bytes_, 0, sizeof bytes_);
    std::memcpy(bytes_, &t, sizeof t);
    std::memcpy(bytes_, &size, sizeof size);
  }
  T* get() { return reinterpret_cast<T*>(bytes_); }
  unsigned char& operator[](size_t i) { return bytes_[i]; }

 private:
  alignas(16) unsigned char bytes_[sizeof(T) + 64];
};

constexpr uint32_t kUnset[] = {0, 3, 5000, UINT32_MAX};

TEST(StructSize, ConfigOfEverySize) {
  const radix_config config = small_config();
  radix_ctx* ctx = nullptr;
  for (const uint32_t size : kUnset) {
    Tailed<radix_config> c(config, size);
    EXPECT_FAILS(RADIX_E_VERSION, "struct_size", radix_ctx_create(c.get(), &ctx));
    EXPECT_EQ(ctx, nullptr);
  }
  Tailed<radix_config> larger(config, sizeof(radix_config) + 64);
  EXPECT_OK(radix_ctx_create(larger.get(), &ctx));
  radix_ctx_destroy(&ctx);
  larger[sizeof(radix_config) + 63] = 1;
  EXPECT_FAILS(RADIX_E_VERSION, "cfg", radix_ctx_create(larger.get(), &ctx));
  // Cut behind head_dim: what is missing reads as 0, whatever lies there.
  Tailed<radix_config> smaller(config, offsetof(radix_config, head_dim_v));
  std::memset(&smaller[offsetof(radix_config, head_dim_v)], 0xff,
              sizeof(radix_config) - offsetof(radix_config, head_dim_v));
  ASSERT_OK(radix_ctx_create(smaller.get(), &ctx));
  radix_config resolved = sized<radix_config>();
  EXPECT_OK(radix_ctx_get_config(ctx, &resolved));
  EXPECT_EQ(resolved.head_dim_v, config.head_dim);
  radix_ctx_destroy(&ctx);
}

TEST(StructSize, DescOfEverySize) {
  Ctx ctx;
  const Tokens t = range(0, 5);
  const radix_request_desc d = desc_of(t);
  radix_req r = 0;
  for (const uint32_t size : kUnset) {
    Tailed<radix_request_desc> bad(d, size);
    EXPECT_FAILS(RADIX_E_VERSION, "struct_size", radix_begin_request(ctx, bad.get(), &r, nullptr));
  }
  Tailed<radix_request_desc> larger(d, sizeof d + 8);
  EXPECT_OK(radix_begin_request(ctx, larger.get(), &r, nullptr));
  larger[sizeof d] = 7;
  EXPECT_FAILS(RADIX_E_VERSION, "d", radix_begin_request(ctx, larger.get(), &r, nullptr));
}

// Calls `call` with an out-struct of every size from 4 on: nothing behind it is written, what is
// before equals the full answer.
template <class T, class Call>
void expect_written_up_to_size(Call call) {
  T full = sized<T>();
  ASSERT_OK(call(&full));
  for (uint32_t size = 4; size <= sizeof(T) + 32; size += 4) {
    Tailed<T> out(T{}, size);
    std::memset(&out[4], 0xa5, sizeof(T) + 60);
    ASSERT_OK(call(out.get())) << size;
    const uint32_t known = size < sizeof(T) ? size : sizeof(T);
    EXPECT_EQ(std::memcmp(&out[4], reinterpret_cast<unsigned char*>(&full) + 4, known - 4), 0)
        << size;
    for (size_t i = known; i < sizeof(T) + 64; ++i) ASSERT_EQ(out[i], 0xa5) << size << " " << i;
  }
  for (const uint32_t size : kUnset) {
    Tailed<T> out(T{}, size);
    EXPECT_EQ(call(out.get()), RADIX_E_VERSION) << size;
  }
}

TEST(StructSize, OutStructsAreWrittenAsFarAsTheyGo) {
  Ctx ctx;
  const radix_req r = ctx.start(range(0, 9));
  expect_written_up_to_size<radix_stats>([&](radix_stats* s) { return radix_get_stats(ctx, s); });
  expect_written_up_to_size<radix_request_info>(
      [&](radix_request_info* i) { return radix_get_request(ctx, r, i); });
  expect_written_up_to_size<radix_ns_info>(
      [&](radix_ns_info* i) { return radix_ns_get_info(ctx, 0, i); });
  expect_written_up_to_size<radix_config>(
      [&](radix_config* c) { return radix_ctx_get_config(ctx, c); });
}

TEST(StructSize, InOutStructsFollowBothRules) {
  Ctx ctx;
  const Tokens t = range(0, 9);
  ctx.commit(ctx.start(t));
  const radix_request_desc d = desc_of(t);
  int32_t blocks[4];
  radix_match m = sized<radix_match>();
  m.blocks = blocks;
  m.blocks_cap = 4;
  Tailed<radix_match> larger(m, sizeof m + 4);
  larger[sizeof m] = 1;
  EXPECT_FAILS(RADIX_E_VERSION, "m", radix_peek_prefix(ctx, &d, larger.get()));
  // Cut behind num_blocks: no array is seen, so none is written.
  Tailed<radix_match> cut(m, offsetof(radix_match, blocks));
  blocks[0] = -7;
  EXPECT_OK(radix_peek_prefix(ctx, &d, cut.get()));
  EXPECT_EQ(cut.get()->cached_tokens, 8u);
  EXPECT_EQ(blocks[0], -7);
}

TEST(StructSize, LaunchesAndSmallStructsToo) {
  Ctx ctx;
  for (const uint32_t size : kUnset) {
    radix_attn a = {};
    a.struct_size = size;
    uint64_t bytes = 0;
    EXPECT_FAILS(RADIX_E_VERSION, "struct_size", radix_attn_workspace(ctx, &a, &bytes));
    EXPECT_EQ(radix_prefill_launch(ctx, &a, nullptr), RADIX_E_VERSION);
    EXPECT_EQ(radix_paged_attention_launch(ctx, &a, nullptr), RADIX_E_VERSION);
    radix_rope_append p = {};
    p.struct_size = size;
    EXPECT_EQ(radix_rope_append_launch(ctx, &p, nullptr), RADIX_E_VERSION);
    radix_sample sample = {};
    sample.struct_size = size;
    EXPECT_EQ(radix_sample_workspace(ctx, &sample, &bytes), RADIX_E_VERSION);
    EXPECT_EQ(radix_sample_launch(ctx, &sample, nullptr), RADIX_E_VERSION);
    radix_verify verify = {};
    verify.struct_size = size;
    EXPECT_EQ(radix_verify_workspace(ctx, &verify, &bytes), RADIX_E_VERSION);
    EXPECT_EQ(radix_verify_launch(ctx, &verify, nullptr), RADIX_E_VERSION);
    radix_layer l = {};
    l.struct_size = size;
    EXPECT_FAILS(RADIX_E_VERSION, "struct_size", radix_layer_workspace(ctx, &l, &bytes));
    EXPECT_EQ(radix_layer_launch(ctx, &l, nullptr), RADIX_E_VERSION);
    radix_append_out out = {};
    out.struct_size = size;
    EXPECT_EQ(radix_append_slot(ctx, nullptr, 0, &out), RADIX_E_VERSION);
    radix_commit_out commit = {};
    commit.struct_size = size;
    EXPECT_EQ(radix_commit(ctx, nullptr, 0, &commit), RADIX_E_VERSION);
    radix_config config = small_config();
    CountingAllocator memory;
    radix_allocator allocator = *memory.callbacks();
    allocator.struct_size = size;
    config.host_alloc = &allocator;
    radix_ctx* none = nullptr;
    EXPECT_FAILS(RADIX_E_VERSION, "host_alloc", radix_ctx_create(&config, &none));
    EXPECT_EQ(memory.calls, 0u);
  }
}

TEST(StructSize, AnotherAbiNumberIsRefused) {
  radix_config c = small_config();
  c.abi = RADIXATTN_ABI + 1;
  radix_ctx* ctx = nullptr;
  EXPECT_FAILS(RADIX_E_VERSION, "abi", radix_ctx_create(&c, &ctx));
}

}  // namespace
}  // namespace api_test
