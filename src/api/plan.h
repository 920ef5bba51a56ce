// What `radix_plan` points to: the memory of one step's arrays and what the last update made.
// plan.cpp makes it, plan_update.cpp fills it, plan_read.cpp hands it out.
//
// An update reads the cache under the context's lock, writes the step (plan/step.h) to the host's
// side, and hands it to the backend. Lives in memory of its own allocator, made and unmade in
// place. Does not: decide how anything is cut (plan/) or touch a device (backend/).
#pragma once

#include "api/context.h"
#include "plan/radix_planner.h"
#include "plan/step.h"

namespace radixattn {

// What a plan's configuration and its backend decide.
struct PlanShape {
  StepShape step;
  DecodeListSize list;
  RadixPlanShape radix;
};

}  // namespace radixattn

struct radix_plan {
  radix_plan(radix_ctx* context, const radixattn::HostAllocator& allocator)
      : ctx(context), memory(allocator) {}

  static constexpr uint32_t kStagings = 2;

  radix_ctx* ctx;
  radixattn::HostAllocator memory;
  radix_plan_config config = {};  // resolved
  radixattn::StepShape shape;
  radixattn::StepLayout layout = {};
  radixattn::DecodeListSize list;
  radixattn::RadixPlanShape radix;
  radixattn::StepWriter writer;
  radixattn::RadixPlanner planner;
  radixattn::StepSizes step;  // the last update's

  char* device = nullptr;  // [layout.total_bytes]
  bool owns_device = false;
  uint64_t* versions = nullptr;  // [max_seqs]
  int32_t* mirror = nullptr;     // [max_seqs, row_stride]; null on the CPU
  char* list_mirror = nullptr;   // the radix list of the step; null on the CPU
  char* planner_memory = nullptr;
  uint32_t* row = nullptr;  // [row_stride] of a sequence that is given by a tree's node
  char* staging[kStagings] = {};
  void* copied[kStagings] = {};  // events
  uint32_t turn = 0;             // the staging buffer that is next
  bool updated = false;
  bool decode = false;
  uint64_t uploaded = 0;

  bool bounds() const { return (config.flags & RADIX_PLAN_BOUNDS) != 0; }
  bool batch_invariant() const { return (config.flags & RADIX_PLAN_BATCH_INVARIANT) != 0; }
  uint64_t mirror_bytes() const {
    return uint64_t{config.max_seqs} * shape.row_stride * sizeof(int32_t);
  }
  uint64_t versions_bytes() const { return uint64_t{config.max_seqs} * sizeof(uint64_t); }
  uint64_t row_bytes() const { return uint64_t{shape.row_stride} * sizeof(uint32_t); }
  uint64_t list_bytes() const { return layout.radix_end - layout.radix_sizes; }
  template <class T>
  T* array(uint64_t offset) const {
    return reinterpret_cast<T*>(device + offset);
  }
};

namespace radixattn {

// Holds a launch, of which *p is read but for its lists, to the plan that it names, and gives it
// the plan's list, none when it has none. INVALID, STATE: the launch is not the plan's.
radix_status read_plan(const radix_ctx& ctx, const radix_attn& d, bool prefill, AttentionParams* p);

}  // namespace radixattn
