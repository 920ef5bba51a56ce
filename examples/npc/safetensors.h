// Reads Hugging Face checkpoints: model.safetensors, or shards named by
// model.safetensors.index.json.
//
// A file is: u64 little-endian header length, a JSON header {name: {dtype, shape, data_offsets}},
// then the data. Files are untrusted: header length, JSON, dtypes, shapes, offsets, gaps and
// overlaps are all verified when a file is opened; anything wrong is an npc::Error that names the
// file and the tensor. Data is mapped, not read: tensors are views that live as long as the
// Checkpoint.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace npc {

enum class DType {
  F32,
  F16,
  BF16,
  Other
};  // Other: valid in a file, not convertible to float here

struct TensorView {
  DType dtype = DType::Other;
  std::string dtype_name;  // as the file spells it
  std::vector<int64_t> shape;
  const std::byte* data = nullptr;  // may be unaligned
  size_t bytes = 0;

  int64_t elements() const;
};

class MappedFile;  // a read-only mapping of a whole file

class Checkpoint {
 public:
  // Opens `dir`/model.safetensors, or all shards of `dir`/model.safetensors.index.json.
  static Checkpoint open(const std::filesystem::path& dir);
  Checkpoint(Checkpoint&&) noexcept;
  ~Checkpoint();

  bool contains(const std::string& name) const { return tensors_.count(name) != 0; }
  const TensorView& view(const std::string& name) const;
  const std::map<std::string, TensorView>& tensors() const { return tensors_; }

  // The tensor as floats; throws unless it exists, has exactly `shape`, and is F32, F16 or BF16.
  std::vector<float> floats(const std::string& name, const std::vector<int64_t>& shape) const;

 private:
  Checkpoint();
  void add_file(const std::filesystem::path& path);
  void open_shards(const std::filesystem::path& dir, const std::filesystem::path& index);

  std::vector<std::unique_ptr<MappedFile>> files_;
  std::map<std::string, TensorView> tensors_;
};

float half_to_float(uint16_t bits);      // IEEE binary16, subnormals and infinities included
float bfloat16_to_float(uint16_t bits);  // the upper half of a binary32

}  // namespace npc
