/* Sampling and speculative verification through the C API: a toy target whose next token depends on
 * the last one, a draft that guesses a tree of two tokens. Prints how many tokens a step gives.
 * Build: cc sampling.c -lradixattn */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "radixattn.h"

enum { VOCAB = 8, NODES = 5, MAX_TOKENS = 3, STEPS = 1000 };

static void check(radix_status st) {
  char message[512];
  if (st == RADIX_OK) return;
  radix_last_error(message, sizeof message);
  fprintf(stderr, "%s: %s\n", radix_status_name(st), message);
  exit(1);
}

/* What a model would compute: logits after `token`. The draft is the same, blurred. */
static void model(int32_t token, float sharpness, float *logits) {
  for (int32_t t = 0; t < VOCAB; ++t)
    logits[t] = sharpness * cosf(0.7f * (float)(t - 2 * token - 1));
}

int main(void) {
  radix_config config = {.struct_size = sizeof config,
                         .abi = RADIXATTN_ABI,
                         .flags = RADIX_CTX_METADATA_ONLY, /* this program needs no K/V */
                         .num_blocks = 1,
                         .block_size = 16};
  radix_ctx *ctx = NULL;
  check(radix_ctx_create(&config, &ctx));

  /* root -> 1 -> 3, 4   and   root -> 2: what the root's and node 1's children were drawn from is
   * rows 0 and 1 of `draft`. */
  int32_t node_begin[] = {0, NODES}, parents[NODES] = {-1, 0, 0, 1, 1}, tokens[NODES] = {0};
  static float target[NODES][VOCAB], logits[NODES][VOCAB], draft[NODES][VOCAB];
  float temperature[NODES], top_p[NODES];
  uint64_t seeds[NODES], draft_seeds[2], positions[NODES], draft_positions[2];
  int32_t out[MAX_TOKENS], num = 0, status = 0;
  for (int i = 0; i < NODES; ++i) {
    temperature[i] = 0.8f, top_p[i] = 0.95f;
    seeds[i] = 42;
  }

  radix_sample rows = {
      .struct_size = sizeof rows,
      .logits = {.data = target, .dtype = RADIX_F32, .ndim = 2, .shape = {NODES, VOCAB}},
      .temperature = temperature,
      .top_p = top_p,
      .seeds = seeds,
      .positions = positions};
  radix_verify verify = {
      .struct_size = sizeof verify,
      .flags = 0, /* siblings may be equal: they are drawn independently */
      .num_seqs = 1,
      .max_tokens = MAX_TOKENS,
      .target = &rows,
      .node_begin = node_begin,
      .draft_tokens = tokens,
      .parents = parents,
      .draft_probs = {.data = draft, .dtype = RADIX_F32, .ndim = 2, .shape = {NODES, VOCAB}},
      .out_tokens = out,
      .out_num_tokens = &num,
      .out_status = &status};
  /* The draft model's two draws for one node: the same logits twice, with other seeds than the
   * target's. */
  radix_sample guess = {
      .struct_size = sizeof guess,
      .logits = {.data = logits, .dtype = RADIX_F32, .ndim = 2, .shape = {2, VOCAB}},
      .temperature = temperature,
      .seeds = draft_seeds,
      .positions = draft_positions};
  uint64_t bytes = 0, more = 0;
  check(radix_verify_workspace(ctx, &verify, &bytes));
  check(radix_sample_workspace(ctx, &guess, &more));
  if (more > bytes) bytes = more;
  void *workspace = aligned_alloc(64, (bytes + 63) / 64 * 64);
  verify.workspace = guess.workspace = workspace;
  verify.workspace_size = guess.workspace_size = bytes;

  int32_t last = 3;
  uint64_t position = 0, steps = 0;
  while (steps < STEPS) {
    /* 1. The draft model guesses: two children of the root, then two of the first. */
    tokens[0] = last;
    for (int parent = 0; parent < 2; ++parent) {
      float sum = 0.f;
      for (int i = 0; i < 2; ++i) {
        model(tokens[parent], 1.5f, logits[i]);
        draft_seeds[i] = 1000 + (uint64_t)i;
        draft_positions[i] = position + (uint64_t)parent;
      }
      guess.out_tokens = &tokens[1 + 2 * parent]; /* nodes 1 and 2, then 3 and 4 */
      check(radix_sample_launch(ctx, &guess, NULL));
      for (int t = 0; t < VOCAB; ++t) sum += draft[parent][t] = expf(logits[0][t] / temperature[0]);
      for (int t = 0; t < VOCAB; ++t) draft[parent][t] /= sum;
    }
    /* 2. The target computes all nodes at once; a node's position is its depth behind the root. */
    for (int i = 0; i < NODES; ++i) {
      model(tokens[i], 2.5f, target[i]);
      positions[i] = position + (i == 0 ? 0 : i < 3 ? 1 : 2);
    }
    /* 3. What stands, and one token more. */
    check(radix_verify_launch(ctx, &verify, NULL));
    if (status != RADIX_ROW_OK) return 1;
    last = out[num - 1];
    position += (uint64_t)num;
    ++steps;
  }
  printf("%.2f tokens a step\n", (double)position / (double)steps);
  free(workspace);
  radix_ctx_destroy(&ctx);
  return position > steps ? 0 : 1;
}
