/* The short spellings do what the long ones do. */
#define RADIXATTN_SHORT_NAMES
#include <stdio.h>

#include "radixattn.h"

#define CHECK(condition)                                           \
  do {                                                             \
    if (!(condition)) {                                            \
      printf("line %d: " #condition " does not hold\n", __LINE__); \
      return 1;                                                    \
    }                                                              \
  } while (0)

int main(void) {
  radix_config config = {
      .struct_size = sizeof config, .abi = RADIXATTN_ABI, .num_blocks = 4, .block_size = 4};
  config.kv_dtype = RADIX_F32, config.num_layers = 1, config.num_kv_heads = 1, config.head_dim = 32;
  radix_ctx *ctx = NULL;
  CHECK(radix_ctx_create(&config, &ctx) == RADIX_OK);
  const radix_token tokens[5] = {1, 2, 3, 4, 5};
  radix_request_desc desc = {.struct_size = sizeof desc, .tokens = tokens, .num_tokens = 5};
  radix_req req = 0;
  CHECK(radix_begin_request(ctx, &desc, &req, NULL) == RADIX_OK);

  radix_append item = {.req = req, .tokens = tokens, .num_tokens = 5};
  int64_t slots[5];
  radix_op op;
  radix_append_out out = {
      .struct_size = sizeof out, .slots = slots, .slots_cap = 5, .ops = &op, .ops_cap = 1};
  CHECK(append_slot(ctx, &item, 1, &out) == RADIX_OK);
  CHECK(out.num_slots == 5);

  int32_t table[2], other_table[2], length = 0;
  CHECK(get_block_tables(ctx, &req, 1, table, 2, &length, NULL) == RADIX_OK);
  CHECK(radix_get_block_tables(ctx, &req, 1, other_table, 2, NULL, NULL) == RADIX_OK);
  CHECK(length == 5 && table[0] == other_table[0] && table[1] == other_table[1]);
  CHECK(slots[4] == 4 * (int64_t)table[1]);

  radix_attn nothing = {.struct_size = sizeof nothing};
  CHECK(paged_attention_launch(ctx, &nothing, NULL) ==
        radix_paged_attention_launch(ctx, &nothing, NULL));

  CHECK(free_request(ctx, req, 0) == RADIX_OK);
  CHECK(free_request(ctx, req, 0) == RADIX_E_STALE);
  radix_ctx_destroy(&ctx);
  return 0;
}
