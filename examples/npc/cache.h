// The KV cache of the example: a radixattn context, its calls as C++ with exceptions.
//
// Thread rule: one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "device_memory.h"
#include "radixattn.h"

namespace npc {

// Tokens that a request gets slots for.
struct Append {
  radix_req req;
  std::span<const int32_t> tokens;
};

// Leading tokens of a prompt that need not be computed: found cached, or borrowed from a request
// that computes them now.
struct Found {
  uint64_t cached = 0, pending = 0;

  uint64_t tokens() const { return cached + pending; }
};

class Cache {
 public:
  Cache(DeviceMemory* device, const radix_config& config);  // device outlives it

  radix_ctx* ctx() const { return ctx_.get(); }

  radix_req begin(std::span<const int32_t> tokens, uint32_t flags, Found* found);
  // Slots for all items or none; false: out of blocks. Blocks are copied where they are shared.
  bool append(std::span<const Append> items);
  radix_req fork(radix_req parent);
  void truncate(radix_req req, uint64_t length);
  void commit(std::span<const radix_commit_item> items);
  void free(radix_req req, bool keep);  // keep: what is committed stays cached

  radix_request_info info(radix_req req) const;
  radix_stats stats() const;
  std::string sharing_graph() const;  // as JSON
  void check() const;                 // the library's own check of every invariant

 private:
  struct Destroy {
    void operator()(radix_ctx* ctx) const { radix_ctx_destroy(&ctx); }
  };

  DeviceMemory* device_;
  std::unique_ptr<radix_ctx, Destroy> ctx_;
};

}  // namespace npc
