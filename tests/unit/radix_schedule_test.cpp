// Work lists: what is shared and cut where that can be said by hand, and random steps through the
// planner, each list walked by radix_list_check.h and each tree compared with a new one.
#include "plan/radix_schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "plan/radix_planner.h"
#include "radix_list_check.h"

namespace radixattn {
namespace {

RadixLimits limits_of(uint32_t workers) {
  RadixLimits l;
  l.max_items = 4096;
  l.max_states = 8192;
  l.max_terms = 8192;
  l.wide_rows = 64;
  l.panel_rows = 16;
  l.workers = workers;
  l.narrow_tokens = 1;
  l.costs = {32.f, 1.f, 0.f, 1.f, 1.f, 0.25f, 4.f};
  return l;
}

// A planner with its memory, and steps as vectors.
class Planned {
 public:
  Planned(const RadixPlanShape& shape) : shape_(shape), memory_(RadixPlanner::bytes(shape) + 64) {
    char* at = memory_.data() + (64 - reinterpret_cast<uintptr_t>(memory_.data()) % 64) % 64;
    list.items.resize(shape.limits.max_items);
    list.rows.resize(shape.max_rows);
    list.merges.resize(shape.max_seqs);
    list.terms.resize(shape.limits.max_terms + 1);
    planner.bind(
        shape,
        {&list.sizes, list.items.data(), list.rows.data(), list.merges.data(), list.terms.data()},
        at);
    tables_.assign(shape.max_seqs * shape.row_stride, -1);
  }

  void plan(const CheckedStep& step) {
    const auto num = static_cast<uint32_t>(step.tables.size());
    for (uint32_t s = 0; s < num; ++s) {
      int32_t* row = tables_.data() + s * shape_.row_stride;
      uint32_t first = 0;
      const auto& to = step.tables[s];
      while (first < to.size() && row[first] == to[first]) ++first;
      std::copy(to.begin() + first, to.end(), row + first);
      planner.first_changed()[s] = first < to.size() ? first : UINT32_MAX;
    }
    lens_ = step.context_lens;
    cu_ = {0};
    for (const int32_t q : step.q_lens) cu_.push_back(cu_.back() + q);
    planner.plan({tables_.data(), lens_.data(), step.decode() ? nullptr : cu_.data(), num});
  }

  // What is wrong with the list of a planned step.
  std::string check(const CheckedStep& step) {
    CheckedList l = list;
    l.merges.resize(planner.num_merges());
    return ListChecker(step, l, shape_.limits).check();
  }

  RadixPlanner planner;
  CheckedList list;

 private:
  RadixPlanShape shape_;
  std::vector<char> memory_;
  std::vector<int32_t> tables_, lens_, cu_;
};

RadixPlanShape shape_of(const CheckedStep& step, const RadixLimits& limits) {
  RadixPlanShape shape;
  shape.max_seqs = static_cast<uint32_t>(step.tables.size());
  shape.max_rows = shape.max_seqs;
  uint32_t rows = 0;
  for (const int32_t q : step.q_lens) rows += static_cast<uint32_t>(q);
  shape.max_rows = std::max(shape.max_rows, rows);
  shape.block_size = step.block_size;
  shape.row_stride = 1;
  for (const auto& row : step.tables)
    shape.row_stride = std::max<uint64_t>(shape.row_stride, row.size());
  shape.group = step.group;
  shape.window = step.window;
  shape.batch_invariant = step.batch_invariant;
  shape.always = true;
  shape.limits = limits;
  shape.limits.max_items = std::max(
      limits.max_items, radix_items_at_least(shape.max_seqs, shape.max_rows, step.group, limits));
  return shape;
}

// Sequences of `shared` common tokens and own[i] tokens more.
CheckedStep prefix_step(int32_t shared, const std::vector<int32_t>& own, uint32_t block = 16) {
  CheckedStep step;
  step.block_size = block;
  step.group = 4;
  int32_t next = 1000000;
  for (const int32_t tokens : own) {
    const int32_t length = shared + tokens;
    std::vector<int32_t> row;
    for (int32_t b = 0; b * static_cast<int32_t>(block) < length; ++b)
      row.push_back((b + 1) * static_cast<int32_t>(block) <= shared ? b : next++);
    step.tables.push_back(row);
    step.context_lens.push_back(length);
  }
  return step;
}

// ---- what is decided ----------------------------------------------------------------------------

TEST(RadixSchedule, ALongPrefixOfManyIsReadOnce) {
  const CheckedStep step = prefix_step(4096, std::vector<int32_t>(32, 200));
  Planned p(shape_of(step, limits_of(8)));
  p.plan(step);
  ASSERT_EQ(p.check(step), "");
  const RadixScheduleSizes& sizes = p.planner.sizes();
  EXPECT_TRUE(p.planner.has_list());
  EXPECT_EQ(sizes.num_shared, 1u);
  EXPECT_EQ(sizes.tokens_seen, 32u * 4296);
  EXPECT_EQ(sizes.tokens_read, 2 * 4096u + 32 * 200) << "two items of 64 rows, and what is own";
  EXPECT_TRUE(sizes.has_merges);
}

TEST(RadixSchedule, AShortPrefixIsNotWorthItsStates) {
  CheckedStep step = prefix_step(16, {500, 500, 500});
  RadixPlanShape shape = shape_of(step, limits_of(3));
  Planned p(shape);
  p.plan(step);
  ASSERT_EQ(p.check(step), "");
  EXPECT_EQ(p.planner.tree().num_nodes(), 1u);
  EXPECT_EQ(p.planner.sizes().num_shared, 0u);
  EXPECT_EQ(p.planner.sizes().tokens_read, p.planner.sizes().tokens_seen);
  EXPECT_EQ(p.list.sizes.num_items, 3);
  EXPECT_FALSE(p.planner.sizes().has_merges);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(p.list.items[static_cast<size_t>(i)].state, RadixItem::kDirect);
    EXPECT_EQ(p.list.items[static_cast<size_t>(i)].narrow, 1);
  }
  shape.always = false;
  Planned plain(shape);
  plain.plan(step);
  EXPECT_FALSE(plain.planner.has_list()) << "nothing is shared: launches go their usual way";
}

TEST(RadixSchedule, SharingDependsOnWhatStatesCost) {
  const CheckedStep step = prefix_step(256, std::vector<int32_t>(4, 300));
  for (const float cost : {1.f, 120.f, 1000.f}) {
    RadixLimits limits = limits_of(4);
    limits.costs.state = cost;
    Planned p(shape_of(step, limits));
    p.plan(step);
    ASSERT_EQ(p.check(step), "");
    EXPECT_EQ(p.planner.sizes().num_shared, cost < 2 ? 1u : 0u) << cost;
  }
}

TEST(RadixSchedule, AFewSequencesShareKeysInNarrowItems) {
  CheckedStep step = prefix_step(2048, std::vector<int32_t>(4, 100));
  RadixLimits limits = limits_of(1);
  limits.narrow_tokens = 4;
  limits.few_drawn = 16;
  limits.costs.narrow_keys = 0.3f;
  limits.costs.narrow_more = 0.2f;
  const auto shared_narrow = [](const CheckedStep& of, const RadixLimits& l) {
    Planned p(shape_of(of, l));
    p.plan(of);
    EXPECT_EQ(p.check(of), "");
    int narrow = 0;
    for (int32_t i = 0; i < p.list.sizes.num_items; ++i) {
      const RadixItem& item = p.list.items[static_cast<size_t>(i)];
      narrow += item.narrow != 0 && item.row_end - item.row_begin == 16;
    }
    return narrow;
  };
  EXPECT_EQ(shared_narrow(step, limits), 1);
  RadixLimits other = limits;
  other.narrow_tokens = 3;
  EXPECT_EQ(shared_narrow(step, other), 0);
  other = limits;
  other.few_drawn = 15;
  EXPECT_EQ(shared_narrow(step, other), 0);
  other = limits;
  other.costs.narrow_more = 0.4f;
  EXPECT_EQ(shared_narrow(step, other), 0) << "panels are cheaper";
  other = limits;
  other.costs.narrow_more = 0.05f;
  EXPECT_EQ(shared_narrow(step, other), 1);
  other.costs.wide_token = 0.5f;
  EXPECT_EQ(shared_narrow(step, other), 0) << "keys are read, however little is computed";
  step.window = 3000;
  EXPECT_EQ(shared_narrow(step, limits), 0) << "each row's window would be another";
  step.window = 0;
  step.batch_invariant = true;
  EXPECT_EQ(shared_narrow(step, limits), 0);
}

// The launch draws them with those that compute, head by head.
TEST(RadixSchedule, AGroupOfMoreRowsThanFewIsNotNarrow) {
  CheckedStep step = prefix_step(2048, std::vector<int32_t>(4, 100));
  step.group = 20;
  RadixLimits limits = limits_of(1);
  limits.narrow_tokens = 4;
  limits.costs.narrow_token = 0.1f;
  const auto narrow_items = [&step](const RadixLimits& l) {
    Planned p(shape_of(step, l));
    p.plan(step);
    EXPECT_EQ(p.check(step), "");
    int narrow = 0;
    for (int32_t i = 0; i < p.list.sizes.num_items; ++i)
      narrow += p.list.items[static_cast<size_t>(i)].narrow;
    return narrow;
  };
  limits.few_drawn = 20;
  EXPECT_GT(narrow_items(limits), 0);
  limits.few_drawn = 19;
  EXPECT_EQ(narrow_items(limits), 0);
}

// The prefix of all is long, the one of two more is a block.
TEST(RadixSchedule, ASmallNodeBelowALargeOneIsAbsorbed) {
  CheckedStep step = prefix_step(2048, std::vector<int32_t>(16, 64));
  step.tables[5][128] = step.tables[4][128];
  Planned p(shape_of(step, limits_of(4)));
  p.plan(step);
  ASSERT_EQ(p.check(step), "");
  EXPECT_EQ(p.planner.tree().num_nodes(), 2u);
  EXPECT_EQ(p.planner.sizes().num_shared, 1u);
  CheckedStep longer = prefix_step(64, std::vector<int32_t>(16, 2048));
  for (uint32_t b = 4; b < 100; ++b)
    for (uint32_t s = 1; s < 8; ++s) longer.tables[s][b] = longer.tables[0][b];
  Planned q(shape_of(longer, limits_of(4)));
  q.plan(longer);
  ASSERT_EQ(q.check(longer), "");
  EXPECT_EQ(q.planner.tree().num_nodes(), 2u);
  EXPECT_EQ(q.planner.sizes().num_shared, 1u) << "the short one above goes into the long one";
  EXPECT_EQ(q.planner.sizes().tokens_read, 16u * 2112 - 7 * 1600);
}

TEST(RadixSchedule, TheDearestItemsComeFirst) {
  CheckedStep step = prefix_step(0, {100, 5000, 300, 2000, 40, 700});
  Planned p(shape_of(step, limits_of(2)));
  p.plan(step);
  ASSERT_EQ(p.check(step), "");
  for (int32_t i = 1; i < p.list.sizes.num_items; ++i) {
    const RadixItem &a = p.list.items[static_cast<size_t>(i - 1)],
                    &b = p.list.items[static_cast<size_t>(i)];
    EXPECT_GE(a.token_end - a.token_begin + 70, b.token_end - b.token_begin) << i;
  }
}

// The longest that a worker has when it takes every n-th item, by the costs of decode's items.
double strided_time(const CheckedList& list, const RadixLimits& limits) {
  const uint32_t n = limits.workers / limits.parts;
  std::vector<double> workers(n);
  for (int32_t i = 0; i < list.sizes.num_items; ++i) {
    const RadixItem& item = list.items[static_cast<size_t>(i)];
    const auto rows = static_cast<uint32_t>(item.row_end - item.row_begin);
    const uint32_t panels = (rows + limits.panel_rows - 1) / limits.panel_rows;
    const RadixCosts& c = limits.costs;
    const double key = item.narrow != 0 ? c.narrow_token
                                        : c.wide_token + static_cast<float>(panels) * c.panel_token;
    workers[static_cast<uint32_t>(i) % n] += c.item + key * (item.token_end - item.token_begin);
  }
  return *std::max_element(workers.begin(), workers.end());
}

TEST(RadixSchedule, StridedWorkersDoNotHaveTheDearestOfEveryRound) {
  std::vector<int32_t> even, steps;
  for (int32_t s = 0; s < 50; ++s) even.push_back(400 + s), steps.push_back(100 + 60 * s);
  const std::vector<CheckedStep> mixes = {prefix_step(0, {100, 5000, 300, 2000, 40, 700}),
                                          prefix_step(0, steps), prefix_step(2048, steps),
                                          prefix_step(4096, even),
                                          prefix_step(512, {9000, 4000, 10, 20, 30})};
  double gain = 0;
  for (size_t m = 0; m < mixes.size(); ++m) {
    for (const uint32_t workers : {1u, 4u, 7u, 16u, 33u}) {
      RadixLimits limits = limits_of(workers * 2);
      limits.parts = 2;
      Planned next_free(shape_of(mixes[m], limits));
      limits.strided = true;
      Planned strided(shape_of(mixes[m], limits));
      next_free.plan(mixes[m]);
      strided.plan(mixes[m]);
      ASSERT_EQ(strided.check(mixes[m]), "");
      const double before = strided_time(next_free.list, limits);
      // Items of about one cost are in no order.
      const double after = strided_time(strided.list, limits);
      EXPECT_LE(after, before * 1.01) << "mix " << m << ", " << workers << " workers";
      gain += before / after - 1;
    }
  }
  EXPECT_GT(gain, 0.5) << "summed over all";
}

TEST(RadixSchedule, OneLongSequenceIsCutForAllWorkers) {
  const CheckedStep step = prefix_step(0, {32768});
  Planned p(shape_of(step, limits_of(16)));
  p.plan(step);
  ASSERT_EQ(p.check(step), "");
  EXPECT_GE(p.list.sizes.num_items, 15);
  EXPECT_LE(p.list.sizes.num_items, 32);
  for (int32_t i = 0; i < p.list.sizes.num_items; ++i)
    EXPECT_EQ(p.list.items[static_cast<size_t>(i)].token_begin % 64, 0);
  RadixLimits limits = limits_of(16);
  limits.parts = 8;  // each of the item's eight heads is somebody's
  Planned q(shape_of(step, limits));
  q.plan(step);
  ASSERT_EQ(q.check(step), "");
  EXPECT_LE(q.list.sizes.num_items, 4);
}

// Pieces leave states, so an item whose units occupy all workers is better left whole.
TEST(RadixSchedule, ItemsOfManyUnitsAreCutForFewerWorkers) {
  const CheckedStep step = prefix_step(16384, std::vector<int32_t>(16, 64));
  const auto pieces = [&step](uint32_t few_drawn) {
    RadixLimits limits = limits_of(2);
    limits.draws = 8;
    limits.few_drawn = few_drawn;
    Planned p(shape_of(step, limits));
    p.plan(step);
    EXPECT_EQ(p.check(step), "");
    const auto end = p.list.items.begin() + p.list.sizes.num_items;
    return std::count_if(p.list.items.begin(), end,
                         [](const RadixItem& i) { return i.row_end - i.row_begin == 64; });
  };
  EXPECT_GE(pieces(~0u), 2) << "each item is for one worker";
  EXPECT_GE(pieces(64), 2) << "the same: it has no more rows than that";
  EXPECT_EQ(pieces(63), 1);
}

TEST(RadixSchedule, WithoutRoomNothingIsSharedOrCut) {
  for (const char* what : {"items", "states", "terms"}) {
    const CheckedStep step = prefix_step(4096, std::vector<int32_t>(20, 3000));
    RadixLimits limits = limits_of(16);
    (what[0] == 'i' ? limits.max_items : what[0] == 's' ? limits.max_states : limits.max_terms) = 1;
    Planned p(shape_of(step, limits));
    p.plan(step);
    ASSERT_EQ(p.check(step), "") << what;
    EXPECT_EQ(p.list.sizes.num_items, 20) << what;
    EXPECT_EQ(p.planner.sizes().num_states, 0u) << what;
    EXPECT_EQ(p.planner.sizes().num_shared, 0u) << what;
  }
}

TEST(RadixSchedule, BatchInvariantListsHaveAStateForEachSegmentOrBeginAtZero) {
  CheckedStep step = prefix_step(4000, std::vector<int32_t>(32, 700));
  step.batch_invariant = true;
  Planned p(shape_of(step, limits_of(8)));
  p.plan(step);
  ASSERT_EQ(p.check(step), "");
  EXPECT_EQ(p.planner.sizes().num_shared, 1u);
  EXPECT_EQ(p.planner.sizes().tokens_read, 2u * 3840 + 32 * 860) << "whole segments are shared";
  CheckedStep own = prefix_step(0, {300, 3000});
  own.batch_invariant = true;
  Planned q(shape_of(own, limits_of(1)));
  q.plan(own);
  ASSERT_EQ(q.check(own), "");
  EXPECT_EQ(q.list.sizes.num_items, 2) << "one worker: nothing is cut";
  EXPECT_FALSE(q.planner.sizes().has_merges);
}

TEST(RadixSchedule, PaddingAndEmptySequencesAreMergedOnly) {
  CheckedStep step = prefix_step(0, {100, 0, 50});
  RadixPlanShape shape = shape_of(step, limits_of(2));
  shape.max_seqs = 5;
  shape.max_rows = 5;
  shape.pads = true;
  Planned p(shape);
  p.plan(step);
  ASSERT_EQ(p.check(step), "");
  EXPECT_EQ(p.planner.num_merges(), 5u);
  EXPECT_EQ(p.list.sizes.num_rows, 2);
  for (const size_t s : {1u, 3u, 4u}) EXPECT_EQ(p.list.merges[s].first_row, -1);
  EXPECT_TRUE(p.planner.sizes().has_merges);
}

TEST(RadixSchedule, PrefillSharesWhatIsBeforeAllQueries) {
  CheckedStep step = prefix_step(2048, {100, 60, 80, 50});
  step.q_lens = {100, 60, 16, 50};
  Planned p(shape_of(step, limits_of(4)));
  p.plan(step);
  ASSERT_EQ(p.check(step), "");
  EXPECT_EQ(p.planner.tree().num_nodes(), 1u);
  CheckedStep few = prefix_step(2048, std::vector<int32_t>(16, 20));
  few.q_lens.assign(16, 1);
  Planned q(shape_of(few, limits_of(4)));
  q.plan(few);
  ASSERT_EQ(q.check(few), "");
  EXPECT_EQ(q.planner.sizes().num_shared, 1u);
  few.q_lens.assign(16, 40);  // half of them are in the prefix
  Planned r(shape_of(few, limits_of(4)));
  r.plan(few);
  ASSERT_EQ(r.check(few), "");
  EXPECT_LE(r.planner.tree().nodes()[0].end_block, (2048 - 20) / 16u);
}

// A node in common does not take a whole prefill from the faster kernel; one with most keys does.
TEST(RadixSchedule, PrefillHasAListWhereThatIsLessThanItsUsualWork) {
  CheckedStep little = prefix_step(256, std::vector<int32_t>(8, 2000));
  CheckedStep much = prefix_step(8192, std::vector<int32_t>(8, 64));
  little.q_lens.assign(8, 2);
  much.q_lens.assign(8, 2);
  for (const bool is_much : {false, true}) {
    const CheckedStep& step = is_much ? much : little;
    for (const float plain : {1.f, 0.6f}) {
      RadixPlanShape shape = shape_of(step, limits_of(4));
      shape.limits.costs.plain = plain;
      for (const bool always : {false, true}) {
        shape.always = always;
        Planned p(shape);
        p.plan(step);
        const bool expected = always || is_much || plain == 1;
        ASSERT_EQ(p.planner.has_list(), expected) << is_much << plain;
        if (expected) {
          ASSERT_EQ(p.check(step), "");
          ASSERT_EQ(p.planner.sizes().num_shared, 1u);
        } else {
          ASSERT_EQ(p.planner.sizes().tokens_read, p.planner.sizes().tokens_seen);
        }
      }
      CheckedStep decode = step;
      decode.q_lens.clear();
      shape.always = false;
      Planned d(shape);
      d.plan(decode);
      ASSERT_TRUE(d.planner.has_list());
    }
  }
}

TEST(RadixSchedule, KeysThatNoRowSeesAreInNoItem) {
  CheckedStep step = prefix_step(4096, {5000, 300, 300});
  step.window = 512;
  Planned p(shape_of(step, limits_of(1)));
  p.plan(step);
  ASSERT_EQ(p.check(step), "");
  int32_t keys = 0;
  for (int32_t i = 0; i < p.list.sizes.num_items; ++i) {
    const RadixItem& item = p.list.items[static_cast<size_t>(i)];
    keys += item.token_end - item.token_begin;
    EXPECT_GE(item.token_begin, 4396 - 512 - 64);
  }
  EXPECT_LE(keys, 3 * (512 + 64));
}

// ---- random steps -------------------------------------------------------------------------------

class RandomSteps {
 public:
  explicit RandomSteps(uint64_t seed) : rng_(seed) {
    step_.block_size = pick({1, 4, 16, 32, 256});
    step_.group = pick({1, 1, 2, 3, 4, 8});
    step_.window = below(4) == 0 ? 1 + below(600) : 0;
    step_.batch_invariant = below(3) == 0;
    limits_ = limits_of(pick({1, 2, 5, 16, 64}));
    limits_.wide_rows = pick({3, 16, 64, 128});
    limits_.panel_rows = pick({1, 8, 16});
    limits_.parts = pick({1, 1, 4});
    limits_.narrow_tokens = below(2) == 0 ? 0 : 1 + below(8);
    if (below(3) == 0) limits_.few_drawn = 1 + below(24);
    limits_.strided = below(2) == 0;
    limits_.costs.narrow_more = 0.5f + 0.1f * static_cast<float>(below(10));
    limits_.costs.state = below(3) == 0 ? 0.f : static_cast<float>(below(12));
    limits_.costs.item = static_cast<float>(below(100));
    if (below(4) == 0) limits_.max_items = below(12);
    if (below(4) == 0) limits_.max_states = below(60);
    if (below(4) == 0) limits_.max_terms = below(60);
    add_sequences();
  }
  uint32_t below(uint32_t n) { return static_cast<uint32_t>(rng_() % n); }
  const CheckedStep& step() const { return step_; }
  const RadixLimits& limits() const { return limits_; }
  RadixPlanShape shape() {
    RadixPlanShape shape = shape_of(step_, limits_);
    shape.max_seqs += below(3);
    shape.max_rows = shape.max_seqs * 40;
    shape.row_stride = 4096 / step_.block_size + 1;
    shape.pads = below(2) == 0;
    shape.shares = below(8) != 0;
    shape.limits.max_items =
        std::max(limits_.max_items,
                 radix_items_at_least(shape.max_seqs, shape.max_rows, step_.group, limits_));
    return shape;
  }

  // What an engine does between two steps: mostly a token more for each.
  void move() {
    const uint32_t what = below(24);
    if (what < 15) {
      for (size_t s = 0; s < step_.tables.size(); ++s) grow(s, 1);
    } else if (what < 18) {
      grow(some(), 1 + static_cast<int32_t>(below(300)));
    } else if (what == 18) {
      const size_t s = some();
      set_length(s, static_cast<int32_t>(below(static_cast<uint32_t>(step_.context_lens[s]) + 1)));
    } else if (what == 19 && !step_.tables.empty()) {  // another request in its place
      const size_t s = some(), from = some();
      fork(s, from);
      grow(s, static_cast<int32_t>(below(100)));
    } else if (what == 20) {
      const size_t s = some();
      if (!step_.tables[s].empty()) change(s);
    } else if (what == 21) {
      std::swap(step_.tables[0], step_.tables.back());
      std::swap(step_.context_lens[0], step_.context_lens.back());
    }
    step_.q_lens.clear();
    if (below(6) != 0) return;
    for (const int32_t length : step_.context_lens)
      step_.q_lens.push_back(
          static_cast<int32_t>(below(static_cast<uint32_t>(std::min(length, 39)) + 1)));
  }

 private:
  uint32_t pick(std::initializer_list<uint32_t> of) {
    return *(of.begin() + below(static_cast<uint32_t>(of.size())));
  }
  size_t some() { return below(static_cast<uint32_t>(step_.tables.size())); }
  void set_length(size_t s, int32_t length) {
    step_.context_lens[s] = length;
    const auto block = static_cast<int32_t>(step_.block_size);
    const auto blocks = static_cast<size_t>((length + block - 1) / block);
    auto& row = step_.tables[s];
    while (row.size() < blocks) row.push_back(next_++);
    row.resize(blocks);
  }
  void grow(size_t s, int32_t tokens) {
    const int32_t length = step_.context_lens[s] + tokens;
    if (length <= 2500) set_length(s, length);
  }
  void fork(size_t s, size_t from) {
    step_.tables[s] = step_.tables[from];
    step_.context_lens[s] = step_.context_lens[from];
    const auto keep = static_cast<int32_t>(below(3));
    if (keep == 0) return;  // as it is, its last block, too
    const auto length = static_cast<uint32_t>(step_.context_lens[s]);
    set_length(s, static_cast<int32_t>(below(length + 1)));
  }
  void change(size_t s) {
    auto& row = step_.tables[s];
    row[below(static_cast<uint32_t>(row.size()))] = next_++;
  }
  void add_sequences() {
    const uint32_t num = 1 + below(14);
    for (uint32_t s = 0; s < num; ++s) {
      step_.tables.emplace_back();
      step_.context_lens.push_back(0);
      if (s > 0 && below(5) != 0) fork(s, below(s));
      const uint32_t most = pick({1, 60, 400, 1500});
      grow(s, static_cast<int32_t>(below(most)));
    }
  }

  std::mt19937_64 rng_;
  CheckedStep step_;
  RadixLimits limits_;
  int32_t next_ = 1;
};

void expect_equal_trees(const SharedTree& a, const SharedTree& b, uint32_t num_seqs) {
  ASSERT_EQ(a.num_nodes(), b.num_nodes());
  for (uint32_t i = 0; i < a.num_nodes(); ++i) {
    ASSERT_EQ(a.nodes()[i].parent, b.nodes()[i].parent);
    ASSERT_EQ(a.nodes()[i].end_slot - a.nodes()[i].first_slot,
              b.nodes()[i].end_slot - b.nodes()[i].first_slot);
    ASSERT_EQ(a.nodes()[i].end_block, b.nodes()[i].end_block);
  }
  for (uint32_t s = 0; s < num_seqs; ++s) {
    const auto deepest = [s](const SharedTree& t) {
      uint32_t slot = 0;
      while (t.seqs()[slot] != s) ++slot;
      return t.slot_nodes()[slot];
    };
    ASSERT_EQ(deepest(a), deepest(b)) << s;
  }
}

TEST(RadixPlanner, ListsAreRightAndTreesAreNewOnesAfterAnyHistory) {
  uint64_t steps = 0, lists = 0, builds = 0, shared = 0;
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    RandomSteps steps_of(seed);
    const RadixPlanShape shape = steps_of.shape();
    Planned p(shape);
    RadixPlanShape fresh_shape = shape;
    fresh_shape.limits = RadixLimits();
    for (int i = 0; i < 30; ++i) {
      SCOPED_TRACE("seed " + std::to_string(seed) + " step " + std::to_string(i));
      const CheckedStep& step = steps_of.step();
      p.plan(step);
      ASSERT_TRUE(p.planner.has_list());
      CheckedStep checked = step;
      ASSERT_EQ(p.check(checked), "");
      Planned fresh(fresh_shape);
      fresh.plan(step);
      const auto num = static_cast<uint32_t>(step.tables.size());
      expect_equal_trees(p.planner.tree(), fresh.planner.tree(), num);
      if (HasFatalFailure()) return;
      uint64_t seen = 0;
      for (size_t s = 0; s < num; ++s)
        if (step.num_rows(s) > 0) seen += static_cast<uint64_t>(step.context_lens[s]);
      ASSERT_EQ(p.planner.sizes().tokens_seen, seen);
      ASSERT_LE(p.planner.sizes().tokens_read, seen);
      shared += p.planner.sizes().num_shared > 0;
      steps_of.move();
      ++steps;
    }
    lists += p.planner.num_lists();
    builds += p.planner.num_builds();
  }
  EXPECT_LT(lists, steps * 3 / 4) << "steps that only grow patch their list";
  EXPECT_LT(builds, lists);
  EXPECT_GT(shared, steps / 8);
}

TEST(RadixPlanner, DecodeThatOnlyGrowsKeepsItsList) {
  CheckedStep step = prefix_step(1024, std::vector<int32_t>(8, 20));
  RadixPlanShape shape = shape_of(step, limits_of(4));
  shape.row_stride += 20;
  Planned p(shape);
  p.plan(step);
  int32_t next = 5000000;
  for (int i = 1; i <= 128; ++i) {
    for (size_t s = 0; s < 8; ++s) {
      if (step.context_lens[s]++ % 16 == 0) step.tables[s].push_back(next++);
    }
    p.plan(step);
    ASSERT_EQ(p.check(step), "") << i;
  }
  EXPECT_EQ(p.planner.num_builds(), 1u);
  EXPECT_EQ(p.planner.num_lists(), 3u) << "one for each 64 tokens";
}

// Segments end at another step for each sequence.
TEST(RadixPlanner, BatchInvariantDecodeKeepsItsListWhenSegmentsBegin) {
  for (const int32_t shared : {0, 2048}) {
    std::vector<int32_t> own;
    for (int32_t s = 0; s < 60; ++s) own.push_back(300 + 4 * s);
    CheckedStep step = prefix_step(shared, own);
    step.batch_invariant = true;
    RadixPlanShape shape = shape_of(step, limits_of(4));
    shape.row_stride += 20;
    Planned p(shape);
    p.plan(step);
    int32_t next = 5000000;
    for (int i = 1; i < 64; ++i) {
      for (size_t s = 0; s < own.size(); ++s) {
        if (step.context_lens[s]++ % 16 == 0) step.tables[s].push_back(next++);
      }
      p.plan(step);
      ASSERT_EQ(p.check(step), "") << i;
    }
    EXPECT_EQ(p.planner.sizes().num_shared, shared > 0 ? 1u : 0u);
    EXPECT_EQ(p.planner.num_lists(), 1u);
  }
}

// Two forks of one length: what they share ends with the block that both have filled, and grows
// when a foreign cache lets both have the next one.
TEST(RadixPlanner, ForksThatFillTheSameBlock) {
  CheckedStep step;
  step.block_size = 4;
  step.tables = {{1, 2, 3}, {1, 2, 3}};
  step.context_lens = {11, 11};
  Planned p(shape_of(step, limits_of(1)));
  p.plan(step);
  EXPECT_EQ(p.planner.tree().nodes()[0].end_block, 2u);
  step.context_lens = {12, 12};
  p.plan(step);
  EXPECT_EQ(p.planner.tree().nodes()[0].end_block, 3u);
  ASSERT_EQ(p.check(step), "");
}

TEST(RadixPlanner, WithoutListsThereIsATreeAllTheSame) {
  const CheckedStep step = prefix_step(64, {5, 6});
  RadixPlanShape shape = shape_of(step, limits_of(1));
  shape.limits = RadixLimits();
  Planned p(shape);
  p.plan(step);
  EXPECT_FALSE(p.planner.has_list());
  EXPECT_EQ(p.planner.tree().num_nodes(), 1u);
  EXPECT_EQ(p.planner.sizes().tokens_seen, 139u);
  EXPECT_EQ(p.planner.sizes().tokens_read, 139u);
}

TEST(RadixPlanner, UnsharedPlansHaveNoTree) {
  const CheckedStep step = prefix_step(4096, std::vector<int32_t>(16, 6));
  RadixPlanShape shape = shape_of(step, limits_of(4));
  shape.shares = false;
  Planned p(shape);
  p.plan(step);
  ASSERT_EQ(p.check(step), "");
  EXPECT_EQ(p.planner.tree().num_nodes(), 0u);
  EXPECT_EQ(p.planner.sizes().tokens_read, 16u * 4102);
}

}  // namespace
}  // namespace radixattn
