// Shape of the tree: nodes, children, matching, insertion, removal. Leases and eviction order:
// radix_tree_lease.cpp.
#include "cache/radix_tree.h"

#include "base/hash.h"

namespace radixattn {
namespace {

// Equal leading tokens of a and b, in whole blocks. memcmp over about 1 KiB at a time is as fast as
// hand-written vector code and says where the difference is within one chunk.
uint32_t equal_blocks(const int32_t* a, const int32_t* b, uint32_t num_blocks,
                      uint32_t block_size) {
  constexpr uint32_t kChunkTokens = 256;
  const uint32_t chunk = block_size >= kChunkTokens ? 1 : kChunkTokens / block_size;
  const size_t block_bytes = size_t{block_size} * sizeof(int32_t);
  uint32_t done = 0;
  while (done + chunk <= num_blocks) {
    const size_t at = size_t{done} * block_size;
    if (std::memcmp(a + at, b + at, chunk * block_bytes) != 0) break;
    done += chunk;
  }
  while (done < num_blocks) {
    const size_t at = size_t{done} * block_size;
    if (std::memcmp(a + at, b + at, block_bytes) != 0) break;
    ++done;
  }
  return done;
}

constexpr uint64_t kMinTable = 64;

}  // namespace

void RadixTree::bind(HostAllocator* memory) {
  nodes_.bind(memory);
  table_.bind(memory);
  leases_.bind(memory);
  ns_usage_.bind(memory);
  units_.bind(memory);
  tokens_.bind(memory);
  blocks_.bind(memory);
  queue_.bind(memory);
  ns_order_.bind(memory);
}

bool RadixTree::init(uint32_t num_blocks, uint32_t block_size, int32_t policy, uint64_t hash_seed) {
  seed_ = hash_seed;
  block_size_ = block_size;
  policy_ = policy;
  return units_.init(num_blocks) && tokens_.reserve(uint64_t{num_blocks} * block_size) &&
         blocks_.reserve(num_blocks);
}

bool RadixTree::reserve_nodes(uint64_t more, uint64_t more_roots) {
  // Invariant 1 bounds the nodes: each but a root has a unit of its own.
  uint64_t need = uint64_t{num_live_} + more;
  if (need > units_.num_units()) need = units_.num_units();
  need += num_roots_ + more_roots;
  return nodes_.reserve_doubling(need) && queue_.reserve(nodes_.capacity()) &&
         grow_table(nodes_.capacity());
}

bool RadixTree::reserve_namespaces(uint64_t n) {
  // In this order: whoever has usage has a place in the order, also when the second one fails.
  return ns_order_.reserve(n) && ns_usage_.reserve_doubling(n);
}
bool RadixTree::reserve_leases(uint64_t n) { return leases_.reserve_doubling(n); }

void RadixTree::touch_memory() {
  nodes_.touch();
  queue_.touch_memory();
}

// ---- the child table: linear probing, deletion by shifting back (no tombstones)

uint64_t RadixTree::hash_block(const int32_t* tokens) const {
  return hash_tokens(tokens, block_size_, seed_);
}

uint64_t RadixTree::hash_root(uint32_t ns, uint64_t extra_key) const {
  return mix(extra_key ^ 0x2545f4914f6cdd1du ^ seed_, (ns + 0x9e3779b97f4a7c15u) ^ seed_);
}

uint64_t RadixTree::slot_hash(uint32_t parent, uint64_t hash) {
  return mix(hash ^ parent * 0x9e3779b97f4a7c15u, 0xd6e8feb86659fd93u);
}

bool RadixTree::grow_table(uint64_t num_nodes) {
  uint64_t size = table_.capacity() == 0 ? kMinTable : table_mask_ + 1;
  while (size < num_nodes * 2) size *= 2;
  if (table_.capacity() != 0 && size == table_mask_ + 1) return true;
  Array<uint64_t> fresh;
  HostAllocator* memory = table_.allocator();
  fresh.bind(memory);
  if (!fresh.reserve(size)) return false;
  table_.swap(fresh);
  table_mask_ = size - 1;
  for (uint32_t id = 0; id < next_fresh_; ++id) {
    if (nodes_[id].live != 0) table_put(id);
  }
  return true;
}

void RadixTree::table_put(uint32_t id) {
  const uint64_t hash = slot_hash(nodes_[id].parent, nodes_[id].hash);
  uint64_t slot = hash & table_mask_;
  while (table_[slot] != 0) slot = (slot + 1) & table_mask_;
  table_[slot] = (hash & 0xffffffff00000000u) | (uint64_t{id} + 1);
}

uint64_t RadixTree::table_slot_of(uint32_t id) const {
  uint64_t slot = slot_hash(nodes_[id].parent, nodes_[id].hash) & table_mask_;
  while (static_cast<uint32_t>(table_[slot]) != id + 1) slot = (slot + 1) & table_mask_;
  return slot;
}

void RadixTree::table_erase(uint32_t id) {
  uint64_t hole = table_slot_of(id);
  for (uint64_t at = (hole + 1) & table_mask_; table_[at] != 0; at = (at + 1) & table_mask_) {
    const Node& n = nodes_[static_cast<uint32_t>(table_[at]) - 1];
    const uint64_t home = slot_hash(n.parent, n.hash) & table_mask_;
    if (((at - home) & table_mask_) >= ((at - hole) & table_mask_)) {
      table_[hole] = table_[at];
      hole = at;
    }
  }
  table_[hole] = 0;
}

uint32_t RadixTree::find_child(uint32_t parent, const int32_t* first_block) const {
  const uint64_t key = hash_block(first_block);
  const uint64_t hash = slot_hash(parent, key);
  for (uint64_t slot = hash & table_mask_; table_[slot] != 0; slot = (slot + 1) & table_mask_) {
    if (table_[slot] >> 32 != hash >> 32) continue;
    const uint32_t id = static_cast<uint32_t>(table_[slot]) - 1;
    const Node& n = nodes_[id];
    if (n.parent != parent || n.hash != key || n.is_root != 0) continue;
    if (std::memcmp(node_tokens(id), first_block, size_t{block_size_} * sizeof(int32_t)) == 0)
      return id;
  }
  return kNone;
}

uint32_t RadixTree::find_root(uint32_t ns, uint64_t extra_key) const {
  const uint64_t hash = slot_hash(kNone, hash_root(ns, extra_key));
  for (uint64_t slot = hash & table_mask_; table_[slot] != 0; slot = (slot + 1) & table_mask_) {
    const uint32_t id = static_cast<uint32_t>(table_[slot]) - 1;
    const Node& n = nodes_[id];
    if (n.is_root != 0 && n.ns == ns && n.extra_key == extra_key) return id;
  }
  return kNone;
}

// ---- looking

Position RadixTree::walk(Position from, const int32_t* tokens, uint64_t num_tokens, int32_t* out,
                         uint64_t out_cap) const {
  const uint64_t whole = num_tokens / block_size_;
  const uint32_t end =
      whole < units_.num_units() ? static_cast<uint32_t>(whole) : units_.num_units();
  Position at = from;
  while (at.blocks < end) {
    const int32_t* rest = tokens + uint64_t{at.blocks} * block_size_;
    if (at.in == nodes_[at.node].num) {
      const uint32_t child = find_child(at.node, rest);
      if (child == kNone) break;
      at.node = child;
      at.in = 0;
    }
    const uint32_t got = match_run(at, rest, end - at.blocks);
    if (out != nullptr && at.blocks < out_cap) {
      const uint64_t room = out_cap - at.blocks;
      std::memcpy(out + at.blocks, node_blocks(at.node) + at.in,
                  (got < room ? got : room) * sizeof(int32_t));
    }
    at.in += got;
    at.blocks += got;
    if (at.in < nodes_[at.node].num) break;
  }
  return at;
}

uint32_t RadixTree::match_run(Position at, const int32_t* tokens, uint32_t max_blocks) const {
  const uint32_t rest = nodes_[at.node].num - at.in;
  const int32_t* run = node_tokens(at.node) + uint64_t{at.in} * block_size_;
  return equal_blocks(run, tokens, rest < max_blocks ? rest : max_blocks, block_size_);
}

Position RadixTree::ascend(Position at, uint32_t blocks) const {
  at.blocks -= blocks;
  while (blocks >= at.in && nodes_[at.node].is_root == 0) {
    blocks -= at.in;
    at.node = nodes_[at.node].parent;
    at.in = nodes_[at.node].num;
  }
  at.in -= blocks;
  return at;
}

void RadixTree::path_blocks(Position at, uint32_t* out) const {
  while (at.blocks > 0) {
    std::memcpy(out + (at.blocks - at.in), node_blocks(at.node), at.in * sizeof(uint32_t));
    at.blocks -= at.in;
    at.node = nodes_[at.node].parent;
    at.in = nodes_[at.node].num;
  }
}

// ---- nodes

uint32_t RadixTree::new_node() {
  uint32_t id = free_head_;
  if (id != kNone) {
    free_head_ = nodes_[id].next_sibling;
  } else {
    id = next_fresh_++;
  }
  Node fresh = {};
  fresh.parent = fresh.first_child = fresh.next_sibling = fresh.prev_sibling = kNone;
  fresh.lease_head = fresh.fence_prev = fresh.fence_next = kNone;
  fresh.live = 1;
  nodes_[id] = fresh;
  return id;
}

void RadixTree::free_node(uint32_t id) {
  nodes_[id].live = 0;
  nodes_[id].next_sibling = free_head_;
  free_head_ = id;
}

void RadixTree::link_child(uint32_t parent, uint32_t id) {
  Node& n = nodes_[id];
  n.parent = parent;
  n.prev_sibling = kNone;
  n.next_sibling = nodes_[parent].first_child;
  if (n.next_sibling != kNone) nodes_[n.next_sibling].prev_sibling = id;
  nodes_[parent].first_child = id;
}

void RadixTree::unlink_child(uint32_t id) {
  const Node& n = nodes_[id];
  if (n.prev_sibling != kNone) {
    nodes_[n.prev_sibling].next_sibling = n.next_sibling;
  } else {
    nodes_[n.parent].first_child = n.next_sibling;
  }
  if (n.next_sibling != kNone) nodes_[n.next_sibling].prev_sibling = n.prev_sibling;
}

uint32_t RadixTree::make_root(uint32_t ns, uint64_t extra_key) {
  const uint32_t id = new_node();
  Node& n = nodes_[id];
  n.is_root = 1;
  n.ns = ns;
  n.extra_key = extra_key;
  n.hash = hash_root(ns, extra_key);
  table_put(id);
  ++num_roots_;
  return id;
}

void RadixTree::drop_root_if_unused(uint32_t root) {
  if (nodes_[root].first_child != kNone || nodes_[root].lease_head != kNone) return;
  table_erase(root);
  free_node(root);
  --num_roots_;
}

//   before   parent - [ a b | c d ] id        after   parent - [ a b ] upper - [ c d ] id
// The lower half keeps the id, its children and the leases beyond the cut; the others move to the
// upper half.
Position RadixTree::split(Position at) {
  const uint32_t id = at.node;
  if (at.in == nodes_[id].num) return at;
  const uint32_t upper = new_node();
  const uint64_t slot = table_slot_of(id);
  count(id, false);
  Node& lo = nodes_[id];
  Node& up = nodes_[upper];
  up.unit = lo.unit;
  up.num = at.in;
  up.ns = lo.ns;
  up.depth_blocks = lo.depth_blocks;
  up.hash = lo.hash;
  up.usage = lo.usage;
  up.stamp = lo.stamp;
  unlink_child(id);
  link_child(lo.parent, upper);
  table_[slot] = (table_[slot] & 0xffffffff00000000u) | (uint64_t{upper} + 1);
  lo.unit += at.in;
  lo.num -= at.in;
  lo.depth_blocks += at.in;
  lo.hash = hash_block(node_tokens(id));
  link_child(upper, id);
  table_put(id);
  ++num_live_;
  split_leases(id, upper, at.in);
  count(id, true);
  count(upper, true);
  if (lo.fenced != 0) fence_after_split(id, upper);
  requeue(id);
  requeue(upper);
  return {upper, at.in, at.blocks};
}

Position RadixTree::add_run(Position at, uint32_t num_blocks, uint64_t now, bool may_extend,
                            uint32_t* unit) {
  const uint32_t parent = at.node;
  const bool leaf = nodes_[parent].is_root == 0 && nodes_[parent].first_child == kNone &&
                    nodes_[parent].usage.hits == 0;
  const uint32_t behind = nodes_[parent].unit + nodes_[parent].num;
  const uint32_t got = units_.take(num_blocks, may_extend && leaf ? behind : kNone, unit);
  num_cached_ += got;
  if (may_extend && leaf && *unit == behind) {
    count(parent, false);
    nodes_[parent].num += got;
    count(parent, true);
    requeue(parent);
    return {parent, at.in + got, at.blocks + got};
  }
  const uint32_t id = new_node();
  unqueue(parent);
  Node& n = nodes_[id];
  n.unit = *unit;
  n.num = got;
  n.ns = nodes_[parent].ns;
  n.depth_blocks = at.blocks;
  n.usage = {now, now, 0};
  link_child(parent, id);
  ++num_live_;
  count(id, true);
  return {id, got, at.blocks + got};
}

void RadixTree::index_child(uint32_t id) {
  nodes_[id].hash = hash_block(node_tokens(id));
  table_put(id);
  requeue(id);
}

uint32_t RadixTree::trim_tail(uint32_t id) {
  Node& n = nodes_[id];
  count(id, false);
  const uint32_t unit = n.unit + n.num - 1;
  const uint32_t block = static_cast<uint32_t>(blocks_[unit]);
  --n.num;
  --num_cached_;
  units_.give(unit, 1);
  if (n.num > 0) {
    count(id, true);
    requeue(id);
  } else {
    remove_node(id);
  }
  return block;
}

void RadixTree::remove_node(uint32_t id) {
  const uint32_t parent = nodes_[id].parent;
  unqueue(id);
  if (nodes_[id].fenced != 0) fence_unlink(id);
  table_erase(id);
  unlink_child(id);
  free_node(id);
  --num_live_;
  if (nodes_[parent].is_root != 0) {
    drop_root_if_unused(parent);
  } else {
    requeue(parent);
  }
}

}  // namespace radixattn
