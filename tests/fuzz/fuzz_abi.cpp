// The C API under hostile arguments (all of it but K/V tensors of the caller's, gemm callbacks and
// functions without arguments): wrong sizes, unknown flags, stale and made-up ids, NULL for what
// must not be NULL, lengths beyond everything. Nothing may crash, every status is a known one, and
// the context stays whole (radix_check).
//
// The entry is libFuzzer's; driver.cpp calls it with seeded random bytes where libFuzzer is not at
// hand. What no library can check (that a buffer is as long as the caller says) is always true
// here.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "fuzzer.h"

namespace radixattn::fuzz {

void broken(const char* what, radix_status st) {
  char text[512];
  radix_last_error(text, sizeof text);
  std::fprintf(stderr, "%s: %s: %s\n", what, radix_status_name(st), text);
  std::abort();
}

void Fuzzer::run() {
  if (!create()) return;
  for (int calls = 0; !in_.empty() && calls < 400; ++calls) {
    const bool control = in_.below(8) < 6;
    known(control ? control_call() : data_call());
    const radix_status st = radix_check(ctx_);
    if (st != RADIX_OK) broken("radix_check", st);
  }
}

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

namespace {

int64_t RADIX_CALL sink(void* user, const void* buf, uint64_t len) {
  auto& left = *static_cast<uint64_t*>(user);
  if (len > 0 && static_cast<const char*>(buf)[len - 1] == '\1') return -1;
  if (len > left) return -1;
  left -= len;
  return static_cast<int64_t>(len);
}

}  // namespace

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
  switch (in_.below(27)) {
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
    case 23:
      return library_call();
    default:
      return request_call();
  }
}

// What needs no context.
radix_status Fuzzer::library_call() {
  char text[600];
  int32_t devices = 0;
  char* buf = pass(text);
  const size_t cap = buf == nullptr ? 0 : in_.below(sizeof text);
  const size_t length = radix_last_error(buf, cap);
  if (cap > 0 && std::strlen(buf) != std::min(length, cap - 1)) broken("radix_last_error", 0);
  if (radix_status_name(in_.i32(30)) == nullptr) broken("radix_status_name", 0);
  constexpr const char* kNames[] = {"radix_config", "radix_attn", "radix", ""};
  (void)radix_struct_size(pass(kNames[in_.below(4)]));
  (void)radix_error_detail();
  return radix_device_count(in_.i32(4), pass(&devices));
}

}  // namespace radixattn::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto fuzzer = std::make_unique<radixattn::fuzz::Fuzzer>(data, size);
  fuzzer->run();
  return 0;
}
