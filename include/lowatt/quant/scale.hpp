// Symmetric quantisation of single values: x ~ scale * q with q in [-limit, limit].
//
// limit is 127 for int8, 32767 for int16 and 7 for int4. The results are defined to the bit, on
// every level:
//   absmax < 2^-110   scale = inverse = 0 and every q is 0. (Above it, the scale is a normal number
//                     and the inverse is finite, for both widths.)
//   else              scale = absmax / limit and inverse = limit / absmax, float32 divisions;
//                     q = clamp(round_half_even(x * inverse), -limit, limit), a float32 product.
//   NaN becomes 0, infinities saturate.
// On x86-64 rounding follows the processor's rounding mode, which is round half even unless
// somebody changed it; unlike rintf, the convert instructions used here never call the mathematics
// library.
#pragma once

#if defined(__x86_64__)
#include <emmintrin.h>
#else
#include <arm_neon.h>
#endif

#include "../core/config.hpp"

namespace lowatt {

inline constexpr int int4_limit = 7;
inline constexpr int int8_limit = 127;
inline constexpr int int16_limit = 32767;

// Without initial values: a constructor would be a function that kernels of all levels share.
struct SymmetricScale {
  float scale;    // what one step of q stands for
  float inverse;  // what x is multiplied with
};

LOWATT_ALWAYS_INLINE SymmetricScale symmetric_scale(float absmax, int limit) noexcept {
  const bool representable = absmax >= 0x1p-110f;
  if (!representable) return {0.0f, 0.0f};
  const float steps = static_cast<float>(limit);
  return {absmax / steps, steps / absmax};
}

// The nearest integer, halves to the even one. For |x| < 2^63.
LOWATT_ALWAYS_INLINE std::int64_t round_half_even(double x) noexcept {
#if defined(__x86_64__)
  return _mm_cvtsd_si64(_mm_set_sd(x));
#else
  return vcvtnd_s64_f64(x);
#endif
}

LOWATT_ALWAYS_INLINE std::int32_t quantize(float x, float inverse, int limit) noexcept {
  // The bounds are integers, so clamping before rounding gives what clamping after it would.
#if defined(__x86_64__)
  const __m128 bound = _mm_set_ss(static_cast<float>(limit));
  const __m128 product = _mm_set_ss(x * inverse);
  __m128 steps = _mm_and_ps(_mm_cmpord_ss(product, product), product);  // NaN becomes 0
  steps = _mm_min_ss(steps, bound);
  steps = _mm_max_ss(steps, _mm_sub_ss(_mm_setzero_ps(), bound));
  return _mm_cvtss_si32(steps);
#else
  const float bound = static_cast<float>(limit), product = x * inverse;
  float steps = product == product ? product : 0.0f;  // NaN becomes 0
  steps = steps < bound ? steps : bound;
  steps = steps > -bound ? steps : -bound;
  return vcvtns_s32_f32(steps);
#endif
}

// max(so_far, |x[0]|, ..., |x[n-1]|) over the finite values. Magnitudes are compared as integers:
// for floats of one sign the order of the bit patterns is the order of the values, and unlike a
// maximum of floats the loop may be vectorised whatever the compiler must assume about NaN.
LOWATT_ALWAYS_INLINE float finite_absmax(const float* x, Index n, float so_far = 0) noexcept {
  constexpr std::int32_t magnitude_bits = 0x7fffffff;
  constexpr std::int32_t infinity_bits = 0x7f800000;
  std::int32_t largest = __builtin_bit_cast(std::int32_t, so_far) & magnitude_bits;
  for (Index i = 0; i < n; ++i) {
    const std::int32_t bits = __builtin_bit_cast(std::int32_t, x[i]) & magnitude_bits;
    const std::int32_t finite = bits < infinity_bits ? bits : 0;
    largest = largest > finite ? largest : finite;
  }
  return __builtin_bit_cast(float, largest);
}

LOWATT_ALWAYS_INLINE bool is_finite(float x) noexcept {
  return (__builtin_bit_cast(std::uint32_t, x) & 0x7f800000u) != 0x7f800000u;
}

}  // namespace lowatt
