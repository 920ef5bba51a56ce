// The angles of rotary embedding: how far each pair of elements turns from position to position. A
// pure function of the launch's options, in double; the mathematics is that of
// backend/reference/rope_append.h.
#pragma once

#include "backend/backend.h"

namespace radixattn {

constexpr uint32_t kMaxRotaryPairs = 128;  // head_dim <= 256

struct RopeFrequencies {
  float factor = 1.f;                    // multiplies cos and sin (YaRN)
  double of_pair[kMaxRotaryPairs] = {};  // [rotary_dim / 2] radians a position, scaling applied
};

RopeFrequencies rope_frequencies(const RopeAppendParams& p);

}  // namespace radixattn
