#include "backend/cpu/cpu_backend.h"
#include "base/error.h"

namespace radixattn {

uint64_t CpuBackend::sample_workspace(const SampleParams&) const { return 0; }
radix_status CpuBackend::sample(const SampleParams&, radix_stream) { return fail(RADIX_E_UNSUPPORTED, "unfinished"); }
uint64_t CpuBackend::verify_workspace(const VerifyParams&) const { return 0; }
radix_status CpuBackend::verify(const VerifyParams&, radix_stream) { return fail(RADIX_E_UNSUPPORTED, "unfinished"); }

}  // namespace radixattn
