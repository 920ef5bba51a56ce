// One run of the fuzzer: a context, and calls on it until the input's bytes are used up.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <memory>
#include <vector>

#include "fuzz_input.h"
#include "radixattn.h"

namespace radixattn::fuzz {

constexpr uint32_t kBuffer = 4096;  // elements of every array that is passed

[[noreturn]] void broken(const char* what, radix_status st);

using Memory = std::unique_ptr<void, void (*)(void*)>;

// Sequences of an attention launch, and their arrays.
struct Sequences {
  uint32_t num = 0;
  int32_t cu[8] = {}, lens[8] = {}, begin[8] = {};
  int64_t rows(bool prefill) const { return prefill ? cu[num] : num; }
};

class Fuzzer {
 public:
  Fuzzer(const uint8_t* data, size_t size)
      : in_(data, size), tokens_(kBuffer), floats_(size_t{128} * kBuffer) {}
  ~Fuzzer() {
    radix_plan_destroy(&plan_);
    radix_ctx_destroy(&ctx_);
  }
  Fuzzer(const Fuzzer&) = delete;
  Fuzzer& operator=(const Fuzzer&) = delete;

  void run();

 private:
  static void known(radix_status st) {
    const bool listed = (st <= RADIX_OK && st >= RADIX_E_FULL);
    if (!listed) broken("a call gave a status that it may not give", st);
  }

  // fuzz_abi.cpp: the context and the control plane
  bool create();
  radix_status control_call();
  radix_status request_call();
  radix_status append();
  radix_status commit();
  radix_status tables();
  radix_status begin_like(uint32_t which);
  radix_status library_call();

  // fuzz_launch.cpp: operations, attention, the layer
  radix_status data_call();
  void fill_sequences(Sequences* s);
  void fill_attention(radix_attn* d, bool prefill, const Sequences& s);
  void fill_rope(radix_rope_append* d, int64_t tokens);
  void matrix(radix_tensor* t, int64_t rows, int64_t columns);
  void vector(radix_tensor* t, int64_t size);
  void layer_weights(radix_layer* d, int64_t hidden);
  radix_status attention(bool prefill);
  radix_status rope_append();
  radix_status merge();
  radix_status layer();
  radix_status dlpack();

  // fuzz_plan.cpp: trees in arrays, and plans
  void small_tree(radix_tree_view* t);
  radix_status plan_make();
  radix_status plan_update();
  radix_status plan_use();
  radix_status plan_launch();
  int64_t plan_rows(const radix_attn& d) const;
  radix_status export_tree();
  radix_status match_batch();

  // fuzz_sample.cpp
  void sampling(radix_sample* d, uint32_t rows, uint32_t vocab);
  radix_status sample();
  radix_status verify();

  uint64_t id(const std::vector<uint64_t>& from) {
    if (from.empty() || in_.chance(8)) return in_.u64(3);
    const uint64_t x = from[in_.below(static_cast<uint32_t>(from.size()))];
    return in_.chance(4) ? x ^ (uint64_t{1} << in_.below(64)) : x;
  }
  uint64_t space() { return in_.chance(160) ? 0 : in_.chance(30) ? RADIX_NS_ALL : id(spaces_); }
  void remember(std::vector<uint64_t>& into, uint64_t id) {
    if (into.size() < 32)
      into.push_back(id);
    else
      into[in_.below(32)] = id;
  }
  template <class T>
  T* pass(T* p) {
    return in_.chance(4) ? nullptr : p;
  }
  // An array of numbers: sometimes off its alignment, too.
  template <class T>
  T* array(T* p) {
    static_assert(alignof(T) > 1);
    return in_.chance(2) ? reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(p) + 1) : pass(p);
  }
  radix_token* tokens() {
    const uint32_t from = in_.below(4), alphabet = 1 + in_.below(3);
    for (uint32_t i = 0; i < 64; ++i)
      tokens_[i] = static_cast<radix_token>((i * from + i / 7) % alphabet);
    if (in_.chance(128)) tokens_[in_.below(64)] = in_.i32(5);
    return pass(tokens_.data());
  }
  // A count for an array of `room` elements: a NULL array may come with any.
  uint64_t count(const void* array, uint32_t usual, uint32_t room) {
    const uint64_t n = in_.u64(usual);
    return array == nullptr ? n : n <= room ? n : n % (room + 1);
  }
  // As much as the query said, sometimes half of it, misplaced or none.
  template <class Launch>
  Memory give_workspace(Launch* d, radix_status query, uint64_t bytes) {
    if (query != RADIX_OK || bytes > (1u << 22)) bytes = 1024;
    Memory memory(std::aligned_alloc(64, (bytes + 127) / 64 * 64), std::free);
    d->workspace = pass(static_cast<char*>(memory.get()) + (in_.chance(6) ? 4 : 0));
    d->workspace_size = in_.chance(10) ? bytes / 2 : bytes;
    return memory;
  }
  void tensor(radix_tensor* t, int32_t dtype, std::initializer_list<int64_t> shape);

  FuzzInput in_;
  radix_ctx* ctx_ = nullptr;
  radix_plan* plan_ = nullptr;
  radix_plan_config plan_config_{};  // of plan_
  radix_config config_{};
  std::vector<uint64_t> requests_, pins_, spaces_;
  std::vector<radix_token> tokens_;
  std::vector<float> floats_;
  int32_t ints_[kBuffer] = {};
  int64_t longs_[kBuffer] = {};
  uint64_t words_[kBuffer] = {};
  radix_op ops_[64] = {};
  int32_t tree_[6][4 * kBuffer] = {};  // a radix_tree_view's arrays, as the last export left them
};

}  // namespace radixattn::fuzz
