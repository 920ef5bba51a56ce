// Attention through plans that share: the numbers of launches without a plan, after any history,
// and the same bits in every way where they are promised.
#include <cmath>

#include "plan_support.h"

namespace api_test {
namespace {

constexpr int64_t kHeads = 4, kDim = 32;

struct Result {
  std::vector<float> out, lse;
};

class Attention {
 public:
  explicit Attention(Ctx* ctx) : ctx_(*ctx) {
    radix_config c = sized<radix_config>();
    EXPECT_OK(radix_ctx_get_config(ctx_, &c));
    for (uint32_t layer = 0; layer < 2; ++layer) {
      radix_tensor k = {}, v = {};
      EXPECT_OK(radix_ctx_kv_tensor(ctx_, layer, &k, &v));
      for (uint32_t i = 0; i < c.num_blocks * c.block_size * 2 * kDim; ++i) {
        static_cast<float*>(k.data)[i] = value(layer, i);
        static_cast<float*>(v.data)[i] = value(layer + 9, i);
      }
    }
  }
  // Row i of q depends on the request and the position alone: `first_row[s]` says which.
  void queries(const std::vector<uint32_t>& seeds) {
    q_.resize(seeds.size() * kHeads * kDim);
    for (size_t r = 0; r < seeds.size(); ++r)
      for (uint32_t i = 0; i < kHeads * kDim; ++i)
        q_[r * kHeads * kDim + i] = 2 * value(seeds[r], i);
  }
  Result run(radix_attn a, int64_t padded_rows) {
    const auto rows = static_cast<int64_t>(q_.size() / (kHeads * kDim));
    std::vector<float> q = q_;
    const int64_t all = padded_rows > rows ? padded_rows : rows;
    q.resize(static_cast<size_t>(all * kHeads * kDim));
    Result r = {std::vector<float>(q.size(), 7.f),
                std::vector<float>(static_cast<size_t>(all * kHeads), 7.f)};
    a.q = tensor(q.data(), RADIX_F32, {all, kHeads, kDim});
    a.out = tensor(r.out.data(), RADIX_F32, {all, kHeads, kDim});
    a.lse = tensor(r.lse.data(), RADIX_F32, {all, kHeads});
    a.layer = 1;
    EXPECT_OK(a.cu_q_lens != nullptr ? radix_prefill_launch(ctx_, &a, nullptr)
                                     : radix_paged_attention_launch(ctx_, &a, nullptr));
    r.out.resize(static_cast<size_t>(rows * kHeads * kDim));
    r.lse.resize(static_cast<size_t>(rows * kHeads));
    return r;
  }
  // The same step with the caller's own arrays.
  Result run_plainly(const std::vector<radix_req>& reqs, const std::vector<int32_t>* q_lens,
                     uint32_t window, uint32_t flags) {
    const auto n = static_cast<uint32_t>(reqs.size());
    std::vector<int32_t> table(n * kRow + 1), lens(n + 1), cu = {0};
    EXPECT_OK(
        radix_get_block_tables(ctx_, reqs.data(), n, table.data(), kRow, lens.data(), nullptr));
    radix_attn a = sized<radix_attn>();
    a.flags = flags;
    a.window = window;
    a.num_seqs = n;
    a.block_tables = table.data();
    a.block_table_stride = kRow;
    a.context_lens = lens.data();
    for (uint32_t s = 0; s < n; ++s)
      a.max_context_len = std::max(a.max_context_len, static_cast<uint32_t>(lens[s]));
    if (q_lens != nullptr) {
      for (const int32_t q : *q_lens) cu.push_back(cu.back() + q);
      a.cu_q_lens = cu.data();
      a.max_query_len = 64;
    }
    const auto rows = static_cast<int64_t>(q_.size() / (kHeads * kDim));
    a.q = tensor(nullptr, RADIX_F32, {rows, kHeads, kDim});
    uint64_t bytes = 0;
    EXPECT_OK(radix_attn_workspace(ctx_, &a, &bytes));
    std::vector<char> space(bytes + 64);
    a.workspace = space.data() + (64 - reinterpret_cast<uintptr_t>(space.data()) % 64) % 64;
    a.workspace_size = bytes;
    return run(a, rows);
  }
  static constexpr int64_t kRow = 200;

 private:
  Ctx& ctx_;
  std::vector<float> q_;
};

void expect_close(const Result& a, const Result& b) {
  ASSERT_EQ(a.out.size(), b.out.size());
  for (size_t i = 0; i < a.out.size(); ++i) ASSERT_NEAR(a.out[i], b.out[i], 2e-5) << i;
  for (size_t i = 0; i < a.lse.size(); ++i) {
    if (std::isinf(b.lse[i])) {
      ASSERT_EQ(a.lse[i], b.lse[i]) << i;
    } else {
      ASSERT_NEAR(a.lse[i], b.lse[i], 2e-5) << i;
    }
  }
}

// Requests that share a long beginning, and what grows from them.
class Requests {
 public:
  Requests(Ctx* ctx, uint64_t seed) : ctx_(*ctx), rng_(seed) {
    const radix_req root = ctx_.start(some(400 + below(800)));
    live_ = {root};
    ctx_.commit(root);
  }
  uint32_t below(uint32_t n) { return static_cast<uint32_t>(rng_() % n); }
  const std::vector<radix_req>& live() const { return live_; }
  void move() {
    if (live_.size() < 10 && below(2) == 0) {
      radix_req child = 0;
      EXPECT_OK(radix_fork(ctx_, live_[below(size())], 1, &child));
      live_.push_back(child);
    }
    const uint32_t what = below(8);
    if (what == 0 && live_.size() > 2) {
      const uint32_t i = below(size());
      ctx_.free(live_[i]);
      live_.erase(live_.begin() + i);
    } else if (what == 1) {
      EXPECT_EQ(ctx_.append(live_[below(size())], some(1 + below(60))).status, RADIX_OK);
    } else {
      for (const radix_req r : live_) EXPECT_EQ(ctx_.append(r, some(1)).status, RADIX_OK);
    }
    for (size_t i = 0; i < live_.size();) {  // the plan's room
      const bool full = ctx_.info(live_[i]).num_tokens > 1500;
      if (full && live_.size() > 1) {
        ctx_.free(live_[i]);
        live_.erase(live_.begin() + static_cast<long>(i));
      } else if (full) {
        EXPECT_OK(radix_truncate(ctx_, live_[i], 1300));
      } else {
        ++i;
      }
    }
  }

 private:
  uint32_t size() const { return static_cast<uint32_t>(live_.size()); }
  Tokens some(uint32_t n) {
    Tokens t;
    for (uint32_t i = 0; i < n; ++i) t.push_back(static_cast<int32_t>(below(1000)));
    return t;
  }
  Ctx& ctx_;
  std::mt19937_64 rng_;
  std::vector<radix_req> live_;
};

TEST(PlanAttention, IsThatOfLaunchesWithoutAPlanAfterAnyHistory) {
  uint64_t seen = 0, read = 0;
  bool lists = false;
  for (uint64_t seed = 1; seed <= 24; ++seed) {
    Ctx ctx(small_config(2400, 8));
    Attention attention(&ctx);
    Requests requests(&ctx, seed);
    const bool invariant = seed % 3 == 0, bounds = seed % 2 == 0;
    const uint32_t window = seed % 4 == 1 ? 1 + requests.below(900) : 0;
    const uint32_t flags =
        (invariant ? RADIX_PLAN_BATCH_INVARIANT : 0) | (bounds ? RADIX_PLAN_BOUNDS : 0);
    radix_plan_config c = plan_config(12, 12 * 40, flags);
    c.max_query_len = 64;
    c.max_context_len = 1600;
    c.window = window;
    Plan plan(ctx, c);
    for (int step = 0; step < 25; ++step) {
      SCOPED_TRACE("seed " + std::to_string(seed) + " step " + std::to_string(step));
      requests.move();
      const std::vector<radix_req>& reqs = requests.live();
      std::vector<int32_t> q_lens;
      const bool prefill = requests.below(4) == 0;
      std::vector<uint32_t> rows;
      for (const radix_req r : reqs) {
        q_lens.push_back(prefill ? static_cast<int32_t>(requests.below(30)) : 1);
        for (int32_t i = 0; i < q_lens.back(); ++i)
          rows.push_back(static_cast<uint32_t>(r) * 1000 + static_cast<uint32_t>(i));
      }
      const std::vector<int32_t>* queries = prefill ? &q_lens : nullptr;
      attention.queries(rows);
      ASSERT_OK(plan.update(reqs, queries));
      radix_attn a = plan.attn();
      a.window = window;
      const Result planned = attention.run(a, bounds ? (prefill ? 12 * 40 : 12) : 0);
      const Result plain = attention.run_plainly(
          reqs, queries, window, invariant ? uint32_t{RADIX_ATTN_BATCH_INVARIANT} : 0);
      if (invariant) {
        ASSERT_EQ(planned.out, plain.out);
        ASSERT_EQ(planned.lse, plain.lse);
      } else {
        expect_close(planned, plain);
      }
      if (HasFatalFailure()) return;
      seen += plan.info().tokens_seen;
      read += plan.info().tokens_read;
      lists |= plan.info().num_items > 0;
    }
  }
  EXPECT_TRUE(lists);
  EXPECT_LT(read, seen - seen / 10);
}

}  // namespace
}  // namespace api_test
