// What the demo shows: the live table, the comparison of two runs, and the same as JSON.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "dialogue.h"
#include "engine.h"

namespace npc {

// One run of all conversations, cached or not.
struct RunResult {
  std::vector<Turn> turns;              // by character, then question
  std::vector<Generation> generations;  // [turns]
  uint64_t peak_kv_bytes = 0;
  uint64_t steps = 0;
  double seconds = 0;

  uint64_t prompt_tokens() const;
  uint64_t cached_tokens() const;
  uint64_t computed_tokens() const;
  uint64_t right_answers() const;
};

struct Comparison {
  bool identical_tokens = false;
  uint64_t rows = 0;            // logit rows compared
  uint64_t identical_rows = 0;  // of these, equal bit for bit
  float max_logit_diff = 0;
  double speedup = 0;  // seconds without the cache over seconds with it
};

Comparison compare(const RunResult& cached, const RunResult& uncached);

void print_table_head();
void print_turn(const Character& character, const Turn& turn, const Generation& g);
void print_summary(const RunResult& cached, const RunResult& uncached, const Comparison& c);
void write_json(const std::string& path, const RunResult& cached, const RunResult& uncached,
                const Comparison& c);

}  // namespace npc
