// Live requests and pins: generation-checked slots, block-table rows, families.
//
// A row entry is a physical block id, with kPrivateBit when the block is the request's own (counted
// in the pool's refs) and not the tree's. Entries [0, commit_blocks) are published; one of them is
// still private only when it is a duplicate that the request kept. Requests that share private
// blocks (forks; borrowers and their lender) form a ring, the family: whoever commits first
// publishes for all of them, and a shared block stands at the same index in every row. Thread rule:
// callers serialise.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/array.h"
#include "base/ids.h"

namespace radixattn {

constexpr uint32_t kPrivateBit = 1u << 31;
constexpr uint32_t block_of(uint32_t entry) { return entry & ~kPrivateBit; }
constexpr bool is_private(uint32_t entry) { return (entry & kPrivateBit) != 0; }

// What an append of one token touches comes first, in one cache line: a batch of hundreds of
// requests is bound by misses.
struct alignas(64) Request {
  uint32_t* row;
  uint64_t num_tokens;
  uint64_t known_tokens;
  uint32_t generation;
  uint32_t live;
  uint32_t num_blocks;
  uint32_t ns;
  uint32_t batch_mark;  // call that last named it, to find one named twice
  uint32_t row_cap;
  uint64_t table_version;
  uint8_t planned_copy;  // scratch of one append: what the last block needs, see append.cpp
  uint8_t remap;
  uint8_t reserved[2];
  uint32_t remap_budget;  // scratch of one commit: remaps that the caller was asked room for, and
                          // are not used up

  uint64_t ready_tokens;
  uint64_t cached_tokens;
  uint64_t extra_key;
  uint32_t commit_blocks;
  uint32_t lease_blocks;     // blocks from the root that the lease covers, >= commit_blocks
  uint32_t foreign_blocks;   // leading blocks that others published: matched at begin, or found as
                             // duplicates
  uint32_t kept_duplicates;  // with remap: private entries below commit_blocks, for the next commit
                             // to remap
  uint32_t ring_next, ring_prev;
  uint32_t lender;      // index of the request that this one borrows from, kNone = nobody
  uint32_t borrow_end;  // blocks; borrowed are [commit_blocks, borrow_end)
  uint32_t shared_end;  // scratch of one commit
  uint32_t next_free;

  uint64_t room(uint32_t block_size) const {
    return uint64_t{num_blocks} * block_size - num_tokens;
  }
  bool borrows() const { return lender != kNone && borrow_end > commit_blocks; }
};

static_assert(sizeof(Request) == 128 && offsetof(Request, ready_tokens) == 64);

struct Pin {
  uint32_t generation;
  uint32_t live;
  uint32_t ns;
  uint32_t next_free;
};

// Slots of one kind of object with a free list; T has generation, live and next_free.
template <class T, IdKind kKind>
class SlotTable {
 public:
  void bind(HostAllocator* memory) { slots_.bind(memory); }
  [[nodiscard]] bool init(uint32_t max, bool fixed) {
    max_ = max;
    fixed_ = fixed;
    return slots_.reserve(max);
  }
  bool full() const { return free_head_ == kNone && size_ >= (fixed_ ? max_ : kMaxIdIndex); }
  // NOTE: with n > 1 the free list may be shorter than n; fresh slots make up for it.
  [[nodiscard]] bool reserve_more(uint32_t n) {
    return uint64_t{live_} + n <= slots_.capacity() ||
           (!fixed_ && slots_.reserve_doubling(uint64_t{live_} + n));
  }
  uint32_t num_free_slots() const { return (fixed_ ? max_ : kMaxIdIndex) - live_; }
  uint32_t create() {
    uint32_t index = free_head_;
    if (index != kNone) {
      free_head_ = slots_[index].next_free;
    } else {
      index = size_++;
    }
    T& slot = slots_[index];
    if (++slot.generation == 0) slot.generation = 1;
    slot.live = 1;
    ++live_;
    return index;
  }
  void destroy(uint32_t index) {
    slots_[index].live = 0;
    slots_[index].next_free = free_head_;
    free_head_ = index;
    --live_;
  }
  uint32_t find(uint64_t id) const {
    const uint32_t index = id_index(id);
    if (id_kind(id) != kKind || index >= size_) return kNone;
    return slots_[index].live != 0 && slots_[index].generation == id_generation(id) ? index : kNone;
  }
  uint64_t id(uint32_t index) const { return make_id(kKind, slots_[index].generation, index); }
  T& operator[](uint32_t index) { return slots_[index]; }
  const T& operator[](uint32_t index) const { return slots_[index]; }
  // What create() will use.
  uint32_t next_index() const { return free_head_ != kNone ? free_head_ : size_; }
  // What create() will use after `index`, which it will use: the free list, then fresh slots.
  uint32_t index_after(uint32_t index) const {
    if (index >= size_) return index + 1;
    return slots_[index].next_free != kNone ? slots_[index].next_free : size_;
  }
  uint32_t size() const { return size_; }
  uint32_t num_live() const { return live_; }
  uint64_t capacity() const { return slots_.capacity(); }

 private:
  Array<T> slots_;
  uint32_t size_ = 0, live_ = 0, max_ = 0;
  uint32_t free_head_ = kNone;
  bool fixed_ = false;
};

using PinTable = SlotTable<Pin, IdKind::kPin>;

class RequestTable : public SlotTable<Request, IdKind::kRequest> {
 public:
  ~RequestTable() { release_rows(); }
  void bind(HostAllocator* memory) {
    memory_ = memory;
    SlotTable::bind(memory);
    all_rows_.bind(memory);
  }
  // `fixed`: every row is taken now, max_row entries each.
  [[nodiscard]] bool init(uint32_t max, uint32_t max_row, bool fixed);
  [[nodiscard]] bool reserve_row(uint32_t index, uint64_t entries);  // entries <= max_row
  uint32_t max_row() const { return max_row_; }

  // A fresh request with an empty row; reserve_more(1) said yes.
  uint32_t create_empty();

  void join_family(uint32_t member, uint32_t index);
  void leave_family(uint32_t index);

 private:
  void release_rows();

  HostAllocator* memory_ = nullptr;
  Array<uint32_t> all_rows_;  // fixed: [max * max_row]
  uint32_t max_row_ = 0;
};

}  // namespace radixattn
