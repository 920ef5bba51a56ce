// Calls of the C API that end the program when they fail, and a context that is destroyed with its
// owner.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <memory>

#include "radixattn.h"

namespace bench {

inline void check(radix_status st, const char* what) {
  if (st == RADIX_OK) return;
  char message[512];
  radix_last_error(message, sizeof message);
  std::fprintf(stderr, "%s: %s: %s\n", what, radix_status_name(st), message);
  std::exit(1);
}

struct Destroy {
  void operator()(radix_ctx* ctx) const { radix_ctx_destroy(&ctx); }
};
using Context = std::unique_ptr<radix_ctx, Destroy>;

}  // namespace bench
