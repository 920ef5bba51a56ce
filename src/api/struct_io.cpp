#include "api/struct_io.h"

#include <cstring>

#include "base/error.h"

namespace radixattn {
namespace {

constexpr uint32_t kMaxSize = 4096;  // a larger one is an uninitialised struct

uint32_t size_of(const void* caller_struct) {
  uint32_t size = 0;
  std::memcpy(&size, caller_struct, sizeof size);
  return size;
}

}  // namespace

radix_status check_out_bytes(const void* to, const char* name, const char* type) {
  if (to == nullptr) return fail(RADIX_E_INVALID, "%s is NULL: expected a %s", name, type);
  const uint32_t size = size_of(to);
  if (size < sizeof(uint32_t) || size > kMaxSize) {
    return fail(RADIX_E_VERSION, "%s->struct_size is %u: expected sizeof(%s)", name, size, type);
  }
  return RADIX_OK;
}

radix_status read_struct_bytes(const void* from, const char* name, const char* type, void* to,
                               uint32_t known) {
  const radix_status st = check_out_bytes(from, name, type);
  if (st != RADIX_OK) return st;
  const uint32_t size = size_of(from);
  const char* bytes = static_cast<const char*>(from);
  for (uint32_t i = known; i < size; ++i) {
    if (bytes[i] != 0) {
      return fail(RADIX_E_VERSION,
                  "%s has struct_size %u and byte %u set: this library knows %u bytes of %s", name,
                  size, i, known, type);
    }
  }
  const uint32_t given = size < known ? size : known;
  std::memset(to, 0, known);
  std::memcpy(to, from, given);
  std::memcpy(to, &known, sizeof known);
  return RADIX_OK;
}

void write_struct_bytes(const void* from, void* to, uint32_t known) {
  const uint32_t size = size_of(to);
  const uint32_t given = size < known ? size : known;
  constexpr uint32_t kHead = sizeof(uint32_t);
  std::memcpy(static_cast<char*>(to) + kHead, static_cast<const char*>(from) + kHead,
              given - kHead);
}

}  // namespace radixattn
