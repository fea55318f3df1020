// The command line of `encrypted`.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "lowatt/core/config.hpp"

namespace support {

struct EncryptedOptions {
  std::optional<std::string> help;  // print this and stop

  lowatt::Index tokens = 2, dim = 2;
  int bits = 3;      // of inputs, sign included
  double alpha = 2;  // the Inhibitor's shift, in units of V
  bool is_unsigned = false;
  std::uint64_t seed = 0;
  int threads = 0;                       // 0: one per core
  std::optional<std::string> mechanism;  // run this one alone: inhibitor, dot or softmax
  bool plan = false;
  bool json = false;
};

// Throws InputError for anything wrong.
EncryptedOptions parse_encrypted_options(int argc, const char* const* argv);

}  // namespace support
