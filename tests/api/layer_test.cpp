// The attention layer through the C API: against its definition in double, and against itself, bit
// for bit, in every form in which a step can be given.
#include "layer_support.h"
#include "plan_support.h"

namespace api_test {
namespace {

// A prompt, a second one that shares its blocks, and steps of both kinds at once.
void run_steps(const ModelShape& shape) {
  Model model(shape);
  LayerEngine e(&model);
  const Tokens first = range(0, 11);
  const radix_req a = e.ctx().begin(first);
  std::unique_ptr<Step> s = e.run({}, {{a, first}});
  e.expect_rows(*s, 0, first, 0);
  e.ctx().commit(a);
  Tokens second = range(0, 9);
  second.insert(second.end(), {90, 91, 92, 93});
  const radix_req b = e.ctx().begin(second);
  ASSERT_EQ(e.ctx().info(b).cached_tokens, 8u);
  const Tokens longer = plus(first, 50);
  s = e.run({{a, longer}}, {{b, second}});  // mixed
  e.expect_rows(*s, 0, longer, first.size());
  e.expect_rows(*s, 1, second, 8);
  const Tokens longest = plus(longer, 51), third = plus(second, 52);
  s = e.run({{a, longest}, {b, third}}, {});
  e.expect_rows(*s, 0, longest, longer.size());
  e.expect_rows(*s, 1, third, second.size());
}

TEST(Layer, EveryCombinationOfWeights) {
  for (uint32_t bits = 0; bits < 64; ++bits) {
    SCOPED_TRACE(bits);
    ModelShape s;
    s.fused = (bits & 1) != 0;
    s.bias = (bits & 2) != 0;
    s.norm = (bits & 4) != 0;
    s.head_norms = (bits & 8) != 0;
    if ((bits & 16) != 0) s.flags |= RADIX_LAYER_ADD;
    if ((bits & 32) != 0) s.flags |= RADIX_LAYER_NORM_PLUS_ONE;
    s.weight_gap = bits % 3;
    run_steps(s);
    if (HasFatalFailure()) return;
  }
}

TEST(Layer, EveryGroupAndHeadDim) {
  struct Heads {
    uint32_t q, kv, dim, dim_v, rotary;
  };
  for (const Heads h : {Heads{1, 1, 32, 32, 0}, Heads{6, 2, 40, 40, 40}, Heads{5, 5, 64, 32, 64},
                        Heads{8, 1, 32, 72, 8}, Heads{9, 3, 96, 128, 48}}) {
    ModelShape s;
    s.q_heads = h.q;
    s.kv_heads = h.kv;
    s.dim = h.dim;
    s.dim_v = h.dim_v;
    s.rotary = h.rotary;
    s.norm = s.bias = true;
    s.hidden = 37;
    SCOPED_TRACE(h.dim);
    run_steps(s);
  }
}

TEST(Layer, EveryDtype) {
  for (const int32_t x : {RADIX_F32, RADIX_F16, RADIX_BF16}) {
    for (const int32_t weight : {RADIX_F32, RADIX_F16, RADIX_BF16}) {
      for (const int32_t kv : {RADIX_F32, RADIX_F16}) {
        SCOPED_TRACE(::testing::Message() << x << " " << weight << " " << kv);
        ModelShape s;
        s.x = x;
        s.weight = weight;
        s.kv = kv;
        s.norm = s.bias = s.head_norms = true;
        s.flags = RADIX_LAYER_ADD;
        run_steps(s);
      }
    }
  }
}

TEST(Layer, AWindow) {
  ModelShape s;
  s.window = 5;
  run_steps(s);
}

TEST(Layer, TheLibrarysThreadsChangeNoBit) {
  ModelShape s;
  s.norm = s.bias = s.fused = true;
  s.hidden = 160;
  Model one(s);
  s.threads = 3;
  Model three(s);
  LayerEngine a(&one), b(&three);
  const Tokens t = range(0, 70);
  const std::unique_ptr<Step> x = a.run({}, {{a.ctx().begin(t), t}});
  const std::unique_ptr<Step> y = b.run({}, {{b.ctx().begin(t), t}});
  a.expect_rows(*x, 0, t, 0);
  EXPECT_TRUE(same_bits(x->y, 0, y->y, 0, 70));
}

// Two engines on the same steps, of which the second one's are changed.
struct Twins {
  explicit Twins(const ModelShape& s, const ModelShape& t) : ma(s), mb(t), a(&ma), b(&mb) {}
  explicit Twins(const ModelShape& s) : Twins(s, s) {}
  Model ma, mb;
  LayerEngine a, b;

  void both(const std::vector<Job>& decode, const std::vector<Job>& prefill) {
    a.run(decode, prefill);
    b.run(decode, prefill);
  }
  radix_req begin(const Tokens& t) {
    const radix_req r = a.ctx().begin(t);
    EXPECT_EQ(r, b.ctx().begin(t));
    return r;
  }
};

ModelShape full_shape() {
  ModelShape s;
  s.norm = s.bias = s.head_norms = true;
  return s;
}

TEST(Layer, FusedWeightsGiveTheBitsOfSeparateOnes) {
  ModelShape fused = full_shape();
  fused.fused = true;
  Twins t(full_shape(), fused);
  const Tokens p = range(0, 13);
  const radix_req r = t.begin(p);
  EXPECT_TRUE(same_bits(t.a.run({}, {{r, p}})->y, 0, t.b.run({}, {{r, p}})->y, 0, 13));
  const Tokens more = plus(p, 40);
  EXPECT_TRUE(same_bits(t.a.run({{r, more}}, {})->y, 0, t.b.run({{r, more}}, {})->y, 0, 1));
}

TEST(Layer, AMixedStepGivesTheBitsOfTwoCalls) {
  Twins t(full_shape());
  const Tokens p = range(0, 9), q = range(20, 37), u = range(60, 65);
  const radix_req a = t.begin(p), b = t.begin(q), c = t.begin(u);
  t.both({}, {{a, p}});
  t.both({}, {{b, q}});
  const std::unique_ptr<Step> mixed = t.a.run({{a, plus(p, 70)}, {b, plus(q, 71)}}, {{c, u}});
  const std::unique_ptr<Step> decode = t.b.run({{a, plus(p, 70)}, {b, plus(q, 71)}}, {});
  const std::unique_ptr<Step> prefill = t.b.run({}, {{c, u}});
  EXPECT_TRUE(same_bits(mixed->y, 0, decode->y, 0, 2));
  EXPECT_TRUE(same_bits(mixed->y, 2, prefill->y, 0, 5));
}

TEST(Layer, AChunkedPromptGivesTheBitsOfAWholeOne) {
  Twins t(full_shape());
  const Tokens p = range(0, 90);
  const radix_req r = t.begin(p);
  const std::unique_ptr<Step> whole = t.a.run({}, {{r, p}});
  uint32_t row = 0;
  for (const int32_t end : {7, 8, 40, 90}) {
    const Tokens part = range(0, end);
    const std::unique_ptr<Step> chunk = t.b.run({}, {{r, part}});
    EXPECT_TRUE(same_bits(whole->y, row, chunk->y, 0, chunk->y.rows)) << "to " << end;
    row += chunk->y.rows;
  }
}

TEST(Layer, ACachedPrefixChangesNoBit) {
  ModelShape s = full_shape();
  Model model(s);
  LayerEngine e(&model), fresh(&model);
  const Tokens p = range(0, 30);
  const radix_req first = e.ctx().begin(p);
  e.run({}, {{first, p}});
  e.ctx().commit(first);
  const Tokens q = plus(plus(range(0, 26), 80), 81);
  const radix_req b = e.ctx().begin(q), c = fresh.ctx().begin(q);
  ASSERT_EQ(e.ctx().info(b).cached_tokens, 24u);
  const std::unique_ptr<Step> cached = e.run({}, {{b, q}});
  const std::unique_ptr<Step> all = fresh.run({}, {{c, q}});
  EXPECT_TRUE(same_bits(all->y, 24, cached->y, 0, 4));
}

// K and V of the whole step are written before anybody attends: decode comes first, and here it
// reads what prefill's rows write.
TEST(Layer, ARowMaySeeTokensThatTheSameStepComputes) {
  Model model(full_shape());
  LayerEngine e(&model);
  const Tokens p = range(0, 9), q = plus(range(0, 8), 80);
  const radix_req lender = e.ctx().begin(p);
  const std::unique_ptr<Step> lends = e.prepare({}, {{lender, p}});
  const radix_req borrower = e.ctx().begin(q, RADIX_BEGIN_SHARE_PENDING);
  ASSERT_EQ(e.ctx().info(borrower).pending_tokens, 8u);
  const std::unique_ptr<Step> step = e.prepare({{borrower, q}}, {});
  Matrix x(RADIX_F32, 10, model.shape.hidden), y(RADIX_F32, 10, model.shape.hidden);
  for (uint32_t r = 0; r < 10; ++r) {
    for (uint32_t i = 0; i < x.columns; ++i)
      x.numbers.set(x.index(r, i), r == 0 ? step->x.get(0, i) : lends->x.get(r - 1, i));
  }
  step->x = x;
  step->y = y;
  step->d.x = step->x.matrix();
  step->d.y = step->y.matrix();
  step->d.prefill = &lends->prefill.attn;
  step->d.prefill_rope = &lends->prefill.rope;
  e.give_workspace(step.get());
  e.launch(step.get());
  e.expect_rows(*step, 0, q, 8);
  e.expect_rows(*step, 1, p, 0);
}

TEST(Layer, XItselfMayBeTheResult) {
  for (const uint32_t flags : {0u, uint32_t{RADIX_LAYER_ADD}}) {
    for (const bool norm : {false, true}) {
      ModelShape s;
      s.flags = flags;
      s.norm = norm;
      Twins t(s);
      const Tokens p = range(0, 21);
      const radix_req r = t.begin(p);
      const std::unique_ptr<Step> apart = t.a.run({}, {{r, p}});
      const std::unique_ptr<Step> in_place = t.b.prepare({}, {{r, p}});
      in_place->d.y = in_place->d.x;
      t.b.launch(in_place.get());
      EXPECT_TRUE(same_bits(apart->y, 0, in_place->x, 0, 21));
    }
  }
}

TEST(Layer, APartWithoutSequencesIsNoWork) {
  Twins t(full_shape());
  const Tokens p = range(0, 9);
  const radix_req r = t.begin(p);
  const std::unique_ptr<Step> alone = t.a.run({}, {{r, p}}), step = t.b.prepare({}, {{r, p}});
  step->d.decode = &step->decode.attn;
  step->d.decode_rope = &step->decode.rope;
  t.b.give_workspace(step.get());
  t.b.launch(step.get());
  EXPECT_TRUE(same_bits(alone->y, 0, step->y, 0, 9));
  const Tokens q = plus(p, 70);
  const std::unique_ptr<Step> one = t.a.run({{r, q}}, {}), with = t.b.prepare({{r, q}}, {});
  with->d.prefill = &with->prefill.attn;
  with->d.prefill_rope = &with->prefill.rope;
  t.b.give_workspace(with.get());
  t.b.launch(with.get());
  EXPECT_TRUE(same_bits(one->y, 0, with->y, 0, 1));
}

// ---- plans

TEST(Layer, StepsOfPlansGiveTheBitsOfTables) {
  Twins t(full_shape());
  const Tokens p = range(0, 9), q = range(20, 37), u = range(60, 65);
  const radix_req a = t.begin(p), b = t.begin(q), c = t.begin(u);
  t.both({}, {{a, p}, {b, q}});
  const std::vector<Job> decode = {{a, plus(p, 70)}, {b, plus(q, 71)}}, prefill = {{c, u}};
  const std::unique_ptr<Step> tables = t.a.run(decode, prefill);
  const std::unique_ptr<Step> step = t.b.prepare(decode, prefill);
  Plan of_decode(t.b.ctx(), plan_config(4)), of_prefill(t.b.ctx(), plan_config(2, 16));
  ASSERT_OK(of_decode.update({a, b}, nullptr));
  const std::vector<int32_t> q_lens = {5};
  ASSERT_OK(of_prefill.update({c}, &q_lens));
  radix_attn attn[2] = {of_decode.attn(), of_prefill.attn()};
  radix_rope_append rope[2] = {of_decode.rope(), of_prefill.rope()};
  for (radix_rope_append& r : rope) r.rotary_dim = t.ma.shape.rotary;
  step->d.decode = &attn[0];
  step->d.decode_rope = &rope[0];
  step->d.prefill = &attn[1];
  step->d.prefill_rope = &rope[1];
  t.b.give_workspace(step.get());
  t.b.launch(step.get());
  EXPECT_TRUE(same_bits(tables->y, 0, step->y, 0, 7));
}

// A step of three that decode and two that prefill behind one long beginning, on twins of which
// only the second has plans.
struct SharedStep {
  static constexpr int32_t kShared = 580;

  SharedStep(const ModelShape& s, uint32_t plan_flags)
      : twins(s),
        of_decode(twins.b.ctx(), config(plan_flags, 3)),
        of_prefill(twins.b.ctx(), config(plan_flags, 16)) {
    const Tokens beginning = range(0, kShared);
    const radix_req root = twins.begin(beginning);
    twins.both({}, {{root, beginning}});
    twins.a.ctx().commit(root);
    twins.b.ctx().commit(root);
    for (int32_t i = 0; i < 5; ++i) {
      Tokens t = range(0, kShared);
      for (int32_t j = 0; j < (i < 3 ? 2 : 7); ++j) t.push_back(10 * i + j);
      const radix_req r = twins.begin(t);
      EXPECT_EQ(twins.b.ctx().info(r).cached_tokens, uint64_t{kShared});
      (i < 3 ? decode : prefill).push_back({r, t});
    }
    for (Job& job : decode) {
      const Job first = {job.req, Tokens(job.tokens.begin(), job.tokens.end() - 1)};
      twins.both({}, {first});
    }
  }
  static radix_plan_config config(uint32_t flags, uint32_t rows) {
    radix_plan_config c = plan_config(3, rows, flags);
    c.max_context_len = kShared + 7;
    return c;
  }
  // The second engine's step, by plans. Both parts share: the test is of nothing else.
  std::unique_ptr<Step> prepare() {
    std::unique_ptr<Step> step = twins.b.prepare(decode, prefill);
    const std::vector<int32_t> q_lens = {7, 7};
    EXPECT_OK(of_decode.update({decode[0].req, decode[1].req, decode[2].req}, nullptr));
    EXPECT_OK(of_prefill.update({prefill[0].req, prefill[1].req}, &q_lens));
    EXPECT_EQ(of_decode.info().num_shared, 1u);
    EXPECT_EQ(of_prefill.info().num_shared, 1u);
    parts[0] = of_decode.attn(), parts[1] = of_prefill.attn();
    ropes[0] = of_decode.rope(), ropes[1] = of_prefill.rope();
    for (radix_rope_append& r : ropes) r.rotary_dim = twins.mb.shape.rotary;
    step->d.decode = &parts[0], step->d.decode_rope = &ropes[0];
    step->d.prefill = &parts[1], step->d.prefill_rope = &ropes[1];
    return step;
  }

  Twins twins;
  Plan of_decode, of_prefill;
  std::vector<Job> decode, prefill;
  radix_attn parts[2];
  radix_rope_append ropes[2];
};

ModelShape long_shape(uint32_t threads) {
  ModelShape s = full_shape();
  s.threads = threads;
  s.num_blocks = 300;
  return s;
}

TEST(Layer, PlansThatShareGiveTheSameNumbers) {
  for (const uint32_t threads : {1u, 3u}) {
    SharedStep shared(long_shape(threads), 0);
    const std::unique_ptr<Step> step = shared.prepare();
    shared.twins.b.give_workspace(step.get());
    shared.twins.b.launch(step.get());
    for (uint32_t i = 0; i < 3; ++i) {
      const Tokens& t = shared.decode[i].tokens;
      shared.twins.b.expect_rows(*step, i, t, t.size() - 1);
    }
    for (uint32_t i = 0; i < 2; ++i)
      shared.twins.b.expect_rows(*step, 3 + 7 * i, shared.prefill[i].tokens, SharedStep::kShared);
  }
}

TEST(Layer, BatchInvariantPlansThatShareGiveTheBitsOfTables) {
  for (const uint32_t threads : {1u, 3u}) {
    SharedStep shared(long_shape(threads), RADIX_PLAN_BATCH_INVARIANT);
    const std::unique_ptr<Step> tables = shared.twins.a.prepare(shared.decode, shared.prefill);
    tables->decode.attn.flags = tables->prefill.attn.flags = RADIX_ATTN_BATCH_INVARIANT;
    shared.twins.a.give_workspace(tables.get());
    shared.twins.a.launch(tables.get());
    const std::unique_ptr<Step> step = shared.prepare();
    shared.twins.b.give_workspace(step.get());
    shared.twins.b.launch(step.get());
    EXPECT_TRUE(same_bits(tables->y, 0, step->y, 0, 17));
  }
}

// One size serves every step of the plans: it is that of their bounds.
TEST(Layer, TheWorkspaceOfPlansIsThatOfTheirBounds) {
  SharedStep shared(long_shape(2), 0);
  const std::unique_ptr<Step> step = shared.prepare();
  uint64_t whole = 0, without = 0;
  ASSERT_OK(radix_layer_workspace(shared.twins.b.ctx(), &step->d, &whole));
  for (radix_attn& part : shared.parts) part.plan = nullptr;
  ASSERT_OK(radix_layer_workspace(shared.twins.b.ctx(), &step->d, &without));
  EXPECT_LT(without, whole);
  const Plan fresh(shared.twins.b.ctx(), SharedStep::config(0, 3)),
      fresh_prefill(shared.twins.b.ctx(), SharedStep::config(0, 16));
  uint64_t before = 0;
  shared.parts[0].plan = fresh, shared.parts[1].plan = fresh_prefill;
  ASSERT_OK(radix_layer_workspace(shared.twins.b.ctx(), &step->d, &before));
  EXPECT_EQ(before, whole) << "of plans without a step";
  shared.parts[0].plan = shared.of_decode, shared.parts[1].plan = shared.of_prefill;
  shared.twins.b.give_workspace(step.get());
  step->d.workspace_size = without;
  EXPECT_FAILS(RADIX_E_BUFFER, "workspace_size",
               radix_layer_launch(shared.twins.b.ctx(), &step->d, nullptr));
  const std::vector<int32_t> q_lens = {1};
  ASSERT_OK(shared.of_prefill.update({shared.prefill[0].req}, &q_lens));
  shared.parts[1] = shared.of_prefill.attn();
  shared.ropes[1] = shared.of_prefill.rope();
  shared.ropes[1].rotary_dim = shared.twins.mb.shape.rotary;
  step->x.rows = step->y.rows = 4;
  step->d.x = step->x.matrix(), step->d.y = step->y.matrix();
  uint64_t less = 0;
  ASSERT_OK(radix_layer_workspace(shared.twins.b.ctx(), &step->d, &less));
  EXPECT_LE(less, whole);
}

TEST(Layer, PaddingOfAPlanTouchesNoOtherRow) {
  Twins t(full_shape());
  const Tokens p = range(0, 9);
  const radix_req a = t.begin(p);
  t.both({}, {{a, p}});
  const std::unique_ptr<Step> one = t.a.run({{a, plus(p, 70)}}, {});
  const std::unique_ptr<Step> step = t.b.prepare({{a, plus(p, 70)}}, {});
  Plan plan(t.b.ctx(), plan_config(3, 0, RADIX_PLAN_BOUNDS));
  ASSERT_OK(plan.update({a}, nullptr));
  radix_attn attn = plan.attn();
  radix_rope_append rope = plan.rope();
  rope.rotary_dim = t.ma.shape.rotary;
  Matrix x(RADIX_F32, 3, t.ma.shape.hidden), y(RADIX_F32, 3, t.ma.shape.hidden);
  for (uint32_t i = 0; i < x.columns; ++i) x.numbers.set(i, step->x.get(0, i));
  step->d.x = x.matrix();  // rows behind the first are NaN
  step->d.y = y.matrix();
  step->d.decode = &attn;
  step->d.decode_rope = &rope;
  t.b.give_workspace(step.get());
  t.b.launch(step.get());
  EXPECT_TRUE(same_bits(one->y, 0, y, 0, 1));
}

// ---- the host's product

struct Gemm {
  int calls = 0;
  int fails_at = -1;
  std::vector<radix_gemm> seen;

  static radix_status RADIX_CALL run(void* user, const radix_gemm* g, radix_stream) {
    Gemm& self = *static_cast<Gemm*>(user);
    self.seen.push_back(*g);
    if (self.calls++ == self.fails_at) return RADIX_E_UNSUPPORTED;
    for (int64_t r = 0; r < g->x.shape[0]; ++r) {
      for (int64_t o = 0; o < g->weight.shape[0]; ++o) {
        double sum = g->bias.data != nullptr ? double{at(g->bias, o)} : 0.0;
        for (int64_t k = 0; k < g->x.shape[1]; ++k)
          sum += double{at(g->x, r * g->x.stride[0] + k)} *
                 double{at(g->weight, o * g->weight.stride[0] + k)};
        float& y = at(g->y, r * g->y.stride[0] + o);
        y = static_cast<float>((g->flags & RADIX_GEMM_ADD) != 0 ? sum + double{y} : sum);
      }
    }
    return RADIX_OK;
  }
  static float& at(const radix_tensor& t, int64_t i) { return static_cast<float*>(t.data)[i]; }
};

TEST(Layer, TheHostsProductsAreUsed) {
  for (const bool fused : {false, true}) {
    ModelShape s = full_shape();
    s.fused = fused;
    s.flags = RADIX_LAYER_ADD;
    Model model(s);
    LayerEngine e(&model);
    const Tokens p = range(0, 11);
    const radix_req r = e.ctx().begin(p);
    const std::unique_ptr<Step> step = e.prepare({}, {{r, p}});
    Gemm gemm;
    step->d.gemm = Gemm::run;
    step->d.gemm_user = &gemm;
    e.give_workspace(step.get());
    e.launch(step.get());
    e.expect_rows(*step, 0, p, 0);
    ASSERT_EQ(gemm.calls, fused ? 2 : 4);
    for (const radix_gemm& g : gemm.seen) {
      EXPECT_EQ(g.struct_size, sizeof(radix_gemm));
      EXPECT_EQ(g.flags, &g == &gemm.seen.back() ? uint32_t{RADIX_GEMM_ADD} : 0u);
      for (const radix_tensor* t : {&g.x, &g.weight, &g.y}) {
        EXPECT_EQ(t->device, RADIX_DEV_CPU);
        EXPECT_EQ(t->ndim, 2);
        EXPECT_GE(t->stride[0], t->shape[1]);
        EXPECT_EQ(t->stride[1], 1);
      }
      EXPECT_EQ(g.bias.shape[0], g.weight.shape[0]);
      EXPECT_EQ(g.bias.stride[0], 1);
      EXPECT_EQ(g.bias.device, RADIX_DEV_CPU);
    }
    EXPECT_EQ(gemm.seen.back().weight.data, model.o.numbers.data());
  }
}

TEST(Layer, AFailureOfTheHostsProductIsNamed) {
  const char* const names[] = {"w_q", "w_k", "w_v", "w_o"};
  for (int fails_at = 0; fails_at < 4; ++fails_at) {
    Model model(full_shape());
    LayerEngine e(&model);
    const Tokens p = range(0, 5);
    const std::unique_ptr<Step> step = e.prepare({}, {{e.ctx().begin(p), p}});
    Gemm gemm;
    gemm.fails_at = fails_at;
    step->d.gemm = Gemm::run;
    step->d.gemm_user = &gemm;
    const std::vector<uint8_t> before = step->y.numbers.bytes();
    EXPECT_FAILS(RADIX_E_CALLBACK, names[fails_at], radix_layer_launch(e.ctx(), &step->d, nullptr));
    EXPECT_NE(last_error().find("-8"), std::string::npos) << last_error();
    EXPECT_EQ(gemm.calls, fails_at + 1);
    EXPECT_TRUE(step->y.numbers.bytes() == before);
  }
}

// ---- workspace

TEST(Layer, TheWorkspaceIsAskedForWithoutData) {
  Model model(full_shape());
  LayerEngine e(&model);
  const Tokens p = range(0, 11);
  const std::unique_ptr<Step> step = e.prepare({}, {{e.ctx().begin(p), p}});
  radix_layer d = step->d;
  for (radix_tensor* t : {&d.x, &d.y, &d.norm, &d.w_q, &d.w_k, &d.w_v, &d.w_o, &d.b_q, &d.b_k,
                          &d.b_v, &d.b_o, &d.q_norm, &d.k_norm}) {
    t->data = nullptr;
  }
  radix_attn a = step->prefill.attn;
  a.block_tables = nullptr;
  a.context_lens = nullptr;
  d.prefill = &a;
  d.prefill_rope = nullptr;
  d.workspace = nullptr;
  uint64_t bytes = 0;
  ASSERT_OK(radix_layer_workspace(e.ctx(), &d, &bytes));
  EXPECT_EQ(bytes, step->d.workspace_size);
}

TEST(Layer, TheLargestStepsWorkspaceServesAll) {
  Model model(full_shape());
  LayerEngine e(&model);
  const Tokens t = range(0, 60);
  const radix_req r = e.ctx().begin(t);
  const std::unique_ptr<Step> step = e.prepare({}, {{r, t}});
  radix_layer d = step->d;
  uint64_t before = 0;
  for (int64_t rows = 1; rows <= 60; ++rows) {
    radix_attn a = step->prefill.attn;
    a.max_query_len = static_cast<uint32_t>(rows);
    d.x.shape[0] = d.y.shape[0] = rows;
    d.prefill = &a;
    d.prefill_rope = nullptr;
    uint64_t bytes = 0;
    ASSERT_OK(radix_layer_workspace(e.ctx(), &d, &bytes));
    EXPECT_GE(bytes, before);
    before = bytes;
  }
}

TEST(Layer, NoRowsIsNoWork) {
  Model model(full_shape());
  LayerEngine e(&model);
  const Tokens p = range(0, 5);
  const std::unique_ptr<Step> step = e.prepare({}, {{e.ctx().begin(p), p}});
  step->d.x.shape[0] = step->d.y.shape[0] = 0;
  step->prefill.attn.num_seqs = 0;
  step->prefill.rope.num_tokens = 0;
  const std::vector<uint8_t> before = step->y.numbers.bytes();
  EXPECT_OK(radix_layer_launch(e.ctx(), &step->d, nullptr));
  EXPECT_TRUE(step->y.numbers.bytes() == before);
}

}  // namespace
}  // namespace api_test
