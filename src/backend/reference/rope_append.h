// Rotary position embedding and the write of K and V, as they are defined: the specification of
// every backend.
//
// Rotary embedding: Su et al. 2021, "RoFormer" (arXiv:2104.09864). Of the first d = rotary_dim
// elements of a head, pair i (0 <= i < d/2) turns by the angle position * f_i; the rest stays:
//
//   pair i = (x[i], x[i + d/2])  NeoX;  (x[2i], x[2i + 1])  interleaved
//   (a, b) -> (a cos - b sin, a sin + b cos) * attention factor
//
// Frequencies, with f = theta^(-2i/d), as Hugging Face transformers defines them
// (modeling_rope_utils.py):
//
//   none     f_i = f
//   linear   position interpolation, Chen et al. 2023 (arXiv:2306.15595). f_i = f / scale
//   llama3   wavelength w = 2 pi / f; original = original_max_position
//            w > original / low_freq_factor:   f_i = f / scale
//            w < original / high_freq_factor:  f_i = f
//            else  s = (original / w - low_freq_factor) / (high_freq_factor - low_freq_factor)
//                  f_i = (1 - s) f / scale + s f
//   yarn     Peng et al. 2023 (arXiv:2309.00071). c(b) = d ln(original / (2 pi b)) / (2 ln theta)
//            low = max(floor(c(beta_fast)), 0), high = min(ceil(c(beta_slow)), d - 1);
//            equal: high += 0.001
//            r = clamp((i - low) / (high - low), 0, 1);  f_i = (1 - r) f + r f / scale
//            attention factor: as given, or 0.1 ln(scale) + 1 (1 when scale <= 1)
//
// The attention factor of all others is 1.
//
// Everything in double. Compiled into tests only.
#pragma once

#include "backend/backend.h"

namespace radixattn::reference {

double rope_frequency(const RopeAppendParams& p, uint32_t pair);
double rope_attention_factor(const RopeAppendParams& p);

// Turns one head in place.
void rotate_head(const RopeAppendParams& p, int32_t position, double* head);

// The whole launch: writes q, k_cache and v_cache, each value rounded once to the dtype it is
// stored in.
void rope_append(const RopeAppendParams& p);

}  // namespace radixattn::reference
