// A whole attention layer through the public API on CUDA against the same call on the CPU: two
// sequences that decode, two prompts of which one is behind cached tokens; or, with plans, all four
// behind one long beginning.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <deque>
#include <memory>
#include <vector>

#include "cuda/cublas_lt.h"
#include "device_fixture.h"
#include "numbers.h"
#include "plan_support.h"

namespace radixattn::test {
namespace {

constexpr uint32_t kHidden = 48, kHeads = 4, kKv = 2, kDim = 32, kBlock = 4;
constexpr uint32_t kLayerIndex = 1;

struct Options {
  int32_t dtype = RADIX_F32;
  bool fused = true, bias = true, norm = true, head_norms = true;
  uint32_t flags = 0;
  bool in_place = false;
  bool decode = true, prefill = true;
  bool plans = false;
  uint32_t plan_flags = 0;
};

struct Output {
  std::vector<double> y;      // [rows, kHidden]
  std::vector<double> cache;  // K, then V, of the layer
};

// A layer's arrays where its context lives, and its descriptors.
class DeviceLayer : public Device {
 protected:
  static constexpr uint32_t kRows = 11, kDecode = 2;
  // Context lengths, new tokens included, of decode's sequences, then of prefill's.
  std::vector<int32_t> lens_ = {9, 6, 6, 10};
  const std::vector<int32_t> cu_ = {0, 6, 9};  // of prefill
  uint32_t num_blocks_ = 16, stride_ = 4, max_context_ = 12;
  std::vector<int32_t> tables_ = {5, 3, 11, -1, 7, 2, -1, -1, 14, 0, -1, -1, 9, 12, 1, -1};

  void SetUp() override {
    Device::SetUp();
#ifndef RADIX_REAL_DEVICE
    device::settings.capability = 80;  // whose products have a smaller workspace
#endif
  }

  template <class T>
  const T* place(const std::vector<T>& host) {
    if (cuda_) return up(host);
    hosts_.emplace_back(host.size() * sizeof(T) + 64);
    std::memcpy(hosts_.back().data(), host.data(), host.size() * sizeof(T));
    return reinterpret_cast<T*>(hosts_.back().data());
  }
  // Random numbers of the layer's dtype; each row has `gap` more elements, NaN.
  radix_tensor numbers(uint32_t seed, int64_t rows, int64_t columns, int64_t gap = 0,
                       float scale = 1.f) {
    const int64_t stride = columns + gap;
    Bytes bytes(static_cast<size_t>(rows * stride) * bytes_of(dtype_), 0xff);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns; ++c) {
        put(&bytes, dtype_, static_cast<size_t>(r * stride + c),
            scale * api_test::value(seed, static_cast<uint32_t>(r * columns + c)));
      }
    }
    auto* data = const_cast<uint8_t*>(place(bytes));
    return rows == 1 ? tensor(data, dtype_, {columns})
                     : tensor(data, dtype_, {rows, columns}, {stride, 1});
  }

  radix_attn attention(uint32_t first, uint32_t num, bool prefill) {
    radix_attn a = sized<radix_attn>();
    a.layer = kLayerIndex;
    a.num_seqs = num;
    a.max_context_len = max_context_;
    a.max_query_len = prefill ? 6 : 1;
    a.block_table_stride = stride_;
    a.block_tables = place(std::vector<int32_t>(tables_.begin() + stride_ * first,
                                                tables_.begin() + stride_ * (first + num)));
    a.context_lens =
        place(std::vector<int32_t>(lens_.begin() + first, lens_.begin() + first + num));
    if (prefill) a.cu_q_lens = place(cu_);
    return a;
  }

  radix_rope_append rope(uint32_t first, uint32_t num, bool prefill) {
    std::vector<int64_t> slots;
    std::vector<int32_t> positions;
    for (uint32_t s = 0; s < num; ++s) {
      const auto seq = static_cast<size_t>(first + s);
      const int32_t q_len = prefill ? cu_[s + 1] - cu_[s] : 1;
      for (int32_t p = lens_[seq] - q_len; p < lens_[seq]; ++p) {
        const auto block = tables_[stride_ * seq + static_cast<size_t>(p) / kBlock];
        slots.push_back(block * int64_t{kBlock} + p % kBlock);
        positions.push_back(p);
      }
    }
    radix_rope_append r = sized<radix_rope_append>();
    r.layer = kLayerIndex;
    r.rotary_dim = kDim;
    r.num_tokens = slots.size();
    r.slots = place(slots);
    r.positions = place(positions);
    return r;
  }

  // Behind the first 600 tokens of one sequence, which have K/V already.
  void put_behind_a_beginning() {
    constexpr int32_t kShared = 150;  // blocks
    const std::vector<int32_t> tables = tables_;
    tables_.clear();
    for (size_t s = 0; s < 4; ++s) {
      for (int32_t b = 0; b < kShared; ++b) tables_.push_back(16 + (b * 7) % kShared);
      tables_.insert(tables_.end(), tables.begin() + 4 * static_cast<int64_t>(s),
                     tables.begin() + 4 * static_cast<int64_t>(s + 1));
      lens_[s] += kShared * static_cast<int32_t>(kBlock);
    }
    num_blocks_ += kShared;
    stride_ += kShared;
    max_context_ += kShared * kBlock;
  }

  void fill_cache(radix_ctx* ctx) {
    radix_tensor kv[2];
    ASSERT_OK(radix_ctx_kv_tensor(ctx, kLayerIndex, &kv[0], &kv[1]));
    for (int i = 0; i < 2; ++i) {
      Bytes bytes(static_cast<size_t>(kv[i].shape[0] * kv[i].stride[0]) * 2);
      for (size_t e = 0; e < bytes.size() / 2; ++e)
        put(&bytes, RADIX_F16, e,
            api_test::value(70 + static_cast<uint32_t>(i), static_cast<uint32_t>(e)));
      cuda_ ? device::write(kv[i].data, bytes.data(), bytes.size())
            : static_cast<void>(std::memcpy(kv[i].data, bytes.data(), bytes.size()));
    }
  }
  Bytes fetch(const void* from, size_t size) {
    Bytes bytes(size);
    cuda_ ? device::read(bytes.data(), from, size)
          : static_cast<void>(std::memcpy(bytes.data(), from, size));
    return bytes;
  }

  void make_weights(const Options& o, radix_layer* d) {
    const int64_t q = kHeads * kDim, kv = kKv * kDim;
    const float scale = 0.3f;
    d->w_o = numbers(1, kHidden, q, 5, scale);
    if (o.bias) d->b_o = numbers(2, 1, kHidden);
    if (o.norm) d->norm = numbers(3, 1, kHidden);
    if (o.head_norms) d->q_norm = numbers(4, 1, kDim), d->k_norm = numbers(5, 1, kDim);
    if (o.fused) {
      d->w_qkv = numbers(6, q + 2 * kv, kHidden, 3, scale);
      if (o.bias) d->b_qkv = numbers(7, 1, q + 2 * kv);
    } else {
      d->w_q = numbers(8, q, kHidden, 0, scale);
      d->w_k = numbers(9, kv, kHidden, 8, scale);
      d->w_v = numbers(10, kv, kHidden, 1, scale);
      if (o.bias) d->b_q = numbers(11, 1, q), d->b_v = numbers(12, 1, kv);
    }
  }

  struct Launch {
    radix_layer d;
    radix_attn decode, prefill;
    radix_rope_append decode_rope, prefill_rope;
  };
  // Everything but the workspace.
  void make(const Options& o, Launch* l) {
    dtype_ = o.dtype;
    l->d = sized<radix_layer>();
    radix_layer& d = l->d;
    d.flags = o.flags;
    d.num_q_heads = kHeads;
    const int64_t rows = (o.decode ? kDecode : 0) + (o.prefill ? kRows - kDecode : 0);
    d.x = numbers(20, rows, kHidden, 2);
    d.y = o.in_place ? d.x : numbers(21, rows, kHidden, 4);
    make_weights(o, &d);
    l->decode = attention(0, kDecode, false);
    l->decode_rope = rope(0, kDecode, false);
    l->prefill = attention(kDecode, 2, true);
    l->prefill_rope = rope(kDecode, 2, true);
    if (o.decode) d.decode = &l->decode, d.decode_rope = &l->decode_rope;
    if (o.prefill) d.prefill = &l->prefill, d.prefill_rope = &l->prefill_rope;
  }
  // A plan of sequences [first, first + num), which takes the place of their part's arrays.
  std::unique_ptr<api_test::Plan> plan(radix_ctx* ctx, const Options& o, uint32_t first,
                                       uint32_t num, bool prefill, void* stream, Launch* l) {
    radix_plan_config c = api_test::plan_config(num, prefill ? kRows : 0, o.plan_flags);
    c.max_context_len = max_context_;
    auto made = std::make_unique<api_test::Plan>(ctx, c);
    const std::vector<int32_t> q_lens = {cu_[1], cu_[2] - cu_[1]};
    radix_plan_desc d = sized<radix_plan_desc>();
    d.num_seqs = num;
    d.q_lens = prefill ? q_lens.data() : nullptr;
    d.block_tables = tables_.data() + first * stride_;
    d.block_table_stride = stride_;
    d.context_lens = lens_.data() + first;
    EXPECT_OK(radix_plan_update(*made, &d, stream));
    if (cuda_) {
      EXPECT_EQ(made->info().num_shared, 1u);  // here the test is of it
    }
    radix_attn* attn = prefill ? &l->prefill : &l->decode;
    *attn = made->attn();
    attn->layer = kLayerIndex;
    radix_rope_append* rope = prefill ? &l->prefill_rope : &l->decode_rope;
    EXPECT_OK(radix_plan_rope(*made, rope));
    return made;
  }
  void give_workspace(radix_ctx* ctx, radix_layer* d) {
    ASSERT_OK(radix_layer_workspace(ctx, d, &d->workspace_size));
    const auto* memory = place(Bytes(d->workspace_size + 64, 0xff));
    const auto at = reinterpret_cast<uintptr_t>(memory);
    d->workspace = reinterpret_cast<void*>((at + 63) / 64 * 64);
  }

  void run(const Options& o, bool cuda, bool graph, Output* out) {
    cuda_ = cuda;
    radix_config c = cuda_config();
    if (!cuda) c.device = RADIX_DEV_CPU;
    c.num_blocks = num_blocks_;
    Ctx ctx(c);
    fill_cache(ctx);
    Launch l;
    make(o, &l);
    void* stream = cuda ? device::make_stream() : nullptr;
    std::unique_ptr<api_test::Plan> plans[2];
    if (o.plans) {
      plans[0] = plan(ctx, o, 0, kDecode, false, stream, &l);
      plans[1] = plan(ctx, o, kDecode, 2, true, stream, &l);
    }
    give_workspace(ctx, &l.d);
    const auto launch = [&] { return radix_layer_launch(ctx, &l.d, stream); };
    ASSERT_OK(graph && cuda ? device::run_as_graph(stream, launch) : launch());
    if (cuda && device::kSimulated) {
      EXPECT_EQ(device::counters.waits, 0);
      EXPECT_TRUE(device::has_work()) << "nothing may wait";
    }
    if (cuda) device::finish();
    const int64_t rows = l.d.y.shape[0], stride = l.d.y.stride[0];
    const Bytes y = fetch(l.d.y.data, static_cast<size_t>(rows * stride) * bytes_of(o.dtype));
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < kHidden; ++i)
        out->y.push_back(get(y, o.dtype, static_cast<size_t>(r * stride + i)));
    }
    radix_tensor kv[2];
    ASSERT_OK(radix_ctx_kv_tensor(ctx, kLayerIndex, &kv[0], &kv[1]));
    for (const radix_tensor& t : kv) {
      const auto size = static_cast<size_t>(t.shape[0] * t.stride[0]);
      const Bytes bytes = fetch(t.data, size * 2);
      for (size_t i = 0; i < size; ++i) out->cache.push_back(get(bytes, RADIX_F16, i));
    }
  }

  // Rows by the norm of the difference over the norm: between the steps the CPU has f32, CUDA x's
  // dtype, which is rounded some ten times on the way.
  static void expect_rows(const std::vector<double>& got, const std::vector<double>& want,
                          size_t columns, double tolerance) {
    ASSERT_EQ(got.size(), want.size());
    ASSERT_GT(want.size(), 0u);
    for (size_t row = 0; row < want.size() / columns; ++row) {
      double off = 0, size = 0;
      for (size_t i = row * columns; i < (row + 1) * columns; ++i) {
        off += (got[i] - want[i]) * (got[i] - want[i]);
        size += want[i] * want[i];
      }
      ASSERT_GT(size, 0) << "row " << row;
      ASSERT_LE(std::sqrt(off / size), tolerance) << "row " << row;
    }
  }

  void check(const Options& o, bool graph = false) {
    SCOPED_TRACE(::testing::Message()
                 << "dtype " << o.dtype << (o.fused ? ", fused" : "") << (o.bias ? ", bias" : "")
                 << (o.norm ? ", norm" : "") << (o.head_norms ? ", head norms" : "") << ", flags "
                 << o.flags << (o.in_place ? ", in place" : ""));
    Output cuda, cpu;
    run(o, true, graph, &cuda);
    if (HasFatalFailure()) return;
    run(o, false, false, &cpu);
    if (HasFatalFailure()) return;
    const double unit = o.dtype == RADIX_BF16 ? 0x1p-8 : 0x1p-11;  // K/V are f16
    expect_rows(cuda.y, cpu.y, kHidden, 4 * unit);
    expect_rows(cuda.cache, cpu.cache, kDim, 4 * unit);
  }

  int32_t dtype_ = RADIX_F32;
  bool cuda_ = false;
  std::deque<std::vector<uint8_t>> hosts_;
};

#ifdef RADIX_REAL_DEVICE
#define RADIX_NEEDS_CUBLAS_LT()       \
  const cuda::CublasLt* lt = nullptr; \
  if (cuda::open_cublas_lt(&lt) != RADIX_OK) GTEST_SKIP() << "no cuBLASLt on this machine"
#else
#define RADIX_NEEDS_CUBLAS_LT() \
  if (!RADIXATTN_CUBLAS_LT) GTEST_SKIP() << "built without cublasLt.h"
#endif

TEST_F(DeviceLayer, IsThatOfTheCpu) {
  RADIX_NEEDS_CUBLAS_LT();
  for (const int32_t dtype : {RADIX_F32, RADIX_F16, RADIX_BF16}) {
    for (const bool fused : {false, true}) {
      Options o;
      o.dtype = dtype;
      o.fused = fused;
      check(o);
      o.flags = RADIX_LAYER_ADD | RADIX_LAYER_NORM_PLUS_ONE;
      check(o);
    }
  }
}

TEST_F(DeviceLayer, WithEachStepLeftOut) {
  RADIX_NEEDS_CUBLAS_LT();
  for (int left_out = 0; left_out < 5; ++left_out) {
    Options o;
    o.bias = left_out != 0;
    o.norm = left_out != 1;
    o.head_norms = left_out != 2;
    o.decode = left_out != 3;
    o.prefill = left_out != 4;
    check(o);
  }
}

TEST_F(DeviceLayer, OntoItsOwnInput) {
  RADIX_NEEDS_CUBLAS_LT();
  Options o;
  o.in_place = true;
  check(o);
  o.flags = RADIX_LAYER_ADD;
  o.dtype = RADIX_F16;
  check(o);
}

TEST_F(DeviceLayer, InAGraph) {
  RADIX_NEEDS_CUBLAS_LT();
  Options o;
  o.dtype = RADIX_BF16;
  check(o, true);
}

TEST_F(DeviceLayer, WithPlansThatShare) {
  RADIX_NEEDS_CUBLAS_LT();
  put_behind_a_beginning();
  for (const uint32_t flags : {0u, uint32_t{RADIX_PLAN_BATCH_INVARIANT}}) {
    Options o;
    o.plans = true;
    o.plan_flags = flags;
    o.dtype = RADIX_F16;
    check(o);
    check(o, true);
  }
}

// What a host does that brings its own products: here, none at all.
struct Host {
  int calls = 0;
  int64_t rows = 0;
  radix_status status = RADIX_OK;
  static radix_status RADIX_CALL gemm(void* user, const radix_gemm* g, radix_stream) {
    auto* host = static_cast<Host*>(user);
    ++host->calls;
    host->rows = g->x.shape[0];
    EXPECT_EQ(g->y.device, RADIX_DEV_CUDA);
    EXPECT_EQ(g->y.dtype, RADIX_F16);
    return host->status;
  }
};

TEST_F(DeviceLayer, WithProductsOfTheHostAsksNothingOfCublasLt) {
  cuda_ = true;
  const Ctx ctx(cuda_config());
  Launch l;
  Options o;
  o.dtype = RADIX_F16;
  o.fused = false;
  make(o, &l);
  Host host;
  l.d.gemm = Host::gemm;
  l.d.gemm_user = &host;
  give_workspace(ctx, &l.d);
  EXPECT_LT(l.d.workspace_size, uint64_t{1} << 20) << "none is for cuBLASLt";
  EXPECT_OK(radix_layer_launch(ctx, &l.d, nullptr));
  EXPECT_EQ(host.calls, 4);
  EXPECT_EQ(host.rows, kRows);
  EXPECT_EQ(device::counters.handles, 0);
  host.status = RADIX_E_STATE;
  EXPECT_FAILS(RADIX_E_CALLBACK, "w_q", radix_layer_launch(ctx, &l.d, nullptr));
  device::finish();
}

#ifndef RADIX_REAL_DEVICE

TEST_F(DeviceLayer, WithoutCublasLtIsUnsupported) {
  cuda_ = true;
  device::settings.no_cublas_lt = true;
  const Ctx ctx(cuda_config());
  Launch l;
  make(Options(), &l);
  give_workspace(ctx, &l.d);
  EXPECT_FAILS(RADIX_E_UNSUPPORTED, "give radix_layer.gemm",
               radix_layer_launch(ctx, &l.d, nullptr));
  device::finish();
}

#endif

}  // namespace
}  // namespace radixattn::test
