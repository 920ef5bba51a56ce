// Generation-checked ids: generation << 32 | kind << 30 | index. Generation is never 0 for requests
// and pins, so 0 is no id; the default namespace is generation 0, index 0, kind 0 on purpose.
#pragma once

#include <cstdint>

namespace radixattn {

constexpr uint32_t kNone = UINT32_MAX;

enum class IdKind : uint32_t { kRequest = 0, kPin = 1, kNamespace = 2 };

constexpr uint32_t kMaxIdIndex = (1u << 30) - 1;

constexpr uint64_t make_id(IdKind kind, uint32_t generation, uint32_t index) {
  return uint64_t{generation} << 32 | static_cast<uint32_t>(kind) << 30 | index;
}
constexpr uint32_t id_generation(uint64_t id) { return static_cast<uint32_t>(id >> 32); }
constexpr uint32_t id_index(uint64_t id) { return static_cast<uint32_t>(id) & kMaxIdIndex; }
constexpr IdKind id_kind(uint64_t id) {
  return static_cast<IdKind>(static_cast<uint32_t>(id) >> 30);
}

}  // namespace radixattn
