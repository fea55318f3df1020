// The 16-bit Inhibitor against its reference, bit for bit: what inhibitor_widths_test.cpp does not
// hold for every width.
#include "support/inhibitor_check.hpp"

namespace {

using lowatt::Index;
using lowatt::Inhibitor;
using test::Case;
using test::Inputs;

void expect_exact(Inhibitor mechanism, const Case& c, Inputs& inputs) {
  mechanism.precision = lowatt::Precision::int16;
  test::expect_exact_inhibitor(mechanism, c, inputs);
}

void expect_exact(const Inhibitor& mechanism, const Case& c) {
  Inputs inputs(c);
  expect_exact(mechanism, c, inputs);
}

// Ratios of scales above 1, and alphas that only such scores reach.
TEST(InhibitorInt16, SweepSteep) {
  for (const Case& c : test::sweep(54)) {
    const double scale = c.seed % 2 == 0 ? 1.5 : 40.0;
    // About the mean score: sum |q - k| is 1.13 * d on average.
    expect_exact({.scale = scale,
                  .alpha = 1.13 * scale * static_cast<double>(c.shape.head_dim),
                  .center = c.seed % 3 == 0},
                 c);
  }
}

// The largest distances there are pass 2^24 at d = 257.
TEST(InhibitorInt16, OverflowEdgeSaturated) {
  for (const Index d : {1, 255, 256, 257, 258, 300, 520, 16384}) {
    const Case c{{1, 1, 1, 5, 70, d, 24}};
    Inputs inputs(c);
    test::set_largest_distances(inputs);
    for (const double scale : {1e-9, 1e-4, 1e-3, 0.01, 1.0, 1e3})
      expect_exact({.scale = scale, .alpha = 0.01}, c, inputs);
    expect_exact({.scale = 2.0, .alpha = 2.0 * static_cast<double>(d)}, c, inputs);
    expect_exact({.scale = 0.002, .center = true}, c, inputs);
    expect_exact({.scale = 0.002, .alpha = -0.3, .center = true}, c, inputs);
    expect_exact({.scale = 1.0, .alpha = static_cast<double>(d), .center = true}, c, inputs);
  }
}

TEST(InhibitorInt16, HeadDimBeyond32BitSums) {
  const Case c{{1, 1, 1, 1, 1, 16385, 8}};
  Inputs inputs(c);
  const lowatt::Status status =
      lowatt::try_attend(Inhibitor{.precision = lowatt::Precision::int16}, inputs.q.view(),
                         inputs.k.view(), inputs.v.view(), inputs.out.view());
  EXPECT_EQ(status.code, lowatt::StatusCode::invalid_shape);
  EXPECT_NE(std::string(status.message).find("16384"), std::string::npos) << status.message;
}

// From shift 31 with a multiplier of 0 or 1 to shift 0 with one that is cut off.
TEST(InhibitorInt16, ExtremeRatios) {
  for (const double scale :
       {1e-30, 3e-10, 1e-9, 1e-6, 1e-5, 0.3, 0.99, 1.0, 2.0, 300.0, 3e4, 6.5e4, 1e5, 1e6, 1e30})
    for (const double alpha : {-1e30, -3.0, -1e-5, 0.0, 1e-5, 2.5, 1e3, 1e5, 1e6, 1e7, 1e30})
      for (const bool center : {false, true})
        expect_exact({.scale = scale, .alpha = alpha, .center = center},
                     {{1, 1, 1, 7, 66, 16, 16}});
}

// Where H leaves 32 bits: every value at the top and no score above 0.
TEST(InhibitorInt16, ManyKeys) {
  for (const Index keys : {65535, 65538, 65539, 131073, 200000}) {
    const Case c{{1, 1, 1, 6, keys, 2, 3}};
    Inputs inputs(c);
    inputs.v.for_each([](float& x) { x = 1; });
    expect_exact({.scale = 1e-12}, c, inputs);
    inputs.v.for_each([](float& x) { x = -1; });
    expect_exact({.scale = 1e-12}, c, inputs);
  }
  expect_exact({.scale = 0.05, .center = true}, {{1, 1, 1, 2, 131073, 8, 8}, true});
}

}  // namespace
