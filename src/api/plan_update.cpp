// radix_plan_update: a step from requests, from tables or from a tree, checked and then written.
#include <cinttypes>

#include "api/plan.h"
#include "api/struct_io.h"
#include "base/error.h"

namespace radixattn {
namespace {

// What an update was given, its tree read.
struct PlanInput {
  const radix_plan_desc& d;
  radix_tree_view tree;
};

// ---- the call's words

radix_status check_plan_desc(const radix_plan& plan, const radix_plan_desc& d) {
  radix_status st = check_reserved("d", "reserved0", d.reserved0);
  if (st != RADIX_OK) return st;
  if ((d.flags & ~uint32_t{RADIX_PLAN_UPDATE_NO_WAIT}) != 0)
    return fail(RADIX_E_INVALID, "d->flags is 0x%x: expected RADIX_PLAN_UPDATE_NO_WAIT or 0",
                d.flags);
  if (d.num_seqs > plan.config.max_seqs) {
    return fail(RADIX_E_BUFFER, "d->num_seqs is %u: the plan has room for %u (max_seqs)",
                d.num_seqs, plan.config.max_seqs);
  }
  const int given = (d.reqs != nullptr) + (d.block_tables != nullptr) + (d.tree != nullptr);
  if (given > 1) {
    return fail(RADIX_E_INVALID, "d->%s and d->%s are given: expected one of them",
                d.reqs != nullptr ? "reqs" : "block_tables",
                d.tree != nullptr ? "tree" : "block_tables");
  }
  if (d.reqs != nullptr && plan.config.block_size != plan.ctx->config.block_size) {
    return fail(RADIX_E_INVALID,
                "d->reqs is given: the plan is one for blocks of %u tokens (cfg->block_size), the "
                "context's requests have blocks of %u",
                plan.config.block_size, plan.ctx->config.block_size);
  }
  st = check_optional_array(d.reqs, "d->reqs");
  if (st == RADIX_OK) st = check_optional_array(d.q_lens, "d->q_lens");
  if (st == RADIX_OK) st = check_optional_array(d.block_tables, "d->block_tables");
  if (st == RADIX_OK) st = check_optional_array(d.context_lens, "d->context_lens");
  if (st == RADIX_OK) st = check_optional_array(d.radix_indices, "d->radix_indices");
  if (st != RADIX_OK || d.reqs != nullptr || d.num_seqs == 0) return st;
  if (given == 0) {
    return fail(RADIX_E_INVALID,
                "d->reqs is NULL: expected reqs, or block_tables or tree, and context_lens");
  }
  if (d.context_lens == nullptr || (d.tree != nullptr && d.radix_indices == nullptr)) {
    return fail(RADIX_E_INVALID, "d->%s is NULL: expected it with d->%s",
                d.context_lens == nullptr ? "context_lens" : "radix_indices",
                d.tree != nullptr ? "tree" : "block_tables");
  }
  return check_row_stride(d.block_table_stride, d.num_seqs, "d->block_table_stride");
}

// The nodes of a tree, but for their blocks and how they hang together.
radix_status check_nodes(const radix_plan& plan, const radix_tree_view& t) {
  if (t.block_size != plan.config.block_size) {
    return fail(RADIX_E_INVALID, "d->tree->block_size is %u: the plan has tables for %u",
                t.block_size, plan.config.block_size);
  }
  radix_status st = check_array(t.parent, t.num_nodes, "d->tree->parent");
  if (st == RADIX_OK) st = check_array(t.block_begin, t.num_nodes, "d->tree->block_begin");
  if (st == RADIX_OK) st = check_array(t.block_ids, t.num_blocks, "d->tree->block_ids");
  if (st != RADIX_OK || t.num_nodes == 0) return st;
  if (t.num_nodes > INT32_MAX) {
    return fail(RADIX_E_INVALID, "d->tree->num_nodes is %u: expected at most 2^31-1", t.num_nodes);
  }
  for (uint32_t i = 0; i < t.num_nodes; ++i) {
    if (t.parent[i] < -1 || t.parent[i] >= static_cast<int64_t>(t.num_nodes)) {
      return fail(RADIX_E_INVALID, "d->tree->parent[%u] is %d: expected -1 or one of %u nodes", i,
                  t.parent[i], t.num_nodes);
    }
    if (t.block_begin[i] < 0 || t.block_begin[i + 1] < t.block_begin[i] ||
        static_cast<uint32_t>(t.block_begin[i + 1]) > t.num_blocks) {
      return fail(RADIX_E_INVALID,
                  "d->tree->block_begin[%u] is %d and the next %d: expected 0 <= one <= the other "
                  "<= num_blocks (%u)",
                  i, t.block_begin[i], t.block_begin[i + 1], t.num_blocks);
    }
  }
  return RADIX_OK;
}

// ---- sequences

// Sequence i of somebody else's cache; its blocks are looked at only when `check`.
radix_status read_foreign(const radix_plan& plan, const radix_plan_desc& d, uint32_t i, bool check,
                          StepSequence* out) {
  const int32_t length = d.context_lens[i];
  const int32_t* row = d.block_tables + i * d.block_table_stride;
  if (length < 0)
    return fail(RADIX_E_INVALID, "d->context_lens[%u] is %d: expected 0 or more", i, length);
  out->row = reinterpret_cast<const uint32_t*>(row);
  out->num_blocks =
      (static_cast<uint32_t>(length) + plan.shape.block_size - 1) / plan.shape.block_size;
  out->context_len = length;
  out->version = 0;
  if (!check) return RADIX_OK;
  if (out->num_blocks > d.block_table_stride) {
    return fail(RADIX_E_INVALID,
                "d->context_lens[%u] is %d: its %u blocks do not fit block_table_stride (%" PRId64
                ")",
                i, length, out->num_blocks, d.block_table_stride);
  }
  for (uint32_t j = 0; j < out->num_blocks; ++j) {
    if (row[j] < 0) {
      return fail(RADIX_E_INVALID, "d->block_tables[%u, %u] is %d: expected a block", i, j, row[j]);
    }
  }
  return RADIX_OK;
}

// The blocks of node n's path, from the root; INVALID: it goes round in circles.
radix_status count_path(const radix_tree_view& t, uint32_t i, int32_t node, uint64_t* out) {
  *out = 0;
  uint32_t steps = 0;
  for (int32_t n = node; n >= 0; n = t.parent[n]) {
    *out += static_cast<uint32_t>(t.block_begin[n + 1] - t.block_begin[n]);
    if (++steps > t.num_nodes) {
      return fail(RADIX_E_INVALID, "d->radix_indices[%u] is %d: its parents go round in circles", i,
                  node);
    }
  }
  return RADIX_OK;
}

radix_status check_path(const PlanInput& in, uint32_t i, uint32_t block_size, uint32_t num_blocks) {
  const radix_tree_view& t = in.tree;
  const int32_t node = in.d.radix_indices[i];
  if (node < -1 || node >= static_cast<int64_t>(t.num_nodes)) {
    return fail(RADIX_E_INVALID, "d->radix_indices[%u] is %d: expected -1 or one of %u nodes", i,
                node, t.num_nodes);
  }
  uint64_t blocks = 0;
  const radix_status st = count_path(t, i, node, &blocks);
  if (st != RADIX_OK) return st;
  if (num_blocks > blocks) {
    return fail(RADIX_E_INVALID,
                "d->context_lens[%u] is %d: the %" PRIu64 " blocks above node %d hold %" PRIu64, i,
                in.d.context_lens[i], blocks, node, blocks * block_size);
  }
  for (int32_t n = node; n >= 0; n = t.parent[n]) {
    for (int32_t b = t.block_begin[n]; b < t.block_begin[n + 1]; ++b) {
      if (t.block_ids[b] < 0) {
        return fail(RADIX_E_INVALID, "d->tree->block_ids[%d] is %d: expected a block", b,
                    t.block_ids[b]);
      }
    }
  }
  return RADIX_OK;
}

// Sequence i of a tree; its row is the plan's own until the next one is read.
radix_status read_path(const radix_plan& plan, const PlanInput& in, uint32_t i, bool check,
                       StepSequence* out) {
  const int32_t length = in.d.context_lens[i];
  const uint32_t block_size = plan.shape.block_size;
  if (length < 0)
    return fail(RADIX_E_INVALID, "d->context_lens[%u] is %d: expected 0 or more", i, length);
  out->row = plan.row;
  out->num_blocks = (static_cast<uint32_t>(length) + block_size - 1) / block_size;
  out->context_len = length;
  out->version = 0;
  if (check) return check_path(in, i, block_size, out->num_blocks);
  const radix_tree_view& t = in.tree;
  uint64_t at = 0;
  const int32_t node = in.d.radix_indices[i];
  count_path(t, i, node, &at);
  for (int32_t n = node; n >= 0; n = t.parent[n]) {
    for (int32_t b = t.block_begin[n + 1]; b-- > t.block_begin[n];) {
      if (--at < out->num_blocks) plan.row[at] = static_cast<uint32_t>(t.block_ids[b]);
    }
  }
  return RADIX_OK;
}

radix_status read_own(const radix_plan& plan, const CacheManager& cache, const radix_plan_desc& d,
                      uint32_t i, StepSequence* out) {
  RequestView view;
  const radix_status st = cache.view(d.reqs[i], "reqs", &view);
  if (st != RADIX_OK) return st;
  if (view.num_tokens > plan.config.max_context_len) {
    return fail(RADIX_E_BUFFER,
                "d->reqs[%u] has %" PRIu64 " tokens: the plan has room for %u (max_context_len)", i,
                view.num_tokens, plan.config.max_context_len);
  }
  out->row = view.row;
  // A row may have blocks for tokens to come.
  out->num_blocks =
      view.num_blocks < plan.shape.row_stride ? view.num_blocks : plan.shape.row_stride;
  out->context_len = static_cast<int32_t>(view.num_tokens);
  out->version = view.table_version;
  return RADIX_OK;
}

radix_status read_sequence(const radix_plan& plan, const CacheManager& cache, const PlanInput& in,
                           uint32_t i, bool check, StepSequence* out) {
  const radix_plan_desc& d = in.d;
  const radix_status st = d.reqs != nullptr   ? read_own(plan, cache, d, i, out)
                          : d.tree != nullptr ? read_path(plan, in, i, check, out)
                                              : read_foreign(plan, d, i, check, out);
  if (st != RADIX_OK) return st;
  out->query_len = d.q_lens != nullptr ? d.q_lens[i] : 1;
  if (!check) return RADIX_OK;
  if (static_cast<uint32_t>(out->context_len) > plan.config.max_context_len) {
    return fail(RADIX_E_BUFFER,
                "d->context_lens[%u] is %d: the plan has room for %u (max_context_len)", i,
                out->context_len, plan.config.max_context_len);
  }
  if (d.q_lens == nullptr) return RADIX_OK;
  if (out->query_len < 0 || out->query_len > out->context_len) {
    return fail(RADIX_E_INVALID, "d->q_lens[%u] is %d: expected 0 to the %d tokens", i,
                out->query_len, out->context_len);
  }
  if (static_cast<uint32_t>(out->query_len) > plan.config.max_query_len) {
    return fail(RADIX_E_BUFFER, "d->q_lens[%u] is %d: the plan has room for %u (max_query_len)", i,
                out->query_len, plan.config.max_query_len);
  }
  return RADIX_OK;
}

// Everything that can be wrong with a step, before anything is written.
radix_status check_step(const radix_plan& plan, const CacheManager& cache, const PlanInput& in) {
  const radix_plan_desc& d = in.d;
  uint64_t rows = 0;
  for (uint32_t i = 0; i < d.num_seqs; ++i) {
    StepSequence sequence;
    const radix_status st = read_sequence(plan, cache, in, i, true, &sequence);
    if (st != RADIX_OK) return st;
    rows += static_cast<uint64_t>(sequence.query_len);
  }
  if (rows <= plan.config.max_query_tokens) return RADIX_OK;
  return fail(RADIX_E_BUFFER,
              "d->q_lens has %" PRIu64 " tokens: the plan has room for %u (max_query_tokens)", rows,
              plan.config.max_query_tokens);
}

// Under the context's lock: rows are the cache's own.
radix_status write_step(radix_plan* plan, const CacheManager& cache, const PlanInput& in) {
  const radix_status st = check_step(*plan, cache, in);
  if (st != RADIX_OK) return st;
  plan->writer.begin(plan->shape.copies ? plan->staging[plan->turn] : plan->device);
  for (uint32_t i = 0; i < in.d.num_seqs; ++i) {
    StepSequence sequence;
    read_sequence(*plan, cache, in, i, false, &sequence);
    plan->writer.add(sequence);
  }
  return RADIX_OK;
}

// The work lists of a step whose rows are written.
void write_lists(radix_plan* plan, bool decode) {
  StepWriter& writer = plan->writer;
  plan->planner.plan({writer.tables(), writer.context_lens(), decode ? nullptr : writer.cu_q_lens(),
                      writer.sizes().num_seqs});
  const bool radix = plan->planner.has_list();
  if (plan->list.walkers != 0) {
    if (decode && !radix) {
      writer.schedule(plan->list.walkers, plan->config.window);
    } else {
      writer.no_schedule();
    }
  }
  if (radix)
    writer.put_radix(plan->planner.list(), plan->planner.sizes(), plan->planner.num_merges());
}

radix_status update(radix_plan* plan, const PlanInput& in, radix_stream s) {
  const radix_plan_desc& d = in.d;
  radix_status st = check_plan_desc(*plan, d);
  if (st == RADIX_OK && d.tree != nullptr) st = check_nodes(*plan, in.tree);
  if (st == RADIX_OK) st = plan->ctx->backend->check_not_capturing(s);
  if (st == RADIX_OK && plan->shape.copies) {
    st = cuda_reach_event(plan->ctx->config.device_index, plan->copied[plan->turn],
                          (d.flags & RADIX_PLAN_UPDATE_NO_WAIT) == 0);
  }
  if (st != RADIX_OK) return st;
  {
    Control cache(plan->ctx);
    st = cache.done("plan_update", write_step(plan, *cache, in));
    if (st != RADIX_OK) return st;
  }
  const bool decode = d.q_lens == nullptr;
  write_lists(plan, decode);
  const CopyRanges copies = plan->writer.end();
  StepParams p = step_params(plan->shape, plan->writer.sizes(), plan->device);
  if (plan->shape.copies) {
    p.host = plan->staging[plan->turn];
    p.copies = copies;
    p.copied = plan->copied[plan->turn];
  }
  st = plan->ctx->backend->build_step(p, s);
  if (st != RADIX_OK) {
    plan->writer.forget();  // the device has some of it, or none
    plan->planner.forget();
    plan->step = StepSizes();
    plan->uploaded = 0;
    plan->updated = false;
    return st;
  }
  plan->step = plan->writer.sizes();
  plan->decode = decode;
  plan->updated = true;
  plan->uploaded = p.copies.bytes();
  plan->turn = (plan->turn + 1) % radix_plan::kStagings;
  return RADIX_OK;
}

}  // namespace
}  // namespace radixattn

using namespace radixattn;

extern "C" {

radix_status radix_plan_update(radix_plan* plan, const radix_plan_desc* d,
                               radix_stream s) RADIX_NOEXCEPT {
  radix_plan_desc desc;
  radix_status st = not_null(plan, "plan");
  if (st == RADIX_OK) st = read_struct(d, "d", &desc);
  if (st == RADIX_OK) st = check_stream(*plan->ctx, s);
  PlanInput in = {desc, {}};
  if (st == RADIX_OK && desc.tree != nullptr) st = read_struct(desc.tree, "d->tree", &in.tree);
  return st == RADIX_OK ? update(plan, in, s) : st;
}

}  // extern "C"
