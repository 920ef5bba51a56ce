// The CUDA side of the library, as src/backend/device/cuda.h declares it.
#include "backend/device/cuda.h"

#include <new>

#include "base/error.h"
#include "cuda/cuda_backend.h"
#include "cuda/device.h"

namespace radixattn {

bool cuda_is_built() { return true; }
int32_t cuda_device_count() { return cuda::device_count(); }

radix_status cuda_allocate(int32_t device, uint64_t bytes, void** out) {
  *out = nullptr;
  const cuda::DeviceScope scope(device);
  cudaError_t e = scope.error();
  if (e == cudaSuccess) e = cudaMalloc(out, bytes);
  if (e == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return fail_native(RADIX_E_NOMEM, e, "no memory for %llu bytes on device %d",
                       static_cast<unsigned long long>(bytes), device);
  }
  return cuda::status_of(e, "cudaMalloc");
}

void cuda_release(int32_t device, void* memory) {
  const cuda::DeviceScope scope(device);
  if (cudaFree(memory) != cudaSuccess) cudaGetLastError();  // a lost device: nothing to do
}

radix_status cuda_allocate_pinned(int32_t device, uint64_t bytes, void** out) {
  *out = nullptr;
  const cuda::DeviceScope scope(device);
  cudaError_t e = scope.error();
  if (e == cudaSuccess) e = cudaMallocHost(out, bytes);
  return cuda::status_of(e, "cudaMallocHost");
}

void cuda_release_pinned(int32_t device, void* memory) {
  const cuda::DeviceScope scope(device);
  if (cudaFreeHost(memory) != cudaSuccess) cudaGetLastError();
}

radix_status cuda_make_event(int32_t device, void** out) {
  *out = nullptr;
  const cuda::DeviceScope scope(device);
  cudaEvent_t event = nullptr;
  cudaError_t e = scope.error();
  if (e == cudaSuccess) e = cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
  *out = event;
  return cuda::status_of(e, "cudaEventCreateWithFlags");
}

void cuda_destroy_event(int32_t device, void* event) {
  const cuda::DeviceScope scope(device);
  if (cudaEventDestroy(static_cast<cudaEvent_t>(event)) != cudaSuccess) cudaGetLastError();
}

radix_status cuda_reach_event(int32_t device, void* event, bool wait) {
  const cuda::DeviceScope scope(device);
  auto* at = static_cast<cudaEvent_t>(event);
  cudaError_t e = scope.error();
  // A look at an event would break a capture of another stream, which it has nothing to do with.
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  if (e == cudaSuccess) e = cudaThreadExchangeStreamCaptureMode(&mode);
  if (e == cudaSuccess) {
    e = wait ? cudaEventSynchronize(at) : cudaEventQuery(at);
    cudaThreadExchangeStreamCaptureMode(&mode);
  }
  if (e == cudaErrorNotReady) {
    cudaGetLastError();
    return fail(RADIX_E_BUSY, "the upload before the last one still runs");
  }
  return cuda::status_of(e, wait ? "cudaEventSynchronize" : "cudaEventQuery");
}

radix_status cuda_make_backend(int32_t device, void* place, Backend** out) {
  static_assert(sizeof(cuda::CudaBackend) <= kCudaBackendBytes);
  cuda::DeviceLimits limits;
  const radix_status st = cuda::device_limits(device, &limits);
  if (st == RADIX_OK) *out = new (place) cuda::CudaBackend(device, limits);
  return st;
}

}  // namespace radixattn
