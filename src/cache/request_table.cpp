#include "cache/request_table.h"

namespace radixattn {
namespace {
constexpr size_t kRowAlign = 64;
constexpr uint64_t kMinRow = 16;
}  // namespace

bool RequestTable::init(uint32_t max, uint32_t max_row, bool fixed) {
  max_row_ = max_row;
  if (!SlotTable::init(max, fixed)) return false;
  if (!fixed) return true;
  if (!all_rows_.reserve(uint64_t{max} * max_row)) return false;
  for (uint32_t i = 0; i < max; ++i) {
    (*this)[i].row = all_rows_.data() + uint64_t{i} * max_row;
    (*this)[i].row_cap = max_row;
  }
  return true;
}

bool RequestTable::reserve_row(uint32_t index, uint64_t entries) {
  Request& r = (*this)[index];
  if (entries <= r.row_cap) return true;
  uint64_t wanted = uint64_t{r.row_cap} * 2;
  if (wanted < kMinRow) wanted = kMinRow;
  if (wanted < entries) wanted = entries;
  if (wanted > max_row_) wanted = max_row_;
  auto* row = static_cast<uint32_t*>(memory_->allocate(wanted * sizeof(uint32_t), kRowAlign));
  if (row == nullptr) return false;
  if (r.row != nullptr) {
    std::memcpy(row, r.row, r.num_blocks * sizeof(uint32_t));
    memory_->release(r.row, r.row_cap * sizeof(uint32_t), kRowAlign);
  }
  r.row = row;
  r.row_cap = static_cast<uint32_t>(wanted);
  return true;
}

void RequestTable::release_rows() {
  if (all_rows_.data() != nullptr) return;
  for (uint32_t i = 0; i < capacity(); ++i) {
    Request& r = (*this)[i];
    if (r.row != nullptr) memory_->release(r.row, r.row_cap * sizeof(uint32_t), kRowAlign);
  }
}

uint32_t RequestTable::create_empty() {
  const uint32_t index = create();
  Request& r = (*this)[index];
  Request fresh = {};
  fresh.row = r.row;
  fresh.row_cap = r.row_cap;
  fresh.generation = r.generation;
  fresh.live = 1;
  fresh.ring_next = fresh.ring_prev = index;
  fresh.lender = kNone;
  r = fresh;
  return index;
}

void RequestTable::join_family(uint32_t member, uint32_t index) {
  Request& r = (*this)[index];
  Request& m = (*this)[member];
  r.ring_next = m.ring_next;
  r.ring_prev = member;
  (*this)[m.ring_next].ring_prev = index;
  m.ring_next = index;
}

void RequestTable::leave_family(uint32_t index) {
  Request& r = (*this)[index];
  (*this)[r.ring_prev].ring_next = r.ring_next;
  (*this)[r.ring_next].ring_prev = r.ring_prev;
  r.ring_next = r.ring_prev = index;
}

}  // namespace radixattn
