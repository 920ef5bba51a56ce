// Namespaces: name, quota, and what they hold. Index 0 is the default one and always lives.
// Thread rule: callers serialise.
#pragma once

#include <cstdint>
#include <cstring>

#include "base/array.h"
#include "base/ids.h"

namespace radixattn {

struct Namespace {
  static constexpr uint32_t kMaxName = 128;

  uint32_t generation;
  uint32_t live;
  uint32_t quota;  // blocks; 0 = unlimited
  uint32_t used;   // blocks in its tree or private to its requests; deferred ones not counted
  uint32_t requests;
  uint32_t pins;
  uint64_t plan_need;  // scratch of one append, and of a check
  uint32_t next_free;
  uint32_t name_len;
  char name[kMaxName];
};

class NamespaceTable {
 public:
  void bind(HostAllocator* memory) { entries_.bind(memory); }
  [[nodiscard]] bool init(uint32_t max_namespaces, bool fixed) {
    fixed_ = fixed;
    max_ = max_namespaces + 1;
    if (!entries_.reserve(max_)) return false;
    entries_[0] = Namespace{};
    entries_[0].live = 1;
    size_ = 1;
    return true;
  }

  // kNone when `id` is no live namespace.
  uint32_t find(uint64_t id) const {
    if (id == 0) return 0;
    const uint32_t index = id_index(id);
    if (id_kind(id) != IdKind::kNamespace || index == 0 || index >= size_) return kNone;
    return entries_[index].live != 0 && entries_[index].generation == id_generation(id) ? index
                                                                                        : kNone;
  }
  uint64_t id(uint32_t index) const {
    return index == 0 ? 0 : make_id(IdKind::kNamespace, entries_[index].generation, index);
  }
  bool name_in_use(const char* name, size_t len) const {
    for (uint32_t i = 1; i < size_; ++i) {
      const Namespace& ns = entries_[i];
      if (ns.live != 0 && ns.name_len == len && std::memcmp(ns.name, name, len) == 0) return true;
    }
    return false;
  }
  bool full() const { return fixed_ && free_head_ == kNone && size_ >= max_; }
  [[nodiscard]] bool reserve_one() {
    return free_head_ != kNone || entries_.reserve_doubling(size_ + uint64_t{1});
  }
  uint32_t next_index() const {
    return free_head_ != kNone ? free_head_ : size_;
  }  // what create() will use
  uint32_t create(const char* name, size_t len, uint32_t quota) {
    const uint32_t index = next_index();
    if (index == free_head_) {
      free_head_ = entries_[index].next_free;
    } else {
      ++size_;
    }
    const uint32_t generation = entries_[index].generation + 1;
    Namespace& ns = entries_[index];
    ns = Namespace{};
    ns.generation = generation == 0 ? 1 : generation;
    ns.live = 1;
    ns.quota = quota;
    ns.name_len = static_cast<uint32_t>(len);
    std::memcpy(ns.name, name, len);
    ++live_;
    return index;
  }
  void destroy(uint32_t index) {
    entries_[index].live = 0;
    entries_[index].next_free = free_head_;
    free_head_ = index;
    --live_;
  }

  Namespace& operator[](uint32_t index) { return entries_[index]; }
  const Namespace& operator[](uint32_t index) const { return entries_[index]; }
  uint32_t size() const { return size_; }  // indices are below this; some may be dead
  uint32_t num_live() const { return live_; }

 private:
  Array<Namespace> entries_;
  uint32_t size_ = 0;
  uint32_t max_ = 0;
  uint32_t live_ = 1;
  uint32_t free_head_ = kNone;
  bool fixed_ = false;
};

}  // namespace radixattn
