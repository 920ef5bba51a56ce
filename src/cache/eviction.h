// The order in which evictable leaves go: one intrusive treap a namespace (Seidel & Aragon 1996),
// keyed by (key, node id), all sharing one array of links. Insert, erase and next are O(log n)
// expected; the smallest is found in O(1) through a pointer that each queue keeps. Priorities are a
// hash of the node id: deterministic, no randomness.
//
// Knows node ids and keys, no nodes. The key is a policy's: see eviction_key. Thread rule: callers
// serialise.
#pragma once

#include <cstdint>

#include "base/array.h"
#include "base/ids.h"
#include "radixattn.h"

namespace radixattn {

// What a policy looks at; smaller keys go first.
struct Usage {
  uint64_t last_use = 0;
  uint64_t created = 0;
  uint32_t hits = 0;
};
uint64_t eviction_key(int32_t policy, const Usage& usage);

struct EvictionQueue {  // zero is not empty: use kEmptyQueue
  uint32_t root;
  uint32_t first;  // smallest
  uint32_t count;
};
constexpr EvictionQueue kEmptyQueue = {kNone, kNone, 0};

class EvictionIndex {
 public:
  void bind(HostAllocator* memory) { links_.bind(memory); }
  [[nodiscard]] bool reserve(uint64_t num_nodes) { return links_.reserve_doubling(num_nodes); }
  void touch_memory() { links_.touch(); }

  void insert(EvictionQueue* queue, uint32_t node, uint64_t key);
  void erase(EvictionQueue* queue, uint32_t node);
  void rekey_alone(uint32_t node, uint64_t key) { links_[node].key = key; }  // the only one queued
  bool contains(uint32_t node) const { return links_[node].queued != 0; }
  uint64_t key(uint32_t node) const { return links_[node].key; }
  uint32_t next(uint32_t node) const;  // in order; kNone at the end

 private:
  struct Links {
    uint64_t key;
    uint32_t left, right, parent;
    uint32_t queued;
  };

  static uint32_t priority(uint32_t node) {
    uint32_t x = node * 0x9e3779b1u;
    x ^= x >> 15;
    return x * 0x85ebca6bu;
  }
  bool before(uint32_t a, uint32_t b) const {
    return links_[a].key != links_[b].key ? links_[a].key < links_[b].key : a < b;
  }
  void rotate_up(EvictionQueue* queue, uint32_t node);
  void replace_child(EvictionQueue* queue, uint32_t parent, uint32_t old_child, uint32_t new_child);

  Array<Links> links_;
};

}  // namespace radixattn
