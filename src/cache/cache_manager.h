// The one place where tree, blocks, eviction and requests meet; what the control plane of the C API
// calls.
//
// Promises: every method is one atomic operation; a method that returns anything but RADIX_OK has
// changed nothing but statistics and the thread's message. Methods trust pointers (checked by
// src/api) and check values and ids themselves. Order comes from a logical clock. With
// `preallocate` no method after init() allocates. Thread rule: not thread-safe; src/api holds the
// context's lock. Does not: touch K/V memory, run operations, know dtypes or devices.
#pragma once

#include <cstdint>

#include "base/allocator.h"
#include "base/array.h"
#include "cache/block_pool.h"
#include "cache/eviction.h"
#include "cache/namespace_table.h"
#include "cache/radix_tree.h"
#include "cache/request_table.h"
#include "radixattn.h"

namespace radixattn {

struct CacheConfig {
  uint32_t num_blocks = 0;  // > 0
  uint32_t block_size = 16;
  uint32_t max_requests = 1024;
  uint32_t max_blocks_per_request = 0;  // > 0, resolved
  uint32_t max_pins = 64;
  uint32_t max_namespaces = 64;
  int32_t policy = RADIX_EVICT_LRU;
  uint64_t hash_seed = 0;  // see RadixTree::init
  bool preallocate = false;
  bool defer_free = false;
};

// Of a request, readable until the next call. Row entries as in cache/request_table.h.
struct RequestView {
  const uint32_t* row;
  uint32_t num_blocks;
  uint64_t num_tokens;
  uint64_t table_version;
};

class CacheManager {
 public:
  explicit CacheManager(HostAllocator* memory);
  CacheManager(const CacheManager&) = delete;
  CacheManager& operator=(const CacheManager&) = delete;

  radix_status init(const CacheConfig& config);  // once, before anything else; NOMEM

  radix_status begin(const radix_request_desc& d, radix_req* out, radix_match* m);  // m may be null
  radix_status match(const radix_request_desc& d, bool count_use, radix_match* m);
  radix_status append(const radix_append* items, uint32_t n, radix_append_out* out);
  radix_status set_tokens(radix_req r, uint64_t pos, const radix_token* tokens, uint64_t n);
  radix_status commit(const radix_commit_item* items, uint32_t n,
                      radix_commit_out* out);  // out may be null
  radix_status block_tables(const radix_req* reqs, uint32_t n, int32_t* tables, int64_t row_stride,
                            int32_t* context_lens, uint64_t* row_versions);
  radix_status view(radix_req id, const char* argument, RequestView* out) const;
  radix_status request_info(radix_req r, radix_request_info* out);
  radix_status tokens(radix_req r, radix_token* out, uint64_t cap, uint64_t* n);
  radix_status fork(radix_req parent, uint32_t n, radix_req* out);
  radix_status truncate(radix_req r, uint64_t new_len);
  radix_status free_request(radix_req r, uint32_t flags);
  radix_status evict(radix_ns ns, uint32_t want, uint32_t* freed);
  radix_status pin(const radix_request_desc& d, radix_pin* out, radix_match* m);  // m may be null
  radix_status unpin(radix_pin p);
  radix_status clear(radix_ns ns);
  radix_status ns_create(const char* name, size_t len, uint32_t quota, radix_ns* out);
  radix_status ns_destroy(radix_ns ns);
  radix_status ns_info(radix_ns ns, radix_ns_info* out);
  radix_status epoch_begin(radix_epoch* out);
  radix_status epoch_retire(radix_epoch upto);
  radix_status find_shared(const radix_request_desc& d, radix_req* out, uint32_t cap, uint32_t* n,
                           uint64_t* tokens);
  radix_status sharing_graph(radix_write_fn fn, void* user, int32_t format);
  void stats(radix_stats* out);  // all but host_bytes and kv_bytes
  radix_status check();

 private:
  // ---- cache_manager.cpp
  radix_status find_request(radix_req id, const char* argument, uint32_t* index) const;
  radix_status find_namespace(radix_ns id, uint32_t* index) const;
  radix_status check_desc(const radix_request_desc& d, uint32_t* ns) const;
  static uint32_t lease_of_request(uint32_t index) { return index * 2; }
  static uint32_t lease_of_pin(uint32_t index) { return index * 2 + 1; }
  uint64_t blocks_for(uint64_t tokens) const {
    return (tokens + config_.block_size - 1) / config_.block_size;
  }
  int32_t* block_tokens(uint32_t block) {
    return slot_tokens_.data() + uint64_t{block} * config_.block_size;
  }
  const int32_t* block_tokens(uint32_t block) const {
    return slot_tokens_.data() + uint64_t{block} * config_.block_size;
  }
  void bump_version(Request* r) { r->table_version = ++versions_; }
  void report_match(uint64_t cached, uint64_t pending, uint64_t blocks, radix_match* m) const;
  void drop_private(uint32_t ns, uint32_t block);  // one holder of a private block less
  void copy_tokens(uint32_t request, uint64_t n, int32_t* out) const;

  // ---- begin.cpp
  radix_status reserve_for_begin(uint32_t new_requests, uint32_t new_roots);
  Position lookup(uint32_t ns, const radix_request_desc& d, int32_t* out, uint64_t cap,
                  uint32_t* root) const;
  uint32_t find_lender(Position at, const radix_request_desc& d, uint64_t max_blocks,
                       uint32_t* num_blocks) const;
  uint32_t shared_pending(const Request& lender, Position at, const radix_request_desc& d,
                          uint64_t max_blocks) const;
  void borrow(uint32_t index, uint32_t lender, uint32_t num_blocks);
  void promise_broken(uint32_t lender);

  // ---- append.cpp
  struct AppendPlan {
    uint64_t need_blocks, need_slots;
    uint32_t need_ops;
    uint32_t dropped_refs;
    uint32_t short_blocks;
    uint32_t first_item;  // position in the caller's array
  };
  radix_status plan_append(const radix_append* items, uint32_t n, AppendPlan* plan);
  radix_status plan_item(const radix_append& item, uint32_t position, AppendPlan* plan);
  radix_status reserve_rows(const radix_append* items, uint32_t n);
  radix_status plan_capacity(const radix_append* items, uint32_t n, AppendPlan* plan);
  radix_status append_batch(const radix_append* items, uint32_t n, radix_append_out* out);
  uint32_t make_room(const radix_append* items, uint32_t n, uint64_t need);
  bool needs_copy(const Request& r) const;
  void copy_on_write(uint32_t index, radix_append_out* out);
  void append_item(const radix_append& item, radix_append_out* out);
  uint32_t take_block_run(Request* r, uint32_t want);

  // ---- commit.cpp
  radix_status plan_commit(const radix_commit_item* items, uint32_t n, radix_commit_out* out);
  void commit_one(uint32_t index, uint32_t target, radix_commit_out* out);
  void mark_family(uint32_t index, uint32_t target);
  void remap_to(uint32_t index, uint32_t entry, int32_t cached, radix_commit_out* out);
  void remap_kept(uint32_t index, radix_commit_out* out);
  Position walk_or_publish(uint32_t index, uint32_t target, radix_commit_out* out);
  uint32_t match_own_run(const Request& r, Position at, uint32_t target) const;
  void settle_duplicates(uint32_t index, Position at, uint32_t count, radix_commit_out* out);
  Position publish(uint32_t index, Position at, uint32_t target);
  void advance_family(uint32_t index, uint32_t old_blocks, Position end);

  // ---- dump.cpp
  uint64_t shared_tokens(const Request& r, const radix_request_desc& d) const;

  // ---- lifecycle.cpp
  radix_status create_children(uint32_t n, uint64_t row, radix_req* out);
  void copy_to_child(uint32_t parent, uint32_t child);
  void shrink_lease(uint32_t index, uint32_t blocks);
  void shorten_promises(uint32_t lender, uint32_t whole_blocks);
  void discard_own_blocks(Position end, uint32_t keep_blocks);

  // ---- maintenance.cpp
  uint32_t evict_from(uint32_t ns, uint64_t want);  // ns kNone: everywhere
  void trim_one(uint32_t node, bool fenced);
  void clear_namespace(uint32_t ns);
  uint64_t pinned_blocks();

  // ---- checker.cpp
  radix_status check_request(uint32_t index) const;
  radix_status check_row(uint32_t index) const;
  radix_status check_promise(uint32_t index) const;
  radix_status check_owners();
  radix_status check_refs() const;
  radix_status check_namespaces();

  HostAllocator* memory_;
  CacheConfig config_;
  BlockPool pool_;
  RadixTree tree_;
  RequestTable requests_;
  PinTable pins_;
  NamespaceTable namespaces_;
  // Token ids by slot, of private and cached blocks.
  Array<int32_t> slot_tokens_;  // [num_blocks * block_size]
  Array<uint32_t> scratch_;     // [num_blocks] of check()
  uint64_t clock_ = 0;
  uint64_t versions_ = 0;
  uint64_t cover_serial_ = 0;
  uint64_t epoch_now_ = 0, epoch_retired_ = 0;
  uint32_t batch_mark_ = 0;
  radix_stats counters_ = {};  // the statistics part only

  friend class SharingGraph;      // dump.cpp
  friend struct CacheTestAccess;  // tests break invariants on purpose, to see that check() finds
                                  // them
};

}  // namespace radixattn
