// Batching, sharing and preemption change what is computed, never what comes out.
#include "engine.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "checkpoint_writer.h"
#include "error.h"

namespace npc::test {
namespace {

class EngineTest : public testing::Test {
 protected:
  static Model load() {
    const TempDir dir;
    const auto config = small_config("LlamaForCausalLM");
    write_checkpoint(dir.path(), config, random_weights(config, 3));
    return Model::load(dir.path());
  }

  // Prompts like a game's: a few long shared beginnings, tails of their own, some exact
  // repetitions.
  static std::vector<std::vector<int32_t>> random_prompts(std::mt19937* random, size_t n) {
    const auto tokens = [&](size_t length) {
      std::vector<int32_t> t(length);
      for (int32_t& v : t) v = static_cast<int32_t>((*random)() % 61);
      return t;
    };
    std::vector<std::vector<int32_t>> worlds, prompts;
    for (int i = 0; i < 3; ++i) worlds.push_back(tokens(20 + (*random)() % 60));
    while (prompts.size() < n) {
      if (!prompts.empty() && (*random)() % 5 == 0) {
        prompts.push_back(prompts[(*random)() % prompts.size()]);
        continue;
      }
      std::vector<int32_t> prompt = worlds[(*random)() % worlds.size()];
      const std::vector<int32_t> tail = tokens((*random)() % 30);
      prompt.insert(prompt.end(), tail.begin(), tail.end());
      prompts.push_back(prompt);
    }
    return prompts;
  }

  // Submits all, some only after a few steps; returns the generations by prompt.
  static std::vector<Generation> run(Engine* engine,
                                     const std::vector<std::vector<int32_t>>& prompts,
                                     uint32_t seed) {
    std::mt19937 random(seed);
    std::vector<uint32_t> ids;
    for (const auto& prompt : prompts) {
      ids.push_back(engine->submit(prompt, 1 + static_cast<uint32_t>(random() % 12)));
      for (auto steps = random() % 3; steps > 0; --steps) engine->step();
    }
    while (engine->step()) engine->check_cache();
    std::vector<Generation> out;
    for (const uint32_t id : ids) out.push_back(engine->generation(id));
    return out;
  }

  static float largest_difference(const Generation& a, const Generation& b) {
    float largest = 0;
    for (size_t i = 0; i < std::min(a.logits.size(), b.logits.size()); ++i) {
      largest = std::max(largest, std::fabs(a.logits[i] - b.logits[i]));
    }
    return largest;
  }

  static bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
  }

  Model model_ = load();
};

TEST_F(EngineTest, CachedTokensEqualUncachedOnes) {
  uint64_t cached = 0, preempted = 0, evicted = 0;
  for (uint32_t seed = 1; seed <= 12; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    const auto prompts = random_prompts(&random, 14);
    const auto pick = [&](uint32_t low, uint32_t high) {
      return low + static_cast<uint32_t>(random() % (high - low + 1));
    };
    EngineOptions options;
    options.reads.batch_invariant = seed % 2 == 1;
    options.reads.shared = pick(0, 2) > 0;
    options.kv_dtype = RADIX_F32;
    if (options.reads.batch_invariant)
      options.kv_dtype = static_cast<int32_t>(pick(RADIX_F32, RADIX_BF16));
    options.threads = pick(1, 3);
    options.block_size = pick(1, 20);
    options.step_tokens = pick(1, 200);
    options.max_running = pick(1, 8);
    // Room for one and a bit of the longest: running out is the rule.
    options.num_blocks = 125 / options.block_size + pick(2, 9);
    EngineOptions plain = options;
    plain.cache = false;
    plain.reads.shared = false;
    plain.threads = 1;
    plain.num_blocks = 4096;
    Engine with(&model_, options), without(&model_, plain);
    const auto a = run(&with, prompts, seed), b = run(&without, prompts, seed);
    for (size_t i = 0; i < prompts.size(); ++i) {
      ASSERT_TRUE(a[i].done && b[i].done);
      ASSERT_EQ(a[i].output, b[i].output) << "prompt " << i;
      ASSERT_LT(largest_difference(a[i], b[i]), 1e-3f);
      if (options.reads.batch_invariant) {
        ASSERT_TRUE(same_bits(a[i].logits, b[i].logits)) << "prompt " << i;
      }
      ASSERT_EQ(b[i].cached_tokens, 0u);
      ASSERT_EQ(b[i].computed_tokens, prompts[i].size());
      if (a[i].preemptions == 0) {
        ASSERT_EQ(a[i].cached_tokens + a[i].computed_tokens, prompts[i].size());
      }
      cached += a[i].cached_tokens;
    }
    preempted += with.preemptions();
    evicted += with.stats().blocks_evicted;
    EXPECT_EQ(with.stats().requests_live, 0u);
    EXPECT_EQ(without.stats().blocks_free, without.stats().blocks_total);
  }
  EXPECT_GT(cached, 1000u);  // the test has seen what it is about
  EXPECT_GT(preempted, 0u);
  EXPECT_GT(evicted, 0u);
}

TEST_F(EngineTest, RequestsOfOneStepComputeASharedPrefixOnce) {
  std::vector<int32_t> world(64);
  for (size_t i = 0; i < world.size(); ++i) world[i] = static_cast<int32_t>(i % 61);
  EngineOptions options;
  options.step_tokens = 40;  // the prefix takes two steps
  Engine engine(&model_, options);
  std::vector<uint32_t> ids;
  for (int32_t i = 0; i < 6; ++i) {
    std::vector<int32_t> prompt = world;
    prompt.insert(prompt.end(), {i, i + 1, i + 2});
    ids.push_back(engine.submit(prompt, 4));
  }
  while (engine.step()) engine.check_cache();
  uint64_t computed = 0;
  for (const uint32_t id : ids) computed += engine.generation(id).computed_tokens;
  EXPECT_EQ(computed, 64u + 6 * 3);
}

TEST_F(EngineTest, TheNextTurnFindsTheConversationSoFar) {
  EngineOptions options;
  Engine engine(&model_, options);
  std::vector<int32_t> conversation(70, 5);
  const uint32_t first = engine.submit(conversation, 8);
  while (engine.step()) {
  }
  const std::vector<int32_t> answer = engine.generation(first).output;
  conversation.insert(conversation.end(), answer.begin(), answer.end());
  conversation.push_back(9);
  const uint32_t second = engine.submit(conversation, 8);
  while (engine.step()) {
  }
  const uint64_t written = 70 + 8 - 1;  // the last token was sampled, never computed
  EXPECT_EQ(engine.generation(second).cached_tokens, written / 16 * 16);
}

TEST_F(EngineTest, APoolTooSmallForOneSequenceIsAnError) {
  EngineOptions options;
  options.num_blocks = 2;
  Engine engine(&model_, options);
  engine.submit(std::vector<int32_t>(60, 1), 4);
  EXPECT_THROW(engine.step(), Error);
  Engine growing(&model_, options);
  growing.submit(std::vector<int32_t>(30, 1), 20);
  EXPECT_THROW(while (growing.step()){}, Error);
}

TEST_F(EngineTest, RefusesPromptsOutsideTheModel) {
  Engine engine(&model_, EngineOptions());
  EXPECT_THROW(engine.submit({}, 4), Error);
  EXPECT_THROW(engine.submit(std::vector<int32_t>(512, 1), 4), Error);
  EXPECT_THROW(engine.submit({1}, 0), Error);
  engine.submit({61}, 4);
  EXPECT_THROW(engine.step(), Error);
}

}  // namespace
}  // namespace npc::test
