// The emulated sm_90a: products and barriers do what cuda/simt/sm90.h says, and each thing that a
// kernel can get wrong with them is noticed.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "cuda/simt/sm90.h"

namespace radixattn::test {
namespace {

using namespace simt;

constexpr size_t kSmem = 160 * 1024;

// Runs the kernel in an order; the error's text, or "".
template <class... P, class... A>
std::string run(emu::Order order, void (*kernel)(P...), unsigned threads, A... a) {
  emu::cfg.order = order;
  std::string said;
  try {
    emu::launch("kernel", kernel, dim3(1), dim3(threads), kSmem, nullptr, a...);
  } catch (const emu::Error& e) {
    said = e.what();
  }
  emu::cfg.order = emu::Order::seq;
  return said;
}
constexpr emu::Order kOrders[] = {emu::Order::seq, emu::Order::rev, emu::Order::rnd};

#define EXPECT_SAYS(word, ...)                                         \
  do {                                                                 \
    const std::string said = run(emu::Order::seq, __VA_ARGS__);        \
    EXPECT_NE(said.find(word), std::string::npos) << "said: " << said; \
  } while (0)

// ---- products -----------------------------------------------------------------------------------

// Whole numbers from -8 to 7, so that sums are exact.
int small(int i, int j, int salt) { return (i * 7 + j * 13 + i * j * salt) % 16 - 8; }

// A row-major [rows, columns] matrix of small numbers to swizzled chunks of 64 columns.
template <class T>
RADIX_DEVICE void store_small(unsigned char* to, int rows, int columns, int salt) {
  for (int i = static_cast<int>(threadIdx.x); i < rows * columns / 8; i += kWarpgroup) {
    const int r = i / (columns / 8), c = i % (columns / 8);
    uint32_t words[4];
    for (int w = 0; w < 4; ++w) {
      const int j = c * 8 + w * 2;
      words[w] = Pair<T>::pack(static_cast<float>(small(r, j, salt)),
                               static_cast<float>(small(r, j + 1, salt)));
    }
    store_piece(to + c / 8 * rows * 128 + operand_piece(r, c % 8), words);
  }
}

// out [64, 128] = 2 Q K^T + 1 for Q [64, 128], K [128, 128] small.
template <class T>
__global__ void scores_kernel(float* out) {
  RADIX_DYN_SMEM(smem);
  unsigned char *q = smem, *k = smem + 16384;
  store_small<T>(q, 64, 128, 3);
  store_small<T>(k, 128, 128, 5);
  fence_proxy_async();
  __syncthreads();
  float d[16][4];
  for (auto& row : d)
    for (float& x : row) x = 1.f;
  for (int twice = 0; twice < 2; ++twice) {
    wgmma_fence();
    for (int step = 0; step < 8; ++step) {
      const int chunk = step / 4, at = step % 4 * 32;
      wgmma_m64n128k16<T>(d, k_major_operand(q + chunk * 8192 + at),
                          k_major_operand(k + chunk * 16384 + at), true);
    }
    wgmma_commit();
    wgmma_wait<0>();
    pin(d);
  }
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
  for (int n = 0; n < 16; ++n)
    for (int i = 0; i < 4; ++i)
      out[(row + i / 2 * 8) * 128 + n * 8 + lane % 4 * 2 + i % 2] = d[n][i];
}

// out [64, 8 N] = 3 P V for P [64, 32], V [32, 8 N] small; the first product begins at 0.
template <class T, int N>
__global__ void values_kernel(float* out) {
  RADIX_DYN_SMEM(smem);
  store_small<T>(smem, 32, 8 * N, 5);
  fence_proxy_async();
  __syncthreads();
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
  uint32_t a[2][4];
  for (int step = 0; step < 2; ++step)
    for (int i = 0; i < 4; ++i) {
      const int r = row + i % 2 * 8, c = step * 16 + lane % 4 * 2 + i / 2 * 8;
      a[step][i] = Pair<T>::pack(static_cast<float>(3 * small(r, c, 3)),
                                 static_cast<float>(3 * small(r, c + 1, 3)));
    }
  float d[N][4] = {};
  wgmma_fence();
  for (int step = 0; step < 2; ++step)
    wgmma_m64k16<T>(d, a[step], n_major_operand(smem + step * 2048, 32 * 128));
  wgmma_commit();
  wgmma_wait<0>();
  pin(d);
  for (int n = 0; n < N; ++n)
    for (int i = 0; i < 4; ++i)
      out[(row + i / 2 * 8) * 8 * N + n * 8 + lane % 4 * 2 + i % 2] = d[n][i];
}

template <class T>
void expect_scores() {
  std::vector<float> out(64 * 128, NAN);
  EXPECT_EQ(run(emu::Order::seq, scores_kernel<T>, kWarpgroup, out.data()), "");
  for (int i = 0; i < 64; ++i)
    for (int j = 0; j < 128; ++j) {
      int sum = 0;
      for (int k = 0; k < 128; ++k) sum += small(i, k, 3) * small(j, k, 5);
      ASSERT_EQ(out[static_cast<size_t>(i * 128 + j)], static_cast<float>(2 * sum + 1))
          << i << ", " << j;
    }
}

template <class T, int N>
void expect_values() {
  std::vector<float> out(64 * 8 * N, NAN);
  EXPECT_EQ(run(emu::Order::seq, values_kernel<T, N>, kWarpgroup, out.data()), "");
  for (int i = 0; i < 64; ++i)
    for (int j = 0; j < 8 * N; ++j) {
      int sum = 0;
      for (int k = 0; k < 32; ++k) sum += small(i, k, 3) * small(k, j, 5);
      ASSERT_EQ(out[static_cast<size_t>(i * 8 * N + j)], static_cast<float>(3 * sum))
          << i << ", " << j;
    }
}

TEST(Hopper, ProductsOfOperandsInSharedMemory) {
  expect_scores<Half>();
  expect_scores<Bf16>();
}

TEST(Hopper, ProductsOfRegistersAndTransposedRows) {
  expect_values<Half, 8>();
  expect_values<Bf16, 8>();
  expect_values<Half, 16>();
  expect_values<Bf16, 16>();
}

// ---- one thing wrong each -----------------------------------------------------------------------

enum class Wrong {
  nothing,
  plain_store,
  no_proxy_fence,
  no_fence,
  second_batch_without_fence,
  never_waits,
  touches_the_sum,
  touches_a,
  one_warp_elsewhere,
  outside
};

__global__ void product_kernel(Wrong wrong, float* out) {
  RADIX_DYN_SMEM(smem);
  uint32_t words[4] = {};
  for (int i = static_cast<int>(threadIdx.x); i < 16384 / 16; i += kWarpgroup) {
    if (wrong == Wrong::plain_store && i == 77) {
      memcpy(smem + i * 16, words, 16);
    } else {
      store_piece(smem + i * 16, words);
    }
  }
  if (wrong != Wrong::no_proxy_fence || threadIdx.x != 99) fence_proxy_async();
  __syncthreads();
  float d[16][4] = {};
  uint32_t a[4] = {};
  const bool moved = wrong == Wrong::one_warp_elsewhere && threadIdx.x < 32;
  const unsigned at = wrong == Wrong::outside ? kSmem : moved ? 2048 : 0;
  for (int batch = 0; batch < 2; ++batch) {
    if (wrong != Wrong::no_fence && (batch == 0 || wrong != Wrong::second_batch_without_fence))
      wgmma_fence();
    wgmma_m64k16<Half>(d, a, n_major_operand(smem + at, 8192));
    wgmma_commit();
    if (wrong == Wrong::touches_the_sum) d[3][1] *= 2.f;
    if (wrong == Wrong::touches_a) a[2] = 5;
    if (wrong != Wrong::never_waits) wgmma_wait<0>();
  }
  out[threadIdx.x] = d[0][0];
}

TEST(Hopper, MisusedProductsAreNoticed) {
  float out[kWarpgroup];
  EXPECT_EQ(run(emu::Order::seq, product_kernel, kWarpgroup, Wrong::nothing, out), "");
  EXPECT_EQ(out[5], 0.f);
  const auto expect = [&](Wrong wrong, const char* word) {
    EXPECT_SAYS(word, product_kernel, kWarpgroup, wrong, out);
  };
  expect(Wrong::plain_store, "nobody wrote as an operand");
  expect(Wrong::no_proxy_fence, "no fence.proxy.async");
  expect(Wrong::no_fence, "without wgmma.fence");
  expect(Wrong::second_batch_without_fence, "without wgmma.fence");
  expect(Wrong::never_waits, "never waited for");
  expect(Wrong::touches_the_sum, "accumulator was written before");
  expect(Wrong::touches_a, "A's registers changed");
  expect(Wrong::one_warp_elsewhere, "different operands");
  expect(Wrong::outside, "outside of shared memory");
}

__global__ void early_product_kernel(const uint32_t* in) {
  RADIX_DYN_SMEM(smem);
  for (int i = static_cast<int>(threadIdx.x); i < 16384 / 16; i += kWarpgroup)
    cp_async16(smem + i * 16, in, true);
  cp_async_commit();
  fence_proxy_async();
  __syncthreads();
  float d[16][4] = {};
  const uint32_t a[4] = {};
  wgmma_fence();
  wgmma_m64k16<Half>(d, a, n_major_operand(smem, 8192));
}

TEST(Hopper, OperandsInFlightAreNoticed) {
  alignas(16) const uint32_t in[4] = {};
  EXPECT_SAYS("still writing", early_product_kernel, kWarpgroup, in);
}

__global__ void barrier_kernel(int arrivals, bool initialised, bool twice) {
  RADIX_DYN_SMEM(smem);
  auto* barrier = reinterpret_cast<uint64_t*>(smem);
  if (threadIdx.x == 0 && initialised) mbarrier_init(barrier, static_cast<unsigned>(arrivals));
  if (threadIdx.x == 0 && twice) mbarrier_init(barrier, 1);
  __syncthreads();
  mbarrier_arrive(barrier);
  mbarrier_wait(barrier, 0);
}
__global__ void registers_kernel(bool odd) {
  if (odd) grow_registers<100>();
  if (threadIdx.x < kWarpgroup) {
    shrink_registers<40>();
  } else {
    grow_registers<240>();
  }
}

TEST(Hopper, MisusedBarriersAndRegistersAreNoticed) {
  EXPECT_EQ(run(emu::Order::seq, barrier_kernel, 64, 64, true, false), "");
  EXPECT_SAYS("before it was initialised", barrier_kernel, 64, 64, false, false);
  EXPECT_SAYS("initialised twice", barrier_kernel, 64, 64, true, true);
  EXPECT_SAYS("waits for an mbarrier", barrier_kernel, 64, 65, true, false);
  EXPECT_EQ(run(emu::Order::seq, registers_kernel, 256, false), "");
  EXPECT_SAYS("ask for 520", registers_kernel, 384, false);
  EXPECT_SAYS("not a multiple of 8", registers_kernel, 256, true);
}

// ---- a ring of two stages -----------------------------------------------------------------------

// out [64, 64] = sum over tiles of P V[tile], P = identity-like: row r takes row r % 16 of the
// tile. 128 threads bring tiles of 16 rows in, 128 compute.
__global__ void ring_kernel(const uint32_t* in, int tiles, float* out) {
  RADIX_DYN_SMEM(smem);
  auto* full = reinterpret_cast<uint64_t*>(smem + 2 * 2048);
  uint64_t* empty = full + 2;
  if (threadIdx.x < 2) {
    mbarrier_init(full + threadIdx.x, kWarpgroup);
    mbarrier_init(empty + threadIdx.x, 4);
  }
  __syncthreads();
  if (threadIdx.x < kWarpgroup) {
    shrink_registers<24>();
    const int r = static_cast<int>(threadIdx.x) / 8, c = static_cast<int>(threadIdx.x) % 8;
    for (int tile = 0; tile < tiles; ++tile) {
      const int stage = tile % 2, phase = tile / 2 % 2;
      mbarrier_wait(empty + stage, static_cast<unsigned>(1 - phase));
      cp_async16(smem + stage * 2048 + operand_piece(r, c), in + (tile * 128 + r * 8 + c) * 4,
                 true);
      cp_async_commit();
      cp_async_wait<0>();
      fence_proxy_async();
      mbarrier_arrive(full + stage);
    }
    return;
  }
  grow_registers<240>();
  const int lane = threadIdx.x % 32;
  uint32_t a[4];
  for (int i = 0; i < 4; ++i) {
    const int r = lane / 4 + i % 2 * 8, c = lane % 4 * 2 + i / 2 * 8;
    a[i] = Pair<Half>::pack(r == c ? 1.f : 0.f, r == c + 1 ? 1.f : 0.f);
  }
  float d[8][4] = {};
  for (int tile = 0; tile < tiles; ++tile) {
    const int stage = tile % 2, phase = tile / 2 % 2;
    mbarrier_wait(full + stage, static_cast<unsigned>(phase));
    wgmma_fence();
    wgmma_m64k16<Half>(d, a, n_major_operand(smem + stage * 2048, 2048));
    wgmma_commit();
    wgmma_wait<0>();
    if (lane == 0) mbarrier_arrive(empty + stage);
  }
  const int row = (static_cast<int>(threadIdx.x) / 32 - 4) * 16 + lane / 4;
  for (int n = 0; n < 8; ++n)
    for (int i = 0; i < 4; ++i)
      out[(row + i / 2 * 8) * 64 + n * 8 + lane % 4 * 2 + i % 2] = d[n][i];
}

std::string ring_error(emu::Order order) {
  constexpr int kTiles = 6;
  std::vector<uint32_t> in(kTiles * 16 * 32 + 4);
  size_t first = 0;
  while (reinterpret_cast<uintptr_t>(&in[first]) % 16 != 0) ++first;
  for (int i = 0; i < kTiles * 16 * 32; ++i)
    in[first + static_cast<size_t>(i)] =
        Pair<Half>::pack(static_cast<float>(small(i / 32, i % 32, 3)), static_cast<float>(i / 512));
  std::vector<float> out(64 * 64, NAN);
  const std::string said = run(order, ring_kernel, 256, &in[first], kTiles, out.data());
  if (!said.empty()) return said;
  for (int r = 0; r < 64; ++r)
    for (int c = 0; c < 64; ++c) {
      int sum = 0;
      for (int tile = 0; tile < kTiles; ++tile)
        sum += c % 2 == 0 ? small(tile * 16 + r % 16, c / 2, 3) : tile;
      if (out[static_cast<size_t>(r * 64 + c)] != static_cast<float>(sum)) return "wrong sum";
    }
  return "";
}

TEST(Hopper, ARingOfTwoStages) {
  for (const emu::Order order : kOrders) EXPECT_EQ(ring_error(order), "");
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(RADIX_SIMT_TSAN)
// Under a sanitizer the first access of what is not there ends the test.
TEST(Hopper, NoSynchronisationOfTheRingCanBeLeftOut) {
  std::vector<emu::SyncSite> sites;
  emu::sync_sites = &sites;
  EXPECT_EQ(ring_error(emu::Order::seq), "");
  emu::sync_sites = nullptr;
  EXPECT_EQ(sites.size(), 10u);
  for (const emu::SyncSite& site : sites) {
    emu::left_out = &site;
    bool noticed = false;
    for (const emu::Order order : kOrders) noticed = noticed || !ring_error(order).empty();
    emu::left_out = nullptr;
    EXPECT_TRUE(noticed) << site.what << " at line " << site.line;
  }
}
#endif

}  // namespace
}  // namespace radixattn::test
