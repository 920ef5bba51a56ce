// Runs a work list (backend/radix_list.h), and batch-invariant decode without a plan, which makes a
// list of its own.
//
// Workers draw (item, KV head) pairs until none are left: wide items go to prefill's kernel, narrow
// ones to decode's; items of few rows with some KV heads at a time. When all items are done, the
// rows that have states are merged. Who computes what, and when, changes no bit: states have places
// of their own and meet in the order of their terms.
//
// Items stand in the list by cost, so that what has many rows, and computes, mostly comes before
// the reads: items of one query token or few, which wait for memory. If all workers took them in
// this order, all would compute first and then share the memory's bandwidth. So every second worker
// begins with the reads, and leaves only the last of them for the end:
//
//   list             C C C C C C C C C C | r r r r r r r r | r r r r
//   even workers     1 2 3 ...           |                 | then these
//   odd workers      then these          | 1 2 3 ...       | then these
//
// Batch-invariant launches know no narrow items: one kernel's arithmetic serves all rows.
#include <initializer_list>

#include "backend/cpu/attention_check.h"
#include "backend/cpu/attention_jobs.h"
#include "backend/cpu/kernels.h"
#include "base/error.h"
#include "base/executor.h"

namespace radixattn {
namespace {

constexpr uint32_t kMergeRows = 8;  // query rows of a merge that a worker draws
// Partial states of a plan, and of batch-invariant decode, take at most this, or two for each
// sequence.
constexpr uint64_t kMaxStateBytes = 64ull << 20;
// As in decode_launch.cpp: items of few rows are cut by heads until each worker has a few.
constexpr uint32_t kItemsPerWorker = 2;
constexpr uint32_t kMinRunBytes = 512;
constexpr uint32_t kPrefillItems = 16;  // the same in prefill, which has more to balance
// Batch-invariant decode is cut until sequences, KV heads and cuts make this many items a worker.
constexpr uint32_t kInvariantItems = 8;

// Rows of kLanes on AVX-512; measured there with head dim 128 and 4 query heads a KV head by
// bench/radix_costs.cpp (Zen 5, 19 ns a token): 32 to 480 stacked rows come out within 12% of
// wide_token + panels * panel_token, 16 within 15%; up to 8, which do not fill a panel, cost less.
// The first are those of bf16 dot products, which bf16 K/V stands for: a plan does not know the
// queries' dtype.
// An item's start and end cost little by themselves but 3 to 5 for each of its stacked rows, which
// is in `state`, for a query token of 4 heads. A token of a narrow item counts less than the unit:
// what sequences share is in the third-level cache when the second of them reads it.
constexpr uint32_t kPanelRows = 16;
constexpr RadixCosts kBf16Costs = {12.f, 0.9f, 0.3f, 0.62f, 2.2f, 1.45f, 18.f};
constexpr RadixCosts kCosts = {12.f, 0.9f, 0.3f, 0.68f, 2.6f, 1.95f, 18.f};
// Decode's kernel is bound by arithmetic from 8 query heads on: unshared launches of 4, 8, 12, 16
// and 32 heads took 16.6, 29.3, 42.7, 57.2 and 107.2 ms. One or two heads take as long as four.
constexpr float kNarrowTokenOfAHead = 0.2f;
constexpr float kLeastNarrowMore = 0.45f;

uint32_t div_up(uint32_t a, uint32_t b) { return a / b + (a % b != 0); }

uint64_t state_bytes(const AttentionParams& p) {
  return uint64_t{p.num_q_heads} * (padded(p.head_dim_v) + 2) * sizeof(float);
}

struct Layout {
  char* scratch = nullptr;  // [workers, scratch_bytes]
  uint64_t scratch_bytes = 0;
  PartialStates partial;
};

PartialStates place_states(const AttentionParams& p, uint64_t states, void* at) {
  const uint64_t rows = states * p.num_q_heads;
  PartialStates partial;
  if (at == nullptr) return partial;
  partial.o = static_cast<float*>(at);
  partial.m = partial.o + rows * padded(p.head_dim_v);
  partial.l = partial.m + rows;
  return partial;
}

Layout lay_out(const AttentionParams& p, uint32_t workers, Carver* carver) {
  Layout l;
  const uint64_t wide = prefill_scratch_floats(p);
  const uint64_t narrow = kDecodeRows * decode_scratch_floats(p);
  l.scratch_bytes = ((wide > narrow ? wide : narrow) * sizeof(float) + 63) / 64 * 64;
  l.scratch = static_cast<char*>(carver->take(l.scratch_bytes * workers));
  return l;
}

radix_status check_room(const AttentionParams& p, uint64_t needed) {
  if (p.workspace_bytes >= needed) return RADIX_OK;
  return fail(RADIX_E_BUFFER, "workspace_size is %llu: this launch needs %llu bytes",
              static_cast<unsigned long long>(p.workspace_bytes),
              static_cast<unsigned long long>(needed));
}

uint32_t worker_count(const Executor& executor) {
  const uint32_t n = executor.workers();
  return n == 0 ? 1 : n;
}

// ---- a list

// What the tasks of one launch share.
struct Run {
  const CpuKernels* kernels;
  const AttentionParams* params;
  const RadixList* list;
  const Layout* layout;
  uint32_t few_heads;  // KV heads that a worker takes at a time of an item of few rows
  uint32_t num_units;
  uint32_t first_read, late_read;  // units: the list's reads; those that stay for the end
  uint32_t next_unit, next_read;
  uint32_t num_rows, next_row;  // of merges
};

uint32_t draw(uint32_t* counter, uint32_t step) {
  return __atomic_fetch_add(counter, step, __ATOMIC_RELAXED);
}

uint32_t num_rows(const RadixItem& item) {
  return static_cast<uint32_t>(item.row_end - item.row_begin);
}

// Query tokens of a narrow item.
uint32_t num_tokens(const AttentionParams& p, const RadixItem& item) {
  return num_rows(item) / (p.num_q_heads / p.num_kv_heads);
}

// NOTE: a window cuts the keys of each row of several in another place: panels can do that.
bool is_narrow(const AttentionParams& p, const RadixItem& item) {
  if (item.narrow == 0 || p.batch_invariant || p.tree_mask != nullptr) return false;
  if (num_rows(item) > kPrefillMultiRows) return false;
  const uint32_t tokens = num_tokens(p, item);
  return tokens == 1 || (tokens > 1 && tokens <= kDecodeRows && p.window == 0);
}

// In pieces that the kernel's scratch holds, where the list has more rows than wide_rows.
void run_wide(const Run& run, const RadixItem& from, uint32_t head, uint32_t heads, void* scratch) {
  const PrefillJob job = {run.params, run.list->rows, run.layout->partial};
  PrefillItem item;
  item.seq = static_cast<uint32_t>(from.seq);
  item.head_begin = head;
  item.head_end = head + heads;
  item.token_begin = static_cast<uint32_t>(from.token_begin);
  item.token_end = static_cast<uint32_t>(from.token_end);
  item.state = from.state;
  item.state_stride = from.state_stride;
  const auto end = static_cast<uint32_t>(from.row_end);
  for (auto row = static_cast<uint32_t>(from.row_begin); row < end; row = item.row_end) {
    item.row_begin = row;
    item.row_end = end - row < kPrefillRows ? end : row + kPrefillRows;
    run.kernels->prefill_item(job, item, scratch);
  }
}

DecodeItem narrow_item(const Run& run, const RadixItem& from, uint32_t head) {
  const AttentionParams& p = *run.params;
  const uint32_t group = p.num_q_heads / p.num_kv_heads;
  const uint32_t row = static_cast<uint32_t>(from.row_begin) / group;
  DecodeItem item;
  item.seq = static_cast<uint32_t>(from.seq);
  item.query = run.list->rows[row].query;
  item.position = run.list->rows[row].position;
  item.num_more = num_tokens(p, from) - 1;
  item.more = run.list->rows + row + 1;
  item.head_begin = head;
  item.head_end = head + run.few_heads;
  if (from.state != RadixItem::kDirect) item.state = int64_t{from.state} + row;
  const int64_t first = p.window != 0 ? int64_t{item.position} - p.window + 1 : 0;
  const int64_t end = int64_t{item.position} + 1;
  const int64_t token_begin = first > from.token_begin ? first : from.token_begin;
  const int64_t token_end = end < from.token_end ? end : from.token_end;
  if (token_begin < token_end) {
    item.token_begin = static_cast<uint32_t>(token_begin);
    item.token_end = static_cast<uint32_t>(token_end);
  }
  return item;
}

// A unit is a KV head of an item; some are computed with the head before.
struct Unit {
  const RadixItem* item = nullptr;
  uint32_t head = 0, heads = 0;
  bool narrow = false;
};

Unit unit_of(const Run& run, uint32_t index) {
  const AttentionParams& p = *run.params;
  Unit unit;
  unit.item = &run.list->items[index / p.num_kv_heads];
  unit.head = index % p.num_kv_heads;
  const bool many = num_rows(*unit.item) > kPrefillMultiRows;
  unit.heads = many ? 1 : run.few_heads;
  unit.narrow = is_narrow(p, *unit.item);
  return unit;
}

// ---- who draws what

// Narrow items of a few query tokens compute more than they read, but they stand among the reads.
bool is_read(const AttentionParams& p, const RadixItem& item) {
  return num_rows(item) <= p.num_q_heads / p.num_kv_heads || is_narrow(p, item);
}

RadixCosts costs_of(const AttentionParams& p) {
  RadixCosts costs = p.k.dtype == RADIX_BF16 ? kBf16Costs : kCosts;
  const uint32_t group_heads = p.num_q_heads / p.num_kv_heads;
  const auto group = static_cast<float>(group_heads);
  costs.state *= group / 4;
  float narrow_computed = kNarrowTokenOfAHead * group;
  costs.narrow_more *= group / 4;
  if (costs.narrow_more < kLeastNarrowMore) costs.narrow_more = kLeastNarrowMore;
  if (p.k.dtype == RADIX_F32) {  // the unit is twice as long
    costs.item *= 0.5f;
    narrow_computed *= 0.5f;
    costs.narrow_keys *= 0.5f;
    costs.narrow_more *= 0.5f;
    costs.wide_token *= 0.5f;
    costs.panel_token *= 0.5f;
    costs.state *= 0.5f;
  }
  if (narrow_computed > costs.narrow_token) costs.narrow_token = narrow_computed;
  return costs;
}

// Of one KV head.
float item_cost(const AttentionParams& p, const RadixCosts& costs, const RadixItem& item) {
  const auto panels = static_cast<float>(div_up(num_rows(item), kPanelRows));
  const float token = is_narrow(p, item) ? narrow_key_cost(costs, num_tokens(p, item))
                                         : costs.wide_token + panels * costs.panel_token;
  return costs.item + static_cast<float>(item.token_end - item.token_begin) * token;
}

// The list's reads are its last items, as far as these have one query token or few. So many of them
// stay for the end that they fill the time by which workers that compute end apart: half of the
// longest unit each, on average. But at most half of them stay: the first units that compute want
// company, too.
void place_reads(uint32_t workers, Run* run) {
  const AttentionParams& p = *run->params;
  const RadixItem* items = run->list->items;
  const RadixCosts costs = costs_of(p);
  const uint32_t num = run->num_units / p.num_kv_heads;
  uint32_t first = num;
  float reads = 0, longest = 0;
  while (first > 0 && is_read(p, items[first - 1])) reads += item_cost(p, costs, items[--first]);
  for (uint32_t i = 0; i < first; ++i) {
    const float heads = static_cast<float>(unit_of(*run, i * p.num_kv_heads).heads);
    const float cost = item_cost(p, costs, items[i]) * heads;
    if (cost > longest) longest = cost;
  }
  const float apart =
      longest / 2 * static_cast<float>(workers) / static_cast<float>(p.num_kv_heads);
  float stay = apart < reads / 2 ? apart : reads / 2;
  uint32_t late = num;
  while (late > first && stay > 0) stay -= item_cost(p, costs, items[--late]);
  run->first_read = run->next_read = first * p.num_kv_heads;
  run->late_read = late * p.num_kv_heads;
}

// The next unit that is not computed with the head before; num_units or more: there is none.
uint32_t draw_unit(Run* run, bool reads_first) {
  for (;;) {
    const bool early =
        reads_first && __atomic_load_n(&run->next_read, __ATOMIC_RELAXED) < run->late_read;
    uint32_t i = early ? run->first_read : draw(&run->next_unit, 1);
    if (i >= run->first_read) i = draw(&run->next_read, 1);
    if (i >= run->num_units) {
      if (early) continue;  // others took them in between
      return i;
    }
    const Unit unit = unit_of(*run, i);
    if (unit.head % unit.heads == 0) return i;
  }
}

// The unit that a worker computes, or the one that it has drawn for afterwards.
struct Worker {
  Run* run;
  bool reads_first;
  uint32_t unit;
  bool drawn;  // afterwards
};

bool draw_early(void* arg, DecodeItem* next) {
  Worker& w = *static_cast<Worker*>(arg);
  w.unit = draw_unit(w.run, w.reads_first);
  w.drawn = true;
  if (w.unit >= w.run->num_units) return false;
  const Unit unit = unit_of(*w.run, w.unit);
  if (unit.narrow) *next = narrow_item(*w.run, *unit.item, unit.head);
  return unit.narrow;
}

void RADIX_CALL run_items(void* arg, uint32_t worker) {
  Run& run = *static_cast<Run*>(arg);
  void* scratch = run.layout->scratch + run.layout->scratch_bytes * worker;
  DecodeJob job;
  job.params = run.params;
  job.partial = run.layout->partial;
  Worker w = {&run, worker % 2 != 0, 0, false};
  w.unit = draw_unit(&run, w.reads_first);
  DecodeAhead ahead = {draw_early, &w};
  while (w.unit < run.num_units) {
    const Unit unit = unit_of(run, w.unit);
    w.drawn = false;
    if (unit.narrow) {
      run.kernels->decode_item(job, narrow_item(run, *unit.item, unit.head), ahead, scratch);
    } else {
      run_wide(run, *unit.item, unit.head, unit.heads, scratch);
    }
    if (!w.drawn) w.unit = draw_unit(&run, w.reads_first);
  }
}

// The sequence of query row `row`, counted from the first one.
uint32_t find_seq(const AttentionParams& p, uint32_t row) {
  if (p.cu_q_lens == nullptr) return row;
  const int64_t at = int64_t{p.cu_q_lens[0]} + row;
  uint32_t low = 0, high = p.num_seqs;
  while (high - low > 1) {
    const uint32_t middle = low + (high - low) / 2;
    (p.cu_q_lens[middle] <= at ? low : high) = middle;
  }
  return low;
}

void RADIX_CALL run_merges(void* arg, uint32_t) {
  Run& run = *static_cast<Run*>(arg);
  const AttentionParams& p = *run.params;
  const RadixMergeJob job = {&p, run.list->merges, run.list->terms, run.layout->partial};
  for (;;) {
    uint32_t row = draw(&run.next_row, kMergeRows);
    if (row >= run.num_rows) return;
    const uint32_t end = run.num_rows - row < kMergeRows ? run.num_rows : row + kMergeRows;
    while (row < end) {
      const uint32_t seq = find_seq(p, row);
      const uint32_t first =
          p.cu_q_lens == nullptr ? seq : static_cast<uint32_t>(p.cu_q_lens[seq] - p.cu_q_lens[0]);
      const uint32_t next = p.cu_q_lens == nullptr
                                ? seq + 1
                                : static_cast<uint32_t>(p.cu_q_lens[seq + 1] - p.cu_q_lens[0]);
      const uint32_t stop = next < end ? next : end;
      run.kernels->radix_merge(job, seq, row - first, stop - first);
      row = stop;
    }
  }
}

void run_list(const CpuKernels& kernels, const AttentionParams& p, const RadixList& list,
              const Layout& layout, Executor& executor) {
  const uint32_t workers = worker_count(executor);
  const auto num_items = static_cast<uint32_t>(list.sizes->num_items);
  Run run = {&kernels, &p, &list, &layout, radix_few_heads(p, num_items, workers), 0, 0, 0,
             0,        0,  0,     0};
  run.num_units = num_items * p.num_kv_heads;
  place_reads(workers, &run);
  if (run.num_units != 0)
    executor.parallel_for(workers < run.num_units ? workers : run.num_units, run_items, &run);
  if (!list.has_merges) return;
  run.num_rows = p.cu_q_lens == nullptr
                     ? p.num_seqs
                     : static_cast<uint32_t>(p.cu_q_lens[p.num_seqs] - p.cu_q_lens[0]);
  const uint32_t merges = div_up(run.num_rows, kMergeRows);
  if (merges != 0) executor.parallel_for(workers < merges ? workers : merges, run_merges, &run);
}

// ---- batch-invariant decode's own list

// Into how many pieces sequences are cut, and how many segments of one may have a state of their
// own.
struct InvariantCut {
  uint32_t pieces = 1;
  uint32_t segments = 0;
};

struct InvariantList {
  RadixListSizes* sizes = nullptr;
  RadixItem* items = nullptr;    // [num_seqs + wanted items]
  RadixRow* rows = nullptr;      // [num_seqs]
  RadixMerge* merges = nullptr;  // [num_seqs]
  int32_t* terms = nullptr;      // [max_states]
};

struct InvariantLayout {
  InvariantList list;
  Layout common;
  uint64_t max_states = 0;
  uint64_t bytes = 0;
};

// NOTE: never smaller for fewer sequences, which are cut into more pieces: a plan's workspace is
// that of its bounds.
InvariantLayout lay_out_invariant(const AttentionParams& p, uint32_t workers, void* base) {
  Carver carver(base);
  InvariantLayout l;
  const uint64_t wanted = uint64_t{workers} * kInvariantItems;
  const uint64_t seqs = p.num_seqs, cut_seqs = seqs < wanted ? seqs : wanted;
  const uint64_t segments = div_up(p.max_context_len, static_cast<uint32_t>(kSegmentTokens));
  uint64_t bytes = cut_seqs * segments * state_bytes(p);
  if (bytes > kMaxStateBytes) bytes = kMaxStateBytes;
  bytes = workers > 1 && segments > 1 ? bytes + cut_seqs * state_bytes(p) : 0;
  l.max_states = bytes / state_bytes(p);
  l.list.sizes = static_cast<RadixListSizes*>(carver.take(sizeof(RadixListSizes)));
  l.list.items = static_cast<RadixItem*>(carver.take((seqs + wanted) * sizeof(RadixItem)));
  l.list.rows = static_cast<RadixRow*>(carver.take(seqs * sizeof(RadixRow)));
  l.list.merges = static_cast<RadixMerge*>(carver.take(seqs * sizeof(RadixMerge)));
  l.list.terms = static_cast<int32_t*>(carver.take(cut_seqs * (segments + 1) * sizeof(int32_t)));
  l.common = lay_out(p, workers, &carver);
  l.common.partial = place_states(p, l.max_states, carver.take(bytes));
  l.bytes = carver.used();
  return l;
}

InvariantCut cut_of(const AttentionParams& p, uint32_t workers, uint64_t max_states) {
  InvariantCut cut;
  const uint64_t items = uint64_t{p.num_seqs} * p.num_kv_heads;
  const uint64_t wanted = uint64_t{workers} * kInvariantItems;
  if (items >= wanted || max_states <= p.num_seqs) return cut;
  cut.pieces = static_cast<uint32_t>((wanted + items - 1) / items);
  cut.segments = static_cast<uint32_t>(max_states / p.num_seqs - 1);
  return cut.segments == 0 ? InvariantCut() : cut;
}

// The items of one sequence: the first piece begins where the sequence does and folds its segments;
// those behind it leave a state each.
void add_sequence(const AttentionParams& p, const InvariantCut& cut, uint32_t seq,
                  const InvariantList& list, int32_t* num_states) {
  const auto row = static_cast<int32_t>(seq);
  const auto group = static_cast<int32_t>(p.num_q_heads / p.num_kv_heads);
  const int32_t context = p.context_lens[seq];
  list.rows[seq] = {row, context - 1};
  list.merges[seq] = {context > 0 ? row : -1, *num_states, *num_states};
  if (context == 0) return;
  const auto first = static_cast<int32_t>(decode_first_token(p, seq)) / kSegmentTokens;
  const int32_t segments = (context + kSegmentTokens - 1) / kSegmentTokens - first;
  auto pieces = static_cast<int32_t>(cut.pieces);
  if (pieces > segments) pieces = segments;
  int32_t begin = first;
  for (int32_t i = 0; i < pieces; ++i) {
    int32_t end = first + static_cast<int32_t>(int64_t{segments} * (i + 1) / pieces);
    const int32_t most = static_cast<int32_t>(cut.segments);
    if (i == 0 && pieces > 1 && first + segments - end > most) end = first + segments - most;
    if (end <= begin) continue;
    RadixItem item = {row,
                      begin * kSegmentTokens,
                      end == first + segments ? context : end * kSegmentTokens,
                      row * group,
                      (row + 1) * group,
                      RadixItem::kDirect,
                      0,
                      0};
    if (pieces > 1) {
      const int32_t states = i == 0 ? 1 : end - begin;
      item.state = *num_states - row;
      item.state_stride = i == 0 ? 0 : 1;
      for (int32_t k = 0; k < states; ++k) list.terms[*num_states + k] = item.state + k;
      *num_states += states;
      list.merges[seq].term_end = *num_states;
    }
    list.items[list.sizes->num_items++] = item;
    begin = end;
  }
}

}  // namespace

// KV heads of an item of few rows: all of them, unless there are too few items. Decode
// stops where a token's run of numbers would be short; prefill without a list takes one head at a
// time, and so does this when workers would have nothing to do.
uint32_t radix_few_heads(const AttentionParams& p, uint32_t num_items, uint32_t workers) {
  const bool prefill = p.cu_q_lens != nullptr;
  const uint64_t wanted =
      workers == 1 ? 1 : uint64_t{workers} * (prefill ? kPrefillItems : kItemsPerWorker);
  const uint32_t element = p.k.dtype == RADIX_F32 ? 4 : 2;
  constexpr uint32_t kMost = prefill_item_heads(1);
  uint32_t heads = p.num_kv_heads;
  const auto too_few = [&] {
    return uint64_t{num_items} * (p.num_kv_heads / heads) < wanted &&
           (prefill || uint64_t{heads / 2} * p.head_dim * element >= kMinRunBytes);
  };
  while (heads % 2 == 0 && (heads > kMost || too_few())) heads /= 2;
  return heads > kMost ? 1 : heads;
}

uint64_t radix_workspace_bytes(const AttentionParams& p, uint32_t max_states, uint32_t workers) {
  Carver carver(nullptr);
  lay_out(p, workers == 0 ? 1 : workers, &carver);
  carver.take(max_states * state_bytes(p));
  return carver.used();
}

uint64_t invariant_decode_workspace_bytes(const AttentionParams& p, uint32_t workers) {
  return lay_out_invariant(p, workers == 0 ? 1 : workers, nullptr).bytes;
}

radix_status cpu_radix(const CpuKernels& kernels, const AttentionParams& p, Executor& executor) {
  if (const radix_status st = check_attention(p); st != RADIX_OK) return st;
  Carver carver(p.workspace);
  Layout layout = lay_out(p, worker_count(executor), &carver);
  layout.partial =
      place_states(p, p.radix.max_states, carver.take(p.radix.max_states * state_bytes(p)));
  if (const radix_status st = check_room(p, carver.used()); st != RADIX_OK) return st;
  run_list(kernels, p, p.radix, layout, executor);
  return RADIX_OK;
}

radix_status cpu_invariant_decode(const CpuKernels& kernels, const AttentionParams& p,
                                  Executor& executor) {
  if (const radix_status st = check_attention(p); st != RADIX_OK) return st;
  if (p.num_seqs == 0) return RADIX_OK;
  const InvariantLayout layout = lay_out_invariant(p, worker_count(executor), p.workspace);
  if (const radix_status st = check_room(p, layout.bytes); st != RADIX_OK) return st;
  const InvariantList& own = layout.list;
  *own.sizes = {0, static_cast<int32_t>(p.num_seqs)};
  const InvariantCut cut = cut_of(p, worker_count(executor), layout.max_states);
  int32_t num_states = 0;
  bool merges = false;
  for (uint32_t s = 0; s < p.num_seqs; ++s) {
    add_sequence(p, cut, s, own, &num_states);
    merges = merges || own.merges[s].first_row < 0;
  }
  RadixList list;
  list.sizes = own.sizes;
  list.items = own.items;
  list.rows = own.rows;
  list.merges = own.merges;
  list.terms = own.terms;
  list.has_merges = merges || num_states != 0;
  run_list(kernels, p, list, layout.common, executor);
  return RADIX_OK;
}

RadixLimits cpu_radix_limits(const AttentionParams& bounds, uint32_t workers) {
  RadixLimits l;
  l.workers = workers == 0 ? 1 : workers;
  l.wide_rows = kPrefillRows;
  l.few_rows = kPrefillFewRows;
  l.draws = bounds.num_kv_heads;
  l.few_drawn = kPrefillMultiRows;
  l.panel_rows = kPanelRows;
  l.narrow_tokens = kDecodeRows;
  // A few items, states and terms for each sequence, and pieces for the workers.
  const uint64_t items = 8 * uint64_t{bounds.num_seqs} + 16 * l.workers;
  l.max_items = items < INT32_MAX ? static_cast<uint32_t>(items) : INT32_MAX;
  const uint64_t rows = most_rows(bounds) < 1024 ? most_rows(bounds) : 1024;
  uint64_t states = 16 * rows + 16 * uint64_t{l.workers};
  if (bounds.batch_invariant)  // of segments
    states += rows * div_up(bounds.max_context_len, static_cast<uint32_t>(kSegmentTokens));
  const uint64_t room = kMaxStateBytes / state_bytes(bounds);
  if (states > room) states = room;
  if (states < 2 * uint64_t{bounds.num_seqs}) states = 2 * uint64_t{bounds.num_seqs};
  l.max_states = static_cast<uint32_t>(states);
  l.max_terms = l.max_states;
  l.costs = costs_of(bounds);
  AttentionParams p = bounds;
  p.batch_invariant = true;  // the larger scratch
  l.workspace_bytes = radix_workspace_bytes(p, l.max_states, workers);
  return l;
}

}  // namespace radixattn
