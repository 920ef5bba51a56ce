// RMS norm (Zhang & Sennrich 2019) of the vectors of a tensor [rows, heads, dim]: the hidden state
// before a layer (one head), or every head of q and k after the projection.
//
//   y = x / sqrt(mean(x^2) + eps) * w          or * (1 + w)
//
// Sums and products are f32, and y is rounded once, at the end. A mean beyond f32 makes y zero.
//
// Work split. A vector of up to kWarpDim elements has a warp, a longer one a block. Thread t of n
// has the pieces t, t + n, ... of 8 elements, adds up its squares in their order, and the threads'
// sums meet in a tree. Which thread has what, and so every bit, depends on dim alone: not on the
// rows, not on where they lie. Pieces that stand on a multiple of 16 bytes are read in one access,
// two in f32.
//
// A thread reads its pieces again for y, from L1 or L2, and is the only one that writes them: y may
// be x.
#include "cuda/kernels.h"
#include "cuda/kernels/attention_tile.h"

namespace radixattn::cuda {
namespace {

constexpr int kPiece = 8;
constexpr uint32_t kWarpDim = 512;
constexpr int kWarps = 4;      // of a block that has short vectors
constexpr int kThreads = 256;  // of a block that has a long one

// A vector in memory. `wide`: its first element, and so every piece, stands on a multiple of 16.
struct Vector {
  void* data;
  int32_t dtype;
  bool wide;
};

RADIX_DEVICE Vector vector_at(const void* data, int32_t dtype, int64_t at) {
  const int64_t bytes = dtype == RADIX_F32 ? 4 : 2;
  char* first = static_cast<char*>(const_cast<void*>(data)) + at * bytes;
  return {first, dtype, reinterpret_cast<uintptr_t>(first) % 16 == 0};
}

RADIX_DEVICE Vector vector_of(const RowTensor& t, uint32_t row, uint32_t head) {
  return vector_at(t.data, t.dtype, row * t.row_stride + head * t.head_stride);
}

// Elements [at, at + 8) of a vector of dim; zeros behind its end.
RADIX_DEVICE void load_piece_of(const Vector& v, uint32_t at, uint32_t dim, float (&x)[kPiece]) {
  if (v.wide && at + kPiece <= dim) return load_elements<kPiece>(v.data, v.dtype, at, x);
  RADIX_UNROLL
  for (int i = 0; i < kPiece; ++i) x[i] = at + i < dim ? load_number(v.data, v.dtype, at + i) : 0.f;
}

RADIX_DEVICE void store_inside(const Vector& v, uint32_t at, uint32_t dim,
                               const float (&x)[kPiece]) {
  if (v.wide && at + kPiece <= dim) return store_piece_of(v.data, v.dtype, at, x);
  RADIX_UNROLL
  for (int i = 0; i < kPiece; ++i) {
    if (at + i < dim) store_number(v.data, v.dtype, at + i, x[i]);
  }
}

// Of the pieces of thread `me` of `n`.
RADIX_DEVICE float sum_of_squares(const Vector& from, uint32_t dim, uint32_t me, uint32_t n) {
  float sum = 0.f;
  for (uint32_t at = me * kPiece; at < dim; at += n * kPiece) {
    float x[kPiece];
    load_piece_of(from, at, dim, x);
    RADIX_UNROLL
    for (int i = 0; i < kPiece; ++i) sum = fmaf(x[i], x[i], sum);
  }
  return sum;
}

RADIX_DEVICE void write_scaled(const NormParams& p, const Vector& from, const Vector& to,
                               float squares, uint32_t me, uint32_t n) {
  const float factor = 1.f / sqrtf(squares / static_cast<float>(p.dim) + p.eps);
  const Vector weight = vector_at(p.weight, p.weight_dtype, 0);
  for (uint32_t at = me * kPiece; at < p.dim; at += n * kPiece) {
    float x[kPiece], w[kPiece];
    load_piece_of(from, at, p.dim, x);
    load_piece_of(weight, at, p.dim, w);
    RADIX_UNROLL
    for (int i = 0; i < kPiece; ++i) x[i] = x[i] * factor * (p.plus_one ? 1.f + w[i] : w[i]);
    store_inside(to, at, p.dim, x);
  }
}

// grid (vectors / kWarps)
__global__ void __launch_bounds__(32 * kWarps)
    rms_norm_short_kernel(const __grid_constant__ NormParams p) {
  const uint32_t vector = blockIdx.x * kWarps + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (vector >= p.num_rows * p.num_heads) return;
  const uint32_t row = vector / p.num_heads, head = vector % p.num_heads;
  const Vector from = vector_of(p.x, row, head);
  const float squares = warp_sum<32>(sum_of_squares(from, p.dim, lane, 32));
  write_scaled(p, from, vector_of(p.y, row, head), squares, lane, 32);
}

// grid (vectors)
__global__ void __launch_bounds__(kThreads)
    rms_norm_long_kernel(const __grid_constant__ NormParams p) {
  RADIX_SHARED(float[kThreads / 32], of_warp);
  const uint32_t row = blockIdx.x / p.num_heads, head = blockIdx.x % p.num_heads;
  const Vector from = vector_of(p.x, row, head);
  const float mine = warp_sum<32>(sum_of_squares(from, p.dim, threadIdx.x, kThreads));
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = mine;
  __syncthreads();
  float squares = 0.f;
  RADIX_UNROLL
  for (int i = 0; i < kThreads / 32; ++i) squares += of_warp[i];
  write_scaled(p, from, vector_of(p.y, row, head), squares, threadIdx.x, kThreads);
}

}  // namespace

Error launch_rms_norm(const NormParams& p, Stream stream) {
  const uint32_t vectors = p.num_rows * p.num_heads;
  if (vectors == 0 || p.dim == 0) return 0;
  if (p.dim <= kWarpDim) {
    const dim3 grid((vectors - 1) / kWarps + 1);
    return RADIX_LAUNCH(rms_norm_short_kernel, grid, dim3(32 * kWarps), 0, stream, p);
  }
  return RADIX_LAUNCH(rms_norm_long_kernel, dim3(vectors), dim3(kThreads), 0, stream, p);
}

}  // namespace radixattn::cuda
