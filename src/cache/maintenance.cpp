// Eviction, clearing, namespaces, epochs.
#include "base/error.h"
#include "cache/cache_manager.h"

namespace radixattn {

// ---- eviction

void CacheManager::trim_one(uint32_t node, bool fenced) {
  --namespaces_[tree_.node(node).ns].used;
  pool_.give_cached(tree_.trim_tail(node), fenced);
}

uint32_t CacheManager::evict_from(uint32_t ns, uint64_t want) {
  uint64_t freed = 0;
  while (freed < want) {
    const uint32_t id = tree_.victim(ns);
    if (id == kNone) break;
    // Its key stays while its tail goes, so it stays the first.
    uint64_t count = tree_.unprotected(id);
    if (count > want - freed) count = want - freed;
    for (uint64_t i = 0; i < count; ++i) trim_one(id, false);
    freed += count;
  }
  counters_.blocks_evicted += freed;
  return static_cast<uint32_t>(freed);
}

radix_status CacheManager::evict(radix_ns id, uint32_t want, uint32_t* freed) {
  uint32_t ns = kNone;
  if (id != RADIX_NS_ALL) {
    const radix_status st = find_namespace(id, &ns);
    if (st != RADIX_OK) return st;
  }
  const uint32_t count = evict_from(ns, want);
  if (freed != nullptr) *freed = count;
  return RADIX_OK;
}

// ---- clearing

// Nothing is leased there. Every node goes after its children: from each leaf upwards as far as it
// is the last child.
void CacheManager::clear_namespace(uint32_t ns) {
  for (uint32_t first = 0; first < tree_.node_capacity(); ++first) {
    uint32_t id = first;
    while (true) {
      const RadixTree::Node& n = tree_.node(id);
      if (n.live == 0 || n.is_root != 0 || n.ns != ns || n.first_child != kNone) break;
      const uint32_t parent = n.parent;
      const bool fenced = n.fenced != 0;
      for (uint32_t left = n.num; left > 0; --left) trim_one(id, fenced);
      id = parent;
    }
  }
}

radix_status CacheManager::clear(radix_ns id) {
  uint32_t begin = 0, end = namespaces_.size();
  if (id != RADIX_NS_ALL) {
    const radix_status st = find_namespace(id, &begin);
    if (st != RADIX_OK) return st;
    end = begin + 1;
  }
  for (uint32_t i = begin; i < end; ++i) {
    const Namespace& ns = namespaces_[i];
    if (ns.live != 0 && ns.requests + ns.pins > 0) {
      return fail(RADIX_E_BUSY, "ns 0x%llx holds %u requests and %u pins: free them first",
                  static_cast<unsigned long long>(namespaces_.id(i)), ns.requests, ns.pins);
    }
  }
  for (uint32_t i = begin; i < end; ++i) {
    if (namespaces_[i].live != 0) clear_namespace(i);
  }
  return RADIX_OK;
}

// ---- namespaces

radix_status CacheManager::ns_create(const char* name, size_t len, uint32_t quota, radix_ns* out) {
  if (len == 0 || len > Namespace::kMaxName) {
    return fail(RADIX_E_INVALID, "name_len is %zu: expected 1 to %u", len, Namespace::kMaxName);
  }
  if (namespaces_.name_in_use(name, len)) {
    return fail(RADIX_E_STATE, "name is in use by a live namespace: destroy it first");
  }
  if (namespaces_.full())
    return fail(RADIX_E_FULL, "max_namespaces is %u: all are in use", config_.max_namespaces);
  if (!namespaces_.reserve_one() ||
      !tree_.reserve_namespaces(uint64_t{namespaces_.next_index()} + 1)) {
    return fail(RADIX_E_NOMEM, "no memory for another namespace");
  }
  const uint32_t index = namespaces_.create(name, len, quota);
  tree_.reset_namespace(index);
  *out = namespaces_.id(index);
  return RADIX_OK;
}

radix_status CacheManager::ns_destroy(radix_ns id) {
  uint32_t ns;
  const radix_status st = find_namespace(id, &ns);
  if (st != RADIX_OK) return st;
  if (ns == 0) return fail(RADIX_E_INVALID, "ns is 0: the default namespace always exists");
  const radix_status cleared = clear(id);
  if (cleared != RADIX_OK) return cleared;
  namespaces_.destroy(ns);
  return RADIX_OK;
}

// ---- epochs

radix_status CacheManager::epoch_begin(radix_epoch* out) {
  if (!config_.defer_free)
    return fail(RADIX_E_STATE, "the context was made without RADIX_CTX_DEFER_FREE");
  ++epoch_now_;
  tree_.set_epochs(epoch_now_, epoch_retired_);
  pool_.set_epochs(epoch_now_, epoch_retired_);
  *out = epoch_now_;
  return RADIX_OK;
}

radix_status CacheManager::epoch_retire(radix_epoch upto) {
  if (!config_.defer_free)
    return fail(RADIX_E_STATE, "the context was made without RADIX_CTX_DEFER_FREE");
  if (upto > epoch_now_) {
    return fail(RADIX_E_INVALID, "upto is %llu: the last epoch begun is %llu",
                static_cast<unsigned long long>(upto), static_cast<unsigned long long>(epoch_now_));
  }
  if (upto <= epoch_retired_) return RADIX_OK;
  epoch_retired_ = upto;
  tree_.set_epochs(epoch_now_, epoch_retired_);
  pool_.set_epochs(epoch_now_, epoch_retired_);
  return RADIX_OK;
}

uint64_t CacheManager::pinned_blocks() {
  uint64_t blocks = 0;
  ++cover_serial_;
  for (uint32_t i = 0; i < pins_.size(); ++i) {
    if (pins_[i].live != 0)
      blocks += tree_.cover(tree_.lease_position(lease_of_pin(i)), cover_serial_);
  }
  return blocks;
}

}  // namespace radixattn
