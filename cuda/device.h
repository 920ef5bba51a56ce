// The CUDA runtime as the backend uses it: errors become statuses, the caller's current device
// stays what it was.
//
// Host code only. A runtime without driver or device is no error of ours: it has zero devices.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/kernels.h"

namespace radixattn::cuda {

// Makes `device` current and gives the caller's back at the end.
class DeviceScope {
 public:
  explicit DeviceScope(int32_t device);
  ~DeviceScope();
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

  cudaError_t error() const { return error_; }

 private:
  int previous_ = -1;  // -1: nothing to give back
  cudaError_t error_ = cudaSuccess;
};

int32_t device_count();
// NO_DEVICE, DEVICE; UNSUPPORTED: older than sm_75.
radix_status device_limits(int32_t device, DeviceLimits* out);

// RADIX_OK for cudaSuccess; else NOMEM, NO_DEVICE, DEVICE_LOST or DEVICE with "what: the runtime's
// words" and the native code.
radix_status status_of(cudaError_t e, const char* what);
// After such an error every later call on the device's context fails with it, too.
bool is_lost(cudaError_t e);

}  // namespace radixattn::cuda
