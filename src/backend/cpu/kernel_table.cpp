// The table of one target's kernels.
#include "backend/cpu/kernels.h"

#include "backend/cpu/kernel_set-inl.h"

namespace radixattn {
namespace RADIX_CPU_TARGET_NS {

extern const CpuKernels
    kTable;  // declared first: a const at namespace scope would be local to this file
const CpuKernels kTable = {
    RADIX_CPU_TARGET, RADIX_CPU_TARGET_NAME, decode_item, decode_merge, prefill_item, radix_merge,
    rope_append,      merge_states,          scan_row,    sum_weights,  gemm_item,    rms_norm,
    pick_group,       weigh_group,
};

}  // namespace RADIX_CPU_TARGET_NS
}  // namespace radixattn
