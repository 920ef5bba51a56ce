// Random shapes and options, decode and prefill. A failure prints its seed; support/rng.h says how
// to replay it and how to run more.
#include <gtest/gtest.h>

#include <algorithm>

#include "support/attention_case.h"
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

void random_heads(Rng& rng, Shape* s) {
  const uint32_t groups[] = {1, 1, 2, 3, 4, 4, 5, 7, 8, 16};
  const uint32_t dims[] = {32, 40, 64, 72, 80, 96, 128, 128, 192, 256};
  s->kv_heads = rng.between(1, 4);
  s->q_heads = s->kv_heads * rng.pick(groups);
  s->dim = rng.one_in(4) ? 8 * rng.between(4, 32) : rng.pick(dims);
  s->dim_v = rng.one_in(3) ? 8 * rng.between(4, 32) : s->dim;
}

void random_options(Rng& rng, Shape* s) {
  const int32_t dtypes[] = {RADIX_F32, RADIX_F16, RADIX_BF16};
  const uint32_t blocks[] = {1, 2, 3, 5, 8, 16, 16, 24, 32, 64, 100, 256};
  const Layout layouts[] = {Layout::kNhd, Layout::kHnd, Layout::kPaddedNhd};
  const float amplitudes[] = {1.f, 1.f, 4.f, 20.f};
  s->block_size = rng.pick(blocks);
  s->window = rng.one_in(3) ? rng.between(1, 200) : 0;
  s->softcap = rng.one_in(4) ? 0.5f + 30.f * (1.f + rng.uniform()) : 0.f;
  s->alibi = rng.one_in(4);
  s->sinks = rng.one_in(4);
  s->layout = rng.pick(layouts);
  s->csr = rng.one_in(3);
  s->shared_prefix = rng.one_in(3);
  s->padded_rows = rng.one_in(3);
  s->lse = !rng.one_in(4);
  s->k_dtype = rng.pick(dtypes);
  s->v_dtype = rng.one_in(5) ? rng.pick(dtypes) : s->k_dtype;
  s->q_dtype = rng.pick(dtypes);
  s->out_dtype = rng.pick(dtypes);
  s->amplitude = rng.pick(amplitudes);
  s->v_offset = rng.one_in(3) ? 1.f : 0.f;
  s->max_context = rng.one_in(3) ? rng.between(2600, 100000) : 0;
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
