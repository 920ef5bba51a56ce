#include "backend/cpu/thread_pool.h"

#include <sched.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>
#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

#include "base/error.h"

namespace radixattn {
namespace {

// state_: job number << 32 | open | caller sleeps | threads that have joined.
constexpr uint64_t kJoined = 0xffff;
constexpr uint64_t kCallerSleeps = 1u << 16;
constexpr uint64_t kOpen = 1u << 17;
constexpr uint64_t kNextJob = uint64_t{1} << 32;

constexpr uint64_t job_number(uint64_t state) { return state / kNextJob; }

// 4,000 pauses take 40-200 us depending on the processor: longer than the gap between two launches
// of a layer, short against a scheduler's time slice.
constexpr uint32_t kSpins = 4000;
constexpr uint32_t kYields = 16;

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield" ::: "memory");
#endif
}

// NOTE: futexes, not condition variables: a futex keeps no list of sleepers in memory, so that a
// forked child, which has none of them, can go on waking.
#if defined(__linux__)

static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t) &&
              std::atomic<uint32_t>::is_always_lock_free);

// Sleeps while *word is `expected`; may wake for no reason.
void futex_wait(std::atomic<uint32_t>* word, uint32_t expected) {
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, nullptr, nullptr, 0);
}

void futex_wake(std::atomic<uint32_t>* word, uint32_t count) {
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, nullptr, nullptr, 0);
}

#else

void futex_wait(std::atomic<uint32_t>* word, uint32_t expected) {
  const timespec nap = {0, 50000};
  if (word->load() == expected) nanosleep(&nap, nullptr);
}

void futex_wake(std::atomic<uint32_t>*, uint32_t) {}

#endif

}  // namespace

// ---- start and stop -----------------------------------------------------------------------------

radix_status ThreadPool::start(uint32_t num_threads) {
  if (num_threads < 1 || num_threads > kMaxWorkers) {
    return fail(RADIX_E_INVALID, "num_threads is %u: expected 1..%u", num_threads, kMaxWorkers);
  }
  spins_ = num_threads <= online_processors() ? kSpins : 0;
  owner_ = getpid();
  // The host's signals are the host's: none is delivered to our threads.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int error = 0;
  while (num_threads_ + 1 < num_threads && error == 0) {
    error = pthread_create(&threads_[num_threads_], nullptr, thread_main, this);
    if (error == 0) ++num_threads_;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (error == 0) return RADIX_OK;
  const uint32_t started = num_threads_;
  stop();
  return fail_native(RADIX_E_NOMEM, error, "num_threads is %u: the system gave %u", num_threads,
                     started + 1);
}

void ThreadPool::stop() {
  stopping_.store(true);
  wake_.fetch_add(1);
  futex_wake(&wake_, kMaxWorkers);
  // A forked child has the pool's memory without its threads.
  const bool mine = owner_ == getpid();
  for (uint32_t i = 0; i < num_threads_ && mine; ++i) pthread_join(threads_[i], nullptr);
  num_threads_ = 0;
  stopping_.store(false);
}

// ---- the caller ---------------------------------------------------------------------------------

void ThreadPool::parallel_for(uint32_t n, radix_task_fn task, void* arg) {
  if (n <= 1 || num_threads_ == 0 || busy_.exchange(true, std::memory_order_acquire)) {
    for (uint32_t i = 0; i < n; ++i) task(arg, i);
    return;
  }
  publish(n, task, arg);
  wake(n - 1);
  draw();
  close();
  busy_.store(false, std::memory_order_release);
}

void ThreadPool::publish(uint32_t n, radix_task_fn task, void* arg) {
  task_ = task;
  arg_ = arg;
  n_ = n;
  next_.store(0, std::memory_order_relaxed);
  const uint64_t job = job_number(state_.load(std::memory_order_relaxed)) + 1;
  state_.store(job * kNextJob | kOpen);  // sequentially consistent: see park
}

void ThreadPool::wake(uint32_t wanted) {
  const uint32_t parked = parked_.load();
  if (parked == 0) return;
  wake_.fetch_add(1);
  futex_wake(&wake_, wanted < parked ? wanted : parked);
}

// Nobody joins any more; those who did are waited for: spinning, yielding, at last asleep.
void ThreadPool::close() {
  state_.fetch_and(~kOpen, std::memory_order_acq_rel);
  const auto finished = [this] { return (state_.load(std::memory_order_acquire) & kJoined) == 0; };
  for (uint32_t i = 0; i < spins_; ++i) {
    if (finished()) return;
    pause();
  }
  for (uint32_t i = 0; i < kYields; ++i) {
    if (finished()) return;
    sched_yield();
  }
  state_.fetch_or(kCallerSleeps, std::memory_order_acq_rel);
  for (;;) {
    const uint32_t before = done_.load();
    if (finished()) return;
    futex_wait(&done_, before);
  }
}

// ---- a thread -----------------------------------------------------------------------------------

void* ThreadPool::thread_main(void* pool) {
  static_cast<ThreadPool*>(pool)->serve();
  return nullptr;
}

void ThreadPool::serve() {
  uint64_t seen = 0;
  while (!stopping_.load(std::memory_order_acquire)) {
    seen = wait_for_job(seen);
    if (join(seen)) {
      draw();
      leave();
    }
  }
}

// The number of a job that is not `seen`, or `seen` when the pool stops.
uint64_t ThreadPool::wait_for_job(uint64_t seen) {
  for (uint32_t i = 0; i < spins_; ++i) {
    const uint64_t job = job_number(state_.load(std::memory_order_acquire));
    if (job != seen || stopping_.load(std::memory_order_relaxed)) return job;
    pause();
  }
  return park(seen);
}

// NOTE: parked_ is raised before state_ is looked at, and a caller sets state_ before it looks at
// parked_, all in one sequentially consistent order: either the caller sees the sleeper or the
// sleeper sees the job.
uint64_t ThreadPool::park(uint64_t seen) {
  parked_.fetch_add(1);
  uint64_t job = seen;
  for (;;) {
    const uint32_t before = wake_.load();
    job = job_number(state_.load());
    if (job != seen || stopping_.load()) break;
    futex_wait(&wake_, before);
  }
  parked_.fetch_sub(1);
  return job;
}

bool ThreadPool::join(uint64_t job) {
  uint64_t state = state_.load(std::memory_order_relaxed);
  while (job_number(state) == job && (state & kOpen) != 0) {
    if (state_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel,
                                     std::memory_order_relaxed)) {
      return true;
    }
  }
  return false;
}

void ThreadPool::leave() {
  const uint64_t before = state_.fetch_sub(1, std::memory_order_acq_rel);
  if ((before & kJoined) != 1 || (before & kCallerSleeps) == 0) return;
  done_.fetch_add(1);
  futex_wake(&done_, 1);
}

// ---- both ---------------------------------------------------------------------------------------

void ThreadPool::draw() {
  const radix_task_fn task = task_;
  void* const arg = arg_;
  const uint32_t n = n_;
  for (;;) {
    const uint64_t i = next_.fetch_add(1, std::memory_order_relaxed);
    if (i >= n) return;
    task(arg, static_cast<uint32_t>(i));
  }
}

namespace {

void RADIX_CALL run_on_pool(void* pool, uint32_t n, radix_task_fn task, void* arg) {
  static_cast<ThreadPool*>(pool)->parallel_for(n, task, arg);
}

}  // namespace

radix_executor ThreadPool::executor() {
  radix_executor e = {};
  e.struct_size = sizeof e;
  e.max_workers = workers();
  e.user = this;
  e.parallel_for = run_on_pool;
  return e;
}

}  // namespace radixattn
