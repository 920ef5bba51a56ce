// The three classes of characters that tokenizers split on, by Unicode 14 code point.
#pragma once

#include <cstdint>

namespace npc {

bool is_letter(uint32_t code_point);  // general category L*
bool is_number(uint32_t code_point);  // general category N*
bool is_space(uint32_t code_point);   // the property White_Space

}  // namespace npc
