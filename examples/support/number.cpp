#include "number.hpp"

#include <charconv>
#include <cmath>
#include <string_view>

#include "npy.hpp"

namespace support {
namespace {

template <class T>
T parse(const std::string& option, std::string_view text, const char* wanted) {
  T value{};
  const char* const end = text.data() + text.size();
  const auto [parsed_to, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc{} || parsed_to != end)
    throw InputError(option + ": '" + std::string(text) + "' is not " + wanted);
  return value;
}

double parse_finite(const std::string& option, std::string_view text) {
  const auto value = parse<double>(option, text, "a number that a double can hold");
  if (!std::isfinite(value))
    throw InputError(option + ": '" + std::string(text) + "' is not a finite number");
  return value;
}

template <class ParseOne>
auto parse_list(std::string_view text, ParseOne parse_one) {
  std::vector<decltype(parse_one(text))> values;
  for (;;) {
    const std::size_t comma = text.find(',');
    values.push_back(parse_one(text.substr(0, comma)));
    if (comma == std::string_view::npos) return values;
    text.remove_prefix(comma + 1);
  }
}

}  // namespace

double parse_number(const std::string& option, const std::string& text) {
  return parse_finite(option, text);
}

std::vector<double> parse_numbers(const std::string& option, const std::string& text) {
  return parse_list(text, [&](std::string_view one) { return parse_finite(option, one); });
}

std::vector<long long> parse_integers(const std::string& option, const std::string& text) {
  return parse_list(
      text, [&](std::string_view one) { return parse<long long>(option, one, "a whole number"); });
}

std::uint64_t parse_seed(const std::string& option, const std::string& text) {
  return parse<std::uint64_t>(option, text, "a whole number from 0 to 2^64 - 1");
}

}  // namespace support
