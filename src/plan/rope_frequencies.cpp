#include "plan/rope_frequencies.h"

#include <cmath>

namespace radixattn {
namespace {

constexpr double kPi = 3.14159265358979323846;

// How much of position interpolation a pair gets under YaRN: 0 for fast pairs, 1 for slow ones.
struct YarnRamp {
  double low = 0, high = 1;

  explicit YarnRamp(const RopeAppendParams& p) {
    low = std::fmax(std::floor(pair_that_turns(p, p.beta_fast)), 0.0);
    high = std::fmin(std::ceil(pair_that_turns(p, p.beta_slow)), p.rotary_dim - 1.0);
    if (low == high) high += 0.001;
  }
  double at(uint32_t pair) const {
    return std::fmin(std::fmax((pair - low) / (high - low), 0.0), 1.0);
  }

 private:
  // The pair, as a real number, that turns `turns` times over the original context.
  static double pair_that_turns(const RopeAppendParams& p, double turns) {
    const double wavelength = p.original_max_position / turns;
    return 0.5 * p.rotary_dim * std::log(wavelength / (2 * kPi)) / std::log(double{p.theta});
  }
};

double llama3_frequency(const RopeAppendParams& p, double f) {
  const double turns = p.original_max_position * f / (2 * kPi);  // over the original context
  const double low = p.low_freq_factor, high = p.high_freq_factor;
  if (turns < low) return f / p.scale;
  if (turns > high) return f;
  const double keep = (turns - low) / (high - low);
  return keep * f + (1 - keep) * f / p.scale;
}

}  // namespace

RopeFrequencies rope_frequencies(const RopeAppendParams& p) {
  RopeFrequencies r;
  const bool yarn = p.scaling == RADIX_ROPE_SCALE_YARN && p.rotary_dim != 0;
  const YarnRamp ramp = yarn ? YarnRamp(p) : YarnRamp(RopeAppendParams{});
  for (uint32_t i = 0; i < p.rotary_dim / 2; ++i) {
    const double f = std::pow(double{p.theta}, -2.0 * i / p.rotary_dim);
    r.of_pair[i] = f;
    if (p.scaling == RADIX_ROPE_SCALE_LINEAR) r.of_pair[i] = f / p.scale;
    if (p.scaling == RADIX_ROPE_SCALE_LLAMA3) r.of_pair[i] = llama3_frequency(p, f);
    if (yarn) r.of_pair[i] = f + ramp.at(i) * (f / p.scale - f);
  }
  if (!yarn) return r;
  const double by_scale = p.scale > 1.f ? 0.1 * std::log(double{p.scale}) + 1.0 : 1.0;
  r.factor = p.attention_factor != 0.f ? p.attention_factor : static_cast<float>(by_scale);
  return r;
}

}  // namespace radixattn
