// cuBLASLt, opened at run time: libradixattn.so links none of CUDA's libraries, and loads and works
// where there are none.
//
// The functions that the products of the layer use, by the names of NVIDIA's header. Host code
// only. A build without that header has no cuBLASLt: opening it is UNSUPPORTED.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>

#include "radixattn.h"

#if __has_include(<cublasLt.h>)
#include <cublasLt.h>
#define RADIXATTN_CUBLAS_LT 1
#else
#define RADIXATTN_CUBLAS_LT 0
struct cublasLtContext;
typedef cublasLtContext* cublasLtHandle_t;
#endif

namespace radixattn::cuda {

struct CublasLt {
#if RADIXATTN_CUBLAS_LT
  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtDestroy) destroy = nullptr;
  decltype(&cublasLtGetStatusName) status_name = nullptr;
  decltype(&cublasLtMatmul) matmul = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic = nullptr;
  decltype(&cublasLtMatmulDescInit_internal) init_operation = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) set_operation = nullptr;
  decltype(&cublasLtMatrixLayoutInit_internal) init_layout = nullptr;
  decltype(&cublasLtMatmulPreferenceInit_internal) init_preference = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) set_preference = nullptr;
#endif
};

// Opens the first of the libraries that is there and has all functions. UNSUPPORTED, with their
// names.
radix_status load_cublas_lt(const char* const* names, size_t num_names, CublasLt* out);

// The process's cuBLASLt, opened by the first call that finds it and never closed; a call that
// does not find it leaves the next one to look again (a host program may have loaded it by then).
// Any thread. UNSUPPORTED.
radix_status open_cublas_lt(const CublasLt** out);

// A device's handle, made by the first call that needs it. Any thread.
class CublasLtHandle {
 public:
  explicit CublasLtHandle(int32_t device) : device_(device) {}
  ~CublasLtHandle();
  CublasLtHandle(const CublasLtHandle&) = delete;
  CublasLtHandle& operator=(const CublasLtHandle&) = delete;

  bool made() const { return handle_.load(std::memory_order_relaxed) != nullptr; }
  // With the device current. UNSUPPORTED, NOMEM, DEVICE.
  radix_status get(const CublasLt** lt, cublasLtHandle_t* handle);

 private:
  const int32_t device_;
  std::mutex making_;
  const CublasLt* lt_ = nullptr;  // before handle_
  std::atomic<cublasLtHandle_t> handle_{nullptr};
};

// RADIX_OK, or NOMEM or DEVICE with "what: cuBLASLt's name of it" and the native code.
radix_status status_of_cublas_lt(const CublasLt& lt, int32_t native, const char* what);

}  // namespace radixattn::cuda
