// tokenizer.json of Hugging Face: text to ids and back.
//
// Two kinds: WordLevel split on spaces (the model beside this example), and byte-level BPE with the
// splits of GPT-2, Llama 3 and Qwen 2/3, so that a real checkpoint can be tried. Any other kind is
// an npc::Error that says so; such a model can still be given token ids. Unicode normalisation
// (NFC) is not done: text is expected in NFC.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace npc {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  virtual std::vector<int32_t> encode(std::string_view text) const = 0;  // no BOS, no EOS
  virtual std::string decode(std::span<const int32_t> ids) const = 0;
  virtual std::optional<int32_t> id_of(const std::string& token) const = 0;

  // What the file's post_processor puts before a text: <|begin_of_text|> for Llama 3, nothing for
  // Qwen.
  std::vector<int32_t> prefix;
};

std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& path);

}  // namespace npc
