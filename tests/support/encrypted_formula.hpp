// A small circuit with one of each operation, for schemes with real ciphertexts.
#pragma once

#include "lowatt/interop/encrypted.hpp"

namespace test {

inline constexpr lowatt::Interval formula_first{-2, 1}, formula_second{-1, 2};

template <class A>
A formula(const A& a, const A& b) {
  using lowatt::arithmetic::abs, lowatt::arithmetic::relu, lowatt::arithmetic::max,
      lowatt::arithmetic::lookup;
  using K = std::int64_t;
  const A halves = lookup(max(a, b) + K{1}, [](K x) { return x / 2; });
  return a * b + abs(a - b) - relu(-b) * K{2} + halves;
}

}  // namespace test
