// One launch of the rotary embedding and K/V write, with its memory: caches are poisoned before,
// and nothing is aligned beyond its element.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "backend/backend.h"
#include "support/rng.h"
#include "support/tensors.h"
#include "support/tolerance.h"

namespace radixattn::test {

struct RopeShape {
  uint32_t tokens = 20;
  uint32_t q_heads = 4, kv_heads = 2, dim = 64, dim_v = 64, block_size = 16, rotary_dim = 64;
  int32_t q_dtype = RADIX_F32, kv_dtype = RADIX_F32, cache_dtype = RADIX_F16;
  bool hnd = false, padded = false, padded_slots = false;
  uint32_t first_position = 0;
  bool kv_scales = false;  // for fp8 caches: one a head
};

// A launch and its memory. Copies of it are independent: the reference runs on one, a kernel on
// another.
class RopeCase {
 public:
  RopeCase(const RopeShape& s, uint64_t seed) : s_(s) {
    Rng rng(seed);
    const int64_t pad = s.padded ? 5 : 0;
    q_ = random(rng, s.q_dtype, s.tokens * ((s.dim + pad) * s.q_heads + pad));
    k_ = random(rng, s.kv_dtype, s.tokens * ((s.dim + pad) * s.kv_heads + pad));
    v_ = random(rng, s.kv_dtype, s.tokens * ((s.dim_v + pad) * s.kv_heads + pad));
    num_blocks_ = s.tokens / s.block_size + 3;
    const int64_t tokens = int64_t{num_blocks_} * s.block_size * s.kv_heads;
    k_cache_ = Elements(s.cache_dtype, tokens * (s.dim + pad), kPoisonByte);
    v_cache_ = Elements(s.cache_dtype, tokens * (s.dim_v + pad), kPoisonByte);
    std::vector<int64_t> free;
    for (uint32_t i = 0; i < num_blocks_ * s.block_size; ++i) free.push_back(i);
    for (uint32_t i = 0; i < s.tokens; ++i) {
      const auto at = rng.below(static_cast<uint32_t>(free.size()));
      slots_.push_back(s.padded_slots && rng.one_in(3) ? -1 - int64_t{rng.below(3)} : free[at]);
      free.erase(free.begin() + at);
      positions_.push_back(static_cast<int32_t>(s.first_position + rng.below(300)));
    }
    options.theta = 10000.f;
    for (uint32_t h = 0; h < s.kv_heads; ++h) {
      k_scales_.push_back(0.01f + 0.005f * rng.uniform());
      v_scales_.push_back(0.02f + 0.005f * rng.uniform());
    }
  }

  RopeAppendParams params() {
    const int64_t pad = s_.padded ? 5 : 0;
    RopeAppendParams p = options;
    p.num_tokens = s_.tokens;
    p.num_q_heads = s_.q_heads;
    p.num_kv_heads = s_.kv_heads;
    p.head_dim = s_.dim;
    p.head_dim_v = s_.dim_v;
    p.block_size = s_.block_size;
    p.num_blocks = num_blocks_;
    p.rotary_dim = s_.rotary_dim;
    p.q = rows(q_, s_.dim + pad, s_.q_heads, pad);
    p.k = rows(k_, s_.dim + pad, s_.kv_heads, pad);
    p.v = rows(v_, s_.dim_v + pad, s_.kv_heads, pad);
    p.k_cache = paged(k_cache_, s_.dim + pad);
    p.v_cache = paged(v_cache_, s_.dim_v + pad);
    p.slots = slots_.data();
    p.positions = positions_.data();
    if (s_.kv_scales) {
      p.k_scale = k_scales_.data();
      p.v_scale = v_scales_.data();
      p.kv_scale_per_head = true;
    }
    return p;
  }

  // Within rounding of `ref`, which the reference has run on. The pair's larger element is at most
  // 1 times the attention factor, sqrt(2) with both.
  void expect_near(const RopeCase& ref, double factor) const {
    near(q_, ref.q_, factor, "q");
    near(k_cache_, ref.k_cache_, s_.kv_scales ? factor / 0.005 : factor, "k_cache");
    if (s_.kv_scales) {
      near(v_cache_, ref.v_cache_, 1 / 0.015, "v_cache");  // a quotient of f32
    } else {
      EXPECT_TRUE(v_cache_ == ref.v_cache_) << "V is copied, not computed";
    }
    EXPECT_TRUE(k_ == ref.k_ && v_ == ref.v_) << "k and v are read only";
  }
  void expect_untouched(const RopeCase& before) const {
    EXPECT_TRUE(q_ == before.q_ && k_cache_ == before.k_cache_ && v_cache_ == before.v_cache_);
  }
  bool same_bits(const RopeCase& o) const {
    return q_ == o.q_ && k_cache_ == o.k_cache_ && v_cache_ == o.v_cache_;
  }

  std::vector<int64_t>& slots() { return slots_; }
  std::vector<int32_t>& positions() { return positions_; }
  uint32_t num_slots() const { return num_blocks_ * s_.block_size; }

  RopeAppendParams options;

 private:
  static Elements random(Rng& rng, int32_t dtype, int64_t n) {
    Elements e(dtype, n, 0);
    for (int64_t i = 0; i < n; ++i) e.set(i, rng.uniform());
    return e;
  }
  static RowTensor rows(Elements& e, int64_t head, uint32_t heads, int64_t pad) {
    return {e.data(), e.dtype(), head * heads + pad, head};
  }
  PagedTensor paged(Elements& e, int64_t row) const {
    const int64_t heads = s_.kv_heads, tokens = s_.block_size;
    if (s_.hnd) return {e.data(), e.dtype(), heads * tokens * row, row, tokens * row};
    return {e.data(), e.dtype(), tokens * heads * row, heads * row, row};
  }
  static void near(const Elements& a, const Elements& b, double factor, const char* what) {
    int wrong = 0;
    for (int64_t i = 0; i < a.size(); ++i) {
      const double allowed = rotary_tolerance(1.5 * factor, a.dtype(), b.get(i));
      if (std::fabs(a.get(i) - b.get(i)) <= allowed) continue;
      if (wrong++ == 0) {
        ADD_FAILURE() << what << "[" << i << "] is " << a.get(i) << ", expected " << b.get(i)
                      << " +- " << allowed;
      }
    }
    EXPECT_EQ(wrong, 0) << "of " << a.size();
  }

  RopeShape s_;
  uint32_t num_blocks_ = 0;
  Elements q_, k_, v_, k_cache_, v_cache_;
  std::vector<int64_t> slots_;
  std::vector<int32_t> positions_;
  std::vector<float> k_scales_, v_scales_;
};

}  // namespace radixattn::test
