// append_slot and set_tokens. The plan counts blocks item by item, in order: what an item gives up
// in this call (a shared block that it copies) may or may not serve a later item of the same call,
// so a shortfall has bounds then.
#include <algorithm>
#include <cinttypes>

#include "world.h"

namespace radixattn::model {

// What the call needs if items [0, done) take effect.
struct World::AppendPlan {
  struct Item {
    uint64_t first_new = 0, blocks = 0;
    bool copies = false;
  };
  std::vector<Item> items;
  uint32_t done = 0;           // items that fit; items.size() when all do
  std::set<radix_status> why;  // of items[done]
  uint32_t short_lo = 0, short_hi = 0;
  uint64_t tokens = 0, copies = 0, evictions = 0;  // of items [0, done)
  bool within_namespace = false;
  std::set<Hash> released;  // cached blocks that items [0, done) copied and nobody leases any more
};

namespace {

struct Need {
  uint64_t blocks = 0;
  std::map<radix_ns, uint64_t> in;
};

struct Room {
  std::set<radix_status> why;
  uint32_t short_lo = 0, short_hi = 0;
  uint64_t evictions = 0;
  bool within_namespace = false;

  // Which of several lacks is told is the library's choice, or their sum.
  void add_lack(uint64_t n) {
    short_lo =
        why.empty() ? static_cast<uint32_t>(n) : std::min(short_lo, static_cast<uint32_t>(n));
    short_hi += static_cast<uint32_t>(n);
  }
};

// What there is to take from.
struct Have {
  uint64_t free_blocks = 0, cached = 0;
  std::map<radix_ns, uint64_t> used, cached_in;
};

// Whether this many blocks can be had: each namespace evicts its own to stay in its quota, the rest
// comes from anywhere.
Room find_room(const Need& need, const Have& have, const std::map<radix_ns, Namespace>& spaces,
               bool may_evict, uint64_t released) {
  Room room;
  auto at = [](const std::map<radix_ns, uint64_t>& m, radix_ns k) {
    const auto it = m.find(k);
    return it == m.end() ? uint64_t{0} : it->second;
  };
  uint64_t for_quota = 0;
  for (const auto& [ns, n] : need.in) {
    const uint32_t quota = spaces.at(ns).quota;
    if (quota == 0 || at(have.used, ns) + n <= quota) continue;
    const uint64_t over = at(have.used, ns) + n - quota,
                   own = may_evict ? at(have.cached_in, ns) : 0;
    for_quota += over;
    room.within_namespace = true;
    if (over > own) {
      room.why.insert(RADIX_E_QUOTA);
      room.add_lack(over - own);
    }
  }
  const uint64_t missing = need.blocks > have.free_blocks ? need.blocks - have.free_blocks : 0;
  const uint64_t evictable = may_evict ? have.cached : 0;
  if (missing > evictable) {
    room.add_lack(missing - evictable);
    room.why.insert(RADIX_E_NO_BLOCKS);
  }
  if (released > 0)
    room.short_lo -= std::min<uint32_t>(room.short_lo, static_cast<uint32_t>(released));
  room.evictions = std::max(for_quota, missing);
  return room;
}

}  // namespace

World::AppendPlan World::plan_append(const std::vector<radix_append>& items, uint32_t flags,
                                     bool reuse) const {
  const View v = view();
  std::vector<uint32_t> holders = v.holders;
  const Have start{reported_free_, reported_cached_, v.used, reported_cached_in_};
  AppendPlan p;
  Need need;
  uint64_t released = 0;
  for (const radix_append& a : items) {
    const Request& r = live_.at(a.req);
    AppendPlan::Item item;
    const uint64_t length = r.length() + a.num_tokens;
    const radix_block last = r.row.empty() ? -1 : r.row.back();
    const bool inside = a.num_tokens > 0 && r.length() % shape_.block_size != 0;
    item.copies = inside && (v.tree_of[idx(last)] != 0 || holders[idx(last)] > 1);
    item.first_new = r.row.size();
    item.blocks = blocks_for(length) - r.row.size();
    const uint64_t blocks = item.blocks + (item.copies ? 1 : 0);
    Need with = need;
    with.blocks += blocks;
    Have have = start;
    if (reuse) {  // a partial append works item by item
      have.cached += p.released.size();
      for (Hash h : p.released) ++have.cached_in[tree_.at(h).ns];
    }
    if (blocks > 0) with.in[r.ns] += blocks;
    Room room = find_room(with, have, spaces_, shape_.policy != RADIX_EVICT_NONE, released);
    if (r.known < r.length() && a.tokens != nullptr && a.num_tokens > 0) room.why = {RADIX_E_STATE};
    if (blocks_for(length) > shape_.max_row) room.why.insert(RADIX_E_FULL);
    if (!room.why.empty() && p.why.empty()) p.why = room.why;
    if (p.why.empty()) {
      ++p.done;
      p.tokens += a.num_tokens;
      p.copies += item.copies ? 1 : 0;
      p.evictions = room.evictions;
      p.within_namespace = room.within_namespace;
      const Hash copied = item.copies ? v.tree_of[idx(last)] : 0;
      if (copied != 0 && holders[idx(last)] == 1 && v.pinned.count(copied) == 0 &&
          epoch_ <= retired_)
        p.released.insert(copied);
    } else if ((flags & RADIX_APPEND_PARTIAL) == 0) {
      p.why.insert(room.why.begin(),
                   room.why.end());  // which of several is told is the library's choice
    }
    if (p.short_lo == 0 || (flags & RADIX_APPEND_PARTIAL) == 0) p.short_lo = room.short_lo;
    p.short_hi = std::max(p.short_hi, room.short_hi);
    if (item.copies) {
      if (v.tree_of[idx(last)] != 0) ++released;
      --holders[idx(last)];
    }
    need = with;
    p.items.push_back(item);
  }
  return p;
}

void World::append(Rng& rng, bool one_token) {
  if (live_.empty()) return;
  const uint32_t most = one_token ? 8 : 3;
  std::vector<radix_req> reqs;
  for (uint32_t i = 0, n = rng.range(1, most); i < n; ++i) {
    const radix_req id = pick(rng)->id;
    if (std::find(reqs.begin(), reqs.end(), id) == reqs.end()) reqs.push_back(id);
  }
  std::vector<Tokens> texts;
  std::vector<radix_append> items;
  for (radix_req id : reqs) {
    Request& r = live_.at(id);
    write_own(r);  // an earlier step's K/V is written before the next step copies it
    const uint32_t bs = shape_.block_size;
    uint32_t n = one_token ? 1 : rng.percent(40) ? rng.below(bs + 2) : rng.below(2 * bs + 3);
    if (r.prompt.size() > r.length() && rng.percent(60))
      n = static_cast<uint32_t>(r.prompt.size() - r.length());
    if (rng.percent(15)) n = static_cast<uint32_t>(bs - r.length() % bs);
    texts.push_back(continuation(rng, r, n));
  }
  const bool blind = rng.percent(12);
  for (size_t i = 0; i < reqs.size(); ++i) {
    radix_append a{};
    a.req = reqs[i];
    a.tokens = blind || texts[i].empty() ? nullptr : texts[i].data();
    a.num_tokens = static_cast<uint32_t>(texts[i].size());
    items.push_back(a);
    note("append " + std::to_string(a.req) + " +" + std::to_string(a.num_tokens) +
         (blind ? " blind" : "") + " at " + std::to_string(live_.at(a.req).length()));
  }
  radix_append_out out{};
  out.struct_size = sizeof out;
  out.flags = rng.percent(30) ? RADIX_APPEND_PARTIAL : 0;
  AppendPlan p = plan_append(items, out.flags, false);
  uint64_t all_tokens = 0, all_copies = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    all_tokens += items[i].num_tokens;
    all_copies += p.items[i].copies ? 1 : 0;
  }
  std::vector<int64_t> slots(all_tokens, -9);
  std::vector<radix_op> ops(items.size());
  const bool few_slots = all_tokens > 0 && rng.percent(3),
             few_ops = all_copies > 0 && rng.percent(3);
  if (rng.percent(90) || few_slots) out.slots = slots.data();
  out.slots_cap = few_slots ? all_tokens - 1 : all_tokens;
  out.ops = ops.data();
  out.ops_cap = few_ops ? static_cast<uint32_t>(all_copies - 1) : static_cast<uint32_t>(ops.size());
  View before = view();
  arm(rng);
  const radix_status st =
      disarm(radix_append_slot(ctx_, items.data(), static_cast<uint32_t>(items.size()), &out));
  seen_status("append", st);
  const bool partial = (out.flags & RADIX_APPEND_PARTIAL) != 0;
  if (partial && out.num_done > p.done) {
    p = plan_append(items, out.flags, true);
    seen("event.released_for_a_later_item");
  }
  if (partial) {  // what an item let go, a later item may evict
    for (Hash h : p.released) {
      before.leased.erase(h);
      before.evictable.insert(h);
      before.maybe_fenced.insert(
          h);  // not from the start of the call: says nothing about the order
    }
  }
  if (st == RADIX_E_NOMEM) {
    CHECK(out_of_memory(st), "append");
    CHECK(partial || out.num_done == 0, "NOMEM took effect");
    if (out.num_done == 0) return;
  } else if (st == RADIX_E_BUFFER) {
    CHECK(few_slots || few_ops, "BUFFER with room enough");
    if (few_slots && !partial) CHECK_EQ(out.num_slots, all_tokens, "needed slots");
    if (few_ops && !partial) CHECK_EQ(out.num_ops, all_copies, "needed ops");
    if (!partial) CHECK_EQ(out.num_done, 0u, "BUFFER took effect");
  } else if (p.why.empty()) {
    CHECK_EQ(st, RADIX_OK, "append: lengths and blocks suffice");
    CHECK(!few_slots && (!few_ops || out.slots == nullptr || p.copies < all_copies),
          "OK with too little room");
  } else {
    check_append_failure(p, st, out);
  }
  if (st == RADIX_OK) CHECK_EQ(out.num_done, items.size(), "append");
  if (st != RADIX_OK && !partial) return;
  AppendPlan took = p;
  if (out.num_done < p.done) {  // BUFFER or NOMEM in the middle of a partial call
    CHECK(st == RADIX_E_BUFFER || st == RADIX_E_NOMEM, "partial append stopped early");
    took = plan_append({items.begin(), items.begin() + out.num_done}, out.flags, true);
  }
  CHECK_EQ(out.num_done, took.done, "items that took effect");
  finish_append(took, items, texts, out, before);
  if (rng.percent(65)) flush_all();
}

void World::check_append_failure(const AppendPlan& p, radix_status st,
                                 const radix_append_out& out) const {
  CHECK(p.why.count(st) != 0 || (p.short_lo == 0 && p.short_hi > 0 && st == RADIX_OK),
        "append gives ", radix_status_name(st), ", expected ", radix_status_name(*p.why.begin()));
  if (st != RADIX_E_NO_BLOCKS && st != RADIX_E_QUOTA) return;
  const bool partial = (out.flags & RADIX_APPEND_PARTIAL) != 0;
  CHECK(out.short_blocks >= (partial ? 1 : std::max(1u, p.short_lo)) &&
            out.short_blocks <= p.short_hi,
        "short_blocks ", out.short_blocks, ", expected ", p.short_lo, "..", p.short_hi);
  if (!partial) CHECK_EQ(out.num_done, 0u, "a failed append took effect");
  if (!partial) CHECK_EQ(out.evicted_blocks, 0u, "a failed append evicted");
}

void World::finish_append(const AppendPlan& p, const std::vector<radix_append>& items,
                          const std::vector<Tokens>& texts, const radix_append_out& out,
                          const View& before) {
  const uint32_t bs = shape_.block_size;
  CHECK_EQ(out.evicted_blocks, p.evictions, "evicted by append");
  CHECK_EQ(out.num_ops, p.copies, "operations");
  CHECK_EQ(out.num_slots, p.tokens, "slots");
  if (shape_.policy == RADIX_EVICT_NONE) CHECK_EQ(out.evicted_blocks, 0u, "policy NONE");
  const uint32_t done = out.num_done;
  std::set<radix_block>
      released;  // may be taken by a later item; their K/V is there until it writes
  for (Hash h : p.released) released.insert(tree_.at(h).block);
  const std::vector<uint64_t> content = content_;
  absorb_evictions(out.evicted_blocks, before, p.within_namespace, RADIX_NS_ALL);
  const View between = view();
  for (radix_block b : released)
    std::copy_n(content.begin() + int64_t{b} * bs, bs, content_.begin() + int64_t{b} * bs);
  std::set<radix_block> fresh;
  auto maybe_free = [&](radix_block b) {
    const auto it = given_up_.find(b);
    if (it == given_up_.end() || it->second.fence > retired_) return false;
    given_up_.erase(it);
    poison(b);
    return true;
  };
  auto take = [&](radix_block b) {
    CHECK(b >= 0 && idx(b) < shape_.num_blocks, "block id ", b);
    CHECK(between.is_free[idx(b)] || maybe_free(b) || released.count(b) != 0, "append took block ",
          b, ", which was not free");
    CHECK(fresh.insert(b).second, "append gave block ", b, " twice");
  };
  uint32_t op = 0;
  uint64_t slot = 0;
  for (uint32_t i = 0; i < done; ++i) {
    Request& r = live_.at(items[i].req);
    const uint64_t old_length = r.length();
    const Row row = fetch_row(r.id);
    CHECK_EQ(row.size(), r.row.size() + p.items[i].blocks, "row after append");
    for (uint64_t b = 0; b < row.size(); ++b) {
      const bool copied = p.items[i].copies && b + 1 == r.row.size();
      if (copied || b >= r.row.size())
        take(row[b]);
      else
        CHECK_EQ(row[b], r.row[b], "append changed row entry ", b);
      if (!copied) continue;
      const radix_op& o = out.ops[op++];
      CHECK_EQ(o.kind, RADIX_OP_COPY, "op");
      CHECK_EQ(o.src, r.row[b], "op.src");
      CHECK_EQ(o.dst, row[b], "op.dst");
      CHECK_EQ(o.num_tokens, old_length % bs, "op.num_tokens");
    }
    r.row = row;
    r.tokens.insert(r.tokens.end(), texts[i].begin(), texts[i].end());
    r.hashes = hash_all(r.ns, r.extra_key, r.tokens);
    if (items[i].tokens != nullptr) r.known = r.length();
    for (uint64_t t = old_length; t < r.length(); ++t, ++slot)
      if (out.slots != nullptr)
        CHECK_EQ(out.slots[slot], int64_t{row[t / bs]} * bs + static_cast<int64_t>(t % bs),
                 "slot of token ", t);
  }
  for (uint32_t i = 0; i < p.copies; ++i) {  // what radix_run_ops does
    const radix_op& o = out.ops[i];
    for (uint32_t t = 0; t < o.num_tokens; ++t)
      content_.at(idx(o.dst) * bs + t) = content_.at(idx(o.src) * bs + t);
    seen("event.copy_on_write");
  }
  totals_.copies += p.copies;
  settle(before);
}

void World::set_tokens(Rng& rng) {
  Request* r = nullptr;
  for (auto& [id, q] : live_)
    if (q.known < q.length()) r = &q;
  if (r == nullptr || rng.percent(10)) r = pick(rng);
  if (r == nullptr) return;
  const uint64_t pos = r->known - rng.below(std::min<uint64_t>(r->known, 3) + 1);
  uint64_t n = rng.percent(70) ? r->length() - pos : rng.below(r->length() - pos + 1);
  uint64_t from = pos;
  Tokens t(r->tokens.begin() + static_cast<int64_t>(pos),
           r->tokens.begin() + static_cast<int64_t>(pos + n));
  radix_status expected = RADIX_OK;
  if (rng.percent(8) && pos < r->known && n > 0) {
    t[0] ^= 1;
    expected = RADIX_E_STATE;
  } else if (rng.percent(5)) {
    t.push_back(0);
    n = r->length() - pos + 1;
    t.resize(n);
    expected = RADIX_E_INVALID;
  } else if (rng.percent(5) && r->known < r->length()) {
    from = r->known + 1;
    t.assign(r->length() - from, 3);
    n = t.size();
    if (n == 0) return;
    expected = RADIX_E_INVALID;
  }
  arm(rng);
  const radix_status st =
      disarm(radix_set_tokens(ctx_, r->id, from, t.empty() ? nullptr : t.data(), n));
  seen_status("set_tokens", st);
  if (out_of_memory(st)) return;
  CHECK_EQ(st, expected, "set_tokens at ", from, " of ", r->known, " known and ", r->length());
  if (st == RADIX_OK) r->known = std::max(r->known, pos + n);
}

}  // namespace radixattn::model
