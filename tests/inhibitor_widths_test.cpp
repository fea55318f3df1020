// The Inhibitor at every integer width and over thermometer codes against its reference, bit for
// bit.
#include "support/inhibitor_check.hpp"

namespace {

using lowatt::Index;
using lowatt::Inhibitor;
using lowatt::Precision;
using test::Case;
using test::Inputs;
using test::meeting_scale;

struct Width {
  Precision precision;
  int planes = 0;  // of thermometer codes
};

class InhibitorWidths : public testing::TestWithParam<Width> {
 protected:
  static Inhibitor at_width(Inhibitor mechanism) {
    mechanism.precision = GetParam().precision;
    mechanism.planes = GetParam().planes;
    return mechanism;
  }
  static void expect_exact(const Inhibitor& mechanism, const Case& c) {
    test::expect_exact_inhibitor(at_width(mechanism), c);
  }
  static void expect_exact(const Inhibitor& mechanism, const Case& c, Inputs& inputs) {
    test::expect_exact_inhibitor(at_width(mechanism), c, inputs);
  }
  // 16 bits have a kernel of their own, and so sweeps of their own.
  static unsigned seed(unsigned number) {
    return (GetParam().precision == Precision::int16 ? 50u : 10u) + number;
  }
};

TEST_P(InhibitorWidths, SweepSigned) {
  for (const Case& c : test::sweep(seed(1)))
    expect_exact({.scale = meeting_scale(c.shape.head_dim), .alpha = 0.1}, c);
}

TEST_P(InhibitorWidths, SweepUnsignedCentered) {
  for (const Case& c : test::sweep(seed(2)))
    expect_exact({.scale = 4 * meeting_scale(c.shape.head_dim), .is_signed = false, .center = true},
                 c);
}

TEST_P(InhibitorWidths, SweepNegativeAlphaGainNormalize) {
  for (const Case& c : test::sweep(seed(3)))
    expect_exact(
        {.scale = meeting_scale(c.shape.head_dim), .alpha = -0.2, .beta = 1.7, .normalize = true},
        c);
}

TEST_P(InhibitorWidths, DefaultScale) {
  expect_exact({.alpha = 6.0}, {{1, 2, 1, 33, 70, 64, 64}, true});
}

TEST_P(InhibitorWidths, Masks) {
  for (const bool spoil_values : {false, true})
    for (const bool is_signed : {false, true})
      for (const bool center : {false, true})
        for (const double scale : {0.02, 0.1})
          if (center || scale < 0.1)
            test::expect_exact_inhibitor_masks(at_width({.scale = scale,
                                                         .alpha = -0.1,
                                                         .is_signed = is_signed,
                                                         .center = center,
                                                         .normalize = true}),
                                               spoil_values);
}

TEST_P(InhibitorWidths, AllZeroTensors) {
  const Case c{{1, 2, 1, 3, 5, 8, 8}};
  test::for_zeroed_tensors(c,
                           [&](Inputs& inputs, int) { expect_exact({.scale = 0.1}, c, inputs); });
}

TEST_P(InhibitorWidths, NonFiniteInputs) {
  const Case c{{1, 1, 1, 9, 70, 16, 16}, true};
  Inputs inputs(c);
  inputs.q.view().row(0, 0, 2)[3] = std::numeric_limits<float>::quiet_NaN();
  inputs.k.view().row(0, 0, 69)[1] = std::numeric_limits<float>::infinity();
  inputs.v.view().row(0, 0, 68)[7] = -std::numeric_limits<float>::infinity();
  inputs.v.view().row(0, 0, 3)[7] = std::numeric_limits<float>::quiet_NaN();
  expect_exact({.scale = 0.1}, c, inputs);
}

INSTANTIATE_TEST_SUITE_P(, InhibitorWidths,
                         testing::Values(Width{Precision::int8}, Width{Precision::int4},
                                         Width{Precision::int16}, Width{Precision::int8, 1},
                                         Width{Precision::int8, 4}, Width{Precision::int8, 15}),
                         [](const auto& one) {
                           const int planes = one.param.planes;
                           return planes > 0 ? "planes" + std::to_string(planes)
                                             : lowatt::precision_name(one.param.precision);
                         });

}  // namespace
