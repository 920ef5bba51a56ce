// One step of an engine as arrays: block tables, lengths, and what a device makes slots and
// positions of. Pure: memory comes from the caller, nothing here knows requests or devices.
//
// All arrays of a step lie in one piece of memory, at offsets that a shape decides. Its front part
// is what the host writes; where host and device differ, that part is written to a staging buffer
// and copied:
//
//   schedule | context_lens | cu_q_lens | partial_begin | patch_begin | patch_first | items |
//   the arrays of a radix list | patch_ids || tables | slots | positions | workspace
//
// What is copied is what the step uses: patches come right behind the last item of its list, or in
// the list's place when it has none. Without padding, its list has no gaps; with it, captured
// launches name the places of its arrays, and each is a copy of its own where the room between two
// is more than a copy costs.
//
// Tables stay on the device from step to step. A mirror of them on the host tells what changed: of
// each row one patch, from the first entry that differs to the last. On the CPU the mirror is the
// tables themselves, and nothing is copied.
#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "plan/radix_schedule.h"

namespace radixattn {

struct StepShape {
  uint32_t max_seqs = 0;
  uint32_t max_query_tokens = 0;
  uint32_t block_size = 0;
  uint32_t row_stride = 0;                            // blocks of the longest sequence
  uint32_t max_items = 0;                             // of decode's work list; 0: none
  uint32_t max_radix_items = 0, max_radix_terms = 0;  // of the list over the tree; 0: none
  uint64_t workspace_bytes = 0;
  bool copies = false;  // host and device differ
  bool pads = false;    // rows up to max_seqs and max_query_tokens are padding, not absent
};

struct StepLayout {
  uint64_t schedule, context_lens, cu_q_lens, partial_begin, patch_begin, patch_first, items;
  uint64_t radix_sizes, radix_merges, radix_rows, radix_terms, radix_items, radix_end;
  // Room for every entry of every row if the shape copies, else none; a step with less of a list
  // has its patches earlier.
  uint64_t patch_ids;
  uint64_t staged_bytes;  // of the host's part at most
  uint64_t tables, slots, positions, workspace;
  uint64_t total_bytes;
};

// Each array begins on a multiple of 64 bytes. max_seqs * row_stride is below 2^31.
StepLayout step_layout(const StepShape& shape);

// The arrays of a radix list, the first of which lies at `list`.
RadixArrays radix_arrays(const StepLayout& layout, char* list);

struct StepSequence {
  const uint32_t* row = nullptr;  // [num_blocks] block ids, the highest bit of no account
  uint32_t num_blocks = 0;
  int32_t context_len = 0;
  int32_t query_len = 0;
  uint64_t version = 0;  // of the row: equal ones have equal entries; 0: unknown
};

// What is known of a step when it is written.
struct StepSizes {
  uint32_t num_seqs = 0, num_query_tokens = 0;  // without padding
  uint32_t max_context_len = 0, max_query_len = 0;
  uint32_t num_items = 0, split_tokens = 0, num_states = 0;
  uint32_t changed_rows = 0, changed_entries = 0;
  uint32_t num_radix_rows = 0, num_radix_terms = 0;
  uint64_t patch_ids = 0;  // offset, once the step has ended
};

// The arrays of the step's radix list, at `base` of the staging buffer or of the plan's memory.
RadixArrays step_radix(const StepShape& shape, const StepSizes& sizes, char* base);

// Writes steps one after another: begin, add each sequence, then schedule (decode) and end.
class StepWriter {
 public:
  // tables [max_seqs, row_stride] and versions [max_seqs] belong to the writer from now on. It says
  // in first_changed [max_seqs], if there is one, where each row begins to differ from the step
  // before; UINT32_MAX: nowhere.
  void bind(const StepShape& shape, int32_t* tables, uint64_t* versions,
            uint32_t* first_changed = nullptr);
  // The device's tables are unknown: the next step sends every row.
  void forget();

  // `base`: the staging buffer, or the plan's memory.
  void begin(char* base);
  void add(const StepSequence& sequence);  // at most max_seqs, and max_query_tokens rows
  // The work list of a decode step; walkers > 0 and the shape has items.
  void schedule(uint32_t walkers, uint32_t window);
  // No work list, for decode that comes all the same: nothing to walk, nothing to merge.
  void no_schedule();
  // The step's radix list, made elsewhere. num_merges: with padding.
  void put_radix(const RadixArrays& from, const RadixScheduleSizes& sizes, uint32_t num_merges);
  // Padding. What of the staging buffer is to be copied; none where the arrays are the host's.
  CopyRanges end();

  const StepSizes& sizes() const { return sizes_; }
  const int32_t* tables() const { return tables_; }
  // Of the step that is written: without padding until end().
  const int32_t* context_lens() const { return array(layout_.context_lens); }
  const int32_t* cu_q_lens() const { return array(layout_.cu_q_lens); }

 private:
  int32_t* array(uint64_t offset) const { return reinterpret_cast<int32_t*>(base_ + offset); }
  void patch_row(uint32_t seq, const StepSequence& sequence);
  uint64_t put_patches();
  CopyRanges used_ranges(uint64_t end) const;

  StepShape shape_;
  StepLayout layout_ = {};
  int32_t* tables_ = nullptr;
  uint64_t* versions_ = nullptr;
  uint32_t* first_changed_ = nullptr;
  char* base_ = nullptr;
  uint64_t items_end_ = 0;  // of decode's items
  uint64_t list_end_ = 0;   // of what the step has in front of its patches
  StepSizes sizes_;
};

// The arrays of a step in the plan's memory `device`, as launches and build_step take them.
StepParams step_params(const StepShape& shape, const StepSizes& sizes, void* device);

// build_step where the arrays are the host's: positions and slots.
void build_step_on_host(const StepParams& p);

}  // namespace radixattn
