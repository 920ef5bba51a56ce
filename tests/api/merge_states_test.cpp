// radix_merge_states_launch and radix_zero_blocks through the C API: what they give and what they
// refuse. The kernels have tests of their own (tests/kernel/merge_test.cpp).
#include "api_support.h"

namespace api_test {
namespace {

struct State {
  std::vector<float> o, lse;
  State(float value, float level, int64_t rows = 2)
      : o(static_cast<size_t>(rows) * 3 * 32, value), lse(static_cast<size_t>(rows) * 3, level) {}
  radix_tensor out_view(int64_t rows = 2) { return tensor(o.data(), RADIX_F32, {rows, 3, 32}); }
  radix_tensor lse_view(int64_t rows = 2) { return tensor(lse.data(), RADIX_F32, {rows, 3}); }
};

TEST(MergeStates, WeighsByTheExponentialsOfTheLses) {
  Ctx ctx;
  State a(1.f, 0.f), b(4.f, std::log(2.f)), empty(NAN, -INFINITY), result(7.f, 7.f);
  const std::vector<radix_tensor> outs = {a.out_view(), empty.out_view(), b.out_view()};
  const std::vector<radix_tensor> lses = {a.lse_view(), empty.lse_view(), b.lse_view()};
  radix_tensor out = result.out_view(), lse = result.lse_view();
  ASSERT_OK(radix_merge_states_launch(ctx, outs.data(), lses.data(), 3, &out, &lse, nullptr));
  for (const float x : result.o) EXPECT_NEAR(x, 3.f, 1e-6f);
  for (const float x : result.lse) EXPECT_NEAR(x, std::log(3.f), 1e-6f);
  ASSERT_OK(radix_merge_states_launch(ctx, &outs[1], &lses[1], 1, &out, &lse, nullptr));
  for (const float x : result.o) EXPECT_EQ(x, 0.f);
  for (const float x : result.lse) EXPECT_EQ(x, -INFINITY);
  ASSERT_OK(
      radix_merge_states_launch(ctx, outs.data(), lses.data(), 3, &outs[0], nullptr, nullptr));
  EXPECT_NEAR(a.o[0], 3.f, 1e-6f) << "onto one of the states, without an LSE";
  EXPECT_EQ(a.lse[0], 0.f);
}

TEST(MergeStates, NoRowsIsFine) {
  Ctx ctx;
  State a(1.f, 0.f);
  const radix_tensor out = a.out_view(0), lse = a.lse_view(0);
  EXPECT_OK(radix_merge_states_launch(ctx, &out, &lse, 1, &out, &lse, nullptr));
  EXPECT_EQ(a.o[0], 1.f);
}

TEST(MergeStates, WhatIsRefusedIsNamed) {
  Ctx ctx;
  State a(1.f, 0.f), b(2.f, 0.f), result(7.f, 7.f);
  std::vector<radix_tensor> outs = {a.out_view(), b.out_view()};
  std::vector<radix_tensor> lses = {a.lse_view(), b.lse_view()};
  radix_tensor out = result.out_view(), lse = result.lse_view();
  const auto refused = [&](const char* word, uint32_t n = 2) {
    EXPECT_FAILS(RADIX_E_INVALID, word,
                 radix_merge_states_launch(ctx, outs.data(), lses.data(), n, &out, &lse, nullptr));
    EXPECT_EQ(result.o[0], 7.f);
    outs = {a.out_view(), b.out_view()};
    lses = {a.lse_view(), b.lse_view()};
    out = result.out_view(), lse = result.lse_view();
  };
  refused("n is 0", 0);
  refused("n is 33", 33);
  outs[1].shape[0] = 1;
  refused("outs[1].shape[0] is 1");
  lses[1].shape[1] = 2;
  refused("lses[1] is [2, 2]");
  lses[0].dtype = RADIX_F16;
  refused("lses[0] is [2, 3] of dtype 2");
  lses[0].stride[0] = 4, lses[0].stride[1] = 1;
  refused("lses[0].stride[0] is 4");
  lse.shape[0] = 3;
  refused("lse is [3, 3]");
  out.shape[2] = 20;
  refused("head dim 20");
  outs[1].data = nullptr;
  refused("outs[1].data is NULL");
  out.data = a.o.data() + 8;
  refused("out.data is");
  out.data = a.o.data();
  out.stride[0] = 96, out.stride[1] = 32, out.stride[2] = 1;
  ASSERT_OK(radix_merge_states_launch(ctx, outs.data(), lses.data(), 2, &out, &lse, nullptr))
      << "the same strides, spelt out";
  std::fill(a.o.begin(), a.o.end(), 1.f);
  std::fill(result.lse.begin(), result.lse.end(), 7.f);
  out = tensor(a.o.data() + 32, RADIX_F32, {2, 1, 32}, {96, 32, 1});  // between a's rows
  outs = {tensor(a.o.data(), RADIX_F32, {2, 1, 32}, {96, 32, 1})};
  std::vector<float> few(2);
  const radix_tensor few_lse = tensor(few.data(), RADIX_F32, {2, 1});
  EXPECT_FAILS(RADIX_E_INVALID, "out.data is",
               radix_merge_states_launch(ctx, outs.data(), &few_lse, 1, &out, nullptr, nullptr));
  outs = {a.out_view(), b.out_view()};
  out = result.out_view();
  lse.data = b.lse.data() + 1;
  refused("lse.data is");
  lse.data = result.o.data();
  refused("inside out");
  lse.data = b.o.data();
  refused("lies inside");
  EXPECT_FAILS(RADIX_E_INVALID, "outs is NULL",
               radix_merge_states_launch(ctx, nullptr, lses.data(), 2, &out, &lse, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "lses is NULL",
               radix_merge_states_launch(ctx, outs.data(), nullptr, 2, &out, &lse, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "out is NULL",
               radix_merge_states_launch(ctx, outs.data(), lses.data(), 2, nullptr, &lse, nullptr));
  EXPECT_FAILS(
      RADIX_E_INVALID, "ctx is NULL",
      radix_merge_states_launch(nullptr, outs.data(), lses.data(), 2, &out, &lse, nullptr));
}

// What the stride of a dimension of one says does not matter, nor any stride where nothing is.
TEST(MergeStates, StridesThatNobodyFollows) {
  Ctx ctx;
  std::vector<float> o(3 * 32, 5.f), lse(3, 1.f);
  const radix_tensor out = tensor(o.data(), RADIX_F32, {1, 3, 32});
  const radix_tensor same = tensor(o.data(), RADIX_F32, {1, 3, 32}, {1024, 32, 1});
  const radix_tensor lses = tensor(lse.data(), RADIX_F32, {1, 3});
  EXPECT_OK(radix_merge_states_launch(ctx, &same, &lses, 1, &out, nullptr, nullptr));
  EXPECT_EQ(o[0], 5.f);
  const radix_tensor none = tensor(o.data(), RADIX_F32, {5, 0, 64}, {INT64_MAX, 64, 1});
  const radix_tensor no_lse = tensor(lse.data(), RADIX_F32, {5, 0});
  EXPECT_OK(radix_merge_states_launch(ctx, &none, &no_lse, 1, &none, nullptr, nullptr));
  const radix_tensor huge = tensor(o.data(), RADIX_F32, {0, INT32_MAX, 256});
  const radix_tensor huge_lse = tensor(lse.data(), RADIX_F32, {0, INT32_MAX});
  EXPECT_OK(radix_merge_states_launch(ctx, &huge, &huge_lse, 1, &huge, nullptr, nullptr));
}

TEST(ZeroBlocks, OfEveryLayer) {
  Ctx ctx;
  for (uint32_t layer = 0; layer < 2; ++layer) {
    radix_tensor t[2];
    ASSERT_OK(radix_ctx_kv_tensor(ctx, layer, &t[0], &t[1]));
    for (const radix_tensor& x : t) std::fill_n(static_cast<float*>(x.data), 16 * 256, 1.f);
  }
  const radix_block blocks[] = {3, 15};
  ASSERT_OK(radix_zero_blocks(ctx, blocks, 2, nullptr));
  for (uint32_t layer = 0; layer < 2; ++layer) {
    radix_tensor t[2];
    ASSERT_OK(radix_ctx_kv_tensor(ctx, layer, &t[0], &t[1]));
    for (const radix_tensor& x : t) {
      for (int i = 0; i < 16 * 256; ++i) {
        const int block = i / 256;
        ASSERT_EQ(static_cast<float*>(x.data)[i], block == 3 || block == 15 ? 0.f : 1.f) << i;
      }
    }
  }
  const radix_block bad[] = {2, 16};
  EXPECT_FAILS(RADIX_E_INVALID, "16", radix_zero_blocks(ctx, bad, 2, nullptr));
  EXPECT_OK(radix_zero_blocks(ctx, nullptr, 0, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "blocks is NULL", radix_zero_blocks(ctx, nullptr, 1, nullptr));
  radix_config c = small_config();
  c.flags = RADIX_CTX_METADATA_ONLY;
  const Ctx metadata(c);
  EXPECT_FAILS(RADIX_E_STATE, "METADATA_ONLY", radix_zero_blocks(metadata, blocks, 1, nullptr));
}

}  // namespace
}  // namespace api_test
