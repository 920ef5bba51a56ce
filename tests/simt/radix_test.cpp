// Radix attention's own CUDA sources against the reference: random lists over random trees; and the
// bits of batch-invariant launches, which nothing around a row may change.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "attention_launchers.h"
#include "support/radix_case.h"
#include "support/rng.h"

namespace radixattn::test {
namespace {

constexpr uint64_t kSeed = 17;
constexpr uint64_t kBudget = 3'000'000;

Shape shape_of(std::vector<Sequence> seqs, bool prefill, int32_t kv_dtype = RADIX_BF16) {
  Shape s;
  s.prefill = prefill;
  s.seqs = std::move(seqs);
  s.k_dtype = s.v_dtype = kv_dtype;
  s.q_dtype = s.out_dtype = kv_dtype == RADIX_BF16 ? RADIX_BF16 : RADIX_F16;
  s.compute_dtype = compute_dtype_of(kv_dtype);
  s.q_heads = 4;
  s.kv_heads = 1;
  s.aligned = true;
  return s;
}

// K and V of one of the dtypes that CUDA's kernels take.
void set_dtype(Rng& rng, Shape* s) {
  const int32_t dtypes[] = {RADIX_F16, RADIX_BF16, RADIX_F8_E4M3, RADIX_F8_E5M2};
  s->k_dtype = s->v_dtype = rng.pick(dtypes);
  s->compute_dtype = compute_dtype_of(s->k_dtype);
  s->kv_scales = is_fp8(s->k_dtype) && rng.one_in(2);
  s->kv_scale_per_head = rng.one_in(2);
  s->aligned = !rng.one_in(3);
  s->amplitude = std::min(s->amplitude, 4.f);
}

void random_case(uint64_t seed) {
  Rng rng(seed);
  const bool prefill = rng.one_in(2);
  Shape s = random_radix_shape(rng, prefill, kBudget);
  set_dtype(rng, &s);
  AttentionCase c(s, rng.next());
  ListRules rules;
  rules.batch_invariant = rng.one_in(2);
  rules.share = !rng.one_in(5);
  rules.cut = !rng.one_in(4);
  rules.wide_rows = rng.one_in(2) ? 64 : rng.between(1, 200);
  const RadixArrays list = random_radix_list(c, rules, rng);
  const int32_t archs[] = {75, 86, 90};
  const int32_t arch = rng.pick(archs);
  SCOPED_TRACE(::testing::Message() << "replay with RADIX_TEST_ONLY=" << seed << ": sm_" << arch
                                    << (rules.batch_invariant ? " batch-invariant " : " ")
                                    << list.items.size() << " items, " << c.shape());
  c.expect_matches_reference(
      c.run(radix_launcher(arch, &list, rules.batch_invariant, 1, rng.between(1, 4))));
}

TEST(CudaRadix, RandomListsOfRandomTrees) { for_random_cases("cuda radix", 40, random_case); }

// ---- the same bits ------------------------------------------------------------------------------

void expect_same(const Result& a, const Result& b, const char* what) {
  EXPECT_TRUE(a.raw_out == b.raw_out) << what;
  EXPECT_TRUE(a.raw_lse == b.raw_lse) << what;
}

// Lists and ranges of every kind, on every device, give what one block a row gives.
void random_bits(uint64_t seed) {
  Rng rng(seed);
  Shape s = random_radix_shape(rng, rng.one_in(2), kBudget);
  set_dtype(rng, &s);
  SCOPED_TRACE(::testing::Message() << "replay with RADIX_TEST_ONLY=" << seed << ": " << s);
  AttentionCase c(s, rng.next());
  const Result alone = c.run(radix_launcher(90, nullptr, true));
  c.expect_matches_reference(alone);
  expect_same(alone, c.run(radix_launcher(75, nullptr, true, rng.between(2, 4))), "in ranges");
  for (const bool share : {true, false}) {
    ListRules rules;
    rules.batch_invariant = true;
    rules.share = share;
    rules.wide_rows = rng.one_in(2) ? 64 : rng.between(1, 80);
    const RadixArrays list = random_radix_list(c, rules, rng);
    const int32_t arch = rng.one_in(2) ? 86 : 90;
    expect_same(alone, c.run(radix_launcher(arch, &list, true)), share ? "shared" : "not shared");
  }
}

TEST(CudaRadix, ABatchInvariantRowsBitsDoNotDependOnTheItems) {
  for_random_cases("cuda radix bits", 16, random_bits);
}

// The rows of q and out from a row on, for `n` rows of one sequence that ends at `context`.
Launcher chunk_launcher(int32_t begin, int32_t n, int32_t context, bool as_decode) {
  return [=](AttentionParams p) {
    const int32_t cu[] = {0, n};
    const auto q_bytes = static_cast<int64_t>(element_bytes(p.q.dtype));
    const auto out_bytes = static_cast<int64_t>(element_bytes(p.out.dtype));
    p.q.data = static_cast<char*>(p.q.data) + begin * p.q.row_stride * q_bytes;
    p.out.data = static_cast<char*>(p.out.data) + begin * p.out.row_stride * out_bytes;
    if (p.lse != nullptr) p.lse += begin * p.lse_row_stride;
    p.cu_q_lens = as_decode ? nullptr : cu;
    p.context_lens = &context;
    p.max_query_len = static_cast<uint32_t>(n);
    return radix_launcher(90, nullptr, true)(p);
  };
}

// A prompt in one launch, in chunks, and token by token.
TEST(CudaRadix, ChunksAndDecodeGiveTheBitsOfTheWholePrompt) {
  for (const int32_t dtype : {RADIX_BF16, RADIX_F8_E4M3}) {
    for (const uint32_t dim : {64u, 256u}) {
      Shape s = shape_of({{290, 290}}, true, dtype);
      s.dim = dim;
      s.window = dim == 64 ? 0 : 261;
      s.alibi = s.sinks = true;
      AttentionCase c(s, kSeed);
      const Result whole = c.run(radix_launcher(90, nullptr, true));
      c.expect_matches_reference(whole);
      const Result chunks = c.run([](const AttentionParams& p) {
        radix_status st = RADIX_OK;
        for (const int32_t begin : {0, 100, 265}) {
          const int32_t end = begin == 0 ? 100 : begin == 100 ? 265 : 290;
          if (st == RADIX_OK) st = chunk_launcher(begin, end - begin, end, false)(p);
        }
        return st;
      });
      expect_same(whole, chunks, "in chunks");
      const Result tokens = c.run([](const AttentionParams& p) {
        radix_status st = chunk_launcher(0, 284, 284, false)(p);
        for (int32_t t = 284; t < 290 && st == RADIX_OK; ++t)
          st = chunk_launcher(t, 1, t + 1, true)(p);
        return st;
      });
      expect_same(whole, tokens, "token by token");
    }
  }
}

// The merge reads a state for each segment of an item, seen or not.
TEST(CudaRadix, SegmentsThatNobodySeesHaveAnEmptyState) {
  Shape s = shape_of({{700, 1}}, false);
  s.window = 100;
  AttentionCase c(s, kSeed);
  RadixArrays list;
  list.sizes = {1, 1};
  list.items = {{0, 0, 700, 0, 4, 0, 1, 0}};
  list.rows = {{0, 699}};
  list.merges = {{0, 0, 3}};
  list.terms = {0, 1, 2};
  list.num_states = 3;
  const Result merged = c.run(radix_launcher(90, &list, true));
  c.expect_matches_reference(merged);
  expect_same(c.run(radix_launcher(90, nullptr, true)), merged, "from states");
}

TEST(CudaRadix, ABatchInvariantSequencesBitsDoNotDependOnTheOthers) {
  Shape s = shape_of({{600, 1}, {77, 1}, {270, 1}}, false);
  s.dim = 128;
  AttentionCase c(s, kSeed);
  const Launcher launcher = radix_launcher(90, nullptr, true);
  const Result together = c.run(launcher);
  c.expect_matches_reference(together);
  const Result alone = c.run([&](AttentionParams p) {
    p.num_seqs = 1;
    return launcher(p);
  });
  for (uint32_t i = 0; i < 4 * 128; ++i) EXPECT_EQ(alone.out[i], together.out[i]);
}

#ifdef RADIX_SIMT_EMU

// ---- lists that lie -----------------------------------------------------------------------------

// A small tree: two sequences below a node of 96 tokens, one by itself.
Shape small_tree(bool prefill) {
  const uint32_t n = prefill ? 3 : 1;
  return shape_of({{130, n}, {150, n, 0, 96}, {40, n}}, prefill);
}

// A list without cuts, in arrays without a byte to spare.
RadixArrays small_list(AttentionCase& c, bool batch_invariant) {
  Rng rng(kSeed);
  ListRules rules;
  rules.batch_invariant = batch_invariant;
  rules.cut = false;
  RadixArrays list = random_radix_list(c, rules, rng);
  list.items.shrink_to_fit(), list.rows.shrink_to_fit();
  list.merges.shrink_to_fit(), list.terms.shrink_to_fit();
  return list;
}

TEST(CudaRadix, ItemsOfSequencesAndRowsThatDoNotExistAreSkipped) {
  AttentionCase c(small_tree(false), kSeed);
  RadixArrays list = small_list(c, false);
  const Result whole = c.run(radix_launcher(90, &list, false));
  c.expect_matches_reference(whole);
  for (const int32_t seq : {-1, 3, INT32_MAX, INT32_MIN})
    list.items.push_back({seq, 0, 100, 0, 4, RadixItem::kDirect, 0, 0});
  list.items.push_back({0, 0, 100, 12, 16, RadixItem::kDirect, 0, 0});
  list.items.push_back({0, 0, 100, 4, 4, RadixItem::kDirect, 0, 0});
  list.items.push_back({0, 0, 100, 8, -8, RadixItem::kDirect, 0, 0});
  list.items.push_back({0, 0, 100, INT32_MAX, INT32_MIN, RadixItem::kDirect, 0, 0});
  list.sizes.num_items = static_cast<int32_t>(list.items.size());
  expect_same(whole, c.run(radix_launcher(90, &list, false)), "with strays");
}

// Behind a sequence's last token lie NaN, and entries of its table that name no block.
TEST(CudaRadix, KeysPastTheSequencesEndAreNotSeen) {
  for (const bool invariant : {false, true}) {
    AttentionCase c(small_tree(false), kSeed);
    RadixArrays list = small_list(c, invariant);
    const Result whole = c.run(radix_launcher(90, &list, invariant));
    c.expect_matches_reference(whole);
    const int32_t contexts[] = {130, 150, 40};
    for (RadixItem& item : list.items) {
      if (item.token_end == contexts[item.seq]) item.token_end = 1 << 20;
    }
    for (RadixRow& row : list.rows) row.position = 1 << 20;
    expect_same(whole, c.run(radix_launcher(90, &list, invariant)), "with later keys");
  }
}

TEST(CudaRadix, CountsAreCutToTheRoom) {
  AttentionCase c(small_tree(false), kSeed);
  RadixArrays list = small_list(c, false);
  const Result whole = c.run(radix_launcher(90, &list, false));
  for (const int32_t count : {static_cast<int32_t>(list.items.size()) + 1, INT32_MAX}) {
    list.sizes.num_items = count;
    expect_same(whole, c.run(radix_launcher(90, &list, false)), "more items");
  }
  list.sizes.num_items = static_cast<int32_t>(list.items.size());
  list.sizes.num_rows = INT32_MAX;
  expect_same(whole, c.run(radix_launcher(90, &list, false)), "more rows");
  for (const int32_t none : {0, -1, INT32_MIN}) {
    list.sizes = {none, none};
    list.merges.assign(3, {0, 0, 0});
    const Result r = c.run(radix_launcher(90, &list, false));
    for (const double x : r.out) EXPECT_GT(std::fabs(x), 1e6) << "nobody has work";
  }
}

#ifndef RADIX_SIMT_TSAN  // states and rows that lie in one place are a race, and may be
// What comes out is anything, but nothing outside is read or written: the case looks at what is
// around its outputs, AddressSanitizer at the rest.
TEST(CudaRadix, ContentsThatLieStayInside) {
  Rng rng(kSeed);
  const int32_t lies[] = {-1, 1,   2,       3,         15,        64,
                          97, 300, 1 << 20, INT32_MAX, INT32_MIN, INT32_MIN + 1};
  for (int round = 0; round < 40; ++round) {
    const bool invariant = rng.one_in(2);
    AttentionCase c(small_tree(rng.one_in(2)), kSeed);
    RadixArrays list = small_list(c, invariant);
    for (int i = 0; i < 4; ++i) {
      RadixItem& item = list.items[rng.below(static_cast<uint32_t>(list.items.size()))];
      int32_t* const fields[] = {&item.seq,     &item.token_begin, &item.token_end,
                                 &item.row_end, &item.row_begin,   &item.state,
                                 &item.narrow,  &item.state_stride};
      *rng.pick(fields) = rng.pick(lies);
      RadixRow& row = list.rows[rng.below(static_cast<uint32_t>(list.rows.size()))];
      if (rng.one_in(2)) row.query = rng.pick(lies);
      if (rng.one_in(2)) row.position = rng.pick(lies);
      RadixMerge& merge = list.merges[rng.below(3)];
      int32_t* const of_merge[] = {&merge.first_row, &merge.term_begin, &merge.term_end};
      if (rng.one_in(2)) *rng.pick(of_merge) = rng.pick(lies);
      if (rng.one_in(2) && !list.terms.empty())
        list.terms[rng.below(static_cast<uint32_t>(list.terms.size()))] = rng.pick(lies);
    }
    EXPECT_EQ(c.run(radix_launcher(90, &list, invariant)).out.size(), c.rows() * 4 * 64u);
  }
}
#endif

TEST(CudaRadix, RowsThatQDoesNotHaveAreNone) {
  AttentionCase c(shape_of({{300, 20}, {60, 20}}, true), kSeed);
  AttentionParams first = c.params();
  first.num_seqs = 1;
  for (const uint32_t ranges : {1u, 2u}) {
    const Launcher launch = radix_launcher(90, nullptr, true, ranges);
    c.cu_q_lens()[2] = 40;
    const Result expected = c.run([&](const AttentionParams&) { return launch(first); });
    for (const int32_t end : {41, INT32_MAX}) {
      c.cu_q_lens()[2] = end;
      expect_same(expected, c.run(launch), "rows beyond q");
    }
  }
  // Nor rows of a list.
  c.cu_q_lens()[2] = INT32_MAX;
  RadixArrays list = small_list(c, false);
  for (RadixRow& row : list.rows) row.query += 40;
  const Result poison = c.run([](const AttentionParams&) { return RADIX_OK; });
  expect_same(poison, c.run(radix_launcher(90, &list, false)), "rows of a list");
}

// K/V in f32 have one kernel, which walks a row's keys in tiles at fixed positions and takes no
// list: its launches are batch-invariant as they are.
TEST(CudaRadix, F32IsBatchInvariantAsItIs) {
  Shape s = shape_of({{290, 290}}, true, RADIX_F32);
  s.q_dtype = s.out_dtype = s.compute_dtype = RADIX_F32;
  s.window = 100;
  AttentionCase c(s, kSeed);
  const auto chunk = [](AttentionParams p, int32_t begin, int32_t end) {
    const int32_t cu[] = {0, end - begin}, context = end;
    p.q.data = static_cast<float*>(p.q.data) + begin * p.q.row_stride;
    p.out.data = static_cast<float*>(p.out.data) + begin * p.out.row_stride;
    p.lse += begin * p.lse_row_stride;
    p.cu_q_lens = end - begin == 1 ? nullptr : cu;
    p.context_lens = &context;
    p.max_query_len = static_cast<uint32_t>(end - begin);
    return emulated([&] { return cuda::launch_attention_f32(p, nullptr); });
  };
  const Result whole = c.run([&](const AttentionParams& p) { return chunk(p, 0, 290); });
  const Result parts = c.run([&](const AttentionParams& p) {
    radix_status st = chunk(p, 0, 33);
    if (st == RADIX_OK) st = chunk(p, 33, 287);
    for (int32_t t = 287; t < 290 && st == RADIX_OK; ++t) st = chunk(p, t, t + 1);
    return st;
  });
  expect_same(whole, parts, "in parts");
}

// A row's sum comes out as -0: what other rows of its block have it add changes the sign of a sum,
// not of a result.
TEST(CudaRadix, F32SumsOfMinusZero) {
  Shape s = shape_of({{48, 48}}, true, RADIX_F32);
  s.q_dtype = s.out_dtype = s.compute_dtype = RADIX_F32;
  s.q_heads = 1;
  AttentionCase c(s, kSeed);
  const AttentionParams all = c.params();
  const auto number = [&](const PagedTensor& t, uint32_t token) {
    const int64_t block = c.blocks_of(0)[token / s.block_size];
    const int64_t at = block * t.block_stride + token % s.block_size * t.token_stride;
    return static_cast<float*>(t.data) + at;
  };
  const float* q = static_cast<const float*>(all.q.data) + 31 * all.q.row_stride;
  for (uint32_t t = 0; t < 48; ++t) {
    for (uint32_t e = 0; e < s.dim; ++e) number(all.k, t)[e] = t == 31 ? 1000 * q[e] : 0.f;
    number(all.v, t)[0] = t < 31 ? -1.f : t == 31 ? -0.f : 1.f;
  }
  for (const int32_t first : {31, 17}) {
    const Result r = c.run([&](AttentionParams p) {
      const int32_t cu[] = {0, 34 - first}, context = first == 31 ? 32 : 34;
      const int32_t one[] = {0, 1};
      p.q.data = static_cast<float*>(p.q.data) + first * p.q.row_stride;
      p.out.data = static_cast<float*>(p.out.data) + first * p.out.row_stride;
      p.lse += first * p.lse_row_stride;
      p.cu_q_lens = first == 31 ? one : cu;
      p.context_lens = &context;
      return emulated([&] { return cuda::launch_attention_f32(p, nullptr); });
    });
    EXPECT_EQ(r.out[31 * s.dim], 0.0);
    EXPECT_FALSE(std::signbit(r.out[31 * s.dim])) << "from row " << first;
  }
}

// Four matrices of eight rows: each is served at once.
TEST(CudaRadix, LoadsOfMatricesHaveNoBankConflicts) {
  for (const int32_t dtype : {RADIX_BF16, RADIX_F8_E4M3}) {
    for (const uint32_t dim : {64u, 128u, 256u}) {
      Shape s = shape_of({{100, 40}, {30, 2}}, true, dtype);
      s.dim = dim;
      AttentionCase c(s, kSeed);
      simt::emu::stats = {};
      c.run(radix_launcher(90, nullptr, true));
      EXPECT_GT(simt::emu::stats.ldmatrix, 0u);
      EXPECT_EQ(simt::emu::stats.ldmatrix_wavefronts, 4 * simt::emu::stats.ldmatrix / 32);
    }
  }
}

// Nor on the order in which threads and blocks run.
TEST(CudaRadix, EveryOrderGivesTheSame) {
  Shape s = shape_of({{700, 1}, {600, 1, 0, 512}, {530, 1, 1, 512}}, false);
  s.dim = 128;
  AttentionCase c(s, kSeed);
  for (const int32_t arch : {75, 90}) {  // with two rings, and with four
    for (const bool invariant : {false, true}) {
      const RadixArrays list = small_list(c, invariant);
      const Result first = c.run(radix_launcher(arch, &list, invariant));
      c.expect_matches_reference(first);
      for (int i = 1; i < num_schedules(); ++i) {
        set_schedule(i);
        expect_same(first, c.run(radix_launcher(arch, &list, invariant)), "in another order");
      }
      set_schedule(0);
    }
  }
}

#endif

}  // namespace
}  // namespace radixattn::test
