// What a launch can run on: every target that is compiled in and runs here, and every kind of
// executor.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "backend/cpu/kernels.h"
#include "backend/cpu/thread_pool.h"
#include "base/executor.h"

namespace radixattn::test {

std::vector<const CpuKernels*> runnable_targets();

// An executor by name, and what it needs to live.
struct NamedExecutor {
  const char* name;
  std::unique_ptr<ThreadPool> pool;
  Executor executor;
};

// Inline; a host's callback that runs tasks backwards; one with a thread for each task; the pool
// with 2 and with 5 threads.
std::vector<NamedExecutor> all_executors();

}  // namespace radixattn::test
