// mbarriers, the async proxy and wgmma: what hopper.h promises.
#include "hopper.h"

#include "emu_internal.h"

namespace radixattn::simt::emu {

namespace {

constexpr unsigned kGroupThreads = 128;  // of a warpgroup
constexpr size_t kPiece = 16;            // bytes; what is written and looked at as one

// ---- mbarriers ----
struct Mbarrier {
  uint64_t* key;
  unsigned count, pending, phase;
};
std::vector<Mbarrier> mbarriers;

Mbarrier& find_mbarrier(uint64_t* barrier, const char* f, int l) {
  for (Mbarrier& m : mbarriers)
    if (m.key == barrier) return m;
  fail("mbarrier used before it was initialised", f, l);
}
// Where a phase tells TSan what it orders.
void* phase_var(uint64_t* barrier, unsigned phase) {
  return reinterpret_cast<char*>(barrier) + 4 * (phase & 1);
}
void touch(uint64_t* barrier) {  // ordered after the initialisation, or a race
#ifdef RADIX_SIMT_TSAN
  __tsan_read_range(barrier, 8);
#endif
  (void)barrier;
}

// ---- the async proxy ----
// What it knows of each piece of dynamic shared memory. Only what the wrappers write is known; a
// piece becomes visible by a fence of the thread that wrote it.
enum class Piece : uint8_t { never_written, in_flight, unfenced, visible };
struct PieceState {
  Piece state = Piece::never_written;
  uint16_t writer = 0;
};
std::vector<PieceState> pieces;

PieceState* piece_of(const void* p) {
  const auto at = static_cast<const unsigned char*>(p) - current.smem;
  if (at < 0 || size_t(at) >= current.smem_bytes) return nullptr;  // static: no operand lies there
  return &pieces[size_t(at) / kPiece];
}

// ---- wgmma ----
struct Product : Wgmma {
  uint32_t a_issued[4];
  int group;
  const char* f;
  int l;
};
struct Accumulator {
  float* d;
  std::vector<float> v;
  int pending;
};
struct GroupThread {
  std::deque<Product> ops;
  std::vector<Accumulator> acc;
  int group = 0;
  uint64_t issued = 0;
  bool fenced = false;
};
std::vector<GroupThread> threads;
struct Warpgroup {
  unsigned arrived = 0, gen = 0;
  int keep = 0, registers = 0;
  uint64_t issued = 0;  // operations that some thread has issued
};
Warpgroup groups[8];

// A signalling NaN: whoever computes with it makes it a quiet one, and is found.
constexpr uint32_t kPending = 0x7fa5a5a5u;

void mark_pending(float* d, int n) {
  for (int i = 0; i < n; i++) memcpy(d + i, &kPending, 4);
}
bool is_pending(const float* d, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (memcmp(d + i, &kPending, 4) != 0) return false;
  return true;
}

// Fields of a shared-memory descriptor with the 128-byte swizzle.
//   K-major:  rows of 64 numbers; 8 rows are 1,024 bytes; `stride` bytes from 8 rows to the next
//   MN-major: rows (of k) of 64 numbers; `stride` from 8 k to the next 8, `leading` from 64 columns
//             to the next 64
struct Layout {
  size_t start, leading, stride;
  bool mn_major;
  size_t at(int mn, int k) const {  // byte in dynamic shared memory
    const size_t a = mn_major
                         ? start + size_t(mn / 64) * leading + size_t(mn % 64) * 2 +
                               size_t(k % 8) * 128 + size_t(k / 8) * stride
                         : start + size_t(mn / 8) * stride + size_t(mn % 8) * 128 + size_t(k) * 2;
    return a ^ (a >> 7 & 7) << 4;
  }
};
Layout layout_of(uint64_t desc, bool mn_major, const char* f, int l) {
  const auto field = [&](int from) { return size_t(desc >> from & 0x3fff) << 4; };
  if (desc >> 62 != 1) fail("wgmma descriptor: only the 128-byte swizzle is emulated", f, l);
  const Layout layout = {field(0), field(16), field(32), mn_major};
  if (layout.stride % 1024 != 0 || (mn_major && layout.leading % 1024 != 0))
    fail("wgmma descriptor: offsets are no multiples of the swizzle's 1,024 bytes", f, l);
  return layout;
}

// Calls visit(byte) for each piece of an operand of `mn` x 16 numbers.
template <class Visit>
void for_each_piece(const Layout& layout, int mn, Visit visit) {
  if (layout.mn_major) {
    for (int k = 0; k < 16; k++)
      for (int i = 0; i < mn; i += 8) visit(layout.at(i, k));
  } else {
    for (int i = 0; i < mn; i++)
      for (int k = 0; k < 16; k += 8) visit(layout.at(i, k));
  }
}
void check_operand(const Layout& layout, int mn, const char* f, int l) {
  for_each_piece(layout, mn, [&](size_t at) {
    if (at + kPiece > current.smem_bytes) fail("wgmma: operand outside of shared memory", f, l);
    switch (pieces[at / kPiece].state) {
      case Piece::never_written:
        fail("wgmma reads shared memory that nobody wrote as an operand", f, l);
      case Piece::in_flight:
        fail("wgmma reads shared memory that a cp.async is still writing", f, l);
      case Piece::unfenced:
        fail("wgmma reads shared memory whose writer made no fence.proxy.async", f, l);
      case Piece::visible:
        break;
    }
  });
}
void check_operands(const Product& op) {
  check_operand(layout_of(op.b_desc, op.b_mn_major, op.f, op.l), op.n, op.f, op.l);
  if (op.a == nullptr) check_operand(layout_of(op.a_desc, false, op.f, op.l), 64, op.f, op.l);
}

float number(uint16_t bits, bool bf16) {
  if (!bf16) return __half2float(__ushort_as_half(bits));
  const uint32_t u = uint32_t(bits) << 16;
  float x;
  memcpy(&x, &u, 4);
  return x;
}
// The operand in `to`, as [mn][16].
void read_operand(const Layout& layout, int mn, bool bf16, std::vector<float>* to) {
#ifdef RADIX_SIMT_TSAN
  for_each_piece(layout, mn, [&](size_t at) { __tsan_read_range(current.smem + at, kPiece); });
#endif
  to->resize(size_t(mn) * 16);
  for (int i = 0; i < mn; i++)
    for (int k = 0; k < 16; k++) {
      uint16_t bits;
      memcpy(&bits, current.smem + layout.at(i, k), 2);
      (*to)[size_t(i) * 16 + size_t(k)] = number(bits, bf16);
    }
}

Accumulator& accumulator(GroupThread& t, float* d) {
  for (Accumulator& a : t.acc)
    if (a.d == d) return a;
  t.acc.push_back({d, {}, 0});
  return t.acc.back();
}

// Thread i's element j of a 64 x n accumulator: warp w has rows 16 w ..., fragments as in mma.sync.
size_t place(unsigned i, int j, int n) {
  const unsigned row = 16 * (i / 32) + i % 32 / 4 + (unsigned(j) >> 1 & 1) * 8;
  return size_t(row) * size_t(n) + size_t(j / 4) * 8 + i % 4 * 2 + (unsigned(j) & 1);
}

void read_a_registers(GroupThread* group, size_t o, std::vector<float>* to) {
  to->resize(64 * 16);
  for (unsigned i = 0; i < kGroupThreads; i++) {
    const Product& op = group[i].ops[o];
    for (unsigned r = 0; r < 4; r++) {
      const size_t row = 16 * (i / 32) + i % 32 / 4 + (r & 1) * 8, col = i % 4 * 2 + (r >> 1) * 8;
      (*to)[row * 16 + col] = number(uint16_t(op.a_issued[r]), op.bf16);
      (*to)[row * 16 + col + 1] = number(uint16_t(op.a_issued[r] >> 16), op.bf16);
    }
  }
}

void execute_op(GroupThread* group, size_t o) {
  const Product& op = group[0].ops[o];
  const auto n = size_t(op.n);
  std::vector<float> a, b, c(64 * n, 0.f);
  for (unsigned i = 0; i < kGroupThreads; i++) {
    const Product& q = group[i].ops[o];
    if (q.n != op.n || q.a_desc != op.a_desc || q.b_desc != op.b_desc || q.l != op.l ||
        q.keep_d != op.keep_d || q.group != op.group)
      fail("wgmma: the threads of the warpgroup name different operands", op.f, op.l);
    if (!op.keep_d) continue;
    const Accumulator& acc = accumulator(group[i], q.d);
    for (int j = 0; j < op.n / 2; j++) c[place(i, j, op.n)] = acc.v[size_t(j)];
  }
  check_operands(op);
  if (op.a != nullptr) {
    read_a_registers(group, o, &a);
  } else {
    read_operand(layout_of(op.a_desc, false, op.f, op.l), 64, op.bf16, &a);
  }
  std::vector<float> columns;
  read_operand(layout_of(op.b_desc, op.b_mn_major, op.f, op.l), op.n, op.bf16, &columns);
  b.resize(16 * n);
  for (size_t x = 0; x < n; x++)
    for (size_t k = 0; k < 16; k++) b[k * n + x] = columns[x * 16 + k];
  for (size_t m = 0; m < 64; m++)
    for (size_t k = 0; k < 16; k++)
      for (size_t x = 0; x < n; x++) c[m * n + x] += a[m * 16 + k] * b[k * n + x];
  for (unsigned i = 0; i < kGroupThreads; i++) {
    Accumulator& acc = accumulator(group[i], group[i].ops[o].d);
    for (int j = 0; j < op.n / 2; j++) acc.v[size_t(j)] = c[place(i, j, op.n)];
    acc.pending--;
  }
}

// All threads of warpgroup g wait: what they wait for is computed.
void execute(unsigned g, int keep) {
  GroupThread* group = &threads[g * kGroupThreads];
  for (unsigned i = 1; i < kGroupThreads; i++)
    if (group[i].group != group[0].group || group[i].ops.size() != group[0].ops.size())
      fail("wgmma: the threads of the warpgroup issued different operations", me->f, me->l);
  size_t n = 0;
  while (n < group[0].ops.size() && group[0].ops[n].group < group[0].group - keep) n++;
  for (size_t o = 0; o < n; o++) execute_op(group, o);
  for (unsigned i = 0; i < kGroupThreads; i++) {
    GroupThread& t = group[i];
    t.ops.erase(t.ops.begin(), t.ops.begin() + long(n));
    std::erase_if(t.acc, [](const Accumulator& a) {
      if (a.pending != 0) return false;
      memcpy(a.d, a.v.data(), a.v.size() * sizeof(float));
      return true;
    });
  }
}

// What this thread must not have touched since it issued its operations.
void check_registers(const GroupThread& t, const char* f, int l) {
  for (const Accumulator& a : t.acc)
    if (!is_pending(a.d, a.v.size()))
      fail("an accumulator was written before wgmma.wait_group", f, l);
  for (const Product& op : t.ops)
    if (op.a != nullptr && memcmp(op.a, op.a_issued, 16) != 0)
      fail("wgmma: A's registers changed before wgmma.wait_group", op.f, op.l);
}

}  // namespace

// ---- what the scheduler asks ----

void reset_hopper() {
  mbarriers.clear();
  pieces.assign((current.smem_bytes + kPiece - 1) / kPiece, {});
  threads.assign((current.nthreads + kGroupThreads - 1) / kGroupThreads * kGroupThreads, {});
  for (Warpgroup& g : groups) g = {};
}
void check_hopper_at_return() {
  if (!threads[me->tls.linear].ops.empty())
    fail("thread returned with wgmma that were never waited for", "", 0);
}

// ---- mbarriers ----

void mbarrier_init(uint64_t* barrier, unsigned count, const char* f, int l) {
  check_smem(barrier, 8, 8, "mbarrier.init", f, l);
  if (count == 0) fail("mbarrier.init: no arrivals expected", f, l);
  *static_cast<volatile uint64_t*>(barrier) = 0;
#ifdef RADIX_SIMT_TSAN
  __tsan_write_range(barrier, 8);
#endif
  const Quiet quiet;
  for (const Mbarrier& m : mbarriers)
    if (m.key == barrier) fail("mbarrier initialised twice", f, l);
  mbarriers.push_back({barrier, count, count, 0});
}

void mbarrier_arrive(uint64_t* barrier, const char* f, int l) {
  if (leave_out("mbarrier_arrive", f, l)) return;
  touch(barrier);
  Mbarrier& m = find_mbarrier(barrier, f, l);
  REL(phase_var(barrier, m.phase));
  if (--m.pending != 0) return;
  m.phase++;
  m.pending = m.count;
  for (auto& t : current.fib)
    if (t->st == St::mbarrier && t->wait_on == barrier) set_ready(*t);
}

// Returns when the phase of this parity is over: at once while the barrier is in the other one.
void mbarrier_wait(uint64_t* barrier, unsigned parity, const char* f, int l) {
  if (leave_out("mbarrier_wait", f, l)) return;
  touch(barrier);
  Fiber& t = *me;
  t.f = f, t.l = l;
  while ((find_mbarrier(barrier, f, l).phase & 1) == (parity & 1)) {
    t.wait_on = barrier;
    block_me(St::mbarrier);
  }
  t.wait_on = nullptr;
  ACQ(phase_var(barrier, parity));
}

// ---- the async proxy ----

void piece_in_flight(const void* p) {
  if (PieceState* piece = piece_of(p)) piece->state = Piece::in_flight;
}
void piece_written(const void* p) {
  PieceState* piece = piece_of(p);
  if (piece == nullptr) return;
  const Quiet quiet;
  const auto writer = uint16_t(me->tls.linear);
  if (piece->state != Piece::unfenced || piece->writer != writer)
    me->unfenced.push_back(uint32_t(piece - pieces.data()));
  *piece = {Piece::unfenced, writer};
}
void fence_proxy_async(const char* f, int l) {
  if (leave_out("fence_proxy_async", f, l)) return;
  for (const uint32_t at : me->unfenced)
    if (pieces[at].state == Piece::unfenced && pieces[at].writer == me->tls.linear)
      pieces[at].state = Piece::visible;
  me->unfenced.clear();
}

// ---- wgmma ----

// Addresses count from the start of dynamic shared memory, which a device aligns to 1,024 bytes.
uint64_t operand_desc(const void* p, unsigned leading, unsigned stride, const char* f, int l) {
  const auto start = size_t(static_cast<const unsigned char*>(p) - current.smem);
  if (start >= current.smem_bytes || start % 16 != 0)
    fail("wgmma descriptor: operand outside of shared memory, or not at a multiple of 16", f, l);
  if (leading % 16 != 0 || stride % 16 != 0 || leading >= 1 << 18 || stride >= 1 << 18)
    fail("wgmma descriptor: offset that it cannot hold", f, l);
  return start >> 4 | uint64_t(leading >> 4) << 16 | uint64_t(stride >> 4) << 32 |
         uint64_t(1) << 62;
}

void wgmma(const Wgmma& in, const char* f, int l) {
  const Quiet quiet;
  GroupThread& t = threads[me->tls.linear];
  Warpgroup& g = groups[me->tls.linear / kGroupThreads];
  if (!t.fenced) fail("wgmma without wgmma.fence since the registers were last free", f, l);
  stats.wgmma++;
  Product op{in, {}, t.group, f, l};
  if (in.a != nullptr) memcpy(op.a_issued, in.a, sizeof op.a_issued);
  if (t.issued++ == g.issued) {  // it may begin now
    g.issued++;
    check_operands(op);
  }
  Accumulator& acc = accumulator(t, in.d);
  const auto n = size_t(in.n / 2);
  if (acc.pending++ == 0) {
    acc.v.assign(n, 0.f);
    if (in.keep_d) memcpy(acc.v.data(), in.d, n * sizeof(float));
    mark_pending(in.d, in.n / 2);
  } else if (acc.v.size() != n) {
    fail("wgmma: one accumulator in two shapes", f, l);
  }
  t.ops.push_back(op);
}
void wgmma_fence(const char* f, int l) {
  if (leave_out("wgmma_fence", f, l)) return;
  threads[me->tls.linear].fenced = true;
}
void wgmma_commit(const char* f, int l) {
  if (leave_out("wgmma_commit", f, l)) return;
  threads[me->tls.linear].group++;
}

void wgmma_wait(int keep, const char* f, int l) {
  if (leave_out("wgmma_wait", f, l)) return;
  const unsigned index = me->tls.linear / kGroupThreads;
  Warpgroup& g = groups[index];
  Fiber& t = *me;
  t.f = f, t.l = l;
  threads[t.tls.linear].fenced = false;
  check_registers(threads[t.tls.linear], f, l);
  if (g.arrived == 0) g.keep = keep;
  if (g.keep != keep) fail("wgmma.wait_group: different counts within the warpgroup", f, l);
  const unsigned gen = g.gen & 1;
  if (++g.arrived == kGroupThreads) {
    const Quiet quiet;
    g.arrived = 0, g.gen++;
    execute(index, keep);
    REL(sync_var(48 + index, gen));
    for (unsigned i = index * kGroupThreads; i < (index + 1) * kGroupThreads; i++)
      if (current.fib[i]->st == St::wgmma) set_ready(*current.fib[i]);
  } else {
    block_me(St::wgmma);
    ACQ(sync_var(48 + index, gen));
  }
}

// Every thread of a warpgroup asks. All warpgroups together can have what the block began with: at
// most the SM's 64 K registers in equal, even parts.
void set_max_registers(int n, const char* f, int l) {
  if (n % 8 != 0 || n < 24 || n > 256)
    fail("setmaxnreg: not a multiple of 8 from 24 to 256: " + std::to_string(n), f, l);
  groups[me->tls.linear / kGroupThreads].registers = n;
  int all = 0;
  for (const Warpgroup& g : groups) all += g.registers;
  const int begin = std::min(65536 / int(current.nthreads) / 8 * 8, 248);
  if (all > begin * int(current.nthreads / kGroupThreads))
    fail("setmaxnreg: the warpgroups ask for " + std::to_string(all) + " registers a thread", f, l);
}

}  // namespace radixattn::simt::emu
