// The CUDA kernels of sampling: the reference's tokens bit for bit, whatever the row, its alignment
// and the order of threads.
#include <gtest/gtest.h>

#include <bit>

#include "attention_launchers.h"
#include "sample/weights.h"
#include "support/sample_case.h"

namespace radixattn::test {
namespace {

// f64 logarithms of host and device may differ in their last bit: an f32 by one.
bool near(float a, float b) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
  if (a == b) return true;
  if (std::isinf(a) || std::isinf(b)) return false;
  return std::fabs(a - b) <= std::fabs(b) * 0x1p-22f;
}
void expect_near(const std::vector<float>& got, const std::vector<float>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i)
    EXPECT_TRUE(near(got[i], want[i])) << i << ": " << got[i] << ", expected " << want[i];
}

Sampled run(SampleCase& c) {
  Sampled out(c);
  SampleParams p = c.params();
  out.attach(&p);
  EXPECT_EQ(sample_on_device(p), RADIX_OK) << last_message();
  return out;
}

Sampled check(SampleCase& c, int schedules = 1) {
  const Sampled want = reference_sample(c);
  for (int i = 0; i < std::min(schedules, num_schedules()); ++i) {
    SCOPED_TRACE(::testing::Message() << "schedule " << i);
    set_schedule(i);
    const Sampled got = run(c);
    EXPECT_EQ(got.status, want.status);
    EXPECT_EQ(got.tokens, want.tokens);
    EXPECT_EQ(got.top_tokens, want.top_tokens);
    expect_near(got.logprobs, want.logprobs);
    expect_near(got.top_logprobs, want.top_logprobs);
  }
  set_schedule(0);
  return want;
}

// One row of a bell of logits, sampled at temperature 1.
SampleCase one_row(uint32_t vocab, int32_t dtype = RADIX_F32, float spread = 5.f,
                   uint32_t ties = 0) {
  Rng rng(vocab);
  SampleCase c;
  c.vocab = vocab;
  fill_logits(&c, dtype, spread, ties, &rng);
  c.temperature = {1.f};
  c.seeds = {vocab};
  c.positions = {3};
  return c;
}

TEST(CudaSample, RandomRows) {
  for_random_cases("cuda sample", 100, [](uint64_t seed) {
    SCOPED_TRACE(::testing::Message() << "replay with RADIX_TEST_ONLY=" << seed);
    Rng rng(seed);
    SampleCase c = random_sample_case(&rng);
    check(c, seed % 8 == 1 ? 4 : 1);
  });
}

// More tokens may stay than fit the list: cuts go through the row.
TEST(CudaSample, LongRowsWithAndWithoutLists) {
  uint32_t seed = 0;
  for (const uint32_t vocab : {2049u, 12345u, 40000u}) {
    for (const float spread : {0.01f, 1.f, 8.f}) {
      for (const int32_t dtype : {RADIX_F32, RADIX_BF16}) {
        SCOPED_TRACE(::testing::Message() << vocab << " spread " << spread << ' ' << dtype);
        Rng rng(++seed);
        SampleCase c;
        c.vocab = vocab;
        c.rows = 3;
        c.num_top = 3;
        c.logprobs = true;
        c.flags = seed % 2 == 0 ? RADIX_SAMPLE_FINAL_LOGPROBS : 0;
        fill_logits(&c, dtype, spread, 0, &rng);
        c.temperature = {1.f, 0.8f, 3.f};
        c.top_k = {0, static_cast<int32_t>(vocab / 3), 40};
        c.top_p = {0.95f, 0.6f, 0.f};
        c.typical_p = {0.f, 0.7f, 0.9f};
        c.seeds = {seed, seed + 1, seed + 2};
        check(c);
      }
    }
  }
}

// Every number of tokens to keep, among tokens that tie.
TEST(CudaSample, TopKAtEveryPlaceOfTies) {
  for (int32_t k = 1; k <= 40; ++k) {
    SampleCase c = one_row(40, RADIX_F32, 1.f, 2);
    c.top_k = {k};
    c.num_top = 40;
    c.flags = RADIX_SAMPLE_FINAL_LOGPROBS;
    check(c);
  }
}

TEST(CudaSample, TopPAndTypicalPAtTheEdgesOfTokens) {
  for (int eighths = 1; eighths <= 8; ++eighths) {
    SampleCase c;
    c.vocab = 8;
    c.make_logits(RADIX_F16);
    for (uint32_t t = 0; t < 8; ++t) c.set(0, t, 1.);  // weights are equal: sums meet eighths
    c.temperature = {1.f};
    c.num_top = 8;
    c.flags = RADIX_SAMPLE_FINAL_LOGPROBS;
    for (const float nudge : {-1e-6f, 0.f, 1e-6f}) {
      const float part = std::min(static_cast<float>(eighths) / 8.f + nudge, 1.f);
      c.top_p = {part};
      c.typical_p.clear();
      check(c);
      c.top_p.clear();
      c.typical_p = {part};
      check(c);
    }
  }
}

// The draw must reach each token, at each seed the one that the reference draws.
TEST(CudaSample, ManySeedsOverAllTokens) {
  std::vector<int32_t> seen;
  SampleCase c = one_row(70, RADIX_BF16, 0.5f);
  for (uint64_t seed = 0; seed < 60; ++seed) {
    c.seeds = {seed};
    const Sampled want = check(c);
    seen.push_back(want.tokens[0]);
  }
  std::sort(seen.begin(), seen.end());
  seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
  EXPECT_GT(seen.size(), 20u);
}

TEST(CudaSample, EveryVocabularyAlignmentAndStride) {
  for (const int32_t dtype : {RADIX_F32, RADIX_F16, RADIX_BF16}) {
    for (uint32_t vocab = 1; vocab < 140; vocab += vocab < 20 ? 1 : 7) {
      SCOPED_TRACE(::testing::Message() << dtype_name(dtype) << ' ' << vocab);
      Rng rng(vocab);
      SampleCase c;
      c.rows = 3;
      c.vocab = vocab;
      c.row_stride = vocab + vocab % 5;
      fill_logits(&c, dtype, 2.f, 0, &rng);
      c.temperature = {0.f, 1.f, 1.f};
      c.top_k = {0, 0, 5};
      c.logprobs = true;
      c.num_top = std::min(vocab, 3u);
      check(c);
    }
  }
}

TEST(CudaSample, RowsThatCannotBeSampled) {
  for (const bool adjusted : {false, true}) {
    SampleCase c;
    c.rows = 6;
    c.vocab = 1000;
    c.logprobs = true;
    c.num_top = 4;
    Rng rng(3);
    fill_logits(&c, RADIX_F32, 2.f, 0, &rng);
    c.set(0, 999, NAN);
    c.set(1, 0, INFINITY);
    for (uint32_t t = 0; t < c.vocab; ++t) c.set(2, t, -INFINITY);
    c.set(3, 5, NAN);  // the parameter comes first
    c.temperature = {1.f, 0.f, 1.f, -1.f, 1.f, 1.f};
    if (adjusted) {
      c.bias_begin = {0, 0, 0, 0, 0, 0, 1};
      c.bias_tokens = {7};
      c.bias_values = {3e38f};
      c.set(5, 7, 3e38);  // their sum is +inf
    }
    const Sampled want = check(c, 4);
    const std::vector<int32_t> expected = {
        RADIX_ROW_NAN,       RADIX_ROW_NAN, RADIX_ROW_EMPTY,
        RADIX_ROW_PARAMETER, RADIX_ROW_OK,  adjusted ? RADIX_ROW_NAN : RADIX_ROW_OK};
    EXPECT_EQ(want.status, expected);
  }
}

TEST(CudaSample, EveryParameterOutOfItsRange) {
  const auto bad = [](auto change) {
    SampleCase c = one_row(64);
    change(&c);
    EXPECT_EQ(check(c).status[0], RADIX_ROW_PARAMETER);
  };
  for (const float x : {-1.f, static_cast<float>(NAN), static_cast<float>(INFINITY)}) {
    bad([&](SampleCase* c) { c->temperature = {x}; });
    bad([&](SampleCase* c) { c->repetition = {x}; });
    bad([&](SampleCase* c) { c->min_p = {x}; });
    bad([&](SampleCase* c) { c->top_p = {x}; });
    bad([&](SampleCase* c) { c->typical_p = {x}; });
    if (x != -1.f) bad([&](SampleCase* c) { c->presence = {x}; });
    if (x != -1.f) bad([&](SampleCase* c) { c->frequency = {-x}; });
  }
  bad([](SampleCase* c) { c->top_k = {-1}; });
  bad([](SampleCase* c) { c->top_p = {1.0001f}; });
  for (const int32_t token : {-1, 64, INT32_MAX, INT32_MIN}) {
    bad([&](SampleCase* c) { c->history = {1, token}, c->history_begin = {0, 2}; });
    bad([&](SampleCase* c) {
      c->bias_tokens = {token}, c->bias_values = {1.f}, c->bias_begin = {0, 1};
    });
  }
  bad([](SampleCase* c) { c->bias_tokens = {1}, c->bias_values = {NAN}, c->bias_begin = {0, 1}; });
  bad([](SampleCase* c) {
    c->bias_tokens = {1}, c->bias_values = {INFINITY}, c->bias_begin = {0, 1};
  });
}

// A token may stand anywhere in the list of biases, any number of times: f32 sums have an order.
TEST(CudaSample, BiasesOfOneTokenAreAddedInTheirOrder) {
  SampleCase c = one_row(50);
  Rng rng(9);
  for (int i = 0; i < 1300; ++i) {
    c.bias_tokens.push_back(static_cast<int32_t>(i % 700 == 3 ? 7 : rng.below(50)));
    c.bias_values.push_back(1e6f * rng.uniform() + rng.uniform() * 1e-3f);
  }
  c.bias_begin = {0, 1300};
  c.num_top = 50;
  c.flags = RADIX_SAMPLE_FINAL_LOGPROBS;
  check(c, 4);
}

TEST(CudaSample, LongHistoriesAreCountedOnce) {
  SampleCase c = one_row(300, RADIX_F16);
  Rng rng(10);
  for (int i = 0; i < 3000; ++i) c.history.push_back(static_cast<int32_t>(rng.below(200)));
  c.history_begin = {0, 3000};
  c.repetition = {1.7f};
  c.frequency = {0.37f};
  c.presence = {0.11f};
  c.num_top = 128;
  c.flags = RADIX_SAMPLE_FINAL_LOGPROBS;
  for (const int64_t output : {int64_t{0}, int64_t{1234}, int64_t{3000}}) {
    c.output_begin = {output};
    check(c, 4);
  }
  c.output_begin.clear();
  check(c);
}

TEST(CudaSample, RangesOutsideOfTheirArraysAreCut) {
  Rng rng(12);
  for (int round = 0; round < 40; ++round) {
    SampleCase c;
    c.rows = 4;
    c.vocab = 40;
    fill_logits(&c, RADIX_F32, 2.f, 0, &rng);
    add_penalties(&c, &rng);
    add_biases(&c, &rng);
    c.output_begin.assign(4, 0);
    for (std::vector<int64_t>* begins : {&c.history_begin, &c.output_begin, &c.bias_begin}) {
      for (int64_t& begin : *begins) {
        constexpr int64_t kEdges[] = {INT64_MIN, INT64_MAX, -1, int64_t{1} << 32, 1};
        if (rng.one_in(3)) begin = rng.pick(kEdges);
      }
    }
    check(c);
  }
}

TEST(CudaSample, OutputsThatAreLeftOut) {
  SampleCase c = one_row(500);
  const Sampled want = reference_sample(c);
  Sampled out(c);
  SampleParams p = c.params();
  p.out_tokens = out.tokens.data();
  EXPECT_EQ(sample_on_device(p), RADIX_OK) << last_message();
  EXPECT_EQ(out.tokens, want.tokens);
  p.num_rows = 0;
  EXPECT_EQ(sample_on_device(p), RADIX_OK) << last_message();
}

TEST(CudaSample, TheLargestVocabulary) {
  SampleCase c = one_row(kMaxVocab, RADIX_BF16, 3.f);
  c.top_p = {0.9f};
  c.num_top = 2;
  c.logprobs = true;
  check(c);
}

}  // namespace
}  // namespace radixattn::test
