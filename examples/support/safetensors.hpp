// Strict reading and writing of .safetensors files whose tensors are all float32 (F32).
#pragma once

#include <cstdint>
#include <istream>
#include <map>
#include <string>

#include "file.hpp"
#include "float_array.hpp"

namespace support {

struct Safetensors {
  std::map<std::string, std::string> metadata;
  std::map<std::string, FloatArray> tensors;
};

// Reads one whole file. Throws InputError for anything but a well-formed file whose tensors are
// F32, not empty, and cover everything behind the header without gaps or overlaps. What the header
// claims is checked against the size of the file before memory is taken.
Safetensors read_safetensors(const std::string& path);

// The same from a stream of `size` bytes; `name` is what messages call it.
Safetensors parse_safetensors(std::istream& in, std::uint64_t size, const std::string& name);

// Writes with write_file(), sorted by name: equal contents give equal bytes. Throws InputError, and
// writes nothing, where read_safetensors() would refuse the file.
void write_safetensors(const std::string& path, const Safetensors& contents);

// What write_safetensors() writes; `name` is what messages call it.
std::string safetensors_bytes(const std::string& name, const Safetensors& contents);

}  // namespace support
