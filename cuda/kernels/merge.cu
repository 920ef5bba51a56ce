// Merging attention states: rows of (o, LSE) over disjoint sets of keys become the row over all of
// them.
//
//   top = max LSE_i,  w_i = 2^(LSE_i - top)
//   out = sum w_i o_i / sum w_i,  LSE = top + log2 sum w_i
//
// (0, -inf) is the state of no key and counts for nothing; only such states give (0, -inf), never
// NaN. States are added in the order in which they stand, so that the bits do not depend on who
// computed what when.
//
// Work split: a warp has one row and head, its lanes the elements of o. Two users: the ranges of
// decode, base 2 and with the sinks (launch_decode_merge), and whole tensors of the public API,
// natural logarithms (launch_merge_states).
#include "cuda/kernels.h"
#include "cuda/kernels/attention_tile.h"

namespace radixattn::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kMaxPerLane = 8;  // elements: head dims up to 256

struct Sum {
  float o[kMaxPerLane];
  float total;
};

RADIX_DEVICE void clear(Sum* sum) {
  RADIX_UNROLL
  for (int i = 0; i < kMaxPerLane; ++i) sum->o[i] = 0.f;
  sum->total = 0.f;
}

// Adds weight * (dim elements from `at`).
RADIX_DEVICE void add(const void* o, int32_t dtype, int64_t at, uint32_t dim, float weight,
                      Sum* sum) {
  sum->total += weight;
  RADIX_UNROLL
  for (int i = 0; i < kMaxPerLane; ++i) {
    const uint32_t e = threadIdx.x % 32 + i * 32;
    if (e < dim) sum->o[i] += weight * load_number(o, dtype, at + e);
  }
}

RADIX_DEVICE void write(const RowTensor& out, int64_t row, uint32_t head, uint32_t dim,
                        float factor, const Sum& sum) {
  RADIX_UNROLL
  for (int i = 0; i < kMaxPerLane; ++i) {
    const uint32_t e = threadIdx.x % 32 + i * 32;
    if (e >= dim) continue;
    store_number(out.data, out.dtype, row * out.row_stride + head * out.head_stride + e,
                 factor == 0.f ? 0.f : sum.o[i] * factor);
  }
}

// ---- decode's ranges ----------------------------------------------------------------------------

// grid (num_seqs, heads / kWarps)
__global__ void __launch_bounds__(32 * kWarps)
    decode_merge_kernel(const __grid_constant__ AttentionParams p,
                        const __grid_constant__ DecodeSplit split) {
  const uint32_t seq = blockIdx.x, head = blockIdx.y * kWarps + threadIdx.x / 32;
  const BlockRow row = block_row(p, seq);
  const VisibleRanges ranges =
      visible_ranges(p, split, static_cast<uint32_t>(context_of(p, seq, row)));
  if (ranges.end - ranges.begin == 1) return;  // the only range wrote the result
  if (head >= p.num_q_heads) return;
  const auto state = [&](uint32_t range) {
    return partial_row(split, seq, range) * p.num_q_heads + head;
  };
  float top = -INFINITY;
  for (uint32_t r = ranges.begin; r < ranges.end; ++r)
    top = fmaxf(top, split.partial_lse[state(r)]);
  Sum sum;
  clear(&sum);
  for (uint32_t r = ranges.begin; r < ranges.end; ++r) {
    const float weight = shrink(split.partial_lse[state(r)], top);
    if (weight != 0.f)
      add(split.partial_o, RADIX_F32, state(r) * p.head_dim_v, p.head_dim_v, weight, &sum);
  }
  const RowEnd end = end_of_row(p, head, top, sum.total);
  write(p.out, seq, head, p.head_dim_v, end.factor, sum);
  if (p.lse != nullptr && threadIdx.x % 32 == 0)
    p.lse[seq * p.lse_row_stride + head * p.lse_head_stride] = end.lse;
}

// ---- tensors ------------------------------------------------------------------------------------

// grid (num_rows, heads / kWarps)
__global__ void __launch_bounds__(32 * kWarps)
    merge_states_kernel(const __grid_constant__ MergeParams p) {
  const uint32_t row = blockIdx.x, head = blockIdx.y * kWarps + threadIdx.x / 32;
  if (head >= p.num_heads) return;
  const int64_t at = int64_t{row} * p.num_heads + head;
  float top = -INFINITY;
  for (uint32_t i = 0; i < p.num_states; ++i) top = fmaxf(top, p.in_lse[i][at]);
  Sum sum;
  clear(&sum);
  for (uint32_t i = 0; i < p.num_states; ++i) {
    // The difference first: it is exact where it matters, the products of large ones are not.
    const float lse = p.in_lse[i][at];
    const float weight = lse == -INFINITY ? 0.f : exp2_approx((lse - top) * kLog2e);
    if (weight != 0.f)
      add(p.in[i].data, p.in[i].dtype, row * p.in[i].row_stride + head * p.in[i].head_stride,
          p.head_dim, weight, &sum);
  }
  __syncwarp();  // out and out_lse may be one of the states: all lanes have read them
  const bool empty = top == -INFINITY;
  write(p.out, row, head, p.head_dim, empty ? 0.f : 1.f / sum.total, sum);
  if (p.out_lse != nullptr && threadIdx.x % 32 == 0)
    p.out_lse[at] = empty ? -INFINITY : top + log2f(sum.total) * kLn2;
}

}  // namespace

Error launch_decode_merge(const AttentionParams& p, const DecodeSplit& split, Stream stream) {
  if (p.num_seqs == 0) return 0;
  const dim3 grid(p.num_seqs, (p.num_q_heads + kWarps - 1) / kWarps);
  return RADIX_LAUNCH(decode_merge_kernel, grid, dim3(32 * kWarps), 0, stream, p, split);
}

Error launch_merge_states(const MergeParams& p, Stream stream) {
  if (p.num_rows == 0 || p.num_heads == 0) return 0;
  const dim3 grid(p.num_rows, (p.num_heads + kWarps - 1) / kWarps);
  return RADIX_LAUNCH(merge_states_kernel, grid, dim3(32 * kWarps), 0, stream, p);
}

}  // namespace radixattn::cuda
