#include "backend/reference/sample.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "backend/reference/numeric.h"
#include "sample/weights.h"

namespace radixattn::reference {
namespace {

using Weights = std::vector<uint64_t>;

template <class T>
T at(const T* array, uint32_t row) {
  return array != nullptr ? array[row] : T{};
}

uint64_t sum(const Weights& w) { return std::accumulate(w.begin(), w.end(), uint64_t{0}); }

// The part of an array of n elements that begin[row] and begin[row + 1] name.
struct Part {
  int64_t begin = 0, end = 0;
};
Part part_of(const int64_t* begins, uint32_t row, uint64_t n) {
  const auto end = static_cast<int64_t>(n);
  Part part;
  part.begin = std::min(std::max<int64_t>(begins[row], 0), end);
  part.end = std::max(std::min(begins[row + 1], end), part.begin);
  return part;
}
Part history_of(const SampleParams& p, uint32_t row) {
  return p.history != nullptr ? part_of(p.history_begin, row, p.num_history) : Part{};
}
Part biases_of(const SampleParams& p, uint32_t row) {
  return p.bias_tokens != nullptr ? part_of(p.bias_begin, row, p.num_biases) : Part{};
}

bool in_vocabulary(const SampleParams& p, int32_t token) {
  return token >= 0 && static_cast<uint32_t>(token) < p.vocab;
}

bool parameters_fit(const SampleParams& p, uint32_t row) {
  for (const float* share : {p.top_p, p.min_p, p.typical_p}) {
    if (!(at(share, row) >= 0.f && at(share, row) <= 1.f)) return false;
  }
  for (const float* positive : {p.temperature, p.repetition_penalty}) {
    if (!std::isfinite(at(positive, row)) || at(positive, row) < 0.f) return false;
  }
  for (const float* number : {p.presence_penalty, p.frequency_penalty}) {
    if (!std::isfinite(at(number, row))) return false;
  }
  if (at(p.top_k, row) < 0) return false;
  const Part history = history_of(p, row), biases = biases_of(p, row);
  for (int64_t i = history.begin; i < history.end; ++i) {
    if (!in_vocabulary(p, p.history[i])) return false;
  }
  for (int64_t i = biases.begin; i < biases.end; ++i) {
    if (!in_vocabulary(p, p.bias_tokens[i])) return false;
    if (std::isnan(p.bias_values[i]) || p.bias_values[i] == INFINITY) return false;
  }
  return true;
}

void penalise(const SampleParams& p, uint32_t row, std::vector<float>* scores) {
  const Part history = history_of(p, row);
  int64_t output = p.output_begin != nullptr ? p.output_begin[row] : history.end;
  output = std::min(std::max(output, history.begin), history.end);
  std::map<int32_t, uint32_t> outputs;  // token -> times it was generated
  for (int64_t i = history.begin; i < history.end; ++i) {
    outputs[p.history[i]] += i >= output ? 1 : 0;
  }
  for (const auto& [token, n] : outputs) {
    float& x = (*scores)[static_cast<size_t>(token)];
    const float r = at(p.repetition_penalty, row);
    if (r != 0.f) x = x > 0.f ? x / r : x * r;
    if (n == 0) continue;
    float t = static_cast<float>(n) * at(p.frequency_penalty, row);
    t = t + at(p.presence_penalty, row);
    x = x - t;
  }
}

std::vector<float> scores_of(const SampleParams& p, uint32_t row, const std::vector<float>& raw) {
  std::vector<float> x = raw;
  for (uint32_t t = 0; t < p.vocab && p.allowed != nullptr; ++t) {
    const uint32_t word = p.allowed[int64_t{row} * p.allowed_stride + t / 32];
    if ((word & (1u << t % 32)) == 0) x[t] = -INFINITY;
  }
  const Part biases = biases_of(p, row);
  for (int64_t i = biases.begin; i < biases.end; ++i) {
    x[static_cast<size_t>(p.bias_tokens[i])] += p.bias_values[i];
  }
  penalise(p, row, &x);
  return x;
}

// NaN or +inf among them.
bool has_bad(const std::vector<float>& x) {
  return std::any_of(x.begin(), x.end(), [](float v) { return std::isnan(v) || v == INFINITY; });
}

// Tokens by key, ties by id.
template <class Key>
std::vector<uint32_t> sorted(uint32_t vocab, Key key) {
  std::vector<uint32_t> order(vocab);
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return key(a) < key(b); });
  return order;
}

// Tokens in `order` while the weight before them is below target; all others lose theirs.
void keep_prefix(const std::vector<uint32_t>& order, uint64_t target, Weights* w) {
  uint64_t before = 0;
  for (const uint32_t t : order) {
    const uint64_t mine = (*w)[t];
    if (before >= target) (*w)[t] = 0;
    before += mine;
  }
}

void keep_typical(const std::vector<float>& scores, float max, float scale, float share,
                  Weights* w) {
  const auto steps = [&](uint32_t t) { return steps_below(scores[t], max, scale); };
  TypicalSum mean_of;
  for (uint32_t t = 0; t < w->size(); ++t) {
    if ((*w)[t] != 0) typical_add(&mean_of, steps(t), (*w)[t]);
  }
  const uint32_t mean = typical_mean(mean_of);
  const auto key = [&](uint32_t t) {
    return (*w)[t] != 0 ? uint64_t{typical_key(steps(t), mean)} : UINT64_MAX;
  };
  const auto order = sorted(static_cast<uint32_t>(w->size()), key);
  keep_prefix(order, target_weight(share, sum(*w)), w);
}

Weights cut(const SampleParams& p, uint32_t row, const std::vector<float>& scores) {
  const auto order = sorted(p.vocab, [&](uint32_t t) { return rank_key(scores[t]); });
  const float max = scores[order[0]];
  Weights w(p.vocab, 0);
  if (at(p.temperature, row) == 0.f) {
    w[order[0]] = kMaxWeight;
    return w;
  }
  const float scale = score_scale(at(p.temperature, row));
  for (uint32_t t = 0; t < p.vocab; ++t) w[t] = weight_of(scores[t], max, scale);
  if (const int32_t k = at(p.top_k, row); k > 0) {
    for (auto i = static_cast<uint32_t>(k); i < p.vocab; ++i) w[order[i]] = 0;
  }
  if (const float share = at(p.top_p, row); share > 0.f) {
    keep_prefix(order, target_weight(share, sum(w)), &w);
  }
  if (const float share = at(p.min_p, row); share > 0.f) {
    const auto least = static_cast<uint64_t>(std::ceil(static_cast<double>(share) * 0x1p40));
    for (uint64_t& weight : w) weight = weight >= least ? weight : 0;
  }
  if (const float share = at(p.typical_p, row); share > 0.f && share < 1.f) {
    keep_typical(scores, max, scale, share, &w);
  }
  return w;
}

uint32_t draw(const Weights& w, uint64_t seed, uint64_t position) {
  const uint64_t r = draw_below(philox_bits(seed, position, kTokenStream), sum(w));
  uint64_t cumulative = 0;
  uint32_t t = 0;
  while ((cumulative += w[t]) <= r) ++t;
  return t;
}

void report(const SampleParams& p, uint32_t row, const Distribution& d, uint32_t token) {
  const bool final = (p.flags & RADIX_SAMPLE_FINAL_LOGPROBS) != 0;
  const float max = *std::max_element(d.raw.begin(), d.raw.end());
  uint64_t total = sum(d.weights);
  if (!final) {
    total = 0;
    for (const float x : d.raw) total += weight_of(x, max, 1.44269504f);
  }
  const auto log_p = [&](uint32_t t) {
    if (final) return d.weights[t] != 0 ? log_share(d.weights[t], total) : -INFINITY;
    return log_softmax(d.raw[t], max, total);
  };
  if (p.out_logprobs != nullptr) p.out_logprobs[row] = log_p(token);
  const auto order = sorted(p.vocab, [&](uint32_t t) {
    const bool kept = !final || d.weights[t] != 0;
    return kept ? uint64_t{rank_key(final ? d.scores[t] : d.raw[t])} : UINT64_MAX;
  });
  for (uint32_t i = 0; i < p.num_top; ++i) {
    const bool kept = !final || d.weights[order[i]] != 0;
    const uint64_t to = uint64_t{row} * p.num_top + i;
    p.out_top_tokens[to] = kept ? static_cast<int32_t>(order[i]) : -1;
    p.out_top_logprobs[to] = kept ? log_p(order[i]) : -INFINITY;
  }
}

void report_failure(const SampleParams& p, uint32_t row) {
  if (p.out_logprobs != nullptr) p.out_logprobs[row] = NAN;
  for (uint32_t i = 0; i < p.num_top; ++i) {
    p.out_top_tokens[uint64_t{row} * p.num_top + i] = -1;
    p.out_top_logprobs[uint64_t{row} * p.num_top + i] = NAN;
  }
}

}  // namespace

Distribution distribution_of(const SampleParams& p, uint32_t row) {
  Distribution d;
  d.status = RADIX_ROW_PARAMETER;
  if (!parameters_fit(p, row)) return d;
  d.raw.resize(p.vocab);
  for (uint32_t t = 0; t < p.vocab; ++t) {
    d.raw[t] = static_cast<float>(
        load_element(p.logits.data, p.logits.dtype, int64_t{row} * p.logits.row_stride + t));
  }
  d.status = RADIX_ROW_NAN;
  if (has_bad(d.raw)) return d;
  d.scores = scores_of(p, row, d.raw);
  if (has_bad(d.scores)) return d;
  d.status = RADIX_ROW_EMPTY;
  if (*std::max_element(d.scores.begin(), d.scores.end()) == -INFINITY) return d;
  d.status = RADIX_ROW_OK;
  d.weights = cut(p, row, d.scores);
  return d;
}

void sample(const SampleParams& p) {
  for (uint32_t row = 0; row < p.num_rows; ++row) {
    const Distribution d = distribution_of(p, row);
    if (p.out_status != nullptr) p.out_status[row] = d.status;
    p.out_tokens[row] = -1;
    if (d.status != RADIX_ROW_OK) {
      report_failure(p, row);
      continue;
    }
    const uint32_t token = draw(d.weights, at(p.seeds, row), at(p.positions, row));
    p.out_tokens[row] = static_cast<int32_t>(token);
    report(p, row, d, token);
  }
}

// ---- verification

namespace {

// The draft's tokens after `node`; children are looked at in the order of their indices.
struct Tree {
  const VerifyParams& p;
  int32_t begin, size;

  std::vector<int32_t> children(int32_t node) const {
    std::vector<int32_t> found;
    for (int32_t i = node + 1; i < size; ++i) {
      const int32_t parent = p.parents != nullptr ? p.parents[begin + i] : i - 1;
      if (parent == node) found.push_back(i);
    }
    return found;
  }
  int32_t token(int32_t node) const { return p.draft_tokens[begin + node]; }
};

// One node: the child that stands, or -1; *next is the token either way.
int32_t step(const Tree& tree, int32_t node, Weights w, int32_t* next) {
  const VerifyParams& p = tree.p;
  const auto row = static_cast<uint32_t>(tree.begin + node);
  const uint64_t seed = at(p.target.seeds, row), position = at(p.target.positions, row);
  const std::vector<int32_t> children = tree.children(node);
  if (p.draft_probs == nullptr) {
    *next = static_cast<int32_t>(draw(w, seed, position));
    for (const int32_t child : children) {
      if (tree.token(child) == *next) return child;
    }
    return -1;
  }
  Weights q(p.target.vocab);
  for (uint32_t t = 0; t < p.target.vocab; ++t) {
    q[t] = draft_weight(p.draft_probs[int64_t{row} * p.draft_row_stride + t]);
  }
  for (uint32_t i = 0; i < children.size(); ++i) {
    const int32_t t = tree.token(children[i]);
    const uint64_t p_total = sum(w), q_total = sum(q);
    if (!in_vocabulary(p.target, t) || q_total == 0) continue;
    const auto id = static_cast<size_t>(t);
    const uint64_t bits = philox_bits(seed, position, kAcceptStream + i);
    *next = t;
    if (draft_stands(w[id], p_total, q[id], q_total, bits)) return children[i];
    Weights rest(w.size());
    for (size_t j = 0; j < w.size(); ++j) rest[j] = residual_weight(w[j], p_total, q[j], q_total);
    if (sum(rest) > 0) w = rest;
    if ((p.flags & RADIX_VERIFY_NO_REPLACEMENT) != 0) q[id] = 0;
  }
  *next = static_cast<int32_t>(draw(w, seed, position));
  return -1;
}

void clear(const VerifyParams& p, uint32_t seq) {
  for (uint32_t i = 0; i < p.max_tokens; ++i) {
    p.out_tokens[uint64_t{seq} * p.max_tokens + i] = -1;
    if (p.out_nodes != nullptr) p.out_nodes[uint64_t{seq} * p.max_tokens + i] = -1;
  }
}

}  // namespace

void verify(const VerifyParams& p) {
  const auto rows = static_cast<int32_t>(p.target.num_rows);
  for (uint32_t seq = 0; seq < p.num_seqs; ++seq) {
    clear(p, seq);
    const int32_t begin = std::min(std::max(p.node_begin[seq], 0), rows);
    const int32_t end = std::max(std::min(p.node_begin[seq + 1], rows), begin);
    const Tree tree = {p, begin, end - begin};
    int32_t status = tree.size > 0 ? RADIX_ROW_OK : RADIX_ROW_PARAMETER, node = 0;
    uint32_t n = 0;
    while (status == RADIX_ROW_OK && node >= 0 && n < p.max_tokens) {
      const Distribution d = distribution_of(p.target, static_cast<uint32_t>(begin + node));
      status = d.status;
      if (status != RADIX_ROW_OK) break;
      const uint64_t to = uint64_t{seq} * p.max_tokens + n++;
      if (p.out_nodes != nullptr) p.out_nodes[to] = node;
      node = step(tree, node, d.weights, &p.out_tokens[to]);
    }
    if (status != RADIX_ROW_OK) clear(p, seq);
    p.out_num_tokens[seq] = status == RADIX_ROW_OK ? static_cast<int32_t>(n) : 0;
    if (p.out_status != nullptr) p.out_status[seq] = status;
  }
}

}  // namespace radixattn::reference
