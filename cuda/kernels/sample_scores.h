// A row's parameters, and its scores where biases and penalties make them differ from the logits.
//
//   x = -inf unless allowed;  x += each bias, in order;  once for a token of the history:
//   x = x > 0 ? x / r : x * r;  x -= n * frequency + presence
//
// Scores are copied to the workspace, then only touched tokens change. Tokens stand in the lists
// any number of times: a slot of the workspace settles which thread has a token (biases: one round
// for each repetition within 512 entries), or counts it (history).
#pragma once

#include "cuda/kernels/sample_row.h"

namespace radixattn::cuda::sampling {

struct Range {
  int64_t begin, end;  // begin <= end
};
// [begin, end) as far as it lies in [low, high].
RADIX_DEVICE Range cut_range(int64_t begin, int64_t end, int64_t low, int64_t high) {
  const int64_t b = begin < low ? low : begin > high ? high : begin;
  return {b, end < b ? b : end > high ? high : end};
}
RADIX_DEVICE Range history_of(const SampleParams& p, uint32_t row) {
  if (p.history == nullptr || p.history_begin == nullptr) return {0, 0};
  return cut_range(p.history_begin[row], p.history_begin[row + 1], 0,
                   static_cast<int64_t>(p.num_history));
}
RADIX_DEVICE Range biases_of(const SampleParams& p, uint32_t row) {
  if (p.bias_tokens == nullptr || p.bias_begin == nullptr) return {0, 0};
  return cut_range(p.bias_begin[row], p.bias_begin[row + 1], 0, static_cast<int64_t>(p.num_biases));
}

// ---- parameters ---------------------------------------------------------------------------------

template <class T>
RADIX_DEVICE T value_of(const T* array, uint32_t row) {
  return array == nullptr ? T(0) : array[row];
}
RADIX_DEVICE bool finite_from(float x, float least) { return x >= least && x < INFINITY; }
RADIX_DEVICE bool is_share(float x) { return x >= 0.f && x <= 1.f; }

// The row's parameters to the scratch, behind the caller's next barrier. False: something is out of
// its range. Shares and factors that are 0 become 1 where that, too, is no cut.
RADIX_DEVICE bool check_params(Scratch& s, const SampleParams& p, uint32_t row) {
  RowParams r;
  const int32_t top_k = value_of(p.top_k, row);
  r.top_k = static_cast<uint32_t>(top_k);
  r.temperature = value_of(p.temperature, row);
  r.top_p = value_of(p.top_p, row);
  r.min_p = value_of(p.min_p, row);
  r.typical_p = value_of(p.typical_p, row);
  r.repetition = value_of(p.repetition_penalty, row);
  r.presence = value_of(p.presence_penalty, row);
  r.frequency = value_of(p.frequency_penalty, row);
  const bool good = top_k >= 0 && finite_from(r.temperature, 0.f) && is_share(r.top_p) &&
                    is_share(r.min_p) && is_share(r.typical_p) && finite_from(r.repetition, 0.f) &&
                    finite_from(fabsf(r.presence), 0.f) && finite_from(fabsf(r.frequency), 0.f);
  if (r.top_p == 0.f) r.top_p = 1.f;
  if (r.typical_p == 0.f) r.typical_p = 1.f;
  if (r.repetition == 0.f) r.repetition = 1.f;
  if (threadIdx.x == 0) s.params = r;
  return good;
}

// Whether this thread's part of the row's history and biases is as it must be.
RADIX_DEVICE bool check_lists(const SampleParams& p, uint32_t row) {
  bool good = true;
  const Range history = history_of(p, row), biases = biases_of(p, row);
  for (int64_t i = history.begin + threadIdx.x; i < history.end; i += kThreads)
    good = good && static_cast<uint32_t>(p.history[i]) < p.vocab;
  for (int64_t i = biases.begin + threadIdx.x; i < biases.end; i += kThreads)
    good = good && static_cast<uint32_t>(p.bias_tokens[i]) < p.vocab && p.bias_values[i] < INFINITY;
  return good;
}

// ---- scores -------------------------------------------------------------------------------------

constexpr uint32_t kFree = 0xffffffffu;

RADIX_DEVICE void add_biases(const SampleParams& p, uint32_t row, float* scores, uint32_t* slots) {
  const Range biases = biases_of(p, row);
  for (int64_t i = biases.begin + threadIdx.x; i < biases.end; i += kThreads)
    atomicExch(&slots[p.bias_tokens[i]], kFree);
  __syncthreads();  // slots, and the copy of the scores
  for (int64_t first = biases.begin; first < biases.end; first += kThreads) {
    const int64_t i = first + threadIdx.x;
    bool pending = i < biases.end;
    const int32_t token = pending ? p.bias_tokens[i] : 0;
    while (__syncthreads_or(pending ? 1 : 0) != 0) {
      if (pending) atomicMin(&slots[token], threadIdx.x);
      __syncthreads();
      const bool mine = pending && slots[token] == threadIdx.x;
      __syncthreads();
      if (!mine) continue;
      scores[token] = add_rn(scores[token], p.bias_values[i]);
      slots[token] = kFree;
      pending = false;
    }
  }
}

RADIX_DEVICE float penalised(float x, uint32_t times, const RowParams& r) {
  if (r.repetition != 1.f) x = x > 0.f ? x / r.repetition : mul_rn(x, r.repetition);
  if (times == 0) return x;
  const float penalty = add_rn(mul_rn(static_cast<float>(times), r.frequency), r.presence);
  return add_rn(x, -penalty);
}

RADIX_DEVICE void add_penalties(const SampleParams& p, const RowParams& r, uint32_t row,
                                float* scores, uint32_t* slots) {
  const Range history = history_of(p, row);
  const int64_t output =
      p.output_begin == nullptr
          ? history.end
          : cut_range(p.output_begin[row], history.end, history.begin, history.end).begin;
  if (r.repetition == 1.f && r.presence == 0.f && r.frequency == 0.f) return;
  for (int64_t i = history.begin + threadIdx.x; i < history.end; i += kThreads)
    atomicExch(&slots[p.history[i]], 0u);
  __syncthreads();
  for (int64_t i = output + threadIdx.x; i < history.end; i += kThreads)
    atomicAdd(&slots[p.history[i]], 1u);
  __syncthreads();
  for (int64_t i = history.begin + threadIdx.x; i < history.end; i += kThreads) {
    const int32_t token = p.history[i];
    const uint32_t times = atomicExch(&slots[token], kFree);
    if (times != kFree) scores[token] = penalised(scores[token], times, r);
  }
}

// The row's scores, in the workspace. Logits are checked by the caller.
template <class T>
RADIX_DEVICE void make_scores(Scratch& s, const SampleParams& p, uint32_t row, const Row<T>& logits,
                              float* scores, uint32_t* slots) {
  logits.each(s, [&](uint32_t id, float x) { scores[id] = x; });
  add_biases(p, row, scores, slots);
  __syncthreads();  // scores and slots of the last round
  add_penalties(p, s.params, row, scores, slots);
  __syncthreads();
}

}  // namespace radixattn::cuda::sampling
