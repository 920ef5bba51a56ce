// Sharing within one step: borrowing blocks that another request is computing.
#include "cache_fixture.h"

namespace radixattn {
namespace {

constexpr uint32_t kShare = RADIX_BEGIN_SHARE_PENDING;

TEST(SharePending, BorrowsFullBlocksOfALiveRequest) {
  Cache cache(16, 2);
  const radix_req lender = cache.start(range(0, 7));
  const radix_req r = cache.begin(range(0, 7) + Tokens{8}, kShare);
  EXPECT_EQ(cache.last_match().cached_tokens, 0u);
  EXPECT_EQ(cache.last_match().pending_tokens, 6u);
  EXPECT_EQ(cache.info(r).ready_tokens, 6u);
  EXPECT_EQ(cache.info(r).pending_tokens, 6u);
  EXPECT_EQ(cache.row(r)[2], cache.row(lender)[2]);
  EXPECT_EQ(cache.stats().tokens_borrowed, 6u);
}

TEST(SharePending, NotWithoutTheFlag) {
  Cache cache(16, 2);
  cache.start(range(0, 7));
  EXPECT_EQ(cache.info(cache.begin(range(0, 8))).num_tokens, 0u);
}

TEST(SharePending, LeavesTheLastTokenToCompute) {
  Cache cache(16, 2);
  cache.start(range(0, 6));
  EXPECT_EQ(cache.info(cache.begin(range(0, 6), kShare)).num_tokens, 4u);
  EXPECT_EQ(cache.info(cache.begin(range(0, 6), kShare | RADIX_BEGIN_MATCH_ALL)).num_tokens, 6u);
}

TEST(SharePending, GoesOnFromTheCachedPart) {
  Cache cache(16, 2);
  cache.remember(range(0, 4));
  cache.start(range(0, 9));
  const radix_req r = cache.begin(range(0, 9), kShare);
  EXPECT_EQ(cache.info(r).cached_tokens, 4u);
  EXPECT_EQ(cache.info(r).pending_tokens, 4u);
}

TEST(SharePending, TheLendersCommitMakesItCached) {
  Cache cache(16, 2);
  const radix_req lender = cache.start(range(0, 7));
  const radix_req r = cache.start(range(0, 6) + Tokens{9, 9}, kShare);
  cache.commit(lender);
  EXPECT_EQ(cache.info(r).pending_tokens, 0u);
  EXPECT_EQ(cache.info(r).committed_tokens, 6u);
  cache.free(lender);
  EXPECT_EQ(cache.info(r).ready_tokens, 6u);
  EXPECT_EQ(cache.commit(r).published_blocks, 1u);
}

TEST(SharePending, TheLendersEndBreaksThePromise) {
  Cache cache(16, 2);
  const radix_req lender = cache.start(range(0, 7));
  const radix_req shorter = cache.begin(range(0, 5), kShare);
  const radix_req longer = cache.begin(range(0, 8), kShare);
  const std::vector<int32_t> row = cache.row(longer);
  cache.free(lender);
  EXPECT_EQ(cache.info(longer).ready_tokens, 0u) << "the one that shares most computes";
  EXPECT_EQ(cache.info(longer).pending_tokens, 0u);
  EXPECT_EQ(cache.row(longer), row) << "into the blocks it names already";
  EXPECT_EQ(cache.info(shorter).ready_tokens, 4u) << "the others borrow from it";
  EXPECT_EQ(cache.info(shorter).pending_tokens, 4u);
  cache.commit(longer, 6);
  EXPECT_EQ(cache.info(shorter).committed_tokens, 4u);
  EXPECT_EQ(cache.info(shorter).pending_tokens, 0u);
}

TEST(SharePending, ATruncatedLenderKeepsWhatItStillHas) {
  Cache cache(16, 2);
  const radix_req lender = cache.start(range(0, 8));
  const radix_req r = cache.begin(range(0, 9), kShare);
  cache.truncate(lender, 5);
  EXPECT_EQ(cache.info(r).pending_tokens, 4u);
  EXPECT_EQ(cache.info(r).ready_tokens, 4u);
  EXPECT_EQ(cache.info(r).num_tokens, 8u);
  cache.truncate(lender, 1);
  EXPECT_EQ(cache.info(r).ready_tokens, 0u);
}

TEST(SharePending, ABorrowerDoesNotLendAndDoesNotFork) {
  Cache cache(16, 2);
  const radix_req lender = cache.start(range(0, 6));
  const radix_req r = cache.start(range(0, 6) + range(20, 24), kShare);
  radix_req child = 0;
  EXPECT_EQ(cache->fork(r, 1, &child), RADIX_E_STATE);
  EXPECT_EQ(cache.info(cache.begin(range(0, 6) + range(20, 25), kShare)).pending_tokens, 6u)
      << "from the lender only";
  cache.commit(lender);
  EXPECT_EQ(cache->fork(r, 1, &child), RADIX_OK);
}

TEST(SharePending, UnknownTokensAreNotLent) {
  Cache cache(16, 2);
  const radix_req lender = cache.begin({});
  cache.append({{lender, nullptr, 4, 0}});
  EXPECT_EQ(cache.info(cache.begin(range(0, 5), kShare)).pending_tokens, 0u);
}

TEST(SharePending, OtherNamespacesAndKeysAreNotLent) {
  Cache cache(16, 2);
  cache.start(range(0, 4), 0, 0, 5);
  EXPECT_EQ(cache.info(cache.begin(range(0, 5), kShare, 0, 6)).pending_tokens, 0u);
  EXPECT_EQ(cache.info(cache.begin(range(0, 5), kShare, 0, 5)).pending_tokens, 4u);
}

TEST(SharePending, ACutBorrowedBlockMustBeComputedAgain) {
  Cache cache(16, 4);
  cache.start(range(0, 8));
  const radix_req r = cache.begin(range(0, 9), kShare);
  cache.truncate(r, 6);
  EXPECT_EQ(cache.info(r).ready_tokens, 4u);
  EXPECT_EQ(cache.append(r, {77}).ops.size(), 1u);
}

}  // namespace
}  // namespace radixattn
