#include "options.h"

#include <charconv>
#include <functional>
#include <map>
#include <sstream>

#include "error.h"

#ifndef NPC_ASSETS
#define NPC_ASSETS "."
#endif

namespace npc {

namespace {

uint32_t number(const std::string& name, const std::string& text, uint32_t low, uint32_t high) {
  uint32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < low || value > high) {
    throw Error(name + " is \"" + text + "\": expected " + std::to_string(low) + ".." +
                std::to_string(high));
  }
  return value;
}

float real(const std::string& name, const std::string& text, float low, float high) {
  float value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() ||
      !(value >= low && value <= high)) {
    std::ostringstream message;
    message << name << " is \"" << text << "\": expected a number of " << low << ".." << high;
    throw Error(message.str());
  }
  return value;
}

int32_t as_int(uint32_t value) { return static_cast<int32_t>(value); }

uint64_t seed(const std::string& text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size())
    throw Error("--seed is \"" + text + "\": expected 0..2^64-1");
  return value;
}

int32_t kv_dtype(const std::string& text) {
  if (text == "f32") return RADIX_F32;
  if (text == "f16") return RADIX_F16;
  if (text == "bf16") return RADIX_BF16;
  throw Error("--kv-dtype is \"" + text + "\": expected f32, f16 or bf16");
}

int32_t device(const std::string& text) {
  if (text == "cpu") return RADIX_DEV_CPU;
  if (text == "cuda") return RADIX_DEV_CUDA;
  throw Error("--device is \"" + text + "\": expected cpu or cuda");
}

bool yes(const std::string& name, const std::string& text) {
  if (text != "yes" && text != "no") throw Error(name + " is \"" + text + "\": expected yes or no");
  return text == "yes";
}

void check_together(const Options& o) {
  const bool prompts = !o.prompts.empty() || !o.prompt_ids.empty();
  if (o.compare_devices && (prompts || !o.eval.empty()))
    throw Error("--compare-devices asks the questions of --data: expected no --eval, no --prompt");
  if (!prompts && (o.num_samples > 1 || o.beams > 0))
    throw Error("--num-samples and --beams go with --prompt or --prompt-ids");
  if (!o.graph.empty() && (o.compare_devices || !o.eval.empty() || o.beams > 0))
    throw Error("--graph goes without --compare-devices, --eval and --beams");
  if (o.beams > 0 && (o.num_samples > 1 || o.engine.draft_tokens > 0 || o.sampling.temperature > 0))
    throw Error("--beams goes without --num-samples, --draft and --temperature");
}

}  // namespace

const char* usage() {
  return "npc_demo: characters of one world answer questions, with and without a prefix cache\n"
         "\n"
         "  --model DIR       Hugging Face checkpoint: config.json, model.safetensors, "
         "tokenizer.json\n"
         "  --data FILE       the world, its characters and their questions\n"
         "  --json FILE       write the summary as JSON\n"
         "  --graph FILE      write what the requests share at the fullest step: `radixattn "
         "inspect` "
         "draws it\n"
         "  --eval FILE       count right answers on held-out worlds instead\n"
         "  --prompt TEXT     generate freely instead; repeat it for several requests at once\n"
         "  --prompt-ids IDS  the same from token ids, as in 1,15043,29892\n"
         "  --device D        where K/V lives and attention runs: cpu or cuda (cpu)\n"
         "  --compare-devices ask the same questions on both devices, compare answers and logits\n"
         "  --max-tokens N    tokens to generate for one request (32)\n"
         "  --temperature T   draw tokens (0: take the likeliest)\n"
         "  --top-k N  --top-p P  --min-p P  --typical-p P\n"
         "                    draw from the likeliest, or most typical, only (0: all)\n"
         "  --repetition-penalty R  --presence-penalty X  --frequency-penalty X\n"
         "                    of tokens that stand already (0: none)\n"
         "  --seed N          of the draws: the same seed, the same tokens (0)\n"
         "  --num-samples N   continuations of each prompt, forked from one computation (1)\n"
         "  --draft N         tokens guessed by prompt lookup for each request and step (0)\n"
         "  --beams N         beam search of that width instead\n"
         "  --threads N       threads of the attention kernels on the CPU (1)\n"
         "  --block-size N    tokens in a block of the KV cache (16)\n"
         "  --num-blocks N    blocks in the pool (1024)\n"
         "  --step-tokens N   rows computed in one step at most (512)\n"
         "  --max-running N   requests in flight (16)\n"
         "  --kv-dtype T      f32, f16 or bf16 (f16)\n"
         "  --batch-invariant yes|no\n"
         "                    attention gives a row the same bits in every batch, cached or not "
         "(yes)\n"
         "  --share-reads yes|no\n"
         "                    K/V that several requests begin with is read once for all (yes)\n"
         "  --help            this text\n"
         "\n"
         "Exit status: 0; 1 when the two runs give different tokens (on the CPU with "
         "--batch-invariant: different bits),\nfewer than 95% of the answers are right, or on "
         "error "
         "(--device cuda without a CUDA device is one).\n";
}

Options parse_options(int argc, const char* const* argv) {
  Options o;
  o.model = std::string(NPC_ASSETS) + "/model";
  o.data = std::string(NPC_ASSETS) + "/data/demo.json";
  using Value = const std::string&;
  const std::map<std::string, std::function<void(Value)>> known = {
      {"--model", [&](Value v) { o.model = v; }},
      {"--data", [&](Value v) { o.data = v; }},
      {"--json", [&](Value v) { o.json = v; }},
      {"--graph",
       [&](Value v) {
         o.graph = v;
         o.engine.keep_graph = true;
       }},
      {"--eval", [&](Value v) { o.eval = v; }},
      {"--prompt", [&](Value v) { o.prompts.push_back(v); }},
      {"--prompt-ids", [&](Value v) { o.prompt_ids.push_back(v); }},
      {"--device", [&](Value v) { o.engine.device = device(v); }},
      {"--max-tokens", [&](Value v) { o.max_tokens = number("--max-tokens", v, 1, 1u << 20); }},
      {"--temperature",
       [&](Value v) { o.sampling.temperature = real("--temperature", v, 0.f, 100.f); }},
      {"--top-k", [&](Value v) { o.sampling.top_k = as_int(number("--top-k", v, 0, 1u << 20)); }},
      {"--top-p", [&](Value v) { o.sampling.top_p = real("--top-p", v, 0.f, 1.f); }},
      {"--min-p", [&](Value v) { o.sampling.min_p = real("--min-p", v, 0.f, 1.f); }},
      {"--typical-p", [&](Value v) { o.sampling.typical_p = real("--typical-p", v, 0.f, 1.f); }},
      {"--repetition-penalty",
       [&](Value v) {
         o.sampling.repetition_penalty = real("--repetition-penalty", v, 0.f, 100.f);
       }},
      {"--presence-penalty",
       [&](Value v) {
         o.sampling.presence_penalty = real("--presence-penalty", v, -100.f, 100.f);
       }},
      {"--frequency-penalty",
       [&](Value v) {
         o.sampling.frequency_penalty = real("--frequency-penalty", v, -100.f, 100.f);
       }},
      {"--seed", [&](Value v) { o.sampling.seed = seed(v); }},
      {"--num-samples", [&](Value v) { o.num_samples = number("--num-samples", v, 1, 1024); }},
      {"--draft", [&](Value v) { o.engine.draft_tokens = number("--draft", v, 0, 64); }},
      {"--beams", [&](Value v) { o.beams = number("--beams", v, 1, 1024); }},
      {"--threads", [&](Value v) { o.engine.threads = number("--threads", v, 1, 1024); }},
      {"--block-size", [&](Value v) { o.engine.block_size = number("--block-size", v, 1, 256); }},
      {"--num-blocks",
       [&](Value v) { o.engine.num_blocks = number("--num-blocks", v, 1, 1u << 24); }},
      {"--step-tokens",
       [&](Value v) { o.engine.step_tokens = number("--step-tokens", v, 1, 1u << 20); }},
      {"--max-running",
       [&](Value v) { o.engine.max_running = number("--max-running", v, 1, 1024); }},
      {"--kv-dtype", [&](Value v) { o.engine.kv_dtype = kv_dtype(v); }},
      {"--batch-invariant",
       [&](Value v) { o.engine.reads.batch_invariant = yes("--batch-invariant", v); }},
      {"--share-reads", [&](Value v) { o.engine.reads.shared = yes("--share-reads", v); }},
  };
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--help" || name == "-h") {
      o.help = true;
      continue;
    }
    if (name == "--compare-devices") {
      o.compare_devices = true;
      continue;
    }
    const auto it = known.find(name);
    if (it == known.end()) throw Error("unknown option " + name + ": see --help");
    if (++i == argc) throw Error(name + " needs a value: see --help");
    it->second(argv[i]);
  }
  check_together(o);
  return o;
}

}  // namespace npc
