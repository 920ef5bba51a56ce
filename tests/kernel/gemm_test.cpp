// Matrix products of the CPU on every target and executor, against the definition in double; and a
// row's bits, which depend on nothing but the row, the weights and the target.
#include <gtest/gtest.h>

#include <cstring>
#include <memory>

#include "backend/cpu/gemm_jobs.h"
#include "support/layer_case.h"
#include "support/runners.h"

namespace radixattn::test {
namespace {

// A workspace of exactly the bytes that were asked for, poison behind.
class Workspace {
 public:
  static constexpr uint64_t kFence = 64;

  explicit Workspace(uint64_t bytes)
      : bytes_(bytes),
        memory_(static_cast<uint8_t*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64 + kFence))) {
    std::memset(memory_.get(), kNanByte, bytes);
    std::memset(memory_.get() + bytes, kPoisonByte, kFence);
  }
  void* data() { return memory_.get(); }
  bool fence_holds() const {
    for (uint64_t i = 0; i < kFence; ++i) {
      if (memory_.get()[bytes_ + i] != kPoisonByte) return false;
    }
    return true;
  }

 private:
  struct Free {
    void operator()(uint8_t* p) const { std::free(p); }
  };
  uint64_t bytes_;
  std::unique_ptr<uint8_t, Free> memory_;
};

radix_status run(GemmCase* c, const CpuKernels& kernels, Executor& executor) {
  Workspace workspace(gemm_workspace_bytes(c->p, executor.workers()));
  c->p.workspace = workspace.data();
  c->p.workspace_bytes = gemm_workspace_bytes(c->p, executor.workers());
  const radix_status st = cpu_gemm(kernels, c->p, executor);
  EXPECT_TRUE(workspace.fence_holds());
  return st;
}

// Every executor gives the same bits; the first one's are checked.
void check(const GemmShape& shape, uint64_t seed) {
  SCOPED_TRACE(shape);
  for (const CpuKernels* kernels : runnable_targets()) {
    SCOPED_TRACE(kernels->name);
    Elements first;
    bool any = false;
    for (NamedExecutor& e : all_executors()) {
      SCOPED_TRACE(e.name);
      GemmCase c(shape, seed);
      ASSERT_EQ(run(&c, *kernels, e.executor), RADIX_OK);
      if (!any) c.expect_correct();
      if (!any) first = c.y;
      any = true;
      ASSERT_TRUE(c.y == first) << "other bits on another executor";
      if (::testing::Test::HasFatalFailure()) return;
    }
  }
}

GemmShape shape_of(uint32_t rows, uint32_t in, uint32_t out) {
  GemmShape s;
  s.rows = rows;
  s.in = in;
  s.out = out;
  return s;
}

TEST(Gemm, EverySizeAroundATile) {
  for (uint32_t rows = 1; rows <= 14; ++rows) {
    for (const uint32_t in : {1u, 7u, 16u, 17u, 31u, 64u}) {
      for (const uint32_t out : {1u, 2u, 3u, 4u, 5u, 13u}) check(shape_of(rows, in, out), rows);
    }
  }
}

TEST(Gemm, EveryDtype) {
  for (const int32_t x : kFloatDtypes) {
    for (const int32_t weight : kFloatDtypes) {
      for (const int32_t y : kFloatDtypes) {
        for (const uint32_t rows : {2u, 9u}) {
          GemmShape s = shape_of(rows, 75, 37);
          s.x = x;
          s.weight = weight;
          s.y = y;
          s.bias = s.add = true;
          s.bias_dtype = weight;
          s.gap = 3;
          check(s, 21);
        }
      }
    }
  }
}

TEST(Gemm, ChunksOfTheSumAndTheirEdges) {
  for (const uint32_t in : {kGemmChunk - 1, kGemmChunk, kGemmChunk + 1, 3 * kGemmChunk + 5}) {
    for (const uint32_t rows : {1u, 6u, 8u}) check(shape_of(rows, in, 9), 31);
  }
}

TEST(Gemm, BlocksOfRowsAndColumnsAndTheirEdges) {
  for (const uint32_t rows : {kGemmRowBlock - 1, kGemmRowBlock, kGemmRowBlock + 1})
    check(shape_of(rows, 24, kGemmOutBlock + 3), 41);
  check(shape_of(2 * kGemmRowBlock + 7, 40, 2 * kGemmOutBlock), 42);
}

TEST(Gemm, BiasAndAddApartAndTogether) {
  for (const bool bias : {false, true}) {
    for (const bool add : {false, true}) {
      GemmShape s = shape_of(8, 33, 21);
      s.bias = bias;
      s.add = add;
      s.gap = 5;
      check(s, 51);
    }
  }
}

// y of `rows` rows, from the first of those of a larger case.
Elements first_rows(const GemmShape& shape, uint32_t rows, const CpuKernels& kernels) {
  GemmCase c(shape, 61);
  c.p.num_rows = rows;
  Executor inline_executor;
  EXPECT_EQ(run(&c, kernels, inline_executor), RADIX_OK);
  return c.y;
}

TEST(Gemm, ARowHasTheSameBitsHoweverManyRowsThereAre) {
  for (const CpuKernels* kernels : runnable_targets()) {
    SCOPED_TRACE(kernels->name);
    for (const int32_t weight : kFloatDtypes) {
      GemmShape s = shape_of(kGemmRowBlock + 9, kGemmChunk + 77, 35);
      s.weight = weight;
      s.bias = true;
      const Elements all = first_rows(s, s.rows, *kernels);
      for (const uint32_t rows : {1u, 2u, 3u, 4u, 5u, 6u, 7u, 13u, kGemmRowBlock}) {
        const Elements some = first_rows(s, rows, *kernels);
        ASSERT_EQ(std::memcmp(all.data(), some.data(), size_t{rows} * s.out * sizeof(float)), 0)
            << rows << " rows, weights " << dtype_name(weight);
      }
    }
  }
}

TEST(Gemm, ARowWithNanLeavesTheOthersAlone) {
  for (const CpuKernels* kernels : runnable_targets()) {
    GemmShape s = shape_of(9, 50, 11);
    Executor inline_executor;
    GemmCase clean(s, 71), dirty(s, 71);
    dirty.x.set(4 * dirty.p.x.row_stride + 49, std::nan(""));
    ASSERT_EQ(run(&clean, *kernels, inline_executor), RADIX_OK);
    ASSERT_EQ(run(&dirty, *kernels, inline_executor), RADIX_OK);
    for (uint32_t r = 0; r < s.rows; ++r) {
      for (uint32_t o = 0; o < s.out; ++o) {
        const int64_t at = r * clean.p.y.row_stride + o;
        if (r == 4) {
          EXPECT_TRUE(std::isnan(dirty.y.get(at)));
        } else {
          EXPECT_EQ(dirty.y.get(at), clean.y.get(at));
        }
      }
    }
  }
}

TEST(Gemm, AShortWorkspaceIsRefusedBeforeAnythingIsWritten) {
  GemmCase c(shape_of(4, 32, 8), 81);
  Executor inline_executor;
  alignas(64) char memory[64];
  c.p.workspace = memory;
  c.p.workspace_bytes = gemm_workspace_bytes(c.p, 1) - 1;
  EXPECT_EQ(cpu_gemm(*runnable_targets().front(), c.p, inline_executor), RADIX_E_BUFFER);
  EXPECT_TRUE(c.y == c.before);
}

TEST(Gemm, NoRowsOrColumnsIsNoWork) {
  GemmCase c(shape_of(4, 32, 8), 82);
  Executor inline_executor;
  c.p.num_rows = 0;
  EXPECT_EQ(cpu_gemm(*runnable_targets().front(), c.p, inline_executor), RADIX_OK);
  c.p.num_rows = 4;
  c.p.out = 0;
  EXPECT_EQ(cpu_gemm(*runnable_targets().front(), c.p, inline_executor), RADIX_OK);
  EXPECT_TRUE(c.y == c.before);
}

TEST(Gemm, TheWorkspaceGrowsWithRowsWidthAndWorkers) {
  GemmParams p;
  p.out = 512;
  uint64_t before = 0;
  for (p.num_rows = 1; p.num_rows < 500; p.num_rows += 13) {
    p.in = 16 * p.num_rows;
    const uint64_t bytes = gemm_workspace_bytes(p, 1);
    EXPECT_GE(bytes, before);
    EXPECT_EQ(gemm_workspace_bytes(p, 3), 3 * bytes);
    before = bytes;
  }
}

// A workspace for a large step serves every smaller one.
TEST(Gemm, TheWorkspaceNeverFallsWithRows) {
  for (const uint32_t in : {16u, 1000u, 1024u, 4096u, 20000u}) {
    GemmParams p;
    p.in = in;
    p.out = 64;
    uint64_t before = 0;
    for (p.num_rows = 1; p.num_rows < 420; ++p.num_rows) {
      const uint64_t bytes = gemm_workspace_bytes(p, 16);
      ASSERT_GE(bytes, before) << p.num_rows << " rows of " << in;
      before = bytes;
    }
  }
}

// Each number of rows around those where another way is taken, in exactly its workspace.
TEST(Gemm, EveryNumberOfRowsFitsItsWorkspace) {
  for (uint32_t rows = 1; rows < 30; ++rows) {
    SCOPED_TRACE(rows);
    check(shape_of(rows, 2100, 9), rows);
  }
}

TEST(Gemm, RandomCases) {
  for_random_cases("gemm", 60, [](uint64_t seed) {
    SCOPED_TRACE(::testing::Message() << "replay with RADIX_TEST_ONLY=" << seed);
    Rng rng(seed);
    GemmShape s = shape_of(rng.between(1, 40), rng.between(1, 200), rng.between(1, 150));
    if (rng.one_in(8)) s.in = rng.between(1000, 2300);
    if (rng.one_in(8)) s.rows = rng.between(150, 400);
    s.gap = rng.below(9);
    s.x = rng.pick(kFloatDtypes);
    s.weight = rng.pick(kFloatDtypes);
    s.y = rng.pick(kFloatDtypes);
    s.bias_dtype = rng.pick(kFloatDtypes);
    s.bias = rng.one_in(2);
    s.add = rng.one_in(2);
    check(s, seed);
  });
}

}  // namespace
}  // namespace radixattn::test
