// Launch arguments and memory operations: batches, caller's own tensors, copies, host images,
// DLPack.
#include "api_support.h"

namespace api_test {
namespace {

constexpr int64_t kBlocks = 6, kBlock = 4, kKv = 2, kQ = 4, kDim = 32;

// A decode or prefill batch over random K/V in the caller's own NHD tensors, every piece
// replaceable.
struct Batch {
  std::vector<float> k, v, q, out, lse;
  std::vector<int32_t> tables = {0, 1, 2, 3, 4, 5};  // two sequences of up to three blocks
  std::vector<int32_t> lens = {9, 5};
  std::vector<int32_t> cu;
  std::vector<unsigned char> space;
  radix_attn a = sized<radix_attn>();

  explicit Batch(int64_t rows = 2, std::vector<int32_t> cu_q_lens = {}) : cu(std::move(cu_q_lens)) {
    k.resize(kBlocks * kBlock * kKv * kDim);
    v.resize(k.size());
    q.resize(static_cast<size_t>(rows * kQ * kDim));
    out.assign(q.size(), 77.f);
    lse.assign(static_cast<size_t>(rows * kQ), 77.f);
    for (uint32_t i = 0; i < k.size(); ++i) k[i] = value(1, i), v[i] = value(2, i);
    for (uint32_t i = 0; i < q.size(); ++i) q[i] = value(3, i);
    a.num_seqs = 2;
    a.max_context_len = 12;
    a.max_query_len = cu.empty() ? 1 : 12;
    a.q = tensor(q.data(), RADIX_F32, {rows, kQ, kDim});
    a.out = tensor(out.data(), RADIX_F32, {rows, kQ, kDim});
    a.lse = tensor(lse.data(), RADIX_F32, {rows, kQ});
    a.k_cache = tensor(k.data(), RADIX_F32, {kBlocks, kBlock, kKv, kDim});
    a.v_cache = tensor(v.data(), RADIX_F32, {kBlocks, kBlock, kKv, kDim});
    a.block_tables = tables.data();
    a.block_table_stride = 3;
    a.context_lens = lens.data();
    a.cu_q_lens = cu.empty() ? nullptr : cu.data();
  }
  radix_status launch(radix_ctx* ctx) {
    uint64_t bytes = 0;
    const radix_status st = radix_attn_workspace(ctx, &a, &bytes);
    if (st != RADIX_OK) return st;
    space.resize(bytes + 64);
    a.workspace = space.data() + (64 - reinterpret_cast<uintptr_t>(space.data()) % 64);
    a.workspace_size = bytes;
    return run(ctx);
  }
  radix_status run(radix_ctx* ctx) {
    return a.cu_q_lens != nullptr ? radix_prefill_launch(ctx, &a, nullptr)
                                  : radix_paged_attention_launch(ctx, &a, nullptr);
  }
};

class Launch : public ::testing::Test {
 protected:
  Ctx ctx_;
};

TEST_F(Launch, EmptySequencesAndPaddedRows) {
  Batch b(5, {0, 0, 3});  // no rows, three rows, two rows of padding
  b.lens = {0, 5};
  ASSERT_OK(b.launch(ctx_));
  EXPECT_NE(b.out[0], 77.f);
  EXPECT_EQ(b.out[3 * kQ * kDim], 77.f) << "padding stays as it is";
  Batch empty;
  empty.lens = {0, 5};
  ASSERT_OK(empty.launch(ctx_));
  for (int64_t i = 0; i < kQ * kDim; ++i) ASSERT_EQ(empty.out[static_cast<size_t>(i)], 0.f);
  EXPECT_EQ(empty.lse[0], -INFINITY);
  EXPECT_TRUE(std::isfinite(empty.lse[kQ]));
  Batch none;
  none.a.num_seqs = 0;
  none.a.q.shape[0] = none.a.out.shape[0] = none.a.lse.shape[0] = 0;
  EXPECT_OK(none.launch(ctx_));
}

TEST_F(Launch, TablesAsCsrGiveTheSame) {
  Batch dense, csr;
  const int32_t begin[] = {0, 3, 5};
  csr.a.block_tables = nullptr;
  csr.a.block_begin = begin;
  csr.a.block_ids = csr.tables.data();
  ASSERT_OK(dense.launch(ctx_));
  ASSERT_OK(csr.launch(ctx_));
  EXPECT_EQ(dense.out, csr.out);
  EXPECT_EQ(dense.lse, csr.lse);
}

TEST_F(Launch, AnyStridesOfTheCallersTensors) {
  Batch nhd, hnd, strided;
  hnd.a.kv_layout = RADIX_LAYOUT_HND;
  for (auto [from, to] : {std::pair(&nhd.k, &hnd.k), std::pair(&nhd.v, &hnd.v)}) {
    for (int64_t i = 0; i < kBlocks * kBlock * kKv * kDim; ++i) {
      const int64_t d = i % kDim, h = i / kDim % kKv, t = i / kDim / kKv % kBlock,
                    n = i / kDim / kKv / kBlock;
      (*to)[static_cast<size_t>(((n * kKv + h) * kBlock + t) * kDim + d)] =
          (*from)[static_cast<size_t>(i)];
    }
  }
  hnd.a.k_cache = tensor(hnd.k.data(), RADIX_F32, {kBlocks, kKv, kBlock, kDim});
  hnd.a.v_cache = tensor(hnd.v.data(), RADIX_F32, {kBlocks, kKv, kBlock, kDim});
  std::vector<float> wide(strided.q.size() * 2);
  for (size_t i = 0; i < strided.q.size(); ++i) wide[i / kDim * 2 * kDim + i % kDim] = strided.q[i];
  strided.a.q = tensor(wide.data(), RADIX_F32, {2, kQ, kDim}, {kQ * 2 * kDim, 2 * kDim, 1});
  ASSERT_OK(nhd.launch(ctx_));
  ASSERT_OK(hnd.launch(ctx_));
  ASSERT_OK(strided.launch(ctx_));
  EXPECT_EQ(nhd.out, strided.out);
  for (size_t i = 0; i < nhd.out.size(); ++i) ASSERT_NEAR(nhd.out[i], hnd.out[i], 1e-6);
}

// A K/V head of one has no stride, nor has the only block.
TEST_F(Launch, StridesThatNobodyFollows) {
  Batch plain, strange;
  for (Batch* b : {&plain, &strange}) {
    const int64_t head = b == &plain ? kDim : INT64_MAX;
    for (auto [cache, data] : {std::pair(&b->a.k_cache, &b->k), std::pair(&b->a.v_cache, &b->v)})
      *cache = tensor(data->data(), RADIX_F32, {kBlocks, kBlock, 1, kDim},
                      {kBlock * kKv * kDim, kKv * kDim, head, 1});
  }
  ASSERT_OK(plain.launch(ctx_));
  ASSERT_OK(strange.launch(ctx_));
  EXPECT_EQ(plain.out, strange.out);
  for (Batch* b : {&plain, &strange}) {
    const int64_t block = b == &plain ? kBlock * kKv * kDim : INT64_MAX;
    b->lens = {kBlock, 1};
    std::fill(b->tables.begin(), b->tables.end(), 0);
    for (radix_tensor* cache : {&b->a.k_cache, &b->a.v_cache})
      *cache = tensor(cache->data, RADIX_F32, {1, kBlock, kKv, kDim}, {block, kKv * kDim, kDim, 1});
  }
  ASSERT_OK(plain.launch(ctx_));
  ASSERT_OK(strange.launch(ctx_));
  EXPECT_EQ(plain.out, strange.out);
}

TEST_F(Launch, WhatIsWrittenLiesOutsideTheContextsKv) {
  Batch b;
  b.a.k_cache = b.a.v_cache = {};
  ASSERT_OK(b.launch(ctx_));
  radix_tensor k, v;
  ASSERT_OK(radix_ctx_kv_tensor(ctx_, 1, &k, &v));
  b.a.out.data = v.data;
  EXPECT_FAILS(RADIX_E_INVALID, "out.data is", b.run(ctx_));
  ASSERT_OK(radix_ctx_kv_tensor(ctx_, 0, &k, &v));
  b.a.out.data = static_cast<char*>(k.data) - 64;  // and from there into it
  EXPECT_FAILS(RADIX_E_INVALID, "out.data is", b.run(ctx_));
  b.a.out.data = b.out.data();
  b.a.k_cache.ndim = 1 << 20;  // of no tensor: nobody looks
  b.a.v_cache.ndim = -1;
  EXPECT_OK(b.run(ctx_));
}

template <class T>
void shift(const T** array) {  // off its alignment
  *array = reinterpret_cast<const T*>(reinterpret_cast<const char*>(*array) + 1);
}

struct BadLaunch {
  const char* word;
  radix_status status;
  void (*change)(Batch*);
};

TEST_F(Launch, EveryArgumentIsChecked) {
  static const int32_t begin[] = {0, 1, 2};
  const BadLaunch cases[] = {
      {"d->flags", RADIX_E_INVALID, [](Batch* b) { b->a.flags = 8; }},
      {"k_scale is given", RADIX_E_UNSUPPORTED,
       [](Batch* b) { b->a.k_scale = static_cast<const float*>(b->a.q.data); }},
      {"tree_mask is given", RADIX_E_INVALID,
       [](Batch* b) { b->a.tree_mask = static_cast<const uint8_t*>(b->a.q.data); }},
      {"d->next", RADIX_E_INVALID, [](Batch* b) { b->a.next = b; }},
      {"scale", RADIX_E_INVALID, [](Batch* b) { b->a.scale = NAN; }},
      {"softcap", RADIX_E_INVALID, [](Batch* b) { b->a.softcap = -1.f; }},
      {"softcap is 1e-07", RADIX_E_INVALID, [](Batch* b) { b->a.softcap = 1e-7f; }},
      {"softcap is 3e+38", RADIX_E_INVALID, [](Batch* b) { b->a.softcap = 3e38f; }},
      {"scale is -3e+38", RADIX_E_INVALID, [](Batch* b) { b->a.scale = -3e38f; }},
      {"max_context_len", RADIX_E_INVALID, [](Batch* b) { b->a.max_context_len = UINT32_MAX; }},
      {"expected at most 2^30", RADIX_E_INVALID,
       [](Batch* b) { b->a.max_context_len = (1u << 30) + 1; }},
      {"max_query_len is 2", RADIX_E_INVALID, [](Batch* b) { b->a.max_query_len = 2; }},
      {"kv_layout is 7", RADIX_E_INVALID, [](Batch* b) { b->a.kv_layout = 7; }},
      {"q.ndim is 2", RADIX_E_INVALID, [](Batch* b) { b->a.q.ndim = 2; }},
      {"q.dtype is 0", RADIX_E_INVALID, [](Batch* b) { b->a.q.dtype = 0; }},
      {"q.dtype is 6", RADIX_E_UNSUPPORTED, [](Batch* b) { b->a.q.dtype = RADIX_I8; }},
      {"q is on device 2", RADIX_E_INVALID, [](Batch* b) { b->a.q.device = RADIX_DEV_CUDA; }},
      {"q.shape[0] is 3", RADIX_E_INVALID, [](Batch* b) { b->a.q.shape[0] = 3; }},
      {"q.shape[1] is 3", RADIX_E_INVALID, [](Batch* b) { b->a.q.shape[1] = 3; }},
      {"q.shape[2] is 40", RADIX_E_INVALID, [](Batch* b) { b->a.q.shape[2] = 40; }},
      {"q.shape[0] is -1", RADIX_E_INVALID, [](Batch* b) { b->a.q.shape[0] = -1; }},
      {"q.data is NULL", RADIX_E_INVALID, [](Batch* b) { b->a.q.data = nullptr; }},
      {"q.data", RADIX_E_INVALID,
       [](Batch* b) { b->a.q.data = static_cast<char*>(b->a.q.data) + 1; }},
      {"must be contiguous", RADIX_E_INVALID, [](Batch* b) { b->a.q.stride[2] = 2; }},
      {"stride[0] is -1", RADIX_E_INVALID,
       [](Batch* b) { b->a.q.stride[0] = -1, b->a.q.stride[2] = 1; }},
      {"q spans", RADIX_E_INVALID,
       [](Batch* b) { b->a.q.stride[0] = INT64_MAX, b->a.q.stride[2] = 1; }},
      {"rows overlap", RADIX_E_INVALID,
       [](Batch* b) {
         b->a.out.stride[0] = kDim, b->a.out.stride[1] = kDim, b->a.out.stride[2] = 1;
       }},
      {"rows overlap", RADIX_E_INVALID,
       [](Batch* b) {
         b->a.out.stride[0] = kQ * kDim, b->a.out.stride[1] = kDim / 2, b->a.out.stride[2] = 1;
       }},
      {"inside q", RADIX_E_INVALID, [](Batch* b) { b->a.out.data = b->a.q.data; }},
      {"inside q", RADIX_E_INVALID,
       [](Batch* b) { b->a.out.data = static_cast<char*>(b->a.q.data) + 16; }},
      {"inside q", RADIX_E_INVALID,
       [](Batch* b) { b->a.q.data = static_cast<char*>(b->a.out.data) + 16; }},
      {"inside out or q", RADIX_E_INVALID,
       [](Batch* b) { b->a.lse.data = static_cast<char*>(b->a.out.data) + 8; }},
      {"inside out or q", RADIX_E_INVALID,
       [](Batch* b) { b->a.lse.data = static_cast<char*>(b->a.q.data) + 8; }},
      {"out.data is NULL", RADIX_E_INVALID, [](Batch* b) { b->a.out.data = nullptr; }},
      {"in one memory with K/V", RADIX_E_INVALID,
       [](Batch* b) { b->a.out.data = b->k.data() + 32; }},
      {"in one memory with K/V", RADIX_E_INVALID,
       [](Batch* b) { b->a.lse.data = b->v.data() + 32; }},
      {"pass the end of memory", RADIX_E_INVALID,
       [](Batch* b) { b->a.q.data = reinterpret_cast<void*>(UINTPTR_MAX - 63); }},
      {"lse is", RADIX_E_INVALID, [](Batch* b) { b->a.lse.shape[1] = 3; }},
      {"lse is", RADIX_E_INVALID, [](Batch* b) { b->a.lse.dtype = RADIX_F16; }},
      {"lse has strides 1, 1", RADIX_E_INVALID,
       [](Batch* b) { b->a.lse.stride[0] = b->a.lse.stride[1] = 1; }},
      {"v_cache is not", RADIX_E_INVALID,
       [](Batch* b) { b->a.v_cache.data = nullptr, b->a.v_cache.ndim = 0; }},
      {"k_cache has 6 blocks", RADIX_E_INVALID, [](Batch* b) { b->a.v_cache.shape[0] = 5; }},
      {"head dim 36", RADIX_E_INVALID, [](Batch* b) { b->a.k_cache.shape[3] = 36; }},
      {"block size", RADIX_E_INVALID, [](Batch* b) { b->a.k_cache.shape[1] = 300; }},
      {"block_tables is NULL", RADIX_E_INVALID, [](Batch* b) { b->a.block_tables = nullptr; }},
      {"block_table_stride is -1", RADIX_E_INVALID, [](Batch* b) { b->a.block_table_stride = -1; }},
      {"block_table_stride", RADIX_E_INVALID, [](Batch* b) { b->a.block_table_stride = 2; }},
      {"block_table_stride is 9223372036854775807: expected at most 2^52", RADIX_E_INVALID,
       [](Batch* b) { b->a.block_table_stride = INT64_MAX; }},
      {"block_tables is 0x", RADIX_E_INVALID, [](Batch* b) { shift(&b->a.block_tables); }},
      {"context_lens is 0x", RADIX_E_INVALID, [](Batch* b) { shift(&b->a.context_lens); }},
      {"alibi_slopes is 0x", RADIX_E_INVALID,
       [](Batch* b) { b->a.alibi_slopes = b->q.data(), shift(&b->a.alibi_slopes); }},
      {"sinks is 0x", RADIX_E_INVALID,
       [](Batch* b) { b->a.sinks = b->q.data(), shift(&b->a.sinks); }},
      {"less than 0 blocks", RADIX_E_INVALID,
       [](Batch* b) { b->a.k_cache.shape[0] = b->a.v_cache.shape[0] = 0; }},
      {"block_begin", RADIX_E_INVALID,
       [](Batch* b) {
         b->a.block_tables = nullptr, b->a.block_begin = begin, b->a.block_ids = b->tables.data();
       }},
      {"entry 1 is 6", RADIX_E_INVALID, [](Batch* b) { b->tables[1] = 6; }},
      {"is -1", RADIX_E_INVALID, [](Batch* b) { b->tables[4] = -1; }},
      {"context_lens is NULL", RADIX_E_INVALID, [](Batch* b) { b->a.context_lens = nullptr; }},
      {"context_lens[1] is -2", RADIX_E_INVALID, [](Batch* b) { b->lens[1] = -2; }},
      {"context_lens[0] is 13", RADIX_E_INVALID, [](Batch* b) { b->lens[0] = 13; }},
  };
  for (const BadLaunch& bad : cases) {
    Batch b;
    bad.change(&b);
    EXPECT_FAILS(bad.status, bad.word, b.launch(ctx_));
    for (const float x : b.out) ASSERT_EQ(x, 77.f) << bad.word << ": a failed launch has written";
  }
  Batch far(4, {0, 2, 4});
  const std::vector<uint8_t> mask(64);
  far.a.tree_mask = mask.data();
  far.a.tree_mask_stride = INT64_MAX;
  EXPECT_FAILS(RADIX_E_INVALID, "tree_mask_stride is 9223372036854775807", far.launch(ctx_));
  Batch long_prompt(4, {0, 2, 4});
  long_prompt.a.max_query_len = 1u << 31;
  EXPECT_FAILS(RADIX_E_INVALID, "max_query_len is 2147483648", long_prompt.launch(ctx_));
  Batch prefill(4, {0, 2, 5});
  EXPECT_FAILS(RADIX_E_INVALID, "cu_q_lens[2] is 5", prefill.launch(ctx_));
  Batch falling(4, {0, 3, 2});
  EXPECT_FAILS(RADIX_E_INVALID, "cu_q_lens", falling.launch(ctx_));
  Batch late(4, {1, 2, 4});
  EXPECT_FAILS(RADIX_E_INVALID, "cu_q_lens[0] is 1", late.launch(ctx_));
}

TEST_F(Launch, TheWorkspaceIsChecked) {
  Batch b;
  ASSERT_OK(b.launch(ctx_));
  b.a.workspace_size -= 1;
  EXPECT_FAILS(RADIX_E_BUFFER, "workspace_size", b.run(ctx_));
  b.a.workspace_size += 1;
  b.a.workspace = static_cast<char*>(b.a.workspace) + 4;
  EXPECT_FAILS(RADIX_E_INVALID, "workspace", b.run(ctx_));
  b.a.workspace = nullptr;
  EXPECT_FAILS(RADIX_E_INVALID, "workspace", b.run(ctx_));
  Batch wrong_call(2, {0, 1, 2});
  EXPECT_FAILS(RADIX_E_INVALID, "cu_q_lens",
               radix_paged_attention_launch(ctx_, &wrong_call.a, nullptr));
  Batch other;
  EXPECT_FAILS(RADIX_E_INVALID, "cu_q_lens is NULL", radix_prefill_launch(ctx_, &other.a, nullptr));
  int stream = 0;
  EXPECT_FAILS(RADIX_E_INVALID, "s is", radix_paged_attention_launch(ctx_, &b.a, &stream));
}

TEST_F(Launch, TheWorkspaceNeedsNoData) {
  Batch b;
  uint64_t with = 0, without = 0;
  ASSERT_OK(radix_attn_workspace(ctx_, &b.a, &with));
  for (radix_tensor* t : {&b.a.q, &b.a.out, &b.a.lse, &b.a.k_cache, &b.a.v_cache})
    t->data = nullptr;
  b.a.block_tables = b.a.context_lens = nullptr;
  ASSERT_OK(radix_attn_workspace(ctx_, &b.a, &without));
  EXPECT_EQ(with, without);
}

// Nothing wraps in a query of sizes: what is too much for 64 bits is refused before.
TEST_F(Launch, TheWorkspaceOfTooMuchIsRefused) {
  Batch b;
  uint64_t bytes = 77;
  b.a.num_seqs = 1u << 27;
  b.a.q = tensor(nullptr, RADIX_F32, {1 << 27, 1 << 30, kDim}, {0, 0, 1});
  EXPECT_FAILS(RADIX_E_INVALID, "q.shape[1] is 1073741824",
               radix_attn_workspace(ctx_, &b.a, &bytes));
  b.a.q = tensor(nullptr, RADIX_F32, {1 << 27, 32 * kKv, kDim}, {0, 0, 1});
  EXPECT_FAILS(RADIX_E_INVALID, "q has 134217728 rows", radix_attn_workspace(ctx_, &b.a, &bytes));
  EXPECT_EQ(bytes, 77u);
}

struct BadRope {
  const char* word;
  void (*change)(radix_rope_append*);
};

TEST_F(Launch, RopeArgumentsAreChecked) {
  std::vector<float> k(2 * kKv * kDim, 1.f), v = k, q(2 * kQ * kDim, 1.f);
  static int64_t slots[2];
  static int32_t positions[2];
  slots[0] = 0, slots[1] = -1, positions[0] = 3, positions[1] = -5;
  radix_rope_append good = sized<radix_rope_append>();
  good.num_tokens = 2;
  good.rotary_dim = kDim;
  good.k = tensor(k.data(), RADIX_F32, {2, kKv, kDim});
  good.v = tensor(v.data(), RADIX_F32, {2, kKv, kDim});
  good.q = tensor(q.data(), RADIX_F32, {2, kQ, kDim});
  good.slots = slots;
  good.positions = positions;
  EXPECT_OK(radix_rope_append_launch(ctx_, &good, nullptr));
  EXPECT_EQ(q[kQ * kDim], 1.f) << "a padded row is not turned";
  const BadRope cases[] = {
      {"flags", [](radix_rope_append* p) { p->flags = 2; }},
      {"reserved0", [](radix_rope_append* p) { p->reserved0 = 1; }},
      {"next", [](radix_rope_append* p) { p->next = p; }},
      {"layer is 2", [](radix_rope_append* p) { p->layer = 2; }},
      {"rotary_dim is 34", [](radix_rope_append* p) { p->rotary_dim = 34; }},
      {"rotary_dim is 7", [](radix_rope_append* p) { p->rotary_dim = 7; }},
      {"style is 2", [](radix_rope_append* p) { p->style = 2; }},
      {"scaling is 4", [](radix_rope_append* p) { p->scaling = 4; }},
      {"theta is -1", [](radix_rope_append* p) { p->theta = -1.f; }},
      {"theta is 0.5", [](radix_rope_append* p) { p->theta = 0.5f; }},
      {"scale is 0.5", [](radix_rope_append* p) { p->scale = 0.5f; }},
      {"in one memory with k or v", [](radix_rope_append* p) { p->q = p->k; }},
      {"slots is 0x", [](radix_rope_append* p) { shift(&p->slots); }},
      {"positions is 0x", [](radix_rope_append* p) { shift(&p->positions); }},
      {"v_cache has strides 0",
       [](radix_rope_append* p) {
         static float memory[2][3 * 4 * kKv * kDim];
         p->k_cache = tensor(memory[0], RADIX_F32, {3, 4, kKv, kDim});
         p->v_cache = tensor(memory[1], RADIX_F32, {3, 4, kKv, kDim}, {0, kKv * kDim, kDim, 1});
       }},
      {"scale is inf", [](radix_rope_append* p) { p->scale = INFINITY; }},
      {"original_max_position", [](radix_rope_append* p) { p->scaling = RADIX_ROPE_SCALE_YARN; }},
      {"high_freq_factor is 1",
       [](radix_rope_append* p) {
         p->scaling = RADIX_ROPE_SCALE_LLAMA3, p->original_max_position = 8192,
         p->high_freq_factor = 1.f;
       }},
      {"slots is NULL", [](radix_rope_append* p) { p->slots = nullptr; }},
      {"positions is NULL", [](radix_rope_append* p) { p->positions = nullptr; }},
      {"k.shape[1] is 3", [](radix_rope_append* p) { p->k.shape[1] = 3; }},
      {"v.data is NULL", [](radix_rope_append* p) { p->v.data = nullptr; }},
      {"k.shape[0] is 2", [](radix_rope_append* p) { p->num_tokens = 3; }},
      {"num_tokens", [](radix_rope_append* p) { p->num_tokens = UINT64_MAX; }},
  };
  for (const BadRope& bad : cases) {
    radix_rope_append p = good;
    bad.change(&p);
    EXPECT_FAILS(RADIX_E_INVALID, bad.word, radix_rope_append_launch(ctx_, &p, nullptr));
  }
  radix_tensor kv, unused;
  ASSERT_OK(radix_ctx_kv_tensor(ctx_, 0, &kv, &unused));
  radix_rope_append inside = good;
  inside.q.data = kv.data;
  EXPECT_FAILS(RADIX_E_INVALID, "q.data is", radix_rope_append_launch(ctx_, &inside, nullptr));
  radix_rope_append still = good;  // without rotation q is not written: it may be k
  still.rotary_dim = 0;
  still.q = still.k;
  EXPECT_OK(radix_rope_append_launch(ctx_, &still, nullptr));
  slots[0] = 64;
  EXPECT_FAILS(RADIX_E_INVALID, "slots[0] is 64", radix_rope_append_launch(ctx_, &good, nullptr));
  slots[0] = 0;
  positions[0] = -1;
  EXPECT_FAILS(RADIX_E_INVALID, "positions[0] is -1",
               radix_rope_append_launch(ctx_, &good, nullptr));
}

// ---- copies and host images

class Memory : public ::testing::Test {
 protected:
  Memory() {
    for (uint32_t layer = 0; layer < 2; ++layer) {
      radix_tensor k, v;
      EXPECT_OK(radix_ctx_kv_tensor(ctx_, layer, &k, &v));
      for (float* at : {static_cast<float*>(k.data), static_cast<float*>(v.data)}) {
        for (uint32_t i = 0; i < 16 * kElements; ++i) at[i] = value(layer * 2 + (at == k.data), i);
        planes_.push_back(at);
      }
    }
  }
  static constexpr uint32_t kElements = 4 * 2 * 32;  // of a block
  std::vector<float> block(size_t plane, int32_t b) const {
    const float* at = planes_[plane] + static_cast<uint32_t>(b) * kElements;
    return {at, at + kElements};
  }
  Ctx ctx_;
  std::vector<float*> planes_;  // K and V of both layers
};

// A pool that is only an address: the size of an image is arithmetic.
TEST(SwapBytes, OfTooManyBlocksLeavesTheResultAlone) {
  radix_config c = api_test::small_config(1, 256);
  c.num_layers = 128;
  c.num_kv_heads = 32768;
  c.head_dim = c.head_dim_v = 256;
  c.kv_memory = reinterpret_cast<void*>(uintptr_t{1} << 32);
  c.kv_memory_size = uint64_t{1} << 45;
  Ctx ctx(c);
  uint64_t bytes = 77;
  ASSERT_OK(radix_swap_bytes(ctx, 1, &bytes));
  EXPECT_EQ(bytes, uint64_t{1} << 41);
  EXPECT_FAILS(RADIX_E_INVALID, "n is 4294967295", radix_swap_bytes(ctx, UINT32_MAX, &bytes));
  EXPECT_EQ(bytes, uint64_t{1} << 41);
}

TEST_F(Memory, CopiesBlocksInOrderInEveryLayer) {
  const radix_block pairs[] = {0, 1, 1, 2};
  std::vector<std::vector<float>> expected;
  for (size_t p = 0; p < 4; ++p) expected.push_back(block(p, 0));
  ASSERT_OK(radix_copy_blocks(ctx_, pairs, 2, nullptr));
  for (size_t p = 0; p < 4; ++p) EXPECT_EQ(block(p, 2), expected[p]);
  const radix_block bad[] = {3, 4, 0, 16};
  const std::vector<float> before = block(0, 4);
  EXPECT_FAILS(RADIX_E_INVALID, "16", radix_copy_blocks(ctx_, bad, 2, nullptr));
  EXPECT_EQ(block(0, 4), before) << "checked first";
}

TEST_F(Memory, RunsOperationsAfterCheckingAll) {
  const radix_op good = {RADIX_OP_COPY, 0, 1, 3};
  const std::vector<float> tail = block(1, 1);
  ASSERT_OK(radix_run_ops(ctx_, &good, 1, nullptr));
  for (uint32_t i = 0; i < kElements; ++i) {
    ASSERT_EQ(block(1, 1)[i], i < 3 * 64 ? block(1, 0)[i] : tail[i]) << i;
  }
  const radix_op bad[][2] = {{{RADIX_OP_COPY, 2, 3, 4}, {9, 0, 1, 1}},
                             {{RADIX_OP_COPY, 2, 3, 4}, {RADIX_OP_COPY, 0, 16, 1}},
                             {{RADIX_OP_COPY, 2, 3, 4}, {RADIX_OP_COPY, -1, 0, 1}},
                             {{RADIX_OP_COPY, 2, 3, 4}, {RADIX_OP_COPY, 0, 1, 5}}};
  const std::vector<float> before = block(0, 3);
  for (const auto& ops : bad) {
    EXPECT_FAILS(RADIX_E_INVALID, "ops[1]", radix_run_ops(ctx_, ops, 2, nullptr));
    EXPECT_EQ(block(0, 3), before);
  }
}

TEST_F(Memory, ImagesGoToTheHostAndBack) {
  const radix_block out[] = {5, 0}, in[] = {9, 10};
  uint64_t bytes = 0;
  ASSERT_OK(radix_swap_bytes(ctx_, 2, &bytes));
  EXPECT_EQ(bytes, 2u * 4 * kElements * sizeof(float));
  std::vector<float> image(bytes / sizeof(float) + 1, 77.f);
  EXPECT_FAILS(RADIX_E_BUFFER, "cap is",
               radix_swap_out(ctx_, out, 2, image.data(), bytes - 1, nullptr));
  EXPECT_EQ(image[0], 77.f);
  ASSERT_OK(radix_swap_out(ctx_, out, 2, image.data(), bytes, nullptr));
  EXPECT_EQ(image.back(), 77.f);
  EXPECT_EQ(std::memcmp(image.data(), block(0, 5).data(), kElements * sizeof(float)), 0)
      << "K of layer 0 first";
  EXPECT_FAILS(RADIX_E_INVALID, "len is",
               radix_swap_in(ctx_, in, 2, image.data(), bytes + 4, nullptr));
  ASSERT_OK(radix_swap_in(ctx_, in, 2, image.data(), bytes, nullptr));
  for (size_t p = 0; p < 4; ++p) {
    EXPECT_EQ(block(p, 9), block(p, 5));
    EXPECT_EQ(block(p, 10), block(p, 0));
  }
  const radix_block bad[] = {9, 16};
  EXPECT_FAILS(RADIX_E_INVALID, "16", radix_swap_in(ctx_, bad, 2, image.data(), bytes, nullptr));
}

// ---- DLPack: the struct as the specification gives it

struct DLTensor {
  void* data;
  struct {
    int32_t device_type, device_id;
  } device;
  int32_t ndim;
  struct {
    uint8_t code, bits;
    uint16_t lanes;
  } dtype;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;
};

class DlPack : public ::testing::Test {
 protected:
  int64_t shape_[6] = {2, 3, 32, 1, 1, 1}, strides_[6] = {200, 64, 1, 1, 1, 1};
  float memory_[512] = {};
  DLTensor dl_ = {memory_, {1, 0}, 3, {2, 32, 1}, shape_, nullptr, 0};
  radix_tensor out_ = {};
};

TEST_F(DlPack, BorrowsShapeStridesAndOffset) {
  ASSERT_OK(radix_tensor_from_dlpack(&dl_, &out_));
  EXPECT_EQ(out_.data, memory_);
  EXPECT_EQ(out_.dtype, RADIX_F32);
  EXPECT_EQ(out_.device, RADIX_DEV_CPU);
  EXPECT_EQ(out_.ndim, 3);
  EXPECT_EQ(out_.shape[1], 3);
  EXPECT_EQ(out_.stride[0], 0) << "compact";
  dl_.strides = strides_;
  dl_.byte_offset = 16;
  ASSERT_OK(radix_tensor_from_dlpack(&dl_, &out_));
  EXPECT_EQ(out_.data, memory_ + 4);
  EXPECT_EQ(out_.stride[1], 64);
}

TEST_F(DlPack, KnowsItsDtypes) {
  const struct {
    uint8_t code, bits;
    int32_t dtype;
  } known[] = {{2, 32, RADIX_F32}, {2, 16, RADIX_F16},     {4, 16, RADIX_BF16},
               {0, 8, RADIX_I8},   {0, 32, RADIX_I32},     {0, 64, RADIX_I64},
               {1, 8, RADIX_U8},   {10, 8, RADIX_F8_E4M3}, {12, 8, RADIX_F8_E5M2}};
  for (const auto& type : known) {
    dl_.dtype = {type.code, type.bits, 1};
    ASSERT_OK(radix_tensor_from_dlpack(&dl_, &out_));
    EXPECT_EQ(out_.dtype, type.dtype);
  }
  dl_.dtype = {2, 64, 1};
  EXPECT_FAILS(RADIX_E_UNSUPPORTED, "bits 64", radix_tensor_from_dlpack(&dl_, &out_));
  dl_.dtype = {2, 32, 4};
  EXPECT_FAILS(RADIX_E_UNSUPPORTED, "lanes 4", radix_tensor_from_dlpack(&dl_, &out_));
}

TEST_F(DlPack, RefusesAnOffsetBeyondAllMemory) {
  dl_.byte_offset = UINT64_MAX;
  EXPECT_FAILS(RADIX_E_INVALID, "dl_tensor->byte_offset is 18446744073709551615",
               radix_tensor_from_dlpack(&dl_, &out_));
  dl_.byte_offset = PTRDIFF_MAX;  // as large as an object may be
  ASSERT_OK(radix_tensor_from_dlpack(&dl_, &out_));
  ++dl_.byte_offset;
  EXPECT_FAILS(RADIX_E_INVALID, "expected at most 9223372036854775807",
               radix_tensor_from_dlpack(&dl_, &out_));
  dl_.data = reinterpret_cast<void*>(UINTPTR_MAX - 64);  // the end of memory is nearer
  dl_.byte_offset = 64;
  ASSERT_OK(radix_tensor_from_dlpack(&dl_, &out_));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(out_.data), UINTPTR_MAX);
  ++dl_.byte_offset;
  EXPECT_FAILS(RADIX_E_INVALID, "dl_tensor->byte_offset is 65: expected at most 64",
               radix_tensor_from_dlpack(&dl_, &out_));
  dl_.data = nullptr;  // nothing to count from
  ASSERT_OK(radix_tensor_from_dlpack(&dl_, &out_));
  EXPECT_EQ(out_.data, nullptr);
}

TEST_F(DlPack, RefusesAStructAtAnOddAddress) {
  alignas(8) char odd[sizeof dl_ + 1];
  std::memcpy(odd + 1, &dl_, sizeof dl_);
  EXPECT_FAILS(RADIX_E_INVALID, "dl_tensor is 0x", radix_tensor_from_dlpack(odd + 1, &out_));
}

TEST_F(DlPack, RefusesWhatHasNoCounterpart) {
  dl_.device = {14, 0};
  EXPECT_FAILS(RADIX_E_UNSUPPORTED, "type 14", radix_tensor_from_dlpack(&dl_, &out_));
  dl_.device = {2, 3};
  ASSERT_OK(radix_tensor_from_dlpack(&dl_, &out_));
  EXPECT_EQ(out_.device, RADIX_DEV_CUDA);
  EXPECT_EQ(out_.device_index, 3);
  dl_.device = {1, 0};
  dl_.ndim = 6;
  EXPECT_FAILS(RADIX_E_INVALID, "ndim is 6", radix_tensor_from_dlpack(&dl_, &out_));
  dl_.ndim = 3;
  dl_.strides = strides_;
  strides_[2] = 2;
  EXPECT_FAILS(RADIX_E_INVALID, "contiguous", radix_tensor_from_dlpack(&dl_, &out_));
  strides_[0] = strides_[1] = strides_[2] = 0;
  EXPECT_FAILS(RADIX_E_INVALID, "all 0", radix_tensor_from_dlpack(&dl_, &out_));
  EXPECT_FAILS(RADIX_E_INVALID, "dl_tensor is NULL", radix_tensor_from_dlpack(nullptr, &out_));
  EXPECT_FAILS(RADIX_E_INVALID, "out is NULL", radix_tensor_from_dlpack(&dl_, nullptr));
  dl_.shape = nullptr;
  EXPECT_FAILS(RADIX_E_INVALID, "shape is NULL", radix_tensor_from_dlpack(&dl_, &out_));
}

}  // namespace
}  // namespace api_test
