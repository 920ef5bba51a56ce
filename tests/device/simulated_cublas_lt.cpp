// A cuBLASLt that is none: the functions that the library uses, on the simulated device. The
// library opens it instead of NVIDIA's, because this file stands in for cuda/open_cublas_lt.cpp.
//
// Column-major, as theirs: D = op(A) op(B) + beta C + bias, summed in double and rounded once. What
// theirs would refuse or get wrong is refused here, with a word in counters.complaint: leading
// dimensions below the rows, shapes that do not fit, other types and computations than the library
// should ask for, pointers less aligned than the choice of an algorithm was told, an algorithm that
// was chosen for something else, a workspace that is too small or not aligned to 256 bytes, memory
// that is not the device's. A workspace is filled with rubbish when the product runs.
#include "cuda/cublas_lt.h"

#include <cstring>
#include <string>

#include "base/error.h"
#include "simulated_device.h"

#if RADIXATTN_CUBLAS_LT

namespace radixattn::test::device {
namespace {

// What stands in the opaque structs.
struct Operation {
  uint32_t kind;  // of these structs: 1, 2, 3
  cublasComputeType_t compute;
  cudaDataType_t scale;
  cublasOperation_t transpose_a;
  cublasLtEpilogue_t epilogue;
  const void* bias;
};
struct Layout {
  uint32_t kind;
  cudaDataType type;
  uint64_t rows, columns;
  int64_t stride;
};
struct Preference {
  uint32_t kind;
  uint64_t workspace;
  uint32_t reductions;
  uint32_t alignment[4];  // A, B, C, D
};
// In cublasLtMatmulAlgo_t: what it was chosen for.
struct Choice {
  uint64_t workspace;
  uint64_t shape;  // a hash
  uint32_t alignment[4];
};
static_assert(sizeof(Choice) <= sizeof(cublasLtMatmulAlgo_t));

constexpr uint64_t kWorkspace = 65536;  // that every algorithm here wants

cublasStatus_t complain(const std::string& what) {
  counters.complaint = what;
  return CUBLAS_STATUS_INVALID_VALUE;
}

template <class T, class Opaque>
T* in(Opaque* opaque, uint32_t kind) {
  static_assert(sizeof(T) <= sizeof(Opaque));
  T* t = reinterpret_cast<T*>(opaque);
  if (t->kind == kind) return t;
  complain("a descriptor was not initialised");
  return nullptr;
}

int take(int32_t* failing) {
  const int error = *failing;
  *failing = 0;
  return error;
}

// ---- descriptors --------------------------------------------------------------------------------

cublasStatus_t init_operation(cublasLtMatmulDesc_t d, size_t size, cublasComputeType_t compute,
                              cudaDataType_t scale) {
  if (size < sizeof(Operation)) return CUBLAS_STATUS_ALLOC_FAILED;
  std::memset(static_cast<void*>(d), 0xff, size);
  const Operation made = {1, compute, scale, CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT, nullptr};
  std::memcpy(static_cast<void*>(d), &made, sizeof(made));
  return CUBLAS_STATUS_SUCCESS;
}

template <class T>
cublasStatus_t assign(T* to, const void* value, size_t bytes) {
  if (bytes != sizeof(T)) return complain("an attribute of another size");
  std::memcpy(to, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t set_operation(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t attribute,
                             const void* value, size_t bytes) {
  auto* o = in<Operation>(d, 1);
  if (o == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  if (attribute == CUBLASLT_MATMUL_DESC_TRANSA) return assign(&o->transpose_a, value, bytes);
  if (attribute == CUBLASLT_MATMUL_DESC_EPILOGUE) return assign(&o->epilogue, value, bytes);
  if (attribute == CUBLASLT_MATMUL_DESC_BIAS_POINTER) return assign(&o->bias, value, bytes);
  return complain("an attribute of the operation that is not known here");
}

cublasStatus_t init_layout(cublasLtMatrixLayout_t d, size_t size, cudaDataType type, uint64_t rows,
                           uint64_t columns, int64_t stride) {
  if (size < sizeof(Layout)) return CUBLAS_STATUS_ALLOC_FAILED;
  std::memset(static_cast<void*>(d), 0xff, size);
  const Layout made = {2, type, rows, columns, stride};
  std::memcpy(static_cast<void*>(d), &made, sizeof(made));
  if (rows == 0 || columns == 0) return complain("a matrix without elements");
  if (stride < static_cast<int64_t>(rows)) return complain("a leading dimension below the rows");
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t init_preference(cublasLtMatmulPreference_t d, size_t size) {
  if (size < sizeof(Preference)) return CUBLAS_STATUS_ALLOC_FAILED;
  std::memset(static_cast<void*>(d), 0xff, size);
  const Preference made = {3, 0, CUBLASLT_REDUCTION_SCHEME_MASK, {256, 256, 256, 256}};
  std::memcpy(static_cast<void*>(d), &made, sizeof(made));
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t set_preference(cublasLtMatmulPreference_t d,
                              cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
                              size_t bytes) {
  auto* p = in<Preference>(d, 3);
  if (p == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
      return assign(&p->workspace, value, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
      return assign(&p->reductions, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
      return assign(&p->alignment[0], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
      return assign(&p->alignment[1], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
      return assign(&p->alignment[2], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
      return assign(&p->alignment[3], value, bytes);
    default:
      return complain("a preference that is not known here");
  }
}

// ---- products -----------------------------------------------------------------------------------

uint64_t bytes_of(cudaDataType type) { return type == CUDA_R_32F ? 4 : 2; }

double load(const void* data, cudaDataType type, int64_t at) {
  if (type == CUDA_R_32F) return double{static_cast<const float*>(data)[at]};
  if (type == CUDA_R_16F) return double{__half2float(static_cast<const __half*>(data)[at])};
  return double{__bfloat162float(static_cast<const __nv_bfloat16*>(data)[at])};
}

void store(void* data, cudaDataType type, int64_t at, double x) {
  if (type == CUDA_R_32F) {
    static_cast<float*>(data)[at] = static_cast<float>(x);
  } else if (type == CUDA_R_16F) {
    static_cast<__half*>(data)[at] = __double2half(x);
  } else {
    static_cast<__nv_bfloat16*>(data)[at] = __double2bfloat16(x);
  }
}

// D of m rows and n columns, sums of k products.
struct Product {
  Operation operation;
  Layout a, b, c, d;
  uint64_t m, n, k;
};

uint64_t hash_of(const Product& p) {
  uint64_t h = 0;
  for (const uint64_t x :
       {p.m, p.n, p.k, static_cast<uint64_t>(p.a.stride), static_cast<uint64_t>(p.b.stride),
        static_cast<uint64_t>(p.c.stride), static_cast<uint64_t>(p.d.stride),
        static_cast<uint64_t>(p.d.type), static_cast<uint64_t>(p.operation.epilogue)})
    h = (h ^ x) * 0x9e3779b97f4a7c15u;
  return h;
}

bool same_layout(const Layout& x, const Layout& y) {
  return x.rows == y.rows && x.columns == y.columns && x.stride == y.stride && x.type == y.type;
}

cublasStatus_t gather(cublasLtMatmulDesc_t operation, cublasLtMatrixLayout_t a,
                      cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                      Product* out) {
  const auto* o = in<Operation>(operation, 1);
  const auto *la = in<Layout>(a, 2), *lb = in<Layout>(b, 2), *lc = in<Layout>(c, 2),
             *ld = in<Layout>(d, 2);
  if (o == nullptr || la == nullptr || lb == nullptr || lc == nullptr || ld == nullptr)
    return CUBLAS_STATUS_INVALID_VALUE;
  *out = {*o, *la, *lb, *lc, *ld, 0, 0, 0};
  if (o->compute != CUBLAS_COMPUTE_32F || o->scale != CUDA_R_32F)
    return complain("sums are not those of f32");
  if (la->type != ld->type || lb->type != ld->type) return complain("types differ");
  const bool transposed = o->transpose_a == CUBLAS_OP_T;
  out->m = transposed ? la->columns : la->rows;
  out->k = transposed ? la->rows : la->columns;
  out->n = lb->columns;
  if (lb->rows != out->k || ld->rows != out->m || ld->columns != out->n || !same_layout(*lc, *ld))
    return complain("shapes do not fit");
  if (o->epilogue != CUBLASLT_EPILOGUE_DEFAULT && o->epilogue != CUBLASLT_EPILOGUE_BIAS)
    return complain("an epilogue that is not known here");
  if (o->epilogue == CUBLASLT_EPILOGUE_BIAS && o->bias == nullptr) return complain("no bias");
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t heuristic(cublasLtHandle_t, cublasLtMatmulDesc_t operation, cublasLtMatrixLayout_t a,
                         cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                         cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t preference,
                         int wanted, cublasLtMatmulHeuristicResult_t results[], int* found) {
  *found = 0;
  const int error = take(&settings.failing_choice);
  if (error > 0) return static_cast<cublasStatus_t>(error);
  if (error < 0) return CUBLAS_STATUS_SUCCESS;
  Product p;
  const cublasStatus_t s = gather(operation, a, b, c, d, &p);
  const auto* wish = in<Preference>(preference, 3);
  if (s != CUBLAS_STATUS_SUCCESS || wish == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  if (wanted < 1) return complain("no algorithm wanted");
  if (wish->reductions != CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE)
    return complain("parts of sums may be rounded");
  if (wish->workspace < kWorkspace) return CUBLAS_STATUS_NOT_SUPPORTED;
  Choice choice = {kWorkspace, hash_of(p), {}};
  std::memcpy(choice.alignment, wish->alignment, sizeof(choice.alignment));
  std::memcpy(static_cast<void*>(&results[0].algo), &choice, sizeof(choice));
  results[0].workspaceSize = kWorkspace;
  results[0].state = CUBLAS_STATUS_SUCCESS;
  *found = 1;
  return CUBLAS_STATUS_SUCCESS;
}

void run(const Product& p, const void* a, const void* b, float beta, void* d) {
  const bool transposed = p.operation.transpose_a == CUBLAS_OP_T;
  const auto m = static_cast<int64_t>(p.m), n = static_cast<int64_t>(p.n),
             k = static_cast<int64_t>(p.k);
  for (int64_t column = 0; column < n; ++column) {
    for (int64_t row = 0; row < m; ++row) {
      double sum = 0;
      for (int64_t i = 0; i < k; ++i) {
        sum += load(a, p.a.type, transposed ? i + row * p.a.stride : row + i * p.a.stride) *
               load(b, p.b.type, i + column * p.b.stride);
      }
      const int64_t at = row + column * p.d.stride;
      if (beta != 0.f) sum += double{beta} * load(d, p.d.type, at);
      if (p.operation.epilogue == CUBLASLT_EPILOGUE_BIAS)
        sum += load(p.operation.bias, p.d.type, row);
      store(d, p.d.type, at, sum);
    }
  }
}

bool holds_matrix(const void* data, const Layout& l) {
  const uint64_t elements = static_cast<uint64_t>(l.stride) * (l.columns - 1) + l.rows;
  return holds(data, elements * bytes_of(l.type));
}

cublasStatus_t matmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, const void* alpha,
                      const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                      cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
                      cublasLtMatrixLayout_t c_layout, void* d, cublasLtMatrixLayout_t d_layout,
                      const cublasLtMatmulAlgo_t* algo, void* workspace, size_t workspace_bytes,
                      cudaStream_t stream) {
  if (const int error = take(&settings.failing_product)) return static_cast<cublasStatus_t>(error);
  if (*reinterpret_cast<const int32_t*>(handle) != current())
    return complain("the handle is of another device");
  Product p;
  if (gather(operation, a_layout, b_layout, c_layout, d_layout, &p) != CUBLAS_STATUS_SUCCESS)
    return CUBLAS_STATUS_INVALID_VALUE;
  if (*static_cast<const float*>(alpha) != 1.f) return complain("alpha is not 1");
  if (c != d) return complain("C is not D");
  Choice choice;
  std::memcpy(&choice, static_cast<const void*>(algo), sizeof(choice));
  if (choice.shape != hash_of(p)) return complain("the algorithm was chosen for something else");
  const void* pointers[] = {a, b, c, d};
  for (int i = 0; i < 4; ++i) {
    if (reinterpret_cast<uintptr_t>(pointers[i]) % choice.alignment[i] != 0)
      return complain("a matrix is less aligned than was said");
  }
  if (workspace_bytes < choice.workspace || !holds(workspace, workspace_bytes) ||
      reinterpret_cast<uintptr_t>(workspace) % 256 != 0)
    return complain("the workspace is too small, not aligned or not there");
  if (!holds_matrix(a, p.a) || !holds_matrix(b, p.b) || !holds_matrix(d, p.d))
    return complain("a matrix is not in the device's memory");
  if (p.operation.epilogue == CUBLASLT_EPILOGUE_BIAS &&
      !holds(p.operation.bias, p.m * bytes_of(p.d.type)))
    return complain("the bias is not in the device's memory");
  ++counters.products;
  const float scale = *static_cast<const float*>(beta);
  enqueue(stream, [=] {
    std::memset(workspace, 0xff, choice.workspace);
    run(p, a, b, scale, d);
  });
  return CUBLAS_STATUS_SUCCESS;
}

// ---- handles ------------------------------------------------------------------------------------

// A handle is of the device that was current.
cublasStatus_t create(cublasLtHandle_t* handle) {
  if (const int error = take(&settings.failing_handle)) return static_cast<cublasStatus_t>(error);
  if (capture_forbids()) return CUBLAS_STATUS_NOT_INITIALIZED;
  *handle = reinterpret_cast<cublasLtHandle_t>(new int32_t(current()));
  ++counters.handles;
  ++counters.handles_live;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t destroy(cublasLtHandle_t handle) {
  auto* device = reinterpret_cast<int32_t*>(handle);
  if (*device != current()) complain("a handle is destroyed while another device is current");
  delete device;
  --counters.handles_live;
  return CUBLAS_STATUS_SUCCESS;
}

const char* status_name(cublasStatus_t s) {
  return s == CUBLAS_STATUS_NOT_SUPPORTED ? "CUBLAS_STATUS_NOT_SUPPORTED" : "a simulated status";
}

cuda::CublasLt simulated() {
  cuda::CublasLt lt;
  lt.create = create;
  lt.destroy = destroy;
  lt.status_name = status_name;
  lt.matmul = matmul;
  lt.heuristic = heuristic;
  lt.init_operation = init_operation;
  lt.set_operation = set_operation;
  lt.init_layout = init_layout;
  lt.init_preference = init_preference;
  lt.set_preference = set_preference;
  return lt;
}

}  // namespace
}  // namespace radixattn::test::device

#endif

namespace radixattn::cuda {

radix_status open_cublas_lt(const CublasLt** out) {
#if RADIXATTN_CUBLAS_LT
  static const CublasLt functions = test::device::simulated();
  *out = &functions;
  if (!test::device::settings.no_cublas_lt) return RADIX_OK;
#endif
  const char* const names[] = {"libradixattn_no_such_library.so.13", "libradixattn_none.so"};
  CublasLt nothing;
  return load_cublas_lt(names, 2, &nothing);
}

}  // namespace radixattn::cuda
