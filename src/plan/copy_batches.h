// Cuts an ordered list of block copies into batches whose copies may all run at the same time.
#pragma once

#include <cstdint>

namespace radixattn {

// How many pairs {src, dst} from pairs[2 * first] on make one batch: at most `max` (and 512), as
// long as none reads or writes what an earlier one of the batch wrote, or writes what one reads. 0
// only when none are left. Pairs that copy a block to itself count as any other. Cost: O(batch).
uint32_t next_copy_batch(const int32_t* pairs, uint32_t num_pairs, uint32_t first, uint32_t max);

}  // namespace radixattn
