// One tiny kernel for each wrapper of cuda/simt/sm90.h, in the manner of wrapper_kernels.h: whole
// numbers, exact in every order of summation; a thread's sums go into two words, weighted by where
// they stand.
#pragma once

#include "cuda/simt/sm90.h"

namespace radixattn::test {

using namespace simt;

constexpr size_t kSm90Smem = 56 * 1024;

// Whole numbers from -8 to 7.
RADIX_DEVICE float small_number(const uint32_t* in, int row, int column) {
  const uint32_t word = in[(row * 5 + column) % 256];
  return static_cast<float>(static_cast<int>(word >> (column + row / 3) % 24 & 15u) - 8);
}

// A [rows, columns] matrix to swizzled chunks of 64 columns.
template <class T>
RADIX_DEVICE void store_matrix(const uint32_t* in, unsigned char* to, int rows, int columns) {
  for (int i = static_cast<int>(threadIdx.x); i < rows * columns / 8; i += kWarpgroup) {
    const int r = i / (columns / 8), c = i % (columns / 8);
    uint32_t words[4];
    for (int w = 0; w < 4; ++w) {
      words[w] =
          Pair<T>::pack(small_number(in, r, c * 8 + w * 2), small_number(in, r, c * 8 + w * 2 + 1));
    }
    store_piece(to + c / 8 * rows * 128 + operand_piece(r, c % 8), words);
  }
}

template <int N>
RADIX_DEVICE void write_sums(const float (&d)[N][4], uint32_t* out) {
  uint32_t sums[2] = {0, 0};
  RADIX_UNROLL
  for (int i = 0; i < 4 * N; ++i) {
    const auto x = static_cast<uint32_t>(static_cast<int32_t>(d[i / 4][i % 4]));
    sums[0] += x * static_cast<uint32_t>(2 * i + 1);
    sums[1] += x * static_cast<uint32_t>(i * i + 3);
  }
  out[threadIdx.x * 2] = sums[0];
  out[threadIdx.x * 2 + 1] = sums[1];
}

// A [64, 128] and B [128, 128]: two chunks each.
template <class T>
__global__ void wgmma_ss_kernel(const uint32_t* in, uint32_t* out) {
  RADIX_DYN_SMEM(smem);
  if (kHasWgmma) {
    store_matrix<T>(in, smem, 64, 128);
    store_matrix<T>(in + 7, smem + 16384, 128, 128);
    fence_proxy_async();
    __syncthreads();
    float d[16][4];
    const uint64_t a = k_major_operand(smem), b = k_major_operand(smem + 16384);
    wgmma_fence();
    RADIX_UNROLL
    for (int step = 0; step < 8; ++step) {
      const int at = step % 4 * 32;
      wgmma_m64n128k16<T>(d, advance(a, step / 4 * 8192 + at), advance(b, step / 4 * 16384 + at),
                          step != 0);
    }
    wgmma_commit();
    wgmma_wait<0>();
    pin(d);
    write_sums(d, out);
  }
}

// A [64, 32] in registers and B [32, 8 N], transposed, two batches.
template <class T, int N>
__global__ void wgmma_rs_kernel(const uint32_t* in, uint32_t* out) {
  RADIX_DYN_SMEM(smem);
  if (kHasWgmma) {
    store_matrix<T>(in, smem, 32, 8 * N);
    fence_proxy_async();
    __syncthreads();
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
    uint32_t a[2][4];
    float d[N][4];
    RADIX_UNROLL
    for (int i = 0; i < 4 * N; ++i) d[i / 4][i % 4] = static_cast<float>(i);
    RADIX_UNROLL
    for (int i = 0; i < 8; ++i) {
      const int r = row + i % 2 * 8, c = i / 4 * 16 + lane % 4 * 2 + i % 4 / 2 * 8;
      a[i / 4][i % 4] = Pair<T>::pack(small_number(in, r, c), small_number(in, r, c + 1));
    }
    const uint64_t b = n_major_operand(smem, 32 * 128);
    wgmma_fence();
    RADIX_UNROLL
    for (int step = 0; step < 2; ++step) {
      wgmma_m64k16<T>(d, a[step], advance(b, step * 16 * 128));
      wgmma_commit();
    }
    wgmma_wait<1>();
    wgmma_wait<0>();
    pin(d);
    write_sums(d, out);
  }
}

// Two warpgroups: one hands four tiles of 256 words over through a ring of two stages.
__global__ void __launch_bounds__(2 * kWarpgroup, 1)
    mbarrier_kernel(const uint32_t* in, uint32_t* out) {
  RADIX_DYN_SMEM(smem);
  if (kHasWgmma) {
    auto* full = reinterpret_cast<uint64_t*>(smem + 2048);
    uint64_t* empty = full + 2;
    if (threadIdx.x < 2) {
      mbarrier_init(full + threadIdx.x, 64);
      mbarrier_init(empty + threadIdx.x, 4);
    }
    __syncthreads();
    const int t = static_cast<int>(threadIdx.x) % kWarpgroup;
    if (threadIdx.x < kWarpgroup) {
      shrink_registers<24>();
      for (int use = 0; use < 4 && t < 64; ++use) {
        mbarrier_wait(empty + use % 2, static_cast<unsigned>(use / 2 % 2) ^ 1);
        cp_async16(smem + use % 2 * 1024 + t * 16, in + (t + use * 17) % 64 * 4, use != 2);
        cp_async_commit();
        cp_async_wait<0>();
        mbarrier_arrive(full + use % 2);
      }
      return;
    }
    grow_registers<240>();
    uint32_t sums[2] = {0, 0};
    for (int use = 0; use < 4; ++use) {
      mbarrier_wait(full + use % 2, static_cast<unsigned>(use / 2 % 2));
      const auto* words = reinterpret_cast<const uint32_t*>(smem + use % 2 * 1024);
      for (int i = 0; i < 2; ++i) sums[i] = sums[i] * 31 + words[(t * 2 + i * 5 + use) % 256];
      __syncwarp();
      if (t % 32 == 0) mbarrier_arrive(empty + use % 2);
    }
    named_barrier(1, kWarpgroup);
    out[t * 2] = sums[0];
    out[t * 2 + 1] = sums[1];
  }
}

}  // namespace radixattn::test
