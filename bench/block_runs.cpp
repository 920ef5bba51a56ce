// Where the blocks of requests lie in the pool. Attention reads physically contiguous blocks
// faster, so what counts is how many blocks of a row follow the one before them physically. No
// times here: the same calls give the same blocks, on every machine.
//
//   metadata.follow.W    the share of blocks that lie behind their predecessor in the row, against
//                        1, which is one run a request
//   metadata.run.W       mean blocks of a contiguous run, against the mean blocks of a request
//
// Workloads W, block size 16:
//   decode_64    64 requests with prompts of 20 to 83 tokens decode in turn to 1,024 tokens. The
//                pool has twice the blocks that they need in the end. All rows at the end
//   mix_70       continuous batching: up to 64 requests in 8,192 blocks, prompts of 10 to 4,000
//                tokens (each third one continues a conversation that has ended) in chunks of 512,
//                50 to 1,000 tokens decoded; what has ended stays cached, and before each step
//                enough is evicted that the pool is 70% full. All rows, every 16 steps
//   mix_95       the same, 95% full
//   mix_full     the same, nothing evicted before an append asks for it
//   fan_out      64 requests share 4,096 tokens and decode 256 more. Their own blocks at the end
#include "block_runs.h"

#include <cmath>

#include "cache_util.h"

namespace bench {
namespace {

class Random {
 public:
  explicit Random(uint64_t seed) : x_(seed) {}
  // [0, 1)
  double unit() {
    x_ = x_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<double>(x_ >> 33) / 2147483648.0;
  }
  uint32_t below(uint32_t n) { return static_cast<uint32_t>(unit() * n); }
  uint32_t log_between(double low, double high) {
    return static_cast<uint32_t>(low * std::pow(high / low, unit()));
  }

 private:
  uint64_t x_;
};

struct Tally {
  uint64_t rows = 0, blocks = 0, runs = 0;

  // Entries [from, end) of a request's row.
  void add(radix_ctx* ctx, radix_req r, uint32_t from = 0) {
    radix_request_info info = {};
    info.struct_size = sizeof info;
    check(radix_get_request(ctx, r, &info), "radix_get_request");
    row_.resize(info.num_blocks);
    if (row_.size() <= from) return;
    check(radix_get_block_tables(ctx, &r, 1, row_.data(), static_cast<int64_t>(row_.size()),
                                 nullptr, nullptr),
          "radix_get_block_tables");
    ++rows;
    blocks += row_.size() - from;
    ++runs;
    for (size_t i = from + 1; i < row_.size(); ++i) runs += row_[i] != row_[i - 1] + 1 ? 1 : 0;
  }
  void report(Report* report, const std::string& workload) const {
    const double follow = static_cast<double>(blocks - runs) / static_cast<double>(blocks - rows);
    const double run = static_cast<double>(blocks) / static_cast<double>(runs);
    const double row = static_cast<double>(blocks) / static_cast<double>(rows);
    report->add({"metadata.follow." + workload, follow, "share", "one run a request", 1.0, follow});
    report->add({"metadata.run." + workload, run, "blocks", "blocks of a request", row, run / row});
  }

 private:
  std::vector<radix_block> row_;
};

Tally decode_64() {
  constexpr uint32_t kNum = 64, kLength = 1024;
  const Context ctx = create(2 * kNum * kLength / kBlock);
  std::vector<int64_t> slots(kLength);
  std::vector<radix_req> reqs;
  std::vector<uint32_t> lengths;
  for (uint32_t i = 0; i < kNum; ++i) {
    const std::vector<radix_token> prompt = prompt_of(20 + i * 37 % 64, i);
    reqs.push_back(begin(ctx.get(), prompt));
    lengths.push_back(static_cast<uint32_t>(prompt.size()));
    append(ctx.get(), {{reqs[i], prompt.data(), lengths[i], 0}}, &slots);
  }
  const radix_token token = 1;
  for (uint32_t step = 0; step < kLength; ++step) {
    std::vector<radix_append> items;
    for (uint32_t i = 0; i < kNum; ++i) {
      if (lengths[i] == kLength) continue;
      items.push_back({reqs[i], &token, 1, 0});
      ++lengths[i];
    }
    append(ctx.get(), items, &slots);
  }
  Tally tally;
  for (const radix_req r : reqs) tally.add(ctx.get(), r);
  return tally;
}

Tally fan_out() {
  constexpr uint32_t kNum = 64, kShared = 4096, kDecoded = 256;
  const Context ctx = create(2 * (kShared + kNum * (kDecoded + kBlock)) / kBlock);
  std::vector<int64_t> slots(kNum);
  std::vector<radix_token> prompt = prompt_of(kShared, 1);
  remember(ctx.get(), prompt);
  prompt.push_back(0);
  std::vector<radix_append> items;
  const std::vector<radix_token> own = prompt_of(kNum, 2);
  for (uint32_t i = 0; i < kNum; ++i) {
    items.push_back({begin(ctx.get(), prompt), &own[i], 1, 0});
  }
  for (uint32_t step = 0; step < kDecoded; ++step) append(ctx.get(), items, &slots);
  Tally tally;
  for (const radix_append& item : items) tally.add(ctx.get(), item.req, kShared / kBlock);
  return tally;
}

// A server in small: admits, prefills in chunks, decodes everybody one token a step.
class Mix {
 public:
  explicit Mix(double full) : ctx_(create(kPool)), keep_free_(num_free_of(full)), slots_(4096) {}

  Tally run(uint32_t warm_up, uint32_t steps) {
    Tally tally;
    for (uint32_t i = 0; i < warm_up + steps; ++i) {
      step();
      if (i < warm_up || i % 16 != 0) continue;
      for (const Live& l : live_) tally.add(ctx_.get(), l.req);
    }
    return tally;
  }

 private:
  static constexpr uint32_t kPool = 8192, kMaxLive = 64, kChunk = 512;

  struct Live {
    radix_req req;
    std::vector<radix_token> tokens;  // the prompt, and all that will be decoded
    uint32_t prompt, length;          // of the prompt; so far
  };

  static uint32_t num_free_of(double full) { return static_cast<uint32_t>(kPool * (1 - full)); }

  void admit() {
    const uint32_t prompt = random_.log_between(10, 4000);
    const uint32_t decoded = 50 + random_.below(951);
    std::vector<radix_token> tokens;
    if (next_ % 3 == 0 && !ended_.empty()) {
      const size_t i = random_.below(static_cast<uint32_t>(ended_.size()));
      tokens = ended_[i];
    }
    const uint64_t blocks = (tokens.size() + prompt + decoded) / kBlock + 1;
    if (tokens.size() > 12000 || reserved_ + blocks > kPool * 6 / 10) return;
    const std::vector<radix_token> fresh = prompt_of(prompt + decoded, ++next_);
    tokens.insert(tokens.end(), fresh.begin(), fresh.end());
    radix_match m = {};
    m.struct_size = sizeof m;
    const auto length = static_cast<uint32_t>(tokens.size());
    const radix_req r = begin(ctx_.get(), tokens, &m);
    reserved_ += blocks;
    live_.push_back(
        {r, std::move(tokens), length - decoded, static_cast<uint32_t>(m.cached_tokens)});
  }

  void make_room() {
    radix_stats s = {};
    s.struct_size = sizeof s;
    check(radix_get_stats(ctx_.get(), &s), "radix_get_stats");
    if (s.blocks_free < keep_free_) {
      check(radix_evict(ctx_.get(), RADIX_NS_ALL, static_cast<uint32_t>(keep_free_ - s.blocks_free),
                        nullptr),
            "radix_evict");
    }
  }

  void step() {
    if (live_.size() < kMaxLive) admit();
    make_room();
    std::vector<radix_append> items;
    uint32_t budget = kChunk;
    for (Live& l : live_) {
      uint32_t n = 1;
      if (l.length < l.prompt) n = l.prompt - l.length < budget ? l.prompt - l.length : budget;
      if (n == 0) continue;
      if (l.length < l.prompt) budget -= n;
      items.push_back({l.req, l.tokens.data() + l.length, n, 0});
      l.length += n;
    }
    append(ctx_.get(), items, &slots_);
    for (size_t i = 0; i < live_.size();) {
      Live& l = live_[i];
      if (l.length == l.prompt || l.length == l.tokens.size()) {
        commit(ctx_.get(), l.req, l.length);
      }
      if (l.length < l.tokens.size()) {
        ++i;
        continue;
      }
      check(radix_free_request(ctx_.get(), l.req, 0), "radix_free_request");
      end(i);
    }
  }

  void end(size_t i) {
    Live& l = live_[i];
    reserved_ -= l.tokens.size() / kBlock + 1;
    if (ended_.size() == kMaxLive) ended_.erase(ended_.begin());
    ended_.push_back(std::move(l.tokens));
    live_.erase(live_.begin() + static_cast<std::ptrdiff_t>(i));
  }

  Context ctx_;
  uint64_t keep_free_;
  std::vector<int64_t> slots_;
  std::vector<Live> live_;
  std::vector<std::vector<radix_token>> ended_;
  uint64_t reserved_ = 0;
  uint32_t next_ = 0;
  Random random_{1};
};

}  // namespace

void add_block_runs(Report* report, bool quick) {
  const uint32_t warm_up = quick ? 1000 : 4000, steps = quick ? 1000 : 8000;
  decode_64().report(report, "decode_64");
  Mix(0.70).run(warm_up, steps).report(report, "mix_70");
  Mix(0.95).run(warm_up, steps).report(report, "mix_95");
  Mix(1.0).run(warm_up, steps).report(report, "mix_full");
  fan_out().report(report, "fan_out");
}

}  // namespace bench
