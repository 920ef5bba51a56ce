// What a layer asks of the CPU backend: norms and matrix products.
#include "backend/cpu/cpu_backend.h"
#include "base/executor.h"

namespace radixattn {

radix_status CpuBackend::rms_norm(const NormParams& p, radix_stream) {
  return cpu_rms_norm(kernels_, p, executor_);
}

uint64_t CpuBackend::gemm_workspace(const GemmParams& p) const {
  return gemm_workspace_bytes(p, executor_.workers());
}

radix_status CpuBackend::gemm(const GemmParams& p, radix_stream) {
  return cpu_gemm(kernels_, p, executor_);
}

}  // namespace radixattn
