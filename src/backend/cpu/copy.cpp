#include "backend/cpu/copy.h"

#include <cstring>

#include "backend/block_check.h"
#include "base/executor.h"

namespace radixattn {
namespace {

// Below this many bytes in all, waking a thread costs more than it saves (10 GB/s: 25 us).
constexpr uint64_t kMinParallelBytes = 256 * 1024;

char* k_of(const KvBlocks& kv, uint32_t layer, int32_t block) {
  return kv.base + layer * kv.layer_bytes + static_cast<uint64_t>(block) * kv.k_block_bytes;
}

char* v_of(const KvBlocks& kv, uint32_t layer, int32_t block) {
  return kv.base + layer * kv.layer_bytes + kv.v_offset_bytes +
         static_cast<uint64_t>(block) * kv.v_block_bytes;
}

// Runs task(arg, layer) for every layer, on several threads when `bytes` are worth it.
void for_each_layer(const KvBlocks& kv, uint64_t bytes, radix_task_fn task, void* arg,
                    const Executor& executor) {
  if (bytes >= kMinParallelBytes) return executor.parallel_for(kv.num_layers, task, arg);
  for (uint32_t layer = 0; layer < kv.num_layers; ++layer) task(arg, layer);
}

uint64_t image_bytes(const KvBlocks& kv) { return kv.k_block_bytes + kv.v_block_bytes; }

// ---- block to block -----------------------------------------------------------------------------

struct BlockCopies {
  const KvBlocks& kv;
  const int32_t* pairs;
  uint32_t n;
};

// How many pairs from `first` on are one move: src and dst both rise by one, and no pair of the run
// reads what an earlier one wrote. (Runs that move down may overlap: memmove keeps their meaning.)
uint32_t run_length(const BlockCopies& c, uint32_t first) {
  const int64_t src = c.pairs[2 * size_t{first}], dst = c.pairs[2 * size_t{first} + 1];
  const int64_t limit = dst > src ? dst - src : int64_t{c.n};
  uint32_t length = 1;
  while (first + length < c.n && length < limit &&
         c.pairs[2 * (size_t{first} + length)] == src + length &&
         c.pairs[2 * (size_t{first} + length) + 1] == dst + length) {
    ++length;
  }
  return length;
}

void RADIX_CALL copy_layer(void* arg, uint32_t layer) {
  const BlockCopies& c = *static_cast<const BlockCopies*>(arg);
  uint32_t length = 0;
  for (uint32_t i = 0; i < c.n; i += length) {
    length = run_length(c, i);
    const int32_t src = c.pairs[2 * size_t{i}], dst = c.pairs[2 * size_t{i} + 1];
    if (src == dst) continue;
    std::memmove(k_of(c.kv, layer, dst), k_of(c.kv, layer, src), length * c.kv.k_block_bytes);
    std::memmove(v_of(c.kv, layer, dst), v_of(c.kv, layer, src), length * c.kv.v_block_bytes);
  }
}

struct TokenCopy {
  const KvBlocks& kv;
  int32_t src, dst;
  uint64_t k_bytes, v_bytes;
};

void RADIX_CALL copy_tokens_of_layer(void* arg, uint32_t layer) {
  const TokenCopy& c = *static_cast<const TokenCopy*>(arg);
  std::memcpy(k_of(c.kv, layer, c.dst), k_of(c.kv, layer, c.src), c.k_bytes);
  std::memcpy(v_of(c.kv, layer, c.dst), v_of(c.kv, layer, c.src), c.v_bytes);
}

// ---- host images --------------------------------------------------------------------------------

struct Swap {
  const KvBlocks& kv;
  const int32_t* blocks;
  uint32_t n;
  char* to_host;
  const char* from_host;
};

uint64_t image_offset(const KvBlocks& kv, uint32_t index, uint32_t layer) {
  return (uint64_t{index} * kv.num_layers + layer) * image_bytes(kv);
}

void RADIX_CALL swap_out_layer(void* arg, uint32_t layer) {
  const Swap& s = *static_cast<const Swap*>(arg);
  for (uint32_t i = 0; i < s.n; ++i) {
    char* to = s.to_host + image_offset(s.kv, i, layer);
    std::memcpy(to, k_of(s.kv, layer, s.blocks[i]), s.kv.k_block_bytes);
    std::memcpy(to + s.kv.k_block_bytes, v_of(s.kv, layer, s.blocks[i]), s.kv.v_block_bytes);
  }
}

void RADIX_CALL swap_in_layer(void* arg, uint32_t layer) {
  const Swap& s = *static_cast<const Swap*>(arg);
  for (uint32_t i = 0; i < s.n; ++i) {
    const char* from = s.from_host + image_offset(s.kv, i, layer);
    std::memcpy(k_of(s.kv, layer, s.blocks[i]), from, s.kv.k_block_bytes);
    std::memcpy(v_of(s.kv, layer, s.blocks[i]), from + s.kv.k_block_bytes, s.kv.v_block_bytes);
  }
}

struct Zeroes {
  const KvBlocks& kv;
  const int32_t* blocks;
  uint32_t n;
};

void RADIX_CALL zero_layer(void* arg, uint32_t layer) {
  const Zeroes& z = *static_cast<const Zeroes*>(arg);
  for (uint32_t i = 0; i < z.n; ++i) {
    std::memset(k_of(z.kv, layer, z.blocks[i]), 0, z.kv.k_block_bytes);
    std::memset(v_of(z.kv, layer, z.blocks[i]), 0, z.kv.v_block_bytes);
  }
}

uint64_t total_bytes(const KvBlocks& kv, uint64_t blocks) {
  return blocks * kv.num_layers * image_bytes(kv);
}

}  // namespace

radix_status cpu_copy_blocks(const KvBlocks& kv, const int32_t* pairs, uint32_t n,
                             Executor& executor) {
  if (const radix_status st = check_pairs(kv, pairs, n); st != RADIX_OK) return st;
  BlockCopies copies = {kv, pairs, n};
  for_each_layer(kv, total_bytes(kv, n), copy_layer, &copies, executor);
  return RADIX_OK;
}

radix_status cpu_copy_tokens(const KvBlocks& kv, int32_t src, int32_t dst, uint32_t num_tokens,
                             Executor& executor) {
  const radix_status st = check_token_copy(kv, src, dst, num_tokens);
  if (st != RADIX_OK) return st;
  if (num_tokens == 0 || src == dst) return RADIX_OK;
  TokenCopy copy = {kv, src, dst, kv.k_block_bytes, kv.v_block_bytes};
  if (kv.token_chunk_bytes_k != 0) copy.k_bytes = num_tokens * kv.token_chunk_bytes_k;
  if (kv.token_chunk_bytes_v != 0) copy.v_bytes = num_tokens * kv.token_chunk_bytes_v;
  for_each_layer(kv, total_bytes(kv, 1), copy_tokens_of_layer, &copy, executor);
  return RADIX_OK;
}

radix_status cpu_zero_blocks(const KvBlocks& kv, const int32_t* blocks, uint32_t n,
                             Executor& executor) {
  if (const radix_status st = check_blocks(kv, blocks, n); st != RADIX_OK) return st;
  Zeroes zeroes = {kv, blocks, n};
  for_each_layer(kv, total_bytes(kv, n), zero_layer, &zeroes, executor);
  return RADIX_OK;
}

radix_status cpu_swap_out(const KvBlocks& kv, const int32_t* blocks, uint32_t n, void* host,
                          Executor& executor) {
  if (const radix_status st = check_blocks(kv, blocks, n); st != RADIX_OK) return st;
  Swap swap = {kv, blocks, n, static_cast<char*>(host), nullptr};
  for_each_layer(kv, total_bytes(kv, n), swap_out_layer, &swap, executor);
  return RADIX_OK;
}

radix_status cpu_swap_in(const KvBlocks& kv, const int32_t* blocks, uint32_t n, const void* host,
                         Executor& executor) {
  if (const radix_status st = check_blocks(kv, blocks, n); st != RADIX_OK) return st;
  Swap swap = {kv, blocks, n, nullptr, static_cast<const char*>(host)};
  for_each_layer(kv, total_bytes(kv, n), swap_in_layer, &swap, executor);
  return RADIX_OK;
}

}  // namespace radixattn
