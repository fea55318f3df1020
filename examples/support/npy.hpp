// Strict reading and writing of .npy files: float32, little-endian, C order, format 1.0, 2.0
// or 3.0.
#pragma once

#include <cstdint>
#include <istream>
#include <string>
#include <vector>

#include "file.hpp"
#include "lowatt/core/config.hpp"

namespace support {

struct NpyArray {
  std::vector<lowatt::Index> shape;  // every extent is at least 1
  std::vector<float> data;           // as many elements as the shape says
};

// Reads one whole file. Throws InputError for anything but a well-formed file of exactly the size
// that its header announces; what the header claims is checked against that size before memory is
// taken, so a hostile file costs no more memory than its own length (and a little).
NpyArray read_npy(const std::string& path);

// The same from a stream of `size` bytes; `name` is what messages call it.
NpyArray parse_npy(std::istream& in, std::uint64_t size, const std::string& name);

// Writes format 1.0 with write_file().
void write_npy(const std::string& path, const std::vector<lowatt::Index>& shape,
               const std::vector<float>& data);

// "4 x 128 x 64", for messages.
std::string shape_text(const std::vector<lowatt::Index>& shape);

}  // namespace support
