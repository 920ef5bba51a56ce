// Random shapes and options, decode and prefill. A failure prints its seed; support/rng.h says how
// to replay it and how to run more.
#include <gtest/gtest.h>

#include <algorithm>

#include "support/attention_case.h"
#include "support/random_shape.h"
#include "support/rng.h"

namespace radixattn::test {
namespace {

// Element products of the reference that one case may cost.
constexpr uint64_t kBudget = 3'000'000;

uint64_t cost(const Shape& s) {
  uint64_t n = 0;
  for (const Sequence& q : s.seqs) n += uint64_t{q.context} * (s.prefill ? q.q_len : 1);
  return n * s.q_heads * (s.dim + s.dim_v);
}

uint32_t random_length(Rng& rng) {
  const uint32_t edges[] = {0, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257};
  if (rng.one_in(3)) return rng.pick(edges);
  return rng.below(rng.one_in(6) ? 2600 : 300);
}

Shape random_shape(Rng& rng, bool prefill) {
  Shape s;
  s.prefill = prefill;
  s.tree_mask = prefill && rng.one_in(5);
  random_heads(rng, &s);
  random_options(rng, &s);
  s.seqs.clear();
  for (uint32_t n = rng.between(1, 6); n > 0; --n) {
    const uint32_t context = random_length(rng);
    const uint32_t all = rng.one_in(8) ? context + 3 : context;  // rows before the first key
    s.seqs.push_back({context, rng.one_in(2) ? all : rng.below(std::min(all, 40u) + 1)});
    while (cost(s) > kBudget) {
      Sequence& last = s.seqs.back();
      last.context /= 2;
      last.q_len = std::min(last.q_len, last.context) / 2;
    }
  }
  return s;
}

void run(uint64_t seed, bool prefill) {
  SCOPED_TRACE(::testing::Message() << "replay with RADIX_TEST_ONLY=" << seed);
  Rng rng(seed);
  const Shape shape = random_shape(rng, prefill);
  AttentionCase(shape, rng.next()).check_all_targets();
}

TEST(RandomAttention, DecodeMatchesTheReference) {
  for_random_cases("decode", 150, [](uint64_t seed) { run(seed, false); });
}

TEST(RandomAttention, PrefillMatchesTheReference) {
  for_random_cases("prefill", 150, [](uint64_t seed) { run(seed, true); });
}

}  // namespace
}  // namespace radixattn::test
