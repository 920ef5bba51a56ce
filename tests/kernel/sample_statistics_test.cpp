// Draws against exact probabilities: every filter, computed here once more in double from its
// definition, and drafts against the target's joint distribution. Seeds are fixed, so p-values are
// the same in every run; a right sampler has one below 1e-3 in a thousand settings.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "support/chi_square.h"
#include "support/runners.h"
#include "support/sample_case.h"

namespace radixattn::test {
namespace {

using Probabilities = std::vector<double>;

constexpr uint32_t kDraws = 120000;
constexpr uint32_t kVocab = 40;

// ---- filters in double --------------------------------------------------------------------------

struct Setting {
  const char* name;
  float temperature = 1.f;
  int32_t top_k = 0;
  float top_p = 0.f, min_p = 0.f, typical_p = 0.f;
};

void normalise(Probabilities* p) {
  const double sum = std::accumulate(p->begin(), p->end(), 0.);
  for (double& x : *p) x /= sum;
}

// Those with the smallest keys that together reach `share`.
template <class Key>
void keep_share(Probabilities* p, double share, Key key) {
  normalise(p);
  std::vector<uint32_t> order(p->size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return key(a) < key(b); });
  double before = 0;
  for (const uint32_t t : order) {
    const double mine = (*p)[t];
    if (before >= share) (*p)[t] = 0;
    before += mine;
  }
}

Probabilities exact(const std::vector<double>& scores, const Setting& s) {
  Probabilities p(scores.size());
  for (size_t t = 0; t < p.size(); ++t) p[t] = std::exp(scores[t] / double{s.temperature});
  normalise(&p);
  const Probabilities likely = p;
  const auto by_rank = [&](uint32_t t) { return -likely[t]; };
  if (s.top_k > 0) {
    Probabilities sorted = p;
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    for (double& x : p) x = x >= sorted[static_cast<size_t>(s.top_k) - 1] ? x : 0;
  }
  if (s.top_p > 0) keep_share(&p, double{s.top_p}, by_rank);
  const double highest = *std::max_element(likely.begin(), likely.end());
  for (size_t t = 0; t < p.size() && s.min_p > 0; ++t) {
    if (likely[t] < double{s.min_p} * highest) p[t] = 0;
  }
  if (s.typical_p > 0) {
    normalise(&p);
    double entropy = 0;
    for (const double x : p) entropy -= x > 0 ? x * std::log(x) : 0;
    const Probabilities now = p;
    const auto surprise = [&](uint32_t t) {
      return now[t] > 0 ? std::abs(-std::log(now[t]) - entropy) : 1e9;
    };
    keep_share(&p, double{s.typical_p}, surprise);
  }
  normalise(&p);
  return p;
}

const Setting kSettings[] = {
    {"temperature 1"},
    {"temperature 0.5", 0.5f},
    {"temperature 2.5", 2.5f},
    {"top_k 10", 1.f, 10},
    {"top_k 2", 1.f, 2},
    {"top_p 0.9", 1.f, 0, 0.9f},
    {"top_p 0.5", 1.f, 0, 0.5f},
    {"min_p 0.1", 1.f, 0, 0.f, 0.1f},
    {"typical_p 0.8", 1.f, 0, 0.f, 0.f, 0.8f},
    {"typical_p 0.3", 1.f, 0, 0.f, 0.f, 0.3f},
    {"top_k 20, top_p 0.95", 0.8f, 20, 0.95f},
    {"top_p 0.9, min_p 0.02", 1.3f, 0, 0.9f, 0.02f},
    {"all of them", 1.2f, 30, 0.97f, 0.01f, 0.9f},
};

std::vector<double> logits_of(SampleCase& c) {
  std::vector<double> x;
  for (uint32_t t = 0; t < c.vocab; ++t) x.push_back(c.logits.get(t));
  return x;
}

// Many rows that are one row of logits, drawn at positions 0, 1, 2, ...
std::vector<uint64_t> draw_many(SampleCase& c, const Setting& s, uint64_t seed) {
  c.rows = kDraws;
  c.temperature.assign(kDraws, s.temperature);
  c.top_k.assign(kDraws, s.top_k);
  c.top_p.assign(kDraws, s.top_p);
  c.min_p.assign(kDraws, s.min_p);
  c.typical_p.assign(kDraws, s.typical_p);
  c.seeds.assign(kDraws, seed);
  c.positions.resize(kDraws);
  std::iota(c.positions.begin(), c.positions.end(), uint64_t{0});
  Sampled out(c);
  SampleParams p = c.params();
  out.attach(&p);
  p.logits.row_stride = 0;
  Executor executor;
  GuardedWorkspace workspace(sample_workspace_bytes(p, 1));
  p.workspace = workspace.data();
  EXPECT_EQ(cpu_sample(*select_kernels(RADIX_CPU_AUTO), p, executor), RADIX_OK);
  std::vector<uint64_t> counts(c.vocab);
  for (const int32_t t : out.tokens) ++counts[static_cast<size_t>(t)];
  return counts;
}

SampleCase one_row(uint64_t seed) {
  Rng rng(seed);
  SampleCase c;
  c.vocab = kVocab;
  c.make_logits(RADIX_F32);
  for (uint32_t t = 0; t < kVocab; ++t) {
    c.set(0, t, double{3 * (rng.uniform() + rng.uniform())});
  }
  return c;
}

TEST(SampleStatistics, EveryFilterDrawsItsExactDistribution) {
  uint64_t seed = 1;
  for (const Setting& s : kSettings) {
    SampleCase c = one_row(seed);
    const std::vector<uint64_t> counts = draw_many(c, s, 1000 + seed);
    expect_distribution(s.name, counts, exact(logits_of(c), s));
    ++seed;
  }
}

TEST(SampleStatistics, SeedsAreAsGoodAsPositions) {
  SampleCase c = one_row(50);
  const Setting s = {"one draw of each of many seeds"};
  draw_many(c, s, 0);  // makes the arrays
  std::iota(c.seeds.begin(), c.seeds.end(), uint64_t{0});
  c.positions.assign(kDraws, 17);
  Sampled out(c);
  SampleParams p = c.params();
  out.attach(&p);
  p.logits.row_stride = 0;
  Executor executor;
  GuardedWorkspace workspace(sample_workspace_bytes(p, 1));
  p.workspace = workspace.data();
  ASSERT_EQ(cpu_sample(*select_kernels(RADIX_CPU_AUTO), p, executor), RADIX_OK);
  std::vector<uint64_t> counts(kVocab);
  for (const int32_t t : out.tokens) ++counts[static_cast<size_t>(t)];
  expect_distribution(s.name, counts, exact(logits_of(c), s));
}

TEST(SampleStatistics, TheTestSeesABiasedSampler) {
  SampleCase c = one_row(60);
  const Probabilities p = exact(logits_of(c), {"temperature 1"});
  EXPECT_GT(chi_square(draw_many(c, {"right", 1.f}, 9), p).p_value, 1e-3);
  EXPECT_LT(chi_square(draw_many(c, {"temperature off by 3%", 1.03f}, 9), p).p_value, 1e-3);
  // One token in 40 that is never drawn: the mistake of a draw that stops one short.
  std::vector<uint64_t> counts = draw_many(c, {"right", 1.f}, 9);
  std::swap(counts[20], counts[21]);
  EXPECT_LT(chi_square(counts, p).p_value, 1e-3);
  const ChiSquare cut =
      chi_square(draw_many(c, {"uncut", 1.f}, 9), exact(logits_of(c), {"top_k 20", 1.f, 20}));
  EXPECT_TRUE(cut.impossible);
}

TEST(SampleStatistics, ChiSquareHasItsTextbookValues) {
  EXPECT_NEAR(upper_gamma(0.5, 3.841458820694124 / 2), 0.05, 1e-12);
  EXPECT_NEAR(upper_gamma(5, 18.307038053275146 / 2), 0.05, 1e-12);
  EXPECT_NEAR(upper_gamma(50, 149.44925277903886 / 2), 0.001, 1e-12);
  EXPECT_NEAR(upper_gamma(5, 3.940299136119055 / 2), 0.95, 1e-12);
}

// ---- drafts -------------------------------------------------------------------------------------

constexpr uint32_t kWords = 6;
constexpr uint32_t kTrees = 40000;

// A language of pairs of tokens: what comes first, and what after each.
struct Language {
  std::vector<double> first;               // logits
  std::vector<std::vector<double>> after;  // [first token]
};

Language make_language(uint64_t seed, double spread) {
  Rng rng(seed);
  Language l;
  const auto row = [&] {
    std::vector<double> x;
    for (uint32_t t = 0; t < kWords; ++t) x.push_back(spread * double{rng.uniform()});
    return x;
  };
  l.first = row();
  for (uint32_t t = 0; t < kWords; ++t) l.after.push_back(row());
  return l;
}

uint32_t draw_from(const Probabilities& p, Rng* rng) {
  double left = static_cast<double>(rng->next() >> 11) * 0x1p-53;
  double sum = std::accumulate(p.begin(), p.end(), 0.);
  left *= sum;
  uint32_t t = 0;
  while (t + 1 < p.size() && (left >= p[t] || p[t] == 0)) left -= p[t++];
  while (p[t] == 0) --t;
  return t;
}

struct DraftSetting {
  const char* name;
  uint32_t children = 1, grandchildren = 1;  // of the root, and of each child
  double away = 0.3;                         // how far the draft is from the target
  bool replacement = true;
  Setting target = {"temperature 1"};
};

class DraftTest {
 public:
  explicit DraftTest(const DraftSetting& s, uint64_t seed)
      : s_(s), rng_(seed), target_(make_language(seed, 1.5)), draft_(target_) {
    const Language noise = make_language(seed + 1, 1.5);
    const auto mix = [&](std::vector<double>* to, const std::vector<double>& from) {
      for (uint32_t t = 0; t < kWords; ++t) (*to)[t] = (1 - s.away) * (*to)[t] + s.away * from[t];
    };
    mix(&draft_.first, noise.first);
    for (uint32_t t = 0; t < kWords; ++t) mix(&draft_.after[t], noise.after[t]);
    nodes_ = 1 + s.children * (1 + s.grandchildren);
  }

  void run() {
    for (uint32_t i = 0; i < kTrees; ++i) add_tree();
    fill_arrays();
    verify();
    count();
  }

 private:
  // Nodes: the root, its children, then each child's children.
  void add_tree() {
    const auto begin = static_cast<int32_t>(c_.draft_tokens.size());
    c_.node_begin.push_back(begin);
    add_node(-1, -1, target_.first, draft_.first);
    const std::vector<uint32_t> children = draw_siblings(draft_.first, s_.children);
    for (const uint32_t t : children)
      add_node(0, static_cast<int32_t>(t), target_.after[t], draft_.after[t]);
    for (uint32_t i = 0; i < s_.children; ++i) {
      const uint32_t t = children[i];
      for (const uint32_t u : draw_siblings(draft_.after[t], s_.grandchildren)) {
        add_node(static_cast<int32_t>(1 + i), static_cast<int32_t>(u), target_.first, draft_.first);
      }
    }
  }

  std::vector<uint32_t> draw_siblings(const std::vector<double>& logits, uint32_t n) {
    Probabilities q = exact(logits, {"draft"});
    std::vector<uint32_t> drawn;
    for (uint32_t i = 0; i < n; ++i) {
      drawn.push_back(draw_from(q, &rng_));
      if (!s_.replacement) q[drawn.back()] = 0;
    }
    return drawn;
  }

  void add_node(int32_t parent, int32_t token, const std::vector<double>& logits,
                const std::vector<double>& draft) {
    c_.draft_tokens.push_back(token);
    c_.parents.push_back(parent);
    logits_.insert(logits_.end(), logits.begin(), logits.end());
    for (const double q : exact(draft, {"draft"})) c_.draft_probs.push_back(static_cast<float>(q));
  }

  void fill_arrays() {
    SampleCase& t = c_.target;
    t.rows = static_cast<uint32_t>(c_.draft_tokens.size());
    c_.node_begin.push_back(static_cast<int32_t>(t.rows));
    t.vocab = kWords;
    t.make_logits(RADIX_F32);
    for (size_t i = 0; i < logits_.size(); ++i) t.logits.set(static_cast<int64_t>(i), logits_[i]);
    t.temperature.assign(t.rows, s_.target.temperature);
    t.top_k.assign(t.rows, s_.target.top_k);
    t.top_p.assign(t.rows, s_.target.top_p);
    for (uint32_t row = 0; row < t.rows; ++row) {
      t.seeds.push_back(row / nodes_);
      const uint32_t node = row % nodes_;
      t.positions.push_back(100 + (node == 0 ? 0 : node <= s_.children ? 1 : 2));
    }
    c_.max_tokens = 3;
    c_.flags = s_.replacement ? 0 : RADIX_VERIFY_NO_REPLACEMENT;
  }

  void verify() {
    out_ = Verified(c_);
    VerifyParams p = c_.params();
    out_.attach(&p);
    Executor executor;
    GuardedWorkspace workspace(verify_workspace_bytes(p, 1));
    p.workspace = workspace.data();
    ASSERT_EQ(cpu_verify(*select_kernels(RADIX_CPU_AUTO), p, executor), RADIX_OK);
  }

  // The first token, and the first two: where the step gave one, the next is drawn here.
  void count() {
    const Probabilities first = exact(rounded(target_.first), s_.target);
    std::vector<uint64_t> firsts(kWords), pairs(kWords * kWords);
    Probabilities joint(kWords * kWords);
    std::vector<Probabilities> after;
    uint64_t tokens = 0;
    for (uint32_t t = 0; t < kWords; ++t) {
      after.push_back(exact(rounded(target_.after[t]), s_.target));
      for (uint32_t u = 0; u < kWords; ++u) joint[t * kWords + u] = first[t] * after[t][u];
    }
    for (uint32_t i = 0; i < kTrees; ++i) {
      const int32_t* seq = out_.tokens.data() + size_t{i} * c_.max_tokens;
      const auto t = static_cast<uint32_t>(seq[0]);
      const bool two = out_.num_tokens[i] > 1;
      const uint32_t u = two ? static_cast<uint32_t>(seq[1]) : draw_from(after[t], &rng_);
      ++firsts[t];
      ++pairs[t * kWords + u];
      tokens += static_cast<uint64_t>(out_.num_tokens[i]);
    }
    std::printf("%s: %.2f tokens a step\n", s_.name, static_cast<double>(tokens) / kTrees);
    expect_distribution("first token", firsts, first);
    expect_distribution("first two tokens", pairs, joint);
  }

  static std::vector<double> rounded(std::vector<double> x) {
    for (double& v : x) v = double{static_cast<float>(v)};
    return x;
  }

  DraftSetting s_;
  Rng rng_;
  Language target_, draft_;
  uint32_t nodes_ = 0;
  std::vector<double> logits_;
  VerifyCase c_;
  Verified out_{VerifyCase{{}, 1, 0, false, false, 0, {0}, {}, {}, {}}};
};

TEST(VerifyStatistics, ChainsKeepTheTargetsDistribution) {
  DraftTest({"chain, the target itself as the draft", 1, 1, 0.}, 11).run();
  DraftTest({"chain, a good draft", 1, 1, 0.3}, 12).run();
  DraftTest({"chain, a bad draft", 1, 1, 1.}, 13).run();
}

TEST(VerifyStatistics, SiblingsWithReplacementKeepTheTargetsDistribution) {
  DraftTest({"3 x 2, a good draft", 3, 2, 0.3}, 14).run();
  DraftTest({"3 x 2, a bad draft", 3, 2, 1.}, 15).run();
}

TEST(VerifyStatistics, SiblingsWithoutReplacementKeepTheTargetsDistribution) {
  DraftTest({"3 x 2 without replacement, a good draft", 3, 2, 0.3, false}, 16).run();
  DraftTest({"5 x 2 without replacement, a bad draft", 5, 2, 1., false}, 17).run();
  DraftTest({"all 6 without replacement", 6, 1, 1., false}, 18).run();
}

TEST(VerifyStatistics, CutTargetsKeepTheirDistribution) {
  const Setting cut = {"top_k 4, top_p 0.8", 0.7f, 4, 0.8f};
  DraftTest({"3 x 2, a cut target", 3, 2, 0.5, true, cut}, 19).run();
  DraftTest({"3 x 2 without replacement, a cut target", 3, 2, 0.5, false, cut}, 20).run();
}

}  // namespace
}  // namespace radixattn::test
