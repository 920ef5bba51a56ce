// The CUDA side: one stream, device memory, and pinned memory so that copies do not hold the host.
//
// NOTE: this file has a CUDA runtime of its own, linked statically, and so has libradixattn. Both
// work on the device's primary context: a pointer or a stream of one is good in the other.
#include <cuda_runtime_api.h>

#include "device_memory.h"

namespace npc {

namespace {

void check_cuda(cudaError_t error, const char* call) {
  if (error != cudaSuccess) throw Error(std::string(call) + ": " + cudaGetErrorString(error));
}

class CudaMemory final : public DeviceMemory {
 public:
  CudaMemory() {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess || count == 0) {
      throw Error(std::string("no device cuda: this machine has none that is ready (") +
                  cudaGetErrorString(error == cudaSuccess ? cudaErrorNoDevice : error) + ")");
    }
    check_cuda(cudaSetDevice(kDevice), "cudaSetDevice");
    cudaDeviceProp properties;
    check_cuda(cudaGetDeviceProperties(&properties, kDevice), "cudaGetDeviceProperties");
    name_ = properties.name;
    check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking),
               "cudaStreamCreateWithFlags");
  }
  ~CudaMemory() override { cudaStreamDestroy(stream_); }

  int32_t kind() const override { return RADIX_DEV_CUDA; }
  std::string name() const override { return name_; }
  radix_stream stream() const override { return stream_; }

  Buffer allocate(size_t bytes, HostSide host) override {
    Buffer buffer;
    check_cuda(cudaMalloc(&buffer.device, bytes), "cudaMalloc");
    if (host == HostSide::none) return buffer;
    const cudaError_t error = cudaMallocHost(&buffer.host, bytes);
    if (error != cudaSuccess) cudaFree(buffer.device);
    check_cuda(error, "cudaMallocHost");
    return buffer;
  }

  void release(const Buffer& buffer) noexcept override {
    cudaStreamSynchronize(stream_);
    cudaFree(buffer.device);
    if (buffer.host != nullptr) cudaFreeHost(buffer.host);
  }

  void upload(const Buffer& b, size_t bytes) override {
    check_cuda(cudaMemcpyAsync(b.device, b.host, bytes, cudaMemcpyHostToDevice, stream_),
               "cudaMemcpyAsync to the device");
  }
  void download(const Buffer& b, size_t bytes) override {
    check_cuda(cudaMemcpyAsync(b.host, b.device, bytes, cudaMemcpyDeviceToHost, stream_),
               "cudaMemcpyAsync to the host");
  }
  // A kernel that failed is reported here.
  void wait() override { check_cuda(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

 private:
  static constexpr int kDevice = 0;

  std::string name_;
  cudaStream_t stream_ = nullptr;
};

}  // namespace

std::unique_ptr<DeviceMemory> open_cuda_device() { return std::make_unique<CudaMemory>(); }

}  // namespace npc
