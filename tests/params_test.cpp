// What follows from parameters: the Inhibitor's integer constants, LATTE's thresholds, Bitformer's
// table of probabilities.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "lowatt/bitformer/params.hpp"
#include "lowatt/core/rows.hpp"
#include "lowatt/inhibitor/params.hpp"
#include "lowatt/latte/params.hpp"

namespace {

using namespace lowatt;

constexpr double huge = std::numeric_limits<double>::max();

TEST(Rows, CausalOrderIsAlignedAtTheBottomRight) {
  EXPECT_EQ(visible_keys(false, 0, 3, 5).count(), 5);
  EXPECT_EQ(visible_keys(true, 0, 3, 5).end, 3);
  EXPECT_EQ(visible_keys(true, 2, 3, 5).end, 5);
  EXPECT_EQ(visible_keys(true, 0, 5, 3).count(), 0);
  EXPECT_EQ(visible_keys(true, 1, 5, 3).count(), 0);
  EXPECT_EQ(visible_keys(true, 2, 5, 3).end, 1);
  EXPECT_EQ(visible_keys(true, 4, 5, 3).end, 3);
  EXPECT_EQ(default_scale(64), 0.125);
}

TEST(InhibitorConstants, HoldTheRatio) {
  for (double scale = 1e-7; scale < 3e4; scale *= 1.37) {
    const float s = 0.0123f, sv = 0.0371f;
    const InhibitorConstants c = inhibitor_constants(scale, s, sv, 0);
    const double ratio = scale * static_cast<double>(s) / static_cast<double>(sv);
    EXPECT_GE(c.shift, 0);
    EXPECT_LE(c.shift, 31);
    EXPECT_LE(c.multiplier, 65535);
    const double held = std::ldexp(static_cast<double>(c.multiplier), -c.shift);
    if (c.shift < 31) {
      EXPECT_GE(c.multiplier, 32768);
      EXPECT_NEAR(held, ratio, ratio * 0x1p-16);
    } else {
      EXPECT_NEAR(held, ratio, 0x1p-32);
    }
    if (c.shift >= 1) {
      EXPECT_EQ(c.rounding, static_cast<std::int64_t>(std::floor(
                                std::ldexp(1.0, c.shift - 1) / static_cast<double>(c.multiplier))));
    }
  }
}

TEST(InhibitorConstants, Edges) {
  // 1.0 has its multiplier at 2^15.
  InhibitorConstants c = inhibitor_constants(1, 1, 1, 0);
  EXPECT_EQ(c.multiplier, 32768);
  EXPECT_EQ(c.shift, 15);
  EXPECT_EQ(c.rounding, 0);

  // Just below a power of two the multiplier would round to 2^16: one bit less.
  c = inhibitor_constants(std::nextafter(1.0, 0.0), 1, 1, 0);
  EXPECT_EQ(c.multiplier, 32768);
  EXPECT_EQ(c.shift, 15);

  // Without a bit to give, it saturates.
  c = inhibitor_constants(65535.75, 1, 1, 0);
  EXPECT_EQ(c.multiplier, 65535);
  EXPECT_EQ(c.shift, 0);
  EXPECT_EQ(c.rounding, 0);
  for (const double scale : {1e6, 1e300, huge}) {
    c = inhibitor_constants(scale, 1e30f, 0x1p-117f, 0);
    EXPECT_EQ(c.multiplier, 65535);
    EXPECT_EQ(c.shift, 0);
  }

  // Small ratios run out of shift, then of multiplier.
  c = inhibitor_constants(0x1p-31, 1, 1, 0);
  EXPECT_EQ(c.multiplier, 1);
  EXPECT_EQ(c.shift, 31);
  EXPECT_EQ(c.rounding, std::int64_t{1} << 30);
  for (const double scale : {0x1p-32, 1e-300, 5e-324}) {
    c = inhibitor_constants(scale, 1, 1, 0);
    EXPECT_EQ(c.multiplier, 0);
    EXPECT_EQ(c.rounding, 0);
    EXPECT_EQ(inhibitor_score(c, 1 << 20), 0);
  }
  EXPECT_EQ(inhibitor_constants(1, 0, 1, 0).multiplier, 0);
  EXPECT_EQ(inhibitor_constants(1, 1, 0, 5).multiplier, 0);  // nothing to inhibit
}

TEST(InhibitorConstants, AlphaIsBounded) {
  EXPECT_EQ(inhibitor_constants(1, 1, 0.5f, 1.25).alpha, 2);  // 2.5 to even
  EXPECT_EQ(inhibitor_constants(1, 1, 0.5f, -1.75).alpha, -4);
  EXPECT_EQ(inhibitor_constants(1, 1, 1, huge).alpha, 65280);
  EXPECT_EQ(inhibitor_constants(1, 1, 1e-30f, huge).alpha, 65280);
  EXPECT_EQ(inhibitor_constants(1, 1, 1e-30f, -huge).alpha, -255);
  EXPECT_EQ(inhibitor_constants_int16(1, 1, 1e-30f, huge).alpha, std::int64_t{1} << 40);
  EXPECT_EQ(inhibitor_constants_int16(1, 1, 1e-30f, -huge).alpha, -32767);
}

TEST(InhibitorConstants, ScoresSaturate) {
  // floor(D * 1.0) - alpha, within [0, cap].
  InhibitorConstants c = inhibitor_constants(1, 1, 1, 10);
  EXPECT_EQ(inhibitor_score(c, 0), 0);
  EXPECT_EQ(inhibitor_score(c, 10), 0);
  EXPECT_EQ(inhibitor_score(c, 11), 1);
  EXPECT_EQ(inhibitor_score(c, 264), 254);
  EXPECT_EQ(inhibitor_score(c, 266), 255);
  EXPECT_EQ(inhibitor_score(c, 1 << 30), 255);
  c = inhibitor_constants(1, 1, 1, huge);  // the scaled score's cap comes first
  EXPECT_EQ(inhibitor_score(c, 65290), 10);
  EXPECT_EQ(inhibitor_score(c, 1 << 30), 255);
  c = inhibitor_constants(1, 1, 1, -3);
  EXPECT_EQ(inhibitor_score(c, 0), 3);
  c = inhibitor_constants_int16(1, 1, 1, 100000);
  EXPECT_EQ(inhibitor_score(c, 100001), 1);
  EXPECT_EQ(inhibitor_score(c, std::int64_t{1} << 40), 32767);
  c = inhibitor_constants_int16(1, 1, 1, -5);
  EXPECT_EQ(inhibitor_score(c, 0), 5);
  EXPECT_EQ(inhibitor_score(c, 32767), 32767);

  // R makes truncation nearly round: 1/4 of 2 is 0.5 and rounds up.
  c = inhibitor_constants(0.25, 1, 1, 0);
  EXPECT_EQ(c.rounding, 2);
  EXPECT_EQ(inhibitor_score(c, 1), 0);
  EXPECT_EQ(inhibitor_score(c, 2), 1);
  EXPECT_EQ(inhibitor_score(c, 5), 1);
  EXPECT_EQ(inhibitor_score(c, 6), 2);
}

TEST(InhibitorConstants, SharedAbsmax) {
  const float query[] = {1, 3, 2};
  EXPECT_EQ(inhibitor_shared_absmax(query, 3, 2.5f), 3);
  EXPECT_EQ(inhibitor_shared_absmax(query, 3, 4), 4);
}

TEST(LatteThreshold, FloorsAndSaturates) {
  // 256 * sq * sk * scale = 1.
  EXPECT_EQ(latte_threshold(3.0, 1, 1, 1.0 / 256, 8), 3);
  EXPECT_EQ(latte_threshold(2.99, 1, 1, 1.0 / 256, 8), 2);
  EXPECT_EQ(latte_threshold(0.0, 1, 1, 1.0 / 256, 8), 0);
  EXPECT_EQ(latte_threshold(959.5, 1, 1, 1.0 / 256, 8), 959);
  EXPECT_EQ(latte_threshold(960.0, 1, 1, 1.0 / 256, 8), 960);
  EXPECT_EQ(latte_threshold(1e300, 1, 1, 1.0 / 256, 8), 960);
  EXPECT_EQ(latte_threshold(huge, 1e-30f, 1e-30f, 1e-30, 8), 960);
  EXPECT_EQ(latte_threshold(1.0, 1e30f, 1e30f, huge, 8), 0);
  EXPECT_EQ(latte_threshold(0.0, 0, 1, 1, 8), 960);  // all scores are equal
  EXPECT_EQ(latte_threshold(0.0, 1e-30f, 1e-30f, 1e-300, 8), 960);
  EXPECT_EQ(latte_threshold(1e300, 1, 1, 1.0 / 256, 8, 100), 1160);
}

TEST(LatteSteps, RoundHalfToEvenAndSaturate) {
  EXPECT_EQ(latte_steps_per_logit(1, 1, 1.0 / 256), 1);
  EXPECT_EQ(latte_steps_per_logit(0, 1, 1), 1e300);
  constexpr std::int32_t most = latte_largest_step;
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const struct {
    double added, steps_per_logit;
    std::int32_t expected;
  } steps[] = {{0.5, 1, 0},           {1.5, 1, 2},
               {2.5, 1, 2},           {-0.5, 1, 0},
               {-1.25, 2, -2},        {-1.5, 1, -2},
               {1e6, 100, 100000000}, {536870911.4, 1, most - 1},
               {1e300, 1, most},      {-1e300, 1, -most},
               {infinity, 1, most},   {-infinity, 1e300, -most},
               {0, 1e300, 0},         {std::nan(""), 1, most}};
  for (const auto& step : steps)
    EXPECT_EQ(latte_step(step.added, step.steps_per_logit), step.expected) << step.added;
}

TEST(BitformerProbabilities, FollowTheFormula) {
  std::vector<std::uint8_t> table(2001);
  for (const double temperature : {0.0, 1e-5, 0.003, 0.02, 0.1137646, 1.0, 3.0, 5.0, 1e300, huge}) {
    const Index nonzero = bitformer_probabilities(temperature, 2000, table.data());
    EXPECT_EQ(table[0], 255);
    EXPECT_GE(nonzero, 1);
    for (Index m = 1; m <= 2000; ++m) {
      const int p = table[static_cast<std::size_t>(m)];
      EXPECT_EQ(p, static_cast<int>(
                       std::nearbyint(255 * std::exp(-2 * temperature * static_cast<double>(m)))));
      EXPECT_EQ(p != 0, m < nonzero);
      if (static_cast<double>(m) > std::log(510) / (2 * temperature)) {
        EXPECT_EQ(p, 0);
      }
    }
  }
  bitformer_probabilities(std::numeric_limits<double>::infinity(), 2, table.data());
  EXPECT_EQ(table[0], 255);
  EXPECT_EQ(table[1], 0);
}

TEST(BitformerProbabilities, OneEntry) {
  std::uint8_t table[2] = {7, 7};
  EXPECT_EQ(bitformer_probabilities(0.5, 0, table), 1);
  EXPECT_EQ(table[0], 255);
  EXPECT_EQ(table[1], 7);
}

TEST(BitformerTemperature, WhoCalibrates) {
  EXPECT_FALSE(calibrates_temperature(Bitformer{}));
  EXPECT_TRUE(calibrates_temperature(Bitformer{.calibrate_temperature = true}));
  EXPECT_TRUE(calibrates_temperature(Bitformer{.planes = 2}));
  EXPECT_TRUE(calibrates_temperature(Bitformer{.encoding = BitEncoding::thermometer}));
  EXPECT_FALSE(calibrates_temperature(Bitformer{.planes = 2, .temperature = 0.1}));
}

}  // namespace
