#include "backend/reference/numeric.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "radixattn.h"

namespace radixattn::reference {
namespace {

// `largest`: the code of the largest finite magnitude. Codes above it are infinity (if `infinite`)
// and NaN.
struct Format {
  int exponent_bits;
  int mantissa_bits;
  uint32_t largest;
  bool infinite;  // else what is too large becomes the largest
  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  int min_exponent() const { return 1 - bias(); }
  uint32_t sign_bit() const { return 1u << (exponent_bits + mantissa_bits); }
  uint32_t nan() const { return sign_bit() - 1; }
  bool codes_infinity(uint32_t magnitude) const {
    return magnitude == largest + 1 && magnitude != nan();
  }
};

constexpr Format kF16 = {5, 10, 0x7bff, true};
constexpr Format kBf16 = {8, 7, 0x7f7f, true};
constexpr Format kE4m3 = {4, 3, 0x7e, false};
constexpr Format kE5m2 = {5, 2, 0x7b, false};

double decode(uint32_t bits, const Format& f) {
  const uint32_t magnitude = bits & (f.sign_bit() - 1);
  const double sign = (bits & f.sign_bit()) != 0 ? -1.0 : 1.0;
  if (f.codes_infinity(magnitude)) return sign * INFINITY;
  if (magnitude > f.largest) return std::copysign(NAN, sign);
  const uint32_t one = 1u << f.mantissa_bits;
  const int stored = static_cast<int>(magnitude / one);
  const uint32_t mantissa = magnitude % one;
  if (stored == 0) return sign * std::ldexp(mantissa, f.min_exponent() - f.mantissa_bits);
  return sign * std::ldexp(one + mantissa, stored - f.bias() - f.mantissa_bits);
}

uint32_t encode(double x, const Format& f) {
  const uint32_t sign = std::signbit(x) ? f.sign_bit() : 0u;
  if (std::isnan(x))
    return sign | (f.infinite ? f.largest + 1 + (1u << (f.mantissa_bits - 1)) : f.nan());
  const double a = std::fabs(x);
  uint32_t magnitude = f.infinite ? f.largest + 1 : f.largest;
  if (!std::isinf(a)) {
    const int exponent = a == 0.0 ? f.min_exponent() : std::max(std::ilogb(a), f.min_exponent());
    // Exact: a division by a power of two. nearbyint rounds to nearest even, the default mode.
    const double k = std::nearbyint(std::ldexp(a, f.mantissa_bits - exponent));
    // The stored exponent counts from 0 for subnormals, whose k is below 2^m; a k of 2^(m+1)
    // carries into it.
    const double code = std::ldexp(exponent - f.min_exponent(), f.mantissa_bits) + k;
    if (code < magnitude) magnitude = static_cast<uint32_t>(code);
  }
  return sign | magnitude;
}

// Decoded once: a test looks at hundreds of millions of elements.
std::vector<double> all_values(const Format& f) {
  std::vector<double> values(2 * f.sign_bit());
  for (uint32_t bits = 0; bits < values.size(); ++bits) values[bits] = decode(bits, f);
  return values;
}

}  // namespace

double decode_f16(uint16_t bits) { return decode(bits, kF16); }
double decode_bf16(uint16_t bits) { return decode(bits, kBf16); }
uint16_t encode_f16(double x) { return static_cast<uint16_t>(encode(x, kF16)); }
uint16_t encode_bf16(double x) { return static_cast<uint16_t>(encode(x, kBf16)); }
double decode_e4m3(uint8_t bits) { return decode(bits, kE4m3); }
double decode_e5m2(uint8_t bits) { return decode(bits, kE5m2); }
uint8_t encode_e4m3(double x) { return static_cast<uint8_t>(encode(x, kE4m3)); }
uint8_t encode_e5m2(double x) { return static_cast<uint8_t>(encode(x, kE5m2)); }

double load_element(const void* data, int32_t dtype, int64_t index) {
  static const std::vector<double> f16 = all_values(kF16), bf16 = all_values(kBf16);
  static const std::vector<double> e4m3 = all_values(kE4m3), e5m2 = all_values(kE5m2);
  switch (dtype) {
    case RADIX_F32:
      return static_cast<const float*>(data)[index];
    case RADIX_F16:
      return f16[static_cast<const uint16_t*>(data)[index]];
    case RADIX_BF16:
      return bf16[static_cast<const uint16_t*>(data)[index]];
    case RADIX_F8_E4M3:
      return e4m3[static_cast<const uint8_t*>(data)[index]];
    default:
      return e5m2[static_cast<const uint8_t*>(data)[index]];
  }
}

void store_element(void* data, int32_t dtype, int64_t index, double x) {
  switch (dtype) {
    case RADIX_F32:
      static_cast<float*>(data)[index] = static_cast<float>(x);
      break;
    case RADIX_F16:
      static_cast<uint16_t*>(data)[index] = encode_f16(x);
      break;
    case RADIX_BF16:
      static_cast<uint16_t*>(data)[index] = encode_bf16(x);
      break;
    case RADIX_F8_E4M3:
      static_cast<uint8_t*>(data)[index] = encode_e4m3(x);
      break;
    default:
      static_cast<uint8_t*>(data)[index] = encode_e5m2(x);
  }
}

}  // namespace radixattn::reference
