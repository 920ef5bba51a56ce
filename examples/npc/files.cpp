#include "files.h"

#include <fstream>
#include <sstream>

#include "error.h"

namespace npc {

void check(radix_status status, const char* call) {
  if (status == RADIX_OK) return;
  char message[512] = "";
  radix_last_error(message, sizeof message);
  throw Error(std::string(call) + ": " + radix_status_name(status) + ": " + message);
}

std::string read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw Error(path.string() + ": cannot be opened");
  std::ostringstream text;
  text << in.rdbuf();
  if (in.bad()) throw Error(path.string() + ": cannot be read");
  return std::move(text).str();
}

void write_file(const std::filesystem::path& path, std::string_view text) {
  std::ofstream out(path, std::ios::binary);
  out << text;
  if (!out.flush()) throw Error(path.string() + ": cannot be written");
}

nlohmann::json parse_json(std::string_view text, const std::string& what) {
  // The parser is recursive: nesting is bounded before it runs, so that a hostile file cannot
  // exhaust the stack.
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\')
        ++i;
      else if (c == '"')
        in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > 64) throw Error(what + ": JSON nested deeper than 64");
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  try {
    return nlohmann::json::parse(text);
  } catch (const nlohmann::json::exception& e) {
    throw Error(what + ": " + e.what());
  }
}

nlohmann::json parse_json_file(const std::filesystem::path& path) {
  return parse_json(read_file(path), path.string());
}

}  // namespace npc
