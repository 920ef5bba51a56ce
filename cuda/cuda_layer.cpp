// The CUDA side of the attention layer: norms are a kernel of ours, products are cuBLASLt's.
//
// Row-major y = x W^T is column-major y^T = W x^T, which is how cuBLASLt counts: A is the weight,
// stored [in, out] and transposed, B is x, stored [in, rows], D is y, stored [out, rows]. Columns
// are our rows, their distance our row strides; a bias of D's rows is the bias of `out`.
//
// A product's descriptors live on the stack, and what computes it is cuBLASLt's choice for its
// shape, alignment and workspace, asked for at each launch: host work, of which cuBLASLt keeps its
// answers (what it costs is not measured). For other numbers of rows it may choose another way to
// add up, so a row's bits may depend on how many rows there are; radix_layer.gemm is the way out.
#include <cstdio>

#include "base/error.h"
#include "cuda/cublas_lt.h"
#include "cuda/cuda_backend.h"

namespace radixattn::cuda {
namespace {

constexpr uint32_t kMaxNormDim = 1u << 24;
constexpr uint64_t kWorkspaceAlignment = 256;  // cuBLASLt's wish; ours come aligned to 64

// What NVIDIA recommends for cuBLAS's own workspace: 32 MiB on Hopper and on Blackwell's large
// chips.
uint64_t product_workspace(const DeviceLimits& limits) {
  return uint64_t{limits.arch >= 90 && limits.arch < 120 ? 32u : 8u} << 20;
}

bool is_float(int32_t dtype) {
  return dtype == RADIX_F32 || dtype == RADIX_F16 || dtype == RADIX_BF16;
}

}  // namespace

// ---- norms --------------------------------------------------------------------------------------

radix_status CudaBackend::rms_norm(const NormParams& p, radix_stream stream) {
  if (p.num_rows == 0 || p.num_heads == 0) return RADIX_OK;
  if (!is_float(p.x.dtype) || !is_float(p.y.dtype) || !is_float(p.weight_dtype)) {
    return fail(RADIX_E_UNSUPPORTED,
                "x, y and the norm's weight have dtypes %d, %d and %d: expected f32, f16 or bf16",
                p.x.dtype, p.y.dtype, p.weight_dtype);
  }
  if (p.dim > kMaxNormDim) {
    return fail(RADIX_E_UNSUPPORTED, "a norm has %u elements: expected at most %u on CUDA", p.dim,
                kMaxNormDim);
  }
  if (uint64_t{p.num_rows} * p.num_heads > INT32_MAX) {
    return fail(RADIX_E_UNSUPPORTED,
                "a norm has %u rows of %u heads: expected fewer than 2^31 on "
                "CUDA",
                p.num_rows, p.num_heads);
  }
  return launch("rms_norm", [&] { return launch_rms_norm(p, stream); });
}

// ---- products -----------------------------------------------------------------------------------

namespace {

#if RADIXATTN_CUBLAS_LT

cudaDataType_t type_of(int32_t dtype) {
  return dtype == RADIX_F32 ? CUDA_R_32F : dtype == RADIX_F16 ? CUDA_R_16F : CUDA_R_16BF;
}

// The largest power of two that divides the address, up to 256: the most that anything asks for.
uint32_t alignment_of(const void* data) {
  const auto address = reinterpret_cast<uintptr_t>(data);
  uint32_t alignment = 256;
  while (address % alignment != 0) alignment /= 2;
  return alignment;
}

// What describes a product to cuBLASLt.
struct Product {
  cublasLtMatmulDescOpaque_t operation;
  cublasLtMatrixLayoutOpaque_t weight, x, y;
  cublasLtMatmulPreferenceOpaque_t preference;
};

// One row alone may have any stride.
int64_t stride_of(const MatrixTensor& t, uint32_t rows, uint32_t columns) {
  return rows == 1 && t.row_stride < columns ? int64_t{columns} : t.row_stride;
}

cublasStatus_t describe_operation(const CublasLt& lt, const GemmParams& p, Product* product) {
  auto* const operation = &product->operation;
  const cublasOperation_t transposed = CUBLAS_OP_T;
  const cublasLtEpilogue_t bias = CUBLASLT_EPILOGUE_BIAS;
  // f32 sums of products as they are: no TF32.
  cublasStatus_t s =
      lt.init_operation(operation, sizeof(*operation), CUBLAS_COMPUTE_32F, CUDA_R_32F);
  const auto set = [&](cublasLtMatmulDescAttributes_t attribute, const void* value, size_t bytes) {
    if (s == CUBLAS_STATUS_SUCCESS) s = lt.set_operation(operation, attribute, value, bytes);
  };
  set(CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed));
  if (p.bias == nullptr) return s;
  set(CUBLASLT_MATMUL_DESC_EPILOGUE, &bias, sizeof(bias));
  set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, &p.bias, sizeof(p.bias));
  return s;
}

cublasStatus_t describe_layouts(const CublasLt& lt, const GemmParams& p, Product* product) {
  const cudaDataType_t type = type_of(p.x.dtype);
  cublasStatus_t s = CUBLAS_STATUS_SUCCESS;
  const auto describe = [&](cublasLtMatrixLayoutOpaque_t* layout, const MatrixTensor& t,
                            uint32_t rows, uint32_t columns) {
    if (s == CUBLAS_STATUS_SUCCESS)
      s = lt.init_layout(layout, sizeof(*layout), type, columns, rows, stride_of(t, rows, columns));
  };
  describe(&product->weight, p.weight, p.out, p.in);
  describe(&product->x, p.x, p.num_rows, p.in);
  describe(&product->y, p.y, p.num_rows, p.out);
  return s;
}

cublasStatus_t describe_preference(const CublasLt& lt, const GemmParams& p, uint64_t workspace,
                                   Product* product) {
  auto* const preference = &product->preference;
  cublasStatus_t s = lt.init_preference(preference, sizeof(*preference));
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    if (s == CUBLAS_STATUS_SUCCESS)
      s = lt.set_preference(preference, attribute, &value, sizeof(value));
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace);
  // Parts of a sum meet in f32, and in no order of chance.
  set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
      static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(p.weight.data));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(p.x.data));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(p.y.data));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(p.y.data));
  return s;
}

void* aligned_workspace(const GemmParams& p) {
  const auto at = reinterpret_cast<uintptr_t>(p.workspace);
  return static_cast<char*>(p.workspace) + (0 - at) % kWorkspaceAlignment;
}

radix_status multiply(const CublasLt& lt, cublasLtHandle_t handle, const GemmParams& p,
                      uint64_t workspace_bytes, radix_stream stream) {
  Product d;
  cublasStatus_t s = describe_operation(lt, p, &d);
  if (s == CUBLAS_STATUS_SUCCESS) s = describe_layouts(lt, p, &d);
  if (s == CUBLAS_STATUS_SUCCESS) s = describe_preference(lt, p, workspace_bytes, &d);
  if (s != CUBLAS_STATUS_SUCCESS) return status_of_cublas_lt(lt, s, "describing a product");
  cublasLtMatmulHeuristicResult_t choice = {};
  int found = 0;
  s = lt.heuristic(handle, &d.operation, &d.weight, &d.x, &d.y, &d.y, &d.preference, 1, &choice,
                   &found);
  if (s == CUBLAS_STATUS_SUCCESS && found > 0) s = choice.state;
  if (s == CUBLAS_STATUS_SUCCESS && found == 0) s = CUBLAS_STATUS_NOT_SUPPORTED;
  if (s == CUBLAS_STATUS_SUCCESS) {
    const float alpha = 1.f, beta = p.add ? 1.f : 0.f;
    s = lt.matmul(handle, &d.operation, &alpha, p.weight.data, &d.weight, p.x.data, &d.x, &beta,
                  p.y.data, &d.y, p.y.data, &d.y, &choice.algo, aligned_workspace(p),
                  workspace_bytes, static_cast<cudaStream_t>(stream));
  }
  if (s == CUBLAS_STATUS_SUCCESS) return RADIX_OK;
  char what[96];
  std::snprintf(what, sizeof(what), "a product of %u rows, %u by %u, dtype %d", p.num_rows, p.out,
                p.in, p.x.dtype);
  return status_of_cublas_lt(lt, s, what);
}

#else

radix_status multiply(const CublasLt&, cublasLtHandle_t, const GemmParams&, uint64_t,
                      radix_stream) {
  return RADIX_E_UNSUPPORTED;  // there is no handle to come here with
}

#endif

radix_status check_product(const GemmParams& p, uint64_t needed) {
  const int32_t dtype = p.x.dtype;
  if (!is_float(dtype) || p.weight.dtype != dtype || p.y.dtype != dtype ||
      (p.bias != nullptr && p.bias_dtype != dtype)) {
    return fail(RADIX_E_UNSUPPORTED,
                "x, weight, bias and y of a product have dtypes %d, %d, %d and %d: expected the "
                "same on CUDA, f32, f16 or bf16",
                dtype, p.weight.dtype, p.bias != nullptr ? p.bias_dtype : dtype, p.y.dtype);
  }
  const auto overlaps = [](const MatrixTensor& t, uint32_t rows, uint32_t columns) {
    return rows > 1 && t.row_stride < columns;
  };
  if (overlaps(p.x, p.num_rows, p.in) || overlaps(p.weight, p.out, p.in) ||
      overlaps(p.y, p.num_rows, p.out)) {
    return fail(RADIX_E_UNSUPPORTED,
                "rows of x, weight and y of a product stand %lld, %lld and %lld elements apart: "
                "expected at least %u, %u and %u on CUDA",
                static_cast<long long>(p.x.row_stride), static_cast<long long>(p.weight.row_stride),
                static_cast<long long>(p.y.row_stride), p.in, p.in, p.out);
  }
  if (p.workspace_bytes < needed) {
    return fail(RADIX_E_BUFFER, "a product has %llu bytes of workspace and needs %llu",
                static_cast<unsigned long long>(p.workspace_bytes),
                static_cast<unsigned long long>(needed));
  }
  return RADIX_OK;
}

}  // namespace

// The handle is made here, so that the first launch finds it; when it cannot be, the launch says
// so.
uint64_t CudaBackend::gemm_workspace(const GemmParams&) const {
  if (!cublas_lt_.made()) {
    const DeviceScope scope(device_);
    const CublasLt* lt = nullptr;
    cublasLtHandle_t handle = nullptr;
    if (scope.error() == cudaSuccess) cublas_lt_.get(&lt, &handle);
  }
  return product_workspace(limits_) + kWorkspaceAlignment;
}

radix_status CudaBackend::gemm(const GemmParams& p, radix_stream stream) {
  if (p.num_rows == 0 || p.out == 0) return RADIX_OK;
  radix_status st = lost();
  if (st != RADIX_OK) return st;
  const DeviceScope scope(device_);
  if (scope.error() != cudaSuccess) return status_of(scope.error(), "a product");
  const CublasLt* lt = nullptr;
  cublasLtHandle_t handle = nullptr;
  st = cublas_lt_.get(&lt, &handle);
  const uint64_t bytes = product_workspace(limits_);
  if (st == RADIX_OK) st = check_product(p, bytes + kWorkspaceAlignment);
  return st != RADIX_OK ? st : multiply(*lt, handle, p, bytes, stream);
}

}  // namespace radixattn::cuda
