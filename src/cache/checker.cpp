// radix_check: every invariant of the cache, found out afresh. docs/invariants.md lists them.
#include "base/error.h"
#include "cache/cache_manager.h"

namespace radixattn {
namespace {
using ull = unsigned long long;
}

// Lengths, and the lease against the path that it should protect.
radix_status CacheManager::check_request(uint32_t index) const {
  const Request& r = requests_[index];
  const uint32_t bs = config_.block_size;
  if (r.num_blocks != blocks_for(r.num_tokens) || r.num_blocks > r.row_cap ||
      r.known_tokens > r.num_tokens) {
    return fail(RADIX_E_INTERNAL, "request %u: %u blocks for %llu tokens", index, r.num_blocks,
                static_cast<ull>(r.num_tokens));
  }
  if (r.commit_blocks > r.num_tokens / bs || uint64_t{r.commit_blocks} * bs > r.known_tokens ||
      r.foreign_blocks > r.commit_blocks) {
    return fail(RADIX_E_INTERNAL, "request %u: %u blocks published of %llu tokens", index,
                r.commit_blocks, static_cast<ull>(r.num_tokens));
  }
  const Position at = tree_.lease_position(lease_of_request(index));
  const bool cached_tail = r.num_blocks > r.commit_blocks && !is_private(r.row[r.commit_blocks]);
  if (at.blocks != r.lease_blocks || r.lease_blocks != r.commit_blocks + (cached_tail ? 1 : 0)) {
    return fail(RADIX_E_INTERNAL, "request %u: lease of %u blocks, %u published", index, at.blocks,
                r.commit_blocks);
  }
  if (cached_tail && r.num_tokens / bs != r.commit_blocks) {
    return fail(RADIX_E_INTERNAL, "request %u: block %u is the tree's, full, and not published",
                index, r.commit_blocks);
  }
  const uint32_t root = tree_.ascend(at, at.blocks).node;
  if (tree_.node(root).ns != r.ns || tree_.node(root).extra_key != r.extra_key) {
    return fail(RADIX_E_INTERNAL, "request %u: its lease is in another namespace", index);
  }
  return RADIX_OK;
}

// The row against the tree's path, and whose the entries are.
radix_status CacheManager::check_row(uint32_t index) const {
  const Request& r = requests_[index];
  const size_t bytes = size_t{config_.block_size} * sizeof(int32_t);
  Position at = tree_.lease_position(lease_of_request(index));
  while (at.blocks > 0) {
    const uint32_t j = at.blocks - 1;
    const uint32_t cached = static_cast<uint32_t>(tree_.node_blocks(at.node)[at.in - 1]);
    const int32_t* tokens = tree_.node_tokens(at.node) + uint64_t{at.in - 1} * config_.block_size;
    const bool ok = is_private(r.row[j])
                        ? std::memcmp(tokens, block_tokens(block_of(r.row[j])), bytes) == 0
                        : r.row[j] == cached;
    if (!ok)
      return fail(RADIX_E_INTERNAL, "request %u: entry %u is not what the tree holds there", index,
                  j);
    at = tree_.ascend(at, 1);
  }
  uint32_t kept = 0;
  for (uint32_t j = 0; j < r.commit_blocks; ++j) kept += is_private(r.row[j]) ? 1 : 0;
  if (r.remap != 0 && kept != r.kept_duplicates) {
    return fail(RADIX_E_INTERNAL, "request %u: counts %u kept duplicates, has %u", index,
                r.kept_duplicates, kept);
  }
  for (uint32_t j = r.lease_blocks; j < r.num_blocks; ++j) {
    if (!is_private(r.row[j]))
      return fail(RADIX_E_INTERNAL, "request %u: entry %u is leased by nobody", index, j);
  }
  return RADIX_OK;
}

radix_status CacheManager::check_promise(uint32_t index) const {
  const Request& r = requests_[index];
  if (requests_[r.ring_next].ring_prev != index || requests_[r.ring_prev].ring_next != index) {
    return fail(RADIX_E_INTERNAL, "request %u: its family is no ring", index);
  }
  if (!r.borrows()) return RADIX_OK;
  const Request& from = requests_[r.lender];
  if (from.live == 0 || from.borrows() || from.ns != r.ns || from.num_blocks < r.borrow_end) {
    return fail(RADIX_E_INTERNAL, "request %u: borrows from %u, which has nothing to lend", index,
                r.lender);
  }
  for (uint32_t j = r.commit_blocks; j < r.borrow_end; ++j) {
    if (r.row[j] != from.row[j])
      return fail(RADIX_E_INTERNAL, "request %u: entry %u is not its lender's", index, j);
  }
  return RADIX_OK;
}

// References as the rows say, and no block with two owners. scratch_: references, then kTaken.
radix_status CacheManager::check_refs() const {
  for (uint32_t b = 0; b < config_.num_blocks; ++b) {
    if (scratch_[b] != pool_.refs(b)) {
      return fail(RADIX_E_INTERNAL, "block %u: %u references counted, %u rows name it", b,
                  pool_.refs(b), scratch_[b]);
    }
  }
  return RADIX_OK;
}

radix_status CacheManager::check_owners() {
  uint64_t owned = 0;
  std::memset(scratch_.data(), 0, config_.num_blocks * sizeof(uint32_t));
  for (uint32_t i = 0; i < requests_.size(); ++i) {
    const Request& r = requests_[i];
    for (uint32_t j = 0; r.live != 0 && j < r.num_blocks; ++j) {
      if (is_private(r.row[j]) && scratch_[block_of(r.row[j])]++ == 0) {
        ++owned;
        ++namespaces_[r.ns].plan_need;  // scratch outside an append
      }
    }
  }
  const radix_status st = check_refs();
  if (st != RADIX_OK) return st;
  uint32_t twice = kNone;
  const size_t bytes = size_t{config_.block_size} * sizeof(int32_t);
  for (uint32_t id = 0; id < tree_.node_capacity(); ++id) {
    const RadixTree::Node& n = tree_.node(id);
    for (uint32_t i = 0; n.live != 0 && i < n.num; ++i) {
      const uint32_t block = static_cast<uint32_t>(tree_.node_blocks(id)[i]);
      const int32_t* tokens = tree_.node_tokens(id) + uint64_t{i} * config_.block_size;
      if (scratch_[block]++ != 0 || std::memcmp(tokens, block_tokens(block), bytes) != 0)
        twice = block;
      ++namespaces_[n.ns].plan_need;
    }
  }
  pool_.for_each_deferred([&](uint32_t block) { twice = scratch_[block]++ != 0 ? block : twice; });
  if (twice != kNone)
    return fail(RADIX_E_INTERNAL, "block %u: two owners, or tokens that are not the tree's", twice);
  uint64_t walked_free = 0;
  owned += tree_.num_cached() + pool_.num_deferred();
  if (!pool_.extents().check(&walked_free) || walked_free + owned != config_.num_blocks) {
    return fail(RADIX_E_INTERNAL, "%llu blocks free and %llu owned of %u",
                static_cast<ull>(walked_free), static_cast<ull>(owned), config_.num_blocks);
  }
  return RADIX_OK;
}

radix_status CacheManager::check_namespaces() {
  radix_status st = RADIX_OK;
  for (uint32_t i = 0; i < namespaces_.size(); ++i) {
    Namespace& ns = namespaces_[i];
    uint32_t requests = 0, pins = 0;
    for (uint32_t k = 0; k < requests_.size(); ++k)
      requests += requests_[k].live != 0 && requests_[k].ns == i ? 1 : 0;
    for (uint32_t k = 0; k < pins_.size(); ++k)
      pins += pins_[k].live != 0 && pins_[k].ns == i ? 1 : 0;
    if (ns.live != 0 && (ns.used != ns.plan_need || ns.requests != requests || ns.pins != pins)) {
      st = fail(RADIX_E_INTERNAL,
                "namespace %u counts %u blocks, %u requests, %u pins: found %llu, %u, %u", i,
                ns.used, ns.requests, ns.pins, static_cast<ull>(ns.plan_need), requests, pins);
    }
    ns.plan_need = 0;
  }
  return st;
}

radix_status CacheManager::check() {
  radix_status st = tree_.check(scratch_.data());
  for (uint32_t i = 0; i < requests_.size() && st == RADIX_OK; ++i) {
    if (requests_[i].live == 0) continue;
    st = check_request(i);
    if (st == RADIX_OK) st = check_row(i);
    if (st == RADIX_OK) st = check_promise(i);
  }
  if (st != RADIX_OK) return st;
  st = check_owners();
  const radix_status spaces =
      check_namespaces();  // also after a failure: it clears the scratch counters
  return st != RADIX_OK ? st : spaces;
}

}  // namespace radixattn
