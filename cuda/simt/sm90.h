// What kernels for sm_90a are written in, beside simt.h: mbarriers, the async proxy, and wgmma, the
// matrix products of a warpgroup (four warps, the first of them a multiple of four).
//
// Under nvcc for sm_90a these are PTX; for every other architecture they are empty, and kernels
// leave themselves out by kHasWgmma; under RADIX_SIMT_EMU the emulator's (tests/simt/hopper.h).
//
// The async proxy. A wgmma reads its operands of shared memory past the caches' order of ordinary
// accesses: whoever writes an operand (cp_async16 and its wait, or store_piece) calls
// fence_proxy_async afterwards and before the barrier that hands the operand on.
//
// A product runs on after it was issued. wgmma_fence stands between the last touch of its registers
// (accumulators, A in registers) and the first product of a batch; wgmma_commit ends a batch;
// wgmma_wait<N> returns when all but the last N batches are done. Between issue and wait nothing
// may touch the registers; pin() after the wait keeps the compiler from trying.
//
// Operands in shared memory stand in the 128-byte swizzle, columns in chunks of 64 numbers:
//
//   chunk (64 numbers = 128 bytes a row)        row r, piece c (16 bytes) at r * 128 + (c ^ r % 8)
//   * 16
//   +------------------------------------+
//   | row 0: pieces 0 1 2 3 4 5 6 7      |      every chunk begins at a multiple of 1,024 bytes,
//   | row 1: pieces 1 0 3 2 5 4 7 6      |      as the dynamic shared memory does
//   | ...                                |
#pragma once

#include "cuda/simt/simt.h"

#ifdef RADIX_SIMT_EMU
#include "hopper.h"
#endif

// The one place that asks for the architecture's feature.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define RADIX_SM90A 1
#endif

namespace radixattn::simt {

#if defined(RADIX_SM90A) || defined(RADIX_SIMT_EMU)
constexpr bool kHasWgmma = true;
#else
constexpr bool kHasWgmma = false;
#endif

constexpr int kWarpgroup = 128;  // threads

// Ends the kernel with an error.
RADIX_DEVICE void trap() {
#ifdef __CUDA_ARCH__
  __trap();
#endif
}

// ---- mbarriers: each phase ends with its last expected arrival ----------------------------------

RADIX_DEVICE void mbarrier_init(uint64_t* barrier, unsigned arrivals RADIX_LOC) {
#if defined(RADIX_SM90A)
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(smem_u32(barrier)), "r"(arrivals)
               : "memory");
#elif defined(RADIX_SIMT_EMU)
  emu::mbarrier_init(barrier, arrivals, RADIX_HERE);
#endif
}
// What this thread did before is seen by those whose wait for the phase returns.
RADIX_DEVICE void mbarrier_arrive(uint64_t* barrier RADIX_LOC) {
#if defined(RADIX_SM90A)
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(smem_u32(barrier)) : "memory");
#elif defined(RADIX_SIMT_EMU)
  emu::mbarrier_arrive(barrier, RADIX_HERE);
#endif
}
// Waits until the phase of this parity (0 = the first one, then 1, 0, ...) is over. A fresh barrier
// is as if a phase of parity 1 had just ended.
RADIX_DEVICE void mbarrier_wait(uint64_t* barrier, unsigned parity RADIX_LOC) {
#if defined(RADIX_SM90A)
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}\n" ::"r"(smem_u32(barrier)),
      "r"(parity)
      : "memory");
#elif defined(RADIX_SIMT_EMU)
  emu::mbarrier_wait(barrier, parity, RADIX_HERE);
#endif
}

// ---- operands in shared memory ------------------------------------------------------------------

// This thread's writes to shared memory so far are visible to the async proxy.
RADIX_DEVICE void fence_proxy_async(RADIX_LOC0) {
#if defined(RADIX_SM90A)
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
#elif defined(RADIX_SIMT_EMU)
  emu::fence_proxy_async(RADIX_HERE);
#endif
}

// Bytes from a chunk's start to piece c (0..7) of row r.
RADIX_DEVICE int operand_piece(int r, int c) { return r * 128 + (c ^ (r & 7)) * 16; }

// Descriptor of the 16 columns (of k) that begin at `p`, for operands whose rows are contiguous
// along k (A, and B as Q K^T takes K): p is the chunk's start plus 32 bytes for each 16 columns.
RADIX_DEVICE uint64_t k_major_operand(const void* p RADIX_LOC) {
#ifdef RADIX_SIMT_EMU
  return emu::operand_desc(p, 16, 1024, RADIX_HERE);
#else
  return static_cast<uint64_t>((smem_u32(p) & 0x3ffffu) >> 4) | uint64_t{1} << 16 |
         uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
#endif
}
// Descriptor of 16 rows (of k) for a B whose rows are contiguous along n (as P V takes V): p is the
// row's start in the first chunk, chunks are chunk_bytes apart.
RADIX_DEVICE uint64_t n_major_operand(const void* p, unsigned chunk_bytes RADIX_LOC) {
#ifdef RADIX_SIMT_EMU
  return emu::operand_desc(p, chunk_bytes, 1024, RADIX_HERE);
#else
  return static_cast<uint64_t>((smem_u32(p) & 0x3ffffu) >> 4) |
         static_cast<uint64_t>(chunk_bytes >> 4) << 16 | uint64_t{1024 >> 4} << 32 |
         uint64_t{1} << 62;
#endif
}

// The descriptor of an operand that begins `bytes` (a multiple of 16) further on.
RADIX_DEVICE uint64_t advance(uint64_t operand, int bytes) {
  return operand + static_cast<uint64_t>(bytes / 16);
}

// ---- products -----------------------------------------------------------------------------------

RADIX_DEVICE void wgmma_fence(RADIX_LOC0) {
#if defined(RADIX_SM90A)
  asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
#elif defined(RADIX_SIMT_EMU)
  emu::wgmma_fence(RADIX_HERE);
#endif
}
RADIX_DEVICE void wgmma_commit(RADIX_LOC0) {
#if defined(RADIX_SM90A)
  asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
#elif defined(RADIX_SIMT_EMU)
  emu::wgmma_commit(RADIX_HERE);
#endif
}
template <int N>
RADIX_DEVICE void wgmma_wait(RADIX_LOC0) {
#if defined(RADIX_SM90A)
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(N) : "memory");
#elif defined(RADIX_SIMT_EMU)
  emu::wgmma_wait(N, RADIX_HERE);
#endif
}

// Uses of these registers stay behind this place, as far as the compiler is concerned.
template <int N>
RADIX_DEVICE void pin(float (&d)[N][4]) {
#if defined(RADIX_SM90A)
  RADIX_UNROLL
  for (int i = 0; i < N; ++i)
    asm volatile("" : "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])::"memory");
#else
  (void)d;
#endif
}
template <int N>
RADIX_DEVICE void pin(uint32_t (&a)[N][4]) {
#if defined(RADIX_SM90A)
  RADIX_UNROLL
  for (int i = 0; i < N; ++i)
    asm volatile("" : "+r"(a[i][0]), "+r"(a[i][1]), "+r"(a[i][2]), "+r"(a[i][3])::"memory");
#else
  (void)a;
#endif
}

#if defined(RADIX_SM90A)
#define RADIX_D(d, i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define RADIX_D8(d, i)                                                                       \
  RADIX_D(d, i), RADIX_D(d, i + 1), RADIX_D(d, i + 2), RADIX_D(d, i + 3), RADIX_D(d, i + 4), \
      RADIX_D(d, i + 5), RADIX_D(d, i + 6), RADIX_D(d, i + 7)
#define RADIX_R32                                                                  \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21," \
  "%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define RADIX_R64                                                                             \
  RADIX_R32                                                                                   \
  ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53," \
  "%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define RADIX_WGMMA(n, type) "wgmma.mma_async.sync.aligned.m64n" n "k16.f32." type "." type " "
#define RADIX_WGMMA_SS(type)                                                        \
  asm volatile("{\n.reg .pred keep;\nsetp.ne.b32 keep, %66, 0;\n" RADIX_WGMMA(      \
                   "128", type) "{" RADIX_R64 "}, %64, %65, keep, 1, 1, 0, 0;\n}\n" \
               : RADIX_D8(d, 0), RADIX_D8(d, 8)                                     \
               : "l"(a), "l"(b), "r"(static_cast<int>(keep_d)))
#define RADIX_WGMMA_RS64(type)                                                                  \
  asm volatile(RADIX_WGMMA("64", type) "{" RADIX_R32 "}, {%32,%33,%34,%35}, %36, 1, 1, 1, 1;\n" \
               : RADIX_D8(d, 0)                                                                 \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
#define RADIX_WGMMA_RS128(type)                                                                  \
  asm volatile(RADIX_WGMMA("128", type) "{" RADIX_R64 "}, {%64,%65,%66,%67}, %68, 1, 1, 1, 1;\n" \
               : RADIX_D8(d, 0), RADIX_D8(d, 8)                                                  \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
#endif

// d (keep_d, or 0) + A B for A [64 x 16] and B [16 x 128] in shared memory, both k-major, f32 sums.
// Thread t of the warpgroup has of d what mma_m16n8k16 gives it of rows 16 * (t / 32) ..., columns
// 8 i ... in d[i].
template <class T>
RADIX_DEVICE void wgmma_m64n128k16(float (&d)[16][4], uint64_t a, uint64_t b,
                                   bool keep_d RADIX_LOC) {
#if defined(RADIX_SM90A)
  if constexpr (std::is_same_v<T, Bf16>) {
    RADIX_WGMMA_SS("bf16");
  } else {
    RADIX_WGMMA_SS("f16");
  }
#elif defined(RADIX_SIMT_EMU)
  emu::wgmma({d[0], 128, nullptr, a, b, std::is_same_v<T, Bf16>, false, keep_d}, RADIX_HERE);
#endif
}

// d += A B for A [64 x 16] in registers (as mma_m16n8k16 takes it) and B [16 x 8 N], n-major.
template <class T, int N>
RADIX_DEVICE void wgmma_m64k16(float (&d)[N][4], const uint32_t (&a)[4], uint64_t b RADIX_LOC) {
  static_assert(N == 8 || N == 16);
#if defined(RADIX_SM90A)
  if constexpr (std::is_same_v<T, Bf16> && N == 16) {
    RADIX_WGMMA_RS128("bf16");
  } else if constexpr (N == 16) {
    RADIX_WGMMA_RS128("f16");
  } else if constexpr (std::is_same_v<T, Bf16>) {
    RADIX_WGMMA_RS64("bf16");
  } else {
    RADIX_WGMMA_RS64("f16");
  }
#elif defined(RADIX_SIMT_EMU)
  emu::wgmma({d[0], 8 * N, a, 0, b, std::is_same_v<T, Bf16>, true, true}, RADIX_HERE);
#endif
}

#if defined(RADIX_SM90A)
#undef RADIX_WGMMA_RS128
#undef RADIX_WGMMA_RS64
#undef RADIX_WGMMA_SS
#undef RADIX_WGMMA
#undef RADIX_R64
#undef RADIX_R32
#undef RADIX_D8
#undef RADIX_D
#endif

// ---- warpgroups ---------------------------------------------------------------------------------

// A barrier of `threads` threads of the block, by name (1..15; 0 is __syncthreads).
RADIX_DEVICE void named_barrier(int name, int threads RADIX_LOC) {
#if defined(RADIX_SM90A)
  asm volatile("bar.sync %0, %1;\n" ::"r"(name), "r"(threads) : "memory");
#elif defined(RADIX_SIMT_EMU)
  emu::bar_sync(name, threads, true, RADIX_HERE);
#endif
}

// The whole warpgroup gives registers back, or takes them, until each thread has N.
template <int N>
RADIX_DEVICE void shrink_registers(RADIX_LOC0) {
#if defined(RADIX_SM90A)
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(N));
#elif defined(RADIX_SIMT_EMU)
  emu::set_max_registers(N, RADIX_HERE);
#endif
}
template <int N>
RADIX_DEVICE void grow_registers(RADIX_LOC0) {
#if defined(RADIX_SM90A)
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(N));
#elif defined(RADIX_SIMT_EMU)
  emu::set_max_registers(N, RADIX_HERE);
#endif
}

}  // namespace radixattn::simt
