// The .safetensors reader and writer of the programs: what they accept, and that every malformed
// file is refused with one sentence that names it.
#include "safetensors.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <sstream>

#include "program.hpp"

namespace {

using support::InputError;
using support::Safetensors;

std::string file(const std::string& header, std::size_t data_bytes) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(header.size() >> (8 * i) & 0xff);
  return bytes + header + std::string(data_bytes, '\0');
}

std::string entry(const std::string& name, const std::string& shape, const std::string& offsets,
                  const std::string& type = "\"F32\"") {
  return "\"" + name + "\":{\"dtype\":" + type + ",\"shape\":" + shape +
         ",\"data_offsets\":" + offsets + "}";
}

Safetensors parse(const std::string& bytes) {
  std::istringstream in(bytes);
  return support::parse_safetensors(in, bytes.size(), "x.safetensors");
}

std::string refusal(const std::string& bytes) {
  try {
    parse(bytes);
  } catch (const InputError& error) {
    const std::string what = error.what();
    EXPECT_NE(what.find("'x.safetensors'"), std::string::npos) << what;
    EXPECT_EQ(what.find('\n'), std::string::npos) << what;
    EXPECT_LT(what.size(), 250U) << what;
    return what;
  }
  return "accepted";
}

void expect_refused(const std::string& bytes, const std::string& because) {
  const std::string what = refusal(bytes);
  EXPECT_NE(what.find(because), std::string::npos) << what << "\nshould say: " << because;
}

// One tensor of two numbers, described by `offsets` and so on.
void expect_entry_refused(const std::string& described, const std::string& because) {
  expect_refused(file("{" + described + "}", 8), because);
}

Safetensors example() {
  Safetensors contents;
  contents.metadata = {{"format", "x"}, {"note", "\"quoted\"\n\xc3\xa4"}};
  contents.tensors["b"] = {{2, 3}, {1, -2, 0.5F, 0, 1e30F, -1e-30F}};
  contents.tensors["a.weight"] = {{1}, {std::numeric_limits<float>::infinity()}};
  contents.tensors["number"] = {{}, {7}};
  return contents;
}

TEST(Safetensors, ReadsWhatItWrites) {
  const TemporaryFolder folder;
  const std::string path = folder / "m.safetensors";
  const Safetensors written = example();
  support::write_safetensors(path, written);
  const Safetensors read = support::read_safetensors(path);
  EXPECT_EQ(read.metadata, written.metadata);
  ASSERT_EQ(read.tensors.size(), written.tensors.size());
  for (const auto& [name, array] : written.tensors) {
    EXPECT_EQ(read.tensors.at(name).shape, array.shape) << name;
    EXPECT_EQ(read.tensors.at(name).data, array.data) << name;
  }
  EXPECT_EQ(folder.names(), std::vector<std::string>{"m.safetensors"});
}

TEST(Safetensors, WritesTheSameBytesForTheSameContents) {
  const std::string bytes = support::safetensors_bytes("m", example());
  EXPECT_EQ(support::safetensors_bytes("m", parse(bytes)), bytes);
  // Data begins at a multiple of 8 bytes, as other writers of the format have it.
  EXPECT_EQ((bytes.size() - 8 * sizeof(float)) % 8, 0U);
}

TEST(Safetensors, ReadsTensorsInAnyOrder) {
  const std::string header =
      "{" + entry("late", "[1]", "[8,12]") + "," + entry("early", "[2]", "[0,8]") + "}   ";
  std::string bytes = file(header, 12);
  const float values[3] = {1, 2, 3};
  bytes.replace(bytes.size() - 12, 12, reinterpret_cast<const char*>(values), 12);
  const Safetensors contents = parse(bytes);
  EXPECT_EQ(contents.tensors.at("early").data, (std::vector<float>{1, 2}));
  EXPECT_EQ(contents.tensors.at("late").data, (std::vector<float>{3}));
  EXPECT_TRUE(contents.metadata.empty());
  EXPECT_TRUE(parse(file("{}", 0)).tensors.empty());
}

TEST(Safetensors, RefusesEveryTruncation) {
  const std::string good = support::safetensors_bytes("m", example());
  EXPECT_EQ(refusal(good), "accepted");
  for (std::size_t size = 0; size < good.size(); ++size)
    EXPECT_NE(refusal(good.substr(0, size)), "accepted") << size;
  expect_refused(good + "x", "is longer than its header says: tensors take 32 of the 33 bytes");
}

TEST(Safetensors, RefusesOtherFiles) {
  expect_refused("", "is not a .safetensors file: it has 0 bytes");
  expect_refused("PK\x03\x04 a zip archive of arrays", "is truncated or not a .safetensors file");
  expect_refused(file("{}", 0).replace(7, 1, "\x7f"),
                 "its header claims 9151314442816847874 bytes");
}

TEST(Safetensors, RefusesMalformedHeaders) {
  expect_refused(file("", 0), "malformed header: its JSON goes wrong at byte");
  expect_refused(file("{\"a\":", 0), "malformed header: its JSON goes wrong at byte");
  expect_refused(file("{\"a\xff\":1}", 0), "malformed header: its JSON goes wrong at byte");
  expect_refused(file("{} {}", 0), "malformed header: its JSON goes wrong at byte");
  expect_refused(file("[]", 0), "malformed header: it is no JSON object");
  expect_refused(file("{\"a\":1e999}", 0), "a number beyond double");
  expect_refused(file(std::string(100000, '['), 0), "its JSON is nested too deep");
  expect_refused(file("{\"a\":{\"b\":{\"c\":{\"d\":{}}}}}", 0), "its JSON is nested too deep");
  const std::string tensor = entry("a", "[1]", "[0,4]");
  expect_refused(file("{" + tensor + "," + tensor + "}", 4), "the key 'a' is there twice");
  expect_refused(file("{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\"}}", 4),
                 "the key 'dtype' is there twice");
  expect_refused(file("{\"__metadata__\":[]}", 0), "__metadata__ is '[]', not an object");
  expect_refused(file("{\"__metadata__\":{\"dim\":8}}", 0),
                 "__metadata__ 'dim' is '8', not a string");
  // A key may come again in another object.
  EXPECT_EQ(
      refusal(file("{" + entry("a", "[1]", "[0,4]") + "," + entry("b", "[1]", "[4,8]") + "}", 8)),
      "accepted");
}

TEST(Safetensors, RefusesOtherTypes) {
  for (const std::string type : {"F16", "BF16", "F64", "I8", "f32", ""})
    expect_entry_refused(entry("w", "[2]", "[0,8]", "\"" + type + "\""), "only F32 is read");
  expect_entry_refused(entry("w", "[2]", "[0,8]", "\"F64\""), "tensor 'w' has dtype '\"F64\"'");
  expect_entry_refused(entry("w", "[2]", "[0,8]", "32"), "has dtype '32'");
}

TEST(Safetensors, RefusesMalformedTensors) {
  for (const std::string value : {"1", "[]", "{}", "{\"dtype\":\"F32\",\"shape\":[2]}",
                                  "{\"dtype\":\"F32\",\"shape\":[2],\"offsets\":[0,8]}"})
    expect_entry_refused("\"w\":" + value, "not by dtype, shape and data_offsets");
  for (const std::string shape : {"2", "{}", "\"2\"", "null"})
    expect_entry_refused(entry("w", shape, "[0,8]"), "not a list");
  for (const std::string extent : {"0", "-2", "2.0", "\"2\"", "null", "9223372036854775808"})
    expect_entry_refused(entry("w", "[" + extent + "]", "[0,8]"), "whole numbers from 1 are read");
  for (const std::string offsets :
       {"8", "[0]", "[0,8,8]", "[8,0]", "[-8,0]", "[0.0,8]", "[0,\"8\"]"})
    expect_entry_refused(entry("w", "[2]", offsets), "not two whole numbers in order");
  expect_entry_refused(entry("w", "[2]", "[4,12]"), "tensor 'w' ends at byte 12 of the 8");
  expect_entry_refused(entry("w", "[2]", "[0,18446744073709551615]"), "ends at byte");
}

TEST(Safetensors, RefusesShapesThatDoNotFillTheirBytes) {
  expect_entry_refused(entry("w", "[3]", "[0,8]"), "shape 3, which does not fill its 8 bytes");
  expect_entry_refused(entry("w", "[1]", "[0,8]"), "shape 1, which does not fill its 8 bytes");
  expect_entry_refused(entry("w", "[1]", "[0,5]"), "does not fill its 5 bytes");
  expect_entry_refused(entry("w", "[]", "[0,0]"), "does not fill its 0 bytes");
  // Products that wrap around to the right size in 64 bits.
  expect_entry_refused(entry("w", "[4611686018427387904,4]", "[0,0]"), "does not fill");
  expect_entry_refused(entry("w", "[4294967296,4294967296,2]", "[0,8]"), "does not fill");
}

TEST(Safetensors, RefusesGapsAndOverlaps) {
  const auto two = [](const std::string& first, const std::string& second) {
    return file("{" + entry("a", "[1]", first) + "," + entry("b", "[1]", second) + "}", 12);
  };
  expect_refused(two("[0,4]", "[8,12]"), "tensor 'b' begins at byte 8 where 4 is the next");
  expect_refused(two("[4,8]", "[8,12]"), "tensor 'a' begins at byte 4 where 0 is the next");
  expect_refused(two("[0,4]", "[0,4]"), "begins at byte 0 where 4 is the next");
  expect_refused(two("[0,4]", "[4,8]"), "tensors take 8 of the 12 bytes behind the header");
}

TEST(Safetensors, RefusesToWriteWhatItWouldNotRead) {
  const TemporaryFolder folder;
  const auto refuses = [&](const Safetensors& contents, const std::string& because) {
    try {
      support::write_safetensors(folder / "m.safetensors", contents);
      ADD_FAILURE() << because;
    } catch (const InputError& error) {
      const std::string what = error.what();
      EXPECT_NE(what.find(because), std::string::npos) << what;
      EXPECT_NE(what.find("m.safetensors'"), std::string::npos) << what;
    }
    EXPECT_TRUE(folder.names().empty());
  };
  Safetensors contents;
  contents.tensors["w"] = {{2, 2}, {1, 2, 3}};
  refuses(contents, "tensor 'w' has shape 2 x 2 and 3 elements");
  contents.tensors["w"] = {{2, 0}, {}};
  refuses(contents, "tensor 'w' has shape 2 x 0 and 0 elements");
  contents.tensors = {{"__metadata__", {{1}, {1}}}};
  refuses(contents, "tensor '__metadata__' has the name of the metadata");
  contents.tensors = {{"w\xff", {{1}, {1}}}};
  refuses(contents, "is not UTF-8");
}

TEST(Safetensors, SaysWhichFileIsMissing) {
  const TemporaryFolder folder;
  EXPECT_THROW(support::read_safetensors(folder / "missing.safetensors"), InputError);
  EXPECT_THROW(support::read_safetensors("/dev/zero"), InputError);
  EXPECT_THROW(support::write_safetensors(folder / "none/m.safetensors", example()), InputError);
  EXPECT_TRUE(folder.names().empty());
}

}  // namespace
