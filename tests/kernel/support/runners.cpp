#include "support/runners.h"

#include <thread>

namespace radixattn::test {
namespace {

void RADIX_CALL run_backwards(void*, uint32_t n, radix_task_fn task, void* arg) {
  for (uint32_t i = n; i > 0; --i) task(arg, i - 1);
}

void RADIX_CALL run_on_threads(void*, uint32_t n, radix_task_fn task, void* arg) {
  std::vector<std::thread> threads;
  for (uint32_t i = 0; i < n; ++i) threads.emplace_back(task, arg, i);
  for (std::thread& t : threads) t.join();
}

NamedExecutor with_callback(const char* name, radix_parallel_for_fn fn, uint32_t workers) {
  radix_executor callback = {};
  callback.struct_size = sizeof callback;
  callback.max_workers = workers;
  callback.parallel_for = fn;
  return NamedExecutor{name, nullptr, Executor(callback)};
}

NamedExecutor with_pool(const char* name, uint32_t threads) {
  auto pool = std::make_unique<ThreadPool>();
  if (pool->start(threads) != RADIX_OK) return NamedExecutor{name, nullptr, Executor()};
  const Executor executor(pool->executor());
  return NamedExecutor{name, std::move(pool), executor};
}

}  // namespace

std::vector<const CpuKernels*> runnable_targets() {
  std::vector<const CpuKernels*> targets;
  for (const int32_t target : {RADIX_CPU_BASELINE, RADIX_CPU_AVX2, RADIX_CPU_AVX512,
                               RADIX_CPU_AVX512_BF16, RADIX_CPU_NEON}) {
    if (const CpuKernels* kernels = select_kernels(target)) targets.push_back(kernels);
  }
  return targets;
}

std::vector<NamedExecutor> all_executors() {
  std::vector<NamedExecutor> executors;
  executors.push_back(NamedExecutor{"inline", nullptr, Executor()});
  executors.push_back(with_callback("backwards callback", run_backwards, 7));
  executors.push_back(with_callback("backwards callback of 8", run_backwards, 8));
  executors.push_back(with_callback("thread per task", run_on_threads, 3));
  executors.push_back(with_pool("pool of 2", 2));
  executors.push_back(with_pool("pool of 5", 5));
  return executors;
}

}  // namespace radixattn::test
