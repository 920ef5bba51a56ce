// Whole steps with K/V: what comes out with the cache equals naive attention over all tokens.
//
// The "model" is a function of (token, position, layer): q, k and v of a token are pseudo-random,
// so that a wrong block, slot, position or layer shows. Two layers, 4 query heads on 2 KV heads,
// head dim 32, RoPE over 16 of 32 elements.
#include "api_support.h"

namespace api_test {
namespace {

constexpr uint32_t kLayers = 2, kQ = 4, kKv = 2, kDim = 32, kRotary = 16;

std::vector<float> project(uint32_t what, uint32_t layer, const Tokens& t, uint32_t heads) {
  std::vector<float> rows(t.size() * heads * kDim);
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto token = static_cast<uint32_t>(t[i / (heads * kDim)]);
    rows[i] = value(what * 97 + layer * 31 + token * 7, static_cast<uint32_t>(i % (heads * kDim)));
  }
  return rows;
}

std::vector<double> rotate(const float* head, uint32_t position) {
  std::vector<double> r(head, head + kDim);
  for (uint32_t i = 0; i < kRotary / 2; ++i) {
    const double angle = position * std::pow(10000.0, -2.0 * i / kRotary);
    const double x = head[i], y = head[i + kRotary / 2];
    r[i] = x * std::cos(angle) - y * std::sin(angle);
    r[i + kRotary / 2] = y * std::cos(angle) + x * std::sin(angle);
  }
  return r;
}

// [n - first, kQ, kDim]: attention of tokens [first, n) of t over all of t, in double.
std::vector<double> naive(uint32_t layer, const Tokens& t, size_t first) {
  const std::vector<float> q = project(0, layer, t, kQ), k = project(1, layer, t, kKv),
                           v = project(2, layer, t, kKv);
  std::vector<double> out;
  for (size_t p = first; p < t.size(); ++p) {
    for (uint32_t h = 0; h < kQ; ++h) {
      const uint32_t g = h / (kQ / kKv);
      const std::vector<double> query = rotate(&q[(p * kQ + h) * kDim], static_cast<uint32_t>(p));
      std::vector<double> w(p + 1), sum(kDim);
      double total = 0;
      for (size_t j = 0; j <= p; ++j) {
        const std::vector<double> key = rotate(&k[(j * kKv + g) * kDim], static_cast<uint32_t>(j));
        double dot = 0;
        for (uint32_t d = 0; d < kDim; ++d) dot += query[d] * key[d];
        total += w[j] = std::exp(dot / std::sqrt(double{kDim}));
      }
      for (size_t j = 0; j <= p; ++j) {
        for (uint32_t d = 0; d < kDim; ++d) sum[d] += w[j] / total * v[(j * kKv + g) * kDim + d];
      }
      out.insert(out.end(), sum.begin(), sum.end());
    }
  }
  return out;
}

// K/V of dtype t are off by half a unit in the last place, values and weights are below 1 in size.
double tolerance(int32_t dtype) {
  return dtype == RADIX_F32 ? 2e-5 : dtype == RADIX_F16 ? 4e-3 : 3e-2;
}

class Engine {
 public:
  explicit Engine(int32_t dtype = RADIX_F32, int32_t layout = RADIX_LAYOUT_NHD,
                  uint32_t num_blocks = 32)
      : dtype_(dtype), ctx_(config(dtype, layout, num_blocks)) {}

  Ctx& ctx() { return ctx_; }

  // Appends the tokens of `t` that the request lacks, computes rows [from, t.size()) and checks
  // them.
  void run(radix_req r, const Tokens& t, size_t from) {
    const auto have = static_cast<int64_t>(ctx_.info(r).num_tokens);
    const Ctx::Appended a = ctx_.append(r, Tokens(t.begin() + have, t.end()));
    ASSERT_EQ(a.status, RADIX_OK) << last_error();
    ASSERT_OK(radix_run_ops(ctx_, a.ops.data(), static_cast<uint32_t>(a.ops.size()), nullptr));
    compute(r, t, from);
  }

  // Rows [from, t.size()) of a request that holds t: through the slots that its table names.
  void compute(radix_req r, const Tokens& t, size_t from) {
    const std::vector<int32_t> row = ctx_.row(r);
    const Tokens fresh(t.begin() + static_cast<int64_t>(from), t.end());
    std::vector<int64_t> slots;
    std::vector<int32_t> positions;
    for (size_t p = from; p < t.size(); ++p) {
      slots.push_back(int64_t{row[p / 4]} * 4 + static_cast<int64_t>(p % 4));
      positions.push_back(static_cast<int32_t>(p));
    }
    for (uint32_t layer = 0; layer < kLayers; ++layer) {
      const std::vector<float> out =
          layer_output(layer, fresh, slots, positions, row, static_cast<int32_t>(t.size()));
      const std::vector<double> expected = naive(layer, t, from);
      ASSERT_EQ(out.size(), expected.size());
      for (size_t i = 0; i < out.size(); ++i) {
        ASSERT_NEAR(out[i], expected[i], tolerance(dtype_))
            << "layer " << layer << " element " << i;
      }
    }
  }

 private:
  static radix_config config(int32_t dtype, int32_t layout, uint32_t num_blocks) {
    radix_config c = small_config(num_blocks, 4);
    c.kv_dtype = dtype;
    c.kv_layout = layout;
    return c;
  }

  std::vector<float> layer_output(uint32_t layer, const Tokens& fresh,
                                  const std::vector<int64_t>& slots,
                                  const std::vector<int32_t>& positions,
                                  const std::vector<int32_t>& row, int32_t context_len) {
    const auto n = static_cast<int64_t>(fresh.size());
    std::vector<float> q = project(0, layer, fresh, kQ), k = project(1, layer, fresh, kKv),
                       v = project(2, layer, fresh, kKv), out(q.size(), NAN);
    radix_rope_append p = sized<radix_rope_append>();
    p.layer = layer;
    p.rotary_dim = kRotary;
    p.q = tensor(q.data(), RADIX_F32, {n, kQ, kDim});
    p.k = tensor(k.data(), RADIX_F32, {n, kKv, kDim});
    p.v = tensor(v.data(), RADIX_F32, {n, kKv, kDim});
    p.slots = slots.data();
    p.positions = positions.data();
    p.num_tokens = fresh.size();
    EXPECT_OK(radix_rope_append_launch(ctx_, &p, nullptr));
    const int32_t cu[2] = {0, static_cast<int32_t>(n)};
    radix_attn a = sized<radix_attn>();
    a.layer = layer;
    a.num_seqs = 1;
    a.max_context_len = static_cast<uint32_t>(context_len);
    a.max_query_len = n == 1 ? 1 : static_cast<uint32_t>(n);
    a.q = p.q;
    a.out = tensor(out.data(), RADIX_F32, {n, kQ, kDim});
    a.block_tables = row.data();
    a.block_table_stride = static_cast<int64_t>(row.size());
    a.context_lens = &context_len;
    a.cu_q_lens = n == 1 ? nullptr : cu;  // one row: decode
    EXPECT_OK(radix_attn_workspace(ctx_, &a, &a.workspace_size));
    void* workspace = std::aligned_alloc(64, (a.workspace_size + 64) / 64 * 64);
    a.workspace = workspace;
    EXPECT_OK(n == 1 ? radix_paged_attention_launch(ctx_, &a, nullptr)
                     : radix_prefill_launch(ctx_, &a, nullptr));
    std::free(workspace);
    return out;
  }

  int32_t dtype_;
  Ctx ctx_;
};

struct Kind {
  int32_t dtype, layout;
};
class Step : public ::testing::TestWithParam<Kind> {};

TEST_P(Step, ASecondRequestComputesItsTailOnly) {
  Engine e(GetParam().dtype, GetParam().layout);
  const Tokens first = range(0, 11);
  const radix_req a = e.ctx().begin(first);
  e.run(a, first, 0);
  e.ctx().commit(a);
  Tokens second = range(0, 9);
  second.insert(second.end(), {90, 91, 92});
  const radix_req b = e.ctx().begin(second);
  const size_t cached = e.ctx().info(b).cached_tokens;
  EXPECT_EQ(cached, 8u);
  e.run(b, second, cached);
  for (int32_t i = 0; i < 6; ++i) {  // decode, over block edges
    second.push_back(200 + i);
    e.run(b, second, second.size() - 1);
  }
}

TEST_P(Step, AFullHitCopiesItsLastBlockAndLeavesTheCachedOneAlone) {
  Engine e(GetParam().dtype, GetParam().layout);
  const Tokens t = range(0, 8);
  const radix_req a = e.ctx().begin(t);
  e.run(a, t, 0);
  e.ctx().commit(a);
  const radix_req b = e.ctx().begin(t);
  EXPECT_EQ(e.ctx().info(b).cached_tokens, 7u);
  e.run(b, t, 7);
  Tokens other = range(0, 7);
  other.push_back(555);
  const radix_req c = e.ctx().begin(other);
  EXPECT_EQ(e.ctx().info(c).cached_tokens, 4u);
  e.run(c, other, 4);
  e.compute(a, t, 6);
}

TEST_P(Step, ForksDivergeWithoutSeeingEachOther) {
  Engine e(GetParam().dtype, GetParam().layout);
  const Tokens t = range(0, 6);
  const radix_req parent = e.ctx().begin(t);
  e.run(parent, t, 0);
  radix_req children[2];
  ASSERT_OK(radix_fork(e.ctx(), parent, 2, children));
  Tokens of[3] = {t, t, t};
  const radix_req all[3] = {parent, children[0], children[1]};
  for (int32_t step = 0; step < 5; ++step) {
    for (int32_t i = 0; i < 3; ++i) {
      of[i].push_back(1000 * (i + 1) + step);
      e.run(all[i], of[i], of[i].size() - 1);
    }
  }
  ASSERT_OK(radix_truncate(e.ctx(), children[0], 5));
  of[1].resize(5);
  of[1].push_back(77);
  e.run(children[0], of[1], 5);
  of[2].push_back(78);
  e.run(children[1], of[2], of[2].size() - 1);
}

INSTANTIATE_TEST_SUITE_P(DtypesAndLayouts, Step,
                         ::testing::Values(Kind{RADIX_F32, RADIX_LAYOUT_NHD},
                                           Kind{RADIX_F32, RADIX_LAYOUT_HND},
                                           Kind{RADIX_F16, RADIX_LAYOUT_NHD},
                                           Kind{RADIX_BF16, RADIX_LAYOUT_HND}));

TEST(StepDuplicates, BothModesComputeTheSame) {
  for (const uint32_t flags : {0u, uint32_t{RADIX_BEGIN_REMAP_DUPLICATES}}) {
    Engine e;
    const Tokens t = range(0, 9);
    const radix_req a = e.ctx().begin(t), b = e.ctx().begin(t, flags);
    e.run(a, t, 0);
    e.run(b, t, 0);
    e.ctx().commit(a);
    radix_remap remaps[4];
    radix_commit_out out = sized<radix_commit_out>();
    out.remaps = remaps;
    out.remaps_cap = 4;
    const radix_commit_item item = {b, 9};
    ASSERT_OK(radix_commit(e.ctx(), &item, 1, &out));
    EXPECT_EQ(out.num_duplicates, 2u);
    EXPECT_EQ(out.num_remaps, flags != 0 ? 2u : 0u);
    EXPECT_EQ(e.ctx().row(b)[0] == e.ctx().row(a)[0], flags != 0);
    Tokens longer = t;
    longer.push_back(50);
    e.run(b, longer, 9);
  }
}

TEST(StepSharing, TwoRequestsOfOneStepComputeTheirCommonPartOnce) {
  Engine e;
  const Tokens first = range(0, 10);
  const radix_req lender = e.ctx().start(first);
  Tokens second = range(0, 8);
  second.insert(second.end(), {70, 71});
  const radix_req borrower = e.ctx().begin(second, RADIX_BEGIN_SHARE_PENDING);
  EXPECT_EQ(e.ctx().info(borrower).ready_tokens, 8u);
  e.compute(lender, first, 0);  // layer by layer in an engine; here the lender's layers come first
  e.run(borrower, second, 8);
}

TEST(StepSharing, ABorrowerComputesItselfWhenItsLenderEnds) {
  Engine e;
  const radix_req lender = e.ctx().start(range(0, 10));
  const Tokens t = range(0, 11);
  const radix_req borrower = e.ctx().begin(t, RADIX_BEGIN_SHARE_PENDING);
  EXPECT_EQ(e.ctx().info(borrower).ready_tokens, 8u);
  e.ctx().free(lender);
  EXPECT_EQ(e.ctx().info(borrower).ready_tokens, 0u);
  e.run(borrower, t, 0);
}

TEST(StepEviction, WhatIsComputedAfterEvictionIsRight) {
  Engine e(RADIX_F32, RADIX_LAYOUT_NHD, 8);  // 32 tokens
  for (int32_t round = 0; round < 12; ++round) {
    Tokens t = range(0, 5);  // shared
    const Tokens own = range(100 * round, 100 * round + 9);
    t.insert(t.end(), own.begin(), own.end());
    const radix_req r = e.ctx().begin(t);
    e.run(r, t, e.ctx().info(r).cached_tokens);
    e.ctx().commit(r);
    e.ctx().free(r);
  }
  EXPECT_GT(e.ctx().stats().blocks_evicted, 0u);
  EXPECT_GT(e.ctx().stats().tokens_hit, 0u);
}

}  // namespace
}  // namespace api_test
