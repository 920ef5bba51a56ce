// The game's side: a world, its characters and their conversations, in the trained model's prompt
// format.
//
//   <bos> <world> LORE <card> CARD <user> QUESTION <npc> ANSWER <eos> <user> QUESTION <npc> ...
//
// A character's questions are turns of one conversation: the next prompt is everything so far,
// answers included. Characters answer at the same time; each puts its next question when its answer
// is complete.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "engine.h"
#include "tokenizer.h"

namespace npc {

struct Question {
  std::string text;
  std::vector<std::string> accepted;  // an answer with one of these words is right
};

struct Character {
  std::string name;
  std::string card;
  std::vector<Question> questions;
};

struct World {
  std::string lore;
  std::vector<Character> characters;
};

// One world, or {"worlds": [...]}.
std::vector<World> load_worlds(const std::filesystem::path& path);

bool is_right(const std::string& answer, const std::vector<std::string>& accepted);
std::string readable(const std::string& words);  // joins punctuation: "ah , yes ." -> "ah, yes."

struct Turn {
  size_t character = 0, question = 0;
  uint32_t generation = 0;  // id in the engine
  std::string answer;
  bool right = false;
};

// How characters answer.
struct Manner {
  uint32_t max_tokens = 32;
  SamplingParams sampling;  // the seed is moved on for each character and question
};

// Asks every question of every character; `on_turn` sees each turn when it ends. Turns come back
// ordered by character, then question.
std::vector<Turn> run_dialogue(const World& world, const Tokenizer& tokenizer, Engine* engine,
                               const Manner& manner,
                               const std::function<void(const Turn&)>& on_turn);

}  // namespace npc
