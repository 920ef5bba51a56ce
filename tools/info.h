// radixattn info: what this library is and what of it this machine runs.
#pragma once

#include <string>
#include <vector>

namespace tool {

const char* info_usage();
// The words behind "info". Throws UsageError or Error; returns the exit status.
int info(const std::vector<std::string>& arguments);

}  // namespace tool
