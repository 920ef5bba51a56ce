#include "support/match_case.h"

#include <algorithm>
#include <ostream>
#include <set>

namespace radixattn::test {
namespace {

// Ids of both signs and from both ends: the order of siblings is that of signed numbers.
int32_t token(Rng& rng, uint32_t alphabet) {
  constexpr int32_t kIds[] = {0, 1, -1, INT32_MAX, INT32_MIN, 7, 1 << 16, -(1 << 16)};
  const uint32_t i = rng.below(alphabet);
  return i < std::size(kIds) ? kIds[i] : static_cast<int32_t>(i);
}

std::vector<int32_t> random_tokens(Rng& rng, uint32_t n, uint32_t alphabet) {
  std::vector<int32_t> t(n);
  for (int32_t& x : t) x = token(rng, alphabet);
  return t;
}

// Exactly as much memory as elements.
template <class T>
std::vector<T> fitted(const std::vector<T>& v) {
  return std::vector<T>(v.begin(), v.end());
}

size_t equal_tokens(const std::vector<int32_t>& path, const int32_t* prompt, size_t n) {
  size_t i = 0;
  while (i < n && i < path.size() && path[i] == prompt[i]) ++i;
  return i;
}

}  // namespace

std::ostream& operator<<(std::ostream& out, const MatchResult& r) {
  out << "status " << r.status << "; node:tokens";
  for (size_t i = 0; i < r.nodes.size(); ++i) out << ' ' << r.nodes[i] << ':' << r.tokens[i];
  out << "; tables";
  for (const int32_t b : r.tables) out << ' ' << b;
  return out;
}

void MatchCase::add_node(Rng& rng, const TreeShape& shape, int32_t parent_node,
                         const std::vector<int32_t>& first_block) {
  const uint32_t run = rng.between(1, shape.max_run);
  const auto up = static_cast<size_t>(parent_node);
  parent.push_back(parent_node);
  depth_blocks.push_back(
      parent_node < 0 ? 0 : depth_blocks[up] + block_begin[up + 1] - block_begin[up]);
  tokens.insert(tokens.end(), first_block.begin(), first_block.end());
  const std::vector<int32_t> rest =
      random_tokens(rng, (run - 1) * shape.block_size, shape.alphabet);
  tokens.insert(tokens.end(), rest.begin(), rest.end());
  for (uint32_t i = 0; i < run; ++i) block_ids.push_back(static_cast<int32_t>(rng.below(1 << 20)));
  block_begin.push_back(static_cast<int32_t>(block_ids.size()));
}

MatchCase::MatchCase(Rng& rng, const TreeShape& shape, uint32_t num_prompts)
    : block_size(shape.block_size) {
  child_begin = {0};
  for (int32_t node = -1; node < num_nodes(); ++node) {
    const uint32_t room = shape.max_nodes - static_cast<uint32_t>(num_nodes());
    const uint32_t most = std::min(room, rng.between(node < 0 ? 1 : 0, shape.max_children));
    std::set<std::vector<int32_t>> first_blocks;
    for (uint32_t i = 0; i < most; ++i)
      first_blocks.insert(random_tokens(rng, block_size, shape.alphabet));
    for (const auto& first : first_blocks) add_node(rng, shape, node, first);
    child_begin.push_back(num_nodes());
  }
  for (uint32_t i = 0; i < num_prompts; ++i) {
    std::vector<int32_t> prompt;
    if (num_nodes() > 0 && !rng.one_in(8))
      prompt = path(static_cast<int32_t>(rng.below(static_cast<uint32_t>(num_nodes()))));
    if (rng.one_in(2)) prompt.resize(rng.below(static_cast<uint32_t>(prompt.size()) + 1));
    const auto more = random_tokens(rng, rng.below(3 * block_size + 1), shape.alphabet);
    prompt.insert(prompt.end(), more.begin(), more.end());
    if (rng.one_in(4) && !prompt.empty())
      prompt[rng.below(static_cast<uint32_t>(prompt.size()))] ^= 1;
    add_prompt(prompt);
  }
}

void MatchCase::add_prompt(const std::vector<int32_t>& prompt) {
  prompts.insert(prompts.end(), prompt.begin(), prompt.end());
  prompt_begin.push_back(static_cast<int64_t>(prompts.size()));
}

std::vector<int32_t> MatchCase::path(int32_t node) const {
  std::vector<int32_t> t;
  for (; node >= 0; node = parent[static_cast<size_t>(node)]) {
    const auto i = static_cast<size_t>(node);
    t.insert(t.begin(), tokens.begin() + int64_t{block_begin[i]} * block_size,
             tokens.begin() + int64_t{block_begin[i + 1]} * block_size);
  }
  return t;
}

MatchResult MatchCase::poisoned(int64_t stride) const {
  MatchResult r;
  r.nodes.assign(num_prompts(), kPoison);
  r.tokens.assign(num_prompts(), kPoison);
  if (stride >= 0)
    r.tables.assign((num_prompts() + size_t{1}) * static_cast<size_t>(stride), kPoison);
  return r;
}

MatchResult MatchCase::run(const MatchLauncher& launch, int64_t stride) const {
  const auto children = fitted(child_begin), blocks = fitted(block_begin), ids = fitted(block_ids),
             runs = fitted(tokens), text = fitted(prompts);
  const auto begins = fitted(prompt_begin);
  MatchResult r = poisoned(stride);
  MatchParams p;
  p.block_size = block_size;
  p.num_nodes = static_cast<uint32_t>(num_nodes());
  p.num_blocks = static_cast<uint32_t>(ids.size());
  p.child_begin = children.data();
  p.block_begin = blocks.data();
  p.block_ids = ids.data();
  p.tokens = runs.data();
  p.num_prompts = num_prompts();
  p.prompts = text.data();
  p.num_tokens = text.size();
  p.prompt_begin = begins.data();
  p.out_nodes = r.nodes.data();
  p.out_tokens = r.tokens.data();
  p.out_tables = stride < 0 ? nullptr : r.tables.data();
  p.table_stride = stride < 0 ? 0 : stride;
  r.status = launch(p);
  return r;
}

MatchResult MatchCase::expected(int64_t stride) const {
  MatchResult r = poisoned(stride);
  for (size_t i = 0; i < num_prompts(); ++i) {
    const int32_t* prompt = prompts.data() + prompt_begin[i];
    const auto n = static_cast<size_t>(prompt_begin[i + 1] - prompt_begin[i]);
    int32_t best = -1;
    size_t best_blocks = 0;
    for (int32_t node = 0; node < num_nodes(); ++node) {
      const size_t blocks = equal_tokens(path(node), prompt, n) / block_size;
      if (blocks > best_blocks) {  // breadth first: of two nodes on one path the upper comes first
        best = node;
        best_blocks = blocks;
      }
    }
    r.nodes[i] = best;
    r.tokens[i] = static_cast<int32_t>(best_blocks * block_size);
    if (stride <= 0) continue;
    int32_t* row = r.tables.data() + i * static_cast<size_t>(stride);
    std::fill(row, row + stride, -1);
    for (size_t end = best_blocks; best >= 0; best = parent[static_cast<size_t>(best)]) {
      const auto node = static_cast<size_t>(best);
      const auto depth = static_cast<size_t>(depth_blocks[node]);
      for (size_t b = depth; b < end; ++b) {
        if (b < static_cast<size_t>(stride))
          row[b] = block_ids[static_cast<size_t>(block_begin[node]) + b - depth];
      }
      end = depth;
    }
  }
  return r;
}

}  // namespace radixattn::test
