// The CUDA decode kernel's own source against the reference: the edges that have names, then random
// shapes.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "attention_launchers.h"
#include "support/rng.h"
#ifdef RADIX_SIMT_EMU
#include "sparse_pool.h"
#endif

namespace radixattn::test {
namespace {

constexpr uint64_t kSeed = 11;

Shape decode_of(std::vector<uint32_t> contexts, int32_t kv_dtype = RADIX_BF16) {
  Shape s;
  for (const uint32_t n : contexts) s.seqs.push_back({n, 1});
  s.k_dtype = s.v_dtype = kv_dtype;
  s.q_dtype = s.out_dtype = kv_dtype == RADIX_BF16 ? RADIX_BF16 : RADIX_F16;
  s.compute_dtype = compute_dtype_of(kv_dtype);
  s.q_heads = 4;
  s.kv_heads = 1;
  s.aligned = true;
  return s;
}

void run(AttentionCase& c, int32_t arch, uint32_t split_tokens) {
  ::testing::Message what;
  what << "sm_" << arch << ", ranges of " << split_tokens << ": " << c.shape();
  SCOPED_TRACE(what);
  c.expect_matches_reference(c.run(decode_launcher(arch, split_tokens)));
}

void check(const Shape& shape) {
  AttentionCase c(shape, kSeed);
  run(c, 90, 0);
  run(c, 90, 64);
}

TEST(CudaDecode, EmptySequencesGiveZerosAndMinusInfinity) {
  Shape s = decode_of({0, 5, 0, 40});
  check(s);
  s.sinks = true;
  check(s);
}

TEST(CudaDecode, ContextsAroundTileBlockAndRangeEdges) {
  for (const uint32_t block : {1u, 5u, 8u, 16u, 64u}) {
    Shape s = decode_of({1, 15, 16, 17, 47, 48, 49, 63, 64, 65, 128, 129, 200});
    s.block_size = block;
    s.dim = 32;
    s.q_heads = 2;
    check(s);
  }
}

TEST(CudaDecode, GroupsOfEverySize) {
  const std::pair<uint32_t, uint32_t> heads[] = {{1, 1}, {3, 1},  {6, 2},  {8, 1}, {5, 1},
                                                 {4, 4}, {16, 1}, {17, 1}, {40, 2}};
  for (const auto& [q, kv] : heads) {
    Shape s = decode_of({70, 33});
    s.q_heads = q;
    s.kv_heads = kv;
    check(s);
  }
}

TEST(CudaDecode, HeadDimsOfEveryDtype) {
  for (const int32_t dtype : {RADIX_F16, RADIX_BF16, RADIX_F8_E4M3, RADIX_F8_E5M2}) {
    for (const uint32_t dim : {32u, 40u, 64u, 72u, 80u, 96u, 120u, 128u, 192u, 256u}) {
      Shape s = decode_of({70}, dtype);
      s.dim = dim;
      check(s);
    }
    Shape s = decode_of({70}, dtype);
    s.dim = 72;
    s.dim_v = 40;
    check(s);
    s.dim = 64;
    s.dim_v = 192;
    check(s);
  }
}

TEST(CudaDecode, WindowsCountTheQueryItself) {
  for (const uint32_t window : {1u, 15u, 16u, 17u, 64u, 99u, 100u, 101u, 4000000000u}) {
    Shape s = decode_of({100, 1, 16, 65});
    s.window = window;
    check(s);
  }
}

TEST(CudaDecode, SoftcapAlibiAndSinks) {
  for (uint32_t bits = 1; bits < 8; ++bits) {
    Shape s = decode_of({130, 17});
    s.softcap = (bits & 1) != 0 ? 3.f : 0.f;
    s.alibi = (bits & 2) != 0;
    s.sinks = (bits & 4) != 0;
    s.amplitude = 8.f;
    check(s);
    s.window = 20;
    check(s);
  }
}

TEST(CudaDecode, SinksFarAboveAndBelowAllScores) {
  for (const float level : {300.f, -300.f}) {
    Shape s = decode_of({130, 17, 0});
    s.sinks = true;
    s.sink_level = level;
    check(s);
  }
}

// f16 has no number above 65504: what is larger counts as that, not as infinity.
TEST(CudaDecode, QueriesBeyondF16CountAsItsLargest) {
  for (const int32_t kv : {RADIX_F16, RADIX_F8_E4M3}) {
    for (const double sign : {1.0, -1.0}) {
      Shape s = decode_of({70}, kv);
      s.q_dtype = s.out_dtype = RADIX_F32;
      AttentionCase c(s, kSeed);
      Result results[2];
      for (int i = 0; i < 2; ++i) {
        for (int64_t e = 0; e < c.q().size(); e += 7) c.q().set(e, sign * (i == 0 ? 65504 : 1e6));
        results[i] = c.run(decode_launcher(90, 0));
        for (const double x : results[i].out) EXPECT_TRUE(std::isfinite(x));
      }
      EXPECT_TRUE(results[0].raw_out == results[1].raw_out);
      EXPECT_TRUE(results[0].raw_lse == results[1].raw_lse);
    }
  }
}

TEST(CudaDecode, LayoutsTablesStridesAndAlignments) {
  for (const Layout layout : {Layout::kNhd, Layout::kHnd, Layout::kPaddedNhd}) {
    for (const bool csr : {false, true}) {
      Shape s = decode_of({100, 37, 0}, csr ? RADIX_F16 : RADIX_F8_E4M3);
      s.layout = layout;
      s.csr = csr;
      s.padded_rows = !csr;
      s.aligned = csr;
      s.kv_heads = 2;
      s.block_size = 8;
      check(s);
    }
  }
}

TEST(CudaDecode, OneOddStrideIsEnoughForUnaligned) {
  for (const int32_t dtype : {RADIX_BF16, RADIX_F8_E5M2}) {
    for (const Layout layout :
         {Layout::kOddHeads, Layout::kOddTokens, Layout::kOddBlocks, Layout::kHeadsFirst}) {
      Shape s = decode_of({70, 5}, dtype);
      s.layout = layout;
      s.kv_heads = 2;
      check(s);
    }
  }
  Shape s = decode_of({70}, RADIX_F8_E4M3);  // rows of V, of 40 bytes, alone
  s.dim_v = 40;
  check(s);
}

TEST(CudaDecode, DtypesOfQueriesAndOutputs) {
  for (const int32_t kv : {RADIX_F16, RADIX_BF16, RADIX_F8_E5M2}) {
    for (const int32_t q : {RADIX_F32, RADIX_F16, RADIX_BF16}) {
      Shape s = decode_of({70, 16}, kv);
      s.q_dtype = q;
      s.out_dtype = q == RADIX_F32 ? RADIX_F16 : q == RADIX_F16 ? RADIX_BF16 : RADIX_F32;
      check(s);
    }
  }
}

TEST(CudaDecode, Fp8ScalesOfTensorsAndHeads) {
  for (const int32_t kv : {RADIX_F8_E4M3, RADIX_F8_E5M2}) {
    for (const bool per_head : {false, true}) {
      Shape s = decode_of({150, 16}, kv);
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

TEST(CudaDecode, ScalesOfCachesThatAreNotFp8) {
  for (const bool per_head : {false, true}) {
    Shape s = decode_of({90, 16});
    s.kv_heads = 2;
    s.kv_scales = true;
    s.kv_scale_per_head = per_head;
    check(s);
  }
}

TEST(CudaDecode, EveryDeviceSizeAndOrderGivesTheSame) {
  for (const uint32_t dim : {128u, 256u}) {
    Shape s = decode_of({333, 90});
    s.dim = dim;
    AttentionCase c(s, kSeed);
    run(c, 75, 0);
    run(c, 86, 128);
    const Result first = c.run(decode_launcher(90, 128));
    for (int i = 1; i < num_schedules(); ++i) {
      set_schedule(i);
      const Result other = c.run(decode_launcher(90, 128));
      EXPECT_TRUE(first.raw_out == other.raw_out) << "other bits in schedule " << i;
    }
    set_schedule(0);
  }
}

TEST(CudaDecode, ASequencesBitsDoNotDependOnTheOthers) {
  AttentionCase c(decode_of({200, 77, 5}), kSeed);
  const Launcher launch = decode_launcher(90, 64);
  const Result together = c.run(launch);
  const Result alone = c.run([&](AttentionParams p) {
    p.num_seqs = 1;
    return launch(p);
  });
  for (uint32_t i = 0; i < 4 * 64; ++i) EXPECT_EQ(alone.out[i], together.out[i]);
}

TEST(CudaDecode, AWorkListGivesTheSameBits) {
  for (const uint32_t window : {0u, 90u}) {
    Shape s = decode_of({200, 0, 77, 5, 64, 300, 128});
    s.window = window;
    s.sinks = true;
    AttentionCase c(s, kSeed);
    const Result implicit = c.run(decode_launcher(90, 64));
    for (const uint32_t blocks : {1u, 3u, 40u}) {
      const Result listed = c.run(decode_launcher(90, 64, blocks));
      EXPECT_TRUE(implicit.raw_out == listed.raw_out) << blocks << " blocks";
      EXPECT_TRUE(implicit.raw_lse == listed.raw_lse) << blocks << " blocks";
    }
    c.expect_matches_reference(implicit);
  }
}

TEST(CudaDecode, BlockIdsThatNameNoBlockAreNotRead) {
  for (const Layout layout : {Layout::kNhd, Layout::kHeadsFirst}) {
    Shape s = decode_of({100});
    s.layout = layout;
    s.kv_heads = 2;
    AttentionCase c(s, kSeed);
    for (const int32_t id : {-1, INT32_MAX, INT32_MIN}) {
      c.tables()[2] = id;
      const Result r = c.run(decode_launcher(90, 0));
      for (const double x : r.out) EXPECT_TRUE(std::isfinite(x));
      for (const double x : r.lse) EXPECT_TRUE(std::isfinite(x));
    }
    for (size_t i = 0; i < c.tables().size(); ++i) c.tables()[i] = -1;
    const Result r = c.run(decode_launcher(90, 0));
    for (const double x : r.out) EXPECT_EQ(x, 0.0);
    for (const double x : r.lse) EXPECT_EQ(x, -INFINITY);
  }
}

TEST(CudaDecode, LengthsBeyondTheBoundStayInside) {
  Shape s = decode_of({50, 20});
  AttentionCase c(s, kSeed);
  for (const int32_t length : {1 << 30, INT32_MAX, -1, INT32_MIN}) {
    c.context_lens()[1] = length;
    const Result r = c.run(decode_launcher(90, 64));  // the emulator's ASan builds see a stray read
    EXPECT_EQ(r.out.size(), 2 * 4 * 64u);
  }
}

TEST(CudaDecode, LengthsBeyondTheBoundEndThere) {
  for (const uint32_t split : {0u, 64u}) {
    AttentionCase c(decode_of({150, 20}), kSeed);
    const auto bounded = [&](AttentionParams p) {
      p.max_context_len = 90;
      return decode_launcher(90, split)(p);
    };
    const Result longer = c.run(bounded);
    c.context_lens()[0] = 90;
    const Result exact = c.run(bounded);
    EXPECT_TRUE(longer.raw_out == exact.raw_out);
    EXPECT_TRUE(longer.raw_lse == exact.raw_lse);
  }
}

// More positions than its row of the table has: the next sequence's row is not this one's.
TEST(CudaDecode, LengthsBeyondTheTableEndThere) {
  for (const bool csr : {false, true}) {
    Shape s = decode_of({48, 48});
    s.csr = csr;
    s.max_context = 4000;
    AttentionCase c(s, kSeed);
    const Result whole = c.run(decode_launcher(90, 0));
    for (const int32_t length : {csr ? 49 : 81, 96, 4000}) {
      c.context_lens()[0] = length;
      const Result r = c.run(decode_launcher(90, 0));
      EXPECT_TRUE(whole.raw_out == r.raw_out) << length;
      EXPECT_TRUE(whole.raw_lse == r.raw_lse) << length;
    }
  }
}

#ifdef RADIX_SIMT_EMU

// Decode by a list that a test has spoilt, with room for its items and states and no more.
Launcher listed_launcher(uint32_t max_items, const std::function<void(WorkList*)>& spoil) {
  return [=](const AttentionParams& p) {
    cuda::DecodeSplit split = split_of(p, 64);
    WorkList list = work_list_of(p, split);
    spoil(&list);
    list.items.shrink_to_fit();
    split.max_items = max_items != 0 ? max_items : static_cast<uint32_t>(list.items.size() / 2);
    std::vector<float> o(size_t{split.max_items} * p.num_q_heads * p.head_dim_v),
        lse(size_t{split.max_items} * p.num_q_heads);
    split.items = list.items.data();
    split.schedule = list.schedule.data();
    split.partial_begin = list.partial_begin.data();
    split.num_blocks = 3;
    split.partial_o = o.data();
    split.partial_lse = lse.data();
    return emulated([&] {
      const cuda::Error e = cuda::launch_decode(p, split, device_like(90), nullptr);
      return e != 0 ? e : cuda::launch_decode_merge(p, split, nullptr);
    });
  };
}

TEST(CudaDecode, AWorkListsItemsThatDoNotExistAreSkipped) {
  AttentionCase c(decode_of({200, 77}), kSeed);
  const Result whole = c.run(decode_launcher(90, 64, 3));
  const Result listed = c.run(listed_launcher(0, [](WorkList* list) {
    const int32_t strays[] = {2,  0, -1, 0, INT32_MAX, 0, INT32_MIN, 3, 0,         4, 0,
                              -1, 1, 2,  1, INT32_MAX, 1, -5,        3, INT32_MAX, 0, INT32_MIN};
    list->items.insert(list->items.begin() + 4, std::begin(strays), std::end(strays));
    list->schedule[0] = static_cast<int32_t>(list->items.size() / 2);
  }));
  EXPECT_TRUE(whole.raw_out == listed.raw_out);
  EXPECT_TRUE(whole.raw_lse == listed.raw_lse);
}

TEST(CudaDecode, AWorkListsCountIsCutToItsRoom) {
  AttentionCase c(decode_of({200, 77}), kSeed);
  const Result whole = c.run(decode_launcher(90, 64, 3));
  for (const int32_t count : {7, INT32_MAX, -1, INT32_MIN}) {
    const Result listed =
        c.run(listed_launcher(0, [count](WorkList* list) { list->schedule[0] = count; }));
    EXPECT_TRUE(whole.raw_out == listed.raw_out) << count;
    EXPECT_TRUE(whole.raw_lse == listed.raw_lse) << count;
  }
}

// The device's count, not the room: a captured launch has room for more.
TEST(CudaDecode, AWorkListEndsWhereItSays) {
  AttentionCase c(decode_of({60, 50}), kSeed);
  const Result whole = c.run(decode_launcher(90, 64, 3));
  const Result one = c.run(listed_launcher(2, [](WorkList* list) { list->schedule[0] = 1; }));
  const size_t half = whole.out.size() / 2;  // the list goes backwards: of the last sequence
  EXPECT_TRUE(std::equal(whole.out.begin() + static_cast<int64_t>(half), whole.out.end(),
                         one.out.begin() + static_cast<int64_t>(half)));
  EXPECT_TRUE(std::none_of(one.out.begin(), one.out.begin() + static_cast<int64_t>(half),
                           [&](double x) { return std::fabs(x) < 1e6; }))
      << "sequence 0 is not in the list, and what stood in its rows stays";
}

#ifndef RADIX_SIMT_TSAN  // states that lie in one place are a race, and may be
// What comes out is anything, but nothing outside is read or written (AddressSanitizer looks).
TEST(CudaDecode, AWorkListsRangesAndStatesThatLieStayInside) {
  AttentionCase c(decode_of({200, 77}), kSeed);
  for (const int32_t tokens : {0, -1, INT32_MIN, 1, 16, INT32_MAX})
    c.run(listed_launcher(0, [tokens](WorkList* list) { list->schedule[1] = tokens; }));
  for (const int32_t row : {-1, 2, 1 << 20, INT32_MAX, INT32_MIN})
    c.run(listed_launcher(0, [row](WorkList* list) { list->partial_begin.assign(2, row); }));
}
#endif

TEST(CudaDecode, OffsetsBeyondThirtyTwoBits) {
  for (const bool aligned : {true, false}) {
    Shape s = decode_of({70});
    s.aligned = aligned;
    AttentionCase c(s, kSeed);
    expect_same_bits_far_away(c, decode_launcher(90, 0));
  }
}

// Four matrices of eight rows: each is served at once.
TEST(CudaDecode, LoadsOfMatricesHaveNoBankConflicts) {
  for (const int32_t dtype : {RADIX_BF16, RADIX_F8_E4M3}) {
    for (const uint32_t dim : {64u, 128u, 256u}) {
      Shape s = decode_of({100}, dtype);
      s.dim = dim;
      AttentionCase c(s, kSeed);
      simt::emu::stats = {};
      c.run(decode_launcher(90, 0));
      EXPECT_GT(simt::emu::stats.ldmatrix, 0u);
      EXPECT_EQ(simt::emu::stats.ldmatrix_wavefronts, 4 * simt::emu::stats.ldmatrix / 32);
    }
  }
}

#endif

void random_case(uint64_t seed) {
  SCOPED_TRACE(::testing::Message() << "replay with RADIX_TEST_ONLY=" << seed);
  Rng rng(seed);
  const int32_t dtypes[] = {RADIX_F16, RADIX_BF16, RADIX_F8_E4M3, RADIX_F8_E5M2};
  const int32_t rows[] = {RADIX_F32, RADIX_F16, RADIX_BF16};
  const uint32_t groups[] = {1, 2, 3, 4, 7, 8, 16, 20};
  const uint32_t blocks[] = {1, 3, 8, 16, 24, 32, 64, 128, 256};
  const Layout layouts[] = {Layout::kNhd, Layout::kHnd, Layout::kPaddedNhd};
  Shape s = decode_of({}, rng.pick(dtypes));
  for (uint32_t n = rng.between(1, 3); n > 0; --n) s.seqs.push_back({rng.below(400), 1});
  s.kv_heads = rng.between(1, 2);
  s.q_heads = s.kv_heads * rng.pick(groups);
  s.dim = 8 * rng.between(4, 32);
  s.dim_v = rng.one_in(3) ? 8 * rng.between(4, 32) : s.dim;
  s.block_size = rng.pick(blocks);
  s.layout = rng.pick(layouts);
  s.aligned = !rng.one_in(3);
  s.window = rng.one_in(3) ? rng.between(1, 300) : 0;
  s.softcap = rng.one_in(4) ? 1.f + 20.f * (1.f + rng.uniform()) : 0.f;
  s.alibi = rng.one_in(4);
  s.sinks = rng.one_in(4);
  s.csr = rng.one_in(3);
  s.padded_rows = rng.one_in(3);
  s.lse = !rng.one_in(4);
  s.q_dtype = rng.pick(rows);
  s.out_dtype = rng.pick(rows);
  s.amplitude = rng.one_in(3) ? 6.f : 1.f;
  s.kv_scales = is_fp8(s.k_dtype) && rng.one_in(2);
  s.kv_scale_per_head = rng.one_in(2);
  s.max_context = rng.one_in(3) ? rng.between(400, 2000) : 0;
  const int32_t archs[] = {75, 86, 90};
  AttentionCase c(s, rng.next());
  run(c, rng.pick(archs), rng.one_in(3) ? 0 : 64 * rng.between(1, 4));
}

TEST(CudaDecode, RandomShapes) { for_random_cases("cuda decode", 40, random_case); }

}  // namespace
}  // namespace radixattn::test
