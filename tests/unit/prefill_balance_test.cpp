// Prefill by a plan's list against prefill without a plan, on the CPU, in modelled time: both cuts
// are handed to simulated workers, of whom whoever is free first draws the next item.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "backend/cpu/attention_jobs.h"
#include "backend/cpu/kernels.h"
#include "plan/radix_planner.h"
#include "radix_list_check.h"

namespace radixattn {
namespace {

constexpr uint32_t kDim = 128, kBlock = 16;

// A prefill step of sequences that begin with `shared` common tokens.
struct Case {
  CheckedStep step;
  uint32_t heads = 1, workers = 1;
  RadixLimits limits;

  uint32_t rows() const {
    uint32_t n = 0;
    for (const int32_t q : step.q_lens) n += static_cast<uint32_t>(q);
    return n;
  }
  AttentionParams bounds() const {
    AttentionParams p;
    p.num_seqs = static_cast<uint32_t>(step.tables.size());
    p.num_kv_heads = heads;
    p.num_q_heads = heads * step.group;
    p.head_dim = p.head_dim_v = kDim;
    p.block_size = kBlock;
    p.max_query_rows = rows();
    for (size_t s = 0; s < step.tables.size(); ++s) {
      p.max_query_len = std::max(p.max_query_len, static_cast<uint32_t>(step.q_lens[s]));
      p.max_context_len = std::max(p.max_context_len, static_cast<uint32_t>(step.context_lens[s]));
    }
    p.k.dtype = p.v.dtype = RADIX_BF16;
    p.q.dtype = p.out.dtype = RADIX_F32;
    p.batch_invariant = step.batch_invariant;
    return p;
  }
};

Case make_case(int32_t shared, const std::vector<int32_t>& cached, std::vector<int32_t> q_lens) {
  Case c;
  c.step.block_size = kBlock;
  c.step.q_lens = std::move(q_lens);
  int32_t next = 1 << 20;
  for (size_t s = 0; s < c.step.q_lens.size(); ++s) {
    const int32_t length = shared + cached[s] + c.step.q_lens[s];
    std::vector<int32_t> row;
    for (int32_t b = 0; b * static_cast<int32_t>(kBlock) < length; ++b)
      row.push_back((b + 1) * static_cast<int32_t>(kBlock) <= shared ? b : next++);
    c.step.tables.push_back(row);
    c.step.context_lens.push_back(length);
  }
  return c;
}

// What an item costs one KV head: keys up to its last row's position are brought in, and a panel
// is computed for those that one of its rows sees. `positions`: of its stacked rows, one each.
double item_cost(const Case& c, const std::vector<int32_t>& positions, int32_t begin, int32_t end) {
  const RadixCosts& costs = c.limits.costs;
  double panels = 0;
  int32_t last = begin;
  for (size_t r = 0; r < positions.size(); r += c.limits.panel_rows) {
    const size_t stop = std::min(positions.size(), r + c.limits.panel_rows);
    int32_t seen = begin;
    for (size_t i = r; i < stop; ++i) seen = std::max(seen, std::min(positions[i] + 1, end));
    panels += seen - begin;
    last = std::max(last, seen);
  }
  return costs.item + (last - begin) * double{costs.wide_token} +
         panels * double{costs.panel_token};
}

double makespan(const std::vector<double>& units, uint32_t workers) {
  std::vector<double> free(workers);
  for (const double unit : units) *std::min_element(free.begin(), free.end()) += unit;
  return *std::max_element(free.begin(), free.end());
}

double time_without_a_plan(const Case& c) {
  const auto group = static_cast<int32_t>(c.step.group);
  std::vector<int32_t> cu = {0};
  for (const int32_t q : c.step.q_lens) cu.push_back(cu.back() + q);
  AttentionParams p = c.bounds();
  p.cu_q_lens = cu.data();
  const uint32_t rows = prefill_item_rows(p, c.workers);
  std::vector<double> units;
  for (size_t s = 0; s < c.step.q_lens.size(); ++s) {
    const int32_t q = c.step.q_lens[s], first = c.step.context_lens[s] - q;
    const uint32_t tiles = (static_cast<uint32_t>(q * group) + rows - 1) / rows;
    for (uint32_t t = tiles; t-- > 0;) {
      std::vector<int32_t> positions;
      const auto end = std::min<int32_t>(q * group, static_cast<int32_t>((t + 1) * rows));
      for (auto r = static_cast<int32_t>(t * rows); r < end; ++r)
        positions.push_back(first + r / group);
      units.insert(units.end(), c.heads, item_cost(c, positions, 0, c.step.context_lens[s]));
    }
  }
  return makespan(units, c.workers);
}

double time_of_list(const Case& c, const CheckedList& list) {
  const auto num = static_cast<size_t>(list.sizes.num_items);
  AttentionParams p = c.bounds();
  const int32_t prefill = 0;
  p.cu_q_lens = &prefill;
  const uint32_t few = radix_few_heads(p, static_cast<uint32_t>(list.sizes.num_items), c.workers);
  std::vector<double> units;
  for (size_t i = 0; i < num; ++i) {
    const RadixItem& item = list.items[i];
    std::vector<int32_t> positions;
    for (int32_t r = item.row_begin; r < item.row_end; ++r)
      positions.push_back(list.rows[static_cast<size_t>(r) / c.step.group].position);
    double cost = item_cost(c, positions, item.token_begin, item.token_end);
    if (item.state != RadixItem::kDirect) {
      const int32_t segments = item.state_stride == 0
                                   ? 1
                                   : (item.token_end + kSegmentTokens - 1) / kSegmentTokens -
                                         item.token_begin / kSegmentTokens;
      cost += double{c.limits.costs.state} * segments * static_cast<double>(positions.size()) /
              c.step.group;
    }
    const uint32_t at_once = positions.size() > kPrefillMultiRows ? 1 : few;
    units.insert(units.end(), c.heads / at_once, cost * at_once);
  }
  return makespan(units, c.workers);
}

double ratio_of(Case c) {
  c.limits = cpu_radix_limits(c.bounds(), c.workers);
  RadixPlanShape shape;
  shape.max_seqs = static_cast<uint32_t>(c.step.tables.size());
  shape.max_rows = c.rows();
  shape.block_size = kBlock;
  for (const auto& row : c.step.tables)
    shape.row_stride = std::max<uint64_t>(shape.row_stride, row.size());
  shape.group = c.step.group;
  shape.batch_invariant = c.step.batch_invariant;
  shape.always = true;
  c.limits.max_items =
      std::max(c.limits.max_items,
               radix_items_at_least(shape.max_seqs, shape.max_rows, c.step.group, c.limits));
  shape.limits = c.limits;
  std::vector<char> memory(RadixPlanner::bytes(shape) + 64);
  CheckedList list;
  list.items.resize(c.limits.max_items);
  list.rows.resize(shape.max_rows);
  list.merges.resize(shape.max_seqs);
  list.terms.resize(c.limits.max_terms + 1);
  RadixPlanner planner;
  planner.bind(
      shape,
      {&list.sizes, list.items.data(), list.rows.data(), list.merges.data(), list.terms.data()},
      memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64);
  std::vector<int32_t> tables, cu = {0};
  for (const auto& row : c.step.tables) {
    tables.insert(tables.end(), row.begin(), row.end());
    tables.resize((tables.size() + shape.row_stride - 1) / shape.row_stride * shape.row_stride, -1);
  }
  for (const int32_t q : c.step.q_lens) cu.push_back(cu.back() + q);
  std::fill_n(planner.first_changed(), shape.max_seqs, 0u);
  planner.plan({tables.data(), c.step.context_lens.data(), cu.data(), shape.max_seqs});
  EXPECT_EQ(ListChecker(c.step, list, c.limits).check(), "");
  return time_of_list(c, list) / time_without_a_plan(c);
}

Case random_case(std::mt19937_64* rng) {
  const auto below = [&](uint64_t n) { return static_cast<int32_t>((*rng)() % n); };
  const int32_t num = 1 + below(below(3) == 0 ? 2 : 12), most = below(2) == 0 ? 40 : 400;
  std::vector<int32_t> cached, q_lens;
  for (int32_t s = 0; s < num; ++s) {
    cached.push_back(below(4) == 0 ? below(3000) : 0);
    q_lens.push_back(1 + below(static_cast<uint64_t>(most)));
  }
  Case c = make_case(below(2) == 0 ? 0 : below(3000), cached, q_lens);
  c.step.group = 1u << below(4);
  c.heads = 1u << below(4);
  c.workers = std::vector<uint32_t>{1, 2, 3, 4, 8, 16, 32}[(*rng)() % 7];
  c.step.batch_invariant = below(2) == 0;
  return c;
}

// A prompt of two items of 480 rows for eight workers, and one whose context is not worth a cut.
TEST(PrefillBalance, SmallStepsTakeItemsAsSmallAsWithoutAPlan) {
  for (const std::vector<int32_t>& lens : {std::vector<int32_t>{234, 0}, {8, 366}}) {
    for (const bool invariant : {false, true}) {
      Case c = make_case(0, {lens[1]}, {lens[0]});
      c.step.group = 8;
      c.heads = 4;
      c.workers = 8;
      c.step.batch_invariant = invariant;
      EXPECT_LE(ratio_of(c), 1.001) << lens[0];
    }
  }
}

// Simulated workers and the plan's figures differ a little, so that a step in hundreds takes
// longer.
TEST(PrefillBalance, APlannedStepTakesNoLongerThanOneWithoutAPlan) {
  constexpr int kSteps = 800;
  std::mt19937_64 rng(7);
  int longer = 0, shorter = 0;
  for (int i = 0; i < kSteps; ++i) {
    const double ratio = ratio_of(random_case(&rng));
    ASSERT_LE(ratio, 1.1) << "step " << i;
    longer += ratio > 1.02;
    shorter += ratio < 0.98;
  }
  EXPECT_LE(longer, kSteps / 100);
  EXPECT_GE(shorter, kSteps / 4) << "where sequences share";
}

}  // namespace
}  // namespace radixattn
