#include "text.h"

#include <cstdio>

namespace tool {

namespace {

constexpr int32_t kInvalid = -1;

// The code point at `*at`, which moves behind it; kInvalid, and one byte on, where there is none.
int32_t next_code_point(std::string_view text, size_t* at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte((*at)++);
  if (first < 0x80) return first;
  const int more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
  if (first < 0xc2 || first > 0xf4 || text.size() - *at < static_cast<size_t>(more)) {
    return kInvalid;
  }
  int32_t value = first & (0x3f >> more);
  for (int i = 0; i < more; ++i) {
    const unsigned char next = byte(*at + static_cast<size_t>(i));
    if ((next & 0xc0) != 0x80) return kInvalid;
    value = value << 6 | (next & 0x3f);
  }
  constexpr int32_t kSmallest[] = {0, 0x80, 0x800, 0x10000};
  const bool surrogate = value >= 0xd800 && value <= 0xdfff;
  if (value < kSmallest[more] || value > 0x10ffff || surrogate) return kInvalid;
  *at += static_cast<size_t>(more);
  return value;
}

bool is_hidden(int32_t c) {
  const bool control = c < 0x20 || (c >= 0x7f && c < 0xa0);
  const bool direction = c == 0x61c || (c >= 0x200e && c <= 0x200f) ||
                         (c >= 0x202a && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069);
  const bool line = c == 0x2028 || c == 0x2029;
  return control || direction || line || c == 0xfffe || c == 0xffff;
}

// `special` says what a character of ASCII becomes, or nullptr when it stays.
template <class Special>
std::string rewrite(std::string_view text, const char* backslash, Special special) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const int32_t c = next_code_point(text, &at);
    const char* instead = c >= 0 && c < 0x80 ? special(static_cast<char>(c)) : nullptr;
    if (c == kInvalid) {
      out += "\xef\xbf\xbd";
    } else if (instead != nullptr) {
      out += instead;
    } else if (is_hidden(c)) {
      char code[16];
      std::snprintf(code, sizeof code, "u%04x", static_cast<unsigned>(c));
      out += backslash;
      out += code;
    } else {
      out.append(text, begin, at - begin);
    }
  }
  return out;
}

const char* xml_special(char c) {
  switch (c) {
    case '&':
      return "&amp;";
    case '<':
      return "&lt;";
    case '>':
      return "&gt;";
    case '"':
      return "&quot;";
    case '\'':
      return "&#39;";
    case '\n':
      return "&#10;";  // a line of a tooltip
    default:
      return nullptr;
  }
}

const char* dot_special(char c) {
  switch (c) {
    case '"':
      return "\\\"";
    case '\\':
      return "\\\\";
    case '\n':
      return "\\n";
    default:
      return nullptr;
  }
}

}  // namespace

std::string plain_text(std::string_view text) {
  return rewrite(text, "\\", [](char) -> const char* { return nullptr; });
}

std::string xml_text(std::string_view text) { return rewrite(text, "\\", xml_special); }

std::string dot_text(std::string_view text) { return rewrite(text, "\\\\", dot_special); }

bool is_utf8(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    if (next_code_point(text, &at) == kInvalid) return false;
  }
  return true;
}

std::string restore_utf8(std::string_view text) {
  std::string bytes;
  for (size_t at = 0; at < text.size();) {
    const int32_t c = next_code_point(text, &at);
    if (c == kInvalid || c > 0xff) return std::string(text);
    bytes += static_cast<char>(c);
  }
  return is_utf8(bytes) ? bytes : std::string(text);
}

std::string with_commas(uint64_t value) {
  std::string digits = std::to_string(value);
  for (size_t at = digits.size(); at > 3;) {
    at -= 3;
    digits.insert(at, ",");
  }
  return digits;
}

std::string counted(uint64_t n, const char* noun) {
  return with_commas(n) + " " + noun + (n == 1 ? "" : "s");
}

std::string percent(uint64_t part, uint64_t whole) {
  if (whole == 0) return "-";
  char text[32];
  std::snprintf(text, sizeof text, "%.1f%%",
                100.0 * static_cast<double>(part) / static_cast<double>(whole));
  return text;
}

}  // namespace tool
