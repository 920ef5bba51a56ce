// The message of the last failure on this thread, and the one way to fail.
//
// A thread-local char array (not a std::string: its destructor would pin the library in memory for
// ever). Nothing is printed. Thread rule: each thread sees only its own message.
#pragma once

#include <cstddef>
#include <cstdint>

#include "radixattn.h"

namespace radixattn {

// Sets this thread's message (printf style, cut at 511 bytes) and returns `code`. A message names
// the argument, its value and what was expected: fail(RADIX_E_INVALID, "block_size is %u:
// expected 1..256", n).
radix_status fail(radix_status code, const char* format, ...) __attribute__((format(printf, 2, 3)));

// As fail, and remembers a native error code (errno, cudaError_t) for radix_error_detail.
radix_status fail_native(radix_status code, int32_t native, const char* format, ...)
    __attribute__((format(printf, 3, 4)));

const char* last_message();  // "" when nothing failed yet
int32_t last_native();

}  // namespace radixattn
