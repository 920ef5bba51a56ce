// Copies of whole and partial blocks, within the K/V memory and to and from host images.
//
// All layers of a block move together. Block ids are checked first: a call that fails has written
// nothing. Layers are independent and shared out among the executor's workers; within a layer
// everything happens in the order of the arguments, so that a later pair reads what an earlier one
// wrote.
// Thread rule: any number of calls at a time on blocks that do not overlap.
#pragma once

#include <cstdint>

#include "backend/backend.h"

namespace radixattn {

class Executor;

// dst <- src for each of the n pairs {src, dst}, in order.
radix_status cpu_copy_blocks(const KvBlocks& kv, const int32_t* pairs, uint32_t n,
                             Executor& executor);

// The first num_tokens tokens of src to dst; the whole block when the layout does not keep tokens
// together (token_chunk_bytes_* = 0).
radix_status cpu_copy_tokens(const KvBlocks& kv, int32_t src, int32_t dst, uint32_t num_tokens,
                             Executor& executor);

// Zeroes every layer of n blocks.
radix_status cpu_zero_blocks(const KvBlocks& kv, const int32_t* blocks, uint32_t n,
                             Executor& executor);

// Host image: for each of the n blocks, for each layer, K then V.
//   host  // [n, num_layers, k_block_bytes + v_block_bytes] bytes
radix_status cpu_swap_out(const KvBlocks& kv, const int32_t* blocks, uint32_t n, void* host,
                          Executor& executor);
radix_status cpu_swap_in(const KvBlocks& kv, const int32_t* blocks, uint32_t n, const void* host,
                         Executor& executor);

}  // namespace radixattn
