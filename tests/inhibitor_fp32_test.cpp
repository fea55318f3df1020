// The Inhibitor at fp32 against float64.
#include <lowatt/inhibitor/reference.hpp>

#include "support/float_check.hpp"

namespace {

using lowatt::Index;
using lowatt::Inhibitor;
using test::Case;
using test::Inputs;

constexpr auto reference = [](const auto&... arguments) {
  return lowatt::inhibitor_reference(arguments...);
};

void expect_near(Inhibitor mechanism, const Case& c, Inputs& inputs, double tolerance = 2e-5) {
  mechanism.precision = lowatt::Precision::fp32;
  test::expect_near_reference(mechanism, c, inputs, reference, tolerance);
}

void expect_near(const Inhibitor& mechanism, const Case& c) {
  Inputs inputs(c);
  expect_near(mechanism, c, inputs);
}

// Typical scores are sqrt(d) * 1.1 standard deviations of V: scale them to meet values half-way.
double meeting_scale(Index head_dim) {
  return 0.4 / static_cast<double>(head_dim);
}

TEST(InhibitorFp32, SweepSigned) {
  for (const Case& c : test::sweep(31))
    expect_near({.scale = meeting_scale(c.shape.head_dim), .alpha = 0.1}, c);
}

TEST(InhibitorFp32, SweepUnsignedCentered) {
  for (const Case& c : test::sweep(32))
    expect_near({.scale = 4 * meeting_scale(c.shape.head_dim), .is_signed = false, .center = true},
                c);
}

TEST(InhibitorFp32, SweepNegativeAlphaGainNormalize) {
  for (const Case& c : test::sweep(33))
    expect_near({.scale = meeting_scale(c.shape.head_dim),
                 .alpha = -0.2,
                 .beta = -1.7,
                 .center = c.seed % 2 == 0,
                 .normalize = true},
                c);
}

TEST(InhibitorFp32, DefaultScale) {
  expect_near({.alpha = 6.0}, {{1, 2, 1, 33, 70, 64, 64}, true});
}

// NaN and infinities in keys or values reach the rows that see them and no others.
TEST(InhibitorFp32, SweepNonFinite) {
  for (const Case& c : test::sweep(34)) {
    std::mt19937 random(c.seed);
    Inputs inputs(c);
    test::spoil(random() % 2 == 0 ? inputs.k : inputs.v, random);
    expect_near({.scale = meeting_scale(c.shape.head_dim),
                 .is_signed = random() % 2 == 0,
                 .center = random() % 2 == 0},
                c, inputs);
  }
}

TEST(InhibitorFp32, Masks) {
  for (const bool spoil_values : {false, true})
    for (const bool is_signed : {false, true})
      for (const bool center : {false, true})
        test::expect_masks_hide(Inhibitor{.scale = 0.02,
                                          .alpha = -0.1,
                                          .is_signed = is_signed,
                                          .center = center,
                                          .normalize = true,
                                          .precision = lowatt::Precision::fp32},
                                reference, spoil_values);
}

// Nothing is inhibited: sums of the same sign and size, whose rounding errors do not cancel, yet
// do not grow with the keys.
TEST(InhibitorFp32, ManyKeys) {
  for (const Index keys : {65537, 131073})
    for (const bool center : {false, true}) {
      const Case c{{1, 1, 1, 2, keys, 8, 8}, true};
      Inputs inputs(c);
      for (Index t = 0; t < keys; ++t)
        for (Index i = 0; i < 8; ++i)
          inputs.v.view().row(0, 0, t)[i] = 0.1f + 0.013f * static_cast<float>(i);
      expect_near({.scale = 0.001, .center = center}, c, inputs, 2e-6);
      expect_near({.scale = 0.05, .alpha = 1e3, .center = center}, c, inputs);
    }
}

TEST(InhibitorFp32, ExtremeParameters) {
  for (const double scale : {1e-300, 1e-30, 1e-3, 1.0, 1e30})
    for (const double alpha : {-1e300, -1e30, 0.0, 1e30, 1e300})
      for (const double beta : {-1e-30, 0.0, 1e30})
        expect_near({.scale = scale, .alpha = alpha, .beta = beta},
                    {{1, 1, 1, 3, 66, 16, 16}, true});
}

// Queries that are keys: distance 0, nothing inhibited, the plain sum.
TEST(InhibitorFp32, DistanceZero) {
  const Case c{{1, 1, 1, 1, 64, 16, 16}};
  Inputs inputs(c);
  for (Index t = 0; t < 64; ++t)
    for (Index i = 0; i < 16; ++i)
      inputs.k.view().row(0, 0, t)[i] = inputs.q.view().row(0, 0, 0)[i];
  expect_near({}, c, inputs);
}

// Chunks of tokens give the same bytes, and so the same bits; a cache needs no calibration.
TEST(InhibitorFp32, CacheInChunks) {
  const Inhibitor mechanism{.scale = 0.01, .precision = lowatt::Precision::fp32};
  const Case c{{1, 2, 1, 7, 150, 24, 17}};
  Inputs inputs(c);
  const lowatt::View<const float> k = inputs.k.view(), v = inputs.v.view();
  lowatt::KvCache<Inhibitor> whole({1, 1, 24, 17, 150}, {}, mechanism),
      chunks({1, 1, 24, 17, 150}, {}, mechanism);
  whole.append(k, v);
  for (Index first = 0; first < 150; first += 25)
    chunks.append({k.row(0, 0, first), 1, 25, 24}, {v.row(0, 0, first), 1, 25, 17});
  lowatt::attend(inputs.q.view(), whole, inputs.expected.view());
  lowatt::attend(inputs.q.view(), chunks, inputs.out.view());
  test::expect_identical(inputs.out.view(), inputs.expected.view(), "chunks");
}

}  // namespace
