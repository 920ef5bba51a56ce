// find_shared and the sharing graph.
#include "cache_fixture.h"

namespace radixattn {
namespace {

struct Shared {
  std::vector<radix_req> requests;
  uint64_t tokens;
};
Shared find(Cache& cache, const Tokens& t, uint32_t cap = 8) {
  Shared s = {std::vector<radix_req>(cap), 0};
  uint32_t n = 0;
  EXPECT_EQ(cache->find_shared(Cache::desc(t), s.requests.data(), cap, &n, &s.tokens), RADIX_OK);
  EXPECT_LE(s.requests.size(), 8u);
  s.requests.resize(n < cap ? n : cap);
  return s;
}

TEST(FindShared, TheRequestsThatShareTheLongestPrefix) {
  Cache cache(16, 1);
  const radix_req a = cache.start({1, 2, 3}), b = cache.start({1, 2, 4});
  cache.start({5, 6, 7});
  const Shared s = find(cache, {1, 2, 5});
  EXPECT_EQ(s.tokens, 2u);
  EXPECT_EQ(s.requests, (std::vector<radix_req>{a, b}));
}

TEST(FindShared, IsExactToTheTokenWhateverTheBlockSize) {
  Cache cache(16, 16);
  const radix_req a = cache.start(range(0, 20));
  cache.start(range(0, 10));
  const Shared s = find(cache, range(0, 19) + Tokens{-1});
  EXPECT_EQ(s.tokens, 19u);
  EXPECT_EQ(s.requests, std::vector<radix_req>{a});
}

TEST(FindShared, WritesNoMoreThanItReports) {
  Cache cache(16, 1);
  cache.start({1, 2});
  cache.start({1, 2});
  const radix_req longest = cache.start({1, 2, 3});
  radix_req out[3] = {7, 7, 7};
  uint32_t n = 0;
  uint64_t tokens = 0;
  const Tokens t = {1, 2, 3};
  ASSERT_EQ(cache->find_shared(Cache::desc(t), out, 3, &n, &tokens), RADIX_OK);
  EXPECT_EQ(n, 1u);
  EXPECT_EQ(out[0], longest);
  EXPECT_EQ(out[1], 7u);
}

TEST(FindShared, NothingSharedIsNobody) {
  Cache cache;
  cache.start({1, 2});
  const Shared s = find(cache, {9});
  EXPECT_EQ(s.tokens, 0u);
  EXPECT_TRUE(s.requests.empty());
}

TEST(SharingGraph, SaysWhoIsWhereAndWhatIsSaved) {
  Cache cache(16, 2);
  cache.remember(range(0, 4));
  const radix_req a = cache.start(range(0, 4) + range(50, 53)), b = cache.start(range(0, 5));
  cache.commit(a);
  const std::string text = cache.graph(RADIX_GRAPH_TEXT);
  EXPECT_NE(text.find("2 requests, 2 nodes, 3 blocks of 2 tokens cached, 2 blocks saved"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("2 blocks [0, 1, 2, 3], 2 requests, saves 2 blocks"), std::string::npos)
      << text;
  char id[32];
  std::snprintf(id, sizeof id, "request 0x%llx", static_cast<unsigned long long>(b));
  EXPECT_NE(text.find(id), std::string::npos) << text;
  const std::string json = cache.graph(RADIX_GRAPH_JSON);
  EXPECT_NE(json.find("\"saved_blocks\": 2, \"saved_tokens\": 4"), std::string::npos) << json;
  const std::string dot = cache.graph(RADIX_GRAPH_DOT);
  EXPECT_EQ(dot.find("digraph radixattn {"), 0u);
  EXPECT_NE(dot.find("->"), std::string::npos);
}

TEST(SharingGraph, SavingsCountTheBlocksThatAreHeldAndNoOthers) {
  Cache cache(64, 1);
  cache.remember(range(0, 20));
  cache.begin({0, 99});
  cache.begin({0, 98});  // two requests hold one block of a node of twenty
  EXPECT_NE(cache.graph(RADIX_GRAPH_JSON).find("\"saved_blocks\": 1, "), std::string::npos)
      << cache.graph(RADIX_GRAPH_JSON);
  cache.fork(cache.start(range(50, 60)), 3);  // four share ten that nobody has committed
  EXPECT_NE(cache.graph(RADIX_GRAPH_TEXT).find("31 blocks saved"), std::string::npos)
      << cache.graph(RADIX_GRAPH_TEXT);
}

TEST(SharingGraph, AnEmptyCacheIsAGraphToo) {
  Cache cache;
  EXPECT_NE(cache.graph(RADIX_GRAPH_TEXT).find("0 requests, 0 nodes"), std::string::npos);
  EXPECT_NE(cache.graph(RADIX_GRAPH_JSON).find("\"nodes\": []"), std::string::npos);
}

TEST(SharingGraph, StopsWhenTheCallerTakesLess) {
  Cache cache(64, 1);
  for (int32_t i = 0; i < 60; ++i) cache.remember({i});
  int calls = 0;
  const radix_write_fn refuse = [](void* user, const void*, uint64_t len) {
    ++*static_cast<int*>(user);
    return static_cast<int64_t>(len) - 1;
  };
  EXPECT_EQ(cache->sharing_graph(refuse, &calls, RADIX_GRAPH_JSON), RADIX_E_CALLBACK);
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(cache->sharing_graph(refuse, &calls, 3), RADIX_E_INVALID);
}

}  // namespace
}  // namespace radixattn
