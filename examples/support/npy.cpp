#include "npy.hpp"

#include <bit>
#include <limits>
#include <optional>
#include <string_view>

namespace support {
namespace {

static_assert(std::endian::native == std::endian::little, "elements are copied as they lie");

constexpr std::string_view magic = "\x93NUMPY";
constexpr std::size_t max_rank = 32;  // NumPy's own limit

[[noreturn]] void fail(const std::string& name, const std::string& what) {
  throw InputError("'" + name + "' " + what);
}

std::string read_exactly(std::istream& in, std::size_t size, const std::string& name) {
  std::string bytes(size, '\0');
  if (!in.read(bytes.data(), static_cast<std::streamsize>(size)))
    fail(name, "could not be read to its end");
  return bytes;
}

// The header is a Python dictionary literal with exactly the keys descr, fortran_order and shape,
// in any order, followed by spaces and a newline. This reads that and nothing more of Python.
class HeaderParser {
 public:
  HeaderParser(std::string_view text, const std::string& name) : text_(text), name_(name) {}

  std::vector<lowatt::Index> shape_of_supported_array() {
    expect('{');
    while (!take('}')) {
      entry();
      if (!take(',')) {
        expect('}');
        break;
      }
    }
    skip_space();
    if (position_ != text_.size()) malformed("text after the dictionary");
    if (!descr_ || !fortran_order_ || !shape_)
      malformed("descr, fortran_order and shape are not all there");
    if (*descr_ != "<f4")
      fail(name_, "has elements of type " + in_quotes(*descr_) +
                      "; only '<f4' (float32, little-endian) is read");
    if (*fortran_order_) fail(name_, "is in Fortran order; only C order is read");
    return *shape_;
  }

 private:
  void entry() {
    const std::string_view key = string();
    expect(':');
    if (key == "descr" && !descr_) {
      skip_space();
      if (peek() != '\'' && peek() != '"')
        fail(name_, "has elements of a structured type; only '<f4' (float32) is read");
      descr_ = string();
    } else if (key == "fortran_order" && !fortran_order_) {
      fortran_order_ = boolean();
    } else if (key == "shape" && !shape_) {
      shape_ = tuple();
    } else {
      malformed("key " + in_quotes(key) + " is unknown or repeated");
    }
  }

  std::string_view string() {
    skip_space();
    const char quote = peek();
    if (quote != '\'' && quote != '"') malformed("a quoted string is missing");
    const std::size_t end = text_.find(quote, position_ + 1);
    if (end == std::string_view::npos) malformed("a quoted string does not end");
    const std::string_view result = text_.substr(position_ + 1, end - position_ - 1);
    position_ = end + 1;
    return result;
  }

  bool boolean() {
    skip_space();
    for (const std::string_view word : {"True", "False"}) {
      if (text_.substr(position_).starts_with(word)) {
        position_ += word.size();
        return word == "True";
      }
    }
    malformed("fortran_order is neither True nor False");
  }

  std::vector<lowatt::Index> tuple() {
    std::vector<lowatt::Index> extents;
    expect('(');
    while (!take(')')) {
      if (extents.size() == max_rank) malformed("the shape has more than 32 extents");
      extents.push_back(extent());
      if (!take(',')) {
        // (5) is a number in parentheses, (5,) a tuple.
        if (extents.size() == 1) malformed("the shape is not a tuple");
        expect(')');
        break;
      }
    }
    return extents;
  }

  lowatt::Index extent() {
    skip_space();
    const std::size_t begin = position_;
    lowatt::Index value = 0;
    while (peek() >= '0' && peek() <= '9') {
      const lowatt::Index digit = peek() - '0';
      if (value > (std::numeric_limits<lowatt::Index>::max() - digit) / 10)
        malformed("an extent of the shape is too large");
      value = value * 10 + digit;
      ++position_;
    }
    if (position_ == begin) malformed("an extent of the shape is not a plain number");
    if (value == 0) fail(name_, "is empty: its shape has an extent of 0");
    return value;
  }

  char peek() const { return position_ < text_.size() ? text_[position_] : '\0'; }
  void skip_space() {
    while (peek() == ' ' || peek() == '\n' || peek() == '\t' || peek() == '\r') ++position_;
  }
  bool take(char c) {
    skip_space();
    if (peek() != c) return false;
    ++position_;
    return true;
  }
  void expect(char c) {
    if (!take(c))
      malformed(std::string("'") + c + "' is missing at " + in_quotes(text_.substr(position_)));
  }
  [[noreturn]] void malformed(const std::string& what) const {
    fail(name_, "has a malformed header: " + what);
  }

  std::string_view text_;
  const std::string& name_;
  std::size_t position_ = 0;
  std::optional<std::string_view> descr_;
  std::optional<bool> fortran_order_;
  std::optional<std::vector<lowatt::Index>> shape_;
};

}  // namespace

FloatArray parse_npy(std::istream& in, std::uint64_t size, const std::string& name) {
  if (size < 10) fail(name, "is not a .npy file: it has " + std::to_string(size) + " bytes");
  const std::string start = read_exactly(in, 8, name);
  if (!start.starts_with(magic))
    fail(name, "is not a .npy file: it does not start with \\x93NUMPY");
  const int major = static_cast<unsigned char>(start[6]);
  const int minor = static_cast<unsigned char>(start[7]);
  if (major < 1 || major > 3 || minor != 0)
    fail(name, "has .npy format " + std::to_string(major) + "." + std::to_string(minor) +
                   "; 1.0, 2.0 and 3.0 are read");

  // The header's length takes two bytes in format 1.0 and four in the later ones.
  const std::size_t length_bytes = major == 1 ? 2 : 4;
  const std::uint64_t header_at = 8 + length_bytes;
  if (size < header_at) fail(name, "is truncated within its first 12 bytes");
  std::uint64_t header_size = 0;
  const std::string length = read_exactly(in, length_bytes, name);
  for (std::size_t i = length_bytes; i-- > 0;)
    header_size = header_size << 8 | static_cast<unsigned char>(length[i]);
  if (header_size > size - header_at)
    fail(name, "is truncated: its header claims " + std::to_string(header_size) + " bytes of " +
                   std::to_string(size - header_at) + " left");

  const std::string header = read_exactly(in, static_cast<std::size_t>(header_size), name);
  FloatArray array;
  array.shape = HeaderParser(header, name).shape_of_supported_array();

  const std::uint64_t data_size = size - header_at - header_size;
  const auto count = elements_up_to(data_size / sizeof(float), array.shape);
  if (!count)
    fail(name, "is truncated: shape " + shape_text(array.shape) + " takes more than the " +
                   std::to_string(data_size) + " bytes behind its header");
  if (*count * sizeof(float) != data_size)
    fail(name, "is longer than its header says: shape " + shape_text(array.shape) + " takes " +
                   std::to_string(*count * sizeof(float)) + " of the " + std::to_string(data_size) +
                   " bytes behind the header");
  array.data.resize(static_cast<std::size_t>(*count));
  if (!in.read(reinterpret_cast<char*>(array.data.data()), static_cast<std::streamsize>(data_size)))
    fail(name, "could not be read to its end");
  return array;
}

FloatArray read_npy(const std::string& path) {
  InputFile file = open_file(path);
  return parse_npy(file.in, file.size, path);
}

void write_npy(const std::string& path, const std::vector<lowatt::Index>& shape,
               const std::vector<float>& data) {
  std::string extents;
  for (const lowatt::Index extent : shape)
    extents += (extents.empty() ? "" : ", ") + std::to_string(extent);
  if (shape.size() == 1) extents += ",";
  std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (" + extents + "), }";
  // Magic, version, length, header and its newline together fill a multiple of 64 bytes.
  header.resize((header.size() + 11 + 63) / 64 * 64 - 11, ' ');
  header += '\n';
  const char version_and_length[] = {'\x01', '\x00', static_cast<char>(header.size() & 0xff),
                                     static_cast<char>(header.size() >> 8)};
  write_file(path, {magic,
                    {version_and_length, sizeof version_and_length},
                    header,
                    {reinterpret_cast<const char*>(data.data()), data.size() * sizeof(float)}});
}

}  // namespace support
