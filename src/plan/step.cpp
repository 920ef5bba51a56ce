#include "plan/step.h"

#include <cassert>
#include <cstring>

#include "plan/decode_schedule.h"

namespace radixattn {
namespace {

constexpr uint32_t kIdBits = 0x7fffffffu;

// Room that is copied rather than left out: a copy of its own is one more call.
constexpr uint64_t kSmallGap = 16 << 10;

uint64_t round64(uint64_t bytes) { return (bytes + 63) & ~uint64_t{63}; }

}  // namespace

StepLayout step_layout(const StepShape& shape) {
  StepLayout l = {};
  uint64_t at = 0;
  const auto take = [&at](uint64_t count, uint64_t bytes) {
    const uint64_t begin = at;
    at += round64(count * bytes);
    return begin;
  };
  const uint64_t seqs = shape.max_seqs, entries = seqs * shape.row_stride;
  l.schedule = take(2, 4);
  l.context_lens = take(seqs, 4);
  l.cu_q_lens = take(seqs + 1, 4);
  l.partial_begin = take(shape.max_items > 0 ? seqs : 0, 4);
  l.patch_begin = take(shape.copies ? seqs + 1 : 0, 4);
  l.patch_first = take(shape.copies ? seqs : 0, 4);
  l.items = take(uint64_t{shape.max_items} * 2, 4);
  const bool radix = shape.max_radix_items > 0;
  l.radix_sizes = take(radix ? 1 : 0, sizeof(RadixListSizes));
  l.radix_merges = take(radix ? seqs : 0, sizeof(RadixMerge));
  l.radix_rows = take(radix ? shape.max_query_tokens : 0, sizeof(RadixRow));
  l.radix_terms = take(shape.max_radix_terms, 4);
  l.radix_items = take(shape.max_radix_items, sizeof(RadixItem));
  l.radix_end = at;
  l.patch_ids = take(shape.copies ? entries : 0, 4);
  l.staged_bytes = at;
  l.tables = take(entries, 4);
  l.slots = take(shape.max_query_tokens, 8);
  l.positions = take(shape.max_query_tokens, 4);
  l.workspace = take(shape.workspace_bytes, 1);
  l.total_bytes = at;
  return l;
}

namespace {

// Where a step has its list. The host's and a padded step's, which captured launches name, have
// each array at its offset; what is copied otherwise has no gaps.
StepLayout list_layout(const StepShape& shape, const StepSizes& sizes) {
  StepLayout l = step_layout(shape);
  if (!shape.copies || shape.pads) return l;
  l.radix_terms = l.radix_rows + round64(sizes.num_radix_rows * sizeof(RadixRow));
  l.radix_items = l.radix_terms + round64(sizes.num_radix_terms * sizeof(int32_t));
  return l;
}

}  // namespace

RadixArrays step_radix(const StepShape& shape, const StepSizes& sizes, char* base) {
  const StepLayout layout = list_layout(shape, sizes);
  return radix_arrays(layout, base + layout.radix_sizes);
}

RadixArrays radix_arrays(const StepLayout& layout, char* list) {
  const auto at = [&](uint64_t offset) { return list + (offset - layout.radix_sizes); };
  RadixArrays arrays;
  arrays.sizes = reinterpret_cast<RadixListSizes*>(at(layout.radix_sizes));
  arrays.merges = reinterpret_cast<RadixMerge*>(at(layout.radix_merges));
  arrays.rows = reinterpret_cast<RadixRow*>(at(layout.radix_rows));
  arrays.terms = reinterpret_cast<int32_t*>(at(layout.radix_terms));
  arrays.items = reinterpret_cast<RadixItem*>(at(layout.radix_items));
  return arrays;
}

void StepWriter::bind(const StepShape& shape, int32_t* tables, uint64_t* versions,
                      uint32_t* first_changed) {
  first_changed_ = first_changed;
  shape_ = shape;
  layout_ = step_layout(shape);
  tables_ = tables;
  versions_ = versions;
  forget();
}

void StepWriter::forget() {
  std::memset(versions_, 0, shape_.max_seqs * sizeof(uint64_t));
  std::memset(tables_, 0xff, uint64_t{shape_.max_seqs} * shape_.row_stride * sizeof(int32_t));
}

void StepWriter::begin(char* base) {
  base_ = base;
  sizes_ = StepSizes();
  items_end_ = layout_.items;
  list_end_ = layout_.radix_sizes;
  array(layout_.cu_q_lens)[0] = 0;
  if (shape_.copies) array(layout_.patch_begin)[0] = 0;
}

void StepWriter::patch_row(uint32_t seq, const StepSequence& sequence) {
  int32_t* row = tables_ + uint64_t{seq} * shape_.row_stride;
  uint32_t first = 0, end = 0;
  if (sequence.version == 0 || sequence.version != versions_[seq]) {
    versions_[seq] = sequence.version;
    const auto id = [&](uint32_t i) { return static_cast<int32_t>(sequence.row[i] & kIdBits); };
    end = sequence.num_blocks;
    while (first < end && row[first] == id(first)) ++first;
    while (end > first && row[end - 1] == id(end - 1)) --end;
    for (uint32_t i = first; i < end; ++i) row[i] = id(i);
  }
  sizes_.changed_rows += end > first;
  if (first_changed_ != nullptr) first_changed_[seq] = end > first ? first : UINT32_MAX;
  if (shape_.copies) {
    array(layout_.patch_first)[seq] = static_cast<int32_t>(first);
    array(layout_.patch_begin)[seq + 1] =
        static_cast<int32_t>(sizes_.changed_entries + end - first);
  }
  sizes_.changed_entries += end - first;
}

void StepWriter::add(const StepSequence& sequence) {
  const uint32_t seq = sizes_.num_seqs++;
  const auto context = static_cast<uint32_t>(sequence.context_len);
  const auto query = static_cast<uint32_t>(sequence.query_len);
  sizes_.num_query_tokens += query;
  if (context > sizes_.max_context_len) sizes_.max_context_len = context;
  if (query > sizes_.max_query_len) sizes_.max_query_len = query;
  array(layout_.context_lens)[seq] = sequence.context_len;
  array(layout_.cu_q_lens)[seq + 1] = static_cast<int32_t>(sizes_.num_query_tokens);
  patch_row(seq, sequence);
}

void StepWriter::schedule(uint32_t walkers, uint32_t window) {
  int32_t* lens = array(layout_.context_lens);
  for (uint32_t s = sizes_.num_seqs; shape_.pads && s < shape_.max_seqs; ++s) lens[s] = 0;
  DecodeScheduleInput in;
  in.context_lens = lens;
  in.num_seqs = shape_.pads ? shape_.max_seqs : sizes_.num_seqs;
  in.window = window;
  in.num_blocks = walkers;
  in.max_items = shape_.max_items;
  const DecodeSchedule made =
      schedule_decode(in, array(layout_.items), array(layout_.partial_begin));
  array(layout_.schedule)[0] = static_cast<int32_t>(made.num_items);
  array(layout_.schedule)[1] = static_cast<int32_t>(made.split_tokens);
  items_end_ = layout_.items + uint64_t{made.num_items} * 2 * sizeof(int32_t);
  sizes_.num_items = made.num_items;
  sizes_.split_tokens = made.split_tokens;
  sizes_.num_states = made.num_partial_rows;
}

void StepWriter::no_schedule() {
  array(layout_.schedule)[0] = 0;
  array(layout_.schedule)[1] = 1 << 30;
}

void StepWriter::put_radix(const RadixArrays& from, const RadixScheduleSizes& sizes,
                           uint32_t num_merges) {
  sizes_.num_items = sizes.num_items;
  sizes_.num_states = sizes.num_states;
  sizes_.num_radix_rows = sizes.num_rows;
  sizes_.num_radix_terms = sizes.num_terms;
  const RadixArrays to = step_radix(shape_, sizes_, base_);
  list_end_ = static_cast<uint64_t>(reinterpret_cast<char*>(to.items + sizes.num_items) - base_);
  if (to.items == from.items) return;  // it is where it was made
  *to.sizes = *from.sizes;
  std::memcpy(to.merges, from.merges, num_merges * sizeof(RadixMerge));
  std::memcpy(to.rows, from.rows, sizes.num_rows * sizeof(RadixRow));
  std::memcpy(to.terms, from.terms, sizes.num_terms * sizeof(int32_t));
  std::memcpy(to.items, from.items, sizes.num_items * sizeof(RadixItem));
}

// Patches come right behind what else the step has.
uint64_t StepWriter::put_patches() {
  sizes_.patch_ids = round64(list_end_);
  if (sizes_.changed_entries == 0) return list_end_;
  int32_t* ids = array(sizes_.patch_ids);
  const int32_t *begins = array(layout_.patch_begin), *first = array(layout_.patch_first);
  for (uint32_t s = 0; s < sizes_.num_seqs; ++s) {
    const auto num = static_cast<uint64_t>(begins[s + 1] - begins[s]);
    std::memcpy(ids + begins[s], tables_ + uint64_t{s} * shape_.row_stride + first[s],
                num * sizeof(int32_t));
  }
  return sizes_.patch_ids + uint64_t{sizes_.changed_entries} * sizeof(int32_t);
}

// The arrays of the step up to `end`, each as far as it is used.
CopyRanges StepWriter::used_ranges(uint64_t end) const {
  CopyRanges copies;
  const auto add = [&copies](uint64_t begin, uint64_t range_end) {
    if (range_end <= begin) return;
    CopyRanges::Range* last = copies.num > 0 ? &copies.ranges[copies.num - 1] : nullptr;
    if (last != nullptr && begin <= last->end + kSmallGap) {
      last->end = range_end;
    } else {
      assert(copies.num < CopyRanges::kMost);
      copies.ranges[copies.num++] = {begin, range_end};
    }
  };
  add(0, items_end_);
  if (list_end_ > layout_.radix_sizes) {
    const StepLayout l = list_layout(shape_, sizes_);
    add(l.radix_sizes, l.radix_rows + sizes_.num_radix_rows * sizeof(RadixRow));
    add(l.radix_terms, l.radix_terms + sizes_.num_radix_terms * sizeof(int32_t));
    add(l.radix_items, end);
  } else {
    add(list_end_, end);
  }
  return copies;
}

CopyRanges StepWriter::end() {
  for (uint32_t s = sizes_.num_seqs; shape_.pads && s < shape_.max_seqs; ++s) {
    array(layout_.context_lens)[s] = 0;
    array(layout_.cu_q_lens)[s + 1] = static_cast<int32_t>(sizes_.num_query_tokens);
    if (!shape_.copies) continue;
    array(layout_.patch_first)[s] = 0;
    array(layout_.patch_begin)[s + 1] = static_cast<int32_t>(sizes_.changed_entries);
  }
  return shape_.copies ? used_ranges(put_patches()) : CopyRanges();
}

StepParams step_params(const StepShape& shape, const StepSizes& sizes, void* device) {
  const StepLayout layout = step_layout(shape);
  char* base = static_cast<char*>(device);
  const auto array = [base](uint64_t offset) { return reinterpret_cast<int32_t*>(base + offset); };
  StepParams p;
  p.device = device;
  p.num_seqs = shape.pads ? shape.max_seqs : sizes.num_seqs;
  p.block_size = shape.block_size;
  p.num_slots = shape.pads ? shape.max_query_tokens : sizes.num_query_tokens;
  p.context_lens = array(layout.context_lens);
  p.cu_q_lens = array(layout.cu_q_lens);
  p.patch_begin = array(layout.patch_begin);
  p.patch_first = array(layout.patch_first);
  p.patch_ids = array(sizes.patch_ids);
  p.tables = array(layout.tables);
  p.row_stride = shape.row_stride;
  p.slots = reinterpret_cast<int64_t*>(base + layout.slots);
  p.positions = array(layout.positions);
  return p;
}

void build_step_on_host(const StepParams& p) {
  uint32_t row = 0;
  for (uint32_t s = 0; s < p.num_seqs; ++s) {
    const auto end = static_cast<uint32_t>(p.cu_q_lens[s + 1]);
    const int32_t* table = p.tables + s * p.row_stride;
    int64_t position = int64_t{p.context_lens[s]} - (end - row);
    for (; row < end; ++row, ++position) {
      p.positions[row] = position > 0 ? static_cast<int32_t>(position) : 0;
      p.slots[row] = position < 0 ? -1
                                  : int64_t{table[position / p.block_size]} * p.block_size +
                                        position % p.block_size;
    }
  }
  for (; row < p.num_slots; ++row) p.slots[row] = -1, p.positions[row] = 0;
}

}  // namespace radixattn
