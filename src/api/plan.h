// What `radix_plan` points to: the memory of one step's arrays and what the last update made.
//
// An update reads the cache under the context's lock, writes the step (plan/step.h) to the host's
// side, and hands it to the backend. Lives in memory of its own allocator, made and unmade in
// place. Does not: decide how anything is cut (plan/) or touch a device (backend/).
#pragma once

#include "api/context.h"
#include "plan/step.h"

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
  radixattn::StepWriter writer;
  radixattn::StepSizes step;  // the last update's

  char* device = nullptr;  // [layout.total_bytes]
  bool owns_device = false;
  uint64_t* versions = nullptr;  // [max_seqs]
  int32_t* mirror = nullptr;     // [max_seqs, row_stride]; null on the CPU
  char* staging[kStagings] = {};
  void* copied[kStagings] = {};  // events
  uint32_t turn = 0;             // the staging buffer that is next
  bool updated = false;
  bool decode = false;
  uint64_t uploaded = 0;

  bool bounds() const { return (config.flags & RADIX_PLAN_BOUNDS) != 0; }
  uint64_t mirror_bytes() const {
    return uint64_t{config.max_seqs} * shape.row_stride * sizeof(int32_t);
  }
  template <class T>
  T* array(uint64_t offset) const {
    return reinterpret_cast<T*>(device + offset);
  }
};

namespace radixattn {

// Holds a launch over blocks of `block_size` to the plan that it names, and gives decode the plan's
// list, none when it has none. INVALID, STATE: the launch is not the plan's.
radix_status read_plan(const radix_ctx& ctx, const radix_attn& d, bool prefill, uint32_t block_size,
                       DecodeList* out);

}  // namespace radixattn
