#include "backend/cpu/cpu_backend.h"
#include "base/error.h"

namespace radixattn {

radix_status CpuBackend::rms_norm(const NormParams&, radix_stream) { return fail(RADIX_E_UNSUPPORTED, "unfinished"); }
uint64_t CpuBackend::gemm_workspace(const GemmParams&) const { return 0; }
radix_status CpuBackend::gemm(const GemmParams&, radix_stream) { return fail(RADIX_E_UNSUPPORTED, "unfinished"); }

}  // namespace radixattn
