#include "plan/shared_tree.h"

#include <cstring>

#include "plan/carve.h"

namespace radixattn {
namespace {

constexpr int32_t kNone = -1;

// Leading entries that are equal, of n.
uint32_t equal_entries(const int32_t* a, const int32_t* b, uint32_t n) {
  constexpr uint32_t kChunk = 64;
  uint32_t i = 0;
  while (i + kChunk <= n && std::memcmp(a + i, b + i, kChunk * sizeof(int32_t)) == 0) i += kChunk;
  while (i < n && a[i] == b[i]) ++i;
  return i;
}

}  // namespace

// Node 0 is the root, which has no blocks.
struct SharedTree::Trie {
  int32_t parent, prev, next, first_child, last_child;
  int32_t block;  // its first
  uint32_t first_block, end_block;
  uint32_t seq;                 // one whose row has its blocks
  uint32_t count;               // sequences below
  int32_t first_seq, last_seq;  // that end here
  int32_t out;                  // its TreeNode, or the one above
};

void SharedTree::carve(uint32_t max_seqs, void* memory, uint64_t* used) {
  uint32_t entries = 16;
  while (entries < 4 * uint64_t{max_seqs} && entries < (1u << 31)) entries *= 2;
  Carver carver(memory);
  nodes_ = carver.take<TreeNode>(2 * uint64_t{max_seqs});
  seqs_ = carver.take<uint32_t>(max_seqs);
  slot_nodes_ = carver.take<int32_t>(max_seqs);
  trie_ = carver.take<Trie>(2 * uint64_t{max_seqs} + 1);
  table_ = carver.take<uint32_t>(entries);
  next_seq_ = carver.take<int32_t>(max_seqs);
  table_mask_ = entries - 1;
  *used = carver.used();
}

uint64_t SharedTree::bytes(uint32_t max_seqs) {
  uint64_t used;
  SharedTree().carve(max_seqs, nullptr, &used);
  return used;
}

void SharedTree::bind(uint32_t max_seqs, void* memory) {
  uint64_t used;
  carve(max_seqs, memory, &used);
  num_nodes_ = 0;
}

void SharedTree::clear(uint32_t num_seqs) {
  num_nodes_ = 0;
  for (uint32_t s = 0; s < num_seqs; ++s) seqs_[s] = s, slot_nodes_[s] = kNone;
}

uint32_t* SharedTree::find(int32_t parent, int32_t block) {
  uint64_t hash = (uint64_t{static_cast<uint32_t>(parent)} << 32) ^ static_cast<uint32_t>(block);
  hash *= 0x9e3779b97f4a7c15u;
  uint32_t at = static_cast<uint32_t>(hash >> 32) & table_mask_;
  for (;; at = (at + 1) & table_mask_) {
    const uint32_t node = table_[at];
    if (node == 0 || (trie_[node].parent == parent && trie_[node].block == block))
      return &table_[at];
  }
}

int32_t SharedTree::add_node(int32_t parent, int32_t block, uint32_t first_block,
                             uint32_t end_block, uint32_t seq) {
  const auto made = static_cast<int32_t>(num_trie_++);
  trie_[made] = {parent,    kNone, kNone, kNone, kNone, block, first_block,
                 end_block, seq,   0,     kNone, kNone, kNone};
  return made;
}

// Puts a node for its blocks below `at` in its place, and it below that one.
int32_t SharedTree::split(int32_t node, uint32_t at) {
  Trie& lower = trie_[node];
  uint32_t* entry = find(lower.parent, lower.block);
  const int32_t made = add_node(lower.parent, lower.block, lower.first_block, at, lower.seq);
  Trie& upper = trie_[made];
  *entry = static_cast<uint32_t>(made);
  upper.count = lower.count;
  upper.prev = lower.prev;
  upper.next = lower.next;
  upper.first_child = upper.last_child = node;
  (upper.prev != kNone ? trie_[upper.prev].next : trie_[upper.parent].first_child) = made;
  (upper.next != kNone ? trie_[upper.next].prev : trie_[upper.parent].last_child) = made;
  lower.prev = lower.next = kNone;
  lower.first_block = at;
  lower.block = row(lower.seq)[at];
  lower.parent = made;
  *find(made, lower.block) = static_cast<uint32_t>(node);
  return made;
}

void SharedTree::insert(uint32_t seq) {
  const int32_t* blocks = row(seq);
  const uint32_t end = rows_.num_blocks[seq];
  int32_t node = 0;
  for (uint32_t at = 0; at < end;) {
    uint32_t* entry = find(node, blocks[at]);
    if (*entry == 0) {
      const int32_t leaf = add_node(node, blocks[at], at, end, seq);
      *entry = static_cast<uint32_t>(leaf);
      Trie& parent = trie_[node];
      trie_[leaf].prev = parent.last_child;
      (parent.last_child != kNone ? trie_[parent.last_child].next : parent.first_child) = leaf;
      parent.last_child = leaf;
      node = leaf;
      at = end;
    } else {
      node = static_cast<int32_t>(*entry);
      const Trie& child = trie_[node];
      const uint32_t most = (end < child.end_block ? end : child.end_block) - at;
      at += equal_entries(blocks + at, row(child.seq) + at, most);
      if (at < child.end_block) node = split(node, at);
    }
    ++trie_[node].count;
  }
  Trie& last = trie_[node];
  next_seq_[seq] = kNone;
  (last.last_seq != kNone ? next_seq_[last.last_seq] : last.first_seq) = static_cast<int32_t>(seq);
  last.last_seq = static_cast<int32_t>(seq);
}

// A walk from the root: of each node first what ends there, then its children.
void SharedTree::write_out() {
  uint32_t slot = 0;
  for (int32_t node = 0;;) {
    Trie& t = trie_[node];
    if (node != 0) {
      t.out = trie_[t.parent].out;
      if (t.count > 1) {
        nodes_[num_nodes_] = {t.out, slot, slot + t.count, t.first_block, t.end_block};
        t.out = static_cast<int32_t>(num_nodes_++);
      }
    }
    for (int32_t s = t.first_seq; s != kNone; s = next_seq_[s], ++slot) {
      seqs_[slot] = static_cast<uint32_t>(s);
      slot_nodes_[slot] = t.out;
    }
    if (t.first_child != kNone) {
      node = t.first_child;
      continue;
    }
    while (node != 0 && trie_[node].next == kNone) node = trie_[node].parent;
    if (node == 0) return;
    node = trie_[node].next;
  }
}

void SharedTree::build(const TreeRows& rows) {
  rows_ = rows;
  num_nodes_ = num_trie_ = 0;
  std::memset(table_, 0, (uint64_t{table_mask_} + 1) * sizeof(uint32_t));
  add_node(kNone, kNone, 0, 0, 0);
  for (uint32_t s = 0; s < rows.num_seqs; ++s) insert(s);
  write_out();
}

}  // namespace radixattn
