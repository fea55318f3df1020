// Calibration files: what attend_calibrate writes and attend reads, as JSON.
//
//   {"format": "lowatt calibration", "version": 1, "mechanism": "latte",
//    "query_heads": 4, "kv_heads": 2, "head_dim": 64, "value_dim": 64, "scale": 0.125,
//    "settings": {"split": "round"}, "key_absmax": [..], "value_absmax": [..], "theta": [..]}
//
// Numbers are written so that reading them gives the same bits.
#pragma once

#include <map>
#include <string>

#include "lowatt/quant/calibration.hpp"

namespace support {

struct CalibrationFile {
  std::string mechanism;
  lowatt::Index query_heads = 0, kv_heads = 0, head_dim = 0, value_dim = 0;
  double scale = 0;                             // of scores
  std::map<std::string, std::string> settings;  // what else the numbers hold for: values as JSON
  lowatt::Calibration calibration;              // of batch 1
};

// Throws InputError, with one sentence that names the file, the field and its value, for anything
// but a file as above: other fields, other arrays than the mechanism with these settings needs,
// entries in other numbers than the extents ask for, or values that no calibration has.
CalibrationFile read_calibration(const std::string& path);

// The same from text; `name` is what messages call it.
CalibrationFile parse_calibration(const std::string& text, const std::string& name);

// What a file with these contents holds.
std::string calibration_text(const CalibrationFile& file);

// Throws InputError where `file`, read from `name`, is for another call than `wanted`: another
// mechanism, other extents, another scale or other settings.
void require_same_call(const CalibrationFile& file, const std::string& name,
                       const CalibrationFile& wanted);

}  // namespace support
