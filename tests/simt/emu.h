// A small SIMT emulator: runs CUDA C++ kernel sources as plain C++ on one OS thread. Each CUDA
// thread is a fiber; barriers and warp collectives are the only switch points. The run-time part
// (scheduler.cpp and the files beside it) is compiled without -fsanitize=thread: its tables are
// shared by all fibers. The kernels are compiled with whichever sanitizer is used.
#pragma once
#include <cuda_bf16.h>  // host-usable as they are: conversions, +, *, max ... (no fma, no exp, no ldg)
#include <cuda_fp16.h>
#include <vector_functions.h>
#include <vector_types.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __constant__
#undef __launch_bounds__
#undef __grid_constant__
#undef __forceinline__
#define __global__
#define __device__
#define __host__
#define __constant__
#define __launch_bounds__(...)
#define __grid_constant__
#define __forceinline__ inline
// __shared__ stays undefined on purpose: a bare __shared__ does not compile here; use
// RADIX_SHARED/RADIX_DYN_SMEM.

// File and line of the call, so that a divergence report can name both sides.
#define RADIX_LOC , const char *simt_file = __builtin_FILE(), int simt_line = __builtin_LINE()
#define RADIX_LOC0 const char *simt_file = __builtin_FILE(), int simt_line = __builtin_LINE()
#define RADIX_HERE simt_file, simt_line
#define RADIX_PASS , simt_file, simt_line  // of a helper that names its caller

namespace radixattn::simt::emu {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Who goes on when somebody waits: the first, the last, any, or the one of the warp that matters
// most, by a random ranking (some warps run as far ahead as they can, others lag behind).
enum class Order { seq, rev, rnd, rank };

struct Config {
  Order order = Order::seq;
  uint64_t seed = 1;
  bool poison_smem = true;  // fill shared memory with 0xFF (NaN in fp16/bf16/fp32, -1 in int)
  bool strict_exit = true;  // a barrier after some thread has returned is an error
  bool strict_loc = true;   // a collective must be reached from the same source line by all lanes
  size_t smem_limit = 227 * 1024;
  size_t stack = 96 * 1024;
  size_t tsan_history = 4000;  // finished threads whose accesses TSan still knows
};
extern Config cfg;

struct Stats {
  uint64_t blocks, switches, syncthreads, warp_ops, mma, ldmatrix, ldmatrix_wavefronts, cp_async,
      wgmma;
};
extern Stats stats;

struct Tls {  // what the running fiber sees
  uint3 tid, bid;
  dim3 bdim, gdim;
  unsigned lane, warp, linear;
};
extern Tls* cur;

using Fn = void (*)(void*);
void run(dim3 grid, dim3 block, size_t smem, Fn fn, void* ctx, const char* name);

// Fault injection: the emulator notes every place of a synchronisation, and leaves one out if told
// to. A test that does so for each place in turn shows that none can be missing unnoticed.
struct SyncSite {
  const char* what = "";
  const char* file = "";
  int line = 0;
  bool operator==(const SyncSite& o) const {
    return line == o.line && strcmp(what, o.what) == 0 && strcmp(file, o.file) == 0;
  }
};
extern std::vector<SyncSite>* sync_sites;  // where new places are noted, or null
extern const SyncSite* left_out;           // the one that does nothing, or null
bool leave_out(const char* what, const char* f, int l);

// memory
unsigned char* dyn_smem();
size_t dyn_smem_bytes();
void* static_smem(const void* site, size_t bytes, size_t align);
[[noreturn]] void fail(const std::string& what, const char* f, int l);

// barriers and collectives
void syncthreads(const char* f, int l, int* pred_and = nullptr, int* pred_or = nullptr,
                 int* pred_count = nullptr);
void bar_sync(int id, int nthreads, bool wait, const char* f, int l);
void syncwarp(unsigned mask, const char* f, int l);
enum Shfl { idx, up, down, bfly };
void shfl(void* val, unsigned bytes, unsigned mask, Shfl mode, int arg, int width, const char* f,
          int l);
unsigned ballot(unsigned mask, int pred, const char* f, int l);
enum Red { r_add, r_min, r_max, r_and, r_or, r_xor };
uint32_t reduce(unsigned mask, uint32_t v, Red op, bool is_signed, const char* f, int l);
uint64_t match_any(unsigned mask, uint64_t v, const char* f, int l);
void fence();
void maybe_yield();  // at atomics, under Order::rnd
void atomic_done(void* p);
struct AtomicScope {  // around each atomic operation
  void* p;
  explicit AtomicScope(const void* q) : p(const_cast<void*>(q)) { maybe_yield(); }
  ~AtomicScope() { atomic_done(p); }
};

// tensor core ops (sm_80)
void ldmatrix(uint32_t* r, int num, bool trans, const void* row, const char* f, int l);
void mma_m16n8k16(float* d, const uint32_t* a, const uint32_t* b, const float* c, bool bf16,
                  const char* f, int l);

// asynchronous copies. The data arrive at the wait, not at the issue.
struct CpAsync {
  void* dst;
  unsigned bytes;
  unsigned char data[16];
};
void cp_async_note(void* dst, const void* data16, unsigned bytes, const char* f, int l);
void cp_async_commit();
// hands the copies that complete back to instrumented code (below)
int cp_async_take(int keep_groups, CpAsync* out, int max);
void smem_inflight(void* p, size_t n);  // ASan: any access is an error until ...
void smem_arrived(void* p, size_t n);   // ... this
void check_smem(const void* p, size_t n, size_t align, const char* what, const char* f, int l);

// Pieces of shared memory that a wgmma may read later: 16 bytes, aligned (hopper.cpp).
void piece_in_flight(const void* piece);  // until its cp.async is waited for
void piece_written(const void* piece);    // by this thread
inline void store_piece(void* to, const uint32_t (&words)[4], const char* f, int l) {
  if (reinterpret_cast<uintptr_t>(to) % 16) fail("store_piece: misaligned address", f, l);
  for (int i = 0; i < 4; i++) static_cast<uint32_t*>(to)[i] = words[i];  // instrumented
  piece_written(to);
}

inline void cp_async(void* dst, const void* src, unsigned bytes, unsigned src_bytes, const char* f,
                     int l) {
  check_smem(dst, bytes, bytes, "cp.async", f, l);
  if (reinterpret_cast<uintptr_t>(src) % bytes) fail("cp.async: misaligned source", f, l);
  unsigned char tmp[16] = {};
  for (unsigned i = 0; i < src_bytes; i++)
    tmp[i] = static_cast<const unsigned char*>(src)[i];  // instrumented read
  for (unsigned i = 0; i < bytes; i++)
    static_cast<volatile unsigned char*>(dst)[i] = 0xFF;  // instrumented write
  cp_async_note(dst, tmp, bytes, f, l);
}
inline void cp_async_wait(int keep, const char* f, int l) {
  if (leave_out("cp_async_wait", f, l)) return;
  CpAsync c[32];
  for (int n; (n = cp_async_take(keep, c, 32)) > 0;)
    for (int k = 0; k < n; k++) {
      smem_arrived(c[k].dst, c[k].bytes);
      for (unsigned i = 0; i < c[k].bytes; i++)
        static_cast<unsigned char*>(c[k].dst)[i] = c[k].data[i];
    }
}

// What a launch does with its kernel: runs it at once; a simulated device (tests/device) sets
// `submit` to do it later.
struct Kernel {
  const char* name;
  dim3 grid, block;
  size_t smem;
  std::function<void()> body;  // of one thread; holds the arguments by value, as a launch does
};
inline void run(const Kernel& k) {
  run(
      k.grid, k.block, k.smem, [](void* f) { (*static_cast<const std::function<void()>*>(f))(); },
      const_cast<std::function<void()>*>(&k.body), k.name);
}
extern int (*submit)(const Kernel& k, void* stream);  // null: run now, returns 0

template <class... P, class... A>
int launch(const char* name, void (*k)(P...), dim3 g, dim3 b, size_t smem, void* stream,
           const A&... a) {
  std::tuple<std::decay_t<P>...> args(a...);
  const Kernel kernel{name, g, b, smem, [k, args] { std::apply(k, args); }};
  if (submit != nullptr) return submit(kernel, stream);
  run(kernel);
  return 0;
}
}  // namespace radixattn::simt::emu

// ---- what kernels see ----
#define threadIdx (::radixattn::simt::emu::cur->tid)
#define blockIdx (::radixattn::simt::emu::cur->bid)
#define blockDim (::radixattn::simt::emu::cur->bdim)
#define gridDim (::radixattn::simt::emu::cur->gdim)
static constexpr int warpSize = 32;

#define RADIX_DYN_SMEM(name) unsigned char* name = ::radixattn::simt::emu::dyn_smem()
#define RADIX_SHARED(type, name)                       \
  static const char name##_site = 0;                   \
  auto& name = *static_cast<std::add_pointer_t<type>>( \
      ::radixattn::simt::emu::static_smem(&name##_site, sizeof(type), alignof(type)))
#define RADIX_UNROLL

inline void __syncthreads(RADIX_LOC0) { radixattn::simt::emu::syncthreads(RADIX_HERE); }
inline int __syncthreads_or(int p RADIX_LOC) {
  int r = p;
  radixattn::simt::emu::syncthreads(RADIX_HERE, nullptr, &r);
  return r;
}
inline int __syncthreads_and(int p RADIX_LOC) {
  int r = p;
  radixattn::simt::emu::syncthreads(RADIX_HERE, &r);
  return r;
}
inline int __syncthreads_count(int p RADIX_LOC) {
  int r = p;
  radixattn::simt::emu::syncthreads(RADIX_HERE, nullptr, nullptr, &r);
  return r;
}
inline void __syncwarp(unsigned m = 0xffffffffu RADIX_LOC) {
  radixattn::simt::emu::syncwarp(m, RADIX_HERE);
}
template <class T>
T __shfl_sync(unsigned m, T v, int s, int w = 32 RADIX_LOC) {
  radixattn::simt::emu::shfl(&v, sizeof v, m, radixattn::simt::emu::idx, s, w, RADIX_HERE);
  return v;
}
template <class T>
T __shfl_up_sync(unsigned m, T v, unsigned s, int w = 32 RADIX_LOC) {
  radixattn::simt::emu::shfl(&v, sizeof v, m, radixattn::simt::emu::up, int(s), w, RADIX_HERE);
  return v;
}
template <class T>
T __shfl_down_sync(unsigned m, T v, unsigned s, int w = 32 RADIX_LOC) {
  radixattn::simt::emu::shfl(&v, sizeof v, m, radixattn::simt::emu::down, int(s), w, RADIX_HERE);
  return v;
}
template <class T>
T __shfl_xor_sync(unsigned m, T v, int s, int w = 32 RADIX_LOC) {
  radixattn::simt::emu::shfl(&v, sizeof v, m, radixattn::simt::emu::bfly, s, w, RADIX_HERE);
  return v;
}
inline unsigned __ballot_sync(unsigned m, int p RADIX_LOC) {
  return radixattn::simt::emu::ballot(m, p, RADIX_HERE);
}
inline int __any_sync(unsigned m, int p RADIX_LOC) {
  return radixattn::simt::emu::ballot(m, p, RADIX_HERE) != 0;
}
inline int __all_sync(unsigned m, int p RADIX_LOC) {
  return radixattn::simt::emu::ballot(m, p, RADIX_HERE) == m;
}
inline unsigned __match_any_sync(unsigned m, unsigned v RADIX_LOC) {
  return unsigned(radixattn::simt::emu::match_any(m, v, RADIX_HERE));
}
#define RADIX_SIMT_RED(name, T, op, sg)                                                          \
  inline T name(unsigned m, T v RADIX_LOC) {                                                     \
    return T(                                                                                    \
        radixattn::simt::emu::reduce(m, uint32_t(v), radixattn::simt::emu::op, sg, RADIX_HERE)); \
  }
RADIX_SIMT_RED(__reduce_add_sync, unsigned, r_add, false)
RADIX_SIMT_RED(__reduce_add_sync, int, r_add, true)
RADIX_SIMT_RED(__reduce_min_sync, unsigned, r_min, false)
RADIX_SIMT_RED(__reduce_min_sync, int, r_min, true)
RADIX_SIMT_RED(__reduce_max_sync, unsigned, r_max, false)
RADIX_SIMT_RED(__reduce_max_sync, int, r_max, true)
RADIX_SIMT_RED(__reduce_and_sync, unsigned, r_and, false)
RADIX_SIMT_RED(__reduce_or_sync, unsigned, r_or, false)
RADIX_SIMT_RED(__reduce_xor_sync, unsigned, r_xor, false)
#undef RADIX_SIMT_RED

template <class T>
T atomicAdd(T* p, T v) {
  radixattn::simt::emu::AtomicScope simt_scope(p);
  if constexpr (std::is_integral_v<T>)
    return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
  else {
    T o, n;
    __atomic_load(p, &o, __ATOMIC_RELAXED);
    do n = o + v;
    while (!__atomic_compare_exchange(p, &o, &n, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return o;
  }
}
template <class T>
T atomicMax(T* p, T v) {
  radixattn::simt::emu::AtomicScope simt_scope(p);
  T o = __atomic_load_n(p, __ATOMIC_RELAXED);
  while (o < v &&
         !__atomic_compare_exchange_n(p, &o, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return o;
}
template <class T>
T atomicMin(T* p, T v) {
  radixattn::simt::emu::AtomicScope simt_scope(p);
  T o = __atomic_load_n(p, __ATOMIC_RELAXED);
  while (v < o &&
         !__atomic_compare_exchange_n(p, &o, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return o;
}
template <class T>
T atomicExch(T* p, T v) {
  radixattn::simt::emu::AtomicScope simt_scope(p);
  return __atomic_exchange_n(p, v, __ATOMIC_RELAXED);
}
template <class T>
T atomicCAS(T* p, T c, T v) {
  radixattn::simt::emu::AtomicScope simt_scope(p);
  __atomic_compare_exchange_n(p, &c, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return c;
}
template <class T>
T atomicOr(T* p, T v) {
  radixattn::simt::emu::AtomicScope simt_scope(p);
  return __atomic_fetch_or(p, v, __ATOMIC_RELAXED);
}
inline unsigned atomicInc(unsigned* p, unsigned lim) {
  radixattn::simt::emu::AtomicScope simt_scope(p);
  unsigned o = __atomic_load_n(p, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(p, &o, o >= lim ? 0 : o + 1, false, __ATOMIC_RELAXED,
                                      __ATOMIC_RELAXED)) {
  }
  return o;
}
inline void __threadfence() { radixattn::simt::emu::fence(); }
inline void __threadfence_block() { radixattn::simt::emu::fence(); }

template <class T>
T __ldg(const T* p) {
  return *p;
}
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __log2f(float x) { return std::log2(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float rsqrtf(float a) { return 1.0f / std::sqrt(a); }
inline float __int_as_float(int a) {
  float f;
  memcpy(&f, &a, 4);
  return f;
}
inline int __float_as_int(float a) {
  int f;
  memcpy(&f, &a, 4);
  return f;
}
inline unsigned __float_as_uint(float a) {
  unsigned f;
  memcpy(&f, &a, 4);
  return f;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
template <class T, class U>
constexpr auto max(T a, U b) -> std::common_type_t<T, U> {
  return a < b ? b : a;
}
template <class T, class U>
constexpr auto min(T a, U b) -> std::common_type_t<T, U> {
  return b < a ? b : a;
}
