#include "api/tensors.h"

#include <algorithm>

#include "api/context.h"
#include "base/error.h"

namespace radixattn {
namespace {

using ll = long long;

bool all_strides_zero(const radix_tensor& t) {
  for (int32_t i = 0; i < t.ndim; ++i) {
    if (t.stride[i] != 0) return false;
  }
  return true;
}

// Elements from the first to behind the last; false when that passes 2^60. No dimension is 0.
bool extent_of(const radix_tensor& t, int64_t* extent) {
  int64_t last = 0;
  for (int32_t i = 0; i < t.ndim; ++i) {
    int64_t step = 0;
    if (__builtin_mul_overflow(t.shape[i] - 1, stride_of(t, i), &step) ||
        __builtin_add_overflow(last, step, &last) || last > (int64_t{1} << 60)) {
      return false;
    }
  }
  *extent = last + 1;
  return true;
}

// Bytes of a dense tensor; of one with gaps, in which others may lie, only of its first element.
uint64_t dense_bytes(const radix_tensor& t) {
  uint64_t elements = 1;
  bool dense = true;
  for (int32_t i = t.ndim - 1; i >= 0; --i) {
    dense = dense && (t.shape[i] <= 1 || stride_of(t, i) == static_cast<int64_t>(elements));
    elements *= static_cast<uint64_t>(t.shape[i]);
  }
  return element_bytes(t.dtype) * (dense || elements == 0 ? elements : 1);
}

}  // namespace

bool overlaps_itself(const radix_tensor& t) {
  struct Dim {
    int64_t stride, extent;
  };
  Dim dims[5];
  int32_t n = 0;
  for (int32_t i = 0; i < t.ndim; ++i) {
    if (t.shape[i] == 0) return false;
    if (t.shape[i] > 1) dims[n++] = {stride_of(t, i), t.shape[i]};
  }
  std::sort(dims, dims + n, [](const Dim& a, const Dim& b) { return a.stride < b.stride; });
  int64_t inner = 1;  // elements from the first to behind the last of the dimensions before
  for (int32_t i = 0; i < n; ++i) {
    if (dims[i].stride < inner) return true;
    inner += (dims[i].extent - 1) * dims[i].stride;
  }
  return false;
}

bool share_memory(const radix_tensor& a, const radix_tensor& b) {
  if (a.data == nullptr || b.data == nullptr) return false;  // then the rest may be anything
  const uint64_t size_a = dense_bytes(a), size_b = dense_bytes(b);
  if (size_a == 0 || size_b == 0) return false;
  const auto at_a = reinterpret_cast<uintptr_t>(a.data), at_b = reinterpret_cast<uintptr_t>(b.data);
  return at_a < at_b ? at_b - at_a < size_a : at_a - at_b < size_b;
}

int64_t stride_of(const radix_tensor& t, int32_t i) {
  // One of a kind is never stepped over: what its stride says has no meaning, and no bound.
  if (t.shape[i] > 1 && !all_strides_zero(t)) return t.stride[i];
  uint64_t stride = 1;  // may wrap when there is no element
  for (int32_t k = t.ndim - 1; k > i; --k) stride *= static_cast<uint64_t>(t.shape[k]);
  return static_cast<int64_t>(stride);
}

radix_status check_head_dim(const char* name, int64_t dim) {
  if (dim >= 32 && dim <= 256 && dim % 8 == 0) return RADIX_OK;
  return fail(RADIX_E_INVALID, "%s has head dim %lld: expected 32..256 in steps of 8", name,
              static_cast<ll>(dim));
}

radix_status check_tensor(const radix_tensor& t, const char* name, const Place& place, int32_t ndim,
                          bool need_data) {
  if (t.ndim != ndim)
    return fail(RADIX_E_INVALID, "%s.ndim is %d: expected %d", name, t.ndim, ndim);
  if (t.dtype <= RADIX_DT_DEFAULT || t.dtype > RADIX_U8) {
    return fail(RADIX_E_INVALID, "%s.dtype is %d: expected RADIX_F32, F16 or BF16", name, t.dtype);
  }
  const bool fp8 = place.device == RADIX_DEV_CUDA && ndim == 4;
  if (element_bytes(t.dtype) == 0 || (is_fp8(t.dtype) && !fp8)) {
    return fail(RADIX_E_UNSUPPORTED, "%s.dtype is %d: expected RADIX_F32, F16 or BF16%s", name,
                t.dtype, fp8 ? ", F8_E4M3 or F8_E5M2" : "");
  }
  if (t.device != RADIX_DEV_AUTO &&
      (t.device != place.device || t.device_index != place.device_index)) {
    return fail(RADIX_E_INVALID, "%s is on device %d:%d: the context is on %d:%d", name, t.device,
                t.device_index, place.device, place.device_index);
  }
  int64_t elements = 1;
  for (int32_t i = 0; i < ndim; ++i) {
    if (t.shape[i] < 0 || t.shape[i] > INT32_MAX ||
        __builtin_mul_overflow(elements, t.shape[i], &elements)) {
      return fail(RADIX_E_INVALID, "%s.shape[%d] is %lld: expected 0..2^31-1", name, i,
                  static_cast<ll>(t.shape[i]));
    }
  }
  for (int32_t i = 0; i < ndim; ++i) {
    if (t.stride[i] < 0 && t.shape[i] > 1) {
      return fail(RADIX_E_INVALID, "%s.stride[%d] is %lld: expected 0 or more", name, i,
                  static_cast<ll>(t.stride[i]));
    }
  }
  if (t.shape[ndim - 1] > 1 && stride_of(t, ndim - 1) != 1) {
    return fail(RADIX_E_INVALID, "%s.stride[%d] is %lld: the last dimension must be contiguous",
                name, ndim - 1, static_cast<ll>(t.stride[ndim - 1]));
  }
  int64_t extent = 0;
  if (elements > 0 && !extent_of(t, &extent)) {
    return fail(RADIX_E_INVALID, "%s spans more than 2^60 elements", name);
  }
  if (!need_data || elements == 0) return RADIX_OK;
  if (t.data == nullptr) return fail(RADIX_E_INVALID, "%s.data is NULL", name);
  const uint64_t element = element_bytes(t.dtype), bytes = static_cast<uint64_t>(extent) * element;
  const auto address = reinterpret_cast<uintptr_t>(t.data);
  if (address % element != 0) {
    return fail(RADIX_E_INVALID, "%s.data is %p: expected a multiple of %llu", name, t.data,
                static_cast<unsigned long long>(element));
  }
  if (bytes > UINTPTR_MAX - address) {
    return fail(RADIX_E_INVALID, "%s.data is %p: its %llu bytes pass the end of memory", name,
                t.data, static_cast<unsigned long long>(bytes));
  }
  return RADIX_OK;
}

radix_status read_rows(const radix_tensor& t, const char* name, const Place& place,
                       const RowShape& expected, bool written, bool need_data, RowTensor* out) {
  const radix_status st = check_tensor(t, name, place, 3, need_data);
  if (st != RADIX_OK) return st;
  const int64_t wanted[3] = {expected.rows, expected.heads, expected.dim};
  for (int32_t i = 0; i < 3; ++i) {
    const bool any = i > 0 && wanted[i] == 0;
    if (!any && t.shape[i] != wanted[i]) {
      return fail(RADIX_E_INVALID, "%s.shape[%d] is %lld: expected %lld", name, i,
                  static_cast<ll>(t.shape[i]), static_cast<ll>(wanted[i]));
    }
  }
  if (written && overlaps_itself(t)) {
    return fail(RADIX_E_INVALID, "%s has strides %lld, %lld: its rows overlap", name,
                static_cast<ll>(t.stride[0]), static_cast<ll>(t.stride[1]));
  }
  *out = {t.data, t.dtype, stride_of(t, 0), stride_of(t, 1)};
  return RADIX_OK;
}

radix_status read_paged(const radix_tensor& t, const char* name, const Place& place, int32_t layout,
                        bool need_data, PagedTensor* out, PagedShape* shape) {
  if (layout != RADIX_LAYOUT_NHD && layout != RADIX_LAYOUT_HND) {
    return fail(RADIX_E_INVALID, "kv_layout is %d: expected RADIX_LAYOUT_NHD or RADIX_LAYOUT_HND",
                layout);
  }
  radix_status st = check_tensor(t, name, place, 4, need_data);
  if (st != RADIX_OK) return st;
  const int32_t token = layout == RADIX_LAYOUT_NHD ? 1 : 2;
  const int32_t head = 3 - token;
  *shape = {t.shape[0], t.shape[token], t.shape[head], t.shape[3]};
  if (shape->block_size < 1 || shape->block_size > 256) {
    return fail(RADIX_E_INVALID, "%s.shape[%d] is %lld: expected a block size of 1..256", name,
                token, static_cast<ll>(shape->block_size));
  }
  if (shape->num_kv_heads < 1)
    return fail(RADIX_E_INVALID, "%s.shape[%d] is 0: expected KV heads", name, head);
  st = check_head_dim(name, shape->head_dim);
  if (st != RADIX_OK) return st;
  *out = {t.data, t.dtype, stride_of(t, 0), stride_of(t, token), stride_of(t, head)};
  return RADIX_OK;
}

}  // namespace radixattn
