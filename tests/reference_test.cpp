// The references: against the golden cases, against formulas written differently, and at the edges
// (masks, batches, strides, frozen calibration, values that are not finite).
#include <gtest/gtest.h>

#include <limits>

#include "lowatt/bitformer/calibrate.hpp"
#include "lowatt/bitformer/reference.hpp"
#include "lowatt/inhibitor/reference.hpp"
#include "lowatt/latte/reference.hpp"
#include "lowatt/softmax/reference.hpp"
#include "support/golden.hpp"

namespace {

using namespace lowatt;
using test::random_tensor;
using test::relative_l2;
using test::Tensor;

constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();

struct Report {
  std::vector<LatteCounts> counts;
  std::vector<double> temperature;
};

// One call for all mechanisms.
struct Call {
  View<const float> q, k, v;
  bool causal = false;
  Report* report = nullptr;
  const Calibration* given = nullptr;
  View<float> out{};

  Status operator()(const Softmax& m) const { return softmax_reference(m, q, k, v, out, causal); }
  Status operator()(const Inhibitor& m) const {
    return inhibitor_reference(m, q, k, v, out, causal, given);
  }
  Status operator()(const Latte& m) const {
    return latte_reference(m, q, k, v, out, causal, report ? report->counts.data() : nullptr,
                           given);
  }
  Status operator()(const Bitformer& m) const {
    return bitformer_reference(m, q, k, v, out, causal,
                               report ? report->temperature.data() : nullptr, given);
  }
};

template <class M>
Tensor<> run(const M& mechanism, View<const float> q, View<const float> k, View<const float> v,
             bool causal = false, Report* report = nullptr, const Calibration* given = nullptr) {
  Tensor<> out(q.batch, q.heads, q.tokens, v.dim);
  const auto rows = static_cast<std::size_t>(q.batch * q.heads);
  if (report) *report = {std::vector<LatteCounts>(rows), std::vector<double>(rows)};
  const Status status = Call{q, k, v, causal, report, given, out.view()}(mechanism);
  EXPECT_TRUE(status.ok()) << status.message;
  return out;
}

// Every mechanism and precision once, with parameters that do something.
template <class F>
void for_each_mechanism(F f) {
  f(Softmax{});
  f(Inhibitor{.scale = 0.02, .alpha = 0.1, .precision = Precision::fp32});
  f(Inhibitor{.scale = 0.02, .alpha = 0.1, .center = true, .precision = Precision::int8});
  f(Latte{.theta = 1.5});
  f(Bitformer{.center_keys = true});
  f(Bitformer{.planes = 3});
}

class Golden : public testing::TestWithParam<test::GoldenCase> {};

TEST_P(Golden, ReferenceAgrees) {
  test::GoldenCase golden = GetParam();
  test::set_theta(golden);
  const test::GoldenTensors tensors = test::load_golden_tensors(LOWATT_TEST_DATA, golden);
  Report report;
  const Tensor<> out = std::visit(
      [&](const auto& mechanism) {
        return run(mechanism, tensors.q.view(), tensors.k.view(), tensors.v.view(), golden.causal,
                   &report);
      },
      golden.mechanism);

  if (golden.tolerance == 0) {
    EXPECT_EQ(out.data, tensors.out.data);
  } else {
    EXPECT_LE(relative_l2(out.data, tensors.out.data), golden.tolerance);
  }
  for (std::size_t h = 0; h < golden.kept.size(); ++h) {
    EXPECT_EQ(report.counts.at(h).kept, golden.kept[h]) << "head " << h;
    EXPECT_EQ(report.counts.at(h).visible, golden.visible[h]) << "head " << h;
  }
  for (std::size_t h = 0; h < golden.temperature.size(); ++h)
    EXPECT_NEAR(report.temperature.at(h), golden.temperature[h], 1e-9 * golden.temperature[h])
        << "head " << h;
}

INSTANTIATE_TEST_SUITE_P(Cases, Golden,
                         testing::ValuesIn(test::load_golden_cases(LOWATT_TEST_DATA)),
                         [](const auto& instance) {
                           return test::identifier(instance.param.name);
                         });

TEST(Reference, CausalEqualsOneCallPerRow) {
  const Tensor<> q = random_tensor(1, 4, 9, 10, 1), k = random_tensor(1, 2, 7, 10, 2),
                 v = random_tensor(1, 2, 7, 5, 3);
  // Frozen, since properties are taken over all tokens, also where a call sees fewer.
  Calibration given{.query_absmax = absmax_per_head(q.view()),
                    .key_absmax = absmax_per_head(k.view()),
                    .value_absmax = absmax_per_head(v.view()),
                    .key_mean = channel_means(k.view()),
                    .clip = default_clips(k.view()),
                    .temperature = Array<double>(4, 0.05),
                    .theta = {}};
  for_each_mechanism([&](const auto& mechanism) {
    const Tensor<> out = run(mechanism, q.view(), k.view(), v.view(), true, nullptr, &given);
    for (Index i = 0; i < 9; ++i) {
      const Index seen = i - 1;  // of 7 keys, the last of 9 queries sees all
      View<const float> row = q.view(), keys = k.view(), values = v.view();
      row.data += i * row.token_stride;
      row.tokens = 1;
      keys.tokens = values.tokens = seen;
      Tensor<> expected(1, 4, 1, 5);
      if (seen > 0) expected = run(mechanism, row, keys, values, false, nullptr, &given);
      for (Index h = 0; h < 4; ++h)
        for (Index c = 0; c < 5; ++c)
          EXPECT_EQ(out.at(0, h, i, c), expected.at(0, h, 0, c)) << i << " " << h << " " << c;
    }
  });
}

TEST(Reference, BatchesAndStridesDoNotMix) {
  const Tensor<> q = random_tensor(3, 4, 6, 8, 1), k = random_tensor(3, 2, 11, 8, 2),
                 v = random_tensor(3, 2, 11, 9, 3);
  // The same values token-major: [batch, token, head, dim], with padding that must not be read.
  const auto token_major = [](const Tensor<>& x, std::vector<float>& data) {
    const Index row = x.dim + 3;
    data.assign(static_cast<std::size_t>(x.batch * x.tokens * x.heads * row), nan);
    const View<float> view(data.data(), x.batch, x.heads, x.tokens, x.dim, x.tokens * x.heads * row,
                           row, x.heads * row);
    for (Index b = 0; b < x.batch; ++b)
      for (Index h = 0; h < x.heads; ++h)
        for (Index t = 0; t < x.tokens; ++t)
          for (Index c = 0; c < x.dim; ++c) view.row(b, h, t)[c] = x.at(b, h, t, c);
    return View<const float>(view);
  };
  std::vector<float> q_data, k_data, v_data;
  const View<const float> q_view = token_major(q, q_data), k_view = token_major(k, k_data),
                          v_view = token_major(v, v_data);
  for_each_mechanism([&](const auto& mechanism) {
    const Tensor<> all = run(mechanism, q.view(), k.view(), v.view(), true);
    EXPECT_EQ(run(mechanism, q_view, k_view, v_view, true).data, all.data);
    for (Index b = 0; b < 3; ++b) {
      const auto one = [b](View<const float> x) {
        x.data += b * x.batch_stride;
        x.batch = 1;
        return x;
      };
      const Tensor<> out = run(mechanism, one(q.view()), one(k.view()), one(v.view()), true);
      EXPECT_EQ(out.data,
                std::vector<float>(all.view().row(b, 0, 0), all.view().row(b, 0, 0) + 4 * 6 * 9));
    }
  });
}

TEST(Reference, FrozenCalibrationEqualsComputed) {
  const Tensor<> q = random_tensor(2, 4, 6, 8, 1), k = random_tensor(2, 2, 11, 8, 2),
                 v = random_tensor(2, 2, 11, 9, 3);
  for_each_mechanism([&](const auto& mechanism) {
    Report report;
    const Tensor<> computed = run(mechanism, q.view(), k.view(), v.view(), true, &report);
    Calibration given{.query_absmax = absmax_per_head(q.view()),
                      .key_absmax = absmax_per_head(k.view()),
                      .value_absmax = absmax_per_head(v.view()),
                      .key_mean = channel_means(k.view()),
                      .clip = default_clips(k.view()),
                      .temperature = Array<double>(8),
                      .theta = {}};
    for (Index i = 0; i < 8; ++i)
      given.temperature[i] = report.temperature[static_cast<std::size_t>(i)];
    const Tensor<> frozen = run(mechanism, q.view(), k.view(), v.view(), true, nullptr, &given);
    EXPECT_EQ(frozen.data, computed.data);
  });
}

// In fp32, what is masked never reaches an output; on integer paths it only counts as a value that
// is not finite.
TEST(Reference, MaskedNonFiniteValuesDoNotReachOutputs) {
  const Tensor<> q = random_tensor(1, 1, 4, 8, 1);
  for_each_mechanism([&](const auto& mechanism) {
    Tensor<> k = random_tensor(1, 1, 4, 8, 2), v = random_tensor(1, 1, 4, 8, 3);
    for (Index c = 0; c < 8; ++c) k.at(0, 0, 3, c) = v.at(0, 0, 3, c) = c % 2 ? nan : -infinity;
    const Tensor<> out = run(mechanism, q.view(), k.view(), v.view(), true);
    for (Index i = 0; i < 3; ++i)
      for (Index c = 0; c < 8; ++c) EXPECT_TRUE(std::isfinite(out.at(0, 0, i, c)));
  });
}

TEST(Reference, VisibleNaNReachesRealOutputs) {
  Tensor<> q = random_tensor(1, 1, 2, 4, 1), k = random_tensor(1, 1, 3, 4, 2),
           v = random_tensor(1, 1, 3, 4, 3);
  v.at(0, 0, 1, 2) = nan;
  for (const bool is_signed : {true, false}) {
    const Inhibitor mechanism{.is_signed = is_signed, .precision = Precision::fp32};
    const Tensor<> out = run(mechanism, q.view(), k.view(), v.view());
    EXPECT_TRUE(std::isnan(out.at(0, 0, 0, 2)));
    EXPECT_FALSE(std::isnan(out.at(0, 0, 0, 1)));
  }
  EXPECT_TRUE(std::isnan(run(Softmax{}, q.view(), k.view(), v.view()).at(0, 0, 0, 2)));
}

// The Inhibitor's formulas once more, in other words.
TEST(InhibitorReference, RealFollowsThePaper) {
  const Index n = 13, d = 7, dv = 5;
  const Tensor<> q = random_tensor(1, 1, n, d, 1), k = random_tensor(1, 1, n, d, 2),
                 v = random_tensor(1, 1, n, dv, 3);
  const double scale = 0.1, alpha = 0.2, beta = 1.7;
  for (const bool is_signed : {true, false})
    for (const bool center : {true, false}) {
      const Inhibitor mechanism{.scale = scale,
                                .alpha = alpha,
                                .beta = beta,
                                .is_signed = is_signed,
                                .center = center,
                                .normalize = true,
                                .precision = Precision::fp32};
      Tensor<double> expected(1, 1, n, dv), out(1, 1, n, dv);
      for (Index i = 0; i < n; ++i) {
        std::vector<double> z;
        double mean = 0;
        for (Index j = 0; j < n; ++j) {
          double sum = 0;
          for (Index c = 0; c < d; ++c)
            sum += std::abs(double{q.at(0, 0, i, c)} - double{k.at(0, 0, j, c)});
          z.push_back(scale * sum);
          mean += z.back() / static_cast<double>(n);
        }
        for (Index j = 0; j < n; ++j) {
          double score = z[static_cast<std::size_t>(j)];
          if (center) score = std::max(score - mean, 0.0);
          score = std::max(score - alpha, 0.0);
          for (Index c = 0; c < dv; ++c) {
            const double value = double{v.at(0, 0, j, c)};
            const double rest =
                is_signed ? std::copysign(1.0, value) * std::max(std::abs(value) - score, 0.0)
                          : std::max(value - score, 0.0);
            expected.at(0, 0, i, c) += rest * beta / static_cast<double>(n);
          }
        }
      }
      const Status status =
          inhibitor_reference(mechanism, q.view(), k.view(), v.view(), out.view());
      ASSERT_TRUE(status.ok());
      EXPECT_LE(relative_l2(out.data, expected.data), 1e-13);
    }
}

TEST(InhibitorReference, MoreBitsComeCloserToRealNumbers) {
  const Tensor<> q = random_tensor(1, 4, 40, 64, 1), k = random_tensor(1, 2, 50, 64, 2),
                 v = random_tensor(1, 2, 50, 32, 3);
  for (const bool is_signed : {true, false})
    for (const bool center : {true, false}) {
      const Inhibitor mechanism{.scale = 0.01,
                                .alpha = 0.1,
                                .beta = 0.5,
                                .is_signed = is_signed,
                                .center = center,
                                .normalize = true};
      Tensor<double> real(1, 4, 40, 32), int8(1, 4, 40, 32), int16(1, 4, 40, 32);
      ASSERT_TRUE(
          inhibitor_reference_real(mechanism, q.view(), k.view(), v.view(), real.view()).ok());
      ASSERT_TRUE(inhibitor_reference_integer<std::int8_t>(mechanism, q.view(), k.view(), v.view(),
                                                           int8.view())
                      .ok());
      ASSERT_TRUE(inhibitor_reference_integer<std::int16_t>(mechanism, q.view(), k.view(), v.view(),
                                                            int16.view())
                      .ok());
      EXPECT_LE(relative_l2(int8.data, real.data), 5e-2);
      EXPECT_LE(relative_l2(int16.data, real.data), 5e-4);
      EXPECT_GT(relative_l2(int8.data, real.data), relative_l2(int16.data, real.data));
    }
}

// Saturated inputs on both sides of 254 * head_dim + R = 65535, where 16 bits stop sufficing.
TEST(InhibitorReference, LargestDistances) {
  for (const Index d : {256, 258, 259, 300}) {
    Tensor<> q(1, 1, 1, d), k(1, 1, 2, d), v(1, 1, 2, 1);
    for (float& x : q.data) x = 2;
    for (Index c = 0; c < d; ++c) k.at(0, 0, 0, c) = -2, k.at(0, 0, 1, c) = 2;
    v.data = {1, 1};
    // A distance of 4 * d keeps a value of 1 down to 1 - scale * 4 * d.
    const double scale = 0.5 / (4.0 * static_cast<double>(d));
    const Tensor<> out = run(Inhibitor{.scale = scale}, q.view(), k.view(), v.view());
    EXPECT_NEAR(out.data[0], 1.5f, 1.0f / 127) << d;
  }
}

TEST(InhibitorReference, ZeroValuesGiveZero) {
  const Tensor<> q = random_tensor(1, 1, 2, 4, 1), k = random_tensor(1, 1, 3, 4, 2);
  const Tensor<> v(1, 1, 3, 4);
  for (const double alpha : {-1e300, 0.0, 1e300})
    EXPECT_EQ(run(Inhibitor{.alpha = alpha}, q.view(), k.view(), v.view()).data,
              std::vector<float>(8));
}

TEST(LatteReference, LargeThetaIsSoftmaxOnInt8) {
  const Tensor<> q = random_tensor(1, 2, 20, 32, 1), k = random_tensor(1, 1, 30, 32, 2),
                 v = random_tensor(1, 1, 30, 16, 3);
  Report report;
  const Tensor<> out = run(Latte{.theta = 1e9}, q.view(), k.view(), v.view(), false, &report);
  const Tensor<> softmax = run(Softmax{}, q.view(), k.view(), v.view());
  EXPECT_EQ(report.counts[0].kept, 600);
  EXPECT_EQ(report.counts[0].visible, 600);
  EXPECT_LE(relative_l2(out.data, softmax.data), 2e-2);
}

TEST(LatteReference, ZeroThetaKeepsTheBestAndItsTies) {
  Tensor<> q(1, 1, 1, 4), k(1, 1, 5, 4), v(1, 1, 5, 1);
  q.data = {1, 0, 0, 0};
  for (Index j = 0; j < 5; ++j) k.at(0, 0, j, 0) = j % 2 ? 1.0f : 0.25f;
  v.data = {100, 1, 100, 3, 100};
  Report report;
  const Tensor<> out = run(Latte{.theta = 0.0}, q.view(), k.view(), v.view(), false, &report);
  EXPECT_EQ(report.counts[0].kept, 2);
  EXPECT_NEAR(out.data[0], 2, 0.5);
}

TEST(LatteReference, NothingToTellKeysApartKeepsAll) {
  const Tensor<> q(1, 1, 2, 4);
  const Tensor<> k = random_tensor(1, 1, 5, 4, 1);
  Tensor<> v(1, 1, 5, 1);
  v.data = {1, 2, 3, 4, 5};
  Report report;
  const Tensor<> out = run(Latte{.theta = 0.0}, q.view(), k.view(), v.view(), false, &report);
  EXPECT_EQ(report.counts[0].kept, 10);
  EXPECT_NEAR(out.data[0], 3, 0.02);
}

// The regression with whole arrays and centred differently: from sums, in long double.
double expected_temperature(const Bitformer& mechanism, const Tensor<>& q, const Tensor<>& k,
                            Index h, bool causal) {
  const Index g = h / (q.heads / k.heads);
  const BitEncoding encoding = resolve(mechanism.encoding, mechanism.planes);
  std::vector<float> mean(static_cast<std::size_t>(k.dim));
  if (mechanism.center_keys) channel_means(k.view(), 0, g, mean.data());
  const float clip = static_cast<float>(mean_abs(k.view(), 0, g, mean.data()));
  long double covariance = 0, variance = 0;
  for (Index i = 0; i < q.tokens; ++i) {
    long double n = 0, s = 0, l = 0, sl = 0, ss = 0;
    for (Index j = 0; j < k.tokens; ++j) {
      if (causal && j > i + k.tokens - q.tokens) continue;
      long double score = 0, exact = 0;
      for (Index c = 0; c < q.dim; ++c) {
        const float key = k.at(0, g, j, c) - mean[static_cast<std::size_t>(c)];
        exact += static_cast<long double>(q.at(0, h, i, c)) * static_cast<long double>(key);
        for (int t = 0; t < mechanism.planes; ++t) {
          const float threshold = encoding == BitEncoding::sign
                                      ? 0.0f
                                      : thermometer_threshold(t, mechanism.planes, clip);
          score += (q.at(0, h, i, c) >= threshold) == (key >= threshold) ? 1 : -1;
        }
      }
      exact /= std::sqrt(static_cast<long double>(q.dim));
      if (!std::isfinite(exact)) continue;
      n += 1, s += score, l += exact, sl += score * exact, ss += score * score;
    }
    if (n == 0) continue;
    covariance += sl - s * l / n;
    variance += ss - s * s / n;
  }
  const long double slope = covariance / variance;
  return slope > 0 ? static_cast<double>(slope) : 0.0;
}

// What calls without a reference use.
std::vector<double> temperatures(const Bitformer& mechanism, const Tensor<>& q, const Tensor<>& k,
                                 bool causal) {
  const Array<float> means = mechanism.center_keys ? channel_means(k.view()) : Array<float>();
  const Array<float> clips = default_clips(k.view(), means.data());
  std::vector<double> result(static_cast<std::size_t>(q.heads));
  const Status status = try_temperatures(mechanism, q.view(), k.view(), means.data(), clips.data(),
                                         {.causal = causal}, result.data());
  EXPECT_TRUE(status.ok()) << status.message;
  return result;
}

TEST(BitformerTemperature, CalibratedIsTheRegression) {
  Tensor<> q = random_tensor(1, 4, 33, 20, 1), k = random_tensor(1, 2, 29, 20, 2),
           v = random_tensor(1, 2, 29, 4, 3);
  for (float& x : k.data) x += 0.5f;
  q.at(0, 1, 3, 4) = infinity;  // leaves out the whole row
  k.at(0, 1, 7, 2) = nan;       // leaves out one key of heads 2 and 3
  for (const Bitformer& mechanism :
       {Bitformer{.calibrate_temperature = true},
        Bitformer{.center_keys = true, .calibrate_temperature = true}, Bitformer{.planes = 3},
        Bitformer{.planes = 1, .encoding = BitEncoding::thermometer},
        Bitformer{.planes = 8, .center_keys = true}})
    for (const bool causal : {false, true}) {
      Report report;
      run(mechanism, q.view(), k.view(), v.view(), causal, &report);
      const std::vector<double> calibrated = temperatures(mechanism, q, k, causal);
      for (Index h = 0; h < 4; ++h) {
        const double expected = expected_temperature(mechanism, q, k, h, causal);
        EXPECT_GT(expected, 0);
        EXPECT_NEAR(report.temperature[static_cast<std::size_t>(h)], expected, 1e-11 * expected);
        EXPECT_NEAR(calibrated[static_cast<std::size_t>(h)], expected, 1e-11 * expected);
      }
    }
}

TEST(BitformerTemperature, NegativeOrUndefinedIsZero) {
  const Bitformer mechanism{.calibrate_temperature = true};
  Report report;
  {  // Large numbers of equal sign outweigh small ones of opposite sign: more bits, lower score.
    Tensor<> q(1, 1, 1, 3), k(1, 1, 2, 3), v(1, 1, 2, 1);
    q.data = {10, 1, 1};
    k.data = {-1, 1, 1, 1, -1, -1};
    run(mechanism, q.view(), k.view(), v.view(), false, &report);
    EXPECT_EQ(report.temperature[0], 0);
    EXPECT_EQ(temperatures(mechanism, q, k, false)[0], 0);
  }
  {  // One key: no variance.
    Tensor<> q(1, 1, 2, 3), k(1, 1, 1, 3), v(1, 1, 1, 1);
    v.data = {2};
    const Tensor<> out = run(mechanism, q.view(), k.view(), v.view(), false, &report);
    EXPECT_EQ(report.temperature[0], 0);
    EXPECT_EQ(temperatures(mechanism, q, k, false)[0], 0);
    EXPECT_EQ(out.data, (std::vector<float>{2, 2}));
  }
}

TEST(BitformerTemperature, GivenAndDefaultAgreeWithTheReference) {
  const Tensor<> q = random_tensor(1, 4, 5, 20, 1), k = random_tensor(1, 2, 6, 20, 2),
                 v = random_tensor(1, 2, 6, 4, 3);
  for (const Bitformer& mechanism : {Bitformer{.temperature = 0.25}, Bitformer{},
                                     Bitformer{.scale = 3.0, .center_keys = true}}) {
    Report report;
    run(mechanism, q.view(), k.view(), v.view(), false, &report);
    EXPECT_EQ(report.temperature, temperatures(mechanism, q, k, false));
    EXPECT_GT(report.temperature[0], 0);
  }
}

TEST(BitformerReference, ZeroTemperatureIsTheMean) {
  const Tensor<> q = random_tensor(1, 1, 3, 40, 1), k = random_tensor(1, 1, 4, 40, 2);
  Tensor<> v(1, 1, 4, 1);
  v.data = {127, 1, -3, 7};
  const Tensor<> out = run(Bitformer{.temperature = 0.0}, q.view(), k.view(), v.view());
  EXPECT_EQ(out.data, (std::vector<float>{33, 33, 33}));
}

}  // namespace
