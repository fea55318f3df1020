// What the tests of the Inhibitor's integer kernels share: comparison with the reference, bit for
// bit.
#pragma once

#include <lowatt/inhibitor/reference.hpp>

#include "float_check.hpp"

namespace test {

// Runs one case at every level and compares with the reference.
inline void expect_exact_inhibitor(const lowatt::Inhibitor& mechanism, const Case& c,
                                   Inputs& inputs) {
  const lowatt::View<const float> q = inputs.q.view(), k = inputs.k.view(), v = inputs.v.view();
  const lowatt::Status reference =
      lowatt::inhibitor_reference(mechanism, q, k, v, inputs.expected.view(), c.causal);
  ASSERT_TRUE(reference.ok()) << reference.message;
  for (const lowatt::Level level : levels()) {
    const std::string what =
        std::string(lowatt::precision_name(mechanism.precision)) + ", " + describe(level, c);
    inputs.out.for_each([](float& x) { x = -1e30f; });
    lowatt::attend(mechanism, q, k, v, inputs.out.view(), {.causal = c.causal, .level = level});
    expect_identical(std::as_const(inputs.out).view(), std::as_const(inputs.expected).view(), what);
    EXPECT_TRUE(inputs.out.gaps_are_untouched()) << what;
  }
}

inline void expect_exact_inhibitor(const lowatt::Inhibitor& mechanism, const Case& c) {
  Inputs inputs(c);
  expect_exact_inhibitor(mechanism, c, inputs);
}

// Every channel of queries and keys at one of two ends: half of the keys are as far from the first
// query as there is.
inline void set_largest_distances(Inputs& inputs) {
  inputs.q.for_each([](float& x) { x = x < 0 ? -1.0f : 1.0f; });
  const lowatt::View<float> q = inputs.q.view(), k = inputs.k.view();
  for (Index t = 0; t < k.tokens; ++t)
    for (Index i = 0; i < k.dim; ++i)
      k.row(0, 0, t)[i] = t % 2 == 0 ? -q.row(0, 0, 0)[i] : q.row(0, 0, t % q.tokens)[i];
}

// Random masks straight through the kernels.
inline void expect_exact_inhibitor_masks(const lowatt::Inhibitor& mechanism, bool spoil_values) {
  expect_masks_hide(
      mechanism, [](const auto&... arguments) { return lowatt::inhibitor_reference(arguments...); },
      spoil_values, [](lowatt::Level) { return 0.0; });
}

// Typical scores are sqrt(d) * 1.1 standard deviations of V: scale them to meet values half-way.
inline double meeting_scale(Index head_dim) {
  return 0.4 / static_cast<double>(head_dim);
}

}  // namespace test
