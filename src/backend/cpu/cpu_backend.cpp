#include "backend/cpu/cpu_backend.h"

#include "backend/cpu/copy.h"
#include "backend/cpu/match.h"
#include "backend/cpu/rope_append.h"
#include "base/error.h"
#include "base/executor.h"
#include "plan/step.h"

namespace radixattn {
namespace {

constexpr uintptr_t kWorkspaceAlign = 64;

radix_status check_workspace(const AttentionParams& p, uint64_t needed) {
  if (p.workspace_bytes < needed) {
    return fail(RADIX_E_BUFFER, "workspace_size is %llu: this launch needs %llu bytes",
                static_cast<unsigned long long>(p.workspace_bytes),
                static_cast<unsigned long long>(needed));
  }
  if (p.workspace == nullptr || reinterpret_cast<uintptr_t>(p.workspace) % kWorkspaceAlign != 0) {
    return fail(RADIX_E_INVALID, "workspace is %p: expected a multiple of %u bytes, not null",
                p.workspace, static_cast<unsigned>(kWorkspaceAlign));
  }
  return RADIX_OK;
}

// A row of the table as a matrix ends where the next one begins.
radix_status check_table_rows(const AttentionParams& p) {
  if (p.blocks.tables == nullptr) return RADIX_OK;  // CSR: check_attention knows the rows' ends
  for (uint32_t s = 0; s < p.num_seqs; ++s) {
    const int64_t needed = (int64_t{p.context_lens[s]} + p.block_size - 1) / p.block_size;
    if (needed > p.blocks.row_stride) {
      return fail(RADIX_E_INVALID,
                  "context_lens[%u] is %d: its %lld blocks do not fit block_table_stride (%lld)", s,
                  p.context_lens[s], static_cast<long long>(needed),
                  static_cast<long long>(p.blocks.row_stride));
    }
  }
  return RADIX_OK;
}

}  // namespace

radix_status CpuBackend::attention_workspace(const AttentionParams& p, bool prefill,
                                             uint64_t* bytes) const {
  const uint32_t workers = executor_.workers();
  if (p.radix.sizes != nullptr || p.radix.max_items != 0) {
    *bytes = radix_workspace_bytes(p, p.radix.max_states, workers);
  } else if (prefill) {
    *bytes = prefill_workspace_bytes(p, workers);
  } else {
    *bytes = p.batch_invariant ? invariant_decode_workspace_bytes(p, workers)
                               : decode_workspace_bytes(p, workers);
  }
  return RADIX_OK;
}

RadixLimits CpuBackend::radix_limits(const AttentionParams& bounds) const {
  return cpu_radix_limits(bounds, executor_.workers());
}

// Which of the launches it is.
radix_status CpuBackend::attention(const AttentionParams& p, bool prefill) {
  if (p.num_seqs == 0) return RADIX_OK;
  uint64_t needed = 0;
  radix_status st = attention_workspace(p, prefill, &needed);
  if (st == RADIX_OK) st = check_workspace(p, needed);
  if (st == RADIX_OK) st = check_table_rows(p);
  if (st != RADIX_OK) return st;
  if (p.radix.sizes != nullptr) return cpu_radix(kernels_, p, executor_);
  if (prefill) return cpu_prefill(kernels_, p, executor_);
  return p.batch_invariant ? cpu_invariant_decode(kernels_, p, executor_)
                           : cpu_decode(kernels_, p, executor_);
}

radix_status CpuBackend::decode(const AttentionParams& p, radix_stream) {
  return attention(p, false);
}

radix_status CpuBackend::prefill(const AttentionParams& p, radix_stream) {
  return attention(p, true);
}

radix_status CpuBackend::rope_append(const RopeAppendParams& p, radix_stream) {
  return cpu_rope_append(kernels_, p, executor_);
}

radix_status CpuBackend::merge_states(const MergeParams& p, radix_stream) {
  return cpu_merge_states(kernels_, p, executor_);
}

radix_status CpuBackend::build_step(const StepParams& p, radix_stream) {
  build_step_on_host(p);
  return RADIX_OK;
}

radix_status CpuBackend::match_batch(const MatchParams& p, radix_stream) {
  return cpu_match_batch(p, executor_);
}

radix_status CpuBackend::copy_blocks(const KvBlocks& kv, const int32_t* pairs, uint32_t n,
                                     radix_stream) {
  return cpu_copy_blocks(kv, pairs, n, executor_);
}

radix_status CpuBackend::copy_tokens(const KvBlocks& kv, int32_t src, int32_t dst,
                                     uint32_t num_tokens, radix_stream) {
  return cpu_copy_tokens(kv, src, dst, num_tokens, executor_);
}

radix_status CpuBackend::zero_blocks(const KvBlocks& kv, const int32_t* blocks, uint32_t n,
                                     radix_stream) {
  return cpu_zero_blocks(kv, blocks, n, executor_);
}

radix_status CpuBackend::swap_out(const KvBlocks& kv, const int32_t* blocks, uint32_t n, void* host,
                                  radix_stream) {
  return cpu_swap_out(kv, blocks, n, host, executor_);
}

radix_status CpuBackend::swap_in(const KvBlocks& kv, const int32_t* blocks, uint32_t n,
                                 const void* host, radix_stream) {
  return cpu_swap_in(kv, blocks, n, host, executor_);
}

}  // namespace radixattn
