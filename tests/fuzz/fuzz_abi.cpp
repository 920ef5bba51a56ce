// The whole C API under hostile arguments: wrong sizes, unknown flags, stale and made-up ids, NULL
// for what must not be NULL, lengths beyond everything. Nothing may crash, every status is a known
// one, and the context stays whole (radix_check).
//
// The entry is libFuzzer's; driver.cpp calls it with seeded random bytes where libFuzzer is not at
// hand. What no library can check (that a buffer is as long as the caller says) is always true
// here.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "fuzz_input.h"
#include "radixattn.h"

namespace radixattn::fuzz {
namespace {

constexpr uint32_t kBuffer = 4096;  // elements of every array that is passed

[[noreturn]] void broken(const char* what, radix_status st) {
  char text[512];
  radix_last_error(text, sizeof text);
  std::fprintf(stderr, "%s: %s: %s\n", what, radix_status_name(st), text);
  std::abort();
}

class Fuzzer {
 public:
  Fuzzer(const uint8_t* data, size_t size)
      : in_(data, size), tokens_(kBuffer), floats_(size_t{128} * kBuffer) {}
  ~Fuzzer() {
    radix_plan_destroy(&plan_);
    radix_ctx_destroy(&ctx_);
  }
  Fuzzer(const Fuzzer&) = delete;
  Fuzzer& operator=(const Fuzzer&) = delete;

  void run() {
    if (!create()) return;
    for (int calls = 0; !in_.empty() && calls < 400; ++calls) {
      const bool control = in_.below(8) < 6;
      known(control ? control_call() : data_call());
      const radix_status st = radix_check(ctx_);
      if (st != RADIX_OK) broken("radix_check", st);
    }
  }

 private:
  static void known(radix_status st) {
    const bool listed = (st <= RADIX_OK && st >= RADIX_E_FULL);
    if (!listed) broken("a call gave a status that it may not give", st);
  }

  bool create();
  radix_status control_call();
  radix_status request_call();
  radix_status data_call();
  radix_status attention(bool prefill);
  radix_status rope_append();
  radix_status merge();
  void small_tree(radix_tree_view* t);
  radix_status plan_make();
  radix_status plan_update();
  radix_status plan_use();
  radix_status export_tree();
  radix_status match_batch();
  void sampling(radix_sample* d, uint32_t rows, uint32_t vocab);
  radix_status sample();
  radix_status verify();
  radix_status append();
  radix_status commit();
  radix_status tables();
  radix_status begin_like(uint32_t which);

  uint64_t id(const std::vector<uint64_t>& from) {
    if (from.empty() || in_.chance(8)) return in_.u64(3);
    const uint64_t x = from[in_.below(static_cast<uint32_t>(from.size()))];
    return in_.chance(4) ? x ^ (uint64_t{1} << in_.below(64)) : x;
  }
  uint64_t space() { return in_.chance(160) ? 0 : in_.chance(30) ? RADIX_NS_ALL : id(spaces_); }
  void remember(std::vector<uint64_t>& into, uint64_t id) {
    if (into.size() < 32)
      into.push_back(id);
    else
      into[in_.below(32)] = id;
  }
  template <class T>
  T* pass(T* p) {
    return in_.chance(4) ? nullptr : p;
  }
  radix_token* tokens() {
    const uint32_t from = in_.below(4), alphabet = 1 + in_.below(3);
    for (uint32_t i = 0; i < 64; ++i)
      tokens_[i] = static_cast<radix_token>((i * from + i / 7) % alphabet);
    if (in_.chance(128)) tokens_[in_.below(64)] = in_.i32(5);
    return pass(tokens_.data());
  }
  // A count for an array of `room` elements: a NULL array may come with any.
  uint64_t count(const void* array, uint32_t usual, uint32_t room) {
    const uint64_t n = in_.u64(usual);
    return array == nullptr ? n : n <= room ? n : n % (room + 1);
  }
  void tensor(radix_tensor* t, int32_t dtype, std::initializer_list<int64_t> shape);

  FuzzInput in_;
  radix_ctx* ctx_ = nullptr;
  radix_plan* plan_ = nullptr;
  radix_config config_{};
  std::vector<uint64_t> requests_, pins_, spaces_;
  std::vector<radix_token> tokens_;
  std::vector<float> floats_;
  int32_t ints_[kBuffer] = {};
  int64_t longs_[kBuffer] = {};
  uint64_t words_[kBuffer] = {};
  radix_op ops_[64] = {};
  int32_t tree_[6][4 * kBuffer] = {};  // a radix_tree_view's arrays, as the last export left them
};

bool Fuzzer::create() {
  Sized<radix_config> c(in_);
  c->abi = in_.chance(4) ? in_.u32(3) : RADIXATTN_ABI;
  c->flags = in_.below(16) | (in_.chance(6) ? in_.u32(64) : 0);
  c->device = in_.chance(6) ? in_.i32(4) : 0;
  c->kv_dtype = in_.chance(8) ? in_.i32(10) : static_cast<int32_t>(in_.below(4));
  c->num_blocks = 1 + in_.below(24);
  c->block_size = in_.chance(8) ? in_.u32(300) % 300 : 1 + in_.below(4);
  const bool bare = (c->flags & RADIX_CTX_METADATA_ONLY) != 0 && in_.chance(128);
  c->num_layers = bare ? 0 : 1 + in_.below(2);
  c->num_kv_heads = bare ? 0 : 1 + in_.below(2);
  c->head_dim = bare ? 0 : in_.chance(8) ? in_.u32(64) % 300 : 32 + 8 * in_.below(3);
  c->head_dim_v = in_.chance(200) ? 0 : 32;
  c->max_requests = in_.below(7);
  c->max_blocks_per_request = in_.below(26);
  c->max_pins = in_.below(4);
  c->max_namespaces = in_.below(4);
  c->kv_layout = in_.chance(6) ? in_.i32(3) : static_cast<int32_t>(in_.below(2));
  c->evict_policy = in_.chance(6) ? in_.i32(5) : static_cast<int32_t>(in_.below(4));
  c->cpu_target = in_.chance(6) ? in_.i32(6) : 0;
  c->num_threads = in_.chance(20) ? 2 : 0;
  c->memory_budget = in_.chance(10) ? in_.u64(10000) % 100000 : 0;
  Sized<radix_config> resolved(in_);
  uint64_t bytes = 0;
  known(radix_ctx_kv_bytes(c.pass(in_), &bytes));
  known(radix_ctx_create(c.pass(in_), &ctx_));
  if (ctx_ == nullptr) return false;
  known(radix_ctx_get_config(ctx_, resolved.pass(in_)));
  config_.struct_size = sizeof config_;
  const radix_status st = radix_ctx_get_config(ctx_, &config_);
  if (st != RADIX_OK) broken("radix_ctx_get_config", st);
  return true;
}

radix_status Fuzzer::begin_like(uint32_t which) {
  Sized<radix_request_desc> d(in_);
  Sized<radix_match> m(in_);
  d->flags = which == 0      ? in_.below(16) | (in_.chance(6) ? in_.u32(64) : 0)
             : in_.chance(6) ? in_.u32(16)
                             : 0;
  d->ns = space();
  d->extra_key = in_.below(2);
  d->tokens = tokens();
  d->num_tokens = count(d->tokens, 40, 64);
  m->blocks = pass(ints_);
  m->blocks_cap = static_cast<uint32_t>(count(m->blocks, 20, kBuffer));
  uint64_t made = 0;
  radix_status st = RADIX_OK;
  switch (which) {
    case 0:
      st = radix_begin_request(ctx_, d.pass(in_), pass(&made), m.pass(in_));
      if (st == RADIX_OK) remember(requests_, made);
      return st;
    case 1:
      return radix_match_prefix(ctx_, d.pass(in_), m.pass(in_));
    case 2:
      return radix_peek_prefix(ctx_, d.pass(in_), m.pass(in_));
    case 3:
      st = radix_pin_prefix(ctx_, d.pass(in_), pass(&made), m.pass(in_));
      if (st == RADIX_OK) remember(pins_, made);
      return st;
    default: {
      uint32_t n = 0;
      uint64_t* out = pass(words_);
      const auto cap = static_cast<uint32_t>(count(out, 8, kBuffer));
      return radix_find_shared(ctx_, d.pass(in_), out, cap, pass(&n), pass(&made));
    }
  }
}

radix_status Fuzzer::append() {
  radix_append items[8] = {};
  for (radix_append& a : items) {
    a.req = id(requests_);
    a.tokens = in_.chance(200) ? tokens() : nullptr;
    a.num_tokens = static_cast<uint32_t>(count(a.tokens, 9, 64));
    a.reserved0 = in_.chance(2) ? in_.u32(3) : 0;
  }
  Sized<radix_append_out> out(in_);
  out->flags = in_.chance(100) ? 1u : in_.chance(6) ? in_.u32(8) : 0u;  // 1: APPEND_PARTIAL
  out->slots = in_.chance(200) ? longs_ : nullptr;
  out->slots_cap = count(out->slots, 600, kBuffer);
  out->ops = in_.chance(240) ? ops_ : nullptr;
  out->ops_cap = static_cast<uint32_t>(count(out->ops, 8, 64));
  radix_append* p = pass(items);
  return radix_append_slot(ctx_, p, static_cast<uint32_t>(count(p, 4, 8)), out.pass(in_));
}

radix_status Fuzzer::commit() {
  radix_commit_item items[8] = {};
  for (radix_commit_item& i : items) i = {id(requests_), in_.u64(30)};
  radix_remap remaps[64];
  Sized<radix_commit_out> out(in_);
  out->remaps = pass(remaps);
  out->remaps_cap = static_cast<uint32_t>(count(out->remaps, 64, 64));
  radix_commit_item* p = pass(items);
  const auto n = static_cast<uint32_t>(count(p, 3, 8));
  return radix_commit(ctx_, p, n, in_.chance(40) ? nullptr : out.pass(in_));
}

radix_status Fuzzer::tables() {
  for (int i = 0; i < 8; ++i) words_[i] = id(requests_);
  uint64_t versions[8] = {};
  for (uint64_t& v : versions) v = in_.u64(20);
  const uint64_t* reqs = pass(words_);
  const auto n = static_cast<uint32_t>(count(reqs, 4, 8));
  const int64_t stride = in_.chance(6)   ? -1
                         : in_.chance(6) ? static_cast<int64_t>(in_.bits(8) % 500)
                                         : in_.below(40);
  return radix_get_block_tables(ctx_, reqs, n, pass(ints_), stride,
                                in_.chance(40) ? nullptr : ints_ + kBuffer - 8,
                                in_.chance(80) ? nullptr : versions);
}

int64_t RADIX_CALL sink(void* user, const void* buf, uint64_t len) {
  auto& left = *static_cast<uint64_t*>(user);
  if (len > 0 && static_cast<const char*>(buf)[len - 1] == '\1') return -1;
  if (len > left) return -1;
  left -= len;
  return static_cast<int64_t>(len);
}

radix_status Fuzzer::request_call() {
  const uint64_t r = id(requests_);
  uint64_t n = 0;
  switch (in_.below(6)) {
    case 0: {
      radix_token* t = tokens();
      return radix_set_tokens(ctx_, r, in_.u64(10), t, count(t, 8, 64));
    }
    case 1: {
      radix_token* out = pass(tokens_.data());
      return radix_get_tokens(ctx_, r, out, count(out, 64, kBuffer), pass(&n));
    }
    case 2: {
      uint64_t* out = pass(words_);
      const auto children = static_cast<uint32_t>(count(out, 3, 16));
      const radix_status st = radix_fork(ctx_, r, children, out);
      if (st == RADIX_OK && out != nullptr)
        for (uint32_t i = 0; i < children; ++i) remember(requests_, out[i]);
      return st;
    }
    case 3:
      return radix_truncate(ctx_, r, in_.u64(20));
    case 4:
      return radix_free_request(ctx_, r, in_.chance(20) ? in_.u32(4) : in_.below(2));
    default: {
      Sized<radix_request_info> info(in_);
      return radix_get_request(ctx_, r, info.pass(in_));
    }
  }
}

radix_status Fuzzer::control_call() {
  uint32_t freed = 0;
  uint64_t made = 0, room = 0;
  switch (in_.below(26)) {
    case 0:
    case 1:
    case 2:
    case 3:
      return begin_like(0);
    case 4:
      return begin_like(1 + in_.below(2));
    case 5:
      return begin_like(3);
    case 6:
      return begin_like(4);
    case 7:
    case 8:
    case 9:
    case 10:
      return append();
    case 11:
    case 12:
    case 13:
      return commit();
    case 14:
      return tables();
    case 15:
      return radix_unpin(ctx_, id(pins_));
    case 16:
      return radix_evict(ctx_, space(), in_.u32(9), pass(&freed));
    case 17: {
      if (in_.chance(128)) return radix_clear(ctx_, space());
      if (in_.chance(128)) return radix_ns_destroy(ctx_, space());
      const char* name = pass(reinterpret_cast<const char*>(tokens_.data()));
      const radix_status st =
          radix_ns_create(ctx_, name, count(name, 20, 200), in_.u32(12), pass(&made));
      if (st == RADIX_OK) remember(spaces_, made);
      return st;
    }
    case 18: {
      Sized<radix_ns_info> info(in_);
      return radix_ns_get_info(ctx_, space(), info.pass(in_));
    }
    case 19: {
      if (in_.chance(128)) return radix_epoch_begin(ctx_, pass(&made));
      return radix_epoch_retire(ctx_, in_.u64(6));
    }
    case 20: {
      Sized<radix_stats> s(in_);
      return radix_get_stats(ctx_, s.pass(in_));
    }
    case 21:
      room = in_.u64(2000);
      return radix_sharing_graph(ctx_, in_.chance(6) ? nullptr : sink, &room,
                                 in_.chance(12) ? in_.i32(5) : in_.i32(2) % 3);
    case 22:
      return export_tree();
    default:
      return request_call();
  }
}

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
  if (radix_sample_workspace(ctx_, d.get(), &bytes) != RADIX_OK || bytes > (1u << 22)) bytes = 1024;
  const std::unique_ptr<void, void (*)(void*)> memory(std::aligned_alloc(64, bytes / 64 * 64 + 64),
                                                      std::free);
  d->workspace = pass(static_cast<char*>(memory.get()) + (in_.chance(6) ? 4 : 0));
  d->workspace_size = in_.chance(10) ? bytes / 2 : bytes;
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
  if (radix_verify_workspace(ctx_, d.get(), &bytes) != RADIX_OK || bytes > (1u << 22)) bytes = 1024;
  const std::unique_ptr<void, void (*)(void*)> memory(std::aligned_alloc(64, bytes / 64 * 64 + 64),
                                                      std::free);
  d->workspace = pass(static_cast<char*>(memory.get()) + (in_.chance(6) ? 4 : 0));
  d->workspace_size = in_.chance(10) ? bytes / 2 : bytes;
  return radix_verify_launch(ctx_, d.pass(in_), nullptr);
}

void Fuzzer::tensor(radix_tensor* t, int32_t dtype, std::initializer_list<int64_t> shape) {
  t->data = in_.chance(6) ? nullptr : floats_.data() + (in_.chance(128) ? 0 : 16 * kBuffer);
  t->dtype = in_.chance(8) ? in_.i32(10) : dtype;
  t->device = in_.chance(4) ? in_.i32(4) : 0;
  t->device_index = in_.chance(4) ? in_.i32(2) : 0;
  t->ndim = in_.chance(4) ? in_.i32(6) : static_cast<int32_t>(shape.size());
  size_t i = 0;
  for (int64_t n : shape) {
    // A head count has no upper bound to be checked against, so it stays within the buffer.
    const int64_t odd = i == 1 ? in_.below(65) : static_cast<int64_t>(in_.u64(64));
    t->shape[i++] = in_.chance(5) ? odd : n;
  }
  if (!in_.chance(40)) return;
  for (size_t k = 0; k < shape.size(); ++k)
    t->stride[k] = k + 1 == shape.size() ? 1 : int64_t{in_.below(513)};
}

radix_status Fuzzer::attention(bool prefill) {
  Sized<radix_attn> d(in_);
  const uint32_t seqs = in_.below(4);
  const int64_t dim = config_.head_dim, heads = int64_t{config_.num_kv_heads} * (1 + in_.below(3));
  auto after = [&](int32_t x, uint32_t most) {
    return x > 1000 ? x : x + static_cast<int32_t>(in_.below(most));
  };
  int32_t cu[8] = {}, lens[8] = {}, begin[8] = {};
  for (uint32_t i = 0; i < 7; ++i) {
    lens[i] = in_.chance(10) ? in_.i32(100) : static_cast<int32_t>(in_.below(12));
    cu[i + 1] = in_.chance(6) ? in_.i32(20) : after(cu[i], 4);
    begin[i + 1] = in_.chance(6) ? in_.i32(20) : after(begin[i], 12);
  }
  for (uint32_t i = 0; i < 512; ++i)
    ints_[i] = static_cast<int32_t>(i % (config_.num_blocks + (in_.chance(1) ? 1 : 0)));
  d->flags = in_.chance(5) ? in_.u32(3) : 0;
  d->layer = in_.u32(1);
  d->num_seqs = in_.chance(5) ? in_.u32(6) % 7 : seqs;
  d->max_context_len = in_.chance(10) ? in_.u32(20) : 12;
  d->max_query_len = prefill ? in_.u32(4) : in_.below(2);
  d->window = in_.u32(5);
  d->scale = in_.f32();
  d->softcap = in_.f32();
  const int64_t rows = prefill ? cu[seqs] : seqs;
  tensor(&d->q, config_.kv_dtype, {rows, heads, dim});
  tensor(&d->out, RADIX_F32, {rows, heads, config_.head_dim_v});
  d->out.data = d->out.data == nullptr ? nullptr : floats_.data() + 32 * kBuffer;
  if (in_.chance(128)) {
    tensor(&d->lse, RADIX_F32, {rows, heads});
    d->lse.data = d->lse.data == nullptr ? nullptr : floats_.data() + 60 * kBuffer;
  }
  if (in_.chance(200)) {
    d->block_tables = ints_;
    d->block_table_stride =
        in_.chance(6) ? int64_t{in_.below(500)} - 1 : 12 + int64_t{in_.below(40)};
  } else {
    d->block_begin = begin;
    d->block_ids = pass(ints_);
  }
  d->context_lens = pass(lens);
  if (prefill != in_.chance(3)) d->cu_q_lens = cu;
  std::vector<float> slopes(64, 0.5f);
  if (in_.chance(60)) d->alibi_slopes = slopes.data();
  if (in_.chance(60)) d->sinks = slopes.data();
  if (in_.chance(prefill ? 30 : 3)) {
    d->tree_mask = reinterpret_cast<const uint8_t*>(floats_.data());
    d->tree_mask_stride = in_.chance(20) ? int64_t{in_.below(4)} - 1 : 4 + int64_t{in_.below(9)};
  }
  uint64_t bytes = 0;
  if (radix_attn_workspace(ctx_, d.get(), &bytes) != RADIX_OK || bytes > (1u << 22)) bytes = 1024;
  std::unique_ptr<void, void (*)(void*)> memory(std::aligned_alloc(64, (bytes + 127) / 64 * 64),
                                                std::free);
  d->workspace = pass(static_cast<char*>(memory.get()) + (in_.chance(6) ? 4 : 0));
  d->workspace_size = in_.chance(10) ? bytes / 2 : bytes;
  return prefill ? radix_prefill_launch(ctx_, d.pass(in_), nullptr)
                 : radix_paged_attention_launch(ctx_, d.pass(in_), nullptr);
}

radix_status Fuzzer::rope_append() {
  Sized<radix_rope_append> d(in_);
  const int64_t n = in_.below(6), heads = config_.num_kv_heads;
  for (int i = 0; i < 8; ++i) {
    longs_[i] = in_.chance(20) ? static_cast<int64_t>(in_.u64(2000))
                               : in_.below(config_.num_blocks * config_.block_size);
    ints_[i] = in_.chance(10) ? in_.i32(3) : static_cast<int32_t>(in_.below(2000));
  }
  d->layer = in_.u32(1);
  d->rotary_dim = in_.chance(20) ? in_.u32(64) : 2 * in_.below(16);
  d->style = in_.chance(6) ? in_.i32(3) : static_cast<int32_t>(in_.below(2));
  d->scaling = in_.chance(6) ? in_.i32(5) : static_cast<int32_t>(in_.below(4));
  d->theta = in_.f32();
  d->scale = in_.f32();
  d->low_freq_factor = in_.f32();
  d->high_freq_factor = in_.f32();
  d->original_max_position = in_.u32(4096);
  if (in_.chance(128)) tensor(&d->q, RADIX_F32, {n, 2 * heads, config_.head_dim});
  if (d->q.data != nullptr) d->q.data = floats_.data() + 40 * kBuffer;
  tensor(&d->k, RADIX_F32, {n, heads, config_.head_dim});
  tensor(&d->v, RADIX_F32, {n, heads, config_.head_dim_v});
  d->slots = pass(longs_);
  d->positions = pass(ints_);
  d->num_tokens = in_.chance(6) ? in_.u64(8) % 9 : static_cast<uint64_t>(n);
  return radix_rope_append_launch(ctx_, d.pass(in_), nullptr);
}

radix_status Fuzzer::merge() {
  const int64_t rows = in_.below(5), heads = in_.below(4), dim = 32 + 8 * in_.below(3);
  const uint32_t n = in_.chance(200) ? 1 + in_.below(4) : in_.u32(32);
  std::vector<radix_tensor> outs(33), lses(33);
  for (uint32_t i = 0; i < 5; ++i) {
    tensor(&outs[i], in_.chance(128) ? RADIX_F32 : RADIX_F16, {rows, heads, dim});
    tensor(&lses[i], RADIX_F32, {rows, heads});
  }
  radix_tensor out = {}, lse = {};
  tensor(&out, RADIX_F32, {rows, heads, dim});
  if (out.data != nullptr && in_.chance(200)) out.data = floats_.data() + 60 * kBuffer;
  tensor(&lse, RADIX_F32, {rows, heads});
  if (lse.data != nullptr && in_.chance(200)) lse.data = floats_.data() + 100 * kBuffer;
  return radix_merge_states_launch(ctx_, pass(outs.data()), pass(lses.data()), n, pass(&out),
                                   pass(&lse), nullptr);
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
  radix_attn d = {};
  d.struct_size = sizeof d;
  radix_status st = radix_plan_attn(plan_, &d);
  if (st != RADIX_OK || d.num_seqs > 16) return st;
  const int64_t heads = int64_t{config_.num_kv_heads} * (1 + in_.below(3));
  const int64_t rows = d.cu_q_lens != nullptr ? d.cu_q_lens[d.num_seqs] : int64_t{d.num_seqs};
  if (rows * heads * 96 > 28 * kBuffer) return RADIX_OK;
  d.layer = in_.below(config_.num_layers);
  d.window = in_.u32(5);
  tensor(&d.q, RADIX_F32, {rows, heads, config_.head_dim});
  tensor(&d.out, RADIX_F32, {rows, heads, config_.head_dim_v});
  d.out.data = d.out.data == nullptr ? nullptr : floats_.data() + 32 * kBuffer;
  if (in_.chance(20)) d.context_lens = ints_;
  return d.cu_q_lens != nullptr ? radix_prefill_launch(ctx_, &d, nullptr)
                                : radix_paged_attention_launch(ctx_, &d, nullptr);
}

radix_status Fuzzer::data_call() {
  for (int i = 0; i < 16; ++i)
    ints_[i] = in_.chance(8) ? in_.i32(40) : static_cast<int32_t>(in_.below(config_.num_blocks));
  int32_t* blocks = pass(ints_);
  uint64_t bytes = 0;
  const auto n = static_cast<uint32_t>(count(blocks, 3, 8));
  switch (in_.below(15)) {
    case 0: {
      for (radix_op& o : ops_)
        o = {in_.chance(4) ? in_.i32(3) : RADIX_OP_COPY, ints_[in_.below(16)], ints_[in_.below(16)],
             in_.u32(4)};
      radix_op* ops = pass(ops_);
      return radix_run_ops(ctx_, ops, static_cast<uint32_t>(count(ops, 3, 64)), nullptr);
    }
    case 1:
      return radix_copy_blocks(ctx_, blocks, n, nullptr);
    case 2:
    case 3: {
      if (radix_swap_bytes(ctx_, n, &bytes) != RADIX_OK || bytes > floats_.size() * sizeof(float))
        return RADIX_OK;
      const uint64_t len = in_.chance(20) ? in_.below(static_cast<uint32_t>(bytes) + 1) : bytes;
      return in_.chance(128) ? radix_swap_out(ctx_, blocks, n, pass(floats_.data()), len, nullptr)
                             : radix_swap_in(ctx_, blocks, n, pass(floats_.data()), len, nullptr);
    }
    case 4: {
      radix_tensor k, v;
      return radix_ctx_kv_tensor(ctx_, in_.u32(2), pass(&k), pass(&v));
    }
    case 5:
      return rope_append();
    case 6:
      return attention(true);
    case 7:
      return merge();
    case 8:
      return in_.chance(128) ? radix_zero_blocks(ctx_, blocks, n, nullptr) : plan_make();
    case 9:
      return plan_update();
    case 10:
      return plan_use();
    case 11:
      return attention(false);
    case 12:
      return sample();
    case 13:
      return verify();
    default:
      return match_batch();
  }
}

}  // namespace
}  // namespace radixattn::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto fuzzer = std::make_unique<radixattn::fuzz::Fuzzer>(data, size);
  fuzzer->run();
  return 0;
}
