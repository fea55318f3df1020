// 2^x for the weights of softmax, a register at a time.
//
// x = n + f with n the nearest integer: 2^f by a polynomial of degree 6 for f in [-1/2, 1/2]
// (relative error 2e-9 before rounding), 2^n by writing its exponent. The relative error is at most
// 2^-23 for x in [-100, 127]; 2^0 is exactly 1. Below -100 the result is exactly 0, so that a score
// of -infinity has weight 0, and that products with values are hardly ever denormal, which stalls
// the processor: keys in clusters take 0.46 of the time that they took with 2^-126 as the smallest
// weight. NaN stays NaN. x above 127 is not allowed for.
#pragma once

#include "ops.hpp"

namespace lowatt {

// 2^x by a polynomial: coefficients of f^N .. f^1, where x = n + f and |f| <= 1/2. For x within the
// exponents of normal numbers.
template <class L, int N>
LOWATT_ALWAYS_INLINE typename Ops<L>::Float exp2_by(typename Ops<L>::Float x,
                                                    const float (&coefficients)[N]) noexcept {
  using Op = Ops<L>;
  using Float = typename Op::Float;
  using Int = xsimd::batch<std::int32_t, typename Float::arch_type>;
  // Adding 1.5 * 2^23 rounds to an integer, which then stands in the lowest bits of the sum; with
  // 127 added to it, it is the biased exponent of 2^n.
  constexpr float round = 12582912.0f + 127.0f;
  const Float shifted = x + Float(round);
  const Float f = x - (shifted - Float(round));
#if defined(__x86_64__)
  const Float power = xsimd::bitwise_cast<Float>(xsimd::bitwise_cast<Int>(shifted) << 23);
#else  // where xsimd's cast is a call of a function
  const Float power = __builtin_bit_cast(Float, __builtin_bit_cast(Int, shifted) << 23);
#endif
  Float polynomial(coefficients[0]);
  LOWATT_UNROLL
  for (int i = 1; i < N; ++i) polynomial = Op::multiply_add(polynomial, f, Float(coefficients[i]));
  return Op::multiply_add(polynomial, f, Float(1.0f)) * power;
}

template <class L>
LOWATT_ALWAYS_INLINE typename Ops<L>::Float exp2(typename Ops<L>::Float x) noexcept {
  using Float = typename Ops<L>::Float;
  constexpr float coefficients[] = {0x1.41d334p-13f, 0x1.5f456ap-10f, 0x1.3b2dbcp-7f,
                                    0x1.c6aed4p-5f,  0x1.ebfbdap-3f,  0x1.62e430p-1f};
  return xsimd::select(x < Float(-100.0f), Float(0.0f), exp2_by<L>(x, coefficients));
}

// 2^x to 2^-17 of itself for x in [-100, 0], for weights that become integers.
template <class L>
LOWATT_ALWAYS_INLINE typename Ops<L>::Float coarse_exp2(typename Ops<L>::Float x) noexcept {
  constexpr float coefficients[] = {0x1.3a02c2p-7f, 0x1.c9fc4ap-5f, 0x1.ec0378p-3f, 0x1.62e12cp-1f};
  return exp2_by<L>(x, coefficients);
}

// The same for one number.
template <class L>
float exp2(float x) noexcept {
  alignas(64) float lanes[Ops<L>::lanes];
  exp2<L>(typename Ops<L>::Float(x)).store_unaligned(lanes);
  return lanes[0];
}

}  // namespace lowatt
