// Short calls of the cache's C API for benchmarks: contexts without K/V memory, prompts of
// arbitrary tokens.
#pragma once

#include <cstdint>
#include <vector>

#include "context.h"
#include "radixattn.h"

namespace bench {

constexpr uint32_t kBlock = 16;

inline Context create(uint32_t num_blocks, uint32_t max_namespaces = 0) {
  radix_config config = {};
  config.struct_size = sizeof config;
  config.abi = RADIXATTN_ABI;
  config.flags = RADIX_CTX_METADATA_ONLY;
  config.num_layers = 1;
  config.num_kv_heads = 2;  // a shape for plans
  config.head_dim = 64;
  config.num_blocks = num_blocks;
  config.block_size = kBlock;
  config.max_requests = 512;
  config.max_namespaces = max_namespaces;
  radix_ctx* ctx = nullptr;
  check(radix_ctx_create(&config, &ctx), "radix_ctx_create");
  return Context(ctx);
}

inline std::vector<radix_token> prompt_of(uint32_t n, uint32_t seed) {
  std::vector<radix_token> t(n);
  uint32_t x = seed * 2654435761u + 1;
  for (radix_token& token : t) {
    x = x * 1664525u + 1013904223u;
    token = static_cast<radix_token>(x >> 15);
  }
  return t;
}

inline radix_request_desc desc_of(const std::vector<radix_token>& t) {
  radix_request_desc d = {};
  d.struct_size = sizeof d;
  d.tokens = t.data();
  d.num_tokens = t.size();
  return d;
}

inline radix_req begin(radix_ctx* ctx, const std::vector<radix_token>& t,
                       radix_match* m = nullptr) {
  const radix_request_desc d = desc_of(t);
  radix_req r = 0;
  check(radix_begin_request(ctx, &d, &r, m), "radix_begin_request");
  return r;
}

inline void append(radix_ctx* ctx, const std::vector<radix_append>& items,
                   std::vector<int64_t>* slots) {
  radix_append_out out = {};
  out.struct_size = sizeof out;
  out.slots = slots->data();
  out.slots_cap = slots->size();
  check(radix_append_slot(ctx, items.data(), static_cast<uint32_t>(items.size()), &out),
        "radix_append_slot");
}

inline void commit(radix_ctx* ctx, radix_req r, uint64_t num_tokens) {
  const radix_commit_item item = {r, num_tokens};
  check(radix_commit(ctx, &item, 1, nullptr), "radix_commit");
}

// begin, append of the rest, commit, free: t is cached afterwards.
inline void remember(radix_ctx* ctx, const std::vector<radix_token>& t, radix_ns ns = 0) {
  radix_request_desc d = desc_of(t);
  d.ns = ns;
  radix_match m = {};
  m.struct_size = sizeof m;
  radix_req r = 0;
  check(radix_begin_request(ctx, &d, &r, &m), "radix_begin_request");
  std::vector<int64_t> slots(t.size());
  append(ctx,
         {{r, t.data() + m.cached_tokens, static_cast<uint32_t>(t.size() - m.cached_tokens), 0}},
         &slots);
  commit(ctx, r, t.size());
  check(radix_free_request(ctx, r, 0), "radix_free_request");
}

}  // namespace bench
