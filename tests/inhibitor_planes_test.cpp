// The Inhibitor over thermometer codes: the Hamming distance of codes is the L1 distance of levels,
// in the kernels at every number of planes and on both sides of every width of distances.
#include "support/inhibitor_check.hpp"

namespace {

using lowatt::Index;
using lowatt::Inhibitor;
using test::Case;
using test::Inputs;
using test::meeting_scale;

// Codes against levels, without attention around them.
TEST(InhibitorPlanes, HammingDistanceOfCodesIsL1DistanceOfLevels) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const float special[] = {0.0f, -0.0f, std::numeric_limits<float>::quiet_NaN(),
                           std::numeric_limits<float>::infinity(),
                           -std::numeric_limits<float>::infinity()};
  for (int planes = 1; planes <= lowatt::max_planes; ++planes)
    for (const float clip : {0.0f, 1e-38f, 0.7f, 2.0f, 1e30f})
      for (const Index dim : {1, 8, 31, 64}) {
        const auto thresholds =
            lowatt::bit_thresholds(lowatt::BitEncoding::thermometer, planes, clip);
        std::vector<float> a(static_cast<std::size_t>(dim)), b(a);
        for (std::size_t c = 0; c < a.size(); ++c) {
          a[c] = normal(random) * std::max(clip, 1e-3f);
          b[c] = random() % 4 == 0 ? special[random() % std::size(special)] : normal(random);
        }
        const Index row_bytes = planes * lowatt::plane_bytes(dim);
        std::vector<std::uint8_t> code_a(static_cast<std::size_t>(row_bytes)), code_b(code_a);
        lowatt::pack_bit_planes(a.data(), dim, thresholds, code_a.data());
        lowatt::pack_bit_planes(b.data(), dim, thresholds, code_b.data());
        Index levels_apart = 0;
        for (std::size_t c = 0; c < a.size(); ++c)
          levels_apart += std::abs(lowatt::thermometer_level(a[c], thresholds) -
                                   lowatt::thermometer_level(b[c], thresholds));
        ASSERT_EQ(lowatt::hamming_distance(code_a.data(), code_b.data(), row_bytes), levels_apart)
            << planes << " planes, clip " << clip << ", dim " << dim;
      }
}

TEST(InhibitorPlanes, EveryNumberOfPlanes) {
  for (int planes = 1; planes <= lowatt::max_planes; ++planes)
    test::expect_exact_inhibitor(
        {.scale = meeting_scale(40), .alpha = 0.1, .planes = planes},
        {{1, 2, 1, 6, 130, planes % 3 == 0 ? 75 : 40, 24}, planes % 2 == 0});
}

// Distances need 8 bits up to 255, then 16, then more.
TEST(InhibitorPlanes, WidthsOfDistances) {
  for (const int planes : {1, 3, 5, 8, 63, 64})
    for (const Index dim : {51, 52, 84, 85, 86, 255, 256, 257, 1023, 1024, 1025, 1100}) {
      const Case c{{1, 1, 1, 5, 70, dim, 24}};
      Inputs inputs(c);
      for (const bool largest : {false, true}) {
        if (largest) test::set_largest_distances(inputs);
        for (const double scale : {1e-4, 0.1 / static_cast<double>(dim), 0.01, 1.0})
          for (const bool center : {false, true})
            test::expect_exact_inhibitor({.scale = scale, .center = center, .planes = planes}, c,
                                         inputs);
      }
    }
}

TEST(InhibitorPlanes, WidestPairsOfLevels) {
  for (const Index dim : {9362, 9363}) {
    const Case c{{1, 1, 1, 5, 70, dim, 24}};
    Inputs inputs(c);
    test::set_largest_distances(inputs);
    test::expect_exact_inhibitor({.scale = 1e-5, .planes = 7}, c, inputs);
  }
}

TEST(InhibitorPlanes, Clips) {
  for (const double clip : {0.0, 1e-40, 1e-3, 0.5, 3.0, 1e38})
    for (const int planes : {1, 4})
      test::expect_exact_inhibitor({.scale = meeting_scale(64), .planes = planes, .clip = clip},
                                   {{2, 4, 2, 9, 100, 64, 64}, true});
}

// A clip comes from the parameters where they give it, else from the Calibration.
TEST(InhibitorPlanes, CalibrationOrParameters) {
  const Case c{{1, 2, 1, 7, 66, 24, 8}};
  Inputs inputs(c);
  const lowatt::View<const float> q = inputs.q.view(), k = inputs.k.view(), v = inputs.v.view();
  lowatt::Calibration calibration;
  calibration.value_absmax = lowatt::absmax_per_head(v);
  calibration.clip = lowatt::Array<float>(1, 0.5f);
  const auto expect = [&](const Inhibitor& mechanism, const Inhibitor& like, const char* what) {
    lowatt::attend(like, q, k, v, inputs.expected.view());
    lowatt::KvCache<Inhibitor> cache({1, 1, 24, 8, 66}, calibration, mechanism);
    cache.append(k, v);
    lowatt::attend(q, cache, inputs.out.view());
    test::expect_identical(inputs.out.view(), inputs.expected.view(), what);
    ASSERT_TRUE(
        lowatt::inhibitor_reference(mechanism, q, k, v, inputs.out.view(), false, &calibration)
            .ok());
    test::expect_identical(inputs.out.view(), inputs.expected.view(), what);
  };
  const double scale = meeting_scale(24);
  const Inhibitor narrow{.scale = scale, .planes = 3, .clip = 0.5};
  const Inhibitor wide{.scale = scale, .planes = 3, .clip = 2.0};
  expect({.scale = scale, .planes = 3}, narrow, "calibration");
  expect(wide, wide, "parameters first");
}

// With enough levels the codes' distances are those of the numbers: the two encodings agree.
TEST(InhibitorPlanes, ManyPlanesComeCloseToBytes) {
  const Case c{{1, 2, 1, 20, 200, 64, 64}};
  Inputs inputs(c);
  const auto attend = [&](const Inhibitor& mechanism, lowatt::View<float> out) {
    lowatt::attend(mechanism, std::as_const(inputs.q).view(), std::as_const(inputs.k).view(),
                   std::as_const(inputs.v).view(), out);
  };
  attend({.scale = meeting_scale(64)}, inputs.expected.view());
  double error[2] = {};
  for (const int i : {0, 1}) {
    attend({.scale = meeting_scale(64), .planes = i == 0 ? 4 : 64}, inputs.out.view());
    error[i] =
        test::relative_l2(std::as_const(inputs.out).view(), std::as_const(inputs.expected).view());
  }
  EXPECT_LT(error[1], 0.05);
  EXPECT_LT(error[1], error[0]);
}

void expect_refused(const Inhibitor& mechanism, const char* sentence) {
  const Case c{{1, 1, 1, 2, 3, 8, 8}};
  Inputs inputs(c);
  const lowatt::Status status =
      lowatt::try_attend(mechanism, std::as_const(inputs.q).view(), std::as_const(inputs.k).view(),
                         std::as_const(inputs.v).view(), inputs.out.view());
  EXPECT_STREQ(status.message, sentence);
}

TEST(InhibitorPlanes, Refusals) {
  using lowatt::Precision;
  expect_refused({.planes = -1}, "planes is -1; it must be from 0 to 64");
  expect_refused({.planes = 65}, "planes is 65; it must be from 0 to 64");
  expect_refused({.precision = Precision::int4, .planes = 2},
                 "precision is int4; with planes = 2 it must be int8, that of values");
  expect_refused({.clip = 1.0}, "clip is 1 but planes is 0; only thermometer codes have a clip");
  expect_refused({.planes = 2, .clip = -1.0},
                 "clip is -1; it must be not negative and finite in float32");
}

}  // namespace
