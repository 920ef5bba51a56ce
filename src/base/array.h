// A growable array of trivially copyable elements over the context's allocator.
//
// Unlike std::vector it never throws: reserve says whether there is room, everything else cannot
// fail. Elements of fresh capacity are zero. Growth doubles. Indexing is unchecked in release
// builds.
#pragma once

#include <cassert>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "base/allocator.h"

namespace radixattn {

template <class T>
class Array {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  Array() = default;
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  ~Array() { clear(); }

  void bind(HostAllocator* memory) { memory_ = memory; }
  HostAllocator* allocator() const { return memory_; }

  // Room for at least `n` elements; false and unchanged when the allocator has none.
  [[nodiscard]] bool reserve(uint64_t n) { return n <= capacity_ || grow(n, n); }
  // As reserve, with doubling, for arrays that grow one by one.
  [[nodiscard]] bool reserve_doubling(uint64_t n) {
    return n <= capacity_ || grow(n, capacity_ * 2 > n ? capacity_ * 2 : n);
  }

  void clear() {
    if (data_ != nullptr) memory_->release(data_, capacity_ * sizeof(T), kAlign);
    data_ = nullptr;
    capacity_ = 0;
  }

  // Writes every page once, so that no later call pays for the first touch.
  void touch() {
    if (data_ != nullptr) std::memset(static_cast<void*>(data_), 0, capacity_ * sizeof(T));
  }

  void swap(Array& other) {
    T* data = data_;
    uint64_t capacity = capacity_;
    data_ = other.data_;
    capacity_ = other.capacity_;
    other.data_ = data;
    other.capacity_ = capacity;
  }

  T& operator[](uint64_t i) {
    assert(i < capacity_);
    return data_[i];
  }
  const T& operator[](uint64_t i) const {
    assert(i < capacity_);
    return data_[i];
  }
  T* data() { return data_; }
  const T* data() const { return data_; }
  uint64_t capacity() const { return capacity_; }

 private:
  static constexpr size_t kAlign = 64;

  bool grow(uint64_t needed, uint64_t wanted) {
    if (wanted > SIZE_MAX / sizeof(T) || needed > SIZE_MAX / sizeof(T)) return false;
    void* fresh = memory_->allocate(wanted * sizeof(T), kAlign);
    if (fresh == nullptr) return false;
    T* data = static_cast<T*>(fresh);
    if (capacity_ > 0) std::memcpy(static_cast<void*>(data), data_, capacity_ * sizeof(T));
    std::memset(static_cast<void*>(data + capacity_), 0, (wanted - capacity_) * sizeof(T));
    clear();
    data_ = data;
    capacity_ = wanted;
    return true;
  }

  HostAllocator* memory_ = nullptr;
  T* data_ = nullptr;
  uint64_t capacity_ = 0;
};

}  // namespace radixattn
