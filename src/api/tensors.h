// From the public tensor view to the backend's: every check that needs no look at array contents.
//
// A message names the tensor ("q"), what is wrong and what was expected.
#pragma once

#include "backend/backend.h"
#include "radixattn.h"

namespace radixattn {

// Where the context computes: tensors must lie there.
struct Place {
  int32_t device;  // RADIX_DEV_CPU or RADIX_DEV_CUDA
  int32_t device_index;
};

// What is expected of a [rows, heads, dim] tensor; heads or dim 0 = any.
struct RowShape {
  int64_t rows;
  int64_t heads;
  int64_t dim;
};

// `need_data`: data must be there and aligned; false for workspace queries.
radix_status read_rows(const radix_tensor& t, const char* name, const Place& place,
                       const RowShape& expected, bool written, bool need_data, RowTensor* out);

// Paged K or V of one layer, as a caller's own tensor says it.
struct PagedShape {
  int64_t num_blocks, block_size, num_kv_heads, head_dim;
};
radix_status read_paged(const radix_tensor& t, const char* name, const Place& place, int32_t layout,
                        bool need_data, PagedTensor* out, PagedShape* shape);

radix_status check_head_dim(const char* name, int64_t dim);
// dtype that the place computes with (fp8: K/V on CUDA, which have four dimensions), device, rank,
// sizes, last dimension contiguous, no negative strides.
radix_status check_tensor(const radix_tensor& t, const char* name, const Place& place, int32_t ndim,
                          bool need_data);
// Two elements of a tensor share memory. True also of layouts whose dimensions do not lie one
// inside the other; shapes were checked.
bool overlaps_itself(const radix_tensor& t);
// Both tensors hold the same memory, as far as that shows without a look at every row: dense
// tensors by their spans, others by where they begin. Shapes of those with data were checked.
bool share_memory(const radix_tensor& a, const radix_tensor& b);
// Element stride of dimension i, with the compact ones filled in, also where there is but one.
int64_t stride_of(const radix_tensor& t, int32_t i);

}  // namespace radixattn
