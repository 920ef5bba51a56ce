// The CUDA backend's norms and products, below the C API: what is asked of cuBLASLt, and what
// becomes of its refusals. On the simulated device cuBLASLt is simulated, too
// (simulated_cublas_lt.cpp), and looks at what it is told; on a real one it is NVIDIA's.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "backend/device/cuda.h"
#include "base/error.h"
#include "cuda/cublas_lt.h"
#include "device_fixture.h"
#include "numbers.h"
#include "support/rng.h"
#include "support/tolerance.h"

namespace radixattn::test {
namespace {

constexpr int32_t kDtypes[] = {RADIX_F32, RADIX_F16, RADIX_BF16};

// ---- products -----------------------------------------------------------------------------------

struct Shape {
  uint32_t rows = 3, in = 16, out = 24;
  int32_t dtype = RADIX_F16;
  int64_t gap = 0;      // elements behind each row; other tensors have other gaps
  uint32_t offset = 0;  // elements before the first row
  bool bias = false, add = false;
};

struct Matrix {
  uint32_t rows, columns, offset;
  int64_t stride;
  Bytes bytes;
  size_t at(uint32_t r, uint32_t c) const { return offset + r * static_cast<size_t>(stride) + c; }
};

// All ones, NaN, where no element is.
Matrix matrix(Rng& rng, const Shape& s, uint32_t rows, uint32_t columns, int64_t gap) {
  Matrix m = {rows, columns, s.offset, columns + gap, {}};
  m.bytes.assign((s.offset + rows * static_cast<size_t>(m.stride)) * bytes_of(s.dtype), 0xff);
  for (uint32_t r = 0; r < rows; ++r) {
    for (uint32_t c = 0; c < columns; ++c) put(&m.bytes, s.dtype, m.at(r, c), rng.uniform());
  }
  return m;
}

class DeviceProducts : public Device {
 protected:
  void SetUp() override {
    Device::SetUp();
    backend_ = make(0, memory_);
  }
  void TearDown() override {
    if (backend_ != nullptr) backend_->~Backend();
    Device::TearDown();
  }
  static Backend* make(int32_t device, unsigned char* memory) {
    Backend* backend = nullptr;
    EXPECT_OK(cuda_make_backend(device, memory, &backend));
    return backend;
  }

  MatrixTensor placed(const Matrix& m, int32_t dtype) {
    return {up(m.bytes) + m.offset * bytes_of(dtype), dtype, m.stride};
  }

  // A product, its matrices on the device.
  struct Placed {
    Shape shape;
    Matrix x, weight, y, bias;
    GemmParams p;
  };
  Placed place(const Shape& s, uint64_t seed = 1) {
    Rng rng(seed);
    Placed c = {s,
                matrix(rng, s, s.rows, s.in, s.gap),
                matrix(rng, s, s.out, s.in, 2 * s.gap),
                matrix(rng, s, s.rows, s.out, 3 * s.gap),
                matrix(rng, s, 1, s.out, 0),
                {}};
    GemmParams& p = c.p;
    p.num_rows = s.rows;
    p.in = s.in;
    p.out = s.out;
    p.x = placed(c.x, s.dtype);
    p.weight = placed(c.weight, s.dtype);
    p.y = placed(c.y, s.dtype);
    if (s.bias) p.bias = placed(c.bias, s.dtype).data;
    p.bias_dtype = s.bias ? s.dtype : 0;
    p.add = s.add;
    p.workspace_bytes = backend_->gemm_workspace(p);
    if (workspace_ == nullptr) workspace_ = up(Bytes(p.workspace_bytes + 64));
    p.workspace = workspace_ + 64;  // aligned to no more than it has to be
    return c;
  }

  // Sums in f32 of products that are exact in f16 and bf16, one rounding at the end. f32 products
  // are rounded, too.
  void expect_product(const Placed& c) {
    const Shape& s = c.shape;
    const auto* first = static_cast<const uint8_t*>(c.p.y.data) - s.offset * bytes_of(s.dtype);
    const Bytes got = down(first, c.y.bytes.size());
    Bytes rest = got, before = c.y.bytes;  // what is no element of y
    for (uint32_t r = 0; r < s.rows; ++r) {
      for (uint32_t o = 0; o < s.out; ++o) {
        double want = s.bias ? get(c.bias.bytes, s.dtype, c.bias.at(0, o)) : 0;
        if (s.add) want += get(c.y.bytes, s.dtype, c.y.at(r, o));
        double size = std::fabs(want);
        for (uint32_t i = 0; i < s.in; ++i) {
          const double term = get(c.x.bytes, s.dtype, c.x.at(r, i)) *
                              get(c.weight.bytes, s.dtype, c.weight.at(o, i));
          want += term;
          size += std::fabs(term);
        }
        const double exact = (s.in + 3.0) * 0x1p-24 * size;
        ASSERT_NEAR(get(got, s.dtype, c.y.at(r, o)), want,
                    exact + 0.5 * unit_in_last_place(s.dtype, std::fabs(want) + exact))
            << "row " << r << " column " << o;
        std::memset(rest.data() + c.y.at(r, o) * bytes_of(s.dtype), 0, bytes_of(s.dtype));
        std::memset(before.data() + c.y.at(r, o) * bytes_of(s.dtype), 0, bytes_of(s.dtype));
      }
    }
    EXPECT_TRUE(rest == before) << "something beside y was written";
  }

  void check(const Shape& s, bool graph = false) {
    SCOPED_TRACE(::testing::Message()
                 << s.rows << " rows, " << s.out << " by " << s.in << ", dtype " << s.dtype
                 << ", gap " << s.gap << ", offset " << s.offset << (s.bias ? ", bias" : "")
                 << (s.add ? ", add" : ""));
    const Placed c = place(s);
    void* stream = device::make_stream();
    const auto launch = [&] { return backend_->gemm(c.p, stream); };
    ASSERT_OK(graph ? device::run_as_graph(stream, launch) : launch());
    device::finish();
    expect_product(c);
  }

  alignas(64) unsigned char memory_[kCudaBackendBytes];
  Backend* backend_ = nullptr;
  uint8_t* workspace_ = nullptr;
};

#if RADIXATTN_CUBLAS_LT

#ifdef RADIX_REAL_DEVICE
#define RADIX_NEEDS_CUBLAS_LT()       \
  const cuda::CublasLt* lt = nullptr; \
  if (cuda::open_cublas_lt(&lt) != RADIX_OK) GTEST_SKIP() << last_message()
#else
#define RADIX_NEEDS_CUBLAS_LT() (void)0
#endif

TEST_F(DeviceProducts, MatchTheDefinition) {
  RADIX_NEEDS_CUBLAS_LT();
  for (const int32_t dtype : kDtypes) {
    for (const bool bias : {false, true}) {
      for (const bool add : {false, true}) {
        for (const uint32_t rows : {1u, 2u, 17u}) {
          Shape s;
          s.dtype = dtype;
          s.rows = rows;
          s.bias = bias;
          s.add = add;
          check(s);
          s.in = 72;
          s.out = 40;
          s.gap = 8;
          check(s);
        }
      }
    }
  }
}

TEST_F(DeviceProducts, MatricesOfAnyAlignment) {
  RADIX_NEEDS_CUBLAS_LT();
  for (const int32_t dtype : kDtypes) {
    for (const uint32_t offset : {1u, 2u, 4u, 8u}) {
      Shape s;
      s.dtype = dtype;
      s.in = 24 + offset % 4;
      s.gap = offset;
      s.offset = offset;
      s.add = true;
      check(s);
    }
  }
}

TEST_F(DeviceProducts, InAGraph) {
  RADIX_NEEDS_CUBLAS_LT();
  Shape s;
  s.bias = true;
  s.rows = 5;
  check(s, true);
}

TEST_F(DeviceProducts, OfOneRowWhateverItsStride) {
  RADIX_NEEDS_CUBLAS_LT();
  Shape s;
  s.rows = 1;
  Placed c = place(s);
  c.p.x.row_stride = 0;
  c.p.y.row_stride = 1;
  ASSERT_OK(backend_->gemm(c.p, nullptr));
  device::finish();
  expect_product(c);
}

TEST_F(DeviceProducts, OfNoRowsAreNothing) {
  Shape s;
  Placed c = place(s);
  c.p.num_rows = 0;
  EXPECT_OK(backend_->gemm(c.p, nullptr));
  EXPECT_FALSE(device::has_work());
}

TEST_F(DeviceProducts, WhatCublasLtCannotDoIsRefusedBefore) {
  RADIX_NEEDS_CUBLAS_LT();
  Shape s;
  s.bias = true;
  Placed c = place(s);
  GemmParams p = c.p;
  p.weight.dtype = RADIX_BF16;
  EXPECT_FAILS(RADIX_E_UNSUPPORTED, "have dtypes 2, 3, 2 and 2", backend_->gemm(p, nullptr));
  p = c.p;
  p.bias_dtype = RADIX_F32;
  EXPECT_FAILS(RADIX_E_UNSUPPORTED, "have dtypes 2, 2, 1 and 2", backend_->gemm(p, nullptr));
  p = c.p;
  p.x.row_stride = 15;
  EXPECT_FAILS(RADIX_E_UNSUPPORTED, "stand 15, 16 and 24 elements apart",
               backend_->gemm(p, nullptr));
  p = c.p;
  --p.workspace_bytes;
  EXPECT_FAILS(RADIX_E_BUFFER, "bytes of workspace", backend_->gemm(p, nullptr));
  EXPECT_FALSE(device::has_work());
}

#ifndef RADIX_REAL_DEVICE

TEST_F(DeviceProducts, TakeNothingAndWaitForNothing) {
  const Placed c = place(Shape());
  EXPECT_EQ(device::counters.handles, 1) << "the handle is there before the first launch";
  const int64_t allocations = device::counters.allocations;
  void* stream = device::make_stream();
  for (int i = 0; i < 3; ++i) ASSERT_OK(backend_->gemm(c.p, stream));
  EXPECT_TRUE(device::has_work());
  EXPECT_EQ(device::counters.products, 3);
  EXPECT_EQ(device::counters.stream, stream);
  EXPECT_EQ(device::counters.waits, 0);
  EXPECT_EQ(device::counters.allocations, allocations);
  EXPECT_EQ(device::counters.handles, 1);
  device::finish();
  expect_product(c);
}

TEST_F(DeviceProducts, TheFirstOneMayBeInsideOfACapture) {
  const Placed c = place(Shape());
  alignas(64) unsigned char memory[kCudaBackendBytes];
  Backend* fresh = make(0, memory);
  void* stream = device::make_stream();
  device::settings.capturing = stream;
  EXPECT_OK(fresh->gemm(c.p, stream));
  EXPECT_TRUE(device::capture_forbids()) << "the thread's mode is what it was";
  device::settings.capturing = nullptr;
  device::finish();
  expect_product(c);
  fresh->~Backend();
}

TEST_F(DeviceProducts, EachDeviceHasItsHandleAndTheCallersDeviceStays) {
  alignas(64) unsigned char memory[kCudaBackendBytes];
  Backend* second = make(1, memory);
  const Placed c = place(Shape());
  EXPECT_EQ(second->gemm_workspace(c.p), backend_->gemm_workspace(c.p));
  EXPECT_EQ(device::counters.handles, 2);
  ASSERT_OK(second->gemm(c.p, nullptr));
  EXPECT_EQ(device::counters.launched_on, 1);
  EXPECT_EQ(device::current(), 0);
  device::finish();
  second->~Backend();
  EXPECT_EQ(device::current(), 0);
  EXPECT_EQ(device::counters.handles_live, 1);
}

TEST_F(DeviceProducts, WithoutCublasLtAreUnsupportedUntilItIsThere) {
  device::settings.no_cublas_lt = true;
  const Placed c = place(Shape());
  EXPECT_GT(c.p.workspace_bytes, 0u);
  EXPECT_FAILS(
      RADIX_E_UNSUPPORTED,
      "install it, or give radix_layer.gemm (looked for libradixattn_no_such_library.so.13, "
      "libradixattn_none.so)",
      backend_->gemm(c.p, nullptr));
  EXPECT_FALSE(device::has_work());
  device::settings.no_cublas_lt = false;
  ASSERT_OK(backend_->gemm(c.p, nullptr));
  device::finish();
  expect_product(c);
}

TEST_F(DeviceProducts, RefusalsOfCublasLtAreErrorsOfTheDevice) {
  const Placed c = place(Shape());
  const char* const product = "a product of 3 rows, 24 by 16, dtype 2: ";
  device::settings.failing_choice = CUBLAS_STATUS_INTERNAL_ERROR;
  EXPECT_FAILS(RADIX_E_DEVICE, product, backend_->gemm(c.p, nullptr));
  EXPECT_EQ(radix_error_detail(), int32_t{CUBLAS_STATUS_INTERNAL_ERROR});
  device::settings.failing_choice = -1;
  EXPECT_FAILS(RADIX_E_UNSUPPORTED, "CUBLAS_STATUS_NOT_SUPPORTED", backend_->gemm(c.p, nullptr));
  EXPECT_EQ(radix_error_detail(), int32_t{CUBLAS_STATUS_NOT_SUPPORTED});
  device::settings.failing_product = CUBLAS_STATUS_EXECUTION_FAILED;
  EXPECT_FAILS(RADIX_E_DEVICE, product, backend_->gemm(c.p, nullptr));
  EXPECT_EQ(radix_error_detail(), int32_t{CUBLAS_STATUS_EXECUTION_FAILED});
  EXPECT_FALSE(device::has_work());
  EXPECT_OK(backend_->gemm(c.p, nullptr)) << "none of them is remembered";
  device::finish();
}

TEST_F(DeviceProducts, AHandleThatCannotBeMadeIsTriedAgain) {
  device::settings.failing_handle = CUBLAS_STATUS_ALLOC_FAILED;
  const Placed c = place(Shape());  // the query of the workspace does not tell
  device::settings.failing_handle = CUBLAS_STATUS_ALLOC_FAILED;
  EXPECT_FAILS(RADIX_E_NOMEM, "cublasLtCreate", backend_->gemm(c.p, nullptr));
  device::settings.failing_handle = CUBLAS_STATUS_NOT_INITIALIZED;
  EXPECT_FAILS(RADIX_E_DEVICE, "cublasLtCreate", backend_->gemm(c.p, nullptr));
  EXPECT_EQ(radix_error_detail(), int32_t{CUBLAS_STATUS_NOT_INITIALIZED});
  EXPECT_OK(backend_->gemm(c.p, nullptr));
  device::finish();
}

TEST_F(DeviceProducts, ALostDeviceGetsNone) {
  const Placed c = place(Shape());
  NormParams norm;
  norm.num_rows = norm.dim = 1;
  norm.x.dtype = norm.y.dtype = norm.weight_dtype = RADIX_F16;
  device::settings.failing_launch = cudaErrorIllegalAddress;
  EXPECT_FAILS(RADIX_E_DEVICE_LOST, "rms_norm", backend_->rms_norm(norm, nullptr));
  EXPECT_FAILS(RADIX_E_DEVICE_LOST, "lost by an earlier kernel", backend_->gemm(c.p, nullptr));
  EXPECT_EQ(device::counters.products, 0);
}

TEST_F(DeviceProducts, WorkspacesByArchitecture) {
  for (const int32_t capability : {80, 90, 100, 120}) {
    device::settings.capability = capability;
    alignas(64) unsigned char memory[kCudaBackendBytes];
    Backend* other = make(0, memory);
    const uint64_t mib = capability == 90 || capability == 100 ? 32 : 8;
    EXPECT_EQ(other->gemm_workspace(GemmParams()), (mib << 20) + 256);
    other->~Backend();
  }
}

// ---- the library --------------------------------------------------------------------------------

TEST(CublasLtLibrary, IsTheFirstThatHasAllFunctions) {
  cuda::CublasLt lt;
  const char* const names[] = {"no_such_library.so", RADIX_CUBLAS_LT_PART, RADIX_CUBLAS_LT_WHOLE};
  EXPECT_FAILS(RADIX_E_UNSUPPORTED, "(looked for no_such_library.so, ",
               cuda::load_cublas_lt(names, 2, &lt));
  EXPECT_FAILS(RADIX_E_UNSUPPORTED, "(has not all functions)",
               cuda::load_cublas_lt(names + 1, 1, &lt));
  ASSERT_OK(cuda::load_cublas_lt(names, 3, &lt));
  EXPECT_STREQ(lt.status_name(CUBLAS_STATUS_SUCCESS), "of the whole library");
}

#endif  // RADIX_REAL_DEVICE
#endif  // RADIXATTN_CUBLAS_LT

// ---- norms --------------------------------------------------------------------------------------

TEST_F(DeviceProducts, NormsThatTheKernelCannotDoAreRefused) {
  NormParams p;
  p.num_rows = 4;
  p.num_heads = 2;
  p.dim = 64;
  p.x.dtype = p.y.dtype = p.weight_dtype = RADIX_F16;
  NormParams bad = p;
  bad.weight_dtype = RADIX_F8_E4M3;
  EXPECT_FAILS(RADIX_E_UNSUPPORTED, "have dtypes 2, 2 and 4", backend_->rms_norm(bad, nullptr));
  bad = p;
  bad.dim = (1u << 24) + 1;
  EXPECT_FAILS(RADIX_E_UNSUPPORTED, "16777217 elements", backend_->rms_norm(bad, nullptr));
  bad = p;
  bad.num_rows = 1u << 30;
  EXPECT_FAILS(RADIX_E_UNSUPPORTED, "1073741824 rows of 2 heads", backend_->rms_norm(bad, nullptr));
  bad.num_rows = 0;
  EXPECT_OK(backend_->rms_norm(bad, nullptr));
  EXPECT_FALSE(device::has_work());
}

}  // namespace
}  // namespace radixattn::test
