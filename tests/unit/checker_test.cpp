// check() finds what is broken: each test breaks one thing behind the cache's back, sees it found,
// and mends it.
#include "cache_fixture.h"

namespace radixattn {

struct CacheTestAccess {
  CacheManager& m;
  BlockPool& pool() { return m.pool_; }
  RequestTable& requests() { return m.requests_; }
  Namespace& space(uint32_t ns) { return m.namespaces_[ns]; }
  RadixTree::Node& node(uint32_t id) { return m.tree_.nodes_[id]; }
  int32_t& tree_token(uint32_t unit) { return m.tree_.tokens_[unit]; }
  int32_t& tree_block(uint32_t unit) { return m.tree_.blocks_[unit]; }
  int32_t& slot_token(uint32_t slot) { return m.slot_tokens_[slot]; }
  uint64_t& evictable() { return m.tree_.evictable_; }
  uint32_t& namespaces_in_order() { return m.tree_.ns_queue_.count; }
  uint64_t& cached() { return m.tree_.num_cached_; }
  uint32_t some_node() {
    uint32_t id = 0;
    while (node(id).live == 0 || node(id).is_root != 0) ++id;
    return id;
  }
};

namespace {

class Checker : public ::testing::Test {
 protected:
  Checker() : cache_(16, 2), access_{cache_.manager()} {
    cache_.remember(range(0, 6));
    a_ = cache_.start(range(0, 6) + range(10, 13));
    b_ = cache_.fork(a_, 1)[0];
  }
  template <class T>
  void expect_found(T& field, T broken) {
    const T good = field;
    field = broken;
    EXPECT_EQ(cache_->check(), RADIX_E_INTERNAL);
    EXPECT_STRNE(last_message(), "");
    field = good;
    EXPECT_EQ(cache_->check(), RADIX_OK) << last_message();
  }
  Request& request(radix_req r) { return access_.requests()[id_index(r)]; }

  Cache cache_;
  CacheTestAccess access_;
  radix_req a_ = 0, b_ = 0;
};

TEST_F(Checker, CountsOfTheTree) {
  expect_found(access_.evictable(), uint64_t{5});
  expect_found(access_.cached(), uint64_t{9});
  expect_found(access_.namespaces_in_order(), uint32_t{7});
}
TEST_F(Checker, ProtectionOfANode) {
  RadixTree::Node& n = access_.node(access_.some_node());
  expect_found(n.holders, n.holders + 1);
  expect_found(n.held, n.held - 1);
  expect_found(n.protected_children, n.protected_children + 1);
}
TEST_F(Checker, TheShapeOfANode) {
  RadixTree::Node& n = access_.node(access_.some_node());
  expect_found(n.depth_blocks, 1u);
  expect_found(n.hash, n.hash + 1);
  expect_found(n.ns, 1u);
}
TEST_F(Checker, TokensOfTheTreeAndOfItsBlocks) {
  const uint32_t unit = access_.node(access_.some_node()).unit;
  expect_found(access_.tree_token(unit * 2), 77);
  expect_found(access_.tree_token(unit * 2 + 3), 77);
  expect_found(access_.slot_token(static_cast<uint32_t>(access_.tree_block(unit)) * 2), 77);
  expect_found(access_.tree_block(unit), access_.tree_block(unit + 1));
}
TEST_F(Checker, LengthsOfARequest) {
  expect_found(request(a_).num_tokens, uint64_t{7});
  expect_found(request(a_).known_tokens, uint64_t{100});
  expect_found(request(a_).commit_blocks, 2u);
  expect_found(request(a_).lease_blocks, 2u);
}
TEST_F(Checker, EntriesOfARow) {
  expect_found(request(a_).row[1], request(a_).row[0]);
  expect_found(request(a_).row[3], request(a_).row[4]);
  expect_found(request(a_).row[0], request(a_).row[0] | kPrivateBit);
}
TEST_F(Checker, References) {
  const uint32_t block = block_of(request(a_).row[3]);
  access_.pool().add_ref(block);
  EXPECT_EQ(cache_->check(), RADIX_E_INTERNAL);
  access_.pool().remove_ref(block);
  EXPECT_EQ(cache_->check(), RADIX_OK);
}
TEST_F(Checker, FamiliesAndNamespaces) {
  expect_found(request(a_).ring_next, id_index(a_));
  expect_found(access_.space(0).used, 1u);
  expect_found(access_.space(0).requests, 1u);
  expect_found(access_.space(0).pins, 1u);
}
TEST_F(Checker, AFreedRequestThatALeaseStillNames) { expect_found(request(b_).live, 0u); }

}  // namespace
}  // namespace radixattn
