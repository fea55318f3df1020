// Bitformer against its reference, bit for bit.
#include <cmath>
#include <lowatt/attention/bitformer.hpp>
#include <lowatt/bitformer/reference.hpp>
#include <lowatt/simd/write_row.hpp>

#include "support/float_check.hpp"

namespace {

using lowatt::BitEncoding;
using lowatt::Bitformer;
using lowatt::Index;
using lowatt::Status;
using lowatt::StatusCode;
using test::Case;
using test::Inputs;

// Runs one case at every level and compares with the reference. Temperatures are calibrated once:
// the reference's own may differ in their last bits.
void expect_exact(const Bitformer& mechanism, const Case& c, Inputs& inputs) {
  const lowatt::View<const float> q = inputs.q.view(), k = inputs.k.view(), v = inputs.v.view();
  const lowatt::Calibration calibration =
      lowatt::calibrate(mechanism, q, k, v, {.causal = c.causal});
  const Status reference = lowatt::bitformer_reference(mechanism, q, k, v, inputs.expected.view(),
                                                       c.causal, nullptr, &calibration);
  ASSERT_TRUE(reference.ok()) << reference.message;
  for (const lowatt::Level level : test::levels()) {
    inputs.out.for_each([](float& x) { x = -1e30f; });
    lowatt::attend(mechanism, q, k, v, inputs.out.view(), {.causal = c.causal, .level = level});
    const std::string what =
        std::to_string(mechanism.planes) + " planes, " + test::describe(level, c);
    test::expect_identical(std::as_const(inputs.out).view(), std::as_const(inputs.expected).view(),
                           what);
    EXPECT_TRUE(inputs.out.gaps_are_untouched()) << what;
  }
}

void expect_exact(const Bitformer& mechanism, const Case& c) {
  Inputs inputs(c);
  expect_exact(mechanism, c, inputs);
}

TEST(Bitformer, SweepSign) {
  for (const Case& c : test::sweep(21)) expect_exact({}, c);
}

TEST(Bitformer, SweepSignCentered) {
  for (const Case& c : test::sweep(22)) {
    Inputs inputs(c);
    inputs.k.for_each([](float& x) { x += 0.5f; });
    expect_exact({.center_keys = true, .temperature = 0.02}, c, inputs);
  }
}

TEST(Bitformer, SweepThermometer) {
  int count = 0;
  for (const Case& c : test::sweep(23)) {
    constexpr int planes[] = {1, 2, 3, 4, 7, 8, 63, 64};
    Bitformer mechanism{.planes = planes[count % 8], .encoding = BitEncoding::thermometer};
    mechanism.center_keys = count % 2 == 0;
    if (count % 3 != 0) mechanism.clip = 1.5;
    mechanism.temperature = 0.3 / mechanism.planes / (count % 5 + 1);
    expect_exact(mechanism, c);
    ++count;
  }
}

TEST(Bitformer, CalibratedTemperature) {
  for (const Index d : {8, 40, 64}) {
    expect_exact({.planes = 4}, {{1, 4, 2, 33, 70, d, 24}});
    expect_exact({.planes = 4, .center_keys = true}, {{2, 2, 2, 70, 33, d, 24}, true});
    expect_exact({.calibrate_temperature = true}, {{1, 2, 1, 65, 65, d, 24}, true});
  }
}

// Queries of 9 and -9, and keys that differ from the first of them in so many channels, whatever
// the planes, as flipped(token) says.
template <class Flipped>
void set_distances(Inputs& inputs, Flipped&& flipped) {
  inputs.q.for_each([](float& x) { x = x < 0 ? -9.0f : 9.0f; });
  const auto keys = inputs.k.view();
  for (Index t = 0; t < keys.tokens; ++t)
    for (Index i = 0; i < keys.dim; ++i) {
      const float query = inputs.q.view().row(0, 0, 0)[i];
      keys.row(0, 0, t)[i] = i < flipped(t) ? -query : query;
    }
}

// Every distance from none to all bits, where its width in memory changes.
TEST(Bitformer, WidthOfDistances) {
  constexpr struct {
    int planes;
    Index head_dim;
  } widths[] = {{1, 247},   {1, 248},  {1, 249},  {1, 255},  {1, 256},  {1, 257},   {4, 62},
                {4, 63},    {4, 64},   {8, 31},   {8, 32},   {5, 51},   {1, 511},   {1, 512},
                {1, 513},   {4, 128},  {64, 8},   {64, 3},   {64, 4},   {64, 5},    {64, 1023},
                {64, 1024}, {7, 9362}, {7, 9363}, {8, 8191}, {8, 8192}, {63, 1040}, {63, 1041}};
  for (const auto& width : widths) {
    const Case c{{1, 1, 1, 18, 131, width.head_dim, 20}};
    Inputs inputs(c);
    set_distances(inputs, [&](Index t) { return width.head_dim * (130 - t) / 130; });
    for (const double temperature : {0.0, 1e-6, 1e-3, 0.0122, 0.0123, 0.3, 1e300})
      expect_exact({.planes = width.planes, .clip = 1.0, .temperature = temperature}, c, inputs);
  }
}

// The nearest key on both sides of what a byte counts, and of what it counts less a table.
TEST(Bitformer, DistancesThatBytesCut) {
  constexpr struct {
    int planes;
    Index head_dim;
  } widths[] = {{1, 256}, {4, 64}, {2, 128}, {64, 4}, {1, 257}};
  for (const auto& width : widths)
    for (const Index nearest : {0, 192, 250, 253, 254, 255, 256})
      for (const bool is_causal : {false, true})
        for (const Index rows : {3, 18, 64}) {
          const Case c{{1, 1, 1, rows, 131, width.head_dim, 20}, is_causal};
          Inputs inputs(c);
          const Index first = (nearest + width.planes - 1) / width.planes;
          if (first > width.head_dim) continue;
          // The first query's distances; those of others are about half of all bits.
          set_distances(inputs, [&](Index t) {
            return first + (t * 37 + 5) % 131 * (width.head_dim - first) / 131;
          });
          for (const int entries : {1, 62, 200, 300})
            expect_exact({.planes = width.planes,
                          .clip = 1.0,
                          .temperature = std::log(510.0) / 2 / (entries - 0.5)},
                         c, inputs);
        }
}

// Likewise where keys are split: the nearest one is in the last part.
TEST(Bitformer, DistancesThatBytesCutInParts) {
  constexpr Index part = lowatt::KeySplit::part_tiles * lowatt::tile_keys, keys = 2 * part + 70;
  for (const Index rows : {1, 7})
    for (const Index nearest : {100, 240, 254, 255, 256}) {
      const Case c{{1, 1, 1, rows, keys, 256, 20}, rows > 1};
      Inputs inputs(c);
      set_distances(inputs, [&](Index t) { return t == keys - 9 ? nearest : 255 + t % 2; });
      for (const int entries : {20, 62, 200})
        expect_exact({.temperature = std::log(510.0) / 2 / (entries - 0.5)}, c, inputs);
    }
}

// Sums of 32 bits end between 66311 and 66312 keys of the largest value at the largest weight.
TEST(Bitformer, ManyKeys) {
  for (const Index keys : {65535, 65536, 65537, 66311, 66312, 131072, 131073, 140000}) {
    const Case c{{1, 1, 1, 2, keys, 8, 20}, true};
    Inputs inputs(c);
    inputs.v.for_each([](float& x) { x = 1; });
    for (Index t = 0; t < keys; ++t) inputs.v.view().row(0, 0, t)[1] = -1;
    expect_exact({.temperature = 0.0}, c, inputs);
    expect_exact({.planes = 40, .clip = 1.0, .temperature = 0.002}, c, inputs);
  }
}

// With few rows keys are split; with 33 they are not, and a block's sums move to 64 bits.
TEST(Bitformer, ManyKeysOfManyRows) {
  for (const Index keys : {66312, 131073}) {
    const Case c{{1, 1, 1, 33, keys, 8, 20}, true};
    Inputs inputs(c);
    inputs.v.for_each([](float& x) { x = 1; });
    expect_exact({.temperature = 0.0}, c, inputs);
  }
}

// Blocks with every remainder of rows, and widths on both sides of what a level does differently.
TEST(Bitformer, BlocksOfRows) {
  constexpr struct {
    int planes;
    Index head_dim;
  } widths[] = {{1, 64},  {1, 128}, {4, 64},  {3, 85}, {1, 257},
                {2, 128}, {4, 128}, {5, 104}, {9, 72}};
  constexpr Index value_dims[] = {16, 64, 80, 33, 128};
  unsigned seed = 0;
  for (const Index rows : {1, 2, 3, 5, 6, 7, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65})
    for (const auto& width : widths) {
      const Index value_dim = value_dims[seed % 5], keys = seed % 2 == 0 ? 321 : 576;
      expect_exact({.planes = width.planes, .clip = 1.0, .temperature = 0.2 / width.planes},
                   {{1, 1, 1, rows, keys, width.head_dim, value_dim},
                    seed % 3 == 0,
                    test::Layout::contiguous,
                    seed});
      ++seed;
    }
}

TEST(Bitformer, ManyBits) {
  for (const Index head_dim : {127, 128, 129})
    expect_exact({.planes = 64, .clip = 2.0, .temperature = 0.002},
                 {{1, 1, 1, 33, 200, head_dim, 24}});
}

// Tables that end beside the sizes that lookups are made for.
TEST(Bitformer, LengthsOfTables) {
  for (const Index entries : {1, 2, 62, 63, 64, 65, 127, 128, 129, 254, 255, 256, 257, 511, 700})
    for (const int planes : {1, 12}) {
      const double temperature = std::log(510.0) / 2 / (static_cast<double>(entries) - 0.5);
      expect_exact({.planes = planes, .clip = 2.0, .temperature = temperature},
                   {{1, 1, 1, 19, 150, 64, 24}});
    }
}

TEST(Bitformer, Masks) {
  for (const bool spoil_values : {false, true})
    for (const int planes : {1, 3, 5})
      test::expect_masks_hide(
          Bitformer{.planes = planes, .clip = 1.0, .temperature = 0.2 / planes},
          [](const Bitformer& mechanism, auto q, auto k, auto v, auto out, bool causal,
             const lowatt::Calibration* calibration) {
            return lowatt::bitformer_reference(mechanism, q, k, v, out, causal, nullptr,
                                               calibration);
          },
          spoil_values, [](lowatt::Level) { return 0.0; });
}

// Division by way of the reciprocal, where quotients are as near to a tie as they can be.
TEST(Bitformer, Quotient) {
  std::mt19937_64 random(3);
  const auto check = [](double a, double divisor) {
    const auto fused = [](double x, double y, double z) { return std::fma(x, y, z); };
    ASSERT_EQ(lowatt::fused_quotient(a, divisor, 1.0 / divisor, fused), a / divisor)
        << a << " / " << divisor;
  };
  for (int i = 0; i < 2'000'000; ++i) {
    const int bits = 1 + i % 49;
    const double divisor = static_cast<double>((random() >> (64 - bits)) | 1);
    const double a = std::ldexp(static_cast<double>(static_cast<std::int64_t>(random() >> 11)),
                                static_cast<int>(random() % 300) - 200);
    check(a, divisor);
    check(-a, divisor);
    // Beside half-way between two doubles, times the divisor.
    const double quotient = 1.0 + std::ldexp(static_cast<double>(random() >> 12), -52);
    const double half = std::nextafter(quotient, 2.0) - quotient;
    const double near = std::fma(divisor, quotient, divisor * half / 2);
    for (const double b : {near, std::nextafter(near, 0.0), std::nextafter(near, 1e300)}) {
      check(b, divisor);
      check(b * 0x1p-149, divisor);
    }
  }
  check(0.0, 3.0);
  check(0.0, 1.0);
}

// Scales times integers over integers, in floats where that is said to be certain. Some results lie
// half-way between two floats.
TEST(Bitformer, ProductBounds) {
  std::mt19937_64 random(5);
  const auto fused = [](float x, float y, float z) { return std::fma(x, y, z); };
  int certain = 0, half_way = 0;
  constexpr int count = 4'000'000;
  for (int i = 0; i < count; ++i) {
    const int bits = 1 + i % 17;
    const auto divisor = static_cast<double>((random() >> (64 - bits)) + 1);
    const double largest = std::min(127 * divisor, 0x1p24);
    const double sum = std::trunc(std::ldexp(static_cast<double>(random() >> 11), -53) * largest);
    const float scale =
        std::ldexp(static_cast<float>(random() >> 40), static_cast<int>(random() % 60) - 40);
    const double exact = static_cast<double>(scale) * sum / divisor;
    const auto expected = static_cast<float>(exact);
    const float other =
        std::nextafter(expected, exact > static_cast<double>(expected) ? 3e38f : 0.0f);
    half_way += (static_cast<double>(expected) + static_cast<double>(other)) / 2 == exact;
    const lowatt::FloatPair factor(static_cast<double>(scale) / divisor);
    const auto product = lowatt::product_bounds(static_cast<float>(sum), factor.high, -factor.high,
                                                -factor.low, fused);
    if (product.nearer != product.farther) continue;
    ++certain;
    ASSERT_EQ(product.nearer, expected) << scale << " * " << sum << " / " << divisor;
  }
  EXPECT_GT(half_way, count / 1000);
  EXPECT_GT(certain, count / 10 * 9);
}

TEST(Bitformer, EqualScores) {
  const Case c{{1, 2, 1, 5, 130, 64, 8}};
  Inputs inputs(c);
  inputs.k.for_each([](float& x) { x = 1; });
  expect_exact({}, c, inputs);
  expect_exact({.planes = 3}, c, inputs);  // nothing to calibrate from: temperature 0
}

TEST(Bitformer, AllZeroTensors) {
  const Case c{{1, 2, 1, 3, 5, 8, 8}};
  test::for_zeroed_tensors(c, [&](Inputs& inputs, int) {
    expect_exact({}, c, inputs);
    expect_exact({.planes = 2, .center_keys = true}, c, inputs);
  });
}

// Zeros of both signs reach a threshold of 0; NaN reaches none; infinities reach all or none.
TEST(Bitformer, SpecialInputs) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  constexpr float specials[] = {nan,   -nan,   infinity, -infinity, 0.0f,
                                -0.0f, 1e-42f, -1e-42f,  3e38f,     -3e38f};
  const Case c{{1, 1, 1, 35, 90, 37, 16}, true};
  Inputs inputs(c);
  std::mt19937 random(5);
  const auto spoil = [&](float& x) {
    if (random() % 4 == 0) x = specials[random() % std::size(specials)];
  };
  inputs.q.for_each(spoil);
  inputs.k.for_each(spoil);
  inputs.v.for_each(spoil);
  for (const bool center : {false, true}) {
    expect_exact({.center_keys = center, .temperature = 0.05}, c, inputs);
    expect_exact({.planes = 3, .center_keys = center, .clip = 0.0, .temperature = 0.05}, c, inputs);
    expect_exact({.planes = 7, .center_keys = center, .temperature = 0.05}, c, inputs);
  }
}

// Temperatures beside those of the reference, which sums in another order.
TEST(Bitformer, TemperaturesAgree) {
  const Case c{{1, 4, 2, 50, 81, 40, 16}, true};
  Inputs inputs(c);
  for (const Bitformer& mechanism :
       {Bitformer{}, Bitformer{.center_keys = true}, Bitformer{.planes = 4},
        Bitformer{.scale = 0.7, .center_keys = true, .calibrate_temperature = true}}) {
    const lowatt::Calibration calibration = lowatt::calibrate(
        mechanism, inputs.q.view(), inputs.k.view(), inputs.v.view(), {.causal = true});
    std::vector<double> expected(4);
    ASSERT_TRUE(lowatt::bitformer_reference<float>(mechanism, inputs.q.view(), inputs.k.view(),
                                                   inputs.v.view(), inputs.expected.view(), true,
                                                   expected.data())
                    .ok());
    ASSERT_EQ(calibration.temperature.size(), 4);
    for (Index h = 0; h < 4; ++h)
      EXPECT_NEAR(calibration.temperature[h] / expected[static_cast<std::size_t>(h)], 1.0, 1e-9);
  }
}

// Clip and temperature come from the parameters where those give them, else from the Calibration.
TEST(Bitformer, CalibrationOrParameters) {
  const Case c{{1, 2, 1, 7, 66, 24, 8}};
  Inputs inputs(c);
  const lowatt::CacheShape shape{1, 1, 24, 8, 66};
  lowatt::Calibration calibration;
  calibration.value_absmax = lowatt::absmax_per_head(std::as_const(inputs.v).view());
  const Bitformer given{.planes = 3, .clip = 1.25, .temperature = 0.04};
  const auto run = [&](const Bitformer& mechanism) {
    lowatt::KvCache<Bitformer> cache(shape, calibration, mechanism);
    cache.append(inputs.k.view(), inputs.v.view());
    lowatt::attend(inputs.q.view(), cache, inputs.out.view());
  };
  lowatt::attend(given, inputs.q.view(), inputs.k.view(), inputs.v.view(), inputs.expected.view());
  run(given);
  test::expect_identical(inputs.out.view(), inputs.expected.view(), "parameters alone");
  calibration.clip = lowatt::Array<float>(1, 1.25f);
  calibration.temperature = lowatt::Array<double>(2, 0.04);
  run({.planes = 3});
  test::expect_identical(inputs.out.view(), inputs.expected.view(), "calibration alone");
  calibration.clip = lowatt::Array<float>(1, 9.0f);
  calibration.temperature = lowatt::Array<double>(2, 9.0);
  run(given);
  test::expect_identical(inputs.out.view(), inputs.expected.view(), "parameters first");
  ASSERT_TRUE(lowatt::bitformer_reference<float>(given, inputs.q.view(), inputs.k.view(),
                                                 inputs.v.view(), inputs.out.view(), false, nullptr,
                                                 &calibration)
                  .ok());
  test::expect_identical(inputs.out.view(), inputs.expected.view(), "likewise in the reference");
}

class BitformerRefusal : public testing::Test {
 protected:
  void expect(const Bitformer& mechanism, StatusCode code, const char* sentence) {
    Inputs inputs(Case{{1, 2, 1, 3, 5, 8, 8}});
    const Status status = lowatt::try_attend(mechanism, inputs.q.view(), inputs.k.view(),
                                             inputs.v.view(), inputs.out.view());
    EXPECT_EQ(status.code, code);
    EXPECT_STREQ(status.message, sentence);
  }
  void expect_cache(const Bitformer& mechanism, const lowatt::Calibration& calibration,
                    const char* sentence) {
    lowatt::KvCache<Bitformer> cache;
    const Status status =
        lowatt::KvCache<Bitformer>::try_create(cache, {1, 2, 8, 8, 64}, calibration, mechanism);
    EXPECT_EQ(status.code, StatusCode::invalid_argument);
    EXPECT_STREQ(status.message, sentence);
  }
  static constexpr double nan = std::numeric_limits<double>::quiet_NaN();
};

TEST_F(BitformerRefusal, Parameters) {
  constexpr auto invalid = StatusCode::invalid_argument;
  expect({.scale = nan}, invalid, "scale is nan; it must be finite and positive");
  expect({.planes = 0}, invalid, "planes is 0; it must be from 1 to 64");
  expect({.planes = 65}, invalid, "planes is 65; it must be from 1 to 64");
  expect({.planes = 2, .encoding = BitEncoding::sign}, invalid,
         "planes is 2; sign encoding has one plane");
  expect({.planes = 2, .clip = -1.0}, invalid,
         "clip is -1; it must be not negative and finite in float32");
  expect({.planes = 2, .clip = 1e39}, invalid,
         "clip is 1e+39; it must be not negative and finite in float32");
  expect({.temperature = -0.5}, invalid, "temperature is -0.5; it must be finite and not negative");
  expect({.temperature = nan}, invalid, "temperature is nan; it must be finite and not negative");
}

TEST_F(BitformerRefusal, HeadDim) {
  lowatt::Plan<Bitformer> plan;
  const Status status =
      lowatt::try_plan(plan, Bitformer{.planes = 64}, {1, 1, 1, 1, 1, Index{1} << 26, 8});
  EXPECT_EQ(status.code, StatusCode::invalid_shape);
  EXPECT_STREQ(status.message,
               "head_dim is 67108864; distances over 64 planes of it need more than 32 bits");
}

TEST_F(BitformerRefusal, Calibrations) {
  const Bitformer mechanism{.planes = 2, .center_keys = true};
  lowatt::Calibration calibration;
  expect_cache(mechanism, calibration, "calibration.value_absmax has 0 entries; 2 are needed");
  calibration.value_absmax = lowatt::Array<float>(2, 1.0f);
  expect_cache(mechanism, calibration, "calibration.key_mean has 0 entries; 16 are needed");
  calibration.key_mean = lowatt::Array<float>(16, 1.0f);
  calibration.key_mean[3] = static_cast<float>(nan);
  expect_cache(mechanism, calibration, "calibration.key_mean[3] is nan; it must be finite");
  calibration.key_mean[3] = 0;
  expect_cache(mechanism, calibration, "calibration.clip has 0 entries; 2 are needed");
  calibration.clip = lowatt::Array<float>(2, -1.0f);
  expect_cache(mechanism, calibration,
               "calibration.clip[0] is -1; it must be finite and not negative");
  calibration.clip = lowatt::Array<float>(2, 1.0f);
  expect_cache(mechanism, calibration,
               "calibration.temperature has 0 entries; one per query head is needed, a multiple of "
               "batch * kv_heads = 2");
  calibration.temperature = lowatt::Array<double>(4, nan);
  expect_cache(mechanism, calibration,
               "calibration.temperature[0] is nan; it must be finite and not negative");
  calibration.temperature = lowatt::Array<double>(4, 0.5);
  lowatt::KvCache<Bitformer> cache({1, 2, 8, 8, 64}, calibration, mechanism);
  Inputs inputs(Case{{1, 2, 2, 3, 5, 8, 8}});
  cache.append(inputs.k.view(), inputs.v.view());
  const Status status = lowatt::try_attend(inputs.q.view(), cache, inputs.out.view());
  EXPECT_STREQ(status.message,
               "q.batch * q.heads is 2 but the number of entries of calibration.temperature is 4");
}

}  // namespace
