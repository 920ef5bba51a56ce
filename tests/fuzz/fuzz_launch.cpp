// Operations on blocks, attention, the layer.
#include <vector>

#include "fuzzer.h"

namespace radixattn::fuzz {

void Fuzzer::tensor(radix_tensor* t, int32_t dtype, std::initializer_list<int64_t> shape) {
  t->data = in_.chance(6) ? nullptr : floats_.data() + (in_.chance(128) ? 0 : 16 * kBuffer);
  t->dtype = in_.chance(8) ? in_.i32(10) : dtype;
  t->device = in_.chance(4) ? in_.i32(4) : 0;
  t->device_index = in_.chance(4) ? in_.i32(2) : 0;
  t->ndim = in_.chance(4) ? in_.i32(6) : static_cast<int32_t>(shape.size());
  size_t i = 0;
  for (int64_t n : shape) {
    // Any head count up to 65535 is one, so it stays within the buffer.
    const int64_t odd = i == 1 ? in_.below(65) : static_cast<int64_t>(in_.u64(64));
    t->shape[i++] = in_.chance(5) ? odd : n;
  }
  if (!in_.chance(40)) return;
  for (size_t k = 0; k + 1 < shape.size(); ++k)
    t->stride[k] = in_.chance(10) ? INT64_MAX : int64_t{in_.below(513)};
  t->stride[shape.size() - 1] = 1;
}

// Mostly a step that could be; block ids are in ints_.
void Fuzzer::fill_sequences(Sequences* s) {
  const auto after = [&](int32_t x, uint32_t most) {
    return x > 1000 ? x : x + static_cast<int32_t>(in_.below(most));
  };
  s->num = in_.below(4);
  for (uint32_t i = 0; i < 7; ++i) {
    s->lens[i] = in_.chance(10) ? in_.i32(100) : static_cast<int32_t>(in_.below(12));
    s->cu[i + 1] = in_.chance(6) ? in_.i32(20) : after(s->cu[i], 4);
    s->begin[i + 1] = in_.chance(6) ? in_.i32(20) : after(s->begin[i], 12);
  }
  for (uint32_t i = 0; i < 512; ++i)
    ints_[i] = static_cast<int32_t>(i % (config_.num_blocks + (in_.chance(1) ? 1 : 0)));
}

// All but rows and workspace.
void Fuzzer::fill_attention(radix_attn* d, bool prefill, const Sequences& s) {
  static const std::vector<float> slopes(64, 0.5f);
  d->flags = in_.chance(5) ? in_.u32(3) : 0;
  d->layer = in_.u32(1);
  d->num_seqs = in_.chance(5) ? in_.u32(6) % 7 : s.num;
  d->max_context_len = in_.chance(10) ? in_.u32(20) : 12;
  d->max_query_len = prefill ? in_.u32(4) : in_.below(2);
  d->window = in_.u32(5);
  d->scale = in_.f32();
  d->softcap = in_.f32();
  if (in_.chance(200)) {
    d->block_tables = array(ints_);
    d->block_table_stride =
        in_.chance(6) ? int64_t{in_.below(500)} - 1 : 12 + int64_t{in_.below(40)};
    if (in_.chance(2)) d->block_table_stride = INT64_MAX >> in_.below(8);
  } else {
    d->block_begin = s.begin;
    d->block_ids = array(ints_);
  }
  d->context_lens = array(s.lens);
  if (prefill != in_.chance(3)) d->cu_q_lens = s.cu;
  if (in_.chance(60)) d->alibi_slopes = slopes.data();
  if (in_.chance(60)) d->sinks = slopes.data();
  if (in_.chance(prefill ? 30 : 3)) {
    d->tree_mask = reinterpret_cast<const uint8_t*>(floats_.data());
    d->tree_mask_stride = in_.chance(20) ? int64_t{in_.below(4)} - 1 : 4 + int64_t{in_.below(9)};
    if (in_.chance(2)) d->tree_mask_stride = INT64_MAX;
  }
}

radix_status Fuzzer::attention(bool prefill) {
  Sized<radix_attn> d(in_);
  Sequences s;
  fill_sequences(&s);
  fill_attention(d.get(), prefill, s);
  const int64_t dim = config_.head_dim, heads = int64_t{config_.num_kv_heads} * (1 + in_.below(3));
  const int64_t rows = s.rows(prefill);
  tensor(&d->q, config_.kv_dtype, {rows, heads, dim});
  tensor(&d->out, RADIX_F32, {rows, heads, config_.head_dim_v});
  d->out.data = d->out.data == nullptr ? nullptr : floats_.data() + 32 * kBuffer;
  if (in_.chance(128)) {
    tensor(&d->lse, RADIX_F32, {rows, heads});
    d->lse.data = d->lse.data == nullptr ? nullptr : floats_.data() + 60 * kBuffer;
  }
  uint64_t bytes = 0;
  const radix_status st = radix_attn_workspace(ctx_, d.get(), &bytes);
  const Memory memory = give_workspace(d.get(), st, bytes);
  return prefill ? radix_prefill_launch(ctx_, d.pass(in_), nullptr)
                 : radix_paged_attention_launch(ctx_, d.pass(in_), nullptr);
}

// All but rows.
void Fuzzer::fill_rope(radix_rope_append* d, int64_t tokens) {
  for (int i = 0; i < 24; ++i) {
    longs_[i] = in_.chance(20) ? static_cast<int64_t>(in_.u64(2000))
                               : in_.below(config_.num_blocks * config_.block_size);
    ints_[512 + i] = in_.chance(10) ? in_.i32(3) : static_cast<int32_t>(in_.below(2000));
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
  d->slots = array(longs_);
  d->positions = array(ints_ + 512);
  d->num_tokens = in_.chance(6) ? in_.u64(8) % 9 : static_cast<uint64_t>(tokens);
}

radix_status Fuzzer::rope_append() {
  Sized<radix_rope_append> d(in_);
  const int64_t n = in_.below(6), heads = config_.num_kv_heads;
  fill_rope(d.get(), n);
  if (in_.chance(128)) tensor(&d->q, RADIX_F32, {n, 2 * heads, config_.head_dim});
  if (d->q.data != nullptr) d->q.data = floats_.data() + 40 * kBuffer;
  tensor(&d->k, RADIX_F32, {n, heads, config_.head_dim});
  tensor(&d->v, RADIX_F32, {n, heads, config_.head_dim_v});
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

// Rows that may lie a little apart: a layer's weights are too large for tensor's strides.
void Fuzzer::matrix(radix_tensor* t, int64_t rows, int64_t columns) {
  if (in_.chance(4)) return;
  t->data = floats_.data();
  t->dtype = in_.chance(6) ? in_.i32(10) : in_.chance(100) ? RADIX_BF16 : RADIX_F32;
  t->ndim = in_.chance(4) ? in_.i32(6) : 2;
  t->shape[0] = in_.chance(4) ? static_cast<int64_t>(in_.u64(64)) : rows;
  t->shape[1] = in_.chance(4) ? static_cast<int64_t>(in_.u64(64)) : columns;
  if (!in_.chance(40)) return;
  t->stride[0] = columns + in_.below(9) - (in_.chance(20) ? 8 : 0);
  t->stride[1] = 1;
}

void Fuzzer::vector(radix_tensor* t, int64_t size) {
  if (in_.chance(128)) return;
  t->data = floats_.data();
  t->dtype = in_.chance(6) ? in_.i32(10) : RADIX_F32;
  t->ndim = in_.chance(4) ? in_.i32(6) : 1;
  t->shape[0] = in_.chance(4) ? static_cast<int64_t>(in_.u64(64)) : size;
}

void Fuzzer::layer_weights(radix_layer* d, int64_t hidden) {
  const int64_t kv = config_.num_kv_heads, dim = config_.head_dim, dim_v = config_.head_dim_v;
  const int64_t heads = d->num_q_heads;
  if (in_.chance(128)) {
    matrix(&d->w_qkv, heads * dim + kv * (dim + dim_v), hidden);
    vector(&d->b_qkv, heads * dim + kv * (dim + dim_v));
  }
  if (d->w_qkv.data == nullptr || in_.chance(4)) {
    matrix(&d->w_q, heads * dim, hidden);
    matrix(&d->w_k, kv * dim, hidden);
    matrix(&d->w_v, kv * dim_v, hidden);
    vector(&d->b_q, heads * dim);
    vector(&d->b_k, kv * dim);
    vector(&d->b_v, kv * dim_v);
  }
  matrix(&d->w_o, hidden, heads * dim_v);
  vector(&d->b_o, hidden);
  vector(&d->norm, hidden);
  vector(&d->q_norm, dim);
  vector(&d->k_norm, dim);
}

// Both parts have the same slots and tables, which nobody but the caller could mind.
radix_status Fuzzer::layer() {
  if (config_.head_dim > 64 || config_.num_kv_heads == 0) return RADIX_OK;
  Sized<radix_layer> d(in_);
  Sized<radix_attn> decode(in_), prefill(in_);
  Sized<radix_rope_append> decode_rope(in_), prefill_rope(in_);
  Sequences s;
  fill_sequences(&s);
  if (s.rows(true) > 64) return RADIX_OK;
  const uint32_t parts = 1 + in_.below(3);
  int64_t rows = 0;
  if ((parts & 1) != 0) {
    fill_attention(decode.get(), false, s);
    int64_t own = s.rows(false);
    if (in_.chance(80) && plan_ != nullptr && radix_plan_attn(plan_, decode.get()) == RADIX_OK) {
      own = plan_rows(*decode.get());
      decode->window = plan_config_.window;
    }
    fill_rope(decode_rope.get(), own);
    d->decode = pass(decode.get());
    d->decode_rope = pass(decode_rope.get());
    rows += own;
  }
  if ((parts & 2) != 0) {
    fill_attention(prefill.get(), true, s);
    fill_rope(prefill_rope.get(), s.rows(true));
    d->prefill = pass(prefill.get());
    d->prefill_rope = pass(prefill_rope.get());
    rows += s.rows(true);
  }
  if (rows > 128) return RADIX_OK;
  const int64_t hidden = in_.chance(6) ? in_.below(4) : 8 * (1 + in_.below(5));
  d->flags = in_.chance(6) ? in_.u32(4) : in_.below(4);
  d->num_q_heads = in_.chance(6) ? in_.u32(8) % 64 : config_.num_kv_heads * (1 + in_.below(3));
  d->norm_eps = in_.chance(20) ? in_.f32() : 0.f;
  layer_weights(d.get(), hidden);
  matrix(&d->x, rows, hidden);
  matrix(&d->y, rows, hidden);
  if (d->x.data != nullptr) d->x.data = floats_.data() + 96 * kBuffer;
  if (d->y.data != nullptr && !in_.chance(60)) d->y.data = floats_.data() + 112 * kBuffer;
  uint64_t bytes = 0;
  const radix_status st = radix_layer_workspace(ctx_, d.get(), &bytes);
  const Memory memory = give_workspace(d.get(), st, bytes);
  return radix_layer_launch(ctx_, d.pass(in_), nullptr);
}

// dlpack.h's DLTensor.
radix_status Fuzzer::dlpack() {
  struct {
    void* data;
    int32_t device_type, device_id, ndim;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t* shape;
    int64_t* strides;
    uint64_t byte_offset;
  } t = {};
  int64_t shape[5] = {}, strides[5] = {};
  for (int i = 0; i < 5; ++i) {
    shape[i] = in_.chance(10) ? static_cast<int64_t>(in_.u64(9)) : 1 + in_.below(4);
    strides[i] = in_.chance(10) ? static_cast<int64_t>(in_.u64(9)) : i == 4 ? 1 : in_.below(9);
  }
  constexpr uint8_t kTypes[][2] = {{2, 32}, {2, 16}, {4, 16}, {10, 8}, {0, 64}, {1, 8}};
  const uint8_t* type = kTypes[in_.below(6)];
  t.data = pass(floats_.data());
  t.device_type = in_.chance(20) ? in_.i32(12) : 1;
  t.device_id = in_.i32(2);
  t.ndim = in_.chance(10) ? in_.i32(7) : static_cast<int32_t>(1 + in_.below(5));
  t.code = in_.chance(20) ? in_.byte() : type[0];
  t.bits = in_.chance(20) ? in_.byte() : type[1];
  t.lanes = in_.chance(10) ? static_cast<uint16_t>(in_.u32(3)) : 1;
  t.shape = pass(shape);
  t.strides = in_.chance(80) ? nullptr : strides;
  t.byte_offset = in_.chance(20) ? in_.u64(64) : 0;
  radix_tensor out = {};
  return radix_tensor_from_dlpack(pass(&t), pass(&out));
}

radix_status Fuzzer::data_call() {
  for (int i = 0; i < 16; ++i)
    ints_[i] = in_.chance(8) ? in_.i32(40) : static_cast<int32_t>(in_.below(config_.num_blocks));
  int32_t* blocks = pass(ints_);
  uint64_t bytes = 0;
  const auto n = static_cast<uint32_t>(count(blocks, 3, 8));
  switch (in_.below(20)) {
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
    case 14:
    case 15:
      return plan_launch();
    case 16:
    case 17:
      return layer();
    case 18:
      return dlpack();
    default:
      return match_batch();
  }
}

}  // namespace radixattn::fuzz
