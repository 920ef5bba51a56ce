// Decode's cut without a plan: fills the device, and its workspace bound holds.
#include "plan/decode_split.h"

#include <gtest/gtest.h>

#include <random>

namespace radixattn {
namespace {

TEST(DecodeSplit, OneLongSequenceFillsTheDevice) {
  const DecodeSplitChoice c = choose_decode_split({132, 1, 8, 32768});
  EXPECT_GE(c.max_splits * 8, 200u);
  EXPECT_LE(c.max_splits * 8, 264u);
  EXPECT_GE(uint64_t{c.split_tokens} * c.max_splits, 32768u);
}

TEST(DecodeSplit, AFullBatchIsNotCut) {
  EXPECT_EQ(choose_decode_split({132, 64, 8, 100000}).max_splits, 1u);
}

TEST(DecodeSplit, ShortSequencesAreNotCut) {
  EXPECT_EQ(choose_decode_split({132, 1, 8, 256}).max_splits, 1u);
  EXPECT_EQ(choose_decode_split({132, 1, 8, 0}).max_splits, 1u);
  EXPECT_EQ(choose_decode_split({132, 0, 8, 1000}).max_splits, 1u);
}

TEST(DecodeSplit, TheBoundHoldsForAsManyOrFewerSequences) {
  std::mt19937 random(3);
  for (int i = 0; i < 20000; ++i) {
    DecodeSplitInput in;
    in.num_sms = static_cast<uint32_t>(random() % 200 + 1);
    in.num_seqs = static_cast<uint32_t>(random() % 300 + 1);
    in.blocks_per_seq = static_cast<uint32_t>(random() % 70 + 1);
    in.max_context_len = static_cast<uint32_t>(random() % 200000);
    const uint64_t bound = max_partial_states(in);
    DecodeSplitInput fewer = in;
    fewer.num_seqs = static_cast<uint32_t>(random() % in.num_seqs + 1);
    fewer.max_context_len = static_cast<uint32_t>(random() % (in.max_context_len + 1));
    for (const DecodeSplitInput& launch : {in, fewer}) {
      const DecodeSplitChoice c = choose_decode_split(launch);
      EXPECT_EQ(c.split_tokens % 64, 0u);
      EXPECT_GE(uint64_t{c.split_tokens} * c.max_splits, launch.max_context_len);
      EXPECT_TRUE(c.max_splits == 1 || uint64_t{launch.num_seqs} * c.max_splits <= bound);
    }
    EXPECT_LE(max_partial_states(fewer), bound);
  }
}

TEST(DecodeSplit, TheLongestContextDoesNotOverflow) {
  for (const uint32_t blocks_per_seq : {264u, 8u}) {
    const DecodeSplitChoice c = choose_decode_split({132, 1, blocks_per_seq, INT32_MAX});
    EXPECT_GE(uint64_t{c.split_tokens} * c.max_splits, uint64_t{INT32_MAX});
    EXPECT_EQ(c.max_splits, 264 / blocks_per_seq);
  }
}

}  // namespace
}  // namespace radixattn
