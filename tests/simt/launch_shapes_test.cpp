// How large launches of the attention kernels and of RMS norm are on every architecture: threads
// and dynamic shared memory of a block, and how many blocks an SM holds by these. Registers bound
// it, too: those are in tests/ptxas/budget.json. The figures are compared with
// launch_shapes.golden; a change shows here before it costs a GPU half of its blocks.
// RADIX_UPDATE=1 writes the file anew.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "attention_launchers.h"
#include "plan/prefill_choice.h"

namespace radixattn::test {
namespace {

// CUDA C++ Programming Guide 13.0, technical specifications per compute capability.
struct Arch {
  int32_t number;
  uint32_t smem_per_block, smem_per_sm, threads_per_sm, blocks_per_sm;
};
constexpr Arch kArchs[] = {
    {75, 64 * 1024, 64 * 1024, 1024, 16},   {80, 163 * 1024, 164 * 1024, 2048, 32},
    {86, 99 * 1024, 100 * 1024, 1536, 16},  {89, 99 * 1024, 100 * 1024, 1536, 24},
    {90, 227 * 1024, 228 * 1024, 2048, 32}, {100, 227 * 1024, 228 * 1024, 2048, 32},
    {120, 99 * 1024, 100 * 1024, 1536, 24},
};
constexpr uint32_t kReserved =
    1024;  // shared memory that the system takes of every block, sm_80 on

simt::emu::Kernel last;

AttentionParams params_of(int32_t dtype, uint32_t dim) {
  AttentionParams p;
  p.num_seqs = 1;
  p.num_q_heads = 4;
  p.num_kv_heads = 1;
  p.head_dim = p.head_dim_v = dim;
  p.block_size = 16;
  p.num_blocks = 1;
  p.max_context_len = p.max_query_len = 64;
  p.k.dtype = p.v.dtype = dtype;
  p.q.dtype = p.out.dtype = RADIX_F16;
  p.k.block_stride = p.v.block_stride = 16 * dim;
  p.k.token_stride = p.v.token_stride = p.k.head_stride = p.v.head_stride = dim;
  return p;
}

// A line of the file, after the launcher has submitted a kernel.
std::string line_of(const char* name, const Arch& arch, int32_t dtype, uint32_t dim) {
  const uint32_t threads = last.block.x * last.block.y * last.block.z;
  const auto smem = static_cast<uint32_t>(last.smem);
  const uint32_t taken = smem + (arch.number >= 80 ? kReserved : 0);
  uint32_t blocks = arch.threads_per_sm / threads;
  blocks = std::min(blocks, arch.blocks_per_sm);
  if (taken > 0) blocks = std::min(blocks, arch.smem_per_sm / taken);
  EXPECT_LE(smem, arch.smem_per_block) << name;
  EXPECT_GE(blocks, 1u) << name;
  std::ostringstream line;
  line << name << ' ' << dtype_name(dtype) << " dim " << dim << " sm_" << arch.number << ": "
       << threads << " threads, " << smem << " bytes, " << blocks << " blocks\n";
  return line.str();
}

// Sampling's shared memory is static, the same for all rows: tests/ptxas/budget.json has it.
std::string sampling_lines(const Arch& arch) {
  VerifyParams p;
  p.num_seqs = p.target.num_rows = 1;
  p.target.logits.dtype = RADIX_BF16;
  EXPECT_EQ(cuda::launch_sample(p.target, {}, nullptr), 0);
  const std::string line = line_of("sample", arch, RADIX_BF16, 0);
  EXPECT_EQ(cuda::launch_verify(p, {}, nullptr), 0);
  return line + line_of("verify", arch, RADIX_BF16, 0);
}

TEST(LaunchShapes, AreThoseOfTheFile) {
  simt::emu::submit = [](const simt::emu::Kernel& k, void*) {
    last = k;
    return 0;
  };
  std::string table;
  for (const Arch& arch : kArchs) {
    const cuda::DeviceLimits limits = {arch.number, 100, arch.smem_per_block, arch.smem_per_sm};
    table += sampling_lines(arch);
    for (const int32_t dtype : {RADIX_F16, RADIX_F8_E4M3}) {
      for (const uint32_t dim : {64u, 128u, 256u}) {
        AttentionParams p = params_of(dtype, dim);
        EXPECT_EQ(cuda::launch_decode(p, split_of(p, 0), limits, nullptr), 0);
        table += line_of("decode", arch, dtype, dim);
        EXPECT_EQ(cuda::launch_radix(p, {}, limits, nullptr), 0);
        table += line_of("radix", arch, dtype, dim);
        const int32_t cu[] = {0, 64};
        p.cu_q_lens = cu;
        EXPECT_EQ(cuda::launch_prefill(p, limits, nullptr), 0);
        table += line_of("prefill", arch, dtype, dim);
        if (arch.number != 90 || !prefill_runs_on_wgmma(p)) continue;
        EXPECT_EQ(cuda::launch_prefill_wgmma(p, nullptr), 0);
        table += line_of("prefill_wgmma", arch, dtype, dim);
      }
    }
  }
  for (const uint32_t dim : {128u, 4096u}) {
    NormParams p;
    p.num_rows = 1;
    p.dim = dim;
    EXPECT_EQ(cuda::launch_rms_norm(p, nullptr), 0);
    for (const Arch& arch : kArchs) table += line_of("rms_norm", arch, RADIX_F16, dim);
  }
  simt::emu::submit = nullptr;
  if (std::getenv("RADIX_UPDATE") != nullptr) std::ofstream(RADIX_LAUNCH_SHAPES) << table;
  std::ifstream file(RADIX_LAUNCH_SHAPES);
  std::ostringstream expected;
  expected << file.rdbuf();
  EXPECT_EQ(table, expected.str()) << "RADIX_UPDATE=1 writes " << RADIX_LAUNCH_SHAPES << " anew";
}

}  // namespace
}  // namespace radixattn::test
