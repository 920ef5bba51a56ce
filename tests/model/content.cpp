// The stand-in for K/V memory: what was written to each slot, as the hash of the token prefix that
// ends there.
//
// Two requests may name one slot only for the same prefix, so a wrong share, an early reuse, a
// missing copy or a broken promise shows as a slot that holds another prefix's hash.
#include <algorithm>

#include "world.h"

namespace radixattn::model {

uint64_t& World::cell(const Row& row, uint64_t pos) {
  const uint64_t slot = static_cast<uint64_t>(row.at(pos / shape_.block_size)) * shape_.block_size +
                        pos % shape_.block_size;
  return content_.at(slot);
}

void World::poison(radix_block b) {
  const auto first = content_.begin() + static_cast<int64_t>(b) * shape_.block_size;
  std::fill(first, first + shape_.block_size, kNothingWritten);
}

// A request's step: K/V of every token that it must compute itself.
void World::write_own(Request& r) {
  const View v = view();
  for (uint64_t p = std::max(r.written, r.ready); p < r.length(); ++p) {
    uint64_t& c = cell(r.row, p);
    if (c == r.hashes[p + 1]) continue;
    const radix_block b = r.row[p / shape_.block_size];
    CHECK(v.tree_of[idx(b)] == 0, "request ", r.id, " would write into the committed block ", b);
    c = r.hashes[p + 1];
  }
  if (r.ready <= r.written) r.written = r.length();
}

// The whole step: after it every request's K/V is there, borrowed tokens included.
void World::flush_all() {
  for (auto& [id, r] : live_) write_own(r);
  for (auto& [id, r] : live_) r.written = r.length();
  check_content();
}

void World::check_content() const {
  for (const auto& [id, r] : live_) {
    for (uint64_t p = 0; p < r.written; ++p) {
      const uint64_t slot =
          static_cast<uint64_t>(r.row[p / shape_.block_size]) * shape_.block_size +
          p % shape_.block_size;
      CHECK(content_[slot] == r.hashes[p + 1], "request ", id, " token ", p, " of ", r.length(),
            " in block ", r.row[p / shape_.block_size],
            content_[slot] == kNothingWritten ? " finds nothing written"
                                              : " finds another prefix's K/V");
    }
  }
}

}  // namespace radixattn::model
