// Strict reading and writing of .npy files: float32, little-endian, C order, format 1.0, 2.0
// or 3.0.
#pragma once

#include <cstdint>
#include <istream>
#include <string>
#include <vector>

#include "file.hpp"
#include "float_array.hpp"

namespace support {

// Reads one whole file. Throws InputError for anything but a well-formed file of exactly the size
// that its header announces; what the header claims is checked against that size before memory is
// taken, so a hostile file costs no more memory than its own length (and a little).
FloatArray read_npy(const std::string& path);

// The same from a stream of `size` bytes; `name` is what messages call it.
FloatArray parse_npy(std::istream& in, std::uint64_t size, const std::string& name);

// Writes format 1.0 with write_file().
void write_npy(const std::string& path, const std::vector<lowatt::Index>& shape,
               const std::vector<float>& data);

}  // namespace support
