// Checks the summary that npc_demo --json wrote: all keys, their types, and what must hold between
// them.
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

namespace {

int failures = 0;

void expect(bool ok, const char* what) {
  if (ok) return;
  std::fprintf(stderr, "does not hold: %s\n", what);
  ++failures;
}

void check_summary(const nlohmann::json& d) {
  for (const char* key :
       {"requests", "prompt_tokens", "cached_tokens", "computed_tokens", "computed_tokens_uncached",
        "right_answers", "questions", "kv_bytes_peak", "kv_bytes_peak_uncached", "logit_rows",
        "kv_positions_seen", "kv_positions_read"}) {
    expect(d.at(key).is_number_unsigned() && d.at(key).get<uint64_t>() > 0, key);
  }
  const auto count = [&](const char* key) { return d.at(key).get<uint64_t>(); };
  expect(d.size() == 17, "17 keys");
  expect(d.at("device") == "cpu" || d.at("device") == "cuda", "device is cpu or cuda");
  expect(d.at("identical_tokens").get<bool>(), "identical_tokens");
  expect(d.at("max_logit_diff").get<double>() < 0.05, "max_logit_diff < 0.05");
  if (d.at("device") == "cpu")
    expect(count("identical_logit_rows") == count("logit_rows"), "every row has the same bits");
  expect(count("kv_positions_read") * 3 < count("kv_positions_seen") * 2,
         "a third of K/V is not read");
  expect(count("right_answers") * 100 >= count("questions") * 95, "95% of the answers are right");
  expect(count("requests") == count("questions"), "one request a question");
  expect(count("questions") >= 16, "8 characters with 2 questions");
  expect(count("cached_tokens") + count("computed_tokens") == count("prompt_tokens"),
         "cached + computed = prompt");
  expect(count("computed_tokens_uncached") == count("prompt_tokens"),
         "uncached computes every prompt token");
  expect(count("computed_tokens") * 5 < count("prompt_tokens"), "the cache saves four fifths");
  expect(count("kv_bytes_peak") < count("kv_bytes_peak_uncached"), "sharing saves memory");
  expect(d.at("speedup").get<double>() > 1.0, "speedup > 1");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  try {
    std::ifstream in(argv[1]);
    check_summary(nlohmann::json::parse(in));
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s: %s\n", argv[1], e.what());
    return 1;
  }
  return failures == 0 ? 0 : 1;
}
