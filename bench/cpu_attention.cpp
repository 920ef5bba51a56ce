// Attention on the CPU against the limits of the machine, both measured in this run through the
// public C API.
//
//   decode    GB/s of K/V (each byte counted once) over the read bandwidth of the same memory
//   prefill   GFLOP/s (causal: only visible pairs counted) over the f32 FMA rate
//
// with as many threads. Shapes: 32 query heads, 8 KV heads, head dim 128, blocks of 16, NHD, K/V as
// named, f32 queries and outputs. Block tables are shuffled (the worst case of a pool). Rows named
//   .contiguous   have their blocks in order
//   .huge         have K/V on huge pages, as the library's own pool has, and are compared with
//                 reads from there
//   .bf16q        have bf16 queries and outputs: scores by the bf16 dot product
//   .bf16w        bf16 weights, too (RADIX_ATTN_BF16_WEIGHTS): all by the bf16 dot product, whose
//                 rate they are compared with
#include <algorithm>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "bench_util.h"
#include "cpu_probe.h"
#include "launch_util.h"
#include "radixattn.h"

namespace {

using bench::allocate;
using bench::check;
using bench::element_bytes;
using bench::fill_random;
using bench::Limit;
using bench::Limits;
using bench::Memory;
using bench::tensor;

constexpr uint32_t kQueryHeads = 32, kKvHeads = 8, kHeadDim = 128, kBlock = 16;
constexpr uint32_t kTokens =
    32768 * 8;  // of the largest case; every sequence has blocks of its own
constexpr uint32_t kPrefill = 2048;
constexpr uint32_t kMaxRepeats = 16;

radix_ctx* make_context(uint32_t threads) {
  radix_config c = {};
  c.struct_size = sizeof c;
  c.abi = RADIXATTN_ABI;
  c.kv_dtype = RADIX_F16;
  c.num_blocks = 1;  // launches here bring their own K/V
  c.block_size = kBlock;
  c.num_layers = 1;
  c.num_kv_heads = kKvHeads;
  c.head_dim = kHeadDim;
  c.num_threads = threads;
  radix_ctx* ctx = nullptr;
  check(radix_ctx_create(&c, &ctx), "radix_ctx_create");
  return ctx;
}

// One case with everything that it points to: short launches are repeated, each on blocks of its
// own, as an engine repeats them layer after layer (the first one also wakes the other threads).
struct Launch {
  std::string name;
  radix_ctx* ctx = nullptr;
  uint32_t threads = 1;
  bool prefill = false;
  Limit limit = Limit::kRead;
  uint32_t repeats = 1;
  double work = 0;            // bytes or FLOPs, of all repeats
  std::vector<float> q, out;  // bf16 queries and outputs take the first half
  std::vector<int32_t> table, lens, cu;
  Memory workspace;
  radix_attn attn = {};

  void run() const {
    radix_attn a = attn;
    for (uint32_t i = 0; i < repeats; ++i, a.block_tables += a.num_seqs * a.block_table_stride) {
      check(prefill ? radix_prefill_launch(ctx, &a, nullptr)
                    : radix_paged_attention_launch(ctx, &a, nullptr),
            name.c_str());
    }
  }
};

struct Kv {
  int32_t dtype;
  const char* dtype_name;
  char* k;
  char* v;
  bench::Pages pages = bench::Pages::kSmall;
};

// What a launch does; see the top of this file.
struct Case {
  uint32_t context = 4096, batch = 1;
  bool prefill = false, shuffled = true, bf16_queries = false, bf16_weights = false;
};

std::string name_of(const Kv& kv, const Case& c, uint32_t threads) {
  std::string name = std::string("cpu.") + (c.prefill ? "prefill." : "decode.") + kv.dtype_name;
  name += c.prefill ? "." + std::to_string(c.context)
                    : ".ctx" + std::to_string(c.context) + ".b" + std::to_string(c.batch);
  name += ".t" + std::to_string(threads);
  if (!c.shuffled) name += ".contiguous";
  if (kv.pages == bench::Pages::kHuge) name += ".huge";
  if (c.bf16_weights) return name + ".bf16w";
  return c.bf16_queries ? name + ".bf16q" : name;
}

std::unique_ptr<Launch> make_launch(const Kv& kv, const Case& c, radix_ctx* ctx, uint32_t threads) {
  auto l = std::make_unique<Launch>();
  const bool prefill = c.prefill;
  const uint32_t context = c.context, batch = c.batch;
  const uint32_t rows = prefill ? kPrefill : batch;
  const uint32_t num_blocks = kTokens / kBlock, row = context / kBlock;
  l->name = name_of(kv, c, threads);
  l->ctx = ctx;
  l->threads = threads;
  l->prefill = prefill;
  if (prefill) l->limit = c.bf16_weights ? Limit::kBf16Dot : Limit::kFma;
  if (!prefill) l->repeats = std::min(kMaxRepeats, kTokens / (context * batch));
  const double heads = prefill ? kQueryHeads : kKvHeads;
  l->work = prefill ? 4.0 * kHeadDim * heads * context * (context + 1.0) / 2
                    : 2.0 * kHeadDim * heads * context * batch * l->repeats *
                          static_cast<double>(element_bytes(kv.dtype));
  l->q.resize(uint64_t{rows} * kQueryHeads * kHeadDim);
  l->out.resize(l->q.size());
  std::mt19937 random(11);
  for (float& x : l->q) x = static_cast<float>(random() % 2001) / 1000.f - 1.f;
  const int32_t q_dtype = c.bf16_queries ? RADIX_BF16 : RADIX_F32;
  if (c.bf16_queries)
    fill_random(reinterpret_cast<char*>(l->q.data()), l->q.size() * 2, RADIX_BF16);
  l->table.resize(num_blocks);
  for (uint32_t i = 0; i < num_blocks; ++i) l->table[i] = static_cast<int32_t>(i);
  if (c.shuffled) std::shuffle(l->table.begin(), l->table.end(), random);
  l->lens.assign(batch, static_cast<int32_t>(context));
  l->cu = {0, static_cast<int32_t>(kPrefill)};

  radix_attn& a = l->attn;
  a.struct_size = sizeof a;
  if (c.bf16_weights) a.flags |= RADIX_ATTN_BF16_WEIGHTS;
  a.num_seqs = batch;
  a.max_context_len = context;
  a.max_query_len = prefill ? kPrefill : 1;
  a.kv_layout = RADIX_LAYOUT_NHD;
  a.q = tensor(l->q.data(), q_dtype, {rows, kQueryHeads, kHeadDim});
  a.out = tensor(l->out.data(), q_dtype, {rows, kQueryHeads, kHeadDim});
  a.k_cache = tensor(kv.k, kv.dtype, {num_blocks, kBlock, kKvHeads, kHeadDim});
  a.v_cache = tensor(kv.v, kv.dtype, {num_blocks, kBlock, kKvHeads, kHeadDim});
  a.block_tables = l->table.data();
  a.block_table_stride = row;
  a.context_lens = l->lens.data();
  a.cu_q_lens = prefill ? l->cu.data() : nullptr;
  check(radix_attn_workspace(ctx, &a, &a.workspace_size), "radix_attn_workspace");
  l->workspace = allocate(a.workspace_size);
  a.workspace = l->workspace.get();
  return l;
}

std::vector<Case> cases_of(const Kv& kv) {
  std::vector<Case> cases;
  for (const uint32_t context : {4096u, 32768u}) {
    for (const uint32_t batch : {1u, 8u}) cases.push_back({.context = context, .batch = batch});
  }
  if (kv.dtype != RADIX_F32) {
    cases.push_back({.context = 4096, .batch = 8, .shuffled = false});
    cases.push_back({.context = 32768, .batch = 1, .shuffled = false});
  }
  if (kv.dtype == RADIX_BF16) {
    for (const bool shuffled : {true, false}) {
      cases.push_back({.context = 32768, .shuffled = shuffled, .bf16_queries = true});
    }
  }
  if (kv.pages == bench::Pages::kHuge) return cases;
  const Case prefill = {.context = kPrefill, .prefill = true};
  cases.push_back(prefill);
  if (kv.dtype != RADIX_BF16) return cases;
  cases.push_back(prefill);
  cases.back().bf16_queries = true;
  if (!bench::has_bf16_dot()) return cases;
  cases.push_back(cases.back());
  cases.back().bf16_weights = true;
  return cases;
}

void bench_dtype(const Kv& kv, const std::vector<radix_ctx*>& contexts,
                 const bench::Options& options, bench::Report* out) {
  const auto max_threads = static_cast<uint32_t>(contexts.size());
  std::vector<std::unique_ptr<Launch>> launches;
  for (uint32_t threads = 1; threads <= max_threads; ++threads) {
    for (const Case& c : cases_of(kv)) {
      if (options.wants(name_of(kv, c, threads)))
        launches.push_back(make_launch(kv, c, contexts[threads - 1], threads));
    }
  }
  if (launches.empty()) return;
  const uint64_t half = uint64_t{kTokens} * kKvHeads * kHeadDim * element_bytes(kv.dtype);
  fill_random(kv.k, half, kv.dtype);
  fill_random(kv.v, half, kv.dtype);
  Limits limits;
  std::vector<bench::Case> cases;
  bench::add_limit_cases(kv.k, kv.v, half, max_threads, &limits, &cases);
  for (const auto& l : launches)
    cases.push_back({l->name, [launch = l.get()] { launch->run(); }, 0, 0, {}});
  bench::run_interleaved(cases, options.quick ? 3 : 11);
  bench::report(launches, cases, limits, max_threads, out);
}

}  // namespace

int main(int argc, char** argv) {
  const bench::Options options = bench::parse_options(argc, argv);
  const uint32_t max_threads = std::thread::hardware_concurrency() >= 2 ? 2 : 1;
  std::vector<radix_ctx*> contexts;
  for (uint32_t t = 1; t <= max_threads; ++t) contexts.push_back(make_context(t));
  bench::Report out;
  using bench::Pages;
  for (const Pages pages : {Pages::kSmall, Pages::kHuge}) {
    const bool all = !options.quick && pages == Pages::kSmall;
    const int32_t largest = all ? RADIX_F32 : RADIX_F16;
    const uint64_t half = uint64_t{kTokens} * kKvHeads * kHeadDim * element_bytes(largest);
    const Memory k = allocate(half, pages), v = allocate(half, pages);
    bench_dtype({RADIX_F16, "f16", k.get(), v.get(), pages}, contexts, options, &out);
    if (options.quick) continue;
    bench_dtype({RADIX_BF16, "bf16", k.get(), v.get(), pages}, contexts, options, &out);
    if (all) bench_dtype({RADIX_F32, "f32", k.get(), v.get(), pages}, contexts, options, &out);
  }
  for (radix_ctx*& ctx : contexts) radix_ctx_destroy(&ctx);
  return out.finish(options);
}
