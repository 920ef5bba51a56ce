// The arithmetic of sampling: what makes a row's token the same on every backend and in every
// batch.
//
// A token's probability is an integer, its weight: 2^40 for the highest score of the row, and
// floor(2^40 * 2^-a) for one that is a = (max - score) * log2(e) / temperature below it. Sums of
// weights are exact, so no order of adding, no number of threads and no vector width can change
// them. A vocabulary has at most 2^20 tokens: sums stay below 2^60.
//
//   weight of a score -> kept mass: target_weight -> which token: draw_below
//
// Shared by the CPU backend and the CUDA kernels.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "base/host_device.h"

namespace radixattn {

constexpr uint32_t kMaxVocab = 1u << 20;
constexpr int kWeightBits = 40;
constexpr uint64_t kMaxWeight = uint64_t{1} << kWeightBits;

// ---- weights ------------------------------------------------------------------------------------

// log2(e) / temperature: what one unit of score is worth, in powers of two.
RADIX_HOST_DEVICE inline float score_scale(float temperature) { return 1.44269504f / temperature; }

// a = (max - score) * scale as a number of 2^-24, rounded down; kNoWeight when a >= 41, or the
// score is -inf. score <= max, both no NaN; max is finite; scale > 0, perhaps infinite.
constexpr uint32_t kNoWeight = 0xffffffffu;
RADIX_HOST_DEVICE inline uint32_t steps_below(float score, float max, float scale) {
  if (score == max) return 0;  // an infinite scale times 0 is NaN
  const float a = (max - score) * scale;
  return a < 41.f ? static_cast<uint32_t>(a * 16777216.f) : kNoWeight;
}

// floor(2^40 * 2^-a). Falls strictly with each step while a < 1, never rises after that.
//
// 2^-f = 1 - f (c1 - f (c2 - ...)) for f in [0, 1), in units of 2^-32: all terms are positive and
// below 1, so unsigned products suffice. Error below 2^-27 of the value (tests/unit/sample).
RADIX_HOST_DEVICE inline uint64_t weight_of_steps(uint32_t steps) {
  if (steps == kNoWeight) return 0;
  const uint64_t f = uint64_t{steps & 0xffffffu} << 8;
  uint64_t p = 468251;
  p = 5475002u - (f * p >> 32);
  p = 41142264u - (f * p >> 32);
  p = 238330987u - (f * p >> 32);
  p = 1031755804u - (f * p >> 32);
  p = 2977043973u - (f * p >> 32);
  p = (uint64_t{1} << 32) - (f * p >> 32);
  return p << (kWeightBits - 32) >> (steps >> 24);
}

RADIX_HOST_DEVICE inline uint64_t weight_of(float score, float max, float scale) {
  return weight_of_steps(steps_below(score, max, scale));
}

// The least sum that is at least `part` of `total`: ceil(part * total), 1..total. part in (0, 1].
RADIX_HOST_DEVICE inline uint64_t target_weight(float part, uint64_t total) {
  if (part >= 1.f) return total;
  const double product = static_cast<double>(part) * static_cast<double>(total);
  const double rounded = ceil(product);
  const uint64_t target = rounded < 1. ? 1 : static_cast<uint64_t>(rounded);
  return target < total ? target : total;
}

// ---- orders -------------------------------------------------------------------------------------

// Falls when the score rises: the likeliest token has the smallest key. -0 and +0 are the same. Not
// for NaN.
RADIX_HOST_DEVICE inline uint32_t rank_key(float score) {
  const float x = score + 0.f;
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return (bits & 0x80000000u) != 0 ? bits : bits ^ 0x7fffffffu;
}

// How far from typical a token is (Meister et al. 2022), in units of 2^-20 bits: |-log2 p -
// entropy|. -log2 p of a token is its steps plus what is the same for all, and so is the entropy:
// their weighted mean.
struct TypicalSum {
  uint64_t weights = 0, steps = 0;
};
constexpr int kTypicalShift = 16;  // of weights: sums of products stay below 2^64
RADIX_HOST_DEVICE inline uint32_t typical_steps(uint32_t steps) { return steps >> 4; }
RADIX_HOST_DEVICE inline void typical_add(TypicalSum* sum, uint32_t steps, uint64_t weight) {
  const uint64_t w = weight >> kTypicalShift;
  sum->weights += w;
  sum->steps += w * typical_steps(steps);
}
RADIX_HOST_DEVICE inline uint32_t typical_mean(const TypicalSum& sum) {
  return static_cast<uint32_t>(sum.steps / sum.weights);
}
RADIX_HOST_DEVICE inline uint32_t typical_key(uint32_t steps, uint32_t mean) {
  const uint32_t at = typical_steps(steps);
  return at > mean ? at - mean : mean - at;
}

// ---- log-probabilities --------------------------------------------------------------------------

// ln(weight / total), for the distribution that is drawn from.
RADIX_HOST_DEVICE inline float log_share(uint64_t weight, uint64_t total) {
  return static_cast<float>(log(static_cast<double>(weight) / static_cast<double>(total)));
}
// ln softmax of a score at temperature 1: total is the sum of weights with scale log2(e).
RADIX_HOST_DEVICE inline float log_softmax(float score, float max, uint64_t total) {
  const double sum = static_cast<double>(total) / static_cast<double>(kMaxWeight);
  const double below = static_cast<double>(score) - static_cast<double>(max);
  return static_cast<float>(below - log(sum));
}

// ---- draws --------------------------------------------------------------------------------------

// High half of a 64 x 64 bit product.
RADIX_HOST_DEVICE inline uint64_t high_product(uint64_t a, uint64_t b) {
  const uint64_t a0 = a & 0xffffffffu, a1 = a >> 32, b0 = b & 0xffffffffu, b1 = b >> 32;
  const uint64_t low = a0 * b0, m0 = a1 * b0, m1 = a0 * b1;
  const uint64_t carry = ((low >> 32) + (m0 & 0xffffffffu) + (m1 & 0xffffffffu)) >> 32;
  return a1 * b1 + (m0 >> 32) + (m1 >> 32) + carry;
}

// 64 random bits: Philox 4x32-10 (Salmon, Moraes, Dror & Shaw 2011), key `seed`, counter
// (position, stream, 0). Streams keep the draws of one position apart.
constexpr uint32_t kTokenStream = 0;   // the token itself
constexpr uint32_t kAcceptStream = 1;  // whether drafted child i stands: kAcceptStream + i
RADIX_HOST_DEVICE inline uint64_t philox_bits(uint64_t seed, uint64_t position, uint32_t stream) {
  uint32_t c0 = static_cast<uint32_t>(position), c1 = static_cast<uint32_t>(position >> 32);
  uint32_t c2 = stream, c3 = 0;
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xd2511f53u} * c0, p1 = uint64_t{0xcd9e8d57u} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9e3779b9u;
    k1 += 0xbb67ae85u;
  }
  return uint64_t{c1} << 32 | c0;
}

// A number of [0, total) from 64 random bits; each has probability 1 / total to within 2^-64. The
// token drawn is the first, in order of ids, whose weight added to those before it passes the
// number.
RADIX_HOST_DEVICE inline uint64_t draw_below(uint64_t bits, uint64_t total) {
  return high_product(bits, total);
}

// ---- rejection sampling -------------------------------------------------------------------------
// Products of two sums do not fit 64 bits, so shares are f64: each operation is one IEEE rounding,
// the same everywhere.

// A draft's probability as a weight: floor(q * 2^40), 0 for what is no probability.
RADIX_HOST_DEVICE inline uint64_t draft_weight(float q) {
  if (!(q > 0.f)) return 0;
  return q < 1.f ? static_cast<uint64_t>(q * static_cast<float>(kMaxWeight)) : kMaxWeight;
}
RADIX_HOST_DEVICE inline double share_of(uint64_t weight, uint64_t total) {
  return static_cast<double>(weight) / static_cast<double>(total);
}
// With probability min(1, p / q): whether a drafted token stands. p: its weight in the target, q:
// in the draft. A token that the draft could not have drawn stands if the target can draw it.
RADIX_HOST_DEVICE inline bool draft_stands(uint64_t p, uint64_t p_total, uint64_t q,
                                           uint64_t q_total, uint64_t bits) {
  if (p == 0) return false;
  if (q == 0) return true;
  const double ratio = share_of(p, p_total) / share_of(q, q_total);
  return static_cast<double>(bits >> 11) * 0x1p-53 < ratio;
}
// max(p - q, 0) of a token, as a weight: multiples of 2^-52. q_total > 0.
RADIX_HOST_DEVICE inline uint64_t residual_weight(uint64_t p, uint64_t p_total, uint64_t q,
                                                  uint64_t q_total) {
  const double rest = share_of(p, p_total) - share_of(q, q_total);
  return rest > 0. ? static_cast<uint64_t>(rest * 0x1p52) : 0;
}

}  // namespace radixattn
