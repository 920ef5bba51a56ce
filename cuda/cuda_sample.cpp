// Sampling and verification: the workspace is cut, then the kernels are enqueued. Contents of
// arrays are the kernels' business: what a row's are worth is in its status.
#include <cinttypes>

#include "base/error.h"
#include "cuda/cuda_backend.h"
#include "cuda/sample_space.h"

namespace radixattn::cuda {
namespace {

radix_status check_space(const void* workspace, uint64_t given, uint64_t needed) {
  if (given < needed) {
    return fail(RADIX_E_BUFFER,
                "d->workspace_size is %" PRIu64 ": this launch needs %" PRIu64 " bytes", given,
                needed);
  }
  if (needed > 0 && (workspace == nullptr || reinterpret_cast<uintptr_t>(workspace) % 64 != 0)) {
    return fail(RADIX_E_INVALID, "d->workspace is %p: expected a multiple of 64 bytes, not NULL",
                workspace);
  }
  return RADIX_OK;
}

// Thread blocks of a launch.
radix_status check_count(const char* what, uint32_t count) {
  if (count <= INT32_MAX) return RADIX_OK;
  return fail(RADIX_E_UNSUPPORTED, "%s is %u: expected fewer than 2^31 on CUDA", what, count);
}

}  // namespace

uint64_t CudaBackend::sample_workspace(const SampleParams& p) const {
  SampleSpace unused;
  return cut_space(p, nullptr, &unused);
}

radix_status CudaBackend::sample(const SampleParams& p, radix_stream stream) {
  if (p.num_rows == 0) return RADIX_OK;
  radix_status st = check_count("logits.shape[0]", p.num_rows);
  if (st == RADIX_OK) st = check_space(p.workspace, p.workspace_bytes, sample_workspace(p));
  if (st != RADIX_OK) return st;
  SampleSpace space;
  cut_space(p, p.workspace, &space);
  return launch("sample", [&] { return launch_sample(p, space, stream); });
}

uint64_t CudaBackend::verify_workspace(const VerifyParams& p) const {
  VerifySpace unused;
  return cut_space(p, nullptr, &unused);
}

radix_status CudaBackend::verify(const VerifyParams& p, radix_stream stream) {
  if (p.num_seqs == 0) return RADIX_OK;
  radix_status st = check_count("logits.shape[0]", p.target.num_rows);
  if (st == RADIX_OK) st = check_count("num_seqs", p.num_seqs);
  if (st == RADIX_OK) st = check_space(p.workspace, p.workspace_bytes, verify_workspace(p));
  if (st != RADIX_OK) return st;
  VerifySpace space;
  cut_space(p, p.workspace, &space);
  return launch("verify", [&] { return launch_verify(p, space, stream); });
}

}  // namespace radixattn::cuda
