// The arithmetic of sampling (sample/weights.h): its errors, its orders, known answers of Philox.
#include "sample/weights.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <vector>

namespace radixattn {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

double value_of(uint64_t weight) { return static_cast<double>(weight) / 0x1p40; }

// ---- weights ------------------------------------------------------------------------------------

TEST(SampleWeights, TheFirstTwoPowersFallStrictlyWithEachStep) {
  uint64_t last = weight_of_steps(0);
  ASSERT_EQ(last, kMaxWeight);
  for (uint32_t steps = 1; steps <= 1u << 25; ++steps) {
    const uint64_t weight = weight_of_steps(steps);
    ASSERT_LT(weight, last) << steps;
    last = weight;
  }
}

TEST(SampleWeights, TheErrorIsBelow2ToTheMinus27OfTheValue) {
  double worst = 0;
  for (uint32_t steps = 0; steps < 1u << 24; ++steps) {
    const double want = std::exp2(-static_cast<double>(steps) * 0x1p-24);
    worst = std::max(worst, std::abs(value_of(weight_of_steps(steps)) - want) / want);
  }
  EXPECT_LT(worst, 0x1p-27);
  std::printf("  largest error: 2^%.2f of the value\n", std::log2(worst));
}

TEST(SampleWeights, NeverRiseAndEndAtZero) {
  uint64_t last = kMaxWeight;
  for (uint64_t steps = 0; steps < uint64_t{41} << 24; steps += 997) {
    const uint64_t weight = weight_of_steps(static_cast<uint32_t>(steps));
    ASSERT_LE(weight, last) << steps;
    last = weight;
  }
  for (uint32_t power = 1; power <= 40; ++power) {
    const uint32_t at = power << 24;
    ASSERT_EQ(weight_of_steps(at), kMaxWeight >> power);
    ASSERT_LE(weight_of_steps(at), weight_of_steps(at - 1));
  }
  EXPECT_EQ(weight_of_steps((40u << 24) + 1), 0u);
  EXPECT_EQ(weight_of_steps(kNoWeight), 0u);
}

TEST(SampleWeights, ScoresFarBelowAndInfiniteScalesWeighNothing) {
  EXPECT_EQ(weight_of(2.f, 2.f, 1.f), kMaxWeight);
  EXPECT_EQ(weight_of(1.f, 2.f, 1.f), kMaxWeight / 2);
  EXPECT_EQ(weight_of(-kInf, 2.f, 1.f), 0u);
  EXPECT_EQ(weight_of(-39.f, 2.f, 1.f), 0u);
  EXPECT_EQ(weight_of(2.f, 2.f, kInf), kMaxWeight);
  EXPECT_EQ(weight_of(1.9999999f, 2.f, kInf), 0u);
  EXPECT_EQ(weight_of(-0.f, 0.f, kInf), kMaxWeight);
  EXPECT_EQ(weight_of(-3e38f, 3e38f, 1.f), 0u) << "a difference that overflows";
  EXPECT_EQ(weight_of(-3e38f, 3e38f, 0.f), 0u) << "inf * 0";
}

TEST(SampleWeights, TargetsAreTheLeastSumThatReachesTheShare) {
  EXPECT_EQ(target_weight(1.f, 12345), 12345u);
  EXPECT_EQ(target_weight(0.5f, 1000), 500u);
  EXPECT_EQ(target_weight(0.5f, 1001), 501u);
  EXPECT_EQ(target_weight(0x1p-149f, uint64_t{1} << 60), 1u);
  EXPECT_EQ(target_weight(0.99999994f, 3), 3u);
  EXPECT_EQ(target_weight(0.99999994f, uint64_t{1} << 60),
            (uint64_t{1} << 60) - (uint64_t{1} << 36));
}

// ---- orders -------------------------------------------------------------------------------------

TEST(SampleWeights, RankKeysFallWhereScoresRise) {
  const float scores[] = {kInf,       3e38f, 1.0000001f,  1.f,    0x1p-149f, 0.f,
                          -0x1p-149f, -1.f,  -1.0000001f, -3e38f, -kInf};
  for (size_t i = 1; i < std::size(scores); ++i) {
    EXPECT_LT(rank_key(scores[i - 1]), rank_key(scores[i])) << scores[i];
  }
  EXPECT_EQ(rank_key(0.f), rank_key(-0.f));
}

TEST(SampleWeights, TypicalSumsOfAWholeVocabularyFit) {
  // The worst: 2^20 tokens at the steps where weight times steps is largest (a = 1 / ln 2).
  const uint32_t worst = static_cast<uint32_t>(0x1p24 / 0.6931471805599453);
  TypicalSum sum;
  for (uint32_t t = 0; t < kMaxVocab; ++t) typical_add(&sum, worst, weight_of_steps(worst));
  EXPECT_EQ(typical_mean(sum), typical_steps(worst));
  EXPECT_EQ(typical_key(worst, typical_steps(worst)), 0u);
  EXPECT_EQ(typical_key(0, 5), 5u);
  EXPECT_EQ(typical_key(5u << 4, 0), 5u);
}

// ---- draws --------------------------------------------------------------------------------------

// Philox4x32-10 of Random123's known answers (kat_vectors), with c3 = 0: philox_bits has no more.
// The all-zero vector is among them. The others, whose c3 is not 0, are held against a plain
// implementation below, which all three must pass.
struct Block {
  uint32_t word[4];
};
Block philox(Block c, uint32_t k0, uint32_t k1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * c.word[0], p1 = uint64_t{0xCD9E8D57} * c.word[2];
    c = {{static_cast<uint32_t>(p1 >> 32) ^ c.word[1] ^ k0, static_cast<uint32_t>(p1),
          static_cast<uint32_t>(p0 >> 32) ^ c.word[3] ^ k1, static_cast<uint32_t>(p0)}};
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return c;
}

TEST(SampleWeights, PhiloxHasItsKnownAnswers) {
  const auto expect = [](const Block& got, const Block& want) {
    EXPECT_TRUE(std::equal(got.word, got.word + 4, want.word));
  };
  expect(philox({{0, 0, 0, 0}}, 0, 0), {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}});
  constexpr uint32_t kOnes = 0xffffffff;
  expect(philox({{kOnes, kOnes, kOnes, kOnes}}, kOnes, kOnes),
         {{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}});
  expect(philox({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0xa4093822, 0x299f31d0),
         {{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}});
  EXPECT_EQ(philox_bits(0, 0, 0), 0xe169c58d6627e8d5u);
}

TEST(SampleWeights, PhiloxBitsAreTheFirstTwoWordsOfABlock) {
  uint64_t seed = 0x0123456789abcdef, position = 0xfedcba9876543210;
  for (uint32_t stream = 0; stream < 1000; ++stream) {
    const Block b = philox(
        {{static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32), stream, 0}},
        static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
    ASSERT_EQ(philox_bits(seed, position, stream), uint64_t{b.word[1]} << 32 | b.word[0]);
    seed = seed * 6364136223846793005u + 1;
    position = position * 3202034522624059733u + 1;
  }
}

TEST(SampleWeights, DrawsStayBelowTheTotal) {
  const uint64_t ones = UINT64_MAX, top = uint64_t{1} << 60;
  EXPECT_EQ(draw_below(0, top), 0u);
  EXPECT_EQ(draw_below(ones, top), top - 1);
  EXPECT_EQ(draw_below(ones, 1), 0u);
  EXPECT_EQ(draw_below(uint64_t{1} << 63, 10), 5u);
  EXPECT_EQ(draw_below((uint64_t{1} << 63) - 1, 10), 4u);
  EXPECT_EQ(high_product(ones, ones), ones - 1);
  uint64_t x = 1;
  for (int i = 0; i < 10000; ++i) {
    x = x * 6364136223846793005u + 1442695040888963407u;
    const uint64_t y = x ^ x << 17;
    const auto want = static_cast<uint64_t>(static_cast<unsigned __int128>(x) * y >> 64);
    ASSERT_EQ(high_product(x, y), want);
  }
}

// ---- drafts -------------------------------------------------------------------------------------

TEST(SampleWeights, DraftProbabilitiesAreWeights) {
  EXPECT_EQ(draft_weight(1.f), kMaxWeight);
  EXPECT_EQ(draft_weight(0.5f), kMaxWeight / 2);
  EXPECT_EQ(draft_weight(0x1p-40f), 1u);
  EXPECT_EQ(draft_weight(0x1p-41f), 0u);
  EXPECT_EQ(draft_weight(2.f), kMaxWeight);
  EXPECT_EQ(draft_weight(kInf), kMaxWeight);
  EXPECT_EQ(draft_weight(-1.f), 0u);
  EXPECT_EQ(draft_weight(std::numeric_limits<float>::quiet_NaN()), 0u);
}

TEST(SampleWeights, DraftsStandByTheRatioOfTheirShares) {
  const uint64_t half = uint64_t{1} << 63;
  EXPECT_FALSE(draft_stands(0, 10, 5, 10, 0));
  EXPECT_TRUE(draft_stands(1, 10, 0, 10, UINT64_MAX));
  EXPECT_TRUE(draft_stands(5, 10, 50, 100, UINT64_MAX)) << "equal shares";
  EXPECT_TRUE(draft_stands(5, 20, 5, 10, half - 1));
  EXPECT_FALSE(draft_stands(5, 20, 5, 10, half));
  EXPECT_EQ(residual_weight(5, 10, 1, 4), uint64_t{1} << 50);
  EXPECT_EQ(residual_weight(1, 4, 5, 10), 0u);
  EXPECT_EQ(residual_weight(3, 10, 3, 10), 0u);
}

}  // namespace
}  // namespace radixattn
