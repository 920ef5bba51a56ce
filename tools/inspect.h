// radixattn inspect: reads a sharing graph and writes it as a picture or as text.
#pragma once

#include <string>
#include <vector>

namespace tool {

const char* inspect_usage();
// The words behind "inspect". Throws UsageError or Error; returns the exit status.
int inspect(const std::vector<std::string>& arguments);

// A whole file, "-" is stdin. Throws Error when it cannot be read.
std::string read_input(const std::string& path);
// "-" is stdout.
void write_output(const std::string& path, const std::string& text);

}  // namespace tool
