// Copies and swaps: order, overlaps, layouts, executors, bad ids.
#include "backend/cpu/copy.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>
#include <string>
#include <vector>

#include "base/error.h"
#include "support/rng.h"
#include "support/runners.h"

namespace radixattn::test {
namespace {

// K/V memory whose every byte tells layer, block and place apart, with gaps around each layer.
class Memory {
 public:
  explicit Memory(uint32_t layers = 3, uint32_t blocks = 20, uint64_t k = 96, uint64_t v = 40) {
    kv_.num_layers = layers;
    kv_.num_blocks = blocks;
    kv_.block_size = 8;
    kv_.k_block_bytes = k;
    kv_.v_block_bytes = v;
    kv_.v_offset_bytes = blocks * k + 17;
    kv_.layer_bytes = kv_.v_offset_bytes + blocks * v + 31;
    kv_.token_chunk_bytes_k = k / 8;
    kv_.token_chunk_bytes_v = v / 8;
    bytes_.resize(layers * kv_.layer_bytes);
    Rng rng(9);
    for (char& b : bytes_) b = static_cast<char>(rng.next());
  }
  KvBlocks kv() {
    kv_.base = bytes_.data();
    return kv_;
  }
  KvBlocks& shape() { return kv_; }
  char* k(uint32_t layer, int32_t block) {
    return bytes_.data() + layer * kv_.layer_bytes +
           static_cast<uint32_t>(block) * kv_.k_block_bytes;
  }
  char* v(uint32_t layer, int32_t block) {
    return bytes_.data() + layer * kv_.layer_bytes + kv_.v_offset_bytes +
           static_cast<uint32_t>(block) * kv_.v_block_bytes;
  }
  bool operator==(const Memory& o) const { return bytes_ == o.bytes_; }

 private:
  KvBlocks kv_;
  std::vector<char> bytes_;
};

// The definition: one pair after the other.
void copy_plainly(Memory& m, const std::vector<int32_t>& pairs) {
  for (size_t i = 0; i < pairs.size(); i += 2) {
    for (uint32_t layer = 0; layer < m.shape().num_layers; ++layer) {
      const std::vector<char> k(m.k(layer, pairs[i]),
                                m.k(layer, pairs[i]) + m.shape().k_block_bytes);
      const std::vector<char> v(m.v(layer, pairs[i]),
                                m.v(layer, pairs[i]) + m.shape().v_block_bytes);
      std::memcpy(m.k(layer, pairs[i + 1]), k.data(), k.size());
      std::memcpy(m.v(layer, pairs[i + 1]), v.data(), v.size());
    }
  }
}

void check_copies(const std::vector<int32_t>& pairs) {
  Memory expected;
  copy_plainly(expected, pairs);
  for (NamedExecutor& e : all_executors()) {
    Memory m;
    const auto n = static_cast<uint32_t>(pairs.size() / 2);
    ASSERT_EQ(cpu_copy_blocks(m.kv(), pairs.data(), n, e.executor), RADIX_OK) << last_message();
    EXPECT_TRUE(m == expected) << e.name;
  }
}

TEST(CopyBlocks, ChainsReadWhatEarlierPairsWrote) {
  check_copies({});
  check_copies({0, 1});
  check_copies({0, 1, 1, 2, 2, 3});  // all become block 0
  check_copies({3, 2, 2, 1, 1, 0});
  check_copies({0, 10, 1, 11, 2, 12, 7, 3});  // a run, then another pair
  check_copies({0, 2, 1, 3, 2, 4, 3, 5});     // a run that overlaps itself upwards
  check_copies({2, 0, 3, 1, 4, 2, 5, 3});     // and downwards
  check_copies({5, 5, 6, 6, 4, 7});           // onto themselves
  check_copies({0, 19, 19, 0, 1, 19});
}

TEST(CopyBlocks, RandomPairs) {
  for_random_cases("copy", 300, [](uint64_t seed) {
    SCOPED_TRACE(::testing::Message() << "replay with RADIX_TEST_ONLY=" << seed);
    Rng rng(seed);
    std::vector<int32_t> pairs;
    for (uint32_t n = rng.below(12); n > 0; --n) {
      auto src = static_cast<int32_t>(rng.below(20)), dst = static_cast<int32_t>(rng.below(20));
      for (uint32_t run = rng.between(1, 6); run > 0 && src < 20 && dst < 20; --run) {
        pairs.push_back(src++);
        pairs.push_back(dst++);
      }
    }
    check_copies(pairs);
  });
}

TEST(CopyBlocks, LargeCopiesOnSeveralThreads) {
  Memory m(7, 6, 65536, 32768), expected = m;
  const std::vector<int32_t> pairs = {0, 1, 1, 2, 5, 0, 3, 4};
  copy_plainly(expected, pairs);
  std::vector<NamedExecutor> executors = all_executors();
  ASSERT_EQ(cpu_copy_blocks(m.kv(), pairs.data(), 4, executors.back().executor), RADIX_OK);
  EXPECT_TRUE(m == expected);
}

TEST(CopyBlocks, BadIdsWriteNothing) {
  const int32_t bad[][4] = {{0, 1, 20, 2}, {0, 1, 2, 20}, {0, 1, -1, 2}, {0, 1, 2, -1}};
  for (const auto& pairs : bad) {
    Memory m, before = m;
    Executor executor;
    EXPECT_EQ(cpu_copy_blocks(m.kv(), pairs, 2, executor), RADIX_E_INVALID);
    EXPECT_NE(std::string(last_message()).find("pair 1"), std::string::npos) << last_message();
    EXPECT_TRUE(m == before);
  }
}

TEST(CopyTokens, CopiesTheFirstTokensOnly) {
  for (uint32_t tokens = 0; tokens <= 8; ++tokens) {
    Memory m, before = m;
    Executor executor;
    ASSERT_EQ(cpu_copy_tokens(m.kv(), 4, 9, tokens, executor), RADIX_OK);
    for (uint32_t layer = 0; layer < 3; ++layer) {
      std::memcpy(before.k(layer, 9), before.k(layer, 4), tokens * 12);
      std::memcpy(before.v(layer, 9), before.v(layer, 4), tokens * 5);
    }
    EXPECT_TRUE(m == before) << tokens;
  }
}

TEST(CopyTokens, MovesTheWholeBlockWhenTokensAreSpread) {
  Memory m, before = m;
  KvBlocks kv = m.kv();
  kv.token_chunk_bytes_k = kv.token_chunk_bytes_v = 0;
  Executor executor;
  ASSERT_EQ(cpu_copy_tokens(kv, 4, 9, 3, executor), RADIX_OK);
  copy_plainly(before, {4, 9});
  EXPECT_TRUE(m == before);
}

TEST(CopyTokens, BadArgumentsWriteNothing) {
  Memory m, before = m;
  Executor executor;
  EXPECT_EQ(cpu_copy_tokens(m.kv(), 20, 0, 1, executor), RADIX_E_INVALID);
  EXPECT_EQ(cpu_copy_tokens(m.kv(), 0, -1, 1, executor), RADIX_E_INVALID);
  EXPECT_EQ(cpu_copy_tokens(m.kv(), 0, 1, 9, executor), RADIX_E_INVALID);
  EXPECT_STREQ(last_message(), "num_tokens is 9: expected 0..block_size (8)");
  EXPECT_TRUE(m == before);
}

TEST(Swap, ImageIsBlocksThenLayersThenKThenV) {
  const int32_t blocks[] = {7, 0, 19};
  for (NamedExecutor& e : all_executors()) {
    Memory m;
    std::vector<char> host(3 * 3 * 136 + 16, 'x');
    ASSERT_EQ(cpu_swap_out(m.kv(), blocks, 3, host.data(), e.executor), RADIX_OK);
    const char* at = host.data();
    for (const int32_t block : blocks) {
      for (uint32_t layer = 0; layer < 3; ++layer) {
        EXPECT_EQ(std::memcmp(at, m.k(layer, block), 96), 0);
        EXPECT_EQ(std::memcmp(at + 96, m.v(layer, block), 40), 0);
        at += 136;
      }
    }
    EXPECT_EQ(std::string(at, 16), std::string(16, 'x')) << "written beyond the image";
  }
}

TEST(Swap, RoundTripRestoresEveryByte) {
  const int32_t blocks[] = {3, 4, 5, 11, 0};
  for (NamedExecutor& e : all_executors()) {
    Memory m, before = m;
    std::vector<char> host(5 * 3 * 136);
    ASSERT_EQ(cpu_swap_out(m.kv(), blocks, 5, host.data(), e.executor), RADIX_OK);
    for (const int32_t block : blocks) {
      for (uint32_t layer = 0; layer < 3; ++layer) {
        std::memset(m.k(layer, block), 0, 96);
        std::memset(m.v(layer, block), 0, 40);
      }
    }
    EXPECT_FALSE(m == before);
    ASSERT_EQ(cpu_swap_in(m.kv(), blocks, 5, host.data(), e.executor), RADIX_OK);
    EXPECT_TRUE(m == before) << e.name;
  }
}

TEST(Swap, BadIdsWriteNothing) {
  for (const int32_t bad : {-1, 20, INT32_MAX, INT32_MIN}) {
    const int32_t blocks[] = {3, bad};
    Memory m, before = m;
    std::vector<char> host(2 * 3 * 136, 'x');
    Executor executor;
    EXPECT_EQ(cpu_swap_in(m.kv(), blocks, 2, host.data(), executor), RADIX_E_INVALID);
    EXPECT_EQ(cpu_swap_out(m.kv(), blocks, 2, host.data(), executor), RADIX_E_INVALID);
    EXPECT_NE(std::string(last_message()).find("blocks[1]"), std::string::npos) << last_message();
    EXPECT_TRUE(m == before);
    EXPECT_EQ(host, std::vector<char>(2 * 3 * 136, 'x'));
  }
}

TEST(ZeroBlocks, OfEveryLayerAndNothingElse) {
  for (NamedExecutor& e : all_executors()) {
    SCOPED_TRACE(e.name);
    Memory m, expected;
    const std::vector<int32_t> blocks = {3, 0, 19, 3};
    for (const int32_t b : blocks) {
      for (uint32_t layer = 0; layer < m.shape().num_layers; ++layer) {
        std::memset(expected.k(layer, b), 0, m.shape().k_block_bytes);
        std::memset(expected.v(layer, b), 0, m.shape().v_block_bytes);
      }
    }
    ASSERT_EQ(cpu_zero_blocks(m.kv(), blocks.data(), 4, e.executor), RADIX_OK);
    EXPECT_TRUE(m == expected);
    const std::vector<int32_t> bad = {1, 20};
    EXPECT_EQ(cpu_zero_blocks(m.kv(), bad.data(), 2, e.executor), RADIX_E_INVALID);
    EXPECT_TRUE(m == expected);
  }
}

TEST(Copies, OffsetsBeyondThirtyTwoBits) {
  KvBlocks kv;
  kv.num_layers = 2;
  kv.num_blocks = 3;
  kv.block_size = 8;
  kv.k_block_bytes = uint64_t{3} << 30;  // block 2 begins at 6 GB
  kv.v_block_bytes = 64;
  kv.v_offset_bytes = 3 * kv.k_block_bytes;
  kv.layer_bytes = kv.v_offset_bytes + 4096;
  kv.token_chunk_bytes_k = kv.token_chunk_bytes_v = 8;
  const size_t bytes = kv.num_layers * kv.layer_bytes;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  kv.base = static_cast<char*>(memory);
  char* src = kv.base + kv.layer_bytes + 2 * kv.k_block_bytes;
  std::memcpy(src, "sixteen GB later", 16);
  Executor executor;
  ASSERT_EQ(cpu_copy_tokens(kv, 2, 0, 2, executor), RADIX_OK);
  EXPECT_EQ(std::memcmp(kv.base + kv.layer_bytes, "sixteen GB later", 16), 0);
  munmap(memory, bytes);
}

}  // namespace
}  // namespace radixattn::test
