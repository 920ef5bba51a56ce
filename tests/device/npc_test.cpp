// The example's engine on the simulated device: answers and logits are those of the CPU, whatever
// the device does late. A buffer that the host reads or refills too early shows here.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <random>

#include "checkpoint_writer.h"
#include "device_memory.h"
#include "engine.h"
#include "error.h"
#include "plain_model.h"
#include "simulated_device.h"

int npc_main(int argc, char** argv);  // main.cpp

namespace npc::test {
namespace {

namespace device = radixattn::test::device;
using nlohmann::json;

constexpr uint32_t kVocab = 61;

class NpcDevice : public testing::Test {
 protected:
  void SetUp() override { device::reset(); }
  void TearDown() override { device::reset(); }
};

// A small model of random weights.
struct RandomModel {
  RandomModel(const char* architecture, const char* more)
      : config(small_config(architecture, json::parse(more))), weights(random_weights(config, 3)) {}
  Model load() const {
    const TempDir dir;
    write_checkpoint(dir.path(), config, weights);
    return Model::load(dir.path());
  }

  json config;
  Tensors weights;
};
Model load_llama() { return RandomModel("LlamaForCausalLM", "{}").load(); }

std::vector<int32_t> tokens(std::mt19937* random, size_t n) {
  std::vector<int32_t> t(n);
  for (int32_t& v : t) v = static_cast<int32_t>((*random)() % kVocab);
  return t;
}

// Three that begin alike, one of its own, and the first again: whole blocks, so that its last one
// is copied on write.
std::vector<std::vector<int32_t>> make_prompts() {
  std::mt19937 random(5);
  const std::vector<int32_t> world = tokens(&random, 48);
  std::vector<std::vector<int32_t>> prompts = {world, world, world, tokens(&random, 37)};
  for (int i = 1; i < 3; ++i) {
    const std::vector<int32_t> tail = tokens(&random, 5 + 6 * static_cast<size_t>(i));
    prompts[static_cast<size_t>(i)].insert(prompts[static_cast<size_t>(i)].end(), tail.begin(),
                                           tail.end());
  }
  return prompts;
}

struct Outcome {
  std::vector<Generation> generations;
  uint64_t cow_copies = 0;
};

Outcome generate(Model* model, const EngineOptions& options) {
  Engine engine(model, options);
  const int64_t allocations = device::counters.allocations;
  std::vector<uint32_t> ids;
  const std::vector<std::vector<int32_t>> prompts = make_prompts();
  for (const auto& prompt : prompts) ids.push_back(engine.submit(prompt, 5));
  while (engine.step()) {
  }
  ids.push_back(engine.submit(prompts[0], 5));
  while (engine.step()) engine.check_cache();
  EXPECT_EQ(device::counters.allocations, allocations) << "a step allocates nothing";
  Outcome outcome;
  for (const uint32_t id : ids) outcome.generations.push_back(engine.generation(id));
  outcome.cow_copies = engine.stats().cow_copies;
  return outcome;
}

// The CPU's run is the same code: what is wrong in both is seen here.
void expect_plain_logits(const RandomModel& model, const Generation& g, float tolerance) {
  std::vector<int32_t> all = g.prompt;
  all.insert(all.end(), g.output.begin(), g.output.end());
  const auto want = plain_forward(model.config, model.weights, all);
  for (size_t i = 0; i < g.logits.size(); ++i)
    ASSERT_NEAR(g.logits[i], want[g.prompt.size() - 1 + i / kVocab][i % kVocab], tolerance);
}

struct Case {
  const char* name;
  const char* architecture;
  const char* more;
  int32_t kv_dtype;
  bool cache;
  float tolerance;  // of logits that are around 10
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

class NpcDeviceEngine : public NpcDevice, public testing::WithParamInterface<Case> {};

TEST_P(NpcDeviceEngine, GivesTheTokensAndLogitsOfTheCpu) {
  const Case& c = GetParam();
  const RandomModel random(c.architecture, c.more);
  Model model = random.load();
  EngineOptions options;
  options.kv_dtype = c.kv_dtype;
  options.cache = c.cache;
  options.num_blocks = 64;
  options.step_tokens = 40;  // prompts in chunks, beside sequences that decode
  const Outcome cpu = generate(&model, options);
  options.device = RADIX_DEV_CUDA;
  const Outcome cuda = generate(&model, options);

  uint64_t cached = 0;
  for (size_t i = 0; i < cpu.generations.size(); ++i) {
    const Generation &a = cpu.generations[i], &b = cuda.generations[i];
    EXPECT_EQ(a.output, b.output) << "prompt " << i;
    ASSERT_EQ(a.logits.size(), b.logits.size());
    ASSERT_EQ(a.logits.size(), a.output.size() * kVocab);
    for (size_t j = 0; j < a.logits.size(); ++j)
      ASSERT_NEAR(a.logits[j], b.logits[j], c.tolerance) << "prompt " << i << " logit " << j;
    expect_plain_logits(random, b, c.tolerance);
    EXPECT_EQ(a.cached_tokens, b.cached_tokens);
    cached += b.cached_tokens;
  }
  EXPECT_EQ(cached > 0, c.cache);
  EXPECT_EQ(cuda.cow_copies > 0, c.cache);
  EXPECT_GT(device::counters.launches, 0);
  EXPECT_GT(device::counters.copies, 0);
  EXPECT_EQ(device::counters.pageable_copies, 0) << "every copy's host side is pinned";
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, NpcDeviceEngine,
    testing::Values(Case{"Shared", "LlamaForCausalLM", "{}", RADIX_F32, true, 1e-3f},
                    Case{"Unshared", "LlamaForCausalLM", "{}", RADIX_F32, false, 1e-3f},
                    Case{"SharedHalf", "LlamaForCausalLM", "{}", RADIX_F16, true, 3e-2f},
                    Case{"UnsharedHalf", "LlamaForCausalLM", "{}", RADIX_F16, false, 3e-2f},
                    Case{"Window", "MistralForCausalLM", R"({"sliding_window":9})", RADIX_F16, true,
                         3e-2f},
                    Case{"HeadNorms", "Qwen3ForCausalLM", "{}", RADIX_F32, true, 1e-3f}),
    [](const auto& test) { return std::string(test.param.name); });

// Draws, penalties, drafts and forks on the device: what is chosen is what the CPU chooses.
TEST_F(NpcDevice, ChoosesTheTokensOfTheCpu) {
  Model model = load_llama();
  EngineOptions options;
  options.kv_dtype = RADIX_F32;
  options.num_blocks = 64;
  options.draft_tokens = 3;
  std::vector<Generation> of[2];
  for (const int32_t kind : {RADIX_DEV_CPU, RADIX_DEV_CUDA}) {
    options.device = kind;
    Engine engine(&model, options);
    SamplingParams params;
    params.temperature = 0.9f;
    params.top_p = 0.95f;
    params.repetition_penalty = 1.1f;
    params.logit_bias = {{5, -1.f}};
    params.seed = 3;
    const std::vector<std::vector<int32_t>> prompts = make_prompts();
    const uint32_t first = engine.submit(prompts[0], 12, params, 3);
    engine.submit(std::vector<int32_t>(30, 9), 12);  // greedy, repetitive
    while (engine.step()) engine.check_cache();
    for (uint32_t id = first; id < first + 4; ++id)
      of[kind == RADIX_DEV_CUDA].push_back(engine.generation(id));
  }
  uint64_t drafted = 0;
  for (size_t i = 0; i < of[0].size(); ++i) {
    EXPECT_EQ(of[0][i].output, of[1][i].output) << "generation " << i;
    EXPECT_EQ(of[0][i].accepted_drafts, of[1][i].accepted_drafts);
    drafted += of[0][i].drafted_tokens;
  }
  EXPECT_GT(drafted, 0u);
}

TEST_F(NpcDevice, SearchesTheBeamsOfTheCpu) {
  Model model = load_llama();
  EngineOptions options;
  options.kv_dtype = RADIX_F32;
  options.num_blocks = 64;
  Engine cpu(&model, options);
  options.device = RADIX_DEV_CUDA;
  Engine cuda(&model, options);
  const std::vector<int32_t> prompt = make_prompts()[3];
  const auto a = cpu.beam_search(prompt, {3, 5, 1}), b = cuda.beam_search(prompt, {3, 5, 1});
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].output, b[i].output);
    EXPECT_NEAR(a[i].logprob, b[i].logprob, 1e-3);
  }
}

// ---- failures -----------------------------------------------------------------------------------

TEST_F(NpcDevice, WithoutADeviceTheMessageSaysSo) {
  for (const int32_t error :
       {int32_t{cudaErrorNoDevice}, int32_t{cudaErrorInsufficientDriver}, int32_t{cudaSuccess}}) {
    device::settings.count_error = error;
    device::settings.num_devices = 0;
    try {
      open_device(RADIX_DEV_CUDA);
      FAIL() << "opened a device that is not there";
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find("no device cuda"), std::string::npos) << e.what();
    }
  }
}

TEST_F(NpcDevice, AFailedAllocationLeavesNothingBehind) {
  Model model = load_llama();
  EngineOptions options;
  options.device = RADIX_DEV_CUDA;
  int64_t failed = 0;
  for (bool fails = true; fails; failed += fails) {
    device::reset();  // fails the test when memory is still allocated
    device::settings.failing_malloc = failed;
    try {
      const Engine engine(&model, options);
      fails = false;
    } catch (const Error& e) {
      EXPECT_FALSE(std::string(e.what()).empty());
    }
  }
  EXPECT_GE(failed, 10);  // the pool, seven arrays here and there, a workspace
}

TEST_F(NpcDevice, AnEngineMayGoInTheMiddleOfItsWork) {
  Model model = load_llama();
  EngineOptions options;
  options.device = RADIX_DEV_CUDA;
  Engine engine(&model, options);
  engine.submit(std::vector<int32_t>(20, 1), 4);
  engine.submit({static_cast<int32_t>(kVocab)}, 4);  // outside the vocabulary
  EXPECT_THROW(engine.step(), Error);
  device::settings.failing_launch = cudaErrorIllegalAddress;
  Engine second(&model, options);
  second.submit(std::vector<int32_t>(20, 1), 4);
  EXPECT_THROW(second.step(), Error);  // its uploads are still on their way
  EXPECT_TRUE(device::has_work());
}

// ---- the command --------------------------------------------------------------------------------

class NpcCommand : public NpcDevice {
 protected:
  // One village of a few words, in the trained model's language.
  void SetUp() override {
    NpcDevice::SetUp();
    std::ifstream in(std::string(NPC_ASSETS) + "/data/demo.json");
    json world = json::parse(in);
    std::string lore = world.at("lore").get<std::string>();
    world["lore"] = lore.substr(0, lore.find(" . ", 150) + 2);
    json characters = json::array();
    for (size_t i = 0; i < 2; ++i) {
      json character = world.at("characters").at(i);
      character["questions"].erase(character["questions"].begin() + 1,
                                   character["questions"].end());
      characters.push_back(character);
    }
    world["characters"] = characters;
    write_text(data_, world.dump());
  }

  int run(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"npc_demo", "--data", data_, "--json", json_});
    std::vector<char*> argv;
    for (std::string& a : arguments) argv.push_back(a.data());
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    const int code = npc_main(static_cast<int>(argv.size()), argv.data());
    out_ = testing::internal::GetCapturedStdout();
    err_ = testing::internal::GetCapturedStderr();
    return code;
  }
  json summary() const {
    std::ifstream in(json_);
    return json::parse(in);
  }

  const TempDir dir_;
  const std::string data_ = (dir_.path() / "world.json").string();
  const std::string json_ = (dir_.path() / "summary.json").string();
  std::string out_, err_;
};

TEST_F(NpcCommand, ComparesTheDevices) {
  EXPECT_EQ(run({"--compare-devices"}), 0) << out_ << err_;
  EXPECT_NE(out_.find("device: simulated device"), std::string::npos) << out_;
  EXPECT_NE(out_.find("answers: 2 of 2 equal"), std::string::npos) << out_;
  const json d = summary();
  EXPECT_EQ(d.at("device"), "cuda");
  EXPECT_EQ(d.at("answers"), 2);
  EXPECT_EQ(d.at("equal_answers"), 2);
  EXPECT_GT(d.at("logit_rows"), 10);
  EXPECT_LT(d.at("max_logit_diff"), 0.1);
}

TEST_F(NpcCommand, WithoutADeviceItEndsWithOne) {
  device::settings.num_devices = 0;
  using Arguments = std::vector<std::string>;
  for (const Arguments& arguments : {Arguments{"--compare-devices"}, {"--device", "cuda"}}) {
    EXPECT_EQ(run(arguments), 1);
    EXPECT_NE(err_.find("no device cuda: this machine has none"), std::string::npos) << err_;
  }
}

}  // namespace
}  // namespace npc::test
