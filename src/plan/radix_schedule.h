// A step's tree as a work list (backend/radix_list.h): which nodes are read once for all rows below
// them, where key ranges are cut, and which states make up each row. A pure function of the tree,
// of lengths and of what work costs on the backend.
//
// Every node is either shared, one run of keys for all rows below it, or absorbed: what is below
// reads those keys itself. Sharing reads K/V once, but costs the rows a state each and an item
// more. The choice is a dynamic program from the leaves up over "how many nodes above are
// absorbed", which says where a run of keys would begin; it is shared where that is at least 2%
// cheaper.
//
//   tree   [0, 4096)  --- [4096, 4128)        runs   [0, 4096)     rows of a, b, c
//                      |    |-- a, b                 [4096, ...)   rows of a, of b: the node of 32
//                      '-- c                                       tokens is absorbed
//                                                    [4096, ...)   rows of c
//
// Runs are cut at multiples of 64 positions so that items, the dearest first, fill the workers. The
// length of a piece is one of a few candidates, the one of which a greedy walk is done first: with
// no more items than workers the longest of them decides, else the even share and half of the
// longest (Graham 1969). Workers that take every n-th item instead find each second round of n in
// reverse, so that none has the dearest of every round.
//
// A prefill that makes only a few items for each worker is cut four ways: with items of many rows
// or of few, sharing or not. What simulated workers do soonest is taken (RadixLimits::few_rows).
#pragma once

#include <cstdint>

#include "backend/radix_list.h"
#include "plan/shared_tree.h"

namespace radixattn {

// Tokens that a decode list lets each sequence grow by: the states and terms of segments that begin
// among them are kept free.
constexpr uint32_t kListGrowth = 64;

struct RadixScheduleInput {
  const SharedTree* tree = nullptr;
  const int32_t* context_lens = nullptr;  // [num_seqs]
  const int32_t* cu_q_lens = nullptr;     // [num_seqs + 1]; null: decode, a row each
  uint32_t num_seqs = 0;
  uint32_t num_merges = 0;  // at least num_seqs; sequences behind it are padding
  uint32_t block_size = 1;
  uint32_t group = 1;   // query heads of a KV head
  uint32_t window = 0;  // 0 = unlimited
  bool batch_invariant = false;
  RadixLimits limits;  // max_items at least radix_items_at_least
};

// Where a list is written; the pointers of a RadixList, on the host.
struct RadixArrays {
  RadixListSizes* sizes = nullptr;
  RadixItem* items = nullptr;
  RadixRow* rows = nullptr;
  RadixMerge* merges = nullptr;
  int32_t* terms = nullptr;
};

struct RadixScheduleSizes {
  uint32_t num_items = 0, num_rows = 0, num_states = 0, num_terms = 0;
  uint32_t num_shared = 0;   // nodes
  uint64_t tokens_seen = 0;  // of all sequences with rows; windows aside
  uint64_t tokens_read = 0;  // of these, when each shared run is read once for an item's rows
  bool has_merges = false;   // some row is not written by an item
  double cost = 0;           // estimate, of one KV head
  double work = 0;           // of all items and states before cuts, of one KV head
  double unshared_work = 0;  // the same if nothing were shared
};

// Items that a list may need in any case: one for every wide_rows rows of a sequence.
uint32_t radix_items_at_least(uint32_t max_seqs, uint32_t max_rows, uint32_t group,
                              const RadixLimits& limits);

class RadixScheduler {
 public:
  static uint64_t bytes(uint32_t max_seqs);
  void bind(uint32_t max_seqs, void* memory);  // 64-byte aligned

  // Decides what is shared and cut; nothing is written yet.
  void choose(const RadixScheduleInput& in);
  // Writes what was chosen.
  void write(const RadixArrays& out);

  const RadixScheduleSizes& sizes() const { return sizes_; }
  // After write, [num_seqs]: the item that ends with the sequence's last key, by cost; -1: none has
  // it alone. In decode the items of its other rows, num_tiles in all, follow it.
  const int32_t* last_items() const { return last_items_; }
  uint32_t num_tiles() const;
  // After write, [num_seqs]: the length beyond which the sequence's last item leaves one state more
  // and its merge has one term more; INT32_MAX: none within kListGrowth tokens.
  const int32_t* spare_after() const { return spare_after_; }
  // Where the list has the item that is the i-th by cost.
  uint32_t place_of(uint32_t i) const;

 private:
  struct Node;
  struct Run;
  struct Cut;

  void carve(uint32_t max_seqs, void* memory, uint64_t* used);
  bool choose_within(const RadixScheduleInput& in, bool shares);
  void place_rows();
  void read_nodes();
  void add_own_costs();
  void choose_nodes();
  float own_cost(uint32_t slot, uint32_t begin) const;
  float node_cost(uint32_t node, uint32_t begin) const;
  void make_runs(bool shares);
  void add_own_run(uint32_t slot);
  bool add_run(Run* run, uint32_t begin, uint32_t visible);
  uint32_t spare_states(const Run& run, uint32_t begin, uint32_t end) const;
  uint32_t units_of(const Run& run) const;
  Cut cut_at(double longest, bool apply);
  float tile_cost(const Run& run, uint32_t t, uint32_t begin, uint32_t end, uint32_t states) const;
  double drawn_time(const Cut& cut, double estimate);
  bool choose_cuts();
  double piece_cost(const Run& run, uint32_t begin, uint32_t end) const;
  void write_tile(const Run& run, uint32_t t, uint32_t begin, uint32_t end, uint32_t state,
                  RadixItem* item) const;
  uint32_t bucket_of(const Run& run, uint32_t t, uint32_t begin, uint32_t end) const;
  void write_items(const RadixArrays& out);
  void write_rows(const RadixArrays& out);
  void write_merges(const RadixArrays& out);

  RadixScheduleInput in_;
  RadixScheduleSizes sizes_;
  float state_cost_ = 0;
  uint32_t* first_rows_ = nullptr;  // [max_seqs + 1] of each slot
  int32_t* own_runs_ = nullptr;     // [max_seqs] of each slot; -1: none
  int32_t* last_items_ = nullptr;
  int32_t* spare_after_ = nullptr;
  Node* nodes_ = nullptr;  // [2 max_seqs] as the tree's
  Run* runs_ = nullptr;    // [3 max_seqs] the one above a run before it
  uint32_t num_runs_ = 0;
};

}  // namespace radixattn
