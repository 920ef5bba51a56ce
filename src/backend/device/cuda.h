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

// Memory of the host that a device copies from and to without help of the processor. NOMEM,
// NO_DEVICE or DEVICE.
radix_status cuda_allocate_pinned(int32_t device, uint64_t bytes, void** out);
void cuda_release_pinned(int32_t device, void* memory);

// A place in a stream that a launch marks (StepParams::copied). Never marked counts as reached.
radix_status cuda_make_event(int32_t device, void** out);
void cuda_destroy_event(int32_t device, void* event);
// RADIX_OK once the stream has reached it; `wait` false: BUSY before.
radix_status cuda_reach_event(int32_t device, void* event, bool wait);

// Makes the backend of a device in `place` (kCudaBackendBytes, aligned to 64); destroyed in place
// by its destructor. UNSUPPORTED: an architecture without kernels; NO_DEVICE, DEVICE.
constexpr size_t kCudaBackendBytes = 1024;
radix_status cuda_make_backend(int32_t device, void* place, Backend** out);

}  // namespace radixattn
