// Plans: what they may be, and their memory.
#include "api/plan.h"

#include <cinttypes>
#include <new>

#include "api/struct_io.h"
#include "base/error.h"

namespace radixattn {
namespace {

constexpr size_t kAlign = 64;

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
  constexpr uint32_t kFlags = RADIX_PLAN_BOUNDS | RADIX_PLAN_UNSHARED | RADIX_PLAN_BATCH_INVARIANT;
  if ((c.flags & ~kFlags) != 0) {
    return fail(RADIX_E_INVALID,
                "cfg->flags is 0x%x: expected RADIX_PLAN_BOUNDS, _UNSHARED, _BATCH_INVARIANT or 0",
                c.flags);
  }
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
  const uint32_t group = c->num_q_heads / x.num_kv_heads;
  if (uint64_t{c->max_query_tokens} * group > INT32_MAX) {
    return fail(RADIX_E_INVALID,
                "cfg->max_query_tokens is %u: expected at most 2^31-1 rows with the %u query heads "
                "of a KV head",
                c->max_query_tokens, group);
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
  p.max_query_rows = c.max_query_tokens;
  p.k.dtype = p.v.dtype = ctx.config.kv_dtype;
  p.q.dtype = p.out.dtype = RADIX_F32;
  p.batch_invariant = (c.flags & RADIX_PLAN_BATCH_INVARIANT) != 0;
  return p;
}

// The tree's part, and the list's room among the step's arrays.
void shape_radix(const radix_ctx& ctx, const radix_plan_config& c, const AttentionParams& bounds,
                 PlanShape* shape) {
  RadixPlanShape& r = shape->radix;
  r.max_seqs = c.max_seqs;
  r.max_rows = c.max_query_tokens;
  r.block_size = bounds.block_size;
  r.row_stride = shape->step.row_stride;
  r.group = c.num_q_heads / bounds.num_kv_heads;
  r.window = c.window;
  r.shares = (c.flags & RADIX_PLAN_UNSHARED) == 0;
  r.batch_invariant = bounds.batch_invariant;
  r.always = r.pads = shape->step.pads;
  if (!r.shares && !r.batch_invariant) return;
  r.limits = ctx.backend->radix_limits(bounds);
  if (r.limits.max_items == 0) return;
  const uint32_t least = radix_items_at_least(r.max_seqs, r.max_rows, r.group, r.limits);
  if (r.limits.max_items < least) r.limits.max_items = least;
  shape->step.max_radix_items = r.limits.max_items;
  shape->step.max_radix_terms = r.limits.max_terms;
}

radix_status shape_of(const radix_ctx& ctx, const radix_plan_config& c, PlanShape* shape) {
  const AttentionParams p = bounds_of(ctx, c);
  uint64_t decode = 0, prefill = 0;
  radix_status st = ctx.backend->attention_workspace(p, false, &decode);
  if (st == RADIX_OK) st = ctx.backend->attention_workspace(p, true, &prefill);
  if (st != RADIX_OK) return st;
  shape->list = ctx.backend->decode_list_size(p);
  StepShape& step = shape->step;
  step.max_seqs = c.max_seqs;
  step.max_query_tokens = c.max_query_tokens;
  step.block_size = p.block_size;
  step.row_stride =
      static_cast<uint32_t>((uint64_t{c.max_context_len} + p.block_size - 1) / p.block_size);
  step.max_items = shape->list.max_items;
  step.copies = ctx.on_cuda();
  step.pads = (c.flags & RADIX_PLAN_BOUNDS) != 0;
  shape_radix(ctx, c, p, shape);
  step.workspace_bytes = 0;
  for (const uint64_t bytes :
       {decode, prefill, shape->list.workspace_bytes, shape->radix.limits.workspace_bytes}) {
    if (bytes > step.workspace_bytes) step.workspace_bytes = bytes;
  }
  return RADIX_OK;
}

radix_status read_plan_config(const radix_ctx* ctx, const radix_plan_config* cfg,
                              radix_plan_config* config, PlanShape* shape) {
  radix_status st = check_ctx(ctx);
  if (st == RADIX_OK) st = read_struct(cfg, "cfg", config);
  if (st == RADIX_OK) st = resolve_plan(*ctx, config);
  return st == RADIX_OK ? shape_of(*ctx, *config, shape) : st;
}

// ---- memory -------------------------------------------------------------------------------------

template <class T>
radix_status take_host(radix_plan* plan, uint64_t bytes, T** out) {
  if (bytes == 0) return RADIX_OK;
  *out = static_cast<T*>(plan->memory.allocate(bytes, kAlign));
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
  if (st == RADIX_OK) st = take_host(plan, plan->versions_bytes(), &plan->versions);
  if (st == RADIX_OK) st = take_host(plan, plan->row_bytes(), &plan->row);
  if (st == RADIX_OK) st = take_host(plan, RadixPlanner::bytes(plan->radix), &plan->planner_memory);
  if (st != RADIX_OK || !plan->shape.copies) return st;
  st = take_host(plan, plan->mirror_bytes(), &plan->mirror);
  if (st == RADIX_OK) st = take_host(plan, plan->list_bytes(), &plan->list_mirror);
  return st == RADIX_OK ? take_staging(plan) : st;
}

void destroy(radix_plan* plan) {
  const int32_t device = plan->ctx->config.device_index;
  for (uint32_t i = 0; i < radix_plan::kStagings; ++i) {
    if (plan->copied[i] != nullptr) cuda_destroy_event(device, plan->copied[i]);
    if (plan->staging[i] != nullptr) cuda_release_pinned(device, plan->staging[i]);
  }
  plan->memory.release(plan->mirror, plan->mirror_bytes(), kAlign);
  plan->memory.release(plan->list_mirror, plan->list_bytes(), kAlign);
  plan->memory.release(plan->planner_memory, RadixPlanner::bytes(plan->radix), kAlign);
  plan->memory.release(plan->row, plan->row_bytes(), kAlign);
  plan->memory.release(plan->versions, plan->versions_bytes(), kAlign);
  if (plan->owns_device)
    release_on_device(*plan->ctx, &plan->memory, plan->layout.total_bytes, plan->device);
  HostAllocator last = plan->memory;
  plan->~radix_plan();
  last.release(plan, sizeof(radix_plan), kAlign);
}

// Tells the writer and the planner where their memory is.
void bind(radix_plan* plan) {
  const StepLayout& layout = plan->layout;
  const bool copies = plan->shape.copies;
  RadixArrays list;
  if (plan->shape.max_radix_items > 0)
    list = radix_arrays(layout, copies ? plan->list_mirror : plan->device + layout.radix_sizes);
  plan->planner.bind(plan->radix, list, plan->planner_memory);
  plan->writer.bind(plan->shape, copies ? plan->mirror : plan->array<int32_t>(layout.tables),
                    plan->versions, plan->planner.first_changed());
}

radix_status create(radix_ctx* ctx, const radix_plan_config& config, const PlanShape& shape,
                    radix_plan** out) {
  HostAllocator memory =
      ctx->allocator_copy.alloc != nullptr ? HostAllocator(ctx->allocator_copy) : HostAllocator();
  void* place = memory.allocate(sizeof(radix_plan), kAlign);
  if (place == nullptr) return fail(RADIX_E_NOMEM, "no memory for a plan");
  radix_plan* plan = new (place) radix_plan(ctx, memory);
  plan->config = config;
  plan->shape = shape.step;
  plan->layout = step_layout(shape.step);
  plan->list = shape.list;
  plan->radix = shape.radix;
  const radix_status st = take_memory(plan);
  if (st != RADIX_OK) {
    destroy(plan);
    return st;
  }
  bind(plan);
  *out = plan;
  return RADIX_OK;
}

}  // namespace
}  // namespace radixattn

using namespace radixattn;

extern "C" {

radix_status radix_plan_bytes(const radix_ctx* ctx, const radix_plan_config* cfg,
                              uint64_t* out) RADIX_NOEXCEPT {
  radix_plan_config config;
  PlanShape shape;
  radix_status st = not_null(out, "out");
  if (st == RADIX_OK) st = read_plan_config(ctx, cfg, &config, &shape);
  if (st == RADIX_OK) *out = step_layout(shape.step).total_bytes;
  return st;
}

radix_status radix_plan_create(radix_ctx* ctx, const radix_plan_config* cfg,
                               radix_plan** out) RADIX_NOEXCEPT {
  radix_plan_config config;
  PlanShape shape;
  radix_status st = not_null(out, "out");
  if (st != RADIX_OK) return st;
  *out = nullptr;
  st = read_plan_config(ctx, cfg, &config, &shape);
  return st == RADIX_OK ? create(ctx, config, shape, out) : st;
}

void radix_plan_destroy(radix_plan** plan) RADIX_NOEXCEPT {
  if (plan == nullptr || *plan == nullptr) return;
  destroy(*plan);
  *plan = nullptr;
}

}  // extern "C"
