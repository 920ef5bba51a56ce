/* The short spellings, as weak symbols: a program that has a function of such a name keeps its own.
 * In an object of their own, so that a static link takes them only when somebody asks for one.
 *
 * NOTE: forwarding functions, not symbol aliases: an alias must be defined where its target is. */
#define RADIXATTN_SHORT_NAMES
#include "radixattn.h"

#define RADIX_WEAK __attribute__((weak))

RADIX_WEAK radix_status append_slot(radix_ctx *ctx, const radix_append *items, uint32_t n,
                                    radix_append_out *out) {
  return radix_append_slot(ctx, items, n, out);
}
RADIX_WEAK radix_status get_block_tables(radix_ctx *ctx, const radix_req *reqs, uint32_t n,
                                         int32_t *tables, int64_t row_stride, int32_t *context_lens,
                                         uint64_t *row_versions) {
  return radix_get_block_tables(ctx, reqs, n, tables, row_stride, context_lens, row_versions);
}
RADIX_WEAK radix_status free_request(radix_ctx *ctx, radix_req r, uint32_t flags) {
  return radix_free_request(ctx, r, flags);
}
RADIX_WEAK radix_status paged_attention_launch(radix_ctx *ctx, const radix_attn *d,
                                               radix_stream s) {
  return radix_paged_attention_launch(ctx, d, s);
}
