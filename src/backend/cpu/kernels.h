// The CPU kernels as the rest of the backend sees them: one table of functions a target, and the
// launches that cut attention into items and run those through an executor.
//
// The sources decode.cpp, prefill.cpp, radix_merge.cpp, merge.cpp, rope_append.cpp, gemm.cpp,
// rms_norm.cpp, sample_kernels.cpp and kernel_table.cpp are compiled once for every target
// (baseline, AVX2, AVX-512, AVX-512 + bf16, NEON), each into a namespace of its own; select_kernels
// picks a table at run time. Kernels get plain structs, allocate nothing, call nothing outside
// their namespace and cannot fail: all that can be wrong is checked before the first item runs.
//
// Invariants of the launches:
//   1. The result is a function of the arguments: it does not depend on the number of workers, nor
//   on the other
//      sequences of the batch. (Splits are fixed ranges of positions, chosen from max_context_len
//      alone.) A work list (p.radix) is an argument, too: it says which keys are summed together.
//      With p.batch_invariant not even that matters: a row has the same bits in decode and in
//      prefill, in any batch, chunk or list (prefill.cpp says how).
//   2. A launch that fails has written nothing.
//   3. Nothing outside the visible range of a sequence is read: no block before the window, no
//   token past context_len. Of a list's item: nothing that none of its rows sees.
// Thread rule: any number of launches at the same time, each with its own workspace.
#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "backend/cpu/sample_kernels.h"

namespace radixattn {

class Executor;        // base/executor.h
struct RopeAppendJob;  // backend/cpu/rope_append.h
struct DecodeJob;      // backend/cpu/attention_jobs.h
struct DecodeItem;
struct DecodeAhead;
struct PrefillJob;
struct PrefillItem;
struct RadixMergeJob;
struct GemmItem;  // backend/cpu/gemm_jobs.h

struct CpuKernels {
  int32_t target;    // RADIX_CPU_BASELINE ...
  const char* name;  // "avx2"
  // Attention of one query row, or of up to kDecodeRows, over a run of their keys, for some of
  // their KV heads; `scratch` belongs to the worker, and so does `ahead`, from one of its items to
  // the next.
  void (*decode_item)(const DecodeJob& job, const DecodeItem& item, DecodeAhead& ahead,
                      void* scratch);
  // Merges the ranges of sequence `seq` for KV heads [head_begin, head_end) and writes their rows.
  void (*decode_merge)(const DecodeJob& job, uint32_t seq, uint32_t head_begin, uint32_t head_end);
  // A run of keys of some query rows of one KV head.
  void (*prefill_item)(const PrefillJob& job, const PrefillItem& item, void* scratch);
  // Folds the partial states of query rows [row_begin, row_end) of sequence `seq`, counted from its
  // first, and writes their results.
  void (*radix_merge)(const RadixMergeJob& job, uint32_t seq, uint32_t row_begin, uint32_t row_end);
  // Rotates and writes tokens [token_begin, token_end).
  void (*rope_append)(const RopeAppendJob& job, uint64_t token_begin, uint64_t token_end);
  // Merges the states of rows [row_begin, row_end).
  void (*merge_states)(const MergeParams& p, uint32_t row_begin, uint32_t row_end);
  // Maxima of a row of logits and of its groups; `copy`: its scores as f32, or null.
  RowScan (*scan_row)(const void* row, int32_t dtype, uint32_t vocab, float* copy,
                      float* group_max);
  // Sums of weights (sample/weights.h) of a row of scores without NaN or +inf, whose maximum is
  // finite.
  uint64_t (*sum_weights)(const float* scores, uint32_t vocab, float max, float scale,
                          uint64_t* group_sums);
  // A rectangle of a matrix product.
  void (*gemm_item)(const GemmParams& p, const GemmItem& item, void* scratch);
  // Normalises vectors [begin, end), counted over rows and their heads.
  void (*rms_norm)(const NormParams& p, uint64_t begin, uint64_t end);
  // Of at most kGroupTokens scores, the indices of those that reach `bound`; returns how many.
  // picked: [kPickRoom].
  uint32_t (*pick_group)(const float* scores, uint32_t n, float bound, uint32_t* picked);
  // Weights of at most kGroupTokens such scores.
  void (*weigh_group)(const float* scores, uint32_t n, float max, float scale, uint64_t* weights);
};

// The kernels of `forced_target` (RADIX_CPU_*), or the best ones for RADIX_CPU_AUTO. Null when this
// build or this machine has no such target. The table is static: valid for ever, never freed.
const CpuKernels* select_kernels(int32_t forced_target);

// Attention launches. `p` has passed the checks of src/api; these add what needs a look at array
// contents: lengths and block ids. The workspace must have at least what *_workspace_bytes said for
// the same shapes and executor.workers().
radix_status cpu_decode(const CpuKernels& kernels, const AttentionParams& p, Executor& executor);
radix_status cpu_prefill(const CpuKernels& kernels, const AttentionParams& p, Executor& executor);

// Either of them by a list (p.radix), or planless decode with p.batch_invariant.
radix_status cpu_radix(const CpuKernels& kernels, const AttentionParams& p, Executor& executor);
radix_status cpu_invariant_decode(const CpuKernels& kernels, const AttentionParams& p,
                                  Executor& executor);

radix_status cpu_merge_states(const CpuKernels& kernels, const MergeParams& p, Executor& executor);

// Sampling. A launch on the wrong side of its checks (src/api) writes nothing; a row that is not
// OK is reported in out_status, or without that by RADIX_E_INVALID with all other rows done.
radix_status cpu_sample(const CpuKernels& kernels, const SampleParams& p, Executor& executor);
radix_status cpu_verify(const CpuKernels& kernels, const VerifyParams& p, Executor& executor);
// Never more for fewer rows, a smaller vocabulary, fewer features or fewer workers.
uint64_t sample_workspace_bytes(const SampleParams& p, uint32_t workers);
uint64_t verify_workspace_bytes(const VerifyParams& p, uint32_t workers);
// A row of a product has the same bits whatever else the call holds: gemm.cpp says how.
radix_status cpu_gemm(const CpuKernels& kernels, const GemmParams& p, Executor& executor);
radix_status cpu_rms_norm(const CpuKernels& kernels, const NormParams& p, Executor& executor);
// A function of num_rows, in and `workers` alone, never decreasing in any of them.
uint64_t gemm_workspace_bytes(const GemmParams& p, uint32_t workers);

// Bytes of workspace: a function of num_seqs, the heads, head dims, max_context_len and `workers`
// alone (pointers may be null), never decreasing in any of them.
uint64_t decode_workspace_bytes(const AttentionParams& p, uint32_t workers);
uint64_t prefill_workspace_bytes(const AttentionParams& p, uint32_t workers);
// The same of a launch with a list of at most max_states states.
uint64_t radix_workspace_bytes(const AttentionParams& p, uint32_t max_states, uint32_t workers);
uint64_t invariant_decode_workspace_bytes(const AttentionParams& p, uint32_t workers);
// Stacked rows of a prefill launch's items, and KV heads that a worker takes at a time of a list's
// item of at most kPrefillMultiRows rows.
uint32_t prefill_item_rows(const AttentionParams& p, uint32_t workers);
uint32_t radix_few_heads(const AttentionParams& p, uint32_t num_items, uint32_t workers);
RadixLimits cpu_radix_limits(const AttentionParams& bounds, uint32_t workers);

}  // namespace radixattn
