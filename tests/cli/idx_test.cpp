// The IDX reader of the programs: what it accepts, and that every malformed file is refused with
// one sentence that names it.
#include "idx.hpp"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "support/tiny_model.hpp"
#include "temporary_folder.hpp"

namespace {

using support::IdxArray;
using support::InputError;
using test::idx_bytes;

IdxArray parse(const std::string& bytes) {
  std::istringstream in(bytes);
  return support::parse_idx(in, bytes.size(), "x.idx");
}

void expect_refused(const std::string& bytes, const std::string& because) {
  try {
    parse(bytes);
    ADD_FAILURE() << "accepted, should say: " << because;
  } catch (const InputError& error) {
    const std::string what = error.what();
    EXPECT_NE(what.find("'x.idx'"), std::string::npos) << what;
    EXPECT_NE(what.find(because), std::string::npos) << what << "\nshould say: " << because;
  }
}

TEST(Idx, ReadsBytesOfAnyRank) {
  const IdxArray image = parse(idx_bytes({2, 1, 3}, std::string("\0\1\2\x7f\x80\xff", 6)));
  EXPECT_EQ(image.shape, (std::vector<lowatt::Index>{2, 1, 3}));
  EXPECT_EQ(image.data, (std::vector<std::uint8_t>{0, 1, 2, 127, 128, 255}));
  EXPECT_EQ(parse(idx_bytes({300}, std::string(300, 'x'))).data.size(), 300U);
  EXPECT_EQ(parse(idx_bytes({1, 1, 1, 1, 1, 1, 1, 1}, "x")).shape.size(), 8U);
}

TEST(Idx, RefusesEveryTruncation) {
  const std::string good = idx_bytes({2, 2}, "abcd");
  for (std::size_t size = 0; size < good.size(); ++size)
    EXPECT_THROW(parse(good.substr(0, size)), InputError) << size;
  expect_refused("", "is not an IDX file: it has 0 bytes");
  expect_refused(good.substr(0, 10), "is truncated within its 2 extents");
  expect_refused(good.substr(0, 15), "shape 2 x 2 takes more than the 3 bytes behind its header");
  expect_refused(good + "x", "shape 2 x 2 takes 4 of the 5 bytes behind the header");
}

TEST(Idx, RefusesOtherFiles) {
  const auto changed = [](std::size_t position, char value) {
    std::string bytes = idx_bytes({2, 2}, "abcd");
    bytes[position] = value;
    return bytes;
  };
  expect_refused("PK\x03\x04", "does not start with two bytes of 0");
  expect_refused(changed(1, 1), "does not start with two bytes of 0");
  expect_refused(changed(2, 0x0d), "has elements of IDX type 13; only 8 (unsigned bytes) is read");
  expect_refused(changed(3, 0), "has 0 extents; 1 to 8 are read");
  expect_refused(changed(3, 9), "has 9 extents; 1 to 8 are read");
  expect_refused("\x1f\x8b\x08\x08 and more", "is compressed by gzip; unpack it first with gunzip");
}

TEST(Idx, RefusesOversizedAndEmptyClaims) {
  expect_refused(idx_bytes({0, 3}, ""), "is empty: its shape has an extent of 0");
  expect_refused(idx_bytes({0xffffffff, 0xffffffff}, "x"), "4294967295 x 4294967295");
  // A product that wraps around to 0 in 64 bits.
  expect_refused(idx_bytes({0x80000000, 0x80000000, 4}, ""), "is truncated");
}

class LabelledImagesFiles : public testing::Test {
 protected:
  std::string write(const std::string& name, const std::string& bytes) const {
    std::ofstream(folder_ / name, std::ios::binary) << bytes;
    return folder_ / name;
  }
  void expect_pair_refused(const std::string& images, const std::string& labels,
                           const std::string& because) const {
    try {
      support::read_labelled_images(write("images", images), write("labels", labels));
      ADD_FAILURE() << "accepted, should say: " << because;
    } catch (const InputError& error) {
      EXPECT_NE(std::string(error.what()).find(because), std::string::npos) << error.what();
    }
  }
  TemporaryFolder folder_;
};

TEST_F(LabelledImagesFiles, GoTogether) {
  const auto images = support::read_labelled_images(write("images", idx_bytes({2, 1, 3}, "abcdef")),
                                                    write("labels", idx_bytes({2}, "\1\2")));
  EXPECT_EQ(images.count, 2);
  EXPECT_EQ(images.rows, 1);
  EXPECT_EQ(images.columns, 3);
  EXPECT_EQ(images.image(1)[0], 'd');
  EXPECT_EQ(images.labels, (std::vector<std::uint8_t>{1, 2}));
}

TEST_F(LabelledImagesFiles, RefusesPairsThatDoNot) {
  const std::string images = idx_bytes({2, 1, 3}, "abcdef"), labels = idx_bytes({2}, "\1\2");
  expect_pair_refused(images, idx_bytes({3}, "abc"), "labels' has 3 labels; ");
  expect_pair_refused(images, images, "labels' has shape 2 x 1 x 3; labels are one row of bytes");
  expect_pair_refused(labels, labels, "images' has shape 2; images are count x rows x columns");
  EXPECT_THROW(support::read_labelled_images(folder_ / "none", write("labels", labels)),
               InputError);
}

}  // namespace
