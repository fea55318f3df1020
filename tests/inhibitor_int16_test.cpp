// The 16-bit Inhibitor against its reference, bit for bit.
#include "support/inhibitor_check.hpp"

namespace {

using lowatt::Index;
using lowatt::Inhibitor;
using test::Case;
using test::Inputs;
using test::meeting_scale;

void expect_exact(Inhibitor mechanism, const Case& c, Inputs& inputs) {
  mechanism.precision = lowatt::Precision::int16;
  test::expect_exact_inhibitor(mechanism, c, inputs);
}

void expect_exact(const Inhibitor& mechanism, const Case& c) {
  Inputs inputs(c);
  expect_exact(mechanism, c, inputs);
}

TEST(InhibitorInt16, SweepSigned) {
  for (const Case& c : test::sweep(51))
    expect_exact({.scale = meeting_scale(c.shape.head_dim), .alpha = 0.1}, c);
}

TEST(InhibitorInt16, SweepUnsignedCentered) {
  for (const Case& c : test::sweep(52))
    expect_exact({.scale = 4 * meeting_scale(c.shape.head_dim), .is_signed = false, .center = true},
                 c);
}

TEST(InhibitorInt16, SweepNegativeAlphaGainNormalize) {
  for (const Case& c : test::sweep(53))
    expect_exact(
        {.scale = meeting_scale(c.shape.head_dim), .alpha = -0.2, .beta = 1.7, .normalize = true},
        c);
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

TEST(InhibitorInt16, Masks) {
  for (const bool spoil_values : {false, true})
    for (const bool is_signed : {false, true})
      for (const bool center : {false, true})
        test::expect_exact_inhibitor_masks(Inhibitor{.scale = 0.02,
                                                     .alpha = -0.1,
                                                     .is_signed = is_signed,
                                                     .center = center,
                                                     .normalize = true,
                                                     .precision = lowatt::Precision::int16},
                                           spoil_values);
}

TEST(InhibitorInt16, DefaultScale) {
  expect_exact({.alpha = 6.0}, {{1, 2, 1, 33, 70, 64, 64}, true});
}

// Every channel at opposite ends: the largest distance there is. Distances pass 2^24 at d = 257.
TEST(InhibitorInt16, OverflowEdgeSaturated) {
  for (const Index d : {1, 255, 256, 257, 258, 300, 520, 16384}) {
    const Case c{{1, 1, 1, 5, 70, d, 24}};
    Inputs inputs(c);
    inputs.q.for_each([](float& x) { x = x < 0 ? -1.0f : 1.0f; });
    for (Index t = 0; t < 70; ++t)
      for (Index i = 0; i < d; ++i)
        inputs.k.view().row(0, 0, t)[i] =
            t % 2 == 0 ? -inputs.q.view().row(0, 0, 0)[i] : inputs.q.view().row(0, 0, t % 5)[i];
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

TEST(InhibitorInt16, AllZeroTensors) {
  const Case c{{1, 2, 1, 3, 5, 8, 8}};
  for (int zeroed = 0; zeroed < 8; ++zeroed) {
    Inputs inputs(c);
    const auto clear = [](float& x) { x = 0; };
    if ((zeroed & 1) != 0) inputs.q.for_each(clear);
    if ((zeroed & 2) != 0) inputs.k.for_each(clear);
    if ((zeroed & 4) != 0) inputs.v.for_each(clear);
    expect_exact({.scale = 0.1}, c, inputs);
  }
}

TEST(InhibitorInt16, NonFiniteInputs) {
  const Case c{{1, 1, 1, 9, 70, 16, 16}, true};
  Inputs inputs(c);
  inputs.q.view().row(0, 0, 2)[3] = std::numeric_limits<float>::quiet_NaN();
  inputs.k.view().row(0, 0, 69)[1] = std::numeric_limits<float>::infinity();
  inputs.v.view().row(0, 0, 68)[7] = -std::numeric_limits<float>::infinity();
  inputs.v.view().row(0, 0, 3)[7] = std::numeric_limits<float>::quiet_NaN();
  expect_exact({.scale = 0.1}, c, inputs);
}

}  // namespace
