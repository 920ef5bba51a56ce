#include "device_memory.h"

#include <new>

namespace npc {

namespace {

constexpr std::align_val_t kAlign{64};  // what the library asks of a workspace

class CpuMemory final : public DeviceMemory {
 public:
  int32_t kind() const override { return RADIX_DEV_CPU; }
  std::string name() const override { return "CPU"; }
  radix_stream stream() const override { return nullptr; }

  Buffer allocate(size_t bytes, HostSide) override {
    void* memory = ::operator new(bytes, kAlign);
    return {memory, memory};
  }
  void release(const Buffer& buffer) noexcept override { ::operator delete(buffer.device, kAlign); }
  void upload(const Buffer&, size_t) override {}
  void download(const Buffer&, size_t) override {}
  void wait() override {}
};

}  // namespace

std::unique_ptr<DeviceMemory> open_device(int32_t kind) {
  if (kind == RADIX_DEV_CUDA) return open_cuda_device();
  return std::make_unique<CpuMemory>();
}

}  // namespace npc
