// Hands out contiguous runs ("extents") of the units [0, n): the physical blocks of the pool and
// the token units of the tree both live by it. Runs matter: physically contiguous blocks read
// 22-34% faster, and a tree edge whose tokens are contiguous is compared by one memcmp.
//
// clang-format off
//   unit   0 1 2 3 4 5 6 7 8 9
//          A A . . . A . . A .      A: taken
//   tag    0 0 3 0 3 0 2 2 0 1      a free extent carries its length at both ends, all else 0
// clang-format on
//
// With such boundary tags (Knuth 1968) a freed run finds its free neighbours in O(1).
// Extents hang in lists by floor(log2(length)). All operations are O(1) but for a bounded look
// into one list. Deterministic: the same calls give the same units. Thread rule: callers serialise.
//
// Requests that decode side by side each take one block at a time. Best fit would put one request's
// next block right behind another's last, so that nobody's run goes on. take_to_grow() therefore
// looks for a place with room behind it:
//
// clang-format off
//   A A . . . . . . . . . . . . . .    A has taken to grow: what lies behind it is claimed
//   A A . . . . . . B . . . . . . .    B starts half-way: both have the same room
//   A A A A A . . . B B . . C . . .    C halves the longer extent; A and B went on at their hints
// clang-format on
//
// A claim is a preference, never a reservation: each free unit can be taken by everybody.
#pragma once

#include <cstdint>

#include "base/array.h"
#include "base/ids.h"

namespace radixattn {

class ExtentAllocator {
 public:
  static constexpr uint32_t kMaxUnits = (1u << 31) - 1;

  void bind(HostAllocator* memory);
  [[nodiscard]] bool init(uint32_t num_units);  // at most kMaxUnits; false: no memory

  // Takes up to `want` (> 0) contiguous units: the whole run when one fits (the best fit at hand),
  // else the longest found at hand. Prefers to go on at `hint` (the unit after a taken one, or
  // kNone) when it is free. Returns how many, 0 only when nothing is free.
  uint32_t take(uint32_t want, uint32_t hint, uint32_t* first);

  // The same for a taker that will come back with the unit behind its last one as hint: a run that
  // begins anew gets room to grow, as much as there is for all, and the free units behind it are
  // claimed. `spare`: units that stay free when everybody known to wait has taken, this taker too;
  // without any the best fit is all that counts.
  uint32_t take_to_grow(uint32_t want, uint32_t hint, uint32_t spare, uint32_t* first);
  // Nobody will come back with this hint: the claim goes. One behind units that are given later (a
  // deferred tail) stays until they are taken: others leave a little more room than they must.
  void end_growth(uint32_t hint);

  void give(uint32_t first, uint32_t count);

  uint32_t num_units() const { return num_units_; }
  uint32_t num_free() const { return num_free_; }
  bool check(uint64_t* walked_free) const;  // tags and lists agree; counts free units

 private:
  static constexpr uint32_t kBins = 32;
  static constexpr uint32_t kClaimedTag = 1u << 31;

  // An extent is named by its last unit, which stays while takers eat it from the front: then the
  // lists need not change. There it carries kClaimedTag, too.
  struct Lists {
    uint32_t heads[kBins];
    uint32_t bins_used;  // bit b: list b is not empty
    uint32_t count;
  };
  struct Place {
    uint32_t last;  // the extent; kNone: nowhere
    uint32_t at;    // where to begin in it
  };

  static uint32_t bin_of(uint32_t length);
  uint32_t length_at(uint32_t end) const { return tag_[end] & ~kClaimedTag; }  // either end
  bool is_claimed(uint32_t last) const { return (tag_[last] & kClaimedTag) != 0; }
  // NOTE: hints follow a unit that is taken, so a tag there can only be the start of a free extent.
  bool is_extent(uint32_t hint) const { return hint < num_units_ && tag_[hint] != 0; }
  Place at_hint(uint32_t hint) const { return {hint + length_at(hint) - 1, hint}; }
  Place front_of(uint32_t last) const {
    return {last, last != kNone ? last + 1 - length_at(last) : kNone};
  }
  uint32_t length_or_0(uint32_t last) const { return last != kNone ? length_at(last) : 0; }
  uint32_t find_in_bin(const Lists& lists, uint32_t bin, uint32_t want) const;
  uint32_t best_fit(const Lists& lists, uint32_t want) const;
  uint32_t longest(const Lists& lists) const;
  uint32_t find(uint32_t want) const;
  Place find_room(uint32_t want, uint32_t spare) const;
  uint32_t cut(Place place, uint32_t want, bool claims_rest, uint32_t* first);
  void set_tags(uint32_t last, uint32_t length, bool claimed);
  void insert(uint32_t last, uint32_t length, bool claimed);
  void remove(uint32_t last);
  void resize(uint32_t last, uint32_t length, bool claimed);
  bool check_lists(const Lists& lists, bool claimed, uint64_t* total) const;

  Array<uint32_t> tag_;   // [num_units]
  Array<uint32_t> next_;  // [num_units] by last unit of a free extent
  Array<uint32_t> prev_;
  Lists unclaimed_ = {};
  Lists claimed_ = {};
  uint32_t num_units_ = 0;
  uint32_t num_free_ = 0;
};

}  // namespace radixattn
