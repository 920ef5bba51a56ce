// What passes over whole rows of logits: the kernels of sampling that every target has.
//
// A row is looked at in groups of kGroupTokens tokens: a group's highest score says whether any of
// its tokens can matter, its sum of weights whether a draw falls into it.
#pragma once

#include <cstdint>

namespace radixattn {

constexpr uint32_t kGroupTokens = 64;
constexpr uint32_t kPickRoom = kGroupTokens + 16;  // whole vectors are stored

inline uint32_t groups_of(uint32_t vocab) { return (vocab + kGroupTokens - 1) / kGroupTokens; }

struct RowScan {
  float max;  // of all; any number when `bad`
  bool bad;   // some score is NaN or +inf
};

}  // namespace radixattn
