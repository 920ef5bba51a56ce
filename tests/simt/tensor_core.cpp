// ldmatrix and mma.sync, lane by lane as the PTX ISA numbers their fragments.
#include "emu_internal.h"

namespace radixattn::simt::emu {

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
void mma_m16n8k16(float* d, const uint32_t* a, const uint32_t* b, const float* c, bool bf,
                  const char* f, int l) {
  struct A {
    uint32_t a[4], b[2];
    float c[4];
    bool bf;
  } x;
  for (int i = 0; i < 4; i++) x.a[i] = a[i], x.c[i] = c[i];
  x.b[0] = b[0], x.b[1] = b[1], x.bf = bf;
  stats.mma++;
  collective(Op::mma, 0xffffffffu, &x, f, l, [&](auto& lane) {
    float Am[16][16], Bm[16][8], C[16][8];
    for (unsigned i = 0; i < 32; i++) {
      const A& y = *static_cast<A*>(lane(i).arg);
      unsigned g = i / 4, t = i % 4 * 2;
      for (unsigned r = 0; r < 4; r++) {
        unsigned row = g + (r & 1) * 8, col = t + (r >> 1) * 8;
        Am[row][col] = lo16(y.a[r], bf), Am[row][col + 1] = hi16(y.a[r], bf);
      }
      for (unsigned r = 0; r < 2; r++)
        Bm[t + r * 8][g] = lo16(y.b[r], bf), Bm[t + r * 8 + 1][g] = hi16(y.b[r], bf);
      C[g][t] = y.c[0], C[g][t + 1] = y.c[1], C[g + 8][t] = y.c[2], C[g + 8][t + 1] = y.c[3];
    }
    for (int m = 0; m < 16; m++)
      for (int k = 0; k < 16; k++)
        for (int n = 0; n < 8; n++) C[m][n] += Am[m][k] * Bm[k][n];
    for (unsigned i = 0; i < 32; i++) {
      A& y = *static_cast<A*>(lane(i).arg);
      unsigned g = i / 4, t = i % 4 * 2;
      y.c[0] = C[g][t], y.c[1] = C[g][t + 1], y.c[2] = C[g + 8][t], y.c[3] = C[g + 8][t + 1];
    }
  });
  for (int i = 0; i < 4; i++) d[i] = x.c[i];
}
// ldmatrix: lanes 8i..8i+7 give the row addresses of matrix i; lane t receives elements (t/4,
// 2(t%4)..), or the transposed ones.
void ldmatrix(uint32_t* r, int num, bool trans, const void* row, const char* f, int l) {
  struct A {
    uint16_t row[8];
    uint32_t r[4];
    int num;
    bool trans;
    const unsigned char* p;
  } x{};
  stats.ldmatrix++;
  x.num = num, x.trans = trans, x.p = static_cast<const unsigned char*>(row);
  if (int(me->tls.lane) < num * 8) {
    check_smem(row, 16, 16, "ldmatrix", f, l);
#ifdef RADIX_SIMT_TSAN
    __tsan_read_range(const_cast<void*>(row), 16);
#endif
    for (int i = 0; i < 8; i++) x.row[i] = static_cast<const uint16_t*>(row)[i];
  }
  collective(Op::ldmatrix, 0xffffffffu, &x, f, l, [&](auto& lane) {
    for (int m = 0; m < num; m++) {
      unsigned bank[8] = {},
               worst =
                   1;  // bank conflicts: 8 rows of 16 bytes should hit 8 different 16-byte columns
      const A* rows[8];
      for (unsigned i = 0; i < 8; i++) {
        rows[i] = static_cast<A*>(lane(unsigned(m) * 8 + i).arg);
        bool dup = false;
        for (unsigned j = 0; j < i; j++) dup |= rows[j]->p == rows[i]->p;
        if (!dup) worst = std::max(worst, ++bank[reinterpret_cast<uintptr_t>(rows[i]->p) / 16 % 8]);
      }
      stats.ldmatrix_wavefronts += worst;
      for (unsigned i = 0; i < 32; i++) {
        unsigned g = i / 4, t = i % 4 * 2;
        uint32_t v = trans ? rows[t]->row[g] | uint32_t(rows[t + 1]->row[g]) << 16
                           : rows[g]->row[t] | uint32_t(rows[g]->row[t + 1]) << 16;
        static_cast<A*>(lane(i).arg)->r[m] = v;
      }
    }
  });
  for (int i = 0; i < num; i++) r[i] = x.r[i];
}

}  // namespace radixattn::simt::emu
