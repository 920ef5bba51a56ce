// What every work list must be: a walk over all of its items, rows and terms that trusts none of
// them. Returns what is wrong first, "" for a right one.
#pragma once

#include <string>
#include <vector>

#include "backend/radix_list.h"

namespace radixattn {

struct CheckedStep {
  std::vector<std::vector<int32_t>> tables;
  std::vector<int32_t> context_lens;
  std::vector<int32_t> q_lens;  // empty: decode
  uint32_t block_size = 1, group = 1, window = 0;
  bool batch_invariant = false;

  bool decode() const { return q_lens.empty(); }
  int32_t num_rows(size_t s) const { return decode() ? (context_lens[s] > 0 ? 1 : 0) : q_lens[s]; }
  // Keys that all rows of the sequence see, but for the window.
  int32_t common(size_t s) const {
    return decode() ? context_lens[s] : context_lens[s] - q_lens[s];
  }
};

struct CheckedList {
  RadixListSizes sizes = {};
  std::vector<RadixItem> items;
  std::vector<RadixRow> rows;
  std::vector<RadixMerge> merges;
  std::vector<int32_t> terms;
  uint32_t num_terms = 0;
};

class ListChecker {
 public:
  ListChecker(const CheckedStep& step, const CheckedList& list, const RadixLimits& limits)
      : step_(step), list_(list), limits_(limits) {}

  std::string check() {
    check_rows();
    if (wrong_.empty()) check_items();
    if (wrong_.empty()) check_coverage();
    if (wrong_.empty()) check_terms();
    return wrong_;
  }

 private:
  struct State {
    int32_t row = -1, begin = 0;
    uint32_t heads = 0;  // that wrote it
  };

  void fail(const std::string& what, int64_t where) {
    if (wrong_.empty()) wrong_ = what + " (" + std::to_string(where) + ")";
  }
  void expect(bool right, const char* what, int64_t where) {
    if (!right) fail(what, where);
  }

  // Every query token of the step is one sorted row, those of a sequence side by side.
  void check_rows() {
    const auto num = static_cast<size_t>(list_.sizes.num_rows);
    seqs_.assign(num, -1);
    int32_t query = 0;
    size_t total = 0;
    for (size_t s = 0; s < list_.merges.size(); ++s) {
      const bool padding = s >= step_.tables.size();
      const int32_t rows = padding ? 0 : step_.num_rows(s), first = list_.merges[s].first_row;
      if (rows == 0) {
        expect(first == -1, "a sequence without rows has a merge", static_cast<int64_t>(s));
      } else if (first < 0 || static_cast<size_t>(first + rows) > num) {
        return fail("rows out of range", static_cast<int64_t>(s));
      }
      for (int32_t i = 0; i < rows; ++i) {
        const RadixRow& row = list_.rows[static_cast<size_t>(first + i)];
        const int32_t at = step_.decode() ? static_cast<int32_t>(s) : query + i;
        expect(row.query == at, "row of another query token", first + i);
        expect(row.position == step_.context_lens[s] - rows + i, "row at another position",
               first + i);
        expect(seqs_[static_cast<size_t>(first + i)] == -1, "a row twice", first + i);
        seqs_[static_cast<size_t>(first + i)] = static_cast<int32_t>(s);
      }
      query += rows;
      total += static_cast<size_t>(rows);
    }
    expect(total == num, "sorted rows of nobody", list_.sizes.num_rows);
  }

  void check_items() {
    const auto num = static_cast<uint32_t>(list_.sizes.num_items);
    expect(num <= limits_.max_items, "too many items", num);
    states_.assign(size_t{limits_.max_states} * step_.group, State());
    direct_.assign(seqs_.size() * step_.group, 0);
    seen_.assign(seqs_.size() * step_.group, {});
    for (uint32_t i = 0; i < num && wrong_.empty(); ++i) check_item(list_.items[i], i);
  }

  void check_item(const RadixItem& item, uint32_t i) {
    const auto seq = static_cast<size_t>(item.seq);
    if (seq >= step_.tables.size()) return fail("an item of no sequence", i);
    const auto group = static_cast<int32_t>(step_.group);
    if (item.token_begin < 0 || item.token_begin >= item.token_end ||
        item.token_end > step_.context_lens[seq])
      return fail("an item's keys are out of range", i);
    // Which new tokens a row sees may be up to a mask that no plan knows.
    expect(item.token_end <= step_.common(seq) || item.token_end == step_.context_lens[seq],
           "a cut among the new tokens", i);
    if (item.row_begin < 0 || item.row_begin >= item.row_end ||
        item.row_end > static_cast<int32_t>(seqs_.size()) * group)
      return fail("an item's rows are out of range", i);
    if (item.narrow != 0) {
      const int32_t tokens = (item.row_end - item.row_begin) / group;
      expect(step_.decode() && !step_.batch_invariant, "a narrow item", i);
      expect(item.row_begin % group == 0 && item.row_end % group == 0, "a part of a token", i);
      expect(tokens <= static_cast<int32_t>(limits_.narrow_tokens), "more than narrow_tokens", i);
      expect(tokens == 1 || step_.window == 0, "a window that is several", i);
      expect(static_cast<uint32_t>(item.row_end - item.row_begin) <= limits_.few_drawn,
             "more than few_drawn", i);
    } else {
      expect(item.row_end - item.row_begin <= static_cast<int32_t>(limits_.wide_rows),
             "more rows than wide_rows", i);
    }
    if (step_.batch_invariant) check_segments(item, i);
    for (int32_t r = item.row_begin; r < item.row_end && wrong_.empty(); ++r)
      check_item_row(item, i, r);
  }

  void check_segments(const RadixItem& item, uint32_t i) {
    expect(item.token_begin % kSegmentTokens == 0, "an item begins inside a segment", i);
    expect(item.token_end % kSegmentTokens == 0 ||
               item.token_end == step_.context_lens[static_cast<size_t>(item.seq)],
           "an item ends inside a segment", i);
    expect((item.token_begin == 0 && item.state_stride == 0) ||
               (item.state != RadixItem::kDirect && item.state_stride > 0),
           "segments are folded that begin elsewhere than at 0", i);
  }

  void check_item_row(const RadixItem& item, uint32_t i, int32_t stacked) {
    const auto at = static_cast<size_t>(stacked);
    const size_t sorted = at / step_.group, head = at % step_.group;
    const auto seq = static_cast<size_t>(seqs_[sorted]);
    if (seqs_[sorted] != item.seq) {
      expect(item.token_end <= step_.common(seq), "a shared key that a row does not see", i);
      const uint32_t last = static_cast<uint32_t>(item.token_end - 1) / step_.block_size;
      for (uint32_t b = static_cast<uint32_t>(item.token_begin) / step_.block_size;
           b <= last && wrong_.empty(); ++b)
        expect(step_.tables[static_cast<size_t>(item.seq)][b] == step_.tables[seq][b],
               "a shared key that is not shared", i);
    }
    seen_[at].push_back({item.token_begin, item.token_end});
    if (item.state == RadixItem::kDirect) {
      expect(direct_[at]++ == 0, "a result twice", stacked);
      return;
    }
    const int32_t begin = item.token_begin, end = item.token_end;
    const int32_t segments = item.state_stride == 0 ? 1
                                                    : (end + kSegmentTokens - 1) / kSegmentTokens -
                                                          begin / kSegmentTokens;
    for (int32_t k = 0; k < segments; ++k) {
      const int64_t index =
          int64_t{item.state} + static_cast<int64_t>(sorted) + int64_t{k} * item.state_stride;
      if (index < 0 || index >= limits_.max_states) return fail("a state out of range", i);
      State& state = states_[static_cast<size_t>(index) * step_.group + head];
      expect(state.row == -1, "a state twice", index);
      state = {static_cast<int32_t>(sorted), begin + k * kSegmentTokens, 1};
    }
  }

  // Every visible key of a row is in exactly one of its items.
  void check_coverage() {
    for (size_t at = 0; at < seen_.size() && wrong_.empty(); ++at) {
      const int32_t position = list_.rows[at / step_.group].position;
      const auto window = static_cast<int32_t>(step_.window);
      const int32_t first = window != 0 && position >= window ? position - window + 1 : 0;
      std::vector<uint8_t> count(static_cast<size_t>(position) + 1);
      for (const auto& [begin, end] : seen_[at])
        for (int32_t j = begin; j < end && j <= position; ++j) ++count[static_cast<size_t>(j)];
      for (int32_t j = 0; j <= position; ++j) {
        const uint8_t n = count[static_cast<size_t>(j)];
        if (n > 1 || (j >= first && n == 0))
          return fail("a key is seen " + std::to_string(n) + " times, row " + std::to_string(at),
                      j);
      }
    }
  }

  // A row's terms are exactly its states, by position; without terms an item wrote the result.
  void check_terms() {
    std::vector<uint32_t> of_row(seen_.size());
    for (size_t i = 0; i < states_.size(); ++i)
      if (states_[i].row >= 0)
        ++of_row[static_cast<size_t>(states_[i].row) * step_.group + i % step_.group];
    for (size_t at = 0; at < seen_.size() && wrong_.empty(); ++at) {
      const auto row = static_cast<int32_t>(at / step_.group);
      const RadixMerge& m = list_.merges[static_cast<size_t>(seqs_[static_cast<size_t>(row)])];
      if (m.term_begin < 0 || m.term_end < m.term_begin ||
          static_cast<uint32_t>(m.term_end) > limits_.max_terms)
        return fail("terms out of range", row);
      const auto num = static_cast<uint32_t>(m.term_end - m.term_begin);
      expect(num == of_row[at], "terms are not the row's states", row);
      expect(direct_[at] == (num == 0 ? 1 : 0), "a result is written or merged: not one of them",
             row);
      int32_t before = -1;
      for (int32_t t = m.term_begin; t < m.term_end && wrong_.empty(); ++t) {
        const int64_t index = int64_t{list_.terms[static_cast<size_t>(t)]} + row;
        if (index < 0 || index >= limits_.max_states) return fail("a term out of range", row);
        const State& s = states_[static_cast<size_t>(index) * step_.group + at % step_.group];
        expect(s.row == row, "a term names another row's state", row);
        expect(s.begin > before, "terms are not in order of position", row);
        before = s.begin;
      }
    }
  }

  const CheckedStep& step_;
  const CheckedList& list_;
  const RadixLimits& limits_;
  std::string wrong_;
  std::vector<int32_t> seqs_;  // of sorted rows
  std::vector<State> states_;  // [max_states, group]
  std::vector<uint8_t> direct_;
  std::vector<std::vector<std::pair<int32_t, int32_t>>> seen_;  // of stacked rows
};

}  // namespace radixattn
