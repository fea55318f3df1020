// What `attend` prints.
#pragma once

#include <optional>
#include <string>

#include "compare.hpp"
#include "options.hpp"

namespace support {

// One JSON object with the keys that apply; undefined figures are null.
std::string json_report(const AttendOptions& options, const Tensors& tensors, const Job& job,
                        double seconds, const std::optional<Comparison>& comparison);

// The same figures for people.
std::string readable_report(const AttendOptions& options, const Tensors& tensors, const Job& job,
                            double seconds, const std::optional<Comparison>& comparison);

// Nanoseconds per pair of query and key and per query head, pairs behind the mask included.
double ns_per_pair(double seconds, const Tensors& tensors);

}  // namespace support
