// What the emulator makes of the wrappers is what stands in wrappers.golden, which a device is held
// to. RADIX_WRITE_GOLDEN=FILE writes the file anew, for a wrapper that changed its meaning.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "golden.h"
#include "wrapper_kernels.h"

namespace radixattn::test {
namespace {

std::vector<uint32_t> run(const WrapperCase& c) {
  const std::vector<uint32_t> in = wrapper_input();
  std::vector<uint32_t> out(kWords, 0);
  const uint32_t* from = in.data();
  uint32_t* to = out.data();
  EXPECT_EQ(
      simt::emu::launch(c.name, c.kernel, dim3(1), dim3(c.threads), c.smem, nullptr, from, to), 0);
  return out;
}

TEST(Wrappers, EmulateWhatTheGoldenFileSays) {
  if (const char* path = std::getenv("RADIX_WRITE_GOLDEN")) {
    std::ofstream file(path);
    for (const WrapperCase& c : wrapper_cases()) file << golden_line(c.name, run(c)) << '\n';
  }
  const std::string here = __FILE__;
  const Golden golden = read_golden(here.substr(0, here.rfind('/') + 1) + "wrappers.golden");
  EXPECT_EQ(golden.size(), wrapper_cases().size());
  for (const WrapperCase& c : wrapper_cases()) {
    ASSERT_EQ(golden.count(c.name), 1u) << c.name;
    EXPECT_EQ(wrong_words(run(c), golden.at(c.name), c.approximate), 0u) << c.name;
  }
}

}  // namespace
}  // namespace radixattn::test
