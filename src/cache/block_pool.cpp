#include "cache/block_pool.h"

namespace radixattn {

void BlockPool::bind(HostAllocator* memory) {
  extents_.bind(memory);
  refs_.bind(memory);
  deferred_.bind(memory);
}

bool BlockPool::init(uint32_t num_blocks, bool defer_free) {
  defer_free_ = defer_free;
  if (defer_free && !deferred_.reserve(num_blocks)) return false;
  return refs_.reserve(num_blocks) && extents_.init(num_blocks);
}

uint32_t BlockPool::take(uint32_t want, uint32_t hint, uint32_t* first) {
  const uint32_t waiting = planned_ > want ? planned_ : want;
  const uint32_t spare = num_free() > waiting ? num_free() - waiting : 0;
  const uint32_t got = extents_.take_to_grow(want, hint, spare, first);
  planned_ -= got < planned_ ? got : planned_;
  for (uint32_t i = 0; i < got; ++i) refs_[*first + i] = 1;
  return got;
}

void BlockPool::drop_ref(uint32_t block) {
  if (remove_ref(block) == 0) give_back(block);
}

uint32_t BlockPool::remove_ref(uint32_t block) {
  assert(refs_[block] > 0);
  return --refs_[block];
}

void BlockPool::give_cached(uint32_t block, bool fenced) {
  assert(refs_[block] == 0);
  if (fenced) {
    give_back(block);
  } else {
    extents_.give(block, 1);
  }
}

void BlockPool::give_back(uint32_t block) {
  if (!defer_free_ || epoch_now_ <= epoch_retired_) {
    extents_.give(block, 1);
    return;
  }
  deferred_[(deferred_head_ + deferred_count_) % num_blocks()] = {epoch_now_, block, 0};
  ++deferred_count_;
}

void BlockPool::set_epochs(uint64_t now, uint64_t retired) {
  epoch_now_ = now;
  epoch_retired_ = retired;
  while (deferred_count_ > 0 && deferred_[deferred_head_].epoch <= retired) {
    extents_.give(deferred_[deferred_head_].block, 1);
    deferred_head_ = (deferred_head_ + 1) % num_blocks();
    --deferred_count_;
  }
}

}  // namespace radixattn
