// Misuse of every argument of the layer's calls: the error names it, y and K/V are as they were.
#include <functional>

#include "layer_support.h"
#include "plan_support.h"

namespace api_test {
namespace {

constexpr uint32_t kDecode = 2, kPrefill = 5, kRows = kDecode + kPrefill;

// A mixed step with everything given, on a context of 2 KV heads of 32.
class LayerMisuse : public ::testing::Test {
 protected:
  LayerMisuse() : model_(shape()), e_(&model_) {
    const Tokens p = range(0, 9), q = range(20, 37);
    a_ = e_.ctx().begin(p);
    b_ = e_.ctx().begin(q);
    e_.run({}, {{a_, p}, {b_, q}});
    const Tokens u = range(60, 65);
    step_ = e_.prepare({{a_, plus(p, 70)}, {b_, plus(q, 71)}}, {{e_.ctx().begin(u), u}});
    d_ = step_->d;
    EXPECT_EQ(step_->x.rows, kRows);
  }
  // Still good after all of that.
  ~LayerMisuse() override { EXPECT_OK(radix_layer_launch(e_.ctx(), &d_, nullptr)); }

  static ModelShape shape() {
    ModelShape s;
    s.norm = s.bias = s.head_norms = true;
    return s;
  }

  std::vector<uint8_t> kv() {
    radix_tensor k, v;
    EXPECT_OK(radix_ctx_kv_tensor(e_.ctx(), 0, &k, &v));
    const size_t n = 64 * 4 * 2 * 32 * 4;
    std::vector<uint8_t> bytes(2 * n);
    std::memcpy(bytes.data(), k.data, n);
    std::memcpy(bytes.data() + n, v.data, n);
    return bytes;
  }

  // The launch of a changed copy fails with a message that has `word`, and nothing has changed.
  void fails(radix_status status, const char* word, const std::function<void(radix_layer*)>& change,
             bool may_write_kv = false) {
    radix_layer d = d_;
    change(&d);
    const std::vector<uint8_t> y = step_->y.numbers.bytes(), x = step_->x.numbers.bytes(), k = kv();
    EXPECT_FAILS(status, word, radix_layer_launch(e_.ctx(), &d, nullptr));
    EXPECT_TRUE(step_->y.numbers.bytes() == y) << word;
    EXPECT_TRUE(step_->x.numbers.bytes() == x) << word;
    EXPECT_TRUE(may_write_kv || kv() == k) << word;
  }
  void invalid(const char* word, const std::function<void(radix_layer*)>& change) {
    fails(RADIX_E_INVALID, word, change);
  }
  // The parts are const in the descriptor: changed copies take their place.
  void invalid_attn(const char* word, bool prefill, const std::function<void(radix_attn*)>& change,
                    radix_status status = RADIX_E_INVALID) {
    radix_attn a = prefill ? *d_.prefill : *d_.decode;
    change(&a);
    fails(
        status, word, [&](radix_layer* d) { (prefill ? d->prefill : d->decode) = &a; }, true);
  }
  void invalid_rope(const char* word, bool prefill,
                    const std::function<void(radix_rope_append*)>& change) {
    radix_rope_append r = prefill ? *d_.prefill_rope : *d_.decode_rope;
    change(&r);
    fails(
        RADIX_E_INVALID, word,
        [&](radix_layer* d) { (prefill ? d->prefill_rope : d->decode_rope) = &r; }, true);
  }

  Model model_;
  LayerEngine e_;
  radix_req a_ = 0, b_ = 0;
  std::unique_ptr<Step> step_;
  radix_layer d_;
};

TEST_F(LayerMisuse, Pointers) {
  uint64_t bytes = 0;
  EXPECT_FAILS(RADIX_E_INVALID, "ctx is NULL", radix_layer_launch(nullptr, &d_, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "ctx is NULL", radix_layer_workspace(nullptr, &d_, &bytes));
  EXPECT_FAILS(RADIX_E_INVALID, "d is NULL", radix_layer_launch(e_.ctx(), nullptr, nullptr));
  EXPECT_FAILS(RADIX_E_INVALID, "d is NULL", radix_layer_workspace(e_.ctx(), nullptr, &bytes));
  EXPECT_FAILS(RADIX_E_INVALID, "out_bytes", radix_layer_workspace(e_.ctx(), &d_, nullptr));
  int nothing = 0;
  EXPECT_FAILS(RADIX_E_INVALID, "s is", radix_layer_launch(e_.ctx(), &d_, &nothing));
  invalid("d->next", [&](radix_layer* d) { d->next = &nothing; });
}

TEST_F(LayerMisuse, StructSizes) {
  fails(RADIX_E_VERSION, "d->struct_size", [](radix_layer* d) { d->struct_size = 0; });
  invalid_attn(
      "d->decode->struct_size", false, [](radix_attn* a) { a->struct_size = 3; }, RADIX_E_VERSION);
  invalid_attn(
      "d->prefill->struct_size", true, [](radix_attn* a) { a->struct_size = 0; }, RADIX_E_VERSION);
  radix_rope_append r = *d_.decode_rope;
  r.struct_size = 5000;
  fails(RADIX_E_VERSION, "d->decode_rope->struct_size",
        [&](radix_layer* d) { d->decode_rope = &r; });
  fails(RADIX_E_VERSION, "d->prefill_rope->struct_size",
        [&](radix_layer* d) { d->prefill_rope = &r; });
}

TEST_F(LayerMisuse, Words) {
  invalid("d->flags is 0x4", [](radix_layer* d) { d->flags = 4; });
  invalid("d->norm_eps is -1", [](radix_layer* d) { d->norm_eps = -1; });
  invalid("d->norm_eps is nan", [](radix_layer* d) { d->norm_eps = NAN; });
  invalid("d->num_q_heads is 0", [](radix_layer* d) { d->num_q_heads = 0; });
  invalid("d->num_q_heads is 3", [](radix_layer* d) { d->num_q_heads = 3; });
  invalid("d->num_q_heads is 65536", [](radix_layer* d) { d->num_q_heads = 65536; });
}

TEST_F(LayerMisuse, XAndY) {
  invalid("x.data is NULL", [](radix_layer* d) { d->x.data = nullptr; });
  invalid("x.ndim is 3", [](radix_layer* d) { d->x.ndim = 3; });
  invalid("x.dtype is 0", [](radix_layer* d) { d->x.dtype = 0; });
  fails(RADIX_E_UNSUPPORTED, "x.dtype is 8", [](radix_layer* d) { d->x.dtype = RADIX_I64; });
  invalid("x.shape[1] is 0", [](radix_layer* d) { d->x.shape[1] = 0; });
  invalid("x.shape[1] is 16777217", [](radix_layer* d) { d->x.shape[1] = (1 << 24) + 1; });
  invalid("x.stride[1]", [](radix_layer* d) { d->x.stride[1] = 2; });
  invalid("x is on device", [](radix_layer* d) { d->x.device = RADIX_DEV_CUDA; });
  invalid("y.data is NULL", [](radix_layer* d) { d->y.data = nullptr; });
  invalid("y is [6, 40]: expected [7, 40]", [](radix_layer* d) { d->y.shape[0] = 6; });
  invalid("y.dtype is 3", [](radix_layer* d) { d->y.dtype = RADIX_BF16; });
  invalid("y.stride[0] is 39", [](radix_layer* d) { d->y.stride[0] = 39; });
  invalid("y.data", [](radix_layer* d) {
    d->y.data = static_cast<float*>(d->x.data) + 1;
    d->x.stride[0] = d->y.stride[0] = 40;
  });
}

TEST_F(LayerMisuse, Weights) {
  invalid("w_q.data is NULL", [](radix_layer* d) { d->w_q.data = nullptr; });
  invalid("w_k.data is NULL", [](radix_layer* d) { d->w_k.data = nullptr; });
  invalid("w_v.data is NULL", [](radix_layer* d) { d->w_v.data = nullptr; });
  invalid("w_o.data is NULL", [](radix_layer* d) { d->w_o.data = nullptr; });
  invalid("w_q is [127, 40]", [](radix_layer* d) { d->w_q.shape[0] = 127; });
  invalid("w_k is [64, 39]", [](radix_layer* d) { d->w_k.shape[1] = 39; });
  invalid("w_v is [65, 40]: expected [64, 40]", [](radix_layer* d) { d->w_v.shape[0] = 65; });
  invalid("w_o is [40, 64]: expected [40, 128]", [](radix_layer* d) { d->w_o.shape[1] = 64; });
  invalid("w_o.ndim", [](radix_layer* d) { d->w_o.ndim = 1; });
  fails(RADIX_E_UNSUPPORTED, "w_o.dtype is 4",
        [](radix_layer* d) { d->w_o.dtype = RADIX_F8_E4M3; });
  invalid("norm.shape[0] is 39", [](radix_layer* d) { d->norm.shape[0] = 39; });
  invalid("q_norm.shape[0] is 31", [](radix_layer* d) { d->q_norm.shape[0] = 31; });
  invalid("k_norm.ndim is 2", [](radix_layer* d) { d->k_norm.ndim = 2; });
  invalid("b_q.shape[0]", [](radix_layer* d) { d->b_q.shape[0] = 4; });
  invalid("b_k.shape[0]", [](radix_layer* d) { d->b_k.shape[0] = 4; });
  invalid("b_v.shape[0]", [](radix_layer* d) { d->b_v.shape[0] = 4; });
  invalid("b_o.shape[0]", [](radix_layer* d) { d->b_o.shape[0] = 4; });
}

TEST_F(LayerMisuse, FusedWeightsBesideSeparateOnes) {
  const auto fused = [this](radix_layer* d) { d->w_qkv = model_.qkv.matrix(); };
  invalid("w_q is given beside w_qkv", fused);
  invalid("b_v is given beside w_qkv", [&](radix_layer* d) {
    fused(d);
    d->w_q = d->w_k = d->w_v = d->b_q = d->b_k = radix_tensor{};
  });
  invalid("b_qkv is given without w_qkv",
          [this](radix_layer* d) { d->b_qkv = model_.b_qkv.vector(); });
  invalid("w_qkv is [255, 40]: expected [256, 40]", [&](radix_layer* d) {
    fused(d);
    d->w_q = d->w_k = d->w_v = d->b_q = d->b_k = d->b_v = radix_tensor{};
    d->w_qkv.shape[0] = 255;
  });
}

TEST_F(LayerMisuse, Parts) {
  invalid("d->decode and d->prefill are NULL", [](radix_layer* d) {
    d->decode = d->prefill = nullptr;
    d->decode_rope = d->prefill_rope = nullptr;
  });
  invalid("d->decode_rope is NULL and d->decode is given",
          [](radix_layer* d) { d->decode_rope = nullptr; });
  invalid("d->prefill is NULL and d->prefill_rope is given",
          [](radix_layer* d) { d->prefill = nullptr; });
  invalid("d->decode->num_seqs is 2: x has 7 rows", [](radix_layer* d) {
    d->prefill = nullptr;
    d->prefill_rope = nullptr;
  });
  invalid("d->prefill_rope->num_tokens is 5: its rows of x are 7", [](radix_layer* d) {
    d->decode = nullptr;
    d->decode_rope = nullptr;
  });
  invalid_attn("d->decode->num_seqs is 8", false, [](radix_attn* a) { a->num_seqs = 8; });
  invalid_rope("d->decode_rope->num_tokens is 1", false,
               [](radix_rope_append* r) { r->num_tokens = 1; });
}

TEST_F(LayerMisuse, ErrorsInsideAPartNameIt) {
  int nothing = 0;
  invalid_attn("d->decode: layer is 9", false, [](radix_attn* a) { a->layer = 9; });
  invalid_attn("d->prefill: d->next", true, [&](radix_attn* a) { a->next = &nothing; });
  invalid_attn("d->prefill: d->cu_q_lens is NULL", true,
               [](radix_attn* a) { a->cu_q_lens = nullptr; });
  invalid_attn("d->decode: d->cu_q_lens is given", false,
               [&](radix_attn* a) { a->cu_q_lens = &nothing; });
  invalid_attn("d->decode: d->context_lens is NULL", false,
               [](radix_attn* a) { a->context_lens = nullptr; });
  invalid_rope("d->prefill_rope: d->slots", true, [](radix_rope_append* r) { r->slots = nullptr; });
  invalid_rope("d->decode_rope: d->rotary_dim is 3", false,
               [](radix_rope_append* r) { r->rotary_dim = 3; });
  const std::vector<int64_t> slots(kPrefill, 64 * 4);
  invalid_rope("d->prefill_rope: slots[0] is 256", true,
               [&](radix_rope_append* r) { r->slots = slots.data(); });
  const std::vector<int32_t> table(2 * 64, 64);
  invalid_attn("d->decode: ", false, [&](radix_attn* a) { a->block_tables = table.data(); });
}

TEST_F(LayerMisuse, PartsWithOtherHeads) {
  std::vector<float> memory(8 * 4 * 4 * 32);
  radix_attn a = *d_.prefill;
  radix_rope_append r = *d_.prefill_rope;
  a.k_cache = a.v_cache = tensor(memory.data(), RADIX_F32, {8, 4, 4, 32});
  invalid("d->prefill has K/V of 4 heads, head dims 32 and 32, d->decode of 2, 32 and 32",
          [&](radix_layer* d) { d->prefill = &a; });
  r.k_cache = r.v_cache = a.k_cache;
  invalid("d->prefill_rope has K/V of 4 heads", [&](radix_layer* d) { d->prefill_rope = &r; });
  r.v_cache = radix_tensor{};
  invalid("d->prefill_rope: k_cache is given and v_cache is not",
          [&](radix_layer* d) { d->prefill_rope = &r; });
}

TEST_F(LayerMisuse, Workspace) {
  invalid("d->workspace is (nil)", [](radix_layer* d) { d->workspace = nullptr; });
  invalid("d->workspace is 0x",
          [](radix_layer* d) { d->workspace = static_cast<char*>(d->workspace) + 32; });
  fails(RADIX_E_BUFFER, "d->workspace_size is 0", [](radix_layer* d) { d->workspace_size = 0; });
  fails(RADIX_E_BUFFER, "d->workspace_size", [](radix_layer* d) { --d->workspace_size; });
  fails(RADIX_E_BUFFER, "d->workspace_size is 0", [](radix_layer* d) {
    d->workspace = reinterpret_cast<void*>(UINTPTR_MAX - 63);  // nothing is counted from there
    d->workspace_size = 0;
  });
}

TEST_F(LayerMisuse, Plans) {
  Plan plan(e_.ctx(), plan_config(4));
  std::vector<char> room(4 << 20);  // plans' lists need more than launches without
  const auto with = [&](radix_layer* d, const radix_attn* part) {
    d->decode = part;
    d->workspace = room.data() + (64 - reinterpret_cast<uintptr_t>(room.data()) % 64);
    d->workspace_size = room.size() - 64;
  };
  ASSERT_OK(plan.update({a_}, nullptr));
  radix_attn a = plan.attn();
  invalid("d->decode_rope->num_tokens is 2: its rows of x are 1",
          [&](radix_layer* d) { with(d, &a); });
  ASSERT_OK(plan.update({a_, b_}, nullptr));
  a = plan.attn();
  a.context_lens = d_.decode->context_lens;
  invalid("d->decode: d->context_lens", [&](radix_layer* d) { with(d, &a); });
  const std::vector<int32_t> q_lens = {1, 1};
  ASSERT_OK(plan.update({a_, b_}, &q_lens));
  a.cu_q_lens = nullptr;
  fails(RADIX_E_STATE, "d->decode: d->plan has no decode step",
        [&](radix_layer* d) { with(d, &a); });
}

TEST(LayerContext, NeedsKvMemoryToLaunchAndAShapeToBeSized) {
  radix_config c = small_config();
  c.flags = RADIX_CTX_METADATA_ONLY;
  Ctx ctx(c);
  std::vector<float> x(32), w(256 * 32);
  radix_attn a = sized<radix_attn>();
  radix_rope_append r = sized<radix_rope_append>();
  a.num_seqs = 1;
  r.num_tokens = 1;
  radix_layer d = sized<radix_layer>();
  d.num_q_heads = 4;
  d.x = d.y = tensor(x.data(), RADIX_F32, {1, 32});
  d.w_qkv = tensor(w.data(), RADIX_F32, {256, 32});
  d.w_o = tensor(w.data(), RADIX_F32, {32, 128});
  d.decode = &a;
  d.decode_rope = &r;
  uint64_t bytes = 0;
  EXPECT_OK(radix_layer_workspace(ctx, &d, &bytes));
  EXPECT_GT(bytes, 0u);
  EXPECT_FAILS(RADIX_E_STATE, "METADATA_ONLY", radix_layer_launch(ctx, &d, nullptr));
}

}  // namespace
}  // namespace api_test
