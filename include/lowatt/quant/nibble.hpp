// Splitting an int8 value into the high part that a cheap first pass reads and the low rest:
// value = 16 * high + low.
#pragma once

#include "../core/config.hpp"

namespace lowatt {

enum class NibbleSplit {
  round,    // high is the nearest multiple, in [-8, 7]; low in [-8, 15]. Ranks keys better.
  truncate  // high is the top four bits (MS4B in LATTE's paper), in [-8, 7]; low in [0, 15]
};

LOWATT_ALWAYS_INLINE constexpr int high_nibble(int value, NibbleSplit split) noexcept {
  if (split == NibbleSplit::truncate) return value >> 4;
  const int nearest = (value + 8) >> 4;
  return nearest > 7 ? 7 : nearest;  // never below -8: (-128 + 8) >> 4 is -8
}

LOWATT_ALWAYS_INLINE constexpr int low_rest(int value, NibbleSplit split) noexcept {
  return value - 16 * high_nibble(value, split);
}

}  // namespace lowatt
