// radix_tensor_from_dlpack: the DLTensor of dlpack.h, whose layout is the same in its v0 and v1
// ABI.
//
// The struct is declared here as the DLPack specification gives it, so that users need no dlpack.h.
#include <algorithm>
#include <cstdint>

#include "base/error.h"
#include "radixattn.h"

namespace {

struct DlTensor {
  void* data;
  int32_t device_type;
  int32_t device_id;
  int32_t ndim;
  uint8_t type_code;
  uint8_t type_bits;
  uint16_t type_lanes;
  const int64_t* shape;
  const int64_t* strides;  // elements; null = compact
  uint64_t byte_offset;
};
static_assert(sizeof(DlTensor) == 48, "DLTensor of the 64-bit ABI");

struct DlType {
  uint8_t code, bits;
  int32_t dtype;
};
constexpr DlType kTypes[] = {{2, 32, RADIX_F32},     {2, 16, RADIX_F16},     {4, 16, RADIX_BF16},
                             {10, 8, RADIX_F8_E4M3}, {12, 8, RADIX_F8_E5M2}, {0, 8, RADIX_I8},
                             {0, 32, RADIX_I32},     {0, 64, RADIX_I64},     {1, 8, RADIX_U8}};

struct DlDevice {
  int32_t type, device;
};
// 3 is page-locked host memory: the CPU reads it as its own.
constexpr DlDevice kDevices[] = {
    {1, RADIX_DEV_CPU}, {2, RADIX_DEV_CUDA}, {3, RADIX_DEV_CPU}, {10, RADIX_DEV_HIP}};

int32_t dtype_of(const DlTensor& t) {
  for (const DlType& type : kTypes) {
    if (type.code == t.type_code && type.bits == t.type_bits && t.type_lanes == 1)
      return type.dtype;
  }
  return RADIX_DT_DEFAULT;
}

int32_t device_of(const DlTensor& t) {
  for (const DlDevice& d : kDevices) {
    if (d.type == t.device_type) return d.device;
  }
  return RADIX_DEV_AUTO;
}

// Strides as they are. All of them 0 would read as compact: such a view (one element, repeated) is
// refused.
radix_status copy_strides(const DlTensor& t, radix_tensor* out) {
  bool any = false, repeats = false;
  for (int32_t i = 0; i < t.ndim; ++i) {
    out->stride[i] = t.strides[i];
    any = any || t.strides[i] != 0;
    repeats = repeats || t.shape[i] > 1;
  }
  if (!any && repeats) {
    return radixattn::fail(RADIX_E_INVALID,
                           "dl_tensor->strides are all 0: expected a tensor that is not broadcast");
  }
  const int32_t last = t.ndim - 1;
  if (t.shape[last] > 1 && t.strides[last] != 1) {
    return radixattn::fail(RADIX_E_INVALID,
                           "dl_tensor->strides[%d] is %lld: the last dimension must be contiguous",
                           last, static_cast<long long>(t.strides[last]));
  }
  return RADIX_OK;
}

}  // namespace

extern "C" radix_status radix_tensor_from_dlpack(const void* dl_tensor,
                                                 radix_tensor* out) RADIX_NOEXCEPT {
  using radixattn::fail;
  if (dl_tensor == nullptr) return fail(RADIX_E_INVALID, "dl_tensor is NULL");
  if (out == nullptr) return fail(RADIX_E_INVALID, "out is NULL");
  if (reinterpret_cast<uintptr_t>(dl_tensor) % alignof(DlTensor) != 0) {
    return fail(RADIX_E_INVALID, "dl_tensor is %p: expected a multiple of %zu", dl_tensor,
                alignof(DlTensor));
  }
  const DlTensor& t = *static_cast<const DlTensor*>(dl_tensor);
  if (t.ndim < 0 || t.ndim > 5)
    return fail(RADIX_E_INVALID, "dl_tensor->ndim is %d: expected 0..5", t.ndim);
  if (t.ndim > 0 && t.shape == nullptr) return fail(RADIX_E_INVALID, "dl_tensor->shape is NULL");
  const int32_t dtype = dtype_of(t), device = device_of(t);
  if (dtype == RADIX_DT_DEFAULT) {
    return fail(RADIX_E_UNSUPPORTED,
                "dl_tensor->dtype is (code %u, bits %u, lanes %u): no counterpart here",
                t.type_code, t.type_bits, t.type_lanes);
  }
  if (device == RADIX_DEV_AUTO) {
    return fail(RADIX_E_UNSUPPORTED, "dl_tensor->device is type %d: expected the CPU, CUDA or ROCm",
                t.device_type);
  }
  // No object has more bytes than PTRDIFF_MAX; pointer arithmetic is defined up to there.
  const uint64_t most =
      std::min<uint64_t>(PTRDIFF_MAX, UINTPTR_MAX - reinterpret_cast<uintptr_t>(t.data));
  if (t.data != nullptr && t.byte_offset > most) {
    return fail(RADIX_E_INVALID,
                "dl_tensor->byte_offset is %llu: expected at most %llu, the end of memory from "
                "data, %p",
                static_cast<unsigned long long>(t.byte_offset),
                static_cast<unsigned long long>(most), t.data);
  }
  radix_tensor view = {};
  view.data = t.data != nullptr ? static_cast<char*>(t.data) + t.byte_offset : nullptr;
  view.dtype = dtype;
  view.device = device;
  view.device_index = device == RADIX_DEV_CPU ? 0 : t.device_id;
  view.ndim = t.ndim;
  for (int32_t i = 0; i < t.ndim; ++i) view.shape[i] = t.shape[i];
  if (t.strides != nullptr && t.ndim > 0) {
    const radix_status st = copy_strides(t, &view);
    if (st != RADIX_OK) return st;
  }
  *out = view;
  return RADIX_OK;
}
