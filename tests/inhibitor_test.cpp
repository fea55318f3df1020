// The Inhibitor at 8 and at 4 bits against its reference, bit for bit: what
// inhibitor_widths_test.cpp does not hold for every width.
#include "support/inhibitor_check.hpp"

namespace {

using lowatt::Index;
using lowatt::Inhibitor;
using test::Case;
using test::Inputs;
using test::meeting_scale;

void expect_exact(const Inhibitor& mechanism, const Case& c, Inputs& inputs) {
  test::expect_exact_inhibitor(mechanism, c, inputs);
  Inhibitor half = mechanism;
  half.precision = lowatt::Precision::int4;
  test::expect_exact_inhibitor(half, c, inputs);
}

void expect_exact(const Inhibitor& mechanism, const Case& c) {
  Inputs inputs(c);
  expect_exact(mechanism, c, inputs);
}

// Queries and keys in clusters of 50 neighbouring keys: whole tiles are out of reach of most rows,
// and of the others only some groups of keys add anything.
TEST(Inhibitor, ClusteredKeysSkipTilesAndGroups) {
  unsigned seed = 100;
  for (const Index dim : {8, 64, 100})
    for (const double alpha : {0.0, 0.3, -0.2})
      for (const bool center : {false, true})
        for (const double reach : {0.5, 2.0, 8.0}) {
          Case c{{1, 2, 1, 70, 1100, dim, dim}, seed % 2 == 0};
          c.seed = ++seed;
          Inputs inputs(c);
          std::mt19937 random(seed);
          std::normal_distribution<float> normal;
          std::vector<float> centres(static_cast<std::size_t>(23 * dim));
          for (float& x : centres) x = 3 * normal(random);
          const auto move = [&](auto&& tensor, bool is_key) {
            for (Index h = 0; h < tensor.heads; ++h)
              for (Index t = 0; t < tensor.tokens; ++t) {
                const Index cluster = is_key ? t / 50 : static_cast<Index>(random() % 23);
                for (Index k = 0; k < dim; ++k) {
                  float& x = tensor.row(0, h, t)[k];
                  x = 0.3f * x + centres[static_cast<std::size_t>(cluster * dim + k)];
                }
              }
          };
          move(inputs.q.view(), false);
          move(inputs.k.view(), true);
          expect_exact({.scale = reach * meeting_scale(dim),
                        .alpha = alpha,
                        .is_signed = seed % 3 != 0,
                        .center = center},
                       c, inputs);
        }
}

// Values of very different sizes: small ones are inhibited key by key, groups stay open for others.
TEST(Inhibitor, KeysWithSmallValuesAreSkipped) {
  for (const unsigned every : {3u, 7u, 40u}) {
    Case c{{1, 1, 1, 40, 300, 64, 96}};
    c.seed = every;
    Inputs inputs(c);
    for (Index t = 0; t < c.shape.keys; ++t)
      for (Index k = 0; k < c.shape.value_dim; ++k)
        if (t % every != 0) inputs.v.view().row(0, 0, t)[k] *= 0.05f;
    for (const bool is_signed : {true, false})
      expect_exact({.scale = meeting_scale(64), .is_signed = is_signed}, c, inputs);
  }
}

// 254 * d + R passes 65535 between d = 257 and d = 259: scores change from 16 to 64 bits.
TEST(Inhibitor, OverflowEdgeSaturated) {
  for (const Index d : {255, 256, 257, 258, 259, 300, 520}) {
    const Case c{{1, 1, 1, 5, 70, d, 24}};
    Inputs inputs(c);
    test::set_largest_distances(inputs);
    for (const double scale : {1e-4, 1e-3, 0.01, 0.25, 0.49999, 0.5, 1.0, 1e3})
      for (const double alpha : {0.01, -2.0 / 127, -1.0, -3.0})
        expect_exact({.scale = scale, .alpha = alpha}, c, inputs);
    expect_exact({.scale = 0.002, .center = true}, c, inputs);
  }
}

TEST(Inhibitor, ExtremeRatios) {
  for (const double scale : {1e-30, 1e-9, 1e-5, 0.3, 1.0, 2.0, 1e6, 1e30})
    for (const double alpha : {-1e30, -3.0, 0.0, 2.5, 1e30})
      expect_exact({.scale = scale, .alpha = alpha}, {{1, 1, 1, 3, 66, 16, 16}});
}

TEST(Inhibitor, ManyKeys) {
  for (const Index keys : {65535, 65536, 65537, 131073}) {
    expect_exact({.scale = 0.05}, {{1, 1, 1, 2, keys, 8, 8}, true});
    expect_exact({.scale = 0.05, .center = true}, {{1, 1, 1, 2, keys, 8, 8}, true});
  }
}

// All of it in one place: 16-bit scores, the bound of distances and skipping against the
// definition.
TEST(Inhibitor, ScoresOfEveryKindOfConstants) {
  using Level = lowatt::arch::lowest;
  std::mt19937_64 random(3);
  const auto uniform = [&] { return static_cast<double>(random() >> 11) * 0x1p-53; };
  const auto below = [&](Index n) {
    return static_cast<Index>(random() % static_cast<std::uint64_t>(n));
  };
  int narrow_constants = 0, constants_in_32_bits = 0;
  for (int repeat = 0; repeat < 4000; ++repeat) {
    const Index dim = repeat % 3 == 0 ? 254 + below(6) : 1 + below(258);
    const double ratio = repeat % 4 == 0
                             ? 0.4999 + 0.0001 * uniform()
                             : std::ldexp(0.5 + uniform() / 2, 6 - static_cast<int>(below(24)));
    const double alpha = repeat % 5 == 0   ? -static_cast<double>(below(260))
                         : repeat % 5 == 1 ? (uniform() - 0.5) * 140000
                                           : (uniform() - 0.5) * 600;
    const auto constants = lowatt::inhibitor_constants(ratio, 1.0f, 1.0f, alpha);
    const Index greatest = 254 * dim;
    const bool fits = lowatt::InhibitorNarrowShift<Level>::fits(constants, greatest);
    narrow_constants += fits ? 1 : 0;
    alignas(64) std::int32_t distances[lowatt::tile_keys];
    alignas(64) std::uint8_t narrow[lowatt::tile_keys], wide[lowatt::tile_keys];
    alignas(64) std::uint8_t in_32_bits[lowatt::tile_keys];
    for (Index j = 0; j < lowatt::tile_keys; ++j)
      distances[j] = static_cast<std::int32_t>(j < 8    ? greatest - j
                                               : j < 16 ? j - 12
                                               : j < 24 ? -below(greatest + 1)
                                                        : below(greatest + 1));
    if (fits) lowatt::InhibitorNarrowShift<Level>{constants}(distances, narrow);
    lowatt::inhibitor_shift_wide<Level, std::uint64_t>(distances, constants, wide);
    const bool fits_32_bits = lowatt::inhibitor_shift_fits_32_bits(constants, greatest);
    constants_in_32_bits += fits_32_bits && !fits ? 1 : 0;
    if (fits_32_bits)
      lowatt::inhibitor_shift_wide<Level, std::uint32_t>(distances, constants, in_32_bits);
    const std::int64_t closing = lowatt::inhibitor_closing_distance(constants, 100);
    for (Index j = 0; j < lowatt::tile_keys; ++j) {
      const std::int64_t distance = distances[j] > 0 ? distances[j] : 0;
      const std::int64_t score = lowatt::inhibitor_score(constants, distance);
      const std::int64_t limited = std::min<std::int64_t>(score, lowatt::inhibitor_out_of_reach);
      if (fits) {
        ASSERT_EQ(std::min<int>(narrow[j], lowatt::inhibitor_out_of_reach), limited) << repeat;
      }
      ASSERT_EQ(wide[j], limited) << repeat;
      if (fits_32_bits) {
        ASSERT_EQ(in_32_bits[j], limited) << repeat;
      }
      ASSERT_EQ(score >= 100, distance >= closing) << repeat;
    }
  }
  EXPECT_GT(narrow_constants, 1000);
  EXPECT_GT(constants_in_32_bits, 500);
}

}  // namespace
