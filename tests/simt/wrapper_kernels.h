// One tiny kernel for each wrapper of cuda/simt/simt.h (sm90.h: sm90_kernels.h), with inputs whose
// results are exact in every order of summation. tests/simt/wrappers_test.cpp runs them in the
// emulator and compares with wrappers.golden; tests/gpu/wrappers_test.cu runs them on a device and
// compares with the same file: that is how we know that the emulator's instructions are the
// device's.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cuda/simt/simt.h"
#include "sm90_kernels.h"

namespace radixattn::test {

using namespace simt;

constexpr int kWords = 32 * 8;  // of a kernel's input and output: up to 8 a lane

__global__ void cp_async_kernel(const uint32_t* in, uint32_t* out) {
  RADIX_SHARED(uint32_t[32 * 8], ring);
  const int lane = threadIdx.x;
  cp_async16(ring + lane * 8, in + lane * 4, lane % 3 != 0);
  cp_async_commit();
  cp_async16(ring + lane * 8 + 4, in + 128 + lane * 4, lane % 5 != 0);
  cp_async_commit();
  cp_async_wait<1>();
  __syncwarp();
  const int other = (lane + 7) % 32;
  for (int i = 0; i < 4; ++i) out[lane * 8 + i] = ring[other * 8 + i];
  cp_async_wait<0>();
  __syncwarp();
  for (int i = 4; i < 8; ++i) out[lane * 8 + i] = ring[other * 8 + i];
}

// 32 rows of 8 numbers of 16 bits; lane i names row (i * 5) % 32.
template <bool kTransposed>
__global__ void ldmatrix_kernel(const uint32_t* in, uint32_t* out) {
  RADIX_SHARED(uint32_t[32 * 4], rows);
  const int lane = threadIdx.x;
  for (int i = 0; i < 4; ++i) rows[lane * 4 + i] = in[lane * 4 + i];
  __syncwarp();
  uint32_t r[4];
  if constexpr (kTransposed) {
    ldmatrix_x4_trans(r, rows + lane * 5 % 32 * 4);
  } else {
    ldmatrix_x4(r, rows + lane * 5 % 32 * 4);
  }
  for (int i = 0; i < 4; ++i) out[lane * 8 + i] = r[i];
}

// Whole numbers from -8 to 7.
template <class T>
RADIX_DEVICE uint32_t small_pair(uint32_t word) {
  return Pair<T>::pack(static_cast<float>(static_cast<int>(word & 15u) - 8),
                       static_cast<float>(static_cast<int>(word >> 4 & 15u) - 8));
}

template <class T>
__global__ void mma_kernel(const uint32_t* in, uint32_t* out) {
  const int lane = threadIdx.x;
  uint32_t a[4];
  float d[4];
  for (int i = 0; i < 4; ++i) a[i] = small_pair<T>(in[lane * 4 + i]);
  for (int i = 0; i < 4; ++i) d[i] = static_cast<float>(in[128 + lane * 4 + i] & 63u);
  mma_m16n8k16<T>(d, a, small_pair<T>(in[lane] >> 8), small_pair<T>(in[lane] >> 16));
  for (int i = 0; i < 4; ++i) memcpy(out + lane * 8 + i, d + i, 4);
}

template <class T>
__global__ void pair_kernel(const uint32_t* in, uint32_t* out) {
  const int lane = threadIdx.x;
  const auto x = static_cast<float>(static_cast<int>(in[lane])) * 0x1p-24f;
  const uint32_t pair = Pair<T>::pack(x, -3.f * x);
  const float2 back = Pair<T>::unpack(pair);
  out[lane * 8] = pair;
  memcpy(out + lane * 8 + 1, &back.x, 4);
  memcpy(out + lane * 8 + 2, &back.y, 4);
}

// Every code of the format, as the first and the second of a pair in turn, and what rounds to it: 8
// codes a lane.
template <class T>
__global__ void fp8_kernel(const uint32_t* in, uint32_t* out) {
  const int lane = threadIdx.x;
  for (int i = 0; i < 8; ++i) {
    const auto code = static_cast<uint16_t>(lane * 8 + i);
    const auto x = static_cast<float>(static_cast<int>(in[lane * 8 + i])) * 0x1p-22f;
    const auto pair = static_cast<uint16_t>(i % 2 == 0 ? code | 0x3100 : code << 8 | 0x31);
    const uint32_t half = fp8x2_to_half2(pair, T{}) >> (i % 2 * 16);
    // NaN has many codes; 0x7e00 stands for all.
    const uint32_t value = (half & 0x7fffu) > 0x7c00u ? 0x7e00u : half & 0xffffu;
    out[lane * 8 + i] = value | static_cast<uint32_t>(float_to_fp8(x, T{})) << 16;
  }
}

__global__ void zip_kernel(const uint32_t* in, uint32_t* out) {
  const int lane = threadIdx.x;
  out[lane * 8] = zip_bytes(in[lane], in[lane + 32], 0);
  out[lane * 8 + 1] = zip_bytes(in[lane], in[lane + 32], 2);
}

// Down to 2^-125: below, the device flushes to zero.
__global__ void exp2_kernel(const uint32_t* in, uint32_t* out) {
  const int lane = threadIdx.x;
  const float x = static_cast<float>(static_cast<int>(in[lane] % 4000u)) * -0x1p-5f;
  const float y = exp2_approx(x), zero = exp2_approx(-INFINITY);
  memcpy(out + lane * 8, &y, 4);
  memcpy(out + lane * 8 + 1, &zero, 4);
}

__global__ void warp_kernel(const uint32_t* in, uint32_t* out) {
  const int lane = threadIdx.x;
  const auto x = static_cast<float>(in[lane] & 255u);
  const float results[4] = {warp_sum<4>(x), warp_sum<32>(x), warp_max<4>(-x), warp_max<32>(x)};
  for (int i = 0; i < 4; ++i) memcpy(out + lane * 8 + i, results + i, 4);
  out[lane * 8 + 4] = __ballot_sync(kFullWarp, in[lane] % 3 == 0);
}

struct WrapperCase {
  const char* name;
  void (*kernel)(const uint32_t*, uint32_t*);
  bool approximate;  // f32 within 4 units in the last place
  unsigned threads = 32;
  size_t smem = 0;
  bool sm90 = false;  // runs nowhere else
};

inline WrapperCase sm90_case(const char* name, void (*kernel)(const uint32_t*, uint32_t*),
                             unsigned threads = kWarpgroup) {
  return {name, kernel, false, threads, kSm90Smem, true};
}

inline std::vector<WrapperCase> wrapper_cases() {
  return {{"cp_async16", cp_async_kernel, false},
          {"ldmatrix_x4", ldmatrix_kernel<false>, false},
          {"ldmatrix_x4_trans", ldmatrix_kernel<true>, false},
          {"mma_m16n8k16.f16", mma_kernel<Half>, false},
          {"mma_m16n8k16.bf16", mma_kernel<Bf16>, false},
          {"Pair.f16", pair_kernel<Half>, false},
          {"Pair.bf16", pair_kernel<Bf16>, false},
          {"fp8.e4m3", fp8_kernel<E4m3>, false},
          {"fp8.e5m2", fp8_kernel<E5m2>, false},
          {"zip_bytes", zip_kernel, false},
          {"exp2_approx", exp2_kernel, true},
          {"warp", warp_kernel, false},
          sm90_case("wgmma_m64n128k16.f16", wgmma_ss_kernel<Half>),
          sm90_case("wgmma_m64n128k16.bf16", wgmma_ss_kernel<Bf16>),
          sm90_case("wgmma_m64n64k16.f16", wgmma_rs_kernel<Half, 8>),
          sm90_case("wgmma_m64n64k16.bf16", wgmma_rs_kernel<Bf16, 8>),
          sm90_case("wgmma_m64n128k16.rs.f16", wgmma_rs_kernel<Half, 16>),
          sm90_case("wgmma_m64n128k16.rs.bf16", wgmma_rs_kernel<Bf16, 16>),
          sm90_case("mbarrier", mbarrier_kernel, 2 * kWarpgroup)};
}

inline std::vector<uint32_t> wrapper_input() {
  std::vector<uint32_t> words(kWords + 8);  // a few more, for kernels that begin later
  uint64_t x = 1;
  for (uint32_t& w : words) {
    x = x * 6364136223846793005u + 1442695040888963407u;
    w = static_cast<uint32_t>(x >> 33);
  }
  return words;
}

}  // namespace radixattn::test
