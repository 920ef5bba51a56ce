// begin, match, pin, unpin, find_shared: calls that look a prompt up.
#include <algorithm>

#include "world.h"

namespace radixattn::model {
namespace {

radix_match room_for(Row& blocks, Rng& rng, uint32_t most) {
  blocks.assign(rng.percent(50) ? most : rng.below(most + 1), -7);
  radix_match m{};
  m.struct_size = sizeof m;
  m.blocks_cap = static_cast<uint32_t>(blocks.size());
  m.blocks = blocks.empty() ? nullptr : blocks.data();
  return m;
}

}  // namespace

void World::begin(Rng& rng) {
  const Tokens t = prompt(rng);
  const radix_ns ns = pick_ns(rng);
  const uint64_t key = rng.percent(85) ? 0 : 1 + rng.below(2);
  uint32_t flags = 0;
  if (rng.percent(25)) flags |= RADIX_BEGIN_MATCH_ALL;
  if (rng.percent(8))
    flags |= RADIX_BEGIN_NO_MATCH;
  else if (rng.percent(50))
    flags |= RADIX_BEGIN_SHARE_PENDING;
  if (rng.percent(40)) flags |= RADIX_BEGIN_REMAP_DUPLICATES;
  note("begin tokens " + std::to_string(t.size()) + " flags " + std::to_string(flags) + " key " +
       std::to_string(key) + " ns " + std::to_string(ns));

  const View before = view();
  std::vector<Hash> path = cached_path(ns, key, t);
  const radix_request_desc d = desc(t, ns, key, flags);
  Row blocks;
  radix_match m = room_for(blocks, rng, shape_.num_blocks);
  const bool with_match = rng.percent(90);
  radix_req id = 0;
  arm(rng);
  const radix_status st = disarm(radix_begin_request(ctx_, &d, &id, with_match ? &m : nullptr));
  seen_status("begin", st);
  if (out_of_memory(st)) return;
  if (has(RADIX_CTX_PREALLOCATE) && live_.size() == shape_.max_requests) {
    CHECK_EQ(st, RADIX_E_FULL, "begin beyond max_requests");
    return;
  }
  CHECK_EQ(st, RADIX_OK, "begin");
  CHECK(id != 0 && live_.count(id) == 0, "id ", id);
  CHECK(std::find(dead_requests_.begin(), dead_requests_.end(), id) == dead_requests_.end(), "id ",
        id, " came again");

  const radix_request_info info = info_of(id);
  Request r;
  r.id = id;
  r.ns = ns;
  r.extra_key = key;
  r.flags = flags;
  r.prompt = t;
  const uint64_t cap = (flags & RADIX_BEGIN_MATCH_ALL) != 0 || t.empty() ? t.size() : t.size() - 1;
  if ((flags & RADIX_BEGIN_NO_MATCH) != 0) path.clear();
  const uint64_t whole = path.size() * shape_.block_size;
  r.cached = std::min(whole, cap);
  if (r.cached < whole) seen("event.match_cut");
  CHECK_EQ(info.cached_tokens, r.cached, "begin of ", t.size(), " tokens");
  const uint64_t length = r.cached + info.pending_tokens;
  CHECK(length <= cap, "longer than the prompt allows: ", length);
  CHECK_EQ(info.num_tokens, length, "begin");
  r.tokens.assign(t.begin(), t.begin() + static_cast<int64_t>(length));
  r.hashes = hash_all(ns, key, r.tokens);
  r.known = length;
  r.committed = full_blocks(r.cached) * shape_.block_size;
  r.borrowed_begin = r.cached;
  r.borrowed_end = length;
  r.ready = length;
  r.written = r.cached;
  r.row = fetch_row(id);
  CHECK_EQ(r.row.size(), blocks_for(length), "row of a new request");
  for (uint64_t i = 0; i < blocks_for(r.cached); ++i)
    CHECK_EQ(r.row[i], tree_.at(path[i]).block, "row entry ", i);
  note("  " + std::to_string(id) + ": " + std::to_string(r.cached) + " cached, " +
       std::to_string(info.pending_tokens) + " borrowed, first block " +
       std::to_string(r.row.empty() ? -1 : r.row[0]));
  check_pending(r, m, blocks, t, cap);
  if (with_match) {
    CHECK_EQ(m.cached_tokens, r.cached, "match");
    CHECK_EQ(m.pending_tokens, info.pending_tokens, "match");
    CHECK_EQ(m.num_blocks, r.row.size(), "match");
    for (size_t i = 0; i < blocks.size(); ++i)
      CHECK_EQ(blocks[i], i < r.row.size() ? r.row[i] : -7, "match block ", i);
  }
  path.resize(blocks_for(r.cached));
  touch(path, true);
  totals_.queried += t.size();
  totals_.hit += r.cached;
  totals_.borrowed += info.pending_tokens;
  if (r.cached > 0) seen("event.hit");
  live_[id] = std::move(r);
  settle(before);
}

// What was borrowed: full blocks of one lender, with the same tokens, as far as that lender goes.
void World::check_pending(const Request& r, const radix_match&, const Row&, const Tokens& prompt,
                          uint64_t cap) {
  const uint32_t bs = shape_.block_size;
  const uint64_t pending = r.borrowed_end - r.borrowed_begin;
  const bool may = (r.flags & RADIX_BEGIN_SHARE_PENDING) != 0 && r.cached % bs == 0;
  if (pending > 0) CHECK(may, "borrowed ", pending, " tokens that were not asked for");
  if (!may) return;
  const std::vector<Hash> h = hash_all(r.ns, r.extra_key, prompt);
  radix_req must = 0;
  bool matches = false;
  for (const auto& [id, q] : live_) {
    if (q.ns != r.ns || q.extra_key != r.extra_key) continue;
    uint64_t n = 0;  // whole blocks that q has with these tokens
    while ((n + 1) * bs <= std::min<uint64_t>(q.known, prompt.size()) &&
           q.hashes[(n + 1) * bs] == h[(n + 1) * bs])
      ++n;
    if (n * bs <= r.cached) continue;
    const uint64_t all = std::min(n * bs, cap), whole = full_blocks(all) * bs;
    const bool borrows = q.borrowed_end > q.borrowed_begin;
    // One whose own published part ends where the match ends has to be found; others may be.
    if (!borrows && whole > r.cached && q.committed == r.cached) must = id;
    const bool extent = r.borrowed_end == all || r.borrowed_end == whole;
    if (extent && std::equal(r.row.begin() + static_cast<int64_t>(r.cached / bs), r.row.end(),
                             q.row.begin() + static_cast<int64_t>(r.cached / bs)))
      matches = true;
  }
  if (pending > 0) {
    CHECK(matches, "borrowed ", pending, " tokens of no possible lender");
    seen("event.borrowed");
    if (r.borrowed_end % bs != 0) seen("event.borrowed_cut");
  } else {
    CHECK(must == 0, "request ", must, " could lend, nothing was borrowed");
  }
}

void World::match(Rng& rng) {
  const Tokens t = prompt(rng);
  const radix_ns ns = pick_ns(rng);
  const uint64_t key = rng.percent(85) ? 0 : 1 + rng.below(2);
  const std::vector<Hash> path = cached_path(ns, key, t);
  const radix_request_desc d = desc(t, ns, key, 0);
  Row blocks;
  radix_match m = room_for(blocks, rng, shape_.num_blocks);
  const bool peek = rng.percent(30);
  arm(rng);
  const radix_status st = disarm((peek ? radix_peek_prefix : radix_match_prefix)(ctx_, &d, &m));
  seen_status(peek ? "peek" : "match", st);
  if (out_of_memory(st)) return;
  CHECK_EQ(st, RADIX_OK, "match");
  CHECK_EQ(m.cached_tokens, path.size() * shape_.block_size, "match of ", t.size(), " tokens");
  CHECK_EQ(m.pending_tokens, 0u, "match");
  CHECK_EQ(m.num_blocks, path.size(), "match");
  for (size_t i = 0; i < blocks.size(); ++i)
    CHECK_EQ(blocks[i], i < path.size() ? tree_.at(path[i]).block : -7, "match block ", i);
  if (peek) return;
  touch(path, true);
}

void World::pin(Rng& rng) {
  const Tokens t = prompt(rng);
  const radix_ns ns = pick_ns(rng);
  const View before = view();
  const std::vector<Hash> path = cached_path(ns, 0, t);
  const radix_request_desc d = desc(t, ns, 0, 0);
  Row blocks;
  radix_match m = room_for(blocks, rng, shape_.num_blocks);
  radix_pin p = 0;
  arm(rng);
  const radix_status st = disarm(radix_pin_prefix(ctx_, &d, &p, &m));
  seen_status("pin", st);
  if (out_of_memory(st)) return;
  if (has(RADIX_CTX_PREALLOCATE) && pins_.size() == shape_.max_pins) {
    CHECK_EQ(st, RADIX_E_FULL, "pin beyond max_pins");
    return;
  }
  CHECK_EQ(st, RADIX_OK, "pin");
  CHECK_EQ(m.cached_tokens, path.size() * shape_.block_size, "pin");
  CHECK_EQ(m.num_blocks, path.size(), "pin");
  CHECK(p != 0 && pins_.count(p) == 0, "pin id ", p);
  touch(path, true);
  pins_[p] = {ns, path};
  if (!path.empty()) seen("event.pinned");
  settle(before);
}

void World::unpin(Rng& rng) {
  if (pins_.empty()) return;
  auto it = pins_.begin();
  std::advance(it, rng.below(pins_.size()));
  const View before = view();
  const radix_pin p = it->first;
  CHECK_EQ(radix_unpin(ctx_, p), RADIX_OK, "unpin");
  CHECK_EQ(radix_unpin(ctx_, p), RADIX_E_STALE, "second unpin");
  dead_pins_.push_back(p);
  pins_.erase(it);
  settle(before);
}

void World::find_shared(Rng& rng) {
  const Tokens t = prompt(rng);
  const radix_ns ns = pick_ns(rng);
  const radix_request_desc d = desc(t, ns, 0, 0);
  uint64_t longest = 0;
  std::vector<radix_req> expected;
  for (const auto& [id, r] : live_) {
    if (r.ns != ns || r.extra_key != 0) continue;
    uint64_t n = 0;
    while (n < std::min<uint64_t>(t.size(), r.known) && t[n] == r.tokens[n]) ++n;
    if (n == 0 || n < longest) continue;
    if (n > longest) expected.clear();
    longest = n;
    expected.push_back(id);
  }
  std::sort(expected.begin(), expected.end(),
            [](radix_req a, radix_req b) { return uint32_t(a) < uint32_t(b); });
  std::vector<radix_req> out(rng.below(6), 77);
  uint32_t n = 99;
  uint64_t shared_tokens = 99;
  const radix_status st = radix_find_shared(ctx_, &d, out.empty() ? nullptr : out.data(),
                                            static_cast<uint32_t>(out.size()), &n, &shared_tokens);
  seen_status("find_shared", st);
  CHECK_EQ(st, RADIX_OK, "find_shared");
  CHECK_EQ(shared_tokens, longest, "find_shared");
  CHECK_EQ(n, expected.size(), "find_shared");
  for (size_t i = 0; i < out.size(); ++i)
    CHECK_EQ(out[i], i < expected.size() ? expected[i] : 77u, "find_shared id ", i);
}

}  // namespace radixattn::model
