// Where K/V lives and attention runs: in the host's memory, or on a CUDA device.
//
// A device works through what it is given in that order, some time later: upload(), download() and
// the library's launches on stream() return at once. Until wait() has returned
//   1. the host leaves alone what an upload reads, and
//   2. does not look at what a download writes.
// On the CPU the host's array is the device's, and there is nothing to copy or to wait for.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "error.h"
#include "radixattn.h"

namespace npc {

enum class HostSide { twin, none };

// One array of the device and, if the host has to do with it, its twin there.
struct Buffer {
  void* device = nullptr;
  void* host = nullptr;  // the same array on the CPU, pinned memory for CUDA
};

class DeviceMemory {
 public:
  DeviceMemory() = default;
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  virtual ~DeviceMemory() = default;

  virtual int32_t kind() const = 0;  // RADIX_DEV_CPU or RADIX_DEV_CUDA
  virtual std::string name() const = 0;
  virtual radix_stream stream() const = 0;

  virtual Buffer allocate(size_t bytes, HostSide host) = 0;  // on a multiple of 64 bytes
  virtual void release(const Buffer& buffer) noexcept = 0;   // waits for what may still use it
  virtual void upload(const Buffer& buffer, size_t bytes) = 0;
  virtual void download(const Buffer& buffer, size_t bytes) = 0;
  virtual void wait() = 0;
};

// kind: RADIX_DEV_CPU or RADIX_DEV_CUDA (the first device). Throws Error when there is none.
std::unique_ptr<DeviceMemory> open_device(int32_t kind);
// device_memory_cuda.cpp, or device_memory_no_cuda.cpp in a build without CUDA.
std::unique_ptr<DeviceMemory> open_cuda_device();

// An array of fixed capacity, allocated once.
template <class T>
class DeviceArray {
 public:
  DeviceArray(DeviceMemory* memory, size_t capacity, HostSide host = HostSide::twin)
      : memory_(memory),
        capacity_(capacity),
        buffer_(memory->allocate(capacity * sizeof(T), host)) {}
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() { memory_->release(buffer_); }

  T* device() const { return static_cast<T*>(buffer_.device); }
  T* host() const { return static_cast<T*>(buffer_.host); }
  size_t capacity() const { return capacity_; }

  void upload(size_t n) { memory_->upload(buffer_, checked(n) * sizeof(T)); }
  void download(size_t n) { memory_->download(buffer_, checked(n) * sizeof(T)); }
  void upload(const std::vector<T>& values) {
    std::copy_n(values.data(), checked(values.size()), host());
    upload(values.size());
  }

 private:
  size_t checked(size_t n) const {
    if (n <= capacity_) return n;
    throw Error(std::to_string(n) + " elements for a buffer of " + std::to_string(capacity_));
  }

  DeviceMemory* memory_;
  size_t capacity_;
  Buffer buffer_;
};

}  // namespace npc
