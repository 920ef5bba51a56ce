// Marks a function that the CPU backend and CUDA kernels share: plain C++ that both compile.
//
// Only integer arithmetic, and single IEEE operations on f32 and f64 that no compiler may fuse (no
// product that is then added), give the same bits on both sides; shared functions keep to those
// where a result depends on it.
#pragma once

#if defined(__CUDACC__)
#define RADIX_HOST_DEVICE __host__ __device__
#else
#define RADIX_HOST_DEVICE
#endif
