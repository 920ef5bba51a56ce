// The cost of the cache's bookkeeping through the public C API, without K/V memory: what a
// scheduler pays a step.
//
//   metadata.match_32k     radix_match_prefix of a cached prompt of 32,768 tokens in blocks of 16,
//   against memcmp over the
//                          same bytes (it compares every token: less than memcmp is not possible)
//   metadata.begin_32k     the same with a lease and a row, and its free
//   metadata.commit_32k    the publication of such a prompt, for each of its blocks
//   metadata.append_256    one token for each of 256 requests, a token, block changes included,
//   against the bare stores of ids
//                          and slots
//   metadata.tables_256    the rows of 256 requests of 64 blocks when nothing changed, and when all
//   must be written
//   metadata.plan_256      a decode step's radix_plan_update when each of 256 requests got a token,
//   against the row fetch
//   metadata.plan_tree_256 the same with 4,096 tokens that all share (a tree, and a work list where
//   the backend takes one), against plan_256
//   metadata.plan_rebuild_256 one update in which one of these requests is another: the tree and
//   the list are made anew, against an update with nothing new metadata.evict_100k    radix_evict
//   of one block in a tree of 100,000 leaves, against the same in one of 1,000
//   metadata.evict_10k_ns  radix_evict of one block from everywhere, 100,000 leaves in 10,000
//   namespaces, against the same leaves in one
//   metadata.follow, metadata.run   where blocks lie: see block_runs.cpp
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "bench_util.h"
#include "block_runs.h"
#include "cache_util.h"
#include "radixattn.h"

namespace {

using bench::append;
using bench::begin;
using bench::check;
using bench::commit;
using bench::Context;
using bench::create;
using bench::desc_of;
using bench::kBlock;
using bench::prompt_of;
using bench::remember;

constexpr uint32_t kPrompt = 32768;
constexpr uint32_t kBatch = 256;

// Median over `rounds` of the time of work(), for each piece; prepare() runs before each round,
// untimed.
template <class Prepare, class Work>
double median_ns(int rounds, double pieces, Prepare prepare, Work work) {
  std::vector<double> samples;
  for (int round = -1; round < rounds; ++round) {
    prepare();
    const double start = bench::now_ns();
    work();
    if (round >= 0) samples.push_back((bench::now_ns() - start) / pieces);
  }
  return bench::median(samples);
}

void bench_prompt(bench::Report* report, int rounds) {
  Context ctx = create(2 * kPrompt / kBlock);
  const std::vector<radix_token> prompt = prompt_of(kPrompt, 1), copy = prompt;
  remember(ctx.get(), prompt);
  std::vector<radix_block> blocks(kPrompt / kBlock);
  constexpr int kCalls = 50;
  std::vector<bench::Case> cases = {
      {"match",
       [&] {
         for (int i = 0; i < kCalls; ++i) {
           const radix_request_desc d = desc_of(prompt);
           radix_match m = {};
           m.struct_size = sizeof m;
           m.blocks = blocks.data();
           m.blocks_cap = static_cast<uint32_t>(blocks.size());
           check(radix_match_prefix(ctx.get(), &d, &m), "radix_match_prefix");
           if (m.cached_tokens != kPrompt) std::abort();
         }
       }},
      {"memcmp",
       [&] {
         for (int i = 0; i < kCalls; ++i) {
           const radix_token* a = prompt.data();
           bench::keep(a);
           bench::keep(std::memcmp(a, copy.data(), kPrompt * sizeof(radix_token)));
         }
       }},
      {"begin", [&] {
         for (int i = 0; i < kCalls; ++i) {
           const radix_req r = begin(ctx.get(), prompt);
           check(radix_free_request(ctx.get(), r, 0), "radix_free_request");
         }
       }}};
  bench::run_interleaved(cases, rounds);
  const double memcmp_ns = cases[1].median_ns / kCalls;
  const auto add = [&](const char* name, double ns) {
    report->add({name, ns, "ns", "memcmp of the tokens", memcmp_ns, ns / memcmp_ns});
  };
  add("metadata.match_32k", cases[0].median_ns / kCalls);
  add("metadata.begin_32k", cases[2].median_ns / kCalls);
}

void bench_commit(bench::Report* report, int rounds) {
  Context ctx = create(2 * kPrompt / kBlock);
  const std::vector<radix_token> prompt = prompt_of(kPrompt, 2);
  std::vector<radix_token> copy(kPrompt);
  std::vector<int64_t> slots(kPrompt);
  radix_req r = 0;
  const double ns = median_ns(
      rounds, double{kPrompt} / kBlock,
      [&] {
        if (r != 0)
          check(radix_free_request(ctx.get(), r, RADIX_FREE_DISCARD), "radix_free_request");
        r = begin(ctx.get(), prompt);
        append(ctx.get(), {{r, prompt.data(), kPrompt, 0}}, &slots);
      },
      [&] { commit(ctx.get(), r, kPrompt); });
  const double copy_ns = median_ns(
      rounds, double{kPrompt} / kBlock, [] {},
      [&] {
        std::memcpy(copy.data(), prompt.data(), kPrompt * sizeof(radix_token));
        bench::keep(copy[7]);
      });
  report->add(
      {"metadata.commit_32k", ns, "ns/block", "memcpy of the tokens", copy_ns, ns / copy_ns});
}

struct Batch {
  Context ctx;
  std::vector<radix_req> reqs;
  std::vector<radix_append> items;
  std::vector<int64_t> slots;
  std::vector<radix_token> ids;
};

// num requests of `length` tokens that share the first `shared` of them.
Batch make_batch(uint32_t length, uint32_t room, uint32_t shared = 0, uint32_t num = kBatch) {
  Batch b;
  b.ctx = create(num * ((length + room) / kBlock + 1) + shared / kBlock);
  b.ids = prompt_of(num, 3);
  b.slots.resize(length > num ? length : num);
  const std::vector<radix_token> prefix = prompt_of(shared, 99);
  if (shared > 0) remember(b.ctx.get(), prefix);
  for (uint32_t i = 0; i < num; ++i) {
    std::vector<radix_token> prompt = prompt_of(length, 100 + i);
    std::copy(prefix.begin(), prefix.end(), prompt.begin());
    b.reqs.push_back(begin(b.ctx.get(), prompt));
    append(b.ctx.get(), {{b.reqs[i], prompt.data() + shared, length - shared, 0}}, &b.slots);
    b.items.push_back({b.reqs[i], &b.ids[i], 1, 0});
  }
  return b;
}

void bench_append(bench::Report* report, int rounds) {
  constexpr uint32_t kLength = 1000, kSteps = 320;
  Batch b = make_batch(kLength, kSteps);
  const double ns = median_ns(
      rounds, double{kSteps} * kBatch,
      [&] {
        for (const radix_req r : b.reqs)
          check(radix_truncate(b.ctx.get(), r, kLength), "radix_truncate");
      },
      [&] {
        for (uint32_t step = 0; step < kSteps; ++step) append(b.ctx.get(), b.items, &b.slots);
      });
  constexpr uint32_t kStride = 1040;  // not a power of two: rows do not fall on one cache set
  std::vector<radix_token> tokens(size_t{kBatch} * kStride);
  uint32_t at = 0;
  const double stores = median_ns(
      rounds, double{kSteps} * kBatch, [&] { at = 0; },
      [&] {
        for (uint32_t step = 0; step < kSteps; ++step, ++at) {
          for (uint32_t i = 0; i < kBatch; ++i) {
            tokens[size_t{i} * kStride + at] = b.ids[i];
            b.slots[i] = int64_t{i} * kStride + at;
          }
          bench::keep(b.slots[0]);
        }
      });
  report->add(
      {"metadata.append_256", ns, "ns/token", "bare stores of id and slot", stores, ns / stores});
}

void bench_tables(bench::Report* report, int rounds) {
  constexpr uint32_t kRow = 64;
  const Batch b = make_batch(kRow * kBlock, 0);
  std::vector<int32_t> tables(size_t{kBatch} * kRow), lens(kBatch), copy(tables.size());
  std::vector<uint64_t> versions(kBatch);
  const auto get = [&] {
    check(radix_get_block_tables(b.ctx.get(), b.reqs.data(), kBatch, tables.data(), kRow,
                                 lens.data(), versions.data()),
          "radix_get_block_tables");
  };
  get();
  std::vector<bench::Case> cases = {{"current", get},
                                    {"written",
                                     [&] {
                                       std::fill(versions.begin(), versions.end(), 0);
                                       get();
                                     }},
                                    {"memcpy", [&] {
                                       std::memcpy(copy.data(), tables.data(),
                                                   tables.size() * sizeof(int32_t));
                                       bench::keep(copy[1]);
                                     }}};
  bench::run_interleaved(cases, rounds * 20);
  const double reference = cases[2].median_ns;
  report->add({"metadata.tables_256.current", cases[0].median_ns, "ns", "memcpy of the tables",
               reference, cases[0].median_ns / reference});
  report->add({"metadata.tables_256.written", cases[1].median_ns, "ns", "memcpy of the tables",
               reference, cases[1].median_ns / reference});
}

struct PlanDeleter {
  void operator()(radix_plan* p) const { radix_plan_destroy(&p); }
};

class Plan {
 public:
  Plan(radix_ctx* ctx, uint32_t max_context_len) {
    radix_plan_config c = {};
    c.struct_size = sizeof c;
    c.max_seqs = kBatch;
    c.max_context_len = max_context_len;
    c.num_q_heads = 8;
    radix_plan* made = nullptr;
    check(radix_plan_create(ctx, &c, &made), "radix_plan_create");
    plan_.reset(made);
  }
  void update(const radix_req* reqs) {
    radix_plan_desc d = {};
    d.struct_size = sizeof d;
    d.num_seqs = kBatch;
    d.reqs = reqs;
    check(radix_plan_update(plan_.get(), &d, nullptr), "radix_plan_update");
  }

 private:
  std::unique_ptr<radix_plan, PlanDeleter> plan_;
};

struct StepTimes {
  double plan_ns, fetch_ns;  // a request
};

// Decode steps of kBatch requests: one more token each, then the plan. And the row fetch of the
// same step, which writes no slots and positions.
StepTimes time_steps(int rounds, uint32_t length, uint32_t shared) {
  constexpr uint32_t kSteps = 64;
  const uint32_t row = (length + kSteps) / kBlock + 1;
  Batch b = make_batch(length, kSteps, shared);
  Plan plan(b.ctx.get(), row * kBlock);
  std::vector<int32_t> tables(size_t{kBatch} * row), lens(kBatch);
  std::vector<uint64_t> versions(kBatch);
  const auto fetch = [&] {
    check(radix_get_block_tables(b.ctx.get(), b.reqs.data(), kBatch, tables.data(), row,
                                 lens.data(), versions.data()),
          "radix_get_block_tables");
  };
  std::vector<double> of_plan, of_fetch;
  for (int round = 0; round < rounds; ++round) {
    for (const radix_req r : b.reqs) check(radix_truncate(b.ctx.get(), r, length), "truncate");
    plan.update(b.reqs.data());
    fetch();
    double plan_ns = 0, fetch_ns = 0;
    for (uint32_t step = 0; step < kSteps; ++step) {
      append(b.ctx.get(), b.items, &b.slots);
      const double begin = bench::now_ns();
      plan.update(b.reqs.data());
      const double middle = bench::now_ns();
      fetch();
      plan_ns += middle - begin;
      fetch_ns += bench::now_ns() - middle;
    }
    of_plan.push_back(plan_ns / (kSteps * kBatch));
    of_fetch.push_back(fetch_ns / (kSteps * kBatch));
  }
  return {bench::median(of_plan), bench::median(of_fetch)};
}

// Updates in which one request of kBatch is another than before.
void bench_rebuild(bench::Report* report, int rounds) {
  constexpr uint32_t kShared = 4096, kLength = kShared + 400;
  const Batch b = make_batch(kLength, 0, kShared, kBatch + 1);
  Plan plan(b.ctx.get(), kLength);
  std::vector<radix_req> reqs(b.reqs.begin(), b.reqs.begin() + kBatch);
  uint32_t turn = 0;
  std::vector<bench::Case> cases = {{"rebuild",
                                     [&] {
                                       reqs[100] = b.reqs[++turn % 2 == 0 ? 100 : kBatch];
                                       plan.update(reqs.data());
                                     }},
                                    {"still", [&] { plan.update(reqs.data()); }}};
  bench::run_interleaved(cases, rounds * 20);
  report->add({"metadata.plan_rebuild_256", cases[0].median_ns, "ns", "an update with nothing new",
               cases[1].median_ns, cases[0].median_ns / cases[1].median_ns});
}

void bench_plan(bench::Report* report, int rounds) {
  const StepTimes alone = time_steps(rounds, 2000, 0);
  report->add({"metadata.plan_256", alone.plan_ns, "ns/request",
               "get_block_tables of the same steps", alone.fetch_ns,
               alone.plan_ns / alone.fetch_ns});
  const StepTimes tree = time_steps(rounds, 4096 + 400, 4096);
  report->add({"metadata.plan_tree_256", tree.plan_ns, "ns/request", "plan_256: nothing shared",
               alone.plan_ns, tree.plan_ns / alone.plan_ns});
  bench_rebuild(report, rounds);
}

// A shared block, then one block that nobody else has: `leaves` leaves, dealt to `namespaces`
// namespaces (0: the default one) in turn.
class Forest {
 public:
  explicit Forest(uint32_t leaves, uint32_t namespaces = 0)
      : ctx_(create(leaves + namespaces + 64, namespaces)), leaves_(leaves) {
    for (uint32_t i = 0; i < namespaces; ++i) {
      const std::string name = std::to_string(i);
      namespaces_.push_back(0);
      check(radix_ns_create(ctx_.get(), name.data(), name.size(), 0, &namespaces_.back()),
            "radix_ns_create");
    }
    if (namespaces == 0) namespaces_.push_back(0);
    refill(leaves);
  }
  void refill(uint32_t count) {
    std::vector<radix_token> t(2 * kBlock, 7);
    for (uint32_t i = 0; i < count; ++i) {
      t[kBlock] = static_cast<radix_token>(next_++);
      remember(ctx_.get(), t, namespaces_[next_ % namespaces_.size()]);
    }
  }
  void evict(uint32_t calls) {
    for (uint32_t i = 0; i < calls; ++i) {
      uint32_t freed = 0;
      check(radix_evict(ctx_.get(), RADIX_NS_ALL, 1, &freed), "radix_evict");
      if (freed != 1) std::abort();
    }
  }
  uint32_t leaves() const { return leaves_; }

 private:
  Context ctx_;
  uint32_t leaves_;
  std::vector<radix_ns> namespaces_;
  uint32_t next_ = 0;
};

struct Pair {
  double a_ns, b_ns;
};

// An evict of one block from everywhere in forest a and in forest b, in turn.
Pair evict_in_turn(Forest* a, Forest* b, int rounds) {
  constexpr uint32_t kCalls = 500;
  std::vector<double> of_a, of_b;
  const auto timed = [&](Forest* forest, std::vector<double>* samples) {
    const double start = bench::now_ns();
    forest->evict(kCalls);
    samples->push_back((bench::now_ns() - start) / kCalls);
    forest->refill(kCalls);
  };
  for (int round = 0; round < rounds; ++round) {
    timed(a, &of_a);
    timed(b, &of_b);
  }
  return {bench::median(of_a), bench::median(of_b)};
}

void bench_evict(bench::Report* report, int rounds) {
  Forest many(100000);
  {
    Forest few(1000);
    const Pair ns = evict_in_turn(&many, &few, rounds);
    report->add({"metadata.evict_100k", ns.a_ns, "ns/call", "the same with 1,000 leaves", ns.b_ns,
                 ns.a_ns / ns.b_ns});
  }
  Forest spread(100000, 10000);
  const Pair ns = evict_in_turn(&spread, &many, rounds);
  report->add({"metadata.evict_10k_ns", ns.a_ns, "ns/call", "the same in one namespace", ns.b_ns,
               ns.a_ns / ns.b_ns});
}

}  // namespace

int main(int argc, char** argv) {
  const bench::Options options = bench::parse_options(argc, argv);
  const int rounds = options.quick ? 7 : 41;
  bench::Report report;
  bench_prompt(&report, rounds);
  bench_commit(&report, rounds);
  bench_append(&report, rounds);
  bench_tables(&report, rounds);
  bench_plan(&report, rounds);
  bench_evict(&report, rounds);
  bench::add_block_runs(&report, options.quick);
  return report.finish(options);
}
