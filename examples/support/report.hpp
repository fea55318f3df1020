// What `attend` and `attend_calibrate` print.
#pragma once

#include <optional>
#include <string>

#include "calibrate.hpp"
#include "compare.hpp"
#include "options.hpp"

namespace support {

// One JSON object with the keys that apply; undefined figures are null.
std::string json_report(const AttendOptions& options, const Tensors& tensors, const Job& job,
                        double seconds, const std::optional<Comparison>& comparison);

// The same figures for people.
std::string readable_report(const AttendOptions& options, const Tensors& tensors, const Job& job,
                            double seconds, const std::optional<Comparison>& comparison);

// The same for calibrations.
std::string json_report(const CallOptions& options, const Tensors& tensors,
                        const Calibrated& calibrated);
std::string readable_report(const CallOptions& options, const Tensors& tensors,
                            const Calibrated& calibrated);

// Nanoseconds per pair of query and key and per query head, pairs behind the mask included.
double ns_per_pair(double seconds, const Tensors& tensors);

}  // namespace support
