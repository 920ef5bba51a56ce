// radixattn: describes the library and draws what a cache shares.
//
// Exit status: 0; 1 on an error; 2 when the command line is wrong.
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "error.h"
#include "info.h"
#include "inspect.h"
#include "radixattn.h"
#include "text.h"

namespace tool {

namespace {

constexpr const char* kUsage =
    "usage: radixattn COMMAND [options]\n"
    "\n"
    "  info       the library's version and build, and what of it this machine runs\n"
    "  inspect    draw what the requests of a cache share\n"
    "  help       this text; `help COMMAND` lists a command's options\n"
    "\n"
    "  --version  the library's version\n"
    "\n"
    "Exit status: 0; 1 on an error; 2 when the command line is wrong.\n";

struct Command {
  const char* name;
  int (*run)(const std::vector<std::string>& arguments);
  const char* (*usage)();
};
constexpr Command kCommands[] = {{"info", info, info_usage}, {"inspect", inspect, inspect_usage}};

const Command& find_command(const std::string& name) {
  for (const Command& c : kCommands) {
    if (name == c.name) return c;
  }
  throw UsageError("unknown command \"" + plain_text(name) + "\": expected info, inspect or help");
}

int run(const std::vector<std::string>& words) {
  if (words.empty()) throw UsageError("a command is missing: info, inspect or help");
  const std::string& name = words[0];
  if (name == "help" || name == "--help" || name == "-h") {
    write_output("-", words.size() > 1 ? find_command(words[1]).usage() : kUsage);
    return 0;
  }
  if (name == "--version") {
    write_output("-", std::string("radixattn ") + radix_version_string() + "\n");
    return 0;
  }
  return find_command(name).run({words.begin() + 1, words.end()});
}

}  // namespace

}  // namespace tool

int main(int argc, char** argv) {
  try {
    return tool::run({argv + 1, argv + argc});
  } catch (const tool::UsageError& e) {
    std::fprintf(stderr, "radixattn: %s\n`radixattn help` says more.\n", e.what());
    return 2;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "radixattn: %s\n", e.what());
    return 1;
  }
}
