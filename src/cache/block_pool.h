// The pool of physical blocks: who is free, who waits behind a fence, and how many rows hold a
// private block.
//
// A block is in exactly one of these states:
//   free       in the extent allocator
//   private    refs > 0: that many request rows hold it (more than one after a fork or a borrow)
//   cached     owned by the tree; refs == 0
//   deferred   given up while launches of an unretired epoch may still read it
// The pool knows no tokens, requests or namespaces. Thread rule: callers serialise.
#pragma once

#include <cstdint>

#include "cache/extent_allocator.h"

namespace radixattn {

class BlockPool {
 public:
  void bind(HostAllocator* memory);
  [[nodiscard]] bool init(uint32_t num_blocks, bool defer_free);

  uint32_t num_blocks() const { return extents_.num_units(); }
  uint32_t num_free() const { return extents_.num_free(); }
  uint32_t num_deferred() const { return deferred_count_; }

  // Takes up to `want` contiguous blocks as private with one reference each, with room to grow; see
  // ExtentAllocator::take_to_grow. plan: so many will be taken before anything else happens, which
  // is then no room for anybody.
  void plan(uint32_t num_blocks) { planned_ = num_blocks; }
  uint32_t take(uint32_t want, uint32_t hint, uint32_t* first);
  void end_growth(uint32_t hint) { extents_.end_growth(hint); }
  void add_ref(uint32_t block) { ++refs_[block]; }
  uint32_t refs(uint32_t block) const { return refs_[block]; }
  void drop_ref(uint32_t block);        // private: one row less; the last one gives the block back
  uint32_t remove_ref(uint32_t block);  // one row less, without giving back; returns what is left
  void hand_to_tree(uint32_t block) { refs_[block] = 0; }

  // Cached blocks that leave the tree. `fenced`: a launch may still read them.
  void give_cached(uint32_t block, bool fenced);

  // Fences (only with defer_free). Blocks given up now wait until epoch `now` is retired.
  void set_epochs(uint64_t now, uint64_t retired);

  const ExtentAllocator& extents() const { return extents_; }
  template <class Fn>
  void for_each_deferred(Fn fn) const {
    for (uint32_t i = 0; i < deferred_count_; ++i)
      fn(deferred_[(deferred_head_ + i) % num_blocks()].block);
  }

 private:
  struct Deferred {
    uint64_t epoch;
    uint32_t block;
    uint32_t reserved;
  };

  void give_back(uint32_t block);

  ExtentAllocator extents_;
  uint32_t planned_ = 0;      // not taken yet
  Array<uint32_t> refs_;      // [num_blocks]
  Array<Deferred> deferred_;  // ring [num_blocks], by ascending epoch; empty without defer_free
  uint32_t deferred_head_ = 0;
  uint32_t deferred_count_ = 0;
  bool defer_free_ = false;
  uint64_t epoch_now_ = 0;
  uint64_t epoch_retired_ = 0;
};

}  // namespace radixattn
