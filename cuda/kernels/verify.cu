// Which drafted tokens stand: radix_verify's definition.
//
// Work split. First every row of the target is sampled, all of them at the same time (sample.cu):
// its token, and what its cuts leave (RowCut: a token's weight p follows from its score alone).
// Then a thread block goes down each sequence's tree.
//
//   without draft_probs  a node's child stands if it has the node's token
//   with draft_probs     the draft's weights q of the node's row are summed; a child's p and q are
//                        two loads. Only where one is rejected the row is read again: weights
//                        max(p - q, 0) go to the workspace, the next child is held against them,
//                        and the last token is drawn from them
//
// Nodes are claims: sequences are cut to the rows, and a child has a larger index than its parent,
// so the way down ends.
#include "cuda/kernels/sample_row.h"

namespace radixattn::cuda {
namespace {

using namespace sampling;

// The nodes of a sequence, counted from its root.
struct Tree {
  const int32_t* tokens;
  const int32_t* parents;  // null: a chain
  int32_t first_row, size;
};
RADIX_DEVICE Tree tree_of(const VerifyParams& p, uint32_t seq) {
  const auto rows = static_cast<int32_t>(p.target.num_rows);
  const auto clamped = [&](int32_t row) { return row < 0 ? 0 : row > rows ? rows : row; };
  const int32_t begin = clamped(p.node_begin[seq]), end = clamped(p.node_begin[seq + 1]);
  return {p.draft_tokens + begin, p.parents == nullptr ? nullptr : p.parents + begin, begin,
          end > begin ? end - begin : 0};
}

// The first child of `node` behind node `after` (that has `token`, unless that is kAnyToken); or
// -1.
constexpr int64_t kAnyToken = int64_t{1} << 32;
RADIX_DEVICE int32_t next_child(Scratch& s, const Tree& tree, int32_t node, int32_t after,
                                int64_t token) {
  uint64_t first = kAll;
  for (int64_t i = int64_t{after} + 1 + threadIdx.x; i < tree.size && first == kAll;
       i += kThreads) {
    const int64_t parent = tree.parents == nullptr ? i - 1 : tree.parents[i];
    if (parent == node && (token == kAnyToken || tree.tokens[i] == token))
      first = static_cast<uint64_t>(i);
  }
  first = block_min(s, first);
  return first == kAll ? -1 : static_cast<int32_t>(first);
}

// ---- rejection sampling -------------------------------------------------------------------------

// The two distributions of a node, while its children are looked at. Once a child was rejected, p
// is in `rest`; its highest bit says that q has lost the token.
constexpr uint64_t kLost = uint64_t{1} << 63;
template <class S>
struct Pairing {
  Row<S> target;
  const float* draft;
  uint64_t* rest;
  bool dense;  // p is in rest
  uint64_t p_total, q_total;

  RADIX_DEVICE uint64_t p(const Scratch& s, uint32_t id) const {
    return dense ? rest[id] & ~kLost : weight_in(s.cut, id, target.at(id));
  }
  RADIX_DEVICE uint64_t q(uint32_t id) const {
    return dense && (rest[id] & kLost) != 0 ? 0 : draft_weight(draft[id]);
  }
};

// Takes from p what the draft would have drawn; a p that has nothing else stays.
template <class S>
RADIX_DEVICE void reject(Scratch& s, Pairing<S>* pair) {
  const uint32_t vocab = pair->target.vocab;
  uint64_t sum = 0;
  for (uint32_t id = threadIdx.x; id < vocab; id += kThreads)
    sum += residual_weight(pair->p(s, id), pair->p_total, pair->q(id), pair->q_total);
  sum = block_sum(s, sum);
  if (sum == 0 && pair->dense) return;
  for (uint32_t id = threadIdx.x; id < vocab; id += kThreads) {
    const uint64_t p = pair->p(s, id), q = pair->q(id);
    const uint64_t lost = pair->dense ? pair->rest[id] & kLost : 0;
    pair->rest[id] = lost | (sum == 0 ? p : residual_weight(p, pair->p_total, q, pair->q_total));
  }
  __syncthreads();
  pair->dense = true;
  if (sum != 0) pair->p_total = sum;
}

// The draft cannot draw a token again that it has drawn. Behind reject, whose barrier is the last
// readers'.
template <class S>
RADIX_DEVICE void lose(Pairing<S>* pair, uint32_t id, uint64_t q) {
  if (threadIdx.x == 0) pair->rest[id] |= kLost;
  __syncthreads();
  pair->q_total -= q;
}

// The child of `node` that stands, or -1; *token follows `node` either way.
template <class S>
RADIX_DEVICE int32_t step_by_rejection(Scratch& s, const VerifyParams& p, const Tree& tree,
                                       int32_t node, Pairing<S>* pair, int32_t* token) {
  const uint32_t row = static_cast<uint32_t>(tree.first_row + node), vocab = pair->target.vocab;
  const uint64_t seed = p.target.seeds == nullptr ? 0 : p.target.seeds[row];
  const uint64_t position = p.target.positions == nullptr ? 0 : p.target.positions[row];
  int32_t child = next_child(s, tree, node, node, kAnyToken);
  if (child < 0) return -1;
  uint64_t sum = 0;
  for (uint32_t id = threadIdx.x; id < vocab; id += kThreads) sum += draft_weight(pair->draft[id]);
  pair->q_total = block_sum(s, sum);
  for (uint32_t i = 0; child >= 0; ++i) {
    const int32_t drafted = tree.tokens[child];
    const auto id = static_cast<uint32_t>(drafted);
    if (id < vocab && pair->q_total != 0) {
      const uint64_t bits = philox_bits(seed, position, kAcceptStream + i), q = pair->q(id);
      if (draft_stands(pair->p(s, id), pair->p_total, q, pair->q_total, bits)) {
        *token = drafted;
        return child;
      }
      reject(s, pair);
      if ((p.flags & RADIX_VERIFY_NO_REPLACEMENT) != 0) lose(pair, id, q);
    }
    child = next_child(s, tree, node, child, kAnyToken);
  }
  if (!pair->dense) return -1;
  const uint64_t* rest = pair->rest;
  const Drawn drawn = draw(
      s, vocab, philox_bits(seed, position, kTokenStream),
      [&](uint32_t begin, uint32_t end, uint32_t lane, auto add) {
        for (uint32_t id = begin + lane; id < end; id += 32) add(rest[id] & ~kLost);
      },
      [&](uint32_t id) { return rest[id] & ~kLost; });
  *token = static_cast<int32_t>(drawn.token);
  return -1;
}

// ---- the kernel ---------------------------------------------------------------------------------

// The node behind `node` on the way, or -1; *token is the one that follows `node`.
template <class S>
RADIX_DEVICE int32_t step(Scratch& s, const VerifyParams& p, const VerifySpace& space,
                          const Tree& tree, int32_t node, int32_t* token) {
  const auto row = static_cast<uint32_t>(tree.first_row + node);
  *token = space.tokens[row];
  if (p.draft_probs == nullptr) return next_child(s, tree, node, node, *token);
  if (threadIdx.x == 0) s.cut = space.rows.cuts[row];
  __syncthreads();
  Pairing<S> pair;
  pair.target.vocab = p.target.vocab;
  pair.target.allowed = nullptr;
  if (space.rows.scores != nullptr) {
    pair.target.data = reinterpret_cast<const S*>(space.rows.scores + row * space.rows.stride);
  } else {
    const S* logits = static_cast<const S*>(p.target.logits.data);
    pair.target.data = logits + row * p.target.logits.row_stride;
    if (p.target.allowed != nullptr)
      pair.target.allowed = p.target.allowed + row * p.target.allowed_stride;
  }
  pair.draft = p.draft_probs + row * p.draft_row_stride;
  pair.rest = space.weights + blockIdx.x * space.rows.stride;
  pair.dense = false;
  pair.p_total = s.cut.total;
  pair.q_total = 0;
  return step_by_rejection(s, p, tree, node, &pair, token);
}

// S: of the target's scores. grid (num_seqs)
template <class S>
__global__ void __launch_bounds__(kThreads, 1)
    verify_kernel(const __grid_constant__ VerifyParams p,
                  const __grid_constant__ VerifySpace space) {
  RADIX_SHARED(Scratch, s);
  const uint32_t seq = blockIdx.x;
  const Tree tree = tree_of(p, seq);
  const uint64_t out = uint64_t{seq} * p.max_tokens;
  int32_t status = tree.size > 0 ? RADIX_ROW_OK : RADIX_ROW_PARAMETER, node = 0;
  uint32_t n = 0;
  while (node >= 0 && n < p.max_tokens && status == RADIX_ROW_OK) {
    status = space.status[tree.first_row + node];
    if (status != RADIX_ROW_OK) break;
    int32_t token = -1;
    const int32_t next = step<S>(s, p, space, tree, node, &token);
    if (threadIdx.x == 0) {
      p.out_tokens[out + n] = token;
      if (p.out_nodes != nullptr) p.out_nodes[out + n] = node;
    }
    node = next;
    ++n;
    __syncthreads();  // the scratch, and weights in the workspace, are the next step's
  }
  if (status != RADIX_ROW_OK) n = 0;
  for (uint32_t i = n + threadIdx.x; i < p.max_tokens; i += kThreads) {
    p.out_tokens[out + i] = -1;
    if (p.out_nodes != nullptr) p.out_nodes[out + i] = -1;
  }
  if (threadIdx.x != 0) return;
  p.out_num_tokens[seq] = static_cast<int32_t>(n);
  if (p.out_status != nullptr) p.out_status[seq] = status;
}

template <class S>
Error launch_scores(const VerifyParams& p, const VerifySpace& space, Stream stream) {
  return RADIX_LAUNCH(verify_kernel<S>, dim3(p.num_seqs), dim3(kThreads), 0, stream, p, space);
}

}  // namespace

Error launch_verify(const VerifyParams& p, const VerifySpace& space, Stream stream) {
  if (p.num_seqs == 0) return 0;
  SampleParams rows = p.target;
  rows.num_top = 0;
  rows.out_logprobs = nullptr;
  rows.out_tokens = space.tokens;
  rows.out_status = space.status;
  const Error e = launch_sample(rows, space.rows, stream);
  if (e != 0) return e;
  if (space.rows.scores != nullptr) return launch_scores<float>(p, space, stream);
  switch (p.target.logits.dtype) {
    case RADIX_F32:
      return launch_scores<float>(p, space, stream);
    case RADIX_F16:
      return launch_scores<Half>(p, space, stream);
    default:
      return launch_scores<Bf16>(p, space, stream);
  }
}

}  // namespace radixattn::cuda
