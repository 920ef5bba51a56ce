// The CPU's sampling on every target and executor, bit for bit what the reference says.
#include <gtest/gtest.h>

#include "support/runners.h"
#include "support/sample_case.h"

namespace radixattn::test {
namespace {

Sampled run(const CpuKernels& kernels, Executor& executor, SampleCase& c) {
  Sampled out(c);
  SampleParams p = c.params();
  out.attach(&p);
  GuardedWorkspace workspace(sample_workspace_bytes(p, executor.workers()));
  p.workspace = workspace.data();
  EXPECT_EQ(cpu_sample(kernels, p, executor), RADIX_OK);
  EXPECT_TRUE(workspace.guards_hold());
  return out;
}

void check_everywhere(SampleCase& c) {
  const Sampled want = reference_sample(c);
  for (const CpuKernels* kernels : runnable_targets()) {
    SCOPED_TRACE(kernels->name);
    for (NamedExecutor& e : all_executors()) {
      SCOPED_TRACE(e.name);
      expect_sampled(run(*kernels, e.executor, c), want);
    }
  }
}

Sampled check(SampleCase& c) {
  const Sampled want = reference_sample(c);
  Executor executor;
  for (const CpuKernels* kernels : runnable_targets()) {
    SCOPED_TRACE(kernels->name);
    expect_sampled(run(*kernels, executor, c), want);
  }
  return want;
}

TEST(Sample, RandomRowsAreTheReferencesBitForBit) {
  for_random_cases("sample", 400, [](uint64_t seed) {
    SCOPED_TRACE(::testing::Message() << "RADIX_TEST_ONLY=" << seed);
    Rng rng(seed);
    SampleCase c = random_sample_case(&rng);
    check(c);
  });
}

TEST(Sample, WorkersAndBatchesChangeNoBit) {
  Rng rng(5);
  SampleCase c;
  c.rows = 12;
  c.vocab = 20000;
  c.logprobs = true;
  c.num_top = 7;
  fill_logits(&c, RADIX_F32, 3.f, 0, &rng);
  add_filters(&c, &rng);
  add_penalties(&c, &rng);
  for (uint32_t row = 0; row < c.rows; ++row) c.seeds.push_back(rng.next());
  check_everywhere(c);
}

}  // namespace
}  // namespace radixattn::test
