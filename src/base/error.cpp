#include "base/error.h"

#include <cstdarg>
#include <cstdio>

namespace radixattn {
namespace {

constexpr size_t kMessageSize = 512;
thread_local char t_message[kMessageSize] = {0};
thread_local int32_t t_native = 0;

void set_message(int32_t native, const char* format, va_list args) {
  std::vsnprintf(t_message, kMessageSize, format, args);
  t_native = native;
}

}  // namespace

radix_status fail(radix_status code, const char* format, ...) {
  va_list args;
  va_start(args, format);
  set_message(0, format, args);
  va_end(args);
  return code;
}

radix_status fail_native(radix_status code, int32_t native, const char* format, ...) {
  va_list args;
  va_start(args, format);
  set_message(native, format, args);
  va_end(args);
  return code;
}

const char* last_message() { return t_message; }
int32_t last_native() { return t_native; }

}  // namespace radixattn
