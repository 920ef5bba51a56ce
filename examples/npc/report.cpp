#include "report.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>

#include "files.h"

namespace npc {

namespace {

// `text` in exactly `width` columns, cut with "~" when longer. Words are ASCII in this model.
std::string column(const std::string& text, size_t width) {
  if (text.size() > width) return text.substr(0, width - 1) + "~";
  return text + std::string(width - text.size(), ' ');
}

template <class Get>
uint64_t sum(const std::vector<Generation>& generations, Get get) {
  uint64_t total = 0;
  for (const Generation& g : generations) total += get(g);
  return total;
}

double median_ttft_ms(const std::vector<Generation>& generations) {
  std::vector<double> times;
  for (const Generation& g : generations) times.push_back(g.first_token_s * 1e3);
  if (times.empty()) return 0;
  const auto middle = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
  std::nth_element(times.begin(), middle, times.end());
  return *middle;
}

double tokens_per_s(const RunResult& r) {
  const uint64_t tokens = sum(r.generations, [](const Generation& g) { return g.output.size(); });
  return r.seconds > 0 ? static_cast<double>(tokens) / r.seconds : 0;
}

double not_read(const Reads& r) {
  return r.seen == 0 ? 0 : 1 - static_cast<double>(r.read) / static_cast<double>(r.seen);
}

double kib(uint64_t bytes) { return static_cast<double>(bytes) / 1024.0; }

double ratio(double a, double b) { return b > 0 ? a / b : 0; }

void write_document(const std::string& path, const nlohmann::ordered_json& doc) {
  write_file(path, doc.dump(2) + "\n");
}

}  // namespace

uint64_t RunResult::prompt_tokens() const {
  return sum(generations, [](const Generation& g) { return g.prompt.size(); });
}
uint64_t RunResult::cached_tokens() const {
  return sum(generations, [](const Generation& g) { return g.cached_tokens; });
}
uint64_t RunResult::computed_tokens() const {
  return sum(generations, [](const Generation& g) { return g.computed_tokens; });
}
uint64_t RunResult::drafted_tokens() const {
  return sum(generations, [](const Generation& g) { return g.drafted_tokens; });
}
uint64_t RunResult::accepted_drafts() const {
  return sum(generations, [](const Generation& g) { return g.accepted_drafts; });
}
uint64_t RunResult::right_answers() const {
  return static_cast<uint64_t>(
      std::count_if(turns.begin(), turns.end(), [](const Turn& t) { return t.right; }));
}

Comparison compare(const RunResult& first, const RunResult& second) {
  Comparison c;
  c.identical_tokens = first.generations.size() == second.generations.size();
  c.speedup = ratio(second.seconds, first.seconds);
  for (size_t i = 0; i < std::min(first.generations.size(), second.generations.size()); ++i) {
    const Generation& a = first.generations[i];
    const Generation& b = second.generations[i];
    if (a.prompt != b.prompt || a.output != b.output) {  // later rows answer different contexts
      c.identical_tokens = false;
      continue;
    }
    ++c.equal_answers;
    const size_t n = std::min(a.logits.size(), b.logits.size());
    const size_t vocab = a.output.empty() ? 1 : std::max<size_t>(1, n / a.output.size());
    for (size_t at = 0; at + vocab <= n; at += vocab) {
      ++c.rows;
      c.identical_rows +=
          std::memcmp(a.logits.data() + at, b.logits.data() + at, vocab * sizeof(float)) == 0;
      for (size_t j = at; j < at + vocab; ++j) {
        const float difference = std::fabs(a.logits[j] - b.logits[j]);
        if (!(difference <= c.max_logit_diff)) c.max_logit_diff = difference;  // a NaN stays
      }
    }
  }
  return c;
}

void print_table_head() {
  const bool terminal = isatty(STDOUT_FILENO) != 0;
  std::printf("%s%-9s %-33s %-36s %6s %6s %6s %8s %6s%s\n", terminal ? "\033[1m" : "", "character",
              "question", "answer", "prompt", "cached", "comp.", "ttft ms", "tok/s",
              terminal ? "\033[0m" : "");
}

void print_turn(const Character& character, const Turn& turn, const Generation& g) {
  const std::string answer = (turn.right ? "" : "WRONG ") + readable(turn.answer);
  std::printf(
      "%s %s %s %6zu %6llu %6llu %8.1f %6.0f\n", column(character.name, 9).c_str(),
      column(readable(character.questions[turn.question].text), 33).c_str(),
      column(answer, 36).c_str(), g.prompt.size(), static_cast<unsigned long long>(g.cached_tokens),
      static_cast<unsigned long long>(g.computed_tokens), g.first_token_s * 1e3, g.tokens_per_s());
  std::fflush(stdout);
}

void print_summary(const RunResult& cached, const RunResult& uncached, const Comparison& c) {
  using ull = unsigned long long;
  const auto on = static_cast<double>(cached.computed_tokens()),
             off = static_cast<double>(uncached.computed_tokens());
  std::printf("\n%-34s %14s %14s %10s\n", "", "cache on", "cache off", "off / on");
  std::printf("%-34s %14llu %14llu %9.1fx\n", "prompt tokens computed",
              static_cast<ull>(cached.computed_tokens()),
              static_cast<ull>(uncached.computed_tokens()), ratio(off, on));
  std::printf("%-34s %14llu %14llu\n", "prompt tokens found cached or shared",
              static_cast<ull>(cached.cached_tokens()), static_cast<ull>(uncached.cached_tokens()));
  std::printf("%-34s %14.0f %14.0f %9.1fx\n", "KV memory at its peak, KiB",
              kib(cached.peak_kv_bytes), kib(uncached.peak_kv_bytes),
              ratio(static_cast<double>(uncached.peak_kv_bytes),
                    static_cast<double>(cached.peak_kv_bytes)));
  std::printf("%-34s %14.1f %14.1f %9.1fx\n", "median time to first token, ms",
              median_ttft_ms(cached.generations), median_ttft_ms(uncached.generations),
              ratio(median_ttft_ms(uncached.generations), median_ttft_ms(cached.generations)));
  std::printf("%-34s %14.0f %14.0f\n", "tokens generated a second, in all", tokens_per_s(cached),
              tokens_per_s(uncached));
  std::printf("%-34s %14.2f %14.2f %9.1fx\n", "seconds", cached.seconds, uncached.seconds,
              c.speedup);
  std::printf("%-34s %14llu %14llu\n", "steps", static_cast<ull>(cached.steps),
              static_cast<ull>(uncached.steps));
  std::printf("%-34s %14llu %14llu\n", "K/V positions seen by sequences",
              static_cast<ull>(cached.reads.seen), static_cast<ull>(uncached.reads.seen));
  std::printf("%-34s %14llu %14llu\n", "  of these, read from memory",
              static_cast<ull>(cached.reads.read), static_cast<ull>(uncached.reads.read));
  std::printf("%-34s %13.1f%% %13.1f%%\n", "  K/V bytes not read", 100 * not_read(cached.reads),
              100 * not_read(uncached.reads));
  if (cached.drafted_tokens() > 0) {
    std::printf("%-34s %14llu %14llu\n", "drafted tokens",
                static_cast<ull>(cached.drafted_tokens()),
                static_cast<ull>(uncached.drafted_tokens()));
    std::printf("%-34s %14llu %14llu\n", "  of these, right",
                static_cast<ull>(cached.accepted_drafts()),
                static_cast<ull>(uncached.accepted_drafts()));
  }
  std::printf("%-34s %14llu %14llu\n", "right answers", static_cast<ull>(cached.right_answers()),
              static_cast<ull>(uncached.right_answers()));
  std::printf("\nrequests %zu, prompt tokens %llu\n", cached.turns.size(),
              static_cast<ull>(cached.prompt_tokens()));
  std::printf("tokens generated: %s\n",
              c.identical_tokens ? "identical in both runs" : "DIFFERENT");
  if (c.identical_rows == c.rows) {
    std::printf("logits: all %llu rows identical bit for bit\n", static_cast<ull>(c.rows));
    return;
  }
  std::printf("logits: %llu of %llu rows identical bit for bit; largest difference %g\n",
              static_cast<ull>(c.identical_rows), static_cast<ull>(c.rows),
              static_cast<double>(c.max_logit_diff));
  if (!c.must_be_identical) {
    std::printf(
        "  Rows differ where attention had another shape: float addition depends on the order of "
        "its "
        "terms.\n  --batch-invariant yes fixes that order; the CPU's matrix products and norms "
        "always do.\n");
  }
}

void write_json(const std::string& path, const RunResult& cached, const RunResult& uncached,
                const Comparison& c) {
  const nlohmann::ordered_json doc = {
      {"device", cached.device},
      {"requests", cached.turns.size()},
      {"prompt_tokens", cached.prompt_tokens()},
      {"cached_tokens", cached.cached_tokens()},
      {"computed_tokens", cached.computed_tokens()},
      {"computed_tokens_uncached", uncached.computed_tokens()},
      {"identical_tokens", c.identical_tokens},
      {"logit_rows", c.rows},
      {"identical_logit_rows", c.identical_rows},
      {"max_logit_diff", c.max_logit_diff},
      {"right_answers", cached.right_answers()},
      {"questions", cached.turns.size()},
      {"kv_bytes_peak", cached.peak_kv_bytes},
      {"kv_bytes_peak_uncached", uncached.peak_kv_bytes},
      {"kv_positions_seen", cached.reads.seen},
      {"kv_positions_read", cached.reads.read},
      {"speedup", c.speedup},
  };
  write_document(path, doc);
}

void print_device_summary(const RunResult& cpu, const RunResult& cuda, const Comparison& c) {
  using ull = unsigned long long;
  std::printf("\nthe CPU and %s, cache on\n", cuda.device_name.c_str());
  std::printf("answers: %llu of %zu equal\n", static_cast<ull>(c.equal_answers), cpu.turns.size());
  std::printf("logits: %llu rows compared, largest difference %g\n", static_cast<ull>(c.rows),
              static_cast<double>(c.max_logit_diff));
  std::printf("right answers: %llu and %llu\n", static_cast<ull>(cpu.right_answers()),
              static_cast<ull>(cuda.right_answers()));
  std::printf("seconds: %.2f and %.2f\n", cpu.seconds, cuda.seconds);
}

void write_device_json(const std::string& path, const RunResult& cpu, const RunResult& cuda,
                       const Comparison& c) {
  write_document(path, {
                           {"device", cuda.device},
                           {"device_name", cuda.device_name},
                           {"answers", cpu.turns.size()},
                           {"equal_answers", c.equal_answers},
                           {"logit_rows", c.rows},
                           {"max_logit_diff", c.max_logit_diff},
                           {"right_answers", cuda.right_answers()},
                           {"right_answers_cpu", cpu.right_answers()},
                           {"seconds", cuda.seconds},
                           {"seconds_cpu", cpu.seconds},
                       });
}

}  // namespace npc
