#include "backend/block_check.h"

#include "base/error.h"

namespace radixattn {
namespace {

bool valid(const KvBlocks& kv, int32_t block) {
  return static_cast<uint32_t>(block) < kv.num_blocks;
}

long long last_block(const KvBlocks& kv) { return static_cast<long long>(kv.num_blocks) - 1; }

}  // namespace

radix_status check_pairs(const KvBlocks& kv, const int32_t* pairs, uint32_t n) {
  for (uint32_t i = 0; i < n; ++i) {
    const int32_t src = pairs[2 * size_t{i}], dst = pairs[2 * size_t{i} + 1];
    if (valid(kv, src) && valid(kv, dst)) continue;
    return fail(RADIX_E_INVALID, "pair %u copies block %d to %d: expected %s in 0..%lld", i, src,
                dst, valid(kv, src) ? "a destination" : "a source", last_block(kv));
  }
  return RADIX_OK;
}

radix_status check_token_copy(const KvBlocks& kv, int32_t src, int32_t dst, uint32_t num_tokens) {
  if (!valid(kv, src) || !valid(kv, dst)) {
    const bool bad_src = !valid(kv, src);
    return fail(RADIX_E_INVALID, "%s is block %d: expected 0..%lld", bad_src ? "src" : "dst",
                bad_src ? src : dst, last_block(kv));
  }
  if (num_tokens <= kv.block_size) return RADIX_OK;
  return fail(RADIX_E_INVALID, "num_tokens is %u: expected 0..block_size (%u)", num_tokens,
              kv.block_size);
}

radix_status check_blocks(const KvBlocks& kv, const int32_t* blocks, uint32_t n) {
  for (uint32_t i = 0; i < n; ++i) {
    if (valid(kv, blocks[i])) continue;
    return fail(RADIX_E_INVALID, "blocks[%u] is %d: expected 0..%lld", i, blocks[i],
                last_block(kv));
  }
  return RADIX_OK;
}

}  // namespace radixattn
