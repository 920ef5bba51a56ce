// The launchers of the CUDA kernels: what the CUDA backend calls, one for each file of
// cuda/kernels.
//
// A launcher enqueues on a stream and returns: it allocates nothing, waits for nothing, reads no
// array of the device, so every one can be captured into a CUDA graph. What a kernel does is
// decided by its parameter struct alone, which is copied into the launch. Pointers are device
// pointers unless a name says host. Shapes, dtypes and strides were checked by the caller; contents
// of arrays were not, and no content of theirs (lengths, block ids, slots) makes a kernel read or
// write outside of the tensors.
//
// Plain C++: no CUDA header. Under RADIX_SIMT_EMU the same sources run on the CPU (tests/simt).
#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "plan/rope_frequencies.h"

namespace radixattn::cuda {

using Stream = void*;   // cudaStream_t
using Error = int32_t;  // cudaError_t; 0 = launched

// What decides how a kernel is launched on a device.
struct DeviceLimits {
  int32_t arch = 0;  // 75, 80, 86, 89, 90, 100, 120
  uint32_t num_sms = 0;
  uint32_t smem_per_block = 0;  // bytes that a block can have after opting in
  uint32_t smem_per_sm = 0;
  bool wgmma = false;  // sm_90, and the build has code for sm_90a
};

// How decode is cut: range i of a sequence is positions [i*split_tokens, (i+1)*split_tokens) of it,
// the same for everybody, so that a sequence's result does not depend on the others of its batch. A
// sequence whose visible positions lie in one range gets its result from that range's block; of
// others the blocks leave partial states that launch_decode_merge puts together. Range i of
// sequence s leaves its state in row partial_begin[s] + i (partial_begin null: s*max_splits + i).
//
// Without a work list the grid has a block for every range that max_context_len allows. With one,
// num_blocks blocks walk it, and the ranges' length is the list's: what a captured graph needs,
// whose lengths change under it.
struct DecodeSplit {
  uint32_t split_tokens = 0;               // a multiple of 64; any when max_splits is 1
  uint32_t max_splits = 1;                 // ranges that max_context_len has; list: 2 or more
  float* partial_o = nullptr;              // [partial rows, num_q_heads, head_dim_v] normalised
  float* partial_lse = nullptr;            // [partial rows, num_q_heads] base 2; -inf: saw nothing
  const int32_t* items = nullptr;          // [schedule[0], 2] {sequence, range}; null: all
  const int32_t* schedule = nullptr;       // list: [2] {number of items, split_tokens}
  const int32_t* partial_begin = nullptr;  // [num_seqs], or null
  uint32_t num_blocks = 0;                 // that walk the list, for each KV head
  uint32_t max_items = 0;                  // list: room in items, and rows of partial states
};

Error launch_decode(const AttentionParams& p, const DecodeSplit& split, const DeviceLimits& device,
                    Stream stream);
// The ranges of each sequence, in order of position, with the sinks, to out and lse.
Error launch_decode_merge(const AttentionParams& p, const DecodeSplit& split, Stream stream);

// Attention in items of keys and rows, decode when cu_q_lens is null: a plan's list (p.radix), or,
// without one, a range of segments for some rows of a sequence. With p.batch_invariant a row's
// result does not depend on the items. Partial states lie in the workspace, for all query heads:
//   list       where its items say
//   no list    num_ranges > 1: segment i of query token t of sequence s in
//              (s * max_query_len + t) * num_segments + i; else there are none
struct RadixSplit {
  float* o = nullptr;           // [max_states, num_q_heads, head_dim_v]
  float* ml = nullptr;          // [max_states, num_q_heads, 2] largest score, sum of weights
  uint64_t max_states = 0;      // what lies behind is neither written nor read
  uint32_t walkers = 1;         // list: blocks that walk it, for each KV head
  uint32_t num_ranges = 1;      // no list: of a sequence
  uint32_t range_segments = 0;  // no list: of a range; 0: all
  uint32_t num_segments = 0;    // no list: that max_context_len has
};
// K/V of 16 or 8 bits.
Error launch_radix(const AttentionParams& p, const RadixSplit& split, const DeviceLimits& device,
                   Stream stream);
// The states of each row, in order, with the sinks, to out and lse.
Error launch_radix_merge(const AttentionParams& p, const RadixSplit& split, Stream stream);
// Stacked rows of an item that are computed at the same time.
uint32_t radix_item_rows(uint32_t head_dim, uint32_t head_dim_v);

Error launch_prefill(const AttentionParams& p, const DeviceLimits& device, Stream stream);
// The same on sm_90a's products of warpgroups, for what prefill_runs_on_wgmma
// (plan/prefill_choice.h) allows.
Error launch_prefill_wgmma(const AttentionParams& p, Stream stream);

// Either of the two for K/V in f32, on plain multiply-adds; decode when cu_q_lens is null.
Error launch_attention_f32(const AttentionParams& p, Stream stream);

Error launch_merge_states(const MergeParams& p, Stream stream);

// The tables, slots and positions of a plan's step; the copy is done.
Error launch_build_step(const StepParams& p, Stream stream);

// The frequencies travel in the launch's parameters.
Error launch_rope_append(const RopeAppendParams& p, const RopeFrequencies& frequencies,
                         Stream stream);

// At most 2^31 - 1 vectors, dim at most 2^24; x, y and the weight are f32, f16 or bf16 each.
Error launch_rms_norm(const NormParams& p, Stream stream);

// Arrays of the device only; prompts end at num_tokens, whatever prompt_begin says.
Error launch_match_batch(const MatchParams& p, Stream stream);

// What is left of a row of logits after its cuts: a token of the row (its score, -inf where it is
// not allowed) stays if it weighs at least `least`, and stands no later than `last` and
// `typical_last` in their orders (kernels/sample_row.h). max and scale give weights their sense.
struct RowCut {  // no initial values: it lies in shared memory, too
  float max, scale;
  uint64_t last, typical_last;
  uint64_t least;
  uint64_t total;  // weight of all that stay
  uint32_t typical_mean;
};

// Memory of sampling. Rows whose scores differ from their logits by more than `allowed` (biases,
// penalties) have them here.
struct SampleSpace {
  float* scores = nullptr;    // [num_rows, stride]; null: no row has any
  uint32_t* slots = nullptr;  // [num_rows, stride] of tokens in the history or with a bias
  int64_t stride = 0;         // vocab, rounded up to 64 bytes
  RowCut* cuts = nullptr;     // [num_rows], for launch_verify; or null
};
Error launch_sample(const SampleParams& p, const SampleSpace& space, Stream stream);

// Samples every row, then goes down each sequence's tree. Of p.target, outputs are not looked at.
struct VerifySpace {
  SampleSpace rows;             // with cuts
  int32_t* tokens = nullptr;    // [num_rows] of the target
  int32_t* status = nullptr;    // [num_rows]
  uint64_t* weights = nullptr;  // [num_seqs, rows.stride], with draft_probs only
};
Error launch_verify(const VerifyParams& p, const VerifySpace& space, Stream stream);

// dst block <- src block of every layer, all pairs at the same time: no dst is a src or a dst of
// another pair (plan/copy_batches.h sees to it).
struct CopyBatch {
  static constexpr uint32_t kMaxPairs = 448;  // kernel parameters hold 4 KB
  uint32_t num_pairs = 0;
  uint32_t num_tokens = 0;            // of each block; block_size = all of it
  int32_t pairs[2 * kMaxPairs] = {};  // {src, dst}
};
Error launch_copy_blocks(const KvBlocks& kv, const CopyBatch& batch, Stream stream);
// Zeroes blocks of every layer.
struct ZeroBatch {
  static constexpr uint32_t kMaxBlocks = 896;
  uint32_t num_blocks = 0;
  int32_t blocks[kMaxBlocks] = {};
};
Error launch_zero_blocks(const KvBlocks& kv, const ZeroBatch& batch, Stream stream);

}  // namespace radixattn::cuda
