// The CPU's verification of drafted trees: bit for bit the reference's, and the target's
// distribution.
#include <gtest/gtest.h>

#include "support/runners.h"
#include "support/sample_case.h"

namespace radixattn::test {
namespace {

Verified run(const CpuKernels& kernels, Executor& executor, VerifyCase& c) {
  Verified out(c);
  VerifyParams p = c.params();
  out.attach(&p);
  GuardedWorkspace workspace(verify_workspace_bytes(p, executor.workers()));
  p.workspace = workspace.data();
  EXPECT_EQ(cpu_verify(kernels, p, executor), RADIX_OK);
  EXPECT_TRUE(workspace.guards_hold());
  return out;
}

TEST(Verify, RandomTreesAreTheReferencesBitForBit) {
  int stood = 0, failed = 0;
  for_random_cases("verify", 2000, [&](uint64_t seed) {
    SCOPED_TRACE(::testing::Message() << "RADIX_TEST_ONLY=" << seed);
    Rng rng(seed);
    VerifyCase c = random_verify_case(&rng);
    const Verified want = reference_verify(c);
    for (const int32_t n : want.num_tokens) stood += n > 1 ? 1 : 0, failed += n == 0 ? 1 : 0;
    Executor executor;
    for (const CpuKernels* kernels : runnable_targets()) {
      SCOPED_TRACE(kernels->name);
      expect_verified(run(*kernels, executor, c), want);
    }
  });
  if (environment("RADIX_TEST_ONLY", 0) != 0) return;
  EXPECT_GT(stood, 100) << "hardly a draft stood: the cases test little";
  EXPECT_GT(failed, 20);
}

}  // namespace
}  // namespace radixattn::test
