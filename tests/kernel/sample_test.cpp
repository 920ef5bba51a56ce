// The CPU's sampling on every target and executor: bit for bit what the reference says, and named
// edges, whose answers are written here.
#include <gtest/gtest.h>

#include <set>

#include "sample/weights.h"
#include "support/runners.h"
#include "support/sample_case.h"

namespace radixattn::test {
namespace {

Sampled run(const CpuKernels& kernels, Executor& executor, SampleCase& c) {
  Sampled out(c);
  SampleParams p = c.params();
  out.attach(&p);
  GuardedWorkspace workspace(sample_workspace_bytes(p, executor.workers()));
  p.workspace = workspace.data();
  EXPECT_EQ(cpu_sample(kernels, p, executor), RADIX_OK);
  EXPECT_TRUE(workspace.guards_hold());
  return out;
}

// On every target; the reference's answer.
Sampled check(SampleCase& c) {
  Sampled want = reference_sample(c);
  Executor executor;
  for (const CpuKernels* kernels : runnable_targets()) {
    SCOPED_TRACE(kernels->name);
    expect_sampled(run(*kernels, executor, c), want);
  }
  return want;
}

// A batch of one row with these logits.
SampleCase row_of(const std::vector<float>& logits, int32_t dtype = RADIX_F32) {
  SampleCase c;
  c.vocab = static_cast<uint32_t>(logits.size());
  c.make_logits(dtype);
  for (uint32_t t = 0; t < c.vocab; ++t) c.set(0, t, double{logits[t]});
  return c;
}

// The same row at n positions: n draws.
SampleCase draws_of(const std::vector<float>& logits, uint32_t n) {
  SampleCase c;
  c.rows = n;
  c.vocab = static_cast<uint32_t>(logits.size());
  c.make_logits(RADIX_F32);
  for (uint32_t row = 0; row < n; ++row) {
    for (uint32_t t = 0; t < c.vocab; ++t) c.set(row, t, double{logits[t]});
    c.positions.push_back(row);
  }
  c.temperature.assign(n, 1.f);
  return c;
}

std::set<int32_t> drawn(SampleCase& c) {
  const Sampled out = check(c);
  return {out.tokens.begin(), out.tokens.end()};
}

int32_t token_of(SampleCase& c) { return check(c).tokens[0]; }
int32_t status_of(SampleCase& c) { return check(c).status[0]; }

TEST(Sample, RandomRowsAreTheReferencesBitForBit) {
  int ok = 0, failed = 0;
  for_random_cases("sample", 1000, [&](uint64_t seed) {
    SCOPED_TRACE(::testing::Message() << "RADIX_TEST_ONLY=" << seed);
    Rng rng(seed);
    SampleCase c = random_sample_case(&rng);
    for (const int32_t s : check(c).status) (s == RADIX_ROW_OK ? ok : failed) += 1;
  });
  if (environment("RADIX_TEST_ONLY", 0) != 0) return;
  EXPECT_GT(ok, 1000);
  EXPECT_GT(failed, 50);
}

TEST(Sample, WorkersAndBatchesChangeNoBit) {
  Rng rng(5);
  SampleCase c;
  c.rows = 12;
  c.vocab = 20000;
  c.logprobs = true;
  c.num_top = 7;
  fill_logits(&c, RADIX_F32, 3.f, 0, &rng);
  add_filters(&c, &rng);
  add_penalties(&c, &rng);
  for (uint32_t row = 0; row < c.rows; ++row) c.seeds.push_back(rng.next());
  const Sampled want = reference_sample(c);
  for (const CpuKernels* kernels : runnable_targets()) {
    SCOPED_TRACE(kernels->name);
    for (NamedExecutor& e : all_executors()) {
      SCOPED_TRACE(e.name);
      expect_sampled(run(*kernels, e.executor, c), want);
    }
  }
}

// Row `row` of a case alone; histories and biases keep their places in the arrays.
SampleCase alone(const SampleCase& c, uint32_t row) {
  SampleCase one = c;
  one.rows = 1;
  one.make_logits(c.logits.dtype());
  for (uint32_t t = 0; t < c.vocab; ++t) one.set(0, t, c.logits.get(row * c.stride() + t));
  const auto only = [&](auto* v, size_t n) {
    if (!v->empty()) *v = {v->begin() + row, v->begin() + row + static_cast<int64_t>(n)};
  };
  for (auto* v : {&one.temperature, &one.top_p, &one.min_p, &one.typical_p, &one.repetition,
                  &one.presence, &one.frequency}) {
    only(v, 1);
  }
  only(&one.top_k, 1);
  only(&one.seeds, 1);
  only(&one.positions, 1);
  only(&one.output_begin, 1);
  only(&one.history_begin, 2);
  only(&one.bias_begin, 2);
  return one;
}

TEST(Sample, ARowAloneIsTheRowInItsBatch) {
  for_random_cases("sample alone", 60, [](uint64_t seed) {
    SCOPED_TRACE(::testing::Message() << "RADIX_TEST_ONLY=" << seed);
    Rng rng(seed);
    SampleCase c = random_sample_case(&rng);
    c.allowed.clear();
    const Sampled batch = check(c);
    for (uint32_t row = 0; row < c.rows; ++row) {
      SampleCase one = alone(c, row);
      const Sampled got = check(one);
      EXPECT_EQ(got.tokens[0], batch.tokens[row]);
      EXPECT_EQ(got.status[0], batch.status[row]);
      if (c.logprobs) {
        EXPECT_EQ(std::memcmp(&got.logprobs[0], &batch.logprobs[row], sizeof(float)), 0);
      }
    }
  });
}

// ---- greedy -------------------------------------------------------------------------------------

TEST(Sample, GreedyTakesTheHighestAndTheLowestIdOfEquals) {
  SampleCase c = row_of({1.f, 3.f, 2.f, 3.f});
  EXPECT_EQ(token_of(c), 1);
  SampleCase zeros = row_of({-1.f, -0.f, 0.f});
  EXPECT_EQ(token_of(zeros), 1) << "-0 and 0 are equal";
}

TEST(Sample, GreedyLooksAtNoFilter) {
  SampleCase c = row_of({1.f, 3.f, 2.f});
  c.temperature = {0.f};
  c.top_k = {2};
  c.typical_p = {0.01f};
  EXPECT_EQ(token_of(c), 1);
}

TEST(Sample, NoTemperatureIsGreedy) {
  std::vector<float> logits(300, 0.f);
  logits[217] = 1e-6f;
  SampleCase c = row_of(logits);
  for (uint64_t seed = 0; seed < 20; ++seed) {
    c.seeds = {seed};
    EXPECT_EQ(token_of(c), 217);
  }
}

TEST(Sample, TinyTemperaturesDrawTheHighestOnly) {
  SampleCase c = draws_of({1.f, 1.001f, 1.f}, 50);
  for (const float t : {1e-5f, 1e-40f, 0x1p-149f}) {
    c.temperature.assign(50, t);
    EXPECT_EQ(drawn(c), std::set<int32_t>{1}) << t;
  }
}

TEST(Sample, TinyTemperaturesDrawAmongEquals) {
  SampleCase c = draws_of({1.f, 0.5f, 1.f}, 50);
  c.temperature.assign(50, 0x1p-149f);
  EXPECT_EQ(drawn(c), (std::set<int32_t>{0, 2}));
}

// ---- filters ------------------------------------------------------------------------------------

TEST(Sample, TopKKeepsTheKHighest) {
  SampleCase c = draws_of({0.f, 0.3f, 0.1f, 0.2f}, 200);
  c.top_k.assign(200, 2);
  EXPECT_EQ(drawn(c), (std::set<int32_t>{1, 3}));
  c.top_k.assign(200, 1);
  EXPECT_EQ(drawn(c), std::set<int32_t>{1});
}

TEST(Sample, TopKOfEqualsKeepsTheLowestIds) {
  SampleCase c = draws_of(std::vector<float>(500, 2.f), 300);
  c.top_k.assign(300, 3);
  EXPECT_EQ(drawn(c), (std::set<int32_t>{0, 1, 2}));
}

TEST(Sample, TopKBeyondTheVocabularyIsOff) {
  for (const int32_t k : {0, 3, 4, INT32_MAX}) {
    SampleCase c = draws_of({0.f, 0.f, 0.f}, 100);
    c.top_k.assign(100, k);
    EXPECT_EQ(drawn(c), (std::set<int32_t>{0, 1, 2})) << k;
  }
}

TEST(Sample, TopPKeepsWhatReachesItAndNoMore) {
  // 1/2, 1/4, 1/4: a share of a half is reached by the first alone, a little more needs another.
  const float quarter = -0.693147181f;
  SampleCase c = draws_of({quarter, 0.f, quarter}, 200);
  c.top_p.assign(200, 0.49f);
  EXPECT_EQ(drawn(c), std::set<int32_t>{1});
  c.top_p.assign(200, 0.6f);
  EXPECT_EQ(drawn(c), (std::set<int32_t>{0, 1}));
  c.top_p.assign(200, 0.76f);
  EXPECT_EQ(drawn(c), (std::set<int32_t>{0, 1, 2}));
}

TEST(Sample, TopPTowardsZeroKeepsOneAndOneKeepsAll) {
  SampleCase c = draws_of(std::vector<float>(100, 0.f), 2000);
  c.top_p.assign(2000, 0x1p-149f);
  EXPECT_EQ(drawn(c), std::set<int32_t>{0});
  c.top_p.assign(2000, 1.f);
  EXPECT_EQ(drawn(c).size(), 100u);
}

TEST(Sample, TopPCountsWhatTopKLeft) {
  // Of the two that are left the first has 0.73.
  SampleCase c = draws_of({1.f, 0.f, -0.5f, -0.5f, -0.5f}, 200);
  c.top_k.assign(200, 2);
  c.top_p.assign(200, 0.7f);
  EXPECT_EQ(drawn(c), std::set<int32_t>{0});
  c.top_k.clear();
  EXPECT_GT(drawn(c).size(), 2u);
}

TEST(Sample, MinPComparesWithTheLikeliest) {
  SampleCase c = draws_of({0.f, -1.f, -2.f, -3.f}, 400);  // 1, 0.37, 0.14, 0.05
  c.min_p.assign(400, 0.1f);
  EXPECT_EQ(drawn(c), (std::set<int32_t>{0, 1, 2}));
  c.min_p.assign(400, 1.f);
  EXPECT_EQ(drawn(c), std::set<int32_t>{0});
  SampleCase equals = draws_of({2.f, 1.f, 2.f}, 100);
  equals.min_p.assign(100, 1.f);
  EXPECT_EQ(drawn(equals), (std::set<int32_t>{0, 2}));
}

TEST(Sample, TypicalMayLeaveOutTheLikeliest) {
  // One token of about 1/3 and many of 1/60: the entropy is near the many's.
  std::vector<float> logits(41, 0.f);
  logits[5] = 3.f;
  SampleCase c = draws_of(logits, 400);
  c.typical_p.assign(400, 0.3f);
  const std::set<int32_t> tokens = drawn(c);
  EXPECT_EQ(tokens.count(5), 0u);
  EXPECT_GT(tokens.size(), 10u);
}

TEST(Sample, AVocabularyOfOne) {
  SampleCase c = draws_of({-5.f}, 3);
  c.num_top = 1;
  c.logprobs = true;
  c.typical_p.assign(3, 0.1f);
  EXPECT_EQ(drawn(c), std::set<int32_t>{0});
  EXPECT_EQ(check(c).logprobs[0], 0.f);
}

TEST(Sample, TheLargestVocabulary) {
  Rng rng(3);
  SampleCase c;
  c.vocab = kMaxVocab;
  fill_logits(&c, RADIX_BF16, 2.f, 0, &rng);
  c.temperature = {1.f};
  c.top_p = {0.95f};
  c.num_top = 128;
  c.logprobs = true;
  EXPECT_GE(token_of(c), 0);
  SampleCase equals = row_of(std::vector<float>(kMaxVocab, 7.f));
  equals.temperature = {1.f};
  equals.positions = {9};
  EXPECT_GT(token_of(equals), 0) << "sums of 2^20 weights of 2^40";
  equals.typical_p = {0.5f};
  EXPECT_GE(token_of(equals), 0);
}

// ---- what scores are made of --------------------------------------------------------------------

TEST(Sample, PenaltiesCountATokenOnce) {
  SampleCase c = row_of({4.f, 3.f, -1.f});
  c.repetition = {2.f};
  c.history = {0, 0, 0, 2};
  c.history_begin = {0, 4};
  EXPECT_EQ(token_of(c), 1) << "4 / 2 = 2 is below 3";
  c = row_of({4.f, 1.9f, -1.f});
  c.repetition = {2.f};
  c.history = {0, 0, 0};
  c.history_begin = {0, 3};
  EXPECT_EQ(token_of(c), 0) << "4 / 2 / 2 would be below 1.9";
  c = row_of({-1.f, -1.5f});
  c.repetition = {2.f};
  c.history = {0};
  c.history_begin = {0, 1};
  EXPECT_EQ(token_of(c), 1) << "negative scores are multiplied";
}

TEST(Sample, FrequencyAndPresenceCountTheOutputAlone) {
  SampleCase c = row_of({4.f, 3.5f});
  c.history = {0, 0, 0, 0, 1};
  c.history_begin = {0, 5};
  c.frequency = {0.3f};
  c.output_begin = {4};
  EXPECT_EQ(token_of(c), 0) << "token 0 is in the prompt only";
  c.output_begin = {1};
  EXPECT_EQ(token_of(c), 1) << "4 - 3 * 0.3 is below 3.5 - 0.3";
  c.frequency = {0.f};
  c.presence = {0.6f};
  EXPECT_EQ(token_of(c), 0) << "both lose the same";
  c.output_begin = {3};
  c.history = {0, 0, 0, 0, 0};
  EXPECT_EQ(token_of(c), 1);
  c.output_begin.clear();
  EXPECT_EQ(token_of(c), 0) << "without output_begin all is prompt";
}

TEST(Sample, RangesOfAHistoryAreCutToWhatThereIs) {
  SampleCase c = row_of({4.f, 3.f});
  c.repetition = {2.f};
  c.history = {0};
  for (const auto& [begin, end, token] :
       {std::tuple{-5, 9, 1}, {0, 0, 0}, {1, 0, 0}, {7, 9, 0}, {-3, 1, 1}}) {
    c.history_begin = {begin, end};
    EXPECT_EQ(token_of(c), token) << begin << ".." << end;
  }
}

TEST(Sample, BiasesOfATokenAddUp) {
  SampleCase c = row_of({0.f, 1.f, 5.f});
  c.bias_tokens = {0, 2, 0, 1};
  c.bias_values = {1.5f, -INFINITY, 1.5f, 100.f};
  c.bias_begin = {0, 3};
  EXPECT_EQ(token_of(c), 0);
  c.bias_begin = {0, 2};
  EXPECT_EQ(token_of(c), 0);
  c.bias_begin = {2, 99};
  EXPECT_EQ(token_of(c), 1);
}

TEST(Sample, TheMaskRulesTokensOut) {
  std::vector<float> logits(70, 0.f);
  logits[3] = 9.f;
  logits[40] = 8.f;
  logits[69] = 7.f;
  SampleCase c = row_of(logits);
  c.allowed = {UINT32_MAX, UINT32_MAX, UINT32_MAX};
  EXPECT_EQ(token_of(c), 3);
  c.allowed = {UINT32_MAX & ~8u, UINT32_MAX, UINT32_MAX};
  EXPECT_EQ(token_of(c), 40);
  c.allowed = {0, 0, 1u << 5};
  EXPECT_EQ(token_of(c), 69);
  c.bias_tokens = {3};
  c.bias_values = {1e30f};
  c.bias_begin = {0, 1};
  EXPECT_EQ(token_of(c), 69) << "no bias lifts what is not allowed";
}

TEST(Sample, HalfPrecisionLogitsAreTheirValues) {
  for (const int32_t dtype : {RADIX_F16, RADIX_BF16}) {
    SampleCase c = row_of({1.f, 1.00390625f, -65504.f, 1.0078125f}, dtype);
    EXPECT_EQ(token_of(c), 3);
  }
}

TEST(Sample, GapsBetweenRowsAreNotRead) {
  SampleCase c;
  c.rows = 3;
  c.vocab = 67;
  c.row_stride = 80;
  c.make_logits(RADIX_F16);  // NaN everywhere
  for (uint32_t row = 0; row < 3; ++row) {
    for (uint32_t t = 0; t < 67; ++t) c.set(row, t, t == 10 + row ? 1. : 0.);
  }
  EXPECT_EQ(check(c).tokens, (std::vector<int32_t>{10, 11, 12}));
}

// ---- rows that are not OK -----------------------------------------------------------------------

TEST(Sample, NanAndInfinityAreReported) {
  for (const float bad : {NAN, -NAN, INFINITY}) {
    for (const uint32_t at : {0u, 63u, 64u, 130u}) {
      std::vector<float> logits(131, 0.f);
      logits[at] = bad;
      SampleCase c = row_of(logits);
      EXPECT_EQ(status_of(c), RADIX_ROW_NAN);
      c.allowed = std::vector<uint32_t>(5, UINT32_MAX);
      c.allowed[at / 32] = 0;
      EXPECT_EQ(status_of(c), RADIX_ROW_NAN) << "although it is not allowed";
    }
  }
}

TEST(Sample, MinusInfinityIsATokenThatCannotBe) {
  SampleCase c = row_of({-INFINITY, -3.f, -INFINITY});
  c.temperature = {1.f};
  c.num_top = 3;
  c.logprobs = true;
  const Sampled out = check(c);
  EXPECT_EQ(out.tokens[0], 1);
  EXPECT_EQ(out.logprobs[0], 0.f);
  EXPECT_EQ(out.top_tokens, (std::vector<int32_t>{1, 0, 2}));
  EXPECT_EQ(out.top_logprobs[1], -INFINITY);
  SampleCase none = row_of({-INFINITY, -INFINITY});
  EXPECT_EQ(status_of(none), RADIX_ROW_EMPTY);
  SampleCase masked = row_of({1.f, 2.f});
  masked.allowed = {0xfffffffcu};
  EXPECT_EQ(status_of(masked), RADIX_ROW_EMPTY);
}

TEST(Sample, ScoresThatOverflowAreReported) {
  SampleCase c = row_of({3e38f, 1.f});
  c.bias_tokens = {0};
  c.bias_values = {3e38f};
  c.bias_begin = {0, 1};
  EXPECT_EQ(status_of(c), RADIX_ROW_NAN);
  c = row_of({-INFINITY, 1.f});
  c.history = {0, 0};
  c.history_begin = {0, 2};
  c.output_begin = {0};
  c.frequency = {-3e38f};
  EXPECT_EQ(status_of(c), RADIX_ROW_NAN) << "-inf + inf";
}

TEST(Sample, ParametersOutOfRangeAreReportedFirst) {
  const auto with = [](auto set) {
    SampleCase c = row_of({NAN, 1.f});
    set(&c);
    return c;
  };
  const float nan = NAN, inf = INFINITY;
  std::vector<SampleCase> cases;
  for (const float x : {-1.f, nan, inf}) {
    cases.push_back(with([&](SampleCase* c) { c->temperature = {x}; }));
    cases.push_back(with([&](SampleCase* c) { c->repetition = {x}; }));
  }
  for (const float x : {-0.1f, 1.1f, nan, inf}) {
    cases.push_back(with([&](SampleCase* c) { c->top_p = {x}; }));
    cases.push_back(with([&](SampleCase* c) { c->min_p = {x}; }));
    cases.push_back(with([&](SampleCase* c) { c->typical_p = {x}; }));
  }
  for (const float x : {nan, inf, -inf}) {
    cases.push_back(with([&](SampleCase* c) { c->presence = {x}; }));
    cases.push_back(with([&](SampleCase* c) { c->frequency = {x}; }));
  }
  cases.push_back(with([&](SampleCase* c) { c->top_k = {-1}; }));
  for (const int32_t t : {-1, 2, INT32_MAX, INT32_MIN}) {
    cases.push_back(with([&](SampleCase* c) { c->history = {t}, c->history_begin = {0, 1}; }));
    cases.push_back(with([&](SampleCase* c) {
      c->bias_tokens = {t}, c->bias_values = {0.f}, c->bias_begin = {0, 1};
    }));
  }
  for (const float x : {nan, inf}) {
    cases.push_back(with([&](SampleCase* c) {
      c->bias_tokens = {0}, c->bias_values = {x}, c->bias_begin = {0, 1};
    }));
  }
  for (size_t i = 0; i < cases.size(); ++i) {
    EXPECT_EQ(status_of(cases[i]), RADIX_ROW_PARAMETER) << "case " << i;
  }
  SampleCase fine = with([](SampleCase* c) { c->presence = {-2.f}, c->top_p = {-0.f}; });
  EXPECT_EQ(status_of(fine), RADIX_ROW_NAN);
}

TEST(Sample, WithoutStatusABadRowFailsTheCallAndTheOthersAreDone) {
  SampleCase c = draws_of({1.f, 2.f, 0.f}, 4);
  c.temperature.assign(4, 0.f);
  c.set(2, 1, NAN);
  c.set(3, 1, NAN);
  Sampled out(c);
  SampleParams p = c.params();
  out.attach(&p);
  p.out_status = nullptr;
  Executor executor;
  GuardedWorkspace workspace(sample_workspace_bytes(p, 1));
  p.workspace = workspace.data();
  EXPECT_EQ(cpu_sample(*select_kernels(RADIX_CPU_AUTO), p, executor), RADIX_E_INVALID);
  EXPECT_EQ(out.tokens, (std::vector<int32_t>{1, 1, -1, -1}));
}

// ---- log-probabilities --------------------------------------------------------------------------

TEST(Sample, LogProbabilitiesAreTheModelsOwnUnlessFinal) {
  SampleCase c = row_of({0.f, 1.f, 2.f, 3.f});
  c.temperature = {2.f};
  c.top_k = {2};
  c.allowed = {0xfffffff7u};
  c.num_top = 4;
  c.logprobs = true;
  const double total = 1 + std::exp(1.) + std::exp(2.) + std::exp(3.);
  Sampled out = check(c);
  EXPECT_EQ(out.top_tokens, (std::vector<int32_t>{3, 2, 1, 0}));
  for (int i = 0; i < 4; ++i) {
    EXPECT_NEAR(out.top_logprobs[static_cast<size_t>(i)], 3 - i - std::log(total), 1e-6);
  }
  c.flags = RADIX_SAMPLE_FINAL_LOGPROBS;
  out = check(c);
  EXPECT_EQ(out.top_tokens, (std::vector<int32_t>{2, 1, -1, -1}));
  EXPECT_NEAR(out.top_logprobs[0], -std::log(1 + std::exp(-0.5)), 1e-6);
  EXPECT_NEAR(out.top_logprobs[1], -0.5 - std::log(1 + std::exp(-0.5)), 1e-6);
  EXPECT_EQ(out.top_logprobs[2], -INFINITY);
  EXPECT_EQ(out.logprobs[0], out.top_logprobs[out.tokens[0] == 2 ? 0 : 1]);
}

TEST(Sample, FinalLogProbabilitiesOfGreedyAreCertain) {
  SampleCase c = row_of({5.f, 6.f, 6.f});
  c.flags = RADIX_SAMPLE_FINAL_LOGPROBS;
  c.num_top = 2;
  c.logprobs = true;
  const Sampled out = check(c);
  EXPECT_EQ(out.logprobs[0], 0.f);
  EXPECT_EQ(out.top_tokens, (std::vector<int32_t>{1, -1}));
  EXPECT_EQ(out.top_logprobs, (std::vector<float>{0.f, -INFINITY}));
}

TEST(Sample, AFailedRowHasNanAndMinusOneEverywhere) {
  SampleCase c = row_of({NAN, 1.f});
  c.num_top = 2;
  c.logprobs = true;
  const Sampled out = check(c);
  EXPECT_EQ(out.tokens[0], -1);
  EXPECT_TRUE(std::isnan(out.logprobs[0]));
  EXPECT_EQ(out.top_tokens, (std::vector<int32_t>{-1, -1}));
  EXPECT_TRUE(std::isnan(out.top_logprobs[0]) && std::isnan(out.top_logprobs[1]));
}

}  // namespace
}  // namespace radixattn::test
