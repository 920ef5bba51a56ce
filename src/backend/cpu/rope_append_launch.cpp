// Checks a rotary launch and cuts its tokens into one range a worker.
#include "backend/cpu/kernels.h"
#include "backend/cpu/rope_append.h"
#include "base/error.h"
#include "base/executor.h"

namespace radixattn {
namespace {

// A token of 40 heads takes about 2 us: less than this is not worth another thread.
constexpr uint64_t kMinTokens = 16;

radix_status check_tokens(const RopeAppendParams& p) {
  const int64_t num_slots = int64_t{p.num_blocks} * p.block_size;
  for (uint64_t t = 0; t < p.num_tokens; ++t) {
    if (p.slots[t] < 0) continue;
    if (p.slots[t] >= num_slots) {
      return fail(RADIX_E_INVALID, "slots[%llu] is %lld: expected less than %lld, or negative",
                  static_cast<unsigned long long>(t), static_cast<long long>(p.slots[t]),
                  static_cast<long long>(num_slots));
    }
    if (p.rotary_dim != 0 && p.positions[t] < 0) {
      return fail(RADIX_E_INVALID, "positions[%llu] is %d: expected 0 or more",
                  static_cast<unsigned long long>(t), p.positions[t]);
    }
  }
  return RADIX_OK;
}

// What the tasks of one launch share.
struct Run {
  const CpuKernels* kernels;
  const RopeAppendJob* job;
  uint64_t ranges;
};

void RADIX_CALL run_range(void* arg, uint32_t index) {
  const Run& run = *static_cast<const Run*>(arg);
  const uint64_t n = run.job->params->num_tokens;
  run.kernels->rope_append(*run.job, n * index / run.ranges, n * (index + 1) / run.ranges);
}

}  // namespace

radix_status cpu_rope_append(const CpuKernels& kernels, const RopeAppendParams& p,
                             Executor& executor) {
  if (p.num_tokens == 0) return RADIX_OK;
  if (const radix_status st = check_tokens(p); st != RADIX_OK) return st;
  RopeAppendJob job;
  job.params = &p;
  job.frequencies = rope_frequencies(p);
  const uint64_t useful = (p.num_tokens + kMinTokens - 1) / kMinTokens;
  const uint64_t ranges = useful < executor.workers() ? useful : executor.workers();
  Run run = {&kernels, &job, ranges};
  executor.parallel_for(static_cast<uint32_t>(ranges), run_range, &run);
  return RADIX_OK;
}

}  // namespace radixattn
