// Copies and zeroes of whole blocks (or their first tokens), all layers at once: what
// copy-on-write, beam search and defragmentation want.
//
// Work split. A block of threads has one pair of blocks, one layer, and K or V; it moves the
// largest words that addresses and sizes allow. Which blocks travels in the launch's parameters, so
// nothing of the host's must outlive the call.
#include "cuda/kernels.h"
#include "cuda/simt/simt.h"

namespace radixattn::cuda {
namespace {

using namespace simt;

constexpr int kThreads = 256;

// Bytes of a block that take part, and where layer `layer`'s K (part 0) or V (part 1) begins.
struct Part {
  char* base;
  uint64_t block_bytes;  // from block to block
  uint64_t bytes;        // of each block to move
};

RADIX_DEVICE Part part_of(const KvBlocks& kv, uint32_t layer, uint32_t part, uint32_t num_tokens) {
  char* base = kv.base + layer * kv.layer_bytes + (part == 0 ? 0 : kv.v_offset_bytes);
  const uint64_t block = part == 0 ? kv.k_block_bytes : kv.v_block_bytes;
  const uint64_t token = part == 0 ? kv.token_chunk_bytes_k : kv.token_chunk_bytes_v;
  // HND: the tokens of a block lie between each other's heads, so all of it moves.
  return {base, block, token != 0 && num_tokens < kv.block_size ? token * num_tokens : block};
}

template <class Word>
RADIX_DEVICE void copy_words(const char* from, char* to, uint64_t bytes) {
  const auto* __restrict__ source = reinterpret_cast<const Word*>(from);
  auto* __restrict__ target = reinterpret_cast<Word*>(to);
  for (uint64_t i = threadIdx.x; i < bytes / sizeof(Word); i += kThreads) target[i] = source[i];
}

template <class Word>
RADIX_DEVICE void zero_words(char* to, uint64_t bytes) {
  auto* target = reinterpret_cast<Word*>(to);
  for (uint64_t i = threadIdx.x; i < bytes / sizeof(Word); i += kThreads) target[i] = Word{};
}

// grid (num_pairs, num_layers, 2)
template <class Word>
__global__ void __launch_bounds__(kThreads)
    copy_kernel(const __grid_constant__ KvBlocks kv, const __grid_constant__ CopyBatch batch) {
  const int32_t src = batch.pairs[2 * blockIdx.x], dst = batch.pairs[2 * blockIdx.x + 1];
  const auto exists = [&](int32_t b) { return b >= 0 && static_cast<uint32_t>(b) < kv.num_blocks; };
  if (!exists(src) || !exists(dst) || src == dst) return;
  const Part part = part_of(kv, blockIdx.y, blockIdx.z, batch.num_tokens);
  copy_words<Word>(part.base + src * part.block_bytes, part.base + dst * part.block_bytes,
                   part.bytes);
}

// grid (num_blocks, num_layers, 2)
template <class Word>
__global__ void __launch_bounds__(kThreads)
    zero_kernel(const __grid_constant__ KvBlocks kv, const __grid_constant__ ZeroBatch batch) {
  const int32_t block = batch.blocks[blockIdx.x];
  if (block < 0 || static_cast<uint32_t>(block) >= kv.num_blocks) return;
  const Part part = part_of(kv, blockIdx.y, blockIdx.z, kv.block_size);
  zero_words<Word>(part.base + block * part.block_bytes, part.bytes);
}

// The largest word that everything is a multiple of: 16, 4, 2 or 1 bytes.
uint32_t word_bytes(const KvBlocks& kv, bool whole_blocks) {
  uint64_t all = reinterpret_cast<uintptr_t>(kv.base) | kv.layer_bytes | kv.v_offset_bytes |
                 kv.k_block_bytes | kv.v_block_bytes;
  if (!whole_blocks) all |= kv.token_chunk_bytes_k | kv.token_chunk_bytes_v;
  return all % 16 == 0 ? 16 : all % 4 == 0 ? 4 : all % 2 == 0 ? 2 : 1;
}

}  // namespace

Error launch_copy_blocks(const KvBlocks& kv, const CopyBatch& batch, Stream stream) {
  if (batch.num_pairs == 0 || batch.num_tokens == 0) return 0;
  const dim3 grid(batch.num_pairs, kv.num_layers, 2), block(kThreads);
  switch (word_bytes(kv, batch.num_tokens >= kv.block_size)) {
    case 16:
      return RADIX_LAUNCH(copy_kernel<uint4>, grid, block, 0, stream, kv, batch);
    case 4:
      return RADIX_LAUNCH(copy_kernel<uint32_t>, grid, block, 0, stream, kv, batch);
    case 2:
      return RADIX_LAUNCH(copy_kernel<uint16_t>, grid, block, 0, stream, kv, batch);
    default:
      return RADIX_LAUNCH(copy_kernel<uint8_t>, grid, block, 0, stream, kv, batch);
  }
}

Error launch_zero_blocks(const KvBlocks& kv, const ZeroBatch& batch, Stream stream) {
  if (batch.num_blocks == 0) return 0;
  const dim3 grid(batch.num_blocks, kv.num_layers, 2), block(kThreads);
  switch (word_bytes(kv, true)) {
    case 16:
      return RADIX_LAUNCH(zero_kernel<uint4>, grid, block, 0, stream, kv, batch);
    case 4:
      return RADIX_LAUNCH(zero_kernel<uint32_t>, grid, block, 0, stream, kv, batch);
    case 2:
      return RADIX_LAUNCH(zero_kernel<uint16_t>, grid, block, 0, stream, kv, batch);
    default:
      return RADIX_LAUNCH(zero_kernel<uint8_t>, grid, block, 0, stream, kv, batch);
  }
}

}  // namespace radixattn::cuda
