// Softmax attention at bf16, f16 and int8 against float64 on the same rounded inputs.
#include <algorithm>
#include <lowatt/softmax/reference.hpp>

#include "support/float_check.hpp"

namespace {

using lowatt::Index;
using lowatt::Precision;
using lowatt::Softmax;
using test::Case;
using test::Inputs;

constexpr auto reference = [](const auto&... arguments) {
  return lowatt::softmax_reference(arguments...);
};

// Float32 throughout, or weights rounded to bf16: at level amx.
double tolerance_of(Precision precision, lowatt::Level level) {
  const bool rounds_weights = std::string(lowatt::level_name(level)) == "amx" &&
                              (precision == Precision::bf16 || precision == Precision::int8);
  return rounds_weights ? 5e-3 : 2e-5;
}

// Outputs of opposite values nearly cancel now and then; an error is measured by what was summed
// up, so that it says how precise the sum was. Returns that length: of what softmax makes of |V|.
double summed_norm(const Softmax& mechanism, const Case& c, Inputs& inputs) {
  test::StridedTensor magnitudes(c.shape.batch, c.shape.kv_heads, c.shape.keys, c.shape.value_dim);
  test::StridedTensor out(c.shape.batch, c.shape.query_heads, c.shape.queries, c.shape.value_dim);
  const lowatt::View<const float> v = std::as_const(inputs.v).view();
  for (Index b = 0; b < v.batch; ++b)
    for (Index h = 0; h < v.heads; ++h)
      for (Index t = 0; t < v.tokens; ++t)
        for (Index i = 0; i < v.dim; ++i)
          magnitudes.view().row(b, h, t)[i] = std::fabs(v.row(b, h, t)[i]);
  EXPECT_TRUE(lowatt::softmax_reference(mechanism, std::as_const(inputs.q).view(),
                                        std::as_const(inputs.k).view(),
                                        std::as_const(magnitudes).view(), out.view(), c.causal)
                  .ok());
  double norm = 0;
  out.for_each([&](const float& x) {
    if (std::isfinite(x)) norm += static_cast<double>(x) * static_cast<double>(x);
  });
  return std::sqrt(norm);
}

void expect_near(const Softmax& mechanism, const Case& c, Inputs& inputs, double factor = 1) {
  const lowatt::View<const float> q = std::as_const(inputs.q).view(),
                                  k = std::as_const(inputs.k).view(),
                                  v = std::as_const(inputs.v).view();
  const lowatt::Status status =
      lowatt::softmax_reference(mechanism, q, k, v, inputs.expected.view(), c.causal);
  ASSERT_TRUE(status.ok()) << status.message;
  const lowatt::View<const float> expected = std::as_const(inputs.expected).view();
  const Index outputs = c.shape.batch * c.shape.query_heads * c.shape.queries * c.shape.value_dim;
  for (const lowatt::Level level : test::levels()) {
    inputs.out.for_each([](float& x) { x = -1e30f; });
    lowatt::attend(mechanism, q, k, v, inputs.out.view(), {.causal = c.causal, .level = level});
    const std::string what =
        std::string(lowatt::precision_name(mechanism.precision)) + " " + test::describe(level, c);
    const double tolerance = factor * tolerance_of(mechanism.precision, level);
    if (outputs >= 64) {
      test::expect_close(std::as_const(inputs.out).view(), expected, tolerance, what);
    } else {
      double norm = 0;
      inputs.expected.for_each([&](const float& x) {
        if (std::isfinite(x)) norm += static_cast<double>(x) * static_cast<double>(x);
      });
      const double summed = summed_norm(mechanism, c, inputs);
      test::expect_close(std::as_const(inputs.out).view(), expected,
                         norm > 0 ? tolerance * summed / std::sqrt(norm) : tolerance, what);
    }
    EXPECT_TRUE(inputs.out.gaps_are_untouched()) << what;
  }
}

void expect_near(const Softmax& mechanism, const Case& c) {
  Inputs inputs(c);
  expect_near(mechanism, c, inputs);
}

class SoftmaxPrecision : public testing::TestWithParam<Precision> {
 protected:
  static Softmax mechanism(lowatt::Setting scale = {}) {
    return {.scale = scale, .precision = GetParam()};
  }
  static bool is_float() { return GetParam() != Precision::int8; }
};

INSTANTIATE_TEST_SUITE_P(All, SoftmaxPrecision,
                         testing::Values(Precision::bf16, Precision::f16, Precision::int8),
                         [](const auto& one) { return lowatt::precision_name(one.param); });

TEST_P(SoftmaxPrecision, Sweep) {
  for (const Case& c : test::sweep(41)) expect_near(mechanism(), c);
}

// Scores of standard deviation 30: some near 100.
TEST_P(SoftmaxPrecision, SweepLargeScores) {
  for (const Case& c : test::sweep(42))
    expect_near(mechanism(30 / std::sqrt(static_cast<double>(c.shape.head_dim))), c);
}

// NaN and infinities in keys or values reach the rows that see them and no others; int8 has none.
TEST_P(SoftmaxPrecision, SweepNonFinite) {
  for (const Case& c : test::sweep(43)) {
    if (c.seed % 2 == 0) continue;  // half of them: the test takes a second as it is
    std::mt19937 random(c.seed);
    Inputs inputs(c);
    test::spoil(random() % 2 == 0 ? inputs.k : inputs.v, random);
    expect_near(mechanism(), c, inputs);
  }
}

// Through the kernel: windows, words and a page table.
TEST_P(SoftmaxPrecision, MasksHideKeys) {
  test::expect_masks_hide(mechanism(), reference, false,
                          [](lowatt::Level level) { return tolerance_of(GetParam(), level); });
}
TEST_P(SoftmaxPrecision, MasksHideValues) {
  test::expect_masks_hide(mechanism(), reference, true,
                          [](lowatt::Level level) { return tolerance_of(GetParam(), level); });
}

// What is too large for half precision is infinite, and hidden like any infinity.
TEST_P(SoftmaxPrecision, ValuesThatRoundToInfinity) {
  const Case c{{1, 1, 1, 40, 150, 16, 24}, true};
  Inputs inputs(c);
  inputs.v.view().row(0, 0, 70)[3] = 65521;
  inputs.v.view().row(0, 0, 120)[3] = std::numeric_limits<float>::max();
  expect_near(mechanism(), c, inputs);
}

TEST_P(SoftmaxPrecision, ScoresOfMinusInfinity) {
  if (!is_float()) return;
  const Case c{{1, 1, 1, 8, 160, 8, 16}, true};
  Inputs inputs(c);
  inputs.q.for_each([](float& x) { x = std::fabs(x) + 0.01f; });
  for (Index t = 0; t < 155; ++t)
    if (t != 64) inputs.k.view().row(0, 0, t)[0] = -std::numeric_limits<float>::infinity();
  expect_near(mechanism(), c, inputs);
  inputs.k.view().row(0, 0, 64)[0] = -std::numeric_limits<float>::infinity();
  expect_near(mechanism(), c, inputs);
}

TEST_P(SoftmaxPrecision, MoreQueriesThanKeys) {
  for (const Index keys : {1, 7, 64, 65}) {
    const Case c{{1, 2, 1, keys + 77, keys, 24, 24}, true};
    Inputs inputs(c);
    expect_near(mechanism(), c, inputs);
    for (Index i = 0; i < 24; ++i) EXPECT_EQ(inputs.out.view().row(0, 1, 76)[i], 0.0f);
  }
}

// The maximum moves with every tile, or never after the first.
TEST_P(SoftmaxPrecision, AscendingAndDescendingScores) {
  for (const float slope : {0.1f, -0.1f, 3.0f, -3.0f})
    for (const Index queries : {5, 70}) {
      const Case c{{1, 1, 1, queries, 1300, 1, 20}};
      Inputs inputs(c);
      inputs.q.for_each([](float& x) { x = 1; });
      for (Index t = 0; t < 1300; ++t)
        inputs.k.view().row(0, 0, t)[0] = slope * static_cast<float>(t);
      expect_near(mechanism(), c, inputs, 4);  // scores far beyond 100 are as much less precise
    }
}

// Sums of the same sign and size: rounding errors do not cancel, yet do not grow with the keys.
TEST_P(SoftmaxPrecision, ManyKeys) {
  const Index keys = 65537;
  for (const Index queries : {2, 20}) {
    const Case c{{1, 1, 1, queries, keys, 8, 8}, true};
    Inputs inputs(c);
    for (Index t = 0; t < keys; ++t)
      for (Index i = 0; i < 8; ++i)
        inputs.v.view().row(0, 0, t)[i] = 0.1f + 0.013f * static_cast<float>(i);
    expect_near(mechanism(), c, inputs, 0.1);
  }
}

TEST_P(SoftmaxPrecision, ExtremeScales) {
  const Case c{{1, 1, 1, 70, 70, 16, 16}, true};
  for (const double scale : {1e-300, 1e-40, 1e-10, 1e10, 1e38, 1e300})
    expect_near(mechanism(scale), c);
}

TEST_P(SoftmaxPrecision, AllZeroTensors) {
  const Case c{{1, 2, 1, 3, 5, 8, 8}};
  test::for_zeroed_tensors(c, [&](Inputs& inputs, int) { expect_near(mechanism(), c, inputs); });
}

// A key with all the weight and no value beside many with little weight: what is left of the output
// are those small weights.
TEST_P(SoftmaxPrecision, SmallWeightsKeepTheirPrecision) {
  for (int bits = 0; bits <= 24; bits += 4) {
    const Case c{{1, 1, 1, 17, 400, 64, 64}};
    Inputs inputs(c);
    inputs.q.for_each([](float& x) { x = 1; });
    inputs.k.for_each([](float& x) { x = 0.75f + 0.02f * x; });
    for (Index i = 0; i < 64; ++i) {
      inputs.k.view().row(0, 0, 3)[i] = 1;
      inputs.v.view().row(0, 0, 3)[i] = 0;
    }
    expect_near(mechanism(0.05 + std::log(2.0) * bits / 16), c, inputs);
  }
}

// Every byte at its largest: dot products at the edge of 32 bits.
TEST(SoftmaxInt8, OverflowEdgeSaturated) {
  for (const Index d : {256, 1100, 66000, int{lowatt::softmax_most_int8_head_dim}})
    for (const double scale : {1e-5, 1e-3}) {
      // Two queries, and enough for tile products where there are some.
      for (const Index queries : {2, 20}) {
        const Case c{{1, 1, 1, queries, 70, d, 3}};
        Inputs inputs(c);
        const auto fill = [](const auto& rows) {
          for (Index t = 0; t < rows.tokens; ++t)
            std::fill_n(rows.row(0, 0, t), rows.dim, t % 2 == 0 ? 1.0f : -1.0f);
        };
        fill(inputs.q.view());
        fill(inputs.k.view());
        inputs.k.view().row(0, 0, 2)[0] = -1;
        expect_near({.scale = scale, .precision = Precision::int8}, c, inputs);
      }
    }
}

// Sums of weighted values keep the range of float32, whatever is left of the range of weights.
TEST_P(SoftmaxPrecision, LargeAndSmallValues) {
  if (GetParam() == Precision::f16) return;  // has no such numbers
  for (const float size : {1e33f, 1e-28f}) {
    const Case c{{1, 1, 1, 20, 4160, 8, 24}};
    Inputs inputs(c);
    inputs.q.for_each([](float& x) { x = 1; });
    inputs.v.for_each([&](float& x) { x = size * (1 + 0.1f * x); });
    for (Index t = 0; t < c.shape.keys; ++t)
      for (Index i = 0; i < 8; ++i) inputs.k.view().row(0, 0, t)[i] = t < 64 ? 0.0f : 1.375f;
    expect_near(mechanism(1), c, inputs);
  }
}

TEST(SoftmaxInt8, FrozenScalesSaturate) {
  const Softmax mechanism{.precision = Precision::int8};
  Inputs inputs(Case{{1, 2, 1, 20, 90, 16, 16}});
  const lowatt::View<const float> q = inputs.q.view(), k = inputs.k.view(), v = inputs.v.view();
  lowatt::Calibration calibration;
  for (lowatt::Array<float>* absmax : {&calibration.key_absmax, &calibration.value_absmax})
    *absmax = lowatt::Array<float>(1, 0.7f);
  ASSERT_TRUE(
      lowatt::softmax_reference(mechanism, q, k, v, inputs.expected.view(), false, &calibration)
          .ok());
  lowatt::KvCache<Softmax> cache({1, 1, 16, 16, 90}, calibration, mechanism);
  cache.append(k, v);
  for (const lowatt::Level level : test::levels()) {
    lowatt::attend(q, cache, inputs.out.view(), {.level = level});
    test::expect_close(std::as_const(inputs.out).view(), std::as_const(inputs.expected).view(),
                       tolerance_of(Precision::int8, level), lowatt::level_name(level));
  }
}

TEST(SoftmaxRefusals, PrecisionsThatItLacks) {
  Inputs inputs(Case{{1, 1, 1, 2, 3, 8, 8}});
  for (const Precision precision : {Precision::int16, Precision::int4}) {
    const lowatt::Status status =
        lowatt::try_attend(Softmax{.precision = precision}, inputs.q.view(), inputs.k.view(),
                           inputs.v.view(), inputs.out.view());
    EXPECT_EQ(status.code, lowatt::StatusCode::unsupported);
    EXPECT_EQ(std::string(status.message),
              std::string("precision is ") + lowatt::precision_name(precision) +
                  "; softmax has kernels for fp32, bf16, f16 and int8");
  }
}

TEST(SoftmaxRefusals, CalibrationAndHeadDim) {
  lowatt::KvCache<Softmax> cache;
  const Softmax int8{.precision = Precision::int8};
  lowatt::Status status = lowatt::KvCache<Softmax>::try_create(cache, {1, 2, 8, 8, 64}, {}, int8);
  EXPECT_STREQ(status.message, "calibration.key_absmax has 0 entries; 2 are needed");
  lowatt::Calibration calibration;
  calibration.key_absmax = lowatt::Array<float>(2, 1.0f);
  calibration.value_absmax = lowatt::Array<float>(2, -1.0f);
  status = lowatt::KvCache<Softmax>::try_create(cache, {1, 2, 8, 8, 64}, calibration, int8);
  EXPECT_STREQ(status.message,
               "calibration.value_absmax[0] is -1; it must be finite and not negative");
  lowatt::Plan<Softmax> plan;
  const Index largest = lowatt::softmax_most_int8_head_dim;
  status = lowatt::try_plan(plan, int8, {1, 1, 1, 1, 1, largest + 1, 1});
  EXPECT_STREQ(status.message, "head_dim is 66312; 32-bit scores hold at most 66311");
}

TEST(SoftmaxPrecisions, BytesPerToken) {
  const auto bytes = [](Precision precision, Index head_dim, Index value_dim) {
    return static_cast<double>(lowatt::Adapter<Softmax>::tile_bytes({.precision = precision},
                                                                    head_dim, value_dim)) /
           64;
  };
  EXPECT_EQ(bytes(Precision::bf16, 64, 64), 1 + 128 + 128);
  EXPECT_EQ(bytes(Precision::f16, 80, 80), 1 + 160 + 160);
  EXPECT_EQ(bytes(Precision::bf16, 80, 80), 1 + 3 * 28 * 2 + 160);
  EXPECT_EQ(bytes(Precision::int8, 64, 64), 64 + 64);
  EXPECT_EQ(bytes(Precision::int8, 80, 80), 80 + 80);
}

}  // namespace
