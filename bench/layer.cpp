// The attention layer on the CPU against the limits of the machine, both measured in this run
// through the public C API.
//
//   decode    GB/s of weights (each byte counted once) over the read bandwidth of as many threads
//   prefill   GFLOP/s of products and visible pairs over the f32 FMA rate of as many threads
//
// A layer is four products with 2048 x 2048 matrices (16 heads of 128, as many KV heads), without
// norm, bias or rotation; x, y f32, weights as named. Decode's sequences have one token, so that
// attention is next to nothing; prefill is one prompt. Launches take turns on layers whose weights
// together are beyond every cache.
#include <algorithm>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "bench_util.h"
#include "cpu_probe.h"
#include "launch_util.h"
#include "radixattn.h"

namespace {

using bench::check;

constexpr uint32_t kHidden = 2048, kHeads = 16, kHeadDim = 128, kBlock = 16;
constexpr uint32_t kPrompt = 512;
constexpr uint64_t kElements = 4 * uint64_t{kHidden} * kHidden;  // weights of a layer
constexpr uint64_t kWeightBytes = uint64_t{512} << 20;           // of all layers

radix_ctx* make_context(uint32_t threads) {
  radix_config c = {};
  c.struct_size = sizeof c;
  c.abi = RADIXATTN_ABI;
  c.kv_dtype = RADIX_F16;
  c.num_blocks = kPrompt / kBlock;
  c.block_size = kBlock;
  c.num_layers = 1;
  c.num_kv_heads = kHeads;
  c.head_dim = kHeadDim;
  c.num_threads = threads;
  radix_ctx* ctx = nullptr;
  check(radix_ctx_create(&c, &ctx), "radix_ctx_create");
  return ctx;
}

struct Weights {
  int32_t dtype;
  const char* name;
  char* data;
  uint32_t layers() const {
    return static_cast<uint32_t>(kWeightBytes / (kElements * bench::element_bytes(dtype)));
  }
};

// One case with everything that it points to.
struct Launch {
  std::string name;
  radix_ctx* ctx = nullptr;
  uint32_t threads = 1, rows = 1, repeats = 1;
  bool prefill = false;
  bench::Limit limit = bench::Limit::kRead;
  double work = 0;  // bytes or FLOPs, of all repeats
  Weights weights = {};
  std::vector<float> x, y;
  std::vector<int32_t> table, lens, cu;
  std::vector<int64_t> slots;
  radix_attn attn = {};
  radix_rope_append rope = {};
  radix_layer layer = {};
  bench::Memory workspace;

  void set_weights(uint32_t index) {
    const uint64_t bytes = kElements / 4 * bench::element_bytes(weights.dtype);
    char* at = weights.data + 4 * bytes * index;
    for (radix_tensor* w : {&layer.w_q, &layer.w_k, &layer.w_v, &layer.w_o}) {
      *w = bench::tensor(at, weights.dtype, {kHidden, kHidden});
      at += bytes;
    }
  }
  void run() {
    for (uint32_t i = 0; i < repeats; ++i) {
      set_weights(i % weights.layers());
      check(radix_layer_launch(ctx, &layer, nullptr), name.c_str());
    }
  }
};

void describe_rows(Launch* l) {
  const uint32_t rows = l->rows;
  for (uint32_t r = 0; r < rows; ++r) {
    l->slots.push_back(l->prefill ? r : r * kBlock);
    if (!l->prefill) l->table.push_back(static_cast<int32_t>(r));
  }
  for (uint32_t b = 0; l->prefill && b < kPrompt / kBlock; ++b)
    l->table.push_back(static_cast<int32_t>(b));
  l->lens.assign(l->prefill ? 1 : rows, l->prefill ? static_cast<int32_t>(rows) : 1);
  l->cu = {0, static_cast<int32_t>(rows)};
  l->rope.struct_size = sizeof l->rope;
  l->rope.slots = l->slots.data();
  l->rope.num_tokens = rows;
  radix_attn& a = l->attn;
  a.struct_size = sizeof a;
  a.num_seqs = static_cast<uint32_t>(l->lens.size());
  a.max_context_len = static_cast<uint32_t>(l->lens[0]);
  a.max_query_len = l->prefill ? rows : 1;
  a.block_tables = l->table.data();
  a.block_table_stride = l->prefill ? kPrompt / kBlock : 1;
  a.context_lens = l->lens.data();
  a.cu_q_lens = l->prefill ? l->cu.data() : nullptr;
}

std::unique_ptr<Launch> make_launch(const Weights& weights, radix_ctx* ctx, uint32_t threads,
                                    uint32_t rows) {
  auto l = std::make_unique<Launch>();
  l->ctx = ctx;
  l->threads = threads;
  l->rows = rows;
  l->prefill = rows == kPrompt;
  if (l->prefill) l->limit = bench::Limit::kFma;
  l->weights = weights;
  l->repeats = l->prefill ? 1 : weights.layers();
  l->name = std::string("cpu.layer.") + (l->prefill ? "prefill." : "decode.") + weights.name +
            ".rows" + std::to_string(rows) + ".t" + std::to_string(threads);
  const double attention = 4.0 * kHeadDim * kHeads * rows * (rows + 1.0) / 2;
  l->work = l->prefill
                ? 2.0 * rows * kElements + attention
                : static_cast<double>(kElements * bench::element_bytes(weights.dtype)) * l->repeats;
  l->x.assign(uint64_t{rows} * kHidden, 0.f);
  bench::fill_random(reinterpret_cast<char*>(l->x.data()), l->x.size() * 4, RADIX_F32);
  l->y.resize(l->x.size());
  describe_rows(l.get());
  radix_layer& d = l->layer;
  d.struct_size = sizeof d;
  d.num_q_heads = kHeads;
  d.x = bench::tensor(l->x.data(), RADIX_F32, {rows, kHidden});
  d.y = bench::tensor(l->y.data(), RADIX_F32, {rows, kHidden});
  l->set_weights(0);
  (l->prefill ? d.prefill : d.decode) = &l->attn;
  (l->prefill ? d.prefill_rope : d.decode_rope) = &l->rope;
  check(radix_layer_workspace(ctx, &d, &d.workspace_size), "radix_layer_workspace");
  l->workspace = bench::allocate(d.workspace_size);
  d.workspace = l->workspace.get();
  return l;
}

void bench_weights(const Weights& weights, const std::vector<radix_ctx*>& contexts,
                   const bench::Options& options, bench::Report* out) {
  bench::fill_random(weights.data, kWeightBytes, weights.dtype);
  const auto max_threads = static_cast<uint32_t>(contexts.size());
  bench::Limits limits;
  std::vector<bench::Case> cases;
  bench::add_limit_cases(weights.data, weights.data + kWeightBytes / 2, kWeightBytes / 2,
                         max_threads, &limits, &cases);
  std::vector<std::unique_ptr<Launch>> launches;
  for (uint32_t threads = 1; threads <= max_threads; ++threads) {
    for (const uint32_t rows : {1u, 4u, 8u, 32u, kPrompt})
      launches.push_back(make_launch(weights, contexts[threads - 1], threads, rows));
  }
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
    const bench::Memory memory = bench::allocate(kWeightBytes);
    bench_weights({RADIX_F32, "f32", memory.get()}, contexts, options, &out);
    bench_weights({RADIX_BF16, "bf16", memory.get()}, contexts, options, &out);
    if (!options.quick) {
      bench_weights({RADIX_F16, "f16", memory.get()}, contexts, options, &out);
    }
  }
  for (radix_ctx*& ctx : contexts) radix_ctx_destroy(&ctx);
  return out.finish(options);
}
