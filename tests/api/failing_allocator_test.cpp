// Every allocation of a long story fails in turn, once and for ever: NOMEM, and nothing has changed
// or leaked.
#include "api_support.h"

namespace api_test {
namespace {

// One story over one context. After a NOMEM it checks that nothing changed, and tries the same call
// again.
class Story {
 public:
  Story(CountingAllocator* memory, bool retry) : memory_(memory), retry_(retry) {}
  ~Story() { radix_ctx_destroy(&ctx_); }

  // False: memory stayed out, and the story ended where it was.
  bool run() {
    radix_config c = small_config(256, 2);
    c.max_requests = 2;  // so that every table grows
    c.max_pins = 1;
    c.max_namespaces = 1;
    c.host_alloc = memory_->callbacks();
    if (!step([&] { return radix_ctx_create(&c, &ctx_); })) return false;
    for (int32_t i = 0; i < 6; ++i) {
      if (!start(range(i * 100, i * 100 + 40), 0)) return false;
    }
    std::vector<radix_req> children(5);
    const auto fork = [&] {
      children.assign(5, 0);
      const radix_status st = radix_fork(ctx_, requests_[0], 5, children.data());
      EXPECT_EQ(children[0] == 0, st != RADIX_OK) << "a failed fork writes no ids";
      return st;
    };
    if (!step(fork)) return false;
    for (size_t i = 0; i < 3; ++i) {
      if (!commit(requests_[i], 40)) return false;
    }
    const Tokens t = range(0, 40);
    const radix_request_desc d = desc_of(t);
    for (int i = 0; i < 5; ++i) {
      radix_pin p = 0;
      if (!step([&] { return radix_pin_prefix(ctx_, &d, &p, nullptr); })) return false;
    }
    for (char name = 'a'; name < 'f'; ++name) {
      radix_ns ns = 0;
      if (!step([&] { return radix_ns_create(ctx_, &name, 1, 0, &ns); })) return false;
      if (!start(range(0, 3), ns)) return false;
    }
    return true;
  }

 private:
  template <class Call>
  bool step(Call call) {
    const radix_stats before = stats();
    radix_status st = call();
    while (st == RADIX_E_NOMEM) {
      EXPECT_EQ(before.requests_live, stats().requests_live);
      EXPECT_EQ(before.blocks_free, stats().blocks_free);
      EXPECT_EQ(before.tree_nodes, stats().tree_nodes);
      EXPECT_EQ(before.clock, stats().clock);
      if (ctx_ != nullptr) {
        EXPECT_OK(radix_check(ctx_));
      }
      if (!retry_) return false;
      st = call();
    }
    EXPECT_OK(st);
    return st == RADIX_OK;
  }
  bool start(const Tokens& t, radix_ns ns) {
    const radix_request_desc d = desc_of(t, 0, ns);
    radix_req r = 0;
    if (!step([&] { return radix_begin_request(ctx_, &d, &r, nullptr); })) return false;
    requests_.push_back(r);
    const radix_append item = {r, t.data(), static_cast<uint32_t>(t.size()), 0};
    radix_append_out out = sized<radix_append_out>();
    return step([&] { return radix_append_slot(ctx_, &item, 1, &out); });
  }
  bool commit(radix_req r, uint64_t n) {
    const radix_commit_item item = {r, n};
    return step([&] { return radix_commit(ctx_, &item, 1, nullptr); });
  }
  radix_stats stats() {
    radix_stats s = sized<radix_stats>();
    if (ctx_ != nullptr) {
      EXPECT_OK(radix_get_stats(ctx_, &s));
    }
    return s;
  }

  CountingAllocator* memory_;
  bool retry_;
  radix_ctx* ctx_ = nullptr;
  std::vector<radix_req> requests_;
};

uint64_t fail_each_in_turn(bool for_ever) {
  uint64_t injected = 0;
  for (uint64_t k = 0;; ++k) {
    CountingAllocator memory;
    memory.fail_from = k;
    memory.for_ever = for_ever;
    const bool done = Story(&memory, !for_ever).run();
    EXPECT_EQ(memory.bytes, 0) << "leak after failure " << k;
    EXPECT_EQ(memory.blocks, 0);
    injected += memory.injected;
    if (memory.injected == 0) {
      EXPECT_TRUE(done);
      return injected;
    }
    EXPECT_EQ(done, !for_ever) << "failure " << k;
    if (::testing::Test::HasFailure()) return injected;
  }
}

TEST(FailingAllocator, OnceAndThenRetried) {
  const uint64_t injected = fail_each_in_turn(false);
  std::printf("%llu failures injected\n", static_cast<unsigned long long>(injected));
  EXPECT_GT(injected, 40u);
}

TEST(FailingAllocator, ForEver) {
  const uint64_t injected = fail_each_in_turn(true);
  std::printf("%llu failures injected\n", static_cast<unsigned long long>(injected));
  EXPECT_GT(injected, 40u);
}

}  // namespace
}  // namespace api_test
