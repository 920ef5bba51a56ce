// tests/simt/attention_launchers.h on the first CUDA device: everything that a case's parameters
// point to goes there, the launch runs, outputs come back. Extents follow from shapes and strides,
// so gaps between output rows go there and back, too.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "attention_launchers.h"
#include "base/error.h"

namespace radixattn::test {
namespace {

bool through_graph = false;

radix_status cuda_status(int32_t e, const char* what) {
  if (e == 0) return RADIX_OK;
  return fail(RADIX_E_DEVICE, "%s: %s", what, cudaGetErrorString(static_cast<cudaError_t>(e)));
}

struct Free {
  void operator()(void* p) const { cudaFree(p); }
};
using DeviceMemory = std::unique_ptr<void, Free>;

// Device copies of a launch's arrays.
class Mirror {
 public:
  void* up(void* host, uint64_t bytes) {
    return up(static_cast<char*>(host), static_cast<int64_t>(bytes));
  }
  template <class T>
  T* up(const T* host, int64_t bytes) {
    if (host == nullptr) return nullptr;
    void* device = nullptr;
    // As unaligned as the host's array is.
    const auto offset = static_cast<int64_t>(reinterpret_cast<uintptr_t>(host) % 16);
    note(cudaMalloc(&device, static_cast<size_t>(std::max<int64_t>(bytes, 1) + offset)));
    if (status_ != RADIX_OK) return nullptr;
    memory_.emplace_back(device);
    char* at = static_cast<char*>(device) + offset;
    note(cudaMemcpy(at, host, static_cast<size_t>(bytes), cudaMemcpyHostToDevice));
    return reinterpret_cast<T*>(at);
  }
  void down(void* host, const void* device, int64_t bytes) {
    if (host != nullptr)
      note(cudaMemcpy(host, device, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost));
  }
  void note(int32_t e) {
    if (status_ == RADIX_OK) status_ = cuda_status(e, "copying a case");
  }
  radix_status status() const { return status_; }

 private:
  std::vector<DeviceMemory> memory_;
  radix_status status_ = RADIX_OK;
};

int64_t rows_of(const AttentionParams& p) {
  return p.cu_q_lens != nullptr ? p.cu_q_lens[p.num_seqs] : int64_t{p.num_seqs};
}

int64_t row_bytes(const AttentionParams& p, const RowTensor& t, uint32_t dim) {
  const int64_t rows = rows_of(p);
  if (rows == 0) return 0;
  const int64_t last = (rows - 1) * t.row_stride + (int64_t{p.num_q_heads} - 1) * t.head_stride;
  return (last + dim) * static_cast<int64_t>(element_bytes(t.dtype));
}

// To the end of the last row, whichever stride is the outermost.
int64_t paged_bytes(const AttentionParams& p, const PagedTensor& t, uint32_t dim) {
  if (p.num_blocks == 0) return 0;
  const int64_t last = (int64_t{p.num_blocks} - 1) * t.block_stride +
                       (int64_t{p.block_size} - 1) * t.token_stride +
                       (int64_t{p.num_kv_heads} - 1) * t.head_stride;
  return (last + dim) * static_cast<int64_t>(element_bytes(t.dtype));
}

int64_t lse_bytes(const AttentionParams& p) {
  const int64_t rows = rows_of(p);
  if (rows == 0) return 0;
  return 4 * ((rows - 1) * p.lse_row_stride + (int64_t{p.num_q_heads} - 1) * p.lse_head_stride + 1);
}

AttentionParams mirrored(const AttentionParams& p, Mirror* m) {
  AttentionParams d = p;
  const int64_t seqs = p.num_seqs;
  d.q.data = m->up(static_cast<char*>(p.q.data), row_bytes(p, p.q, p.head_dim));
  d.out.data = m->up(static_cast<char*>(p.out.data), row_bytes(p, p.out, p.head_dim_v));
  d.lse = m->up(p.lse, lse_bytes(p));
  d.k.data = m->up(static_cast<char*>(p.k.data), paged_bytes(p, p.k, p.head_dim));
  d.v.data = m->up(static_cast<char*>(p.v.data), paged_bytes(p, p.v, p.head_dim_v));
  d.blocks.tables = m->up(p.blocks.tables, 4 * seqs * p.blocks.row_stride);
  if (p.blocks.tables == nullptr) {
    d.blocks.block_begin = m->up(p.blocks.block_begin, 4 * (seqs + 1));
    d.blocks.block_ids = m->up(p.blocks.block_ids, int64_t{4} * p.blocks.block_begin[seqs]);
  }
  d.context_lens = m->up(p.context_lens, 4 * seqs);
  d.cu_q_lens = m->up(p.cu_q_lens, 4 * (seqs + 1));
  const int64_t scales = p.kv_scale_per_head ? p.num_kv_heads : 1;
  d.k_scale = m->up(p.k_scale, 4 * scales);
  d.v_scale = m->up(p.v_scale, 4 * scales);
  d.tree_mask = m->up(p.tree_mask, rows_of(p) * p.tree_mask_stride);
  d.alibi_slopes = m->up(p.alibi_slopes, 4 * int64_t{p.num_q_heads});
  d.sinks = m->up(p.sinks, 4 * int64_t{p.num_q_heads});
  return d;
}

// Launches directly, or captures the launch into a graph and runs that, twice if the result is the
// same.
template <class Run>
radix_status launch(Run run, int times = 2) {
  cudaStream_t stream = nullptr;
  radix_status st =
      cuda_status(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  if (st != RADIX_OK) return st;
  if (!through_graph) {
    st = cuda_status(run(stream), "launch");
  } else {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal);
    st = cuda_status(run(stream), "launch under capture");
    const cudaError_t ended = cudaStreamEndCapture(stream, &graph);
    if (st == RADIX_OK) st = cuda_status(ended, "end of capture");
    if (st == RADIX_OK) st = cuda_status(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
    for (int i = 0; i < times && st == RADIX_OK; ++i) {
      st = cuda_status(cudaGraphLaunch(exec, stream), "graph launch");
    }
    if (exec != nullptr) cudaGraphExecDestroy(exec);
    if (graph != nullptr) cudaGraphDestroy(graph);
  }
  const cudaError_t done = cudaStreamSynchronize(stream);
  cudaStreamDestroy(stream);
  return st != RADIX_OK ? st : cuda_status(done, "kernel");
}

// The emulated device's kind decides how to launch, as far as the real one can do it.
cuda::DeviceLimits limits_like(int32_t arch) {
  cuda::DeviceLimits wanted = device_like(arch);
  int smem = 0;
  cudaDeviceGetAttribute(&smem, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0);
  wanted.smem_per_block = std::min(wanted.smem_per_block, static_cast<uint32_t>(smem));
  return wanted;
}

template <class Run>
radix_status on_device(const AttentionParams& p, Run run) {
  Mirror mirror;
  const AttentionParams device = mirrored(p, &mirror);
  if (mirror.status() != RADIX_OK) return mirror.status();
  const radix_status st = launch([&](cudaStream_t s) { return run(device, s); });
  if (st != RADIX_OK) return st;
  mirror.down(p.out.data, device.out.data, row_bytes(p, p.out, p.head_dim_v));
  mirror.down(p.lse, device.lse, lse_bytes(p));
  return mirror.status();
}

}  // namespace

Launcher decode_launcher(int32_t arch, uint32_t split_tokens, uint32_t blocks) {
  return [=](const AttentionParams& p) {
    cuda::DecodeSplit split = split_of(p, split_tokens);
    const WorkList list = blocks > 0 ? work_list_of(p, split) : WorkList();
    Mirror mirror;
    size_t rows = size_t{p.num_seqs} * split.max_splits;
    if (blocks > 0) {
      const auto up = [&](const std::vector<int32_t>& v) {
        return mirror.up(v.data(), static_cast<int64_t>(v.size()) * 4);
      };
      split.items = up(list.items);
      split.schedule = up(list.schedule);
      split.partial_begin = up(list.partial_begin);
      split.num_blocks = blocks;
      split.max_items = static_cast<uint32_t>(list.items.size() / 2);
      rows = list.partial_rows;
    }
    std::vector<float> o(rows * p.num_q_heads * p.head_dim_v, NAN), lse(rows * p.num_q_heads, NAN);
    split.partial_o = mirror.up(o.data(), static_cast<int64_t>(o.size()) * 4);
    split.partial_lse = mirror.up(lse.data(), static_cast<int64_t>(lse.size()) * 4);
    if (mirror.status() != RADIX_OK) return mirror.status();
    return on_device(p, [&](const AttentionParams& d, cudaStream_t s) {
      const cuda::Error e = cuda::launch_decode(d, split, limits_like(arch), s);
      return e != 0 || split.max_splits == 1 ? e : cuda::launch_decode_merge(d, split, s);
    });
  };
}

Launcher prefill_launcher(int32_t arch) {
  return [=](const AttentionParams& p) {
    return on_device(p, [&](const AttentionParams& d, cudaStream_t s) {
      return cuda::launch_prefill(d, limits_like(arch), s);
    });
  };
}

Launcher radix_launcher(int32_t arch, const RadixArrays* list, bool batch_invariant,
                        uint32_t ranges, uint32_t walkers) {
  return [=](AttentionParams p) {
    p.batch_invariant = batch_invariant;
    RadixCall call = radix_call_of(list, ranges, walkers, &p);
    Mirror mirror;
    if (list != nullptr) {
      const auto up = [&](const auto& v) {
        return mirror.up(v.data(), static_cast<int64_t>(v.size() * sizeof v[0]));
      };
      p.radix.sizes = mirror.up(&list->sizes, sizeof list->sizes);
      p.radix.items = up(list->items);
      p.radix.rows = up(list->rows);
      p.radix.merges = up(list->merges);
      p.radix.terms = up(list->terms);
    }
    std::vector<float> o(call.floats_of_o, NAN), ml(call.floats_of_ml, NAN);
    call.split.o = mirror.up(o.data(), static_cast<int64_t>(o.size()) * 4);
    call.split.ml = mirror.up(ml.data(), static_cast<int64_t>(ml.size()) * 4);
    if (mirror.status() != RADIX_OK) return mirror.status();
    return on_device(p, [&](const AttentionParams& d, cudaStream_t s) {
      const cuda::Error e = cuda::launch_radix(d, call.split, limits_like(arch), s);
      return e != 0 || !call.merges ? e : cuda::launch_radix_merge(d, call.split, s);
    });
  };
}

bool has_wgmma() {
  int major = 0, minor = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0);
  return major == 9 && minor == 0;
}

Launcher prefill_wgmma_launcher() {
  return [](const AttentionParams& p) {
    return on_device(p, [&](const AttentionParams& d, cudaStream_t s) {
      return cuda::launch_prefill_wgmma(d, s);
    });
  };
}

// ---- the other kernels --------------------------------------------------------------------------

radix_status rope_append_on_device(const RopeAppendParams& p) {
  if (p.num_tokens == 0)
    return cuda_status(cuda::launch_rope_append(p, {}, nullptr), "rope_append");
  Mirror mirror;
  RopeAppendParams d = p;
  const auto tokens = static_cast<int64_t>(p.num_tokens);
  const auto rows = [&](const RowTensor& t, int64_t heads, int64_t dim) {
    return ((tokens - 1) * t.row_stride + (heads - 1) * t.head_stride + dim) *
           static_cast<int64_t>(element_bytes(t.dtype));
  };
  const auto cache = [&](const PagedTensor& t) {
    return p.num_blocks * t.block_stride * static_cast<int64_t>(element_bytes(t.dtype));
  };
  const int64_t q_bytes = p.q.data == nullptr ? 0 : rows(p.q, p.num_q_heads, p.head_dim);
  d.q.data = mirror.up(static_cast<char*>(p.q.data), q_bytes);
  d.k.data = mirror.up(static_cast<char*>(p.k.data), rows(p.k, p.num_kv_heads, p.head_dim));
  d.v.data = mirror.up(static_cast<char*>(p.v.data), rows(p.v, p.num_kv_heads, p.head_dim_v));
  d.k_cache.data = mirror.up(static_cast<char*>(p.k_cache.data), cache(p.k_cache));
  d.v_cache.data = mirror.up(static_cast<char*>(p.v_cache.data), cache(p.v_cache));
  d.slots = mirror.up(p.slots, 8 * tokens);
  d.positions = mirror.up(p.positions, 4 * tokens);
  const int64_t scales = p.kv_scale_per_head ? p.num_kv_heads : 1;
  d.k_scale = mirror.up(p.k_scale, 4 * scales);
  d.v_scale = mirror.up(p.v_scale, 4 * scales);
  if (mirror.status() != RADIX_OK) return mirror.status();
  const radix_status st = launch(
      [&](cudaStream_t s) { return cuda::launch_rope_append(d, rope_frequencies(p), s); }, 1);
  if (st != RADIX_OK) return st;
  mirror.down(p.q.data, d.q.data, q_bytes);
  mirror.down(p.k_cache.data, d.k_cache.data, cache(p.k_cache));
  mirror.down(p.v_cache.data, d.v_cache.data, cache(p.v_cache));
  return mirror.status();
}

namespace {

// From the first layer's K to the end of the last one's V.
int64_t pool_bytes(const KvBlocks& kv) {
  return static_cast<int64_t>((kv.num_layers - 1) * kv.layer_bytes + kv.v_offset_bytes +
                              kv.num_blocks * kv.v_block_bytes);
}

template <class Launch>
radix_status on_pool(const KvBlocks& kv, Launch launch_it) {
  Mirror mirror;
  KvBlocks d = kv;
  d.base = mirror.up(kv.base, pool_bytes(kv));
  if (mirror.status() != RADIX_OK) return mirror.status();
  const radix_status st = launch([&](cudaStream_t s) { return launch_it(d, s); });
  if (st != RADIX_OK) return st;
  mirror.down(kv.base, d.base, pool_bytes(kv));
  return mirror.status();
}

}  // namespace

radix_status copy_on_device(const KvBlocks& kv, const cuda::CopyBatch& batch) {
  return on_pool(
      kv, [&](const KvBlocks& d, cudaStream_t s) { return cuda::launch_copy_blocks(d, batch, s); });
}

radix_status zero_on_device(const KvBlocks& kv, const cuda::ZeroBatch& batch) {
  return on_pool(
      kv, [&](const KvBlocks& d, cudaStream_t s) { return cuda::launch_zero_blocks(d, batch, s); });
}

radix_status merge_on_device(const MergeParams& p) {
  Mirror mirror;
  MergeParams d = p;
  const auto bytes = [&](const RowTensor& t) {
    if (p.num_rows == 0 || p.num_heads == 0) return int64_t{0};
    return ((int64_t{p.num_rows} - 1) * t.row_stride + (int64_t{p.num_heads} - 1) * t.head_stride +
            p.head_dim) *
           static_cast<int64_t>(element_bytes(t.dtype));
  };
  const int64_t lse = int64_t{4} * p.num_rows * p.num_heads;
  for (uint32_t i = 0; i < p.num_states; ++i) {
    d.in[i].data = mirror.up(static_cast<char*>(p.in[i].data), bytes(p.in[i]));
    d.in_lse[i] = mirror.up(p.in_lse[i], lse);
  }
  d.out.data = mirror.up(static_cast<char*>(p.out.data), bytes(p.out));
  d.out_lse = mirror.up(p.out_lse, lse);
  if (mirror.status() != RADIX_OK) return mirror.status();
  const radix_status st = launch([&](cudaStream_t s) { return cuda::launch_merge_states(d, s); });
  if (st != RADIX_OK) return st;
  mirror.down(p.out.data, d.out.data, bytes(p.out));
  mirror.down(p.out_lse, d.out_lse, lse);
  return mirror.status();
}

radix_status build_step_on_device(const StepParams& p) {
  Mirror mirror;
  StepParams d = p;
  const int64_t seqs = p.num_seqs, tables = 4 * seqs * p.row_stride;
  d.context_lens = mirror.up(p.context_lens, 4 * seqs);
  d.cu_q_lens = mirror.up(p.cu_q_lens, 4 * (seqs + 1));
  d.patch_begin = mirror.up(p.patch_begin, 4 * (seqs + 1));
  d.patch_first = mirror.up(p.patch_first, 4 * seqs);
  d.patch_ids = mirror.up(p.patch_ids, 4 * int64_t{p.patch_begin[seqs]});
  d.tables = mirror.up(p.tables, tables);
  d.slots = mirror.up(p.slots, 8 * int64_t{p.num_slots});
  d.positions = mirror.up(p.positions, 4 * int64_t{p.num_slots});
  if (mirror.status() != RADIX_OK) return mirror.status();
  const radix_status st = launch([&](cudaStream_t s) { return cuda::launch_build_step(d, s); });
  if (st != RADIX_OK) return st;
  mirror.down(p.tables, d.tables, tables);
  mirror.down(p.slots, d.slots, 8 * int64_t{p.num_slots});
  mirror.down(p.positions, d.positions, 4 * int64_t{p.num_slots});
  return mirror.status();
}

radix_status match_on_device(const MatchParams& p) {
  Mirror mirror;
  MatchParams d = p;
  const int64_t nodes = p.num_nodes, blocks = p.num_blocks, prompts = p.num_prompts;
  const int64_t table = p.out_tables == nullptr ? 0 : 4 * prompts * p.table_stride;
  d.child_begin = mirror.up(p.child_begin, 4 * (nodes + 2));
  d.block_begin = mirror.up(p.block_begin, 4 * (nodes + 1));
  d.block_ids = mirror.up(p.block_ids, 4 * blocks);
  d.tokens = mirror.up(p.tokens, 4 * blocks * p.block_size);
  d.prompts = mirror.up(p.prompts, 4 * static_cast<int64_t>(p.num_tokens));
  d.prompt_begin = mirror.up(p.prompt_begin, 8 * (prompts + 1));
  d.out_nodes = mirror.up(p.out_nodes, 4 * prompts);
  d.out_tokens = mirror.up(p.out_tokens, 4 * prompts);
  d.out_tables = mirror.up(p.out_tables, table);
  if (mirror.status() != RADIX_OK) return mirror.status();
  const radix_status st = launch([&](cudaStream_t s) { return cuda::launch_match_batch(d, s); });
  if (st != RADIX_OK) return st;
  mirror.down(p.out_nodes, d.out_nodes, 4 * prompts);
  mirror.down(p.out_tokens, d.out_tokens, 4 * prompts);
  mirror.down(p.out_tables, d.out_tables, table);
  return mirror.status();
}

namespace {

// Arrays of rows to sample on the device, and a workspace there.
SampleParams rows_on_device(const SampleParams& p, Mirror* m) {
  SampleParams d = p;
  const int64_t rows = p.num_rows;
  const auto element = static_cast<int64_t>(element_bytes(p.logits.dtype));
  const int64_t logits =
      rows == 0 ? 0 : ((rows - 1) * p.logits.row_stride + int64_t{p.vocab}) * element;
  d.logits.data = m->up(static_cast<char*>(p.logits.data), logits);
  d.temperature = m->up(p.temperature, 4 * rows);
  d.top_k = m->up(p.top_k, 4 * rows);
  d.top_p = m->up(p.top_p, 4 * rows);
  d.min_p = m->up(p.min_p, 4 * rows);
  d.typical_p = m->up(p.typical_p, 4 * rows);
  d.repetition_penalty = m->up(p.repetition_penalty, 4 * rows);
  d.presence_penalty = m->up(p.presence_penalty, 4 * rows);
  d.frequency_penalty = m->up(p.frequency_penalty, 4 * rows);
  d.history = m->up(p.history, 4 * static_cast<int64_t>(p.num_history));
  d.history_begin = m->up(p.history_begin, 8 * (rows + 1));
  d.output_begin = m->up(p.output_begin, 8 * rows);
  d.bias_tokens = m->up(p.bias_tokens, 4 * static_cast<int64_t>(p.num_biases));
  d.bias_values = m->up(p.bias_values, 4 * static_cast<int64_t>(p.num_biases));
  d.bias_begin = m->up(p.bias_begin, 8 * (rows + 1));
  d.allowed = m->up(p.allowed, 4 * rows * p.allowed_stride);
  d.seeds = m->up(p.seeds, 8 * rows);
  d.positions = m->up(p.positions, 8 * rows);
  return d;
}

}  // namespace

radix_status sample_on_device(const SampleParams& p) {
  Mirror mirror;
  SampleParams d = rows_on_device(p, &mirror);
  const int64_t rows = p.num_rows, top = 4 * rows * p.num_top;
  d.out_tokens = mirror.up(p.out_tokens, 4 * rows);
  d.out_status = mirror.up(p.out_status, 4 * rows);
  d.out_logprobs = mirror.up(p.out_logprobs, 4 * rows);
  d.out_top_tokens = mirror.up(p.out_top_tokens, top);
  d.out_top_logprobs = mirror.up(p.out_top_logprobs, top);
  cuda::SampleSpace space;
  GuardedWorkspace workspace(cuda::cut_space(p, nullptr, &space));
  cuda::cut_space(p, mirror.up(workspace.data(), workspace.bytes()), &space);
  if (mirror.status() != RADIX_OK) return mirror.status();
  const radix_status st = launch([&](cudaStream_t s) { return cuda::launch_sample(d, space, s); });
  if (st != RADIX_OK) return st;
  mirror.down(p.out_tokens, d.out_tokens, 4 * rows);
  mirror.down(p.out_status, d.out_status, 4 * rows);
  mirror.down(p.out_logprobs, d.out_logprobs, 4 * rows);
  mirror.down(p.out_top_tokens, d.out_top_tokens, top);
  mirror.down(p.out_top_logprobs, d.out_top_logprobs, top);
  return mirror.status();
}

radix_status verify_on_device(const VerifyParams& p) {
  Mirror mirror;
  VerifyParams d = p;
  const int64_t rows = p.target.num_rows, seqs = p.num_seqs, out = 4 * seqs * p.max_tokens;
  const int64_t draft = rows == 0 ? 0 : (rows - 1) * p.draft_row_stride + int64_t{p.target.vocab};
  d.target = rows_on_device(p.target, &mirror);
  d.node_begin = mirror.up(p.node_begin, 4 * (seqs + 1));
  d.draft_tokens = mirror.up(p.draft_tokens, 4 * rows);
  d.parents = mirror.up(p.parents, 4 * rows);
  d.draft_probs = mirror.up(p.draft_probs, 4 * draft);
  d.out_tokens = mirror.up(p.out_tokens, out);
  d.out_nodes = mirror.up(p.out_nodes, out);
  d.out_num_tokens = mirror.up(p.out_num_tokens, 4 * seqs);
  d.out_status = mirror.up(p.out_status, 4 * seqs);
  cuda::VerifySpace space;
  GuardedWorkspace workspace(cuda::cut_space(p, nullptr, &space));
  cuda::cut_space(p, mirror.up(workspace.data(), workspace.bytes()), &space);
  if (mirror.status() != RADIX_OK) return mirror.status();
  const radix_status st = launch([&](cudaStream_t s) { return cuda::launch_verify(d, space, s); });
  if (st != RADIX_OK) return st;
  mirror.down(p.out_tokens, d.out_tokens, out);
  mirror.down(p.out_nodes, d.out_nodes, out);
  mirror.down(p.out_num_tokens, d.out_num_tokens, 4 * seqs);
  mirror.down(p.out_status, d.out_status, 4 * seqs);
  return mirror.status();
}

radix_status rms_norm_on_device(const NormParams& p) {
  if (p.num_rows == 0) return cuda_status(cuda::launch_rms_norm(p, nullptr), "rms_norm");
  Mirror mirror;
  NormParams d = p;
  const auto bytes = [&](const RowTensor& t) {
    const int64_t last =
        (int64_t{p.num_rows} - 1) * t.row_stride + (int64_t{p.num_heads} - 1) * t.head_stride;
    return (last + p.dim) * static_cast<int64_t>(element_bytes(t.dtype));
  };
  const bool in_place = p.x.data == p.y.data;
  d.x.data = mirror.up(static_cast<char*>(p.x.data), bytes(p.x));
  d.y.data = in_place ? d.x.data : mirror.up(static_cast<char*>(p.y.data), bytes(p.y));
  d.weight = mirror.up(static_cast<const char*>(p.weight),
                       p.dim * static_cast<int64_t>(element_bytes(p.weight_dtype)));
  if (mirror.status() != RADIX_OK) return mirror.status();
  const radix_status st =
      launch([&](cudaStream_t s) { return cuda::launch_rms_norm(d, s); }, in_place ? 1 : 2);
  if (st != RADIX_OK) return st;
  mirror.down(p.y.data, d.y.data, bytes(p.y));
  return mirror.status();
}

int num_schedules() { return 2; }
void set_schedule(int i) { through_graph = i == 1; }

}  // namespace radixattn::test
