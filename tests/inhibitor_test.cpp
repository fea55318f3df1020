// The Inhibitor at 8 and at 4 bits against its reference, bit for bit.
#include <lowatt/inhibitor/reference.hpp>

#include "support/sweep.hpp"

namespace {

using lowatt::Index;
using lowatt::Inhibitor;
using test::Case;
using test::Inputs;

// Runs one case at every level and compares with the reference.
void expect_exact_at(const Inhibitor& mechanism, const Case& c, Inputs& inputs) {
  const lowatt::View<const float> q = inputs.q.view(), k = inputs.k.view(), v = inputs.v.view();
  const lowatt::Status reference =
      lowatt::inhibitor_reference(mechanism, q, k, v, inputs.expected.view(), c.causal);
  ASSERT_TRUE(reference.ok()) << reference.message;
  for (const lowatt::Level level : test::levels()) {
    const std::string what =
        std::string(lowatt::precision_name(mechanism.precision)) + ", " + test::describe(level, c);
    inputs.out.for_each([](float& x) { x = -1e30f; });
    lowatt::attend(mechanism, q, k, v, inputs.out.view(), {.causal = c.causal, .level = level});
    test::expect_identical(std::as_const(inputs.out).view(), std::as_const(inputs.expected).view(),
                           what);
    EXPECT_TRUE(inputs.out.gaps_are_untouched()) << what;
  }
}

void expect_exact(const Inhibitor& mechanism, const Case& c, Inputs& inputs) {
  expect_exact_at(mechanism, c, inputs);
  Inhibitor half = mechanism;
  half.precision = lowatt::Precision::int4;
  expect_exact_at(half, c, inputs);
}

void expect_exact(const Inhibitor& mechanism, const Case& c) {
  Inputs inputs(c);
  expect_exact(mechanism, c, inputs);
}

// Typical scores are sqrt(d) * 1.1 standard deviations of V: scale them to meet values half-way.
double meeting_scale(Index head_dim) {
  return 0.4 / static_cast<double>(head_dim);
}

TEST(Inhibitor, SweepSigned) {
  for (const Case& c : test::sweep(11))
    expect_exact({.scale = meeting_scale(c.shape.head_dim), .alpha = 0.1}, c);
}

TEST(Inhibitor, SweepUnsignedCentered) {
  for (const Case& c : test::sweep(12))
    expect_exact({.scale = 4 * meeting_scale(c.shape.head_dim), .is_signed = false, .center = true},
                 c);
}

TEST(Inhibitor, SweepNegativeAlphaGainNormalize) {
  for (const Case& c : test::sweep(13))
    expect_exact(
        {.scale = meeting_scale(c.shape.head_dim), .alpha = -0.2, .beta = 1.7, .normalize = true},
        c);
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

TEST(Inhibitor, DefaultScale) {
  expect_exact({.alpha = 6.0}, {{1, 2, 1, 33, 70, 64, 64}, true});
}

// 254 * d + R passes 65535 between d = 257 and d = 259: products change from 32 to 64 bits.
TEST(Inhibitor, OverflowEdgeSaturated) {
  for (const Index d : {255, 256, 257, 258, 259, 300, 520}) {
    const Case c{{1, 1, 1, 5, 70, d, 24}};
    Inputs inputs(c);
    // Every channel at opposite ends: the largest distance there is.
    inputs.q.for_each([](float& x) { x = x < 0 ? -1.0f : 1.0f; });
    for (Index t = 0; t < 70; ++t)
      for (Index i = 0; i < d; ++i)
        inputs.k.view().row(0, 0, t)[i] =
            t % 2 == 0 ? -inputs.q.view().row(0, 0, 0)[i] : inputs.q.view().row(0, 0, t % 5)[i];
    for (const double scale : {1e-4, 1e-3, 0.01, 1.0, 1e3})
      expect_exact({.scale = scale, .alpha = 0.01}, c, inputs);
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

TEST(Inhibitor, AllZeroTensors) {
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

TEST(Inhibitor, NonFiniteInputs) {
  const Case c{{1, 1, 1, 9, 70, 16, 16}, true};
  Inputs inputs(c);
  inputs.q.view().row(0, 0, 2)[3] = std::numeric_limits<float>::quiet_NaN();
  inputs.k.view().row(0, 0, 69)[1] = std::numeric_limits<float>::infinity();
  inputs.v.view().row(0, 0, 68)[7] = -std::numeric_limits<float>::infinity();
  inputs.v.view().row(0, 0, 3)[7] = std::numeric_limits<float>::quiet_NaN();
  expect_exact({.scale = 0.1}, c, inputs);
}

}  // namespace
