// Radix attention in the tests: random trees of sequences whose block tables share blocks, and
// random valid work lists over them (backend/radix_list.h), made without the planner.
//
// A list obeys the contract and nothing more: nodes and sequences are cut into items anywhere, rows
// of an item into tiles anywhere, a shared run may be computed for each sequence again, items come
// in any order, states lie anywhere.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/radix_list.h"
#include "support/attention_case.h"
#include "support/rng.h"

namespace radixattn::test {

// Sequences of a random tree: several levels, forks, ragged ends, some empty, some without rows.
// At most `budget` element products of the reference.
void random_tree(Rng& rng, uint64_t budget, Shape* shape);

// Heads, options and a tree.
Shape random_radix_shape(Rng& rng, bool prefill, uint64_t budget);

// How lists are cut.
struct ListRules {
  uint32_t wide_rows = 240;   // stacked rows of an item at most
  bool narrow = true;         // decode: items of one query token may be narrow,
  int32_t narrow_tokens = 1;  // and shared ones of so many
  bool share = true;          // false: every sequence by itself
  bool cut = true;  // false: a node or a sequence is one run of keys, unless it must not be
  bool batch_invariant = false;
};

// A list's arrays on the host.
struct RadixArrays {
  RadixListSizes sizes = {};
  std::vector<RadixItem> items;
  std::vector<RadixRow> rows;
  std::vector<RadixMerge> merges;
  std::vector<int32_t> terms;
  uint32_t num_states = 0;

  // Points into this object.
  RadixList list() const;
};

// A random list for the case as it stands.
RadixArrays random_radix_list(AttentionCase& c, const ListRules& rules, Rng& rng);

// What a list must keep to: each row sees each of its keys in exactly one item, by a table that has
// it; a state is written once, and merged where its keys stand; a row has either states or one item
// that writes its result. Fails the test otherwise.
void expect_valid_list(AttentionCase& c, const RadixArrays& list, bool batch_invariant);

}  // namespace radixattn::test
