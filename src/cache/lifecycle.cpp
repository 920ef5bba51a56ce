// fork, truncate and free of requests.
#include "base/error.h"
#include "cache/cache_manager.h"

namespace radixattn {

// n empty requests with room for `row` entries each; nothing is created, nor `out` written, unless
// all can be.
radix_status CacheManager::create_children(uint32_t n, uint64_t row, radix_req* out) {
  const radix_status st = reserve_for_begin(n, 0);
  if (st != RADIX_OK) return st;
  uint32_t index = requests_.next_index();
  for (uint32_t i = 0; i < n; ++i, index = requests_.index_after(index)) {
    if (!requests_.reserve_row(index, row)) {
      return fail(RADIX_E_NOMEM, "no memory for %u rows of %llu blocks", n,
                  static_cast<unsigned long long>(row));
    }
  }
  for (uint32_t i = 0; i < n; ++i) out[i] = requests_.id(requests_.create_empty());
  return RADIX_OK;
}

void CacheManager::copy_to_child(uint32_t parent, uint32_t child) {
  const Request& p = requests_[parent];
  Request& c = requests_[child];
  for (uint32_t j = 0; j < p.num_blocks; ++j) {
    c.row[j] = p.row[j];
    if (is_private(p.row[j])) pool_.add_ref(block_of(p.row[j]));
  }
  c.num_tokens = p.num_tokens;
  c.known_tokens = p.known_tokens;
  c.num_blocks = p.num_blocks;
  c.commit_blocks = p.commit_blocks;
  c.lease_blocks = p.lease_blocks;
  c.foreign_blocks = p.foreign_blocks;
  c.kept_duplicates = p.kept_duplicates;
  c.ns = p.ns;
  c.ready_tokens = p.ready_tokens;
  c.cached_tokens = p.cached_tokens;
  c.extra_key = p.extra_key;
  c.remap = p.remap;
  bump_version(&c);
  const Position at = tree_.lease_position(lease_of_request(parent));
  tree_.take_lease(lease_of_request(child), at);
  tree_.use_path(at, clock_, true);
  requests_.join_family(parent, child);
  ++namespaces_[c.ns].requests;
}

radix_status CacheManager::fork(radix_req parent, uint32_t n, radix_req* out) {
  uint32_t index;
  radix_status st = find_request(parent, "parent", &index);
  if (st != RADIX_OK) return st;
  const Request& p = requests_[index];
  if (p.known_tokens != p.num_tokens) {
    return fail(RADIX_E_STATE, "ids of tokens [%llu, %llu) of parent are unknown: set them first",
                static_cast<unsigned long long>(p.known_tokens),
                static_cast<unsigned long long>(p.num_tokens));
  }
  if (p.borrows()) {
    return fail(RADIX_E_STATE,
                "parent borrows %u blocks that are not committed: fork after the commit",
                p.borrow_end - p.commit_blocks);
  }
  st = create_children(n, p.num_blocks, out);
  if (st != RADIX_OK) return st;
  ++clock_;
  for (uint32_t i = 0; i < n; ++i) copy_to_child(index, id_index(out[i]));
  return RADIX_OK;
}

void CacheManager::shrink_lease(uint32_t index, uint32_t blocks) {
  Request& r = requests_[index];
  if (blocks >= r.lease_blocks) return;
  const uint32_t lease = lease_of_request(index);
  tree_.move_lease(lease, tree_.ascend(tree_.lease_position(lease), r.lease_blocks - blocks));
  r.lease_blocks = blocks;
}

// The lender keeps its first `whole_blocks` whole blocks and will write no others of those it lent.
void CacheManager::shorten_promises(uint32_t lender, uint32_t whole_blocks) {
  if (whole_blocks <= requests_[lender].commit_blocks) {
    promise_broken(lender);
    return;
  }
  const uint64_t promised = uint64_t{whole_blocks} * config_.block_size;
  for (uint32_t s = requests_[lender].ring_next; s != lender; s = requests_[s].ring_next) {
    Request& r = requests_[s];
    if (r.lender != lender || r.borrow_end <= whole_blocks) continue;
    r.borrow_end = whole_blocks;
    if (r.ready_tokens > promised) r.ready_tokens = promised;
  }
}

radix_status CacheManager::truncate(radix_req id, uint64_t new_len) {
  uint32_t index;
  const radix_status st = find_request(id, "r", &index);
  if (st != RADIX_OK) return st;
  Request& r = requests_[index];
  if (new_len > r.num_tokens) {
    return fail(RADIX_E_INVALID, "new_len is %llu: the request has %llu tokens",
                static_cast<unsigned long long>(new_len),
                static_cast<unsigned long long>(r.num_tokens));
  }
  if (new_len == r.num_tokens) return RADIX_OK;
  const uint32_t whole = static_cast<uint32_t>(new_len / config_.block_size);
  const uint32_t keep = static_cast<uint32_t>(blocks_for(new_len));
  shorten_promises(index, whole);
  if (keep != r.num_blocks) bump_version(&r);
  while (r.num_blocks > keep) {
    const uint32_t entry = r.row[--r.num_blocks];
    if (is_private(entry)) drop_private(r.ns, block_of(entry));
  }
  for (uint32_t j = whole; r.kept_duplicates > 0 && j < r.commit_blocks; ++j) {
    if (is_private(r.row[j])) --r.kept_duplicates;  // entries given up are still in memory
  }
  // NOTE: a borrowed block that is cut may be written by nobody but its lender, and the next append
  // copies it before that: its kept tokens must be computed again.
  if (r.borrow_end > whole && r.borrows() &&
      r.ready_tokens > uint64_t{whole} * config_.block_size) {
    r.ready_tokens = uint64_t{whole} * config_.block_size;
  }
  if (r.borrow_end > whole) r.borrow_end = whole;
  if (r.commit_blocks > whole) r.commit_blocks = whole;
  if (r.foreign_blocks > whole) r.foreign_blocks = whole;
  const bool cached_tail = keep > whole && whole == r.commit_blocks && !is_private(r.row[whole]);
  shrink_lease(index, cached_tail ? keep : r.commit_blocks);
  r.num_tokens = new_len;
  if (r.known_tokens > new_len) r.known_tokens = new_len;
  if (r.ready_tokens > new_len) r.ready_tokens = new_len;
  if (r.cached_tokens > new_len) r.cached_tokens = new_len;
  return RADIX_OK;
}

// The tail of the path to `end` that nobody else has published, matched or leased leaves the tree.
void CacheManager::discard_own_blocks(Position end, uint32_t keep_blocks) {
  uint32_t id = end.node;
  if (end.blocks <= keep_blocks || tree_.node(id).num != end.in) return;
  while (tree_.node(id).is_root == 0) {
    const RadixTree::Node& n = tree_.node(id);
    if (n.first_child != kNone || n.usage.hits > 0 || n.depth_blocks + n.num <= keep_blocks) return;
    const uint32_t parent = n.parent;
    const uint32_t kept_here = keep_blocks > n.depth_blocks ? keep_blocks - n.depth_blocks : 0;
    const uint32_t stays = kept_here > n.held ? kept_here : n.held;
    const bool fenced = n.fenced != 0;
    for (uint32_t left = n.num - stays; left > 0; --left) trim_one(id, fenced);
    // A root without children is gone by now, too.
    if (stays > 0 || tree_.node(parent).live == 0) return;
    id = parent;
  }
}

radix_status CacheManager::free_request(radix_req id, uint32_t flags) {
  uint32_t index;
  const radix_status st = find_request(id, "r", &index);
  if (st != RADIX_OK) return st;
  promise_broken(index);
  Request& r = requests_[index];
  if (r.num_blocks > 0) pool_.end_growth(block_of(r.row[r.num_blocks - 1]) + 1);
  for (uint32_t j = 0; j < r.num_blocks; ++j) {
    if (is_private(r.row[j])) drop_private(r.ns, block_of(r.row[j]));
  }
  requests_.leave_family(index);
  const Position end = tree_.lease_position(lease_of_request(index));
  const bool at_root = end.blocks == 0;
  tree_.release_lease(lease_of_request(index));
  if ((flags & RADIX_FREE_DISCARD) != 0 && !at_root) discard_own_blocks(end, r.foreign_blocks);
  --namespaces_[r.ns].requests;
  r.num_blocks = 0;
  requests_.destroy(index);
  return RADIX_OK;
}

}  // namespace radixattn
