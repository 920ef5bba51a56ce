// The launch of radix_sample: rows are dealt to workers.
#include <cinttypes>
#include <cstring>
#include <limits>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/sample_rows.h"
#include "base/error.h"

namespace radixattn {
namespace {

struct Run {
  const CpuKernels* kernels;
  const SampleParams* params;
  std::atomic<uint32_t> next{0};
  FirstFailure failure;
};

// -1 and NaN, wherever a result would stand.
void write_failed_row(const SampleParams& p, uint32_t row) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  p.out_tokens[row] = -1;
  if (p.out_logprobs != nullptr) p.out_logprobs[row] = kNan;
  for (uint32_t i = 0; i < p.num_top; ++i) {
    p.out_top_tokens[uint64_t{row} * p.num_top + i] = -1;
    p.out_top_logprobs[uint64_t{row} * p.num_top + i] = kNan;
  }
}

void RADIX_CALL run_rows(void* arg, uint32_t index) {
  Run& run = *static_cast<Run*>(arg);
  const SampleParams& p = *run.params;
  RowSampler sampler(*run.kernels, p, worker_scratch(p, false, false, p.workspace, index));
  for (;;) {
    const uint32_t row = run.next.fetch_add(1, std::memory_order_relaxed);
    if (row >= p.num_rows) return;
    const int32_t status = sampler.open(row);
    if (status == RADIX_ROW_OK) {
      p.out_tokens[row] = sampler.draw();
      sampler.report();
    } else {
      write_failed_row(p, row);
      run.failure.add(row, status);
    }
    if (p.out_status != nullptr) p.out_status[row] = status;
  }
}

}  // namespace

radix_status fail_row(const SampleParams& p, const char* of, uint32_t row, int32_t status) {
  if (status == RADIX_ROW_NAN) {
    return fail(RADIX_E_INVALID,
                "%s->logits has NaN or +inf in row %u, or a bias or penalty makes one: expected "
                "finite numbers or -inf",
                of, row);
  }
  if (status == RADIX_ROW_EMPTY) {
    return fail(RADIX_E_INVALID,
                "%s->logits has only -inf or tokens that are not allowed in row %u: expected a "
                "token that can be drawn",
                of, row);
  }
  const RowFault fault = find_fault(p, row_parameters(p, row), row);
  return fail(RADIX_E_INVALID, "%s->%s[%" PRId64 "] is %g: expected %s", of, fault.array,
              fault.index, fault.value, fault.expected);
}

radix_status check_sample_workspace(const void* workspace, uint64_t given, uint64_t needed) {
  if (given < needed) {
    return fail(RADIX_E_BUFFER,
                "d->workspace_size is %" PRIu64 ": this launch needs %" PRIu64 " bytes", given,
                needed);
  }
  if (needed > 0 &&
      (workspace == nullptr || reinterpret_cast<uintptr_t>(workspace) % kWorkspaceAlign != 0)) {
    return fail(RADIX_E_INVALID, "d->workspace is %p: expected a multiple of %u bytes, not NULL",
                workspace, static_cast<unsigned>(kWorkspaceAlign));
  }
  return RADIX_OK;
}

RowScratch worker_scratch(const SampleParams& p, bool lists, bool removes, void* workspace,
                          uint32_t index) {
  RowScratch scratch;
  const uint64_t bytes = lay_out(p, lists, removes, nullptr, &scratch);
  lay_out(p, lists, removes, static_cast<char*>(workspace) + index * bytes, &scratch);
  if (scratch.counts != nullptr) std::memset(scratch.counts, 0, p.vocab * sizeof(uint32_t));
  return scratch;
}

uint64_t sample_workspace_bytes(const SampleParams& p, uint32_t workers) {
  RowScratch unused;
  const uint64_t logits = uint64_t{p.num_rows} * p.vocab;
  return sample_workers(p.num_rows, logits, workers) * lay_out(p, false, false, nullptr, &unused);
}

radix_status cpu_sample(const CpuKernels& kernels, const SampleParams& p, Executor& executor) {
  if (p.num_rows == 0) return RADIX_OK;
  Run run;
  run.kernels = &kernels;
  run.params = &p;
  const uint64_t logits = uint64_t{p.num_rows} * p.vocab;
  executor.parallel_for(sample_workers(p.num_rows, logits, executor.workers()), run_rows, &run);
  if (p.out_status != nullptr || !run.failure.any()) return RADIX_OK;
  return fail_row(p, "d", run.failure.row(), run.failure.status());
}

uint64_t CpuBackend::sample_workspace(const SampleParams& p) const {
  return sample_workspace_bytes(p, executor_.workers());
}

radix_status CpuBackend::sample(const SampleParams& p, radix_stream) {
  const radix_status st =
      check_sample_workspace(p.workspace, p.workspace_bytes, sample_workspace(p));
  return st == RADIX_OK ? cpu_sample(kernels_, p, executor_) : st;
}

}  // namespace radixattn
