#include "cuda/cuda_backend.h"

#include "backend/block_check.h"
#include "base/error.h"
#include "cuda/radix_space.h"
#include "plan/copy_batches.h"
#include "plan/decode_split.h"
#include "plan/prefill_choice.h"

namespace radixattn::cuda {
namespace {

constexpr uint32_t kMaxGrid = 65535;     // blocks in y and z
constexpr uint32_t kHeadsPerBlock = 16;  // decode.cu's rows
constexpr uint32_t kMergedHeads = 4;     // merge.cu's warps

DecodeSplitInput split_input(const AttentionParams& p, const DeviceLimits& limits) {
  const uint32_t group = p.num_q_heads / p.num_kv_heads;
  DecodeSplitInput in;
  in.num_sms = limits.num_sms;
  in.num_seqs = p.num_seqs;
  in.blocks_per_seq = p.num_kv_heads * ((group + kHeadsPerBlock - 1) / kHeadsPerBlock);
  in.max_context_len = p.max_context_len;
  return in;
}

uint64_t state_bytes(const AttentionParams& p, uint64_t states) {
  return states * p.num_q_heads * (uint64_t{p.head_dim_v} + 1) * sizeof(float);
}

radix_status check_workspace(const AttentionParams& p, uint64_t needed) {
  if (needed == 0) return RADIX_OK;
  if (p.workspace_bytes < needed) {
    return fail(RADIX_E_BUFFER, "workspace_size is %llu: this launch needs %llu bytes",
                static_cast<unsigned long long>(p.workspace_bytes),
                static_cast<unsigned long long>(needed));
  }
  if (p.workspace == nullptr || reinterpret_cast<uintptr_t>(p.workspace) % 64 != 0) {
    return fail(RADIX_E_INVALID, "workspace is %p: expected a multiple of 64 bytes, not null",
                p.workspace);
  }
  return RADIX_OK;
}

// What the kernels cannot do is refused here, before anything is enqueued.
radix_status check_shapes(const AttentionParams& p) {
  if (p.k.dtype != p.v.dtype) {
    return fail(RADIX_E_UNSUPPORTED,
                "v_cache has dtype %d and k_cache %d: expected the same on CUDA", p.v.dtype,
                p.k.dtype);
  }
  if (p.num_q_heads > kMaxGrid) {
    return fail(RADIX_E_UNSUPPORTED, "q has %u heads: expected at most %u on CUDA", p.num_q_heads,
                kMaxGrid);
  }
  return RADIX_OK;
}

// attention_f32.cu takes no list, and is batch-invariant as it is.
bool runs_in_items(const AttentionParams& p) {
  return p.k.dtype != RADIX_F32 && (p.batch_invariant || p.radix.sizes != nullptr);
}

}  // namespace

radix_status CudaBackend::lost() const {
  const int32_t e = lost_.load(std::memory_order_relaxed);
  if (e == 0) return RADIX_OK;
  return fail_native(RADIX_E_DEVICE_LOST, e, "device %d was lost by an earlier kernel: %s", device_,
                     cudaGetErrorString(static_cast<cudaError_t>(e)));
}

// ---- attention ----------------------------------------------------------------------------------

radix_status CudaBackend::attention_workspace(const AttentionParams& p, bool prefill,
                                              uint64_t* bytes) const {
  if (runs_in_items(p)) {
    *bytes = ranges_workspace(p, limits_, prefill);
  } else {
    *bytes = prefill ? 0 : state_bytes(p, max_partial_states(split_input(p, limits_)));
  }
  return RADIX_OK;
}

// Along a plan's list of items, or batch-invariant without one. A workspace that is too small for
// ranges is none: they change nothing but the time.
radix_status CudaBackend::attend_items(const AttentionParams& p, const char* what,
                                       radix_stream stream) {
  const bool listed = p.radix.sizes != nullptr;
  RadixSplit split;
  if (listed) {
    split.walkers = radix_walkers(p, limits_);
    split.max_states = p.radix.max_states;
  } else {
    split = choose_ranges(p, limits_, p.cu_q_lens != nullptr);
    if (radix_state_bytes(p, split.max_states) > p.workspace_bytes) split = RadixSplit();
  }
  const radix_status st = check_workspace(p, radix_state_bytes(p, split.max_states));
  if (st != RADIX_OK) return st;
  cut_states(p, split.max_states, p.workspace, &split);
  const bool merges = listed ? p.radix.has_merges : split.num_ranges > 1;
  return launch(what, [&] {
    const Error e = launch_radix(p, split, limits_, stream);
    return e != 0 || !merges ? e : launch_radix_merge(p, split, stream);
  });
}

// Along a plan's work list.
radix_status CudaBackend::decode_listed(const AttentionParams& p, radix_stream stream) {
  const uint64_t states = p.list.max_items;
  const radix_status st = check_workspace(p, state_bytes(p, states));
  if (st != RADIX_OK) return st;
  DecodeSplit split;
  split.items = p.list.items;
  split.schedule = p.list.schedule;
  split.partial_begin = p.list.partial_begin;
  split.num_blocks = p.list.walkers;
  split.max_items = p.list.max_items;
  split.max_splits = 2;  // more than one: how many is the list's
  split.partial_o = static_cast<float*>(p.workspace);
  split.partial_lse = split.partial_o + states * p.num_q_heads * p.head_dim_v;
  return launch("decode", [&] {
    const Error e = launch_decode(p, split, limits_, stream);
    return e != 0 || !p.list.merges ? e : launch_decode_merge(p, split, stream);
  });
}

radix_status CudaBackend::decode(const AttentionParams& p, radix_stream stream) {
  if (p.num_seqs == 0) return RADIX_OK;
  radix_status st = check_shapes(p);
  if (st != RADIX_OK) return st;
  if (runs_in_items(p)) return attend_items(p, "decode", stream);
  if (p.list.items != nullptr && p.k.dtype != RADIX_F32) return decode_listed(p, stream);
  if (p.k.dtype == RADIX_F32 && p.num_seqs > kMaxGrid) {
    return fail(RADIX_E_UNSUPPORTED, "num_seqs is %u: expected at most %u with f32 K/V on CUDA",
                p.num_seqs, kMaxGrid);
  }
  DecodeSplit split;
  if (p.k.dtype != RADIX_F32) {
    const DecodeSplitChoice choice = choose_decode_split(split_input(p, limits_));
    split.split_tokens = choice.split_tokens;
    split.max_splits = choice.max_splits;
  }
  const uint64_t states = uint64_t{p.num_seqs} * split.max_splits;
  if (split.max_splits > 1) {
    st = check_workspace(p, state_bytes(p, states));
    if (st != RADIX_OK) return st;
    split.partial_o = static_cast<float*>(p.workspace);
    split.partial_lse = split.partial_o + states * p.num_q_heads * p.head_dim_v;
  }
  return launch("decode", [&] {
    const Error e = launch_decode(p, split, limits_, stream);
    return e != 0 || split.max_splits == 1 ? e : launch_decode_merge(p, split, stream);
  });
}

radix_status CudaBackend::prefill(const AttentionParams& p, radix_stream stream) {
  if (p.num_seqs == 0) return RADIX_OK;
  const radix_status st = check_shapes(p);
  if (st != RADIX_OK) return st;
  if (runs_in_items(p)) return attend_items(p, "prefill", stream);
  if (p.num_seqs > kMaxGrid) {
    return fail(RADIX_E_UNSUPPORTED, "num_seqs is %u: expected at most %u on CUDA", p.num_seqs,
                kMaxGrid);
  }
  const bool wgmma = limits_.wgmma && prefill_runs_on_wgmma(p);
  return launch("prefill", [&] {
    return wgmma ? launch_prefill_wgmma(p, stream) : launch_prefill(p, limits_, stream);
  });
}

radix_status CudaBackend::rope_append(const RopeAppendParams& p, radix_stream stream) {
  if (p.num_tokens == 0) return RADIX_OK;
  return launch("rope_append", [&] { return launch_rope_append(p, rope_frequencies(p), stream); });
}

radix_status CudaBackend::merge_states(const MergeParams& p, radix_stream stream) {
  if (p.num_heads > kMaxGrid * kMergedHeads) {
    return fail(RADIX_E_UNSUPPORTED, "out has %u heads: expected at most %u on CUDA", p.num_heads,
                kMaxGrid * kMergedHeads);
  }
  return launch("merge_states", [&] { return launch_merge_states(p, stream); });
}

// ---- plans --------------------------------------------------------------------------------------

DecodeListSize CudaBackend::decode_list_size(const AttentionParams& bounds) const {
  if (bounds.k.dtype == RADIX_F32) return {};
  const DecodeSplitInput in = split_input(bounds, limits_);
  const uint32_t walkers = decode_walkers(in);
  DecodeListSize size;
  size.walkers = walkers;
  size.max_items = max_decode_items(in.num_seqs, walkers);
  size.workspace_bytes = state_bytes(bounds, size.max_items);
  return size;
}

RadixLimits CudaBackend::radix_limits(const AttentionParams& bounds) const {
  return radix_limits_of(bounds, limits_);
}

radix_status CudaBackend::check_not_capturing(radix_stream stream) {
  auto* s = static_cast<cudaStream_t>(stream);
  auto capture = cudaStreamCaptureStatusNone;
  const radix_status st = launch("cudaStreamIsCapturing", [&] {
    const cudaError_t e = cudaStreamIsCapturing(s, &capture);
    if (e != cudaErrorStreamCaptureImplicit) return e;
    cudaGetLastError();  // the legacy stream, while another one is being captured
    capture = cudaStreamCaptureStatusActive;
    return cudaSuccess;
  });
  if (st != RADIX_OK) return st;
  if (capture != cudaStreamCaptureStatusNone) {
    return fail(RADIX_E_STATE, "s is being captured: a plan is updated outside of graphs");
  }
  return RADIX_OK;
}

radix_status CudaBackend::build_step(const StepParams& p, radix_stream stream) {
  auto* s = static_cast<cudaStream_t>(stream);
  return launch("plan_update", [&] {
    Error e = 0;
    uint32_t copies = 0;
    while (copies < p.copies.num) {
      const CopyRanges::Range& r = p.copies.ranges[copies];
      e = cudaMemcpyAsync(static_cast<char*>(p.device) + r.begin,
                          static_cast<const char*>(p.host) + r.begin, r.end - r.begin,
                          cudaMemcpyHostToDevice, s);
      if (e != 0) break;
      ++copies;
    }
    if (e == 0) e = cudaEventRecord(static_cast<cudaEvent_t>(p.copied), s);
    // Nobody would know when the copies are done, and the buffer be filled again under them.
    if (e != 0 && copies > 0) cudaStreamSynchronize(s);
    return e != 0 ? e : launch_build_step(p, stream);
  });
}

radix_status CudaBackend::match_batch(const MatchParams& p, radix_stream stream) {
  if (p.num_prompts == 0) return RADIX_OK;
  return launch("match_batch", [&] { return launch_match_batch(p, stream); });
}

// ---- copies -------------------------------------------------------------------------------------

radix_status CudaBackend::copy_blocks(const KvBlocks& kv, const int32_t* pairs, uint32_t n,
                                      radix_stream stream) {
  const radix_status st = check_pairs(kv, pairs, n);
  if (st != RADIX_OK) return st;
  return launch("copy_blocks", [&] {
    CopyBatch batch;
    batch.num_tokens = kv.block_size;
    Error e = 0;
    for (uint32_t first = 0; first < n && e == 0; first += batch.num_pairs) {
      batch.num_pairs = next_copy_batch(pairs, n, first, CopyBatch::kMaxPairs);
      for (uint32_t i = 0; i < 2 * batch.num_pairs; ++i)
        batch.pairs[i] = pairs[2 * uint64_t{first} + i];
      e = launch_copy_blocks(kv, batch, stream);
    }
    return e;
  });
}

radix_status CudaBackend::copy_tokens(const KvBlocks& kv, int32_t src, int32_t dst,
                                      uint32_t num_tokens, radix_stream stream) {
  const radix_status st = check_token_copy(kv, src, dst, num_tokens);
  if (st != RADIX_OK || num_tokens == 0 || src == dst) return st;
  CopyBatch batch;
  batch.num_pairs = 1;
  batch.num_tokens = num_tokens;
  batch.pairs[0] = src;
  batch.pairs[1] = dst;
  return launch("copy_tokens", [&] { return launch_copy_blocks(kv, batch, stream); });
}

radix_status CudaBackend::zero_blocks(const KvBlocks& kv, const int32_t* blocks, uint32_t n,
                                      radix_stream stream) {
  const radix_status st = check_blocks(kv, blocks, n);
  if (st != RADIX_OK) return st;
  return launch("zero_blocks", [&] {
    ZeroBatch batch;
    Error e = 0;
    for (uint32_t first = 0; first < n && e == 0; first += batch.num_blocks) {
      batch.num_blocks = n - first < ZeroBatch::kMaxBlocks ? n - first : ZeroBatch::kMaxBlocks;
      for (uint32_t i = 0; i < batch.num_blocks; ++i) batch.blocks[i] = blocks[first + i];
      e = launch_zero_blocks(kv, batch, stream);
    }
    return e;
  });
}

// Layer by layer, so that the first layers may be used while the last ones still move; runs of
// neighbouring blocks are one copy each.
radix_status CudaBackend::swap(const KvBlocks& kv, const int32_t* blocks, uint32_t n, char* host,
                               bool out, radix_stream stream) {
  const radix_status st = check_blocks(kv, blocks, n);
  if (st != RADIX_OK || n == 0) return st;
  const uint64_t layer_image = kv.k_block_bytes + kv.v_block_bytes;
  const uint64_t block_image = layer_image * kv.num_layers;
  const auto copy_run = [&](uint32_t first, uint32_t length, uint32_t layer, bool v) {
    const uint64_t bytes = v ? kv.v_block_bytes : kv.k_block_bytes;
    char* device = kv.base + layer * kv.layer_bytes + (v ? kv.v_offset_bytes : 0) +
                   static_cast<uint64_t>(blocks[first]) * bytes;
    char* image = host + first * block_image + layer * layer_image + (v ? kv.k_block_bytes : 0);
    auto* s = static_cast<cudaStream_t>(stream);
    return out ? cudaMemcpy2DAsync(image, block_image, device, bytes, bytes, length,
                                   cudaMemcpyDeviceToHost, s)
               : cudaMemcpy2DAsync(device, bytes, image, block_image, bytes, length,
                                   cudaMemcpyHostToDevice, s);
  };
  return launch(out ? "swap_out" : "swap_in", [&] {
    cudaError_t e = cudaSuccess;
    for (uint32_t layer = 0; layer < kv.num_layers; ++layer) {
      for (uint32_t first = 0, length = 1; first < n && e == cudaSuccess; first += length) {
        length = 1;
        while (first + length < n &&
               blocks[first + length] == blocks[first] + static_cast<int32_t>(length))
          ++length;
        e = copy_run(first, length, layer, false);
        if (e == cudaSuccess) e = copy_run(first, length, layer, true);
      }
    }
    return e;
  });
}

radix_status CudaBackend::swap_out(const KvBlocks& kv, const int32_t* blocks, uint32_t n,
                                   void* host, radix_stream stream) {
  return swap(kv, blocks, n, static_cast<char*>(host), true, stream);
}

radix_status CudaBackend::swap_in(const KvBlocks& kv, const int32_t* blocks, uint32_t n,
                                  const void* host, radix_stream stream) {
  return swap(kv, blocks, n, const_cast<char*>(static_cast<const char*>(host)), false, stream);
}

}  // namespace radixattn::cuda
