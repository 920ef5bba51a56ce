// append, set_tokens, block tables: slots, exact shortfalls, all or nothing.
#include "cache_fixture.h"

namespace radixattn {
namespace {

TEST(Append, TwentyTokensInBlocksOfSixteenTakeTwoBlocks) {
  Cache cache(8, 16);
  const radix_req r = cache.begin({});
  const Appended a = cache.append(r, range(0, 20));
  const std::vector<int32_t> row = cache.row(r);
  ASSERT_EQ(row.size(), 2u);
  for (size_t i = 0; i < 20; ++i) {
    EXPECT_EQ(a.slots[i], int64_t{row[i / 16]} * 16 + static_cast<int64_t>(i % 16));
  }
  EXPECT_EQ(cache.stats().blocks_free, 6u);
}

TEST(Append, TwoFreedRequestsGiveTheirBlocksBack) {
  Cache cache(4, 16);
  const radix_req a = cache.start(range(0, 20));
  const radix_req b = cache.start(range(100, 120));
  EXPECT_EQ(cache.stats().blocks_free, 0u);
  cache.free(a);
  EXPECT_EQ(cache.stats().blocks_free, 2u);
  cache.free(b);
  EXPECT_EQ(cache.stats().blocks_free, 4u);
}

TEST(Append, FillsTheLastBlockBeforeTakingAnother) {
  Cache cache(8, 4);
  const radix_req r = cache.start({1, 2, 3});
  EXPECT_EQ(cache.append(r, {4}).slots[0], int64_t{cache.row(r)[0]} * 4 + 3);
  EXPECT_EQ(cache.info(r).num_blocks, 1u);
  cache.append(r, {5});
  EXPECT_EQ(cache.info(r).num_blocks, 2u);
}

TEST(Append, SaysExactlyHowManyBlocksAreShortAndChangesNothing) {
  Cache cache(4, 2);
  const radix_req keep = cache.start(range(0, 4));
  const radix_req r = cache.begin({});
  const Appended a = cache.append(r, range(10, 17));  // 4 blocks, 2 free
  EXPECT_EQ(a.status, RADIX_E_NO_BLOCKS);
  EXPECT_EQ(a.out.short_blocks, 2u);
  EXPECT_EQ(a.out.num_done, 0u);
  EXPECT_EQ(cache.info(r).num_tokens, 0u);
  EXPECT_EQ(cache.stats().blocks_free, 2u);
  cache.free(keep);
  EXPECT_EQ(cache.append(r, range(10, 18)).status, RADIX_OK) << "4 blocks fit now";
}

TEST(Append, EvictsWhatItNeedsAndNoMore) {
  Cache cache(4, 2);
  cache.remember(range(0, 6));
  const radix_req r = cache.begin({});
  const Appended a = cache.append(r, {9, 9, 9});
  EXPECT_EQ(a.status, RADIX_OK);
  EXPECT_EQ(a.out.evicted_blocks, 1u);
  EXPECT_EQ(cache.peek(range(0, 6)), 4u) << "the tail went";
  EXPECT_EQ(cache.stats().blocks_evicted, 1u);
}

TEST(Append, NeverEvictsWhatALiveRequestLeases) {
  Cache cache(4, 2);
  cache.remember(range(0, 6));
  const radix_req holder = cache.begin(range(0, 7));
  const radix_req r = cache.begin({});
  const Appended a = cache.append(r, {9, 9, 9});
  EXPECT_EQ(a.status, RADIX_E_NO_BLOCKS);
  EXPECT_EQ(a.out.short_blocks, 1u);
  EXPECT_EQ(cache.info(holder).cached_tokens, 6u);
}

TEST(Append, PolicyNoneNeverEvictsButEvictDoes) {
  CacheConfig config = Cache::config_of(4, 2);
  config.policy = RADIX_EVICT_NONE;
  Cache cache(config);
  cache.remember(range(0, 6));
  const radix_req r = cache.begin({});
  EXPECT_EQ(cache.append(r, {9, 9, 9}).status, RADIX_E_NO_BLOCKS);
  EXPECT_EQ(cache.evict(1), 1u);
  EXPECT_EQ(cache.append(r, {9, 9, 9}).status, RADIX_OK);
}

TEST(Append, ABatchTakesAllOrNothing) {
  Cache cache(4, 2);
  const radix_req a = cache.begin({}), b = cache.begin({});
  const Tokens t = range(0, 6);
  const Appended both = cache.append({{a, t.data(), 4, 0}, {b, t.data(), 6, 0}});
  EXPECT_EQ(both.status, RADIX_E_NO_BLOCKS);
  EXPECT_EQ(both.out.short_blocks, 1u);
  EXPECT_EQ(cache.info(a).num_tokens, 0u);
}

TEST(Append, PartialTakesTheItemsBeforeTheFirstThatFails) {
  Cache cache(4, 2);
  const radix_req a = cache.begin({}), b = cache.begin({}), c = cache.begin({});
  const Tokens t = range(0, 6);
  const Appended some = cache.append(
      {{a, t.data(), 4, 0}, {b, t.data(), 6, 0}, {c, t.data(), 1, 0}}, RADIX_APPEND_PARTIAL);
  EXPECT_EQ(some.status, RADIX_E_NO_BLOCKS);
  EXPECT_EQ(some.out.num_done, 1u);
  EXPECT_EQ(some.slots.size(), 4u);
  EXPECT_EQ(some.out.short_blocks, 1u);
  EXPECT_EQ(cache.info(a).num_tokens, 4u);
  EXPECT_EQ(cache.info(c).num_tokens, 0u);
}

TEST(Append, ARequestStandsInABatchOnce) {
  Cache cache;
  const radix_req a = cache.begin({});
  const Tokens t = {1};
  EXPECT_EQ(cache.append({{a, t.data(), 1, 0}, {a, t.data(), 1, 0}}).status, RADIX_E_INVALID);
  EXPECT_EQ(cache.append({{a, t.data(), 1, 0}}).status, RADIX_OK);
}

TEST(Append, TooSmallArraysSayWhatIsNeeded) {
  Cache cache(8, 4);
  const radix_req parent = cache.start({1, 2, 3});
  const radix_req child = cache.fork(parent, 1)[0];
  const Tokens t = {4, 5};
  const radix_append item = {child, t.data(), 2, 0};
  int64_t slots[2];
  radix_append_out out = {};
  out.slots = slots;
  out.slots_cap = 1;
  EXPECT_EQ(cache->append(&item, 1, &out), RADIX_E_BUFFER);
  EXPECT_EQ(out.num_slots, 2u);
  EXPECT_EQ(out.num_ops, 1u);
  EXPECT_EQ(cache.info(child).num_tokens, 3u);
  EXPECT_EQ(cache->append(&item, 1, &out), RADIX_E_BUFFER) << "room for slots, none for the copy";
}

TEST(Append, PartialNamesTheItemByItsPlaceInTheCall) {
  Cache cache(4, 2);
  const radix_req a = cache.begin({}), b = cache.begin({});
  const Tokens t = {1};
  const radix_append items[3] = {{a, t.data(), 1, 0}, {b, t.data(), 1, 0}, {a, t.data(), 1, 0}};
  EXPECT_EQ(cache.append({items, items + 3}, RADIX_APPEND_PARTIAL).status, RADIX_E_INVALID);
  EXPECT_EQ(std::string(last_message()).find("items[2].req"), 0u) << last_message();
}

TEST(Append, WhatCannotBeServedTakesNoMemory) {
  CacheConfig config = Cache::config_of(16, 1);
  config.max_blocks_per_request = 1u << 30;
  Cache cache(config);
  const radix_req r = cache.begin({});
  const uint64_t before = cache.host_bytes();
  const Appended a = cache.append({{r, nullptr, 4096, 0}});
  EXPECT_EQ(a.status, RADIX_E_NO_BLOCKS);
  EXPECT_EQ(a.out.short_blocks, 4080u);
  EXPECT_EQ(cache.host_bytes(), before);
}

TEST(Append, QuotasCountBeyondThirtyTwoBits) {
  CacheConfig config = Cache::config_of(16, 1);
  config.max_blocks_per_request = UINT32_MAX;
  Cache cache(config);
  radix_ns ns = 0;
  ASSERT_EQ(cache->ns_create("q", 1, 2, &ns), RADIX_OK);
  std::vector<radix_append> items;
  for (int i = 0; i < 4; ++i) items.push_back({cache.begin({}, 0, ns), nullptr, 1u << 30, 0});
  radix_append_out out = {};
  EXPECT_EQ(cache->append(items.data(), 4, &out), RADIX_E_QUOTA);
  EXPECT_EQ(out.short_blocks, UINT32_MAX - 1) << "2^32 wanted, 2 allowed";
}

TEST(Append, PartialCountsTheOperationsThatMustRun) {
  Cache cache(16, 4);
  const radix_req a = cache.start({1, 2, 3}), b = cache.start({5, 6});
  cache.fork(a, 1);
  cache.fork(b, 1);
  const Tokens t = {9};
  const radix_append items[2] = {{a, t.data(), 1, 0}, {b, t.data(), 1, 0}};
  radix_op ops[1];
  radix_append_out out = {};
  out.flags = RADIX_APPEND_PARTIAL;
  out.ops = ops;
  out.ops_cap = 1;
  EXPECT_EQ(cache->append(items, 2, &out), RADIX_E_BUFFER);
  EXPECT_EQ(out.num_done, 1u);
  EXPECT_EQ(out.num_ops, 1u);
  EXPECT_EQ(out.num_slots, 1u);
}

TEST(Append, ARowLongerThanTheTableIsFull) {
  CacheConfig config = Cache::config_of(8, 2);
  config.max_blocks_per_request = 2;
  Cache cache(config);
  const radix_req r = cache.start(range(0, 4));
  EXPECT_EQ(cache.append(r, {9}).status, RADIX_E_FULL);
  EXPECT_EQ(cache.info(r).num_tokens, 4u);
}

TEST(Append, IdsMayFollowLater) {
  Cache cache(8, 2);
  const radix_req r = cache.start({1, 2, 3});
  ASSERT_EQ(cache.append({{r, nullptr, 2, 0}}).status, RADIX_OK);
  EXPECT_EQ(cache.info(r).known_tokens, 3u);
  EXPECT_EQ(cache.append(r, {6}).status, RADIX_E_STATE) << "ids with a gap before them";
  radix_commit_item item = {r, 4};
  EXPECT_EQ(cache->commit(&item, 1, nullptr), RADIX_E_STATE);
  const Tokens late = {4, 5};
  ASSERT_EQ(cache->set_tokens(r, 3, late.data(), 2), RADIX_OK);
  EXPECT_EQ(cache->commit(&item, 1, nullptr), RADIX_OK);
  EXPECT_EQ(cache.append(r, {6}).status, RADIX_OK);
  Tokens all(6);
  uint64_t n = 0;
  ASSERT_EQ(cache->tokens(r, all.data(), 6, &n), RADIX_OK);
  EXPECT_EQ(all, (Tokens{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(cache->tokens(r, all.data(), 5, &n), RADIX_E_BUFFER);
  EXPECT_EQ(n, 6u);
}

TEST(SetTokens, RefusesGapsOverrunsAndOtherIds) {
  Cache cache(8, 2);
  const radix_req r = cache.start({1, 2});
  cache.append({{r, nullptr, 2, 0}});
  const Tokens t = {2, 3, 4};
  EXPECT_EQ(cache->set_tokens(r, 3, t.data(), 1), RADIX_E_INVALID);
  EXPECT_EQ(cache->set_tokens(r, 2, t.data(), 3), RADIX_E_INVALID);
  EXPECT_EQ(cache->set_tokens(r, 0, t.data(), 1), RADIX_E_STATE);
  EXPECT_EQ(cache->set_tokens(r, 1, t.data(), 3), RADIX_OK) << "known ones may be repeated";
  EXPECT_EQ(cache.info(r).known_tokens, 4u);
}

TEST(BlockTables, RowsThatAreCurrentAreNotWrittenAgain) {
  Cache cache(8, 2);
  const radix_req r = cache.start(range(0, 3));
  int32_t table[4] = {5, 5, 5, 5}, lens = 0;
  uint64_t version = 0;
  ASSERT_EQ(cache->block_tables(&r, 1, table, 4, &lens, &version), RADIX_OK);
  EXPECT_EQ(lens, 3);
  EXPECT_EQ(table[2], -1);
  EXPECT_EQ(version, cache.info(r).table_version);
  table[0] = 99;
  cache.append(r, {3});  // inside the last block: the row stays
  ASSERT_EQ(cache->block_tables(&r, 1, table, 4, &lens, &version), RADIX_OK);
  EXPECT_EQ(table[0], 99);
  EXPECT_EQ(lens, 4);
  cache.append(r, {4});
  ASSERT_EQ(cache->block_tables(&r, 1, table, 4, &lens, &version), RADIX_OK);
  EXPECT_EQ(table[0], cache.row(r)[0]);
}

TEST(BlockTables, AFailedCallHasWrittenNothing) {
  Cache cache(8, 2);
  const radix_req reqs[2] = {cache.start(range(0, 3)), cache.start(range(0, 7))};
  int32_t table[4] = {5, 5, 5, 5};
  EXPECT_EQ(cache->block_tables(reqs, 2, table, 2, nullptr, nullptr), RADIX_E_BUFFER);
  EXPECT_EQ(table[0], 5);
}

}  // namespace
}  // namespace radixattn
