// Attention on the edges that have names: each of these was wrong in somebody's kernel once.
#include <gtest/gtest.h>

#include <algorithm>
#include <cfenv>
#include <cmath>
#include <string>

#include "base/error.h"
#include "support/attention_case.h"
#include "support/runners.h"

namespace radixattn::test {
namespace {

constexpr uint64_t kSeed = 7;

void check(const Shape& shape) { AttentionCase(shape, kSeed).check_all_targets(); }

Shape decode_of(std::vector<Sequence> seqs) {
  Shape s;
  s.seqs = std::move(seqs);
  return s;
}

Shape prefill_of(std::vector<Sequence> seqs) {
  Shape s = decode_of(std::move(seqs));
  s.prefill = true;
  return s;
}

// The same edges for both launches.
class Attention : public ::testing::TestWithParam<bool> {
 protected:
  Shape shape(std::vector<Sequence> seqs) const {
    return GetParam() ? prefill_of(std::move(seqs)) : decode_of(std::move(seqs));
  }
};

INSTANTIATE_TEST_SUITE_P(Launch, Attention, ::testing::Bool(),
                         [](const auto& i) { return i.param ? "Prefill" : "Decode"; });

TEST_P(Attention, EmptySequencesGiveZerosAndMinusInfinity) {
  Shape s = shape({{0, 1}, {5, 2}, {0, 3}, {40, 1}, {0, 1}});
  check(s);
  s.sinks = true;  // nor does a sink make a row see something
  check(s);
  AttentionCase all_empty(shape({{0, 1}, {0, 1}}), kSeed);
  for (const CpuKernels* kernels : runnable_targets()) {
    const Result r = all_empty.run(*kernels, Executor());
    for (const double x : r.out) EXPECT_EQ(x, 0.0);
    for (const double x : r.lse) EXPECT_EQ(x, -INFINITY);
  }
}

TEST_P(Attention, NoSequencesAreFine) {
  AttentionCase c(shape({{1, 1}}), kSeed);
  AttentionParams p = c.params();
  p.num_seqs = 0;
  Executor executor;
  for (const CpuKernels* kernels : runnable_targets()) {
    EXPECT_EQ(AttentionCase::launch(*kernels, p, executor), RADIX_OK);
  }
}

TEST_P(Attention, OneTokenReturnsItsValue) {
  Shape s = shape({{1, 1}});
  check(s);
  AttentionCase c(s, kSeed);
  for (const CpuKernels* kernels : runnable_targets()) {
    const Result r = c.run(*kernels, Executor());
    const AttentionParams p = c.params();
    const int64_t block = p.blocks.tables[0];
    for (uint32_t i = 0; i < p.head_dim_v; ++i) {
      EXPECT_NEAR(r.out[i], c.v().get(block * p.v.block_stride + i), 1e-6);
    }
  }
}

TEST_P(Attention, ContextsAroundBlockAndTileEdges) {
  for (const uint32_t block : {1u, 3u, 8u, 16u, 32u, 64u, 256u}) {
    Shape s = shape({});
    s.block_size = block;
    s.q_heads = 2;
    s.kv_heads = 1;
    s.dim = 32;
    for (const uint32_t edge : {block, 2 * block, 16u, 32u, 64u, 128u, 192u}) {
      for (const uint32_t n : {edge - 1, edge, edge + 1}) {
        s.seqs.push_back({n, std::min(n, 3u)});
      }
    }
    check(s);
  }
}

TEST_P(Attention, GroupsOfEverySize) {
  const std::pair<uint32_t, uint32_t> heads[] = {{1, 1}, {3, 1}, {6, 2},  {8, 2},  {8, 1},
                                                 {5, 1}, {4, 4}, {14, 2}, {32, 8}, {16, 1}};
  for (const auto& [q, kv] : heads) {
    Shape s = shape({{67, 5}, {33, 1}});
    s.q_heads = q;
    s.kv_heads = kv;
    check(s);
  }
}

TEST_P(Attention, EveryHeadDim) {
  for (uint32_t dim = 32; dim <= 256; dim += 8) {
    Shape s = shape({{70, 3}});
    s.dim = dim;
    s.q_heads = 3;
    s.kv_heads = 1;
    check(s);
  }
}

// Their scores are dot products of pairs where the processor has such: a row may end within a
// vector of them, and what lies behind it is another head's, or NaN.
TEST_P(Attention, Bf16QueriesAndKeysOfEveryHeadDim) {
  const std::pair<uint32_t, uint32_t> heads[] = {{1, 1}, {3, 1}, {4, 1}, {12, 2}};
  for (const Layout layout : {Layout::kNhd, Layout::kPaddedNhd, Layout::kHnd}) {
    for (uint32_t dim = 32; dim <= 256; dim += 8) {
      for (const auto& [q, kv] : heads) {
        Shape s = shape({{70, 3}, {15, 1}});
        s.k_dtype = s.v_dtype = s.q_dtype = RADIX_BF16;
        s.layout = layout;
        s.dim = dim;
        s.q_heads = q;
        s.kv_heads = kv;
        if (dim % 64 == 32) s.softcap = 5.f;
        check(s);
      }
    }
  }
}

TEST_P(Attention, ValueHeadDimOfItsOwn) {
  const std::pair<uint32_t, uint32_t> dims[] = {{192, 128}, {40, 72},  {72, 40},
                                                {256, 32},  {32, 256}, {80, 96}};
  for (const auto& [dim, dim_v] : dims) {
    Shape s = shape({{70, 3}, {16, 1}});
    s.dim = dim;
    s.dim_v = dim_v;
    check(s);
  }
}

TEST_P(Attention, WindowsCountTheQueryItself) {
  for (const uint32_t window :
       {1u, 2u, 15u, 16u, 17u, 31u, 33u, 64u, 99u, 100u, 101u, 4000000000u}) {
    Shape s = shape({{100, 9}, {1, 1}, {16, 16}, {65, 1}});
    s.window = window;
    s.q_heads = 2;
    s.kv_heads = 1;
    check(s);
  }
  // A window of one token: every row returns its own value.
  Shape s = shape({{50, 4}});
  s.window = 1;
  s.lse = false;
  check(s);
}

TEST_P(Attention, WindowAcrossSplitRanges) {
  Shape s = shape({{2500, 2}, {1030, 1}});
  s.q_heads = 2;
  s.kv_heads = 1;
  s.dim = 32;
  for (const uint32_t window : {500u, 1024u, 1025u, 1500u, 2499u}) {
    s.window = window;
    check(s);
  }
}

TEST_P(Attention, SoftcapAlibiAndSinks) {
  for (uint32_t bits = 1; bits < 8; ++bits) {
    Shape s = shape({{130, 7}, {17, 2}});
    s.softcap = (bits & 1) != 0 ? 3.f : 0.f;
    s.alibi = (bits & 2) != 0;
    s.sinks = (bits & 4) != 0;
    s.amplitude = 8.f;  // without it no score reaches the cap
    check(s);
    s.window = 20;
    check(s);
  }
}

TEST_P(Attention, SinksCountOnceWhateverTheSplits) {
  Shape s = shape({{3100, 1}, {1025, 1}, {90, 1}});
  s.q_heads = 2;
  s.kv_heads = 1;
  s.dim = 32;
  s.sinks = true;
  check(s);
}

TEST_P(Attention, EveryLayoutAndTableForm) {
  for (const Layout layout : {Layout::kNhd, Layout::kHnd, Layout::kPaddedNhd}) {
    for (const bool csr : {false, true}) {
      Shape s = shape({{100, 20}, {37, 1}, {0, 1}});
      s.layout = layout;
      s.csr = csr;
      s.padded_rows = !csr;
      s.dim = 72;
      s.block_size = 8;
      check(s);
    }
  }
}

TEST_P(Attention, EveryCombinationOfDtypes) {
  const int32_t dtypes[] = {RADIX_F32, RADIX_F16, RADIX_BF16};
  for (const int32_t kv : dtypes) {
    for (const int32_t q : dtypes) {
      for (const int32_t out : dtypes) {
        Shape s = shape({{70, 3}, {16, 2}});
        s.k_dtype = s.v_dtype = kv;
        s.q_dtype = q;
        s.out_dtype = out;
        s.dim = 40;  // half a vector at the end
        check(s);
      }
    }
    Shape mixed = shape({{70, 3}});
    mixed.k_dtype = kv;
    mixed.v_dtype = kv == RADIX_F32 ? RADIX_BF16 : RADIX_F32;
    check(mixed);
  }
}

TEST_P(Attention, SequencesThatShareBlocks) {
  Shape s = shape({{100, 5}, {100, 1}, {64, 2}, {300, 3}});
  s.shared_prefix = true;
  check(s);
}

TEST_P(Attention, SharpAndGrowingScores) {
  for (const float amplitude : {0.f, 30.f, 1000.f}) {
    Shape s = shape({{150, 4}, {1200, 1}});
    s.q_heads = 2;
    s.kv_heads = 1;
    s.dim = 32;
    s.amplitude = amplitude;
    check(s);
  }
}

TEST_P(Attention, EveryKeyScoresHigherThanAllBefore) {
  // The running maximum moves with every token, from 0 to more than 800.
  Shape s = shape({{300, 2}});
  s.q_heads = s.kv_heads = 1;
  s.dim = 32;
  s.k_dtype = RADIX_F32;
  AttentionCase c(s, kSeed);
  Rng rng(kSeed);
  const AttentionParams p = c.params();
  for (uint32_t j = 0; j < 300; ++j) {
    const int64_t at = p.blocks.tables[j / 16] * p.k.block_stride + j % 16 * p.k.token_stride;
    for (uint32_t i = 0; i < 32; ++i) c.k().set(at + i, j * (1 + 0.01 * rng.uniform()));
  }
  for (int64_t i = 0; i < c.q().size(); ++i) c.q().set(i, 0.5 + 0.1 * rng.uniform());
  c.check_all_targets();
}

TEST_P(Attention, LooseBoundsOnLengthsChangeNothingButTheSplits) {
  Shape s = shape({{2100, 2}, {30, 1}, {5000, 1}});
  s.q_heads = 2;
  s.kv_heads = 1;
  s.dim = 32;
  for (const uint32_t bound : {5000u, 40000u, 200000u}) {
    s.max_context = bound;
    check(s);
  }
}

TEST_P(Attention, LongRepetitiveContextKeepsItsMean) {
  // Sums in 16 bits stop growing here; V = 1 must come out as 1.
  Shape s = shape({{33000, 1}});
  s.q_heads = 2;
  s.kv_heads = 1;
  s.dim = 32;
  s.v_offset = 1.f;
  AttentionCase c(s, kSeed);
  const AttentionParams p = c.params();
  for (uint32_t j = 0; j < 33000; ++j) {
    const int64_t at = p.blocks.tables[j / 16] * p.v.block_stride + j % 16 * p.v.token_stride;
    for (uint32_t i = 0; i < 32; ++i) c.v().set(at + i, 1.0);
  }
  for (const CpuKernels* kernels : runnable_targets()) {
    SCOPED_TRACE(kernels->name);
    for (const double x : c.run(*kernels, Executor()).out) EXPECT_NEAR(x, 1.0, 2e-6);
  }
  c.check_all_targets();
}

TEST_P(Attention, ResultsDoNotDependOnTheRestOfTheBatch) {
  Shape s = shape({{1500, 30}, {20, 5}, {700, 70}});
  s.max_context = 3000;
  s.dim = 40;
  AttentionCase c(s, kSeed);
  for (const CpuKernels* kernels : runnable_targets()) {
    SCOPED_TRACE(kernels->name);
    const Result batch = c.run(*kernels, Executor());
    AttentionParams p = c.params();
    p.num_seqs = 1;
    c.out().fill(kPoisonByte);
    Executor executor;
    ASSERT_EQ(AttentionCase::launch(*kernels, p, executor), RADIX_OK) << last_message();
    const uint32_t rows = GetParam() ? 30 : 1;
    for (uint32_t i = 0; i < rows * p.num_q_heads * p.head_dim_v; ++i) {
      ASSERT_EQ(c.out().get(i), batch.out[i]) << i;
    }
  }
}

TEST_P(Attention, EveryExecutorGivesTheSameBits) {
  Shape s = shape({{2300, 9}, {50, 50}, {0, 1}, {1025, 300}});
  s.dim = 40;
  s.kv_heads = 4;
  AttentionCase c(s, kSeed);
  std::vector<NamedExecutor> executors = all_executors();
  for (const CpuKernels* kernels : runnable_targets()) {
    const Result first = c.run(*kernels, executors[0].executor);
    for (const NamedExecutor& e : executors) {
      SCOPED_TRACE(e.name);
      const Result r = c.run(*kernels, e.executor);
      EXPECT_TRUE(r.raw_out == first.raw_out);
      EXPECT_TRUE(r.raw_lse == first.raw_lse);
    }
  }
}

// A host may have unmasked the exception. What rows do not see is -inf, and -inf - -inf is invalid.
TEST_P(Attention, NoInvalidOperation) {
  Shape s = shape({{0, 1}, {1, 1}, {40, 3}, {700, 9}});
  s.window = 300;
  s.q_heads = 12;  // few rows: three of a panel's lanes of four
  s.kv_heads = 4;
  AttentionCase c(s, kSeed);
  Executor executor;
  for (const CpuKernels* kernels : runnable_targets()) {
    for (const bool invariant : {false, true}) {
      SCOPED_TRACE(std::string(kernels->name) + (invariant ? ", batch-invariant" : ""));
      AttentionParams p = c.params();
      p.batch_invariant = invariant;
      std::feclearexcept(FE_ALL_EXCEPT);
      ASSERT_EQ(AttentionCase::launch(*kernels, p, executor), RADIX_OK) << last_message();
      EXPECT_EQ(std::fetestexcept(FE_INVALID), 0);
    }
  }
}

TEST(Prefill, WholePromptsOfManyTiles) {
  for (const uint32_t n : {63u, 64u, 65u, 193u, 257u}) {
    Shape s = prefill_of({{n, n}});
    s.q_heads = 4;
    s.kv_heads = 1;
    s.dim = 40;
    check(s);
  }
}

TEST(Prefill, TreeMasks) {
  for (const uint32_t fresh : {1u, 7u, 8u, 9u, 60u, 100u}) {
    Shape s = prefill_of({{fresh + 50, fresh}, {fresh, fresh}, {200, fresh / 2 + 1}});
    s.tree_mask = true;
    check(s);
    s.window = 40;
    s.alibi = true;
    check(s);
    s.softcap = 5.f;
    s.q_dtype = s.k_dtype = s.v_dtype = RADIX_BF16;  // scores by bf16 products where there are such
    check(s);
  }
}

TEST(Prefill, RowsBeforeTheFirstKeySeeNothing) {
  // More query rows than tokens: positions below zero.
  Shape s = prefill_of({{3, 5}, {0, 20}, {1, 70}, {30, 31}});
  check(s);
  s.sinks = true;
  s.window = 2;
  check(s);
}

TEST(Prefill, SequencesWithoutQueryRowsAreSkipped) {
  check(prefill_of({{10, 0}, {20, 4}, {0, 0}, {7, 7}, {9, 0}}));
  AttentionCase none(prefill_of({{10, 0}, {20, 0}}), kSeed);
  for (const CpuKernels* kernels : runnable_targets()) none.run(*kernels, Executor());
}

// One sequence, computed in chunks and at once, row by row and as decode.
TEST(Prefill, ChunksEqualOneShotAndDecode) {
  constexpr uint32_t kTokens = 150;
  Shape s = prefill_of({{kTokens, kTokens}});
  s.dim = 48;
  AttentionCase c(s, kSeed);
  const uint32_t row = s.q_heads * s.dim;
  for (const CpuKernels* kernels : runnable_targets()) {
    SCOPED_TRACE(kernels->name);
    const Result whole = c.run(*kernels, Executor());
    c.expect_matches_reference(whole);
    for (const uint32_t chunk : {1u, 7u, 64u, 100u}) {
      for (uint32_t begin = 0; begin < kTokens; begin += chunk) {
        const uint32_t end = std::min(begin + chunk, kTokens);
        AttentionParams p = c.params();
        const auto context = static_cast<int32_t>(end);
        const int32_t cu[2] = {0, static_cast<int32_t>(end - begin)};
        const int64_t at = int64_t{begin} * row;
        p.q.data = static_cast<float*>(p.q.data) + at;
        p.out.data = static_cast<float*>(p.out.data) + at;
        p.lse += begin * s.q_heads;
        p.context_lens = &context;
        p.cu_q_lens = chunk == 1 ? nullptr : cu;  // chunks of one token: the decode launch
        Executor executor;
        c.out().fill(kPoisonByte);
        ASSERT_EQ(AttentionCase::launch(*kernels, p, executor), RADIX_OK) << last_message();
        for (uint32_t i = 0; i < (end - begin) * row; ++i) {
          const double expected = whole.out[begin * row + i];
          ASSERT_NEAR(c.out().get(at + i), expected, 2e-6) << "chunk " << chunk << " at " << begin;
        }
      }
    }
  }
}

}  // namespace
}  // namespace radixattn::test
