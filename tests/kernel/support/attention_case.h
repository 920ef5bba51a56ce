// One attention launch with everything around it made hostile.
//
//   - K/V of free blocks, of the unused tail of last blocks, of tokens that no row sees because of
//   the
//     window, and between strided rows are NaN;
//   - block-table entries that must not be looked at (past the context, before the window) are -1
//   or
//     far out of range;
//   - outputs are poisoned before, and whatever lies between their rows must still be poison after;
//   - nothing is aligned beyond its element.
#pragma once

#include <cstdint>
#include <functional>
#include <iosfwd>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/kernels.h"
#include "base/executor.h"
#include "support/rng.h"
#include "support/tensors.h"
#include "support/tolerance.h"

namespace radixattn::test {

// Padded: gaps between heads, tokens and blocks, of odd sizes or of multiples of 16 bytes. The last
// four: one stride alone is no multiple of 16 bytes, and heads outside of the blocks.
enum class Layout {
  kNhd,
  kHnd,
  kPaddedNhd,
  kAlignedPaddedNhd,
  kOddHeads,
  kOddTokens,
  kOddBlocks,
  kHeadsFirst
};

struct Sequence {
  uint32_t context = 1;
  uint32_t q_len = 1;
  // The blocks of its first `shared` tokens are those of an earlier sequence. The last of them need
  // not be full.
  int32_t parent = -1;
  uint32_t shared = 0;
};

struct Shape {
  bool prefill = false;
  std::vector<Sequence> seqs;
  uint32_t q_heads = 4, kv_heads = 2;
  uint32_t dim = 64;
  uint32_t dim_v = 0;  // 0 = dim
  uint32_t block_size = 16;
  uint32_t window = 0;
  float softcap = 0.f;
  bool alibi = false, sinks = false;
  float sink_level = 0.f;  // of the sinks, in the unit of scores: far above or below them
  Layout layout = Layout::kNhd;
  bool csr = false;
  bool shared_prefix = false;  // sequences begin with the same blocks where both have them
  bool padded_rows = false;    // gaps between rows and heads of q, out and lse
  bool lse = true;
  int32_t k_dtype = RADIX_F16, v_dtype = RADIX_F16, q_dtype = RADIX_F32, out_dtype = RADIX_F32;
  uint32_t max_context = 0;           // 0 = the longest
  float amplitude = 1.f;              // of q: large ones make the softmax sharp
  float v_offset = 0.f;               // mean of V: sums that grow instead of cancelling
  int32_t compute_dtype = RADIX_F32;  // tolerances: in what queries and weights may be rounded
  bool aligned = false;               // tensors begin at multiples of 16 bytes
  bool kv_scales = false, kv_scale_per_head = false;  // for fp8
  bool tree_mask = false;                             // prefill: random ancestors among new tokens
};

std::ostream& operator<<(std::ostream& out, const Shape& s);

// Dense results in double.
struct Result {
  std::vector<double> out;  // [rows, q_heads, dim_v]
  std::vector<double> lse;  // [rows, q_heads]; empty without lse
  Elements raw_out, raw_lse;
};

// What launches the case: the parameters come without a workspace.
using Launcher = std::function<radix_status(const AttentionParams&)>;

class AttentionCase {
 public:
  AttentionCase(const Shape& shape, uint64_t seed);

  const Shape& shape() const { return shape_; }
  uint32_t rows() const { return rows_; }
  // Without workspace. Points into this object.
  AttentionParams params();

  // Poisons the outputs and launches. Fails the test when the launch does, or when it wrote
  // elsewhere.
  Result run(const CpuKernels& kernels, Executor executor);
  Result run(const Launcher& launcher);
  // The launch's status alone, with the parameters as they are.
  static radix_status launch(const CpuKernels& kernels, const AttentionParams& p,
                             Executor& executor);

  void expect_matches_reference(const Result& result);
  // Every runnable target, inline and on a pool, against the reference.
  void check_all_targets();

  // For tests that break things.
  std::vector<int32_t>& context_lens() { return context_lens_; }
  std::vector<int32_t>& cu_q_lens() { return cu_q_lens_; }
  std::vector<int32_t>& tables() { return tables_; }
  std::vector<int32_t>& block_begin() { return block_begin_; }
  Elements& q() { return q_; }
  Elements& k() { return k_; }
  Elements& v() { return v_; }
  Elements& out() { return out_; }
  Elements& lse() { return lse_; }
  uint32_t row_blocks() const { return row_blocks_; }
  // The blocks of a sequence, with those that its table hides behind a window.
  const std::vector<int32_t>& blocks_of(uint32_t seq) const { return blocks_of_[seq]; }
  // The first token that any row of the sequence sees.
  uint32_t first_visible(uint32_t seq) const;

 private:
  struct Strides {
    int64_t block, token, head;
  };
  void make_tables(Rng& rng);
  Strides strides_of(uint32_t dim, bool of_v) const;
  void make_paged(Rng& rng, int32_t dtype, uint32_t dim, float offset, Strides* strides,
                  Elements* to);
  void make_rows(Rng& rng);
  void make_tree_mask(Rng& rng);
  void compute_reference();
  Result read_outputs();

  Shape shape_;
  uint32_t rows_ = 0, num_blocks_ = 0, row_blocks_ = 0;
  std::vector<int32_t> context_lens_, cu_q_lens_, tables_, block_begin_, block_ids_;
  std::vector<std::vector<int32_t>> blocks_of_;
  std::vector<float> slopes_, sinks_, k_scales_, v_scales_;
  std::vector<uint8_t> tree_mask_;
  int64_t mask_stride_ = 0;
  Strides k_strides_ = {}, v_strides_ = {};
  int64_t q_row_ = 0, q_head_ = 0, out_row_ = 0, out_head_ = 0, lse_row_ = 0, lse_head_ = 0;
  Elements q_, k_, v_, out_, lse_;

  bool has_reference_ = false;
  std::vector<double> ref_out_, ref_lse_;
  OutScale scale_;
  double plain_lse_error_ = 0;
};

}  // namespace radixattn::test
