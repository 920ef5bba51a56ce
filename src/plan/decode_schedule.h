// How a step's decode is cut into work items for a device whose blocks walk a list: a pure function
// of lengths.
//
// A range is split_tokens positions, at the same places in every sequence; an item is one range of
// one sequence, and costs its visible tokens plus a fixed part for a block's start and end. The
// longer the ranges, the fewer states must be put together afterwards; the shorter, the more evenly
// items fill the blocks. The length chosen is the one of a few candidates whose estimate is lowest:
//
//   max(longest item, sum of items / blocks) + states to merge / blocks
//
// which is what a greedy walk of the list reaches up to its last item (Graham 1969), full ranges
// first. All in units of one token's K/V.
#pragma once

#include <cstdint>

namespace radixattn {

struct DecodeScheduleInput {
  const int32_t* context_lens = nullptr;  // [num_seqs]; negative counts as 0
  uint32_t num_seqs = 0;
  uint32_t window = 0;      // 0 = unlimited
  uint32_t num_blocks = 1;  // that walk the list at the same time
  uint32_t max_items = 0;   // room in `items`, at least num_seqs
  uint32_t fixed_split =
      0;  // != 0: ranges of this length, so that results do not depend on the batch
};

struct DecodeSchedule {
  uint32_t split_tokens = 0;  // a multiple of 64
  uint32_t num_items = 0;
  uint32_t num_partial_rows = 0;  // states that sequences with several ranges leave
};

// Writes items [num_items, 2] {sequence, range}, full ranges first, and partial_begin [num_seqs]:
// the state of range i of sequence s is row partial_begin[s] + i. A sequence without visible
// positions has one item, range 0. With fixed_split 0 and lengths up to 2^30 the list always fits;
// else num_items may come out larger than max_items, and then nothing is written.
DecodeSchedule schedule_decode(const DecodeScheduleInput& in, int32_t* items,
                               int32_t* partial_begin);

}  // namespace radixattn
