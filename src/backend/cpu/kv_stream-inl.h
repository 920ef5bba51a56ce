// Prefetching K and V of a run of tokens while the ones before are computed: what decode and
// prefill's items of few rows share. For kernel sources only (see simd-inl.h).
//
// NOTE: what decides about memory (one Zen 5 core; the measurements: docs/kernels.md):
//   - The next tile's K and V are prefetched while this one is computed, each in the order of
//     addresses and both side by side, 4 lines by 4: longer turns lose a third.
//   - A core has some forty line buffers; a prefetch that finds none is dropped. So prefetches
//     keep the pace of the kernel, and the first tile, which is in a hurry, comes by loads.
//   - What is prefetched long before its use leaves the first cache again: decode's tiles are
//   short.
#pragma once

#include "backend/cpu/attention_jobs.h"
#include "backend/cpu/simd-inl.h"

namespace radixattn {
namespace RADIX_CPU_TARGET_NS {

constexpr uint32_t kCacheLine = 64;
constexpr uint32_t kBurst = 4;      // lines of K, and of V, that are prefetched together
constexpr uint32_t kLoadAhead = 8;  // bursts
constexpr uint32_t kDue = 256;      // a burst

RADIX_INLINE uint32_t div_up(uint32_t a, uint32_t b) { return (a + b - 1) / b; }
RADIX_INLINE uint32_t element_bytes(int32_t dtype) { return dtype == RADIX_F32 ? 4 : 2; }

// What is still to be prefetched of some rows, in the order of addresses: a span is all that lies
// side by side, from one row (token, KV head) to a whole block.
struct Stream {
  const char* line = nullptr;  // the next line of the span
  uint32_t left = 0;           // lines left in the span; 0: all done
  uint32_t token = 0, head = 0, num_tokens = 0, num_heads = 0;  // the next row
  bool by_token = true;        // heads of a token, then the next token
  const char* base = nullptr;  // token offset 0, first head of the item
  const int64_t* offsets = nullptr;
  int64_t element = 0, head_bytes = 0, row_bytes = 0;
};

RADIX_INLINE bool more_rows(const Stream& f) {
  return f.token < f.num_tokens && f.head < f.num_heads;
}

RADIX_INLINE const char* row_address(const Stream& f) {
  return f.base + f.offsets[f.token] * f.element + f.head * f.head_bytes;
}

RADIX_INLINE void next_row(Stream& f) {
  if (f.by_token) {
    if (++f.head == f.num_heads) f.head = 0, ++f.token;
  } else {
    if (++f.token == f.num_tokens) f.token = 0, ++f.head;
  }
}

RADIX_INLINE void next_span(Stream& f) {
  if (!more_rows(f)) return;
  f.line = row_address(f);
  const char* end = f.line + f.row_bytes;
  for (next_row(f); more_rows(f) && row_address(f) == end; next_row(f)) end += f.row_bytes;
  f.left = static_cast<uint32_t>((end - f.line + kCacheLine - 1) / kCacheLine);
}

// Some tokens, by the element offsets of their rows of KV head 0, and KV heads [head_begin,
// head_end).
struct StreamRows {
  const int64_t* k;
  const int64_t* v;
  uint32_t n;
  uint32_t head_begin, head_end;
};

RADIX_INLINE Stream stream_of(const PagedTensor& t, uint32_t row_elements, const int64_t* offsets,
                              const StreamRows& rows) {
  Stream f;
  f.element = element_bytes(t.dtype);
  f.head_bytes = t.head_stride * f.element;
  f.row_bytes = row_elements * f.element;
  f.base = static_cast<const char*>(t.data) + rows.head_begin * f.head_bytes;
  f.offsets = offsets;
  f.num_tokens = rows.n;
  f.num_heads = rows.head_end - rows.head_begin;
  f.by_token = t.head_stride < t.token_stride;  // a token's heads lie closer than a head's tokens
  if (f.by_token && f.head_bytes == f.row_bytes) {  // a token is one row
    f.row_bytes *= f.num_heads;
    f.num_heads = 1;
  }
  next_span(f);
  return f;
}

// A tile's K and V on their way into the cache, side by side, a little with each step of the
// kernel, so that all is there when the tile's turn comes.
struct Prefetcher {
  Stream k, v;
  uint32_t due = 0;                       // in units of 1/kDue of a burst
  uint32_t score_due = 0, value_due = 0;  // what a step of scores, of values adds
};

RADIX_INLINE void begin_prefetch(const AttentionParams& p, const StreamRows& rows, Prefetcher& f) {
  f.k = stream_of(p.k, p.head_dim, rows.k, rows);
  f.v = stream_of(p.v, p.head_dim_v, rows.v, rows);
}

RADIX_INLINE void prefetch_lines(Stream& s) {
  for (uint32_t lines = 0; lines < kBurst && s.left != 0; ++lines) {
    __builtin_prefetch(s.line, 0, 3);
    s.line += kCacheLine;
    if (--s.left == 0) next_span(s);
  }
}

RADIX_INLINE bool span_ends(const Prefetcher& f) {
  return f.k.left <= kBurst || f.v.left <= kBurst;
}

// A burst within spans.
RADIX_INLINE void prefetch_inside(Prefetcher& f) {
#pragma GCC unroll 8
  for (uint32_t i = 0; i < kBurst; ++i) {
    __builtin_prefetch(f.k.line + i * kCacheLine, 0, 3);
    __builtin_prefetch(f.v.line + i * kCacheLine, 0, 3);
  }
  f.k.line += kBurst * kCacheLine;
  f.v.line += kBurst * kCacheLine;
  f.k.left -= kBurst;
  f.v.left -= kBurst;
}

// NOTE: always inlined. g++ 12 takes a function that only prefetches for one without effects and
// drops the call.
RADIX_INLINE void prefetch_burst(Prefetcher& f) {
  if (!span_ends(f)) return prefetch_inside(f);
  prefetch_lines(f.k);
  prefetch_lines(f.v);
}

RADIX_INLINE void prefetch_step(Prefetcher& f, uint32_t due) {
  for (f.due += due; f.due >= kDue; f.due -= kDue) prefetch_burst(f);
}

// Loads a line of each stream. Prefetches that find no free buffer are dropped; loads are not.
RADIX_INLINE void load_lines(Stream& s) {
  for (uint32_t lines = 0; lines < kBurst && s.left != 0; ++lines) {
    (void)*static_cast<const volatile char*>(s.line);
    s.line += kCacheLine;
    if (--s.left == 0) next_span(s);
  }
}

// The first tile, for which nobody has asked before.
RADIX_INLINE void load_tile(Prefetcher& f) {
  Prefetcher ahead = f;
  for (uint32_t i = 0; i < kLoadAhead; ++i) prefetch_burst(ahead);
  while (f.k.left != 0 || f.v.left != 0) {
    prefetch_burst(ahead);
    load_lines(f.k);
    load_lines(f.v);
  }
}

}  // namespace RADIX_CPU_TARGET_NS
}  // namespace radixattn
