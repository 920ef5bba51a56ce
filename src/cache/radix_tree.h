// The compressed radix tree: runs of whole blocks on edges, exact tokens verified on every step.
//
// clang-format off
//          root(ns, extra_key)
//          /               \          two children of the root
//   [t0 t1 | t2 t3]     [t8 t9]        each [..|..] is a node with a run of two blocks, or one
//      /        \                     and two of theirs
//   [t4 t5]   [t6 t7]
// clang-format on
//
// A node's run is one contiguous extent of "units": unit u holds block_size token ids (tokens_) and
// one physical block id (blocks_). So a run is compared by memcmp, and a split copies nothing.
// Children are found in one open-addressing table keyed by (parent, hash of the first block). A run
// that finds no extent long enough becomes a chain of nodes.
//
// A Position is a place on a path: `in` blocks into `node`, with in >= 1 except at a root. Matching
// never changes the shape; only insert splits, and the lower half keeps the node id, so that leases
// and children stay where they are.
//
// Leases. A lease protects the path from the root to its position. holders = leases that end at the
// node + children with holders > 0, so taking one walks up only until a node that was protected
// already; `held` is the deepest block of the node's own leases. Unprotected blocks of an unleased
// tail can be evicted while its head stays.
//
// Invariants: 1. a run has >= 1 block (roots 0). 2. siblings differ in their first block. 3.
// holders as above. 4. a node is in its namespace's eviction queue iff it is no root, has no
// children, is not fenced and has unprotected blocks.
// 5. evictable[ns] (fenced[ns]) = unprotected blocks of its not fenced (fenced) nodes.
// 6. a namespace is in ns_order_ iff its eviction queue is not empty, under the key of its first
// node.
//
// Knows no requests, memory of blocks, clocks or events: time and epochs are passed in. Thread
// rule: callers serialise.
#pragma once

#include <cstdint>

#include "base/array.h"
#include "cache/eviction.h"
#include "cache/extent_allocator.h"

namespace radixattn {

struct Position {
  uint32_t node = kNone;
  uint32_t in = 0;      // blocks into the node
  uint32_t blocks = 0;  // blocks from the root
};

class RadixTree {
 public:
  struct Node {
    uint32_t parent, first_child, next_sibling, prev_sibling;
    uint32_t unit, num;  // extent of the run
    uint32_t holders, protected_children, held, lease_head;
    uint32_t ns;
    uint32_t depth_blocks;  // blocks above this node's first
    uint64_t hash;          // of (first block) or, for a root, of (ns, extra_key)
    uint64_t extra_key;
    Usage usage;
    uint64_t stamp;         // epoch in which protection was last lost
    uint64_t cover_serial;  // scratch of cover() and add_request()
    uint32_t covered;
    uint32_t fence_prev, fence_next;
    uint8_t live, is_root, fenced, reserved;
  };
  struct NsUsage {
    uint32_t evictable, fenced;
    EvictionQueue queue;
    uint32_t seen_queued;  // scratch of check()
    uint64_t seen_evictable, seen_fenced;
  };

  void bind(HostAllocator* memory);
  // hash_seed: unknown to those who choose the tokens. It changes where things stand in the table,
  // nothing else.
  [[nodiscard]] bool init(uint32_t num_blocks, uint32_t block_size, int32_t policy,
                          uint64_t hash_seed = 0);
  [[nodiscard]] bool reserve_nodes(uint64_t more,
                                   uint64_t more_roots);  // room for new nodes, table included
  [[nodiscard]] bool reserve_namespaces(uint64_t n);
  [[nodiscard]] bool reserve_leases(uint64_t n);
  void touch_memory();
  void reset_namespace(uint32_t ns) { ns_usage_[ns] = {0, 0, kEmptyQueue, 0, 0, 0}; }

  // ---- looking: changes nothing
  uint32_t find_root(uint32_t ns,
                     uint64_t extra_key) const;  // kNone: nothing cached or leased there
  // The deepest position on the path of `tokens` (whole blocks of num_tokens), from `from`. Copies
  // the ids of the blocks passed to out[0 .. out_cap) when out is not null.
  Position walk(Position from, const int32_t* tokens, uint64_t num_tokens, int32_t* out,
                uint64_t out_cap) const;
  Position ascend(Position at, uint32_t blocks) const;  // the position `blocks` further up
  void path_blocks(Position at,
                   uint32_t* out) const;  // ids of the blocks above `at`, [0, at.blocks)
  uint32_t match_run(Position at, const int32_t* tokens,
                     uint32_t max_blocks) const;  // equal blocks after `at`, in its node
  uint32_t find_child(uint32_t node, const int32_t* first_block) const;
  const Node& node(uint32_t id) const { return nodes_[id]; }
  const int32_t* node_tokens(uint32_t id) const {
    return tokens_.data() + uint64_t{nodes_[id].unit} * block_size_;
  }
  const int32_t* node_blocks(uint32_t id) const { return blocks_.data() + nodes_[id].unit; }
  uint32_t unprotected(uint32_t id) const;
  const NsUsage& ns_usage(uint32_t ns) const { return ns_usage_[ns]; }
  uint64_t evictable() const { return evictable_; }
  uint64_t fenced() const { return fenced_; }
  uint64_t num_cached() const { return num_cached_; }     // blocks in the tree
  uint32_t num_nodes() const { return num_live_; }        // roots not counted
  uint32_t node_capacity() const { return next_fresh_; }  // ids are below this
  // fn(id, level) for every node below a root, depth first, without recursion: a tree may be a
  // million nodes deep. Children of the root have level 1.
  template <class Fn>
  void for_each_below(uint32_t root, Fn fn) const {
    uint32_t level = 1;
    for (uint32_t id = nodes_[root].first_child; id != kNone;) {
      fn(id, level);
      const RadixTree::Node* n = &nodes_[id];
      if (n->first_child != kNone) {
        id = n->first_child;
        ++level;
        continue;
      }
      while (n->next_sibling == kNone && n->parent != root) {
        n = &nodes_[n->parent];
        --level;
      }
      id = n->next_sibling;
    }
  }
  uint32_t first_lease(uint32_t id) const { return nodes_[id].lease_head; }
  uint32_t next_lease(uint32_t lease) const { return leases_[lease].next; }
  Position lease_position(uint32_t lease) const;

  // ---- changing (room was reserved: nothing here fails)
  uint32_t make_root(uint32_t ns, uint64_t extra_key);
  void drop_root_if_unused(uint32_t root);
  Position split(
      Position at);  // a node boundary at `at`: returns the same place as the end of a node
  // Adds one run below `at` (the end of a node): up to num_blocks, as many as fit one extent, as a
  // child; or, with `may_extend`, by making a node without children that nobody has matched longer,
  // when the units behind its own are free. The caller fills the units' tokens and blocks, then
  // calls index_child for a new node. Returns the new end.
  Position add_run(Position at, uint32_t num_blocks, uint64_t now, bool may_extend, uint32_t* unit);
  int32_t* unit_tokens(uint32_t unit) { return tokens_.data() + uint64_t{unit} * block_size_; }
  int32_t* unit_blocks(uint32_t unit) { return blocks_.data() + unit; }
  void index_child(uint32_t id);  // after its tokens are filled

  void take_lease(uint32_t lease, Position at);
  void move_lease(uint32_t lease, Position to);
  void release_lease(uint32_t lease);

  // Blocks on the path to `at` that no earlier call with this serial (> 0, never reused) has
  // counted.
  uint64_t cover(Position at, uint64_t serial);
  // Counts one request on every node of the path to `at`; requests_on reads what was counted with
  // the serial.
  void add_request(Position at, uint64_t serial);
  uint32_t requests_on(uint32_t id, uint64_t serial) const {
    return nodes_[id].cover_serial == serial ? nodes_[id].covered : 0;
  }

  void use_path(Position at, uint64_t now, bool count_hit);  // the nodes from `at` up to the root
  // The node whose tail goes first, in one namespace or (kNone) over all of them: the smallest key;
  // ties by namespace, then by node id. O(1).
  uint32_t victim(uint32_t ns) const {
    if (ns == kNone) ns = ns_queue_.first;
    return ns == kNone ? kNone : ns_usage_[ns].queue.first;
  }
  // Takes the last block off a node without children beyond its held part; an emptied node goes.
  // Returns the block.
  uint32_t trim_tail(uint32_t id);

  void set_epochs(uint64_t now, uint64_t retired);  // lifts fences up to `retired`

  // Walks the invariants; INTERNAL at the first broken one. scratch: [num_blocks], overwritten.
  // (radix_tree_check.cpp)
  radix_status check(uint32_t* scratch);

 private:
  struct Lease {
    uint32_t node, in, prev, next;
  };

  uint64_t hash_block(const int32_t* tokens) const;
  uint64_t hash_root(uint32_t ns, uint64_t extra_key) const;
  static uint64_t slot_hash(uint32_t parent, uint64_t hash);
  void table_put(uint32_t id);
  void table_erase(uint32_t id);
  uint64_t table_slot_of(uint32_t id) const;
  bool grow_table(uint64_t num_nodes);

  radix_status check_node(uint32_t id, uint32_t* scratch) const;
  radix_status check_protection(uint32_t id) const;
  radix_status check_queue(uint32_t ns) const;
  radix_status check_queues();
  radix_status check_fences() const;

  uint32_t new_node();
  void free_node(uint32_t id);
  void link_child(uint32_t parent, uint32_t id);
  void unlink_child(uint32_t id);
  void remove_node(uint32_t id);

  void count(uint32_t id, bool add);  // unprotected blocks in or out of the counters
  void requeue(uint32_t id);          // invariant 4
  void unqueue(uint32_t id);          // it is about to get a child, or to go
  void reorder(uint32_t ns);          // invariant 6
  void protect(uint32_t id, uint32_t in);
  void unprotect(uint32_t id);
  void link_lease(uint32_t lease, Position at);
  void unlink_lease(uint32_t lease);
  uint32_t deepest_lease(uint32_t id, uint32_t bound) const;  // none is deeper than bound
  void fence(uint32_t id);
  void fence_unlink(uint32_t id);
  void fence_after_split(uint32_t id, uint32_t upper);
  void split_leases(uint32_t id, uint32_t upper, uint32_t cut);

  uint64_t seed_ = 0;
  uint32_t block_size_ = 0;
  int32_t policy_ = 0;
  Array<Node> nodes_;
  uint32_t next_fresh_ = 0;
  uint32_t free_head_ = kNone;
  uint32_t num_live_ = 0;  // without roots
  uint32_t num_roots_ = 0;
  Array<uint64_t> table_;  // hash high half << 32 | node id + 1; 0 = empty
  uint64_t table_mask_ = 0;
  Array<Lease> leases_;
  Array<NsUsage> ns_usage_;
  ExtentAllocator units_;
  Array<int32_t> tokens_;   // [num_blocks * block_size]
  Array<int32_t> blocks_;   // [num_blocks]
  EvictionIndex queue_;     // of nodes, a queue a namespace
  EvictionIndex ns_order_;  // of namespaces, one queue: ns_queue_
  EvictionQueue ns_queue_ = kEmptyQueue;
  uint64_t evictable_ = 0, fenced_ = 0, num_cached_ = 0;
  uint64_t epoch_now_ = 0, epoch_retired_ = 0;
  uint32_t fence_head_ = kNone, fence_tail_ = kNone;

  friend struct CacheTestAccess;
};

}  // namespace radixattn
