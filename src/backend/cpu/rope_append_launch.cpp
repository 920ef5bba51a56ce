// Checks a rotary launch, computes its frequencies and cuts its tokens into one range a worker.
#include <cmath>

#include "backend/cpu/kernels.h"
#include "backend/cpu/rope_append.h"
#include "base/error.h"
#include "base/executor.h"

namespace radixattn {
namespace {

constexpr double kPi = 3.14159265358979323846;

// A token of 40 heads takes about 2 us: less than this is not worth another thread.
constexpr uint64_t kMinTokens = 16;

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

void set_frequencies(const RopeAppendParams& p, RopeAppendJob* job) {
  const bool yarn = p.scaling == RADIX_ROPE_SCALE_YARN && p.rotary_dim != 0;
  const YarnRamp ramp = yarn ? YarnRamp(p) : YarnRamp(RopeAppendParams{});
  for (uint32_t i = 0; i < p.rotary_dim / 2; ++i) {
    const double f = std::pow(double{p.theta}, -2.0 * i / p.rotary_dim);
    double scaled = f;
    if (p.scaling == RADIX_ROPE_SCALE_LINEAR) scaled = f / p.scale;
    if (p.scaling == RADIX_ROPE_SCALE_LLAMA3) scaled = llama3_frequency(p, f);
    if (yarn) scaled = f + ramp.at(i) * (f / p.scale - f);
    job->frequency[i] = scaled;
  }
  if (!yarn) return;
  const double by_scale = p.scale > 1.f ? 0.1 * std::log(double{p.scale}) + 1.0 : 1.0;
  job->attention_factor =
      p.attention_factor != 0.f ? p.attention_factor : static_cast<float>(by_scale);
}

radix_status check_tokens(const RopeAppendParams& p) {
  const int64_t num_slots = int64_t{p.num_blocks} * p.block_size;
  for (uint64_t t = 0; t < p.num_tokens; ++t) {
    if (p.slots[t] < 0) continue;
    if (p.slots[t] >= num_slots) {
      return fail(RADIX_E_INVALID, "slots[%llu] is %lld: expected less than %lld, or negative",
                  static_cast<unsigned long long>(t), static_cast<long long>(p.slots[t]),
                  static_cast<long long>(num_slots));
    }
    if (p.rotary_dim != 0 && p.positions[t] < 0) {
      return fail(RADIX_E_INVALID, "positions[%llu] is %d: expected 0 or more",
                  static_cast<unsigned long long>(t), p.positions[t]);
    }
  }
  return RADIX_OK;
}

// What the tasks of one launch share.
struct Run {
  const CpuKernels* kernels;
  const RopeAppendJob* job;
  uint64_t ranges;
};

void RADIX_CALL run_range(void* arg, uint32_t index) {
  const Run& run = *static_cast<const Run*>(arg);
  const uint64_t n = run.job->params->num_tokens;
  run.kernels->rope_append(*run.job, n * index / run.ranges, n * (index + 1) / run.ranges);
}

}  // namespace

radix_status cpu_rope_append(const CpuKernels& kernels, const RopeAppendParams& p,
                             Executor& executor) {
  if (p.num_tokens == 0) return RADIX_OK;
  if (const radix_status st = check_tokens(p); st != RADIX_OK) return st;
  RopeAppendJob job;
  job.params = &p;
  set_frequencies(p, &job);
  const uint64_t useful = (p.num_tokens + kMinTokens - 1) / kMinTokens;
  const uint64_t ranges = useful < executor.workers() ? useful : executor.workers();
  Run run = {&kernels, &job, ranges};
  executor.parallel_for(static_cast<uint32_t>(ranges), run_range, &run);
  return RADIX_OK;
}

}  // namespace radixattn
