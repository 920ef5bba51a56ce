// The checks of an attention launch that need a look at array contents, and the arithmetic of a
// workspace.
#pragma once

#include <cstdint>

#include "backend/backend.h"

namespace radixattn {

// Lengths lie in range, tables are long enough, and every block id that the launch will use is in
// [0, num_blocks). Blocks before the window are never looked at. Sets the message that names
// sequence, index and value.
radix_status check_attention(const AttentionParams& p);

// Hands out 64-byte aligned pieces of a workspace; with a null base it only counts.
class Carver {
 public:
  explicit Carver(void* base) : base_(static_cast<char*>(base)) {}

  void* take(uint64_t bytes) {
    void* at = base_ != nullptr ? base_ + used_ : nullptr;
    used_ += (bytes + 63) / 64 * 64;
    return at;
  }
  uint64_t used() const { return used_; }

 private:
  char* base_;
  uint64_t used_ = 0;
};

}  // namespace radixattn
