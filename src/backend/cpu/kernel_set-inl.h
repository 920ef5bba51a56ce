// Declares the kernels of one target, for the sources that define them and the table that lists
// them.
#pragma once

#include <cstdint>

namespace radixattn {

struct DecodeJob;
struct DecodeItem;
struct DecodeAhead;
struct PrefillJob;
struct PrefillItem;
struct RadixMergeJob;
struct RopeAppendJob;
struct MergeParams;
struct RowScan;
struct GemmParams;
struct GemmItem;
struct NormParams;

namespace RADIX_CPU_TARGET_NS {

void decode_item(const DecodeJob& job, const DecodeItem& item, DecodeAhead& ahead, void* scratch);
void decode_merge(const DecodeJob& job, uint32_t seq, uint32_t head_begin, uint32_t head_end);
void prefill_item(const PrefillJob& job, const PrefillItem& item, void* scratch);
void radix_merge(const RadixMergeJob& job, uint32_t seq, uint32_t row_begin, uint32_t row_end);
void rope_append(const RopeAppendJob& job, uint64_t token_begin, uint64_t token_end);
void merge_states(const MergeParams& p, uint32_t row_begin, uint32_t row_end);
RowScan scan_row(const void* row, int32_t dtype, uint32_t vocab, float* copy, float* group_max);
uint64_t sum_weights(const float* scores, uint32_t vocab, float max, float scale,
                     uint64_t* group_sums);
void gemm_item(const GemmParams& p, const GemmItem& item, void* scratch);
void rms_norm(const NormParams& p, uint64_t begin, uint64_t end);
uint32_t pick_group(const float* scores, uint32_t n, float bound, uint32_t* picked);
void weigh_group(const float* scores, uint32_t n, float max, float scale, uint64_t* weights);

}  // namespace RADIX_CPU_TARGET_NS
}  // namespace radixattn
