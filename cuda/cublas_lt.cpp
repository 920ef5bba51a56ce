#include "cuda/cublas_lt.h"

#include <dlfcn.h>

#include <cstdio>

#include "base/error.h"
#include "cuda/device.h"

namespace radixattn::cuda {

#if RADIXATTN_CUBLAS_LT

namespace {

template <class F>
bool find(void* library, const char* name, F* out) {
  *out = reinterpret_cast<F>(dlsym(library, name));
  return *out != nullptr;
}

bool find_all(void* library, CublasLt* out) {
  return find(library, "cublasLtCreate", &out->create) &&
         find(library, "cublasLtDestroy", &out->destroy) &&
         find(library, "cublasLtGetStatusName", &out->status_name) &&
         find(library, "cublasLtMatmul", &out->matmul) &&
         find(library, "cublasLtMatmulAlgoGetHeuristic", &out->heuristic) &&
         find(library, "cublasLtMatmulDescInit_internal", &out->init_operation) &&
         find(library, "cublasLtMatmulDescSetAttribute", &out->set_operation) &&
         find(library, "cublasLtMatrixLayoutInit_internal", &out->init_layout) &&
         find(library, "cublasLtMatmulPreferenceInit_internal", &out->init_preference) &&
         find(library, "cublasLtMatmulPreferenceSetAttribute", &out->set_preference);
}

}  // namespace

radix_status load_cublas_lt(const char* const* names, size_t num_names, CublasLt* out) {
  char looked_for[384] = "";
  int length = 0;
  for (size_t i = 0; i < num_names; ++i) {
    void* library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (library != nullptr && find_all(library, out)) return RADIX_OK;
    if (library != nullptr) dlclose(library);
    const auto room = sizeof(looked_for) - static_cast<size_t>(length);
    const int n = std::snprintf(looked_for + length, room, "%s%s%s", i > 0 ? ", " : "", names[i],
                                library != nullptr ? " (has not all functions)" : "");
    if (n > 0) length += n < static_cast<int>(room) ? n : static_cast<int>(room) - 1;
  }
  return fail(RADIX_E_UNSUPPORTED,
              "cuBLASLt cannot be opened: install it, or give radix_layer.gemm (looked for %s)",
              looked_for);
}

radix_status status_of_cublas_lt(const CublasLt& lt, int32_t native, const char* what) {
  const auto s = static_cast<cublasStatus_t>(native);
  if (s == CUBLAS_STATUS_SUCCESS) return RADIX_OK;
  const radix_status st = s == CUBLAS_STATUS_ALLOC_FAILED    ? RADIX_E_NOMEM
                          : s == CUBLAS_STATUS_NOT_SUPPORTED ? RADIX_E_UNSUPPORTED
                                                             : RADIX_E_DEVICE;
  return fail_native(st, native, "%s: %s", what, lt.status_name(s));
}

// A handle takes memory of the device. When the stream of a launch is being captured, and this is
// the first product, the capture must not notice.
radix_status CublasLtHandle::get(const CublasLt** lt, cublasLtHandle_t* handle) {
  *handle = handle_.load(std::memory_order_acquire);
  if (*handle == nullptr) {
    const std::lock_guard<std::mutex> lock(making_);
    *handle = handle_.load(std::memory_order_relaxed);
    if (*handle == nullptr) {
      const radix_status st = open_cublas_lt(&lt_);
      if (st != RADIX_OK) return st;
      auto mode = cudaStreamCaptureModeRelaxed;
      const cudaError_t e = cudaThreadExchangeStreamCaptureMode(&mode);
      if (e != cudaSuccess) return status_of(e, "cudaThreadExchangeStreamCaptureMode");
      const cublasStatus_t made = lt_->create(handle);
      cudaThreadExchangeStreamCaptureMode(&mode);
      if (made != CUBLAS_STATUS_SUCCESS) return status_of_cublas_lt(*lt_, made, "cublasLtCreate");
      handle_.store(*handle, std::memory_order_release);
    }
  }
  *lt = lt_;
  return RADIX_OK;
}

CublasLtHandle::~CublasLtHandle() {
  cublasLtHandle_t handle = handle_.load(std::memory_order_relaxed);
  if (handle == nullptr) return;
  const DeviceScope scope(device_);
  lt_->destroy(handle);
}

#else  // built without cublasLt.h

radix_status load_cublas_lt(const char* const*, size_t, CublasLt*) {
  return fail(RADIX_E_UNSUPPORTED,
              "this library was built without cuBLASLt (no cublasLt.h): give radix_layer.gemm");
}

radix_status status_of_cublas_lt(const CublasLt&, int32_t native, const char* what) {
  return native == 0 ? RADIX_OK : fail_native(RADIX_E_DEVICE, native, "%s: %d", what, native);
}

radix_status CublasLtHandle::get(const CublasLt** lt, cublasLtHandle_t* handle) {
  *handle = nullptr;
  return open_cublas_lt(lt);
}

CublasLtHandle::~CublasLtHandle() = default;

#endif

}  // namespace radixattn::cuda
