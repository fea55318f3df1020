// Numbers of 16 bits, all of them.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <lowatt/core/half.hpp>
#include <lowatt/lowatt.hpp>
#include <random>

namespace {

using lowatt::bf16_from_float;
using lowatt::f16_from_float;
using lowatt::float_from_bf16;
using lowatt::float_from_f16;

// One kind of number: conversions, and the bits of infinity.
struct Bf16 {
  static std::uint16_t from(float x) { return bf16_from_float(x); }
  static float to(std::uint16_t x) { return float_from_bf16(x); }
  static constexpr int infinity = 0x7f80;
};
struct F16 {
  static std::uint16_t from(float x) { return f16_from_float(x); }
  static float to(std::uint16_t x) { return float_from_f16(x); }
  static constexpr int infinity = 0x7c00;
};

template <class T>
class Half : public testing::Test {};
using Kinds = testing::Types<Bf16, F16>;
TYPED_TEST_SUITE(Half, Kinds);

// To float and back changes nothing; signalling NaN becomes quiet.
TYPED_TEST(Half, AllPatternsRoundTrip) {
  for (int bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    const float x = TypeParam::to(half);
    const int magnitude = bits & 0x7fff;
    ASSERT_EQ(std::isnan(x), magnitude > TypeParam::infinity) << bits;
    ASSERT_EQ(std::isinf(x), magnitude == TypeParam::infinity) << bits;
    ASSERT_EQ(std::signbit(x), bits >= 0x8000) << bits;
    if (std::isnan(x))
      ASSERT_GT(TypeParam::from(x) & 0x7fff, TypeParam::infinity) << bits;
    else
      ASSERT_EQ(TypeParam::from(x), half) << bits;
  }
}

// Between each number and the next: below the middle down, above it up, in the middle to even. One
// step past the largest counts as infinity.
TYPED_TEST(Half, AllTiesAndTheirNeighbours) {
  for (int bits = 0; bits < TypeParam::infinity; ++bits)
    for (const int sign : {0, 0x8000}) {
      const auto low = static_cast<std::uint16_t>(bits | sign);
      const auto high = static_cast<std::uint16_t>((bits + 1) | sign);
      const double below = static_cast<double>(TypeParam::to(low));
      double above = static_cast<double>(TypeParam::to(high));
      if (std::isinf(above))
        above = 2 * below - static_cast<double>(TypeParam::to(static_cast<std::uint16_t>(low - 1)));
      const auto middle = static_cast<float>((below + above) / 2);
      ASSERT_EQ(static_cast<double>(middle), (below + above) / 2);
      ASSERT_EQ(TypeParam::from(middle), bits % 2 == 0 ? low : high) << bits;
      ASSERT_EQ(TypeParam::from(std::nextafter(middle, 0.0f)), low) << bits;
      const float away = std::copysign(std::numeric_limits<float>::infinity(), middle);
      ASSERT_EQ(TypeParam::from(std::nextafter(middle, away)), high) << bits;
    }
}

TEST(HalfEdges, LargeAndSmall) {
  constexpr float largest = std::numeric_limits<float>::max();
  constexpr float smallest = std::numeric_limits<float>::denorm_min();
  EXPECT_EQ(f16_from_float(65519.99f), 0x7bff);
  EXPECT_EQ(f16_from_float(65520.0f), 0x7c00);
  EXPECT_EQ(f16_from_float(-largest), 0xfc00);
  EXPECT_EQ(f16_from_float(0x1p-25f), 0);
  EXPECT_EQ(f16_from_float(0x1.8p-25f), 1);
  EXPECT_EQ(f16_from_float(-smallest), 0x8000);
  EXPECT_EQ(bf16_from_float(largest), 0x7f80);
  EXPECT_EQ(bf16_from_float(-smallest), 0x8000);
}

// What kernels of any level store for half precision is what the plain code says, NaN included.
TEST(HalfEdges, LevelsStoreTheSameHalves) {
  std::mt19937 random(3);
  for (int repeat = 0; repeat < 500; ++repeat) {
    constexpr lowatt::Index dim = 64;
    float key[dim], value[dim];
    for (lowatt::Index c = 0; c < dim; ++c) {
      key[c] = __builtin_bit_cast(float, static_cast<std::uint32_t>(random()));
      // Exponents that half precision has, and those beside them.
      value[c] = __builtin_bit_cast(
          float, static_cast<std::uint32_t>((random() & 0x80ffffffu) + 0x32000000u +
                                            (random() % 24 << 23)));
    }
    const lowatt::View<const float> k(key, 1, 1, dim), v(value, 1, 1, dim);
    for (int i = 0; i < lowatt::level_count; ++i) {
      const auto level = static_cast<lowatt::Level>(i);
      if (!lowatt::level_is_available(level)) continue;
      lowatt::KvCache<lowatt::Softmax> cache({1, 1, dim, dim, 1}, {},
                                             {.precision = lowatt::Precision::f16}, level);
      cache.append(k, v);
      const auto* halves = reinterpret_cast<const std::uint16_t*>(cache.tiles(0, 0).tile(0) + 64);
      for (lowatt::Index c = 0; c < dim; ++c) {
        ASSERT_EQ(halves[c * 64], f16_from_float(key[c])) << lowatt::level_name(level);
        ASSERT_EQ(halves[dim * 64 + c], f16_from_float(value[c])) << lowatt::level_name(level);
      }
    }
  }
}

}  // namespace
