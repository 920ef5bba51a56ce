// The CUDA copies and zeroes: every byte that should move has, and no other one.
#include <gtest/gtest.h>

#ifdef RADIX_SIMT_EMU
#include <sys/mman.h>
#endif

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

// ---- every word size, many blocks, any order ----------------------------------------------------

// Blocks of `word` times an odd number of bytes, from a base that is a multiple of `word` and of no
// more.
Pool make_words(uint64_t word, uint32_t blocks, uint32_t block_size, uint64_t token_k,
                uint64_t token_v, bool hnd) {
  Pool pool;
  KvBlocks& kv = pool.kv;
  kv.num_layers = 2;
  kv.num_blocks = blocks;
  kv.block_size = block_size;
  kv.k_block_bytes = word * token_k * block_size;
  kv.v_block_bytes = word * token_v * block_size;
  kv.v_offset_bytes = kv.k_block_bytes * blocks + 3 * word;
  kv.layer_bytes = kv.v_offset_bytes + kv.v_block_bytes * blocks + 5 * word;
  kv.token_chunk_bytes_k = hnd ? 0 : word * token_k;
  kv.token_chunk_bytes_v = hnd ? 0 : word * token_v;
  pool.bytes.resize(kv.layer_bytes * kv.num_layers + 64);
  Rng rng(5);
  for (uint8_t& b : pool.bytes) b = static_cast<uint8_t>(rng.next());
  const auto at = reinterpret_cast<uintptr_t>(pool.bytes.data());
  kv.base = reinterpret_cast<char*>(pool.bytes.data()) + (32 - at % 32) % 32 + word % 32;
  return pool;
}

// Launches on copies of the pool in that many schedules and compares with what `plainly` does to
// one.
template <class Launch, class Plainly>
void check(const Pool& original, int schedules, Launch launch, Plainly plainly) {
  const auto offset = reinterpret_cast<uint8_t*>(original.kv.base) - original.bytes.data();
  std::vector<uint8_t> expected = original.bytes;
  plainly(original.kv, &expected, original.bytes.data());
  for (int i = 0; i < schedules; ++i) {
    set_schedule(i);
    // As aligned as the original: std::vector's memory is a multiple of 16, some of it of 32.
    std::vector<uint8_t> memory(original.bytes.size() + 16);
    uint8_t* to = memory.data();
    const auto differs =
        (reinterpret_cast<uintptr_t>(to) ^ reinterpret_cast<uintptr_t>(original.bytes.data())) % 32;
    if (differs != 0) to += 16;
    std::memcpy(to, original.bytes.data(), original.bytes.size());
    KvBlocks kv = original.kv;
    kv.base = reinterpret_cast<char*>(to) + offset;
    EXPECT_EQ(launch(kv), RADIX_OK) << last_message();
    EXPECT_EQ(std::memcmp(to, expected.data(), expected.size()), 0) << "schedule " << i;
  }
  set_schedule(0);
}

// Pairs of blocks of which each is in one pair only, but for sources that several copy.
cuda::CopyBatch random_batch(Rng& rng, uint32_t blocks, uint32_t num_pairs) {
  std::vector<int32_t> ids(blocks);
  for (uint32_t i = 0; i < blocks; ++i) ids[i] = static_cast<int32_t>(i);
  for (uint32_t i = blocks; i > 1; --i) std::swap(ids[i - 1], ids[rng.below(i)]);
  cuda::CopyBatch batch;
  batch.num_pairs = num_pairs;
  for (uint32_t i = 0; i < num_pairs; ++i) {
    const uint32_t src = num_pairs + rng.below(blocks - num_pairs);
    batch.pairs[2 * i] = ids[src];
    batch.pairs[2 * i + 1] = ids[i];
  }
  return batch;
}

void check_copy(const Pool& pool, const cuda::CopyBatch& batch, int schedules = num_schedules()) {
  check(
      pool, schedules, [&](const KvBlocks& kv) { return copy_on_device(kv, batch); },
      [&](const KvBlocks& kv, std::vector<uint8_t>* bytes, const uint8_t* origin) {
        for (uint32_t i = 0; i < batch.num_pairs && batch.num_tokens != 0; ++i)
          copy_plainly(kv, bytes, origin, batch.pairs[2 * i], batch.pairs[2 * i + 1],
                       batch.num_tokens);
      });
}

void check_zero(const Pool& pool, const cuda::ZeroBatch& batch, int schedules = num_schedules()) {
  check(
      pool, schedules, [&](const KvBlocks& kv) { return zero_on_device(kv, batch); },
      [&](const KvBlocks& kv, std::vector<uint8_t>* bytes, const uint8_t* origin) {
        for (uint32_t i = 0; i < batch.num_blocks; ++i)
          copy_plainly(kv, bytes, origin, -1, batch.blocks[i], kv.block_size);
      });
}

TEST(CudaCopy, EveryWordBlockSizeAndLengthInEveryOrder) {
  for (const uint64_t word : {1u, 2u, 4u, 8u, 16u}) {
    for (const uint32_t block_size : {1u, 3u, 16u}) {
      for (const uint32_t tokens : {0u, 1u, block_size - 1, block_size, block_size + 1}) {
        SCOPED_TRACE(::testing::Message()
                     << "word " << word << " block " << block_size << " tokens " << tokens);
        const Pool pool = make_words(word, 7, block_size, 5, 3, false);
        Rng rng(word * 100 + block_size);
        cuda::CopyBatch batch = random_batch(rng, 7, 3);
        batch.num_tokens = tokens;
        check_copy(pool, batch);
      }
    }
    cuda::ZeroBatch zero;
    zero.num_blocks = 2;
    zero.blocks[0] = 6;
    zero.blocks[1] = 3;
    check_zero(make_words(word, 7, 3, 5, 3, false), zero);
  }
}

TEST(CudaCopy, MoreWordsThanThreads) {
  for (const uint64_t word : {1u, 4u, 16u}) {  // 4.1 and 3.1 rounds of 256 threads
    const Pool pool = make_words(word, 5, 3, 351, 267, false);
    Rng rng(7);
    cuda::CopyBatch batch = random_batch(rng, 5, 2);
    batch.num_tokens = 3;
    check_copy(pool, batch);
    batch.num_tokens = 2;
    check_copy(pool, batch);
    cuda::ZeroBatch zero;
    zero.num_blocks = 1;
    zero.blocks[0] = 1;
    check_zero(pool, zero);
  }
}

// A token of 72 bytes: whole blocks are multiples of 16, parts of them are not.
TEST(CudaCopy, PartsOfBlocksThatAreNoMultiplesOfSixteen) {
  Pool pool = make_words(8, 6, 16, 9, 9, false);
  KvBlocks& kv = pool.kv;
  kv.v_offset_bytes = kv.k_block_bytes * kv.num_blocks;
  kv.layer_bytes = 2 * kv.v_offset_bytes;
  kv.base -= 8;
  Rng rng(8);
  cuda::CopyBatch batch = random_batch(rng, 6, 2);
  for (const uint32_t tokens : {1u, 2u, 7u, 15u, 16u}) {
    batch.num_tokens = tokens;
    check_copy(pool, batch);
  }
}

// Every size is a multiple of 16. (UndefinedBehaviorSanitizer sees words that are too large.)
TEST(CudaCopy, BasesThatAreNoMultiplesOfSixteen) {
  for (const int64_t offset : {1, 2, 4, 8}) {
    Pool pool = make_words(16, 6, 4, 3, 1, false);
    pool.kv.base += offset;
    Rng rng(9);
    cuda::CopyBatch batch = random_batch(rng, 6, 2);
    for (const uint32_t tokens : {3u, 4u}) {
      batch.num_tokens = tokens;
      check_copy(pool, batch);
    }
    cuda::ZeroBatch zero;
    zero.num_blocks = 1;
    check_zero(pool, zero);
  }
}

// Of all that words must divide, one thing is no multiple of 16. (UndefinedBehaviorSanitizer sees
// the words that are too large where no byte is lost.)
TEST(CudaCopy, OneOddSizeIsEnoughForNarrowWords) {
  for (int odd = 0; odd < 6; ++odd) {
    Pool pool = make_words(16, 6, 5, 3, 1, false);  // with room for 4 bytes more a block
    KvBlocks& kv = pool.kv;
    kv.num_blocks = 4;
    kv.block_size = 4;
    kv.base -= 16;
    uint64_t* const sizes[] = {&kv.layer_bytes,   &kv.v_offset_bytes,      &kv.k_block_bytes,
                               &kv.v_block_bytes, &kv.token_chunk_bytes_k, &kv.token_chunk_bytes_v};
    *sizes[odd] -= 4;
    Rng rng(9);
    cuda::CopyBatch batch = random_batch(rng, 4, 2);
    for (const uint32_t tokens : {1u, 3u, 4u}) {
      batch.num_tokens = tokens;
      SCOPED_TRACE(::testing::Message() << "size " << odd << ", " << tokens << " tokens");
      check_copy(pool, batch);
    }
    cuda::ZeroBatch zero;
    zero.num_blocks = 1;
    zero.blocks[0] = 3;
    check_zero(pool, zero);
  }
}

TEST(CudaCopy, FullBatches) {
  const uint32_t blocks = 2 * cuda::CopyBatch::kMaxPairs;
  Pool pool = make_words(4, blocks, 1, 1, 3, true);
  pool.kv.num_layers = 1;
  Rng rng(6);
  cuda::CopyBatch batch = random_batch(rng, blocks, cuda::CopyBatch::kMaxPairs);
  batch.num_tokens = 1;
  check_copy(pool, batch, 1);
  cuda::ZeroBatch zero;
  zero.num_blocks = cuda::ZeroBatch::kMaxBlocks;
  for (uint32_t i = 0; i < zero.num_blocks; ++i) zero.blocks[i] = static_cast<int32_t>(i);
  check_zero(pool, zero, 1);
}

TEST(CudaCopy, OntoItselfChangesNothing) {
  const Pool pool = make_words(16, 4, 2, 3, 1, false);
  cuda::CopyBatch batch;
  batch.num_pairs = 1;
  batch.num_tokens = 2;
  batch.pairs[0] = batch.pairs[1] = 2;
  check_copy(pool, batch);
}

TEST(CudaCopy, RandomBatches) {
  for_random_cases("cuda copy", 40, [](uint64_t seed) {
    SCOPED_TRACE(::testing::Message() << "replay with RADIX_TEST_ONLY=" << seed);
    Rng rng(seed);
    const uint32_t blocks = rng.between(2, 30), block_size = rng.between(1, 20);
    const Pool pool = make_words(uint64_t{1} << rng.below(6), blocks, block_size,
                                 rng.between(1, 40), rng.between(1, 40), rng.one_in(3));
    cuda::CopyBatch batch = random_batch(rng, blocks, rng.between(1, blocks - 1));
    batch.num_tokens = rng.one_in(2) ? block_size : rng.between(0, block_size);
    check_copy(pool, batch);
  });
}

#ifdef RADIX_SIMT_EMU
// Sparse memory: only the pages that are read or written exist.
TEST(CudaCopy, OffsetsBeyondThirtyTwoBits) {
  constexpr uint64_t kBlock = 64, kBlocks = uint64_t{1} << 26;
  void* memory = mmap(nullptr, 2 * kBlock * kBlocks, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  KvBlocks kv;
  kv.base = static_cast<char*>(memory);
  kv.num_layers = 1;
  kv.num_blocks = kBlocks;
  kv.block_size = 1;
  kv.k_block_bytes = kv.v_block_bytes = kv.token_chunk_bytes_k = kv.token_chunk_bytes_v = kBlock;
  kv.v_offset_bytes = kBlock * kBlocks;
  kv.layer_bytes = 2 * kBlock * kBlocks;
  const int32_t blocks[] = {7, 1 << 25, (1 << 26) - 1};  // at 2^31 and before 2^32 bytes
  const auto expect_filled = [&](int32_t block, uint8_t byte) {
    for (const uint64_t part : {uint64_t{0}, kv.v_offset_bytes}) {
      const auto* at = reinterpret_cast<uint8_t*>(kv.base) + part + uint64_t(block) * kBlock;
      for (uint64_t i = 0; i < kBlock; ++i) ASSERT_EQ(at[i], byte) << "block " << block;
    }
  };
  for (const uint64_t part : {uint64_t{0}, kv.v_offset_bytes})
    std::memset(kv.base + part + uint64_t(blocks[0]) * kBlock, 0x77, kBlock);
  for (int i = 1; i < 3; ++i) {
    cuda::CopyBatch batch;
    batch.num_pairs = batch.num_tokens = 1;
    batch.pairs[0] = blocks[i - 1];
    batch.pairs[1] = blocks[i];
    ASSERT_EQ(copy_on_device(kv, batch), RADIX_OK) << last_message();
    expect_filled(blocks[i], 0x77);
  }
  cuda::ZeroBatch zero;
  zero.num_blocks = 2;
  zero.blocks[0] = blocks[1];
  zero.blocks[1] = blocks[2];
  ASSERT_EQ(zero_on_device(kv, zero), RADIX_OK) << last_message();
  expect_filled(blocks[0], 0x77);
  expect_filled(blocks[1], 0);
  expect_filled(blocks[2], 0);
  munmap(memory, 2 * kBlock * kBlocks);
}
#endif

}  // namespace
}  // namespace radixattn::test
