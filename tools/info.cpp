// Through the public C API alone: what a context can have is asked by making one, without K/V
// memory.
#include "info.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "error.h"
#include "inspect.h"
#include "radixattn.h"
#include "text.h"

namespace tool {

namespace {

using json = nlohmann::ordered_json;

struct Named {
  int32_t value;
  const char* name;
};
constexpr Named kTargets[] = {{RADIX_CPU_BASELINE, "baseline"},
                              {RADIX_CPU_AVX2, "avx2"},
                              {RADIX_CPU_AVX512, "avx512"},
                              {RADIX_CPU_AVX512_BF16, "avx512_bf16"},
                              {RADIX_CPU_NEON, "neon"}};
constexpr Named kDtypes[] = {{RADIX_F32, "f32"},
                             {RADIX_F16, "f16"},
                             {RADIX_BF16, "bf16"},
                             {RADIX_F8_E4M3, "f8_e4m3"},
                             {RADIX_F8_E5M2, "f8_e5m2"}};
constexpr const char* kStructs[] = {
    "radix_allocator",    "radix_executor",    "radix_tensor",       "radix_config",
    "radix_request_desc", "radix_match",       "radix_request_info", "radix_op",
    "radix_append",       "radix_append_out",  "radix_commit_item",  "radix_remap",
    "radix_commit_out",   "radix_stats",       "radix_ns_info",      "radix_attn",
    "radix_rope_append",  "radix_plan_config", "radix_plan_desc",    "radix_plan_info",
    "radix_tree_view",    "radix_match_batch", "radix_sample",       "radix_verify",
    "radix_gemm",         "radix_layer"};

radix_config small_config(int32_t device) {
  radix_config c = {};
  c.struct_size = sizeof c;
  c.abi = RADIXATTN_ABI;
  c.flags = RADIX_CTX_METADATA_ONLY;
  c.device = device;
  c.num_blocks = 1;
  c.num_layers = 1;
  c.num_kv_heads = 1;
  c.head_dim = 64;
  c.max_requests = c.max_pins = c.max_namespaces = 1;
  return c;
}

std::string last_error() {
  char message[512] = "";
  radix_last_error(message, sizeof message);
  return message;
}

// Whether the library makes such a context; `resolved` gets its configuration.
bool takes(const radix_config& config, radix_config* resolved = nullptr) {
  radix_ctx* ctx = nullptr;
  if (radix_ctx_create(&config, &ctx) != RADIX_OK) return false;
  bool ok = true;
  if (resolved != nullptr) {
    *resolved = {};
    resolved->struct_size = sizeof *resolved;
    ok = radix_ctx_get_config(ctx, resolved) == RADIX_OK;
  }
  radix_ctx_destroy(&ctx);
  return ok;
}

int32_t device_count(int32_t device) {
  int32_t count = 0;
  if (radix_device_count(device, &count) != RADIX_OK)
    throw Error("radix_device_count: " + last_error());
  return count;
}

// {"min", "max", "step"} of the values up to `last` that `set` makes a context with.
template <class Set>
json range_of(int32_t device, uint32_t last, Set set) {
  std::vector<uint32_t> taken;
  for (uint32_t value = 1; value <= last; ++value) {
    radix_config c = small_config(device);
    set(&c, value);
    if (takes(c)) taken.push_back(value);
  }
  if (taken.empty()) return nullptr;
  const uint32_t step = taken.size() > 1 ? taken[1] - taken[0] : 1;
  return {{"min", taken.front()}, {"max", taken.back()}, {"step", step}};
}

// What the kernels of a device take, or why there is none.
json device_info(int32_t device, int32_t index) {
  radix_config c = small_config(device);
  c.device_index = index;
  if (!takes(c)) return {{"index", index}, {"error", last_error()}};
  json dtypes = json::array();
  for (const Named& t : kDtypes) {
    c.kv_dtype = t.value;
    if (takes(c)) dtypes.push_back(t.name);
  }
  return {{"index", index},
          {"kv_dtypes", dtypes},
          {"head_dims", range_of(device, 512,
                                 [&](radix_config* p, uint32_t v) {
                                   p->device_index = index;
                                   p->head_dim = v;
                                 })},
          {"block_sizes", range_of(device, 512, [&](radix_config* p, uint32_t v) {
             p->device_index = index;
             p->block_size = v;
           })}};
}

json devices_info(int32_t device) {
  json devices = json::array();
  for (int32_t i = 0; i < device_count(device); ++i) devices.push_back(device_info(device, i));
  return devices;
}

json targets_info() {
  json targets = json::array();
  for (const Named& t : kTargets) {
    radix_config c = small_config(RADIX_DEV_CPU);
    c.cpu_target = t.value;
    if (takes(c)) targets.push_back(t.name);
  }
  return targets;
}

std::string chosen_target() {
  radix_config resolved;
  if (!takes(small_config(RADIX_DEV_CPU), &resolved)) throw Error("no context: " + last_error());
  for (const Named& t : kTargets) {
    if (t.value == resolved.cpu_target) return t.name;
  }
  return std::to_string(resolved.cpu_target);  // a library newer than this program
}

json collect() {
  json structs = json::object();
  for (const char* name : kStructs) structs[name] = radix_struct_size(name);
  return {{"version", radix_version_string()},
          {"abi", radix_abi()},
          {"compiled_for_abi", RADIXATTN_ABI},
          {"build", radix_build_info()},
          {"cpu_targets", targets_info()},
          {"cpu_target", chosen_target()},
          {"cpu", device_info(RADIX_DEV_CPU, 0)},
          {"cuda", devices_info(RADIX_DEV_CUDA)},
          {"struct_sizes", structs}};
}

// ---- the table

std::string words(const json& names) {
  std::string out;
  for (const json& name : names) out += (out.empty() ? "" : " ") + name.get<std::string>();
  return out.empty() ? "none" : out;
}

std::string range_words(const json& range) {
  if (range.is_null()) return "none";
  std::string out = range["min"].dump() + ".." + range["max"].dump();
  if (range["step"] != 1) out += " in steps of " + range["step"].dump();
  return out;
}

std::string line(const std::string& name, const std::string& value) {
  constexpr size_t kWidth = 18;
  return name + std::string(kWidth - std::min(kWidth - 1, name.size()), ' ') + value + "\n";
}

std::string device_lines(const std::string& name, const json& device) {
  if (device.contains("error")) return line(name, device["error"].get<std::string>());
  return line(name, "K/V of " + words(device["kv_dtypes"])) +
         line("", "head dims " + range_words(device["head_dims"])) +
         line("", "block sizes " + range_words(device["block_sizes"]));
}

std::string table(const json& all) {
  std::string out = line("version", all["version"].get<std::string>());
  out += line("ABI", all["abi"].dump());
  out += line("build", all["build"].get<std::string>());
  out += line("CPU targets", words(all["cpu_targets"]) + " (of this build, on this machine)");
  out += line("chosen", all["cpu_target"].get<std::string>());
  out += device_lines("CPU", all["cpu"]);
  if (all["cuda"].empty()) out += line("CUDA devices", "none");
  for (const json& device : all["cuda"])
    out += device_lines("CUDA device " + device["index"].dump(), device);
  return out;
}

}  // namespace

const char* info_usage() {
  return "usage: radixattn info [--json]\n"
         "\n"
         "Says which radixattn this is, what it was built with, and what of it this machine runs.\n"
         "\n"
         "  --json   the same as JSON, with the sizes of the API's structs\n";
}

int info(const std::vector<std::string>& arguments) {
  bool as_json = false;
  for (const std::string& a : arguments) {
    if (a == "--help" || a == "-h") {
      write_output("-", info_usage());
      return 0;
    }
    if (a != "--json") throw UsageError("unknown option " + plain_text(a));
    as_json = true;
  }
  const json all = collect();
  write_output("-", as_json ? all.dump(2) + "\n" : table(all));
  return 0;
}

}  // namespace tool
