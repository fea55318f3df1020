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

template <class L>
LOWATT_ALWAYS_INLINE typename Ops<L>::Float exp2(typename Ops<L>::Float x) noexcept {
  using Op = Ops<L>;
  using Float = typename Op::Float;
  using Int = xsimd::batch<std::int32_t, typename Float::arch_type>;
  // Adding 1.5 * 2^23 rounds to an integer, which then stands in the lowest bits of the sum; with
  // 127 added to it, it is the biased exponent of 2^n.
  constexpr float round = 12582912.0f + 127.0f;
  const Float shifted = x + Float(round);
  const Float f = x - (shifted - Float(round));
  const Float power = xsimd::bitwise_cast<Float>(xsimd::bitwise_cast<Int>(shifted) << 23);

  Float polynomial(0x1.41d334p-13f);
  polynomial = Op::multiply_add(polynomial, f, Float(0x1.5f456ap-10f));
  polynomial = Op::multiply_add(polynomial, f, Float(0x1.3b2dbcp-7f));
  polynomial = Op::multiply_add(polynomial, f, Float(0x1.c6aed4p-5f));
  polynomial = Op::multiply_add(polynomial, f, Float(0x1.ebfbdap-3f));
  polynomial = Op::multiply_add(polynomial, f, Float(0x1.62e430p-1f));
  polynomial = Op::multiply_add(polynomial, f, Float(1.0f));
  return xsimd::select(x < Float(-100.0f), Float(0.0f), polynomial * power);
}

// The same for one number.
template <class L>
float exp2(float x) noexcept {
  alignas(64) float lanes[Ops<L>::lanes];
  exp2<L>(typename Ops<L>::Float(x)).store_unaligned(lanes);
  return lanes[0];
}

}  // namespace lowatt
