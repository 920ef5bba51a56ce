// Everything that can be asked of the context, compared with the oracle, after every call.
#include <algorithm>

#include "world.h"

namespace radixattn::model {

radix_request_info World::info_of(radix_req r) {
  radix_request_info info{};
  info.struct_size = sizeof info;
  CHECK_EQ(radix_get_request(ctx_, r, &info), RADIX_OK, "get_request ", r);
  return info;
}

Row World::fetch_row(radix_req r) {
  const uint32_t n = info_of(r).num_blocks;
  Row row(size_t{n} + 1, -5);
  int32_t length = 0;
  CHECK_EQ(radix_get_block_tables(ctx_, &r, 1, row.data(), static_cast<int64_t>(row.size()),
                                  &length, nullptr),
           RADIX_OK, "tables");
  CHECK_EQ(row.back(), -1, "the row's end");
  row.pop_back();
  return row;
}

void World::verify() {
  CHECK_EQ(radix_check(ctx_), RADIX_OK, [] {
    char text[512];
    radix_last_error(text, sizeof text);
    return std::string(text);
  }());
  const View v = view();
  verify_stats(v);
  verify_rows();
  verify_sharing();
  verify_tree();
  check_content();
}

void World::verify_stats(const View& v) {
  radix_stats s{};
  s.struct_size = sizeof s;
  CHECK_EQ(radix_get_stats(ctx_, &s), RADIX_OK, "stats");
  note("  free " + std::to_string(s.blocks_free) + " cached " + std::to_string(s.blocks_cached) +
       " active " + std::to_string(s.blocks_active) + " deferred " +
       std::to_string(s.blocks_deferred) + ", epoch " + std::to_string(epoch_) + " retired " +
       std::to_string(retired_));
  CHECK_EQ(s.blocks_total, shape_.num_blocks, "stats");
  CHECK_EQ(s.blocks_free + s.blocks_cached + s.blocks_active + s.blocks_deferred, s.blocks_total,
           "conservation");
  CHECK_EQ(s.blocks_active, v.active, "stats");
  CHECK(s.blocks_free >= v.free_blocks && s.blocks_free <= v.free_blocks + v.maybe_free,
        "blocks_free ", s.blocks_free, ", expected ", v.free_blocks);
  CHECK(s.blocks_cached + v.maybe_fenced.size() >= v.evictable.size() &&
            s.blocks_cached <= v.evictable.size(),
        "blocks_cached ", s.blocks_cached, ", expected ", v.evictable.size());
  reported_free_ = s.blocks_free;
  reported_cached_ = s.blocks_cached;
  CHECK_EQ(s.blocks_pinned, v.pinned_blocks, "stats");
  CHECK_EQ(s.requests_live, live_.size(), "stats");
  CHECK_EQ(s.pins_live, pins_.size(), "stats");
  CHECK_EQ(s.namespaces - namespaces_at_start_, spaces_.size() - 1, "stats");
  CHECK_EQ(s.tokens_queried, totals_.queried, "stats");
  CHECK_EQ(s.tokens_hit, totals_.hit, "stats");
  CHECK_EQ(s.tokens_borrowed, totals_.borrowed, "stats");
  CHECK_EQ(s.blocks_evicted, totals_.evicted, "stats");
  CHECK_EQ(s.blocks_published, totals_.published, "stats");
  CHECK_EQ(s.blocks_duplicate, totals_.duplicates, "stats");
  CHECK_EQ(s.cow_copies, totals_.copies, "stats");
  CHECK_EQ(s.kv_bytes, 0u, "metadata only");
  CHECK_EQ(s.host_bytes, memory_.live_bytes, "memory taken from the allocator");
  CHECK(s.clock >= last_clock_, "the clock went back");
  last_clock_ = s.clock;
  if (has(RADIX_CTX_PREALLOCATE))
    CHECK_EQ(memory_.calls, created_calls_, "PREALLOCATE: a call allocated");
  for (const auto& [ns, space] : spaces_) {
    radix_ns_info info{};
    info.struct_size = sizeof info;
    CHECK_EQ(radix_ns_get_info(ctx_, ns, &info), RADIX_OK, "ns_get_info");
    const auto used = v.used.find(ns), cached = v.evictable_in.find(ns),
               maybe = v.maybe_fenced_in.find(ns);
    const uint64_t cached_most = cached == v.evictable_in.end() ? 0 : cached->second;
    const uint64_t cached_least =
        cached_most - (maybe == v.maybe_fenced_in.end() ? 0 : maybe->second);
    CHECK_EQ(info.quota_blocks, space.quota, "namespace");
    CHECK_EQ(info.blocks_used, used == v.used.end() ? 0 : used->second, "namespace ", space.name);
    CHECK(info.blocks_cached >= cached_least && info.blocks_cached <= cached_most, "namespace ",
          space.name, " has ", info.blocks_cached, " cached, expected ", cached_most);
    reported_cached_in_[ns] = info.blocks_cached;
    CHECK(space.quota == 0 || info.blocks_used <= space.quota, "namespace beyond its quota");
    const auto n = std::count_if(live_.begin(), live_.end(),
                                 [ns = ns](const auto& e) { return e.second.ns == ns; });
    CHECK_EQ(info.requests_live, static_cast<uint64_t>(n), "namespace ", space.name);
  }
}

void World::verify_rows() {
  if (live_.empty()) return;
  const View v = view();
  std::vector<radix_req> ids;
  for (const auto& [id, r] : live_) ids.push_back(id);
  const size_t stride = size_t{shape_.max_row} + 1;
  std::vector<int32_t> rows(ids.size() * stride, -5), lengths(ids.size(), -5);
  std::vector<uint64_t> versions(ids.size(), 0);
  CHECK_EQ(radix_get_block_tables(ctx_, ids.data(), static_cast<uint32_t>(ids.size()), rows.data(),
                                  static_cast<int64_t>(stride), lengths.data(), versions.data()),
           RADIX_OK, "tables");
  for (size_t i = 0; i < ids.size(); ++i)
    verify_request(live_.at(ids[i]), v, &rows[i * stride], stride, versions[i], lengths[i]);
  for (const auto& [id, r] : live_)
    if (!r.forked) verify_promises(r, v);
}

void World::verify_request(Request& r, const View& v, const radix_block* row, size_t stride,
                           uint64_t version, int32_t length) {
  CHECK_EQ(length, static_cast<int32_t>(r.length()), "context length of ", r.id);
  for (size_t k = 0; k < stride; ++k)
    CHECK_EQ(row[k], k < r.row.size() ? r.row[k] : -1, "request ", r.id, " row entry ", k);
  const radix_request_info info = info_of(r.id);
  CHECK_EQ(info.num_blocks, r.row.size(), "request ", r.id);
  CHECK_EQ(info.num_tokens, r.length(), "request ", r.id);
  CHECK_EQ(info.known_tokens, r.known, "request ", r.id);
  CHECK_EQ(info.committed_tokens, r.committed, "request ", r.id);
  CHECK_EQ(info.ns, r.ns, "request ", r.id);
  CHECK_EQ(info.extra_key, r.extra_key, "request ", r.id);
  if (info.cached_tokens != r.cached)
    CHECK(info.cached_tokens <= r.length(), "request ", r.id, " cached_tokens");
  // Versions: one version names one row of one request, for ever; an unchanged row keeps its
  // version.
  CHECK_EQ(info.table_version, version, "request ", r.id);
  CHECK(version != 0, "version 0 means none");
  const auto [it, fresh] = versions_.emplace(version, std::make_pair(r.id, r.row));
  CHECK(it->second.first == r.id && it->second.second == r.row, "version ", version, " of request ",
        r.id, " was used for another row");
  if (fresh && r.version != 0)
    CHECK(versions_.at(r.version).second != r.row, "request ", r.id,
          ": a new version for an unchanged row");
  r.version = version;
  Tokens known(r.known);
  uint64_t n = 0;
  CHECK_EQ(radix_get_tokens(ctx_, r.id, known.data(), known.size(), &n), RADIX_OK, "get_tokens");
  CHECK(n == r.known && std::equal(known.begin(), known.end(), r.tokens.begin()), "get_tokens of ",
        r.id);
  if (r.forked) return;
  uint64_t pending = 0;
  for (uint64_t t = r.borrowed_begin; t < r.borrowed_end; ++t)
    if (v.tree_of[idx(r.row[t / shape_.block_size])] == 0 && t >= r.committed) ++pending;
  CHECK(info.pending_tokens <= pending, "request ", r.id, " pending ", info.pending_tokens,
        ", expected ", pending);
  if (info.ready_tokens < r.ready && info.ready_tokens < r.borrowed_end)
    seen("event.promise_broken");
  r.ready = info.ready_tokens;
}

// Each token that a request need not compute is cached, or somebody else who holds its block
// computes it.
void World::verify_promises(const Request& r, const View& v) const {
  CHECK(r.ready <= r.length(), "request ", r.id, " ready ", r.ready);
  CHECK(r.ready >= std::min(r.committed, r.borrowed_end), "request ", r.id, " ready ", r.ready,
        " committed ", r.committed);
  for (uint64_t t = r.borrowed_begin; t < std::min(r.ready, r.borrowed_end); ++t) {
    const radix_block b = r.row[t / shape_.block_size];
    if (v.tree_of[idx(b)] != 0 || t < r.committed) continue;
    const bool computed = std::any_of(live_.begin(), live_.end(), [&](const auto& e) {
      const Request& q = e.second;
      const bool holds = t < q.length() && q.row[t / shape_.block_size] == b;
      return q.id != r.id && holds &&
             (q.forked || q.borrowed_end <= t || q.borrowed_begin > t || q.ready <= t);
    });
    std::string others;
    for (const auto& [id, q] : live_)
      if (t < q.length() && q.row[t / shape_.block_size] == b)
        others += " " + std::to_string(id) + " (ready " + std::to_string(q.ready) + " of " +
                  std::to_string(q.length()) + ", borrowed " + std::to_string(q.borrowed_begin) +
                  ".." + std::to_string(q.borrowed_end) + ")";
    CHECK(computed, "request ", r.id, " token ", t, " in block ", b, " is promised by none of",
          others);
  }
}

// A block stands in two rows only at the same place and for the same prefix.
void World::verify_sharing() const {
  const uint64_t bs = shape_.block_size;
  std::map<radix_block, std::pair<const Request*, uint64_t>> first;
  for (const auto& [id, r] : live_) {
    for (uint64_t i = 0; i < r.row.size(); ++i) {
      const auto [it, fresh] = first.emplace(r.row[i], std::make_pair(&r, i));
      if (fresh) continue;
      const auto& [q, j] = it->second;
      CHECK(i == j, "block ", r.row[i], " at entry ", i, " of ", id, " and ", j, " of ", q->id);
      const uint64_t end = std::min({r.length(), q->length(), (i + 1) * bs});
      CHECK(r.hashes[end] == q->hashes[end], "block ", r.row[i], " is shared for different tokens");
    }
  }
}

void World::verify_tree() {
  std::set<Hash> parents;
  for (const auto& [h, c] : tree_) parents.insert(c.parent);
  Row blocks(shape_.num_blocks);
  for (const auto& [h, c] : tree_) {
    if (parents.count(h) != 0) continue;
    const radix_request_desc d = desc(c.path, c.ns, c.extra_key, 0);
    radix_match m{};
    m.struct_size = sizeof m;
    m.blocks = blocks.data();
    m.blocks_cap = shape_.num_blocks;
    CHECK_EQ(radix_peek_prefix(ctx_, &d, &m), RADIX_OK, "peek");
    CHECK_EQ(m.cached_tokens, c.path.size(), "cached prefix ending in block ", c.block);
    Hash up = h;
    for (uint64_t i = m.num_blocks; i-- > 0; up = tree_.at(up).parent)
      CHECK_EQ(blocks[i], tree_.at(up).block, "cached block ", i, " of ", m.num_blocks);
  }
}

}  // namespace radixattn::model
