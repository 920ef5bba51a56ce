// What the tests of plans share, on the CPU and on the simulated device: an engine that does
// anything, and what a plan must then hold.
#pragma once

#include <functional>
#include <random>

#include "api_support.h"

namespace api_test {

// A plan of a context, destroyed before it.
class Plan {
 public:
  Plan(radix_ctx* ctx, const radix_plan_config& config) {
    EXPECT_OK(radix_plan_create(ctx, &config, &plan_));
  }
  ~Plan() { radix_plan_destroy(&plan_); }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  operator radix_plan*() const { return plan_; }  // NOLINT(google-explicit-constructor)

  radix_status update(const std::vector<radix_req>& reqs, const std::vector<int32_t>* q_lens,
                      radix_stream s = nullptr, uint32_t flags = 0) {
    radix_plan_desc d = sized<radix_plan_desc>();
    d.flags = flags;
    d.num_seqs = static_cast<uint32_t>(reqs.size());
    d.reqs = reqs.data();
    static const int32_t kNone = 0;
    if (q_lens != nullptr) d.q_lens = q_lens->empty() ? &kNone : q_lens->data();
    return radix_plan_update(plan_, &d, s);
  }
  radix_plan_info info() const {
    radix_plan_info i = sized<radix_plan_info>();
    EXPECT_OK(radix_plan_get_info(plan_, &i));
    return i;
  }
  radix_attn attn() const {
    radix_attn a = sized<radix_attn>();
    EXPECT_OK(radix_plan_attn(plan_, &a));
    return a;
  }
  radix_rope_append rope() const {
    radix_rope_append w = sized<radix_rope_append>();
    EXPECT_OK(radix_plan_rope(plan_, &w));
    return w;
  }

 private:
  radix_plan* plan_ = nullptr;
};

inline radix_plan_config plan_config(uint32_t max_seqs, uint32_t max_query_tokens = 0,
                                     uint32_t flags = 0) {
  radix_plan_config c = sized<radix_plan_config>();
  c.flags = flags;
  c.max_seqs = max_seqs;
  c.max_query_tokens = max_query_tokens;
  c.num_q_heads = 4;
  return c;
}

// Requests that begin, grow, fork, shrink, publish and end.
class Engine {
 public:
  Engine(Ctx* ctx, uint64_t seed) : ctx_(*ctx), rng_(seed) {}
  uint32_t below(uint32_t n) { return static_cast<uint32_t>(rng_() % n); }
  const std::vector<radix_req>& live() const { return live_; }

  void move() {
    const uint32_t what = live_.empty() ? 0 : below(8);
    if (what <= 1) return begin();
    const uint32_t i = below(static_cast<uint32_t>(live_.size()));
    const radix_req r = live_[i];
    const auto have = static_cast<uint32_t>(ctx_.info(r).num_tokens);
    if (what <= 4) {
      grow(r, 1 + below(what == 2 ? 11 : 1));
    } else if (what == 5) {
      ctx_.commit(r);
    } else if (what == 6) {
      if (live_.size() < 12) fork(r);
    } else if (below(3) == 0) {
      ctx_.free(r);
      live_.erase(live_.begin() + i);
    } else if (have > 0) {
      EXPECT_OK(radix_truncate(ctx_, r, below(have + 1)));
    }
  }

 private:
  Tokens some(uint32_t n) {
    Tokens t;
    for (uint32_t i = 0; i < n; ++i) t.push_back(static_cast<int32_t>(below(2)));
    return t;
  }
  void begin() {
    if (live_.size() >= 12) return;
    const radix_req r = ctx_.begin(some(below(30)));
    live_.push_back(r);
    grow(r, below(9));
  }
  void grow(radix_req r, uint32_t n) {
    if (ctx_.append(r, some(n)).status == RADIX_OK) return;
    ctx_.free(live_[0]);  // no blocks left: the oldest makes room
    live_.erase(live_.begin());
  }
  void fork(radix_req r) {
    radix_req child = 0;
    EXPECT_OK(radix_fork(ctx_, r, 1, &child));
    live_.push_back(child);
  }

  Ctx& ctx_;
  std::mt19937_64 rng_;
  std::vector<radix_req> live_;
};

// Reads an array of the context's device.
using Read = std::function<void(void* host, const void* device, size_t bytes)>;

template <class T>
std::vector<T> fetch(const Read& read, const T* from, size_t n) {
  std::vector<T> host(n);
  if (n > 0) read(host.data(), from, n * sizeof(T));
  return host;
}

// The plan holds exactly the step of these requests, and padding behind it.
inline void expect_step(Ctx* ctx, const Plan& plan, const std::vector<radix_req>& reqs,
                        const std::vector<int32_t>* q_lens, uint32_t max_seqs,
                        uint32_t max_query_tokens, bool bounds, const Read& read) {
  const radix_attn a = plan.attn();
  const radix_rope_append w = plan.rope();
  const auto n = static_cast<uint32_t>(reqs.size());
  ASSERT_EQ(a.num_seqs, bounds ? max_seqs : n);
  ASSERT_EQ(a.plan, static_cast<radix_plan*>(plan));
  const auto lens = fetch(read, a.context_lens, a.num_seqs);
  const auto table =
      fetch(read, a.block_tables, a.num_seqs * static_cast<size_t>(a.block_table_stride));
  const auto slots = fetch(read, w.slots, w.num_tokens);
  const auto positions = fetch(read, w.positions, w.num_tokens);
  radix_config c = sized<radix_config>();
  ASSERT_OK(radix_ctx_get_config(*ctx, &c));
  std::vector<int32_t> cu = {0};
  for (uint32_t s = 0; s < n; ++s) {
    const std::vector<int32_t> row = ctx->row(reqs[s]);
    const auto length = static_cast<int32_t>(ctx->info(reqs[s]).num_tokens);
    ASSERT_EQ(lens[s], length);
    for (size_t j = 0; j < row.size() && j < static_cast<size_t>(a.block_table_stride); ++j)
      ASSERT_EQ(table[s * static_cast<size_t>(a.block_table_stride) + j], row[j])
          << "row " << s << " entry " << j;
    const int32_t queries = q_lens != nullptr ? (*q_lens)[s] : 1;
    for (int32_t t = 0; t < queries; ++t) {
      const int32_t position = length - queries + t;
      const auto at = static_cast<size_t>(cu.back() + t);
      const auto block = static_cast<uint32_t>(position) / c.block_size;
      ASSERT_EQ(slots[at], position < 0 ? -1
                                        : int64_t{row[block]} * c.block_size +
                                              position % static_cast<int32_t>(c.block_size));
      ASSERT_EQ(positions[at], position < 0 ? 0 : position);
    }
    cu.push_back(cu.back() + queries);
  }
  const uint32_t rows = q_lens != nullptr ? max_query_tokens : max_seqs;
  ASSERT_EQ(w.num_tokens, bounds ? rows : static_cast<uint32_t>(cu.back()));
  for (size_t t = static_cast<size_t>(cu.back()); t < w.num_tokens; ++t) ASSERT_EQ(slots[t], -1);
  for (uint32_t s = n; s < a.num_seqs; ++s) ASSERT_EQ(lens[s], 0);
  ASSERT_EQ(a.cu_q_lens == nullptr, q_lens == nullptr);
  if (q_lens == nullptr) return;
  cu.resize(a.num_seqs + 1, cu.back());
  ASSERT_EQ(fetch(read, a.cu_q_lens, a.num_seqs + 1), cu);
}

// Some of the live requests and how many of their tokens are queries.
struct Choice {
  std::vector<radix_req> reqs;
  std::vector<int32_t> q_lens;
  bool prefill = false;
  const std::vector<int32_t>* queries() const { return prefill ? &q_lens : nullptr; }
};

inline Choice choose(Ctx* ctx, Engine* engine, uint32_t max_seqs, uint32_t max_query_tokens) {
  Choice choice;
  choice.prefill = engine->below(2) == 0;
  uint32_t left = max_query_tokens;
  for (const radix_req r : engine->live()) {
    if (choice.reqs.size() == max_seqs || engine->below(4) == 0) continue;
    const auto length = static_cast<uint32_t>(ctx->info(r).num_tokens);
    const uint32_t most = length < left ? length : left;
    choice.reqs.push_back(r);
    choice.q_lens.push_back(static_cast<int32_t>(engine->below(most + 1)));
    left -= static_cast<uint32_t>(choice.q_lens.back());
  }
  return choice;
}

}  // namespace api_test
