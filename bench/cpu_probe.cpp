#include "cpu_probe.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace bench {
namespace {

constexpr int kChains = 24;  // independent accumulators: more than latency x ports anywhere

uint64_t read_plain(const uint64_t* p, size_t n) {
  uint64_t sum[8] = {0};
  for (size_t i = 0; i < n; i += 8) {
    for (size_t j = 0; j < 8; ++j) sum[j] += p[i + j];
  }
  uint64_t all = 0;
  for (const uint64_t s : sum) all += s;
  return all;
}

// Lanes of four floats: what every aarch64 and x86-64 has.
float fma_plain(uint64_t rounds, double* flops) {
  typedef float Lanes __attribute__((vector_size(16)));
  Lanes acc[12];
  for (int c = 0; c < 12; ++c) acc[c] = Lanes{1, 2, 3, static_cast<float>(c)};
  const Lanes a = {0.5f, 0.5f, 0.5f, 0.5f};
  for (uint64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
    for (int c = 0; c < 12; ++c) acc[c] = acc[c] * a + a;
  }
  float sum = 0;
  for (const Lanes& v : acc) sum += v[0] + v[1] + v[2] + v[3];
  *flops = static_cast<double>(rounds) * 12 * 4 * 2;
  return sum;
}

#if defined(__x86_64__)

__attribute__((target("avx512f"))) uint64_t read_avx512(const char* p, size_t bytes) {
  __m512i sum[8];
  for (__m512i& s : sum) s = _mm512_setzero_si512();
  for (size_t i = 0; i < bytes; i += 512) {
#pragma GCC unroll 8
    for (size_t j = 0; j < 8; ++j)
      sum[j] = _mm512_add_epi64(sum[j], _mm512_loadu_si512(p + i + 64 * j));
  }
  for (int j = 1; j < 8; ++j) sum[0] = _mm512_add_epi64(sum[0], sum[j]);
  alignas(64) uint64_t lanes[8];
  _mm512_store_si512(lanes, sum[0]);
  uint64_t all = 0;
  for (const uint64_t lane : lanes) all += lane;
  return all;
}

__attribute__((target("avx2"))) uint64_t read_avx2(const char* p, size_t bytes) {
  __m256i sum[8];
  for (__m256i& s : sum) s = _mm256_setzero_si256();
  for (size_t i = 0; i < bytes; i += 256) {
#pragma GCC unroll 8
    for (size_t j = 0; j < 8; ++j) {
      sum[j] = _mm256_add_epi64(
          sum[j], _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + i + 32 * j)));
    }
  }
  for (int j = 1; j < 8; ++j) sum[0] = _mm256_add_epi64(sum[0], sum[j]);
  alignas(32) uint64_t lanes[4];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), sum[0]);
  return lanes[0] + lanes[1] + lanes[2] + lanes[3];
}

__attribute__((target("avx512f"), always_inline)) inline float sum_chains(const __m512* acc) {
  __m512 sum = acc[0];
  for (int c = 1; c < kChains; ++c) sum = _mm512_add_ps(sum, acc[c]);
  alignas(64) float lanes[16];
  _mm512_store_ps(lanes, sum);
  float all = 0;
  for (const float lane : lanes) all += lane;
  return all;
}

__attribute__((target("avx512f"))) float fma_avx512(uint64_t rounds, double* flops) {
  __m512 acc[kChains];
  for (int c = 0; c < kChains; ++c) acc[c] = _mm512_set1_ps(static_cast<float>(c));
  const __m512 a = _mm512_set1_ps(0.5f);
  for (uint64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 24
    for (int c = 0; c < kChains; ++c) acc[c] = _mm512_fmadd_ps(acc[c], a, a);
  }
  *flops = static_cast<double>(rounds) * kChains * 16 * 2;
  return sum_chains(acc);
}

__attribute__((target("avx512f,avx512bf16"))) float bf16_dot_avx512(uint64_t rounds,
                                                                    double* flops) {
  __m512 acc[kChains];
  for (int c = 0; c < kChains; ++c) acc[c] = _mm512_set1_ps(static_cast<float>(c));
  const auto a = (__m512bh)_mm512_set1_epi32(0x3f003f00);  // 0.5, twice
  for (uint64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 24
    for (int c = 0; c < kChains; ++c) acc[c] = _mm512_dpbf16_ps(acc[c], a, a);
  }
  *flops = static_cast<double>(rounds) * kChains * 16 * 4;
  return sum_chains(acc);
}

__attribute__((target("avx2,fma"))) float fma_avx2(uint64_t rounds, double* flops) {
  __m256 acc[12];
  for (int c = 0; c < 12; ++c) acc[c] = _mm256_set1_ps(static_cast<float>(c));
  const __m256 a = _mm256_set1_ps(0.5f);
  for (uint64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
    for (int c = 0; c < 12; ++c) acc[c] = _mm256_fmadd_ps(acc[c], a, a);
  }
  for (int c = 1; c < 12; ++c) acc[0] = _mm256_add_ps(acc[0], acc[c]);
  *flops = static_cast<double>(rounds) * 12 * 8 * 2;
  return _mm256_cvtss_f32(acc[0]);
}

#endif

}  // namespace

uint64_t read_all(const void* data, size_t bytes) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return read_avx512(static_cast<const char*>(data), bytes);
  if (__builtin_cpu_supports("avx2")) return read_avx2(static_cast<const char*>(data), bytes);
#endif
  return read_plain(static_cast<const uint64_t*>(data), bytes / 8);
}

float run_fma(uint64_t rounds, double* flops) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return fma_avx512(rounds, flops);
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return fma_avx2(rounds, flops);
#endif
  return fma_plain(rounds, flops);
}

bool has_bf16_dot() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512bf16") != 0;
#else
  return false;
#endif
}

float run_bf16_dot(uint64_t rounds, double* flops) {
#if defined(__x86_64__)
  if (has_bf16_dot()) return bf16_dot_avx512(rounds, flops);
#endif
  (void)rounds;
  *flops = 0;
  return 0;
}

}  // namespace bench
