// Random numbers of the kernel tests: seeded, printed, replayable.
//
// Every random case has a seed of its own, derived from RADIX_TEST_SEED (default 1) and the case's
// number. A failing case prints it; RADIX_TEST_ONLY=<seed> runs that case alone. RADIX_TEST_CASES
// multiplies how many cases a random test runs.
#pragma once

#include <cstdint>
#include <cstdlib>

namespace radixattn::test {

class Rng {
 public:
  explicit Rng(uint64_t seed) : state_(seed) {}

  // splitmix64 (Steele, Lea & Flood 2014)
  uint64_t next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  uint32_t below(uint32_t n) { return static_cast<uint32_t>(next() % n); }
  uint32_t between(uint32_t low, uint32_t high) { return low + below(high - low + 1); }
  bool one_in(uint32_t n) { return below(n) == 0; }
  float uniform() { return static_cast<float>(next() >> 40) * 0x1p-23f - 1.f; }  // [-1, 1)

  template <class T, size_t N>
  T pick(const T (&from)[N]) {
    return from[below(N)];
  }

 private:
  uint64_t state_;
};

inline uint64_t environment(const char* name, uint64_t fallback) {
  const char* text = std::getenv(name);
  return text == nullptr ? fallback : std::strtoull(text, nullptr, 10);
}

// Calls run(seed) for `cases` seeds of the test `name`.
template <class Run>
void for_random_cases(const char* name, uint32_t cases, Run run) {
  const uint64_t only = environment("RADIX_TEST_ONLY", 0);
  if (only != 0) return run(only);
  uint64_t salt = environment("RADIX_TEST_SEED", 1);
  for (const char* c = name; *c != 0; ++c) salt = salt * 131 + static_cast<uint64_t>(*c);
  Rng seeds(salt);
  const uint64_t n = cases * environment("RADIX_TEST_CASES", 1);
  for (uint64_t i = 0; i < n; ++i) run(seeds.next() | 1);
}

}  // namespace radixattn::test
