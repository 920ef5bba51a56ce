// What the launches of sampling and verification share: workers that take rows (or sequences) from
// one counter, each with scratch of its own, and the first that failed.
#pragma once

#include <algorithm>
#include <atomic>

#include "backend/cpu/sample_row.h"
#include "base/executor.h"

namespace radixattn {

constexpr uint64_t kWorkspaceAlign = 64;

// Below this many logits, waking a thread costs more than it saves.
constexpr uint64_t kMinLogits = 32 * 1024;

inline uint32_t sample_workers(uint32_t items, uint64_t logits, uint32_t workers) {
  const uint64_t useful = (logits + kMinLogits - 1) / kMinLogits;
  return static_cast<uint32_t>(std::min<uint64_t>({items, workers, useful}));
}

// The lowest of the rows that are not OK, whoever found it.
class FirstFailure {
 public:
  void add(uint32_t row, int32_t status) {
    const uint64_t mine = uint64_t{row} << 8 | static_cast<uint32_t>(status);
    uint64_t first = first_.load(std::memory_order_relaxed);
    while (mine < first && !first_.compare_exchange_weak(first, mine, std::memory_order_relaxed)) {
    }
  }
  bool any() const { return first_.load(std::memory_order_relaxed) != UINT64_MAX; }
  uint32_t row() const { return static_cast<uint32_t>(first_.load() >> 8); }
  int32_t status() const { return static_cast<int32_t>(first_.load() & 0xff); }

 private:
  std::atomic<uint64_t> first_{UINT64_MAX};
};

// INVALID, saying what is wrong with a row. `of`: "d" or "target".
radix_status fail_row(const SampleParams& p, const char* of, uint32_t row, int32_t status);

radix_status check_sample_workspace(const void* workspace, uint64_t given, uint64_t needed);

// Worker `index`'s part of a workspace; counters of history are 0.
RowScratch worker_scratch(const SampleParams& p, bool lists, bool removes, void* workspace,
                          uint32_t index);

}  // namespace radixattn
