// The tree as arrays: its export, and lookups of many prompts in it.
#include <cinttypes>

#include "api/context.h"
#include "api/struct_io.h"
#include "base/error.h"

namespace radixattn {
namespace {

constexpr uint32_t kMaxBlockSize = 256;

radix_status at_most_int32(uint64_t value, const char* name) {
  if (value <= INT32_MAX) return RADIX_OK;
  return fail(RADIX_E_INVALID, "%s is %" PRIu64 ": expected at most 2^31-1", name, value);
}

radix_status read_tree(const radix_tree_view& t, bool needs_ids, MatchParams* p) {
  if (t.block_size == 0 || t.block_size > kMaxBlockSize) {
    return fail(RADIX_E_INVALID, "t->block_size is %u: expected 1..%u", t.block_size,
                kMaxBlockSize);
  }
  radix_status st = at_most_int32(t.num_nodes, "t->num_nodes");
  if (st == RADIX_OK) st = at_most_int32(t.num_blocks, "t->num_blocks");
  if (st == RADIX_OK) st = check_array(t.child_begin, t.num_nodes, "t->child_begin");
  if (st == RADIX_OK) st = check_array(t.block_begin, t.num_nodes, "t->block_begin");
  if (st == RADIX_OK) st = check_array(t.tokens, t.num_blocks, "t->tokens");
  if (st == RADIX_OK && needs_ids) st = check_array(t.block_ids, t.num_blocks, "t->block_ids");
  if (st != RADIX_OK) return st;
  p->block_size = t.block_size;
  p->num_nodes = t.num_nodes;
  p->num_blocks = t.num_blocks;
  p->child_begin = t.child_begin;
  p->block_begin = t.block_begin;
  p->block_ids = t.block_ids;
  p->tokens = t.tokens;
  return RADIX_OK;
}

radix_status read_batch(const radix_match_batch& d, MatchParams* p) {
  radix_status st = at_most_int32(d.num_prompts, "d->num_prompts");
  if (st == RADIX_OK) st = check_array(d.prompts, d.num_tokens, "d->prompts");
  if (st == RADIX_OK) st = check_array(d.prompt_begin, d.num_prompts, "d->prompt_begin");
  if (st == RADIX_OK) st = check_array(d.out_nodes, d.num_prompts, "d->out_nodes");
  if (st == RADIX_OK) st = check_array(d.out_tokens, d.num_prompts, "d->out_tokens");
  if (st == RADIX_OK) st = check_optional_array(d.out_tables, "d->out_tables");
  if (st != RADIX_OK) return st;
  if (d.num_tokens > INT64_MAX) {
    return fail(RADIX_E_INVALID, "d->num_tokens is %" PRIu64 ": expected at most 2^63-1",
                d.num_tokens);
  }
  if (d.out_tables != nullptr && (d.table_stride < 0 || d.table_stride > INT32_MAX)) {
    return fail(RADIX_E_INVALID, "d->table_stride is %" PRId64 ": expected 0..2^31-1",
                d.table_stride);
  }
  p->num_prompts = d.num_prompts;
  p->prompts = d.prompts;
  p->num_tokens = d.num_tokens;
  p->prompt_begin = d.prompt_begin;
  p->out_nodes = d.out_nodes;
  p->out_tokens = d.out_tokens;
  p->out_tables = d.out_tables;
  p->table_stride = d.table_stride;
  return RADIX_OK;
}

}  // namespace
}  // namespace radixattn

using namespace radixattn;  // NOLINT(google-build-using-namespace): everything below is extern "C"

extern "C" {

radix_status radix_tree_export(radix_ctx* ctx, radix_ns ns, uint64_t extra_key,
                               radix_tree_view* io) RADIX_NOEXCEPT {
  radix_tree_view local;
  radix_status st = check_ctx(ctx);
  if (st == RADIX_OK) st = read_struct(io, "io", &local);
  if (st == RADIX_OK) st = check_optional_array(local.parent, "io->parent");
  if (st == RADIX_OK) st = check_optional_array(local.depth_blocks, "io->depth_blocks");
  if (st == RADIX_OK) st = check_optional_array(local.child_begin, "io->child_begin");
  if (st == RADIX_OK) st = check_optional_array(local.block_begin, "io->block_begin");
  if (st == RADIX_OK) st = check_optional_array(local.block_ids, "io->block_ids");
  if (st == RADIX_OK) st = check_optional_array(local.tokens, "io->tokens");
  if (st != RADIX_OK) return st;
  Control cache(ctx);
  st = cache.done("tree_export", cache->export_tree(ns, extra_key, &local));
  if (st == RADIX_OK || st == RADIX_E_BUFFER) write_struct(local, io);
  return st;
}

radix_status radix_match_batch_launch(radix_ctx* ctx, const radix_tree_view* t,
                                      const radix_match_batch* d, radix_stream s) RADIX_NOEXCEPT {
  radix_tree_view tree;
  radix_match_batch batch;
  MatchParams p;
  radix_status st = check_ctx(ctx);
  if (st == RADIX_OK) st = read_struct(t, "t", &tree);
  if (st == RADIX_OK) st = read_struct(d, "d", &batch);
  if (st == RADIX_OK && s != nullptr && !ctx->on_cuda()) {
    st = fail(RADIX_E_INVALID, "s is %p: expected NULL on the CPU", s);
  }
  if (st == RADIX_OK) st = read_batch(batch, &p);
  if (st == RADIX_OK) st = read_tree(tree, batch.out_tables != nullptr, &p);
  return st == RADIX_OK ? ctx->backend->match_batch(p, s) : st;
}

}  // extern "C"
