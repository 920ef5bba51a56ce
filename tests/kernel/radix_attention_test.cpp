// Radix attention on the CPU: random work lists over random trees.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <initializer_list>
#include <iterator>
#include <string>

#include "backend/cpu/attention_jobs.h"
#include "backend/cpu/cpu_backend.h"
#include "support/radix_case.h"
#include "support/rng.h"
#include "support/runners.h"

namespace radixattn::test {
namespace {

constexpr uint64_t kBudget = 3'000'000;

// The lists of these tests are what backend/radix_list.h says: else nothing below means anything.
TEST(RadixCase, RandomListsAreValid) {
  uint64_t shared = 0, states = 0, narrow = 0, direct = 0, empty = 0, shared_segments = 0;
  uint64_t narrow_shared = 0;
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
    rules.narrow_tokens = 12;
    const RadixArrays list = random_radix_list(c, rules, rng);
    expect_valid_list(c, list, rules.batch_invariant);
    const uint32_t group = c.shape().q_heads / c.shape().kv_heads;
    for (const RadixItem& item : list.items) {
      states += item.state_stride != 0;
      narrow += static_cast<uint64_t>(item.narrow);
      narrow_shared +=
          item.narrow != 0 && item.row_end - item.row_begin > static_cast<int32_t>(group);
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
  EXPECT_GT(narrow_shared, 20u);
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
  rules.narrow_tokens =
      rng.one_in(4) ? 1 : static_cast<int32_t>(rng.between(2, 12));  // 8 are taken
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
  InvariantLauncher(const CpuKernels& kernels, Executor executor, Rng* rng,
                    bool bf16_weights = true)
      : kernels_(kernels), executor_(executor), rng_(rng), bf16_weights_(bf16_weights) {}

  radix_status launch(AttentionParams p, Way way) {
    p.batch_invariant = true;
    p.bf16_weights = bf16_weights_;
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
  bool bf16_weights_;
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

// Rows of one sequence: in a large prefill, where many stand together, and each by itself, at every
// context from 1 to kFewRowsTokens. The latter's few stacked rows have products of their own.
constexpr uint32_t kFewRowsTokens = 270;  // never few rows in prefill's last item

Shape few_rows_shape(uint32_t turn) {
  const int32_t dtypes[] = {RADIX_F32, RADIX_F16, RADIX_BF16};
  const uint32_t windows[] = {0, 1, 0, 7, 0, 64, 0, 101, 0, 250, 0};
  const Layout layouts[] = {Layout::kNhd, Layout::kHnd, Layout::kPaddedNhd, Layout::kOddTokens};
  Shape s;
  s.prefill = true;
  s.seqs = {{kFewRowsTokens, kFewRowsTokens}};
  s.dim = 8 + 8 * (turn * 7 % 32);  // 8, 64, 120 .. 256: all of them in 32 turns
  s.dim_v = turn % 2 == 0 ? s.dim : 8 + 8 * (turn * 5 % 32);
  s.kv_heads = s.dim <= 64 ? 1 + turn % 6 : 1 + turn % 2;
  s.q_heads = s.kv_heads * (1 + turn % 9);
  s.k_dtype = dtypes[turn % 3];
  s.v_dtype = turn % 4 == 1 ? dtypes[turn / 4 % 3] : s.k_dtype;
  s.q_dtype = turn % 5 >= 3 ? dtypes[turn / 5 % 3] : s.k_dtype;
  s.window = windows[turn % std::size(windows)];
  s.softcap = turn % 5 == 3 ? 20.f : 0.f;
  s.alibi = turn % 7 == 2;
  s.sinks = turn % 7 == 5;
  s.block_size = 1 + turn * 7 % 33;
  s.layout = layouts[turn / 2 % 4];
  return s;
}

TEST(BatchInvariant, FewRowsHaveTheBitsOfMany) {
  for (uint32_t turn = 0; turn < 48; ++turn) {
    AttentionCase c(few_rows_shape(turn), turn);
    for (const CpuKernels* kernels : runnable_targets()) {
      SCOPED_TRACE(::testing::Message() << kernels->name << ": " << c.shape());
      const auto run = [&](Way way) {
        return c.run([&](const AttentionParams& p) {
          return InvariantLauncher(*kernels, Executor(), nullptr, turn / 3 % 2 == 0).launch(p, way);
        });
      };
      expect_same_bits(run(Way::kWhole), run(Way::kRows), "rows as decode");
    }
  }
}

// ---- edges that have names

// `n` sequences of one token behind a prefix of `shared` tokens.
Shape fan_out(uint32_t n, uint32_t shared, uint32_t own) {
  Shape s;
  s.seqs.assign(1, {shared + own, 1});
  for (uint32_t i = 1; i < n; ++i) s.seqs.push_back({shared + own + i % 3, 1, 0, shared});
  return s;
}

TEST(RadixAttention, ManySequencesBehindOnePrefix) {
  Shape s = fan_out(130, 96, 5);
  s.q_heads = 8;  // 520 stacked rows: more than an item takes, and panels of every width
  s.kv_heads = 2;
  AttentionCase c(s, 3);
  Rng rng(3);
  for (const uint32_t wide_rows : {16u, 17u, 33u, 48u, 240u, 480u}) {
    ListRules rules;
    rules.wide_rows = wide_rows;
    rules.cut = false;
    const RadixArrays list = random_radix_list(c, rules, rng);
    for (const CpuKernels* kernels : runnable_targets()) {
      SCOPED_TRACE(::testing::Message() << kernels->name << " rows " << wide_rows);
      c.expect_matches_reference(c.run(by_list(*kernels, Executor(), list)));
    }
  }
}

// The order in which one thread calls a target's kernels: 'C' for prefill's, 'r' for decode's.
const CpuKernels* g_recorded = nullptr;
std::string g_calls;

CpuKernels recording(const CpuKernels& kernels) {
  CpuKernels copy = kernels;
  g_recorded = &kernels;
  copy.prefill_item = [](const PrefillJob& job, const PrefillItem& item, void* scratch) {
    g_calls += 'C';
    g_recorded->prefill_item(job, item, scratch);
  };
  copy.decode_item = [](const DecodeJob& job, const DecodeItem& item, DecodeAhead& ahead,
                        void* scratch) {
    g_calls += 'r';
    g_recorded->decode_item(job, item, ahead, scratch);
  };
  return copy;
}

std::string phases(std::string calls) {
  calls.erase(std::unique(calls.begin(), calls.end()), calls.end());
  return calls;
}

// 40 sequences with tails of unequal length, and their list as a plan makes it: the dear ones
// first.
TEST(RadixAttention, EverySecondWorkerBeginsWithWhatWaitsForMemory) {
  Shape s;
  s.seqs.assign(1, {230, 1});
  for (uint32_t i = 1; i < 40; ++i) s.seqs.push_back({210 + i * 37 % 400, 1, 0, 200});
  s.seqs.push_back({150, 1});  // these two share keys in an item among the reads
  s.seqs.push_back({160, 1, 40, 100});
  s.q_heads = 24;
  s.kv_heads = 6;
  s.dim = 32;
  AttentionCase c(s, 1);
  Rng rng(1);
  ListRules rules;
  rules.cut = false;
  RadixArrays list = random_radix_list(c, rules, rng);
  for (RadixItem& i : list.items) i.narrow = i.row_end - i.row_begin <= 8 ? 1 : 0;
  std::sort(list.items.begin(), list.items.end(), [](const RadixItem& a, const RadixItem& b) {
    const auto cost = [](const RadixItem& i) {
      return (i.token_end - i.token_begin) * (i.row_end - i.row_begin);
    };
    return cost(a) > cost(b);
  });
  for (const CpuKernels* kernels : runnable_targets()) {
    SCOPED_TRACE(kernels->name);
    const CpuKernels recorded = recording(*kernels);
    g_calls.clear();
    const Result alone = c.run(by_list(recorded, Executor(), list));
    c.expect_matches_reference(alone);
    EXPECT_EQ(phases(g_calls), "Cr");
    const auto reads = std::count(g_calls.begin(), g_calls.end(), 'r');
    for (const NamedExecutor& e : all_executors()) {
      expect_same_bits(alone, c.run(by_list(*kernels, e.executor, list)), e.name);
      if (std::string(e.name) != "backwards callback of 8") continue;
      // The eighth worker does it all: the dearer reads, what computes, the other reads.
      g_calls.clear();
      expect_same_bits(alone, c.run(by_list(recorded, e.executor, list)), "recorded");
      EXPECT_EQ(phases(g_calls), "rCr");
      // At least half by cost: the dearest, so about a third by number.
      EXPECT_GE(10 * static_cast<std::ptrdiff_t>(g_calls.find('C')), 3 * reads);
    }
  }
}

// Narrow items of some sequences: decode's kernel does up to eight query tokens, one after the
// other, unless each has a window of its own. Many KV heads of few elements: decode's rows need
// more scratch than prefill's.
TEST(RadixAttention, AFewSequencesShareKeysInDecodesKernel) {
  for (const auto& [kv_heads, group, dim] : std::initializer_list<std::array<uint32_t, 3>>{
           {1, 4, 128}, {2, 1, 64}, {3, 5, 40}, {2, 7, 256}, {128, 1, 32}}) {
    for (const uint32_t tokens : {2u, 3u, 8u, 9u}) {
      for (const uint32_t window : {0u, 70u}) {
        Shape s = fan_out(tokens, 150, 5);
        s.kv_heads = kv_heads;
        s.q_heads = kv_heads * group;
        s.dim = dim;
        s.window = window;
        s.alibi = s.sinks = tokens != 3;
        s.softcap = tokens == 8 ? 7.f : 0.f;
        AttentionCase c(s, tokens);
        Rng rng(tokens);
        ListRules rules;
        rules.cut = false;
        RadixArrays list = random_radix_list(c, rules, rng);
        for (RadixItem& i : list.items) i.narrow = 1;
        const bool panels = window != 0 || tokens > 8 || tokens * group > kPrefillMultiRows;
        for (const CpuKernels* kernels : runnable_targets()) {
          SCOPED_TRACE(::testing::Message() << kernels->name << " " << tokens << " of " << s);
          g_calls.clear();
          const Result alone = c.run(by_list(recording(*kernels), Executor(), list));
          c.expect_matches_reference(alone);
          EXPECT_EQ(g_calls.find('C') != std::string::npos, panels) << g_calls;
          for (const NamedExecutor& e : all_executors())
            expect_same_bits(alone, c.run(by_list(*kernels, e.executor, list)), e.name);
        }
      }
    }
  }
}

// Items of few rows take several KV heads at a time, as many as divide the number of heads.
TEST(RadixAttention, EveryNumberOfKvHeads) {
  for (const uint32_t heads : {1u, 3u, 6u, 10u, 12u, 16u, 24u, 31u}) {
    Shape s = fan_out(3, 300, 70);
    s.kv_heads = heads;
    s.q_heads = 2 * heads;
    s.dim = 32;
    s.layout = heads % 2 == 0 ? Layout::kNhd : Layout::kHnd;
    AttentionCase c(s, heads);
    Rng rng(heads);
    ListRules rules;
    rules.narrow = false;
    const RadixArrays list = random_radix_list(c, rules, rng);
    for (const CpuKernels* kernels : runnable_targets()) {
      SCOPED_TRACE(::testing::Message() << kernels->name << " KV heads " << heads);
      for (const NamedExecutor& e : all_executors()) {
        c.expect_matches_reference(c.run(by_list(*kernels, e.executor, list)));
      }
    }
  }
}

// One query token's heads alone are more rows than an item of prefill's kernel takes.
TEST(RadixAttention, GroupsOfMoreRowsThanAnItemHas) {
  for (const uint32_t heads : {49u, 481u, 1024u}) {
    Shape s = fan_out(3, 48, 7);
    s.kv_heads = 1;
    s.q_heads = heads;
    s.dim = 32;
    AttentionCase c(s, heads);
    Rng rng(heads);
    const RadixArrays list = random_radix_list(c, ListRules(), rng);
    for (const CpuKernels* kernels : runnable_targets()) {
      SCOPED_TRACE(::testing::Message() << kernels->name << " heads " << heads);
      c.expect_matches_reference(c.run(by_list(*kernels, Executor(), list)));
      c.expect_matches_reference(c.run([&](const AttentionParams& p) {
        return InvariantLauncher(*kernels, Executor(), nullptr).launch(p, Way::kWhole);
      }));
    }
  }
}

TEST(RadixAttention, LimitsHaveRoomForTheirListsAndNotForGigabytes) {
  Executor executor;
  CpuBackend backend(*select_kernels(RADIX_CPU_AUTO), executor);
  AttentionParams bounds;
  bounds.num_q_heads = 32;
  bounds.num_kv_heads = 8;
  bounds.head_dim = bounds.head_dim_v = 128;
  bounds.block_size = 16;
  bounds.max_context_len = 131072;
  bounds.k.dtype = RADIX_BF16;
  for (const uint32_t seqs : {1u, 8u, 64u, 512u}) {
    for (const uint32_t rows : {1u, 16u, 8192u}) {
      bounds.num_seqs = seqs;
      bounds.max_query_len = rows;
      const RadixLimits l = backend.radix_limits(bounds);
      EXPECT_GE(l.max_items, seqs);
      EXPECT_GE(l.max_states, 2 * seqs);
      EXPECT_GT(l.costs.narrow_token, 0.f);
      EXPECT_EQ(l.narrow_tokens, kDecodeRows);
      EXPECT_LT(narrow_key_cost(l.costs, 4), 4 * l.costs.narrow_token) << "sharing pays";
      EXPECT_GE(narrow_key_cost(l.costs, 2), l.costs.narrow_token);
      EXPECT_LT(l.workspace_bytes, 70u << 20);
      AttentionParams p = bounds;
      p.batch_invariant = true;
      p.radix.max_items = l.max_items;
      p.radix.max_states = l.max_states;
      uint64_t bytes = 0;
      EXPECT_EQ(backend.attention_workspace(p, rows > 1, &bytes), RADIX_OK);
      EXPECT_LE(bytes, l.workspace_bytes);
    }
  }
}

// From 8 query heads a KV head on arithmetic decides, with every dtype: another query token is
// never free.
TEST(RadixAttention, CostsOfLargeGroups) {
  Executor executor;
  CpuBackend backend(*select_kernels(RADIX_CPU_AUTO), executor);
  AttentionParams bounds;
  bounds.num_kv_heads = 4;
  bounds.head_dim = bounds.head_dim_v = 128;
  bounds.block_size = 16;
  bounds.max_context_len = 131072;
  bounds.num_seqs = 8;
  bounds.max_query_len = 1;
  for (const int32_t dtype : {RADIX_F32, RADIX_F16, RADIX_BF16}) {
    bounds.k.dtype = bounds.v.dtype = dtype;
    for (const uint32_t group : {8u, 12u, 16u, 24u}) {
      bounds.num_q_heads = group * bounds.num_kv_heads;
      const RadixCosts c = backend.radix_limits(bounds).costs;
      EXPECT_GT(narrow_key_cost(c, 2), 1.4f * narrow_key_cost(c, 1)) << dtype << ' ' << group;
    }
  }
}

TEST(RadixAttention, AWorkspaceThatIsTooSmallWritesNothing) {
  AttentionCase c(fan_out(4, 64, 3), 5);
  Rng rng(5);
  ListRules rules;
  const RadixArrays list = random_radix_list(c, rules, rng);
  Executor executor;
  CpuBackend backend(*select_kernels(RADIX_CPU_AUTO), executor);
  AttentionParams p = c.params();
  p.radix = list.list();
  uint64_t bytes = 0;
  ASSERT_EQ(backend.attention_workspace(p, false, &bytes), RADIX_OK);
  alignas(64) char memory[64];
  p.workspace = memory;
  p.workspace_bytes = bytes - 1;
  c.out().fill(kPoisonByte);
  EXPECT_EQ(backend.decode(p, nullptr), RADIX_E_BUFFER);
  for (int64_t i = 0; i < c.out().size(); ++i) ASSERT_TRUE(c.out().is_filled_with(i, kPoisonByte));
}

// A plan's workspace is that of its bounds: fewer or shorter sequences may not need more.
TEST(BatchInvariant, WorkspacesOfDecodeNeverShrink) {
  const auto bytes = [](uint32_t seqs, uint32_t context, uint32_t workers) {
    AttentionParams p;
    p.batch_invariant = true;
    p.num_seqs = seqs;
    p.num_q_heads = 32;
    p.num_kv_heads = 8;
    p.head_dim = p.head_dim_v = 128;
    p.max_context_len = context;
    return invariant_decode_workspace_bytes(p, workers);
  };
  for (const uint32_t workers : {1u, 2u, 7u, 64u}) {
    for (const uint32_t context : {0u, 1u, 256u, 257u, 5000u, 100000u}) {
      uint64_t before = 0;
      for (const uint32_t seqs : {1u, 2u, 3u, 15u, 16u, 17u, 100u, 600u}) {
        const uint64_t now = bytes(seqs, context, workers);
        EXPECT_GE(now, before) << seqs << " sequences of " << context;
        EXPECT_GE(bytes(seqs, context + 300, workers), now);
        EXPECT_GE(bytes(seqs, context, workers + 1), now);
        before = now;
      }
    }
  }
}

// Long sequences in a small batch: cut into pieces, the first of which folds what it can.
TEST(BatchInvariant, ALongSequenceIsCutAndHasTheSameBits) {
  Shape s;
  s.seqs = {{9000, 1}, {0, 1}, {700, 1}};
  s.q_heads = 4;
  s.kv_heads = 1;
  s.dim = 32;
  AttentionCase c(s, 11);
  for (const CpuKernels* kernels : runnable_targets()) {
    SCOPED_TRACE(kernels->name);
    const auto run = [&](Executor executor) {
      return c.run([&](const AttentionParams& p) {
        return InvariantLauncher(*kernels, executor, nullptr).launch(p, Way::kWhole);
      });
    };
    const Result alone = run(Executor());
    c.expect_matches_reference(alone);
    for (const NamedExecutor& e : all_executors()) expect_same_bits(alone, run(e.executor), e.name);
  }
}

// bf16_weights changes bf16 queries, K and V on a target with a bf16 dot product, and nothing else.
TEST(Bf16Weights, RoundOnlyWhereTheyMeetBf16) {
  for (const int32_t v_dtype : {RADIX_BF16, RADIX_F16}) {
    Shape s;
    s.prefill = true;
    s.seqs = {{300, 300}, {77, 5}, {33, 1}};
    s.q_dtype = s.k_dtype = RADIX_BF16;
    s.v_dtype = v_dtype;
    s.v_offset = 1.f;
    s.compute_dtype = v_dtype == RADIX_BF16 ? RADIX_BF16 : RADIX_F32;
    AttentionCase c(s, 21);
    for (const CpuKernels* kernels : runnable_targets()) {
      SCOPED_TRACE(kernels->name);
      const auto run = [&](bool weights) {
        return c.run([&](AttentionParams p) {
          p.bf16_weights = weights;
          Executor executor;
          return AttentionCase::launch(*kernels, p, executor);
        });
      };
      const Result rounded = run(true), exact = run(false);
      c.expect_matches_reference(rounded);
      const bool may = kernels->target == RADIX_CPU_AVX512_BF16 && v_dtype == RADIX_BF16;
      EXPECT_EQ(rounded.raw_out == exact.raw_out, !may);
      EXPECT_TRUE(rounded.raw_lse == exact.raw_lse);  // sums take weights as they are
    }
  }
}

}  // namespace
}  // namespace radixattn::test
