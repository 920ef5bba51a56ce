// Feeds the fuzz entry without libFuzzer: seeded random bytes, or the files that are named.
//
//   fuzz_abi [--seed S] [--runs N] [--bytes N] [FILE...]
//
// Prints the seed of a run before it starts when it is the one asked for; a crash is replayed with
// --seed S --runs 1.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

int run_file(const char* name) {
  std::ifstream file(name, std::ios::binary);
  if (!file) {
    std::cerr << "cannot read " << name << '\n';
    return 1;
  }
  const std::vector<char> bytes((std::istreambuf_iterator<char>(file)),
                                std::istreambuf_iterator<char>());
  return LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
}

int run_seed(uint64_t seed, size_t most) {
  std::mt19937_64 random(seed);
  std::vector<uint8_t> bytes(64 + random() % most);
  for (uint8_t& b : bytes) b = static_cast<uint8_t>(random());
  return LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

}  // namespace

int main(int argc, char** argv) {
  uint64_t seed = 1, runs = 1000, most = 8000;
  int files = 0;
  for (int i = 1; i < argc; ++i) {
    const std::string a = argv[i];
    if (a.rfind("--", 0) != 0) {
      if (run_file(argv[i]) != 0) return 1;
      ++files;
    } else if (i + 1 < argc) {
      (a == "--seed" ? seed : a == "--runs" ? runs : most) = std::strtoull(argv[++i], nullptr, 10);
    } else {
      std::cerr << "fuzz_abi [--seed S] [--runs N] [--bytes N] [FILE...]\n";
      return 2;
    }
  }
  if (files > 0) return 0;
  for (uint64_t s = seed; s < seed + runs; ++s) {
    // Written before the run, so that the last line of a crash names its seed.
    std::fprintf(stderr, "\rseed %llu", static_cast<unsigned long long>(s));
    if (run_seed(s, most) != 0) return 1;
  }
  std::cerr << ": " << runs << " inputs, no crash\n";
  return 0;
}
