#include "cuda/device.h"

#include "base/error.h"

namespace radixattn::cuda {

DeviceScope::DeviceScope(int32_t device) {
  int current = -1;
  error_ = cudaGetDevice(&current);
  if (error_ != cudaSuccess || current == device) return;
  error_ = cudaSetDevice(device);
  if (error_ == cudaSuccess) previous_ = current;
}

DeviceScope::~DeviceScope() {
  if (previous_ >= 0) cudaSetDevice(previous_);
}

int32_t device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();  // ours, not the host program's
  return 0;
}

radix_status device_limits(int32_t device, DeviceLimits* out) {
  int major = 0, minor = 0, sms = 0, per_block = 0, per_sm = 0;
  cudaError_t e = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  const auto get = [&](int* value, cudaDeviceAttr attribute) {
    if (e == cudaSuccess) e = cudaDeviceGetAttribute(value, attribute, device);
  };
  get(&minor, cudaDevAttrComputeCapabilityMinor);
  get(&sms, cudaDevAttrMultiProcessorCount);
  get(&per_block, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  get(&per_sm, cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  if (e != cudaSuccess) return status_of(e, "cudaDeviceGetAttribute");
  out->arch = major * 10 + minor;
  out->num_sms = static_cast<uint32_t>(sms);
  out->smem_per_block = static_cast<uint32_t>(per_block);
  out->smem_per_sm = static_cast<uint32_t>(per_sm);
#ifdef RADIXATTN_SM90A  // the build's list of architectures has it
  out->wgmma = out->arch == 90;
#endif
  if (out->arch >= 75) return RADIX_OK;
  return fail(RADIX_E_UNSUPPORTED, "device %d has compute capability %d.%d: expected 7.5 or newer",
              device, major, minor);
}

bool is_lost(cudaError_t e) {
  switch (e) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorAssert:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorExternalDevice:
    case cudaErrorContained:
    case cudaErrorTensorMemoryLeak:
      return true;
    default:
      return false;
  }
}

radix_status status_of(cudaError_t e, const char* what) {
  if (e == cudaSuccess) return RADIX_OK;
  radix_status st = RADIX_E_DEVICE;
  if (is_lost(e)) st = RADIX_E_DEVICE_LOST;
  if (e == cudaErrorMemoryAllocation) st = RADIX_E_NOMEM;
  if (e == cudaErrorNoDevice || e == cudaErrorInsufficientDriver || e == cudaErrorInvalidDevice ||
      e == cudaErrorInitializationError || e == cudaErrorSystemDriverMismatch ||
      e == cudaErrorCompatNotSupportedOnDevice || e == cudaErrorDevicesUnavailable)
    st = RADIX_E_NO_DEVICE;
  if (e == cudaErrorNoKernelImageForDevice || e == cudaErrorUnsupportedPtxVersion)
    st = RADIX_E_UNSUPPORTED;
  if (!is_lost(e)) cudaGetLastError();  // seen here: the next call starts clean
  return fail_native(st, e, "%s: %s", what, cudaGetErrorString(e));
}

}  // namespace radixattn::cuda
