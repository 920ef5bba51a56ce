// One token from each row of logits: radix_sample's definition, with the integer weights of
// sample/weights.h, so that the token is the CPU backend's, whatever the batch.
//
// Work split. A thread block has one row. How often it reads it, from the L2 cache but for
// the first time:
//
//   greedy             once: the lowest (rank_key, id)
//   temperature, min_p twice: maximum; sums of weights, one for each warp's part of the row. The
//                      part that the draw falls into (1/16) is read again
//   top_k, top_p       three times: maximum; histogram of (count, weight) over 32 bins a halving of
//                      the probability; the tokens up to the bin where the cuts end, to shared
//                      memory. They are cut and drawn from there. Where more than 2,048 tokens may
//                      stay, cuts go through the row, 11 bits of their order at a time
//   typical_p          on such a list no more; on a whole row three more reads or so
//
// Log-probabilities of the logits cost one more read for their sum, the likeliest tokens two.
#include "cuda/kernels/sample_row.h"
#include "cuda/kernels/sample_scores.h"

namespace radixattn::cuda {
namespace {

using namespace sampling;

// The row's lowest rank (highest score, lowest id), and whether a score is NaN or +inf.
struct Top {
  uint64_t rank;
  bool bad;
};
template <class S>
RADIX_DEVICE Top top_of(Scratch& s, const Row<S>& row) {
  Top top = {kAll, false};
  row.each(s, [&](uint32_t id, float x) {
    top.bad = top.bad || !(x < INFINITY);
    const uint64_t rank = rank_of(x, id);
    if (rank < top.rank) top.rank = rank;
  });
  top.rank = block_min(s, top.rank);
  top.bad = __syncthreads_or(top.bad ? 1 : 0) != 0;
  return top;
}

// What a row came to; its cut is in the scratch.
struct Result {
  int32_t status;
  uint32_t token;
  uint32_t listed;  // what stays is among so many tokens of the list; 0: in the row
};

// Behind a barrier after the last look at the cut before.
RADIX_DEVICE void begin_cut(Scratch& s, float max, float scale, uint64_t least) {
  if (threadIdx.x == 0) {
    s.cut = {max, scale, kAll, kAll, least, 0, 0};
  }
  __syncthreads();
}

RADIX_DEVICE uint64_t bits_of_row(const SampleParams& p, uint32_t row) {
  return philox_bits(value_of(p.seeds, row), value_of(p.positions, row), kTokenStream);
}

// Cuts and draws; `best` is the top of the scores.
template <class S>
RADIX_DEVICE Result choose(Scratch& s, const SampleParams& p, uint32_t row, const Row<S>& scores,
                           uint64_t best) {
  const bool greedy = s.params.temperature == 0.f;
  begin_cut(s, score_of(best), greedy ? INFINITY : score_scale(s.params.temperature), 1);
  Drawn drawn = {id_of(best), kMaxWeight};
  uint32_t listed = 0;
  if (greedy) {
    if (threadIdx.x == 0) s.cut.last = best;
  } else {
    if (s.params.top_k != 0 || s.params.top_p < 1.f)
      listed = narrow(s, scores, s.params.top_k, s.params.top_p);
    if (listed != 0) {
      make_cuts(s, List{listed});
      drawn = draw_of(s, List{listed}, bits_of_row(p, row));
    } else {
      make_cuts(s, scores);
      drawn = draw_of(s, scores, bits_of_row(p, row));
    }
  }
  if (threadIdx.x == 0) s.cut.total = drawn.total;
  __syncthreads();
  return {RADIX_ROW_OK, drawn.token, listed};
}

// ---- log-probabilities --------------------------------------------------------------------------

// The n tokens with the lowest ranks among those that stay go to s.top, in order; n or fewer.
template <class Items>
RADIX_DEVICE uint32_t find_top(Scratch& s, const Items& items, uint32_t n) {
  uint64_t count = 0;
  items.each_rarely(s,
                    [&](uint32_t id, float x) { count += token_of(s.cut, id, x).stays ? 1 : 0; });
  count = block_sum(s, count);
  if (count < n) n = static_cast<uint32_t>(count);
  const uint64_t last = select(s, items, Order::kRank, {true, n}).place;
  if (threadIdx.x == 0) s.num_listed = 0;
  __syncthreads();
  items.each_rarely(s, [&](uint32_t id, float x) {
    const uint64_t rank = rank_of(x, id);
    if (!token_of(s.cut, id, x).stays || rank > last) return;
    const uint32_t at = atomicAdd(&s.num_listed, 1u);
    if (at < kMaxTop) s.top[at] = rank;
  });
  __syncthreads();
  uint64_t own = 0;
  uint32_t place = 0;
  if (threadIdx.x < n) {
    own = s.top[threadIdx.x];
    for (uint32_t i = 0; i < n; ++i) place += s.top[i] < own ? 1 : 0;
  }
  __syncthreads();
  if (threadIdx.x < n) s.top[place] = own;
  __syncthreads();
  return n;
}

// What log-probabilities are of: the cut of the scratch, and what they are relative to.
struct Shares {
  bool final;       // of what the token was drawn from, else of the logits
  uint32_t listed;  // as in Result
  uint64_t total;   // logits: sum of weights

  RADIX_DEVICE float log_p(const Scratch& s, float score) const {
    return final ? log_share(weight_of(score, s.cut.max, s.cut.scale), s.cut.total)
                 : log_softmax(score, s.cut.max, total);
  }
};

template <class S>
RADIX_DEVICE void report_top(Scratch& s, const SampleParams& p, uint32_t row, const Row<S>& from,
                             const Shares& shares) {
  const uint32_t n = shares.listed != 0 ? find_top(s, List{shares.listed}, p.num_top)
                                        : find_top(s, from, p.num_top);
  if (threadIdx.x >= p.num_top) return;
  const uint64_t at = uint64_t{row} * p.num_top + threadIdx.x;
  const bool kept = threadIdx.x < n;
  const uint64_t rank = kept ? s.top[threadIdx.x] : 0;
  p.out_top_tokens[at] = kept ? static_cast<int32_t>(id_of(rank)) : -1;
  p.out_top_logprobs[at] = kept ? shares.log_p(s, score_of(rank)) : -INFINITY;
}

// The cut that takes nothing, of the logits.
template <class T>
RADIX_DEVICE Shares shares_of_logits(Scratch& s, const SampleParams& p, const Row<T>& logits) {
  begin_cut(s, s.highest_logit, score_scale(1.f), 0);
  uint64_t total = 0;
  logits.each(s, [&](uint32_t, float x) { total += weight_of(x, s.cut.max, s.cut.scale); });
  total = block_sum(s, total);
  return {false, p.num_top != 0 ? narrow(s, logits, p.num_top, 1.f) : 0, total};
}

RADIX_DEVICE void report_bad(const SampleParams& p, uint32_t row) {
  if (p.out_logprobs != nullptr && threadIdx.x == 0) p.out_logprobs[row] = NAN;
  if (threadIdx.x >= p.num_top) return;
  const uint64_t at = uint64_t{row} * p.num_top + threadIdx.x;
  p.out_top_tokens[at] = -1;
  p.out_top_logprobs[at] = NAN;
}

// ---- the kernel ---------------------------------------------------------------------------------

template <class S>
RADIX_DEVICE Result sample_row(Scratch& s, const SampleParams& p, uint32_t row,
                               const Row<S>& scores) {
  const Top top = top_of(s, scores);
  if (top.bad) return {RADIX_ROW_NAN, 0, 0};
  if (score_of(top.rank) == -INFINITY) return {RADIX_ROW_EMPTY, 0, 0};
  return choose(s, p, row, scores, top.rank);
}

template <class T, class S>
RADIX_DEVICE void report(Scratch& s, const SampleParams& p, uint32_t row, const Row<T>& logits,
                         const Row<S>& scores, const Result& result) {
  const bool final = (p.flags & RADIX_SAMPLE_FINAL_LOGPROBS) != 0;
  const Shares shares = final ? Shares{true, result.listed, 0} : shares_of_logits(s, p, logits);
  if (p.out_logprobs != nullptr && threadIdx.x == 0) {
    const float score = final ? scores.at(result.token) : logits.at(result.token);
    p.out_logprobs[row] = shares.log_p(s, score);
  }
  if (p.num_top == 0) return;
  if constexpr (std::is_same_v<T, S>) {
    const Row<S> from = {final ? scores.data : logits.data, final ? scores.allowed : nullptr,
                         p.vocab};
    report_top(s, p, row, from, shares);
  } else if (final) {
    report_top(s, p, row, scores, shares);
  } else {
    report_top(s, p, row, logits, shares);
  }
}

// The token, its status and the cut to memory, then what is reported beside them.
template <class T, class S>
RADIX_DEVICE void finish_row(Scratch& s, const SampleParams& p, const SampleSpace& space,
                             uint32_t row, const Row<T>& logits, const Row<S>& scores,
                             const Result& result) {
  const bool ok = result.status == RADIX_ROW_OK;
  if (threadIdx.x == 0) {
    p.out_tokens[row] = ok ? static_cast<int32_t>(result.token) : -1;
    if (p.out_status != nullptr) p.out_status[row] = result.status;
    if (ok && space.cuts != nullptr) space.cuts[row] = s.cut;
  }
  if (p.out_logprobs == nullptr && p.num_top == 0) return;
  if (ok) {
    report(s, p, row, logits, scores, result);
  } else {
    report_bad(p, row);
  }
}

// kAdjusted: the row's scores are made in the workspace. grid (num_rows)
// Two blocks an SM; of the others ptxas would spill for that.
template <class T, bool kAdjusted>
__global__ void __launch_bounds__(kThreads, kAdjusted ? 1 : 2)
    sample_kernel(const __grid_constant__ SampleParams p,
                  const __grid_constant__ SampleSpace space) {
  RADIX_SHARED(Scratch, s);
  const uint32_t row = blockIdx.x;
  const T* data = static_cast<const T*>(p.logits.data) + row * p.logits.row_stride;
  const uint32_t* allowed = p.allowed == nullptr ? nullptr : p.allowed + row * p.allowed_stride;
  const Row<T> raw = {data, nullptr, p.vocab}, logits = {data, allowed, p.vocab};
  const bool good = check_params(s, p, row) && check_lists(p, row);
  Result result = {RADIX_ROW_OK, 0, 0};
  if (__syncthreads_and(good ? 1 : 0) == 0) result.status = RADIX_ROW_PARAMETER;
  if (result.status == RADIX_ROW_OK && (kAdjusted || allowed != nullptr)) {
    const Top top = top_of(s, raw);
    if (threadIdx.x == 0) s.highest_logit = score_of(top.rank);
    if (top.bad) result.status = RADIX_ROW_NAN;
  }
  if constexpr (kAdjusted) {
    float* scores = space.scores + row * space.stride;
    const Row<float> adjusted = {scores, nullptr, p.vocab};
    if (result.status == RADIX_ROW_OK) {
      make_scores(s, p, row, logits, scores, space.slots + row * space.stride);
      result = sample_row(s, p, row, adjusted);
    }
    finish_row(s, p, space, row, raw, adjusted, result);
  } else {
    if (result.status == RADIX_ROW_OK) result = sample_row(s, p, row, logits);
    if (allowed == nullptr && threadIdx.x == 0) s.highest_logit = s.cut.max;
    __syncthreads();
    finish_row(s, p, space, row, raw, logits, result);
  }
}

template <class T>
Error launch_dtype(const SampleParams& p, const SampleSpace& space, Stream stream) {
  const auto kernel = space.scores != nullptr ? sample_kernel<T, true> : sample_kernel<T, false>;
  return RADIX_LAUNCH(kernel, dim3(p.num_rows), dim3(kThreads), 0, stream, p, space);
}

}  // namespace

Error launch_sample(const SampleParams& p, const SampleSpace& space, Stream stream) {
  if (p.num_rows == 0) return 0;
  switch (p.logits.dtype) {
    case RADIX_F32:
      return launch_dtype<float>(p, space, stream);
    case RADIX_F16:
      return launch_dtype<Half>(p, space, stream);
    default:
      return launch_dtype<Bf16>(p, space, stream);
  }
}

}  // namespace radixattn::cuda
