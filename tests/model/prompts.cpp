// Six shapes of prompts; each sequence of calls prefers one and mixes in the others.
#include <algorithm>

#include "world.h"

namespace radixattn::model {
namespace {

enum PromptShape : uint32_t {
  kNoSharing,
  kSystemPrompt,
  kChat,
  kTree,
  kLastToken,
  kBlockEdges,
  kPromptShapes
};

Tokens random_tokens(Rng& rng, uint64_t n, uint32_t alphabet) {
  Tokens t(n);
  for (radix_token& x : t) x = static_cast<radix_token>(rng.below(alphabet));
  return t;
}

// The same every time it is asked for: a system prompt, a document.
Tokens fixed_tokens(uint64_t which, uint64_t n) {
  Rng rng(which * 977 + 5);
  return random_tokens(rng, n, 1u << 30);
}

void add(Tokens& to, const Tokens& more) { to.insert(to.end(), more.begin(), more.end()); }

}  // namespace

Tokens World::prompt(Rng& rng) {
  const uint32_t bs = shape_.block_size;
  const uint64_t longest = uint64_t{std::min(shape_.num_blocks, shape_.max_row)} * bs;
  const uint32_t shape =
      rng.percent(70) ? shape_.prompts % kPromptShapes : rng.below(kPromptShapes);
  const Tokens before = history_.empty() ? Tokens{} : history_[rng.below(history_.size())];
  Tokens t;
  switch (shape) {
    case kNoSharing:
      t = random_tokens(rng, rng.below(3u * bs + 2), rng.percent(50) ? 2 : 1u << 30);
      break;
    case kSystemPrompt:
      t = fixed_tokens(rng.below(3), bs + rng.below(2u * bs));
      add(t, random_tokens(rng, rng.below(bs + 3u), 3));
      break;
    case kChat:
      t = before;
      add(t, random_tokens(rng, rng.below(2u * bs + 2), 2));
      break;
    case kTree:
      t.assign(before.begin(), before.begin() + static_cast<int64_t>(rng.below(before.size() + 1)));
      add(t, random_tokens(rng, rng.below(bs + 2u), 2));
      break;
    case kLastToken:
      t = before;
      if (!t.empty())
        t[rng.percent(60) ? t.size() - 1 : rng.below(t.size())] ^= 1;
      else
        t = random_tokens(rng, bs, 2);
      break;
    default: {
      const uint64_t edge = uint64_t{rng.below(4)} * bs + rng.below(3);
      t = fixed_tokens(7, edge == 0 ? 0 : edge - 1);
      break;
    }
  }
  if (rng.percent(10) && !t.empty())
    t[rng.below(t.size())] = rng.percent(50) ? INT32_MAX : INT32_MIN;
  if (t.size() > longest) t.resize(longest);
  if (history_.size() < 24)
    history_.push_back(t);
  else
    history_[rng.below(24)] = t;
  return t;
}

// Tokens to append: often what an earlier prompt says next, so that requests compute the same
// blocks.
Tokens World::continuation(Rng& rng, const Request& r, uint32_t n) {
  if (r.length() + n <= r.prompt.size() && rng.percent(90)) {
    const auto from = r.prompt.begin() + static_cast<int64_t>(r.length());
    return Tokens(from, from + n);
  }
  if (rng.percent(60)) {
    for (const Tokens& h : history_) {
      if (h.size() < r.length() + n || !std::equal(r.tokens.begin(), r.tokens.end(), h.begin()))
        continue;
      const auto from = h.begin() + static_cast<int64_t>(r.length());
      return Tokens(from, from + n);
    }
  }
  return random_tokens(rng, n, rng.percent(80) ? 2 : 1u << 30);
}

radix_request_desc World::desc(const Tokens& t, radix_ns ns, uint64_t key, uint32_t flags) const {
  radix_request_desc d{};
  d.struct_size = sizeof d;
  d.flags = flags;
  d.ns = ns;
  d.extra_key = key;
  d.tokens = t.empty() ? nullptr : t.data();
  d.num_tokens = t.size();
  return d;
}

}  // namespace radixattn::model
