// Cuts a prefill launch into items and runs them. See kernels.h for the invariants and prefill.cpp
// for the kernel.
//
// Items are independent: each owns its query rows and sees all their keys, so nothing is merged.
// Within a sequence the last rows come first: they see the most keys, and what is left at the end
// should be small.
#include "backend/cpu/attention_check.h"
#include "backend/cpu/attention_jobs.h"
#include "backend/cpu/kernels.h"
#include "base/error.h"
#include "base/executor.h"

namespace radixattn {
namespace {

constexpr uint32_t kItemsPerWorker = 4;  // or more, if there can be

uint64_t scratch_bytes(const AttentionParams& p) {
  return (prefill_scratch_floats(p) * sizeof(float) + 63) / 64 * 64;
}

struct Layout {
  uint64_t* first_item = nullptr;  // [num_seqs + 1]
  char* scratch = nullptr;         // [workers, scratch_bytes]
  uint64_t bytes = 0;
};

Layout lay_out(const AttentionParams& p, uint32_t workers, void* base) {
  Carver carver(base);
  Layout l;
  l.first_item = static_cast<uint64_t*>(carver.take((uint64_t{p.num_seqs} + 1) * sizeof(uint64_t)));
  l.scratch = static_cast<char*>(carver.take(scratch_bytes(p) * workers));
  l.bytes = carver.used();
  return l;
}

uint64_t stacked_rows(const AttentionParams& p, uint32_t seq) {
  const uint64_t q_len = static_cast<uint64_t>(p.cu_q_lens[seq + 1] - p.cu_q_lens[seq]);
  return q_len * (p.num_q_heads / p.num_kv_heads);
}

uint64_t row_tiles(const AttentionParams& p, uint32_t seq, uint32_t item_rows) {
  return (stacked_rows(p, seq) + item_rows - 1) / item_rows;
}

uint64_t count_items(const AttentionParams& p, uint32_t item_rows) {
  uint64_t items = 0;
  for (uint32_t s = 0; s < p.num_seqs; ++s) items += row_tiles(p, s, item_rows) * p.num_kv_heads;
  return items;
}

// What the tasks of one launch share; each draws items until none are left.
struct Run {
  const CpuKernels* kernels;
  PrefillJob job;
  const Layout* layout;
  uint64_t scratch_bytes;
  uint32_t item_rows;
  uint64_t num_items;
  uint64_t next_item;
};

PrefillItem make_item(const Run& run, uint64_t index) {
  const AttentionParams& p = *run.job.params;
  const uint64_t* first = run.layout->first_item;
  uint32_t low = 0, high = p.num_seqs;  // the last sequence whose first item is not behind `index`
  while (high - low > 1) {
    const uint32_t middle = low + (high - low) / 2;
    (first[middle] <= index ? low : high) = middle;
  }
  PrefillItem item;
  item.seq = low;
  const uint64_t local = index - first[low];
  item.head_begin = static_cast<uint32_t>(local % p.num_kv_heads);
  item.head_end = item.head_begin + 1;
  const uint64_t tile = row_tiles(p, low, run.item_rows) - 1 - local / p.num_kv_heads;
  const uint64_t rows = stacked_rows(p, low);
  const uint64_t begin = tile * run.item_rows;
  const uint64_t end = begin + run.item_rows;
  item.row_begin = static_cast<uint32_t>(begin);
  item.row_end = static_cast<uint32_t>(end < rows ? end : rows);
  item.token_end = static_cast<uint32_t>(p.context_lens[low]);
  return item;
}

void RADIX_CALL run_items(void* arg, uint32_t worker) {
  Run& run = *static_cast<Run*>(arg);
  void* scratch = run.layout->scratch + run.scratch_bytes * worker;
  for (;;) {
    const uint64_t i = __atomic_fetch_add(&run.next_item, uint64_t{1}, __ATOMIC_RELAXED);
    if (i >= run.num_items) return;
    run.kernels->prefill_item(run.job, make_item(run, i), scratch);
  }
}

}  // namespace

// A row's result does not depend on the rows beside it, so the workers may have a say.
uint32_t prefill_item_rows(const AttentionParams& p, uint32_t workers) {
  const uint64_t wanted = workers == 1 ? 1 : uint64_t{workers} * kItemsPerWorker;
  return count_items(p, kPrefillRows) < wanted ? kPrefillFewRows : kPrefillRows;
}

uint64_t prefill_workspace_bytes(const AttentionParams& p, uint32_t workers) {
  return lay_out(p, workers == 0 ? 1 : workers, nullptr).bytes;
}

radix_status cpu_prefill(const CpuKernels& kernels, const AttentionParams& p, Executor& executor) {
  if (const radix_status st = check_attention(p); st != RADIX_OK) return st;
  const uint32_t workers = executor.workers() == 0 ? 1 : executor.workers();
  const Layout layout = lay_out(p, workers, p.workspace);
  const uint32_t item_rows = prefill_item_rows(p, workers);
  uint64_t items = count_items(p, item_rows);
  if (items == 0) return RADIX_OK;
  if (p.workspace_bytes < layout.bytes) {
    return fail(RADIX_E_BUFFER, "workspace_size is %llu: this launch needs %llu bytes",
                static_cast<unsigned long long>(p.workspace_bytes),
                static_cast<unsigned long long>(layout.bytes));
  }
  items = 0;
  for (uint32_t s = 0; s < p.num_seqs; ++s) {
    layout.first_item[s] = items;
    items += row_tiles(p, s, item_rows) * p.num_kv_heads;
  }
  layout.first_item[p.num_seqs] = items;
  Run run = {&kernels, PrefillJob{&p, nullptr, {}}, &layout, scratch_bytes(p), item_rows, items, 0};
  executor.parallel_for(items < workers ? static_cast<uint32_t>(items) : workers, run_items, &run);
  return RADIX_OK;
}

}  // namespace radixattn
