// Memory of the kernel tests: every byte that a kernel must not read is NaN, every byte that it
// must not write is poison and looked at afterwards.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "backend/reference/numeric.h"
#include "radixattn.h"
#ifdef RADIX_SIMT_MSAN
#include <sanitizer/msan_interface.h>
#endif

namespace radixattn::test {

constexpr uint8_t kNanByte = 0xff;     // all ones is a NaN in f32, f16 and bf16
constexpr uint8_t kPoisonByte = 0x5c;  // a large finite number in all three

inline bool is_fp8(int32_t dtype) { return dtype == RADIX_F8_E4M3 || dtype == RADIX_F8_E5M2; }
inline uint64_t element_bytes(int32_t dtype) {
  return dtype == RADIX_F32 ? 4 : is_fp8(dtype) ? 1 : 2;
}

inline const char* dtype_name(int32_t dtype) {
  const char* const names[] = {"?", "f32", "f16", "bf16", "e4m3", "e5m2"};
  return names[dtype];
}

// An array of elements of one dtype. Its start is a multiple of 4 only, never of 16: no kernel may
// count on more, unless `aligned` is asked for.
class Elements {
 public:
  Elements() = default;
  Elements(int32_t dtype, int64_t count, uint8_t fill, bool aligned = false)
      : dtype_(dtype),
        offset_(aligned ? 16 : 4),
        bytes_(static_cast<size_t>(count) * element_bytes(dtype) + offset_, fill) {}

  void* data() { return bytes_.data() + offset_; }
  const void* data() const { return bytes_.data() + offset_; }
  int32_t dtype() const { return dtype_; }
  int64_t size() const {
    return static_cast<int64_t>((bytes_.size() - offset_) / element_bytes(dtype_));
  }
  double get(int64_t i) const {
#ifdef RADIX_SIMT_MSAN  // what a kernel has written must come from something
    const auto n = static_cast<int64_t>(element_bytes(dtype_));
    __msan_check_mem_is_initialized(static_cast<const char*>(data()) + i * n,
                                    element_bytes(dtype_));
#endif
    return reference::load_element(data(), dtype_, i);
  }
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
  int32_t dtype_ = RADIX_F32;
  size_t offset_ = 4;  // std::vector's memory is a multiple of 16
  std::vector<uint8_t> bytes_;
};

}  // namespace radixattn::test
