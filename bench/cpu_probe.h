// The limits of this machine, measured in the run that compares with them: read bandwidth, the f32
// FMA rate and that of bf16 dot products.
//
// Each probe uses the widest vectors that the machine has (AVX-512, AVX2, NEON by
// auto-vectorisation, plain code), so that the figure is the hardware's and not the compiler's
// default flags.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bench {

// Reads `bytes` (a multiple of 1024) once, front to back, and returns something that depends on all
// of it.
uint64_t read_all(const void* data, size_t bytes);

// Runs `rounds` rounds of independent multiply-adds; *flops gets the number of floating point
// operations.
float run_fma(uint64_t rounds, double* flops);

// The same with bf16 dot products (VDPBF16PS), where the machine has them.
bool has_bf16_dot();
float run_bf16_dot(uint64_t rounds, double* flops);

}  // namespace bench
