// Prompt lookup: guesses what follows from where the last tokens stood before (n-gram drafts need
// no second model; Saxena 2023).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace npc {

// Up to max_tokens tokens that followed the latest earlier place of the last n tokens, for the
// largest n <= max_ngram that stands earlier at all; empty when none does.
std::vector<int32_t> lookup_draft(std::span<const int32_t> tokens, uint32_t max_ngram,
                                  uint32_t max_tokens);

}  // namespace npc
