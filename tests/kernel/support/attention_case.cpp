#include "support/attention_case.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <ostream>

#include "backend/cpu/cpu_backend.h"
#include "backend/reference/attention.h"
#include "base/error.h"
#include "support/plain_attention.h"
#include "support/runners.h"

namespace radixattn::test {
namespace {

constexpr uint32_t kFreeBlocks = 3;  // of the pool, never named by a table

std::vector<uint8_t> aligned_workspace(uint64_t bytes) {
  return std::vector<uint8_t>(bytes + 64, kNanByte);
}

void* align(std::vector<uint8_t>& memory) {
  const auto at = reinterpret_cast<uintptr_t>(memory.data());
  return memory.data() + (64 - at % 64) % 64;
}

}  // namespace

std::ostream& operator<<(std::ostream& out, const Shape& s) {
  out << (s.prefill ? "prefill" : "decode") << " heads " << s.q_heads << "/" << s.kv_heads
      << " dim " << s.dim << "/" << s.dim_v << " block " << s.block_size << " window " << s.window
      << " softcap " << s.softcap << (s.alibi ? " alibi" : "") << (s.sinks ? " sinks" : "")
      << (s.sink_level != 0.f ? " far away" : "") << " layout " << static_cast<int>(s.layout)
      << (s.csr ? " csr" : "") << (s.shared_prefix ? " shared" : "")
      << (s.padded_rows ? " padded_rows" : "") << " k " << dtype_name(s.k_dtype) << " v "
      << dtype_name(s.v_dtype) << " q " << dtype_name(s.q_dtype) << " out "
      << dtype_name(s.out_dtype) << " max_context " << s.max_context << " amplitude " << s.amplitude
      << " v_offset " << s.v_offset << (s.aligned ? " aligned" : "")
      << (s.kv_scales ? " scales" : "") << (s.kv_scale_per_head ? " per head" : "")
      << (s.tree_mask ? " tree_mask" : "") << " seqs (context:q_len)";
  for (const Sequence& q : s.seqs) {
    out << " " << q.context << ":" << q.q_len;
    if (q.parent >= 0) out << "(" << q.shared << " of #" << q.parent << ")";
  }
  return out;
}

// ---- construction -------------------------------------------------------------------------------

AttentionCase::AttentionCase(const Shape& shape, uint64_t seed) : shape_(shape) {
  Rng rng(seed);
  if (shape_.dim_v == 0) shape_.dim_v = shape_.dim;
  cu_q_lens_.push_back(0);
  for (Sequence& s : shape_.seqs) {
    if (!shape_.prefill) s.q_len = 1;
    context_lens_.push_back(static_cast<int32_t>(s.context));
    rows_ += s.q_len;
    cu_q_lens_.push_back(static_cast<int32_t>(rows_));
    shape_.max_context = std::max(shape_.max_context, s.context);
  }
  make_tables(rng);
  make_paged(rng, shape_.k_dtype, shape_.dim, 0.f, &k_strides_, &k_);
  make_paged(rng, shape_.v_dtype, shape_.dim_v, shape_.v_offset, &v_strides_, &v_);
  make_rows(rng);
  if (shape_.tree_mask) make_tree_mask(rng);
  for (uint32_t h = 0; h < shape_.kv_heads; ++h) {
    k_scales_.push_back(0.5f + 0.25f * rng.uniform());
    v_scales_.push_back(2.f + rng.uniform());
  }
}

// Each new token's ancestors: itself, and those of a parent before it; some have none, and are the
// root of another tree. Bits past the row's own length and the bytes between are set: nobody may
// look.
void AttentionCase::make_tree_mask(Rng& rng) {
  uint32_t longest = 1;
  for (const Sequence& s : shape_.seqs) longest = std::max(longest, s.q_len);
  mask_stride_ = (longest + 7) / 8 + 1;
  tree_mask_.assign(static_cast<size_t>(mask_stride_) * rows_, 0xff);
  for (uint32_t s = 0; s < shape_.seqs.size(); ++s) {
    const uint32_t n = shape_.seqs[s].q_len;
    for (uint32_t i = 0; i < n; ++i) {
      uint8_t* row = tree_mask_.data() + (cu_q_lens_[s] + int64_t{i}) * mask_stride_;
      const bool root = i == 0 || rng.one_in(5);
      const uint32_t parent = root ? 0 : rng.below(i);
      for (uint32_t j = 0; j < n; ++j) {
        const uint8_t* of_parent =
            tree_mask_.data() + (cu_q_lens_[s] + int64_t{parent}) * mask_stride_;
        const bool seen = j == i || (!root && j < i && (of_parent[j / 8] >> (j % 8) & 1) != 0);
        const auto bit = static_cast<uint8_t>(1u << (j % 8));
        row[j / 8] = static_cast<uint8_t>(seen ? row[j / 8] | bit : row[j / 8] & ~bit);
      }
    }
  }
}

uint32_t AttentionCase::first_visible(uint32_t seq) const {
  const Sequence& s = shape_.seqs[seq];
  const int64_t first = int64_t{s.context} - s.q_len - shape_.window + 1;
  return shape_.window == 0 || first < 0 ? 0 : static_cast<uint32_t>(first);
}

void AttentionCase::make_tables(Rng& rng) {
  std::vector<uint32_t> needed;
  uint32_t total = kFreeBlocks;
  for (const Sequence& s : shape_.seqs) {
    needed.push_back((s.context + shape_.block_size - 1) / shape_.block_size);
    total += needed.back();
    row_blocks_ = std::max(row_blocks_, needed.back());
  }
  num_blocks_ = total;
  row_blocks_ += 2;
  std::vector<int32_t> free(total);
  std::iota(free.begin(), free.end(), 0);
  for (uint32_t i = total; i > 1; --i) std::swap(free[i - 1], free[rng.below(i)]);

  const int32_t trap[] = {-1, INT32_MAX, INT32_MIN, static_cast<int32_t>(total)};
  tables_.resize(size_t{row_blocks_} * shape_.seqs.size());
  blocks_of_.resize(shape_.seqs.size());
  for (int32_t& id : tables_) id = rng.pick(trap);
  for (uint32_t s = 0; s < shape_.seqs.size(); ++s) {
    int32_t* row = tables_.data() + size_t{s} * row_blocks_;
    block_begin_.push_back(static_cast<int32_t>(block_ids_.size()));
    for (uint32_t i = 0; i < needed[s]; ++i) {
      // Full blocks that the first sequence has, too. (With a window its own may be traps.)
      const bool share = shape_.shared_prefix && shape_.window == 0 && s > 0 &&
                         (i + 1) * shape_.block_size <= shape_.seqs[0].context &&
                         (i + 1) * shape_.block_size <= shape_.seqs[s].context;
      const bool inherit =
          shape_.seqs[s].parent >= 0 && i * shape_.block_size < shape_.seqs[s].shared;
      const auto parent = static_cast<size_t>(inherit ? shape_.seqs[s].parent : 0);
      const bool own = !share && !inherit;
      blocks_of_[s].push_back(own ? free.back() : blocks_of_[parent][i]);
      if (own) free.pop_back();
      const bool hidden = (i + 1) * shape_.block_size <= first_visible(s);
      if (!hidden) row[i] = blocks_of_[s][i];
    }
    block_ids_.insert(block_ids_.end(), row, row + needed[s]);
  }
  block_begin_.push_back(static_cast<int32_t>(block_ids_.size()));
}

AttentionCase::Strides AttentionCase::strides_of(uint32_t dim, bool of_v) const {
  const int64_t heads = shape_.kv_heads, tokens = shape_.block_size, row = dim;
  const int64_t gap = of_v ? 32 : 16;  // equal dims have other strides for all that
  switch (shape_.layout) {
    case Layout::kHnd:
      return {heads * tokens * row, row, tokens * row};
    case Layout::kPaddedNhd:
      return {tokens * (heads * (row + 3) + 5) + 5, heads * (row + 3) + 5, row + 3};
    case Layout::kAlignedPaddedNhd:
      return {tokens * (heads * (row + gap) + 48) + 48, heads * (row + gap) + 48, row + gap};
    case Layout::kOddHeads:
      return {tokens * heads * (row + 4), heads * (row + 4), row + 4};
    case Layout::kOddTokens:
      return {tokens * (heads * row + 4), heads * row + 4, row};
    case Layout::kOddBlocks:
      return {tokens * heads * row + 4, heads * row, row};
    case Layout::kHeadsFirst:
      return {tokens * row, row, num_blocks_ * tokens * row};
    default:
      return {tokens * heads * row, heads * row, row};
  }
}

void AttentionCase::make_paged(Rng& rng, int32_t dtype, uint32_t dim, float offset,
                               Strides* strides, Elements* to) {
  const int64_t heads = shape_.kv_heads;
  *strides = strides_of(dim, to == &v_);
  const int64_t outer = shape_.layout == Layout::kHeadsFirst ? heads : 1;
  *to = Elements(dtype, outer * num_blocks_ * strides->block, kNanByte, shape_.aligned);
  for (uint32_t s = 0; s < shape_.seqs.size(); ++s) {
    for (uint32_t j = first_visible(s); j < shape_.seqs[s].context; ++j) {
      const int64_t block = tables_[size_t{s} * row_blocks_ + j / shape_.block_size];
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t at =
            block * strides->block + (j % shape_.block_size) * strides->token + h * strides->head;
        if (!std::isnan(to->get(at))) continue;  // shared, and written already
        for (uint32_t i = 0; i < dim; ++i) to->set(at + i, rng.uniform() + offset);
      }
    }
  }
}

void AttentionCase::make_rows(Rng& rng) {
  const int64_t pad = shape_.padded_rows ? 1 : 0;
  q_head_ = shape_.dim + 3 * pad;
  q_row_ = q_head_ * shape_.q_heads + 7 * pad;
  out_head_ = shape_.dim_v + 9 * pad;
  out_row_ = out_head_ * shape_.q_heads + 11 * pad;
  // Padded, heads are the outer dimension of the LSE.
  lse_head_ = shape_.padded_rows ? int64_t{rows_} + 1 : 1;
  lse_row_ = shape_.padded_rows ? 1 : int64_t{shape_.q_heads};
  q_ = Elements(shape_.q_dtype, rows_ * q_row_, kNanByte, shape_.aligned);
  for (int64_t r = 0; r < rows_; ++r) {
    for (int64_t h = 0; h < shape_.q_heads; ++h) {
      for (int64_t i = 0; i < shape_.dim; ++i) {
        q_.set(r * q_row_ + h * q_head_ + i, shape_.amplitude * rng.uniform());
      }
    }
  }
  out_ = Elements(shape_.out_dtype, rows_ * out_row_, kPoisonByte, shape_.aligned);
  lse_ = Elements(RADIX_F32, (rows_ + 1) * (int64_t{shape_.q_heads} + 1), kPoisonByte);
  for (uint32_t h = 0; h < shape_.q_heads; ++h) {
    slopes_.push_back(
        std::exp2(-8.f * static_cast<float>(h + 1) / static_cast<float>(shape_.q_heads)));
    sinks_.push_back(shape_.sink_level + 2.f * rng.uniform());
  }
}

AttentionParams AttentionCase::params() {
  AttentionParams p;
  p.num_seqs = static_cast<uint32_t>(shape_.seqs.size());
  p.num_q_heads = shape_.q_heads;
  p.num_kv_heads = shape_.kv_heads;
  p.head_dim = shape_.dim;
  p.head_dim_v = shape_.dim_v;
  p.block_size = shape_.block_size;
  p.num_blocks = num_blocks_;
  p.max_context_len = shape_.max_context;
  p.max_query_len = 1;
  for (const Sequence& s : shape_.seqs) p.max_query_len = std::max(p.max_query_len, s.q_len);
  p.window = shape_.window;
  p.scale = 1.f / std::sqrt(static_cast<float>(shape_.dim));
  p.softcap = shape_.softcap;
  p.q = {q_.data(), shape_.q_dtype, q_row_, q_head_};
  p.out = {out_.data(), shape_.out_dtype, out_row_, out_head_};
  p.lse = shape_.lse ? static_cast<float*>(lse_.data()) : nullptr;
  p.lse_row_stride = lse_row_;
  p.lse_head_stride = lse_head_;
  p.k = {k_.data(), shape_.k_dtype, k_strides_.block, k_strides_.token, k_strides_.head};
  p.v = {v_.data(), shape_.v_dtype, v_strides_.block, v_strides_.token, v_strides_.head};
  if (shape_.csr) {
    p.blocks.block_begin = block_begin_.data();
    p.blocks.block_ids = block_ids_.data();
  } else {
    p.blocks.tables = tables_.data();
    p.blocks.row_stride = row_blocks_;
  }
  p.context_lens = context_lens_.data();
  p.num_q_rows = rows_;
  p.cu_q_lens = shape_.prefill ? cu_q_lens_.data() : nullptr;
  p.alibi_slopes = shape_.alibi ? slopes_.data() : nullptr;
  p.sinks = shape_.sinks ? sinks_.data() : nullptr;
  if (shape_.kv_scales) {
    p.k_scale = k_scales_.data();
    p.v_scale = v_scales_.data();
    p.kv_scale_per_head = shape_.kv_scale_per_head;
  }
  if (shape_.tree_mask) {
    p.tree_mask = tree_mask_.data();
    p.tree_mask_stride = mask_stride_;
  }
  return p;
}

// ---- running ------------------------------------------------------------------------------------

radix_status AttentionCase::launch(const CpuKernels& kernels, const AttentionParams& p,
                                   Executor& executor) {
  CpuBackend backend(kernels, executor);
  const bool prefill = p.cu_q_lens != nullptr;
  AttentionParams with_workspace = p;
  radix_status st = backend.attention_workspace(p, prefill, &with_workspace.workspace_bytes);
  if (st != RADIX_OK) return st;
  std::vector<uint8_t> memory = aligned_workspace(with_workspace.workspace_bytes);
  with_workspace.workspace = align(memory);
  return prefill ? backend.prefill(with_workspace, nullptr)
                 : backend.decode(with_workspace, nullptr);
}

Result AttentionCase::run(const CpuKernels& kernels, Executor executor) {
  return run([&](const AttentionParams& p) { return launch(kernels, p, executor); });
}

Result AttentionCase::run(const Launcher& launcher) {
  out_.fill(kPoisonByte);
  lse_.fill(kPoisonByte);
  const radix_status st = launcher(params());
  EXPECT_EQ(st, RADIX_OK) << last_message();
  return read_outputs();
}

Result AttentionCase::read_outputs() {
  Result r;
  std::vector<bool> ours(static_cast<size_t>(out_.size()), false);
  std::vector<bool> our_lse(static_cast<size_t>(lse_.size()), false);
  for (int64_t row = 0; row < rows_; ++row) {
    for (int64_t h = 0; h < shape_.q_heads; ++h) {
      for (int64_t i = 0; i < shape_.dim_v; ++i) {
        const int64_t at = row * out_row_ + h * out_head_ + i;
        ours[static_cast<size_t>(at)] = true;
        r.out.push_back(out_.get(at));
      }
      if (!shape_.lse) continue;
      const int64_t at = row * lse_row_ + h * lse_head_;
      our_lse[static_cast<size_t>(at)] = true;
      r.lse.push_back(lse_.get(at));
    }
  }
  int64_t strays = 0;
  for (int64_t i = 0; i < out_.size(); ++i) {
    strays += !ours[static_cast<size_t>(i)] && !out_.is_filled_with(i, kPoisonByte);
  }
  for (int64_t i = 0; i < lse_.size(); ++i) {
    strays += !our_lse[static_cast<size_t>(i)] && !lse_.is_filled_with(i, kPoisonByte);
  }
  EXPECT_EQ(strays, 0) << "elements between the output rows were written";
  r.raw_out = out_;
  r.raw_lse = lse_;
  return r;
}

// ---- comparing ----------------------------------------------------------------------------------

void AttentionCase::compute_reference() {
  has_reference_ = true;
  const AttentionParams p = params();
  const size_t heads = size_t{rows_} * shape_.q_heads;
  ref_out_.assign(heads * shape_.dim_v, 0.0);
  ref_lse_.assign(heads, 0.0);
  reference::attention(p, ref_out_.data(), ref_lse_.data());
  std::vector<float> out(ref_out_.size()), lse(heads);
  plain_attention(p, shape_.compute_dtype, out.data(), lse.data());
  for (size_t i = 0; i < out.size(); ++i) {
    scale_.plain_error = std::max(scale_.plain_error, std::fabs(double{out[i]} - ref_out_[i]));
  }
  for (size_t i = 0; i < heads; ++i) {
    if (std::isinf(ref_lse_[i])) continue;
    scale_.max_lse = std::max(scale_.max_lse, std::fabs(ref_lse_[i]));
    plain_lse_error_ = std::max(plain_lse_error_, std::fabs(double{lse[i]} - ref_lse_[i]));
  }
  for (int64_t i = 0; i < v_.size(); ++i) {
    if (!std::isnan(v_.get(i))) scale_.max_v = std::max(scale_.max_v, std::fabs(v_.get(i)));
  }
}

void AttentionCase::expect_matches_reference(const Result& result) {
  if (!has_reference_) compute_reference();
  ASSERT_EQ(result.out.size(), ref_out_.size());
  size_t wrong = 0;
  for (size_t i = 0; i < ref_out_.size(); ++i) {
    const bool empty = std::isinf(ref_lse_[i / shape_.dim_v]);
    const double allowed = empty ? 0.0 : out_tolerance(scale_, shape_.out_dtype, ref_out_[i]);
    if (std::fabs(result.out[i] - ref_out_[i]) <= allowed) continue;
    if (wrong++ > 0) continue;
    const size_t head = i / shape_.dim_v;
    ADD_FAILURE() << "out[row " << head / shape_.q_heads << ", head " << head % shape_.q_heads
                  << ", " << i % shape_.dim_v << "] is " << result.out[i] << ", expected "
                  << ref_out_[i] << " +- " << allowed;
  }
  EXPECT_EQ(wrong, 0u) << "of " << ref_out_.size() << " outputs";
  wrong = 0;
  for (size_t i = 0; i < result.lse.size(); ++i) {
    if (result.lse[i] == ref_lse_[i]) continue;  // -inf, too
    const double allowed = lse_tolerance(plain_lse_error_, ref_lse_[i]);
    if (std::isfinite(ref_lse_[i]) && std::fabs(result.lse[i] - ref_lse_[i]) <= allowed) continue;
    if (wrong++ > 0) continue;
    ADD_FAILURE() << "lse[row " << i / shape_.q_heads << ", head " << i % shape_.q_heads << "] is "
                  << result.lse[i] << ", expected " << ref_lse_[i] << " +- " << allowed;
  }
  EXPECT_EQ(wrong, 0u) << "of " << result.lse.size() << " LSEs";
}

void AttentionCase::check_all_targets() {
  static std::vector<NamedExecutor> executors = all_executors();
  const NamedExecutor& pool = executors.back();
  for (const CpuKernels* kernels : runnable_targets()) {
    ::testing::Message what;
    what << kernels->name << ": " << shape_;
    SCOPED_TRACE(what);
    const Result alone = run(*kernels, Executor());
    expect_matches_reference(alone);
    const Result together = run(*kernels, pool.executor);
    EXPECT_TRUE(alone.raw_out == together.raw_out) << "other bits on the " << pool.name;
    EXPECT_TRUE(alone.raw_lse == together.raw_lse) << "other LSE bits on the " << pool.name;
  }
}

}  // namespace radixattn::test
