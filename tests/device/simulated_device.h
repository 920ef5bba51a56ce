// A CUDA runtime that is none: devices with memory of their own, whose work finishes late and in an
// order that nobody likes.
//
//   - Device memory is the host's, out of reach: a host read or write of it is a fault, except
//   while
//     the device works. So host code that looks at an array of the device is found.
//   - Nothing that is enqueued runs before finish(). There streams take turns at random (by a
//   seed);
//     one stream's work stays in order. Copies from host memory read it only then: a host buffer
//     that was refilled too early is found. What a copy to the host will write is NaN until then.
//   - Kernels are the library's own sources, run by the emulator (tests/simt).
//
// What tests ask is declared below; the cuda* functions that the library calls are defined in
// simulated_device.cpp with the runtime's own signatures. One thread at a time. For tests in
// another language all of it, with the library, is libradixattn_simulated.so; see
// simulated_api.cpp.
//
// Compiled with RADIX_REAL_DEVICE (tests/gpu) the same tests run on the first real device
// (real_device.cpp), but for those that need its settings and counters.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "radixattn.h"

namespace radixattn::test::device {

#ifndef RADIX_REAL_DEVICE
constexpr bool kSimulated = true;
#else
constexpr bool kSimulated = false;
#endif

struct Settings {
  int32_t num_devices = 2;
  int32_t count_error = 0;      // cudaGetDeviceCount returns it and touches nothing
  int32_t capability = 90;      // major * 10 + minor
  int64_t failing_malloc = -1;  // the allocation with this number gives cudaErrorMemoryAllocation
  int32_t failing_launch = 0;   // the error of the next kernel launch
  int32_t failing_copy = 0;     // of the next cudaMemcpyAsync
  int32_t failing_record = 0;   // of the next cudaEventRecord
  void* capturing = nullptr;    // the stream that is being captured, in global mode
  bool no_cublas_lt = false;    // it cannot be opened
  int32_t failing_handle = 0;   // cublasStatus_t of the next cublasLtCreate
  int32_t failing_choice = 0;   // of the next look for an algorithm; -1: finds none
  int32_t failing_product = 0;  // of the next product
  uint64_t seed = 1;            // of the order in which streams take turns
};
extern Settings settings;

struct Counters {
  int64_t allocations = 0, frees = 0, launches = 0, copies = 0;
  int64_t copied_bytes = 0;  // of one-dimensional copies
  int64_t waits = 0;         // the host waited for the device
  int64_t pinned_allocations = 0, pinned_live = 0;
  int64_t events_live = 0;
  int64_t handles = 0, handles_live = 0;  // of cuBLASLt
  int64_t products = 0;
  std::string complaint;             // of cuBLASLt: what was wrong with the last call it refused
  int64_t pageable_copies = 0;       // one-dimensional copies whose host side is not pinned
  int64_t bytes_live = 0;            // of the devices, and pinned
  int64_t bad_frees = 0;             // of what is not memory of the device, or was freed before
  int32_t launched_on = -1;          // the device that was current at the last launch
  void* stream = nullptr;            // of the last launch or copy
  std::vector<std::string> kernels;  // as the launches name them
};
extern Counters counters;

void reset();   // as new, but for memory that is still allocated
void finish();  // runs all that was enqueued
bool has_work();
int32_t current();               // device
void* allocate(uint64_t bytes);  // device memory of the test's own
void release(void* memory);
void write(void* device, const void* host, uint64_t bytes);
void read(void* host, const void* device, uint64_t bytes);
void* make_stream();
#ifndef RADIX_REAL_DEVICE
// For simulated_cublas_lt.cpp: work of a stream; whether all of that is memory of the device; what
// a call that takes memory of the device may do now.
void enqueue(void* stream, std::function<void()> work);
bool holds(const void* memory, uint64_t bytes);
bool capture_forbids();
#endif
// What `launch` enqueues on the stream becomes a graph, which is run; the simulated device runs the
// launch. Gives what the launch gave.
radix_status run_as_graph(void* stream, const std::function<radix_status()>& launch);

}  // namespace radixattn::test::device
