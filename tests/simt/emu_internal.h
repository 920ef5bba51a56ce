// What the emulator's own sources share. Compile them without -fsanitize=thread, with
// RADIX_SIMT_TSAN when the kernels are compiled with it: the emulator's tables are every lane's,
// and tells TSan itself what the kernels' barriers order.
#pragma once

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
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* f);
void __tsan_switch_to_fiber(void* f, unsigned flags);
void __tsan_acquire(void*);
void __tsan_release(void*);
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
void __tsan_read_range(void*, unsigned long);
void __tsan_write_range(void*, unsigned long);
}
#endif
#ifdef RADIX_SIMT_MSAN
#include <sanitizer/msan_interface.h>
extern "C" void __msan_start_switch_fiber(const void*, size_t) __attribute__((weak));
extern "C" void __msan_finish_switch_fiber(const void**, size_t*) __attribute__((weak));
#endif

extern "C" void radix_simt_switch(void** save_sp, void* to_sp);

namespace radixattn::simt::emu {

enum class St : uint8_t { ready, warp, block, mbarrier, wgmma, done };
enum class Op : uint8_t { none, syncwarp, shfl, ballot, reduce, match, ldmatrix, mma };
extern const char* const op_name[];

struct Fiber {
  Tls tls;  // first: cur points here
  void* sp = nullptr;
  char* stack = nullptr;
  St st = St::done;
  Op op = Op::none;
  unsigned mask = 0;
  const char* f = "";
  int l = 0;
  void* arg = nullptr;
  const void* wait_on = nullptr;
  std::vector<CpAsync> open;
  std::deque<std::vector<CpAsync>> groups;
  std::vector<uint32_t> unfenced;  // pieces it wrote since its last fence.proxy.async
  void *fake = nullptr, *tsan = nullptr;
  bool dirty = false, fenced = false;
};
struct Warp {
  unsigned ready, waiting, alive, gen;
};
struct Bar {
  int arrived, expected;
  struct {
    int all, any, count;
  } pred[2];  // of this generation and the last one, which may not have been read yet
  unsigned gen;
  const char* f;
  int l;
};
struct Block {
  std::vector<std::unique_ptr<Fiber>> fib;
  std::vector<Warp> warps;
  unsigned nthreads = 0, alive = 0;
  uint32_t ready_warps = 0;
  uint64_t rank[32] = {};  // of warps, under Order::rank
  Bar bar[16];
  Fn fn = nullptr;
  void* ctx = nullptr;
  unsigned char* smem = nullptr;
  size_t smem_bytes = 0;
  struct Static {
    const void* site;
    unsigned char* p;
    size_t n;
  };
  std::vector<Static> stat;  // a vector: libstdc++'s map is not MSan-instrumented
  std::string error;
  size_t stat_top = 0;
  std::vector<void*> seen;
  char end = 0;
};

extern Block current;  // the one that runs: blocks take turns
extern Fiber* me;      // null: the host
constexpr size_t kSmemArea = 512 * 1024;

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

// ---- scheduler.cpp
uint64_t rnd();
// Where barrier `i`, generation `gen`, tells TSan what it orders: in the block's own memory, so
// that one block's barriers do not order another block.
void* sync_var(unsigned i, unsigned gen);
Fiber* next();  // who runs next; null: nobody can
void set_ready(Fiber& t);
void block_me(St st);  // until somebody makes it ready
void jump(Fiber* to, bool dying);
void release_bar(Bar& b);
std::string loc(const char* f, int l);

// The lanes of `mask` meet: the last one to come runs exec(lane), which finds every lane's `arg`.
template <class X>
void collective(Op op, unsigned mask, void* arg, const char* f, int l, X&& exec) {
  stats.warp_ops++;
  Fiber& t = *me;
  Warp& w = current.warps[t.tls.warp];
  if (!(mask >> t.tls.lane & 1))
    fail(std::string(op_name[int(op)]) + ": calling lane is not in the mask", f, l);
  if (mask & ~w.alive)
    fail(std::string(op_name[int(op)]) + ": mask names a lane that returned or does not exist", f,
         l);
  t.op = op, t.mask = mask, t.arg = arg, t.f = f, t.l = l;
  auto lane = [&](unsigned i) -> Fiber& { return *current.fib[t.tls.warp * 32 + i]; };
  if (unsigned others = w.waiting & mask) {
    Fiber& o = lane(unsigned(__builtin_ctz(others)));
    if (o.op != op || o.mask != mask ||
        (cfg.strict_loc && (o.l != l || (o.f != f && strcmp(o.f, f)))))
      fail("divergent warp collective: lane " + std::to_string(o.tls.lane) + " is in " +
               op_name[int(o.op)] + " at " + loc(o.f, o.l) + ", lane " +
               std::to_string(t.tls.lane) + " in " + op_name[int(op)],
           f, l);
  }
  w.waiting |= 1u << t.tls.lane;
  if ((w.waiting & mask) == mask) {
    {
      Quiet q;
      exec(lane);
    }
    w.waiting &= ~mask;
    for (unsigned m = mask & ~(1u << t.tls.lane); m; m &= m - 1)
      set_ready(lane(unsigned(__builtin_ctz(m))));
    if (cfg.order == Order::rnd) {
      Fiber* n = next();
      if (n != &t) jump(n, false);
    }
  } else {
    block_me(St::warp);
  }
}

// ---- hopper.cpp
void reset_hopper();            // of a new block
void check_hopper_at_return();  // of this thread

// ---- fibers.cpp
void* make_context(char* top, void (*entry)());

}  // namespace radixattn::simt::emu
