// Passes over a row of scores (compiled once for every target): its maximum, its weights. Integer
// sums and single roundings: the same bits on every target.
#include "backend/cpu/sample_kernels.h"

#include "backend/cpu/kernel_set-inl.h"
#include "backend/cpu/simd-inl.h"
#include "sample/weights.h"

namespace radixattn {
namespace RADIX_CPU_TARGET_NS {
namespace {

constexpr float kInf = __builtin_inff();

// One group of at most kGroupTokens tokens.
template <class T>
RADIX_INLINE float scan_group(const T* from, uint32_t n, float* copy, bool* bad) {
  const DF d;
  VF top = hn::Set(d, -kInf);
  auto good = hn::Eq(top, top);
  uint32_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const VF x = load_f32(from + i);
    if (copy != nullptr) hn::StoreU(x, d, copy + i);
    good = hn::And(good, hn::Lt(x, hn::Set(d, kInf)));
    top = hn::Max(top, x);
  }
  float lanes[kLanes];
  hn::StoreU(top, d, lanes);
  float max = lanes[0];
  for (size_t lane = 1; lane < kLanes; ++lane) max = lanes[lane] > max ? lanes[lane] : max;
  if (!hn::AllTrue(d, good)) *bad = true;
  for (; i < n; ++i) {
    const float x = to_f32(from[i]);
    if (copy != nullptr) copy[i] = x;
    if (!(x < kInf)) *bad = true;
    max = x > max ? x : max;
  }
  return max;
}

template <class T>
RADIX_INLINE RowScan scan_as(const T* row, uint32_t vocab, float* copy, float* group_max) {
  RowScan scan = {-kInf, false};
  for (uint32_t at = 0; at < vocab; at += kGroupTokens) {
    const uint32_t n = vocab - at < kGroupTokens ? vocab - at : kGroupTokens;
    const float max = scan_group(row + at, n, copy != nullptr ? copy + at : nullptr, &scan.bad);
    group_max[at / kGroupTokens] = max;
    scan.max = max > scan.max ? max : scan.max;
  }
  return scan;
}

// The sum of n weights; `out`: each of them, or null.
#if HWY_TARGET == HWY_SCALAR

RADIX_INLINE uint64_t weigh(const float* scores, uint32_t n, float max, float scale,
                            uint64_t* out) {
  uint64_t sum = 0;
  for (uint32_t i = 0; i < n; ++i) {
    const uint64_t weight = weight_of(scores[i], max, scale);
    if (out != nullptr) out[i] = weight;
    sum += weight;
  }
  return sum;
}

#else

using DU64 = hn::Repartition<uint64_t, DF>;
using VU64 = hn::Vec<DU64>;

// weight_of_steps of the even lanes of `steps`.
RADIX_INLINE VU64 even_weights(hn::Vec<DU> steps) {
  const DU du;
  const DU64 d;
  const auto f = hn::ShiftLeft<8>(hn::And(steps, hn::Set(du, 0xffffffu)));
  const auto times_f = [&](VU64 p) {
    return hn::ShiftRight<32>(hn::MulEven(f, hn::BitCast(du, p)));
  };
  VU64 p = hn::Set(d, 468251);
  p = hn::Sub(hn::Set(d, 5475002), times_f(p));
  p = hn::Sub(hn::Set(d, 41142264), times_f(p));
  p = hn::Sub(hn::Set(d, 238330987), times_f(p));
  p = hn::Sub(hn::Set(d, 1031755804), times_f(p));
  p = hn::Sub(hn::Set(d, 2977043973u), times_f(p));
  p = hn::Sub(hn::Set(d, uint64_t{1} << 32), times_f(p));
  const auto whole = hn::And(hn::BitCast(d, hn::ShiftRight<24>(steps)), hn::Set(d, 0xff));
  return hn::Shr(hn::ShiftLeft<kWeightBits - 32>(p), whole);
}

// steps_below; what weighs nothing gets 127 << 24, which shifts every weight away.
RADIX_INLINE hn::Vec<DU> vector_steps(VF x, VF top, VF scale) {
  const DF d;
  const DI di;
  VF a = hn::Mul(hn::Sub(top, x), scale);
  a = hn::IfThenElse(hn::Eq(x, top), hn::Zero(d), a);  // 0 times an infinite scale
  const auto inside = hn::Lt(a, hn::Set(d, 41.f));
  const VF units = hn::IfThenElseZero(inside, hn::Mul(a, hn::Set(d, 16777216.f)));
  const auto steps =
      hn::IfThenElse(hn::RebindMask(di, inside), hn::ConvertTo(di, units), hn::Set(di, 127 << 24));
  return hn::BitCast(DU(), steps);
}

RADIX_INLINE uint64_t weigh(const float* scores, uint32_t n, float max, float scale,
                            uint64_t* out) {
  const DF d;
  const DU64 d64;
  const VF top = hn::Set(d, max), factor = hn::Set(d, scale);
  VU64 sum = hn::Zero(d64);
  uint32_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const auto steps = vector_steps(hn::LoadU(d, scores + i), top, factor);
    const VU64 even = even_weights(steps);
    const VU64 odd = even_weights(hn::BitCast(DU(), hn::ShiftRight<32>(hn::BitCast(d64, steps))));
    if (out != nullptr) hn::StoreInterleaved2(even, odd, d64, out + i);
    sum = hn::Add(sum, hn::Add(even, odd));
  }
  uint64_t lanes[kLanes], total = 0;
  hn::StoreU(sum, d64, lanes);
  for (size_t lane = 0; lane < kLanes / 2; ++lane) total += lanes[lane];
  for (; i < n; ++i) {
    const uint64_t weight = weight_of(scores[i], max, scale);
    if (out != nullptr) out[i] = weight;
    total += weight;
  }
  return total;
}

#endif

}  // namespace

RowScan scan_row(const void* row, int32_t dtype, uint32_t vocab, float* copy, float* group_max) {
  if (dtype == RADIX_F16) return scan_as(static_cast<const F16*>(row), vocab, copy, group_max);
  if (dtype == RADIX_BF16) return scan_as(static_cast<const BF16*>(row), vocab, copy, group_max);
  return scan_as(static_cast<const F32*>(row), vocab, copy, group_max);
}

uint64_t sum_weights(const float* scores, uint32_t vocab, float max, float scale,
                     uint64_t* group_sums) {
  uint64_t total = 0;
  for (uint32_t at = 0; at < vocab; at += kGroupTokens) {
    const uint32_t n = vocab - at < kGroupTokens ? vocab - at : kGroupTokens;
    const uint64_t sum = weigh(scores + at, n, max, scale, nullptr);
    group_sums[at / kGroupTokens] = sum;
    total += sum;
  }
  return total;
}

uint32_t pick_group(const float* scores, uint32_t n, float bound, uint32_t* picked) {
  const DF d;
  const DU du;
  const VF least = hn::Set(d, bound);
  uint32_t i = 0;
  size_t count = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const auto mask = hn::RebindMask(du, hn::Ge(hn::LoadU(d, scores + i), least));
    count += hn::CompressStore(hn::Iota(du, i), mask, du, picked + count);
  }
  for (; i < n; ++i) {
    picked[count] = i;
    count += scores[i] >= bound ? 1 : 0;
  }
  return static_cast<uint32_t>(count);
}

void weigh_group(const float* scores, uint32_t n, float max, float scale, uint64_t* weights) {
  weigh(scores, n, max, scale, weights);
}

}  // namespace RADIX_CPU_TARGET_NS
}  // namespace radixattn
