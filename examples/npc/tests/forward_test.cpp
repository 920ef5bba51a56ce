// The forward pass against a plain double-precision model, and against PyTorch's logits for the
// trained model.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "checkpoint_writer.h"
#include "engine.h"
#include "error.h"
#include "files.h"
#include "plain_model.h"

namespace npc::test {
namespace {

using nlohmann::json;

struct Architecture {
  const char* name;
  const char* architecture;
  const char* more;  // keys of config.json beside the small ones
};

class Forward : public testing::TestWithParam<Architecture> {};

// Prefill in chunks of several sizes and decode: every step's logits equal the plain model's at
// that position.
TEST_P(Forward, EqualsThePlainModel) {
  const json config = small_config(GetParam().architecture, json::parse(GetParam().more));
  const Tensors weights = random_weights(config, 7);
  const TempDir dir;
  write_checkpoint(dir.path(), config, weights);
  Model model = Model::load(dir.path());
  std::mt19937 random(11);
  std::vector<int32_t> prompt(45);
  for (int32_t& t : prompt) t = static_cast<int32_t>(random() % 61);
  for (const uint32_t chunk : {512u, 16u, 7u}) {
    EngineOptions options;
    options.kv_dtype = RADIX_F32;
    options.step_tokens = chunk;
    options.block_size = chunk == 7 ? 5 : 16;
    Engine engine(&model, options);
    const Generation& g = engine.generation(engine.submit(prompt, 6));
    while (engine.step()) {
    }
    std::vector<int32_t> tokens = prompt;
    tokens.insert(tokens.end(), g.output.begin(), g.output.end());
    const auto want = plain_forward(config, weights, tokens);
    ASSERT_EQ(g.logits.size(), g.output.size() * 61);
    double largest = 0;
    for (size_t i = 0; i < g.logits.size(); ++i) {
      const double w = want[prompt.size() - 1 + i / 61][i % 61];
      ASSERT_NEAR(g.logits[i], w, 2e-3) << "chunk " << chunk << " token " << i / 61;
      largest = std::max(largest, std::fabs(w));
    }
    EXPECT_GT(largest, 1.0);  // logits worth comparing
  }
}

INSTANTIATE_TEST_SUITE_P(
    Architectures, Forward,
    testing::Values(Architecture{"Llama", "LlamaForCausalLM", "{}"},
                    Architecture{"LlamaTied", "LlamaForCausalLM",
                                 R"({"tie_word_embeddings":true})"},
                    Architecture{"Llama3Rope", "LlamaForCausalLM",
                                 R"({"rope_scaling":{"rope_type":"llama3","factor":8.0,
                         "low_freq_factor":1.0,"high_freq_factor":4.0,
                         "original_max_position_embeddings":64}})"},
                    Architecture{"LinearRopeOldKey", "LlamaForCausalLM",
                                 R"({"rope_scaling":{"type":"linear","factor":2.0}})"},
                    Architecture{"Mistral", "MistralForCausalLM", R"({"sliding_window":9})"},
                    Architecture{"Qwen2", "Qwen2ForCausalLM", "{}"},
                    Architecture{"Qwen3", "Qwen3ForCausalLM", "{}"},
                    Architecture{"Qwen3Yarn", "Qwen3ForCausalLM",
                                 R"({"rope_scaling":{"rope_type":"yarn","factor":4.0,
                         "original_max_position_embeddings":128}})"}),
    [](const auto& test) { return test.param.name; });

TEST(Forward, AMissingTensorIsNamed) {
  const json config = small_config("LlamaForCausalLM");
  Tensors weights = random_weights(config, 7);
  weights.erase("model.layers.1.mlp.up_proj.weight");
  const TempDir dir;
  write_checkpoint(dir.path(), config, weights);
  try {
    Model::load(dir.path());
    FAIL() << "loaded";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("model.layers.1.mlp.up_proj.weight"), std::string::npos)
        << e.what();
  }
}

TEST(TrainedModel, EqualsPyTorch) {
  const std::filesystem::path assets = NPC_ASSETS;
  const std::filesystem::path logits = assets / "data/reference_logits.json";
  ASSERT_TRUE(std::filesystem::exists(logits)) << logits << " belongs to the tree";
  const json reference = parse_json_file(logits);
  Model model = Model::load(assets / "model");
  for (const char* name : {"short", "demo"}) {
    const json& entry = reference.at(name);
    EngineOptions options;
    options.kv_dtype = RADIX_F32;
    Engine engine(&model, options);
    const auto want = entry.at("logits").get<std::vector<float>>();
    const auto continuation = entry.at("continuation").get<std::vector<int32_t>>();
    const Generation& g = engine.generation(engine.submit(entry.at("token_ids"), 16));
    while (engine.step()) {
    }
    ASSERT_EQ(want.size(), model.config().vocab_size);
    for (size_t i = 0; i < want.size(); ++i)
      ASSERT_NEAR(g.logits[i], want[i], 5e-3) << name << " logit " << i;
    ASSERT_LE(g.output.size(), continuation.size());  // ours stops at <eos>
    EXPECT_TRUE(std::equal(g.output.begin(), g.output.end(), continuation.begin())) << name;
  }
}

}  // namespace
}  // namespace npc::test
