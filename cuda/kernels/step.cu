// A plan's step on the device: block-table rows from what changed of them, then positions and slots
// of the query tokens.
//
//   position(t) = context_len - query_len + t      slot(t) = table[position / B] * B + position % B
//
// Work split. A block has one sequence: it writes the changed entries of the row, waits for itself,
// and reads the row for the slots. One more block fills the slots that no sequence has.
//
// All arrays come from the host's plan. Their contents are trusted no further than in any other
// kernel: nothing is read or written outside of tables, slots and positions.
#include "cuda/kernels.h"
#include "cuda/simt/simt.h"

namespace radixattn::cuda {
namespace {

using namespace simt;

constexpr int kThreads = 128;

RADIX_DEVICE void patch_row(const StepParams& p, uint32_t seq) {
  const int64_t begin = p.patch_begin[seq], num = p.patch_begin[seq + 1] - begin;
  const int64_t first = p.patch_first[seq];
  for (int64_t i = threadIdx.x; i < num; i += kThreads) {
    const int64_t at = first + i;
    if (at >= 0 && at < p.row_stride) p.tables[seq * p.row_stride + at] = p.patch_ids[begin + i];
  }
}

RADIX_DEVICE int64_t slot_of(const StepParams& p, uint32_t seq, int64_t position) {
  const int64_t index = position / p.block_size;
  if (position < 0 || index >= p.row_stride) return -1;
  const int64_t block = p.tables[seq * p.row_stride + index];
  return block < 0 ? -1 : block * p.block_size + position % p.block_size;
}

// grid (num_seqs + 1)
// Eight blocks an SM: left to itself, ptxas spills on sm_80 for the sake of sixteen.
__global__ void __launch_bounds__(kThreads, 8)
    build_step_kernel(const __grid_constant__ StepParams p) {
  const uint32_t seq = blockIdx.x;
  int64_t row = p.num_seqs > 0 ? p.cu_q_lens[seq] : 0;
  if (row < 0) row = 0;
  if (seq == p.num_seqs) {  // behind the last sequence
    for (row += threadIdx.x; row < p.num_slots; row += kThreads)
      p.slots[row] = -1, p.positions[row] = 0;
    return;
  }
  patch_row(p, seq);
  __syncthreads();
  const int64_t end = p.cu_q_lens[seq + 1], query_len = end - row;
  for (int64_t t = threadIdx.x; t < query_len && row + t < p.num_slots; t += kThreads) {
    const int64_t position = int64_t{p.context_lens[seq]} - query_len + t;
    p.slots[row + t] = slot_of(p, seq, position);
    p.positions[row + t] = position > 0 ? static_cast<int32_t>(position) : 0;
  }
}

}  // namespace

Error launch_build_step(const StepParams& p, Stream stream) {
  return RADIX_LAUNCH(build_step_kernel, dim3(p.num_seqs + 1), dim3(kThreads), 0, stream, p);
}

}  // namespace radixattn::cuda
