// A case's K/V in a pool whose blocks stand so far apart that offsets need more than 32 bits. Only
// the pages that blocks touch exist.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "support/attention_case.h"

namespace radixattn::test {

class SparsePool {
 public:
  static constexpr int64_t kStride = int64_t{1} << 29;  // elements from block to block

  explicit SparsePool(const AttentionParams& p) : p_(p) {
    const auto element = static_cast<int64_t>(element_bytes(p.k.dtype));
    const int64_t k_bytes = p.k.block_stride * element, v_bytes = p.v.block_stride * element;
    const int64_t to_v = (k_bytes + 15) / 16 * 16;  // V of a block stands behind its K
    bytes_ = static_cast<size_t>(p.num_blocks * kStride * element);
    memory_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory_ == MAP_FAILED) {
      ADD_FAILURE() << "no address space for " << bytes_ << " bytes";
      return;
    }
    for (int64_t b = 0; b < p.num_blocks; ++b) {
      char* to = static_cast<char*>(memory_) + b * kStride * element;
      std::memcpy(to, static_cast<const char*>(p.k.data) + b * k_bytes, size_t(k_bytes));
      std::memcpy(to + to_v, static_cast<const char*>(p.v.data) + b * v_bytes, size_t(v_bytes));
    }
    p_.k.data = memory_;
    p_.v.data = static_cast<char*>(memory_) + to_v;
    p_.k.block_stride = p_.v.block_stride = kStride;
  }
  ~SparsePool() {
    if (memory_ != MAP_FAILED) munmap(memory_, bytes_);
  }
  SparsePool(const SparsePool&) = delete;
  SparsePool& operator=(const SparsePool&) = delete;

  const AttentionParams& params() const { return p_; }

 private:
  AttentionParams p_;
  size_t bytes_ = 0;
  void* memory_ = MAP_FAILED;
};

// The case gives the same bits from near and from far blocks, of which it uses some beyond 2^31.
inline void expect_same_bits_far_away(AttentionCase& c, const Launcher& launcher) {
  const int32_t last = *std::max_element(c.tables().begin(), c.tables().end(), [&](int a, int b) {
    const auto id = [&](int x) { return x < static_cast<int>(c.params().num_blocks) ? x : -1; };
    return id(a) < id(b);
  });
  ASSERT_GT(last * SparsePool::kStride, int64_t{INT32_MAX});
  const Result near = c.run(launcher);
  const Result far = c.run([&](const AttentionParams& p) {
    const SparsePool pool(p);
    return launcher(pool.params());
  });
  EXPECT_TRUE(near.raw_out == far.raw_out);
  EXPECT_TRUE(near.raw_lse == far.raw_lse);
}

}  // namespace radixattn::test
