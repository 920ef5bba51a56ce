// The CUDA RMS norm against the definition in double: every dtype, vectors of a warp and of a
// block, memory of every alignment.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "attention_launchers.h"
#include "support/rng.h"
#include "support/tensors.h"
#include "support/tolerance.h"

namespace radixattn::test {
namespace {

constexpr int32_t kDtypes[] = {RADIX_F32, RADIX_F16, RADIX_BF16};

struct NormShape {
  uint32_t rows = 3, heads = 2, dim = 128;
  int32_t dtype = RADIX_F16, weight_dtype = 0;  // 0: the same
  int64_t gap = 0;                              // elements after each head and each row
  bool aligned = false, aligned_weight = false;
  bool plus_one = false, in_place = false;
  float eps = 1e-6f;
  double amplitude = 2;
};

struct NormCase {
  NormParams p;
  Elements x, y, weight;
};

int64_t at_of(const RowTensor& t, uint32_t row, uint32_t head) {
  return row * t.row_stride + head * t.head_stride;
}

// Gaps of x are NaN, y is poison.
NormCase make(const NormShape& s, uint64_t seed) {
  NormCase c;
  Rng rng(seed);
  const int64_t head = s.dim + s.gap, row = head * s.heads + s.gap;
  c.x = Elements(s.dtype, row * s.rows, kNanByte, s.aligned);
  c.y = Elements(s.dtype, row * s.rows, kPoisonByte, s.aligned);
  c.weight =
      Elements(s.weight_dtype != 0 ? s.weight_dtype : s.dtype, s.dim, kNanByte, s.aligned_weight);
  c.p.num_rows = s.rows;
  c.p.num_heads = s.heads;
  c.p.dim = s.dim;
  c.p.weight_dtype = c.weight.dtype();
  c.p.eps = s.eps;
  c.p.plus_one = s.plus_one;
  c.p.x = {nullptr, s.dtype, row, head};
  c.p.y = {nullptr, s.dtype, row, head};
  for (uint32_t r = 0; r < s.rows; ++r) {
    const double scale = s.amplitude * std::exp(2.0 * double{rng.uniform()});  // rows differ
    for (uint32_t h = 0; h < s.heads; ++h) {
      for (uint32_t e = 0; e < s.dim; ++e)
        c.x.set(at_of(c.p.x, r, h) + e, scale * double{rng.uniform()});
    }
  }
  for (uint32_t e = 0; e < s.dim; ++e) c.weight.set(e, 1 + double{rng.uniform()});
  return c;
}

radix_status run(NormCase* c, bool in_place = false) {
  c->p.x.data = c->x.data();
  c->p.y.data = in_place ? c->x.data() : c->y.data();
  c->p.weight = c->weight.data();
  return rms_norm_on_device(c->p);
}

// A sum of squares of n terms in f32 is off by n roundings at most, n what the longest chain of
// additions has (rms_norm.cu), and its root by half of that. Six roundings follow, then y's.
double tolerance(const NormParams& p, double y) {
  const double pieces = std::ceil(p.dim / 8.0), threads = p.dim <= 512 ? 32 : 256;
  const double chain = 8 * std::ceil(pieces / threads) + 5 + (p.dim <= 512 ? 0 : 8);
  const double exact = std::fabs(y) * (0.5 * chain + 6) * 0x1p-24;
  return exact + 0.5 * unit_in_last_place(p.y.dtype, std::fabs(y) + exact);
}

void expect_vector(const NormCase& given, const Elements& got, uint32_t row, uint32_t head) {
  const NormParams& p = given.p;
  double squares = 0;
  const int64_t x = at_of(p.x, row, head), y = at_of(p.y, row, head);
  for (uint32_t e = 0; e < p.dim; ++e) squares += given.x.get(x + e) * given.x.get(x + e);
  const double factor = 1 / std::sqrt(squares / p.dim + double{p.eps});
  for (uint32_t e = 0; e < p.dim; ++e) {
    const double w = given.weight.get(e) + (p.plus_one ? 1 : 0);
    const double want = given.x.get(x + e) * factor * w;
    ASSERT_NEAR(got.get(y + e), want, tolerance(p, want))
        << "row " << row << " head " << head << " element " << e;
  }
}

void expect_untouched(const NormParams& p, const Elements& y, uint8_t byte) {
  std::vector<bool> owned(static_cast<size_t>(y.size()));
  for (uint32_t r = 0; r < p.num_rows; ++r) {
    for (uint32_t h = 0; h < p.num_heads; ++h) {
      const auto begin = owned.begin() + at_of(p.y, r, h);
      std::fill(begin, begin + p.dim, true);
    }
  }
  for (int64_t i = 0; i < y.size(); ++i) {
    if (owned[static_cast<size_t>(i)]) continue;
    ASSERT_TRUE(y.is_filled_with(i, byte)) << "y[" << i << "] is nobody's";
  }
}

void check(const NormShape& s, uint64_t seed) {
  SCOPED_TRACE(::testing::Message() << s.rows << " rows, " << s.heads << " heads, dim " << s.dim
                                    << ", " << dtype_name(s.dtype) << ", gap " << s.gap);
  Elements first;
  for (int i = 0; i < num_schedules(); ++i) {
    set_schedule(i);
    const NormCase given = make(s, seed);
    NormCase c = given;
    ASSERT_EQ(run(&c, s.in_place), RADIX_OK) << last_message();
    const Elements& y = s.in_place ? c.x : c.y;
    for (uint32_t r = 0; r < s.rows; ++r) {
      for (uint32_t h = 0; h < s.heads; ++h) expect_vector(given, y, r, h);
    }
    expect_untouched(c.p, y, s.in_place ? kNanByte : kPoisonByte);
    if (i == 0) first = y;
    EXPECT_TRUE(first == y) << "other bits in schedule " << i;
  }
  set_schedule(0);
}

TEST(CudaRmsNorm, MatchesTheDefinitionForEveryDtypeAndDim) {
  for (const int32_t dtype : kDtypes) {
    for (const uint32_t dim :
         {1u, 7u, 32u, 40u, 64u, 128u, 256u, 500u, 512u, 513u, 520u, 2048u, 2056u, 5000u}) {
      for (const bool aligned : {false, true}) {
        NormShape s;
        s.dtype = dtype;
        s.dim = dim;
        s.aligned = s.aligned_weight = aligned;
        check(s, 1);
      }
    }
  }
}

TEST(CudaRmsNorm, TheLongestHiddenStates) {
  for (const int32_t dtype : {RADIX_F32, RADIX_BF16}) {
    NormShape s;
    s.rows = 2;
    s.heads = 1;
    s.dim = 16384;
    s.dtype = dtype;
    s.aligned = s.aligned_weight = true;
    check(s, 2);
  }
}

TEST(CudaRmsNorm, StridesAndRowsOfDifferentAlignment) {
  for (const int64_t gap : {1, 2, 4, 8}) {
    for (const uint32_t dim : {64u, 100u, 1024u}) {
      NormShape s;
      s.rows = 5;
      s.heads = 3;
      s.dim = dim;
      s.gap = gap;
      s.aligned = true;
      check(s, 3);
    }
  }
}

TEST(CudaRmsNorm, WeightsInF32AndWeightsThatCountFromOne) {
  for (const int32_t dtype : kDtypes) {
    for (const uint32_t dim : {96u, 776u}) {
      for (const bool aligned : {false, true}) {
        NormShape s;
        s.dtype = dtype;
        s.dim = dim;
        s.weight_dtype = RADIX_F32;
        s.plus_one = true;
        s.aligned = true;
        s.aligned_weight = aligned;
        check(s, 4);
      }
    }
  }
}

TEST(CudaRmsNorm, InPlace) {
  for (const int32_t dtype : kDtypes) {
    for (const uint32_t dim : {128u, 1032u}) {
      NormShape s;
      s.dtype = dtype;
      s.dim = dim;
      s.in_place = true;
      s.aligned = dim == 128;
      s.gap = 8;
      check(s, 5);
    }
  }
}

TEST(CudaRmsNorm, RowsOfZerosAndOfTheLargestNumbers) {
  for (const uint32_t dim : {128u, 1024u}) {
    NormShape s;
    s.dim = dim;
    s.amplitude = 0;
    check(s, 6);
    s.eps = 1e3f;  // as large as the mean: it counts
    s.amplitude = 30;
    check(s, 6);
    NormCase c = make(s, 6);
    for (uint32_t e = 0; e < dim; ++e) c.x.set(e, e % 2 == 0 ? 65504 : -65504);
    const NormCase given = c;
    ASSERT_EQ(run(&c), RADIX_OK) << last_message();
    expect_vector(given, c.y, 0, 0);
  }
}

// Alone, in a batch, and wherever it lies: the same bits.
TEST(CudaRmsNorm, ARowsBitsDoNotDependOnTheBatch) {
  for (const int32_t dtype : kDtypes) {
    for (const uint32_t dim : {120u, 512u, 1111u, 4096u}) {
      NormShape s;
      s.rows = 6;
      s.heads = 1;
      s.dim = dim;
      s.dtype = dtype;
      s.gap = 1;  // so that rows of the batch are aligned differently
      NormCase batch = make(s, 7);
      ASSERT_EQ(run(&batch), RADIX_OK) << last_message();
      for (uint32_t row = 0; row < s.rows; ++row) {
        NormShape one = s;
        one.rows = 1;
        one.aligned = one.aligned_weight = true;
        NormCase alone = make(one, 8);
        for (uint32_t e = 0; e < dim; ++e) {
          alone.x.set(e, batch.x.get(at_of(batch.p.x, row, 0) + e));
          alone.weight.set(e, batch.weight.get(e));
        }
        ASSERT_EQ(run(&alone), RADIX_OK) << last_message();
        for (uint32_t e = 0; e < dim; ++e)
          ASSERT_EQ(alone.y.get(e), batch.y.get(at_of(batch.p.y, row, 0) + e))
              << "row " << row << " element " << e;
      }
    }
  }
}

TEST(CudaRmsNorm, NoRowsAreNoLaunch) {
  NormShape s;
  NormCase c = make(s, 9);
  c.p.num_rows = 0;
  EXPECT_EQ(run(&c), RADIX_OK) << last_message();
  EXPECT_TRUE(c.y.is_filled_with(0, kPoisonByte));
}

TEST(CudaRmsNorm, RandomCases) {
  for_random_cases("cuda rms norm", 30, [](uint64_t seed) {
    SCOPED_TRACE(::testing::Message() << "replay with RADIX_TEST_ONLY=" << seed);
    Rng rng(seed);
    NormShape s;
    s.rows = rng.between(1, 9);
    s.heads = rng.between(1, 9);
    s.dim = rng.one_in(3) ? rng.between(1, 3000) : 8 * rng.between(1, 40);
    s.dtype = rng.pick(kDtypes);
    s.weight_dtype = rng.one_in(3) ? RADIX_F32 : 0;
    s.gap = rng.one_in(2) ? 8 * rng.below(3) : rng.below(7);
    s.aligned = rng.one_in(2);
    s.aligned_weight = rng.one_in(2);
    s.plus_one = rng.one_in(3);
    s.in_place = rng.one_in(3);
    s.amplitude = rng.pick({1e-3, 1.0, 100.0});
    check(s, seed);
  });
}

}  // namespace
}  // namespace radixattn::test
