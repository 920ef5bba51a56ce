// commit: full blocks whose K/V is written enter the tree, for the request and for those who share
// them.
#include "base/error.h"
#include "cache/cache_manager.h"

namespace radixattn {

radix_status CacheManager::plan_commit(const radix_commit_item* items, uint32_t n,
                                       radix_commit_out* out) {
  const uint32_t bs = config_.block_size;
  uint64_t new_blocks = 0;
  uint64_t remaps = 0;
  for (uint32_t i = 0; i < n; ++i) {
    uint32_t index;
    const radix_status st = find_request(items[i].req, "items.req", &index);
    if (st != RADIX_OK) return st;
    Request& r = requests_[index];
    r.remap_budget = 0;
    if (items[i].num_valid_tokens > r.num_tokens) {
      return fail(RADIX_E_INVALID,
                  "items[%u].num_valid_tokens is %llu: the request has %llu tokens", i,
                  static_cast<unsigned long long>(items[i].num_valid_tokens),
                  static_cast<unsigned long long>(r.num_tokens));
    }
    const uint64_t target = items[i].num_valid_tokens / bs;
    if (target * bs > r.known_tokens && target > r.commit_blocks) {
      return fail(RADIX_E_STATE,
                  "items[%u]: ids of tokens [%llu, %llu) are unknown: set them first", i,
                  static_cast<unsigned long long>(r.known_tokens),
                  static_cast<unsigned long long>(target * bs));
    }
  }
  for (uint32_t i = 0; i < n; ++i) {
    Request& r = requests_[id_index(items[i].req)];
    const auto target = static_cast<uint32_t>(items[i].num_valid_tokens / bs);
    const uint32_t fresh = target > r.commit_blocks ? target - r.commit_blocks : 0;
    const uint32_t worst = r.kept_duplicates + (r.remap != 0 ? fresh : 0);
    r.remap_budget += worst;
    remaps += worst;
    new_blocks += fresh;
  }
  if (remaps > 0 && (out == nullptr || out->remaps == nullptr || out->remaps_cap < remaps)) {
    if (out != nullptr)
      out->num_remaps = remaps > UINT32_MAX ? UINT32_MAX : static_cast<uint32_t>(remaps);
    return fail(RADIX_E_BUFFER, "remaps has room for %u: %llu needed in the worst case",
                out != nullptr && out->remaps != nullptr ? out->remaps_cap : 0,
                static_cast<unsigned long long>(remaps));
  }
  if (!tree_.reserve_nodes(new_blocks + n, 0)) {
    return fail(RADIX_E_NOMEM, "no memory for %llu more tree nodes",
                static_cast<unsigned long long>(new_blocks + n));
  }
  return RADIX_OK;
}

radix_status CacheManager::commit(const radix_commit_item* items, uint32_t n,
                                  radix_commit_out* out) {
  radix_commit_out nowhere = {};
  if (out != nullptr) out->num_remaps = out->num_duplicates = out->published_blocks = 0;
  const radix_status st = plan_commit(items, n, out);
  if (st != RADIX_OK) return st;
  ++clock_;
  for (uint32_t i = 0; i < n; ++i) {
    const uint32_t target = static_cast<uint32_t>(items[i].num_valid_tokens / config_.block_size);
    commit_one(id_index(items[i].req), target, out != nullptr ? out : &nowhere);
  }
  return RADIX_OK;
}

// Publishes up to `target` blocks: remembers what the family shares, walks or extends the tree,
// moves everybody's lease.
void CacheManager::commit_one(uint32_t index, uint32_t target, radix_commit_out* out) {
  Request& r = requests_[index];
  const uint32_t old_blocks = r.commit_blocks;
  const uint32_t remaps_before = out->num_remaps;
  if (r.kept_duplicates > 0) remap_kept(index, out);
  if (out->num_remaps > remaps_before) bump_version(&r);
  if (target <= old_blocks) return;
  mark_family(index, target);
  const uint32_t kept_before = out->num_remaps;
  const Position end = walk_or_publish(index, target, out);
  tree_.move_lease(lease_of_request(index), end);
  r.commit_blocks = r.lease_blocks = target;
  advance_family(index, old_blocks, end);
  tree_.use_path(end, clock_, false);
  if (out->num_remaps > kept_before) bump_version(&r);
}

void CacheManager::remap_to(uint32_t index, uint32_t entry, int32_t cached, radix_commit_out* out) {
  Request& r = requests_[index];
  --r.remap_budget;
  const uint32_t own = block_of(r.row[entry]);
  out->remaps[out->num_remaps++] = {requests_.id(index), entry, static_cast<int32_t>(own), cached};
  r.row[entry] = static_cast<uint32_t>(cached);
  drop_private(r.ns, own);
}

// Duplicates that a commit of the family left in this row, as many as there is room for: an earlier
// item of this call may have left some that were not planned for.
void CacheManager::remap_kept(uint32_t index, radix_commit_out* out) {
  Request& r = requests_[index];
  Position at =
      tree_.ascend(tree_.lease_position(lease_of_request(index)), r.lease_blocks - r.commit_blocks);
  for (; r.kept_duplicates > 0 && r.remap_budget > 0; at = tree_.ascend(at, 1)) {
    if (!is_private(r.row[at.blocks - 1])) continue;
    remap_to(index, at.blocks - 1, tree_.node_blocks(at.node)[at.in - 1], out);
    --r.kept_duplicates;
  }
}

// shared_end of each member that stands where the request stands: the end of the private blocks
// after its published part that both rows name, whole ones or (after a truncate) a last, partly
// used one.
void CacheManager::mark_family(uint32_t index, uint32_t target) {
  const Request& r = requests_[index];
  for (uint32_t s = r.ring_next; s != index; s = requests_[s].ring_next) {
    Request& other = requests_[s];
    other.shared_end = 0;
    if (other.commit_blocks != r.commit_blocks) continue;
    uint32_t end = r.commit_blocks;
    while (end < target && end < other.num_blocks && other.row[end] == r.row[end] &&
           is_private(r.row[end]))
      ++end;
    other.shared_end = end;
  }
}

Position CacheManager::walk_or_publish(uint32_t index, uint32_t target, radix_commit_out* out) {
  const Request& r = requests_[index];
  Position at =
      tree_.ascend(tree_.lease_position(lease_of_request(index)), r.lease_blocks - r.commit_blocks);
  while (at.blocks < target) {
    Position next = at;
    if (at.in == tree_.node(at.node).num) {
      next.node = tree_.find_child(at.node, block_tokens(block_of(r.row[at.blocks])));
      next.in = 0;
      if (next.node == kNone) break;
    }
    const uint32_t same = match_own_run(r, next, target);
    if (same == 0) break;  // only in the middle of a run: a child was found by its first block
    settle_duplicates(index, next, same, out);
    at = {next.node, next.in + same, next.blocks + same};
  }
  if (at.blocks == target) return at;
  out->published_blocks += target - at.blocks;
  counters_.blocks_published += target - at.blocks;
  return publish(index, tree_.split(at), target);
}

uint32_t CacheManager::match_own_run(const Request& r, Position at, uint32_t target) const {
  const RadixTree::Node& n = tree_.node(at.node);
  const size_t bytes = size_t{config_.block_size} * sizeof(int32_t);
  const int32_t* run = tree_.node_tokens(at.node) + uint64_t{at.in} * config_.block_size;
  uint32_t same = 0;
  while (at.in + same < n.num && at.blocks + same < target &&
         std::memcmp(run + uint64_t{same} * config_.block_size,
                     block_tokens(block_of(r.row[at.blocks + same])), bytes) == 0) {
    ++same;
  }
  return same;
}

// Somebody else published the `count` blocks after `at` with the same tokens.
void CacheManager::settle_duplicates(uint32_t index, Position at, uint32_t count,
                                     radix_commit_out* out) {
  Request& r = requests_[index];
  out->num_duplicates += count;
  counters_.blocks_duplicate += count;
  r.foreign_blocks = at.blocks + count;
  if (r.remap == 0) return;
  const int32_t* cached = tree_.node_blocks(at.node) + at.in;
  for (uint32_t i = 0; i < count; ++i) remap_to(index, at.blocks + i, cached[i], out);
}

// Hands blocks [at.blocks, target) of the row to the tree, below `at`. A request makes its own leaf
// longer, nobody else's, so that how often and how lately a shared prefix was used does not speak
// for one user's tail.
Position CacheManager::publish(uint32_t index, Position at, uint32_t target) {
  Request& r = requests_[index];
  const size_t bytes = size_t{config_.block_size} * sizeof(int32_t);
  while (at.blocks < target) {
    uint32_t unit = 0;
    const bool own_leaf = at.blocks > r.foreign_blocks;
    const Position end = tree_.add_run(at, target - at.blocks, clock_, own_leaf, &unit);
    for (uint32_t j = at.blocks; j < end.blocks; ++j, ++unit) {
      const uint32_t block = block_of(r.row[j]);
      std::memcpy(tree_.unit_tokens(unit), block_tokens(block), bytes);
      *tree_.unit_blocks(unit) = static_cast<int32_t>(block);
      r.row[j] = block;
      pool_.hand_to_tree(block);
    }
    if (end.node != at.node) tree_.index_child(end.node);
    at = end;
  }
  return at;
}

// Members that share the blocks are committed along: a use of theirs. A duplicate stays private to
// them; those who want the cached block instead get it from the next commit that names them.
void CacheManager::advance_family(uint32_t index, uint32_t old_blocks, Position end) {
  const Request& r = requests_[index];
  for (uint32_t s = r.ring_next; s != index; s = requests_[s].ring_next) {
    Request& other = requests_[s];
    if (other.shared_end <= old_blocks) continue;
    for (uint32_t j = old_blocks; j < other.shared_end; ++j) {
      if (block_of(other.row[j]) == r.row[j]) other.row[j] = r.row[j];
    }
    const uint32_t whole = static_cast<uint32_t>(other.num_tokens / config_.block_size);
    other.commit_blocks = other.shared_end < whole ? other.shared_end : whole;
    for (uint32_t j = old_blocks; other.remap != 0 && j < other.commit_blocks; ++j) {
      other.kept_duplicates += is_private(other.row[j]) ? 1 : 0;
    }
    other.lease_blocks =
        is_private(other.row[other.shared_end - 1]) ? other.commit_blocks : other.shared_end;
    const uint32_t foreign =
        r.foreign_blocks < other.commit_blocks ? r.foreign_blocks : other.commit_blocks;
    if (foreign > other.foreign_blocks) other.foreign_blocks = foreign;
    const Position at = tree_.ascend(end, end.blocks - other.lease_blocks);
    tree_.move_lease(lease_of_request(s), at);
    tree_.use_path(at, clock_, true);
  }
}

}  // namespace radixattn
