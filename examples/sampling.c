/* Sampling and speculative verification through the C API: a toy target whose next token depends on
 * the last one, and a draft that guesses a tree of four tokens. Prints how many tokens a step
 * gives. Build: cc sampling.c -lradixattn -lm */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "radixattn.h"

enum { VOCAB = 8, NODES = 5, DRAFTED = 2, CHILDREN = 2, MAX_TOKENS = 3, STEPS = 1000 };

/* root -> 1 -> 3, 4  and  root -> 2. Row i of `draft` is what the children of node i were drawn
 * from; nodes 0 and 1 have some. */
static const int32_t node_begin[] = {0, NODES}, parents[NODES] = {-1, 0, 0, 1, 1};
static const int32_t depth[NODES] = {0, 1, 1, 2, 2};
static float target[NODES][VOCAB], draft[NODES][VOCAB], guesses[CHILDREN][VOCAB];
static float temperature[NODES], top_p[NODES];
static uint64_t seeds[NODES], positions[NODES], guess_seeds[CHILDREN], guess_positions[CHILDREN];
static int32_t tokens[NODES], out[MAX_TOKENS], num_tokens, status;

static void check(radix_status st) {
  char message[512];
  if (st == RADIX_OK) return;
  radix_last_error(message, sizeof message);
  fprintf(stderr, "%s: %s\n", radix_status_name(st), message);
  exit(1);
}

static radix_tensor rows_of(float *data, int64_t rows) {
  radix_tensor t = {.data = data, .dtype = RADIX_F32, .ndim = 2, .shape = {rows, VOCAB}};
  return t;
}

/* What a model would compute: logits after `token`. The draft model is the same, but blurred. */
static void model(int32_t token, float sharpness, float *logits) {
  for (int32_t t = 0; t < VOCAB; ++t) {
    logits[t] = sharpness * cosf(0.7f * (float)(t - 2 * token - 1));
  }
}

/* Draws the two children of a node: the same logits twice. `guess` has other seeds than the
 * target: else a residual would not be independent of what was drafted. */
static void draft_children(radix_ctx *ctx, radix_sample *guess, int node, uint64_t position) {
  float sum = 0.f;
  for (int i = 0; i < CHILDREN; ++i) {
    model(tokens[node], 1.5f, guesses[i]);
    guess_positions[i] = position;
  }
  guess->out_tokens = &tokens[1 + CHILDREN * node]; /* nodes 1 and 2, or 3 and 4 */
  check(radix_sample_launch(ctx, guess, NULL));
  for (int t = 0; t < VOCAB; ++t) sum += draft[node][t] = expf(guesses[0][t] / temperature[0]);
  for (int t = 0; t < VOCAB; ++t) draft[node][t] /= sum;
}

/* One step: the draft guesses, the target computes all nodes at once, radix_verify decides. */
static void step(radix_ctx *ctx, radix_sample *guess, const radix_verify *verify, int32_t last,
                 uint64_t position) {
  tokens[0] = last;
  for (int node = 0; node < DRAFTED; ++node) {
    draft_children(ctx, guess, node, position + (uint64_t)depth[node]);
  }
  for (int i = 0; i < NODES; ++i) {
    model(tokens[i], 2.5f, target[i]);
    positions[i] = position + (uint64_t)depth[i];
  }
  check(
      radix_verify_launch(ctx, verify, NULL)); /* status says OK of its only sequence, or why not */
}

int main(void) {
  radix_config config = {.struct_size = sizeof config,
                         .abi = RADIXATTN_ABI,
                         .flags = RADIX_CTX_METADATA_ONLY, /* this program needs no K/V */
                         .num_blocks = 1,
                         .block_size = 16};
  radix_ctx *ctx = NULL;
  check(radix_ctx_create(&config, &ctx));
  for (int i = 0; i < NODES; ++i) temperature[i] = 0.8f, top_p[i] = 0.95f, seeds[i] = 42;
  for (int i = 0; i < CHILDREN; ++i) guess_seeds[i] = 1000 + (uint64_t)i;

  radix_sample rows = {.struct_size = sizeof rows,
                       .logits = rows_of(target[0], NODES),
                       .temperature = temperature,
                       .top_p = top_p,
                       .seeds = seeds,
                       .positions = positions};
  radix_verify verify = {.struct_size = sizeof verify,
                         .num_seqs = 1,
                         .max_tokens = MAX_TOKENS,
                         .target = &rows,
                         .node_begin = node_begin,
                         .draft_tokens = tokens,
                         .parents = parents,
                         .draft_probs = rows_of(draft[0], NODES),
                         .out_tokens = out,
                         .out_num_tokens = &num_tokens,
                         .out_status = &status};
  radix_sample guess = {.struct_size = sizeof guess,
                        .logits = rows_of(guesses[0], CHILDREN),
                        .temperature = temperature,
                        .seeds = guess_seeds,
                        .positions = guess_positions};
  uint64_t bytes = 0, more = 0;
  check(radix_verify_workspace(ctx, &verify, &bytes));
  check(radix_sample_workspace(ctx, &guess, &more));
  if (more > bytes) bytes = more;
  char *memory = malloc(bytes + 64);
  if (memory == NULL) return 1;
  verify.workspace = guess.workspace = memory + (64 - (uintptr_t)memory % 64) % 64;
  verify.workspace_size = guess.workspace_size = bytes;

  uint64_t position = 0;
  int32_t last = 3;
  for (int i = 0; i < STEPS; ++i) {
    step(ctx, &guess, &verify, last, position);
    if (status != RADIX_ROW_OK) return 1;
    last = out[num_tokens - 1];
    position += (uint64_t)num_tokens;
  }
  printf("%.2f tokens a step\n", (double)position / STEPS);
  free(memory);
  radix_ctx_destroy(&ctx);
  return position > STEPS ? 0 : 1;
}
