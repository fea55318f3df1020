// How sums of a row become the floats of an output: in double, rounded once.
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

// Where there is nothing to add up.
LOWATT_ALWAYS_INLINE void write_zeros(Index dims, float* out) noexcept {
  for (Index c = 0; c < dims; ++c) out[c] = 0;
}

}  // namespace lowatt
