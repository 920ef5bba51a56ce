// The CUDA rotary kernel's own source against the reference.
#include <gtest/gtest.h>

#include "attention_launchers.h"
#include "backend/reference/rope_append.h"
#include "support/rope_case.h"

namespace radixattn::test {
namespace {

void check(const RopeCase& original) {
  RopeCase expected = original, c = original;
  const RopeAppendParams p = expected.params();
  reference::rope_append(p);
  ASSERT_EQ(rope_append_on_device(c.params()), RADIX_OK) << last_message();
  c.expect_near(expected, reference::rope_attention_factor(p));
}

class CudaRope : public ::testing::TestWithParam<int32_t> {
 protected:
  static RopeCase make(const RopeShape& s) {
    RopeCase c(s, 17);
    c.options.style = GetParam();
    return c;
  }
};

INSTANTIATE_TEST_SUITE_P(Style, CudaRope,
                         ::testing::Values(RADIX_ROPE_NEOX, RADIX_ROPE_INTERLEAVED),
                         [](const auto& i) {
                           return i.param == RADIX_ROPE_NEOX ? "Neox" : "Interleaved";
                         });

TEST_P(CudaRope, HeadDimsAndPartialRotation) {
  for (const uint32_t dim : {32u, 40u, 64u, 96u, 128u, 256u}) {
    for (const uint32_t rotary : {dim, dim / 2, 2u, 30u, 0u}) {
      RopeShape s;
      s.tokens = 3;
      s.dim = dim;
      s.rotary_dim = rotary;
      check(make(s));
    }
  }
}

TEST_P(CudaRope, Scalings) {
  RopeShape s;
  s.first_position = 5000;
  RopeCase c = make(s);
  for (const int32_t scaling :
       {RADIX_ROPE_SCALE_LINEAR, RADIX_ROPE_SCALE_LLAMA3, RADIX_ROPE_SCALE_YARN}) {
    c.options.scaling = scaling;
    c.options.scale = 4.f;
    c.options.original_max_position = 4096;
    check(c);
  }
}

TEST_P(CudaRope, DtypesLayoutsAndPaddedRows) {
  for (const int32_t in : {RADIX_F32, RADIX_F16, RADIX_BF16}) {
    for (const int32_t cache : {RADIX_F32, RADIX_F16, RADIX_BF16, RADIX_F8_E4M3, RADIX_F8_E5M2}) {
      RopeShape s;
      s.q_dtype = s.kv_dtype = in;
      s.cache_dtype = cache;
      s.hnd = in == RADIX_F16;
      s.padded = cache == RADIX_BF16;
      s.padded_slots = true;
      s.dim = 72;
      s.dim_v = 40;
      s.block_size = 3;
      s.tokens = 40;
      s.kv_scales = is_fp8(cache) && in != RADIX_BF16;
      check(make(s));
    }
  }
}

TEST_P(CudaRope, PositionsOfAMillionAndMoreLoseNothing) {
  for (const uint32_t position : {1'000'000u, 16'777'217u, 1'000'000'007u}) {
    RopeShape s;
    s.first_position = position;
    s.cache_dtype = RADIX_F32;
    check(make(s));
  }
  RopeShape s;
  RopeCase c = make(s);
  for (int32_t& p : c.positions()) p = INT32_MAX;
  check(c);
}

TEST_P(CudaRope, SlotsOutsideOfThePoolWriteNothing) {
  RopeShape s;
  RopeCase original = make(s);
  for (size_t i = 0; i < original.slots().size(); ++i) {
    const int64_t bad[] = {-1, INT64_MIN, original.num_slots(), INT64_MAX};
    original.slots()[i] = bad[i % 4];
  }
  RopeCase c = original;
  ASSERT_EQ(rope_append_on_device(c.params()), RADIX_OK) << last_message();
  c.expect_untouched(original);
}

TEST_P(CudaRope, WithoutQueriesAndPositions) {
  RopeShape s;
  s.rotary_dim = 0;
  RopeCase original = make(s), a = original, b = original;
  RopeAppendParams p = a.params();
  p.positions = nullptr;
  p.q = RowTensor{};
  p.num_q_heads = 0;
  ASSERT_EQ(rope_append_on_device(p), RADIX_OK) << last_message();
  ASSERT_EQ(rope_append_on_device(b.params()), RADIX_OK) << last_message();
  EXPECT_TRUE(a.same_bits(b));
}

}  // namespace
}  // namespace radixattn::test
