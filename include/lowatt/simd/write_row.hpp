// How sums of a row become the floats of an output: in double, rounded once, or in a way that gives
// the same floats.
#pragma once

#include <type_traits>

#include "ops.hpp"

namespace lowatt {

// out[c] = of_sum(sums[c]) for c < dims, where of_sum is from Ops<L>::Double to the same. Integers
// of 64 bits are left to the compiler, which finds what a level has for them.
template <class L, class Number, class OfSum>
LOWATT_ALWAYS_INLINE void write_row(const Number* sums, Index dims, float* out,
                                    OfSum&& of_sum) noexcept {
  using Op = Ops<L>;
  using Double = typename Op::Double;
  constexpr Index lanes = static_cast<Index>(Double::size);
  const auto load = [=](const Number* from) __attribute__((always_inline)) {
    if constexpr (sizeof(Number) == 4) {
      return Op::to_double(from);
    } else if constexpr (std::is_same_v<Number, double>) {
      return Double::load_unaligned(from);
    } else {
      double converted[lanes];
      for (Index i = 0; i < lanes; ++i) converted[i] = static_cast<double>(from[i]);
      return Double::load_unaligned(converted);
    }
  };
  Index c = 0;
  for (; c + lanes <= dims; c += lanes) Op::store_as_float(out + c, of_sum(load(sums + c)));
  if (c == dims) return;
  Number rest[lanes] = {};
  float results[lanes];
  for (Index i = 0; c + i < dims; ++i) rest[i] = sums[c + i];
  Op::store_as_float(results, of_sum(load(rest)));
  for (Index i = 0; c + i < dims; ++i) out[c + i] = results[i];
}

// out[c] = sums[c] * factor.
template <class L, class Number>
LOWATT_ALWAYS_INLINE void write_scaled(const Number* sums, Index dims, double factor,
                                       float* out) noexcept {
  using Double = typename Ops<L>::Double;
  const Double by(factor);
  write_row<L>(
      sums, dims, out, [=](Double sum) __attribute__((always_inline)) { return sum * by; });
}

// A factor as the sum of two floats, to 2^-48 of itself unless one of them is subnormal.
struct FloatPair {
  float high, low;

  FloatPair() noexcept = default;
  LOWATT_ALWAYS_INLINE explicit FloatPair(double factor) noexcept
      : high(static_cast<float>(factor)),
        low(static_cast<float>(factor - static_cast<double>(high))) {}
};

// What a product rounds to if the error of its first rounding is taken for 2^-18 smaller and for as
// much larger than it was found to be. Where both are the same float, it is what the product rounds
// to, exact or with an error of up to 2^-50 of itself.
template <class Float>
struct ProductBounds {
  Float nearer, farther;  // to the product as it was first rounded
};

// Of sum * (high + low). Fused multiply-adds find by how much sum * high was rounded up, exactly,
// and, with sum * low subtracted, by how much the float is above what is wanted: to within 2^-46 of
// the product, all in all. Say a number half-way between two floats lies between what is wanted and
// what was found. Such numbers are 2^-25 of the product or more away from any float, so that the
// float is as far above or below what was found, and 2^-18 of that is more than 2^-46: the number
// lies between both bounds as well, and they round to different floats.
template <class Float, class Fused>
LOWATT_ALWAYS_INLINE ProductBounds<Float> product_bounds(Float sum, Float high, Float minus_high,
                                                         Float minus_low, Fused&& fused) noexcept {
  const Float product = sum * high;
  const Float above = fused(sum, minus_low, fused(sum, minus_high, product));
  return {fused(above, Float(0x1p-18f - 1), product), fused(above, Float(-0x1p-18f - 1), product)};
}

// Largest absolute value that write_integers() takes.
inline constexpr Index most_written_integer = Index{1} << 24;

// out[c] = sums[c] * factor for integers up to most_written_integer, computed in floats: twice as
// many fit a register as doubles. Returns whether doubles within 2^-50 of the products would be
// rounded to the same floats; where not, out may hold anything. Whole registers of sums are read.
template <class L>
LOWATT_ALWAYS_INLINE bool write_integers(const std::int32_t* sums, Index dims, FloatPair factor,
                                         float* out) noexcept {
  using Op = Ops<L>;
  using Float = typename Op::Float;
  if constexpr (!Op::fuses_multiply_add) {
    return false;
  } else {
    // Within these, neither a product leaves the range of floats nor what it was rounded by.
    const float size = factor.high < 0 ? -factor.high : factor.high;
    if (!(size >= 0x1p-60f && size <= 0x1p60f)) return false;
    const Float high(factor.high), minus_high(-factor.high), minus_low(-factor.low);
    auto same = high == Float(factor.high);
    for (Index c = 0; c < dims; c += Op::lanes) {
      const ProductBounds<Float> product = product_bounds(
          Op::to_float(Op::load(sums + c)), high, minus_high, minus_low,
          [](Float x, Float y, Float z)
              __attribute__((always_inline)) { return Op::multiply_add(x, y, z); });
      same = same & (product.nearer == product.farther);
      if (c + Op::lanes <= dims)
        product.nearer.store_unaligned(out + c);
      else
        Op::store_lanes(out + c, product.nearer, dims - c);
    }
    return xsimd::all(same);
  }
}

// Where there is nothing to add up.
LOWATT_ALWAYS_INLINE void write_zeros(Index dims, float* out) noexcept {
  for (Index c = 0; c < dims; ++c) out[c] = 0;
}

}  // namespace lowatt
