// Beam search: the `width` most probable continuations, kept side by side as forks of one request.
//
// Beams share the blocks of what they have in common; a beam that is dropped gives back what was
// its own alone. Scores are sums of log-probabilities of the model's own distribution, divided by
// length^length_penalty when they are compared at the end (Wu et al. 2016).
#pragma once

#include <cstdint>
#include <vector>

#include "attention.h"
#include "cache.h"
#include "model.h"
#include "sampler.h"

namespace npc {

struct BeamOptions {
  uint32_t width = 4;
  uint32_t max_new_tokens = 32;
  float length_penalty = 1;
};

struct Hypothesis {
  std::vector<int32_t> output;  // the ending token included
  double logprob = 0;           // of all of it
  double score = 0;             // logprob / output.size() ^ length_penalty
};

// What a search works with. step_rows: rows a step computes at most; cache_on: prefixes are
// matched, and kept for later.
struct BeamWorkshop {
  Cache* cache;
  Model* model;
  Attention* attention;
  Sampler* sampler;
  uint32_t step_rows;
  bool cache_on;
};

// Best first, at most `width`. A search ends when `width` hypotheses have ended and no living
// beam's score, at its present length, is better than the worst of them, or at max_new_tokens.
// Throws Error when blocks run out; no request is left then.
std::vector<Hypothesis> beam_search(const BeamWorkshop& workshop,
                                    const std::vector<int32_t>& prompt, const BeamOptions& options);

}  // namespace npc
