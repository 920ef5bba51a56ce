#include "plan/copy_batches.h"

namespace radixattn {
namespace {

constexpr uint32_t kMaxBatch = 512;
constexpr uint32_t kSlots = 4 * kMaxBatch;  // each pair enters two blocks: half full at most

// Blocks of the batch and what happens to them, by open addressing.
class Blocks {
 public:
  enum Use : uint8_t { kNone = 0, kRead = 1, kWritten = 2 };

  Use use_of(int32_t block) const { return static_cast<Use>(uses_[find(block)]); }
  void add(int32_t block, Use use) {
    const uint32_t slot = find(block);
    blocks_[slot] = block;
    if (uses_[slot] < use) uses_[slot] = use;
  }

 private:
  uint32_t find(int32_t block) const {
    uint32_t slot = (static_cast<uint32_t>(block) * 0x9e3779b1u) >> 21;
    static_assert(kSlots == 1u << 11, "the hash gives 11 bits");
    while (uses_[slot] != kNone && blocks_[slot] != block) slot = (slot + 1) % kSlots;
    return slot;
  }

  int32_t blocks_[kSlots];
  uint8_t uses_[kSlots] = {};
};

}  // namespace

uint32_t next_copy_batch(const int32_t* pairs, uint32_t num_pairs, uint32_t first, uint32_t max) {
  Blocks blocks;
  const uint32_t room = max < kMaxBatch ? max : kMaxBatch;
  uint32_t n = 0;
  for (; n < room && first + n < num_pairs; ++n) {
    const int32_t src = pairs[2 * (uint64_t{first} + n)],
                  dst = pairs[2 * (uint64_t{first} + n) + 1];
    if (blocks.use_of(src) == Blocks::kWritten || blocks.use_of(dst) != Blocks::kNone) break;
    blocks.add(src, Blocks::kRead);
    blocks.add(dst, Blocks::kWritten);
  }
  return n;
}

}  // namespace radixattn
