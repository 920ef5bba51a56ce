// Version, names, errors, sizes: what needs no context.
#include <cstring>

#include "backend/device/cuda.h"
#include "base/error.h"
#include "radixattn.h"

using radixattn::fail;

#define RADIX_TEXT_OF(x) #x
#define RADIX_TEXT(x) RADIX_TEXT_OF(x)
#define RADIX_VERSION_TEXT            \
  RADIX_TEXT(RADIXATTN_VERSION_MAJOR) \
  "." RADIX_TEXT(RADIXATTN_VERSION_MINOR) "." RADIX_TEXT(RADIXATTN_VERSION_PATCH)

#if defined(__clang__)
#define RADIX_COMPILER "clang " __clang_version__
#elif defined(__GNUC__)
#define RADIX_COMPILER "gcc " __VERSION__
#else
#define RADIX_COMPILER "unknown compiler"
#endif
#if defined(RADIXATTN_CUDA_ARCHS)
#define RADIX_CUDA_TEXT RADIXATTN_CUDA_ARCHS
#else
#define RADIX_CUDA_TEXT "no"
#endif
#if defined(NDEBUG)
#define RADIX_ASSERTS "off"
#else
#define RADIX_ASSERTS "on"
#endif

namespace {

struct NamedSize {
  const char* name;
  size_t size;
};
#define RADIX_SIZE(type) \
  { #type, sizeof(type) }
constexpr NamedSize kSizes[] = {
    RADIX_SIZE(radix_allocator),    RADIX_SIZE(radix_executor),     RADIX_SIZE(radix_tensor),
    RADIX_SIZE(radix_config),       RADIX_SIZE(radix_request_desc), RADIX_SIZE(radix_match),
    RADIX_SIZE(radix_request_info), RADIX_SIZE(radix_op),           RADIX_SIZE(radix_append),
    RADIX_SIZE(radix_append_out),   RADIX_SIZE(radix_commit_item),  RADIX_SIZE(radix_remap),
    RADIX_SIZE(radix_commit_out),   RADIX_SIZE(radix_stats),        RADIX_SIZE(radix_ns_info),
    RADIX_SIZE(radix_attn),         RADIX_SIZE(radix_rope_append),  RADIX_SIZE(radix_plan_config),
    RADIX_SIZE(radix_plan_desc),    RADIX_SIZE(radix_plan_info),    RADIX_SIZE(radix_tree_view),
    RADIX_SIZE(radix_match_batch),  RADIX_SIZE(radix_sample),       RADIX_SIZE(radix_verify),
    RADIX_SIZE(radix_gemm),         RADIX_SIZE(radix_layer)};
#undef RADIX_SIZE

}  // namespace

extern "C" {

uint32_t radix_version(void) RADIX_NOEXCEPT { return RADIXATTN_VERSION; }
const char* radix_version_string(void) RADIX_NOEXCEPT { return RADIX_VERSION_TEXT; }
uint32_t radix_abi(void) RADIX_NOEXCEPT { return RADIXATTN_ABI; }

const char* radix_build_info(void) RADIX_NOEXCEPT {
  return "radixattn " RADIX_VERSION_TEXT "; " RADIX_COMPILER
         "; cpu targets: " RADIXATTN_CPU_TARGET_LIST "; cuda: " RADIX_CUDA_TEXT
         "; assertions: " RADIX_ASSERTS;
}

const char* radix_status_name(radix_status st) RADIX_NOEXCEPT {
  switch (st) {
    case RADIX_OK:
      return "OK";
    case RADIX_E_INVALID:
      return "INVALID";
    case RADIX_E_VERSION:
      return "VERSION";
    case RADIX_E_NOMEM:
      return "NOMEM";
    case RADIX_E_NO_BLOCKS:
      return "NO_BLOCKS";
    case RADIX_E_BUFFER:
      return "BUFFER";
    case RADIX_E_STALE:
      return "STALE";
    case RADIX_E_STATE:
      return "STATE";
    case RADIX_E_UNSUPPORTED:
      return "UNSUPPORTED";
    case RADIX_E_NO_DEVICE:
      return "NO_DEVICE";
    case RADIX_E_DEVICE:
      return "DEVICE";
    case RADIX_E_DEVICE_LOST:
      return "DEVICE_LOST";
    case RADIX_E_IO:
      return "IO";
    case RADIX_E_CORRUPT:
      return "CORRUPT";
    case RADIX_E_MISMATCH:
      return "MISMATCH";
    case RADIX_E_CANCELLED:
      return "CANCELLED";
    case RADIX_E_QUOTA:
      return "QUOTA";
    case RADIX_E_BUSY:
      return "BUSY";
    case RADIX_E_CALLBACK:
      return "CALLBACK";
    case RADIX_E_FULL:
      return "FULL";
    case RADIX_E_INTERNAL:
      return "INTERNAL";
    default:
      return "unknown status";
  }
}

size_t radix_last_error(char* buf, size_t cap) RADIX_NOEXCEPT {
  const char* message = radixattn::last_message();
  const size_t len = std::strlen(message);
  if (buf != nullptr && cap > 0) {
    const size_t n = len < cap ? len : cap - 1;
    std::memcpy(buf, message, n);
    buf[n] = '\0';
  }
  return len;
}

int32_t radix_error_detail(void) RADIX_NOEXCEPT { return radixattn::last_native(); }

radix_status radix_device_count(int32_t device, int32_t* out_count) RADIX_NOEXCEPT {
  if (out_count == nullptr) return fail(RADIX_E_INVALID, "out_count is NULL");
  if (device < RADIX_DEV_AUTO || device > RADIX_DEV_HIP) {
    return fail(RADIX_E_INVALID, "device is %d: expected RADIX_DEV_*", device);
  }
  *out_count = device == RADIX_DEV_AUTO || device == RADIX_DEV_CPU ? 1 : 0;
  if (device == RADIX_DEV_CUDA) *out_count = radixattn::cuda_device_count();
  return RADIX_OK;
}

size_t radix_struct_size(const char* name) RADIX_NOEXCEPT {
  if (name == nullptr) return 0;
  for (const NamedSize& entry : kSizes) {
    if (std::strcmp(entry.name, name) == 0) return entry.size;
  }
  return 0;
}

}  // extern "C"
