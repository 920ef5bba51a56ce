// How long workers take that draw units of work one after the other, the dearest first: a walk
// for launches of few units, where an estimate says too little. Pure, on the stack.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>

namespace radixattn {

class DrawTime {
 public:
  static constexpr uint32_t kRoom = 512, kMostWorkers = 64;

  void add(float cost) {
    if (num_ < kRoom) costs_[num_] = cost;
    ++num_;
  }
  // Whether everything had room.
  bool complete() const { return num_ <= kRoom; }

  // The time at which the last of `workers`, at most kMostWorkers, is done; each cost is that of
  // `draws` units.
  double finish(uint32_t workers, uint32_t draws) {
    std::sort(costs_, costs_ + num_, std::greater<>());
    float ends[kMostWorkers] = {};  // a heap, the earliest first
    for (uint32_t i = 0; i < num_; ++i) {
      for (uint32_t d = 0; d < draws; ++d) {
        std::pop_heap(ends, ends + workers, std::greater<>());
        ends[workers - 1] += costs_[i];
        std::push_heap(ends, ends + workers, std::greater<>());
      }
    }
    return static_cast<double>(*std::max_element(ends, ends + workers));
  }

 private:
  float costs_[kRoom] = {};
  uint32_t num_ = 0;
};

}  // namespace radixattn
