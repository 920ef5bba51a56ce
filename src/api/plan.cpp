// radix_plan_*: making, updating and reading plans.
#include "api/plan.h"

#include <cinttypes>
#include <new>

#include "api/struct_io.h"
#include "base/error.h"

namespace radixattn {
namespace {

constexpr size_t kAlign = 64;
constexpr uint32_t kMaxHeads = 65535;
constexpr uint32_t kMaxContext = 1u << 30;  // so that a range of decode can hold any sequence

// ---- configuration ------------------------------------------------------------------------------

radix_status check_plan_memory(const radix_plan_config& c) {
  if (c.memory == nullptr && c.memory_size != 0) {
    return fail(RADIX_E_INVALID, "cfg->memory is NULL with memory_size %" PRIu64 ": expected both",
                c.memory_size);
  }
  if (reinterpret_cast<uintptr_t>(c.memory) % kAlign != 0) {
    return fail(RADIX_E_INVALID, "cfg->memory is %p: expected a multiple of 64 bytes", c.memory);
  }
  return RADIX_OK;
}

radix_status check_plan_words(const radix_ctx& ctx, const radix_plan_config& c) {
  if ((c.flags & ~uint32_t{RADIX_PLAN_BOUNDS}) != 0)
    return fail(RADIX_E_INVALID, "cfg->flags is 0x%x: expected RADIX_PLAN_BOUNDS or 0", c.flags);
  if (c.next != nullptr) return fail(RADIX_E_INVALID, "cfg->next is %p: expected NULL", c.next);
  if (c.max_seqs == 0) return fail(RADIX_E_INVALID, "cfg->max_seqs is 0: expected 1 or more");
  if (const radix_status st = check_reserved("cfg", "reserved0", c.reserved0); st != RADIX_OK)
    return st;
  const radix_config& x = ctx.config;
  if (x.head_dim == 0 || x.num_kv_heads == 0)
    return fail(RADIX_E_STATE, "the context has no shape: plans need num_kv_heads and head_dim");
  if (c.num_q_heads == 0 || c.num_q_heads > kMaxHeads || c.num_q_heads % x.num_kv_heads != 0) {
    return fail(RADIX_E_INVALID,
                "cfg->num_q_heads is %u: expected a multiple of the %u KV heads, at most %u",
                c.num_q_heads, x.num_kv_heads, kMaxHeads);
  }
  if (c.block_size > 256)
    return fail(RADIX_E_INVALID, "cfg->block_size is %u: expected 1..256, or 0", c.block_size);
  return check_plan_memory(c);
}

// Fills defaults.
radix_status resolve_plan(const radix_ctx& ctx, radix_plan_config* c) {
  const radix_status st = check_plan_words(ctx, *c);
  if (st != RADIX_OK) return st;
  const radix_config& x = ctx.config;
  if (c->block_size == 0) c->block_size = x.block_size;
  if (c->max_query_tokens == 0) c->max_query_tokens = c->max_seqs;
  if (c->max_query_len == 0) c->max_query_len = c->max_query_tokens;
  if (c->max_query_tokens < c->max_seqs) {
    return fail(RADIX_E_INVALID, "cfg->max_query_tokens is %u: expected at least max_seqs (%u)",
                c->max_query_tokens, c->max_seqs);
  }
  if (c->max_query_len > c->max_query_tokens) {
    return fail(RADIX_E_INVALID, "cfg->max_query_len is %u: expected at most max_query_tokens (%u)",
                c->max_query_len, c->max_query_tokens);
  }
  const uint64_t longest = uint64_t{x.max_blocks_per_request} * x.block_size;
  if (c->max_context_len == 0)
    c->max_context_len = static_cast<uint32_t>(longest < kMaxContext ? longest : kMaxContext);
  if (c->max_context_len > kMaxContext) {
    return fail(RADIX_E_INVALID, "cfg->max_context_len is %u: expected at most 2^30",
                c->max_context_len);
  }
  if (c->max_query_tokens > INT32_MAX) {
    return fail(RADIX_E_INVALID, "cfg->max_query_tokens is %u: expected at most 2^31-1",
                c->max_query_tokens);
  }
  const uint64_t stride = (uint64_t{c->max_context_len} + c->block_size - 1) / c->block_size;
  if (c->max_seqs * stride > INT32_MAX) {
    return fail(RADIX_E_INVALID,
                "cfg->max_seqs is %u and max_context_len %u: %" PRIu64
                " blocks a row make more than 2^31-1 table entries",
                c->max_seqs, c->max_context_len, stride);
  }
  return RADIX_OK;
}

// What launches of the plan can be at most.
AttentionParams bounds_of(const radix_ctx& ctx, const radix_plan_config& c) {
  AttentionParams p;
  p.num_seqs = c.max_seqs;
  p.num_q_heads = c.num_q_heads;
  p.num_kv_heads = ctx.config.num_kv_heads;
  p.head_dim = ctx.config.head_dim;
  p.head_dim_v = ctx.config.head_dim_v;
  p.block_size = c.block_size;
  p.num_blocks = ctx.config.num_blocks;
  p.max_context_len = c.max_context_len;
  p.max_query_len = c.max_query_len;
  p.k.dtype = p.v.dtype = ctx.config.kv_dtype;
  p.q.dtype = p.out.dtype = RADIX_F32;
  return p;
}

radix_status shape_of(const radix_ctx& ctx, const radix_plan_config& c, StepShape* shape,
                      DecodeListSize* list) {
  const AttentionParams p = bounds_of(ctx, c);
  uint64_t decode = 0, prefill = 0;
  radix_status st = ctx.backend->attention_workspace(p, false, &decode);
  if (st == RADIX_OK) st = ctx.backend->attention_workspace(p, true, &prefill);
  if (st != RADIX_OK) return st;
  *list = ctx.backend->decode_list_size(p);
  uint64_t most = decode > prefill ? decode : prefill;
  if (list->workspace_bytes > most) most = list->workspace_bytes;
  shape->max_seqs = c.max_seqs;
  shape->max_query_tokens = c.max_query_tokens;
  shape->block_size = p.block_size;
  shape->row_stride =
      static_cast<uint32_t>((uint64_t{c.max_context_len} + p.block_size - 1) / p.block_size);
  shape->max_items = list->max_items;
  shape->workspace_bytes = most;
  shape->copies = ctx.on_cuda();
  shape->pads = (c.flags & RADIX_PLAN_BOUNDS) != 0;
  return RADIX_OK;
}

radix_status read_plan_config(const radix_ctx* ctx, const radix_plan_config* cfg,
                              radix_plan_config* config, StepShape* shape, DecodeListSize* list) {
  radix_status st = check_ctx(ctx);
  if (st == RADIX_OK) st = read_struct(cfg, "cfg", config);
  if (st == RADIX_OK) st = resolve_plan(*ctx, config);
  return st == RADIX_OK ? shape_of(*ctx, *config, shape, list) : st;
}

// ---- memory -------------------------------------------------------------------------------------

radix_status take_host(radix_plan* plan, uint64_t bytes, void** out) {
  *out = plan->memory.allocate(bytes, kAlign);
  return *out != nullptr ? RADIX_OK
                         : fail(RADIX_E_NOMEM, "no memory for %" PRIu64 " bytes of a plan", bytes);
}

radix_status take_staging(radix_plan* plan) {
  const int32_t device = plan->ctx->config.device_index;
  for (uint32_t i = 0; i < radix_plan::kStagings; ++i) {
    void* memory = nullptr;
    radix_status st = cuda_allocate_pinned(device, plan->layout.staged_bytes, &memory);
    plan->staging[i] = static_cast<char*>(memory);
    if (st == RADIX_OK) st = cuda_make_event(device, &plan->copied[i]);
    if (st != RADIX_OK) return st;
  }
  return RADIX_OK;
}

radix_status take_memory(radix_plan* plan) {
  const radix_plan_config& c = plan->config;
  const uint64_t bytes = plan->layout.total_bytes;
  if (c.memory != nullptr && c.memory_size < bytes) {
    return fail(RADIX_E_BUFFER, "cfg->memory_size is %" PRIu64 ": the plan needs %" PRIu64 " bytes",
                c.memory_size, bytes);
  }
  void* memory = c.memory;
  radix_status st = RADIX_OK;
  if (memory == nullptr) {
    st = allocate_on_device(*plan->ctx, &plan->memory, bytes, "a plan", &memory);
    plan->owns_device = st == RADIX_OK;
  }
  plan->device = static_cast<char*>(memory);
  void* host = nullptr;
  if (st == RADIX_OK) st = take_host(plan, uint64_t{c.max_seqs} * sizeof(uint64_t), &host);
  plan->versions = static_cast<uint64_t*>(host);
  if (st != RADIX_OK || !plan->shape.copies) return st;
  st = take_host(plan, plan->mirror_bytes(), &host);
  plan->mirror = static_cast<int32_t*>(host);
  return st == RADIX_OK ? take_staging(plan) : st;
}

void destroy(radix_plan* plan) {
  const int32_t device = plan->ctx->config.device_index;
  for (uint32_t i = 0; i < radix_plan::kStagings; ++i) {
    if (plan->copied[i] != nullptr) cuda_destroy_event(device, plan->copied[i]);
    if (plan->staging[i] != nullptr) cuda_release_pinned(device, plan->staging[i]);
  }
  plan->memory.release(plan->mirror, plan->mirror_bytes(), kAlign);
  plan->memory.release(plan->versions, plan->config.max_seqs * sizeof(uint64_t), kAlign);
  if (plan->owns_device)
    release_on_device(*plan->ctx, &plan->memory, plan->layout.total_bytes, plan->device);
  HostAllocator last = plan->memory;
  plan->~radix_plan();
  last.release(plan, sizeof(radix_plan), kAlign);
}

radix_status create(radix_ctx* ctx, const radix_plan_config& config, const StepShape& shape,
                    const DecodeListSize& list, radix_plan** out) {
  HostAllocator memory =
      ctx->allocator_copy.alloc != nullptr ? HostAllocator(ctx->allocator_copy) : HostAllocator();
  void* place = memory.allocate(sizeof(radix_plan), kAlign);
  if (place == nullptr) return fail(RADIX_E_NOMEM, "no memory for a plan");
  radix_plan* plan = new (place) radix_plan(ctx, memory);
  plan->config = config;
  plan->shape = shape;
  plan->layout = step_layout(shape);
  plan->list = list;
  const radix_status st = take_memory(plan);
  if (st != RADIX_OK) {
    destroy(plan);
    return st;
  }
  int32_t* tables = shape.copies ? plan->mirror : plan->array<int32_t>(plan->layout.tables);
  plan->writer.bind(shape, tables, plan->versions);
  *out = plan;
  return RADIX_OK;
}

// ---- updates ------------------------------------------------------------------------------------

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
  if (d.reqs != nullptr && d.block_tables != nullptr)
    return fail(RADIX_E_INVALID, "d->reqs and d->block_tables are given: expected one of them");
  if (d.reqs != nullptr || d.num_seqs == 0) return RADIX_OK;
  if (d.block_tables == nullptr || d.context_lens == nullptr) {
    return fail(RADIX_E_INVALID, "d->%s is NULL: expected reqs, or block_tables and context_lens",
                d.block_tables == nullptr ? "reqs" : "context_lens");
  }
  if (d.block_table_stride < 0) {
    return fail(RADIX_E_INVALID, "d->block_table_stride is %" PRId64 ": expected 0 or more",
                d.block_table_stride);
  }
  return RADIX_OK;
}

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

radix_status read_sequence(const radix_plan& plan, const CacheManager& cache,
                           const radix_plan_desc& d, uint32_t i, bool check, StepSequence* out) {
  const radix_status st =
      d.reqs != nullptr ? read_own(plan, cache, d, i, out) : read_foreign(plan, d, i, check, out);
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
radix_status check_step(const radix_plan& plan, const CacheManager& cache,
                        const radix_plan_desc& d) {
  uint64_t rows = 0;
  for (uint32_t i = 0; i < d.num_seqs; ++i) {
    StepSequence sequence;
    const radix_status st = read_sequence(plan, cache, d, i, true, &sequence);
    if (st != RADIX_OK) return st;
    rows += static_cast<uint64_t>(sequence.query_len);
  }
  if (rows <= plan.config.max_query_tokens) return RADIX_OK;
  return fail(RADIX_E_BUFFER,
              "d->q_lens has %" PRIu64 " tokens: the plan has room for %u (max_query_tokens)", rows,
              plan.config.max_query_tokens);
}

// Under the context's lock: rows are the cache's own.
radix_status write_step(radix_plan* plan, const CacheManager& cache, const radix_plan_desc& d) {
  const radix_status st = check_step(*plan, cache, d);
  if (st != RADIX_OK) return st;
  plan->writer.begin(plan->shape.copies ? plan->staging[plan->turn] : plan->device);
  for (uint32_t i = 0; i < d.num_seqs; ++i) {
    StepSequence sequence;
    read_sequence(*plan, cache, d, i, false, &sequence);
    plan->writer.add(sequence);
  }
  return RADIX_OK;
}

radix_status update(radix_plan* plan, const radix_plan_desc& d, radix_stream s) {
  radix_status st = check_plan_desc(*plan, d);
  if (st == RADIX_OK) st = plan->ctx->backend->check_not_capturing(s);
  if (st == RADIX_OK && plan->shape.copies) {
    st = cuda_reach_event(plan->ctx->config.device_index, plan->copied[plan->turn],
                          (d.flags & RADIX_PLAN_UPDATE_NO_WAIT) == 0);
  }
  if (st != RADIX_OK) return st;
  {
    Control cache(plan->ctx);
    st = cache.done("plan_update", write_step(plan, *cache, d));
    if (st != RADIX_OK) return st;
  }
  const bool decode = d.q_lens == nullptr;
  if (plan->list.walkers != 0) {
    if (decode) {
      plan->writer.schedule(plan->list.walkers, plan->config.window);
    } else {
      plan->writer.no_schedule();
    }
  }
  const uint64_t bytes = plan->writer.end();
  StepParams p = step_params(plan->shape, plan->writer.sizes(), plan->device);
  if (plan->shape.copies) {
    p.host = plan->staging[plan->turn];
    p.copy_bytes = bytes;
    p.copied = plan->copied[plan->turn];
  }
  st = plan->ctx->backend->build_step(p, s);
  if (st != RADIX_OK) {
    plan->writer.forget();  // the device has some of it, or none
    plan->updated = false;
    return st;
  }
  plan->step = plan->writer.sizes();
  plan->decode = decode;
  plan->updated = true;
  plan->uploaded = p.copy_bytes;
  plan->turn = (plan->turn + 1) % radix_plan::kStagings;
  return RADIX_OK;
}

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
  if (d.context_lens != given.context_lens || d.block_tables != given.block_tables ||
      d.cu_q_lens != given.cu_q_lens) {
    return fail(RADIX_E_INVALID,
                "d->context_lens, block_tables or cu_q_lens is not what radix_plan_attn gave");
  }
  return RADIX_OK;
}

}  // namespace

radix_status read_plan(const radix_ctx& ctx, const radix_attn& d, bool prefill, uint32_t block_size,
                       DecodeList* out) {
  const radix_plan& plan = *d.plan;
  if (plan.ctx != &ctx) {
    return fail(RADIX_E_INVALID, "d->plan is %p: expected a plan of this context",
                static_cast<const void*>(d.plan));
  }
  if (block_size != plan.config.block_size) {
    return fail(RADIX_E_INVALID, "k_cache has blocks of %u tokens: the plan has tables for %u",
                block_size, plan.config.block_size);
  }
  const radix_status st = check_plan_launch(plan, d, prefill);
  if (st != RADIX_OK || prefill) return st;
  const uint32_t window = plan.config.window;
  if (window != 0 && (d.window == 0 || d.window > window)) {
    return fail(RADIX_E_INVALID, "d->window is %u: the plan is for windows of at most %u", d.window,
                window);
  }
  if (plan.list.walkers == 0) return RADIX_OK;
  out->schedule = plan.array<int32_t>(plan.layout.schedule);
  out->items = plan.array<int32_t>(plan.layout.items);
  out->partial_begin = plan.array<int32_t>(plan.layout.partial_begin);
  out->max_items = plan.list.max_items;
  out->walkers = plan.list.walkers;
  out->merges = plan.bounds() || plan.step.num_states != 0;
  return RADIX_OK;
}

}  // namespace radixattn

using namespace radixattn;

extern "C" {

radix_status radix_plan_bytes(const radix_ctx* ctx, const radix_plan_config* cfg,
                              uint64_t* out) RADIX_NOEXCEPT {
  radix_plan_config config;
  StepShape shape;
  DecodeListSize list;
  radix_status st = not_null(out, "out");
  if (st == RADIX_OK) st = read_plan_config(ctx, cfg, &config, &shape, &list);
  if (st == RADIX_OK) *out = step_layout(shape).total_bytes;
  return st;
}

radix_status radix_plan_create(radix_ctx* ctx, const radix_plan_config* cfg,
                               radix_plan** out) RADIX_NOEXCEPT {
  radix_plan_config config;
  StepShape shape;
  DecodeListSize list;
  radix_status st = not_null(out, "out");
  if (st != RADIX_OK) return st;
  *out = nullptr;
  st = read_plan_config(ctx, cfg, &config, &shape, &list);
  return st == RADIX_OK ? create(ctx, config, shape, list, out) : st;
}

void radix_plan_destroy(radix_plan** plan) RADIX_NOEXCEPT {
  if (plan == nullptr || *plan == nullptr) return;
  destroy(*plan);
  *plan = nullptr;
}

radix_status radix_plan_update(radix_plan* plan, const radix_plan_desc* d,
                               radix_stream s) RADIX_NOEXCEPT {
  radix_plan_desc desc;
  radix_status st = not_null(plan, "plan");
  if (st == RADIX_OK) st = read_struct(d, "d", &desc);
  if (st == RADIX_OK) st = check_stream(*plan->ctx, s);
  return st == RADIX_OK ? update(plan, desc, s) : st;
}

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
  info.host_bytes = sizeof(radix_plan) + plan->config.max_seqs * sizeof(uint64_t);
  if (plan->shape.copies)
    info.host_bytes += plan->mirror_bytes() + radix_plan::kStagings * plan->layout.staged_bytes;
  write_struct(info, out);
  return RADIX_OK;
}

}  // extern "C"
