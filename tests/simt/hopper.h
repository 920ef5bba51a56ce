// What sm_90a adds, emulated: mbarriers, the async proxy's view of shared memory, and wgmma.
//
// Everything asynchronous happens as late as it may: a wgmma reads its operands when it is waited
// for, and its accumulators hold signalling NaN until then. Found besides wrong results: operands
// that are in flight, were written without the wrappers, or without fence.proxy.async by their
// writer; registers of a wgmma that change before its wait; threads of a warpgroup that do not
// agree; barriers that are used before they exist or see too many arrivals.
#pragma once

#include "emu.h"

namespace radixattn::simt::emu {

void mbarrier_init(uint64_t* barrier, unsigned count, const char* f, int l);
void mbarrier_arrive(uint64_t* barrier, const char* f, int l);
void mbarrier_wait(uint64_t* barrier, unsigned parity, const char* f, int l);

void fence_proxy_async(const char* f, int l);

struct Wgmma {
  float* d;           // [n / 2] of this thread
  int n;              // columns
  const uint32_t* a;  // [4] registers, or null: a_desc
  uint64_t a_desc, b_desc;
  bool bf16, b_mn_major, keep_d;
};
uint64_t operand_desc(const void* p, unsigned leading, unsigned stride, const char* f, int l);
void wgmma(const Wgmma& op, const char* f, int l);
void wgmma_fence(const char* f, int l);
void wgmma_commit(const char* f, int l);
void wgmma_wait(int keep_groups, const char* f, int l);
void set_max_registers(int n, const char* f, int l);

}  // namespace radixattn::simt::emu
