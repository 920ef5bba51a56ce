// y = x W^T + b for a weight in Hugging Face's [out, in] order: the one matrix product of the
// example.
//
// Promise: every output is the sum over k = 0, 1, ... in that order with the same instructions,
// however many rows the call has. So a row's result is the same, bit for bit, computed alone, in a
// chunk, or in a whole prompt. Single-threaded; picks AVX-512, AVX2+FMA or plain code at run time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace npc {

// A weight packed in panels of 16 outputs: [out/16][in][16], the last panel padded with zeros.
class Linear {
 public:
  static constexpr size_t kPanel = 16;

  Linear() = default;
  Linear(size_t in, size_t out)
      : in_(in), out_(out), packed_((out + kPanel - 1) / kPanel * kPanel * in) {}

  // Puts rows of a [rows, in] weight at outputs [first, first + rows): several weights make one
  // product.
  void set_rows(size_t first, std::span<const float> weight);
  void set_bias(size_t first, std::span<const float> bias);

  size_t in() const { return in_; }
  size_t out() const { return out_; }

  // x [rows, in], y [rows, out], both compact; add: y += instead of y =.
  void apply(const float* x, size_t rows, float* y, bool add = false) const;

 private:
  size_t in_ = 0, out_ = 0;
  std::vector<float> packed_;
  std::vector<float> bias_;  // [out] or empty
};

}  // namespace npc
