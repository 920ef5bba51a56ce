// Sampling and verification as they are defined: every cut is a full sort and a sum. The
// specification of every backend; results are compared bit for bit. Meaning: radix_sample and
// radix_verify in the public header, weights and draws in sample/weights.h.
//
// Compiled into tests only.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/backend.h"

namespace radixattn::reference {

// What a row's token is drawn from: weights[t], 0 for what no cut left or what cannot be drawn.
struct Distribution {
  int32_t status = RADIX_ROW_OK;
  std::vector<float> raw, scores;  // before and after mask, biases, penalties
  std::vector<uint64_t> weights;
};
Distribution distribution_of(const SampleParams& p, uint32_t row);

// Writes the outputs that p has; never fails.
void sample(const SampleParams& p);
void verify(const VerifyParams& p);

}  // namespace radixattn::reference
