// Ways of decoding: each gives exactly what it must. Drafts and forks give the tokens of plain
// sampling; a beam search gives what the same search over a plain model in double precision gives.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>

#include "checkpoint_writer.h"
#include "draft.h"
#include "engine.h"
#include "error.h"
#include "plain_model.h"

namespace npc::test {
namespace {

constexpr int32_t kVocab = 61;
using Tokens = std::vector<int32_t>;

class Decoding : public testing::Test {
 protected:
  explicit Decoding(const nlohmann::json& more = nlohmann::json::object())
      : config_(small_config("LlamaForCausalLM", more)),
        weights_(random_weights(config_, 3)),
        model_(load()) {}

  Model load() const {
    const TempDir dir;
    write_checkpoint(dir.path(), config_, weights_);
    return Model::load(dir.path());
  }

  // A phrase again and again, with a slip here and there: what prompt lookup is for.
  static Tokens repetitive(std::mt19937* random, size_t n) {
    Tokens phrase(5 + (*random)() % 8), t;
    for (int32_t& v : phrase) v = static_cast<int32_t>((*random)() % kVocab);
    while (t.size() < n) t.push_back(phrase[t.size() % phrase.size()]);
    t[(*random)() % n] = static_cast<int32_t>((*random)() % kVocab);
    return t;
  }
  static SamplingParams random_params(std::mt19937* random) {
    SamplingParams p;
    const auto one_of = [&](std::initializer_list<float> values) {
      return *(values.begin() + static_cast<std::ptrdiff_t>((*random)() % values.size()));
    };
    p.temperature = one_of({0.f, 0.7f, 1.3f});
    p.top_k = (*random)() % 2 == 0 ? 0 : 9;
    p.top_p = one_of({0.f, 0.9f});
    p.min_p = one_of({0.f, 0.02f});
    p.typical_p = one_of({0.f, 0.95f});
    p.repetition_penalty = one_of({0.f, 1.2f});
    p.presence_penalty = one_of({0.f, 0.3f});
    p.frequency_penalty = one_of({0.f, -0.1f});
    p.seed = (*random)();
    if ((*random)() % 3 == 0) p.logit_bias = {{3, -INFINITY}, {11, 0.5f}};
    return p;
  }
  static uint32_t pick(std::mt19937* random, uint32_t low, uint32_t high) {
    return low + static_cast<uint32_t>((*random)() % (high - low + 1));
  }
  static EngineOptions f32_options() {
    EngineOptions options;
    options.kv_dtype = RADIX_F32;
    return options;
  }

  const nlohmann::json config_;
  const Tensors weights_;
  Model model_;
};

TEST_F(Decoding, DraftsChangeNoToken) {
  uint64_t drafted = 0, accepted = 0, preempted = 0;
  for (uint32_t seed = 1; seed <= 8; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    EngineOptions with = f32_options(), without = f32_options();
    with.draft_tokens = pick(&random, 1, 6);
    with.block_size = pick(&random, 1, 17);
    with.max_running = pick(&random, 1, 6);
    with.step_tokens = pick(&random, 1, 100);
    with.num_blocks = 150 / with.block_size + pick(&random, 3, 10);
    without.cache = false;
    with.reads.batch_invariant = without.reads.batch_invariant = seed % 2 == 0;
    Engine a(&model_, with), b(&model_, without);
    for (int i = 0; i < 10; ++i) {
      const Tokens prompt = repetitive(&random, 12 + random() % 60);
      const SamplingParams params = random_params(&random);
      const uint32_t n = pick(&random, 1, 30);
      a.submit(prompt, n, params);
      b.submit(prompt, n, params);
      for (auto s = random() % 4; s > 0; --s) a.step();
    }
    while (a.step()) a.check_cache();
    while (b.step()) {
    }
    for (uint32_t id = 0; id < 10; ++id) {
      const Generation &x = a.generation(id), &y = b.generation(id);
      ASSERT_EQ(x.output, y.output) << "request " << id;
      ASSERT_EQ(x.logits.size(), x.output.size() * kVocab);
      const float tolerance = with.reads.batch_invariant ? 0.f : 1e-3f;
      for (size_t i = 0; i < x.logits.size(); ++i) ASSERT_NEAR(x.logits[i], y.logits[i], tolerance);
      drafted += x.drafted_tokens;
      accepted += x.accepted_drafts;
    }
    preempted += a.preemptions();
    EXPECT_EQ(a.stats().requests_live, 0u);
  }
  EXPECT_GT(drafted, 100u);
  EXPECT_GT(accepted, 20u);
  EXPECT_LT(accepted, drafted);  // some were cut off
  EXPECT_GT(preempted, 0u);
}

TEST_F(Decoding, DraftsThatStandSaveSteps) {
  std::mt19937 random(5);
  const Tokens prompt = repetitive(&random, 40);
  SamplingParams params;  // a model that repeats the phrase: every other token is banned
  for (int32_t t = 0; t < kVocab; ++t) {
    if (t != prompt[0] && t != prompt[1]) params.logit_bias.emplace_back(t, -INFINITY);
  }
  EngineOptions with = f32_options();
  with.draft_tokens = 4;
  Engine a(&model_, with), b(&model_, f32_options());
  for (Engine* e : {&a, &b}) {
    e->submit(prompt, 60, params);
    while (e->step()) e->check_cache();
  }
  EXPECT_EQ(a.generation(0).output, b.generation(0).output);
  EXPECT_GT(a.generation(0).accepted_drafts, 0u);
  EXPECT_EQ(a.steps() + a.generation(0).accepted_drafts, b.steps());
}

TEST_F(Decoding, ForksGiveWhatRequestsOfTheirOwnWould) {
  for (const uint32_t step_tokens : {512u, 10u}) {
    std::mt19937 random(step_tokens);
    EngineOptions options = f32_options();
    options.step_tokens = step_tokens;
    Engine forked(&model_, options), alone(&model_, options);
    const Tokens prompt = repetitive(&random, 45);  // its last block is shared, then copied
    SamplingParams params;
    params.temperature = 1;
    params.repetition_penalty = 1.1f;
    params.seed = 77;
    const uint32_t first = forked.submit(prompt, 20, params, 5);
    const uint32_t other = forked.submit(repetitive(&random, 20), 6, params, 2);
    while (forked.step()) forked.check_cache();
    std::map<Tokens, int> different;
    uint64_t computed = 0;
    for (uint32_t i = 0; i < 5; ++i) {
      SamplingParams mine = params;
      mine.seed += i;
      const uint32_t id = alone.submit(prompt, 20, mine);
      while (alone.step()) {
      }
      const Generation& g = forked.generation(first + i);
      EXPECT_TRUE(g.done);
      EXPECT_EQ(g.output, alone.generation(id).output) << "sample " << i;
      computed += g.computed_tokens;
      ++different[g.output];
    }
    EXPECT_EQ(computed, prompt.size());  // once
    EXPECT_GE(different.size(), 4u);     // draws are their own
    EXPECT_TRUE(forked.generation(other).done && forked.generation(other + 1).done);
    EXPECT_GT(forked.stats().cow_copies, 0u);
    EXPECT_EQ(forked.stats().requests_live, 0u);
  }
}

// A prompt that two requests share in one step: who borrows it can still be forked.
TEST_F(Decoding, ABorrowedPromptIsForked) {
  const Tokens prompt(48, 5);
  SamplingParams params;
  params.temperature = 1;
  Engine engine(&model_, f32_options());
  const uint32_t a = engine.submit(prompt, 6, params, 2), b = engine.submit(prompt, 6, params, 2);
  while (engine.step()) engine.check_cache();
  for (uint32_t i = 0; i < 2; ++i)
    EXPECT_EQ(engine.generation(a + i).output, engine.generation(b + i).output);
}

TEST_F(Decoding, SubmitsThatCannotRunAreRefused) {
  EngineOptions options = f32_options();
  options.max_running = 3;
  Engine engine(&model_, options);
  EXPECT_THROW(engine.submit({1}, 1, {}, 0), Error);
  EXPECT_THROW(engine.submit({1}, 1, {}, 4), Error);
  SamplingParams params;
  params.top_p = 2;
  engine.submit({1}, 1, params);
  EXPECT_THROW(engine.step(), Error);
}

// ---- beams --------------------------------------------------------------------------------------

// A model with so many ending tokens that hypotheses do end.
class Beams : public Decoding {
 protected:
  Beams() : Decoding({{"eos_token_id", {2, 7, 8, 15, 21, 30, 33, 40, 44, 50, 52, 55}}}) {}
};

// The same search over the plain model: every prefix computed anew.
class PlainBeams {
 public:
  PlainBeams(const nlohmann::json& config, const Tensors& weights)
      : config_(config), weights_(weights) {}

  std::vector<Hypothesis> run(const Tokens& prompt, const BeamOptions& o) {
    struct Beam {
      Tokens output;
      double logprob;
    };
    std::vector<Beam> beams = {{{}, 0}};
    std::vector<Hypothesis> done;
    const auto end = [&](const Beam& b) {
      done.push_back({b.output, b.logprob, score(b.logprob, b.output.size(), o)});
    };
    for (uint32_t length = 1; length <= o.max_new_tokens; ++length) {
      std::vector<Beam> all;
      for (const Beam& b : beams) {
        const std::vector<double> logprobs = next(prompt, b.output);
        for (int32_t t = 0; t < kVocab; ++t) {
          all.push_back(b);
          all.back().output.push_back(t);
          all.back().logprob += logprobs[static_cast<size_t>(t)];
        }
      }
      std::stable_sort(all.begin(), all.end(),
                       [](const Beam& a, const Beam& b) { return a.logprob > b.logprob; });
      beams.clear();
      for (size_t rank = 0; beams.size() < o.width; ++rank) {
        if (!is_end(all[rank].output.back())) {
          beams.push_back(all[rank]);
        } else if (rank < o.width) {
          end(all[rank]);
        }
      }
      sort(&done);
      if (done.size() >= o.width) {
        done.resize(o.width);
        if (score(beams[0].logprob, length, o) <= done.back().score) return done;
      }
    }
    for (const Beam& b : beams) end(b);
    sort(&done);
    done.resize(o.width);
    return done;
  }

 private:
  bool is_end(int32_t token) const {
    const auto eos = config_.at("eos_token_id").get<Tokens>();
    return std::find(eos.begin(), eos.end(), token) != eos.end();
  }
  static double score(double logprob, size_t length, const BeamOptions& o) {
    return logprob / std::pow(static_cast<double>(length), double{o.length_penalty});
  }
  static void sort(std::vector<Hypothesis>* done) {
    std::stable_sort(done->begin(), done->end(),
                     [](const Hypothesis& a, const Hypothesis& b) { return a.score > b.score; });
  }
  std::vector<double> next(const Tokens& prompt, const Tokens& output) {
    Tokens all = prompt;
    all.insert(all.end(), output.begin(), output.end());
    std::vector<double> logits = plain_forward(config_, weights_, all).back();
    double sum = 0;
    for (const double x : logits) sum += std::exp(x);
    for (double& x : logits) x -= std::log(sum);
    return logits;
  }

  const nlohmann::json& config_;
  const Tensors& weights_;
};

TEST_F(Beams, AreThoseOfThePlainSearch) {
  bool some_end_early = false;
  for (const auto& [width, seed] :
       {std::pair{1u, 1u}, {2u, 2u}, {3u, 3u}, {4u, 4u}, {4u, 9u}, {5u, 12u}}) {
    SCOPED_TRACE("width " + std::to_string(width) + " seed " + std::to_string(seed));
    std::mt19937 random(seed);
    Tokens prompt(18);
    for (int32_t& t : prompt) t = static_cast<int32_t>(random() % kVocab);
    BeamOptions options;
    options.width = width;
    options.max_new_tokens = 7;
    options.length_penalty = seed % 2 == 0 ? 1.f : 0.5f;
    EngineOptions engine_options = f32_options();
    engine_options.block_size = 4;  // beams part in the middle of blocks
    Engine engine(&model_, engine_options);
    const std::vector<Hypothesis> got = engine.beam_search(prompt, options);
    const std::vector<Hypothesis> want = PlainBeams(config_, weights_).run(prompt, options);
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_EQ(got[i].output, want[i].output) << "hypothesis " << i;
      EXPECT_NEAR(got[i].logprob, want[i].logprob, 1e-3);
      EXPECT_NEAR(got[i].score, want[i].score, 1e-3);
      some_end_early = some_end_early || got[i].output.size() < 7;
    }
    engine.check_cache();
    EXPECT_EQ(engine.stats().requests_live, 0u);
    if (width > 1) {
      EXPECT_GT(engine.stats().cow_copies, 0u);
    }
  }
  EXPECT_TRUE(some_end_early);
}

TEST_F(Beams, WithoutTheCacheNothingIsKept) {
  EngineOptions options = f32_options();
  Engine with(&model_, options);
  options.cache = false;
  Engine without(&model_, options);
  const Tokens prompt(20, 9);
  for (int round = 0; round < 2; ++round) {
    const auto a = with.beam_search(prompt, {3, 6, 1}), b = without.beam_search(prompt, {3, 6, 1});
    ASSERT_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size(); ++i) EXPECT_EQ(a[i].output, b[i].output);
  }
  EXPECT_GT(with.stats().tokens_hit, 0u);
  EXPECT_EQ(without.stats().tokens_hit, 0u);
  EXPECT_EQ(without.stats().blocks_free, without.stats().blocks_total);
}

TEST_F(Beams, ASearchThatDoesNotFitLeavesNothing) {
  EngineOptions options = f32_options();
  options.num_blocks = 4;
  options.block_size = 4;
  Engine engine(&model_, options);
  EXPECT_THROW(engine.beam_search(Tokens(8, 1), {4, 20, 1}), Error);
  EXPECT_EQ(engine.stats().requests_live, 0u);
  engine.check_cache();
  EXPECT_THROW(engine.beam_search({}, {}), Error);
  EXPECT_THROW(engine.beam_search({1}, {0, 4, 1}), Error);
  EXPECT_THROW(engine.beam_search({1}, {options.max_running + 1, 4, 1}), Error);
  EXPECT_THROW(engine.beam_search({1}, {2, 0, 1}), Error);
  EXPECT_THROW(engine.beam_search({1}, {2, 512, 1}), Error);
  engine.submit({1}, 1);
  EXPECT_THROW(engine.beam_search({1}, {}), Error);
}

// ---- prompt lookup ------------------------------------------------------------------------------

TEST(LookupDraft, ContinuesTheLatestPlaceOfTheLongestNgram) {
  EXPECT_EQ(lookup_draft(Tokens{1, 2, 3, 4, 1, 2}, 3, 2), (Tokens{3, 4}));
  EXPECT_EQ(lookup_draft(Tokens{1, 2, 3, 1, 2, 4, 1, 2}, 3, 1), (Tokens{4}));  // the latest
  EXPECT_EQ(lookup_draft(Tokens{5, 1, 2, 9, 6, 1, 2, 7, 5, 1, 2}, 3, 1),
            (Tokens{9}));  // the longest
  EXPECT_EQ(lookup_draft(Tokens{5, 1, 2, 9, 6, 1, 2, 7, 5, 1, 2}, 2, 1), (Tokens{7}));
  EXPECT_EQ(lookup_draft(Tokens{3, 3, 3}, 2, 5), (Tokens{3}));  // as far as there is something
}

TEST(LookupDraft, GuessesNothingWhereNothingStands) {
  EXPECT_TRUE(lookup_draft(Tokens{}, 3, 4).empty());
  EXPECT_TRUE(lookup_draft(Tokens{1}, 3, 4).empty());
  EXPECT_TRUE(lookup_draft(Tokens{1, 2, 3}, 3, 4).empty());
  EXPECT_TRUE(lookup_draft(Tokens{1, 1}, 3, 0).empty());
  EXPECT_TRUE(lookup_draft(Tokens{1, 1}, 0, 4).empty());
}

}  // namespace
}  // namespace npc::test
