// Thresholds that calibration chooses for LATTE: targets are reached, and what is reported is what
// attending with them does, against a plain computation from the specification.
#include <algorithm>
#include <cmath>
#include <limits>
#include <lowatt/latte/reference.hpp>

#include "support/sweep.hpp"

namespace {

using lowatt::Calibration;
using lowatt::Index;
using lowatt::Latte;
using lowatt::LatteReport;
using lowatt::NibbleSplit;
using lowatt::Status;
using lowatt::View;
using test::Case;
using test::Inputs;

constexpr double infinity = std::numeric_limits<double>::infinity();

// Reports of all query heads at the thetas of `calibration`.
std::vector<LatteReport> reports(const Latte& mechanism, const Calibration& calibration,
                                 const Inputs& inputs, bool causal) {
  const auto result = lowatt::report(mechanism, calibration, inputs.q.view(), inputs.k.view(),
                                     inputs.v.view(), {.causal = causal});
  return {result.begin(), result.end()};
}

// The same, row by row from the specification, without histograms.
LatteReport plain_report(const Latte& mechanism, double theta, const Calibration& calibration,
                         const Inputs& inputs, Index h, bool causal) {
  const View<const float> q = inputs.q.view(), k = inputs.k.view(), v = inputs.v.view();
  const double scale = mechanism.scale.or_else(lowatt::default_scale(q.dim));
  const Index g = h / (q.heads / k.heads);
  lowatt::QuantizedTensor<std::int8_t> q8, k8, v8;
  lowatt::throw_if_failed(q8.try_assign(q, lowatt::ScalePer::token));
  lowatt::throw_if_failed(k8.try_assign(k, lowatt::ScalePer::head, calibration.key_absmax.data(),
                                        calibration.key_absmax.size()));
  lowatt::throw_if_failed(v8.try_assign(v, lowatt::ScalePer::head, calibration.value_absmax.data(),
                                        calibration.value_absmax.size()));
  LatteReport report;
  for (Index b = 0; b < q.batch; ++b)
    for (Index i = 0; i < q.tokens; ++i) {
      const Index visible = lowatt::visible_keys(causal, i, q.tokens, k.tokens).end;
      if (visible == 0) continue;
      std::vector<Index> low, dot;
      std::vector<double> logit;
      for (Index j = 0; j < visible; ++j) {
        low.push_back(
            lowatt::latte_low_dot(q8.row(b, h, i), k8.row(b, g, j), q.dim, mechanism.split));
        dot.push_back(lowatt::latte_dot(q8.row(b, h, i), k8.row(b, g, j), q.dim));
        double sum = 0;
        for (Index c = 0; c < q.dim; ++c)
          sum += static_cast<double>(q.row(b, h, i)[c]) * static_cast<double>(k.row(b, g, j)[c]);
        logit.push_back(scale * sum);
      }
      const double unit =
          static_cast<double>(q8.scale(b, h, i)) * static_cast<double>(k8.scale(b, g)) * scale;
      const Index best_low = *std::max_element(low.begin(), low.end());
      const Index best_dot = *std::max_element(dot.begin(), dot.end());
      const double best_logit = *std::max_element(logit.begin(), logit.end());
      const Index threshold =
          lowatt::latte_threshold(theta, q8.scale(b, h, i), k8.scale(b, g), scale, q.dim);
      std::vector<bool> kept;
      Index best_kept_dot = best_dot - 2000000000;
      bool found = false;
      for (Index j = 0; j < visible; ++j) {
        const auto n = static_cast<std::size_t>(j);
        kept.push_back(best_low - low[n] <= threshold);
        if (kept[n]) best_kept_dot = std::max(best_kept_dot, dot[n]);
        if (kept[n]) ++report.kept;
        found = found || (kept[n] && dot[n] == best_dot);
      }
      report.visible += visible;
      ++report.rows;
      if (!found) ++report.best_lost;

      const auto exp_of = [&](Index gap) { return gap == 0 ? 1 : std::exp(unit * double(gap)); };
      double all = 0, lost = 0, survivors = 0, exact = 0;
      for (std::size_t n = 0; n < kept.size(); ++n) {
        all += exp_of(dot[n] - best_dot);
        if (!kept[n]) lost += exp_of(dot[n] - best_dot);
        if (kept[n]) survivors += exp_of(dot[n] - best_kept_dot);
        exact += std::exp(logit[n] - best_logit);
      }
      report.mass_lost += lost / all;
      for (Index c = 0; c < v.dim; ++c) {
        double filtered = 0, unfiltered = 0, softmax = 0;
        for (std::size_t n = 0; n < kept.size(); ++n) {
          const auto j = static_cast<Index>(n);
          const double value = v8.row(b, g, j)[c] * static_cast<double>(v8.scale(b, g));
          if (kept[n]) filtered += exp_of(dot[n] - best_kept_dot) / survivors * value;
          unfiltered += exp_of(dot[n] - best_dot) / all * value;
          softmax +=
              std::exp(logit[n] - best_logit) / exact * static_cast<double>(v.row(b, g, j)[c]);
        }
        const auto square = [](double x) { return x * x; };
        report.filtered_less_unfiltered += square(filtered - unfiltered);
        report.unfiltered += square(unfiltered);
        report.filtered_less_softmax += square(filtered - softmax);
        report.unfiltered_less_softmax += square(unfiltered - softmax);
        report.softmax += square(softmax);
      }
    }
  return report;
}

void expect_same(const LatteReport& got, const LatteReport& expected, const std::string& what) {
  EXPECT_EQ(got.kept, expected.kept) << what;
  EXPECT_EQ(got.visible, expected.visible) << what;
  EXPECT_EQ(got.rows, expected.rows) << what;
  EXPECT_EQ(got.best_lost, expected.best_lost) << what;
  EXPECT_NEAR(got.mass_dropped(), expected.mass_dropped(), 1e-12) << what;
  EXPECT_NEAR(got.error(), expected.error(), 1e-7) << what;
  EXPECT_NEAR(got.error_to_softmax(), expected.error_to_softmax(), 1e-7) << what;
  EXPECT_NEAR(got.unfiltered_error_to_softmax(), expected.unfiltered_error_to_softmax(), 1e-7)
      << what;
}

// Calibrates for a target and holds what is reported against the plain computation, and pairs kept
// against attending at every level, in one call and from a cache.
std::vector<LatteReport> expect_consistent(const Latte& mechanism, const Case& c, Inputs& inputs) {
  const View<const float> q = inputs.q.view(), k = inputs.k.view(), v = inputs.v.view();
  const Calibration calibration = lowatt::calibrate(mechanism, q, k, v, {.causal = c.causal});
  EXPECT_EQ(calibration.theta.size(), q.heads);
  const auto got = reports(mechanism, calibration, inputs, c.causal);
  for (Index h = 0; h < q.heads; ++h)
    expect_same(got[static_cast<std::size_t>(h)],
                plain_report(mechanism, calibration.theta[h], calibration, inputs, h, c.causal),
                c.name() + " head " + std::to_string(h));
  for (const lowatt::Level level : test::levels()) {
    std::vector<std::int64_t> kept(static_cast<std::size_t>(q.batch * q.heads));
    const lowatt::Options options{.causal = c.causal, .level = level, .kept = kept.data()};
    const auto expect_kept = [&](const char* how) {
      for (Index h = 0; h < q.heads; ++h) {
        Index of_head = 0;
        for (Index b = 0; b < q.batch; ++b)
          of_head += kept[static_cast<std::size_t>(b * q.heads + h)];
        EXPECT_EQ(of_head, got[static_cast<std::size_t>(h)].kept)
            << how << ", head " << h << ", " << test::describe(level, c);
      }
    };
    lowatt::attend(mechanism, q, k, v, inputs.out.view(), options);
    expect_kept("one call");
    lowatt::KvCache<Latte> cache({q.batch, k.heads, k.dim, v.dim, k.tokens}, calibration, mechanism,
                                 level);
    cache.append(k, v);
    lowatt::attend(q, cache, inputs.expected.view(), options);
    expect_kept("cache");
    test::expect_identical(inputs.expected.view(), inputs.out.view(), "cache and one call");
  }
  return got;
}

std::vector<LatteReport> expect_consistent(const Latte& mechanism, const Case& c) {
  Inputs inputs(c);
  return expect_consistent(mechanism, c, inputs);
}

const Case cases[] = {
    {{1, 4, 2, 70, 130, 64, 64}, false, test::Layout::contiguous, 1},
    {{1, 4, 2, 70, 130, 64, 24}, true, test::Layout::padded, 2},
    {{2, 3, 1, 33, 200, 40, 40}, true, test::Layout::token_major, 3},
    {{1, 1, 1, 90, 65, 128, 8}, true, test::Layout::contiguous, 4},
};

TEST(Calibration, FilteredIsReached) {
  for (const Case& c : cases)
    for (const NibbleSplit split : {NibbleSplit::round, NibbleSplit::truncate})
      for (const double target : {0.0, 0.3, 0.9, 0.95})
        for (const LatteReport& report :
             expect_consistent({.filtered = target, .split = split}, c)) {
          // At most all but one key of each row can go.
          const double most =
              1 - static_cast<double>(report.rows) / static_cast<double>(report.visible);
          EXPECT_GE(report.filtered(), std::min(target, most)) << c.name();
          EXPECT_LE(report.filtered(), target + 0.01) << c.name();
        }
}

// No candidate that filters less would do: a slightly larger theta misses the target.
TEST(Calibration, FilteredIsAsLittleAsCandidatesAllow) {
  for (const Case& c : cases) {
    Inputs inputs(c);
    const Latte mechanism{.filtered = 0.8};
    Calibration calibration = lowatt::calibrate(mechanism, inputs.q.view(), inputs.k.view(),
                                                inputs.v.view(), {.causal = c.causal});
    const auto chosen = reports(mechanism, calibration, inputs, c.causal);
    for (double& theta : calibration.theta) theta *= 1.02;
    const auto larger = reports(mechanism, calibration, inputs, c.causal);
    for (std::size_t h = 0; h < chosen.size(); ++h) {
      EXPECT_GE(chosen[h].filtered(), 0.8);
      EXPECT_LT(larger[h].filtered(), 0.805);
    }
  }
}

TEST(Calibration, ErrorIsReached) {
  for (const Case& c : cases)
    for (const NibbleSplit split : {NibbleSplit::round, NibbleSplit::truncate})
      for (const double target : {0.0, 1e-4, 0.01, 0.1, 0.5}) {
        Inputs inputs(c);
        const Latte mechanism{.error = target, .split = split};
        const auto chosen = expect_consistent(mechanism, c, inputs);
        for (const LatteReport& report : chosen) EXPECT_LE(report.error(), target) << c.name();
        // A clearly smaller theta misses the target somewhere below.
        if (target == 0) continue;
        Calibration calibration = lowatt::calibrate(mechanism, inputs.q.view(), inputs.k.view(),
                                                    inputs.v.view(), {.causal = c.causal});
        for (Index h = 0; h < calibration.theta.size(); ++h) {
          bool missed = false;
          for (double factor = 0.999; factor > 0.9; factor -= 0.002)
            missed = missed || plain_report(mechanism, factor * calibration.theta[h], calibration,
                                            inputs, h, c.causal)
                                       .error() > target;
          EXPECT_TRUE(missed) << c.name() << " head " << h << " target " << target;
        }
      }
}

TEST(Calibration, GivenThetasAreReported) {
  for (const Case& c : cases)
    for (const double theta : {0.0, 0.37, 3.0, 1e300}) expect_consistent({.theta = theta}, c);
}

TEST(Calibration, ReportsAdd) {
  const Case& c = cases[0];
  Inputs inputs(c);
  const Latte mechanism{.theta = 1.0};
  const Calibration calibration =
      lowatt::calibrate(mechanism, inputs.q.view(), inputs.k.view(), inputs.v.view());
  const auto heads = reports(mechanism, calibration, inputs, false);
  LatteReport sum;
  for (const LatteReport& head : heads) sum += head;
  double filtered = 0, mass = 0, lost = 0;
  for (const LatteReport& head : heads) {
    filtered += head.filtered() / 4;
    mass += head.mass_dropped() / 4;
    lost += head.best_keys_lost() / 4;
  }
  EXPECT_NEAR(sum.filtered(), filtered, 1e-12);
  EXPECT_NEAR(sum.mass_dropped(), mass, 1e-12);
  EXPECT_NEAR(sum.best_keys_lost(), lost, 1e-12);
  EXPECT_EQ(sum.visible, 4 * 70 * 130);
}

TEST(Calibration, TiesSurvive) {
  const Case c{{1, 2, 1, 18, 130, 16, 8}, true};
  Inputs inputs(c);
  inputs.k.for_each([](float& x) { x = 0.5f; });
  for (const LatteReport& report : expect_consistent({.filtered = 0.9}, c, inputs)) {
    EXPECT_EQ(report.kept, report.visible);
    EXPECT_EQ(report.filtered(), 0);
  }
  for (const LatteReport& report : expect_consistent({.error = 0.1}, c, inputs))
    EXPECT_EQ(report.kept, report.visible);
}

TEST(Calibration, OneKey) {
  for (const Latte& mechanism : {Latte{.filtered = 0.5}, Latte{.error = 0.5}})
    for (const LatteReport& report : expect_consistent(mechanism, {{1, 2, 2, 5, 1, 8, 8}})) {
      EXPECT_EQ(report.kept, 5);
      EXPECT_EQ(report.error(), 0);
      EXPECT_EQ(report.best_keys_lost(), 0);
    }
}

TEST(Calibration, AllZeroTensors) {
  const Case c{{1, 2, 1, 3, 5, 8, 8}};
  for (const Latte& mechanism : {Latte{.filtered = 0.5}, Latte{.error = 0.01}})
    test::for_zeroed_tensors(c, [&](Inputs& inputs, int zeroed) {
      for (const LatteReport& report : expect_consistent(mechanism, c, inputs)) {
        if ((zeroed & 3) != 0) {
          EXPECT_EQ(report.kept, report.visible);
        }
        if (mechanism.error.given) {
          EXPECT_LE(report.error(), 0.01);
        }
        EXPECT_TRUE(std::isfinite(report.error_to_softmax()));
      }
    });
}

// Ill-scaled rows: scores that overflow, that vanish, and both in one head.
TEST(Calibration, ExtremeScales) {
  const Case c{{1, 1, 1, 6, 66, 16, 16}};
  for (const double scale : {5e-324, 1e-300, 1e-30, 1e30, 1e300, 1.7e308})
    for (const float size : {1e-20f, 1.0f, 1e30f}) {
      Inputs inputs(c);
      inputs.q.for_each([&](float& x) { x *= size; });
      for (Index i = 0; i < 16; ++i) inputs.q.view().row(0, 0, 3)[i] *= 1e-12f;
      for (const Latte& mechanism :
           {Latte{.scale = scale, .filtered = 0.5}, Latte{.scale = scale, .error = 0.01}}) {
        const Calibration calibration =
            lowatt::calibrate(mechanism, inputs.q.view(), inputs.k.view(), inputs.v.view());
        EXPECT_TRUE(calibration.theta[0] >= 0 && calibration.theta[0] < infinity);
        const LatteReport report = reports(mechanism, calibration, inputs, false)[0];
        std::int64_t kept = 0;
        lowatt::attend(mechanism, inputs.q.view(), inputs.k.view(), inputs.v.view(),
                       inputs.out.view(), {.kept = &kept});
        EXPECT_EQ(report.kept, kept) << scale << " " << size;
        EXPECT_FALSE(std::isnan(report.error()));
        EXPECT_FALSE(std::isnan(report.mass_dropped()));
      }
    }
}

// Survivors are those of int8 values; only the distance from softmax is lost.
TEST(Calibration, NonFiniteInputs) {
  const Case c{{1, 1, 1, 9, 70, 16, 16}, true};
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  for (const Latte& mechanism : {Latte{.filtered = 0.7}, Latte{.error = 0.05}}) {
    Inputs inputs(c);
    inputs.q.view().row(0, 0, 2)[3] = nan;
    inputs.q.view().row(0, 0, 5)[1] = std::numeric_limits<float>::infinity();
    inputs.k.view().row(0, 0, 60)[1] = nan;
    inputs.v.view().row(0, 0, 3)[7] = -std::numeric_limits<float>::infinity();
    const Calibration calibration = lowatt::calibrate(mechanism, inputs.q.view(), inputs.k.view(),
                                                      inputs.v.view(), {.causal = true});
    const LatteReport report = reports(mechanism, calibration, inputs, true)[0];
    std::int64_t kept = 0;
    lowatt::attend(mechanism, inputs.q.view(), inputs.k.view(), inputs.v.view(), inputs.out.view(),
                   {.causal = true, .kept = &kept});
    EXPECT_EQ(report.kept, kept);
    EXPECT_TRUE(std::isfinite(report.error()));
    EXPECT_FALSE(std::isfinite(report.error_to_softmax()));
    if (mechanism.error.given) {
      EXPECT_LE(report.error(), 0.05);
    }
  }
}

TEST(Calibration, Refusals) {
  const Case c{{1, 4, 2, 5, 10, 8, 8}};
  Inputs inputs(c);
  const auto refusal = [&](const Latte& mechanism) {
    Calibration calibration;
    const Status status = lowatt::try_calibrate(calibration, mechanism, inputs.q.view(),
                                                inputs.k.view(), inputs.v.view());
    EXPECT_EQ(status.code, lowatt::StatusCode::invalid_argument);
    return std::string(status.message);
  };
  EXPECT_EQ(refusal({.theta = 1.0, .filtered = 0.5}),
            "theta and filtered are both given; LATTE takes one of theta, filtered and error");
  EXPECT_EQ(refusal({.theta = 1.0, .error = 0.5}),
            "theta and error are both given; LATTE takes one of theta, filtered and error");
  EXPECT_EQ(refusal({.filtered = 0.5, .error = 0.5}),
            "filtered and error are both given; LATTE takes one of theta, filtered and error");
  for (const double bad : {-0.5, 1.0, infinity, std::nan("")})
    EXPECT_EQ(refusal({.filtered = bad}).find("filtered is "), 0U) << bad;
  EXPECT_EQ(refusal({.filtered = 1.0}),
            "filtered is 1; it must be from 0 to less than 1, since the best key of a row always "
            "survives");
  EXPECT_EQ(refusal({.error = -1.0}), "error is -1; it must be finite and not negative");
  EXPECT_EQ(refusal({.error = infinity}), "error is inf; it must be finite and not negative");

  // A target is for calibration: a cache needs what it chose.
  const Calibration calibration =
      lowatt::calibrate(Latte{}, inputs.q.view(), inputs.k.view(), inputs.v.view());
  lowatt::KvCache<Latte> cache;
  const Status status =
      lowatt::KvCache<Latte>::try_create(cache, {1, 2, 8, 8, 10}, calibration, {.filtered = 0.5});
  EXPECT_STREQ(status.message,
               "theta is not given; LATTE needs one, or one per query head, or a target that "
               "calibration chooses it for");

  EXPECT_STREQ(lowatt::try_report({.theta = 1.0}, calibration, inputs.q.view(), inputs.k.view(),
                                  inputs.v.view(), nullptr)
                   .message,
               "reports is null; it needs an entry per query head");
  LatteReport report[4];
  EXPECT_STREQ(lowatt::try_report({.filtered = 0.5}, calibration, inputs.q.view(), inputs.k.view(),
                                  inputs.v.view(), report)
                   .message,
               status.message);
}

// A meter goes from one shape to another, even where keys and values take as many numbers.
TEST(Calibration, MeterOfAnotherShape) {
  const Latte mechanism{.theta = 1.0};
  lowatt::Array<double> candidates(1, 1.0);
  lowatt::LatteMeter used;
  for (const Index keys : {6, 600, 60}) {
    const Case c{{1, 1, 1, 4, keys, 3600 / keys, 1200 / keys}};
    const Inputs inputs(c);
    const auto q = inputs.q.view(), k = inputs.k.view(), v = inputs.v.view();
    const Calibration calibration = lowatt::calibrate(mechanism, q, k, v);
    lowatt::LatteTradeOff trade_off(1);
    const Status status = lowatt::try_measure(trade_off, used, mechanism, q, k, v, 0, {},
                                              calibration, candidates, lowatt::LatteFigures::all);
    ASSERT_TRUE(status.ok()) << status.message;
    const LatteReport expected = reports(mechanism, calibration, inputs, false)[0];
    EXPECT_EQ(trade_off.report(0).kept, expected.kept);
    EXPECT_EQ(trade_off.report(0).mass_lost, expected.mass_lost);
    EXPECT_EQ(trade_off.report(0).filtered_less_unfiltered, expected.filtered_less_unfiltered);
  }
}

}  // namespace
