// Test-only: the whole model in double precision, written from the papers and Hugging Face's
// definitions, without the example's code, a cache, or the library. One sequence, all positions, no
// tricks.
#pragma once

#include <nlohmann/json.hpp>
#include <vector>

#include "checkpoint_writer.h"

namespace npc::test {

// Logits [tokens, vocab]. Understands the keys that small_config writes, sliding windows and
// rope_scaling.
std::vector<std::vector<double>> plain_forward(const nlohmann::json& config, const Tensors& weights,
                                               const std::vector<int32_t>& tokens);

}  // namespace npc::test
