// Small files and JSON, with errors that name the file. Content is untrusted.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace npc {

std::string read_file(const std::filesystem::path& path);
void write_file(const std::filesystem::path& path, std::string_view text);
// Parses JSON; `what` names the text in the error.
nlohmann::json parse_json(std::string_view text, const std::string& what);
nlohmann::json parse_json_file(const std::filesystem::path& path);

}  // namespace npc
