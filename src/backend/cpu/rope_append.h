// Rotary embedding fused with the write of K and V: the job that the kernels of every target get,
// and the launch. The mathematics is that of backend/reference/rope_append.h.
#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "plan/rope_frequencies.h"

namespace radixattn {

class Executor;
struct CpuKernels;

// One launch: what does not depend on the token.
struct RopeAppendJob {
  const RopeAppendParams* params = nullptr;
  RopeFrequencies frequencies;
};

// Rotates q in place and k on its way, and writes K and V to their slots. Slots and positions are
// checked first: a launch that fails has written nothing. Rows with a negative slot are left alone.
radix_status cpu_rope_append(const CpuKernels& kernels, const RopeAppendParams& p,
                             Executor& executor);

}  // namespace radixattn
