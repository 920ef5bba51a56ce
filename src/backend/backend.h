// The contract of a backend: what the C boundary asks of the CPU and of CUDA devices.
//
// A backend owns memory of its kind and runs launches. It knows no tree, no request and no plan: it
// gets raw pointers, strides and lengths, already checked by src/api for everything that needs no
// look at array contents. Launches never allocate on the heap, never throw and may be called from
// any thread; two launches may run at the same time when their outputs do not overlap. All sizes
// are in elements unless a name says bytes.
#pragma once

#include <cstdint>

#include "backend/radix_list.h"
#include "radixattn.h"

namespace radixattn {

// Paged K or V of one layer. The vector of (block b, token t, KV head h) starts at
// data + (b*block_stride + t*token_stride + h*head_stride) elements; its head_dim elements are
// contiguous. NHD, HND and views of either differ only in strides.
struct PagedTensor {
  void* data = nullptr;
  int32_t dtype = 0;  // RADIX_F32, F16, BF16; on CUDA F8_E4M3 and F8_E5M2, too
  int64_t block_stride = 0;
  int64_t token_stride = 0;
  int64_t head_stride = 0;
};

// Rows of heads: [num_rows, num_heads, head_dim], last dimension contiguous.
struct RowTensor {
  void* data = nullptr;
  int32_t dtype = 0;
  int64_t row_stride = 0;
  int64_t head_stride = 0;
};

// Where the blocks of sequence s stand: row s of `tables`, or, when that is null, the CSR form
// block_ids[block_begin[s] .. block_begin[s+1]).
struct BlockTables {
  const int32_t* tables = nullptr;
  int64_t row_stride = 0;
  const int32_t* block_begin = nullptr;
  const int32_t* block_ids = nullptr;

  const int32_t* row(uint32_t s) const {
    return tables != nullptr ? tables + int64_t{s} * row_stride : block_ids + block_begin[s];
  }
};

// A plan's cut of decode (plan/decode_schedule.h), on the device: arrays whose contents change from
// step to step while launches stay the same.
struct DecodeList {
  const int32_t* schedule = nullptr;       // [2] {number of items, positions of a range}
  const int32_t* items = nullptr;          // [max_items, 2] {sequence, range}; null: no plan
  const int32_t* partial_begin = nullptr;  // [num_seqs]
  uint32_t max_items = 0;                  // bounds partial states, too
  uint32_t walkers = 0;                    // thread blocks that walk the list, for each KV head
  bool merges = true;                      // false: no sequence of this step has several ranges
};
// How a backend wants decode planned.
struct DecodeListSize {
  uint32_t walkers = 0;  // 0: it takes no list
  uint32_t max_items = 0;
  uint64_t workspace_bytes = 0;
};

// A plan's work list over the tree of shared blocks (backend/radix_list.h). Arrays lie where the
// backend's launches read; their contents change from step to step while launches stay the same.
struct RadixList {
  const RadixListSizes* sizes = nullptr;  // null: no list
  const RadixItem* items = nullptr;       // [max_items]
  const RadixRow* rows = nullptr;         // [sorted rows]
  const RadixMerge* merges = nullptr;     // [num_seqs]
  const int32_t* terms = nullptr;         // [max_terms]
  uint32_t max_items = 0;
  uint32_t max_states = 0;
  uint32_t max_terms = 0;
  bool has_merges = true;  // false: every row of this step is written by an item
};

// Tokens of a sequence, at most: rounded up to tiles or segments they stay inside 32 bits, and a
// range of decode can hold them all.
constexpr uint32_t kMaxContext = 1u << 30;

// One attention launch over paged K/V. Query row r of sequence s (rows [cu_q_lens[s],
// cu_q_lens[s+1]) for prefill, row s for decode) stands at position p = context_len - q_len + (r -
// first row) and sees the keys j in [max(0, p - window + 1), p] (window 0: from 0). For a visible
// key:
//   x = scale * dot(q, k_j);  if softcap > 0: x = softcap * tanh(x / softcap);  if alibi: x +=
//   slope[h] * (j - p)
// With sinks, exp(sink[h]) is added once to the softmax's denominator, and counts in the LSE.
// A row that sees no key gives zeros and LSE = -inf (sinks or not), never NaN.
struct AttentionParams {
  uint32_t num_seqs = 0;
  uint32_t num_q_heads = 0;
  uint32_t num_kv_heads = 0;  // divides num_q_heads; group = num_q_heads / num_kv_heads, any size
  uint32_t head_dim = 0;      // of q and k: 32..256 in steps of 8
  uint32_t head_dim_v = 0;    // of v and out, same range
  uint32_t block_size = 0;    // 1..256
  uint32_t num_blocks = 0;    // valid block ids are [0, num_blocks)
  uint32_t max_context_len = 0;
  uint32_t max_query_len = 1;
  uint32_t num_q_rows = ~0u;    // that q and out have; CUDA: rows of sequences beyond are none
  uint32_t max_query_rows = 0;  // bounds: of all sequences together; 0: num_seqs * max_query_len
  uint32_t window = 0;          // visible tokens, the query's own included; 0 = unlimited
  float scale = 0.f;
  float softcap = 0.f;   // 0 = off
  RowTensor q;           // [rows, num_q_heads, head_dim]
  RowTensor out;         // [rows, num_q_heads, head_dim_v]
  float* lse = nullptr;  // [rows, num_q_heads] natural log, or null
  int64_t lse_row_stride = 0;
  int64_t lse_head_stride = 1;
  PagedTensor k, v;
  BlockTables blocks;
  const int32_t* context_lens =
      nullptr;  // [num_seqs] K/V tokens of each sequence, its new ones included; 0 = empty
  const int32_t* cu_q_lens =
      nullptr;  // [num_seqs + 1] for prefill; null for decode (one row a sequence)
  // fp8 K/V: what a stored number is worth; [1], or [num_kv_heads] with kv_scale_per_head; null
  // = 1.
  const float* k_scale = nullptr;
  const float* v_scale = nullptr;
  bool kv_scale_per_head = false;
  // Speculative trees (prefill): bit j % 8 of byte j / 8 of row r says whether query row r sees the
  // sequence's new token j; the rows' own order then limits nothing. Null = causal.
  const uint8_t* tree_mask = nullptr;  // [rows, tree_mask_stride] bytes
  int64_t tree_mask_stride = 0;
  const float* alibi_slopes = nullptr;  // [num_q_heads] or null
  const float* sinks = nullptr;         // [num_q_heads] or null
  DecodeList list;                      // of a plan, for decode
  RadixList radix;                      // of a plan that found something to share, or that is
                                        // batch-invariant
  // A row's result has the same bits whatever else the launch holds and however it is cut, in
  // decode and in prefill: segments of kSegmentTokens positions, each begun afresh, folded in
  // order.
  bool batch_invariant = false;
  // CPU: bf16 queries, K and V meet in bf16 dot products throughout: weights are rounded to bf16.
  bool bf16_weights = false;
  void* workspace = nullptr;  // 64-byte aligned, at least what workspace_bytes asked for
  uint64_t workspace_bytes = 0;
};

// Query rows of a launch within these bounds, at most.
inline uint64_t most_rows(const AttentionParams& bounds) {
  const uint64_t rows = uint64_t{bounds.num_seqs} * bounds.max_query_len;
  return bounds.max_query_rows != 0 && bounds.max_query_rows < rows ? bounds.max_query_rows : rows;
}

// Rotary embedding of q and k fused with the write of K and V to their slots.
struct RopeAppendParams {
  uint64_t num_tokens = 0;
  uint32_t num_q_heads = 0;  // 0 when q.data is null
  uint32_t num_kv_heads = 0;
  uint32_t head_dim = 0;    // of q and k
  uint32_t head_dim_v = 0;  // of v
  uint32_t block_size = 0;
  uint32_t num_blocks = 0;
  uint32_t rotary_dim =
      0;  // first rotary_dim elements of a head turn; 0 = no rotation, only the write; even
  int32_t style = 0;    // RADIX_ROPE_NEOX | RADIX_ROPE_INTERLEAVED
  int32_t scaling = 0;  // RADIX_ROPE_SCALE_*
  float theta = 10000.f;
  float scale = 1.f;  // the scaling's factor (LINEAR, LLAMA3, YARN): positions stretch by it
  float low_freq_factor = 1.f, high_freq_factor = 4.f;  // LLAMA3
  float beta_fast = 32.f, beta_slow = 1.f;              // YARN
  float attention_factor = 0.f;                         // YARN: 0 = 0.1 ln(scale) + 1
  uint32_t original_max_position = 0;                   // LLAMA3, YARN
  RowTensor q;  // [num_tokens, num_q_heads, head_dim], rotated in place
  RowTensor k;  // [num_tokens, num_kv_heads, head_dim], read only
  RowTensor v;  // [num_tokens, num_kv_heads, head_dim_v], read only
  PagedTensor k_cache, v_cache;
  // fp8 caches: k / k_scale is what is stored; as in AttentionParams.
  const float* k_scale = nullptr;
  const float* v_scale = nullptr;
  bool kv_scale_per_head = false;
  const int64_t* slots = nullptr;  // [num_tokens] block*block_size + offset; a negative slot = a
                                   // padded row, written nowhere
  const int32_t* positions = nullptr;  // [num_tokens]; may be null when rotary_dim is 0
};

// States of the same rows over disjoint sets of keys, o_i [rows, heads, dim] and lse_i (natural
// log), to one.
struct MergeParams {
  static constexpr uint32_t kMaxStates = 32;
  uint32_t num_states = 0, num_rows = 0, num_heads = 0, head_dim = 0;
  RowTensor in[kMaxStates];
  const float* in_lse[kMaxStates] = {};  // dense [rows, heads]
  RowTensor out;
  float* out_lse = nullptr;  // dense [rows, heads], or null
};

// Pieces of one memory that another gets, at the same offsets.
struct CopyRanges {
  static constexpr uint32_t kMost = 4;
  struct Range {
    uint64_t begin, end;
  };
  Range ranges[kMost] = {};
  uint32_t num = 0;

  uint64_t bytes() const {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < num; ++i) sum += ranges[i].end - ranges[i].begin;
    return sum;
  }
};

// One step of a plan, on its way to the device (plan/step.h writes it). Row s of `tables` gets
// patch_ids[patch_begin[s] .. patch_begin[s+1]) from entry patch_first[s] on; then query token t
// (row cu_q_lens[s] + t) of sequence s gets its position and its slot. Slots behind the last
// sequence's are -1.
struct StepParams {
  const void* host = nullptr;  // pinned; copied to `device` first, null: nothing to copy
  void* device = nullptr;
  CopyRanges copies;
  void* copied = nullptr;  // event that the copies' end reaches
  uint32_t num_seqs = 0, block_size = 0;
  uint32_t num_slots = 0;                 // room in slots and positions; all of it is written
  const int32_t* context_lens = nullptr;  // [num_seqs]; what follows are device pointers
  const int32_t* cu_q_lens = nullptr;     // [num_seqs + 1]
  const int32_t* patch_begin = nullptr;   // [num_seqs + 1]
  const int32_t* patch_first = nullptr;   // [num_seqs]
  const int32_t* patch_ids = nullptr;
  int32_t* tables = nullptr;  // [num_seqs, row_stride]
  int64_t row_stride = 0;
  int64_t* slots = nullptr;
  int32_t* positions = nullptr;
};

// All layers' K/V of the blocks of a context, as launches on whole blocks see it. One block of one
// layer's K (or V) is `k_block_bytes` (`v_block_bytes`) contiguous bytes.
struct KvBlocks {
  char* base = nullptr;
  uint32_t num_layers = 0;
  uint32_t num_blocks = 0;
  uint32_t block_size = 0;
  uint64_t k_block_bytes = 0, v_block_bytes = 0;
  uint64_t layer_bytes = 0;     // from one layer's K to the next layer's K
  uint64_t v_offset_bytes = 0;  // from a layer's K to its V
  uint64_t token_chunk_bytes_k =
      0;  // NHD: bytes of one token (all heads), contiguous from the block's start
  uint64_t token_chunk_bytes_v = 0;  //   (0 for HND, where a partial copy moves the whole block)
};

// Prompts to look up in a radix tree: radix_tree_view and radix_match_batch, shapes there. Lookups
// of one prompt go down from node to node, each larger than the last. Contents of the tree's arrays
// are claims: a child is looked for in [max(child_begin, node + 1), min(child_begin', num_nodes)),
// blocks of a node end at num_blocks, a node without blocks is smaller than every prompt.
struct MatchParams {
  uint32_t block_size = 0;  // 1..256
  uint32_t num_nodes = 0;   // 0: the tree's arrays may be null
  uint32_t num_blocks = 0;
  const int32_t* child_begin = nullptr;
  const int32_t* block_begin = nullptr;
  const int32_t* block_ids = nullptr;  // may be null without out_tables
  const int32_t* tokens = nullptr;
  uint32_t num_prompts = 0;
  const int32_t* prompts = nullptr;
  uint64_t num_tokens = 0;
  const int64_t* prompt_begin = nullptr;
  int32_t* out_nodes = nullptr;
  int32_t* out_tokens = nullptr;
  int32_t* out_tables = nullptr;  // or null
  int64_t table_stride = 0;
};

// A matrix, or rows of logits: [rows, columns], columns contiguous.
struct MatrixTensor {
  void* data = nullptr;
  int32_t dtype = 0;
  int64_t row_stride = 0;
};

// One token from each row of logits: radix_sample, its shapes and its meaning, field by field.
struct SampleParams {
  uint32_t flags = 0;
  uint32_t num_top = 0;
  uint32_t num_rows = 0;
  uint32_t vocab = 0;   // 1..2^20
  MatrixTensor logits;  // [num_rows, vocab]
  const float* temperature = nullptr;
  const int32_t* top_k = nullptr;
  const float* top_p = nullptr;
  const float* min_p = nullptr;
  const float* typical_p = nullptr;
  const float* repetition_penalty = nullptr;
  const float* presence_penalty = nullptr;
  const float* frequency_penalty = nullptr;
  const int32_t* history = nullptr;
  const int64_t* history_begin = nullptr;
  const int64_t* output_begin = nullptr;
  uint64_t num_history = 0;
  const int32_t* bias_tokens = nullptr;
  const float* bias_values = nullptr;
  const int64_t* bias_begin = nullptr;
  uint64_t num_biases = 0;
  const uint32_t* allowed = nullptr;
  int64_t allowed_stride = 0;
  const uint64_t* seeds = nullptr;
  const uint64_t* positions = nullptr;
  int32_t* out_tokens = nullptr;
  float* out_logprobs = nullptr;
  int32_t* out_top_tokens = nullptr;
  float* out_top_logprobs = nullptr;
  int32_t* out_status = nullptr;
  void* workspace = nullptr;  // 64-byte aligned, at least what sample_workspace asked for
  uint64_t workspace_bytes = 0;
};

// Drafted trees against the target's rows: radix_verify.
struct VerifyParams {
  uint32_t flags = 0;
  uint32_t num_seqs = 0;
  uint32_t max_tokens = 0;
  SampleParams target;  // outputs, num_top and workspace are not set
  const int32_t* node_begin = nullptr;
  const int32_t* draft_tokens = nullptr;
  const int32_t* parents = nullptr;
  const float* draft_probs = nullptr;  // [num_rows, vocab] or null
  int64_t draft_row_stride = 0;
  int32_t* out_tokens = nullptr;
  int32_t* out_num_tokens = nullptr;
  int32_t* out_nodes = nullptr;
  int32_t* out_status = nullptr;
  void* workspace = nullptr;
  uint64_t workspace_bytes = 0;
};

// y = x / rms(x) * weight for each vector (row, head) of dim elements. y may be x.
struct NormParams {
  uint32_t num_rows = 0, num_heads = 1, dim = 0;
  RowTensor x, y;
  const void* weight = nullptr;  // [dim]
  int32_t weight_dtype = 0;
  float eps = 0.f;
  bool plus_one = false;  // the weight counts as 1 + weight
};

// y = x W^T + bias, or y += that; sums in f32.
struct GemmParams {
  uint32_t num_rows = 0, in = 0, out = 0;
  MatrixTensor x;              // [num_rows, in]
  MatrixTensor weight;         // [out, in]
  const void* bias = nullptr;  // [out] or null
  int32_t bias_dtype = 0;
  MatrixTensor y;  // [num_rows, out], apart from x
  bool add = false;
  void* workspace = nullptr;  // 64-byte aligned, at least what gemm_workspace asked for
  uint64_t workspace_bytes = 0;
};

// A backend. Every call returns RADIX_OK or sets the thread's message (base/error.h) and returns
// the code.
class Backend {
 public:
  virtual ~Backend() = default;

  virtual radix_status attention_workspace(const AttentionParams& p, bool prefill,
                                           uint64_t* bytes) const = 0;
  virtual radix_status decode(const AttentionParams& p, radix_stream stream) = 0;
  virtual radix_status prefill(const AttentionParams& p, radix_stream stream) = 0;
  virtual radix_status rope_append(const RopeAppendParams& p, radix_stream stream) = 0;
  virtual radix_status merge_states(const MergeParams& p, radix_stream stream) = 0;

  // How a plan for launches within these bounds cuts decode.
  virtual DecodeListSize decode_list_size(const AttentionParams& bounds) const = 0;
  // What a plan for launches within these bounds may hand to them in AttentionParams::radix. A
  // smaller list always fits: one item for every wide_rows stacked rows of a sequence, no states.
  virtual RadixLimits radix_limits(const AttentionParams& bounds) const = 0;
  // STATE: work for `stream` would become part of a graph.
  virtual radix_status check_not_capturing(radix_stream stream) = 0;
  virtual radix_status build_step(const StepParams& p, radix_stream stream) = 0;
  virtual radix_status match_batch(const MatchParams& p, radix_stream stream) = 0;

  // Bytes for a launch of these shapes and features; contents of arrays are not looked at.
  virtual uint64_t sample_workspace(const SampleParams& p) const = 0;
  virtual radix_status sample(const SampleParams& p, radix_stream stream) = 0;
  virtual uint64_t verify_workspace(const VerifyParams& p) const = 0;
  virtual radix_status verify(const VerifyParams& p, radix_stream stream) = 0;

  virtual radix_status rms_norm(const NormParams& p, radix_stream stream) = 0;
  virtual uint64_t gemm_workspace(const GemmParams& p) const = 0;
  virtual radix_status gemm(const GemmParams& p, radix_stream stream) = 0;

  // dst block <- src block, in order, for every layer; pairs = {src, dst} * n.
  virtual radix_status copy_blocks(const KvBlocks& kv, const int32_t* pairs, uint32_t n,
                                   radix_stream stream) = 0;
  // The first num_tokens tokens of src to dst (the COPY operation of a copy-on-write).
  virtual radix_status copy_tokens(const KvBlocks& kv, int32_t src, int32_t dst,
                                   uint32_t num_tokens, radix_stream stream) = 0;
  virtual radix_status zero_blocks(const KvBlocks& kv, const int32_t* blocks, uint32_t n,
                                   radix_stream stream) = 0;
  // Host image of n blocks: for each block in order, for each layer: K then V bytes.
  virtual radix_status swap_out(const KvBlocks& kv, const int32_t* blocks, uint32_t n, void* host,
                                radix_stream stream) = 0;
  virtual radix_status swap_in(const KvBlocks& kv, const int32_t* blocks, uint32_t n,
                               const void* host, radix_stream stream) = 0;
};

}  // namespace radixattn
