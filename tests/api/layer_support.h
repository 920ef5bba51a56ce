// What the tests of layers share: a model of one attention layer, the same in double without a
// cache, and an engine that runs steps of requests through radix_layer_launch.
//
// A token's row of x is a row of an embedding table, so that a wrong row, slot, position or table
// shows. The definition recomputes K and V of every token of a sequence and knows no cache.
#pragma once

#include <cmath>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "api_support.h"

namespace api_test {

inline int mantissa_bits(int32_t dtype) {
  return dtype == RADIX_F32 ? 23 : dtype == RADIX_F16 ? 10 : 7;
}

// Numbers of a dtype as bytes and as doubles. f16 and bf16 of normal size only.
class Numbers {
 public:
  Numbers() = default;
  Numbers(int32_t dtype, size_t n) : dtype_(dtype), bytes_(n * width(), 0xff) {}

  size_t width() const { return dtype_ == RADIX_F32 ? 4 : 2; }
  int32_t dtype() const { return dtype_; }
  size_t size() const { return bytes_.size() / width(); }
  void* data() { return bytes_.data(); }
  void* at(size_t i) { return bytes_.data() + i * width(); }
  const std::vector<uint8_t>& bytes() const { return bytes_; }

  void set(size_t i, double x) {
    const float f = static_cast<float>(x);
    if (dtype_ == RADIX_F32) {
      std::memcpy(at(i), &f, 4);
      return;
    }
    int exponent = 0;
    const double fraction = std::frexp(static_cast<double>(f), &exponent);  // [0.5, 1)
    const int digits = mantissa_bits(dtype_) + 1;
    const double whole = std::nearbyint(std::ldexp(fraction, digits));
    const auto rounded = static_cast<float>(std::ldexp(whole, exponent - digits));
    uint32_t u = 0;
    std::memcpy(&u, &rounded, 4);
    uint32_t half = u >> 16;
    if (dtype_ == RADIX_F16) {
      const uint32_t magnitude = u & 0x7fffffffu;  // below 2^-14: zero
      half = (u >> 16 & 0x8000u) | (magnitude < 0x38800000u ? 0 : (magnitude - 0x38000000u) >> 13);
    }
    const auto bits = static_cast<uint16_t>(half);
    std::memcpy(at(i), &bits, 2);
  }

  double get(size_t i) const {
    uint32_t u = 0;
    std::memcpy(&u, bytes_.data() + i * width(), width());
    if (dtype_ == RADIX_BF16) u <<= 16;
    if (dtype_ == RADIX_F16) {
      const uint32_t magnitude = u & 0x7fffu;
      u = (u & 0x8000u) << 16 | (magnitude == 0 ? 0 : (magnitude << 13) + 0x38000000u);
    }
    float f = 0;
    std::memcpy(&f, &u, 4);
    return static_cast<double>(f);
  }

 private:
  int32_t dtype_ = RADIX_F32;
  std::vector<uint8_t> bytes_;
};

// A matrix, or a vector (rows 1), with a gap of NaN behind each row.
struct Matrix {
  uint32_t rows = 0, columns = 0;
  int64_t stride = 0;
  Numbers numbers;

  Matrix() = default;
  Matrix(int32_t dtype, uint32_t r, uint32_t c, uint32_t gap = 0)
      : rows(r), columns(c), stride(c + gap), numbers(dtype, size_t{r} * (c + gap)) {}
  static Matrix random(int32_t dtype, uint32_t r, uint32_t c, uint32_t gap, uint32_t seed,
                       double scale, double offset = 0) {
    Matrix m(dtype, r, c, gap);
    for (uint32_t i = 0; i < r; ++i) {
      for (uint32_t j = 0; j < c; ++j)
        m.numbers.set(m.index(i, j), offset + scale * value(seed, i * c + j));
    }
    return m;
  }
  size_t index(uint32_t r, uint32_t c) const { return static_cast<size_t>(r * stride) + c; }
  double get(uint32_t r, uint32_t c) const { return numbers.get(index(r, c)); }
  bool empty() const { return rows == 0; }
  // Rows [row, row + n), columns [column, column + m): a slice by stride, as ranks take them.
  radix_tensor slice(uint32_t row, uint32_t n, uint32_t column, uint32_t m) {
    return tensor(numbers.at(index(row, column)), numbers.dtype(), {n, m}, {stride, 1});
  }
  radix_tensor matrix() { return empty() ? radix_tensor{} : slice(0, rows, 0, columns); }
  radix_tensor vector(uint32_t begin, uint32_t n) {
    return empty() ? radix_tensor{} : tensor(numbers.at(begin), numbers.dtype(), {n});
  }
  radix_tensor vector() { return vector(0, columns); }
};

struct ModelShape {
  uint32_t hidden = 40, q_heads = 4, kv_heads = 2, dim = 32, dim_v = 32, rotary = 16;
  int32_t x = RADIX_F32, weight = RADIX_F32, kv = RADIX_F32;
  bool fused = false, bias = false, norm = false, head_norms = false;
  uint32_t flags = 0, window = 0, weight_gap = 0;
  uint32_t threads = 0, num_blocks = 64;
  uint32_t q_columns() const { return q_heads * dim; }
  uint32_t k_columns() const { return kv_heads * dim; }
  uint32_t v_columns() const { return kv_heads * dim_v; }
};

// The weights. The fused matrix holds the same rows as the three apart.
struct Model {
  static constexpr uint32_t kVocab = 97;
  ModelShape shape;
  Matrix embedding, norm, qkv, o, b_qkv, b_o, q_norm, k_norm;

  explicit Model(const ModelShape& s) : shape(s) {
    const double scale = 1.7 / std::sqrt(s.hidden), gap = s.weight_gap;
    const auto g = static_cast<uint32_t>(gap);
    embedding = Matrix::random(s.x, kVocab, s.hidden, 0, 1, 1.5);
    qkv = Matrix::random(s.weight, s.q_columns() + s.k_columns() + s.v_columns(), s.hidden, g, 2,
                         scale);
    o = Matrix::random(s.weight, s.hidden, s.q_heads * s.dim_v, g, 3,
                       1.7 / std::sqrt(s.q_heads * s.dim_v));
    b_qkv = Matrix::random(s.weight, 1, qkv.rows, 0, 4, 0.3);
    b_o = Matrix::random(s.weight, 1, s.hidden, 0, 5, 0.3);
    if (!s.bias) b_qkv = b_o = Matrix();
    const double one = (s.flags & RADIX_LAYER_NORM_PLUS_ONE) != 0 ? 0.0 : 1.0;
    if (s.norm) norm = Matrix::random(s.weight, 1, s.hidden, 0, 6, 0.5, one);
    if (!s.head_norms) return;
    q_norm = Matrix::random(s.weight, 1, s.dim, 0, 7, 0.5, one);
    k_norm = Matrix::random(s.weight, 1, s.dim, 0, 8, 0.5, one);
  }

  // Weights of query heads [q0, q1) and KV heads [kv0, kv1), the rest of the layer's descriptor
  // untouched. rank 0 has the bias of the output.
  void describe(radix_layer* d, uint32_t ranks = 1, uint32_t rank = 0) {
    const ModelShape& s = shape;
    const uint32_t q = s.q_columns() / ranks, kc = s.k_columns() / ranks,
                   vc = s.v_columns() / ranks;
    const uint32_t at[3] = {rank * q, s.q_columns() + rank * kc,
                            s.q_columns() + s.k_columns() + rank * vc};
    d->num_q_heads = s.q_heads / ranks;
    d->norm = norm.vector();
    d->q_norm = q_norm.vector();
    d->k_norm = k_norm.vector();
    if (s.fused) {
      d->w_qkv = qkv.matrix();
      d->b_qkv = b_qkv.vector();
    } else {
      d->w_q = qkv.slice(at[0], q, 0, s.hidden);
      d->w_k = qkv.slice(at[1], kc, 0, s.hidden);
      d->w_v = qkv.slice(at[2], vc, 0, s.hidden);
      d->b_q = b_qkv.vector(at[0], q);
      d->b_k = b_qkv.vector(at[1], kc);
      d->b_v = b_qkv.vector(at[2], vc);
    }
    const uint32_t heads = s.q_heads * s.dim_v / ranks;
    d->w_o = o.slice(0, s.hidden, rank * heads, heads);
    if (rank == 0) d->b_o = b_o.vector();
    d->flags = s.flags;
    if (rank != 0) d->flags &= ~uint32_t{RADIX_LAYER_ADD};
  }
};

// ---- the definition, in double

using Row = std::vector<double>;

inline Row norm_row(const ModelShape& s, const Row& x, const Matrix& weight) {
  double squares = 0;
  for (const double e : x) squares += e * e;
  const double rms = std::sqrt(squares / static_cast<double>(x.size()) + 1e-6);
  Row y(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const double w = weight.get(0, static_cast<uint32_t>(i));
    y[i] = x[i] / rms * ((s.flags & RADIX_LAYER_NORM_PLUS_ONE) != 0 ? 1 + w : w);
  }
  return y;
}

inline Row multiply(const Matrix& w, const Matrix& bias, const Row& x) {
  Row y(w.rows);
  for (uint32_t o = 0; o < w.rows; ++o) {
    for (uint32_t i = 0; i < w.columns; ++i) y[o] += x[i] * w.get(o, i);
    if (!bias.empty()) y[o] += bias.get(0, o);
  }
  return y;
}

// Heads [at, at + n) of a row of qkv that turn: normalised, then rotated (NeoX pairs).
inline void turn_heads(const ModelShape& s, const Matrix& weight, uint32_t at, uint32_t heads,
                       size_t position, Row* row) {
  for (uint32_t h = 0; h < heads; ++h) {
    const auto begin = row->begin() + at + h * s.dim;
    Row head(begin, begin + s.dim);
    if (!weight.empty()) head = norm_row(s, head, weight);
    for (uint32_t i = 0; i < s.rotary / 2; ++i) {
      const double angle = static_cast<double>(position) * std::pow(10000.0, -2.0 * i / s.rotary);
      const double a = head[i], b = head[i + s.rotary / 2];
      head[i] = a * std::cos(angle) - b * std::sin(angle);
      head[i + s.rotary / 2] = b * std::cos(angle) + a * std::sin(angle);
    }
    std::copy(head.begin(), head.end(), begin);
  }
}

// q, k, v of every token.
inline std::vector<Row> project(const Model& m, const Tokens& t) {
  const ModelShape& s = m.shape;
  std::vector<Row> rows;
  for (size_t p = 0; p < t.size(); ++p) {
    Row x(s.hidden);
    for (uint32_t i = 0; i < s.hidden; ++i)
      x[i] = m.embedding.get(static_cast<uint32_t>(t[p]) % Model::kVocab, i);
    if (s.norm) x = norm_row(s, x, m.norm);
    Row row = multiply(m.qkv, m.b_qkv, x);
    turn_heads(s, m.q_norm, 0, s.q_heads, p, &row);
    turn_heads(s, m.k_norm, s.q_columns(), s.kv_heads, p, &row);
    rows.push_back(row);
  }
  return rows;
}

// One head of the token at p over those before it and itself.
inline void attend(const ModelShape& s, const std::vector<Row>& rows, size_t p, uint32_t head,
                   Row* heads) {
  const uint32_t kv = head / (s.q_heads / s.kv_heads), k = s.q_columns() + kv * s.dim,
                 v = s.q_columns() + s.k_columns() + kv * s.dim_v;
  const size_t first = s.window != 0 && p + 1 > s.window ? p + 1 - s.window : 0;
  double total = 0;
  Row sum(s.dim_v);
  for (size_t j = first; j <= p; ++j) {
    double dot = 0;
    for (uint32_t i = 0; i < s.dim; ++i) dot += rows[p][head * s.dim + i] * rows[j][k + i];
    const double w = std::exp(dot / std::sqrt(s.dim));
    total += w;
    for (uint32_t i = 0; i < s.dim_v; ++i) sum[i] += w * rows[j][v + i];
  }
  for (uint32_t i = 0; i < s.dim_v; ++i) (*heads)[head * s.dim_v + i] = sum[i] / total;
}

// y of tokens [first, t.size()).
inline std::vector<Row> definition(const Model& m, const Tokens& t, size_t first) {
  const ModelShape& s = m.shape;
  const std::vector<Row> rows = project(m, t);
  std::vector<Row> result;
  for (size_t p = first; p < t.size(); ++p) {
    Row heads(s.q_heads * s.dim_v);
    for (uint32_t h = 0; h < s.q_heads; ++h) attend(s, rows, p, h, &heads);
    Row y = multiply(m.o, m.b_o, heads);
    for (uint32_t i = 0; i < s.hidden && (s.flags & RADIX_LAYER_ADD) != 0; ++i)
      y[i] += m.embedding.get(static_cast<uint32_t>(t[p]) % Model::kVocab, i);
    result.push_back(y);
  }
  return result;
}

// ---- steps

// A request and all its tokens: what it lacks is computed in the step.
struct Job {
  radix_req req;
  Tokens tokens;
};

// One step's arrays and its descriptor, which points into them: decode rows first.
struct Step {
  struct Part {
    std::vector<int32_t> tables, lens, cu = {0}, positions;
    std::vector<int64_t> slots;
    int64_t stride = 0;
    radix_attn attn = sized<radix_attn>();
    radix_rope_append rope = sized<radix_rope_append>();
  };
  Part decode, prefill;
  Matrix x, y;
  std::vector<char> memory;
  radix_layer d = sized<radix_layer>();

  Step() = default;
  Step(const Step&) = delete;
  Step& operator=(const Step&) = delete;
};

inline radix_config model_config(const ModelShape& s, uint32_t ranks = 1) {
  radix_config c = small_config(s.num_blocks, 4);
  c.num_layers = 1;
  c.kv_dtype = s.kv;
  c.num_kv_heads = s.kv_heads / ranks;
  c.head_dim = s.dim;
  c.head_dim_v = s.dim_v;
  c.num_threads = s.threads;
  return c;
}

// A context and a model, or a rank's slice of it.
class LayerEngine {
 public:
  explicit LayerEngine(Model* model, uint32_t ranks = 1, uint32_t rank = 0)
      : model_(*model), ranks_(ranks), rank_(rank), ctx_(model_config(model->shape, ranks)) {}

  Ctx& ctx() { return ctx_; }
  Model& model() { return model_; }

  // Appends what the requests lack and describes the step. Jobs of decode lack one token.
  std::unique_ptr<Step> prepare(const std::vector<Job>& decode, const std::vector<Job>& prefill) {
    auto step = std::make_unique<Step>();
    step->decode.stride = step->prefill.stride = model_.shape.num_blocks;
    std::vector<radix_token> rows;
    for (const Job& j : decode) add(j, &step->decode, &rows);
    for (const Job& j : prefill) add(j, &step->prefill, &rows);
    fill(&step->decode, false);
    fill(&step->prefill, true);
    const ModelShape& s = model_.shape;
    const auto n = static_cast<uint32_t>(rows.size());
    step->x = Matrix(s.x, n, s.hidden, 3);
    step->y = Matrix(s.x, n, s.hidden, 5);
    for (uint32_t r = 0; r < n; ++r) {
      for (uint32_t i = 0; i < s.hidden; ++i) {
        const double e = model_.embedding.get(static_cast<uint32_t>(rows[r]) % Model::kVocab, i);
        step->x.numbers.set(step->x.index(r, i), e);
        step->y.numbers.set(step->y.index(r, i), e);  // what ADD adds to
      }
    }
    radix_layer& d = step->d;
    model_.describe(&d, ranks_, rank_);
    d.x = step->x.matrix();
    d.y = step->y.matrix();
    if (!decode.empty()) d.decode = &step->decode.attn, d.decode_rope = &step->decode.rope;
    if (!prefill.empty()) d.prefill = &step->prefill.attn, d.prefill_rope = &step->prefill.rope;
    give_workspace(step.get());
    return step;
  }

  // A workspace of exactly the size that the query says, guarded behind.
  void give_workspace(Step* step) {
    radix_layer& d = step->d;
    EXPECT_OK(radix_layer_workspace(ctx_, &d, &d.workspace_size));
    step->memory.assign(d.workspace_size + 128, char(0x5c));
    std::memset(step->memory.data(), 0xff, d.workspace_size + 64);
    const auto address = reinterpret_cast<uintptr_t>(step->memory.data());
    d.workspace = step->memory.data() + (64 - address % 64) % 64;
    std::memset(static_cast<char*>(d.workspace) + d.workspace_size, 0x5c,
                step->memory.size() - d.workspace_size - (64 - address % 64) % 64);
  }

  void launch(Step* step) {
    ASSERT_OK(radix_layer_launch(ctx_, &step->d, nullptr));
    const char* end = static_cast<char*>(step->d.workspace) + step->d.workspace_size;
    for (const char* p = end; p < step->memory.data() + step->memory.size(); ++p)
      ASSERT_EQ(*p, 0x5c) << "behind the workspace";
  }

  std::unique_ptr<Step> run(const std::vector<Job>& decode, const std::vector<Job>& prefill) {
    std::unique_ptr<Step> step = prepare(decode, prefill);
    launch(step.get());
    return step;
  }

  // Rows of y from `row` on against the definition of tokens [first, n).
  void expect_rows(const Step& step, uint32_t row, const Tokens& t, size_t first) {
    const ModelShape& s = model_.shape;
    for (const Row& want : definition(model_, t, first)) {
      for (uint32_t i = 0; i < s.hidden; ++i)
        ASSERT_NEAR(step.y.get(row, i), want[i], tolerance(s, want[i]))
            << "row " << row << " column " << i;
      ++row;
    }
  }

  // Three products, two norms and a softmax in f32 of numbers about 1 in size; K/V, and y at the
  // end, rounded to their dtypes.
  static double tolerance(const ModelShape& s, double want) {
    const double kv = s.kv == RADIX_F32 ? 0 : 8 * std::ldexp(1.0, -mantissa_bits(s.kv));
    return 3e-5 + kv + std::ldexp(1 + std::fabs(want), -mantissa_bits(s.x) - 1);
  }

 private:
  void add(const Job& job, Step::Part* part, std::vector<radix_token>* rows) {
    const size_t have = ctx_.info(job.req).num_tokens;
    const Tokens fresh(job.tokens.begin() + static_cast<int64_t>(have), job.tokens.end());
    const Ctx::Appended a = ctx_.append(job.req, fresh);
    EXPECT_EQ(a.status, RADIX_OK) << last_error();
    EXPECT_OK(radix_run_ops(ctx_, a.ops.data(), static_cast<uint32_t>(a.ops.size()), nullptr));
    std::vector<int32_t> row = ctx_.row(job.req);
    row.resize(static_cast<size_t>(part->stride), -1);
    part->tables.insert(part->tables.end(), row.begin(), row.end());
    part->lens.push_back(static_cast<int32_t>(job.tokens.size()));
    part->slots.insert(part->slots.end(), a.slots.begin(), a.slots.end());
    for (size_t p = have; p < job.tokens.size(); ++p)
      part->positions.push_back(static_cast<int32_t>(p));
    part->cu.push_back(static_cast<int32_t>(part->slots.size()));
    rows->insert(rows->end(), fresh.begin(), fresh.end());
  }

  void fill(Step::Part* part, bool prefill) {
    const ModelShape& s = model_.shape;
    radix_attn& a = part->attn;
    a.num_seqs = static_cast<uint32_t>(part->lens.size());
    for (const int32_t len : part->lens)
      a.max_context_len = std::max(a.max_context_len, static_cast<uint32_t>(len));
    a.max_query_len = prefill ? static_cast<uint32_t>(part->slots.size()) : 1;
    a.window = s.window;
    a.block_tables = part->tables.data();
    a.block_table_stride = part->stride;
    a.context_lens = part->lens.data();
    a.cu_q_lens = prefill ? part->cu.data() : nullptr;
    radix_rope_append& r = part->rope;
    r.rotary_dim = s.rotary;
    r.slots = part->slots.data();
    r.positions = part->positions.data();
    r.num_tokens = part->slots.size();
  }

  Model& model_;
  uint32_t ranks_, rank_;
  Ctx ctx_;
};

// Rows [row, row + n) of both have the same bits.
inline bool same_bits(const Matrix& a, uint32_t row_a, const Matrix& b, uint32_t row_b,
                      uint32_t n) {
  for (uint32_t r = 0; r < n; ++r) {
    const size_t bytes = a.columns * a.numbers.width();
    const uint8_t* at_a = a.numbers.bytes().data() + a.index(row_a + r, 0) * a.numbers.width();
    const uint8_t* at_b = b.numbers.bytes().data() + b.index(row_b + r, 0) * b.numbers.width();
    if (std::memcmp(at_a, at_b, bytes) != 0) return false;
  }
  return true;
}

inline Tokens plus(Tokens t, radix_token more) {
  t.push_back(more);
  return t;
}

}  // namespace api_test
