// Executors and the thread pool: every task runs exactly once, whoever calls, however many at a
// time.
#include "base/executor.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "backend/cpu/thread_pool.h"
#include "support/runners.h"

#if defined(__SANITIZE_THREAD__)
constexpr int kRounds = 2000;
#else
constexpr int kRounds = 20000;
#endif

namespace radixattn::test {
namespace {

// How often each task of a parallel_for ran.
struct Counts {
  explicit Counts(uint32_t n) : ran(n) {}
  std::vector<std::atomic<uint32_t>> ran;

  static void RADIX_CALL count(void* arg, uint32_t i) {
    static_cast<Counts*>(arg)->ran[i].fetch_add(1, std::memory_order_relaxed);
  }
  void expect_each(uint32_t times) const {
    for (size_t i = 0; i < ran.size(); ++i) ASSERT_EQ(ran[i].load(), times) << "task " << i;
  }
};

// Not atomic: a missing happens-before shows up here, under TSan at the latest.
struct Sums {
  std::vector<uint64_t> cell = std::vector<uint64_t>(64, 0);
  uint64_t add = 0;

  static void RADIX_CALL step(void* arg, uint32_t i) {
    Sums& s = *static_cast<Sums*>(arg);
    s.cell[i] += s.add;
  }
};

TEST(Executor, EveryKindRunsEveryTaskOnce) {
  for (NamedExecutor& e : all_executors()) {
    SCOPED_TRACE(e.name);
    for (const uint32_t n : {0u, 1u, 2u, 3u, 7u, 64u, 300u}) {
      Counts counts(n);
      e.executor.parallel_for(n, Counts::count, &counts);
      counts.expect_each(1);
    }
  }
}

TEST(Executor, KnowsItsWorkers) {
  EXPECT_EQ(Executor().workers(), 1u);
  radix_executor callback = {};
  EXPECT_EQ(Executor(callback).workers(), 1u) << "no parallel_for: inline";
  callback.parallel_for = [](void*, uint32_t, radix_task_fn, void*) {};
  EXPECT_EQ(Executor(callback).workers(), online_processors()) << "0 = unknown";
  callback.max_workers = 3;
  EXPECT_EQ(Executor(callback).workers(), 3u);
  callback.max_workers = 100000;
  EXPECT_EQ(Executor(callback).workers(), kMaxWorkers);
}

TEST(Executor, CallbackGetsItsUserAndTheTasks) {
  struct Seen {
    uint32_t n = 0;
  } seen;
  radix_executor callback = {};
  callback.max_workers = 4;
  callback.user = &seen;
  callback.parallel_for = [](void* user, uint32_t n, radix_task_fn task, void* arg) {
    static_cast<Seen*>(user)->n = n;
    for (uint32_t i = 0; i < n; ++i) task(arg, i);
  };
  Counts counts(4);
  Executor(callback).parallel_for(4, Counts::count, &counts);
  EXPECT_EQ(seen.n, 4u);
  counts.expect_each(1);
}

TEST(ThreadPool, RefusesImpossibleSizes) {
  ThreadPool none, many;
  EXPECT_EQ(none.start(0), RADIX_E_INVALID);
  EXPECT_EQ(many.start(kMaxWorkers + 1), RADIX_E_INVALID);
}

TEST(ThreadPool, ManyShortJobsOneAfterTheOther) {
  for (const uint32_t threads : {1u, 2u, 3u, 8u}) {
    ThreadPool pool;
    ASSERT_EQ(pool.start(threads), RADIX_OK);
    EXPECT_EQ(pool.workers(), threads);
    Sums sums;
    uint64_t total = 0;
    for (int round = 0; round < kRounds; ++round) {
      sums.add = static_cast<uint64_t>(round);  // read by the tasks without a lock
      total += sums.add;
      const uint32_t n = 1 + static_cast<uint32_t>(round) % 64;
      pool.parallel_for(n, Sums::step, &sums);
      for (uint32_t i = n; i < 64; ++i) sums.cell[i] += sums.add;
    }
    for (const uint64_t x : sums.cell) EXPECT_EQ(x, total) << threads << " threads";
  }
}

TEST(ThreadPool, WakesThreadsThatParked) {
  ThreadPool pool;
  ASSERT_EQ(pool.start(4), RADIX_OK);
  for (int round = 0; round < 20; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(3));  // far longer than the spin
    // Tasks that wait for each other: only threads of their own can run them.
    struct Meeting {
      std::atomic<uint32_t> here{0};
    } meeting;
    pool.parallel_for(
        4,
        [](void* arg, uint32_t) {
          auto& here = static_cast<Meeting*>(arg)->here;
          here.fetch_add(1);
          while (here.load() < 4) std::this_thread::yield();
        },
        &meeting);
    EXPECT_EQ(meeting.here.load(), 4u);
  }
}

TEST(ThreadPool, CallerSleepsThroughALongTask) {
  ThreadPool pool;
  ASSERT_EQ(pool.start(2), RADIX_OK);
  for (int round = 0; round < 5; ++round) {
    struct Slow {
      std::thread::id caller;
      std::atomic<uint32_t> started{0}, ended{0};
    } slow;
    slow.caller = std::this_thread::get_id();
    pool.parallel_for(
        2,
        [](void* arg, uint32_t) {
          auto& s = *static_cast<Slow*>(arg);
          s.started.fetch_add(1);
          while (s.started.load() < 2) std::this_thread::yield();
          if (std::this_thread::get_id() != s.caller) {
            std::this_thread::sleep_for(std::chrono::milliseconds(20));
          }
          s.ended.fetch_add(1);
        },
        &slow);
    EXPECT_EQ(slow.ended.load(), 2u);
  }
}

TEST(ThreadPool, SeveralCallersAtOnce) {
  ThreadPool pool;
  ASSERT_EQ(pool.start(3), RADIX_OK);
  std::vector<std::thread> callers;
  std::atomic<int> wrong{0};
  for (int c = 0; c < 4; ++c) {
    callers.emplace_back([&pool, &wrong] {
      Sums sums;
      for (int round = 0; round < kRounds / 10; ++round) {
        sums.add = 1;
        pool.parallel_for(64, Sums::step, &sums);
      }
      for (const uint64_t x : sums.cell) wrong += x != kRounds / 10;
    });
  }
  for (std::thread& t : callers) t.join();
  EXPECT_EQ(wrong.load(), 0);
}

TEST(ThreadPool, TasksMayCallItAgain) {
  ThreadPool pool;
  ASSERT_EQ(pool.start(3), RADIX_OK);
  struct Nested {
    ThreadPool* pool;
    Counts inner{50};
  } nested{&pool};
  pool.parallel_for(
      6,
      [](void* arg, uint32_t) {
        auto& n = *static_cast<Nested*>(arg);
        n.pool->parallel_for(50, Counts::count, &n.inner);
      },
      &nested);
  nested.inner.expect_each(6);
}

TEST(ThreadPool, StartsAndStopsOftenBusyOrNot) {
  for (int round = 0; round < 50; ++round) {
    ThreadPool pool;
    ASSERT_EQ(pool.start(5), RADIX_OK);
    if (round % 2 == 0) continue;
    Counts counts(9);
    pool.parallel_for(9, Counts::count, &counts);
    counts.expect_each(1);
  }
}

#if !defined(__SANITIZE_THREAD__)  // TSan does not follow a fork of a process with threads
TEST(ThreadPool, AForkedChildWorksWithoutTheThreads) {
  ThreadPool pool;
  ASSERT_EQ(pool.start(4), RADIX_OK);
  Counts before(20);
  pool.parallel_for(20, Counts::count, &before);
  std::this_thread::sleep_for(std::chrono::milliseconds(5));  // parked: the child inherits sleepers
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    alarm(20);
    Counts counts(20);
    for (int i = 0; i < 100; ++i) pool.parallel_for(20, Counts::count, &counts);
    bool right = true;
    for (const auto& n : counts.ran) right = right && n.load() == 100;
    pool.stop();
    _exit(right ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "status " << status;
  Counts after(20);
  pool.parallel_for(20, Counts::count, &after);
  after.expect_each(1);
}
#endif

}  // namespace
}  // namespace radixattn::test
