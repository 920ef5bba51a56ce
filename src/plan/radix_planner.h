// From step to step: the tree of what a step's sequences share, and their work list.
//
// Both stay while they can. The tree stays when no row changed at or before the place where its
// own part begins, and no sequence that had no own part got one, nor one that had one lost it: it
// is then what a new build would give. The list stays for a decode step in which each sequence only
// grew, by less than 64 tokens since it was made: then the item with a sequence's last key and the
// position of its row are set anew, O(1) a sequence; a batch-invariant list has a state and a term
// free for a segment that begins meanwhile. A prefill step has a list where that is less work than
// what its usual launch does (RadixCosts::plain). Pure: memory comes from the caller.
#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "plan/radix_schedule.h"
#include "plan/shared_tree.h"

namespace radixattn {

struct RadixPlanShape {
  uint32_t max_seqs = 0;
  uint32_t max_rows = 0;  // query tokens
  uint32_t block_size = 1;
  uint64_t row_stride = 0;
  uint32_t group = 1;
  uint32_t window = 0;
  bool shares = true;  // false: no tree
  bool batch_invariant = false;
  bool always = false;  // a list for each step, shared or not
  bool pads = false;    // merges up to max_seqs
  RadixLimits limits;   // max_items 0: no list
};

struct RadixStep {
  const int32_t* tables = nullptr;  // [num_seqs, row_stride]
  const int32_t* context_lens = nullptr;
  const int32_t* cu_q_lens = nullptr;  // null: decode
  uint32_t num_seqs = 0;
};

class RadixPlanner {
 public:
  static uint64_t bytes(const RadixPlanShape& shape);
  // list: where a step's list is written and kept until the next step.
  void bind(const RadixPlanShape& shape, const RadixArrays& list, void* memory);
  // The next step has nothing in common with this one.
  void forget() { known_ = false; }

  // [max_seqs] of each row the first entry that is not as in the step before, UINT32_MAX: none.
  // Filled in before plan().
  uint32_t* first_changed() { return first_changed_; }
  void plan(const RadixStep& step);

  bool has_list() const { return has_list_; }
  const RadixScheduleSizes& sizes() const { return sizes_; }
  const SharedTree& tree() const { return tree_; }
  uint32_t num_merges() const { return shape_.pads ? shape_.max_seqs : num_seqs_; }
  const RadixArrays& list() const { return list_; }
  // Of tests: builds and lists made since bind.
  uint64_t num_builds() const { return num_builds_; }
  uint64_t num_lists() const { return num_lists_; }

 private:
  // What a sequence may be for the tree, and the list, to stay as they are.
  struct Bounds {
    uint32_t num_blocks;           // first that is not in the tree
    int32_t tree_least, tree_end;  // tokens that may be shared
    int32_t list_least, list_end;  // context length
    int32_t last_place;            // in the list, of the item with its last key; -1: none
    int32_t term_end;              // of its merge as the list was made,
    int32_t spare_after;           // and from which length on there is one more
  };

  void carve(const RadixPlanShape& shape, void* memory, uint64_t* used);
  uint32_t sharable_tokens(const RadixStep& step, uint32_t seq) const;
  bool tree_stays(const RadixStep& step) const;
  bool list_stays(const RadixStep& step) const;
  void build(const RadixStep& step);
  void make_list(const RadixStep& step);
  void bound_list(const RadixStep& step);
  void grow(const RadixStep& step);

  RadixPlanShape shape_;
  RadixArrays list_;
  SharedTree tree_;
  RadixScheduler scheduler_;
  RadixScheduleSizes sizes_;
  uint32_t num_seqs_ = 0;
  bool known_ = false, decode_ = false, has_list_ = false;
  uint64_t num_builds_ = 0, num_lists_ = 0;
  uint32_t* first_changed_ = nullptr;
  uint32_t* num_blocks_ = nullptr;
  Bounds* bounds_ = nullptr;
};

}  // namespace radixattn
