// What every benchmark program shares: timing, interleaved medians, the table and the JSON file.
//
// A row compares a value with a reference that was measured in the same run; ratio is what the
// caller says it is (value/reference, or reference/value for times). Timings are interleaved: one
// round runs every case once, so that a noisy neighbour disturbs all of them alike; the median over
// rounds is the figure.
//
//   bench::Options options = bench::parse_options(argc, argv);  // [--json FILE] [--quick] [--only
//   NAME] std::vector<bench::Case> cases = {{"ours", [&] { ... }}, {"memcmp", [&] { ... }}};
//   bench::run_interleaved(cases, options.quick ? 5 : 15);            // fills median_ns and min_ns
//   bench::Report report;
//   report.add({"metadata.match_32k", ours, "ns", "memcmp", ref, ours / ref});
//   return report.finish(options);
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace bench {

struct Options {
  std::string json;    // file to write, "" = none
  bool quick = false;  // fewer rounds and sizes: for a look, not for a record
  std::string only;    // rows whose name contains it; "" = all

  bool wants(const std::string& name) const { return name.find(only) != std::string::npos; }
};

inline Options parse_options(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--quick") == 0) {
      o.quick = true;
    } else if (std::strcmp(argv[i], "--json") == 0 && i + 1 < argc) {
      o.json = argv[++i];
    } else if (std::strcmp(argv[i], "--only") == 0 && i + 1 < argc) {
      o.only = argv[++i];
    } else {
      std::fprintf(stderr, "usage: %s [--json FILE] [--quick] [--only NAME]\n", argv[0]);
      std::exit(2);
    }
  }
  return o;
}

inline double now_ns() {
  const auto t = std::chrono::steady_clock::now().time_since_epoch();
  return static_cast<double>(std::chrono::duration_cast<std::chrono::nanoseconds>(t).count());
}

inline double median(std::vector<double> v) {
  if (v.empty()) return std::nan("");
  const auto middle = v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2);
  std::nth_element(v.begin(), middle, v.end());
  return *middle;
}

struct Case {
  std::string name;
  std::function<void()> run;
  double median_ns = 0, min_ns = 0;  // results
  std::vector<double> samples = {};  // one a round
};

// One warm-up round, then `rounds` rounds of every case in turn.
inline void run_interleaved(std::vector<Case>& cases, int rounds) {
  for (int r = -1; r < rounds; ++r) {
    for (Case& c : cases) {
      const double start = now_ns();
      c.run();
      if (r >= 0) c.samples.push_back(now_ns() - start);
    }
  }
  for (Case& c : cases) {
    c.median_ns = median(c.samples);
    c.min_ns = *std::min_element(c.samples.begin(), c.samples.end());
  }
}

// Keeps a value alive, and the work that made it.
template <class T>
inline void keep(const T& value) {
  asm volatile("" : : "g"(&value) : "memory");
}

struct Row {
  std::string name;
  double value;
  std::string unit;
  std::string reference;  // what it is compared with, "" = nothing
  double reference_value;
  double ratio;
};

class Report {
 public:
  void add(Row row) { rows_.push_back(std::move(row)); }

  void print() const {
    std::printf("%-44s %12s %-9s  %-34s %12s %8s\n", "name", "value", "unit", "reference",
                "reference", "ratio");
    for (const Row& r : rows_) {
      std::printf("%-44s %12.4g %-9s  %-34s %12.4g %8.3f\n", r.name.c_str(), r.value,
                  r.unit.c_str(), r.reference.c_str(), r.reference_value, r.ratio);
    }
  }

  // An array of {name, value, unit, reference, reference_value, ratio}. False when the file cannot
  // be written.
  bool write_json(const std::string& path) const {
    std::FILE* f = std::fopen(path.c_str(), "w");
    if (f == nullptr) return false;
    std::fprintf(f, "[");
    for (size_t i = 0; i < rows_.size(); ++i) {
      const Row& r = rows_[i];
      std::fprintf(f, "%s\n  {\"name\": \"%s\", \"value\": %.9g, \"unit\": \"%s\", ",
                   i == 0 ? "" : ",", r.name.c_str(), r.value, r.unit.c_str());
      std::fprintf(f, "\"reference\": \"%s\", \"reference_value\": %.9g, \"ratio\": %.6g}",
                   r.reference.c_str(), r.reference_value, r.ratio);
    }
    std::fprintf(f, "\n]\n");
    return std::fclose(f) == 0;
  }

  // Prints the table and writes the file that the options ask for; the program's exit status.
  int finish(const Options& options) {
    std::erase_if(rows_, [&](const Row& r) { return !options.wants(r.name); });
    print();
    if (options.json.empty() || write_json(options.json)) return 0;
    std::fprintf(stderr, "cannot write %s\n", options.json.c_str());
    return 1;
  }

 private:
  std::vector<Row> rows_;
};

}  // namespace bench
