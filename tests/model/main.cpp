// Random sequences of calls against the oracle.
//
//   model_test [--seed S] [--ops N] [--per-context N] [--policy lru|lfu|fifo|none] [--flags F]
//   [--coverage] [--trace]
//              [--keep-going] [--no-shrink]
//
// A run is a number of contexts, each with a shape and a sequence of calls drawn from seed S, S +
// 1, ... A failure prints the seed that gave it and, after shrinking, the calls of the shortest
// failing sequence found. --coverage makes a run fail when an event or a status that it should have
// met never occurred.
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <optional>

#include "world.h"

namespace radixattn::model {
namespace {

struct Options {
  uint64_t seed = 1, ops = 20000, per_context = 400;
  std::optional<int32_t> policy;
  std::optional<uint32_t> flags;
  bool coverage = false, trace = false, keep_going = false, shrink = true;
};

struct Weight {
  Kind kind;
  uint32_t weight;
};

constexpr Weight kWeights[] = {
    {Kind::kBegin, 22},    {Kind::kAppend, 22},    {Kind::kAppendOne, 10},  {Kind::kSetTokens, 4},
    {Kind::kCommit, 18},   {Kind::kTables, 3},     {Kind::kFork, 5},        {Kind::kTruncate, 6},
    {Kind::kFree, 16},     {Kind::kEvict, 3},      {Kind::kMatch, 4},       {Kind::kPin, 2},
    {Kind::kUnpin, 2},     {Kind::kClear, 1},      {Kind::kNsCreate, 1},    {Kind::kStale, 1},
    {Kind::kNsDestroy, 1}, {Kind::kEpochBegin, 3}, {Kind::kEpochRetire, 3}, {Kind::kFindShared, 2},
    {Kind::kGraph, 1},     {Kind::kMisuse, 1},     {Kind::kFlush, 2},
};

Shape shape_of(uint64_t seed, const Options& o) {
  constexpr uint32_t kBlockSizes[] = {1, 2, 3, 16, 17, 256};
  constexpr int32_t kPolicies[] = {RADIX_EVICT_LRU, RADIX_EVICT_LFU, RADIX_EVICT_FIFO,
                                   RADIX_EVICT_NONE};
  Rng rng(seed * 31 + 17);
  Shape s;
  const uint32_t b = rng.below(100);  // small blocks most often: they meet edges most often
  s.block_size = kBlockSizes[b < 25 ? 0 : b < 50 ? 1 : b < 72 ? 2 : b < 87 ? 3 : b < 97 ? 4 : 5];
  s.num_blocks = rng.percent(50) ? rng.range(3, 12) : rng.range(10, 60);
  if (s.block_size == 256) s.num_blocks = rng.range(3, 10);
  s.max_requests = rng.range(2, 8);
  s.max_row = rng.percent(60) ? s.num_blocks : rng.range(1, s.num_blocks);
  s.max_pins = rng.range(1, 3);
  s.max_namespaces = rng.range(1, 3);
  s.policy = kPolicies[rng.below(4)];
  s.flags = (rng.percent(30) ? RADIX_CTX_EXTERNAL_SYNC : 0) |
            (rng.percent(50) ? RADIX_CTX_PREALLOCATE : 0) |
            (rng.percent(50) ? RADIX_CTX_DEFER_FREE : 0);
  s.prompts = rng.below(6);
  if (o.policy) s.policy = *o.policy;
  if (o.flags) s.flags = *o.flags;
  s.failing_memory = (s.flags & RADIX_CTX_PREALLOCATE) == 0 && rng.percent(50);
  return s;
}

std::vector<Op> sequence_of(uint64_t seed, uint64_t n) {
  Rng rng(seed);
  std::vector<uint32_t> weights;
  uint32_t total = 0;
  for (const Weight& w : kWeights) {  // each sequence leans its own way
    weights.push_back(w.weight * rng.range(1, 4));
    total += weights.back();
  }
  std::vector<Op> ops;
  for (uint64_t i = 0; i < n; ++i) {
    uint32_t x = rng.below(total), k = 0;
    while (x >= weights[k]) x -= weights[k++];
    ops.push_back({kWeights[k].kind, rng.next()});
  }
  return ops;
}

// The message of the first failure, empty when there is none; *at: the step it came at.
std::string run(const Shape& s, const std::vector<Op>& ops,
                std::map<std::string, uint64_t>* coverage, bool trace, size_t* at) {
  size_t i = 0;
  try {
    World world(s, coverage, trace);
    for (; i < ops.size(); ++i) world.step(ops[i]);
  } catch (const Failure& f) {
    *at = i;
    return f.what();
  }
  return {};
}

// Where a failure was found: shrinking keeps to the same place, so that it does not wander off to
// another one.
std::string place_of(const std::string& message) { return message.substr(0, message.find(": ")); }

// Removes ever smaller pieces of the sequence while the rest still fails at the same check.
std::vector<Op> shrink(const Shape& s, std::vector<Op> ops, const std::string& message) {
  std::map<std::string, uint64_t> ignored;
  uint32_t budget = 3000;
  size_t at = 0;
  for (size_t piece = ops.size() / 2; piece > 0 && budget > 0;) {
    bool removed = false;
    for (size_t from = 0; from < ops.size() && budget > 0; --budget) {
      std::vector<Op> less(ops.begin(), ops.begin() + static_cast<int64_t>(from));
      const size_t to = std::min(ops.size(), from + piece);
      less.insert(less.end(), ops.begin() + static_cast<int64_t>(to), ops.end());
      const std::string m = run(s, less, &ignored, false, &at);
      if (!m.empty() && place_of(m) == place_of(message)) {
        less.resize(std::min(less.size(), at + 1));
        ops = less;
        removed = true;
      } else {
        from += piece;
      }
    }
    if (!removed) piece /= 2;
  }
  return ops;
}

void report(const Options& o, uint64_t seed, const Shape& s, std::vector<Op> ops, size_t at,
            const std::string& message) {
  std::cerr << "\nFAILED seed " << seed << " step " << at << " policy " << s.policy << " flags "
            << s.flags << " block_size " << s.block_size << " blocks " << s.num_blocks
            << " max_requests " << s.max_requests << " max_row " << s.max_row
            << (s.failing_memory ? " failing memory" : "") << "\n  " << message
            << "\n  replay: model_test --seed " << seed << " --ops " << o.per_context
            << " --per-context " << o.per_context << " --policy "
            << std::vector<const char*>{"lru", "lfu", "fifo", "none"}[size_t(s.policy)]
            << (o.flags ? " --flags " + std::to_string(*o.flags) : std::string()) << '\n';
  ops.resize(at + (at < ops.size() ? 1 : 0));
  if (o.shrink) ops = shrink(s, ops, message);
  std::cerr << "  " << ops.size() << " calls after shrinking:\n";
  std::map<std::string, uint64_t> ignored;
  size_t where = 0;
  std::cerr << "  " << run(s, ops, &ignored, true, &where) << std::endl;
}

// What a run over all shapes must have met, or it has not tested what it says.
constexpr const char* kExpected[] = {"begin.OK",
                                     "begin.FULL",
                                     "append.OK",
                                     "append.NO_BLOCKS",
                                     "append.QUOTA",
                                     "append.BUFFER",
                                     "append.STATE",
                                     "append.FULL",
                                     "commit.OK",
                                     "commit.INVALID",
                                     "commit.BUFFER",
                                     "commit.STATE",
                                     "fork.OK",
                                     "fork.STATE",
                                     "fork.FULL",
                                     "truncate.OK",
                                     "truncate.INVALID",
                                     "free.OK",
                                     "set_tokens.OK",
                                     "set_tokens.STATE",
                                     "set_tokens.INVALID",
                                     "tables.OK",
                                     "tables.BUFFER",
                                     "pin.OK",
                                     "pin.FULL",
                                     "clear.OK",
                                     "clear.BUSY",
                                     "ns_create.OK",
                                     "ns_create.STATE",
                                     "ns_create.FULL",
                                     "ns_destroy.OK",
                                     "ns_destroy.BUSY",
                                     "epoch_begin.OK",
                                     "epoch_begin.STATE",
                                     "epoch_retire.OK",
                                     "epoch_retire.INVALID",
                                     "find_shared.OK",
                                     "sharing_graph.CALLBACK",
                                     "event.hit",
                                     "event.match_cut",
                                     "event.borrowed",
                                     "event.promise_broken",
                                     "event.copy_on_write",
                                     "event.evicted",
                                     "event.duplicate_kept",
                                     "event.duplicate_remapped",
                                     "event.duplicate_remapped_later",
                                     "event.committed_along",
                                     "event.truncate_committed",
                                     "event.discarded",
                                     "event.fence_passed",
                                     "event.row_current",
                                     "event.pinned",
                                     "event.stale_request",
                                     "event.stale_namespace",
                                     "event.misuse",
                                     "event.nomem"};

int check_coverage(const std::map<std::string, uint64_t>& coverage) {
  int missing = 0;
  for (const char* what : kExpected) {
    if (coverage.count(what) != 0) continue;
    std::cerr << "never occurred: " << what << '\n';
    ++missing;
  }
  return missing;
}

int run_all(const Options& o) {
  std::map<std::string, uint64_t> coverage;
  int failures = 0;
  uint64_t done = 0;
  for (uint64_t seed = o.seed; done < o.ops; ++seed) {
    const Shape s = shape_of(seed, o);
    const std::vector<Op> ops = sequence_of(seed, std::min(o.per_context, o.ops - done));
    size_t at = 0;
    const std::string message = run(s, ops, &coverage, o.trace, &at);
    done += ops.size();
    if (message.empty()) continue;
    report(o, seed, s, ops, at, message);
    ++failures;
    if (!o.keep_going) return 1;
  }
  for (const auto& [what, n] : coverage) std::cout << "  " << what << ' ' << n << '\n';
  std::cout << done << " calls from seed " << o.seed << ", " << failures << " failures\n";
  if (o.coverage) failures += check_coverage(coverage);
  return failures == 0 ? 0 : 1;
}

std::optional<Options> parse(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; ++i) {
    const std::string a = argv[i];
    const bool last = i + 1 == argc;
    if (a == "--coverage")
      o.coverage = true;
    else if (a == "--trace")
      o.trace = true;
    else if (a == "--keep-going")
      o.keep_going = true;
    else if (a == "--no-shrink")
      o.shrink = false;
    else if (last)
      return std::nullopt;
    else if (a == "--seed")
      o.seed = std::strtoull(argv[++i], nullptr, 10);
    else if (a == "--ops")
      o.ops = std::strtoull(argv[++i], nullptr, 10);
    else if (a == "--per-context")
      o.per_context = std::strtoull(argv[++i], nullptr, 10);
    else if (a == "--flags")
      o.flags = static_cast<uint32_t>(std::strtoul(argv[++i], nullptr, 10));
    else if (a == "--policy") {
      const std::string p = argv[++i];
      o.policy = p == "lru"    ? RADIX_EVICT_LRU
                 : p == "lfu"  ? RADIX_EVICT_LFU
                 : p == "fifo" ? RADIX_EVICT_FIFO
                               : RADIX_EVICT_NONE;
    } else
      return std::nullopt;
  }
  return o;
}

}  // namespace
}  // namespace radixattn::model

int main(int argc, char** argv) {
  const auto options = radixattn::model::parse(argc, argv);
  if (!options) {
    std::cerr << "model_test [--seed S] [--ops N] [--per-context N] [--policy lru|lfu|fifo|none] "
                 "[--flags F]\n"
                 "           [--coverage] [--trace] [--keep-going] [--no-shrink]\n";
    return 2;
  }
  std::cout << "seed " << options->seed << ", " << options->ops << " calls" << std::endl;
  return radixattn::model::run_all(*options);
}
