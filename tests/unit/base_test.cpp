// base: messages, ids, hash, array, allocator.
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "base/allocator.h"
#include "base/array.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/ids.h"

namespace radixattn {
namespace {

TEST(Error, RemembersTheLastMessageOfThisThreadOnly) {
  EXPECT_EQ(fail(RADIX_E_INVALID, "block_size is %d", 7), RADIX_E_INVALID);
  EXPECT_STREQ(last_message(), "block_size is 7");
  std::string other = "unset";
  std::thread([&] { other = last_message(); }).join();
  EXPECT_EQ(other, "");
}

TEST(Error, CutsAMessageThatIsTooLong) {
  const std::string text(2000, 'x');
  fail(RADIX_E_INVALID, "%s", text.c_str());
  EXPECT_EQ(std::string(last_message()), std::string(511, 'x'));
}

TEST(Error, KeepsTheNativeCodeUntilTheNextFailure) {
  fail_native(RADIX_E_IO, 5, "read");
  EXPECT_EQ(last_native(), 5);
  fail(RADIX_E_INVALID, "x");
  EXPECT_EQ(last_native(), 0);
}

TEST(Ids, CarryGenerationKindAndIndex) {
  const uint64_t id = make_id(IdKind::kPin, 0xffffffffu, kMaxIdIndex);
  EXPECT_EQ(id_generation(id), 0xffffffffu);
  EXPECT_EQ(id_index(id), kMaxIdIndex);
  EXPECT_EQ(id_kind(id), IdKind::kPin);
  EXPECT_EQ(make_id(IdKind::kRequest, 0, 0), 0u);
}

TEST(Hash, ChangesWithEveryTokenAndWithTheLength) {
  std::vector<int32_t> t(37, 1);
  const uint64_t h = hash_tokens(t.data(), 37, 5);
  EXPECT_EQ(h, hash_tokens(t.data(), 37, 5));
  EXPECT_NE(h, hash_tokens(t.data(), 36, 5));
  for (size_t i = 0; i < t.size(); ++i) {
    t[i] = 2;
    EXPECT_NE(h, hash_tokens(t.data(), 37, 5)) << i;
    t[i] = 1;
  }
}

TEST(Hash, TokensThatCollideUnderOneSeedDoNotUnderAnother) {
  // The second 64 bits make a factor of seed 0 zero: whatever stands before them is lost.
  std::vector<int32_t> a(16, 1), b(16, 1);
  const uint64_t zero = 0xa0761d6478bd642fu;
  std::memcpy(a.data() + 2, &zero, sizeof zero);
  std::memcpy(b.data() + 2, &zero, sizeof zero);
  b[0] = 7;
  EXPECT_EQ(hash_tokens(a.data(), 16, 0), hash_tokens(b.data(), 16, 0));
  EXPECT_NE(hash_tokens(a.data(), 16, 1), hash_tokens(b.data(), 16, 1));
}

struct Counting {
  int64_t bytes = 0;
  int calls = 0;
  bool dry = false;
  static void* take(void* user, size_t size, size_t align) {
    auto* c = static_cast<Counting*>(user);
    if (c->dry) return nullptr;
    c->bytes += static_cast<int64_t>(size);
    ++c->calls;
    return std::aligned_alloc(align, (size + align - 1) / align * align);
  }
  static void give(void* user, void* p, size_t size, size_t) {
    static_cast<Counting*>(user)->bytes -= static_cast<int64_t>(size);
    std::free(p);
  }
};

TEST(Array, FreshElementsAreZeroAndGrowthKeepsOldOnes) {
  HostAllocator memory;
  Array<int> a;
  a.bind(&memory);
  ASSERT_TRUE(a.reserve(3));
  a[0] = 5;
  EXPECT_EQ(a[2], 0);
  ASSERT_TRUE(a.reserve_doubling(4));
  EXPECT_EQ(a.capacity(), 6u);
  EXPECT_EQ(a[0], 5);
  EXPECT_EQ(a[5], 0);
  EXPECT_EQ(memory.bytes(), 6 * sizeof(int));
  a.clear();
  EXPECT_EQ(memory.bytes(), 0u);
}

TEST(Array, ARefusedGrowthChangesNothing) {
  Counting counting;
  radix_allocator callbacks = {};
  callbacks.user = &counting;
  callbacks.alloc = Counting::take;
  callbacks.free = Counting::give;
  HostAllocator memory(callbacks);
  {
    Array<uint64_t> a;
    a.bind(&memory);
    ASSERT_TRUE(a.reserve(4));
    a[3] = 9;
    counting.dry = true;
    EXPECT_FALSE(a.reserve(5));
    EXPECT_FALSE(a.reserve(UINT64_MAX / 4));
    EXPECT_EQ(a.capacity(), 4u);
    EXPECT_EQ(a[3], 9u);
    EXPECT_EQ(counting.bytes, 32);
  }
  EXPECT_EQ(counting.bytes, 0);
}

}  // namespace
}  // namespace radixattn
