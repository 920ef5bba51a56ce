// What launches and people read from a plan: its arrays, its lists, its tree.
#include <cinttypes>

#include "api/plan.h"
#include "api/struct_io.h"
#include "base/error.h"

namespace radixattn {
namespace {

radix_status check_updated(const radix_plan* plan) {
  const radix_status st = not_null(plan, "plan");
  if (st != RADIX_OK || plan->updated) return st;
  return fail(RADIX_E_STATE, "the plan has no step: expected radix_plan_update first");
}

uint32_t launched_seqs(const radix_plan& plan) {
  return plan.bounds() ? plan.config.max_seqs : plan.step.num_seqs;
}

radix_status check_plan_launch(const radix_plan& plan, const radix_attn& d, bool prefill) {
  if (!plan.updated || plan.decode == prefill) {
    return fail(RADIX_E_STATE, "d->plan has no %s step: expected an update with%s q_lens",
                prefill ? "prefill" : "decode", prefill ? "" : "out");
  }
  radix_attn given = {};
  given.struct_size = sizeof given;
  const radix_status st = radix_plan_attn(&plan, &given);
  if (st != RADIX_OK) return st;
  if (d.num_seqs != given.num_seqs || d.max_context_len != given.max_context_len ||
      d.max_query_len != given.max_query_len || d.block_table_stride != given.block_table_stride) {
    return fail(
        RADIX_E_INVALID,
        "d has num_seqs %u, max_context_len %u, max_query_len %u, block_table_stride %" PRId64
        ": expected what radix_plan_attn gave (%u, %u, %u, %" PRId64 ")",
        d.num_seqs, d.max_context_len, d.max_query_len, d.block_table_stride, given.num_seqs,
        given.max_context_len, given.max_query_len, given.block_table_stride);
  }
  const int64_t rows = plan.bounds() ? plan.config.max_query_tokens : plan.step.num_query_tokens;
  if (prefill && d.q.shape[0] < rows) {  // decode's are as many as sequences
    return fail(RADIX_E_INVALID, "q has %" PRId64 " rows: expected at least %" PRId64 ", the %s",
                d.q.shape[0], rows, plan.bounds() ? "plan's bounds" : "step's");
  }
  if (d.context_lens != given.context_lens || d.block_tables != given.block_tables ||
      d.cu_q_lens != given.cu_q_lens) {
    return fail(RADIX_E_INVALID,
                "d->context_lens, block_tables or cu_q_lens is not what radix_plan_attn gave");
  }
  return RADIX_OK;
}

radix_status check_plan_words(const radix_ctx& ctx, const radix_attn& d, uint32_t block_size) {
  const radix_plan& plan = *d.plan;
  if (plan.ctx != &ctx) {
    return fail(RADIX_E_INVALID, "d->plan is %p: expected a plan of this context",
                static_cast<const void*>(d.plan));
  }
  if (block_size != plan.config.block_size) {
    return fail(RADIX_E_INVALID, "k_cache has blocks of %u tokens: the plan has tables for %u",
                block_size, plan.config.block_size);
  }
  if (plan.batch_invariant() != ((d.flags & RADIX_ATTN_BATCH_INVARIANT) != 0)) {
    return fail(RADIX_E_INVALID,
                "d->flags is 0x%x: expected %s RADIX_ATTN_BATCH_INVARIANT, as the plan was made",
                d.flags, plan.batch_invariant() ? "with" : "without");
  }
  return RADIX_OK;
}

// Lists are for launches of the shape that the plan was made for. Refused whether this step has a
// list or not: else sharing would be lost unseen, or launches fail from the first shared step on.
radix_status check_plan_shape(const radix_plan& plan, const AttentionParams& p) {
  const radix_config& c = plan.ctx->config;
  const struct {
    const char* name;
    int64_t is, planned;
    const char* field;
  } words[] = {{"q.shape[1]", p.num_q_heads, plan.config.num_q_heads, "cfg->num_q_heads"},
               {"the number of heads of k_cache", p.num_kv_heads, c.num_kv_heads, "num_kv_heads"},
               {"the head dim of k_cache", p.head_dim, c.head_dim, "head_dim"},
               {"the head dim of v_cache", p.head_dim_v, c.head_dim_v, "head_dim_v"},
               {"k_cache.dtype", p.k.dtype, c.kv_dtype, "kv_dtype"},
               {"v_cache.dtype", p.v.dtype, c.kv_dtype, "kv_dtype"}};
  for (const auto& word : words) {
    if (word.is == word.planned) continue;
    return fail(RADIX_E_INVALID,
                "%s is %" PRId64 ": d->plan is for %" PRId64 " (%s); expected that, or plan NULL",
                word.name, word.is, word.planned, word.field);
  }
  return RADIX_OK;
}

void give_radix_list(const radix_plan& plan, RadixList* out) {
  const RadixArrays arrays = step_radix(plan.shape, plan.step, plan.device);
  out->sizes = arrays.sizes;
  out->items = arrays.items;
  out->rows = arrays.rows;
  out->merges = arrays.merges;
  out->terms = arrays.terms;
  out->max_items = plan.shape.max_radix_items;
  out->max_states = plan.radix.limits.max_states;
  out->max_terms = plan.radix.limits.max_terms;
  out->has_merges = plan.bounds() || plan.planner.sizes().has_merges;
}

void give_decode_list(const radix_plan& plan, DecodeList* out) {
  out->schedule = plan.array<int32_t>(plan.layout.schedule);
  out->items = plan.array<int32_t>(plan.layout.items);
  out->partial_begin = plan.array<int32_t>(plan.layout.partial_begin);
  out->max_items = plan.list.max_items;
  out->walkers = plan.list.walkers;
  out->merges = plan.bounds() || plan.step.num_states != 0;
}

// Breadth first, as radix_tree_export has it: `order` gets the tree's own number of each node.
void sort_nodes(const SharedTree& tree, const radix_tree_view& io, int32_t* order) {
  const auto num = static_cast<int32_t>(tree.num_nodes());
  int32_t made = 0;
  io.child_begin[0] = 0;
  for (int32_t i = -1; i < num; ++i) {
    const int32_t parent = i < 0 ? -1 : order[i];
    const uint32_t end = parent < 0 ? UINT32_MAX : tree.nodes()[parent].end_slot;
    for (int32_t c = parent + 1; c < num && tree.nodes()[c].first_slot < end; ++c) {
      if (tree.nodes()[c].parent != parent) continue;
      io.parent[made] = i;
      order[made++] = c;
    }
    io.child_begin[i + 2] = made;
  }
}

void write_tree(const radix_plan& plan, const radix_tree_view& io, int32_t* radix_indices) {
  const SharedTree& tree = plan.planner.tree();
  int32_t* order = io.depth_blocks;  // until the depths are written
  sort_nodes(tree, io, order);
  for (uint32_t s = 0; s < plan.step.num_seqs; ++s) radix_indices[s] = -1;
  int32_t at = 0;
  for (uint32_t i = 0; i < tree.num_nodes(); ++i) {
    const TreeNode& node = tree.nodes()[order[i]];
    const int32_t* row =
        plan.writer.tables() + uint64_t{tree.seqs()[node.first_slot]} * plan.shape.row_stride;
    io.depth_blocks[i] = static_cast<int32_t>(node.first_block);
    io.block_begin[i] = at;
    for (uint32_t b = node.first_block; b < node.end_block; ++b) io.block_ids[at++] = row[b];
    // Deeper nodes come later and overwrite.
    for (uint32_t slot = node.first_slot; slot < node.end_slot; ++slot)
      radix_indices[tree.seqs()[slot]] = static_cast<int32_t>(i);
  }
  io.block_begin[tree.num_nodes()] = at;
}

radix_status check_tree_room(const radix_plan& plan, const int32_t* radix_indices,
                             radix_tree_view* io) {
  const SharedTree& tree = plan.planner.tree();
  io->block_size = plan.config.block_size;
  io->num_nodes = tree.num_nodes();
  io->num_blocks = 0;
  for (uint32_t i = 0; i < tree.num_nodes(); ++i)
    io->num_blocks += tree.nodes()[i].end_block - tree.nodes()[i].first_block;
  if (io->nodes_cap < io->num_nodes || io->blocks_cap < io->num_blocks) {
    return fail(RADIX_E_BUFFER, "io has room for %u nodes and %u blocks: expected %u and %u",
                io->nodes_cap, io->blocks_cap, io->num_nodes, io->num_blocks);
  }
  radix_status st = check_array(radix_indices, plan.step.num_seqs, "radix_indices");
  const uint64_t nodes = io->num_nodes;
  if (st == RADIX_OK) st = check_array(io->parent, nodes, "io->parent");
  if (st == RADIX_OK) st = check_array(io->depth_blocks, nodes, "io->depth_blocks");
  if (st == RADIX_OK) st = check_array(io->child_begin, nodes, "io->child_begin");
  if (st == RADIX_OK) st = check_array(io->block_begin, nodes, "io->block_begin");
  if (st == RADIX_OK) st = check_array(io->block_ids, io->num_blocks, "io->block_ids");
  return st;
}

}  // namespace

radix_status read_plan(const radix_ctx& ctx, const radix_attn& d, bool prefill,
                       AttentionParams* p) {
  const radix_plan& plan = *d.plan;
  radix_status st = check_plan_words(ctx, d, p->block_size);
  if (st == RADIX_OK) st = check_plan_launch(plan, d, prefill);
  if (st == RADIX_OK) st = check_plan_shape(plan, *p);
  if (st != RADIX_OK) return st;
  const uint32_t window = plan.config.window;
  if (window != 0 && (d.window == 0 || d.window > window)) {
    return fail(RADIX_E_INVALID, "d->window is %u: the plan is for windows of at most %u", d.window,
                window);
  }
  if (plan.planner.has_list()) {
    give_radix_list(plan, &p->radix);
  } else if (!prefill && plan.list.walkers != 0) {
    give_decode_list(plan, &p->list);
  }
  return RADIX_OK;
}

}  // namespace radixattn

using namespace radixattn;

extern "C" {

radix_status radix_plan_attn(const radix_plan* plan, radix_attn* io) RADIX_NOEXCEPT {
  radix_attn d;
  radix_status st = check_updated(plan);
  if (st == RADIX_OK) st = read_struct(io, "io", &d);
  if (st != RADIX_OK) return st;
  const bool bounds = plan->bounds();
  d.num_seqs = launched_seqs(*plan);
  d.max_context_len = bounds ? plan->config.max_context_len : plan->step.max_context_len;
  d.max_query_len = plan->decode ? 1
                    : bounds     ? plan->config.max_query_len
                                 : plan->step.max_query_len;
  d.block_tables = plan->array<int32_t>(plan->layout.tables);
  d.block_table_stride = plan->shape.row_stride;
  d.block_begin = d.block_ids = nullptr;
  d.context_lens = plan->array<int32_t>(plan->layout.context_lens);
  d.cu_q_lens = plan->decode ? nullptr : plan->array<int32_t>(plan->layout.cu_q_lens);
  d.workspace = plan->array<void>(plan->layout.workspace);
  d.workspace_size = plan->shape.workspace_bytes;
  d.plan = plan;
  if (plan->batch_invariant()) d.flags |= RADIX_ATTN_BATCH_INVARIANT;
  write_struct(d, io);
  return RADIX_OK;
}

radix_status radix_plan_rope(const radix_plan* plan, radix_rope_append* io) RADIX_NOEXCEPT {
  radix_rope_append d;
  radix_status st = check_updated(plan);
  if (st == RADIX_OK) st = read_struct(io, "io", &d);
  if (st != RADIX_OK) return st;
  d.slots = plan->array<int64_t>(plan->layout.slots);
  d.positions = plan->array<int32_t>(plan->layout.positions);
  d.num_tokens = !plan->bounds() ? plan->step.num_query_tokens
                 : plan->decode  ? plan->config.max_seqs
                                 : plan->config.max_query_tokens;
  write_struct(d, io);
  return RADIX_OK;
}

radix_status radix_plan_get_info(const radix_plan* plan, radix_plan_info* out) RADIX_NOEXCEPT {
  radix_status st = not_null(plan, "plan");
  if (st == RADIX_OK) st = check_out(out, "out");
  if (st != RADIX_OK) return st;
  const StepSizes& step = plan->step;
  radix_plan_info info = {};
  info.num_seqs = step.num_seqs;
  info.num_query_tokens = step.num_query_tokens;
  info.max_context_len = step.max_context_len;
  info.max_query_len = step.max_query_len;
  info.num_items = step.num_items;
  info.split_tokens = step.split_tokens;
  info.num_states = step.num_states;
  info.changed_rows = step.changed_rows;
  info.changed_entries = step.changed_entries;
  info.upload_bytes = plan->uploaded;
  info.device_bytes = plan->layout.total_bytes;
  if (plan->updated) {  // else the planner may have a step that was never one of the plan's
    const RadixPlanner& planner = plan->planner;
    info.tokens_seen = planner.sizes().tokens_seen;
    info.tokens_read = planner.sizes().tokens_read;
    info.num_nodes = planner.tree().num_nodes();
    info.num_shared = planner.has_list() ? planner.sizes().num_shared : 0;
  }
  info.host_bytes = sizeof(radix_plan) + plan->versions_bytes() + plan->row_bytes() +
                    RadixPlanner::bytes(plan->radix);
  if (plan->shape.copies) {
    info.host_bytes += plan->mirror_bytes() + plan->list_bytes() +
                       radix_plan::kStagings * plan->layout.staged_bytes;
  }
  write_struct(info, out);
  return RADIX_OK;
}

radix_status radix_plan_tree(const radix_plan* plan, radix_tree_view* io,
                             int32_t* radix_indices) RADIX_NOEXCEPT {
  radix_tree_view view;
  radix_status st = check_updated(plan);
  if (st == RADIX_OK) st = read_struct(io, "io", &view);
  if (st != RADIX_OK) return st;
  st = check_tree_room(*plan, radix_indices, &view);
  if (st == RADIX_OK && view.child_begin != nullptr && view.block_begin != nullptr) {
    write_tree(*plan, view, radix_indices);
  } else if (st == RADIX_OK) {
    for (uint32_t s = 0; s < plan->step.num_seqs; ++s) radix_indices[s] = -1;
  }
  if (st == RADIX_OK || st == RADIX_E_BUFFER) write_struct(view, io);
  return st;
}

}  // extern "C"
