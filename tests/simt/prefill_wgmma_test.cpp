// The prefill kernel for sm_90a against the reference: the edges that have names (tiles of 128
// tokens, warpgroups of 64 rows, blocks of 128), then random shapes. In the emulator also: no wait,
// fence or arrival of it can be left out unnoticed.
#include <gtest/gtest.h>

#include <algorithm>

#include "attention_launchers.h"
#include "plan/prefill_choice.h"
#include "support/rng.h"

namespace radixattn::test {
namespace {

constexpr uint64_t kSeed = 17;

Shape shape_of(int32_t dtype, uint32_t dim, std::vector<Sequence> seqs) {
  Shape s;
  s.prefill = true;
  s.seqs = std::move(seqs);
  s.k_dtype = s.v_dtype = s.q_dtype = s.out_dtype = s.compute_dtype = dtype;
  s.dim = dim;
  s.q_heads = 2;
  s.kv_heads = 1;
  s.aligned = true;
  return s;
}

// Through the kernel that is meant: a shape that it cannot do fails.
Result run(AttentionCase& c) {
  EXPECT_TRUE(prefill_runs_on_wgmma(c.params()));
  return c.run(prefill_wgmma_launcher());
}

void check(const Shape& shape) {
  SCOPED_TRACE(::testing::Message() << shape);
  AttentionCase c(shape, kSeed);
  c.expect_matches_reference(run(c));
}

class PrefillWgmma : public ::testing::TestWithParam<std::pair<int32_t, uint32_t>> {
 protected:
  void SetUp() override {
    if (!has_wgmma()) GTEST_SKIP() << "this device has no wgmma: expected sm_90";
  }
  static Shape shape(std::vector<Sequence> seqs) {
    return shape_of(GetParam().first, GetParam().second, std::move(seqs));
  }
};

// The other two are among the random cases.
INSTANTIATE_TEST_SUITE_P(Kv, PrefillWgmma,
                         ::testing::Values(std::pair(RADIX_BF16, 128u), std::pair(RADIX_F16, 64u)),
                         [](const auto& i) {
                           return dtype_name(i.param.first) + std::to_string(i.param.second);
                         });

TEST_P(PrefillWgmma, EmptySequencesGiveZerosAndMinusInfinity) {
  Shape s = shape({{0, 1}, {5, 2}, {0, 3}, {40, 1}, {0, 1}});
  check(s);
  s.sinks = true;
  check(s);
}

TEST_P(PrefillWgmma, LengthsAroundTilesRowsAndBlocks) {
  for (const uint32_t block : {1u, 5u, 256u}) {
    Shape s = shape({{1, 1}, {63, 32}, {64, 31}, {127, 2}, {128, 33}, {129, 65}, {257, 1}});
    s.block_size = block;
    check(s);
  }
}

TEST_P(PrefillWgmma, MoreTilesThanStages) {
  check(shape({{513, 3}, {384, 65}}));
  Shape s = shape({{650, 130}});
  s.q_heads = 1;
  check(s);
}

TEST_P(PrefillWgmma, GroupsOfEverySize) {
  const std::pair<uint32_t, uint32_t> heads[] = {{1, 1}, {3, 1}, {6, 2}, {8, 1}, {40, 1}};
  for (const auto& [q, kv] : heads) {
    Shape s = shape({{140, 11}, {33, 1}});
    s.q_heads = q;
    s.kv_heads = kv;
    check(s);
  }
}

// Tiles that one warpgroup of a block needs and the other does not, at both ends.
TEST_P(PrefillWgmma, WarpgroupsOfABlockSeeDifferentTiles) {
  Shape s = shape({{392, 129}});
  s.q_heads = 1;
  for (const uint32_t window : {1u, 64u, 128u, 129u, 190u, 4000000000u}) {
    s.window = window;
    check(s);
  }
}

TEST_P(PrefillWgmma, WindowsCountTheQueryItself) {
  for (const uint32_t window : {1u, 17u, 99u, 100u, 101u}) {
    Shape s = shape({{100, 90}, {1, 1}, {16, 16}, {165, 70}});
    s.window = window;
    check(s);
  }
}

TEST_P(PrefillWgmma, SoftcapAlibiAndSinks) {
  for (uint32_t bits = 1; bits < 8; ++bits) {
    Shape s = shape({{270, 40}, {17, 2}});
    s.softcap = (bits & 1) != 0 ? 3.f : 0.f;
    s.alibi = (bits & 2) != 0;
    s.sinks = (bits & 4) != 0;
    s.window = (bits & 1) != 0 ? 150 : 0;
    s.amplitude = 8.f;
    check(s);
  }
}

TEST_P(PrefillWgmma, LayoutsTablesAndStrides) {
  for (const Layout layout : {Layout::kNhd, Layout::kHnd, Layout::kAlignedPaddedNhd}) {
    for (const bool csr : {false, true}) {
      Shape s = shape({{200, 20}, {37, 37}, {0, 1}});
      s.layout = layout;
      s.csr = csr;
      s.padded_rows = !csr;  // q is copied number by number
      s.kv_heads = 2;
      s.q_heads = 4;
      s.block_size = 8;
      check(s);
    }
  }
}

TEST_P(PrefillWgmma, DtypesOfQueriesAndOutputs) {
  for (const int32_t q : {RADIX_F32, RADIX_F16, RADIX_BF16}) {
    for (const int32_t out : {RADIX_F32, RADIX_F16, RADIX_BF16}) {
      Shape s = shape({{140, 20}, {16, 5}});
      s.q_dtype = q;
      s.out_dtype = out;
      check(s);
    }
  }
}

TEST_P(PrefillWgmma, ScalesOfTensorsAndHeads) {
  for (const bool per_head : {false, true}) {
    Shape s = shape({{140, 20}, {16, 5}});
    s.kv_heads = 2;
    s.q_heads = 4;
    s.kv_scales = true;
    s.kv_scale_per_head = per_head;
    check(s);
  }
}

TEST_P(PrefillWgmma, RowsBeforeTheFirstKeySeeNothing) { check(shape({{10, 13}, {3, 150}})); }

TEST_P(PrefillWgmma, BlockIdsThatNameNoBlockAreNotRead) {
  AttentionCase c(shape({{300, 140}}), kSeed);
  for (const int32_t id : {-1, INT32_MAX, INT32_MIN}) {
    c.tables()[2] = id;
    for (const double x : run(c).out) EXPECT_TRUE(std::isfinite(x));
  }
  std::fill(c.tables().begin(), c.tables().end(), -1);
  const Result r = run(c);
  for (const double x : r.out) EXPECT_EQ(x, 0.0);
  for (const double x : r.lse) EXPECT_EQ(x, -INFINITY);
}

// One query token whose heads fill the rows, so that whole tiles are not masked for other reasons.
TEST_P(PrefillWgmma, BlocksThatAreNotThereAreKeysThatAreNotSeen) {
  Shape s = shape({{300, 1}});
  s.q_heads = 128;
  s.block_size = 16;
  for (const uint32_t lost : {1u, 3u, 9u, 15u}) {  // blocks
    AttentionCase c(s, kSeed);
    AttentionParams hidden = c.params();
    hidden.window = 300 - lost * 16;
    const Result expected =
        c.run([&](const AttentionParams&) { return prefill_wgmma_launcher()(hidden); });
    std::fill_n(c.tables().begin(), lost, -1);
    const Result got = run(c);
    EXPECT_TRUE(got.raw_out == expected.raw_out) << lost;
    EXPECT_TRUE(got.raw_lse == expected.raw_lse) << lost;
  }
}

TEST_P(PrefillWgmma, RowsThatQDoesNotHaveAreNone) {
  AttentionCase c(shape({{150, 130}, {150, 130}}), kSeed);
  AttentionParams first = c.params();
  first.num_seqs = 1;
  const Result expected =
      c.run([&](const AttentionParams&) { return prefill_wgmma_launcher()(first); });
  for (const int32_t end : {261, INT32_MAX, 129, -1}) {
    c.cu_q_lens()[2] = end;
    const Result got = run(c);
    EXPECT_TRUE(got.raw_out == expected.raw_out) << end;
    EXPECT_TRUE(got.raw_lse == expected.raw_lse) << end;
  }
}

// Full rows whose first one begins a token before a tile's last, whose last one's window begins a
// token behind a tile's first.
TEST_P(PrefillWgmma, EdgesOfWholeTiles) {
  Shape s = shape({{190, 64}, {191, 64}});
  s.q_heads = 1;
  check(s);
  s.seqs = {{364, 64}};
  for (const uint32_t window : {234u, 235u, 236u}) {
    s.window = window;
    check(s);
  }
}

TEST_P(PrefillWgmma, EverySchedule) {
  Shape s = shape({{400, 180}, {70, 1}});
  s.window = 200;
  AttentionCase c(s, kSeed);
  const Result first = run(c);
  for (int i = 1; i < num_schedules(); ++i) {
    set_schedule(i);
    EXPECT_TRUE(first.raw_out == run(c).raw_out) << "other bits in schedule " << i;
  }
  set_schedule(0);
}

// Rows of a sequence have the same bits whatever else the launch has.
TEST_P(PrefillWgmma, TheRestOfTheBatchDoesNotMatter) {
  AttentionCase both(shape({{200, 70}, {333, 90}}), kSeed);
  const Result together = run(both);
  both.context_lens()[1] = 0;
  const Result alone = run(both);
  const size_t rows = 70u * 2 * GetParam().second;
  ASSERT_LT(rows, alone.out.size());
  EXPECT_TRUE(std::equal(alone.out.begin(), alone.out.begin() + static_cast<int64_t>(rows),
                         together.out.begin()));
  EXPECT_FALSE(alone.out == together.out);
}

void random_case(uint64_t seed) {
  SCOPED_TRACE(::testing::Message() << "replay with RADIX_TEST_ONLY=" << seed);
  Rng rng(seed);
  const int32_t dtypes[] = {RADIX_F16, RADIX_BF16};
  const int32_t rows[] = {RADIX_F32, RADIX_F16, RADIX_BF16};
  const uint32_t dims[] = {64, 128};
  const uint32_t groups[] = {1, 1, 2, 3, 4, 7};
  const uint32_t blocks[] = {1, 3, 8, 16, 24, 32, 64, 128, 256};
  const Layout layouts[] = {Layout::kNhd, Layout::kHnd, Layout::kAlignedPaddedNhd};
  Shape s = shape_of(rng.pick(dtypes), rng.pick(dims), {});
  s.kv_heads = rng.one_in(3) ? 2 : 1;
  s.q_heads = s.kv_heads * rng.pick(groups);
  for (uint32_t n = rng.between(1, 3); n > 0; --n) {
    const uint32_t context = rng.below(400);
    s.seqs.push_back({context, rng.one_in(6)
                                   ? context + 2
                                   : rng.below(std::min(context, s.q_heads > 2 ? 40u : 150u) + 1)});
  }
  s.block_size = rng.pick(blocks);
  s.layout = rng.pick(layouts);
  s.window = rng.one_in(3) ? rng.between(1, 400) : 0;
  s.softcap = rng.one_in(4) ? 1.f + 20.f * (1.f + rng.uniform()) : 0.f;
  s.alibi = rng.one_in(4);
  s.sinks = rng.one_in(4);
  s.csr = rng.one_in(3);
  s.padded_rows = rng.one_in(3);
  s.lse = !rng.one_in(4);
  s.q_dtype = rng.pick(rows);
  s.out_dtype = rng.pick(rows);
  s.amplitude = rng.one_in(3) ? 6.f : 1.f;
  SCOPED_TRACE(::testing::Message() << s);
  AttentionCase c(s, rng.next());
  c.expect_matches_reference(run(c));
}

TEST(PrefillWgmmaRandom, MatchesTheReference) {
  if (!has_wgmma()) GTEST_SKIP() << "this device has no wgmma: expected sm_90";
  for_random_cases("cuda prefill wgmma", 12, random_case);
}

#if defined(RADIX_SIMT_EMU) && !defined(__SANITIZE_ADDRESS__) && !defined(RADIX_SIMT_TSAN)
// Each place of a synchronisation is left out in turn: in some order of threads the emulator
// objects, or the bits are others. (Under a sanitizer the first wrong access ends the test.)
TEST(PrefillWgmmaFaults, NoSynchronisationCanBeLeftOut) {
  Shape s = shape_of(RADIX_BF16, 64, {{772, 128}});
  s.q_heads = 1;
  s.window = 190;  // each warpgroup skips a tile
  AttentionCase c(s, kSeed);
  std::vector<simt::emu::SyncSite> sites;
  simt::emu::sync_sites = &sites;
  const Result right = run(c);
  simt::emu::sync_sites = nullptr;
  std::vector<std::string> kinds;
  for (const auto& site : sites) kinds.emplace_back(site.what);
  for (const char* kind : {"mbarrier_wait", "mbarrier_arrive", "cp_async_wait", "fence_proxy_async",
                           "wgmma_fence", "wgmma_commit", "wgmma_wait", "bar_sync", "syncthreads"})
    EXPECT_EQ(std::count(kinds.begin(), kinds.end(), kind) > 0, true) << kind;
  for (const auto& site : sites) {
    simt::emu::left_out = &site;
    bool noticed = false;
    for (int i = 0; i < 40 && !noticed; ++i) {
      simt::emu::cfg.order = i == 0 ? simt::emu::Order::seq : simt::emu::Order::rank;
      simt::emu::cfg.seed = static_cast<uint64_t>(i);
      c.out().fill(kPoisonByte);
      noticed = prefill_wgmma_launcher()(c.params()) != RADIX_OK || !(c.out() == right.raw_out);
    }
    simt::emu::left_out = nullptr;
    simt::emu::cfg = simt::emu::Config();
    EXPECT_TRUE(noticed) << site.what << " at line " << site.line;
  }
}
#endif

}  // namespace
}  // namespace radixattn::test
