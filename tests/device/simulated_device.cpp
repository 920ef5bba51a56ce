#include "simulated_device.h"

#include <cuda_runtime_api.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <random>
#include <vector>

#include "emu.h"

namespace radixattn::test::device {

Settings settings;
Counters counters;

namespace {

struct Memory {
  uint64_t bytes;
  uint64_t mapped;
};

std::map<void*, Memory> memories;
std::map<const char*, uint64_t> pinned;                      // host memory, by address: bytes
std::map<void*, std::vector<std::function<void()>>> queues;  // by stream
// Host memory that copies to the device have yet to read: from where to where.
std::multimap<const char*, const char*> unread;
int32_t current_device = 0;
uint64_t next_stream = 1;
cudaStreamCaptureMode capture_mode = cudaStreamCaptureModeGlobal;

constexpr uint64_t kPage = 4096;

void protect(int flags) {
  for (const auto& [at, memory] : memories) mprotect(at, memory.mapped, flags);
}

// The device's memory is there for as long as one of these lives.
struct Working {
  Working() { protect(PROT_READ | PROT_WRITE); }
  ~Working() { protect(PROT_NONE); }
};

bool is_pinned(const void* memory, uint64_t bytes) {
  const char* at = static_cast<const char*>(memory);
  auto after = pinned.upper_bound(at);
  if (after == pinned.begin()) return false;
  --after;
  return at + bytes <= after->first + after->second;
}

bool is_unread(const void* memory, uint64_t bytes) {
  const char* at = static_cast<const char*>(memory);
  return std::any_of(unread.begin(), unread.end(), [&](const auto& range) {
    return range.first < at + bytes && at < range.second;
  });
}

// Runs a stream to its end. The others stand still meanwhile, or take turns with it at random.
void finish_stream(void* stream) {
  std::mt19937_64 random(settings.seed++);
  const bool alone = random() % 2 == 0;
  const Working working;
  while (!queues[stream].empty()) {
    std::vector<void*> ready;
    for (const auto& [other, queue] : queues) {
      if (!queue.empty() && (!alone || other == stream)) ready.push_back(other);
    }
    auto& queue = queues[ready[random() % ready.size()]];
    const std::function<void()> work = std::move(queue.front());
    queue.erase(queue.begin());
    work();
  }
}

int enqueue_kernel(const simt::emu::Kernel& kernel, void* stream) {
  counters.launched_on = current_device;
  counters.stream = stream;
  ++counters.launches;
  counters.kernels.emplace_back(kernel.name);
  if (const int error = settings.failing_launch) {
    settings.failing_launch = 0;
    return error;
  }
  queues[stream].push_back([kernel] { simt::emu::run(kernel); });
  return 0;
}

}  // namespace

void* allocate(uint64_t bytes) {
  const uint64_t mapped = (bytes + kPage - 1) / kPage * kPage + kPage;
  void* at = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  std::memset(at, 0xff, mapped);  // NaN, and no block
  mprotect(at, mapped, PROT_NONE);
  memories[at] = {bytes, mapped};
  counters.bytes_live += static_cast<int64_t>(bytes);
  return at;
}

void release(void* memory) {
  const auto found = memories.find(memory);
  if (found == memories.end()) {
    ++counters.bad_frees;
    return;
  }
  counters.bytes_live -= static_cast<int64_t>(found->second.bytes);
  munmap(memory, found->second.mapped);
  memories.erase(found);
}

void write(void* device, const void* host, uint64_t bytes) {
  const Working working;
  std::memcpy(device, host, bytes);
}

void read(void* host, const void* device, uint64_t bytes) {
  const Working working;
  std::memcpy(host, device, bytes);
}

void reset() {
  queues.clear();
  unread.clear();
  settings = Settings();
  const Counters before = counters;
  counters = Counters();
  counters.bytes_live = before.bytes_live;
  counters.pinned_live = before.pinned_live;
  counters.events_live = before.events_live;
  counters.handles_live = before.handles_live;
  current_device = 0;
  simt::emu::submit = enqueue_kernel;
}

bool has_work() {
  for (const auto& [stream, queue] : queues) {
    if (!queue.empty()) return true;
  }
  return false;
}

void finish() {
  std::mt19937_64 random(settings.seed++);
  const Working working;
  std::map<void*, size_t> done;
  for (;;) {
    std::vector<void*> ready;
    for (const auto& [stream, queue] : queues) {
      if (done[stream] < queue.size()) ready.push_back(stream);
    }
    if (ready.empty()) break;
    void* stream = ready[random() % ready.size()];
    queues[stream][done[stream]++]();
  }
  queues.clear();
}

void enqueue(void* stream, std::function<void()> work) {
  counters.launched_on = current_device;
  counters.stream = stream;
  queues[stream].push_back(std::move(work));
}

bool holds(const void* memory, uint64_t bytes) {
  const char* at = static_cast<const char*>(memory);
  for (const auto& [first, held] : memories) {
    const char* begin = static_cast<const char*>(first);
    if (at >= begin && at + bytes <= begin + held.bytes) return true;
  }
  return false;
}

bool capture_forbids() {
  return settings.capturing != nullptr && capture_mode == cudaStreamCaptureModeGlobal;
}

int32_t current() { return current_device; }
void* make_stream() { return reinterpret_cast<void*>(next_stream++ << 12); }
radix_status run_as_graph(void*, const std::function<radix_status()>& launch) { return launch(); }

}  // namespace radixattn::test::device

using radixattn::test::device::counters;
using radixattn::test::device::settings;

// ---- the runtime, as far as the library uses it ------------------------------------------------

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  if (settings.count_error != 0) return static_cast<cudaError_t>(settings.count_error);
  *count = settings.num_devices;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = radixattn::test::device::current_device;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= settings.num_devices) return cudaErrorInvalidDevice;
  radixattn::test::device::current_device = device;
  return cudaSuccess;
}

cudaError_t cudaGetLastError() { return cudaSuccess; }

const char* cudaGetErrorString(cudaError_t e) {
  return e == cudaErrorIllegalAddress ? "an illegal memory access" : "a simulated error";
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor:
      *value = settings.capability / 10;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = settings.capability % 10;
      return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
      *value = 6;  // so that small launches are cut, too
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = 227 * 1024;
      return cudaSuccess;
    default:
      return cudaErrorInvalidValue;
  }
}

cudaError_t cudaMalloc(void** out, size_t bytes) {
  if (counters.allocations++ == settings.failing_malloc) return cudaErrorMemoryAllocation;
  *out = radixattn::test::device::allocate(bytes);
  return cudaSuccess;
}

cudaError_t cudaFree(void* memory) {
  ++counters.frees;
  radixattn::test::device::release(memory);
  return cudaSuccess;
}

cudaError_t cudaMallocHost(void** out, size_t bytes) {
  ++counters.pinned_allocations;
  if (counters.allocations++ == settings.failing_malloc) return cudaErrorMemoryAllocation;
  char* memory = new char[bytes];
  std::memset(memory, 0xff, bytes);
  radixattn::test::device::pinned[memory] = bytes;
  counters.bytes_live += static_cast<int64_t>(bytes);
  ++counters.pinned_live;
  *out = memory;
  return cudaSuccess;
}

cudaError_t cudaFreeHost(void* memory) {
  const auto found = radixattn::test::device::pinned.find(static_cast<const char*>(memory));
  if (found == radixattn::test::device::pinned.end()) return cudaErrorInvalidValue;
  counters.bytes_live -= static_cast<int64_t>(found->second);
  --counters.pinned_live;
  delete[] found->first;
  radixattn::test::device::pinned.erase(found);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* dst, const void* src, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  if (const int error = settings.failing_copy) {
    settings.failing_copy = 0;
    return static_cast<cudaError_t>(error);
  }
  ++counters.copies;
  counters.copied_bytes += static_cast<int64_t>(bytes);
  counters.stream = stream;
  const bool to_host = kind == cudaMemcpyDeviceToHost;
  if (!radixattn::test::device::is_pinned(to_host ? dst : src, bytes)) ++counters.pageable_copies;
  using radixattn::test::device::is_unread;
  using radixattn::test::device::unread;
  // Who looks at it too early finds NaN, or, where an upload has yet to read it, what was there.
  if (to_host && !is_unread(dst, bytes)) std::memset(dst, 0xff, bytes);
  const char* from = static_cast<const char*>(src);
  if (!to_host) unread.emplace(from, from + bytes);
  radixattn::test::device::queues[stream].push_back([=] {
    std::memcpy(dst, src, bytes);
    const auto range = unread.find(from);
    if (!to_host && range != unread.end()) unread.erase(range);
  });
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = settings.capturing != nullptr && settings.capturing == stream
                ? cudaStreamCaptureStatusActive
                : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

// An event counts the records that the device has not reached.
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  if (counters.allocations++ == settings.failing_malloc) return cudaErrorMemoryAllocation;
  *event = reinterpret_cast<cudaEvent_t>(new int(0));
  ++counters.events_live;
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  --counters.events_live;
  delete reinterpret_cast<int*>(event);
  return cudaSuccess;
}

// In a global capture, which this is, nobody may look at an event unless his thread is relaxed.
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(*mode, radixattn::test::device::capture_mode);
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (const int error = settings.failing_record) {
    settings.failing_record = 0;
    return static_cast<cudaError_t>(error);
  }
  int* pending = reinterpret_cast<int*>(event);
  ++*pending;
  radixattn::test::device::queues[stream].push_back([=] { --*pending; });
  return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (radixattn::test::device::capture_forbids()) return cudaErrorStreamCaptureUnsupported;
  return *reinterpret_cast<int*>(event) == 0 ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (radixattn::test::device::capture_forbids()) return cudaErrorStreamCaptureUnsupported;
  if (*reinterpret_cast<int*>(event) == 0) return cudaSuccess;
  ++counters.waits;
  radixattn::test::device::finish();
  return cudaSuccess;
}

cudaError_t cudaMemcpy2DAsync(void* dst, size_t dst_pitch, const void* src, size_t src_pitch,
                              size_t width, size_t height, cudaMemcpyKind, cudaStream_t stream) {
  ++counters.copies;
  counters.stream = stream;
  radixattn::test::device::queues[stream].push_back([=] {
    for (size_t row = 0; row < height; ++row)
      std::memcpy(static_cast<char*>(dst) + row * dst_pitch,
                  static_cast<const char*>(src) + row * src_pitch, width);
  });
  return cudaSuccess;
}

// ---- and what the example uses besides

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  std::memset(properties, 0, sizeof *properties);
  std::strcpy(properties->name, "simulated device");
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = static_cast<cudaStream_t>(radixattn::test::device::make_stream());
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  ++counters.waits;
  radixattn::test::device::finish_stream(stream);
  return cudaSuccess;
}

}  // extern "C"
