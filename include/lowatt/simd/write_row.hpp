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

// A factor as the sum of two floats, to 2^-48 of itself.
struct FloatPair {
  float high, low;

  FloatPair() noexcept = default;
  LOWATT_ALWAYS_INLINE explicit FloatPair(double factor) noexcept
      : high(static_cast<float>(factor)),
        low(static_cast<float>(factor - static_cast<double>(high))) {}
};

// What write_integers() takes.
inline constexpr Index most_written_integer = Index{1} << 24;

// out[c] = sums[c] * factor for integers of at most most_written_integer, as doubles would give it
// if rounded to a float at last and within 2^-50 of the product before: half the time in floats.
// Returns false, and may have written anything, where that is not certain. Whole registers of sums
// are read.
//
// The product of two floats and what its rounding left out are sum * factor.high exactly. With
// sum * factor.low added to what was left out, both are within 2^-46 of the product. Numbers
// half-way between two floats are 2^-25 or more away from a float, so that one which lies between
// both and the product lies between 1 - 2^-18 and 1 + 2^-18 of what was left out as well: and these
// two then round to different floats.
template <class L>
LOWATT_ALWAYS_INLINE bool write_integers(const std::int32_t* sums, Index dims, FloatPair factor,
                                         float* out) noexcept {
  using Op = Ops<L>;
  using Float = typename Op::Float;
  if constexpr (!Op::fuses_multiply_add) {
    return false;
  } else {
    // Beyond these, what is left out of a product may be smaller than any float.
    const float size = factor.high < 0 ? -factor.high : factor.high;
    if (!(size >= 0x1p-60f && size <= 0x1p60f)) return false;
    const Float high(factor.high), minus_high(-factor.high), minus_low(-factor.low);
    const Float minus_less(0x1p-18f - 1), minus_more(-0x1p-18f - 1);
    auto same = high == high;
    for (Index c = 0; c < dims; c += Op::lanes) {
      const Float sum = Op::to_float(Op::load(sums + c));
      const Float product = sum * high;
      const Float above =
          Op::multiply_add(sum, minus_low, Op::multiply_add(sum, minus_high, product));
      const Float less = Op::multiply_add(above, minus_less, product);
      same = same & (less == Op::multiply_add(above, minus_more, product));
      if (c + Op::lanes <= dims)
        less.store_unaligned(out + c);
      else
        Op::store_lanes(out + c, less, dims - c);
    }
    return xsimd::all(same);
  }
}

// Where there is nothing to add up.
LOWATT_ALWAYS_INLINE void write_zeros(Index dims, float* out) noexcept {
  for (Index c = 0; c < dims; ++c) out[c] = 0;
}

}  // namespace lowatt
