// A fast 64-bit mixing hash for in-memory tables: the folded 64x64 multiply of wyhash (Wang Yi,
// public domain), our own arrangement. Never stored, never trusted: every hit is verified by
// comparing tokens.
#pragma once

#include <cstdint>
#include <cstring>

namespace radixattn {

inline uint64_t mix(uint64_t a, uint64_t b) {
  __extension__ using uint128 = unsigned __int128;
  const uint128 product = static_cast<uint128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

// The seed is part of both factors of every product: who does not know it cannot choose tokens that
// make a factor zero, and with it everything before them count for nothing.
inline uint64_t hash_tokens(const int32_t* tokens, uint32_t n, uint64_t seed) {
  uint64_t h = 0x243f6a8885a308d3u ^ n ^ seed;
  uint64_t g = 0x13198a2e03707344u + seed;
  const uint64_t a = 0xa0761d6478bd642fu ^ seed;
  const uint64_t b = 0xe7037ed1a0b428dbu + seed;
  uint32_t i = 0;
  for (; i + 8 <= n; i += 8) {
    uint64_t v[4];
    std::memcpy(v, tokens + i, sizeof v);
    h = mix(h ^ v[0], v[1] ^ a);
    g = mix(g ^ v[2], v[3] ^ b);
  }
  for (; i < n; ++i) h = mix(h ^ static_cast<uint32_t>(tokens[i]), a | 1);
  return mix(h ^ 0x8ebc6af09c88c6e3u, g ^ 0x589965cc75374cc3u);
}

}  // namespace radixattn
