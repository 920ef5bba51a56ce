// radix_sample_* and radix_verify_*: shapes and pointers are checked here, what stands in arrays
// by the backend, row by row.
#include <cinttypes>
#include <cstdio>

#include "api/context.h"
#include "api/struct_io.h"
#include "api/tensors.h"
#include "base/error.h"
#include "sample/weights.h"

namespace radixattn {
namespace {

constexpr uint32_t kMaxTop = 128;

// A message names fields of d, or of d->target.
struct Named {
  const radix_sample& d;
  const char* of;
};

radix_status invalid_null(const char* of, const char* field, const char* why) {
  return fail(RADIX_E_INVALID, "%s->%s is NULL: expected an array%s", of, field, why);
}

radix_status check_words(const Named& s) {
  if ((s.d.flags & ~uint32_t{RADIX_SAMPLE_FINAL_LOGPROBS}) != 0)
    return fail(RADIX_E_INVALID, "%s->flags is 0x%x: expected RADIX_SAMPLE_*", s.of, s.d.flags);
  if (const radix_status st = check_reserved(s.of, "reserved0", s.d.reserved0); st != RADIX_OK)
    return st;
  if (s.d.next == nullptr) return RADIX_OK;
  return fail(RADIX_E_INVALID, "%s->next is %p: expected NULL", s.of, s.d.next);
}

radix_status read_logits(const radix_ctx& ctx, const Named& s, bool need_data, SampleParams* p) {
  const Place place = {ctx.config.device, ctx.config.device_index};
  const radix_tensor& t = s.d.logits;
  const radix_status st = check_tensor(t, "logits", place, 2, need_data);
  if (st != RADIX_OK) return st;
  if (t.shape[1] < 1 || t.shape[1] > kMaxVocab) {
    return fail(RADIX_E_INVALID, "logits.shape[1] is %" PRId64 ": expected a vocabulary of 1..%u",
                t.shape[1], kMaxVocab);
  }
  p->num_rows = static_cast<uint32_t>(t.shape[0]);
  p->vocab = static_cast<uint32_t>(t.shape[1]);
  p->logits = {t.data, t.dtype, stride_of(t, 0)};
  return RADIX_OK;
}

radix_status check_history(const Named& s, uint32_t rows) {
  if (s.d.num_history > INT64_MAX) {
    return fail(RADIX_E_INVALID, "%s->num_history is %" PRIu64 ": expected at most 2^63-1", s.of,
                s.d.num_history);
  }
  if (s.d.history == nullptr && s.d.num_history > 0)
    return invalid_null(s.of, "history", " of num_history tokens");
  if (s.d.history != nullptr && s.d.history_begin == nullptr && rows > 0)
    return invalid_null(s.of, "history_begin", ", as history is given");
  return RADIX_OK;
}

radix_status check_biases(const Named& s, uint32_t rows) {
  if (s.d.num_biases > INT64_MAX) {
    return fail(RADIX_E_INVALID, "%s->num_biases is %" PRIu64 ": expected at most 2^63-1", s.of,
                s.d.num_biases);
  }
  if (s.d.bias_tokens == nullptr && s.d.num_biases > 0)
    return invalid_null(s.of, "bias_tokens", " of num_biases tokens");
  if (s.d.bias_tokens == nullptr) return RADIX_OK;
  if (s.d.bias_values == nullptr && s.d.num_biases > 0)
    return invalid_null(s.of, "bias_values", ", as bias_tokens is given");
  if (s.d.bias_begin == nullptr && rows > 0)
    return invalid_null(s.of, "bias_begin", ", as bias_tokens is given");
  return RADIX_OK;
}

radix_status check_arrays(const Named& s, const SampleParams& p) {
  radix_status st = check_history(s, p.num_rows);
  if (st == RADIX_OK) st = check_biases(s, p.num_rows);
  if (st != RADIX_OK) return st;
  const int64_t words = (int64_t{p.vocab} + 31) / 32;
  if (s.d.allowed != nullptr && s.d.allowed_stride < words) {
    return fail(RADIX_E_INVALID,
                "%s->allowed_stride is %" PRId64 ": expected %" PRId64
                " or more, a bit for each of %u tokens",
                s.of, s.d.allowed_stride, words, p.vocab);
  }
  if (s.d.allowed == nullptr) return RADIX_OK;
  char name[32];
  std::snprintf(name, sizeof name, "%s->allowed_stride", s.of);
  return check_row_stride(s.d.allowed_stride, p.num_rows, name);
}

// Which of them must be there was checked before.
radix_status check_alignment(const Named& s) {
  const radix_sample& d = s.d;
  radix_status st = RADIX_OK;
  const auto check = [&](const auto* array, const char* field) {
    char name[32];
    std::snprintf(name, sizeof name, "%s->%s", s.of, field);
    if (st == RADIX_OK) st = check_optional_array(array, name);
  };
  check(d.temperature, "temperature");
  check(d.top_k, "top_k");
  check(d.top_p, "top_p");
  check(d.min_p, "min_p");
  check(d.typical_p, "typical_p");
  check(d.repetition_penalty, "repetition_penalty");
  check(d.presence_penalty, "presence_penalty");
  check(d.frequency_penalty, "frequency_penalty");
  check(d.history, "history");
  check(d.history_begin, "history_begin");
  check(d.output_begin, "output_begin");
  check(d.bias_tokens, "bias_tokens");
  check(d.bias_values, "bias_values");
  check(d.bias_begin, "bias_begin");
  check(d.allowed, "allowed");
  check(d.seeds, "seeds");
  check(d.positions, "positions");
  check(d.out_logprobs, "out_logprobs");
  check(d.out_status, "out_status");
  return st;
}

void copy_parameters(const radix_sample& d, SampleParams* p) {
  p->flags = d.flags;
  p->temperature = d.temperature;
  p->top_k = d.top_k;
  p->top_p = d.top_p;
  p->min_p = d.min_p;
  p->typical_p = d.typical_p;
  p->repetition_penalty = d.repetition_penalty;
  p->presence_penalty = d.presence_penalty;
  p->frequency_penalty = d.frequency_penalty;
  p->history = d.history;
  p->history_begin = d.history_begin;
  p->output_begin = d.output_begin;
  p->num_history = d.num_history;
  p->bias_tokens = d.bias_tokens;
  p->bias_values = d.bias_values;
  p->bias_begin = d.bias_begin;
  p->num_biases = d.num_biases;
  p->allowed = d.allowed;
  p->allowed_stride = d.allowed_stride;
  p->seeds = d.seeds;
  p->positions = d.positions;
}

// Everything but outputs, num_top and the workspace.
radix_status read_rows_to_sample(const radix_ctx& ctx, const Named& s, bool need_data,
                                 SampleParams* p) {
  radix_status st = check_words(s);
  if (st == RADIX_OK) st = read_logits(ctx, s, need_data, p);
  if (st == RADIX_OK && need_data) st = check_arrays(s, *p);
  if (st == RADIX_OK && need_data) st = check_alignment(s);
  copy_parameters(s.d, p);
  return st;
}

radix_status read_outputs(const radix_sample& d, SampleParams* p) {
  radix_status st = check_array(d.out_tokens, p->num_rows, "d->out_tokens");
  const uint64_t top = uint64_t{p->num_rows} * p->num_top;
  if (st == RADIX_OK) st = check_array(d.out_top_tokens, top, "d->out_top_tokens");
  if (st == RADIX_OK) st = check_array(d.out_top_logprobs, top, "d->out_top_logprobs");
  p->out_tokens = d.out_tokens;
  p->out_logprobs = d.out_logprobs;
  p->out_top_tokens = d.out_top_tokens;
  p->out_top_logprobs = d.out_top_logprobs;
  p->out_status = d.out_status;
  p->workspace = d.workspace;
  p->workspace_bytes = d.workspace_size;
  return st;
}

radix_status read_sample(const radix_ctx& ctx, const radix_sample& d, bool need_data,
                         SampleParams* p) {
  radix_status st = read_rows_to_sample(ctx, {d, "d"}, need_data, p);
  if (st != RADIX_OK) return st;
  const uint32_t most = p->vocab < kMaxTop ? p->vocab : kMaxTop;
  if (d.num_top > most) {
    return fail(RADIX_E_INVALID, "d->num_top is %u: expected 0..%u with a vocabulary of %u",
                d.num_top, most, p->vocab);
  }
  p->num_top = d.num_top;
  return need_data ? read_outputs(d, p) : RADIX_OK;
}

// ---- verification

radix_status check_verify_words(const radix_verify& d) {
  if ((d.flags & ~uint32_t{RADIX_VERIFY_NO_REPLACEMENT}) != 0)
    return fail(RADIX_E_INVALID, "d->flags is 0x%x: expected RADIX_VERIFY_*", d.flags);
  if (d.next != nullptr) return fail(RADIX_E_INVALID, "d->next is %p: expected NULL", d.next);
  if (d.num_seqs > INT32_MAX)
    return fail(RADIX_E_INVALID, "d->num_seqs is %u: expected at most 2^31-1", d.num_seqs);
  if (d.max_tokens < 1 || d.max_tokens > INT32_MAX)
    return fail(RADIX_E_INVALID, "d->max_tokens is %u: expected 1..2^31-1", d.max_tokens);
  return RADIX_OK;
}

radix_status read_draft(const radix_ctx& ctx, const radix_tensor& t, bool need_data,
                        VerifyParams* p) {
  if (t.data == nullptr && (need_data || t.ndim == 0)) return RADIX_OK;
  const Place place = {ctx.config.device, ctx.config.device_index};
  const radix_status st = check_tensor(t, "draft_probs", place, 2, need_data);
  if (st != RADIX_OK) return st;
  const SampleParams& rows = p->target;
  if (t.dtype != RADIX_F32 || t.shape[0] != rows.num_rows || t.shape[1] != rows.vocab) {
    return fail(RADIX_E_INVALID,
                "draft_probs is [%" PRId64 ", %" PRId64
                "] of dtype %d: expected [%u, %u] of RADIX_F32, as logits",
                t.shape[0], t.shape[1], t.dtype, rows.num_rows, rows.vocab);
  }
  // A query may say by its shape alone that there will be one: any address does.
  static constexpr float kSomewhere = 0.f;
  p->draft_probs = t.data != nullptr ? static_cast<const float*>(t.data) : &kSomewhere;
  p->draft_row_stride = stride_of(t, 0);
  return RADIX_OK;
}

radix_status read_tree(const radix_verify& d, VerifyParams* p) {
  radix_status st = check_array(d.node_begin, d.num_seqs, "d->node_begin");
  if (st == RADIX_OK) st = check_array(d.draft_tokens, p->target.num_rows, "d->draft_tokens");
  if (st == RADIX_OK) st = check_array(d.out_tokens, d.num_seqs, "d->out_tokens");
  if (st == RADIX_OK) st = check_array(d.out_num_tokens, d.num_seqs, "d->out_num_tokens");
  if (st == RADIX_OK) st = check_optional_array(d.parents, "d->parents");
  if (st == RADIX_OK) st = check_optional_array(d.out_nodes, "d->out_nodes");
  if (st == RADIX_OK) st = check_optional_array(d.out_status, "d->out_status");
  p->node_begin = d.node_begin;
  p->draft_tokens = d.draft_tokens;
  p->parents = d.parents;
  p->out_tokens = d.out_tokens;
  p->out_num_tokens = d.out_num_tokens;
  p->out_nodes = d.out_nodes;
  p->out_status = d.out_status;
  p->workspace = d.workspace;
  p->workspace_bytes = d.workspace_size;
  return st;
}

radix_status read_verify(const radix_ctx& ctx, const radix_verify& d, bool need_data,
                         VerifyParams* p) {
  radix_sample target;
  radix_status st = check_verify_words(d);
  if (st == RADIX_OK) st = read_struct(d.target, "d->target", &target);
  if (st != RADIX_OK) return st;
  p->flags = d.flags;
  p->num_seqs = d.num_seqs;
  p->max_tokens = d.max_tokens;
  st = read_rows_to_sample(ctx, {target, "target"}, need_data, &p->target);
  if (st == RADIX_OK) st = read_draft(ctx, d.draft_probs, need_data, p);
  return st == RADIX_OK && need_data ? read_tree(d, p) : st;
}

}  // namespace
}  // namespace radixattn

using namespace radixattn;  // NOLINT(google-build-using-namespace): everything below is extern "C"

extern "C" {

radix_status radix_sample_workspace(const radix_ctx* ctx, const radix_sample* d,
                                    uint64_t* out_bytes) RADIX_NOEXCEPT {
  radix_sample local;
  SampleParams p;
  radix_status st = check_ctx(ctx);
  if (st == RADIX_OK) st = read_struct(d, "d", &local);
  if (st == RADIX_OK) st = not_null(out_bytes, "out_bytes");
  if (st == RADIX_OK) st = read_sample(*ctx, local, false, &p);
  if (st == RADIX_OK) *out_bytes = ctx->backend->sample_workspace(p);
  return st;
}

radix_status radix_sample_launch(radix_ctx* ctx, const radix_sample* d,
                                 radix_stream s) RADIX_NOEXCEPT {
  radix_sample local;
  SampleParams p;
  radix_status st = check_ctx(ctx);
  if (st == RADIX_OK) st = read_struct(d, "d", &local);
  if (st == RADIX_OK) st = check_stream(*ctx, s);
  if (st == RADIX_OK) st = read_sample(*ctx, local, true, &p);
  return st == RADIX_OK ? ctx->backend->sample(p, s) : st;
}

radix_status radix_verify_workspace(const radix_ctx* ctx, const radix_verify* d,
                                    uint64_t* out_bytes) RADIX_NOEXCEPT {
  radix_verify local;
  VerifyParams p;
  radix_status st = check_ctx(ctx);
  if (st == RADIX_OK) st = read_struct(d, "d", &local);
  if (st == RADIX_OK) st = not_null(out_bytes, "out_bytes");
  if (st == RADIX_OK) st = read_verify(*ctx, local, false, &p);
  if (st == RADIX_OK) *out_bytes = ctx->backend->verify_workspace(p);
  return st;
}

radix_status radix_verify_launch(radix_ctx* ctx, const radix_verify* d,
                                 radix_stream s) RADIX_NOEXCEPT {
  radix_verify local;
  VerifyParams p;
  radix_status st = check_ctx(ctx);
  if (st == RADIX_OK) st = read_struct(d, "d", &local);
  if (st == RADIX_OK) st = check_stream(*ctx, s);
  if (st == RADIX_OK) st = read_verify(*ctx, local, true, &p);
  return st == RADIX_OK ? ctx->backend->verify(p, s) : st;
}

}  // extern "C"
