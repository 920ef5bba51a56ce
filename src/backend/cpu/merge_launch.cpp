// Cuts the rows of a merge into one range a worker.
#include "backend/cpu/kernels.h"
#include "base/executor.h"

namespace radixattn {
namespace {

// Below this many elements read, waking a thread costs more than it saves.
constexpr uint64_t kMinElements = 64 * 1024;

struct Run {
  const CpuKernels* kernels;
  const MergeParams* params;
  uint32_t ranges;
};

void RADIX_CALL run_range(void* arg, uint32_t index) {
  const Run& run = *static_cast<const Run*>(arg);
  const uint64_t rows = run.params->num_rows;
  run.kernels->merge_states(*run.params, static_cast<uint32_t>(rows * index / run.ranges),
                            static_cast<uint32_t>(rows * (index + 1) / run.ranges));
}

}  // namespace

radix_status cpu_merge_states(const CpuKernels& kernels, const MergeParams& p, Executor& executor) {
  const uint64_t elements = uint64_t{p.num_rows} * p.num_heads * p.head_dim * p.num_states;
  if (elements == 0) return RADIX_OK;
  uint64_t ranges = (elements + kMinElements - 1) / kMinElements;
  if (ranges > executor.workers()) ranges = executor.workers();
  if (ranges > p.num_rows) ranges = p.num_rows;
  Run run = {&kernels, &p, static_cast<uint32_t>(ranges)};
  executor.parallel_for(run.ranges, run_range, &run);
  return RADIX_OK;
}

}  // namespace radixattn
