// The CUDA merges of attention states, of tensors and of decode's ranges, against the definition in
// double.
#include <gtest/gtest.h>

#include <vector>

#include "attention_launchers.h"
#include "support/merge_case.h"

namespace radixattn::test {
namespace {

void check(const MergeShape& shape, uint64_t seed) {
  Elements first;
  for (int i = 0; i < num_schedules(); ++i) {
    set_schedule(i);
    States m = make_states(shape, seed);
    ASSERT_EQ(merge_on_device(m.p), RADIX_OK) << last_message();
    expect_merged(m);
    if (i == 0) first = m.out;
    EXPECT_TRUE(m.out == first) << "other bits in schedule " << i;
  }
  set_schedule(0);
}

TEST(CudaMerge, EveryDtypeNumberOfStatesAndDim) {
  for (const int32_t dtype : kMergeDtypes) {
    for (const uint32_t n : {1u, 2u, 5u, MergeParams::kMaxStates}) {
      for (const uint32_t dim : {8u, 40u, 128u, 256u}) {
        MergeShape s = merge_of_dtype(dtype);
        s.states = n;
        s.dim = dim;
        s.gap = n == 2 ? 3 : 0;
        check(s, 9);
      }
    }
  }
}

TEST(CudaMerge, TensorsOfDifferentDtypes) {
  for (const int32_t a : kMergeDtypes) {
    for (const int32_t b : kMergeDtypes) {
      for (const int32_t out : kMergeDtypes) {
        MergeShape s;
        s.states = 4;
        s.dtypes[0] = a, s.dtypes[1] = b, s.dtypes[2] = out;
        s.gap = 1;
        check(s, 10);
      }
    }
  }
}

TEST(CudaMerge, LargeLsesLoseNothing) {
  for (const float amplitude : {0.f, 1000.f, 1e5f, 1e30f}) {
    MergeShape s = merge_of_dtype(RADIX_F32);
    s.states = 3;
    s.amplitude = amplitude;
    check(s, 11);
  }
}

TEST(CudaMerge, TheLseMayBeLeftOut) {
  MergeShape s = merge_of_dtype(RADIX_F32);
  s.lse = false;
  check(s, 12);
}

TEST(CudaMerge, OntoOneOfItsStates) {
  MergeShape s = merge_of_dtype(RADIX_F32);
  s.states = 3;
  for (uint32_t onto = 0; onto < 3; ++onto) {
    States apart = make_states(s, 13), aliased = make_states(s, 13);
    alias_state(&aliased, onto);
    ASSERT_EQ(merge_on_device(apart.p), RADIX_OK) << last_message();
    ASSERT_EQ(merge_on_device(aliased.p), RADIX_OK) << last_message();
    EXPECT_TRUE(same_elements(aliased.o[onto], apart.out));
    EXPECT_EQ(aliased.lse[onto], apart.out_lse);
  }
}

TEST(CudaMerge, RandomCases) {
  for_random_cases("cuda merge", 60, [](uint64_t seed) {
    SCOPED_TRACE(::testing::Message() << "replay with RADIX_TEST_ONLY=" << seed);
    Rng rng(seed);
    check(random_merge(&rng), seed);
  });
}

// ---- decode's ranges ----------------------------------------------------------------------------

#ifdef RADIX_SIMT_EMU

struct RangeShape {
  std::vector<int32_t> contexts = {200, 64, 0, 65, 129, 300};
  uint32_t heads = 5, dim = 64, window = 0, split_tokens = 64;
  int32_t dtype = RADIX_F32;
  int64_t gap = 0;
  bool sinks = false, lse = true, own_rows = false;  // own_rows: partial_begin
  bool blind = false;                                // all states of sequence 0 saw nothing
};

// Ranges of contexts that the query sees hold states; all other rows are NaN.
struct Ranges {
  AttentionParams p;
  cuda::DecodeSplit split;
  std::vector<int32_t> contexts, tables, begins;
  std::vector<float> o, partial_lse, sinks, lse;
  Elements out;
};

struct Span {
  uint32_t begin, end;
};
Span visible(const RangeShape& s, int32_t context) {
  if (context == 0) return {0, 1};
  const auto n = static_cast<uint32_t>(context);
  const uint32_t first = s.window != 0 && n > s.window ? n - s.window : 0;
  return {first / s.split_tokens, (n + s.split_tokens - 1) / s.split_tokens};
}

int64_t row_of(const Ranges& r, size_t seq, uint32_t range) {
  return (r.begins.empty() ? static_cast<int64_t>(seq) * r.split.max_splits : r.begins[seq]) +
         range;
}

void fill(const RangeShape& s, Rng& rng, Ranges* r) {
  r->o.assign(64 * s.contexts.size() * s.heads * s.dim, NAN);
  r->partial_lse.assign(64 * s.contexts.size() * s.heads, NAN);
  for (size_t seq = 0; seq < s.contexts.size(); ++seq) {
    const Span span = visible(s, s.contexts[seq]);
    for (uint32_t range = span.begin; range < span.end; ++range) {
      for (uint32_t h = 0; h < s.heads; ++h) {
        const auto at = static_cast<size_t>(row_of(*r, seq, range) * s.heads + h);
        const bool empty = (s.blind && seq == 0) || rng.one_in(5);
        r->partial_lse[at] = empty ? -INFINITY : 30.f * rng.uniform();
        for (uint32_t e = 0; e < s.dim; ++e) r->o[at * s.dim + e] = empty ? 0.f : rng.uniform();
      }
    }
  }
}

Ranges make(const RangeShape& s, uint64_t seed) {
  Ranges r;
  Rng rng(seed);
  AttentionParams& p = r.p;
  p.num_seqs = static_cast<uint32_t>(s.contexts.size());
  p.num_q_heads = s.heads;
  p.num_kv_heads = 1;
  p.head_dim = 32;
  p.head_dim_v = s.dim;
  p.block_size = 16;
  p.window = s.window;
  p.max_context_len =
      static_cast<uint32_t>(*std::max_element(s.contexts.begin(), s.contexts.end()));
  p.blocks.row_stride = p.max_context_len / 16 + 1;
  r.contexts = s.contexts;
  r.tables.assign(p.num_seqs * static_cast<size_t>(p.blocks.row_stride), -1);
  r.split.split_tokens = s.split_tokens;
  r.split.max_splits = (p.max_context_len + s.split_tokens - 1) / s.split_tokens;
  for (uint32_t seq = 0, row = 0; s.own_rows && seq < p.num_seqs; ++seq) {
    const Span span = visible(s, s.contexts[seq]);
    r.begins.push_back(static_cast<int32_t>(row) - static_cast<int32_t>(span.begin));
    row += span.end - span.begin;
  }
  fill(s, rng, &r);
  for (uint32_t h = 0; s.sinks && h < s.heads; ++h) r.sinks.push_back(20.f * rng.uniform());
  const int64_t head = s.dim + s.gap, row = head * s.heads + s.gap;
  r.out = Elements(s.dtype, row * p.num_seqs, kPoisonByte);
  p.out = {nullptr, s.dtype, row, head};
  p.lse_head_stride = 1 + s.gap;
  p.lse_row_stride = p.lse_head_stride * s.heads + s.gap;
  r.lse.assign(static_cast<size_t>(p.lse_row_stride) * p.num_seqs, 77.f);
  return r;
}

radix_status merge(Ranges& r, bool lse) {
  r.p.context_lens = r.contexts.data();
  r.p.blocks.tables = r.tables.data();
  r.p.sinks = r.sinks.empty() ? nullptr : r.sinks.data();
  r.p.out.data = r.out.data();
  r.p.lse = lse ? r.lse.data() : nullptr;
  r.split.partial_o = r.o.data();
  r.split.partial_lse = r.partial_lse.data();
  r.split.partial_begin = r.begins.empty() ? nullptr : r.begins.data();
  r.split.max_items = static_cast<uint32_t>(r.partial_lse.size() / r.p.num_q_heads);
  return emulated([&] { return cuda::launch_decode_merge(r.p, r.split, nullptr); });
}

void expect_merged(const RangeShape& s, const Ranges& r) {
  std::vector<float> lse(r.lse.size(), 77.f);  // where nothing was written
  for (size_t seq = 0; seq < s.contexts.size(); ++seq) {
    const Span span = visible(s, s.contexts[seq]);
    for (uint32_t h = 0; h < s.heads; ++h) {
      SCOPED_TRACE(::testing::Message() << "sequence " << seq << " head " << h);
      const auto row = static_cast<int64_t>(seq);
      const int64_t at = row * r.p.out.row_stride + h * r.p.out.head_stride;
      if (span.end - span.begin == 1) {  // that range's own block has written the result
        for (uint32_t e = 0; e < s.dim; ++e)
          ASSERT_TRUE(r.out.is_filled_with(at + e, kPoisonByte)) << e;
        continue;
      }
      Definition want(s.dim);
      for (uint32_t range = span.begin; range < span.end; ++range)
        want.see(double{r.partial_lse[static_cast<size_t>(row_of(r, seq, range) * s.heads + h)]} *
                 std::log(2.0));
      for (uint32_t range = span.begin; range < span.end; ++range) {
        const auto i = static_cast<size_t>(row_of(r, seq, range) * s.heads + h);
        want.add(double{r.partial_lse[i]} * std::log(2.0),
                 [&](uint32_t e) { return double{r.o[i * s.dim + e]}; });
      }
      if (s.sinks) want.add_sink(double{r.sinks[h]});
      expect_row(want, s.dim, r.out, at);
      const auto lse_at = static_cast<size_t>(row * r.p.lse_row_stride + h * r.p.lse_head_stride);
      if (s.lse) expect_lse(double{r.lse[lse_at]}, want.lse());
      if (s.lse) lse[lse_at] = r.lse[lse_at];
    }
  }
  EXPECT_EQ(r.lse, lse) << "an lse that is nobody's was written";
  expect_gaps(r.out, r.p.num_seqs, s.heads, s.dim, r.p.out);
}

void check(const RangeShape& shape, uint64_t seed) {
  Elements first;
  for (int i = 0; i < num_schedules(); ++i) {
    set_schedule(i);
    Ranges r = make(shape, seed);
    ASSERT_EQ(merge(r, shape.lse), RADIX_OK) << last_message();
    expect_merged(shape, r);
    if (i == 0) first = r.out;
    EXPECT_TRUE(r.out == first) << "other bits in schedule " << i;
  }
  set_schedule(0);
}

TEST(CudaDecodeMerge, EveryDtypeDimAndStride) {
  for (const int32_t dtype : kMergeDtypes) {
    for (const uint32_t dim : {32u, 40u, 128u, 256u}) {
      for (const int64_t gap : {0, 3}) {
        RangeShape s;
        s.dtype = dtype;
        s.dim = dim;
        s.gap = gap;
        s.lse = dim != 40;
        check(s, 31);
      }
    }
  }
}

TEST(CudaDecodeMerge, RangesBeforeTheWindowAreNotRead) {
  for (const uint32_t window : {1u, 2u, 64u, 65u, 100u, 128u, 1000u}) {
    for (const bool own_rows : {false, true}) {
      RangeShape s;
      s.window = window;
      s.own_rows = own_rows;
      check(s, 32);
    }
  }
}

TEST(CudaDecodeMerge, ARowThatSawNothingIsZerosWithAndWithoutSinks) {
  for (const bool sinks : {false, true}) {
    RangeShape s;
    s.blind = true;
    s.sinks = sinks;
    check(s, 33);
  }
}

TEST(CudaDecodeMerge, RandomCases) {
  for_random_cases("cuda decode merge", 60, [](uint64_t seed) {
    SCOPED_TRACE(::testing::Message() << "replay with RADIX_TEST_ONLY=" << seed);
    Rng rng(seed);
    RangeShape s;
    s.contexts.clear();
    for (uint32_t n = rng.between(1, 6); n > 0; --n)
      s.contexts.push_back(static_cast<int32_t>(rng.below(900)));
    s.contexts.push_back(static_cast<int32_t>(rng.between(65, 900)));
    s.heads = rng.between(1, 13);
    s.dim = 8 * rng.between(4, 32);
    s.window = rng.one_in(2) ? 0 : rng.between(1, 500);
    s.split_tokens = 64 * rng.between(1, 3);
    if (rng.one_in(2)) s.contexts.push_back(static_cast<int32_t>(3 * s.split_tokens));
    s.dtype = rng.pick(kMergeDtypes);
    s.gap = rng.below(4);
    s.sinks = rng.one_in(2);
    s.lse = !rng.one_in(4);
    s.own_rows = rng.one_in(2);
    check(s, seed);
  });
}

#endif

}  // namespace
}  // namespace radixattn::test
