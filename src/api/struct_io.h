// The size rule of the header: structs of callers that were compiled with an older or a newer one.
//
// In: bytes beyond the caller's struct_size read as 0; bytes beyond what this library knows must be
// 0. Out: at most struct_size bytes are written, and struct_size itself stays.
// Every public struct begins with uint32_t struct_size. Nothing here allocates.
#pragma once

#include <cstddef>
#include <cstdint>

#include "radixattn.h"

namespace radixattn {

// Copies the caller's struct into `to`, which has `known` bytes. VERSION: a size below 4 or above
// 4096, or bytes set beyond `known`; INVALID: null. `name` is the argument's name, `type` the
// struct's.
radix_status read_struct_bytes(const void* from, const char* name, const char* type, void* to,
                               uint32_t known);
// Copies `known` bytes of `from` back, as far as the caller's struct_size goes.
void write_struct_bytes(const void* from, void* to, uint32_t known);
// Of a struct that is only written: its struct_size makes sense.
radix_status check_out_bytes(const void* to, const char* name, const char* type);

#define RADIX_STRUCT_NAME(T)               \
  template <>                              \
  constexpr const char* struct_name<T>() { \
    return #T;                             \
  }

template <class T>
constexpr const char* struct_name();
RADIX_STRUCT_NAME(radix_allocator)
RADIX_STRUCT_NAME(radix_executor)
RADIX_STRUCT_NAME(radix_config)
RADIX_STRUCT_NAME(radix_request_desc)
RADIX_STRUCT_NAME(radix_match)
RADIX_STRUCT_NAME(radix_request_info)
RADIX_STRUCT_NAME(radix_append_out)
RADIX_STRUCT_NAME(radix_commit_out)
RADIX_STRUCT_NAME(radix_stats)
RADIX_STRUCT_NAME(radix_ns_info)
RADIX_STRUCT_NAME(radix_attn)
RADIX_STRUCT_NAME(radix_rope_append)
RADIX_STRUCT_NAME(radix_plan_config)
RADIX_STRUCT_NAME(radix_plan_desc)
RADIX_STRUCT_NAME(radix_plan_info)
RADIX_STRUCT_NAME(radix_tree_view)
RADIX_STRUCT_NAME(radix_match_batch)
RADIX_STRUCT_NAME(radix_sample)
RADIX_STRUCT_NAME(radix_verify)
RADIX_STRUCT_NAME(radix_layer)
#undef RADIX_STRUCT_NAME

template <class T>
radix_status read_struct(const T* from, const char* name, T* to) {
  return read_struct_bytes(from, name, struct_name<T>(), to, sizeof(T));
}
template <class T>
void write_struct(const T& from, T* to) {
  write_struct_bytes(&from, to, sizeof(T));
}
template <class T>
radix_status check_out(const T* to, const char* name) {
  return check_out_bytes(to, name, struct_name<T>());
}

}  // namespace radixattn
