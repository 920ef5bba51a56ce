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

int64_t paged_bytes(const AttentionParams& p, const PagedTensor& t) {
  return p.num_blocks * t.block_stride * static_cast<int64_t>(element_bytes(t.dtype));
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
  d.k.data = m->up(static_cast<char*>(p.k.data), paged_bytes(p, p.k));
  d.v.data = m->up(static_cast<char*>(p.v.data), paged_bytes(p, p.v));
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

// Launches directly, or captures the launch into a graph and runs that twice.
template <class Run>
radix_status launch(Run run) {
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
    for (int i = 0; i < 2 && st == RADIX_OK; ++i) {
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
      split.num_items = up(list.num_items);
      split.partial_begin = up(list.partial_begin);
      split.num_blocks = blocks;
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

int num_schedules() { return 2; }
void set_schedule(int i) { through_graph = i == 1; }

}  // namespace radixattn::test
