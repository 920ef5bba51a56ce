// Files with random damage: a reader accepts what is still valid or throws Error, nothing else.
#include <gtest/gtest.h>

#include <random>

#include "checkpoint_writer.h"
#include "error.h"
#include "files.h"
#include "model_config.h"
#include "safetensors.h"
#include "tokenizer.h"

namespace npc::test {
namespace {

std::string damage(std::string text, std::mt19937* random) {
  for (auto edits = 1 + (*random)() % 4; edits > 0 && !text.empty(); --edits) {
    const size_t at = (*random)() % text.size();
    switch ((*random)() % 4) {
      case 0:
        text[at] = static_cast<char>((*random)());
        break;
      case 1:
        text.erase(at, 1 + (*random)() % 5);
        break;
      case 2:
        text.insert(at, text.substr((*random)() % text.size(), (*random)() % 9));
        break;
      default:
        text.resize(at);
        break;
    }
  }
  return text;
}

// Damages `file` of a good directory again and again; counts what was refused and what was not.
template <class Load>
void expect_error_or_success(const std::filesystem::path& file, Load load) {
  const std::string good = read_file(file);
  ASSERT_NO_THROW(load());
  int refused = 0, accepted = 0;
  std::mt19937 random(17);
  for (int i = 0; i < 1500; ++i) {
    write_text(file, damage(good, &random));
    try {
      load();
      ++accepted;
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 500);
  EXPECT_EQ(refused + accepted, 1500);
}

TEST(Damage, Safetensors) {
  const TempDir dir;
  write_safetensors(dir.path() / "model.safetensors",
                    {{"a", {{2, 3}, {1, 2, 3, 4, 5, 6}}}, {"b", {{1}, {7}}}}, "BF16");
  expect_error_or_success(dir.path() / "model.safetensors", [&] {
    const Checkpoint c = Checkpoint::open(dir.path());
    for (const auto& [name, view] : c.tensors()) {
      if (view.dtype != DType::Other) c.floats(name, view.shape);
    }
  });
}

TEST(Damage, Config) {
  const TempDir dir;
  const std::filesystem::path file = dir.path() / "config.json";
  write_text(file, small_config("Qwen2ForCausalLM",
                                {{"use_sliding_window", true},
                                 {"sliding_window", 9},
                                 {"layer_types", {"sliding_attention", "full_attention"}},
                                 {"eos_token_id", {1, 2}},
                                 {"rope_scaling", {{"type", "yarn"}, {"factor", 2.0}}}})
                       .dump());
  expect_error_or_success(file, [&] { load_model_config(file); });
}

TEST(Damage, Tokenizer) {
  const TempDir dir;
  const std::filesystem::path file = dir.path() / "tokenizer.json";
  write_text(file, R"({"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false},
    "added_tokens":[{"id":5,"content":"<e>"}],
    "post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<e>"}}]},
    "model":{"type":"BPE","vocab":{"a":0,"b":1,"c":2,"ab":3,"abc":4},
             "merges":["a b",["ab","c"]]}})");
  expect_error_or_success(file, [&] { load_tokenizer(file)->encode("abcab<e>a"); });
}

}  // namespace
}  // namespace npc::test
