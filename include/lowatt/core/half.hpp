// Numbers of 16 bits: bfloat16 (8 bits of exponent, 7 of mantissa, the upper half of a float32) and
// IEEE half precision (5 and 10). Plain code; kernels use instructions that give the same bits.
//
// Rounding is to nearest, ties to even. What is too large becomes infinity; half precision keeps
// subnormal numbers, bfloat16 has those of float32. NaN stays NaN: quiet, with the sign and the
// upper bits of its payload.
#pragma once

#include "config.hpp"

namespace lowatt {

LOWATT_ALWAYS_INLINE constexpr std::uint16_t bf16_from_float(float x) noexcept {
  const auto bits = __builtin_bit_cast(std::uint32_t, x);
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  const std::uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  return static_cast<std::uint16_t>((is_nan ? bits | 0x400000u : rounded) >> 16);
}

LOWATT_ALWAYS_INLINE constexpr float float_from_bf16(std::uint16_t x) noexcept {
  return __builtin_bit_cast(float, std::uint32_t{x} << 16);
}

LOWATT_ALWAYS_INLINE constexpr std::uint16_t f16_from_float(float x) noexcept {
  constexpr std::uint32_t infinity = 0x7f800000u;
  constexpr std::uint32_t overflow = 0x477ff000u;  // 65520: half-way from 65504 to 65536
  constexpr std::uint32_t normal = 0x38800000u;    // 2^-14
  constexpr std::uint32_t exponents = 112u << 23;  // between the two exponents' biases
  const auto bits = __builtin_bit_cast(std::uint32_t, x);
  const std::uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  std::uint32_t half = 0;
  if (magnitude > infinity) {
    half = 0x7e00u | (magnitude >> 13 & 0x1ffu);
  } else if (magnitude >= overflow) {
    half = 0x7c00u;
  } else if (magnitude >= normal) {
    half = (magnitude - exponents + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  } else {
    // Added to 0.5, a number is rounded to a multiple of 2^-24, the smallest subnormal.
    const float sum = __builtin_bit_cast(float, magnitude) + 0.5f;
    half = __builtin_bit_cast(std::uint32_t, sum) - __builtin_bit_cast(std::uint32_t, 0.5f);
  }
  return static_cast<std::uint16_t>(sign | half);
}

LOWATT_ALWAYS_INLINE constexpr float float_from_f16(std::uint16_t x) noexcept {
  const std::uint32_t sign = (x & 0x8000u) << 16, magnitude = x & 0x7fffu;
  std::uint32_t bits = 0;
  if (magnitude > 0x7c00u)
    bits = 0x7fc00000u | magnitude << 13;
  else if (magnitude == 0x7c00u)
    bits = 0x7f800000u;
  else if (magnitude >= 0x400u)
    bits = (magnitude << 13) + (112u << 23);
  else
    bits = __builtin_bit_cast(std::uint32_t, static_cast<float>(magnitude) * 0x1p-24f);
  return __builtin_bit_cast(float, sign | bits);
}

}  // namespace lowatt
