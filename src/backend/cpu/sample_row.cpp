#include "backend/cpu/sample_row.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "sample/weights.h"

namespace radixattn {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr uint64_t kAlign = 64;

uint64_t element_size(int32_t dtype) { return dtype == RADIX_F32 ? 4 : 2; }

template <class T>
T value_or(const T* array, uint32_t row, T otherwise) {
  return array != nullptr ? array[row] : otherwise;
}

bool is_share(float x) { return x >= 0.f && x <= 1.f; }

uint64_t rank_of(const TokenEntry& e) { return uint64_t{e.key} << 32 | e.id; }

// The score that has a key (rank_key is its own inverse but for the sign of zero).
float score_of_key(uint32_t key) {
  return std::bit_cast<float>((key & 0x80000000u) != 0 ? key : key ^ 0x7fffffffu);
}

}  // namespace

// ---- parameters

RowParameters row_parameters(const SampleParams& p, uint32_t row) {
  RowParameters r;
  r.temperature = value_or(p.temperature, row, 0.f);
  r.top_k = value_or(p.top_k, row, 0);
  r.top_p = value_or(p.top_p, row, 0.f);
  r.min_p = value_or(p.min_p, row, 0.f);
  r.typical_p = value_or(p.typical_p, row, 0.f);
  r.repetition = value_or(p.repetition_penalty, row, 0.f);
  r.presence = value_or(p.presence_penalty, row, 0.f);
  r.frequency = value_or(p.frequency_penalty, row, 0.f);
  r.seed = value_or(p.seeds, row, uint64_t{0});
  r.position = value_or(p.positions, row, uint64_t{0});
  if (p.history != nullptr && p.history_begin != nullptr) {
    const auto end = static_cast<int64_t>(p.num_history);
    r.history_begin = std::clamp<int64_t>(p.history_begin[row], 0, end);
    r.history_end = std::clamp(p.history_begin[row + 1], r.history_begin, end);
    r.output_begin =
        std::clamp(value_or(p.output_begin, row, r.history_end), r.history_begin, r.history_end);
  }
  if (p.bias_tokens != nullptr && p.bias_begin != nullptr) {
    const auto end = static_cast<int64_t>(p.num_biases);
    r.bias_begin = std::clamp<int64_t>(p.bias_begin[row], 0, end);
    r.bias_end = std::clamp(p.bias_begin[row + 1], r.bias_begin, end);
  }
  return r;
}

RowFault find_fault(const SampleParams& p, const RowParameters& r, uint32_t row) {
  const auto finite = [](float x) { return std::isfinite(x); };
  if (!(finite(r.temperature) && r.temperature >= 0.f))
    return {"temperature", row, r.temperature, "0 or more"};
  if (r.top_k < 0) return {"top_k", row, static_cast<double>(r.top_k), "0 or more"};
  if (!is_share(r.top_p)) return {"top_p", row, r.top_p, "0 (off) to 1"};
  if (!is_share(r.min_p)) return {"min_p", row, r.min_p, "0 (off) to 1"};
  if (!is_share(r.typical_p)) return {"typical_p", row, r.typical_p, "0 (off) to 1"};
  if (!(finite(r.repetition) && r.repetition >= 0.f))
    return {"repetition_penalty", row, r.repetition, "0 (off) or more"};
  if (!finite(r.presence)) return {"presence_penalty", row, r.presence, "a finite number"};
  if (!finite(r.frequency)) return {"frequency_penalty", row, r.frequency, "a finite number"};
  for (int64_t i = r.history_begin; i < r.history_end; ++i) {
    if (static_cast<uint32_t>(p.history[i]) >= p.vocab)
      return {"history", i, static_cast<double>(p.history[i]), "a token of the vocabulary"};
  }
  for (int64_t i = r.bias_begin; i < r.bias_end; ++i) {
    if (static_cast<uint32_t>(p.bias_tokens[i]) >= p.vocab)
      return {"bias_tokens", i, static_cast<double>(p.bias_tokens[i]), "a token of the vocabulary"};
    if (!(p.bias_values[i] < kInf))
      return {"bias_values", i, p.bias_values[i], "a finite number or -inf"};
  }
  return {};
}

// ---- selection

uint64_t select_prefix(const TokenEntry* entries, uint32_t n, uint64_t target, uint64_t* buckets) {
  // Few entries want few buckets.
  const int digit = std::clamp<int>(static_cast<int>(std::bit_width(n)), 4, kSelectBits);
  uint32_t low = UINT32_MAX, high = 0;
  for (uint32_t i = 0; i < n; ++i) {
    low = std::min(low, entries[i].key);
    high = std::max(high, entries[i].key);
  }
  // The key looked for is in [low, high]; `target` is what entries from `low` on must still reach.
  while (low < high) {
    const uint32_t span = high - low;
    const int shift = std::max(0, static_cast<int>(std::bit_width(span)) - digit);
    const uint32_t last = span >> shift;
    std::memset(buckets, 0, (last + 1) * sizeof *buckets);
    for (uint32_t i = 0; i < n; ++i) {
      const uint32_t above = entries[i].key - low;  // of a key below `low`: more than any span
      if (above <= span) buckets[above >> shift] += entries[i].weight;
    }
    uint32_t b = 0;
    for (; b <= last && buckets[b] < target; ++b) target -= buckets[b];
    if (b > last) return UINT64_MAX;
    high = static_cast<uint32_t>(std::min<uint64_t>(high, low + (uint64_t{b + 1} << shift) - 1));
    low += b << shift;
  }
  for (uint32_t i = 0; i < n; ++i) {
    if (entries[i].key != low) continue;
    if (entries[i].weight >= target) return rank_of(entries[i]);
    target -= entries[i].weight;
  }
  return UINT64_MAX;
}

// ---- memory

uint64_t lay_out(const SampleParams& p, bool lists, bool removes, char* base, RowScratch* out) {
  uint64_t at = 0;
  const auto take = [&]<class T>(T** array, uint64_t count) {
    if (base != nullptr) *array = reinterpret_cast<T*>(base + at);
    at += (count * sizeof(T) + kAlign - 1) / kAlign * kAlign;
  };
  const uint64_t vocab = p.vocab, groups = groups_of(p.vocab);
  const bool history = p.history != nullptr;
  const bool adjusts = history || p.bias_tokens != nullptr || p.allowed != nullptr;
  take(&out->raw_group_max, groups);
  take(&out->group_sums, groups);
  take(&out->order, groups);
  take(&out->buckets, kSelectBuckets);
  if (p.logits.dtype != RADIX_F32) take(&out->raw, vocab);
  if (adjusts) take(&out->scores, vocab);
  if (adjusts) take(&out->group_max, groups);
  if (history) take(&out->counts, vocab);
  take(&out->entries, lists || p.temperature != nullptr || p.num_top > 0 ? vocab : 1);
  if (removes) take(&out->removed, (vocab + 31) / 32);
  return at;
}

// ---- scores

int32_t RowSampler::open(uint32_t row) {
  row_ = row;
  r_ = row_parameters(p_, row);
  token_ = -1;
  if (find_fault(p_, r_, row).array != nullptr) return RADIX_ROW_PARAMETER;
  const auto bytes = static_cast<int64_t>(element_size(p_.logits.dtype));
  const char* logits =
      static_cast<const char*>(p_.logits.data) + int64_t{row} * p_.logits.row_stride * bytes;
  RowScan scan =
      kernels_.scan_row(logits, p_.logits.dtype, p_.vocab, scratch_.raw, scratch_.raw_group_max);
  if (scan.bad) return RADIX_ROW_NAN;
  raw_.data = scratch_.raw != nullptr ? scratch_.raw : reinterpret_cast<const float*>(logits);
  raw_.group_max = scratch_.raw_group_max;
  raw_.max = scan.max;
  scores_ = raw_;
  if (scratch_.scores != nullptr) {
    adjust();
    scan = kernels_.scan_row(scratch_.scores, RADIX_F32, p_.vocab, nullptr, scratch_.group_max);
    if (scan.bad) return RADIX_ROW_NAN;
    scores_ = {scratch_.scores, scratch_.group_max, scan.max};
  }
  if (scores_.max == -kInf) return RADIX_ROW_EMPTY;
  cut();
  return RADIX_ROW_OK;
}

void RowSampler::adjust() {
  float* x = scratch_.scores;
  std::memcpy(x, raw_.data, p_.vocab * sizeof(float));
  if (p_.allowed != nullptr) {
    const uint32_t* words = p_.allowed + int64_t{row_} * p_.allowed_stride;
    for (uint32_t at = 0; at < p_.vocab; at += 32) {
      const uint32_t word = words[at / 32];
      if (word == UINT32_MAX) continue;
      const uint32_t n = std::min<uint32_t>(32, p_.vocab - at);
      for (uint32_t i = 0; i < n; ++i) {
        if ((word >> i & 1) == 0) x[at + i] = -kInf;
      }
    }
  }
  add_biases();
  add_penalties();
}

void RowSampler::add_biases() {
  for (int64_t i = r_.bias_begin; i < r_.bias_end; ++i) {
    scratch_.scores[p_.bias_tokens[i]] += p_.bias_values[i];
  }
}

// Counts first, so that each token is penalised once; the highest bit says that it stands in the
// history at all.
void RowSampler::add_penalties() {
  const bool repeats = r_.repetition != 0.f && r_.repetition != 1.f;
  const bool counts_output = r_.presence != 0.f || r_.frequency != 0.f;
  if (!repeats && !counts_output) return;
  constexpr uint32_t kSeen = 0x80000000u;
  uint32_t* counts = scratch_.counts;
  for (int64_t i = r_.history_begin; i < r_.history_end; ++i) {
    const auto t = static_cast<uint32_t>(p_.history[i]);
    counts[t] = (counts[t] | kSeen) + (i >= r_.output_begin ? 1 : 0);
  }
  for (int64_t i = r_.history_begin; i < r_.history_end; ++i) {
    const auto t = static_cast<uint32_t>(p_.history[i]);
    if (counts[t] == 0) continue;
    const uint32_t n = counts[t] & ~kSeen;
    counts[t] = 0;
    float x = scratch_.scores[t];
    if (repeats) x = x > 0.f ? x / r_.repetition : x * r_.repetition;
    if (n > 0) {
      // Not fused (CMakeLists.txt says so): other backends round each operation, too.
      float penalty = static_cast<float>(n) * r_.frequency;
      penalty += r_.presence;
      x -= penalty;
    }
    scratch_.scores[t] = x;
  }
}

// ---- cuts

void RowSampler::cut() {
  listed_ = true;
  if (r_.temperature == 0.f) {
    scale_ = kInf;  // everything but the highest score weighs nothing
    uint32_t group = 0;
    while (scores_.group_max[group] != scores_.max) ++group;
    uint32_t id = group * kGroupTokens;
    while (scores_.data[id] != scores_.max) ++id;
    scratch_.entries[0] = {rank_key(scores_.max), id, kMaxWeight};
    size_ = 1;
    total_ = kMaxWeight;
    return;
  }
  scale_ = score_scale(r_.temperature);
  const bool top_k = r_.top_k > 0 && static_cast<uint32_t>(r_.top_k) < p_.vocab;
  const bool top_p = r_.top_p > 0.f && r_.top_p < 1.f;
  const bool typical = r_.typical_p > 0.f && r_.typical_p < 1.f;
  if (top_k || top_p || typical || r_.min_p > 0.f) {
    cut_list(top_k, top_p);
    if (typical) keep_typical();
    total_ = sum_list();
  } else {
    listed_ = false;
    total_ = kernels_.sum_weights(scores_.data, p_.vocab, scores_.max, scale_, scratch_.group_sums);
  }
}

// top_k, top_p, min_p: afterwards the list is what they leave.
void RowSampler::cut_list(bool top_k, bool top_p) {
  uint64_t least = r_.min_p > 0.f ? target_weight(r_.min_p, kMaxWeight) : 1;
  uint64_t total = 0;
  if (top_k) {
    const auto k = static_cast<uint32_t>(r_.top_k);
    list_from(scores_, bound_of_top(scores_, k));
    keep_prefix(k);
    weigh();
    total = sum_list();
  } else if (top_p) {
    total = kernels_.sum_weights(scores_.data, p_.vocab, scores_.max, scale_, scratch_.group_sums);
    const uint64_t target = target_weight(r_.top_p, total);
    // All tokens below this weight together have less than what top_p leaves out.
    const uint64_t sure = std::max(least, (total - target) / p_.vocab);
    const uint64_t likely = std::max(sure, guess_dispensable(total - target));
    list_heavy(likely);
    if (likely > sure && sum_list() < target) list_heavy(sure);
  } else {
    list_heavy(least);
  }
  if (top_p) keep_prefix(target_weight(r_.top_p, total));
  if (!top_k) return;  // the list has no lighter ones
  const auto light = [&](const TokenEntry& e) { return e.weight < least; };
  TokenEntry* e = scratch_.entries;
  size_ = static_cast<uint32_t>(std::remove_if(e, e + size_, light) - e);
}

void RowSampler::keep_typical() {
  TypicalSum sum;
  const auto steps = [&](const TokenEntry& e) {
    return steps_below(scores_.data[e.id], scores_.max, scale_);
  };
  TokenEntry* e = scratch_.entries;
  for (uint32_t i = 0; i < size_; ++i) typical_add(&sum, steps(e[i]), e[i].weight);
  const uint32_t mean = typical_mean(sum);
  for (uint32_t i = 0; i < size_; ++i) e[i].key = typical_key(steps(e[i]), mean);
  keep_prefix(target_weight(r_.typical_p, sum_list()));
}

// Tokens with at least this score, each counting 1.
void RowSampler::list_from(const RowScores& s, float bound) {
  uint32_t picked[kPickRoom];
  size_ = 0;
  for (uint32_t at = 0; at < p_.vocab; at += kGroupTokens) {
    if (s.group_max[at / kGroupTokens] < bound) continue;
    const uint32_t n =
        kernels_.pick_group(s.data + at, std::min(kGroupTokens, p_.vocab - at), bound, picked);
    for (uint32_t i = 0; i < n; ++i) {
      const uint32_t id = at + picked[i];
      scratch_.entries[size_++] = {rank_key(s.data[id]), id, 1};
    }
  }
}

// A power of 2 so that lighter tokens together have about half of `spare`, judging by one token of
// each group: most of a vocabulary need not be listed. A wrong guess costs a second list.
uint64_t RowSampler::guess_dispensable(uint64_t spare) const {
  const uint32_t groups = groups_of(p_.vocab);
  if (groups < 64) return 0;
  uint64_t light = 0, by_power[kWeightBits + 2] = {};
  for (uint32_t i = 0; i < groups; ++i) {
    const uint64_t w = weight_of(scores_.data[i * kGroupTokens], scores_.max, scale_);
    by_power[std::bit_width(w)] += w * kGroupTokens;
  }
  int power = 0;
  while (power <= kWeightBits && light + by_power[power] <= spare / 2) light += by_power[power++];
  return power > 0 ? uint64_t{1} << (power - 1) : 0;
}

// Tokens that weigh at least this much, which is not 0.
void RowSampler::list_heavy(uint64_t least) {
  constexpr uint32_t kMany = 8;  // from here on a whole group is weighed faster, by vectors
  const float bound = least_score(least);
  uint32_t picked[kPickRoom];
  uint64_t weights[kGroupTokens];
  size_ = 0;
  for (uint32_t at = 0; at < p_.vocab; at += kGroupTokens) {
    if (scores_.group_max[at / kGroupTokens] < bound) continue;
    const float* x = scores_.data + at;
    const uint32_t tokens = std::min(kGroupTokens, p_.vocab - at);
    const uint32_t n = kernels_.pick_group(x, tokens, bound, picked);
    if (n >= kMany) kernels_.weigh_group(x, tokens, scores_.max, scale_, weights);
    for (uint32_t i = 0; i < n; ++i) {
      const uint32_t t = picked[i];
      const uint64_t weight = n >= kMany ? weights[t] : weight_of(x[t], scores_.max, scale_);
      scratch_.entries[size_++] = {rank_key(x[t]), at + t, weight};
    }
  }
}

// Gives the list its weights; what has none can never be drawn and leaves.
void RowSampler::weigh() {
  uint32_t kept = 0;
  for (uint32_t i = 0; i < size_; ++i) {
    TokenEntry e = scratch_.entries[i];
    e.weight = weight_of(scores_.data[e.id], scores_.max, scale_);
    scratch_.entries[kept] = e;
    kept += e.weight != 0 ? 1 : 0;
  }
  size_ = kept;
}

void RowSampler::keep_prefix(uint64_t target) {
  TokenEntry* e = scratch_.entries;
  const uint64_t last = select_prefix(e, size_, target, scratch_.buckets);
  const auto behind = [&](const TokenEntry& entry) { return rank_of(entry) > last; };
  size_ = static_cast<uint32_t>(std::remove_if(e, e + size_, behind) - e);
}

uint64_t RowSampler::sum_list() const {
  uint64_t sum = 0;
  for (uint32_t i = 0; i < size_; ++i) sum += scratch_.entries[i].weight;
  return sum;
}

// A score that at least k tokens reach: the k-th highest of the groups' maxima.
float RowSampler::bound_of_top(const RowScores& s, uint32_t k) const {
  const uint32_t groups = groups_of(p_.vocab);
  if (k > groups) return -kInf;
  std::memcpy(scratch_.order, s.group_max, groups * sizeof(float));
  std::nth_element(scratch_.order, scratch_.order + k - 1, scratch_.order + groups,
                   [](float a, float b) { return a > b; });
  return scratch_.order[k - 1];
}

// The lowest score that weighs this much: weights never rise when scores fall.
float RowSampler::least_score(uint64_t weight) const {
  uint32_t low = rank_key(scores_.max), high = rank_key(-kInf);  // `high` weighs less
  while (high - low > 1) {
    const uint32_t middle = low + (high - low) / 2;
    const bool enough = weight_of(score_of_key(middle), scores_.max, scale_) >= weight;
    (enough ? low : high) = middle;
  }
  return score_of_key(low);
}

TokenEntry* RowSampler::list() {
  if (!listed_) {
    list_heavy(1);
    listed_ = true;
  }
  return scratch_.entries;
}

// ---- the draw

int32_t RowSampler::draw() {
  uint64_t at = draw_below(philox_bits(r_.seed, r_.position, kTokenStream), total_);
  if (listed_) {
    const TokenEntry* e = scratch_.entries;
    for (; at >= e->weight; ++e) at -= e->weight;
    token_ = static_cast<int32_t>(e->id);
    weight_ = e->weight;
    return token_;
  }
  uint32_t group = 0;
  for (; at >= scratch_.group_sums[group]; ++group) at -= scratch_.group_sums[group];
  uint32_t id = group * kGroupTokens;
  weight_ = weight_of(scores_.data[id], scores_.max, scale_);
  while (at >= weight_) {
    at -= weight_;
    weight_ = weight_of(scores_.data[++id], scores_.max, scale_);
  }
  token_ = static_cast<int32_t>(id);
  return token_;
}

// ---- reports

void RowSampler::report() {
  if (p_.out_logprobs == nullptr && p_.num_top == 0) return;
  if ((p_.flags & RADIX_SAMPLE_FINAL_LOGPROBS) != 0) {
    report_final();
  } else {
    report_raw();
  }
}

uint64_t RowSampler::raw_total() {
  const float scale = score_scale(1.f);
  if (!listed_ && raw_.data == scores_.data && scale_ == scale) return total_;
  return kernels_.sum_weights(raw_.data, p_.vocab, raw_.max, scale, scratch_.group_sums);
}

namespace {

void sort_by_rank(TokenEntry* entries, uint32_t n) {
  std::sort(entries, entries + n,
            [](const TokenEntry& a, const TokenEntry& b) { return rank_of(a) < rank_of(b); });
}

}  // namespace

// The model's own: softmax of the logits as they came.
void RowSampler::report_raw() {
  const uint64_t total = raw_total();
  const auto log_p = [&](uint32_t id) { return log_softmax(raw_.data[id], raw_.max, total); };
  if (p_.out_logprobs != nullptr) p_.out_logprobs[row_] = log_p(static_cast<uint32_t>(token_));
  if (p_.num_top == 0) return;
  list_from(raw_, bound_of_top(raw_, p_.num_top));
  keep_prefix(p_.num_top);
  sort_by_rank(scratch_.entries, size_);
  for (uint32_t i = 0; i < p_.num_top; ++i) {
    const uint64_t at = uint64_t{row_} * p_.num_top + i;
    p_.out_top_tokens[at] = static_cast<int32_t>(scratch_.entries[i].id);
    p_.out_top_logprobs[at] = log_p(scratch_.entries[i].id);
  }
}

// Of what the token was drawn from: it may be fewer tokens than are to be reported.
void RowSampler::report_final() {
  if (p_.out_logprobs != nullptr) p_.out_logprobs[row_] = log_share(weight_, total_);
  if (p_.num_top == 0) return;
  TokenEntry* e = scratch_.entries;
  if (listed_) {
    for (uint32_t i = 0; i < size_; ++i) e[i] = {rank_key(scores_.data[e[i].id]), e[i].id, 1};
  } else {
    list_from(scores_, bound_of_top(scores_, p_.num_top));
  }
  keep_prefix(p_.num_top);
  weigh();
  sort_by_rank(e, size_);
  for (uint32_t i = 0; i < p_.num_top; ++i) {
    const uint64_t at = uint64_t{row_} * p_.num_top + i;
    const bool kept = i < size_;
    p_.out_top_tokens[at] = kept ? static_cast<int32_t>(e[i].id) : -1;
    p_.out_top_logprobs[at] = kept ? log_share(e[i].weight, total_) : -kInf;
  }
}

}  // namespace radixattn
