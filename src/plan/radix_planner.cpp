#include "plan/radix_planner.h"

#include <algorithm>

#include "plan/carve.h"

namespace radixattn {
namespace {

constexpr auto kGrowth = static_cast<int32_t>(kListGrowth);

}  // namespace

void RadixPlanner::carve(const RadixPlanShape& shape, void* memory, uint64_t* used) {
  const uint64_t seqs = shape.max_seqs;
  Carver carver(memory);
  first_changed_ = carver.take<uint32_t>(seqs);
  num_blocks_ = carver.take<uint32_t>(seqs);
  bounds_ = carver.take<Bounds>(seqs);
  char* tree = carver.take<char>(SharedTree::bytes(shape.max_seqs));
  if (memory != nullptr) tree_.bind(shape.max_seqs, tree);
  if (shape.limits.max_items > 0) {
    char* scheduler = carver.take<char>(RadixScheduler::bytes(shape.max_seqs));
    if (memory != nullptr) scheduler_.bind(shape.max_seqs, scheduler);
  }
  *used = carver.used();
}

uint64_t RadixPlanner::bytes(const RadixPlanShape& shape) {
  uint64_t used;
  RadixPlanner().carve(shape, nullptr, &used);
  return used;
}

void RadixPlanner::bind(const RadixPlanShape& shape, const RadixArrays& list, void* memory) {
  shape_ = shape;
  list_ = list;
  uint64_t used;
  carve(shape, memory, &used);
  known_ = has_list_ = false;
  num_seqs_ = 0;
  tree_.clear(0);
}

// Leading tokens that all of the sequence's rows see, but for a window.
uint32_t RadixPlanner::sharable_tokens(const RadixStep& step, uint32_t seq) const {
  const int32_t length = step.context_lens[seq];
  if (step.cu_q_lens == nullptr) return static_cast<uint32_t>(length);
  const int32_t rows = step.cu_q_lens[seq + 1] - step.cu_q_lens[seq];
  return rows > 0 ? static_cast<uint32_t>(length - rows) : 0;
}

bool RadixPlanner::tree_stays(const RadixStep& step) const {
  if (!known_ || step.num_seqs != num_seqs_) return false;
  if (!shape_.shares) return true;
  for (uint32_t s = 0; s < step.num_seqs; ++s) {
    const Bounds& b = bounds_[s];
    const auto tokens = static_cast<int32_t>(sharable_tokens(step, s));
    if (tokens < b.tree_least || tokens >= b.tree_end || first_changed_[s] < b.num_blocks)
      return false;
  }
  return true;
}

// Of a decode step: implies that the tree stays.
bool RadixPlanner::list_stays(const RadixStep& step) const {
  if (!known_ || !decode_ || step.cu_q_lens != nullptr || step.num_seqs != num_seqs_) return false;
  bool stays = true;
  for (uint32_t s = 0; s < step.num_seqs; ++s) {
    const Bounds& b = bounds_[s];
    const int32_t length = step.context_lens[s];
    stays &= (length >= b.list_least) & (length < b.list_end) & (first_changed_[s] >= b.num_blocks);
  }
  return stays;
}

void RadixPlanner::build(const RadixStep& step) {
  ++num_builds_;
  if (!shape_.shares) return tree_.clear(step.num_seqs);
  for (uint32_t s = 0; s < step.num_seqs; ++s)
    num_blocks_[s] = sharable_tokens(step, s) / shape_.block_size;
  tree_.build({step.tables, shape_.row_stride, num_blocks_, step.num_seqs});
  const auto block = static_cast<int32_t>(shape_.block_size);
  for (uint32_t slot = 0; slot < step.num_seqs; ++slot) {
    const uint32_t s = tree_.seqs()[slot];
    const int32_t node = tree_.slot_nodes()[slot];
    Bounds& b = bounds_[s];
    const uint32_t own = node < 0 ? 0 : tree_.nodes()[node].end_block;
    const bool has_own = num_blocks_[s] > own;  // and its first block is no other sequence's
    b.num_blocks = own + (has_own ? 1 : 0);
    b.tree_least = static_cast<int32_t>(b.num_blocks) * block;
    b.tree_end = has_own ? INT32_MAX : static_cast<int32_t>(own + 1) * block;
  }
}

// The list stays while no piece would be another: lengths grow a little, and nobody gets a first
// key of its own.
void RadixPlanner::bound_list(const RadixStep& step) {
  for (uint32_t s = 0; s < step.num_seqs; ++s) {
    Bounds& b = bounds_[s];
    const int32_t length = step.context_lens[s];
    b.list_least = length;
    b.list_end = length + kGrowth;
    const int32_t last = has_list_ ? scheduler_.last_items()[s] : -1;
    b.last_place = -1;
    if (last >= 0)
      b.last_place = static_cast<int32_t>(scheduler_.place_of(static_cast<uint32_t>(last)));
    if (has_list_ && last < 0) b.list_end = length + 1;
    b.spare_after = has_list_ ? scheduler_.spare_after()[s] : INT32_MAX;
    b.term_end = has_list_ ? list_.merges[s].term_end : 0;
    if (!shape_.shares) b.num_blocks = 0;
    if (!shape_.shares) continue;
    b.list_end = std::min(b.list_end, b.tree_end);
    b.list_least = std::max(b.list_least, b.tree_least);
  }
}

void RadixPlanner::make_list(const RadixStep& step) {
  ++num_lists_;
  RadixScheduleInput in;
  in.tree = &tree_;
  in.context_lens = step.context_lens;
  in.cu_q_lens = step.cu_q_lens;
  in.num_seqs = step.num_seqs;
  in.num_merges = num_merges();
  in.block_size = shape_.block_size;
  in.group = shape_.group;
  in.window = shape_.window;
  in.batch_invariant = shape_.batch_invariant;
  in.limits = shape_.limits;
  scheduler_.choose(in);
  const RadixScheduleSizes& chosen = scheduler_.sizes();
  const bool pays =
      step.cu_q_lens == nullptr || chosen.work < shape_.limits.costs.plain * chosen.unshared_work;
  has_list_ = shape_.always || shape_.batch_invariant || (chosen.num_shared > 0 && pays);
  if (has_list_) scheduler_.write(list_);
  sizes_ = chosen;
  if (!has_list_) sizes_.tokens_read = sizes_.tokens_seen;
}

void RadixPlanner::grow(const RadixStep& step) {
  uint64_t tokens = 0;
  for (uint32_t s = 0; s < step.num_seqs; ++s)
    tokens += static_cast<uint32_t>(step.context_lens[s]);
  sizes_.tokens_read += tokens - sizes_.tokens_seen;
  sizes_.tokens_seen = tokens;
  if (!has_list_) return;
  const uint32_t tiles = scheduler_.num_tiles();
  for (uint32_t s = 0; s < step.num_seqs; ++s) {
    const Bounds& b = bounds_[s];
    const int32_t first_row = list_.merges[s].first_row, place = b.last_place;
    if (first_row < 0 || place < 0) continue;
    list_.rows[first_row].position = step.context_lens[s] - 1;
    list_.items[place].token_end = step.context_lens[s];
    list_.merges[s].term_end = b.term_end + (step.context_lens[s] > b.spare_after ? 1 : 0);
    for (uint32_t t = 1; t < tiles; ++t) {
      const uint32_t item = static_cast<uint32_t>(scheduler_.last_items()[s]) + t;
      list_.items[scheduler_.place_of(item)].token_end = step.context_lens[s];
    }
  }
}

void RadixPlanner::plan(const RadixStep& step) {
  if (list_stays(step)) return grow(step);
  if (!tree_stays(step)) build(step);
  num_seqs_ = step.num_seqs;
  decode_ = step.cu_q_lens == nullptr;
  known_ = true;
  has_list_ = false;
  const bool lists = shape_.limits.max_items > 0 &&
                     (shape_.always || shape_.batch_invariant || tree_.num_nodes() > 0);
  if (lists) {
    make_list(step);
  } else {
    sizes_ = RadixScheduleSizes();
    for (uint32_t s = 0; s < step.num_seqs; ++s) {
      if (step.cu_q_lens == nullptr || step.cu_q_lens[s + 1] > step.cu_q_lens[s])
        sizes_.tokens_seen += static_cast<uint32_t>(step.context_lens[s]);
    }
    sizes_.tokens_read = sizes_.tokens_seen;
  }
  if (decode_) bound_list(step);
}

}  // namespace radixattn
