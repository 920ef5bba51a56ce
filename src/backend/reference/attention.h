// Paged attention as it is defined: the specification of every backend.
//
// Plain loops in double precision over the arguments of backend.h, two passes for the softmax
// (maximum, then sum), no tiles, no merging, no vectors. Slow on purpose. Compiled into tests only.
//
// For query row r of sequence s at position p = context_len - q_len + (r - first row), query head
// h, KV head h / group, and every key j with max(0, p - window + 1) <= j <= p (window 0: from 0):
//
//   x_j = scale * k_scale * sum_i q[i] k_j[i]
//   softcap > 0:  x_j = softcap * tanh(x_j / softcap)
//   alibi:        x_j = x_j + slope[h] * (j - p)
//   m   = max over j of x_j                      (of the sink too, which only avoids overflow)
//   l   = sum over j of exp(x_j - m)  [+ exp(sink[h] - m)]
//   out = sum over j of exp(x_j - m) / l * v_scale * v_j,  lse = m + ln(l)
//
// With a tree mask the keys before the sequence's new tokens are limited by the window alone, and
// of the new ones the row sees those whose bit is set. A row that sees no key: out = 0, lse =
// -infinity.
#pragma once

#include <vector>

#include "backend/backend.h"

namespace radixattn::reference {

// Results in double, before any rounding to the output's dtype; p.out, p.lse and the workspace are
// not used.
//   out  // [rows, num_q_heads, head_dim_v] dense
//   lse  // [rows, num_q_heads] dense
// rows = cu_q_lens[num_seqs], or num_seqs when cu_q_lens is null (decode). Rows before cu_q_lens[0]
// are not written.
void attention(const AttentionParams& p, double* out, double* lse);

// The keys that query row `row` of sequence `seq`, at `position`, sees, ascending.
std::vector<int64_t> visible_keys(const AttentionParams& p, uint32_t seq, int64_t row,
                                  int64_t position);

}  // namespace radixattn::reference
