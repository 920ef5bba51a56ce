// What is shared, through the C API: find_shared and the sharing graph in its three forms.
#include <nlohmann/json.hpp>

#include "api_support.h"

namespace api_test {
namespace {

struct Sink {
  std::string text;
  uint64_t limit = UINT64_MAX;  // bytes taken before it refuses
};
int64_t write_to(void* user, const void* buf, uint64_t len) {
  auto& sink = *static_cast<Sink*>(user);
  if (sink.text.size() + len > sink.limit) return -1;
  sink.text.append(static_cast<const char*>(buf), len);
  return static_cast<int64_t>(len);
}

std::string graph(radix_ctx* ctx, int32_t format) {
  Sink sink;
  EXPECT_OK(radix_sharing_graph(ctx, write_to, &sink, format));
  return sink.text;
}

class Graph : public ::testing::Test {
 protected:
  Graph() : ctx_(small_config(64, 2)) {
    ctx_.commit(ctx_.start(range(0, 8)));
    a_ = ctx_.start(concat(range(0, 8), range(50, 54)));
    b_ = ctx_.start(range(0, 9));
    ctx_.commit(a_);
  }
  static Tokens concat(Tokens a, const Tokens& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  }
  Ctx ctx_;
  radix_req a_ = 0, b_ = 0;
};

TEST_F(Graph, JsonParsesAndAddsUp) {
  radix_ns ns = 0;
  const std::string name("te\"n\\ant\n\x01", 10);
  ASSERT_OK(radix_ns_create(ctx_, name.data(), name.size(), 0, &ns));
  ctx_.commit(ctx_.start(range(0, 4), 0, ns));
  const nlohmann::json g = nlohmann::json::parse(graph(ctx_, RADIX_GRAPH_JSON));
  EXPECT_EQ(g["block_size"], 2);
  uint64_t cached = 0, saved = 0;
  std::vector<uint64_t> ids;
  bool named = false;
  for (const auto& n : g["nodes"]) {
    ids.push_back(n["id"]);
    cached += n["blocks"].size();
    saved += n["saved_blocks"].get<uint64_t>();
    EXPECT_EQ(n["num_tokens"], 2 * n["blocks"].size());
    named = named || n["namespace"] == name;
  }
  EXPECT_TRUE(named);
  for (const auto& n : g["nodes"]) {
    if (!n["parent"].is_null()) {
      EXPECT_NE(std::find(ids.begin(), ids.end(), n["parent"].get<uint64_t>()), ids.end());
    }
  }
  EXPECT_EQ(cached, g["cached_blocks"].get<uint64_t>());
  EXPECT_EQ(saved, g["saved_blocks"].get<uint64_t>());
  EXPECT_EQ(saved, 8u) << "three requests on four blocks";
  EXPECT_EQ(g["requests"].size(), 4u);
}

TEST_F(Graph, TextAndDotNameTheRequests) {
  char id[32];
  std::snprintf(id, sizeof id, "request 0x%llx", static_cast<unsigned long long>(b_));
  for (const int32_t format : {RADIX_GRAPH_TEXT, RADIX_GRAPH_DOT}) {
    EXPECT_NE(graph(ctx_, format).find(id), std::string::npos) << graph(ctx_, format);
  }
  const std::string dot = graph(ctx_, RADIX_GRAPH_DOT);
  EXPECT_EQ(std::count(dot.begin(), dot.end(), '{'), std::count(dot.begin(), dot.end(), '}'));
}

TEST_F(Graph, AWriterMayRefuseAnywhere) {
  for (int i = 0; i < 30; ++i) ctx_.commit(ctx_.start(range(1000 + i * 10, 1002 + i * 10)));
  const size_t full = graph(ctx_, RADIX_GRAPH_JSON).size();
  ASSERT_GT(full, 4096u) << "more than one piece";
  for (const uint64_t limit : {uint64_t{0}, uint64_t{5000}}) {
    Sink sink;
    sink.limit = limit;
    EXPECT_FAILS(RADIX_E_CALLBACK, "fn took -1",
                 radix_sharing_graph(ctx_, write_to, &sink, RADIX_GRAPH_JSON));
    EXPECT_LE(sink.text.size(), limit);
  }
}

TEST_F(Graph, FindSharedIsExactAndByIndex) {
  uint32_t n = 0;
  uint64_t shared = 0;
  radix_req out[2] = {7, 7};
  const Tokens t = concat(range(0, 8), {50, 51, 52, 99});
  const radix_request_desc d = desc_of(t);
  ASSERT_OK(radix_find_shared(ctx_, &d, out, 2, &n, &shared));
  EXPECT_EQ(shared, 11u);
  EXPECT_EQ(n, 1u);
  EXPECT_EQ(out[0], a_);
  const Tokens head = range(0, 5);
  const radix_request_desc three = desc_of(head);
  ASSERT_OK(radix_find_shared(ctx_, &three, out, 2, &n, &shared));
  EXPECT_EQ(n, 3u) << "all that share, though only two fit";
  EXPECT_EQ(shared, 5u);
  ASSERT_OK(radix_find_shared(ctx_, &three, nullptr, 0, &n, &shared));
  EXPECT_EQ(n, 3u);
}

TEST(Epochs, WaitForTheLaunchesThroughTheApi) {
  radix_config c = small_config(4, 2);
  c.flags = RADIX_CTX_DEFER_FREE;
  Ctx ctx(c);
  radix_epoch e = 0;
  ASSERT_OK(radix_epoch_begin(ctx, &e));
  EXPECT_EQ(e, 1u);
  ctx.free(ctx.start(range(0, 8)));
  EXPECT_EQ(ctx.stats().blocks_deferred, 4u);
  const radix_req r = ctx.begin({});
  EXPECT_EQ(ctx.append(r, {1}).status, RADIX_E_NO_BLOCKS);
  EXPECT_FAILS(RADIX_E_INVALID, "upto is 2", radix_epoch_retire(ctx, 2));
  ASSERT_OK(radix_epoch_retire(ctx, 1));
  EXPECT_EQ(ctx.append(r, {1}).status, RADIX_OK);
}

}  // namespace
}  // namespace api_test
