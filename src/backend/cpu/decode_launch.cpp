// Cuts a decode launch into items and runs them. See kernels.h for the invariants and decode.cpp
// for the kernel.
//
// Ranges of positions are fixed multiples of range_tokens, so that the same sequence is always
// summed in the same order. When that gives too few items for the workers, items are also cut by KV
// heads, which changes no sum.
#include "backend/cpu/attention_check.h"
#include "backend/cpu/attention_jobs.h"
#include "backend/cpu/kernels.h"
#include "base/error.h"
#include "base/executor.h"

namespace radixattn {
namespace {

// 1,024 tokens of 8 KV heads are 4 MB of f16 K/V against 16 KB of partial state; at most 32 ranges
// bound the merge.
constexpr uint32_t kMinRange = 1024;
constexpr uint32_t kMaxRanges = 32;
// Enough for the last items to even out. NOTE: more would cut by heads sooner, and half a token's
// row at a time reads a third slower (cpu.decode.f16.ctx4096.b1.t2: 24 GB/s with 4, 32 to 38 with
// 2).
constexpr uint32_t kItemsPerWorker = 2;
constexpr uint32_t kMinRunBytes =
    512;  // of a token's row that one item reads: shorter runs waste bandwidth

uint32_t div_up(uint32_t a, uint32_t b) { return a / b + (a % b != 0); }

uint32_t range_tokens(const AttentionParams& p) {
  const uint64_t span = uint64_t{kMinRange} * kMaxRanges;
  const uint64_t factor = (p.max_context_len + span - 1) / span;
  return static_cast<uint32_t>(kMinRange * (factor == 0 ? 1 : factor));
}

uint32_t range_bound(const AttentionParams& p) {
  const uint32_t ranges = div_up(p.max_context_len, kMinRange);
  return ranges == 0 ? 1 : ranges < kMaxRanges ? ranges : kMaxRanges;
}

struct Layout {
  uint32_t* first_item = nullptr;  // [num_seqs + 1]
  char* scratch = nullptr;         // [workers, scratch_bytes]
  uint64_t scratch_bytes = 0;
  DecodeJob job;
  uint64_t bytes = 0;
};

Layout lay_out(const AttentionParams& p, uint32_t workers, void* base) {
  Layout l;
  Carver carver(base);
  l.job.params = &p;
  l.job.range_tokens = range_tokens(p);
  l.job.max_ranges = range_bound(p);
  l.first_item = static_cast<uint32_t*>(carver.take((uint64_t{p.num_seqs} + 1) * sizeof(uint32_t)));
  l.scratch_bytes = (decode_scratch_floats(p) * sizeof(float) + 63) / 64 * 64;
  l.scratch = static_cast<char*>(carver.take(l.scratch_bytes * workers));
  if (l.job.max_ranges > 1) {
    const uint64_t rows = uint64_t{p.num_seqs} * l.job.max_ranges * p.num_q_heads;
    l.job.partial.o = static_cast<float*>(carver.take(rows * padded(p.head_dim_v) * sizeof(float)));
    l.job.partial.m = static_cast<float*>(carver.take(rows * sizeof(float)));
    l.job.partial.l = static_cast<float*>(carver.take(rows * sizeof(float)));
  }
  l.bytes = carver.used();
  return l;
}

// What the tasks of one launch share; each draws items until none are left.
struct Run {
  const CpuKernels* kernels;
  const Layout* layout;
  uint32_t head_splits;
  uint32_t num_items;
  uint32_t next_item;
  uint32_t next_merge;
};

uint32_t draw(uint32_t* counter) { return __atomic_fetch_add(counter, 1u, __ATOMIC_RELAXED); }

// The sequence of position `slot` in the item list: first_item[seq] <= slot < first_item[seq + 1].
uint32_t find_seq(const uint32_t* first_item, uint32_t num_seqs, uint32_t slot) {
  uint32_t low = 0, high = num_seqs;
  while (high - low > 1) {
    const uint32_t middle = low + (high - low) / 2;
    (first_item[middle] <= slot ? low : high) = middle;
  }
  return low;
}

DecodeItem make_item(const Run& run, uint32_t index) {
  const DecodeJob& job = run.layout->job;
  const AttentionParams& p = *job.params;
  const uint32_t slot = index / run.head_splits;
  const uint32_t split = index % run.head_splits;
  DecodeItem item;
  item.seq = find_seq(run.layout->first_item, p.num_seqs, slot);
  const uint32_t heads = p.num_kv_heads / run.head_splits;
  item.head_begin = split * heads;
  item.head_end = item.head_begin + heads;
  item.query = item.seq;
  item.position = p.context_lens[item.seq] - 1;
  const uint32_t ranges = decode_num_ranges(job, item.seq);
  if (ranges == 0) return item;
  const uint32_t range = slot - run.layout->first_item[item.seq];
  const uint32_t first = decode_first_token(p, item.seq);
  const auto context = static_cast<uint32_t>(p.context_lens[item.seq]);
  const uint64_t begin = (uint64_t{first / job.range_tokens} + range) * job.range_tokens;
  const uint64_t end = begin + job.range_tokens;
  item.token_begin = begin > first ? static_cast<uint32_t>(begin) : first;
  item.token_end = end < context ? static_cast<uint32_t>(end) : context;
  if (ranges > 1) item.state = range_state(job, item.seq, range);
  return item;
}

// The item that a worker computes, or the one that it has drawn for afterwards.
struct Worker {
  Run* run;
  uint32_t item;
  bool drawn;  // afterwards
};

bool draw_early(void* arg, DecodeItem* next) {
  Worker& w = *static_cast<Worker*>(arg);
  w.item = draw(&w.run->next_item);
  w.drawn = true;
  if (w.item >= w.run->num_items) return false;
  *next = make_item(*w.run, w.item);
  return true;
}

void RADIX_CALL run_items(void* arg, uint32_t worker) {
  Run& run = *static_cast<Run*>(arg);
  void* scratch = run.layout->scratch + run.layout->scratch_bytes * worker;
  Worker w = {&run, draw(&run.next_item), false};
  DecodeAhead ahead = {draw_early, &w};
  while (w.item < run.num_items) {
    w.drawn = false;
    run.kernels->decode_item(run.layout->job, make_item(run, w.item), ahead, scratch);
    if (!w.drawn) w.item = draw(&run.next_item);
  }
}

void RADIX_CALL run_merges(void* arg, uint32_t) {
  Run& run = *static_cast<Run*>(arg);
  const AttentionParams& p = *run.layout->job.params;
  const uint32_t n = p.num_seqs * p.num_kv_heads;
  for (uint32_t i = draw(&run.next_merge); i < n; i = draw(&run.next_merge)) {
    const uint32_t seq = i / p.num_kv_heads;
    const uint32_t head = i % p.num_kv_heads;
    if (decode_num_ranges(run.layout->job, seq) > 1) {
      run.kernels->decode_merge(run.layout->job, seq, head, head + 1);
    }
  }
}

uint32_t choose_head_splits(const AttentionParams& p, uint32_t ranges, uint32_t workers) {
  if (workers <= 1) return 1;
  const uint32_t element = p.k.dtype == RADIX_F32 ? 4 : 2;
  uint32_t splits = 1;
  while (ranges * splits < workers * kItemsPerWorker && p.num_kv_heads % (2 * splits) == 0 &&
         uint64_t{p.num_kv_heads / (2 * splits)} * p.head_dim * element >= kMinRunBytes) {
    splits *= 2;
  }
  return splits;
}

uint32_t worker_count(const Executor& executor) {
  const uint32_t n = executor.workers();
  return n == 0 ? 1 : n;
}

}  // namespace

uint64_t decode_workspace_bytes(const AttentionParams& p, uint32_t workers) {
  return lay_out(p, workers == 0 ? 1 : workers, nullptr).bytes;
}

radix_status cpu_decode(const CpuKernels& kernels, const AttentionParams& p, Executor& executor) {
  if (const radix_status st = check_attention(p); st != RADIX_OK) return st;
  if (p.num_seqs == 0) return RADIX_OK;
  const uint32_t workers = worker_count(executor);
  const Layout layout = lay_out(p, workers, p.workspace);
  if (p.workspace_bytes < layout.bytes) {
    return fail(RADIX_E_BUFFER, "workspace_size is %llu: this launch needs %llu bytes",
                static_cast<unsigned long long>(p.workspace_bytes),
                static_cast<unsigned long long>(layout.bytes));
  }
  uint32_t items = 0;
  bool merge = false;
  for (uint32_t s = 0; s < p.num_seqs; ++s) {
    const uint32_t ranges = decode_num_ranges(layout.job, s);
    layout.first_item[s] = items;
    items += ranges == 0 ? 1 : ranges;
    merge = merge || ranges > 1;
  }
  layout.first_item[p.num_seqs] = items;
  Run run = {&kernels, &layout, choose_head_splits(p, items, workers), 0, 0, 0};
  run.num_items = items * run.head_splits;
  executor.parallel_for(workers < run.num_items ? workers : run.num_items, run_items, &run);
  const uint32_t merges = p.num_seqs * p.num_kv_heads;
  if (merge) executor.parallel_for(workers < merges ? workers : merges, run_merges, &run);
  return RADIX_OK;
}

}  // namespace radixattn
