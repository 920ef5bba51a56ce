// The plain computation in f32 that tolerances are measured by (tolerance.h): the reference's loops
// with float in the place of double, and nothing else changed.
#pragma once

#include "backend/backend.h"

namespace radixattn::test {

// compute: the dtype in which queries and weights meet K and V; RADIX_F32 on the CPU, 16 bits on
// tensor cores.
// out // [rows, num_q_heads, head_dim_v] dense;  lse // [rows, num_q_heads] dense
void plain_attention(const AttentionParams& p, int32_t compute, float* out, float* lse);

}  // namespace radixattn::test
