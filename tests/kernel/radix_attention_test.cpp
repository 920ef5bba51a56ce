// Radix attention on the CPU: random work lists over random trees.
#include <gtest/gtest.h>

#include <algorithm>

#include "support/radix_case.h"
#include "support/rng.h"
#include "support/runners.h"

namespace radixattn::test {
namespace {

constexpr uint64_t kBudget = 3'000'000;

// The lists of these tests are what backend/radix_list.h says: else nothing below means anything.
TEST(RadixCase, RandomListsAreValid) {
  uint64_t shared = 0, states = 0, narrow = 0, direct = 0, empty = 0, shared_segments = 0;
  for_random_cases("radix lists", 200, [&](uint64_t seed) {
    SCOPED_TRACE(::testing::Message() << "replay with RADIX_TEST_ONLY=" << seed);
    Rng rng(seed);
    const bool prefill = rng.one_in(2);
    AttentionCase c(random_radix_shape(rng, prefill, kBudget), rng.next());
    ListRules rules;
    rules.batch_invariant = rng.one_in(2);
    rules.share = !rng.one_in(4);
    rules.cut = !rng.one_in(4);
    rules.wide_rows = rng.between(1, 300);
    const RadixArrays list = random_radix_list(c, rules, rng);
    expect_valid_list(c, list, rules.batch_invariant);
    const uint32_t group = c.shape().q_heads / c.shape().kv_heads;
    for (const RadixItem& item : list.items) {
      states += item.state_stride != 0;
      narrow += static_cast<uint64_t>(item.narrow);
      direct += item.state == RadixItem::kDirect;
      shared_segments += rules.batch_invariant &&
                         item.row_end - item.row_begin > static_cast<int32_t>(group) && !prefill;
      shared += item.row_end - item.row_begin > static_cast<int32_t>(group) && !prefill;
    }
    for (const RadixMerge& m : list.merges) empty += m.first_row < 0;
  });
  if (environment("RADIX_TEST_ONLY", 0) != 0) return;
  EXPECT_GT(shared, 100u);
  EXPECT_GT(shared_segments, 5u);
  EXPECT_GT(states, 20u);
  EXPECT_GT(narrow, 50u);
  EXPECT_GT(direct, 50u);
  EXPECT_GT(empty, 20u);
}

// A launch with `list`, by the CPU backend's own arithmetic of the workspace.
Launcher by_list(const CpuKernels& kernels, Executor executor, const RadixArrays& list,
                 bool batch_invariant = false) {
  return [&kernels, executor, &list, batch_invariant](const AttentionParams& p) mutable {
    AttentionParams with_list = p;
    with_list.radix = list.list();
    with_list.batch_invariant = batch_invariant;
    with_list.bf16_weights = batch_invariant;
    return AttentionCase::launch(kernels, with_list, executor);
  };
}

ListRules random_rules(Rng& rng) {
  ListRules rules;
  rules.wide_rows = rng.one_in(3) ? rng.between(1, 479) : 480;
  rules.narrow = !rng.one_in(4);
  rules.share = !rng.one_in(6);
  rules.cut = !rng.one_in(4);
  return rules;
}

void check_list(uint64_t seed, bool prefill) {
  SCOPED_TRACE(::testing::Message() << "replay with RADIX_TEST_ONLY=" << seed);
  Rng rng(seed);
  AttentionCase c(random_radix_shape(rng, prefill, kBudget), rng.next());
  const RadixArrays list = random_radix_list(c, random_rules(rng), rng);
  static std::vector<NamedExecutor> executors = all_executors();
  for (const CpuKernels* kernels : runnable_targets()) {
    ::testing::Message what;
    what << kernels->name << ": " << c.shape();
    SCOPED_TRACE(what);
    const Result alone = c.run(by_list(*kernels, Executor(), list));
    c.expect_matches_reference(alone);
    const NamedExecutor& other = executors[rng.below(static_cast<uint32_t>(executors.size()))];
    const Result together = c.run(by_list(*kernels, other.executor, list));
    EXPECT_TRUE(alone.raw_out == together.raw_out) << "other bits on the " << other.name;
    EXPECT_TRUE(alone.raw_lse == together.raw_lse) << "other LSE bits on the " << other.name;
  }
}

TEST(RadixAttention, RandomListsOfDecodeMatchTheReference) {
  for_random_cases("radix decode", 100, [](uint64_t seed) { check_list(seed, false); });
}

TEST(RadixAttention, RandomListsOfPrefillMatchTheReference) {
  for_random_cases("radix prefill", 100, [](uint64_t seed) { check_list(seed, true); });
}

// ---- batch-invariant launches

char* advance(void* data, int32_t dtype, int64_t elements) {
  return static_cast<char*>(data) + elements * static_cast<int64_t>(element_bytes(dtype));
}

// Sequence s of a launch, alone.
AttentionParams sequence_of(AttentionParams p, uint32_t s) {
  p.num_seqs = 1;
  p.context_lens += s;
  if (p.blocks.tables != nullptr) p.blocks.tables += s * p.blocks.row_stride;
  if (p.blocks.tables == nullptr) p.blocks.block_begin += s;
  if (p.cu_q_lens != nullptr) {
    p.cu_q_lens += s;
    return p;
  }
  p.q.data = advance(p.q.data, p.q.dtype, s * p.q.row_stride);
  p.out.data = advance(p.out.data, p.out.dtype, s * p.out.row_stride);
  if (p.lse != nullptr) p.lse += s * p.lse_row_stride;
  return p;
}

// How many rows of the batch go into one launch at a time: the whole of it in one launch; each
// sequence by itself; prefill's sequences in chunks; prefill's rows as decode's.
enum class Way { kWhole, kSequences, kChunks, kRows };

class InvariantLauncher {
 public:
  InvariantLauncher(const CpuKernels& kernels, Executor executor, Rng* rng)
      : kernels_(kernels), executor_(executor), rng_(rng) {}

  radix_status launch(AttentionParams p, Way way) {
    p.batch_invariant = true;
    p.bf16_weights = true;
    if (way == Way::kWhole) return AttentionCase::launch(kernels_, p, executor_);
    for (uint32_t s = 0; s < p.num_seqs; ++s) {
      const AttentionParams one = sequence_of(p, s);
      const radix_status st = way == Way::kSequences || p.cu_q_lens == nullptr
                                  ? AttentionCase::launch(kernels_, one, executor_)
                                  : chunks(one, way == Way::kRows);
      if (st != RADIX_OK) return st;
    }
    return RADIX_OK;
  }

 private:
  radix_status chunks(AttentionParams p, bool rows_as_decode) {
    const int32_t first = p.cu_q_lens[0], end = p.cu_q_lens[1];
    const int32_t old = p.context_lens[0] - (end - first);
    for (int32_t r = first; r < end;) {
      const auto n = rows_as_decode
                         ? 1
                         : 1 + static_cast<int32_t>(rng_->below(static_cast<uint32_t>(end - r)));
      const int32_t context = std::max(0, old + (r - first) + n), cu[2] = {r, r + n};
      AttentionParams chunk = p;
      chunk.context_lens = &context;
      chunk.cu_q_lens = cu;
      if (rows_as_decode) chunk = row_of(chunk, r);
      const radix_status st = AttentionCase::launch(kernels_, chunk, executor_);
      if (st != RADIX_OK) return st;
      r += n;
    }
    return RADIX_OK;
  }

  static AttentionParams row_of(AttentionParams p, int32_t row) {
    p.cu_q_lens = nullptr;
    p.max_query_len = 1;
    p.q.data = advance(p.q.data, p.q.dtype, row * p.q.row_stride);
    p.out.data = advance(p.out.data, p.out.dtype, row * p.out.row_stride);
    if (p.lse != nullptr) p.lse += row * p.lse_row_stride;
    return p;
  }

  const CpuKernels& kernels_;
  Executor executor_;
  Rng* rng_;
};

void expect_same_bits(const Result& a, const Result& b, const char* what) {
  EXPECT_TRUE(a.raw_out == b.raw_out) << "other bits: " << what;
  EXPECT_TRUE(a.raw_lse == b.raw_lse) << "other LSE bits: " << what;
}

Shape random_invariant_shape(Rng& rng, bool prefill) {
  Shape s = random_radix_shape(rng, prefill, kBudget / 2);
  if (rng.one_in(3)) s.q_dtype = s.k_dtype = s.v_dtype = RADIX_BF16;
  const bool bf16 = s.q_dtype == RADIX_BF16 && s.k_dtype == RADIX_BF16 && s.v_dtype == RADIX_BF16;
  if (bf16) s.compute_dtype = RADIX_BF16;
  // Rows before the first key have no chunk of their own.
  if (prefill) {
    for (Sequence& q : s.seqs) q.q_len = std::min(q.q_len, q.context);
  }
  return s;
}

void check_invariance(uint64_t seed, bool prefill) {
  SCOPED_TRACE(::testing::Message() << "replay with RADIX_TEST_ONLY=" << seed);
  Rng rng(seed);
  AttentionCase c(random_invariant_shape(rng, prefill), rng.next());
  static std::vector<NamedExecutor> executors = all_executors();
  for (const CpuKernels* kernels : runnable_targets()) {
    ::testing::Message what;
    what << kernels->name << ": " << c.shape();
    SCOPED_TRACE(what);
    const auto run = [&](Executor executor, Way way) {
      return c.run([&](const AttentionParams& p) {
        return InvariantLauncher(*kernels, executor, &rng).launch(p, way);
      });
    };
    const Result whole = run(Executor(), Way::kWhole);
    c.expect_matches_reference(whole);
    for (const NamedExecutor& e : executors) {
      expect_same_bits(whole, run(e.executor, Way::kWhole), e.name);
    }
    const NamedExecutor& other = executors[rng.below(static_cast<uint32_t>(executors.size()))];
    expect_same_bits(whole, run(other.executor, Way::kSequences), "each sequence alone");
    if (prefill && !c.shape().tree_mask) {
      expect_same_bits(whole, run(other.executor, Way::kChunks), "in chunks");
      expect_same_bits(whole, run(other.executor, Way::kRows), "rows as decode");
    }
    for (int i = 0; i < 3; ++i) {
      ListRules rules = random_rules(rng);
      rules.batch_invariant = true;
      const RadixArrays list = random_radix_list(c, rules, rng);
      const Result listed = c.run(by_list(*kernels, other.executor, list, true));
      expect_same_bits(whole, listed, rules.share ? "a list that shares" : "a list");
    }
  }
}

TEST(BatchInvariant, DecodeHasTheSameBitsHoweverItIsLaunched) {
  for_random_cases("invariant decode", 40, [](uint64_t seed) { check_invariance(seed, false); });
}

TEST(BatchInvariant, PrefillHasTheSameBitsHoweverItIsLaunched) {
  for_random_cases("invariant prefill", 40, [](uint64_t seed) { check_invariance(seed, true); });
}

}  // namespace
}  // namespace radixattn::test
