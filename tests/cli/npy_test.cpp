// The .npy reader and writer of the programs: what they accept, and that every malformed file is
// refused with one sentence that names it.
#include "npy.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <sstream>

#include "temporary_folder.hpp"

namespace {

using support::FloatArray;
using support::InputError;

std::string prelude(int major, std::size_t header_size) {
  std::string bytes = "\x93NUMPY";
  bytes += static_cast<char>(major);
  bytes += '\0';
  for (int i = 0; i < (major == 1 ? 2 : 4); ++i)
    bytes += static_cast<char>(header_size >> (8 * i) & 0xff);
  return bytes;
}

std::string dictionary(const std::string& shape, const std::string& descr = "'<f4'",
                       const std::string& order = "False") {
  return "{'descr': " + descr + ", 'fortran_order': " + order + ", 'shape': " + shape + ", }  \n";
}

std::string file(const std::string& header, std::size_t data_bytes, int major = 1) {
  return prelude(major, header.size()) + header + std::string(data_bytes, '\0');
}

FloatArray parse(const std::string& bytes) {
  std::istringstream in(bytes);
  return support::parse_npy(in, bytes.size(), "x.npy");
}

std::string refusal(const std::string& bytes) {
  try {
    parse(bytes);
  } catch (const InputError& error) {
    const std::string what = error.what();
    EXPECT_NE(what.find("'x.npy'"), std::string::npos) << what;
    EXPECT_EQ(what.find('\n'), std::string::npos) << what;
    return what;
  }
  return "accepted";
}

void expect_refused(const std::string& bytes, const std::string& because) {
  const std::string what = refusal(bytes);
  EXPECT_NE(what.find(because), std::string::npos) << what << "\nshould say: " << because;
}

TEST(Npy, ReadsEveryFormatVersion) {
  for (const int major : {1, 2, 3}) {
    const std::string header = dictionary("(2, 3)");
    const float values[6] = {1, -2, 0.5F, 0, 1e30F, -1e-30F};
    const std::string bytes = prelude(major, header.size()) + header +
                              std::string(reinterpret_cast<const char*>(values), sizeof values);
    const FloatArray array = parse(bytes);
    EXPECT_EQ(array.shape, (std::vector<lowatt::Index>{2, 3}));
    EXPECT_EQ(array.data, std::vector<float>(values, values + 6));
  }
}

TEST(Npy, ReadsKeysInAnyOrderAndBothQuotes) {
  const FloatArray array =
      parse(file("{\"shape\":(1,2,3),\"fortran_order\":False,\"descr\":\"<f4\"}\n", 24));
  EXPECT_EQ(array.shape, (std::vector<lowatt::Index>{1, 2, 3}));
}

TEST(Npy, ReadsOtherRanks) {
  EXPECT_EQ(parse(file(dictionary("(5,)"), 20)).shape, (std::vector<lowatt::Index>{5}));
  EXPECT_EQ(parse(file(dictionary("()"), 4)).shape, (std::vector<lowatt::Index>{}));
  EXPECT_EQ(parse(file(dictionary("(1, 1, 1, 2)"), 8)).shape.size(), 4U);
}

TEST(Npy, RefusesEveryTruncation) {
  const std::string good = file(dictionary("(2, 3)"), 24);
  EXPECT_EQ(refusal(good), "accepted");
  for (std::size_t size = 0; size < good.size(); ++size)
    EXPECT_NE(refusal(good.substr(0, size)), "accepted") << size;
  for (const int major : {2, 3})
    for (std::size_t size = 8; size < 14; ++size)
      EXPECT_NE(refusal(file(dictionary("(2, 3)"), 24, major).substr(0, size)), "accepted") << size;
}

TEST(Npy, RefusesTrailingBytes) {
  expect_refused(file(dictionary("(2, 3)"), 25), "longer than its header says");
  expect_refused(file(dictionary("(2, 3)"), 28), "longer than its header says");
  expect_refused(file(dictionary("(2, 3)"), 23), "truncated");
}

TEST(Npy, RefusesOtherFiles) {
  expect_refused("", "0 bytes");
  expect_refused("PK\x03\x04 a zip archive of arrays", "does not start with");
  std::string bytes = file(dictionary("(2, 3)"), 24);
  bytes[6] = 4;
  expect_refused(bytes, "format 4.0");
  bytes[6] = 0;
  expect_refused(bytes, "format 0.0");
  bytes[6] = 1;
  bytes[7] = 1;
  expect_refused(bytes, "format 1.1");
}

TEST(Npy, RefusesOtherTypes) {
  for (const std::string type :
       {"'<f8'", "'>f4'", "'<f2'", "'<i4'", "'|u1'", "'=f4'", "'f4'", "''", "'<f4\\n'"})
    expect_refused(file(dictionary("(2, 3)", type), 24), "elements of type");
  expect_refused(file(dictionary("(2, 3)", "[('a', '<f4')]"), 24), "structured type");
  expect_refused(file(dictionary("(2, 3)", "'<f4'", "True"), 24), "Fortran order");
}

TEST(Npy, RefusesMalformedHeaders) {
  const std::string shapes[] = {
      "(2, 3",    "2, 3", "(2 3)", "(-2, 3)", "(2.0, 3)", "(6)",      "[2, 3]",      "(2L, 3L)",
      "('2', 3)", "None", "(,)",   "(2,,3)",  "(2, +3)",  "(2x2, 3)", "(2, 3), (1)", ""};
  for (const std::string& shape : shapes)
    expect_refused(file(dictionary(shape), 24), "malformed header");
  expect_refused(file(dictionary("(2, 3)", "'<f4'", "0"), 24), "malformed header");
  expect_refused(file(dictionary("(2, 3)", "'<f4"), 24), "malformed header");
  expect_refused(file("", 24), "malformed header");
  expect_refused(file("{}\n", 24), "malformed header");
  expect_refused(file("{'descr': '<f4', 'shape': (2, 3)}\n", 24), "not all there");
  expect_refused(file(dictionary("(2, 3), 'shape': (2, 3)"), 24), "unknown or repeated");
  expect_refused(file(dictionary("(2, 3), 'other': (2, 3)"), 24), "unknown or repeated");
  expect_refused(file(dictionary("(2, 3)") + "x", 24), "text after the dictionary");
  expect_refused(file(std::string(100, '\0'), 24), "malformed header");
  expect_refused(file(dictionary("(2, 3)").substr(0, 40) + "\n\n\n", 24), "malformed header");
}

// Claims far beyond the file must be refused from the file's size, before any memory is taken.
TEST(Npy, RefusesOversizedClaims) {
  expect_refused(prelude(1, 65535) + dictionary("(2, 3)"), "header claims 65535 bytes");
  expect_refused(prelude(2, 0xffffffffU) + dictionary("(2, 3)"), "header claims 4294967295 bytes");
  expect_refused(file(dictionary("(1000000000000, 1000)"), 24), "1000000000000 x 1000");
  expect_refused(file(dictionary("(9223372036854775807, 2)"), 24), "truncated");
  expect_refused(file(dictionary("(9223372036854775808, 2)"), 24), "too large");
  expect_refused(file(dictionary("(99999999999999999999999999, 2)"), 24), "too large");
  // Products that wrap around to the right size in 64 bits.
  expect_refused(file(dictionary("(4294967296, 4294967296)"), 24), "truncated");
  expect_refused(file(dictionary("(4611686018427387904, 4)"), 0), "truncated");
  expect_refused(file(dictionary("(4611686018427387905, 4)"), 16), "truncated");
  std::string many = "(";
  for (int i = 0; i < 33; ++i) many += "1, ";
  expect_refused(file(dictionary(many + ")"), 4), "more than 32 extents");
}

TEST(Npy, RefusesEmptyArrays) {
  expect_refused(file(dictionary("(0, 3)"), 0), "empty");
  expect_refused(file(dictionary("(2, 0, 4611686018427387904)"), 0), "empty");
}

TEST(Npy, SaysWhichFileIsMissing) {
  const TemporaryFolder folder;
  for (const std::string& path : {folder / "missing.npy", folder.path(), folder / "none/x.npy"}) {
    try {
      support::read_npy(path);
      ADD_FAILURE() << path;
    } catch (const InputError& error) {
      EXPECT_NE(std::string(error.what()).find(path), std::string::npos) << error.what();
    }
  }
  EXPECT_THROW(support::read_npy("/dev/null"), InputError);
  EXPECT_THROW(support::read_npy("/dev/zero"), InputError);
}

TEST(Npy, WritesWhatItReads) {
  const TemporaryFolder folder;
  const std::string path = folder / "a.npy";
  for (const std::vector<lowatt::Index>& shape :
       {std::vector<lowatt::Index>{2, 3, 4}, {24}, {3, 8}}) {
    std::vector<float> data(24);
    for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<float>(i) - 7.25F;
    support::write_npy(path, shape, data);
    const FloatArray array = support::read_npy(path);
    EXPECT_EQ(array.shape, shape);
    EXPECT_EQ(array.data, data);
    // Data starts at a multiple of 64 bytes, as NumPy writes it, and no temporary file is left.
    EXPECT_EQ((std::filesystem::file_size(path) - 96) % 64, 0U);
    EXPECT_EQ(folder.names(), std::vector<std::string>{"a.npy"});
  }
}

TEST(Npy, WritesSpecialValuesBitForBit) {
  const TemporaryFolder folder;
  const float infinity = std::numeric_limits<float>::infinity();
  support::write_npy(folder / "a.npy", {1, 3}, {infinity, -0.0F, std::nanf("")});
  const FloatArray array = support::read_npy(folder / "a.npy");
  EXPECT_EQ(array.data[0], infinity);
  EXPECT_TRUE(std::signbit(array.data[1]));
  EXPECT_TRUE(std::isnan(array.data[2]));
}

TEST(Npy, LeavesNothingBehindWhenItCannotWrite) {
  const TemporaryFolder folder;
  EXPECT_THROW(support::write_npy(folder / "none/a.npy", {1}, {1}), InputError);
  EXPECT_THROW(support::write_npy(folder.path(), {1}, {1}), InputError);
  EXPECT_THROW(support::write_npy("/dev/null", {1}, {1}), InputError);
  EXPECT_FALSE(std::filesystem::is_regular_file("/dev/null"));
  EXPECT_EQ(folder.names(), std::vector<std::string>{});
}

TEST(Npy, WritesThroughLinks) {
  const TemporaryFolder folder;
  support::write_npy(folder / "a.npy", {1}, {1});
  std::filesystem::create_symlink("a.npy", folder / "link.npy");
  support::write_npy(folder / "link.npy", {1}, {2});
  EXPECT_TRUE(std::filesystem::is_symlink(folder / "link.npy"));
  EXPECT_EQ(support::read_npy(folder / "a.npy").data[0], 2);
}

}  // namespace
