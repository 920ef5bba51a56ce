// Checks of the block ids of copies and swaps, the same for every backend. INVALID names the
// argument.
#pragma once

#include "backend/backend.h"

namespace radixattn {

radix_status check_pairs(const KvBlocks& kv, const int32_t* pairs, uint32_t n);  // {src, dst} * n
radix_status check_token_copy(const KvBlocks& kv, int32_t src, int32_t dst, uint32_t num_tokens);
radix_status check_blocks(const KvBlocks& kv, const int32_t* blocks, uint32_t n);

}  // namespace radixattn
