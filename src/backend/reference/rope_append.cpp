#include "backend/reference/rope_append.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/reference/numeric.h"

namespace radixattn::reference {
namespace {

constexpr double kPi = 3.14159265358979323846;

double llama3_frequency(const RopeAppendParams& p, double f) {
  const double original = p.original_max_position;
  const double low = p.low_freq_factor, high = p.high_freq_factor;
  const double wavelength = 2 * kPi / f;
  if (wavelength > original / low) return f / double{p.scale};
  if (wavelength < original / high) return f;
  const double s = (original / wavelength - low) / (high - low);
  return (1 - s) * f / double{p.scale} + s * f;
}

double yarn_frequency(const RopeAppendParams& p, double f, uint32_t pair) {
  const double d = p.rotary_dim;
  const auto correction_dim = [&](double rotations) {
    return d * std::log(p.original_max_position / (rotations * 2 * kPi)) /
           (2 * std::log(double{p.theta}));
  };
  const double low = std::max(std::floor(correction_dim(p.beta_fast)), 0.0);
  double high = std::min(std::ceil(correction_dim(p.beta_slow)), d - 1);
  if (low == high) high += 0.001;
  const double ramp = std::clamp((pair - low) / (high - low), 0.0, 1.0);
  return (1 - ramp) * f + ramp * f / double{p.scale};
}

std::vector<double> load_head(const RowTensor& t, uint64_t token, uint32_t head, uint32_t dim) {
  const int64_t at = static_cast<int64_t>(token) * t.row_stride + head * t.head_stride;
  std::vector<double> x(dim);
  for (uint32_t i = 0; i < dim; ++i) x[i] = load_element(t.data, t.dtype, at + i);
  return x;
}

void store_head(void* data, int32_t dtype, int64_t at, const std::vector<double>& x) {
  for (size_t i = 0; i < x.size(); ++i)
    store_element(data, dtype, at + static_cast<int64_t>(i), x[i]);
}

int64_t slot_offset(const PagedTensor& t, int64_t slot, uint32_t block_size, uint32_t head) {
  return slot / block_size * t.block_stride + slot % block_size * t.token_stride +
         head * t.head_stride;
}

}  // namespace

double rope_frequency(const RopeAppendParams& p, uint32_t pair) {
  const double f = std::pow(double{p.theta}, -2.0 * pair / p.rotary_dim);
  if (p.scaling == RADIX_ROPE_SCALE_LINEAR) return f / double{p.scale};
  if (p.scaling == RADIX_ROPE_SCALE_LLAMA3) return llama3_frequency(p, f);
  if (p.scaling == RADIX_ROPE_SCALE_YARN) return yarn_frequency(p, f, pair);
  return f;
}

double rope_attention_factor(const RopeAppendParams& p) {
  if (p.scaling != RADIX_ROPE_SCALE_YARN) return 1.0;
  if (p.attention_factor != 0.f) return p.attention_factor;
  return p.scale > 1.f ? 0.1 * std::log(double{p.scale}) + 1.0 : 1.0;
}

void rotate_head(const RopeAppendParams& p, int32_t position, double* head) {
  const uint32_t half = p.rotary_dim / 2;
  for (uint32_t i = 0; i < half; ++i) {
    const double angle = position * rope_frequency(p, i);
    const double c = std::cos(angle) * rope_attention_factor(p);
    const double s = std::sin(angle) * rope_attention_factor(p);
    double& a = head[p.style == RADIX_ROPE_NEOX ? i : 2 * i];
    double& b = head[p.style == RADIX_ROPE_NEOX ? i + half : 2 * i + 1];
    const double turned = a * c - b * s;
    b = a * s + b * c;
    a = turned;
  }
}

namespace {

// What a cache of scaled numbers stores.
std::vector<double> over_scale(std::vector<double> x, const float* scale, const RopeAppendParams& p,
                               uint32_t kv_head) {
  if (scale == nullptr) return x;
  for (double& e : x) e /= double{scale[p.kv_scale_per_head ? kv_head : 0]};
  return x;
}

}  // namespace

void rope_append(const RopeAppendParams& p) {
  for (uint64_t t = 0; t < p.num_tokens; ++t) {
    if (p.slots[t] < 0) continue;
    const int32_t position = p.rotary_dim != 0 ? p.positions[t] : 0;
    for (uint32_t h = 0; h < p.num_q_heads; ++h) {
      std::vector<double> x = load_head(p.q, t, h, p.head_dim);
      rotate_head(p, position, x.data());
      store_head(p.q.data, p.q.dtype,
                 static_cast<int64_t>(t) * p.q.row_stride + h * p.q.head_stride, x);
    }
    for (uint32_t h = 0; h < p.num_kv_heads; ++h) {
      std::vector<double> x = load_head(p.k, t, h, p.head_dim);
      rotate_head(p, position, x.data());
      store_head(p.k_cache.data, p.k_cache.dtype,
                 slot_offset(p.k_cache, p.slots[t], p.block_size, h),
                 over_scale(x, p.k_scale, p, h));
      store_head(p.v_cache.data, p.v_cache.dtype,
                 slot_offset(p.v_cache, p.slots[t], p.block_size, h),
                 over_scale(load_head(p.v, t, h, p.head_dim_v), p.v_scale, p, h));
    }
  }
}

}  // namespace radixattn::reference
