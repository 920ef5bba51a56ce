// Radix attention's work list: what a plan's step tells the kernels, in plain arrays.
//
// Sequences whose block tables begin with the same blocks share their K/V: a tree, whose nodes are
// runs of blocks and whose leaves are what each sequence has alone. Sequences are sorted so that
// those below a node stand side by side, and query rows follow in that order ("sorted rows"). An
// item is a run of keys and the sorted rows of everybody who sees them all, so that K/V is read
// once for all of them:
//
//   tables   a: 3 4 5 6 | 9          node (keys of 3 4 5 6)   rows of a, b, c
//            b: 3 4 5 6 | 2 7          |- leaf 9              rows of a
//            c: 3 4 5 6 | 2 8          `- node 2              rows of b, c
//                                          |- leaf 7          rows of b
//                                          `- leaf 8          rows of c
//
// Each item is done once for every KV head; its stacked rows are sorted row * group + query head of
// the group. It leaves a partial state (o, m, l) for each of its rows, or the result if those rows
// have no other keys. States of a row merge in the order of its terms, from the first position on.
//
// Batch-invariant lists: an item begins and ends at a multiple of kSegmentTokens, or where its
// sequence ends, and leaves a state for each segment (state_stride != 0); only one that begins at
// key 0 may fold its segments, in order, into one state. Kernels fold as merges do, so cuts leave
// no trace.
//
// Plain structs: host and device.
#pragma once

#include <cstdint>

namespace radixattn {

// Positions of a segment of batch-invariant attention: the same for every row, launch and backend's
// cut. A multiple of every kernel's tile.
constexpr int32_t kSegmentTokens = 256;

struct RadixItem {
  static constexpr int32_t kDirect = INT32_MIN;

  int32_t seq;  // whose block table has the keys
  int32_t token_begin,
      token_end;               // keys; rows of `seq` alone may see fewer: causal order, a tree mask
  int32_t row_begin, row_end;  // stacked rows
  int32_t state;  // of sorted row r and the item's segment k = 0, 1, ...: state + r + k *
                  // state_stride, never negative (`state` may be); kDirect: the rows' only item,
                  // which writes their results
  int32_t state_stride;  // 0: one state for all keys
  int32_t narrow;        // 1: rows of one query token of each of few sequences, for the kernel that
                         // reads K/V for few rows
};

// How the rows of a sequence end: the states terms[i] + sorted row, i in [term_begin, term_end), in
// this order; none: an item wrote the results. first_row < 0: no row sees any key, and decode's
// merge writes the empty state.
struct RadixMerge {
  int32_t first_row;  // sorted row of its first query token; the others follow
  int32_t term_begin, term_end;
};

// The query row of a sorted row, and where it stands.
struct RadixRow {
  int32_t query;
  int32_t position;
};

struct RadixListSizes {
  int32_t num_items;
  int32_t num_rows;  // sorted rows
};

// What work costs on a backend, in the time that one token's K and V of one KV head take at the
// memory's speed. A wide item's rows are computed in panels; a narrow one has those of a single
// query token, or of a few, one after the other.
struct RadixCosts {
  float item;          // of an item's start and end
  float narrow_token;  // of a key in a narrow item of one query token
  float narrow_keys;   // of a key in a narrow item of several: bringing it in,
  float narrow_more;   // and each query token
  float wide_token;    // of a key in a wide item: bringing it in
  float panel_token;   // of a key and a panel of rows
  float state;         // of a query row's partial state of one KV head, all heads of the group:
                       // written, read and merged
  float plain = 1;     // of prefill's usual launch, in parts of what these make of it: below 1
                       // where its kernel is the faster one
};

// Of a key in a narrow item of so many query tokens: memory and arithmetic side by side.
constexpr float narrow_key_cost(const RadixCosts& c, uint32_t tokens) {
  const float computed = c.narrow_keys + static_cast<float>(tokens) * c.narrow_more;
  return tokens <= 1 || computed < c.narrow_token ? c.narrow_token : computed;
}

// Room that a backend has for a plan's lists within its bounds, and how it wants items.
struct RadixLimits {
  uint32_t max_items = 0;   // 0: the backend takes no list
  uint32_t max_states = 0;  // rows of partial states, all query heads each
  uint32_t max_terms = 0;
  uint32_t wide_rows = 0;      // stacked rows of an item at most
  uint32_t few_rows = 0;       // the same in a prefill that is done sooner so; 0: wide_rows always
  uint32_t panel_rows = 0;     // of a panel of rows
  uint32_t workers = 1;        // that take items, or parts of them, at the same time
  uint32_t parts = 1;          // of an item that different workers take: its KV heads, or 1
  uint32_t draws = 1;          // units of a prefill item's part, of which each is for any worker
  uint32_t few_drawn = ~0u;    // decode's items have as many units if they have more stacked rows,
                               // and are not narrow
  uint32_t narrow_tokens = 0;  // query tokens of a narrow item at most; 0: none are taken
  bool strided = false;  // worker w of n takes items w, w + n, ..., not the next one when free
  RadixCosts costs = {};
  uint64_t workspace_bytes = 0;
};

}  // namespace radixattn
