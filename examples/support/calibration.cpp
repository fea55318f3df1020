#include "calibration.hpp"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <type_traits>
#include <vector>

#include "file.hpp"

namespace support {
namespace {

using Json = nlohmann::ordered_json;
using lowatt::Calibration;
using lowatt::Index;

constexpr const char* format = "lowatt calibration";
constexpr int version = 1;
constexpr const char* extents[] = {"query_heads", "kv_heads", "head_dim", "value_dim"};

// Members of CalibrationFile in the order of `extents`.
std::vector<Index CalibrationFile::*> extent_members() {
  return {&CalibrationFile::query_heads, &CalibrationFile::kv_heads, &CalibrationFile::head_dim,
          &CalibrationFile::value_dim};
}

std::string text_of(const Json& value) {
  return value.dump(-1, ' ', true, Json::error_handler_t::replace);
}

std::string shown(const std::string& text) {
  constexpr std::size_t longest = 60;
  return text.size() > longest ? text.substr(0, longest) + "..." : text;
}

[[noreturn]] void fail(const std::string& name, const std::string& what) {
  throw InputError("'" + name + "' " + what);
}

[[noreturn]] void fail_field(const std::string& name, const std::string& field,
                             const std::string& value, const std::string& instead) {
  fail(name, "field " + field + " is " + shown(value) + "; " + instead);
}

bool has_setting(const CalibrationFile& file, const char* setting, const char* value) {
  const auto found = file.settings.find(setting);
  return found != file.settings.end() && found->second == value;
}

// f(name, member of Calibration, entries) for each array; 0 entries for those that the mechanism
// with these settings does not need.
template <class F>
void for_each_array(const CalibrationFile& file, F f) {
  const bool inhibitor = file.mechanism == "inhibitor", softmax = file.mechanism == "softmax";
  const bool latte = file.mechanism == "latte", bitformer = file.mechanism == "bitformer";
  const bool coded = inhibitor && file.settings.contains("planes");
  const bool scaled = latte ||
                      (inhibitor && !coded && !has_setting(file, "precision", "\"fp32\"")) ||
                      (softmax && has_setting(file, "precision", "\"int8\""));
  const bool centered = bitformer && has_setting(file, "center_keys", "true");
  const bool clipped = coded || (bitformer && has_setting(file, "encoding", "\"thermometer\""));
  f("query_absmax", &Calibration::query_absmax, inhibitor && scaled ? file.query_heads : 0);
  f("key_absmax", &Calibration::key_absmax, scaled ? file.kv_heads : 0);
  const bool scaled_values = (scaled || coded || bitformer) &&
                             !(latte && has_setting(file, "value_precision", "\"fp32\""));
  f("value_absmax", &Calibration::value_absmax, scaled_values ? file.kv_heads : 0);
  f("key_mean", &Calibration::key_mean, centered ? file.kv_heads * file.head_dim : 0);
  f("clip", &Calibration::clip, clipped ? file.kv_heads : 0);
  f("temperature", &Calibration::temperature, bitformer ? file.query_heads : 0);
  f("theta", &Calibration::theta, latte ? file.query_heads : 0);
}

// Reads one object, field by field; what nobody asked for is refused at the end.
class Reader {
 public:
  Reader(const std::string& text, const std::string& name) : name_(name) {
    std::set<std::string> fields;
    std::optional<std::string> repeated;
    const auto watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
      // Printing a value takes stack for each level of it.
      if (depth > 3) fail(name_, "is not a calibration: it is nested deeper than one");
      if (event == Json::parse_event_t::key && depth == 1 &&
          !fields.insert(parsed.get<std::string>()).second)
        repeated = parsed.get<std::string>();
      return true;
    };
    try {
      json_ = Json::parse(text, watch);
    } catch (const Json::parse_error& error) {
      fail(name_, "is not JSON: it goes wrong at byte " + std::to_string(error.byte));
    } catch (const Json::exception&) {
      fail(name_, "is not JSON that can be read: it holds a number beyond double");
    }
    if (!json_.is_object()) fail(name_, "is not a calibration: it holds no JSON object");
    if (repeated) fail(name_, "has the field " + in_quotes(*repeated) + " twice");
  }

  void expect(const char* field, const Json& value) {
    const Json& found = take(field);
    if (found != value) fail_field(name_, field, text_of(found), "it must be " + text_of(value));
  }

  std::string mechanism() {
    const Json& found = take("mechanism");
    for (const char* known : {"softmax", "inhibitor", "latte", "bitformer"})
      if (found == known) return known;
    fail_field(name_, "mechanism", text_of(found),
               "it must be softmax, inhibitor, latte or bitformer");
  }

  Index extent(const char* field) {
    constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
    const Json& found = take(field);
    if (found.is_number_unsigned() && found.get<std::uint64_t>() >= 1 &&
        found.get<std::uint64_t>() <= most)
      return found.get<Index>();
    fail_field(name_, field, text_of(found),
               "it must be a whole number from 1 to " + std::to_string(most));
  }

  double positive(const char* field) {
    const Json& found = take(field);
    if (found.is_number() && found.get<double>() > 0 && std::isfinite(found.get<double>()))
      return found.get<double>();
    fail_field(name_, field, text_of(found), "it must be a finite positive number");
  }

  std::map<std::string, std::string> settings() {
    const Json& found = take("settings");
    if (!found.is_object()) fail_field(name_, "settings", text_of(found), "it must be an object");
    std::map<std::string, std::string> settings;
    for (const auto& [key, value] : found.items()) settings[key] = text_of(value);
    return settings;
  }

  // Entries are numbers that T can hold, and not negative unless they are means.
  template <class T>
  lowatt::Array<T> array(const std::string& field, Index entries) {
    const Json& found = take(field);
    if (!found.is_array()) fail_field(name_, field, text_of(found), "it must be an array");
    if (found.size() != static_cast<std::size_t>(entries))
      fail(name_, "field " + field + " has " + std::to_string(found.size()) + " entries; " +
                      std::to_string(entries) + " are needed");
    lowatt::Array<T> values(entries);
    if (values.empty()) throw std::bad_alloc();
    const double most = static_cast<double>(std::numeric_limits<T>::max());
    const double least = field == "key_mean" ? -most : 0;
    for (Index i = 0; i < entries; ++i) {
      const Json& entry = found[static_cast<std::size_t>(i)];
      const double value = entry.is_number() ? entry.get<double>() : std::nan("");
      if (!(value >= least && value <= most))
        fail_field(name_, field + "[" + std::to_string(i) + "]", text_of(entry),
                   std::string("it must be a ") + (least < 0 ? "" : "not negative ") +
                       "number that " + (std::is_same_v<T, float> ? "float32" : "double") +
                       " holds");
      values[i] = static_cast<T>(value);
    }
    return values;
  }

  void expect_no_more() const {
    for (const auto& [field, value] : json_.items())
      if (!taken_.contains(field))
        fail(name_, "has the field " + in_quotes(field) + ", which does not belong to " +
                        text_of(json_["mechanism"]) + " with these settings");
  }

 private:
  const Json& take(const std::string& field) {
    taken_.insert(field);
    const auto found = json_.find(field);
    if (found == json_.end())
      fail(name_, "is not a whole calibration: field " + field + " is missing");
    return *found;
  }

  const std::string& name_;
  Json json_;
  std::set<std::string> taken_;
};

}  // namespace

CalibrationFile parse_calibration(const std::string& text, const std::string& name) {
  Reader reader(text, name);
  reader.expect("format", format);
  reader.expect("version", version);
  CalibrationFile file;
  file.mechanism = reader.mechanism();
  for (std::size_t i = 0; i < std::size(extents); ++i)
    file.*extent_members()[i] = reader.extent(extents[i]);
  if (file.query_heads % file.kv_heads != 0)
    fail_field(name, "query_heads", std::to_string(file.query_heads),
               "it must be a multiple of kv_heads, " + std::to_string(file.kv_heads));
  file.scale = reader.positive("scale");
  file.settings = reader.settings();
  for_each_array(
      file, [&]<class T>(const char* field, lowatt::Array<T> Calibration::*member, Index entries) {
        if (entries > 0) file.calibration.*member = reader.array<T>(field, entries);
      });
  reader.expect_no_more();
  return file;
}

CalibrationFile read_calibration(const std::string& path) {
  InputFile file = open_file(path);
  std::string text(static_cast<std::size_t>(file.size), '\0');
  if (!file.in.read(text.data(), static_cast<std::streamsize>(text.size())))
    fail(path, "could not be read to its end");
  return parse_calibration(text, path);
}

std::string calibration_text(const CalibrationFile& file) {
  Json json;
  json["format"] = format;
  json["version"] = version;
  json["mechanism"] = file.mechanism;
  for (std::size_t i = 0; i < std::size(extents); ++i) json[extents[i]] = file.*extent_members()[i];
  json["scale"] = file.scale;
  json["settings"] = Json::object();
  for (const auto& [setting, value] : file.settings) json["settings"][setting] = Json::parse(value);
  for_each_array(
      file, [&]<class T>(const char* field, lowatt::Array<T> Calibration::*member, Index entries) {
        if (entries == 0) return;
        Json& values = json[field] = Json::array();
        // As doubles, whose decimals hold a float exactly.
        for (const T value : file.calibration.*member) values.push_back(static_cast<double>(value));
      });
  return json.dump() + "\n";
}

void require_same_call(const CalibrationFile& file, const std::string& name,
                       const CalibrationFile& wanted) {
  const auto require = [&](const std::string& field, const std::string& found,
                           const std::string& needed) {
    if (found != needed) fail_field(name, field, found, "this call has " + needed);
  };
  require("mechanism", file.mechanism, wanted.mechanism);
  for (std::size_t i = 0; i < std::size(extents); ++i)
    require(extents[i], std::to_string(file.*extent_members()[i]),
            std::to_string(wanted.*extent_members()[i]));
  require("scale", text_of(file.scale), text_of(wanted.scale));
  for (const auto& [setting, value] : wanted.settings) {
    const auto found = file.settings.find(setting);
    require("settings." + setting, found == file.settings.end() ? "missing" : found->second, value);
  }
  for (const auto& [setting, value] : file.settings)
    if (!wanted.settings.contains(setting))
      fail_field(name, "settings." + setting, value, "this call has no such setting");
}

}  // namespace support
