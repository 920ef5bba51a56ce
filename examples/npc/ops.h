// The row-wise functions between the matrix products. Each row's result depends on that row only.
#pragma once

#include <cmath>
#include <cstddef>

namespace npc {

// y = x / rms(x) * weight, for one row of n.
inline void rms_norm(const float* x, const float* weight, size_t n, float eps, float* y) {
  float sum = 0.f;
  for (size_t i = 0; i < n; ++i) sum += x[i] * x[i];
  const float inverse = 1.f / std::sqrt(sum / static_cast<float>(n) + eps);
  for (size_t i = 0; i < n; ++i) y[i] = x[i] * inverse * weight[i];
}

// y = silu(gate) * up, where row = [gate (n), up (n)].
inline void swiglu(const float* row, size_t n, float* y) {
  for (size_t i = 0; i < n; ++i) y[i] = row[i] / (1.f + std::exp(-row[i])) * row[n + i];
}

}  // namespace npc
