// Construction, ids, and the calls that only look.
#include "cache/cache_manager.h"

#include "base/error.h"

namespace radixattn {

CacheManager::CacheManager(HostAllocator* memory) : memory_(memory) {
  pool_.bind(memory);
  tree_.bind(memory);
  requests_.bind(memory);
  pins_.bind(memory);
  namespaces_.bind(memory);
  slot_tokens_.bind(memory);
  scratch_.bind(memory);
}

radix_status CacheManager::init(const CacheConfig& config) {
  config_ = config;
  const uint64_t slots = uint64_t{config.num_blocks} * config.block_size;
  bool ok =
      pool_.init(config.num_blocks, config.defer_free) &&
      tree_.init(config.num_blocks, config.block_size, config.policy, config.hash_seed) &&
      slot_tokens_.reserve(slots) && scratch_.reserve(config.num_blocks) &&
      requests_.init(config.max_requests, config.max_blocks_per_request, config.preallocate) &&
      pins_.init(config.max_pins, config.preallocate) &&
      namespaces_.init(config.max_namespaces, config.preallocate) &&
      tree_.reserve_namespaces(uint64_t{config.max_namespaces} + 1) &&
      tree_.reserve_leases(2 * uint64_t{config.max_requests > config.max_pins ? config.max_requests
                                                                              : config.max_pins});
  if (ok && config.preallocate) {
    const uint64_t leases = uint64_t{config.max_requests} + config.max_pins;
    ok = tree_.reserve_nodes(config.num_blocks, config.num_blocks + leases);
    if (ok) tree_.touch_memory();
  } else if (ok) {
    ok = tree_.reserve_nodes(0, 64);
  }
  if (!ok)
    return fail(RADIX_E_NOMEM, "no memory for the metadata of %u blocks of %u tokens",
                config.num_blocks, config.block_size);
  tree_.reset_namespace(0);
  return RADIX_OK;
}

// ---- ids

radix_status CacheManager::find_request(radix_req id, const char* argument, uint32_t* index) const {
  *index = requests_.find(id);
  if (*index != kNone) return RADIX_OK;
  return fail(RADIX_E_STALE, "%s is 0x%llx: not a live request (freed, or never given)", argument,
              static_cast<unsigned long long>(id));
}

radix_status CacheManager::find_namespace(radix_ns id, uint32_t* index) const {
  *index = namespaces_.find(id);
  if (*index != kNone) return RADIX_OK;
  return fail(RADIX_E_STALE, "ns is 0x%llx: not a live namespace (destroyed, or never given)",
              static_cast<unsigned long long>(id));
}

radix_status CacheManager::check_desc(const radix_request_desc& d, uint32_t* ns) const {
  const radix_status st = find_namespace(d.ns, ns);
  if (st != RADIX_OK) return st;
  if (d.num_tokens > 0 && d.tokens == nullptr) {
    return fail(RADIX_E_INVALID, "tokens is NULL with num_tokens %llu: expected an array",
                static_cast<unsigned long long>(d.num_tokens));
  }
  return RADIX_OK;
}

void CacheManager::report_match(uint64_t cached, uint64_t pending, uint64_t blocks,
                                radix_match* m) const {
  if (m == nullptr) return;
  m->cached_tokens = cached;
  m->pending_tokens = pending;
  m->num_blocks = blocks;
}

void CacheManager::drop_private(uint32_t ns, uint32_t block) {
  if (pool_.refs(block) == 1) --namespaces_[ns].used;
  pool_.drop_ref(block);
}

// ---- looking

radix_status CacheManager::block_tables(const radix_req* reqs, uint32_t n, int32_t* tables,
                                        int64_t row_stride, int32_t* context_lens,
                                        uint64_t* row_versions) {
  for (uint32_t i = 0; i < n; ++i) {
    uint32_t index;
    const radix_status st = find_request(reqs[i], "reqs", &index);
    if (st != RADIX_OK) return st;
    const Request& r = requests_[index];
    if (r.num_blocks > row_stride) {
      return fail(RADIX_E_BUFFER, "row_stride is %lld: request %u needs %u entries",
                  static_cast<long long>(row_stride), i, r.num_blocks);
    }
    if (context_lens != nullptr && r.num_tokens > INT32_MAX) {
      return fail(RADIX_E_INVALID, "request %u has %llu tokens: context_lens holds at most 2^31-1",
                  i, static_cast<unsigned long long>(r.num_tokens));
    }
  }
  for (uint32_t i = 0; i < n; ++i) {
    const Request& r = requests_[id_index(reqs[i])];
    if (context_lens != nullptr) context_lens[i] = static_cast<int32_t>(r.num_tokens);
    if (row_versions != nullptr) {
      if (row_versions[i] == r.table_version) continue;
      row_versions[i] = r.table_version;
    }
    int32_t* row = tables + i * row_stride;
    const uint32_t* entries = r.row;
    const uint32_t num_blocks = r.num_blocks;  // a local one: the compiler sees no alias with row
    for (uint32_t j = 0; j < num_blocks; ++j) row[j] = static_cast<int32_t>(block_of(entries[j]));
    for (int64_t j = num_blocks; j < row_stride; ++j) row[j] = -1;
  }
  return RADIX_OK;
}

radix_status CacheManager::view(radix_req id, const char* argument, RequestView* out) const {
  uint32_t index;
  const radix_status st = find_request(id, argument, &index);
  if (st != RADIX_OK) return st;
  const Request& r = requests_[index];
  *out = {r.row, r.num_blocks, r.num_tokens, r.table_version};
  return RADIX_OK;
}

radix_status CacheManager::request_info(radix_req id, radix_request_info* out) {
  uint32_t index;
  const radix_status st = find_request(id, "r", &index);
  if (st != RADIX_OK) return st;
  const Request& r = requests_[index];
  const uint64_t committed = uint64_t{r.commit_blocks} * config_.block_size;
  out->num_blocks = r.num_blocks;
  out->num_tokens = r.num_tokens;
  out->known_tokens = r.known_tokens;
  out->committed_tokens = committed;
  out->cached_tokens = r.cached_tokens;
  out->pending_tokens =
      r.borrows() ? uint64_t{r.borrow_end - r.commit_blocks} * config_.block_size : 0;
  out->ready_tokens = r.ready_tokens > committed ? r.ready_tokens : committed;
  out->table_version = r.table_version;
  out->ns = namespaces_.id(r.ns);
  out->extra_key = r.extra_key;
  return RADIX_OK;
}

void CacheManager::copy_tokens(uint32_t request, uint64_t n, int32_t* out) const {
  const Request& r = requests_[request];
  for (uint64_t at = 0; at < n; at += config_.block_size) {
    const uint64_t k = n - at < config_.block_size ? n - at : config_.block_size;
    std::memcpy(out + at, block_tokens(block_of(r.row[at / config_.block_size])),
                k * sizeof(int32_t));
  }
}

radix_status CacheManager::tokens(radix_req id, radix_token* out, uint64_t cap, uint64_t* n) {
  uint32_t index;
  const radix_status st = find_request(id, "r", &index);
  if (st != RADIX_OK) return st;
  const uint64_t known = requests_[index].known_tokens;
  *n = known;
  if (known > cap) {
    return fail(RADIX_E_BUFFER, "cap is %llu: the request has %llu known tokens",
                static_cast<unsigned long long>(cap), static_cast<unsigned long long>(known));
  }
  copy_tokens(index, known, out);
  return RADIX_OK;
}

radix_status CacheManager::ns_info(radix_ns id, radix_ns_info* out) {
  uint32_t ns;
  const radix_status st = find_namespace(id, &ns);
  if (st != RADIX_OK) return st;
  out->quota_blocks = namespaces_[ns].quota;
  out->blocks_used = namespaces_[ns].used;
  out->blocks_cached = tree_.ns_usage(ns).evictable;
  out->requests_live = namespaces_[ns].requests;
  return RADIX_OK;
}

void CacheManager::stats(radix_stats* out) {
  const uint32_t struct_size = out->struct_size;
  *out = counters_;
  out->struct_size = struct_size;
  out->blocks_total = config_.num_blocks;
  out->blocks_free = pool_.num_free();
  out->blocks_cached = tree_.evictable();
  out->blocks_deferred = pool_.num_deferred() + tree_.fenced();
  out->blocks_active =
      out->blocks_total - out->blocks_free - out->blocks_cached - out->blocks_deferred;
  out->blocks_pinned = pinned_blocks();
  out->requests_live = requests_.num_live();
  out->pins_live = pins_.num_live();
  out->namespaces = namespaces_.num_live();
  out->tree_nodes = tree_.num_nodes();
  out->clock = clock_;
}

}  // namespace radixattn
