// npc_demo: characters who share one world answer questions; then the same without the cache, or on
// another device, and the comparison.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <memory>

#include "device_memory.h"
#include "dialogue.h"
#include "engine.h"
#include "error.h"
#include "files.h"
#include "model.h"
#include "options.h"
#include "report.h"
#include "tokenizer.h"

namespace npc {

namespace {

constexpr double kRequiredAccuracy = 0.95;

bool accurate(uint64_t right, uint64_t questions) {
  return static_cast<double>(right) >= kRequiredAccuracy * static_cast<double>(questions);
}

RunResult run_world(const World& world, Model* model, const Tokenizer& tokenizer, const Options& o,
                    const EngineOptions& engine_options, bool print) {
  Engine engine(model, engine_options);
  const auto start = std::chrono::steady_clock::now();
  RunResult result;
  result.turns =
      run_dialogue(world, tokenizer, &engine, {o.max_tokens, o.sampling}, [&](const Turn& turn) {
        if (print)
          print_turn(world.characters[turn.character], turn, engine.generation(turn.generation));
      });
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  engine.check_cache();
  for (const Turn& turn : result.turns)
    result.generations.push_back(engine.generation(turn.generation));
  result.peak_kv_bytes = engine.peak_kv_bytes();
  result.steps = engine.steps();
  result.reads = engine.reads();
  result.sharing_graph = engine.sharing_graph();
  result.device = engine_options.device == RADIX_DEV_CUDA ? "cuda" : "cpu";
  result.device_name = engine.device_name();
  return result;
}

int run_demo(Model* model, const Tokenizer& tokenizer, const Options& o) {
  const World world = load_worlds(o.data).at(0);
  EngineOptions with = o.engine, without = o.engine;
  without.cache = without.keep_graph = false;
  std::printf("%zu characters, one world; cache on, blocks of %u tokens\n\n",
              world.characters.size(), o.engine.block_size);
  print_table_head();
  const RunResult cached = run_world(world, model, tokenizer, o, with, true);
  std::printf("\nthe same again with the cache off: every request computes its whole prompt ...\n");
  std::fflush(stdout);
  const RunResult uncached = run_world(world, model, tokenizer, o, without, false);
  Comparison c = compare(cached, uncached);
  c.must_be_identical = o.engine.reads.batch_invariant && o.engine.device == RADIX_DEV_CPU;
  print_summary(cached, uncached, c);
  if (!o.json.empty()) write_json(o.json, cached, uncached, c);
  if (!o.graph.empty()) write_file(o.graph, cached.sharing_graph);
  const bool identical = c.identical_tokens && (!c.must_be_identical || c.identical_rows == c.rows);
  return identical && accurate(cached.right_answers(), cached.turns.size()) ? 0 : 1;
}

int run_compare_devices(Model* model, const Tokenizer& tokenizer, const Options& o) {
  const World world = load_worlds(o.data).at(0);
  EngineOptions on_cpu = o.engine, on_cuda = o.engine;
  on_cpu.device = RADIX_DEV_CPU;
  on_cuda.device = RADIX_DEV_CUDA;
  print_table_head();
  const RunResult cuda = run_world(world, model, tokenizer, o, on_cuda, true);
  const RunResult cpu = run_world(world, model, tokenizer, o, on_cpu, false);
  const Comparison c = compare(cpu, cuda);
  print_device_summary(cpu, cuda, c);
  if (!o.json.empty()) write_device_json(o.json, cpu, cuda, c);
  return c.identical_tokens ? 0 : 1;
}

int run_eval(Model* model, const Tokenizer& tokenizer, const Options& o) {
  uint64_t right = 0, questions = 0;
  for (const World& world : load_worlds(o.eval)) {
    const RunResult result = run_world(world, model, tokenizer, o, o.engine, false);
    right += result.right_answers();
    questions += result.turns.size();
  }
  std::printf(
      "%llu of %llu answers right (%.1f%%)\n", static_cast<unsigned long long>(right),
      static_cast<unsigned long long>(questions),
      100.0 * static_cast<double>(right) / static_cast<double>(questions == 0 ? 1 : questions));
  return accurate(right, questions) ? 0 : 1;
}

std::vector<int32_t> parse_ids(const std::string& text) {
  std::vector<int32_t> ids;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (at != end) {
    const auto [next, error] = std::from_chars(at, end, ids.emplace_back());
    if (error != std::errc() || (next != end && *next != ','))
      throw Error("--prompt-ids is no list as in 1,2,3");
    at = next == end ? end : next + 1;
  }
  return ids;
}

// The prompts of the command line, as tokens.
std::vector<std::vector<int32_t>> read_prompts(const Options& o, const Tokenizer* tokenizer) {
  std::vector<std::vector<int32_t>> prompts;
  for (const std::string& prompt : o.prompts) {
    std::vector<int32_t>& ids = prompts.emplace_back(tokenizer->prefix);
    const std::vector<int32_t> text = tokenizer->encode(prompt);
    ids.insert(ids.end(), text.begin(), text.end());
  }
  for (const std::string& ids : o.prompt_ids) prompts.push_back(parse_ids(ids));
  return prompts;
}

void print_continuation(const Tokenizer* tokenizer, const std::vector<int32_t>& prompt,
                        const std::vector<int32_t>& output) {
  if (tokenizer != nullptr)
    std::printf("%s%s\n", tokenizer->decode(prompt).c_str(), tokenizer->decode(output).c_str());
  for (const int32_t token : output) std::printf("%d ", token);
  std::printf("\n");
}

void print_generation(const Tokenizer* tokenizer, const Generation& g) {
  using ull = unsigned long long;
  std::printf("[%u] prompt %zu, cached %llu, computed %llu, ttft %.1f ms, %.1f tok/s", g.id,
              g.prompt.size(), static_cast<ull>(g.cached_tokens),
              static_cast<ull>(g.computed_tokens), g.first_token_s * 1e3, g.tokens_per_s());
  if (g.drafted_tokens > 0) {
    std::printf(", %llu of %llu drafted tokens stand", static_cast<ull>(g.accepted_drafts),
                static_cast<ull>(g.drafted_tokens));
  }
  std::printf("\n");
  print_continuation(tokenizer, g.prompt, g.output);
}

void run_beams(Engine* engine, const Options& o, const Tokenizer* tokenizer,
               const std::vector<int32_t>& prompt) {
  BeamOptions options;
  options.width = o.beams;
  options.max_new_tokens = o.max_tokens;
  for (const Hypothesis& h : engine->beam_search(prompt, options)) {
    std::printf("score %.4f, log-probability %.4f\n", h.score, h.logprob);
    print_continuation(tokenizer, prompt, h.output);
  }
}

// The tokenizer is needed for text only: ids work with any checkpoint.
int run_prompts(Model* model, const Options& o) {
  std::unique_ptr<Tokenizer> tokenizer;
  const std::filesystem::path file = std::filesystem::path(o.model) / "tokenizer.json";
  if (!o.prompts.empty()) tokenizer = load_tokenizer(file);
  EngineOptions options = o.engine;
  options.max_running = std::max({options.max_running, o.num_samples, o.beams});
  Engine engine(model, options);
  for (const std::vector<int32_t>& prompt : read_prompts(o, tokenizer.get())) {
    if (o.beams > 0) {
      run_beams(&engine, o, tokenizer.get(), prompt);
    } else {
      engine.submit(prompt, o.max_tokens, o.sampling, o.num_samples);
    }
  }
  while (engine.step()) {
    for (const uint32_t id : engine.take_finished())
      print_generation(tokenizer.get(), engine.generation(id));
  }
  if (!o.graph.empty()) write_file(o.graph, engine.sharing_graph());
  return 0;
}

int run(int argc, char** argv) {
  const Options o = parse_options(argc, argv);
  if (o.help) {
    std::fputs(usage(), stdout);
    return 0;
  }
  // Before the model is read: a missing device is said at once.
  if (o.compare_devices || o.engine.device == RADIX_DEV_CUDA)
    std::printf("device: %s\n", open_device(RADIX_DEV_CUDA)->name().c_str());
  Model model = Model::load(o.model);
  if (!o.prompts.empty() || !o.prompt_ids.empty()) return run_prompts(&model, o);
  const std::unique_ptr<Tokenizer> tokenizer =
      load_tokenizer(std::filesystem::path(o.model) / "tokenizer.json");
  if (o.compare_devices) return run_compare_devices(&model, *tokenizer, o);
  return o.eval.empty() ? run_demo(&model, *tokenizer, o) : run_eval(&model, *tokenizer, o);
}

}  // namespace

}  // namespace npc

int main(int argc, char** argv) {
  try {
    return npc::run(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "npc_demo: %s\n", e.what());
    return 1;
  }
}
