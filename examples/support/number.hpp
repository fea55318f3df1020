// Numbers as users write them on the command line.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace support {

// One finite number and nothing else; InputError names the option otherwise.
double parse_number(const std::string& option, const std::string& text);

// The same for numbers with commas between them; none may be missing.
std::vector<double> parse_numbers(const std::string& option, const std::string& text);

// Whole numbers with commas between them.
std::vector<long long> parse_integers(const std::string& option, const std::string& text);

// One whole number of 64 bits without a sign.
std::uint64_t parse_seed(const std::string& option, const std::string& text);

}  // namespace support
