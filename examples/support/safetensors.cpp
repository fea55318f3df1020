#include "safetensors.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>
#include <vector>

namespace support {
namespace {

using Json = nlohmann::json;
using lowatt::Index;

static_assert(std::endian::native == std::endian::little, "numbers are copied as they lie");

constexpr std::uint64_t length_bytes = 8;
constexpr const char* metadata_key = "__metadata__";

[[noreturn]] void fail(const std::string& name, const std::string& what) {
  throw InputError("'" + name + "' " + what);
}

[[noreturn]] void fail_tensor(const std::string& name, const std::string& tensor,
                              const std::string& what) {
  fail(name, "tensor " + in_quotes(tensor) + " " + what);
}

// A piece of JSON for a message.
std::string shown(const Json& value) {
  return in_quotes(value.dump(-1, ' ', true, Json::error_handler_t::replace));
}

// The header is an object of objects of arrays at most.
Json parse_header(const std::string& text, const std::string& name) {
  std::array<std::set<std::string>, 4> keys_at_depth;
  const auto watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > 3) fail(name, "has a malformed header: its JSON is nested too deep");
    std::set<std::string>& keys = keys_at_depth[static_cast<std::size_t>(depth)];
    if (event == Json::parse_event_t::object_end && depth < 3)
      keys_at_depth[static_cast<std::size_t>(depth) + 1].clear();
    if (event == Json::parse_event_t::key && !keys.insert(parsed.get<std::string>()).second)
      fail(name, "has a malformed header: the key " + in_quotes(parsed.get<std::string>()) +
                     " is there twice");
    return true;
  };
  try {
    Json header = Json::parse(text, watch);
    if (header.is_object()) return header;
  } catch (const Json::parse_error& error) {
    fail(name, "has a malformed header: its JSON goes wrong at byte " + std::to_string(error.byte));
  } catch (const Json::exception&) {
    fail(name, "has a malformed header: its JSON holds a number beyond double");
  }
  fail(name, "has a malformed header: it is no JSON object");
}

std::map<std::string, std::string> read_metadata(const Json& value, const std::string& name) {
  if (!value.is_object())
    fail(name, "has a malformed header: __metadata__ is " + shown(value) + ", not an object");
  std::map<std::string, std::string> metadata;
  for (const auto& [key, text] : value.items()) {
    if (!text.is_string())
      fail(name, "has a malformed header: __metadata__ " + in_quotes(key) + " is " + shown(text) +
                     ", not a string");
    metadata[key] = text.get<std::string>();
  }
  return metadata;
}

// Where a tensor lies, in bytes behind the header.
struct Place {
  std::uint64_t begin = 0, end = 0;
  std::string tensor;
  std::vector<Index> shape;
};

std::optional<std::uint64_t> whole_number(const Json& value) {
  if (!value.is_number_unsigned()) return std::nullopt;
  return value.get<std::uint64_t>();
}

std::vector<Index> read_shape(const Json& value, const std::string& name,
                              const std::string& tensor) {
  if (!value.is_array()) fail_tensor(name, tensor, "has shape " + shown(value) + ", not a list");
  std::vector<Index> shape;
  for (const Json& one : value) {
    const auto extent = whole_number(one);
    if (!extent || *extent < 1 ||
        *extent > static_cast<std::uint64_t>(std::numeric_limits<Index>::max()))
      fail_tensor(name, tensor,
                  "has the extent " + shown(one) + " in its shape; whole numbers from 1 are read");
    shape.push_back(static_cast<Index>(*extent));
  }
  return shape;
}

Place read_place(const Json& value, const std::string& name, const std::string& tensor,
                 std::uint64_t data_size) {
  if (!value.is_object() || value.size() != 3 || !value.contains("dtype") ||
      !value.contains("shape") || !value.contains("data_offsets"))
    fail_tensor(name, tensor,
                "is described by " + shown(value) + ", not by dtype, shape and data_offsets");
  if (value["dtype"] != "F32")
    fail_tensor(name, tensor, "has dtype " + shown(value["dtype"]) + "; only F32 is read");
  Place place{.tensor = tensor, .shape = read_shape(value["shape"], name, tensor)};

  const Json& offsets = value["data_offsets"];
  const auto begin =
      offsets.is_array() && offsets.size() == 2 ? whole_number(offsets[0]) : std::nullopt;
  const auto end = begin ? whole_number(offsets[1]) : std::nullopt;
  if (!end || *begin > *end)
    fail_tensor(name, tensor,
                "has data_offsets " + shown(offsets) + ", not two whole numbers in order");
  if (*end > data_size)
    fail_tensor(name, tensor,
                "ends at byte " + std::to_string(*end) + " of the " + std::to_string(data_size) +
                    " behind the header");
  const auto count = elements_up_to(data_size / sizeof(float), place.shape);
  if (!count || *count * sizeof(float) != *end - *begin)
    fail_tensor(name, tensor,
                "has shape " + shape_text(place.shape) + ", which does not fill its " +
                    std::to_string(*end - *begin) + " bytes");
  place.begin = *begin;
  place.end = *end;
  return place;
}

void require_no_gaps(std::vector<Place>& places, const std::string& name, std::uint64_t data_size) {
  std::sort(places.begin(), places.end(),
            [](const Place& a, const Place& b) { return a.begin < b.begin; });
  std::uint64_t expected = 0;
  for (const Place& place : places) {
    if (place.begin != expected)
      fail_tensor(name, place.tensor,
                  "begins at byte " + std::to_string(place.begin) + " where " +
                      std::to_string(expected) + " is the next");
    expected = place.end;
  }
  if (expected != data_size)
    fail(name, "is longer than its header says: tensors take " + std::to_string(expected) +
                   " of the " + std::to_string(data_size) + " bytes behind the header");
}

void read_exactly(std::istream& in, void* to, std::uint64_t size, const std::string& name) {
  if (!in.read(static_cast<char*>(to), static_cast<std::streamsize>(size)))
    fail(name, "could not be read to its end");
}

}  // namespace

Safetensors parse_safetensors(std::istream& in, std::uint64_t size, const std::string& name) {
  if (size < length_bytes)
    fail(name, "is not a .safetensors file: it has " + std::to_string(size) + " bytes");
  std::uint64_t header_size = 0;
  read_exactly(in, &header_size, length_bytes, name);
  if (header_size > size - length_bytes)
    fail(name, "is truncated or not a .safetensors file: its header claims " +
                   std::to_string(header_size) + " bytes of " +
                   std::to_string(size - length_bytes) + " left");
  std::string text(static_cast<std::size_t>(header_size), '\0');
  read_exactly(in, text.data(), header_size, name);
  const Json header = parse_header(text, name);

  const std::uint64_t data_size = size - length_bytes - header_size;
  Safetensors contents;
  std::vector<Place> places;
  for (const auto& [key, value] : header.items()) {
    if (key == metadata_key)
      contents.metadata = read_metadata(value, name);
    else
      places.push_back(read_place(value, name, key, data_size));
  }
  require_no_gaps(places, name, data_size);
  for (Place& place : places) {
    FloatArray& array = contents.tensors[place.tensor];
    array.shape = std::move(place.shape);
    array.data.resize(static_cast<std::size_t>((place.end - place.begin) / sizeof(float)));
    read_exactly(in, array.data.data(), place.end - place.begin, name);
  }
  return contents;
}

Safetensors read_safetensors(const std::string& path) {
  InputFile file = open_file(path);
  return parse_safetensors(file.in, file.size, path);
}

std::string safetensors_bytes(const std::string& name, const Safetensors& contents) {
  Json header = Json::object();
  if (!contents.metadata.empty()) header[metadata_key] = contents.metadata;
  std::uint64_t end = 0;
  for (const auto& [tensor, array] : contents.tensors) {
    if (tensor == metadata_key) fail_tensor(name, tensor, "has the name of the metadata");
    const bool empty = std::any_of(array.shape.begin(), array.shape.end(),
                                   [](Index extent) { return extent < 1; });
    if (empty || elements_up_to(array.data.size(), array.shape) != array.data.size())
      fail_tensor(name, tensor,
                  "has shape " + shape_text(array.shape) + " and " +
                      std::to_string(array.data.size()) + " elements");
    const std::uint64_t begin = end;
    end += array.data.size() * sizeof(float);
    header[tensor] = {{"dtype", "F32"}, {"shape", array.shape}, {"data_offsets", {begin, end}}};
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const Json::exception&) {
    fail(name, "cannot be written: a name or a text of it is not UTF-8");
  }
  text.resize((text.size() + length_bytes - 1) / length_bytes * length_bytes, ' ');

  const std::uint64_t header_size = text.size();
  std::string bytes(reinterpret_cast<const char*>(&header_size), length_bytes);
  bytes += text;
  for (const auto& [tensor, array] : contents.tensors)
    bytes.append(reinterpret_cast<const char*>(array.data.data()),
                 array.data.size() * sizeof(float));
  return bytes;
}

void write_safetensors(const std::string& path, const Safetensors& contents) {
  write_file(path, {safetensors_bytes(path, contents)});
}

}  // namespace support
