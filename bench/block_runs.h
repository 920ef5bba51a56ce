// Rows of `./run bench metadata` about where blocks lie: see block_runs.cpp.
#pragma once

#include "bench_util.h"

namespace bench {

void add_block_runs(Report* report, bool quick);

}  // namespace bench
