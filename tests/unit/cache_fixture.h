// A small cache for tests: short calls that check what they return, and the invariants after every
// change.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/error.h"
#include "cache/cache_manager.h"

namespace radixattn {

using Tokens = std::vector<int32_t>;

inline Tokens range(int32_t begin, int32_t end) {
  Tokens t;
  for (int32_t i = begin; i < end; ++i) t.push_back(i);
  return t;
}
inline Tokens operator+(Tokens a, const Tokens& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

struct Appended {
  radix_status status;
  std::vector<int64_t> slots;
  std::vector<radix_op> ops;
  radix_append_out out;
};

class Cache {
 public:
  explicit Cache(uint32_t num_blocks = 16, uint32_t block_size = 2)
      : Cache(config_of(num_blocks, block_size)) {}
  explicit Cache(const CacheConfig& config) : manager_(&memory_), block_size_(config.block_size) {
    EXPECT_EQ(manager_.init(config), RADIX_OK);
  }
  ~Cache() { EXPECT_EQ(manager_.check(), RADIX_OK) << last_message(); }

  static CacheConfig config_of(uint32_t num_blocks, uint32_t block_size) {
    CacheConfig c;
    c.num_blocks = num_blocks;
    c.block_size = block_size;
    c.max_requests = 16;
    c.max_blocks_per_request = num_blocks;
    return c;
  }

  CacheManager* operator->() { return &manager_; }
  CacheManager& manager() { return manager_; }

  static radix_request_desc desc(const Tokens& t, uint32_t flags = 0, radix_ns ns = 0,
                                 uint64_t extra_key = 0) {
    radix_request_desc d = {};
    d.struct_size = sizeof d;
    d.flags = flags;
    d.ns = ns;
    d.extra_key = extra_key;
    d.tokens = t.data();
    d.num_tokens = t.size();
    return d;
  }

  radix_req begin(const Tokens& t, uint32_t flags = 0, radix_ns ns = 0, uint64_t extra_key = 0) {
    radix_req r = 0;
    match_ = {};
    EXPECT_EQ(manager_.begin(desc(t, flags, ns, extra_key), &r, &match_), RADIX_OK)
        << last_message();
    check();
    return r;
  }
  // begin, then append of what is not there yet
  radix_req start(const Tokens& t, uint32_t flags = 0, radix_ns ns = 0, uint64_t extra_key = 0) {
    const radix_req r = begin(t, flags, ns, extra_key);
    const uint64_t have = info(r).num_tokens;
    if (have < t.size()) {
      const Appended a = append(r, Tokens(t.begin() + static_cast<int64_t>(have), t.end()));
      EXPECT_EQ(a.status, RADIX_OK) << last_message();
    }
    return r;
  }
  // start, commit everything, free: what a finished request leaves behind
  void remember(const Tokens& t, radix_ns ns = 0, uint64_t extra_key = 0) {
    const radix_req r = start(t, 0, ns, extra_key);
    commit(r);
    free(r);
  }

  Appended append(const std::vector<radix_append>& items, uint32_t flags = 0) {
    Appended a = {};
    uint64_t tokens = 0;
    for (const radix_append& item : items) tokens += item.num_tokens;
    a.slots.resize(tokens);
    a.ops.resize(items.size());
    a.out.flags = flags;
    a.out.slots = a.slots.data();
    a.out.slots_cap = a.slots.size();
    a.out.ops = a.ops.data();
    a.out.ops_cap = static_cast<uint32_t>(a.ops.size());
    a.status = manager_.append(items.data(), static_cast<uint32_t>(items.size()), &a.out);
    a.slots.resize(a.out.num_slots);
    a.ops.resize(a.out.num_ops);
    check();
    return a;
  }
  Appended append(radix_req r, const Tokens& t) {
    return append({{r, t.data(), static_cast<uint32_t>(t.size()), 0}});
  }

  radix_commit_out commit(radix_req r) { return commit(r, info(r).num_tokens); }
  radix_commit_out commit(radix_req r, uint64_t num_valid_tokens) {
    remaps_.resize(64);
    radix_commit_out out = {};
    out.remaps = remaps_.data();
    out.remaps_cap = static_cast<uint32_t>(remaps_.size());
    const radix_commit_item item = {r, num_valid_tokens};
    EXPECT_EQ(manager_.commit(&item, 1, &out), RADIX_OK) << last_message();
    remaps_.resize(out.num_remaps);
    check();
    return out;
  }
  std::vector<radix_req> fork(radix_req r, uint32_t n) {
    std::vector<radix_req> out(n);
    EXPECT_EQ(manager_.fork(r, n, out.data()), RADIX_OK) << last_message();
    check();
    return out;
  }
  void truncate(radix_req r, uint64_t new_len) {
    EXPECT_EQ(manager_.truncate(r, new_len), RADIX_OK) << last_message();
    check();
  }
  void free(radix_req r, uint32_t flags = 0) {
    EXPECT_EQ(manager_.free_request(r, flags), RADIX_OK) << last_message();
    check();
  }
  uint32_t evict(uint32_t want, radix_ns ns = RADIX_NS_ALL) {
    uint32_t freed = 0;
    EXPECT_EQ(manager_.evict(ns, want, &freed), RADIX_OK) << last_message();
    check();
    return freed;
  }

  radix_request_info info(radix_req r) {
    radix_request_info i = {};
    EXPECT_EQ(manager_.request_info(r, &i), RADIX_OK) << last_message();
    return i;
  }
  std::vector<int32_t> row(radix_req r) {
    std::vector<int32_t> t(info(r).num_blocks);
    EXPECT_EQ(
        manager_.block_tables(&r, 1, t.data(), static_cast<int64_t>(t.size()), nullptr, nullptr),
        RADIX_OK);
    return t;
  }
  radix_stats stats() {
    radix_stats s = {};
    manager_.stats(&s);
    return s;
  }
  // cached tokens of a prompt, without counting a use
  uint64_t peek(const Tokens& t, radix_ns ns = 0, uint64_t extra_key = 0) {
    radix_match m = {};
    EXPECT_EQ(manager_.match(desc(t, 0, ns, extra_key), false, &m), RADIX_OK);
    return m.cached_tokens;
  }
  std::string graph(int32_t format) {
    std::string text;
    const radix_write_fn write = [](void* user, const void* buf, uint64_t len) {
      static_cast<std::string*>(user)->append(static_cast<const char*>(buf), len);
      return static_cast<int64_t>(len);
    };
    EXPECT_EQ(manager_.sharing_graph(write, &text, format), RADIX_OK) << last_message();
    return text;
  }

  uint64_t host_bytes() const { return memory_.bytes(); }
  void check() { EXPECT_EQ(manager_.check(), RADIX_OK) << last_message(); }

  const radix_match& last_match() const { return match_; }
  const std::vector<radix_remap>& remaps() const { return remaps_; }
  uint32_t block_size() const { return block_size_; }

 private:
  HostAllocator memory_;
  CacheManager manager_;
  uint32_t block_size_;
  radix_match match_ = {};
  std::vector<radix_remap> remaps_;
};

}  // namespace radixattn
