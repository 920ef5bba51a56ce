// Lookups in a radix tree that is arrays: random trees, prompts near their paths, and what a lookup
// must give, from the definition alone (every path is compared with the prompt, no tree is
// searched).
//
// Arrays have exactly the size they must have, so that AddressSanitizer sees what is read beyond;
// outputs are poisoned before, rows of tables and what lies behind them, too.
#pragma once

#include <cstdint>
#include <functional>
#include <iosfwd>
#include <vector>

#include "backend/backend.h"
#include "support/rng.h"

namespace radixattn::test {

using MatchLauncher = std::function<radix_status(const MatchParams&)>;

struct MatchResult {
  radix_status status = RADIX_OK;
  std::vector<int32_t> nodes, tokens;
  std::vector<int32_t> tables;  // [num_prompts, stride] and one row more, still poison
  bool operator==(const MatchResult&) const = default;
};
std::ostream& operator<<(std::ostream& out, const MatchResult& r);

struct TreeShape {
  uint32_t block_size = 4;
  uint32_t max_nodes = 40;
  uint32_t max_children = 5;
  uint32_t max_run = 4;   // blocks of a node
  uint32_t alphabet = 3;  // small: siblings differ late, prompts fit far
};

class MatchCase {
 public:
  static constexpr int32_t kPoison = -77777;

  MatchCase() = default;  // an empty tree, no prompts
  // A random tree with that many prompts.
  MatchCase(Rng& rng, const TreeShape& shape, uint32_t num_prompts);

  void add_prompt(const std::vector<int32_t>& prompt);
  std::vector<int32_t> path(int32_t node) const;  // its tokens from the root on
  int32_t num_nodes() const { return static_cast<int32_t>(parent.size()); }

  // stride < 0: no tables.
  MatchResult run(const MatchLauncher& launch, int64_t stride = -1) const;
  MatchResult expected(int64_t stride = -1) const;

  uint32_t block_size = 1;
  std::vector<int32_t> parent, depth_blocks, child_begin = {0, 0}, block_begin = {0};
  std::vector<int32_t> block_ids, tokens;
  std::vector<int32_t> prompts;
  std::vector<int64_t> prompt_begin = {0};

 private:
  void add_node(Rng& rng, const TreeShape& shape, int32_t parent_node,
                const std::vector<int32_t>& first_block);
  MatchResult poisoned(int64_t stride) const;
  uint32_t num_prompts() const { return static_cast<uint32_t>(prompt_begin.size() - 1); }
};

}  // namespace radixattn::test
