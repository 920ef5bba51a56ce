// A simulated device for each test, and arrays on it.
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "api_support.h"
#include "simulated_device.h"

namespace radixattn::test {

using api_test::Ctx;
using api_test::range;
using api_test::sized;
using api_test::tensor;

inline radix_config cuda_config(int32_t kv_dtype = RADIX_F16) {
  radix_config c = api_test::small_config(16, 4);
  c.device = RADIX_DEV_CUDA;
  c.kv_dtype = kv_dtype;
  return c;
}

class Device : public ::testing::Test {
 protected:
  void SetUp() override { device::reset(); }
  void TearDown() override {
    for (void* memory : arrays_) device::release(memory);
    EXPECT_EQ(device::counters.bytes_live, 0) << "memory of the device was not freed";
    EXPECT_EQ(device::counters.bad_frees, 0);
    EXPECT_EQ(device::counters.pinned_live, 0) << "pinned memory was not freed";
    EXPECT_EQ(device::counters.events_live, 0) << "events were not destroyed";
    EXPECT_EQ(device::counters.handles_live, 0) << "handles of cuBLASLt were not destroyed";
    EXPECT_EQ(device::counters.complaint, "");
    EXPECT_FALSE(device::has_work());
    device::reset();
  }
  // A copy of the array on the device.
  template <class T>
  T* up(const std::vector<T>& host) {
    arrays_.push_back(device::allocate(host.size() * sizeof(T) + 1));
    device::write(arrays_.back(), host.data(), host.size() * sizeof(T));
    return static_cast<T*>(arrays_.back());
  }
  template <class T>
  std::vector<T> down(const T* from, size_t n) {
    std::vector<T> host(n);
    device::read(host.data(), from, n * sizeof(T));
    return host;
  }

 private:
  std::vector<void*> arrays_;
};

}  // namespace radixattn::test
