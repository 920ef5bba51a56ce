// How sampling's workspace is cut: the arrays of kernels.h's spaces, one behind the other, each at
// a multiple of 64 bytes. Both functions return the bytes they take, and need no memory for that:
// base may be null.
#pragma once

#include "cuda/kernels.h"

namespace radixattn::cuda {

class SpaceCutter {
 public:
  explicit SpaceCutter(void* base) : base_(static_cast<char*>(base)) {}

  template <class T>
  T* take(uint64_t count) {
    T* at = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + bytes_);
    bytes_ += (count * sizeof(T) + 63) / 64 * 64;
    return at;
  }
  uint64_t bytes() const { return bytes_; }

 private:
  char* base_;
  uint64_t bytes_ = 0;
};

inline void cut_sample_space(const SampleParams& p, SpaceCutter* from, SampleSpace* out) {
  const uint64_t stride = (uint64_t{p.vocab} + 15) / 16 * 16;
  out->stride = static_cast<int64_t>(stride);
  if (p.history == nullptr && p.bias_tokens == nullptr) return;
  out->scores = from->take<float>(p.num_rows * stride);
  out->slots = from->take<uint32_t>(p.num_rows * stride);
}

inline uint64_t cut_space(const SampleParams& p, void* base, SampleSpace* out) {
  SpaceCutter from(base);
  cut_sample_space(p, &from, out);
  return from.bytes();
}

inline uint64_t cut_space(const VerifyParams& p, void* base, VerifySpace* out) {
  SpaceCutter from(base);
  cut_sample_space(p.target, &from, &out->rows);
  out->rows.cuts = from.take<RowCut>(p.target.num_rows);
  out->tokens = from.take<int32_t>(p.target.num_rows);
  out->status = from.take<int32_t>(p.target.num_rows);
  const auto stride = static_cast<uint64_t>(out->rows.stride);
  if (p.draft_probs != nullptr) out->weights = from.take<uint64_t>(p.num_seqs * stride);
  return from.bytes();
}

}  // namespace radixattn::cuda
