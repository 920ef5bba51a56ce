#include "sampler.h"

#include <algorithm>
#include <string>

#include "error.h"

namespace npc {

namespace {

template <class T>
T* room(DeviceMemory* device, std::unique_ptr<DeviceArray<T>>* array, size_t n,
        HostSide host = HostSide::twin) {
  n = std::max<size_t>(n, 1);
  if (*array == nullptr || (*array)->capacity() < n) {
    array->reset();
    *array = std::make_unique<DeviceArray<T>>(device, n + n / 2, host);
  }
  return (*array)->device();
}

void check_rows(const int32_t* status, size_t n) {
  static const char* const kReasons[] = {"", "a logit is no number", "no token is left to choose",
                                         "a sampling parameter is out of its range"};
  for (size_t i = 0; i < n; ++i) {
    if (status[i] != RADIX_ROW_OK)
      throw Error("row " + std::to_string(i) + " cannot be sampled: " + kReasons[status[i] & 3]);
  }
}

}  // namespace

Sampler::Sampler(Cache* cache, DeviceMemory* device, uint32_t vocab, uint32_t max_rows)
    : cache_(cache), device_(device), vocab_(vocab), logits_(device, size_t{max_rows} * vocab) {
  reserve(max_rows);
}

// What every step may need is there before the first one.
void Sampler::reserve(uint32_t max_rows) {
  for (Growing<float>* g :
       {&temperature_, &top_p_, &min_p_, &typical_p_, &repetition_, &presence_, &frequency_})
    room(device_, &g->array, max_rows);
  for (Growing<int32_t>* g : {&top_k_, &draft_tokens_, &out_tokens_, &out_num_, &out_status_})
    room(device_, &g->array, max_rows);
  room(device_, &node_begin_.array, max_rows + size_t{1});
  room(device_, &seeds_.array, max_rows);
  room(device_, &positions_.array, max_rows);
  const SamplingParams greedy;
  const radix_sample target = describe(std::vector<SampleRow>(max_rows, SampleRow{&greedy, {}, 0}));
  radix_verify d = {};
  d.struct_size = sizeof d;
  d.num_seqs = d.max_tokens = max_rows;
  d.target = &target;
  add_workspace(&d, radix_verify_workspace, "radix_verify_workspace");
}

// ---- what the launches get

template <class T>
const T* Sampler::send(Growing<T>* to, const std::vector<T>& values) {
  room(device_, &to->array, values.size());
  to->array->upload(values);
  return to->array->device();
}

// NULL when the parameter is off in every row.
template <class Get>
const float* Sampler::send_if(Growing<float>* to, const std::vector<SampleRow>& rows, Get get) {
  std::vector<float> values;
  for (const SampleRow& r : rows) values.push_back(get(*r.params));
  const bool off = std::all_of(values.begin(), values.end(), [](float v) { return v == 0; });
  return off ? nullptr : send(to, values);
}

void Sampler::add_params(const std::vector<SampleRow>& rows, radix_sample* d) {
  using P = const SamplingParams&;
  d->temperature = send_if(&temperature_, rows, [](P p) { return p.temperature; });
  d->top_p = send_if(&top_p_, rows, [](P p) { return p.top_p; });
  d->min_p = send_if(&min_p_, rows, [](P p) { return p.min_p; });
  d->typical_p = send_if(&typical_p_, rows, [](P p) { return p.typical_p; });
  d->repetition_penalty = send_if(&repetition_, rows, [](P p) { return p.repetition_penalty; });
  d->presence_penalty = send_if(&presence_, rows, [](P p) { return p.presence_penalty; });
  d->frequency_penalty = send_if(&frequency_, rows, [](P p) { return p.frequency_penalty; });
  std::vector<int32_t> top_k;
  std::vector<uint64_t> seeds, positions;
  for (const SampleRow& r : rows) {
    top_k.push_back(r.params->top_k);
    seeds.push_back(r.params->seed);
    positions.push_back(r.context.size());
  }
  d->top_k = send(&top_k_, top_k);
  d->seeds = send(&seeds_, seeds);
  d->positions = send(&positions_, positions);
}

void Sampler::add_history(const std::vector<SampleRow>& rows, radix_sample* d) {
  std::vector<int32_t> history;
  std::vector<int64_t> begin = {0}, output_begin;
  for (const SampleRow& r : rows) {
    const auto first = static_cast<int64_t>(history.size());
    output_begin.push_back(first);
    if (r.params->has_penalty()) {
      history.insert(history.end(), r.context.begin(), r.context.end());
      output_begin.back() += static_cast<int64_t>(r.prompt_len);
    }
    begin.push_back(static_cast<int64_t>(history.size()));
  }
  if (history.empty()) return;
  d->num_history = history.size();
  d->history = send(&history_, history);
  d->history_begin = send(&history_begin_, begin);
  d->output_begin = send(&output_begin_, output_begin);
}

void Sampler::add_bias(const std::vector<SampleRow>& rows, radix_sample* d) {
  std::vector<int32_t> tokens;
  std::vector<float> values;
  std::vector<int64_t> begin = {0};
  for (const SampleRow& r : rows) {
    for (const auto& [token, value] : r.params->logit_bias) {
      tokens.push_back(token);
      values.push_back(value);
    }
    begin.push_back(static_cast<int64_t>(tokens.size()));
  }
  if (tokens.empty()) return;
  d->num_biases = tokens.size();
  d->bias_tokens = send(&bias_tokens_, tokens);
  d->bias_values = send(&bias_values_, values);
  d->bias_begin = send(&bias_begin_, begin);
}

radix_sample Sampler::describe(const std::vector<SampleRow>& rows) {
  logits_.upload(rows.size() * size_t{vocab_});
  radix_sample d = {};
  d.struct_size = sizeof d;
  d.logits.data = logits_.device();
  d.logits.dtype = RADIX_F32;
  d.logits.ndim = 2;
  d.logits.shape[0] = static_cast<int64_t>(rows.size());
  d.logits.shape[1] = vocab_;
  add_params(rows, &d);
  add_history(rows, &d);
  add_bias(rows, &d);
  return d;
}

template <class D, class Workspace>
void Sampler::add_workspace(D* d, Workspace workspace_bytes, const char* name) {
  uint64_t bytes = 0;
  check(workspace_bytes(cache_->ctx(), d, &bytes), name);
  d->workspace = room(device_, &workspace_.array, bytes, HostSide::none);
  d->workspace_size = workspace_.array->capacity();
}

// ---- the launches

std::vector<int32_t> Sampler::sample(const std::vector<SampleRow>& rows) {
  const size_t n = rows.size();
  if (n == 0) return {};
  radix_sample d = describe(rows);
  d.out_tokens = room(device_, &out_tokens_.array, n);
  d.out_status = room(device_, &out_status_.array, n);
  add_workspace(&d, radix_sample_workspace, "radix_sample_workspace");
  check(radix_sample_launch(cache_->ctx(), &d, device_->stream()), "radix_sample_launch");
  out_tokens_.array->download(n);
  out_status_.array->download(n);
  device_->wait();
  check_rows(out_status_.array->host(), n);
  const int32_t* tokens = out_tokens_.array->host();
  return {tokens, tokens + n};
}

std::vector<Candidates> Sampler::likeliest(const std::vector<SampleRow>& rows, uint32_t n) {
  const size_t num_rows = rows.size();
  radix_sample d = describe(rows);
  d.num_top = std::min(n, vocab_);
  d.out_tokens = room(device_, &out_tokens_.array, num_rows);
  d.out_status = room(device_, &out_status_.array, num_rows);
  d.out_top_tokens = room(device_, &out_top_.array, num_rows * d.num_top);
  d.out_top_logprobs = room(device_, &out_logprobs_.array, num_rows * d.num_top);
  add_workspace(&d, radix_sample_workspace, "radix_sample_workspace");
  check(radix_sample_launch(cache_->ctx(), &d, device_->stream()), "radix_sample_launch");
  out_status_.array->download(num_rows);
  out_top_.array->download(num_rows * d.num_top);
  out_logprobs_.array->download(num_rows * d.num_top);
  device_->wait();
  check_rows(out_status_.array->host(), num_rows);
  std::vector<Candidates> all;
  for (size_t i = 0; i < num_rows; ++i) {
    const int32_t* tokens = out_top_.array->host() + i * d.num_top;
    const float* logprobs = out_logprobs_.array->host() + i * d.num_top;
    all.push_back({{tokens, tokens + d.num_top}, {logprobs, logprobs + d.num_top}});
  }
  return all;
}

std::vector<std::vector<int32_t>> Sampler::verify(const std::vector<SampleRow>& rows,
                                                  const std::vector<std::vector<int32_t>>& drafts) {
  std::vector<int32_t> node_begin = {0}, draft_tokens;
  size_t longest = 0;
  for (const std::vector<int32_t>& draft : drafts) {
    draft_tokens.push_back(-1);  // the root
    draft_tokens.insert(draft_tokens.end(), draft.begin(), draft.end());
    node_begin.push_back(static_cast<int32_t>(draft_tokens.size()));
    longest = std::max(longest, draft.size());
  }
  if (draft_tokens.size() != rows.size()) throw Error("drafts and rows of logits do not fit");
  const radix_sample target = describe(rows);
  const size_t n = drafts.size(), width = longest + 1;
  radix_verify d = {};
  d.struct_size = sizeof d;
  d.num_seqs = static_cast<uint32_t>(n);
  d.max_tokens = static_cast<uint32_t>(width);
  d.target = &target;
  d.node_begin = send(&node_begin_, node_begin);
  d.draft_tokens = send(&draft_tokens_, draft_tokens);
  d.out_tokens = room(device_, &out_tokens_.array, n * width);
  d.out_num_tokens = room(device_, &out_num_.array, n);
  d.out_status = room(device_, &out_status_.array, n);
  add_workspace(&d, radix_verify_workspace, "radix_verify_workspace");
  check(radix_verify_launch(cache_->ctx(), &d, device_->stream()), "radix_verify_launch");
  out_tokens_.array->download(n * width);
  out_num_.array->download(n);
  out_status_.array->download(n);
  device_->wait();
  check_rows(out_status_.array->host(), n);
  std::vector<std::vector<int32_t>> all;
  for (size_t i = 0; i < n; ++i) {
    const int32_t* tokens = out_tokens_.array->host() + i * width;
    all.emplace_back(tokens, tokens + out_num_.array->host()[i]);
  }
  return all;
}

}  // namespace npc
