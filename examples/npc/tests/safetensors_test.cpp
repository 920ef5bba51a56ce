#include "safetensors.h"

#include <gtest/gtest.h>

#include <cmath>

#include "checkpoint_writer.h"
#include "error.h"

namespace npc::test {
namespace {

std::string open_error(const std::filesystem::path& dir) {
  try {
    Checkpoint::open(dir);
  } catch (const Error& e) {
    return e.what();
  }
  return "opened";
}

struct BadFile {
  const char* name;
  const char* header;
  size_t data_bytes;
  const char* expected;  // part of the message
};

class SafetensorsRefuses : public testing::TestWithParam<BadFile> {};

TEST_P(SafetensorsRefuses, WithAMessage) {
  const TempDir dir;
  write_raw(dir.path() / "model.safetensors", GetParam().header,
            std::string(GetParam().data_bytes, 'x'));
  EXPECT_NE(open_error(dir.path()).find(GetParam().expected), std::string::npos)
      << open_error(dir.path());
}

INSTANTIATE_TEST_SUITE_P(
    Headers, SafetensorsRefuses,
    testing::Values(
        BadFile{"NotJson", "{\"a\":", 0, "parse error"},
        BadFile{"NotAnObject", "[1]", 0, "not a JSON object"},
        BadFile{"EntryNotAnObject", R"({"a":1})", 0, "is not an object"},
        BadFile{"NoDtype", R"({"a":{"shape":[1],"data_offsets":[0,4]}})", 4, "has no dtype"},
        BadFile{"UnknownDtype", R"({"a":{"dtype":"F7","shape":[1],"data_offsets":[0,4]}})", 4,
                "unknown dtype F7"},
        BadFile{"NegativeShape", R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4,
                "no unsigned number"},
        BadFile{"FractionalOffset", R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4.5]}})",
                4, "no unsigned"},
        BadFile{"ThreeOffsets", R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}})", 8,
                "not a pair"},
        BadFile{"PastTheEnd", R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 4,
                "leave the 4 bytes"},
        BadFile{"Backwards", R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4,
                "leave the"},
        BadFile{"ShapeTooLarge", R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4,
                "need 8"},
        BadFile{"ShapeOverflows",
                R"({"a":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,4]}})",
                4, "overflows"},
        BadFile{"Overlap",
                R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
                "b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
                12, "overlap at data offset 4"},
        BadFile{"Gap",
                R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},
                "b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}})",
                12, "gap in the data at offset 4"},
        BadFile{"Trailing", R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 7,
                "3 bytes after"}),
    [](const auto& test) { return test.param.name; });

TEST(Safetensors, RefusesAHeaderLongerThanTheFile) {
  const TempDir dir;
  write_text(dir.path() / "model.safetensors",
             std::string("\xff\xff\xff\xff\xff\xff\xff\x7f{}", 10));
  EXPECT_NE(open_error(dir.path()).find("header of"), std::string::npos);
  write_text(dir.path() / "model.safetensors", std::string("\x03\0\0\0\0\0\0\0{}", 10));
  EXPECT_NE(open_error(dir.path()).find("header of 3 bytes in a file of 10"), std::string::npos);
  write_text(dir.path() / "model.safetensors", "1234567");
  EXPECT_NE(open_error(dir.path()).find("too short"), std::string::npos);
  write_text(dir.path() / "model.safetensors", "");
  EXPECT_NE(open_error(dir.path()).find("too short"), std::string::npos);
}

TEST(Safetensors, RefusesDeepNesting) {
  const TempDir dir;
  write_raw(dir.path() / "model.safetensors", std::string(100000, '['), "");
  EXPECT_NE(open_error(dir.path()).find("nested deeper"), std::string::npos);
}

TEST(Safetensors, NamesAMissingFile) {
  const TempDir dir;
  EXPECT_NE(open_error(dir.path()).find("neither model.safetensors nor"), std::string::npos);
}

TEST(Safetensors, ConvertsEveryFloatType) {
  const Tensors tensors = {{"a", {{2, 3}, {0.f, 1.f, -2.f, 0.5f, 96.f, -0.015625f}}},
                           {"empty", {{0, 4}, {}}}};
  for (const char* dtype : {"F32", "F16", "BF16"}) {
    const TempDir dir;
    write_safetensors(dir.path() / "model.safetensors", tensors, dtype);
    const Checkpoint c = Checkpoint::open(dir.path());
    EXPECT_EQ(c.floats("a", {2, 3}), tensors.at("a").values) << dtype;
    EXPECT_TRUE(c.floats("empty", {0, 4}).empty());
    EXPECT_THROW(c.floats("a", {3, 2}), Error);
    EXPECT_THROW(c.floats("b", {1}), Error);
  }
}

TEST(Safetensors, RefusesToConvertIntegers) {
  const TempDir dir;
  write_raw(dir.path() / "model.safetensors",
            R"({"a":{"dtype":"I32","shape":[1],"data_offsets":[0,4]}})", "xxxx");
  EXPECT_THROW(Checkpoint::open(dir.path()).floats("a", {1}), Error);
}

TEST(Safetensors, HalfPrecisionEdges) {
  EXPECT_EQ(half_to_float(0x0001), std::ldexp(1.f, -24));
  EXPECT_EQ(half_to_float(0x03ff), std::ldexp(1023.f, -24));
  EXPECT_EQ(half_to_float(0x0400), std::ldexp(1.f, -14));
  EXPECT_EQ(half_to_float(0x7bff), 65504.f);
  EXPECT_EQ(half_to_float(0xc000), -2.f);
  EXPECT_EQ(half_to_float(0x7c00), INFINITY);
  EXPECT_TRUE(std::signbit(half_to_float(0x8000)));
  EXPECT_TRUE(std::isnan(half_to_float(0x7e00)));
  EXPECT_EQ(bfloat16_to_float(0x3f80), 1.f);
}

TEST(Safetensors, ReadsShards) {
  const TempDir dir;
  const Tensors tensors = {{"a", {{2}, {1, 2}}}, {"b", {{1}, {3}}}, {"c", {{3}, {4, 5, 6}}}};
  write_sharded(dir.path(), tensors);
  const Checkpoint c = Checkpoint::open(dir.path());
  EXPECT_EQ(c.tensors().size(), 3u);
  for (const auto& [name, t] : tensors) EXPECT_EQ(c.floats(name, t.shape), t.values);
}

TEST(Safetensors, RefusesBadShards) {
  const TempDir dir;
  write_sharded(dir.path(), {{"a", {{1}, {1}}}, {"b", {{1}, {2}}}});
  const auto index = dir.path() / "model.safetensors.index.json";
  write_text(index, R"({"weight_map":{"a":"../model-00001-of-00002.safetensors"}})");
  EXPECT_NE(open_error(dir.path()).find("plain file name"), std::string::npos);
  write_text(index, R"({"weight_map":{"missing":"model-00001-of-00002.safetensors"}})");
  EXPECT_NE(open_error(dir.path()).find("in no shard"), std::string::npos);
  write_text(index, R"({"weight_map":{"a":"model-00003-of-00002.safetensors"}})");
  EXPECT_NE(open_error(dir.path()).find("cannot be opened"), std::string::npos);
  write_text(index, R"({})");
  EXPECT_NE(open_error(dir.path()).find("no weight_map"), std::string::npos);
  std::filesystem::copy(dir.path() / "model-00001-of-00002.safetensors",
                        dir.path() / "copy.safetensors");
  write_text(index,
             R"({"weight_map":{"a":"model-00001-of-00002.safetensors","b":"copy.safetensors"}})");
  EXPECT_NE(open_error(dir.path()).find("in two shards"), std::string::npos);
}

}  // namespace
}  // namespace npc::test
