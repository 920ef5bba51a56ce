// The checker of the tree's invariants (radix_tree.h), from nothing but its own arrays.
#include "base/error.h"
#include "cache/radix_tree.h"

namespace radixattn {
namespace {
using ull = unsigned long long;
}

radix_status RadixTree::check_node(uint32_t id, uint32_t* scratch) const {
  const Node& n = nodes_[id];
  if (n.is_root != 0) {
    if (n.num != 0 || n.parent != kNone)
      return fail(RADIX_E_INTERNAL, "root %u has a run or a parent", id);
    if (find_root(n.ns, n.extra_key) != id)
      return fail(RADIX_E_INTERNAL, "root %u is not found by its key", id);
    return RADIX_OK;
  }
  if (n.num == 0) return fail(RADIX_E_INTERNAL, "node %u has no blocks", id);
  const Node& p = nodes_[n.parent];
  if (p.live == 0 || p.ns != n.ns || n.depth_blocks != p.depth_blocks + p.num) {
    return fail(RADIX_E_INTERNAL, "node %u does not fit its parent %u", id, n.parent);
  }
  const uint32_t before = n.prev_sibling;
  const bool linked = before != kNone ? nodes_[before].next_sibling == id : p.first_child == id;
  if (!linked) return fail(RADIX_E_INTERNAL, "node %u is not linked among its siblings", id);
  // Finding it by its first block also says that no sibling begins alike.
  if (n.hash != hash_block(node_tokens(id)) || find_child(n.parent, node_tokens(id)) != id) {
    return fail(RADIX_E_INTERNAL, "node %u is not found by its first block", id);
  }
  for (uint32_t i = 0; i < n.num; ++i) {
    if (scratch[n.unit + i]++ != 0)
      return fail(RADIX_E_INTERNAL, "unit %u is in two runs", n.unit + i);
  }
  return RADIX_OK;
}

radix_status RadixTree::check_protection(uint32_t id) const {
  const Node& n = nodes_[id];
  uint32_t holders = 0, protected_children = 0;
  for (uint32_t lease = n.lease_head; lease != kNone; lease = leases_[lease].next) {
    if (leases_[lease].node != id || leases_[lease].in > n.num ||
        (leases_[lease].in == 0 && n.is_root == 0)) {
      return fail(RADIX_E_INTERNAL, "lease %u does not fit node %u", lease, id);
    }
    ++holders;
  }
  for (uint32_t child = n.first_child; child != kNone; child = nodes_[child].next_sibling) {
    if (nodes_[child].parent != id)
      return fail(RADIX_E_INTERNAL, "child %u of node %u has another parent", child, id);
    if (nodes_[child].holders > 0) ++protected_children;
  }
  if (n.protected_children != protected_children || n.holders != holders + protected_children ||
      n.held != deepest_lease(id, UINT32_MAX)) {
    return fail(RADIX_E_INTERNAL,
                "node %u counts %u holders and %u protected children: found %u and %u", id,
                n.holders, n.protected_children, holders + protected_children, protected_children);
  }
  const bool wanted =
      n.is_root == 0 && n.first_child == kNone && n.fenced == 0 && unprotected(id) > 0;
  if (queue_.contains(id) != wanted)
    return fail(RADIX_E_INTERNAL, "node %u queued: expected %d", id, wanted ? 1 : 0);
  if (wanted && queue_.key(id) != eviction_key(policy_, n.usage)) {
    return fail(RADIX_E_INTERNAL, "node %u is queued with an old key", id);
  }
  return RADIX_OK;
}

radix_status RadixTree::check_queue(uint32_t ns) const {
  const NsUsage& usage = ns_usage_[ns];
  if (usage.seen_evictable != usage.evictable || usage.seen_fenced != usage.fenced) {
    return fail(RADIX_E_INTERNAL,
                "namespace %u counts %u evictable and %u fenced blocks: found %llu and %llu", ns,
                usage.evictable, usage.fenced, static_cast<ull>(usage.seen_evictable),
                static_cast<ull>(usage.seen_fenced));
  }
  const bool ordered = ns_order_.contains(ns);
  if (ordered != (usage.seen_queued > 0) ||
      (ordered && ns_order_.key(ns) != queue_.key(usage.queue.first))) {
    return fail(RADIX_E_INTERNAL, "namespace %u is not in order by its first node", ns);
  }
  if (usage.seen_queued == 0) return RADIX_OK;  // a namespace never used has no queue yet
  uint32_t walked = 0;
  for (uint32_t id = usage.queue.first; id != kNone; ++walked) {
    const uint32_t next = queue_.next(id);
    if (next != kNone &&
        (queue_.key(next) < queue_.key(id) || (queue_.key(next) == queue_.key(id) && next < id))) {
      return fail(RADIX_E_INTERNAL, "node %u is queued before node %u", id, next);
    }
    id = next;
  }
  if (walked != usage.seen_queued || usage.queue.count != usage.seen_queued) {
    return fail(RADIX_E_INTERNAL, "the queue of namespace %u holds %u of %u nodes", ns, walked,
                usage.seen_queued);
  }
  return RADIX_OK;
}

radix_status RadixTree::check_queues() {
  for (uint32_t ns = 0; ns < ns_usage_.capacity(); ++ns) {
    NsUsage& usage = ns_usage_[ns];
    usage.seen_queued = 0;
    usage.seen_evictable = usage.seen_fenced = 0;
  }
  for (uint32_t id = 0; id < next_fresh_; ++id) {
    const Node& n = nodes_[id];
    if (n.live == 0 || n.is_root != 0) continue;
    NsUsage& usage = ns_usage_[n.ns];
    (n.fenced != 0 ? usage.seen_fenced : usage.seen_evictable) += unprotected(id);
    if (queue_.contains(id)) ++usage.seen_queued;
  }
  uint32_t ordered = 0;
  for (uint32_t ns = 0; ns < ns_usage_.capacity(); ++ns) {
    const radix_status st = check_queue(ns);
    if (st != RADIX_OK) return st;
    ordered += ns_order_.contains(ns) ? 1 : 0;
  }
  uint32_t walked = 0;
  for (uint32_t ns = ns_queue_.first; ns != kNone; ++walked) {
    const uint32_t next = ns_order_.next(ns);
    if (next != kNone && ns_order_.key(next) < ns_order_.key(ns))
      return fail(RADIX_E_INTERNAL, "namespace %u is ordered before namespace %u", ns, next);
    ns = next;
  }
  if (walked != ordered || ns_queue_.count != ordered)
    return fail(RADIX_E_INTERNAL, "%u of %u namespaces are in order", walked, ordered);
  return RADIX_OK;
}

radix_status RadixTree::check_fences() const {
  uint32_t fenced = 0, walked = 0;
  uint64_t stamp = 0;
  for (uint32_t id = 0; id < next_fresh_; ++id)
    fenced += nodes_[id].live != 0 && nodes_[id].fenced != 0 ? 1 : 0;
  for (uint32_t id = fence_head_; id != kNone && walked <= fenced; id = nodes_[id].fence_next) {
    if (nodes_[id].live == 0 || nodes_[id].stamp < stamp || nodes_[id].stamp <= epoch_retired_) {
      return fail(RADIX_E_INTERNAL, "fenced node %u is dead, out of order, or long retired", id);
    }
    stamp = nodes_[id].stamp;
    ++walked;
  }
  if (walked != fenced)
    return fail(RADIX_E_INTERNAL, "%u of %u fenced nodes are in the list", walked, fenced);
  return RADIX_OK;
}

radix_status RadixTree::check(uint32_t* scratch) {
  uint32_t live = 0, roots = 0;
  uint64_t cached = 0, evictable = 0, fenced = 0, walked_free = 0;
  std::memset(scratch, 0, units_.num_units() * sizeof(uint32_t));
  for (uint32_t id = 0; id < next_fresh_; ++id) {
    const Node& n = nodes_[id];
    if (n.live == 0) continue;
    radix_status st = check_node(id, scratch);
    if (st == RADIX_OK) st = check_protection(id);
    if (st != RADIX_OK) return st;
    ++(n.is_root != 0 ? roots : live);
    cached += n.num;
    (n.fenced != 0 ? fenced : evictable) += unprotected(id);
  }
  if (live != num_live_ || roots != num_roots_ || cached != num_cached_) {
    return fail(RADIX_E_INTERNAL,
                "the tree counts %u nodes, %u roots, %llu blocks: found %u, %u, %llu", num_live_,
                num_roots_, static_cast<ull>(num_cached_), live, roots, static_cast<ull>(cached));
  }
  if (evictable != evictable_ || fenced != fenced_) {
    return fail(RADIX_E_INTERNAL,
                "the tree counts %llu evictable and %llu fenced blocks: found %llu and %llu",
                static_cast<ull>(evictable_), static_cast<ull>(fenced_),
                static_cast<ull>(evictable), static_cast<ull>(fenced));
  }
  if (!units_.check(&walked_free) || walked_free + cached != units_.num_units()) {
    return fail(RADIX_E_INTERNAL, "token units: %llu free and %llu used of %u",
                static_cast<ull>(walked_free), static_cast<ull>(cached), units_.num_units());
  }
  const radix_status st = check_queues();
  return st == RADIX_OK ? check_fences() : st;
}

}  // namespace radixattn
