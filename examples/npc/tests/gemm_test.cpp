#include "gemm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "error.h"

namespace npc::test {
namespace {

std::vector<float> random_floats(size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& v : values) v = normal(random);
  return values;
}

TEST(Linear, EqualsTheSumInDouble) {
  for (const auto& [rows, in, out] :
       {std::tuple{1, 1, 1}, {3, 7, 5}, {9, 64, 16}, {17, 129, 33}, {8, 300, 100}}) {
    const auto m = static_cast<size_t>(rows), k = static_cast<size_t>(in),
               n = static_cast<size_t>(out);
    const std::vector<float> x = random_floats(m * k, 1), w = random_floats(n * k, 2),
                             bias = random_floats(n, 3);
    Linear linear(k, n);
    linear.set_rows(0, std::span(w).first(n / 2 * k));
    linear.set_rows(n / 2, std::span(w).subspan(n / 2 * k));
    linear.set_bias(0, bias);
    std::vector<float> y(m * n, 100.f), sum(m * n, 100.f);
    linear.apply(x.data(), m, y.data());
    linear.apply(x.data(), m, sum.data(), true);
    for (size_t i = 0; i < m * n; ++i) {
      double want = bias[i % n];
      for (size_t j = 0; j < k; ++j) want += double{x[i / n * k + j]} * w[i % n * k + j];
      ASSERT_NEAR(y[i], want, 1e-5 * std::sqrt(static_cast<double>(k)) + 1e-5);
      ASSERT_EQ(sum[i], 100.f + y[i]);
    }
  }
}

TEST(Linear, ARowHasTheSameBitsInAnyBatch) {
  constexpr size_t kRows = 37, kIn = 211, kOut = 50;
  const std::vector<float> x = random_floats(kRows * kIn, 4), w = random_floats(kOut * kIn, 5);
  Linear linear(kIn, kOut);
  linear.set_rows(0, w);
  std::vector<float> whole(kRows * kOut), part(kRows * kOut);
  linear.apply(x.data(), kRows, whole.data());
  int compared = 0;
  for (size_t first = 0; first < kRows; ++first) {
    for (size_t n = 1; first + n <= kRows; ++n, ++compared) {
      linear.apply(x.data() + first * kIn, n, part.data());
      ASSERT_EQ(std::memcmp(part.data(), whole.data() + first * kOut, n * kOut * sizeof(float)), 0)
          << first << "+" << n;
    }
  }
  EXPECT_EQ(compared, 37 * 38 / 2);
}

TEST(Linear, RefusesWeightsThatDoNotFit) {
  Linear linear(4, 6);
  EXPECT_THROW(linear.set_rows(0, std::vector<float>(7)), Error);
  EXPECT_THROW(linear.set_rows(5, std::vector<float>(8)), Error);
  EXPECT_THROW(linear.set_bias(5, std::vector<float>(2)), Error);
}

}  // namespace
}  // namespace npc::test
