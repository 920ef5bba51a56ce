// Sampling and verification on the CUDA backend through the public API: the CPU backend's tokens,
// bit for bit.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "device_fixture.h"

namespace radixattn::test {
namespace {

constexpr uint32_t kRows = 6, kVocab = 700, kTop = 4, kSeqs = 2, kMaxTokens = 4;

// Host arrays of a batch: every feature is used by some row.
struct Batch {
  std::vector<float> logits = std::vector<float>(size_t{kRows} * kVocab);
  std::vector<float> temperature = {1.f, 0.f, 0.7f, 1.f, 2.f, 1.f};
  std::vector<int32_t> top_k = {0, 0, 50, 7, 0, 0};
  std::vector<float> top_p = {0.f, 0.f, 0.9f, 0.f, 0.8f, 1.f};
  std::vector<float> min_p = {0.f, 0.f, 0.f, 0.01f, 0.f, 0.02f};
  std::vector<float> typical_p = {0.f, 0.f, 0.f, 0.f, 0.9f, 0.f};
  std::vector<float> repetition = {1.f, 1.2f, 0.f, 1.1f, 1.f, 2.f};
  std::vector<float> presence = {0.f, 0.f, 0.5f, 0.f, 0.f, 0.25f};
  std::vector<float> frequency = {0.f, 0.f, 0.f, 0.3f, 0.f, 0.1f};
  std::vector<int32_t> history;
  std::vector<int64_t> history_begin, output_begin;
  std::vector<int32_t> bias_tokens = {3, 4, 3};
  std::vector<float> bias_values = {1.f, -INFINITY, 0.5f};
  std::vector<int64_t> bias_begin = {0, 2, 2, 3, 3, 3, 3};
  std::vector<uint32_t> allowed = std::vector<uint32_t>(kRows * 22, 0xfffffffbu);
  std::vector<uint64_t> seeds = {1, 2, 3, 4, 5, 6}, positions = {9, 8, 7, 6, 5, 4};
  // Two trees of three nodes.
  std::vector<int32_t> node_begin = {0, 3, 6}, draft_tokens, parents = {0, 0, 1, 0, 0, 0};
  std::vector<float> draft = std::vector<float>(size_t{kRows} * kVocab, 1.f / kVocab);

  Batch() {
    for (uint32_t i = 0; i < kRows * kVocab; ++i) logits[i] = 6.f * api_test::value(1, i);
    for (uint32_t row = 0; row < kRows; ++row) {
      history_begin.push_back(row * 20);
      output_begin.push_back(row * 20 + 8);
      for (int32_t i = 0; i < 20; ++i) history.push_back((i * i + static_cast<int32_t>(row)) % 31);
      draft_tokens.push_back(static_cast<int32_t>(row) + 10);
      logits[row * kVocab + (row + 11) % 16] = 9.f;  // so that some of them stand
    }
    history_begin.push_back(kRows * 20);
  }
};

struct Sampled {
  std::vector<int32_t> tokens = std::vector<int32_t>(kRows, -5), status = tokens;
  std::vector<int32_t> top_tokens = std::vector<int32_t>(kRows * kTop, -5);
  std::vector<float> logprobs = std::vector<float>(kRows, 5.f);
  std::vector<float> top_logprobs = std::vector<float>(kRows * kTop, 5.f);
};
struct Verified {
  std::vector<int32_t> tokens = std::vector<int32_t>(kSeqs * kMaxTokens, -5), nodes = tokens;
  std::vector<int32_t> num_tokens = std::vector<int32_t>(kSeqs, -5), status = num_tokens;
  bool operator==(const Verified&) const = default;
};

class DeviceSample : public Device {
 protected:
  // The batch where the context lives. `place` copies an array there.
  template <class Place>
  static radix_sample sample_of(Batch& b, Place place) {
    radix_sample d = sized<radix_sample>();
    d.logits = tensor(place(b.logits), RADIX_F32, {kRows, kVocab});
    d.temperature = place(b.temperature);
    d.top_k = place(b.top_k);
    d.top_p = place(b.top_p);
    d.min_p = place(b.min_p);
    d.typical_p = place(b.typical_p);
    d.repetition_penalty = place(b.repetition);
    d.presence_penalty = place(b.presence);
    d.frequency_penalty = place(b.frequency);
    d.history = place(b.history);
    d.history_begin = place(b.history_begin);
    d.output_begin = place(b.output_begin);
    d.num_history = b.history.size();
    d.bias_tokens = place(b.bias_tokens);
    d.bias_values = place(b.bias_values);
    d.bias_begin = place(b.bias_begin);
    d.num_biases = b.bias_tokens.size();
    d.allowed = place(b.allowed);
    d.allowed_stride = 22;
    d.seeds = place(b.seeds);
    d.positions = place(b.positions);
    return d;
  }
  template <class Place>
  static void attach(radix_sample* d, Sampled& out, Place place) {
    d->num_top = kTop;
    d->out_tokens = place(out.tokens);
    d->out_status = place(out.status);
    d->out_logprobs = place(out.logprobs);
    d->out_top_tokens = place(out.top_tokens);
    d->out_top_logprobs = place(out.top_logprobs);
  }
  template <class Place>
  static radix_verify verify_of(Batch& b, bool probs, Verified& out, Place place) {
    radix_verify d = sized<radix_verify>();
    d.flags = probs ? RADIX_VERIFY_NO_REPLACEMENT : 0;
    d.num_seqs = kSeqs;
    d.max_tokens = kMaxTokens;
    d.node_begin = place(b.node_begin);
    d.draft_tokens = place(b.draft_tokens);
    d.parents = place(b.parents);
    if (probs) d.draft_probs = tensor(place(b.draft), RADIX_F32, {kRows, kVocab});
    d.out_tokens = place(out.tokens);
    d.out_num_tokens = place(out.num_tokens);
    d.out_nodes = place(out.nodes);
    d.out_status = place(out.status);
    return d;
  }
  auto here() {
    return [](auto& v) { return v.data(); };
  }
  auto there() {
    return [this](auto& v) { return up(v); };
  }
  // Exactly as large as the launch asks for, in larger memory whose rest must stay.
  void* workspace(uint64_t bytes) {
    const std::vector<uint8_t> fill(bytes + 64 + kBehind, 0x5c);
    auto* memory = up(fill);
    auto* at = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(memory) + 63) / 64 * 64);
    behind_ = at + bytes;
    return at;
  }
  void expect_nothing_behind() {
    for (const uint8_t byte : down(behind_, kBehind)) ASSERT_EQ(byte, 0x5c);
  }

  Sampled sampled_on_cpu(Batch& b) {
    Ctx cpu;
    Sampled out;
    radix_sample d = sample_of(b, here());
    attach(&d, out, here());
    EXPECT_OK(radix_sample_workspace(cpu, &d, &d.workspace_size));
    std::vector<uint8_t> memory(d.workspace_size + 64);
    d.workspace =
        reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
    EXPECT_OK(radix_sample_launch(cpu, &d, nullptr));
    return out;
  }
  Verified verified_on_cpu(Batch& b, bool probs) {
    Ctx cpu;
    Verified out;
    const radix_sample target = sample_of(b, here());
    radix_verify d = verify_of(b, probs, out, here());
    d.target = &target;
    EXPECT_OK(radix_verify_workspace(cpu, &d, &d.workspace_size));
    std::vector<uint8_t> memory(d.workspace_size + 64);
    d.workspace =
        reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
    EXPECT_OK(radix_verify_launch(cpu, &d, nullptr));
    return out;
  }
  Sampled fetch(const radix_sample& d) {
    Sampled got;
    got.tokens = down(d.out_tokens, kRows);
    got.status = down(d.out_status, kRows);
    got.top_tokens = down(d.out_top_tokens, kRows * kTop);
    got.logprobs = down(d.out_logprobs, kRows);
    got.top_logprobs = down(d.out_top_logprobs, kRows * kTop);
    return got;
  }

  static constexpr size_t kBehind = 256;
  uint8_t* behind_ = nullptr;
};

void expect_near(const std::vector<float>& got, const std::vector<float>& want) {
  for (size_t i = 0; i < want.size(); ++i)
    EXPECT_NEAR(got[i], want[i], 1e-6 * std::fabs(want[i])) << i;
}

TEST_F(DeviceSample, GivesWhatTheCpuGives) {
  Ctx ctx(cuda_config());
  Batch b;
  b.logits[5 * kVocab + 3] = NAN;
  const Sampled want = sampled_on_cpu(b);
  Sampled out;
  radix_sample d = sample_of(b, there());
  attach(&d, out, there());
  ASSERT_OK(radix_sample_workspace(ctx, &d, &d.workspace_size));
  d.workspace = workspace(d.workspace_size);
  ASSERT_OK(radix_sample_launch(ctx, &d, device::make_stream()));
  EXPECT_EQ(device::has_work(), device::kSimulated) << "nothing may wait";
  device::finish();
  const Sampled got = fetch(d);
  EXPECT_EQ(got.tokens, want.tokens);
  EXPECT_EQ(got.status, want.status);
  EXPECT_EQ(got.status[5], RADIX_ROW_NAN);
  EXPECT_EQ(got.top_tokens, want.top_tokens);
  EXPECT_TRUE(std::isnan(got.logprobs[5]));
  expect_near({got.logprobs.begin(), got.logprobs.end() - 1},
              {want.logprobs.begin(), want.logprobs.end() - 1});
  expect_nothing_behind();
}

TEST_F(DeviceSample, SeedsAndPositionsAreReadWhenAGraphRuns) {
  Ctx ctx(cuda_config());
  Batch b;
  void* stream = device::make_stream();
  Sampled out;
  radix_sample d = sample_of(b, there());
  attach(&d, out, there());
  ASSERT_OK(radix_sample_workspace(ctx, &d, &d.workspace_size));
  d.workspace = workspace(d.workspace_size);
  for (uint64_t step = 0; step < 3; ++step) {
    for (uint64_t& position : b.positions) position += 100;
    device::write(const_cast<uint64_t*>(d.positions), b.positions.data(), kRows * 8);
    ASSERT_OK(device::run_as_graph(stream, [&] { return radix_sample_launch(ctx, &d, stream); }));
    device::finish();
    EXPECT_EQ(fetch(d).tokens, sampled_on_cpu(b).tokens);
  }
}

TEST_F(DeviceSample, VerifiesWhatTheCpuVerifies) {
  for (const bool probs : {false, true}) {
    SCOPED_TRACE(probs);
    Ctx ctx(cuda_config());
    Batch b;
    const Verified want = verified_on_cpu(b, probs);
    void* stream = device::make_stream();
    Verified out;
    const radix_sample target = sample_of(b, there());
    radix_verify d = verify_of(b, probs, out, there());
    d.target = &target;
    ASSERT_OK(radix_verify_workspace(ctx, &d, &d.workspace_size));
    d.workspace = workspace(d.workspace_size);
    for (const bool graph : {false, true}) {
      const auto launch = [&] { return radix_verify_launch(ctx, &d, stream); };
      ASSERT_OK(graph ? device::run_as_graph(stream, launch) : launch());
      device::finish();
      const Verified got = {down(d.out_tokens, kSeqs * kMaxTokens),
                            down(d.out_nodes, kSeqs * kMaxTokens), down(d.out_num_tokens, kSeqs),
                            down(d.out_status, kSeqs)};
      EXPECT_EQ(got.tokens, want.tokens);
      EXPECT_EQ(got.nodes, want.nodes);
      EXPECT_EQ(got.num_tokens, want.num_tokens);
      EXPECT_EQ(got.status, want.status);
    }
    EXPECT_GT(want.num_tokens[0] + want.num_tokens[1], 2) << "a drafted token stands";
    expect_nothing_behind();
  }
}

TEST_F(DeviceSample, WorkspacesAndPlacesAreChecked) {
  Ctx ctx(cuda_config());
  Batch b;
  Sampled out;
  Verified verified;
  radix_sample d = sample_of(b, there());
  attach(&d, out, there());
  uint64_t bytes = 0;
  ASSERT_OK(radix_sample_workspace(ctx, &d, &bytes));
  auto* memory = static_cast<char*>(workspace(bytes));
  d.workspace = memory;
  d.workspace_size = bytes - 1;
  EXPECT_FAILS(RADIX_E_BUFFER, "d->workspace_size is", radix_sample_launch(ctx, &d, nullptr));
  d.workspace_size = bytes;
  d.workspace = memory + 32;
  EXPECT_FAILS(RADIX_E_INVALID, "multiple of 64", radix_sample_launch(ctx, &d, nullptr));
  d.workspace = memory;
  d.logits.device = RADIX_DEV_CPU;
  EXPECT_FAILS(RADIX_E_INVALID, "logits is on device", radix_sample_launch(ctx, &d, nullptr));
  d.logits.device = RADIX_DEV_CUDA;
  radix_verify v = verify_of(b, true, verified, there());
  v.target = &d;
  ASSERT_OK(radix_verify_workspace(ctx, &v, &bytes));
  v.workspace = workspace(bytes);
  v.workspace_size = bytes - 1;
  EXPECT_FAILS(RADIX_E_BUFFER, "d->workspace_size is", radix_verify_launch(ctx, &v, nullptr));
  v.workspace = nullptr;
  v.workspace_size = bytes;
  EXPECT_FAILS(RADIX_E_INVALID, "d->workspace is", radix_verify_launch(ctx, &v, nullptr));
  EXPECT_FALSE(device::has_work());
  // Without history and biases rows need none, nor do none.
  d.history = nullptr, d.num_history = 0, d.bias_tokens = nullptr, d.num_biases = 0;
  ASSERT_OK(radix_sample_workspace(ctx, &d, &bytes));
  EXPECT_EQ(bytes, 0u);
  d.logits.shape[0] = 0;
  EXPECT_OK(radix_sample_launch(ctx, &d, nullptr));
  EXPECT_FALSE(device::has_work());
}

}  // namespace
}  // namespace radixattn::test
