// What a call may add to LATTE's scores: bias, ALiBi and sinks against the reference.
#include <lowatt/latte/reference.hpp>

#include "support/float_check.hpp"
#include "support/threads.hpp"
#include "support/visible.hpp"

namespace {

using lowatt::Index;
using lowatt::Latte;
using lowatt::NibbleSplit;
using lowatt::Options;
using lowatt::Precision;
using lowatt::Softmax;
using test::Case;
using test::Inputs;
using test::StridedTensor;

// As many survivors as the reference has, exactly; outputs within what kernels promise.
class LatteScoreTerms : public testing::Test {
 protected:
  static constexpr float infinity = std::numeric_limits<float>::infinity();
  static constexpr float nan = std::numeric_limits<float>::quiet_NaN();

  // Returns how many pairs the first query head keeps.
  std::int64_t expect_near(const Latte& mechanism, const Case& c, Inputs& inputs, Options options) {
    const lowatt::View<const float> q = inputs.q.view(), k = inputs.k.view(), v = inputs.v.view();
    options.causal = c.causal;
    std::vector<lowatt::LatteCounts> counts(static_cast<std::size_t>(q.batch * q.heads));
    const lowatt::Status status =
        lowatt::latte_reference(mechanism, q, k, v, inputs.expected.view(), c.causal, counts.data(),
                                nullptr, options.score_terms());
    EXPECT_TRUE(status.ok()) << status.message;
    const double tolerance = mechanism.value_precision == Precision::fp32 ? 2e-5 : 2e-3;
    for (const lowatt::Level level : test::levels()) {
      options.level = level;
      std::vector<std::int64_t> kept(counts.size(), -1);
      options.kept = kept.data();
      inputs.out.for_each([](float& x) { x = -1e30f; });
      lowatt::attend(mechanism, q, k, v, inputs.out.view(), options);
      for (std::size_t h = 0; h < kept.size(); ++h)
        EXPECT_EQ(kept[h], counts[h].kept) << "head " << h << ", " << test::describe(level, c);
      test::expect_close(std::as_const(inputs.out).view(), std::as_const(inputs.expected).view(),
                         tolerance, test::describe(level, c));
      EXPECT_TRUE(inputs.out.gaps_are_untouched()) << test::describe(level, c);
    }
    return counts[0].kept;
  }
};

TEST_F(LatteScoreTerms, Sweep) {
  for (const Case& c : test::sweep(62)) {
    std::mt19937 random(c.seed);
    Inputs inputs(c);
    const Latte mechanism{.theta = random() % 4 == 0 ? 0.0 : 2.5,
                          .split = random() % 2 == 0 ? NibbleSplit::round : NibbleSplit::truncate,
                          .value_precision = random() % 2 == 0 ? Precision::int8 : Precision::fp32};
    Options options;
    StridedTensor bias(random() % 2 == 0 ? c.shape.batch : 1,
                       random() % 2 == 0 ? c.shape.query_heads : 1, c.shape.queries, c.shape.keys,
                       c.layout);
    bias.fill_normal(random, 2);
    if (random() % 2 == 0) options.bias = std::as_const(bias).view();
    const std::vector<float> slopes{0.5f, 0.03f, 0, -0.01f}, sinks{1, -3, 8, 0};
    if (random() % 2 == 0) options.alibi_slopes = slopes.data();
    if (random() % 2 == 0 || !options.score_terms().any()) options.sinks = sinks.data();
    expect_near(mechanism, c, inputs, options);
  }
}

TEST_F(LatteScoreTerms, GroupedHeadsInDecode) {
  const Case c{{2, 12, 2, 1, 333, 40, 24}};
  Inputs inputs(c);
  std::mt19937 random(3);
  StridedTensor bias(2, 12, 1, 333, test::Layout::padded);
  bias.fill_normal(random, 2);
  std::vector<float> slopes(12), sinks(12);
  for (std::size_t h = 0; h < 12; ++h) {
    slopes[h] = 0.01f * static_cast<float>(h);
    sinks[h] = static_cast<float>(h) - 6;
  }
  expect_near(
      {.theta = 1.5}, c, inputs,
      {.bias = std::as_const(bias).view(), .alibi_slopes = slopes.data(), .sinks = sinks.data()});
}

// What is added decides which keys survive: with slopes the near ones, whatever the products say.
TEST_F(LatteScoreTerms, SteepSlopesKeepTheNearestKey) {
  const Case c{{1, 1, 1, 40, 200, 32, 16}, true};
  Inputs inputs(c);
  const float slope = 1000;
  EXPECT_EQ(expect_near({.theta = 3.0}, c, inputs, {.alibi_slopes = &slope}), 40);
  const StridedTensor nothing(1, 1, 40, 200);
  EXPECT_EQ(expect_near({.theta = 3.0}, c, inputs, {.bias = nothing.view()}),
            expect_near({.theta = 3.0}, c, inputs, {}));
}

// The same bits for any number of threads, and within the bound of the reference, where keys are
// split.
TEST_F(LatteScoreTerms, SplitKeys) {
  const Case c{{1, 2, 1, 2, 9000, 32, 16}, true};
  Inputs inputs(c);
  std::mt19937 random(4);
  StridedTensor bias(1, 2, 2, 9000);
  bias.fill_normal(random, 2);
  const float slopes[] = {0.001f, 0.1f}, sinks[] = {5, 9};
  const Options options{.bias = std::as_const(bias).view(), .alibi_slopes = slopes, .sinks = sinks};
  expect_near({.theta = 4.0}, c, inputs, options);
  StridedTensor first(1, 2, 2, 16);
  for (const int count : {1, 2, 5}) {
    test::Threads threads{count};
    Options on_threads = options;
    on_threads.executor = threads;
    lowatt::attend(Latte{.theta = 4.0}, inputs.q.view(), inputs.k.view(), inputs.v.view(),
                   count == 1 ? first.view() : inputs.out.view(), on_threads);
    if (count > 1)
      test::expect_identical(std::as_const(inputs.out).view(), std::as_const(first).view(),
                             "threads");
  }
}

// Under every kind of mask a row gives what it gives alone on the keys that it sees. Biases and
// slopes are such that their sums are floats.
TEST_F(LatteScoreTerms, Masks) {
  constexpr Index queries = 30, keys = 210, words = 4;
  const Case c{{2, 2, 1, queries, keys, 24, 16}};
  Inputs inputs(c);
  std::mt19937 random(6);
  StridedTensor bias(1, 2, queries, keys);
  bias.for_each(
      [&](float& x) { x = static_cast<float>(static_cast<int>(random() % 65) - 32) / 8; });
  const float slopes[] = {0.0625f, 0.125f}, sinks[] = {1, 2};
  std::vector<std::uint8_t> booleans(queries * keys);
  for (std::uint8_t& x : booleans) x = random() % 3 == 0 ? 1 : 0;
  std::vector<std::uint64_t> bits(queries * words);
  for (std::uint64_t& word : bits)
    word = random() % 4 == 0 ? 0 : std::uint64_t{random()} << 32 | random();
  const Index lengths[] = {101, 3};
  const Options masks[] = {{.causal = true, .window_left = 70},
                           {.window_left = 10, .window_right = 90},
                           {.key_lengths = lengths},
                           {.mask = {booleans.data(), 1, 1, queries, keys}},
                           {.causal = true, .mask_bits = {bits.data(), 1, 1, queries, words}}};
  const Latte mechanism{.theta = 1.0};
  const lowatt::Calibration calibration =
      lowatt::calibrate(mechanism, inputs.q.view(), inputs.k.view(), inputs.v.view());
  for (Options options : masks) {
    options.bias = std::as_const(bias).view();
    options.alibi_slopes = slopes;
    options.sinks = sinks;
    std::vector<std::int64_t> expected_kept(4), kept(4);
    inputs.expected.for_each([](float& x) { x = 0; });
    for (Index b = 0; b < 2; ++b)
      for (Index h = 0; h < 2; ++h)
        for (Index i = 0; i < queries; ++i) {
          std::vector<float> seen_keys, seen_values, added;
          for (Index j = 0; j < keys; ++j) {
            if (!test::sees(options, queries, keys, b, h, i, j)) continue;
            const float *key = inputs.k.view().row(b, 0, j), *value = inputs.v.view().row(b, 0, j);
            seen_keys.insert(seen_keys.end(), key, key + 24);
            seen_values.insert(seen_values.end(), value, value + 16);
            added.push_back(
                static_cast<float>(options.score_terms().of_pair(b, h, i, j, queries, keys)));
          }
          const auto count = static_cast<Index>(added.size());
          if (count == 0) continue;
          lowatt::Calibration of_batch;
          of_batch.key_absmax = lowatt::Array<float>(1, calibration.key_absmax[b]);
          of_batch.value_absmax = lowatt::Array<float>(1, calibration.value_absmax[b]);
          lowatt::LatteCounts pairs{};
          using Rows = lowatt::View<const float>;
          const lowatt::Status status = lowatt::latte_reference(
              mechanism, Rows(inputs.q.view().row(b, h, i), 1, 1, 24),
              Rows(seen_keys.data(), 1, count, 24), Rows(seen_values.data(), 1, count, 16),
              lowatt::View<float>(inputs.expected.view().row(b, h, i), 1, 1, 16), false, &pairs,
              &of_batch, {.bias = Rows(added.data(), 1, 1, count), .sinks = sinks + h});
          ASSERT_TRUE(status.ok()) << status.message;
          expected_kept[static_cast<std::size_t>(b * 2 + h)] += pairs.kept;
        }
    for (const lowatt::Level level : test::levels()) {
      lowatt::KvCache<Latte> cache({2, 1, 24, 16, keys}, calibration, mechanism, level);
      // In chunks, as any.
      for (const auto& [first, count] : {std::pair<Index, Index>{0, 100}, {100, 110}}) {
        lowatt::View<const float> k = inputs.k.view(), v = inputs.v.view();
        k.data += first * k.token_stride;
        v.data += first * v.token_stride;
        k.tokens = v.tokens = count;
        cache.append(k, v);
      }
      options.level = level;
      options.kept = kept.data();
      lowatt::attend(inputs.q.view(), cache, inputs.out.view(), options);
      EXPECT_EQ(kept, expected_kept) << lowatt::level_name(level);
      test::expect_close(std::as_const(inputs.out).view(), std::as_const(inputs.expected).view(),
                         2e-3, lowatt::level_name(level));
    }
  }
}

// NaN and infinities of hidden keys are nothing to anybody; those of visible keys have no say in
// rows of others.
TEST_F(LatteScoreTerms, NonFiniteBiases) {
  const Case c{{1, 1, 1, 20, 150, 16, 8}, true};
  Inputs inputs(c);
  StridedTensor bias(1, 1, 20, 150);
  std::mt19937 random(5);
  bias.fill_normal(random);
  const lowatt::View<float> view = bias.view();
  for (Index i = 0; i < 20; ++i)
    for (Index j = i + 131; j < 150; ++j) view.row(0, 0, i)[j] = i % 2 == 0 ? nan : infinity;
  expect_near({.theta = 2.0}, c, inputs, {.bias = std::as_const(bias).view()});
  inputs.out.for_each([](float& x) { EXPECT_TRUE(std::isfinite(x)); });

  view.row(0, 0, 3)[17] = nan;
  view.row(0, 0, 5)[18] = infinity;
  for (Index j = 0; j < 100; ++j) view.row(0, 0, 8)[j] = -infinity;
  for (Index j = 0; j < 150; ++j) view.row(0, 0, 11)[j] = -infinity;
  expect_near({.theta = 2.0}, c, inputs, {.bias = std::as_const(bias).view()});
  for (Index i = 0; i < 20; ++i)
    EXPECT_EQ(std::isfinite(inputs.out.view().row(0, 0, i)[0]), i != 3 && i != 5 && i != 11) << i;
  // With a sink to take the weight, nothing is left of a row without any.
  const float sink = 1;
  expect_near({.theta = 2.0}, c, inputs, {.bias = std::as_const(bias).view(), .sinks = &sink});
  EXPECT_EQ(inputs.out.view().row(0, 0, 11)[0], 0);
}

// Weights move from key to key by more than an integer step can say, and where there are no scores
// at all.
TEST_F(LatteScoreTerms, ExtremeBiasesAndScales) {
  const Case c{{1, 2, 1, 5, 70, 16, 8}};
  std::mt19937 random(7);
  StridedTensor bias(1, 1, 5, 70);
  for (const float deviation : {1e-30f, 1e3f, 1e30f, 1e38f}) {
    bias.fill_normal(random, deviation);
    for (const double scale : {1e-300, 1e-30, 1.0, 1e30}) {
      Inputs inputs(c);
      expect_near({.scale = scale, .theta = 1.0}, c, inputs, {.bias = std::as_const(bias).view()});
    }
  }
  bias.fill_normal(random);
  test::for_zeroed_tensors(c, [&](Inputs& inputs, int zeroed) {
    const std::int64_t kept =
        expect_near({.theta = 0.0}, c, inputs, {.bias = std::as_const(bias).view()});
    if ((zeroed & 3) != 0) {
      EXPECT_EQ(kept, 5 * 70) << "no scores, yet keys were dropped";
    }
  });
}

// Low scores of 32 bits at their largest, with steps at theirs.
TEST_F(LatteScoreTerms, OverflowEdge) {
  for (const Index d : {274, int{lowatt::latte_most_head_dim}}) {
    const Case c{{1, 1, 1, 2, 66, d, 8}};
    Inputs inputs(c);
    inputs.q.for_each([](float& x) { x = -1; });
    inputs.k.for_each([n = 0, d](float& x) mutable { x = n++ / d % 2 == 0 ? 1.0f : -1.0f; });
    StridedTensor bias(1, 1, 2, 66);
    bias.for_each([n = 0](float& x) mutable { x = n++ % 3 == 0 ? -1e30f : 1e30f; });
    expect_near({.theta = 1.0}, c, inputs, {.bias = std::as_const(bias).view()});
    expect_near({.theta = 1e300}, c, inputs, {.bias = std::as_const(bias).view()});
  }
}

// Thresholds are chosen by products alone: a bias changes what survives, not the calibration.
TEST_F(LatteScoreTerms, CalibrationLeavesThemOut) {
  const Case c{{1, 2, 1, 50, 300, 32, 16}, true};
  Inputs inputs(c);
  const float slopes[] = {0.1f, 0.3f};
  const Latte mechanism{.filtered = 0.8};
  const lowatt::Calibration plain = lowatt::calibrate(mechanism, inputs.q.view(), inputs.k.view(),
                                                      inputs.v.view(), {.causal = true});
  const lowatt::Calibration with =
      lowatt::calibrate(mechanism, inputs.q.view(), inputs.k.view(), inputs.v.view(),
                        {.causal = true, .alibi_slopes = slopes});
  for (Index h = 0; h < 2; ++h) EXPECT_EQ(plain.theta[h], with.theta[h]);
}

// The logarithm that is reported has what was added in it, but for the sink.
TEST_F(LatteScoreTerms, LogSumExp) {
  const Case c{{1, 1, 1, 3, 130, 16, 8}};
  Inputs inputs(c);
  std::mt19937 random(8);
  StridedTensor bias(1, 1, 3, 130);
  bias.fill_normal(random, 2);
  const float sink = 4;
  std::vector<float> latte(3), softmax(3);
  for (const lowatt::Level level : test::levels()) {
    Options options{.bias = std::as_const(bias).view(), .sinks = &sink, .level = level};
    options.log_sum_exp = latte.data();
    lowatt::attend(Latte{.theta = 1e6}, inputs.q.view(), inputs.k.view(), inputs.v.view(),
                   inputs.out.view(), options);
    options.log_sum_exp = softmax.data();
    lowatt::attend(Softmax{.precision = Precision::int8}, inputs.q.view(), inputs.k.view(),
                   inputs.v.view(), inputs.out.view(), options);
    for (std::size_t i = 0; i < 3; ++i) EXPECT_NEAR(latte[i], softmax[i], 1e-4f);
  }
}

}  // namespace
