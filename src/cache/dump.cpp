// What is shared: find_shared, and the sharing graph as text, JSON and DOT.
#include <cstdarg>
#include <cstdio>

#include "base/error.h"
#include "cache/cache_manager.h"

namespace radixattn {

// ---- find_shared

namespace {

// Leading tokens of [begin, end) that are equal.
uint64_t equal_tokens(const int32_t* a, const int32_t* b, uint64_t n) {
  uint64_t i = 0;
  while (i < n && a[i] == b[i]) ++i;
  return i;
}

}  // namespace

uint64_t CacheManager::shared_tokens(const Request& r, const radix_request_desc& d) const {
  const uint64_t end = r.known_tokens < d.num_tokens ? r.known_tokens : d.num_tokens;
  uint64_t at = 0;
  while (at < end) {
    const uint64_t room = config_.block_size - at % config_.block_size;
    const uint64_t want = room < end - at ? room : end - at;
    const int32_t* own =
        block_tokens(block_of(r.row[at / config_.block_size])) + at % config_.block_size;
    const uint64_t got = equal_tokens(own, d.tokens + at, want);
    at += got;
    if (got < want) break;
  }
  return at;
}

radix_status CacheManager::find_shared(const radix_request_desc& d, radix_req* out, uint32_t cap,
                                       uint32_t* n, uint64_t* tokens) {
  uint32_t ns;
  const radix_status st = check_desc(d, &ns);
  if (st != RADIX_OK) return st;
  const auto shared_with = [&](uint32_t i) {
    const Request& r = requests_[i];
    const bool related = r.live != 0 && r.ns == ns && r.extra_key == d.extra_key;
    return related ? shared_tokens(r, d) : 0;
  };
  uint64_t best = 0;
  for (uint32_t i = 0; i < requests_.size(); ++i) {
    const uint64_t shared = shared_with(i);
    if (shared > best) best = shared;
  }
  uint32_t found = 0;
  for (uint32_t i = 0; i < requests_.size() && best > 0; ++i) {
    if (shared_with(i) != best) continue;
    if (out != nullptr && found < cap) out[found] = requests_.id(i);
    ++found;
  }
  *n = found;
  *tokens = best;
  return RADIX_OK;
}

// ---- the sharing graph

class SharingGraph {
 public:
  SharingGraph(CacheManager* cache, radix_write_fn fn, void* user)
      : cache_(*cache), tree_(cache->tree_), fn_(fn), user_(user) {}

  radix_status write(int32_t format) {
    count();
    if (format == RADIX_GRAPH_TEXT) text();
    if (format == RADIX_GRAPH_JSON) json();
    if (format == RADIX_GRAPH_DOT) dot();
    flush();
    if (failed_)
      return fail(RADIX_E_CALLBACK, "fn took %lld of %u bytes", static_cast<long long>(taken_),
                  offered_);
    return RADIX_OK;
  }

 private:
  static constexpr uint32_t kShownTokens = 8;
  static constexpr uint32_t kShownLevels = 40;  // deeper nodes are not indented further
  using ull = unsigned long long;

  void flush() {
    if (used_ > 0 && !failed_) {
      offered_ = used_;
      taken_ = fn_(user_, buffer_, used_);
      failed_ = taken_ != static_cast<int64_t>(used_);
    }
    used_ = 0;  // what comes after a failure is thrown away
  }
  __attribute__((format(printf, 2, 3))) void put(const char* format, ...) {
    char piece[256];
    va_list args;
    va_start(args, format);
    const int len = std::vsnprintf(piece, sizeof piece, format, args);
    va_end(args);
    const uint32_t n = len < 0                                ? 0
                       : len < static_cast<int>(sizeof piece) ? static_cast<uint32_t>(len)
                                                              : sizeof piece - 1;
    if (used_ + n > sizeof buffer_) flush();
    std::memcpy(buffer_ + used_, piece, n);
    used_ += n;
  }

  void count() {
    serial_ = ++cache_.cover_serial_;
    for (uint32_t i = 0; i < cache_.requests_.size(); ++i) {
      if (live(i))
        tree_.add_request(tree_.lease_position(CacheManager::lease_of_request(i)), serial_);
    }
    for (uint32_t id = 0; id < tree_.node_capacity(); ++id) {
      if (shown(id)) saved_ += saving(id);
    }
    saved_ += private_saving();
  }
  bool live(uint32_t request) const { return cache_.requests_[request].live != 0; }
  bool shown(uint32_t id) const { return tree_.node(id).live != 0 && tree_.node(id).is_root == 0; }
  uint32_t users(uint32_t id) const { return tree_.requests_on(id, serial_); }
  // Blocks of this node that the live requests would hold more without sharing: each counts the
  // blocks up to its lease, all of them when it goes on to a child.
  uint64_t saving(uint32_t id) const {
    const uint32_t num = tree_.node(id).num;
    uint64_t held = 0;
    uint32_t deepest = 0, end_here = 0;
    for (uint32_t lease = tree_.first_lease(id); lease != kNone; lease = tree_.next_lease(lease)) {
      if (lease % 2 != 0) continue;  // a pin
      const uint32_t in = tree_.lease_position(lease).in;
      held += in;
      deepest = in > deepest ? in : deepest;
      ++end_here;
    }
    const uint32_t through = users(id) - end_here;
    held += uint64_t{through} * num;
    return held - (through > 0 ? num : deepest);
  }
  // The same of blocks that are not in the tree: forks and borrowers.
  uint64_t private_saving() const {
    uint64_t entries = 0, distinct = 0;
    for (uint32_t i = 0; i < cache_.requests_.size(); ++i) {
      if (live(i)) entries += own_blocks(cache_.requests_[i]);
    }
    for (uint32_t i = 0; i < cache_.namespaces_.size(); ++i) {
      if (cache_.namespaces_[i].live != 0) distinct += cache_.namespaces_[i].used;
    }
    return entries - (distinct - tree_.num_cached());
  }

  void tokens(uint32_t id) {
    const uint32_t total = tree_.node(id).num * cache_.config_.block_size;
    const uint32_t shown = total < kShownTokens ? total : kShownTokens;
    for (uint32_t i = 0; i < shown; ++i) put(i == 0 ? "%d" : ", %d", tree_.node_tokens(id)[i]);
  }
  // The name of a namespace in quotes; bytes outside printable ASCII as \u00XX, which JSON, DOT and
  // people read.
  void name(uint32_t ns) {
    const Namespace& space = cache_.namespaces_[ns];
    put("\"");
    for (uint32_t i = 0; i < space.name_len; ++i) {
      const unsigned char c = static_cast<unsigned char>(space.name[i]);
      if (c == '"' || c == '\\') {
        put("\\%c", c);
      } else if (c < 0x20 || c > 0x7e) {
        put("\\u%04x", c);
      } else {
        put("%c", c);
      }
    }
    put("\"");
  }

  template <class Fn>
  void for_each_root(Fn fn) {
    for (uint32_t id = 0; id < tree_.node_capacity(); ++id) {
      if (tree_.node(id).live != 0 && tree_.node(id).is_root != 0) fn(id);
    }
  }

  // ---- text

  void text() {
    put("%u requests, %u nodes, %llu blocks of %u tokens cached, %llu blocks saved by sharing\n",
        cache_.requests_.num_live(), tree_.num_nodes(), static_cast<ull>(tree_.num_cached()),
        cache_.config_.block_size, static_cast<ull>(saved_));
    for_each_root([this](uint32_t root) {
      put("namespace ");
      name(tree_.node(root).ns);
      put(" extra_key 0x%llx\n", static_cast<ull>(tree_.node(root).extra_key));
      requests_at(root, 1);
      tree_.for_each_below(root, [this](uint32_t id, uint32_t level) { text_node(id, level); });
    });
  }
  void indent(uint32_t level) {
    for (uint32_t i = 0; i < level && i < kShownLevels; ++i) put("  ");
  }
  void text_node(uint32_t id, uint32_t level) {
    const RadixTree::Node& n = tree_.node(id);
    indent(level);
    put("node %u: %u blocks [", id, n.num);
    tokens(id);
    put("%s], %u requests", n.num * cache_.config_.block_size > kShownTokens ? ", .." : "",
        users(id));
    if (saving(id) > 0) put(", saves %llu blocks", static_cast<ull>(saving(id)));
    put("\n");
    requests_at(id, level + 1);
  }
  void requests_at(uint32_t id, uint32_t level) {
    for (uint32_t lease = tree_.first_lease(id); lease != kNone; lease = tree_.next_lease(lease)) {
      indent(level);
      if (lease % 2 != 0) {
        put("pin 0x%llx\n", static_cast<ull>(cache_.pins_.id(lease / 2)));
        continue;
      }
      const Request& r = cache_.requests_[lease / 2];
      put("request 0x%llx: %llu tokens, %u blocks cached, %u own\n",
          static_cast<ull>(cache_.requests_.id(lease / 2)), static_cast<ull>(r.num_tokens),
          r.num_blocks - own_blocks(r), own_blocks(r));
    }
  }
  static uint32_t own_blocks(const Request& r) {
    uint32_t own = 0;
    for (uint32_t j = 0; j < r.num_blocks; ++j) own += is_private(r.row[j]) ? 1 : 0;
    return own;
  }

  // ---- JSON

  void json() {
    put("{\"block_size\": %u, \"cached_blocks\": %llu, \"saved_blocks\": %llu, \"saved_tokens\": "
        "%llu,\n\"nodes\": [",
        cache_.config_.block_size, static_cast<ull>(tree_.num_cached()), static_cast<ull>(saved_),
        static_cast<ull>(saved_ * cache_.config_.block_size));
    const char* comma = "\n";
    for_each_root([&](uint32_t root) {
      tree_.for_each_below(root, [&](uint32_t id, uint32_t) {
        put("%s", comma);
        json_node(id, tree_.node(root).extra_key);
        comma = ",\n";
      });
    });
    put("],\n\"requests\": [");
    comma = "\n";
    for (uint32_t i = 0; i < cache_.requests_.size(); ++i) {
      if (!live(i)) continue;
      put("%s", comma);
      json_request(i);
      comma = ",\n";
    }
    put("]}\n");
  }
  // null for a root: roots hold nothing and are not listed.
  void json_id(uint32_t id) {
    if (tree_.node(id).is_root != 0) {
      put("null");
    } else {
      put("%u", id);
    }
  }
  void json_node(uint32_t id, uint64_t extra_key) {
    const RadixTree::Node& n = tree_.node(id);
    put("{\"id\": %u, \"parent\": ", id);
    json_id(n.parent);
    put(", \"namespace\": ");
    name(n.ns);
    put(", \"extra_key\": \"0x%llx\", \"begin_token\": %llu, \"num_tokens\": %llu, "
        "\"first_tokens\": [",
        static_cast<ull>(extra_key),
        static_cast<ull>(uint64_t{n.depth_blocks} * cache_.config_.block_size),
        static_cast<ull>(uint64_t{n.num} * cache_.config_.block_size));
    tokens(id);
    put("], \"blocks\": [");
    for (uint32_t i = 0; i < n.num; ++i) put(i == 0 ? "%d" : ", %d", tree_.node_blocks(id)[i]);
    put("], \"requests\": %u, \"saved_blocks\": %llu, \"hits\": %u}", users(id),
        static_cast<ull>(saving(id)), n.usage.hits);
  }
  void json_request(uint32_t index) {
    const Request& r = cache_.requests_[index];
    put("{\"id\": \"0x%llx\", \"node\": ", static_cast<ull>(cache_.requests_.id(index)));
    json_id(tree_.lease_position(CacheManager::lease_of_request(index)).node);
    put(", \"num_tokens\": %llu, \"cached_tokens\": %llu, \"num_blocks\": %u, \"own_blocks\": %u, "
        "\"namespace\": ",
        static_cast<ull>(r.num_tokens), static_cast<ull>(r.cached_tokens), r.num_blocks,
        own_blocks(r));
    name(r.ns);
    put(", \"extra_key\": \"0x%llx\"}", static_cast<ull>(r.extra_key));
  }

  // ---- DOT

  void dot() {
    put("digraph radixattn {\n  rankdir=LR;\n  node [shape=box, fontname=monospace];\n");
    for (uint32_t id = 0; id < tree_.node_capacity(); ++id) {
      const RadixTree::Node& n = tree_.node(id);
      if (n.live == 0) continue;
      if (n.is_root != 0) {
        put("  n%u [label=\"namespace %u\\nextra_key 0x%llx\", shape=ellipse];\n", id, n.ns,
            static_cast<ull>(n.extra_key));
        continue;
      }
      put("  n%u [label=\"%u blocks: ", id, n.num);
      tokens(id);
      put(" ..\\n%u requests, saves %llu blocks\"];\n  n%u -> n%u;\n", users(id),
          static_cast<ull>(saving(id)), n.parent, id);
    }
    for (uint32_t i = 0; i < cache_.requests_.size(); ++i) {
      if (!live(i)) continue;
      put("  r%u [label=\"request 0x%llx\\n%llu tokens\", shape=note];\n  n%u -> r%u "
          "[style=dashed];\n",
          i, static_cast<ull>(cache_.requests_.id(i)),
          static_cast<ull>(cache_.requests_[i].num_tokens),
          tree_.lease_position(CacheManager::lease_of_request(i)).node, i);
    }
    put("}\n");
  }

  CacheManager& cache_;
  RadixTree& tree_;
  radix_write_fn fn_;
  void* user_;
  uint64_t serial_ = 0;
  uint64_t saved_ = 0;
  uint32_t used_ = 0;
  uint32_t offered_ = 0;
  int64_t taken_ = 0;
  bool failed_ = false;
  char buffer_[4096];
};

radix_status CacheManager::sharing_graph(radix_write_fn fn, void* user, int32_t format) {
  if (format < RADIX_GRAPH_TEXT || format > RADIX_GRAPH_DOT) {
    return fail(RADIX_E_INVALID, "format is %d: expected RADIX_GRAPH_TEXT, _JSON or _DOT", format);
  }
  return SharingGraph(this, fn, user).write(format);
}

}  // namespace radixattn
