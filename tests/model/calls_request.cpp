// fork, truncate, free, block tables.
#include <algorithm>

#include "world.h"

namespace radixattn::model {

void World::fork(Rng& rng) {
  Request* parent = pick(rng);
  if (parent == nullptr) return;
  flush_all();
  const uint32_t n = rng.range(1, 3);
  std::vector<radix_req> out(n, 0);
  const View v = view();
  uint64_t pending = 0;
  for (uint64_t t = parent->borrowed_begin; t < parent->borrowed_end; ++t)
    if (v.tree_of[idx(parent->row[t / shape_.block_size])] == 0) ++pending;
  const bool borrows = info_of(parent->id).pending_tokens > 0;
  CHECK(!borrows || pending > 0, "borrows though nothing is pending");
  arm(rng);
  const radix_status st = disarm(radix_fork(ctx_, parent->id, n, out.data()));
  seen_status("fork", st);
  if (out_of_memory(st)) return;
  const bool full = has(RADIX_CTX_PREALLOCATE) && live_.size() + n > shape_.max_requests;
  if (parent->known < parent->length() || borrows) {
    CHECK(st == RADIX_E_STATE || (full && st == RADIX_E_FULL), "fork gives ",
          radix_status_name(st));
    return;
  }
  if (full) {
    CHECK_EQ(st, RADIX_E_FULL, "fork beyond max_requests");
    return;
  }
  CHECK_EQ(st, RADIX_OK, "fork");
  const Request original = *parent;
  for (auto& [h, c] : tree_)
    if (v.leased.count(h) != 0) c.used_by_others = true;  // a fork is another user of the path
  for (radix_req id : out) {
    touch({v.leased.begin(), v.leased.end()}, false);  // the parent's path; others' at most
    CHECK(id != 0 && live_.count(id) == 0, "fork id ", id);
    CHECK(std::find(dead_requests_.begin(), dead_requests_.end(), id) == dead_requests_.end(),
          "id ", id, " came again");
    Request r = original;
    r.id = id;
    r.forked = true;
    r.version = 0;
    r.ready = 0;
    r.borrowed_begin = r.borrowed_end = 0;
    const radix_request_info info = info_of(id);
    CHECK_EQ(info.committed_tokens, original.committed, "committed_tokens of a fork");
    r.cached = info.cached_tokens;
    live_[id] = r;
  }
  settle(v);
}

void World::truncate(Rng& rng) {
  Request* r = pick(rng);
  if (r == nullptr) return;
  const uint64_t bs = shape_.block_size;
  uint64_t n = rng.percent(30) ? rng.below(r->length() + 1)
                               : r->length() - std::min<uint64_t>(r->length(), rng.below(bs + 2));
  if (rng.percent(3)) n = r->length() + 1;
  note("truncate " + std::to_string(r->id) + " from " + std::to_string(r->length()) + " to " +
       std::to_string(n));
  const View before = view();
  arm(rng);
  const radix_status st = disarm(radix_truncate(ctx_, r->id, n));
  seen_status("truncate", st);
  if (n > r->length()) {
    CHECK_EQ(st, RADIX_E_INVALID, "truncate beyond the length");
    return;
  }
  CHECK_EQ(st, RADIX_OK, "truncate never fails for lack of memory");
  if (n < r->committed) seen("event.truncate_committed");
  r->tokens.resize(n);
  r->hashes.resize(n + 1);
  r->row.resize(blocks_for(n));
  r->known = std::min(r->known, n);
  r->committed = std::min(r->committed, full_blocks(n) * bs);
  r->written = std::min(r->written, n);
  r->borrowed_begin = std::min(r->borrowed_begin, n);
  r->borrowed_end = std::min(r->borrowed_end, n);
  settle(before);
}

void World::free_one(Rng& rng) {
  Request* r = pick(rng);
  if (r == nullptr) return;
  const View before = view();
  const Request gone = *r;
  const bool discard = rng.percent(25);
  note("free " + std::to_string(gone.id) + (discard ? " discard" : ""));
  arm(rng);
  const radix_status st =
      disarm(radix_free_request(ctx_, gone.id, discard ? RADIX_FREE_DISCARD : 0));
  seen_status("free", st);
  CHECK_EQ(st, RADIX_OK, "free never fails for lack of memory");
  CHECK_EQ(radix_free_request(ctx_, gone.id, 0), RADIX_E_STALE, "second free");
  live_.erase(gone.id);
  dead_requests_.push_back(gone.id);
  if (discard) {
    const std::set<Hash> left = find_gone();
    check_discarded(gone, left, before);
    leave_tree(left, before);
    if (!left.empty()) seen("event.discarded");
  }
  settle(before);
}

// DISCARD takes blocks that only this request used: at least those that it published and nobody
// else ever matched, at most those that it alone leased; always from the end of its path.
void World::check_discarded(const Request& r, const std::set<Hash>& gone,
                            const View& before) const {
  const View after = view();
  std::set<Hash> own;
  for (radix_block b : r.row)
    if (before.tree_of[idx(b)] != 0) own.insert(before.tree_of[idx(b)]);
  for (uint64_t i = 1; i <= r.committed / shape_.block_size; ++i)
    own.insert(r.hashes[i * shape_.block_size]);
  for (Hash h : gone) {
    CHECK(own.count(h) != 0, "discard took block ", tree_.at(h).block,
          " that the request did not have");
    CHECK(after.leased.count(h) == 0 && after.pinned.count(h) == 0, "discard took block ",
          tree_.at(h).block, " that others hold");
  }
  for (const auto& [h, c] : tree_)
    CHECK(gone.count(h) != 0 || gone.count(c.parent) == 0, "discard left block ", c.block,
          " without its prefix");
  // What may stay: a chain of blocks that is not wholly this request's, and everything above one.
  std::set<Hash> needed;
  auto mine = [&](Hash h) {
    const Cached& c = tree_.at(h);
    return own.count(h) != 0 && c.publisher == r.id && !c.used_by_others &&
           after.leased.count(h) == 0 && after.pinned.count(h) == 0;
  };
  auto only_mine = [&](Hash h) {
    const std::vector<Hash> chain = chain_of(h);
    return std::all_of(chain.begin(), chain.end(), mine);
  };
  for (const auto& [h, c] : tree_)
    if (!only_mine(h))
      for (Hash up = h; tree_.count(up) != 0; up = tree_.at(up).parent) needed.insert(up);
  for (const auto& [h, c] : tree_)
    CHECK(needed.count(h) != 0 || gone.count(h) != 0, "discard left block ", c.block,
          " that only this request used");
}

// Any mix of requests, some rows already current in the caller's buffer.
void World::tables(Rng& rng) {
  if (live_.empty()) return;
  std::vector<radix_req> ids;
  std::vector<uint64_t> versions;
  for (uint32_t i = 0, n = rng.range(1, 4); i < n; ++i) {
    const Request* r = pick(rng);
    ids.push_back(r->id);
    versions.push_back(rng.percent(50) ? r->version : rng.percent(50) ? 0 : r->version ^ 1);
  }
  const std::vector<uint64_t> held = versions;
  uint64_t longest = 0;
  for (radix_req id : ids) longest = std::max<uint64_t>(longest, live_.at(id).row.size());
  const bool narrow = longest > 0 && rng.percent(5);
  const uint64_t stride = narrow ? longest - 1 : longest + rng.below(3);
  std::vector<int32_t> rows(ids.size() * std::max<uint64_t>(stride, 1), -5),
      lengths(ids.size(), -5);
  const radix_status st =
      radix_get_block_tables(ctx_, ids.data(), static_cast<uint32_t>(ids.size()), rows.data(),
                             static_cast<int64_t>(stride), lengths.data(), versions.data());
  if (stride == 0 && st == RADIX_E_INVALID) return;  // no room at all may be refused
  seen_status("tables", st);
  if (narrow) {
    if (st == RADIX_OK) {  // only when the long rows were current
      for (size_t i = 0; i < ids.size(); ++i)
        CHECK(live_.at(ids[i]).row.size() <= stride || held[i] == live_.at(ids[i]).version,
              "row_stride too small");
      return;
    }
    CHECK_EQ(st, RADIX_E_BUFFER, "tables with a small stride");
    CHECK(std::all_of(rows.begin(), rows.end(), [](int32_t x) { return x == -5; }),
          "a failed call wrote");
    CHECK(versions == held, "a failed call wrote versions");
    return;
  }
  CHECK_EQ(st, RADIX_OK, "tables");
  for (size_t i = 0; i < ids.size(); ++i) {
    const Request& r = live_.at(ids[i]);
    CHECK_EQ(versions[i], r.version, "version of an unchanged row");
    CHECK_EQ(lengths[i], static_cast<int32_t>(r.length()), "context length");
    const bool current = held[i] == r.version;
    for (uint64_t k = 0; k < stride; ++k)
      CHECK_EQ(rows[i * stride + k],
               current            ? -5
               : k < r.row.size() ? r.row[k]
                                  : -1,
               "row ", i, " entry ", k);
    if (current) seen("event.row_current");
  }
}

}  // namespace radixattn::model
