// A CUDA runtime that is none: devices with memory of their own, whose work finishes late and in an
// order that nobody likes.
//
//   - Device memory is the host's, out of reach: a host read or write of it is a fault, except
//   while
//     the device works. So host code that looks at an array of the device is found.
//   - Nothing that is enqueued runs before finish(). There streams take turns at random (by a
//   seed);
//     one stream's work stays in order. Copies from host memory read it only then: a host buffer
//     that was refilled too early is found.
//   - Kernels are the library's own sources, run by the emulator (tests/simt).
//
// What the tests here ask is declared below; the cuda* functions that the library calls are defined
// in simulated_device.cpp with the runtime's own signatures. One thread at a time.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace radixattn::test::device {

struct Settings {
  int32_t num_devices = 2;
  int32_t count_error = 0;      // cudaGetDeviceCount returns it and touches nothing
  int32_t capability = 90;      // major * 10 + minor
  int64_t failing_malloc = -1;  // the allocation with this number gives cudaErrorMemoryAllocation
  int32_t failing_launch = 0;   // the error of the next kernel launch
  uint64_t seed = 1;            // of the order in which streams take turns
};
extern Settings settings;

struct Counters {
  int64_t allocations = 0, frees = 0, launches = 0, copies = 0, waits = 0;
  int64_t bytes_live = 0;
  std::vector<std::string> kernels;  // as the launches name them
  int32_t launched_on = -1;          // the device that was current at the last launch
};
extern Counters counters;

void reset();   // as new; fails the test if memory is still allocated
void finish();  // runs all that was enqueued
bool has_work();
int32_t current();               // device
void* allocate(uint64_t bytes);  // device memory of the test's own
void release(void* memory);
void write(void* device, const void* host, uint64_t bytes);
void read(void* host, const void* device, uint64_t bytes);
void* make_stream();

}  // namespace radixattn::test::device
