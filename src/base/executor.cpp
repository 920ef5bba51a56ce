#include "base/executor.h"

#include <unistd.h>

namespace radixattn {

uint32_t online_processors() {
  const long n = sysconf(_SC_NPROCESSORS_ONLN);
  if (n < 1) return 1;
  return n > static_cast<long>(kMaxWorkers) ? kMaxWorkers : static_cast<uint32_t>(n);
}

Executor::Executor(const radix_executor& callback)
    : parallel_for_(callback.parallel_for), user_(callback.user) {
  if (parallel_for_ == nullptr) return;
  const uint32_t wanted = callback.max_workers == 0 ? online_processors() : callback.max_workers;
  workers_ = wanted > kMaxWorkers ? kMaxWorkers : wanted;
}

void Executor::parallel_for(uint32_t n, radix_task_fn task, void* arg) const {
  if (n > 1 && workers_ > 1) return parallel_for_(user_, n, task, arg);
  for (uint32_t i = 0; i < n; ++i) task(arg, i);
}

}  // namespace radixattn
