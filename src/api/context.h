// The context: configuration, memory, cache, backend and the lock. What `radix_ctx` points to.
//
// Lives in memory of its own allocator, made and unmade in place. The cache is reached through
// Control only, which holds the lock for as long as it lives. Does not: decide anything about
// blocks or numbers.
#pragma once

#include <mutex>
#include <type_traits>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/thread_pool.h"
#include "backend/device/cuda.h"
#include "base/allocator.h"
#include "base/executor.h"
#include "cache/cache_manager.h"
#include "radixattn.h"

namespace radixattn {

constexpr uint32_t kMaxHeads = 65535;  // of queries, and of K/V: CUDA's grids have room for these

// Where K and V of each layer lie in KV memory: per layer K, then V, each on a multiple of 64
// bytes.
struct KvLayout {
  uint64_t k_block_bytes = 0, v_block_bytes = 0;  // one block, one layer
  uint64_t v_offset_bytes = 0;                    // from a layer's K to its V
  uint64_t layer_bytes = 0;
  uint64_t total_bytes = 0;
};

// Fills defaults and checks every field but the pointers' contents. INVALID, VERSION, UNSUPPORTED.
radix_status resolve_config(const radix_config& given, radix_config* out);
// Needs resolved shapes and num_blocks. INVALID when the bytes do not fit 64 bits.
radix_status kv_layout_of(const radix_config& config, KvLayout* out);

uint64_t element_bytes(int32_t dtype);  // 4, 2 or 1; 0 for a dtype that nothing computes with
bool is_fp8(int32_t dtype);

}  // namespace radixattn

struct radix_ctx {
  radix_ctx(const radixattn::HostAllocator& allocator, const radix_config& resolved)
      : config(resolved), memory(allocator), cache(&memory) {}

  radix_config config;  // resolved; its pointers lead to the copies below
  radix_allocator allocator_copy = {};
  radix_executor executor_copy = {};
  radixattn::HostAllocator memory;
  radixattn::CacheManager cache;
  radixattn::KvLayout layout;
  radixattn::KvBlocks kv;                 // base null: METADATA_ONLY
  void* own_kv = nullptr;                 // released at destroy
  radix_allocator device_allocator = {};  // a copy; alloc null: cudaMalloc
  radixattn::ThreadPool pool;
  radixattn::Executor executor;
  static_assert(sizeof(radixattn::CpuBackend) <= radixattn::kCudaBackendBytes);
  alignas(64) unsigned char backend_memory[radixattn::kCudaBackendBytes];
  radixattn::Backend* backend = nullptr;
  std::mutex mutex;

  bool on_cuda() const { return config.device == RADIX_DEV_CUDA; }
  bool metadata_only() const { return (config.flags & RADIX_CTX_METADATA_ONLY) != 0; }
  void log(int32_t level, const char* format, ...) const __attribute__((format(printf, 3, 4)));
};

namespace radixattn {

// One control call: takes the context's lock unless the caller serialises, and reports its failure.
class Control {
 public:
  explicit Control(radix_ctx* ctx)
      : ctx_(ctx), locks_((ctx->config.flags & RADIX_CTX_EXTERNAL_SYNC) == 0) {
    if (locks_) ctx_->mutex.lock();
  }
  ~Control() {
    if (locks_) ctx_->mutex.unlock();
  }
  Control(const Control&) = delete;
  Control& operator=(const Control&) = delete;

  CacheManager* operator->() const { return &ctx_->cache; }
  CacheManager& operator*() const { return ctx_->cache; }
  // Passes `st` on; a failure goes to the host's log.
  radix_status done(const char* call, radix_status st) const;

 private:
  radix_ctx* ctx_;
  bool locks_;
};

// Memory of the context's device, on whole pages; on the CPU from `host`. `what` it is for, for the
// message. NOMEM, DEVICE.
radix_status allocate_on_device(const radix_ctx& ctx, HostAllocator* host, uint64_t bytes,
                                const char* what, void** out);
void release_on_device(const radix_ctx& ctx, HostAllocator* host, uint64_t bytes, void* memory);

radix_status check_ctx(const radix_ctx* ctx);                     // not NULL
radix_status check_stream(const radix_ctx& ctx, radix_stream s);  // NULL on the CPU
radix_status not_null(const void* pointer, const char* name);     // INVALID names it
radix_status check_reserved(const char* name, const char* field, uint32_t value);  // 0, or INVALID
// An array argument: NULL only when it has no elements, and aligned as its elements are.
radix_status check_array(const void* array, uint64_t n, size_t align, const char* name);
template <class T>
radix_status check_array(const T* array, uint64_t n, const char* name) {
  if constexpr (std::is_void_v<T>) {
    return check_array(array, n, 1, name);
  } else {
    return check_array(array, n, alignof(T), name);
  }
}
// An array that may be left out.
template <class T>
radix_status check_optional_array(const T* array, const char* name) {
  return array == nullptr ? RADIX_OK : check_array(array, 1, name);
}
// Rows `stride` elements apart, of an array that only its caller knows: not so far that arithmetic
// on their places could overflow.
radix_status check_row_stride(int64_t stride, uint64_t rows, const char* name);

}  // namespace radixattn
