// Rotary embedding (Su et al. 2021) and the write of K and V to their slots, in one pass over the
// tokens.
//
// Work split. A block has one token. Its threads first compute the token's cosines and sines, one
// pair each, into shared memory; then they share the token's units. A unit is one piece of N
// neighbouring elements that are copied, or two pieces, N pairs, that turn:
//
//   NeoX         . . low . . | . . high . . | copied      pairs (low[j], high[j])
//   interleaved  . . low high . . . . . . . | copied      pairs of neighbours
//
// N is 8 where the host finds that pieces of 8 are aligned (one access of 16 bytes in 16 bits, two
// in f32, one of 8 bytes in fp8), else 1. Neighbouring threads have neighbouring units.
//
// The math. angle = position * frequency in double, reduced modulo 2 pi in double; cos and sin of
// the rest in f32, times the scaling's factor. So positions of 2^31 lose nothing.
//
//   a' = a cos - b sin,  b' = a sin + b cos
//
// Caches with a scale store x / scale; fp8 rounds to nearest even and saturates.
#include "cuda/kernels.h"
#include "cuda/kernels/attention_tile.h"

namespace radixattn::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWide = 8;  // elements of a piece where memory is aligned

// Which tensors are read and written in pieces of kWide.
struct Wide {
  bool q, k, v;
};

struct Turn {
  const float* cosine;
  const float* sine;
};

// Where the token's K and V go: element offsets of KV head 0.
struct Slot {
  int64_t k, v;
};

// ---- pieces -------------------------------------------------------------------------------------

RADIX_DEVICE uint32_t fp8_of(int32_t dtype, float x) {
  return dtype == RADIX_F8_E4M3 ? float_to_fp8(x, E4m3{}) : float_to_fp8(x, E5m2{});
}

RADIX_DEVICE uint32_t four_fp8(int32_t dtype, const float* x) {
  return fp8_of(dtype, x[0]) | fp8_of(dtype, x[1]) << 8 | fp8_of(dtype, x[2]) << 16 |
         fp8_of(dtype, x[3]) << 24;
}

template <int N>
RADIX_DEVICE void store_elements(void* data, int32_t dtype, int64_t at, const float* x) {
  const bool fp8 = dtype == RADIX_F8_E4M3 || dtype == RADIX_F8_E5M2;
  if constexpr (N == 1) {
    if (fp8) {
      static_cast<uint8_t*>(data)[at] = static_cast<uint8_t>(fp8_of(dtype, x[0]));
    } else {
      store_number(data, dtype, at, x[0]);
    }
  } else if (fp8) {
    *reinterpret_cast<uint2*>(static_cast<uint8_t*>(data) + at) =
        make_uint2(four_fp8(dtype, x), four_fp8(dtype, x + 4));
  } else {
    store_piece_of(data, dtype, at, x);
  }
}

// x / what a stored number of the KV head is worth.
template <int N>
RADIX_DEVICE void over_scale(const float* scales, bool per_head, uint32_t kv_head, float* x) {
  if (scales == nullptr) return;
  const float scale = scales[per_head ? kv_head : 0];
  RADIX_UNROLL
  for (int i = 0; i < N; ++i) x[i] /= scale;
}

// ---- the turn -----------------------------------------------------------------------------------

RADIX_DEVICE void compute_turn(const RopeAppendParams& p, const RopeFrequencies& frequencies,
                               int32_t position, float* cosine, float* sine) {
  constexpr double kTurns = 0.15915494309189535;                              // 1 / (2 pi)
  constexpr double kHigh = 6.283185307179586, kLow = 2.4492935982947064e-16;  // their sum is 2 pi
  for (uint32_t i = threadIdx.x; i < p.rotary_dim / 2; i += kThreads) {
    const double angle = position * frequencies.of_pair[i];
    const double turns = rint(angle * kTurns);
    const auto rest = static_cast<float>(fma(-turns, kLow, fma(-turns, kHigh, angle)));
    cosine[i] = cosf(rest) * frequencies.factor;
    sine[i] = sinf(rest) * frequencies.factor;
  }
}

RADIX_DEVICE void turn_pair(float c, float s, float* a, float* b) {
  const float x = *a, y = *b;
  *a = x * c - y * s;
  *b = x * s + y * c;
}

// The two pieces of unit u of a head: loads them to x[0..N) and x[N..2N) and turns them.
struct Places {
  uint32_t low, high;
};
template <int N>
RADIX_DEVICE Places load_turned(const RopeAppendParams& p, const RowTensor& from, int64_t head_at,
                                const Turn& turn, uint32_t u, float (&x)[2 * N]) {
  const bool neox = p.style == RADIX_ROPE_NEOX;
  const Places at =
      neox ? Places{u * N, p.rotary_dim / 2 + u * N} : Places{2 * u * N, (2 * u + 1) * N};
  load_elements<N>(from.data, from.dtype, head_at + at.low, x);
  load_elements<N>(from.data, from.dtype, head_at + at.high, x + N);
  const float *c = turn.cosine + u * N, *s = turn.sine + u * N;
  if (neox) {
    RADIX_UNROLL
    for (int j = 0; j < N; ++j) turn_pair(c[j], s[j], x + j, x + N + j);
  } else {
    RADIX_UNROLL
    for (int j = 0; j < N; ++j) turn_pair(c[j], s[j], x + 2 * j, x + 2 * j + 1);
  }
  return at;
}

// ---- units --------------------------------------------------------------------------------------

// How many units the token's q, k and v have.
RADIX_DEVICE uint32_t query_units(const RopeAppendParams& p, int n) {
  return p.num_q_heads * (p.rotary_dim / 2 / n);
}
RADIX_DEVICE uint32_t key_units(const RopeAppendParams& p, int n) {
  return p.num_kv_heads * ((p.head_dim - p.rotary_dim / 2) / n);
}
RADIX_DEVICE uint32_t value_units(const RopeAppendParams& p, int n) {
  return p.num_kv_heads * (p.head_dim_v / n);
}

template <int N>
RADIX_DEVICE void turn_query(const RopeAppendParams& p, const Turn& turn, uint64_t token,
                             uint32_t i) {
  const uint32_t units = p.rotary_dim / 2 / N, head = i / units;
  const int64_t row = static_cast<int64_t>(token) * p.q.row_stride + head * p.q.head_stride;
  float x[2 * N];
  const Places at = load_turned<N>(p, p.q, row, turn, i % units, x);
  store_elements<N>(p.q.data, p.q.dtype, row + at.low, x);
  store_elements<N>(p.q.data, p.q.dtype, row + at.high, x + N);
}

template <int N>
RADIX_DEVICE void write_key(const RopeAppendParams& p, const Turn& turn, uint64_t token, int64_t to,
                            uint32_t i) {
  const uint32_t turning = p.rotary_dim / 2 / N, units = (p.head_dim - p.rotary_dim / 2) / N;
  const uint32_t head = i / units, u = i % units;
  const int64_t row = static_cast<int64_t>(token) * p.k.row_stride + head * p.k.head_stride;
  to += head * p.k_cache.head_stride;
  float x[2 * N];
  if (u < turning) {
    const Places at = load_turned<N>(p, p.k, row, turn, u, x);
    over_scale<2 * N>(p.k_scale, p.kv_scale_per_head, head, x);
    store_elements<N>(p.k_cache.data, p.k_cache.dtype, to + at.low, x);
    store_elements<N>(p.k_cache.data, p.k_cache.dtype, to + at.high, x + N);
  } else {
    const uint32_t e = p.rotary_dim + (u - turning) * N;
    load_elements<N>(p.k.data, p.k.dtype, row + e, x);
    over_scale<N>(p.k_scale, p.kv_scale_per_head, head, x);
    store_elements<N>(p.k_cache.data, p.k_cache.dtype, to + e, x);
  }
}

template <int N>
RADIX_DEVICE void write_value(const RopeAppendParams& p, uint64_t token, int64_t to, uint32_t i) {
  const uint32_t units = p.head_dim_v / N, head = i / units, e = i % units * N;
  const int64_t row = static_cast<int64_t>(token) * p.v.row_stride + head * p.v.head_stride;
  float x[N];
  load_elements<N>(p.v.data, p.v.dtype, row + e, x);
  over_scale<N>(p.v_scale, p.kv_scale_per_head, head, x);
  store_elements<N>(p.v_cache.data, p.v_cache.dtype, to + head * p.v_cache.head_stride + e, x);
}

// grid (num_tokens). 3 blocks: with 4, or as ptxas likes, sm_80 and others spill.
__global__ void __launch_bounds__(kThreads, 3)
    rope_append_kernel(const __grid_constant__ RopeAppendParams p,
                       const __grid_constant__ RopeFrequencies frequencies, const Wide wide) {
  RADIX_SHARED(float[kMaxRotaryPairs], cosine);
  RADIX_SHARED(float[kMaxRotaryPairs], sine);
  const uint64_t token = blockIdx.x;
  const int64_t slot = p.slots[token];
  const int64_t block = slot / p.block_size, offset = slot % p.block_size;
  if (slot < 0 || block >= p.num_blocks) return;  // a padded row
  if (p.rotary_dim != 0) compute_turn(p, frequencies, p.positions[token], cosine, sine);
  __syncthreads();
  const Turn turn = {cosine, sine};
  const Slot to = {block * p.k_cache.block_stride + offset * p.k_cache.token_stride,
                   block * p.v_cache.block_stride + offset * p.v_cache.token_stride};
  const uint32_t keys = query_units(p, wide.q ? kWide : 1);  // where those of k begin
  const uint32_t values = keys + key_units(p, wide.k ? kWide : 1);
  const uint32_t end = values + value_units(p, wide.v ? kWide : 1);
  for (uint32_t i = threadIdx.x; i < end; i += kThreads) {
    if (i < keys) {
      wide.q ? turn_query<kWide>(p, turn, token, i) : turn_query<1>(p, turn, token, i);
    } else if (i < values) {
      wide.k ? write_key<kWide>(p, turn, token, to.k, i - keys)
             : write_key<1>(p, turn, token, to.k, i - keys);
    } else {
      wide.v ? write_value<kWide>(p, token, to.v, i - values)
             : write_value<1>(p, token, to.v, i - values);
    }
  }
}

// ---- what the host decides ----------------------------------------------------------------------

int64_t bytes_of(int32_t dtype) {
  return dtype == RADIX_F32 ? 4 : dtype == RADIX_F8_E4M3 || dtype == RADIX_F8_E5M2 ? 1 : 2;
}

// True when every offset that the strides give is that of an aligned piece.
bool pieces_are_aligned(const void* data, int32_t dtype, int64_t strides) {
  const int64_t bytes = bytes_of(dtype), alignment = bytes == 1 ? kWide : 16;
  return reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(alignment) == 0 &&
         strides * bytes % alignment == 0;
}

// Or-ing strides keeps what powers of two divide.
bool is_wide(const RowTensor& t) {
  return pieces_are_aligned(t.data, t.dtype, t.row_stride | t.head_stride);
}
bool is_wide(const PagedTensor& t) {
  return pieces_are_aligned(t.data, t.dtype, t.block_stride | t.token_stride | t.head_stride);
}

Wide wide_of(const RopeAppendParams& p) {
  const bool turns = p.rotary_dim % (2 * kWide) == 0;  // both halves are whole pieces
  return {turns && is_wide(p.q),
          turns && p.head_dim % kWide == 0 && is_wide(p.k) && is_wide(p.k_cache),
          p.head_dim_v % kWide == 0 && is_wide(p.v) && is_wide(p.v_cache)};
}

}  // namespace

Error launch_rope_append(const RopeAppendParams& p, const RopeFrequencies& frequencies,
                         Stream stream) {
  if (p.num_tokens == 0) return 0;
  const dim3 grid(static_cast<unsigned>(p.num_tokens));
  return RADIX_LAUNCH(rope_append_kernel, grid, dim3(kThreads), 0, stream, p, frequencies,
                      wide_of(p));
}

}  // namespace radixattn::cuda
