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
  Reads reads;
  std::string sharing_graph;  // with EngineOptions::keep_graph
  double seconds = 0;
  std::string device;       // cpu or cuda
  std::string device_name;  // as the device calls itself

  uint64_t prompt_tokens() const;
  uint64_t cached_tokens() const;
  uint64_t computed_tokens() const;
  uint64_t drafted_tokens() const;
  uint64_t accepted_drafts() const;
  uint64_t right_answers() const;
};

struct Comparison {
  bool identical_tokens = false;
  uint64_t equal_answers = 0;   // to equal prompts, token by token
  uint64_t rows = 0;            // logit rows compared
  uint64_t identical_rows = 0;  // of these, equal bit for bit
  float max_logit_diff = 0;
  bool must_be_identical = false;  // bit for bit: batch-invariant attention on the CPU
  double speedup = 0;              // seconds of the second run over seconds of the first
};

Comparison compare(const RunResult& first, const RunResult& second);

void print_table_head();
void print_turn(const Character& character, const Turn& turn, const Generation& g);
void print_summary(const RunResult& cached, const RunResult& uncached, const Comparison& c);
void write_json(const std::string& path, const RunResult& cached, const RunResult& uncached,
                const Comparison& c);

// The same questions on two devices.
void print_device_summary(const RunResult& cpu, const RunResult& cuda, const Comparison& c);
void write_device_json(const std::string& path, const RunResult& cpu, const RunResult& cuda,
                       const Comparison& c);

}  // namespace npc
