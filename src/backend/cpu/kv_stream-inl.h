// Prefetching K and V of a run of tokens while the ones before are computed: what decode and
// prefill's items of few rows share. For kernel sources only (see simd-inl.h).
//
// NOTE: what decides about memory (one Zen 5 core; the measurements: docs/kernels.md):
//   - The next tile's K and V are prefetched while this one is computed, each in the order of
//     addresses and both side by side, a few lines at a time: longer turns lose a third.
//   - A core has some forty line buffers; a prefetch that finds none is dropped, and its line is
//     waited for later. So prefetches keep the pace of the kernel, every line is asked for a second
//     time a little after the first, and a tile that nobody has asked for before comes by loads.
//   - What is prefetched long before its use leaves the first cache again: decode's tiles are
//     short.
#pragma once

#include "backend/cpu/attention_jobs.h"
#include "backend/cpu/simd-inl.h"

namespace radixattn {
namespace RADIX_CPU_TARGET_NS {

constexpr uint32_t kCacheLine = 64;
constexpr uint32_t kBurst = 4;        // lines of K, and of V, that are prefetched together
constexpr uint32_t kAgainAfter = 16;  // lines between the first and the second time
constexpr uint32_t kEvenSpan = 32;    // lines from which on a span is prefetched line by line
constexpr uint32_t kLoadAhead = 8;    // bursts
constexpr uint32_t kDue = 256;        // a line of K and one of V

RADIX_INLINE uint32_t div_up(uint32_t a, uint32_t b) { return (a + b - 1) / b; }
RADIX_INLINE uint32_t smaller(uint32_t a, uint32_t b) { return a < b ? a : b; }
RADIX_INLINE uint32_t larger(uint32_t a, uint32_t b) { return a > b ? a : b; }
RADIX_INLINE uint32_t element_bytes(int32_t dtype) { return dtype == RADIX_F32 ? 4 : 2; }

// What is still to be prefetched of some rows, in the order of addresses: a span is one row (token,
// KV head), or all heads of a token, and the tokens that follow side by side.
struct Stream {
  const char* line = nullptr;  // the next line of the span
  uint32_t left = 0;           // lines left in the span; 0: all done
  uint32_t token = 0, head = 0, num_tokens = 0, num_heads = 0;  // the next row
  bool by_token = true;        // heads of a token, then the next token
  const char* base = nullptr;  // token offset 0, first head of the item
  const int64_t* offsets = nullptr;
  int64_t element = 0, head_bytes = 0;
  int64_t row_elements = 0;
};

RADIX_NOINLINE void next_span(Stream& f) {
  if (f.token >= f.num_tokens || f.head >= f.num_heads) return;
  f.line = f.base + f.offsets[f.token] * f.element + f.head * f.head_bytes;
  const uint32_t first = f.token;
  if (!f.by_token || f.num_heads == 1) {
    const int64_t* at = f.offsets;
    while (f.token + 1 < f.num_tokens && at[f.token + 1] - at[f.token] == f.row_elements) ++f.token;
  }
  const int64_t bytes = (f.token - first + 1) * f.row_elements * f.element;
  f.left = static_cast<uint32_t>((bytes + kCacheLine - 1) / kCacheLine);
  if (f.by_token) {
    if (++f.head == f.num_heads) f.head = 0, ++f.token;
  } else {
    if (++f.token == f.num_tokens) f.token = 0, ++f.head;
  }
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
  f.row_elements = row_elements;
  f.base = static_cast<const char*>(t.data) + rows.head_begin * f.head_bytes;
  f.offsets = offsets;
  f.num_tokens = rows.n;
  f.num_heads = rows.head_end - rows.head_begin;
  f.by_token = t.head_stride < t.token_stride;  // a token's heads lie closer than a head's tokens
  if (f.by_token && t.head_stride == f.row_elements) {  // a token is one row
    f.row_elements *= f.num_heads;
    f.num_heads = 1;
  }
  next_span(f);
  return f;
}

// A tile's K and V on their way into the cache, side by side, a little with each step of the
// kernel, so that all is there when the tile's turn comes.
struct Prefetcher {
  Stream k, v;              // what is asked for the first time
  Stream k_again, v_again;  // the second time
  bool even = false;        // line by line, not in bursts
  uint32_t lead = 0;        // lines that the first has still to get ahead of the second
  uint32_t inside = 0;      // lines until a span of one of the four ends; 0 while there is a lead
  uint32_t counted = 0;     // the same when the four were counted: Stream::left is of that time
  uint32_t due = 0;         // in units of 1/kDue of a line of each
  uint32_t score_due = 0, value_due = 0;  // what a step of scores, of values adds
};

RADIX_INLINE void begin_prefetch(const AttentionParams& p, const StreamRows& rows, Prefetcher& f) {
  f.k = f.k_again = stream_of(p.k, p.head_dim, rows.k, rows);
  f.v = f.v_again = stream_of(p.v, p.head_dim_v, rows.v, rows);
  f.even = f.k.left >= kEvenSpan && f.v.left >= kEvenSpan;
  f.lead = kAgainAfter;
  f.inside = f.counted = 0;
}

// At most so many lines a stream has in all; before the first of them is taken.
RADIX_INLINE uint64_t stream_lines(const Stream& s) {
  const auto row = static_cast<uint64_t>(s.row_elements * s.element);
  return uint64_t{s.num_tokens} * s.num_heads * ((row + kCacheLine - 1) / kCacheLine);
}

// How much of `due` is due with each of `steps` steps.
RADIX_INLINE uint32_t due_with(uint64_t due, uint64_t steps) {
  return steps == 0 ? 0 : static_cast<uint32_t>((due + steps - 1) / steps);
}

RADIX_INLINE void take_line(Stream& s) {
  s.line += kCacheLine;
  if (--s.left == 0) next_span(s);
}

RADIX_INLINE void prefetch_lines(Stream& s, uint32_t n) {
  for (; n != 0 && s.left != 0; --n) {
    __builtin_prefetch(s.line, 0, 3);
    take_line(s);
  }
}

RADIX_INLINE void count_inside(Prefetcher& f) {
  f.inside = f.lead != 0
                 ? 0
                 : smaller(smaller(f.k.left, f.v.left), smaller(f.k_again.left, f.v_again.left));
  f.counted = f.inside;
}

RADIX_INLINE void settle(Stream& s, uint32_t taken) {
  s.left -= taken;
  if (s.left == 0) next_span(s);
}

// What lines_of has put off.
RADIX_NOINLINE void settle_spans(Prefetcher& f) {
  const uint32_t taken = f.counted - f.inside;
  settle(f.k, taken);
  settle(f.v, taken);
  settle(f.k_again, taken);
  settle(f.v_again, taken);
  count_inside(f);
}

// n lines of each, over the ends of spans.
// NOTE: g++ 12 takes a function that only prefetches for one without effects and drops the call;
// the asm is an effect.
RADIX_NOINLINE void prefetch_across(Prefetcher& f, uint32_t n) {
  if (f.counted != f.inside) settle_spans(f);
  for (; n != 0; n -= smaller(n, kBurst)) {
    const uint32_t burst = smaller(n, kBurst);
    prefetch_lines(f.k, burst);
    prefetch_lines(f.v, burst);
    const uint32_t lead = smaller(f.lead, burst);
    f.lead -= lead;
    prefetch_lines(f.k_again, burst - lead);
    prefetch_lines(f.v_again, burst - lead);
  }
  count_inside(f);
  asm volatile("" : : : "memory");
}

// Lines for a loop to prefetch, one of each stream a turn. Where spans are long this is better than
// a burst now and then, where they are short it is worse.
struct Lines {
  const char* k;
  const char* v;
  const char* k_again;
  const char* v_again;
};

RADIX_INLINE void prefetch_turn(const Lines& lines, size_t i) {
  __builtin_prefetch(lines.k + i * kCacheLine, 0, 3);
  __builtin_prefetch(lines.v + i * kCacheLine, 0, 3);
  __builtin_prefetch(lines.k_again + i * kCacheLine, 0, 3);
  __builtin_prefetch(lines.v_again + i * kCacheLine, 0, 3);
}

// The next n lines of each, which lie inside spans.
RADIX_INLINE Lines lines_of(Prefetcher& f, uint32_t n) {
  const Lines lines = {f.k.line, f.v.line, f.k_again.line, f.v_again.line};
  const size_t bytes = size_t{n} * kCacheLine;
  f.k.line += bytes;
  f.v.line += bytes;
  f.k_again.line += bytes;
  f.v_again.line += bytes;
  f.inside -= n;
  if (__builtin_expect(f.inside == 0, 0)) settle_spans(f);
  return lines;
}

// What is due, in bursts.
RADIX_INLINE void prefetch_step(Prefetcher& f, uint32_t due) {
  for (f.due += due; f.due >= kBurst * kDue; f.due -= kBurst * kDue) {
    if (f.inside >= kBurst) {
      const Lines lines = lines_of(f, kBurst);
#pragma GCC unroll 8
      for (uint32_t i = 0; i < kBurst; ++i) prefetch_turn(lines, i);
    } else {
      prefetch_across(f, kBurst);
    }
  }
}

// What is due, for a loop of n turns to prefetch. When there is nothing for it to do, because
// nothing is due or all has been prefetched here, the lines are those of `nothing`, in the cache.
RADIX_INLINE Lines next_lines(Prefetcher& f, uint32_t due, uint32_t n, const void* nothing) {
  const char* cached = static_cast<const char*>(nothing);
  if (!f.even) {
    prefetch_step(f, due);
    return {cached, cached, cached, cached};
  }
  f.due += due;
  if (f.due < n * kDue) return {cached, cached, cached, cached};
  f.due -= n * kDue;
  if (__builtin_expect(f.due >= n * kDue, 0)) {  // more than the loop can do, as with f32 K/V
    prefetch_across(f, f.due / kDue);
    f.due %= kDue;
  }
  if (__builtin_expect(f.inside >= n, 1)) return lines_of(f, n);
  prefetch_across(f, n);
  return {cached, cached, cached, cached};
}

// Loads a line of each stream. Prefetches that find no free buffer are dropped; loads are not.
RADIX_INLINE void load_lines(Stream& s) {
  for (uint32_t lines = 0; lines < kBurst && s.left != 0; ++lines) {
    (void)*static_cast<const volatile char*>(s.line);
    take_line(s);
  }
}

// A tile that nobody has asked for before.
RADIX_INLINE void load_tile(Prefetcher& f) {
  for (uint32_t i = 0; i < kLoadAhead; ++i) {
    prefetch_lines(f.k, kBurst);
    prefetch_lines(f.v, kBurst);
  }
  while (f.k_again.left != 0 || f.v_again.left != 0) {
    prefetch_lines(f.k, kBurst);
    prefetch_lines(f.v, kBurst);
    load_lines(f.k_again);
    load_lines(f.v_again);
  }
}

}  // namespace RADIX_CPU_TARGET_NS
}  // namespace radixattn
