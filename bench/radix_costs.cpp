// What items of a work list (backend/radix_list.h) cost on the CPU: where the constants of
// cpu_radix_limits come from.
//
// One worker, bf16 K/V and f32 queries (another pair with --bf16-queries), 32 query heads, 8 KV
// heads, head dim 128, blocks of 16 in random order. Times are the process's own (user and system),
// the least of many runs, so that a busy machine does little harm; one token's K and V of one KV
// head in a narrow item are the unit. Links the static library: lists are no part of the C API.
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "base/executor.h"

namespace {

using radixattn::AttentionParams;
using radixattn::RadixItem;
using radixattn::RadixMerge;
using radixattn::RadixRow;

constexpr uint32_t kQueryHeads = 32, kKvHeads = 8, kDim = 128, kBlock = 16;
constexpr uint32_t kGroup = kQueryHeads / kKvHeads;
constexpr uint32_t kTokens = 65536, kBlocks = kTokens / kBlock, kMaxSeqs = 120;
constexpr int kRuns = 15;

double cpu_ns() {
  timespec t = {};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) * 1e9 + static_cast<double>(t.tv_nsec);
}

struct Bench {
  explicit Bench(bool bf16_queries)
      : k(size_t{kTokens} * kKvHeads * kDim, 0x3f80),
        v(k.size(), 0x3f80),
        q(size_t{kMaxSeqs} * kQueryHeads * kDim * 2, 0x3c00),
        out(q.size()),
        ids(size_t{kMaxSeqs} * kBlocks),
        backend(*radixattn::select_kernels(RADIX_CPU_AUTO), executor) {
    std::iota(ids.begin(), ids.begin() + kBlocks, 0);
    std::shuffle(ids.begin(), ids.begin() + kBlocks, std::mt19937(3));
    p.num_q_heads = kQueryHeads;
    p.num_kv_heads = kKvHeads;
    p.head_dim = p.head_dim_v = kDim;
    p.block_size = kBlock;
    p.num_blocks = kBlocks;
    p.max_context_len = kTokens;
    p.scale = 0.088f;
    const int32_t dtype = bf16_queries ? RADIX_BF16 : RADIX_F32;
    p.q = {q.data(), dtype, kQueryHeads * kDim, kDim};
    p.out = {out.data(), dtype, kQueryHeads * kDim, kDim};
    const int64_t token = kKvHeads * kDim;
    p.k = {k.data(), RADIX_BF16, kBlock * token, token, kDim};
    p.v = {v.data(), RADIX_BF16, kBlock * token, token, kDim};
    for (uint32_t s = 1; s < kMaxSeqs; ++s) {  // the same table for everybody
      std::copy_n(ids.begin(), kBlocks, ids.begin() + static_cast<int64_t>(s) * kBlocks);
    }
    p.blocks.tables = ids.data();
    p.blocks.row_stride = kBlocks;
    lens.assign(kMaxSeqs, static_cast<int32_t>(kTokens));
    p.context_lens = lens.data();
  }

  void add(int32_t begin, int32_t end, uint32_t seqs, int32_t state, bool narrow) {
    items.push_back({0, begin, end, 0, static_cast<int32_t>(seqs * kGroup), state, 0, narrow});
  }

  // Least time of the list in ns, for each KV head; rows have `states` states each.
  double time(uint32_t seqs, int32_t states) {
    p.num_seqs = seqs;
    rows.clear();
    merges.clear();
    terms.clear();
    for (int32_t i = 0; i < states; ++i) terms.push_back(i * static_cast<int32_t>(seqs));
    for (uint32_t s = 0; s < seqs; ++s) {
      rows.push_back({static_cast<int32_t>(s), static_cast<int32_t>(kTokens) - 1});
      merges.push_back({static_cast<int32_t>(s), 0, states});
    }
    const radixattn::RadixListSizes sizes = {static_cast<int32_t>(items.size()),
                                             static_cast<int32_t>(seqs)};
    p.radix = {&sizes,
               items.data(),
               rows.data(),
               merges.data(),
               terms.data(),
               static_cast<uint32_t>(items.size()),
               static_cast<uint32_t>(states) * seqs,
               static_cast<uint32_t>(states) * seqs,
               states != 0};
    if (backend.attention_workspace(p, false, &p.workspace_bytes) != RADIX_OK) std::abort();
    std::vector<char> memory(p.workspace_bytes + 64);
    p.workspace = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64;
    double least = 1e30;
    for (int i = 0; i < kRuns; ++i) {
      const double start = cpu_ns();
      if (backend.decode(p, nullptr) != RADIX_OK) std::abort();
      least = std::min(least, cpu_ns() - start);
    }
    items.clear();
    return least / kKvHeads;
  }

  std::vector<uint16_t> k, v, q, out;
  std::vector<int32_t> ids, lens, terms;
  std::vector<RadixItem> items;
  std::vector<RadixRow> rows;
  std::vector<RadixMerge> merges;
  radixattn::Executor executor;
  radixattn::CpuBackend backend;
  AttentionParams p;
};

constexpr int32_t kDirect = RadixItem::kDirect;

}  // namespace

int main(int argc, char** argv) {
  const bool bf16_queries = argc == 2 && std::strcmp(argv[1], "--bf16-queries") == 0;
  if (argc > 1 && !bf16_queries) {
    std::fprintf(stderr, "usage: %s [--bf16-queries]\n", argv[0]);
    return 2;
  }
  Bench b(bf16_queries);
  const auto narrow = [&](int32_t n) {
    b.add(0, n, 1, kDirect, true);
    return b.time(1, 0);
  };
  const double unit = narrow(kTokens) / kTokens;
  std::printf("narrow token  %.1f ns\n", unit);
  std::printf("narrow item   %.1f\n", (2 * narrow(64) - narrow(128)) / unit);
  for (const uint32_t seqs : {2u, 3u, 4u, 6u, 8u}) {
    const auto several = [&](int32_t n) {
      b.add(0, n, seqs, kDirect, true);
      return b.time(seqs, 0);
    };
    std::printf("narrow %u tokens: token %.2f\n", seqs, several(kTokens) / kTokens / unit);
  }
  for (const uint32_t seqs : {1u, 2u, 4u, 8u, 12u, 24u, 60u, 120u}) {
    const auto wide = [&](int32_t first, int32_t n) {
      b.add(first, first + n, seqs, kDirect, false);
      return b.time(seqs, 0);
    };
    const double token = (wide(0, 8192) - wide(0, 4096)) / 4096;
    const double item = 2 * wide(0, 128) - wide(0, 256);
    std::printf("wide %3u rows: token %.2f  item %.1f", seqs * kGroup, token / unit, item / unit);
    // 8 items of 128 tokens with a state for each row, and the same without.
    const auto eight = [&](bool states) {
      for (int32_t i = 0; i < 8; ++i) {
        const int32_t state = states ? i * static_cast<int32_t>(seqs) : kDirect;
        b.add(i * 128, (i + 1) * 128, seqs, state, false);
      }
      return b.time(seqs, states ? 8 : 0);
    };
    std::printf("  state %.2f\n", (eight(true) - eight(false)) / (8 * seqs) / unit);
  }
  return 0;
}
