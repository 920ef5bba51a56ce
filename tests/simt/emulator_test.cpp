// The emulator catches what it promises to: each test is a small kernel with one thing wrong.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "cuda/simt/simt.h"

namespace radixattn::test {
namespace {

using namespace simt;

// Runs the kernel; the error's text, or "".
template <class... P, class... A>
std::string run(void (*kernel)(P...), unsigned threads, A... a) {
  try {
    emu::launch("kernel", kernel, dim3(1), dim3(threads), 1024, nullptr, a...);
  } catch (const emu::Error& e) {
    return e.what();
  }
  return "";
}

#define EXPECT_SAYS(word, ...)                                         \
  do {                                                                 \
    const std::string said = run(__VA_ARGS__);                         \
    EXPECT_NE(said.find(word), std::string::npos) << "said: " << said; \
  } while (0)

__global__ void half_at_another_barrier() {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void barrier_after_return() {
  if (threadIdx.x == 3) return;
  __syncthreads();
}

__global__ void half_waits_forever() {
  if (threadIdx.x < 16) __shfl_sync(kFullWarp, 1, 0);
}

__global__ void different_collectives() {
  if (threadIdx.x % 2 == 0) {
    __shfl_sync(kFullWarp, 1, 0);
  } else {
    __ballot_sync(kFullWarp, 1);
  }
}

__global__ void shuffle_from_outside_of_the_mask(int* out) {
  if (threadIdx.x < 4) out[0] = __shfl_sync(0xfu, 1, 9);
}

TEST(Emulator, DivergenceAndDeadlock) {
  EXPECT_SAYS("divergent barrier", half_at_another_barrier, 64);
  EXPECT_SAYS("returned", barrier_after_return, 32);
  EXPECT_SAYS("deadlock", half_waits_forever, 32);
  EXPECT_SAYS("divergent warp collective", different_collectives, 32);
  int out = 0;
  EXPECT_SAYS("not in the mask", shuffle_from_outside_of_the_mask, 32, &out);
  EXPECT_SAYS("bad block size", half_waits_forever, 1025);
}

__global__ void read_before_the_wait(const uint32_t* in, uint32_t* early, uint32_t* late) {
  RADIX_DYN_SMEM(smem);
  auto* words = reinterpret_cast<uint32_t*>(smem);
  cp_async16(words, in, true);
  cp_async_commit();
  if (early != nullptr) *early = words[0];
  cp_async_wait<0>();
  *late = words[0];
}

__global__ void never_waits(const uint32_t* in) {
  RADIX_DYN_SMEM(smem);
  cp_async16(smem, in, true);
  cp_async_commit();
}

__global__ void misaligned_copy(const uint32_t* in) {
  RADIX_DYN_SMEM(smem);
  cp_async16(smem + 4, in, true);
}

__global__ void copy_outside(const uint32_t* in) {
  RADIX_DYN_SMEM(smem);
  cp_async16(smem + 1024, in, true);
}

TEST(Emulator, AsynchronousCopies) {
  alignas(16) const uint32_t in[4] = {7, 8, 9, 10};
  uint32_t late = 1;
#if !defined(__SANITIZE_ADDRESS__) && \
    !defined(RADIX_SIMT_SANITIZED)  // else the read itself stops the test
  uint32_t early = 1;
  EXPECT_EQ(run(read_before_the_wait, 1, in, &early, &late), "");
  EXPECT_EQ(early, 0xffffffffu) << "nothing arrives before the wait";
#else
  EXPECT_EQ(run(read_before_the_wait, 1, in, static_cast<uint32_t*>(nullptr), &late), "");
#endif
  EXPECT_EQ(late, 7u);
  EXPECT_SAYS("never waited for", never_waits, 1, in);
  EXPECT_SAYS("misaligned", misaligned_copy, 1, in);
  EXPECT_SAYS("not in shared memory", copy_outside, 1, in);
}

__global__ void fresh_memory(uint32_t* out) {
  RADIX_DYN_SMEM(smem);
  RADIX_SHARED(uint32_t[2], fixed);
  memcpy(out, smem, 4);
  out[1] = fixed[1];
}

TEST(Emulator, SharedMemoryBeginsAsNan) {
  uint32_t out[2] = {0, 0};
  EXPECT_EQ(run(fresh_memory, 1, out), "");
  EXPECT_EQ(out[0], 0xffffffffu);
  EXPECT_EQ(out[1], 0xffffffffu);
}

__global__ void sum_of_neighbours(int* out, bool with_barrier) {
  RADIX_SHARED(int[64], x);
  const int i = static_cast<int>(threadIdx.x);
  x[i] = 0;
  __syncthreads();
  x[i] = i + 1;
  if (with_barrier) __syncthreads();
  out[i] = x[(i + 1) % 64];
}

#if !defined(RADIX_SIMT_TSAN)  // which stops at the race
std::vector<int> in_order(emu::Order order, bool with_barrier) {
  std::vector<int> out(64);
  emu::cfg.order = order;
  EXPECT_EQ(run(sum_of_neighbours, 64, out.data(), with_barrier), "");
  emu::cfg.order = emu::Order::seq;
  return out;
}

__global__ void count_threads(int* out) { atomicAdd(out, 1); }

// The stacks of a larger launch may lie where the red zones of a smaller one's shared memory lay.
TEST(Emulator, LaunchesGrow) {
  for (unsigned threads = 32; threads <= 1024; threads += 32) {
    int seen = 0;
    EXPECT_EQ(run(count_threads, threads, &seen), "");
    EXPECT_EQ(seen, int(threads));
  }
}

TEST(Emulator, OrdersShowRaces) {
  EXPECT_EQ(in_order(emu::Order::seq, true), in_order(emu::Order::rev, true));
  EXPECT_EQ(in_order(emu::Order::seq, true), in_order(emu::Order::rnd, true));
  EXPECT_NE(in_order(emu::Order::seq, false), in_order(emu::Order::rev, false));
}
#endif

__global__ void exchange(unsigned* out) {
  const unsigned lane = threadIdx.x;
  out[lane * 8] = __shfl_sync(kFullWarp, lane, 5);
  out[lane * 8 + 1] = __shfl_xor_sync(kFullWarp, lane, 3);
  out[lane * 8 + 2] = __shfl_up_sync(kFullWarp, lane, 2u);
  out[lane * 8 + 3] = __shfl_down_sync(kFullWarp, lane, 2u, 8);
  out[lane * 8 + 4] = __ballot_sync(kFullWarp, lane % 3 == 0);
  out[lane * 8 + 5] = __reduce_max_sync(kFullWarp, lane * 7 % 32);
  out[lane * 8 + 6] = __match_any_sync(kFullWarp, lane % 2);
  atomicAdd(out + 256, lane);
}

TEST(Emulator, WarpsExchange) {
  std::vector<unsigned> out(257, 0);
  EXPECT_EQ(run(exchange, 32, out.data()), "");
  unsigned thirds = 0;
  for (unsigned i = 0; i < 32; i += 3) thirds |= 1u << i;
  for (unsigned i = 0; i < 32; ++i) {
    EXPECT_EQ(out[i * 8], 5u);
    EXPECT_EQ(out[i * 8 + 1], i ^ 3u);
    EXPECT_EQ(out[i * 8 + 2], i < 2 ? i : i - 2);
    EXPECT_EQ(out[i * 8 + 3], i % 8 >= 6 ? i : i + 2);
    EXPECT_EQ(out[i * 8 + 4], thirds);
    EXPECT_EQ(out[i * 8 + 5], 31u);
    EXPECT_EQ(out[i * 8 + 6], i % 2 == 0 ? 0x55555555u : 0xaaaaaaaau);
  }
  EXPECT_EQ(out[256], 31u * 32 / 2);
}

// Round i's vote is of thread i alone; whoever is late must not see the next round's.
__global__ void votes(int* wrong) {
  for (unsigned i = 0; i < blockDim.x; ++i) {
    const int any = __syncthreads_or(threadIdx.x == i && i % 2 == 0);
    const int all = __syncthreads_and(threadIdx.x != i || i % 3 == 0);
    const int count = __syncthreads_count(threadIdx.x <= i);
    if (any != (i % 2 == 0) || all != (i % 3 == 0) || count != static_cast<int>(i) + 1)
      atomicAdd(wrong, 1);
  }
}

TEST(Emulator, BlocksVote) {
  for (const emu::Order order :
       {emu::Order::seq, emu::Order::rev, emu::Order::rnd, emu::Order::rank}) {
    emu::cfg.order = order;
    int wrong = 0;
    EXPECT_EQ(run(votes, 96, &wrong), "");
    EXPECT_EQ(wrong, 0);
  }
  emu::cfg.order = emu::Order::seq;
}

__global__ void rows_in_one_bank(uint32_t* out, int stride) {
  RADIX_DYN_SMEM(smem);
  uint32_t r[4];
  ldmatrix_x4(r, smem + threadIdx.x % 8 * static_cast<unsigned>(stride));
  out[threadIdx.x] = r[0];
}

TEST(Emulator, CountsBankConflicts) {
  uint32_t out[32];
  const auto wavefronts = [&](int stride) {
    emu::stats = {};
    EXPECT_EQ(run(rows_in_one_bank, 32, out, stride), "");
    return emu::stats.ldmatrix_wavefronts;
  };
  EXPECT_EQ(wavefronts(16), 4u) << "eight neighbouring rows are served at once";
  EXPECT_EQ(wavefronts(128), 32u) << "eight rows of one column one after the other";
}

TEST(Emulator, ALaunchCanBeDoneLater) {
  static std::vector<emu::Kernel> queue;
  emu::submit = [](const emu::Kernel& kernel, void*) {
    queue.push_back(kernel);
    return 0;
  };
  std::vector<int> out(64, -1);
  EXPECT_EQ(run(sum_of_neighbours, 64, out.data(), true), "");
  emu::submit = nullptr;
  EXPECT_EQ(out[0], -1);
  ASSERT_EQ(queue.size(), 1u);
  emu::run(queue[0]);
  EXPECT_EQ(out[0], 2);
}

}  // namespace
}  // namespace radixattn::test
