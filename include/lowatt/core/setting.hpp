// Parameters that may be left out, or given once for all heads.
#pragma once

#include <concepts>

#include "config.hpp"

namespace lowatt {

// A number that has a default which depends on the data (a scale, a clip, a temperature).
struct Setting {
  double value = 0;
  bool given = false;

  LOWATT_ALWAYS_INLINE constexpr Setting() noexcept = default;
  LOWATT_ALWAYS_INLINE constexpr Setting(double v) noexcept : value(v), given(true) {}
  LOWATT_ALWAYS_INLINE constexpr double or_else(double fallback) const noexcept {
    return given ? value : fallback;
  }
};

// One number for all heads, or one per head. Per-head numbers are referred to, not copied: they
// must outlive the call that they are given to (a KvCache keeps its own copy).
struct PerHead {
  double single = 0;
  const double* data = nullptr;
  Index count = 0;  // 0: not given

  LOWATT_ALWAYS_INLINE constexpr PerHead() noexcept = default;
  LOWATT_ALWAYS_INLINE constexpr PerHead(double v) noexcept : single(v), count(1) {}
  LOWATT_ALWAYS_INLINE constexpr PerHead(const double* values, Index n) noexcept
      : data(values), count(n) {}
  template <class Range>
  requires requires(const Range& r) {
    { r.data()[0] } -> std::same_as<const double&>;
    r.size();
  }
  LOWATT_ALWAYS_INLINE constexpr PerHead(const Range& values) noexcept
      : PerHead(values.data(), static_cast<Index>(values.size())) {}

  LOWATT_ALWAYS_INLINE constexpr bool given() const noexcept { return count > 0; }
  LOWATT_ALWAYS_INLINE constexpr double operator[](Index head) const noexcept {
    return data == nullptr ? single : data[head];
  }
};

}  // namespace lowatt
