// The plain computation in f32 that tolerances are measured by (tolerance.h): the reference's loops
// with float in the place of double, and nothing else changed.
#pragma once

#include "backend/backend.h"

namespace radixattn::test {

// out // [rows, num_q_heads, head_dim_v] dense;  lse // [rows, num_q_heads] dense
void plain_attention(const AttentionParams& p, float* out, float* lse);

}  // namespace radixattn::test
