// Sampling and the verification of drafts.
#include "fuzzer.h"

namespace radixattn::fuzz {

// Rows to sample from. Parameters are any floats, tokens any numbers; ranges may lie anywhere.
void Fuzzer::sampling(radix_sample* d, uint32_t rows, uint32_t vocab) {
  for (uint32_t n = in_.below(12); n > 0; --n) floats_[in_.below(1024)] = in_.f32();
  for (int i = 64; i < 128; ++i) ints_[i] = static_cast<int32_t>(in_.below(vocab));
  for (int i = 0; i < 16; ++i) longs_[i] = in_.chance(10) ? static_cast<int64_t>(in_.u64(70)) : i;
  const auto maybe = [&](auto* array) { return in_.chance(128) ? nullptr : array; };
  tensor(&d->logits, in_.chance(128) ? RADIX_F32 : RADIX_BF16, {rows, vocab});
  if (d->logits.shape[0] > 64) d->logits.shape[0] &= 63;  // the arrays of rows are this long
  d->flags = in_.below(2) | (in_.chance(4) ? in_.u32(4) : 0);
  d->num_top = in_.chance(6) ? in_.u32(200) : in_.below(3);
  if (d->num_top > 128) d->num_top |= 1u << 20;  // refused: outputs have room for less
  d->temperature = maybe(floats_.data() + in_.below(1024));
  d->top_k = maybe(ints_ + 64 + in_.below(32));
  d->top_p = maybe(floats_.data() + in_.below(1024));
  d->min_p = maybe(floats_.data() + in_.below(1024));
  d->typical_p = maybe(floats_.data() + in_.below(1024));
  d->repetition_penalty = maybe(floats_.data() + in_.below(1024));
  d->presence_penalty = maybe(floats_.data() + in_.below(1024));
  d->frequency_penalty = maybe(floats_.data() + in_.below(1024));
  d->history = maybe(ints_ + 64);
  d->history_begin = pass(longs_);
  d->output_begin = maybe(longs_ + 1);
  d->num_history = d->history == nullptr ? in_.below(256) / 255 : in_.below(64);
  d->bias_tokens = maybe(ints_ + 96);
  d->bias_values = pass(floats_.data() + 512);
  d->bias_begin = pass(longs_);
  d->num_biases = d->bias_tokens == nullptr ? in_.below(256) / 255 : in_.below(32);
  d->allowed = in_.chance(200) ? nullptr : reinterpret_cast<const uint32_t*>(words_);
  d->allowed_stride = in_.chance(6) ? static_cast<int64_t>(in_.u64(8)) % 64 : 4;
  if (in_.chance(2)) d->allowed_stride = INT64_MAX;
  d->seeds = maybe(words_);
  d->positions = maybe(words_ + 16);
}

radix_status Fuzzer::sample() {
  Sized<radix_sample> d(in_);
  const uint32_t rows = in_.below(9), vocab = 1 + in_.below(100);
  sampling(d.get(), rows, vocab);
  d->out_tokens = pass(tree_[0]);
  d->out_logprobs = in_.chance(128) ? nullptr : floats_.data() + 2048;
  d->out_top_tokens = pass(tree_[1]);
  d->out_top_logprobs = pass(floats_.data() + 4096);
  d->out_status = in_.chance(128) ? nullptr : tree_[2];
  uint64_t bytes = 0;
  const radix_status st = radix_sample_workspace(ctx_, d.get(), &bytes);
  const Memory memory = give_workspace(d.get(), st, bytes);
  return radix_sample_launch(ctx_, d.pass(in_), nullptr);
}

radix_status Fuzzer::verify() {
  Sized<radix_sample> target(in_);
  Sized<radix_verify> d(in_);
  const uint32_t rows = 1 + in_.below(9), vocab = 1 + in_.below(100);
  sampling(target.get(), rows, vocab);
  for (int i = 0; i < 8; ++i) ints_[i] = in_.chance(10) ? in_.i32(9) : 4 * i;
  for (int i = 8; i < 32; ++i) ints_[i] = in_.chance(10) ? in_.i32(9) : i / 2 % 4;
  d->flags = in_.below(2) | (in_.chance(4) ? in_.u32(4) : 0);
  d->num_seqs = in_.chance(4) ? 1u << 31 : in_.below(4);
  d->max_tokens = in_.chance(4) ? UINT32_MAX : in_.below(6);
  d->target = target.pass(in_);
  d->node_begin = pass(ints_);
  d->draft_tokens = pass(ints_ + 8);
  d->parents = in_.chance(80) ? nullptr : ints_ + 20;
  if (in_.chance(128)) tensor(&d->draft_probs, RADIX_F32, {rows, vocab});
  d->out_tokens = pass(tree_[0]);
  d->out_num_tokens = pass(tree_[1]);
  d->out_nodes = in_.chance(128) ? nullptr : tree_[2];
  d->out_status = in_.chance(128) ? nullptr : tree_[3];
  uint64_t bytes = 0;
  const radix_status st = radix_verify_workspace(ctx_, d.get(), &bytes);
  const Memory memory = give_workspace(d.get(), st, bytes);
  return radix_verify_launch(ctx_, d.pass(in_), nullptr);
}

}  // namespace radixattn::fuzz
