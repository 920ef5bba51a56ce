// Merging the partial states of a list's rows (compiled once for every target): a row's states are
// folded in the order of its terms, from the first position on, as segments are inside an item.
#include "backend/cpu/attention_jobs.h"
#include "backend/cpu/kernel_set-inl.h"
#include "backend/cpu/rows-inl.h"

namespace radixattn {
namespace RADIX_CPU_TARGET_NS {
namespace {

// State of one row and head.
struct HeadState {
  VF m, l;  // the same in every lane
  float* o;
};

void fold_state(const PartialStates& from, uint64_t row, uint32_t dim, HeadState* to) {
  const DF d;
  const FoldFactors f = fold_factors(to->m, hn::Set(d, from.m[row]));
  to->m = f.m;
  to->l = fold(f, to->l, hn::Set(d, from.l[row]));
  const float* part = from.o + row * padded(dim);
  for (uint32_t i = 0; i < padded(dim); i += kLanes)
    hn::StoreU(fold(f, hn::LoadU(d, to->o + i), hn::LoadU(d, part + i)), d, to->o + i);
}

}  // namespace

void radix_merge(const RadixMergeJob& job, uint32_t seq, uint32_t row_begin, uint32_t row_end) {
  const DF d;
  const AttentionParams& p = *job.params;
  const RadixMerge& merge = job.merges[seq];
  if (merge.first_row >= 0 && merge.term_begin == merge.term_end) return;  // an item wrote them
  const int64_t first_query = p.cu_q_lens != nullptr ? p.cu_q_lens[seq] : int64_t{seq};
  alignas(64) float o[256];
  for (uint32_t r = row_begin; r < row_end; ++r) {
    for (uint32_t h = 0; h < p.num_q_heads; ++h) {
      HeadState state = {hn::Set(d, kMinusInf), hn::Zero(d), o};
      for (uint32_t i = 0; i < padded(p.head_dim_v); i += kLanes) hn::StoreU(hn::Zero(d), d, o + i);
      for (int32_t t = merge.first_row < 0 ? merge.term_end : merge.term_begin; t < merge.term_end;
           ++t) {
        const int64_t row = int64_t{job.terms[t]} + merge.first_row + r;
        fold_state(job.partial, static_cast<uint64_t>(row) * p.num_q_heads + h, p.head_dim_v,
                   &state);
      }
      finish_row(p, first_query + r, h, o, hn::GetLane(state.m), hn::GetLane(state.l));
    }
  }
}

}  // namespace RADIX_CPU_TARGET_NS
}  // namespace radixattn
