// commit: publishing, duplicates in both modes, and the requests that share what is published.
#include <algorithm>

#include "world.h"

namespace radixattn::model {

struct World::CommitPlan {
  std::set<radix_status> why;
  uint64_t published = 0, duplicates_lo = 0, duplicates_hi = 0;
  uint32_t worst_remaps = 0;
  std::vector<radix_remap> remaps;
  std::set<Hash> paths;  // what the items cover, published or found
  std::vector<Hash> new_blocks;
  std::map<radix_req, uint64_t> committed_before;
  std::set<radix_block>
      duplicated;  // blocks that keep their rows though the same tokens are cached elsewhere
};

void World::commit(Rng& rng) {
  if (live_.empty()) return;
  flush_all();  // the caller says that K/V is written: so it is
  std::vector<radix_commit_item> items;
  for (uint32_t i = 0, n = rng.range(1, 3); i < n; ++i) {
    const Request* r = pick(rng);
    bool again = false;
    for (const radix_commit_item& x : items) again = again || x.req == r->id;
    if (again) continue;
    radix_commit_item item{};
    item.req = r->id;
    item.num_valid_tokens = rng.percent(70) ? r->length() : rng.below(r->length() + 1);
    if (rng.percent(2)) item.num_valid_tokens = r->length() + 1 + rng.below(3);
    items.push_back(item);
    note("commit " + std::to_string(item.req) + " to " + std::to_string(item.num_valid_tokens) +
         " of " + std::to_string(r->length()) + " flags " + std::to_string(r->flags));
  }
  const View before = view();
  const std::map<Hash, Cached> tree_before = tree_;
  const std::map<radix_req, Request> live_before = live_;
  const std::set<radix_status> why = [&] {
    std::set<radix_status> w;
    for (const radix_commit_item& x : items) {
      const Request& r = live_.at(x.req);
      if (x.num_valid_tokens > r.length())
        w.insert(RADIX_E_INVALID);
      else if (full_blocks(x.num_valid_tokens) * shape_.block_size > r.known)
        w.insert(RADIX_E_STATE);
    }
    return w;
  }();
  CommitPlan p;
  if (why.empty()) p = plan_commit(items);

  radix_commit_out out{};
  out.struct_size = sizeof out;
  std::vector<radix_remap> remaps(
      std::max<size_t>(p.worst_remaps, 1));  // exactly: a write too many shows
  out.remaps = remaps.data();
  out.remaps_cap = static_cast<uint32_t>(remaps.size());
  bool little = false;
  if (why.empty() && !p.remaps.empty() && rng.percent(15)) {
    out.remaps_cap = static_cast<uint32_t>(p.remaps.size() - 1);
    little = true;
  }
  const bool with_out = p.worst_remaps > 0 || rng.percent(70);
  arm(rng);
  const radix_status st = disarm(radix_commit(
      ctx_, items.data(), static_cast<uint32_t>(items.size()), with_out ? &out : nullptr));
  seen_status("commit", st);
  auto undo = [&] {
    tree_ = tree_before;
    live_ = live_before;
  };
  if (st == RADIX_E_NOMEM) {
    undo();
    out_of_memory(st);
    return;
  }
  if (!why.empty()) {
    CHECK(why.count(st) != 0, "commit gives ", radix_status_name(st), ", expected ",
          radix_status_name(*why.begin()));
    return;
  }
  bool vague = false;  // ids of a last, partly filled block are missing: refused or not
  for (const radix_commit_item& x : items)
    vague = vague || x.num_valid_tokens > live_before.at(x.req).known;
  if (st == RADIX_E_STATE && vague) return undo();
  if (little) {
    CHECK_EQ(st, RADIX_E_BUFFER, "commit with too little room for remaps");
    CHECK(out.num_remaps >= p.remaps.size(), "needed remaps ", out.num_remaps);
    return undo();
  }
  CHECK_EQ(st, RADIX_OK, "commit");
  for (const radix_commit_item& x : items)  // what later prompts start from
    if (rng.percent(40)) history_[rng.below(history_.size())] = live_.at(x.req).tokens;
  if (with_out) {
    finish_commit(p, items, out);
  } else {
    CHECK(p.remaps.empty(), "remaps without out");
  }
  totals_.published += p.published;
  totals_.duplicates += with_out ? out.num_duplicates : p.duplicates_lo;
  commit_along(p);
  settle(before);
}

// Enters the commit into the oracle, item by item.
World::CommitPlan World::plan_commit(const std::vector<radix_commit_item>& items) {
  CommitPlan p;
  const uint64_t bs = shape_.block_size;
  for (const auto& [id, r] : live_) {
    p.committed_before[id] = r.committed;
  }
  for (const radix_commit_item& x : items) {
    const Request& r = live_.at(x.req);
    if ((r.flags & RADIX_BEGIN_REMAP_DUPLICATES) == 0) continue;
    const uint64_t full = full_blocks(x.num_valid_tokens), done = r.committed / bs;
    if (full > done) p.worst_remaps += static_cast<uint32_t>(full - done);
    for (uint64_t i = 0; i < done; ++i)
      if (tree_.at(r.hashes[(i + 1) * bs]).block != r.row[i]) ++p.worst_remaps;
  }
  for (const radix_commit_item& x : items) {
    Request& r = live_.at(x.req);
    const uint64_t full = full_blocks(x.num_valid_tokens);
    if ((r.flags & RADIX_BEGIN_REMAP_DUPLICATES) != 0) remap_kept(r, p);
    std::vector<Hash> path;
    for (uint64_t i = r.committed / bs; i < full; ++i) {
      const Hash h = r.hashes[(i + 1) * bs];
      const auto it = tree_.find(h);
      path.push_back(h);
      if (it == tree_.end()) {
        Cached c;
        c.path.assign(r.tokens.begin(), r.tokens.begin() + static_cast<int64_t>((i + 1) * bs));
        c.ns = r.ns;
        c.extra_key = r.extra_key;
        c.parent = r.hashes[i * bs];
        c.block = r.row[i];
        c.publisher = r.id;
        tree_[h] = c;
        born(h);
        p.new_blocks.push_back(h);
        ++p.published;
      } else if (it->second.block != r.row[i]) {
        it->second.used_by_others = true;
        ++p.duplicates_hi;
        if (p.duplicated.insert(r.row[i]).second) ++p.duplicates_lo;
        if ((r.flags & RADIX_BEGIN_REMAP_DUPLICATES) == 0) {
          seen("event.duplicate_kept");
          continue;
        }
        p.remaps.push_back({r.id, static_cast<uint32_t>(i), r.row[i], it->second.block});
        r.row[i] = it->second.block;
        seen("event.duplicate_remapped");
      }
    }
    std::vector<Hash> whole;  // a commit may count as a use of everything before, too
    for (uint64_t i = 1; i <= std::max(full, r.committed / bs); ++i)
      whole.push_back(r.hashes[i * bs]);
    touch(whole, false);
    p.paths.insert(path.begin(), path.end());
    for (Hash h : path) tree_.at(h).use.last_lo = now_;
    r.committed = std::max(r.committed, full * bs);
  }
  return p;
}

void World::finish_commit(CommitPlan& p, const std::vector<radix_commit_item>& items,
                          const radix_commit_out& out) {
  CHECK_EQ(out.published_blocks, p.published, "published");
  CHECK(out.num_duplicates >= p.duplicates_lo && out.num_duplicates <= p.duplicates_hi,
        "duplicates ", out.num_duplicates, ", expected ", p.duplicates_lo);
  CHECK(out.num_remaps <= out.remaps_cap, "more remaps than room: ", out.num_remaps);
  CHECK_EQ(out.num_remaps, p.remaps.size(), "remaps");
  // Which of several duplicates a call swaps is the library's choice when one item took another
  // item's request along further than that item asked for.
  for (const radix_remap& b : p.remaps) live_.at(b.req).row[b.index] = b.old_block;
  for (uint32_t i = 0; i < out.num_remaps; ++i) {
    const radix_remap& a = out.remaps[i];
    const bool named = std::any_of(items.begin(), items.end(),
                                   [&](const radix_commit_item& x) { return x.req == a.req; });
    CHECK(named, "remap of request ", a.req, ", which no item names");
    Request& r = live_.at(a.req);
    CHECK((r.flags & RADIX_BEGIN_REMAP_DUPLICATES) != 0, "remap that nobody asked for");
    CHECK(a.index < r.row.size() && r.row[a.index] == a.old_block, "remap of request ", a.req,
          " entry ", a.index, ": ", a.old_block, " is not its block");
    const auto it = tree_.find(r.hashes.at((uint64_t{a.index} + 1) * shape_.block_size));
    CHECK(it != tree_.end() && it->second.block == a.new_block && a.new_block != a.old_block,
          "remap of request ", a.req, " entry ", a.index, ": ", a.new_block,
          " is not the cached block");
    r.row[a.index] = a.new_block;
  }
}

// A commit of a request that shares its blocks may have taken this one along over duplicates: its
// own commit swaps them.
void World::remap_kept(Request& r, CommitPlan& p) {
  const uint64_t bs = shape_.block_size;
  for (uint64_t i = 0; i < r.committed / bs; ++i) {
    const radix_block cached = tree_.at(r.hashes[(i + 1) * bs]).block;
    if (cached == r.row[i]) continue;
    p.remaps.push_back({r.id, static_cast<uint32_t>(i), r.row[i], cached});
    r.row[i] = cached;
    seen("event.duplicate_remapped_later");
  }
}

// Requests that share the blocks move along: surely over blocks that are now the cached ones,
// perhaps over duplicates.
void World::commit_along(const CommitPlan& p) {
  const uint64_t bs = shape_.block_size;
  for (auto& [id, r] : live_) {
    uint64_t lo = r.committed / bs, hi = lo;
    auto canonical = [this, &r = r, bs](uint64_t i) {
      const auto it = tree_.find(r.hashes[(i + 1) * bs]);
      return it != tree_.end() && it->second.block == r.row[i];
    };
    while ((lo + 1) * bs <= r.known && canonical(lo)) ++lo;
    hi = lo;
    while ((hi + 1) * bs <= r.known && (canonical(hi) || p.duplicated.count(r.row[hi]) != 0)) ++hi;
    const uint64_t c = info_of(id).committed_tokens;
    CHECK(c >= lo * bs && c <= hi * bs && c % bs == 0, "committed_tokens of sharing request ", id,
          " is ", c, ", expected ", lo * bs, "..", hi * bs);
    if (c > p.committed_before.at(id)) {
      seen("event.committed_along");
      for (Hash h : p.paths) tree_.at(h).used_by_others = true;
    }
    r.committed = c;
    r.borrowed_begin = std::min(r.borrowed_end, std::max(r.borrowed_begin, c));  // kept promises
  }
}

}  // namespace radixattn::model
