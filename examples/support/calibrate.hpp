// Calibrations of the programs' mechanisms: made from tensors, written, and read for a call.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "calibration.hpp"
#include "options.hpp"

namespace support {

struct Calibrated {
  CalibrationFile file;
  double seconds = 0;                        // that calibrating took
  std::vector<lowatt::LatteReport> reports;  // per query head; LATTE only
};

// Throws lowatt::Error for what the library refuses.
Calibrated calibrate(const CallOptions& options, const Tensors& tensors);

// Throws InputError where the file is no calibration or is for another call.
lowatt::Calibration load_calibration(const std::string& path, const CallOptions& options,
                                     const Tensors& tensors);

}  // namespace support
