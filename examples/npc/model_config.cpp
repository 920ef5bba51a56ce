#include "model_config.h"

#include <nlohmann/json.hpp>

#include "error.h"
#include "files.h"

namespace npc {

using nlohmann::json;

namespace {

// Typed access to one JSON object; null counts as absent, as transformers writes it.
class Fields {
 public:
  Fields(std::string where, const json& object) : where_(std::move(where)), object_(object) {
    if (!object.is_object()) fail("is not an object");
  }

  [[noreturn]] void fail(const std::string& what) const { throw Error(where_ + " " + what); }

  const json* find(const char* key) const {
    const auto it = object_.find(key);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }

  uint32_t size(const char* key) const {
    const json* v = find(key);
    if (v == nullptr) fail(std::string("has no ") + key);
    return checked_size(key, *v);
  }
  uint32_t size(const char* key, uint32_t fallback) const {
    const json* v = find(key);
    return v == nullptr ? fallback : checked_size(key, *v);
  }
  float number(const char* key, float fallback) const {
    const json* v = find(key);
    if (v == nullptr) return fallback;
    if (!v->is_number()) fail(std::string(key) + " is not a number");
    const double x = v->get<double>();
    if (!(x > 0) || x > 1e30)
      fail(std::string(key) + " is " + v->dump() + ": expected a positive number");
    return static_cast<float>(x);
  }
  bool flag(const char* key, bool fallback) const {
    const json* v = find(key);
    if (v == nullptr) return fallback;
    if (!v->is_boolean()) fail(std::string(key) + " is not true or false");
    return v->get<bool>();
  }
  std::string text(const char* key, const std::string& fallback) const {
    const json* v = find(key);
    if (v == nullptr) return fallback;
    if (!v->is_string()) fail(std::string(key) + " is not a string");
    return v->get<std::string>();
  }

 private:
  uint32_t checked_size(const char* key, const json& v) const {
    constexpr uint64_t kMax = 1u << 24;
    if (!v.is_number_unsigned() || v.get<uint64_t>() < 1 || v.get<uint64_t>() > kMax) {
      fail(std::string(key) + " is " + v.dump() + ": expected 1..16777216");
    }
    return v.get<uint32_t>();
  }

  std::string where_;
  const json& object_;
};

// rope_scaling (older files) or rope_parameters (newer ones); its type under "rope_type" or, older,
// "type".
void read_rope(const Fields& f, const std::string& where, ModelConfig* c) {
  RopeConfig& rope = c->rope;
  rope.theta = f.number("rope_theta", 10000.f);
  const json* scaling = f.find("rope_scaling");
  if (scaling == nullptr) scaling = f.find("rope_parameters");
  if (scaling == nullptr) return;
  const Fields s(where + ": rope_scaling", *scaling);
  rope.theta = s.number("rope_theta", rope.theta);
  const std::string type = s.text("rope_type", s.text("type", "default"));
  if (type == "default") return;
  rope.factor = s.number("factor", 1.f);
  rope.original_max_position = s.size("original_max_position_embeddings", c->max_positions);
  if (type == "linear") {
    rope.scaling = RADIX_ROPE_SCALE_LINEAR;
  } else if (type == "llama3") {
    rope.scaling = RADIX_ROPE_SCALE_LLAMA3;
    rope.low_freq_factor = s.number("low_freq_factor", 1.f);
    rope.high_freq_factor = s.number("high_freq_factor", 4.f);
  } else if (type == "yarn") {
    rope.scaling = RADIX_ROPE_SCALE_YARN;
    rope.beta_fast = s.number("beta_fast", 32.f);
    rope.beta_slow = s.number("beta_slow", 1.f);
    rope.attention_factor = s.number("attention_factor", 0.f);
    if (s.find("mscale") != nullptr || s.find("mscale_all_dim") != nullptr)
      s.fail("has mscale: not computed here");
  } else {
    s.fail("type is \"" + type + "\": expected default, linear, llama3 or yarn");
  }
}

void read_architecture(const Fields& f, ModelConfig* c) {
  const json* list = f.find("architectures");
  if (list == nullptr || !list->is_array() || list->size() != 1 || !list->front().is_string()) {
    f.fail("architectures is not a list of one name");
  }
  c->architecture = list->front().get<std::string>();
  const bool attention_bias = f.flag("attention_bias", false);
  if (c->architecture == "LlamaForCausalLM") {
    c->qkv_bias = c->output_bias = attention_bias;
    c->mlp_bias = f.flag("mlp_bias", false);
  } else if (c->architecture == "Qwen2ForCausalLM") {
    c->qkv_bias = true;
  } else if (c->architecture == "Qwen3ForCausalLM") {
    c->qkv_bias = c->output_bias = attention_bias;
    c->qk_norm = true;
  } else if (c->architecture != "MistralForCausalLM") {
    f.fail("architecture is " + c->architecture +
           ": expected LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM or Qwen3ForCausalLM");
  }
  const std::string activation = f.text("hidden_act", "silu");
  if (activation != "silu") f.fail("hidden_act is " + activation + ": expected silu");
}

// Mistral: every layer when sliding_window is set. Qwen: only with use_sliding_window, and then as
// layer_types says or, older, in the layers from max_window_layers on.
void read_windows(const Fields& f, ModelConfig* c) {
  c->windows.assign(c->num_layers, 0);
  const bool mistral = c->architecture == "MistralForCausalLM";
  const bool qwen = c->architecture == "Qwen2ForCausalLM" || c->architecture == "Qwen3ForCausalLM";
  if (!f.flag("use_sliding_window", mistral) || (!mistral && !qwen)) return;
  const uint32_t window = f.size("sliding_window", 0);
  if (window == 0) return;
  const json* types = f.find("layer_types");
  if (types != nullptr && (!types->is_array() || types->size() != c->num_layers)) {
    f.fail("layer_types is not a list with one entry a layer");
  }
  const uint32_t first = mistral ? 0 : f.size("max_window_layers", c->num_layers);
  for (uint32_t i = 0; i < c->num_layers; ++i) {
    const bool slides = types != nullptr ? (*types)[i] == "sliding_attention" : i >= first;
    if (slides) c->windows[i] = window;
  }
}

void read_end_tokens(const Fields& f, ModelConfig* c) {
  const auto id = [&](const json& v) {
    if (!v.is_number_unsigned() || v.get<uint64_t>() >= c->vocab_size) {
      f.fail("eos_token_id is " + v.dump() + ": expected an id below vocab_size");
    }
    return v.get<int32_t>();
  };
  const json* eos = f.find("eos_token_id");
  if (eos == nullptr) return;
  if (!eos->is_array()) return c->eos.push_back(id(*eos));
  for (const json& v : *eos) c->eos.push_back(id(v));
}

void check_shapes(const Fields& f, const ModelConfig& c) {
  if (c.num_q_heads % c.num_kv_heads != 0)
    f.fail("num_attention_heads is no multiple of num_key_value_heads");
  if (c.head_dim < 32 || c.head_dim > 256 || c.head_dim % 8 != 0) {
    f.fail("head_dim is " + std::to_string(c.head_dim) + ": expected 32..256 in steps of 8");
  }
  constexpr uint64_t kMaxWidth = 1u << 24;
  if (uint64_t{c.num_q_heads} * c.head_dim > kMaxWidth || c.num_layers > 1024)
    f.fail("is too large");
}

}  // namespace

ModelConfig load_model_config(const std::filesystem::path& path) {
  const json doc = parse_json_file(path);
  const Fields f(path.string() + ":", doc);
  ModelConfig c;
  read_architecture(f, &c);
  c.vocab_size = f.size("vocab_size");
  c.hidden_size = f.size("hidden_size");
  c.intermediate_size = f.size("intermediate_size");
  c.num_layers = f.size("num_hidden_layers");
  c.num_q_heads = f.size("num_attention_heads");
  c.num_kv_heads = f.size("num_key_value_heads", c.num_q_heads);
  if (f.find("head_dim") == nullptr && c.hidden_size % c.num_q_heads != 0) {
    f.fail("hidden_size is no multiple of num_attention_heads, and head_dim is not given");
  }
  c.head_dim = f.size("head_dim", c.hidden_size / c.num_q_heads);
  c.max_positions = f.size("max_position_embeddings", 2048);
  c.rms_norm_eps = f.number("rms_norm_eps", 1e-6f);
  c.tied_head = f.flag("tie_word_embeddings", false);
  read_rope(f, path.string(), &c);
  check_shapes(f, c);
  read_windows(f, &c);
  read_end_tokens(f, &c);
  return c;
}

}  // namespace npc
