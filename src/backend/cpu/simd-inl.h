// What every kernel source needs from Highway: float vectors, and loads and stores that convert
// f32, f16 and bf16.
//
// Include it only from sources that are compiled once per target: RADIX_CPU_TARGET_NS names the
// target's namespace and the compiler flags choose Highway's static target. Everything here is
// `static inline`, always inlined, and no std:: template is used: an object built for AVX-512 must
// hold no weak symbol that a linker could pick for a machine without AVX-512 (check_objects.cmake
// looks).
//
// NOTE: Highway 1.0.3 truncates in f32 -> bf16 and, with one lane, mishandles f16 infinities and
// rounding; the conversions below round to nearest even and keep infinities and NaN on every
// target.
#pragma once

#ifndef RADIX_CPU_TARGET_NS
#error "compile this source through src/backend/cpu/CMakeLists.txt: it sets the target's namespace"
#endif

#include <stddef.h>
#include <stdint.h>

#include "hwy/highway.h"
#include "radixattn.h"

#define RADIX_INLINE static inline __attribute__((always_inline))
// What is rare, so that it takes no registers of the loops, and loops that want all of them.
#define RADIX_NOINLINE static __attribute__((noinline))

namespace radixattn {
namespace RADIX_CPU_TARGET_NS {

namespace hn = hwy::HWY_NAMESPACE;

// Storage types. 16-bit floats are bits: arithmetic is always f32.
using F32 = float;
struct F16 {
  uint16_t bits;
};
struct BF16 {
  uint16_t bits;
};

using DF = hn::ScalableTag<float>;  // the full vector of floats of this target
using DI = hn::RebindToSigned<DF>;
using DU = hn::RebindToUnsigned<DF>;
using DH = hn::Rebind<uint16_t, DF>;  // as many 16-bit lanes
using VF = hn::Vec<DF>;
constexpr size_t kLanes = HWY_LANES(float);  // 16, 8, 4 or 1: divides 8, or is twice that

// ---- one element

RADIX_INLINE uint32_t float_bits(float x) {
  uint32_t u;
  __builtin_memcpy(&u, &x, 4);
  return u;
}

RADIX_INLINE float bits_float(uint32_t u) {
  float x;
  __builtin_memcpy(&x, &u, 4);
  return x;
}

RADIX_INLINE float to_f32(float x) { return x; }
RADIX_INLINE float to_f32(BF16 x) { return bits_float(uint32_t{x.bits} << 16); }

RADIX_INLINE float to_f32(F16 x) {
  const uint32_t sign = (uint32_t{x.bits} & 0x8000u) << 16;
  const uint32_t magnitude = (uint32_t{x.bits} & 0x7fffu) << 13;
  if (magnitude >= 0x0f800000u) return bits_float(sign | 0x70000000u | magnitude);  // infinity, NaN
  // Shifted in place the exponent is 112 too small; the product rebiases it and normalises
  // subnormals, exactly.
  return bits_float(sign | float_bits(bits_float(magnitude) * bits_float((254u - 15u) << 23)));
}

RADIX_INLINE void from_f32(float x, float* out) { *out = x; }

RADIX_INLINE void from_f32(float x, BF16* out) {
  const uint32_t u = float_bits(x);
  const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
  out->bits = static_cast<uint16_t>((nan ? (u | 0x400000u) : u + 0x7fffu + ((u >> 16) & 1)) >> 16);
}

RADIX_INLINE void from_f32(float x, F16* out) {
  const uint32_t u = float_bits(x);
  const uint32_t magnitude = u & 0x7fffffffu;
  uint32_t h;
  if (magnitude > 0x7f800000u) {
    h = 0x7e00u | ((magnitude >> 13) & 0x3ffu);  // NaN stays NaN
  } else if (magnitude >= 0x477ff000u) {
    h = 0x7c00u;  // 65520 and more round to infinity
  } else if (magnitude < 0x38800000u) {
    // Below 2^-14: adding 0.5 aligns the mantissa to multiples of 2^-24 and rounds to nearest even.
    h = float_bits(bits_float(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    h = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1)) >> 13;
  }
  out->bits = static_cast<uint16_t>(h | ((u >> 16) & 0x8000u));
}

// ---- vectors: kLanes elements, any alignment

RADIX_INLINE VF load_f32(const float* p) { return hn::LoadU(DF(), p); }

RADIX_INLINE void store_f32(VF v, float* p) { hn::StoreU(v, DF(), p); }

#if HWY_TARGET == HWY_SCALAR

RADIX_INLINE VF load_f32(const F16* p) { return hn::Set(DF(), to_f32(*p)); }
RADIX_INLINE VF load_f32(const BF16* p) { return hn::Set(DF(), to_f32(*p)); }
RADIX_INLINE void store_f32(VF v, F16* p) { from_f32(hn::GetLane(v), p); }
RADIX_INLINE void store_f32(VF v, BF16* p) { from_f32(hn::GetLane(v), p); }

#else

// D: a tag of floats, at most kLanes of them (the halves below use a shorter one).
template <class D>
RADIX_INLINE hn::Vec<D> load_as(D d, const float* p) {
  return hn::LoadU(d, p);
}

template <class D>
RADIX_INLINE hn::Vec<D> load_as(D d, const F16* p) {
  const hn::Rebind<hwy::float16_t, D> d16;
  return hn::PromoteTo(d, hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(p)));
}

template <class D>
RADIX_INLINE hn::Vec<D> load_as(D d, const BF16* p) {
  const hn::Rebind<uint16_t, D> d16;
  const hn::RebindToUnsigned<D> du;
  const auto raw = hn::LoadU(d16, reinterpret_cast<const uint16_t*>(p));
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du, raw)));
}

template <class D>
RADIX_INLINE void store_as(D d, hn::Vec<D> v, float* p) {
  hn::StoreU(v, d, p);
}

template <class D>
RADIX_INLINE void store_as(D d, hn::Vec<D> v, F16* p) {
  (void)d;
  const hn::Rebind<hwy::float16_t, D> d16;
  hn::StoreU(hn::DemoteTo(d16, v), d16, reinterpret_cast<hwy::float16_t*>(p));
}

template <class D>
RADIX_INLINE void store_as(D d, hn::Vec<D> v, BF16* p) {
  (void)d;
  const hn::RebindToUnsigned<D> du;
  const hn::RebindToSigned<D> di;
  const hn::Rebind<uint16_t, D> d16;
  const auto u = hn::BitCast(du, v);
  const auto odd = hn::And(hn::ShiftRight<16>(u), hn::Set(du, 1u));
  const auto rounded = hn::Add(u, hn::Add(odd, hn::Set(du, 0x7fffu)));
  const auto quiet = hn::Or(u, hn::Set(du, 0x400000u));
  // NOTE: Ne(v, v) is false for NaN on x86 in Highway 1.0.3 (an ordered compare), so the bits
  // decide.
  const auto magnitude = hn::BitCast(di, hn::And(u, hn::Set(du, 0x7fffffffu)));
  const auto is_nan = hn::RebindMask(du, hn::Gt(magnitude, hn::Set(di, 0x7f800000)));
  const auto top = hn::ShiftRight<16>(hn::IfThenElse(is_nan, quiet, rounded));
  hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di, top)), d16, reinterpret_cast<uint16_t*>(p));
}

RADIX_INLINE VF load_f32(const F16* p) { return load_as(DF(), p); }
RADIX_INLINE VF load_f32(const BF16* p) { return load_as(DF(), p); }
RADIX_INLINE void store_f32(VF v, F16* p) { store_as(DF(), v, p); }
RADIX_INLINE void store_f32(VF v, BF16* p) { store_as(DF(), v, p); }

#endif

// Head dims are multiples of 8: with 16 lanes a row may end in half a vector. These touch 8
// elements; the upper lanes load as zero. With fewer lanes no row has such a tail and nobody calls
// them.
template <class T>
RADIX_INLINE VF load_f32_half(const T* p) {
#if HWY_MAX_BYTES == 64
  return hn::ZeroExtendVector(DF(), load_as(hn::Half<DF>(), p));
#else
  return load_f32(p);
#endif
}

template <class T>
RADIX_INLINE void store_f32_half(VF v, T* p) {
#if HWY_MAX_BYTES == 64
  store_as(hn::Half<DF>(), hn::LowerHalf(v), p);
#else
  store_f32(v, p);
#endif
}

// `words` (a multiple of 4) words of 32 bits.
template <class T>
RADIX_INLINE void copy_words(const T* from, float* to, uint32_t words) {
  const auto* at = reinterpret_cast<const char*>(from);
  for (uint32_t i = 0; i < words; i += 4) __builtin_memcpy(to + i, at + 4 * i, 16);
}

// A row of n elements (a multiple of 8) to floats and back.
template <class T>
RADIX_INLINE void row_to_f32(const T* from, float* to, size_t n) {
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store_f32(load_f32(from + i), to + i);
  if (i < n) store_f32_half(load_f32_half(from + i), to + i);
}

template <class T>
RADIX_INLINE void row_from_f32(const float* from, T* to, size_t n) {
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store_f32(load_f32(from + i), to + i);
  if (i < n) store_f32_half(load_f32_half(from + i), to + i);
}

}  // namespace RADIX_CPU_TARGET_NS
}  // namespace radixattn
