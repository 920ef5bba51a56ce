// Byte-level BPE: the tokenizers of GPT-2, Llama 3 and Qwen 2/3.
//
// Text is cut at added tokens, then into words by the tokenizer's split, then each word's bytes
// (spelled as GPT-2's 256 printable characters) are merged, best rank first. Which split a file
// wants is recognised by its regular expression; an unknown one is an npc::Error: a near miss would
// give wrong ids quietly.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tokenizer.h"

namespace npc {

// model.vocab and added_tokens of a tokenizer.json.
struct Vocabulary {
  std::unordered_map<std::string, int32_t> ids;
  std::vector<std::string> tokens;  // by id
  std::vector<std::string> added;   // special tokens: found in text before any split

  std::optional<int32_t> find(const std::string& token) const {
    const auto it = ids.find(token);
    return it == ids.end() ? std::nullopt : std::optional<int32_t>(it->second);
  }
  std::string token(int32_t id) const {
    return id >= 0 && static_cast<size_t>(id) < tokens.size() ? tokens[static_cast<size_t>(id)]
                                                              : std::string();
  }
};

Vocabulary read_vocabulary(const nlohmann::json& doc, const std::string& where);

enum class SplitRule {
  kGpt2,
  kLlama3,
  kQwen2
};  // Llama 3 and Qwen differ in digits: up to three, or one

// The words of `text`, in order; together they are the text. Invalid UTF-8 bytes count as letters
// of no kind.
std::vector<std::string_view> split_words(std::string_view text, SplitRule rule);

std::unique_ptr<Tokenizer> make_byte_level_bpe(const nlohmann::json& doc, const std::string& where);

}  // namespace npc
