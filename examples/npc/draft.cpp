#include "draft.h"

#include <algorithm>

namespace npc {

std::vector<int32_t> lookup_draft(std::span<const int32_t> tokens, uint32_t max_ngram,
                                  uint32_t max_tokens) {
  if (tokens.empty() || max_tokens == 0) return {};
  for (size_t n = std::min<size_t>(max_ngram, tokens.size() - 1); n > 0; --n) {
    const auto last = tokens.last(n), before = tokens.first(tokens.size() - 1);
    const auto at = std::find_end(before.begin(), before.end(), last.begin(), last.end());
    if (at == before.end()) continue;
    const auto begin = static_cast<size_t>(at - before.begin()) + n;
    const auto rest = tokens.subspan(begin, std::min<size_t>(max_tokens, tokens.size() - begin));
    return {rest.begin(), rest.end()};
  }
  return {};
}

}  // namespace npc
