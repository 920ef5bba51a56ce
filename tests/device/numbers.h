// Arrays of f32, f16 and bf16 as bytes.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>
#include <vector>

#include "radixattn.h"

namespace radixattn::test {

using Bytes = std::vector<uint8_t>;

inline size_t bytes_of(int32_t dtype) { return dtype == RADIX_F32 ? 4 : 2; }

inline void put(Bytes* to, int32_t dtype, size_t at, float x) {
  const __half half = __float2half(x);
  const __nv_bfloat16 bf16 = __float2bfloat16(x);
  const void* from = dtype == RADIX_F32   ? static_cast<const void*>(&x)
                     : dtype == RADIX_F16 ? static_cast<const void*>(&half)
                                          : static_cast<const void*>(&bf16);
  std::memcpy(to->data() + at * bytes_of(dtype), from, bytes_of(dtype));
}

inline double get(const Bytes& from, int32_t dtype, size_t at) {
  const uint8_t* p = from.data() + at * bytes_of(dtype);
  float x;
  __half half;
  __nv_bfloat16 bf16;
  if (dtype == RADIX_F32) {
    std::memcpy(&x, p, 4);
  } else if (dtype == RADIX_F16) {
    std::memcpy(static_cast<void*>(&half), p, 2);
    x = __half2float(half);
  } else {
    std::memcpy(static_cast<void*>(&bf16), p, 2);
    x = __bfloat162float(bf16);
  }
  return double{x};
}

}  // namespace radixattn::test
