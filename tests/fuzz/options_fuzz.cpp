// libFuzzer target for command lines of the programs (clang only):
//   options_fuzz -max_len=512 -max_total_time=60 some_scratch_folder tests/fuzz/options
// One argument a line. Whatever they are, parsing throws InputError or returns options.
#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

#include "encrypted_options.hpp"
#include "file.hpp"
#include "options.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  std::istringstream text(std::string(reinterpret_cast<const char*>(bytes), size));
  std::vector<std::string> lines;
  for (std::string line; std::getline(text, line);)
    lines.push_back(line.substr(0, line.find('\0')));  // as an argument of a program would end
  std::vector<const char*> arguments{"attend"};
  for (const std::string& line : lines) arguments.push_back(line.c_str());
  const int count = static_cast<int>(arguments.size());
  const auto parse = [&](const auto& options_of) {
    try {
      options_of(count, arguments.data());
    } catch (const support::InputError&) {
    }
  };
  parse(support::parse_attend_options);
  parse(support::parse_calibrate_options);
  parse(support::parse_encrypted_options);
  return 0;
}
