// Matrix products y = x W^T + bias (+ y), and RMSNorm (compiled once for every target).
//
// x and W both have `in` contiguous, so sums run along the lanes: a tile is a group of kGroup rows
// of x times a panel of four rows of W, one vector of partial sums for each of its results.
//
//   W row o    |v0 v1 v2 ...|v.. ...|      chunks of kGemmChunk elements
//   x row r    |v0 v1 v2 ...|v.. ...|      sum(r, o) = sum over chunks, in order, of
//                                            lanes(fma(x v_i, W v_i, ...fma(x v0, W v0, 0)))
//
// where lanes() adds the upper half of the lanes to the lower half until one is left. That order
// is the same for every shape of a call and place in it, so that (NOTE) a row's result has the same
// bits however many rows, columns or workers there are: what was computed with a cached prefix
// equals what is computed without. Two regimes keep to it:
//
//   few rows   up to kGemmFewGroups groups: W is read as it lies, once, front to back; x is widened
//              to scratch first
//   many rows  for each chunk: x of the item (its rows, the chunk) and one panel of W at a time are
//              widened into scratch in the order in which tiles read them; sums wait in scratch
//
// Scratch of x holds whole vectors, zeros behind the end of a row; so does that of W, and W read in
// place has its last, partial vector filled up with zeros.
#include "backend/cpu/gemm_jobs.h"
#include "backend/cpu/kernel_set-inl.h"
#include "backend/cpu/simd-inl.h"

namespace radixattn {
namespace RADIX_CPU_TARGET_NS {
namespace {

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr uint32_t kGroup = 6;  // 24 sums of 32 registers
#else
constexpr uint32_t kGroup = 3;  // 12 of 16
#endif
static_assert(kGroup <= kGemmMaxGroup && kGemmRowBlock % kGroup == 0, "scratch is sized by them");
static_assert(kGemmChunk % kLanes == 0, "chunks are whole vectors");

RADIX_INLINE uint32_t vectors_of(uint32_t n) {
  return (n + static_cast<uint32_t>(kLanes) - 1) / static_cast<uint32_t>(kLanes);
}

// ---- sums of lanes

#if HWY_TARGET == HWY_SCALAR

RADIX_INLINE void sum_lanes(const VF* v, float* out) {
  for (uint32_t o = 0; o < kGemmPanel; ++o) out[o] = hn::GetLane(v[o]);
}

#else

using D4 = hn::CappedTag<float, 4>;

RADIX_INLINE hn::Vec<D4> to_four_lanes(hn::Vec<D4> v) { return v; }
#if HWY_MAX_BYTES >= 32
template <class V>
RADIX_INLINE hn::Vec<D4> to_four_lanes(V v) {
  const hn::DFromV<V> d;
  const hn::Half<decltype(d)> half;
  return to_four_lanes(hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)));
}
#endif

// Four vectors to their four sums: lane i takes part with i + 8, then + 4, + 2, + 1.
RADIX_INLINE void sum_lanes(const VF* v, float* out) {
  const D4 d;
  const auto a = to_four_lanes(v[0]), b = to_four_lanes(v[1]), c = to_four_lanes(v[2]),
             e = to_four_lanes(v[3]);
  const auto ab = hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b));
  const auto ce = hn::Add(hn::InterleaveLower(d, c, e), hn::InterleaveUpper(d, c, e));
  // ab: a0+a2 b0+b2 a1+a3 b1+b3
  hn::StoreU(hn::Add(hn::ConcatLowerLower(d, ce, ab), hn::ConcatUpperUpper(d, ce, ab)), d, out);
}

#endif

// ---- W of a tile

// Widened: [vectors][kGemmPanel][kLanes].
struct WideWeights {
  const float* data;

  inline __attribute__((always_inline)) VF load(uint32_t k, uint32_t o) const {
    return hn::LoadU(DF(), data + (size_t{k} * kGemmPanel + o) * kLanes);
  }
};

// The same, and the panel that comes next is called from memory meanwhile.
template <class T>
struct WideWeightsAhead {
  const float* data;
  const T* next[kGemmPanel];

  inline __attribute__((always_inline)) VF load(uint32_t k, uint32_t o) const {
    __builtin_prefetch(next[o] + size_t{k} * kLanes, 0, 2);
    return hn::LoadU(DF(), data + (size_t{k} * kGemmPanel + o) * kLanes);
  }
};

// As it lies. Memory is ahead of the sums, not the caches' guesses: rows are prefetched.
template <class T>
struct PlainWeights {
  const T* row[kGemmPanel];

  inline __attribute__((always_inline)) VF load(uint32_t k, uint32_t o) const {
    const T* at = row[o] + size_t{k} * kLanes;
    __builtin_prefetch(at + kAhead);
    return load_f32(at);
  }
  static constexpr size_t kAhead = 1024 / sizeof(T);
};

// The n < kLanes elements at `from`, zeros behind.
template <class T>
RADIX_INLINE VF load_part(const T* from, uint32_t n) {
  T part[kLanes] = {};
  for (uint32_t i = 0; i < n; ++i) part[i] = from[i];
  return load_f32(part);
}

// ---- the tile

// The partial sums of R rows of x ([vectors][R][kLanes]) and a panel of W.
template <uint32_t R>
struct Sums {
  VF of[R][kGemmPanel];
};

template <uint32_t R>
RADIX_INLINE void clear(Sums<R>* s) {
#pragma GCC unroll 8
  for (uint32_t r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (uint32_t o = 0; o < kGemmPanel; ++o) s->of[r][o] = hn::Zero(DF());
  }
}

template <uint32_t R>
RADIX_INLINE void load_rows(const float* x, uint32_t k, VF* row) {
#pragma GCC unroll 8
  for (uint32_t r = 0; r < R; ++r) row[r] = hn::LoadU(DF(), x + (size_t{k} * R + r) * kLanes);
}

template <uint32_t R, class Weights>
RADIX_INLINE void multiply(const float* x, const Weights& w, uint32_t vectors, Sums<R>* s) {
  for (uint32_t k = 0; k < vectors; ++k) {
    VF row[R];
    load_rows<R>(x, k, row);
#pragma GCC unroll 8
    for (uint32_t o = 0; o < kGemmPanel; ++o) {
      const VF weight = w.load(k, o);
#pragma GCC unroll 8
      for (uint32_t r = 0; r < R; ++r) s->of[r][o] = hn::MulAdd(row[r], weight, s->of[r][o]);
    }
  }
}

// Adds a chunk's sums to those of the chunks before it.
template <uint32_t R>
RADIX_INLINE void add_chunk(const Sums<R>& s, bool first, float* to, size_t stride) {
#pragma GCC unroll 8
  for (uint32_t r = 0; r < R; ++r) {
    float sum[kGemmPanel];
    sum_lanes(s.of[r], sum);
    for (uint32_t o = 0; o < kGemmPanel; ++o)
      to[r * stride + o] = first ? sum[o] : to[r * stride + o] + sum[o];
  }
}

// ---- elements of the caller's

// Elements `step` bytes wide from `data`.
template <class T>
RADIX_INLINE const T* row_of(const MatrixTensor& m, uint32_t row) {
  return static_cast<const T*>(m.data) + int64_t{row} * m.row_stride;
}

// Columns [begin, end) of R rows into [vectors][R][kLanes], zeros behind.
template <class T>
void widen_rows(const MatrixTensor& m, uint32_t first, uint32_t rows, uint32_t group,
                uint32_t begin, uint32_t end, float* to) {
  const uint32_t n = end - begin, vectors = vectors_of(n);
  for (uint32_t r = 0; r < group; ++r) {
    const T* from = r < rows ? row_of<T>(m, first + r) + begin : nullptr;
    for (uint32_t k = 0; k < vectors; ++k) {
      const uint32_t at = k * static_cast<uint32_t>(kLanes), left = n - at;
      VF v = hn::Zero(DF());
      if (from != nullptr) v = left >= kLanes ? load_f32(from + at) : load_part(from + at, left);
      hn::StoreU(v, DF(), to + (size_t{k} * group + r) * kLanes);
    }
  }
}

// Rows beyond `rows` of a group are zeros.
void widen(const MatrixTensor& m, uint32_t first, uint32_t rows, uint32_t group, uint32_t begin,
           uint32_t end, float* to) {
  if (m.dtype == RADIX_F32) widen_rows<F32>(m, first, rows, group, begin, end, to);
  if (m.dtype == RADIX_F16) widen_rows<F16>(m, first, rows, group, begin, end, to);
  if (m.dtype == RADIX_BF16) widen_rows<BF16>(m, first, rows, group, begin, end, to);
}

template <class Y, class B>
void finish_typed(const GemmParams& p, uint32_t row, uint32_t begin, uint32_t n,
                  const float* sums) {
  Y* y = static_cast<Y*>(p.y.data) + int64_t{row} * p.y.row_stride + begin;
  const B* bias = p.bias == nullptr ? nullptr : static_cast<const B*>(p.bias) + begin;
  uint32_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    VF v = hn::LoadU(DF(), sums + i);
    if (bias != nullptr) v = hn::Add(v, load_f32(bias + i));
    if (p.add) v = hn::Add(v, load_f32(y + i));
    store_f32(v, y + i);
  }
  for (; i < n; ++i) {
    float v = sums[i];
    if (bias != nullptr) v += to_f32(bias[i]);
    if (p.add) v += to_f32(y[i]);
    from_f32(v, y + i);
  }
}

template <class Y>
void finish_to(const GemmParams& p, uint32_t row, uint32_t begin, uint32_t n, const float* sums) {
  if (p.bias != nullptr && p.bias_dtype == RADIX_F16) {
    finish_typed<Y, F16>(p, row, begin, n, sums);
  } else if (p.bias != nullptr && p.bias_dtype == RADIX_BF16) {
    finish_typed<Y, BF16>(p, row, begin, n, sums);
  } else {
    finish_typed<Y, F32>(p, row, begin, n, sums);
  }
}

// Columns [begin, begin + n) of one row of y from their sums.
void finish(const GemmParams& p, uint32_t row, uint32_t begin, uint32_t n, const float* sums) {
  if (p.y.dtype == RADIX_F32) finish_to<F32>(p, row, begin, n, sums);
  if (p.y.dtype == RADIX_F16) finish_to<F16>(p, row, begin, n, sums);
  if (p.y.dtype == RADIX_BF16) finish_to<BF16>(p, row, begin, n, sums);
}

// ---- few rows

// The sums of one group ([vectors][R][kLanes]) and one panel over a chunk of n elements.
template <uint32_t R, class T>
RADIX_INLINE void multiply_plain(const float* x, const PlainWeights<T>& w, uint32_t n, Sums<R>* s) {
  constexpr auto kWidth = static_cast<uint32_t>(kLanes);
  const uint32_t whole = n / kWidth, rest = n % kWidth;
  multiply<R>(x, w, whole, s);
  if (rest == 0) return;
  VF row[R];
  load_rows<R>(x, whole, row);
#pragma GCC unroll 8
  for (uint32_t o = 0; o < kGemmPanel; ++o) {
    const VF weight = load_part(w.row[o] + size_t{whole} * kLanes, rest);
#pragma GCC unroll 8
    for (uint32_t r = 0; r < R; ++r) s->of[r][o] = hn::MulAdd(row[r], weight, s->of[r][o]);
  }
}

// x is [groups][vectors][R][kLanes]. A chunk of a panel comes from memory for the first group and
// is in the nearest cache for the others.
template <uint32_t R, class T>
void few_panels(const GemmParams& p, const GemmItem& item, uint32_t groups, const float* x) {
  const size_t group_floats = size_t{vectors_of(p.in)} * R * kLanes;
  for (uint32_t out = item.out_begin; out < item.out_end; out += kGemmPanel) {
    const uint32_t left = item.out_end - out, n = left < kGemmPanel ? left : kGemmPanel;
    float sums[kGemmFewGroups * R][kGemmPanel];
    for (uint32_t begin = 0; begin == 0 || begin < p.in; begin += kGemmChunk) {
      const uint32_t chunk = p.in - begin < kGemmChunk ? p.in - begin : kGemmChunk;
      PlainWeights<T> w;
      for (uint32_t o = 0; o < kGemmPanel; ++o)
        w.row[o] = row_of<T>(p.weight, out + (o < n ? o : n - 1)) + begin;
      for (uint32_t g = 0; g < groups; ++g) {
        Sums<R> s;
        clear(&s);
        multiply_plain<R>(x + g * group_floats + size_t{begin} * R, w, chunk, &s);
        add_chunk<R>(s, begin == 0, sums[g * R], kGemmPanel);
      }
    }
    for (uint32_t r = 0; r < item.row_end - item.row_begin; ++r)
      finish(p, item.row_begin + r, out, n, sums[r]);
  }
}

template <uint32_t R>
void few_rows(const GemmParams& p, const GemmItem& item, uint32_t groups, float* scratch) {
  const uint32_t rows = item.row_end - item.row_begin;
  for (uint32_t g = 0; g < groups; ++g) {
    const uint32_t left = rows - g * R;
    widen(p.x, item.row_begin + g * R, left < R ? left : R, R, 0, p.in,
          scratch + g * size_t{vectors_of(p.in)} * R * kLanes);
  }
  if (p.weight.dtype == RADIX_F32) few_panels<R, F32>(p, item, groups, scratch);
  if (p.weight.dtype == RADIX_F16) few_panels<R, F16>(p, item, groups, scratch);
  if (p.weight.dtype == RADIX_BF16) few_panels<R, BF16>(p, item, groups, scratch);
}

// ---- many rows

// A chunk of an item: x is [groups][vectors][kGroup][kLanes], sums [rows][kGemmOutBlock].
template <class T>
void many_rows_chunk(const GemmParams& p, const GemmItem& item, uint32_t begin, uint32_t end,
                     float* x, float* w, float* sums) {
  const uint32_t vectors = vectors_of(end - begin), rows = item.row_end - item.row_begin;
  const size_t group_floats = size_t{vectors} * kGroup * kLanes;
  for (uint32_t r = 0; r < rows; r += kGroup) {
    const uint32_t n = rows - r < kGroup ? rows - r : kGroup;
    widen(p.x, item.row_begin + r, n, kGroup, begin, end, x + r / kGroup * group_floats);
  }
  for (uint32_t out = item.out_begin; out < item.out_end; out += kGemmPanel) {
    const uint32_t left = item.out_end - out, n = left < kGemmPanel ? left : kGemmPanel;
    widen(p.weight, out, n, kGemmPanel, begin, end, w);
    WideWeightsAhead<T> ahead = {w, {}};
    const uint32_t last = item.out_end - 1;
    for (uint32_t o = 0; o < kGemmPanel; ++o) {
      const uint32_t next = out + kGemmPanel + o;
      ahead.next[o] = row_of<T>(p.weight, next < last ? next : last) + begin;
    }
    for (uint32_t r = 0; r < rows; r += kGroup) {
      Sums<kGroup> s;
      clear(&s);
      const float* group = x + r / kGroup * group_floats;
      if (r == 0) {
        multiply<kGroup>(group, ahead, vectors, &s);
      } else {
        multiply<kGroup>(group, WideWeights{w}, vectors, &s);
      }
      add_chunk<kGroup>(s, begin == 0, sums + size_t{r} * kGemmOutBlock + (out - item.out_begin),
                        kGemmOutBlock);
    }
  }
}

void many_rows(const GemmParams& p, const GemmItem& item, float* scratch) {
  const uint32_t rows = item.row_end - item.row_begin;
  const uint32_t groups = (rows + kGroup - 1) / kGroup;
  const uint64_t chunk = gemm_padded(p.in < kGemmChunk ? p.in : kGemmChunk);
  float* w = scratch;
  float* x = w + kGemmPanel * chunk;
  float* sums = x + uint64_t{groups} * kGroup * chunk;
  for (uint32_t begin = 0; begin == 0 || begin < p.in; begin += kGemmChunk) {
    const uint32_t end = p.in - begin < kGemmChunk ? p.in : begin + kGemmChunk;
    if (p.weight.dtype == RADIX_F32) {
      many_rows_chunk<F32>(p, item, begin, end, x, w, sums);
    } else {
      many_rows_chunk<F16>(p, item, begin, end, x, w, sums);
    }
  }
  for (uint32_t r = 0; r < rows; ++r)
    finish(p, item.row_begin + r, item.out_begin, item.out_end - item.out_begin,
           sums + size_t{r} * kGemmOutBlock);
}

}  // namespace

void gemm_item(const GemmParams& p, const GemmItem& item, void* scratch) {
  float* floats = static_cast<float*>(scratch);
  const uint32_t rows = item.row_end - item.row_begin;
  if (rows > kGemmFewGroups * kGroup) return many_rows(p, item, floats);
  const uint32_t groups = (rows + kGroup - 1) / kGroup;
  const uint32_t group = (rows + groups - 1) / groups;  // equal ones: the fewest rows of zeros
  if (group == 1) return few_rows<1>(p, item, groups, floats);
  if (group == 2) return few_rows<2>(p, item, groups, floats);
  if (group == 3) return few_rows<3>(p, item, groups, floats);
  if constexpr (kGroup > 3) {
    if (group == 4) return few_rows<4>(p, item, groups, floats);
    if (group == 5) return few_rows<5>(p, item, groups, floats);
    if (group == 6) return few_rows<6>(p, item, groups, floats);
  }
}

}  // namespace RADIX_CPU_TARGET_NS
}  // namespace radixattn
