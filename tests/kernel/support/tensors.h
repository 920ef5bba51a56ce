// Memory of the kernel tests: every byte that a kernel must not read is NaN, every byte that it
// must not write is poison and looked at afterwards.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "backend/reference/numeric.h"
#include "radixattn.h"

namespace radixattn::test {

constexpr uint8_t kNanByte = 0xff;     // all ones is a NaN in f32, f16 and bf16
constexpr uint8_t kPoisonByte = 0x5c;  // a large finite number in all three

inline uint64_t element_bytes(int32_t dtype) { return dtype == RADIX_F32 ? 4 : 2; }

inline const char* dtype_name(int32_t dtype) {
  return dtype == RADIX_F32 ? "f32" : dtype == RADIX_F16 ? "f16" : "bf16";
}

// An array of elements of one dtype. Its start is a multiple of the element only, never of 16: no
// kernel may count on more.
class Elements {
 public:
  Elements() = default;
  Elements(int32_t dtype, int64_t count, uint8_t fill)
      : dtype_(dtype), bytes_(static_cast<size_t>(count) * element_bytes(dtype) + kOffset, fill) {}

  void* data() { return bytes_.data() + kOffset; }
  const void* data() const { return bytes_.data() + kOffset; }
  int32_t dtype() const { return dtype_; }
  int64_t size() const {
    return static_cast<int64_t>((bytes_.size() - kOffset) / element_bytes(dtype_));
  }
  double get(int64_t i) const { return reference::load_element(data(), dtype_, i); }
  void set(int64_t i, double x) { reference::store_element(data(), dtype_, i, x); }
  void fill(uint8_t byte) { std::memset(bytes_.data(), byte, bytes_.size()); }
  bool is_filled_with(int64_t i, uint8_t byte) const {
    const uint64_t n = element_bytes(dtype_);
    const auto* at = static_cast<const uint8_t*>(data()) + static_cast<uint64_t>(i) * n;
    for (uint64_t b = 0; b < n; ++b) {
      if (at[b] != byte) return false;
    }
    return true;
  }
  bool operator==(const Elements& o) const { return dtype_ == o.dtype_ && bytes_ == o.bytes_; }

 private:
  static constexpr size_t kOffset = 4;  // std::vector's memory is a multiple of 16
  int32_t dtype_ = RADIX_F32;
  std::vector<uint8_t> bytes_;
};

}  // namespace radixattn::test
