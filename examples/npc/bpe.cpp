#include "bpe.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "error.h"
#include "unicode.h"

namespace npc {

using nlohmann::json;

namespace {

constexpr uint32_t kInvalid =
    0x110000;  // a byte that is not UTF-8: neither letter, number nor space

// The code point at text[at] and its length in bytes.
uint32_t decode_utf8(std::string_view text, size_t at, size_t* length) {
  const auto byte = [&](size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u;
  };
  const uint32_t lead = byte(at);
  *length = 1;
  if (lead < 0x80) return lead;
  const size_t n = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  uint32_t c = lead & (0xffu >> (n + 1));
  for (size_t i = 1; i < n; ++i) {
    if ((byte(at + i) & 0xc0) != 0x80) return kInvalid;
    c = c << 6 | (byte(at + i) & 0x3f);
  }
  if (lead < 0xc2 || lead > 0xf4 || c > 0x10ffff) return kInvalid;
  *length = n;
  return c;
}

// Walks the alternatives of the split's regular expression, in its order, at one place. Each
// returns the end of its match, or its start when it does not match.
class WordSplitter {
 public:
  WordSplitter(std::string_view text, SplitRule rule) : text_(text), rule_(rule) {}

  size_t next(size_t at) const {
    for (const size_t end : {contraction(at), letters(at), numbers(at), symbols(at), spaces(at)}) {
      if (end != at) return end;
    }
    return at + 1;  // not reached: every character is a letter, a number, a space or a symbol
  }

 private:
  uint32_t code(size_t at, size_t* after) const {
    size_t n = 0;
    if (at >= text_.size()) return *after = at, uint32_t{kInvalid} + 1;
    const uint32_t c = decode_utf8(text_, at, &n);
    *after = at + n;
    return c;
  }

  template <class Predicate>
  size_t run(size_t at, Predicate keep, size_t limit = std::numeric_limits<size_t>::max()) const {
    for (size_t after = at; at < text_.size() && limit > 0; at = after, --limit) {
      if (!keep(code(at, &after))) break;
    }
    return at;
  }

  static bool newline(uint32_t c) { return c == '\r' || c == '\n'; }
  static bool symbol(uint32_t c) { return !is_space(c) && !is_letter(c) && !is_number(c); }

  size_t contraction(size_t at) const {
    if (text_[at] != '\'') return at;
    for (const std::string_view tail : {"s", "t", "re", "ve", "m", "ll", "d"}) {
      if (text_.size() - at <= tail.size()) continue;
      const auto same = [&](char want, char have) {
        return have == want || (rule_ != SplitRule::kGpt2 && have == want - 'a' + 'A');
      };
      if (std::equal(tail.begin(), tail.end(), text_.begin() + static_cast<std::ptrdiff_t>(at) + 1,
                     same)) {
        return at + 1 + tail.size();
      }
    }
    return at;
  }

  // GPT-2: " ?\p{L}+"; later: "[^\r\n\p{L}\p{N}]?\p{L}+".
  size_t letters(size_t at) const {
    size_t from = at, after = at;
    const uint32_t c = code(at, &after);
    const bool prefix =
        rule_ == SplitRule::kGpt2 ? c == ' ' : !newline(c) && !is_letter(c) && !is_number(c);
    if (prefix) from = after;
    const size_t end = run(from, is_letter);
    return end == from ? at : end;
  }

  // GPT-2: " ?\p{N}+"; Llama 3: "\p{N}{1,3}"; Qwen: "\p{N}".
  size_t numbers(size_t at) const {
    if (rule_ != SplitRule::kGpt2) return run(at, is_number, rule_ == SplitRule::kLlama3 ? 3 : 1);
    const size_t from = text_[at] == ' ' ? at + 1 : at;
    const size_t end = run(from, is_number);
    return end == from ? at : end;
  }

  // " ?[^\s\p{L}\p{N}]+", and in the later ones "[\r\n]*" after it.
  size_t symbols(size_t at) const {
    const size_t from = text_[at] == ' ' ? at + 1 : at;
    const size_t end = run(from, symbol);
    if (end == from) return at;
    return rule_ == SplitRule::kGpt2 ? end : run(end, newline);
  }

  // "\s*[\r\n]+" (the later ones), then "\s+(?!\S)|\s+": the last space before a word belongs to
  // the word.
  size_t spaces(size_t at) const {
    const size_t end = run(at, is_space);
    size_t last = at, after_newline = at;
    for (size_t i = at, after = at; i < end; i = after) {
      last = i;
      if (newline(code(i, &after))) after_newline = after;
    }
    if (rule_ != SplitRule::kGpt2 && after_newline != at) return after_newline;
    return end < text_.size() && last != at ? last : end;
  }

  std::string_view text_;
  SplitRule rule_;
};

// GPT-2's spelling of bytes: printable Latin-1 as itself, the others as U+0100 and on.
std::vector<std::string> byte_spellings() {
  std::vector<std::string> spellings(256);
  uint32_t next = 0x100;
  for (uint32_t b = 0; b < 256; ++b) {
    const bool printable = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
    const uint32_t c = printable ? b : next++;
    if (c < 0x80) {
      spellings[b] = std::string(1, static_cast<char>(c));
    } else {
      spellings[b] = {static_cast<char>(0xc0 | c >> 6), static_cast<char>(0x80 | (c & 0x3f))};
    }
  }
  return spellings;
}

class ByteLevelBpe : public Tokenizer {
 public:
  ByteLevelBpe(Vocabulary vocabulary, std::unordered_map<std::string, int32_t> ranks,
               SplitRule rule, bool whole_words)
      : vocabulary_(std::move(vocabulary)),
        ranks_(std::move(ranks)),
        rule_(rule),
        whole_words_(whole_words) {
    for (size_t b = 0; b < 256; ++b) bytes_[spellings_[b]] = static_cast<char>(b);
    std::stable_sort(
        vocabulary_.added.begin(), vocabulary_.added.end(),
        [](const std::string& a, const std::string& b) { return a.size() > b.size(); });
  }

  std::vector<int32_t> encode(std::string_view text) const override {
    std::vector<int32_t> ids;
    while (!text.empty()) {
      const std::string* special = nullptr;
      const size_t at = find_added(text, &special);
      for (const std::string_view word : split_words(text.substr(0, at), rule_))
        encode_word(word, &ids);
      if (special == nullptr) break;
      ids.push_back(*vocabulary_.find(*special));
      text.remove_prefix(at + special->size());
    }
    return ids;
  }

  std::string decode(std::span<const int32_t> ids) const override {
    std::string text;
    for (const int32_t id : ids) {
      const std::string token = vocabulary_.token(id);
      const bool added = std::find(vocabulary_.added.begin(), vocabulary_.added.end(), token) !=
                         vocabulary_.added.end();
      text += added ? token : bytes_of(token);
    }
    return text;
  }

  std::optional<int32_t> id_of(const std::string& token) const override {
    return vocabulary_.find(token);
  }

 private:
  // The first added token in `text`; the longest where several start at one place.
  size_t find_added(std::string_view text, const std::string** which) const {
    size_t best = std::string_view::npos;
    for (const std::string& token : vocabulary_.added) {
      const size_t at = text.find(token);
      if (at < best) best = at, *which = &token;
    }
    return best;
  }

  void encode_word(std::string_view word, std::vector<int32_t>* ids) const {
    std::vector<std::string> parts;
    std::string whole;
    for (const char c : word) parts.push_back(spellings_[static_cast<unsigned char>(c)]);
    for (const std::string& p : parts) whole += p;
    if (whole_words_) {
      if (const auto id = vocabulary_.find(whole)) return ids->push_back(*id);
    }
    merge(&parts);
    for (const std::string& p : parts) {
      const auto id = vocabulary_.find(p);
      if (!id) throw Error("the tokenizer has no token for \"" + p + "\"");
      ids->push_back(*id);
    }
  }

  // Joins the pair of best rank, the first of equals, until none is left. Quadratic in the word,
  // and words are short.
  void merge(std::vector<std::string>* parts) const {
    while (parts->size() > 1) {
      int32_t best = std::numeric_limits<int32_t>::max();
      size_t where = 0;
      for (size_t i = 0; i + 1 < parts->size(); ++i) {
        const auto it = ranks_.find((*parts)[i] + ' ' + (*parts)[i + 1]);
        if (it != ranks_.end() && it->second < best) best = it->second, where = i;
      }
      if (best == std::numeric_limits<int32_t>::max()) return;
      (*parts)[where] += (*parts)[where + 1];
      parts->erase(parts->begin() + static_cast<std::ptrdiff_t>(where) + 1);
    }
  }

  std::string bytes_of(const std::string& token) const {
    std::string out;
    for (size_t at = 0, n = 0; at < token.size(); at += n) {
      decode_utf8(token, at, &n);
      const auto it = bytes_.find(token.substr(at, n));
      if (it != bytes_.end()) out += it->second;
    }
    return out;
  }

  Vocabulary vocabulary_;
  std::unordered_map<std::string, int32_t> ranks_;  // "left right" -> rank
  SplitRule rule_;
  bool whole_words_;  // "ignore_merges": a word that is a token is that token
  const std::vector<std::string> spellings_ = byte_spellings();
  std::unordered_map<std::string, char> bytes_;
};

// The regular expressions as the files have them; only the digits differ.
constexpr std::string_view kBeforeDigits =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|)";
constexpr std::string_view kAfterDigits = R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

std::string split_pattern(const char* digits) {
  return std::string(kBeforeDigits) + digits + std::string(kAfterDigits);
}

SplitRule byte_level_rule(const json& pre, const std::string& where) {
  if (pre.value("add_prefix_space", false))
    throw Error(where + ": add_prefix_space is not supported");
  if (!pre.value("use_regex", true))
    throw Error(where + ": ByteLevel without a split is not supported");
  return SplitRule::kGpt2;
}

// pre_tokenizer: ByteLevel alone (GPT-2), or a Sequence of a known Split and a ByteLevel (Llama 3,
// Qwen).
SplitRule read_rule(const json& doc, const std::string& where) {
  const json pre = doc.value("pre_tokenizer", json());
  const std::string type = pre.is_object() ? pre.value("type", std::string()) : std::string();
  if (type == "ByteLevel") return byte_level_rule(pre, where);
  if (type == "Sequence" && pre.contains("pretokenizers") && pre["pretokenizers"].is_array() &&
      pre["pretokenizers"].size() == 2) {
    const json& split = pre["pretokenizers"][0];
    const json& bytes = pre["pretokenizers"][1];
    const std::string pattern = split.value("/pattern/Regex"_json_pointer, std::string());
    if (split.value("type", "") == "Split" && bytes.value("type", "") == "ByteLevel") {
      if (pattern == split_pattern(R"(\p{N}{1,3})")) return SplitRule::kLlama3;
      if (pattern == split_pattern(R"(\p{N})")) return SplitRule::kQwen2;
    }
  }
  throw Error(
      where +
      ": the pre_tokenizer is none of GPT-2's, Llama 3's or Qwen's (give the prompt as ids)");
}

std::unordered_map<std::string, int32_t> read_ranks(const json& model, const std::string& where) {
  const auto merges = model.find("merges");
  if (merges == model.end() || !merges->is_array()) throw Error(where + ": BPE without merges");
  std::unordered_map<std::string, int32_t> ranks;
  for (const json& merge : *merges) {  // "left right", or newer ["left", "right"]
    std::string pair;
    if (merge.is_string()) {
      pair = merge.get<std::string>();
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      pair = merge[0].get<std::string>() + ' ' + merge[1].get<std::string>();
    }
    if (pair.find(' ') == std::string::npos)
      throw Error(where + ": a merge is not a pair of strings");
    ranks.emplace(std::move(pair), static_cast<int32_t>(ranks.size()));
  }
  return ranks;
}

}  // namespace

std::vector<std::string_view> split_words(std::string_view text, SplitRule rule) {
  const WordSplitter splitter(text, rule);
  std::vector<std::string_view> words;
  for (size_t at = 0; at < text.size();) {
    const size_t end = splitter.next(at);
    words.push_back(text.substr(at, end - at));
    at = end;
  }
  return words;
}

std::unique_ptr<Tokenizer> make_byte_level_bpe(const json& doc, const std::string& where) {
  const json& model = doc.at("model");
  if (model.value("byte_fallback", false)) {
    throw Error(where + ": SentencePiece-style BPE is not supported (give the prompt as ids)");
  }
  return std::make_unique<ByteLevelBpe>(read_vocabulary(doc, where), read_ranks(model, where),
                                        read_rule(doc, where), model.value("ignore_merges", false));
}

}  // namespace npc
