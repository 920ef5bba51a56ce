// radix_ctx_*: making, unmaking and describing a context.
#include "api/context.h"

#include <sys/mman.h>

#include <chrono>
#include <cinttypes>
#include <cstdarg>
#include <cstdio>
#include <new>

#include "api/struct_io.h"
#include "base/error.h"
#include "base/hash.h"

using radixattn::fail;
using radixattn::not_null;

namespace radixattn {
namespace {

constexpr size_t kCtxAlign = 64;
constexpr size_t kDeviceAlign = 4096;  // whole pages: what huge pages and devices like
constexpr uint64_t kHugePage = 2u << 20;

radix_status read_allocator(const radix_allocator* given, const char* name, radix_allocator* out) {
  *out = {};
  if (given == nullptr) return RADIX_OK;
  radix_status st = read_struct(given, name, out);
  if (st == RADIX_OK) st = check_reserved(name, "reserved0", out->reserved0);
  if (st != RADIX_OK) return st;
  if (out->alloc == nullptr || out->free == nullptr) {
    return fail(RADIX_E_INVALID, "%s->%s is NULL: expected both functions", name,
                out->alloc == nullptr ? "alloc" : "free");
  }
  return RADIX_OK;
}

radix_status read_executor(const radix_config& c, radix_executor* out) {
  *out = {};
  if (c.executor == nullptr) return RADIX_OK;
  const radix_status st = read_struct(c.executor, "cfg->executor", out);
  return st == RADIX_OK ? not_null(reinterpret_cast<const void*>(out->parallel_for),
                                   "cfg->executor->parallel_for")
                        : st;
}

radix_status start_executor(radix_ctx* ctx) {
  if (ctx->config.num_threads > 1) {
    const radix_status st = ctx->pool.start(ctx->config.num_threads);
    if (st != RADIX_OK) return st;
    ctx->executor = Executor(ctx->pool.executor());
  } else if (ctx->config.executor != nullptr) {
    ctx->executor = Executor(ctx->executor_copy);
  }
  return RADIX_OK;
}

radix_status start_backend(radix_ctx* ctx) {
  const radix_config& c = ctx->config;
  if (ctx->on_cuda()) return cuda_make_backend(c.device_index, ctx->backend_memory, &ctx->backend);
  ctx->backend = new (ctx->backend_memory) CpuBackend(*select_kernels(c.cpu_target), ctx->executor);
  return RADIX_OK;
}

// Unknown to those who choose prompts: where the context lies, and when it was made.
uint64_t hash_seed(const radix_ctx* ctx) {
  const auto now = std::chrono::steady_clock::now().time_since_epoch().count();
  return radixattn::mix(reinterpret_cast<uintptr_t>(ctx) ^ 0x9fb21c651e98df25u,
                        static_cast<uint64_t>(now) ^ 0xd1342543de82ef95u);
}

radix_status start_cache(radix_ctx* ctx) {
  const radix_config& c = ctx->config;
  CacheConfig config;
  config.num_blocks = c.num_blocks;
  config.block_size = c.block_size;
  config.max_requests = c.max_requests;
  config.max_blocks_per_request = c.max_blocks_per_request;
  config.max_pins = c.max_pins;
  config.max_namespaces = c.max_namespaces;
  config.policy = c.evict_policy;
  config.hash_seed = hash_seed(ctx);
  config.preallocate = (c.flags & RADIX_CTX_PREALLOCATE) != 0;
  config.defer_free = (c.flags & RADIX_CTX_DEFER_FREE) != 0;
  return ctx->cache.init(config);
}

// A few large pages instead of many small ones: decode reads all of this memory.
void ask_for_huge_pages(void* memory, uint64_t bytes) {
#if defined(MADV_HUGEPAGE)
  if (bytes >= 2 * kHugePage) madvise(memory, bytes, MADV_HUGEPAGE);
#else
  (void)memory;
  (void)bytes;
#endif
}

// The context's own KV memory, from wherever its device has memory.
radix_status allocate_kv(radix_ctx* ctx, void** out) {
  const uint64_t bytes = ctx->layout.total_bytes;
  const radix_status st = allocate_on_device(*ctx, &ctx->memory, bytes, "K/V", out);
  if (st == RADIX_OK && !ctx->on_cuda() && ctx->config.host_alloc == nullptr)
    ask_for_huge_pages(*out, bytes);
  return st;
}

void release_kv(radix_ctx* ctx) {
  if (ctx->own_kv != nullptr)
    release_on_device(*ctx, &ctx->memory, ctx->layout.total_bytes, ctx->own_kv);
}

radix_status take_kv_memory(radix_ctx* ctx) {
  if (ctx->metadata_only()) return RADIX_OK;
  const radix_config& c = ctx->config;
  radix_status st = kv_layout_of(c, &ctx->layout);
  if (st != RADIX_OK) return st;
  void* base = c.kv_memory;
  if (base == nullptr) {
    st = allocate_kv(ctx, &ctx->own_kv);
    if (st != RADIX_OK) return st;
    base = ctx->own_kv;
  }
  KvBlocks& kv = ctx->kv;
  kv.base = static_cast<char*>(base);
  kv.num_layers = c.num_layers;
  kv.num_blocks = c.num_blocks;
  kv.block_size = c.block_size;
  kv.k_block_bytes = ctx->layout.k_block_bytes;
  kv.v_block_bytes = ctx->layout.v_block_bytes;
  kv.layer_bytes = ctx->layout.layer_bytes;
  kv.v_offset_bytes = ctx->layout.v_offset_bytes;
  if (c.kv_layout == RADIX_LAYOUT_NHD) {
    kv.token_chunk_bytes_k = kv.k_block_bytes / c.block_size;
    kv.token_chunk_bytes_v = kv.v_block_bytes / c.block_size;
  }
  return RADIX_OK;
}

void destroy(radix_ctx* ctx) {
  ctx->pool.stop();
  release_kv(ctx);
  if (ctx->backend != nullptr) ctx->backend->~Backend();
  // The allocator leaves the context before the context leaves its memory.
  const HostAllocator kept = ctx->memory;
  ctx->~radix_ctx();
  HostAllocator last = kept;
  last.release(ctx, sizeof(radix_ctx), kCtxAlign);
}

// What a configuration points to, copied.
struct Callbacks {
  radix_allocator host, device;
  radix_executor executor;
};

radix_status create(const radix_config& resolved, const Callbacks& callbacks, radix_ctx** out) {
  const radix_allocator& allocator = callbacks.host;
  HostAllocator memory = allocator.alloc != nullptr ? HostAllocator(allocator) : HostAllocator();
  void* place = memory.allocate(sizeof(radix_ctx), kCtxAlign);
  if (place == nullptr) return fail(RADIX_E_NOMEM, "no memory for a context");
  radix_ctx* ctx = new (place) radix_ctx(memory, resolved);
  ctx->allocator_copy = allocator;
  ctx->executor_copy = callbacks.executor;
  ctx->device_allocator = callbacks.device;
  if (resolved.host_alloc != nullptr) ctx->config.host_alloc = &ctx->allocator_copy;
  if (resolved.executor != nullptr) ctx->config.executor = &ctx->executor_copy;
  if (resolved.device_alloc != nullptr) ctx->config.device_alloc = &ctx->device_allocator;
  radix_status st = start_cache(ctx);
  if (st == RADIX_OK) st = start_executor(ctx);
  if (st == RADIX_OK) st = start_backend(ctx);
  if (st == RADIX_OK) st = take_kv_memory(ctx);
  if (st != RADIX_OK) {
    destroy(ctx);
    return st;
  }
  ctx->log(RADIX_LOG_INFO,
           "context: %u blocks of %u tokens, %" PRIu64 " bytes of K/V, %s kernels, %u workers",
           resolved.num_blocks, resolved.block_size, ctx->layout.total_bytes,
           ctx->on_cuda() ? "cuda" : select_kernels(resolved.cpu_target)->name,
           ctx->executor.workers());
  *out = ctx;
  return RADIX_OK;
}

void describe(const radix_ctx& ctx, uint64_t offset, uint32_t head_dim, radix_tensor* out) {
  const radix_config& c = ctx.config;
  const int64_t dims[4] = {c.num_blocks, c.block_size, c.num_kv_heads, head_dim};
  const bool nhd = c.kv_layout == RADIX_LAYOUT_NHD;
  *out = {};
  out->data = ctx.kv.base + offset;
  out->dtype = c.kv_dtype;
  out->device = c.device;
  out->device_index = c.device_index;
  out->ndim = 4;
  out->shape[0] = dims[0];
  out->shape[1] = nhd ? dims[1] : dims[2];
  out->shape[2] = nhd ? dims[2] : dims[1];
  out->shape[3] = dims[3];
  out->stride[3] = 1;
  for (int i = 2; i >= 0; --i) out->stride[i] = out->stride[i + 1] * out->shape[i + 1];
}

}  // namespace

radix_status allocate_on_device(const radix_ctx& ctx, HostAllocator* host, uint64_t bytes,
                                const char* what, void** out) {
  const radix_allocator& device = ctx.device_allocator;
  if (ctx.on_cuda() && device.alloc == nullptr)
    return cuda_allocate(ctx.config.device_index, bytes, out);
  *out = ctx.on_cuda() ? device.alloc(device.user, bytes, kDeviceAlign)
                       : host->allocate(bytes, kDeviceAlign);
  if (*out != nullptr) return RADIX_OK;
  return fail(RADIX_E_NOMEM, "no memory for %" PRIu64 " bytes of %s%s", bytes, what,
              ctx.on_cuda() ? " on the device" : "");
}

void release_on_device(const radix_ctx& ctx, HostAllocator* host, uint64_t bytes, void* memory) {
  const radix_allocator& device = ctx.device_allocator;
  if (!ctx.on_cuda()) {
    host->release(memory, bytes, kDeviceAlign);
  } else if (device.alloc != nullptr) {
    device.free(device.user, memory, bytes, kDeviceAlign);
  } else {
    cuda_release(ctx.config.device_index, memory);
  }
}

radix_status check_ctx(const radix_ctx* ctx) { return not_null(ctx, "ctx"); }

radix_status check_stream(const radix_ctx& ctx, radix_stream s) {
  if (s == nullptr || ctx.on_cuda()) return RADIX_OK;
  return fail(RADIX_E_INVALID, "s is %p: expected NULL on the CPU", s);
}

radix_status not_null(const void* pointer, const char* name) {
  return pointer != nullptr ? RADIX_OK : fail(RADIX_E_INVALID, "%s is NULL", name);
}

radix_status check_reserved(const char* name, const char* field, uint32_t value) {
  if (value == 0) return RADIX_OK;
  return fail(RADIX_E_INVALID, "%s->%s is %u: expected 0", name, field, value);
}

radix_status check_array(const void* array, uint64_t n, size_t align, const char* name) {
  if (n == 0) return RADIX_OK;
  if (array == nullptr)
    return fail(RADIX_E_INVALID, "%s is NULL: expected %" PRIu64 " elements", name, n);
  if (reinterpret_cast<uintptr_t>(array) % align == 0) return RADIX_OK;
  return fail(RADIX_E_INVALID, "%s is %p: expected a multiple of %zu", name, array, align);
}

radix_status check_row_stride(int64_t stride, uint64_t rows, const char* name) {
  constexpr uint64_t kMost = uint64_t{1} << 52;
  uint64_t elements = 0;
  if (stride < 0)
    return fail(RADIX_E_INVALID, "%s is %" PRId64 ": expected 0 or more", name, stride);
  if (!__builtin_mul_overflow(static_cast<uint64_t>(stride), rows > 0 ? rows : 1, &elements) &&
      elements <= kMost) {
    return RADIX_OK;
  }
  return fail(RADIX_E_INVALID,
              "%s is %" PRId64 ": expected at most 2^52 elements in all %" PRIu64 " rows", name,
              stride, rows);
}

radix_status Control::done(const char* call, radix_status st) const {
  if (st == RADIX_E_INTERNAL) {
    ctx_->log(RADIX_LOG_ERROR, "%s: %s", call, last_message());
  } else if (st != RADIX_OK) {
    ctx_->log(RADIX_LOG_DEBUG, "%s: %s: %s", call, radix_status_name(st), last_message());
  }
  return st;
}

}  // namespace radixattn

void radix_ctx::log(int32_t level, const char* format, ...) const {
  if (config.log == nullptr || level > config.log_level) return;
  char text[640];
  va_list args;
  va_start(args, format);
  const int len = std::vsnprintf(text, sizeof text, format, args);
  va_end(args);
  const size_t n = len < 0                                  ? 0
                   : static_cast<size_t>(len) < sizeof text ? static_cast<size_t>(len)
                                                            : sizeof text - 1;
  config.log(config.log_user, level, text, n);
}

extern "C" {

radix_status radix_ctx_create(const radix_config* cfg, radix_ctx** out) RADIX_NOEXCEPT {
  radix_status st = not_null(out, "out");
  if (st != RADIX_OK) return st;
  *out = nullptr;
  radix_config given, resolved;
  radixattn::Callbacks callbacks;
  st = radixattn::read_struct(cfg, "cfg", &given);
  if (st == RADIX_OK) st = radixattn::resolve_config(given, &resolved);
  if (st == RADIX_OK)
    st = radixattn::read_allocator(given.host_alloc, "cfg->host_alloc", &callbacks.host);
  if (st == RADIX_OK)
    st = radixattn::read_allocator(given.device_alloc, "cfg->device_alloc", &callbacks.device);
  if (st == RADIX_OK) st = radixattn::read_executor(given, &callbacks.executor);
  return st == RADIX_OK ? radixattn::create(resolved, callbacks, out) : st;
}

void radix_ctx_destroy(radix_ctx** ctx) RADIX_NOEXCEPT {
  if (ctx == nullptr || *ctx == nullptr) return;
  radixattn::destroy(*ctx);
  *ctx = nullptr;
}

radix_status radix_ctx_get_config(const radix_ctx* ctx, radix_config* out) RADIX_NOEXCEPT {
  radix_status st = radixattn::check_ctx(ctx);
  if (st == RADIX_OK) st = radixattn::check_out(out, "out");
  if (st == RADIX_OK) radixattn::write_struct(ctx->config, out);
  return st;
}

radix_status radix_ctx_kv_bytes(const radix_config* cfg, uint64_t* out) RADIX_NOEXCEPT {
  radix_config given, resolved;
  radix_status st = not_null(out, "out");
  if (st == RADIX_OK) st = radixattn::read_struct(cfg, "cfg", &given);
  if (st != RADIX_OK) return st;
  if (given.num_blocks == 0)
    return fail(RADIX_E_INVALID, "cfg->num_blocks is 0: expected the number of blocks");
  given.kv_memory = nullptr;  // its size is the question
  given.kv_memory_size = 0;
  st = radixattn::resolve_config(given, &resolved);
  if (st != RADIX_OK) return st;
  radixattn::KvLayout layout;
  st = radixattn::kv_layout_of(resolved, &layout);
  if (st == RADIX_OK)
    *out = (resolved.flags & RADIX_CTX_METADATA_ONLY) != 0 ? 0 : layout.total_bytes;
  return st;
}

radix_status radix_ctx_kv_tensor(const radix_ctx* ctx, uint32_t layer, radix_tensor* out_k,
                                 radix_tensor* out_v) RADIX_NOEXCEPT {
  const radix_status st = radixattn::check_ctx(ctx);
  if (st != RADIX_OK) return st;
  if (ctx->metadata_only()) {
    return fail(RADIX_E_STATE, "the context is RADIX_CTX_METADATA_ONLY: it has no KV memory");
  }
  if (layer >= ctx->config.num_layers) {
    return fail(RADIX_E_INVALID, "layer is %u: expected less than %u", layer,
                ctx->config.num_layers);
  }
  const uint64_t at = layer * ctx->layout.layer_bytes;
  if (out_k != nullptr) radixattn::describe(*ctx, at, ctx->config.head_dim, out_k);
  if (out_v != nullptr) {
    radixattn::describe(*ctx, at + ctx->layout.v_offset_bytes, ctx->config.head_dim_v, out_v);
  }
  return RADIX_OK;
}

}  // extern "C"
