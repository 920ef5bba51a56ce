#include "cuda/cuda_backend.h"
#include "base/error.h"

namespace radixattn::cuda {

uint64_t CudaBackend::sample_workspace(const SampleParams&) const { return 0; }
radix_status CudaBackend::sample(const SampleParams&, radix_stream) { return fail(RADIX_E_UNSUPPORTED, "unfinished"); }
uint64_t CudaBackend::verify_workspace(const VerifyParams&) const { return 0; }
radix_status CudaBackend::verify(const VerifyParams&, radix_stream) { return fail(RADIX_E_UNSUPPORTED, "unfinished"); }

}  // namespace radixattn::cuda
