// Strict reading of IDX files of bytes, the format of the MNIST images and labels.
#pragma once

#include <cstdint>
#include <istream>
#include <string>
#include <vector>

#include "file.hpp"
#include "lowatt/core/config.hpp"

namespace support {

struct IdxArray {
  std::vector<lowatt::Index> shape;  // 1 to 8 extents, each at least 1
  std::vector<std::uint8_t> data;    // as many elements as the shape says
};

// Reads one whole file. Throws InputError for anything but a well-formed file of unsigned bytes of
// exactly the size that its header announces, which is checked before memory is taken.
IdxArray read_idx(const std::string& path);

// The same from a stream of `size` bytes; `name` is what messages call it.
IdxArray parse_idx(std::istream& in, std::uint64_t size, const std::string& name);

// Images in grey, 0 is the background, each with the class that it is of.
struct LabelledImages {
  lowatt::Index count = 0, rows = 0, columns = 0;
  std::vector<std::uint8_t> pixels;  // [count, rows, columns]
  std::vector<std::uint8_t> labels;  // [count]

  const std::uint8_t* image(lowatt::Index i) const { return pixels.data() + i * rows * columns; }
};

// Throws InputError also where the two files do not go together.
LabelledImages read_labelled_images(const std::string& images_path, const std::string& labels_path);

}  // namespace support
