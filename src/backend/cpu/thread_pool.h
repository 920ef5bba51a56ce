// The built-in thread pool: num_threads - 1 threads and the caller. Opt-in
// (radix_config.num_threads).
//
// A fork-join costs about a microsecond while the threads are awake: they spin for a bounded while
// after each job, then park on a futex. On a machine with fewer processors than threads they park
// at once.
//
//   caller   publish the job, wake the parked, draw indices, close the job, wait for the joined
//   thread   see an open job, join it, draw indices until none are left, leave
//
// Invariants:
//   1. The job's fields are read only by threads that have joined it, and written only while none
//      has. Joining is one compare-and-swap on `state_`, which holds the job's number, whether it
//      is open, and how many have joined.
//   2. Nobody waits for a thread that has not joined: threads that sleep, are late, or do not exist
//      in this process (after fork) cost nothing; the caller runs what they do not.
//   3. One job at a time. A second caller, or a task that calls parallel_for again, runs its tasks
//      itself.
// Nothing is allocated on the heap. Thread rule: parallel_for from any thread; start and stop from
// one.
#pragma once

#include <pthread.h>
#include <sys/types.h>

#include <atomic>
#include <cstdint>

#include "base/executor.h"
#include "radixattn.h"

namespace radixattn {

class ThreadPool {
 public:
  ThreadPool() = default;
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool() { stop(); }

  // Starts num_threads - 1 threads; 1..kMaxWorkers, once. When the system refuses one, those
  // already started are stopped again and the status is RADIX_E_NOMEM.
  radix_status start(uint32_t num_threads);
  // Ends and joins the threads. No parallel_for may be running.
  void stop();

  uint32_t workers() const { return num_threads_ + 1; }
  void parallel_for(uint32_t n, radix_task_fn task, void* arg);

  // The pool in the form in which a host lends its own; valid while the pool lives, after start.
  radix_executor executor();

 private:
  static void* thread_main(void* pool);
  void serve();
  uint64_t wait_for_job(uint64_t seen);
  uint64_t park(uint64_t seen);
  bool join(uint64_t job);
  void leave();
  void draw();
  void publish(uint32_t n, radix_task_fn task, void* arg);
  void wake(uint32_t wanted);
  void close();

  alignas(64) std::atomic<uint64_t> state_{0};  // see thread_pool.cpp
  alignas(64) std::atomic<uint64_t> next_{0};   // the next index of the job
  alignas(64) std::atomic<bool> busy_{false};   // a caller owns the job
  radix_task_fn task_ = nullptr;
  void* arg_ = nullptr;
  uint32_t n_ = 0;

  alignas(64) std::atomic<uint32_t> parked_{0};
  std::atomic<uint32_t> wake_{0};  // changes when parked threads should look again
  std::atomic<uint32_t> done_{0};  // changes when the caller should look again
  std::atomic<bool> stopping_{false};
  uint32_t spins_ = 0;  // looks at state_ before somebody parks
  uint32_t num_threads_ = 0;
  pid_t owner_ = 0;  // the process that has the threads
  pthread_t threads_[kMaxWorkers - 1] = {};
};

}  // namespace radixattn
