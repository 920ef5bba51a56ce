// The end of rows whose keys several items had: their partial states, in order of position, become
// results.
//
//   (o, m, l) <- (o 2^(m - m') + o_i 2^(m_i - m'), m' = max(m, m_i), l likewise)   for each state i
//   out = o / l,  LSE = m + log2 l; sinks as everywhere
//
// It is the fold of radix.cu, one after the other: which of two states was folded where leaves no
// trace, and batch-invariant rows get the bits that one block would have given.
//
// Work split: a warp has one row and head, its lanes the elements of o. With a list, the states
// that a sequence's terms name; without one, those of the segments that the row sees.
#include "cuda/kernels.h"
#include "cuda/kernels/radix_rows.h"

namespace radixattn::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kMaxPerLane = 8;       // elements: head dims up to 256
constexpr uint32_t kMaxTokens = 64;  // of a sequence at the same time

struct Sum {
  float o[kMaxPerLane];
  float m, l;
};

RADIX_DEVICE void clear(Sum* sum) {
  RADIX_UNROLL
  for (int i = 0; i < kMaxPerLane; ++i) sum->o[i] = 0.f;
  sum->m = -INFINITY, sum->l = 0.f;
}

RADIX_DEVICE void add(const AttentionParams& p, const RadixSplit& split, int64_t index,
                      uint32_t head, Sum* sum) {
  const int64_t at = state_place(p, split, index, head);
  if (at < 0 || split.ml[2 * at] == -INFINITY) return;
  const Fold fold = fold_of(sum->m, split.ml[2 * at]);
  sum->m = fold.m;
  sum->l = folded(fold, sum->l, split.ml[2 * at + 1]);
  RADIX_UNROLL
  for (int i = 0; i < kMaxPerLane; ++i) {
    const uint32_t e = threadIdx.x % 32 + i * 32;
    if (e < p.head_dim_v) sum->o[i] = folded(fold, sum->o[i], split.o[at * p.head_dim_v + e]);
  }
}

RADIX_DEVICE void write(const AttentionParams& p, int64_t query, uint32_t head, const Sum& sum) {
  const RowEnd end = end_of_row(p, head, sum.m, sum.l);
  const float v_scale = scale_of(p.v_scale, p, head / (p.num_q_heads / p.num_kv_heads));
  RADIX_UNROLL
  for (int i = 0; i < kMaxPerLane; ++i) {
    const uint32_t e = threadIdx.x % 32 + i * 32;
    if (e < p.head_dim_v)
      store_number(p.out.data, p.out.dtype, query * p.out.row_stride + head * p.out.head_stride + e,
                   result_of(sum.o[i], end.factor, v_scale));
  }
  if (p.lse != nullptr && threadIdx.x % 32 == 0)
    p.lse[query * p.lse_row_stride + head * p.lse_head_stride] = end.lse;
}

// Token t of sequence `seq`, as the list has it.
RADIX_DEVICE void merge_listed(const AttentionParams& p, const RadixSplit& split, uint32_t seq,
                               int32_t t, uint32_t head) {
  const RadixMerge merge = p.radix.merges[seq];
  Sum sum;
  clear(&sum);
  if (merge.first_row < 0) {
    const RowPlace place = row_place(p, int64_t{queries_of(p, seq).first} + t, 0);
    if (place.query >= 0) write(p, place.query, head, sum);
    return;
  }
  const int64_t sorted = int64_t{merge.first_row} + t;
  const RowPlace place = sorted_row(p, sorted);
  const int64_t begin = clamped(merge.term_begin, 0, p.radix.max_terms);
  const int64_t end = clamped(merge.term_end, begin, p.radix.max_terms);
  if (place.query < 0 || begin == end) return;  // nobody's, or an item wrote it
  for (int64_t i = begin; i < end; ++i) add(p, split, p.radix.terms[i] + sorted, head, &sum);
  write(p, place.query, head, sum);
}

RADIX_DEVICE void merge_unlisted(const AttentionParams& p, const RadixSplit& split, uint32_t seq,
                                 int32_t t, const Queries& queries, uint32_t head) {
  const BlockRow table = block_row(p, seq);
  const int64_t context = context_of(p, seq, table);
  const int64_t position = context - queries.num + t;
  const int64_t last = p.tree_mask != nullptr || position >= context ? context - 1 : position;
  const int64_t first = p.window == 0 || position < int64_t{p.window} ? 0 : position - p.window + 1;
  Sum sum;
  clear(&sum);
  const int64_t states = (seq * queries_at_most(p) + t) * split.num_segments;
  for (int64_t i = first / kSegmentTokens; last >= first && i <= last / kSegmentTokens; ++i)
    add(p, split, states + i, head, &sum);
  write(p, int64_t{queries.first} + t, head, sum);
}

// grid (num_seqs, heads / kWarps, query tokens of a sequence, kMaxTokens at most)
__global__ void __launch_bounds__(32 * kWarps)
    radix_merge_kernel(const __grid_constant__ AttentionParams p,
                       const __grid_constant__ RadixSplit split) {
  const uint32_t seq = blockIdx.x, head = blockIdx.y * kWarps + threadIdx.x / 32;
  if (head >= p.num_q_heads) return;
  const Queries queries = queries_of(p, seq);
  for (auto t = static_cast<int32_t>(blockIdx.z); t < queries.num && t < queries_at_most(p);
       t += static_cast<int32_t>(gridDim.z)) {
    if (p.radix.sizes != nullptr) {
      merge_listed(p, split, seq, t, head);
    } else {
      merge_unlisted(p, split, seq, t, queries, head);
    }
  }
}

}  // namespace

Error launch_radix_merge(const AttentionParams& p, const RadixSplit& split, Stream stream) {
  const uint32_t tokens = p.cu_q_lens != nullptr ? p.max_query_len : 1;
  if (p.num_seqs == 0 || tokens == 0) return 0;
  const dim3 grid(p.num_seqs, (p.num_q_heads + kWarps - 1) / kWarps,
                  tokens < kMaxTokens ? tokens : kMaxTokens);
  return RADIX_LAUNCH(radix_merge_kernel, grid, dim3(32 * kWarps), 0, stream, p, split);
}

}  // namespace radixattn::cuda
