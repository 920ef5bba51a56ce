// Merges of attention states as tests want them: tensors with gaps, the definition in double.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "backend/backend.h"
#include "support/rng.h"
#include "support/tensors.h"
#include "support/tolerance.h"

namespace radixattn::test {

// One row and head: the states that count, added up in double.
class Definition {
 public:
  explicit Definition(uint32_t dim) : o_(dim, 0.0) {}

  // The maximum first, of all states; then each.
  void see(double lse) { top_ = std::max(top_, lse); }
  template <class Element>
  void add(double lse, Element element) {
    if (lse == -INFINITY) return;
    const double weight = std::exp(lse - top_);
    sum_ += weight;
    for (uint32_t e = 0; e < o_.size(); ++e) o_[e] += weight * element(e);
  }
  void add_sink(double sink) {
    if (sum_ > 0) sum_ += std::exp(sink - top_);
  }
  double o(uint32_t e) const { return sum_ > 0 ? o_[e] / sum_ : 0.0; }
  double lse() const { return sum_ > 0 ? top_ + std::log(sum_) : -INFINITY; }

 private:
  double top_ = -INFINITY, sum_ = 0;
  std::vector<double> o_;
};

inline void expect_row(const Definition& want, uint32_t dim, const Elements& out, int64_t at) {
  for (uint32_t e = 0; e < dim; ++e) {
    const double x = want.o(e);
    const double allowed = want.lse() == -INFINITY ? 0 : 3e-6 + unit_in_last_place(out.dtype(), x);
    ASSERT_NEAR(out.get(at + e), x, allowed) << "element " << e;
  }
}

inline void expect_lse(double lse, double want) {
  if (want == -INFINITY) {
    EXPECT_EQ(lse, -INFINITY);
  } else {
    EXPECT_NEAR(lse, want, lse_tolerance(0, want));
  }
}

// What lies between rows is what it was.
inline void expect_gaps(const Elements& out, uint32_t rows, uint32_t heads, uint32_t dim,
                        const RowTensor& t) {
  std::vector<bool> owned(static_cast<size_t>(out.size()));
  for (uint32_t r = 0; r < rows; ++r) {
    for (uint32_t h = 0; h < heads; ++h) {
      const auto begin = owned.begin() + r * t.row_stride + h * t.head_stride;
      std::fill(begin, begin + dim, true);
    }
  }
  for (int64_t i = 0; i < out.size(); ++i) {
    if (owned[static_cast<size_t>(i)]) continue;
    ASSERT_TRUE(out.is_filled_with(i, kPoisonByte)) << "out[" << i << "] is nobody's";
  }
}

// ---- tensors ------------------------------------------------------------------------------------

struct MergeShape {
  uint32_t states = 2, rows = 5, heads = 6, dim = 64;
  int64_t gap = 0;         // elements after each head and each row; other tensors have other gaps
  int32_t dtypes[3] = {};  // of states in turn, and of out
  float amplitude = 20.f;  // of the rows' LSE
  bool lse = true;
};

struct States {
  MergeParams p;
  std::vector<Elements> o;
  std::vector<std::vector<float>> lse;
  Elements out;
  std::vector<float> out_lse;
};

inline RowTensor rows_of(Elements& e, const MergeShape& s, int64_t gap) {
  return {e.data(), e.dtype(), (s.dim + gap) * s.heads + gap, s.dim + gap};
}

inline int64_t size_of(const MergeShape& s, int64_t gap) {
  return ((s.dim + gap) * s.heads + gap) * s.rows;
}

// One in four states is empty and holds NaN; row 1 of every state is.
inline States make_states(const MergeShape& s, uint64_t seed) {
  States m;
  Rng rng(seed);
  m.p.num_states = s.states;
  m.p.num_rows = s.rows;
  m.p.num_heads = s.heads;
  m.p.head_dim = s.dim;
  std::vector<float> level(size_t{s.rows} * s.heads);
  for (float& l : level) l = s.amplitude * rng.uniform();
  for (uint32_t i = 0; i < s.states; ++i) {
    const int64_t gap = s.gap * (i + 1);
    m.o.emplace_back(s.dtypes[i % 3], size_of(s, gap), kNanByte);
    m.p.in[i] = rows_of(m.o[i], s, gap);
    m.lse.emplace_back(level);
    for (uint32_t at = 0; at < s.rows * s.heads; ++at) {
      const bool empty = at / s.heads == 1 || rng.one_in(4);
      m.lse[i][at] = empty ? -INFINITY : level[at] + 5.f * rng.uniform();
      for (uint32_t e = 0; e < s.dim && !empty; ++e) {
        m.o[i].set(at / s.heads * m.p.in[i].row_stride + at % s.heads * m.p.in[i].head_stride + e,
                   double{rng.uniform()});
      }
    }
  }
  for (uint32_t i = 0; i < s.states; ++i) {  // the vectors have grown: their data moved
    m.p.in[i].data = m.o[i].data();
    m.p.in_lse[i] = m.lse[i].data();
  }
  m.out = Elements(s.dtypes[2], size_of(s, s.gap), kPoisonByte);
  m.out_lse.assign(size_t{s.rows} * s.heads, NAN);
  m.p.out = rows_of(m.out, s, s.gap);
  m.p.out_lse = s.lse ? m.out_lse.data() : nullptr;
  return m;
}

inline void expect_merged(const States& m) {
  const MergeParams& p = m.p;
  for (uint32_t at = 0; at < p.num_rows * p.num_heads; ++at) {
    SCOPED_TRACE(::testing::Message()
                 << "row " << at / p.num_heads << " head " << at % p.num_heads);
    Definition want(p.head_dim);
    for (uint32_t i = 0; i < p.num_states; ++i) want.see(double{m.lse[i][at]});
    for (uint32_t i = 0; i < p.num_states; ++i) {
      const int64_t from =
          at / p.num_heads * p.in[i].row_stride + at % p.num_heads * p.in[i].head_stride;
      want.add(double{m.lse[i][at]}, [&](uint32_t e) { return m.o[i].get(from + e); });
    }
    expect_row(want, p.head_dim, m.out,
               at / p.num_heads * p.out.row_stride + at % p.num_heads * p.out.head_stride);
    if (p.out_lse != nullptr) {
      expect_lse(double{m.out_lse[at]}, want.lse());
    } else {
      EXPECT_TRUE(std::isnan(m.out_lse[at]));
    }
  }
  expect_gaps(m.out, p.num_rows, p.num_heads, p.head_dim, p.out);
}

constexpr int32_t kMergeDtypes[] = {RADIX_F32, RADIX_F16, RADIX_BF16};

inline MergeShape merge_of_dtype(int32_t dtype) {
  MergeShape s;
  for (int32_t& d : s.dtypes) d = dtype;
  return s;
}

inline MergeShape random_merge(Rng* rng) {
  MergeShape s;
  s.states = rng->between(1, MergeParams::kMaxStates);
  s.rows = rng->between(1, 9);
  s.heads = rng->between(1, 17);
  s.dim = 8 * rng->between(1, 32);
  s.gap = rng->below(6);
  for (int32_t& d : s.dtypes) d = rng->pick(kMergeDtypes);
  s.amplitude = rng->pick({1.f, 20.f, 300.f});
  return s;
}

// Bit for bit, whatever memory lies before the first element.
inline bool same_elements(const Elements& a, const Elements& b) {
  return a.dtype() == b.dtype() && a.size() == b.size() &&
         std::memcmp(a.data(), b.data(),
                     static_cast<size_t>(a.size()) * element_bytes(a.dtype())) == 0;
}

// A merge onto its own state i: the same result as apart.
inline void alias_state(States* m, uint32_t i) {
  m->p.out = m->p.in[i];
  m->p.out_lse = m->lse[i].data();
}

}  // namespace radixattn::test
