// CUDA's implementation of the backend contract: decides how a launch is cut, then enqueues kernels
// and copies on the caller's stream.
//
// Launches allocate nothing, wait for nothing and look at nothing on the device. Lists of blocks
// are host arrays, checked and read before the call returns. A lost device (an earlier kernel
// failed) is remembered: every later launch returns DEVICE_LOST with the first message. Thread
// rule: any number of launches at a time.
#pragma once

#include <atomic>

#include "backend/backend.h"
#include "cuda/cublas_lt.h"
#include "cuda/device.h"

namespace radixattn::cuda {

class CudaBackend final : public Backend {
 public:
  CudaBackend(int32_t device, const DeviceLimits& limits)
      : device_(device), limits_(limits), cublas_lt_(device) {}

  radix_status attention_workspace(const AttentionParams& p, bool prefill,
                                   uint64_t* bytes) const override;
  radix_status decode(const AttentionParams& p, radix_stream stream) override;
  radix_status prefill(const AttentionParams& p, radix_stream stream) override;
  radix_status rope_append(const RopeAppendParams& p, radix_stream stream) override;
  radix_status merge_states(const MergeParams& p, radix_stream stream) override;
  DecodeListSize decode_list_size(const AttentionParams& bounds) const override;
  RadixLimits radix_limits(const AttentionParams& bounds) const override;
  radix_status check_not_capturing(radix_stream stream) override;
  radix_status build_step(const StepParams& p, radix_stream stream) override;
  radix_status match_batch(const MatchParams& p, radix_stream stream) override;
  uint64_t sample_workspace(const SampleParams& p) const override;
  radix_status sample(const SampleParams& p, radix_stream stream) override;
  uint64_t verify_workspace(const VerifyParams& p) const override;
  radix_status verify(const VerifyParams& p, radix_stream stream) override;
  radix_status rms_norm(const NormParams& p, radix_stream stream) override;
  uint64_t gemm_workspace(const GemmParams& p) const override;
  radix_status gemm(const GemmParams& p, radix_stream stream) override;
  radix_status copy_blocks(const KvBlocks& kv, const int32_t* pairs, uint32_t n,
                           radix_stream stream) override;
  radix_status copy_tokens(const KvBlocks& kv, int32_t src, int32_t dst, uint32_t num_tokens,
                           radix_stream stream) override;
  radix_status zero_blocks(const KvBlocks& kv, const int32_t* blocks, uint32_t n,
                           radix_stream stream) override;
  radix_status swap_out(const KvBlocks& kv, const int32_t* blocks, uint32_t n, void* host,
                        radix_stream stream) override;
  radix_status swap_in(const KvBlocks& kv, const int32_t* blocks, uint32_t n, const void* host,
                       radix_stream stream) override;

 private:
  template <class Run>
  radix_status launch(const char* what, Run run);
  radix_status lost() const;
  radix_status decode_listed(const AttentionParams& p, radix_stream stream);
  radix_status attend_items(const AttentionParams& p, const char* what, radix_stream stream);
  radix_status swap(const KvBlocks& kv, const int32_t* blocks, uint32_t n, char* host, bool out,
                    radix_stream stream);

  const int32_t device_;
  const DeviceLimits limits_;
  std::atomic<int32_t> lost_{0};  // the error that lost the device
  mutable CublasLtHandle cublas_lt_;
};

// Runs `run`, which gives an error, with the device current.
template <class Run>
radix_status CudaBackend::launch(const char* what, Run run) {
  const radix_status before = lost();
  if (before != RADIX_OK) return before;
  const DeviceScope scope(device_);
  auto e = scope.error();
  if (e == cudaSuccess) e = static_cast<cudaError_t>(run());
  if (is_lost(e)) lost_.store(e, std::memory_order_relaxed);
  return status_of(e, what);
}

}  // namespace radixattn::cuda
