// begin, match, peek, pin: the longest cached prefix, and borrowing blocks that are being computed.
#include "base/error.h"
#include "cache/cache_manager.h"

namespace radixattn {

radix_status CacheManager::reserve_for_begin(uint32_t new_requests, uint32_t new_roots) {
  if (requests_.num_free_slots() < new_requests) {
    return fail(RADIX_E_FULL, "%u requests live: max_requests is %u", requests_.num_live(),
                config_.max_requests);
  }
  if (!requests_.reserve_more(new_requests) || !tree_.reserve_leases(2 * requests_.capacity()) ||
      !tree_.reserve_nodes(0, new_roots)) {
    return fail(RADIX_E_NOMEM, "no memory for %u more requests", new_requests);
  }
  return RADIX_OK;
}

Position CacheManager::lookup(uint32_t ns, const radix_request_desc& d, int32_t* out, uint64_t cap,
                              uint32_t* root) const {
  *root = tree_.find_root(ns, d.extra_key);
  if (*root == kNone) return {};
  return tree_.walk({*root, 0, 0}, d.tokens, d.num_tokens, out, cap);
}

radix_status CacheManager::match(const radix_request_desc& d, bool count_use, radix_match* m) {
  uint32_t ns, root;
  const radix_status st = check_desc(d, &ns);
  if (st != RADIX_OK) return st;
  const Position at = lookup(ns, d, m->blocks, m->blocks_cap, &root);
  if (count_use && root != kNone) tree_.use_path(at, ++clock_, true);
  report_match(uint64_t{at.blocks} * config_.block_size, 0, at.blocks, m);
  return RADIX_OK;
}

// Full blocks after `at` that `lender` has reserved with the tokens of d.
uint32_t CacheManager::shared_pending(const Request& lender, Position at,
                                      const radix_request_desc& d, uint64_t max_blocks) const {
  const uint32_t bs = config_.block_size;
  const uint64_t known_blocks = lender.known_tokens / bs;
  const uint64_t end = known_blocks < max_blocks ? known_blocks : max_blocks;
  uint32_t block = at.blocks;
  while (block < end && is_private(lender.row[block]) &&
         std::memcmp(block_tokens(block_of(lender.row[block])), d.tokens + uint64_t{block} * bs,
                     bs * sizeof(int32_t)) == 0) {
    ++block;
  }
  return block - at.blocks;
}

// The request whose published part ends exactly here and whose pending tokens go furthest along d;
// the lowest index on ties. All candidates hold a lease at this position, so nothing else is looked
// at.
uint32_t CacheManager::find_lender(Position at, const radix_request_desc& d, uint64_t max_blocks,
                                   uint32_t* num_blocks) const {
  uint32_t best = kNone;
  *num_blocks = 0;
  for (uint32_t lease = tree_.first_lease(at.node); lease != kNone;
       lease = tree_.next_lease(lease)) {
    if (lease % 2 != 0 || tree_.lease_position(lease).in != at.in) continue;  // pins are odd
    const uint32_t index = lease / 2;
    const Request& r = requests_[index];
    if (r.commit_blocks != at.blocks || r.borrows()) continue;
    const uint32_t got = shared_pending(r, at, d, max_blocks);
    if (got > *num_blocks || (got > 0 && got == *num_blocks && index < best)) {
      best = index;
      *num_blocks = got;
    }
  }
  return best;
}

void CacheManager::borrow(uint32_t index, uint32_t lender, uint32_t num_blocks) {
  Request& r = requests_[index];
  const Request& from = requests_[lender];
  for (uint32_t i = 0; i < num_blocks; ++i) {
    const uint32_t entry = from.row[r.num_blocks];
    pool_.add_ref(block_of(entry));
    r.row[r.num_blocks++] = entry;
  }
  r.lender = lender;
  r.borrow_end = r.num_blocks;
  requests_.join_family(lender, index);
}

radix_status CacheManager::begin(const radix_request_desc& d, radix_req* out, radix_match* m) {
  uint32_t ns, root;
  radix_status st = check_desc(d, &ns);
  if (st != RADIX_OK) return st;
  const uint32_t bs = config_.block_size;
  const bool no_match = (d.flags & RADIX_BEGIN_NO_MATCH) != 0;
  Position at = lookup(ns, d, nullptr, 0, &root);
  st = reserve_for_begin(1, root == kNone ? 1 : 0);
  if (st != RADIX_OK) return st;

  // What may match: not the last token, and not more than a row holds.
  uint64_t limit = d.num_tokens;
  if ((d.flags & RADIX_BEGIN_MATCH_ALL) == 0 && limit > 0) --limit;
  const uint64_t row_tokens = uint64_t{requests_.max_row()} * bs;
  if (limit > row_tokens) limit = row_tokens;
  if (no_match && root != kNone) at = {root, 0, 0};
  uint64_t cached = uint64_t{at.blocks} * bs;
  if (cached > limit) cached = limit;
  const uint32_t cached_blocks = static_cast<uint32_t>(blocks_for(cached));
  if (root != kNone) at = tree_.ascend(at, at.blocks - cached_blocks);

  uint32_t lender = kNone, pending_blocks = 0;
  if ((d.flags & RADIX_BEGIN_SHARE_PENDING) != 0 && root != kNone && cached % bs == 0) {
    lender = find_lender(at, d, limit / bs, &pending_blocks);
  }
  if (!requests_.reserve_row(requests_.next_index(), uint64_t{cached_blocks} + pending_blocks)) {
    return fail(RADIX_E_NOMEM, "no memory for a row of %u blocks", cached_blocks + pending_blocks);
  }

  // Nothing fails from here on.
  ++clock_;
  if (root == kNone) at = {tree_.make_root(ns, d.extra_key), 0, 0};
  const uint32_t index = requests_.create_empty();
  Request& r = requests_[index];
  tree_.path_blocks(at, r.row);
  r.num_blocks = cached_blocks;
  r.lease_blocks = cached_blocks;
  r.commit_blocks = static_cast<uint32_t>(cached / bs);
  r.foreign_blocks = r.commit_blocks;
  r.cached_tokens = cached;
  r.ns = ns;
  r.extra_key = d.extra_key;
  r.remap = (d.flags & RADIX_BEGIN_REMAP_DUPLICATES) != 0 ? 1 : 0;
  tree_.take_lease(lease_of_request(index), at);
  tree_.use_path(at, clock_, true);
  if (lender != kNone) borrow(index, lender, pending_blocks);
  const uint64_t pending = uint64_t{pending_blocks} * bs;
  r.num_tokens = r.known_tokens = r.ready_tokens = cached + pending;
  bump_version(&r);
  ++namespaces_[ns].requests;
  counters_.tokens_queried += d.num_tokens;
  counters_.tokens_hit += cached;
  counters_.tokens_borrowed += pending;
  *out = requests_.id(index);
  report_match(cached, pending, r.num_blocks, m);
  if (m != nullptr && m->blocks != nullptr) {
    for (uint32_t i = 0; i < r.num_blocks && i < m->blocks_cap; ++i) {
      m->blocks[i] = static_cast<int32_t>(block_of(r.row[i]));
    }
  }
  return RADIX_OK;
}

// `lender` will not write what it lent. The borrower that shares most takes its place: it computes
// from its published part on, into the blocks it already names, and the others borrow from it.
void CacheManager::promise_broken(uint32_t lender) {
  uint32_t heir = kNone;
  for (uint32_t s = requests_[lender].ring_next; s != lender; s = requests_[s].ring_next) {
    Request& r = requests_[s];
    if (r.lender != lender) continue;
    if (!r.borrows()) {
      r.lender = kNone;
      continue;
    }
    if (heir == kNone || r.borrow_end > requests_[heir].borrow_end ||
        (r.borrow_end == requests_[heir].borrow_end && s < heir)) {
      heir = s;
    }
  }
  if (heir == kNone) return;
  for (uint32_t s = requests_[lender].ring_next; s != lender; s = requests_[s].ring_next) {
    if (requests_[s].lender == lender) requests_[s].lender = heir;
  }
  Request& r = requests_[heir];
  r.lender = kNone;
  r.borrow_end = 0;
  r.ready_tokens = uint64_t{r.commit_blocks} * config_.block_size;
}

radix_status CacheManager::pin(const radix_request_desc& d, radix_pin* out, radix_match* m) {
  uint32_t ns, root;
  const radix_status st = check_desc(d, &ns);
  if (st != RADIX_OK) return st;
  if (pins_.full())
    return fail(RADIX_E_FULL, "%u pins live: max_pins is %u", pins_.num_live(), config_.max_pins);
  if (!pins_.reserve_more(1) || !tree_.reserve_leases(2 * pins_.capacity()) ||
      !tree_.reserve_nodes(0, 1)) {
    return fail(RADIX_E_NOMEM, "no memory for another pin");
  }
  Position at =
      lookup(ns, d, m != nullptr ? m->blocks : nullptr, m != nullptr ? m->blocks_cap : 0, &root);
  ++clock_;
  if (root == kNone) at = {tree_.make_root(ns, d.extra_key), 0, 0};
  const uint32_t index = pins_.create();
  pins_[index].ns = ns;
  ++namespaces_[ns].pins;
  tree_.take_lease(lease_of_pin(index), at);
  tree_.use_path(at, clock_, true);
  *out = pins_.id(index);
  report_match(uint64_t{at.blocks} * config_.block_size, 0, at.blocks, m);
  return RADIX_OK;
}

radix_status CacheManager::unpin(radix_pin p) {
  const uint32_t index = pins_.find(p);
  if (index == kNone) {
    return fail(RADIX_E_STALE, "p is 0x%llx: not a live pin", static_cast<unsigned long long>(p));
  }
  tree_.release_lease(lease_of_pin(index));
  --namespaces_[pins_[index].ns].pins;
  pins_.destroy(index);
  return RADIX_OK;
}

}  // namespace radixattn
