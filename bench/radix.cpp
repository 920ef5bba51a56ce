// Radix attention on the CPU: launches with a plan that reads shared blocks once, against the same
// launches with a plan that does not (RADIX_PLAN_UNSHARED), both in this run, through the public C
// API.
//
//   radix.<dtype>.<sequences>x<shared>+<own>.t<threads>  one prefix under all sequences
//   radix.<dtype>.<sequences>x<a>/<b>/..+<own>.t<n>      several levels: a tokens under all, then b
//                                                        under each group of a half, a quarter ...
//                                                        (.by<k>: groups split k ways a level)
//     value: microseconds a launch; reference: the unshared plan's; ratio: reference / value
//   <name>.read   positions of K/V that the shared launch reads; reference: those that its
//   sequences
//                 see; ratio: the share not read
//   invariant.*   batch-invariant launches; reference: the same without; ratio: value / reference
//
// Decode, 32 query heads, 8 KV heads, head dim 128, blocks of 16 in random order, NHD, queries and
// outputs in K/V's dtype. Rows named .chunk have the shape of ChunkAttention's paper (32 KV heads),
// rows named .hydragen of Hydragen's (40 KV heads). .bf16w: RADIX_ATTN_BF16_WEIGHTS. .bounds: ours
// is a plan with RADIX_PLAN_BOUNDS. .q<n>: prefill of n new tokens each. Launches take turns on
// several layers' K/V, so that each finds it in memory, not in a cache.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "bench_util.h"
#include "launch_util.h"
#include "radixattn.h"

namespace {

using bench::allocate;
using bench::check;
using bench::Memory;
using bench::tensor;

constexpr uint32_t kBlock = 16, kHeadDim = 128;
// Short launches are repeated, on one layer after the other, until a sample takes about so long.
constexpr double kSampleNs = 20e6;
constexpr uint32_t kMostLaunches = 16;

struct Shape {
  const char* suffix = "";
  int32_t dtype = RADIX_BF16;
  uint32_t sequences = 64;
  std::vector<uint32_t> shared;  // tokens of each level, from the root
  uint32_t split = 2;            // groups of a level below the first, for each group above
  uint32_t own = 256;
  uint32_t query_len = 0;  // 0: decode
  uint32_t q_heads = 32, kv_heads = 8;
  uint32_t threads = 1;
  uint32_t flags = 0;       // RADIX_ATTN_*
  uint32_t plan_flags = 0;  // RADIX_PLAN_*, of ours
};

std::string name_of(const Shape& s) {
  std::string name = s.dtype == RADIX_BF16 ? "bf16." : s.dtype == RADIX_F16 ? "f16." : "f32.";
  name += std::to_string(s.sequences) + "x";
  if (s.shared.empty()) name += "0";
  for (size_t i = 0; i < s.shared.size(); ++i)
    name += (i == 0 ? "" : "/") + std::to_string(s.shared[i]);
  name += "+" + std::to_string(s.own);
  if (s.shared.size() > 1) name += ".by" + std::to_string(s.split);
  if (s.query_len != 0) name += ".q" + std::to_string(s.query_len);
  return name + s.suffix + ".t" + std::to_string(s.threads);
}

uint32_t context_of(const Shape& s) {
  uint32_t tokens = s.own;
  for (const uint32_t level : s.shared) tokens += level;
  return tokens;
}

uint32_t groups_of(const Shape& s, size_t level) {
  uint32_t groups = 1;
  for (size_t i = 0; i < level; ++i) groups *= s.split;
  return groups;
}

uint32_t blocks_of(const Shape& s) {
  uint32_t blocks = s.sequences * (s.own / kBlock);
  for (size_t i = 0; i < s.shared.size(); ++i) blocks += groups_of(s, i) * (s.shared[i] / kBlock);
  return blocks;
}

// Block tables [sequences, context / kBlock]; which block is which is a shuffle of the pool.
std::vector<int32_t> make_tables(const Shape& s) {
  std::vector<int32_t> pool(blocks_of(s));
  for (size_t i = 0; i < pool.size(); ++i) pool[i] = static_cast<int32_t>(i);
  std::mt19937 random(5);
  std::shuffle(pool.begin(), pool.end(), random);
  const uint32_t row = context_of(s) / kBlock;
  std::vector<int32_t> tables(uint64_t{s.sequences} * row);
  uint32_t next = 0, column = 0;
  const auto fill = [&](uint32_t groups, uint32_t blocks) {
    const uint32_t members = s.sequences / groups;
    for (uint32_t g = 0; g < groups; ++g) {
      for (uint32_t b = 0; b < blocks; ++b, ++next) {
        for (uint32_t m = 0; m < members; ++m)
          tables[uint64_t{g * members + m} * row + column + b] = pool[next];
      }
    }
    column += blocks;
  };
  for (size_t i = 0; i < s.shared.size(); ++i) fill(groups_of(s, i), s.shared[i] / kBlock);
  fill(s.sequences, s.own / kBlock);
  return tables;
}

radix_ctx* make_context(const Shape& s) {
  radix_config c = {};
  c.struct_size = sizeof c;
  c.abi = RADIXATTN_ABI;
  c.kv_dtype = s.dtype;
  c.num_blocks = 1;  // launches here bring their own K/V
  c.block_size = kBlock;
  c.num_layers = 1;
  c.num_kv_heads = s.kv_heads;
  c.head_dim = kHeadDim;
  c.num_threads = s.threads;
  radix_ctx* ctx = nullptr;
  check(radix_ctx_create(&c, &ctx), "radix_ctx_create");
  return ctx;
}

// K and V for as many layers as the memory holds, the same for every case; on huge pages, as the
// library's own pool.
struct Pool {
  Memory k, v;
  uint64_t half_bytes = 0;
};

// A shape with a plan of its own.
class Run {
 public:
  // lead: layers that this run is ahead, as a part of all.
  Run(const Shape& shape, uint32_t plan_flags, const Pool& pool, double lead)
      : shape_(shape), pool_(pool), ctx_(make_context(shape)), tables_(make_tables(shape)) {
    make_rows();
    make_plan(plan_flags);
    make_launch();
    turn_ = static_cast<uint64_t>(lead * static_cast<double>(layers_));
  }
  ~Run() {
    radix_plan_destroy(&plan_);
    radix_ctx_destroy(&ctx_);
  }
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  void run() {
    radix_attn a = attn_;
    a.k_cache = layer(pool_.k.get());
    a.v_cache = layer(pool_.v.get());
    turn_ = (turn_ + 1) % layers_;
    check(shape_.query_len != 0 ? radix_prefill_launch(ctx_, &a, nullptr)
                                : radix_paged_attention_launch(ctx_, &a, nullptr),
          "launch");
  }

  radix_plan_info info() const {
    radix_plan_info info = {};
    info.struct_size = sizeof info;
    check(radix_plan_get_info(plan_, &info), "radix_plan_get_info");
    return info;
  }

 private:
  uint64_t layer_bytes() const {
    return uint64_t{blocks_of(shape_)} * kBlock * shape_.kv_heads * kHeadDim *
           bench::element_bytes(shape_.dtype);
  }

  radix_tensor layer(char* base) const {
    return tensor(base + turn_ * layer_bytes(), shape_.dtype,
                  {blocks_of(shape_), kBlock, shape_.kv_heads, kHeadDim});
  }

  void make_rows() {
    const uint32_t each = shape_.query_len == 0 ? 1 : shape_.query_len;
    rows_ = shape_.sequences * each;
    const uint64_t bytes =
        uint64_t{rows_} * shape_.q_heads * kHeadDim * bench::element_bytes(shape_.dtype);
    q_ = allocate(bytes);
    out_ = allocate(bytes);
    bench::fill_random(q_.get(), bytes, shape_.dtype);
  }

  void make_plan(uint32_t flags) {
    const std::vector<int32_t> lens(shape_.sequences, static_cast<int32_t>(context_of(shape_)));
    const std::vector<int32_t> q_lens(shape_.sequences, static_cast<int32_t>(shape_.query_len));
    radix_plan_config c = {};
    c.struct_size = sizeof c;
    c.flags = flags;
    c.max_seqs = shape_.sequences;
    c.max_query_tokens = rows_;
    c.max_context_len = context_of(shape_);
    c.num_q_heads = shape_.q_heads;
    check(radix_plan_create(ctx_, &c, &plan_), "radix_plan_create");
    radix_plan_desc d = {};
    d.struct_size = sizeof d;
    d.num_seqs = shape_.sequences;
    d.q_lens = shape_.query_len != 0 ? q_lens.data() : nullptr;
    d.block_tables = tables_.data();
    d.block_table_stride = context_of(shape_) / kBlock;
    d.context_lens = lens.data();
    check(radix_plan_update(plan_, &d, nullptr), "radix_plan_update");
  }

  void make_launch() {
    attn_.struct_size = sizeof attn_;
    attn_.flags = shape_.flags;
    attn_.kv_layout = RADIX_LAYOUT_NHD;
    attn_.q = tensor(q_.get(), shape_.dtype, {rows_, shape_.q_heads, kHeadDim});
    attn_.out = tensor(out_.get(), shape_.dtype, {rows_, shape_.q_heads, kHeadDim});
    check(radix_plan_attn(plan_, &attn_), "radix_plan_attn");
    layers_ = std::max<uint64_t>(1, pool_.half_bytes / layer_bytes());
  }

  Shape shape_;
  const Pool& pool_;
  radix_ctx* ctx_ = nullptr;
  radix_plan* plan_ = nullptr;
  std::vector<int32_t> tables_;
  Memory q_, out_;
  uint32_t rows_ = 0;
  uint64_t layers_ = 1, turn_ = 0;
  radix_attn attn_ = {};
};

// Two ways of one shape, in turns. The second is half of the layers ahead: or else it would find in
// the processor's cache what the first has just read.
struct Comparison {
  std::string name;
  double ours_ns = 0, reference_ns = 0;
  radix_plan_info info = {};
};

Comparison compare(const Shape& shape, uint32_t ours, uint32_t reference, const Pool& pool,
                   int rounds) {
  Run a(shape, ours | shape.plan_flags, pool, 0), b(shape, reference, pool, 0.5);
  const double start = bench::now_ns();
  a.run();
  const auto launches = static_cast<uint32_t>(
      std::clamp(kSampleNs / (bench::now_ns() - start), 1., static_cast<double>(kMostLaunches)));
  const auto repeat = [launches](Run& run) {
    for (uint32_t i = 0; i < launches; ++i) run.run();
  };
  std::vector<bench::Case> cases;
  cases.push_back({"ours", [&] { repeat(a); }, 0, 0, {}});
  cases.push_back({"reference", [&] { repeat(b); }, 0, 0, {}});
  bench::run_interleaved(cases, rounds);
  return {name_of(shape), cases[0].median_ns / launches, cases[1].median_ns / launches, a.info()};
}

// Of f16: what is asked of it, and where sharing begins to pay.
std::vector<Shape> shapes_of(int32_t dtype, uint32_t threads, bool quick) {
  std::vector<Shape> shapes;
  const auto add = [&](Shape s) {
    s.dtype = dtype;
    s.threads = threads;
    shapes.push_back(s);
  };
  const uint32_t kWeights = RADIX_ATTN_BF16_WEIGHTS;
  add({.shared = {4096}});
  if (dtype == RADIX_BF16) add({.suffix = ".bf16w", .shared = {4096}, .flags = kWeights});
  add({.sequences = 2, .shared = {4096}});
  add({.shared = {}, .own = 1024});  // nothing is shared
  if (quick) return shapes;
  for (const uint32_t sequences : {4u, 5u, 6u, 8u, 16u, 256u})
    add({.sequences = sequences, .shared = {4096}});
  if (dtype == RADIX_F16) return shapes;
  // Nothing is shared, but such plans always have a list.
  const uint32_t kBounds = RADIX_PLAN_BOUNDS;
  add({.suffix = ".bounds", .shared = {}, .own = 1024, .plan_flags = kBounds});
  add({.suffix = ".bounds",
       .sequences = 8,
       .shared = {},
       .own = 512,
       .query_len = 512,
       .plan_flags = kBounds});
  add({.shared = {256}});
  for (const uint32_t prefix : {1024u, 2048u, 4096u})
    add({.suffix = ".chunk", .sequences = 32, .shared = {prefix}, .kv_heads = 32});
  for (const uint32_t prefix : {1024u, 16384u}) {
    add({.suffix = ".hydragen",
         .sequences = 128,
         .shared = {prefix},
         .own = 128,
         .q_heads = 40,
         .kv_heads = 40});
  }
  add({.shared = {1024, 2048}, .split = 8});
  add({.shared = {1024, 256, 256}, .split = 4, .own = 64});     // a tree of thoughts
  add({.shared = {512, 512, 512, 512, 512, 512}, .own = 256});  // deep
  add({.sequences = 8, .shared = {4096}, .own = 32, .query_len = 32});
  add({.sequences = 32, .shared = {4096}, .own = 16, .query_len = 16});
  return shapes;
}

std::vector<Shape> invariant_shapes(uint32_t threads, bool quick) {
  std::vector<Shape> shapes;
  const auto add = [&](Shape s) {
    s.threads = threads;
    shapes.push_back(s);
  };
  add({.sequences = 8, .shared = {}, .own = 4096});
  add({.shared = {4096}});
  if (quick) return shapes;
  add({.dtype = RADIX_F16, .sequences = 8, .shared = {}, .own = 4096});
  add({.dtype = RADIX_F16, .shared = {4096}});
  add({.sequences = 1, .shared = {}, .own = 32768});
  add({.sequences = 1, .shared = {}, .own = 2048, .query_len = 2048});
  return shapes;
}

void report_sharing(const Comparison& c, bench::Report* out) {
  const double seen = static_cast<double>(c.info.tokens_seen);
  const double read = static_cast<double>(c.info.tokens_read);
  out->add({"radix." + c.name, c.ours_ns / 1e3, "us", "unshared", c.reference_ns / 1e3,
            c.reference_ns / c.ours_ns});
  out->add({"radix." + c.name + ".read", read, "tokens", "seen", seen, 1 - read / seen});
}

}  // namespace

int main(int argc, char** argv) {
  const bench::Options options = bench::parse_options(argc, argv);
  const uint32_t max_threads = std::thread::hardware_concurrency() >= 2 ? 2 : 1;
  const int rounds = options.quick ? 5 : 11;
  Pool pool;
  pool.half_bytes = options.quick ? 256u << 20 : 1u << 30;
  pool.k = allocate(pool.half_bytes, bench::Pages::kHuge);
  pool.v = allocate(pool.half_bytes, bench::Pages::kHuge);
  bench::Report out;
  for (const int32_t dtype : {RADIX_BF16, RADIX_F16}) {
    bench::fill_random(pool.k.get(), pool.half_bytes, dtype);
    bench::fill_random(pool.v.get(), pool.half_bytes, dtype);
    for (uint32_t threads = 1; threads <= max_threads; ++threads) {
      for (const Shape& s : shapes_of(dtype, threads, options.quick)) {
        if (!options.wants("radix." + name_of(s))) continue;
        std::fprintf(stderr, "%s\n", name_of(s).c_str());
        report_sharing(compare(s, 0, RADIX_PLAN_UNSHARED, pool, rounds), &out);
      }
    }
  }
  for (uint32_t threads = 1; threads <= max_threads; ++threads) {
    for (const Shape& s : invariant_shapes(threads, options.quick)) {
      if (!options.wants("invariant." + name_of(s))) continue;
      bench::fill_random(pool.k.get(), pool.half_bytes, s.dtype);
      bench::fill_random(pool.v.get(), pool.half_bytes, s.dtype);
      const Comparison c = compare(s, RADIX_PLAN_BATCH_INVARIANT, 0, pool, rounds);
      out.add({"invariant." + c.name, c.ours_ns / 1e3, "us", "any order of sums",
               c.reference_ns / 1e3, c.ours_ns / c.reference_ns});
    }
  }
  return out.finish(options);
}
