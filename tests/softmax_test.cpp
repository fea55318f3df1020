// Softmax attention at fp32 against float64.
#include <lowatt/simd/exp2.hpp>
#include <lowatt/softmax/reference.hpp>

#include "support/float_check.hpp"

namespace {

using lowatt::Index;
using lowatt::Softmax;
using test::Case;
using test::Inputs;

constexpr auto reference = [](const auto&... arguments) {
  return lowatt::softmax_reference(arguments...);
};

void expect_near(const Softmax& mechanism, const Case& c, Inputs& inputs, double tolerance = 2e-5) {
  test::expect_near_reference(mechanism, c, inputs, reference, tolerance);
}

void expect_near(const Softmax& mechanism, const Case& c) {
  Inputs inputs(c);
  expect_near(mechanism, c, inputs);
}

TEST(Softmax, Sweep) {
  for (const Case& c : test::sweep(21)) expect_near({}, c);
}

// Scores of standard deviation 30: some near 100.
TEST(Softmax, SweepLargeScores) {
  for (const Case& c : test::sweep(22)) {
    const double scale = 30 / std::sqrt(static_cast<double>(c.shape.head_dim));
    expect_near({.scale = scale}, c);
  }
}

// NaN and infinities in keys or values reach the rows that see them and no others.
TEST(Softmax, SweepNonFinite) {
  for (const Case& c : test::sweep(23)) {
    std::mt19937 random(c.seed);
    Inputs inputs(c);
    test::spoil(random() % 2 == 0 ? inputs.k : inputs.v, random);
    expect_near({}, c, inputs);
  }
}

TEST(Softmax, MasksHideKeys) {
  test::expect_masks_hide(Softmax{}, reference, false);
}
TEST(Softmax, MasksHideValues) {
  test::expect_masks_hide(Softmax{}, reference, true);
}

// All scores near 100 and every product positive: the most that rounding adds up to.
TEST(Softmax, LargeScoresOfOneSign) {
  for (const Index d : {64, 128, 300}) {
    const Case c{{1, 1, 1, 20, 300, d, 16}};
    Inputs inputs(c);
    inputs.q.for_each([](float& x) { x = 1 + 0.3f * std::fabs(x); });
    inputs.k.for_each([](float& x) { x = 1 + 0.1f * x; });
    expect_near({.scale = 80 / static_cast<double>(d)}, c, inputs);
  }
}

// Visible scores of -infinity have no weight, unless a row has no others: 0 / 0.
TEST(Softmax, ScoresOfMinusInfinity) {
  const Case c{{1, 1, 1, 8, 160, 8, 16}, true};
  Inputs inputs(c);
  inputs.q.for_each([](float& x) { x = std::fabs(x); });
  for (Index t = 0; t < 155; ++t)
    if (t != 64) inputs.k.view().row(0, 0, t)[0] = -std::numeric_limits<float>::infinity();
  expect_near({}, c, inputs);
  inputs.k.view().row(0, 0, 64)[0] = -std::numeric_limits<float>::infinity();
  expect_near({}, c, inputs);
}

TEST(Softmax, EqualScoresGiveTheMean) {
  const Case c{{1, 1, 1, 3, 513, 8, 16}};
  Inputs inputs(c);
  inputs.k.for_each([](float& x) { x = 0.25f; });
  expect_near({}, c, inputs);
}

TEST(Softmax, OneKeyGivesItsValue) {
  const Case c{{1, 1, 1, 3, 1, 8, 16}};
  Inputs inputs(c);
  expect_near({}, c, inputs);
  for (Index i = 0; i < 16; ++i)
    EXPECT_EQ(inputs.out.view().row(0, 0, 2)[i], inputs.v.view().row(0, 0, 0)[i]);
}

// The maximum moves with every tile, or never after the first.
TEST(Softmax, AscendingAndDescendingScores) {
  for (const float slope : {0.1f, -0.1f, 3.0f, -3.0f}) {
    const Case c{{1, 1, 1, 5, 1300, 1, 20}};
    Inputs inputs(c);
    inputs.q.for_each([](float& x) { x = 1; });
    for (Index t = 0; t < 1300; ++t)
      inputs.k.view().row(0, 0, t)[0] = slope * static_cast<float>(t);
    expect_near({}, c, inputs);
  }
}

// Sums of the same sign and size: rounding errors do not cancel, yet do not grow with the keys.
TEST(Softmax, ManyKeys) {
  for (const Index keys : {65537, 131073}) {
    const Case c{{1, 1, 1, 2, keys, 8, 8}, true};
    Inputs inputs(c);
    for (Index t = 0; t < keys; ++t)
      for (Index i = 0; i < 8; ++i)
        inputs.v.view().row(0, 0, t)[i] = 0.1f + 0.013f * static_cast<float>(i);
    expect_near({}, c, inputs, 2e-6);
    inputs.k.for_each([](float& x) { x = 0.5f; });
    inputs.k.view().row(0, 0, 5)[0] = -7;
    inputs.k.view().row(0, 0, 6)[0] = 9;
    expect_near({}, c, inputs, 2e-6);
  }
}

TEST(Softmax, ExtremeScales) {
  const Case c{{1, 1, 1, 9, 70, 16, 16}, true};
  for (const double scale : {1e-300, 1e-40, 1e-10, 1e10, 1e38, 1e300})
    expect_near({.scale = scale}, c);
}

// Weights 2^x over the whole range, seen one by one: the scale makes one score one power of two,
// and each key has a value dim of its own.
TEST(Softmax, WeightsOverTheWholeRange) {
  constexpr Index keys = 64;
  const double ln_2 = 0x1.62e42fefa39efp-1;
  std::mt19937 random(5);
  std::uniform_real_distribution<float> exponent(-99, 0);
  for (int repeat = 0; repeat < 200; ++repeat) {
    const Case c{{1, 1, 1, 1, keys, 1, keys}};
    Inputs inputs(c);
    inputs.q.view().data[0] = 1;
    double sum = 0;
    for (Index j = 0; j < keys; ++j) {
      float& x = inputs.k.view().row(0, 0, j)[0];
      x = j == 0 ? 0.0f : repeat == 0 ? -1.5f * static_cast<float>(j) : exponent(random);
      if (j == 9) x = -100.5f;
      if (j == 10) x = -1e30f;
      sum += std::exp2(static_cast<double>(x));
      for (Index i = 0; i < keys; ++i) inputs.v.view().row(0, 0, j)[i] = i == j ? 1.0f : 0.0f;
    }
    for (const lowatt::Level level : test::levels()) {
      lowatt::attend(Softmax{.scale = ln_2}, inputs.q.view(), inputs.k.view(), inputs.v.view(),
                     inputs.out.view(), {.level = level});
      for (Index j = 0; j < keys; ++j) {
        const double x = static_cast<double>(inputs.k.view().row(0, 0, j)[0]);
        const double expected = x < -100 ? 0 : std::exp2(x) / sum;
        const double smallest = 0x1p-100;  // below it, results lose bits
        EXPECT_NEAR(static_cast<double>(inputs.out.view().data[j]), expected,
                    0x1p-22 * std::max(expected, smallest))
            << lowatt::level_name(level) << " at " << x;
      }
    }
  }
}

TEST(Exp2, EdgesAndPositiveNumbers) {
  using Level = lowatt::arch::lowest;
  EXPECT_EQ(lowatt::exp2<Level>(0.0f), 1.0f);
  EXPECT_EQ(lowatt::exp2<Level>(-0.0f), 1.0f);
  EXPECT_EQ(lowatt::exp2<Level>(127.0f), 0x1p127f);
  EXPECT_EQ(lowatt::exp2<Level>(-100.0f), 0x1p-100f);
  EXPECT_EQ(lowatt::exp2<Level>(-100.01f), 0.0f);
  EXPECT_EQ(lowatt::exp2<Level>(-std::numeric_limits<float>::infinity()), 0.0f);
  EXPECT_TRUE(std::isnan(lowatt::exp2<Level>(std::numeric_limits<float>::quiet_NaN())));
  for (float x = -100; x < 127; x += 0.00973f) {
    const double expected = std::exp2(static_cast<double>(x));
    ASSERT_NEAR(static_cast<double>(lowatt::exp2<Level>(x)), expected, 0x1p-23 * expected) << x;
  }
}

}  // namespace
