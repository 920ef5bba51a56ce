// The wrappers of cuda/simt/simt.h and sm90.h on the first device, against what the emulator makes
// of them (tests/simt/wrappers.golden): prints a line for each, exits with the number of wrong
// ones.
#include <cstdio>

#include "golden.h"
#include "wrapper_kernels.h"

using namespace radixattn::test;

int main(int argc, char** argv) {
  if (argc != 2) {
    std::printf("usage: %s wrappers.golden\n", argv[0]);
    return 64;
  }
  const Golden golden = read_golden(argv[1]);
  const std::vector<uint32_t> in = wrapper_input();
  uint32_t *from = nullptr, *to = nullptr;
  cudaMalloc(&from, in.size() * 4);
  cudaMalloc(&to, kWords * 4);
  cudaMemcpy(from, in.data(), in.size() * 4, cudaMemcpyHostToDevice);
  int major = 0, minor = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0);
  int failed = golden.size() == wrapper_cases().size() ? 0 : 1;
  for (const WrapperCase& c : wrapper_cases()) {
    if (c.sm90 && major * 10 + minor != 90) {
      std::printf("%-24s not on sm_%d%d\n", c.name, major, minor);
      continue;
    }
    std::vector<uint32_t> out(kWords, 0);
    cudaMemset(to, 0, kWords * 4);
    int e = radixattn::simt::launch(c.kernel, dim3(1), dim3(c.threads), c.smem, nullptr,
                                    static_cast<const uint32_t*>(from), to);
    if (e == 0) e = cudaMemcpy(out.data(), to, kWords * 4, cudaMemcpyDeviceToHost);
    const size_t wrong = e != 0 || golden.count(c.name) == 0
                             ? kWords
                             : wrong_words(out, golden.at(c.name), c.approximate);
    std::printf("%-24s %s", c.name, wrong == 0 ? "as emulated\n" : "");
    if (wrong != 0) std::printf("WRONG: %zu words differ, error %d\n", wrong, e);
    failed += wrong != 0;
  }
  cudaFree(from);
  cudaFree(to);
  return failed;
}
