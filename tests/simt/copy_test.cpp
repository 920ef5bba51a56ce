// The CUDA copies and zeroes: every byte that should move has, and no other one.
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "attention_launchers.h"
#include "support/rng.h"

namespace radixattn::test {
namespace {

struct Pool {
  KvBlocks kv;
  std::vector<uint8_t> bytes;
};

// `odd` sizes are multiples of their element only, and so is the base.
Pool make_pool(uint64_t token_k, uint64_t token_v, bool hnd, bool odd) {
  Pool pool;
  KvBlocks& kv = pool.kv;
  kv.num_layers = 3;
  kv.num_blocks = 7;
  kv.block_size = 4;
  kv.k_block_bytes = token_k * kv.block_size;
  kv.v_block_bytes = token_v * kv.block_size;
  const uint64_t gap = odd ? 5 : 64;
  kv.v_offset_bytes = kv.k_block_bytes * kv.num_blocks + gap;
  kv.layer_bytes = kv.v_offset_bytes + kv.v_block_bytes * kv.num_blocks + gap;
  kv.token_chunk_bytes_k = hnd ? 0 : token_k;
  kv.token_chunk_bytes_v = hnd ? 0 : token_v;
  pool.bytes.resize(kv.layer_bytes * kv.num_layers + 64);
  Rng rng(3);
  for (uint8_t& b : pool.bytes) b = static_cast<uint8_t>(rng.next());
  const auto at = reinterpret_cast<uintptr_t>(pool.bytes.data());
  kv.base = reinterpret_cast<char*>(pool.bytes.data()) + (odd ? 1 : (16 - at % 16) % 16);
  return pool;
}

// What the launch means, byte by byte.
void copy_plainly(const KvBlocks& kv, std::vector<uint8_t>* bytes, const uint8_t* origin,
                  int32_t src, int32_t dst, uint32_t tokens) {
  for (uint32_t layer = 0; layer < kv.num_layers; ++layer) {
    for (const bool v : {false, true}) {
      const uint64_t block = v ? kv.v_block_bytes : kv.k_block_bytes;
      const uint64_t token = v ? kv.token_chunk_bytes_v : kv.token_chunk_bytes_k;
      const uint64_t n = token != 0 && tokens < kv.block_size ? token * tokens : block;
      const auto base = static_cast<uint64_t>(reinterpret_cast<uint8_t*>(kv.base) - origin) +
                        layer * kv.layer_bytes + (v ? kv.v_offset_bytes : 0);
      uint8_t* to = bytes->data() + base + static_cast<uint64_t>(dst) * block;
      if (src < 0) {
        std::memset(to, 0, n);
      } else {
        std::memcpy(to, bytes->data() + base + static_cast<uint64_t>(src) * block, n);
      }
    }
  }
}

TEST(CudaCopy, WholeBlocksAndFirstTokensOfEveryLayer) {
  for (const bool odd : {false, true}) {
    for (const bool hnd : {false, true}) {
      for (const uint64_t token_k : {uint64_t{16}, uint64_t{48}, uint64_t{2112}}) {
        for (const uint32_t tokens : {1u, 3u, 4u}) {
          Pool pool = make_pool(odd ? token_k + 2 : token_k, odd ? 6 : 32, hnd, odd);
          std::vector<uint8_t> expected = pool.bytes;
          cuda::CopyBatch batch;
          batch.num_pairs = 3;
          batch.num_tokens = tokens;
          const int32_t pairs[] = {0, 5, 3, 6, 1, 2};
          std::memcpy(batch.pairs, pairs, sizeof pairs);
          ASSERT_EQ(copy_on_device(pool.kv, batch), RADIX_OK) << last_message();
          for (int i = 0; i < 3; ++i)
            copy_plainly(pool.kv, &expected, pool.bytes.data(), pairs[2 * i], pairs[2 * i + 1],
                         tokens);
          EXPECT_TRUE(pool.bytes == expected) << token_k << " odd " << odd << " hnd " << hnd;
        }
      }
    }
  }
}

TEST(CudaCopy, ZeroesWholeBlocks) {
  for (const bool odd : {false, true}) {
    Pool pool = make_pool(odd ? 50 : 48, 32, false, odd);
    std::vector<uint8_t> expected = pool.bytes;
    cuda::ZeroBatch batch;
    batch.num_blocks = 2;
    batch.blocks[0] = 6;
    batch.blocks[1] = 0;
    ASSERT_EQ(zero_on_device(pool.kv, batch), RADIX_OK) << last_message();
    for (const int32_t b : {6, 0})
      copy_plainly(pool.kv, &expected, pool.bytes.data(), -1, b, pool.kv.block_size);
    EXPECT_TRUE(pool.bytes == expected);
  }
}

TEST(CudaCopy, BlocksThatDoNotExistStayWhereTheyAre) {
  Pool pool = make_pool(48, 32, false, false);
  const std::vector<uint8_t> before = pool.bytes;
  cuda::CopyBatch batch;
  batch.num_pairs = 4;
  batch.num_tokens = 4;
  const int32_t pairs[] = {-1, 2, 2, 7, INT32_MAX, 0, 0, INT32_MIN};
  std::memcpy(batch.pairs, pairs, sizeof pairs);
  ASSERT_EQ(copy_on_device(pool.kv, batch), RADIX_OK) << last_message();
  cuda::ZeroBatch zero;
  zero.num_blocks = 2;
  zero.blocks[0] = -1;
  zero.blocks[1] = 7;
  ASSERT_EQ(zero_on_device(pool.kv, zero), RADIX_OK) << last_message();
  EXPECT_TRUE(pool.bytes == before);
}

}  // namespace
}  // namespace radixattn::test
