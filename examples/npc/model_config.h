// config.json of Hugging Face's Llama, Mistral, Qwen2 and Qwen3, as one plain struct.
//
// Promise: every value is checked (sizes, ranges, divisibility); an architecture, activation or
// rope scaling that the forward pass does not compute is an npc::Error, never silently ignored.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace npc {

struct RopeConfig {
  float theta = 10000.f;
  int32_t scaling = 0;  // RADIX_ROPE_SCALE_*
  float factor = 0.f;
  float low_freq_factor = 0.f, high_freq_factor = 0.f;  // Llama 3
  float beta_fast = 0.f, beta_slow = 0.f;               // YaRN
  float attention_factor = 0.f;                         // YaRN; 0 = the default of the paper
  uint32_t original_max_position = 0;
};

struct ModelConfig {
  std::string architecture;
  uint32_t vocab_size = 0;
  uint32_t hidden_size = 0;
  uint32_t intermediate_size = 0;
  uint32_t num_layers = 0;
  uint32_t num_q_heads = 0;
  uint32_t num_kv_heads = 0;
  uint32_t head_dim = 0;
  uint32_t max_positions = 0;
  float rms_norm_eps = 1e-6f;
  bool tied_head = false;    // logits use the embedding
  bool qkv_bias = false;     // Qwen2; Llama's attention_bias
  bool output_bias = false;  // Llama's attention_bias reaches o_proj, Qwen2's does not
  bool mlp_bias = false;
  bool qk_norm = false;           // Qwen3
  std::vector<uint32_t> windows;  // [num_layers] visible tokens; 0 = all
  std::vector<int32_t> eos;       // ids that end an answer
  RopeConfig rope;

  uint32_t q_size() const { return num_q_heads * head_dim; }
  uint32_t kv_size() const { return num_kv_heads * head_dim; }
};

ModelConfig load_model_config(const std::filesystem::path& path);

}  // namespace npc
