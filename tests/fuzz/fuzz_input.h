// Bytes as choices: the fuzzer's input read as numbers, with a taste for edges. Reads zeros once
// the bytes are used up.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace radixattn::fuzz {

class FuzzInput {
 public:
  FuzzInput(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  bool empty() const { return at_ >= size_; }
  uint8_t byte() { return empty() ? 0 : data_[at_++]; }
  uint64_t bits(int bytes) {
    uint64_t x = 0;
    for (int i = 0; i < bytes; ++i) x = x << 8 | byte();
    return x;
  }
  // In [0, n); n > 0.
  uint32_t below(uint32_t n) { return static_cast<uint32_t>(bits(n > 256 ? 3 : 1) % n); }
  bool chance(uint32_t in_256) { return byte() < in_256; }

  // Mostly in [0, usual], sometimes anything at all.
  uint32_t u32(uint32_t usual) {
    if (!chance(20)) return below(usual + 1);
    constexpr uint32_t kEdges[] = {0,          1,          0x7fffffff, 0x80000000,
                                   0xffffffff, 0xfffffffe, 65535,      65536};
    return chance(128) ? kEdges[below(8)] : static_cast<uint32_t>(bits(4));
  }
  int32_t i32(uint32_t usual) { return static_cast<int32_t>(u32(usual)); }
  uint64_t u64(uint32_t usual) {
    if (!chance(20)) return below(usual + 1);
    constexpr uint64_t kEdges[] = {UINT64_MAX, uint64_t{1} << 63, uint64_t{1} << 32,
                                   uint64_t{1} << 31};
    return chance(128) ? kEdges[below(4)] : bits(8);
  }
  float f32() {
    constexpr float kValues[] = {0.0f, 1.0f, 0.125f, -1.0f, 1e30f, 3.0f, 50.0f, -0.0f};
    return chance(2) ? (chance(128) ? 3e38f : 1e-40f) : kValues[below(8)];
  }

 private:
  const uint8_t* data_;
  size_t size_, at_ = 0;
};

// A struct of the API in a longer buffer, so that a wrong struct_size reads bytes that exist.
template <class T>
class Sized {
 public:
  explicit Sized(FuzzInput& in) {
    if (in.chance(10))  // only behind the struct: made-up pointers inside it are nobody's to check
      for (size_t i = sizeof(T); i < sizeof bytes_; ++i) bytes_[i] = in.byte();
    size_ = sizeof(T);
    if (in.chance(12)) size_ = in.below(sizeof bytes_ + 1);
    // One that ends inside a pointer would leave half of it, which is nobody's to check.
    if (size_ >= 8 && size_ < sizeof(T)) size_ = size_ / 8 * 8;
    get()->struct_size = size_;
  }
  T* get() { return reinterpret_cast<T*>(bytes_); }
  T* operator->() { return get(); }
  // What a call gets: sometimes NULL. Sets struct_size again, in case the caller has written the
  // whole struct.
  T* pass(FuzzInput& in) {
    get()->struct_size = size_;
    return in.chance(3) ? nullptr : get();
  }

 private:
  alignas(64) unsigned char bytes_[sizeof(T) + 512] = {};
  uint32_t size_;
};

}  // namespace radixattn::fuzz
