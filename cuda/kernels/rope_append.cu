// Rotary embedding (Su et al. 2021) and the write of K and V to their slots, in one pass over the
// tokens.
//
// Work split. A block has one token. Its threads first compute the token's cosines and sines, one
// pair each, into shared memory; then they turn q in place and k on its way into the cache, pair by
// pair, and copy v. Neighbouring threads have neighbouring elements.
//
//   angle = position * frequency in double, reduced modulo 2 pi in double; cos and sin of the rest
//   in f32, times the scaling's factor. So positions of 2^31 lose nothing. a' = a cos - b sin,  b'
//   = a sin + b cos     (a, b) = elements (i, i + rotary_dim/2), or (2i, 2i + 1)
//
// fp8 caches store x / scale, rounded to nearest even, saturated.
#include "cuda/kernels.h"
#include "cuda/kernels/attention_tile.h"

namespace radixattn::cuda {
namespace {

constexpr int kThreads = 256;

// Where the token's K and V go: element offsets of KV head 0.
struct Slot {
  int64_t k, v;
};

struct Turn {
  const float* cosine;
  const float* sine;
};

RADIX_DEVICE void store_cached(const PagedTensor& to, int64_t at, float x, float inverse_scale) {
  if (to.dtype == RADIX_F8_E4M3) {
    static_cast<uint8_t*>(to.data)[at] = float_to_fp8(x * inverse_scale, E4m3{});
  } else if (to.dtype == RADIX_F8_E5M2) {
    static_cast<uint8_t*>(to.data)[at] = float_to_fp8(x * inverse_scale, E5m2{});
  } else {
    store_number(to.data, to.dtype, at, x);
  }
}

RADIX_DEVICE float inverse_scale_of(const float* scales, bool per_head, uint32_t kv_head) {
  return scales == nullptr ? 1.f : 1.f / scales[per_head ? kv_head : 0];
}

// Elements of pair i within a head.
struct Pair2 {
  uint32_t a, b;
};
RADIX_DEVICE Pair2 pair_at(const RopeAppendParams& p, uint32_t i) {
  if (p.style == RADIX_ROPE_NEOX) return {i, i + p.rotary_dim / 2};
  return {2 * i, 2 * i + 1};
}

RADIX_DEVICE void compute_turn(const RopeAppendParams& p, const RopeFrequencies& frequencies,
                               int32_t position, float* cosine, float* sine) {
  constexpr double kTurns = 0.15915494309189535;                              // 1 / (2 pi)
  constexpr double kHigh = 6.283185307179586, kLow = 2.4492935982947064e-16;  // their sum is 2 pi
  for (uint32_t i = threadIdx.x; i < p.rotary_dim / 2; i += blockDim.x) {
    const double angle = position * frequencies.of_pair[i];
    const double turns = rint(angle * kTurns);
    const auto rest = static_cast<float>(fma(-turns, kLow, fma(-turns, kHigh, angle)));
    cosine[i] = cosf(rest) * frequencies.factor;
    sine[i] = sinf(rest) * frequencies.factor;
  }
}

RADIX_DEVICE void turn_queries(const RopeAppendParams& p, const Turn& turn, uint64_t token) {
  const uint32_t pairs = p.rotary_dim / 2;
  for (uint32_t i = threadIdx.x; i < p.num_q_heads * pairs; i += blockDim.x) {
    const uint32_t head = i / pairs, pair = i % pairs;
    const int64_t at = static_cast<int64_t>(token) * p.q.row_stride + head * p.q.head_stride;
    const Pair2 e = pair_at(p, pair);
    const float a = load_number(p.q.data, p.q.dtype, at + e.a);
    const float b = load_number(p.q.data, p.q.dtype, at + e.b);
    store_number(p.q.data, p.q.dtype, at + e.a, a * turn.cosine[pair] - b * turn.sine[pair]);
    store_number(p.q.data, p.q.dtype, at + e.b, a * turn.sine[pair] + b * turn.cosine[pair]);
  }
}

RADIX_DEVICE void write_keys(const RopeAppendParams& p, const Turn& turn, uint64_t token,
                             int64_t to) {
  const uint32_t pairs = p.rotary_dim / 2, still = p.head_dim - p.rotary_dim;
  const uint32_t steps = pairs + still;  // of a head
  for (uint32_t i = threadIdx.x; i < p.num_kv_heads * steps; i += blockDim.x) {
    const uint32_t head = i / steps, step = i % steps;
    const int64_t from = static_cast<int64_t>(token) * p.k.row_stride + head * p.k.head_stride;
    const int64_t at = to + head * p.k_cache.head_stride;
    const float scale = inverse_scale_of(p.k_scale, p.kv_scale_per_head, head);
    if (step >= pairs) {
      const uint32_t e = p.rotary_dim + step - pairs;
      store_cached(p.k_cache, at + e, load_number(p.k.data, p.k.dtype, from + e), scale);
      continue;
    }
    const Pair2 e = pair_at(p, step);
    const float a = load_number(p.k.data, p.k.dtype, from + e.a);
    const float b = load_number(p.k.data, p.k.dtype, from + e.b);
    store_cached(p.k_cache, at + e.a, a * turn.cosine[step] - b * turn.sine[step], scale);
    store_cached(p.k_cache, at + e.b, a * turn.sine[step] + b * turn.cosine[step], scale);
  }
}

RADIX_DEVICE void write_values(const RopeAppendParams& p, uint64_t token, int64_t to) {
  for (uint32_t i = threadIdx.x; i < p.num_kv_heads * p.head_dim_v; i += blockDim.x) {
    const uint32_t head = i / p.head_dim_v, e = i % p.head_dim_v;
    const int64_t from = static_cast<int64_t>(token) * p.v.row_stride + head * p.v.head_stride;
    store_cached(p.v_cache, to + head * p.v_cache.head_stride + e,
                 load_number(p.v.data, p.v.dtype, from + e),
                 inverse_scale_of(p.v_scale, p.kv_scale_per_head, head));
  }
}

// grid (num_tokens)
__global__ void __launch_bounds__(kThreads)
    rope_append_kernel(const __grid_constant__ RopeAppendParams p,
                       const __grid_constant__ RopeFrequencies frequencies) {
  RADIX_SHARED(float[kMaxRotaryPairs], cosine);
  RADIX_SHARED(float[kMaxRotaryPairs], sine);
  const uint64_t token = blockIdx.x;
  const int64_t slot = p.slots[token];
  const int64_t block = slot / p.block_size, offset = slot % p.block_size;
  if (slot < 0 || block >= p.num_blocks) return;  // a padded row
  if (p.rotary_dim != 0) compute_turn(p, frequencies, p.positions[token], cosine, sine);
  __syncthreads();
  const Turn turn = {cosine, sine};
  turn_queries(p, turn, token);
  write_keys(p, turn, token, block * p.k_cache.block_stride + offset * p.k_cache.token_stride);
  write_values(p, token, block * p.v_cache.block_stride + offset * p.v_cache.token_stride);
}

}  // namespace

Error launch_rope_append(const RopeAppendParams& p, const RopeFrequencies& frequencies,
                         Stream stream) {
  if (p.num_tokens == 0) return 0;
  const dim3 grid(static_cast<unsigned>(p.num_tokens));
  return RADIX_LAUNCH(rope_append_kernel, grid, dim3(kThreads), 0, stream, p, frequencies);
}

}  // namespace radixattn::cuda
