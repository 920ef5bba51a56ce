// The emulator's scheduler: a block's threads are fibers on one OS thread, and one runs until it
// waits. Which one goes on is Config::order's; nothing else decides.
#include "emu_internal.h"

namespace radixattn::simt::emu {

Config cfg;
int (*submit)(const Kernel&, void*) = nullptr;
Stats stats;
Tls* cur;
Block current;
Fiber* me = nullptr;
const char* const op_name[] = {"?",
                               "__syncwarp",
                               "__shfl_*_sync",
                               "__ballot/any/all_sync",
                               "__reduce_*_sync",
                               "__match_any_sync",
                               "ldmatrix",
                               "mma.sync"};

namespace {

char* slab;  // shared memory, then stacks
size_t slab_size;
void* main_sp;
[[maybe_unused]] const void* main_bottom;
[[maybe_unused]] size_t main_size;
[[maybe_unused]] void *main_fake, *main_tsan;
uint64_t rng = 1;
const char* kname = "";
constexpr size_t kPage = 4096;

}  // namespace

void* sync_var(unsigned i, unsigned gen) { return slab + kSmemArea - 4096 + (i * 2 + gen) * 8; }

uint64_t rnd() {
  rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
  return rng;
}

static void after_switch(Fiber* self) {
  (void)self;
#ifdef RADIX_SIMT_ASAN
  const void* b;
  size_t n;
  __sanitizer_finish_switch_fiber(self ? self->fake : main_fake, &b, &n);
  if (!main_bottom && self) main_bottom = b, main_size = n;
#endif
#ifdef RADIX_SIMT_MSAN
  const void* b = nullptr;
  size_t n = 0;
  if (__msan_finish_switch_fiber) {
    __msan_finish_switch_fiber(&b, &n);
    if (!main_bottom && self) main_bottom = b, main_size = n;
  }
#endif
}
void jump(Fiber* to, bool dying) {  // to == nullptr: the host
  Fiber* from = me;
  stats.switches++;
  if (to) cur = &to->tls;
  me = to;
  (void)dying;
#ifdef RADIX_SIMT_ASAN
  void** save = dying ? nullptr : from ? &from->fake : &main_fake;
  __sanitizer_start_switch_fiber(save, to ? to->stack : main_bottom, to ? cfg.stack : main_size);
#endif
#ifdef RADIX_SIMT_MSAN
  if (__msan_start_switch_fiber)
    __msan_start_switch_fiber(to ? to->stack : main_bottom, to ? cfg.stack : main_size);
#endif
#ifdef RADIX_SIMT_TSAN
  __tsan_switch_to_fiber(to ? to->tsan : main_tsan, 1 /* no_sync */);
#endif
  radix_simt_switch(from ? &from->sp : &main_sp, to ? to->sp : main_sp);
  after_switch(from);
}
static unsigned pick_bit(unsigned m) {
  if (cfg.order == Order::seq) return unsigned(__builtin_ctz(m));
  if (cfg.order == Order::rev) return 31u - unsigned(__builtin_clz(m));
  unsigned r = unsigned(rnd() >> 40) & 31;
  unsigned rot = (m >> r) | (r ? m << (32 - r) : 0);
  return (unsigned(__builtin_ctz(rot)) + r) & 31;
}
static unsigned first_in_rank(unsigned warps) {
  unsigned best = unsigned(__builtin_ctz(warps));
  for (unsigned m = warps & (warps - 1); m != 0; m &= m - 1) {
    const auto w = unsigned(__builtin_ctz(m));
    if (current.rank[w] < current.rank[best]) best = w;
  }
  return best;
}
Fiber* next() {
  if (!current.ready_warps) return nullptr;
  unsigned w = cfg.order == Order::rank ? first_in_rank(current.ready_warps)
               : me && cfg.order != Order::rnd && (current.ready_warps >> me->tls.warp & 1)
                   ? me->tls.warp
                   : pick_bit(current.ready_warps);
  return current.fib[w * 32 + pick_bit(current.warps[w].ready)].get();
}
void set_ready(Fiber& t) {
  t.st = St::ready;
  current.warps[t.tls.warp].ready |= 1u << t.tls.lane;
  current.ready_warps |= 1u << t.tls.warp;
}
static void clear_ready(Fiber& t, St st) {
  t.st = st;
  Warp& w = current.warps[t.tls.warp];
  if (!(w.ready &= ~(1u << t.tls.lane))) current.ready_warps &= ~(1u << t.tls.warp);
}
std::string loc(const char* f, int l) {
  const char* s = strrchr(f, '/');
  return std::string(s ? s + 1 : f) + ":" + std::to_string(l);
}
static std::string deadlock_report() {
  std::map<std::string, std::vector<unsigned>> g;
  for (unsigned i = 0; i < current.nthreads; i++) {
    Fiber& t = *current.fib[i];
    std::string k = t.st == St::done ? "returned"
                    : t.st == St::warp
                        ? std::string("waits in ") + op_name[int(t.op)] + " at " + loc(t.f, t.l)
                    : t.st == St::mbarrier ? "waits for an mbarrier at " + loc(t.f, t.l)
                    : t.st == St::wgmma    ? "waits in wgmma.wait_group at " + loc(t.f, t.l)
                                           : "waits in a block barrier at " + loc(t.f, t.l);
    g[k].push_back(i);
  }
  std::string s = "deadlock:";
  for (auto& [k, v] : g) {
    s += "\n    " + std::to_string(v.size()) + " threads (";
    for (size_t i = 0; i < v.size() && i < 6; i++) s += (i ? "," : "") + std::to_string(v[i]);
    s += v.size() > 6 ? ",...) " : ") ";
    s += k;
  }
  return s;
}
void block_me(St st) {
  Fiber& t = *me;
  REL(&current.end);  // it may never go on, if another one fails
  clear_ready(t, st);
  Fiber* n = next();
  if (!n) {
    current.error = deadlock_report();
    REL(&current.end);
    t.dirty = true;
    jump(nullptr, false);
    __builtin_unreachable();
  }
  if (n != &t) jump(n, false);
}

[[gnu::noinline]] void release_bar(Bar& b) {
  b.gen++;
  b.arrived = 0;
}
static void entry() {
  Fiber& t = *me;
  after_switch(&t);
  try {
    current.fn(current.ctx);
    if (!t.open.empty() || !t.groups.empty())
      fail("thread returned with cp.async groups that were never waited for", "", 0);
    check_hopper_at_return();
  } catch (Error& e) {
    current.error = e.what();
  }
  REL(&current.end);
  clear_ready(t, St::done);
  current.alive--;
  current.warps[t.tls.warp].alive &= ~(1u << t.tls.lane);
  t.dirty = false;
  if (current.error.empty() && !cfg.strict_exit && current.alive &&
      current.bar[0].arrived == int(current.alive)) {  // Volta+: exited threads do not count
    release_bar(current.bar[0]);
    for (auto& f : current.fib)
      if (f->st == St::block && f->wait_on == &current.bar[0]) set_ready(*f);
  }
  Fiber* n = current.error.empty() ? next() : nullptr;
  if (!n && current.alive && current.error.empty()) {
    current.error = deadlock_report();
    REL(&current.end);
  }
  jump(n, true);
  __builtin_unreachable();
}

// One mapping: shared memory (dynamic, then static, each followed by a red zone), then the stacks
// with their guard pages.
static void ensure(unsigned n) {
  n = (n + 31) / 32 * 32;
  bool fresh = current.fib.size() < n;
  while (current.fib.size() < n) current.fib.push_back(std::make_unique<Fiber>());
#ifdef RADIX_SIMT_TSAN
  fresh = true;  // a new mapping has a clean TSan shadow: blocks share no history through recycled
                 // stacks
#endif
  if (!fresh) return;
  Quiet q;
#ifdef RADIX_SIMT_ASAN
  // munmap leaves ASan's marks: the next mapping at these addresses, ours or not, would inherit
  // them.
  if (slab) __asan_unpoison_memory_region(slab, slab_size);
#endif
  if (slab) munmap(slab, slab_size);
  slab_size = kSmemArea + current.fib.size() * (cfg.stack + kPage);
  slab = static_cast<char*>(mmap(nullptr, slab_size, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (slab == MAP_FAILED) throw Error("mmap");
  for (size_t i = 0; i < current.fib.size(); i++) {
    char* m = slab + kSmemArea + i * (cfg.stack + kPage);
#ifndef RADIX_SIMT_TSAN
    mprotect(m, kPage, PROT_NONE);
#endif
    current.fib[i]->stack = m + kPage;
    current.fib[i]->dirty = false;
  }
}
[[noreturn]] void fail(const std::string& what, const char* f, int l) {
  std::string s = what;
  if (l) s += " at " + loc(f, l);
  if (me) {
    const Tls& t = me->tls;
    char b[160];
    snprintf(b, sizeof b, " [%s block (%u,%u,%u) thread (%u,%u,%u)]", kname, t.bid.x, t.bid.y,
             t.bid.z, t.tid.x, t.tid.y, t.tid.z);
    s += b;
  }
  throw Error(s);
}

namespace {

std::vector<uint32_t> block_order(uint64_t num_blocks) {
  std::vector<uint32_t> order(num_blocks);
  for (uint64_t i = 0; i < num_blocks; i++) order[i] = uint32_t(i);
  if (cfg.order == Order::rev) std::reverse(order.begin(), order.end());
  if (cfg.order == Order::rnd)
    for (uint64_t i = num_blocks; i > 1; i--) std::swap(order[i - 1], order[rnd() % i]);
  return order;
}

// Shared memory of a new block: NaN inside, out of reach around it.
void fresh_smem(size_t smem) {
  const Quiet quiet;
  current.smem = reinterpret_cast<unsigned char*>(slab);
  current.smem_bytes = smem;
  current.stat_top = (smem + 255) / 128 * 128;
#ifdef RADIX_SIMT_MSAN
  __msan_poison(slab, kSmemArea);
#endif
#ifdef RADIX_SIMT_ASAN
  __asan_unpoison_memory_region(slab, smem);
#endif
  if (cfg.poison_smem) memset(current.smem, 0xFF, smem);
#ifdef RADIX_SIMT_MSAN
  __msan_poison(current.smem, smem);
#endif
#ifdef RADIX_SIMT_ASAN
  __asan_poison_memory_region(slab + smem, kSmemArea - smem);
#endif
}

void fresh_fiber(Fiber& t, const Tls& tls) {
  t.tls = tls;
  t.open.clear();
  t.groups.clear();
  t.unfenced.clear();
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
}

void fresh_block(uint3 bid, dim3 grid, dim3 bdim, size_t smem) {
  const unsigned n = current.nthreads;
  stats.blocks++;
  fresh_smem(smem);
  current.warps.assign((n + 31) / 32, Warp{});
  memset(static_cast<void*>(current.bar), 0, sizeof current.bar);
  current.ready_warps = 0;
  if (cfg.order == Order::rank)
    for (uint64_t& r : current.rank) r = rnd();
  current.alive = n;
  current.stat.clear();
  current.seen.clear();
  reset_hopper();
  for (unsigned i = 0; i < n; i++) {
    const uint3 tid = {i % bdim.x, i / bdim.x % bdim.y, i / bdim.x / bdim.y};
    fresh_fiber(*current.fib[i], Tls{tid, bid, bdim, grid, i % 32, i / 32, i});
    set_ready(*current.fib[i]);
    current.warps[i / 32].alive |= 1u << (i % 32);
  }
}

// TSan recycles a dead fiber's slot, and with it its history: they are kept to the end of the
// launch, as far as it holds them.
class DeadFibers {
 public:
  ~DeadFibers() { reap(); }
  void add_block() {
#ifdef RADIX_SIMT_TSAN
    for (unsigned i = 0; i < current.nthreads; i++) dead_.push_back(current.fib[i]->tsan);
    if (dead_.size() > cfg.tsan_history) reap();
#endif
  }

 private:
  void reap() {
#ifdef RADIX_SIMT_TSAN
    for (void* f : dead_) __tsan_destroy_fiber(f);
#endif
    dead_.clear();
  }
  std::vector<void*> dead_;
};

[[noreturn]] void throw_error(uint3 bid, const char* name) {
  const std::string e = current.error;
  current.error.clear();
  char b[64];
  snprintf(b, sizeof b, " block (%u,%u,%u)", bid.x, bid.y, bid.z);
  throw Error(e.find("[") == std::string::npos ? e + "\n    in " + name + b : e);
}

void check_launch(dim3 grid, dim3 bdim, size_t smem, const std::string& name) {
  const unsigned n = bdim.x * bdim.y * bdim.z;
  if (!n || n > 1024 || bdim.z > 64) throw Error(name + ": bad block size " + std::to_string(n));
  if (!grid.x || !grid.y || !grid.z || grid.y > 65535 || grid.z > 65535)
    throw Error(name + ": bad grid size");
  if (smem > cfg.smem_limit) throw Error(name + ": too much shared memory");
}

}  // namespace

void run(dim3 grid, dim3 bdim, size_t smem, Fn fn, void* ctx, const char* name) {
  kname = name;
  check_launch(grid, bdim, smem, name);
  current.nthreads = bdim.x * bdim.y * bdim.z;
  current.fn = fn;
  current.ctx = ctx;
  ensure(current.nthreads);
  rng = cfg.seed * 0x9E3779B97F4A7C15ull + 1;
#ifdef RADIX_SIMT_TSAN
  main_tsan = __tsan_get_current_fiber();
  bool first = true;
#endif
  DeadFibers dead;
  for (const uint32_t o : block_order(uint64_t(grid.x) * grid.y * grid.z)) {
    const uint3 bid = {o % grid.x, o / grid.x % grid.y, o / grid.x / grid.y};
#ifdef RADIX_SIMT_TSAN
    if (!first) ensure(current.nthreads);
    first = false;
#endif
    fresh_block(bid, grid, bdim, smem);
    me = nullptr;
    jump(next(), false);
    me = nullptr;
    cur = nullptr;
    dead.add_block();
    if (current.error.empty()) continue;
    ACQ(&current.end);
    throw_error(bid, name);
  }
  // Only now: blocks are not ordered with each other, except through __threadfence and atomics.
  ACQ(&current.end);
}

unsigned char* dyn_smem() { return current.smem; }
size_t dyn_smem_bytes() { return current.smem_bytes; }
void* static_smem(const void* site, size_t bytes, size_t align) {
  for (auto& e : current.stat)
    if (e.site == site) return e.p;
  Quiet q;
  unsigned char* p = current.smem + (current.stat_top + align - 1) / align * align;
  current.stat_top = size_t(p - current.smem) + bytes + 128;
  if (current.stat_top > kSmemArea || p - current.smem + bytes > cfg.smem_limit + 1024)
    fail("too much static shared memory", "", 0);
#ifdef RADIX_SIMT_ASAN
  __asan_unpoison_memory_region(p, bytes);
#endif
  if (cfg.poison_smem) memset(p, 0xFF, bytes);
#ifdef RADIX_SIMT_MSAN
  __msan_poison(p, bytes);
#endif
  current.stat.push_back({site, p, bytes});
  return p;
}
void check_smem(const void* p, size_t n, size_t align, const char* what, const char* f, int l) {
  auto a = static_cast<const unsigned char*>(p);
  if (reinterpret_cast<uintptr_t>(a) % align)
    fail(std::string(what) + ": misaligned shared address", f, l);
  if (a >= current.smem && a + n <= current.smem + current.smem_bytes) return;
  for (auto& e : current.stat)
    if (a >= e.p && a + n <= e.p + e.n) return;
  fail(std::string(what) + ": address is not in shared memory", f, l);
}

}  // namespace radixattn::simt::emu
