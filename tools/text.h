// Text that goes into files and terminals. Names come from whoever filled the cache, so nothing is
// written as it came: each function returns text that is safe where its name says.
//
// Invalid UTF-8 becomes U+FFFD; control characters, what XML cannot hold and what turns the
// direction of writing become visible, as \u0007.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace tool {

std::string plain_text(std::string_view text);  // for terminals and messages
std::string xml_text(std::string_view text);    // for elements and quoted attributes
std::string dot_text(std::string_view text);    // between the quotes of a Graphviz string

bool is_utf8(std::string_view text);

// The library writes a name's bytes beyond ASCII as one \u00XX each: a name that is UTF-8 when they
// are put together again is that text, any other stays as it came.
std::string restore_utf8(std::string_view text);

std::string with_commas(uint64_t value);             // 12,345
std::string counted(uint64_t n, const char* noun);   // "1 node", "2,000 nodes"
std::string percent(uint64_t part, uint64_t whole);  // "76.2%", "-" of nothing

}  // namespace tool
