// What the API tests share: an allocator that counts and fails on demand, short calls, a naive
// attention.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "radixattn.h"

namespace api_test {

inline std::string last_error() {
  char text[1024];
  radix_last_error(text, sizeof text);
  return text;
}

// The status, and a message that names `word`.
#define EXPECT_FAILS(expected, word, call)                            \
  do {                                                                \
    EXPECT_EQ(call, expected) << ::api_test::last_error();            \
    EXPECT_NE(::api_test::last_error().find(word), std::string::npos) \
        << "message: " << ::api_test::last_error();                   \
  } while (0)
#define ASSERT_OK(call) ASSERT_EQ(call, RADIX_OK) << ::api_test::last_error()
#define EXPECT_OK(call) EXPECT_EQ(call, RADIX_OK) << ::api_test::last_error()

template <class T>
T sized() {
  T t = {};
  t.struct_size = sizeof(T);
  return t;
}

class CountingAllocator {
 public:
  CountingAllocator() {
    callbacks_ = sized<radix_allocator>();
    callbacks_.user = this;
    callbacks_.alloc = take;
    callbacks_.free = give;
  }
  const radix_allocator* callbacks() const { return &callbacks_; }

  uint64_t fail_from = UINT64_MAX;  // calls with this number and, with for_ever, later ones fail
  bool for_ever = false;
  uint64_t calls = 0, injected = 0;
  int64_t bytes = 0, blocks = 0;

 private:
  static void* take(void* user, size_t size, size_t align) {
    auto& self = *static_cast<CountingAllocator*>(user);
    const uint64_t call = self.calls++;
    if (call == self.fail_from || (self.for_ever && call > self.fail_from)) {
      ++self.injected;
      return nullptr;
    }
    self.bytes += static_cast<int64_t>(size);
    ++self.blocks;
    return std::aligned_alloc(align, (size + align - 1) / align * align);
  }
  static void give(void* user, void* p, size_t size, size_t) {
    auto& self = *static_cast<CountingAllocator*>(user);
    self.bytes -= static_cast<int64_t>(size);
    --self.blocks;
    std::free(p);
  }
  radix_allocator callbacks_;
};

inline radix_config small_config(uint32_t num_blocks = 16, uint32_t block_size = 4) {
  radix_config c = sized<radix_config>();
  c.abi = RADIXATTN_ABI;
  c.kv_dtype = RADIX_F32;
  c.num_blocks = num_blocks;
  c.block_size = block_size;
  c.num_layers = 2;
  c.num_kv_heads = 2;
  c.head_dim = 32;
  return c;
}

using Tokens = std::vector<radix_token>;

inline Tokens range(int32_t begin, int32_t end) {
  Tokens t;
  for (int32_t i = begin; i < end; ++i) t.push_back(i);
  return t;
}

inline radix_request_desc desc_of(const Tokens& t, uint32_t flags = 0, radix_ns ns = 0) {
  radix_request_desc d = sized<radix_request_desc>();
  d.flags = flags;
  d.ns = ns;
  d.tokens = t.data();
  d.num_tokens = t.size();
  return d;
}

class Ctx {
 public:
  Ctx() : Ctx(small_config()) {}
  explicit Ctx(const radix_config& config) { EXPECT_OK(radix_ctx_create(&config, &ctx_)); }
  ~Ctx() {
    if (ctx_ != nullptr) {
      EXPECT_OK(radix_check(ctx_));
    }
    radix_ctx_destroy(&ctx_);
  }
  Ctx(const Ctx&) = delete;
  Ctx& operator=(const Ctx&) = delete;
  operator radix_ctx*() const { return ctx_; }  // NOLINT(google-explicit-constructor)

  radix_req begin(const Tokens& t, uint32_t flags = 0, radix_ns ns = 0) {
    const radix_request_desc d = desc_of(t, flags, ns);
    radix_req r = 0;
    EXPECT_OK(radix_begin_request(ctx_, &d, &r, nullptr));
    return r;
  }
  struct Appended {
    radix_status status;
    std::vector<int64_t> slots;
    std::vector<radix_op> ops;
  };
  Appended append(radix_req r, const Tokens& t) {
    Appended a = {RADIX_OK, std::vector<int64_t>(t.size()), std::vector<radix_op>(1)};
    const radix_append item = {r, t.data(), static_cast<uint32_t>(t.size()), 0};
    radix_append_out out = sized<radix_append_out>();
    out.slots = a.slots.data();
    out.slots_cap = a.slots.size();
    out.ops = a.ops.data();
    out.ops_cap = 1;
    a.status = radix_append_slot(ctx_, &item, 1, &out);
    a.ops.resize(out.num_ops);
    return a;
  }
  // begin and append of what is not cached
  radix_req start(const Tokens& t, uint32_t flags = 0, radix_ns ns = 0) {
    const radix_req r = begin(t, flags, ns);
    const auto have = static_cast<int64_t>(info(r).num_tokens);
    EXPECT_EQ(append(r, Tokens(t.begin() + have, t.end())).status, RADIX_OK);
    return r;
  }
  void commit(radix_req r) {
    const radix_commit_item item = {r, info(r).num_tokens};
    EXPECT_OK(radix_commit(ctx_, &item, 1, nullptr));
  }
  void free(radix_req r) { EXPECT_OK(radix_free_request(ctx_, r, 0)); }
  radix_request_info info(radix_req r) {
    radix_request_info i = sized<radix_request_info>();
    EXPECT_OK(radix_get_request(ctx_, r, &i));
    return i;
  }
  radix_stats stats() {
    radix_stats s = sized<radix_stats>();
    EXPECT_OK(radix_get_stats(ctx_, &s));
    return s;
  }
  std::vector<int32_t> row(radix_req r) {
    std::vector<int32_t> t(info(r).num_blocks + 1);
    EXPECT_OK(radix_get_block_tables(ctx_, &r, 1, t.data(), static_cast<int64_t>(t.size()), nullptr,
                                     nullptr));
    t.pop_back();
    return t;
  }

 private:
  radix_ctx* ctx_ = nullptr;
};

inline radix_tensor tensor(void* data, int32_t dtype, std::vector<int64_t> shape,
                           std::vector<int64_t> stride = {}) {
  radix_tensor t = {};
  t.data = data;
  t.dtype = dtype;
  t.ndim = static_cast<int32_t>(shape.size());
  for (size_t i = 0; i < shape.size(); ++i) t.shape[i] = shape[i];
  for (size_t i = 0; i < stride.size(); ++i) t.stride[i] = stride[i];
  return t;
}

// A deterministic value in (-1, 1).
inline float value(uint32_t seed, uint32_t i) {
  uint32_t x = seed * 2654435761u + i * 40503u + 12345u;
  x ^= x >> 15;
  x *= 2246822519u;
  x ^= x >> 13;
  return static_cast<float>(x % 20001) / 10001.f - 1.f;
}

}  // namespace api_test
