// The CUDA attention launchers as test cases want them: one call that runs a case's parameters.
#pragma once

#include <cmath>
#include <vector>

#include "base/error.h"
#include "cuda/kernels.h"
#include "emu.h"
#include "support/attention_case.h"

namespace radixattn::test {

// Devices small and large; what the emulator runs does not depend on them, how it is launched does.
inline cuda::DeviceLimits device_like(int32_t arch) {
  switch (arch) {
    case 75:
      return {75, 40, 64 * 1024, 64 * 1024};
    case 86:
      return {86, 84, 99 * 1024, 100 * 1024};
    default:
      return {90, 132, 227 * 1024, 228 * 1024};
  }
}

inline int32_t compute_dtype_of(int32_t kv_dtype) {
  return is_fp8(kv_dtype) ? RADIX_F16 : kv_dtype;
}

// `splits` > 1: ranges of split_tokens, at most as many as the longest context has, and the merge.
inline Launcher decode_launcher(int32_t arch, uint32_t split_tokens) {
  return [=](const AttentionParams& p) -> radix_status {
    cuda::DecodeSplit split;
    split.split_tokens = split_tokens;
    if (split_tokens != 0)
      split.max_splits = std::max(1u, (p.max_context_len + split_tokens - 1) / split_tokens);
    const size_t states = size_t{p.num_seqs} * split.max_splits * p.num_q_heads;
    std::vector<float> o(states * p.head_dim_v, NAN), lse(states, NAN);
    split.partial_o = o.data();
    split.partial_lse = lse.data();
    try {
      cuda::Error e = cuda::launch_decode(p, split, device_like(arch), nullptr);
      if (e == 0 && split.max_splits > 1) e = cuda::launch_decode_merge(p, split, nullptr);
      return e == 0 ? RADIX_OK : fail(RADIX_E_DEVICE, "launch_decode: error %d", e);
    } catch (const simt::emu::Error& e) {
      return fail(RADIX_E_DEVICE, "%s", e.what());
    }
  };
}

inline Launcher prefill_launcher(int32_t arch) {
  return [=](const AttentionParams& p) -> radix_status {
    try {
      const cuda::Error e = cuda::launch_prefill(p, device_like(arch), nullptr);
      return e == 0 ? RADIX_OK : fail(RADIX_E_DEVICE, "launch_prefill: error %d", e);
    } catch (const simt::emu::Error& e) {
      return fail(RADIX_E_DEVICE, "%s", e.what());
    }
  };
}

}  // namespace radixattn::test
