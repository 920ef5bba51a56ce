#include "safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "error.h"
#include "files.h"

namespace npc {

namespace fs = std::filesystem;
using nlohmann::json;

class MappedFile {
 public:
  explicit MappedFile(const fs::path& path) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) throw Error(path.string() + ": cannot be opened: " + std::strerror(errno));
    struct stat st = {};
    const bool ok = ::fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
    if (ok && st.st_size > 0) {
      size_ = static_cast<size_t>(st.st_size);
      address_ = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
    }
    ::close(fd);
    if (!ok || address_ == MAP_FAILED) throw Error(path.string() + ": cannot be mapped");
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile() {
    if (address_ != nullptr && address_ != MAP_FAILED) ::munmap(address_, size_);
  }

  const std::byte* data() const { return static_cast<const std::byte*>(address_); }
  size_t size() const { return size_; }

 private:
  void* address_ = nullptr;
  size_t size_ = 0;
};

namespace {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the limit of the reference implementation

struct DTypeInfo {
  const char* name;
  DType dtype;
  uint64_t bytes;
};
constexpr DTypeInfo kDTypes[] = {
    {"F32", DType::F32, 4},    {"F16", DType::F16, 2},       {"BF16", DType::BF16, 2},
    {"F64", DType::Other, 8},  {"I64", DType::Other, 8},     {"I32", DType::Other, 4},
    {"I16", DType::Other, 2},  {"I8", DType::Other, 1},      {"U64", DType::Other, 8},
    {"U32", DType::Other, 4},  {"U16", DType::Other, 2},     {"U8", DType::Other, 1},
    {"BOOL", DType::Other, 1}, {"F8_E4M3", DType::Other, 1}, {"F8_E5M2", DType::Other, 1},
};

// One entry of the header, checked against everything but the other entries.
class EntryReader {
 public:
  EntryReader(std::string where, const json& entry) : where_(std::move(where)), entry_(entry) {}

  TensorView read(const std::byte* data, uint64_t data_bytes, uint64_t* begin, uint64_t* end) {
    if (!entry_.is_object()) fail("is not an object");
    TensorView t;
    const DTypeInfo& info = dtype();
    t.dtype = info.dtype;
    t.dtype_name = info.name;
    const uint64_t want = shape_bytes(info.bytes, &t.shape);
    const json& offsets = member("data_offsets");
    if (!offsets.is_array() || offsets.size() != 2) fail("data_offsets is not a pair");
    *begin = unsigned_number(offsets[0], "data_offsets");
    *end = unsigned_number(offsets[1], "data_offsets");
    if (*begin > *end || *end > data_bytes) {
      fail("data_offsets [" + std::to_string(*begin) + ", " + std::to_string(*end) +
           ") leave the " + std::to_string(data_bytes) + " bytes of data");
    }
    if (*end - *begin != want) {
      fail("has " + std::to_string(*end - *begin) + " bytes, its shape and dtype need " +
           std::to_string(want));
    }
    t.data = data + *begin;
    t.bytes = static_cast<size_t>(want);
    return t;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { throw Error(where_ + " " + what); }

  const json& member(const char* name) const {
    const auto it = entry_.find(name);
    if (it == entry_.end()) fail(std::string("has no ") + name);
    return *it;
  }

  uint64_t unsigned_number(const json& v, const char* name) const {
    if (!v.is_number_unsigned())
      fail(std::string(name) + " holds something that is no unsigned number");
    return v.get<uint64_t>();
  }

  const DTypeInfo& dtype() const {
    const json& name = member("dtype");
    if (!name.is_string()) fail("dtype is not a string");
    for (const DTypeInfo& info : kDTypes) {
      if (name.get_ref<const std::string&>() == info.name) return info;
    }
    fail("has unknown dtype " + name.get<std::string>());
  }

  uint64_t shape_bytes(uint64_t element_bytes, std::vector<int64_t>* shape) const {
    const json& dims = member("shape");
    if (!dims.is_array()) fail("shape is not an array");
    uint64_t bytes = element_bytes;
    for (const json& d : dims) {
      const uint64_t n = unsigned_number(d, "shape");
      constexpr auto kMax = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
      if (n > kMax || (n != 0 && bytes > kMax / n)) fail("has a shape that overflows");
      bytes *= n;
      shape->push_back(static_cast<int64_t>(n));
    }
    return bytes;
  }

  std::string where_;
  const json& entry_;
};

json parse_header(const MappedFile& file, const std::string& name, uint64_t* data_begin) {
  if (file.size() < 8)
    throw Error(name + ": " + std::to_string(file.size()) + " bytes: too short for a header");
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | std::to_integer<uint64_t>(file.data()[i]);
  if (length > kMaxHeaderBytes || length > file.size() - 8) {
    throw Error(name + ": header of " + std::to_string(length) + " bytes in a file of " +
                std::to_string(file.size()));
  }
  const char* text = reinterpret_cast<const char*>(file.data()) + 8;
  *data_begin = 8 + length;
  return parse_json(std::string_view(text, length), name + ": header");
}

// The data must be exactly covered: an overlap hides one tensor in another, a gap hides anything.
void check_coverage(std::vector<std::pair<uint64_t, uint64_t>> ranges, uint64_t data_bytes,
                    const std::string& name) {
  std::sort(ranges.begin(), ranges.end());
  uint64_t at = 0;
  for (const auto& [begin, end] : ranges) {
    if (begin < at) throw Error(name + ": tensors overlap at data offset " + std::to_string(begin));
    if (begin > at) throw Error(name + ": a gap in the data at offset " + std::to_string(at));
    at = end;
  }
  if (at != data_bytes)
    throw Error(name + ": " + std::to_string(data_bytes - at) + " bytes after the last tensor");
}

}  // namespace

int64_t TensorView::elements() const {
  int64_t n = 1;
  for (const int64_t d : shape) n *= d;
  return n;
}

Checkpoint::Checkpoint() = default;
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint::~Checkpoint() = default;

Checkpoint Checkpoint::open(const fs::path& dir) {
  Checkpoint checkpoint;
  const fs::path single = dir / "model.safetensors";
  const fs::path index = dir / "model.safetensors.index.json";
  if (fs::exists(single)) {
    checkpoint.add_file(single);
  } else if (fs::exists(index)) {
    checkpoint.open_shards(dir, index);
  } else {
    throw Error(dir.string() +
                ": neither model.safetensors nor model.safetensors.index.json is there");
  }
  return checkpoint;
}

void Checkpoint::add_file(const fs::path& path) {
  const std::string name = path.string();
  auto file = std::make_unique<MappedFile>(path);
  uint64_t data_begin = 0;
  const json header = parse_header(*file, name, &data_begin);
  if (!header.is_object()) throw Error(name + ": header is not a JSON object");
  const uint64_t data_bytes = file->size() - data_begin;
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  for (const auto& [key, entry] : header.items()) {
    if (key == "__metadata__") continue;
    uint64_t begin = 0, end = 0;
    TensorView t = EntryReader(name + ": tensor " + key, entry)
                       .read(file->data() + data_begin, data_bytes, &begin, &end);
    if (begin != end) ranges.emplace_back(begin, end);
    if (!tensors_.emplace(key, std::move(t)).second)
      throw Error(name + ": tensor " + key + " is in two shards");
  }
  check_coverage(std::move(ranges), data_bytes, name);
  files_.push_back(std::move(file));
}

void Checkpoint::open_shards(const fs::path& dir, const fs::path& index) {
  const json doc = parse_json_file(index);
  const auto map = doc.find("weight_map");
  if (map == doc.end() || !map->is_object()) throw Error(index.string() + ": no weight_map");
  std::set<std::string> shards;
  for (const auto& [key, shard] : map->items()) {
    if (!shard.is_string())
      throw Error(index.string() + ": the shard of " + key + " is not a string");
    const std::string file = shard.get<std::string>();
    // A shard stands beside its index: a path with directories would let a checkpoint read any
    // file.
    if (file.empty() || file == ".." || file.find('/') != std::string::npos) {
      throw Error(index.string() + ": \"" + file + "\" is not a plain file name");
    }
    shards.insert(file);
  }
  for (const std::string& shard : shards) add_file(dir / shard);
  for (const auto& [key, shard] : map->items()) {
    if (!contains(key)) throw Error(index.string() + ": tensor " + key + " is in no shard");
  }
}

const TensorView& Checkpoint::view(const std::string& name) const {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) throw Error("the checkpoint has no tensor " + name);
  return it->second;
}

std::vector<float> Checkpoint::floats(const std::string& name,
                                      const std::vector<int64_t>& shape) const {
  const TensorView& t = view(name);
  if (t.shape != shape) {
    throw Error("tensor " + name + " has shape " + json(t.shape).dump() + ": expected " +
                json(shape).dump());
  }
  std::vector<float> out(static_cast<size_t>(t.elements()));
  if (t.dtype == DType::F32) {
    if (!out.empty()) std::memcpy(out.data(), t.data, t.bytes);
    return out;
  }
  if (t.dtype == DType::Other)
    throw Error("tensor " + name + " is " + t.dtype_name + ": expected F32, F16 or BF16");
  const auto convert = t.dtype == DType::F16 ? half_to_float : bfloat16_to_float;
  for (size_t i = 0; i < out.size(); ++i) {
    uint16_t bits = 0;
    std::memcpy(&bits, t.data + 2 * i, 2);
    out[i] = convert(bits);
  }
  return out;
}

float half_to_float(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = bits >> 10 & 0x1fu;
  const uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  const uint32_t wide = exponent == 31 ? 255u : exponent + 112u;
  return std::bit_cast<float>(sign | wide << 23 | mantissa << 13);
}

float bfloat16_to_float(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

}  // namespace npc
