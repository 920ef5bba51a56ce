// Cuts the products and norms of a layer into items and runs them. See kernels.h for the
// invariants, gemm.cpp and rms_norm.cpp for the kernels.
#include "backend/cpu/gemm_jobs.h"
#include "backend/cpu/kernels.h"
#include "base/error.h"
#include "base/executor.h"

namespace radixattn {
namespace {

// Below this many elements read (norms), or multiply-adds (products), waking a thread costs more
// than it saves.
constexpr uint64_t kMinNormElements = 64 * 1024;
constexpr uint64_t kMinMultiplyAdds = 256 * 1024;
constexpr uint32_t kItemsPerWorker = 4;  // of columns: what is left at the end should be small

uint64_t at_least_one(uint64_t n) { return n == 0 ? 1 : n; }

// ---- norms

struct NormRun {
  const CpuKernels* kernels;
  const NormParams* params;
  uint64_t vectors, ranges;
};

void RADIX_CALL run_norm(void* arg, uint32_t index) {
  const NormRun& run = *static_cast<const NormRun*>(arg);
  run.kernels->rms_norm(*run.params, run.vectors * index / run.ranges,
                        run.vectors * (index + 1) / run.ranges);
}

// ---- products

uint64_t scratch_bytes(const GemmParams& p) {
  return (gemm_scratch_floats(p.num_rows, p.in) * sizeof(float) + 63) / 64 * 64;
}

// What the tasks of one launch share; each draws items until none are left.
struct GemmRun {
  const CpuKernels* kernels;
  const GemmParams* params;
  uint64_t scratch_bytes;
  uint32_t columns;  // of an item
  uint32_t column_items;
  uint64_t num_items;
  uint64_t next_item;
};

uint32_t min_of(uint64_t a, uint64_t b) { return static_cast<uint32_t>(a < b ? a : b); }

// Column items of a row block lie side by side: workers share its rows of x in the caches.
GemmItem make_item(const GemmRun& run, uint64_t index) {
  const uint64_t row = index / run.column_items * kGemmRowBlock;
  const uint64_t column = index % run.column_items * run.columns;
  GemmItem item;
  item.row_begin = static_cast<uint32_t>(row);
  item.row_end = min_of(row + kGemmRowBlock, run.params->num_rows);
  item.out_begin = static_cast<uint32_t>(column);
  item.out_end = min_of(column + run.columns, run.params->out);
  return item;
}

void RADIX_CALL run_gemm(void* arg, uint32_t worker) {
  GemmRun& run = *static_cast<GemmRun*>(arg);
  char* scratch = static_cast<char*>(run.params->workspace) + run.scratch_bytes * worker;
  for (;;) {
    const uint64_t i = __atomic_fetch_add(&run.next_item, uint64_t{1}, __ATOMIC_RELAXED);
    if (i >= run.num_items) return;
    run.kernels->gemm_item(*run.params, make_item(run, i), scratch);
  }
}

// Columns of an item: a multiple of kGemmPanel, at most kGemmOutBlock, no more than gives every
// worker some, no fewer than are worth an item.
uint32_t item_columns(const GemmParams& p, uint32_t workers) {
  const uint64_t work = at_least_one(uint64_t{p.num_rows} * p.in);
  uint64_t columns = p.out / (uint64_t{workers} * kItemsPerWorker);
  const uint64_t useful = kMinMultiplyAdds / work;
  if (columns < useful) columns = useful;
  columns = columns / kGemmPanel * kGemmPanel;
  if (columns < kGemmPanel) columns = kGemmPanel;
  return columns < kGemmOutBlock ? static_cast<uint32_t>(columns) : kGemmOutBlock;
}

}  // namespace

radix_status cpu_rms_norm(const CpuKernels& kernels, const NormParams& p, Executor& executor) {
  const uint64_t vectors = uint64_t{p.num_rows} * p.num_heads;
  if (vectors == 0 || p.dim == 0) return RADIX_OK;
  uint64_t ranges = (vectors * p.dim + kMinNormElements - 1) / kMinNormElements;
  if (ranges > executor.workers()) ranges = executor.workers();
  if (ranges > vectors) ranges = vectors;
  NormRun run = {&kernels, &p, vectors, ranges};
  executor.parallel_for(static_cast<uint32_t>(ranges), run_norm, &run);
  return RADIX_OK;
}

uint64_t gemm_workspace_bytes(const GemmParams& p, uint32_t workers) {
  return scratch_bytes(p) * at_least_one(workers);
}

radix_status cpu_gemm(const CpuKernels& kernels, const GemmParams& p, Executor& executor) {
  if (p.num_rows == 0 || p.out == 0) return RADIX_OK;
  const auto workers = static_cast<uint32_t>(at_least_one(executor.workers()));
  const uint64_t needed = gemm_workspace_bytes(p, workers);
  if (p.workspace_bytes < needed) {
    return fail(RADIX_E_BUFFER, "workspace_size is %llu: this product needs %llu bytes",
                static_cast<unsigned long long>(p.workspace_bytes),
                static_cast<unsigned long long>(needed));
  }
  GemmRun run = {&kernels, &p, scratch_bytes(p), item_columns(p, workers), 0, 0, 0};
  run.column_items = (p.out + run.columns - 1) / run.columns;
  run.num_items = (uint64_t{p.num_rows} + kGemmRowBlock - 1) / kGemmRowBlock * run.column_items;
  executor.parallel_for(min_of(run.num_items, workers), run_gemm, &run);
  return RADIX_OK;
}

}  // namespace radixattn
