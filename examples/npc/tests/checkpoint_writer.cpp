#include "checkpoint_writer.h"

#include <unistd.h>

#include <atomic>
#include <bit>
#include <fstream>
#include <random>

namespace npc::test {

namespace fs = std::filesystem;
using nlohmann::json;

TempDir::TempDir() {
  static std::atomic<int> counter{0};
  path_ = fs::temp_directory_path() /
          ("npc_test_" + std::to_string(getpid()) + "_" + std::to_string(counter++));
  fs::create_directories(path_);
}
TempDir::~TempDir() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

void write_text(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

void write_raw(const fs::path& path, const std::string& header, const std::string& data) {
  std::string text;
  for (int i = 0; i < 8; ++i) text += static_cast<char>(header.size() >> (8 * i) & 0xff);
  write_text(path, text + header + data);
}

namespace {

// Values that tests store in 2 bytes are exact in bf16 and f16 (few mantissa bits), so truncation
// is exact.
std::string encode(const std::vector<float>& values, const std::string& dtype) {
  std::string bytes;
  for (const float v : values) {
    const auto bits = std::bit_cast<uint32_t>(v);
    uint32_t out = bits;
    int n = 4;
    if (dtype == "BF16") {
      out = bits >> 16;
      n = 2;
    } else if (dtype == "F16") {  // normal numbers and zero only
      const uint32_t exponent = bits >> 23 & 0xff;
      out = (bits >> 16 & 0x8000) |
            (exponent == 0 ? 0 : (exponent - 112) << 10 | (bits >> 13 & 0x3ff));
      n = 2;
    }
    for (int i = 0; i < n; ++i) bytes += static_cast<char>(out >> (8 * i) & 0xff);
  }
  return bytes;
}

}  // namespace

void write_safetensors(const fs::path& path, const Tensors& tensors, const std::string& dtype) {
  json header = {{"__metadata__", {{"format", "pt"}}}};
  std::string data;
  for (const auto& [name, t] : tensors) {
    const size_t begin = data.size();
    data += encode(t.values, dtype);
    header[name] = {{"dtype", dtype}, {"shape", t.shape}, {"data_offsets", {begin, data.size()}}};
  }
  write_raw(path, header.dump(), data);
}

void write_sharded(const fs::path& dir, const Tensors& tensors) {
  Tensors shards[2];
  json map = json::object();
  size_t i = 0;
  for (const auto& [name, t] : tensors) {
    const size_t shard = i++ % 2;
    shards[shard][name] = t;
    map[name] = "model-0000" + std::to_string(shard + 1) + "-of-00002.safetensors";
  }
  write_safetensors(dir / "model-00001-of-00002.safetensors", shards[0]);
  write_safetensors(dir / "model-00002-of-00002.safetensors", shards[1]);
  write_text(dir / "model.safetensors.index.json",
             json{{"metadata", json::object()}, {"weight_map", map}}.dump());
}

json small_config(const std::string& architecture, const json& more) {
  json config = {{"architectures", {architecture}},
                 {"vocab_size", 61},
                 {"hidden_size", 48},
                 {"intermediate_size", 80},
                 {"num_hidden_layers", 2},
                 {"num_attention_heads", 4},
                 {"num_key_value_heads", 2},
                 {"head_dim", 32},
                 {"max_position_embeddings", 512},
                 {"rms_norm_eps", 1e-5},
                 {"rope_theta", 1000.0},
                 {"hidden_act", "silu"},
                 {"tie_word_embeddings", false}};
  config.update(more);
  return config;
}

Tensors random_weights(const json& config, unsigned seed) {
  std::mt19937 random(seed);
  Tensors tensors;
  const auto add = [&](const std::string& name, std::vector<int64_t> shape, float mean,
                       float spread) {
    std::normal_distribution<float> normal(mean, spread);
    int64_t n = 1;
    for (const int64_t d : shape) n *= d;
    Tensor& t = tensors[name];
    t.shape = std::move(shape);
    for (int64_t i = 0; i < n; ++i) t.values.push_back(normal(random));
  };
  const std::string architecture = config["architectures"][0];
  const int64_t hidden = config["hidden_size"], inner = config["intermediate_size"],
                vocab = config["vocab_size"];
  const int64_t head = config["head_dim"], q = head * config["num_attention_heads"].get<int64_t>(),
                kv = head * config["num_key_value_heads"].get<int64_t>();
  add("model.embed_tokens.weight", {vocab, hidden}, 0.f, 1.f);
  for (int64_t i = 0; i < config["num_hidden_layers"]; ++i) {
    const std::string p = "model.layers." + std::to_string(i) + ".", a = p + "self_attn.",
                      m = p + "mlp.";
    add(p + "input_layernorm.weight", {hidden}, 1.f, 0.2f);
    add(p + "post_attention_layernorm.weight", {hidden}, 1.f, 0.2f);
    const std::pair<const char*, int64_t> projections[] = {
        {"q_proj", q}, {"k_proj", kv}, {"v_proj", kv}};
    for (const auto& [name, rows] : projections) {
      add(a + name + ".weight", {rows, hidden}, 0.f, 0.3f);
      if (architecture == "Qwen2ForCausalLM") add(a + name + ".bias", {rows}, 0.f, 0.5f);
    }
    if (architecture == "Qwen3ForCausalLM") {
      add(a + "q_norm.weight", {head}, 1.f, 0.3f);
      add(a + "k_norm.weight", {head}, 1.f, 0.3f);
    }
    add(a + "o_proj.weight", {hidden, q}, 0.f, 0.2f);
    add(m + "gate_proj.weight", {inner, hidden}, 0.f, 0.2f);
    add(m + "up_proj.weight", {inner, hidden}, 0.f, 0.2f);
    add(m + "down_proj.weight", {hidden, inner}, 0.f, 0.2f);
  }
  add("model.norm.weight", {hidden}, 1.f, 0.2f);
  if (!config["tie_word_embeddings"].get<bool>()) add("lm_head.weight", {vocab, hidden}, 0.f, 0.5f);
  return tensors;
}

void write_checkpoint(const fs::path& dir, const json& config, const Tensors& tensors) {
  write_text(dir / "config.json", config.dump());
  write_safetensors(dir / "model.safetensors", tensors);
}

}  // namespace npc::test
