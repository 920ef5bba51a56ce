#include "dialogue.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "error.h"
#include "files.h"

namespace npc {

using nlohmann::json;

namespace {

World read_world(const json& doc) {
  World world;
  world.lore = doc.at("lore").get<std::string>();
  for (const json& c : doc.at("characters")) {
    Character character;
    character.name = c.at("name").get<std::string>();
    character.card = c.at("card").get<std::string>();
    for (const json& q : c.at("questions")) {
      character.questions.push_back(
          {q.at("text").get<std::string>(), q.at("accepted").get<std::vector<std::string>>()});
    }
    world.characters.push_back(std::move(character));
  }
  return world;
}

// One conversation: the tokens so far, and which question is being answered.
struct Conversation {
  std::vector<int32_t> tokens;
  size_t next_question = 0;
};

class DialogueRunner {
 public:
  DialogueRunner(const World& world, const Tokenizer& tokenizer, Engine* engine,
                 const Manner& manner)
      : world_(world),
        tokenizer_(tokenizer),
        engine_(engine),
        manner_(manner),
        eos_(marker("<eos>")) {
    for (const char* name : {"<bos>", "<world>", "<card>", "<user>", "<npc>"}) marker(name);
    for (const Character& c : world.characters) {
      conversations_.push_back(
          {tokenizer.encode("<bos> <world> " + world.lore + " <card> " + c.card), 0});
    }
  }

  std::vector<Turn> run(const std::function<void(const Turn&)>& on_turn) {
    for (size_t c = 0; c < conversations_.size(); ++c) ask(c);
    while (engine_->step()) {
      for (const uint32_t id : engine_->take_finished()) {
        on_turn(hear(id));
        ask(turns_.back().character);
      }
    }
    std::sort(turns_.begin(), turns_.end(), [](const Turn& a, const Turn& b) {
      return std::pair(a.character, a.question) < std::pair(b.character, b.question);
    });
    return turns_;
  }

 private:
  int32_t marker(const std::string& token) const {
    const auto id = tokenizer_.id_of(token);
    if (!id)
      throw Error("the tokenizer has no token " + token +
                  ": this checkpoint is no dialogue model (try --prompt)");
    return *id;
  }

  void ask(size_t character) {
    Conversation& c = conversations_[character];
    const std::vector<Question>& questions = world_.characters[character].questions;
    if (c.next_question == questions.size()) return;
    const std::vector<int32_t> turn =
        tokenizer_.encode("<user> " + questions[c.next_question].text + " <npc>");
    c.tokens.insert(c.tokens.end(), turn.begin(), turn.end());
    SamplingParams sampling = manner_.sampling;
    sampling.seed += character << 32 | c.next_question;  // whoever ends first: the same draws
    asked_[engine_->submit(c.tokens, manner_.max_tokens, sampling)] = character;
  }

  const Turn& hear(uint32_t id) {
    Turn turn;
    turn.character = asked_.at(id);
    turn.generation = id;
    Conversation& c = conversations_[turn.character];
    turn.question = c.next_question++;
    std::vector<int32_t> output = engine_->generation(id).output;
    if (output.back() != eos_)
      output.push_back(eos_);  // cut at max_tokens: the next turn still follows an <eos>
    c.tokens.insert(c.tokens.end(), output.begin(), output.end());
    output.pop_back();
    turn.answer = tokenizer_.decode(output);
    turn.right =
        is_right(turn.answer, world_.characters[turn.character].questions[turn.question].accepted);
    return turns_.emplace_back(std::move(turn));
  }

  const World& world_;
  const Tokenizer& tokenizer_;
  Engine* engine_;
  Manner manner_;
  int32_t eos_;
  std::vector<Conversation> conversations_;  // by character
  std::map<uint32_t, size_t> asked_;         // generation -> character
  std::vector<Turn> turns_;
};

}  // namespace

std::vector<World> load_worlds(const std::filesystem::path& path) {
  const json doc = parse_json_file(path);
  try {
    std::vector<World> worlds;
    if (!doc.contains("worlds")) return {read_world(doc)};
    for (const json& world : doc.at("worlds")) worlds.push_back(read_world(world));
    return worlds;
  } catch (const json::exception& e) {
    throw Error(path.string() + ": " + e.what());
  }
}

bool is_right(const std::string& answer, const std::vector<std::string>& accepted) {
  std::istringstream words(answer);
  for (std::string word; words >> word;) {
    if (std::find(accepted.begin(), accepted.end(), word) != accepted.end()) return true;
  }
  return false;
}

std::string readable(const std::string& words) {
  std::string text;
  for (size_t i = 0; i < words.size(); ++i) {
    const bool before_mark = words[i] == ' ' && i + 1 < words.size() &&
                             std::string_view(",.?!").find(words[i + 1]) != std::string_view::npos;
    if (!before_mark) text += words[i];
  }
  return text;
}

std::vector<Turn> run_dialogue(const World& world, const Tokenizer& tokenizer, Engine* engine,
                               const Manner& manner,
                               const std::function<void(const Turn&)>& on_turn) {
  return DialogueRunner(world, tokenizer, engine, manner).run(on_turn);
}

}  // namespace npc
