// Attention and rotary descriptors, from the public structs to the backend's: every check that
// needs no look at array contents. Shared by the launches of the data plane and by those of a
// layer.
#pragma once

#include "api/tensors.h"
#include "backend/backend.h"
#include "radixattn.h"

namespace radixattn {

// K/V of a launch: the context's own, or the caller's tensors.
struct KvView {
  PagedTensor k, v;
  uint32_t num_blocks = 0, block_size = 0, num_kv_heads = 0, head_dim = 0, head_dim_v = 0;
};

Place place_of(const radix_ctx& ctx);
radix_status check_memory(const radix_ctx* ctx);  // a context with KV memory
// The caller's tensors when they are described, else the context's memory.
radix_status read_kv(const radix_ctx& ctx, const radix_tensor& k, const radix_tensor& v,
                     int32_t layout, uint32_t layer, bool need_data, KvView* out);

// `need_data` false: shapes alone, for the size of a workspace.
radix_status read_attn(const radix_ctx& ctx, const radix_attn& d, bool prefill, bool need_data,
                       AttentionParams* p);
// What a launch checks besides: the kind that cu_q_lens says, and the plan.
radix_status read_attn_launch(const radix_ctx& ctx, const radix_attn& d, bool prefill,
                              AttentionParams* p);
// Bytes for a launch of these shapes and bounds, and of its plan.
radix_status attention_workspace(const radix_ctx& ctx, const radix_attn& d, bool prefill,
                                 uint64_t* bytes);
radix_status read_rope(const radix_ctx& ctx, const radix_rope_append& d, RopeAppendParams* p);

}  // namespace radixattn
