// The CUDA rotary kernel's own source against the reference: with RopeCase, whose memory is never
// aligned, then with memory of every kind.
#include <gtest/gtest.h>

#ifdef RADIX_SIMT_EMU
#include <sys/mman.h>
#endif

#include <cmath>
#include <ostream>
#include <vector>

#include "attention_launchers.h"
#include "backend/reference/rope_append.h"
#include "support/rope_case.h"

namespace radixattn::test {
namespace {

void check(const RopeCase& original) {
  RopeCase expected = original, c = original;
  const RopeAppendParams p = expected.params();
  reference::rope_append(p);
  ASSERT_EQ(rope_append_on_device(c.params()), RADIX_OK) << last_message();
  c.expect_near(expected, reference::rope_attention_factor(p));
}

class CudaRope : public ::testing::TestWithParam<int32_t> {
 protected:
  static RopeCase make(const RopeShape& s) {
    RopeCase c(s, 17);
    c.options.style = GetParam();
    return c;
  }
};

INSTANTIATE_TEST_SUITE_P(Style, CudaRope,
                         ::testing::Values(RADIX_ROPE_NEOX, RADIX_ROPE_INTERLEAVED),
                         [](const auto& i) {
                           return i.param == RADIX_ROPE_NEOX ? "Neox" : "Interleaved";
                         });

TEST_P(CudaRope, HeadDimsAndPartialRotation) {
  for (const uint32_t dim : {32u, 40u, 64u, 96u, 128u, 256u}) {
    for (const uint32_t rotary : {dim, dim / 2, 2u, 30u, 0u}) {
      RopeShape s;
      s.tokens = 3;
      s.dim = dim;
      s.rotary_dim = rotary;
      check(make(s));
    }
  }
}

TEST_P(CudaRope, Scalings) {
  RopeShape s;
  s.first_position = 5000;
  RopeCase c = make(s);
  for (const int32_t scaling :
       {RADIX_ROPE_SCALE_LINEAR, RADIX_ROPE_SCALE_LLAMA3, RADIX_ROPE_SCALE_YARN}) {
    c.options.scaling = scaling;
    c.options.scale = 4.f;
    c.options.original_max_position = 4096;
    check(c);
  }
  c.options.attention_factor = 1.25f;  // YaRN's, instead of the one that follows from the scale
  check(c);
}

TEST_P(CudaRope, DtypesLayoutsAndPaddedRows) {
  for (const int32_t in : {RADIX_F32, RADIX_F16, RADIX_BF16}) {
    for (const int32_t cache : {RADIX_F32, RADIX_F16, RADIX_BF16, RADIX_F8_E4M3, RADIX_F8_E5M2}) {
      RopeShape s;
      s.q_dtype = s.kv_dtype = in;
      s.cache_dtype = cache;
      s.hnd = in == RADIX_F16;
      s.padded = cache == RADIX_BF16;
      s.padded_slots = true;
      s.dim = 72;
      s.dim_v = 40;
      s.block_size = 3;
      s.tokens = 40;
      s.kv_scales = is_fp8(cache) && in != RADIX_BF16;
      check(make(s));
    }
  }
}

TEST_P(CudaRope, PositionsOfAMillionAndMoreLoseNothing) {
  for (const uint32_t position : {1'000'000u, 16'777'217u, 1'000'000'007u}) {
    RopeShape s;
    s.first_position = position;
    s.cache_dtype = RADIX_F32;
    check(make(s));
  }
  RopeShape s;
  RopeCase c = make(s);
  for (int32_t& p : c.positions()) p = INT32_MAX;
  check(c);
}

TEST_P(CudaRope, SlotsOutsideOfThePoolWriteNothing) {
  RopeShape s;
  RopeCase original = make(s);
  for (size_t i = 0; i < original.slots().size(); ++i) {
    const int64_t next = int64_t{1} << 36;  // its block is 0 when cut to 32 bits
    const int64_t bad[] = {-1, INT64_MIN, original.num_slots(), INT64_MAX, next};
    original.slots()[i] = bad[i % 5];
  }
  RopeCase c = original;
  ASSERT_EQ(rope_append_on_device(c.params()), RADIX_OK) << last_message();
  c.expect_untouched(original);
}

TEST_P(CudaRope, WithoutQueriesAndPositions) {
  RopeShape s;
  s.rotary_dim = 0;
  RopeCase original = make(s), a = original, b = original;
  RopeAppendParams p = a.params();
  p.positions = nullptr;
  p.q = RowTensor{};
  p.num_q_heads = 0;
  ASSERT_EQ(rope_append_on_device(p), RADIX_OK) << last_message();
  ASSERT_EQ(rope_append_on_device(b.params()), RADIX_OK) << last_message();
  EXPECT_TRUE(a.same_bits(b));
}

// ---- memory of every kind -----------------------------------------------------------------------

enum class Scales { kNone, kOne, kPerHead };

// Where RopeShape has one dtype and no alignment, here every tensor has its own.
struct FreeShape {
  uint32_t tokens = 4, q_heads = 3, kv_heads = 2, dim = 64, dim_v = 64, block_size = 16;
  uint32_t rotary_dim = 64;
  int32_t style = RADIX_ROPE_NEOX;
  int32_t q = RADIX_F16, k = RADIX_F16, v = RADIX_F16, k_cache = RADIX_F16, v_cache = RADIX_F16;
  bool aligned = true;
  int64_t gap = 0;                                     // elements after each head and each row
  int64_t block_pad = 0, token_pad = 0, head_pad = 0;  // elements more in the caches' strides
  bool hnd = false, padded_slots = false;
  Scales scales = Scales::kNone;
  float least_scale = 0.01f;
};

std::ostream& operator<<(std::ostream& out, const FreeShape& s) {
  out << s.tokens << " tokens, heads " << s.q_heads << "/" << s.kv_heads << ", dims " << s.dim
      << "/" << s.dim_v << ", block " << s.block_size << ", rotary " << s.rotary_dim << " style "
      << s.style << ", q " << dtype_name(s.q) << " k " << dtype_name(s.k) << "->"
      << dtype_name(s.k_cache) << " v " << dtype_name(s.v) << "->" << dtype_name(s.v_cache);
  return out << ", gap " << s.gap << (s.aligned ? " aligned" : "") << (s.hnd ? " hnd" : "")
             << (s.padded_slots ? " padded slots" : "") << " scales " << static_cast<int>(s.scales);
}

// Gaps of what is read are NaN, caches are poison. Copies are independent.
class FreeCase {
 public:
  FreeCase(const FreeShape& s, uint64_t seed) : s_(s), blocks_(s.tokens / s.block_size + 4) {
    Rng rng(seed);
    q_ = rows(rng, s.q, s.q_heads, s.dim);
    k_ = rows(rng, s.k, s.kv_heads, s.dim);
    v_ = rows(rng, s.v, s.kv_heads, s.dim_v);
    k_cache_ = cache(s.k_cache, s.dim);
    v_cache_ = cache(s.v_cache, s.dim_v);
    const uint32_t shift = rng.below(2 * s.block_size);
    for (uint32_t t = 0; t < s.tokens; ++t) {
      slots_.push_back(s.padded_slots && rng.one_in(3) ? -1 - int64_t{rng.below(40)} : shift + t);
      positions_.push_back(static_cast<int32_t>(rng.below(100000)));
    }
    for (uint32_t h = 0; h < s.kv_heads; ++h) {
      k_scales_.push_back(s.least_scale * (1.5f + 0.5f * rng.uniform()));
      v_scales_.push_back(s.least_scale * (1.5f + 0.5f * rng.uniform()));
    }
  }

  RopeAppendParams params() {
    RopeAppendParams p;
    p.num_tokens = s_.tokens;
    p.num_q_heads = s_.q_heads;
    p.num_kv_heads = s_.kv_heads;
    p.head_dim = s_.dim;
    p.head_dim_v = s_.dim_v;
    p.block_size = s_.block_size;
    p.num_blocks = blocks_;
    p.rotary_dim = s_.rotary_dim;
    p.style = s_.style;
    if (s_.q_heads != 0) p.q = {q_.data(), s_.q, row(s_.q_heads, s_.dim), s_.dim + s_.gap};
    p.k = {k_.data(), s_.k, row(s_.kv_heads, s_.dim), s_.dim + s_.gap};
    p.v = {v_.data(), s_.v, row(s_.kv_heads, s_.dim_v), s_.dim_v + s_.gap};
    p.k_cache = paged(k_cache_, s_.dim + s_.gap);
    p.v_cache = paged(v_cache_, s_.dim_v + s_.gap);
    if (s_.scales != Scales::kNone) {
      p.k_scale = k_scales_.data();
      p.v_scale = v_scales_.data();
      p.kv_scale_per_head = s_.scales == Scales::kPerHead;
    }
    p.slots = slots_.data();
    p.positions = positions_.data();
    return p;
  }

  void expect_near(const FreeCase& ref) const {
    near(q_, ref.q_, 1.5, "q");
    near(k_cache_, ref.k_cache_, largest(), "k_cache");
    near(v_cache_, ref.v_cache_, largest(), "v_cache");
    EXPECT_TRUE(k_ == ref.k_ && v_ == ref.v_) << "k and v are read only";
  }
  // V does not turn: one quotient in f32, rounded once.
  void expect_exact_values() {
    const RopeAppendParams p = params();
    for (uint32_t t = 0; t < s_.tokens; ++t) {
      for (uint32_t h = 0; h < s_.kv_heads && slots_[t] >= 0; ++h) {
        const float scale = p.v_scale == nullptr ? 1.f : p.v_scale[p.kv_scale_per_head ? h : 0];
        for (uint32_t e = 0; e < s_.dim_v; ++e) {
          const double x = v_.get(t * p.v.row_stride + h * p.v.head_stride + e);
          Elements want(s_.v_cache, 1, 0);
          want.set(0, static_cast<double>(static_cast<float>(x) / scale));
          const int64_t at = slots_[t] / s_.block_size * p.v_cache.block_stride +
                             slots_[t] % s_.block_size * p.v_cache.token_stride +
                             h * p.v_cache.head_stride + e;
          ASSERT_EQ(v_cache_.get(at), want.get(0)) << "token " << t << " head " << h << " " << e;
        }
      }
    }
  }
  bool same_bits(const FreeCase& o) const {
    return q_ == o.q_ && k_cache_ == o.k_cache_ && v_cache_ == o.v_cache_;
  }
  const FreeShape& shape() const { return s_; }

 private:
  int64_t row(uint32_t heads, uint32_t dim) const { return (dim + s_.gap) * heads + s_.gap; }
  Elements rows(Rng& rng, int32_t dtype, uint32_t heads, uint32_t dim) const {
    Elements e(dtype, row(heads, dim) * s_.tokens, kNanByte, s_.aligned);
    for (uint32_t t = 0; t < s_.tokens; ++t) {
      for (uint32_t h = 0; h < heads; ++h) {
        for (uint32_t i = 0; i < dim; ++i)
          e.set(row(heads, dim) * t + (dim + s_.gap) * h + i, double{rng.uniform()});
      }
    }
    return e;
  }
  Elements cache(int32_t dtype, uint32_t dim) const {
    Elements none;
    const int64_t block = paged(none, dim + s_.gap).block_stride;
    return Elements(dtype, blocks_ * block, kPoisonByte, s_.aligned);
  }
  PagedTensor paged(Elements& e, int64_t vector) const {
    const int64_t heads = s_.kv_heads, tokens = s_.block_size;
    if (s_.hnd) {
      const int64_t token = vector + s_.token_pad, head = tokens * token + s_.head_pad;
      return {e.data(), e.dtype(), heads * head + s_.block_pad, token, head};
    }
    const int64_t head = vector + s_.head_pad, token = heads * head + s_.token_pad;
    return {e.data(), e.dtype(), tokens * token + s_.block_pad, token, head};
  }
  double largest() const {
    return s_.scales == Scales::kNone ? 1.5 : 1.5 / static_cast<double>(s_.least_scale);
  }
  static void near(const Elements& a, const Elements& b, double largest, const char* what) {
    for (int64_t i = 0; i < a.size(); ++i) {
      for (const uint8_t fill : {kNanByte, kPoisonByte}) {
        if (b.is_filled_with(i, fill)) {
          ASSERT_TRUE(a.is_filled_with(i, fill)) << what << "[" << i << "] was written";
        }
      }
      if (std::isnan(b.get(i))) continue;
      ASSERT_NEAR(a.get(i), b.get(i), rotary_tolerance(largest, a.dtype(), b.get(i)))
          << what << "[" << i << "]";
    }
  }

  FreeShape s_;
  uint32_t blocks_;
  Elements q_, k_, v_, k_cache_, v_cache_;
  std::vector<int64_t> slots_;
  std::vector<int32_t> positions_;
  std::vector<float> k_scales_, v_scales_;
};

void check(const FreeShape& shape, uint64_t seed) {
  ::testing::Message what;
  what << shape;
  SCOPED_TRACE(what);
  const FreeCase original(shape, seed);
  FreeCase expected = original, first = original;
  reference::rope_append(expected.params());
  for (int i = 0; i < num_schedules(); ++i) {
    set_schedule(i);
    FreeCase c = original;
    ASSERT_EQ(rope_append_on_device(c.params()), RADIX_OK) << last_message();
    if (i == 0) first = c;
    EXPECT_TRUE(c.same_bits(first)) << "other bits in schedule " << i;
  }
  set_schedule(0);
  first.expect_near(expected);
  first.expect_exact_values();
}

constexpr int32_t kRowDtypes[] = {RADIX_F32, RADIX_F16, RADIX_BF16};
constexpr int32_t kCacheDtypes[] = {RADIX_F32, RADIX_F16, RADIX_BF16, RADIX_F8_E4M3, RADIX_F8_E5M2};

TEST(CudaRopeMemory, EveryPairOfDtypesWideAndNarrow) {
  for (const int32_t row : kRowDtypes) {
    for (const int32_t cache : kCacheDtypes) {
      for (const bool aligned : {true, false}) {
        for (const int32_t style : {RADIX_ROPE_NEOX, RADIX_ROPE_INTERLEAVED}) {
          FreeShape s;
          s.q = row == RADIX_F32 ? RADIX_BF16 : RADIX_F32;  // not that of k
          s.k = s.v = row;
          s.k_cache = s.v_cache = cache;
          s.aligned = aligned;
          s.style = style;
          s.rotary_dim = 32;
          s.padded_slots = true;
          check(s, 21);
        }
      }
    }
  }
}

TEST(CudaRopeMemory, ScalesAreDividedByInEveryCache) {
  for (const int32_t cache : kCacheDtypes) {
    for (const Scales scales : {Scales::kOne, Scales::kPerHead}) {
      for (const bool aligned : {true, false}) {
        FreeShape s;
        s.k_cache = s.v_cache = cache;
        s.scales = scales;
        s.aligned = aligned;
        check(s, 22);
        if (!is_fp8(cache)) continue;
        s.least_scale = 1e-5f;  // e4m3 and e5m2 saturate
        check(s, 23);
      }
    }
  }
}

TEST(CudaRopeMemory, MoreUnitsThanThreads) {
  for (const bool aligned : {true, false}) {
    FreeShape s;
    s.tokens = 3;
    s.q_heads = 64;  // 1,024 wide units, 8,192 narrow ones
    s.kv_heads = 32;
    s.dim = s.rotary_dim = s.dim_v = 256;
    s.aligned = aligned;
    check(s, 24);
  }
}

// Strides and dims that pieces of 16 bytes fit, and each that they do not.
TEST(CudaRopeMemory, OddStridesAndDims) {
  for (const int64_t gap : {0, 1, 2, 4, 8, 16}) {
    for (const uint32_t rotary : {64u, 48u, 40u, 30u, 16u, 2u, 0u}) {
      for (const uint32_t block_size : {1u, 3u, 16u}) {
        FreeShape s;
        s.tokens = 5;
        s.gap = gap;
        s.rotary_dim = rotary;
        s.block_size = block_size;
        s.dim_v = 40;
        s.hnd = block_size == 3;
        s.k_cache = gap == 2 ? RADIX_F32 : RADIX_F16;
        s.v_cache = gap == 8 ? RADIX_F8_E4M3 : RADIX_F16;
        check(s, 25);
      }
    }
  }
}

// (UndefinedBehaviorSanitizer sees pieces that are not aligned.)
TEST(CudaRopeMemory, OneOddStrideIsEnoughForNarrow) {
  for (const int32_t cache : {RADIX_F16, RADIX_F8_E4M3}) {
    for (int odd = 0; odd < 3; ++odd) {
      for (const bool hnd : {false, true}) {
        FreeShape s;
        s.tokens = 40;
        s.k_cache = s.v_cache = cache;
        s.hnd = hnd;
        (odd == 0 ? s.block_pad : odd == 1 ? s.token_pad : s.head_pad) = 4;
        check(s, 26);
      }
    }
  }
}

TEST(CudaRopeMemory, RandomCases) {
  for_random_cases("cuda rope", 60, [](uint64_t seed) {
    SCOPED_TRACE(::testing::Message() << "replay with RADIX_TEST_ONLY=" << seed);
    Rng rng(seed);
    FreeShape s;
    s.tokens = rng.between(1, 6);
    s.q_heads = rng.between(0, 9);
    s.kv_heads = rng.between(1, 5);
    s.dim = 8 * rng.between(4, 32);
    s.dim_v = 8 * rng.between(4, 32);
    s.block_size = rng.pick({1u, 3u, 5u, 16u});
    s.rotary_dim = rng.one_in(2) ? s.dim / 16 * 16 : 2 * rng.between(0, s.dim / 2);
    s.style = rng.one_in(2) ? RADIX_ROPE_NEOX : RADIX_ROPE_INTERLEAVED;
    s.q = rng.pick(kRowDtypes);
    s.k = rng.pick(kRowDtypes);
    s.v = rng.pick(kRowDtypes);
    s.k_cache = rng.pick(kCacheDtypes);
    s.v_cache = rng.pick(kCacheDtypes);
    s.aligned = !rng.one_in(3);
    s.gap = rng.pick({0, 0, 8, 5, 1, 4});
    s.hnd = rng.one_in(2);
    s.padded_slots = rng.one_in(3);
    s.scales = rng.pick({Scales::kNone, Scales::kOne, Scales::kPerHead});
    check(s, seed);
  });
}

#ifdef RADIX_SIMT_EMU
TEST(CudaRopeMemory, OffsetsBeyondThirtyTwoBits) {
  // Sparse memory: only the pages that are written exist.
  constexpr int64_t kBlockStride = int64_t{1} << 30;  // elements
  constexpr size_t kBytes = size_t{4} * kBlockStride * 2;
  void* memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  for (const bool aligned : {true, false}) {
    Elements k(RADIX_F32, 32, 0, aligned), v(RADIX_F32, 32, 0, aligned);
    for (int i = 0; i < 32; ++i) {
      k.set(i, i);
      v.set(i, 100 + i);
    }
    const int64_t slot = 3 * 16 + 5, at = 3 * kBlockStride + 5 * 64;
    RopeAppendParams p;
    p.num_tokens = 1;
    p.num_kv_heads = 1;
    p.head_dim = p.head_dim_v = 32;
    p.block_size = 16;
    p.num_blocks = 4;
    p.k = {k.data(), RADIX_F32, 32, 32};
    p.v = {v.data(), RADIX_F32, 32, 32};
    p.k_cache = {memory, RADIX_F16, kBlockStride, 64, 32};
    p.v_cache = {static_cast<uint16_t*>(memory) + 32, RADIX_F16, kBlockStride, 64, 32};
    p.slots = &slot;
    std::memset(static_cast<uint16_t*>(memory) + at, 0, 128);
    ASSERT_EQ(rope_append_on_device(p), RADIX_OK) << last_message();
    for (int i = 0; i < 32; ++i) {
      EXPECT_EQ(reference::load_element(memory, RADIX_F16, at + i), i);
      EXPECT_EQ(reference::load_element(memory, RADIX_F16, at + 32 + i), 100 + i);
    }
  }
  munmap(memory, kBytes);
}
#endif

}  // namespace
}  // namespace radixattn::test
