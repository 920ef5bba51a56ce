// Test-only: writes safetensors files and small random checkpoints, without the code under test.
#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace npc::test {

// A directory of this test's own, removed at the end.
class TempDir {
 public:
  TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  ~TempDir();
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

struct Tensor {
  std::vector<int64_t> shape;
  std::vector<float> values;
};
using Tensors = std::map<std::string, Tensor>;

void write_text(const std::filesystem::path& path, const std::string& text);
// A file of this header text and data, right or wrong.
void write_raw(const std::filesystem::path& path, const std::string& header,
               const std::string& data);
void write_safetensors(const std::filesystem::path& path, const Tensors& tensors,
                       const std::string& dtype = "F32");
// Two shards and their index.
void write_sharded(const std::filesystem::path& dir, const Tensors& tensors);

// The config.json of a small model of this architecture; `more` overrides or adds keys.
nlohmann::json small_config(const std::string& architecture,
                            const nlohmann::json& more = nlohmann::json::object());
// Random weights of exactly the tensors that such a model has.
Tensors random_weights(const nlohmann::json& config, unsigned seed);
void write_checkpoint(const std::filesystem::path& dir, const nlohmann::json& config,
                      const Tensors& tensors);

}  // namespace npc::test
