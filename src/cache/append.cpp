// append: plan exactly, make room, then reserve. set_tokens.
#include "base/error.h"
#include "cache/cache_manager.h"

namespace radixattn {
namespace {

// Request::planned_copy: what the plan found the last block to need before it is written.
// The tree's; or shared with other requests, where the plan counts a reference less.
constexpr uint8_t kCopy = 1;
constexpr uint8_t kCopyOfPrivate = 2;

uint32_t saturated(uint64_t x) { return x > UINT32_MAX ? UINT32_MAX : static_cast<uint32_t>(x); }

}  // namespace

// The last block is partly filled, and others read it: the tree, a fork, a borrower.
bool CacheManager::needs_copy(const Request& r) const {
  if (r.room(config_.block_size) == 0) return false;
  const uint32_t entry = r.row[r.num_blocks - 1];
  return !is_private(entry) || pool_.refs(block_of(entry)) > 1;
}

radix_status CacheManager::plan_item(const radix_append& item, uint32_t position,
                                     AppendPlan* plan) {
  uint32_t index;
  const radix_status st = find_request(item.req, "items.req", &index);
  if (st != RADIX_OK) return st;
  Request& r = requests_[index];
  if (r.batch_mark == batch_mark_) {
    return fail(RADIX_E_INVALID, "items[%u].req names a request that an earlier item names",
                position);
  }
  if (item.reserved0 != 0) {
    return fail(RADIX_E_INVALID, "items[%u].reserved0 is %u: expected 0", position, item.reserved0);
  }
  r.batch_mark = batch_mark_;
  r.planned_copy = 0;
  if (item.num_tokens == 0) return RADIX_OK;
  if (item.tokens != nullptr && r.known_tokens != r.num_tokens) {
    return fail(
        RADIX_E_STATE,
        "items[%u].tokens given while ids of tokens [%llu, %llu) are unknown: set them first",
        position, static_cast<unsigned long long>(r.known_tokens),
        static_cast<unsigned long long>(r.num_tokens));
  }
  plan->need_slots += item.num_tokens;
  const uint64_t room = r.room(config_.block_size);
  uint64_t fresh = 0;
  if (item.num_tokens > room) {
    fresh = blocks_for(r.num_tokens + item.num_tokens) - r.num_blocks;
    if (r.num_blocks + fresh > requests_.max_row()) {
      return fail(RADIX_E_FULL,
                  "items[%u] needs a row of %llu blocks: max_blocks_per_request is %u", position,
                  static_cast<unsigned long long>(r.num_blocks + fresh), requests_.max_row());
    }
  }
  if (needs_copy(r)) {
    r.planned_copy = kCopy;
    ++fresh;
    ++plan->need_ops;
    // The copy drops a reference; a later item of this batch that shares the block may then write
    // in place. The plan must count as the execution will, so the reference goes now and comes back
    // when planning is done.
    const uint32_t entry = r.row[r.num_blocks - 1];
    if (is_private(entry)) {
      pool_.remove_ref(block_of(entry));
      r.planned_copy = kCopyOfPrivate;
      ++plan->dropped_refs;
    }
  }
  if (fresh == 0) return RADIX_OK;
  plan->need_blocks += fresh;
  namespaces_[r.ns].plan_need += fresh;
  return RADIX_OK;
}

// Quotas first, then the pool. Sets short_blocks.
radix_status CacheManager::plan_capacity(const radix_append* items, uint32_t n, AppendPlan* plan) {
  const bool evicts = config_.policy != RADIX_EVICT_NONE;
  for (uint32_t i = 0; i < n; ++i) {
    const uint32_t ns = requests_[id_index(items[i].req)].ns;
    const Namespace& space = namespaces_[ns];
    if (space.quota == 0 || space.plan_need == 0) continue;
    const uint64_t limit = uint64_t{space.quota} + (evicts ? tree_.ns_usage(ns).evictable : 0);
    const uint64_t wanted = uint64_t{space.used} + space.plan_need;
    if (wanted > limit) {
      plan->short_blocks = saturated(wanted - limit);
      return fail(
          RADIX_E_QUOTA,
          "the namespace of items[%u] uses %u of its %u blocks and needs %llu more: %u short",
          plan->first_item + i, space.used, space.quota,
          static_cast<unsigned long long>(space.plan_need), plan->short_blocks);
    }
  }
  const uint64_t available = pool_.num_free() + (evicts ? tree_.evictable() : 0);
  if (plan->need_blocks > available) {
    plan->short_blocks = saturated(plan->need_blocks - available);
    return fail(RADIX_E_NO_BLOCKS, "%llu blocks needed, %u free and %llu evictable: %u short",
                static_cast<unsigned long long>(plan->need_blocks), pool_.num_free(),
                static_cast<unsigned long long>(evicts ? tree_.evictable() : 0),
                plan->short_blocks);
  }
  return RADIX_OK;
}

// Last of all, so that an append that cannot be served takes no memory.
radix_status CacheManager::reserve_rows(const radix_append* items, uint32_t n) {
  for (uint32_t i = 0; i < n; ++i) {
    const uint32_t index = id_index(items[i].req);
    const uint64_t row = blocks_for(requests_[index].num_tokens + items[i].num_tokens);
    if (!requests_.reserve_row(index, row)) {
      return fail(RADIX_E_NOMEM, "no memory for a row of %llu blocks",
                  static_cast<unsigned long long>(row));
    }
  }
  return RADIX_OK;
}

radix_status CacheManager::plan_append(const radix_append* items, uint32_t n, AppendPlan* plan) {
  radix_status st = RADIX_OK;
  uint32_t planned = 0;
  while (planned < n && st == RADIX_OK) {
    st = plan_item(items[planned], plan->first_item + planned, plan);
    if (st == RADIX_OK) ++planned;
  }
  for (uint32_t i = 0; i < planned && plan->dropped_refs > 0; ++i) {
    Request& r = requests_[id_index(items[i].req)];
    if (r.planned_copy == kCopyOfPrivate) pool_.add_ref(block_of(r.row[r.num_blocks - 1]));
  }
  if (st == RADIX_OK && plan->need_blocks > 0) st = plan_capacity(items, n, plan);
  if (st == RADIX_OK && plan->need_blocks > 0) st = reserve_rows(items, n);
  if (st != RADIX_OK) {
    for (uint32_t i = 0; i < planned; ++i)
      namespaces_[requests_[id_index(items[i].req)].ns].plan_need = 0;
  }
  return st;
}

uint32_t CacheManager::make_room(const radix_append* items, uint32_t n, uint64_t need) {
  uint32_t evicted = 0;
  for (uint32_t i = 0; i < n; ++i) {
    const uint32_t ns = requests_[id_index(items[i].req)].ns;
    Namespace& space = namespaces_[ns];
    const uint64_t wanted = uint64_t{space.used} + space.plan_need;
    if (space.quota != 0 && wanted > space.quota) evicted += evict_from(ns, wanted - space.quota);
    space.plan_need = 0;
  }
  if (pool_.num_free() < need) evicted += evict_from(kNone, need - pool_.num_free());
  return evicted;
}

uint32_t CacheManager::take_block_run(Request* r, uint32_t want) {
  uint32_t first = 0;
  const uint32_t hint = r->num_blocks > 0 ? block_of(r->row[r->num_blocks - 1]) + 1 : kNone;
  const uint32_t got = pool_.take(want, hint, &first);
  for (uint32_t i = 0; i < got; ++i) r->row[r->num_blocks++] = (first + i) | kPrivateBit;
  namespaces_[r->ns].used += got;
  return got;
}

void CacheManager::copy_on_write(uint32_t index, radix_append_out* out) {
  Request& r = requests_[index];
  const uint32_t last = r.num_blocks - 1;
  const uint32_t old_entry = r.row[last];
  const uint32_t old_block = block_of(old_entry);
  const uint32_t valid = config_.block_size - static_cast<uint32_t>(r.room(config_.block_size));
  uint32_t fresh = 0;
  const uint32_t hint = last > 0 ? block_of(r.row[last - 1]) + 1 : kNone;  // not behind the old one
  pool_.take(1, hint, &fresh);
  ++namespaces_[r.ns].used;
  std::memcpy(block_tokens(fresh), block_tokens(old_block), valid * sizeof(int32_t));
  r.row[last] = fresh | kPrivateBit;
  if (is_private(old_entry)) {
    drop_private(r.ns, old_block);
  } else {
    shrink_lease(index, r.commit_blocks);
  }
  out->ops[out->num_ops++] = {RADIX_OP_COPY, static_cast<int32_t>(old_block),
                              static_cast<int32_t>(fresh), valid};
  ++counters_.cow_copies;
  bump_version(&r);
}

void CacheManager::append_item(const radix_append& item, radix_append_out* out) {
  const uint32_t index = id_index(item.req);
  Request& r = requests_[index];
  const uint32_t bs = config_.block_size;
  if (item.num_tokens == 0) return;
  if (r.planned_copy != 0) copy_on_write(index, out);
  const uint64_t room = r.room(bs);
  uint32_t at = room > 0 ? r.num_blocks - 1 : r.num_blocks;
  uint32_t offset = room > 0 ? bs - static_cast<uint32_t>(room) : 0;
  if (item.num_tokens > room) {
    uint64_t fresh = blocks_for(r.num_tokens + item.num_tokens) - r.num_blocks;
    while (fresh > 0) fresh -= take_block_run(&r, static_cast<uint32_t>(fresh));
    bump_version(&r);
  }
  for (uint32_t done = 0; done < item.num_tokens; ++at, offset = 0) {
    const uint32_t block = block_of(r.row[at]);
    uint32_t k = bs - offset;
    if (k > item.num_tokens - done) k = item.num_tokens - done;
    const int64_t slot = int64_t{block} * bs + offset;
    int64_t* slots = out->slots != nullptr ? out->slots + out->num_slots : nullptr;
    if (k == 1) {  // decode: a call, or a loop of vectors, would cost more than the copy
      if (item.tokens != nullptr) slot_tokens_[static_cast<uint64_t>(slot)] = item.tokens[done];
      if (slots != nullptr) *slots = slot;
    } else {
      if (item.tokens != nullptr)
        std::memcpy(block_tokens(block) + offset, item.tokens + done, k * sizeof(int32_t));
      for (uint32_t i = 0; slots != nullptr && i < k; ++i) slots[i] = slot + i;
    }
    out->num_slots += k;
    done += k;
  }
  r.num_tokens += item.num_tokens;
  if (item.tokens != nullptr) r.known_tokens = r.num_tokens;
}

// All of the items or none. `out` counts on from where it is.
radix_status CacheManager::append_batch(const radix_append* items, uint32_t n,
                                        radix_append_out* out) {
  AppendPlan plan = {};
  plan.first_item = out->num_done;
  const radix_status st = plan_append(items, n, &plan);
  if (st != RADIX_OK) {
    out->short_blocks = plan.short_blocks;
    return st;
  }
  const bool slots_fit =
      out->slots == nullptr || out->num_slots + plan.need_slots <= out->slots_cap;
  const bool ops_fit =
      plan.need_ops == 0 || (out->ops != nullptr && out->num_ops + plan.need_ops <= out->ops_cap);
  if (!slots_fit || !ops_fit) {
    for (uint32_t i = 0; i < n; ++i)
      namespaces_[requests_[id_index(items[i].req)].ns].plan_need = 0;
    out->num_slots += plan.need_slots;
    out->num_ops += plan.need_ops;
    return fail(RADIX_E_BUFFER, "%s: %llu slots and %u ops needed, room for %llu and %u",
                slots_fit ? "ops" : "slots", static_cast<unsigned long long>(out->num_slots),
                out->num_ops, static_cast<unsigned long long>(out->slots_cap),
                out->ops != nullptr ? out->ops_cap : 0);
  }
  if (plan.need_blocks > 0) {
    out->evicted_blocks += make_room(items, n, plan.need_blocks);
    pool_.plan(static_cast<uint32_t>(plan.need_blocks));
  }
  for (uint32_t i = 0; i < n; ++i) append_item(items[i], out);
  out->num_done += n;
  return RADIX_OK;
}

radix_status CacheManager::append(const radix_append* items, uint32_t n, radix_append_out* out) {
  out->num_ops = out->num_done = out->short_blocks = out->evicted_blocks = 0;
  out->num_slots = 0;
  if (++batch_mark_ == 0) {
    for (uint32_t i = 0; i < requests_.size(); ++i) requests_[i].batch_mark = 0;
    batch_mark_ = 1;
  }
  if ((out->flags & RADIX_APPEND_PARTIAL) == 0) return append_batch(items, n, out);
  for (uint32_t i = 0; i < n; ++i) {
    const uint64_t slots = out->num_slots;
    const uint32_t ops = out->num_ops;
    const radix_status st = append_batch(items + i, 1, out);
    if (st != RADIX_OK) {
      // The caller must run the operations of the items before: the counts are theirs.
      out->num_slots = slots;
      out->num_ops = ops;
      return st;
    }
  }
  return RADIX_OK;
}

radix_status CacheManager::set_tokens(radix_req id, uint64_t pos, const radix_token* tokens,
                                      uint64_t n) {
  uint32_t index;
  const radix_status st = find_request(id, "r", &index);
  if (st != RADIX_OK) return st;
  Request& r = requests_[index];
  if (pos > r.known_tokens || n > r.num_tokens - pos) {
    return fail(
        RADIX_E_INVALID,
        "pos %llu and n %llu: expected pos <= known_tokens %llu and pos + n <= num_tokens %llu",
        static_cast<unsigned long long>(pos), static_cast<unsigned long long>(n),
        static_cast<unsigned long long>(r.known_tokens),
        static_cast<unsigned long long>(r.num_tokens));
  }
  const uint32_t bs = config_.block_size;
  for (uint64_t i = 0; i < n && pos + i < r.known_tokens; ++i) {
    const uint64_t at = pos + i;
    if (block_tokens(block_of(r.row[at / bs]))[at % bs] != tokens[i]) {
      return fail(RADIX_E_STATE, "token %llu is known with another id: truncate and append instead",
                  static_cast<unsigned long long>(at));
    }
  }
  for (uint64_t i = 0; i < n; ++i) {
    const uint64_t at = pos + i;
    if (at >= r.known_tokens) block_tokens(block_of(r.row[at / bs]))[at % bs] = tokens[i];
  }
  if (pos + n > r.known_tokens) r.known_tokens = pos + n;
  return RADIX_OK;
}

}  // namespace radixattn
