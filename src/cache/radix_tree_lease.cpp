// Leases, fences and the eviction queues of the tree: invariants 3 to 5 of radix_tree.h.
#include "cache/radix_tree.h"

namespace radixattn {

uint32_t RadixTree::unprotected(uint32_t id) const {
  const Node& n = nodes_[id];
  return n.protected_children > 0 ? 0 : n.num - n.held;
}

void RadixTree::count(uint32_t id, bool add) {
  const Node& n = nodes_[id];
  const uint32_t blocks = unprotected(id);
  NsUsage& usage = ns_usage_[n.ns];
  uint32_t& of_ns = n.fenced != 0 ? usage.fenced : usage.evictable;
  uint64_t& total = n.fenced != 0 ? fenced_ : evictable_;
  of_ns = add ? of_ns + blocks : of_ns - blocks;
  total = add ? total + blocks : total - blocks;
}

void RadixTree::requeue(uint32_t id) {
  const Node& n = nodes_[id];
  EvictionQueue* queue = &ns_usage_[n.ns].queue;
  const bool wanted =
      n.is_root == 0 && n.first_child == kNone && n.fenced == 0 && unprotected(id) > 0;
  const uint64_t key = eviction_key(policy_, n.usage);
  const bool queued = queue_.contains(id);
  if (queued ? wanted && queue_.key(id) == key : !wanted) return;
  if (queued) queue_.erase(queue, id);
  if (wanted) queue_.insert(queue, id, key);
  reorder(n.ns);
}

void RadixTree::unqueue(uint32_t id) {
  if (!queue_.contains(id)) return;
  const uint32_t ns = nodes_[id].ns;
  queue_.erase(&ns_usage_[ns].queue, id);
  reorder(ns);
}

void RadixTree::reorder(uint32_t ns) {
  const uint32_t first = ns_usage_[ns].queue.first;
  const bool wanted = first != kNone;
  const uint64_t key = wanted ? queue_.key(first) : 0;
  const bool ordered = ns_order_.contains(ns);
  if (ordered ? wanted && ns_order_.key(ns) == key : !wanted) return;
  if (ordered && wanted && ns_queue_.count == 1) return ns_order_.rekey_alone(ns, key);
  if (ordered) ns_order_.erase(&ns_queue_, ns);
  if (wanted) ns_order_.insert(&ns_queue_, ns, key);
}

Position RadixTree::lease_position(uint32_t lease) const {
  const Lease& l = leases_[lease];
  return {l.node, l.in, nodes_[l.node].depth_blocks + l.in};
}

void RadixTree::link_lease(uint32_t lease, Position at) {
  Lease& l = leases_[lease];
  l = {at.node, at.in, kNone, nodes_[at.node].lease_head};
  if (l.next != kNone) leases_[l.next].prev = lease;
  nodes_[at.node].lease_head = lease;
}

void RadixTree::unlink_lease(uint32_t lease) {
  const Lease& l = leases_[lease];
  if (l.prev != kNone) {
    leases_[l.prev].next = l.next;
  } else {
    nodes_[l.node].lease_head = l.next;
  }
  if (l.next != kNone) leases_[l.next].prev = l.prev;
}

uint32_t RadixTree::deepest_lease(uint32_t id, uint32_t bound) const {
  uint32_t deepest = 0;
  for (uint32_t lease = nodes_[id].lease_head; lease != kNone && deepest < bound;
       lease = leases_[lease].next) {
    if (leases_[lease].in > deepest) deepest = leases_[lease].in;
  }
  return deepest;
}

// One more holder, `in` blocks deep; goes on upwards only from a node that had none.
void RadixTree::protect(uint32_t id, uint32_t in) {
  count(id, false);
  Node* n = &nodes_[id];
  if (in > n->held) n->held = in;
  bool fresh = n->holders++ == 0;
  count(id, true);
  requeue(id);
  while (fresh && n->is_root == 0) {
    id = n->parent;
    count(id, false);
    n = &nodes_[id];
    ++n->protected_children;
    fresh = n->holders++ == 0;
    count(id, true);
    requeue(id);
  }
}

// One holder less (its lease is unlinked already).
void RadixTree::unprotect(uint32_t id) {
  const bool fences = epoch_now_ > epoch_retired_;
  Node* n = &nodes_[id];
  const uint32_t before = unprotected(id);
  count(id, false);
  n->held = deepest_lease(id, n->held);  // one step when hundreds end where the last one did
  bool last = --n->holders == 0;
  count(id, true);
  if (fences && unprotected(id) > before) fence(id);
  requeue(id);
  while (last && n->is_root == 0) {
    id = n->parent;
    n = &nodes_[id];
    const uint32_t parent_before = unprotected(id);
    count(id, false);
    --n->protected_children;
    last = --n->holders == 0;
    count(id, true);
    if (fences && unprotected(id) > parent_before) fence(id);
    requeue(id);
  }
}

void RadixTree::take_lease(uint32_t lease, Position at) {
  link_lease(lease, at);
  protect(at.node, at.in);
}

// The new place is protected before the old one is given up, so that nothing on both paths is
// exposed in between.
void RadixTree::move_lease(uint32_t lease, Position to) {
  const uint32_t from = leases_[lease].node;
  if (from == to.node && leases_[lease].in == to.in) return;
  protect(to.node, to.in);
  unlink_lease(lease);
  link_lease(lease, to);
  unprotect(from);
}

void RadixTree::release_lease(uint32_t lease) {
  const uint32_t from = leases_[lease].node;
  unlink_lease(lease);
  unprotect(from);
  if (nodes_[from].is_root != 0) drop_root_if_unused(from);
}

// Leases of `id` that end at or above the cut move to `upper`; counters of both halves are set from
// scratch.
void RadixTree::split_leases(uint32_t id, uint32_t upper, uint32_t cut) {
  Node& lo = nodes_[id];
  Node& up = nodes_[upper];
  uint32_t moved = 0;
  for (uint32_t lease = lo.lease_head; lease != kNone;) {
    const uint32_t next = leases_[lease].next;
    if (leases_[lease].in <= cut) {
      const uint32_t in = leases_[lease].in;
      unlink_lease(lease);
      link_lease(lease, {upper, in, 0});
      ++moved;
    } else {
      leases_[lease].in -= cut;
    }
    lease = next;
  }
  lo.holders -= moved;
  lo.held = deepest_lease(id, UINT32_MAX);
  up.protected_children = lo.holders > 0 ? 1 : 0;
  up.holders = moved + up.protected_children;
  up.held = deepest_lease(upper, UINT32_MAX);
  // The parent counted this child as protected or not; that has not changed: up.holders > 0 iff
  // lo.holders was > 0.
}

void RadixTree::use_path(Position at, uint64_t now, bool count_hit) {
  for (uint32_t id = at.node; nodes_[id].is_root == 0; id = nodes_[id].parent) {
    Usage& usage = nodes_[id].usage;
    usage.last_use = now;
    if (count_hit && usage.hits < UINT32_MAX) ++usage.hits;
    requeue(id);
  }
}

uint64_t RadixTree::cover(Position at, uint64_t serial) {
  uint64_t fresh = 0;
  while (nodes_[at.node].is_root == 0) {
    Node& n = nodes_[at.node];
    const bool seen = n.cover_serial == serial;  // then everything above is counted
    const uint32_t before = seen ? n.covered : 0;
    if (at.in > before) {
      fresh += at.in - before;
      n.covered = at.in;
      n.cover_serial = serial;
    }
    if (seen) break;
    at.node = n.parent;
    at.in = nodes_[at.node].num;
  }
  return fresh;
}

void RadixTree::add_request(Position at, uint64_t serial) {
  for (uint32_t id = at.node; nodes_[id].is_root == 0; id = nodes_[id].parent) {
    Node& n = nodes_[id];
    if (n.cover_serial != serial) n.covered = 0;
    n.cover_serial = serial;
    ++n.covered;
  }
}

// ---- fences: nodes that lost protection while launches may still read them, in the order of their
// stamps

void RadixTree::fence_unlink(uint32_t id) {
  const Node& n = nodes_[id];
  (n.fence_prev != kNone ? nodes_[n.fence_prev].fence_next : fence_head_) = n.fence_next;
  (n.fence_next != kNone ? nodes_[n.fence_next].fence_prev : fence_tail_) = n.fence_prev;
}

void RadixTree::fence(uint32_t id) {
  count(id, false);
  Node& n = nodes_[id];
  if (n.fenced != 0) fence_unlink(id);
  n.fenced = 1;
  n.stamp = epoch_now_;
  n.fence_prev = fence_tail_;
  n.fence_next = kNone;
  (fence_tail_ != kNone ? nodes_[fence_tail_].fence_next : fence_head_) = id;
  fence_tail_ = id;
  count(id, true);
}

// Both halves wait for the same epoch: the upper one enters the list next to the lower one.
void RadixTree::fence_after_split(uint32_t id, uint32_t upper) {
  count(upper, false);
  Node& lo = nodes_[id];
  Node& up = nodes_[upper];
  up.fenced = 1;
  up.fence_next = id;
  up.fence_prev = lo.fence_prev;
  (lo.fence_prev != kNone ? nodes_[lo.fence_prev].fence_next : fence_head_) = upper;
  lo.fence_prev = upper;
  count(upper, true);
}

void RadixTree::set_epochs(uint64_t now, uint64_t retired) {
  epoch_now_ = now;
  epoch_retired_ = retired;
  while (fence_head_ != kNone && nodes_[fence_head_].stamp <= retired) {
    const uint32_t id = fence_head_;
    count(id, false);
    fence_unlink(id);
    nodes_[id].fenced = 0;
    count(id, true);
    requeue(id);
  }
}

}  // namespace radixattn
