// How far a result may be from the reference: the one place where the tests say so.
//
// The measure is the plain computation in f32 (support/plain_attention.h): loops in the order of
// the definition, no tricks. A kernel may be twice as far from the reference as the worst element
// of that is, plus what rounds at this size:
//
//   out:  2 * max|plain - ref| + (4e-7 + 2^-23 * max|lse|) * max|V| + half a unit in the last place
//         of the output's dtype
//   lse:  2 * max|plain - ref| + 1e-6 * (1 + |ref|)
//
// 2^-23 * max|lse|: scores of that size are rounded to f32 twice, as sums and in whatever unit they
// are wanted, and a plain computation of few rows may be lucky.
//
// -inf must be -inf, and the zeros of a row that sees nothing must be zeros. Rotary results have no
// plain counterpart: 3 roundings of f32 (cos, sin, products, sum) of the pair's larger element,
// plus one unit in the last place of the destination, because the reference was rounded, too.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "radixattn.h"

namespace radixattn::test {

// The distance of neighbouring numbers of a dtype around x.
inline double unit_in_last_place(int32_t dtype, double x) {
  const int mantissas[] = {0, 23, 10, 7, 3, 2};  // by dtype
  const int min_exponents[] = {0, -126, -14, -126, -6, -14};
  const int mantissa = mantissas[dtype], min_exponent = min_exponents[dtype];
  const double a = std::fabs(x);
  const int exponent = a == 0.0 ? min_exponent : std::max(std::ilogb(a), min_exponent);
  return std::ldexp(1.0, exponent - mantissa);
}

// What all outputs of one launch have in common.
struct OutScale {
  double plain_error = 0;  // max|plain - ref|
  double max_lse = 0;      // of rows that see something
  double max_v = 0;
};

inline double out_tolerance(const OutScale& s, int32_t out_dtype, double ref) {
  const double exact = 2 * s.plain_error + (4e-7 + std::ldexp(s.max_lse, -23)) * s.max_v;
  return exact + 0.5 * unit_in_last_place(out_dtype, std::fabs(ref) + exact);
}

inline double lse_tolerance(double plain_error, double ref) {
  return 2 * plain_error + 1e-6 * (1 + std::fabs(ref));
}

inline double rotary_tolerance(double largest, int32_t dtype, double ref) {
  return 3 * std::ldexp(largest, -23) + unit_in_last_place(dtype, ref);
}

}  // namespace radixattn::test
