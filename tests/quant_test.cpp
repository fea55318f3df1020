// The quant layer: rounding, scales, quantised tensors, nibbles, bit planes, calibration
// properties.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "lowatt/quant/bit_planes.hpp"
#include "lowatt/quant/calibration.hpp"
#include "lowatt/quant/nibble.hpp"
#include "lowatt/quant/quantized_tensor.hpp"
#include "lowatt/quant/scale.hpp"
#include "support/tensor.hpp"

namespace {

using namespace lowatt;
using test::random_tensor;
using test::Tensor;

constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float largest = std::numeric_limits<float>::max();
constexpr float denormal = std::numeric_limits<float>::denorm_min();

TEST(Scale, RoundsHalvesToEven) {
  EXPECT_EQ(quantize(0.5f, 1, 127), 0);
  EXPECT_EQ(quantize(1.5f, 1, 127), 2);
  EXPECT_EQ(quantize(2.5f, 1, 127), 2);
  EXPECT_EQ(quantize(-0.5f, 1, 127), 0);
  EXPECT_EQ(quantize(-1.5f, 1, 127), -2);
  EXPECT_EQ(quantize(-2.5f, 1, 127), -2);
  EXPECT_EQ(quantize(std::nextafter(0.5f, 1.0f), 1, 127), 1);
  EXPECT_EQ(quantize(126.5f, 1, 127), 126);
  EXPECT_EQ(quantize(-126.5f, 1, 127), -126);
  EXPECT_EQ(round_half_even(0.5), 0);
  EXPECT_EQ(round_half_even(1.5), 2);
  EXPECT_EQ(round_half_even(-2.5), -2);
  EXPECT_EQ(round_half_even(4503599627370497.0), 4503599627370497);
}

TEST(Scale, AgreesWithNearbyint) {
  for (const int limit : {int8_limit, int16_limit})
    for (const float inverse : {1.0f, 0.3f, 12.75f, 1e30f})
      for (int i = -3 * limit; i <= 3 * limit; ++i) {
        const float x = static_cast<float>(i) * 0.5f / inverse;
        const float bound = static_cast<float>(limit);
        const float product = x * inverse;
        const float expected = std::fmin(std::fmax(std::nearbyintf(product), -bound), bound);
        ASSERT_EQ(static_cast<float>(quantize(x, inverse, limit)), expected) << i;
      }
}

TEST(Scale, SaturatesAndNaNIsZero) {
  for (const int limit : {int8_limit, int16_limit}) {
    EXPECT_EQ(quantize(nan, 1, limit), 0);
    EXPECT_EQ(quantize(infinity, 1, limit), limit);
    EXPECT_EQ(quantize(-infinity, 1, limit), -limit);
    EXPECT_EQ(quantize(largest, largest, limit), limit);
    EXPECT_EQ(quantize(-largest, 1, limit), -limit);
    EXPECT_EQ(quantize(denormal, 1, limit), 0);
    // With an inverse of 0 everything is 0, infinity too.
    for (const float x : {0.0f, 1.0f, -largest, infinity, -infinity, nan})
      EXPECT_EQ(quantize(x, 0, limit), 0);
  }
}

TEST(Scale, SmallTensorsAreZero) {
  const float smallest = 0x1p-110f;
  for (const int limit : {int8_limit, int16_limit}) {
    for (const float absmax : {0.0f, denormal, std::nextafter(smallest, 0.0f)}) {
      const SymmetricScale s = symmetric_scale(absmax, limit);
      EXPECT_EQ(s.scale, 0);
      EXPECT_EQ(s.inverse, 0);
    }
    for (const float absmax : {smallest, 1.0f, 3.3f, largest}) {
      const SymmetricScale s = symmetric_scale(absmax, limit);
      EXPECT_TRUE(std::isnormal(s.scale));
      EXPECT_TRUE(std::isnormal(s.inverse));
      EXPECT_EQ(s.scale, absmax / static_cast<float>(limit));
      EXPECT_EQ(s.inverse, static_cast<float>(limit) / absmax);
      EXPECT_EQ(quantize(absmax, s.inverse, limit), limit);
      EXPECT_EQ(quantize(-absmax, s.inverse, limit), -limit);
    }
  }
}

TEST(Scale, AbsmaxIgnoresNonFinite) {
  std::vector<float> x(100, 0.25f);
  const auto absmax = [&](float so_far = 0) {
    return finite_absmax(x.data(), static_cast<Index>(x.size()), so_far);
  };
  EXPECT_EQ(absmax(), 0.25f);
  EXPECT_EQ(absmax(3), 3);
  x[50] = nan, x[51] = -nan, x[52] = infinity, x[53] = -infinity;
  EXPECT_EQ(absmax(), 0.25f);
  x[99] = -2;
  EXPECT_EQ(absmax(), 2);
  x[0] = -largest;
  EXPECT_EQ(absmax(), largest);
  EXPECT_EQ(finite_absmax(x.data(), 0), 0);
  const float tiny[] = {-denormal, -0.0f};
  EXPECT_EQ(finite_absmax(tiny, 2), denormal);
  EXPECT_EQ(finite_absmax(tiny + 1, 1), 0);
}

TEST(Scale, IsFinite) {
  for (const float x : {0.0f, -0.0f, denormal, -largest}) EXPECT_TRUE(is_finite(x));
  for (const float x : {nan, -nan, infinity, -infinity}) EXPECT_FALSE(is_finite(x));
}

template <class T>
class QuantizedTensorOf : public testing::Test {};
using Widths = testing::Types<std::int8_t, std::int16_t>;
TYPED_TEST_SUITE(QuantizedTensorOf, Widths);

TYPED_TEST(QuantizedTensorOf, ScalePerTensorHeadAndToken) {
  constexpr int limit = QuantizedTensor<TypeParam>::limit;
  const Tensor<> x = random_tensor(2, 3, 5, 7, 1);
  QuantizedTensor<TypeParam> quantized;
  for (const ScalePer per : {ScalePer::tensor, ScalePer::head, ScalePer::token}) {
    ASSERT_TRUE(quantized.try_assign(x.view(), per).ok());
    for (Index b = 0; b < 2; ++b)
      for (Index h = 0; h < 3; ++h)
        for (Index t = 0; t < 5; ++t) {
          float absmax = head_absmax(x.view(), b, h);
          if (per == ScalePer::tensor) absmax = finite_absmax(x.data.data(), 2 * 3 * 5 * 7);
          if (per == ScalePer::token) absmax = finite_absmax(x.view().row(b, h, t), 7);
          const SymmetricScale s = symmetric_scale(absmax, limit);
          EXPECT_EQ(quantized.scale(b, h, t), s.scale);
          for (Index c = 0; c < 7; ++c)
            EXPECT_EQ(quantized.row(b, h, t)[c], quantize(x.at(b, h, t, c), s.inverse, limit));
        }
  }
}

TYPED_TEST(QuantizedTensorOf, DequantizesWithinHalfAStep) {
  const Tensor<> x = random_tensor(2, 3, 5, 70, 1, 10);
  for (const ScalePer per : {ScalePer::tensor, ScalePer::head, ScalePer::token}) {
    QuantizedTensor<TypeParam> quantized;
    ASSERT_TRUE(quantized.try_assign(x.view(), per).ok());
    Tensor<> back(2, 3, 5, 70);
    ASSERT_TRUE(try_dequantize(quantized.view(), back.view()).ok());
    for (Index b = 0; b < 2; ++b)
      for (Index h = 0; h < 3; ++h)
        for (Index t = 0; t < 5; ++t)
          for (Index c = 0; c < 70; ++c) {
            // Half a step, and a few roundings of numbers as large as the largest.
            const float step = quantized.scale(b, h, t);
            const float roundings = 3 * 0x1p-24f * step * QuantizedTensor<TypeParam>::limit;
            EXPECT_LE(std::abs(back.at(b, h, t, c) - x.at(b, h, t, c)), 0.5f * step + roundings);
          }
  }
}

TYPED_TEST(QuantizedTensorOf, GivenAbsmaxSaturates) {
  constexpr int limit = QuantizedTensor<TypeParam>::limit;
  Tensor<> x(1, 2, 1, 3);
  x.data = {-4, 1, nan, 0.5f, infinity, -0.25f};
  const float absmax[] = {2, 0.5f};
  QuantizedTensor<TypeParam> quantized;
  ASSERT_TRUE(quantized.try_assign(x.view(), ScalePer::head, absmax, 2).ok());
  const int half = limit == int8_limit ? 64 : 16384;  // 63.5 and 16383.5 are ties
  const int expected[] = {-limit, half, 0, limit, limit, -half};
  for (Index h = 0; h < 2; ++h)
    for (Index c = 0; c < 3; ++c) EXPECT_EQ(quantized.row(0, h, 0)[c], expected[h * 3 + c]);
}

TYPED_TEST(QuantizedTensorOf, RefusesBadInput) {
  const Tensor<> x = random_tensor(1, 2, 3, 4, 1);
  QuantizedTensor<TypeParam> quantized;
  for (const float bad : {nan, infinity, -1.0f}) {
    const float absmax[] = {1, bad};
    const Status status = quantized.try_assign(x.view(), ScalePer::head, absmax, 2);
    EXPECT_EQ(status.code, StatusCode::invalid_argument);
    EXPECT_NE(std::string(status.message).find("finite"), std::string::npos);
  }
  const float absmax[] = {1, 1, 1, 1, 1, 1};
  EXPECT_EQ(quantized.try_assign(x.view(), ScalePer::tensor, absmax, 2).code,
            StatusCode::invalid_argument);
  EXPECT_EQ(quantized.try_assign(x.view(), ScalePer::head, absmax, 6).code,
            StatusCode::invalid_argument);
  EXPECT_EQ(quantized.try_assign(x.view(), ScalePer::head, nullptr, 0).code,
            StatusCode::invalid_argument);
  EXPECT_TRUE(quantized.try_assign(x.view(), ScalePer::token, absmax, 6).ok());

  View<const float> view = x.view();
  view.tokens = 0;
  EXPECT_EQ(quantized.try_assign(view, ScalePer::head).code, StatusCode::invalid_shape);
  view.tokens = std::numeric_limits<Index>::max();
  EXPECT_EQ(quantized.try_assign(view, ScalePer::head).code, StatusCode::invalid_shape);
  EXPECT_EQ(quantized.try_assign({}, ScalePer::head).code, StatusCode::invalid_shape);

  ASSERT_TRUE(quantized.try_assign(x.view(), ScalePer::head).ok());
  Tensor<> back(1, 2, 3, 5);
  EXPECT_EQ(try_dequantize(quantized.view(), back.view()).code, StatusCode::invalid_shape);
}

TYPED_TEST(QuantizedTensorOf, AllZeroAndTiny) {
  Tensor<> x(1, 1, 1, 3);
  x.data = {0x1p-111f, -0x1p-111f, infinity};
  QuantizedTensor<TypeParam> quantized;
  ASSERT_TRUE(quantized.try_assign(x.view(), ScalePer::head).ok());
  EXPECT_EQ(quantized.scale(0, 0), 0);
  for (Index c = 0; c < 3; ++c) EXPECT_EQ(quantized.row(0, 0, 0)[c], 0);
}

TEST(Nibble, AllBytes) {
  for (int x = -128; x <= 127; ++x) {
    const int top = high_nibble(x, NibbleSplit::truncate);
    EXPECT_EQ(16 * top + low_rest(x, NibbleSplit::truncate), x);
    EXPECT_EQ(top, static_cast<int>(std::floor(x / 16.0)));
    EXPECT_GE(low_rest(x, NibbleSplit::truncate), 0);
    EXPECT_LE(low_rest(x, NibbleSplit::truncate), 15);

    const int nearest = high_nibble(x, NibbleSplit::round);
    EXPECT_EQ(16 * nearest + low_rest(x, NibbleSplit::round), x);
    EXPECT_EQ(nearest, std::min(7, static_cast<int>(std::floor((x + 8) / 16.0))));
    EXPECT_GE(nearest, -8);
    EXPECT_GE(low_rest(x, NibbleSplit::round), -8);
    EXPECT_LE(low_rest(x, NibbleSplit::round), x >= 120 ? 15 : 7);
  }
}

TEST(BitPlanes, ThermometerThresholds) {
  // Evenly spread and symmetric, 0 in the middle.
  const BitThresholds three = bit_thresholds(BitEncoding::thermometer, 3, 2.0f);
  EXPECT_EQ(three.planes, 3);
  EXPECT_EQ(three.value[0], -1);
  EXPECT_EQ(three.value[1], 0);
  EXPECT_EQ(three.value[2], 1);
  for (int planes = 1; planes <= max_planes; ++planes) {
    const BitThresholds thresholds = bit_thresholds(BitEncoding::thermometer, planes, 1.1f);
    for (int t = 0; t < planes; ++t) {
      const float numerator = static_cast<float>(2 * (t + 1) - (planes + 1));
      const volatile float quotient = numerator / static_cast<float>(planes + 1);
      const volatile float threshold = 1.1f * quotient;
      EXPECT_EQ(thresholds.value[t], threshold);
      EXPECT_EQ(thresholds.value[t], -thresholds.value[planes - 1 - t]);
      if (t > 0) {
        EXPECT_GT(thresholds.value[t], thresholds.value[t - 1]);
      }
    }
  }
}

TEST(BitPlanes, EncodingResolves) {
  EXPECT_EQ(resolve(BitEncoding::automatic, 1), BitEncoding::sign);
  EXPECT_EQ(resolve(BitEncoding::automatic, 2), BitEncoding::thermometer);
  EXPECT_EQ(resolve(BitEncoding::thermometer, 1), BitEncoding::thermometer);
  EXPECT_EQ(resolve(BitEncoding::sign, 1), BitEncoding::sign);
  EXPECT_EQ(bit_thresholds(BitEncoding::automatic, 1, nan).value[0], 0);
}

TEST(BitPlanes, SignOfSpecialValues) {
  const float x[] = {0.0f, -0.0f, nan, -nan, infinity, -infinity, denormal, -denormal, 1};
  std::uint8_t packed[2] = {0xff, 0xff};
  pack_bit_planes(x, 9, bit_thresholds(BitEncoding::sign, 1, 0), packed);
  EXPECT_EQ(packed[0], 0b01010011);
  EXPECT_EQ(packed[1], 1);  // padding is 0
}

TEST(BitPlanes, PlaneMajorLayoutAndDistance) {
  for (const Index dim : {1, 3, 7, 8, 9, 31, 32, 64, 65, 300})
    for (const int planes : {1, 2, 3, 8, 64}) {
      const Tensor<> x = random_tensor(1, 1, 2, dim, static_cast<unsigned>(dim));
      const BitThresholds thresholds = bit_thresholds(BitEncoding::thermometer, planes, 1.5f);
      const Index bytes = planes * plane_bytes(dim);
      std::vector<std::uint8_t> packed[2];
      for (Index row = 0; row < 2; ++row) {
        packed[row].assign(static_cast<std::size_t>(bytes + 1), 0xa5);
        pack_bit_planes(x.view().row(0, 0, row), dim, thresholds, packed[row].data());
        EXPECT_EQ(packed[row].back(), 0xa5);
        for (int t = 0; t < planes; ++t)
          for (Index k = 0; k < 8 * plane_bytes(dim); ++k) {
            const int byte = packed[row][static_cast<std::size_t>(t * plane_bytes(dim) + k / 8)];
            const bool expected =
                k < dim && x.at(0, 0, row, k) >= thermometer_threshold(t, planes, 1.5f);
            ASSERT_EQ((byte >> (k % 8) & 1) != 0, expected) << t << " " << k;
          }
      }
      // The distance of thermometer codes is the L1 distance of levels.
      Index levels = 0;
      for (Index k = 0; k < dim; ++k) {
        const auto level = [&](Index row) {
          int reached = 0;
          for (int t = 0; t < planes; ++t)
            reached += x.at(0, 0, row, k) >= thresholds.value[t] ? 1 : 0;
          return reached;
        };
        levels += std::abs(level(0) - level(1));
      }
      EXPECT_EQ(hamming_distance(packed[0].data(), packed[1].data(), bytes), levels);
    }
}

TEST(Calibration, AbsmaxPerHead) {
  Tensor<> x = random_tensor(2, 3, 5, 7, 1);
  x.at(1, 2, 4, 6) = -100;
  x.at(0, 1, 0, 0) = infinity;
  const Array<float> absmax = absmax_per_head(x.view());
  ASSERT_EQ(absmax.size(), 6);
  for (Index i = 0; i < 6; ++i) {
    float expected = 0;
    for (Index t = 0; t < 5; ++t)
      for (Index c = 0; c < 7; ++c) {
        const float value = std::abs(x.at(i / 3, i % 3, t, c));
        if (value < infinity) expected = std::max(expected, value);
      }
    EXPECT_EQ(absmax[i], expected);
  }
  EXPECT_EQ(absmax[5], 100);
}

TEST(Calibration, MeansIgnoreNonFinite) {
  Tensor<> x(1, 1, 4, 3);
  x.data = {1, nan, nan, 2, infinity, -infinity, 4, 5, nan, nan, 6, infinity};
  float mean[3];
  channel_means(x.view(), 0, 0, mean);
  EXPECT_EQ(mean[0], static_cast<float>(7.0 / 3.0));
  EXPECT_EQ(mean[1], 5.5f);
  EXPECT_EQ(mean[2], 0);  // of nothing
  EXPECT_EQ(mean_abs(x.view(), 0, 0), 18.0 / 5.0);
  const float two[] = {2, 2, 2};
  EXPECT_EQ(mean_abs(x.view(), 0, 0, two), (1.0 + 0 + 2 + 3 + 4) / 5.0);

  Tensor<> nothing(1, 1, 2, 2);
  for (float& value : nothing.data) value = nan;
  EXPECT_EQ(mean_abs(nothing.view(), 0, 0), 0);
}

TEST(Calibration, MeansAreSummedInDoubleInStorageOrder) {
  for (const Index dim : {1, 5, 63, 64, 65, 300}) {
    Tensor<> x = random_tensor(2, 2, 37, dim, static_cast<unsigned>(dim), 1e3f);
    for (std::size_t i = 0; i < x.data.size(); i += 3) x.data[i] *= 1e-6f;
    const Array<float> means = channel_means(x.view());
    const Array<float> clips = default_clips(x.view(), means.data());
    const Array<float> plain_clips = default_clips(x.view());
    ASSERT_EQ(means.size(), 4 * dim);
    for (Index i = 0; i < 4; ++i) {
      double centred_sum = 0, sum = 0;
      for (Index t = 0; t < 37; ++t)
        for (Index c = 0; c < dim; ++c) {
          const float value = x.at(i / 2, i % 2, t, c);
          sum += static_cast<double>(std::abs(value));
          centred_sum += static_cast<double>(std::abs(value - means[i * dim + c]));
        }
      const double count = static_cast<double>(37 * dim);
      EXPECT_EQ(mean_abs(x.view(), i / 2, i % 2), sum / count);
      EXPECT_EQ(plain_clips[i], static_cast<float>(sum / count));
      EXPECT_EQ(clips[i], static_cast<float>(centred_sum / count));
      for (Index c = 0; c < dim; ++c) {
        double channel = 0;
        for (Index t = 0; t < 37; ++t) channel += static_cast<double>(x.at(i / 2, i % 2, t, c));
        EXPECT_EQ(means[i * dim + c], static_cast<float>(channel / 37));
      }
    }
  }
}

TEST(Calibration, LargestValuesDoNotOverflowMeans) {
  Tensor<> x(1, 1, 3, 1);
  x.data = {largest, largest, -largest};
  float mean = 0;
  channel_means(x.view(), 0, 0, &mean);
  EXPECT_EQ(mean, largest / 3);
  // Centring the last one leaves float32's range: it counts as not finite.
  EXPECT_NEAR(mean_abs(x.view(), 0, 0, &mean) / static_cast<double>(largest), 2.0 / 3.0, 1e-6);
}

}  // namespace
