// tests/device/simulated_device.h on the first CUDA device.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <vector>

#include "simulated_device.h"

namespace radixattn::test::device {

Settings settings;
Counters counters;

namespace {

std::vector<cudaStream_t> streams;

void expect(cudaError_t e, const char* what) {
  EXPECT_EQ(e, cudaSuccess) << what << ": " << cudaGetErrorString(e);
}

}  // namespace

void reset() {
  finish();
  for (cudaStream_t s : streams) expect(cudaStreamDestroy(s), "cudaStreamDestroy");
  streams.clear();
}

void finish() { expect(cudaDeviceSynchronize(), "cudaDeviceSynchronize"); }
bool has_work() { return false; }

int32_t current() {
  int device = -1;
  expect(cudaGetDevice(&device), "cudaGetDevice");
  return device;
}

void* allocate(uint64_t bytes) {
  void* memory = nullptr;
  expect(cudaMalloc(&memory, bytes), "cudaMalloc");
  expect(cudaMemset(memory, 0xff, bytes), "cudaMemset");
  finish();
  return memory;
}

void release(void* memory) { expect(cudaFree(memory), "cudaFree"); }

// A small copy from pageable memory may return before it has arrived, and streams of their own do
// not wait for it.
void write(void* device, const void* host, uint64_t bytes) {
  expect(cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
  finish();
}

void read(void* host, const void* device, uint64_t bytes) {
  finish();
  expect(cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost), "cudaMemcpy");
}

void* make_stream() {
  cudaStream_t stream = nullptr;
  expect(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  streams.push_back(stream);
  return stream;
}

radix_status run_as_graph(void* stream, const std::function<radix_status()>& launch) {
  auto* s = static_cast<cudaStream_t>(stream);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  expect(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
  const radix_status st = launch();
  expect(cudaStreamEndCapture(s, &graph), "cudaStreamEndCapture");
  if (st != RADIX_OK) return st;
  expect(cudaGraphInstantiate(&exec, graph, 0), "cudaGraphInstantiate");
  expect(cudaGraphLaunch(exec, s), "cudaGraphLaunch");
  expect(cudaStreamSynchronize(s), "cudaStreamSynchronize");
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  return st;
}

}  // namespace radixattn::test::device
