// Products and norms as tests want them: matrices with gaps, the definition in double.
//
// What lies between and behind rows is NaN in inputs and poison in outputs.
//
// Tolerances. A sum of n products in f32, in any order of at most n roundings, is off by at most
// n * 2^-24 * sum |x_i w_i| (Higham 2002, section 3.1); the kernels' chains are shorter, so n / 4
// covers a few roundings at either end, too. Then y is rounded once to its dtype.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "backend/backend.h"
#include "support/rng.h"
#include "support/tensors.h"
#include "support/tolerance.h"

namespace radixattn::test {

constexpr int32_t kFloatDtypes[] = {RADIX_F32, RADIX_F16, RADIX_BF16};

// Rows [rows, columns] of random values, `gap` elements of `between` behind each.
inline Elements random_matrix(Rng& rng, int32_t dtype, uint32_t rows, uint32_t columns,
                              int64_t gap) {
  const int64_t stride = columns + gap;
  Elements m(dtype, rows * stride, kNanByte);
  for (uint32_t r = 0; r < rows; ++r) {
    for (uint32_t c = 0; c < columns; ++c) m.set(r * stride + c, double{rng.uniform()});
  }
  return m;
}

// ---- products

struct GemmShape {
  uint32_t rows = 3, in = 64, out = 48;
  int64_t gap = 0;
  int32_t x = RADIX_F32, weight = RADIX_F32, y = RADIX_F32, bias_dtype = RADIX_F32;
  bool bias = false, add = false;
};

inline std::ostream& operator<<(std::ostream& out, const GemmShape& s) {
  return out << s.rows << " rows, " << s.in << " -> " << s.out << ", gap " << s.gap << ", "
             << dtype_name(s.x) << " * " << dtype_name(s.weight) << " -> " << dtype_name(s.y)
             << (s.bias ? ", bias " : "") << (s.bias ? dtype_name(s.bias_dtype) : "")
             << (s.add ? ", add" : "");
}

struct GemmCase {
  GemmShape shape;
  Elements x, weight, bias, y, before;
  GemmParams p;

  GemmCase(const GemmShape& s, uint64_t seed) : shape(s) {
    Rng rng(seed);
    x = random_matrix(rng, s.x, s.rows, s.in, s.gap);
    weight = random_matrix(rng, s.weight, s.out, s.in, s.gap * 2);
    bias = random_matrix(rng, s.bias_dtype, 1, s.out, 0);
    y = Elements(s.y, s.rows * (s.out + s.gap), kPoisonByte);
    for (uint32_t r = 0; s.add && r < s.rows; ++r) {
      for (uint32_t o = 0; o < s.out; ++o) y.set(r * (s.out + s.gap) + o, double{rng.uniform()});
    }
    before = y;
    p.num_rows = s.rows;
    p.in = s.in;
    p.out = s.out;
    p.x = {x.data(), s.x, s.in + s.gap};
    p.weight = {weight.data(), s.weight, s.in + s.gap * 2};
    p.bias = s.bias ? bias.data() : nullptr;
    p.bias_dtype = s.bias_dtype;
    p.y = {y.data(), s.y, s.out + s.gap};
    p.add = s.add;
  }
  GemmCase(const GemmCase&) = delete;
  GemmCase& operator=(const GemmCase&) = delete;

  void expect_correct() const {
    for (uint32_t r = 0; r < shape.rows; ++r) {
      for (uint32_t o = 0; o < shape.out; ++o) expect_element(r, o);
      for (int64_t g = 0; g < shape.gap; ++g) {
        ASSERT_TRUE(y.is_filled_with(r * p.y.row_stride + shape.out + g, kPoisonByte))
            << "behind row " << r;
      }
    }
  }

 private:
  void expect_element(uint32_t r, uint32_t o) const {
    double sum = 0, size = 0;
    for (uint32_t k = 0; k < shape.in; ++k) {
      const double term = x.get(r * p.x.row_stride + k) * weight.get(o * p.weight.row_stride + k);
      sum += term;
      size += std::fabs(term);
    }
    if (shape.bias) sum += bias.get(o);
    const int64_t at = r * p.y.row_stride + o;
    if (shape.add) sum += before.get(at);
    const double f32 = (shape.in / 4.0 + 4) * 0x1p-24 * (size + std::fabs(sum) + 2);
    ASSERT_NEAR(y.get(at), sum, f32 + 0.5 * unit_in_last_place(shape.y, std::fabs(sum) + f32))
        << "row " << r << " column " << o;
  }
};

// ---- norms

struct NormShape {
  uint32_t rows = 3, heads = 1, dim = 64;
  int64_t gap = 0;
  int32_t x = RADIX_F32, weight = RADIX_F32, y = RADIX_F32;
  float eps = 1e-6f, amplitude = 1.f;
  bool plus_one = false, in_place = false;
};

inline std::ostream& operator<<(std::ostream& out, const NormShape& s) {
  return out << s.rows << " rows of " << s.heads << " heads of " << s.dim << ", gap " << s.gap
             << ", " << dtype_name(s.x) << " * " << dtype_name(s.weight) << " -> "
             << dtype_name(s.y) << ", amplitude " << s.amplitude << (s.plus_one ? ", plus one" : "")
             << (s.in_place ? ", in place" : "");
}

struct NormCase {
  NormShape shape;
  Elements x, weight, y, given;
  NormParams p;

  NormCase(const NormShape& s, uint64_t seed) : shape(s) {
    Rng rng(seed);
    const int64_t head = s.dim + s.gap, row = head * s.heads + s.gap;
    x = Elements(s.x, s.rows * row, s.in_place ? kPoisonByte : kNanByte);
    for (uint32_t r = 0; r < s.rows; ++r) {
      for (uint32_t h = 0; h < s.heads; ++h) {
        for (uint32_t i = 0; i < s.dim; ++i)
          x.set(r * row + h * head + i, double{s.amplitude * rng.uniform()});
      }
    }
    given = x;
    weight = random_matrix(rng, s.weight, 1, s.dim, 0);
    y = Elements(s.y, s.rows * row, kPoisonByte);
    p.num_rows = s.rows;
    p.num_heads = s.heads;
    p.dim = s.dim;
    p.x = {x.data(), s.x, row, head};
    p.y = s.in_place ? p.x : RowTensor{y.data(), s.y, row, head};
    p.weight = weight.data();
    p.weight_dtype = s.weight;
    p.eps = s.eps;
    p.plus_one = s.plus_one;
  }
  NormCase(const NormCase&) = delete;
  NormCase& operator=(const NormCase&) = delete;

  const Elements& result() const { return shape.in_place ? x : y; }

  void expect_correct() const {
    std::vector<bool> owned(static_cast<size_t>(result().size()));
    for (uint32_t r = 0; r < shape.rows; ++r) {
      for (uint32_t h = 0; h < shape.heads; ++h) {
        const int64_t at = r * p.y.row_stride + h * p.y.head_stride;
        expect_vector(at);
        for (uint32_t i = 0; i < shape.dim; ++i) owned[static_cast<size_t>(at + i)] = true;
      }
    }
    for (int64_t i = 0; i < result().size(); ++i) {
      ASSERT_TRUE(owned[static_cast<size_t>(i)] || result().is_filled_with(i, kPoisonByte))
          << "element " << i << " is nobody's";
    }
  }

 private:
  void expect_vector(int64_t at) const {
    double squares = 0;
    for (uint32_t i = 0; i < shape.dim; ++i) squares += given.get(at + i) * given.get(at + i);
    const double rms = std::sqrt(squares / shape.dim + double{shape.eps});
    for (uint32_t i = 0; i < shape.dim; ++i) {
      const double w = weight.get(i) + (shape.plus_one ? 1 : 0);
      const double want = given.get(at + i) / rms * w;
      const double f32 = (shape.dim / 8.0 + 6) * 0x1p-24 * std::fabs(want);
      const int32_t dtype = result().dtype();
      ASSERT_NEAR(result().get(at + i), want,
                  f32 + 0.5 * unit_in_last_place(dtype, std::fabs(want) + f32))
          << "element " << i << " of the vector at " << at;
    }
  }
};

}  // namespace radixattn::test
