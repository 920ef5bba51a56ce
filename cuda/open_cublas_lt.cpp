// The process's cuBLASLt. In a file of its own: the tests' simulated device has another one.
#include <mutex>

#include "cuda/cublas_lt.h"

namespace radixattn::cuda {
namespace {

// 13 comes with CUDA 13, 12 with CUDA 12; without a number where only a toolkit's link is found.
// dlopen gives a library of that name that the host program has loaded already, from wherever.
constexpr const char* kNames[] = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"};

// Never closed: cuBLASLt has work of its own at its end. Nothing here has a destructor that runs.
std::mutex opening;
bool is_open = false;
CublasLt functions;

}  // namespace

radix_status open_cublas_lt(const CublasLt** out) {
  const std::lock_guard<std::mutex> lock(opening);
  if (!is_open) {
    const radix_status st = load_cublas_lt(kNames, sizeof(kNames) / sizeof(kNames[0]), &functions);
    if (st != RADIX_OK) return st;
    is_open = true;
  }
  *out = &functions;
  return RADIX_OK;
}

}  // namespace radixattn::cuda
