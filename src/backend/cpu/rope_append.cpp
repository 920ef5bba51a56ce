// Rotary embedding and the write of K and V, in one pass over the tokens.
//
// The angles of a token are position * frequency in double; sin and cos of them, one row a token,
// serve all its heads. A head is widened to f32 on the stack, turned there, and stored once in the
// dtype of its destination: q where it came from, k and v in their slots.
//
// sin and cos: the angle is reduced by k * pi/2 with pi/2 in three parts of 22, 22 and 53 bits, so
// that k * part is exact for k < 2^31; the rest, at most pi/4, goes into Taylor polynomials in
// double, whose first omitted terms are below 4e-13. What remains is the rounding to f32, at any
// position.
// NOTE: plain loops, not Highway: they are branch-free and call nothing, so the compiler vectorises
// them for every target. libm's sin and cos would keep it from that.
#include "backend/cpu/rope_append.h"

#include "backend/cpu/kernel_set-inl.h"
#include "backend/cpu/simd-inl.h"

namespace radixattn {
namespace RADIX_CPU_TARGET_NS {
namespace {

constexpr uint32_t kMaxHeadDim = 256;

RADIX_INLINE uint64_t double_bits(double x) {
  uint64_t u;
  __builtin_memcpy(&u, &x, 8);
  return u;
}

RADIX_INLINE double bits_double(uint64_t u) {
  double x;
  __builtin_memcpy(&x, &u, 8);
  return x;
}

// Taylor polynomials for |r| <= pi/4.
RADIX_INLINE double sin_taylor(double r) {
  const double z = r * r;
  double p = 1.0 / 6227020800.0;
  p = p * z - 1.0 / 39916800.0;
  p = p * z + 1.0 / 362880.0;
  p = p * z - 1.0 / 5040.0;
  p = p * z + 1.0 / 120.0;
  p = p * z - 1.0 / 6.0;
  return r + r * z * p;
}

RADIX_INLINE double cos_taylor(double r) {
  const double z = r * r;
  double p = 1.0 / 479001600.0;
  p = p * z - 1.0 / 3628800.0;
  p = p * z + 1.0 / 40320.0;
  p = p * z - 1.0 / 720.0;
  p = p * z + 1.0 / 24.0;
  p = p * z - 0.5;
  return 1.0 + z * p;
}

// angle in [0, 2^31).
RADIX_INLINE void sin_cos(double angle, double* sine, double* cosine) {
  constexpr double kTwoOverPi = 0x1.45f306dc9c883p-1;
  constexpr double kHigh = 0x1.921fb0p+0;    // 22 bits of pi/2
  constexpr double kMiddle = 0x1.5110bp-22;  // the next 22
  constexpr double kLow = 0x1.18469898cc517p-44;
  constexpr double kMagic =
      0x1.8p52;  // adding it rounds to an integer, which the low bits then hold
  const double shifted = angle * kTwoOverPi + kMagic;
  const uint64_t quadrant = double_bits(shifted);
  const double k = shifted - kMagic;
  const double r = ((angle - k * kHigh) - k * kMiddle) - k * kLow;
  const double s = sin_taylor(r);
  const double c = cos_taylor(r);
  // Odd quadrants swap the two; bit 1 of k flips the sine, bit 1 of k + 1 the cosine.
  const uint64_t odd = 0 - (quadrant & 1);
  const uint64_t s_bits = (double_bits(s) & ~odd) | (double_bits(c) & odd);
  const uint64_t c_bits = (double_bits(c) & ~odd) | (double_bits(s) & odd);
  *sine = bits_double(s_bits ^ ((quadrant & 2) << 62));
  *cosine = bits_double(c_bits ^ (((quadrant + 1) & 2) << 62));
}

// The row of one token: cos and sin of every pair, times the attention factor.
struct Turn {
  alignas(64) float cosine[kMaxRotaryPairs];
  alignas(64) float sine[kMaxRotaryPairs];
};

void set_turn(const RopeAppendJob& job, int32_t position, Turn* turn) {
  const uint32_t pairs = job.params->rotary_dim / 2;
  const double at = position;
  const double factor = static_cast<double>(job.frequencies.factor);
  for (uint32_t i = 0; i < pairs; ++i) {
    double s, c;
    sin_cos(at * job.frequencies.of_pair[i], &s, &c);
    turn->cosine[i] = static_cast<float>(c * factor);
    turn->sine[i] = static_cast<float>(s * factor);
  }
}

// ---- one head -----------------------------------------------------------------------------------

void turn_neox(const Turn& turn, uint32_t pairs, float* x) {
  float* __restrict__ low = x;
  float* __restrict__ high = x + pairs;
  for (uint32_t i = 0; i < pairs; ++i) {
    const float a = low[i], b = high[i];
    low[i] = a * turn.cosine[i] - b * turn.sine[i];
    high[i] = a * turn.sine[i] + b * turn.cosine[i];
  }
}

void turn_interleaved(const Turn& turn, uint32_t pairs, float* x) {
  for (uint32_t i = 0; i < pairs; ++i) {
    const float a = x[2 * i], b = x[2 * i + 1];
    x[2 * i] = a * turn.cosine[i] - b * turn.sine[i];
    x[2 * i + 1] = a * turn.sine[i] + b * turn.cosine[i];
  }
}

RADIX_INLINE void turn_head(const RopeAppendParams& p, const Turn& turn, float* x) {
  if (p.style == RADIX_ROPE_NEOX) {
    turn_neox(turn, p.rotary_dim / 2, x);
  } else {
    turn_interleaved(turn, p.rotary_dim / 2, x);
  }
}

// Heads of one token from rows to wherever they go; turn null: as they are. `to` and `from` may be
// the same head.
struct HeadCopy {
  const void* from;
  int64_t from_stride;  // elements from head to head
  void* to;
  int64_t to_stride;
  uint32_t heads;
  uint32_t dim;
};

template <class From, class To>
void copy_heads(const RopeAppendParams& p, const Turn* turn, const HeadCopy& c) {
  alignas(64) float x[kMaxHeadDim];
  for (uint32_t h = 0; h < c.heads; ++h) {
    row_to_f32(static_cast<const From*>(c.from) + h * c.from_stride, x, c.dim);
    if (turn != nullptr) turn_head(p, *turn, x);
    row_from_f32(x, static_cast<To*>(c.to) + h * c.to_stride, c.dim);
  }
}

using CopyFn = void (*)(const RopeAppendParams&, const Turn*, const HeadCopy&);

template <class From>
CopyFn copy_to(int32_t to) {
  return to == RADIX_F32   ? copy_heads<From, F32>
         : to == RADIX_F16 ? copy_heads<From, F16>
                           : copy_heads<From, BF16>;
}

CopyFn copy_fn(int32_t from, int32_t to) {
  return from == RADIX_F32   ? copy_to<F32>(to)
         : from == RADIX_F16 ? copy_to<F16>(to)
                             : copy_to<BF16>(to);
}

// ---- addresses ----------------------------------------------------------------------------------

RADIX_INLINE int64_t element_bytes(int32_t dtype) { return dtype == RADIX_F32 ? 4 : 2; }

RADIX_INLINE char* row_at(const RowTensor& t, uint64_t token) {
  return static_cast<char*>(t.data) +
         static_cast<int64_t>(token) * t.row_stride * element_bytes(t.dtype);
}

RADIX_INLINE char* slot_at(const PagedTensor& t, int64_t block, int64_t offset) {
  return static_cast<char*>(t.data) +
         (block * t.block_stride + offset * t.token_stride) * element_bytes(t.dtype);
}

}  // namespace

void rope_append(const RopeAppendJob& job, uint64_t token_begin, uint64_t token_end) {
  const RopeAppendParams& p = *job.params;
  const CopyFn copy_q = copy_fn(p.q.dtype, p.q.dtype);
  const CopyFn copy_k = copy_fn(p.k.dtype, p.k_cache.dtype);
  const CopyFn copy_v = copy_fn(p.v.dtype, p.v_cache.dtype);
  Turn row;
  const Turn* turn = p.rotary_dim != 0 ? &row : nullptr;
  for (uint64_t t = token_begin; t < token_end; ++t) {
    if (p.slots[t] < 0) continue;
    if (turn != nullptr) {
      set_turn(job, p.positions[t], &row);
      char* q = row_at(p.q, t);
      copy_q(p, turn, {q, p.q.head_stride, q, p.q.head_stride, p.num_q_heads, p.head_dim});
    }
    const int64_t block = p.slots[t] / p.block_size;
    const int64_t offset = p.slots[t] % p.block_size;
    copy_k(p, turn,
           {row_at(p.k, t), p.k.head_stride, slot_at(p.k_cache, block, offset),
            p.k_cache.head_stride, p.num_kv_heads, p.head_dim});
    copy_v(p, nullptr,
           {row_at(p.v, t), p.v.head_stride, slot_at(p.v_cache, block, offset),
            p.v_cache.head_stride, p.num_kv_heads, p.head_dim_v});
  }
}

}  // namespace RADIX_CPU_TARGET_NS
}  // namespace radixattn
