#include "tokenizer.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "bpe.h"
#include "error.h"
#include "files.h"

namespace npc {

using nlohmann::json;

Vocabulary read_vocabulary(const json& doc, const std::string& where) {
  Vocabulary v;
  const auto add = [&](const std::string& token, const json& id) {
    constexpr uint64_t kMax = 1u << 24;
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= kMax)
      throw Error(where + ": token " + token + ": bad id");
    const auto n = id.get<size_t>();
    if (v.tokens.size() <= n) v.tokens.resize(n + 1);
    v.tokens[n] = token;
    v.ids[token] = static_cast<int32_t>(n);
  };
  const auto model = doc.find("model");
  if (model == doc.end() || !model->is_object()) throw Error(where + ": no model");
  const auto vocab = model->find("vocab");
  if (vocab == model->end() || !vocab->is_object())
    throw Error(where + ": model.vocab is not an object");
  for (const auto& [token, id] : vocab->items()) add(token, id);
  const auto added = doc.find("added_tokens");
  if (added == doc.end() || added->is_null()) return v;
  if (!added->is_array()) throw Error(where + ": added_tokens is not an array");
  for (const json& entry : *added) {
    if (!entry.is_object() || !entry.contains("id") || !entry.contains("content") ||
        !entry["content"].is_string()) {
      throw Error(where + ": an added token has no id or no content");
    }
    add(entry["content"].get<std::string>(), entry["id"]);
    v.added.push_back(entry["content"].get<std::string>());
    if (v.added.back().empty()) throw Error(where + ": an added token is empty");
  }
  return v;
}

namespace {

class WordLevelTokenizer : public Tokenizer {
 public:
  WordLevelTokenizer(Vocabulary vocabulary, std::optional<int32_t> unknown, bool lowercase)
      : vocabulary_(std::move(vocabulary)), unknown_(unknown), lowercase_(lowercase) {}

  std::vector<int32_t> encode(std::string_view text) const override {
    constexpr std::string_view kSpaces = " \t\r\n";
    std::vector<int32_t> ids;
    for (size_t at = text.find_first_not_of(kSpaces); at != text.npos;
         at = text.find_first_not_of(kSpaces, at)) {
      const size_t end = std::min(text.find_first_of(kSpaces, at), text.size());
      std::string word(text.substr(at, end - at));
      if (lowercase_) to_lowercase(&word);
      const std::optional<int32_t> id = id_of(word);
      if (!id && !unknown_)
        throw Error("the tokenizer knows no word \"" + word + "\" and has no unk_token");
      ids.push_back(id.value_or(unknown_.value_or(0)));
      at = end;
    }
    return ids;
  }

  std::string decode(std::span<const int32_t> ids) const override {
    std::string text;
    for (const int32_t id : ids) {
      if (!text.empty()) text += ' ';
      text += vocabulary_.token(id);
    }
    return text;
  }

  std::optional<int32_t> id_of(const std::string& token) const override {
    return vocabulary_.find(token);
  }

 private:
  static void to_lowercase(std::string* word) {  // ASCII: what a vocabulary of English words needs
    for (char& c : *word) {
      if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    }
  }

  Vocabulary vocabulary_;
  std::optional<int32_t> unknown_;
  bool lowercase_;
};

// The "type" of an optional part of tokenizer.json, "" when it is absent.
std::string part_type(const json& doc, const char* part) {
  const auto it = doc.find(part);
  if (it == doc.end() || !it->is_object() || !it->contains("type") || !(*it)["type"].is_string())
    return "";
  return (*it)["type"].get<std::string>();
}

std::unique_ptr<Tokenizer> make_word_level(const json& doc, const std::string& where) {
  const std::string normalizer = part_type(doc, "normalizer"),
                    split = part_type(doc, "pre_tokenizer");
  if (!normalizer.empty() && normalizer != "Lowercase")
    throw Error(where + ": normalizer " + normalizer + ": expected Lowercase");
  if (split != "WhitespaceSplit")
    throw Error(where + ": WordLevel with pre_tokenizer \"" + split +
                "\": expected WhitespaceSplit");
  Vocabulary vocabulary = read_vocabulary(doc, where);
  std::optional<int32_t> unknown;
  const json& model = doc["model"];
  if (model.contains("unk_token") && model["unk_token"].is_string()) {
    unknown = vocabulary.find(model["unk_token"].get<std::string>());
  }
  return std::make_unique<WordLevelTokenizer>(std::move(vocabulary), unknown,
                                              normalizer == "Lowercase");
}

// The special tokens of a TemplateProcessing, alone or in a Sequence, before the text itself.
std::vector<std::string> leading_tokens(const json& post) {
  std::vector<std::string> tokens;
  if (!post.is_object()) return tokens;
  for (const json& part : post.value("processors", json::array())) {
    const std::vector<std::string> more = leading_tokens(part);
    tokens.insert(tokens.end(), more.begin(), more.end());
  }
  for (const json& item : post.value("single", json::array())) {
    if (!item.is_object() || !item.contains("SpecialToken")) break;
    tokens.push_back(item["SpecialToken"].at("id").get<std::string>());
  }
  return tokens;
}

std::unique_ptr<Tokenizer> make_tokenizer(const json& doc, const std::string& where) {
  if (!doc.is_object() || !doc.contains("model") || !doc["model"].is_object())
    throw Error(where + ": no model");
  const std::string type = doc["model"].value("type", std::string("BPE"));
  if (type == "WordLevel") return make_word_level(doc, where);
  if (type == "BPE") return make_byte_level_bpe(doc, where);
  throw Error(where + ": tokenizer type " + type +
              ": expected WordLevel or BPE (give the prompt as ids)");
}

}  // namespace

std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& path) {
  const json doc = parse_json_file(path);
  try {
    std::unique_ptr<Tokenizer> tokenizer = make_tokenizer(doc, path.string());
    const auto post = doc.find("post_processor");
    for (const std::string& token : leading_tokens(post == doc.end() ? json() : *post)) {
      const std::optional<int32_t> id = tokenizer->id_of(token);
      if (!id)
        throw Error(path.string() + ": post_processor names " + token + ", which is no token");
      tokenizer->prefix.push_back(*id);
    }
    return tokenizer;
  } catch (const json::exception& e) {
    throw Error(path.string() + ": " + e.what());
  }
}

}  // namespace npc
