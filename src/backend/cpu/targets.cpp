// Picks the kernels that this machine runs: CPUID for the instructions, XGETBV for the registers
// that the system saves.
//
// A target is supported when every instruction set that its objects were compiled with is there
// (src/backend/cpu/CMakeLists.txt lists the flags).
#include "backend/cpu/kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace radixattn {

namespace baseline {
extern const CpuKernels kTable;
}
#if defined(__x86_64__)
namespace avx2 {
extern const CpuKernels kTable;
}
namespace avx512 {
extern const CpuKernels kTable;
}
namespace avx512_bf16 {
extern const CpuKernels kTable;
}
#elif defined(__aarch64__)
namespace neon {
extern const CpuKernels kTable;
}
#endif

namespace {

#if defined(__x86_64__)

struct CpuidLeaf {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

CpuidLeaf cpuid(uint32_t leaf, uint32_t subleaf) {
  CpuidLeaf r;
  if (__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx) == 0) return CpuidLeaf{};
  return r;
}

bool has(uint32_t reg, uint32_t bits) { return (reg & bits) == bits; }

// Register state that the operating system saves (XCR0); 0 without OSXSAVE.
uint32_t saved_state() {
  if (!has(cpuid(1, 0).ecx, 1u << 27)) return 0;
  uint32_t eax = 0, edx = 0;
  __asm__("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
  return eax;
}

bool has_avx2() {
  const uint32_t leaf1 = cpuid(1, 0).ecx;
  const uint32_t leaf7 = cpuid(7, 0).ebx;
  const uint32_t fma = 1u << 12, popcnt = 1u << 23, avx = 1u << 28, f16c = 1u << 29;
  const uint32_t bmi1 = 1u << 3, avx2 = 1u << 5, bmi2 = 1u << 8;
  return has(saved_state(), 0x6) && has(leaf1, fma | popcnt | avx | f16c) &&
         has(leaf7, bmi1 | avx2 | bmi2);
}

bool has_avx512() {
  const uint32_t f = 1u << 16, dq = 1u << 17, cd = 1u << 28, bw = 1u << 30, vl = 1u << 31;
  return has_avx2() && has(saved_state(), 0xe6) && has(cpuid(7, 0).ebx, f | dq | cd | bw | vl);
}

bool has_avx512_bf16() { return has_avx512() && has(cpuid(7, 1).eax, 1u << 5); }

#endif

}  // namespace

const CpuKernels* select_kernels(int32_t forced_target) {
  const bool any = forced_target == RADIX_CPU_AUTO;
#if defined(__x86_64__)
  if ((any || forced_target == RADIX_CPU_AVX512_BF16) && has_avx512_bf16())
    return &avx512_bf16::kTable;
  if ((any || forced_target == RADIX_CPU_AVX512) && has_avx512()) return &avx512::kTable;
  if ((any || forced_target == RADIX_CPU_AVX2) && has_avx2()) return &avx2::kTable;
#elif defined(__aarch64__)
  if (any || forced_target == RADIX_CPU_NEON) return &neon::kTable;
#endif
  if (any || forced_target == RADIX_CPU_BASELINE) return &baseline::kTable;
  return nullptr;
}

}  // namespace radixattn
