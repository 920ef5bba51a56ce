// Sampling on the CPU through the public C API, one thread, against what programs write first:
// softmax in f32 and std::sort (or std::partial_sort) of the candidates.
//
//   sampling.<setting>.<vocab>.b<rows>   microseconds a row; ratio: how many times faster
//
// Logits: peaked, like a language model's (a token of rank r has about r^-1.3 of the first one's
// probability, disturbed by a factor of up to e^0.5), in random order; for top_p and all of them
// also flat: a bell with standard deviation 1, where many tokens matter.
#include <cmath>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "bench_util.h"
#include "context.h"
#include "radixattn.h"

namespace {

using bench::check;
using bench::Context;

Context create() {
  radix_config config = {};
  config.struct_size = sizeof config;
  config.abi = RADIXATTN_ABI;
  config.flags = RADIX_CTX_METADATA_ONLY;
  config.num_blocks = 1;
  config.block_size = 16;
  radix_ctx* ctx = nullptr;
  check(radix_ctx_create(&config, &ctx), "radix_ctx_create");
  return Context(ctx);
}

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 2 + 1) {}
  double uniform() {  // splitmix64
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-53;
  }
  uint32_t below(uint32_t n) { return static_cast<uint32_t>(uniform() * n); }

 private:
  uint64_t state_;
};

std::vector<float> peaked_logits(uint32_t rows, uint32_t vocab) {
  std::vector<float> x(size_t{rows} * vocab);
  Random random(vocab);
  for (uint32_t row = 0; row < rows; ++row) {
    float* at = x.data() + size_t{row} * vocab;
    for (uint32_t t = 0; t < vocab; ++t) {
      at[t] = static_cast<float>(12 - 1.3 * std::log(t + 1.) + random.uniform() - 0.5);
    }
    for (uint32_t t = vocab - 1; t > 0; --t) std::swap(at[t], at[random.below(t + 1)]);
  }
  return x;
}

std::vector<float> flat_logits(uint32_t rows, uint32_t vocab) {
  std::vector<float> x(size_t{rows} * vocab);
  Random random(vocab + 1);
  for (float& v : x) {
    double sum = 0;
    for (int i = 0; i < 12; ++i) sum += random.uniform();
    v = static_cast<float>(sum - 6);
  }
  return x;
}

struct Setting {
  const char* name;
  float temperature = 1.f;
  int32_t top_k = 0;
  float top_p = 0.f, min_p = 0.f, typical_p = 0.f;
  bool flat = false;
};

// ---- the plain one ------------------------------------------------------------------------------

struct Candidate {
  float p;
  int32_t id;
};

class Plain {
 public:
  int32_t sample(const float* x, uint32_t vocab, const Setting& s, double random) {
    if (s.temperature == 0.f) return static_cast<int32_t>(std::max_element(x, x + vocab) - x);
    soften(x, vocab, s.temperature);
    const auto likelier = [](const Candidate& a, const Candidate& b) { return a.p > b.p; };
    if (s.top_k > 0) {
      std::partial_sort(list_.begin(), list_.begin() + s.top_k, list_.end(), likelier);
      list_.resize(static_cast<size_t>(s.top_k));
    } else if (s.top_p > 0.f) {
      std::sort(list_.begin(), list_.end(), likelier);
    }
    if (s.top_p > 0.f) cut_at(s.top_p);
    if (s.min_p > 0.f) {
      const float least = s.min_p * list_[0].p;
      while (list_.back().p < least) list_.pop_back();
    }
    if (s.typical_p > 0.f) keep_typical(s.typical_p);
    return draw(random);
  }

 private:
  void soften(const float* x, uint32_t vocab, float temperature) {
    list_.resize(vocab);
    const float max = *std::max_element(x, x + vocab);
    float sum = 0.f;
    for (uint32_t t = 0; t < vocab; ++t) {
      list_[t] = {std::exp((x[t] - max) / temperature), static_cast<int32_t>(t)};
      sum += list_[t].p;
    }
    for (Candidate& c : list_) c.p /= sum;
  }
  float total() const {
    return std::accumulate(list_.begin(), list_.end(), 0.f,
                           [](float sum, const Candidate& c) { return sum + c.p; });
  }
  void cut_at(float share) {
    const float target = share * total();
    float sum = 0.f;
    size_t n = 0;
    while (n < list_.size() && sum < target) sum += list_[n++].p;
    list_.resize(n);
  }
  void keep_typical(float share) {
    const float sum = total();
    float entropy = 0.f;
    for (const Candidate& c : list_) entropy -= c.p / sum * std::log(c.p / sum);
    std::sort(list_.begin(), list_.end(), [&](const Candidate& a, const Candidate& b) {
      return std::abs(-std::log(a.p / sum) - entropy) < std::abs(-std::log(b.p / sum) - entropy);
    });
    cut_at(share);
  }
  int32_t draw(double random) const {
    float left = static_cast<float>(random) * total();
    for (const Candidate& c : list_) {
      if (left < c.p) return c.id;
      left -= c.p;
    }
    return list_.back().id;
  }

  std::vector<Candidate> list_;
};

// ---- ours ---------------------------------------------------------------------------------------

struct Batch {
  Batch(radix_ctx* context, const std::vector<float>& logits, uint32_t num_rows, uint32_t vocab,
        const Setting& s)
      : ctx(context),
        rows(num_rows),
        temperature(rows, s.temperature),
        top_p(rows, s.top_p),
        min_p(rows, s.min_p),
        typical_p(rows, s.typical_p),
        top_k(rows, s.top_k),
        positions(rows),
        tokens(rows),
        status(rows) {
    d.struct_size = sizeof d;
    d.logits.data = const_cast<float*>(logits.data());
    d.logits.dtype = RADIX_F32;
    d.logits.ndim = 2;
    d.logits.shape[0] = rows;
    d.logits.shape[1] = vocab;
    d.temperature = temperature.data();
    d.top_p = top_p.data();
    d.min_p = min_p.data();
    d.typical_p = typical_p.data();
    d.top_k = top_k.data();
    d.positions = positions.data();
    d.out_tokens = tokens.data();
    d.out_status = status.data();
    check(radix_sample_workspace(ctx, &d, &d.workspace_size), "radix_sample_workspace");
    memory.resize(d.workspace_size + 64);
    const auto at = reinterpret_cast<uintptr_t>(memory.data());
    d.workspace = memory.data() + (64 - at % 64) % 64;
  }
  void run() {
    for (uint64_t& position : positions) ++position;
    check(radix_sample_launch(ctx, &d, nullptr), "radix_sample_launch");
  }

  radix_ctx* ctx;
  uint32_t rows;
  std::vector<float> temperature, top_p, min_p, typical_p;
  std::vector<int32_t> top_k;
  std::vector<uint64_t> positions;
  std::vector<radix_token> tokens;
  std::vector<int32_t> status;
  std::vector<char> memory;
  radix_sample d = {};
};

constexpr Setting kSettings[] = {
    {"greedy", 0.f},
    {"temperature"},
    {"top_k_50", 1.f, 50},
    {"top_p_0.9", 1.f, 0, 0.9f},
    {"all", 0.8f, 1000, 0.95f, 0.001f, 0.95f},
    {"top_p_0.9_flat", 1.f, 0, 0.9f, 0.f, 0.f, true},
    {"typical_0.9_flat", 1.f, 0, 0.f, 0.f, 0.9f, true},
};

void measure(bench::Report* report, radix_ctx* ctx, uint32_t vocab, uint32_t rows, int rounds) {
  const std::vector<float> peaked = peaked_logits(rows, vocab), flat = flat_logits(rows, vocab);
  for (const Setting& s : kSettings) {
    const std::vector<float>& logits = s.flat ? flat : peaked;
    Batch batch(ctx, logits, rows, vocab, s);
    Plain plain;
    Random random(7);
    int64_t sum = 0;
    const int calls = rows == 1 ? 8 : 1;
    std::vector<bench::Case> cases = {
        {"ours",
         [&] {
           for (int i = 0; i < calls; ++i) batch.run();
         }},
        {"plain",
         [&] {
           for (uint32_t row = 0; row < rows * static_cast<uint32_t>(calls); ++row) {
             sum += plain.sample(logits.data() + size_t{row % rows} * vocab, vocab, s,
                                 random.uniform());
           }
         }},
    };
    bench::run_interleaved(cases, rounds);
    bench::keep(sum);
    const double per_row = 1e-3 / rows / calls;
    const std::string name = "sampling." + std::string(s.name) + "." +
                             std::to_string(vocab / 1024) + "k.b" + std::to_string(rows);
    report->add({name, cases[0].median_ns * per_row, "us/row", "plain softmax and sort",
                 cases[1].median_ns * per_row, cases[1].median_ns / cases[0].median_ns});
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bench::Options options = bench::parse_options(argc, argv);
  Context ctx = create();
  bench::Report report;
  for (const uint32_t vocab : {32u * 1024, 128u * 1024, 256u * 1024}) {
    for (const uint32_t rows : {1u, 16u}) {
      if (options.quick && (vocab != 128 * 1024 || rows != 1)) continue;
      measure(&report, ctx.get(), vocab, rows, options.quick ? 5 : 9);
    }
  }
  return report.finish(options);
}
