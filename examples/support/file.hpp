// Files that a program reads and writes, and how it says that they are no good.
#pragma once

#include <cstdint>
#include <fstream>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>

namespace support {

// Something that the user gave is wrong; what() is one sentence to print.
class InputError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A regular file, open for reading from its start.
struct InputFile {
  std::ifstream in;
  std::uint64_t size = 0;
};

// Throws InputError where there is none or it cannot be read.
InputFile open_file(const std::string& path);

// Writes the parts, one after another, to a temporary file beside `path` and renames it, so that
// `path` is either written whole or left as it was. Throws InputError when that fails.
void write_file(const std::string& path, std::initializer_list<std::string_view> parts);

// A piece of a file for a message: cut short, and without characters that would break the line.
std::string in_quotes(std::string_view text);

}  // namespace support
