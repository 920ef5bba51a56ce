// The command line of npc_demo.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine.h"

namespace npc {

struct Options {
  bool help = false;
  bool compare_devices = false;
  std::string model;  // default: beside the sources
  std::string data;
  std::string json;                     // write the summary here
  std::string graph;                    // write what the requests share here
  std::string eval;                     // held-out worlds: count right answers
  std::vector<std::string> prompts;     // generate freely instead
  std::vector<std::string> prompt_ids;  // the same from token ids "1,2,3"
  uint32_t max_tokens = 32;
  uint32_t num_samples = 1;  // of each prompt
  uint32_t beams = 0;        // 0: no beam search
  SamplingParams sampling;
  EngineOptions engine;
};

Options parse_options(int argc, const char* const* argv);  // throws Error on anything unknown
const char* usage();

}  // namespace npc
