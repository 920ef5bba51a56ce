// What launches get from a plan whose backend takes work lists: a context with a backend of the
// test's own, which says what it takes and keeps what it is given.
#include <gtest/gtest.h>

#include "../api/plan_support.h"
#include "api/plan.h"
#include "radix_list_check.h"

namespace radixattn {
namespace {

using api_test::Plan;
using api_test::plan_config;
using api_test::range;
using api_test::sized;
using api_test::tensor;

// The CPU's in everything but lists and attention.
class ListBackend final : public Backend {
 public:
  explicit ListBackend(Backend* cpu) : cpu_(*cpu) {
    limits.max_items = 64;
    limits.max_states = 256;
    limits.max_terms = 64;
    limits.wide_rows = 32;
    limits.panel_rows = 8;
    limits.costs = {4.f, 1.f, 0.f, 1.f, 1.f, 0.1f, 2.f};
    limits.workspace_bytes = 12345;
  }
  RadixLimits limits;
  AttentionParams given;
  bool bounds_invariant = false;

  RadixLimits radix_limits(const AttentionParams& p) const override {
    const_cast<ListBackend*>(this)->bounds_invariant = p.batch_invariant;
    return limits;
  }
  radix_status decode(const AttentionParams& p, radix_stream) override {
    given = p;
    return RADIX_OK;
  }
  radix_status prefill(const AttentionParams& p, radix_stream) override {
    given = p;
    return RADIX_OK;
  }

  radix_status attention_workspace(const AttentionParams& p, bool prefill,
                                   uint64_t* bytes) const override {
    return cpu_.attention_workspace(p, prefill, bytes);
  }
  radix_status rope_append(const RopeAppendParams& p, radix_stream s) override {
    return cpu_.rope_append(p, s);
  }
  radix_status merge_states(const MergeParams& p, radix_stream s) override {
    return cpu_.merge_states(p, s);
  }
  DecodeListSize decode_list_size(const AttentionParams& p) const override {
    return cpu_.decode_list_size(p);
  }
  radix_status check_not_capturing(radix_stream s) override { return cpu_.check_not_capturing(s); }
  radix_status build_step(const StepParams& p, radix_stream s) override {
    return cpu_.build_step(p, s);
  }
  radix_status match_batch(const MatchParams& p, radix_stream s) override {
    return cpu_.match_batch(p, s);
  }
  uint64_t sample_workspace(const SampleParams& p) const override {
    return cpu_.sample_workspace(p);
  }
  radix_status sample(const SampleParams& p, radix_stream s) override { return cpu_.sample(p, s); }
  uint64_t verify_workspace(const VerifyParams& p) const override {
    return cpu_.verify_workspace(p);
  }
  radix_status verify(const VerifyParams& p, radix_stream s) override { return cpu_.verify(p, s); }
  radix_status rms_norm(const NormParams& p, radix_stream s) override {
    return cpu_.rms_norm(p, s);
  }
  uint64_t gemm_workspace(const GemmParams& p) const override { return cpu_.gemm_workspace(p); }
  radix_status gemm(const GemmParams& p, radix_stream s) override { return cpu_.gemm(p, s); }
  radix_status copy_blocks(const KvBlocks& kv, const int32_t* pairs, uint32_t n,
                           radix_stream s) override {
    return cpu_.copy_blocks(kv, pairs, n, s);
  }
  radix_status copy_tokens(const KvBlocks& kv, int32_t src, int32_t dst, uint32_t n,
                           radix_stream s) override {
    return cpu_.copy_tokens(kv, src, dst, n, s);
  }
  radix_status zero_blocks(const KvBlocks& kv, const int32_t* blocks, uint32_t n,
                           radix_stream s) override {
    return cpu_.zero_blocks(kv, blocks, n, s);
  }
  radix_status swap_out(const KvBlocks& kv, const int32_t* blocks, uint32_t n, void* host,
                        radix_stream s) override {
    return cpu_.swap_out(kv, blocks, n, host, s);
  }
  radix_status swap_in(const KvBlocks& kv, const int32_t* blocks, uint32_t n, const void* host,
                       radix_stream s) override {
    return cpu_.swap_in(kv, blocks, n, host, s);
  }

 private:
  Backend& cpu_;
};

class PlanLists : public testing::Test {
 protected:
  PlanLists() : ctx_(api_test::small_config(256, 4)), backend_(pointer()->backend) {
    cpu_ = pointer()->backend;
    pointer()->backend = &backend_;
  }
  ~PlanLists() override { pointer()->backend = cpu_; }

  radix_ctx* pointer() { return ctx_; }
  // n requests of `shared` common tokens and some of their own.
  std::vector<radix_req> family(int n, int32_t shared) {
    const radix_req first = ctx_.start(range(0, shared));
    ctx_.commit(first);
    std::vector<radix_req> reqs;
    for (int i = 0; i < n; ++i) {
      api_test::Tokens t = range(0, shared);
      for (int32_t k = 0; k < 5 + i; ++k) t.push_back(1000 * (i + 1) + k);
      reqs.push_back(ctx_.start(t));
    }
    return reqs;
  }
  radix_attn launch(const Plan& plan, uint32_t flags = 0, uint32_t heads = 4,
                    bool with_list = true) {
    radix_attn a = plan.attn();
    a.flags |= flags;
    if (!with_list) a.plan = nullptr;
    const int64_t rows = a.cu_q_lens != nullptr ? a.cu_q_lens[a.num_seqs] : int64_t{a.num_seqs};
    q_.assign(static_cast<size_t>(rows) * heads * 32, 0.f);
    out_ = q_;
    a.q = tensor(q_.data(), RADIX_F32, {rows, heads, 32});
    a.out = tensor(out_.data(), RADIX_F32, {rows, heads, 32});
    backend_.given = AttentionParams();
    EXPECT_OK(a.cu_q_lens != nullptr ? radix_prefill_launch(ctx_, &a, nullptr)
                                     : radix_paged_attention_launch(ctx_, &a, nullptr));
    return a;
  }
  // What is wrong with the list that the last launch got, for these requests.
  std::string check(const std::vector<radix_req>& reqs, const std::vector<int32_t>* q_lens,
                    bool batch_invariant = false) {
    const RadixList& r = backend_.given.radix;
    CheckedStep step;
    for (const radix_req req : reqs) {
      step.tables.push_back(ctx_.row(req));
      step.context_lens.push_back(static_cast<int32_t>(ctx_.info(req).num_tokens));
    }
    if (q_lens != nullptr) step.q_lens = *q_lens;
    step.block_size = 4;
    step.group = 2;
    step.batch_invariant = batch_invariant;
    CheckedList list;
    list.sizes = *r.sizes;
    list.items.assign(r.items, r.items + r.sizes->num_items);
    list.rows.assign(r.rows, r.rows + r.sizes->num_rows);
    list.merges.assign(r.merges, r.merges + backend_.given.num_seqs);
    list.terms.assign(r.terms, r.terms + backend_.limits.max_terms);
    return ListChecker(step, list, backend_.limits).check();
  }

  api_test::Ctx ctx_;
  Backend* cpu_;
  ListBackend backend_;
  std::vector<float> q_, out_;
};

TEST_F(PlanLists, WhatIsSharedIsALaunchesList) {
  const std::vector<radix_req> reqs = family(6, 200);
  Plan plan(ctx_, plan_config(8, 40));
  ASSERT_OK(plan.update(reqs, nullptr));
  launch(plan);
  const RadixList& r = backend_.given.radix;
  ASSERT_NE(r.sizes, nullptr);
  EXPECT_EQ(check(reqs, nullptr), "");
  EXPECT_TRUE(r.has_merges);
  EXPECT_EQ(r.max_items, 64u);
  EXPECT_EQ(r.max_states, 256u);
  EXPECT_EQ(r.max_terms, 64u);
  EXPECT_EQ(plan.info().num_nodes, 1u);
  EXPECT_EQ(plan.info().num_shared, 1u);
  EXPECT_EQ(plan.info().tokens_seen - plan.info().tokens_read, 5u * 200);
  EXPECT_EQ(plan.info().num_items, static_cast<uint32_t>(r.sizes->num_items));
  for (int i = 0; i < 10; ++i) {  // steps that patch it
    for (const radix_req req : reqs) ASSERT_EQ(ctx_.append(req, {i}).status, RADIX_OK);
    ASSERT_OK(plan.update(reqs, nullptr));
    launch(plan);
    ASSERT_EQ(check(reqs, nullptr), "");
  }
  const std::vector<int32_t> q_lens = {2, 1, 0, 7, 3, 4};
  ASSERT_OK(plan.update(reqs, &q_lens));
  launch(plan);
  ASSERT_NE(backend_.given.radix.sizes, nullptr);
  EXPECT_EQ(check(reqs, &q_lens), "");
}

TEST_F(PlanLists, WhereNothingIsSharedLaunchesGoTheirUsualWay) {
  const std::vector<radix_req> reqs = {ctx_.start(range(0, 90)), ctx_.start(range(100, 150))};
  for (const uint32_t flags : {0u, uint32_t{RADIX_PLAN_BOUNDS}}) {
    Plan plan(ctx_, plan_config(4, 0, flags));
    ASSERT_OK(plan.update(reqs, nullptr));
    launch(plan);
    ASSERT_EQ(backend_.given.radix.sizes != nullptr, flags != 0) << "BOUNDS: a list for each step";
    EXPECT_EQ(plan.info().num_shared, 0u);
    EXPECT_EQ(plan.info().tokens_read, 140u);
    if (flags == 0) continue;
    EXPECT_EQ(check(reqs, nullptr), "");
    EXPECT_TRUE(backend_.given.radix.has_merges);
    EXPECT_EQ(backend_.given.radix.merges[3].first_row, -1) << "padding";
  }
}

TEST_F(PlanLists, UnsharedPlansHaveNone) {
  const std::vector<radix_req> reqs = family(6, 200);
  Plan plan(ctx_, plan_config(8, 0, RADIX_PLAN_UNSHARED | RADIX_PLAN_BOUNDS));
  ASSERT_OK(plan.update(reqs, nullptr));
  launch(plan);
  EXPECT_EQ(backend_.given.radix.sizes, nullptr);
  EXPECT_EQ(plan.info().num_shared, 0u);
  EXPECT_EQ(plan.info().tokens_read, plan.info().tokens_seen);
}

TEST_F(PlanLists, BatchInvariantPlansAlwaysHaveOne) {
  const std::vector<radix_req> reqs = family(6, 600);
  for (const uint32_t more : {0u, uint32_t{RADIX_PLAN_UNSHARED}}) {
    Plan plan(ctx_, plan_config(8, 60, RADIX_PLAN_BATCH_INVARIANT | more));
    EXPECT_TRUE(backend_.bounds_invariant);
    ASSERT_OK(plan.update(reqs, nullptr));
    launch(plan);
    ASSERT_NE(backend_.given.radix.sizes, nullptr);
    EXPECT_TRUE(backend_.given.batch_invariant);
    EXPECT_EQ(check(reqs, nullptr, true), "");
    EXPECT_EQ(plan.info().num_shared, more == 0 ? 1u : 0u);
    const std::vector<int32_t> q_lens = {2, 1, 0, 7, 3, 4};
    ASSERT_OK(plan.update(reqs, &q_lens));
    launch(plan);
    ASSERT_NE(backend_.given.radix.sizes, nullptr);
    EXPECT_EQ(check(reqs, &q_lens, true), "");
  }
}

// Those that name the plan are refused (tests/api/plan_test.cpp).
TEST_F(PlanLists, LaunchesOfOtherHeadsTakeThePlansArraysWithoutItsList) {
  const std::vector<radix_req> reqs = family(6, 200);
  Plan plan(ctx_, plan_config(8));
  ASSERT_OK(plan.update(reqs, nullptr));
  const radix_attn a = launch(plan, 0, 8, false);
  EXPECT_EQ(backend_.given.num_q_heads, 8u);
  EXPECT_EQ(backend_.given.context_lens, a.context_lens);
  EXPECT_EQ(backend_.given.radix.sizes, nullptr) << "its rows are those of four heads";
  launch(plan, 0, 4);
  EXPECT_NE(backend_.given.radix.sizes, nullptr);
}

TEST_F(PlanLists, TheListHasItsRoomAndItsWorkspace) {
  Plan plan(ctx_, plan_config(8, 2000));
  ASSERT_OK(plan.update({}, nullptr));
  EXPECT_GE(plan.attn().workspace_size, 12345u);
  radix_attn a = plan.attn();
  a.q = tensor(nullptr, RADIX_F32, {0, 4, 32});
  uint64_t bytes = 0;
  EXPECT_OK(radix_attn_workspace(ctx_, &a, &bytes));
  EXPECT_GE(bytes, 12345u);
  const radix_plan* p = plan;
  EXPECT_EQ(p->shape.max_radix_items, 8u + 2000 * 2 / 32) << "an item for any 32 rows";
}

TEST_F(PlanLists, AStepOfNoSequences) {
  Plan plan(ctx_, plan_config(2, 0, RADIX_PLAN_BOUNDS));
  ASSERT_OK(plan.update({}, nullptr));
  launch(plan);
  ASSERT_NE(backend_.given.radix.sizes, nullptr);
  EXPECT_EQ(backend_.given.radix.sizes->num_items, 0);
  EXPECT_EQ(backend_.given.radix.merges[0].first_row, -1);
}

}  // namespace
}  // namespace radixattn
