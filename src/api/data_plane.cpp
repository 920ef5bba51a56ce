// The data plane: public structs become the backend's plain ones. No lock, no allocation.
#include <cinttypes>

#include "api/attention_io.h"
#include "api/context.h"
#include "api/struct_io.h"
#include "base/error.h"

namespace radixattn {
namespace {

radix_status launch_attention(radix_ctx* ctx, const radix_attn* given, bool prefill,
                              radix_stream s) {
  radix_attn d;
  AttentionParams p;
  radix_status st = check_ctx(ctx);
  if (st == RADIX_OK) st = read_struct(given, "d", &d);
  if (st == RADIX_OK) st = check_stream(*ctx, s);
  if (st == RADIX_OK) st = read_attn_launch(*ctx, d, prefill, &p);
  if (st != RADIX_OK) return st;
  return prefill ? ctx->backend->prefill(p, s) : ctx->backend->decode(p, s);
}

// ---- operations

radix_status check_op(const radix_ctx& ctx, const radix_op& op, uint32_t i) {
  const auto bad_block = [&](radix_block b) {
    return b < 0 || static_cast<uint32_t>(b) >= ctx.kv.num_blocks;
  };
  if (op.kind != RADIX_OP_COPY) {
    return fail(RADIX_E_INVALID, "ops[%u].kind is %d: expected RADIX_OP_COPY", i, op.kind);
  }
  if (bad_block(op.src) || bad_block(op.dst)) {
    return fail(RADIX_E_INVALID, "ops[%u] copies block %d to %d: expected 0..%u", i, op.src, op.dst,
                ctx.kv.num_blocks - 1);
  }
  if (op.num_tokens > ctx.kv.block_size) {
    return fail(RADIX_E_INVALID, "ops[%u].num_tokens is %u: a block has %u", i, op.num_tokens,
                ctx.kv.block_size);
  }
  return RADIX_OK;
}

}  // namespace
}  // namespace radixattn

using namespace radixattn;  // NOLINT(google-build-using-namespace): everything below is extern "C"

extern "C" {

radix_status radix_run_ops(radix_ctx* ctx, const radix_op* ops, uint32_t n,
                           radix_stream s) RADIX_NOEXCEPT {
  radix_status st = n == 0 ? check_ctx(ctx) : check_memory(ctx);  // without K/V there are none
  if (st == RADIX_OK) st = check_array(ops, n, "ops");
  if (st == RADIX_OK) st = check_stream(*ctx, s);
  for (uint32_t i = 0; i < n && st == RADIX_OK; ++i) st = check_op(*ctx, ops[i], i);
  for (uint32_t i = 0; i < n && st == RADIX_OK; ++i) {
    st = ctx->backend->copy_tokens(ctx->kv, ops[i].src, ops[i].dst, ops[i].num_tokens, s);
  }
  return st;
}

radix_status radix_copy_blocks(radix_ctx* ctx, const radix_block* src_dst_pairs, uint32_t n,
                               radix_stream s) RADIX_NOEXCEPT {
  radix_status st = check_memory(ctx);
  if (st == RADIX_OK) st = check_array(src_dst_pairs, n, "src_dst_pairs");
  if (st == RADIX_OK) st = check_stream(*ctx, s);
  return st == RADIX_OK ? ctx->backend->copy_blocks(ctx->kv, src_dst_pairs, n, s) : st;
}

radix_status radix_zero_blocks(radix_ctx* ctx, const radix_block* blocks, uint32_t n,
                               radix_stream s) RADIX_NOEXCEPT {
  radix_status st = check_memory(ctx);
  if (st == RADIX_OK) st = check_array(blocks, n, "blocks");
  if (st == RADIX_OK) st = check_stream(*ctx, s);
  return st == RADIX_OK ? ctx->backend->zero_blocks(ctx->kv, blocks, n, s) : st;
}

radix_status radix_swap_bytes(const radix_ctx* ctx, uint32_t n, uint64_t* out) RADIX_NOEXCEPT {
  radix_status st = check_memory(ctx);
  if (st == RADIX_OK) st = not_null(out, "out");
  if (st != RADIX_OK) return st;
  const uint64_t block = (ctx->kv.k_block_bytes + ctx->kv.v_block_bytes) * ctx->kv.num_layers;
  uint64_t bytes = 0;
  if (__builtin_mul_overflow(block, n, &bytes)) {
    return fail(RADIX_E_INVALID, "n is %u: an image of so many blocks passes 2^64 bytes", n);
  }
  *out = bytes;
  return RADIX_OK;
}

radix_status radix_swap_out(radix_ctx* ctx, const radix_block* blocks, uint32_t n, void* host,
                            uint64_t cap, radix_stream s) RADIX_NOEXCEPT {
  uint64_t bytes = 0;
  radix_status st = radix_swap_bytes(ctx, n, &bytes);
  if (st == RADIX_OK) st = check_array(blocks, n, "blocks");
  if (st == RADIX_OK) st = check_array(host, n, "host");
  if (st == RADIX_OK) st = check_stream(*ctx, s);
  if (st != RADIX_OK) return st;
  if (cap < bytes) {
    return fail(RADIX_E_BUFFER, "cap is %" PRIu64 ": %u blocks take %" PRIu64 " bytes", cap, n,
                bytes);
  }
  return ctx->backend->swap_out(ctx->kv, blocks, n, host, s);
}

radix_status radix_swap_in(radix_ctx* ctx, const radix_block* blocks, uint32_t n, const void* host,
                           uint64_t len, radix_stream s) RADIX_NOEXCEPT {
  uint64_t bytes = 0;
  radix_status st = radix_swap_bytes(ctx, n, &bytes);
  if (st == RADIX_OK) st = check_array(blocks, n, "blocks");
  if (st == RADIX_OK) st = check_array(host, n, "host");
  if (st == RADIX_OK) st = check_stream(*ctx, s);
  if (st != RADIX_OK) return st;
  if (len != bytes) {
    return fail(RADIX_E_INVALID, "len is %" PRIu64 ": %u blocks take %" PRIu64 " bytes", len, n,
                bytes);
  }
  return ctx->backend->swap_in(ctx->kv, blocks, n, host, s);
}

radix_status radix_rope_append_launch(radix_ctx* ctx, const radix_rope_append* d,
                                      radix_stream s) RADIX_NOEXCEPT {
  radix_rope_append local;
  RopeAppendParams p;
  radix_status st = check_ctx(ctx);
  if (st == RADIX_OK) st = read_struct(d, "d", &local);
  if (st == RADIX_OK) st = check_stream(*ctx, s);
  if (st == RADIX_OK) st = read_rope(*ctx, local, &p);
  return st == RADIX_OK ? ctx->backend->rope_append(p, s) : st;
}

radix_status radix_attn_workspace(const radix_ctx* ctx, const radix_attn* d,
                                  uint64_t* out_bytes) RADIX_NOEXCEPT {
  radix_attn local;
  radix_status st = check_ctx(ctx);
  if (st == RADIX_OK) st = read_struct(d, "d", &local);
  if (st == RADIX_OK) st = not_null(out_bytes, "out_bytes");
  if (st != RADIX_OK) return st;
  return attention_workspace(*ctx, local, local.cu_q_lens != nullptr, out_bytes);
}

radix_status radix_paged_attention_launch(radix_ctx* ctx, const radix_attn* d,
                                          radix_stream s) RADIX_NOEXCEPT {
  return launch_attention(ctx, d, false, s);
}

radix_status radix_prefill_launch(radix_ctx* ctx, const radix_attn* d,
                                  radix_stream s) RADIX_NOEXCEPT {
  return launch_attention(ctx, d, true, s);
}

}  // extern "C"
