// The CUDA launchers as test cases want them: one call that runs a case's parameters, in the
// emulator or (tests/gpu, without RADIX_SIMT_EMU) on the first device.
#pragma once

#include <vector>

#include "base/error.h"
#include "cuda/kernels.h"
#include "cuda/sample_space.h"
#include "support/attention_case.h"
#include "support/radix_case.h"
#include "support/sample_case.h"

#ifdef RADIX_SIMT_EMU
#include <cmath>

#include "emu.h"
#endif

namespace radixattn::test {

// Devices small and large: how a kernel is launched depends on them, what it computes does not.
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

// Ranges of split_tokens, at most as many as the longest context has (0: one range).
inline cuda::DecodeSplit split_of(const AttentionParams& p, uint32_t split_tokens) {
  cuda::DecodeSplit split;
  split.split_tokens = split_tokens;
  if (split_tokens != 0)
    split.max_splits = std::max(1u, (p.max_context_len + split_tokens - 1) / split_tokens);
  return split;
}

// A work list of all visible ranges, backwards, and how its partial states lie.
struct WorkList {
  std::vector<int32_t> items, schedule = {0, 0}, partial_begin;
  size_t partial_rows = 0;
};
inline WorkList work_list_of(const AttentionParams& p, const cuda::DecodeSplit& split) {
  WorkList list;
  for (uint32_t s = 0; s < p.num_seqs; ++s) {
    const auto context = static_cast<uint32_t>(p.context_lens[s]);
    const uint32_t first = p.window != 0 && context > p.window ? context - p.window : 0;
    const bool one = split.max_splits == 1 || context == 0;
    const uint32_t begin = one ? 0 : first / split.split_tokens;
    const uint32_t end = one ? 1 : (context - 1) / split.split_tokens + 1;
    list.partial_begin.push_back(static_cast<int32_t>(list.partial_rows) -
                                 static_cast<int32_t>(begin));
    list.partial_rows += end - begin;
    for (uint32_t r = begin; r < end; ++r) {
      const int32_t item[2] = {static_cast<int32_t>(s), static_cast<int32_t>(r)};
      list.items.insert(list.items.begin(), item, item + 2);
    }
  }
  list.schedule = {static_cast<int32_t>(list.items.size() / 2),
                   static_cast<int32_t>(split.split_tokens)};
  return list;
}

// Radix attention along a list, or, when that is null, in `ranges` ranges of segments a sequence,
// with exactly the room for states that the launch has.
struct RadixCall {
  cuda::RadixSplit split;
  bool merges = false;
  size_t floats_of_o = 0, floats_of_ml = 0;
};
inline RadixCall radix_call_of(const RadixArrays* list, uint32_t ranges, uint32_t walkers,
                               AttentionParams* p) {
  RadixCall call;
  call.split.walkers = walkers;
  call.merges = ranges > 1;
  if (list != nullptr) {
    p->radix = list->list();
    p->radix.max_terms = static_cast<uint32_t>(list->terms.size());
    call.split.max_states = list->num_states;
    call.merges = p->radix.has_merges;
  } else {
    call.split.num_segments = (p->max_context_len + kSegmentTokens - 1) / kSegmentTokens;
    call.split.range_segments = (call.split.num_segments + ranges - 1) / ranges;
    call.split.num_ranges = ranges;
    const uint64_t rows = uint64_t{p->num_seqs} * (p->cu_q_lens != nullptr ? p->max_query_len : 1);
    if (ranges > 1) call.split.max_states = rows * call.split.num_segments;
  }
  call.floats_of_ml = 2 * call.split.max_states * p->num_q_heads;
  call.floats_of_o = call.split.max_states * p->num_q_heads * p->head_dim_v;
  return call;
}

// The launch as on a device like `arch`; decode with several ranges is merged, too.
#ifdef RADIX_SIMT_EMU

// A launch that asks for more shared memory than the device has fails, as it would there.
template <class Run>
radix_status emulated(Run run, uint32_t smem_per_block = device_like(90).smem_per_block) {
  simt::emu::cfg.smem_limit = smem_per_block;
  try {
    const cuda::Error e = run();
    return e == 0 ? RADIX_OK : fail(RADIX_E_DEVICE, "error %d", e);
  } catch (const simt::emu::Error& e) {
    return fail(RADIX_E_DEVICE, "%s", e.what());
  }
}

// blocks > 0: that many blocks walk a work list.
inline Launcher decode_launcher(int32_t arch, uint32_t split_tokens, uint32_t blocks = 0) {
  return [=](const AttentionParams& p) {
    cuda::DecodeSplit split = split_of(p, split_tokens);
    const WorkList list = blocks > 0 ? work_list_of(p, split) : WorkList();
    size_t rows = size_t{p.num_seqs} * split.max_splits;
    if (blocks > 0) {
      split.items = list.items.data();
      split.schedule = list.schedule.data();
      split.split_tokens = 1;  // the list's counts
      split.partial_begin = list.partial_begin.data();
      split.num_blocks = blocks;
      split.max_items = static_cast<uint32_t>(list.items.size() / 2);
      rows = list.partial_rows;
    }
    std::vector<float> o(rows * p.num_q_heads * p.head_dim_v, NAN), lse(rows * p.num_q_heads, NAN);
    split.partial_o = o.data();
    split.partial_lse = lse.data();
    return emulated(
        [&] {
          const cuda::Error e = cuda::launch_decode(p, split, device_like(arch), nullptr);
          return e != 0 || split.max_splits == 1 ? e : cuda::launch_decode_merge(p, split, nullptr);
        },
        device_like(arch).smem_per_block);
  };
}

inline Launcher prefill_launcher(int32_t arch) {
  return [=](const AttentionParams& p) {
    const cuda::DeviceLimits device = device_like(arch);
    return emulated([&] { return cuda::launch_prefill(p, device, nullptr); },
                    device.smem_per_block);
  };
}

inline Launcher radix_launcher(int32_t arch, const RadixArrays* list, bool batch_invariant,
                               uint32_t ranges = 1, uint32_t walkers = 3) {
  return [=](AttentionParams p) {
    const cuda::DeviceLimits device = device_like(arch);
    p.batch_invariant = batch_invariant;
    RadixCall call = radix_call_of(list, ranges, walkers, &p);
    std::vector<float> o(call.floats_of_o, NAN), ml(call.floats_of_ml, NAN);
    call.split.o = o.data();
    call.split.ml = ml.data();
    return emulated(
        [&] {
          const cuda::Error e = cuda::launch_radix(p, call.split, device, nullptr);
          return e != 0 || !call.merges ? e : cuda::launch_radix_merge(p, call.split, nullptr);
        },
        device.smem_per_block);
  };
}

inline bool has_wgmma() { return true; }
inline Launcher prefill_wgmma_launcher() {
  return [](const AttentionParams& p) {
    return emulated([&] { return cuda::launch_prefill_wgmma(p, nullptr); });
  };
}

inline radix_status rope_append_on_device(const RopeAppendParams& p) {
  return emulated([&] { return cuda::launch_rope_append(p, rope_frequencies(p), nullptr); });
}
inline radix_status copy_on_device(const KvBlocks& kv, const cuda::CopyBatch& batch) {
  return emulated([&] { return cuda::launch_copy_blocks(kv, batch, nullptr); });
}
inline radix_status zero_on_device(const KvBlocks& kv, const cuda::ZeroBatch& batch) {
  return emulated([&] { return cuda::launch_zero_blocks(kv, batch, nullptr); });
}
inline radix_status build_step_on_device(const StepParams& p) {
  return emulated([&] { return cuda::launch_build_step(p, nullptr); });
}
inline radix_status merge_on_device(const MergeParams& p) {
  return emulated([&] { return cuda::launch_merge_states(p, nullptr); });
}
inline radix_status rms_norm_on_device(const NormParams& p) {
  return emulated([&] { return cuda::launch_rms_norm(p, nullptr); });
}

inline radix_status match_on_device(const MatchParams& p) {
  return emulated([&] { return cuda::launch_match_batch(p, nullptr); });
}

// With a workspace of exactly the bytes that the launch takes.
inline radix_status sample_on_device(const SampleParams& p) {
  cuda::SampleSpace space;
  GuardedWorkspace workspace(cuda::cut_space(p, nullptr, &space));
  cuda::cut_space(p, workspace.data(), &space);
  const radix_status st = emulated([&] { return cuda::launch_sample(p, space, nullptr); });
  EXPECT_TRUE(workspace.guards_hold());
  return st;
}
inline radix_status verify_on_device(const VerifyParams& p) {
  cuda::VerifySpace space;
  GuardedWorkspace workspace(cuda::cut_space(p, nullptr, &space));
  cuda::cut_space(p, workspace.data(), &space);
  const radix_status st = emulated([&] { return cuda::launch_verify(p, space, nullptr); });
  EXPECT_TRUE(workspace.guards_hold());
  return st;
}

// Schedules that give the same bits if the kernel is right: orders of threads and blocks.
inline int num_schedules() { return 4; }
inline void set_schedule(int i) {
  const simt::emu::Order orders[] = {simt::emu::Order::seq, simt::emu::Order::rev,
                                     simt::emu::Order::rnd, simt::emu::Order::rank};
  simt::emu::cfg.order = orders[i];
}

#else

Launcher decode_launcher(int32_t arch, uint32_t split_tokens, uint32_t blocks = 0);
Launcher prefill_launcher(int32_t arch);
Launcher radix_launcher(int32_t arch, const RadixArrays* list, bool batch_invariant,
                        uint32_t ranges = 1, uint32_t walkers = 3);
bool has_wgmma();  // sm_90
Launcher prefill_wgmma_launcher();
radix_status rope_append_on_device(const RopeAppendParams& p);
radix_status copy_on_device(const KvBlocks& kv, const cuda::CopyBatch& batch);
radix_status zero_on_device(const KvBlocks& kv, const cuda::ZeroBatch& batch);
radix_status merge_on_device(const MergeParams& p);
radix_status build_step_on_device(const StepParams& p);
radix_status match_on_device(const MatchParams& p);
radix_status sample_on_device(const SampleParams& p);
radix_status verify_on_device(const VerifyParams& p);
radix_status rms_norm_on_device(const NormParams& p);
// Launched directly, and through a captured graph.
int num_schedules();
void set_schedule(int i);

#endif

}  // namespace radixattn::test
