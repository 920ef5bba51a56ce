// The CPU's implementation of the backend contract: checks, then kernels of one target through one
// executor.
//
// Adds to the checks of src/api those that need array contents: see backend/cpu/attention_check.h,
// rope_append.h and copy.h for what each launch looks at. A launch that fails has written nothing
// and has set the thread's message. Allocates nothing: an object can be made in place.
// Thread rule: const but for what launches write; any number of launches at a time, if the executor
// may.
#pragma once

#include "backend/backend.h"
#include "backend/cpu/kernels.h"

namespace radixattn {

class CpuBackend final : public Backend {
 public:
  // Both outlive the backend. kernels: select_kernels(config.cpu_target).
  CpuBackend(const CpuKernels& kernels, Executor& executor)
      : kernels_(kernels), executor_(executor) {}

  const CpuKernels& kernels() const { return kernels_; }

  radix_status attention_workspace(const AttentionParams& p, bool prefill,
                                   uint64_t* bytes) const override;
  radix_status decode(const AttentionParams& p, radix_stream stream) override;
  radix_status prefill(const AttentionParams& p, radix_stream stream) override;
  radix_status rope_append(const RopeAppendParams& p, radix_stream stream) override;
  radix_status merge_states(const MergeParams& p, radix_stream stream) override;
  DecodeListSize decode_list_size(const AttentionParams&) const override { return {}; }
  RadixLimits radix_limits(const AttentionParams& bounds) const override;
  radix_status check_not_capturing(radix_stream) override { return RADIX_OK; }
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
  radix_status attention(const AttentionParams& p, bool prefill);

  const CpuKernels& kernels_;
  Executor& executor_;
};

}  // namespace radixattn
