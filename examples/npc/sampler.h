// Choosing tokens: each row of logits with the parameters of its sequence, in one launch; drafted
// tokens against the rows that follow them, in another.
//
// A token depends on its row, its parameters, its seed and its position alone: not on the batch,
// the device, the cache, or whether it was drafted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "cache.h"
#include "device_memory.h"

namespace npc {

// As radix_sample: 0 is off, and without a temperature the likeliest token is taken.
struct SamplingParams {
  float temperature = 0;
  int32_t top_k = 0;
  float top_p = 0;
  float min_p = 0;
  float typical_p = 0;
  float repetition_penalty = 0;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  uint64_t seed = 0;
  std::vector<std::pair<int32_t, float>> logit_bias;

  bool has_penalty() const {
    return repetition_penalty != 0 || presence_penalty != 0 || frequency_penalty != 0;
  }
};

// A row of logits: what follows `context`, the prompt and the output so far.
struct SampleRow {
  const SamplingParams* params = nullptr;
  std::span<const int32_t> context;
  size_t prompt_len = 0;
};

// What one row may be followed by, likeliest first.
struct Candidates {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
};

class Sampler {
 public:
  // Everything outlives it.
  Sampler(Cache* cache, DeviceMemory* device, uint32_t vocab, uint32_t max_rows);

  float* logits() { return logits_.host(); }  // [max_rows, vocab] rows of the next call

  std::vector<int32_t> sample(const std::vector<SampleRow>& rows);
  static constexpr uint32_t kMaxCandidates = 128;
  // The `n` likeliest tokens of each row, at most kMaxCandidates.
  std::vector<Candidates> likeliest(const std::vector<SampleRow>& rows, uint32_t n);
  // Sequences one after the other: sequence i has 1 + drafts[i].size() rows, after its last token
  // and after each drafted one. Returns the drafted tokens that stand and the one that follows
  // them.
  std::vector<std::vector<int32_t>> verify(const std::vector<SampleRow>& rows,
                                           const std::vector<std::vector<int32_t>>& drafts);

 private:
  // Made for max_rows; arrays of history and biases when they are first needed, larger when they
  // must be.
  template <class T>
  struct Growing {
    std::unique_ptr<DeviceArray<T>> array;
  };
  void reserve(uint32_t max_rows);
  template <class T>
  const T* send(Growing<T>* to, const std::vector<T>& values);
  radix_sample describe(const std::vector<SampleRow>& rows);
  void add_params(const std::vector<SampleRow>& rows, radix_sample* d);
  void add_history(const std::vector<SampleRow>& rows, radix_sample* d);
  void add_bias(const std::vector<SampleRow>& rows, radix_sample* d);
  template <class D, class Workspace>
  void add_workspace(D* d, Workspace workspace_bytes, const char* name);
  template <class Get>
  const float* send_if(Growing<float>* to, const std::vector<SampleRow>& rows, Get get);

  Cache* cache_;
  DeviceMemory* device_;
  uint32_t vocab_;
  DeviceArray<float> logits_;
  Growing<float> temperature_, top_p_, min_p_, typical_p_, repetition_, presence_, frequency_;
  Growing<int32_t> top_k_, history_, bias_tokens_, node_begin_, draft_tokens_;
  Growing<float> bias_values_;
  Growing<int64_t> history_begin_, output_begin_, bias_begin_;
  Growing<uint64_t> seeds_, positions_;
  Growing<int32_t> out_tokens_, out_num_, out_top_, out_status_;
  Growing<float> out_logprobs_;
  Growing<std::byte> workspace_;
};

}  // namespace npc
