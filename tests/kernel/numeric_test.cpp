// f16 and bf16: the reference against known values and its own definition, and the conversions of
// every target against the reference, through the write of V (which converts and does nothing
// else).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "backend/cpu/rope_append.h"
#include "backend/reference/numeric.h"
#include "support/rng.h"
#include "support/runners.h"
#include "support/tensors.h"

namespace radixattn::test {
namespace {

using reference::decode_bf16;
using reference::decode_f16;
using reference::encode_bf16;
using reference::encode_f16;

TEST(Numeric, KnownValues) {
  EXPECT_EQ(decode_f16(0x3c00), 1.0);
  EXPECT_EQ(decode_f16(0xc000), -2.0);
  EXPECT_EQ(decode_f16(0x7bff), 65504.0);
  EXPECT_EQ(decode_f16(0x0001), 0x1p-24);
  EXPECT_EQ(decode_f16(0x0400), 0x1p-14);
  EXPECT_EQ(decode_f16(0x7c00), INFINITY);
  EXPECT_TRUE(std::isnan(decode_f16(0x7e00)));
  EXPECT_EQ(decode_bf16(0x3f80), 1.0);
  EXPECT_EQ(decode_bf16(0xff80), -INFINITY);
  EXPECT_EQ(decode_bf16(0x0001), 0x1p-133);
  EXPECT_TRUE(std::signbit(decode_f16(0x8000)));
}

TEST(Numeric, RoundsToNearestEven) {
  EXPECT_EQ(encode_f16(1.0 + 0x1p-11), 0x3c00);            // tie, down to even
  EXPECT_EQ(encode_f16(1.0 + 3 * 0x1p-11), 0x3c02);        // tie, up to even
  EXPECT_EQ(encode_f16(1.0 + 0x1p-11 + 0x1p-40), 0x3c01);  // just above
  EXPECT_EQ(encode_f16(65519.99), 0x7bff);
  EXPECT_EQ(encode_f16(65520.0), 0x7c00);  // tie with 2^16: infinite
  EXPECT_EQ(encode_f16(0x1p-25), 0x0000);  // tie with 0
  EXPECT_EQ(encode_f16(0x1.8p-24), 0x0002);
  EXPECT_EQ(encode_f16(0x1p-14 - 0x1p-26), 0x0400);  // subnormal that rounds to normal
  EXPECT_EQ(encode_bf16(1.0 + 0x1p-8), 0x3f80);
  EXPECT_EQ(encode_bf16(1.0 + 3 * 0x1p-8), 0x3f82);
  EXPECT_EQ(encode_bf16(std::numeric_limits<float>::max()), 0x7f80);
  EXPECT_EQ(encode_bf16(-0.0), 0x8000);
}

TEST(Numeric, Fp8KnownValues) {
  EXPECT_EQ(reference::decode_e4m3(0x38), 1.0);
  EXPECT_EQ(reference::decode_e4m3(0x7e), 448.0);
  EXPECT_EQ(reference::decode_e4m3(0x01), 0x1p-9);
  EXPECT_TRUE(std::isnan(reference::decode_e4m3(0xff)));
  EXPECT_EQ(reference::decode_e5m2(0xbc), -1.0);
  EXPECT_EQ(reference::decode_e5m2(0x7b), 57344.0);
  EXPECT_EQ(reference::decode_e5m2(0x01), 0x1p-16);
  EXPECT_EQ(reference::decode_e5m2(0x7c), INFINITY);
  EXPECT_TRUE(std::isnan(reference::decode_e5m2(0x7d)));
  EXPECT_EQ(reference::encode_e4m3(1.0 + 0x1p-4), 0x38);      // tie, down to even
  EXPECT_EQ(reference::encode_e4m3(1.0 + 3 * 0x1p-4), 0x3a);  // tie, up to even
  EXPECT_EQ(reference::encode_e4m3(1e9), 0x7e);
  EXPECT_EQ(reference::encode_e4m3(-INFINITY), 0xfe);
  EXPECT_EQ(reference::encode_e5m2(1e9), 0x7b);
  EXPECT_TRUE(std::isnan(reference::decode_e5m2(reference::encode_e5m2(NAN))));
  for (uint32_t bits = 0; bits < 256; ++bits) {
    const auto code = static_cast<uint8_t>(bits);
    const double a = reference::decode_e4m3(code), b = reference::decode_e5m2(code);
    EXPECT_TRUE(std::isnan(a) || reference::encode_e4m3(a) == code) << bits;
    EXPECT_TRUE(!std::isfinite(b) || reference::encode_e5m2(b) == code) << bits;
  }
}

TEST(Numeric, EveryCodeSurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto code = static_cast<uint16_t>(bits);
    if (!std::isnan(decode_f16(code))) {
      ASSERT_EQ(encode_f16(decode_f16(code)), code);
    }
    if (!std::isnan(decode_bf16(code))) {
      ASSERT_EQ(encode_bf16(decode_bf16(code)), code);
    }
    // bf16 is the upper half of an f32.
    const uint32_t wide = bits << 16;
    float f;
    std::memcpy(&f, &wide, 4);
    if (!std::isnan(f)) {
      ASSERT_EQ(decode_bf16(code), double{f});
    }
  }
  EXPECT_TRUE(std::isnan(decode_f16(encode_f16(NAN))));
  EXPECT_TRUE(std::isnan(decode_bf16(encode_bf16(NAN))));
}

constexpr uint32_t kRow = 256;

// Writes `from` as V into a cache of dtype `to`; one head of 256 elements a token.
Elements convert(const CpuKernels& kernels, Elements& from, int32_t to) {
  const auto tokens = static_cast<uint32_t>(from.size() / kRow);
  Elements out(to, from.size(), kPoisonByte);
  Elements k(RADIX_F32, 32 * int64_t{tokens}, 0), k_cache(RADIX_F32, 32 * int64_t{tokens}, 0);
  std::vector<int64_t> slots(tokens);
  for (uint32_t t = 0; t < tokens; ++t) slots[t] = t;
  RopeAppendParams p;
  p.num_tokens = tokens;
  p.num_kv_heads = 1;
  p.head_dim = 32;
  p.head_dim_v = kRow;
  p.block_size = 1;
  p.num_blocks = tokens;
  p.k = {k.data(), RADIX_F32, 32, 32};
  p.v = {from.data(), from.dtype(), kRow, kRow};
  p.k_cache = {k_cache.data(), RADIX_F32, 32, 32, 32};
  p.v_cache = {out.data(), to, kRow, kRow, kRow};
  p.slots = slots.data();
  Executor executor;
  EXPECT_EQ(cpu_rope_append(kernels, p, executor), RADIX_OK);
  return out;
}

TEST(Conversions, EverySixteenBitCodeWidensExactly) {
  for (const CpuKernels* kernels : runnable_targets()) {
    for (const int32_t dtype : {RADIX_F16, RADIX_BF16}) {
      SCOPED_TRACE(::testing::Message() << kernels->name << " " << dtype_name(dtype));
      Elements from(dtype, 65536, 0);
      for (uint32_t i = 0; i < 65536; ++i)
        static_cast<uint16_t*>(from.data())[i] = static_cast<uint16_t>(i);
      const Elements to = convert(*kernels, from, RADIX_F32);
      for (int64_t i = 0; i < 65536; ++i) {
        if (std::isnan(from.get(i))) {
          ASSERT_TRUE(std::isnan(to.get(i))) << i;
        } else {
          ASSERT_EQ(to.get(i), from.get(i)) << i;
          ASSERT_EQ(std::signbit(to.get(i)), std::signbit(from.get(i))) << i;
        }
      }
    }
  }
}

// Floats where rounding goes wrong: every code, the midpoints between codes, and their neighbours.
Elements hard_floats(int32_t dtype) {
  std::vector<float> values;
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto code = static_cast<uint16_t>(bits);
    const auto next = static_cast<uint16_t>(bits + 1);
    const double a = dtype == RADIX_F16 ? decode_f16(code) : decode_bf16(code);
    const double b = dtype == RADIX_F16 ? decode_f16(next) : decode_bf16(next);
    const auto x = static_cast<float>(a);
    const auto middle = static_cast<float>((a + b) / 2);
    for (const float f :
         {x, middle, std::nextafter(middle, INFINITY), std::nextafter(middle, -INFINITY)}) {
      values.push_back(f);
    }
  }
  Rng rng(3);
  while (values.size() < 300000 || values.size() % kRow != 0) {
    const auto bits = static_cast<uint32_t>(rng.next());
    float f;
    std::memcpy(&f, &bits, 4);
    values.push_back(f);
  }
  Elements e(RADIX_F32, static_cast<int64_t>(values.size()), 0);
  std::copy(values.begin(), values.end(), static_cast<float*>(e.data()));
  return e;
}

TEST(Conversions, NarrowingRoundsToNearestEven) {
  for (const int32_t dtype : {RADIX_F16, RADIX_BF16}) {
    Elements from = hard_floats(dtype);
    for (const CpuKernels* kernels : runnable_targets()) {
      SCOPED_TRACE(::testing::Message() << kernels->name << " " << dtype_name(dtype));
      const Elements to = convert(*kernels, from, dtype);
      for (int64_t i = 0; i < from.size(); ++i) {
        const double x = from.get(i);
        const uint16_t code = static_cast<const uint16_t*>(to.data())[i];
        if (std::isnan(x)) {
          uint32_t bits;
          std::memcpy(&bits, static_cast<const float*>(from.data()) + i, 4);
          ASSERT_TRUE(std::isnan(to.get(i))) << std::hex << bits << " became " << code;
        } else {
          ASSERT_EQ(code, dtype == RADIX_F16 ? encode_f16(x) : encode_bf16(x)) << x;
        }
      }
    }
  }
}

}  // namespace
}  // namespace radixattn::test
