/* A model's attention block in one call: a prompt is computed, found again by a second request, and
 * both go on in one mixed step. docs/layer.md explains it. cc -std=c99 layer.c $(pkg-config
 * --cflags --libs radixattn) -o layer */
#include <radixattn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HIDDEN = 48, Q_HEADS = 4, KV_HEADS = 2, DIM = 32, BLOCK = 4, ROW = 8, MAX_ROWS = 16 };
enum { Q = Q_HEADS * DIM, KV = KV_HEADS * DIM, QKV = Q + 2 * KV };

static void check(radix_status st, const char *call) {
  char message[512];
  if (st == RADIX_OK) return;
  radix_last_error(message, sizeof message);
  fprintf(stderr, "%s: %s: %s\n", call, radix_status_name(st), message);
  exit(1);
}
#define CHECK(call) check(call, #call)

/* Stands where a file of weights is read. */
static float w_qkv[QKV * HIDDEN], w_o[HIDDEN * Q], norm[HIDDEN], embedding[32 * HIDDEN];

static void fill(float *to, int n, unsigned seed) {
  for (int i = 0; i < n; ++i) {
    seed = seed * 1664525u + 1013904223u;
    to[i] = ((float)(seed >> 8) / (float)(1 << 24) - 0.5f) / 4;
  }
}

static radix_tensor matrix(float *data, int64_t rows, int64_t columns) {
  return (radix_tensor){.data = data, .dtype = RADIX_F32, .ndim = 2, .shape = {rows, columns}};
}

static radix_tensor vector(float *data, int64_t n) {
  return (radix_tensor){.data = data, .dtype = RADIX_F32, .ndim = 1, .shape = {n}};
}

/* One part of a step, decode or prefill, with a sequence in it. */
struct part {
  int64_t slots[MAX_ROWS];
  int32_t positions[MAX_ROWS], table[ROW], context_len, row_starts[2];
  radix_rope_append rope;
  radix_attn attn;
};

/* Takes slots for `n` tokens of a request and describes them; x gets their rows. */
static void add(radix_ctx *ctx, radix_req req, const radix_token *tokens, uint32_t n, int prefill,
                struct part *p, float *x) {
  radix_op op;
  radix_append item = {.req = req, .tokens = tokens, .num_tokens = n};
  radix_append_out out = {.struct_size = sizeof out, .slots = p->slots, .slots_cap = MAX_ROWS};
  out.ops = &op, out.ops_cap = 1;
  CHECK(radix_append_slot(ctx, &item, 1, &out));
  CHECK(radix_run_ops(ctx, &op, out.num_ops, NULL));
  CHECK(radix_get_block_tables(ctx, &req, 1, p->table, ROW, &p->context_len, NULL));
  for (uint32_t i = 0; i < n; ++i) {
    p->positions[i] = p->context_len - (int32_t)(n - i);
    memcpy(x + i * HIDDEN, embedding + tokens[i] * HIDDEN, HIDDEN * sizeof *x);
  }
  p->row_starts[0] = 0, p->row_starts[1] = (int32_t)n;
  p->rope = (radix_rope_append){.struct_size = sizeof p->rope, .rotary_dim = DIM, .num_tokens = n};
  p->rope.slots = p->slots, p->rope.positions = p->positions;
  p->attn = (radix_attn){.struct_size = sizeof p->attn, .num_seqs = 1};
  p->attn.max_context_len = (uint32_t)p->context_len, p->attn.max_query_len = n;
  p->attn.block_tables = p->table, p->attn.block_table_stride = ROW;
  p->attn.context_lens = &p->context_len;
  p->attn.cu_q_lens = prefill ? p->row_starts : NULL;
}

/* The block for a step's rows: those of decode, then those of prefill; y becomes x +
 * attention(norm(x)). */
static void run_layer(radix_ctx *ctx, const struct part *decode, const struct part *prefill,
                      float *x, float *y) {
  const uint64_t rows =
      (decode ? decode->rope.num_tokens : 0) + (prefill ? prefill->rope.num_tokens : 0);
  radix_layer d = {.struct_size = sizeof d, .num_q_heads = Q_HEADS, .flags = RADIX_LAYER_ADD};
  memcpy(y, x, rows * HIDDEN * sizeof *x);
  d.x = matrix(x, (int64_t)rows, HIDDEN);
  d.y = matrix(y, (int64_t)rows, HIDDEN);
  d.norm = vector(norm, HIDDEN);
  d.w_qkv = matrix(w_qkv, QKV, HIDDEN);
  d.w_o = matrix(w_o, HIDDEN, Q);
  if (decode) d.decode = &decode->attn, d.decode_rope = &decode->rope;
  if (prefill) d.prefill = &prefill->attn, d.prefill_rope = &prefill->rope;
  CHECK(radix_layer_workspace(ctx, &d, &d.workspace_size));
  char *memory =
      malloc((size_t)d.workspace_size + 64); /* a model asks once, for its largest step */
  if (memory == NULL) exit(1);
  d.workspace = memory + (64 - (uintptr_t)memory % 64);
  CHECK(radix_layer_launch(ctx, &d, NULL));
  free(memory);
}

/* Begins a request and computes what is not cached of its prompt; *last is y of the last token. */
static radix_req serve(radix_ctx *ctx, const radix_token *prompt, uint32_t n, float *last) {
  static struct part p;
  radix_req req;
  radix_match match = {.struct_size = sizeof match};
  radix_request_desc d = {.struct_size = sizeof d, .tokens = prompt, .num_tokens = n};
  CHECK(radix_begin_request(ctx, &d, &req, &match));
  const uint32_t cached = (uint32_t)match.cached_tokens, fresh = n - cached;
  float x[MAX_ROWS * HIDDEN], y[MAX_ROWS * HIDDEN];
  add(ctx, req, prompt + cached, fresh, 1, &p, x);
  run_layer(ctx, NULL, &p, x, y);
  memcpy(last, y + (fresh - 1) * HIDDEN, HIDDEN * sizeof *y);
  CHECK(radix_commit(ctx, &(radix_commit_item){.req = req, .num_valid_tokens = n}, 1, NULL));
  printf("prompt of %u tokens: %u cached, %u computed\n", n, cached, fresh);
  return req;
}

/* Equal, not nearly equal: a row has the same bits in every step. */
static int same(const float *a, const float *b, int n) {
  for (int i = 0; i < n; ++i) {
    if (a[i] != b[i]) return 0;
  }
  return 1;
}

int main(void) {
  const radix_token prompt[11] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, next[1] = {12},
                    other[3] = {20, 21, 22};
  fill(w_qkv, QKV * HIDDEN, 1), fill(w_o, HIDDEN * Q, 2), fill(embedding, 32 * HIDDEN, 3);
  for (int i = 0; i < HIDDEN; ++i) norm[i] = 1;
  radix_config c = {.struct_size = sizeof c, .abi = RADIXATTN_ABI, .kv_dtype = RADIX_F32};
  c.num_blocks = 16, c.block_size = BLOCK, c.num_layers = 1, c.num_kv_heads = KV_HEADS;
  c.head_dim = DIM;
  radix_ctx *ctx = NULL;
  CHECK(radix_ctx_create(&c, &ctx));

  float cold[HIDDEN], warm[HIDDEN], x[4 * HIDDEN], y[4 * HIDDEN], alone[4 * HIDDEN];
  const radix_req a = serve(ctx, prompt, 11, cold), b = serve(ctx, prompt, 11, warm);
  const int same_prompt = same(cold, warm, HIDDEN);

  /* The first request decodes a token while the second one computes three more. */
  static struct part decode, prefill;
  add(ctx, a, next, 1, 0, &decode, x);
  add(ctx, b, other, 3, 1, &prefill, x + HIDDEN);
  run_layer(ctx, &decode, &prefill, x, y);
  run_layer(ctx, &decode, NULL, x, alone); /* the same K/V goes to the same slots again */
  run_layer(ctx, NULL, &prefill, x + HIDDEN, alone + HIDDEN);
  const int same_step = same(y, alone, 4 * HIDDEN);
  radix_ctx_destroy(&ctx);

  printf("last row with and without the cache: %s\n", same_prompt ? "same bits" : "different");
  printf("mixed step and two steps: %s\n", same_step ? "same bits" : "different");
  return same_prompt && same_step ? 0 : 1;
}
