// Vector exp2 and tanh, in f32, for kernel sources only (see simd-inl.h).
//
// exp2: 1.1 ulp over the normal range; below 2^-126 the result is 0, with AVX-512 subnormal, so
// -inf gives 0; from 2^128 on it is 2^127, with AVX-512 infinity; NaN stays NaN. tanh: 2 ulp.
// Coefficients: Chebyshev interpolation, evaluated exactly and rounded to float.
#pragma once

#include "backend/cpu/simd-inl.h"

namespace radixattn {
namespace RADIX_CPU_TARGET_NS {

constexpr float kLog2e = 1.44269504f;
constexpr float kLn2 = 0.693147181f;
constexpr float kMinusInf = -__builtin_inff();

// 2^f for f in [-0.5, 0.5].
RADIX_INLINE VF exp2_fraction(VF f) {
  const DF d;
  VF p = hn::Set(d, 1.5453159e-4f);
  p = hn::MulAdd(p, f, hn::Set(d, 1.3390863e-3f));
  p = hn::MulAdd(p, f, hn::Set(d, 9.618083e-3f));
  p = hn::MulAdd(p, f, hn::Set(d, 5.550357e-2f));
  p = hn::MulAdd(p, f, hn::Set(d, 2.4022651e-1f));
  p = hn::MulAdd(p, f, hn::Set(d, 6.9314718e-1f));
  return hn::MulAdd(p, f, hn::Set(d, 1.f));
}

RADIX_INLINE VF exp2_f32(VF x) {
#if HWY_TARGET == HWY_AVX3
  // Half the instructions of the way below: VSCALEFPS knows the ends of the range.
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  const __m512 whole = _mm512_roundscale_ps(x.raw, kNearest);
  const VF fraction = {_mm512_reduce_ps(x.raw, kNearest)};  // x - whole, but 0 for infinities
  const VF y = {_mm512_scalef_ps(exp2_fraction(fraction).raw, whole)};
  return y;
#else
  const DF d;
  const DI di;
  // Adding 1.5*2^23 rounds x to an integer and leaves that integer in the low mantissa bits.
  const VF magic = hn::Set(d, 12582912.f);
  const VF clamped = hn::Max(hn::Min(x, hn::Set(d, 127.f)), hn::Set(d, -126.f));
  const VF shifted = hn::Add(clamped, magic);
  const VF f = hn::Sub(clamped, hn::Sub(shifted, magic));
  const auto scale = hn::ShiftLeft<23>(hn::BitCast(di, shifted));
  const VF y = hn::BitCast(d, hn::Add(hn::BitCast(di, exp2_fraction(f)), scale));
  const VF flushed = hn::IfThenElse(hn::Lt(x, hn::Set(d, -126.f)), hn::Zero(d), y);
  return hn::IfThenElse(hn::Eq(x, x), flushed, x);
#endif
}

RADIX_INLINE VF tanh_f32(VF x) {
  const DF d;
  const VF z = hn::Mul(x, x);
  VF p = hn::Set(d, -6.0451645e-3f);
  p = hn::MulAdd(p, z, hn::Set(d, 2.0961329e-2f));
  p = hn::MulAdd(p, z, hn::Set(d, -5.3843264e-2f));
  p = hn::MulAdd(p, z, hn::Set(d, 1.3332719e-1f));
  p = hn::MulAdd(p, z, hn::Set(d, -3.3333328e-1f));
  const VF small = hn::MulAdd(hn::Mul(p, z), x, x);
  // 1 - 2/(e^(2|x|) + 1), with the sign of x.
  const VF magnitude = hn::Abs(x);
  const VF e = exp2_f32(hn::Mul(magnitude, hn::Set(d, 2.f * kLog2e)));
  const VF one = hn::Set(d, 1.f);
  const VF large = hn::Sub(one, hn::Div(hn::Set(d, 2.f), hn::Add(e, one)));
  return hn::IfThenElse(hn::Lt(magnitude, hn::Set(d, 0.625f)), small, hn::CopySign(large, x));
}

// One float through the vector code, so that single values and vectors agree to the bit.
RADIX_INLINE float exp2_one(float x) { return hn::GetLane(exp2_f32(hn::Set(DF(), x))); }

// log2 of a positive normal float: 2 ulp. m in [sqrt(1/2), sqrt(2)), log via 2 atanh((m-1)/(m+1)).
RADIX_INLINE float log2_one(float x) {
  const uint32_t u = float_bits(x);
  const int32_t e = static_cast<int32_t>((u - 0x3f3504f3u)) >> 23;
  const float m = bits_float(u - (static_cast<uint32_t>(e) << 23));
  const double s = (static_cast<double>(m) - 1.0) / (static_cast<double>(m) + 1.0);
  const double z = s * s;
  const double series =
      1.0 + z * (1.0 / 3 +
                 z * (1.0 / 5 + z * (1.0 / 7 + z * (1.0 / 9 + z * (1.0 / 11 + z * (1.0 / 13))))));
  return static_cast<float>(static_cast<double>(e) + 2.8853900817779268 * s * series);
}

}  // namespace RADIX_CPU_TARGET_NS
}  // namespace radixattn
