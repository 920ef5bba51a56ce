/* A host program with functions of its own under the library's short names: it links, shared and
 * static, and each side keeps its own function. */
#include <stdio.h>

#include "radixattn.h"

static int own_calls = 0;

int free_request(const char *url);
int append_slot(int a, int b);
int free_request(const char *url) {
  own_calls += 1;
  return url != NULL;
}
int append_slot(int a, int b) {
  own_calls += 10;
  return a + b;
}

/* Begins, appends to and frees a request through the library's long names. */
static radix_status use_library(void) {
  radix_config config = {.struct_size = sizeof config, .abi = RADIXATTN_ABI, .num_blocks = 4};
  config.flags = RADIX_CTX_METADATA_ONLY;
  radix_ctx *ctx = NULL;
  radix_status st = radix_ctx_create(&config, &ctx);
  const radix_token tokens[2] = {1, 2};
  radix_request_desc desc = {.struct_size = sizeof desc, .tokens = tokens, .num_tokens = 2};
  radix_req req = 0;
  if (st == RADIX_OK) st = radix_begin_request(ctx, &desc, &req, NULL);
  radix_append item = {.req = req, .tokens = tokens, .num_tokens = 2};
  radix_op op;
  radix_append_out out = {.struct_size = sizeof out, .ops = &op, .ops_cap = 1};
  if (st == RADIX_OK) st = radix_append_slot(ctx, &item, 1, &out);
  if (st == RADIX_OK && out.num_slots != 2) st = RADIX_E_INTERNAL;
  if (st == RADIX_OK) st = radix_free_request(ctx, req, 0);
  radix_stats stats = {.struct_size = sizeof stats};
  if (st == RADIX_OK) st = radix_get_stats(ctx, &stats);
  if (st == RADIX_OK && (stats.blocks_free != 4 || stats.requests_live != 0)) st = RADIX_E_INTERNAL;
  radix_ctx_destroy(&ctx);
  return st;
}

int main(void) {
  const radix_status st = use_library();
  if (st != RADIX_OK || own_calls != 0) {
    printf("the library: %s, calls of the program's own functions: %d\n", radix_status_name(st),
           own_calls);
    return 1;
  }
  return append_slot(1, 2) == 3 && free_request("x") == 1 && own_calls == 11 ? 0 : 1;
}
