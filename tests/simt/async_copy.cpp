// cp.async: the data arrive at the wait, not before.
#include "emu_internal.h"

namespace radixattn::simt::emu {

// ---- cp.async ----
void smem_inflight(void* p, size_t n) {
#ifdef RADIX_SIMT_ASAN
  __asan_poison_memory_region(p, n);
#endif
#ifdef RADIX_SIMT_MSAN
  __msan_poison(p, n);
#endif
  (void)p, (void)n;
}
void smem_arrived(void* p, size_t n) {
#ifdef RADIX_SIMT_ASAN
  __asan_unpoison_memory_region(p, n);
#endif
  (void)p, (void)n;
}
void cp_async_note(void* dst, const void* data, unsigned bytes, const char*, int) {
  stats.cp_async++;
  CpAsync c{dst, bytes, {}};
  for (unsigned i = 0; i < bytes; i++) c.data[i] = static_cast<const unsigned char*>(data)[i];
  smem_inflight(dst, bytes);
  Quiet q;
  if (bytes == 16) piece_in_flight(dst);
  me->open.push_back(c);
}
void cp_async_commit() {
  Quiet q;
  me->groups.push_back(std::move(me->open));
  me->open.clear();
}
int cp_async_take(int keep, CpAsync* out, int max) {
  Quiet q;
  int n = 0;
  auto& g = me->groups;
  while (int(g.size()) > keep && n < max) {
    auto& v = g.front();
    for (; !v.empty() && n < max; v.pop_back()) {
      if (v.back().bytes == 16) piece_written(v.back().dst);
      out[n++] = v.back();
    }
    if (v.empty()) g.pop_front();
  }
  return n;
}

}  // namespace radixattn::simt::emu
