#include "support/plain_attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/reference/attention.h"
#include "backend/reference/numeric.h"

namespace radixattn::test {
namespace {

float load(const void* data, int32_t dtype, int64_t at) {
  return static_cast<float>(reference::load_element(data, dtype, at));
}

// As a kernel that computes with numbers of `dtype` would hold x.
float rounded(float x, int32_t dtype) {
  float stored = 0.f;  // large enough for every dtype
  reference::store_element(&stored, dtype, 0, x);
  return load(&stored, dtype, 0);
}

float kv_scale(const float* scale, const AttentionParams& p, uint32_t head) {
  if (scale == nullptr) return 1.f;
  return scale[p.kv_scale_per_head ? head / (p.num_q_heads / p.num_kv_heads) : 0];
}

struct Row {
  uint32_t seq;
  int64_t row;
  int64_t position;
  uint32_t head;
};

int64_t token_offset(const AttentionParams& p, const PagedTensor& t, const Row& r, int64_t j) {
  const int64_t block = p.blocks.row(r.seq)[j / p.block_size];
  const int64_t kv_head = r.head / (p.num_q_heads / p.num_kv_heads);
  return block * t.block_stride + (j % p.block_size) * t.token_stride + kv_head * t.head_stride;
}

float score(const AttentionParams& p, const Row& r, const std::vector<float>& q, int64_t j) {
  const int64_t k = token_offset(p, p.k, r, j);
  float dot = 0.f;
  for (uint32_t i = 0; i < p.head_dim; ++i) dot += q[i] * load(p.k.data, p.k.dtype, k + i);
  float x = p.scale * kv_scale(p.k_scale, p, r.head) * dot;
  if (p.softcap > 0.f) x = p.softcap * std::tanh(x / p.softcap);
  if (p.alibi_slopes != nullptr) {
    x += p.alibi_slopes[r.head] * static_cast<float>(j - r.position);
  }
  return x;
}

void one_row(const AttentionParams& p, int32_t compute, const Row& r, float* out, float* lse) {
  std::fill(out, out + p.head_dim_v, 0.f);
  *lse = -INFINITY;
  const std::vector<int64_t> keys = reference::visible_keys(p, r.seq, r.row, r.position);
  if (keys.empty()) return;
  std::vector<float> q(p.head_dim);
  for (uint32_t i = 0; i < p.head_dim; ++i) {
    q[i] = load(p.q.data, p.q.dtype, r.row * p.q.row_stride + r.head * p.q.head_stride + i);
    q[i] = rounded(q[i], compute);
  }
  std::vector<float> x;
  for (const int64_t j : keys) x.push_back(score(p, r, q, j));
  float m = *std::max_element(x.begin(), x.end());
  if (p.sinks != nullptr) m = std::max(m, p.sinks[r.head]);
  float l = p.sinks != nullptr ? std::exp(p.sinks[r.head] - m) : 0.f;
  for (const float xj : x) l += std::exp(xj - m);
  const float v_scale = kv_scale(p.v_scale, p, r.head);
  for (size_t n = 0; n < keys.size(); ++n) {
    const float weight = rounded(std::exp(x[n] - m), compute) / l * v_scale;
    const int64_t v = token_offset(p, p.v, r, keys[n]);
    for (uint32_t i = 0; i < p.head_dim_v; ++i) {
      out[i] += weight * load(p.v.data, p.v.dtype, v + i);
    }
  }
  *lse = m + std::log(l);
}

}  // namespace

void plain_attention(const AttentionParams& p, int32_t compute, float* out, float* lse) {
  for (uint32_t s = 0; s < p.num_seqs; ++s) {
    const int64_t begin = p.cu_q_lens != nullptr ? p.cu_q_lens[s] : int64_t{s};
    const int64_t end = p.cu_q_lens != nullptr ? p.cu_q_lens[s + 1] : int64_t{s} + 1;
    for (int64_t row = begin; row < end; ++row) {
      const int64_t position = p.context_lens[s] - (end - begin) + (row - begin);
      for (uint32_t h = 0; h < p.num_q_heads; ++h) {
        const int64_t at = row * p.num_q_heads + h;
        one_row(p, compute, Row{s, row, position, h}, out + at * p.head_dim_v, lse + at);
      }
    }
  }
}

}  // namespace radixattn::test
