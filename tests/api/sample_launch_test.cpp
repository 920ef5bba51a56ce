// radix_sample_* and radix_verify_* through the C API: what they give and what they refuse. What is
// drawn has tests of its own (tests/kernel/sample_test.cpp, verify_test.cpp).
#include <functional>

#include "api_support.h"

namespace api_test {
namespace {

constexpr int64_t kRows = 2, kVocab = 40;

struct alignas(64) Line {
  unsigned char bytes[64];
};

// A launch that works, and everything it points to.
struct Sampling {
  std::vector<float> logits = std::vector<float>(kRows * kVocab, 0.f);
  std::vector<float> temperature{1.f, 0.f}, top_p{0.9f, 0.f}, repetition{1.2f, 0.f};
  std::vector<int32_t> top_k{5, 0};
  Tokens history{1, 2, 3};
  std::vector<int64_t> history_begin{0, 2, 3}, output_begin{1, 2}, bias_begin{0, 1, 1};
  Tokens bias_tokens{4};
  std::vector<float> bias_values{1.f};
  std::vector<uint32_t> allowed{~0u, ~0u, ~0u, ~0u};
  std::vector<uint64_t> seeds{1, 2}, positions{7, 8};
  Tokens out = Tokens(kRows, -7), out_top = Tokens(kRows * 3, -7), status = Tokens(kRows, -7);
  std::vector<float> logprobs = std::vector<float>(kRows, 7.f),
                     top_logprobs = std::vector<float>(kRows * 3, 7.f);
  std::vector<Line> workspace = std::vector<Line>(4096);

  Sampling() { logits[3] = logits[kVocab + 5] = 9.f; }

  radix_sample desc() {
    radix_sample d = sized<radix_sample>();
    d.num_top = 3;
    d.logits = tensor(logits.data(), RADIX_F32, {kRows, kVocab});
    d.temperature = temperature.data();
    d.top_k = top_k.data();
    d.top_p = top_p.data();
    d.repetition_penalty = repetition.data();
    d.history = history.data();
    d.history_begin = history_begin.data();
    d.output_begin = output_begin.data();
    d.num_history = history.size();
    d.bias_tokens = bias_tokens.data();
    d.bias_values = bias_values.data();
    d.bias_begin = bias_begin.data();
    d.num_biases = bias_tokens.size();
    d.allowed = allowed.data();
    d.allowed_stride = 2;
    d.seeds = seeds.data();
    d.positions = positions.data();
    d.out_tokens = out.data();
    d.out_logprobs = logprobs.data();
    d.out_top_tokens = out_top.data();
    d.out_top_logprobs = top_logprobs.data();
    d.out_status = status.data();
    d.workspace = workspace.data();
    d.workspace_size = workspace.size() * sizeof(Line);
    return d;
  }
  bool untouched() const {
    return out == Tokens(kRows, -7) && out_top == Tokens(kRows * 3, -7) &&
           status == Tokens(kRows, -7) && logprobs == std::vector<float>(kRows, 7.f) &&
           top_logprobs == std::vector<float>(kRows * 3, 7.f);
  }
};

TEST(SampleLaunch, GivesATokenForEachRow) {
  Ctx ctx;
  Sampling s;
  const radix_sample d = s.desc();
  ASSERT_OK(radix_sample_launch(ctx, &d, nullptr));
  EXPECT_EQ(s.status, (Tokens{RADIX_ROW_OK, RADIX_ROW_OK}));
  EXPECT_EQ(s.out, (Tokens{3, 5}));
  EXPECT_EQ(s.out_top[0], 3);
  EXPECT_EQ(s.out_top[3], 5);
  EXPECT_NEAR(s.logprobs[1], -std::log(1 + 39 * std::exp(-9.)), 1e-6);
  EXPECT_EQ(s.logprobs[1], s.top_logprobs[3]);
}

TEST(SampleLaunch, AnythingMayBeLeftOut) {
  Ctx ctx;
  Sampling s;
  radix_sample d = sized<radix_sample>();
  d.logits = s.desc().logits;
  d.out_tokens = s.out.data();
  uint64_t bytes = 0;
  ASSERT_OK(radix_sample_workspace(ctx, &d, &bytes));
  d.workspace = s.workspace.data();
  d.workspace_size = bytes;
  ASSERT_OK(radix_sample_launch(ctx, &d, nullptr));
  EXPECT_EQ(s.out, (Tokens{3, 5}));
}

TEST(SampleLaunch, WithoutKvMemoryToo) {
  radix_config config = small_config();
  config.flags = RADIX_CTX_METADATA_ONLY;
  Ctx ctx(config);
  Sampling s;
  const radix_sample d = s.desc();
  EXPECT_OK(radix_sample_launch(ctx, &d, nullptr));
  EXPECT_EQ(s.out, (Tokens{3, 5}));
}

TEST(SampleLaunch, NoRowsIsFine) {
  Ctx ctx;
  Sampling s;
  radix_sample d = s.desc();
  d.logits.shape[0] = 0;
  uint64_t bytes = 1;
  EXPECT_OK(radix_sample_workspace(ctx, &d, &bytes));
  EXPECT_EQ(bytes, 0u);
  d.workspace = nullptr;
  d.workspace_size = 0;
  EXPECT_OK(radix_sample_launch(ctx, &d, nullptr));
  EXPECT_TRUE(s.untouched());
}

TEST(SampleLaunch, TheWorkspaceIsWhatTheQuerySays) {
  Ctx ctx;
  Sampling s;
  radix_sample d = s.desc();
  radix_sample shapes = d;  // a query looks at no array, and at no data of the tensor
  shapes.logits.data = nullptr;
  shapes.workspace = nullptr;
  shapes.out_tokens = nullptr;
  uint64_t bytes = 0;
  ASSERT_OK(radix_sample_workspace(ctx, &shapes, &bytes));
  EXPECT_GT(bytes, 0u);
  d.workspace_size = bytes - 1;
  EXPECT_FAILS(RADIX_E_BUFFER, "workspace_size is", radix_sample_launch(ctx, &d, nullptr));
  d.workspace_size = bytes;
  d.workspace = s.workspace[0].bytes + 16;
  EXPECT_FAILS(RADIX_E_INVALID, "workspace is", radix_sample_launch(ctx, &d, nullptr));
  d.workspace = nullptr;
  EXPECT_FAILS(RADIX_E_INVALID, "workspace is", radix_sample_launch(ctx, &d, nullptr));
  EXPECT_TRUE(s.untouched());
  d.workspace = s.workspace.data();
  EXPECT_OK(radix_sample_launch(ctx, &d, nullptr));
  radix_sample fewer = shapes;
  fewer.history = nullptr;
  fewer.bias_tokens = nullptr;
  fewer.allowed = nullptr;
  uint64_t less = 0;
  ASSERT_OK(radix_sample_workspace(ctx, &fewer, &less));
  EXPECT_LT(less, bytes) << "without penalties and bias no copy of the scores is needed";
}

TEST(SampleLaunch, WhatIsRefusedIsNamed) {
  Ctx ctx;
  Sampling s;
  const auto refused = [&](int32_t code, const char* word, const auto& change) {
    radix_sample d = s.desc();
    change(&d);
    EXPECT_FAILS(code, word, radix_sample_launch(ctx, &d, nullptr));
    EXPECT_TRUE(s.untouched()) << word;
  };
  const auto invalid = [&](const char* word, const auto& change) {
    refused(RADIX_E_INVALID, word, change);
  };
  using D = radix_sample*;
  invalid("d->flags is 0x2", [](D d) { d->flags = 2; });
  invalid("d->reserved0 is 9", [](D d) { d->reserved0 = 9; });
  invalid("d->next is", [](D d) { d->next = d; });
  invalid("d->num_top is 41", [](D d) { d->num_top = 41; });
  invalid("logits.ndim is 1", [](D d) { d->logits.ndim = 1; });
  invalid("logits.dtype is 0", [](D d) { d->logits.dtype = 0; });
  refused(RADIX_E_UNSUPPORTED, "logits.dtype is", [](D d) { d->logits.dtype = RADIX_I32; });
  invalid("logits.shape[1] is 0", [](D d) { d->logits.shape[1] = 0; });
  invalid("logits.shape[1] is 1048577", [](D d) { d->logits.shape[1] = (1 << 20) + 1; });
  invalid("logits.stride[1] is 2", [](D d) { d->logits.stride[0] = 80, d->logits.stride[1] = 2; });
  invalid("logits is on device", [](D d) { d->logits.device = RADIX_DEV_CUDA; });
  invalid("logits.data is NULL", [](D d) { d->logits.data = nullptr; });
  invalid("logits.data is", [](D d) { d->logits.data = static_cast<char*>(d->logits.data) + 1; });
  invalid("d->history is NULL", [](D d) { d->history = nullptr; });
  invalid("d->history_begin is NULL", [](D d) { d->history_begin = nullptr; });
  invalid("d->num_history is", [](D d) { d->num_history = UINT64_MAX; });
  invalid("d->bias_tokens is NULL", [](D d) { d->bias_tokens = nullptr; });
  invalid("d->bias_values is NULL", [](D d) { d->bias_values = nullptr; });
  invalid("d->bias_begin is NULL", [](D d) { d->bias_begin = nullptr; });
  invalid("d->num_biases is", [](D d) { d->num_biases = UINT64_MAX; });
  invalid("d->allowed_stride is 1", [](D d) { d->allowed_stride = 1; });
  invalid("d->allowed_stride is 9223372036854775807: expected at most 2^52",
          [](D d) { d->allowed_stride = INT64_MAX; });
  alignas(8) static const char odd[256] = {};
  invalid("d->temperature is 0x",
          [](D d) { d->temperature = reinterpret_cast<const float*>(odd + 2); });
  invalid("d->seeds is 0x", [](D d) { d->seeds = reinterpret_cast<const uint64_t*>(odd + 4); });
  invalid("d->out_tokens is NULL", [](D d) { d->out_tokens = nullptr; });
  invalid("d->out_top_tokens is NULL", [](D d) { d->out_top_tokens = nullptr; });
  invalid("d->out_top_logprobs is NULL", [](D d) { d->out_top_logprobs = nullptr; });
  const radix_sample d = s.desc();
  int stream = 0;
  EXPECT_FAILS(RADIX_E_INVALID, "s is", radix_sample_launch(ctx, &d, &stream));
  EXPECT_FAILS(RADIX_E_INVALID, "d is NULL", radix_sample_launch(ctx, nullptr, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "ctx is NULL", radix_sample_launch(nullptr, &d, nullptr));
  uint64_t bytes = 0;
  EXPECT_FAILS(RADIX_E_INVALID, "out_bytes is NULL", radix_sample_workspace(ctx, &d, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "d is NULL", radix_sample_workspace(ctx, nullptr, &bytes));
  EXPECT_FAILS(RADIX_E_INVALID, "ctx is NULL", radix_sample_workspace(nullptr, &d, &bytes));
  EXPECT_TRUE(s.untouched());
}

TEST(SampleLaunch, TheMostTopTokensAre128) {
  Ctx ctx;
  std::vector<float> logits(300, 0.f);
  radix_sample d = sized<radix_sample>();
  d.logits = tensor(logits.data(), RADIX_F32, {1, 300});
  uint64_t bytes = 0;
  d.num_top = 128;
  EXPECT_OK(radix_sample_workspace(ctx, &d, &bytes));
  d.num_top = 129;
  EXPECT_FAILS(RADIX_E_INVALID, "d->num_top is 129: expected 0..128",
               radix_sample_workspace(ctx, &d, &bytes));
}

// Without out_status the message names the row's array, its index, its value.
TEST(SampleLaunch, ARowThatIsNotOkIsNamed) {
  Ctx ctx;
  const auto refused = [&](const char* word, const auto& change) {
    Sampling s;
    change(&s);
    radix_sample d = s.desc();
    d.out_status = nullptr;
    EXPECT_FAILS(RADIX_E_INVALID, word, radix_sample_launch(ctx, &d, nullptr));
    EXPECT_EQ(s.out, (Tokens{3, -1})) << word;
    EXPECT_TRUE(std::isnan(s.logprobs[1]));
    EXPECT_EQ(s.out_top[3], -1);
  };
  using S = Sampling*;
  refused("d->temperature[1] is -1: expected 0 or more", [](S s) { s->temperature[1] = -1.f; });
  refused("d->top_p[1] is 1.5", [](S s) { s->top_p[1] = 1.5f; });
  refused("d->top_k[1] is -3", [](S s) { s->top_k[1] = -3; });
  refused("d->repetition_penalty[1] is -2", [](S s) { s->repetition[1] = -2.f; });
  refused("d->history[2] is 40: expected a token", [](S s) { s->history[2] = 40; });
  refused("d->bias_tokens[1] is -1", [](S s) {
    s->bias_tokens = {4, -1}, s->bias_values = {1.f, 1.f}, s->bias_begin = {0, 1, 2};
  });
  refused("d->bias_values[1] is inf", [](S s) {
    s->bias_tokens = {4, 4}, s->bias_values = {1.f, INFINITY}, s->bias_begin = {0, 1, 2};
  });
  refused("NaN or +inf in row 1", [](S s) { s->logits[kVocab] = NAN; });
  refused("row 1", [](S s) { s->allowed[2] = s->allowed[3] = 0; });
}

// ---- verification -------------------------------------------------------------------------------

struct Verification {
  Sampling target;
  std::vector<int32_t> node_begin{0, 2}, parents{-1, 0};
  Tokens drafts{-1, 3};
  std::vector<float> probs = std::vector<float>(kRows * kVocab, 1.f / kVocab);
  Tokens out = Tokens(3, -7), num = Tokens(1, -7), nodes = Tokens(3, -7), status = Tokens(1, -7);
  radix_sample rows;

  radix_verify desc() {
    rows = target.desc();
    rows.out_tokens = nullptr;  // outputs of the target are not used
    rows.num_top = 999;
    radix_verify d = sized<radix_verify>();
    d.num_seqs = 1;
    d.max_tokens = 3;
    d.target = &rows;
    d.node_begin = node_begin.data();
    d.draft_tokens = drafts.data();
    d.parents = parents.data();
    d.out_tokens = out.data();
    d.out_num_tokens = num.data();
    d.out_nodes = nodes.data();
    d.out_status = status.data();
    d.workspace = target.workspace.data();
    d.workspace_size = target.workspace.size() * sizeof(Line);
    return d;
  }
  bool untouched() const {
    return out == Tokens(3, -7) && num == Tokens(1, -7) && nodes == Tokens(3, -7) &&
           status == Tokens(1, -7) && target.untouched();
  }
};

TEST(VerifyLaunch, GivesTheTokensThatStandAndOneMore) {
  Ctx ctx;
  Verification v;
  const radix_verify d = v.desc();
  ASSERT_OK(radix_verify_launch(ctx, &d, nullptr));
  EXPECT_EQ(v.status, Tokens{RADIX_ROW_OK});
  EXPECT_EQ(v.num, Tokens{2});
  EXPECT_EQ(v.out, (Tokens{3, 5, -1}));
  EXPECT_EQ(v.nodes, (Tokens{0, 1, -1}));
  EXPECT_TRUE(v.target.untouched());
}

TEST(VerifyLaunch, WithDraftProbabilities) {
  Ctx ctx;
  Verification v;
  radix_verify d = v.desc();
  d.draft_probs = tensor(v.probs.data(), RADIX_F32, {kRows, kVocab});
  ASSERT_OK(radix_verify_launch(ctx, &d, nullptr));
  EXPECT_EQ(v.out, (Tokens{3, 5, -1})) << "p(3) is larger than 1/40";
}

TEST(VerifyLaunch, NoSequencesIsFine) {
  Ctx ctx;
  Verification v;
  radix_verify d = v.desc();
  d.num_seqs = 0;
  d.node_begin = nullptr;
  EXPECT_OK(radix_verify_launch(ctx, &d, nullptr));
  EXPECT_TRUE(v.untouched());
}

TEST(VerifyLaunch, TheWorkspaceIsWhatTheQuerySays) {
  Ctx ctx;
  Verification v;
  radix_verify d = v.desc();
  uint64_t plain = 0, bytes = 0;
  ASSERT_OK(radix_verify_workspace(ctx, &d, &plain));
  radix_verify shapes = d;
  shapes.draft_probs = tensor(nullptr, RADIX_F32, {kRows, kVocab});
  ASSERT_OK(radix_verify_workspace(ctx, &shapes, &bytes));
  EXPECT_GT(bytes, plain) << "rejection needs lists, and a shape alone says that there is a draft";
  d.draft_probs = tensor(v.probs.data(), RADIX_F32, {kRows, kVocab});
  d.workspace_size = bytes - 1;
  EXPECT_FAILS(RADIX_E_BUFFER, "workspace_size is", radix_verify_launch(ctx, &d, nullptr));
  d.workspace_size = bytes;
  d.workspace = nullptr;
  EXPECT_FAILS(RADIX_E_INVALID, "workspace is", radix_verify_launch(ctx, &d, nullptr));
  EXPECT_TRUE(v.untouched());
  d.workspace = v.target.workspace.data();
  EXPECT_OK(radix_verify_launch(ctx, &d, nullptr));
}

TEST(VerifyLaunch, WhatIsRefusedIsNamed) {
  Ctx ctx;
  Verification v;
  const auto refused = [&](int32_t code, const char* word, const auto& change) {
    radix_verify d = v.desc();
    change(&d, &v.rows);
    EXPECT_FAILS(code, word, radix_verify_launch(ctx, &d, nullptr));
    EXPECT_TRUE(v.untouched()) << word;
  };
  const auto invalid = [&](const char* word, const auto& change) {
    refused(RADIX_E_INVALID, word, change);
  };
  using D = radix_verify*;
  using R = radix_sample*;
  invalid("d->flags is 0x4", [](D d, R) { d->flags = 4; });
  invalid("d->next is", [](D d, R) { d->next = d; });
  invalid("d->num_seqs is", [](D d, R) { d->num_seqs = UINT32_MAX; });
  invalid("d->max_tokens is 0", [](D d, R) { d->max_tokens = 0; });
  invalid("d->target is NULL", [](D d, R) { d->target = nullptr; });
  refused(RADIX_E_VERSION, "d->target->struct_size is 2", [](D, R r) { r->struct_size = 2; });
  invalid("target->flags is 0x8", [](D, R r) { r->flags = 8; });
  invalid("target->reserved0 is 1", [](D, R r) { r->reserved0 = 1; });
  invalid("target->next is", [](D d, R r) { r->next = d; });
  invalid("logits.ndim is 3", [](D, R r) { r->logits.ndim = 3; });
  invalid("target->history_begin is NULL", [](D, R r) { r->history_begin = nullptr; });
  invalid("target->allowed_stride is", [](D, R r) { r->allowed_stride = -1; });
  alignas(8) static const char odd[256] = {};
  invalid("target->repetition_penalty is 0x",
          [](D, R r) { r->repetition_penalty = reinterpret_cast<const float*>(odd + 1); });
  invalid("d->parents is 0x",
          [](D d, R) { d->parents = reinterpret_cast<const int32_t*>(odd + 1); });
  invalid("d->node_begin is NULL", [](D d, R) { d->node_begin = nullptr; });
  invalid("d->draft_tokens is NULL", [](D d, R) { d->draft_tokens = nullptr; });
  invalid("d->out_tokens is NULL", [](D d, R) { d->out_tokens = nullptr; });
  invalid("d->out_num_tokens is NULL", [](D d, R) { d->out_num_tokens = nullptr; });
  const auto probs = [&](int32_t dtype, int64_t rows, int64_t vocab) {
    return [&v, dtype, rows, vocab](D d, R) {
      d->draft_probs = tensor(v.probs.data(), dtype, {rows, vocab});
    };
  };
  invalid("draft_probs is [2, 40] of dtype", probs(RADIX_F16, kRows, kVocab));
  invalid("draft_probs is [1, 40]", probs(RADIX_F32, 1, kVocab));
  invalid("draft_probs is [2, 39]", probs(RADIX_F32, kRows, kVocab - 1));
  const radix_verify d = v.desc();
  int stream = 0;
  uint64_t bytes = 0;
  EXPECT_FAILS(RADIX_E_INVALID, "s is", radix_verify_launch(ctx, &d, &stream));
  EXPECT_FAILS(RADIX_E_INVALID, "d is NULL", radix_verify_launch(ctx, nullptr, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "ctx is NULL", radix_verify_launch(nullptr, &d, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "out_bytes is NULL", radix_verify_workspace(ctx, &d, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "ctx is NULL", radix_verify_workspace(nullptr, &d, &bytes));
}

TEST(VerifyLaunch, ASequenceThatIsNotOkIsNamed) {
  Ctx ctx;
  Verification v;
  v.target.logits[kVocab] = NAN;
  radix_verify d = v.desc();
  d.out_status = nullptr;
  EXPECT_FAILS(RADIX_E_INVALID, "target->logits has NaN or +inf in row 1",
               radix_verify_launch(ctx, &d, nullptr));
  EXPECT_EQ(v.num, Tokens{0});
  EXPECT_EQ(v.out, (Tokens{-1, -1, -1}));
  v.node_begin = {1, 1};
  d = v.desc();
  d.out_status = nullptr;
  EXPECT_FAILS(RADIX_E_INVALID, "node_begin", radix_verify_launch(ctx, &d, nullptr));
}

}  // namespace
}  // namespace api_test
