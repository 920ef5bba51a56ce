#include "plan/prefill_choice.h"

#include "radixattn.h"

namespace radixattn {
namespace {

// Of 16-bit numbers.
bool comes_in_pieces(const PagedTensor& t) {
  return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.block_stride % 8 == 0 &&
         t.token_stride % 8 == 0 && t.head_stride % 8 == 0;
}

}  // namespace

bool prefill_runs_on_wgmma(const AttentionParams& p) {
  if (p.k.dtype != p.v.dtype || (p.k.dtype != RADIX_F16 && p.k.dtype != RADIX_BF16)) return false;
  if (p.head_dim != p.head_dim_v || (p.head_dim != 64 && p.head_dim != 128)) return false;
  return p.tree_mask == nullptr && comes_in_pieces(p.k) && comes_in_pieces(p.v);
}

}  // namespace radixattn
