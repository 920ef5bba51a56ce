// RMSNorm of vectors (compiled once for every target).
//
//   y = x / sqrt(mean(x^2) + eps) * w        (Zhang & Sennrich 2019)      w: weight, or 1 + weight
//
// f32 throughout, rounded once, on the way out. A vector's sum of squares runs along the lanes and
// then from lane to lane, so a row has the same bits in every call. y may be x: a vector is read to
// its end before any of it is written.
#include "backend/backend.h"
#include "backend/cpu/kernel_set-inl.h"
#include "backend/cpu/simd-inl.h"

namespace radixattn {
namespace RADIX_CPU_TARGET_NS {
namespace {

template <class T>
RADIX_INLINE float sum_of_squares(const T* x, uint32_t n) {
  const DF d;
  VF sum = hn::Zero(d);
  uint32_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const VF v = load_f32(x + i);
    sum = hn::MulAdd(v, v, sum);
  }
  alignas(64) float lanes[kLanes];
  hn::StoreU(sum, d, lanes);
  float total = 0.f;
  for (uint32_t k = 0; k < kLanes; ++k) total += lanes[k];
  for (; i < n; ++i) total += to_f32(x[i]) * to_f32(x[i]);
  return total;
}

template <class X, class W, class Y>
void norm_vector(const NormParams& p, const X* x, Y* y) {
  const DF d;
  const W* weight = static_cast<const W*>(p.weight);
  const float mean = sum_of_squares(x, p.dim) / static_cast<float>(p.dim);
  const float scale = 1.f / __builtin_sqrtf(mean + p.eps), extra = p.plus_one ? 1.f : 0.f;
  uint32_t i = 0;
  for (; i + kLanes <= p.dim; i += kLanes) {
    const VF w = hn::Add(load_f32(weight + i), hn::Set(d, extra));
    store_f32(hn::Mul(hn::Mul(load_f32(x + i), hn::Set(d, scale)), w), y + i);
  }
  for (; i < p.dim; ++i) from_f32(to_f32(x[i]) * scale * (to_f32(weight[i]) + extra), y + i);
}

// Vectors [begin, end): vector i is head i % num_heads of row i / num_heads.
template <class X, class W, class Y>
void norm_range(const NormParams& p, uint64_t begin, uint64_t end) {
  for (uint64_t i = begin; i < end; ++i) {
    const auto row = static_cast<int64_t>(i / p.num_heads);
    const auto head = static_cast<int64_t>(i % p.num_heads);
    norm_vector<X, W, Y>(
        p, static_cast<const X*>(p.x.data) + row * p.x.row_stride + head * p.x.head_stride,
        static_cast<Y*>(p.y.data) + row * p.y.row_stride + head * p.y.head_stride);
  }
}

using NormFn = void (*)(const NormParams&, uint64_t, uint64_t);

template <class X, class W>
NormFn norm_to(int32_t y) {
  return y == RADIX_F32   ? norm_range<X, W, F32>
         : y == RADIX_F16 ? norm_range<X, W, F16>
                          : norm_range<X, W, BF16>;
}

template <class X>
NormFn norm_with(int32_t weight, int32_t y) {
  return weight == RADIX_F32   ? norm_to<X, F32>(y)
         : weight == RADIX_F16 ? norm_to<X, F16>(y)
                               : norm_to<X, BF16>(y);
}

}  // namespace

void rms_norm(const NormParams& p, uint64_t begin, uint64_t end) {
  const NormFn norm = p.x.dtype == RADIX_F32   ? norm_with<F32>(p.weight_dtype, p.y.dtype)
                      : p.x.dtype == RADIX_F16 ? norm_with<F16>(p.weight_dtype, p.y.dtype)
                                               : norm_with<BF16>(p.weight_dtype, p.y.dtype);
  norm(p, begin, end);
}

}  // namespace RADIX_CPU_TARGET_NS
}  // namespace radixattn
