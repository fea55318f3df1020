#include "idx.hpp"

#include <array>
#include <utility>

#include "float_array.hpp"

namespace support {
namespace {

constexpr std::uint64_t magic_bytes = 4, extent_bytes = 4;
constexpr std::uint8_t unsigned_byte = 0x08;
constexpr std::size_t max_rank = 8;

[[noreturn]] void fail(const std::string& name, const std::string& what) {
  throw InputError("'" + name + "' " + what);
}

void read_exactly(std::istream& in, std::uint8_t* to, std::uint64_t size, const std::string& name) {
  if (!in.read(reinterpret_cast<char*>(to), static_cast<std::streamsize>(size)))
    fail(name, "could not be read to its end");
}

}  // namespace

IdxArray parse_idx(std::istream& in, std::uint64_t size, const std::string& name) {
  if (size < magic_bytes)
    fail(name, "is not an IDX file: it has " + std::to_string(size) + " bytes");
  std::array<std::uint8_t, magic_bytes> magic{};
  read_exactly(in, magic.data(), magic.size(), name);
  if (magic[0] == 0x1f && magic[1] == 0x8b)
    fail(name, "is compressed by gzip; unpack it first with gunzip");
  if (magic[0] != 0 || magic[1] != 0)
    fail(name, "is not an IDX file: it does not start with two bytes of 0");
  if (magic[2] != unsigned_byte)
    fail(name, "has elements of IDX type " + std::to_string(magic[2]) +
                   "; only 8 (unsigned bytes) is read");
  const std::size_t rank = magic[3];
  if (rank < 1 || rank > max_rank)
    fail(name, "has " + std::to_string(rank) + " extents; 1 to 8 are read");
  const std::uint64_t header_size = magic_bytes + extent_bytes * rank;
  if (size < header_size)
    fail(name, "is truncated within its " + std::to_string(rank) + " extents");

  IdxArray array;
  for (std::size_t i = 0; i < rank; ++i) {
    std::array<std::uint8_t, extent_bytes> bytes{};
    read_exactly(in, bytes.data(), bytes.size(), name);
    lowatt::Index extent = 0;
    for (const std::uint8_t byte : bytes) extent = extent << 8 | byte;
    if (extent == 0) fail(name, "is empty: its shape has an extent of 0");
    array.shape.push_back(extent);
  }
  const std::uint64_t data_size = size - header_size;
  const auto count = elements_up_to(data_size, array.shape);
  if (!count)
    fail(name, "is truncated: shape " + shape_text(array.shape) + " takes more than the " +
                   std::to_string(data_size) + " bytes behind its header");
  if (*count != data_size)
    fail(name, "is longer than its header says: shape " + shape_text(array.shape) + " takes " +
                   std::to_string(*count) + " of the " + std::to_string(data_size) +
                   " bytes behind the header");
  array.data.resize(static_cast<std::size_t>(*count));
  read_exactly(in, array.data.data(), *count, name);
  return array;
}

IdxArray read_idx(const std::string& path) {
  InputFile file = open_file(path);
  return parse_idx(file.in, file.size, path);
}

LabelledImages read_labelled_images(const std::string& images_path,
                                    const std::string& labels_path) {
  IdxArray images = read_idx(images_path), labels = read_idx(labels_path);
  if (images.shape.size() != 3)
    fail(images_path,
         "has shape " + shape_text(images.shape) + "; images are count x rows x columns");
  if (labels.shape.size() != 1)
    fail(labels_path, "has shape " + shape_text(labels.shape) + "; labels are one row of bytes");
  if (labels.shape[0] != images.shape[0])
    fail(labels_path, "has " + std::to_string(labels.shape[0]) + " labels; '" + images_path +
                          "' has " + std::to_string(images.shape[0]) + " images");
  return {images.shape[0], images.shape[1], images.shape[2], std::move(images.data),
          std::move(labels.data)};
}

}  // namespace support
