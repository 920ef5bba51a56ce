// Which prefill kernel a launch takes on a device that has the products of warpgroups (sm_90a).
#pragma once

#include "backend/backend.h"

namespace radixattn {

// True when cuda/kernels/prefill_wgmma.cu can do the launch: K and V both f16 or both bf16, head
// dims 64 or 128 and equal, rows of K and V that can be copied in pieces of 16 bytes, no tree mask.
//
// NOTE: lengths and the number of sequences have no say, and must not get one: the two kernels
// round differently, and without a plan's list a sequence's result does not depend on its batch.
bool prefill_runs_on_wgmma(const AttentionParams& p);

}  // namespace radixattn
