#include "backend/reference/numeric.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "radixattn.h"

namespace radixattn::reference {
namespace {

struct Format {
  int exponent_bits;
  int mantissa_bits;
  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  int min_exponent() const { return 1 - bias(); }
  uint32_t infinity() const { return ((1u << exponent_bits) - 1) << mantissa_bits; }
};

constexpr Format kF16 = {5, 10};
constexpr Format kBf16 = {8, 7};

double decode(uint16_t bits, const Format& f) {
  const uint32_t magnitude = bits & 0x7fffu;
  const double sign = (bits & 0x8000u) != 0 ? -1.0 : 1.0;
  if (magnitude > f.infinity()) return std::copysign(NAN, sign);
  if (magnitude == f.infinity()) return sign * INFINITY;
  const uint32_t one = 1u << f.mantissa_bits;
  const int stored = static_cast<int>(magnitude / one);
  const uint32_t mantissa = magnitude % one;
  if (stored == 0) return sign * std::ldexp(mantissa, f.min_exponent() - f.mantissa_bits);
  return sign * std::ldexp(one + mantissa, stored - f.bias() - f.mantissa_bits);
}

uint16_t encode(double x, const Format& f) {
  const uint32_t sign = std::signbit(x) ? 0x8000u : 0u;
  if (std::isnan(x))
    return static_cast<uint16_t>(sign | f.infinity() | 1u << (f.mantissa_bits - 1));
  const double a = std::fabs(x);
  uint32_t magnitude = f.infinity();
  if (!std::isinf(a)) {
    const int exponent = a == 0.0 ? f.min_exponent() : std::max(std::ilogb(a), f.min_exponent());
    // Exact: a division by a power of two. nearbyint rounds to nearest even, the default mode.
    const double k = std::nearbyint(std::ldexp(a, f.mantissa_bits - exponent));
    // The stored exponent counts from 0 for subnormals, whose k is below 2^m; a k of 2^(m+1)
    // carries into it.
    const double code = std::ldexp(exponent - f.min_exponent(), f.mantissa_bits) + k;
    if (code < magnitude) magnitude = static_cast<uint32_t>(code);
  }
  return static_cast<uint16_t>(sign | magnitude);
}

// Decoded once: a test looks at hundreds of millions of elements.
std::vector<double> all_values(const Format& f) {
  std::vector<double> values(65536);
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    values[bits] = decode(static_cast<uint16_t>(bits), f);
  }
  return values;
}

}  // namespace

double decode_f16(uint16_t bits) { return decode(bits, kF16); }
double decode_bf16(uint16_t bits) { return decode(bits, kBf16); }
uint16_t encode_f16(double x) { return encode(x, kF16); }
uint16_t encode_bf16(double x) { return encode(x, kBf16); }

double load_element(const void* data, int32_t dtype, int64_t index) {
  static const std::vector<double> f16 = all_values(kF16);
  static const std::vector<double> bf16 = all_values(kBf16);
  if (dtype == RADIX_F32) return static_cast<const float*>(data)[index];
  const uint16_t bits = static_cast<const uint16_t*>(data)[index];
  return dtype == RADIX_F16 ? f16[bits] : bf16[bits];
}

void store_element(void* data, int32_t dtype, int64_t index, double x) {
  if (dtype == RADIX_F32) {
    static_cast<float*>(data)[index] = static_cast<float>(x);
  } else {
    static_cast<uint16_t*>(data)[index] = dtype == RADIX_F16 ? encode_f16(x) : encode_bf16(x);
  }
}

}  // namespace radixattn::reference
