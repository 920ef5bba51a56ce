#include "plan/decode_split.h"

namespace radixattn {
namespace {

constexpr uint32_t kBlocksPerSm = 2;
constexpr uint32_t kStep = 64;
constexpr uint32_t kShortest = 256;

// Sequences' ranges that run at the same time.
uint32_t ranges_at_once(const DecodeSplitInput& in) {
  const uint32_t blocks = in.num_sms * kBlocksPerSm;
  return blocks > in.blocks_per_seq ? blocks / in.blocks_per_seq : 1;
}

}  // namespace

DecodeSplitChoice choose_decode_split(const DecodeSplitInput& in) {
  const uint32_t at_once = ranges_at_once(in);
  const uint32_t wanted = in.num_seqs == 0 || at_once <= in.num_seqs ? 1 : at_once / in.num_seqs;
  const uint64_t even = (uint64_t{in.max_context_len} + wanted - 1) / wanted;
  uint64_t split = (even + kStep - 1) / kStep * kStep;
  if (split < kShortest) split = kShortest;
  const uint64_t ranges = (in.max_context_len + split - 1) / split;
  return {static_cast<uint32_t>(split), ranges == 0 ? 1 : static_cast<uint32_t>(ranges)};
}

uint32_t decode_walkers(const DecodeSplitInput& in) { return ranges_at_once(in); }

uint32_t max_decode_items(uint32_t max_seqs, uint32_t walkers) { return max_seqs + 4 * walkers; }

uint64_t max_partial_states(const DecodeSplitInput& in) {
  const uint32_t at_once = ranges_at_once(in);
  return at_once > in.num_seqs ? at_once : in.num_seqs;
}

}  // namespace radixattn
