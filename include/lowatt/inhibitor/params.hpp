// The Inhibitor (arXiv 2310.02041; also 2308.05629, 2503.15983): attention from distances instead
// of dot products and from inhibition instead of softmax, in this order:
//   score       Z_ij = scale * sum_k |q_ik - k_jk|
//   centre      (optional) Z = max(Z - mean of the row, 0)
//   shift       Z' = max(Z - alpha, 0)
//   inhibition  out_ik = beta * sum_j sign(v_jk) * max(|v_jk| - Z'_ij, 0), or unsigned
//               out_ik = beta * sum_j max(v_jk - Z'_ij, 0)
// It replaces softmax rather than approximating it: a model is trained with it.
#pragma once

#include "../core/precision.hpp"
#include "../core/setting.hpp"
#include "../quant/scale.hpp"

LOWATT_API_BEGIN

struct Inhibitor {
  Setting scale = {};      // multiplies distances; finite, > 0. Default 1/sqrt(head_dim)
  double alpha = 0;        // shift in units of V; finite, negative adds to scores
  double beta = 1;         // gain of the output; finite
  bool is_signed = true;   // false: only what V has above the score passes
  bool center = false;     // subtract the row's mean score (2503.15983)
  bool normalize = false;  // divide by the number of visible keys
  Precision precision = Precision::int8;  // fp32, int16, int8 or int4

  // From 1 on: queries and keys are thermometer codes of so many bit planes (quant/bit_planes.hpp),
  // whose Hamming distance is the L1 distance of their levels; values stay int8. At most 64.
  int planes = 0;
  // Their thresholds spread over (-clip, clip), in units of Q and K; rounded to float32 once;
  // finite, >= 0. Default: the largest absolute value of the KV head's keys and its queries.
  Setting clip = {};
};

LOWATT_API_END

namespace lowatt {

// What the integer mechanism needs to turn a distance in steps of K's scale into an inhibition in
// steps of V's scale, in integers alone: floor((distance + rounding) * multiplier / 2^shift) -
// alpha. The same constants on every level make the results the same on every level.
struct InhibitorConstants {
  std::int64_t multiplier = 0;   // M, at most 65535
  int shift = 0;                 // F, in [0, 31]
  std::int64_t rounding = 0;     // R: added to the distance, turns truncation into near rounding
  std::int64_t alpha = 0;        // A
  std::int64_t score_cap = 0;    // the scaled score saturates here ...
  std::int64_t shifted_cap = 0;  // ... and the shifted one here: as good as infinite beside |V|
};

namespace inhibitor_detail {

// floor(log2(x)) for normal x > 0; at most -1023 for smaller ones and 1024 for infinity.
LOWATT_ALWAYS_INLINE int exponent_of(double x) noexcept {
  return static_cast<int>((__builtin_bit_cast(std::uint64_t, x) >> 52) & 0x7ff) - 1023;
}

LOWATT_ALWAYS_INLINE double clamp(double x, double low, double high) noexcept {
  return x < low ? low : x > high ? high : x;
}

// round_half_even(ratio * 2^shift), at most 65536. Bounded before the conversion, since the ratio
// may be larger than any integer.
LOWATT_ALWAYS_INLINE std::int64_t scaled_ratio(double ratio, int shift) noexcept {
  return round_half_even(
      clamp(ratio * static_cast<double>(std::int64_t{1} << shift), 0.0, 65536.0));
}

// Everything but the caps, which differ between the widths. value_scale > 0.
LOWATT_ALWAYS_INLINE InhibitorConstants inhibitor_ratio(double scale, float key_scale,
                                                        float value_scale) noexcept {
  InhibitorConstants constants{};
  const double ratio = scale * static_cast<double>(key_scale) / static_cast<double>(value_scale);
  if (ratio == 0) return constants;
  int shift = 15 - exponent_of(ratio);
  shift = shift < 0 ? 0 : shift > 31 ? 31 : shift;
  std::int64_t multiplier = scaled_ratio(ratio, shift);
  if (multiplier >= 65536 && shift > 0) multiplier = scaled_ratio(ratio, --shift);
  constants.multiplier = multiplier < 65535 ? multiplier : 65535;
  constants.shift = shift;
  if (shift >= 1 && constants.multiplier > 0)
    constants.rounding = (std::int64_t{1} << (shift - 1)) / constants.multiplier;
  return constants;
}

}  // namespace inhibitor_detail

// For int8. key_scale is shared by K of a KV head and its query heads. With value_scale = 0 every
// output is 0 and the constants mean nothing.
LOWATT_ALWAYS_INLINE InhibitorConstants inhibitor_constants(double scale, float key_scale,
                                                            float value_scale,
                                                            double alpha) noexcept {
  if (value_scale == 0) return {};
  InhibitorConstants constants = inhibitor_detail::inhibitor_ratio(scale, key_scale, value_scale);
  constants.alpha = round_half_even(
      inhibitor_detail::clamp(alpha / static_cast<double>(value_scale), -255.0, 65280.0));
  constants.score_cap = 65535;
  constants.shifted_cap = 255;
  return constants;
}

// For int16.
LOWATT_ALWAYS_INLINE InhibitorConstants inhibitor_constants_int16(double scale, float key_scale,
                                                                  float value_scale,
                                                                  double alpha) noexcept {
  if (value_scale == 0) return {};
  InhibitorConstants constants = inhibitor_detail::inhibitor_ratio(scale, key_scale, value_scale);
  constants.alpha = round_half_even(
      inhibitor_detail::clamp(alpha / static_cast<double>(value_scale), -32767.0, 0x1p40));
  constants.score_cap = (constants.alpha > 0 ? constants.alpha : 0) + 32767;
  constants.shifted_cap = 32767;
  return constants;
}

// z' of a distance in steps. distance + rounding stays below 2^47 for any head_dim under a billion,
// so the product fits 64 bits.
LOWATT_ALWAYS_INLINE std::int64_t inhibitor_score(const InhibitorConstants& constants,
                                                  std::int64_t distance) noexcept {
  std::int64_t z = ((distance + constants.rounding) * constants.multiplier) >> constants.shift;
  z = (z < constants.score_cap ? z : constants.score_cap) - constants.alpha;
  z = z > 0 ? z : 0;
  return z < constants.shifted_cap ? z : constants.shifted_cap;
}

// Largest absolute value that K of one KV head and its query heads share: a distance needs one
// unit.
LOWATT_ALWAYS_INLINE float inhibitor_shared_absmax(const float* query_absmax, Index query_heads,
                                                   float key_absmax) noexcept {
  for (Index h = 0; h < query_heads; ++h)
    key_absmax = query_absmax[h] > key_absmax ? query_absmax[h] : key_absmax;
  return key_absmax;
}

}  // namespace lowatt
