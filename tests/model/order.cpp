// The order of eviction, as far as the header determines it.
//
// The policy orders nodes. Where a node begins and ends is not part of the contract, but a node
// lies within an unbranched chain of blocks, so for each block there are bounds on what its node
// knows: its own uses at least, the uses of everything that was ever in its chain at most. A block
// that went although another leaf was certainly older (or used less often) shows a wrong order.
#include <algorithm>

#include "world.h"

namespace radixattn::model {

std::vector<Hash> World::chain_of(Hash h) const {
  std::map<Hash, std::vector<Hash>> children;
  for (const auto& [k, c] : tree_) children[c.parent].push_back(k);
  std::vector<Hash> chain{h};
  for (Hash up = tree_.at(h).parent; tree_.count(up) != 0 && children[up].size() == 1;
       up = tree_.at(up).parent)
    chain.push_back(up);
  for (auto it = children.find(h); it != children.end() && it->second.size() == 1;) {
    chain.push_back(it->second[0]);
    it = children.find(it->second[0]);
  }
  return chain;
}

// A use of a path. certain: the header names it a use of these blocks; else it may count as one.
void World::touch(const std::vector<Hash>& path, bool certain) {
  std::set<Hash> around;
  for (Hash h : path) {
    for (Hash c : chain_of(h)) around.insert(c);
    if (!certain) continue;
    tree_.at(h).use.last_lo = now_;
    ++tree_.at(h).use.count_lo;
  }
  for (Hash h : around) {
    tree_.at(h).use.last_hi = now_;
    ++tree_.at(h).use.count_hi;
    if (certain) tree_.at(h).used_by_others = true;
  }
}

// A block was published: it may have joined the node before it, and then has that node's past.
void World::born(Hash h) {
  UseBounds& u = tree_.at(h).use;
  u = {now_, now_, 0, 1, now_, now_};
  for (Hash c : chain_of(h)) {
    const UseBounds& other = tree_.at(c).use;
    u.count_hi = std::max(u.count_hi, other.count_hi);
    u.born_lo = std::min(u.born_lo, other.born_lo);
    tree_.at(h).fence_hi = std::max(tree_.at(h).fence_hi, tree_.at(c).fence_hi);
    if (tree_.at(c).used_by_others) tree_.at(h).used_by_others = true;
  }
}

void World::check_order(const std::set<Hash>& gone, const View& before,
                        bool within_namespace) const {
  const int32_t policy = shape_.policy;
  for (Hash stays : before.evictable) {
    if (gone.count(stays) != 0 || before.children.count(stays) != 0) continue;
    if (before.maybe_fenced.count(stays) != 0) continue;
    const Cached& s = tree_.at(stays);
    for (Hash g : gone) {
      const Cached& c = tree_.at(g);
      if (within_namespace && c.ns != s.ns) continue;
      if (policy == RADIX_EVICT_LRU || policy == RADIX_EVICT_NONE)
        CHECK(s.use.last_hi >= c.use.last_lo, "evicted block ", c.block, " used at ", c.use.last_lo,
              ", kept block ", s.block, " used at ", s.use.last_hi);
      if (policy == RADIX_EVICT_LFU)
        CHECK(s.use.count_hi >= c.use.count_lo, "evicted block ", c.block, " used ", c.use.count_lo,
              " times, kept block ", s.block, " used ", s.use.count_hi);
      if (policy == RADIX_EVICT_FIFO)
        CHECK(s.use.born_hi >= c.use.born_lo, "evicted block ", c.block, " born at ", c.use.born_lo,
              ", kept block ", s.block, " born at ", s.use.born_hi);
    }
  }
}

// What is no longer cached, by peeking along every path to a leaf.
std::set<Hash> World::find_gone() {
  std::set<Hash> parents, gone;
  for (const auto& [h, c] : tree_) parents.insert(c.parent);
  for (const auto& [h, c] : tree_) {
    if (parents.count(h) != 0) continue;
    const radix_request_desc d = desc(c.path, c.ns, c.extra_key, 0);
    radix_match m{};
    m.struct_size = sizeof m;
    CHECK_EQ(radix_peek_prefix(ctx_, &d, &m), RADIX_OK, "peek");
    const std::vector<Hash> hashes = hash_all(c.ns, c.extra_key, c.path);
    for (uint64_t i = m.num_blocks + 1; i <= full_blocks(c.path.size()); ++i)
      gone.insert(hashes[i * shape_.block_size]);
  }
  return gone;
}

void World::absorb_evictions(uint64_t count, const View& before, bool within_namespace,
                             radix_ns only) {
  if (count == 0) return;
  const std::set<Hash> gone = find_gone();
  CHECK_EQ(gone.size(), count, "blocks that left the tree");
  for (Hash g : gone) {
    CHECK(before.leased.count(g) == 0, "evicted a leased block ", tree_.at(g).block);
    CHECK(before.pinned.count(g) == 0, "evicted a pinned block ", tree_.at(g).block);
    CHECK(before.evictable.count(g) != 0, "evicted a block that waits for its fence ",
          tree_.at(g).block);
    CHECK(only == RADIX_NS_ALL || tree_.at(g).ns == only, "evicted from another namespace");
  }
  check_order(gone, before, within_namespace);
  for (Hash g : gone) {
    poison(tree_.at(g).block);
    tree_.erase(g);
  }
  totals_.evicted += count;
  seen("event.evicted");
}

}  // namespace radixattn::model
