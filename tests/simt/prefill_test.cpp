// The CUDA prefill kernels' own sources against the reference: the edges that have names, then
// random shapes. K/V in f32 take another kernel, which serves decode, too.
#include <gtest/gtest.h>

#include <algorithm>

#include "attention_launchers.h"
#include "support/rng.h"
#ifdef RADIX_SIMT_EMU
#include "sparse_pool.h"
#endif

namespace radixattn::test {
namespace {

constexpr uint64_t kSeed = 13;

Shape prefill_of(std::vector<Sequence> seqs, int32_t kv_dtype = RADIX_BF16) {
  Shape s;
  s.prefill = true;
  s.seqs = std::move(seqs);
  s.k_dtype = s.v_dtype = kv_dtype;
  s.q_dtype = s.out_dtype = kv_dtype == RADIX_BF16 || kv_dtype == RADIX_F32 ? kv_dtype : RADIX_F16;
  s.compute_dtype = compute_dtype_of(kv_dtype);
  s.q_heads = 2;
  s.kv_heads = 1;
  s.aligned = true;
  return s;
}

void run(AttentionCase& c, int32_t arch) {
  ::testing::Message what;
  what << "sm_" << arch << ": " << c.shape();
  SCOPED_TRACE(what);
  c.expect_matches_reference(c.run(prefill_launcher(arch)));
}

void check(const Shape& shape) {
  AttentionCase c(shape, kSeed);
  run(c, 90);
}

// Every kernel: 16 bits, fp8, f32.
class CudaPrefill : public ::testing::TestWithParam<int32_t> {
 protected:
  static Shape shape(std::vector<Sequence> seqs) { return prefill_of(std::move(seqs), GetParam()); }
};

INSTANTIATE_TEST_SUITE_P(Kv, CudaPrefill, ::testing::Values(RADIX_BF16, RADIX_F8_E4M3, RADIX_F32),
                         [](const auto& i) { return std::string(dtype_name(i.param)); });

TEST_P(CudaPrefill, EmptySequencesGiveZerosAndMinusInfinity) {
  Shape s = shape({{0, 1}, {5, 2}, {0, 3}, {40, 1}, {0, 1}});
  check(s);
  s.sinks = true;
  check(s);
}

TEST_P(CudaPrefill, LengthsAroundTileAndBlockEdges) {
  for (const uint32_t block : {1u, 5u, 16u, 64u}) {
    Shape s = shape({{1, 1}, {15, 15}, {16, 3}, {17, 17}, {63, 2}, {64, 64}, {65, 33}, {129, 31}});
    s.block_size = block;
    s.dim = 32;
    check(s);
  }
  // Whole blocks of rows whose first row is before, at and behind the last token of a tile.
  check(shape({{94, 32}, {95, 32}, {96, 32}}));
}

TEST_P(CudaPrefill, MoreRowsThanABlockAndThreeTiles) {
  Shape s = shape({{200, 200}, {300, 40}});
  check(s);
  s.q_heads = 1;
  check(s);
}

TEST_P(CudaPrefill, GroupsOfEverySize) {
  const std::pair<uint32_t, uint32_t> heads[] = {{1, 1}, {3, 1}, {6, 2},  {8, 1},
                                                 {5, 1}, {4, 4}, {16, 1}, {40, 2}};
  for (const auto& [q, kv] : heads) {
    Shape s = shape({{70, 21}, {33, 1}});
    s.q_heads = q;
    s.kv_heads = kv;
    check(s);
  }
}

TEST_P(CudaPrefill, HeadDims) {
  for (const uint32_t dim : {32u, 40u, 64u, 72u, 80u, 96u, 120u, 128u, 192u, 256u}) {
    Shape s = shape({{70, 30}});
    s.dim = dim;
    AttentionCase c(s, kSeed);
    run(c, 90);
    run(c, 75);
  }
  const std::pair<uint32_t, uint32_t> dims[] = {{192, 128}, {40, 72}, {256, 32}, {32, 256}};
  for (const auto& [dim, dim_v] : dims) {
    Shape s = shape({{70, 30}});
    s.dim = dim;
    s.dim_v = dim_v;
    check(s);
  }
}

TEST_P(CudaPrefill, WindowsCountTheQueryItself) {
  for (const uint32_t window : {1u, 15u, 16u, 17u, 64u, 99u, 100u, 101u, 4000000000u}) {
    Shape s = shape({{100, 90}, {1, 1}, {16, 16}, {165, 70}});
    s.window = window;
    check(s);
  }
  // Whole blocks of rows whose window begins at, before and behind the first token of a tile.
  Shape s = shape({{164, 32}, {165, 32}, {166, 32}});
  s.window = 100;
  check(s);
}

TEST_P(CudaPrefill, SoftcapAlibiAndSinks) {
  for (uint32_t bits = 1; bits < 8; ++bits) {
    Shape s = shape({{130, 50}, {17, 2}});
    s.softcap = (bits & 1) != 0 ? 3.f : 0.f;
    s.alibi = (bits & 2) != 0;
    s.sinks = (bits & 4) != 0;
    s.amplitude = 8.f;
    check(s);
    s.window = 20;
    check(s);
  }
}

TEST_P(CudaPrefill, SinksFarAboveAndBelowAllScores) {
  for (const float level : {300.f, -300.f}) {
    Shape s = shape({{130, 50}, {17, 2}, {0, 1}});
    s.sinks = true;
    s.sink_level = level;
    check(s);
  }
}

TEST_P(CudaPrefill, ScalesOfTensorsAndHeads) {
  for (const bool per_head : {false, true}) {
    Shape s = shape({{90, 20}, {16, 1}});
    s.kv_heads = 2;
    s.kv_scales = true;
    s.kv_scale_per_head = per_head;
    check(s);
  }
}

TEST_P(CudaPrefill, LayoutsTablesStridesAndAlignments) {
  for (const Layout layout : {Layout::kNhd, Layout::kHnd, Layout::kPaddedNhd}) {
    for (const bool csr : {false, true}) {
      Shape s = shape({{100, 20}, {37, 37}, {0, 1}});
      s.layout = layout;
      s.csr = csr;
      s.padded_rows = !csr;
      s.aligned = csr;
      s.kv_heads = 2;
      s.q_heads = 4;
      s.block_size = 8;
      check(s);
    }
  }
}

TEST_P(CudaPrefill, OneOddStrideIsEnoughForUnaligned) {
  for (const Layout layout :
       {Layout::kOddHeads, Layout::kOddTokens, Layout::kOddBlocks, Layout::kHeadsFirst}) {
    Shape s = shape({{70, 20}, {5, 5}});
    s.layout = layout;
    s.kv_heads = 2;
    check(s);
  }
}

TEST_P(CudaPrefill, DtypesOfQueriesAndOutputs) {
  for (const int32_t q : {RADIX_F32, RADIX_F16, RADIX_BF16}) {
    for (const int32_t out : {RADIX_F32, RADIX_F16, RADIX_BF16}) {
      Shape s = shape({{70, 20}, {16, 5}});
      s.q_dtype = q;
      s.out_dtype = out;
      check(s);
    }
  }
}

TEST_P(CudaPrefill, TreeMasks) {
  for (const uint32_t fresh : {1u, 7u, 8u, 9u, 60u, 100u}) {
    Shape s = shape({{fresh + 50, fresh}, {fresh, fresh}, {200, fresh / 2 + 1}});
    s.tree_mask = true;
    check(s);
    s.window = 40;
    s.alibi = true;
    check(s);
  }
}

TEST_P(CudaPrefill, RowsBeforeTheFirstKeySeeNothing) { check(shape({{10, 13}, {3, 70}})); }

TEST_P(CudaPrefill, BlockIdsThatNameNoBlockAreNotRead) {
  AttentionCase c(shape({{150, 40}}), kSeed);  // all rows of a block see all tokens of a tile
  for (const int32_t id : {-1, INT32_MAX, INT32_MIN}) {
    c.tables()[2] = id;
    const Result r = c.run(prefill_launcher(90));
    for (const double x : r.out) EXPECT_TRUE(std::isfinite(x));
  }
  for (size_t i = 0; i < c.tables().size(); ++i) c.tables()[i] = -1;
  const Result r = c.run(prefill_launcher(90));
  for (const double x : r.out) EXPECT_EQ(x, 0.0);
  for (const double x : r.lse) EXPECT_EQ(x, -INFINITY);
}

// One query token whose heads fill the rows, so that whole tiles are not masked for other reasons.
TEST_P(CudaPrefill, BlocksThatAreNotThereAreKeysThatAreNotSeen) {
  Shape s = shape({{150, 1}});
  s.q_heads = 64;
  s.kv_heads = 1;
  s.block_size = 8;
  for (const uint32_t lost : {1u, 3u, 9u, 15u}) {  // blocks
    AttentionCase c(s, kSeed);
    AttentionParams hidden = c.params();
    hidden.window = 150 - lost * 8;
    const Result expected =
        c.run([&](const AttentionParams&) { return prefill_launcher(90)(hidden); });
    std::fill_n(c.tables().begin(), lost, -1);
    const Result got = c.run(prefill_launcher(90));
    EXPECT_TRUE(got.raw_out == expected.raw_out) << lost;
    EXPECT_TRUE(got.raw_lse == expected.raw_lse) << lost;
  }
}

TEST_P(CudaPrefill, RowsThatQDoesNotHaveAreNone) {
  AttentionCase c(shape({{60, 20}, {60, 20}}), kSeed);
  AttentionParams first = c.params();
  first.num_seqs = 1;
  const Result expected =
      c.run([&](const AttentionParams&) { return prefill_launcher(90)(first); });
  for (const int32_t end : {41, INT32_MAX, 19, -1, INT32_MIN}) {
    c.cu_q_lens()[2] = end;
    const Result got = c.run(prefill_launcher(90));
    EXPECT_TRUE(got.raw_out == expected.raw_out) << end;
    EXPECT_TRUE(got.raw_lse == expected.raw_lse) << end;
  }
  c.cu_q_lens() = {-1, 20, 40};
  AttentionParams second = c.params();
  second.num_seqs = 1;
  ++second.cu_q_lens;
  ++second.context_lens;
  second.blocks.tables += second.blocks.row_stride;
  const Result alone = c.run([&](const AttentionParams&) { return prefill_launcher(90)(second); });
  const Result got = c.run(prefill_launcher(90));
  EXPECT_TRUE(got.raw_out == alone.raw_out);
  EXPECT_TRUE(got.raw_lse == alone.raw_lse);
}

TEST_P(CudaPrefill, EverySchedule) {
  AttentionCase c(shape({{150, 80}, {70, 1}}), kSeed);
  const Result first = c.run(prefill_launcher(90));
  for (int i = 1; i < num_schedules(); ++i) {
    set_schedule(i);
    const Result other = c.run(prefill_launcher(90));
    EXPECT_TRUE(first.raw_out == other.raw_out) << "other bits in schedule " << i;
  }
  set_schedule(0);
}

TEST(CudaPrefillFp8, ScalesOfTensorsAndHeads) {
  for (const int32_t kv : {RADIX_F8_E4M3, RADIX_F8_E5M2}) {
    for (const bool per_head : {false, true}) {
      Shape s = prefill_of({{150, 40}, {16, 1}}, kv);
      s.kv_heads = 2;
      s.kv_scales = true;
      s.kv_scale_per_head = per_head;
      s.v_offset = 0.5f;
      check(s);
      s.softcap = 5.f;
      check(s);
    }
  }
}

// f16 has no number above 65504: what is larger counts as that, not as infinity.
TEST(CudaPrefillF16, QueriesBeyondItCountAsItsLargest) {
  for (const int32_t kv : {RADIX_F16, RADIX_F8_E5M2}) {
    Shape s = prefill_of({{40, 9}}, kv);
    s.q_dtype = s.out_dtype = RADIX_F32;
    AttentionCase c(s, kSeed);
    Result results[2];
    for (int i = 0; i < 2; ++i) {
      for (int64_t e = 0; e < c.q().size(); e += 7)
        c.q().set(e, (e % 2 == 0 ? 1 : -1) * (i == 0 ? 65504.0 : 1e6));
      results[i] = c.run(prefill_launcher(90));
      for (const double x : results[i].out) EXPECT_TRUE(std::isfinite(x));
    }
    EXPECT_TRUE(results[0].raw_out == results[1].raw_out);
    EXPECT_TRUE(results[0].raw_lse == results[1].raw_lse);
  }
}

#ifdef RADIX_SIMT_EMU

TEST_P(CudaPrefill, OffsetsBeyondThirtyTwoBits) {
  AttentionCase c(shape({{70, 20}}), kSeed);
  expect_same_bits_far_away(c, prefill_launcher(90));
}

// Four matrices of eight rows: each is served at once. (f32 loads none.)
TEST_P(CudaPrefill, LoadsOfMatricesHaveNoBankConflicts) {
  for (const uint32_t dim : {64u, 128u, 256u}) {
    Shape s = shape({{100, 40}});
    s.dim = dim;
    AttentionCase c(s, kSeed);
    simt::emu::stats = {};
    c.run(prefill_launcher(90));
    EXPECT_EQ(simt::emu::stats.ldmatrix > 0, GetParam() != RADIX_F32);
    EXPECT_EQ(simt::emu::stats.ldmatrix_wavefronts, 4 * simt::emu::stats.ldmatrix / 32);
  }
}

#endif

// K/V in f32 have one kernel for both launches.
TEST(CudaDecodeF32, MatchesTheReference) {
  for (const uint32_t dim : {32u, 128u, 256u}) {
    Shape s = prefill_of({{0, 1}, {1, 1}, {17, 1}, {100, 1}}, RADIX_F32);
    s.prefill = false;
    s.dim = dim;
    s.q_heads = 20;
    s.window = dim == 128 ? 30 : 0;
    AttentionCase c(s, kSeed);
    c.expect_matches_reference(c.run(decode_launcher(90, 0)));
  }
}

void random_case(uint64_t seed) {
  SCOPED_TRACE(::testing::Message() << "replay with RADIX_TEST_ONLY=" << seed);
  Rng rng(seed);
  const int32_t dtypes[] = {RADIX_F16, RADIX_BF16, RADIX_F8_E4M3, RADIX_F8_E5M2, RADIX_F32};
  const int32_t rows[] = {RADIX_F32, RADIX_F16, RADIX_BF16};
  const uint32_t groups[] = {1, 2, 3, 4, 7, 8, 20};
  const uint32_t blocks[] = {1, 3, 8, 16, 24, 32, 64, 128, 256};
  const Layout layouts[] = {Layout::kNhd, Layout::kHnd, Layout::kPaddedNhd};
  Shape s = prefill_of({}, rng.pick(dtypes));
  s.kv_heads = rng.between(1, 2);
  s.q_heads = s.kv_heads * rng.pick(groups);
  for (uint32_t n = rng.between(1, 3); n > 0; --n) {
    const uint32_t context = rng.below(260);
    s.seqs.push_back(
        {context, rng.one_in(6) ? context + 2 : rng.below(std::min(context, 80u) + 1)});
  }
  s.dim = 8 * rng.between(4, 32);
  s.dim_v = rng.one_in(3) ? 8 * rng.between(4, 32) : s.dim;
  s.block_size = rng.pick(blocks);
  s.layout = rng.pick(layouts);
  s.aligned = !rng.one_in(3);
  s.window = rng.one_in(3) ? rng.between(1, 200) : 0;
  s.softcap = rng.one_in(4) ? 1.f + 20.f * (1.f + rng.uniform()) : 0.f;
  s.alibi = rng.one_in(4);
  s.sinks = rng.one_in(4);
  s.csr = rng.one_in(3);
  s.padded_rows = rng.one_in(3);
  s.lse = !rng.one_in(4);
  s.tree_mask = rng.one_in(5);
  s.q_dtype = rng.pick(rows);
  s.out_dtype = rng.pick(rows);
  s.amplitude = rng.one_in(3) ? 6.f : 1.f;
  s.kv_scales = is_fp8(s.k_dtype) && rng.one_in(2);
  s.kv_scale_per_head = rng.one_in(2);
  const int32_t archs[] = {75, 86, 90};
  AttentionCase c(s, rng.next());
  run(c, rng.pick(archs));
}

TEST(CudaPrefillRandom, MatchesTheReference) { for_random_cases("cuda prefill", 40, random_case); }

}  // namespace
}  // namespace radixattn::test
