// Barriers of blocks and warps, and what warps exchange.
#include "emu_internal.h"

namespace radixattn::simt::emu {

// ---- fault injection ----
std::vector<SyncSite>* sync_sites = nullptr;
const SyncSite* left_out = nullptr;

bool leave_out(const char* what, const char* f, int l) {
  if (sync_sites == nullptr && left_out == nullptr) return false;
  const SyncSite site = {what, f, l};
  if (sync_sites != nullptr &&
      std::find(sync_sites->begin(), sync_sites->end(), site) == sync_sites->end())
    sync_sites->push_back(site);
  return left_out != nullptr && *left_out == site;
}

// ---- block barriers ----
void syncthreads(const char* f, int l, int* pand, int* por, int* pcount) {
  if (leave_out("syncthreads", f, l)) return;
  stats.syncthreads++;
  Fiber& t = *me;
  Bar& b = current.bar[0];
  int p = pand ? *pand : por ? *por : pcount ? *pcount : 0;
  unsigned g = b.gen & 1;
  auto& pred = b.pred[g];
  if (!b.arrived)
    b.f = f, b.l = l, pred = {1, 0, 0};
  else if (cfg.strict_loc && (b.l != l || strcmp(b.f, f)))
    fail("divergent barrier: some threads are at " + loc(b.f, b.l) + ", this one", f, l);
  pred.all &= p != 0, pred.any |= p != 0, pred.count += p != 0;
  REL(sync_var(unsigned(&b - current.bar), g));
  t.f = f, t.l = l;
  if (++b.arrived == int(current.alive)) {
    if (cfg.strict_exit && current.alive != current.nthreads)
      fail(
          "barrier after " + std::to_string(current.nthreads - current.alive) + " threads returned",
          f, l);
    release_bar(b);
    for (unsigned i = 0; i < current.nthreads; i++)
      if (current.fib[i]->st == St::block && current.fib[i]->wait_on == &b)
        set_ready(*current.fib[i]);
    if (cfg.order == Order::rnd) {  // let somebody else go first
      Fiber* n = next();
      if (n != &t) jump(n, false);
    }
  } else {
    t.wait_on = &b;
    block_me(St::block);
    t.wait_on = nullptr;
  }
  ACQ(sync_var(unsigned(&b - current.bar), g));
  if (pand) *pand = pred.all;
  if (por) *por = pred.any;
  if (pcount) *pcount = pred.count;
}
void bar_sync(int id, int nthreads, bool wait, const char* f, int l) {
  if (leave_out("bar_sync", f, l)) return;
  if (id <= 0 || id > 15 || nthreads % 32) fail("bar.sync: bad id or count", f, l);
  Fiber& t = *me;
  Bar& b = current.bar[id];
  if (!b.arrived)
    b.expected = nthreads;
  else if (b.expected != nthreads)
    fail("bar.sync: different thread counts", f, l);
  unsigned g = b.gen & 1;
  REL(sync_var(unsigned(&b - current.bar), g));
  t.f = f, t.l = l;
  if (++b.arrived == nthreads) {
    release_bar(b);
    for (unsigned i = 0; i < current.nthreads; i++)
      if (current.fib[i]->st == St::block && current.fib[i]->wait_on == &b)
        set_ready(*current.fib[i]);
  } else if (wait) {
    t.wait_on = &b;
    block_me(St::block);
    t.wait_on = nullptr;
  }
  if (wait) ACQ(sync_var(unsigned(&b - current.bar), g));
}
// Fence-atomic synchronisation, as the memory model has it: an atomic after a fence releases; a
// fence after an atomic (of this block) acquires. Relaxed atomics alone order nothing.
void fence() {
  me->fenced = true;
  for (void* p : current.seen) ACQ(p);
}
void atomic_done(void* p) {
#ifdef RADIX_SIMT_TSAN
  Quiet q;
  if (me->fenced) REL(p);
  if (std::find(current.seen.begin(), current.seen.end(), p) == current.seen.end())
    current.seen.push_back(p);
#endif
  (void)p;
}
void maybe_yield() {
  if (cfg.order != Order::rnd || rnd() % 4) return;
  Fiber* n = next();
  if (n && n != me) jump(n, false);
}

// ---- warp collectives ----
void syncwarp(unsigned mask, const char* f, int l) {
  Warp& w = current.warps[me->tls.warp];
  unsigned g = w.gen & 1;
  REL(sync_var(16 + me->tls.warp, g));
  collective(Op::syncwarp, mask, nullptr, f, l, [&](auto&) { w.gen++; });
  ACQ(sync_var(16 + me->tls.warp, g));
}
void shfl(void* val, unsigned bytes, unsigned mask, Shfl mode, int arg, int width, const char* f,
          int l) {
  struct A {
    unsigned char v[16];
    unsigned char out[16];
    Shfl mode;
    int arg, width;
    unsigned bytes;
  } a{};
  if (bytes > 16) fail("shfl: value too large", f, l);
  for (unsigned i = 0; i < bytes; i++) a.v[i] = static_cast<unsigned char*>(val)[i];
  a.mode = mode, a.arg = arg, a.width = width, a.bytes = bytes;
  collective(Op::shfl, mask, &a, f, l, [&](auto& lane) {
    for (unsigned m = mask; m; m &= m - 1) {
      unsigned i = unsigned(__builtin_ctz(m));
      A& x = *static_cast<A*>(lane(i).arg);
      int lo = int(i) / x.width * x.width, hi = lo + x.width - 1, j = int(i), s = 0;
      switch (x.mode) {
        case idx:
          s = lo + (x.arg & (x.width - 1));
          break;
        case up:
          s = j - x.arg < lo ? j : j - x.arg;
          break;
        case down:
          s = j + x.arg > hi ? j : j + x.arg;
          break;
        case bfly:
          s = (j ^ x.arg) > hi ? j : (j ^ x.arg);
          break;
      }
      if (!(mask >> s & 1)) {
        Fiber& bad = lane(i);
        fail("shfl reads lane " + std::to_string(s) + ", which is not in the mask", bad.f, bad.l);
      }
      A& y = *static_cast<A*>(lane(unsigned(s)).arg);
      for (unsigned k = 0; k < bytes; k++) x.out[k] = y.v[k];
    }
  });
  for (unsigned i = 0; i < bytes; i++) static_cast<unsigned char*>(val)[i] = a.out[i];
}
unsigned ballot(unsigned mask, int pred, const char* f, int l) {
  struct A {
    int p;
    unsigned r;
  } a{pred, 0};
  collective(Op::ballot, mask, &a, f, l, [&](auto& lane) {
    unsigned r = 0;
    for (unsigned m = mask; m; m &= m - 1) {
      unsigned i = unsigned(__builtin_ctz(m));
      r |= (static_cast<A*>(lane(i).arg)->p != 0 ? 1u : 0u) << i;
    }
    for (unsigned m = mask; m; m &= m - 1)
      static_cast<A*>(lane(unsigned(__builtin_ctz(m))).arg)->r = r;
  });
  return a.r;
}
uint32_t reduce(unsigned mask, uint32_t v, Red op, bool sg, const char* f, int l) {
  struct A {
    uint32_t v, r;
  } a{v, 0};
  collective(Op::reduce, mask, &a, f, l, [&](auto& lane) {
    uint32_t r = 0;
    bool first = true;
    for (unsigned m = mask; m; m &= m - 1) {
      uint32_t x = static_cast<A*>(lane(unsigned(__builtin_ctz(m))).arg)->v;
      if (first)
        r = x, first = false;
      else
        switch (op) {
          case r_add:
            r += x;
            break;
          case r_min:
            r = sg ? uint32_t(std::min(int32_t(r), int32_t(x))) : std::min(r, x);
            break;
          case r_max:
            r = sg ? uint32_t(std::max(int32_t(r), int32_t(x))) : std::max(r, x);
            break;
          case r_and:
            r &= x;
            break;
          case r_or:
            r |= x;
            break;
          case r_xor:
            r ^= x;
            break;
        }
    }
    for (unsigned m = mask; m; m &= m - 1)
      static_cast<A*>(lane(unsigned(__builtin_ctz(m))).arg)->r = r;
  });
  return a.r;
}
uint64_t match_any(unsigned mask, uint64_t v, const char* f, int l) {
  struct A {
    uint64_t v;
    unsigned r;
  } a{v, 0};
  collective(Op::match, mask, &a, f, l, [&](auto& lane) {
    for (unsigned m = mask; m; m &= m - 1) {
      A& x = *static_cast<A*>(lane(unsigned(__builtin_ctz(m))).arg);
      for (unsigned q = mask; q; q &= q - 1) {
        unsigned j = unsigned(__builtin_ctz(q));
        x.r |= (static_cast<A*>(lane(j).arg)->v == x.v ? 1u : 0u) << j;
      }
    }
  });
  return a.r;
}

}  // namespace radixattn::simt::emu
