// Longest-prefix lookups: for each prompt of a batch the way down the radix tree that equals it,
// block by block, as far as it goes.
//
//   child of a node that continues the prompt: siblings are sorted by their first block, so binary
//     search; log2(children) compares of one block
//   blocks that the child's run shares with the prompt: min over i of (run[i] != prompt[i]),
//     rounded down to whole blocks
//   whole run shared: on to its children; else the match ends here
//
// Work split. A warp has one prompt, its lanes the tokens of a compare: 32 of a first block, 256 of
// a run in flight; a ballot says where the first difference is. Block ids go to the prompt's row of
// the table on the way down, so nobody walks back up.
//
// The tree's arrays and prompt_begin are claims (see MatchParams): ranges are cut to what there is,
// and a child has a larger index than its parent, so the way down ends.
#include "cuda/kernels.h"
#include "cuda/simt/simt.h"

namespace radixattn::cuda {
namespace {

using namespace simt;

constexpr int kLanes = 32;
constexpr int kPerLane = 8;  // tokens of a run in flight, for each lane

template <class T>
struct Range {
  T begin, end;  // begin <= end
};

// [begin, end) as far as it lies in [low, high].
template <class T>
RADIX_DEVICE Range<T> cut(T begin, T end, T low, T high) {
  const T b = begin < low ? low : begin > high ? high : begin;
  return {b, end < b ? b : end > high ? high : end};
}

RADIX_DEVICE Range<int64_t> tokens_of(const MatchParams& p, uint32_t prompt) {
  return cut(p.prompt_begin[prompt], p.prompt_begin[prompt + 1], int64_t{0},
             static_cast<int64_t>(p.num_tokens));
}
RADIX_DEVICE Range<int32_t> children_of(const MatchParams& p, int32_t node) {
  return cut(p.child_begin[node + 1], p.child_begin[node + 2], node + 1,
             static_cast<int32_t>(p.num_nodes));
}
RADIX_DEVICE Range<int32_t> blocks_of(const MatchParams& p, int32_t node) {
  return cut(p.block_begin[node], p.block_begin[node + 1], 0, static_cast<int32_t>(p.num_blocks));
}

// How a and b stand to each other, n tokens each: -1, 0 or 1 in every lane.
RADIX_DEVICE int compare(const int32_t* __restrict__ a, const int32_t* __restrict__ b, int n) {
  for (int at = 0; at < n; at += kLanes) {
    const int i = at + static_cast<int>(threadIdx.x);
    const int32_t x = i < n ? a[i] : 0, y = i < n ? b[i] : 0;
    const unsigned differ = __ballot_sync(kFullWarp, x != y);
    const unsigned less = __ballot_sync(kFullWarp, x < y);
    if (differ != 0) return (less & differ & (0u - differ)) != 0 ? -1 : 1;  // the lowest set bit
  }
  return 0;
}

// Leading tokens of [0, n) that are equal.
RADIX_DEVICE int64_t equal_tokens(const int32_t* __restrict__ a, const int32_t* __restrict__ b,
                                  int64_t n) {
  for (int64_t at = 0; at < n; at += kLanes * kPerLane) {
    bool differs[kPerLane];
    bool any = false;
    RADIX_UNROLL
    for (int k = 0; k < kPerLane; ++k) {
      const int64_t i = at + k * kLanes + threadIdx.x;
      differs[k] = i < n && a[i] != b[i];
      any = any || differs[k];
    }
    if (!__any_sync(kFullWarp, any)) continue;
    RADIX_UNROLL
    for (int k = 0; k < kPerLane; ++k) {
      const unsigned lanes = __ballot_sync(kFullWarp, differs[k]);
      if (lanes != 0) return at + k * kLanes + __ffs(static_cast<int>(lanes)) - 1;
    }
  }
  return n;
}

// The child of `node` whose first block is the one at `prompt`, or -1.
RADIX_DEVICE int32_t find_child(const MatchParams& p, int32_t node, const int32_t* prompt) {
  Range<int32_t> left = children_of(p, node);
  while (left.begin < left.end) {
    const int32_t middle = left.begin + (left.end - left.begin) / 2;
    const Range<int32_t> blocks = blocks_of(p, middle);
    const bool empty = blocks.begin == blocks.end;
    const int order = empty ? 1
                            : compare(prompt, p.tokens + int64_t{blocks.begin} * p.block_size,
                                      static_cast<int>(p.block_size));
    if (order == 0) return middle;
    if (order < 0) {
      left.end = middle;
    } else {
      left.begin = middle + 1;
    }
  }
  return -1;
}

// grid (num_prompts)
__global__ void __launch_bounds__(kLanes) match_kernel(const __grid_constant__ MatchParams p) {
  const uint32_t index = blockIdx.x;
  const Range<int64_t> tokens = tokens_of(p, index);
  const int64_t length = tokens.end - tokens.begin;
  const auto block_size = static_cast<int32_t>(p.block_size);
  const auto end = static_cast<int32_t>((length < INT32_MAX ? length : INT32_MAX) / block_size);
  const int64_t width = p.out_tables != nullptr ? p.table_stride : 0;
  int32_t* row = p.out_tables + index * width;
  int32_t node = -1, done = 0;
  while (done < end && p.num_nodes > 0) {
    const int32_t* rest = p.prompts + tokens.begin + int64_t{done} * block_size;
    const int32_t child = find_child(p, node, rest);
    if (child < 0) break;
    node = child;
    const Range<int32_t> blocks = blocks_of(p, child);
    const int32_t num = blocks.end - blocks.begin;
    const int64_t most = int64_t{num < end - done ? num : end - done} * block_size;
    const int64_t equal = equal_tokens(rest, p.tokens + int64_t{blocks.begin} * block_size, most);
    const auto got = static_cast<int32_t>(equal / block_size);
    for (int32_t i = threadIdx.x; i < got && done + i < width; i += kLanes)
      row[done + i] = p.block_ids[blocks.begin + i];
    done += got;
    if (got < num) break;
  }
  if (threadIdx.x == 0) {
    p.out_nodes[index] = node;
    p.out_tokens[index] = done * block_size;
  }
  for (int64_t i = done + threadIdx.x; i < width; i += kLanes) row[i] = -1;
}

}  // namespace

Error launch_match_batch(const MatchParams& p, Stream stream) {
  if (p.num_prompts == 0) return 0;
  return RADIX_LAUNCH(match_kernel, dim3(p.num_prompts), dim3(kLanes), 0, stream, p);
}

}  // namespace radixattn::cuda
