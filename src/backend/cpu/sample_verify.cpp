// The launch of radix_verify: each sequence's walk down its tree of drafted tokens, and what a
// rejected draft leaves of the target's distribution.
#include <cstring>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/sample_rows.h"
#include "sample/weights.h"

namespace radixattn {
namespace {

struct Run {
  const CpuKernels* kernels;
  const VerifyParams* params;
  std::atomic<uint32_t> next{0};
  FirstFailure failure;
};

// The distribution that the children of one node were drawn from.
class Draft {
 public:
  Draft(const VerifyParams& p, uint32_t row, uint32_t* removed)
      : q_(p.draft_probs + int64_t{row} * p.draft_row_stride), removed_(removed) {
    const uint32_t vocab = p.target.vocab;
    std::memset(removed, 0, (vocab + 31) / 32 * sizeof *removed);
    for (uint32_t t = 0; t < vocab; ++t) total_ += draft_weight(q_[t]);
  }
  uint64_t total() const { return total_; }
  uint64_t weight(uint32_t t) const {
    return (removed_[t / 32] >> (t % 32) & 1) != 0 ? 0 : draft_weight(q_[t]);
  }
  void remove(uint32_t t) {
    total_ -= weight(t);
    removed_[t / 32] |= 1u << (t % 32);
  }

 private:
  const float* q_;
  uint32_t* removed_;
  uint64_t total_ = 0;
};

// Walks one sequence.
class Walk {
 public:
  Walk(const VerifyParams& p, RowSampler* sampler, uint32_t* removed)
      : p_(p), sampler_(*sampler), removed_(removed) {}

  // RADIX_ROW_*; *row: the one that it is about. Outputs are written when it is OK.
  int32_t run(uint32_t seq, uint32_t* row);

 private:
  // The child of `node` that stands, or -1; *token: what comes next either way.
  int32_t step(int32_t node, int32_t* token);
  int32_t step_with_draft(int32_t node, int32_t* token);
  int32_t next_child(int32_t node, int32_t after) const;
  uint64_t weight_in_list(uint32_t token) const;
  void reject(Draft* draft, uint32_t token);

  const VerifyParams& p_;
  RowSampler& sampler_;
  uint32_t* removed_;
  int32_t begin_ = 0, num_nodes_ = 0;
};

int32_t Walk::next_child(int32_t node, int32_t after) const {
  if (p_.parents == nullptr) return after == node && node + 1 < num_nodes_ ? node + 1 : -1;
  for (int32_t child = after + 1; child < num_nodes_; ++child) {
    if (p_.parents[begin_ + child] == node) return child;
  }
  return -1;
}

uint64_t Walk::weight_in_list(uint32_t token) const {
  const TokenEntry* begin = sampler_.list();
  const TokenEntry* end = begin + sampler_.list_size();
  const TokenEntry* at = std::lower_bound(
      begin, end, token, [](const TokenEntry& e, uint32_t id) { return e.id < id; });
  return at != end && at->id == token ? at->weight : 0;
}

// p becomes max(p - q, 0), unless nothing would be left of it.
void Walk::reject(Draft* draft, uint32_t token) {
  TokenEntry* list = sampler_.list();
  const uint64_t p_total = sampler_.total(), q_total = draft->total();
  const auto rest = [&](const TokenEntry& e) {
    return residual_weight(e.weight, p_total, draft->weight(e.id), q_total);
  };
  uint64_t sum = 0;
  for (uint32_t i = 0; i < sampler_.list_size(); ++i) sum += rest(list[i]);
  if (sum > 0) {
    for (uint32_t i = 0; i < sampler_.list_size(); ++i) list[i].weight = rest(list[i]);
    sampler_.set_total(sum);
  }
  if ((p_.flags & RADIX_VERIFY_NO_REPLACEMENT) != 0) draft->remove(token);
}

int32_t Walk::step_with_draft(int32_t node, int32_t* token) {
  int32_t child = next_child(node, node);
  if (child >= 0) {
    sampler_.list();
    Draft draft(p_, static_cast<uint32_t>(begin_ + node), removed_);
    const RowParameters& r = sampler_.parameters();
    for (uint32_t i = 0; child >= 0; ++i, child = next_child(node, child)) {
      const auto t = static_cast<uint32_t>(p_.draft_tokens[begin_ + child]);
      if (t >= p_.target.vocab || draft.total() == 0) continue;
      const uint64_t bits = philox_bits(r.seed, r.position, kAcceptStream + i);
      if (draft_stands(weight_in_list(t), sampler_.total(), draft.weight(t), draft.total(), bits)) {
        *token = static_cast<int32_t>(t);
        return child;
      }
      reject(&draft, t);
    }
  }
  *token = sampler_.draw();
  return -1;
}

int32_t Walk::step(int32_t node, int32_t* token) {
  if (p_.draft_probs != nullptr) return step_with_draft(node, token);
  *token = sampler_.draw();
  int32_t child = next_child(node, node);
  while (child >= 0 && p_.draft_tokens[begin_ + child] != *token) child = next_child(node, child);
  return child;
}

int32_t Walk::run(uint32_t seq, uint32_t* row) {
  const auto rows = static_cast<int32_t>(p_.target.num_rows);
  begin_ = std::clamp(p_.node_begin[seq], 0, rows);
  num_nodes_ = std::clamp(p_.node_begin[seq + 1], begin_, rows) - begin_;
  *row = static_cast<uint32_t>(begin_);
  if (num_nodes_ == 0) return RADIX_ROW_PARAMETER;
  const uint64_t out = uint64_t{seq} * p_.max_tokens;
  uint32_t n = 0;
  for (int32_t node = 0; node >= 0 && n < p_.max_tokens; ++n) {
    *row = static_cast<uint32_t>(begin_ + node);
    const int32_t status = sampler_.open(*row);
    if (status != RADIX_ROW_OK) return status;
    if (p_.out_nodes != nullptr) p_.out_nodes[out + n] = node;
    node = step(node, &p_.out_tokens[out + n]);
  }
  p_.out_num_tokens[seq] = static_cast<int32_t>(n);
  return RADIX_ROW_OK;
}

// From token n on.
void clear_outputs(const VerifyParams& p, uint32_t seq, uint32_t n) {
  for (uint64_t i = uint64_t{seq} * p.max_tokens + n; i < (uint64_t{seq} + 1) * p.max_tokens; ++i) {
    p.out_tokens[i] = -1;
    if (p.out_nodes != nullptr) p.out_nodes[i] = -1;
  }
}

void RADIX_CALL run_sequences(void* arg, uint32_t index) {
  Run& run = *static_cast<Run*>(arg);
  const VerifyParams& p = *run.params;
  const bool drafts = p.draft_probs != nullptr;
  const RowScratch scratch = worker_scratch(p.target, drafts, drafts, p.workspace, index);
  RowSampler sampler(*run.kernels, p.target, scratch);
  Walk walk(p, &sampler, scratch.removed);
  for (;;) {
    const uint32_t seq = run.next.fetch_add(1, std::memory_order_relaxed);
    if (seq >= p.num_seqs) return;
    uint32_t row = 0;
    const int32_t status = walk.run(seq, &row);
    if (status != RADIX_ROW_OK) {
      p.out_num_tokens[seq] = 0;
      run.failure.add(row, status);
    }
    clear_outputs(p, seq, static_cast<uint32_t>(p.out_num_tokens[seq]));
    if (p.out_status != nullptr) p.out_status[seq] = status;
  }
}

uint32_t verify_workers(const VerifyParams& p, uint32_t workers) {
  const uint64_t logits = uint64_t{p.target.num_rows} * p.target.vocab;
  return std::max(1u, sample_workers(p.num_seqs, logits, workers));
}

}  // namespace

uint64_t verify_workspace_bytes(const VerifyParams& p, uint32_t workers) {
  RowScratch unused;
  const bool drafts = p.draft_probs != nullptr;
  return verify_workers(p, workers) * lay_out(p.target, drafts, drafts, nullptr, &unused);
}

radix_status cpu_verify(const CpuKernels& kernels, const VerifyParams& p, Executor& executor) {
  if (p.num_seqs == 0) return RADIX_OK;
  Run run;
  run.kernels = &kernels;
  run.params = &p;
  executor.parallel_for(verify_workers(p, executor.workers()), run_sequences, &run);
  if (p.out_status != nullptr || !run.failure.any()) return RADIX_OK;
  return fail_row(p.target, "target", run.failure.row(), run.failure.status());
}

uint64_t CpuBackend::verify_workspace(const VerifyParams& p) const {
  return verify_workspace_bytes(p, executor_.workers());
}

radix_status CpuBackend::verify(const VerifyParams& p, radix_stream) {
  const radix_status st =
      check_sample_workspace(p.workspace, p.workspace_bytes, verify_workspace(p));
  return st == RADIX_OK ? cpu_verify(kernels_, p, executor_) : st;
}

}  // namespace radixattn
