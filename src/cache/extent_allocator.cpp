#include "cache/extent_allocator.h"

#include <bit>

namespace radixattn {

void ExtentAllocator::bind(HostAllocator* memory) {
  tag_.bind(memory);
  next_.bind(memory);
  prev_.bind(memory);
}

bool ExtentAllocator::init(uint32_t num_units) {
  if (!tag_.reserve(num_units) || !next_.reserve(num_units) || !prev_.reserve(num_units))
    return false;
  for (uint32_t& head : heads_) head = kNone;
  num_units_ = num_units;
  num_free_ = num_units;
  insert(0, num_units);
  return true;
}

uint32_t ExtentAllocator::bin_of(uint32_t length) {
  return static_cast<uint32_t>(std::bit_width(length)) - 1;
}

void ExtentAllocator::insert(uint32_t first, uint32_t length) {
  tag_[first] = length;
  tag_[first + length - 1] = length;
  const uint32_t bin = bin_of(length);
  next_[first] = heads_[bin];
  prev_[first] = kNone;
  if (heads_[bin] != kNone) prev_[heads_[bin]] = first;
  heads_[bin] = first;
  bins_used_ |= 1u << bin;
}

void ExtentAllocator::remove(uint32_t first) {
  const uint32_t length = tag_[first];
  const uint32_t bin = bin_of(length);
  if (prev_[first] != kNone) {
    next_[prev_[first]] = next_[first];
  } else {
    heads_[bin] = next_[first];
    if (heads_[bin] == kNone) bins_used_ &= ~(1u << bin);
  }
  if (next_[first] != kNone) prev_[next_[first]] = prev_[first];
  tag_[first] = 0;
  tag_[first + length - 1] = 0;
}

// A bounded look: extents of one bin differ in length by less than a factor of two.
uint32_t ExtentAllocator::find_in_bin(uint32_t bin, uint32_t want) const {
  constexpr int kLook = 8;
  uint32_t at = heads_[bin];
  for (int i = 0; i < kLook && at != kNone; ++i, at = next_[at]) {
    if (tag_[at] >= want) return at;
  }
  return kNone;
}

uint32_t ExtentAllocator::find(uint32_t want) const {
  if (bins_used_ == 0) return kNone;
  const uint32_t bin = bin_of(want);
  const uint32_t fit = find_in_bin(bin, want);
  if (fit != kNone) return fit;
  const uint32_t larger = bin + 1 < kBins ? bins_used_ >> (bin + 1) << (bin + 1) : 0;
  if (larger != 0) return heads_[std::countr_zero(larger)];
  return heads_[31 - std::countl_zero(bins_used_)];  // no run fits: a long one
}

uint32_t ExtentAllocator::take(uint32_t want, uint32_t hint, uint32_t* first) {
  // NOTE: hint follows a unit that is taken, so a tag there can only be the start of a free extent.
  uint32_t at = hint < num_units_ && tag_[hint] != 0 ? hint : kNone;
  if (at == kNone) at = find(want);
  if (at == kNone) return 0;
  const uint32_t length = tag_[at];
  const uint32_t got = want < length ? want : length;
  remove(at);
  if (got < length) insert(at + got, length - got);
  num_free_ -= got;
  *first = at;
  return got;
}

void ExtentAllocator::give(uint32_t first, uint32_t count) {
  num_free_ += count;
  uint32_t begin = first;
  uint32_t end = first + count;
  if (begin > 0 && tag_[begin - 1] != 0) {
    begin -= tag_[begin - 1];
    remove(begin);
  }
  if (end < num_units_ && tag_[end] != 0) {
    const uint32_t length = tag_[end];
    remove(end);
    end += length;
  }
  insert(begin, end - begin);
}

bool ExtentAllocator::check(uint64_t* walked_free) const {
  uint64_t total = 0;
  for (uint32_t bin = 0; bin < kBins; ++bin) {
    uint32_t before = kNone;
    for (uint32_t at = heads_[bin]; at != kNone; before = at, at = next_[at]) {
      const uint32_t length = tag_[at];
      if (length == 0 || at + length > num_units_ || bin_of(length) != bin) return false;
      if (tag_[at + length - 1] != length || prev_[at] != before) return false;
      total += length;
      if (total > num_units_) return false;
    }
    if ((heads_[bin] != kNone) != ((bins_used_ >> bin & 1u) != 0)) return false;
  }
  *walked_free = total;
  return total == num_free_;
}

}  // namespace radixattn
