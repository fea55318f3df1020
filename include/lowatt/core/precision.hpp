// What keys and values are stored as, and with it what a mechanism computes with inside.
#pragma once

#include "config.hpp"

namespace lowatt {

enum class Precision { fp32, bf16, f16, int16, int8, int4 };

LOWATT_ALWAYS_INLINE constexpr const char* precision_name(Precision precision) noexcept {
  switch (precision) {
    case Precision::fp32:
      return "fp32";
    case Precision::bf16:
      return "bf16";
    case Precision::f16:
      return "f16";
    case Precision::int16:
      return "int16";
    case Precision::int8:
      return "int8";
    case Precision::int4:
      return "int4";
  }
  return "unknown";
}

// The precision called `name`, or false.
LOWATT_ALWAYS_INLINE bool parse_precision(const char* name, Precision& precision) noexcept {
  constexpr Precision all[] = {Precision::fp32,  Precision::bf16, Precision::f16,
                               Precision::int16, Precision::int8, Precision::int4};
  for (const Precision one : all) {
    if (__builtin_strcmp(name, precision_name(one)) != 0) continue;
    precision = one;
    return true;
  }
  return false;
}

}  // namespace lowatt
