#include "backend/reference/attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/reference/numeric.h"

namespace radixattn::reference {
namespace {

// One query row and head.
struct Query {
  uint32_t seq;
  int64_t row;       // of q and out
  int64_t position;  // negative: before the first key
  uint32_t head;
};

std::vector<double> load_vector(const void* data, int32_t dtype, int64_t at, uint32_t n) {
  std::vector<double> x(n);
  for (uint32_t i = 0; i < n; ++i) x[i] = load_element(data, dtype, at + i);
  return x;
}

double kv_scale(const float* scale, const AttentionParams& p, const Query& query) {
  if (scale == nullptr) return 1.0;
  return scale[p.kv_scale_per_head ? query.head / (p.num_q_heads / p.num_kv_heads) : 0];
}

// Element offset of token j's vector in K or V.
int64_t token_offset(const AttentionParams& p, const PagedTensor& t, const Query& query,
                     int64_t j) {
  const int64_t block = p.blocks.row(query.seq)[j / p.block_size];
  const int64_t kv_head = query.head / (p.num_q_heads / p.num_kv_heads);
  return block * t.block_stride + (j % p.block_size) * t.token_stride + kv_head * t.head_stride;
}

// x_j of one key.
double score(const AttentionParams& p, const Query& query, const std::vector<double>& q,
             int64_t j) {
  const int64_t k = token_offset(p, p.k, query, j);
  double dot = 0.0;
  for (uint32_t i = 0; i < p.head_dim; ++i) dot += q[i] * load_element(p.k.data, p.k.dtype, k + i);
  double x = double{p.scale} * kv_scale(p.k_scale, p, query) * dot;
  if (p.softcap > 0.f) x = double{p.softcap} * std::tanh(x / double{p.softcap});
  if (p.alibi_slopes != nullptr) {
    x += double{p.alibi_slopes[query.head]} * static_cast<double>(j - query.position);
  }
  return x;
}

void one_row(const AttentionParams& p, const Query& query, double* out, double* lse) {
  std::fill(out, out + p.head_dim_v, 0.0);
  *lse = -INFINITY;
  const std::vector<int64_t> keys = visible_keys(p, query.seq, query.row, query.position);
  if (keys.empty()) return;

  const std::vector<double> q = load_vector(
      p.q.data, p.q.dtype, query.row * p.q.row_stride + query.head * p.q.head_stride, p.head_dim);
  std::vector<double> x;
  for (const int64_t j : keys) x.push_back(score(p, query, q, j));
  double m = *std::max_element(x.begin(), x.end());
  if (p.sinks != nullptr) m = std::max(m, double{p.sinks[query.head]});
  double l = p.sinks != nullptr ? std::exp(double{p.sinks[query.head]} - m) : 0.0;
  for (const double xj : x) l += std::exp(xj - m);

  const double v_scale = kv_scale(p.v_scale, p, query);
  for (size_t n = 0; n < keys.size(); ++n) {
    const double weight = std::exp(x[n] - m) / l * v_scale;
    const int64_t v = token_offset(p, p.v, query, keys[n]);
    for (uint32_t i = 0; i < p.head_dim_v; ++i)
      out[i] += weight * load_element(p.v.data, p.v.dtype, v + i);
  }
  *lse = m + std::log(l);
}

}  // namespace

std::vector<int64_t> visible_keys(const AttentionParams& p, uint32_t seq, int64_t row,
                                  int64_t position) {
  const int64_t first = p.window == 0 ? 0 : std::max<int64_t>(0, position - int64_t{p.window} + 1);
  std::vector<int64_t> keys;
  if (p.tree_mask == nullptr) {
    for (int64_t j = first; j <= position; ++j) keys.push_back(j);
    return keys;
  }
  const int64_t old = p.context_lens[seq] - (p.cu_q_lens[seq + 1] - p.cu_q_lens[seq]);
  const uint8_t* bits = p.tree_mask + row * p.tree_mask_stride;
  for (int64_t j = first; j < p.context_lens[seq]; ++j) {
    const int64_t fresh = j - old;
    if (fresh < 0 || (bits[fresh / 8] >> (fresh % 8) & 1) != 0) keys.push_back(j);
  }
  return keys;
}

void attention(const AttentionParams& p, double* out, double* lse) {
  for (uint32_t s = 0; s < p.num_seqs; ++s) {
    const int64_t begin = p.cu_q_lens != nullptr ? p.cu_q_lens[s] : int64_t{s};
    const int64_t end = p.cu_q_lens != nullptr ? p.cu_q_lens[s + 1] : int64_t{s} + 1;
    for (int64_t row = begin; row < end; ++row) {
      const int64_t position = p.context_lens[s] - (end - begin) + (row - begin);
      for (uint32_t h = 0; h < p.num_q_heads; ++h) {
        const int64_t at = row * p.num_q_heads + h;
        one_row(p, Query{s, row, position, h}, out + at * p.head_dim_v, lse + at);
      }
    }
  }
}

}  // namespace radixattn::reference
