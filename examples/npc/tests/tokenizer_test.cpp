#include "tokenizer.h"

#include <gtest/gtest.h>

#include "bpe.h"
#include "checkpoint_writer.h"
#include "error.h"
#include "unicode.h"

namespace npc::test {
namespace {

using nlohmann::json;
using Ids = std::vector<int32_t>;
using Words = std::vector<std::string_view>;

std::unique_ptr<Tokenizer> load(const json& doc) {
  const TempDir dir;
  write_text(dir.path() / "tokenizer.json", doc.dump());
  return load_tokenizer(dir.path() / "tokenizer.json");
}

json word_level() {
  return {{"normalizer", {{"type", "Lowercase"}}},
          {"pre_tokenizer", {{"type", "WhitespaceSplit"}}},
          {"added_tokens", {{{"id", 0}, {"content", "<unk>"}}, {{"id", 4}, {"content", "<eos>"}}}},
          {"model",
           {{"type", "WordLevel"},
            {"unk_token", "<unk>"},
            {"vocab", {{"<unk>", 0}, {"a", 1}, {"key", 2}, {".", 3}}}}}};
}

TEST(WordLevel, SplitsOnSpaces) {
  const auto t = load(word_level());
  EXPECT_EQ(t->encode("  A key .\n<eos> sword"), Ids({1, 2, 3, 4, 0}));
  EXPECT_EQ(t->decode(Ids({1, 2, 3})), "a key .");
  EXPECT_EQ(t->id_of("<eos>"), 4);
  EXPECT_EQ(t->id_of("sword"), std::nullopt);
  EXPECT_TRUE(t->encode(" ").empty());
}

TEST(WordLevel, WithoutAnUnknownTokenAnUnknownWordIsAnError) {
  json doc = word_level();
  doc["model"].erase("unk_token");
  EXPECT_THROW(load(doc)->encode("a sword"), Error);
}

TEST(Tokenizer, RefusesOtherKindsAndBrokenFiles) {
  json doc = word_level();
  doc["model"]["type"] = "Unigram";
  EXPECT_THROW(load(doc), Error);
  doc = word_level();
  doc["pre_tokenizer"]["type"] = "Metaspace";
  EXPECT_THROW(load(doc), Error);
  doc = word_level();
  doc["normalizer"]["type"] = "NFKC";
  EXPECT_THROW(load(doc), Error);
  doc = word_level();
  doc["model"]["vocab"]["a"] = -1;
  EXPECT_THROW(load(doc), Error);
  EXPECT_THROW(load(json::object()), Error);
  EXPECT_THROW(load(json::array()), Error);
}

TEST(Bpe, SplitsAsGpt2) {
  EXPECT_EQ(split_words("Hello  world's 123 times!!\n\n x", SplitRule::kGpt2),
            Words({"Hello", " ", " world", "'s", " 123", " times", "!!", "\n\n", " x"}));
}

TEST(Bpe, SplitsAsLlama3AndQwen) {
  EXPECT_EQ(split_words("It'S 12345 (ok)\n\n  go \n", SplitRule::kLlama3),
            Words({"It", "'S", " ", "123", "45", " (", "ok", ")\n\n", " ", " go", " \n"}));
  EXPECT_EQ(split_words("a12 b", SplitRule::kQwen2), Words({"a", "1", "2", " b"}));
}

TEST(Bpe, SplitsUnicodeByCategory) {
  EXPECT_EQ(
      split_words("\xc3\xa9t\xc3\xa9 \xe6\x97\xa5\xe6\x9c\xac\xef\xbc\x81", SplitRule::kLlama3),
      Words({"\xc3\xa9t\xc3\xa9", " \xe6\x97\xa5\xe6\x9c\xac", "\xef\xbc\x81"}));
  EXPECT_TRUE(is_letter('a') && is_letter(0x65e5) && !is_letter('1') && !is_letter(0x110000));
  EXPECT_TRUE(is_number('7') && is_number(0x0663) && !is_number('x'));
}

TEST(Bpe, WordsTogetherAreTheText) {
  std::string text;
  for (int i = 0; i < 256; ++i) text += static_cast<char>(i);  // invalid UTF-8 as well
  text += "\xf0\x9f\x98\x80 '  'x\xe2\x82";
  for (const SplitRule rule : {SplitRule::kGpt2, SplitRule::kLlama3, SplitRule::kQwen2}) {
    std::string joined;
    for (const std::string_view word : split_words(text, rule)) joined += word;
    EXPECT_EQ(joined, text);
  }
}

json small_bpe() {
  json vocab = json::object();
  int id = 0;
  for (const char* t :
       {"h", "e", "l", "o", "\xc4\xa0", "he", "ll", "hell", "hello", "\xc4\xa0h", "\xc4\xa0hello"})
    vocab[t] = id++;
  return {{"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
          {"added_tokens", {{{"id", 11}, {"content", "<|end|>"}}}},
          {"model",
           {{"type", "BPE"},
            {"vocab", vocab},
            {"merges", {"h e", "l l", "he ll", json::array({"hell", "o"}), "\xc4\xa0 hello"}}}}};
}

TEST(Bpe, MergesByRankAndDecodesBack) {
  const auto t = load(small_bpe());
  EXPECT_EQ(t->encode("hello hello<|end|>hel"), Ids({8, 10, 11, 5, 2}));
  EXPECT_EQ(t->decode(Ids({8, 10, 11, 5, 2})), "hello hello<|end|>hel");
  EXPECT_THROW(t->encode("xyz"), Error);
}

TEST(Tokenizer, ReadsWhatStandsBeforeAText) {
  json doc = small_bpe();
  EXPECT_TRUE(load(doc)->prefix.empty());
  const json text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}},
             mark = {{"SpecialToken", {{"id", "<|end|>"}, {"type_id", 0}}}};
  const json processing = {{"type", "TemplateProcessing"}, {"single", {mark, text, mark}}};
  doc["post_processor"] = {{"type", "Sequence"},
                           {"processors", {{{"type", "ByteLevel"}}, processing}}};
  EXPECT_EQ(load(doc)->prefix, Ids({11}));
  doc["post_processor"]["processors"][1]["single"][0]["SpecialToken"]["id"] = "<none>";
  EXPECT_THROW(load(doc), Error);
}

TEST(Bpe, RefusesSplitsItDoesNotKnow) {
  json doc = small_bpe();
  doc["pre_tokenizer"] = {
      {"type", "Sequence"},
      {"pretokenizers",
       {{{"type", "Split"}, {"pattern", {{"Regex", "\\w+"}}}}, {{"type", "ByteLevel"}}}}};
  EXPECT_THROW(load(doc), Error);
  doc["pre_tokenizer"] = nullptr;
  EXPECT_THROW(load(doc), Error);
  doc = small_bpe();
  doc["model"]["byte_fallback"] = true;
  EXPECT_THROW(load(doc), Error);
  doc = small_bpe();
  doc["model"]["merges"] = {"nospace"};
  EXPECT_THROW(load(doc), Error);
}

}  // namespace
}  // namespace npc::test
