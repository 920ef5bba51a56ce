/* Eight requests begin with the same thousand tokens; a decode step reads those from memory once.
 *   cc -std=c99 shared_prefix.c $(pkg-config --cflags --libs radixattn) -o shared_prefix */
#include <radixattn.h>
#include <stdio.h>
#include <stdlib.h>

enum {
  REQUESTS = 8,
  SHARED = 1024, /* tokens */
  OWN = 40,      /* of each request */
  LENGTH = SHARED + OWN,
  Q_HEADS = 8,
  KV_HEADS = 2,
  DIM = 64,
  BLOCK = 16
};

static void check(radix_status st, const char *call) {
  char message[512];
  if (st == RADIX_OK) return;
  radix_last_error(message, sizeof message);
  fprintf(stderr, "%s: %s: %s\n", call, radix_status_name(st), message);
  exit(1);
}
#define CHECK(call) check(call, #call)

static void *allocate(size_t bytes) {
  void *p = malloc(bytes);
  if (p == NULL) exit(1);
  return p;
}

/* Stands where a model multiplies by its weights: heads of one number kind for tokens. */
static radix_tensor project(char which, const radix_token *tokens, int64_t n, int64_t heads) {
  float *rows = allocate((size_t)(n * heads * DIM) * sizeof *rows);
  for (int64_t i = 0; i < n * heads * DIM; ++i) {
    const int64_t seed = tokens[i / (heads * DIM)] * 7 + which * 31 + i % (heads * DIM) * 13;
    rows[i] = (float)(seed % 23 - 11) / 8;
  }
  return (radix_tensor){.data = rows, .dtype = RADIX_F32, .ndim = 3, .shape = {n, heads, DIM}};
}

/* Begins a request, writes K/V of what is not cached, and publishes it. */
static radix_req begin(radix_ctx *ctx, const radix_token *tokens, uint64_t *cached) {
  radix_req req;
  radix_match match = {.struct_size = sizeof match};
  radix_request_desc d = {.struct_size = sizeof d, .tokens = tokens, .num_tokens = LENGTH};
  CHECK(radix_begin_request(ctx, &d, &req, &match));
  *cached = match.cached_tokens;
  const uint32_t fresh = (uint32_t)(LENGTH - match.cached_tokens);
  int64_t slots[LENGTH];
  radix_op op;
  radix_append item = {.req = req, .tokens = tokens + match.cached_tokens, .num_tokens = fresh};
  radix_append_out out = {.struct_size = sizeof out, .slots = slots, .slots_cap = LENGTH};
  out.ops = &op, out.ops_cap = 1;
  CHECK(radix_append_slot(ctx, &item, 1, &out));
  CHECK(radix_run_ops(ctx, &op, out.num_ops, NULL));
  radix_rope_append write = {.struct_size = sizeof write, .num_tokens = fresh, .slots = slots};
  write.k = project('k', item.tokens, fresh, KV_HEADS);
  write.v = project('v', item.tokens, fresh, KV_HEADS);
  CHECK(radix_rope_append_launch(ctx, &write, NULL));
  free(write.k.data);
  free(write.v.data);
  CHECK(radix_commit(ctx, &(radix_commit_item){.req = req, .num_valid_tokens = LENGTH}, 1, NULL));
  return req;
}

/* One decode step of all requests by a plan with these flags; the last tokens are the queries. */
static void decode(radix_ctx *ctx, const radix_req *reqs, radix_tensor q, float *result,
                   uint32_t flags) {
  radix_plan_config c = {.struct_size = sizeof c, .max_seqs = REQUESTS, .num_q_heads = Q_HEADS};
  c.flags = flags | RADIX_PLAN_BATCH_INVARIANT;
  radix_plan *plan = NULL;
  CHECK(radix_plan_create(ctx, &c, &plan));
  radix_plan_desc d = {.struct_size = sizeof d, .num_seqs = REQUESTS, .reqs = reqs};
  CHECK(radix_plan_update(plan, &d, NULL)); /* once a step; the layers' launches all use it */
  radix_attn attn = {.struct_size = sizeof attn, .q = q, .out = q};
  attn.out.data = result;
  CHECK(radix_plan_attn(plan, &attn));
  CHECK(radix_paged_attention_launch(ctx, &attn, NULL));
  radix_plan_info info = {.struct_size = sizeof info};
  CHECK(radix_plan_get_info(plan, &info));
  printf("%-9s %6llu positions in sight, %6llu read, %u of %u shared runs read once\n",
         flags == 0 ? "shared" : "unshared", (unsigned long long)info.tokens_seen,
         (unsigned long long)info.tokens_read, info.num_shared, info.num_nodes);
  radix_plan_destroy(&plan);
}

int main(void) {
  radix_config c = {.struct_size = sizeof c, .abi = RADIXATTN_ABI, .kv_dtype = RADIX_F16};
  c.num_blocks = 128, c.block_size = BLOCK;
  c.num_layers = 1, c.num_kv_heads = KV_HEADS, c.head_dim = DIM;
  radix_ctx *ctx = NULL;
  CHECK(radix_ctx_create(&c, &ctx));

  radix_req reqs[REQUESTS];
  radix_token last[REQUESTS];
  uint64_t cached = 0, total = 0;
  for (int r = 0; r < REQUESTS; ++r, total += cached) {
    radix_token tokens[LENGTH];
    for (int i = 0; i < LENGTH; ++i) tokens[i] = i < SHARED ? i * 5 : i * 5 + r + 1;
    last[r] = tokens[LENGTH - 1];
    reqs[r] = begin(ctx, tokens, &cached);
  }
  printf("%d requests of %d tokens, %llu of them found cached\n", REQUESTS, LENGTH,
         (unsigned long long)total);

  static float shared[REQUESTS * Q_HEADS * DIM], unshared[REQUESTS * Q_HEADS * DIM];
  const radix_tensor q = project('q', last, REQUESTS, Q_HEADS);
  decode(ctx, reqs, q, shared, 0);
  decode(ctx, reqs, q, unshared, RADIX_PLAN_UNSHARED);
  int same = 1;
  for (int i = 0; i < REQUESTS * Q_HEADS * DIM; ++i) same = same && shared[i] == unshared[i];
  printf("results: %s\n", same ? "identical" : "DIFFERENT");
  free(q.data);
  radix_ctx_destroy(&ctx);
  return same && total == (REQUESTS - 1) * SHARED ? 0 : 1;
}
