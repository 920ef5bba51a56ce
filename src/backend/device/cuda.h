// What the C boundary asks of the CUDA side. A build with CUDA links cuda/entry.cpp, one without
// links no_cuda.cpp, which has no device; nothing else of the library knows the difference.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/backend.h"

namespace radixattn {

bool cuda_is_built();         // kernels are in this library
int32_t cuda_device_count();  // 0 when the runtime gives any error: no driver, none fit, ...

// Memory of a device, aligned to 256 bytes. NOMEM, NO_DEVICE or DEVICE.
radix_status cuda_allocate(int32_t device, uint64_t bytes, void** out);
void cuda_release(int32_t device, void* memory);

// Makes the backend of a device in `place` (kCudaBackendBytes, aligned to 64); destroyed in place
// by its destructor. UNSUPPORTED: an architecture without kernels; NO_DEVICE, DEVICE.
constexpr size_t kCudaBackendBytes = 1024;
radix_status cuda_make_backend(int32_t device, void* place, Backend** out);

}  // namespace radixattn
