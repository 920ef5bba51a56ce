// The oracle: what a context must contain, kept in plain containers and written from the header's
// text alone.
//
//   tree       every committed prefix of whole blocks, by the hash of its tokens (namespace and
//   extra key included) live       the requests with their tokens and block-table rows given_up
//   with DEFER_FREE: blocks that nobody holds, waiting for their epoch content    a stand-in for
//   K/V memory: for each slot the hash of the token prefix that was written there
//
// Everything else (who holds what, what is leased, what can be evicted, what is free) is computed
// anew from these whenever it is needed: slow and obvious. Where the contract leaves a choice to
// the library (which free block it takes, which lender), the choice is read back, checked against
// the rules, and entered here.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "harness.h"
#include "radixattn.h"

namespace radixattn::model {

using Tokens = std::vector<radix_token>;
using Row = std::vector<radix_block>;
using Hash = uint64_t;

constexpr uint64_t kNothingWritten = 0xdeadbeefdeadbeefu;

struct Shape {
  uint32_t block_size = 1, num_blocks = 1, max_requests = 4, max_row = 1, max_pins = 2,
           max_namespaces = 2;
  int32_t policy = RADIX_EVICT_LRU;
  uint32_t flags = 0;
  uint32_t prompts = 0;  // which of the six prompt shapes is the usual one
  bool failing_memory = false;
};

// Bounds on what the eviction order may know of a block. A node's run is used as one, and where
// nodes begin is the library's choice within an unbranched chain of blocks; so a block's own uses
// are the least and the chain's the most.
struct UseBounds {
  uint64_t last_lo = 0, last_hi = 0;
  uint64_t count_lo = 0, count_hi = 0;
  uint64_t born_lo = 0, born_hi = 0;
};

struct Cached {
  Tokens path;  // all tokens from the root to this block's end
  radix_ns ns = 0;
  uint64_t extra_key = 0;
  Hash parent = 0;
  radix_block block = -1;
  // The epoch whose launches may still read it. A fence is set on nodes, so a block may get that of
  // its chain: fence_hi.
  radix_epoch fence = 0, fence_hi = 0;
  UseBounds use;
  radix_req publisher = 0;
  bool used_by_others = false;  // this block, or (as the library counts by node) its chain
};

struct Request {
  radix_req id = 0;
  radix_ns ns = 0;
  uint64_t extra_key = 0;
  uint32_t flags = 0;
  Tokens prompt;             // what it was begun with: mostly what is appended first
  Tokens tokens;             // all of them, whether the library knows them or not
  std::vector<Hash> hashes;  // hashes[i]: of the first i tokens
  uint64_t known = 0, committed = 0, cached = 0;
  uint64_t borrowed_begin = 0, borrowed_end = 0;  // tokens borrowed at begin, cut by truncate
  uint64_t ready = 0;
  bool forked = false;
  uint64_t written = 0;  // leading tokens whose K/V this request knows to be written
  Row row;
  uint64_t version = 0;

  uint64_t length() const { return tokens.size(); }
};

struct Pin {
  radix_ns ns = 0;
  std::vector<Hash> held;
};

struct Namespace {
  std::string name;
  uint32_t quota = 0;
};

struct GivenUp {
  radix_epoch fence = 0, fence_hi = 0;
  radix_ns ns = 0;
};

// Who has which block: derived from a World, never stored.
struct View {
  std::vector<Hash> tree_of;      // by block: the prefix it caches, 0 = none
  std::vector<uint32_t> holders;  // by block: rows that name it
  std::vector<radix_ns> owner;    // by block: namespace, when not free
  std::vector<char> is_free;      // by block
  std::set<Hash> leased;          // by requests
  std::set<Hash> pinned;
  std::set<Hash> evictable;
  std::map<Hash, uint32_t> children;
  uint64_t free_blocks = 0, active = 0, deferred = 0, pinned_blocks = 0;
  uint64_t maybe_free = 0;      // of the given up
  std::set<Hash> maybe_fenced;  // of the evictable
  std::map<radix_ns, uint64_t> used, evictable_in, maybe_fenced_in;
};

struct Totals {
  uint64_t queried = 0, hit = 0, borrowed = 0, evicted = 0, published = 0, duplicates = 0,
           copies = 0;
};

// The allocator given to the context: counts, poisons, and fails on demand.
struct TestAllocator {
  uint64_t live_bytes = 0, live_blocks = 0, calls = 0;
  int64_t fail_after = -1;  // allocations that still succeed; -1 = all
  uint64_t injected = 0;
  radix_allocator table();
};

class World {
 public:
  World(const Shape& shape, std::map<std::string, uint64_t>* coverage, bool trace);
  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  void step(const Op& op);
  uint64_t steps() const { return now_; }

 private:
  // ---- derived facts (world.cpp)
  View view() const;
  Hash seed_hash(radix_ns ns, uint64_t extra_key) const;
  std::vector<Hash> hash_all(radix_ns ns, uint64_t extra_key, const Tokens& t) const;
  std::vector<Hash> cached_path(radix_ns ns, uint64_t extra_key, const Tokens& t) const;
  uint64_t blocks_for(uint64_t tokens) const {
    return (tokens + shape_.block_size - 1) / shape_.block_size;
  }
  uint64_t full_blocks(uint64_t tokens) const { return tokens / shape_.block_size; }
  bool shared(const View& v, radix_block b) const {
    return v.tree_of[idx(b)] != 0 || v.holders[idx(b)] > 1;
  }
  static size_t idx(radix_block b) { return static_cast<size_t>(b); }
  bool has(uint32_t flag) const { return (shape_.flags & flag) != 0; }
  void settle(const View& before);
  Request* pick(Rng& rng);
  radix_ns pick_ns(Rng& rng) const;

  // ---- the order of eviction (order.cpp)
  std::vector<Hash> chain_of(Hash h) const;
  void touch(const std::vector<Hash>& path, bool certain);
  void born(Hash h);
  void check_order(const std::set<Hash>& gone, const View& before, bool within_namespace) const;
  std::set<Hash> find_gone();
  void absorb_evictions(uint64_t count, const View& before, bool within_namespace, radix_ns only);

  // ---- K/V (content.cpp)
  void write_own(Request& r);
  void flush_all();
  void check_content() const;
  uint64_t& cell(const Row& row, uint64_t pos);
  void poison(radix_block b);

  // ---- calls
  void begin(Rng& rng);
  void check_pending(const Request& r, const radix_match& m, const Row& blocks,
                     const Tokens& prompt, uint64_t cap);
  struct AppendPlan;
  void append(Rng& rng, bool one_token);
  AppendPlan plan_append(const std::vector<radix_append>& items, uint32_t flags, bool reuse) const;
  void check_append_failure(const AppendPlan& p, radix_status st,
                            const radix_append_out& out) const;
  void finish_append(const AppendPlan& p, const std::vector<radix_append>& items,
                     const std::vector<Tokens>& texts, const radix_append_out& out,
                     const View& before);
  struct CommitPlan;
  void commit(Rng& rng);
  CommitPlan plan_commit(const std::vector<radix_commit_item>& items);
  void finish_commit(CommitPlan& p, const std::vector<radix_commit_item>& items,
                     const radix_commit_out& out);
  void remap_kept(Request& r, CommitPlan& p);
  void commit_along(const CommitPlan& p);
  void set_tokens(Rng& rng);
  void tables(Rng& rng);
  void fork(Rng& rng);
  void truncate(Rng& rng);
  void free_one(Rng& rng);
  void leave_tree(const std::set<Hash>& gone, const View& before);
  void check_discarded(const Request& r, const std::set<Hash>& gone, const View& before) const;
  void evict(Rng& rng);
  void match(Rng& rng);
  void pin(Rng& rng);
  void unpin(Rng& rng);
  void clear(Rng& rng);
  void ns_create(Rng& rng);
  void ns_destroy(Rng& rng);
  void epoch_begin();
  void epoch_retire(Rng& rng);
  void find_shared(Rng& rng);
  void graph(Rng& rng);
  void stale(Rng& rng);
  void misuse(Rng& rng);

  // ---- verification after every call (verify.cpp)
  void verify();
  void verify_stats(const View& v);
  void verify_request(Request& r, const View& v, const radix_block* row, size_t stride,
                      uint64_t version, int32_t length);
  void verify_promises(const Request& r, const View& v) const;
  void verify_rows();
  void verify_sharing() const;
  void verify_tree();
  Row fetch_row(radix_req r);
  radix_request_info info_of(radix_req r);

  // ---- prompts (prompts.cpp)
  Tokens prompt(Rng& rng);
  Tokens continuation(Rng& rng, const Request& r, uint32_t n);
  radix_request_desc desc(const Tokens& t, radix_ns ns, uint64_t key, uint32_t flags) const;

  // ---- running a call
  void arm(Rng& rng);
  radix_status disarm(radix_status st);
  bool out_of_memory(radix_status st);
  void seen(const std::string& what) { ++(*coverage_)[what]; }
  void seen_status(const char* call, radix_status st);
  void note(const std::string& text);

  Shape shape_;
  std::map<std::string, uint64_t>* coverage_;
  bool trace_;
  TestAllocator memory_;
  uint64_t created_bytes_ = 0, created_calls_ = 0;
  radix_ctx* ctx_ = nullptr;
  uint64_t now_ = 0;  // calls so far: the oracle's clock
  radix_epoch epoch_ = 0, retired_ = 0;
  std::map<Hash, Cached> tree_;
  std::map<radix_req, Request> live_;
  std::map<radix_pin, Pin> pins_;
  std::map<radix_ns, Namespace> spaces_;
  std::map<radix_block, GivenUp> given_up_;
  std::vector<uint64_t> content_;
  std::map<uint64_t, std::pair<radix_req, Row>> versions_;
  std::vector<radix_req> dead_requests_;
  std::vector<radix_pin> dead_pins_;
  std::vector<radix_ns> dead_spaces_;
  std::vector<Tokens> history_;  // prompts used so far: later ones extend or vary them
  Totals totals_;
  uint64_t namespaces_at_start_ = 0, last_clock_ = 0;
  // What the library said after the last call, within the bounds of the oracle: equal to it without
  // DEFER_FREE.
  uint64_t reported_free_ = 0, reported_cached_ = 0;
  std::map<radix_ns, uint64_t> reported_cached_in_;
  uint64_t injected_now_ = 0;
};

}  // namespace radixattn::model
