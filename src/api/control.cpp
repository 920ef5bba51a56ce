// The control plane: pointers and struct sizes are checked here, everything else by CacheManager.
#include "api/context.h"
#include "api/struct_io.h"
#include "base/error.h"

namespace radixattn {
namespace {

constexpr uint32_t kBeginFlags = RADIX_BEGIN_MATCH_ALL | RADIX_BEGIN_NO_MATCH |
                                 RADIX_BEGIN_SHARE_PENDING | RADIX_BEGIN_REMAP_DUPLICATES;

radix_status check_flags(const char* name, uint32_t flags, uint32_t known) {
  if ((flags & ~known) == 0) return RADIX_OK;
  return fail(RADIX_E_INVALID, "%s has unknown bits 0x%x", name, flags & ~known);
}

radix_status read_desc(const radix_request_desc* d, uint32_t known_flags, radix_request_desc* out) {
  radix_status st = read_struct(d, "d", out);
  if (st == RADIX_OK) st = check_flags("d->flags", out->flags, known_flags);
  return st == RADIX_OK ? check_optional_array(out->tokens, "d->tokens") : st;
}

// m may be null: then *local stays empty and nobody reads it.
radix_status read_match(const radix_match* m, radix_match* local) {
  *local = {};
  const radix_status st = m == nullptr ? RADIX_OK : read_struct(m, "m", local);
  return st == RADIX_OK ? check_optional_array(local->blocks, "m->blocks") : st;
}

radix_status check_items(const radix_append* items, uint32_t n) {
  for (uint32_t i = 0; i < n; ++i) {
    if (reinterpret_cast<uintptr_t>(items[i].tokens) % alignof(radix_token) == 0) continue;
    return fail(RADIX_E_INVALID, "items[%u].tokens is %p: expected a multiple of %zu", i,
                static_cast<const void*>(items[i].tokens), alignof(radix_token));
  }
  return RADIX_OK;
}

// match and peek differ in one word.
radix_status look_up(radix_ctx* ctx, const radix_request_desc* d, bool count_use, radix_match* m) {
  radix_request_desc desc;
  radix_match match;
  radix_status st = check_ctx(ctx);
  if (st == RADIX_OK) st = read_desc(d, 0, &desc);
  if (st == RADIX_OK) st = not_null(m, "m");
  if (st == RADIX_OK) st = read_match(m, &match);
  if (st != RADIX_OK) return st;
  Control cache(ctx);
  st =
      cache.done(count_use ? "match_prefix" : "peek_prefix", cache->match(desc, count_use, &match));
  if (st == RADIX_OK) write_struct(match, m);
  return st;
}

}  // namespace
}  // namespace radixattn

using namespace radixattn;  // NOLINT(google-build-using-namespace): everything below is extern "C"

extern "C" {

// ---- requests

radix_status radix_begin_request(radix_ctx* ctx, const radix_request_desc* d, radix_req* out,
                                 radix_match* m) RADIX_NOEXCEPT {
  radix_request_desc desc;
  radix_match match;
  radix_status st = check_ctx(ctx);
  if (st == RADIX_OK) st = read_desc(d, kBeginFlags, &desc);
  if (st == RADIX_OK) st = not_null(out, "out");
  if (st == RADIX_OK) st = read_match(m, &match);
  if (st != RADIX_OK) return st;
  Control cache(ctx);
  st = cache.done("begin_request", cache->begin(desc, out, &match));
  if (st == RADIX_OK && m != nullptr) write_struct(match, m);
  return st;
}

radix_status radix_match_prefix(radix_ctx* ctx, const radix_request_desc* d,
                                radix_match* m) RADIX_NOEXCEPT {
  return look_up(ctx, d, true, m);
}

radix_status radix_peek_prefix(radix_ctx* ctx, const radix_request_desc* d,
                               radix_match* m) RADIX_NOEXCEPT {
  return look_up(ctx, d, false, m);
}

radix_status radix_append_slot(radix_ctx* ctx, const radix_append* items, uint32_t n,
                               radix_append_out* out) RADIX_NOEXCEPT {
  radix_append_out local;
  radix_status st = check_ctx(ctx);
  if (st == RADIX_OK) st = check_array(items, n, "items");
  if (st == RADIX_OK) st = check_items(items, n);
  if (st == RADIX_OK) st = read_struct(out, "out", &local);
  if (st == RADIX_OK) st = check_optional_array(local.slots, "out->slots");
  if (st == RADIX_OK) st = check_optional_array(local.ops, "out->ops");
  if (st == RADIX_OK) st = check_flags("out->flags", local.flags, RADIX_APPEND_PARTIAL);
  if (st == RADIX_OK) st = check_reserved("out", "reserved0", local.reserved0);
  if (st != RADIX_OK) return st;
  Control cache(ctx);
  st = cache.done("append_slot", cache->append(items, n, &local));
  write_struct(local, out);  // after a failure, too: what is short, what is needed, what was done
  return st;
}

radix_status radix_set_tokens(radix_ctx* ctx, radix_req r, uint64_t pos, const radix_token* t,
                              uint64_t n) RADIX_NOEXCEPT {
  radix_status st = check_ctx(ctx);
  if (st == RADIX_OK) st = check_array(t, n, "t");
  if (st != RADIX_OK) return st;
  Control cache(ctx);
  return cache.done("set_tokens", cache->set_tokens(r, pos, t, n));
}

radix_status radix_commit(radix_ctx* ctx, const radix_commit_item* items, uint32_t n,
                          radix_commit_out* out) RADIX_NOEXCEPT {
  radix_commit_out local = {};
  radix_status st = check_ctx(ctx);
  if (st == RADIX_OK) st = check_array(items, n, "items");
  if (st == RADIX_OK && out != nullptr) st = read_struct(out, "out", &local);
  if (st == RADIX_OK) st = check_optional_array(local.remaps, "out->remaps");
  if (st == RADIX_OK) st = check_reserved("out", "reserved0", local.reserved0);
  if (st != RADIX_OK) return st;
  Control cache(ctx);
  st = cache.done("commit", cache->commit(items, n, out != nullptr ? &local : nullptr));
  if (out != nullptr) write_struct(local, out);  // after BUFFER, too: what is needed
  return st;
}

radix_status radix_get_block_tables(radix_ctx* ctx, const radix_req* reqs, uint32_t n,
                                    int32_t* tables, int64_t row_stride, int32_t* context_lens,
                                    uint64_t* row_versions) RADIX_NOEXCEPT {
  radix_status st = check_ctx(ctx);
  if (st == RADIX_OK) st = check_array(reqs, n, "reqs");
  if (st == RADIX_OK) st = check_array(tables, n, "tables");
  if (st == RADIX_OK) st = check_row_stride(row_stride, n, "row_stride");
  if (st == RADIX_OK) st = check_optional_array(context_lens, "context_lens");
  if (st == RADIX_OK) st = check_optional_array(row_versions, "row_versions");
  if (st != RADIX_OK) return st;
  Control cache(ctx);
  return cache.done("get_block_tables",
                    cache->block_tables(reqs, n, tables, row_stride, context_lens, row_versions));
}

radix_status radix_get_request(radix_ctx* ctx, radix_req r,
                               radix_request_info* out) RADIX_NOEXCEPT {
  radix_request_info local = {};
  radix_status st = check_ctx(ctx);
  if (st == RADIX_OK) st = check_out(out, "out");
  if (st != RADIX_OK) return st;
  Control cache(ctx);
  st = cache.done("get_request", cache->request_info(r, &local));
  if (st == RADIX_OK) write_struct(local, out);
  return st;
}

radix_status radix_get_tokens(radix_ctx* ctx, radix_req r, radix_token* out, uint64_t cap,
                              uint64_t* n) RADIX_NOEXCEPT {
  radix_status st = check_ctx(ctx);
  if (st == RADIX_OK) st = check_array(out, cap, "out");
  if (st == RADIX_OK) st = not_null(n, "n");
  if (st != RADIX_OK) return st;
  Control cache(ctx);
  return cache.done("get_tokens", cache->tokens(r, out, cap, n));
}

radix_status radix_fork(radix_ctx* ctx, radix_req parent, uint32_t n,
                        radix_req* out) RADIX_NOEXCEPT {
  radix_status st = check_ctx(ctx);
  if (st == RADIX_OK) st = check_array(out, n, "out");
  if (st != RADIX_OK) return st;
  Control cache(ctx);
  return cache.done("fork", cache->fork(parent, n, out));
}

radix_status radix_truncate(radix_ctx* ctx, radix_req r, uint64_t new_len) RADIX_NOEXCEPT {
  const radix_status st = check_ctx(ctx);
  if (st != RADIX_OK) return st;
  Control cache(ctx);
  return cache.done("truncate", cache->truncate(r, new_len));
}

radix_status radix_free_request(radix_ctx* ctx, radix_req r, uint32_t flags) RADIX_NOEXCEPT {
  radix_status st = check_ctx(ctx);
  if (st == RADIX_OK) st = check_flags("flags", flags, RADIX_FREE_DISCARD);
  if (st != RADIX_OK) return st;
  Control cache(ctx);
  return cache.done("free_request", cache->free_request(r, flags));
}

// ---- what stays cached

radix_status radix_evict(radix_ctx* ctx, radix_ns ns, uint32_t want,
                         uint32_t* freed) RADIX_NOEXCEPT {
  const radix_status st = check_ctx(ctx);
  if (st != RADIX_OK) return st;
  Control cache(ctx);
  return cache.done("evict", cache->evict(ns, want, freed));
}

radix_status radix_pin_prefix(radix_ctx* ctx, const radix_request_desc* d, radix_pin* out,
                              radix_match* m) RADIX_NOEXCEPT {
  radix_request_desc desc;
  radix_match match;
  radix_status st = check_ctx(ctx);
  if (st == RADIX_OK) st = read_desc(d, 0, &desc);
  if (st == RADIX_OK) st = not_null(out, "out");
  if (st == RADIX_OK) st = read_match(m, &match);
  if (st != RADIX_OK) return st;
  Control cache(ctx);
  st = cache.done("pin_prefix", cache->pin(desc, out, &match));
  if (st == RADIX_OK && m != nullptr) write_struct(match, m);
  return st;
}

radix_status radix_unpin(radix_ctx* ctx, radix_pin p) RADIX_NOEXCEPT {
  const radix_status st = check_ctx(ctx);
  if (st != RADIX_OK) return st;
  Control cache(ctx);
  return cache.done("unpin", cache->unpin(p));
}

radix_status radix_clear(radix_ctx* ctx, radix_ns ns) RADIX_NOEXCEPT {
  const radix_status st = check_ctx(ctx);
  if (st != RADIX_OK) return st;
  Control cache(ctx);
  return cache.done("clear", cache->clear(ns));
}

// ---- namespaces

radix_status radix_ns_create(radix_ctx* ctx, const char* name, size_t name_len,
                             uint32_t quota_blocks, radix_ns* out) RADIX_NOEXCEPT {
  radix_status st = check_ctx(ctx);
  if (st == RADIX_OK) st = not_null(name, "name");
  if (st == RADIX_OK) st = not_null(out, "out");
  if (st != RADIX_OK) return st;
  Control cache(ctx);
  return cache.done("ns_create", cache->ns_create(name, name_len, quota_blocks, out));
}

radix_status radix_ns_destroy(radix_ctx* ctx, radix_ns ns) RADIX_NOEXCEPT {
  const radix_status st = check_ctx(ctx);
  if (st != RADIX_OK) return st;
  Control cache(ctx);
  return cache.done("ns_destroy", cache->ns_destroy(ns));
}

radix_status radix_ns_get_info(radix_ctx* ctx, radix_ns ns, radix_ns_info* out) RADIX_NOEXCEPT {
  radix_ns_info local = {};
  radix_status st = check_ctx(ctx);
  if (st == RADIX_OK) st = check_out(out, "out");
  if (st != RADIX_OK) return st;
  Control cache(ctx);
  st = cache.done("ns_get_info", cache->ns_info(ns, &local));
  if (st == RADIX_OK) write_struct(local, out);
  return st;
}

// ---- epochs, statistics, checks

radix_status radix_epoch_begin(radix_ctx* ctx, radix_epoch* out) RADIX_NOEXCEPT {
  radix_status st = check_ctx(ctx);
  if (st == RADIX_OK) st = not_null(out, "out");
  if (st != RADIX_OK) return st;
  Control cache(ctx);
  return cache.done("epoch_begin", cache->epoch_begin(out));
}

radix_status radix_epoch_retire(radix_ctx* ctx, radix_epoch upto) RADIX_NOEXCEPT {
  const radix_status st = check_ctx(ctx);
  if (st != RADIX_OK) return st;
  Control cache(ctx);
  return cache.done("epoch_retire", cache->epoch_retire(upto));
}

radix_status radix_get_stats(radix_ctx* ctx, radix_stats* out) RADIX_NOEXCEPT {
  radix_stats local = {};
  radix_status st = check_ctx(ctx);
  if (st == RADIX_OK) st = check_out(out, "out");
  if (st != RADIX_OK) return st;
  Control cache(ctx);
  cache->stats(&local);
  local.host_bytes = ctx->memory.bytes() - (ctx->own_kv != nullptr ? ctx->layout.total_bytes : 0);
  local.kv_bytes = ctx->layout.total_bytes;
  write_struct(local, out);
  return RADIX_OK;
}

radix_status radix_check(radix_ctx* ctx) RADIX_NOEXCEPT {
  const radix_status st = check_ctx(ctx);
  if (st != RADIX_OK) return st;
  Control cache(ctx);
  return cache.done("check", cache->check());
}

// ---- what is shared

radix_status radix_find_shared(radix_ctx* ctx, const radix_request_desc* d, radix_req* out,
                               uint32_t cap, uint32_t* n, uint64_t* shared_tokens) RADIX_NOEXCEPT {
  radix_request_desc desc;
  radix_status st = check_ctx(ctx);
  if (st == RADIX_OK) st = read_desc(d, 0, &desc);
  if (st == RADIX_OK) st = not_null(n, "n");
  if (st == RADIX_OK) st = not_null(shared_tokens, "shared_tokens");
  if (st != RADIX_OK) return st;
  Control cache(ctx);
  return cache.done("find_shared", cache->find_shared(desc, out, cap, n, shared_tokens));
}

radix_status radix_sharing_graph(radix_ctx* ctx, radix_write_fn fn, void* user,
                                 int32_t format) RADIX_NOEXCEPT {
  radix_status st = check_ctx(ctx);
  if (st == RADIX_OK) st = not_null(reinterpret_cast<const void*>(fn), "fn");
  if (st != RADIX_OK) return st;
  Control cache(ctx);
  return cache.done("sharing_graph", cache->sharing_graph(fn, user, format));
}

}  // extern "C"
