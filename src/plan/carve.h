// One piece of memory cut into arrays: once with no memory to ask for its size, once to place them.
#pragma once

#include <cstdint>

namespace radixattn {

class Carver {
 public:
  explicit Carver(void* memory) : base_(static_cast<char*>(memory)) {}

  // count elements, at a multiple of 64 bytes; null when there is no memory.
  template <class T>
  T* take(uint64_t count) {
    char* at = base_ == nullptr ? nullptr : base_ + used_;
    used_ += (count * sizeof(T) + 63) & ~uint64_t{63};
    return reinterpret_cast<T*>(at);
  }
  uint64_t used() const { return used_; }

 private:
  char* base_;
  uint64_t used_ = 0;
};

}  // namespace radixattn
