// The layer's shape as products and as places in a workspace.
#include "layer/layer.h"

#include <gtest/gtest.h>

namespace radixattn {
namespace {

LayerShape shape() {
  LayerShape s;
  s.num_rows = 7;
  s.decode_rows = 2;
  s.hidden = 40;
  s.num_q_heads = 6;
  s.num_kv_heads = 3;
  s.head_dim = 32;
  s.head_dim_v = 64;
  return s;
}

TEST(LayerProducts, QKAndVLieSideBySide) {
  const LayerShape s = shape();
  EXPECT_EQ(layer_k_column(s), 6u * 32);
  EXPECT_EQ(layer_v_column(s), 6u * 32 + 3 * 32);
  EXPECT_EQ(layer_qkv_columns(s), 6u * 32 + 3 * 32 + 3 * 64);
}

TEST(LayerProducts, SeparateWeightsFillTheColumnsOfTheFusedOnes) {
  const LayerShape s = shape();
  LayerProduct fused[3], apart[3];
  ASSERT_EQ(layer_projections(s, true, fused), 1u);
  EXPECT_EQ(fused[0].weight, kLayerQkv);
  EXPECT_EQ(fused[0].in, 40u);
  EXPECT_EQ(fused[0].out, layer_qkv_columns(s));
  EXPECT_EQ(fused[0].column, 0u);
  ASSERT_EQ(layer_projections(s, false, apart), 3u);
  uint32_t column = 0;
  for (uint32_t i = 0; i < 3; ++i) {
    EXPECT_EQ(apart[i].weight, kLayerQ + static_cast<int>(i));
    EXPECT_EQ(apart[i].in, 40u);
    EXPECT_EQ(apart[i].column, column);
    column += apart[i].out;
  }
  EXPECT_EQ(column, fused[0].out);
  EXPECT_EQ(layer_output(s).in, 6u * 64);
  EXPECT_EQ(layer_output(s).out, 40u);
}

// Places in order, apart, each on a multiple of 64 bytes.
void expect_places(const LayerShape& s, const LayerLayout& l, uint64_t scratch) {
  const uint64_t rows = s.num_rows * uint64_t{s.element_bytes};
  EXPECT_GE(l.qkv, l.normed + (s.norm ? rows * s.hidden : 0));
  EXPECT_GE(l.heads, l.qkv + rows * layer_qkv_columns(s));
  EXPECT_GE(l.scratch, l.heads + rows * s.num_q_heads * s.head_dim_v);
  EXPECT_GE(l.total_bytes, l.scratch + scratch);
  EXPECT_LT(l.total_bytes, l.scratch + scratch + 64);
  for (const uint64_t at : {l.normed, l.qkv, l.heads, l.scratch}) EXPECT_EQ(at % 64, 0u);
}

TEST(LayerLayout, PiecesDoNotOverlap) {
  for (const uint32_t bytes : {2u, 4u}) {
    for (const bool norm : {false, true}) {
      for (const uint64_t scratch : {0u, 1u, 1000u}) {
        LayerShape s = shape();
        s.norm = norm;
        s.element_bytes = bytes;
        LayerLayout l;
        ASSERT_TRUE(layer_layout(s, scratch, &l));
        expect_places(s, l, scratch);
      }
    }
  }
}

TEST(LayerLayout, WithoutANormThereIsNoRoomForIt) {
  LayerShape s = shape();
  LayerLayout without, with;
  ASSERT_TRUE(layer_layout(s, 64, &without));
  s.norm = true;
  ASSERT_TRUE(layer_layout(s, 64, &with));
  EXPECT_EQ(without.qkv, 0u);
  EXPECT_EQ(with.total_bytes - without.total_bytes, (7u * 40 * 4 + 63) / 64 * 64);
}

TEST(LayerLayout, WhatPassesTheAddressSpaceIsRefused) {
  LayerShape s = shape();
  LayerLayout l;
  EXPECT_FALSE(layer_layout(s, UINT64_MAX - 100, &l));
  EXPECT_FALSE(layer_layout(s, uint64_t{1} << 63, &l));
  s.num_rows = 0x7fffffff;
  s.num_q_heads = 65535;
  s.num_kv_heads = 65535;
  s.head_dim = s.head_dim_v = 256;
  EXPECT_TRUE(layer_layout(s, uint64_t{1} << 40, &l));  // large, and still a number
}

}  // namespace
}  // namespace radixattn
