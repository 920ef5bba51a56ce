// Pearson's chi-square test of counts against exact probabilities.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

namespace radixattn::test {

// Q(a, x), the regularised upper incomplete gamma function: its series for small x, its continued
// fraction (modified Lentz) for large.
inline double upper_gamma(double a, double x) {
  const double front = std::exp(a * std::log(x) - x - std::lgamma(a));
  if (x < a + 1) {
    double term = 1 / a, sum = term;
    for (int n = 1; n < 1000; ++n) sum += term *= x / (a + n);
    return 1 - front * sum;
  }
  double b = x + 1 - a, c = 1e300, d = 1 / b, h = d;
  for (int n = 1; n < 1000; ++n) {
    const double an = -n * (n - a);
    b += 2;
    d = 1 / (an * d + b);
    c = b + an / c;
    h *= d * c;
  }
  return front * h;
}

struct ChiSquare {
  double statistic = 0;
  int degrees = -1;
  double p_value = 0;
  bool impossible = false;  // something happened that has probability 0
};

// Outcomes that are expected less than 5 times are put together.
inline ChiSquare chi_square(const std::vector<uint64_t>& counts,
                            const std::vector<double>& probabilities) {
  ChiSquare result;
  double n = 0, rare = 0, rare_expected = 0;
  for (const uint64_t c : counts) n += static_cast<double>(c);
  const auto add = [&](double seen, double expected) {
    result.statistic += (seen - expected) * (seen - expected) / expected;
    ++result.degrees;
  };
  for (size_t i = 0; i < counts.size(); ++i) {
    const double seen = static_cast<double>(counts[i]), expected = n * probabilities[i];
    if (probabilities[i] == 0 && counts[i] != 0) result.impossible = true;
    if (expected >= 5) {
      add(seen, expected);
    } else {
      rare += seen;
      rare_expected += expected;
    }
  }
  if (rare_expected >= 1) add(rare, rare_expected);
  result.p_value = result.degrees > 0 ? upper_gamma(result.degrees / 2., result.statistic / 2) : 1;
  return result;
}

inline ChiSquare expect_distribution(const char* name, const std::vector<uint64_t>& counts,
                                     const std::vector<double>& probabilities) {
  const ChiSquare c = chi_square(counts, probabilities);
  std::printf("  %-44s chi-square %8.2f, %3d degrees of freedom: p = %.4f\n", name, c.statistic,
              c.degrees, c.p_value);
  EXPECT_FALSE(c.impossible) << name << ": an outcome of probability 0 was drawn";
  EXPECT_GT(c.p_value, 1e-3) << name;
  return c;
}

}  // namespace radixattn::test
