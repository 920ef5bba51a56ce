#include "gemm.h"

#include <algorithm>
#include <cstring>

#include "error.h"

namespace npc {

namespace {

#if defined(__x86_64__)
#define NPC_X86 1
#endif

// 16 floats in the compiler's vector extension: one AVX-512 register, two AVX, four SSE or NEON.
typedef float Vec16 __attribute__((vector_size(64), aligned(4)));

// Rows x 16 outputs: acc[r] += x[r][k] * w[k][0..15], k ascending. `tile` is [Rows][16].
template <int Rows>
inline __attribute__((always_inline)) void multiply_tile(const float* x, size_t in,
                                                         const float* panel, float* tile) {
  Vec16 acc[static_cast<size_t>(Rows)] = {};
  for (size_t k = 0; k < in; ++k) {
    const Vec16 w = *reinterpret_cast<const Vec16*>(panel + k * Linear::kPanel);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) acc[r] += w * x[static_cast<size_t>(r) * in + k];
  }
  std::memcpy(tile, acc, sizeof acc);
}

// Up to MaxRows rows; a remainder takes a smaller tile with the same sum for each row.
template <int MaxRows>
inline __attribute__((always_inline)) void multiply_rows(const float* x, size_t rows, size_t in,
                                                         const float* panel, float* tile) {
  if constexpr (MaxRows > 1) {
    if (rows < MaxRows) return multiply_rows<MaxRows - 1>(x, rows, in, panel, tile);
  }
  multiply_tile<MaxRows>(x, in, panel, tile);
}

// How many rows a tile has follows from the registers: 8 accumulators hide the latency of FMA on
// two ports.
using TileFn = void (*)(const float* x, size_t rows, size_t in, const float* panel, float* tile);
struct Target {
  TileFn multiply;
  size_t rows;
};

void multiply_baseline(const float* x, size_t rows, size_t in, const float* panel, float* tile) {
  multiply_rows<2>(x, rows, in, panel, tile);
}
#if defined(NPC_X86)
__attribute__((target("avx2,fma"))) void multiply_avx2(const float* x, size_t rows, size_t in,
                                                       const float* panel, float* tile) {
  multiply_rows<4>(x, rows, in, panel, tile);
}
__attribute__((target("avx512f,fma"))) void multiply_avx512(const float* x, size_t rows, size_t in,
                                                            const float* panel, float* tile) {
  multiply_rows<8>(x, rows, in, panel, tile);
}
#endif

constexpr size_t kMaxTileRows = 8;

Target pick_target() {
#if defined(NPC_X86)
  if (__builtin_cpu_supports("avx512f")) return {multiply_avx512, 8};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return {multiply_avx2, 4};
#endif
  return {multiply_baseline, 2};
}

}  // namespace

void Linear::set_rows(size_t first, std::span<const float> weight) {
  const size_t rows = in_ == 0 ? 0 : weight.size() / in_;
  if (rows * in_ != weight.size() || first + rows > out_)
    throw Error("Linear::set_rows: the weight does not fit");
  for (size_t r = 0; r < rows; ++r) {
    const size_t column = first + r;
    float* panel = packed_.data() + column / kPanel * kPanel * in_ + column % kPanel;
    for (size_t k = 0; k < in_; ++k) panel[k * kPanel] = weight[r * in_ + k];
  }
}

void Linear::set_bias(size_t first, std::span<const float> bias) {
  if (first + bias.size() > out_) throw Error("Linear::set_bias: the bias does not fit");
  bias_.resize(out_, 0.f);
  std::copy(bias.begin(), bias.end(), bias_.begin() + static_cast<std::ptrdiff_t>(first));
}

void Linear::apply(const float* x, size_t rows, float* y, bool add) const {
  static const Target target = pick_target();
  float tile[kMaxTileRows * kPanel];
  for (size_t column = 0; column < out_;
       column += kPanel) {  // a panel stays in cache while the rows pass
    const float* panel = packed_.data() + column * in_;
    const size_t width = std::min(kPanel, out_ - column);
    for (size_t row = 0; row < rows; row += target.rows) {
      const size_t n = std::min(target.rows, rows - row);
      target.multiply(x + row * in_, n, in_, panel, tile);
      for (size_t r = 0; r < n; ++r) {
        float* to = y + (row + r) * out_ + column;
        for (size_t c = 0; c < width; ++c) {
          const float value = tile[r * kPanel + c] + (bias_.empty() ? 0.f : bias_[column + c]);
          to[c] = add ? to[c] + value : value;
        }
      }
    }
  }
}

}  // namespace npc
