// How this example fails: one exception with a message a person can act on.
//
// The library below it is C and returns codes; check() turns a code into the exception.
// main.cpp catches, prints, and exits 1.
#pragma once

#include <stdexcept>
#include <string>

#include "radixattn.h"

namespace npc {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Throws when a call of the library failed: "radix_append_slot: RADIX_E_INVALID: <the library's
// message>".
void check(radix_status status, const char* call);

}  // namespace npc
