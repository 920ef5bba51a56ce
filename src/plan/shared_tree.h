// What the sequences of a step share: the compressed trie over the rows of their block tables.
//
// Equal blocks at equal places are the same K/V, whoever wrote them: forks, borrowed and committed
// blocks, and tables of a cache that is not ours look alike. A node is a run of blocks that at
// least two sequences begin with; what a sequence has alone is in no node:
//
//   rows  0: 3 4 5 6 9       slots 0 1 2 = sequences 0 1 2
//         1: 3 4 5 6 2 7     node 0: parent -1, slots [0, 3), blocks [0, 4)
//         2: 3 4 5 6 2 8     node 1: parent  0, slots [1, 3), blocks [4, 5)
//
// A row counts as far as the caller says (whole blocks that all of the sequence's query rows see),
// so a node ends at the latest where its shortest sequence does. Sequences without a block are in
// no node. Pure: memory comes from the caller, and nothing is allocated.
#pragma once

#include <cstdint>

namespace radixattn {

struct TreeNode {
  int32_t parent;                   // -1: none; before its children
  uint32_t first_slot, end_slot;    // sequences below it, itself included; at least two
  uint32_t first_block, end_block;  // of each of their rows; from its parent's end on
};

struct TreeRows {
  const int32_t* tables = nullptr;  // [num_seqs, row_stride]
  uint64_t row_stride = 0;
  const uint32_t* num_blocks = nullptr;  // [num_seqs] of a row that may be shared
  uint32_t num_seqs = 0;
};

class SharedTree {
 public:
  static uint64_t bytes(uint32_t max_seqs);
  void bind(uint32_t max_seqs, void* memory);  // 64-byte aligned

  // Cost: O(blocks of all rows), compared as fast as memcmp does.
  void build(const TreeRows& rows);
  void clear(uint32_t num_seqs);  // every sequence by itself

  uint32_t num_nodes() const { return num_nodes_; }  // less than 2 * num_seqs
  const TreeNode* nodes() const { return nodes_; }
  const uint32_t* seqs() const { return seqs_; }             // [num_seqs] the sequence of each slot
  const int32_t* slot_nodes() const { return slot_nodes_; }  // deepest node of each slot; -1: none

 private:
  struct Trie;

  void carve(uint32_t max_seqs, void* memory, uint64_t* used);
  uint32_t* find(int32_t parent, int32_t block);
  int32_t add_node(int32_t parent, int32_t block, uint32_t first_block, uint32_t end_block,
                   uint32_t seq);
  int32_t split(int32_t node, uint32_t at);
  void insert(uint32_t seq);
  void write_out();
  const int32_t* row(uint32_t seq) const { return rows_.tables + seq * rows_.row_stride; }

  TreeRows rows_;
  uint32_t num_nodes_ = 0;
  TreeNode* nodes_ = nullptr;
  uint32_t* seqs_ = nullptr;
  int32_t* slot_nodes_ = nullptr;

  uint32_t num_trie_ = 0;
  Trie* trie_ = nullptr;
  uint32_t* table_ = nullptr;  // open addressing: a node by its parent and first block; 0 = free
  uint32_t table_mask_ = 0;
  int32_t* next_seq_ = nullptr;  // [max_seqs] sequences that end at the same node
};

}  // namespace radixattn
