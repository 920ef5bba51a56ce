// wrappers.golden: for each case a line with its name and kWords words in hexadecimal.
#pragma once

#include <cstdint>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace radixattn::test {

using Golden = std::map<std::string, std::vector<uint32_t>>;

inline Golden read_golden(const std::string& path) {
  Golden golden;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string name;
    words >> name >> std::hex;
    std::vector<uint32_t>& to = golden[name];
    for (uint32_t w; words >> w;) to.push_back(w);
  }
  return golden;
}

inline std::string golden_line(const std::string& name, const std::vector<uint32_t>& words) {
  std::ostringstream line;
  line << name << std::hex;
  for (const uint32_t w : words) line << ' ' << w;
  return line.str();
}

// How many of `words` are not what the file says.
inline size_t wrong_words(const std::vector<uint32_t>& words, const std::vector<uint32_t>& expected,
                          bool approximate) {
  if (words.size() != expected.size()) return words.size() + 1;
  size_t wrong = 0;
  for (size_t i = 0; i < words.size(); ++i) {
    const uint32_t distance =
        words[i] > expected[i] ? words[i] - expected[i] : expected[i] - words[i];
    wrong += distance > (approximate ? 4u : 0u);
  }
  return wrong;
}

}  // namespace radixattn::test
