// The CUDA side of a build without CUDA.
#include "device_memory.h"

namespace npc {

std::unique_ptr<DeviceMemory> open_cuda_device() {
  throw Error(
      "no device cuda: this program was built without CUDA (configure radixattn with "
      "-DRADIXATTN_CUDA=ON)");
}

}  // namespace npc
