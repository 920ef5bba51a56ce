#include "plan/radix_schedule.h"

#include <algorithm>
#include <bit>

#include "plan/carve.h"
#include "plan/draw_time.h"

namespace radixattn {
namespace {

constexpr uint32_t kGrain = 64;  // cuts are whole tiles of every kernel
constexpr uint32_t kShortest = 2 * kGrain;
constexpr uint32_t kReach = 8;        // absorbed nodes one above the other that are told apart
constexpr double kWorthwhile = 0.98;  // sharing costs at most this part of doing without
constexpr uint32_t kDraws = 16;       // for each worker: with so many they end at about one time
constexpr uint32_t kBuckets = 512;    // of items by cost, 16 for each factor of 2
constexpr int32_t kNone = -1;
constexpr uint32_t kSegment = kSegmentTokens;

uint32_t divide_up(uint64_t a, uint64_t b) { return static_cast<uint32_t>((a + b - 1) / b); }

// What a run's stacked rows cost a key.
struct RowCost {
  uint32_t tiles;
  float per_key, tile_key;  // of all tiles; of the largest
  bool narrow;
};

RowCost cost_of_rows(const RadixScheduleInput& in, uint64_t rows) {
  const RadixLimits& l = in.limits;
  const uint64_t tile = l.wide_rows > 0 ? l.wide_rows : rows, panel = std::max(1u, l.panel_rows);
  const auto key = [&](uint64_t n) {
    return l.costs.wide_token + static_cast<float>(divide_up(n, panel)) * l.costs.panel_token;
  };
  const uint32_t tiles = divide_up(rows, tile);
  const uint64_t last = rows - (tiles - 1) * tile;
  RowCost cost = {tiles, key(last), key(std::min(rows, tile)), false};
  cost.per_key += static_cast<float>(tiles - 1) * cost.tile_key;
  const uint64_t tokens = rows / in.group;
  if (in.cu_q_lens != nullptr || in.batch_invariant) return cost;
  if (tokens == 0 || tokens > l.narrow_tokens || rows > l.few_drawn) return cost;
  // Each of several rows would have a part of a window of its own.
  if (tokens > 1 && in.window != 0) return cost;
  const float narrow = narrow_key_cost(l.costs, static_cast<uint32_t>(tokens));
  if (narrow > cost.per_key) return cost;
  return {1, narrow, narrow, true};
}

// Query tokens of a tile of a sequence's own rows.
uint32_t tile_tokens(const RadixScheduleInput& in, uint32_t rows) {
  const uint32_t tile = std::max(1u, in.limits.wide_rows);
  return std::min(rows, divide_up(tile, in.group));
}

// Causal order: a tile of prefill brings in the keys of its last row, which its other rows see in
// part.
float unseen_cost(const RadixScheduleInput& in, uint32_t rows) {
  if (in.cu_q_lens == nullptr) return 0;
  return 0.5f * static_cast<float>(tile_tokens(in, rows) - 1) * in.limits.costs.wide_token;
}

}  // namespace

// What the choice knows of a tree's node. Runs below it may begin at one of a few positions: with
// k = 0 at its own end, else at bases[k - 1], the end of the node k levels up.
struct RadixScheduler::Node {
  uint32_t end;            // positions, whole segments in batch-invariant lists
  uint32_t visible;        // first position that a row below it sees
  uint32_t bases[kReach];  // once chosen, bases[0] is where its own run begins, or would
  float below[kReach];     // cost of what is below, by k
  RowCost rows;
  uint32_t reach;        // states that differ: levels above, and one
  uint32_t shared_bits;  // by absorbed levels above
  uint32_t absorbed;     // what was chosen: levels above
  bool shared;
  int32_t run;  // the lowest at or above it
};

// Keys that are done at once for all rows of some sequences.
struct RadixScheduler::Run {
  uint32_t seq, num_seqs;
  uint32_t row_begin, row_end;  // sorted rows
  uint32_t begin, end;          // positions
  uint32_t cut_end;             // no cut behind it
  uint32_t piece;               // length; cuts are multiples of it from `begin`, rounded down, on
  uint32_t num_states;          // of each row; 0: the result
  uint32_t first_state;
  int32_t above;    // the run whose states come before; -1
  float keys;       // that a row sees
  float last_keys;  // that a row of the last tile sees
  float most_keys;  // that any row sees
  float unseen;     // cost of an item's keys that its rows do not see
  RowCost rows;
  bool sole;  // no row has another run
  bool own;   // of one sequence, to its end

  uint32_t num_rows() const { return row_end - row_begin; }
};

struct RadixScheduler::Cut {
  double longest_item = 1e30;  // that was asked for
  uint64_t items = 0, units = 0, states = 0, terms = 0;
  double total = 0, longest = 0;  // the latter: of a unit
};

namespace {

// Of one part.
uint32_t walkers_of(const RadixLimits& l) {
  return std::max(1u, l.workers / std::max(1u, l.parts));
}

uint32_t grain_of(const RadixScheduleInput& in) { return in.batch_invariant ? kSegment : kGrain; }

// States that a piece leaves for each row.
uint32_t states_of(const RadixScheduleInput& in, uint32_t begin, uint32_t end) {
  if (!in.batch_invariant || begin == 0) return 1;
  return divide_up(end, kSegment) - begin / kSegment;
}

uint32_t num_rows(const RadixScheduleInput& in, uint32_t seq) {
  if (in.cu_q_lens == nullptr) return in.context_lens[seq] > 0 ? 1 : 0;
  return static_cast<uint32_t>(in.cu_q_lens[seq + 1] - in.cu_q_lens[seq]);
}

// Position of the first query token.
uint32_t first_position(const RadixScheduleInput& in, uint32_t seq) {
  return static_cast<uint32_t>(in.context_lens[seq]) - num_rows(in, seq);
}

uint32_t visible_from(const RadixScheduleInput& in, uint32_t position) {
  return in.window != 0 && position >= in.window ? position - in.window + 1 : 0;
}

// Pieces of [begin, end) that are cut every `piece` positions.
template <class Visit>
void for_pieces(uint32_t begin, uint32_t end, uint32_t cut_end, uint32_t piece, uint32_t grain,
                Visit visit) {
  uint64_t cut = uint64_t{begin / grain * grain} + piece;
  while (cut < end && cut <= cut_end) {
    visit(begin, static_cast<uint32_t>(cut));
    begin = static_cast<uint32_t>(cut);
    cut += piece;
  }
  visit(begin, end);
}

}  // namespace

uint32_t radix_items_at_least(uint32_t max_seqs, uint32_t max_rows, uint32_t group,
                              const RadixLimits& limits) {
  const uint64_t tile = std::max(1u, limits.wide_rows);
  const uint64_t items = max_seqs + uint64_t{max_rows} * group / tile;
  return items < INT32_MAX ? static_cast<uint32_t>(items) : INT32_MAX;
}

// ---- memory -------------------------------------------------------------------------------------

void RadixScheduler::carve(uint32_t max_seqs, void* memory, uint64_t* used) {
  const uint64_t seqs = max_seqs;
  Carver carver(memory);
  first_rows_ = carver.take<uint32_t>(seqs + 1);
  own_runs_ = carver.take<int32_t>(seqs);
  last_items_ = carver.take<int32_t>(seqs);
  spare_after_ = carver.take<int32_t>(seqs);
  nodes_ = carver.take<Node>(2 * seqs);
  runs_ = carver.take<Run>(3 * seqs);
  *used = carver.used();
}

uint64_t RadixScheduler::bytes(uint32_t max_seqs) {
  uint64_t used;
  RadixScheduler().carve(max_seqs, nullptr, &used);
  return used;
}

void RadixScheduler::bind(uint32_t max_seqs, void* memory) {
  uint64_t used;
  carve(max_seqs, memory, &used);
}

// ---- what is shared -----------------------------------------------------------------------------

void RadixScheduler::place_rows() {
  uint32_t row = 0;
  for (uint32_t slot = 0; slot < in_.num_seqs; ++slot) {
    first_rows_[slot] = row;
    row += num_rows(in_, in_.tree->seqs()[slot]);
  }
  first_rows_[in_.num_seqs] = row;
  sizes_.num_rows = row;
}

void RadixScheduler::read_nodes() {
  const uint32_t num = in_.tree->num_nodes();
  for (uint32_t i = 0; i < num; ++i) {
    const TreeNode& t = in_.tree->nodes()[i];
    Node& n = nodes_[i];
    n.end = t.end_block * in_.block_size;
    if (in_.batch_invariant) n.end -= n.end % kSegment;
    n.visible = UINT32_MAX;
    n.reach = t.parent < 0 ? 1 : std::min(kReach, nodes_[t.parent].reach + 1);
    n.bases[0] = t.parent < 0 ? 0 : nodes_[t.parent].end;
    for (uint32_t k = 1; k < kReach; ++k)
      n.bases[k] = t.parent < 0 ? 0 : nodes_[t.parent].bases[k - 1];
    std::fill_n(n.below, kReach, 0.f);
    const uint64_t rows = first_rows_[t.end_slot] - first_rows_[t.first_slot];
    n.rows = cost_of_rows(in_, rows * in_.group);
  }
}

// A run of a sequence's own from `begin` on.
float RadixScheduler::own_cost(uint32_t slot, uint32_t begin) const {
  const uint32_t seq = in_.tree->seqs()[slot], rows = num_rows(in_, seq);
  const auto end = static_cast<uint32_t>(in_.context_lens[seq]);
  if (rows == 0 || begin >= end) return 0;
  const RowCost cost = cost_of_rows(in_, uint64_t{rows} * in_.group);
  const uint32_t from = std::max(begin, visible_from(in_, end - rows));
  const float keys = static_cast<float>(end - from) - 0.5f * static_cast<float>(rows - 1);
  const float item = in_.limits.costs.item + unseen_cost(in_, rows);
  float total = static_cast<float>(cost.tiles) * item + keys * cost.per_key;
  if (begin > 0)
    total += static_cast<float>(uint64_t{rows} * states_of(in_, begin, end)) * state_cost_;
  return total;
}

float RadixScheduler::node_cost(uint32_t node, uint32_t begin) const {
  const Node& n = nodes_[node];
  const TreeNode& t = in_.tree->nodes()[node];
  const uint32_t from = std::max(begin, n.visible);
  if (from >= n.end) return 0;
  const uint32_t rows = first_rows_[t.end_slot] - first_rows_[t.first_slot];
  return static_cast<float>(n.rows.tiles) * in_.limits.costs.item +
         static_cast<float>(n.end - from) * n.rows.per_key +
         static_cast<float>(uint64_t{rows} * states_of(in_, begin, n.end)) * state_cost_;
}

void RadixScheduler::add_own_costs() {
  for (uint32_t slot = 0; slot < in_.num_seqs; ++slot) {
    const int32_t node = in_.tree->slot_nodes()[slot];
    if (node < 0) continue;
    Node& n = nodes_[node];
    const uint32_t seq = in_.tree->seqs()[slot];
    n.visible = std::min(n.visible, visible_from(in_, first_position(in_, seq)));
    for (uint32_t k = 0; k < std::min(kReach, n.reach + 1); ++k)
      n.below[k] += own_cost(slot, k == 0 ? n.end : n.bases[k - 1]);
  }
}

void RadixScheduler::choose_nodes() {
  const uint32_t num = in_.tree->num_nodes();
  for (uint32_t i = num; i-- > 0;) {
    Node& n = nodes_[i];
    const int32_t parent = in_.tree->nodes()[i].parent;
    n.shared_bits = 0;
    float costs[kReach];
    for (uint32_t k = 0; k < n.reach; ++k) {
      const float absorbed = n.below[std::min(k + 1, kReach - 1)];
      const float shared =
          n.end > n.bases[k] ? n.below[0] + node_cost(i, n.bases[k]) : absorbed * 2 + 1;
      const bool share = shared < absorbed * static_cast<float>(kWorthwhile);
      n.shared_bits |= uint32_t{share} << k;
      costs[k] = share ? shared : absorbed;
    }
    if (parent < 0) continue;
    Node& up = nodes_[parent];
    up.visible = std::min(up.visible, n.visible);
    for (uint32_t k = 0; k < n.reach; ++k) up.below[k] += costs[k];
  }
  for (uint32_t i = 0; i < num; ++i) {
    Node& n = nodes_[i];
    const int32_t parent = in_.tree->nodes()[i].parent;
    n.absorbed = 0;
    if (parent >= 0 && !nodes_[parent].shared)
      n.absorbed = std::min(nodes_[parent].absorbed + 1, kReach - 1);
    n.shared = (n.shared_bits >> n.absorbed & 1) != 0;
  }
}

// ---- runs ---------------------------------------------------------------------------------------

// The run's keys from `begin` on, as far as one of its rows sees them; false: none.
bool RadixScheduler::add_run(Run* run, uint32_t begin, uint32_t visible) {
  const uint32_t grain = grain_of(in_);
  const uint32_t from = std::max(begin, visible);
  if (from >= run->end) return false;
  run->begin = std::max(begin, from / grain * grain);
  const uint32_t hidden = run->begin;
  // Only what begins at key 0 may fold its segments; what is hidden there costs nothing.
  if (in_.batch_invariant && run->above < 0) run->begin = 0;
  if (run->begin != hidden) run->cut_end = 0;
  const uint32_t rows = run->own ? run->num_rows() : 1;
  run->keys = static_cast<float>(run->end - from) - 0.5f * static_cast<float>(rows - 1);
  run->last_keys = run->keys;
  run->most_keys = static_cast<float>(run->end - from);
  run->unseen = 0;
  if (run->own && in_.cu_q_lens != nullptr) {
    const uint32_t last = tile_tokens(in_, rows);
    run->last_keys = static_cast<float>(run->end - from) - 0.5f * static_cast<float>(last - 1);
    run->unseen = unseen_cost(in_, rows);
  }
  run->sole = run->above < 0;
  if (run->above >= 0) runs_[run->above].sole = false;
  runs_[num_runs_++] = *run;
  return true;
}

void RadixScheduler::add_own_run(uint32_t slot) {
  own_runs_[slot] = kNone;
  const uint32_t seq = in_.tree->seqs()[slot];
  Run run = {};
  run.row_begin = first_rows_[slot];
  run.row_end = first_rows_[slot + 1];
  if (run.num_rows() == 0) return;
  uint32_t begin = 0;
  run.above = kNone;
  const int32_t deepest = in_.tree->slot_nodes()[slot];
  if (deepest >= 0) {
    const Node& n = nodes_[deepest];
    begin = n.shared ? n.end : n.bases[0];
    run.above = n.run;
  }
  run.seq = seq;
  run.num_seqs = 1;
  run.end = static_cast<uint32_t>(in_.context_lens[seq]);
  run.own = true;
  run.rows = cost_of_rows(in_, uint64_t{run.num_rows()} * in_.group);
  const uint32_t position = first_position(in_, seq);
  run.cut_end = in_.cu_q_lens == nullptr ? run.end : position;
  sizes_.tokens_seen += run.end;
  sizes_.tokens_read += run.end - begin;
  if (add_run(&run, begin, visible_from(in_, position)))
    own_runs_[slot] = static_cast<int32_t>(num_runs_) - 1;
}

void RadixScheduler::make_runs(bool shares) {
  num_runs_ = 0;
  sizes_.num_shared = 0;
  sizes_.tokens_seen = sizes_.tokens_read = 0;
  for (uint32_t i = 0; i < in_.tree->num_nodes(); ++i) {
    const TreeNode& t = in_.tree->nodes()[i];
    Node& n = nodes_[i];
    n.shared &= shares;
    n.run = t.parent < 0 ? kNone : nodes_[t.parent].run;
    // Where the keys begin that nobody above has, however far up that is.
    uint32_t begin = 0;
    if (t.parent >= 0) {
      const Node& up = nodes_[t.parent];
      begin = up.shared ? up.end : up.bases[0];
    }
    n.bases[0] = begin;
    if (!n.shared) continue;
    Run run = {};
    run.seq = in_.tree->seqs()[t.first_slot];
    run.num_seqs = t.end_slot - t.first_slot;
    run.row_begin = first_rows_[t.first_slot];
    run.row_end = first_rows_[t.end_slot];
    run.end = run.cut_end = n.end;
    run.above = n.run;
    run.rows = n.rows;
    sizes_.tokens_read += uint64_t{n.end - begin} * std::min(n.rows.tiles, run.num_seqs);
    if (!add_run(&run, begin, n.visible)) continue;
    n.run = static_cast<int32_t>(num_runs_) - 1;
    ++sizes_.num_shared;
  }
  for (uint32_t slot = 0; slot < in_.num_seqs; ++slot) add_own_run(slot);
}

// ---- cuts ---------------------------------------------------------------------------------------

// States of each row that a piece has none for yet, but will once its sequence has grown.
uint32_t RadixScheduler::spare_states(const Run& run, uint32_t begin, uint32_t end) const {
  if (in_.cu_q_lens != nullptr || !run.own || end != run.end) return 0;
  return states_of(in_, begin, end + kListGrowth - 1) - states_of(in_, begin, end);
}

// Units of a run's items that workers take one by one, in decode (prefill: choose_cuts).
uint32_t RadixScheduler::units_of(const Run& run) const {
  const uint64_t stacked = uint64_t{run.num_rows()} * in_.group;
  return in_.cu_q_lens == nullptr && stacked > in_.limits.few_drawn ? in_.limits.draws : 1;
}

// Pieces whose units cost `longest` at most, as far as that is possible.
RadixScheduler::Cut RadixScheduler::cut_at(double longest, bool apply) {
  const RadixCosts& costs = in_.limits.costs;
  const uint32_t grain = grain_of(in_), shortest = std::max(grain, kShortest);
  Cut cut;
  cut.longest_item = longest;
  for (uint32_t i = 0; i < num_runs_; ++i) {
    Run& r = runs_[i];
    const uint32_t units = units_of(r);
    const double most = (longest * units - costs.item) / std::max(r.rows.tile_key, 1e-6f);
    const uint32_t base = r.begin / grain * grain, length = r.end - base;
    uint32_t piece = 1u << 31;
    if (most < r.keys) {
      const double keys = std::max(most, static_cast<double>(shortest));
      const auto num = static_cast<uint32_t>(static_cast<double>(length) / keys) + 1;
      piece = std::max(shortest, divide_up(divide_up(length, num), grain) * grain);
    }
    uint32_t pieces = 0, states = 0;
    for_pieces(r.begin, r.end, r.cut_end, piece, grain, [&](uint32_t begin, uint32_t end) {
      ++pieces;
      states += states_of(in_, begin, end) + spare_states(r, begin, end);
    });
    if (r.sole && pieces == 1) states = 0;
    if (apply) {
      r.piece = piece;
      r.num_states = states;
    }
    const double keys = pieces == 1 ? r.last_keys : std::min<double>(r.last_keys, piece);
    const uint64_t items = uint64_t{pieces} * r.rows.tiles, rows = r.num_rows();
    cut.items += items;
    cut.units += items * units;
    cut.states += rows * states;
    cut.terms += uint64_t{r.num_seqs} * states;
    cut.longest = std::max(cut.longest, (costs.item + r.unseen + keys * r.rows.tile_key) / units);
    cut.total += static_cast<double>(items) * costs.item +
                 static_cast<float>(r.rows.tiles) * r.unseen + r.keys * r.rows.per_key +
                 static_cast<double>(rows * states) * costs.state;
  }
  return cut;
}

// What tile t of a piece costs one KV head, its states included.
float RadixScheduler::tile_cost(const Run& run, uint32_t t, uint32_t begin, uint32_t end,
                                uint32_t states) const {
  const RadixCosts& costs = in_.limits.costs;
  const uint32_t tile = std::max(1u, in_.limits.wide_rows), stacked = run.num_rows() * in_.group;
  const uint32_t first = t * tile, last = std::min(stacked, first + tile);
  auto keys = static_cast<float>(end - begin);
  if (begin == run.begin) keys = std::min(keys, run.most_keys - static_cast<float>(run.end - end));
  float seen = keys;
  if (run.own && end == run.end) {
    keys -= static_cast<float>(run.num_rows() - divide_up(last, in_.group));
    seen = keys - 0.5f * static_cast<float>(divide_up(last - first, in_.group) - 1);
  }
  const uint32_t panels = divide_up(last - first, std::max(1u, in_.limits.panel_rows));
  const float rows = static_cast<float>(last - first) / static_cast<float>(in_.group);
  return costs.item + keys * costs.wide_token +
         seen * static_cast<float>(panels) * costs.panel_token +
         rows * static_cast<float>(states) * costs.state;
}

// The time of a small prefill that is cut like this; `estimate` where that would be long to tell.
double RadixScheduler::drawn_time(const Cut& cut, double estimate) {
  const RadixLimits& l = in_.limits;
  if (in_.cu_q_lens == nullptr || l.few_rows == 0 || l.workers > DrawTime::kMostWorkers ||
      cut.items > DrawTime::kRoom || cut.items * l.draws >= 2 * kDraws * uint64_t{l.workers})
    return estimate;
  cut_at(cut.longest_item, true);
  DrawTime time;
  for (uint32_t i = 0; i < num_runs_; ++i) {
    const Run& r = runs_[i];
    for_pieces(r.begin, r.end, r.cut_end, r.piece, grain_of(in_), [&](uint32_t b, uint32_t e) {
      const uint32_t states = r.num_states == 0 ? 0 : states_of(in_, b, e);
      for (uint32_t t = 0; t < r.rows.tiles; ++t) time.add(tile_cost(r, t, b, e, states));
    });
  }
  return time.complete() ? time.finish(std::max(1u, l.workers), l.draws) : estimate;
}

bool RadixScheduler::choose_cuts() {
  const RadixLimits& l = in_.limits;
  const double draws = in_.cu_q_lens != nullptr ? std::max(1u, l.draws) : 1;
  const double pool =
      std::max(1.0, static_cast<double>(std::max(1u, l.workers)) / std::max(1u, l.parts));
  // As if each draw were an item: so many fewer workers.
  const double workers = pool / draws;
  const auto fits = [&l](const Cut& c) {
    return c.items <= l.max_items && c.states <= l.max_states && c.terms <= l.max_terms;
  };
  const auto estimate = [pool, workers](const Cut& c) {
    const double even = c.total / workers;
    if (static_cast<double>(c.units) <= workers) return std::max(c.longest, even);
    return std::max(c.longest, even + (1 - 1 / pool) * c.longest / 2);
  };
  constexpr double kUncut = 1e30;
  double best = kUncut;
  Cut least = cut_at(kUncut, false);
  const bool possible = fits(least);
  sizes_.work = least.total;
  const double even = least.total / workers;
  double time = drawn_time(least, estimate(least));
  for (const double part : {1.5, 1.25, 1.1, 1.0, 0.5, 0.34, 0.25}) {
    if (!possible || even * part >= least.longest) continue;
    const Cut cut = cut_at(even * part, false);
    if (!fits(cut)) continue;
    const double cut_time = drawn_time(cut, estimate(cut));
    if (cut_time >= time) continue;
    least = cut;
    best = even * part;
    time = cut_time;
  }
  cut_at(best, true);
  sizes_.num_items = static_cast<uint32_t>(least.items);
  sizes_.num_states = static_cast<uint32_t>(least.states);
  sizes_.num_terms = static_cast<uint32_t>(least.terms);
  sizes_.cost = time;
  return possible;
}

// Sharing and large items are the least work. A prefill that has only a few items for each worker
// may be done sooner with smaller ones, or when nobody shares.
void RadixScheduler::choose(const RadixScheduleInput& in) {
  choose_within(in, true);
  const RadixLimits& l = in.limits;
  const uint64_t draws = uint64_t{sizes_.num_items} * l.draws;
  if (in.cu_q_lens == nullptr || l.few_rows == 0 || draws >= uint64_t{kDraws} * l.workers) return;
  RadixScheduleInput best = in, other = in;
  bool shares = true;
  double time = sizes_.cost;
  for (const uint32_t rows : {l.wide_rows, l.few_rows}) {
    other.limits.wide_rows = rows;
    for (const bool other_shares : {true, false}) {
      if (rows == l.wide_rows && other_shares) continue;  // what there is
      const double least = other_shares ? time : time * kWorthwhile;
      if (!choose_within(other, other_shares) || sizes_.cost >= least) continue;
      best = other;
      shares = other_shares;
      time = sizes_.cost;
    }
  }
  choose_within(best, shares);
}

// Whether what was chosen fits the limits.
bool RadixScheduler::choose_within(const RadixScheduleInput& in, bool shares) {
  in_ = in;
  sizes_ = RadixScheduleSizes();
  place_rows();
  for (uint32_t slot = 0; slot < in.num_seqs; ++slot)
    sizes_.unshared_work += static_cast<double>(own_cost(slot, 0));
  // States that do not fit cost more, until there is nothing to share.
  for (const float weight : {1.f, 4.f, 16.f, 64.f}) {
    state_cost_ = in.limits.costs.state * weight + (weight > 1.f ? 1.f : 0.f);
    read_nodes();
    add_own_costs();
    choose_nodes();
    make_runs(shares);
    if (choose_cuts()) return true;
  }
  make_runs(false);
  return choose_cuts();
}

// ---- the list -----------------------------------------------------------------------------------

uint32_t RadixScheduler::num_tiles() const { return cost_of_rows(in_, in_.group).tiles; }

double RadixScheduler::piece_cost(const Run& run, uint32_t begin, uint32_t end) const {
  const float keys =
      begin == run.begin && end == run.end ? run.keys : static_cast<float>(end - begin);
  return in_.limits.costs.item + keys * run.rows.tile_key;
}

uint32_t RadixScheduler::place_of(uint32_t i) const {
  if (!in_.limits.strided) return i;
  const uint32_t round = walkers_of(in_.limits), first = i / round * round;
  if (i / round % 2 == 0) return i;
  return first + std::min(round, sizes_.num_items - first) - 1 - (i - first);
}

// Tile t of a piece.
void RadixScheduler::write_tile(const Run& run, uint32_t t, uint32_t begin, uint32_t end,
                                uint32_t state, RadixItem* item) const {
  const uint32_t last = run.row_end * in_.group;
  const uint32_t tile = run.rows.narrow || in_.limits.wide_rows == 0 ? last : in_.limits.wide_rows;
  const uint32_t row = run.row_begin * in_.group + t * tile;
  item->seq = static_cast<int32_t>(run.seq);
  item->token_begin = static_cast<int32_t>(begin);
  item->token_end = static_cast<int32_t>(end);
  item->row_begin = static_cast<int32_t>(row);
  item->row_end = static_cast<int32_t>(std::min(last - row, tile) + row);
  item->state = run.num_states == 0
                    ? RadixItem::kDirect
                    : static_cast<int32_t>(state) - static_cast<int32_t>(run.row_begin);
  item->state_stride = in_.batch_invariant && begin > 0 ? static_cast<int32_t>(run.num_rows()) : 0;
  item->narrow = run.rows.narrow ? 1 : 0;
  const bool whole = begin == run.begin && end == run.end && run.own && !in_.batch_invariant;
  if (!whole || in_.window == 0) return;
  const uint32_t position = first_position(in_, run.seq) + row / in_.group - run.row_begin;
  const uint32_t visible = visible_from(in_, position) / kGrain * kGrain;
  item->token_begin = static_cast<int32_t>(std::max(begin, visible));
}

// The dearest first.
uint32_t RadixScheduler::bucket_of(const Run& run, uint32_t t, uint32_t begin, uint32_t end) const {
  const auto cost = static_cast<float>(in_.cu_q_lens == nullptr
                                           ? piece_cost(run, begin, end)
                                           : static_cast<double>(tile_cost(run, t, begin, end, 0)));
  const uint32_t bits = std::bit_cast<uint32_t>(cost) >> 19;
  return kBuckets - 1 - std::min(bits - std::min(bits, 16u * 120), kBuckets - 1);
}

void RadixScheduler::write_items(const RadixArrays& out) {
  uint32_t cursors[kBuckets + 1] = {};
  // Tiles from the last on: of a prompt they see the most keys.
  const auto for_tiles = [this](auto visit) {
    for (uint32_t i = 0; i < num_runs_; ++i) {
      const Run& r = runs_[i];
      for_pieces(r.begin, r.end, r.cut_end, r.piece, grain_of(in_), [&](uint32_t b, uint32_t e) {
        for (uint32_t t = r.rows.tiles; t-- > 0;) visit(i, t, b, e);
      });
    }
  };
  for_tiles([&](uint32_t i, uint32_t t, uint32_t begin, uint32_t end) {
    ++cursors[bucket_of(runs_[i], t, begin, end) + 1];
  });
  for (uint32_t b = 0; b < kBuckets; ++b) cursors[b + 1] += cursors[b];
  std::fill_n(last_items_, in_.num_seqs, kNone);
  std::fill_n(spare_after_, in_.num_seqs, INT32_MAX);
  uint32_t state = 0;
  for_tiles([&](uint32_t i, uint32_t t, uint32_t begin, uint32_t end) {
    Run& run = runs_[i];
    const bool first = t == run.rows.tiles - 1;
    if (first && begin == run.begin) run.first_state = state;
    const uint32_t at = cursors[bucket_of(run, t, begin, end)]++;
    if (first && run.own && end == run.end) last_items_[run.seq] = static_cast<int32_t>(at);
    write_tile(run, t, begin, end, state, &out.items[place_of(at)]);
    if (t > 0 || run.num_states == 0) return;
    const uint32_t spare = spare_states(run, begin, end);
    if (spare > 0)
      spare_after_[run.seq] = static_cast<int32_t>(divide_up(end, kSegment) * kSegment);
    state += (states_of(in_, begin, end) + spare) * run.num_rows();
  });
}

void RadixScheduler::write_rows(const RadixArrays& out) {
  for (uint32_t slot = 0; slot < in_.num_seqs; ++slot) {
    const uint32_t seq = in_.tree->seqs()[slot], first = first_rows_[slot];
    const uint32_t num = first_rows_[slot + 1] - first;
    if (num == 0) continue;
    const int32_t query = in_.cu_q_lens != nullptr ? in_.cu_q_lens[seq] : static_cast<int32_t>(seq);
    const auto position = static_cast<int32_t>(first_position(in_, seq));
    for (uint32_t i = 0; i < num; ++i) {
      const auto offset = static_cast<int32_t>(i);
      out.rows[first + i] = {query + offset, position + offset};
    }
  }
}

void RadixScheduler::write_merges(const RadixArrays& out) {
  sizes_.has_merges = in_.num_merges > in_.num_seqs || sizes_.num_terms > 0;
  for (uint32_t s = 0; s < in_.num_merges; ++s) out.merges[s] = {kNone, 0, 0};
  uint32_t term = 0;
  for (uint32_t slot = 0; slot < in_.num_seqs; ++slot) {
    const uint32_t first = first_rows_[slot];
    const int32_t deepest = in_.tree->slot_nodes()[slot];
    if (first == first_rows_[slot + 1]) {
      sizes_.has_merges |= in_.cu_q_lens == nullptr;
      continue;
    }
    const int32_t last = own_runs_[slot] >= 0 ? own_runs_[slot] : nodes_[deepest].run;
    uint32_t end = term;
    for (int32_t r = last; r >= 0; r = runs_[r].above) end += runs_[r].num_states;
    uint32_t at = end;
    for (int32_t r = last; r >= 0; r = runs_[r].above) {
      const Run& run = runs_[r];
      at -= run.num_states;
      for (uint32_t k = 0; k < run.num_states; ++k)
        out.terms[at + k] = static_cast<int32_t>(run.first_state + k * run.num_rows()) -
                            static_cast<int32_t>(run.row_begin);
    }
    const uint32_t seq = in_.tree->seqs()[slot], spare = spare_after_[seq] != INT32_MAX ? 1 : 0;
    out.merges[seq] = {static_cast<int32_t>(first), static_cast<int32_t>(term),
                       static_cast<int32_t>(end - spare)};
    term = end;
  }
}

void RadixScheduler::write(const RadixArrays& out) {
  write_items(out);
  write_rows(out);
  write_merges(out);
  *out.sizes = {static_cast<int32_t>(sizes_.num_items), static_cast<int32_t>(sizes_.num_rows)};
}

}  // namespace radixattn
