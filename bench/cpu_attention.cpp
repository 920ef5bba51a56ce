// Attention on the CPU against the limits of the machine, both measured in this run through the
// public C API.
//
//   decode    GB/s of K/V (each byte counted once) over the read bandwidth of the same memory with
//   as many threads prefill   GFLOP/s (causal: only visible pairs counted) over the f32 FMA rate of
//   as many threads
//
// Shapes: 32 query heads, 8 KV heads, head dim 128, blocks of 16, NHD, K/V as named, f32 queries
// and outputs (bf16 ones in rows named .bf16q). Block tables are shuffled (the worst case of a
// pool); rows named .contiguous have their blocks in order.
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
};

std::unique_ptr<Launch> make_launch(const Kv& kv, radix_ctx* ctx, uint32_t threads,
                                    uint32_t context, uint32_t batch, bool prefill, bool shuffled,
                                    bool bf16_queries = false) {
  auto l = std::make_unique<Launch>();
  const uint32_t rows = prefill ? kPrefill : batch;
  const uint32_t num_blocks = kTokens / kBlock, row = context / kBlock;
  l->name = std::string("cpu.") + (prefill ? "prefill." : "decode.") + kv.dtype_name;
  l->name += prefill ? "." + std::to_string(context)
                     : ".ctx" + std::to_string(context) + ".b" + std::to_string(batch);
  l->name += ".t" + std::to_string(threads) + (shuffled ? "" : ".contiguous");
  if (bf16_queries) l->name += ".bf16q";
  l->ctx = ctx;
  l->threads = threads;
  l->prefill = prefill;
  if (!prefill) l->repeats = std::min(kMaxRepeats, kTokens / (context * batch));
  const double heads = prefill ? kQueryHeads : kKvHeads;
  l->work = prefill ? 4.0 * kHeadDim * heads * context * (context + 1.0) / 2
                    : 2.0 * kHeadDim * heads * context * batch * l->repeats *
                          static_cast<double>(element_bytes(kv.dtype));
  l->q.resize(uint64_t{rows} * kQueryHeads * kHeadDim);
  l->out.resize(l->q.size());
  std::mt19937 random(11);
  for (float& x : l->q) x = static_cast<float>(random() % 2001) / 1000.f - 1.f;
  const int32_t q_dtype = bf16_queries ? RADIX_BF16 : RADIX_F32;
  if (bf16_queries) fill_random(reinterpret_cast<char*>(l->q.data()), l->q.size() * 2, RADIX_BF16);
  l->table.resize(num_blocks);
  for (uint32_t i = 0; i < num_blocks; ++i) l->table[i] = static_cast<int32_t>(i);
  if (shuffled) std::shuffle(l->table.begin(), l->table.end(), random);
  l->lens.assign(batch, static_cast<int32_t>(context));
  l->cu = {0, static_cast<int32_t>(kPrefill)};

  radix_attn& a = l->attn;
  a.struct_size = sizeof a;
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

void bench_dtype(const Kv& kv, const std::vector<radix_ctx*>& contexts,
                 const bench::Options& options, bench::Report* out) {
  const uint64_t half = uint64_t{kTokens} * kKvHeads * kHeadDim * element_bytes(kv.dtype);
  fill_random(kv.k, half, kv.dtype);
  fill_random(kv.v, half, kv.dtype);
  const auto max_threads = static_cast<uint32_t>(contexts.size());
  Limits limits;
  std::vector<bench::Case> cases;
  bench::add_limit_cases(kv.k, kv.v, half, max_threads, &limits, &cases);
  std::vector<std::unique_ptr<Launch>> launches;
  for (uint32_t threads = 1; threads <= max_threads; ++threads) {
    const auto add = [&](uint32_t context, uint32_t batch, bool prefill, bool shuffled) {
      launches.push_back(
          make_launch(kv, contexts[threads - 1], threads, context, batch, prefill, shuffled));
    };
    for (const uint32_t context : {4096u, 32768u}) {
      for (const uint32_t batch : {1u, 8u}) add(context, batch, false, true);
    }
    if (kv.dtype == RADIX_F16) add(4096, 8, false, false);
    if (kv.dtype == RADIX_F16) add(32768, 1, false, false);
    add(kPrefill, 1, true, true);
    if (kv.dtype == RADIX_BF16) {
      launches.push_back(
          make_launch(kv, contexts[threads - 1], threads, kPrefill, 1, true, true, true));
    }
  }
  std::erase_if(launches, [&](const auto& l) { return !options.wants(l->name); });
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
  {
    const uint64_t half = uint64_t{kTokens} * kKvHeads * kHeadDim * element_bytes(RADIX_F32);
    const Memory k = allocate(half), v = allocate(half);
    bench_dtype({RADIX_F16, "f16", k.get(), v.get()}, contexts, options, &out);
    if (!options.quick) {
      bench_dtype({RADIX_BF16, "bf16", k.get(), v.get()}, contexts, options, &out);
      bench_dtype({RADIX_F32, "f32", k.get(), v.get()}, contexts, options, &out);
    }
  }
  for (radix_ctx*& ctx : contexts) radix_ctx_destroy(&ctx);
  return out.finish(options);
}
