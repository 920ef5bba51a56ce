// Longest-prefix lookups of a batch of prompts in a radix tree that is arrays.
//
// prompt_begin is checked first: a call that fails has written nothing. The tree's arrays are not:
// see MatchParams for what is made of them. Prompts are independent, and shared out among the
// executor's workers by their tokens.
// Thread rule: any number of calls at a time on outputs that do not overlap.
#pragma once

#include "backend/backend.h"

namespace radixattn {

class Executor;

radix_status cpu_match_batch(const MatchParams& p, Executor& executor);

}  // namespace radixattn
