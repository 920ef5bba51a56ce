// How decode without a plan is cut: from bounds alone, so that a captured launch stays right when
// lengths change under it.
#pragma once

#include <cstdint>

namespace radixattn {

struct DecodeSplitInput {
  uint32_t num_sms = 1;
  uint32_t num_seqs = 0;
  uint32_t blocks_per_seq = 1;  // of one range: KV heads times chunks of their query heads
  uint32_t max_context_len = 0;
};

struct DecodeSplitChoice {
  uint32_t split_tokens;  // a multiple of 64
  uint32_t max_splits;
};

// As many ranges as fill the device once (two blocks an SM), of 256 tokens or more; one when the
// sequences alone fill it.
DecodeSplitChoice choose_decode_split(const DecodeSplitInput& in);

// Thread blocks that walk a plan's work list at the same time, for each sequence's one: as many as
// fill the device once.
uint32_t decode_walkers(const DecodeSplitInput& in);
// Items of the longest list that is worth its walkers: every sequence's one, and four rounds more.
uint32_t max_decode_items(uint32_t max_seqs, uint32_t walkers);

// Partial states that launches of at most `num_seqs` sequences can leave, whatever their lengths:
// at least num_seqs * max_splits of every choice for as many or fewer.
uint64_t max_partial_states(const DecodeSplitInput& in);

}  // namespace radixattn
