// Host memory through the context's allocator callbacks (malloc when the caller gave none).
//
// Promises: every block is freed with the size and alignment it was taken with; `bytes()` is what
// is held now. Nothing throws; a failed allocation returns nullptr. Thread rule: as the context's
// lock (callers serialise).
#pragma once

#include <cstddef>
#include <cstdint>

#include "radixattn.h"

namespace radixattn {

class HostAllocator {
 public:
  HostAllocator() = default;  // malloc
  explicit HostAllocator(const radix_allocator& callbacks) : callbacks_(callbacks) {}

  void* allocate(size_t size, size_t align);
  void release(void* ptr, size_t size, size_t align);
  uint64_t bytes() const { return bytes_; }

 private:
  radix_allocator callbacks_{};  // alloc == nullptr: malloc
  uint64_t bytes_ = 0;
};

}  // namespace radixattn
