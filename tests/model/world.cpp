// Creation, derived facts, and what becomes of blocks that a call let go.
#include "world.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <iostream>

namespace radixattn::model {
namespace {

void* RADIX_CALL test_alloc(void* user, size_t size, size_t align) {
  auto& a = *static_cast<TestAllocator*>(user);
  ++a.calls;
  if (a.fail_after == 0) {
    ++a.injected;
    return nullptr;
  }
  if (a.fail_after > 0) --a.fail_after;
  const size_t rounded = (size + align - 1) / align * align;
  void* p = std::aligned_alloc(align, rounded == 0 ? align : rounded);
  if (p == nullptr) return nullptr;
  std::memset(p, 0xa5, size);  // nothing may rely on zeroed memory
  a.live_bytes += size;
  ++a.live_blocks;
  return p;
}

void RADIX_CALL test_free(void* user, void* ptr, size_t size, size_t) {
  auto& a = *static_cast<TestAllocator*>(user);
  if (ptr == nullptr) return;
  std::memset(ptr, 0x5a, size);
  a.live_bytes -= size;
  --a.live_blocks;
  std::free(ptr);
}

radix_config config_of(const Shape& s, const radix_allocator* memory) {
  radix_config c{};
  c.struct_size = sizeof c;
  c.abi = RADIXATTN_ABI;
  c.flags = s.flags | RADIX_CTX_METADATA_ONLY;
  c.num_blocks = s.num_blocks;
  c.block_size = s.block_size;
  c.max_requests = s.max_requests;
  c.max_blocks_per_request = s.max_row;
  c.max_pins = s.max_pins;
  c.max_namespaces = s.max_namespaces;
  c.evict_policy = s.policy;
  c.host_alloc = memory;
  return c;
}

// Which number the first epoch_begin gives is read from a context of its own: a block given up
// before the first begin waits for the number before that one, which is retired from the start when
// it is 0.
radix_epoch epoch_at_start(const Shape& s) {
  if ((s.flags & RADIX_CTX_DEFER_FREE) == 0) return 0;
  const radix_config c = config_of(s, nullptr);
  radix_ctx* ctx = nullptr;
  CHECK_EQ(radix_ctx_create(&c, &ctx), RADIX_OK, "probe");
  radix_epoch first = 0;
  const radix_status st = radix_epoch_begin(ctx, &first);
  radix_ctx_destroy(&ctx);
  CHECK_EQ(st, RADIX_OK, "probe");
  CHECK(first == 1 || first == 2, "first epoch ", first);
  return first - 1;
}

}  // namespace

radix_allocator TestAllocator::table() {
  radix_allocator a{};
  a.struct_size = sizeof a;
  a.user = this;
  a.alloc = test_alloc;
  a.free = test_free;
  return a;
}

World::World(const Shape& shape, std::map<std::string, uint64_t>* coverage, bool trace)
    : shape_(shape), coverage_(coverage), trace_(trace) {
  epoch_ = epoch_at_start(shape);
  const radix_allocator memory = memory_.table();
  const radix_config c = config_of(shape, &memory);
  CHECK_EQ(radix_ctx_create(&c, &ctx_), RADIX_OK, "create");
  created_bytes_ = memory_.live_bytes;
  created_calls_ = memory_.calls;
  spaces_[0] = {};
  content_.assign(size_t{shape.num_blocks} * shape.block_size, kNothingWritten);
  radix_stats s{};
  s.struct_size = sizeof s;
  CHECK_EQ(radix_get_stats(ctx_, &s), RADIX_OK, "stats");
  namespaces_at_start_ = s.namespaces;
  verify();
}

// The destructor cannot report: a leak shows as memory that the last step's statistics did not
// know, and under ASan.
World::~World() {
  radix_ctx_destroy(&ctx_);
  if (memory_.live_blocks != 0) {
    std::cerr << "destroy left " << memory_.live_blocks << " allocations\n";
    std::abort();
  }
}

Hash World::seed_hash(radix_ns ns, uint64_t extra_key) const {
  return mix(mix(ns + 1) ^ mix(extra_key * 3 + 7));
}

std::vector<Hash> World::hash_all(radix_ns ns, uint64_t extra_key, const Tokens& t) const {
  std::vector<Hash> h(t.size() + 1);
  h[0] = seed_hash(ns, extra_key);
  for (size_t i = 0; i < t.size(); ++i)
    h[i + 1] = mix(h[i] ^ mix(static_cast<uint32_t>(t[i]) + 1u));
  return h;
}

// The cached blocks of the longest committed prefix, root first.
std::vector<Hash> World::cached_path(radix_ns ns, uint64_t extra_key, const Tokens& t) const {
  const std::vector<Hash> h = hash_all(ns, extra_key, t);
  std::vector<Hash> path;
  for (uint64_t i = 1; i <= full_blocks(t.size()); ++i) {
    const Hash end = h[i * shape_.block_size];
    if (tree_.count(end) == 0) break;
    path.push_back(end);
  }
  return path;
}

View World::view() const {
  View v;
  v.tree_of.assign(shape_.num_blocks, 0);
  v.holders.assign(shape_.num_blocks, 0);
  v.owner.assign(shape_.num_blocks, 0);
  v.is_free.assign(shape_.num_blocks, 1);
  auto take = [&](radix_block b, radix_ns ns) {
    v.owner[idx(b)] = ns;
    v.is_free[idx(b)] = 0;
  };
  for (const auto& [h, c] : tree_) {
    CHECK(v.tree_of[idx(c.block)] == 0, "block ", c.block, " caches two prefixes");
    v.tree_of[idx(c.block)] = h;
    ++v.children[c.parent];
    take(c.block, c.ns);
  }
  auto lease = [&](std::set<Hash>& into, Hash h) {
    for (auto it = tree_.find(h); it != tree_.end() && into.insert(it->first).second;)
      it = tree_.find(it->second.parent);
  };
  for (const auto& [id, r] : live_) {
    for (radix_block b : r.row) {
      ++v.holders[idx(b)];
      take(b, r.ns);
      if (v.tree_of[idx(b)] != 0) lease(v.leased, v.tree_of[idx(b)]);
    }
    if (r.committed > 0) lease(v.leased, r.hashes[r.committed]);
  }
  for (const auto& [id, p] : pins_)
    if (!p.held.empty()) lease(v.pinned, p.held.back());
  for (const auto& [b, g] : given_up_) {
    CHECK(v.is_free[idx(b)], "block ", b, " was given up and is in use");
    take(b, g.ns);
    ++v.deferred;
    if (g.fence <= retired_) ++v.maybe_free;
  }
  v.pinned_blocks = v.pinned.size();
  for (uint32_t b = 0; b < shape_.num_blocks; ++b) {
    if (v.is_free[b]) {
      ++v.free_blocks;
      continue;
    }
    if (given_up_.count(static_cast<radix_block>(b)) == 0) ++v.used[v.owner[b]];
    const Hash h = v.tree_of[b];
    if (h == 0) {
      if (v.holders[b] > 0) ++v.active;
    } else if (v.leased.count(h) != 0 || v.pinned.count(h) != 0) {
      ++v.active;
    } else if (tree_.at(h).fence > retired_) {
      ++v.deferred;
    } else {
      v.evictable.insert(h);
      ++v.evictable_in[v.owner[b]];
      if (tree_.at(h).fence_hi <= retired_) continue;
      v.maybe_fenced.insert(h);
      ++v.maybe_fenced_in[v.owner[b]];
    }
  }
  return v;
}

// After a call: blocks that nobody has any more go back, at once or after the fence; so do leases.
void World::settle(const View& before) {
  const View after = view();
  auto held = [](const View& v, Hash h) {
    return v.leased.count(h) != 0 || v.pinned.count(h) != 0;
  };
  for (uint32_t b = 0; b < shape_.num_blocks; ++b) {
    const auto block = static_cast<radix_block>(b);
    if (before.is_free[b] || !after.is_free[b] || given_up_.count(block) != 0) continue;
    const bool in_use =
        before.holders[b] > 0 || (before.tree_of[b] != 0 && held(before, before.tree_of[b]));
    if (has(RADIX_CTX_DEFER_FREE) && in_use && epoch_ > retired_)
      given_up_[block] = {epoch_, epoch_, before.owner[b]};
    else
      poison(block);
  }
  if (has(RADIX_CTX_DEFER_FREE)) {
    for (auto& [h, c] : tree_) {
      if (!held(before, h) || held(after, h)) continue;
      c.fence = epoch_;
      for (Hash around : chain_of(h)) tree_.at(around).fence_hi = epoch_;
    }
  }
  for (auto& [h, c] : tree_) {
    for (const auto& [id, r] : live_) {
      const bool named = std::find(r.row.begin(), r.row.end(), c.block) != r.row.end();
      if (named && id != c.publisher) c.used_by_others = true;
    }
  }
}

Request* World::pick(Rng& rng) {
  if (live_.empty()) return nullptr;
  auto it = live_.begin();
  std::advance(it, rng.below(live_.size()));
  return &it->second;
}

radix_ns World::pick_ns(Rng& rng) const {
  if (spaces_.size() == 1 || rng.percent(50)) return 0;
  auto it = spaces_.begin();
  std::advance(it, rng.below(spaces_.size()));
  return it->first;
}

// ---- running a call

void World::arm(Rng& rng) {
  injected_now_ = 0;
  if (!shape_.failing_memory || !rng.percent(15)) return;
  memory_.fail_after = rng.below(3);
  memory_.injected = 0;
}

radix_status World::disarm(radix_status st) {
  if (memory_.fail_after >= 0) {
    injected_now_ = memory_.injected;
    memory_.fail_after = -1;
  }
  return st;
}

// The call failed for the memory that was refused to it. (verify then finds that nothing has
// changed.)
bool World::out_of_memory(radix_status st) {
  if (st != RADIX_E_NOMEM) return false;
  CHECK(injected_now_ > 0, "NOMEM though no allocation failed");
  seen("event.nomem");
  return true;
}

void World::seen_status(const char* call, radix_status st) {
  seen(std::string(call) + "." + radix_status_name(st));
  note(std::string("  -> ") + radix_status_name(st));
  if (st == RADIX_OK) return;
  char text[512];
  CHECK(radix_last_error(text, sizeof text) > 0, call, " failed without a message");
  note(std::string("     ") + text);
}

void World::note(const std::string& text) {
  if (trace_) std::cerr << text << '\n';
}

void World::step(const Op& op) {
  ++now_;
  Rng rng(op.seed);
  note("#" + std::to_string(now_) + " kind " + std::to_string(static_cast<uint32_t>(op.kind)));
  switch (op.kind) {
    case Kind::kBegin:
      begin(rng);
      break;
    case Kind::kAppend:
      append(rng, false);
      break;
    case Kind::kAppendOne:
      append(rng, true);
      break;
    case Kind::kSetTokens:
      set_tokens(rng);
      break;
    case Kind::kCommit:
      commit(rng);
      break;
    case Kind::kTables:
      tables(rng);
      break;
    case Kind::kFork:
      fork(rng);
      break;
    case Kind::kTruncate:
      truncate(rng);
      break;
    case Kind::kFree:
      free_one(rng);
      break;
    case Kind::kEvict:
      evict(rng);
      break;
    case Kind::kMatch:
      match(rng);
      break;
    case Kind::kPin:
      pin(rng);
      break;
    case Kind::kUnpin:
      unpin(rng);
      break;
    case Kind::kClear:
      clear(rng);
      break;
    case Kind::kNsCreate:
      ns_create(rng);
      break;
    case Kind::kNsDestroy:
      ns_destroy(rng);
      break;
    case Kind::kEpochBegin:
      epoch_begin();
      break;
    case Kind::kEpochRetire:
      epoch_retire(rng);
      break;
    case Kind::kFindShared:
      find_shared(rng);
      break;
    case Kind::kGraph:
      graph(rng);
      break;
    case Kind::kStale:
      stale(rng);
      break;
    case Kind::kMisuse:
      misuse(rng);
      break;
    case Kind::kFlush:
      flush_all();
      break;
    case Kind::kCount:
      break;
  }
  disarm(RADIX_OK);
  verify();
}

}  // namespace radixattn::model
