// Every mechanism with parameters that exercise it, for tests of what they all promise.
#pragma once

#include <lowatt/lowatt.hpp>

#define LOWATT_TEST_MECHANISMS lowatt::Inhibitor

namespace test {

template <class M>
struct Example;

// `exact`: integers throughout, so that the same call gives the same bits however it is cut.
template <>
struct Example<lowatt::Inhibitor> {
  static constexpr bool exact = true;
  static lowatt::Inhibitor make() { return {.scale = 0.01, .alpha = 0.05, .center = true}; }
};

}  // namespace test
