#include "plan/decode_schedule.h"

namespace radixattn {
namespace {

constexpr uint32_t kStep = 64;       // ranges are whole tiles of every kernel
constexpr uint32_t kShortest = 256;  // below, a block's start and end cost as much as its work
constexpr uint64_t kItemCost = 64;   // of an item's start and end, in tokens
constexpr uint64_t kStateCost = 4;   // of a partial state, in tokens

struct Span {
  uint32_t begin, end;  // visible positions
};

Span visible(const DecodeScheduleInput& in, uint32_t seq) {
  const int32_t length = in.context_lens[seq];
  const uint32_t end = length > 0 ? static_cast<uint32_t>(length) : 0;
  return {in.window != 0 && end > in.window ? end - in.window : 0, end};
}

struct Ranges {
  uint32_t begin, end;
};

Ranges ranges_of(const Span& s, uint32_t split) {
  if (s.end == 0) return {0, 1};
  return {s.begin / split, (s.end - 1) / split + 1};
}

uint32_t round_up(uint64_t tokens) {
  const uint64_t whole = (tokens + kStep - 1) / kStep * kStep;
  const uint64_t most = 1u << 30;
  return static_cast<uint32_t>(whole < kShortest ? kShortest : whole < most ? whole : most);
}

struct Estimate {
  uint64_t items = 0, states = 0, cost = 0;
};

Estimate estimate(const DecodeScheduleInput& in, uint32_t split) {
  Estimate e;
  uint64_t tokens = 0, longest = 0;
  for (uint32_t s = 0; s < in.num_seqs; ++s) {
    const Span span = visible(in, s);
    const Ranges ranges = ranges_of(span, split);
    const uint64_t n = ranges.end - ranges.begin, length = span.end - span.begin;
    e.items += n;
    if (n > 1) e.states += n;
    tokens += length;
    const uint64_t part = length < split ? length : split;
    if (part > longest) longest = part;
  }
  const uint64_t even = (tokens + e.items * kItemCost) / in.num_blocks;
  e.cost = (even > longest + kItemCost ? even : longest + kItemCost) +
           e.states * kStateCost / in.num_blocks;
  return e;
}

uint32_t choose_split(const DecodeScheduleInput& in) {
  uint64_t tokens = 0, longest = 0;
  for (uint32_t s = 0; s < in.num_seqs; ++s) {
    const Span span = visible(in, s);
    tokens += span.end - span.begin;
    if (span.end - span.begin > longest) longest = span.end - span.begin;
  }
  uint32_t best = round_up(longest);  // one or two ranges a sequence: the list has room for those
  Estimate least = estimate(in, best);
  while (least.items > in.max_items && best < (1u << 30)) {
    best *= 2;  // a window may lie across a boundary of any length but the largest
    least = estimate(in, best);
  }
  for (uint32_t waves = 1; waves <= 4; ++waves) {
    const uint32_t split = round_up(tokens / (uint64_t{in.num_blocks} * waves) + 1);
    const Estimate e = estimate(in, split);
    if (e.items <= in.max_items && e.cost < least.cost) {
      least = e;
      best = split;
    }
  }
  return best;
}

}  // namespace

DecodeSchedule schedule_decode(const DecodeScheduleInput& in, int32_t* items,
                               int32_t* partial_begin) {
  DecodeSchedule schedule;
  schedule.split_tokens = in.fixed_split != 0 ? in.fixed_split : choose_split(in);
  const Estimate e = estimate(in, schedule.split_tokens);
  schedule.num_items = e.items > UINT32_MAX ? UINT32_MAX : static_cast<uint32_t>(e.items);
  schedule.num_partial_rows = e.states > UINT32_MAX ? UINT32_MAX : static_cast<uint32_t>(e.states);
  if (e.items > in.max_items) return schedule;
  constexpr bool kFullFirst[] = {true, false};
  uint32_t at = 0, row = 0;
  for (const bool full : kFullFirst) {
    for (uint32_t s = 0; s < in.num_seqs; ++s) {
      const Span span = visible(in, s);
      const Ranges ranges = ranges_of(span, schedule.split_tokens);
      for (uint32_t r = ranges.begin; r < ranges.end; ++r) {
        const uint64_t begin = uint64_t{r} * schedule.split_tokens;
        const bool whole = begin >= span.begin && begin + schedule.split_tokens <= span.end;
        if (whole != full) continue;
        items[2 * at] = static_cast<int32_t>(s);
        items[2 * at + 1] = static_cast<int32_t>(r);
        ++at;
      }
      if (!full) continue;
      partial_begin[s] = static_cast<int32_t>(row) - static_cast<int32_t>(ranges.begin);
      if (ranges.end - ranges.begin > 1) row += ranges.end - ranges.begin;
    }
  }
  return schedule;
}

}  // namespace radixattn
