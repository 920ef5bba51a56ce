// Fibers: the stack switch, for x86-64 and aarch64.
#include "emu_internal.h"

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
void* radixattn::simt::emu::make_context(char* top, void (*entry)()) {
  auto* sp = reinterpret_cast<uint64_t*>(top);
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
void* radixattn::simt::emu::make_context(char* top, void (*entry)()) {
  auto* sp = reinterpret_cast<uint64_t*>(top) - 20;
  for (int i = 0; i < 20; i++) sp[i] = 0;
  sp[11] = reinterpret_cast<uint64_t>(entry);
  return sp;
}
#else
#error "port radix_simt_switch"
#endif
