// Runs the tasks of a launch: on the calling thread, or through a parallel_for that somebody lends.
//
// A parallel_for is the host's callback or the built-in ThreadPool (backend/cpu/thread_pool.h),
// which offers itself in the same form; this class knows neither. Invariants:
//   1. parallel_for returns after task(arg, i) has run exactly once for every i in [0, n).
//   2. At most workers() tasks are worth handing out at a time: launches cut their work, and size
//      the workspace, by it.
// Thread rule: any number of threads at the same time; a task may call parallel_for again.
#pragma once

#include <cstdint>

#include "radixattn.h"

namespace radixattn {

constexpr uint32_t kMaxWorkers = 256;  // bounds workspaces and the arrays of the pool

class Executor {
 public:
  Executor() = default;  // the calling thread only
  explicit Executor(const radix_executor& callback);

  // 1..kMaxWorkers. A callback with max_workers = 0 counts as one worker for each processor.
  uint32_t workers() const { return workers_; }

  void parallel_for(uint32_t n, radix_task_fn task, void* arg) const;

 private:
  radix_parallel_for_fn parallel_for_ = nullptr;
  void* user_ = nullptr;
  uint32_t workers_ = 1;
};

// Processors that are online, 1..kMaxWorkers.
uint32_t online_processors();

}  // namespace radixattn
