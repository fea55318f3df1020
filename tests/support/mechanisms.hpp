// Every mechanism and precision with parameters that exercise it, for tests of what they all
// promise.
#pragma once

#include <gtest/gtest.h>

#include <lowatt/lowatt.hpp>

namespace test {

// `exact`: integers throughout, so that the same call gives the same bits however it is cut.
template <lowatt::Precision precision>
struct SoftmaxExample {
  using Mechanism = lowatt::Softmax;
  static constexpr bool exact = false;
  // At level amx one query alone has float32 weights where more have bf16.
  static constexpr double tolerance = precision == lowatt::Precision::int8 ? 5e-3 : 2e-5;
  static Mechanism make() { return {.precision = precision}; }
};
struct InhibitorExample {
  using Mechanism = lowatt::Inhibitor;
  static constexpr bool exact = true;
  static Mechanism make() { return {.scale = 0.01, .alpha = 0.05, .center = true}; }
};
struct InhibitorInt16Example {
  using Mechanism = lowatt::Inhibitor;
  static constexpr bool exact = true;
  static Mechanism make() {
    return {.scale = 0.01, .alpha = 0.05, .center = true, .precision = lowatt::Precision::int16};
  }
};
struct InhibitorInt4Example {
  using Mechanism = lowatt::Inhibitor;
  static constexpr bool exact = true;
  static Mechanism make() {
    return {.scale = 0.01, .alpha = 0.05, .precision = lowatt::Precision::int4};
  }
};
struct InhibitorPlanesExample {
  using Mechanism = lowatt::Inhibitor;
  static constexpr bool exact = true;
  static Mechanism make() { return {.scale = 0.01, .alpha = 0.05, .planes = 9}; }
};
struct InhibitorFp32Example {
  using Mechanism = lowatt::Inhibitor;
  static constexpr bool exact = false;
  static Mechanism make() {
    return {.scale = 0.01, .alpha = 0.05, .precision = lowatt::Precision::fp32};
  }
};
struct LatteExample {
  using Mechanism = lowatt::Latte;
  static constexpr bool exact = false;  // survivors are; their weights are floats
  // At level amx many survivors of many queries have weights of bf16.
  static constexpr double tolerance = 2e-3;
  static Mechanism make() { return {.theta = 1.5}; }
};
struct LatteFloatValuesExample {
  using Mechanism = lowatt::Latte;
  static constexpr bool exact = false;
  static Mechanism make() { return {.theta = 1.5, .value_precision = lowatt::Precision::fp32}; }
};
struct BitformerSignExample {
  using Mechanism = lowatt::Bitformer;
  static constexpr bool exact = true;
  static Mechanism make() { return {.center_keys = true}; }
};
struct BitformerThermometerExample {
  using Mechanism = lowatt::Bitformer;
  static constexpr bool exact = true;
  static Mechanism make() { return {.planes = 7, .center_keys = true}; }
};

// Relative L2 distance between two ways of cutting the same call, where it is not exact.
template <class Example>
inline constexpr double tolerance_of = [] {
  if constexpr (requires { Example::tolerance; })
    return Example::tolerance;
  else
    return 2e-5;
}();

using Examples =
    testing::Types<SoftmaxExample<lowatt::Precision::fp32>, SoftmaxExample<lowatt::Precision::bf16>,
                   SoftmaxExample<lowatt::Precision::f16>, SoftmaxExample<lowatt::Precision::int8>,
                   InhibitorExample, InhibitorInt16Example, InhibitorInt4Example,
                   InhibitorPlanesExample, InhibitorFp32Example, LatteExample,
                   LatteFloatValuesExample, BitformerSignExample, BitformerThermometerExample>;

}  // namespace test
