// resolve_config: defaults, ranges, and how many blocks fit a budget.
#include <cinttypes>

#include "api/context.h"
#include "backend/device/cuda.h"
#include "base/error.h"

namespace radixattn {
namespace {

constexpr uint32_t kMaxBlocks = 1u << 30;
constexpr uint32_t kMaxObjects = 1u << 24;  // requests, pins, namespaces
constexpr uint64_t kAlign = 64;
constexpr uint32_t kKnownFlags = RADIX_CTX_EXTERNAL_SYNC | RADIX_CTX_PREALLOCATE |
                                 RADIX_CTX_METADATA_ONLY | RADIX_CTX_DEFER_FREE;

void set_default(uint32_t* field, uint32_t value) {
  if (*field == 0) *field = value;
}

radix_status in_range(const char* name, uint32_t value, uint32_t low, uint32_t high) {
  if (value >= low && value <= high) return RADIX_OK;
  return fail(RADIX_E_INVALID, "%s is %u: expected %u..%u", name, value, low, high);
}

radix_status one_of(const char* name, int32_t value, int32_t last, const char* names) {
  if (value >= 0 && value <= last) return RADIX_OK;
  return fail(RADIX_E_INVALID, "%s is %d: expected %s", name, value, names);
}

radix_status check_head_dim(const char* name, uint32_t dim) {
  if (dim >= 32 && dim <= 256 && dim % 8 == 0) return RADIX_OK;
  return fail(RADIX_E_INVALID, "%s is %u: expected 32..256 in steps of 8", name, dim);
}

radix_status check_words(const radix_config& c) {
  if (c.abi != RADIXATTN_ABI) {
    return fail(RADIX_E_VERSION, "cfg->abi is %u: this library has ABI %u", c.abi, RADIXATTN_ABI);
  }
  if ((c.flags & ~kKnownFlags) != 0) {
    return fail(RADIX_E_INVALID, "cfg->flags has unknown bits 0x%x: expected RADIX_CTX_*",
                c.flags & ~kKnownFlags);
  }
  if (const radix_status st = check_reserved("cfg", "reserved0", c.reserved0); st != RADIX_OK)
    return st;
  if (c.next != nullptr) return fail(RADIX_E_INVALID, "cfg->next is %p: expected NULL", c.next);
  return RADIX_OK;
}

radix_status check_cuda_device(const radix_config& c) {
  if (!cuda_is_built())
    return fail(RADIX_E_NO_DEVICE, "cfg->device is RADIX_DEV_CUDA: this build has no CUDA");
  const int32_t count = cuda_device_count();
  if (count == 0) {
    return fail(RADIX_E_NO_DEVICE,
                "cfg->device is RADIX_DEV_CUDA: the CUDA runtime finds no device or no driver");
  }
  if (c.device_index < 0 || c.device_index >= count) {
    return fail(RADIX_E_NO_DEVICE, "cfg->device_index is %d: expected 0..%d", c.device_index,
                count - 1);
  }
  if (c.num_threads > 1 || c.executor != nullptr) {
    return fail(RADIX_E_INVALID, "cfg->%s is given: expected none on CUDA",
                c.executor != nullptr ? "executor" : "num_threads");
  }
  return RADIX_OK;
}

radix_status check_device(const radix_config& c) {
  radix_status st = one_of("cfg->device", c.device, RADIX_DEV_HIP, "RADIX_DEV_*");
  if (st != RADIX_OK) return st;
  if (c.device == RADIX_DEV_HIP) {
    return fail(RADIX_E_UNSUPPORTED,
                "cfg->device is RADIX_DEV_HIP: this library has no HIP kernels");
  }
  if (c.device == RADIX_DEV_CUDA) return check_cuda_device(c);
  if (c.device_index != 0) {
    return fail(RADIX_E_INVALID, "cfg->device_index is %d: expected 0 on the CPU", c.device_index);
  }
  if (c.device_alloc != nullptr) {
    return fail(RADIX_E_INVALID, "cfg->device_alloc is given: expected NULL on the CPU");
  }
  return RADIX_OK;
}

radix_status check_choices(const radix_config& c) {
  radix_status st = one_of("cfg->kv_layout", c.kv_layout, RADIX_LAYOUT_HND, "RADIX_LAYOUT_*");
  if (st == RADIX_OK) {
    st = one_of("cfg->evict_policy", c.evict_policy, RADIX_EVICT_NONE, "RADIX_EVICT_*");
  }
  if (st == RADIX_OK) st = one_of("cfg->cpu_target", c.cpu_target, RADIX_CPU_NEON, "RADIX_CPU_*");
  if (st == RADIX_OK) st = one_of("cfg->log_level", c.log_level, RADIX_LOG_DEBUG, "RADIX_LOG_*");
  if (st == RADIX_OK) st = one_of("cfg->kv_dtype", c.kv_dtype, RADIX_U8, "RADIX_F32, F16 or BF16");
  if (st != RADIX_OK) return st;
  const bool cuda = c.device == RADIX_DEV_CUDA;
  if (element_bytes(c.kv_dtype) == 0 || (is_fp8(c.kv_dtype) && !cuda)) {
    return fail(RADIX_E_UNSUPPORTED, "cfg->kv_dtype is %d: expected RADIX_F32, F16 or BF16%s",
                c.kv_dtype, cuda ? ", F8_E4M3 or F8_E5M2" : " on the CPU");
  }
  if (select_kernels(c.cpu_target) == nullptr) {
    return fail(RADIX_E_UNSUPPORTED,
                "cfg->cpu_target is %d: this build or machine has no such kernels", c.cpu_target);
  }
  return RADIX_OK;
}

// Layers, heads, head dims; in METADATA_ONLY they may be 0.
radix_status check_shape(const radix_config& c) {
  const bool free_shape = (c.flags & RADIX_CTX_METADATA_ONLY) != 0;
  radix_status st = in_range("cfg->block_size", c.block_size, 1, 256);
  if (st == RADIX_OK)
    st = in_range("cfg->num_layers", c.num_layers, free_shape ? 0 : 1, (1u << 16) - 1);
  if (st == RADIX_OK) {
    st = in_range("cfg->num_kv_heads", c.num_kv_heads, free_shape ? 0 : 1, kMaxHeads);
  }
  if (st == RADIX_OK && !(free_shape && c.head_dim == 0))
    st = check_head_dim("cfg->head_dim", c.head_dim);
  if (st == RADIX_OK && !(free_shape && c.head_dim_v == 0)) {
    st = check_head_dim("cfg->head_dim_v", c.head_dim_v);
  }
  return st;
}

radix_status check_tables(const radix_config& c) {
  radix_status st = in_range("cfg->max_requests", c.max_requests, 1, kMaxObjects);
  if (st == RADIX_OK) st = in_range("cfg->max_pins", c.max_pins, 1, kMaxObjects);
  if (st == RADIX_OK) st = in_range("cfg->max_namespaces", c.max_namespaces, 1, kMaxObjects);
  if (st == RADIX_OK) {
    st = in_range("cfg->max_blocks_per_request", c.max_blocks_per_request, 1, kMaxBlocks);
  }
  return st;
}

radix_status check_threads(const radix_config& c) {
  const radix_status st = in_range("cfg->num_threads", c.num_threads, 0, kMaxWorkers);
  if (st != RADIX_OK) return st;
  if (c.num_threads > 1 && c.executor != nullptr) {
    return fail(RADIX_E_INVALID, "cfg->num_threads is %u with an executor: expected one of them",
                c.num_threads);
  }
  return RADIX_OK;
}

// num_blocks from the budget when it is 0.
radix_status resolve_blocks(radix_config* c) {
  if (c->num_blocks == 0) {
    radix_config one = *c;
    one.num_blocks = 1;
    KvLayout layout;
    const radix_status st = kv_layout_of(one, &layout);
    if (st != RADIX_OK) return st;
    if (c->memory_budget == 0 || layout.total_bytes == 0) {
      return fail(RADIX_E_INVALID,
                  "cfg->num_blocks is 0 and memory_budget is %" PRIu64
                  ": expected one of them, and a shape with a budget",
                  c->memory_budget);
    }
    // Without the padding behind each K and V: an upper bound, at most a block or two too high.
    const uint64_t block = (layout.k_block_bytes + layout.v_block_bytes) * c->num_layers;
    const uint64_t budget = c->memory_budget < SIZE_MAX / 2 ? c->memory_budget : SIZE_MAX / 2;
    uint64_t blocks = budget / block;
    if (blocks > kMaxBlocks) blocks = kMaxBlocks;
    for (; blocks > 0; --blocks) {
      one.num_blocks = static_cast<uint32_t>(blocks);
      if (kv_layout_of(one, &layout) == RADIX_OK && layout.total_bytes <= c->memory_budget) break;
    }
    if (blocks == 0) {
      return fail(RADIX_E_INVALID,
                  "cfg->memory_budget is %" PRIu64 ": one block takes %" PRIu64 " bytes",
                  c->memory_budget, block);
    }
    c->num_blocks = static_cast<uint32_t>(blocks);
  }
  return in_range("cfg->num_blocks", c->num_blocks, 1, kMaxBlocks);
}

radix_status check_kv_memory(const radix_config& c) {
  if (c.kv_memory == nullptr) {
    if (c.kv_memory_size == 0) return RADIX_OK;
    return fail(RADIX_E_INVALID, "cfg->kv_memory_size is %" PRIu64 " and kv_memory is NULL",
                c.kv_memory_size);
  }
  if ((c.flags & RADIX_CTX_METADATA_ONLY) != 0) {
    return fail(RADIX_E_INVALID,
                "cfg->kv_memory is given with RADIX_CTX_METADATA_ONLY: expected NULL");
  }
  if (reinterpret_cast<uintptr_t>(c.kv_memory) % kAlign != 0) {
    return fail(RADIX_E_INVALID, "cfg->kv_memory is %p: expected a multiple of 64", c.kv_memory);
  }
  KvLayout layout;
  const radix_status st = kv_layout_of(c, &layout);
  if (st != RADIX_OK) return st;
  if (c.kv_memory_size < layout.total_bytes) {
    return fail(RADIX_E_INVALID,
                "cfg->kv_memory_size is %" PRIu64 ": %u blocks need %" PRIu64 " bytes",
                c.kv_memory_size, c.num_blocks, layout.total_bytes);
  }
  if (layout.total_bytes > UINTPTR_MAX - reinterpret_cast<uintptr_t>(c.kv_memory)) {
    return fail(RADIX_E_INVALID,
                "cfg->kv_memory is %p: the %" PRIu64 " bytes needed pass the end of memory",
                c.kv_memory, layout.total_bytes);
  }
  return RADIX_OK;
}

}  // namespace

uint64_t element_bytes(int32_t dtype) {
  if (dtype == RADIX_F32) return 4;
  if (is_fp8(dtype)) return 1;
  return dtype == RADIX_F16 || dtype == RADIX_BF16 ? 2 : 0;
}

bool is_fp8(int32_t dtype) { return dtype == RADIX_F8_E4M3 || dtype == RADIX_F8_E5M2; }

radix_status kv_layout_of(const radix_config& c, KvLayout* out) {
  const auto round_up = [](uint64_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; };
  // Below 2^30 * 2^8 * 2^16 * 2^8 * 2^2 = 2^64: checked step by step.
  const uint64_t rows = uint64_t{c.block_size} * c.num_kv_heads * element_bytes(c.kv_dtype);
  out->k_block_bytes = rows * c.head_dim;
  out->v_block_bytes = rows * c.head_dim_v;
  uint64_t k_bytes = 0, v_bytes = 0;
  bool over = __builtin_mul_overflow(out->k_block_bytes, c.num_blocks, &k_bytes) ||
              __builtin_mul_overflow(out->v_block_bytes, c.num_blocks, &v_bytes) ||
              k_bytes > UINT64_MAX / 4 || v_bytes > UINT64_MAX / 4;
  if (!over) {
    out->v_offset_bytes = round_up(k_bytes);
    out->layer_bytes = out->v_offset_bytes + round_up(v_bytes);
    over = __builtin_mul_overflow(out->layer_bytes, c.num_layers, &out->total_bytes) ||
           out->total_bytes > SIZE_MAX / 2;
  }
  if (!over) return RADIX_OK;
  return fail(RADIX_E_INVALID,
              "KV memory of %u blocks of %" PRIu64 " bytes in %u layers passes 2^63 bytes",
              c.num_blocks, out->k_block_bytes + out->v_block_bytes, c.num_layers);
}

radix_status resolve_config(const radix_config& given, radix_config* out) {
  radix_config c = given;
  radix_status st = check_words(c);
  if (st == RADIX_OK) st = check_device(c);
  if (st != RADIX_OK) return st;
  if (c.device == RADIX_DEV_AUTO) c.device = RADIX_DEV_CPU;
  if (c.kv_dtype == RADIX_DT_DEFAULT) c.kv_dtype = RADIX_F16;
  set_default(&c.block_size, 16);
  set_default(&c.head_dim_v, c.head_dim);
  set_default(&c.max_requests, 1024);
  set_default(&c.max_pins, 64);
  set_default(&c.max_namespaces, 64);
  st = check_choices(c);
  if (st == RADIX_OK) st = check_shape(c);
  if (st == RADIX_OK) st = resolve_blocks(&c);
  if (st != RADIX_OK) return st;
  set_default(&c.max_blocks_per_request, c.num_blocks);
  KvLayout layout;
  st = kv_layout_of(c, &layout);
  if (st == RADIX_OK) st = check_tables(c);
  if (st == RADIX_OK) st = check_threads(c);
  if (st == RADIX_OK) st = check_kv_memory(c);
  if (st != RADIX_OK) return st;
  set_default(&c.num_threads, 1);
  c.cpu_target = select_kernels(c.cpu_target)->target;
  *out = c;
  return RADIX_OK;
}

}  // namespace radixattn
