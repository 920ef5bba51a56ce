#include <gtest/gtest.h>

#include "checkpoint_writer.h"
#include "error.h"
#include "model_config.h"
#include "radixattn.h"

namespace npc::test {
namespace {

using nlohmann::json;

ModelConfig load(const json& config) {
  const TempDir dir;
  write_text(dir.path() / "config.json", config.dump());
  return load_model_config(dir.path() / "config.json");
}

TEST(ModelConfig, FillsWhatTransformersLeavesOut) {
  json config = small_config("LlamaForCausalLM");
  config["hidden_size"] = 256;
  for (const char* key :
       {"head_dim", "num_key_value_heads", "rms_norm_eps", "rope_theta", "tie_word_embeddings"}) {
    config.erase(key);
  }
  config["rope_scaling"] = nullptr;
  const ModelConfig c = load(config);
  EXPECT_EQ(c.head_dim, 64u);
  EXPECT_EQ(c.num_kv_heads, 4u);
  EXPECT_EQ(c.rms_norm_eps, 1e-6f);
  EXPECT_EQ(c.rope.theta, 10000.f);
  EXPECT_EQ(c.rope.scaling, RADIX_ROPE_SCALE_NONE);
  EXPECT_FALSE(c.tied_head || c.qkv_bias || c.qk_norm);
}

TEST(ModelConfig, ReadsOldAndNewRopeKeys) {
  const json yarn = {{"factor", 4.0}, {"original_max_position_embeddings", 128}};
  for (const char* type_key : {"rope_type", "type"}) {
    for (const char* where : {"rope_scaling", "rope_parameters"}) {
      json scaling = yarn;
      scaling[type_key] = "yarn";
      scaling["rope_theta"] = 5000.0;
      const ModelConfig c = load(small_config("Qwen3ForCausalLM", {{where, scaling}}));
      EXPECT_EQ(c.rope.scaling, RADIX_ROPE_SCALE_YARN);
      EXPECT_EQ(c.rope.factor, 4.f);
      EXPECT_EQ(c.rope.theta, 5000.f);
      EXPECT_EQ(c.rope.original_max_position, 128u);
    }
  }
}

TEST(ModelConfig, SlidingWindowsFollowTheArchitecture) {
  using Windows = std::vector<uint32_t>;
  EXPECT_EQ(load(small_config("MistralForCausalLM", {{"sliding_window", 9}})).windows,
            Windows({9, 9}));
  EXPECT_EQ(load(small_config("MistralForCausalLM", {{"sliding_window", nullptr}})).windows,
            Windows({0, 0}));
  EXPECT_EQ(load(small_config("LlamaForCausalLM", {{"sliding_window", 9}})).windows,
            Windows({0, 0}));
  json qwen = small_config("Qwen2ForCausalLM", {{"sliding_window", 9}, {"max_window_layers", 1}});
  EXPECT_EQ(load(qwen).windows, Windows({0, 0}));
  qwen["use_sliding_window"] = true;
  EXPECT_EQ(load(qwen).windows, Windows({0, 9}));
  qwen["layer_types"] = {"sliding_attention", "full_attention"};
  EXPECT_EQ(load(qwen).windows, Windows({9, 0}));
}

TEST(ModelConfig, ReadsOneOrSeveralEndTokens) {
  EXPECT_EQ(load(small_config("LlamaForCausalLM", {{"eos_token_id", 2}})).eos,
            std::vector<int32_t>({2}));
  EXPECT_EQ(load(small_config("LlamaForCausalLM", {{"eos_token_id", {2, 3}}})).eos,
            std::vector<int32_t>({2, 3}));
}

TEST(ModelConfig, RefusesWhatItCannotCompute) {
  EXPECT_NO_THROW(load(small_config("LlamaForCausalLM")));
  EXPECT_THROW(load(small_config("GPT2LMHeadModel")), Error);
  EXPECT_THROW(load(json::array()), Error);
  for (const json& more :
       std::vector<json>{{{"hidden_act", "gelu"}},
                         {{"hidden_size", 0}},
                         {{"hidden_size", -4}},
                         {{"hidden_size", "48"}},
                         {{"hidden_size", 4e9}},
                         {{"num_key_value_heads", 3}},
                         {{"head_dim", 31}},
                         {{"head_dim", 264}},
                         {{"rms_norm_eps", -1.0}},
                         {{"eos_token_id", 61}},
                         {{"eos_token_id", -1}},
                         {{"architectures", json::array()}},
                         {{"tie_word_embeddings", 1}},
                         {{"rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}}}},
                         {{"rope_scaling", 3}},
                         {{"num_hidden_layers", 5000}}}) {
    EXPECT_THROW(load(small_config("LlamaForCausalLM", more)), Error) << more.dump();
  }
}

}  // namespace
}  // namespace npc::test
