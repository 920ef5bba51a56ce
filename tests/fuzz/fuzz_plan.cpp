// Trees in arrays, and plans.
#include "fuzzer.h"

namespace radixattn::fuzz {

radix_status Fuzzer::export_tree() {
  Sized<radix_tree_view> io(in_);
  io->nodes_cap = in_.chance(200) ? kBuffer : in_.below(kBuffer);
  io->blocks_cap = in_.chance(200) ? kBuffer / 256 : in_.below(kBuffer / 256);
  io->num_nodes = in_.u32(30);
  io->parent = pass(tree_[0]);
  io->depth_blocks = pass(tree_[1]);
  io->child_begin = pass(tree_[2]);
  io->block_begin = pass(tree_[3]);
  io->block_ids = pass(tree_[4]);
  io->tokens = pass(tree_[5]);
  return radix_tree_export(ctx_, space(), in_.below(2), io.pass(in_));
}

// Arrays that are, or once were, some tree's; any of their numbers may be any other.
radix_status Fuzzer::match_batch() {
  Sized<radix_tree_view> t(in_);
  t->block_size = in_.chance(20) ? in_.u32(300) : config_.block_size;
  t->num_nodes = in_.u32(24);
  t->num_blocks = in_.u32(24);
  if (t->num_nodes <= INT32_MAX) t->num_nodes %= kBuffer;
  if (t->num_blocks <= INT32_MAX) t->num_blocks %= 64;
  for (uint32_t n = in_.below(4); n > 0; --n) tree_[2 + in_.below(4)][in_.below(30)] = in_.i32(30);
  t->child_begin = pass(tree_[2]);
  t->block_begin = pass(tree_[3]);
  t->block_ids = pass(tree_[4]);
  t->tokens = pass(tree_[5]);
  Sized<radix_match_batch> d(in_);
  const uint32_t n = in_.below(8);
  for (uint32_t i = 0; i <= n; ++i)
    longs_[i] = in_.chance(6) ? static_cast<int64_t>(in_.u64(70)) : int64_t{8} * i;
  d->num_prompts = in_.chance(4) ? 1u << 31 : n;
  d->prompts = tokens();
  d->num_tokens = d->prompts == nullptr ? in_.u64(9) : 8 * n;
  d->prompt_begin = pass(longs_);
  d->out_nodes = pass(ints_);
  d->out_tokens = pass(ints_ + 64);
  d->out_tables = in_.chance(128) ? nullptr : ints_ + 128;
  d->table_stride = in_.chance(6) ? static_cast<int64_t>(in_.u64(40) | uint64_t{1} << 40)
                                  : int64_t{in_.below(40)};
  return radix_match_batch_launch(ctx_, t.pass(in_), d.pass(in_), nullptr);
}

// Four nodes in any order, mostly a tree of them.
void Fuzzer::small_tree(radix_tree_view* t) {
  static int32_t parent[4], begin[5];
  t->block_size = in_.chance(10) ? in_.u32(5) : config_.block_size;
  t->num_nodes = in_.below(5);
  begin[0] = 0;
  for (uint32_t i = 0; i < 4; ++i) {
    parent[i] = in_.chance(10) ? in_.i32(6) : static_cast<int32_t>(in_.below(i + 1)) - 1;
    begin[i + 1] =
        begin[i] + (in_.chance(6) ? in_.i32(9) % 1000 : static_cast<int32_t>(in_.below(4)));
  }
  t->num_blocks = in_.chance(8) ? in_.u32(20) % 100 : 16;
  t->parent = pass(parent);
  t->block_begin = pass(begin);
  t->block_ids = pass(ints_);
}

// A plan of up to 7 sequences replaces the one before.
radix_status Fuzzer::plan_make() {
  Sized<radix_plan_config> c(in_);
  c->flags = in_.chance(6) ? in_.u32(9) : in_.below(8);
  c->max_seqs = in_.chance(6) ? in_.u32(7) % 100000 : 1 + in_.below(7);
  c->max_query_tokens = in_.chance(100) ? 0 : in_.u32(40) % 100000;
  c->max_query_len = in_.chance(128) ? 0 : in_.u32(40);
  c->max_context_len = in_.chance(128) ? 0 : in_.u32(60) % 4000;
  c->num_q_heads = in_.chance(8) ? in_.u32(5) % 1000 : config_.num_kv_heads * (1 + in_.below(3));
  c->window = in_.chance(60) ? in_.u32(5) : 0;
  uint64_t bytes = 0;
  known(radix_plan_bytes(ctx_, c.pass(in_), pass(&bytes)));
  radix_plan* made = nullptr;
  const radix_status st = radix_plan_create(ctx_, c.pass(in_), pass(&made));
  if (made == nullptr) return st;
  radix_plan_destroy(&plan_);
  plan_ = made;
  plan_config_ = *c.get();
  return st;
}

radix_status Fuzzer::plan_update() {
  Sized<radix_plan_desc> d(in_);
  Sized<radix_tree_view> tree(in_);
  int32_t nodes[8] = {};
  int32_t q_lens[8] = {}, lens[8] = {};
  for (uint32_t i = 0; i < 7; ++i) {
    words_[i] = id(requests_);
    q_lens[i] = in_.chance(10) ? in_.i32(20) : static_cast<int32_t>(in_.below(3));
    lens[i] = in_.chance(10) ? in_.i32(100) : static_cast<int32_t>(in_.below(12));
  }
  for (uint32_t i = 0; i < 512; ++i)
    ints_[i] = in_.chance(1) ? in_.i32(40) : static_cast<int32_t>(i % config_.num_blocks);
  d->flags = in_.chance(8) ? in_.u32(3) : 0;
  d->num_seqs = in_.chance(5) ? in_.u32(6) % 7 : in_.below(5);
  const uint32_t kind = in_.below(8);
  if (kind < 5) {
    d->reqs = words_;
  } else if (kind == 5) {
    small_tree(tree.get());
    for (int32_t& node : nodes)
      node = in_.chance(10) ? in_.i32(7) : static_cast<int32_t>(in_.below(5)) - 1;
    d->tree = tree.pass(in_);
    d->radix_indices = pass(nodes);
    d->context_lens = pass(lens);
    if (in_.chance(4)) d->reqs = words_;
  } else {
    d->block_tables = pass(ints_);
    d->block_table_stride = in_.chance(6) ? int64_t{in_.below(60)} - 1 : 12 + in_.below(40);
    d->context_lens = pass(lens);
  }
  if (in_.chance(128)) d->q_lens = q_lens;
  return radix_plan_update(in_.chance(3) ? nullptr : plan_, d.pass(in_), nullptr);
}

radix_status Fuzzer::plan_use() {
  Sized<radix_plan_info> info(in_);
  known(radix_plan_get_info(plan_, info.pass(in_)));
  Sized<radix_tree_view> tree(in_);
  tree->nodes_cap = tree->blocks_cap = in_.chance(40) ? in_.below(3) : kBuffer;
  tree->parent = pass(tree_[0]);
  tree->depth_blocks = pass(tree_[1]);
  tree->child_begin = pass(tree_[2]);
  tree->block_begin = pass(tree_[3]);
  tree->block_ids = pass(tree_[4]);
  known(radix_plan_tree(plan_, tree.pass(in_), pass(ints_)));
  Sized<radix_rope_append> w(in_);
  known(radix_plan_rope(plan_, w.pass(in_)));
  return RADIX_OK;
}

// Rows of q that a launch of the plan's step needs.
int64_t Fuzzer::plan_rows(const radix_attn& d) const {
  if (d.cu_q_lens == nullptr) return d.num_seqs;
  if ((plan_config_.flags & RADIX_PLAN_BOUNDS) == 0) return d.cu_q_lens[d.num_seqs];
  return plan_config_.max_query_tokens != 0 ? plan_config_.max_query_tokens : plan_config_.max_seqs;
}

radix_status Fuzzer::plan_launch() {
  radix_attn d = {};
  d.struct_size = sizeof d;
  const radix_status st = radix_plan_attn(plan_, &d);
  if (st != RADIX_OK || d.num_seqs > 16) return st;
  const int64_t heads = in_.chance(10) ? int64_t{config_.num_kv_heads} * (1 + in_.below(3))
                                       : plan_config_.num_q_heads;
  const int64_t rows = plan_rows(d) - (in_.chance(6) ? 1 : 0);
  if (rows * heads * 96 > 28 * kBuffer) return RADIX_OK;
  d.layer = in_.below(config_.num_layers);
  d.window = in_.chance(20) ? in_.u32(5) : plan_config_.window;
  tensor(&d.q, RADIX_F32, {rows, heads, config_.head_dim});
  tensor(&d.out, RADIX_F32, {rows, heads, config_.head_dim_v});
  d.out.data = d.out.data == nullptr ? nullptr : floats_.data() + 32 * kBuffer;
  if (in_.chance(20)) d.context_lens = ints_;
  if (in_.chance(6)) d.flags ^= in_.below(8);
  return d.cu_q_lens != nullptr ? radix_prefill_launch(ctx_, &d, nullptr)
                                : radix_paged_attention_launch(ctx_, &d, nullptr);
}

}  // namespace radixattn::fuzz
