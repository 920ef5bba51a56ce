// What the benchmarks of CPU launches share: memory, random contents, threads, tensors, and the
// limits of the machine.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "bench_util.h"
#include "context.h"
#include "cpu_probe.h"
#include "radixattn.h"

namespace bench {

struct FreeDeleter {
  void operator()(void* p) const { std::free(p); }
};
using Memory = std::unique_ptr<char, FreeDeleter>;

enum class Pages { kSmall, kHuge };

// Huge ones where the system has them: what the library asks for in its own pools.
inline Memory allocate(uint64_t bytes, Pages pages = Pages::kSmall) {
  const uint64_t align = pages == Pages::kHuge ? 2u << 20 : 64;
  Memory m(static_cast<char*>(std::aligned_alloc(align, (bytes + align - 1) / align * align)));
  if (m == nullptr) {
    std::fprintf(stderr, "no memory for %llu bytes\n", static_cast<unsigned long long>(bytes));
    std::exit(1);
  }
#if defined(MADV_HUGEPAGE)
  if (pages == Pages::kHuge) madvise(m.get(), bytes, MADV_HUGEPAGE);
#endif
  return m;
}

inline uint64_t element_bytes(int32_t dtype) { return dtype == RADIX_F32 ? 4 : 2; }

// Values in (-2, 2), from bits: sign, exponents around 1, random mantissa.
inline void fill_random(char* data, uint64_t bytes, int32_t dtype) {
  const uint64_t pattern = std::min<uint64_t>(bytes, 1u << 20);
  std::mt19937 random(7);
  for (uint64_t i = 0; i < pattern; i += element_bytes(dtype)) {
    const auto r = static_cast<uint32_t>(random());
    if (dtype == RADIX_F32) {
      const uint32_t bits = (r & 0x807fffffu) | ((124 + (r >> 24) % 4) << 23);
      std::memcpy(data + i, &bits, 4);
    } else {
      const uint32_t mantissa = dtype == RADIX_F16 ? 10 : 7;
      const uint32_t bias = dtype == RADIX_F16 ? 15 : 127;
      const uint32_t bits =
          (r & 0x8000u) | ((bias - 3 + (r >> 24) % 4) << mantissa) | (r & ((1u << mantissa) - 1));
      const auto half = static_cast<uint16_t>(bits);
      std::memcpy(data + i, &half, 2);
    }
  }
  for (uint64_t i = pattern; i < bytes; i += pattern)
    std::memcpy(data + i, data, std::min(pattern, bytes - i));
}

template <class F>
void on_threads(uint32_t threads, F run) {
  std::vector<std::thread> others;
  for (uint32_t t = 1; t < threads; ++t) others.emplace_back(run, t);
  run(0u);
  for (std::thread& t : others) t.join();
}

inline radix_tensor tensor(void* data, int32_t dtype, std::vector<int64_t> shape) {
  radix_tensor t = {};
  t.data = data;
  t.dtype = dtype;
  t.ndim = static_cast<int32_t>(shape.size());
  std::copy(shape.begin(), shape.end(), t.shape);
  return t;
}

// What a launch is compared with.
enum class Limit { kRead, kFma, kBf16Dot };
constexpr uint32_t kLimits = 3;

// The limits with 1 and 2 threads; index 0 is one thread.
struct Limits {
  double bytes = 0;  // that one read case reads
  double fma_flops[2] = {0, 0};
  double bf16_flops[2] = {0, 0};
};

inline double run_on_threads(uint32_t threads, float (*probe)(uint64_t, double*)) {
  std::vector<double> flops(threads);
  on_threads(threads, [&](uint32_t t) { keep(probe(4000000, &flops[t])); });
  double all = 0;
  for (const double f : flops) all += f;
  return all;
}

// Reads both pieces of memory, runs multiply-adds, runs bf16 dot products, each on 1 to max_threads
// threads: kLimits cases for each number of threads.
inline void add_limit_cases(const char* first, const char* second, uint64_t half_bytes,
                            uint32_t max_threads, Limits* limits, std::vector<Case>* cases) {
  limits->bytes = 2.0 * static_cast<double>(half_bytes);
  for (uint32_t threads = 1; threads <= max_threads; ++threads) {
    const auto add = [&](const char* name, std::function<void()> run) {
      cases->push_back({name, std::move(run), 0, 0, {}});
    };
    add("read", [=] {
      on_threads(threads, [=](uint32_t t) {
        const uint64_t part = half_bytes / threads / 1024 * 1024;
        keep(read_all(first + t * part, part));
        keep(read_all(second + t * part, part));
      });
    });
    add("fma", [=] { limits->fma_flops[threads - 1] = run_on_threads(threads, run_fma); });
    add("bf16 dot",
        [=] { limits->bf16_flops[threads - 1] = run_on_threads(threads, run_bf16_dot); });
  }
}

// Launches (name, work, threads, limit) whose cases follow those of the limits, each against its
// limit with as many threads.
template <class Launch>
void report(const std::vector<std::unique_ptr<Launch>>& launches, const std::vector<Case>& cases,
            const Limits& limits, uint32_t max_threads, Report* out) {
  for (size_t i = 0; i < launches.size(); ++i) {
    const Launch& l = *launches[i];
    const Case* limit = &cases[kLimits * (l.threads - 1)];
    const double rate = l.work / cases[kLimits * max_threads + i].median_ns;  // per ns: G per s
    const std::string with =
        " of " + std::to_string(l.threads) + (l.threads == 1 ? " thread" : " threads");
    if (l.limit == Limit::kRead) {
      const double read = limits.bytes / limit[0].median_ns;
      out->add({l.name, rate, "GB/s", "read bandwidth" + with, read, rate / read});
    } else if (l.limit == Limit::kFma) {
      const double fma = limits.fma_flops[l.threads - 1] / limit[1].median_ns;
      out->add({l.name, rate, "GFLOP/s", "f32 FMA rate" + with, fma, rate / fma});
    } else {
      const double dot = limits.bf16_flops[l.threads - 1] / limit[2].median_ns;
      out->add({l.name, rate, "GFLOP/s", "bf16 dot rate" + with, dot, rate / dot});
    }
  }
}

}  // namespace bench
