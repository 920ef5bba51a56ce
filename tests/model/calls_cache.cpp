// evict, clear, namespaces, epochs, the sharing graph, and calls that must be refused.
#include <algorithm>

#include "world.h"

namespace radixattn::model {

void World::evict(Rng& rng) {
  const radix_ns ns = rng.percent(60) ? RADIX_NS_ALL : pick_ns(rng);
  const View before = view();
  const uint32_t want = rng.percent(80) ? rng.below(4) : rng.below(shape_.num_blocks + 3);
  const uint64_t have = ns == RADIX_NS_ALL ? reported_cached_ : reported_cached_in_[ns];
  uint32_t freed = 99;
  const radix_status st = radix_evict(ctx_, ns, want, &freed);
  seen_status("evict", st);
  CHECK_EQ(st, RADIX_OK, "evict");
  CHECK_EQ(freed, std::min<uint64_t>(want, have), "evict of ", want);
  absorb_evictions(freed, before, ns != RADIX_NS_ALL, ns);
  settle(before);
}

void World::clear(Rng& rng) {
  const radix_ns ns = rng.percent(30) ? RADIX_NS_ALL : pick_ns(rng);
  auto here = [&](radix_ns other) { return ns == RADIX_NS_ALL || ns == other; };
  const bool busy =
      std::any_of(live_.begin(), live_.end(), [&](const auto& e) { return here(e.second.ns); }) ||
      std::any_of(pins_.begin(), pins_.end(), [&](const auto& e) { return here(e.second.ns); });
  const View before = view();
  const radix_status st = radix_clear(ctx_, ns);
  seen_status("clear", st);
  CHECK_EQ(st, busy ? RADIX_E_BUSY : RADIX_OK, "clear");
  if (busy) return;
  std::set<Hash> gone;
  for (const auto& [h, c] : tree_)
    if (here(c.ns)) gone.insert(h);
  leave_tree(gone, before);
  settle(before);
}

void World::ns_create(Rng& rng) {
  const std::string name =
      "space " + std::to_string(rng.below(4)) + std::string(rng.percent(20) ? 1 : 0, '\0');
  const bool taken = std::any_of(spaces_.begin(), spaces_.end(),
                                 [&](const auto& e) { return e.second.name == name; });
  const uint32_t quota = rng.percent(70) ? rng.range(1, std::max(2u, shape_.num_blocks / 2)) : 0;
  radix_ns id = 0;
  arm(rng);
  const radix_status st = disarm(radix_ns_create(ctx_, name.data(), name.size(), quota, &id));
  seen_status("ns_create", st);
  if (out_of_memory(st)) return;
  const bool full = has(RADIX_CTX_PREALLOCATE) && spaces_.size() - 1 == shape_.max_namespaces;
  if (taken || full) {
    CHECK((taken && st == RADIX_E_STATE) || (full && st == RADIX_E_FULL), "ns_create gives ",
          radix_status_name(st));
    return;
  }
  CHECK_EQ(st, RADIX_OK, "ns_create");
  CHECK(id != 0 && spaces_.count(id) == 0, "namespace id ", id);
  CHECK(std::find(dead_spaces_.begin(), dead_spaces_.end(), id) == dead_spaces_.end(),
        "namespace id came again");
  spaces_[id] = {name, quota};
}

void World::ns_destroy(Rng& rng) {
  const radix_ns ns = pick_ns(rng);
  if (ns == 0) {
    CHECK_EQ(radix_ns_destroy(ctx_, 0), RADIX_E_INVALID, "destroy of the default namespace");
    return;
  }
  const bool busy =
      std::any_of(live_.begin(), live_.end(), [&](const auto& e) { return e.second.ns == ns; }) ||
      std::any_of(pins_.begin(), pins_.end(), [&](const auto& e) { return e.second.ns == ns; });
  const View before = view();
  const radix_status st = radix_ns_destroy(ctx_, ns);
  seen_status("ns_destroy", st);
  CHECK_EQ(st, busy ? RADIX_E_BUSY : RADIX_OK, "ns_destroy");
  if (busy) return;
  std::set<Hash> gone;
  for (const auto& [h, c] : tree_)
    if (c.ns == ns) gone.insert(h);
  leave_tree(gone, before);
  spaces_.erase(ns);
  reported_cached_in_.erase(ns);
  dead_spaces_.push_back(ns);
  settle(before);
}

void World::epoch_begin() {
  radix_epoch e = 0;
  const radix_status st = radix_epoch_begin(ctx_, &e);
  seen_status("epoch_begin", st);
  if (!has(RADIX_CTX_DEFER_FREE)) {
    CHECK_EQ(st, RADIX_E_STATE, "epoch_begin without DEFER_FREE");
    return;
  }
  CHECK_EQ(st, RADIX_OK, "epoch_begin");
  CHECK_EQ(e, epoch_ + 1, "epochs count up");
  epoch_ = e;
}

void World::epoch_retire(Rng& rng) {
  radix_epoch upto = epoch_;
  if (rng.percent(50)) upto -= rng.below(std::min<uint64_t>(epoch_, 3) + 1);
  if (rng.percent(5)) upto = epoch_ + 1 + rng.below(2);
  const View before = view();
  const radix_status st = radix_epoch_retire(ctx_, upto);
  if (!has(RADIX_CTX_DEFER_FREE)) {
    CHECK(st == RADIX_E_STATE || st == RADIX_E_INVALID || st == RADIX_OK,
          "epoch_retire without DEFER_FREE");
    return;
  }
  seen_status("epoch_retire", st);
  if (upto > epoch_) {
    CHECK_EQ(st, RADIX_E_INVALID, "an epoch that has not begun");
    return;
  }
  CHECK_EQ(st, RADIX_OK, "epoch_retire ", upto);
  retired_ = std::max(retired_, upto);
  for (auto it = given_up_.begin(); it != given_up_.end();) {
    if (it->second.fence_hi <= retired_) {
      poison(it->first);
      it = given_up_.erase(it);
      seen("event.fence_passed");
    } else {
      ++it;
    }
  }
  settle(before);
}

namespace {

struct Sink {
  std::string text;
  uint64_t limit = UINT64_MAX;
};

int64_t RADIX_CALL write_piece(void* user, const void* buf, uint64_t len) {
  auto& s = *static_cast<Sink*>(user);
  if (s.text.size() + len > s.limit) return -1;
  s.text.append(static_cast<const char*>(buf), len);
  return static_cast<int64_t>(len);
}

}  // namespace

void World::graph(Rng& rng) {
  Sink whole, cut;
  const int32_t format = static_cast<int32_t>(rng.below(3));
  radix_status st = radix_sharing_graph(ctx_, write_piece, &whole, format);
  if (st == RADIX_E_NOMEM) return;
  CHECK_EQ(st, RADIX_OK, "sharing_graph");
  CHECK(!whole.text.empty(), "sharing_graph wrote nothing");
  cut.limit = whole.text.size() - 1;
  st = radix_sharing_graph(ctx_, write_piece, &cut, format);
  seen_status("sharing_graph", st);
  CHECK_EQ(st, RADIX_E_CALLBACK, "sharing_graph with a failing callback");
}

// Forgotten without being evicted: what may still be read waits, at most for the current epoch.
void World::leave_tree(const std::set<Hash>& gone, const View& before) {
  for (Hash h : gone) {
    const Cached& c = tree_.at(h);
    const bool leased = before.leased.count(h) != 0;
    if (!leased && (c.fence > retired_ || c.fence_hi > retired_))
      given_up_[c.block] = {c.fence, epoch_, c.ns};
    tree_.erase(h);
  }
}

// Ids of things that are gone, in every call that takes one.
void World::stale(Rng& rng) {
  if (!dead_requests_.empty()) {
    const radix_req r = dead_requests_[rng.below(dead_requests_.size())];
    radix_append a{r, nullptr, 1, 0};
    radix_append_out out{};
    out.struct_size = sizeof out;
    radix_commit_item c{r, 0};
    int32_t row[1];
    radix_req child = 0;
    radix_token t = 0;
    uint64_t n = 0;
    radix_request_info info{};
    info.struct_size = sizeof info;
    CHECK_EQ(radix_append_slot(ctx_, &a, 1, &out), RADIX_E_STALE, "append");
    CHECK_EQ(radix_commit(ctx_, &c, 1, nullptr), RADIX_E_STALE, "commit");
    CHECK_EQ(radix_get_block_tables(ctx_, &r, 1, row, 1, nullptr, nullptr), RADIX_E_STALE,
             "tables");
    CHECK_EQ(radix_fork(ctx_, r, 1, &child), RADIX_E_STALE, "fork");
    CHECK_EQ(radix_truncate(ctx_, r, 0), RADIX_E_STALE, "truncate");
    CHECK_EQ(radix_set_tokens(ctx_, r, 0, &t, 1), RADIX_E_STALE, "set_tokens");
    CHECK_EQ(radix_get_tokens(ctx_, r, &t, 1, &n), RADIX_E_STALE, "get_tokens");
    CHECK_EQ(radix_get_request(ctx_, r, &info), RADIX_E_STALE, "get_request");
    CHECK_EQ(radix_free_request(ctx_, r, 0), RADIX_E_STALE, "free");
    seen("event.stale_request");
  }
  if (!dead_pins_.empty())
    CHECK_EQ(radix_unpin(ctx_, dead_pins_[rng.below(dead_pins_.size())]), RADIX_E_STALE, "unpin");
  if (!dead_spaces_.empty()) {
    const radix_ns ns = dead_spaces_[rng.below(dead_spaces_.size())];
    const Tokens none;
    const radix_request_desc d = desc(none, ns, 0, 0);
    radix_req r = 0;
    radix_match m{};
    m.struct_size = sizeof m;
    CHECK_EQ(radix_begin_request(ctx_, &d, &r, nullptr), RADIX_E_STALE, "begin");
    CHECK_EQ(radix_match_prefix(ctx_, &d, &m), RADIX_E_STALE, "match");
    CHECK_EQ(radix_clear(ctx_, ns), RADIX_E_STALE, "clear");
    CHECK_EQ(radix_evict(ctx_, ns, 1, nullptr), RADIX_E_STALE, "evict");
    CHECK_EQ(radix_ns_destroy(ctx_, ns), RADIX_E_STALE, "ns_destroy");
    seen("event.stale_namespace");
  }
}

// Arguments that must be refused; the fuzzer has the rest.
void World::misuse(Rng& rng) {
  const Tokens t = prompt(rng);
  radix_request_desc d = desc(t, 0, 0, 1u << 7);
  radix_req r = 0;
  CHECK_EQ(radix_begin_request(ctx_, &d, &r, nullptr), RADIX_E_INVALID, "unknown flag");
  d = desc(t, 0, 0, 0);
  d.struct_size = 3;
  CHECK_EQ(radix_begin_request(ctx_, &d, &r, nullptr), RADIX_E_VERSION, "struct_size 3");
  if (live_.empty()) return;
  const radix_req id = pick(rng)->id;
  const radix_append twice[2] = {{id, nullptr, 1, 0}, {id, nullptr, 1, 0}};
  radix_append_out out{};
  out.struct_size = sizeof out;
  std::vector<radix_op> ops(2);
  out.ops = ops.data();
  out.ops_cap = 2;
  const radix_status st = radix_append_slot(ctx_, twice, 2, &out);
  CHECK(st == RADIX_E_INVALID || st == RADIX_E_FULL, "one request twice gives ",
        radix_status_name(st));
  CHECK_EQ(radix_free_request(ctx_, id, 1u << 9), RADIX_E_INVALID, "unknown flag");
  seen("event.misuse");
}

}  // namespace radixattn::model
