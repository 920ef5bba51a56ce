// Batches of rows to sample from, as tests want them: owned arrays, guarded workspace and outputs,
// the reference's answer beside a backend's.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <vector>

#include "backend/backend.h"
#include "backend/reference/sample.h"
#include "support/rng.h"
#include "support/tensors.h"

namespace radixattn::test {

template <class T>
const T* data_or_null(const std::vector<T>& v) {
  return v.empty() ? nullptr : v.data();
}

// Arrays that are empty are NULL.
struct SampleCase {
  uint32_t rows = 1, vocab = 32, num_top = 0, flags = 0;
  int64_t row_stride = 0;  // 0: vocab
  bool logprobs = false;
  Elements logits;
  std::vector<float> temperature, top_p, min_p, typical_p, repetition, presence, frequency;
  std::vector<int32_t> top_k, history, bias_tokens;
  std::vector<int64_t> history_begin, output_begin, bias_begin;
  std::vector<float> bias_values;
  std::vector<uint32_t> allowed;
  std::vector<uint64_t> seeds, positions;

  int64_t stride() const { return row_stride != 0 ? row_stride : int64_t{vocab}; }
  void make_logits(int32_t dtype) { logits = Elements(dtype, stride() * rows, kNanByte); }
  void set(uint32_t row, uint32_t token, double x) { logits.set(row * stride() + token, x); }
  int64_t allowed_stride() const { return (int64_t{vocab} + 31) / 32; }

  // Without outputs and workspace.
  SampleParams params() {
    SampleParams p;
    p.flags = flags;
    p.num_top = num_top;
    p.num_rows = rows;
    p.vocab = vocab;
    p.logits = {logits.data(), logits.dtype(), stride()};
    p.temperature = data_or_null(temperature);
    p.top_k = data_or_null(top_k);
    p.top_p = data_or_null(top_p);
    p.min_p = data_or_null(min_p);
    p.typical_p = data_or_null(typical_p);
    p.repetition_penalty = data_or_null(repetition);
    p.presence_penalty = data_or_null(presence);
    p.frequency_penalty = data_or_null(frequency);
    p.history = data_or_null(history);
    p.history_begin = data_or_null(history_begin);
    p.output_begin = data_or_null(output_begin);
    p.num_history = history.size();
    p.bias_tokens = data_or_null(bias_tokens);
    p.bias_values = data_or_null(bias_values);
    p.bias_begin = data_or_null(bias_begin);
    p.num_biases = bias_tokens.size();
    p.allowed = data_or_null(allowed);
    p.allowed_stride = allowed_stride();
    p.seeds = data_or_null(seeds);
    p.positions = data_or_null(positions);
    return p;
  }
};

// Outputs of a sample; poison before.
struct Sampled {
  std::vector<int32_t> tokens, status, top_tokens;
  std::vector<float> logprobs, top_logprobs;

  explicit Sampled(const SampleCase& c)
      : tokens(c.rows, -77),
        status(c.rows, -77),
        top_tokens(size_t{c.rows} * c.num_top, -77),
        logprobs(c.logprobs ? c.rows : 0, 77.f),
        top_logprobs(size_t{c.rows} * c.num_top, 77.f) {}
  void attach(SampleParams* p) {
    p->out_tokens = tokens.data();
    p->out_status = status.data();
    p->out_logprobs = logprobs.empty() ? nullptr : logprobs.data();
    p->out_top_tokens = top_tokens.empty() ? nullptr : top_tokens.data();
    p->out_top_logprobs = top_logprobs.empty() ? nullptr : top_logprobs.data();
  }
};

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

inline Sampled reference_sample(SampleCase& c) {
  Sampled out(c);
  SampleParams p = c.params();
  out.attach(&p);
  reference::sample(p);
  return out;
}

// A workspace of exactly `bytes`, 64-byte aligned, guards around.
class GuardedWorkspace {
 public:
  explicit GuardedWorkspace(uint64_t bytes)
      : bytes_(bytes), memory_(bytes + 2 * kGuard + 64, kPoisonByte) {}
  void* data() {
    const auto at = reinterpret_cast<uintptr_t>(memory_.data()) + kGuard;
    return reinterpret_cast<void*>((at + 63) / 64 * 64);
  }
  uint64_t bytes() const { return bytes_; }
  bool guards_hold() {
    const auto* begin = static_cast<const uint8_t*>(data());
    for (const uint8_t* at = memory_.data(); at < memory_.data() + memory_.size(); ++at) {
      if ((at < begin || at >= begin + bytes_) && *at != kPoisonByte) return false;
    }
    return true;
  }

 private:
  static constexpr uint64_t kGuard = 256;
  uint64_t bytes_;
  std::vector<uint8_t> memory_;
};

inline void expect_sampled(const Sampled& got, const Sampled& want) {
  EXPECT_EQ(got.status, want.status);
  EXPECT_EQ(got.tokens, want.tokens);
  EXPECT_EQ(got.top_tokens, want.top_tokens);
  EXPECT_TRUE(same_bits(got.logprobs, want.logprobs));
  EXPECT_TRUE(same_bits(got.top_logprobs, want.top_logprobs));
}

// ---- random cases -------------------------------------------------------------------------------

// Logits as models have them (a bell), with ties, -inf and wide ranges.
inline void fill_logits(SampleCase* c, int32_t dtype, float spread, uint32_t ties, Rng* rng) {
  c->make_logits(dtype);
  for (uint32_t row = 0; row < c->rows; ++row) {
    for (uint32_t t = 0; t < c->vocab; ++t) {
      float x = 0.f;
      for (int i = 0; i < 4; ++i) x += rng->uniform();
      x *= spread;
      if (ties != 0) x = std::round(x / spread * static_cast<float>(ties));
      c->set(row, t, rng->one_in(50) ? -INFINITY : double{x});
    }
    c->set(row, rng->below(c->vocab), double{spread});
  }
}

inline std::vector<float> random_shares(uint32_t rows, Rng* rng) {
  std::vector<float> v(rows);
  for (float& x : v) x = rng->pick({0.f, 1.f, 0.9f, 0.5f, 0.05f, 1e-6f, 0.999f, 0x1p-149f});
  return v;
}

inline void add_penalties(SampleCase* c, Rng* rng) {
  c->repetition.resize(c->rows);
  c->presence.resize(c->rows);
  c->frequency.resize(c->rows);
  c->history_begin = {0};
  for (uint32_t row = 0; row < c->rows; ++row) {
    c->repetition[row] = rng->pick({0.f, 1.f, 1.3f, 0.7f, 5.f});
    c->presence[row] = rng->pick({0.f, 0.5f, -1.f, 2.f});
    c->frequency[row] = rng->pick({0.f, 0.1f, -0.3f, 1.1f});
    const uint32_t n = rng->pick({0u, 1u, 7u, 60u});
    for (uint32_t i = 0; i < n; ++i) {
      c->history.push_back(static_cast<int32_t>(rng->below(rng->one_in(2) ? c->vocab : 1)));
    }
    c->output_begin.push_back(c->history_begin.back() + rng->between(0, n));
    c->history_begin.push_back(c->history_begin.back() + n);
  }
  c->history.push_back(0);  // never empty: nobody's
  if (rng->one_in(3)) c->output_begin.clear();
}

inline void add_biases(SampleCase* c, Rng* rng) {
  c->bias_begin = {0};
  for (uint32_t row = 0; row < c->rows; ++row) {
    const uint32_t n = rng->pick({0u, 1u, 5u});
    for (uint32_t i = 0; i < n; ++i) {
      c->bias_tokens.push_back(static_cast<int32_t>(rng->below(rng->one_in(2) ? c->vocab : 1)));
      c->bias_values.push_back(rng->one_in(5) ? -INFINITY : 4.f * rng->uniform());
    }
    c->bias_begin.push_back(c->bias_begin.back() + n);
  }
  c->bias_tokens.push_back(0);
  c->bias_values.push_back(100.f);
}

inline void add_mask(SampleCase* c, Rng* rng) {
  c->allowed.resize(c->rows * static_cast<size_t>(c->allowed_stride()));
  for (uint32_t& word : c->allowed) {
    word = rng->one_in(4) ? UINT32_MAX : rng->one_in(4) ? 0 : static_cast<uint32_t>(rng->next());
  }
}

inline void add_filters(SampleCase* c, Rng* rng) {
  c->temperature.resize(c->rows);
  for (float& t : c->temperature) t = rng->pick({0.f, 1.f, 0.7f, 2.5f, 0.01f, 1e-40f, 1e30f});
  if (rng->one_in(2)) {
    c->top_k.resize(c->rows);
    const int32_t vocab = static_cast<int32_t>(c->vocab);
    for (int32_t& k : c->top_k)
      k = rng->pick({0, 1, 2, 50, vocab - 1, vocab, vocab + 9, INT32_MAX});
  }
  if (rng->one_in(2)) c->top_p = random_shares(c->rows, rng);
  if (rng->one_in(2)) c->min_p = random_shares(c->rows, rng);
  if (rng->one_in(2)) c->typical_p = random_shares(c->rows, rng);
}

inline SampleCase random_sample_case(Rng* rng, uint32_t max_rows = 5) {
  SampleCase c;
  c.rows = rng->between(1, max_rows);
  c.vocab = rng->pick({1u, 2u, 31u, 63u, 64u, 65u, 200u, 1000u, 4099u});
  c.row_stride = rng->one_in(2) ? 0 : c.vocab + rng->between(1, 9);
  c.flags = rng->one_in(2) ? RADIX_SAMPLE_FINAL_LOGPROBS : 0;
  c.num_top = std::min(c.vocab, rng->pick({0u, 1u, 5u, 20u, 128u}));
  c.logprobs = rng->one_in(2);
  fill_logits(&c, rng->pick({RADIX_F32, RADIX_F16, RADIX_BF16}), rng->pick({0.1f, 1.f, 5.f, 30.f}),
              rng->pick({0u, 0u, 1u, 3u}), rng);
  if (!rng->one_in(6)) add_filters(&c, rng);
  if (rng->one_in(2)) add_penalties(&c, rng);
  if (rng->one_in(2)) add_biases(&c, rng);
  if (rng->one_in(3)) add_mask(&c, rng);
  if (rng->one_in(8))
    c.set(rng->below(c.rows), rng->below(c.vocab), rng->one_in(2) ? NAN : INFINITY);
  for (uint32_t row = 0; row < c.rows; ++row) {
    c.seeds.push_back(rng->next());
    c.positions.push_back(rng->next() >> rng->below(64));
  }
  return c;
}

// ---- drafted trees ------------------------------------------------------------------------------

// target.rows is the number of nodes; arrays that are empty are NULL.
struct VerifyCase {
  SampleCase target;
  uint32_t max_tokens = 4, flags = 0;
  bool nodes = true, status = true;
  int64_t draft_stride = 0;  // 0: vocab
  std::vector<int32_t> node_begin, draft_tokens, parents;
  std::vector<float> draft_probs;

  uint32_t seqs() const { return static_cast<uint32_t>(node_begin.size() - 1); }
  int64_t draft_row() const { return draft_stride != 0 ? draft_stride : int64_t{target.vocab}; }
  VerifyParams params() {
    VerifyParams p;
    p.flags = flags;
    p.num_seqs = seqs();
    p.max_tokens = max_tokens;
    p.target = target.params();
    p.target.num_top = 0;
    p.node_begin = node_begin.data();
    p.draft_tokens = draft_tokens.data();
    p.parents = data_or_null(parents);
    p.draft_probs = data_or_null(draft_probs);
    p.draft_row_stride = draft_row();
    return p;
  }
};

struct Verified {
  std::vector<int32_t> tokens, num_tokens, nodes, status;

  explicit Verified(const VerifyCase& c)
      : tokens(size_t{c.seqs()} * c.max_tokens, -77),
        num_tokens(c.seqs(), -77),
        nodes(c.nodes ? tokens.size() : 0, -77),
        status(c.status ? c.seqs() : 0, -77) {}
  void attach(VerifyParams* p) {
    p->out_tokens = tokens.data();
    p->out_num_tokens = num_tokens.data();
    p->out_nodes = nodes.empty() ? nullptr : nodes.data();
    p->out_status = status.empty() ? nullptr : status.data();
  }
  bool operator==(const Verified&) const = default;
};

inline Verified reference_verify(VerifyCase& c) {
  Verified out(c);
  VerifyParams p = c.params();
  out.attach(&p);
  reference::verify(p);
  return out;
}

inline void expect_verified(const Verified& got, const Verified& want) {
  EXPECT_EQ(got.status, want.status);
  EXPECT_EQ(got.num_tokens, want.num_tokens);
  EXPECT_EQ(got.tokens, want.tokens);
  EXPECT_EQ(got.nodes, want.nodes);
}

// Probabilities as a draft model has them: near the target's logits, or far away, some 0.
inline void add_draft_probs(VerifyCase* c, Rng* rng) {
  const uint32_t vocab = c->target.vocab;
  c->draft_probs.assign(static_cast<size_t>(c->draft_row()) * c->target.rows, NAN);
  for (uint32_t row = 0; row < c->target.rows; ++row) {
    float* q = c->draft_probs.data() + row * c->draft_row();
    const bool close = rng->one_in(2);
    double sum = 0;
    for (uint32_t t = 0; t < vocab; ++t) {
      const double x = c->target.logits.get(row * c->target.stride() + t);
      const double like = std::isfinite(x) ? std::exp(std::min(x, 30.)) : 0.;
      q[t] = static_cast<float>(close ? like : 1. + double{rng->uniform()});
      if (rng->one_in(4)) q[t] = 0.f;
      sum += double{q[t]};
    }
    if (rng->one_in(10)) sum = 0;  // a row of zeros
    for (uint32_t t = 0; t < vocab; ++t) q[t] = sum > 0 ? static_cast<float>(q[t] / sum) : 0.f;
    if (rng->one_in(6)) q[rng->below(vocab)] = rng->pick({NAN, -1.f, 2.f, INFINITY});
  }
}

inline VerifyCase random_verify_case(Rng* rng) {
  VerifyCase c;
  c.target = random_sample_case(rng, 16);
  c.target.num_top = 0;
  if (c.target.vocab > 8 && rng->one_in(2)) {
    c.target.vocab = 8;  // so that drafts stand now and then
    c.target.allowed.clear();
    c.target.history.clear();
    c.target.bias_tokens.clear();
    c.target.row_stride = c.target.stride() + 1000;
    fill_logits(&c.target, RADIX_F32, 1.f, 0, rng);
    if (rng->one_in(2)) {  // uncut, so that children are rejected one after the other
      c.target.temperature.assign(c.target.rows, 1.f);
      for (auto* v : {&c.target.top_p, &c.target.min_p, &c.target.typical_p}) v->clear();
      c.target.top_k.clear();
    }
  }
  c.target.row_stride = c.target.stride();
  c.max_tokens = rng->between(1, 5);
  c.flags = rng->one_in(2) ? RADIX_VERIFY_NO_REPLACEMENT : 0;
  const auto rows = static_cast<int32_t>(c.target.rows);
  c.node_begin = {0};
  while (c.node_begin.back() < rows) {
    c.node_begin.push_back(c.node_begin.back() + static_cast<int32_t>(rng->between(0, 9)));
  }
  if (rng->one_in(20)) c.node_begin.back() = rng->pick({-5, rows, INT32_MAX});
  const bool wild = rng->one_in(10);
  const bool chain = rng->one_in(3);
  for (uint32_t seq = 0; seq < c.seqs(); ++seq) {
    for (int32_t i = c.node_begin[seq]; i < std::min(c.node_begin[seq + 1], rows); ++i) {
      const int32_t node = i - c.node_begin[seq];
      c.draft_tokens.push_back(static_cast<int32_t>(rng->below(std::min(c.target.vocab, 5u))));
      if (rng->one_in(20)) c.draft_tokens.back() = rng->pick({-1, INT32_MIN, INT32_MAX});
      if (!chain)
        c.parents.push_back(node > 0 ? static_cast<int32_t>(rng->below(static_cast<uint32_t>(node)))
                                     : 7);
      if (!chain && wild) c.parents.back() = rng->pick({-3, 0, 1, 2, INT32_MAX, node});
    }
  }
  c.draft_tokens.resize(c.target.rows, 0);
  if (!chain) c.parents.resize(c.target.rows, 0);
  if (rng->one_in(3)) return c;
  c.draft_stride = rng->one_in(2) ? 0 : c.target.vocab + 3;
  add_draft_probs(&c, rng);
  return c;
}

}  // namespace radixattn::test
