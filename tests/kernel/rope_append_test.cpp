// Rotary embedding and the K/V write: every target against the reference, and the reference against
// what the papers say.
#include "backend/cpu/rope_append.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "backend/reference/rope_append.h"
#include "base/error.h"
#include "support/rng.h"
#include "support/rope_case.h"
#include "support/runners.h"
#include "support/tensors.h"
#include "support/tolerance.h"

namespace radixattn::test {
namespace {

void set_yarn(RopeAppendParams* o) {
  o->scaling = RADIX_ROPE_SCALE_YARN;
  o->scale = 4.f;
  o->original_max_position = 4096;
}

void set_llama3(RopeAppendParams* o) {
  o->scaling = RADIX_ROPE_SCALE_LLAMA3;
  o->theta = 500000.f;
  o->scale = 8.f;
  o->original_max_position = 8192;
}

// Every target, inline and on all executors, against the reference.
void check(const RopeCase& original) {
  RopeCase expected = original;
  const RopeAppendParams p = expected.params();
  reference::rope_append(p);
  const double factor = reference::rope_attention_factor(p);
  for (const CpuKernels* kernels : runnable_targets()) {
    SCOPED_TRACE(kernels->name);
    RopeCase first = original;
    Executor inline_executor;
    ASSERT_EQ(cpu_rope_append(*kernels, first.params(), inline_executor), RADIX_OK)
        << last_message();
    first.expect_near(expected, factor);
    for (NamedExecutor& e : all_executors()) {
      RopeCase again = original;
      ASSERT_EQ(cpu_rope_append(*kernels, again.params(), e.executor), RADIX_OK);
      EXPECT_TRUE(again.same_bits(first)) << e.name;
    }
  }
}

class RopeStyles : public ::testing::TestWithParam<int32_t> {
 protected:
  RopeCase make(const RopeShape& s) const {
    RopeCase c(s, 11);
    c.options.style = GetParam();
    return c;
  }
};

INSTANTIATE_TEST_SUITE_P(Style, RopeStyles,
                         ::testing::Values(RADIX_ROPE_NEOX, RADIX_ROPE_INTERLEAVED),
                         [](const auto& i) {
                           return i.param == RADIX_ROPE_NEOX ? "Neox" : "Interleaved";
                         });

TEST_P(RopeStyles, EveryHeadDimAndPartialRotation) {
  for (uint32_t dim = 32; dim <= 256; dim += 8) {
    for (const uint32_t rotary : {dim, dim / 2, 2u, 30u}) {
      RopeShape s;
      s.tokens = 3;
      s.dim = dim;
      s.rotary_dim = rotary;
      check(make(s));
    }
  }
}

TEST_P(RopeStyles, EveryScaling) {
  RopeShape s;
  s.first_position = 5000;
  RopeCase c = make(s);
  c.options.scaling = RADIX_ROPE_SCALE_LINEAR;
  c.options.scale = 2.5f;
  check(c);
  c = make(s);
  set_llama3(&c.options);
  check(c);
  c = make(s);
  set_yarn(&c.options);
  check(c);
  c.options.attention_factor = 0.7f;
  check(c);
  c.options.scale = 0.5f;  // no attention factor of its own
  c.options.attention_factor = 0.f;
  check(c);
  c.options.theta = 150.f;  // the ramp reaches its ends
  c.options.scale = 40.f;
  c.options.original_max_position = 64;
  check(c);
}

TEST_P(RopeStyles, EveryDtypeAndLayout) {
  const int32_t dtypes[] = {RADIX_F32, RADIX_F16, RADIX_BF16};
  for (const int32_t in : dtypes) {
    for (const int32_t cache : dtypes) {
      RopeShape s;
      s.q_dtype = s.kv_dtype = in;
      s.cache_dtype = cache;
      s.hnd = in == RADIX_F16;
      s.padded = cache == RADIX_BF16;
      s.padded_slots = true;
      s.dim = 72;
      s.dim_v = 40;
      s.block_size = 3;
      s.tokens = 70;
      check(make(s));
    }
  }
}

TEST_P(RopeStyles, PositionsOfAMillionAndMoreLoseNothing) {
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

TEST_P(RopeStyles, NoRotationIsAPlainWrite) {
  RopeShape s;
  s.rotary_dim = 0;
  s.padded_slots = true;
  RopeCase original = make(s);
  check(original);
  for (const CpuKernels* kernels : runnable_targets()) {  // positions may be null then, and q too
    RopeCase a = original, b = original;
    RopeAppendParams p = a.params();
    p.positions = nullptr;
    p.q = RowTensor{};
    p.num_q_heads = 0;
    Executor executor;
    ASSERT_EQ(cpu_rope_append(*kernels, p, executor), RADIX_OK);
    ASSERT_EQ(cpu_rope_append(*kernels, b.params(), executor), RADIX_OK);
    EXPECT_TRUE(a.same_bits(b));
  }
}

TEST_P(RopeStyles, WithoutQueries) {
  RopeShape s;
  RopeCase original = make(s);
  for (const CpuKernels* kernels : runnable_targets()) {
    RopeCase a = original;
    RopeAppendParams p = a.params();
    p.q = RowTensor{};
    p.num_q_heads = 0;
    Executor executor;
    ASSERT_EQ(cpu_rope_append(*kernels, p, executor), RADIX_OK);
    RopeCase expected = original;
    RopeAppendParams r = expected.params();
    r.num_q_heads = 0;
    reference::rope_append(r);
    a.expect_near(expected, 1.0);
  }
}

TEST(RopeAppend, PaddedRowsAreLeftAlone) {
  RopeShape s;
  RopeCase original(s, 5);
  for (int64_t& slot : original.slots()) slot = -1;
  for (int32_t& position : original.positions()) position = INT32_MIN;  // nor is it looked at
  for (const CpuKernels* kernels : runnable_targets()) {
    RopeCase c = original;
    Executor executor;
    EXPECT_EQ(cpu_rope_append(*kernels, c.params(), executor), RADIX_OK);
    c.expect_untouched(original);
  }
}

TEST(RopeAppend, BadSlotsAndPositionsWriteNothing) {
  const RopeShape s;
  const auto refused = [&s](const std::function<void(RopeCase&)>& spoil, const char* expected) {
    RopeCase original(s, 5);
    spoil(original);
    for (const CpuKernels* kernels : runnable_targets()) {
      for (NamedExecutor& e : all_executors()) {
        RopeCase c = original;
        EXPECT_EQ(cpu_rope_append(*kernels, c.params(), e.executor), RADIX_E_INVALID);
        EXPECT_NE(std::string(last_message()).find(expected), std::string::npos) << last_message();
        c.expect_untouched(original);
      }
    }
  };
  refused([](RopeCase& c) { c.slots()[19] = c.num_slots(); }, "slots[19] is 64: expected");
  refused([](RopeCase& c) { c.slots()[0] = INT64_MAX; }, "slots[0]");
  refused([](RopeCase& c) { c.positions()[7] = -1; }, "positions[7] is -1");
}

TEST(RopeAppend, OffsetsBeyondThirtyTwoBits) {
  // Sparse memory: only the pages that are written exist.
  constexpr int64_t kBlockStride = int64_t{1} << 30;  // elements
  constexpr size_t kBytes = size_t{4} * kBlockStride * 2;
  void* memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  Elements k(RADIX_F32, 32, 0), v(RADIX_F32, 32, 0);
  for (int i = 0; i < 32; ++i) {
    k.set(i, i);
    v.set(i, 100 + i);
  }
  const int64_t slot = 3 * 16 + 5;
  RopeAppendParams p;
  p.num_tokens = 1;
  p.num_kv_heads = 1;
  p.head_dim = p.head_dim_v = 32;
  p.block_size = 16;
  p.num_blocks = 4;
  p.k = {k.data(), RADIX_F32, 32, 32};
  p.v = {v.data(), RADIX_F32, 32, 32};
  p.k_cache = {memory, RADIX_F16, kBlockStride, 64, 32};
  p.v_cache = {static_cast<uint16_t*>(memory) + 32, RADIX_F16, kBlockStride, 64, 32};
  p.slots = &slot;
  for (const CpuKernels* kernels : runnable_targets()) {
    Executor executor;
    ASSERT_EQ(cpu_rope_append(*kernels, p, executor), RADIX_OK);
    const int64_t at = 3 * kBlockStride + 5 * 64;
    for (int i = 0; i < 32; ++i) {
      EXPECT_EQ(reference::load_element(memory, RADIX_F16, at + i), i);
      EXPECT_EQ(reference::load_element(memory, RADIX_F16, at + 32 + i), 100 + i);
    }
    std::memset(static_cast<uint16_t*>(memory) + at, 0, 128);
  }
  munmap(memory, kBytes);
}

// ---- the reference itself -----------------------------------------------------------------------

TEST(RopeReference, RelativeByConstruction) {
  // What rotary embedding is for: q(m) . k(n) depends on m - n alone.
  RopeAppendParams p;
  p.rotary_dim = 8;
  for (const int32_t style : {RADIX_ROPE_NEOX, RADIX_ROPE_INTERLEAVED}) {
    p.style = style;
    double products[2];
    for (int i = 0; i < 2; ++i) {
      double q[8] = {1, 2, 3, 4, 5, 6, 7, 8}, k[8] = {8, 1, 7, 2, 6, 3, 5, 4};
      reference::rotate_head(p, i == 0 ? 17 : 1017, q);
      reference::rotate_head(p, i == 0 ? 3 : 1003, k);
      products[i] = 0;
      for (int d = 0; d < 8; ++d) products[i] += q[d] * k[d];
    }
    EXPECT_NEAR(products[0], products[1], 1e-9);
  }
}

TEST(RopeReference, PairsOfEachStyle) {
  RopeAppendParams p;
  p.rotary_dim = 4;
  double x[4] = {1, 0, 0, 0};
  reference::rotate_head(p, 1, x);
  EXPECT_NEAR(x[0], std::cos(1.0), 1e-15);
  EXPECT_NEAR(x[2], std::sin(1.0), 1e-15);
  p.style = RADIX_ROPE_INTERLEAVED;
  double y[4] = {0, 0, 1, 0};
  reference::rotate_head(p, 1, y);  // pair 1 turns by theta^(-2/4) = 0.01
  EXPECT_NEAR(y[2], std::cos(0.01), 1e-15);
  EXPECT_NEAR(y[3], std::sin(0.01), 1e-15);
}

// Values of Hugging Face transformers' ROPE_INIT_FUNCTIONS formulas, worked out by hand where the
// branches are.
TEST(RopeReference, Llama3KeepsFastPairsAndStretchesSlowOnes) {
  RopeAppendParams p;
  set_llama3(&p);
  p.rotary_dim = 128;
  EXPECT_DOUBLE_EQ(reference::rope_frequency(p, 0), 1.0);
  const double slow = std::pow(500000.0, -126.0 / 128);
  EXPECT_DOUBLE_EQ(reference::rope_frequency(p, 63), slow / 8);
  // Pair 32: wavelength 2 pi sqrt(500000) = 4443, between 8192/4 and 8192/1.
  const double f = 1 / std::sqrt(500000.0);
  const double s = (8192 * f / (2 * M_PI) - 1) / 3;
  EXPECT_NEAR(reference::rope_frequency(p, 32), (1 - s) * f / 8 + s * f, 1e-15);
}

TEST(RopeReference, YarnRampsBetweenItsCorrectionDims) {
  RopeAppendParams p;
  set_yarn(&p);
  p.rotary_dim = 128;
  // c(32) = 128 ln(4096/(64 pi)) / (2 ln 10000) = 20.94..., c(1) = 45.03...: ramp from 20 to 46.
  EXPECT_DOUBLE_EQ(reference::rope_frequency(p, 20), std::pow(10000.0, -40.0 / 128));
  EXPECT_DOUBLE_EQ(reference::rope_frequency(p, 46), std::pow(10000.0, -92.0 / 128) / 4);
  const double f = std::pow(10000.0, -66.0 / 128);
  EXPECT_NEAR(reference::rope_frequency(p, 33), 0.5 * f + 0.5 * f / 4, 1e-15);
  EXPECT_DOUBLE_EQ(reference::rope_attention_factor(p), 0.1 * std::log(4.0) + 1);
}

}  // namespace
}  // namespace radixattn::test
