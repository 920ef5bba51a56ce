// Many threads on one context, with results checked: every thread runs whole requests (begin,
// append, operations, K/V write, attention, commit, fork, truncate, free), and steps of a family of
// forks with a plan of its own, while another one evicts, matches, pins, checks and retires epochs.
//
//   threads_test SCENARIO [--seed S] [--rounds N]
//
// K/V carries the identity of its token: V of token p is a function of the tokens [0, p], and the
// query is zero, so attention gives the mean of V over the context. A block used too early, too
// late or by two gives another mean.
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <random>
#include <shared_mutex>
#include <string>
#include <thread>
#include <vector>

#include "radixattn.h"

namespace {

constexpr uint32_t kDim = 32, kThreads = 4, kQueryHeads = 2;
constexpr uint32_t kFamily = 3;  // a request and two forks of it: the sequences of a planned step

std::atomic<uint64_t> g_attended{0}, g_hits{0}, g_copies{0}, g_no_blocks{0}, g_evicted{0};
std::atomic<uint64_t> g_steps{0}, g_shared_steps{0};

[[noreturn]] void failed(const char* what, radix_status st) {
  char text[512];
  radix_last_error(text, sizeof text);
  std::fprintf(stderr, "%s: %s: %s\n", what, radix_status_name(st), text);
  std::abort();
}
void ok(radix_status st, const char* what) {
  if (st != RADIX_OK) failed(what, st);
}

uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// Element i of V for the token whose prefix has this hash.
float v_of(uint64_t hash, uint32_t i) { return static_cast<float>(mix(hash + i) >> 40) * 0x1p-24f; }

struct FreeDeleter {
  void operator()(void* p) const { std::free(p); }
};
struct PlanDeleter {
  void operator()(radix_plan* p) const { radix_plan_destroy(&p); }
};

using Tokens = std::vector<radix_token>;

radix_tensor tensor(void* data, std::initializer_list<int64_t> shape) {
  radix_tensor t{};
  t.data = data;
  t.dtype = RADIX_F32;
  t.ndim = static_cast<int32_t>(shape.size());
  size_t i = 0;
  for (int64_t n : shape) t.shape[i++] = n;
  return t;
}

struct Setup {
  uint32_t flags = 0, num_threads = 0, num_blocks = 96, block_size = 4;
  uint32_t prompt_blocks = 3;  // of the system prompts that requests share
  const radix_executor* executor = nullptr;
};

class Context {
 public:
  explicit Context(const Setup& s) : setup(s) {
    radix_config c{};
    c.struct_size = sizeof c;
    c.abi = RADIXATTN_ABI;
    c.flags = s.flags;
    c.kv_dtype = RADIX_F32;
    c.num_blocks = s.num_blocks;
    c.block_size = s.block_size;
    c.num_layers = 1;
    c.num_kv_heads = 1;
    c.head_dim = kDim;
    c.max_requests = 64;
    c.num_threads = s.num_threads;
    c.executor = s.executor;
    ok(radix_ctx_create(&c, &ctx), "create");
  }
  ~Context() { radix_ctx_destroy(&ctx); }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  Setup setup;
  radix_ctx* ctx = nullptr;
  // The source of a COPY is given up by the append, so nothing may be written to blocks of later
  // appends before the copy has run: without fences a thread holds `copies` from append to run_ops.
  std::mutex copies;
  // With DEFER_FREE the fence does that; an epoch is retired when no launch of it runs, which is
  // what `launches` says.
  std::shared_mutex launches;
};

// One thread's view: runs requests and checks what attention returns.
class Worker {
 public:
  Worker(Context& c, uint64_t seed)
      : context_(c), ctx_(c.ctx), block_size_(c.setup.block_size), random_(seed) {
    radix_plan_config p{};
    p.struct_size = sizeof p;
    p.flags = seed % 2 == 0 ? RADIX_PLAN_BATCH_INVARIANT : 0;
    p.max_seqs = kFamily;
    p.num_q_heads = kQueryHeads;
    radix_plan* plan = nullptr;
    ok(radix_plan_create(ctx_, &p, &plan), "plan_create");
    plan_.reset(plan);
  }

  // One request from begin to free.
  void round() {
    Tokens prompt = make_prompt();
    radix_request_desc d{};
    d.struct_size = sizeof d;
    d.flags = random_() % 3 == 0 ? RADIX_BEGIN_REMAP_DUPLICATES : 0;
    d.tokens = prompt.data();
    d.num_tokens = prompt.size();
    radix_match m{};
    m.struct_size = sizeof m;
    radix_req r = 0;
    ok(radix_begin_request(ctx_, &d, &r, &m), "begin");
    if (m.cached_tokens > 0) ++g_hits;
    Tokens tokens(prompt.begin(), prompt.begin() + static_cast<int64_t>(m.cached_tokens));
    const Tokens rest(prompt.begin() + static_cast<int64_t>(m.cached_tokens), prompt.end());
    if (extend(r, tokens, rest)) {
      attend(r, tokens);
      commit(r, tokens.size());
      attend(r, tokens);
      decode(r, tokens);
      fork(r, tokens);
      cut(r, tokens);
    }
    ok(radix_free_request(ctx_, r, random_() % 8 == 0 ? RADIX_FREE_DISCARD : 0), "free");
    if (radix_free_request(ctx_, r, 0) != RADIX_E_STALE) failed("a second free", RADIX_OK);
  }

 private:
  Tokens make_prompt() {
    Tokens t;
    const auto system = static_cast<radix_token>(random_() % 3);
    for (uint32_t i = 0; i < context_.setup.prompt_blocks * block_size_ + 1; ++i)
      t.push_back(system * 100 + static_cast<radix_token>(i % 7));
    for (uint64_t n = 1 + random_() % (2 * block_size_); n > 0; --n)
      t.push_back(static_cast<radix_token>(random_() % 2));
    return t;
  }

  // Slots, copies and K/V for `more`; false when there are no blocks (others hold them).
  bool extend(radix_req r, Tokens& tokens, const Tokens& more) {
    std::vector<int64_t> slots(more.size());
    radix_op op{};
    radix_append item{r, more.data(), static_cast<uint32_t>(more.size()), 0};
    radix_append_out out{};
    out.struct_size = sizeof out;
    out.slots = slots.data();
    out.slots_cap = slots.size();
    out.ops = &op;
    out.ops_cap = 1;
    const bool fenced = (context_.setup.flags & RADIX_CTX_DEFER_FREE) != 0;
    std::shared_lock<std::shared_mutex> launch(context_.launches);
    std::unique_lock<std::mutex> step(context_.copies, std::defer_lock);
    if (!fenced) step.lock();
    const radix_status st = radix_append_slot(ctx_, &item, 1, &out);
    if (st == RADIX_E_NO_BLOCKS) {
      if (out.short_blocks == 0) failed("NO_BLOCKS without a shortfall", st);
      ++g_no_blocks;
      return false;
    }
    ok(st, "append");
    g_evicted += out.evicted_blocks;
    g_copies += out.num_ops;
    ok(radix_run_ops(ctx_, &op, out.num_ops, nullptr), "run_ops");
    if (!fenced) step.unlock();
    const size_t old_length = tokens.size();
    tokens.insert(tokens.end(), more.begin(), more.end());
    write(tokens, old_length, slots);
    return true;
  }

  std::vector<uint64_t> hashes(const Tokens& tokens) const {
    std::vector<uint64_t> h;
    uint64_t x = 1;
    for (radix_token t : tokens) h.push_back(x = mix(x * 31 + static_cast<uint64_t>(t) + 1));
    return h;
  }

  void write(const Tokens& tokens, size_t from, const std::vector<int64_t>& slots) {
    const std::vector<uint64_t> h = hashes(tokens);
    const auto n = static_cast<int64_t>(slots.size());
    std::vector<float> k(slots.size() * kDim, 1.0f), v(slots.size() * kDim);
    for (size_t i = 0; i < v.size(); ++i)
      v[i] = v_of(h[from + i / kDim], static_cast<uint32_t>(i % kDim));
    radix_rope_append d{};
    d.struct_size = sizeof d;
    d.k = tensor(k.data(), {n, 1, kDim});
    d.v = tensor(v.data(), {n, 1, kDim});
    d.slots = slots.data();
    d.num_tokens = slots.size();
    ok(radix_rope_append_launch(ctx_, &d, nullptr), "rope_append");
  }

  // Attention over the whole context gives the mean of V of exactly these tokens.
  void attend(radix_req r, const Tokens& tokens) {
    if (tokens.empty()) return;
    std::vector<int32_t> row(256);
    int32_t length = 0;
    ok(radix_get_block_tables(ctx_, &r, 1, row.data(), static_cast<int64_t>(row.size()), &length,
                              nullptr),
       "tables");
    if (static_cast<size_t>(length) != tokens.size()) failed("context length", RADIX_OK);
    std::vector<float> q(kQueryHeads * kDim, 0.0f), out(kQueryHeads * kDim, NAN);
    const bool prefill = random_() % 2 == 0;
    const int32_t cu[2] = {0, 1};
    radix_attn d{};
    d.struct_size = sizeof d;
    d.num_seqs = 1;
    d.max_context_len = static_cast<uint32_t>(length);
    d.max_query_len = 1;
    d.q = tensor(q.data(), {1, kQueryHeads, kDim});
    d.out = tensor(out.data(), {1, kQueryHeads, kDim});
    d.block_tables = row.data();
    d.block_table_stride = static_cast<int64_t>(row.size());
    d.context_lens = &length;
    d.cu_q_lens = prefill ? cu : nullptr;
    ok(radix_attn_workspace(ctx_, &d, &d.workspace_size), "workspace");
    const std::unique_ptr<void, FreeDeleter> workspace(
        std::aligned_alloc(64, (d.workspace_size + 127) / 64 * 64));
    d.workspace = workspace.get();
    ok((prefill ? radix_prefill_launch : radix_paged_attention_launch)(ctx_, &d, nullptr),
       "attention");
    compare(tokens, out.data());
    ++g_attended;
  }

  // A decode step of a family, planned from their ids: what they share is read once where that
  // pays.
  void attend_together(const radix_req (&reqs)[kFamily], const Tokens (&tokens)[kFamily]) {
    radix_plan_desc step{};
    step.struct_size = sizeof step;
    step.num_seqs = kFamily;
    step.reqs = reqs;
    ok(radix_plan_update(plan_.get(), &step, nullptr), "plan_update");
    radix_plan_info info{};
    info.struct_size = sizeof info;
    ok(radix_plan_get_info(plan_.get(), &info), "plan_get_info");
    uint64_t seen = 0;
    for (const Tokens& t : tokens) seen += t.size();
    if (info.tokens_seen != seen) failed("the plan's tokens", RADIX_OK);
    std::vector<float> q(kFamily * kQueryHeads * kDim, 0.0f), out(q.size(), NAN);
    radix_attn d{};
    d.struct_size = sizeof d;
    d.q = tensor(q.data(), {kFamily, kQueryHeads, kDim});
    d.out = tensor(out.data(), {kFamily, kQueryHeads, kDim});
    ok(radix_plan_attn(plan_.get(), &d), "plan_attn");
    ok(radix_paged_attention_launch(ctx_, &d, nullptr), "planned attention");
    for (uint32_t i = 0; i < kFamily; ++i)
      compare(tokens[i], &out[i * static_cast<size_t>(kQueryHeads * kDim)]);
    ++g_steps;
    if (info.tokens_read < info.tokens_seen) ++g_shared_steps;
  }

  // One row of all query heads.
  void compare(const Tokens& tokens, const float* out) {
    const std::vector<uint64_t> h = hashes(tokens);
    for (uint32_t i = 0; i < kQueryHeads * kDim; ++i) {
      double mean = 0;
      for (uint64_t x : h) mean += static_cast<double>(v_of(x, i % kDim));
      mean /= static_cast<double>(h.size());
      if (std::fabs(static_cast<double>(out[i]) - mean) < 1e-5) continue;
      std::fprintf(stderr, "attention over %zu tokens gives %g at %u, expected %g\n", h.size(),
                   static_cast<double>(out[i]), i, mean);
      std::abort();
    }
  }

  void commit(radix_req r, size_t n) {
    radix_commit_item item{r, n};
    std::vector<radix_remap> remaps(n / block_size_ + 1);
    radix_commit_out out{};
    out.struct_size = sizeof out;
    out.remaps = remaps.data();
    out.remaps_cap = static_cast<uint32_t>(remaps.size());
    ok(radix_commit(ctx_, &item, 1, &out), "commit");
  }

  void decode(radix_req r, Tokens& tokens) {
    for (uint64_t n = random_() % 6; n > 0; --n) {
      if (!extend(r, tokens, {static_cast<radix_token>(random_() % 2)})) return;
      attend(r, tokens);
      if (random_() % 3 == 0) commit(r, tokens.size());
    }
  }

  // Two children that go their own ways from a block they share.
  void fork(radix_req r, const Tokens& tokens) {
    if (random_() % 3 != 0) return;
    radix_req children[2] = {};
    ok(radix_fork(ctx_, r, 2, children), "fork");
    Tokens family[kFamily] = {tokens, tokens, tokens};
    for (radix_token t = 0; t < 2; ++t) {
      Tokens& own = family[1 + t];
      if (extend(children[t], own, {t, t, t})) attend(children[t], own);
      attend(r, tokens);
      if (random_() % 2 == 0) commit(children[t], own.size());
      attend_together({r, children[0], children[1]}, family);
    }
    for (radix_req c : children) ok(radix_free_request(ctx_, c, 0), "free of a child");
  }

  void cut(radix_req r, Tokens& tokens) {
    if (random_() % 3 != 0) return;
    tokens.resize(1 + random_() % tokens.size());
    ok(radix_truncate(ctx_, r, tokens.size()), "truncate");
    attend(r, tokens);
    if (extend(r, tokens, {5, 6})) attend(r, tokens);
  }

  Context& context_;
  radix_ctx* ctx_;
  uint32_t block_size_;
  std::unique_ptr<radix_plan, PlanDeleter> plan_;
  std::mt19937_64 random_;
};

int64_t RADIX_CALL count_bytes(void* user, const void*, uint64_t len) {
  *static_cast<uint64_t*>(user) += len;
  return static_cast<int64_t>(len);
}

// What a scheduler does beside the requests, until told to stop.
void housekeeping(Context& c, uint64_t seed, const std::atomic<bool>& stop) {
  std::mt19937_64 random(seed);
  const bool defers = (c.setup.flags & RADIX_CTX_DEFER_FREE) != 0;
  Tokens t;
  for (int i = 0; i < 12; ++i) t.push_back(i % 7);
  radix_request_desc d{};
  d.struct_size = sizeof d;
  d.tokens = t.data();
  d.num_tokens = t.size();
  while (!stop.load(std::memory_order_relaxed)) {
    radix_match m{};
    m.struct_size = sizeof m;
    radix_pin pin = 0;
    radix_stats s{};
    s.struct_size = sizeof s;
    uint32_t n = 0;
    uint64_t shared = 0, bytes = 0;
    ok(radix_match_prefix(c.ctx, &d, &m), "match");
    ok(radix_pin_prefix(c.ctx, &d, &pin, &m), "pin");
    ok(radix_find_shared(c.ctx, &d, nullptr, 0, &n, &shared), "find_shared");
    ok(radix_evict(c.ctx, RADIX_NS_ALL, static_cast<uint32_t>(random() % 3), &n), "evict");
    ok(radix_sharing_graph(c.ctx, count_bytes, &bytes, static_cast<int32_t>(random() % 3)),
       "sharing_graph");
    ok(radix_unpin(c.ctx, pin), "unpin");
    ok(radix_check(c.ctx), "check");
    ok(radix_get_stats(c.ctx, &s), "stats");
    if (s.blocks_free + s.blocks_cached + s.blocks_active + s.blocks_deferred != s.blocks_total)
      failed("blocks lost", 0);
    if (defers) {
      radix_epoch e = 0;
      ok(radix_epoch_begin(c.ctx, &e), "epoch_begin");
      const std::unique_lock<std::shared_mutex> no_launches(c.launches);
      ok(radix_epoch_retire(c.ctx, e - 1), "epoch_retire");
    }
    std::this_thread::yield();
  }
}

void check_quiet(Context& c) {
  ok(radix_check(c.ctx), "check at the end");
  radix_stats s{};
  s.struct_size = sizeof s;
  ok(radix_get_stats(c.ctx, &s), "stats");
  if (s.requests_live != 0 || s.pins_live != 0 || s.blocks_active != 0)
    failed("something is still held", RADIX_OK);
}

// kThreads workers over all contexts (each worker visits them in turn), one housekeeper for each
// context.
void run(const std::vector<Setup>& setups, uint64_t seed, uint32_t rounds) {
  std::vector<std::unique_ptr<Context>> contexts;
  for (const Setup& s : setups) contexts.push_back(std::make_unique<Context>(s));
  std::atomic<bool> stop{false};
  std::vector<std::thread> workers, keepers;
  for (uint32_t i = 0; i < kThreads; ++i) {
    workers.emplace_back([&, i] {
      std::vector<Worker> own;
      for (const auto& c : contexts) own.emplace_back(*c, seed * 100 + i);
      for (uint32_t k = 0; k < rounds; ++k) own[k % own.size()].round();
    });
  }
  for (const auto& c : contexts) keepers.emplace_back([&] { housekeeping(*c, seed, stop); });
  for (std::thread& t : workers) t.join();
  stop = true;
  for (std::thread& t : keepers) t.join();
  for (const auto& c : contexts) check_quiet(*c);
}

// An executor of the host's: three threads for every call, tasks in steps of three.
void RADIX_CALL on_three_threads(void*, uint32_t n, radix_task_fn task, void* arg) {
  std::vector<std::thread> threads;
  for (uint32_t t = 0; t < 3; ++t)
    threads.emplace_back([=] {
      for (uint32_t i = t; i < n; i += 3) task(arg, i);
    });
  for (std::thread& t : threads) t.join();
}

bool run_scenario(const std::string& name, uint64_t seed, uint32_t rounds) {
  Setup plain, tight, defer, pool, host, shared;
  tight.num_blocks = 28;
  defer.flags = RADIX_CTX_DEFER_FREE | RADIX_CTX_PREALLOCATE;
  pool.num_threads = 3;
  radix_executor executor{};
  executor.struct_size = sizeof executor;
  executor.max_workers = 3;
  executor.parallel_for = on_three_threads;
  host.executor = &executor;
  shared.prompt_blocks = 200;  // long enough for plans to read them once
  shared.num_blocks = 2000;
  shared.num_threads = 2;
  if (name == "one_context")
    run({plain}, seed, rounds);
  else if (name == "tight_pool")
    run({tight}, seed, rounds);
  else if (name == "defer_free")
    run({defer}, seed, rounds);
  else if (name == "two_contexts")
    run({plain, defer}, seed, rounds);
  else if (name == "built_in_pool")
    run({pool}, seed, rounds);
  else if (name == "two_pools")
    run({pool, pool}, seed, rounds);
  else if (name == "host_executor")
    run({host}, seed, rounds / 4 + 1);
  else if (name == "shared_prompt")
    run({shared}, seed, rounds / 4 + 1);
  else
    return false;
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  uint64_t seed = 1, rounds = 300;
  for (int i = 2; i + 1 < argc; i += 2)
    (std::strcmp(argv[i], "--seed") == 0 ? seed : rounds) = std::strtoull(argv[i + 1], nullptr, 10);
  if (argc < 2 || !run_scenario(argv[1], seed, static_cast<uint32_t>(rounds))) {
    std::fprintf(
        stderr,
        "threads_test "
        "one_context|tight_pool|defer_free|two_contexts|built_in_pool|two_pools|host_executor|"
        "shared_prompt [--seed S] [--rounds N]\n");
    return 2;
  }
  std::printf(
      "seed %llu: %llu attentions, %llu planned steps (%llu read shared keys once), %llu hits, "
      "%llu copies, %llu evicted, %llu times no blocks\n",
      static_cast<unsigned long long>(seed), static_cast<unsigned long long>(g_attended),
      static_cast<unsigned long long>(g_steps), static_cast<unsigned long long>(g_shared_steps),
      static_cast<unsigned long long>(g_hits), static_cast<unsigned long long>(g_copies),
      static_cast<unsigned long long>(g_evicted), static_cast<unsigned long long>(g_no_blocks));
  // A run that met none of these has not tested them.
  const bool tight = std::strcmp(argv[1], "tight_pool") == 0;
  const bool shared = std::strcmp(argv[1], "shared_prompt") == 0;
  if (g_attended == 0 || g_hits == 0 || g_copies == 0 || (tight && g_evicted == 0) ||
      g_steps == 0 || (shared && g_shared_steps == 0)) {
    std::fprintf(stderr, "a run without hits, copies, attention or a plan that shares\n");
    return 1;
  }
  return 0;
}
