// What attention launches refuse, and what they must do with addresses that pass 32 bits.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "base/error.h"
#include "support/attention_case.h"
#include "support/runners.h"

namespace radixattn::test {
namespace {

class AttentionCheck : public ::testing::TestWithParam<bool> {
 protected:
  Shape shape() const {
    Shape s;
    s.prefill = GetParam();
    s.seqs = {{100, 4}, {33, 2}, {0, 1}};
    return s;
  }

  // The launch is refused with that message and has written nothing, on every executor.
  static void refused(AttentionCase& c, const AttentionParams& p, const std::string& message,
                      radix_status expected = RADIX_E_INVALID) {
    const CpuKernels& kernels = *select_kernels(RADIX_CPU_AUTO);
    for (NamedExecutor& e : all_executors()) {
      SCOPED_TRACE(e.name);
      c.out().fill(kPoisonByte);
      c.lse().fill(kPoisonByte);
      const Elements out = c.out(), lse = c.lse();
      EXPECT_EQ(AttentionCase::launch(kernels, p, e.executor), expected);
      EXPECT_NE(std::string(last_message()).find(message), std::string::npos)
          << "got: " << last_message() << "\nexpected: " << message;
      EXPECT_TRUE(c.out() == out && c.lse() == lse) << "written before it was checked";
    }
  }
  void refused(const std::function<void(AttentionCase&)>& spoil, const std::string& message) const {
    AttentionCase c(shape(), 3);
    spoil(c);
    refused(c, c.params(), message);
  }
};

INSTANTIATE_TEST_SUITE_P(Launch, AttentionCheck, ::testing::Bool(),
                         [](const auto& i) { return i.param ? "Prefill" : "Decode"; });

TEST_P(AttentionCheck, LengthsOutOfRange) {
  refused([](AttentionCase& c) { c.context_lens()[1] = -1; },
          "context_lens[1] is -1: expected 0..");
  refused([](AttentionCase& c) { c.context_lens()[2] = INT32_MIN; }, "context_lens[2] is");
  refused([](AttentionCase& c) { c.context_lens()[0] = 101; }, "context_lens[0] is 101");
}

TEST_P(AttentionCheck, BlockIdsOutOfRange) {
  const auto row = [](AttentionCase& c, uint32_t s) {
    return c.tables().data() + s * c.row_blocks();
  };
  refused([&](AttentionCase& c) { row(c, 0)[0] = -1; }, "sequence 0: entry 0 is -1");
  refused([&](AttentionCase& c) { row(c, 0)[6] = INT32_MAX; }, "sequence 0: entry 6 is 2147483647");
  refused([&](AttentionCase& c) { row(c, 1)[2] = static_cast<int32_t>(c.params().num_blocks); },
          "sequence 1: entry 2 is");
  refused([&](AttentionCase& c) { row(c, 1)[1] = INT32_MIN; }, "sequence 1: entry 1 is");
}

TEST_P(AttentionCheck, TablesThatAreTooShort) {
  AttentionCase c(shape(), 3);
  AttentionParams p = c.params();
  p.blocks.row_stride = 6;  // 100 tokens need 7 blocks
  refused(c, p, "context_lens[0] is 100: its 7 blocks do not fit");
  Shape csr = shape();
  csr.csr = true;
  AttentionCase d(csr, 3);
  d.block_begin()[2] -= 1;
  refused(d, d.params(), "block_begin gives sequence 1 2 blocks");
  d.block_begin()[1] = -7;
  d.block_begin()[0] = -14;
  refused(d, d.params(), "block_begin");
}

TEST_P(AttentionCheck, WorkspaceTooSmallOrMisaligned) {
  AttentionCase c(shape(), 3);
  AttentionParams p = c.params();
  const CpuKernels& kernels = *select_kernels(RADIX_CPU_AUTO);
  for (NamedExecutor& e : all_executors()) {
    CpuBackend backend(kernels, e.executor);
    uint64_t bytes = 0;
    ASSERT_EQ(backend.attention_workspace(p, GetParam(), &bytes), RADIX_OK);
    std::vector<char> memory(bytes + 128);
    char* aligned = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64;
    const auto launch = [&](void* at, uint64_t size) {
      AttentionParams q = p;
      q.workspace = at;
      q.workspace_bytes = size;
      return GetParam() ? backend.prefill(q, nullptr) : backend.decode(q, nullptr);
    };
    const Elements before = c.out();
    EXPECT_EQ(launch(aligned, bytes - 1), RADIX_E_BUFFER);
    EXPECT_NE(std::string(last_message()).find(std::to_string(bytes)), std::string::npos);
    EXPECT_EQ(launch(aligned, 0), RADIX_E_BUFFER);
    EXPECT_EQ(launch(aligned + 4, bytes), RADIX_E_INVALID);
    EXPECT_EQ(launch(nullptr, bytes), RADIX_E_INVALID);
    EXPECT_TRUE(c.out() == before);
    EXPECT_EQ(launch(aligned, bytes), RADIX_OK) << last_message();
  }
}

TEST_P(AttentionCheck, WorkspaceIsNeverOverrun) {
  // Guards behind exactly the bytes that were asked for.
  for (const uint32_t context : {1u, 40u, 1025u, 3000u}) {
    Shape s = shape();
    s.seqs = {{context, 3}, {context, 1}};
    AttentionCase c(s, 3);
    for (NamedExecutor& e : all_executors()) {
      for (const CpuKernels* kernels : runnable_targets()) {
        CpuBackend backend(*kernels, e.executor);
        AttentionParams p = c.params();
        ASSERT_EQ(backend.attention_workspace(p, GetParam(), &p.workspace_bytes), RADIX_OK);
        std::vector<char> memory(p.workspace_bytes + 64 + 256, 'g');
        const auto at = reinterpret_cast<uintptr_t>(memory.data());
        char* aligned = memory.data() + (64 - at % 64) % 64;
        p.workspace = aligned;
        ASSERT_EQ(GetParam() ? backend.prefill(p, nullptr) : backend.decode(p, nullptr), RADIX_OK);
        for (char* guard = aligned + p.workspace_bytes; guard < memory.data() + memory.size();
             ++guard) {
          ASSERT_EQ(*guard, 'g') << e.name << " " << kernels->name;
        }
      }
    }
  }
}

TEST_P(AttentionCheck, WorkspaceGrowsWithItsBoundsOnly) {
  AttentionCase c(shape(), 3);
  Executor executor;
  CpuBackend backend(*select_kernels(RADIX_CPU_AUTO), executor);
  AttentionParams p = c.params();
  p.context_lens = nullptr;  // a query looks at no array but cu_q_lens, and at that only for null
  p.blocks = BlockTables{};
  p.q.data = p.out.data = p.k.data = p.v.data = nullptr;
  uint64_t last = 0;
  for (const uint32_t context : {1u, 1000u, 1024u, 1025u, 5000u, 33000u, 70000u, 1000000u}) {
    p.max_context_len = context;
    uint64_t bytes = 0;
    ASSERT_EQ(backend.attention_workspace(p, GetParam(), &bytes), RADIX_OK);
    EXPECT_GE(bytes, last) << context;
    last = bytes;
  }
}

TEST(PrefillCheck, QueryRowsOutOfRange) {
  Shape s;
  s.prefill = true;
  s.seqs = {{100, 4}, {33, 2}};
  const CpuKernels& kernels = *select_kernels(RADIX_CPU_AUTO);
  const auto expect_refused = [&](const std::vector<int32_t>& cu, const char* message) {
    AttentionCase c(s, 3);
    c.cu_q_lens() = cu;
    const Elements before = c.out();
    Executor executor;
    EXPECT_EQ(AttentionCase::launch(kernels, c.params(), executor), RADIX_E_INVALID);
    EXPECT_NE(std::string(last_message()).find(message), std::string::npos) << last_message();
    EXPECT_TRUE(c.out() == before);
  };
  expect_refused({0, 4, 3}, "cu_q_lens[1..2] is 4, 3");
  expect_refused({-1, 4, 6}, "cu_q_lens[0..1] is -1, 4");
  expect_refused({0, 5, 6}, "sequence 0 has 5 query rows: expected at most max_query_len (4)");
  expect_refused({0, INT32_MAX, INT32_MIN}, "sequence 0 has 2147483647 query rows");
}

// ---- sparse memory: only what is written exists -------------------------------------------------

class Sparse {
 public:
  explicit Sparse(size_t bytes) : bytes_(bytes) {
    data_ = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  }
  Sparse(const Sparse&) = delete;
  Sparse& operator=(const Sparse&) = delete;
  ~Sparse() {
    if (ok()) munmap(data_, bytes_);
  }
  bool ok() const { return data_ != MAP_FAILED; }
  void* data() const { return data_; }

 private:
  size_t bytes_;
  void* data_;
};

// Copies the small tensor's vectors to where the large strides put them.
void spread(const PagedTensor& from, const PagedTensor& to, const AttentionParams& p,
            uint32_t dim) {
  for (int64_t b = 0; b < p.num_blocks; ++b) {
    for (int64_t t = 0; t < p.block_size; ++t) {
      for (int64_t h = 0; h < p.num_kv_heads; ++h) {
        const int64_t a = b * from.block_stride + t * from.token_stride + h * from.head_stride;
        const int64_t z = b * to.block_stride + t * to.token_stride + h * to.head_stride;
        std::memcpy(static_cast<uint16_t*>(to.data) + z, static_cast<uint16_t*>(from.data) + a,
                    dim * 2);
      }
    }
  }
}

TEST_P(AttentionCheck, OffsetsBeyondThirtyTwoBits) {
  Shape s = shape();
  s.seqs = {{70, 3}, {20, 2}};
  s.q_heads = 2;
  s.kv_heads = 1;
  AttentionCase c(s, 3);
  AttentionParams p = c.params();
  const int64_t strides[][3] = {
      {int64_t{1} << 31, 64, 64},                 // blocks 4 GB apart
      {int64_t{64} << 27, int64_t{1} << 27, 64},  // tokens of a block, too
  };
  for (const auto& stride : strides) {
    AttentionParams far = p;
    const size_t bytes =
        (static_cast<size_t>(p.num_blocks) * static_cast<size_t>(stride[0]) + 64) * 2;
    Sparse k(bytes), v(bytes), q(size_t{5} << 32), out(size_t{5} << 32);
    ASSERT_TRUE(k.ok() && v.ok() && q.ok() && out.ok());
    far.k = {k.data(), p.k.dtype, stride[0], stride[1], stride[2]};
    far.v = {v.data(), p.v.dtype, stride[0], stride[1], stride[2]};
    spread(p.k, far.k, p, p.head_dim);
    spread(p.v, far.v, p, p.head_dim_v);
    far.q = {q.data(), RADIX_F32, int64_t{1} << 30, 64};  // rows 4 GB apart
    far.out = {out.data(), RADIX_F32, int64_t{1} << 30, 64};
    for (int64_t r = 0; r < c.rows(); ++r) {
      std::memcpy(static_cast<float*>(q.data()) + (r << 30),
                  static_cast<float*>(p.q.data) + r * p.q.row_stride, 2 * 64 * 4);
    }
    for (const CpuKernels* kernels : runnable_targets()) {
      SCOPED_TRACE(kernels->name);
      const Result near = c.run(*kernels, Executor());
      Executor executor;
      ASSERT_EQ(AttentionCase::launch(*kernels, far, executor), RADIX_OK) << last_message();
      for (uint32_t r = 0; r < c.rows(); ++r) {
        for (uint32_t i = 0; i < 2 * 64; ++i) {
          ASSERT_EQ(static_cast<float*>(out.data())[(int64_t{r} << 30) + i],
                    near.out[r * 2 * 64 + i]);
        }
      }
    }
  }
}

}  // namespace
}  // namespace radixattn::test
