/* Two requests with one prompt: the second finds it cached and attends over the same K/V.
 *   cc -std=c99 minimal.c $(pkg-config --cflags --libs radixattn) -o minimal */
#include <math.h>
#include <radixattn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  DIM = 32,
  BLOCK = 4,
  PROMPT = 11,
  ROW = 3
}; /* one layer, one head; 3 blocks hold a prompt */

static void check(radix_status st, const char *call) {
  char message[512];
  if (st == RADIX_OK) return;
  radix_last_error(message, sizeof message);
  fprintf(stderr, "%s: %s: %s\n", call, radix_status_name(st), message);
  exit(1);
}
#define CHECK(call) check(call, #call)

/* Stands where a model multiplies by its weights: fills rows [n, 1 head, DIM] of q, k or v. */
static radix_tensor project(char which, const radix_token *tokens, uint32_t n, float *rows) {
  for (int i = 0; i < (int)n * DIM; ++i) {
    rows[i] = (float)((tokens[i / DIM] * 7 + which * 31 + i % DIM * 13) % 17 - 8) / 8;
  }
  return (radix_tensor){.data = rows, .dtype = RADIX_F32, .ndim = 3, .shape = {n, 1, DIM}};
}

/* Attention output of the prompt's last token to `last`; returns how many tokens were cached. */
static uint32_t serve(radix_ctx *ctx, const radix_token *prompt, float *last) {
  /* The longest cached prefix is found and leased; the rest gets slots for its K/V. */
  radix_req req;
  radix_match match = {.struct_size = sizeof match};
  radix_request_desc d = {.struct_size = sizeof d, .tokens = prompt, .num_tokens = PROMPT};
  CHECK(radix_begin_request(ctx, &d, &req, &match));
  const uint32_t cached = (uint32_t)match.cached_tokens, fresh = PROMPT - cached;
  const radix_token *tokens = prompt + cached;
  int64_t slots[PROMPT];
  radix_op op; /* a copy, when a shared block is cut */
  radix_append item = {.req = req, .tokens = tokens, .num_tokens = fresh};
  radix_append_out out = {.struct_size = sizeof out, .slots = slots, .slots_cap = PROMPT};
  out.ops = &op, out.ops_cap = 1;
  CHECK(radix_append_slot(ctx, &item, 1, &out));
  CHECK(radix_run_ops(ctx, &op, out.num_ops, NULL));

  /* q, k, v of the new tokens only; q and k are rotated, K/V goes to the slots. */
  float q[PROMPT * DIM], k[PROMPT * DIM], v[PROMPT * DIM], o[PROMPT * DIM];
  int32_t positions[PROMPT], table[ROW], context_len, row_starts[2] = {0, (int32_t)fresh};
  for (uint32_t i = 0; i < fresh; ++i) positions[i] = (int32_t)(cached + i);
  radix_rope_append rope = {.struct_size = sizeof rope, .rotary_dim = DIM, .num_tokens = fresh};
  rope.q = project('q', tokens, fresh, q);
  rope.k = project('k', tokens, fresh, k);
  rope.v = project('v', tokens, fresh, v);
  rope.slots = slots, rope.positions = positions;
  CHECK(radix_rope_append_launch(ctx, &rope, NULL));

  /* They see the cached tokens and each other, through the block table. */
  CHECK(radix_get_block_tables(ctx, &req, 1, table, ROW, &context_len, NULL));
  radix_attn attn = {.struct_size = sizeof attn, .num_seqs = 1, .q = rope.q, .out = rope.q};
  attn.max_context_len = PROMPT, attn.max_query_len = fresh;
  attn.out.data = o;
  attn.block_tables = table;
  attn.block_table_stride = ROW;
  attn.context_lens = &context_len;
  attn.cu_q_lens = row_starts;
  CHECK(radix_attn_workspace(ctx, &attn, &attn.workspace_size));
  char *memory = malloc((size_t)attn.workspace_size + 64);
  if (memory == NULL) exit(1);
  attn.workspace = memory + (64 - (uintptr_t)memory % 64);
  CHECK(radix_prefill_launch(ctx, &attn, NULL));
  memcpy(last, o + (fresh - 1) * DIM, DIM * sizeof *o);
  free(memory);

  /* Full blocks become visible to others; the lease ends, and they stay cached. */
  CHECK(radix_commit(ctx, &(radix_commit_item){.req = req, .num_valid_tokens = PROMPT}, 1, NULL));
  CHECK(radix_free_request(ctx, req, 0));
  return cached;
}

int main(void) {
  const radix_token prompt[PROMPT] = {11, 22, 33, 44, 55, 66, 77, 88, 99, 110, 121};
  radix_config c = {.struct_size = sizeof c, .abi = RADIXATTN_ABI, .kv_dtype = RADIX_F32};
  c.num_blocks = 8, c.block_size = BLOCK, c.num_layers = 1, c.num_kv_heads = 1, c.head_dim = DIM;
  radix_ctx *ctx = NULL;
  CHECK(radix_ctx_create(&c, &ctx));
  float first[DIM], second[DIM], difference = 0;
  const uint32_t cold = serve(ctx, prompt, first), warm = serve(ctx, prompt, second);
  radix_ctx_destroy(&ctx);

  printf("radixattn %s, blocks of %d tokens\n", radix_version_string(), BLOCK);
  printf("request 1: %d prompt tokens, %2u cached, %2u computed\n", PROMPT, cold, PROMPT - cold);
  printf("request 2: %d prompt tokens, %2u cached, %2u computed\n", PROMPT, warm, PROMPT - warm);
  for (int i = 0; i < DIM; ++i) difference += fabsf(first[i] - second[i]);
  printf("attention of the last token differs by %g in sum\n", (double)difference);
  return cold == 0 && warm == 8 && difference < 1e-5f ? 0 : 1;
}
