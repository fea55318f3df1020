// The command lines of `attend` and `attend_calibrate`: what they may say, and that each option
// belongs to the mechanism.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "job.hpp"
#include "tensor.hpp"

namespace support {

// What both take.
struct CallOptions {
  std::optional<std::string> help;  // print this and stop

  std::string mechanism_name;
  Mechanism mechanism;
  std::string q_path, k_path, v_path;  // empty when `random` is set
  std::optional<RandomShape> random;
  std::uint64_t seed = 0;
  std::optional<std::string> out_path;
  JobOptions job;
  bool json = false;

  Tensors tensors() const {
    return random ? random_tensors(*random, seed) : load_tensors(q_path, k_path, v_path);
  }
};

struct AttendOptions : CallOptions {
  bool list_arch = false;  // print the levels that this CPU runs and stop
  std::optional<std::string> calibration_path, weights_path;
  int repeat = 1;
  bool compare = true;
};

// Throws InputError for anything wrong that can be seen without the tensors.
AttendOptions parse_attend_options(int argc, const char* const* argv);
CallOptions parse_calibrate_options(int argc, const char* const* argv);

}  // namespace support
