#include "cache/eviction.h"

namespace radixattn {

uint64_t eviction_key(int32_t policy, const Usage& usage) {
  constexpr uint64_t kClockBits =
      40;  // 10^12 uses; older ones only lose their order among equal hit counts
  switch (policy) {
    case RADIX_EVICT_FIFO:
      return usage.created;
    case RADIX_EVICT_LFU: {
      const uint64_t hits = usage.hits < (1u << 24) ? usage.hits : (1u << 24) - 1;
      return hits << kClockBits | (usage.last_use & ((uint64_t{1} << kClockBits) - 1));
    }
    default:
      return usage.last_use;
  }
}

void EvictionIndex::replace_child(EvictionQueue* queue, uint32_t parent, uint32_t old_child,
                                  uint32_t new_child) {
  if (parent == kNone) {
    queue->root = new_child;
  } else if (links_[parent].left == old_child) {
    links_[parent].left = new_child;
  } else {
    links_[parent].right = new_child;
  }
  if (new_child != kNone) links_[new_child].parent = parent;
}

//     p            x
//    / \          / \      x moves up over its parent p, in-order kept
//   x   c   ->   a   p     (mirrored when x is the right child)
//  / \              / \    .
// a   b            b   c
void EvictionIndex::rotate_up(EvictionQueue* queue, uint32_t x) {
  const uint32_t p = links_[x].parent;
  const uint32_t grandparent = links_[p].parent;
  uint32_t inner;
  if (links_[p].left == x) {
    inner = links_[x].right;
    links_[x].right = p;
    links_[p].left = inner;
  } else {
    inner = links_[x].left;
    links_[x].left = p;
    links_[p].right = inner;
  }
  if (inner != kNone) links_[inner].parent = p;
  replace_child(queue, grandparent, p, x);
  links_[p].parent = x;
}

void EvictionIndex::insert(EvictionQueue* queue, uint32_t node, uint64_t key) {
  links_[node] = {key, kNone, kNone, kNone, 1};
  uint32_t parent = kNone;
  bool leftmost = true;
  for (uint32_t at = queue->root; at != kNone;) {
    parent = at;
    const bool left = before(node, at);
    leftmost = leftmost && left;
    at = left ? links_[at].left : links_[at].right;
  }
  links_[node].parent = parent;
  if (parent == kNone) {
    queue->root = node;
  } else if (before(node, parent)) {
    links_[parent].left = node;
  } else {
    links_[parent].right = node;
  }
  while (links_[node].parent != kNone && priority(links_[node].parent) < priority(node))
    rotate_up(queue, node);
  if (leftmost) queue->first = node;
  ++queue->count;
}

void EvictionIndex::erase(EvictionQueue* queue, uint32_t node) {
  if (queue->first == node) queue->first = next(node);
  for (;;) {
    const uint32_t left = links_[node].left;
    const uint32_t right = links_[node].right;
    if (left == kNone || right == kNone) {
      replace_child(queue, links_[node].parent, node, left != kNone ? left : right);
      break;
    }
    rotate_up(queue, priority(left) > priority(right) ? left : right);
  }
  links_[node].queued = 0;
  --queue->count;
}

uint32_t EvictionIndex::next(uint32_t node) const {
  uint32_t at = links_[node].right;
  if (at != kNone) {
    while (links_[at].left != kNone) at = links_[at].left;
    return at;
  }
  at = node;
  uint32_t parent = links_[at].parent;
  while (parent != kNone && links_[parent].right == at) {
    at = parent;
    parent = links_[at].parent;
  }
  return parent;
}

}  // namespace radixattn
