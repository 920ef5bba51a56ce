// Random heads and options of an attention case: what the random tests have in common.
#pragma once

#include "support/attention_case.h"
#include "support/rng.h"

namespace radixattn::test {

inline void random_heads(Rng& rng, Shape* s) {
  const uint32_t groups[] = {1, 1, 2, 3, 4, 4, 5, 7, 8, 16};
  const uint32_t dims[] = {32, 40, 64, 72, 80, 96, 128, 128, 192, 256};
  s->kv_heads = rng.between(1, 4);
  s->q_heads = s->kv_heads * rng.pick(groups);
  s->dim = rng.one_in(4) ? 8 * rng.between(4, 32) : rng.pick(dims);
  s->dim_v = rng.one_in(3) ? 8 * rng.between(4, 32) : s->dim;
}

inline void random_options(Rng& rng, Shape* s) {
  const int32_t dtypes[] = {RADIX_F32, RADIX_F16, RADIX_BF16};
  const uint32_t blocks[] = {1, 2, 3, 5, 8, 16, 16, 24, 32, 64, 100, 256};
  const Layout layouts[] = {Layout::kNhd, Layout::kHnd, Layout::kPaddedNhd};
  const float amplitudes[] = {1.f, 1.f, 4.f, 20.f};
  s->block_size = rng.pick(blocks);
  s->window = rng.one_in(3) ? rng.between(1, 200) : 0;
  s->softcap = rng.one_in(4) ? 0.5f + 30.f * (1.f + rng.uniform()) : 0.f;
  s->alibi = rng.one_in(4);
  s->sinks = rng.one_in(4);
  s->layout = rng.pick(layouts);
  s->csr = rng.one_in(3);
  s->shared_prefix = rng.one_in(3);
  s->padded_rows = rng.one_in(3);
  s->lse = !rng.one_in(4);
  s->k_dtype = rng.pick(dtypes);
  s->v_dtype = rng.one_in(5) ? rng.pick(dtypes) : s->k_dtype;
  s->q_dtype = rng.pick(dtypes);
  s->out_dtype = rng.pick(dtypes);
  s->amplitude = rng.pick(amplitudes);
  s->v_offset = rng.one_in(3) ? 1.f : 0.f;
  s->max_context = rng.one_in(3) ? rng.between(2600, 100000) : 0;
}

}  // namespace radixattn::test
