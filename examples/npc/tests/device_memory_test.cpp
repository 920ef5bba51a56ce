// Where K/V lives, and the options that say so. tests/device of radixattn runs the engine on a
// simulated CUDA device.
#include "device_memory.h"

#include <gtest/gtest.h>

#include <functional>

#include "options.h"

namespace npc::test {
namespace {

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

Options parse(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "npc_demo");
  return parse_options(static_cast<int>(arguments.size()), arguments.data());
}

TEST(DeviceMemory, TheCpuKeepsOneArrayForBothSides) {
  const auto memory = open_device(RADIX_DEV_CPU);
  EXPECT_EQ(memory->kind(), RADIX_DEV_CPU);
  EXPECT_EQ(memory->stream(), nullptr);
  DeviceArray<int32_t> a(memory.get(), 4);
  EXPECT_EQ(a.host(), a.device());
  EXPECT_EQ(reinterpret_cast<uintptr_t>(a.device()) % 64, 0u);
  a.upload({7, 8, 9});
  EXPECT_EQ(a.device()[2], 9);
}

TEST(DeviceMemory, AnArrayTakesNoMoreThanItsCapacity) {
  const auto memory = open_device(RADIX_DEV_CPU);
  DeviceArray<int32_t> a(memory.get(), 4);
  EXPECT_EQ(error_of([&] { a.upload({1, 2, 3, 4}); }), "");
  EXPECT_EQ(error_of([&] { a.upload({1, 2, 3, 4, 5}); }), "5 elements for a buffer of 4");
  EXPECT_EQ(error_of([&] { a.download(5); }), "5 elements for a buffer of 4");
}

TEST(DeviceMemory, CudaIsADeviceOrAClearError) {
  int32_t devices = 0;
  ASSERT_EQ(radix_device_count(RADIX_DEV_CUDA, &devices), RADIX_OK);
  if (devices > 0) {
    EXPECT_EQ(open_device(RADIX_DEV_CUDA)->kind(), RADIX_DEV_CUDA);
  } else {
    const std::string error = error_of([] { open_device(RADIX_DEV_CUDA); });
    EXPECT_EQ(error.find("no device cuda: this "), 0u) << error;
  }
}

TEST(Options, NameTheDevice) {
  EXPECT_EQ(parse({}).engine.device, RADIX_DEV_CPU);
  EXPECT_EQ(parse({"--device", "cpu"}).engine.device, RADIX_DEV_CPU);
  EXPECT_EQ(parse({"--device", "cuda"}).engine.device, RADIX_DEV_CUDA);
  EXPECT_EQ(error_of([] {
              parse({"--device", "gpu"});
            }),
            "--device is \"gpu\": expected cpu or cuda");
  EXPECT_EQ(error_of([] { parse({"--device"}); }), "--device needs a value: see --help");
}

TEST(Options, DevicesAreComparedByTheDemosQuestions) {
  EXPECT_FALSE(parse({}).compare_devices);
  EXPECT_TRUE(parse({"--compare-devices", "--json", "x"}).compare_devices);
  for (const char* other : {"--prompt", "--prompt-ids", "--eval"}) {
    EXPECT_NE(error_of([&] {
                parse({other, "1", "--compare-devices"});
              }).find("expected no"),
              std::string::npos)
        << other;
  }
}

}  // namespace
}  // namespace npc::test
