// The CUDA side of a build without CUDA.
#include "backend/device/cuda.h"
#include "base/error.h"

namespace radixattn {

bool cuda_is_built() { return false; }
int32_t cuda_device_count() { return 0; }

radix_status cuda_allocate(int32_t device, uint64_t, void**) {
  return fail(RADIX_E_NO_DEVICE, "device %d: this build has no CUDA", device);
}
void cuda_release(int32_t, void*) {}
radix_status cuda_allocate_pinned(int32_t device, uint64_t, void** out) {
  return cuda_allocate(device, 0, out);
}
void cuda_release_pinned(int32_t, void*) {}
radix_status cuda_make_event(int32_t device, void** out) { return cuda_allocate(device, 0, out); }
void cuda_destroy_event(int32_t, void*) {}
radix_status cuda_reach_event(int32_t device, void*, bool) {
  return cuda_allocate(device, 0, nullptr);
}

radix_status cuda_make_backend(int32_t device, void*, Backend**) {
  return fail(RADIX_E_NO_DEVICE, "device %d: this build has no CUDA", device);
}

}  // namespace radixattn
