// One row of logits: its scores, the cuts, the draw. What radix_sample means, for a worker of the
// CPU backend; the numbers are those of sample/weights.h.
//
// Nothing is sorted. Until a typical_p, what stays is a prefix of the order by (rank_key, id), so
// each cut is a search for the last token of a prefix: over a histogram of the keys' leading
// digits, then of the next ones (select_prefix). Tokens that no cut can leave are not even listed:
// groups whose maximum is below a bound are skipped.
// Thread rule: one object a worker; it writes to its scratch and to the outputs of its rows.
#pragma once

#include "backend/cpu/kernels.h"
#include "backend/cpu/sample_kernels.h"

namespace radixattn {

// What is asked of one row, NULL arrays and ranges resolved.
struct RowParameters {
  float temperature = 0.f;
  int32_t top_k = 0;
  float top_p = 0.f, min_p = 0.f, typical_p = 0.f;
  float repetition = 0.f, presence = 0.f, frequency = 0.f;
  int64_t history_begin = 0, output_begin = 0, history_end = 0;
  int64_t bias_begin = 0, bias_end = 0;
  uint64_t seed = 0, position = 0;
};
RowParameters row_parameters(const SampleParams& p, uint32_t row);

// The first thing of a row that is out of its range.
struct RowFault {
  const char* array = nullptr;  // null: none
  int64_t index = 0;
  double value = 0.;
  const char* expected = "";
};
RowFault find_fault(const SampleParams& p, const RowParameters& r, uint32_t row);

// A token on its way through the cuts; lists are in the order of ids.
struct TokenEntry {
  uint32_t key;
  uint32_t id;
  uint64_t weight;
};

// The last entry, as key << 32 | id, of the shortest prefix in the order of (key, id) whose weights
// reach `target` (1 or more); all ones when not even all of them do. buckets: kSelectBuckets.
constexpr uint32_t kSelectBits = 11, kSelectBuckets = 1u << kSelectBits;
uint64_t select_prefix(const TokenEntry* entries, uint32_t n, uint64_t target, uint64_t* buckets);

// A worker's memory, in the order of its sizes' dependence on features.
struct RowScratch {
  float* raw = nullptr;        // [vocab] logits as f32, unless they are
  float* scores = nullptr;     // [vocab] after bias, penalties, mask; null: no row has any
  uint32_t* counts = nullptr;  // [vocab] of history, all 0 between rows; null: no history
  float* raw_group_max = nullptr;
  float* group_max = nullptr;
  float* order = nullptr;          // [groups] for a selection among maxima
  uint64_t* group_sums = nullptr;  // [groups]
  uint64_t* buckets = nullptr;     // [kSelectBuckets]
  TokenEntry* entries = nullptr;   // [vocab]
  uint32_t* removed = nullptr;     // [vocab bits] tokens that a draft lost (verification)
};
// Lays the scratch out from `base`, 64-byte aligned, and returns its bytes. base may be null.
uint64_t lay_out(const SampleParams& p, bool lists, bool removes, char* base, RowScratch* out);

// Scores of a row, with their maxima.
struct RowScores {
  const float* data = nullptr;
  const float* group_max = nullptr;
  float max = 0.f;
};

class RowSampler {
 public:
  RowSampler(const CpuKernels& kernels, const SampleParams& p, const RowScratch& scratch)
      : kernels_(kernels), p_(p), scratch_(scratch) {}

  // Makes the row's scores and cuts them: RADIX_ROW_*. What follows needs RADIX_ROW_OK.
  int32_t open(uint32_t row);
  int32_t draw();
  // Log-probability of the token that was drawn, and the likeliest ones; ends the row's cuts.
  void report();

  // All that may be drawn, as a list; weights may be changed until the next open().
  TokenEntry* list();
  uint32_t list_size() const { return size_; }
  void set_total(uint64_t total) { total_ = total; }
  uint64_t total() const { return total_; }
  const RowParameters& parameters() const { return r_; }

 private:
  void adjust();
  void add_biases();
  void add_penalties();
  void cut();
  void cut_list(bool top_k, bool top_p);
  void keep_typical();
  void list_from(const RowScores& s, float bound);
  void list_heavy(uint64_t least);
  uint64_t guess_dispensable(uint64_t spare) const;
  void weigh();
  void keep_prefix(uint64_t target);
  uint64_t sum_list() const;
  float bound_of_top(const RowScores& s, uint32_t k) const;
  float least_score(uint64_t weight) const;
  void report_raw();
  void report_final();
  uint64_t raw_total();

  const CpuKernels& kernels_;
  const SampleParams& p_;
  RowScratch scratch_;
  uint32_t row_ = 0;
  RowParameters r_;
  RowScores raw_, scores_;
  float scale_ = 0.f;    // weights of scores_
  bool listed_ = false;  // what stays is in entries [0, size_), else it is every token
  uint32_t size_ = 0;
  uint64_t total_ = 0;  // of what stays
  int32_t token_ = -1;  // what was drawn
  uint64_t weight_ = 0;
};

}  // namespace radixattn
