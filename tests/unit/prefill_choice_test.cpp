// Which launches the warpgroups' prefill kernel may get.
#include "plan/prefill_choice.h"

#include <gtest/gtest.h>

#include "radixattn.h"

namespace radixattn {
namespace {

alignas(16) char memory[32];

// bf16, head dim 128, blocks of 16 tokens of 8 heads.
AttentionParams eligible() {
  AttentionParams p;
  p.head_dim = p.head_dim_v = 128;
  p.k = p.v = {memory, RADIX_BF16, 16 * 8 * 128, 8 * 128, 128};
  return p;
}

TEST(PrefillChoice, SixteenBitsAndTwoHeadDims) {
  for (const int32_t dtype : {RADIX_F16, RADIX_BF16, RADIX_F32, RADIX_F8_E4M3, RADIX_F8_E5M2}) {
    for (const uint32_t dim : {32u, 64u, 72u, 96u, 120u, 128u, 192u, 256u}) {
      AttentionParams p = eligible();
      p.k.dtype = p.v.dtype = dtype;
      p.head_dim = p.head_dim_v = dim;
      EXPECT_EQ(prefill_runs_on_wgmma(p),
                (dtype == RADIX_F16 || dtype == RADIX_BF16) && (dim == 64 || dim == 128))
          << dtype << ", " << dim;
    }
  }
}

TEST(PrefillChoice, KAndVAlike) {
  AttentionParams p = eligible();
  p.v.dtype = RADIX_F16;
  EXPECT_FALSE(prefill_runs_on_wgmma(p));
  p = eligible();
  p.head_dim_v = 64;
  EXPECT_FALSE(prefill_runs_on_wgmma(p));
}

TEST(PrefillChoice, RowsInPiecesOfSixteenBytes) {
  for (const bool of_v : {false, true}) {
    const auto with = [&](auto change) {
      AttentionParams p = eligible();
      change(of_v ? p.v : p.k);
      return prefill_runs_on_wgmma(p);
    };
    EXPECT_TRUE(with([](PagedTensor& t) { t.data = memory + 16; }));
    EXPECT_FALSE(with([](PagedTensor& t) { t.data = memory + 8; }));
    EXPECT_TRUE(with([](PagedTensor& t) { t.block_stride += 8, t.token_stride -= 16; }));
    EXPECT_FALSE(with([](PagedTensor& t) { t.block_stride += 4; }));
    EXPECT_FALSE(with([](PagedTensor& t) { t.token_stride += 1; }));
    EXPECT_FALSE(with([](PagedTensor& t) { t.head_stride += 2; }));
  }
}

TEST(PrefillChoice, NoTreeMask) {
  const uint8_t mask[1] = {1};
  AttentionParams p = eligible();
  p.tree_mask = mask;
  EXPECT_FALSE(prefill_runs_on_wgmma(p));
}

// What else a launch has does not matter, lengths least of all.
TEST(PrefillChoice, LengthsDoNotDecide) {
  AttentionParams p = eligible();
  for (const uint32_t n : {1u, 63u, 64u, 65u, 100000u}) {
    p.num_seqs = p.max_query_len = p.max_context_len = n;
    p.window = n;
    p.num_q_heads = 8 * n;
    EXPECT_TRUE(prefill_runs_on_wgmma(p));
  }
}

}  // namespace
}  // namespace radixattn
