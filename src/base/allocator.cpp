#include "base/allocator.h"

#include <cstdlib>

namespace radixattn {

void* HostAllocator::allocate(size_t size, size_t align) {
  void* ptr = nullptr;
  if (callbacks_.alloc != nullptr) {
    ptr = callbacks_.alloc(callbacks_.user, size, align);
  } else if (posix_memalign(&ptr, align < sizeof(void*) ? sizeof(void*) : align, size) != 0) {
    ptr = nullptr;
  }
  if (ptr != nullptr) bytes_ += size;
  return ptr;
}

void HostAllocator::release(void* ptr, size_t size, size_t align) {
  if (ptr == nullptr) return;
  bytes_ -= size;
  if (callbacks_.alloc != nullptr) {
    callbacks_.free(callbacks_.user, ptr, size, align);
  } else {
    std::free(ptr);
  }
}

}  // namespace radixattn
