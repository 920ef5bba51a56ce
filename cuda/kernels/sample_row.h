// A row of logits in the hands of one thread block: what sample.cu and verify.cu are made of.
//
// Weights are integers (sample/weights.h), so every sum below is exact and nobody's order of adding
// matters. What the cuts leave is described by a handful of numbers (RowCut): a token stays or not
// by its own score and id, and no list of survivors has to be kept.
//
//   rank(token) = rank_key(score) << 20 | id: top_k, top_p and min_p keep the lowest ranks
//   typical_rank = distance from typical << 20 | id: typical_p keeps the lowest of these
//
// A threshold is a selection: the token at which the count, or the weight, of those in front of it
// and itself reaches an amount. Select walks down the digits of the order, 11 bits at a time, with
// a histogram of (count, weight) in shared memory; as soon as few enough tokens have the digits
// found so far they are copied to shared memory, and the row is not read any more.
#pragma once

#include "cuda/kernels.h"
#include "cuda/simt/simt.h"
#include "sample/weights.h"

namespace radixattn::cuda::sampling {

using namespace simt;

constexpr int kThreads = 512, kWarps = kThreads / 32;
constexpr int kDigitBits = 11, kDigits = 1 << kDigitBits, kDigitsPerThread = kDigits / kThreads;
constexpr uint32_t kMaxListed = 2048;
constexpr uint32_t kMaxTop = 128;
constexpr int kIdBits = 20;
constexpr uint32_t kIdMask = (1u << kIdBits) - 1;
static_assert(kMaxVocab <= 1u << kIdBits);

// What a row's parameters ask for.
struct RowParams {
  float temperature, top_p, min_p, typical_p;  // 1 = off (min_p: 0)
  uint32_t top_k;                              // 0 = off
  float repetition, presence, frequency;
};

struct Tally {
  uint64_t weight;
  uint32_t count;
};

// The tokens whose places in an order begin with the same digits: `digits`, in front of `shift`
// open bits.
struct Group {
  uint64_t digits;
  Tally before, own;  // tokens in front of the group, and in it
  int shift;
};

// What one block keeps in shared memory: what all its threads would else hold in registers, too.
// Functions return with a barrier behind their last access, or say what they leave to read.
struct Scratch {
  RowCut cut;           // of the row
  float highest_logit;  // for log-probabilities
  RowParams params;
  Tally all;                  // what `narrow` found to stay
  Group group;                // of the selection that goes on
  uint64_t list[kMaxListed];  // ranks
  uint64_t top[kMaxTop];      // ranks
  uint64_t partial[kWarps];
  uint64_t found[4];  // what `find` and `locate` report
  uint32_t counts[kDigits];
  uint32_t low[kDigits], high[kDigits];  // halves of sums of weights
  uint32_t partial_counts[kWarps];
  uint32_t found_counts[4];
  uint32_t num_listed;
};

// ---- sums over the block, in all threads --------------------------------------------------------

template <class Combine>
RADIX_DEVICE uint64_t block_reduce(Scratch& s, uint64_t v, Combine combine) {
  RADIX_UNROLL
  for (int o = 16; o > 0; o /= 2) v = combine(v, __shfl_xor_sync(kFullWarp, v, o));
  if (threadIdx.x % 32 == 0) s.partial[threadIdx.x / 32] = v;
  __syncthreads();
  uint64_t all = s.partial[0];
  RADIX_ROLLED
  for (int w = 1; w < kWarps; ++w) all = combine(all, s.partial[w]);
  __syncthreads();  // partial may be written again
  return all;
}
RADIX_DEVICE uint64_t block_sum(Scratch& s, uint64_t v) {
  return block_reduce(s, v, [](uint64_t a, uint64_t b) { return a + b; });
}
RADIX_DEVICE uint64_t block_min(Scratch& s, uint64_t v) {
  return block_reduce(s, v, [](uint64_t a, uint64_t b) { return a < b ? a : b; });
}

// Of all threads in front of this one.
RADIX_DEVICE Tally block_before(Scratch& s, Tally own) {
  const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  Tally upto = own;
  RADIX_UNROLL
  for (uint32_t o = 1; o < 32; o *= 2) {
    const uint64_t weight = __shfl_up_sync(kFullWarp, upto.weight, o);
    const uint32_t count = __shfl_up_sync(kFullWarp, upto.count, o);
    if (lane >= o) upto.weight += weight, upto.count += count;
  }
  if (lane == 31) s.partial[warp] = upto.weight, s.partial_counts[warp] = upto.count;
  __syncthreads();
  Tally before = {upto.weight - own.weight, upto.count - own.count};
  RADIX_ROLLED
  for (uint32_t w = 0; w < warp; ++w)
    before.weight += s.partial[w], before.count += s.partial_counts[w];
  __syncthreads();  // partial may be written again
  return before;
}

// ---- tokens -------------------------------------------------------------------------------------

RADIX_DEVICE float to_float(float x) { return x; }
RADIX_DEVICE float to_float(Half x) { return __half2float(x); }
RADIX_DEVICE float to_float(Bf16 x) { return __bfloat162float(x); }

// 16 bytes of a row.
template <class S>
struct Piece {
  static constexpr int kSize = 8;
  static RADIX_DEVICE void unpack(const uint4& v, float (&x)[kSize]) {
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};
    RADIX_UNROLL
    for (int i = 0; i < 4; ++i) {
      const float2 two = Pair<S>::unpack(words[i]);
      x[2 * i] = two.x, x[2 * i + 1] = two.y;
    }
  }
};
template <>
struct Piece<float> {
  static constexpr int kSize = 4;
  static RADIX_DEVICE void unpack(const uint4& v, float (&x)[kSize]) { memcpy(x, &v, sizeof v); }
};

// f(id, x) for elements [begin, end) of a row, in 16-byte loads where it has 16 aligned bytes; this
// is number `thread` of the `threads` (8 or more) that share them.
template <class S, class F>
RADIX_DEVICE void each_element(const S* row, uint32_t begin, uint32_t end, uint32_t thread,
                               uint32_t threads, F f) {
  constexpr uint32_t kSize = Piece<S>::kSize;
  const auto past = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(row + begin) % 16);
  uint32_t head = past == 0 ? 0 : (16 - past) / static_cast<uint32_t>(sizeof(S));
  if (head > end - begin) head = end - begin;
  const uint32_t first = begin + head, pieces = (end - first) / kSize;
  if (thread < head) f(begin + thread, to_float(row[begin + thread]));
  const auto* body = reinterpret_cast<const uint4*>(row + first);
  uint4 next = {};
  if (thread < pieces) next = body[thread];
  RADIX_ROLLED
  for (uint32_t i = thread; i < pieces; i += threads) {
    const uint4 piece = next;
    if (i + threads < pieces) next = body[i + threads];  // in flight while this one is worked on
    float x[kSize];
    Piece<S>::unpack(piece, x);
    RADIX_UNROLL
    for (uint32_t k = 0; k < kSize; ++k) f(first + i * kSize + k, x[k]);
  }
  const uint32_t tail = first + pieces * kSize + thread;
  if (tail < end) f(tail, to_float(row[tail]));
}

// The scores of a row: as they lie there, -inf where `allowed` has no bit.
template <class S>
struct Row {
  const S* data;
  const uint32_t* allowed;  // null: all
  uint32_t vocab;

  RADIX_DEVICE float mask(uint32_t id, float x) const {
    return allowed == nullptr || (allowed[id / 32] >> id % 32 & 1u) != 0 ? x : -INFINITY;
  }
  RADIX_DEVICE float at(uint32_t id) const { return mask(id, to_float(data[id])); }
  template <class F>
  RADIX_DEVICE void each(const Scratch&, F f) const {
    each_element(data, 0, vocab, threadIdx.x, kThreads,
                 [&](uint32_t id, float x) { f(id, mask(id, x)); });
  }
  // The same for passes that few rows need: little code, small loads.
  template <class F>
  RADIX_DEVICE void each_rarely(const Scratch&, F f) const {
    RADIX_ROLLED
    for (uint32_t id = threadIdx.x; id < vocab; id += kThreads) f(id, at(id));
  }
};

RADIX_DEVICE uint64_t rank_of(float score, uint32_t id) {
  return uint64_t{rank_key(score)} << kIdBits | id;
}
RADIX_DEVICE uint32_t id_of(uint64_t rank) { return static_cast<uint32_t>(rank) & kIdMask; }
RADIX_DEVICE float score_of(uint64_t rank) {
  const auto key = static_cast<uint32_t>(rank >> kIdBits);
  const uint32_t bits = (key & 0x80000000u) != 0 ? key : key ^ 0x7fffffffu;
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// Tokens that were copied to shared memory.
struct List {
  uint32_t size;
  template <class F>
  RADIX_DEVICE void each_rarely(const Scratch& s, F f) const {
    RADIX_ROLLED
    for (uint32_t i = threadIdx.x; i < size; i += kThreads)
      f(id_of(s.list[i]), score_of(s.list[i]));
  }
};

// ---- what stays ---------------------------------------------------------------------------------

constexpr uint64_t kAll = ~uint64_t{0};

RADIX_DEVICE uint64_t typical_rank(uint32_t steps, uint32_t mean, uint32_t id) {
  return uint64_t{typical_key(steps, mean)} << kIdBits | id;
}

// A token of a row that stays: its place below the highest score, and its weight.
struct Token {
  bool stays;
  uint32_t steps;
  uint64_t weight;
};
RADIX_DEVICE Token token_of(const RowCut& cut, uint32_t id, float x) {
  Token t;
  t.steps = steps_below(x, cut.max, cut.scale);
  t.weight = weight_of_steps(t.steps);
  t.stays = t.weight >= cut.least && rank_of(x, id) <= cut.last;
  if (cut.typical_last != kAll)
    t.stays = t.stays && typical_rank(t.steps, cut.typical_mean, id) <= cut.typical_last;
  return t;
}
RADIX_DEVICE uint64_t weight_in(const RowCut& cut, uint32_t id, float x) {
  const Token t = token_of(cut, id, x);
  return t.stays ? t.weight : 0;
}

// ---- selection ----------------------------------------------------------------------------------

enum class Order { kRank, kTypical, kId };
RADIX_DEVICE int bits_of(Order order) { return order == Order::kId ? kIdBits : 32 + kIdBits; }
RADIX_DEVICE uint64_t place_of(Order order, const RowCut& cut, const Token& t, uint32_t id,
                               float x) {
  if (order == Order::kId) return id;
  return order == Order::kRank ? rank_of(x, id) : typical_rank(t.steps, cut.typical_mean, id);
}

// Until count or weight reaches this. At least 1, at most all.
struct Amount {
  bool of_counts;
  uint64_t value;
};

RADIX_DEVICE void clear_histogram(Scratch& s) {
  for (int i = static_cast<int>(threadIdx.x); i < kDigits; i += kThreads)
    s.counts[i] = 0, s.low[i] = 0, s.high[i] = 0;
  __syncthreads();
}
// Shared memory adds 32 bits in one go, 64 by trying again and again. A sum is right when all have
// added: whoever makes the low half wrap carries. Most tokens of a row weigh less than 2^32.
RADIX_DEVICE void add_to_histogram(Scratch& s, uint32_t digit, uint64_t weight) {
  atomicAdd(&s.counts[digit], 1u);
  const auto low = static_cast<uint32_t>(weight);
  const uint32_t before = atomicAdd(&s.low[digit], low);
  const uint32_t carry = before + low < before ? 1 : 0;
  const uint32_t high = static_cast<uint32_t>(weight >> 32) + carry;
  if (high != 0) atomicAdd(&s.high[digit], high);
}
RADIX_DEVICE Tally tally_of(const Scratch& s, uint32_t digit) {
  return {uint64_t{s.high[digit]} << 32 | s.low[digit], s.counts[digit]};
}

// The digit of the histogram at which `amount` is reached: everything of it, in all threads.
struct Found {
  uint32_t digit;
  Tally before, own;
};
RADIX_DEVICE Found find(Scratch& s, Amount amount) {
  const uint32_t first = threadIdx.x * kDigitsPerThread;
  Tally sum = {0, 0};
  RADIX_UNROLL
  for (uint32_t i = 0; i < kDigitsPerThread; ++i) {
    const Tally own = tally_of(s, first + i);
    sum.weight += own.weight, sum.count += own.count;
  }
  Tally before = block_before(s, sum);
  const auto part = [&](const Tally& t) { return amount.of_counts ? t.count : t.weight; };
  if (part(before) < amount.value && amount.value <= part(before) + part(sum)) {
    uint32_t digit = first;
    Tally own = tally_of(s, digit);
    for (;; own = tally_of(s, ++digit)) {
      if (amount.value <= part(before) + part(own) || digit == first + kDigitsPerThread - 1) break;
      before.weight += own.weight, before.count += own.count;
    }
    s.found[0] = before.weight, s.found[1] = own.weight;
    s.found_counts[0] = before.count, s.found_counts[1] = own.count;
    s.found_counts[2] = digit;
  }
  __syncthreads();
  return {s.found_counts[2], {s.found[0], s.found_counts[0]}, {s.found[1], s.found_counts[1]}};
}

// Tokens to the list, in any order; they fit. `each` calls its argument with all that belong there.
template <class Each>
RADIX_DEVICE List make_list(Scratch& s, Each each) {
  if (threadIdx.x == 0) s.num_listed = 0;
  __syncthreads();
  each([&](uint32_t id, float x) {
    const uint32_t at = atomicAdd(&s.num_listed, 1u);
    if (at < kMaxListed) s.list[at] = rank_of(x, id);
  });
  __syncthreads();
  return {s.num_listed};
}

RADIX_DEVICE void begin_group(Scratch& s, Order order) {
  if (threadIdx.x == 0) s.group = {0, {0, 0}, {0, 0}, bits_of(order)};
  __syncthreads();
}
RADIX_DEVICE bool in_group(const Scratch& s, uint64_t place) {
  return place >> s.group.shift == s.group.digits;
}

// One digit further into the group, to the part of it where `amount` is reached.
template <class Items>
RADIX_DEVICE void descend(Scratch& s, const Items& items, Order order, Amount amount) {
  clear_histogram(s);
  items.each_rarely(s, [&](uint32_t id, float x) {
    const Token t = token_of(s.cut, id, x);
    if (!t.stays) return;
    const uint64_t place = place_of(order, s.cut, t, id, x);
    const int open = s.group.shift, shift = open < kDigitBits ? 0 : open - kDigitBits;
    const uint32_t mask = (1u << (open - shift)) - 1;
    if (in_group(s, place))
      add_to_histogram(s, static_cast<uint32_t>(place >> shift) & mask, t.weight);
  });
  __syncthreads();
  amount.value -= amount.of_counts ? s.group.before.count : s.group.before.weight;
  const Found found = find(s, amount);
  if (threadIdx.x == 0) {
    const int open = s.group.shift, shift = open < kDigitBits ? 0 : open - kDigitBits;
    s.group.digits = s.group.digits << (open - shift) | found.digit;
    s.group.shift = shift;
    s.group.before.weight += found.before.weight;
    s.group.before.count += found.before.count;
    s.group.own = found.own;
  }
  __syncthreads();
}

// The only token of the group.
RADIX_DEVICE uint64_t locate(Scratch& s, List list, Order order) {
  list.each_rarely(s, [&](uint32_t id, float x) {
    const Token t = token_of(s.cut, id, x);
    const uint64_t place = place_of(order, s.cut, t, id, x);
    if (t.stays && in_group(s, place)) s.found[2] = place;
  });
  __syncthreads();
  return s.found[2];
}

// The place at which `amount` is reached among the tokens that stay, and what is up to and with it.
struct Selected {
  uint64_t place;
  uint64_t weight;
};
RADIX_DEVICE Selected select_listed(Scratch& s, List list, Order order, Amount amount) {
  while (s.group.shift > 0 && s.group.own.count != 1) descend(s, list, order, amount);
  const uint64_t place = s.group.shift > 0 ? locate(s, list, order) : s.group.digits;
  const Selected end = {place, s.group.before.weight + s.group.own.weight};
  __syncthreads();  // the group may be another one's
  return end;
}
RADIX_DEVICE Selected select(Scratch& s, List list, Order order, Amount amount) {
  begin_group(s, order);
  return select_listed(s, list, order, amount);
}
template <class S>
RADIX_DEVICE Selected select(Scratch& s, const Row<S>& row, Order order, Amount amount) {
  begin_group(s, order);
  do {
    descend(s, row, order, amount);
  } while (s.group.shift > 0 && s.group.own.count > kMaxListed);
  const List list = make_list(s, [&](auto add) {
    row.each_rarely(s, [&](uint32_t id, float x) {
      const Token t = token_of(s.cut, id, x);
      if (t.stays && in_group(s, place_of(order, s.cut, t, id, x))) add(id, x);
    });
  });
  return select_listed(s, list, order, amount);
}

// ---- cuts ---------------------------------------------------------------------------------------

// The row's tokens by how far they are below the highest score, 32 bins to a halving of p.
constexpr int kBinShift = 19;
constexpr uint32_t kNoWeightBin = (41u << 24) >> kBinShift;
static_assert(kNoWeightBin < kDigits);
RADIX_DEVICE uint32_t bin_of(uint32_t steps) {
  return steps == kNoWeight ? kNoWeightBin : steps >> kBinShift;
}

// Lists what of a row can be left after top_k and top_p, whole bins of it, and returns how much;
// 0: too much for a list. s.all is what stays before these cuts. top_k: 0 = off; top_p: 1 = off.
template <class S>
RADIX_DEVICE uint32_t narrow(Scratch& s, const Row<S>& row, uint32_t top_k, float top_p) {
  clear_histogram(s);
  row.each(s, [&](uint32_t id, float x) {
    const Token t = token_of(s.cut, id, x);
    if (t.stays) add_to_histogram(s, bin_of(t.steps), t.weight);
  });
  __syncthreads();
  Tally all = {0, 0};
  for (uint32_t i = threadIdx.x; i < kDigits; i += kThreads) {
    const Tally own = tally_of(s, i);
    all.weight += own.weight, all.count += own.count;
  }
  all.weight = block_sum(s, all.weight);
  all.count = static_cast<uint32_t>(block_sum(s, all.count));
  if (threadIdx.x == 0) s.all = all;
  // Behind a top_k that cuts, all of its tokens must be there: top_p is a part of their weight.
  Amount amount = {true, all.count};
  if (top_k != 0 && top_k < all.count) {
    amount.value = top_k;
  } else if (top_p < 1.f) {
    amount = {false, target_weight(top_p, all.weight)};
  }
  const Found end = find(s, amount);
  const uint32_t size = end.before.count + end.own.count, last = end.digit;
  if (size > kMaxListed) return 0;
  make_list(s, [&](auto add) {
    row.each(s, [&](uint32_t id, float x) {
      const Token t = token_of(s.cut, id, x);
      if (t.stays && bin_of(t.steps) <= last) add(id, x);
    });
  });
  return size;
}

// The mean distance for typical_p, and the weight that it has to reach.
template <class Items>
RADIX_DEVICE uint64_t begin_typical(Scratch& s, const Items& items) {
  TypicalSum sum;
  uint64_t total = 0;
  items.each_rarely(s, [&](uint32_t id, float x) {
    const Token t = token_of(s.cut, id, x);
    if (!t.stays) return;
    typical_add(&sum, t.steps, t.weight);
    total += t.weight;
  });
  sum.weights = block_sum(s, sum.weights);
  sum.steps = block_sum(s, sum.steps);
  total = block_sum(s, total);
  if (threadIdx.x == 0) s.cut.typical_mean = typical_mean(sum);
  __syncthreads();
  return target_weight(s.params.typical_p, total);
}

// All cuts of a row that is not greedy; the cut holds max and scale, and s.all is there if it has a
// top_k or a top_p. One loop, so that the selection's code is there once.
template <class Items>
RADIX_DEVICE void make_cuts(Scratch& s, const Items& items) {
  enum { kTopK, kTopP, kTypicalP, kEnd };
  uint64_t total = s.all.weight;
  RADIX_ROLLED
  for (int which = kTopK; which != kEnd; ++which) {
    Amount amount = {which == kTopK, 0};
    if (which == kTopK) {
      if (s.params.top_k == 0 || s.params.top_k >= s.all.count) continue;
      amount.value = s.params.top_k;
    } else if (which == kTopP) {
      if (s.params.top_p == 1.f) continue;
      amount.value = target_weight(s.params.top_p, total);
    } else {
      if (threadIdx.x == 0 && s.params.min_p > 0.f)
        s.cut.least = target_weight(s.params.min_p, kMaxWeight);
      __syncthreads();
      if (s.params.typical_p == 1.f) continue;
      amount.value = begin_typical(s, items);
    }
    const Order order = which == kTypicalP ? Order::kTypical : Order::kRank;
    const Selected end = select(s, items, order, amount);
    if (threadIdx.x == 0) (which == kTypicalP ? s.cut.typical_last : s.cut.last) = end.place;
    total = end.weight;
    __syncthreads();
  }
}

// ---- the draw -----------------------------------------------------------------------------------

// Token of [0, vocab) in the order of ids at which the sum of weights passes draw_below(bits,
// total). each(begin, end, lane, add) gives a warp's lane its tokens of a range; at(id) is one
// token's weight. Each warp sums a part of the row; only the part with the token is read again.
struct Drawn {
  uint32_t token;
  uint64_t total;
};
template <class Each, class At>
RADIX_DEVICE Drawn draw(Scratch& s, uint32_t vocab, uint64_t bits, Each each, At at) {
  constexpr uint32_t kTile = 8;  // of a thread
  const uint32_t warp = threadIdx.x / 32, length = ((vocab + kWarps - 1) / kWarps + 7) / 8 * 8;
  const auto edge = [&](uint32_t part) { return part * length < vocab ? part * length : vocab; };
  uint64_t sum = 0;
  each(edge(warp), edge(warp + 1), threadIdx.x % 32, [&](uint64_t weight) { sum += weight; });
  RADIX_UNROLL
  for (int o = 16; o > 0; o /= 2) sum += __shfl_xor_sync(kFullWarp, sum, o);
  if (threadIdx.x % 32 == 0) s.partial[warp] = sum;
  __syncthreads();
  uint64_t total = 0;
  RADIX_ROLLED
  for (int w = 0; w < kWarps; ++w) total += s.partial[w];
  uint64_t left = draw_below(bits, total);
  uint32_t part = 0;
  while (part < kWarps - 1 && left >= s.partial[part]) left -= s.partial[part++];
  __syncthreads();  // partial may be written again
  const uint32_t end = edge(part + 1);
  for (uint32_t tile = edge(part);; tile += kTile * kThreads) {
    const uint32_t first = tile + threadIdx.x * kTile;
    Tally own = {0, 0};
    for (uint32_t id = first; id < first + kTile && id < end; ++id) own.weight += at(id);
    uint64_t before = block_before(s, own).weight;
    const bool here = before <= left && left < before + own.weight;
    if (here) {
      uint32_t id = first;
      for (uint64_t weight = at(id); left - before >= weight; weight = at(++id)) before += weight;
      s.found_counts[3] = id;
    }
    // The sum of this tile, for the next one.
    const bool last = tile + kTile * kThreads >= end;
    if (__syncthreads_or(here ? 1 : 0) != 0 || last) break;
    left -= block_sum(s, own.weight);
  }
  return {s.found_counts[3], total};
}

// ... among those of a row that stay, and of a list.
template <class S>
RADIX_DEVICE Drawn draw_of(Scratch& s, const Row<S>& row, uint64_t bits) {
  return draw(
      s, row.vocab, bits,
      [&](uint32_t begin, uint32_t end, uint32_t lane, auto add) {
        each_element(row.data, begin, end, lane, 32,
                     [&](uint32_t id, float x) { add(weight_in(s.cut, id, row.mask(id, x))); });
      },
      [&](uint32_t id) { return weight_in(s.cut, id, row.at(id)); });
}
RADIX_DEVICE Drawn draw_of(Scratch& s, List list, uint64_t bits) {
  uint64_t total = 0;
  list.each_rarely(s, [&](uint32_t id, float x) { total += weight_in(s.cut, id, x); });
  total = block_sum(s, total);
  const Amount amount = {false, draw_below(bits, total) + 1};
  return {static_cast<uint32_t>(select(s, list, Order::kId, amount).place), total};
}

}  // namespace radixattn::cuda::sampling
