// What CUDA kernels are written in: the only header besides their own that kernel sources include.
//
// Under nvcc these are CUDA and PTX; under RADIX_SIMT_EMU the same sources are plain C++, and an
// emulator (tests/simt) runs them on the CPU. Kernel sources keep rules so that this works: no bare
// __shared__ (RADIX_SHARED, RADIX_DYN_SMEM), no <<<>>> (RADIX_LAUNCH), no inline assembly and no
// __CUDA_ARCH__: an instruction that one architecture lacks is replaced in here. Only whole blocks
// return early.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#ifdef RADIX_SIMT_EMU
#include "emu.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif
#include <cuda_fp8.h>

#ifdef RADIX_SIMT_EMU
#define RADIX_LAUNCH(kernel, grid, block, smem, stream, ...) \
  ::radixattn::simt::emu::launch(#kernel, kernel, grid, block, smem, stream, __VA_ARGS__)
#else
#define RADIX_LOC
#define RADIX_LOC0
#define RADIX_PASS
#define RADIX_DYN_SMEM(name) extern __shared__ __align__(1024) unsigned char name[]
#define RADIX_SHARED(type, name) __shared__ ::radixattn::simt::Same<type> name
#define RADIX_UNROLL _Pragma("unroll")
#define RADIX_LAUNCH(kernel, grid, block, smem, stream, ...) \
  ::radixattn::simt::launch(kernel, grid, block, smem, stream, __VA_ARGS__)
#endif
#ifdef __CUDACC__
#define RADIX_ROLLED \
  _Pragma("unroll 1")  // rare work: registers and code are worth more than its speed
#define RADIX_UNROLL_TWICE _Pragma("unroll 2")
#else
#define RADIX_ROLLED
#define RADIX_UNROLL_TWICE
#endif
#define RADIX_DEVICE __device__ __forceinline__

namespace radixattn::simt {

#ifndef RADIX_SIMT_EMU
template <class T>
using Same = T;

// The one launch of the library. Errors of earlier work do not show here: cudaLaunchKernel returns
// this launch's own.
template <class... P, class... A>
int launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t smem, void* stream, const A&... a) {
  const void* entry = reinterpret_cast<const void*>(kernel);
  if (smem > 48 * 1024) {  // more must be asked for; not a stream operation, so graphs allow it
    const cudaError_t e = cudaFuncSetAttribute(entry, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                               static_cast<int>(smem));
    if (e != cudaSuccess) return e;
  }
  kernel<<<grid, block, smem, static_cast<cudaStream_t>(stream)>>>(static_cast<P>(a)...);
  return cudaGetLastError();
}
#endif

// ---- numbers ------------------------------------------------------------------------------------

using Half = __half;
using Bf16 = __nv_bfloat16;
struct E4m3 {
  uint8_t bits;
};
struct E5m2 {
  uint8_t bits;
};

// Pairs of 16-bit numbers in a register, the way tensor cores take them.
template <class T>
struct Pair;
template <>
struct Pair<Half> {
  static RADIX_DEVICE uint32_t pack(float a, float b) {
    const __half2 h = __floats2half2_rn(a, b);
    uint32_t v;
    memcpy(&v, &h, 4);
    return v;
  }
  static RADIX_DEVICE float2 unpack(uint32_t v) {
    __half2 h;
    memcpy(static_cast<void*>(&h), &v, 4);
    return __half22float2(h);
  }
};
template <>
struct Pair<Bf16> {
  static RADIX_DEVICE uint32_t pack(float a, float b) {
    const __nv_bfloat162 h = __floats2bfloat162_rn(a, b);
    uint32_t v;
    memcpy(&v, &h, 4);
    return v;
  }
  static RADIX_DEVICE float2 unpack(uint32_t v) {
    __nv_bfloat162 h;
    memcpy(static_cast<void*>(&h), &v, 4);
    return __bfloat1622float2(h);
  }
};

// Two fp8 numbers (low byte first) to a pair of f16: exact, both formats are subsets of f16.
RADIX_DEVICE uint32_t fp8x2_to_half2(uint16_t v, E4m3) {
  const __half2_raw h = __nv_cvt_fp8x2_to_halfraw2(v, __NV_E4M3);
  return h.x | static_cast<uint32_t>(h.y) << 16;
}
RADIX_DEVICE uint32_t fp8x2_to_half2(uint16_t v, E5m2) {  // the upper half of an f16
  return static_cast<uint32_t>(v & 0xffu) << 8 | static_cast<uint32_t>(v & 0xff00u) << 16;
}
// Rounds to nearest even; what is too large becomes the largest finite number, NaN stays NaN.
RADIX_DEVICE uint8_t float_to_fp8(float x, E4m3) {
  return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
}
RADIX_DEVICE uint8_t float_to_fp8(float x, E5m2) {
  return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E5M2);
}

// Bytes i and i + 1 of a, then of b, i in {0, 2}; and: bytes {a_i, b_i} as the low half, {a_i+1,
// b_i+1} as the high one.
RADIX_DEVICE uint32_t zip_bytes(uint32_t a, uint32_t b, int i) {
#ifdef __CUDA_ARCH__
  return __byte_perm(a, b, i == 0 ? 0x5140 : 0x7362);
#else
  const uint32_t x = a >> (8 * i), y = b >> (8 * i);
  return (x & 0xffu) | (y & 0xffu) << 8 | (x & 0xff00u) << 8 | (y & 0xff00u) << 16;
#endif
}

RADIX_DEVICE float exp2_approx(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return exp2f(x);
#endif
}

// Single roundings that no compiler may fuse: the same bits as on a CPU.
RADIX_DEVICE float mul_rn(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}
RADIX_DEVICE float add_rn(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}

// ---- shared memory ------------------------------------------------------------------------------

RADIX_DEVICE uint32_t smem_u32(const void* p) {
#ifdef __CUDA_ARCH__
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
#else
  (void)p;
  return 0;
#endif
}

// 16 bytes in one access, to a place that is aligned to 16, which a char pointer does not say.
RADIX_DEVICE void store_piece(void* to, const uint32_t (&words)[4] RADIX_LOC) {
#ifdef RADIX_SIMT_EMU
  emu::store_piece(to, words, RADIX_HERE);
#else
  *static_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
#endif
}

// Copies 16 bytes from global to shared memory, both aligned to 16; writes zeros when !pred (src is
// not read then). The data are there after cp_async_wait. sm_75 has no such copy and waits at once.
RADIX_DEVICE void cp_async16(void* dst, const void* src, bool pred RADIX_LOC) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(smem_u32(dst)), "l"(src),
               "r"(pred ? 16 : 0)
               : "memory");
#elif defined(__CUDA_ARCH__)
  *static_cast<uint4*>(dst) = pred ? *static_cast<const uint4*>(src) : make_uint4(0, 0, 0, 0);
#elif defined(RADIX_SIMT_EMU)
  emu::cp_async(dst, src, 16, pred ? 16 : 0, RADIX_HERE);
#endif
}
RADIX_DEVICE void cp_async_commit() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;\n" ::: "memory");
#elif defined(RADIX_SIMT_EMU)
  emu::cp_async_commit();
#endif
}
// Waits until at most N groups of this thread are in flight. Others see the data after a barrier.
template <int N>
RADIX_DEVICE void cp_async_wait(RADIX_LOC0) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;\n" ::"n"(N) : "memory");
#elif defined(RADIX_SIMT_EMU)
  emu::cp_async_wait(N, RADIX_HERE);
#endif
}

// ---- tensor cores: fragments as PTX numbers them
// -------------------------------------------------

RADIX_DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void* row RADIX_LOC) {
#ifdef __CUDA_ARCH__
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(smem_u32(row))
               : "memory");
#elif defined(RADIX_SIMT_EMU)
  emu::ldmatrix(r, 4, false, row, RADIX_HERE);
#endif
}
RADIX_DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row RADIX_LOC) {
#ifdef __CUDA_ARCH__
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(smem_u32(row))
               : "memory");
#elif defined(RADIX_SIMT_EMU)
  emu::ldmatrix(r, 4, true, row, RADIX_HERE);
#endif
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
// sm_75 has no bf16 product: 16 multiply-adds an output, operands shuffled over. Right, not fast.
RADIX_DEVICE void mma_by_shuffles(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const int lane = threadIdx.x % 32, group = lane / 4, pair = lane % 4;
  for (int k2 = 0; k2 < 8; ++k2) {  // the pair (2 k2, 2 k2 + 1) of k
    const int from = k2 % 4, half = k2 / 4;
    const float2 a0 = Pair<Bf16>::unpack(__shfl_sync(0xffffffffu, a[2 * half], group * 4 + from));
    const float2 a1 =
        Pair<Bf16>::unpack(__shfl_sync(0xffffffffu, a[2 * half + 1], group * 4 + from));
    for (int n = 0; n < 2; ++n) {
      const float2 x =
          Pair<Bf16>::unpack(__shfl_sync(0xffffffffu, b[half], (2 * pair + n) * 4 + from));
      d[n] = fmaf(a0.y, x.y, fmaf(a0.x, x.x, d[n]));  // as written: the same bits in every kernel
      d[2 + n] = fmaf(a1.y, x.y, fmaf(a1.x, x.x, d[2 + n]));
    }
  }
}
#endif

// d += a * b for a 16x16 and a 16x8 matrix of T, f32 sums.
template <class T>
RADIX_DEVICE void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                               uint32_t b1 RADIX_LOC) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  if constexpr (std::is_same_v<T, Bf16>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
#elif defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<T, Bf16>) {
    const uint32_t b[2] = {b0, b1};
    mma_by_shuffles(d, a, b);
  } else {
    const uint32_t b[2] = {b0, b1};
    for (int half = 0; half < 2; ++half) {
      asm volatile(
          "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, "
          "{%0,%1,%2,%3};\n"
          : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
          : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
    }
  }
#elif defined(RADIX_SIMT_EMU)
  const uint32_t b[2] = {b0, b1};
  emu::mma_m16n8k16(d, a, b, d, std::is_same_v<T, Bf16>, RADIX_HERE);
#endif
}

// ---- warps --------------------------------------------------------------------------------------

constexpr unsigned kFullWarp = 0xffffffffu;

// Sum and maximum over aligned groups of W lanes.
template <int W>
RADIX_DEVICE float warp_sum(float v) {
  RADIX_UNROLL
  for (int o = W / 2; o > 0; o /= 2) v += __shfl_xor_sync(kFullWarp, v, o);
  return v;
}
template <int W>
RADIX_DEVICE float warp_max(float v) {
  RADIX_UNROLL
  for (int o = W / 2; o > 0; o /= 2) v = fmaxf(v, __shfl_xor_sync(kFullWarp, v, o));
  return v;
}

}  // namespace radixattn::simt
