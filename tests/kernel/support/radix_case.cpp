#include "support/radix_case.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "support/random_shape.h"

namespace radixattn::test {
namespace {

constexpr auto kSegment = static_cast<uint32_t>(kSegmentTokens);

// ---- trees

uint64_t cost(const Shape& s, const Sequence& q) {
  const uint64_t rows = s.prefill ? q.q_len : 1;
  return uint64_t{q.context} * rows * s.q_heads * (s.dim + s.dim_v);
}

// Tokens of a sequence that others may have, too: not those that this launch's rows stand for.
uint32_t shareable(const Shape& s, const Sequence& q) {
  if (!s.prefill) return q.context;
  return q.context > q.q_len ? q.context - q.q_len : 0;
}

uint32_t random_length(Rng& rng, uint32_t most) {
  const uint32_t edges[] = {0, 1, 15, 16, 17, 63, 64, 65, 255, 256, 257, 512, 513};
  if (rng.one_in(4)) return std::min(rng.pick(edges), most);
  return rng.one_in(3) ? rng.between(most / 2, most) : rng.below(most / 2 + 1);
}

Sequence random_sequence(Rng& rng, const Shape& s, uint32_t most) {
  Sequence q;
  if (!s.seqs.empty() && !rng.one_in(6)) {
    const auto n = static_cast<uint32_t>(s.seqs.size());
    q.parent = rng.one_in(3) ? 0 : static_cast<int32_t>(rng.below(n));
    const uint32_t all = shareable(s, s.seqs[static_cast<size_t>(q.parent)]);
    const bool whole = rng.one_in(3);
    const uint32_t some = rng.below(all / s.block_size + 1) * s.block_size;
    // The last block that is shared may have room left: a fork that nobody has written to.
    q.shared = whole ? (s.prefill ? all / s.block_size * s.block_size : all) : some;
  }
  if (q.shared == 0) q.parent = -1;
  if (s.prefill ? rng.one_in(20) : rng.one_in(12)) return {0, s.prefill ? rng.below(3) : 1};
  // A long root and short ends, mostly: what sharing is for.
  const uint32_t own = random_length(rng, s.seqs.empty() ? most : rng.one_in(6) ? most : 100);
  q.context = q.shared + own;
  q.q_len = s.prefill ? std::min(rng.one_in(4) ? own : rng.below(40), own) : 1;
  if (s.prefill && q.parent < 0 && rng.one_in(10)) q.q_len += 3;  // rows before the first key
  return q;
}

// ---- lists

class Builder {
 public:
  Builder(AttentionCase& c, const ListRules& rules, Rng& rng)
      : c_(c), s_(c.shape()), rules_(rules), rng_(rng), group_(s_.q_heads / s_.kv_heads) {}

  RadixArrays build() {
    sort_sequences();
    place_rows();
    own_terms_.resize(s_.seqs.size());
    runs_of_.assign(s_.seqs.size(), 0);
    if (!order_.empty()) descend(0, order_.size(), 0);
    for (const Run& run : runs_) count_run(run);
    for (const Run& run : runs_) emit_run(run);
    finish();
    return out_;
  }

 private:
  // Keys [begin, end) of the sequences order_[first, last).
  struct Run {
    size_t first, last;
    uint32_t begin, end;
  };

  uint32_t q_len(uint32_t seq) const { return s_.prefill ? s_.seqs[seq].q_len : 1; }

  // Leading tokens of both, in the same blocks and for everybody to see.
  uint32_t common(uint32_t a, uint32_t b) const {
    const uint32_t most = std::min(shareable(s_, s_.seqs[a]), shareable(s_, s_.seqs[b]));
    uint32_t i = 0;
    while (i * s_.block_size < most && c_.blocks_of(a)[i] == c_.blocks_of(b)[i]) ++i;
    const uint32_t n = std::min(i * s_.block_size, most);
    return rules_.batch_invariant ? n / kSegment * kSegment : n;
  }

  // Sequences with work, those that share side by side.
  void sort_sequences() {
    for (uint32_t s = 0; s < s_.seqs.size(); ++s) {
      if (s_.seqs[s].context > 0 && q_len(s) > 0) order_.push_back(s);
    }
    const auto before = [&](uint32_t a, uint32_t b) {
      const uint32_t na = shareable(s_, s_.seqs[a]), nb = shareable(s_, s_.seqs[b]);
      const uint32_t n = std::min(na, nb);
      for (uint32_t i = 0; i * s_.block_size < n; ++i) {
        const int32_t x = c_.blocks_of(a)[i], y = c_.blocks_of(b)[i];
        if (x != y) return x < y;
      }
      return na != nb ? na < nb : a < b;
    };
    std::sort(order_.begin(), order_.end(), before);
    for (size_t i = 0; i + 1 < order_.size(); ++i) {
      uint32_t n = rules_.share ? common(order_[i], order_[i + 1]) : 0;
      if (rules_.cut && rng_.one_in(8)) n = 0;  // computed twice
      lcp_.push_back(n);
    }
  }

  void place_rows() {
    first_row_.assign(s_.seqs.size(), -1);
    const AttentionParams p = c_.params();
    for (const uint32_t s : order_) {
      first_row_[s] = static_cast<int32_t>(out_.rows.size());
      const auto n = static_cast<int32_t>(q_len(s));
      for (int32_t i = 0; i < n; ++i) {
        const int32_t first = s_.prefill ? p.cu_q_lens[s] : static_cast<int32_t>(s);
        out_.rows.push_back({first + i, static_cast<int32_t>(s_.seqs[s].context) - n + i});
      }
    }
  }

  // The tree below order_[first, last), whose tokens before `begin` are done.
  void descend(size_t first, size_t last, uint32_t begin) {
    if (last - first == 1) {
      const uint32_t end = s_.seqs[order_[first]].context;
      if (begin < end) cut_run({first, last, begin, end});
      return;
    }
    const uint32_t end = *std::min_element(lcp_.begin() + static_cast<int64_t>(first),
                                           lcp_.begin() + static_cast<int64_t>(last) - 1);
    if (begin < end) cut_run({first, last, begin, end});
    for (size_t i = first; i < last;) {
      size_t j = i + 1;
      while (j < last && lcp_[j - 1] > end) ++j;
      descend(i, j, end);
      i = j;
    }
  }

  void cut_run(const Run& run) {
    uint32_t begin = run.begin;
    while (begin < run.end) {
      uint32_t end = run.end;
      if (rules_.cut && !rng_.one_in(3)) end = begin + rng_.between(1, end - begin);
      if (rules_.batch_invariant) {
        end = std::min(run.end, (end + kSegment - 1) / kSegment * kSegment);
      }
      // Keys that nobody sees may be left out; their blocks may be anything.
      uint32_t seen = UINT32_MAX;
      for (size_t i = run.first; i < run.last; ++i) {
        seen = std::min(seen, c_.first_visible(order_[i]));
      }
      if (end > seen) runs_.push_back({run.first, run.last, begin, end});
      begin = end;
    }
  }

  void count_run(const Run& run) {
    for (size_t i = run.first; i < run.last; ++i) ++runs_of_[order_[i]];
  }

  void emit_run(const Run& run) {
    bool alone = true;  // nobody has other keys
    for (size_t i = run.first; i < run.last; ++i) alone = alone && runs_of_[order_[i]] == 1;
    const bool may_fold = !rules_.batch_invariant || run.begin == 0;
    RadixItem item = {};
    item.token_begin = static_cast<int32_t>(run.begin);
    item.token_end = static_cast<int32_t>(run.end);
    const int32_t row_begin = first_row_[order_[run.first]];
    const uint32_t last = order_[run.last - 1];
    const int32_t row_end = first_row_[last] + static_cast<int32_t>(q_len(last));
    if (alone && may_fold && !rng_.one_in(4)) {
      item.state = RadixItem::kDirect;
    } else {
      uint32_t segments = 1;
      if (rules_.batch_invariant && !(may_fold && rng_.one_in(2))) {
        segments = (run.end - run.begin + kSegment - 1) / kSegment;
        item.state_stride = row_end - row_begin + static_cast<int32_t>(rng_.below(3));
      }
      item.state = static_cast<int32_t>(out_.num_states) - row_begin;
      const auto stride = static_cast<uint32_t>(item.state_stride);
      out_.num_states +=
          (segments - 1) * stride + static_cast<uint32_t>(row_end - row_begin) + rng_.below(3);
      for (uint32_t k = 0; k < segments; ++k) {
        for (size_t i = run.first; i < run.last; ++i) {
          own_terms_[order_[i]].push_back(item.state + static_cast<int32_t>(k * stride));
        }
      }
    }
    emit_items(run, row_begin, row_end, item);
  }

  // Row tiles of a run.
  void emit_items(const Run& run, int32_t row_begin, int32_t row_end, RadixItem item) {
    const auto group = static_cast<int32_t>(group_);
    const int32_t end = row_end * group;
    for (int32_t r = row_begin * group; r < end;) {
      const int32_t most = std::min(end - r, static_cast<int32_t>(rules_.wide_rows));
      int32_t n = most;
      if (rules_.cut && rng_.one_in(2)) n = 1 + static_cast<int32_t>(rng_.below(uint32_t(most)));
      if (r % group == 0 && n >= group && !rng_.one_in(8)) n -= n % group;  // whole query tokens
      item.row_begin = r;
      item.row_end = r + n;
      item.seq = static_cast<int32_t>(table_of(run, r / group, (r + n - 1) / group));
      const bool whole = r % group == 0 && n % group == 0;
      const bool few = run.last - run.first == 1 ? n == group : n <= rules_.narrow_tokens * group;
      item.narrow =
          !s_.prefill && rules_.narrow && whole && few && item.state_stride == 0 && !rng_.one_in(4);
      out_.items.push_back(item);
      r += n;
    }
  }

  // A sequence with rows in [first, last] whose table has all that these rows see.
  uint32_t table_of(const Run& run, int32_t first, int32_t last) {
    std::vector<uint32_t> best;
    for (size_t i = run.first; i < run.last; ++i) {
      const uint32_t s = order_[i];
      if (first_row_[s] > last || first_row_[s] + static_cast<int32_t>(q_len(s)) <= first) continue;
      if (!best.empty() && c_.first_visible(s) > c_.first_visible(best[0])) continue;
      if (!best.empty() && c_.first_visible(s) < c_.first_visible(best[0])) best.clear();
      best.push_back(s);
    }
    return best[rng_.below(static_cast<uint32_t>(best.size()))];
  }

  void finish() {
    for (uint32_t s = 0; s < s_.seqs.size(); ++s) {
      RadixMerge merge = {first_row_[s], static_cast<int32_t>(out_.terms.size()), 0};
      out_.terms.insert(out_.terms.end(), own_terms_[s].begin(), own_terms_[s].end());
      merge.term_end = static_cast<int32_t>(out_.terms.size());
      out_.merges.push_back(merge);
    }
    for (size_t i = out_.items.size(); i > 1; --i) {
      std::swap(out_.items[i - 1], out_.items[rng_.below(static_cast<uint32_t>(i))]);
    }
    out_.sizes = {static_cast<int32_t>(out_.items.size()), static_cast<int32_t>(out_.rows.size())};
  }

  AttentionCase& c_;
  const Shape& s_;
  const ListRules& rules_;
  Rng& rng_;
  const uint32_t group_;
  std::vector<uint32_t> order_, lcp_, runs_of_;
  std::vector<int32_t> first_row_;
  std::vector<std::vector<int32_t>> own_terms_;
  std::vector<Run> runs_;
  RadixArrays out_;
};

}  // namespace

void random_tree(Rng& rng, uint64_t budget, Shape* shape) {
  shape->seqs.clear();
  shape->shared_prefix = false;
  uint64_t spent = 0;
  const uint32_t most = rng.one_in(2) ? 1200 : 300;
  for (uint32_t n = rng.between(rng.one_in(4) ? 1 : 4, rng.one_in(3) ? 24 : 10); n > 0; --n) {
    const Sequence q = random_sequence(rng, *shape, most);
    if (spent + cost(*shape, q) > budget) continue;
    spent += cost(*shape, q);
    shape->seqs.push_back(q);
  }
  if (shape->seqs.empty()) shape->seqs.push_back({5, 1});
}

Shape random_radix_shape(Rng& rng, bool prefill, uint64_t budget) {
  Shape s;
  s.prefill = prefill;
  s.tree_mask = prefill && rng.one_in(5);
  do random_heads(rng, &s);
  while (s.q_heads * (s.dim + s.dim_v) > 1000 && !rng.one_in(8));  // room for many tokens
  random_options(rng, &s);
  s.block_size = rng.one_in(4) ? rng.between(1, 64) : s.block_size;
  if (s.window != 0 && rng.one_in(2)) s.window = rng.between(200, 900);
  random_tree(rng, budget, &s);
  return s;
}

RadixList RadixArrays::list() const {
  RadixList l;
  l.sizes = &sizes;
  l.items = items.data();
  l.rows = rows.data();
  l.merges = merges.data();
  l.terms = terms.data();
  l.max_items = static_cast<uint32_t>(items.size());
  l.max_states = num_states;
  l.has_merges = std::any_of(merges.begin(), merges.end(), [](const RadixMerge& m) {
    return m.first_row < 0 || m.term_begin < m.term_end;
  });
  return l;
}

RadixArrays random_radix_list(AttentionCase& c, const ListRules& rules, Rng& rng) {
  return Builder(c, rules, rng).build();
}

// ---- what makes a list valid

namespace {

class Checker {
 public:
  Checker(AttentionCase& c, const RadixArrays& list, bool batch_invariant)
      : c_(c), s_(c.shape()), list_(list), invariant_(batch_invariant) {
    group_ = static_cast<int32_t>(s_.q_heads / s_.kv_heads);
  }

  void check() {
    seen_.resize(list_.rows.size() * static_cast<size_t>(group_));
    direct_.assign(seen_.size(), 0);
    seq_of_.assign(list_.rows.size(), 0);
    for (uint32_t s = 0; s < s_.seqs.size(); ++s) {
      const int32_t first = list_.merges[s].first_row;
      const uint32_t n = s_.prefill ? s_.seqs[s].q_len : 1;
      for (uint32_t i = 0; first >= 0 && i < n; ++i) seq_of_[static_cast<size_t>(first) + i] = s;
    }
    ASSERT_EQ(list_.sizes.num_items, static_cast<int32_t>(list_.items.size()));
    ASSERT_EQ(list_.sizes.num_rows, static_cast<int32_t>(list_.rows.size()));
    for (const RadixItem& item : list_.items) check_item(item);
    check_coverage();
    check_terms();
  }

 private:
  int32_t first_key(size_t row) const {
    const int64_t p = list_.rows[row].position;
    return s_.window == 0 ? 0 : static_cast<int32_t>(std::max<int64_t>(0, p - s_.window + 1));
  }

  void check_item(const RadixItem& item) {
    ASSERT_LT(item.token_begin, item.token_end);
    ASSERT_LT(item.row_begin, item.row_end);
    if (invariant_) {
      EXPECT_EQ(item.token_begin % kSegmentTokens, 0);
      const auto end = static_cast<int32_t>(s_.seqs[static_cast<size_t>(item.seq)].context);
      EXPECT_TRUE(item.token_end % kSegmentTokens == 0 || item.token_end == end);
      EXPECT_TRUE(item.state_stride != 0 || item.token_begin == 0 ||
                  item.token_end - item.token_begin <= kSegmentTokens);
    }
    for (int32_t r = item.row_begin; r < item.row_end; ++r) {
      const auto row = static_cast<size_t>(r / group_);
      const auto stacked = static_cast<size_t>(r);
      const uint32_t seq = seq_of_[row];
      for (int32_t j = item.token_begin; j < item.token_end; ++j) {
        if (j < first_key(row)) continue;
        seen_[stacked].push_back(j);
        const auto block = static_cast<size_t>(j) / s_.block_size;
        EXPECT_EQ(c_.blocks_of(static_cast<uint32_t>(item.seq))[block], c_.blocks_of(seq)[block]);
        EXPECT_GE(j, static_cast<int32_t>(c_.first_visible(static_cast<uint32_t>(item.seq)) /
                                          s_.block_size * s_.block_size));
      }
      if (item.state == RadixItem::kDirect) {
        ++direct_[stacked];
        continue;
      }
      const int32_t tokens = item.token_end - item.token_begin;
      const int32_t n = item.state_stride == 0 ? 1 : (tokens + kSegmentTokens - 1) / kSegmentTokens;
      for (int32_t k = 0; k < n; ++k) {
        const int32_t state = item.state + static_cast<int32_t>(row) + k * item.state_stride;
        EXPECT_GE(state, 0);
        EXPECT_LT(state, static_cast<int32_t>(list_.num_states));
        const bool fresh =
            written_.emplace(std::pair(state, r % group_), item.token_begin + k * kSegmentTokens)
                .second;
        EXPECT_TRUE(fresh) << "state " << state << " has two writers";
      }
    }
  }

  void check_coverage() {
    for (size_t r = 0; r < seen_.size(); ++r) {
      std::sort(seen_[r].begin(), seen_[r].end());
      std::vector<int32_t> keys;
      const size_t row = r / static_cast<size_t>(group_);
      // A sequence's own new tokens belong to its items, whether or not a row sees them.
      const auto end = static_cast<int32_t>(s_.seqs[seq_of_[row]].context);
      for (int32_t j = first_key(row); j < end; ++j) keys.push_back(j);
      EXPECT_EQ(seen_[r], keys) << "stacked row " << r;
    }
  }

  void check_terms() {
    for (uint32_t s = 0; s < s_.seqs.size(); ++s) {
      const RadixMerge& m = list_.merges[s];
      const uint32_t n = s_.prefill ? s_.seqs[s].q_len : 1;
      EXPECT_EQ(m.first_row < 0, s_.seqs[s].context == 0 || n == 0);
      for (uint32_t i = 0; m.first_row >= 0 && i < n; ++i) {
        for (int32_t g = 0; g < group_; ++g) {
          check_row_terms(m, m.first_row + static_cast<int32_t>(i), g);
        }
      }
    }
  }

  void check_row_terms(const RadixMerge& m, int32_t row, int32_t head) {
    const bool states = m.term_begin < m.term_end;
    EXPECT_EQ(direct_[static_cast<size_t>(row * group_ + head)], states ? 0 : 1);
    int32_t at = -1;
    for (int32_t i = m.term_begin; i < m.term_end; ++i) {
      const auto state = written_.find({list_.terms[static_cast<size_t>(i)] + row, head});
      ASSERT_TRUE(state != written_.end()) << "a term whose state nobody writes";
      EXPECT_LT(at, state->second);
      at = state->second;
    }
  }

  AttentionCase& c_;
  const Shape& s_;
  const RadixArrays& list_;
  const bool invariant_;
  int32_t group_ = 1;
  std::vector<uint32_t> seq_of_;                            // by sorted row
  std::vector<std::vector<int32_t>> seen_;                  // by stacked row: keys
  std::vector<int> direct_;                                 // by stacked row
  std::map<std::pair<int32_t, int32_t>, int32_t> written_;  // (state, head) to its first key
};

}  // namespace

void expect_valid_list(AttentionCase& c, const RadixArrays& list, bool batch_invariant) {
  Checker(c, list, batch_invariant).check();
}

}  // namespace radixattn::test
