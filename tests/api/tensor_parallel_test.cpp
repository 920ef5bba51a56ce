// Tensor parallel ranks on the CPU: each has its own context and slices of the same weights by
// stride, no rank knows another. The sum of their y is the single rank's, and the same calls give
// the same block ids.
//
// Tolerance: a rank's heads have the single rank's bits up to the order of its products' sums, so
// what is left is the sum of the ranks' parts in another order: LayerEngine::tolerance bounds both.
#include "layer_support.h"

namespace api_test {
namespace {

class Ranks {
 public:
  Ranks(Model* model, uint32_t n) {
    for (uint32_t r = 0; r < n; ++r) ranks_.push_back(std::make_unique<LayerEngine>(model, n, r));
  }
  size_t size() const { return ranks_.size(); }
  LayerEngine& operator[](size_t r) { return *ranks_[r]; }

  // The same call on every rank, with the same answer.
  radix_req begin(const Tokens& t) {
    const radix_req r = ranks_[0]->ctx().begin(t);
    for (size_t i = 1; i < size(); ++i) EXPECT_EQ(ranks_[i]->ctx().begin(t), r);
    return r;
  }
  void commit(radix_req r) {
    for (auto& rank : ranks_) rank->ctx().commit(r);
  }
  void free(radix_req r) {
    for (auto& rank : ranks_) rank->ctx().free(r);
  }

  // The step on every rank; the host's all-reduce: the sum of y, row by row.
  std::vector<Row> run(const std::vector<Job>& decode, const std::vector<Job>& prefill) {
    std::vector<Row> sum;
    std::vector<int32_t> tables[2];
    for (size_t i = 0; i < size(); ++i) {
      const std::unique_ptr<Step> s = ranks_[i]->run(decode, prefill);
      if (i == 0) {
        tables[0] = s->decode.tables;
        tables[1] = s->prefill.tables;
        sum.assign(s->y.rows, Row(s->y.columns));
      }
      EXPECT_TRUE(s->decode.tables == tables[0] && s->prefill.tables == tables[1])
          << "rank " << i << " has other blocks";
      for (uint32_t r = 0; r < s->y.rows; ++r) {
        for (uint32_t c = 0; c < s->y.columns; ++c) sum[r][c] += s->y.get(r, c);
      }
    }
    return sum;
  }

 private:
  std::vector<std::unique_ptr<LayerEngine>> ranks_;
};

void expect_sum(const std::vector<Row>& sum, const Step& single, const ModelShape& s) {
  ASSERT_EQ(sum.size(), single.y.rows);
  for (uint32_t r = 0; r < sum.size(); ++r) {
    for (uint32_t c = 0; c < s.hidden; ++c) {
      ASSERT_NEAR(sum[r][c], single.y.get(r, c), LayerEngine::tolerance(s, sum[r][c]))
          << "row " << r << " column " << c;
    }
  }
}

void run_ranks(uint32_t n, uint32_t flags) {
  ModelShape s;
  s.q_heads = 8;
  s.kv_heads = 4;
  s.norm = s.bias = s.head_norms = true;
  s.weight_gap = 1;
  s.flags = flags;
  Model model(s);
  LayerEngine single(&model);
  Ranks ranks(&model, n);
  const auto begin = [&](const Tokens& t) {
    const radix_req r = ranks.begin(t);
    EXPECT_EQ(single.ctx().begin(t), r);
    return r;
  };
  const auto step = [&](const std::vector<Job>& decode, const std::vector<Job>& prefill) {
    const std::unique_ptr<Step> want = single.run(decode, prefill);
    expect_sum(ranks.run(decode, prefill), *want, s);
  };
  const Tokens system = range(0, 18);
  const radix_req a = begin(system);
  step({}, {{a, system}});
  single.ctx().commit(a);
  ranks.commit(a);
  Tokens p = range(0, 16), q = range(0, 16);  // four blocks of the system prompt are shared
  p.insert(p.end(), {50, 51, 52});
  q.insert(q.end(), {60, 61});
  const radix_req b = begin(p), c = begin(q);
  EXPECT_EQ(ranks[n - 1].ctx().info(b).cached_tokens, 16u);
  step({{a, plus(system, 40)}}, {{b, p}, {c, q}});
  single.ctx().free(a);
  ranks.free(a);
  for (int32_t i = 0; i < 6; ++i) {
    p.push_back(70 + i);
    q.push_back(80 + i);
    step({{b, p}, {c, q}}, {});
  }
}

TEST(TensorParallel, TwoRanksSumToOne) { run_ranks(2, 0); }
TEST(TensorParallel, FourRanksSumToOne) { run_ranks(4, 0); }
TEST(TensorParallel, TheResidualIsAddedOnOneRankOnly) { run_ranks(4, RADIX_LAYER_ADD); }

}  // namespace
}  // namespace api_test
