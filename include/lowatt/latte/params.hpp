// LATTE (arXiv 2404.07519): softmax attention on int8 values that first looks at four bits of each
// and keeps only the keys whose low-precision score comes close to the row's best.
#pragma once

#include "../core/precision.hpp"
#include "../core/setting.hpp"
#include "../quant/nibble.hpp"

LOWATT_API_BEGIN

struct Latte {
  Setting scale = {};  // multiplies scores; finite, > 0. Default 1/sqrt(head_dim)

  // Distance to the row maximum, in logits, up to which a key survives: one for all query heads or
  // one per query head; finite, >= 0. exp(-theta) is the low-precision probability, relative to the
  // row's largest, below which keys are dropped.
  PerHead theta = {};
  // Instead of theta, a target for which calibration chooses one per query head (see
  // calibrate.hpp): the share of pairs to drop, in [0, 1), or the relative L2 error that dropping
  // them may add to a head's output, finite, >= 0. One of the three is needed, or a Calibration
  // with thetas.
  Setting filtered = {};
  Setting error = {};

  NibbleSplit split = NibbleSplit::round;  // how the four bits are taken

  // What values are stored as: int8, or fp32 for outputs without their rounding at four times the
  // memory.
  Precision value_precision = Precision::int8;
};

// The training form: every visible key takes part, its weight multiplied by a soft mask that is
// what the threshold becomes with a temperature, so that thresholds can be learnt.
//   m_ij = sigmoid((low_ij - max_j low_ij + theta) / softness),  low in logits
//   out_i = sum_j p_ij v_j,  p_ij = m_ij exp(s_ij) / sum_j m_ij exp(s_ij),
//   s_ij  = scale * q_i . k_j
// As softness goes to 0 the mask becomes Latte's survivors.
struct SoftLatte {
  Setting scale = {};   // as Latte's
  PerHead theta = {};   // in logits, one for all query heads or one per query head; finite, >= 0
  double softness = 1;  // in logits; finite, > 0
  // Low scores from the four high bits as the integer kernel takes them; gradients pass through the
  // rounding as if it were not there. Otherwise low = s, and all is smooth.
  bool quantised = true;
  NibbleSplit split = NibbleSplit::round;
};

LOWATT_API_END

namespace lowatt {

// Distances between low-precision scores (high nibble products) lie within [0, 120 * head_dim];
// steps that are added to them, up to largest_step up and down, make that more.
LOWATT_ALWAYS_INLINE constexpr Index latte_largest_gap(Index head_dim,
                                                       Index largest_step = 0) noexcept {
  return 120 * head_dim + 2 * largest_step;
}

// What a step of a low-precision score stands for, in logits.
LOWATT_ALWAYS_INLINE double latte_unit(float query_scale, float key_scale, double scale) noexcept {
  return 256.0 * static_cast<double>(query_scale) * static_cast<double>(key_scale) * scale;
}

// Theta in units of the low-precision integer scores of one query: a key survives when the row's
// maximum minus its score is at most this. query_scale is the query token's, key_scale the KV
// head's.
LOWATT_ALWAYS_INLINE Index latte_threshold(double theta, float query_scale, float key_scale,
                                           double scale, Index head_dim,
                                           Index largest_step = 0) noexcept {
  const Index largest = latte_largest_gap(head_dim, largest_step);
  const double unit = latte_unit(query_scale, key_scale, scale);
  if (unit == 0) return largest;  // scores carry nothing to tell keys apart: keep all
  const double gap = theta / unit;
  // The bound is taken first, since the quotient may exceed any integer; truncation is floor here.
  return gap < static_cast<double>(largest) ? static_cast<Index>(gap) : largest;
}

// What a call adds to a logit, as a whole number of steps of low-precision scores.
inline constexpr std::int32_t latte_largest_step = 1 << 29;

// Steps of a logit; finite, whatever the unit: where scores carry nothing all keys are kept anyway.
LOWATT_ALWAYS_INLINE double latte_steps_per_logit(float query_scale, float key_scale,
                                                  double scale) noexcept {
  constexpr double largest = 1e300;
  const double unit = latte_unit(query_scale, key_scale, scale);
  return unit > 1 / largest ? 1 / unit : largest;
}

// NaN is the largest step, so that its key survives and the output is NaN.
LOWATT_ALWAYS_INLINE double latte_limited_steps(double added, double steps_per_logit) noexcept {
  constexpr double largest = latte_largest_step;
  double steps = added * steps_per_logit;
  steps = steps < -largest ? -largest : steps;
  return steps < largest ? steps : largest;
}
// Rounded half to even: adding 1.5 * 2^52 does it, and the integer then stands in the lowest bits.
LOWATT_ALWAYS_INLINE std::int32_t latte_whole_steps(double limited_steps) noexcept {
  const double shifted = limited_steps + 0x1.8p52;
  std::int64_t bits;
  __builtin_memcpy(&bits, &shifted, sizeof bits);
  return static_cast<std::int32_t>(bits);
}
LOWATT_ALWAYS_INLINE std::int32_t latte_step(double added, double steps_per_logit) noexcept {
  return latte_whole_steps(latte_limited_steps(added, steps_per_logit));
}

}  // namespace lowatt
