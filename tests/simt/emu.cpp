// rx/emu.cpp - run-time part of the SIMT emulator. Compile without -fsanitize=thread.
#include "emu.h"
#include <sys/mman.h>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define RADIX_SIMT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define RADIX_SIMT_ASAN 1
#endif
#endif
#ifdef RADIX_SIMT_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef RADIX_SIMT_TSAN  // set by the build when the kernels are compiled with -fsanitize=thread
extern "C" {
void *__tsan_get_current_fiber();
void *__tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void *f);
void __tsan_switch_to_fiber(void *f, unsigned flags);
void __tsan_acquire(void *);
void __tsan_release(void *);
void AnnotateIgnoreReadsBegin(const char *, int);
void AnnotateIgnoreReadsEnd(const char *, int);
void AnnotateIgnoreWritesBegin(const char *, int);
void AnnotateIgnoreWritesEnd(const char *, int);
void __tsan_read_range(void *, unsigned long);
void __tsan_write_range(void *, unsigned long);
}
#endif
#ifdef RADIX_SIMT_MSAN
#include <sanitizer/msan_interface.h>
extern "C" void __msan_start_switch_fiber(const void *, size_t) __attribute__((weak));
extern "C" void __msan_finish_switch_fiber(const void **, size_t *) __attribute__((weak));
#endif

extern "C" void radix_simt_switch(void **save_sp, void *to_sp);
#if defined(__x86_64__)
asm(R"(
.text
.globl radix_simt_switch
.type radix_simt_switch,@function
radix_simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size radix_simt_switch,.-radix_simt_switch
)");
static void *make_context(char *top, void (*entry)()) {
  auto *sp = reinterpret_cast<uint64_t *>(top);
  *--sp = 0;
  *--sp = reinterpret_cast<uint64_t>(entry);
  for (int i = 0; i < 6; i++) *--sp = 0;
  return sp;
}
#elif defined(__aarch64__)
asm(R"(
.text
.globl radix_simt_switch
.type radix_simt_switch,%function
radix_simt_switch:
  stp x19,x20,[sp,#-160]!
  stp x21,x22,[sp,#16]
  stp x23,x24,[sp,#32]
  stp x25,x26,[sp,#48]
  stp x27,x28,[sp,#64]
  stp x29,x30,[sp,#80]
  stp d8,d9,[sp,#96]
  stp d10,d11,[sp,#112]
  stp d12,d13,[sp,#128]
  stp d14,d15,[sp,#144]
  mov x9,sp
  str x9,[x0]
  mov sp,x1
  ldp x21,x22,[sp,#16]
  ldp x23,x24,[sp,#32]
  ldp x25,x26,[sp,#48]
  ldp x27,x28,[sp,#64]
  ldp x29,x30,[sp,#80]
  ldp d8,d9,[sp,#96]
  ldp d10,d11,[sp,#112]
  ldp d12,d13,[sp,#128]
  ldp d14,d15,[sp,#144]
  ldp x19,x20,[sp],#160
  ret
.size radix_simt_switch,.-radix_simt_switch
)");
static void *make_context(char *top, void (*entry)()) {
  auto *sp = reinterpret_cast<uint64_t *>(top) - 20;
  for (int i = 0; i < 20; i++) sp[i] = 0;
  sp[11] = reinterpret_cast<uint64_t>(entry);
  return sp;
}
#else
#error "port radix_simt_switch"
#endif

namespace radixattn::simt::emu {
Config cfg;
int (*submit)(const Kernel &, void *) = nullptr;
Stats stats;
Tls *cur;

namespace {
enum class St : uint8_t { ready, warp, block, mbar, wg, done };
enum class Op : uint8_t { none, syncwarp, shfl, ballot, reduce, match, ldmatrix, mma };
const char *const op_name[] = {"?", "__syncwarp", "__shfl_*_sync", "__ballot/any/all_sync", "__reduce_*_sync", "__match_any_sync", "ldmatrix", "mma.sync"};

struct Fiber {
  Tls tls;  // first: cur points here
  void *sp = nullptr;
  char *stack = nullptr;
  St st = St::done;
  Op op = Op::none;
  unsigned mask = 0;
  const char *f = "";
  int l = 0;
  void *arg = nullptr;
  const void *wait_on = nullptr;
  unsigned parity = 0;
  std::vector<CpAsync> open;
  std::deque<std::vector<CpAsync>> groups;
  void *fake = nullptr, *tsan = nullptr;
  bool dirty = false, fenced = false;
};
struct Warp {
  unsigned ready, waiting, alive, gen;
};
struct Bar {
  int arrived, expected, nand, nor, ncount;
  unsigned gen;
  const char *f;
  int l;
};
struct Block {
  std::vector<std::unique_ptr<Fiber>> fib;
  std::vector<Warp> warps;
  unsigned nthreads = 0, alive = 0;
  uint32_t ready_warps = 0;
  Bar bar[16];
  Fn fn = nullptr;
  void *ctx = nullptr;
  unsigned char *smem = nullptr;
  size_t smem_bytes = 0;
  struct Static {
    const void *site;
    unsigned char *p;
    size_t n;
  };
  std::vector<Static> stat;  // a vector: libstdc++'s map is not MSan-instrumented
  std::string error;
  size_t stat_top = 0;
  std::vector<void *> seen;
  char end = 0;
} B;
char *slab;
size_t slab_size;
constexpr size_t kSmemArea = 512 * 1024;
// happens-before objects live in the per-block mapping, so that one block's barriers do not order another block
void *sync_var(unsigned i, unsigned gen) { return slab + kSmemArea - 4096 + (i * 2 + gen) * 8; }
Fiber *me = nullptr;
void *main_sp;
[[maybe_unused]] const void *main_bottom;
[[maybe_unused]] size_t main_size;
[[maybe_unused]] void *main_fake, *main_tsan;
uint64_t rng = 1;
const char *kname = "";

uint64_t rnd() {
  rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
  return rng;
}
size_t page() { return 4096; }

// ---- switching ----
#ifdef RADIX_SIMT_TSAN
#define ACQ(p) __tsan_acquire(p)
#define REL(p) __tsan_release(p)
#else
#define ACQ(p) (void)(p)
#define REL(p) (void)(p)
#endif

struct Quiet {  // the emulator's own traffic between lanes is not the kernel's
#ifdef RADIX_SIMT_TSAN
  Quiet() { AnnotateIgnoreReadsBegin("", 0), AnnotateIgnoreWritesBegin("", 0); }
  ~Quiet() { AnnotateIgnoreWritesEnd("", 0), AnnotateIgnoreReadsEnd("", 0); }
#else
  Quiet() {}
  ~Quiet() {}
#endif
};
void after_switch(Fiber *self) {
  (void)self;
#ifdef RADIX_SIMT_ASAN
  const void *b;
  size_t n;
  __sanitizer_finish_switch_fiber(self ? self->fake : main_fake, &b, &n);
  if (!main_bottom && self) main_bottom = b, main_size = n;
#endif
#ifdef RADIX_SIMT_MSAN
  const void *b = nullptr;
  size_t n = 0;
  if (__msan_finish_switch_fiber) {
    __msan_finish_switch_fiber(&b, &n);
    if (!main_bottom && self) main_bottom = b, main_size = n;
  }
#endif
}
void jump(Fiber *to, bool dying) {  // to == nullptr: the host
  Fiber *from = me;
  stats.switches++;
  if (to) cur = &to->tls;
  me = to;
  (void)dying;
#ifdef RADIX_SIMT_ASAN
  void **save = dying ? nullptr : from ? &from->fake : &main_fake;
  __sanitizer_start_switch_fiber(save, to ? to->stack : main_bottom, to ? cfg.stack : main_size);
#endif
#ifdef RADIX_SIMT_MSAN
  if (__msan_start_switch_fiber) __msan_start_switch_fiber(to ? to->stack : main_bottom, to ? cfg.stack : main_size);
#endif
#ifdef RADIX_SIMT_TSAN
  __tsan_switch_to_fiber(to ? to->tsan : main_tsan, 1 /* no_sync */);
#endif
  radix_simt_switch(from ? &from->sp : &main_sp, to ? to->sp : main_sp);
  after_switch(from);
}
unsigned pick_bit(unsigned m) {
  if (cfg.order == Order::seq) return unsigned(__builtin_ctz(m));
  if (cfg.order == Order::rev) return 31u - unsigned(__builtin_clz(m));
  unsigned r = unsigned(rnd() >> 40) & 31;
  unsigned rot = (m >> r) | (r ? m << (32 - r) : 0);
  return (unsigned(__builtin_ctz(rot)) + r) & 31;
}
bool async_progress();  // completes one bulk copy, if any is in flight
Fiber *next() {
  while (!B.ready_warps)
    if (!async_progress()) return nullptr;
  unsigned w = me && cfg.order != Order::rnd && (B.ready_warps >> me->tls.warp & 1) ? me->tls.warp : pick_bit(B.ready_warps);
  return B.fib[w * 32 + pick_bit(B.warps[w].ready)].get();
}
void set_ready(Fiber &t) {
  t.st = St::ready;
  B.warps[t.tls.warp].ready |= 1u << t.tls.lane;
  B.ready_warps |= 1u << t.tls.warp;
}
void clear_ready(Fiber &t, St st) {
  t.st = st;
  Warp &w = B.warps[t.tls.warp];
  if (!(w.ready &= ~(1u << t.tls.lane))) B.ready_warps &= ~(1u << t.tls.warp);
}
std::string loc(const char *f, int l) {
  const char *s = strrchr(f, '/');
  return std::string(s ? s + 1 : f) + ":" + std::to_string(l);
}
std::string deadlock_report() {
  std::map<std::string, std::vector<unsigned>> g;
  for (unsigned i = 0; i < B.nthreads; i++) {
    Fiber &t = *B.fib[i];
    std::string k = t.st == St::done ? "returned"
                    : t.st == St::warp ? std::string("waits in ") + op_name[int(t.op)] + " at " + loc(t.f, t.l)
                    : t.st == St::mbar ? "waits on an mbarrier at " + loc(t.f, t.l)
                    : t.st == St::wg ? "waits in a warpgroup operation at " + loc(t.f, t.l)
                                       : "waits in a block barrier at " + loc(t.f, t.l);
    g[k].push_back(i);
  }
  std::string s = "deadlock:";
  for (auto &[k, v] : g) {
    s += "\n    " + std::to_string(v.size()) + " threads (";
    for (size_t i = 0; i < v.size() && i < 6; i++) s += (i ? "," : "") + std::to_string(v[i]);
    s += v.size() > 6 ? ",...) " : ") ";
    s += k;
  }
  return s;
}
void block_me(St st) {
  Fiber &t = *me;
  clear_ready(t, st);
  Fiber *n = next();
  if (!n) {
    B.error = deadlock_report();
    REL(&B.end);
    t.dirty = true;
    jump(nullptr, false);
    __builtin_unreachable();
  }
  if (n != &t) jump(n, false);
}

[[gnu::noinline]] void release_bar(Bar &b) {
  b.gen++;
  b.arrived = 0;
}
void entry() {
  Fiber &t = *me;
  after_switch(&t);
  try {
    B.fn(B.ctx);
    if (!t.open.empty() || !t.groups.empty()) fail("thread returned with cp.async groups that were never waited for", "", 0);
  } catch (Error &e) {
    B.error = e.what();
  }
  REL(&B.end);
  clear_ready(t, St::done);
  B.alive--;
  B.warps[t.tls.warp].alive &= ~(1u << t.tls.lane);
  t.dirty = false;
  if (B.error.empty() && !cfg.strict_exit && B.alive && B.bar[0].arrived == int(B.alive)) {  // Volta+: exited threads do not count
    release_bar(B.bar[0]);
    for (auto &f : B.fib)
      if (f->st == St::block && f->wait_on == &B.bar[0]) set_ready(*f);
  }
  Fiber *n = B.error.empty() ? next() : nullptr;
  if (!n && B.alive && B.error.empty()) B.error = deadlock_report();
  jump(n, true);
  __builtin_unreachable();
}

// One mapping: shared memory (dynamic, then static, each followed by a red zone), then the stacks with their guard pages.
void ensure(unsigned n) {
  n = (n + 31) / 32 * 32;
  bool fresh = B.fib.size() < n;
  while (B.fib.size() < n) B.fib.push_back(std::make_unique<Fiber>());
#ifdef RADIX_SIMT_TSAN
  fresh = true;  // a new mapping has a clean TSan shadow: blocks share no history through recycled stacks
#endif
  if (!fresh) return;
  Quiet q;
  if (slab) munmap(slab, slab_size);
  slab_size = kSmemArea + B.fib.size() * (cfg.stack + page());
  slab = static_cast<char *>(mmap(nullptr, slab_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (slab == MAP_FAILED) throw Error("mmap");
  for (size_t i = 0; i < B.fib.size(); i++) {
    char *m = slab + kSmemArea + i * (cfg.stack + page());
#ifndef RADIX_SIMT_TSAN
    mprotect(m, page(), PROT_NONE);
#endif
    B.fib[i]->stack = m + page();
    B.fib[i]->dirty = false;
  }
}
}  // namespace

[[noreturn]] void fail(const std::string &what, const char *f, int l) {
  std::string s = what;
  if (l) s += " at " + loc(f, l);
  if (me) {
    const Tls &t = me->tls;
    char b[160];
    snprintf(b, sizeof b, " [%s block (%u,%u,%u) thread (%u,%u,%u)]", kname, t.bid.x, t.bid.y, t.bid.z, t.tid.x, t.tid.y, t.tid.z);
    s += b;
  }
  throw Error(s);
}

namespace {
void reset_async();
bool async_pending();
void reset_wg();
bool wg_pending();
}
void run(dim3 grid, dim3 bdim, size_t smem, Fn fn, void *ctx, const char *name) {
  kname = name;
  unsigned n = bdim.x * bdim.y * bdim.z;
  if (!n || n > 1024 || bdim.z > 64) throw Error(std::string(name) + ": bad block size " + std::to_string(n));
  if (!grid.x || !grid.y || !grid.z || grid.y > 65535 || grid.z > 65535) throw Error(std::string(name) + ": bad grid size");
  if (smem > cfg.smem_limit) throw Error(std::string(name) + ": too much shared memory");
  ensure(n);
  rng = cfg.seed * 0x9E3779B97F4A7C15ull + 1;
  uint64_t nb = uint64_t(grid.x) * grid.y * grid.z;
  std::vector<uint32_t> order(nb);
  for (uint64_t i = 0; i < nb; i++) order[i] = uint32_t(i);
  if (cfg.order == Order::rev) std::reverse(order.begin(), order.end());
  if (cfg.order == Order::rnd)
    for (uint64_t i = nb; i > 1; i--) std::swap(order[i - 1], order[rnd() % i]);
  B.nthreads = n;
  B.fn = fn;
  B.ctx = ctx;
  B.smem_bytes = smem;
#ifdef RADIX_SIMT_TSAN
  main_tsan = __tsan_get_current_fiber();
#endif
#ifdef RADIX_SIMT_TSAN
  std::vector<void *> dead;
  auto reap = [&] { for (void *f : dead) __tsan_destroy_fiber(f); dead.clear(); };
#endif
  for (uint64_t bi = 0; bi < nb; bi++) {
    uint32_t o = order[bi];
    uint3 bid = {o % grid.x, o / grid.x % grid.y, o / grid.x / grid.y};
    stats.blocks++;
#ifdef RADIX_SIMT_TSAN
    if (bi) ensure(n);
#endif
    B.smem = reinterpret_cast<unsigned char *>(slab);
    B.stat_top = (smem + 255) / 128 * 128;
    {
      Quiet q;
#ifdef RADIX_SIMT_MSAN
      __msan_poison(slab, kSmemArea);
#endif
#ifdef RADIX_SIMT_ASAN
      __asan_unpoison_memory_region(slab, smem);
#endif
      if (cfg.poison_smem) memset(B.smem, 0xFF, smem);
#ifdef RADIX_SIMT_MSAN
      __msan_poison(B.smem, smem);
#endif
#ifdef RADIX_SIMT_ASAN
      __asan_poison_memory_region(slab + smem, kSmemArea - smem);
#endif
    }
    B.warps.assign((n + 31) / 32, Warp{});
    memset(static_cast<void *>(B.bar), 0, sizeof B.bar);
    B.ready_warps = 0;
    B.alive = n;
    for (unsigned i = 0; i < n; i++) {
      Fiber &t = *B.fib[i];
      t.tls = Tls{{i % bdim.x, i / bdim.x % bdim.y, i / bdim.x / bdim.y}, bid, bdim, grid, i % 32, i / 32, i};
      t.open.clear();
      t.groups.clear();
      t.fake = nullptr;
      t.wait_on = nullptr;
      t.fenced = false;
#ifdef RADIX_SIMT_ASAN
      if (t.dirty) __asan_unpoison_memory_region(t.stack, cfg.stack);
#endif
#ifdef RADIX_SIMT_TSAN
      t.tsan = __tsan_create_fiber(0);
#endif
      t.dirty = true;
      t.sp = make_context(t.stack + cfg.stack, entry);
      set_ready(t);
      B.warps[i / 32].alive |= 1u << (i % 32);
    }
    reset_wg();
    me = nullptr;
    jump(next(), false);
    me = nullptr;
    cur = nullptr;
#ifdef RADIX_SIMT_TSAN  // TSan recycles a dead fiber's slot, and with it its history: keep them to the end of the launch, if it will hold them
    for (unsigned i = 0; i < n; i++) dead.push_back(B.fib[i]->tsan);
    if (dead.size() > cfg.tsan_history) reap();
#endif
    if (B.error.empty() && async_pending()) B.error = "block finished with bulk copies that were never waited for";
    if (B.error.empty() && wg_pending()) B.error = "block finished with wgmma groups that were never waited for";
    reset_async();
    B.stat.clear();
    B.seen.clear();
    if (!B.error.empty()) {
      ACQ(&B.end);
#ifdef RADIX_SIMT_TSAN
      reap();
#endif
      std::string e = B.error;
      B.error.clear();
      char b[64];
      snprintf(b, sizeof b, " block (%u,%u,%u)", bid.x, bid.y, bid.z);
      throw Error(e.find("[") == std::string::npos ? e + "\n    in " + name + b : e);
    }
  }
#ifdef RADIX_SIMT_TSAN
  reap();
#endif
  ACQ(&B.end);  // only now: blocks are not ordered with each other, except through __threadfence and atomics
}

unsigned char *dyn_smem() { return B.smem; }
size_t dyn_smem_bytes() { return B.smem_bytes; }
void *static_smem(const void *site, size_t bytes, size_t align) {
  for (auto &e : B.stat)
    if (e.site == site) return e.p;
  Quiet q;
  unsigned char *p = B.smem + (B.stat_top + align - 1) / align * align;
  B.stat_top = size_t(p - B.smem) + bytes + 128;
  if (B.stat_top > kSmemArea || p - B.smem + bytes > cfg.smem_limit + 1024) fail("too much static shared memory", "", 0);
#ifdef RADIX_SIMT_ASAN
  __asan_unpoison_memory_region(p, bytes);
#endif
  if (cfg.poison_smem) memset(p, 0xFF, bytes);
#ifdef RADIX_SIMT_MSAN
  __msan_poison(p, bytes);
#endif
  B.stat.push_back({site, p, bytes});
  return p;
}
void check_smem(const void *p, size_t n, size_t align, const char *what, const char *f, int l) {
  auto a = static_cast<const unsigned char *>(p);
  if (reinterpret_cast<uintptr_t>(a) % align) fail(std::string(what) + ": misaligned shared address", f, l);
  if (a >= B.smem && a + n <= B.smem + B.smem_bytes) return;
  for (auto &e : B.stat)
    if (a >= e.p && a + n <= e.p + e.n) return;
  fail(std::string(what) + ": address is not in shared memory", f, l);
}

// ---- block barriers ----
void syncthreads(const char *f, int l, int *pand, int *por, int *pcount) {
  stats.syncthreads++;
  Fiber &t = *me;
  Bar &b = B.bar[0];
  int p = pand ? *pand : por ? *por : pcount ? *pcount : 0;
  if (!b.arrived) b.f = f, b.l = l, b.nand = 1, b.nor = 0, b.ncount = 0;
  else if (cfg.strict_loc && (b.l != l || strcmp(b.f, f)))
    fail("divergent barrier: some threads are at " + loc(b.f, b.l) + ", this one", f, l);
  b.nand &= p != 0, b.nor |= p != 0, b.ncount += p != 0;
  unsigned g = b.gen & 1;
  REL(sync_var(unsigned(&b - B.bar), g));
  t.f = f, t.l = l;
  if (++b.arrived == int(B.alive)) {
    if (cfg.strict_exit && B.alive != B.nthreads) fail("barrier after " + std::to_string(B.nthreads - B.alive) + " threads returned", f, l);
    release_bar(b);
    for (unsigned i = 0; i < B.nthreads; i++)
      if (B.fib[i]->st == St::block && B.fib[i]->wait_on == &b) set_ready(*B.fib[i]);
    if (cfg.order == Order::rnd) {  // let somebody else go first
      Fiber *n = next();
      if (n != &t) jump(n, false);
    }
  } else {
    t.wait_on = &b;
    block_me(St::block);
    t.wait_on = nullptr;
  }
  ACQ(sync_var(unsigned(&b - B.bar), g));
  if (pand) *pand = b.nand;
  if (por) *por = b.nor;
  if (pcount) *pcount = b.ncount;
}
void bar_sync(int id, int nthreads, bool wait, const char *f, int l) {
  if (id <= 0 || id > 15 || nthreads % 32) fail("bar.sync: bad id or count", f, l);
  Fiber &t = *me;
  Bar &b = B.bar[id];
  if (!b.arrived) b.expected = nthreads;
  else if (b.expected != nthreads) fail("bar.sync: different thread counts", f, l);
  unsigned g = b.gen & 1;
  REL(sync_var(unsigned(&b - B.bar), g));
  t.f = f, t.l = l;
  if (++b.arrived == nthreads) {
    release_bar(b);
    for (unsigned i = 0; i < B.nthreads; i++)
      if (B.fib[i]->st == St::block && B.fib[i]->wait_on == &b) set_ready(*B.fib[i]);
  } else if (wait) {
    t.wait_on = &b;
    block_me(St::block);
    t.wait_on = nullptr;
  }
  if (wait) ACQ(sync_var(unsigned(&b - B.bar), g));
}
// Fence-atomic synchronisation, as the memory model has it: an atomic after a fence releases; a fence after an atomic
// (of this block) acquires. Relaxed atomics alone order nothing.
void fence() {
  me->fenced = true;
  for (void *p : B.seen) ACQ(p);
}
void atomic_done(void *p) {
#ifdef RADIX_SIMT_TSAN
  Quiet q;
  if (me->fenced) REL(p);
  if (std::find(B.seen.begin(), B.seen.end(), p) == B.seen.end()) B.seen.push_back(p);
#endif
  (void)p;
}
void maybe_yield() {
  if (cfg.order != Order::rnd || rnd() % 4) return;
  Fiber *n = next();
  if (n && n != me) jump(n, false);
}

// ---- warp collectives ----
template <class X> static void collective(Op op, unsigned mask, void *arg, const char *f, int l, X &&exec) {
  stats.warp_ops++;
  Fiber &t = *me;
  Warp &w = B.warps[t.tls.warp];
  if (!(mask >> t.tls.lane & 1)) fail(std::string(op_name[int(op)]) + ": calling lane is not in the mask", f, l);
  if (mask & ~w.alive) fail(std::string(op_name[int(op)]) + ": mask names a lane that returned or does not exist", f, l);
  t.op = op, t.mask = mask, t.arg = arg, t.f = f, t.l = l;
  auto lane = [&](unsigned i) -> Fiber & { return *B.fib[t.tls.warp * 32 + i]; };
  if (unsigned others = w.waiting & mask) {
    Fiber &o = lane(unsigned(__builtin_ctz(others)));
    if (o.op != op || o.mask != mask || (cfg.strict_loc && (o.l != l || (o.f != f && strcmp(o.f, f)))))
      fail("divergent warp collective: lane " + std::to_string(o.tls.lane) + " is in " + op_name[int(o.op)] + " at " + loc(o.f, o.l) + ", lane " +
               std::to_string(t.tls.lane) + " in " + op_name[int(op)], f, l);
  }
  w.waiting |= 1u << t.tls.lane;
  if ((w.waiting & mask) == mask) {
    {
      Quiet q;
      exec(lane);
    }
    w.waiting &= ~mask;
    for (unsigned m = mask & ~(1u << t.tls.lane); m; m &= m - 1) set_ready(lane(unsigned(__builtin_ctz(m))));
    if (cfg.order == Order::rnd) {
      Fiber *n = next();
      if (n != &t) jump(n, false);
    }
  } else {
    block_me(St::warp);
  }
}
void syncwarp(unsigned mask, const char *f, int l) {
  Warp &w = B.warps[me->tls.warp];
  unsigned g = w.gen & 1;
  REL(sync_var(16 + me->tls.warp, g));
  collective(Op::syncwarp, mask, nullptr, f, l, [&](auto &) { w.gen++; });
  ACQ(sync_var(16 + me->tls.warp, g));
}
void shfl(void *val, unsigned bytes, unsigned mask, Shfl mode, int arg, int width, const char *f, int l) {
  struct A {
    unsigned char v[16];
    unsigned char out[16];
    Shfl mode;
    int arg, width;
    unsigned bytes;
  } a{};
  if (bytes > 16) fail("shfl: value too large", f, l);
  for (unsigned i = 0; i < bytes; i++) a.v[i] = static_cast<unsigned char *>(val)[i];
  a.mode = mode, a.arg = arg, a.width = width, a.bytes = bytes;
  collective(Op::shfl, mask, &a, f, l, [&](auto &lane) {
    for (unsigned m = mask; m; m &= m - 1) {
      unsigned i = unsigned(__builtin_ctz(m));
      A &x = *static_cast<A *>(lane(i).arg);
      int lo = int(i) / x.width * x.width, hi = lo + x.width - 1, j = int(i), s = 0;
      switch (x.mode) {
        case idx: s = lo + (x.arg & (x.width - 1)); break;
        case up: s = j - x.arg < lo ? j : j - x.arg; break;
        case down: s = j + x.arg > hi ? j : j + x.arg; break;
        case bfly: s = (j ^ x.arg) > hi ? j : (j ^ x.arg); break;
      }
      if (!(mask >> s & 1)) {
        Fiber &bad = lane(i);
        fail("shfl reads lane " + std::to_string(s) + ", which is not in the mask", bad.f, bad.l);
      }
      A &y = *static_cast<A *>(lane(unsigned(s)).arg);
      for (unsigned k = 0; k < bytes; k++) x.out[k] = y.v[k];
    }
  });
  for (unsigned i = 0; i < bytes; i++) static_cast<unsigned char *>(val)[i] = a.out[i];
}
unsigned ballot(unsigned mask, int pred, const char *f, int l) {
  struct A { int p; unsigned r; } a{pred, 0};
  collective(Op::ballot, mask, &a, f, l, [&](auto &lane) {
    unsigned r = 0;
    for (unsigned m = mask; m; m &= m - 1) { unsigned i = unsigned(__builtin_ctz(m)); r |= (static_cast<A *>(lane(i).arg)->p != 0 ? 1u : 0u) << i; }
    for (unsigned m = mask; m; m &= m - 1) static_cast<A *>(lane(unsigned(__builtin_ctz(m))).arg)->r = r;
  });
  return a.r;
}
uint32_t reduce(unsigned mask, uint32_t v, Red op, bool sg, const char *f, int l) {
  struct A { uint32_t v, r; } a{v, 0};
  collective(Op::reduce, mask, &a, f, l, [&](auto &lane) {
    uint32_t r = 0;
    bool first = true;
    for (unsigned m = mask; m; m &= m - 1) {
      uint32_t x = static_cast<A *>(lane(unsigned(__builtin_ctz(m))).arg)->v;
      if (first) r = x, first = false;
      else switch (op) {
        case r_add: r += x; break;
        case r_min: r = sg ? uint32_t(std::min(int32_t(r), int32_t(x))) : std::min(r, x); break;
        case r_max: r = sg ? uint32_t(std::max(int32_t(r), int32_t(x))) : std::max(r, x); break;
        case r_and: r &= x; break;
        case r_or: r |= x; break;
        case r_xor: r ^= x; break;
      }
    }
    for (unsigned m = mask; m; m &= m - 1) static_cast<A *>(lane(unsigned(__builtin_ctz(m))).arg)->r = r;
  });
  return a.r;
}
uint64_t match_any(unsigned mask, uint64_t v, const char *f, int l) {
  struct A { uint64_t v; unsigned r; } a{v, 0};
  collective(Op::match, mask, &a, f, l, [&](auto &lane) {
    for (unsigned m = mask; m; m &= m - 1) {
      A &x = *static_cast<A *>(lane(unsigned(__builtin_ctz(m))).arg);
      for (unsigned q = mask; q; q &= q - 1) { unsigned j = unsigned(__builtin_ctz(q)); x.r |= (static_cast<A *>(lane(j).arg)->v == x.v ? 1u : 0u) << j; }
    }
  });
  return a.r;
}

// ---- tensor core ops ----
static float tab_h[65536];
static const bool tab_init = [] {
  for (unsigned i = 0; i < 65536; i++) tab_h[i] = __half2float(__ushort_as_half(uint16_t(i)));
  return true;
}();
static inline float lo16(uint32_t v, bool bf) {
  if (!bf) return tab_h[v & 0xffff];
  uint32_t u = v << 16;
  float x;
  memcpy(&x, &u, 4);
  return x;
}
static inline float hi16(uint32_t v, bool bf) { return lo16(v >> 16, bf); }

// PTX ISA, "Matrix fragments for mma.m16n8k16": g = lane/4, t = lane%4
//   A: a0,a1 (g, 2t..)  a2,a3 (g+8, 2t..)  a4,a5 (g, 2t+8..)  a6,a7 (g+8, 2t+8..)
//   B: b0,b1 (k=2t.., n=g)  b2,b3 (k=2t+8.., n=g)      C/D: c0,c1 (g, 2t..)  c2,c3 (g+8, 2t..)
void mma_m16n8k16(float *d, const uint32_t *a, const uint32_t *b, const float *c, bool bf, const char *f, int l) {
  struct A { uint32_t a[4], b[2]; float c[4]; bool bf; } x;
  for (int i = 0; i < 4; i++) x.a[i] = a[i], x.c[i] = c[i];
  x.b[0] = b[0], x.b[1] = b[1], x.bf = bf;
  stats.mma++;
  collective(Op::mma, 0xffffffffu, &x, f, l, [&](auto &lane) {
    float Am[16][16], Bm[16][8], C[16][8];
    for (unsigned i = 0; i < 32; i++) {
      const A &y = *static_cast<A *>(lane(i).arg);
      unsigned g = i / 4, t = i % 4 * 2;
      for (unsigned r = 0; r < 4; r++) {
        unsigned row = g + (r & 1) * 8, col = t + (r >> 1) * 8;
        Am[row][col] = lo16(y.a[r], bf), Am[row][col + 1] = hi16(y.a[r], bf);
      }
      for (unsigned r = 0; r < 2; r++) Bm[t + r * 8][g] = lo16(y.b[r], bf), Bm[t + r * 8 + 1][g] = hi16(y.b[r], bf);
      C[g][t] = y.c[0], C[g][t + 1] = y.c[1], C[g + 8][t] = y.c[2], C[g + 8][t + 1] = y.c[3];
    }
    for (int m = 0; m < 16; m++)
      for (int k = 0; k < 16; k++)
        for (int n = 0; n < 8; n++) C[m][n] += Am[m][k] * Bm[k][n];
    for (unsigned i = 0; i < 32; i++) {
      A &y = *static_cast<A *>(lane(i).arg);
      unsigned g = i / 4, t = i % 4 * 2;
      y.c[0] = C[g][t], y.c[1] = C[g][t + 1], y.c[2] = C[g + 8][t], y.c[3] = C[g + 8][t + 1];
    }
  });
  for (int i = 0; i < 4; i++) d[i] = x.c[i];
}
// ldmatrix: lanes 8i..8i+7 give the row addresses of matrix i; lane t receives elements (t/4, 2(t%4)..), or the transposed ones.
void ldmatrix(uint32_t *r, int num, bool trans, const void *row, const char *f, int l) {
  struct A { uint16_t row[8]; uint32_t r[4]; int num; bool trans; const unsigned char *p; } x{};
  stats.ldmatrix++;
  x.num = num, x.trans = trans, x.p = static_cast<const unsigned char *>(row);
  if (int(me->tls.lane) < num * 8) {
    check_smem(row, 16, 16, "ldmatrix", f, l);
#ifdef RADIX_SIMT_TSAN
    __tsan_read_range(const_cast<void *>(row), 16);
#endif
    for (int i = 0; i < 8; i++) x.row[i] = static_cast<const uint16_t *>(row)[i];
  }
  collective(Op::ldmatrix, 0xffffffffu, &x, f, l, [&](auto &lane) {
    for (int m = 0; m < num; m++) {
      unsigned bank[8] = {}, worst = 1;  // bank conflicts: 8 rows of 16 bytes should hit 8 different 16-byte columns
      const A *rows[8];
      for (unsigned i = 0; i < 8; i++) {
        rows[i] = static_cast<A *>(lane(unsigned(m) * 8 + i).arg);
        bool dup = false;
        for (unsigned j = 0; j < i; j++) dup |= rows[j]->p == rows[i]->p;
        if (!dup) worst = std::max(worst, ++bank[reinterpret_cast<uintptr_t>(rows[i]->p) / 16 % 8]);
      }
      stats.ldmatrix_wavefronts += worst;
      for (unsigned i = 0; i < 32; i++) {
        unsigned g = i / 4, t = i % 4 * 2;
        uint32_t v = trans ? rows[t]->row[g] | uint32_t(rows[t + 1]->row[g]) << 16 : rows[g]->row[t] | uint32_t(rows[g]->row[t + 1]) << 16;
        static_cast<A *>(lane(i).arg)->r[m] = v;
      }
    }
  });
  for (int i = 0; i < num; i++) r[i] = x.r[i];
}

// ---- cp.async ----
void smem_inflight(void *p, size_t n) {
#ifdef RADIX_SIMT_ASAN
  __asan_poison_memory_region(p, n);
#endif
#ifdef RADIX_SIMT_MSAN
  __msan_poison(p, n);
#endif
  (void)p, (void)n;
}
void smem_arrived(void *p, size_t n) {
#ifdef RADIX_SIMT_ASAN
  __asan_unpoison_memory_region(p, n);
#endif
  (void)p, (void)n;
}
void cp_async_note(void *dst, const void *data, unsigned bytes, const char *, int) {
  stats.cp_async++;
  CpAsync c{dst, bytes, {}};
  for (unsigned i = 0; i < bytes; i++) c.data[i] = static_cast<const unsigned char *>(data)[i];
  smem_inflight(dst, bytes);
  Quiet q;
  me->open.push_back(c);
}
void cp_async_commit() {
  Quiet q;
  me->groups.push_back(std::move(me->open));
  me->open.clear();
}
int cp_async_take(int keep, CpAsync *out, int max) {
  Quiet q;
  int n = 0;
  auto &g = me->groups;
  while (int(g.size()) > keep && n < max) {
    auto &v = g.front();
    while (!v.empty() && n < max) out[n++] = v.back(), v.pop_back();
    if (v.empty()) g.pop_front();
  }
  return n;
}

#include "emu_hopper.inc"
}  // namespace radixattn::simt::emu
