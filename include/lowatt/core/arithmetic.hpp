// The number types that the plain references of attention run on: built-in numbers, and types that
// stand for a number without showing it, such as an integer under homomorphic encryption or one
// that counts what is done to it. Such a type cannot be compared, converted to bool or branched on,
// and it cannot make a zero out of nothing.
//
// A type A is an Arithmetic when it has (found in its own namespace, by argument-dependent lookup):
//   A::Constant      the plain numbers that A is combined with; a built-in is its own Constant
//   copies           construction and assignment; no default construction is asked for
//   a + b, a - b, -a
//   a + k, a * k     with a plain k
//   abs(a)           |a|
//   relu(a)          max(a, 0); a floating NaN stays NaN
//   max(a, b)
//   lookup(a, f)     f(a) for a function f of plain numbers. Where A is encrypted this is a table:
//                    f is also asked for numbers that a might have been
// and an ArithmeticWithProduct, which dot products need and the Inhibitor does not, when it also
// has
//   a * b
#pragma once

#include <concepts>
#include <type_traits>

#include "config.hpp"

namespace lowatt::arithmetic {

// The four functions for built-in numbers. References say `using arithmetic::abs;` and call abs(a),
// which finds these for built-ins and a type's own otherwise.
template <class T>
concept BuiltIn = std::is_arithmetic_v<T> && std::is_signed_v<T>;

template <BuiltIn T>
LOWATT_ALWAYS_INLINE constexpr T abs(T a) noexcept {
  return a < 0 ? -a : a;
}
template <BuiltIn T>
LOWATT_ALWAYS_INLINE constexpr T relu(T a) noexcept {
  return a < 0 ? T{0} : a;
}
template <BuiltIn T>
LOWATT_ALWAYS_INLINE constexpr T max(T a, T b) noexcept {
  return b < a || a != a ? a : b;  // NOLINT(misc-redundant-expression): true of NaN
}
template <BuiltIn T, class F>
LOWATT_ALWAYS_INLINE constexpr T lookup(T a, F f) noexcept {
  return static_cast<T>(f(a));
}

template <class A>
struct ConstantOf {};
template <class A>
requires requires {
  typename A::Constant;
}
struct ConstantOf<A> {
  using type = typename A::Constant;
};
template <BuiltIn A>
struct ConstantOf<A> {
  using type = A;
};

}  // namespace lowatt::arithmetic

namespace lowatt {

template <class A>
using Constant = typename arithmetic::ConstantOf<A>::type;

namespace arithmetic {

// Stands for any callable that maps constants to constants: lookup() takes lambdas with captures.
template <class A>
struct AnyFunction {
  Constant<A> operator()(Constant<A> x) const;
};

template <class A>
concept HasOperations = std::copy_constructible<A> && std::is_copy_assignable_v<A> &&
    requires(const A& a, const A& b, Constant<A> k, const AnyFunction<A>& f) {
  { a + b } -> std::convertible_to<A>;
  { a - b } -> std::convertible_to<A>;
  { -a } -> std::convertible_to<A>;
  { a + k } -> std::convertible_to<A>;
  { a* k } -> std::convertible_to<A>;
  { abs(a) } -> std::convertible_to<A>;
  { relu(a) } -> std::convertible_to<A>;
  { max(a, b) } -> std::convertible_to<A>;
  { lookup(a, f) } -> std::convertible_to<A>;
};

}  // namespace arithmetic

template <class A>
concept Arithmetic = arithmetic::HasOperations<A>;

template <class A>
concept ArithmeticWithProduct = Arithmetic<A> && requires(const A& a, const A& b) {
  { a* b } -> std::convertible_to<A>;
};

namespace arithmetic {

// What softmax makes weights of; one lookup each.
template <ArithmeticWithProduct A>
LOWATT_ALWAYS_INLINE A exponential(const A& a) {
  return lookup(a, [](double x) { return __builtin_exp(x); });
}
template <ArithmeticWithProduct A>
LOWATT_ALWAYS_INLINE A reciprocal(const A& a) {
  return lookup(a, [](double x) { return 1 / x; });
}

}  // namespace arithmetic

}  // namespace lowatt
