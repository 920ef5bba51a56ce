// What every file of the model test uses: a seeded generator, and failure by exception.
//
// A sequence of calls is a vector of Op: a kind and a seed. Everything a call chooses comes from
// its own seed and from the state it meets, so any subsequence is a valid sequence: that is what
// makes shrinking simple.
#pragma once

#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>

namespace radixattn::model {

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <class... Parts>
[[noreturn]] void failed(const char* file, int line, const Parts&... parts) {
  std::ostringstream s;
  s << file << ':' << line << ": ";
  (s << ... << parts);
  throw Failure(s.str());
}

// CHECK(condition, "what was ", seen)
#define CHECK(cond, ...)                                                                   \
  do {                                                                                     \
    if (!(cond)) ::radixattn::model::failed(__FILE__, __LINE__, #cond, ": ", __VA_ARGS__); \
  } while (0)
#define CHECK_EQ(actual, expected, ...)                                                           \
  do {                                                                                            \
    const auto got_ = (actual);                                                                   \
    const auto want_ = (expected);                                                                \
    if (!(got_ == want_))                                                                         \
      ::radixattn::model::failed(__FILE__, __LINE__, #actual, " is ", got_, ", expected ", want_, \
                                 ": ", __VA_ARGS__);                                              \
  } while (0)

// SplitMix64 (Steele, Lea & Flood 2014): any seed is a good one.
inline uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

class Rng {
 public:
  explicit Rng(uint64_t seed) : state_(mix(seed)) {}
  uint64_t next() { return mix(state_++); }
  // In [0, n); n > 0.
  uint32_t below(uint64_t n) { return static_cast<uint32_t>(next() % n); }
  // In [lo, hi].
  uint32_t range(uint32_t lo, uint32_t hi) { return lo + below(uint64_t{hi} - lo + 1); }
  bool percent(uint32_t p) { return below(100) < p; }

 private:
  uint64_t state_;
};

enum class Kind : uint32_t {
  kBegin,
  kAppend,
  kAppendOne,
  kSetTokens,
  kCommit,
  kTables,
  kFork,
  kTruncate,
  kFree,
  kEvict,
  kMatch,
  kPin,
  kUnpin,
  kClear,
  kNsCreate,
  kNsDestroy,
  kEpochBegin,
  kEpochRetire,
  kFindShared,
  kGraph,
  kStale,
  kMisuse,
  kFlush,
  kCount
};

struct Op {
  Kind kind;
  uint64_t seed;
};

}  // namespace radixattn::model
