#include "backend/cpu/attention_check.h"

#include "base/error.h"

namespace radixattn {
namespace {

radix_status check_lengths(const AttentionParams& p, uint32_t s, uint32_t q_len) {
  const int32_t context = p.context_lens[s];
  if (context < 0 || static_cast<uint32_t>(context) > p.max_context_len) {
    return fail(RADIX_E_INVALID, "context_lens[%u] is %d: expected 0..max_context_len (%u)", s,
                context, p.max_context_len);
  }
  if (q_len > p.max_query_len) {
    return fail(RADIX_E_INVALID,
                "sequence %u has %u query rows: expected at most max_query_len (%u)", s, q_len,
                p.max_query_len);
  }
  return RADIX_OK;
}

// Block ids [begin, end) of the sequence's table.
radix_status check_blocks(const AttentionParams& p, uint32_t s, uint32_t begin, uint32_t end) {
  if (p.blocks.tables == nullptr) {
    const int64_t have = int64_t{p.blocks.block_begin[s + 1]} - p.blocks.block_begin[s];
    if (p.blocks.block_begin[s] < 0 || have < int64_t{end}) {
      return fail(RADIX_E_INVALID,
                  "block_begin gives sequence %u %lld blocks: its %d tokens need %u", s,
                  static_cast<long long>(have), p.context_lens[s], end);
    }
  }
  const int32_t* ids = p.blocks.row(s);
  for (uint32_t i = begin; i < end; ++i) {
    if (static_cast<uint32_t>(ids[i]) >= p.num_blocks) {
      return fail(RADIX_E_INVALID,
                  "block table of sequence %u: entry %u is %d: expected less than %u blocks", s, i,
                  ids[i], p.num_blocks);
    }
  }
  return RADIX_OK;
}

}  // namespace

radix_status check_attention(const AttentionParams& p) {
  for (uint32_t s = 0; s < p.num_seqs; ++s) {
    uint32_t q_len = 1;
    if (p.cu_q_lens != nullptr) {
      const int64_t rows = int64_t{p.cu_q_lens[s + 1]} - p.cu_q_lens[s];
      if (p.cu_q_lens[s] < 0 || rows < 0) {
        return fail(RADIX_E_INVALID,
                    "cu_q_lens[%u..%u] is %d, %d: expected to start at 0 or more and never fall", s,
                    s + 1, p.cu_q_lens[s], p.cu_q_lens[s + 1]);
      }
      q_len = static_cast<uint32_t>(rows);
    }
    if (const radix_status st = check_lengths(p, s, q_len); st != RADIX_OK) return st;
    const auto context = static_cast<uint32_t>(p.context_lens[s]);
    if (context == 0 || q_len == 0) continue;
    // The first row stands at context - q_len and sees `window` tokens, its own included.
    const int64_t first = p.window != 0 ? int64_t{context} - q_len - p.window + 1 : 0;
    const uint32_t begin = first > 0 ? static_cast<uint32_t>(first) / p.block_size : 0;
    const uint32_t end = (context - 1) / p.block_size + 1;
    if (const radix_status st = check_blocks(p, s, begin, end); st != RADIX_OK) return st;
  }
  return RADIX_OK;
}

}  // namespace radixattn
