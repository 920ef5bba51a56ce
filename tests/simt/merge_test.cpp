// The CUDA merge of attention states against the definition in double. (Decode's own merge is
// tested with decode.)
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "attention_launchers.h"
#include "support/rng.h"
#include "support/tolerance.h"

namespace radixattn::test {
namespace {

struct States {
  cuda::MergeParams p;
  std::vector<Elements> o;
  std::vector<std::vector<float>> lse;
  Elements out;
  std::vector<float> out_lse;
};

// One in four states is empty; row 1 of every state is.
States make(uint32_t num_states, uint32_t rows, uint32_t heads, uint32_t dim, int32_t dtype,
            int64_t pad) {
  States s;
  Rng rng(9);
  cuda::MergeParams& p = s.p;
  p.num_states = num_states;
  p.num_rows = rows;
  p.num_heads = heads;
  p.head_dim = dim;
  const int64_t head = dim + pad, row = head * heads + pad;
  for (uint32_t i = 0; i < num_states; ++i) {
    s.o.emplace_back(dtype, row * rows, kNanByte);
    s.lse.emplace_back(size_t{rows} * heads);
    for (uint32_t at = 0; at < rows * heads; ++at) {
      const bool empty = at / heads == 1 || rng.one_in(4);
      s.lse[i][at] = empty ? -INFINITY : 20.f * rng.uniform();
      for (uint32_t e = 0; e < dim; ++e)
        s.o[i].set(at / heads * row + at % heads * head + e, empty ? 0.0 : rng.uniform());
    }
  }
  s.out = Elements(dtype, row * rows, kPoisonByte);
  s.out_lse.assign(size_t{rows} * heads, NAN);
  for (uint32_t i = 0; i < num_states; ++i) {
    p.in[i] = {s.o[i].data(), dtype, row, head};
    p.in_lse[i] = s.lse[i].data();
  }
  p.out = {s.out.data(), dtype, row, head};
  p.out_lse = s.out_lse.data();
  return s;
}

void expect_merged(const States& s) {
  const cuda::MergeParams& p = s.p;
  for (uint32_t at = 0; at < p.num_rows * p.num_heads; ++at) {
    double top = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < p.num_states; ++i) top = std::max(top, double{s.lse[i][at]});
    for (uint32_t i = 0; i < p.num_states && top != -INFINITY; ++i)
      sum += std::exp(s.lse[i][at] - top);
    const int64_t from = at / p.num_heads * p.out.row_stride + at % p.num_heads * p.out.head_stride;
    for (uint32_t e = 0; e < p.head_dim; ++e) {
      double x = 0;
      for (uint32_t i = 0; i < p.num_states && sum > 0; ++i)
        x += std::exp(s.lse[i][at] - top) / sum * s.o[i].get(from + e);
      EXPECT_NEAR(s.out.get(from + e), x, 3e-6 + unit_in_last_place(p.out.dtype, x))
          << at << " " << e;
    }
    if (sum > 0) {
      EXPECT_NEAR(s.out_lse[at], top + std::log(sum), 1e-5);
    } else {
      EXPECT_EQ(s.out_lse[at], -INFINITY);
    }
  }
}

TEST(CudaMerge, MatchesTheDefinition) {
  for (const int32_t dtype : {RADIX_F32, RADIX_F16, RADIX_BF16}) {
    for (const uint32_t n : {1u, 2u, 5u, cuda::MergeParams::kMaxStates}) {
      for (const uint32_t dim : {8u, 40u, 128u, 256u}) {
        States s = make(n, 5, 6, dim, dtype, n == 2 ? 3 : 0);
        ASSERT_EQ(merge_on_device(s.p), RADIX_OK) << last_message();
        expect_merged(s);
      }
    }
  }
}

TEST(CudaMerge, TheLseMayBeLeftOut) {
  States s = make(3, 4, 3, 64, RADIX_F32, 0);
  s.p.out_lse = nullptr;
  ASSERT_EQ(merge_on_device(s.p), RADIX_OK) << last_message();
  for (const float x : s.out_lse) EXPECT_TRUE(std::isnan(x));
}

}  // namespace
}  // namespace radixattn::test
